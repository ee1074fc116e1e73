use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::policy::{NodePolicy, PeerPolicy, RouteType, node_policies};
use crate::routing::bgp::types::*;

const OWN: Own =
    Own { asn: Asn(64512), router_id: Ipv4Addr::new(10, 0, 0, 1), cluster_id: Ipv4Addr::new(10, 0, 0, 99) };

fn target(peer: u32, kind: PeerKind) -> Target {
    Target {
        peer: PeerId(peer),
        kind,
        asn: if kind == PeerKind::Internal { OWN.asn } else { Asn(65001) },
        local_asn: OWN.asn,
        router_id: Ipv4Addr::new(10, 9, 0, peer as u8),
        client: false,
        address: format!("10.0.0.{}", 100 + peer).parse().unwrap(),
        local_v4: Some(OWN.router_id),
        local_v6: Some(NextHop::from("2001:db8::1".parse::<std::net::IpAddr>().unwrap())),
        shared: Vec::new(),
        families: Family::ALL.to_vec(),
        extended_next_hop: false,
        next_hop_self: false,
        takes_own_as: false,
    }
}

fn source(peer: u32, route_type: RouteType, client: bool) -> Source {
    Source { peer: PeerId(peer), route_type, client, router_id: Ipv4Addr::new(10, 9, 0, peer as u8) }
}

fn route(text: &str) -> Nlri {
    Nlri::new(text.parse::<Prefix>().unwrap())
}

fn path(next_hop: &str, asns: &[u32]) -> Attributes {
    let next_hop: std::net::IpAddr = next_hop.parse().unwrap();
    Attributes::new(Origin::Igp, asns.iter().copied().map(Asn).collect(), NextHop::from(next_hop))
}

fn told(nlri: &Nlri, path: &Attributes, from: &Source, to: &Target) -> Option<Attributes> {
    export(nlri, path, from, to, &OWN, &PeerPolicy::accept())
}

#[test]
fn passes_routes_between_peers_as_the_rfcs_say() {
    use PeerKind as To;
    use RouteType::{External, Internal, Local};
    let cases = [
        // from, from a client, to, to a client, told
        (Local, false, To::Internal, false, true),
        (Local, false, To::External, false, true),
        (External, false, To::Internal, false, true),
        (External, false, To::External, false, true),
        (Internal, false, To::External, false, true),
        (Internal, false, To::Internal, false, false),
        (Internal, true, To::Internal, false, true),
        (Internal, false, To::Internal, true, true),
        (Internal, true, To::Internal, true, true),
    ];
    for (from, from_client, to, to_client, expected) in cases {
        let to = Target { client: to_client, ..target(2, to) };
        let result = told(&route("10.1.0.0/24"), &path("10.0.0.7", &[]), &source(1, from, from_client), &to);
        assert_eq!(result.is_some(), expected, "{from:?} {from_client} to {to:?}");
    }
}

#[test]
fn never_tells_a_path_to_whom_it_came_from() {
    let nlri = route("10.1.0.0/24");
    let from = source(2, RouteType::External, false);
    assert_eq!(told(&nlri, &path("10.0.0.7", &[65009]), &from, &target(2, PeerKind::External)), None);
    let on_path = path("10.0.0.7", &[65009, 65001]);
    let from = source(1, RouteType::External, false);
    assert_eq!(told(&nlri, &on_path, &from, &target(2, PeerKind::External)), None);
    let taker = Target { takes_own_as: true, ..target(2, PeerKind::External) };
    assert!(told(&nlri, &on_path, &from, &taker).is_some());
    let mut originated = path("10.0.0.7", &[]);
    originated.originator_id = Some(Ipv4Addr::new(10, 9, 0, 2));
    let client = Target { client: true, ..target(2, PeerKind::Internal) };
    assert_eq!(told(&nlri, &originated, &source(1, RouteType::Internal, true), &client), None);
}

