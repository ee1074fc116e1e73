//! The kernel's answer to one request, with its extended message.
#![no_main]

use ferrovia::kernel::netlink::{Fault, Received, decode_error};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (kind, flags, payload) = input;
    if let Some(refusal) = decode_error(&Received { kind, flags, sequence: 1, payload }) {
        assert!(refusal.errno > 0);
        let fault = Fault::Refused(refusal);
        let kind = fault.disposition();
        let _ = fault.into_error("op".to_owned(), kind).to_string();
    }
});
