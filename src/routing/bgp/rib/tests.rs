use std::net::IpAddr;

use proptest::prelude::*;

use super::super::types::{AsPath, NextHop, Origin, PeerKind, community};
use super::*;

const NOW: Duration = Duration::from_secs(7);
const ONE: PeerId = PeerId(1);
const TWO: PeerId = PeerId(2);

fn settings(multipath: bool) -> RibSettings {
    RibSettings {
        asn: Asn(64_512),
        router_id: Ipv4Addr::new(10, 0, 0, 100),
        cluster_id: Ipv4Addr::new(10, 0, 0, 101),
        decision: Settings { multipath, relax_as_path: multipath, ..Settings::default() },
    }
}

fn info(peer: PeerId) -> PeerInfo {
    let last = u8::try_from(peer.0).unwrap();
    PeerInfo {
        kind: if peer.0.is_multiple_of(2) { PeerKind::Internal } else { PeerKind::External },
        router_id: Ipv4Addr::new(10, 0, 0, last),
        address: IpAddr::from([192, 0, 2, last]),
        client: false,
        asn: Asn(65_000 + peer.0),
        local_asn: settings(false).asn,
    }
}

fn rib_with(multipath: bool, peers: u32) -> (Rib, Changes) {
    let (mut rib, mut changes) = (Rib::new(settings(multipath)), Changes::default());
    for peer in 1..=peers {
        rib.add_peer(PeerId(peer), info(PeerId(peer)), &mut changes);
    }
    assert!(changes.is_empty());
    (rib, changes)
}

fn rib() -> (Rib, Changes) {
    rib_with(false, 4)
}

fn prefix(n: u8) -> Prefix {
    format!("10.{n}.0.0/16").parse().unwrap()
}

fn nlri(n: u8) -> Nlri {
    Nlri::new(prefix(n))
}

fn set(path: &[u32]) -> Attributes {
    let next_hop = NextHop::from(IpAddr::from([192, 0, 2, 1]));
    Attributes::new(Origin::Igp, path.iter().copied().map(Asn).collect::<AsPath>(), next_hop)
}

fn shared(path: &[u32]) -> Shared {
    set(path).into()
}

fn best(n: u8) -> Change {
    Change { prefix: prefix(n), best: true }
}

fn unused(n: u8) -> Change {
    Change { prefix: prefix(n), best: false }
}

#[test]
fn a_prefix_has_the_best_of_its_paths_and_changes_only_with_it() {
    let (mut rib, mut changes) = rib();
    rib.announce(ONE, shared(&[1, 2]), &[nlri(2), nlri(1)], NOW, &mut changes);
    assert_eq!(changes.take(), [best(1), best(2)]);
    rib.announce(TWO, shared(&[1, 2, 3]), &[nlri(1)], NOW, &mut changes);
    assert_eq!(changes.take(), [unused(1)]);
    assert_eq!(rib.best(&prefix(1)).unwrap().peer, ONE);
    rib.withdraw(ONE, &[nlri(1), nlri(9)], &mut changes);
    assert_eq!(changes.take(), [best(1)]);
    assert_eq!(rib.best(&prefix(1)).unwrap().peer, TWO);
    rib.withdraw(TWO, &[nlri(1)], &mut changes);
    assert_eq!(changes.take(), [best(1)]);
    assert!(rib.best(&prefix(1)).is_none() && rib.paths(&prefix(1)).is_empty());
}

#[test]
fn the_same_route_again_changes_nothing() {
    let (mut rib, mut changes) = rib();
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    changes.take();
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW * 2, &mut changes);
    assert!(changes.is_empty());
    assert_eq!(rib.best(&prefix(1)).unwrap().learned(), NOW);
    rib.announce(ONE, shared(&[2]), &[nlri(1)], NOW * 2, &mut changes);
    assert_eq!(changes.take(), [best(1)]);
    assert_eq!(rib.best(&prefix(1)).unwrap().learned(), NOW * 2);
    assert_eq!(rib.stats(ONE, Family::V4), Stats { received: 1, accepted: 1, stale: 0 });
}

