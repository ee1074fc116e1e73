//! Policies and peers' settings change while routes are there: what must be judged again, and who is told again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Hub, PeerSettings};
use crate::net::{Family, Prefix};
use crate::routing::bgp::policy::{
    Assignment, Class, Direction, PeerPolicy, PolicySet, PrefixRange, RouteType, Verdict,
};
use crate::routing::bgp::rib::{Path, PeerInfo};
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::types::{Nlri, PeerId, family_of};

impl Hub {
    /// Every peer is told to forget all it heard from us: we leave.
    pub fn withdraw_everything(&mut self) {
        let mut policies = self.policies.clone();
        policies.export = Assignment { policies: Vec::new(), default: Verdict::Reject };
        policies.peers.values_mut().for_each(|own| own.export = None);
        self.set_policies(policies);
    }

    /// Policies are others: every route is judged again, and only differences go out.
    pub fn set_policies(&mut self, policies: PolicySet) {
        if self.policies == policies {
            return;
        }
        self.prefix_sets.replace(&policies.sets);
        self.policies = policies;
        self.rejudge_all();
    }

    fn rejudge_all(&mut self) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        let retold: Vec<PeerId> = peers.into_iter().filter(|peer| self.rejudge(*peer)).collect();
        self.spread();
        retold.into_iter().for_each(|peer| self.retell(peer));
    }

    /// Packets get to no next hop in these networks now.
    pub fn lose_networks(&mut self, networks: BTreeSet<Prefix>) {
        self.rib.lose_networks(networks, &mut self.changes);
        self.spread();
    }

    /// The policies in force.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// Members of a prefix set come and go. Only routes they cover are judged again.
    pub fn edit_prefix_set(&mut self, set: &str, add: &[PrefixRange], remove: &[PrefixRange]) {
        let ranges = self.policies.edit_prefix_set(set, add, remove);
        if ranges.is_empty() {
            return;
        }
        // Statements about a set that was not there are left out of peers' policies.
        let is_new = self.prefix_sets.get(set).is_none();
        let ready = self.prefix_sets.edit(set, add, remove);
        if is_new {
            self.rejudge_all();
            return;
        }
        let prefixes = self.covered(&ranges);
        for entry in self.peers.values_mut() {
            entry.import.replace_prefix_set(set, &ready);
        }
        self.groups.replace_prefix_set(set, &ready);
        for prefix in &prefixes {
            self.reimport(*prefix);
        }
        self.spread();
        for prefix in prefixes {
            self.tell(prefix, true);
        }
        self.groups.settle();
    }

    /// A peer is to be treated otherwise. Its session goes on.
    pub fn set_peer(&mut self, peer: PeerId, settings: PeerSettings) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.settings == settings {
            return;
        }
        entry.settings = settings;
        let client = entry.settings.client;
        let info = self.rib.peer(peer).copied().filter(|info| info.client != client);
        let retold = self.rejudge(peer);
        self.spread();
        if let Some(info) = info {
            // Whose routes pass to whom depends on who is a client: its routes are told, or taken back, as they are.
            self.rib.add_peer(peer, PeerInfo { client, ..info }, &mut self.changes);
            self.spread();
            let of_peer =
                |(prefix, paths): (Prefix, &[Path])| paths.iter().any(|path| path.peer == peer).then_some(prefix);
            let prefixes: Vec<Prefix> =
                Family::ALL.into_iter().flat_map(|family| self.rib.unsorted(family).filter_map(of_peer)).collect();
            prefixes.into_iter().for_each(|prefix| self.tell(prefix, true));
            self.groups.settle();
        }
        if retold {
            self.retell(peer);
        }
    }

    /// Judges a peer's routes by the policies and settings in force. Whether it must be told all routes again.
    fn rejudge(&mut self, peer: PeerId) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else { return false };
        let import = self.policies.prepare_with(&self.prefix_sets, Direction::Import, &entry.settings.view());
        if entry.import != import {
            entry.import = import;
            if let Some(kind) = self.rib.peer(peer).map(|info| info.kind.into()) {
                let policy = &entry.import;
                self.rib.reimport(peer, &mut self.changes, |nlri, received| accepted(policy, nlri, kind, received));
            }
        }
        let Some(live) = &entry.live else { return false };
        let target = entry.settings.target(peer, &live.negotiated);
        let export = self.policies.prepare_with(&self.prefix_sets, Direction::Export, &target.view());
        self.groups.update(target, export)
    }

    fn retell(&mut self, peer: PeerId) {
        let families = self.session(peer).map(|session| session.families.clone()).unwrap_or_default();
        self.tell_all(peer, &families);
    }

    /// Judges every peer's routes to one prefix again.
    fn reimport(&mut self, prefix: Prefix) {
        let Hub { rib, peers, changes, .. } = self;
        let kinds: BTreeMap<PeerId, RouteType> =
            peers.keys().filter_map(|peer| Some((*peer, rib.peer(*peer)?.kind.into()))).collect();
        rib.reimport_prefix(prefix, changes, |peer, nlri, received| {
            accepted(&peers.get(&peer)?.import, nlri, *kinds.get(&peer)?, received)
        });
    }

    /// Prefixes with routes that one of these ranges matches, in order.
    fn covered(&self, ranges: &[PrefixRange]) -> Vec<Prefix> {
        let mut prefixes = BTreeSet::new();
        for range in ranges {
            let length = range.prefix.prefix_len();
            if range.min == length && range.max == length {
                prefixes.extend(Some(range.prefix.trunc()).filter(|prefix| !self.rib.paths(prefix).is_empty()));
            } else {
                let all = self.rib.iterate(family_of(&range.prefix)).map(|(prefix, _)| prefix);
                prefixes.extend(all.filter(|prefix| range.matches(prefix)));
            }
        }
        prefixes.into_iter().collect()
    }
}

/// What import policy makes of routes with common attributes: it is asked once for all prefixes of a class. `judged`
/// hears of runs of routes that fare alike.
pub(super) fn judge_alike(
    policy: &PeerPolicy,
    kind: RouteType,
    received: &Shared,
    nlri: &[Nlri],
    mut judged: impl FnMut(&[Nlri], Option<Shared>),
) {
    let mut known: Vec<(Class, Option<Shared>)> = Vec::new();
    let mut rest = nlri;
    while let Some(first) = rest.first() {
        let class = policy.class(&first.prefix);
        let alike = rest.iter().skip(1).take_while(|nlri| class.is_some() && policy.class(&nlri.prefix) == class);
        let (now, later) = rest.split_at((1 + alike.count()).min(rest.len()));
        rest = later;
        let before = known.iter().find(|(other, _)| Some(*other) == class);
        let result = before.map_or_else(|| accepted(policy, first, kind, received), |(_, result)| result.clone());
        if before.is_none() && !rest.is_empty() {
            known.extend(class.map(|class| (class, result.clone())));
        }
        judged(now, result);
    }
}

/// What import policy makes of a route.
fn accepted(policy: &PeerPolicy, nlri: &Nlri, kind: RouteType, received: &Shared) -> Option<Shared> {
    Some(match policy.evaluate(&nlri.prefix, kind, received, received.next_hop)? {
        Cow::Borrowed(_) => received.clone(),
        Cow::Owned(changed) => changed.into(),
    })
}
