//! `v1` Namespace (pure).

use k8s_openapi::api::core::v1::Namespace as ApiNamespace;
use serde_json::Value;

use super::{Context, Converted, Rejections, annotations, name_of, selector};
use crate::model::{Namespace, NamespaceName};

/// The label every namespace has, whatever its author wrote: its own name. The API server sets it; a manifest need not.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Reduces one Namespace.
pub fn convert(object: &ApiNamespace, context: Context<'_>) -> Converted<NamespaceName, NamespaceName, Namespace> {
    let mut rejections = Rejections::default();
    let name = NamespaceName(context.names.get(&name_of(&object.metadata, &mut rejections)));
    if name.0.is_empty() {
        return Converted { id: name, value: None, rejections: rejections.into_vec() };
    }
    let mut labels = selector::labels(object.metadata.labels.as_ref(), context);
    labels.insert(context.names.get(NAME_LABEL), name.0.clone());
    let legacy = object.metadata.annotations.as_ref().and_then(|all| all.get(annotations::LEGACY_ISOLATION));
    let legacy_isolation = legacy.is_some_and(|text| is_default_deny(text, &mut rejections));
    let namespace = Namespace { labels, legacy_isolation };
    Converted { id: name.clone(), value: Some((name, namespace)), rejections: rejections.into_vec() }
}

/// Whether the annotation asks for isolation: `{"ingress":{"isolation":"DefaultDeny"}}` is all it ever could say.
fn is_default_deny(text: &str, rejections: &mut Rejections) -> bool {
    let isolation = serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|value| Some(value.get("ingress")?.get("isolation")?.as_str()?.to_owned()));
    if isolation.as_deref() == Some("DefaultDeny") {
        return true;
    }
    let message =
        r#"no isolation and left out: write {"ingress":{"isolation":"DefaultDeny"}}, or better a NetworkPolicy"#;
    rejections.add("InvalidIsolation", annotations::field(annotations::LEGACY_ISOLATION), text, message);
    false
}
