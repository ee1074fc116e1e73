//! One policy, turned from what its author wrote into what a packet is compared with (pure).
//!
//! The result names sets of pods by what they ask for ([`SetKey`]) and never lists a pod, so it changes only with the
//! policy itself. Where the API text leaves room, this file is the answer:
//!
//! | written | means |
//! | --- | --- |
//! | several `ipBlock`s in one rule | the union of each block without its own exceptions |
//! | a named port in an ingress rule | the number it has in the pod that receives, each pod's own |
//! | a named port in an egress rule | the number it has in the pod that is sent to; an address that is no pod has none |
//! | a rule whose peers or ports could not be read | nobody, or no port |
//! | a pod in the host's network | is the host: no selector chooses it |

use std::collections::BTreeSet;
use std::sync::Arc;

use super::index::{PodChooser, Scope};
use super::members::{SetKey, View};
use crate::kernel::filter::merge_prefixes;
use crate::model::{
    Namespaces, NetworkPolicy, Peer, Peers, PolicyKey, PolicyPort, PolicyRule, PortMatch, Ports, Selector,
};
use crate::net::{Prefix, Protocol};

/// A policy, ready to be written as rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// What its pods may receive; `None` where it does not isolate them in this direction.
    pub ingress: Option<Vec<Allow>>,
    /// What its pods may send, likewise.
    pub egress: Option<Vec<Allow>>,
}

/// Packets of one kind that are allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allow {
    /// The other side.
    pub peer: AllowPeer,
    /// The destination port.
    pub port: AllowPort,
    /// The number of the policy's rule it comes from.
    pub rule: usize,
}

/// The other side of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowPeer {
    /// Anybody.
    Any,
    /// A member of this set of addresses.
    Pods(SetKey),
    /// An address in one of these blocks, which do not overlap.
    Blocks(BTreeSet<Prefix>),
}

/// The destination port of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowPort {
    /// Any, of any protocol.
    Any,
    /// Any of this protocol.
    Protocol(Protocol),
    /// From the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The destination with its port is in this set.
    Named(SetKey),
}

impl Resolved {
    /// The sets it looks things up in, each once.
    pub fn sets(&self) -> BTreeSet<&SetKey> {
        sets_of(self.ingress.iter().chain(&self.egress).flatten())
    }
}

/// The sets these packets are looked up in, each once.
pub(super) fn sets_of<'a>(packets: impl IntoIterator<Item = &'a Allow>) -> BTreeSet<&'a SetKey> {
    packets
        .into_iter()
        .flat_map(|allow| {
            let peer = match &allow.peer {
                AllowPeer::Pods(set) => Some(set),
                AllowPeer::Any | AllowPeer::Blocks(_) => None,
            };
            let port = match &allow.port {
                AllowPort::Named(set) => Some(set),
                AllowPort::Any | AllowPort::Protocol(_) | AllowPort::Range(..) => None,
            };
            peer.into_iter().chain(port)
        })
        .collect()
}

/// The pods a policy isolates.
pub fn targets(key: &PolicyKey, policy: &NetworkPolicy) -> PodChooser {
    PodChooser { scope: Scope::Namespace(Arc::clone(&key.namespace)), pods: policy.targets.clone() }
}

/// Resolves one policy.
pub fn resolve(key: &PolicyKey, policy: &NetworkPolicy) -> Resolved {
    let of = |rules: &Option<Vec<PolicyRule>>, direction: Direction| {
        rules.as_ref().map(|rules| {
            let subject = Subject { namespace: Arc::clone(&key.namespace), pods: targets(key, policy) };
            resolve_rules(&subject, rules, direction)
        })
    };
    Resolved { ingress: of(&policy.ingress, Direction::Ingress), egress: of(&policy.egress, Direction::Egress) }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the pods a policy is about.
    Ingress,
    /// From them.
    Egress,
}

/// Whom a policy is about.
pub(super) struct Subject {
    /// The policy's own namespace.
    pub(super) namespace: Arc<str>,
    /// The pods.
    pub(super) pods: PodChooser,
}

/// Resolves the rules of one direction, in order.
pub(super) fn resolve_rules(subject: &Subject, rules: &[PolicyRule], direction: Direction) -> Vec<Allow> {
    let rules = rules.iter().enumerate();
    let mut allows: Vec<Allow> =
        rules.flat_map(|(number, rule)| resolve_rule(subject, rule, number, direction)).collect();
    allows.dedup();
    allows
}

fn resolve_rule(subject: &Subject, rule: &PolicyRule, number: usize, direction: Direction) -> Vec<Allow> {
    let every_port = [None];
    let ports: Vec<Option<&PolicyPort>> = match &rule.ports {
        Ports::Any => every_port.to_vec(),
        Ports::Only(ports) => ports.iter().map(Some).collect(),
    };
    let mut allows = Vec::new();
    for peer in peers(&subject.namespace, &rule.peers) {
        for port in &ports {
            allows.push(match (port, direction) {
                (Some(PolicyPort { protocol, port: PortMatch::Named(name) }), Direction::Ingress) => {
                    let named = named_port(subject.pods.clone(), *protocol, name);
                    Allow { peer: peer.clone(), port: AllowPort::Named(named), rule: number }
                }
                (Some(PolicyPort { protocol, port: PortMatch::Named(name) }), Direction::Egress) => {
                    // Sets of pods with their ports are narrower than sets of the pods, so they are looked at alone.
                    let (peer, pods) = match &peer {
                        AllowPeer::Pods(set) => (AllowPeer::Any, set.pods.clone()),
                        other => (other.clone(), everybody()),
                    };
                    Allow { peer, port: AllowPort::Named(named_port(pods, *protocol, name)), rule: number }
                }
                (port, _) => Allow { peer: peer.clone(), port: plain_port(*port), rule: number },
            });
        }
    }
    allows
}

