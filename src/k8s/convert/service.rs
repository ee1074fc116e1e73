//! `v1` Service (pure).

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service as ApiService, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::annotations;
use super::{
    Context, Converted, Rejections, label, namespace_and_name, parse_port, parse_prefix, parse_protocol, parse_unicast,
};
use crate::model::{Affinity, Service, ServiceKey, ServicePort, ServiceType, TrafficDistribution, TrafficPolicy};
use crate::net::{Family, Prefix, host_prefix};

/// Names the proxy that shall serve a Service instead of the default one (KEP-2447).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Marks an object that no proxy shall serve.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The proxy names we answer to: our own and the one we stand in for.
const OUR_PROXY_NAMES: [&str; 2] = ["ferrovia", "kube-router"];
/// Seconds of session affinity where a Service does not say: the API's default, three hours.
const DEFAULT_AFFINITY_TIMEOUT: u32 = 10_800;
/// The longest session affinity the API allows, in seconds: one day.
const MAX_AFFINITY_TIMEOUT: u32 = 86_400;

/// Reduces one Service.
pub fn convert(object: &ApiService, context: Context<'_>) -> Converted<ServiceKey, ServiceKey, Service> {
    let mut rejections = Rejections::default();
    let meta = &object.metadata;
    let (namespace, name) = namespace_and_name(meta, &mut rejections);
    let key = ServiceKey { namespace: context.names.get(&namespace), name: context.names.get(&name) };
    if key.name.is_empty() {
        return Converted { id: key, value: None, rejections: rejections.into_vec() };
    }
    let empty = ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let kind = kind(spec, &mut rejections);
    let headless = is_headless(meta, spec);
    let external_name = kind == ServiceType::ExternalName;
    let service = Service {
        uid: Arc::from(meta.uid.as_deref().unwrap_or_default()),
        created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        kind,
        cluster_ips: if headless || external_name { Vec::new() } else { cluster_ips(spec, &mut rejections) },
        external_ips: addresses("spec.externalIPs", spec.external_ips.as_deref(), &mut rejections),
        load_balancer_ips: load_balancer_ips(object, &mut rejections),
        ports: ports(spec, context, &mut rejections),
        affinity: affinity(spec, &mut rejections),
        internal_policy: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &mut rejections),
        external_policy: policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &mut rejections),
        health_check_node_port: health_check_node_port(spec, &mut rejections),
        source_ranges: source_ranges(meta, spec, &mut rejections),
        traffic_distribution: traffic_distribution(meta, spec, &mut rejections),
        ignored_by_proxy: headless || external_name || belongs_to_another_proxy(meta),
        settings: annotations::service_settings(meta, context.names, &mut rejections),
    };
    Converted { id: key.clone(), value: Some((key, service)), rejections: rejections.into_vec() }
}

/// Whether a label names a proxy that is not us.
fn belongs_to_another_proxy(meta: &ObjectMeta) -> bool {
    label(meta, PROXY_NAME_LABEL).is_some_and(|name| !OUR_PROXY_NAMES.contains(&name))
}

/// Whether there is nothing to forward: the label is there, or no cluster address was wanted.
fn is_headless(meta: &ObjectMeta, spec: &ServiceSpec) -> bool {
    let first = spec.cluster_ips.as_deref().and_then(|list| list.first()).map(String::as_str);
    label(meta, HEADLESS_LABEL).is_some() || spec.cluster_ip.as_deref() == Some("None") || first == Some("None")
}

fn kind(spec: &ServiceSpec, rejections: &mut Rejections) -> ServiceType {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            let message =
                "not a Service type, taken as ClusterIP: use ClusterIP, NodePort, LoadBalancer or ExternalName";
            rejections.add("UnknownServiceType", "spec.type", other, message);
            ServiceType::ClusterIp
        }
    }
}

/// `spec.clusterIP` and `spec.clusterIPs`, each address once.
fn cluster_ips(spec: &ServiceSpec, rejections: &mut Rejections) -> Vec<IpAddr> {
    let mut found = addresses("spec.clusterIPs", spec.cluster_ips.as_deref(), rejections);
    // The first entry of the list repeats the single field, where a writer knows the list.
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let repeats =
        single.is_some() && spec.cluster_ips.as_deref().and_then(|list| list.first()).map(String::as_str) == single;
    if let Some(text) = single.filter(|_| !repeats) {
        match parse_unicast(text) {
            Ok(address) if !found.contains(&address) => found.insert(0, address),
            Ok(_) => {}
            Err(message) => rejections.add("InvalidAddress", "spec.clusterIP", text, message),
        }
    }
    found
}

