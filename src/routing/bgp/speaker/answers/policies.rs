//! Policies in the words of the API.

use std::net::IpAddr;

use super::peer_named;
use crate::net::Prefix;
use crate::routing::bgp::api::query::{
    Action, Assignment, Condition, DefinedSet, Direction, Match, Policy, Refusal, SetKind, Statement, Verdict,
};
use crate::routing::bgp::api::shown;
use crate::routing::bgp::policy::{
    self, AsPathRange, Change, Compare, MatchMode, Med, NextHopAction, PolicySet, RouteType, SetMatch,
};
use crate::routing::bgp::speaker::state::State;

/// What is assigned, to a peer or globally.
pub(super) fn assignment(state: &State, peer: Option<&str>, direction: Direction) -> Result<Assignment, Refusal> {
    let set = state.hub.policies();
    let way = match direction {
        Direction::Import => policy::Direction::Import,
        Direction::Export => policy::Direction::Export,
    };
    let (name, found) = match peer {
        Some(name) => {
            let id = peer_named(state, name)?;
            let address = state.peers.get(&id).map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.address);
            (address.to_string(), set.assignment(way, address))
        }
        None => {
            let global = if direction == Direction::Import { &set.import } else { &set.export };
            ("global".to_owned(), global)
        }
    };
    let named = |name: &String| set.policies.iter().find(|policy| policy.name == *name);
    Ok(Assignment {
        name,
        direction,
        policies: found.policies.iter().filter_map(named).map(one).collect(),
        default: verdict(found.default),
    })
}

/// All policies.
pub(super) fn all(set: &PolicySet) -> Vec<Policy> {
    set.policies.iter().map(one).collect()
}

fn one(policy: &policy::Policy) -> Policy {
    Policy { name: policy.name.clone(), statements: policy.statements.iter().map(statement).collect() }
}

fn verdict(verdict: policy::Verdict) -> Verdict {
    match verdict {
        policy::Verdict::Accept => Verdict::Accept,
        policy::Verdict::Reject => Verdict::Reject,
    }
}

fn statement(statement: &policy::Statement) -> Statement {
    Statement {
        name: statement.name.clone(),
        conditions: conditions(&statement.conditions),
        actions: actions(&statement.actions),
        verdict: statement.verdict.map(verdict),
    }
}

fn conditions(conditions: &policy::Conditions) -> Vec<Condition> {
    type Make = fn(Match, String) -> Condition;
    let sets: [(&Option<SetMatch>, Make); 6] = [
        (&conditions.prefix_set, Condition::Prefix),
        (&conditions.neighbor_set, Condition::Neighbor),
        (&conditions.as_path_set, Condition::AsPath),
        (&conditions.community_set, Condition::Community),
        (&conditions.extended_community_set, Condition::ExtendedCommunity),
        (&conditions.large_community_set, Condition::LargeCommunity),
    ];
    let mode = |mode| match mode {
        MatchMode::Any => Match::Any,
        MatchMode::All => Match::All,
        MatchMode::Invert => Match::Invert,
    };
    let mut out: Vec<Condition> = sets
        .into_iter()
        .filter_map(|(set, make)| set.as_ref().map(|set| make(mode(set.mode), set.set.clone())))
        .collect();
    out.extend(conditions.as_path_length.map(|length| match length {
        Compare::Equal(length) => Condition::AsPathLength(0, length),
        Compare::AtLeast(length) => Condition::AsPathLength(1, length),
        Compare::AtMost(length) => Condition::AsPathLength(2, length),
    }));
    out.extend(conditions.route_type.map(|origin| match origin {
        RouteType::Internal => Condition::RouteType(1),
        RouteType::External => Condition::RouteType(2),
        RouteType::Local => Condition::RouteType(3),
    }));
    if !conditions.families.is_empty() {
        out.push(Condition::Families(conditions.families.clone()));
    }
    out
}

