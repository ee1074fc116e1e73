//! The policies a node has without anybody writing one: kube-router's, under kube-router's names.
//!
//! Export rejects all but the node's own pod CIDRs and VIPs; import takes all but the VIPs, default routes that nobody
//! allowed, and what the operator refuses. Two differences, on purpose: IPv6 neighbours get the pod CIDRs by their own set instead of by an
//! empty one that matched everybody, and a reflector keeps its export rules towards external peers while what other
//! nodes sent it passes between internal ones, among which are routers outside that share the nodes' AS. One addition, in
//! a policy of its own: what a router of another AS is about to take back is preferred least (RFC 8326).

use std::net::IpAddr;

use super::{
    Actions, Assignment, Change, Conditions, Policy, PolicySet, PrefixRange, Prepend, RouteType, SetMatch, Statement,
    Verdict,
};
use crate::net::{Family, Prefix, host_prefix};
use crate::routing::bgp::types::community;

/// What the policies of a node are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePolicy {
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<Prefix>,
    /// The VIPs it announces now.
    pub vips: Vec<IpAddr>,
    /// All nodes' primary addresses, with this one's; empty without iBGP.
    pub node_addresses: Vec<IpAddr>,
    /// External peers, by address or by range. What a range has in common with `node_addresses` is nodes.
    pub external_peers: Vec<Prefix>,
    /// Those of them in this node's own AS, such as an edge router that is a client of the reflector.
    pub own_as_peers: Vec<Prefix>,
    /// Those of them that are told next hops as they are, whatever `override_next_hop` says.
    pub unchanged_peers: Vec<Prefix>,
    /// Those of them that are told our address, whatever it says.
    pub own_next_hop_peers: Vec<Prefix>,
    /// In front of the AS path towards external peers.
    pub prepend: Option<Prepend>,
    /// Added towards external peers.
    pub communities: Vec<u32>,
    /// What is refused from every peer, with all under it.
    pub import_reject: Vec<Prefix>,
    /// The families whose default route is taken.
    pub default_routes: Vec<Family>,
    /// Tell external peers the pod CIDRs too.
    pub advertise_pod_cidr: bool,
    /// Next hop self towards external peers.
    pub override_next_hop: bool,
    /// This node reflects between internal peers.
    pub reflector: bool,
    /// What another AS marks with GRACEFUL_SHUTDOWN is preferred least.
    pub graceful_shutdown: bool,
}

const LEAVING: &str = "ferrovia_graceful_shutdown";
const IMPORT: &str = "kube_router_import1";
const EXPORT: &str = "kube_router_export1";
const PODS: &str = "podcidrdefinedset";
const VIPS: &str = "servicevipsdefinedset";
const DEFAULT_ROUTE: &str = "defaultroutedefinedset";
const REFUSED: &str = "customimportrejectdefinedset";
const INTERNAL: &str = "iBGPpeerset";
const EXTERNAL: &str = "externalpeerset";
const ALL: &str = "allpeerset";
const OWN_AS: &str = "ownaspeerset";
const UNCHANGED: &str = "nexthopunchangedpeerset";
const OWN_NEXT_HOP: &str = "nexthopselfpeerset";

/// The prefix set that holds the VIPs of a family: it changes by itself, without the rest of the configuration.
pub fn vip_set(family: Family) -> String {
    twin(VIPS, family)
}

/// The whole configuration made from these inputs.
pub fn node_policies(node: &NodePolicy) -> PolicySet {
    let mut set = PolicySet::default();
    add_prefix_sets(&mut set, node);
    let nodes: Vec<Prefix> = node.node_addresses.iter().copied().map(host_prefix).collect();
    let all: Vec<Prefix> = node.external_peers.iter().chain(&nodes).copied().collect();
    add_neighbor_set(&mut set, INTERNAL, &nodes);
    add_neighbor_set(&mut set, EXTERNAL, &node.external_peers);
    add_neighbor_set(&mut set, ALL, &all);
    if node.reflector && !node.own_as_peers.is_empty() {
        add_neighbor_set(&mut set, OWN_AS, &node.own_as_peers);
    }
    if node.override_next_hop && !node.unchanged_peers.is_empty() {
        add_neighbor_set(&mut set, UNCHANGED, &node.unchanged_peers);
    }
    if !node.override_next_hop && !node.own_next_hop_peers.is_empty() {
        add_neighbor_set(&mut set, OWN_NEXT_HOP, &node.own_next_hop_peers);
    }
    let import = [VIPS, DEFAULT_ROUTE, REFUSED]
        .into_iter()
        .flat_map(|prefixes| twins(&set, prefixes, ALL, &Actions::default(), Verdict::Reject))
        .collect();
    let export = export_statements(&set, node);
    let mut imports = vec![IMPORT.to_owned()];
    if node.graceful_shutdown {
        let leaving = leaving_statements(&mut set, node);
        set.policies.push(Policy { name: LEAVING.to_owned(), statements: leaving });
        imports.insert(0, LEAVING.to_owned());
    }
    set.policies.push(Policy { name: IMPORT.to_owned(), statements: import });
    set.policies.push(Policy { name: EXPORT.to_owned(), statements: export });
    set.import = Assignment { policies: imports, default: Verdict::Accept };
    set.export = Assignment { policies: vec![EXPORT.to_owned()], default: Verdict::Reject };
    set
}

