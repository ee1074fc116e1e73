//! The words all files of the speaker share: routes, path attributes, what a session agreed on.
//!
//! RFC 4271 (base), 4760 (families), 7911 (path identifiers), 1997, 4360 and 8092 (communities), 4456 (reflection).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::{Asn, Family, Prefix};

/// One route's name on the wire: a prefix, and the path identifier where ADD-PATH is in use (RFC 7911), else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix, host bits zero.
    pub prefix: Prefix,
    /// The path identifier; 0 without ADD-PATH.
    pub path_id: u32,
}

impl Nlri {
    /// A route without a path identifier.
    pub fn new(prefix: Prefix) -> Nlri {
        Nlri { prefix, path_id: 0 }
    }
}

/// The family a prefix belongs to.
pub fn family_of(prefix: &Prefix) -> Family {
    Family::of(prefix.addr())
}

/// ORIGIN (RFC 4271 5.1.1). The order is the order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// From inside its AS.
    Igp,
    /// From EGP.
    Egp,
    /// By other means.
    #[default]
    Incomplete,
}

/// A piece of an AS_PATH. Sets and confederation segments never get here: they are treated as withdrawn (RFC 9774).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AsPath(pub Box<[Asn]>);

impl AsPath {
    /// The path of a route that starts here.
    pub fn empty() -> AsPath {
        AsPath(Box::default())
    }

    /// Number of AS hops (RFC 4271 9.1.2.2 a).
    pub fn hops(&self) -> usize {
        self.0.len()
    }

    /// The neighbouring AS, which MED compares within.
    pub fn first(&self) -> Option<Asn> {
        self.0.first().copied()
    }

    /// Whether this AS is on the path: a loop, seen from it.
    pub fn contains(&self, asn: Asn) -> bool {
        self.0.contains(&asn)
    }

    /// The path with `asn` in front, `times` over.
    pub fn prepend(&self, asn: Asn, times: usize) -> AsPath {
        std::iter::repeat_n(asn, times).chain(self.0.iter().copied()).collect()
    }
}

impl FromIterator<Asn> for AsPath {
    fn from_iter<I: IntoIterator<Item = Asn>>(asns: I) -> AsPath {
        AsPath(asns.into_iter().collect())
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, asn) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            asn.fmt(f)?;
        }
        Ok(())
    }
}

/// Where packets go (NEXT_HOP, or the one in MP_REACH_NLRI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The address. Of the other family than the route with RFC 8950.
    pub address: IpAddr,
    /// The link-local address beside a global IPv6 one (RFC 2545).
    pub link_local: Option<Ipv6Addr>,
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> NextHop {
        NextHop { address, link_local: None }
    }
}

/// An attribute this speaker does not know, kept as it came because it is optional and transitive (RFC 4271 5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawAttribute {
    /// Flags octet, with Partial set.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// The value without its length.
    pub value: Box<[u8]>,
}

/// The path attributes of a route. Two routes with equal ones share one value in the RIB.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH.
    pub as_path: AsPath,
    /// NEXT_HOP.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    /// COMMUNITIES, sorted, each once.
    pub communities: Box<[u32]>,
    /// EXTENDED COMMUNITIES, sorted, each once.
    pub extended_communities: Box<[[u8; 8]]>,
    /// LARGE_COMMUNITY, sorted, each once.
    pub large_communities: Box<[[u32; 3]]>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), nearest first.
    pub cluster_list: Box<[Ipv4Addr]>,
    /// The rest, in order of their codes.
    pub unknown: Box<[RawAttribute]>,
}

impl Attributes {
    /// The least a route has.
    pub fn new(origin: Origin, as_path: AsPath, next_hop: NextHop) -> Attributes {
        Attributes {
            origin,
            as_path,
            next_hop,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Box::default(),
            extended_communities: Box::default(),
            large_communities: Box::default(),
            originator_id: None,
            cluster_list: Box::default(),
            unknown: Box::default(),
        }
    }
}

