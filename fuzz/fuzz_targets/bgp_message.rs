//! BGP messages as a peer sends them, on sessions of every shape, and back to bytes.
#![no_main]

use std::net::Ipv4Addr;

use ferrovia::net::{Asn, Family};
use ferrovia::routing::bgp::negotiate::negotiate;
use ferrovia::routing::bgp::types::{Negotiated, OpenSettings, OwnRestart, PeerKind, family_of};
use ferrovia::routing::bgp::wire::{self, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (shape, bytes) = input;
    let session = session(shape);
    let mut rest = bytes;
    while let Ok(Some(length)) = wire::frame(rest, wire::MAX_EXTENDED) {
        let Some((message, later)) = rest.split_at_checked(length) else { return };
        rest = later;
        match wire::decode(message, Some(&session)) {
            Ok(Message::Open(open)) => {
                let _ = (open.capabilities(), negotiate(&settings(), &open));
            }
            Ok(Message::Update(update)) => again(&update, &session),
            Ok(Message::Notification(notification)) => {
                let _ = wire::shutdown_text(&notification);
            }
            Ok(_) | Err(_) => {}
        }
    }
    let _ = wire::attributes_from_raw(&[bytes.to_vec()]);
});

/// What was understood can be said, and is understood the same way.
fn again(update: &wire::Update, session: &Negotiated) {
    for reach in &update.reach {
        let Some(first) = reach.nlri.first() else { continue };
        let mut out = Vec::new();
        let family = family_of(&first.prefix);
        if wire::encode_reach(&reach.attributes, family, &reach.nlri, session, &mut out).is_err() {
            continue;
        }
        let Ok(Some(length)) = wire::frame(&out, session.max_message) else { panic!("no message") };
        let Ok(Message::Update(read)) = wire::decode(&out[..length], Some(session)) else { panic!("no UPDATE") };
        assert_eq!(read.reach.first().map(|read| &read.attributes), Some(&reach.attributes));
        let _ = wire::attributes_raw(&reach.attributes, first);
    }
}

fn session(shape: u8) -> Negotiated {
    let bit = |n: u8| shape & 1 << n != 0;
    let listed = if bit(0) { Family::ALL.to_vec() } else { Vec::new() };
    Negotiated {
        peer_asn: Asn(64513),
        peer_id: Ipv4Addr::new(10, 0, 0, 2),
        kind: if bit(1) { PeerKind::Internal } else { PeerKind::External },
        hold_time: 90,
        four_octet_as: bit(2),
        families: Family::ALL.to_vec(),
        add_path_receive: listed.clone(),
        add_path_send: listed,
        extended_next_hop: bit(3),
        max_message: if bit(4) { wire::MAX_EXTENDED } else { wire::MAX },
        route_refresh: true,
        enhanced_refresh: true,
        graceful_restart: None,
        long_lived: Vec::new(),
    }
}

fn settings() -> OpenSettings {
    OpenSettings {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        hold_time: 90,
        peer_asn: None,
        families: Family::ALL.to_vec(),
        add_path_receive: Family::ALL.to_vec(),
        add_path_send: Family::ALL.to_vec(),
        extended_next_hop: true,
        extended_messages: true,
        graceful_restart: Some(OwnRestart { restart_time: 120, restarting: true, notification: true }),
        long_lived: 3600,
        forwarding_kept: true,
    }
}
