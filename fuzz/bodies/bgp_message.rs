//! BGP messages as a peer sends them, on sessions of every shape, and back to bytes.

use super::shape;
use ferrovia::routing::bgp::negotiate::negotiate;
use ferrovia::routing::bgp::types::{Negotiated, family_of};
use ferrovia::routing::bgp::wire::{self, Message};

pub(crate) fn run(bytes: &[u8]) {
    let Some((&bits, bytes)) = bytes.split_first() else { return };
    let session = shape::session(bits);
    let mut rest = bytes;
    while let Ok(Some(length)) = wire::frame(rest, wire::MAX_EXTENDED) {
        let Some((message, later)) = rest.split_at_checked(length) else { return };
        rest = later;
        match wire::decode(message, Some(&session)) {
            Ok(Message::Open(open)) => {
                let _ = (open.capabilities(), negotiate(&shape::settings(bits), &open));
            }
            Ok(Message::Update(update)) => again(&update, &session),
            Ok(Message::Notification(notification)) => {
                let _ = wire::shutdown_text(&notification);
            }
            Ok(_) | Err(_) => {}
        }
    }
    let _ = wire::attributes_from_raw(&[bytes.to_vec()]);
}

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
