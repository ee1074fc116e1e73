//! The speaker's API: gobgp's gRPC services in both majors, and the tables their command line prints.
//!
//! [`query`] has the plain values, [`handle`] how to ask the speaker for them. [`server`] is a thin adapter from gRPC
//! ([`message`], [`policy_message`], [`bfd`], [`typed`], [`adapt`]) to those, [`text`] prints them as `gobgp` does. Field numbers
//! are those of gobgp 3.0 to 3.37 and 4.x. Passwords of peers are in no value here, so they cannot get out.

pub mod adapt;
pub mod bfd;
pub mod capability;
pub mod client;
pub mod handle;
pub mod message;
pub mod policy_message;
mod policy_text;
pub mod query;
pub mod raw;
pub mod schema;
pub mod server;
pub mod shown;
pub mod text;
pub mod typed;
pub mod watch_message;

#[cfg(test)]
mod tests;
