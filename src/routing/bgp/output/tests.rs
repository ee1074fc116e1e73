use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::policy::{NodePolicy, PeerPolicy, RouteType, node_policies};
use crate::routing::bgp::rib::Change;
use crate::routing::bgp::shared::Shared;
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
        next_hop_unchanged: false,
        takes_own_as: false,
        long_lived: Vec::new(),
        four_octet_as: true,
        add_path: Vec::new(),
        max_message: wire::MAX,
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
fn extended_communities_that_are_not_transitive_stay_inside_the_as() {
    let (bandwidth, target_of_routes) = ([0x40, 4, 0xfd, 0xe8, 0, 0, 0, 1], [0, 2, 0xfd, 0xe8, 0, 0, 0, 1]);
    let both = [bandwidth, target_of_routes];
    let path = Attributes { extended_communities: both.into(), ..path("192.0.2.9", &[65009]) };
    let from = source(9, RouteType::External, false);
    let told = |kind| told(&route("10.1.0.0/24"), &path, &from, &target(2, kind)).expect("told").extended_communities;
    assert_eq!(*told(PeerKind::External), [target_of_routes]);
    assert_eq!(*told(PeerKind::Internal), both);
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
fn passes_a_next_hop_on_unchanged_where_a_peer_is_to_see_it() {
    let nlri = route("10.1.0.0/24");
    let to = Target { next_hop_unchanged: true, ..target(2, PeerKind::External) };
    let tell = |next_hop: &str, to: &Target| {
        let from = source(1, RouteType::External, false);
        told(&nlri, &path(next_hop, &[65009]), &from, to).unwrap().next_hop
    };
    let own = path("10.0.0.1", &[]).next_hop;
    assert_eq!(tell("172.16.0.7", &to), path("172.16.0.7", &[]).next_hop);
    assert_eq!(tell("172.16.0.7", &target(2, PeerKind::External)), own);
    assert_eq!(tell("10.0.0.102", &to), own, "its own address is no next hop for it");
    assert_eq!(tell("2001:db8::7", &to), own, "the session carries no IPv6 next hops for IPv4");
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

/// What a peer holds after what it was told; objects to withdrawals of what it does not hold.
#[derive(Debug)]
struct Peer {
    id: PeerId,
    session: Negotiated,
    held: BTreeMap<Nlri, Attributes>,
    marks: Vec<(Mark, usize)>,
    n_messages: usize,
}

impl Peer {
    fn new(target: &Target) -> Peer {
        let session = Negotiated {
            peer_asn: target.asn,
            peer_id: target.router_id,
            // An internal one hears of all attributes.
            kind: PeerKind::Internal,
            hold_time: 90,
            four_octet_as: target.four_octet_as,
            families: target.families.clone(),
            add_path_receive: target.add_path.clone(),
            add_path_send: Vec::new(),
            extended_next_hop: target.extended_next_hop,
            max_message: target.max_message,
            route_refresh: true,
            enhanced_refresh: true,
            graceful_restart: None,
            long_lived: Vec::new(),
        };
        Peer { id: target.peer, session, held: BTreeMap::new(), marks: Vec::new(), n_messages: 0 }
    }

    fn take(&mut self, groups: &mut Groups, limit: usize) {
        let mut bytes = Vec::new();
        groups.take(self.id, limit, &mut bytes);
        let mut rest = bytes.as_slice();
        while let Some(length) = wire::frame(rest, self.session.max_message).unwrap() {
            let (message, later) = rest.split_at(length);
            rest = later;
            match wire::decode(message, Some(&self.session)).unwrap() {
                wire::Message::Update(update) => self.update(update),
                wire::Message::Refresh { family, kind: Refresh::End } => {
                    self.marks.push((Mark::EndOfRefresh(family), self.held.len()));
                }
                wire::Message::Refresh { family, kind: Refresh::Begin } => {
                    self.marks.push((Mark::BeginOfRefresh(family), self.n_messages));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(rest.is_empty());
    }

    fn update(&mut self, update: wire::Update) {
        assert_eq!(update.faults, Vec::<String>::new());
        if let Some(family) = update.end_of_rib {
            self.marks.push((Mark::EndOfRib(family), self.held.len()));
            return;
        }
        self.n_messages += 1;
        for nlri in update.withdrawn {
            assert!(self.held.remove(&nlri).is_some(), "withdrew {nlri:?}, which was not announced");
        }
        for reach in update.reach {
            self.held.extend(reach.nlri.into_iter().map(|nlri| (nlri, reach.attributes.clone())));
        }
    }
}

fn nth(n: u8) -> Nlri {
    if n.is_multiple_of(3) { route(&format!("2001:db8:{n:x}::/48")) } else { route(&format!("10.{n}.0.0/16")) }
}

fn variant(med: u32) -> Shared {
    Shared::from(Attributes { med: Some(med), ..path("10.0.0.7", &[]) })
}

/// Says that a route is this now, or is no more.
fn say(groups: &mut Groups, nlri: Nlri, attributes: Option<&Shared>) {
    let from = Source::local(&OWN);
    let offer = attributes.map(|attributes| Offer { path_id: 1, leads: true, attributes, from });
    groups.tell(nlri.prefix, offer.as_slice(), true);
    groups.settle();
}

/// A group of one peer.
fn one() -> (Groups, Peer) {
    let to = target(2, PeerKind::External);
    let mut groups = Groups::new(OWN);
    let peer = Peer::new(&to);
    groups.join(to, PeerPolicy::accept());
    (groups, peer)
}

#[test]
fn packs_routes_by_attributes_and_is_silent_about_what_the_peer_knows() {
    let (mut groups, mut peer) = one();
    let (a, b) = (variant(1), variant(2));
    for n in 0..100u8 {
        say(&mut groups, route(&format!("10.{n}.0.0/16")), Some(if n % 2 == 0 { &a } else { &b }));
    }
    peer.take(&mut groups, usize::MAX);
    assert_eq!((peer.n_messages, peer.held.len()), (2, 100));
    say(&mut groups, route("10.0.0.0/16"), Some(&variant(1)));
    assert_eq!(groups.busy(), []);
    groups.repeat(peer.id, Family::V4, false);
    say(&mut groups, route("10.0.0.0/16"), Some(&b));
    say(&mut groups, route("10.0.0.0/16"), Some(&a));
    assert_eq!(groups.stats(peer.id), Stats { advertised: 100, pending: 100 });
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.n_messages, 4, "a refresh tells all of it again");
}

#[test]
fn end_of_rib_waits_for_routes_that_changed_on_their_way() {
    let (mut groups, mut peer) = one();
    say(&mut groups, route("10.1.0.0/16"), Some(&variant(1)));
    say(&mut groups, route("10.2.0.0/16"), Some(&variant(2)));
    groups.mark(peer.id, Mark::EndOfRib(Family::V4));
    peer.take(&mut groups, 1);
    say(&mut groups, route("10.2.0.0/16"), Some(&variant(3)));
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.marks, [(Mark::EndOfRib(Family::V4), 2)]);
    assert_eq!(peer.held[&route("10.2.0.0/16")].med, Some(3));
    groups.mark(peer.id, Mark::EndOfRefresh(Family::V6));
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.marks.last(), Some(&(Mark::EndOfRefresh(Family::V6), 2)));
}

#[test]
fn a_refresh_lies_between_its_marks() {
    let (begin, end) = (Mark::BeginOfRefresh(Family::V4), Mark::EndOfRefresh(Family::V4));
    let (mut groups, mut peer) = one();
    say(&mut groups, route("10.1.0.0/16"), Some(&variant(1)));
    // The first dump is not complete: its End-of-RIB says all.
    groups.mark(peer.id, Mark::EndOfRib(Family::V4));
    groups.repeat(peer.id, Family::V4, true);
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.marks, [(Mark::EndOfRib(Family::V4), 1)]);
    peer.marks.clear();
    assert_eq!(peer.n_messages, 1);
    groups.repeat(peer.id, Family::V4, true);
    // Asked again before the end: one beginning, one end.
    peer.take(&mut groups, 1);
    groups.repeat(peer.id, Family::V4, true);
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.marks, [(begin, 1), (end, 1)]);
    assert!(peer.n_messages > 1, "the routes came again");
    assert_eq!(groups.busy(), []);
}

