//! The speaker's mind: what a session brought goes through import policy into the RIB, and what changed there through
//! export policy into every peer's queue. Pure: the tasks around it move bytes and tell the time.
//!
//! RFC 4271 section 9, RFC 4724 (graceful restart, receiving side), RFC 7313 (refresh), RFC 7911 (ADD-PATH).

mod judge;
mod settings;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::net::{Family, Prefix};
use crate::routing::bgp::output::{Groups, Mark, Own};
use crate::routing::bgp::policy::{Direction, PeerPolicy, PolicySet, PrefixSets};
use crate::routing::bgp::rib::{self, Changes, PeerInfo, Rib, RibSettings};
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::types::{Attributes, Negotiated, Nlri, PeerId};
use crate::routing::bgp::wire::{Refresh, Update};

pub use settings::PeerSettings;
use tell::SORT_BEST_AT;

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
    /// They are the last resort already.
    is_last_resort: bool,
}

impl Stale {
    /// Until then, and no longer.
    fn until(until: Duration) -> Stale {
        Stale { until, long_lived: Duration::ZERO, is_last_resort: false }
    }
}

/// An established session.
#[derive(Debug)]
struct Live {
    number: u64,
    negotiated: Negotiated,
    /// Families the peer has told all of.
    complete: BTreeSet<Family>,
    /// Families the peer tells again, between the marks of RFC 7313.
    refreshing: BTreeSet<Family>,
}

impl Live {
    fn new(number: u64, negotiated: Negotiated) -> Live {
        Live { number, negotiated, complete: BTreeSet::new(), refreshing: BTreeSet::new() }
    }

    /// Whether a mark of RFC 7313 begins a refresh: those before the End-of-RIB of a restart do not (section 4).
    fn begins_refresh(&mut self, family: Family) -> bool {
        let restarts = self.negotiated.graceful_restart.is_some() && !self.complete.contains(&family);
        self.negotiated.enhanced_refresh && !restarts && {
            self.refreshing.insert(family);
            true
        }
    }
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
    pub fn up(&mut self, peer: PeerId, number: u64, negotiated: Negotiated, now: Duration) {
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
        // Families the peer did not keep forwarding in while it was away (RFC 4724 4.2, of a last resort RFC 9494 4.2).
        for family in Family::ALL {
            let last_resort = entry.stale.get(&family).is_some_and(|stale| stale.is_last_resort);
            let says = if last_resort {
                negotiated.long_lived.iter().any(|(of, kept, _)| *of == family && *kept)
            } else {
                negotiated.graceful_restart.as_ref().is_some_and(|it| it.families.contains(&(family, true)))
            };
            let kept = says && negotiated.families.contains(&family);
            if !kept && entry.stale.remove(&family).is_some() {
                self.rib.drop_stale(peer, family, &mut self.changes);
            }
            // It is back within its restart time, which says nothing of how long telling its routes takes. The time of a
            // last resort goes on (RFC 9494 4.2).
            if let Some(stale) = entry.stale.get_mut(&family).filter(|stale| !stale.is_last_resort) {
                *stale = Stale::until(now.saturating_add(TELLING_AGAIN));
            }
        }
        let target = entry.settings.target(peer, &negotiated);
        let export = self.policies.prepare_with(&self.prefix_sets, Direction::Export, &target.view());
        let families = negotiated.families.clone();
        entry.live = Some(Live::new(number, negotiated));
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
        let Negotiated { graceful_restart, long_lived, .. } = live.negotiated;
        let restart = graceful_restart.filter(|_| keep_routes);
        for family in Family::ALL {
            let listed = restart.as_ref().filter(|restart| restart.families.iter().any(|(of, _)| *of == family));
            let long_lived = long_lived.iter().find(|(of, ..)| *of == family && restart.is_some());
            let long_lived = Duration::from_secs(long_lived.map_or(0, |(.., seconds)| (*seconds).into()));
            let last_resort = entry.stale.get(&family).is_some_and(|stale| stale.is_last_resort);
            if last_resort && !long_lived.is_zero() {
                // It was not back for long enough to tell all it has. The time of the last resort goes on.
                self.rib.stay_long_lived(peer, family, &mut self.changes);
            } else if listed.is_some() || !long_lived.is_zero() {
                self.rib.mark_stale(peer, family, &mut self.changes);
                // Of a family that only the long-lived capability lists the restart time is 0 (RFC 9494 4.2).
                let restart_time = listed.map_or(0, |restart| restart.restart_time);
                let until = now.saturating_add(Duration::from_secs(restart_time.into()));
                entry.stale.insert(family, Stale { long_lived, ..Stale::until(until) });
            } else {
                entry.stale.remove(&family);
                self.rib.drop_family(peer, family, &mut self.changes);
            }
        }
        self.expire(now);
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

    /// A peer's ROUTE-REFRESH. One about a family that was not agreed on is ignored (RFC 2918 4).
    pub fn refresh(&mut self, peer: PeerId, family: Family, kind: Refresh, now: Duration) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(live) = entry.live.as_mut().filter(|live| live.negotiated.families.contains(&family)) else { return };
        match kind {
            Refresh::Ask => self.groups.repeat(peer, family, live.negotiated.enhanced_refresh),
            // What does not come again until the end is gone (RFC 7313 4).
            Refresh::Begin => {
                if live.begins_refresh(family) {
                    self.rib.mark_stale(peer, family, &mut self.changes);
                    entry.stale.insert(family, Stale::until(now.saturating_add(TELLING_AGAIN)));
                }
            }
            Refresh::End => {
                if live.refreshing.remove(&family) && entry.stale.remove(&family).is_some() {
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

    /// Routes of a peer that are kept from before its restart go: nothing is forwarded by it any more.
    pub fn drop_stale(&mut self, peer: PeerId) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        for family in std::mem::take(&mut entry.stale).into_keys() {
            self.rib.drop_stale(peer, family, &mut self.changes);
        }
        self.spread();
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
                    entry.stale.insert(family, Stale { is_last_resort: true, ..Stale::until(until) });
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
}

/// How long a peer that is back from a restart, or that began a refresh, may take to tell all its routes again.
const TELLING_AGAIN: Duration = Duration::from_secs(360);
