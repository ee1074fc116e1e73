//! Manifest text to a snapshot, and what the service proxy makes of it.
#![no_main]

use std::sync::LazyLock;

use ferrovia::k8s::load_text;
use ferrovia::model::{NodeName, Snapshot};
use ferrovia::proxy::Config;
use ferrovia::proxy::render::render;
use libfuzzer_sys::fuzz_target;

static CONFIG: LazyLock<Config> =
    LazyLock::new(|| Config { strict_external_ips: false, runtime_endpoint: true, ..Config::default() });

fuzz_target!(|text: &str| {
    let (snapshot, reports) = load_text(text, &NodeName::new("n1"));
    reports.iter().for_each(|report| assert!(report.line > 0));
    let rendered = render(&snapshot, &CONFIG);
    // A snapshot taken from a node replays elsewhere.
    let json = serde_json::to_string(&snapshot).expect("a snapshot serialises");
    let again: Snapshot = serde_json::from_str(&json).expect("and reads back");
    assert_eq!(render(&again, &CONFIG), rendered);
});