#[test]
fn own_routes_come_first_and_go_again() {
    let (mut rib, mut changes) = rib();
    rib.announce(ONE, shared(&[]), &[nlri(1)], NOW, &mut changes);
    rib.originate(prefix(1), shared(&[]), NOW, &mut changes);
    assert_eq!(rib.best(&prefix(1)).unwrap().peer, PeerId::LOCAL);
    assert_eq!(rib.explain(&prefix(1))[1].1, Some(Reason::Local));
    rib.withdraw_local(prefix(1), &mut changes);
    assert_eq!(rib.best(&prefix(1)).unwrap().peer, ONE);
    assert_eq!(changes.take(), [best(1)]);
}

#[test]
fn loops_are_kept_with_their_reason_and_never_used() {
    let own = settings(false);
    let cases = [
        (set(&[1, own.asn.0]), Filtered::AsLoop),
        (Attributes { originator_id: Some(own.router_id), ..set(&[1]) }, Filtered::OriginatorLoop),
        (Attributes { cluster_list: [own.cluster_id].into(), ..set(&[1]) }, Filtered::ClusterLoop),
    ];
    for (attributes, reason) in cases {
        let (mut rib, mut changes) = rib();
        rib.announce(ONE, Shared::from(attributes), &[nlri(1)], NOW, &mut changes);
        assert_eq!(changes.take(), [unused(1)]);
        assert_eq!(rib.paths(&prefix(1))[0].filtered, Some(reason));
        assert!(rib.best(&prefix(1)).is_none());
        assert_eq!(rib.stats(ONE, Family::V4), Stats { received: 1, accepted: 0, stale: 0 });
        assert_eq!(rib.explain(&prefix(1))[0].1, Some(Reason::Ineligible));
    }
}

#[test]
fn a_route_that_comes_back_with_our_as_towards_its_peer_loops() {
    let (mut rib, mut changes) = rib();
    let other = PeerInfo { local_asn: Asn(64_999), ..info(ONE) };
    rib.add_peer(ONE, other, &mut changes);
    let back = shared(&[1, 64_999, 2]);
    let filtered = |rib: &Rib, peer| rib.paths(&prefix(1)).iter().find(|path| path.peer == peer).unwrap().filtered;
    rib.announce(ONE, back.clone(), &[nlri(1)], NOW, &mut changes);
    assert_eq!(filtered(&rib, ONE), Some(Filtered::AsLoop));
    // Towards another peer that number means nothing: it may be somebody else's.
    rib.announce(PeerId(3), back, &[nlri(1)], NOW, &mut changes);
    assert_eq!(filtered(&rib, PeerId(3)), None);
    // A change of policy does not forget it, by peer or by prefix.
    rib.reimport(ONE, &mut changes, |_, received| Some(received.clone()));
    assert_eq!(filtered(&rib, ONE), Some(Filtered::AsLoop));
    rib.reimport_prefix(prefix(1), &mut changes, |_, _, received| Some(received.clone()));
    assert_eq!((filtered(&rib, ONE), filtered(&rib, PeerId(3))), (Some(Filtered::AsLoop), None));
    let global = shared(&[1, settings(false).asn.0]);
    rib.announce(ONE, global, &[nlri(1)], NOW, &mut changes);
    assert_eq!(filtered(&rib, ONE), Some(Filtered::AsLoop), "the AS we have elsewhere counts as well");
}

#[test]
fn import_policy_leaves_what_was_received() {
    let (mut rib, mut changes) = rib();
    let received = shared(&[1]);
    let accepted = Shared::from(Attributes { local_pref: Some(200), ..set(&[1]) });
    let offer = Offer { received: received.clone(), accepted: Some(accepted.clone()) };
    rib.announce(ONE, offer, &[nlri(1)], NOW, &mut changes);
    let path = rib.best(&prefix(1)).unwrap();
    assert_eq!((path.received(), &path.attributes), (&received, &accepted));
    assert_eq!(rib.attribute_sets(), 2);
    let rejected = Offer { received: received.clone(), accepted: None };
    rib.announce(ONE, rejected, &[nlri(1)], NOW, &mut changes);
    assert!(rib.best(&prefix(1)).is_none());
    assert_eq!(rib.paths(&prefix(1))[0].filtered, Some(Filtered::Policy));
    assert_eq!(rib.attribute_sets(), 1);
    rib.reimport(ONE, &mut changes, |_, _| Some(accepted.clone()));
    assert_eq!(rib.best(&prefix(1)).unwrap().attributes, accepted);
    assert_eq!(rib.best(&prefix(1)).unwrap().received(), &received);
    assert_eq!(rib.stats(ONE, Family::V4).accepted, 1);
    changes.take();
    rib.reimport(ONE, &mut changes, |_, _| None);
    assert_eq!(changes.take(), [best(1)]);
    rib.withdraw(ONE, &[nlri(1)], &mut changes);
    assert_eq!(rib.attribute_sets(), 0);
}

