//! BFD (RFC 5880): tells within a second that a neighbour is gone, where BGP's hold timer takes minutes.
//!
//! Asynchronous mode, single hop (RFC 5881) and multihop (RFC 5883), without echo and without authentication.
//! [`packet`] and [`session`] are pure; [`driver`] alone has sockets and a clock, on a thread of its own, so that no
//! other work of the daemon can delay a packet.

pub mod driver;
pub mod packet;
pub mod session;
mod socket;
