//! Answers about links, addresses, routes and rules.
#![no_main]

use ferrovia::kernel::rtnl::{Op, decode_address, decode_link, decode_route, decode_rule};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let _ = decode_link(payload);
    let found = [
        decode_address(payload).map(Op::AddAddress),
        decode_route(payload).map(Op::ReplaceRoute),
        decode_rule(payload).map(Op::AddRule),
    ];
    for op in found.into_iter().flatten() {
        let _ = op.to_string();
    }
});
