//! All update groups, and which peer is in which.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::group::{Group, Member, Shop, Whom};
use super::share::Luggage;
use super::words::Words;
use super::{Mark, Own, Source, Stats, Target};
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::policy::{PeerPolicy, PrefixSet};
use crate::routing::bgp::rib::Change;
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::types::{Nlri, PeerId};
use crate::routing::bgp::wire;

/// A path to be told.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Our identifier of it among the paths to its prefix; for peers with ADD-PATH.
    pub path_id: u32,
    /// It is the best path: what peers without ADD-PATH hear of.
    pub leads: bool,
    /// Its attributes as the RIB has them.
    pub attributes: &'a Shared,
    /// Where it came from.
    pub from: Source,
}

/// All peers with a session up, in their groups.
#[derive(Debug)]
pub struct Groups {
    shop: Shop,
    /// A place stays free when its group's last peer has gone.
    groups: Vec<Option<Group>>,
    homes: BTreeMap<PeerId, usize>,
}

impl Groups {
    /// No peers yet.
    pub fn new(own: Own) -> Groups {
        Groups {
            shop: Shop { own, words: Words::default(), room: Vec::new() },
            groups: Vec::new(),
            homes: BTreeMap::new(),
        }
    }

    /// A session came up: the peer holds nothing. The caller then tells it the whole RIB with [`Groups::tell_one`] and
    /// asks for the marks. By then all others must have been told what is new.
    pub fn join(&mut self, target: Target, policy: PeerPolicy) {
        let peer = target.peer;
        self.leave(peer);
        self.place(target, policy, Default::default());
        if let Some((group, at)) = home(&mut self.groups, &self.homes, peer) {
            let has_company = group.members.len() > 1;
            group.members.get_mut(at).into_iter().for_each(|member| member.is_new = has_company);
        }
    }

    /// A session went down: what the peer was told is forgotten.
    pub fn leave(&mut self, peer: PeerId) {
        if let Some((_, luggage)) = self.remove(peer) {
            let held = luggage.into_iter().flat_map(|luggage| luggage.held);
            held.filter_map(|(_, word)| word).for_each(|word| self.shop.words.release(word));
        }
    }

    /// The peer is another one, or its policy is. `true` where that may change what it is told: the caller tells it the
    /// whole RIB again, and only differences go out.
    pub fn update(&mut self, target: Target, policy: PeerPolicy) -> bool {
        let peer = target.peer;
        let key = common(&target);
        let Some((group, at)) = home(&mut self.groups, &self.homes, peer) else { return false };
        let Some(member) = group.members.get_mut(at) else { return false };
        if group.key == key && group.policy == policy {
            let other = member.target != target;
            member.target = target;
            return other;
        }
        if group.members.len() == 1 && !self.groups.iter().flatten().any(|group| is(group, &key, &policy)) {
            if let Some((group, at)) = home(&mut self.groups, &self.homes, peer) {
                group.forget(&mut self.shop);
                (group.key, group.policy) = (key, policy);
                group.members.get_mut(at).into_iter().for_each(|member| member.target = target.clone());
            }
            return true;
        }
        if let Some((_, luggage)) = self.remove(peer) {
            self.place(target, policy, luggage);
        }
        true
    }

    /// We are another one. Sessions must not be up.
    pub fn set_own(&mut self, own: Own) {
        self.shop.own = own;
    }

    /// A prefix set that policies name is another. The caller tells the routes it covers again.
    pub fn replace_prefix_set(&mut self, name: &str, set: &PrefixSet) {
        self.groups.iter_mut().flatten().for_each(|group| group.policy.replace_prefix_set(name, set));
    }

