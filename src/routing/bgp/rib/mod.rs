//! The routing tables of the speaker (RFC 4271 3.2): every peer's Adj-RIB-In and the Loc-RIB in one, as paths that
//! lie with their prefix in order of preference.
//!
//! Promises: results do not depend on the order in which routes came; [`Changes`] names every prefix whose used paths
//! are no longer the same. One owner, no locks. Must not know sessions, encoding, or policy.

mod attributes;
mod destination;
mod local;
mod stale;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use self::attributes::Pool;
use self::destination::{Judge, Paths};
use self::stale::Standing;
use self::table::{Found, Table};
pub use super::decision::{PeerInfo, Reason, Settings};
use super::shared::Shared;
use super::types::{Attributes, Nlri, PeerId, family_of};
use crate::net::{Asn, Family, Prefix};

/// Who we are, as far as loops and preference need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RibSettings {
    /// Our AS.
    pub asn: Asn,
    /// Our identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster as route reflector (RFC 4456).
    pub cluster_id: Ipv4Addr,
    /// How to choose.
    pub decision: Settings,
}

/// Why a path is kept but never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtered {
    /// Our AS is on its AS_PATH.
    AsLoop,
    /// We are its originator (RFC 4456).
    OriginatorLoop,
    /// It has been through our cluster (RFC 4456).
    ClusterLoop,
    /// Import policy rejected it.
    Policy,
    /// It was added through the API, and the daemon itself announces the prefix.
    Yields,
}

impl fmt::Display for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Filtered::AsLoop => "own AS on AS_PATH",
            Filtered::OriginatorLoop => "own ORIGINATOR_ID",
            Filtered::ClusterLoop => "own cluster on CLUSTER_LIST",
            Filtered::Policy => "rejected by import policy",
            Filtered::Yields => "added by hand to a prefix that the daemon announces itself",
        })
    }
}

/// One path to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Whom it came from; [`PeerId::LOCAL`] for our own.
    pub peer: PeerId,
    /// The path identifier it came with.
    pub remote_id: u32,
    /// Our path identifier for it, unique within the prefix, for sending with ADD-PATH.
    pub local_id: u32,
    /// Attributes after import policy.
    pub attributes: Shared,
    /// Attributes as received, where import policy changed them.
    original: Option<Shared>,
    /// When it came or changed last, in tenths of a second.
    learned: u32,
    /// The peer's epoch it was last heard in; older than the peer's own: stale.
    epoch: u32,
    /// Why it is not used, where it never can be.
    pub filtered: Option<Filtered>,
    /// It is the best path, or used beside it.
    leads: bool,
}

/// There may be a path for each of a hundred thousand prefixes, so every octet counts.
const _: () = assert!(size_of::<Path>() <= 40);

impl Path {
    /// The attributes before import policy.
    pub fn received(&self) -> &Shared {
        self.original.as_ref().unwrap_or(&self.attributes)
    }

    /// When it came or changed last, since daemon start.
    pub fn learned(&self) -> Duration {
        Duration::from_millis(u64::from(self.learned) * 100)
    }

    /// Whether it is in use: the best path or, with multipath, one of the best.
    pub fn in_use(&self) -> bool {
        self.leads
    }
}

/// What import policy made of received attributes.
#[derive(Clone, Debug)]
pub struct Offer {
    /// As received.
    pub received: Shared,
    /// As accepted; `None` if rejected.
    pub accepted: Option<Shared>,
}

impl From<Shared> for Offer {
    /// Accepted as it came.
    fn from(received: Shared) -> Offer {
        Offer { accepted: Some(received.clone()), received }
    }
}

/// Routes of one peer in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// All it sent.
    pub received: u32,
    /// Those that may be used.
    pub accepted: u32,
    /// Those kept from before a restart of the peer.
    pub stale: u32,
}

/// One changed prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The prefix.
    pub prefix: Prefix,
    /// The best path or the multipath set is another; else only paths that are not used changed, which matters where
    /// ADD-PATH sends them all.
    pub best: bool,
}