#[test]
fn attributes_without_room_for_a_route_take_the_old_ones_away() {
    let (mut groups, mut peer) = one();
    let nlri = route("10.1.0.0/16");
    say(&mut groups, nlri, Some(&variant(1)));
    peer.take(&mut groups, usize::MAX);
    let long = Attributes { communities: (0..1500).collect(), ..path("10.0.0.7", &[]) };
    say(&mut groups, nlri, Some(&Shared::from(long)));
    peer.take(&mut groups, usize::MAX);
    assert_eq!((peer.held.len(), groups.stats(peer.id)), (0, Stats::default()));
    say(&mut groups, nlri, Some(&variant(1)));
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.held.len(), 1);
}

#[test]
fn peers_told_the_same_share_a_group_and_its_words() {
    let mut groups = Groups::new(OWN);
    let shared = vec!["10.0.0.0/16".parse().unwrap()];
    for peer in 1..=3 {
        groups.join(Target { shared: shared.clone(), ..target(peer, PeerKind::External) }, PeerPolicy::accept());
    }
    groups.join(target(4, PeerKind::Internal), PeerPolicy::accept());
    assert_eq!(groups.len(), 2);
    let nlri = route("10.1.0.0/24");
    let learned = Shared::from(path("10.0.0.7", &[65009]));
    let from = source(1, RouteType::External, false);
    groups.tell(nlri.prefix, &[Offer { path_id: 1, leads: true, attributes: &learned, from }], true);
    groups.settle();
    assert_eq!(groups.busy(), [PeerId(2), PeerId(3), PeerId(4)], "not back to peer 1");
    assert_eq!(groups.n_words(), 2);
    for id in [2, 3] {
        Peer::new(&target(id, PeerKind::External)).take(&mut groups, usize::MAX);
        let told = groups.told(PeerId(id), Family::V4);
        assert_eq!(told.iter().map(|(nlri, set)| (*nlri, set.as_path.hops())).collect::<Vec<_>>(), [(nlri, 2)]);
    }
    groups.tell(nlri.prefix, &[], true);
    assert_eq!(groups.busy(), [PeerId(2), PeerId(3)], "peer 4 never heard of it");
    assert_eq!(groups.n_words(), 0);
}

