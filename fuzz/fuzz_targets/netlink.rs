//! Messages of a datagram, their attributes at any depth, and refusals with their extended messages.
#![no_main]

use ferrovia::kernel::netlink::{Attributes, Messages, decode_error};
use libfuzzer_sys::fuzz_target;

/// How deep attributes are opened: every attribute may be taken for a nest.
const DEPTH: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    for message in Messages::new(bytes) {
        let _ = decode_error(&message);
        for header in [0, 4, 12, 16] {
            open(Attributes::after(message.payload, header), DEPTH);
        }
    }
});

fn open(attributes: Attributes<'_>, depth: usize) {
    for attribute in attributes {
        let _ = (attribute.u8(), attribute.u16(), attribute.u32(), attribute.u64());
        let _ = (attribute.be16(), attribute.be32(), attribute.be64(), attribute.text(), attribute.ip());
        if depth > 0 {
            open(attribute.nested(), depth - 1);
        }
    }
}
