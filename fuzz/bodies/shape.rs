//! Sessions of every shape, by the bits of one octet.
#![allow(dead_code, reason = "each target needs a part of it")]

use std::net::Ipv4Addr;

use ferrovia::net::{Asn, Family};
use ferrovia::routing::bgp::types::{Negotiated, OpenSettings, OwnRestart, PeerKind};
use ferrovia::routing::bgp::wire;

pub(crate) fn session(shape: u8) -> Negotiated {
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

pub(crate) fn settings(shape: u8) -> OpenSettings {
    let bit = |n: u8| shape & 1 << n != 0;
    let listed = if bit(0) { Family::ALL.to_vec() } else { Vec::new() };
    OpenSettings {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        hold_time: if bit(5) { 0 } else { 90 },
        peer_asn: bit(6).then_some(Asn(64513)),
        families: if bit(7) { vec![Family::V4] } else { Family::ALL.to_vec() },
        add_path_receive: listed.clone(),
        add_path_send: listed,
        extended_next_hop: bit(3),
        extended_messages: bit(4),
        graceful_restart: bit(1).then_some(OwnRestart { restart_time: 120, restarting: bit(2), notification: true }),
        long_lived: if bit(2) { 3600 } else { 0 },
        forwarding_kept: bit(3),
    }
}

/// A message of a kind with this body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    let length = u16::try_from(wire::HEADER + body.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}