/// The prefixes that a series of calls changed, each with whether its last path went.
#[derive(Clone, Debug, Default)]
pub struct Changes(Vec<(Change, bool)>);

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all, each prefix once, in order.
    pub fn take(&mut self) -> Vec<Change> {
        self.take_with_gone().into_iter().map(|(change, _)| change).collect()
    }

    /// The same, with whether it is known that a prefix has no path any more.
    pub(super) fn take_with_gone(&mut self) -> Vec<(Change, bool)> {
        let mut all = std::mem::take(&mut self.0);
        // Peers mostly send in order, and each prefix once.
        if all.is_sorted_by(|(one, _), (other, _)| one.prefix < other.prefix) {
            return all;
        }
        all.sort_unstable_by_key(|(change, _)| change.prefix);
        all.dedup_by(|(again, gone_again), (first, gone)| {
            let same = again.prefix == first.prefix;
            if same {
                first.best |= again.best;
                // Gone and back, in whichever order: not known.
                *gone &= *gone_again;
            }
            same
        });
        all
    }

    fn note(&mut self, prefix: Prefix, best: bool) {
        match self.0.last_mut() {
            Some((last, gone)) if last.prefix == prefix => {
                last.best |= best;
                *gone = false;
            }
            _ => self.0.push((Change { prefix, best }, false)),
        }
    }

    fn note_gone(&mut self, prefix: Prefix, best: bool) {
        self.0.push((Change { prefix, best }, true));
    }
}

/// All routes.
#[derive(Debug)]
pub struct Rib {
    own: RibSettings,
    judge: Judge,
    table: Table,
    pool: Pool,
    standings: BTreeMap<(PeerId, Family), Standing>,
}

impl Rib {
    /// An empty one.
    pub fn new(own: RibSettings) -> Rib {
        Rib {
            own,
            judge: Judge { settings: own.decision, peers: BTreeMap::new(), lost: BTreeSet::new() },
            table: Table::default(),
            pool: Pool::default(),
            standings: BTreeMap::new(),
        }
    }

    /// A session with this peer is up. What is kept of it from before its restart stays.
    pub fn add_peer(&mut self, peer: PeerId, info: PeerInfo, changes: &mut Changes) {
        let before = self.judge.peers.insert(peer, info);
        if before.is_some_and(|before| before != info) {
            for family in Family::ALL {
                self.walk(family, changes, |path| path.peer == peer, |_, _, _| true);
            }
        }
    }

    /// What the RIB knows of a peer.
    pub fn peer(&self, peer: PeerId) -> Option<&PeerInfo> {
        self.judge.peers.get(&peer)
    }

    /// The one shared value of these attributes.
    pub fn intern(&self, attributes: Attributes) -> Shared {
        self.pool.share(attributes)
    }

    /// How many different attribute sets the paths have.
    pub fn attribute_sets(&self) -> usize {
        self.pool.len()
    }

    /// Routes that a peer sent. Those of a peer never added are ignored.
    pub fn announce(
        &mut self,
        peer: PeerId,
        offer: impl Into<Offer>,
        nlri: &[Nlri],
        now: Duration,
        changes: &mut Changes,
    ) {
        if self.judge.peers.contains_key(&peer) {
            let offer = offer.into();
            let filtered = self.loops(peer, &offer.received);
            self.put_all(peer, offer, filtered, nlri, now, changes);
        }
    }

    /// Routes that a peer took back.
    pub fn withdraw(&mut self, peer: PeerId, nlri: &[Nlri], changes: &mut Changes) {
        for nlri in nlri.chunk_by(|a, b| family_of(&a.prefix) == family_of(&b.prefix)) {
            self.remove_all(peer, nlri, changes);
        }
        self.table.trim();
        self.pool.trim();
    }

    /// A route that starts here.
    pub fn originate(&mut self, prefix: Prefix, attributes: Shared, now: Duration, changes: &mut Changes) {
        self.put_all(PeerId::LOCAL, attributes.into(), None, &[Nlri::new(prefix)], now, changes);
    }

