//! `discovery.k8s.io/v1` EndpointSlice (pure).

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice as ApiSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Context, Converted, Rejections, label, namespace_and_name, parse_port, parse_protocol, parse_unicast};
use crate::model::{Conditions, Endpoint, EndpointPort, EndpointSlice, NodeName, ServiceKey, SliceKey};
use crate::net::Family;

/// Names the Service a slice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name of a slice. Its [`SliceKey`] also holds the owner, which may change or vanish.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceId {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl std::fmt::Display for SliceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Reduces one EndpointSlice. FQDN slices, and slices no Service owns, have no place in a snapshot.
pub fn convert(object: &ApiSlice, context: Context<'_>) -> Converted<SliceId, SliceKey, EndpointSlice> {
    let mut rejections = Rejections::default();
    let id = identity(object, context, &mut rejections);
    let family = match object.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => None,
        other => {
            rejections.add("UnknownAddressType", "addressType", other, "the slice is ignored: use IPv4 or IPv6");
            None
        }
    };
    let owner = owner(&object.metadata);
    let value = match (family, owner) {
        (Some(family), Some(owner)) if !id.name.is_empty() => {
            let service = ServiceKey { namespace: Arc::clone(&id.namespace), name: context.names.get(owner) };
            let slice = EndpointSlice {
                ports: ports(object, context, &mut rejections),
                endpoints: endpoints(object, family, context, &mut rejections),
            };
            Some((SliceKey { service, name: Arc::clone(&id.name) }, slice))
        }
        _ => None,
    };
    Converted { id, value, rejections: rejections.into_vec() }
}

/// Which object this is.
pub fn identity(object: &ApiSlice, context: Context<'_>, rejections: &mut Rejections) -> SliceId {
    let (namespace, name) = namespace_and_name(&object.metadata, rejections);
    SliceId { namespace: context.names.get(&namespace), name: Arc::from(name) }
}

/// The Service a slice belongs to: by label, else by its only owner of kind Service, else by `generateName`.
fn owner(meta: &ObjectMeta) -> Option<&str> {
    let by_label = label(meta, SERVICE_NAME_LABEL);
    let by_reference = || match meta.owner_references.as_deref() {
        Some([owner]) if owner.kind == "Service" => Some(owner.name.as_str()),
        _ => None,
    };
    let by_prefix = || meta.generate_name.as_deref()?.strip_suffix('-');
    let named = |name: &&str| !name.is_empty();
    by_label.filter(named).or_else(|| by_reference().filter(named)).or_else(|| by_prefix().filter(named))
}

/// The ports. One without a number means "any port", which a proxy cannot forward to: it is left out.
fn ports(object: &ApiSlice, context: Context<'_>, rejections: &mut Rejections) -> Box<[EndpointPort]> {
    let mut ports = Vec::new();
    for (index, port) in object.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let Some(number) = port.port else { continue };
        let protocol = match parse_protocol(port.protocol.as_deref()) {
            Ok(protocol) => protocol,
            Err(message) => {
                let value = port.protocol.as_deref().unwrap_or_default();
                rejections.add("UnknownProtocol", format!("ports[{index}].protocol"), value, message);
                continue;
            }
        };
        let Some(number) = parse_port(number) else {
            let field = format!("ports[{index}].port");
            rejections.add("InvalidPort", field, &number.to_string(), "the port is left out: use 1 to 65535");
            continue;
        };
        ports.push(EndpointPort {
            name: context.names.get(port.name.as_deref().unwrap_or_default()),
            protocol,
            port: number,
        });
    }
    ports.into_boxed_slice()
}

/// One endpoint for each address, sorted by address. Where an address stands twice (a host-network pod and its
/// successor), the one that is more alive counts.
fn endpoints(object: &ApiSlice, family: Family, context: Context<'_>, rejections: &mut Rejections) -> Box<[Endpoint]> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (index, entry) in object.endpoints.as_deref().unwrap_or_default().iter().enumerate() {
        for (place, text) in entry.addresses.iter().enumerate() {
            let field = || format!("endpoints[{index}].addresses[{place}]");
            match parse_unicast(text) {
                Ok(address) if Family::of(address) == family => endpoints.push(endpoint(entry, address, context)),
                Ok(_) => {
                    let message = format!("not of the slice's address type {}, left out", object.address_type);
                    rejections.add("InvalidAddress", field(), text, message);
                }
                Err(message) => rejections.add("InvalidAddress", field(), text, message),
            }
        }
    }
    endpoints.sort_by(|a, b| a.address.cmp(&b.address).then_with(|| liveliness(b).cmp(&liveliness(a))));
    endpoints.dedup_by(|later, kept| later.address == kept.address);
    endpoints.into_boxed_slice()
}

/// Orders endpoints of one address: ready ones above serving ones above terminating ones.
fn liveliness(endpoint: &Endpoint) -> (bool, bool, bool) {
    let Conditions { ready, serving, terminating } = endpoint.conditions;
    (ready, serving, !terminating)
}

fn endpoint(entry: &ApiEndpoint, address: IpAddr, context: Context<'_>) -> Endpoint {
    let names = context.names;
    let non_empty = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(|text| names.get(text));
    let hints = entry.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    let pod = entry.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    Endpoint {
        address,
        conditions: conditions(entry),
        node: non_empty(&entry.node_name).map(NodeName),
        zone: non_empty(&entry.zone),
        pod: pod.and_then(|target| target.name.as_deref()).filter(|name| !name.is_empty()).map(Arc::from),
        zone_hints: zones.iter().map(|zone| names.get(&zone.name)).collect(),
        node_hints: nodes.iter().map(|node| NodeName(names.get(&node.name))).collect(),
    }
}

/// The conditions with the API's defaults for absent ones.
fn conditions(entry: &ApiEndpoint) -> Conditions {
    let conditions = entry.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    Conditions {
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
    }
}
