//! A Pod, reduced.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Labels, NodeName};
use crate::net::Protocol;

/// One pod of the cluster that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `status.podIPs`.
    pub addresses: Box<[IpAddr]>,
    /// `spec.nodeName`.
    pub node: Option<NodeName>,
    /// Labels, which selectors of policies look at. Empty where no policy is enforced on this node.
    #[serde(default)]
    pub labels: Labels,
    /// Ports of its containers that have a name. Empty where no policy is enforced on this node.
    #[serde(default)]
    pub ports: Box<[NamedPort]>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Seconds a deleted pod may take to end: `metadata.deletionGracePeriodSeconds`, else
    /// `spec.terminationGracePeriodSeconds`, else 30.
    pub grace_period: u32,
    /// `metadata.deletionTimestamp` in seconds since the epoch: when the grace period *ends*.
    pub deletion: Option<i64>,
    /// `status.containerStatuses[].containerID` of the first running container, `scheme://id`. Kept for pods of this
    /// node only: direct server return needs it.
    pub container_id: Option<Arc<str>>,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}
