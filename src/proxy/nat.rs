//! The packet filter side of the room: source translation, refusal, marks (pure).
//!
//! One `inet` table. Its chains and small sets are the *frame*, which changes rarely and is compared as a whole; the
//! large sets hold one [`Element`] for each virtual server, VIP or local endpoint and change one by one. No rule names
//! an endpoint.
//!
//! Whose source is translated, for a connection that IPVS has sent to an endpoint ([`SNAT`]):
//!
//! | client | endpoint | source becomes | because |
//! | --- | --- | --- | --- |
//! | any, with `--masquerade-all` | any | the node | asked for |
//! | a pod | itself | the VIP | or it would answer itself past us |
//! | the node, from a VIP | any | the node | a VIP is an address of every node |
//! | a pod of this node | any other | stays | its replies pass this node |
//! | any | on this node | stays | replies pass this node |
//! | any | on another node | the node | the other node would answer the client directly, from the wrong address |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::book::{Book, Element};
use super::desired::{SourceRanges, Tuple};
use super::dsr::DsrNeeds;
use super::{Config, NodeView};
use crate::kernel::filter::plan::Change;
use crate::kernel::filter::{
    Base, BaseKind, Chain, CtState, Elements, Field, FieldType, Hook, Key, Map, Match, Name, Rule, Ruleset, Selector,
    Set, Statement, Value, ValueType, merge_prefixes,
};
use crate::kernel::ipvs::VirtualServerKey;
use crate::kernel::nft::priority;
use crate::model::ServiceKey;
use crate::net::{Family, Prefix, Protocol};

/// The chain that decides about sources.
pub const SNAT: &str = "source-nat";
/// The chain that guards VIPs.
pub const GUARD: &str = "guard";
/// The most elements a large set may hold: far above what a node can serve, so that memory stays bounded.
const LARGE: u32 = 262_144;
/// The most entries of the small maps and sets.
const SMALL: u32 = 65_536;

/// What the frame depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Translate every source.
    pub masquerade_all: bool,
    /// Refuse what is for no virtual server.
    pub input_firewall: bool,
    /// This node's address in each family.
    pub node_addresses: Vec<IpAddr>,
    /// All addresses of this node that are no VIPs.
    pub local_addresses: Vec<IpAddr>,
    /// Prefixes of the pods on this node.
    pub pod_cidrs: Vec<Prefix>,
    /// Source ranges by Service.
    pub sources: BTreeMap<ServiceKey, SourceRanges>,
    /// Virtual servers with direct return.
    pub direct: DsrNeeds,
    /// MTU of the uplink, bytes; packets to direct servers are encapsulated and must fit.
    pub mtu: u32,
}

impl Frame {
    /// The frame for a node and what Services ask of it.
    pub fn new(config: &Config, node: &NodeView, book: &Book, direct: DsrNeeds) -> Frame {
        Frame {
            masquerade_all: config.masquerade_all,
            input_firewall: config.input_firewall,
            node_addresses: Family::ALL.into_iter().filter_map(|family| node.best_ip(family)).collect(),
            local_addresses: node.local_addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            sources: sources_in_force(book),
            direct,
            mtu: node.mtu,
        }
    }

