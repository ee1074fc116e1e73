//! The messages of gobgp's gRPC services, as far as this speaker answers them.
//!
//! One set serves `apipb.GobgpApi` (3.x) and `api.GoBgpService` (4.x): field numbers are equal. Where the two majors put
//! different messages into a field (NLRI, path attributes, capabilities), the field is bytes here, which is the same on
//! the wire, and [`super::typed`] knows what is inside. Enums are numbers, shifted by [`super::adapt`].

use prost::Message;

use super::bfd::BfdPeerState;

pub use super::watch_message::*;

/// Nothing. Stands for every empty answer too.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// A point in time since 1970.
#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And nanoseconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A message of a named type.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Its type; what counts is what follows the last slash.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// An address family by its registered numbers.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Family {
    /// 1 for IPv4, 2 for IPv6.
    #[prost(int32, tag = "1")]
    pub afi: i32,
    /// 1 for unicast.
    #[prost(int32, tag = "2")]
    pub safi: i32,
}

/// The speaker.
#[derive(Clone, PartialEq, Message)]
pub struct Global {
    /// Its AS.
    #[prost(uint32, tag = "1")]
    pub asn: u32,
    /// Its identifier.
    #[prost(string, tag = "2")]
    pub router_id: String,
    /// Its port; -1 where it does not listen.
    #[prost(int32, tag = "3")]
    pub listen_port: i32,
    /// Where it listens.
    #[prost(string, repeated, tag = "4")]
    pub listen_addresses: Vec<String>,
    /// Whether it uses several equal paths.
    #[prost(bool, tag = "6")]
    pub use_multiple_paths: bool,
}

/// Answer of GetBgp.
#[derive(Clone, PartialEq, Message)]
pub struct GetBgpResponse {
    /// The speaker.
    #[prost(message, optional, tag = "1")]
    pub global: Option<Global>,
}

/// Asks for peers.
#[derive(Clone, PartialEq, Message)]
pub struct ListPeerRequest {
    /// Only the peer of this address or interface; empty for all.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Count what was advertised.
    #[prost(bool, tag = "2")]
    pub enable_advertised: bool,
}

/// One peer. Also what AddPeer carries.
#[derive(Clone, PartialEq, Message)]
pub struct PeerResponse {
    /// The peer.
    #[prost(message, optional, tag = "1")]
    pub peer: Option<Peer>,
}

/// A peer.
#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    /// What was configured.
    #[prost(message, optional, tag = "2")]
    pub conf: Option<PeerConf>,
    /// Route reflection.
    #[prost(message, optional, tag = "4")]
    pub route_reflector: Option<RouteReflector>,
    /// How it is.
    #[prost(message, optional, tag = "5")]
    pub state: Option<PeerState>,
    /// Timers.
    #[prost(message, optional, tag = "6")]
    pub timers: Option<Timers>,
    /// The connection.
    #[prost(message, optional, tag = "7")]
    pub transport: Option<Transport>,
    /// Never on: this speaker is no route server. The command line reads it all the same.
    #[prost(message, optional, tag = "8")]
    pub route_server: Option<RouteServer>,
    /// Its families.
    #[prost(message, repeated, tag = "10")]
    pub afi_safis: Vec<AfiSafi>,
}

/// The configuration of a peer. The password (field 1) is left out on purpose: it is never told.
#[derive(Clone, PartialEq, Message)]
pub struct PeerConf {
    /// A note for people.
    #[prost(string, tag = "2")]
    pub description: String,
    /// Our AS towards it.
    #[prost(uint32, tag = "3")]
    pub local_asn: u32,
    /// Its address.
    #[prost(string, tag = "4")]
    pub neighbor_address: String,
    /// Its AS; 0 for any.
    #[prost(uint32, tag = "5")]
    pub peer_asn: u32,
    /// Internal or external.
    #[prost(int32, tag = "7")]
    pub kind: i32,
    /// What is done with private AS numbers: 1 removed, 2 replaced. Only read.
    #[prost(int32, tag = "8")]
    pub remove_private: i32,
    /// The interface, for a peer without a configured address.
    #[prost(string, tag = "11")]
    pub neighbor_interface: String,
    /// How often our own AS may be on a path. Only read.
    #[prost(uint32, tag = "13")]
    pub allow_own_asn: u32,
    /// Whether its AS is replaced by ours. Only read.
    #[prost(bool, tag = "14")]
    pub replace_peer_asn: bool,
    /// Whether it is down by configuration.
    #[prost(bool, tag = "15")]
    pub admin_down: bool,
}