#[test]
fn a_change_of_policy_sends_only_differences() {
    let mut groups = Groups::new(OWN);
    let to = target(1, PeerKind::External);
    let mut node = NodePolicy {
        pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        vips: vec!["192.0.2.1".parse().unwrap()],
        external_peers: vec![to.address.into()],
        ..NodePolicy::default()
    };
    let direction = crate::routing::bgp::policy::Direction::Export;
    let view = to.view();
    groups.join(to.clone(), node_policies(&node).prepare(direction, &view));
    let local = Shared::from(path("10.0.0.1", &[]));
    let offers = [Offer { path_id: 1, leads: true, attributes: &local, from: Source::local(&OWN) }];
    let mut peer = Peer::new(&to);
    let mut round = |groups: &mut Groups| {
        for nlri in [route("10.1.0.0/24"), route("192.0.2.1/32")] {
            groups.tell_one(PeerId(1), nlri.prefix, &offers);
        }
        groups.settle();
        let before = peer.n_messages;
        peer.take(groups, usize::MAX);
        (peer.held.len(), peer.n_messages - before)
    };
    assert_eq!(round(&mut groups), (1, 1));
    assert!(!groups.update(to.clone(), node_policies(&node).prepare(direction, &view)));
    node.advertise_pod_cidr = true;
    assert!(groups.update(to.clone(), node_policies(&node).prepare(direction, &view)));
    assert_eq!(round(&mut groups), (2, 1));
    node.vips.clear();
    assert!(groups.update(to.clone(), node_policies(&node).prepare(direction, &view)));
    assert_eq!(round(&mut groups), (1, 1), "a withdrawal");
    assert!(groups.update(Target { asn: Asn(65002), ..to }, node_policies(&node).prepare(direction, &view)));
    assert_eq!(round(&mut groups), (1, 0));
}

