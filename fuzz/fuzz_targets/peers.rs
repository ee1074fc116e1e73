//! Annotations of nodes about BGP: `key=value`, one a line, keys by their number or as they are; a line without `=`
//! begins the next node.
#![no_main]

#[path = "../bodies/peers.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
