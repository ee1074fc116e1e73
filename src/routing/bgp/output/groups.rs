//! Update groups: peers that would be told the same of every route.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{Own, Queue, Source, Target, may_send, rewrite};
use crate::net::Asn;
use crate::routing::bgp::policy::PeerPolicy;
use crate::routing::bgp::types::{Attributes, Nlri, PeerId};

/// A path to be told.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Its attributes as the RIB has them.
    pub attributes: &'a Attributes,
    /// Where it came from.
    pub from: Source,
}

/// All peers with a session up, in their groups.
#[derive(Debug)]
pub struct Groups {
    own: Own,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    /// What members have in common; what they have not is blank.
    key: Target,
    policy: PeerPolicy,
    members: BTreeMap<PeerId, Member>,
    interned: Interned,
}

/// Results of rewriting that members hold, each once, by their hashes.
#[derive(Debug)]
struct Interned {
    routes: BTreeMap<u64, Vec<Arc<Attributes>>>,
    /// Number of hashes at which results nobody holds any more are dropped.
    sweep_at: usize,
}

#[derive(Debug)]
struct Member {
    target: Target,
    queue: Queue,
}

const SWEEP: usize = 1024;

impl Groups {
    /// No peers yet.
    pub fn new(own: Own) -> Groups {
        Groups { own, groups: Vec::new() }
    }

    /// A session came up: the peer starts with an empty queue. The caller then tells it the whole RIB with
    /// [`Groups::tell_one`] and asks for the marks.
    pub fn join(&mut self, target: Target, policy: PeerPolicy) {
        self.leave(target.peer);
        self.place(Member { target, queue: Queue::default() }, policy);
    }

    /// A session went down: what the peer was told is forgotten.
    pub fn leave(&mut self, peer: PeerId) {
        self.remove(peer);
    }

    /// The peer's policy is another one. `true` where that may change what it is told: the caller tells it the whole
    /// RIB again, and only differences go out.
    pub fn set_policy(&mut self, peer: PeerId, policy: PeerPolicy) -> bool {
        let Some(group) = self.group_of(peer) else { return false };
        if group.policy == policy {
            return false;
        }
        if let Some(member) = self.remove(peer) {
            self.place(member, policy);
        }
        true
    }

    /// The peer is another one, or its policy is. `true` where that may change what it is told: the caller tells it the
    /// whole RIB again, and only differences go out.
    pub fn update(&mut self, target: Target, policy: PeerPolicy) -> bool {
        let peer = target.peer;
        let Some(group) = self.group_of(peer) else { return false };
        let same_target = group.members.get(&peer).is_some_and(|member| member.target == target);
        if same_target && group.policy == policy {
            return false;
        }
        if let Some(member) = self.remove(peer) {
            self.place(Member { target, ..member }, policy);
        }
        true
    }

    /// We are another one. Sessions must not be up.
    pub fn set_own(&mut self, own: Own) {
        self.own = own;
    }

    /// Every peer's word about a route: the path, or none any more.
    pub fn tell(&mut self, nlri: Nlri, offer: Option<Offer<'_>>) {
        for group in &mut self.groups {
            let rewritten = offer.and_then(|offer| group.rewrite(&nlri, &offer, &self.own));
            for member in group.members.values_mut() {
                member.tell(nlri, offer.as_ref(), rewritten.as_ref());
            }
        }
    }

    /// One peer's word about a route.
    pub fn tell_one(&mut self, peer: PeerId, nlri: Nlri, offer: Option<Offer<'_>>) {
        let Some(group) = self.groups.iter_mut().find(|group| group.members.contains_key(&peer)) else { return };
        let rewritten = offer.and_then(|offer| group.rewrite(&nlri, &offer, &self.own));
        if let Some(member) = group.members.get_mut(&peer) {
            member.tell(nlri, offer.as_ref(), rewritten.as_ref());
        }
    }

    /// The queue of a peer whose session is up.
    pub fn queue(&self, peer: PeerId) -> Option<&Queue> {
        Some(&self.group_of(peer)?.members.get(&peer)?.queue)
    }

    /// The same, to take from.
    pub fn queue_mut(&mut self, peer: PeerId) -> Option<&mut Queue> {
        self.groups.iter_mut().find_map(|group| group.members.get_mut(&peer)).map(|member| &mut member.queue)
    }

    /// Peers with something to hear, in order.
    pub fn busy(&self) -> Vec<PeerId> {
        let members = self.groups.iter().flat_map(|group| &group.members);
        let mut busy: Vec<PeerId> =
            members.filter(|(_, member)| !member.queue.is_idle()).map(|(peer, _)| *peer).collect();
        busy.sort_unstable();
        busy
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether no session is up.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    #[cfg(test)]
    pub(super) fn n_interned(&self) -> usize {
        self.groups.iter().map(|group| group.interned.routes.len()).sum()
    }

    fn group_of(&self, peer: PeerId) -> Option<&Group> {
        self.groups.iter().find(|group| group.members.contains_key(&peer))
    }

    fn remove(&mut self, peer: PeerId) -> Option<Member> {
        let member = self.groups.iter_mut().find_map(|group| group.members.remove(&peer));
        self.groups.retain(|group| !group.members.is_empty());
        member
    }

    fn place(&mut self, member: Member, policy: PeerPolicy) {
        let key = common(&member.target);
        let peer = member.target.peer;
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == key && group.policy == policy) {
            group.members.insert(peer, member);
            return;
        }
        self.groups.push(Group {
            key,
            policy,
            members: BTreeMap::from([(peer, member)]),
            interned: Interned { routes: BTreeMap::new(), sweep_at: SWEEP },
        });
    }
}

impl Group {
    fn rewrite(&mut self, nlri: &Nlri, offer: &Offer<'_>, own: &Own) -> Option<Arc<Attributes>> {
        let route = rewrite(nlri, offer.attributes, &offer.from, &self.key, own, &self.policy)?;
        Some(self.interned.intern(route))
    }
}

impl Interned {
    fn intern(&mut self, route: Attributes) -> Arc<Attributes> {
        // Always the same keys, other than a hash map's.
        let mut hasher = DefaultHasher::new();
        route.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(known) = self.routes.get(&hash).and_then(|same| same.iter().find(|known| ***known == route)) {
            return Arc::clone(known);
        }
        if self.routes.len() >= self.sweep_at {
            self.routes.retain(|_, same| {
                same.retain(|route| Arc::strong_count(route) > 1);
                !same.is_empty()
            });
            self.sweep_at = (2 * self.routes.len()).max(SWEEP);
        }
        let route = Arc::new(route);
        self.routes.entry(hash).or_default().push(Arc::clone(&route));
        route
    }
}

impl Member {
    fn tell(&mut self, nlri: Nlri, offer: Option<&Offer<'_>>, rewritten: Option<&Arc<Attributes>>) {
        let allowed = offer.is_some_and(|offer| may_send(offer.attributes, &offer.from, &self.target));
        match rewritten.filter(|_| allowed) {
            Some(route) => self.queue.announce(nlri, Arc::clone(route)),
            None => self.queue.withdraw(nlri),
        }
    }
}

/// The target without what [`rewrite`] does not look at.
fn common(target: &Target) -> Target {
    // The address says which next hops are the peer's own, so it stays where that can matter.
    let blank = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let address = if target.shared.is_empty() { blank } else { target.address };
    Target {
        peer: PeerId::LOCAL,
        asn: Asn(0),
        router_id: Ipv4Addr::UNSPECIFIED,
        address,
        takes_own_as: false,
        ..target.clone()
    }
}
