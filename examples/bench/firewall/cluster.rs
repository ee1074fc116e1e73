//! Clusters full of policies, held in the daemon's own stores so that an event takes its real way.
//!
//! Each namespace has [`PODS`] pods and, but for packets, [`ROLES`] policies, every policy is about pods of this node, and each allows
//! [`PODS`] pods from everywhere: a pod has a label for each role, whose values are spread so that no two policies allow
//! the same pods. So a cluster of 100 namespaces has 10,000 pods, 1,000 policies and 100,000 members of sets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ferrovia::k8s::cluster::{Cluster, Update};
use ferrovia::k8s::convert::Converted;
use ferrovia::k8s::store::{Event, Key};
use ferrovia::model::{
    Generation, Labels, Namespace, NamespaceName, Namespaces, NetworkPolicy, Node, NodeName, Operator, Peer, Peers,
    Pod, PodKey, PolicyKey, PolicyPort, PolicyRule, PortMatch, Ports, Requirement, Selector, Snapshot,
};
use ferrovia::net::{Prefix, Protocol};

/// Namespaces of the big cluster.
pub(crate) const MANY: usize = 100;
/// Namespaces of the small one.
pub(crate) const FEW: usize = 10;
/// Pods of a namespace, and pods each policy allows.
pub(crate) const PODS: usize = 100;
/// Policies of a namespace.
pub(crate) const ROLES: usize = 10;
/// The first port that policies allow.
pub(crate) const PORT: u16 = 8000;
/// The label that the policy of the first role is about; the others are about every pod of their namespace.
const GUARDED: &str = "guarded";
/// The label of pods that are under one more policy, which nobody else is under.
const LONELY: &str = "lonely";

/// A cluster as the daemon holds it.
pub(crate) struct World {
    cluster: Cluster,
    generation: Generation,
    node: NodeName,
    n_namespaces: usize,
    n_roles: usize,
    local: BTreeSet<usize>,
}

/// What a pod is like, beside what its number says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Twist {
    /// It has not the role by which the first policy would allow it.
    pub(crate) without_role: bool,
    /// The first policy is not about it.
    pub(crate) unguarded: bool,
    /// The lonely policy is about it.
    pub(crate) lonely: bool,
}