#[test]
fn an_external_peer_sees_our_as_and_address_and_nothing_internal() {
    let mut learned = path("10.0.0.7", &[65009]);
    learned.med = Some(5);
    learned.local_pref = Some(200);
    learned.originator_id = Some(Ipv4Addr::new(1, 1, 1, 1));
    learned.cluster_list = vec![Ipv4Addr::new(1, 1, 1, 1)].into();
    let result =
        told(&route("10.1.0.0/24"), &learned, &source(1, RouteType::Internal, false), &target(2, PeerKind::External));
    assert_eq!(result, Some(path("10.0.0.1", &[64512, 65009])));
}

#[test]
fn keeps_the_med_and_next_hop_of_own_routes_towards_external_peers() {
    let mut local = path("10.0.0.7", &[]);
    local.med = Some(5);
    let result = told(&route("10.1.0.0/24"), &local, &Source::local(&OWN), &target(2, PeerKind::External)).unwrap();
    assert_eq!((result.med, result.next_hop), (Some(5), local.next_hop));
    let result =
        told(&route("10.1.0.0/24"), &path("0.0.0.0", &[]), &Source::local(&OWN), &target(2, PeerKind::Internal));
    assert_eq!(result.unwrap().next_hop, path("10.0.0.1", &[]).next_hop);
}

#[test]
fn reflection_marks_the_path_and_leaves_the_next_hop() {
    let client = Target { client: true, next_hop_self: true, ..target(2, PeerKind::Internal) };
    let nlri = route("10.1.0.0/24");
    let once = told(&nlri, &path("10.0.0.7", &[]), &source(1, RouteType::Internal, true), &client).unwrap();
    assert_eq!(once.originator_id, Some(Ipv4Addr::new(10, 9, 0, 1)));
    assert_eq!(*once.cluster_list, [OWN.cluster_id]);
    assert_eq!((once.local_pref, once.next_hop), (Some(100), path("10.0.0.7", &[]).next_hop));
    let twice = told(&nlri, &once, &source(3, RouteType::Internal, true), &client).unwrap();
    assert_eq!(twice.originator_id, once.originator_id, "the first reflector's word stays");
    assert_eq!(twice.cluster_list.len(), 2);
}

#[test]
fn well_known_communities_stop_a_route() {
    let cases = [
        (community::NO_EXPORT, true, false),
        (community::NO_EXPORT_SUBCONFED, true, false),
        (community::NO_ADVERTISE, false, false),
        (community::GRACEFUL_SHUTDOWN, true, true),
    ];
    for (value, internal, external) in cases {
        let mut path = path("10.0.0.7", &[]);
        path.communities = vec![value].into();
        let tell = |kind| told(&route("10.1.0.0/24"), &path, &Source::local(&OWN), &target(2, kind)).is_some();
        assert_eq!((tell(PeerKind::Internal), tell(PeerKind::External)), (internal, external), "{value:#x}");
    }
}

#[test]
fn leaves_a_next_hop_on_the_shared_subnet_alone() {
    let nlri = route("10.1.0.0/24");
    let to = Target { shared: vec!["10.0.0.0/24".parse().unwrap()], ..target(2, PeerKind::External) };
    let from = source(1, RouteType::External, false);
    let next_hop = |address: &str| told(&nlri, &path(address, &[65009]), &from, &to).unwrap().next_hop.address;
    assert_eq!(next_hop("10.0.0.7").to_string(), "10.0.0.7");
    assert_eq!(next_hop("10.0.1.7").to_string(), "10.0.0.1", "another subnet");
    assert_eq!(next_hop("10.0.0.102").to_string(), "10.0.0.1", "the peer's own address");
}

