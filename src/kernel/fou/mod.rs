//! UDP ports on which the kernel unpacks tunnels (FoU, with GUE inside): the receiving side of tunnels in UDP.
//!
//! Promises: `apply` does what it is told, in order, one answer per op. Must not know why.

mod client;
mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod text;

pub use client::FouClient;
pub use codec::decode_port;

use crate::kernel::Error;
use crate::net::Family;

/// A UDP port that takes tunnels in generic UDP encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The family of the outer packets.
    pub family: Family,
    /// The port, on every local address.
    pub number: u16,
}

/// One change. `Display` prints it as an `ip fou` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Begin to take tunnels.
    AddPort(Port),
    /// Stop it.
    DeletePort(Port),
}

impl Op {
    /// The port it is about.
    pub fn port(&self) -> Port {
        match self {
            Op::AddPort(port) | Op::DeletePort(port) => *port,
        }
    }
}

/// The FoU ports of one network namespace.
pub trait Fou: Send {
    /// All ports that take GUE; none where the kernel has no FoU. Ports of other kinds are left out.
    fn ports(&mut self) -> Result<Vec<Port>, Error>;
    /// In order, one answer per op. A failed op leaves the others done.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>>;
}