/// The other sides of a rule, all blocks in one.
fn peers(namespace: &Arc<str>, peers: &Peers) -> Vec<AllowPeer> {
    let Peers::Only(listed) = peers else { return vec![AllowPeer::Any] };
    let mut blocks = Vec::new();
    let mut found: Vec<AllowPeer> = Vec::new();
    for peer in listed {
        match peer {
            Peer::Pods { namespaces, pods } => {
                let scope = match namespaces {
                    Namespaces::Own => Scope::Namespace(Arc::clone(namespace)),
                    Namespaces::Selected(selector) => Scope::Selected(selector.clone()),
                };
                let pods = PodChooser { scope, pods: pods.clone() };
                found.push(AllowPeer::Pods(SetKey { pods, view: View::Addresses }));
            }
            Peer::Block { cidr, except } => blocks.extend(without(*cidr, except)),
        }
    }
    found.sort();
    found.dedup();
    if !blocks.is_empty() {
        found.push(AllowPeer::Blocks(merge_prefixes(blocks)));
    }
    found
}

fn plain_port(port: Option<&PolicyPort>) -> AllowPort {
    match port {
        None => AllowPort::Any,
        Some(PolicyPort { protocol, port: PortMatch::Range(first, last) }) => {
            AllowPort::Range(*protocol, *first, *last)
        }
        Some(PolicyPort { protocol, .. }) => AllowPort::Protocol(*protocol),
    }
}

fn named_port(pods: PodChooser, protocol: Protocol, name: &Arc<str>) -> SetKey {
    SetKey { pods, view: View::NamedPort { protocol, name: Arc::clone(name) } }
}

/// Chooses every pod of the cluster.
fn everybody() -> PodChooser {
    PodChooser { scope: Scope::Selected(Selector::default()), pods: Selector::default() }
}

/// A block without what lies in the holes, as blocks that do not overlap.
pub fn without(block: Prefix, holes: &[Prefix]) -> Vec<Prefix> {
    if holes.iter().any(|hole| hole.contains(&block)) {
        return Vec::new();
    }
    let inside: Vec<Prefix> = holes.iter().copied().filter(|hole| block.contains(hole)).collect();
    if inside.is_empty() {
        return vec![block];
    }
    // A hole inside is smaller than the block, so the block has two halves.
    let Ok(halves) = halves(block) else { return Vec::new() };
    halves.into_iter().flat_map(|half| without(half, &inside)).collect()
}

fn halves(block: Prefix) -> Result<Vec<Prefix>, ipnet::PrefixLenError> {
    let length = block.prefix_len().saturating_add(1);
    Ok(match block {
        Prefix::V4(block) => block.subnets(length)?.map(Prefix::V4).collect(),
        Prefix::V6(block) => block.subnets(length)?.map(Prefix::V6).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_hole_splits_its_block_and_no_other() {
        let split = |block: &str, holes: &[&str]| {
            let holes: Vec<Prefix> = holes.iter().map(|hole| prefix(hole)).collect();
            without(prefix(block), &holes).iter().map(Prefix::to_string).collect::<Vec<_>>()
        };
        assert_eq!(split("10.0.0.0/30", &["10.0.0.1/32"]), ["10.0.0.0/32", "10.0.0.2/31"]);
        assert_eq!(split("10.0.0.0/8", &["11.0.0.0/8"]), ["10.0.0.0/8"]);
        assert_eq!(split("10.0.0.0/8", &["10.0.0.0/8"]), [""; 0]);
        assert_eq!(split("0.0.0.0/0", &["0.0.0.0/1"]), ["128.0.0.0/1"]);
        assert_eq!(split("::/0", &["8000::/1", "4000::/2"]), ["::/2"]);
        assert_eq!(split("fd00::/127", &["fd00::1/128"]), ["fd00::/128"]);
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_block_without_the_holes(
            length in 0..=8_u8,
            holes in prop::collection::vec((any::<u8>(), 0..=8_u8), 0..6),
            probe in any::<u8>(),
        ) {
            // The last byte of an address is space enough for every relation of blocks.
            let net = |byte: u8, length: u8| {
                Prefix::from(ipnet::Ipv4Net::new(Ipv4Addr::new(10, 0, 0, byte), 24 + length).unwrap().trunc())
            };
            let block = net(0, length);
            let holes: Vec<Prefix> = holes.into_iter().map(|(byte, length)| net(byte, length)).collect();
            let left = without(block, &holes);
            let probe = IpAddr::from([10, 0, 0, probe]);
            let expected = block.contains(&probe) && !holes.iter().any(|hole| hole.contains(&probe));
            prop_assert_eq!(left.iter().filter(|part| part.contains(&probe)).count(), usize::from(expected));
        }
    }
}
