//! Answers of the IPVS family. What is understood can be shown and sent back.
#![no_main]

use ferrovia::kernel::ipvs::Op;
use ferrovia::kernel::ipvs::codec::{decode_real_server, decode_virtual_server, encode_op};
use ferrovia::kernel::netlink::Batch;
use ferrovia::net::Family;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let mut batch = Batch::new();
    let mut send = |op: Op| {
        let _ = op.to_string();
        encode_op(&mut batch, 0x1c, &op);
    };
    if let Some(found) = decode_virtual_server(payload) {
        for family in Family::ALL {
            if let Some((real, _)) = decode_real_server(family, payload) {
                send(Op::AddRealServer(found.key, real));
            }
        }
        send(Op::AddVirtualServer(found.key, found.spec));
    }
    for family in Family::ALL {
        let _ = decode_real_server(family, payload);
    }
});