    /// The whole table: the frame with these elements in the large sets.
    pub fn ruleset<'a>(&self, elements: impl Iterator<Item = &'a Element>) -> Ruleset {
        let mut ruleset = Ruleset::default();
        self.add_sets(&mut ruleset, elements);
        self.add_source_nat(&mut ruleset);
        if self.input_firewall || !self.sources.is_empty() {
            self.add_guard(&mut ruleset);
        }
        self.direct.add_to(&mut ruleset, self.mtu);
        ruleset
    }

    fn add_sets<'a>(&self, ruleset: &mut Ruleset, elements: impl Iterator<Item = &'a Element>) {
        let mut keys: BTreeMap<Name, BTreeSet<Key>> = BTreeMap::new();
        for element in elements {
            let (set, key) = place(element);
            keys.entry(set).or_default().insert(key);
        }
        for family in Family::ALL {
            let address = address_type(family);
            let large = [
                (open_set(family), vec![address, FieldType::Protocol, FieldType::Port]),
                (guarded_set(family), vec![address]),
                (hairpin_set(family), vec![address, address]),
            ];
            for (name, key) in large {
                let elements = Elements::Keys(keys.remove(&name).unwrap_or_default());
                ruleset.sets.insert(name, Set { key, elements, size: LARGE });
            }
            let own = self.local_addresses.iter().filter(|address| Family::of(**address) == family);
            let elements = Elements::Keys(own.map(|address| vec![Field::from(*address)]).collect());
            ruleset.sets.insert(node_set(family), Set { key: vec![address], elements, size: SMALL });
            let pods = self.pod_cidrs.iter().copied().filter(|prefix| prefix_family(prefix) == family);
            let elements = Elements::Prefixes(merge_prefixes(pods));
            ruleset.sets.insert(pods_set(family), Set { key: vec![address], elements, size: 0 });
        }
        for protocol in Protocol::ALL {
            let name = node_ports_set(protocol);
            let elements = Elements::Keys(keys.remove(&name).unwrap_or_default());
            ruleset.sets.insert(name, Set { key: vec![FieldType::Port], elements, size: SMALL });
        }
    }

    fn add_source_nat(&self, ruleset: &mut Ruleset) {
        let mut entry = Vec::new();
        for family in Family::ALL {
            let Some(node_address) = self.node_address(family) else { continue };
            let chain: Name = Arc::from(format!("{SNAT}{}", suffix(family)));
            let asked = match family {
                Family::V4 => Selector::OriginalDestination4,
                Family::V6 => Selector::OriginalDestination6,
            };
            entry.push(rule(
                "asked of a VIP",
                vec![in_set(vec![asked], guarded_set(family))],
                vec![Statement::Jump(Arc::clone(&chain))],
            ));
            for protocol in Protocol::ALL {
                entry.push(rule(
                    "asked of a port of this node",
                    vec![
                        in_set(vec![asked], node_set(family)),
                        Match::Protocol(protocol),
                        in_set(vec![Selector::OriginalDestinationPort], node_ports_set(protocol)),
                    ],
                    vec![Statement::Jump(Arc::clone(&chain))],
                ));
            }
            ruleset.chains.insert(chain, Chain { base: None, rules: self.source_nat_rules(family, node_address) });
        }
        let base = Base { kind: BaseKind::Nat, hook: Hook::Postrouting, priority: priority::PROXY_SOURCE_NAT };
        ruleset.chains.insert(Arc::from("postrouting"), Chain { base: Some(base), rules: entry });
    }

    fn source_nat_rules(&self, family: Family, node_address: IpAddr) -> Vec<Rule> {
        let to_node = || vec![Statement::Counter, Statement::Snat { to: node_address, random: true }];
        let (source, destination) = ends(family);
        let mut rules = vec![rule(
            "an endpoint asks itself",
            vec![in_set(vec![source, destination], hairpin_set(family))],
            vec![Statement::Counter, Statement::SnatToOriginalDestination { family }],
        )];
        if self.masquerade_all {
            rules.push(rule("masquerade-all", Vec::new(), to_node()));
            return rules;
        }
        rules.extend([
            rule("the node asks from a VIP", vec![in_set(vec![source], guarded_set(family))], to_node()),
            rule("client pod of this node", vec![in_set(vec![source], pods_set(family))], vec![Statement::Return]),
            rule("endpoint on this node", vec![in_set(vec![destination], pods_set(family))], vec![Statement::Return]),
            rule(
                "endpoint on this node, outside its pod prefixes",
                vec![in_set(vec![destination, destination], hairpin_set(family))],
                vec![Statement::Return],
            ),
            rule(
                "endpoint in the host network",
                vec![Match::DestinationIsLocal { negated: false }],
                vec![Statement::Return],
            ),
            rule("endpoint on another node", Vec::new(), to_node()),
        ]);
        rules
    }

    fn add_guard(&self, ruleset: &mut Ruleset) {
        let guard: Name = Arc::from(GUARD);
        let mut entry = Vec::new();
        if !self.sources.is_empty() {
            self.add_source_ranges(ruleset, &mut entry);
        }
        if self.input_firewall {
            for family in Family::ALL {
                entry.push(rule(
                    "traffic to a VIP",
                    vec![in_set(vec![ends(family).1], guarded_set(family))],
                    vec![Statement::Jump(Arc::clone(&guard))],
                ));
            }
            ruleset.chains.insert(guard, Chain { base: None, rules: guard_rules() });
        }
        let base = Base { kind: BaseKind::Filter, hook: Hook::Input, priority: priority::PROXY_INPUT };
        ruleset.chains.insert(Arc::from("input"), Chain { base: Some(base), rules: entry });
    }

    /// One chain for each Service with source ranges, found by its virtual servers.
    fn add_source_ranges(&self, ruleset: &mut Ruleset, entry: &mut Vec<Rule>) {
        let mut maps: BTreeMap<Family, BTreeMap<Key, Value>> = BTreeMap::new();
        for (index, (service, sources)) in self.sources.iter().enumerate() {
            let chain: Name = Arc::from(format!("sources-{index}"));
            let mut rules = Vec::new();
            for family in Family::ALL {
                let prefixes =
                    merge_prefixes(sources.prefixes.iter().copied().filter(|prefix| prefix_family(prefix) == family));
                if prefixes.is_empty() {
                    continue;
                }
                let name: Name = Arc::from(format!("sources-{index}{}", suffix(family)));
                let elements = Elements::Prefixes(prefixes);
                ruleset.sets.insert(Arc::clone(&name), Set { key: vec![address_type(family)], elements, size: 0 });
                rules.push(rule("granted source", vec![in_set(vec![ends(family).0], name)], vec![Statement::Return]));
            }
            rules.push(rule(
                &format!("loadBalancerSourceRanges of {service}"),
                Vec::new(),
                vec![Statement::Counter, Statement::Drop],
            ));
            ruleset.chains.insert(Arc::clone(&chain), Chain { base: None, rules });
            for tuple in &sources.tuples {
                maps.entry(Family::of(tuple.0)).or_default().insert(tuple_key(tuple), Value::Jump(Arc::clone(&chain)));
            }
        }
        for (family, elements) in maps {
            let name: Name = Arc::from(format!("sources{}", suffix(family)));
            let key = vec![address_type(family), FieldType::Protocol, FieldType::Port];
            entry.push(rule(
                "who may reach a load balancer VIP",
                Vec::new(),
                vec![Statement::VerdictMap { selectors: destination_tuple(family), map: Arc::clone(&name) }],
            ));
            ruleset.maps.insert(name, Map { key, elements, value: ValueType::Verdict, size: SMALL });
        }
    }

    fn node_address(&self, family: Family) -> Option<IpAddr> {
        self.node_addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// Source ranges by Service, without the virtual servers that belong to another Service: its clients are not theirs to
/// choose.
fn sources_in_force(book: &Book) -> BTreeMap<ServiceKey, SourceRanges> {
    let direct = book.direct();
    let owns = |service: &ServiceKey, tuple: &Tuple| {
        let (address, protocol, port) = *tuple;
        let owner = book.owner(&VirtualServerKey::Address { address, protocol, port });
        let owner = owner.or_else(|| direct.get(tuple).map(|(owner, _)| *owner));
        owner == Some(service)
    };
    let in_force = |(service, sources): (&ServiceKey, &SourceRanges)| {
        let tuples: Vec<Tuple> = sources.tuples.iter().filter(|tuple| owns(service, tuple)).copied().collect();
        let sources = SourceRanges { tuples, prefixes: sources.prefixes.clone() };
        (!sources.tuples.is_empty()).then(|| (service.clone(), sources))
    };
    book.sources().filter_map(in_force).collect()
}

/// The changes of the large sets that these elements mean.
pub fn element_changes(added: &[Element], removed: &[Element]) -> Vec<Change> {
    let by_set = |elements: &[Element]| {
        let mut keys: BTreeMap<Name, Vec<Key>> = BTreeMap::new();
        for element in elements {
            let (set, key) = place(element);
            keys.entry(set).or_default().push(key);
        }
        keys
    };
    let adds = by_set(added).into_iter().map(|(set, keys)| Change::AddKeys(set, keys));
    let deletes = by_set(removed).into_iter().map(|(set, keys)| Change::DeleteKeys(set, keys));
    adds.chain(deletes).collect()
}

/// What passes to a VIP, in order; the rest is refused.
fn guard_rules() -> Vec<Rule> {
    let mut rules = vec![rule(
        "replies to the node's own connections",
        vec![Match::CtState(vec![CtState::Established, CtState::Related])],
        vec![Statement::Accept],
    )];
    for family in Family::ALL {
        rules.push(rule(
            "a virtual server",
            vec![in_set(destination_tuple(family), open_set(family))],
            vec![Statement::Accept],
        ));
    }
    // Echo request, destination unreachable, time exceeded; for IPv6 also packet too big, echo reply and neighbour
    // discovery, without which paths with a smaller MTU and the link itself stop working.
    for (family, types) in [(Family::V4, vec![3, 8, 11]), (Family::V6, vec![1, 2, 3, 128, 129, 135, 136])] {
        rules.push(rule(
            "ICMP that a host must hear",
            vec![Match::IcmpTypes { family, types }],
            vec![Statement::Accept],
        ));
    }
    rules.push(rule("no virtual server here", Vec::new(), vec![Statement::Counter, Statement::Reject]));
    rules
}

/// The set an element belongs to, and its key there.
fn place(element: &Element) -> (Name, Key) {
    match element {
        Element::Open(tuple) => (open_set(Family::of(tuple.0)), tuple_key(tuple)),
        Element::Guarded(address) => (guarded_set(Family::of(*address)), vec![Field::from(*address)]),
        Element::NodePort(protocol, port) => (node_ports_set(*protocol), vec![Field::Port(*port)]),
        Element::Hairpin(address) => {
            (hairpin_set(Family::of(*address)), vec![Field::from(*address), Field::from(*address)])
        }
    }
}

fn tuple_key((address, protocol, port): &Tuple) -> Key {
    vec![Field::from(*address), Field::Protocol(*protocol), Field::Port(*port)]
}

fn rule(comment: &str, matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: Arc::from(comment) }
}

