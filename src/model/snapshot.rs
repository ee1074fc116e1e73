//! The whole cluster as this node needs it, at one moment.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};

use super::{
    ClusterNetworkPolicy, ClusterPolicyName, EndpointSlice, Namespace, NamespaceName, NetworkPolicy, Node, NodeName,
    Pod, PodKey, PolicyKey, Service, ServiceKey, SliceKey,
};

/// Counts snapshots since the daemon started, from 1. Zero means "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Everything a room may decide from.
///
/// The maps share structure with the snapshots before and after: a clone costs nothing, and
/// [`Snapshot::changes_since`] costs what changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which snapshot this is.
    pub generation: Generation,
    /// The node this daemon runs on.
    pub node_name: NodeName,
    /// Services that any feature may care about.
    #[serde(with = "pairs")]
    pub services: OrdMap<ServiceKey, Arc<Service>>,
    /// Endpoint slices, those of one Service side by side.
    #[serde(with = "pairs")]
    pub slices: OrdMap<SliceKey, Arc<EndpointSlice>>,
    /// Nodes: all of them when routing runs, else this one.
    #[serde(with = "pairs")]
    pub nodes: OrdMap<NodeName, Arc<Node>>,
    /// Pods that have addresses and have not ended.
    #[serde(with = "pairs")]
    pub pods: OrdMap<PodKey, Arc<Pod>>,
    /// Namespaces; none where no policy is enforced on this node.
    #[serde(with = "pairs", default)]
    pub namespaces: OrdMap<NamespaceName, Arc<Namespace>>,
    /// Network policies; none where no policy is enforced on this node.
    #[serde(with = "pairs", default)]
    pub policies: OrdMap<PolicyKey, Arc<NetworkPolicy>>,
    /// Cluster network policies; none where no policy is enforced on this node, or the cluster does not know the kind.
    #[serde(with = "pairs", default)]
    pub cluster_policies: OrdMap<ClusterPolicyName, Arc<ClusterNetworkPolicy>>,
}

/// What differs between two snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that were added, changed or removed, themselves or in their endpoint slices.
    pub services: BTreeSet<ServiceKey>,
    /// Nodes that were added, changed or removed.
    pub nodes: BTreeSet<NodeName>,
    /// Pods that were added, changed or removed.
    pub pods: BTreeSet<PodKey>,
    /// Namespaces that were added, changed or removed.
    pub namespaces: BTreeSet<NamespaceName>,
    /// Network policies that were added, changed or removed.
    pub policies: BTreeSet<PolicyKey>,
    /// Cluster network policies that were added, changed or removed.
    pub cluster_policies: BTreeSet<ClusterPolicyName>,
}

impl Snapshot {
    /// An empty cluster seen from `node_name`.
    pub fn empty(node_name: NodeName) -> Snapshot {
        Snapshot {
            generation: Generation::default(),
            node_name,
            services: OrdMap::new(),
            slices: OrdMap::new(),
            nodes: OrdMap::new(),
            pods: OrdMap::new(),
            namespaces: OrdMap::new(),
            policies: OrdMap::new(),
            cluster_policies: OrdMap::new(),
        }
    }

    /// The object of the node this daemon runs on, where it is known.
    pub fn own_node(&self) -> Option<&Arc<Node>> {
        self.nodes.get(&self.node_name)
    }

    /// The endpoint slices of one Service, in order of their names.
    pub fn slices_of<'a>(
        &'a self,
        service: &'a ServiceKey,
    ) -> impl Iterator<Item = (&'a SliceKey, &'a Arc<EndpointSlice>)> + 'a {
        let first = SliceKey { service: service.clone(), name: Arc::from("") };
        self.slices.range(first..).take_while(move |(key, _)| key.service == *service)
    }

    /// What changed from `older` to this snapshot. Costs in proportion to the change, not to the cluster.
    pub fn changes_since(&self, older: &Snapshot) -> Changes {
        let mut services: BTreeSet<ServiceKey> = changed_keys(&older.services, &self.services);
        services.extend(changed_keys(&older.slices, &self.slices).into_iter().map(|key: SliceKey| key.service));
        Changes {
            services,
            nodes: changed_keys(&older.nodes, &self.nodes),
            pods: changed_keys(&older.pods, &self.pods),
            namespaces: changed_keys(&older.namespaces, &self.namespaces),
            policies: changed_keys(&older.policies, &self.policies),
            cluster_policies: changed_keys(&older.cluster_policies, &self.cluster_policies),
        }
    }
}

/// The keys whose values differ between two maps that share structure.
fn changed_keys<K: Ord + Clone, V: PartialEq>(older: &OrdMap<K, V>, newer: &OrdMap<K, V>) -> BTreeSet<K> {
    older
        .diff(newer)
        .map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
            DiffItem::Update { new: (key, _), .. } => key.clone(),
        })
        .collect()
}

/// A map as a list of pairs, because JSON objects take only text for keys.
mod pairs {
    use std::sync::Arc;

    use imbl::OrdMap;
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K, V, S>(map: &OrdMap<K, Arc<V>>, serializer: S) -> Result<S::Ok, S::Error>
    where
        K: Serialize + Ord,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<OrdMap<K, Arc<V>>, D::Error>
    where
        K: DeserializeOwned + Ord + Clone,
        V: DeserializeOwned,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, Arc<V>)>::deserialize(deserializer)?.into_iter().collect())
    }
}
