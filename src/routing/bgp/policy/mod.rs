//! Import and export rules in the model GoBGP's users know: defined sets, statements, policies, assignments.
//!
//! A statement whose conditions all hold applies its actions; with a verdict it also ends the evaluation. When no
//! statement gave one, the assignment's default does. An empty set matches nothing, and so does a set nobody defined:
//! a rule that lost its peers must never turn into a rule for everybody.
//!
//! [`PolicySet`] is what is configured, [`PeerPolicy`] what is left of it for one peer and one direction: only the
//! statements that peer can meet, next hops resolved. Two peers with equal ones share an update group, and a peer
//! whose new one equals its old one has nothing to be told after a change of policy.
//!
//! RFC 1997, 4360 and 8092 (communities), 4271 (the attributes that actions change).

mod actions;
mod node;
mod prefix_set;
mod prepared;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::types::{NextHop, PeerKind};
use crate::net::{Asn, Family, Prefix};

pub use actions::{Actions, Change, Med, NextHopAction, Prepend};
pub use node::{NodePolicy, node_policies, vip_set};
pub use prefix_set::{PrefixRange, PrefixSet, PrefixSets};
pub use prepared::{Class, PeerPolicy};

/// Whether a route passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It does.
    #[default]
    Accept,
    /// It does not.
    Reject,
}

/// Which way a route goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the peer to the RIB.
    Import,
    /// From the RIB to the peer.
    Export,
}

/// Where a route came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteType {
    /// It starts here.
    Local,
    /// A peer of our AS sent it.
    Internal,
    /// A peer of another AS sent it.
    External,
}

impl From<PeerKind> for RouteType {
    fn from(kind: PeerKind) -> RouteType {
        match kind {
            PeerKind::Internal => RouteType::Internal,
            PeerKind::External => RouteType::External,
        }
    }
}

/// How the values of a set must match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchMode {
    /// One of them.
    #[default]
    Any,
    /// All of them; the same as `Any` for prefixes and neighbours, of which a route has one.
    All,
    /// None of them.
    Invert,
}

/// A condition on a defined set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMatch {
    /// The set's name.
    pub set: String,
    /// How it must match.
    pub mode: MatchMode,
}

impl SetMatch {
    /// Any value of the set named.
    pub fn any(set: impl Into<String>) -> SetMatch {
        SetMatch { set: set.into(), mode: MatchMode::Any }
    }

    /// No value of the set named.
    pub fn invert(set: impl Into<String>) -> SetMatch {
        SetMatch { set: set.into(), mode: MatchMode::Invert }
    }
}

/// How two numbers must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Equal to this.
    Equal(u32),
    /// This or more.
    AtLeast(u32),
    /// This or less.
    AtMost(u32),
}

impl Compare {
    fn holds(self, value: usize) -> bool {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        match self {
            Compare::Equal(n) => value == n,
            Compare::AtLeast(n) => value >= n,
            Compare::AtMost(n) => value <= n,
        }
    }
}

/// What an AS_PATH must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsPathRange {
    /// This AS is the neighbouring one.
    From(Asn),
    /// This AS is somewhere on it.
    Through(Asn),
    /// This AS is where it starts.
    Origin(Asn),
    /// This AS alone is on it.
    Only(Asn),
}

/// The named sets conditions speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefinedSets {
    /// Prefixes with the lengths that match.
    pub prefix: BTreeMap<String, Vec<PrefixRange>>,
    /// Peers' addresses.
    pub neighbor: BTreeMap<String, Vec<Prefix>>,
    /// Shapes of AS paths.
    pub as_path: BTreeMap<String, Vec<AsPathRange>>,
    /// Communities.
    pub community: BTreeMap<String, Vec<u32>>,
    /// Extended communities.
    pub extended_community: BTreeMap<String, Vec<[u8; 8]>>,
    /// Large communities.
    pub large_community: BTreeMap<String, Vec<[u32; 3]>>,
}

