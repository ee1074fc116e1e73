//! The BGP speaker. Everything but sessions, listener and driver is pure: bytes and values in, values out, time comes
//! in as a duration, so the whole protocol can be tested without a socket.
//!
//! Uses only [`crate::net`], so that it can become a crate of its own.

pub mod api;
pub mod bfd;
pub mod decision;
pub mod fsm;
mod hash;
pub mod hub;
pub mod negotiate;
pub mod output;
pub mod policy;
pub mod rib;
pub mod session;
pub mod shared;
pub mod sockopt;
pub mod speaker;
pub mod tcp;
pub mod types;
pub mod wire;