#[test]
fn takes_a_next_hop_of_the_routes_family() {
    let from = source(1, RouteType::External, false);
    let (v4, v6) = (route("10.1.0.0/24"), route("2001:db8:1::/64"));
    let mut to = target(2, PeerKind::External);
    let next_hop = |nlri, to: &Target| {
        told(nlri, &path("2001:db8::7", &[65009]), &from, to).map(|route| route.next_hop.address.to_string())
    };
    assert_eq!(next_hop(&v6, &to).as_deref(), Some("2001:db8::1"));
    assert_eq!(next_hop(&v4, &to).as_deref(), Some("10.0.0.1"));
    to.local_v4 = None;
    assert_eq!(next_hop(&v4, &to), None, "no address a session without RFC 8950 can carry");
    to.extended_next_hop = true;
    assert_eq!(next_hop(&v4, &to).as_deref(), Some("2001:db8::1"));
    to.local_v6 = None;
    assert_eq!(next_hop(&v6, &to), None);
    to.families = vec![Family::V4];
    assert_eq!(next_hop(&v6, &to), None);
}

#[test]
fn the_link_local_half_of_a_next_hop_stays_on_its_link() {
    let nlri = route("2001:db8:1::/64");
    let mut offered = path("2001:db8::7", &[]);
    offered.next_hop.link_local = Some("fe80::7".parse().unwrap());
    let far = target(2, PeerKind::Internal);
    let near = Target { shared: vec!["2001:db8::/64".parse().unwrap()], ..far.clone() };
    let from = source(1, RouteType::External, false);
    let link_local = |to: &Target| told(&nlri, &offered, &from, to).unwrap().next_hop.link_local;
    assert_eq!(link_local(&far), None);
    assert_eq!(link_local(&near), offered.next_hop.link_local);
}

/// What a peer holds after what it was told; refuses withdrawals of what it does not hold.
#[derive(Debug, Default)]
struct Peer {
    held: BTreeMap<Nlri, Attributes>,
    marks: Vec<(Mark, usize)>,
    n_messages: usize,
    refuses_med: Option<u32>,
}

impl Encoder for Peer {
    fn reach(&mut self, attributes: &Attributes, family: Family, nlri: &[Nlri], out: &mut Vec<u8>) -> bool {
        if self.refuses_med.is_some() && self.refuses_med == attributes.med {
            return false;
        }
        self.n_messages += 1;
        out.extend(std::iter::repeat_n(0, 20 + 5 * nlri.len()));
        for nlri in nlri {
            assert_eq!(family_of(&nlri.prefix), family);
            self.held.insert(*nlri, attributes.clone());
        }
        true
    }

    fn withdraw(&mut self, _: Family, nlri: &[Nlri], out: &mut Vec<u8>) {
        out.extend(std::iter::repeat_n(0, 20 + 5 * nlri.len()));
        for nlri in nlri {
            assert!(self.held.remove(nlri).is_some(), "withdrew what was not announced");
        }
    }

    fn mark(&mut self, mark: Mark, out: &mut Vec<u8>) {
        out.push(0);
        self.marks.push((mark, self.held.len()));
    }
}

fn nth(n: u8) -> Nlri {
    if n.is_multiple_of(3) { route(&format!("2001:db8:{n:x}::/48")) } else { route(&format!("10.{n}.0.0/16")) }
}

fn variant(med: u32) -> Arc<Attributes> {
    Arc::new(Attributes { med: Some(med), ..path("10.0.0.7", &[]) })
}

#[derive(Clone, Debug)]
enum Step {
    Announce(u8, u32),
    Withdraw(u8),
    Repeat,
    Mark,
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..20, 0u32..4).prop_map(|(n, med)| Step::Announce(n, med)),
        3 => (0u8..20).prop_map(Step::Withdraw),
        1 => Just(Step::Repeat),
        1 => Just(Step::Mark),
        2 => (1usize..80).prop_map(Step::Take),
    ]
}

