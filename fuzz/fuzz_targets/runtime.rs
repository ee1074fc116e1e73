//! What a container runtime says about a container's process.
#![no_main]

use ferrovia::proxy::cri::process_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(process) = process_in(text) {
        assert!(process > 0);
    }
});
