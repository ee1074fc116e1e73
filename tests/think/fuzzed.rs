//! What fuzzing of the router's decoders found worth keeping, once more: every input of `fuzz/corpus` through the body of
//! its target. The fuzzer itself needs another compiler; this does not.

use std::path::Path;

#[path = "../../fuzz/bodies/bfd_packet.rs"]
mod bfd_packet;
#[path = "../../fuzz/bodies/bgp_api.rs"]
mod bgp_api;
#[path = "../../fuzz/bodies/bgp_attributes.rs"]
mod bgp_attributes;
#[path = "../../fuzz/bodies/bgp_hub.rs"]
mod bgp_hub;
#[path = "../../fuzz/bodies/bgp_message.rs"]
mod bgp_message;
#[path = "../../fuzz/bodies/bgp_open.rs"]
mod bgp_open;
#[path = "../../fuzz/bodies/peers.rs"]
mod peers;
#[path = "../../fuzz/bodies/shape.rs"]
mod shape;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "{} fails: run its target on it", input.display());
    }
}

#[test]
fn bgp_messages() {
    replay("bgp_message", bgp_message::run);
}

#[test]
fn bgp_opens() {
    replay("bgp_open", bgp_open::run);
}

#[test]
fn bgp_attributes_one_by_one() {
    replay("bgp_attributes", bgp_attributes::run);
}

#[test]
fn bgp_updates_through_the_speakers_mind() {
    replay("bgp_hub", bgp_hub::run);
}

#[test]
fn requests_of_the_gobgp_api() {
    replay("bgp_api", bgp_api::run);
}

#[test]
fn annotations_of_peers() {
    replay("peers", peers::run);
}

#[test]
fn bfd_packets() {
    replay("bfd_packet", bfd_packet::run);
}
