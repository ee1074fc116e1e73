//! Routes that start here, and settings that change while routes are there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::shared::Shared;
use super::super::types::{Nlri, PeerId, family_of};
use super::{Changes, Rib, RibSettings};
use crate::net::{Family, Prefix};

impl Rib {
    /// All paths to a prefix that start here, in the stead of those there were. One that stays keeps its identifier, so
    /// that a peer with ADD-PATH hears of the others only.
    pub fn originate_paths(&mut self, prefix: Prefix, paths: Vec<Shared>, now: Duration, changes: &mut Changes) {
        let before: Vec<(u32, Shared)> = self
            .paths(&prefix)
            .iter()
            .filter(|path| path.peer == PeerId::LOCAL)
            .map(|path| (path.remote_id, path.attributes.clone()))
            .collect();
        let mut taken = BTreeSet::new();
        let mut new: Vec<Shared> = Vec::new();
        for attributes in paths {
            match before.iter().find(|(_, old)| *old == attributes) {
                Some((id, _)) => {
                    taken.insert(*id);
                }
                None if !new.contains(&attributes) => new.push(attributes),
                None => {}
            }
        }
        // A new path takes the place of one that goes, so that the prefix never lacks one.
        let mut free = (0..).filter(|id| !taken.contains(id));
        let mut put = BTreeSet::new();
        for (attributes, id) in new.into_iter().zip(&mut free) {
            put.insert(id);
            self.put_all(PeerId::LOCAL, attributes.into(), None, &[Nlri { prefix, path_id: id }], now, changes);
        }
        let gone = before.iter().map(|(id, _)| *id).filter(|id| !taken.contains(id) && !put.contains(id));
        let gone: Vec<Nlri> = gone.map(|path_id| Nlri { prefix, path_id }).collect();
        self.withdraw(PeerId::LOCAL, &gone, changes);
    }

    /// A path that starts here because somebody asked for it, beside what the daemon itself announces.
    pub fn inject(&mut self, nlri: Nlri, attributes: Shared, now: Duration, changes: &mut Changes) {
        self.put_all(PeerId::API, attributes.into(), None, &[nlri], now, changes);
    }

    /// Import policies are others as far as one prefix goes: `policy` says for every route to it what is accepted now.
    pub fn reimport_prefix(
        &mut self,
        prefix: Prefix,
        changes: &mut Changes,
        mut policy: impl FnMut(PeerId, &Nlri, &Shared) -> Option<Shared>,
    ) {
        let family = family_of(&prefix);
        let Rib { own, judge, table, pool, standings, .. } = self;
        let Some(paths) = table.get_mut(&prefix) else { return };
        let before = paths.lead();
        paths.retain(|path| {
            if !path.peer.is_own() {
                let standing = standings.entry((path.peer, family)).or_default();
                standing.count(path, -1);
                let accepted = policy(path.peer, &Nlri { prefix, path_id: path.remote_id }, path.received());
                let local_asn = judge.peers.get(&path.peer).map_or(own.asn, |info| info.local_asn);
                path.judge(own, local_asn, standing.epoch, accepted, pool);
                standing.count(path, 1);
            }
            true
        });
        judge.settle(prefix, paths, &before, changes);
    }

    /// Who we are and how to choose is another. Routes that are there are ranked again; that one of them loops is only
    /// seen when it comes again.
    pub fn set_own(&mut self, own: RibSettings, changes: &mut Changes) {
        let ranks_differently = self.own.decision != own.decision;
        self.own = own;
        self.judge.settings = own.decision;
        if ranks_differently {
            for family in Family::ALL {
                self.walk(family, changes, |_| true, |_, _, _| true);
            }
        }
    }
}