#[test]
fn equal_attributes_are_one_value_until_the_last_path_goes() {
    let (mut rib, mut changes) = rib();
    rib.announce(ONE, shared(&[1]), &[nlri(1), nlri(2)], NOW, &mut changes);
    rib.announce(TWO, shared(&[1]), &[nlri(2)], NOW, &mut changes);
    let value = rib.best(&prefix(1)).unwrap().attributes.clone();
    assert!(rib.paths(&prefix(2)).iter().all(|path| path.attributes.is(&value)));
    assert!(rib.intern(set(&[1])).is(&value));
    rib.drop_peer(ONE, &mut changes);
    assert_eq!(rib.attribute_sets(), 1);
    rib.drop_peer(TWO, &mut changes);
    assert_eq!((rib.attribute_sets(), rib.prefixes(Family::V4)), (0, 0));
    assert_eq!(value.holders(), 1);
    assert!(!rib.intern(set(&[1])).is(&value));
}

#[test]
fn a_restarting_peer_loses_only_what_it_does_not_send_again() {
    let (mut rib, mut changes) = rib();
    rib.announce(ONE, shared(&[1]), &[nlri(1), nlri(2)], NOW, &mut changes);
    changes.take();
    rib.mark_stale(ONE, Family::V4, &mut changes);
    assert!(changes.is_empty() && rib.is_stale(Family::V4, rib.best(&prefix(1)).unwrap()));
    assert_eq!(rib.stats(ONE, Family::V4).stale, 2);
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    assert!(changes.is_empty() && !rib.is_stale(Family::V4, rib.best(&prefix(1)).unwrap()));
    rib.end_of_rib(ONE, Family::V6, &mut changes);
    assert!(changes.is_empty());
    rib.end_of_rib(ONE, Family::V4, &mut changes);
    assert_eq!(changes.take(), [best(2)]);
    assert_eq!(rib.stats(ONE, Family::V4), Stats { received: 1, accepted: 1, stale: 0 });
    rib.end_of_rib(ONE, Family::V4, &mut changes);
    assert!(changes.is_empty());
}

#[test]
fn a_second_restart_before_end_of_rib_drops_what_was_stale() {
    let (mut rib, mut changes) = rib();
    rib.announce(ONE, shared(&[1]), &[nlri(1), nlri(2)], NOW, &mut changes);
    rib.mark_stale(ONE, Family::V4, &mut changes);
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    changes.take();
    rib.mark_stale(ONE, Family::V4, &mut changes);
    assert_eq!(changes.take(), [best(2)]);
    assert_eq!(rib.stats(ONE, Family::V4), Stats { received: 1, accepted: 1, stale: 1 });
}

#[test]
fn long_lived_stale_routes_are_the_last_resort() {
    let (mut rib, mut changes) = rib();
    let never = Shared::from(Attributes { communities: [community::NO_LLGR].into(), ..set(&[1]) });
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    rib.announce(ONE, never, &[nlri(2)], NOW, &mut changes);
    rib.announce(TWO, shared(&[1, 2, 3]), &[nlri(1)], NOW, &mut changes);
    rib.mark_stale(ONE, Family::V4, &mut changes);
    changes.take();
    rib.mark_long_lived(ONE, Family::V4, &mut changes);
    assert_eq!(changes.take(), [best(1), best(2)]);
    assert_eq!(rib.best(&prefix(1)).unwrap().peer, TWO);
    assert_eq!(rib.explain(&prefix(1))[1].1, Some(Reason::LongLivedStale));
    rib.reimport(ONE, &mut changes, |_, received| Some(received.clone()));
    assert_eq!(&*rib.paths(&prefix(1))[1].attributes.communities, [community::LLGR_STALE]);
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    assert_eq!(rib.best(&prefix(1)).unwrap().peer, ONE);
    rib.drop_peer(ONE, &mut changes);
    rib.drop_peer(TWO, &mut changes);
    assert_eq!(rib.attribute_sets(), 0);
}

