//! Links, addresses, routes and routing rules (rtnetlink(7)).
//!
//! Promises: `apply` does what it is told, in order, one answer per op. Must not know why.

mod client;
mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod monitor;
mod text;

pub use client::RtnlClient;
pub use codec::{decode_address, decode_link, decode_route, decode_rule};

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
    /// No ARP on it (IFF_NOARP).
    pub no_arp: bool,
    /// Loopback device (IFF_LOOPBACK).
    pub loopback: bool,
    /// Bytes.
    pub mtu: u32,
    /// Index of the bridge or bond it belongs to.
    pub master: Option<u32>,
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
    /// Outgoing interface index.
    pub link: Option<u32>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric (priority); 0 where unset, which in IPv6 the kernel makes 1024 and which is read as 0 again.
    pub metric: u32,
}

/// A routing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The family it applies to.
    pub family: Family,
    /// Order; lower is earlier.
    pub priority: u32,
    /// Packets with this firewall mark only.
    pub mark: Option<u32>,
    /// Packets from this block only.
    pub from: Option<Prefix>,
    /// Look up this table.
    pub table: u32,
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
            && self.link.is_none_or(|link| Some(link) == route.link)
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
    /// Create an IP tunnel without a fixed remote (`ipip`, or `ip6tnl` for IPv6), as direct server return needs it.
    AddTunnel {
        /// Its name.
        name: String,
        /// The local address.
        local: IpAddr,
        /// The remote address, or any.
        remote: Option<IpAddr>,
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
    /// Remove a rule.
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
    /// In order, pipelined, one answer per op. A failed op leaves the others done.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>>;
}

#[cfg(test)]
mod tests;