#[test]
fn a_route_through_the_peer_itself_is_its_own_matter() {
    let mut groups = Groups::new(OWN);
    let shared = vec!["10.0.0.0/24".parse().unwrap()];
    let targets = [2, 3].map(|peer| Target { shared: shared.clone(), ..target(peer, PeerKind::External) });
    targets.iter().for_each(|to| groups.join(to.clone(), PeerPolicy::accept()));
    assert_eq!(groups.len(), 1);
    let mut peers = [Peer::new(&targets[0]), Peer::new(&targets[1])];
    for hop in ["10.0.0.102", "10.0.0.103", "10.0.0.102", "10.0.0.9"] {
        let offered = Shared::from(path(hop, &[65009]));
        let from = source(1, RouteType::External, false);
        groups.tell(
            route("10.1.0.0/24").prefix,
            &[Offer { path_id: 1, leads: true, attributes: &offered, from }],
            true,
        );
        groups.settle();
        for (peer, to) in peers.iter_mut().zip(&targets) {
            peer.take(&mut groups, usize::MAX);
            let expected = told(&route("10.1.0.0/24"), &offered, &from, to);
            assert_eq!(peer.held.get(&route("10.1.0.0/24")), expected.as_ref(), "{hop} to {:?}", to.peer);
        }
    }
    groups.tell(route("10.1.0.0/24").prefix, &[], true);
    assert_eq!(groups.busy(), [PeerId(2), PeerId(3)]);
    targets.iter().for_each(|to| groups.leave(to.peer));
    assert_eq!((groups.n_words(), groups.len()), (0, 0));
}

#[test]
fn words_nobody_holds_are_forgotten() {
    let mut groups = Groups::new(OWN);
    groups.join(target(1, PeerKind::Internal), PeerPolicy::accept());
    for med in 0..5000 {
        say(&mut groups, route("10.1.0.0/24"), Some(&variant(med)));
    }
    assert_eq!(groups.n_words(), 1);
}

#[test]
fn a_peer_that_reads_nothing_costs_memory_for_routes_and_not_for_events() {
    let (mut groups, mut peer) = one();
    for n in 0..20_000u32 {
        let nlri = Nlri::new(crate::net::host_prefix(std::net::IpAddr::from(n.to_be_bytes())));
        say(&mut groups, nlri, Some(&variant(1)));
        say(&mut groups, nlri, Some(&variant(2)));
        say(&mut groups, nlri, None);
    }
    assert!(groups.n_queued(peer.id) <= 1025, "{}", groups.n_queued(peer.id));
    assert_eq!(groups.stats(peer.id), Stats::default());
    peer.take(&mut groups, usize::MAX);
    assert_eq!(peer.n_messages, 0);
}

/// What happens to routes and peers.
#[derive(Clone, Debug)]
enum Step {
    /// A path of a route: its identifier, whose it is, and its attributes by number.
    Announce(u8, u32, u32, u32),
    Withdraw(u8, u32),
    /// All paths of these routes at once, one bit each.
    Vanish(u16),
    Repeat(usize),
    Mark(usize),
    Take(usize, usize),
    /// Another session with the peer.
    Again(usize),
    /// Another policy for the peer.
    Policy(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..12, 1u32..4, 0u32..5, 0u32..5).prop_map(|(n, id, from, set)| Step::Announce(n, id, from, set)),
        6 => (0u8..12, 1u32..4).prop_map(|(n, id)| Step::Withdraw(n, id)),
        1 => (0u16..1 << 12).prop_map(Step::Vanish),
        1 => (0usize..6).prop_map(Step::Repeat),
        1 => (0usize..6).prop_map(Step::Mark),
        6 => (0usize..6, 1usize..120).prop_map(|(peer, limit)| Step::Take(peer, limit)),
        1 => (0usize..6).prop_map(Step::Again),
        2 => (0usize..6, any::<bool>()).prop_map(|(peer, strict)| Step::Policy(peer, strict)),
    ]
}

