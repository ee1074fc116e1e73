//! Connection tracking entries: found by what they translate, marked and deleted one by one.
//!
//! A delete message without a tuple flushes everything; this interface cannot express it.

pub mod client;
pub mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod fake;

use std::net::IpAddr;

use crate::kernel::Error;
use crate::net::{Family, Protocol};

pub use client::ConntrackClient;

/// Layer 4 of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A protocol with ports.
    Ports(Protocol),
    /// A question of ICMP or ICMPv6, by the family of the addresses, with its answers: an echo. What the question is known
    /// by stands in place of the source port, and there are no other ports (`nf_conntrack_tuple.h`).
    Icmp {
        /// The type of the question.
        kind: u8,
        /// Its code.
        code: u8,
    },
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Transport {
        Transport::Ports(protocol)
    }
}

impl Transport {
    /// The protocol, where it is one with ports.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Transport::Ports(protocol) => Some(protocol),
            Transport::Icmp { .. } => None,
        }
    }
}

/// One tracked flow, as much of it as decides whether it is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Layer 4.
    pub transport: Transport,
    /// Original direction: who asked.
    pub source: IpAddr,
    /// Original direction: source port.
    pub source_port: u16,
    /// Original direction: whom they asked, the VIP.
    pub destination: IpAddr,
    /// Original direction: destination port.
    pub destination_port: u16,
    /// Reply direction: who answers, the endpoint.
    pub reply_source: IpAddr,
    /// Reply direction: port of the endpoint.
    pub reply_source_port: u16,
    /// Conntrack zone.
    pub zone: u16,
    /// The connection's mark (`ct mark`). It is no part of what a flow is found by.
    pub mark: u32,
    /// One side of a TCP connection has said its last word and the other may go on: its entry soon goes where both are silent
    /// (`FIN_WAIT`, `CLOSE_WAIT`: two minutes, one). No part either.
    pub half_closed: bool,
}

impl Flow {
    /// Whether the kernel takes both for the same: by the original direction and the zone.
    pub fn is_same(&self, other: &Flow) -> bool {
        (self.transport, self.zone) == (other.transport, other.zone)
            && (self.source, self.source_port) == (other.source, other.source_port)
            && (self.destination, self.destination_port) == (other.destination, other.destination_port)
    }
}

/// The family to list where flows of one alone are wanted: both at once cost the kernel no more than one.
pub fn only_one(wanted: impl Fn(Family) -> bool) -> Option<Family> {
    match Family::ALL.map(wanted) {
        [true, false] => Some(Family::V4),
        [false, true] => Some(Family::V6),
        _ => None,
    }
}

/// The node's connection tracking table.
pub trait Conntrack: Send {
    /// The flows for which `keep` says yes, of one family or of both. Either way the kernel walks its whole table once:
    /// both families cost no more than one.
    fn list(&mut self, family: Option<Family>, keep: &mut dyn FnMut(&Flow) -> bool) -> Result<Vec<Flow>, Error>;
    /// Delete these flows. A flow that is gone already counts as deleted.
    fn delete(&mut self, flows: &[Flow]) -> Result<(), Error>;
    /// Set the bits `mask` of the marks of these flows to those of `value`, and leave the others. A flow that is gone
    /// counts as marked; none is made.
    fn mark(&mut self, flows: &[Flow], mask: u32, value: u32) -> Result<(), Error>;
    /// Remember these TCP flows as long as open ones (`ESTABLISHED`), also where one side has closed. A flow that is gone counts
    /// as done.
    fn hold(&mut self, flows: &[Flow]) -> Result<(), Error>;
}