fn in_set(selectors: Vec<Selector>, set: Name) -> Match {
    Match::InSet { selectors, set, negated: false }
}

fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "4",
        Family::V6 => "6",
    }
}

fn open_set(family: Family) -> Name {
    Arc::from(format!("virtual-servers{}", suffix(family)))
}

fn guarded_set(family: Family) -> Name {
    Arc::from(format!("vips{}", suffix(family)))
}

fn node_set(family: Family) -> Name {
    Arc::from(format!("node-addresses{}", suffix(family)))
}

fn node_ports_set(protocol: Protocol) -> Name {
    Arc::from(format!("node-ports-{protocol}"))
}

fn hairpin_set(family: Family) -> Name {
    Arc::from(format!("local-endpoints{}", suffix(family)))
}

fn pods_set(family: Family) -> Name {
    Arc::from(format!("local-pods{}", suffix(family)))
}

fn address_type(family: Family) -> FieldType {
    match family {
        Family::V4 => FieldType::Ipv4,
        Family::V6 => FieldType::Ipv6,
    }
}

fn prefix_family(prefix: &Prefix) -> Family {
    Family::of(prefix.addr())
}

/// Source and destination address of a packet.
fn ends(family: Family) -> (Selector, Selector) {
    match family {
        Family::V4 => (Selector::Source4, Selector::Destination4),
        Family::V6 => (Selector::Source6, Selector::Destination6),
    }
}

fn destination_tuple(family: Family) -> Vec<Selector> {
    vec![ends(family).1, Selector::Protocol, Selector::DestinationPort]
}