/// The readable addresses of a list, each once, in order.
fn addresses(field: &str, list: Option<&[String]>, rejections: &mut Rejections) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (index, text) in list.unwrap_or_default().iter().enumerate() {
        match parse_unicast(text) {
            Ok(address) if !found.contains(&address) => found.push(address),
            Ok(_) => {}
            Err(message) => rejections.add("InvalidAddress", format!("{field}[{index}]"), text, message),
        }
    }
    found
}

/// `status.loadBalancer.ingress[].ip`, without those whose load balancer must not be short-cut (KEP-1860).
fn load_balancer_ips(object: &ApiService, rejections: &mut Rejections) -> Vec<IpAddr> {
    let ingress = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default();
    let mut found = Vec::new();
    for (index, entry) in ingress.iter().enumerate() {
        let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        if entry.ip_mode.as_deref() == Some("Proxy") {
            continue;
        }
        match parse_unicast(text) {
            Ok(address) if !found.contains(&address) => found.push(address),
            Ok(_) => {}
            Err(message) => {
                let field = format!("status.loadBalancer.ingress[{index}].ip");
                rejections.add("InvalidAddress", field, text, message);
            }
        }
    }
    found
}

/// The ports; a second one of the same name, or of the same protocol and number, is left out.
fn ports(spec: &ServiceSpec, context: Context<'_>, rejections: &mut Rejections) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, entry) in spec.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let Some(port) = port(index, entry, context, rejections) else { continue };
        if ports.iter().any(|other| other.name == port.name) {
            let field = format!("spec.ports[{index}].name");
            let message = "another port of this Service has the same name, left out: give each port its own name";
            rejections.add("DuplicatePort", field, &port.name, message);
        } else if ports.iter().any(|other| (other.protocol, other.port) == (port.protocol, port.port)) {
            let field = format!("spec.ports[{index}].port");
            let message = "another port of this Service has the same protocol and number, left out";
            rejections.add("DuplicatePort", field, &port.port.to_string(), message);
        } else {
            ports.push(port);
        }
    }
    ports
}

fn port(index: usize, entry: &ApiPort, context: Context<'_>, rejections: &mut Rejections) -> Option<ServicePort> {
    let protocol = match parse_protocol(entry.protocol.as_deref()) {
        Ok(protocol) => protocol,
        Err(message) => {
            let value = entry.protocol.as_deref().unwrap_or_default();
            rejections.add("UnknownProtocol", format!("spec.ports[{index}].protocol"), value, message);
            return None;
        }
    };
    let Some(port) = parse_port(entry.port) else {
        let field = format!("spec.ports[{index}].port");
        rejections.add("InvalidPort", field, &entry.port.to_string(), "the port is left out: use 1 to 65535");
        return None;
    };
    let node_port = entry.node_port.unwrap_or(0);
    let node_port = u16::try_from(node_port).unwrap_or_else(|_| {
        let field = format!("spec.ports[{index}].nodePort");
        rejections.add("InvalidPort", field, &node_port.to_string(), "no node port is opened: use 1 to 65535");
        0
    });
    let target_port = match &entry.target_port {
        // An absent target port means the port itself.
        None => Some(port),
        Some(IntOrString::Int(0)) => Some(port),
        Some(IntOrString::Int(number)) => parse_port(*number),
        Some(IntOrString::String(text)) => text.parse().ok().filter(|number| *number != 0),
    };
    let name = context.names.get(entry.name.as_deref().unwrap_or_default());
    Some(ServicePort { name, protocol, port, target_port, node_port })
}

