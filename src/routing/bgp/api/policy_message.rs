//! The messages of gobgp's policies; see [`super::message`].

use prost::Message;

use super::message::Family;

/// Asks for what is assigned.
#[derive(Clone, PartialEq, Message)]
pub struct ListPolicyAssignmentRequest {
    /// A peer; `global` or empty for the speaker.
    #[prost(string, tag = "1")]
    pub name: String,
    /// 1 import, 2 export, 0 both.
    #[prost(int32, tag = "2")]
    pub direction: i32,
}

/// One assignment.
#[derive(Clone, PartialEq, Message)]
pub struct ListPolicyAssignmentResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub assignment: Option<PolicyAssignment>,
}

/// The policies in force at one place.
#[derive(Clone, PartialEq, Message)]
pub struct PolicyAssignment {
    /// The place.
    #[prost(string, tag = "1")]
    pub name: String,
    /// 1 import, 2 export.
    #[prost(int32, tag = "2")]
    pub direction: i32,
    /// In order.
    #[prost(message, repeated, tag = "4")]
    pub policies: Vec<Policy>,
    /// For routes no statement decides: 1 accept, 2 reject.
    #[prost(int32, tag = "5")]
    pub default_action: i32,
}

/// Asks by name; an empty one asks for all.
#[derive(Clone, PartialEq, Message)]
pub struct NameRequest {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// One policy.
#[derive(Clone, PartialEq, Message)]
pub struct ListPolicyResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub policy: Option<Policy>,
}

/// A policy.
#[derive(Clone, PartialEq, Message)]
pub struct Policy {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In order.
    #[prost(message, repeated, tag = "2")]
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Clone, PartialEq, Message)]
pub struct ListStatementResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub statement: Option<Statement>,
}

/// A statement.
#[derive(Clone, PartialEq, Message)]
pub struct Statement {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Which routes.
    #[prost(message, optional, tag = "2")]
    pub conditions: Option<Conditions>,
    /// What happens to them.
    #[prost(message, optional, tag = "3")]
    pub actions: Option<Actions>,
}

/// A set to match.
#[derive(Clone, PartialEq, Message)]
pub struct MatchSet {
    /// Any, all, invert.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The set.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// A length of AS_PATH.
#[derive(Clone, PartialEq, Message)]
pub struct AsPathLength {
    /// Equal, at least, at most.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Hops.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// Which routes.
#[derive(Clone, PartialEq, Message)]
pub struct Conditions {
    /// By prefix.
    #[prost(message, optional, tag = "1")]
    pub prefix_set: Option<MatchSet>,
    /// By peer.
    #[prost(message, optional, tag = "2")]
    pub neighbor_set: Option<MatchSet>,
    /// By length of AS_PATH.
    #[prost(message, optional, tag = "3")]
    pub as_path_length: Option<AsPathLength>,
    /// By AS_PATH. Only read.
    #[prost(message, optional, tag = "4")]
    pub as_path_set: Option<MatchSet>,
    /// By community.
    #[prost(message, optional, tag = "5")]
    pub community_set: Option<MatchSet>,
    /// By extended community. Only read.
    #[prost(message, optional, tag = "6")]
    pub ext_community_set: Option<MatchSet>,
    /// By origin validation: -1 for never.
    #[prost(int32, tag = "7")]
    pub rpki_result: i32,
    /// By where they come from: 1 internal, 2 external, 3 local.
    #[prost(int32, tag = "8")]
    pub route_type: i32,
    /// By large community.
    #[prost(message, optional, tag = "9")]
    pub large_community_set: Option<MatchSet>,
    /// By next hop. Only read.
    #[prost(string, repeated, tag = "10")]
    pub next_hop_in_list: Vec<String>,
    /// By family.
    #[prost(message, repeated, tag = "11")]
    pub afi_safi_in: Vec<Family>,
}

/// Communities to change.
#[derive(Clone, PartialEq, Message)]
pub struct CommunityAction {
    /// Add, remove, replace.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// As text.
    #[prost(string, repeated, tag = "2")]
    pub communities: Vec<String>,
}

/// A MED to set.
#[derive(Clone, PartialEq, Message)]
pub struct MedAction {
    /// Change by the value, or replace.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The value.
    #[prost(int64, tag = "2")]
    pub value: i64,
}

/// An AS to prepend.
#[derive(Clone, PartialEq, Message)]
pub struct AsPrependAction {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub asn: u32,
    /// How often.
    #[prost(uint32, tag = "2")]
    pub repeat: u32,
    /// The one at the left instead.
    #[prost(bool, tag = "3")]
    pub use_left_most: bool,
}

/// A next hop to set.
#[derive(Clone, PartialEq, Message)]
pub struct NextHopAction {
    /// This one.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Ours.
    #[prost(bool, tag = "2")]
    pub own: bool,
    /// As it came.
    #[prost(bool, tag = "3")]
    pub unchanged: bool,
}

/// A preference to set.
#[derive(Clone, PartialEq, Message)]
pub struct LocalPrefAction {
    /// The value.
    #[prost(uint32, tag = "1")]
    pub value: u32,
}

/// What happens to routes.
#[derive(Clone, PartialEq, Message)]
pub struct Actions {
    /// 1 accept, 2 reject.
    #[prost(int32, tag = "1")]
    pub route_action: i32,
    /// Communities.
    #[prost(message, optional, tag = "2")]
    pub community: Option<CommunityAction>,
    /// MED.
    #[prost(message, optional, tag = "3")]
    pub med: Option<MedAction>,
    /// AS_PATH.
    #[prost(message, optional, tag = "4")]
    pub as_prepend: Option<AsPrependAction>,
    /// Extended communities.
    #[prost(message, optional, tag = "5")]
    pub ext_community: Option<CommunityAction>,
    /// NEXT_HOP.
    #[prost(message, optional, tag = "6")]
    pub nexthop: Option<NextHopAction>,
    /// LOCAL_PREF.
    #[prost(message, optional, tag = "7")]
    pub local_pref: Option<LocalPrefAction>,
    /// Large communities.
    #[prost(message, optional, tag = "8")]
    pub large_community: Option<CommunityAction>,
}

/// Asks for sets.
#[derive(Clone, PartialEq, Message)]
pub struct ListDefinedSetRequest {
    /// Of this kind.
    #[prost(int32, tag = "1")]
    pub defined_type: i32,
    /// Of this name; empty for all.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// One set.
#[derive(Clone, PartialEq, Message)]
pub struct ListDefinedSetResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub defined_set: Option<DefinedSet>,
}

/// A set.
#[derive(Clone, PartialEq, Message)]
pub struct DefinedSet {
    /// Its kind.
    #[prost(int32, tag = "1")]
    pub defined_type: i32,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Members, where they are no prefixes.
    #[prost(string, repeated, tag = "3")]
    pub list: Vec<String>,
    /// Members, where they are prefixes.
    #[prost(message, repeated, tag = "4")]
    pub prefixes: Vec<PrefixRange>,
}

/// A range of prefixes.
#[derive(Clone, PartialEq, Message)]
pub struct PrefixRange {
    /// Under this one.
    #[prost(string, tag = "1")]
    pub ip_prefix: String,
    /// Not shorter.
    #[prost(uint32, tag = "2")]
    pub mask_length_min: u32,
    /// Not longer.
    #[prost(uint32, tag = "3")]
    pub mask_length_max: u32,
}