/// The state of a peer. The password (field 1) is left out on purpose.
#[derive(Clone, PartialEq, Message)]
pub struct PeerState {
    /// A note for people.
    #[prost(string, tag = "2")]
    pub description: String,
    /// Our AS towards it.
    #[prost(uint32, tag = "3")]
    pub local_asn: u32,
    /// Counters.
    #[prost(message, optional, tag = "4")]
    pub messages: Option<Messages>,
    /// Its address.
    #[prost(string, tag = "5")]
    pub neighbor_address: String,
    /// Its AS.
    #[prost(uint32, tag = "6")]
    pub peer_asn: u32,
    /// Internal or external.
    #[prost(int32, tag = "8")]
    pub kind: i32,
    /// Queues.
    #[prost(message, optional, tag = "9")]
    pub queues: Option<Queues>,
    /// State of the session.
    #[prost(int32, tag = "13")]
    pub session_state: i32,
    /// State the administrator wants.
    #[prost(int32, tag = "15")]
    pub admin_state: i32,
    /// Messages waiting.
    #[prost(uint32, tag = "16")]
    pub out_q: u32,
    /// How often it went down.
    #[prost(uint32, tag = "17")]
    pub flops: u32,
    /// Its capabilities.
    #[prost(bytes = "vec", repeated, tag = "18")]
    pub remote_cap: Vec<Vec<u8>>,
    /// Ours.
    #[prost(bytes = "vec", repeated, tag = "19")]
    pub local_cap: Vec<Vec<u8>>,
    /// Its identifier.
    #[prost(string, tag = "20")]
    pub router_id: String,
    /// BFD towards it (4.x).
    #[prost(message, optional, tag = "23")]
    pub bfd: Option<BfdPeerState>,
}

/// Counters of messages.
#[derive(Clone, PartialEq, Message)]
pub struct Messages {
    /// From the peer.
    #[prost(message, optional, tag = "1")]
    pub received: Option<MessageCounts>,
    /// To the peer.
    #[prost(message, optional, tag = "2")]
    pub sent: Option<MessageCounts>,
}

/// Messages of one direction, by type.
#[derive(Clone, PartialEq, Message)]
pub struct MessageCounts {
    /// NOTIFICATION.
    #[prost(uint64, tag = "1")]
    pub notification: u64,
    /// UPDATE.
    #[prost(uint64, tag = "2")]
    pub update: u64,
    /// OPEN.
    #[prost(uint64, tag = "3")]
    pub open: u64,
    /// KEEPALIVE.
    #[prost(uint64, tag = "4")]
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    #[prost(uint64, tag = "5")]
    pub refresh: u64,
    /// Dropped.
    #[prost(uint64, tag = "6")]
    pub discarded: u64,
    /// All.
    #[prost(uint64, tag = "7")]
    pub total: u64,
}

/// Queues of a peer.
#[derive(Clone, PartialEq, Message)]
pub struct Queues {
    /// Messages to read.
    #[prost(uint32, tag = "1")]
    pub input: u32,
    /// Messages to write.
    #[prost(uint32, tag = "2")]
    pub output: u32,
}

/// Route reflection.
#[derive(Clone, PartialEq, Message)]
pub struct RouteReflector {
    /// Whether the peer is our client.
    #[prost(bool, tag = "1")]
    pub route_reflector_client: bool,
    /// The cluster.
    #[prost(string, tag = "2")]
    pub route_reflector_cluster_id: String,
}

/// Route server.
#[derive(Clone, PartialEq, Message)]
pub struct RouteServer {
    /// Whether the peer is our client.
    #[prost(bool, tag = "1")]
    pub route_server_client: bool,
}

/// Timers of a peer.
#[derive(Clone, PartialEq, Message)]
pub struct Timers {
    /// As configured.
    #[prost(message, optional, tag = "1")]
    pub config: Option<TimersConfig>,
    /// As they are.
    #[prost(message, optional, tag = "2")]
    pub state: Option<TimersState>,
}

/// Configured timers, in seconds.
#[derive(Clone, PartialEq, Message)]
pub struct TimersConfig {
    /// Hold time.
    #[prost(uint64, tag = "2")]
    pub hold_time: u64,
    /// Between keepalives.
    #[prost(uint64, tag = "3")]
    pub keepalive_interval: u64,
}