/// The networks of one address each.
fn lost(hosts: &[u8]) -> BTreeSet<Prefix> {
    hosts.iter().map(|host| format!("192.0.2.{host}/32").parse().expect("a prefix")).collect()
}

#[test]
fn next_hops_in_a_lost_network_take_their_paths_out_until_it_is_back() {
    let (mut rib, mut changes) = rib();
    let via =
        |last: u8| Shared::from(Attributes { next_hop: NextHop::from(IpAddr::from([192, 0, 2, last])), ..set(&[1]) });
    rib.announce(ONE, via(1), &[nlri(1)], NOW, &mut changes);
    rib.announce(TWO, via(2), &[nlri(1)], NOW, &mut changes);
    changes.take();
    rib.lose_networks(lost(&[1]), &mut changes);
    assert_eq!((changes.take(), rib.best(&prefix(1)).unwrap().peer), (vec![best(1)], TWO));
    rib.announce(ONE, via(1), &[nlri(2)], NOW, &mut changes);
    assert!(rib.best(&prefix(2)).is_none(), "it counts for paths that come later");
    changes.take();
    rib.lose_networks(lost(&[1]), &mut changes);
    assert!(changes.is_empty());
    rib.lose_networks("192.0.2.0/24".parse().into_iter().collect(), &mut changes);
    assert!(rib.best(&prefix(1)).is_none(), "all of a network goes");
    changes.take();
    rib.lose_networks(lost(&[]), &mut changes);
    assert_eq!((changes.take().len(), rib.best(&prefix(1)).unwrap().peer), (2, ONE));
}

#[test]
fn path_identifiers_are_ours_per_prefix_and_stay_with_the_path() {
    let (mut rib, mut changes) = rib();
    let id = |path_id| Nlri { path_id, ..nlri(1) };
    let ids = |rib: &Rib| {
        let mut ids: Vec<_> = rib.paths(&prefix(1)).iter().map(|path| (path.remote_id, path.local_id)).collect();
        ids.sort_unstable();
        ids
    };
    rib.announce(ONE, shared(&[1]), &[id(70), id(80), id(90)], NOW, &mut changes);
    assert_eq!(ids(&rib), [(70, 1), (80, 2), (90, 3)]);
    rib.withdraw(ONE, &[id(70)], &mut changes);
    rib.announce(ONE, shared(&[2]), &[id(90), id(60)], NOW, &mut changes);
    assert_eq!(ids(&rib), [(60, 1), (80, 2), (90, 3)]);
}