fn text(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn selector(key: &str, values: &[&str]) -> Selector {
    let values = values.iter().map(|value| text(value)).collect();
    Selector(vec![Requirement { key: text(key), operator: Operator::In(values) }])
}

/// Whether pod `number` of namespace `namespace` runs here: five of 200.
fn is_local(namespace: usize, number: usize) -> bool {
    number == 0 || number == 40 || (number == 80 && namespace.is_multiple_of(2))
}

fn namespace(index: usize) -> Arc<str> {
    Arc::from(format!("team-{index}"))
}

/// The key of a pod.
pub(crate) fn pod_key(index: usize) -> PodKey {
    PodKey::new(namespace(index / PODS), format!("pod-{}", index % PODS))
}

/// The address of a pod: those that run here are in 10.128.0.0/16, all others in 10.129.0.0/16.
pub(crate) fn pod_address(index: usize) -> IpAddr {
    let here = is_local(index / PODS, index % PODS);
    let base = Ipv4Addr::new(10, if here { 128 } else { 129 }, 0, 0);
    Ipv4Addr::from(base.to_bits() + u32::try_from(index).unwrap_or_default() + 1).into()
}

/// The numbers of pods of this node among `n_namespaces`.
pub(crate) fn local_pods(n_namespaces: usize) -> impl Iterator<Item = usize> {
    (0..n_namespaces * PODS).filter(|index| is_local(index / PODS, index % PODS))
}

/// The numbers of all other pods.
pub(crate) fn remote_pods(n_namespaces: usize) -> impl Iterator<Item = usize> {
    (0..n_namespaces * PODS).filter(|index| !is_local(index / PODS, index % PODS))
}

impl World {
    /// A cluster of so many namespaces with everything in it.
    pub(crate) fn new(n_namespaces: usize) -> World {
        World::with_local(n_namespaces, ROLES, local_pods(n_namespaces).collect())
    }

    /// One with so many policies in each namespace, of whose pods these alone run here.
    pub(crate) fn with_local(n_namespaces: usize, n_roles: usize, local: BTreeSet<usize>) -> World {
        let mut world = World {
            cluster: Cluster::default(),
            generation: Generation(0),
            node: NodeName::new("n1"),
            n_namespaces,
            n_roles,
            local,
        };
        let pods = Prefix::new(Ipv4Addr::new(10, 128, 0, 0).into(), 16);
        let node = Node {
            internal_ips: vec![Ipv4Addr::new(192, 168, 10, 11).into()],
            pod_cidrs: pods.into_iter().collect(),
            ..Node::default()
        };
        world.apply(Update::Node, world.node.clone(), node);
        for index in 0..n_namespaces {
            let labels = [(text("kubernetes.io/metadata.name"), namespace(index))].into();
            let object = Namespace { labels, legacy_isolation: false };
            world.apply(Update::Namespace, NamespaceName(namespace(index)), object);
            for role in 0..n_roles {
                world.set_policy(index, role);
            }
        }
        world.set_lonely_policy();
        for index in 0..n_namespaces * PODS {
            world.set_pod(index, Twist::default());
        }
        world
    }

    /// How many pods there are.
    pub(crate) fn n_pods(&self) -> usize {
        self.n_namespaces * PODS
    }

    /// How many policies are about pods of this node.
    pub(crate) fn n_policies(&self) -> usize {
        self.n_namespaces * self.n_roles
    }

    /// The value a pod has in a role: of all pods every value gets the same number.
    fn role(&self, index: usize, role: usize) -> Arc<str> {
        let (row, column) = (index / self.n_namespaces, index % self.n_namespaces);
        Arc::from(format!("r{}", (column + role * row) % self.n_namespaces))
    }

    fn set_policy(&mut self, index: usize, role: usize) {
        let targets = if role == 0 { selector(GUARDED, &["yes"]) } else { Selector::default() };
        let pods = selector(&format!("role-{role}"), &[&format!("r{index}")]);
        let key = PolicyKey::new(namespace(index), format!("role-{role}"));
        self.apply(Update::NetworkPolicy, key, allowing(targets, pods));
    }

    /// A policy that is about nobody of this node as long as no pod is lonely.
    fn set_lonely_policy(&mut self) {
        let policy = allowing(selector(LONELY, &["yes"]), selector("role-0", &["r1", "r2"]));
        self.apply(Update::NetworkPolicy, PolicyKey::new(namespace(0), LONELY), policy);
    }

    /// Writes pod `index`.
    pub(crate) fn set_pod(&mut self, index: usize, twist: Twist) {
        let mut labels: Labels = (0..self.n_roles)
            .filter(|role| *role != 0 || !twist.without_role)
            .map(|role| (Arc::from(format!("role-{role}")), self.role(index, role)))
            .collect();
        labels.insert(text("app"), Arc::from(format!("app-{}", index % PODS)));
        labels.insert(text(GUARDED), text(if twist.unguarded { "no" } else { "yes" }));
        if twist.lonely {
            labels.insert(text(LONELY), text("yes"));
        }
        let node = if self.local.contains(&index) { self.node.clone() } else { NodeName::new("n2") };
        let pod = Pod {
            addresses: [pod_address(index)].into(),
            node: Some(node),
            labels,
            grace_period: 30,
            ..Pod::default()
        };
        self.apply(Update::Pod, pod_key(index), pod);
    }

    /// Deletes pod `index`.
    pub(crate) fn delete_pod(&mut self, index: usize) {
        drop(self.cluster.fold(Update::Pod(Event::Delete(pod_key(index).id()))));
    }

    /// One event through the store.
    fn apply<K: Key, V>(&mut self, update: impl Fn(Event<K, V>) -> Update, key: K, value: V) {
        let converted = Converted { id: key.id(), value: Some((key, value)), rejections: Vec::new() };
        drop(self.cluster.fold(update(Event::Apply(converted))));
    }

    /// A snapshot of now.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        self.generation = Generation(self.generation.0 + 1);
        self.cluster.snapshot(self.generation, &self.node)
    }
}

/// A policy by which such pods of all namespaces may send to UDP ports from [`PORT`] on.
fn allowing(targets: Selector, pods: Selector) -> NetworkPolicy {
    let peer = Peer::Pods { namespaces: Namespaces::Selected(Selector::default()), pods };
    let ports = Ports::Only(vec![PolicyPort { protocol: Protocol::Udp, port: PortMatch::Range(PORT, PORT + 999) }]);
    NetworkPolicy { targets, ingress: Some(vec![PolicyRule { peers: Peers::Only(vec![peer]), ports }]), egress: None }
}