    /// What there is of a prefix now, for all peers: the paths that may be used, the best first. Without `best` only
    /// others than the best are new.
    pub fn tell(&mut self, prefix: Prefix, offers: &[Offer<'_>], best: bool) {
        for group in self.groups.iter_mut().flatten() {
            group.tell(prefix, offers, best, Whom::All, &mut self.shop);
        }
    }

    /// None of these prefixes has a path any more. The same as telling each without offers, but group by group and peer
    /// by peer instead of route by route: a table that goes is one loop for each.
    pub fn tell_gone(&mut self, gone: impl Iterator<Item = Change> + Clone) {
        for group in self.groups.iter_mut().flatten() {
            group.tell_gone(gone.clone(), &mut self.shop);
        }
    }

    /// The same as [`Groups::tell`] for one peer.
    pub fn tell_one(&mut self, peer: PeerId, prefix: Prefix, offers: &[Offer<'_>]) {
        if let Some((group, at)) = home(&mut self.groups, &self.homes, peer) {
            let whom = if group.members.get(at).is_some_and(|member| member.is_new) {
                Whom::New(peer)
            } else {
                Whom::One(peer)
            };
            group.tell(prefix, offers, true, whom, &mut self.shop);
        }
    }

    /// A series of calls of [`Groups::tell`] and [`Groups::tell_one`] is over: what they had in common is forgotten.
    pub fn settle(&mut self) {
        self.groups.iter_mut().flatten().for_each(|group| group.settle(&mut self.shop));
    }

    /// Whether a peer hears of all paths of a family, not of the best only.
    pub fn want_all_paths(&self, family: Family) -> bool {
        self.groups.iter().flatten().any(|group| group.key.add_path.contains(&family))
    }

    /// A mark follows all a peer has to hear now.
    pub fn mark(&mut self, peer: PeerId, mark: Mark) {
        if let Some((group, at)) = home(&mut self.groups, &self.homes, peer) {
            group.members.get_mut(at).into_iter().for_each(|member| member.mark(mark));
        }
    }

    /// A peer hears everything of a family once more (ROUTE-REFRESH, RFC 2918); `marked` for one that knows marks of the
    /// beginning and the end (RFC 7313).
    pub fn repeat(&mut self, peer: PeerId, family: Family, marked: bool) {
        if let Some((group, at)) = home(&mut self.groups, &self.homes, peer) {
            group.repeat(at, family, marked);
        }
    }

    /// Writes messages for a peer until `limit` bytes are there or nothing is left. What was written counts as told.
    pub fn take(&mut self, peer: PeerId, limit: usize, out: &mut Vec<u8>) {
        if let Some((group, at)) = home(&mut self.groups, &self.homes, peer) {
            group.take(at, limit, &self.shop.words, out);
        }
    }

    /// Routes of a family that a peer holds, in order, with the attributes it was told; of one about which there are
    /// news on the way, the new ones.
    pub fn told(&self, peer: PeerId, family: Family) -> Vec<(Nlri, Shared)> {
        let Some(group) = self.homes.get(&peer).and_then(|at| self.groups.get(*at)?.as_ref()) else {
            return Vec::new();
        };
        let Ok(at) = group.position(peer) else { return Vec::new() };
        let mut known = BTreeMap::new();
        let mut all = Vec::new();
        for (nlri, word) in group.told(at, family) {
            let read = || wire::read_prepared(self.shop.words.bytes(word), group.shape()).map(Shared::from);
            let attributes = known.entry(word).or_insert_with(read);
            all.extend(attributes.clone().map(|attributes| (nlri, attributes)));
        }
        all.sort_unstable_by_key(|(nlri, _)| *nlri);
        all
    }

    /// How many routes a peer holds in a family.
    pub fn n_told(&self, peer: PeerId, family: Family) -> usize {
        self.member(peer).map_or(0, |member| member.n_told(family))
    }

    /// Counters of a peer.
    pub fn stats(&self, peer: PeerId) -> Stats {
        let stats = |member: &Member| Stats {
            advertised: Family::ALL.iter().map(|family| member.n_told(*family)).sum(),
            pending: member.pending(),
        };
        self.member(peer).map(stats).unwrap_or_default()
    }

    /// Peers with something to hear, in order.
    pub fn busy(&self) -> Vec<PeerId> {
        let members = self.groups.iter().flatten().flat_map(|group| &group.members);
        let mut busy: Vec<PeerId> =
            members.filter(|member| !member.is_idle()).map(|member| member.target.peer).collect();
        busy.sort_unstable();
        busy
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.groups.iter().flatten().count()
    }

    /// Whether no session is up.
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn n_words(&self) -> usize {
        self.shop.words.len()
    }

    #[cfg(test)]
    pub(super) fn n_queued(&self, peer: PeerId) -> usize {
        self.member(peer).map_or(0, Member::n_queued)
    }

    fn member(&self, peer: PeerId) -> Option<&Member> {
        let group = self.groups.get(*self.homes.get(&peer)?)?.as_ref()?;
        group.members.get(group.position(peer).ok()?)
    }

    fn remove(&mut self, peer: PeerId) -> Option<(Target, [Luggage; 2])> {
        let at = self.homes.remove(&peer)?;
        let place = self.groups.get_mut(at)?;
        let gone = place.as_mut()?.remove(peer, &mut self.shop);
        if let Some(group) = place.take_if(|group| group.members.is_empty()) {
            group.dissolve(&mut self.shop);
        }
        while self.groups.last().is_some_and(Option::is_none) {
            self.groups.pop();
        }
        gone
    }

    fn place(&mut self, target: Target, policy: PeerPolicy, luggage: [Luggage; 2]) {
        let key = common(&target);
        let peer = target.peer;
        let found = self.groups.iter().position(|group| group.as_ref().is_some_and(|group| is(group, &key, &policy)));
        let at = match found.or_else(|| self.groups.iter().position(Option::is_none)) {
            Some(at) => at,
            None => {
                self.groups.push(None);
                self.groups.len() - 1
            }
        };
        if let Some(place) = self.groups.get_mut(at) {
            let group = place.get_or_insert_with(|| Group::new(key, policy));
            group.enter(Member::new(target), luggage, &mut self.shop);
            self.homes.insert(peer, at);
        }
    }
}

fn is(group: &Group, key: &Target, policy: &PeerPolicy) -> bool {
    group.key == *key && group.policy == *policy
}

/// A peer's group, and its place in it.
fn home<'a>(
    groups: &'a mut [Option<Group>],
    homes: &BTreeMap<PeerId, usize>,
    peer: PeerId,
) -> Option<(&'a mut Group, usize)> {
    let group = groups.get_mut(*homes.get(&peer)?)?.as_mut()?;
    let at = group.position(peer).ok()?;
    Some((group, at))
}

/// The target without what members of a group need not have in common: what [`may_send`](super::may_send) looks at,
/// and its address, which matters only where it is a route's next hop.
fn common(target: &Target) -> Target {
    Target {
        peer: PeerId::LOCAL,
        asn: Asn(0),
        router_id: Ipv4Addr::UNSPECIFIED,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        takes_own_as: false,
        max_message: 0,
        ..target.clone()
    }
}