/// Well-known communities (RFC 1997, 7999, 8326, 9494).
pub mod community {
    /// Tell nobody outside the AS.
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    /// Tell nobody.
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    /// Tell nobody outside the member AS.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
    /// A long-lived stale route.
    pub const LLGR_STALE: u32 = 0xffff_0006;
    /// Never keep as long-lived stale.
    pub const NO_LLGR: u32 = 0xffff_0007;
    /// Graceful shutdown: least preferred, about to go.
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// Discard the traffic.
    pub const BLACKHOLE: u32 = 0xffff_029a;
}

/// Whether a peer is in our AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    /// Same AS.
    Internal,
    /// Another AS.
    External,
}

/// What two OPENs agreed on: everything that encoding and decoding of a session depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Negotiated {
    /// The peer's AS.
    pub peer_asn: Asn,
    /// The peer's identifier.
    pub peer_id: Ipv4Addr,
    /// Internal or external.
    pub kind: PeerKind,
    /// Seconds; 0 turns keepalives off.
    pub hold_time: u16,
    /// AS numbers have four octets on this session (RFC 6793).
    pub four_octet_as: bool,
    /// Families both sides speak, in order.
    pub families: Vec<Family>,
    /// Families whose routes come with path identifiers.
    pub add_path_receive: Vec<Family>,
    /// Families whose routes we send with path identifiers.
    pub add_path_send: Vec<Family>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The longest message we may send: 4096 or 65535 (RFC 8654).
    pub max_message: usize,
    /// ROUTE-REFRESH understood (RFC 2918).
    pub route_refresh: bool,
    /// With begin and end marks (RFC 7313).
    pub enhanced_refresh: bool,
    /// What the peer said of its graceful restart, where it said so.
    pub graceful_restart: Option<PeerRestart>,
    /// For each family of the peer's long-lived graceful restart whether it says that forwarding went on, and the
    /// long-lived stale time in seconds (RFC 9494). A family may be here and not in `graceful_restart`: its restart time is 0.
    pub long_lived: Vec<(Family, bool, u32)>,
}

/// The peer's graceful restart capability (RFC 4724).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerRestart {
    /// It has just restarted and waits for our End-of-RIB.
    pub restarting: bool,
    /// It keeps routes after a NOTIFICATION too (RFC 8538).
    pub notification: bool,
    /// Seconds its routes shall be kept.
    pub restart_time: u16,
    /// Families it can restart, and whether it kept forwarding in each.
    pub families: Vec<(Family, bool)>,
}

/// A NOTIFICATION (RFC 4271 4.5). Error codes and subcodes as registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data; for administrative Cease the text in the form of RFC 9003.
    pub data: Vec<u8>,
}

/// What our OPEN says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSettings {
    /// Our AS.
    pub asn: Asn,
    /// Our identifier.
    pub router_id: Ipv4Addr,
    /// The hold time we propose, in seconds.
    pub hold_time: u16,
    /// The AS the peer must have; `None` takes any.
    pub peer_asn: Option<Asn>,
    /// Families we offer.
    pub families: Vec<Family>,
    /// Families we take path identifiers in.
    pub add_path_receive: Vec<Family>,
    /// Families we offer to send path identifiers in.
    pub add_path_send: Vec<Family>,
    /// Offer RFC 8950 for IPv4.
    pub extended_next_hop: bool,
    /// Offer RFC 8654.
    pub extended_messages: bool,
    /// Offer graceful restart with these.
    pub graceful_restart: Option<OwnRestart>,
    /// Long-lived stale time in seconds to offer for each family, 0 for none.
    pub long_lived: u32,
    /// Packets went on to be forwarded since the last session with this peer (the F bits of RFC 4724 and 9494).
    pub forwarding_kept: bool,
}

/// Our own graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnRestart {
    /// Seconds peers shall keep our routes.
    pub restart_time: u16,
    /// We have restarted and forwarding went on meanwhile.
    pub restarting: bool,
    /// Keep routes after a NOTIFICATION too (RFC 8538).
    pub notification: bool,
}

/// A peer as the RIB knows it: small, dense, given out by the speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Stands for routes that start here.
    pub const LOCAL: PeerId = PeerId(0);

    /// Stands for routes that start here because somebody asked for them through the API.
    pub const API: PeerId = PeerId(u32::MAX);

    /// Whether routes of it start here.
    pub fn is_own(self) -> bool {
        self == PeerId::LOCAL || self == PeerId::API
    }
}
