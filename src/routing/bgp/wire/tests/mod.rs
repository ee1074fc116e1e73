//! What all tests of the wire share: settings, sessions, messages written by hand.

mod malformed;
mod opens;
mod properties;
mod routes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::net::{Asn, Prefix};
use crate::routing::bgp::types::{
    AsPath, Attributes, NextHop, Nlri, OpenSettings, Origin, OwnRestart, PeerKind, PeerRestart, RawAttribute, family_of,
};
use crate::testing::builders::bgp_session;

fn settings() -> OpenSettings {
    OpenSettings {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        hold_time: 90,
        peer_asn: None,
        families: vec![Family::V4, Family::V6],
        add_path_receive: Vec::new(),
        add_path_send: Vec::new(),
        extended_next_hop: false,
        extended_messages: false,
        graceful_restart: None,
        long_lived: 0,
        forwarding_kept: false,
    }
}

fn session() -> Negotiated {
    let families = vec![Family::V4, Family::V6];
    let peer_id = Ipv4Addr::new(10, 0, 0, 2);
    Negotiated { families, enhanced_refresh: true, ..bgp_session(Asn(64513), peer_id, PeerKind::External) }
}

fn route(text: &str) -> Nlri {
    Nlri::new(text.parse().unwrap())
}

fn hop(text: &str) -> NextHop {
    NextHop::from(text.parse::<IpAddr>().unwrap())
}

fn plain(next_hop: &str) -> Attributes {
    Attributes::new(Origin::Igp, AsPath::from_iter([Asn(64513)]), hop(next_hop))
}

/// A message with this body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(HEADER + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// An UPDATE with these fields.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(withdrawn.len()).unwrap().to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(UPDATE, &body)
}

/// Every message of a stream, each no longer than `max`.
fn split(mut bytes: &[u8], max: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = frame(bytes, max).unwrap() {
        let (first, rest) = bytes.split_at(length);
        all.push(first.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "rest of a message");
    all
}

fn read(bytes: &[u8], session: &Negotiated) -> Update {
    match decode(bytes, Some(session)) {
        Ok(Message::Update(update)) => update,
        other => panic!("not an UPDATE: {other:?}"),
    }
}

fn sent(attributes: &Attributes, nlri: &[Nlri], session: &Negotiated) -> Result<Vec<u8>, Unsendable> {
    let mut out = Vec::new();
    let family = family_of(&nlri[0].prefix);
    encode_reach(attributes, family, nlri, session, &mut out).map(|()| out)
}

const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01];
const HOP: [u8; 7] = [0x40, 3, 4, 192, 0, 2, 1];