type Paths = BTreeMap<u32, (Source, Shared)>;

/// The peers of the model: two external ones that share a subnet, one internal, a client, and two with ADD-PATH.
fn targets() -> Vec<Target> {
    let shared = vec!["10.0.0.0/24".parse().unwrap()];
    let near = |peer| Target { shared: shared.clone(), ..target(peer, PeerKind::External) };
    let all = |to: Target| Target { add_path: Family::ALL.to_vec(), ..to };
    vec![
        near(1),
        near(2),
        target(3, PeerKind::Internal),
        Target { client: true, ..target(4, PeerKind::Internal) },
        all(target(5, PeerKind::External)),
        all(Target { four_octet_as: false, ..target(6, PeerKind::External) }),
    ]
}

/// Accepts all, or only routes with an even second octet.
fn policy(strict: bool, to: &Target) -> PeerPolicy {
    let vips = (0..12).filter(|n| n % 2 == 0).map(|n| nth(n).prefix).collect();
    let node = NodePolicy {
        pod_cidrs: vips,
        node_addresses: vec![target(3, PeerKind::Internal).address, target(4, PeerKind::Internal).address],
        external_peers: [1, 2, 5, 6].map(|peer| target(peer, PeerKind::External).address.into()).to_vec(),
        advertise_pod_cidr: true,
        ..NodePolicy::default()
    };
    if strict {
        node_policies(&node).prepare(crate::routing::bgp::policy::Direction::Export, &to.view())
    } else {
        PeerPolicy::accept()
    }
}

fn set(number: u32) -> Shared {
    let hop = ["10.0.0.7", "10.0.0.101", "10.0.0.102", "10.0.1.7", "10.0.0.9"][number as usize];
    Shared::from(Attributes { med: Some(number), ..path(hop, if number == 3 { &[65001] } else { &[65009] }) })
}

fn offers(paths: &Paths) -> Vec<Offer<'_>> {
    let first = paths.keys().next();
    paths
        .iter()
        .map(|(id, (from, attributes))| Offer { path_id: *id, leads: Some(id) == first, attributes, from: *from })
        .collect()
}

/// Takes all paths of these routes away. One that had none is among those that are told, too.
fn vanish(groups: &mut Groups, routes: &mut BTreeMap<u8, Paths>, which: u16) {
    let mut gone = Vec::new();
    for (n, paths) in routes.iter_mut().filter(|(n, _)| which >> **n & 1 != 0) {
        gone.push(Change { prefix: nth(*n).prefix, best: !paths.is_empty() });
        paths.clear();
    }
    groups.tell_gone(gone.into_iter());
}

