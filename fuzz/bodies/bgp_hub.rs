//! UPDATEs of two peers through the whole speaker's mind, and what two others hear of them: what they are told can be
//! read, and nothing is withdrawn from them that they do not hold.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::shape;
use ferrovia::net::{Asn, Family};
use ferrovia::routing::bgp::hub::{Hub, PeerSettings};
use ferrovia::routing::bgp::policy::PolicySet;
use ferrovia::routing::bgp::rib::{RibSettings, Settings};
use ferrovia::routing::bgp::types::{Negotiated, Nlri, PeerId};
use ferrovia::routing::bgp::wire::{self, Message, Refresh};

const NOW: Duration = Duration::from_secs(1);

pub(crate) fn run(bytes: &[u8]) {
    let Some((shapes, mut rest)) = bytes.split_first_chunk::<4>() else { return };
    let mut messages = Vec::new();
    while let &[who, high, low, ref later @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([high & 0x0f, low])).min(later.len());
        let (body, later) = later.split_at(length);
        messages.push((who, body));
        rest = later;
    }
    let router_id = Ipv4Addr::new(10, 0, 0, 1);
    let own = RibSettings { asn: Asn(64512), router_id, cluster_id: router_id, decision: Settings::default() };
    let mut hub = Hub::new(own, PolicySet::default());
    let mut listeners = Vec::new();
    for (n, bits) in (1..).zip(*shapes) {
        let peer_asn = Asn(64512 + u32::from(n));
        let session = Negotiated { peer_asn, peer_id: Ipv4Addr::new(10, 0, 0, n + 1), ..shape::session(bits) };
        hub.add_peer(PeerId(n.into()), settings(n));
        hub.up(PeerId(n.into()), 1, session.clone(), NOW);
        listeners.push(Listener { peer: PeerId(n.into()), session, held: BTreeSet::new() });
    }
    for (who, body) in messages {
        let peer = PeerId(u32::from(who & 1) + 1);
        match who >> 4 {
            0 => {
                hub.down(peer, false, NOW);
                let at = usize::from(who & 1);
                listeners[at].held.clear();
                hub.up(peer, 1, listeners[at].session.clone(), NOW);
            }
            1 => hub.refresh(PeerId(u32::from(who & 1) + 3), Family::V4, Refresh::Ask, NOW),
            2 => listeners.iter_mut().for_each(|listener| listener.hear(&mut hub, 60)),
            _ => {
                let session = &listeners[usize::from(who & 1)].session;
                if let Ok(Message::Update(update)) = wire::decode(&shape::message(2, body), Some(session)) {
                    hub.updates(peer, vec![update], NOW);
                }
            }
        }
    }
    listeners.iter_mut().for_each(|listener| listener.hear(&mut hub, usize::MAX));
    assert!(hub.busy().is_empty());
    for listener in &listeners {
        let told: usize = Family::ALL.iter().map(|family| hub.n_told(listener.peer, *family)).sum();
        assert_eq!(told, listener.held.len());
    }
}

struct Listener {
    peer: PeerId,
    session: Negotiated,
    held: BTreeSet<Nlri>,
}

impl Listener {
    fn hear(&mut self, hub: &mut Hub, limit: usize) {
        let Some((_, bytes)) = hub.take(self.peer, limit) else { return };
        let mut rest = bytes.as_slice();
        while let Ok(Some(length)) = wire::frame(rest, self.session.max_message) {
            let update = match wire::decode(&rest[..length], Some(&self.session)) {
                Ok(Message::Update(update)) => update,
                // The begin and the end of a refresh that was asked for (RFC 7313).
                Ok(Message::Refresh { kind: Refresh::Begin | Refresh::End, .. }) if self.session.enhanced_refresh => {
                    rest = &rest[length..];
                    continue;
                }
                other => panic!("neither UPDATE nor mark: {other:?} in {:?}", &rest[..length]),
            };
            rest = &rest[length..];
            assert_eq!(update.faults, Vec::<String>::new());
            for nlri in update.withdrawn {
                assert!(self.held.remove(&nlri), "withdrew {nlri:?}, which was not announced");
            }
            self.held.extend(update.reach.into_iter().flat_map(|reach| reach.nlri));
        }
        assert!(rest.is_empty());
    }
}

fn settings(n: u8) -> PeerSettings {
    PeerSettings {
        local_v6: Some("2001:db8::1".parse::<IpAddr>().unwrap().into()),
        shared: if n.is_multiple_of(2) { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() },
        client: n == 3,
        next_hop_self: n == 4,
        ..PeerSettings::new(IpAddr::from([192, 0, 2, n]), Asn(64512), Ipv4Addr::new(192, 0, 2, 100))
    }
}
