//! The speaker's mind: what a session brought goes through import policy into the RIB, and what changed there through
//! export policy into every peer's queue. Pure: the tasks around it move bytes and tell the time.
//!
//! RFC 4271 section 9, RFC 4724 (graceful restart, receiving side), RFC 7313 (refresh), RFC 7911 (ADD-PATH).

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::output::{Groups, Mark, Offer, Own, Source, Target};
use crate::routing::bgp::policy::{Direction, PeerPolicy, PeerView, PolicySet, PrefixSets};
use crate::routing::bgp::rib::{self, Change, Changes, Path, PeerInfo, Rib, RibSettings};
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::types::{Attributes, Negotiated, NextHop, Nlri, PeerId, family_of};
use crate::routing::bgp::wire::{Refresh, Update};

/// What the hub needs to know of a configured peer beyond what its OPEN says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The address the session is with.
    pub address: IpAddr,
    /// Our AS towards it.
    pub local_asn: Asn,
    /// Our next hop towards it, by family.
    pub local_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub local_v6: Option<NextHop>,
    /// The subnets we share with it, where third-party next hops are fine.
    pub shared: Vec<Prefix>,
    /// A client of ours as route reflector (RFC 4456).
    pub client: bool,
    /// Always name ourselves as the next hop.
    pub next_hop_self: bool,
    /// Pass on the next hop a route came with.
    pub next_hop_unchanged: bool,
}

impl PeerSettings {
    /// A peer that asks for nothing: neither a client nor on a subnet of ours.
    pub fn new(address: IpAddr, local_asn: Asn, local: Ipv4Addr) -> PeerSettings {
        PeerSettings {
            address,
            local_asn,
            local_v4: Some(local),
            local_v6: None,
            shared: Vec::new(),
            client: false,
            next_hop_self: false,
            next_hop_unchanged: false,
        }
    }
}

/// A peer as the hub has it.
#[derive(Debug)]
struct Peer {
    settings: PeerSettings,
    live: Option<Live>,
    import: PeerPolicy,
    /// Families whose routes are kept from before a restart.
    stale: BTreeMap<Family, Stale>,
}

/// Routes that outlive their session.
#[derive(Clone, Copy, Debug)]
struct Stale {
    /// Until when.
    until: Duration,
    /// How much longer they may stay as the last resort (RFC 9494).
    long_lived: Duration,
}

/// An established session.
#[derive(Debug)]
struct Live {
    number: u64,
    negotiated: Negotiated,
    /// Families the peer has told all of.
    complete: BTreeSet<Family>,
}

/// All peers, all routes.
#[derive(Debug)]
pub struct Hub {
    own: Own,
    rib: Rib,
    groups: Groups,
    policies: PolicySet,
    /// Their prefix sets, which all peers' policies share.
    prefix_sets: PrefixSets,
    peers: BTreeMap<PeerId, Peer>,
    changes: Changes,
    /// We have restarted and do not have all routes yet: nobody hears that these were all.
    holds_end: bool,
    /// Prefixes whose best path changed since they were last asked for.
    best_changed: Vec<Prefix>,
    /// At so many they are looked through for those named twice.
    sort_best_at: usize,
}

impl Hub {
    /// A speaker without peers and routes.
    pub fn new(rib: RibSettings, policies: PolicySet) -> Hub {
        let own = Own { asn: rib.asn, router_id: rib.router_id, cluster_id: rib.cluster_id };
        Hub {
            own,
            rib: Rib::new(rib),
            groups: Groups::new(own),
            prefix_sets: PrefixSets::new(&policies.sets),
            policies,
            peers: BTreeMap::new(),
            changes: Changes::default(),
            holds_end: false,
            best_changed: Vec::new(),
            sort_best_at: SORT_BEST_AT,
        }
    }

    /// All routes.
    pub fn rib(&self) -> &Rib {
        &self.rib
    }

