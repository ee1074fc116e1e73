//! What can be asked of the speaker and what it answers: plain values that the gRPC services and our own command line
//! share.
//!
//! Times are durations since 1970, in UTC.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::bfd::BfdStatus;
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::types::{Attributes, Nlri, PeerKind, PeerRestart};

/// The speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Its AS.
    pub asn: Asn,
    /// Its identifier.
    pub router_id: Ipv4Addr,
    /// Its port; `None` where it does not listen.
    pub listen_port: Option<u16>,
    /// Where it listens; empty for everywhere.
    pub listen_addresses: Vec<IpAddr>,
    /// Whether it uses several equal paths.
    pub multipath: bool,
}

/// State of a session (RFC 4271 8.2.2). The numbers are gobgp's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Idle.
    Idle = 1,
    /// Connect.
    Connect = 2,
    /// Active.
    Active = 3,
    /// OpenSent.
    OpenSent = 4,
    /// OpenConfirm.
    OpenConfirm = 5,
    /// Established.
    Established = 6,
}

/// What the administrator wants of a peer. The numbers are those of gobgp 3.x.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminState {
    /// A session.
    #[default]
    Up = 0,
    /// None.
    Down = 1,
    /// None, since it sent more routes than allowed.
    PrefixLimit = 2,
}

/// A capability of an OPEN (RFC 5492).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760.
    Multiprotocol(Family),
    /// RFC 2918.
    RouteRefresh,
    /// RFC 8950: IPv4 routes with IPv6 next hops.
    ExtendedNextHop,
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 4724.
    GracefulRestart(PeerRestart),
    /// RFC 6793.
    FourOctetAs(Asn),
    /// RFC 7911: for each family whether it receives and whether it sends.
    AddPath(Vec<(Family, bool, bool)>),
    /// RFC 7313.
    EnhancedRefresh,
    /// RFC 9494: seconds for each family.
    LongLived(Vec<(Family, u32)>),
    /// Code and value of any other.
    Unknown(u8, Vec<u8>),
}

impl Capability {
    /// Its registered code.
    pub fn code(&self) -> u8 {
        match self {
            Capability::Multiprotocol(_) => 1,
            Capability::RouteRefresh => 2,
            Capability::ExtendedNextHop => 5,
            Capability::ExtendedMessage => 6,
            Capability::GracefulRestart(_) => 64,
            Capability::FourOctetAs(_) => 65,
            Capability::AddPath(_) => 69,
            Capability::EnhancedRefresh => 70,
            Capability::LongLived(_) => 71,
            Capability::Unknown(code, _) => *code,
        }
    }
}

/// Messages of one direction, by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// UPDATE.
    pub update: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub refresh: u64,
    /// Dropped.
    pub discarded: u64,
}

impl MessageCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.open + self.notification + self.update + self.keepalive + self.refresh + self.discarded
    }
}

/// Routes of one family of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyCounts {
    /// The family.
    pub family: Family,
    /// Whether both sides speak it.
    pub negotiated: bool,
    /// Routes received.
    pub received: u64,
    /// Of those past import policy.
    pub accepted: u64,
    /// Routes sent; 0 where not asked for.
    pub advertised: u64,
}

/// One line of `gobgp neighbor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Its address, as configured or as discovered on the interface.
    pub address: IpAddr,
    /// The interface, for a peer configured by interface.
    pub interface: Option<String>,
    /// Its AS; `None` while any is taken and none known.
    pub asn: Option<Asn>,
    /// State of the session.
    pub state: SessionState,
    /// What the administrator wants.
    pub admin: AdminState,
    /// Since when the session is, or last was, up. Stays after a drop.
    pub up_since: Option<Duration>,
    /// Since when it is down.
    pub down_since: Option<Duration>,
    /// Its families.
    pub families: Vec<FamilyCounts>,
}

impl PeerRow {
    /// Routes received, accepted and sent, of one family or of all.
    pub fn counts(&self, family: Option<Family>) -> (u64, u64, u64) {
        let wanted = self.families.iter().filter(|counts| family.is_none_or(|family| family == counts.family));
        wanted.fold((0, 0, 0), |sum, counts| {
            (sum.0 + counts.received, sum.1 + counts.accepted, sum.2 + counts.advertised)
        })
    }

    /// Whether the peer goes by this name: its address or its interface.
    pub fn is_named(&self, name: &str) -> bool {
        name.parse().is_ok_and(|address: IpAddr| address == self.address) || self.interface.as_deref() == Some(name)
    }
}

