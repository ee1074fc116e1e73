//! A Pod, reduced.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NodeName;

/// One pod of the cluster that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `status.podIPs`.
    pub addresses: Box<[IpAddr]>,
    /// `spec.nodeName`.
    pub node: Option<NodeName>,
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
