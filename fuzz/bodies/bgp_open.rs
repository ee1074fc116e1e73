//! The body of an OPEN: its capabilities, and what comes of it with every shape of our own.

use super::shape;
use ferrovia::routing::bgp::negotiate::negotiate;
use ferrovia::routing::bgp::wire::{self, Message};

pub(crate) fn run(bytes: &[u8]) {
    let Some((&bits, bytes)) = bytes.split_first() else { return };
    let body = bytes;
    let Ok(Message::Open(open)) = wire::decode(&shape::message(1, body), None) else { return };
    let _ = open.capabilities();
    let ours = shape::settings(bits);
    let Ok(agreed) = negotiate(&ours, &open) else { return };
    assert!(agreed.families.iter().all(|family| ours.families.contains(family)));
    assert!(agreed.add_path_send.iter().all(|family| ours.add_path_send.contains(family)));
    assert!(agreed.add_path_receive.iter().all(|family| ours.add_path_receive.contains(family)));
    assert!(agreed.hold_time <= ours.hold_time);
    assert!(agreed.hold_time == 0 || agreed.hold_time >= 3);
    assert!(ours.extended_messages || agreed.max_message == wire::MAX);
    assert!(ours.extended_next_hop || !agreed.extended_next_hop);
}
