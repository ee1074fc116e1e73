//! What stands for a namespace's old isolation annotation today (pure).

use super::{Config, LEGACY_POLICY};
use crate::model::{NamespaceName, Notice, Severity, Snapshot, Subject};

/// The NetworkPolicy that means the same, as YAML.
pub fn equivalent(namespace: &NamespaceName) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: default-deny, namespace: \
         {namespace}}}, spec: {{podSelector: {{}}, policyTypes: [Ingress]}}}}"
    )
}

/// One notice for each namespace that carries the annotation: whether it is heeded, and what to write instead.
pub fn notices(snapshot: &Snapshot, config: &Config) -> Vec<Notice> {
    let isolated = snapshot.namespaces.iter().filter(|(_, namespace)| namespace.legacy_isolation);
    isolated.map(|(name, _)| notice(name, config.legacy_isolation)).collect()
}

fn notice(name: &NamespaceName, heeded: bool) -> Notice {
    let policy = equivalent(name);
    let (severity, message) = if heeded {
        let message = format!("annotation {LEGACY_POLICY} is heeded; the same as a NetworkPolicy: {policy}");
        (Severity::Normal, message)
    } else {
        let message = format!(
            "annotation {LEGACY_POLICY} is not heeded; create the NetworkPolicy {policy}, or start with \
             --legacy-namespace-isolation"
        );
        (Severity::Warning, message)
    };
    Notice { subject: Subject::Namespace(name.clone()), severity, reason: "LegacyIsolation", message }
}
