//! What changed in the RIB on its way to peers' queues, and from there to whoever writes.

use super::Hub;
use crate::net::{Family, Prefix};
use crate::routing::bgp::output::{Offer, Own, Source};
use crate::routing::bgp::rib::{Path, Rib};
use crate::routing::bgp::types::{PeerId, family_of};

/// So few prefixes may be named twice, nobody minds.
pub(super) const SORT_BEST_AT: usize = 4096;

impl Hub {
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
        if !changed.is_sorted_by(|one, other| one < other) {
            changed.sort_unstable();
            changed.dedup();
        }
        changed
    }

    /// Tells one peer everything it may know.
    pub(super) fn tell_all(&mut self, peer: PeerId, families: &[Family]) {
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
    pub(super) fn spread(&mut self) {
        let changes = self.changes.take_with_gone();
        self.best_changed.extend(changes.iter().filter(|(change, _)| change.best).map(|(change, _)| change.prefix));
        for run in changes.chunk_by(|(_, one), (_, other)| one == other) {
            if run.first().is_some_and(|(_, gone)| *gone) {
                self.groups.tell_gone(run.iter().map(|(change, _)| *change));
            } else {
                run.iter().for_each(|(change, _)| self.tell(change.prefix, change.best));
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
    pub(super) fn tell(&mut self, prefix: Prefix, best: bool) {
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