/// Timers as they are, in seconds.
#[derive(Clone, PartialEq, Message)]
pub struct TimersState {
    /// Between keepalives.
    #[prost(uint64, tag = "3")]
    pub keepalive_interval: u64,
    /// The hold time both sides agreed on.
    #[prost(uint64, tag = "5")]
    pub negotiated_hold_time: u64,
    /// Since when the session is, or last was, up.
    #[prost(message, optional, tag = "6")]
    pub uptime: Option<Timestamp>,
    /// Since when it is down.
    #[prost(message, optional, tag = "7")]
    pub downtime: Option<Timestamp>,
}

/// The connection.
#[derive(Clone, PartialEq, Message)]
pub struct Transport {
    /// Our address.
    #[prost(string, tag = "1")]
    pub local_address: String,
    /// Our port.
    #[prost(uint32, tag = "2")]
    pub local_port: u32,
    /// Whether we only wait for the peer to connect.
    #[prost(bool, tag = "4")]
    pub passive_mode: bool,
    /// Its port.
    #[prost(uint32, tag = "6")]
    pub remote_port: u32,
}

/// A family of a peer.
#[derive(Clone, PartialEq, Message)]
pub struct AfiSafi {
    /// As configured.
    #[prost(message, optional, tag = "2")]
    pub config: Option<AfiSafiConfig>,
    /// As it is.
    #[prost(message, optional, tag = "3")]
    pub state: Option<AfiSafiState>,
    /// How many routes are taken. Only read.
    #[prost(message, optional, tag = "7")]
    pub prefix_limit: Option<PrefixLimit>,
}

/// How many routes of a family are taken.
#[derive(Clone, PartialEq, Message)]
pub struct PrefixLimit {
    /// Which family.
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    /// So many.
    #[prost(uint32, tag = "2")]
    pub max_prefixes: u32,
    /// A warning comes from this percentage on.
    #[prost(uint32, tag = "3")]
    pub threshold: u32,
}

/// A configured family.
#[derive(Clone, PartialEq, Message)]
pub struct AfiSafiConfig {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    /// Whether it is on.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
}

/// Counters of a family.
#[derive(Clone, PartialEq, Message)]
pub struct AfiSafiState {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    /// Whether it was negotiated.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
    /// Routes received.
    #[prost(uint64, tag = "3")]
    pub received: u64,
    /// Of those past import policy.
    #[prost(uint64, tag = "4")]
    pub accepted: u64,
    /// Routes sent.
    #[prost(uint64, tag = "5")]
    pub advertised: u64,
}

/// Asks for a table.
#[derive(Clone, PartialEq, Message)]
pub struct ListPathRequest {
    /// Which table.
    #[prost(int32, tag = "1")]
    pub table_type: i32,
    /// The peer, for tables of a peer.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The family.
    #[prost(message, optional, tag = "3")]
    pub family: Option<Family>,
    /// Only these.
    #[prost(message, repeated, tag = "4")]
    pub prefixes: Vec<LookupPrefix>,
    /// 1 for an order by prefix; this speaker's answers always have one.
    #[prost(int32, tag = "5")]
    pub sort_type: i32,
    /// Routes that policy refused too, marked.
    #[prost(bool, tag = "6")]
    pub enable_filtered: bool,
    /// Routes as on the wire instead of field by field. This speaker always answers so.
    #[prost(bool, tag = "9")]
    pub enable_only_binary: bool,
}

/// What to look up.
#[derive(Clone, PartialEq, Message)]
pub struct LookupPrefix {
    /// A prefix or an address.
    #[prost(string, tag = "1")]
    pub prefix: String,
    /// Exact, longer or shorter.
    #[prost(int32, tag = "2")]
    pub kind: i32,
}

/// One destination.
#[derive(Clone, PartialEq, Message)]
pub struct ListPathResponse {
    /// The destination.
    #[prost(message, optional, tag = "1")]
    pub destination: Option<Destination>,
}

/// A prefix and its paths.
#[derive(Clone, PartialEq, Message)]
pub struct Destination {
    /// The prefix.
    #[prost(string, tag = "1")]
    pub prefix: String,
    /// Its paths, best first.
    #[prost(message, repeated, tag = "2")]
    pub paths: Vec<Path>,
}

