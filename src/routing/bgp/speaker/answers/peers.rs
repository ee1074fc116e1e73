//! Peers as they are now.

use std::time::Duration;

use crate::net::Family;
use crate::routing::bgp::api::bfd::BfdStatus;
use crate::routing::bgp::api::query::{
    AdminState, Capability, FamilyCounts, MessageCounts, PeerDetail, PeerRow, SessionState,
};
use crate::routing::bgp::bfd::driver::Snapshot;
use crate::routing::bgp::bfd::packet;
use crate::routing::bgp::fsm;
use crate::routing::bgp::negotiate;
use crate::routing::bgp::session::MessageCounts as Counted;
use crate::routing::bgp::speaker::configure;
use crate::routing::bgp::speaker::state::{Admin, Peer, State};
use crate::routing::bgp::types::{PeerId, PeerKind};
use crate::routing::bgp::wire;

/// The peer so named or all, in order of their addresses.
pub(super) fn details(state: &State, name: Option<&str>, advertised: bool) -> Vec<PeerDetail> {
    let named = |peer: &Peer| {
        name.is_none_or(|name| name.parse().is_ok_and(|address: std::net::IpAddr| address == peer.address))
    };
    let ids = state.by_address.values();
    let peers = ids.filter_map(|id| Some((*id, state.peers.get(id)?)));
    peers.filter(|(_, peer)| named(peer)).map(|(id, peer)| detail(state, id, peer, advertised)).collect()
}

/// One peer.
pub(super) fn detail(state: &State, id: PeerId, peer: &Peer, advertised: bool) -> PeerDetail {
    let config = &peer.config;
    let session = peer.up.as_ref().map(|up| &up.negotiated);
    // What was agreed with it last, where there is no session now.
    let their_asn = session.map(|session| session.peer_asn).or(peer.their_open.as_ref().map(|open| open.asn));
    let asn = config.asn.or(their_asn);
    let hold_time = session.map_or(0, |session| session.hold_time);
    let open = match &peer.our_open {
        Some(open) => (**open).clone(),
        None => configure::machine(&state.config, config, peer.dynamic.is_some(), false).open,
    };
    let theirs = peer.their_open.as_ref().filter(|_| session.is_some());
    let internal = asn == Some(config.local_asn);
    PeerDetail {
        row: row(state, id, peer, advertised),
        description: config.description.clone(),
        kind: if internal { PeerKind::Internal } else { PeerKind::External },
        local_asn: config.local_asn,
        router_id: theirs.map(|open| open.router_id),
        local_address: peer.up.as_ref().and_then(|up| up.local).or(config.local_address),
        remote_port: config.port,
        passive: config.passive || peer.dynamic.is_some(),
        reflector_client: config.client,
        cluster_id: config.client.then_some(state.config.cluster_id),
        hold_time: config.hold_time,
        keepalive: config.hold_time / 3,
        negotiated_hold_time: hold_time,
        negotiated_keepalive: hold_time / 3,
        flops: peer.flops,
        out_queue: peer.in_flight,
        received: counts(peer.status.received.get()),
        sent: counts(peer.status.sent.get()),
        local_capabilities: capabilities(negotiate::open_settings_capabilities(&open)),
        remote_capabilities: theirs.map(|open| capabilities(open.capabilities())).unwrap_or_default(),
        bfd: state.watching.status(id).map(|session| bfd_status(&session, state.clock.since_epoch(state.clock.now()))),
    }
}

/// BFD as it is `now`, since 1970.
fn bfd_status(session: &Snapshot, now: Duration) -> BfdStatus {
    BfdStatus {
        state: session.state,
        remote_state: session.remote.state,
        diagnostic: session.diagnostic,
        remote_diagnostic: session.remote.diagnostic,
        discriminator: session.discriminator,
        remote_discriminator: session.remote.discriminator,
        remote_min_rx: session.remote.required_min_rx,
        since: now.saturating_sub(session.since.elapsed()),
        failures: session.times_up.saturating_sub(u64::from(session.state == packet::State::Up)),
        sent: session.sent,
        received: session.received,
    }
}

fn row(state: &State, id: PeerId, peer: &Peer, advertised: bool) -> PeerRow {
    let at = |moment: Option<Duration>| moment.map(|moment| state.clock.since_epoch(moment));
    let session = peer.up.as_ref().map(|up| &up.negotiated);
    let rib = state.hub.rib();
    let sent = |family: Family| if advertised { state.hub.n_told(id, family) as u64 } else { 0 };
    let family = |family: &Family| {
        let stats = rib.stats(id, *family);
        FamilyCounts {
            family: *family,
            negotiated: session.is_some_and(|session| session.families.contains(family)),
            received: u64::from(stats.received),
            accepted: u64::from(stats.accepted),
            advertised: sent(*family),
        }
    };
    PeerRow {
        address: peer.address,
        interface: None,
        asn: peer.config.asn.or(session.map(|session| session.peer_asn)),
        state: session_state(peer.state()),
        admin: match peer.admin {
            Admin::PrefixLimit => AdminState::PrefixLimit,
            Admin::Down(_) => AdminState::Down,
            Admin::Up if peer.config.shutdown.is_some() => AdminState::Down,
            Admin::Up => AdminState::Up,
        },
        up_since: at(peer.up_since),
        down_since: at(peer.down_since.filter(|_| session.is_none())),
        families: peer.config.families.iter().map(family).collect(),
    }
}

pub(super) fn session_state(state: fsm::State) -> SessionState {
    match state {
        fsm::State::Idle => SessionState::Idle,
        fsm::State::Connect => SessionState::Connect,
        fsm::State::Active => SessionState::Active,
        fsm::State::OpenSent => SessionState::OpenSent,
        fsm::State::OpenConfirm => SessionState::OpenConfirm,
        fsm::State::Established => SessionState::Established,
    }
}

fn counts(counts: Counted) -> MessageCounts {
    MessageCounts {
        open: counts.open,
        notification: counts.notification,
        update: counts.update,
        keepalive: counts.keepalive,
        refresh: counts.refresh,
        discarded: counts.other,
    }
}

fn capabilities(list: Vec<wire::Capability>) -> Vec<Capability> {
    let one = |capability| match capability {
        wire::Capability::Multiprotocol(family) => Capability::Multiprotocol(family),
        wire::Capability::RouteRefresh => Capability::RouteRefresh,
        wire::Capability::ExtendedNextHop => Capability::ExtendedNextHop,
        wire::Capability::ExtendedMessage => Capability::ExtendedMessage,
        wire::Capability::GracefulRestart(restart) => Capability::GracefulRestart(restart),
        wire::Capability::FourOctetAs(asn) => Capability::FourOctetAs(asn),
        wire::Capability::AddPath(families) => Capability::AddPath(families),
        wire::Capability::EnhancedRefresh => Capability::EnhancedRefresh,
        wire::Capability::LongLived(families) => {
            Capability::LongLived(families.into_iter().map(|(family, _, seconds)| (family, seconds)).collect())
        }
        wire::Capability::Unknown(code, value) => Capability::Unknown(code, value),
    };
    list.into_iter().map(one).collect()
}
