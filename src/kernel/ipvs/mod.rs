//! The node's IPVS table: virtual servers and their real servers (`include/uapi/linux/ip_vs.h`).
//!
//! Promises: nothing is decided here; `apply` does what it is told, in order, one answer per op. Must not know why.

pub mod client;
pub mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::kernel::Error;
use crate::net::{Family, Protocol};

pub use client::IpvsClient;

/// What identifies a virtual server in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VirtualServerKey {
    /// By destination address, protocol and port.
    Address {
        /// The VIP.
        address: IpAddr,
        /// Layer-4 protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// By firewall mark, for one family.
    Mark {
        /// The mark, not 0.
        mark: u32,
        /// The family it forwards.
        family: Family,
    },
}

impl VirtualServerKey {
    /// The family of the virtual server.
    pub fn family(&self) -> Family {
        match *self {
            VirtualServerKey::Address { address, .. } => Family::of(address),
            VirtualServerKey::Mark { family, .. } => family,
        }
    }
}

/// A scheduler by its kernel name (`rr`, `wrr`, `mh` …), at most 15 bytes (IP_VS_SCHEDNAME_MAXLEN).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduler(pub Arc<str>);

impl Scheduler {
    /// A scheduler by name.
    pub fn new(name: &str) -> Scheduler {
        Scheduler(Arc::from(name))
    }
}

/// Everything about a virtual server but its key and its real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServerSpec {
    /// How a real server is chosen.
    pub scheduler: Scheduler,
    /// Scheduler flag bits, shifted down: bit 0 = IP_VS_SVC_F_SCHED1 (0x8), bit 1 = 0x10, bit 2 = 0x20.
    pub scheduler_flags: u8,
    /// Persistence timeout in seconds, where connections of one client stay together.
    pub persistence: Option<u32>,
    /// Granularity of persistence as a prefix length; 32 or 128 unless somebody else set it.
    pub persistence_prefix: u8,
    /// One-packet scheduling (UDP).
    pub one_packet: bool,
}

/// How packets get to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forwarding {
    /// Address translation (`Masq`).
    Masquerade,
    /// Encapsulated to the real server, which answers by itself (`Tunnel`).
    Tunnel(TunnelType),
    /// By link-layer address (`Route`).
    Route,
    /// A local process (`Local`).
    Local,
}

/// Encapsulation of tunnel forwarding (IP_VS_CONN_F_TUNNEL_TYPE_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelType {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation to this port.
    Gue {
        /// UDP destination port.
        port: u16,
    },
    /// GRE.
    Gre,
}

/// What identifies a real server within its virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServerKey {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 with a firewall mark keeps the packet's own port.
    pub port: u16,
}

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServer {
    /// Address and port.
    pub key: RealServerKey,
    /// How packets get there.
    pub forwarding: Forwarding,
    /// Share of new connections; 0 takes none.
    pub weight: u32,
    /// Connections above which it takes no more, 0 for no limit.
    pub upper_threshold: u32,
    /// Connections below which it takes some again.
    pub lower_threshold: u32,
}

/// Connections of a real server at the moment it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established.
    pub active: u32,
    /// Closing, or of a connectionless protocol.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
}

/// A virtual server with its real servers, sorted by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    /// Scheduler, persistence and flags.
    pub spec: VirtualServerSpec,
    /// Sorted by [`RealServerKey`], each key once.
    pub real_servers: Box<[RealServer]>,
}

/// The whole table.
pub type Table = BTreeMap<VirtualServerKey, VirtualServer>;

/// Counters of a virtual server since it was made (IPVS_SVC_ATTR_STATS64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own names, struct ip_vs_stats")]
pub struct Stats {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Connections per second over the kernel's estimation interval (2 s).
    pub connections_per_second: u64,
    pub packets_in_per_second: u64,
    pub packets_out_per_second: u64,
    pub bytes_in_per_second: u64,
    pub bytes_out_per_second: u64,
}

/// Global connection timeouts in seconds; 0 keeps the kernel's value (IPVS_CMD_SET_CONFIG).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub struct Timeouts {
    pub tcp: u32,
    pub tcp_fin: u32,
    pub udp: u32,
}

/// One change of the table. `Display` prints it as a line of `ipvsadm -R`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Add a virtual server without real servers.
    AddVirtualServer(VirtualServerKey, VirtualServerSpec),
    /// Change scheduler, flags or persistence in place; connections stay.
    SetVirtualServer(VirtualServerKey, VirtualServerSpec),
    /// Remove it with its real servers.
    DeleteVirtualServer(VirtualServerKey),
    /// Add a real server.
    AddRealServer(VirtualServerKey, RealServer),
    /// Change weight, forwarding or thresholds in place.
    SetRealServer(VirtualServerKey, RealServer),
    /// Remove a real server; its connections end.
    DeleteRealServer(VirtualServerKey, RealServerKey),
}

/// The node's IPVS table: read it, change it, decide nothing.
pub trait Ipvs: Send {
    /// The whole table. Not atomic in the kernel: never delete on one absence alone, and be the only writer.
    fn dump(&mut self) -> Result<Table, Error>;
    /// One virtual server, or `None`.
    fn read(&mut self, key: &VirtualServerKey) -> Result<Option<VirtualServer>, Error>;
    /// Connections of each real server of one virtual server; empty where it does not exist.
    fn connections(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error>;
    /// Counters of all virtual servers.
    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error>;
    /// In order, pipelined, one answer per op. A failed op leaves the others done.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>>;
    /// Set the global timeouts; 0 keeps a value.
    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error>;
}
