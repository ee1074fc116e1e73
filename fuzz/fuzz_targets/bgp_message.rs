//! BGP messages as a peer sends them, on sessions of every shape, and back to bytes.
#![no_main]

#[path = "../bodies/shape.rs"]
mod shape;

#[path = "../bodies/bgp_message.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
