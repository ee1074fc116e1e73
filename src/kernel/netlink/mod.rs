//! The transport every subsystem stands on: sockets, batches, queries, events, errors (netlink(7)).
//!
//! Synchronous on purpose: the kernel does its work inside `send` and the answers are queued when it returns.
//!
//! ```no_run
//! use ferrovia::kernel::netlink::{Attributes, Batch, EventSocket, Protocol, Socket, flag};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut socket = Socket::open(Protocol::Route)?;
//!
//! // Read: RTM_GETLINK (18), a dump, `struct ifinfomsg` (16 bytes) in front of the attributes; 3 is IFLA_IFNAME.
//! let mut request = Batch::new();
//! request.message(18, flag::DUMP).header(&[0; 16]);
//! let names = socket.query(&mut request, |_kind, payload| {
//!     Attributes::after(payload, 16).find(3).and_then(|name| name.text()).map(str::to_owned)
//! })?;
//!
//! // Change: any number of messages, one result each.
//! let mut batch = Batch::new();
//! for name in ["a", "b"] {
//!     let mut message = batch.message(16, flag::CREATE | flag::EXCL); // RTM_NEWLINK
//!     message.header(&[0; 16]);
//!     let mut attributes = message.attributes();
//!     attributes.text(3, name);
//!     attributes.nest(18, |info| info.text(1, "dummy"));
//! }
//! for (index, result) in socket.apply(&mut batch).into_iter().enumerate() {
//!     if let Err(fault) = result {
//!         let kind = fault.disposition();
//!         eprintln!("{}", fault.into_error(format!("message {index}"), kind));
//!     }
//! }
//!
//! // nftables: BATCH_BEGIN (16) .. BATCH_END (17) written by the caller, then all or nothing:
//! // `Socket::open(Protocol::Netfilter)?.transact(&mut batch)`.
//!
//! // Events: link (1), IPv4 and IPv6 addresses (5, 9).
//! let events = EventSocket::open(Protocol::Route, &[1, 5, 9])?;
//! // `let mut events = events.into_async()?`, then
//! // `events.readable_mut().await?.try_io(|fd| fd.get_mut().read(&mut |kind, payload| …))`.
//! # Ok(())
//! # }
//! ```

mod attr;
mod batch;
mod error;
mod events;
mod exchange;
pub mod generic;
mod message;
mod socket;

pub use attr::{Attribute, Attributes, Writer};
pub use batch::{Batch, Message};
pub use error::{Fault, Refusal};
pub use events::{EventSocket, Heard};
pub use exchange::TransactionFault;
pub use message::{Messages, Received, decode_error};
pub use socket::{Protocol, Socket};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Message flags (`NLM_F_*`). `NLM_F_REQUEST` and `NLM_F_ACK` are set where needed.
pub mod flag {
    /// `NLM_F_REQUEST`; always set.
    pub(super) const REQUEST: u16 = 0x1;
    /// `NLM_F_ACK`; set on the last message of a send.
    pub(super) const ACK: u16 = 0x4;
    /// `NLM_F_DUMP_INTR` of an answer.
    pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
    /// `NLM_F_ROOT | NLM_F_MATCH`: all objects rather than one.
    pub const DUMP: u16 = 0x300;
    /// New: replace what exists.
    pub const REPLACE: u16 = 0x100;
    /// New: refuse where it exists.
    pub const EXCL: u16 = 0x200;
    /// New: create where it does not exist.
    pub const CREATE: u16 = 0x400;
    /// New: add to the end of a list.
    pub const APPEND: u16 = 0x800;
    /// Delete: only the object itself, refuse where it is not empty (`NLM_F_NONREC`).
    pub const NON_RECURSIVE: u16 = 0x100;
}

#[cfg(test)]
mod tests;
