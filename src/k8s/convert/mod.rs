//! From API objects to model values (pure).
//!
//! Conversion cannot fail. What a field says that makes no sense is left out and reported as a [`Rejection`]; it
//! affects only what it must. Every field of every object may be absent: nothing here may panic on odd input.

pub mod cluster_policy;
pub mod endpoint_slice;
pub mod names;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod pod;
mod selector;
pub mod service;

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use names::Names;

use super::annotations;

use crate::model::NodeName;
use crate::net::{Prefix, Protocol};

/// The longest piece of a refused value that a message repeats, in characters.
const SHOWN_VALUE: usize = 120;

/// One thing an object says that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// Where it stands, as `kubectl explain` writes it: `spec.externalIPs[1]`,
    /// `metadata.annotations[kube-router.io/service.scheduler]`.
    pub field: String,
    /// What stands there, shortened.
    pub value: String,
    /// Why it was left out, what happens instead, and what would be right.
    pub message: String,
    /// One CamelCase word for events: `UnknownScheduler`, `InvalidAddress` …
    pub reason: &'static str,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.message)
    }
}

/// What came of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<I, K, V> {
    /// Which object it was.
    pub id: I,
    /// The model value, or nothing where the object has no place in a snapshot.
    pub value: Option<(K, V)>,
    /// What could not be used.
    pub rejections: Vec<Rejection>,
}

/// What every conversion needs to know beside the object.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The node this daemon runs on.
    pub own_node: &'a NodeName,
    /// Shared strings.
    pub names: &'a Names,
    /// Whether policies are enforced: then pods keep labels and named ports.
    pub policies: bool,
}

/// Collects rejections while one object is read.
#[derive(Debug, Default)]
pub struct Rejections(Vec<Rejection>);

impl Rejections {
    /// Notes one.
    pub fn add(&mut self, reason: &'static str, field: impl Into<String>, value: &str, message: impl Into<String>) {
        let mut shown: String = value.chars().take(SHOWN_VALUE).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.0.push(Rejection { field: field.into(), value: shown, message: message.into(), reason });
    }

    /// All of them, in the order they were noted.
    pub fn into_vec(self) -> Vec<Rejection> {
        self.0
    }
}

/// Namespace and name of an object; a manifest without a namespace means `default`, as it does for `kubectl`.
fn namespace_and_name(meta: &ObjectMeta, rejections: &mut Rejections) -> (String, String) {
    let namespace = match meta.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    (namespace.to_owned(), name_of(meta, rejections))
}

/// The name of an object, empty (and reported) where there is none.
fn name_of(meta: &ObjectMeta, rejections: &mut Rejections) -> String {
    let name = meta.name.clone().unwrap_or_default();
    if name.is_empty() {
        rejections.add("MissingName", "metadata.name", "", "the object has no name and is ignored: give it one");
    }
    name
}

/// A label's value, where the label is present.
fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// An address as Kubernetes writes it; an IPv4 address in IPv6 clothes is the IPv4 address.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.trim()
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| "not an IP address and left out: write one like 192.0.2.1 or 2001:db8::1".to_owned())
}

/// An address that may serve as a VIP or an endpoint: what the API server's own validation lets through.
fn parse_unicast(text: &str) -> Result<IpAddr, String> {
    let address = parse_address(text)?;
    let kind = match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    };
    match kind {
        Some(kind) => Err(format!("{kind} and left out: it cannot carry a service, use a routable address")),
        None => Ok(address),
    }
}

/// A prefix in CIDR form with its host bits cleared, as Kubernetes reads them.
fn parse_prefix(text: &str) -> Result<Prefix, String> {
    text.trim()
        .parse::<Prefix>()
        .map(|prefix| prefix.trunc())
        .map_err(|_| "not a prefix and left out: write one like 192.0.2.0/24 or 2001:db8::/64".to_owned())
}

/// A layer-4 protocol; absent means TCP.
fn parse_protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(_) => Err("not a protocol this daemon knows, the port is left out: use TCP, UDP or SCTP".to_owned()),
    }
}

/// A port number 1-65535.
fn parse_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests;