fn affinity(spec: &ServiceSpec, rejections: &mut Rejections) -> Option<Affinity> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let message = "not a session affinity, taken as None: use None or ClientIP";
            rejections.add("UnknownAffinity", "spec.sessionAffinity", other, message);
            return None;
        }
    }
    let asked = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|ip| ip.timeout_seconds);
    let Some(asked) = asked else { return Some(Affinity { timeout: DEFAULT_AFFINITY_TIMEOUT }) };
    let timeout = u32::try_from(asked).unwrap_or(0).clamp(1, MAX_AFFINITY_TIMEOUT);
    if i64::from(asked) != i64::from(timeout) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        rejections.add("InvalidTimeout", field, &asked.to_string(), format!("taken as {timeout}: use 1 to 86400"));
    }
    Some(Affinity { timeout })
}

fn policy(field: &str, text: Option<&str>, rejections: &mut Rejections) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            rejections.add("UnknownTrafficPolicy", field, other, "taken as Cluster: use Cluster or Local");
            TrafficPolicy::Cluster
        }
    }
}

fn health_check_node_port(spec: &ServiceSpec, rejections: &mut Rejections) -> u16 {
    let port = spec.health_check_node_port.unwrap_or(0);
    u16::try_from(port).unwrap_or_else(|_| {
        let message = "no health check is served: use 1 to 65535";
        rejections.add("InvalidPort", "spec.healthCheckNodePort", &port.to_string(), message);
        0
    })
}

/// `spec.loadBalancerSourceRanges`, or the annotation of the same meaning where the field is empty.
///
/// An empty list means "anybody". So where ranges are given and none can be read, the list is not left empty: it
/// holds ranges that no client has, and the Service stays closed.
fn source_ranges(meta: &ObjectMeta, spec: &ServiceSpec, rejections: &mut Rejections) -> Vec<Prefix> {
    let listed = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let annotation = meta.annotations.as_ref().and_then(|map| map.get(annotations::SOURCE_RANGES));
    let entries: Vec<(String, &str)> = if listed.is_empty() {
        let texts = annotation.into_iter().flat_map(|text| text.split(','));
        texts.map(|text| (annotations::field(annotations::SOURCE_RANGES), text)).collect()
    } else {
        let texts = listed.iter().enumerate();
        texts.map(|(index, text)| (format!("spec.loadBalancerSourceRanges[{index}]"), text.as_str())).collect()
    };
    let mut ranges = Vec::new();
    let mut given = 0_usize;
    for (field, text) in entries.iter().filter(|(_, text)| !text.trim().is_empty()) {
        given += 1;
        match parse_prefix(text) {
            Ok(range) if !ranges.contains(&range) => ranges.push(range),
            Ok(_) => {}
            Err(message) => rejections.add("InvalidPrefix", field.clone(), text, message),
        }
    }
    if given > 0 && ranges.is_empty() {
        let field = "spec.loadBalancerSourceRanges";
        let message = "no range can be read, so no client is let in: correct the ranges, or remove them to let all in";
        rejections.add("InvalidPrefix", field, "", message);
        let nobody = Family::ALL.map(|family| match family {
            Family::V4 => host_prefix(IpAddr::from([0; 4])),
            Family::V6 => host_prefix(IpAddr::from([0; 16])),
        });
        ranges.extend(nobody);
    }
    ranges
}

/// The older annotation where it says `Auto`, else `spec.trafficDistribution`.
fn traffic_distribution(
    meta: &ObjectMeta,
    spec: &ServiceSpec,
    rejections: &mut Rejections,
) -> Option<TrafficDistribution> {
    let mode = meta.annotations.as_ref().and_then(|map| map.get(annotations::TOPOLOGY_MODE)).map(String::as_str);
    match mode {
        Some("Auto" | "auto") => return Some(TrafficDistribution::PreferSameZone),
        None | Some("" | "Disabled" | "disabled") => {}
        Some(other) => {
            let field = annotations::field(annotations::TOPOLOGY_MODE);
            rejections.add("UnknownTrafficDistribution", field, other, "ignored: use Auto or Disabled");
        }
    }
    match spec.traffic_distribution.as_deref() {
        None | Some("") => None,
        Some("PreferClose" | "PreferSameZone") => Some(TrafficDistribution::PreferSameZone),
        Some("PreferSameNode") => Some(TrafficDistribution::PreferSameNode),
        Some(other) => {
            let message = "ignored, traffic goes to all endpoints: use PreferSameZone, PreferSameNode or PreferClose";
            rejections.add("UnknownTrafficDistribution", "spec.trafficDistribution", other, message);
            None
        }
    }
}