#[test]
fn multipath_changes_with_any_of_its_paths() {
    let (mut rib, mut changes) = rib_with(true, 4);
    rib.announce(ONE, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    changes.take();
    rib.announce(PeerId(3), shared(&[3]), &[nlri(1)], NOW, &mut changes);
    assert_eq!(changes.take(), [best(1)]);
    assert_eq!(rib.multipath(&prefix(1)).map(|path| path.peer).collect::<Vec<_>>(), [ONE, PeerId(3)]);
    rib.withdraw(PeerId(3), &[nlri(1)], &mut changes);
    assert_eq!(changes.take(), [best(1)]);
}

#[test]
fn another_router_id_of_a_peer_is_heeded() {
    let (mut rib, mut changes) = rib();
    for peer in [ONE, PeerId(3)] {
        rib.announce(peer, shared(&[1]), &[nlri(1)], NOW, &mut changes);
    }
    changes.take();
    let low = PeerInfo { router_id: Ipv4Addr::new(1, 0, 0, 0), ..info(PeerId(3)) };
    rib.add_peer(PeerId(3), low, &mut changes);
    assert_eq!((changes.take(), rib.best(&prefix(1)).unwrap().peer), (vec![best(1)], PeerId(3)));
}

#[test]
fn listings_are_in_order_of_prefixes_and_families_apart() {
    let (mut rib, mut changes) = rib();
    let six: Prefix = "2001:db8::/32".parse().unwrap();
    rib.announce(ONE, shared(&[1]), &[nlri(9), Nlri::new(six), nlri(3), nlri(5)], NOW, &mut changes);
    let listed = |family| rib.iterate(family).map(|(prefix, _)| prefix).collect::<Vec<_>>();
    assert_eq!(listed(Family::V4), [prefix(3), prefix(5), prefix(9)]);
    assert_eq!(listed(Family::V6), [six]);
    assert_eq!((rib.stats(ONE, Family::V4).received, rib.stats(ONE, Family::V6).received), (3, 1));
}

#[test]
fn routes_of_unknown_peers_are_ignored() {
    let (mut rib, mut changes) = rib();
    rib.announce(PeerId(9), shared(&[1]), &[nlri(1)], NOW, &mut changes);
    assert!(changes.is_empty() && rib.attribute_sets() == 0);
}

/// What can happen to the RIB.
#[derive(Clone, Debug)]
enum Step {
    Announce(u32, u8, u32, Attributes, bool),
    Withdraw(u32, u8, u32),
    Originate(u8),
    WithdrawLocal(u8),
    Stale(u32),
    LongLived(u32),
    EndOfRib(u32),
    Drop(u32),
    NextHop(u8, bool),
}

fn arbitrary_attributes() -> impl Strategy<Value = Attributes> {
    (1..4_u32, 0..2_usize, 0..3_u32, 99..102_u32, 1..4_u8, any::<(bool, bool)>()).prop_map(
        |(first, more, med, pref, hop, (loops, no_llgr))| {
            let mut path = vec![first; more + 1];
            path.extend((loops && more == 1 && med == 2).then_some(64_512));
            Attributes {
                med: (med > 0).then_some(med),
                local_pref: (pref != 100).then_some(pref),
                next_hop: NextHop::from(IpAddr::from([192, 0, 2, hop])),
                communities: if no_llgr { [community::NO_LLGR].into() } else { Box::default() },
                ..set(&path)
            }
        },
    )
}

fn arbitrary_step() -> impl Strategy<Value = Step> {
    let (peer, at, id) = (1..5_u32, 0..4_u8, 0..2_u32);
    prop_oneof![
        12 => (peer.clone(), at.clone(), id.clone(), arbitrary_attributes(), prop::bool::weighted(0.1))
            .prop_map(|(peer, at, id, attributes, reject)| Step::Announce(peer, at, id, attributes, reject)),
        4 => (peer.clone(), at.clone(), id).prop_map(|(peer, at, id)| Step::Withdraw(peer, at, id)),
        1 => at.clone().prop_map(Step::Originate),
        1 => at.prop_map(Step::WithdrawLocal),
        2 => peer.clone().prop_map(Step::Stale),
        2 => peer.clone().prop_map(Step::LongLived),
        2 => peer.clone().prop_map(Step::EndOfRib),
        1 => peer.prop_map(Step::Drop),
        2 => (1..4_u8, any::<bool>()).prop_map(|(hop, up)| Step::NextHop(hop, up)),
    ]
}

/// A path as the model keeps it.
#[derive(Clone, Debug)]
struct Simple {
    attributes: Attributes,
    usable: bool,
    stale: bool,
}

type Key = (u8, u32, u32);

/// Peers and path ids of what is used, and the best with its attributes.
type Outcome = (Vec<(u32, u32)>, (u32, u32, Attributes));

/// All live paths, and the decision as RFC 4271 tells it: by throwing out.
#[derive(Default)]
struct Model {
    paths: BTreeMap<Key, Simple>,
    down: BTreeSet<u8>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        let of = |id: &u32| {
            let id = *id;
            move |key: &Key| key.1 == id
        };
        match step {
            Step::Announce(peer, at, id, attributes, reject) => {
                let usable = !reject && !attributes.as_path.contains(Asn(64_512));
                self.paths.insert((*at, *peer, *id), Simple { attributes: attributes.clone(), usable, stale: false });
            }
            Step::Withdraw(peer, at, id) => drop(self.paths.remove(&(*at, *peer, *id))),
            Step::Originate(at) => {
                self.paths.insert((*at, 0, 0), Simple { attributes: set(&[]), usable: true, stale: false });
            }
            Step::WithdrawLocal(at) => drop(self.paths.remove(&(*at, 0, 0))),
            Step::Stale(peer) => {
                self.paths.retain(|key, path| !of(peer)(key) || !path.stale);
                self.paths.iter_mut().filter(|(key, _)| of(peer)(key)).for_each(|(_, path)| path.stale = true);
            }
            Step::LongLived(peer) => {
                let hit = |key: &Key, path: &Simple| of(peer)(key) && path.stale;
                let marked = |path: &Simple, what| path.attributes.communities.contains(&what);
                self.paths.retain(|key, path| !hit(key, path) || !marked(path, community::NO_LLGR));
                for (_, path) in self.paths.iter_mut().filter(|(key, path)| hit(key, path)) {
                    path.attributes.communities = [community::LLGR_STALE].into();
                }
            }
            Step::EndOfRib(peer) => self.paths.retain(|key, path| !of(peer)(key) || !path.stale),
            Step::Drop(peer) => self.paths.retain(|key, _| !of(peer)(key)),
            Step::NextHop(hop, up) => {
                if *up {
                    self.down.remove(hop)
                } else {
                    self.down.insert(*hop)
                };
            }
        }
    }

    fn alive(&self, path: &Simple, peer: u32) -> bool {
        let down = self.down.iter().any(|hop| path.attributes.next_hop.address == IpAddr::from([192, 0, 2, *hop]));
        peer == 0 || path.usable && !down
    }

    /// The best path of a prefix and what is equal to it up to the router id.
    fn best(&self, at: u8) -> Option<Outcome> {
        fn least<K: Ord + Copy>(all: &mut Vec<(Key, &Simple)>, key: impl Fn(&Key, &Simple) -> K) {
            let low = all.iter().map(|(k, path)| key(k, path)).min();
            all.retain(|(k, path)| Some(key(k, path)) == low);
        }
        let mut all: Vec<(Key, &Simple)> = self.paths.iter().map(|(key, path)| (*key, path)).collect();
        all.retain(|(key, path)| key.0 == at && self.alive(path, key.1));
        least(&mut all, |key, _| key.1 != 0);
        least(&mut all, |_, path| path.attributes.communities.contains(&community::LLGR_STALE));
        least(&mut all, |_, path| std::cmp::Reverse(path.attributes.local_pref.unwrap_or(100)));
        least(&mut all, |_, path| path.attributes.as_path.hops());
        least(&mut all, |_, path| path.attributes.origin);
        let tied = all.clone();
        all.retain(|(_, path)| {
            !tied.iter().any(|(_, other)| {
                other.attributes.as_path.first() == path.attributes.as_path.first()
                    && other.attributes.med.unwrap_or(0) < path.attributes.med.unwrap_or(0)
            })
        });
        least(&mut all, |key, _| key.1.is_multiple_of(2));
        let equal = all.iter().map(|(key, _)| (key.1, key.2)).collect();
        least(&mut all, |key, _| (key.1, key.2));
        all.first().map(|(key, path)| (equal, (key.1, key.2, path.attributes.clone())))
    }
}

