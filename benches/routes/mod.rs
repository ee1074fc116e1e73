//! Peers, routes, and a hub between them: what comes in as bytes goes out as bytes.
#![allow(dead_code, reason = "each benchmark needs a part of it")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ferrovia::net::{Asn, Family, Prefix, host_prefix};
use ferrovia::routing::bgp::hub::{Hub, PeerSettings};
use ferrovia::routing::bgp::policy::{NodePolicy, PolicySet, node_policies};
use ferrovia::routing::bgp::rib::{RibSettings, Settings};
use ferrovia::routing::bgp::types::{AsPath, Attributes, Negotiated, Nlri, Origin, PeerId, PeerKind};
use ferrovia::routing::bgp::wire::{self, Message};
use ferrovia::testing::builders::bgp_session;

pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN_ASN: Asn = Asn(64_512);
const NOW: Duration = Duration::from_secs(1);
/// What a task reads from a socket at once, and writes at once.
const PIECE: usize = 65_536;
/// Routes in one UPDATE where they share attributes, as the figures of other speakers were taken.
const IN_ONE: usize = 900;

/// How the routes' attributes are.
#[derive(Clone, Copy)]
pub enum Kind {
    /// All the same.
    Shared,
    /// Each its own MED and communities: one route in an UPDATE.
    Unique,
}

/// A session as both ends agreed.
pub fn session(n: u32, kind: PeerKind) -> Negotiated {
    let asn = if kind == PeerKind::Internal { OWN_ASN } else { Asn(65_000 + n) };
    bgp_session(asn, Ipv4Addr::from(0x0a01_0000 + n), kind)
}

/// A hub and the sessions it has.
pub struct Place {
    pub hub: Hub,
    pub sessions: Vec<(PeerId, Negotiated)>,
}

impl Place {
    /// Nobody there yet.
    pub fn new(policies: PolicySet) -> Place {
        let own = RibSettings { asn: OWN_ASN, router_id: OWN, cluster_id: OWN, decision: Settings::default() };
        Place { hub: Hub::new(own, policies), sessions: Vec::new() }
    }

    /// One source and one sink.
    pub fn pair() -> Place {
        let mut place = Place::new(PolicySet::default());
        place.join(session(1, PeerKind::External));
        place.join(session(2, PeerKind::External));
        place.drain();
        place
    }

    /// A session comes up; its number.
    pub fn join(&mut self, session: Negotiated) -> usize {
        let number = u32::try_from(self.sessions.len() + 1).unwrap();
        let settings = PeerSettings {
            shared: vec!["10.2.0.0/16".parse().unwrap()],
            ..PeerSettings::new(IpAddr::V4(address(number)), OWN_ASN, OWN)
        };
        self.hub.add_peer(PeerId(number), settings);
        self.hub.up(PeerId(number), 1, session.clone(), NOW);
        self.sessions.push((PeerId(number), session));
        self.sessions.len() - 1
    }

    /// A peer's bytes, as many at once as a read brings.
    pub fn read(&mut self, peer: usize, bytes: &[u8]) {
        let (id, session) = &self.sessions[peer];
        let (mut rest, mut updates, mut taken) = (bytes, Vec::new(), 0);
        while let Some(length) = wire::frame(rest, wire::MAX).unwrap() {
            let (message, later) = rest.split_at(length);
            rest = later;
            taken += length;
            let Message::Update(update) = wire::decode(message, Some(session)).unwrap() else { panic!("no UPDATE") };
            updates.push(update);
            if taken >= PIECE {
                self.hub.updates(*id, std::mem::take(&mut updates), NOW);
                taken = 0;
            }
        }
        self.hub.updates(*id, updates, NOW);
    }

    /// Everything that waits for peers is written; how many bytes it was.
    pub fn drain(&mut self) -> usize {
        let mut written = 0;
        for peer in self.hub.busy() {
            while let Some((_, bytes)) = self.hub.take(peer, PIECE) {
                written += bytes.len();
            }
        }
        written
    }

    /// One VIP more of this node.
    pub fn originate(&mut self, n: u32) {
        let own = Attributes::new(Origin::Igp, AsPath::empty(), IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        self.hub.announce(vec![(vip(n), vec![own])], NOW);
    }
}

/// The address of a peer.
pub fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a02_0000 + n)
}

/// A VIP.
pub fn vip(n: u32) -> Prefix {
    host_prefix(IpAddr::V4(Ipv4Addr::from(0xac10_0000 + n)))
}

/// The policies a node has, with so many VIPs and external peers.
pub fn policies(vips: u32, peers: u32) -> PolicySet {
    node_policies(&NodePolicy {
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        vips: (0..vips).map(|n| vip(n).addr()).collect(),
        node_addresses: vec![IpAddr::V4(OWN)],
        external_peers: (1..=peers).map(|n| host_prefix(IpAddr::V4(address(n)))).collect(),
        ..NodePolicy::default()
    })
}

/// The prefixes of a table, from the `first` on.
pub fn prefixes(first: usize, n: usize) -> Vec<Nlri> {
    let nth = |n: usize| {
        let address = Ipv4Addr::from(0x1400_0000 + u32::try_from(n).unwrap() * 256);
        Nlri::new(Prefix::new(IpAddr::V4(address), 24).unwrap())
    };
    (first..first + n).map(nth).collect()
}

/// UPDATEs that announce them.
pub fn announcements(kind: Kind, nlri: &[Nlri]) -> Vec<u8> {
    let from = session(1, PeerKind::External);
    let as_path: AsPath = [from.peer_asn, Asn(65_100)].into_iter().collect();
    let attributes = Attributes::new(Origin::Igp, as_path, IpAddr::V4(address(1)).into());
    let mut bytes = Vec::new();
    match kind {
        Kind::Shared => {
            for nlri in nlri.chunks(IN_ONE) {
                wire::encode_reach(&attributes, Family::V4, nlri, &from, &mut bytes).unwrap();
            }
        }
        Kind::Unique => {
            for (n, one) in (0..).zip(nlri) {
                let communities = [65_000 << 16 | n & 0xffff, 65_001 << 16 | n >> 16].into();
                let own = Attributes { med: Some(n), communities, ..attributes.clone() };
                wire::encode_reach(&own, Family::V4, std::slice::from_ref(one), &from, &mut bytes).unwrap();
            }
        }
    }
    bytes
}

/// UPDATEs that take them back.
pub fn withdrawals(nlri: &[Nlri]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for nlri in nlri.chunks(IN_ONE) {
        wire::encode_withdraw(Family::V4, nlri, &session(1, PeerKind::External), &mut bytes);
    }
    bytes
}
