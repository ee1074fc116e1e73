//! What fuzzing of decoders found worth keeping, once more: every input of `fuzz/corpus` through the body of
//! its target, and variants of each: `FUZZ_VARIANTS=N` says how many. The fuzzer itself needs another compiler and knows
//! where it has been; this does not.

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
#[path = "../../fuzz/bodies/nflog.rs"]
mod nflog;
#[path = "../../fuzz/bodies/peers.rs"]
mod peers;
#[path = "../../fuzz/bodies/shape.rs"]
mod shape;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|input| std::fs::read(input).unwrap()).collect();
    let variants: usize = std::env::var("FUZZ_VARIANTS").map_or(50, |n| n.parse().unwrap());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for input in &inputs {
        check(target, run, input);
        for _ in 0..variants {
            let other = &inputs[dice.below(inputs.len())];
            check(target, run, &dice.change(input, other));
        }
    }
}

fn check(target: &str, run: fn(&[u8]), bytes: &[u8]) {
    let result = std::panic::catch_unwind(|| run(bytes));
    assert!(result.is_ok(), "{target} fails; add this to its corpus: {bytes:02x?}");
}

/// Numbers that look thrown, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % n.max(1)
    }

    /// The input with a few octets turned, cut, doubled, or taken from another one.
    fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let to = at + self.below(bytes.len() + 1 - at);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..to)),
                2 => bytes.extend_from_within(at..to),
                3 => bytes.extend(&other[self.below(other.len() + 1)..]),
                _ if bytes.is_empty() => bytes.push(0),
                n => {
                    let at = self.below(bytes.len());
                    let odd = [0, 1, 2, 4, 0x10, 0x20, 0x40, 0x7f, 0x80, 0xc0, 0xff];
                    bytes[at] = if n == 4 { odd[self.below(odd.len())] } else { bytes[at] ^ 1 << self.below(8) };
                }
            }
        }
        bytes
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

#[test]
fn messages_of_a_log_group() {
    replay("nflog", nflog::run);
}