fn actions(actions: &policy::Actions) -> Vec<Action> {
    let mut out = Vec::new();
    out.extend(actions.communities.iter().map(|change| {
        let (kind, list) = changed(change, |one| shown::community(*one));
        Action::Community(kind, list)
    }));
    out.extend(actions.extended_communities.iter().map(|change| {
        let (kind, list) = changed(change, shown::extended_community);
        Action::ExtendedCommunity(kind, list)
    }));
    out.extend(actions.large_communities.iter().map(|change| {
        let (kind, list) = changed(change, large);
        Action::LargeCommunity(kind, list)
    }));
    out.extend(actions.med.map(|med| match med {
        Med::Set(value) => Action::MedSet(value),
        Med::Add(more) => Action::MedAdd(i64::from(more)),
        Med::Sub(less) => Action::MedAdd(-i64::from(less)),
    }));
    out.extend(actions.local_pref.map(Action::LocalPref));
    out.extend(actions.prepend.map(|prepend| Action::Prepend(prepend.asn, u32::from(prepend.times))));
    // One for both families is all the API can say.
    out.extend(actions.next_hop_v4.or(actions.next_hop_v6).map(|hop| match hop {
        NextHopAction::Own => Action::NextHopSelf,
        NextHopAction::Unchanged => Action::NextHopUnchanged,
        NextHopAction::Peer => Action::NextHopPeer,
        NextHopAction::Address(address) => Action::NextHop(address),
    }));
    out
}

fn changed<T>(change: &Change<T>, text: impl Fn(&T) -> String) -> (u8, Vec<String>) {
    let (kind, list) = match change {
        Change::Add(list) => (0, list),
        Change::Remove(list) => (1, list),
        Change::Replace(list) => (2, list),
    };
    (kind, list.iter().map(text).collect())
}

fn large([a, b, c]: &[u32; 3]) -> String {
    format!("{a}:{b}:{c}")
}

/// Named sets of a kind.
pub(super) fn sets(set: &PolicySet, kind: SetKind) -> Vec<DefinedSet> {
    let sets = &set.sets;
    let of = |name: &String, list: Vec<String>| DefinedSet { kind, name: name.clone(), list, prefixes: Vec::new() };
    let exact = |text: String| format!("^{text}$");
    match kind {
        SetKind::Prefix => {
            let one = |(name, ranges): (&String, &Vec<policy::PrefixRange>)| DefinedSet {
                prefixes: ranges.iter().map(|range| (range.prefix, range.min, range.max)).collect(),
                ..of(name, Vec::new())
            };
            sets.prefix.iter().map(one).collect()
        }
        SetKind::Neighbor => {
            sets.neighbor.iter().map(|(name, list)| of(name, list.iter().map(Prefix::to_string).collect())).collect()
        }
        SetKind::AsPath => {
            sets.as_path.iter().map(|(name, list)| of(name, list.iter().map(as_path).collect())).collect()
        }
        SetKind::Community => {
            let text = |one: &u32| exact(format!("{}:{}", one >> 16, one & 0xffff));
            sets.community.iter().map(|(name, list)| of(name, list.iter().map(text).collect())).collect()
        }
        SetKind::ExtendedCommunity => {
            let text = |one: &[u8; 8]| exact(shown::extended_community(one));
            sets.extended_community.iter().map(|(name, list)| of(name, list.iter().map(text).collect())).collect()
        }
        SetKind::LargeCommunity => {
            let text = |one: &[u32; 3]| exact(large(one));
            sets.large_community.iter().map(|(name, list)| of(name, list.iter().map(text).collect())).collect()
        }
    }
}

fn as_path(range: &AsPathRange) -> String {
    match range {
        AsPathRange::From(asn) => format!("^{asn}_"),
        AsPathRange::Through(asn) => format!("_{asn}_"),
        AsPathRange::Origin(asn) => format!("_{asn}$"),
        AsPathRange::Only(asn) => format!("^{asn}$"),
    }
}
