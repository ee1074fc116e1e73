//! UPDATEs of two peers through the whole speaker's mind, and what two others hear of them: what they are told can be
//! read, and nothing is withdrawn from them that they do not hold.
#![no_main]

#[path = "../bodies/shape.rs"]
mod shape;

#[path = "../bodies/bgp_hub.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
