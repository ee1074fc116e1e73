//! From policies and pods to the rules of one nftables table (pure).
//!
//! Two questions are asked of a packet, one after the other: may its sender send it ([`EGRESS`]), may its receiver have
//! it ([`INGRESS`]). Each has base chains of its own, so an `accept` that answers the first leaves the second open, and no
//! mark is needed. A verdict map leads from a pod's address to the chain for the policies it is under; pods under the
//! same policies share that chain. So the cost of a packet does not grow with the number of pods.
//!
//! ```text
//! forward, output ─▶ egress ─▶ replies accept ─▶ from me to me accept ─▶ egress4/6[source] ─▶ unknown pods drop
//!                                                                             │
//!                                                                             ▼
//!                                    send-… ─▶ one chain a policy: accept what it allows ─▶ log ─▶ reject
//! ```
//!
//! The tiers of cluster policies stand before and after that: `group` writes them.
//!
//! A connection that policies no longer allow is marked ([`ENDED_MARK`]) and not forgotten: connection tracking takes a
//! packet from the middle of a connection it does not know for the first of a new one
//! (`nf_conntrack_tcp_loose`), and what the server sends next would begin one that no policy forbids. What the client
//! sends on a marked one is judged anew, what the server sends is dropped.
//!
//! Packets that IPVS has sent to a pod pass OUTPUT, with the client's source and the pod as destination: what policies
//! are about. What the node itself sends to its pods is always allowed, and so is what pods send to their node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::book::Book;
use super::members::{Element, Members, SetKey, View};
use super::resolve::{Allow, AllowPeer, AllowPort, Direction, Resolved};
use super::table::Table;
use super::{Config, ENDED_MARK, nobody, tunnelled};
use crate::kernel::filter::{
    Base, BaseKind, Chain, CtState, Elements, Field, FieldType, Hook, Key, Map, Match, Name, Rule, Ruleset, Selector,
    Set, Statement, ValueType, merge_prefixes,
};
use crate::kernel::nft::priority;
use crate::model::{PolicyKey, Snapshot};
use crate::net::{Family, Prefix};

/// The chain that asks whether a packet may be sent.
pub const EGRESS: &str = "egress";
/// The chain that asks whether a packet may be received.
pub const INGRESS: &str = "ingress";
/// The most elements of the maps: far more pods than a node has.
const MOST_PODS: u32 = 4096;
/// The most addresses of a node in one family.
const MOST_NODE_ADDRESSES: u32 = 64;
/// The longest comment of a rule, bytes.
const COMMENT: usize = 100;

/// The whole table, from scratch.
pub fn ruleset(book: &Book, snapshot: &Snapshot, config: &Config) -> Ruleset {
    Table::build(book, snapshot, config).whole(book)
}

/// The chains of one policy, with the sets of blocks they look into.
pub(super) fn policy_part(key: &PolicyKey, resolved: &Resolved, members: &Members) -> Ruleset {
    let mut part = Ruleset::default();
    for (direction, allows) in [(Direction::Ingress, &resolved.ingress), (Direction::Egress, &resolved.egress)] {
        let Some(allows) = allows else { continue };
        let rules = allows.iter().flat_map(|allow| rules(key, direction, allow, members, &mut part.sets)).collect();
        part.chains.insert(policy_chain(direction, key), Chain { base: None, rules });
    }
    part
}

/// A set with these elements for one family, declared with `size`. The name carries that size: a set that outgrows it
/// is another set, which rules change over to in one transaction.
pub(super) fn member_set(
    key: &SetKey,
    family: Family,
    size: u32,
    elements: impl IntoIterator<Item = Element>,
) -> (Name, Set) {
    let own = elements.into_iter().filter(|(address, _)| Family::of(*address) == family);
    let (types, keys): (Vec<FieldType>, BTreeSet<Key>) = match key.view {
        View::Addresses => (vec![address_type(family)], own.map(|(address, _)| vec![Field::from(address)]).collect()),
        View::NamedPort { .. } => (
            vec![address_type(family), FieldType::Port],
            own.map(|(address, port)| vec![Field::from(address), Field::Port(port)]).collect(),
        ),
    };
    (set_name(key, family, size), Set { key: types, size, elements: Elements::Keys(keys) })
}

