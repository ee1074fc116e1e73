//! The packet filter side of the room: pods reach the world, and the world reaches pods (pure).
//!
//! What pods send to anywhere but pods and nodes of the cluster gets the node's source address. What comes from or goes
//! to the pod bridge is accepted in FORWARD, in a table of its own: a node may drop what nobody accepts in the FORWARD of
//! its iptables (Docker sets that policy), and an accept counts in the table that holds it alone.
//!
//! The sets follow the snapshot, so a new node's pods are known before the first packet to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::config::Config;
use crate::kernel::filter::{
    Base, BaseKind, Chain, Elements, Field, FieldType, Hook, Key, Match, Name, Rule, Ruleset, Selector, Set, Statement,
    merge_prefixes,
};
use crate::kernel::nft::priority;
use crate::model::Snapshot;
use crate::net::{Family, Prefix};

/// The nftables table of this room (family `inet`).
pub const TABLE: &str = "ferrovia-routing";
/// The table that accepts the traffic of pods: it belongs into iptables wherever a node has it.
pub const FORWARD_TABLE: &str = "ferrovia-pods";
/// The bridge pods are connected to.
pub const BRIDGE_LINK: &str = "kube-bridge";
/// The chain that translates what pods send out.
pub const EGRESS: &str = "pod-egress";
/// The most node addresses of one family.
const MOST_ADDRESSES: u32 = 65_536;
/// The links in [`LINKS`].
const MOST_LINKS: u32 = 16;
/// The set of links whose traffic is accepted.
const LINKS: &str = "pod-links";

/// The table of translation as it should be.
pub fn ruleset(snapshot: &Snapshot, config: &Config) -> Ruleset {
    let mut ruleset = Ruleset::default();
    if config.pod_egress {
        add_sets(snapshot, &mut ruleset);
        add_egress(&mut ruleset);
    }
    ruleset
}

/// Adds the sets of the cluster's pods and nodes where they are not there yet.
pub(super) fn add_sets(snapshot: &Snapshot, ruleset: &mut Ruleset) {
    for family in Family::ALL {
        let address = match family {
            Family::V4 => FieldType::Ipv4,
            Family::V6 => FieldType::Ipv6,
        };
        let pods = snapshot.nodes.values().flat_map(|node| &node.pod_cidrs).copied();
        let pods = merge_prefixes(pods.filter(|prefix: &Prefix| Family::of(prefix.addr()) == family));
        let set = Set { key: vec![address], elements: Elements::Prefixes(pods), size: 0 };
        ruleset.sets.insert(pods_set(family), set);
        let nodes: BTreeSet<Key> = snapshot
            .nodes
            .values()
            .flat_map(|node| node.addresses())
            .filter(|address| Family::of(*address) == family)
            .map(|address| vec![Field::from(address)])
            .collect();
        let set = Set { key: vec![address], elements: Elements::Keys(nodes), size: MOST_ADDRESSES };
        ruleset.sets.insert(nodes_set(family), set);
    }
}

fn add_egress(ruleset: &mut Ruleset) {
    let rules = Family::ALL
        .into_iter()
        .map(|family| {
            let (source, destination) = match family {
                Family::V4 => (Selector::Source4, Selector::Destination4),
                Family::V6 => (Selector::Source6, Selector::Destination6),
            };
            Rule {
                matches: vec![
                    in_set(source, pods_set(family), false),
                    in_set(destination, pods_set(family), true),
                    in_set(destination, nodes_set(family), true),
                ],
                statements: vec![Statement::Counter, Statement::Masquerade { random: true }],
                comment: Arc::from("pods to outside the cluster"),
            }
        })
        .collect();
    let base = Base { kind: BaseKind::Nat, hook: Hook::Postrouting, priority: priority::ROUTING_SOURCE_NAT };
    ruleset.chains.insert(Arc::from(EGRESS), Chain { base: Some(base), rules });
}

