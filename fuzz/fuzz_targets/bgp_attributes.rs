//! Attributes of an UPDATE one by one: flags, code and value. Whatever they are, the route beside them is announced,
//! withdrawn, or the session ends.
#![no_main]

#[path = "../bodies/shape.rs"]
mod shape;

#[path = "../bodies/bgp_attributes.rs"]
mod body;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| body::run(bytes));
