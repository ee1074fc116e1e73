//! Policies and peers' settings change while routes are there: what must be judged again, and who is told again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Hub, PeerSettings};
use crate::net::Prefix;
use crate::routing::bgp::policy::{Assignment, Direction, PeerPolicy, PolicySet, PrefixRange, RouteType, Verdict};
use crate::routing::bgp::types::{Attributes, Nlri, PeerId, family_of};

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
        self.policies = policies;
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        let retold: Vec<PeerId> = peers.into_iter().filter(|peer| self.rejudge(*peer)).collect();
        self.spread();
        retold.into_iter().for_each(|peer| self.retell(peer));
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
        let prefixes = self.covered(&ranges);
        for (peer, entry) in &mut self.peers {
            entry.import = self.policies.prepare(Direction::Import, &entry.settings.view());
            if let Some(live) = &entry.live {
                let view = entry.settings.target(*peer, &live.negotiated).view();
                self.groups.set_policy(*peer, self.policies.prepare(Direction::Export, &view));
            }
        }
        for prefix in &prefixes {
            self.reimport(*prefix);
        }
        self.spread();
        let live: Vec<PeerId> =
            self.peers.iter().filter(|(_, entry)| entry.live.is_some()).map(|(peer, _)| *peer).collect();
        for prefix in prefixes {
            live.iter().for_each(|peer| self.tell_one(*peer, prefix));
        }
    }

    /// A peer is to be treated otherwise. Its session goes on.
    pub fn set_peer(&mut self, peer: PeerId, settings: PeerSettings) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.settings == settings {
            return;
        }
        entry.settings = settings;
        let retold = self.rejudge(peer);
        self.spread();
        if retold {
            self.retell(peer);
        }
    }

    /// Judges a peer's routes by the policies and settings in force. Whether it must be told all routes again.
    fn rejudge(&mut self, peer: PeerId) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else { return false };
        let import = self.policies.prepare(Direction::Import, &entry.settings.view());
        if entry.import != import {
            entry.import = import;
            if let Some(kind) = self.rib.peer(peer).map(|info| info.kind.into()) {
                let policy = &entry.import;
                self.rib.reimport(peer, &mut self.changes, |nlri, received| accepted(policy, nlri, kind, received));
            }
        }
        let Some(live) = &entry.live else { return false };
        let target = entry.settings.target(peer, &live.negotiated);
        let export = self.policies.prepare(Direction::Export, &target.view());
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

/// What import policy makes of a route.
fn accepted(policy: &PeerPolicy, nlri: &Nlri, kind: RouteType, received: &Arc<Attributes>) -> Option<Arc<Attributes>> {
    Some(match policy.evaluate(&nlri.prefix, kind, received, received.next_hop)? {
        Cow::Borrowed(_) => Arc::clone(received),
        Cow::Owned(changed) => Arc::new(changed),
    })
}
