//! Route reflection: we reflect between two of theirs, and one of theirs reflects to us.

use anyhow::{Result, ensure};
use ferrovia::net::Family;

use crate::describe::{Kind, Originated, Router};
use crate::lab::Lab;
use crate::pair::{OUR_AS, address, router, session, us};

scenarios! {
    we_reflect ["reflection, ours"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    they_reflect ["reflection, theirs"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
}

const PREFIX: &str = "192.0.2.0/24";

/// Number `n` with a session to the reflector, who is number `hub`.
fn client(n: u8, hub: u8) -> Router {
    let mut router = router(OUR_AS, n);
    router.sessions.push(session(Family::V4, (n, OUR_AS), (hub, OUR_AS)));
    router
}

/// Number `n`, a reflector of two clients.
fn hub(n: u8, clients: [u8; 2]) -> Router {
    let mut router = router(OUR_AS, n);
    for client in clients {
        let mut session = session(Family::V4, (n, OUR_AS), (client, OUR_AS));
        (session.client, session.passive) = (true, true);
        router.sessions.push(session);
    }
    router
}

fn we_reflect(kind: Kind) -> Result<()> {
    let lab = Lab::new(&["us", "source", "sink"])?;
    let mut from = client(2, 1);
    let mut route = Originated::via(PREFIX, "10.77.0.12");
    route.local_pref = Some(120);
    from.routes.push(route);
    let mut us = lab.start("us", us(), hub(1, [2, 3]))?;
    let mut source = lab.start("source", kind, from)?;
    let mut sink = lab.start("sink", kind, client(3, 1))?;
    us.up(0)?;
    us.up(1)?;
    source.up(0)?;
    sink.up(0)?;
    let route = sink.one(PREFIX)?;
    ensure!(route.originator == Some(address(Family::V4, 2)), "{route:?}");
    ensure!(route.clusters == [address(Family::V4, 1)], "{route:?}");
    ensure!(route.next_hop == Some("10.77.0.12".parse()?) && route.local_pref == Some(120), "{route:?}");
    // It does not come back to whoever told it.
    source.none(PREFIX)?;
    source.kill()?;
    sink.none(PREFIX)
}

fn they_reflect(kind: Kind) -> Result<()> {
    let lab = Lab::new(&["us", "hub", "source"])?;
    let mut from = client(3, 2);
    from.routes.push(Originated::via(PREFIX, "10.77.0.12"));
    let mut middle = lab.start("hub", kind, hub(2, [1, 3]))?;
    let mut ours = client(1, 2);
    ours.routes.push(Originated::new("198.51.100.0/24"));
    let mut us = lab.start("us", us(), ours)?;
    let mut source = lab.start("source", kind, from)?;
    middle.up(0)?;
    middle.up(1)?;
    us.up(0)?;
    source.up(0)?;
    let route = us.one(PREFIX)?;
    ensure!(route.originator == Some(address(Family::V4, 3)), "{route:?}");
    ensure!(route.clusters == [address(Family::V4, 2)], "{route:?}");
    let back = source.one("198.51.100.0/24")?;
    ensure!(back.originator == Some(address(Family::V4, 1)), "{back:?}");
    ensure!(back.next_hop == Some(address(Family::V4, 1)), "{back:?}");
    Ok(())
}