proptest! {
    #[test]
    fn a_peer_ends_up_with_the_last_state(steps in prop::collection::vec(step(), 0..80), refuses in any::<bool>()) {
        let mut queue = Queue::default();
        let mut peer = Peer { refuses_med: refuses.then_some(3), ..Peer::default() };
        let mut desired: BTreeMap<Nlri, Attributes> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Announce(n, med) => {
                    queue.announce(nth(n), variant(med));
                    desired.insert(nth(n), (*variant(med)).clone());
                }
                Step::Withdraw(n) => {
                    queue.withdraw(nth(n));
                    desired.remove(&nth(n));
                }
                Step::Repeat => queue.repeat(Family::V4),
                Step::Mark => queue.mark(Mark::EndOfRib(Family::V4)),
                Step::Take(limit) => queue.take(limit, &mut peer, &mut Vec::new()),
            }
        }
        queue.take(usize::MAX, &mut peer, &mut Vec::new());
        desired.retain(|_, route| route.med != peer.refuses_med || !refuses);
        prop_assert!(queue.is_idle());
        prop_assert_eq!(&peer.held, &desired);
        let advertised: BTreeMap<Nlri, Attributes> = queue.advertised().map(|(n, a)| (*n, (**a).clone())).collect();
        prop_assert_eq!(advertised, desired);
    }
}

#[test]
fn packs_routes_by_attributes_and_is_silent_about_what_the_peer_knows() {
    let (mut queue, mut peer) = (Queue::default(), Peer::default());
    let (a, b) = (variant(1), variant(2));
    for n in 0..100u8 {
        queue.announce(route(&format!("10.{n}.0.0/16")), if n % 2 == 0 { a.clone() } else { b.clone() });
    }
    queue.take(usize::MAX, &mut peer, &mut Vec::new());
    assert_eq!((peer.n_messages, peer.held.len()), (2, 100));
    queue.announce(route("10.0.0.0/16"), variant(1));
    assert!(queue.is_idle());
    queue.repeat(Family::V4);
    queue.announce(route("10.0.0.0/16"), b.clone());
    queue.announce(route("10.0.0.0/16"), a.clone());
    queue.take(usize::MAX, &mut peer, &mut Vec::new());
    assert_eq!(peer.n_messages, 4, "a refresh tells all of it again");
}

#[test]
fn end_of_rib_waits_for_routes_that_changed_on_their_way() {
    let (mut queue, mut peer) = (Queue::default(), Peer::default());
    queue.announce(route("10.1.0.0/16"), variant(1));
    queue.announce(route("10.2.0.0/16"), variant(2));
    queue.mark(Mark::EndOfRib(Family::V4));
    queue.take(1, &mut peer, &mut Vec::new());
    queue.announce(route("10.2.0.0/16"), variant(3));
    queue.take(usize::MAX, &mut peer, &mut Vec::new());
    assert_eq!(peer.marks, [(Mark::EndOfRib(Family::V4), 2)]);
}

#[test]
fn peers_told_the_same_share_a_group_and_its_attributes() {
    let mut groups = Groups::new(OWN);
    for peer in 1..=3 {
        groups.join(target(peer, PeerKind::External), PeerPolicy::accept());
    }
    groups.join(target(4, PeerKind::Internal), PeerPolicy::accept());
    assert_eq!(groups.len(), 2);
    let nlri = route("10.1.0.0/24");
    let learned = path("10.0.0.7", &[65009]);
    let offer = Offer { attributes: &learned, from: source(1, RouteType::External, false) };
    groups.tell(nlri, Some(offer));
    assert_eq!(groups.busy(), [PeerId(2), PeerId(3), PeerId(4)], "not back to peer 1");
    let mut held = Vec::new();
    for peer in [2, 3] {
        let queue = groups.queue_mut(PeerId(peer)).unwrap();
        queue.take(usize::MAX, &mut Peer::default(), &mut Vec::new());
        held.push(queue.advertised().next().unwrap().1.clone());
    }
    assert!(Arc::ptr_eq(&held[0], &held[1]));
    groups.tell(nlri, None);
    assert_eq!(groups.busy(), [PeerId(2), PeerId(3)], "peer 4 never heard of it");
}

