//! A snapshot from a file, and what the service proxy makes of it.
#![no_main]

use ferrovia::model::Snapshot;
use ferrovia::proxy::Config;
use ferrovia::proxy::render::render;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(snapshot) = serde_json::from_str::<Snapshot>(text) {
        let _ = render(&snapshot, &Config::default()).to_string();
    }
});
