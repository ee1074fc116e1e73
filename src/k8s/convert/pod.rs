//! `v1` Pod (pure).

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod as ApiPod, PodSpec, PodStatus};

use super::{Context, Converted, Rejections, namespace_and_name, parse_address, parse_port, parse_protocol, selector};
use crate::model::{NamedPort, NodeName, Pod, PodKey};

/// `spec.terminationGracePeriodSeconds` where a pod does not say: the API's default.
const DEFAULT_GRACE_PERIOD: u32 = 30;

/// Reduces one Pod. One that has ended, or has no address yet, has no place in a snapshot.
pub fn convert(object: &ApiPod, context: Context<'_>) -> Converted<PodKey, PodKey, Pod> {
    let mut rejections = Rejections::default();
    let (namespace, name) = namespace_and_name(&object.metadata, &mut rejections);
    let key = PodKey::new(context.names.get(&namespace), name);
    let nothing =
        |rejections: Rejections| Converted { id: key.clone(), value: None, rejections: rejections.into_vec() };
    let Some(status) = object.status.as_ref().filter(|_| !key.name.is_empty()) else {
        return nothing(rejections);
    };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return nothing(rejections);
    }
    let addresses = addresses(status, &mut rejections);
    if addresses.is_empty() {
        return nothing(rejections);
    }
    let spec = object.spec.as_ref();
    let node = spec
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|node| !node.is_empty())
        .map(|node| NodeName(context.names.get(node)));
    let is_here = node.as_ref() == Some(context.own_node);
    let grace_period = object
        .metadata
        .deletion_grace_period_seconds
        .or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds))
        .map_or(DEFAULT_GRACE_PERIOD, |seconds| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX));
    let pod = Pod {
        addresses,
        node,
        labels: selector::labels(object.metadata.labels.as_ref().filter(|_| context.policies), context),
        ports: spec.filter(|_| context.policies).map(|spec| named_ports(spec, context)).unwrap_or_default(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        grace_period,
        deletion: object.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second()),
        container_id: if is_here { running_container(status) } else { None },
    };
    Converted { id: key.clone(), value: Some((key, pod)), rejections: rejections.into_vec() }
}

/// `status.podIPs`, or `status.podIP` from writers that know only that.
fn addresses(status: &PodStatus, rejections: &mut Rejections) -> Box<[IpAddr]> {
    let several = status.pod_ips.as_deref().unwrap_or_default();
    let single = status.pod_ip.as_deref().filter(|_| several.is_empty());
    let entries = several
        .iter()
        .enumerate()
        .map(|(index, entry)| (format!("status.podIPs[{index}].ip"), entry.ip.as_str()))
        .chain(single.map(|text| ("status.podIP".to_owned(), text)));
    let mut addresses = Vec::new();
    for (field, text) in entries.filter(|(_, text)| !text.is_empty()) {
        match parse_address(text) {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Ok(_) => {}
            Err(message) => rejections.add("InvalidAddress", field, text, message),
        }
    }
    addresses.into_boxed_slice()
}

/// The identity of the first container that runs: its network namespace is the pod's.
fn running_container(status: &PodStatus) -> Option<Arc<str>> {
    status
        .container_statuses
        .as_deref()
        .unwrap_or_default()
        .iter()
        .filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
        .find_map(|container| container.container_id.as_deref().filter(|id| !id.is_empty()))
        .map(Arc::from)
}

/// The ports with names, of containers and of init containers that go on running beside them.
fn named_ports(spec: &PodSpec, context: Context<'_>) -> Box<[NamedPort]> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let name = port.name.as_deref().filter(|name| !name.is_empty())?;
        let protocol = parse_protocol(port.protocol.as_deref()).ok()?;
        Some(NamedPort { name: context.names.get(name), protocol, port: parse_port(port.container_port)? })
    });
    let mut ports: Vec<NamedPort> = named.collect();
    ports.sort();
    ports.dedup();
    ports.into_boxed_slice()
}
