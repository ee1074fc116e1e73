//! What Kubernetes says policies allow, read naively from the API text.
//!
//! Written from the descriptions of `networking.k8s.io/v1` and `policy.networking.k8s.io/v1alpha2`, with no look at how the firewall does it; slow and obvious on
//! purpose. Quotes are the API's.

use std::net::IpAddr;

use super::tracer::Packet;
use crate::model::{
    Action, ClusterNetworkPolicy, Labels, NamespaceName, Namespaces, NetworkPolicy, Peer, Peers, Pod, PodKey,
    PolicyRule, PortMatch, Ports, Selector, Snapshot, Tier,
};

/// Which way a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// The cluster as the administrator of one node reads it.
#[derive(Debug)]
pub struct PolicyOracle<'a> {
    snapshot: &'a Snapshot,
}

impl<'a> PolicyOracle<'a> {
    /// For the node of a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> PolicyOracle<'a> {
        PolicyOracle { snapshot }
    }

    /// Whether the first packet of a connection may pass this node. `from_node`: a process of the node itself sends it.
    pub fn allows(&self, packet: Packet, from_node: bool) -> bool {
        // "traffic to and from the node where a Pod is running is always allowed"; "a Pod cannot block access to itself".
        let to_itself = packet.source == packet.destination && !self.pods_at(packet.source).is_empty();
        if from_node || to_itself {
            return true;
        }
        self.may(Direction::Egress, packet) && self.may(Direction::Ingress, packet)
    }

    /// Both ends must allow it, each end on the node of its pod.
    fn may(&self, direction: Direction, packet: Packet) -> bool {
        let address = match direction {
            Direction::Ingress => packet.destination,
            Direction::Egress => packet.source,
        };
        let here: Vec<(&PodKey, &Pod)> = self
            .pods_at(address)
            .into_iter()
            .filter(|(_, pod)| pod.node.as_ref() == Some(&self.snapshot.node_name))
            .collect();
        if here.is_empty() {
            // Our own promise: an address of this node's pods that no pod is known for is nobody's to use while there
            // are policies, because the next pod may be one of those they isolate.
            let ours =
                self.snapshot.own_node().is_some_and(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&address)));
            return !ours || (self.snapshot.policies.is_empty() && self.snapshot.cluster_policies.is_empty());
        }
        here.iter().all(|(key, pod)| self.pod_may(direction, key, pod, packet))
    }

    /// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier."
    fn pod_may(&self, direction: Direction, key: &PodKey, pod: &Pod, packet: Packet) -> bool {
        // "If Admin tier has made a final decision (Accept or Deny) on a connection, then no further evaluation is done."
        match self.tier(Tier::Admin, direction, key, pod, packet) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        // "v1.NetworkPolicy always makes a final decision for selected pods."
        if let Some(allowed) = self.network_policies(direction, key, pod, packet) {
            return allowed;
        }
        // "If a given connection wasn't allowed or denied by any of the tiers, the default kubernetes policy is applied,
        // which says that all pods can communicate with each other."
        self.tier(Tier::Baseline, direction, key, pod, packet) != Some(Action::Deny)
    }

    /// What the first rule of a tier says that matches; `None` where none does.
    fn tier(&self, tier: Tier, direction: Direction, key: &PodKey, pod: &Pod, packet: Packet) -> Option<Action> {
        let about = |policy: &ClusterNetworkPolicy| {
            let namespace = self.snapshot.namespaces.get(&NamespaceName(key.namespace.clone()));
            let labels = namespace.map(|found| found.labels.clone()).unwrap_or_default();
            policy.tier == tier && chooses(&policy.namespaces, &labels) && chooses(&policy.pods, &pod.labels)
        };
        // "Policies with lower priority values have higher precedence." Of equal ones "the implementation can apply any":
        // ours promises the order of names.
        let mut policies: Vec<_> = self.snapshot.cluster_policies.iter().filter(|(_, policy)| about(policy)).collect();
        policies.sort_by(|a, b| (a.1.priority, a.0).cmp(&(b.1.priority, b.0)));
        for (_, policy) in policies {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            // "A rule that appears at the top … would take the highest precedence."
            for rule in rules {
                let plain = PolicyRule { peers: rule.peers.clone(), ports: rule.ports.clone() };
                if self.rule(direction, "", &plain, packet, pod) {
                    return Some(rule.action);
                }
            }
        }
        None
    }

    /// Whether the NetworkPolicies that isolate a pod allow a packet; `None` where none isolates it.
    fn network_policies(&self, direction: Direction, key: &PodKey, pod: &Pod, packet: Packet) -> Option<bool> {
        let rules_of = |policy: &'a NetworkPolicy| match direction {
            Direction::Ingress => policy.ingress.as_ref(),
            Direction::Egress => policy.egress.as_ref(),
        };
        let isolating: Vec<(&str, &'a NetworkPolicy, &'a Vec<PolicyRule>)> = self
            .snapshot
            .policies
            .iter()
            .filter(|(policy_key, policy)| {
                policy_key.namespace == key.namespace && chooses(&policy.targets, &pod.labels)
            })
            .filter_map(|(policy_key, policy)| {
                Some((policy_key.namespace.as_ref(), policy.as_ref(), rules_of(policy)?))
            })
            .collect();
        // "By default, a pod is non-isolated"; "the order of evaluation does not affect the policy result".
        (!isolating.is_empty()).then(|| {
            isolating.iter().any(|(namespace, _, rules)| {
                rules.iter().any(|rule| self.rule(direction, namespace, rule, packet, pod))
            })
        })
    }

    /// "traffic which matches both the `from` and `ports` sections".
    fn rule(&self, direction: Direction, namespace: &str, rule: &PolicyRule, packet: Packet, pod: &Pod) -> bool {
        let other = match direction {
            Direction::Ingress => packet.source,
            Direction::Egress => packet.destination,
        };
        match &rule.peers {
            Peers::Any => self.ports(direction, &rule.ports, packet, pod),
            Peers::Only(peers) => peers
                .iter()
                .any(|peer| self.peer(namespace, peer, other) && self.ports(direction, &rule.ports, packet, pod)),
        }
    }

    fn peer(&self, namespace: &str, peer: &Peer, address: IpAddr) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
            }
            Peer::Pods { namespaces, pods } => self.pods_at(address).iter().any(|(key, pod)| {
                let in_namespace = match namespaces {
                    Namespaces::Own => *key.namespace == *namespace,
                    Namespaces::Selected(selector) => {
                        let labels = self.snapshot.namespaces.get(&NamespaceName(key.namespace.clone()));
                        chooses(selector, labels.map_or(&Labels::new(), |found| &found.labels))
                    }
                };
                in_namespace && chooses(pods, &pod.labels)
            }),
        }
    }

    fn ports(&self, direction: Direction, ports: &Ports, packet: Packet, pod: &Pod) -> bool {
        let Ports::Only(ports) = ports else { return true };
        let has = |pod: &Pod, name: &str| {
            let mut named = pod.ports.iter().filter(|port| port.protocol == packet.protocol && *port.name == *name);
            named.any(|port| port.port == packet.port)
        };
        ports.iter().filter(|port| port.protocol == packet.protocol).any(|port| match &port.port {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => (*first..=*last).contains(&packet.port),
            // "a numerical or named port on a pod": the pod that receives.
            PortMatch::Named(name) => match direction {
                Direction::Ingress => has(pod, name),
                Direction::Egress => self.pods_at(packet.destination).iter().any(|(_, pod)| has(pod, name)),
            },
        })
    }

    /// The pods with this address; one in the host's network is the host.
    fn pods_at(&self, address: IpAddr) -> Vec<(&'a PodKey, &'a Pod)> {
        let pods = self.snapshot.pods.iter().map(|(key, pod)| (key, pod.as_ref()));
        pods.filter(|(_, pod)| !pod.host_network && pod.addresses.contains(&address)).collect()
    }
}

/// "The requirements are ANDed. An empty label selector matches all objects."
fn chooses(selector: &Selector, labels: &Labels) -> bool {
    selector.matches(labels)
}
