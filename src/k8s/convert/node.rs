//! `v1` Node (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node as ApiNode, NodeCondition};

use super::super::annotations::{self, FERROVIA_PREFIX, KUBE_ROUTER_PREFIX};
use super::{Context, Converted, Rejections, label, name_of, parse_address, parse_prefix};
use crate::model::{Node, NodeName};
use crate::net::Prefix;

/// The zone label every cloud and many clusters on own machines set.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Reduces one Node.
pub fn convert(object: &ApiNode, context: Context<'_>) -> Converted<NodeName, NodeName, Node> {
    let mut rejections = Rejections::default();
    let meta = &object.metadata;
    let name = NodeName(context.names.get(&name_of(meta, &mut rejections)));
    if name.as_str().is_empty() {
        return Converted { id: name, value: None, rejections: rejections.into_vec() };
    }
    let mut node = Node {
        uid: Arc::from(meta.uid.as_deref().unwrap_or_default()),
        zone: label(meta, ZONE_LABEL).filter(|zone| !zone.is_empty()).map(|zone| context.names.get(zone)),
        pod_cidrs: pod_cidrs(object, &mut rejections),
        labels: shared(meta.labels.as_ref(), context, |_| true),
        annotations: shared(meta.annotations.as_ref(), context, |key| {
            key.starts_with(KUBE_ROUTER_PREFIX) || key.starts_with(FERROVIA_PREFIX)
        }),
        unschedulable: object.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        taints: taints(object, context),
        shutting_down: shutting_down(object),
        not_ready: ready_conditions(object).any(|condition| condition.status != "True"),
        ..Node::default()
    };
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for (index, entry) in addresses.iter().enumerate() {
        let list: &mut Vec<IpAddr> = match entry.type_.as_str() {
            "InternalIP" => &mut node.internal_ips,
            "ExternalIP" => &mut node.external_ips,
            _ => continue,
        };
        match parse_address(&entry.address) {
            Ok(address) if !list.contains(&address) => list.push(address),
            Ok(_) => {}
            Err(message) => {
                let field = format!("status.addresses[{index}].address");
                rejections.add("InvalidAddress", field, &entry.address, message);
            }
        }
    }
    Converted { id: name.clone(), value: Some((name, node)), rejections: rejections.into_vec() }
}

fn taints(object: &ApiNode, context: Context<'_>) -> BTreeSet<Arc<str>> {
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().map(|taint| context.names.get(&taint.key)).collect()
}

/// What a kubelet with graceful node shutdown writes once the host begins to stop.
fn shutting_down(object: &ApiNode) -> bool {
    ready_conditions(object).any(|condition| {
        let told = condition.message.as_deref().unwrap_or_default();
        condition.status == "False" && told.contains("node is shutting down")
    })
}

fn ready_conditions(object: &ApiNode) -> impl Iterator<Item = &NodeCondition> {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().filter(|condition| condition.type_ == "Ready")
}

/// The pod prefixes: annotation `kube-router.io/pod-cidrs`, `spec.podCIDRs`, the older annotation
/// `kube-router.io/pod-cidr`, `spec.podCIDR`; the first of them that says anything counts.
fn pod_cidrs(object: &ApiNode, rejections: &mut Rejections) -> Vec<Prefix> {
    let annotation = |key: &str| {
        let text = object.metadata.annotations.as_ref()?.get(key)?;
        let entries: Vec<(String, &str)> = text
            .split(',')
            .filter(|entry| !entry.trim().is_empty())
            .map(|entry| (annotations::field(key), entry))
            .collect();
        (!entries.is_empty()).then_some(entries)
    };
    let spec = object.spec.as_ref();
    let listed = || {
        let prefixes = spec?.pod_cidrs.as_ref()?;
        let entries =
            prefixes.iter().enumerate().map(|(index, text)| (format!("spec.podCIDRs[{index}]"), text.as_str()));
        (!prefixes.is_empty()).then(|| entries.collect::<Vec<_>>())
    };
    let single = || {
        let prefix = spec?.pod_cidr.as_deref().filter(|prefix| !prefix.is_empty())?;
        Some(vec![("spec.podCIDR".to_owned(), prefix)])
    };
    let entries = annotation(annotations::POD_CIDRS)
        .or_else(listed)
        .or_else(|| annotation(annotations::POD_CIDR))
        .or_else(single)
        .unwrap_or_default();
    let mut prefixes = Vec::with_capacity(entries.len());
    for (field, text) in entries {
        match parse_prefix(text) {
            Ok(prefix) if !prefixes.contains(&prefix) => prefixes.push(prefix),
            Ok(_) => {}
            Err(message) => rejections.add("InvalidPrefix", field, text, message),
        }
    }
    prefixes
}

/// The wanted entries of a label or annotation map, keys and values shared between nodes.
fn shared(
    map: Option<&BTreeMap<String, String>>,
    context: Context<'_>,
    wanted: impl Fn(&str) -> bool,
) -> BTreeMap<Arc<str>, Arc<str>> {
    map.into_iter()
        .flatten()
        .filter(|(key, _)| wanted(key))
        .map(|(key, value)| (context.names.get(key), context.names.get(value)))
        .collect()
}
