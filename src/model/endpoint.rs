//! Endpoint slices: where a Service's traffic may go.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{NodeName, ServiceKey};
use crate::net::Protocol;

/// An endpoint slice by its Service, then its own name: the slices of one Service lie side by side in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceKey {
    /// The Service that owns it.
    pub service: ServiceKey,
    /// `metadata.name` of the slice, unique in the namespace.
    pub name: Arc<str>,
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service.namespace, self.name)
    }
}

/// One EndpointSlice. All addresses have one family; FQDN slices never get here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// The ports every endpoint of this slice serves.
    pub ports: Box<[EndpointPort]>,
    /// The endpoints, sorted by address, one entry for each address.
    pub endpoints: Box<[Endpoint]>,
}

/// One port of an endpoint slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Joins it with the Service port of the same name.
    pub name: Arc<str>,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// The port the pod listens on, 1-65535.
    pub port: u16,
}

/// One address of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// Ready, serving, terminating.
    pub conditions: Conditions,
    /// The node it runs on, where known.
    pub node: Option<NodeName>,
    /// The zone it runs in, where known.
    pub zone: Option<Arc<str>>,
    /// The pod behind it (`targetRef.name` of kind Pod).
    pub pod: Option<Arc<str>>,
    /// `hints.forZones[].name`.
    pub zone_hints: Box<[Arc<str>]>,
    /// `hints.forNodes[].name`.
    pub node_hints: Box<[NodeName]>,
}

/// Conditions of an endpoint, with the API's defaults for absent values applied
/// (`ready` absent = true, `serving` absent = `ready`, `terminating` absent = false).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Accepts new connections and is not terminating.
    pub ready: bool,
    /// Answers, terminating or not.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
}
