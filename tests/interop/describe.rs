//! A router and its sessions, told once and written out in five languages; and what daemons say, in one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ferrovia::net::{Family, Prefix};

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Bird1,
    Bird2,
    Frr,
    Gobgp3,
    Gobgp4,
    Ours,
}

impl Kind {
    /// The other implementations, in the order of the table's columns.
    pub(crate) const OTHERS: [Kind; 5] = [Kind::Bird1, Kind::Bird2, Kind::Frr, Kind::Gobgp3, Kind::Gobgp4];

    pub(crate) fn is_gobgp(self) -> bool {
        matches!(self, Kind::Gobgp3 | Kind::Gobgp4)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bird1 => "BIRD 1.6",
            Kind::Bird2 => "BIRD 2",
            Kind::Frr => "FRR",
            Kind::Gobgp3 => "GoBGP 3",
            Kind::Gobgp4 => "GoBGP 4",
            Kind::Ours => "Ferrovia",
        })
    }
}

/// Everything a daemon is configured with.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub asn: u32,
    pub id: Ipv4Addr,
    /// The port it listens on.
    pub port: u16,
    pub sessions: Vec<Session>,
    pub routes: Vec<Originated>,
    /// Told to GoBGP's own process and to ours: this start follows a crash, keep forwarding.
    pub restarted: bool,
}

/// One end of a session, as the daemon that owns it sees it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub local: IpAddr,
    pub local_asn: u32,
    pub remote: IpAddr,
    pub remote_asn: u32,
    /// Where the remote listens.
    pub port: u16,
    pub passive: bool,
    /// The remote is whoever comes from here.
    pub range: Option<Prefix>,
    pub families: Vec<Family>,
    pub hold: u16,
    pub add_path_receive: bool,
    pub add_path_send: bool,
    pub extended_next_hop: bool,
    pub extended_messages: bool,
    /// Seconds of graceful restart.
    pub graceful: Option<u16>,
    /// Seconds of long-lived graceful restart.
    pub long_lived: Option<u32>,
    pub password: Option<String>,
    pub distance: Distance,
    /// The remote is a client of this route reflector.
    pub client: bool,
    pub next_hop_self: bool,
    pub bfd: bool,
    /// No session now; the text goes to the remote. Only ours reads it from a file.
    pub shutdown: Option<String>,
    /// The address to name as next hop of IPv6 routes on an IPv4 session.
    pub next_hop_v6: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    Link,
    Multihop(u8),
    /// GTSM: the packets' hop limit must be 255.
    Security,
}

/// A route of the daemon's own.
#[derive(Clone, Debug)]
pub(crate) struct Originated {
    pub prefix: Prefix,
    /// A third-party next hop; else the daemon itself.
    pub next_hop: Option<IpAddr>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: Vec<(u16, u16)>,
    pub large: Vec<(u32, u32, u32)>,
    /// Route targets.
    pub targets: Vec<(u16, u32)>,
    pub prepend: Vec<u32>,
}

impl Originated {
    pub(crate) fn new(prefix: &str) -> Originated {
        Originated {
            prefix: prefix.parse().expect("a prefix"),
            next_hop: None,
            med: None,
            local_pref: None,
            communities: Vec::new(),
            large: Vec::new(),
            targets: Vec::new(),
            prepend: Vec::new(),
        }
    }

    pub(crate) fn via(prefix: &str, next_hop: &str) -> Originated {
        Originated { next_hop: Some(next_hop.parse().expect("an address")), ..Originated::new(prefix) }
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.prefix.addr())
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.next_hop.is_none()
            && self.med.is_none()
            && self.local_pref.is_none()
            && self.communities.is_empty()
            && self.large.is_empty()
            && self.targets.is_empty()
            && self.prepend.is_empty()
    }
}

/// A route a daemon has learned, in the same words whoever tells it. Lists of communities are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    pub prefix: String,
    pub next_hop: Option<IpAddr>,
    pub as_path: Vec<u32>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: Vec<String>,
    pub large: Vec<String>,
    pub targets: Vec<String>,
    pub originator: Option<IpAddr>,
    pub clusters: Vec<IpAddr>,
    pub best: bool,
    /// Kept through a graceful restart; only where the daemon tells.
    pub stale: bool,
    pub from: Option<IpAddr>,
}

/// What a daemon says of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub up: bool,
    /// Negotiated, in seconds.
    pub hold: Option<u64>,
    /// Differs after every flap.
    pub epoch: String,
    /// Everything, for assertions on a detail and for people.
    pub text: String,
}