/// What a peer must hold in the end, said without groups, tables and queues.
fn expected(routes: &BTreeMap<u8, Paths>, to: &Target, policy: &PeerPolicy) -> BTreeMap<Nlri, Attributes> {
    let mut all = BTreeMap::new();
    for (n, paths) in routes {
        for (id, (from, attributes)) in paths.iter().take(if to.add_path.is_empty() { 1 } else { usize::MAX }) {
            let nlri = Nlri { path_id: if to.add_path.is_empty() { 0 } else { *id }, ..nth(*n) };
            all.extend(export(&nlri, attributes, from, to, &OWN, policy).map(|told| (nlri, told)));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_peer_ends_up_with_what_it_may_know_and_hears_it_once(steps in prop::collection::vec(step(), 0..120)) {
        let mut groups = Groups::new(OWN);
        let targets = targets();
        let mut strict = [false; 6];
        let mut peers: Vec<Peer> = targets.iter().map(Peer::new).collect();
        targets.iter().for_each(|to| groups.join(to.clone(), PeerPolicy::accept()));
        let mut routes: BTreeMap<u8, Paths> = BTreeMap::new();
        let tell_all = |groups: &mut Groups, routes: &BTreeMap<u8, Paths>, peer: usize| {
            for (n, paths) in routes {
                groups.tell_one(targets[peer].peer, nth(*n).prefix, &offers(paths));
            }
            groups.settle();
        };
        for step in steps {
            match step {
                Step::Announce(n, id, from, number) => {
                    let route_type = [RouteType::Local, RouteType::External][usize::from(from > 0 && from < 3)];
                    let route_type = if from > 2 { RouteType::Internal } else { route_type };
                    let from = source(from, route_type, from == 4);
                    let paths = routes.entry(n).or_default();
                    let best = paths.first_key_value().is_none_or(|(first, _)| id <= *first);
                    paths.insert(id, (from, set(number)));
                    groups.tell(nth(n).prefix, &offers(paths), best);
                    groups.settle();
                }
                Step::Withdraw(n, id) => {
                    let paths = routes.entry(n).or_default();
                    let best = paths.first_key_value().is_some_and(|(first, _)| id == *first);
                    paths.remove(&id);
                    groups.tell(nth(n).prefix, &offers(paths), best);
                    groups.settle();
                }
                Step::Vanish(which) => {
                    vanish(&mut groups, &mut routes, which);
                    groups.settle();
                }
                Step::Repeat(peer) => groups.repeat(targets[peer].peer, Family::V4, false),
                Step::Mark(peer) => groups.mark(targets[peer].peer, Mark::EndOfRib(Family::V6)),
                Step::Take(peer, limit) => peers[peer].take(&mut groups, limit),
                Step::Again(peer) => {
                    groups.join(targets[peer].clone(), policy(strict[peer], &targets[peer]));
                    peers[peer] = Peer::new(&targets[peer]);
                    tell_all(&mut groups, &routes, peer);
                }
                Step::Policy(peer, now) => {
                    strict[peer] = now;
                    if groups.update(targets[peer].clone(), policy(now, &targets[peer])) {
                        tell_all(&mut groups, &routes, peer);
                    }
                }
            }
        }
        for ((peer, to), strict) in peers.iter_mut().zip(&targets).zip(strict) {
            peer.take(&mut groups, usize::MAX);
            let expected = expected(&routes, to, &policy(strict, to));
            prop_assert_eq!(&peer.held, &expected, "{:?}", to.peer);
            let mut told = groups.told(to.peer, Family::V4);
            told.extend(groups.told(to.peer, Family::V6));
            let told: BTreeMap<Nlri, Attributes> = told.into_iter().map(|(nlri, set)| (nlri, (*set).clone())).collect();
            prop_assert_eq!(told, expected);
            prop_assert_eq!(groups.stats(to.peer), Stats { advertised: peer.held.len(), pending: 0 });
            // Told again, nobody hears anything.
            tell_all(&mut groups, &routes, to.peer.0 as usize - 1);
        }
        prop_assert_eq!(groups.busy(), []);
        vanish(&mut groups, &mut routes, u16::MAX);
        for peer in &mut peers {
            peer.take(&mut groups, usize::MAX);
            prop_assert_eq!(peer.held.len(), 0);
        }
        prop_assert_eq!(groups.n_words(), 0);
        prop_assert!(targets.iter().all(|to| groups.n_queued(to.peer) == 0));
    }

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
        let offered = Shared::from(offered);
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
        groups.tell(nlri.prefix, &[Offer { path_id: 1, leads: true, attributes: &offered, from }], true);
        for to in &targets {
            let mut peer = Peer::new(to);
            peer.take(&mut groups, usize::MAX);
            prop_assert_eq!(peer.held.get(&nlri).cloned(), told(&nlri, &offered, &from, to));
        }
    }
}