/// The name of a set that is declared with `size`.
pub(super) fn set_name(key: &SetKey, family: Family, size: u32) -> Name {
    Arc::from(format!("{}-{size}", key.name(family)))
}

/// What a set of so many elements is declared with: the kernel reserves memory for it, so it follows the need, in large
/// steps.
pub(super) fn declared_size(elements: usize) -> u32 {
    let mut size = 64_u32;
    while (size as usize) < elements {
        size = size.saturating_mul(4);
    }
    size
}

/// The chain of one policy in one direction.
pub fn policy_chain(direction: Direction, key: &PolicyKey) -> Name {
    let prefix = match direction {
        Direction::Ingress => "to",
        Direction::Egress => "from",
    };
    Arc::from(format!("{prefix}-{}", digest([key.namespace.as_ref(), key.name.as_ref()])))
}

/// A digest of texts, each delimited, so that no two lists run into one.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What the frame of the table is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    /// The node's own pod prefixes.
    pub(super) pod_cidrs: Vec<Prefix>,
    /// A pod that is not known yet may be one that a policy isolates.
    pub(super) guard: bool,
    /// Families in which pods get what is tunnelled to them, with the size of the set of those pods.
    pub(super) tunnelled: BTreeMap<Family, u32>,
    /// What is tunnelled is judged in a table beside this one.
    pub(super) beside: bool,
    /// The node's own addresses; needed for what is tunnelled.
    pub(super) node: Vec<IpAddr>,
}

/// The base chains and the two questions, with everything they look into, empty but for what is in `framing`. The set of
/// pods to which packets are tunnelled is the caller's.
pub(super) fn frame(framing: &Framing) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for family in framing.tunnelled.keys() {
        let own = tunnelled::addresses(*family, MOST_NODE_ADDRESSES, framing.node.iter().copied());
        ruleset.sets.insert(tunnelled::node_set(*family), own);
    }
    ruleset.sets.extend(nobody::sets().filter(|_| framing.guard));
    for (name, direction, hook) in BASES {
        let question = asked(direction);
        let mut rules = if framing.beside { by_mark(framing, direction) } else { entries(framing, direction) };
        if hook == Hook::Output {
            rules.push(Rule {
                matches: vec![Match::SourceIsLocal { negated: false }],
                statements: vec![Statement::Accept],
                comment: comment("the node to its pods"),
            });
        }
        rules.extend(framing.guard.then(|| nobody::before(hook, direction)).into_iter().flatten());
        rules.push(Rule {
            matches: Vec::new(),
            statements: vec![Statement::Jump(Arc::from(question))],
            comment: comment(question),
        });
        ruleset.chains.insert(Arc::from(name), Chain { base: Some(base(direction, hook)), rules });
    }
    for family in Family::ALL {
        let address = address_type(family);
        let empty = Elements::Keys(BTreeSet::new());
        ruleset.sets.insert(itself_set(family), Set { key: vec![address, address], elements: empty, size: MOST_PODS });
        let cidrs = framing.pod_cidrs.iter().filter(|prefix| Family::of(prefix.addr()) == family).copied();
        let set = Set { key: vec![address], elements: Elements::Prefixes(merge_prefixes(cidrs)), size: 0 };
        ruleset.sets.insert(cidrs_set(family), set);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let rules = question(direction, framing.guard);
        ruleset.chains.insert(Arc::from(asked(direction)), Chain { base: None, rules });
        for family in Family::ALL {
            let (key, elements) = (vec![address_type(family)], BTreeMap::new());
            let map = Map { key, elements, value: ValueType::Verdict, size: MOST_PODS };
            ruleset.maps.insert(pods_map(direction, family), map);
        }
    }
    ruleset
}

/// The base chains of the table that judges what is tunnelled, beside the one that judges everything else.
pub(super) fn frame_beside(framing: &Framing) -> BTreeMap<Name, Chain> {
    let questions = BASES.map(|(name, direction, hook)| {
        (Arc::from(name), Chain { base: Some(base(direction, hook)), rules: entries(framing, direction) })
    });
    let passed = [("forward-passed", Hook::Forward), ("output-passed", Hook::Output)].map(|(name, hook)| {
        let base = Base { kind: BaseKind::Filter, hook, priority: priority::FIREWALL_PASSED };
        let rules = framing.tunnelled.iter().map(|(family, size)| tunnelled::passed(*family, *size)).collect();
        (Arc::from(name), Chain { base: Some(base), rules })
    });
    questions.into_iter().chain(passed).collect()
}

