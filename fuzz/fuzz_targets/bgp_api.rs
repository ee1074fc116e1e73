//! Requests of the gobgp API, of both majors, and raw attributes inside. A route that is taken can be listed and sent.
#![no_main]

#[path = "../bodies/bgp_api.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
