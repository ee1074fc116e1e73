//! Messages of a log group, and the packets in them.
#![no_main]

#[path = "../bodies/nflog.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
