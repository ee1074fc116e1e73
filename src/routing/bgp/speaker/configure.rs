//! From one configuration to the next with as few resets as the protocol allows; the table is in the parent's text.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::control::{Config, PeerConfig};
use crate::routing::bgp::fsm::FsmConfig;
use crate::routing::bgp::rib::RibSettings;
use crate::routing::bgp::tcp::TcpTransport;
use crate::routing::bgp::types::{Negotiated, OpenSettings, OwnRestart};

/// Who we are, for the routing table.
pub(super) fn own(config: &Config) -> RibSettings {
    RibSettings {
        asn: config.asn,
        router_id: config.router_id,
        cluster_id: config.cluster_id,
        decision: config.decision,
    }
}

/// How the state machine treats a peer. `restarting`: we have restarted, and forwarding went on (RFC 4724).
pub(super) fn machine(config: &Config, peer: &PeerConfig, dynamic: bool, restarting: bool) -> FsmConfig {
    let open = OpenSettings {
        asn: peer.local_asn,
        router_id: config.router_id,
        hold_time: peer.hold_time,
        peer_asn: peer.asn,
        families: peer.families.clone(),
        add_path_receive: peer.add_path_receive.clone(),
        add_path_send: peer.add_path_send.clone(),
        extended_next_hop: peer.extended_next_hop,
        extended_messages: true,
        graceful_restart: peer.graceful_restart.map(|own| OwnRestart { restarting, ..own }),
        long_lived: peer.long_lived,
        forwarding_kept: restarting,
    };
    FsmConfig { passive: peer.passive || dynamic, ..FsmConfig::new(open) }
}

/// How a peer is reached.
pub(super) fn transport(address: IpAddr, peer: &PeerConfig) -> TcpTransport {
    let remote = match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, peer.port, 0, peer.scope).into(),
        other => SocketAddr::new(other, peer.port),
    };
    TcpTransport { remote, local: peer.local_address, distance: peer.distance, key: peer.password.0.clone() }
}

/// What a peer's new configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The session goes on; all that changed works at once or from the next session on.
    Goes,
    /// It ends, and a new one begins.
    Resets,
}

/// What a change of a peer's configuration does to its session. Named field by field, so that a new field is thought
/// about here.
pub(super) fn effect(before: &PeerConfig, after: &PeerConfig, session: Option<&Negotiated>) -> Effect {
    let PeerConfig {
        asn,
        local_asn,
        local_address,
        scope,
        password,
        distance,
        families,
        add_path_receive,
        add_path_send,
        extended_next_hop,
        // At once, without a reset.
        client: _,
        description: _,
        shutdown: _,
        next_hop_self: _,
        next_hop_unchanged: _,
        next_hop_v4: _,
        next_hop_v6: _,
        shared: _,
        bfd: _,
        max_prefixes: _,
        // From the next connection on.
        port: _,
        passive: _,
        hold_time: _,
        graceful_restart: _,
        long_lived: _,
    } = before;
    let other_as =
        *asn != after.asn && session.is_none_or(|session| after.asn.is_some_and(|wanted| wanted != session.peer_asn));
    let other = other_as
        || *local_asn != after.local_asn
        || *local_address != after.local_address
        || *scope != after.scope
        || *password != after.password
        || *distance != after.distance
        || *families != after.families
        || *add_path_receive != after.add_path_receive
        || *add_path_send != after.add_path_send
        || *extended_next_hop != after.extended_next_hop;
    if other { Effect::Resets } else { Effect::Goes }
}

/// Whether a new configuration makes us somebody else, so that every session has to begin anew.
pub(super) fn is_somebody_else(before: &Config, after: &Config) -> bool {
    (before.asn, before.router_id) != (after.asn, after.router_id)
}
