//! A ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), reduced to what it decides.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Peers, Ports, Selector};

/// The name of a ClusterNetworkPolicy, which has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterPolicyName(pub Arc<str>);

impl fmt::Display for ClusterPolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A policy of the cluster's administrators. Unlike a NetworkPolicy it isolates nobody: it says something about the
/// packets its rules match, and nothing about all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// When it is asked.
    pub tier: Tier,
    /// Within its tier the policy with the lower number is asked first: 0 to 1000.
    pub priority: u16,
    /// The pods it is about: in namespaces with such labels …
    pub namespaces: Selector,
    /// … those with such labels.
    pub pods: Selector,
    /// What is said about packets to these pods. The first rule that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// What is said about packets from them, likewise.
    pub egress: Vec<ClusterRule>,
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Before every NetworkPolicy.
    Admin,
    /// For pods that no NetworkPolicy isolates in that direction.
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Admin => "Admin",
            Tier::Baseline => "Baseline",
        })
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRule {
    /// Its name, empty where it has none.
    pub name: Arc<str>,
    /// What happens to the packets it matches.
    pub action: Action,
    /// The other side.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// What happens to the packets a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// They pass; nobody else is asked in this direction.
    Accept,
    /// They are denied; nobody else is asked.
    Deny,
    /// No other policy of this tier is asked, but the next tier is.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Accept => "Accept",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        })
    }
}
