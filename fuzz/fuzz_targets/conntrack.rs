//! Entries of the connection tracking table. What is understood can be asked to be deleted.
#![no_main]

use ferrovia::kernel::conntrack::codec::{decode_flow, encode_delete};
use ferrovia::kernel::netlink::Batch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (kind, payload) = input;
    // The type of entries in a dump, and any other.
    for kind in [0x0100, kind] {
        if let Some(flow) = decode_flow(kind, payload) {
            let mut batch = Batch::new();
            encode_delete(&mut batch, &flow);
            assert_eq!(batch.len(), 1);
        }
    }
});