/// All of a peer, without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerDetail {
    /// What the table shows.
    pub row: PeerRow,
    /// A note for people.
    pub description: String,
    /// Internal or external.
    pub kind: PeerKind,
    /// Our AS towards it.
    pub local_asn: Asn,
    /// Its identifier, once it said.
    pub router_id: Option<Ipv4Addr>,
    /// Our address on the session, once there is one.
    pub local_address: Option<IpAddr>,
    /// Its port.
    pub remote_port: u16,
    /// We wait for it to connect.
    pub passive: bool,
    /// It is our client (RFC 4456).
    pub reflector_client: bool,
    /// Our cluster identifier, towards clients.
    pub cluster_id: Option<Ipv4Addr>,
    /// Hold time in seconds as configured.
    pub hold_time: u16,
    /// Between keepalives, in seconds, as configured.
    pub keepalive: u16,
    /// Hold time both sides agreed on.
    pub negotiated_hold_time: u16,
    /// Between keepalives, as agreed on.
    pub negotiated_keepalive: u16,
    /// How often the session went down.
    pub flops: u32,
    /// Messages waiting to be sent.
    pub out_queue: u32,
    /// Messages received.
    pub received: MessageCounts,
    /// Messages sent.
    pub sent: MessageCounts,
    /// What our OPEN said.
    pub local_capabilities: Vec<Capability>,
    /// What its OPEN said.
    pub remote_capabilities: Vec<Capability>,
    /// BFD towards it, where it is wanted.
    pub bfd: Option<BfdStatus>,
}

/// A table of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// What all together gave.
    Global,
    /// A route server client's view. No peer of this speaker has one.
    Local(String),
    /// What a peer sent, as it came.
    AdjIn(String),
    /// What a peer is sent, after export policy.
    AdjOut(String),
}

/// How a prefix of a question is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// This prefix.
    Exact,
    /// The longest one that covers it.
    LongestMatch,
    /// It and those inside it.
    Longer,
    /// It and those that cover it.
    Shorter,
}

impl Lookup {
    /// Whether a prefix of a table matches. For [`Lookup::LongestMatch`] all that cover it do; take the longest.
    pub fn admits(self, wanted: &Prefix, prefix: &Prefix) -> bool {
        match self {
            Lookup::Exact => wanted == prefix,
            Lookup::LongestMatch | Lookup::Shorter => prefix.contains(wanted),
            Lookup::Longer => wanted.contains(prefix),
        }
    }
}

/// Asks for routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathQuery {
    /// Of this table.
    pub table: Table,
    /// Of this family.
    pub family: Family,
    /// Only these, any of them; empty for all.
    pub prefixes: Vec<(Prefix, Lookup)>,
    /// Those that policy refused too, marked.
    pub filtered: bool,
}

/// A prefix and its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The prefix.
    pub prefix: Prefix,
    /// Its paths, best first. Never empty.
    pub paths: Vec<PathRow>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRow {
    /// Its attributes. Prefix and attributes become octets only when the row is written ([`super::raw`]).
    pub attributes: Shared,
    /// Since when it is known.
    pub since: Duration,
    /// The best one, or used beside it.
    pub best: bool,
    /// It goes; only in news.
    pub withdrawn: bool,
    /// From a peer that restarts.
    pub stale: bool,
    /// Refused by policy.
    pub filtered: bool,
    /// Its next hop cannot be reached.
    pub next_hop_invalid: bool,
    /// The peer it came from: address, AS, identifier. `None` for our own.
    pub source: Option<(IpAddr, Asn, Ipv4Addr)>,
    /// Path identifier as received.
    pub received_id: u32,
    /// Path identifier as sent.
    pub local_id: u32,
    /// What it may be deleted by, where it was added through the API.
    pub uuid: Option<[u8; 16]>,
}

/// The size of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableInfo {
    /// Prefixes.
    pub destinations: u64,
    /// Paths.
    pub paths: u64,
    /// Paths past policy.
    pub accepted: u64,
}

/// Answers to hand out one by one. It owns all it needs, so whoever reads it slowly holds up nobody.
pub struct Rows<T>(Box<dyn Iterator<Item = T> + Send>);

impl<T> Rows<T> {
    /// From something that is cheap to make and does its work while it is read.
    pub fn new(rows: impl Iterator<Item = T> + Send + 'static) -> Rows<T> {
        Rows(Box::new(rows))
    }
}

impl<T: Send + 'static> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Rows<T> {
        Rows::new(rows.into_iter())
    }
}

impl<T> Iterator for Rows<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }
}

/// In or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What peers send.
    Import = 1,
    /// What peers are sent.
    Export = 2,
}

/// What becomes of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Taken.
    Accept = 1,
    /// Refused.
    Reject = 2,
}

/// The policies in force at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// A peer's address, or `global`.
    pub name: String,
    /// Import or export.
    pub direction: Direction,
    /// In order.
    pub policies: Vec<Policy>,
    /// For routes no statement decides.
    pub default: Verdict,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// In order.
    pub statements: Vec<Statement>,
}

