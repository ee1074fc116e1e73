//! A NetworkPolicy (`networking.k8s.io/v1`), reduced to what it decides.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Selector;
use crate::net::{Prefix, Protocol};

/// A policy's namespace and name. Two fields, never one joined string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyKey {
    /// The namespace, whose pods it is about.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl PolicyKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> PolicyKey {
        PolicyKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A policy. Policies add up: what any of them allows is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// The pods of its namespace it isolates.
    pub targets: Selector,
    /// What they may receive; `None` where the policy says nothing about it, which isolates nobody. An empty list
    /// allows nothing.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What they may send, likewise.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One rule: traffic with one of these peers to one of these ports is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    /// The other side.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// The other sides a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peers {
    /// Everybody, in the cluster or outside.
    Any,
    /// Any of these. Empty where none could be read: then nobody.
    Only(Vec<Peer>),
}

/// One kind of other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// Pods of this cluster.
    Pods {
        /// In these namespaces.
        namespaces: Namespaces,
        /// Those of their pods.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// Inside this.
        cidr: Prefix,
        /// But not inside these.
        except: Vec<Prefix>,
    },
}

/// Which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Namespaces {
    /// The policy's own.
    Own,
    /// Those with such labels.
    Selected(Selector),
}

/// The destination ports a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ports {
    /// All ports of all protocols.
    Any,
    /// Any of these. Empty where none could be read: then none.
    Only(Vec<PolicyPort>),
}

/// One or several ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub port: PortMatch,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortMatch {
    /// All.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The container port of this name, which may be another number in every pod.
    Named(Arc<str>),
}