    /// Takes back a route that started here.
    pub fn withdraw_local(&mut self, prefix: Prefix, changes: &mut Changes) {
        self.withdraw(PeerId::LOCAL, &[Nlri::new(prefix)], changes);
    }

    /// Import policy is another: `policy` says for every route of the peer what is accepted now.
    pub fn reimport(
        &mut self,
        peer: PeerId,
        changes: &mut Changes,
        mut policy: impl FnMut(&Nlri, &Shared) -> Option<Shared>,
    ) {
        let (own, towards) = (self.own, self.local_asn(peer));
        for family in Family::ALL {
            let epoch = self.standings.get(&(peer, family)).map_or(0, |standing| standing.epoch);
            self.walk(
                family,
                changes,
                |path| path.peer == peer,
                |prefix, path, pool| {
                    let accepted = policy(&Nlri { prefix, path_id: path.remote_id }, path.received());
                    path.judge(&own, towards, epoch, accepted, pool);
                    true
                },
            );
        }
    }

    /// Packets get to no next hop in these networks; to all others they do. Paths through a lost one stay, but are not used.
    pub fn lose_networks(&mut self, networks: BTreeSet<Prefix>, changes: &mut Changes) {
        let moved: Vec<Prefix> = self.judge.lost.symmetric_difference(&networks).copied().collect();
        self.judge.lost = networks;
        if moved.is_empty() {
            return;
        }
        let concerns = |path: &Path| moved.iter().any(|network| network.contains(&path.attributes.next_hop.address));
        for family in Family::ALL {
            self.walk(family, changes, concerns, |_, _, _| true);
        }
    }

    /// The best path.
    pub fn best(&self, prefix: &Prefix) -> Option<&Path> {
        self.table.get(prefix)?.best()
    }

    /// All paths in order of preference, those that cannot be used last.
    pub fn paths(&self, prefix: &Prefix) -> &[Path] {
        self.table.get(prefix).map_or(&[], Paths::as_slice)
    }

    /// The paths in use, the best first.
    pub fn multipath(&self, prefix: &Prefix) -> impl Iterator<Item = &Path> {
        self.paths(prefix).iter().take_while(|path| path.leads)
    }

    /// All paths with why each is not the best; `None` for the best.
    pub fn explain(&self, prefix: &Prefix) -> Vec<(&Path, Option<Reason>)> {
        self.judge.explain(self.paths(prefix))
    }

    /// All prefixes in order with their paths in order of preference.
    pub fn iterate(&self, family: Family) -> impl Iterator<Item = (Prefix, &[Path])> {
        let mut all: Vec<(Prefix, &[Path])> = self.unsorted(family).collect();
        all.sort_unstable_by_key(|(prefix, _)| *prefix);
        all.into_iter()
    }

    /// Whether packets get to a path's next hop, as far as anybody said.
    pub fn is_reachable(&self, path: &Path) -> bool {
        path.peer == PeerId::LOCAL || self.judge.reaches(path.attributes.next_hop.address)
    }

    /// The same for whom the order does not matter.
    pub fn unsorted(&self, family: Family) -> impl Iterator<Item = (Prefix, &[Path])> {
        self.table.iter(family).map(|(prefix, paths)| (prefix, paths.as_slice()))
    }

    /// How many prefixes there are.
    pub fn prefixes(&self, family: Family) -> usize {
        self.table.len(family)
    }

    fn loops(&self, peer: PeerId, received: &Attributes) -> Option<Filtered> {
        looping(&self.own, self.local_asn(peer), received)
    }

    /// Our AS towards a peer.
    fn local_asn(&self, peer: PeerId) -> Asn {
        self.judge.peers.get(&peer).map_or(self.own.asn, |info| info.local_asn)
    }

