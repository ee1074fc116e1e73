//! All paths to one prefix, in order of preference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::decision::{self, Candidate, PeerInfo, Reason, Settings};
use super::super::shared::Shared;
use super::super::types::PeerId;
use super::{Changes, Filtered, Path};
use crate::net::Prefix;

/// The paths of a prefix, best first. Nearly always there is one, and it lies in the table itself.
#[derive(Debug)]
pub(super) enum Paths {
    /// The usual case.
    One(Path),
    /// Two or more; none only while it is worked on.
    Many(Vec<Path>),
}

impl Default for Paths {
    fn default() -> Paths {
        Paths::Many(Vec::new())
    }
}

/// A path that is used: whose it is, and what it says.
type Lead = (PeerId, u32, Shared);

impl Paths {
    pub(super) fn as_slice(&self) -> &[Path] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(super) fn find_mut(&mut self, peer: PeerId, remote_id: u32) -> Option<&mut Path> {
        let paths = match self {
            Paths::One(path) => std::slice::from_mut(path),
            Paths::Many(paths) => paths,
        };
        paths.iter_mut().find(|path| path.peer == peer && path.remote_id == remote_id)
    }

    /// Adds a path with the lowest free identifier of ours.
    pub(super) fn add(&mut self, mut path: Path) {
        let taken: BTreeSet<u32> = self.as_slice().iter().map(|path| path.local_id).collect();
        path.local_id = (1..).find(|id| !taken.contains(id)).unwrap_or_default();
        *self = match std::mem::take(self) {
            Paths::One(first) => Paths::Many(vec![first, path]),
            Paths::Many(paths) if paths.is_empty() => Paths::One(path),
            Paths::Many(mut paths) => {
                paths.push(path);
                Paths::Many(paths)
            }
        };
    }

    /// Keeps those that `keep` says true for.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut Path) -> bool) {
        match self {
            Paths::One(path) => {
                if !keep(path) {
                    *self = Paths::default();
                }
            }
            Paths::Many(paths) => {
                paths.retain_mut(keep);
                if paths.len() == 1
                    && let Some(last) = paths.pop()
                {
                    *self = Paths::One(last);
                }
            }
        }
    }

    /// The best path, where one is eligible.
    pub(super) fn best(&self) -> Option<&Path> {
        self.as_slice().first().filter(|path| path.leads)
    }

    /// What the rest of the router sees of this prefix.
    pub(super) fn lead(&self) -> Vec<Lead> {
        let leading = self.as_slice().iter().take_while(|path| path.leads);
        leading.map(|path| (path.peer, path.remote_id, path.attributes.clone())).collect()
    }
}

/// What decides among paths.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) settings: Settings,
    pub(super) peers: BTreeMap<PeerId, PeerInfo>,
    /// Networks whose addresses no packet gets to.
    pub(super) lost: BTreeSet<Prefix>,
}

impl Judge {
    /// Brings paths that were worked on into order again, and notes the prefix if that matters to others.
    pub(super) fn settle(&self, prefix: Prefix, paths: &mut Paths, before: &[Lead], changes: &mut Changes) {
        match paths {
            Paths::One(path) => {
                step_back(std::slice::from_mut(path));
                path.leads = self.eligible(path);
            }
            Paths::Many(paths) => {
                step_back(paths);
                self.sort(paths);
            }
        }
        changes.note(prefix, paths.lead() != before);
    }

    /// For each path why it is not the best.
    pub(super) fn explain<'a>(&self, paths: &'a [Path]) -> Vec<(&'a Path, Option<Reason>)> {
        let candidates: Vec<Candidate<'_>> = paths.iter().map(|path| self.candidate(path)).collect();
        paths.iter().zip(decision::explain(&candidates, &self.settings)).collect()
    }

    fn sort(&self, paths: &mut Vec<Path>) {
        let candidates: Vec<Candidate<'_>> = paths.iter().map(|path| self.candidate(path)).collect();
        let ranking = decision::rank(&candidates, &self.settings);
        let mut places = vec![0; ranking.order.len()];
        for (place, at) in ranking.order.into_iter().enumerate() {
            if let Some(slot) = places.get_mut(at) {
                *slot = place;
            }
        }
        let mut placed: Vec<(usize, Path)> = places.into_iter().zip(paths.drain(..)).collect();
        placed.sort_by_key(|(place, _)| *place);
        paths.extend(placed.into_iter().map(|(place, path)| Path { leads: place < ranking.leading, ..path }));
    }

    fn candidate<'a>(&'a self, path: &'a Path) -> Candidate<'a> {
        Candidate {
            attributes: &path.attributes,
            peer: self.peers.get(&path.peer),
            path_id: path.remote_id,
            learned: path.learned(),
            eligible: self.eligible(path),
        }
    }

    pub(super) fn eligible(&self, path: &Path) -> bool {
        path.peer == PeerId::LOCAL || path.filtered.is_none() && self.reaches(path.attributes.next_hop.address)
    }

    pub(super) fn reaches(&self, next_hop: IpAddr) -> bool {
        !self.lost.iter().any(|network| network.contains(&next_hop))
    }
}

/// Paths added through the API are there only where the daemon has none of its own.
fn step_back(paths: &mut [Path]) {
    let own = paths.iter().any(|path| path.peer == PeerId::LOCAL);
    for path in paths.iter_mut().filter(|path| path.peer == PeerId::API) {
        path.filtered = own.then_some(Filtered::Yields);
    }
}