/// The table of acceptance. `uplink` is the link that carries the node's address, where it is known: what NodePorts of
/// this node send out there is accepted.
pub fn forward(uplink: Option<&str>) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let links: Name = Arc::from(LINKS);
    let bridge: Name = Arc::from(BRIDGE_LINK);
    let names = [Some(BRIDGE_LINK), uplink].into_iter().flatten();
    let elements = Elements::Keys(names.map(|name| vec![Field::Interface(Arc::from(name))]).collect());
    let set = Set { key: vec![FieldType::Interface], elements, size: MOST_LINKS };
    ruleset.sets.insert(Arc::clone(&links), set);
    let accept = |matches, comment: &str| Rule {
        matches,
        statements: vec![Statement::Counter, Statement::Accept],
        comment: Arc::from(comment),
    };
    let rules = vec![
        accept(vec![Match::InputInterface { name: bridge, negated: false }], "from pods"),
        accept(vec![in_set(Selector::OutputInterface, links, false)], "to pods, and from NodePorts to the world"),
    ];
    let base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: priority::ROUTING_FORWARD };
    ruleset.chains.insert(Arc::from("forward"), Chain { base: Some(base), rules });
    ruleset
}

fn in_set(selector: Selector, set: Name, negated: bool) -> Match {
    Match::InSet { selectors: vec![selector], set, negated }
}

pub(super) fn pods_set(family: Family) -> Name {
    Arc::from(match family {
        Family::V4 => "pods4",
        Family::V6 => "pods6",
    })
}

pub(super) fn nodes_set(family: Family) -> Name {
    Arc::from(match family {
        Family::V4 => "nodes4",
        Family::V6 => "nodes6",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Node, NodeName};
    use crate::testing::builders::{cluster, ip, prefix};

    fn two_nodes() -> Snapshot {
        let mut snapshot = cluster("n1").build();
        let node = Node {
            internal_ips: vec![ip("192.168.10.12")],
            external_ips: vec![ip("203.0.113.12")],
            pod_cidrs: vec![prefix("10.244.0.0/24")],
            ..Node::default()
        };
        snapshot.nodes.insert(NodeName::new("n2"), Arc::new(node));
        snapshot
    }

    #[test]
    fn the_sets_hold_the_pods_and_addresses_of_every_node() {
        let ruleset = ruleset(&two_nodes(), &Config::default());
        let prefixes = |name: &str| match &ruleset.sets[name].elements {
            Elements::Prefixes(prefixes) => prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Elements::Keys(_) => Vec::new(),
        };
        assert_eq!(prefixes("pods4"), ["10.244.0.0/23"], "neighbours are merged");
        assert_eq!(prefixes("pods6"), ["fd00:244:1::/64"]);
        let keys = |name: &str| match &ruleset.sets[name].elements {
            Elements::Keys(keys) => keys.len(),
            Elements::Prefixes(_) => 0,
        };
        assert_eq!((keys("nodes4"), keys("nodes6")), (3, 1));
    }

    #[test]
    fn only_what_leaves_the_cluster_is_masqueraded() {
        let ruleset = ruleset(&two_nodes(), &Config::default());
        let chain = &ruleset.chains[EGRESS];
        assert_eq!(chain.rules.len(), 2);
        for rule in &chain.rules {
            let negated: Vec<bool> =
                rule.matches.iter().map(|condition| matches!(condition, Match::InSet { negated: true, .. })).collect();
            assert_eq!(negated, [false, true, true]);
        }
    }

    #[test]
    fn without_pod_egress_only_forwarding_is_left() {
        let config = Config { pod_egress: false, ..Config::default() };
        assert_eq!(ruleset(&two_nodes(), &config), Ruleset::default());
        let links = |uplink| match &forward(uplink).sets[LINKS].elements {
            Elements::Keys(keys) => keys.len(),
            Elements::Prefixes(_) => 0,
        };
        assert_eq!((links(None), links(Some("eth0"))), (1, 2));
    }
}
