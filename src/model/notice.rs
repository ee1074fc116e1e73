//! What a part wants to tell the owner of an object: it becomes a Kubernetes event where there is an API server, a log
//! line always, and an entry of the debug page.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ClusterPolicyName, NamespaceName, NodeName, PolicyKey, ServiceKey};

/// One message about one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Notice {
    /// What it is about.
    pub subject: Subject,
    /// Whether somebody must act.
    pub severity: Severity,
    /// One CamelCase word, the event's reason: `UnknownScheduler`, `VipRefused`, `DsrUnavailable` …
    pub reason: &'static str,
    /// The field, the value, and what to do.
    pub message: String,
}

/// The object a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A Service.
    Service(ServiceKey),
    /// A Node.
    Node(NodeName),
    /// A Namespace.
    Namespace(NamespaceName),
    /// A NetworkPolicy.
    Policy(PolicyKey),
    /// A ClusterNetworkPolicy.
    ClusterPolicy(ClusterPolicyName),
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Good to know.
    Normal,
    /// Somebody must act.
    Warning,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Service(key) => write!(f, "service {key}"),
            Subject::Node(name) => write!(f, "node {name}"),
            Subject::Namespace(name) => write!(f, "namespace {name}"),
            Subject::Policy(key) => write!(f, "networkpolicy {key}"),
            Subject::ClusterPolicy(name) => write!(f, "clusternetworkpolicy {name}"),
        }
    }
}
