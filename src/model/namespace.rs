//! A Namespace, reduced.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Labels;

/// The name of a Namespace object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespaceName(pub Arc<str>);

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A namespace of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// The old annotation `net.beta.kubernetes.io/network-policy` asks for isolation of all its pods.
    pub legacy_isolation: bool,
}