#[test]
fn a_change_of_policy_sends_only_differences() {
    let mut groups = Groups::new(OWN);
    let to = target(1, PeerKind::External);
    let mut node = NodePolicy {
        pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        vips: vec!["192.0.2.1".parse().unwrap()],
        external_peers: vec![to.address],
        ..NodePolicy::default()
    };
    let direction = crate::routing::bgp::policy::Direction::Export;
    let view = to.view();
    groups.join(to, node_policies(&node).prepare(direction, &view));
    let local = path("10.0.0.1", &[]);
    let offer = Offer { attributes: &local, from: Source::local(&OWN) };
    let mut peer = Peer::default();
    let mut round = |groups: &mut Groups| {
        for nlri in [route("10.1.0.0/24"), route("192.0.2.1/32")] {
            groups.tell_one(PeerId(1), nlri, Some(offer));
        }
        let before = peer.n_messages;
        groups.queue_mut(PeerId(1)).unwrap().take(usize::MAX, &mut peer, &mut Vec::new());
        (peer.held.len(), peer.n_messages - before)
    };
    assert_eq!(round(&mut groups), (1, 1));
    assert!(!groups.set_policy(PeerId(1), node_policies(&node).prepare(direction, &view)));
    node.advertise_pod_cidr = true;
    assert!(groups.set_policy(PeerId(1), node_policies(&node).prepare(direction, &view)));
    assert_eq!(round(&mut groups), (2, 1));
    node.vips.clear();
    assert!(groups.set_policy(PeerId(1), node_policies(&node).prepare(direction, &view)));
    assert_eq!(round(&mut groups), (1, 0));
}

proptest! {
    #[test]
    fn groups_tell_what_export_says(
        from_peer in 0u32..5, from_type in 0usize..3, client in any::<bool>(), shared in any::<bool>(),
        host in 100u8..106, asn in prop_oneof![Just(65001u32), Just(65009)], no_export in any::<bool>(),
    ) {
        let from_type = [RouteType::Local, RouteType::Internal, RouteType::External][from_type];
        let from = source(from_peer, from_type, client);
        let mut offered = path(&format!("10.0.0.{host}"), &[asn]);
        if no_export {
            offered.communities = vec![community::NO_EXPORT].into();
        }
        let nlri = route("10.1.0.0/24");
        let mut groups = Groups::new(OWN);
        let targets: Vec<Target> = (1..5).map(|peer| {
            let kind = if peer < 3 { PeerKind::External } else { PeerKind::Internal };
            let shared = if shared { vec!["10.0.0.0/24".parse().unwrap()] } else { Vec::new() };
            Target { shared, client: peer == 4, ..target(peer, kind) }
        }).collect();
        for to in &targets {
            groups.join(to.clone(), PeerPolicy::accept());
        }
        groups.tell(nlri, Some(Offer { attributes: &offered, from }));
        for to in &targets {
            let mut peer = Peer::default();
            groups.queue_mut(to.peer).unwrap().take(usize::MAX, &mut peer, &mut Vec::new());
            prop_assert_eq!(peer.held.get(&nlri).cloned(), told(&nlri, &offered, &from, to));
        }
    }
}

#[test]
fn forgets_attributes_nobody_holds() {
    let mut groups = Groups::new(OWN);
    groups.join(target(1, PeerKind::Internal), PeerPolicy::accept());
    for med in 0..5000 {
        let offered = Attributes { med: Some(med), ..path("10.0.0.7", &[]) };
        groups.tell(route("10.1.0.0/24"), Some(Offer { attributes: &offered, from: Source::local(&OWN) }));
    }
    assert!(groups.n_interned() <= 1024, "{}", groups.n_interned());
}
