//! The stores of all kinds side by side, and the snapshot they make.

use tracing::{info, warn};

use super::convert::endpoint_slice::SliceId;
use super::convert::{Converted, Rejection};
use super::store::{Event, Folded, Store};
use crate::model::{
    ClusterNetworkPolicy, ClusterPolicyName, EndpointSlice, Generation, Namespace, NamespaceName, NetworkPolicy, Node,
    NodeName, Pod, PodKey, PolicyKey, Service, ServiceKey, SliceKey, Snapshot,
};

/// A kind of object we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Namespace.
    Namespace,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, which not every cluster knows.
    ClusterNetworkPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Node,
        Kind::Pod,
        Kind::Namespace,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ];

    /// The kind in lower case, for log fields and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::EndpointSlice => "endpointslice",
            Kind::Node => "node",
            Kind::Pod => "pod",
            Kind::Namespace => "namespace",
            Kind::NetworkPolicy => "networkpolicy",
            Kind::ClusterNetworkPolicy => "clusternetworkpolicy",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One event of any kind.
#[derive(Clone, Debug)]
pub enum Update {
    /// Of a Service.
    Service(Event<ServiceKey, Service>),
    /// Of an EndpointSlice.
    EndpointSlice(Event<SliceKey, EndpointSlice>),
    /// Of a Node.
    Node(Event<NodeName, Node>),
    /// Of a Pod.
    Pod(Event<PodKey, Pod>),
    /// Of a Namespace.
    Namespace(Event<NamespaceName, Namespace>),
    /// Of a NetworkPolicy.
    NetworkPolicy(Event<PolicyKey, NetworkPolicy>),
    /// Of a ClusterNetworkPolicy.
    ClusterNetworkPolicy(Event<ClusterPolicyName, ClusterNetworkPolicy>),
}

/// A change of what is rejected about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectionChange {
    /// The kind of the object.
    pub kind: Kind,
    /// Namespace and name, or the name.
    pub object: String,
    /// Whose owner to tell by an event; pods and slices have owners of their own that nobody reads events of.
    pub subject: Option<crate::model::Subject>,
    /// Everything rejected about it now.
    pub rejections: Vec<Rejection>,
}

/// All stores.
#[derive(Debug, Default)]
pub struct Cluster {
    services: Store<ServiceKey, Service>,
    slices: Store<SliceKey, EndpointSlice>,
    nodes: Store<NodeName, Node>,
    pods: Store<PodKey, Pod>,
    namespaces: Store<NamespaceName, Namespace>,
    policies: Store<PolicyKey, NetworkPolicy>,
    cluster_policies: Store<ClusterPolicyName, ClusterNetworkPolicy>,
}

impl Cluster {
    /// Takes one event in: whether a snapshot would differ, and what is newly (or no longer) rejected.
    pub fn fold(&mut self, update: Update) -> (bool, Vec<RejectionChange>) {
        use crate::model::Subject;
        fn changes<I: ToString>(
            kind: Kind,
            folded: Folded<I>,
            subject: impl Fn(&I) -> Option<Subject>,
        ) -> (bool, Vec<RejectionChange>) {
            let change = |(id, rejections): (I, Vec<Rejection>)| RejectionChange {
                kind,
                object: id.to_string(),
                subject: subject(&id),
                rejections,
            };
            (folded.changed, folded.rejections.into_iter().map(change).collect())
        }
        match update {
            Update::Service(event) => changes(Kind::Service, self.services.fold(event), |key: &ServiceKey| {
                Some(Subject::Service(key.clone()))
            }),
            Update::EndpointSlice(event) => changes(Kind::EndpointSlice, self.slices.fold(event), |_: &SliceId| None),
            Update::Node(event) => {
                changes(Kind::Node, self.nodes.fold(event), |name: &NodeName| Some(Subject::Node(name.clone())))
            }
            Update::Pod(event) => changes(Kind::Pod, self.pods.fold(event), |_: &PodKey| None),
            Update::Namespace(event) => {
                changes(Kind::Namespace, self.namespaces.fold(event), |name: &NamespaceName| {
                    Some(Subject::Namespace(name.clone()))
                })
            }
            Update::NetworkPolicy(event) => {
                changes(Kind::NetworkPolicy, self.policies.fold(event), |key: &PolicyKey| {
                    Some(Subject::Policy(key.clone()))
                })
            }
            Update::ClusterNetworkPolicy(event) => {
                let folded = self.cluster_policies.fold(event);
                changes(Kind::ClusterNetworkPolicy, folded, |name: &ClusterPolicyName| {
                    Some(Subject::ClusterPolicy(name.clone()))
                })
            }
        }
    }

    /// Whether a kind has been listed completely.
    pub fn in_sync(&self, kind: Kind) -> bool {
        match kind {
            Kind::Service => self.services.in_sync(),
            Kind::EndpointSlice => self.slices.in_sync(),
            Kind::Node => self.nodes.in_sync(),
            Kind::Pod => self.pods.in_sync(),
            Kind::Namespace => self.namespaces.in_sync(),
            Kind::NetworkPolicy => self.policies.in_sync(),
            Kind::ClusterNetworkPolicy => self.cluster_policies.in_sync(),
        }
    }

    /// How many objects of a kind are held.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.objects().len(),
            Kind::EndpointSlice => self.slices.objects().len(),
            Kind::Node => self.nodes.objects().len(),
            Kind::Pod => self.pods.objects().len(),
            Kind::Namespace => self.namespaces.objects().len(),
            Kind::NetworkPolicy => self.policies.objects().len(),
            Kind::ClusterNetworkPolicy => self.cluster_policies.objects().len(),
        }
    }

    /// Everything as it is now. Costs nothing: the maps are shared.
    pub fn snapshot(&self, generation: Generation, node_name: &NodeName) -> Snapshot {
        Snapshot {
            generation,
            node_name: node_name.clone(),
            services: self.services.objects().clone(),
            slices: self.slices.objects().clone(),
            nodes: self.nodes.objects().clone(),
            pods: self.pods.objects().clone(),
            namespaces: self.namespaces.objects().clone(),
            policies: self.policies.objects().clone(),
            cluster_policies: self.cluster_policies.objects().clone(),
        }
    }
}

/// Logs a change of what is rejected about one object.
pub(super) fn log_rejections(change: &RejectionChange) {
    if change.rejections.is_empty() {
        info!(kind = %change.kind, object = %change.object, "object reads without complaint now");
    }
    for Rejection { field, value, message, reason } in &change.rejections {
        warn!(kind = %change.kind, object = %change.object, field, value, reason, detail = message, "object holds a value that cannot be used");
    }
}

/// The events of a complete list.
pub(super) fn whole_list<K: super::store::Key, V>(objects: Vec<Converted<K::Id, K, V>>) -> Vec<Event<K, V>> {
    std::iter::once(Event::Init)
        .chain(objects.into_iter().map(Event::InitApply))
        .chain(std::iter::once(Event::InitDone))
        .collect()
}
