//! Policies made ready for one peer: cheap for each route, and comparable.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{
    Actions, AsPathRange, Compare, Conditions, DefinedSets, Direction, MatchMode, NextHopAction, PeerView, PolicySet,
    PrefixSet, PrefixSets, RouteType, SetMatch, Statement, Verdict,
};
use crate::net::{Family, Prefix};
use crate::routing::bgp::types::{AsPath, Attributes, NextHop};

/// All that a policy looks at in a prefix: it decides equally about routes with equal attributes to two prefixes of one
/// class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class(u64);

/// The policies one peer meets in one direction.
///
/// Equal values decide equally about every route; the converse need not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    statements: Vec<Ready>,
    default: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ready {
    prefix: Option<Listed>,
    as_path: Option<(Vec<AsPathRange>, MatchMode)>,
    as_path_length: Option<Compare>,
    community: Option<(Vec<u32>, MatchMode)>,
    extended_community: Option<(Vec<[u8; 8]>, MatchMode)>,
    large_community: Option<(Vec<[u32; 3]>, MatchMode)>,
    families: Vec<Family>,
    route_type: Option<RouteType>,
    next_hop_v4: Option<ReadyNextHop>,
    next_hop_v6: Option<ReadyNextHop>,
    actions: Actions,
    verdict: Option<Verdict>,
}

/// A condition on a prefix set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    name: String,
    set: PrefixSet,
    mode: MatchMode,
}

impl Listed {
    fn holds(&self, prefix: &Prefix) -> bool {
        self.set.matches(prefix) != (self.mode == MatchMode::Invert)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadyNextHop {
    Unchanged,
    Address(NextHop),
}

impl PeerPolicy {
    /// A policy that takes everything as it is.
    pub fn accept() -> PeerPolicy {
        PeerPolicy { statements: Vec::new(), default: Verdict::Accept }
    }

    pub(super) fn new(set: &PolicySet, ready: &PrefixSets, direction: Direction, peer: &PeerView) -> PeerPolicy {
        let assignment = set.assignment(direction, peer.address);
        let policies =
            assignment.policies.iter().filter_map(|name| set.policies.iter().find(|policy| policy.name == *name));
        let statements = policies
            .flat_map(|policy| &policy.statements)
            .filter_map(|statement| Ready::new(statement, &set.sets, ready, peer))
            .collect();
        PeerPolicy { statements, default: assignment.default }
    }

    /// The class of a prefix; `None` where there are too many conditions to tell classes apart.
    pub fn class(&self, prefix: &Prefix) -> Option<Class> {
        const MOST: usize = 63;
        let mut class = u64::from(prefix.addr().is_ipv6());
        for (n, listed) in self.statements.iter().filter_map(|statement| statement.prefix.as_ref()).enumerate() {
            if n == MOST {
                return None;
            }
            class = class << 1 | u64::from(listed.holds(prefix));
        }
        Some(Class(class))
    }

    /// A prefix set is another now.
    pub fn replace_prefix_set(&mut self, name: &str, set: &PrefixSet) {
        for listed in self.statements.iter_mut().filter_map(|statement| statement.prefix.as_mut()) {
            if listed.name == name {
                listed.set = set.clone();
            }
        }
    }

    /// The route after this policy, borrowed where nothing changed; `None` where it was rejected.
    ///
    /// `received` is the next hop the route came with, for a statement that wants it unchanged.
    pub fn evaluate<'a>(
        &self,
        prefix: &Prefix,
        route_type: RouteType,
        attributes: &'a Attributes,
        received: NextHop,
    ) -> Option<Cow<'a, Attributes>> {
        let family = Family::of(prefix.addr());
        let mut route = Cow::Borrowed(attributes);
        let mut verdict = self.default;
        for statement in &self.statements {
            if !statement.matches(prefix, family, route_type, &route) {
                continue;
            }
            if statement.verdict != Some(Verdict::Reject) {
                statement.apply(family, received, &mut route);
            }
            if let Some(decided) = statement.verdict {
                verdict = decided;
                break;
            }
        }
        (verdict == Verdict::Accept).then_some(route)
    }
}

