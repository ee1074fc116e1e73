//! The usual set-up: our speaker and one other daemon on one link.

use std::net::IpAddr;

use anyhow::Result;
use ferrovia::net::Family;

use crate::describe::{Distance, Kind, Originated, Router, Session};
use crate::lab::{Lab, Running};
use crate::peers::gobgp::id;
use crate::wire::Recording;

/// Who plays our part: our speaker. `FERROVIA_INTEROP_US=bird2` lets BIRD 2 play it, to see whether an expectation is
/// about the protocol or about us.
pub(crate) fn us() -> Kind {
    match std::env::var("FERROVIA_INTEROP_US").as_deref() {
        Ok("bird2") => Kind::Bird2,
        Ok("frr") => Kind::Frr,
        Ok("gobgp3") => Kind::Gobgp3,
        Ok("gobgp4") => Kind::Gobgp4,
        _ => Kind::Ours,
    }
}

/// Both sides before they start. Ours is 10.77.0.1, the other 10.77.0.2.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub kind: Kind,
    pub us: Router,
    pub them: Router,
}

/// Both sides, started.
#[derive(Debug)]
pub(crate) struct Two {
    // Daemons end before their namespaces go.
    pub us: Running,
    pub them: Running,
    pub wire: Recording,
    pub lab: Lab,
}

pub(crate) const OUR_AS: u32 = 64601;
pub(crate) const THEIR_AS: u32 = 64602;

/// The address of number `n` on the switch.
pub(crate) fn address(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => format!("10.77.0.{n}"),
        Family::V6 => format!("fd77::{n}"),
    }
    .parse()
    .expect("an address")
}

pub(crate) fn router(asn: u32, n: u8) -> Router {
    Router {
        asn,
        id: id(&format!("10.77.0.{n}")),
        port: 179,
        sessions: Vec::new(),
        routes: Vec::new(),
        restarted: false,
    }
}

/// A session between numbers `local` and `remote`, as `local` sees it.
pub(crate) fn session(family: Family, (local, local_asn): (u8, u32), (remote, remote_asn): (u8, u32)) -> Session {
    Session {
        local: address(family, local),
        local_asn,
        remote: address(family, remote),
        remote_asn,
        port: 179,
        passive: false,
        range: None,
        families: vec![family],
        hold: 90,
        add_path_receive: false,
        add_path_send: false,
        extended_next_hop: false,
        extended_messages: false,
        graceful: None,
        long_lived: None,
        password: None,
        distance: Distance::Link,
        client: false,
        next_hop_self: false,
        bfd: false,
        shutdown: None,
        next_hop_v6: Some(address(Family::V6, local)),
    }
}

impl Pair {
    /// External, over IPv4, with IPv4; the other side waits to be connected to.
    pub(crate) fn new(kind: Kind) -> Pair {
        Pair::of(kind, Family::V4, OUR_AS, THEIR_AS)
    }

    /// Internal.
    pub(crate) fn internal(kind: Kind) -> Pair {
        Pair::of(kind, Family::V4, OUR_AS, OUR_AS)
    }

    pub(crate) fn of(kind: Kind, family: Family, ours: u32, theirs: u32) -> Pair {
        let mut us = router(ours, 1);
        let mut them = router(theirs, 2);
        us.sessions.push(session(family, (1, ours), (2, theirs)));
        them.sessions.push(session(family, (2, theirs), (1, ours)));
        them.sessions[0].passive = true;
        Pair { kind, us, them }
    }

    /// Changes both ends alike.
    pub(crate) fn both(mut self, change: impl Fn(&mut Session)) -> Pair {
        change(&mut self.us.sessions[0]);
        change(&mut self.them.sessions[0]);
        self
    }

    pub(crate) fn ours(mut self, change: impl FnOnce(&mut Session)) -> Pair {
        change(&mut self.us.sessions[0]);
        self
    }

    pub(crate) fn theirs(mut self, change: impl FnOnce(&mut Session)) -> Pair {
        change(&mut self.them.sessions[0]);
        self
    }

    pub(crate) fn we_announce(mut self, routes: impl IntoIterator<Item = Originated>) -> Pair {
        self.us.routes.extend(routes);
        self
    }

    pub(crate) fn they_announce(mut self, routes: impl IntoIterator<Item = Originated>) -> Pair {
        self.them.routes.extend(routes);
        self
    }

    /// Starts both, the other one first.
    pub(crate) fn start(self) -> Result<Two> {
        let lab = Lab::new(&["us", "them"])?;
        let wire = Recording::start(&lab.ns("us")?, &lab.directory.join("us.pcap"))?;
        let them = lab.start("them", self.kind, self.them)?;
        let us = lab.start("us", us(), self.us)?;
        Ok(Two { us, them, wire, lab })
    }

    /// Starts both and waits until the session is up on both ends.
    pub(crate) fn up(self) -> Result<Two> {
        let mut two = self.start()?;
        two.up()?;
        Ok(two)
    }
}

/// Both with a router between them: `us` 10.77.0.1 -- 10.77.0.2 `middle` 10.78.0.1 -- 10.78.0.2 `far`.
pub(crate) fn far(mut pair: Pair) -> Result<Two> {
    let lab = Lab::new(&["us", "middle"])?;
    let wire = Recording::start(&lab.ns("us")?, &lab.directory.join("us.pcap"))?;
    let middle = lab.ns("middle")?;
    let far = lab.extra("far")?;
    middle.ip(&format!(
        "link add far type veth peer name eth0 netns {}\nlink set far up\naddr add 10.78.0.1/24 dev far\n",
        far.name()
    ))?;
    middle.set_sysctls(&[("net/ipv4/ip_forward", "1")])?;
    far.ip("link set lo up\nlink set eth0 up\naddr add 10.78.0.2/24 dev eth0\nroute add default via 10.78.0.1\n")?;
    lab.ns("us")?.ip("route add 10.78.0.0/24 via 10.77.0.2\n")?;
    pair.us.sessions[0].remote = "10.78.0.2".parse()?;
    pair.them.sessions[0].local = "10.78.0.2".parse()?;
    let them = lab.start("far", pair.kind, pair.them)?;
    let us = lab.start("us", us(), pair.us)?;
    let mut two = Two { us, them, wire, lab };
    two.up()?;
    Ok(two)
}

impl Two {
    pub(crate) fn up(&mut self) -> Result<()> {
        self.us.up(0)?;
        self.them.up(0)?;
        Ok(())
    }
}
