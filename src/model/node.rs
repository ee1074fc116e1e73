//! A Node, reduced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::net::{Family, Prefix};

/// One node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.uid`, empty in hand-written manifests; events refer to it.
    pub uid: Arc<str>,
    /// `status.addresses` of type InternalIP, in status order.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP, in status order.
    pub external_ips: Vec<IpAddr>,
    /// Pod prefixes of this node: annotation `kube-router.io/pod-cidrs`, else `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_cidrs: Vec<Prefix>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `spec.unschedulable`: the node is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
    /// Keys of `spec.taints`.
    #[serde(default)]
    pub taints: BTreeSet<Arc<str>>,
    /// The kubelet says in the condition Ready that the host is shutting down.
    #[serde(default)]
    pub shutting_down: bool,
    /// The condition Ready is False or Unknown: the kubelet is not well, or nobody has heard of it. A node that says
    /// nothing of the kind counts as ready.
    #[serde(default)]
    pub not_ready: bool,
    /// All labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The annotations under `kube-router.io/` and `ferrovia.dev/`, as written.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

impl Node {
    /// The address the node is known by: the first internal one, else the first external one.
    pub fn primary_ip(&self) -> Option<IpAddr> {
        self.addresses().next()
    }

    /// The address used for a family: the primary one if it is of that family, else the first of that family.
    pub fn best_ip(&self, family: Family) -> Option<IpAddr> {
        self.addresses().find(|address| Family::of(*address) == family)
    }

    /// Internal addresses, then external ones.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.internal_ips.iter().chain(&self.external_ips).copied()
    }
}
