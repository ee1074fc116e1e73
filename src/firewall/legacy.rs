//! What stands for a namespace's old isolation annotation today (pure).

use std::collections::BTreeSet;

use super::{Config, LEGACY_POLICY};
use crate::model::{NamespaceName, Snapshot};

/// The NetworkPolicy that means the same, as YAML.
pub fn equivalent(namespace: &NamespaceName) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\n\
         kind: NetworkPolicy\n\
         metadata:\n  name: default-deny-ingress\n  namespace: {namespace}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Ingress]\n"
    )
}

/// The namespaces that carry the annotation.
pub fn isolated(snapshot: &Snapshot) -> impl Iterator<Item = &NamespaceName> {
    snapshot.namespaces.iter().filter(|(_, namespace)| namespace.legacy_isolation).map(|(name, _)| name)
}

/// One finding for each namespace that carries the annotation: whether it counts, and what to write instead.
pub fn findings(snapshot: &Snapshot, config: &Config) -> Vec<String> {
    let effect = if config.legacy_isolation {
        "isolates its pods, and will not for ever"
    } else {
        "has no effect: --legacy-namespace-isolation is off"
    };
    let finding = |name: &NamespaceName| {
        let policy = format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: default-deny-ingress, namespace: \
             {name}}}, spec: {{podSelector: {{}}, policyTypes: [Ingress]}}}}"
        );
        format!(
            "LegacyIsolation: namespace {name}: the annotation {LEGACY_POLICY} {effect}; apply this and remove it: {policy}"
        )
    };
    isolated(snapshot).map(finding).collect()
}

/// Tells of each namespace once, as long as it carries the annotation.
#[derive(Clone, Debug, Default)]
pub struct Told(BTreeSet<NamespaceName>);

impl Told {
    /// The namespaces that carry it since this was last asked.
    pub fn news(&mut self, snapshot: &Snapshot) -> Vec<NamespaceName> {
        let now: BTreeSet<NamespaceName> = isolated(snapshot).cloned().collect();
        let news = now.difference(&self.0).cloned().collect();
        self.0 = now;
        news
    }
}