fn apply(rib: &mut Rib, step: &Step, changes: &mut Changes) {
    match step {
        Step::Announce(peer, at, id, attributes, reject) => {
            let received = rib.intern(attributes.clone());
            let offer = Offer { accepted: (!reject).then(|| received.clone()), received };
            rib.announce(PeerId(*peer), offer, &[Nlri { path_id: *id, ..nlri(*at) }], NOW, changes);
        }
        Step::Withdraw(peer, at, id) => rib.withdraw(PeerId(*peer), &[Nlri { path_id: *id, ..nlri(*at) }], changes),
        Step::Originate(at) => rib.originate(prefix(*at), shared(&[]), NOW, changes),
        Step::WithdrawLocal(at) => rib.withdraw_local(prefix(*at), changes),
        Step::Stale(peer) => rib.mark_stale(PeerId(*peer), Family::V4, changes),
        Step::LongLived(peer) => rib.mark_long_lived(PeerId(*peer), Family::V4, changes),
        Step::EndOfRib(peer) => rib.end_of_rib(PeerId(*peer), Family::V4, changes),
        Step::Drop(peer) => {
            rib.drop_peer(PeerId(*peer), changes);
            rib.add_peer(PeerId(*peer), info(PeerId(*peer)), changes);
        }
        Step::NextHop(hop, up) => {
            let host: Prefix = format!("192.0.2.{hop}/32").parse().expect("a prefix");
            let mut networks = rib.judge.lost.clone();
            let _ = if *up { networks.remove(&host) } else { networks.insert(host) };
            rib.lose_networks(networks, changes);
        }
    }
}

