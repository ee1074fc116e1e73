//! The table in the middle: the cluster as this node needs it, in plain values.
//!
//! A [`Snapshot`] is everything a room may decide from. It holds values only: no Kubernetes types,
//! no kernel types, nothing that waits. It serialises, so a dump from a running node replays on a desk.
//! What a room wants (virtual servers, rules, routes) is not in here: each room derives it.

mod cluster_policy;
mod endpoint;
mod ids;
mod namespace;
mod node;
mod notice;
mod pod;
mod policy;
mod published;
mod selector;
mod service;
mod snapshot;

pub use cluster_policy::{Action, ClusterNetworkPolicy, ClusterPolicyName, ClusterRule, Tier};
pub use endpoint::{Conditions, Endpoint, EndpointPort, EndpointSlice, SliceKey};
pub use ids::{NodeName, PodKey, ServiceKey};
pub use namespace::{Namespace, NamespaceName};
pub use node::Node;
pub use notice::{Notice, Severity, Subject};
pub use pod::{NamedPort, Pod};
pub use policy::{Namespaces, NetworkPolicy, Peer, Peers, PolicyKey, PolicyPort, PolicyRule, PortMatch, Ports};
pub use published::Published;
pub use selector::{Labels, Operator, Requirement, Selector};
pub use service::{
    Affinity, Scheduler, Service, ServicePort, ServiceSettings, ServiceType, TrafficDistribution, TrafficPolicy,
    WeightRule, WeightSelector,
};
pub use snapshot::{Changes, Generation, Snapshot};
