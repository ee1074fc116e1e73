//! Several paths, asking again, long messages.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ferrovia::testing::lab::wait;

use crate::describe::{Kind, Originated, Route};
use crate::lab::{Running, SOON};
use crate::pair::Pair;
use crate::peers::gobgp::gobgp;
use crate::peers::{bird, frr};
use crate::wire::{OPEN, REFRESH, UPDATE, capabilities};

scenarios! {
    we_send_paths ["ADD-PATH, sent"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    they_send_paths ["ADD-PATH, received"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    we_ask_again ["route refresh, asked"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    they_ask_again ["route refresh, answered"] Bird1 Bird2 Frr;
    marked_refresh ["enhanced route refresh"] Bird1 Bird2 Frr;
    long_messages ["extended messages"] Bird2 Frr Gobgp4;
    too_long ["a route too long for the peer"] Bird1 Gobgp3;
}

const PREFIX: &str = "192.0.2.0/24";

fn hops(routes: &[Route]) -> Vec<IpAddr> {
    let mut hops: Vec<IpAddr> = routes.iter().filter_map(|route| route.next_hop).collect();
    hops.sort();
    hops
}

fn two_paths() -> [Originated; 2] {
    [Originated::via(PREFIX, "10.77.0.11"), Originated::via(PREFIX, "10.77.0.12")]
}

fn we_send_paths(kind: Kind) -> Result<()> {
    let pair = Pair::new(kind).ours(|s| s.add_path_send = true).theirs(|s| s.add_path_receive = true);
    let mut two = pair.we_announce(two_paths()).up()?;
    let both: Vec<IpAddr> = vec!["10.77.0.11".parse()?, "10.77.0.12".parse()?];
    two.them.learns(PREFIX, |routes| hops(routes) == both)?;
    // One of them goes, as when a node is drained, and comes back.
    two.us.withdraw(PREFIX, Some("10.77.0.12"))?;
    two.them.learns(PREFIX, |routes| hops(routes) == both[..1])?;
    two.us.announce(Originated::via(PREFIX, "10.77.0.12"))?;
    two.them.learns(PREFIX, |routes| hops(routes) == both)?;
    two.us.withdraw(PREFIX, Some("10.77.0.11"))?;
    two.us.withdraw(PREFIX, Some("10.77.0.12"))?;
    two.them.none(PREFIX)
}

fn they_send_paths(kind: Kind) -> Result<()> {
    let pair = Pair::new(kind).ours(|s| s.add_path_receive = true).theirs(|s| s.add_path_send = true);
    let two = pair.they_announce(two_paths()).up()?;
    let both: Vec<IpAddr> = vec!["10.77.0.11".parse()?, "10.77.0.12".parse()?];
    let routes = two.us.learns(PREFIX, |routes| hops(routes) == both)?;
    ensure!(routes.iter().filter(|route| route.best).count() == 1, "{routes:?}");
    let open = two.wire.seen("our OPEN", "10.77.0.1", OPEN, |_| true)?;
    ensure!(capabilities(&open).contains(&(69, vec![0, 1, 1, 1])), "{:?}", capabilities(&open));
    Ok(())
}

/// Asks the remote of session 0 for its routes again, as an operator does.
fn ask(running: &Running) -> Result<()> {
    let remote = running.router.sessions[0].remote.to_string();
    match running.kind {
        Kind::Bird1 | Kind::Bird2 => bird::birdc(running, "reload in peer0").map(drop),
        Kind::Frr => frr::vtysh(running, &[&format!("clear bgp ipv4 unicast {remote} soft in")]).map(drop),
        _ => gobgp(running, &["neighbor", &remote, "softresetin"]).map(drop),
    }
}

fn we_ask_again(kind: Kind) -> Result<()> {
    let mut pair = Pair::new(kind).they_announce([Originated::new(PREFIX)]);
    if kind == Kind::Frr {
        // Where marks are known it answers nobody before it sent an End-of-RIB, and without this it sends none.
        pair = pair.both(|session| session.graceful = Some(30));
    }
    let two = pair.up()?;
    two.us.one(PREFIX)?;
    if kind == Kind::Frr {
        two.wire.seen("their End-of-RIB", "10.77.0.2", UPDATE, |sent| sent.body() == [0; 4])?;
    }
    let before = two.wire.from("10.77.0.2", UPDATE)?.len();
    let epoch = two.us.state(0)?.epoch;
    ask(&two.us)?;
    two.wire.seen("our ROUTE-REFRESH", "10.77.0.1", REFRESH, |sent| sent.body() == [0, 1, 0, 1])?;
    wait::until_true("their answer", SOON, || Ok(two.wire.from("10.77.0.2", UPDATE)?.len() > before))?;
    two.us.one(PREFIX)?;
    ensure!(two.us.state(0)?.epoch == epoch, "the session flapped");
    Ok(())
}

fn they_ask_again(kind: Kind) -> Result<()> {
    let two = Pair::new(kind).we_announce([Originated::new(PREFIX)]).up()?;
    two.them.one(PREFIX)?;
    let before = two.wire.from("10.77.0.1", UPDATE)?.len();
    ask(&two.them)?;
    two.wire.seen("their ROUTE-REFRESH", "10.77.0.2", REFRESH, |sent| sent.body() == [0, 1, 0, 1])?;
    wait::until_true("our answer", SOON, || Ok(two.wire.from("10.77.0.1", UPDATE)?.len() > before))?;
    two.them.one(PREFIX).map(drop)
}

fn marked_refresh(kind: Kind) -> Result<()> {
    // FRR marks a refresh only where it sent an End-of-RIB, which it does for graceful restart only.
    let pair = Pair::new(kind).both(|session| session.graceful = Some(30)).we_announce([Originated::new(PREFIX)]);
    let two = pair.they_announce([Originated::new("198.51.100.0/24")]).up()?;
    two.them.one(PREFIX)?;
    two.us.one("198.51.100.0/24")?;
    for (asks, answers) in [(&two.us, "10.77.0.2"), (&two.them, "10.77.0.1")] {
        ask(asks)?;
        two.wire.seen("the mark of the beginning", answers, REFRESH, |sent| sent.body() == [0, 1, 1, 1])?;
        two.wire.seen("the mark of the end", answers, REFRESH, |sent| sent.body() == [0, 1, 2, 1])?;
    }
    two.them.one(PREFIX)?;
    two.us.one("198.51.100.0/24").map(drop)
}

/// A route whose attributes do not fit into 4,096 octets.
fn long_route(prefix: &str) -> Originated {
    let mut route = Originated::new(prefix);
    route.communities = (0..1200).map(|n| (64601, n)).collect();
    route
}

fn long_messages(kind: Kind) -> Result<()> {
    let pair = Pair::new(kind).both(|session| session.extended_messages = true);
    let two = pair.we_announce([long_route(PREFIX)]).they_announce([long_route("198.51.100.0/24")]).up()?;
    let (theirs, ours) = (two.us.one("198.51.100.0/24")?, two.them.one(PREFIX)?);
    // What BIRD and FRR print of a long list is not all of it.
    let all = |route: &Route| route.communities.len() == 1200 || (!kind.is_gobgp() && route.communities.len() > 20);
    ensure!(theirs.communities.len() == 1200 && all(&ours), "{} {}", theirs.communities.len(), ours.communities.len());
    for address in ["10.77.0.1", "10.77.0.2"] {
        two.wire.seen("a long UPDATE", address, UPDATE, |sent| sent.bytes.len() > 4096)?;
    }
    Ok(())
}

fn too_long(kind: Kind) -> Result<()> {
    let two = Pair::new(kind).we_announce([long_route(PREFIX), Originated::new("192.0.3.0/24")]).up()?;
    let epoch = two.them.state(0)?.epoch;
    two.them.one("192.0.3.0/24")?;
    two.them.none(PREFIX)?;
    ensure!(two.wire.from("10.77.0.1", UPDATE)?.iter().all(|sent| sent.bytes.len() <= 4096));
    ensure!(two.them.state(0)?.epoch == epoch && two.them.state(0)?.up, "the session flapped");
    Ok(())
}