fn check(rib: &Rib, model: &Model, multipath: bool) -> Result<(), TestCaseError> {
    for at in 0..4 {
        let expected = model.best(at);
        let found =
            rib.best(&prefix(at)).map(|path| (path.peer.0, path.remote_id, Attributes::clone(&path.attributes)));
        prop_assert_eq!(found, expected.as_ref().map(|(_, best)| best.clone()));
        if multipath {
            let mut used: Vec<_> = rib.multipath(&prefix(at)).map(|path| (path.peer.0, path.remote_id)).collect();
            used.sort_unstable();
            prop_assert_eq!(used, expected.map(|(equal, _)| equal).unwrap_or_default());
        }
    }
    for peer in 1..5 {
        let of = || model.paths.iter().filter(move |(key, _)| key.1 == peer);
        let count = |n: usize| u32::try_from(n).unwrap();
        let expected = Stats {
            received: count(of().count()),
            accepted: count(of().filter(|(_, path)| path.usable).count()),
            stale: count(of().filter(|(_, path)| path.stale).count()),
        };
        prop_assert_eq!(rib.stats(PeerId(peer), Family::V4), expected);
    }
    Ok(())
}

fn used(rib: &Rib, at: u8) -> Vec<(PeerId, u32, Shared)> {
    rib.multipath(&prefix(at)).map(|path| (path.peer, path.remote_id, path.attributes.clone())).collect()
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model_after_every_step_and_names_what_changed(
        steps in prop::collection::vec(arbitrary_step(), 1..60),
        multipath in any::<bool>(),
    ) {
        let (mut rib, mut changes) = rib_with(multipath, 4);
        let mut model = Model::default();
        for step in &steps {
            let before: Vec<_> = (0..4).map(|at| used(&rib, at)).collect();
            apply(&mut rib, step, &mut changes);
            model.apply(step);
            check(&rib, &model, multipath)?;
            let differ: Vec<Prefix> =
                (0..4).filter(|at| used(&rib, *at) != before[usize::from(*at)]).map(prefix).collect();
            let named: Vec<Prefix> =
                changes.take().into_iter().filter(|change| change.best).map(|change| change.prefix).collect();
            prop_assert_eq!(named, differ);
        }
        for peer in 1..5 {
            rib.drop_peer(PeerId(peer), &mut changes);
        }
        for at in 0..4 {
            rib.withdraw_local(prefix(at), &mut changes);
        }
        prop_assert_eq!((rib.attribute_sets(), rib.prefixes(Family::V4)), (0, 0));
    }

    #[test]
    fn the_order_of_announcements_does_not_matter(
        routes in prop::collection::btree_map((1..5_u32, 0..2_u32), arbitrary_attributes(), 1..8),
        turn in 0..8_usize,
        multipath in any::<bool>(),
    ) {
        let mut steps: Vec<Step> =
            routes.into_iter().map(|((peer, id), set)| Step::Announce(peer, 0, id, set, false)).collect();
        let listed = |steps: &[Step]| {
            let (mut rib, mut changes) = rib_with(multipath, 4);
            steps.iter().for_each(|step| apply(&mut rib, step, &mut changes));
            let all: Vec<_> =
                rib.paths(&prefix(0)).iter().map(|path| (path.peer, path.remote_id, path.in_use())).collect();
            all
        };
        let expected = listed(&steps);
        let turn = turn % steps.len();
        steps.rotate_left(turn);
        steps.reverse();
        prop_assert_eq!(listed(&steps), expected);
    }
}
