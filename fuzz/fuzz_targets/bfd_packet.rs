//! BFD control packets, and what a session makes of them. What is understood is written the same.
#![no_main]

#[path = "../bodies/bfd_packet.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