    /// A peer is configured. Its sessions may come up from now on.
    pub fn add_peer(&mut self, peer: PeerId, settings: PeerSettings) {
        let import = self.policies.prepare_with(&self.prefix_sets, Direction::Import, &settings.view());
        self.peers.insert(peer, Peer { settings, live: None, import, stale: BTreeMap::new() });
    }

    /// A peer is configured no longer: its routes go.
    pub fn remove_peer(&mut self, peer: PeerId) {
        self.groups.leave(peer);
        if self.peers.remove(&peer).is_some() {
            self.rib.drop_peer(peer, &mut self.changes);
        }
        self.spread();
    }

    /// A session is established: the peer hears of every route it may know, and then that this was all.
    pub fn up(&mut self, peer: PeerId, number: u64, negotiated: Negotiated) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let info = PeerInfo {
            kind: negotiated.kind,
            router_id: negotiated.peer_id,
            address: entry.settings.address,
            client: entry.settings.client,
            asn: negotiated.peer_asn,
            local_asn: entry.settings.local_asn,
        };
        self.rib.add_peer(peer, info, &mut self.changes);
        // Families the peer did not keep forwarding in while it was away (RFC 4724 4.2).
        for family in Family::ALL {
            let kept = negotiated.graceful_restart.as_ref().is_some_and(|restart| {
                restart.families.contains(&(family, true)) && negotiated.families.contains(&family)
            });
            if !kept && entry.stale.remove(&family).is_some() {
                self.rib.drop_stale(peer, family, &mut self.changes);
            }
        }
        let target = entry.settings.target(peer, &negotiated);
        let export = self.policies.prepare_with(&self.prefix_sets, Direction::Export, &target.view());
        let families = negotiated.families.clone();
        entry.live = Some(Live { number, negotiated, complete: BTreeSet::new() });
        // A new peer takes its group's words as they are, so they must be up to date.
        self.spread();
        self.groups.join(target, export);
        self.tell_all(peer, &families);
        if !self.holds_end {
            families.iter().for_each(|family| self.groups.mark(peer, Mark::EndOfRib(*family)));
        }
    }

    /// We have restarted: peers keep what they had from us until [`Hub::end_restart`].
    pub fn begin_restart(&mut self) {
        self.holds_end = true;
    }

    /// All routes are there again: peers hear that these are all.
    pub fn end_restart(&mut self) {
        if std::mem::take(&mut self.holds_end) {
            for (peer, entry) in &self.peers {
                let families = entry.live.iter().flat_map(|live| &live.negotiated.families);
                families.for_each(|family| self.groups.mark(*peer, Mark::EndOfRib(*family)));
            }
        }
    }

    /// A session is over. With `keep_routes` the peer's routes stay as stale for its restart time.
    pub fn down(&mut self, peer: PeerId, keep_routes: bool, now: Duration) {
        self.groups.leave(peer);
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(live) = entry.live.take() else { return };
        let restart = live.negotiated.graceful_restart.filter(|_| keep_routes);
        let long_lived = live.negotiated.long_lived;
        for family in Family::ALL {
            let restart = restart.as_ref().filter(|restart| restart.families.iter().any(|(of, _)| *of == family));
            match restart {
                Some(restart) => {
                    self.rib.mark_stale(peer, family, &mut self.changes);
                    let until = now.saturating_add(Duration::from_secs(restart.restart_time.into()));
                    let long_lived = long_lived.iter().find(|(of, _)| *of == family).map_or(0, |(_, seconds)| *seconds);
                    let long_lived = Duration::from_secs(long_lived.into());
                    entry.stale.insert(family, Stale { until, long_lived });
                }
                None => {
                    entry.stale.remove(&family);
                    self.rib.drop_family(peer, family, &mut self.changes);
                }
            }
        }
        self.spread();
    }

    /// Routes that a peer sent, in order.
    pub fn updates(&mut self, peer: PeerId, updates: Vec<Update>, now: Duration) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(live) = &entry.live else { return };
        let kind = live.negotiated.kind.into();
        for update in updates {
            if !update.withdrawn.is_empty() {
                self.rib.withdraw(peer, &update.withdrawn, &mut self.changes);
            }
            for reach in update.reach {
                let received = self.rib.intern(reach.attributes);
                judge::judge_alike(&entry.import, kind, &received, &reach.nlri, |nlri, accepted| {
                    let offer = rib::Offer { received: received.clone(), accepted };
                    self.rib.announce(peer, offer, nlri, now, &mut self.changes);
                });
            }
            if let Some(family) = update.end_of_rib {
                if let Some(live) = &mut entry.live {
                    live.complete.insert(family);
                }
                if entry.stale.remove(&family).is_some() {
                    self.rib.end_of_rib(peer, family, &mut self.changes);
                }
            }
        }
        self.spread();
    }

    /// A peer's ROUTE-REFRESH.
    pub fn refresh(&mut self, peer: PeerId, family: Family, kind: Refresh, now: Duration) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        match kind {
            Refresh::Ask => {
                let marked = entry.live.as_ref().is_some_and(|live| live.negotiated.enhanced_refresh);
                self.groups.repeat(peer, family, marked);
            }
            // What does not come again until the end is gone (RFC 7313 4).
            Refresh::Begin => {
                self.rib.mark_stale(peer, family, &mut self.changes);
                let until = now.saturating_add(REFRESH_LIMIT);
                entry.stale.insert(family, Stale { until, long_lived: Duration::ZERO });
            }
            Refresh::End => {
                if entry.stale.remove(&family).is_some() {
                    self.rib.end_of_rib(peer, family, &mut self.changes);
                }
            }
        }
        self.spread();
    }

    /// Routes that start here, new or changed: for each prefix all its paths.
    pub fn announce(&mut self, routes: Vec<(Prefix, Vec<Attributes>)>, now: Duration) {
        for (prefix, paths) in routes {
            let paths = paths.into_iter().map(|attributes| self.rib.intern(attributes)).collect();
            self.rib.originate_paths(prefix, paths, now, &mut self.changes);
        }
        self.spread();
    }

    /// Takes back routes that started here.
    pub fn withdraw_all(&mut self, prefixes: &[Prefix]) {
        for prefix in prefixes {
            self.rib.originate_paths(*prefix, Vec::new(), Duration::ZERO, &mut self.changes);
        }
        self.spread();
    }

    /// A route somebody asked for through the API: a path beside those the daemon announces, which it yields to.
    pub fn inject(&mut self, nlri: Nlri, attributes: Attributes, now: Duration) {
        let attributes = self.rib.intern(attributes);
        self.rib.inject(nlri, attributes, now, &mut self.changes);
        self.spread();
    }

    /// Takes back routes that came so.
    pub fn take_back(&mut self, routes: &[Nlri]) {
        self.rib.withdraw(PeerId::API, routes, &mut self.changes);
        self.spread();
    }

    /// Who we are, and how paths are chosen. For another AS, identifier or cluster all sessions must be down.
    pub fn set_own(&mut self, own: RibSettings) {
        self.own = Own { asn: own.asn, router_id: own.router_id, cluster_id: own.cluster_id };
        self.groups.set_own(self.own);
        self.rib.set_own(own, &mut self.changes);
        self.spread();
    }

    /// What was agreed with a peer, while its session is up.
    pub fn session(&self, peer: PeerId) -> Option<&Negotiated> {
        self.peers.get(&peer)?.live.as_ref().map(|live| &live.negotiated)
    }

    /// Routes of a family that a peer whose session is up was told, in order, as it was told them.
    pub fn told(&self, peer: PeerId, family: Family) -> Vec<(Nlri, Shared)> {
        self.groups.told(peer, family)
    }

    /// How many those are.
    pub fn n_told(&self, peer: PeerId, family: Family) -> usize {
        self.groups.n_told(peer, family)
    }

    /// Whether a peer whose session is up has told all it has (RFC 4724).
    pub fn is_complete(&self, peer: PeerId) -> bool {
        self.peers
            .get(&peer)
            .and_then(|entry| entry.live.as_ref())
            .is_some_and(|live| live.negotiated.families.iter().all(|family| live.complete.contains(family)))
    }

    /// Whether routes of a peer are kept from before its restart.
    pub fn has_stale(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|entry| !entry.stale.is_empty())
    }

    /// Stale routes whose time is over go.
    pub fn expire(&mut self, now: Duration) {
        for (peer, entry) in &mut self.peers {
            let over: Vec<(Family, Stale)> =
                entry.stale.iter().filter(|(_, stale)| stale.until <= now).map(|(of, stale)| (*of, *stale)).collect();
            for (family, stale) in over {
                if stale.long_lived.is_zero() {
                    entry.stale.remove(&family);
                    self.rib.drop_stale(*peer, family, &mut self.changes);
                } else {
                    let until = now.saturating_add(stale.long_lived);
                    entry.stale.insert(family, Stale { until, long_lived: Duration::ZERO });
                    self.rib.mark_long_lived(*peer, family, &mut self.changes);
                }
            }
        }
        self.spread();
    }

    /// When [`Hub::expire`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.peers.values().flat_map(|entry| entry.stale.values()).map(|stale| stale.until).min()
    }

    /// Peers with something to hear, in order.
    pub fn busy(&self) -> Vec<PeerId> {
        self.groups.busy()
    }

    /// The next messages for a peer, about `limit` bytes of them, and the number of the session they are for. `None`
    /// when it has heard everything.
    pub fn take(&mut self, peer: PeerId, limit: usize) -> Option<(u64, Vec<u8>)> {
        let live = self.peers.get(&peer)?.live.as_ref()?;
        let mut bytes = Vec::new();
        self.groups.take(peer, limit, &mut bytes);
        (!bytes.is_empty()).then_some((live.number, bytes))
    }

    /// The prefixes whose best path changed since the last call, in order: the kernel's routes follow them.
    pub fn take_best_changes(&mut self) -> Vec<Prefix> {
        self.sort_best_at = SORT_BEST_AT;
        let mut changed = std::mem::take(&mut self.best_changed);
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Tells one peer everything it may know.
    fn tell_all(&mut self, peer: PeerId, families: &[Family]) {
        let Hub { rib, groups, own, .. } = self;
        for family in families {
            let all = groups.want_all_paths(*family);
            for (prefix, paths) in rib.unsorted(*family) {
                offered(rib, own, paths, all, |offers| groups.tell_one(peer, prefix, offers));
            }
        }
        groups.settle();
    }

    /// Tells everybody what changed.
    fn spread(&mut self) {
        for (Change { prefix, best }, gone) in self.changes.take_with_gone() {
            if best {
                self.best_changed.push(prefix);
            }
            if gone {
                self.groups.tell(prefix, &[], best);
            } else {
                self.tell(prefix, best);
            }
        }
        self.groups.settle();
        if self.best_changed.len() > self.sort_best_at {
            self.best_changed.sort_unstable();
            self.best_changed.dedup();
            self.sort_best_at = SORT_BEST_AT.max(2 * self.best_changed.len());
        }
    }

    /// Tells everybody what there is of a prefix: its best path, or with ADD-PATH all that may be used.
    fn tell(&mut self, prefix: Prefix, best: bool) {
        let Hub { rib, groups, own, .. } = self;
        let all = groups.want_all_paths(family_of(&prefix));
        offered(rib, own, rib.paths(&prefix), all, |offers| groups.tell(prefix, offers, best));
    }
}