impl Ready {
    /// `None` where the peer or an undefined set keeps it from ever matching.
    fn new(statement: &Statement, sets: &DefinedSets, ready: &PrefixSets, peer: &PeerView) -> Option<Ready> {
        let Conditions { neighbor_set, .. } = &statement.conditions;
        if let Some((neighbors, mode)) = resolve(neighbor_set.as_ref(), &sets.neighbor)? {
            let is_in = neighbors.iter().any(|prefix| prefix.contains(&peer.address));
            if is_in == (mode == MatchMode::Invert) {
                return None;
            }
        }
        let conditions = &statement.conditions;
        let actions = &statement.actions;
        Some(Ready {
            prefix: match &conditions.prefix_set {
                Some(SetMatch { set: name, mode }) => {
                    Some(Listed { name: name.clone(), set: ready.get(name)?.clone(), mode: *mode })
                }
                None => None,
            },
            as_path: resolve(conditions.as_path_set.as_ref(), &sets.as_path)?,
            as_path_length: conditions.as_path_length,
            community: resolve(conditions.community_set.as_ref(), &sets.community)?,
            extended_community: resolve(conditions.extended_community_set.as_ref(), &sets.extended_community)?,
            large_community: resolve(conditions.large_community_set.as_ref(), &sets.large_community)?,
            families: conditions.families.clone(),
            route_type: conditions.route_type,
            next_hop_v4: actions
                .next_hop_v4
                .and_then(|action| ready_next_hop(action, peer.local_v4.map(NextHop::from), peer)),
            next_hop_v6: actions.next_hop_v6.and_then(|action| ready_next_hop(action, peer.local_v6, peer)),
            actions: Actions { next_hop_v4: None, next_hop_v6: None, ..actions.clone() },
            verdict: statement.verdict,
        })
    }

    fn matches(&self, prefix: &Prefix, family: Family, route_type: RouteType, attributes: &Attributes) -> bool {
        (self.families.is_empty() || self.families.contains(&family))
            && self.route_type.is_none_or(|wanted| wanted == route_type)
            && self.prefix.as_ref().is_none_or(|listed| listed.holds(prefix))
            && self.as_path_length.is_none_or(|compare| compare.holds(attributes.as_path.hops()))
            && holds(self.as_path.as_ref(), |range| range.matches(&attributes.as_path))
            && holds(self.community.as_ref(), |value| attributes.communities.contains(value))
            && holds(self.extended_community.as_ref(), |value| attributes.extended_communities.contains(value))
            && holds(self.large_community.as_ref(), |value| attributes.large_communities.contains(value))
    }

    fn apply(&self, family: Family, received: NextHop, route: &mut Cow<'_, Attributes>) {
        let next_hop = match family {
            Family::V4 => self.next_hop_v4,
            Family::V6 => self.next_hop_v6,
        };
        let next_hop = next_hop.map(|action| match action {
            ReadyNextHop::Unchanged => received,
            ReadyNextHop::Address(address) => address,
        });
        if let Some(next_hop) = next_hop.filter(|next_hop| *next_hop != route.next_hop) {
            route.to_mut().next_hop = next_hop;
        }
        if !self.actions.is_empty() {
            self.actions.apply(route.to_mut());
        }
    }
}

impl AsPathRange {
    fn matches(&self, path: &AsPath) -> bool {
        match *self {
            AsPathRange::From(asn) => path.first() == Some(asn),
            AsPathRange::Through(asn) => path.contains(asn),
            AsPathRange::Origin(asn) => path.0.last() == Some(&asn),
            AsPathRange::Only(asn) => !path.0.is_empty() && path.0.iter().all(|hop| *hop == asn),
        }
    }
}

/// The values of the set a condition names: `None` where nobody defined it, `Some(None)` without a condition.
fn resolve<T: Clone>(
    condition: Option<&SetMatch>,
    sets: &BTreeMap<String, Vec<T>>,
) -> Option<Option<(Vec<T>, MatchMode)>> {
    let Some(SetMatch { set, mode }) = condition else { return Some(None) };
    sets.get(set).map(|values| Some((values.clone(), *mode)))
}

fn ready_next_hop(action: NextHopAction, own: Option<NextHop>, peer: &PeerView) -> Option<ReadyNextHop> {
    match action {
        NextHopAction::Own => own.map(ReadyNextHop::Address),
        NextHopAction::Unchanged => Some(ReadyNextHop::Unchanged),
        NextHopAction::Peer => Some(ReadyNextHop::Address(peer.address.into())),
        NextHopAction::Address(address) => Some(ReadyNextHop::Address(address.into())),
    }
}

fn holds<T>(condition: Option<&(Vec<T>, MatchMode)>, is_there: impl Fn(&T) -> bool) -> bool {
    condition.is_none_or(|(values, mode)| match mode {
        MatchMode::Any => values.iter().any(is_there),
        MatchMode::All => !values.is_empty() && values.iter().all(is_there),
        MatchMode::Invert => !values.iter().any(is_there),
    })
}
