//! The body of an OPEN: its capabilities, and what comes of it with every shape of our own.
#![no_main]

#[path = "../bodies/shape.rs"]
mod shape;

#[path = "../bodies/bgp_open.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