/// When a statement applies: when all conditions given hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The route's prefix.
    pub prefix_set: Option<SetMatch>,
    /// The peer: the one it came from on import, the one it goes to on export.
    pub neighbor_set: Option<SetMatch>,
    /// Shape of the AS path.
    pub as_path_set: Option<SetMatch>,
    /// Number of AS hops.
    pub as_path_length: Option<Compare>,
    /// Communities.
    pub community_set: Option<SetMatch>,
    /// Extended communities.
    pub extended_community_set: Option<SetMatch>,
    /// Large communities.
    pub large_community_set: Option<SetMatch>,
    /// Families; empty is any.
    pub families: Vec<Family>,
    /// Where the route came from.
    pub route_type: Option<RouteType>,
}

/// Conditions and what happens when they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Its name, for listings.
    pub name: String,
    /// When it applies.
    pub conditions: Conditions,
    /// What it does.
    pub actions: Actions,
    /// `None` goes on with the next statement.
    pub verdict: Option<Verdict>,
}

/// Statements in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Its name, which assignments use.
    pub name: String,
    /// The first one with a verdict that applies decides.
    pub statements: Vec<Statement>,
}

/// The policies in force for one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Names of policies, in order. Unknown ones are passed over.
    pub policies: Vec<String>,
    /// When no statement decided.
    pub default: Verdict,
}

/// Assignments of one peer that stand in for the global ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAssignments {
    /// For import.
    pub import: Option<Assignment>,
    /// For export.
    pub export: Option<Assignment>,
}

/// Everything configured about policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// The sets conditions speak of.
    pub sets: DefinedSets,
    /// All policies, assigned or not.
    pub policies: Vec<Policy>,
    /// For every peer without its own.
    pub import: Assignment,
    /// For every peer without its own.
    pub export: Assignment,
    /// By the peer's address.
    pub peers: BTreeMap<IpAddr, PeerAssignments>,
}

impl PolicySet {
    /// The assignment in force for a peer.
    pub fn assignment(&self, direction: Direction, peer: IpAddr) -> &Assignment {
        let own = self.peers.get(&peer);
        match direction {
            Direction::Import => own.and_then(|own| own.import.as_ref()).unwrap_or(&self.import),
            Direction::Export => own.and_then(|own| own.export.as_ref()).unwrap_or(&self.export),
        }
    }

    /// Members of a prefix set come and go; the set is made where there is none. What really came or went.
    pub fn edit_prefix_set(&mut self, set: &str, add: &[PrefixRange], remove: &[PrefixRange]) -> Vec<PrefixRange> {
        let members = self.sets.prefix.entry(set.to_owned()).or_default();
        let mut added: BTreeSet<PrefixRange> = add.iter().copied().collect();
        let removed: BTreeSet<PrefixRange> = remove.iter().copied().filter(|range| !added.contains(range)).collect();
        let mut changed = Vec::new();
        members.retain(|member| {
            added.remove(member);
            let goes = removed.contains(member);
            changed.extend(goes.then_some(*member));
            !goes
        });
        changed.extend(&added);
        members.extend(added);
        changed
    }

    /// What is left of the configuration for one peer and one direction.
    pub fn prepare(&self, direction: Direction, peer: &PeerView) -> PeerPolicy {
        self.prepare_with(&PrefixSets::new(&self.sets), direction, peer)
    }

    /// The same with the prefix sets made ready before, for many peers.
    pub fn prepare_with(&self, sets: &PrefixSets, direction: Direction, peer: &PeerView) -> PeerPolicy {
        PeerPolicy::new(self, sets, direction, peer)
    }
}

/// A peer as policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its address.
    pub address: IpAddr,
    /// Our IPv4 address towards it: its next hop self.
    pub local_v4: Option<IpAddr>,
    /// Our IPv6 address towards it, with the link-local one where it is on our link.
    pub local_v6: Option<NextHop>,
}

impl PeerView {
    /// A peer on a session between these two addresses, with no address of the other family known.
    pub fn new(address: IpAddr, local: IpAddr) -> PeerView {
        let (local_v4, local_v6) = if local.is_ipv4() { (Some(local), None) } else { (None, Some(local.into())) };
        PeerView { address, local_v4, local_v6 }
    }
}