/// The paths that may be used, or only the best.
fn offered(rib: &Rib, own: &Own, paths: &[Path], all: bool, tell: impl FnOnce(&[Offer<'_>])) {
    if all {
        let usable = paths.iter().filter(|path| path.filtered.is_none());
        tell(&usable.map(|path| offer(rib, own, path)).collect::<Vec<_>>());
    } else {
        tell(paths.first().filter(|path| path.in_use()).map(|path| offer(rib, own, path)).as_slice());
    }
}

fn offer<'a>(rib: &Rib, own: &Own, path: &'a Path) -> Offer<'a> {
    let from = source(rib, own, path);
    Offer { path_id: path.local_id, leads: path.in_use(), attributes: &path.attributes, from }
}

fn source(rib: &Rib, own: &Own, path: &Path) -> Source {
    match rib.peer(path.peer) {
        Some(info) => {
            Source { peer: path.peer, route_type: info.kind.into(), client: info.client, router_id: info.router_id }
        }
        None => Source::local(own),
    }
}

/// So few prefixes may be named twice, nobody minds.
const SORT_BEST_AT: usize = 4096;

/// How long a peer that began a refresh may take to end it.
const REFRESH_LIMIT: Duration = Duration::from_secs(360);

impl PeerSettings {
    fn view(&self) -> PeerView {
        PeerView { address: self.address, local_v4: self.local_v4.map(IpAddr::V4), local_v6: self.local_v6 }
    }

