//! Packets between pods of one bridge whose addresses are no pod's (pure).
//!
//! Every link has an IPv6 address of its own (`fe80::/10`, RFC 4291 section 2.5.6), which no Pod object tells, and what is
//! sent to a group or to all reaches every pod beside the sender (`224.0.0.1`, `ff02::1`, `255.255.255.255`). Rules know pods by
//! their addresses, so none of it would be asked about. While a policy may isolate somebody, it passes nothing from
//! pod to pod: who isn't named cannot be allowed. Pods find each other all the same, and their node is always reached.
//!
//! Only links that pods hang on are looked at: other bridges of a node pass the same hooks.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::compile::{address_type, cidrs_set, comment, digit, in_set, side, subject};
use super::resolve::Direction;
use crate::kernel::filter::{Elements, Field, FieldType, Hook, Match, Name, Rule, Selector, Set, Statement};
use crate::net::{Family, Prefix};

/// Bridges that network plugins connect pods with.
pub(super) const POD_BRIDGES: [&str; 2] = ["kube-bridge", "cni0"];
/// Neighbour solicitation and advertisement (RFC 4861, section 4): without them no IPv6 packet finds its way. Routers are asked
/// and heard at the node, never between pods.
pub(super) const NEIGHBOUR_DISCOVERY: [u8; 2] = [135, 136];

/// The sets that [`before`] and [`behind`] look into.
pub(super) fn sets() -> impl Iterator<Item = (Name, Set)> {
    let links = POD_BRIDGES.map(|link| vec![Field::Interface(Name::from(link))]);
    let links = Elements::Keys(BTreeSet::from(links));
    let links = Set { key: vec![FieldType::Interface], size: POD_BRIDGES.len() as u32, elements: links };
    let nobody = Family::ALL.map(|family| {
        let set = Set { key: vec![address_type(family)], elements: Elements::Prefixes(addresses(family)), size: 0 };
        (nobody_set(family), set)
    });
    nobody.into_iter().chain([(links_set(), links)])
}

/// What is asked before connection tracking is: a connection between such addresses may be older than the first policy, and
/// nothing but its packets tells on which bridge it is.
pub(super) fn before(hook: Hook, direction: Direction) -> Vec<Rule> {
    let subject = |family| in_set(vec![subject(direction, family)], nobody_set(family));
    let rule = |matches, statements, text| Rule { matches, statements, comment: comment(text) };
    match (hook, direction) {
        (Hook::Forward, _) => vec![
            rule(vec![discovery(), from_pods()], vec![Statement::Accept], "neighbour discovery"),
            rule(vec![subject(Family::V6), from_pods()], drop(), "an address that is no pod's"),
        ],
        // By way of a Service. What a node sends from such an address goes to no pod's address.
        (_, Direction::Egress) => {
            let to_pods = in_set(vec![side(Direction::Egress, Family::V6)], cidrs_set(Family::V6));
            vec![rule(vec![subject(Family::V6), to_pods], drop(), "an address that is no pod's")]
        }
        _ => Vec::new(),
    }
}

/// What is asked of packets that are no pod's of this node: to groups of IPv4, which no connection is with.
pub(super) fn behind(direction: Direction) -> Option<Rule> {
    let to_nobody = in_set(vec![subject(direction, Family::V4)], nobody_set(Family::V4));
    let rule = Rule { matches: vec![to_nobody, from_pods()], statements: drop(), comment: comment("to no pod alone") };
    (direction == Direction::Ingress).then_some(rule)
}

/// Neighbour discovery.
pub(super) fn discovery() -> Match {
    Match::IcmpTypes { family: Family::V6, types: NEIGHBOUR_DISCOVERY.to_vec() }
}

fn drop() -> Vec<Statement> {
    vec![Statement::Counter, Statement::Drop]
}

fn from_pods() -> Match {
    in_set(vec![Selector::InputInterface], links_set())
}

fn links_set() -> Name {
    Arc::from("pod-links")
}

fn nobody_set(family: Family) -> Name {
    Arc::from(format!("nobody{}", digit(family)))
}

/// Groups, everybody, and addresses of links.
fn addresses(family: Family) -> BTreeSet<Prefix> {
    let v4 = |address: [u8; 4], length: u8| ipnet::Ipv4Net::new(Ipv4Addr::from(address), length).map(Prefix::from);
    let v6 = |first: u16, length: u8| {
        ipnet::Ipv6Net::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length).map(Prefix::from)
    };
    let blocks = match family {
        Family::V4 => [v4([224, 0, 0, 0], 4), v4([255; 4], 32)],
        Family::V6 => [v6(0xfe80, 10), v6(0xff00, 8)],
    };
    blocks.into_iter().flatten().collect()
}
