//! A Service, reduced to what decides forwarding and advertisement.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NodeName;
use crate::net::{Prefix, Protocol};

/// One Service of the cluster. Everything is validated: what could not be read was left out and reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `metadata.uid`, empty in hand-written manifests; events refer to it.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since the epoch, 0 where unknown. The older Service wins a contested VIP.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIP` and `spec.clusterIPs`, deduplicated, in order. Empty for headless and ExternalName Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs` as written; what is granted is decided by the rooms.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is not `Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The ports, in the order of the object.
    pub ports: Vec<ServicePort>,
    /// Client-IP affinity with its timeout, where asked for.
    pub affinity: Option<Affinity>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, 0 where absent.
    pub health_check_node_port: u16,
    /// `spec.loadBalancerSourceRanges` (and the annotation of the same meaning). Empty means anybody.
    pub source_ranges: Vec<Prefix>,
    /// `spec.trafficDistribution` or the topology-mode annotation.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// True when another proxy is named, or the headless label is set: the service proxy leaves it alone.
    pub ignored_by_proxy: bool,
    /// What the annotations say.
    pub settings: ServiceSettings,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names, reason = "the API's own words")]
pub enum ServiceType {
    /// Reachable inside the cluster.
    ClusterIp,
    /// Also reachable at a port of every node.
    NodePort,
    /// Also reachable at an external load balancer address.
    LoadBalancer,
    /// A DNS alias, nothing to forward.
    ExternalName,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name, empty when the Service has one nameless port. Joins it with an endpoint slice's port.
    pub name: Arc<str>,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// The port on the VIPs, 1-65535.
    pub port: u16,
    /// The numeric `targetPort`, where it is a number: DSR cannot change ports.
    pub target_port: Option<u16>,
    /// The port on the nodes, 0 where there is none.
    pub node_port: u16,
}

/// Session affinity by client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Seconds a client keeps its endpoint after its last connection, 1-86400; the API's default is 10800.
    pub timeout: u32,
}

/// Which endpoints traffic may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Those of the whole cluster.
    Cluster,
    /// Only those on the node that received the traffic.
    Local,
}

/// `spec.trafficDistribution` (KEP-4444, KEP-3015) and the older topology-aware hints (KEP-2433).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// `PreferSameZone`, `PreferClose`, or topology mode `Auto`: follow zone hints.
    PreferSameZone,
    /// `PreferSameNode`: follow node hints, then zone hints.
    PreferSameNode,
}

/// An IPVS scheduler by its kernel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the variants are the kernel's own module names, ip_vs_<name>")]
pub enum Scheduler {
    Rr,
    Wrr,
    Lc,
    Wlc,
    Sed,
    Nq,
    Sh,
    Dh,
    Mh,
    Lblc,
    Lblcr,
    Fo,
    Ovf,
}

/// What the annotations of a Service ask for, read and validated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// `kube-router.io/service.scheduler`; `None` where absent or not a known name (which is reported).
    pub scheduler: Option<Scheduler>,
    /// `kube-router.io/service.schedflags`: bits 0, 1, 2 for `flag-1`, `flag-2`, `flag-3`.
    pub scheduler_flags: u8,
    /// `kube-router.io/service.dsr` is `tunnel`.
    pub dsr: bool,
    /// `kube-router.io/service.local` is exactly `true`.
    pub local: bool,
    /// `kube-router.io/service.skiplbips` is present.
    pub skip_load_balancer_ips: bool,
    /// `kube-router.io/service.advertise.clusterip`, overriding the flag.
    pub advertise_cluster_ip: Option<bool>,
    /// `kube-router.io/service.advertise.externalip`, overriding the flag.
    pub advertise_external_ip: Option<bool>,
    /// `kube-router.io/service.advertise.loadbalancerip`, overriding the flag.
    pub advertise_load_balancer_ip: Option<bool>,
    /// `ferrovia.dev/service.weights`: the first rule that selects an endpoint gives its weight; otherwise 1.
    pub weights: Vec<WeightRule>,
}

/// One rule of the weights annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightRule {
    /// Which endpoints.
    pub selector: WeightSelector,
    /// Their IPVS weight, 0-65535; 0 sends no new connections.
    pub weight: u32,
}

/// Which endpoints a weight rule selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightSelector {
    /// `*`: every endpoint.
    Any,
    /// `ip:ADDRESS`: one endpoint.
    Address(IpAddr),
    /// `pod:NAME`: the endpoint of this pod of the Service's namespace.
    Pod(Arc<str>),
    /// `node:NAME`: the endpoints on this node.
    Node(NodeName),
    /// `zone:NAME`: the endpoints in this zone.
    Zone(Arc<str>),
}