    fn put_all(
        &mut self,
        peer: PeerId,
        offer: Offer,
        filtered: Option<Filtered>,
        nlri: &[Nlri],
        learned: Duration,
        changes: &mut Changes,
    ) {
        if nlri.is_empty() {
            return;
        }
        let users = u32::try_from(nlri.len()).unwrap_or(u32::MAX);
        let filtered = filtered.or(offer.accepted.is_none().then_some(Filtered::Policy));
        let Offer { received, accepted } = offer;
        let accepted = accepted.unwrap_or_else(|| received.clone());
        let unchanged = accepted == received;
        let original = (!unchanged).then(|| self.pool.hold(&received, users));
        let attributes = self.pool.hold(&accepted, users);
        let learned = u32::try_from(learned.as_millis() / 100).unwrap_or(u32::MAX);
        let template =
            Path { peer, remote_id: 0, local_id: 0, attributes, original, learned, epoch: 0, filtered, leads: false };
        // Routes come by family, nearly always of one.
        for nlri in nlri.chunk_by(|a, b| family_of(&a.prefix) == family_of(&b.prefix)) {
            self.put_family(&template, nlri, changes);
        }
    }

    /// Adds or replaces paths to prefixes of one family. Their attributes are held already.
    fn put_family(&mut self, template: &Path, nlri: &[Nlri], changes: &mut Changes) {
        let Some(family) = nlri.first().map(|nlri| family_of(&nlri.prefix)) else { return };
        let Rib { judge, table, pool, standings, .. } = self;
        let standing = standings.entry((template.peer, family)).or_default();
        let template = Path { epoch: standing.epoch, ..template.clone() };
        let eligible = judge.eligible(&template);
        for Nlri { prefix, path_id } in nlri.iter().copied() {
            let path = Path { remote_id: path_id, ..template.clone() };
            standing.count(&path, 1);
            let paths = table.slot(&prefix);
            match paths {
                // The only one, or in the place of the only one: no need to rank.
                Paths::Many(none) if none.is_empty() => {
                    changes.note(prefix, eligible);
                    *paths = Paths::One(Path { local_id: 1, leads: eligible, ..path });
                }
                Paths::One(old) if old.peer == path.peer && old.remote_id == path_id => {
                    standing.count(old, -1);
                    let same = old.says_the_same(&path);
                    if !same {
                        changes.note(prefix, old.leads != eligible || eligible && !old.attributes.is(&path.attributes));
                    }
                    let learned = if same { old.learned } else { path.learned };
                    let leads = if same { old.leads } else { eligible };
                    let old = std::mem::replace(old, Path { local_id: old.local_id, learned, leads, ..path });
                    old.release(pool, 1);
                }
                _ => {
                    let before = paths.lead();
                    if put_among(paths, path, standing, pool) {
                        judge.settle(prefix, paths, &before, changes);
                    }
                }
            }
        }
    }

    /// Takes away paths to prefixes of one family.
    fn remove_all(&mut self, peer: PeerId, nlri: &[Nlri], changes: &mut Changes) {
        let Some(family) = nlri.first().map(|nlri| family_of(&nlri.prefix)) else { return };
        let Rib { judge, table, pool, standings, .. } = self;
        let Some(standing) = standings.get_mut(&(peer, family)) else { return };
        // Routes that go together mostly have everything in common: their attributes are given up once for all of them.
        let mut alike: Option<(Path, u32)> = None;
        for Nlri { prefix, path_id } in nlri.iter().copied() {
            match table.take_only(&prefix, |path| path.peer == peer && path.remote_id == path_id) {
                Found::Only(path) => {
                    standing.count(&path, -1);
                    changes.note_gone(prefix, path.leads);
                    match &mut alike {
                        Some((like, n)) if like.says_the_same(&path) => *n += 1,
                        _ => alike.replace((path, 1)).into_iter().for_each(|(like, n)| like.release(pool, n)),
                    }
                }
                Found::Among(paths) => {
                    let Some(path) = paths.find_mut(peer, path_id) else { continue };
                    standing.count(path, -1);
                    path.release(pool, 1);
                    let before = paths.lead();
                    paths.retain(|path| path.peer != peer || path.remote_id != path_id);
                    judge.settle(prefix, paths, &before, changes);
                }
                Found::Nothing => {}
            }
        }
        alike.into_iter().for_each(|(like, n)| like.release(pool, n));
    }