/// GRACEFUL_SHUTDOWN from another AS lowers the preference to 0: any other path is better (RFC 8326 4.1).
fn leaving_statements(set: &mut PolicySet, node: &NodePolicy) -> Vec<Statement> {
    if node.external_peers.is_empty() {
        return Vec::new();
    }
    set.sets.community.insert(LEAVING.to_owned(), vec![community::GRACEFUL_SHUTDOWN]);
    let conditions = Conditions {
        community_set: Some(SetMatch::any(LEAVING)),
        route_type: Some(RouteType::External),
        ..Conditions::default()
    };
    let actions = Actions { local_pref: Some(0), ..Actions::default() };
    vec![Statement { name: LEAVING.to_owned(), conditions, actions, verdict: None }]
}

fn export_statements(set: &PolicySet, node: &NodePolicy) -> Vec<Statement> {
    let mut statements = twins(set, PODS, INTERNAL, &Actions::default(), Verdict::Accept);
    // A range of external peers may have nodes in it, and nodes hear no VIPs.
    if node.external_peers.iter().any(|peers| *peers != host_prefix(peers.addr())) {
        statements.extend(twins(set, VIPS, INTERNAL, &Actions::default(), Verdict::Reject));
    }
    let mut actions = if node.override_next_hop { Actions::next_hop_own() } else { Actions::default() };
    actions.prepend = node.prepend;
    if !node.communities.is_empty() {
        actions.communities = vec![Change::Add(node.communities.clone())];
    }
    let told: &[&str] = if node.advertise_pod_cidr { &[VIPS, PODS] } else { &[VIPS] };
    // Before the rule for all of them, for the first one that applies decides.
    let as_it_is = Actions { next_hop_v4: None, next_hop_v6: None, ..actions.clone() };
    let Actions { next_hop_v4, next_hop_v6, .. } = Actions::next_hop_own();
    let as_ours = Actions { next_hop_v4, next_hop_v6, ..actions.clone() };
    for (peers, actions) in [(UNCHANGED, as_it_is), (OWN_NEXT_HOP, as_ours), (EXTERNAL, actions)] {
        statements.extend(told.iter().flat_map(|prefixes| twins(set, prefixes, peers, &actions, Verdict::Accept)));
    }
    if node.reflector {
        let internal = [INTERNAL.to_owned(), twin(INTERNAL, Family::V6), OWN_AS.to_owned(), twin(OWN_AS, Family::V6)];
        statements.extend(internal.into_iter().filter(|name| has_neighbors(set, name)).map(|name| Statement {
            name: format!("reflected{name}"),
            conditions: Conditions {
                neighbor_set: Some(SetMatch::any(name)),
                route_type: Some(RouteType::Internal),
                ..Conditions::default()
            },
            actions: Actions::default(),
            verdict: Some(Verdict::Accept),
        }));
    }
    statements
}

/// A statement for each pair of non-empty sets: routes of both families go over sessions of both.
fn twins(set: &PolicySet, prefixes: &str, neighbors: &str, actions: &Actions, verdict: Verdict) -> Vec<Statement> {
    let mut statements = Vec::new();
    for neighbor_family in Family::ALL {
        let neighbor_set = twin(neighbors, neighbor_family);
        for prefix_family in Family::ALL {
            let prefix_set = twin(prefixes, prefix_family);
            let has_prefixes = set.sets.prefix.get(&prefix_set).is_some_and(|ranges| !ranges.is_empty());
            if !has_prefixes || !has_neighbors(set, &neighbor_set) {
                continue;
            }
            statements.push(Statement {
                name: format!("{prefix_set}{neighbor_set}"),
                conditions: Conditions {
                    prefix_set: Some(SetMatch::any(prefix_set)),
                    neighbor_set: Some(SetMatch::any(neighbor_set.clone())),
                    ..Conditions::default()
                },
                actions: actions.clone(),
                verdict: Some(verdict),
            });
        }
    }
    statements
}

fn add_prefix_sets(set: &mut PolicySet, node: &NodePolicy) {
    let default_routes = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|text| text.parse::<Prefix>().ok());
    let default_routes = default_routes.filter(|route| !node.default_routes.contains(&Family::of(route.addr())));
    let exact = |prefixes: Vec<Prefix>| prefixes.into_iter().map(PrefixRange::exact).collect::<Vec<_>>();
    let sets = [
        (PODS, exact(node.pod_cidrs.clone())),
        (VIPS, exact(node.vips.iter().copied().map(host_prefix).collect())),
        (DEFAULT_ROUTE, exact(default_routes.collect())),
        (REFUSED, node.import_reject.iter().copied().map(PrefixRange::or_longer).collect()),
    ];
    for (name, ranges) in sets {
        for family in Family::ALL {
            let of_family = |range: &PrefixRange| Family::of(range.prefix.addr()) == family;
            let ranges = ranges.iter().copied().filter(of_family).collect();
            set.sets.prefix.insert(twin(name, family), ranges);
        }
    }
}

fn add_neighbor_set(set: &mut PolicySet, name: &str, peers: &[Prefix]) {
    for family in Family::ALL {
        let mut neighbors: Vec<Prefix> =
            peers.iter().filter(|peers| Family::of(peers.addr()) == family).copied().collect();
        neighbors.sort_unstable();
        neighbors.dedup();
        set.sets.neighbor.insert(twin(name, family), neighbors);
    }
}

fn has_neighbors(set: &PolicySet, name: &str) -> bool {
    set.sets.neighbor.get(name).is_some_and(|neighbors| !neighbors.is_empty())
}

fn twin(name: &str, family: Family) -> String {
    match family {
        Family::V4 => name.to_owned(),
        Family::V6 => format!("{name}v6"),
    }
}
