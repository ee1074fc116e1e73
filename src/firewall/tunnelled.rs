//! Rules for what a virtual server tunnels to a pod (direct server return), judged by the packet inside (pure).
//!
//! IPVS puts the client's packet into another one, from the node to the pod. Connection tracking knows nothing of what is
//! inside, so every packet is judged, and none by its connection. Each chain and verdict map of the table has a twin for
//! each family in use, with the same sets: the source, the protocol and the port are those of the packet inside, the
//! destination is the pod, which only the packet outside tells.
//!
//! ```text
//! forward, output ─▶ IP in IP to such a pod ─▶ tunnel4-egress  ─▶ hides its ports: drop ─▶ tunnel4-egress4[inner source]
//!                                         └──▶ tunnel4-ingress ─▶ …, from the node: accept ─▶ tunnel4-ingress4[pod]
//! ```
//!
//! iptables cannot look inside. There the twins are a table of nftables of their own, which marks what both questions have let
//! pass ([`passed`]), and iptables lets nothing be tunnelled to such a pod that has no mark ([`by_mark`]): without that table
//! nothing is.

use std::sync::Arc;

use super::PASSED_MARK;
use super::compile::{EGRESS, INGRESS, address_type, cidrs_set, comment, digit, in_set, side, subject};
use super::resolve::Direction;
use crate::kernel::filter::{Chain, Elements, Field, Map, Match, Name, Rule, Selector, Set, Statement, Value};
use crate::net::Family;

/// The twin's name.
pub(super) fn name(family: Family, of: &Name) -> Name {
    Arc::from(format!("tunnel{}-{of}", digit(family)))
}

/// The set of pods whose packets are tunnelled, declared with `size`.
pub(super) fn pods_set(family: Family, size: u32) -> Name {
    Arc::from(format!("tunnelled{}-{size}", digit(family)))
}

/// The set of the node's own addresses.
pub(super) fn node_set(family: Family) -> Name {
    Arc::from(format!("own-node{}", digit(family)))
}

/// A set with these addresses of one family.
pub(super) fn addresses(family: Family, size: u32, of: impl IntoIterator<Item = std::net::IpAddr>) -> Set {
    let own = of.into_iter().filter(|address| Family::of(*address) == family);
    let keys = own.map(|address| vec![Field::from(address)]).collect();
    Set { key: vec![address_type(family)], elements: Elements::Keys(keys), size }
}

/// The rule of a base chain that leads to the twin of a question.
pub(super) fn entry(family: Family, question: &str, size: u32) -> Rule {
    Rule {
        matches: to_pods(family, size),
        statements: vec![Statement::Jump(name(family, &Arc::from(question)))],
        comment: comment("what is tunnelled to a pod, by the packet inside"),
    }
}

/// Marks what both questions have let pass.
pub(super) fn passed(family: Family, size: u32) -> Rule {
    Rule {
        matches: to_pods(family, size),
        statements: vec![Statement::SetMarkBits { mask: PASSED_MARK, value: PASSED_MARK }],
        comment: comment("tunnelled to a pod, and may pass"),
    }
}

/// Lets pass what has that mark, and nothing else that is tunnelled to such a pod.
pub(super) fn by_mark(family: Family, size: u32) -> [Rule; 2] {
    let mut marked = to_pods(family, size);
    marked.push(Match::Mark { mask: PASSED_MARK, value: PASSED_MARK });
    [
        Rule {
            matches: marked,
            statements: vec![Statement::Accept],
            comment: comment("tunnelled to a pod, and nftables has let it pass"),
        },
        Rule {
            matches: to_pods(family, size),
            statements: vec![Statement::Counter, Statement::Drop],
            comment: comment("tunnelled to a pod, and nobody has looked inside"),
        },
    ]
}

fn to_pods(family: Family, size: u32) -> Vec<Match> {
    let pods = in_set(vec![side(Direction::Egress, family)], pods_set(family, size));
    vec![Match::IpInIp(family), pods]
}

/// The twin of a chain that is no base chain.
pub(super) fn chain(family: Family, of: &Name, chain: &Chain) -> Chain {
    let head = match &**of {
        EGRESS => head(Direction::Egress, family),
        INGRESS => head(Direction::Ingress, family),
        _ => Vec::new(),
    };
    let rules = chain.rules.iter().filter_map(|it| rule(family, it));
    Chain { base: None, rules: head.into_iter().chain(rules).collect() }
}

/// The twin of a map of the same family.
pub(super) fn map(family: Family, of: &Map) -> Map {
    let elements = of.elements.iter().map(|(key, it)| (key.clone(), value(family, it))).collect();
    Map { elements, ..of.clone() }
}

/// The twin of a map's value.
fn value(family: Family, of: &Value) -> Value {
    match of {
        Value::Jump(chain) => Value::Jump(name(family, chain)),
        other => other.clone(),
    }
}

/// What is asked before all else.
fn head(direction: Direction, family: Family) -> Vec<Rule> {
    let pod = inside(family, &[subject(direction, family)]).unwrap_or_default();
    let mut rules = vec![Rule {
        matches: vec![Match::InnerIsOpaque(family), in_set(pod, cidrs_set(family))],
        statements: vec![Statement::Counter, Statement::Drop],
        comment: comment("options or extensions hide what is asked for"),
    }];
    if direction == Direction::Ingress {
        let sender = inside(family, &[side(Direction::Ingress, family)]).unwrap_or_default();
        rules.push(Rule {
            matches: vec![in_set(sender, node_set(family))],
            statements: vec![Statement::Accept],
            comment: comment("the node to its pods"),
        });
    }
    rules
}

/// A rule about the packet inside; `None` where it is about packets of another family, about connections, or about what is
/// never tunnelled.
fn rule(family: Family, of: &Rule) -> Option<Rule> {
    let mut matches = Vec::with_capacity(of.matches.len());
    for matched in &of.matches {
        matches.push(match matched {
            Match::Family(other) if *other == family => continue,
            Match::Protocol(protocol) => Match::InnerProtocol(family, *protocol),
            Match::DestinationPorts { first, last } => {
                Match::InnerDestinationPorts { family, first: *first, last: *last }
            }
            Match::InSet { selectors, set, negated } => {
                Match::InSet { selectors: inside(family, selectors)?, set: set.clone(), negated: *negated }
            }
            _ => return None,
        });
    }
    let mut statements = Vec::with_capacity(of.statements.len());
    for statement in &of.statements {
        statements.push(match statement {
            Statement::Jump(chain) => Statement::Jump(name(family, chain)),
            Statement::VerdictMap { selectors, map } => {
                Statement::VerdictMap { selectors: inside(family, selectors)?, map: name(family, map) }
            }
            other => other.clone(),
        });
    }
    Some(Rule { matches, statements, comment: of.comment.clone() })
}

/// What the twin reads.
fn inside(family: Family, selectors: &[Selector]) -> Option<Vec<Selector>> {
    let twin = |selector: &Selector| match (family, selector) {
        (Family::V4, Selector::Source4) => Some(Selector::InnerSource4),
        (Family::V6, Selector::Source6) => Some(Selector::InnerSource6),
        (Family::V4, Selector::Destination4) => Some(Selector::Destination4),
        (Family::V6, Selector::Destination6) => Some(Selector::Destination6),
        (Family::V4, Selector::DestinationPort) => Some(Selector::InnerDestinationPort4),
        (Family::V6, Selector::DestinationPort) => Some(Selector::InnerDestinationPort6),
        _ => None,
    };
    selectors.iter().map(twin).collect()
}
