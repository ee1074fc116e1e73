//! Links, addresses, routes and routing rules (rtnetlink(7)).
//!
//! Promises: `apply` does what it is told, in order, one answer per op. Must not know why.

mod client;
mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod monitor;
mod text;
mod tunnel;

pub use client::RtnlClient;
pub use codec::{decode_address, decode_link, decode_neighbour, decode_route, decode_rule};
pub use tunnel::{Gue, Tunnel};

use std::cmp::Ordering;
use std::net::IpAddr;

use crate::kernel::Error;
use crate::net::{Family, Prefix};

/// Routing table numbers the kernel defines (`include/uapi/linux/rtnetlink.h`).
pub mod table {
    /// The main table.
    pub const MAIN: u32 = 254;
    /// The local table: addresses this host answers for.
    pub const LOCAL: u32 = 255;
}

/// Route protocol numbers (`RTPROT_*`): who made a route.
pub mod protocol {
    /// The kernel itself; kube-router also marks its VIP routes so.
    pub const KERNEL: u8 = 2;
    /// An administrator.
    pub const STATIC: u8 = 4;
    /// Routes of this daemon, the number kube-router uses.
    pub const OURS: u8 = 17;
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`: `dummy`, `bridge`, `veth`, `ipip` …; empty for plain devices.
    pub kind: String,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Something is at the other end (IFF_LOWER_UP).
    pub carrier: bool,
    /// No ARP on it (IFF_NOARP).
    pub no_arp: bool,
    /// Loopback device (IFF_LOOPBACK).
    pub loopback: bool,
    /// Bytes.
    pub mtu: u32,
    /// Index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// What it was made with, where it is an `ipip` or `ip6tnl`.
    pub tunnel: Option<Tunnel>,
}

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Interface index.
    pub link: u32,
    /// Address with prefix length, host bits kept.
    pub prefix: Prefix,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub scope: u8,
}

/// What a route does with a packet (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Send it on.
    Unicast,
    /// Deliver here.
    Local,
    /// Drop silently.
    Blackhole,
    /// Answer with unreachable.
    Unreachable,
    /// Answer with administratively prohibited.
    Prohibit,
    /// Go on with the next rule.
    Throw,
}

impl RouteKind {
    /// True where packets end: such a route has no link and no next hop.
    pub fn is_dead_end(self) -> bool {
        !matches!(self, RouteKind::Unicast | RouteKind::Local)
    }
}

/// One of several ways a route has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// Outgoing interface index; the kernel finds it from the gateway where it is not given.
    pub link: Option<u32>,
    /// The next router, of either family for an IPv4 route.
    pub gateway: Option<IpAddr>,
    /// Its share among the others, 1 to 256.
    pub weight: u16,
}

impl NextHop {
    /// Through this gateway, found by the kernel, with the same share as others made so.
    pub fn via(gateway: IpAddr) -> NextHop {
        NextHop { link: None, gateway: Some(gateway), weight: 1 }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Table number.
    pub table: u32,
    /// What it matches; /0 for the default route.
    pub destination: Prefix,
    /// What it does.
    pub kind: RouteKind,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// `RT_SCOPE_*`: 0 universe, 253 link, 254 host. IPv6 routes have none and read as 0.
    pub scope: u8,
    /// Outgoing interface index; none for dead ends (IPv6 shows them on the loopback link, which is not told) and
    /// where there are several next hops.
    pub link: Option<u32>,
    /// The only next hop; an IPv4 route may have an IPv6 one (RFC 8950).
    pub gateway: Option<IpAddr>,
    /// The next hops where there are two or more ([`Route::set_hops`]), else empty: `link` and `gateway` say it then.
    pub next_hops: Vec<NextHop>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric (priority); 0 where unset, which in IPv6 the kernel makes 1024 and which is read as 0 again.
    pub metric: u32,
}

impl Route {
    /// The ways it has, one or several; none for a dead end.
    pub fn hops(&self) -> Vec<NextHop> {
        match (self.next_hops.is_empty(), self.link, self.gateway) {
            (false, ..) => self.next_hops.clone(),
            (true, None, None) => Vec::new(),
            (true, link, gateway) => vec![NextHop { link, gateway, weight: 1 }],
        }
    }

    /// Gives it these ways in place of what it has: a single one goes to `link` and `gateway`, several are sorted, so
    /// that the same set is the same route.
    pub fn set_hops(&mut self, mut hops: Vec<NextHop>) {
        hops.sort_unstable();
        hops.dedup();
        (self.link, self.gateway) = match hops.as_slice() {
            [one] => (one.link, one.gateway),
            _ => (None, None),
        };
        if hops.len() < 2 {
            hops.clear();
        }
        self.next_hops = hops;
    }

    /// True where it uses the link, alone or among others.
    pub fn uses(&self, link: u32) -> bool {
        self.link == Some(link) || self.next_hops.iter().any(|hop| hop.link == Some(link))
    }
}

/// Longest interface name without its terminating zero (IFNAMSIZ), bytes.
pub const LONGEST_NAME: usize = 15;

/// The name of an interface, which a rule holds even while there is no such interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkName([u8; LONGEST_NAME]);

impl LinkName {
    /// A name of 1 to 15 bytes; `None` for others.
    pub fn new(name: &str) -> Option<LinkName> {
        let mut bytes = [0; LONGEST_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        (!name.is_empty() && !name.contains('\0')).then_some(LinkName(bytes))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(LONGEST_NAME);
        self.0.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// A routing rule.
///
/// Two are equal where they do the same to packets, whatever `protocol` says: a rule of somebody else that already does
/// what is wanted is taken over and not doubled.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The family it applies to.
    pub family: Family,
    /// Order; lower is earlier.
    pub priority: u32,
    /// Packets with this firewall mark only.
    pub mark: Option<u32>,
    /// The bits of the mark that are compared.
    pub mark_mask: u32,
    /// Packets from this block only.
    pub from: Option<Prefix>,
    /// Packets that came in here only.
    pub iif: Option<LinkName>,
    /// Look up this table.
    pub table: u32,
    /// Who made it (`RTPROT_*`); 0 where nobody said. A remark, no part of equality and not
    /// looked at by `DeleteRule`; the kernel does hold two rules that differ in it alone.
    pub protocol: u8,
}

/// What rules are told apart by.
type Identity = (Family, u32, Option<(u32, u32)>, Option<Prefix>, Option<LinkName>, u32);

impl Rule {
    /// For every packet of a family; the caller narrows it.
    pub fn to_table(family: Family, priority: u32, table: u32) -> Rule {
        Rule {
            family,
            priority,
            mark: None,
            mark_mask: u32::MAX,
            from: None,
            iif: None,
            table,
            protocol: protocol::OURS,
        }
    }

    fn identity(&self) -> Identity {
        let mark = self.mark.map(|mark| (mark, self.mark_mask));
        (self.family, self.priority, mark, self.from, self.iif, self.table)
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Rule {}

impl PartialOrd for Rule {
    fn partial_cmp(&self, other: &Rule) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rule {
    fn cmp(&self, other: &Rule) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

/// A neighbour on a link whose station address is known (`ip neighbour`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Interface index.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub station: [u8; 6],
}

/// Which routes to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of one table.
    pub table: Option<u32>,
    /// Of one maker.
    pub protocol: Option<u8>,
    /// Through one interface.
    pub link: Option<u32>,
}

impl RouteFilter {
    /// True for a route the filter asks for.
    pub fn admits(&self, route: &Route) -> bool {
        self.table.is_none_or(|table| table == route.table)
            && self.protocol.is_none_or(|protocol| protocol == route.protocol)
            && self.link.is_none_or(|link| route.uses(link))
    }
}

/// One change. `Display` prints it as an `ip` command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create a dummy link, NOARP as dummies are. The index is found by reading again.
    AddDummy {
        /// Its name.
        name: String,
    },
    /// Create a bridge. The index is found by reading again.
    AddBridge {
        /// Its name.
        name: String,
        /// Bytes, where it is not to be the kernel's choice.
        mtu: Option<u32>,
    },
    /// Create an IP tunnel: `ipip`, or `ip6tnl` between IPv6 addresses.
    AddTunnel {
        /// Its name.
        name: String,
        /// Between whom, and how.
        tunnel: Tunnel,
    },
    /// Remove a link with everything on it.
    DeleteLink {
        /// Interface index.
        link: u32,
    },
    /// Set a link up or down.
    SetUp {
        /// Interface index.
        link: u32,
        /// Up or down.
        up: bool,
    },
    /// Set the MTU of a link.
    SetMtu {
        /// Interface index.
        link: u32,
        /// Bytes.
        mtu: u32,
    },
    /// Add an address; IPv6 ones without duplicate address detection.
    AddAddress(Address),
    /// Remove an address.
    DeleteAddress(Address),
    /// Add a route, replacing one with the same table, destination and metric.
    ReplaceRoute(Route),
    /// Remove a route.
    DeleteRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule. The kernel takes what the rule leaves open (mark, source, incoming link) for anything: give rules
    /// that differ in that alone different priorities.
    DeleteRule(Rule),
}

/// Links, addresses, routes and rules of one network namespace.
pub trait Rtnl: Send {
    /// All links.
    fn links(&mut self) -> Result<Vec<Link>, Error>;
    /// All addresses, or those of one link.
    fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error>;
    /// Routes of both families.
    fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error>;
    /// Rules of both families.
    fn rules(&mut self) -> Result<Vec<Rule>, Error>;
    /// Neighbours of both families that answer, or did when they were last asked.
    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error>;
    /// In order, pipelined, one answer per op. A failed op leaves the others done.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>>;
}

#[cfg(test)]
mod tests;
