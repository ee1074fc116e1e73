//! Packets that rules send to a log group (NFLOG), as much of each as tells who wanted to reach whom.
//!
//! The kernel gives the packets of a group to one reader only.

pub mod codec;
mod reader;

use std::net::IpAddr;

pub use reader::{OpenError, Reader};

/// A logged packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The netfilter hook it was logged in (`NF_INET_*`): 2 is forward, 3 is output.
    pub hook: u8,
    /// Who sent it; where it is a packet in a packet, who sent what is inside.
    pub source: IpAddr,
    /// Who should have received it.
    pub destination: IpAddr,
    /// The layer-4 protocol's number (IANA); likewise of what is inside.
    pub protocol: u8,
    /// Source and destination port; none in later fragments and in protocols without ports.
    pub ports: Option<(u16, u16)>,
}