    fn target(&self, peer: PeerId, negotiated: &Negotiated) -> Target {
        Target {
            peer,
            kind: negotiated.kind,
            asn: negotiated.peer_asn,
            local_asn: self.local_asn,
            router_id: negotiated.peer_id,
            client: self.client,
            address: self.address,
            local_v4: self.local_v4,
            local_v6: self.local_v6,
            shared: self.shared.clone(),
            families: negotiated.families.clone(),
            extended_next_hop: negotiated.extended_next_hop,
            next_hop_self: self.next_hop_self,
            next_hop_unchanged: self.next_hop_unchanged,
            takes_own_as: false,
            long_lived: negotiated.long_lived.iter().map(|(family, _)| *family).collect(),
            four_octet_as: negotiated.four_octet_as,
            add_path: negotiated.add_path_send.clone(),
            max_message: negotiated.max_message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::bgp::rib::Settings;
    use crate::routing::bgp::types::{AsPath, Origin, PeerKind, PeerRestart};
    use crate::routing::bgp::wire;

    const NOW: Duration = Duration::from_secs(1);

    fn hub() -> Hub {
        let router_id = Ipv4Addr::new(192, 0, 2, 1);
        let own = RibSettings { asn: Asn(64512), router_id, cluster_id: router_id, decision: Settings::default() };
        Hub::new(own, PolicySet::default())
    }

    fn settings(n: u8) -> PeerSettings {
        PeerSettings::new(IpAddr::from([192, 0, 2, n]), Asn(64512), Ipv4Addr::new(192, 0, 2, 1))
    }

    fn negotiated(n: u8) -> Negotiated {
        Negotiated {
            peer_asn: Asn(65000 + u32::from(n)),
            peer_id: Ipv4Addr::new(192, 0, 2, n),
            kind: PeerKind::External,
            hold_time: 90,
            four_octet_as: true,
            families: vec![Family::V4],
            add_path_receive: Vec::new(),
            add_path_send: Vec::new(),
            extended_next_hop: false,
            max_message: 4096,
            route_refresh: true,
            enhanced_refresh: false,
            graceful_restart: None,
            long_lived: Vec::new(),
        }
    }

    fn restarting(n: u8) -> Negotiated {
        let families = vec![(Family::V4, true)];
        let restart = PeerRestart { restart_time: 120, families, ..PeerRestart::default() };
        Negotiated { graceful_restart: Some(restart), ..negotiated(n) }
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn route(n: u8, prefixes: &[&str]) -> Update {
        let next_hop = IpAddr::from([192, 0, 2, n]).into();
        let as_path: AsPath = [Asn(65000 + u32::from(n))].into_iter().collect();
        let attributes = Attributes::new(Origin::Igp, as_path, next_hop);
        let nlri = prefixes.iter().map(|text| Nlri::new(prefix(text))).collect();
        let reach = vec![wire::Reach { attributes, nlri }];
        Update { reach, withdrawn: Vec::new(), end_of_rib: None, faults: Vec::new() }
    }

    /// What the peer would read of everything that waits for it.
    fn heard(hub: &mut Hub, peer: PeerId, session: &Negotiated) -> Vec<Update> {
        let mut updates = Vec::new();
        while let Some((_, bytes)) = hub.take(peer, 4096) {
            let mut rest = bytes.as_slice();
            while let Some(length) = wire::frame(rest, wire::MAX).expect("whole messages") {
                let (message, tail) = rest.split_at(length);
                rest = tail;
                match wire::decode(message, Some(session)).expect("readable") {
                    wire::Message::Update(update) => updates.push(update),
                    other => panic!("expected an UPDATE, got {other:?}"),
                }
            }
        }
        updates
    }

    /// A route of the first peer travels to the second.
    fn two_peers(first: Negotiated) -> Hub {
        let mut hub = hub();
        for n in [2, 3] {
            hub.add_peer(PeerId(n.into()), settings(n));
        }
        hub.up(PeerId(2), 1, first);
        hub.up(PeerId(3), 1, negotiated(3));
        hub
    }

    #[test]
    fn a_route_goes_from_peer_to_peer_with_our_as_in_front() {
        let mut hub = two_peers(negotiated(2));
        assert_eq!(heard(&mut hub, PeerId(3), &negotiated(3)).len(), 1, "the End-of-RIB");
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
        let updates = heard(&mut hub, PeerId(3), &negotiated(3));
        let reach = &updates[0].reach[0];
        assert_eq!(reach.nlri.len(), 2);
        assert_eq!(reach.attributes.as_path.to_string(), "64512 65002");
        assert_eq!(reach.attributes.next_hop.address, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(hub.take_best_changes().len(), 2);
        assert!(heard(&mut hub, PeerId(2), &negotiated(2)).iter().all(|update| update.reach.is_empty()));
    }

    #[test]
    fn a_peer_becomes_a_client_and_stops_being_one_without_a_new_session() {
        let internal = |n| Negotiated { peer_asn: Asn(64512), kind: PeerKind::Internal, ..negotiated(n) };
        let mut hub = hub();
        for n in [2, 3] {
            hub.add_peer(PeerId(n.into()), settings(n));
            hub.up(PeerId(n.into()), 1, internal(n));
        }
        let mut update = route(2, &["10.1.0.0/24"]);
        update.reach[0].attributes.as_path = AsPath::empty();
        update.reach[0].attributes.local_pref = Some(100);
        hub.updates(PeerId(2), vec![update], NOW);
        let told = |hub: &mut Hub| heard(hub, PeerId(3), &internal(3));
        assert!(told(&mut hub).iter().all(|update| update.reach.is_empty()), "nothing passes between internal peers");
        hub.set_peer(PeerId(2), PeerSettings { client: true, ..settings(2) });
        assert!(told(&mut hub).iter().any(|update| !update.reach.is_empty()), "a client's routes do");
        hub.set_peer(PeerId(2), settings(2));
        assert!(told(&mut hub).iter().any(|update| !update.withdrawn.is_empty()), "and are taken back");
        hub.set_peer(PeerId(3), PeerSettings { client: true, ..settings(3) });
        assert!(told(&mut hub).iter().any(|update| !update.reach.is_empty()), "a client hears everybody's");
        hub.set_peer(PeerId(3), settings(3));
        assert!(told(&mut hub).iter().any(|update| !update.withdrawn.is_empty()), "until it is none");
    }

    #[test]
    fn a_peer_that_comes_late_hears_everything_and_then_the_end() {
        let mut hub = hub();
        hub.add_peer(PeerId(3), settings(3));
        let attributes = Attributes::new(Origin::Igp, AsPath::empty(), IpAddr::from([192, 0, 2, 1]).into());
        hub.announce(vec![(prefix("10.244.1.0/24"), vec![attributes])], NOW);
        hub.up(PeerId(3), 7, negotiated(3));
        let updates = heard(&mut hub, PeerId(3), &negotiated(3));
        assert_eq!(updates[0].reach[0].nlri, [Nlri::new(prefix("10.244.1.0/24"))]);
        assert_eq!(updates[1].end_of_rib, Some(Family::V4));
    }

    #[test]
    fn a_malformed_attribute_takes_down_its_routes_and_no_others() {
        let mut hub = two_peers(negotiated(2));
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
        heard(&mut hub, PeerId(3), &negotiated(3));
        let attributes = [&[0x40, 1, 1, 9][..], &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea], &[0x40, 3, 4, 192, 0, 2, 2]];
        let attributes = attributes.concat();
        let mut message = vec![0xff; 16];
        message.extend([0, u8::try_from(23 + attributes.len() + 4).expect("short"), 2, 0, 0, 0]);
        message.push(u8::try_from(attributes.len()).expect("short"));
        message.extend(&attributes);
        message.extend([24, 10, 1, 0]);
        let Ok(wire::Message::Update(update)) = wire::decode(&message, Some(&negotiated(2))) else {
            panic!("the session must go on");
        };
        hub.updates(PeerId(2), vec![update], NOW);
        let updates = heard(&mut hub, PeerId(3), &negotiated(3));
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.1.0.0/24"))]);
        assert_eq!(hub.n_told(PeerId(3), Family::V4), 1);
    }

    #[test]
    fn a_session_that_ends_takes_its_routes_along() {
        let mut hub = two_peers(negotiated(2));
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
        heard(&mut hub, PeerId(3), &negotiated(3));
        hub.down(PeerId(2), true, NOW);
        let updates = heard(&mut hub, PeerId(3), &negotiated(3));
        assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.1.0.0/24"))]);
    }

    #[test]
    fn a_restarting_peer_keeps_its_routes_until_its_time_is_over() {
        let mut hub = two_peers(restarting(2));
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
        heard(&mut hub, PeerId(3), &negotiated(3));
        hub.down(PeerId(2), true, NOW);
        assert!(hub.take(PeerId(3), 4096).is_none());
        let until = hub.deadline().expect("a restart time");
        assert_eq!(until, NOW + Duration::from_secs(120));
        hub.expire(until);
        assert_eq!(heard(&mut hub, PeerId(3), &negotiated(3))[0].withdrawn.len(), 1);
        assert_eq!(hub.deadline(), None);
    }

    #[test]
    fn a_restarted_peer_loses_only_what_it_no_longer_has() {
        let mut hub = two_peers(restarting(2));
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
        heard(&mut hub, PeerId(3), &negotiated(3));
        hub.down(PeerId(2), true, NOW);
        hub.up(PeerId(2), 2, restarting(2));
        let end = Update { end_of_rib: Some(Family::V4), ..Update { reach: Vec::new(), ..route(2, &[]) } };
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"]), end], NOW);
        let updates = heard(&mut hub, PeerId(3), &negotiated(3));
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.2.0.0/24"))]);
    }

    #[test]
    fn with_add_path_a_peer_hears_of_every_path_and_of_each_that_goes() {
        let mut hub = hub();
        for n in [2, 3, 4] {
            hub.add_peer(PeerId(n.into()), settings(n));
        }
        let all = Negotiated { add_path_send: vec![Family::V4], add_path_receive: Vec::new(), ..negotiated(4) };
        let as_received = Negotiated { add_path_receive: vec![Family::V4], ..negotiated(4) };
        hub.up(PeerId(2), 1, negotiated(2));
        hub.up(PeerId(3), 1, negotiated(3));
        hub.up(PeerId(4), 1, all);
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
        hub.updates(PeerId(3), vec![route(3, &["10.1.0.0/24"])], NOW);
        let told = heard(&mut hub, PeerId(4), &as_received);
        let ids: BTreeSet<u32> = told
            .iter()
            .flat_map(|update| &update.reach)
            .flat_map(|reach| &reach.nlri)
            .map(|nlri| nlri.path_id)
            .collect();
        assert_eq!(ids.len(), 2, "{told:?}");
        hub.down(PeerId(2), false, NOW);
        let told = heard(&mut hub, PeerId(4), &as_received);
        assert_eq!(told.iter().map(|update| update.withdrawn.len()).sum::<usize>(), 1, "{told:?}");
    }
}