/// Where packets enter, and which question they enter.
const BASES: [(&str, Direction, Hook); 4] = [
    ("forward-egress", Direction::Egress, Hook::Forward),
    ("output-egress", Direction::Egress, Hook::Output),
    ("forward-ingress", Direction::Ingress, Hook::Forward),
    ("output-ingress", Direction::Ingress, Hook::Output),
];

fn asked(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => EGRESS,
        Direction::Ingress => INGRESS,
    }
}

fn base(direction: Direction, hook: Hook) -> Base {
    let priority = match direction {
        Direction::Egress => priority::FIREWALL_EGRESS,
        Direction::Ingress => priority::FIREWALL_INGRESS,
    };
    Base { kind: BaseKind::Filter, hook, priority }
}

/// To the twins of a question.
fn entries(framing: &Framing, direction: Direction) -> Vec<Rule> {
    framing.tunnelled.iter().map(|(family, size)| tunnelled::entry(*family, asked(direction), *size)).collect()
}

/// What the table beside has said of what is tunnelled. It marks what has passed both questions, so the later one is where that
/// counts; who sends the packet outside is asked as ever.
fn by_mark(framing: &Framing, direction: Direction) -> Vec<Rule> {
    let tunnelled = framing.tunnelled.iter().filter(|_| direction == Direction::Ingress);
    tunnelled.flat_map(|(family, size)| tunnelled::by_mark(*family, *size)).collect()
}

/// The rules that ask one question. `guard`: a pod that is not known yet may be one that a policy isolates.
fn question(direction: Direction, guard: bool) -> Vec<Rule> {
    let mut rules = vec![
        Rule {
            matches: vec![
                Match::CtState(vec![CtState::Established, CtState::Related]),
                Match::CtMark { mask: ENDED_MARK, value: 0 },
            ],
            statements: vec![Statement::Accept],
            comment: comment("replies, and what was allowed before"),
        },
        Rule {
            matches: vec![Match::CtDirectionReply, Match::CtMark { mask: ENDED_MARK, value: ENDED_MARK }],
            statements: vec![Statement::Counter, Statement::Drop],
            comment: comment("replies in a connection that policies have ended"),
        },
    ];
    // Pods on one bridge find each other by it, and connection tracking knows nothing of it.
    rules.push(Rule {
        matches: vec![nobody::discovery()],
        statements: vec![Statement::Accept],
        comment: comment("neighbour discovery"),
    });
    for family in Family::ALL {
        let (source, destination) = (side(Direction::Ingress, family), side(Direction::Egress, family));
        rules.push(Rule {
            matches: vec![in_set(vec![source, destination], itself_set(family))],
            statements: vec![Statement::Accept],
            comment: comment("a pod to itself"),
        });
    }
    for family in Family::ALL {
        rules.push(Rule {
            matches: Vec::new(),
            statements: vec![Statement::VerdictMap {
                selectors: vec![subject(direction, family)],
                map: pods_map(direction, family),
            }],
            comment: comment("to the policies of the pod"),
        });
    }
    for family in Family::ALL.into_iter().filter(|_| guard) {
        rules.push(Rule {
            matches: vec![in_set(vec![subject(direction, family)], cidrs_set(family))],
            statements: vec![Statement::Counter, Statement::Drop],
            comment: comment("a pod that is not known yet"),
        });
    }
    rules.extend(nobody::behind(direction).filter(|_| guard));
    rules
}

/// The rules of one kind of allowed packets.
fn rules(
    key: &PolicyKey,
    direction: Direction,
    allow: &Allow,
    members: &Members,
    sets: &mut BTreeMap<Name, Set>,
) -> Vec<Rule> {
    let text = match direction {
        Direction::Ingress => format!("{key} ingress[{}]", allow.rule),
        Direction::Egress => format!("{key} egress[{}]", allow.rule),
    };
    let rule = |matches| Rule { matches, statements: vec![Statement::Accept], comment: comment(&text) };
    matches_of(direction, allow, members, sets).into_iter().map(rule).collect()
}