/// A statement of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Its name.
    pub name: String,
    /// Which routes; all of these.
    pub conditions: Vec<Condition>,
    /// What happens to them, besides the verdict.
    pub actions: Vec<Action>,
    /// The verdict; `None` goes on with the next statement.
    pub verdict: Option<Verdict>,
}

/// How a set must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Any member.
    Any = 0,
    /// All members.
    All = 1,
    /// No member.
    Invert = 2,
}

/// Which routes a statement is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Their prefix is in this set.
    Prefix(Match, String),
    /// Their peer is in this set.
    Neighbor(Match, String),
    /// Their AS_PATH is like one of this set.
    AsPath(Match, String),
    /// They have communities of this set.
    Community(Match, String),
    /// They have extended communities of this set.
    ExtendedCommunity(Match, String),
    /// They have large communities of this set.
    LargeCommunity(Match, String),
    /// Length of AS_PATH: 0 equal, 1 at least, 2 at most.
    AsPathLength(u8, u32),
    /// Where they come from: 1 internal, 2 external, 3 local.
    RouteType(u8),
    /// They are of one of these families.
    Families(Vec<Family>),
}

/// What a statement changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Communities as text: added (0), removed (1), put in place of all (2).
    Community(u8, Vec<String>),
    /// Extended ones.
    ExtendedCommunity(u8, Vec<String>),
    /// Large ones.
    LargeCommunity(u8, Vec<String>),
    /// MED set.
    MedSet(u32),
    /// MED changed by this much.
    MedAdd(i64),
    /// LOCAL_PREF set.
    LocalPref(u32),
    /// This AS in front, so often; `None` for the one at the left.
    Prepend(Option<Asn>, u32),
    /// This next hop.
    NextHop(IpAddr),
    /// Our address.
    NextHopSelf,
    /// The peer's address.
    NextHopPeer,
    /// As it came.
    NextHopUnchanged,
}

/// Kinds of named sets. The numbers are those of gobgp 3.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Prefixes.
    Prefix = 0,
    /// Peers.
    Neighbor = 1,
    /// Regular expressions of AS_PATH.
    AsPath = 3,
    /// Communities.
    Community = 4,
    /// Extended communities.
    ExtendedCommunity = 5,
    /// Large communities.
    LargeCommunity = 6,
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinedSet {
    /// Its kind.
    pub kind: SetKind,
    /// Its name.
    pub name: String,
    /// Members that are no prefixes, as text.
    pub list: Vec<String>,
    /// Members that are: under the prefix, with lengths from and to.
    pub prefixes: Vec<(Prefix, u8, u8)>,
}

/// Attributes a program gave for a route of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenAttributes {
    /// Field by field. The next hop 0.0.0.0 or :: means ours.
    Typed(Box<Attributes>),
    /// As on the wire.
    Raw(Vec<Vec<u8>>),
}

/// A thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Originate a route.
    AddPath(Nlri, GivenAttributes),
    /// Take back a route that was added so.
    DeletePath(Nlri),
    /// Take it back by what adding it gave.
    DeleteById([u8; 16]),
    /// Take back all routes that were added so, of this family or of both.
    DeleteAll(Option<Family>),
    /// Close a peer's session and begin anew, with a text for it.
    Reset(PeerChoice, String),
    /// Run policy again: in, out.
    SoftReset(PeerChoice, bool, bool),
    /// Let a peer have a session.
    Enable(PeerChoice),
    /// Let it have none, with a text for it.
    Disable(PeerChoice, String),
    /// Close its session by administrative shutdown, with a text for it. It may come back.
    Shutdown(PeerChoice, String),
}

/// Which peers a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerChoice {
    /// All.
    All,
    /// The one of this address or interface.
    One(String),
}

/// What a command gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing to say.
    Yes,
    /// The route may be deleted by this.
    Added([u8; 16]),
}

/// Why the speaker did not do what was asked. A sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Not by this door.
    #[error("{0}")]
    Unsupported(String),
    /// The speaker does not run.
    #[error("the BGP speaker does not run; the daemon's log says why")]
    Gone,
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Changes of peers.
    pub peers: bool,
    /// Changes of best routes; the inner value: begin with those there are.
    pub best: Option<bool>,
    /// Changes of what peers send (before policy), likewise.
    pub adj_in: Option<bool>,
    /// Routes of this peer only.
    pub peer: Option<String>,
}

/// News.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer there is at the beginning.
    PeerInitial(Box<PeerDetail>),
    /// Those were all.
    PeersComplete,
    /// A peer changed its state.
    PeerState(Box<PeerDetail>),
    /// Routes changed.
    Routes(Vec<(Prefix, PathRow)>),
}
