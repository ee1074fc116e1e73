//! A packet that was logged because it was denied: whose it was, and which policy did it (pure).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::book::Book;
use super::explain::{Decider, Flow, Verdict, judge};
use super::resolve::Direction;
use crate::kernel::nflog::Packet;
use crate::model::{PodKey, Snapshot};
use crate::net::Protocol;

/// Lines written in a second; what is more is counted and told of together.
pub const LINES_PER_SECOND: u32 = 10;
/// Namespaces told apart in metrics; all others share one label.
pub const MOST_NAMESPACES: usize = 200;
/// That label.
pub const OTHER_NAMESPACE: &str = "other";

/// Why a packet was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// NetworkPolicies isolate the pod, and none allows it.
    NoRule,
    /// A cluster policy denies it.
    ClusterPolicy,
    /// The policies of now would let it through: they changed since.
    Changed,
}

impl Reason {
    /// In small letters, for labels.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NoRule => "no_rule",
            Reason::ClusterPolicy => "cluster_policy",
            Reason::Changed => "changed",
        }
    }
}

/// A denied packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The pod of this node whose policies denied it.
    pub pod: PodKey,
    /// What it did: receive or send.
    pub direction: Direction,
    /// The other side: a pod by name, else the address.
    pub peer: String,
    /// The protocol, such as `tcp` or `icmp`, with the destination port where there is one.
    pub port: String,
    /// Why, for labels.
    pub reason: Reason,
    /// Why, in words: `no policy allows it (shop/web)`, `clusternetworkpolicy guard rule 0: Deny`.
    pub policy: String,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denial { pod, direction, peer, port, policy, .. } = self;
        let word = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        write!(f, "{direction} of {pod} {word} {peer} {port}: {policy}")
    }
}

/// Reads who denied a packet off the policies of now. `None` where neither end is a pod of this node.
pub fn trace(book: &Book, snapshot: &Snapshot, packet: &Packet) -> Option<Denial> {
    let protocol = Protocol::from_number(packet.protocol);
    let port = protocol.zip(packet.ports).map(|(protocol, (_, port))| (protocol, port));
    let flow = Flow { source: packet.source, destination: packet.destination, port };
    let mut first = None;
    for (address, other, direction) in [
        (packet.source, packet.destination, Direction::Egress),
        (packet.destination, packet.source, Direction::Ingress),
    ] {
        let Some(pod) = local_pod(book, address) else { continue };
        let judgement = judge(book, pod, direction, flow);
        let (reason, policy) = match (&judgement.by, judgement.verdict) {
            (Decider::NoRule(keys), Verdict::Denied | Verdict::Depends) => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                (Reason::NoRule, format!("no policy allows it ({})", keys.join(", ")))
            }
            (by, Verdict::Denied) => (Reason::ClusterPolicy, by.to_string()),
            (_, Verdict::Allowed | Verdict::Depends) => (Reason::Changed, "the policies changed since".to_owned()),
        };
        let denial = Denial {
            pod: pod.clone(),
            direction,
            peer: name_of(snapshot, other),
            port: port_text(packet, protocol),
            reason,
            policy,
        };
        if reason != Reason::Changed {
            return Some(denial);
        }
        first.get_or_insert(denial);
    }
    first
}

fn local_pod(book: &Book, address: IpAddr) -> Option<&PodKey> {
    book.pods().iter().find(|(_, pod)| pod.addresses.contains(&address)).map(|(key, _)| key)
}

/// A pod's name with its address, or the address.
fn name_of(snapshot: &Snapshot, address: IpAddr) -> String {
    let mut pods = snapshot.pods.iter().filter(|(_, pod)| !pod.host_network);
    match pods.find(|(_, pod)| pod.addresses.contains(&address)) {
        Some((key, _)) => format!("{key} ({address})"),
        None => address.to_string(),
    }
}

fn port_text(packet: &Packet, protocol: Option<Protocol>) -> String {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    match (protocol, packet.ports, packet.protocol) {
        (Some(protocol), Some((_, port)), _) => format!("{protocol}/{port}"),
        (Some(protocol), None, _) => protocol.to_string(),
        (None, _, ICMP) => "icmp".to_owned(),
        (None, _, ICMPV6) => "icmpv6".to_owned(),
        (None, _, number) => format!("protocol {number}"),
    }
}

/// How many lines may be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    second: u64,
    written: u32,
    kept_back: u64,
}

impl Lines {
    /// Whether one more may be written at `now`, and how many were kept back before it. `now` counts from any start.
    pub fn next(&mut self, now: Duration) -> Option<u64> {
        if now.as_secs() != self.second {
            (self.second, self.written) = (now.as_secs(), 0);
        }
        if self.written >= LINES_PER_SECOND {
            self.kept_back = self.kept_back.saturating_add(1);
            return None;
        }
        self.written = self.written.saturating_add(1);
        Some(std::mem::take(&mut self.kept_back))
    }
}

/// The namespaces that have a label of their own: the first ones that come.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(BTreeSet<Arc<str>>);

impl Namespaces {
    /// The label of a namespace.
    pub fn label(&mut self, namespace: &Arc<str>) -> Arc<str> {
        if !self.0.contains(namespace) && self.0.len() >= MOST_NAMESPACES {
            return Arc::from(OTHER_NAMESPACE);
        }
        self.0.insert(Arc::clone(namespace));
        Arc::clone(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_the_rest_is_told_of() {
        let mut lines = Lines::default();
        let written = (0..100).filter(|_| lines.next(Duration::from_secs(5)).is_some()).count();
        assert_eq!(written, LINES_PER_SECOND as usize);
        assert_eq!(lines.next(Duration::from_secs(6)), Some(100 - u64::from(LINES_PER_SECOND)));
        assert_eq!(lines.next(Duration::from_secs(6)), Some(0));
    }

    #[test]
    fn labels_are_bounded() {
        let mut namespaces = Namespaces::default();
        let labels: BTreeSet<Arc<str>> =
            (0..1000).map(|number| namespaces.label(&Arc::from(format!("ns-{number}")))).collect();
        assert_eq!(labels.len(), MOST_NAMESPACES + 1);
        assert_eq!(&*namespaces.label(&Arc::from("ns-7")), "ns-7");
    }
}
