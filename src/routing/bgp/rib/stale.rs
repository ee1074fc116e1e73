//! Routes of peers that restart (RFC 4724) or stay away for long (RFC 9494).
//!
//! A path remembers in which epoch of its peer it was heard. To mark all paths of a peer stale is to begin a new epoch.

use super::super::shared::Shared;
use super::super::types::{Attributes, PeerId, community};
use super::{Changes, Path, Rib, Stats};
use crate::net::Family;

/// How it stands with one peer in one family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) epoch: u32,
    stats: Stats,
}

impl Standing {
    /// Counts a path that came (1) or went (-1).
    pub(super) fn count(&mut self, path: &Path, by: i32) {
        let Stats { received, accepted, stale } = &mut self.stats;
        *received = received.saturating_add_signed(by);
        if path.filtered.is_none() {
            *accepted = accepted.saturating_add_signed(by);
        }
        if path.epoch != self.epoch {
            *stale = stale.saturating_add_signed(by);
        }
    }
}

impl Rib {
    /// How many routes a peer has here.
    pub fn stats(&self, peer: PeerId, family: Family) -> Stats {
        self.standings.get(&(peer, family)).map_or_else(Stats::default, |standing| standing.stats)
    }

    /// Whether a path to a prefix of this family is kept from before a restart of its peer.
    pub fn is_stale(&self, family: Family, path: &Path) -> bool {
        self.standings.get(&(path.peer, family)).is_some_and(|standing| standing.epoch != path.epoch)
    }

    /// The session is down, the routes stay as they are for now. Those that were stale already go: the peer restarted
    /// again before it had sent them anew (RFC 4724 4.2).
    pub fn mark_stale(&mut self, peer: PeerId, family: Family, changes: &mut Changes) {
        self.drop_stale(peer, family, changes);
        self.begin_epoch(peer, family);
    }

    /// The session is down again while routes from before it are the last resort. Those stay, unlike stale ones of a
    /// restart (RFC 9494 4.2), and what was told since joins them.
    pub fn stay_long_lived(&mut self, peer: PeerId, family: Family, changes: &mut Changes) {
        self.begin_epoch(peer, family);
        self.mark_long_lived(peer, family, changes);
    }

    /// All a peer has told is stale from now on.
    fn begin_epoch(&mut self, peer: PeerId, family: Family) {
        if let Some(standing) = self.standings.get_mut(&(peer, family)) {
            standing.epoch = standing.epoch.wrapping_add(1);
            standing.stats.stale = standing.stats.received;
        }
    }

    /// The restart time is over, but routes may stay for long as the last resort: they get LLGR_STALE, except those
    /// with NO_LLGR, which go (RFC 9494 4.2).
    pub fn mark_long_lived(&mut self, peer: PeerId, family: Family, changes: &mut Changes) {
        let Some(epoch) = self.epoch_with_stale(peer, family) else { return };
        self.walk(
            family,
            changes,
            |path| path.peer == peer && path.epoch != epoch,
            |_, path, pool| {
                if path.attributes.communities.contains(&community::NO_LLGR) {
                    return false;
                }
                path.accept(long_lived(&path.attributes), pool);
                true
            },
        );
    }

    /// The peer has sent all it has: what is still stale goes.
    pub fn end_of_rib(&mut self, peer: PeerId, family: Family, changes: &mut Changes) {
        self.drop_stale(peer, family, changes);
    }

    /// What is stale goes: its time is over.
    pub fn drop_stale(&mut self, peer: PeerId, family: Family, changes: &mut Changes) {
        if let Some(epoch) = self.epoch_with_stale(peer, family) {
            self.walk(family, changes, |path| path.peer == peer && path.epoch != epoch, |_, _, _| false);
        }
    }

    /// All routes of a peer in one family go.
    pub fn drop_family(&mut self, peer: PeerId, family: Family, changes: &mut Changes) {
        if self.stats(peer, family).received > 0 {
            self.walk(family, changes, |path| path.peer == peer, |_, _, _| false);
        }
    }

    /// All routes of a peer go, and the RIB forgets it.
    pub fn drop_peer(&mut self, peer: PeerId, changes: &mut Changes) {
        for family in Family::ALL {
            self.drop_family(peer, family, changes);
            self.standings.remove(&(peer, family));
        }
        self.judge.peers.remove(&peer);
    }

    /// The peer's epoch, if there is anything stale to do.
    fn epoch_with_stale(&self, peer: PeerId, family: Family) -> Option<u32> {
        let standing = self.standings.get(&(peer, family))?;
        (standing.stats.stale > 0).then_some(standing.epoch)
    }
}

/// Whether attributes mark a long-lived stale route.
pub(super) fn is_long_lived(attributes: &Attributes) -> bool {
    attributes.communities.contains(&community::LLGR_STALE)
}

/// The attributes with LLGR_STALE.
pub(super) fn long_lived(attributes: &Shared) -> Shared {
    match attributes.communities.binary_search(&community::LLGR_STALE) {
        Ok(_) => attributes.clone(),
        Err(at) => {
            let mut communities = attributes.communities.to_vec();
            communities.insert(at, community::LLGR_STALE);
            Attributes { communities: communities.into(), ..attributes.attributes().clone() }.into()
        }
    }
}