/// A path.
#[derive(Clone, PartialEq, Message)]
pub struct Path {
    /// The NLRI; `Any` in 3.x, one-of in 4.x.
    #[prost(bytes = "vec", tag = "1")]
    pub nlri: Vec<u8>,
    /// The attributes, likewise.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub pattrs: Vec<Vec<u8>>,
    /// When it was learned.
    #[prost(message, optional, tag = "3")]
    pub age: Option<Timestamp>,
    /// Best, or equal to it.
    #[prost(bool, tag = "4")]
    pub best: bool,
    /// Going.
    #[prost(bool, tag = "5")]
    pub is_withdraw: bool,
    /// Origin validation; not done here.
    #[prost(message, optional, tag = "7")]
    pub validation: Option<Validation>,
    /// The family.
    #[prost(message, optional, tag = "9")]
    pub family: Option<Family>,
    /// AS of the peer it came from.
    #[prost(uint32, tag = "10")]
    pub source_asn: u32,
    /// Identifier of the peer it came from.
    #[prost(string, tag = "11")]
    pub source_id: String,
    /// Refused by policy.
    #[prost(bool, tag = "12")]
    pub filtered: bool,
    /// From a peer that restarts.
    #[prost(bool, tag = "13")]
    pub stale: bool,
    /// Learned by BGP.
    #[prost(bool, tag = "14")]
    pub is_from_external: bool,
    /// The peer it came from.
    #[prost(string, tag = "15")]
    pub neighbor_ip: String,
    /// What it may be deleted by; only routes that AddPath brought have it.
    #[prost(bytes = "vec", tag = "16")]
    pub uuid: Vec<u8>,
    /// The next hop cannot be reached.
    #[prost(bool, tag = "17")]
    pub is_nexthop_invalid: bool,
    /// Path identifier as received.
    #[prost(uint32, tag = "18")]
    pub identifier: u32,
    /// Path identifier as sent.
    #[prost(uint32, tag = "19")]
    pub local_identifier: u32,
    /// The NLRI as on the wire.
    #[prost(bytes = "vec", tag = "20")]
    pub nlri_binary: Vec<u8>,
    /// Each attribute as on the wire.
    #[prost(bytes = "vec", repeated, tag = "21")]
    pub pattrs_binary: Vec<Vec<u8>>,
}

/// Origin validation.
#[derive(Clone, PartialEq, Message)]
pub struct Validation {
    /// The result.
    #[prost(int32, tag = "1")]
    pub state: i32,
}

/// Asks for the size of a table.
#[derive(Clone, PartialEq, Message)]
pub struct GetTableRequest {
    /// Which table.
    #[prost(int32, tag = "1")]
    pub table_type: i32,
    /// The family.
    #[prost(message, optional, tag = "2")]
    pub family: Option<Family>,
    /// The peer, for tables of a peer.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// The size of a table.
#[derive(Clone, PartialEq, Message)]
pub struct GetTableResponse {
    /// Prefixes.
    #[prost(uint64, tag = "1")]
    pub num_destination: u64,
    /// Paths.
    #[prost(uint64, tag = "2")]
    pub num_path: u64,
    /// Paths past policy.
    #[prost(uint64, tag = "3")]
    pub num_accepted: u64,
}

/// Originates a route.
#[derive(Clone, PartialEq, Message)]
pub struct AddPathRequest {
    /// Which table.
    #[prost(int32, tag = "1")]
    pub table_type: i32,
    /// The route.
    #[prost(message, optional, tag = "3")]
    pub path: Option<Path>,
}

/// What the route may be deleted by.
#[derive(Clone, PartialEq, Message)]
pub struct AddPathResponse {
    /// 16 octets.
    #[prost(bytes = "vec", tag = "1")]
    pub uuid: Vec<u8>,
}

/// Takes back a route.
#[derive(Clone, PartialEq, Message)]
pub struct DeletePathRequest {
    /// Which table.
    #[prost(int32, tag = "1")]
    pub table_type: i32,
    /// With no path: all of this family; with no family either: all.
    #[prost(message, optional, tag = "3")]
    pub family: Option<Family>,
    /// The route.
    #[prost(message, optional, tag = "4")]
    pub path: Option<Path>,
    /// What AddPath gave.
    #[prost(bytes = "vec", tag = "5")]
    pub uuid: Vec<u8>,
}

/// Reset, Enable, Disable and Shutdown of a peer.
#[derive(Clone, PartialEq, Message)]
pub struct PeerActionRequest {
    /// Which peer.
    #[prost(string, tag = "1")]
    pub address: String,
    /// What to tell it (RFC 9003).
    #[prost(string, tag = "2")]
    pub communication: String,
    /// Only a reset: without dropping the session.
    #[prost(bool, tag = "3")]
    pub soft: bool,
    /// Only a soft reset: in, out, both.
    #[prost(int32, tag = "4")]
    pub direction: i32,
}