    /// Goes over all paths that `concerns` is true for; `act` may change one, and says whether it stays.
    fn walk(
        &mut self,
        family: Family,
        changes: &mut Changes,
        concerns: impl Fn(&Path) -> bool,
        mut act: impl FnMut(Prefix, &mut Path, &mut Pool) -> bool,
    ) {
        let Rib { judge, table, pool, standings, .. } = self;
        table.retain(family, |prefix, paths| {
            if !paths.as_slice().iter().any(&concerns) {
                return true;
            }
            let before = paths.lead();
            paths.retain(|path| {
                if !concerns(path) {
                    return true;
                }
                let standing = standings.entry((path.peer, family)).or_default();
                standing.count(path, -1);
                let keep = act(prefix, path, pool);
                if keep {
                    standing.count(path, 1);
                } else {
                    path.release(pool, 1);
                }
                keep
            });
            judge.settle(prefix, paths, &before, changes);
            !paths.is_empty()
        });
        table.trim();
        pool.trim();
    }
}

/// Adds a path to others, or replaces the one it is a newer word about. Whether anything is different now.
fn put_among(paths: &mut Paths, mut path: Path, standing: &mut Standing, pool: &mut Pool) -> bool {
    let Some(slot) = paths.find_mut(path.peer, path.remote_id) else {
        paths.add(path);
        return true;
    };
    let same = slot.says_the_same(&path);
    path.local_id = slot.local_id;
    path.leads = slot.leads;
    if same {
        path.learned = slot.learned;
    }
    let old = std::mem::replace(slot, path);
    standing.count(&old, -1);
    old.release(pool, 1);
    !same
}

impl Path {
    fn says_the_same(&self, other: &Path) -> bool {
        // Both are from the pool, which has equal attributes once.
        let same = |a: &Shared, b: &Shared| a.is(b);
        let same_original = match (&self.original, &other.original) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        };
        same(&self.attributes, &other.attributes) && same_original && self.filtered == other.filtered
    }

    /// Import policy makes this of it now. `epoch` is the peer's, `local_asn` our AS towards it.
    fn judge(&mut self, own: &RibSettings, local_asn: Asn, epoch: u32, accepted: Option<Shared>, pool: &mut Pool) {
        let received = self.received().clone();
        let filtered = looping(own, local_asn, &received).or(accepted.is_none().then_some(Filtered::Policy));
        let accepted = accepted.unwrap_or(received);
        let long_lived = self.epoch != epoch && stale::is_long_lived(&self.attributes);
        let accepted = if long_lived { stale::long_lived(&accepted) } else { accepted };
        self.filtered = filtered;
        self.accept(accepted, pool);
    }

    /// Gives it other attributes after import policy.
    fn accept(&mut self, accepted: Shared, pool: &mut Pool) {
        let received = self.received().clone();
        let original = (accepted != received).then(|| pool.hold(&received, 1));
        let attributes = pool.hold(&accepted, 1);
        self.release(pool, 1);
        self.attributes = attributes;
        self.original = original;
    }

    /// Gives up the attributes of so many paths like this one.
    fn release(&self, pool: &mut Pool, times: u32) {
        pool.release(&self.attributes, times);
        if let Some(original) = &self.original {
            pool.release(original, times);
        }
    }
}

/// Whether a route has been here before. Towards the peer it came from we may have another AS than else (RFC 7705): a
/// route with that one on its path is ours come back as well.
fn looping(own: &RibSettings, local_asn: Asn, received: &Attributes) -> Option<Filtered> {
    let has = |asn| received.as_path.contains(asn);
    if has(own.asn) || (local_asn != own.asn && has(local_asn)) {
        Some(Filtered::AsLoop)
    } else if received.originator_id == Some(own.router_id) {
        Some(Filtered::OriginatorLoop)
    } else if received.cluster_list.contains(&own.cluster_id) {
        Some(Filtered::ClusterLoop)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