/// What packets of one kind are recognised by: any of these lists, of which all entries hold.
pub(super) fn matches_of(
    direction: Direction,
    allow: &Allow,
    members: &Members,
    sets: &mut BTreeMap<Name, Set>,
) -> Vec<Vec<Match>> {
    let (protocol, ports) = match &allow.port {
        AllowPort::Any => (None, None),
        AllowPort::Protocol(protocol) => (Some(*protocol), None),
        AllowPort::Range(protocol, first, last) => (Some(*protocol), Some((*first, *last))),
        AllowPort::Named(set) => match &set.view {
            View::NamedPort { protocol, .. } => (Some(*protocol), None),
            View::Addresses => (None, None),
        },
    };
    let ports = ports.filter(|range| *range != (0, u16::MAX));
    let plain = |matches: &mut Vec<Match>| {
        matches.extend(protocol.map(Match::Protocol));
        matches.extend(ports.map(|(first, last)| Match::DestinationPorts { first, last }));
    };
    if allow.peer == AllowPeer::Any && !matches!(allow.port, AllowPort::Named(_)) {
        let mut matches = Vec::new();
        plain(&mut matches);
        return vec![matches];
    }
    let mut alternatives = Vec::new();
    for family in Family::ALL {
        let mut matches = Vec::new();
        match &allow.peer {
            AllowPeer::Any => {}
            AllowPeer::Pods(set) => {
                let size = declared_size(members.n_elements(set));
                matches.push(in_set(vec![side(direction, family)], set_name(set, family, size)));
            }
            AllowPeer::Blocks(blocks) => {
                let own: BTreeSet<Prefix> =
                    blocks.iter().filter(|block| Family::of(block.addr()) == family).copied().collect();
                if own.is_empty() {
                    continue;
                }
                let name = blocks_set(family, &own);
                let set = Set { key: vec![address_type(family)], elements: Elements::Prefixes(own), size: 0 };
                sets.insert(Arc::clone(&name), set);
                matches.push(in_set(vec![side(direction, family)], name));
            }
        }
        plain(&mut matches);
        if let AllowPort::Named(set) = &allow.port {
            let size = declared_size(members.n_elements(set));
            let selectors = vec![side(Direction::Egress, family), Selector::DestinationPort];
            matches.push(in_set(selectors, set_name(set, family, size)));
        }
        alternatives.push(matches);
    }
    alternatives
}

pub(super) fn in_set(selectors: Vec<Selector>, set: Name) -> Match {
    Match::InSet { selectors, set, negated: false }
}

/// The address of the other side: the source of what a pod receives, the destination of what it sends.
pub(super) fn side(direction: Direction, family: Family) -> Selector {
    match (direction, family) {
        (Direction::Ingress, Family::V4) => Selector::Source4,
        (Direction::Ingress, Family::V6) => Selector::Source6,
        (Direction::Egress, Family::V4) => Selector::Destination4,
        (Direction::Egress, Family::V6) => Selector::Destination6,
    }
}

/// The address of the pod itself.
pub(super) fn subject(direction: Direction, family: Family) -> Selector {
    match direction {
        Direction::Ingress => side(Direction::Egress, family),
        Direction::Egress => side(Direction::Ingress, family),
    }
}

pub(super) fn address_type(family: Family) -> FieldType {
    match family {
        Family::V4 => FieldType::Ipv4,
        Family::V6 => FieldType::Ipv6,
    }
}

pub(super) fn digit(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

pub(super) fn pods_map(direction: Direction, family: Family) -> Name {
    Arc::from(format!("{}{}", asked(direction), digit(family)))
}

pub(super) fn itself_set(family: Family) -> Name {
    Arc::from(format!("itself{}", digit(family)))
}

pub(super) fn cidrs_set(family: Family) -> Name {
    Arc::from(format!("own-pods{}", digit(family)))
}

/// Named by content: a policy that is written anew with the same blocks keeps its set.
fn blocks_set(family: Family, blocks: &BTreeSet<Prefix>) -> Name {
    let texts: Vec<String> = blocks.iter().map(Prefix::to_string).collect();
    Arc::from(format!("blocks{}-{}", digit(family), digest(texts.iter().map(String::as_str))))
}

/// A comment that fits.
pub(super) fn comment(text: &str) -> Name {
    Arc::from(text.get(..text.floor_char_boundary(COMMENT)).unwrap_or_default())
}
