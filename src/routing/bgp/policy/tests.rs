use std::borrow::Cow;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::net::{Asn, Prefix};
use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Origin};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn attributes() -> Attributes {
    let as_path: AsPath = [65001, 65002].into_iter().map(Asn).collect();
    let mut attributes = Attributes::new(Origin::Igp, as_path, NextHop::from(address("10.0.0.7")));
    attributes.communities = vec![1, 5].into();
    attributes
}

fn view(peer: &str) -> PeerView {
    PeerView {
        address: address(peer),
        local_v4: Some(address("10.0.0.1")),
        local_v6: Some(address("2001:db8::1").into()),
    }
}

/// A policy set of these statements on export, rejecting the rest.
fn exporting(statements: Vec<Statement>) -> PolicySet {
    let mut set = PolicySet {
        policies: vec![Policy { name: "p".to_owned(), statements }],
        export: Assignment { policies: vec!["p".to_owned(), "nobody wrote it".to_owned()], default: Verdict::Reject },
        ..PolicySet::default()
    };
    let ranges = [("10.0.0.0/8", 16, 24), ("192.0.2.0/24", 32, 32)];
    let ranges = ranges.map(|(text, min, max)| PrefixRange { prefix: prefix(text), min, max });
    set.sets.prefix.insert("prefixes".to_owned(), ranges.to_vec());
    set.sets.prefix.insert("empty".to_owned(), Vec::new());
    set.sets.neighbor.insert("neighbors".to_owned(), vec![prefix("10.0.0.0/24"), prefix("2001:db8::9/128")]);
    set.sets.neighbor.insert("empty".to_owned(), Vec::new());
    set.sets.community.insert("one and five".to_owned(), vec![1, 5]);
    set.sets.community.insert("one and six".to_owned(), vec![1, 6]);
    set.sets.community.insert("empty".to_owned(), Vec::new());
    set.sets.as_path.insert("from 65001".to_owned(), vec![AsPathRange::From(Asn(65001))]);
    set.sets.as_path.insert("origin 65001".to_owned(), vec![AsPathRange::Origin(Asn(65001))]);
    set
}

fn statement(conditions: Conditions, actions: Actions, verdict: Option<Verdict>) -> Statement {
    Statement { name: "s".to_owned(), conditions, actions, verdict }
}

fn exported(set: &PolicySet, peer: &str, route: &str, route_type: RouteType) -> Option<Attributes> {
    let policy = set.prepare(Direction::Export, &view(peer));
    let attributes = attributes();
    policy.evaluate(&prefix(route), route_type, &attributes, attributes.next_hop).map(Cow::into_owned)
}

#[test]
fn conditions_hold_as_named() {
    let any = |name: &str| Some(SetMatch::any(name));
    let none = |name: &str| Some(SetMatch::invert(name));
    let all = |name: &str| Some(SetMatch { set: name.to_owned(), mode: MatchMode::All });
    let c = Conditions::default;
    let cases = [
        ("no condition", c(), true),
        ("prefix in the set", Conditions { prefix_set: any("prefixes"), ..c() }, true),
        ("prefix not in the set", Conditions { prefix_set: none("prefixes"), ..c() }, false),
        ("empty prefix set", Conditions { prefix_set: any("empty"), ..c() }, false),
        ("undefined prefix set", Conditions { prefix_set: any("undefined"), ..c() }, false),
        ("not in an undefined set", Conditions { prefix_set: none("undefined"), ..c() }, false),
        ("peer in the set", Conditions { neighbor_set: any("neighbors"), ..c() }, true),
        ("peer not in the set", Conditions { neighbor_set: none("neighbors"), ..c() }, false),
        ("empty neighbour set", Conditions { neighbor_set: any("empty"), ..c() }, false),
        ("any community", Conditions { community_set: any("one and six"), ..c() }, true),
        ("all communities", Conditions { community_set: all("one and five"), ..c() }, true),
        ("not all communities", Conditions { community_set: all("one and six"), ..c() }, false),
        ("no community", Conditions { community_set: none("one and six"), ..c() }, false),
        ("all of an empty set", Conditions { community_set: all("empty"), ..c() }, false),
        ("AS path from", Conditions { as_path_set: any("from 65001"), ..c() }, true),
        ("AS path origin", Conditions { as_path_set: any("origin 65001"), ..c() }, false),
        ("length", Conditions { as_path_length: Some(Compare::Equal(2)), ..c() }, true),
        ("too short", Conditions { as_path_length: Some(Compare::AtLeast(3)), ..c() }, false),
        ("too long", Conditions { as_path_length: Some(Compare::AtMost(1)), ..c() }, false),
        ("family", Conditions { families: vec![Family::V6], ..c() }, false),
        ("route type", Conditions { route_type: Some(RouteType::Local), ..c() }, true),
        ("other route type", Conditions { route_type: Some(RouteType::Internal), ..c() }, false),
        ("two, one fails", Conditions { prefix_set: any("prefixes"), neighbor_set: any("empty"), ..c() }, false),
    ];
    for (name, conditions, expected) in cases {
        let set = exporting(vec![statement(conditions, Actions::default(), Some(Verdict::Accept))]);
        let result = exported(&set, "10.0.0.9", "10.1.0.0/24", RouteType::Local);
        assert_eq!(result.is_some(), expected, "{name}");
    }
}

#[test]
fn actions_change_what_they_name() {
    let actions = Actions {
        next_hop_v4: Some(NextHopAction::Own),
        next_hop_v6: Some(NextHopAction::Peer),
        prepend: Some(Prepend { asn: None, times: 2 }),
        communities: vec![Change::Add(vec![9, 1]), Change::Remove(vec![5])],
        extended_communities: vec![Change::Replace(vec![[7; 8]])],
        large_communities: vec![Change::Add(vec![[1, 2, 3]])],
        med: Some(Med::Sub(5)),
        local_pref: Some(200),
    };
    let set = exporting(vec![
        statement(Conditions::default(), actions, None),
        statement(Conditions::default(), Actions { med: Some(Med::Add(7)), ..Actions::default() }, None),
        statement(Conditions::default(), Actions::default(), Some(Verdict::Accept)),
        statement(Conditions::default(), Actions { med: Some(Med::Set(1)), ..Actions::default() }, None),
    ]);
    let result = exported(&set, "10.0.0.9", "10.1.0.0/24", RouteType::Local).unwrap();
    assert_eq!(result.next_hop.address, address("10.0.0.1"));
    assert_eq!(result.as_path.to_string(), "65001 65001 65001 65002");
    assert_eq!(*result.communities, [1, 9]);
    assert_eq!(*result.extended_communities, [[7; 8]]);
    assert_eq!(*result.large_communities, [[1, 2, 3]]);
    assert_eq!((result.med, result.local_pref), (Some(7), Some(200)));
    let result = exported(&set, "2001:db8::9", "2001:db8:1::/48", RouteType::Local).unwrap();
    assert_eq!(result.next_hop.address, address("2001:db8::9"));
}

#[test]
fn a_peers_own_assignment_stands_in_for_the_global_one() {
    let mut set = exporting(Vec::new());
    let open = Assignment { policies: Vec::new(), default: Verdict::Accept };
    set.peers.insert(address("10.0.0.9"), PeerAssignments { import: None, export: Some(open) });
    assert!(exported(&set, "10.0.0.9", "10.1.0.0/24", RouteType::Local).is_some());
    assert!(exported(&set, "10.0.0.8", "10.1.0.0/24", RouteType::Local).is_none());
}

#[test]
fn peers_that_meet_the_same_statements_have_equal_policies() {
    let to_one = Conditions { neighbor_set: Some(SetMatch::any("neighbors")), ..Conditions::default() };
    let set = exporting(vec![statement(to_one, Actions::next_hop_own(), Some(Verdict::Accept))]);
    let policy = |peer: &str| set.prepare(Direction::Export, &view(peer));
    assert_eq!(policy("10.0.0.8"), policy("10.0.0.9"));
    assert_ne!(policy("10.0.0.8"), policy("10.0.1.8"));
}

fn node() -> NodePolicy {
    NodePolicy {
        pod_cidrs: vec![prefix("10.1.0.0/24"), prefix("2001:db8:1::/64")],
        vips: vec![address("192.0.2.1"), address("2001:db8:2::1")],
        node_addresses: vec![address("10.0.0.1"), address("10.0.0.2")],
        external_peers: vec![prefix("172.16.0.1/32"), prefix("2001:db8::f/128")],
        own_as_peers: Vec::new(),
        unchanged_peers: Vec::new(),
        own_next_hop_peers: Vec::new(),
        prepend: Some(Prepend { asn: Some(Asn(64512)), times: 3 }),
        communities: vec![77],
        import_reject: vec![prefix("10.9.0.0/16")],
        default_routes: Vec::new(),
        advertise_pod_cidr: true,
        override_next_hop: true,
        reflector: false,
        graceful_shutdown: true,
    }
}

const PODS_AND_VIPS: [&str; 4] = ["10.1.0.0/24", "2001:db8:1::/64", "192.0.2.1/32", "2001:db8:2::1/128"];

/// Which of pods v4, pods v6, VIP v4, VIP v6 this peer is told.
fn told(node: &NodePolicy, peer: &str) -> [bool; 4] {
    let set = node_policies(node);
    PODS_AND_VIPS.map(|route| exported(&set, peer, route, RouteType::Local).is_some())
}

#[test]
fn nodes_hear_pod_cidrs_and_external_peers_vips_too() {
    assert_eq!(told(&node(), "10.0.0.2"), [true, true, false, false]);
    assert_eq!(told(&node(), "172.16.0.1"), [true; 4]);
    assert_eq!(told(&node(), "2001:db8::f"), [true; 4]);
    assert_eq!(told(&node(), "172.16.0.2"), [false; 4], "a peer nobody configured");
    let quiet = NodePolicy { advertise_pod_cidr: false, ..node() };
    assert_eq!(told(&quiet, "172.16.0.1"), [false, false, true, true]);
}

#[test]
fn an_ipv6_cluster_keeps_pod_cidrs_from_external_peers() {
    let node = NodePolicy {
        node_addresses: vec![address("2001:db8::1"), address("2001:db8::2")],
        advertise_pod_cidr: false,
        ..node()
    };
    assert_eq!(told(&node, "2001:db8::2"), [true, true, false, false]);
    assert_eq!(told(&node, "2001:db8::f"), [false, false, true, true]);
    assert_eq!(told(&node, "172.16.0.1"), [false, false, true, true]);
}

#[test]
fn external_peers_get_prepend_communities_and_next_hop_self() {
    let set = node_policies(&node());
    for route in PODS_AND_VIPS {
        let result = exported(&set, "172.16.0.1", route, RouteType::Local).unwrap();
        assert_eq!(result.as_path.to_string(), "64512 64512 64512 65001 65002");
        assert_eq!(*result.communities, [1, 5, 77]);
        let own = if prefix(route).addr().is_ipv4() { "10.0.0.1" } else { "2001:db8::1" };
        assert_eq!(result.next_hop.address, address(own));
    }
    let inside = exported(&set, "10.0.0.2", "10.1.0.0/24", RouteType::Local).unwrap();
    assert_eq!(inside, attributes(), "other nodes get it as it is");
}

#[test]
fn a_peer_that_is_to_see_next_hops_as_they_are_is_left_out_of_the_override() {
    let set = node_policies(&NodePolicy { unchanged_peers: vec![prefix("172.16.0.1/32")], ..node() });
    for route in PODS_AND_VIPS {
        let result = exported(&set, "172.16.0.1", route, RouteType::Local).unwrap();
        assert_eq!(result.next_hop, attributes().next_hop);
        assert_eq!(
            (result.as_path.to_string().as_str(), &*result.communities),
            ("64512 64512 64512 65001 65002", &[1, 5, 77][..])
        );
        let other = exported(&set, "2001:db8::f", route, RouteType::Local).unwrap();
        assert_ne!(other.next_hop, attributes().next_hop);
    }
}

#[test]
fn a_peer_may_be_told_our_next_hop_without_the_override() {
    let own = NodePolicy { override_next_hop: false, own_next_hop_peers: vec![prefix("172.16.0.1/32")], ..node() };
    let set = node_policies(&own);
    for route in PODS_AND_VIPS {
        let result = exported(&set, "172.16.0.1", route, RouteType::Local).unwrap();
        assert_ne!(result.next_hop, attributes().next_hop);
        assert!(result.communities.contains(&77), "it is an external peer all the same");
        let other = exported(&set, "2001:db8::f", route, RouteType::Local).unwrap();
        assert_eq!(other.next_hop, attributes().next_hop);
    }
}

#[test]
fn a_range_of_external_peers_is_told_what_they_are_and_nodes_inside_it_are_not() {
    let range = NodePolicy { external_peers: vec![prefix("10.0.0.0/24")], ..node() };
    assert_eq!(told(&range, "10.0.0.99"), [true; 4]);
    assert_eq!(told(&range, "10.0.0.2"), [true, true, false, false]);
    assert_eq!(told(&range, "10.0.1.1"), [false; 4]);
    let set = node_policies(&range);
    let inside = exported(&set, "10.0.0.2", "10.1.0.0/24", RouteType::Local).unwrap();
    assert_eq!(inside, attributes(), "nodes get it as it is");
    let import = set.prepare(Direction::Import, &view("10.0.0.99"));
    let received = attributes();
    let vip = import.evaluate(&prefix("192.0.2.1/32"), RouteType::External, &received, received.next_hop);
    assert!(vip.is_none(), "VIPs are refused from it");
}

#[test]
fn graceful_shutdown_is_heeded_unless_somebody_says_otherwise() {
    let set = node_policies(&NodePolicy { graceful_shutdown: false, ..node() });
    assert_eq!(set.import.policies, ["kube_router_import1"]);
    let policy = set.prepare(Direction::Import, &view("172.16.0.1"));
    let leaving = Attributes { communities: [0xffff_0000].into(), local_pref: Some(100), ..attributes() };
    let route = prefix("10.5.0.0/24");
    let result = policy.evaluate(&route, RouteType::External, &leaving, leaving.next_hop).expect("accepted");
    assert_eq!(result.local_pref, Some(100));
}

#[test]
fn a_reflector_passes_routes_between_nodes_and_keeps_its_rules_outside() {
    let node = NodePolicy { reflector: true, ..node() };
    assert_eq!(told(&node, "10.0.0.2"), [true, true, false, false]);
    let set = node_policies(&node);
    let reflected = "10.5.0.0/24";
    assert_eq!(exported(&set, "10.0.0.2", reflected, RouteType::Internal), Some(attributes()));
    assert_eq!(exported(&set, "172.16.0.1", reflected, RouteType::Internal), None);
    assert_eq!(exported(&set, "10.0.0.2", reflected, RouteType::External), None);
    let own = exported(&set, "172.16.0.1", "192.0.2.1/32", RouteType::Local).unwrap();
    assert!(own.communities.contains(&77));
    let edge = NodePolicy { own_as_peers: vec![prefix("172.16.0.1/32")], ..node.clone() };
    let edge = node_policies(&edge);
    assert_eq!(exported(&edge, "172.16.0.1", reflected, RouteType::Internal), Some(attributes()), "a client outside");
    assert_eq!(exported(&edge, "2001:db8::f", reflected, RouteType::Internal), None, "another AS");
    let plain = node_policies(&NodePolicy { reflector: false, ..node });
    assert_eq!(exported(&plain, "10.0.0.2", reflected, RouteType::Internal), None);
}

#[test]
fn import_refuses_own_vips_default_routes_and_what_the_operator_named() {
    let set = node_policies(&node());
    let cases = [
        ("192.0.2.1/32", false),
        ("192.0.2.2/32", true),
        ("192.0.2.0/24", true),
        ("2001:db8:2::1/128", false),
        ("0.0.0.0/0", false),
        ("::/0", false),
        ("10.9.0.0/16", false),
        ("10.9.1.0/24", false),
        ("10.8.0.0/15", true),
        ("10.5.0.0/24", true),
    ];
    for peer in ["10.0.0.2", "172.16.0.1", "2001:db8::f"] {
        let policy = set.prepare(Direction::Import, &view(peer));
        for (route, expected) in cases {
            let attributes = attributes();
            let result = policy.evaluate(&prefix(route), RouteType::External, &attributes, attributes.next_hop);
            assert_eq!(result.is_some(), expected, "{route} from {peer}");
            assert!(result.is_none_or(|result| matches!(result, Cow::Borrowed(_))));
        }
    }
}

#[test]
fn a_default_route_comes_in_where_its_family_s_is_allowed() {
    let set = node_policies(&NodePolicy { default_routes: vec![Family::V4], ..node() });
    let policy = set.prepare(Direction::Import, &view("172.16.0.1"));
    let attributes = attributes();
    let imported = |route| policy.evaluate(&prefix(route), RouteType::External, &attributes, attributes.next_hop);
    assert!(imported("0.0.0.0/0").is_some() && imported("::/0").is_none());
    assert!(imported("192.0.2.1/32").is_none(), "own VIPs stay refused");
}

#[test]
fn what_another_as_is_about_to_take_back_is_preferred_least() {
    let set = node_policies(&node());
    let policy = set.prepare(Direction::Import, &view("172.16.0.1"));
    let leaving = Attributes { communities: [7, 0xffff_0000].into(), local_pref: Some(100), ..attributes() };
    let imported = |route: &str, kind| {
        let result = policy.evaluate(&prefix(route), kind, &leaving, leaving.next_hop);
        result.map(|result| (result.local_pref, result.communities.clone()))
    };
    let kept: Box<[u32]> = [7, 0xffff_0000].into();
    assert_eq!(imported("10.5.0.0/24", RouteType::External), Some((Some(0), kept.clone())), "others are told why");
    assert_eq!(imported("10.5.0.0/24", RouteType::Internal), Some((Some(100), kept)), "our own AS has said it already");
    assert_eq!(imported("192.0.2.1/32", RouteType::External), None, "what is refused stays so");
}

#[test]
fn a_node_without_peers_or_routes_tells_nobody_anything() {
    let set = node_policies(&NodePolicy::default());
    assert!(set.policies.iter().all(|policy| policy.statements.is_empty()));
    assert_eq!(told(&NodePolicy::default(), "10.0.0.2"), [false; 4]);
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Few bits in use, so that prefixes cover each other often.
    let v4 = (0u32..256, 0u8..=32).prop_map(|(bits, length)| {
        let bits = bits << 24 | bits << 8;
        Prefix::new(std::net::Ipv4Addr::from(bits).into(), length).unwrap().trunc()
    });
    let v6 = (0u128..256, 0u8..=128).prop_map(|(bits, length)| {
        let bits = bits << 120 | bits << 60;
        Prefix::new(std::net::Ipv6Addr::from(bits).into(), length).unwrap().trunc()
    });
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn a_prefix_set_matches_what_one_of_its_ranges_matches(
        ranges in prop::collection::vec((any_prefix(), 0u8..=128, 0u8..=128), 0..30),
        routes in prop::collection::vec(any_prefix(), 1..30),
    ) {
        let ranges: Vec<PrefixRange> =
            ranges.into_iter().map(|(prefix, min, max)| PrefixRange { prefix, min, max }).collect();
        let set = PrefixSet::new(ranges.iter().copied());
        prop_assert_eq!(set.is_empty(), ranges.is_empty());
        for route in routes.iter().chain(ranges.iter().map(|range| &range.prefix)) {
            prop_assert_eq!(set.matches(route), ranges.iter().any(|range| range.matches(route)), "{}", route);
        }
    }

    #[test]
    fn an_edited_prefix_set_is_the_set_of_what_is_left(
        ranges in prop::collection::vec((any_prefix(), 0u8..=128, 0u8..=128), 0..20),
        add in prop::collection::vec((any_prefix(), 0u8..=128, 0u8..=128), 0..5),
        remove in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let range = |(prefix, min, max): &(Prefix, u8, u8)| PrefixRange { prefix: prefix.trunc(), min: *min, max: *max };
        let mut ranges: Vec<PrefixRange> = ranges.iter().map(range).collect();
        let add: Vec<PrefixRange> = add.iter().map(range).collect();
        let mut set = PrefixSet::new(ranges.clone());
        let before = set.clone();
        let remove: Vec<PrefixRange> =
            remove.iter().filter(|_| !ranges.is_empty()).map(|at| ranges[at.index(ranges.len())]).collect();
        set.edit(&add, &remove);
        prop_assert_eq!(&before, &PrefixSet::new(ranges.clone()), "clones keep what they had");
        ranges.retain(|range| !remove.contains(range));
        ranges.extend(add);
        prop_assert_eq!(set, PrefixSet::new(ranges));
    }

    #[test]
    fn prefixes_of_a_class_fare_alike(
        routes in prop::collection::vec(any_prefix(), 2..20),
        ranges in prop::collection::vec((any_prefix(), 0u8..=32, 16u8..=128), 1..6),
        modes in prop::collection::vec((any::<bool>(), any::<Option<bool>>(), 0u32..3), 1..5),
    ) {
        let mut set = exporting(modes.iter().enumerate().map(|(n, (invert, accept, local_pref))| {
            let mode = if *invert { MatchMode::Invert } else { MatchMode::Any };
            let prefix_set = Some(SetMatch { set: format!("of {}", n % ranges.len()), mode });
            let verdict = accept.map(|accept| if accept { Verdict::Accept } else { Verdict::Reject });
            let actions = Actions { local_pref: Some(*local_pref), ..Actions::default() };
            statement(Conditions { prefix_set, ..Conditions::default() }, actions, verdict)
        }).collect());
        for (n, (prefix, min, max)) in ranges.iter().enumerate() {
            set.sets.prefix.insert(format!("of {n}"), vec![PrefixRange { prefix: *prefix, min: *min, max: *max }]);
        }
        let policy = set.prepare(Direction::Export, &view("10.0.0.9"));
        let set = attributes();
        let fate = |route: &Prefix| policy.evaluate(route, RouteType::Local, &set, set.next_hop).map(Cow::into_owned);
        for (a, b) in routes.iter().zip(routes.iter().skip(1)) {
            if policy.class(a) == policy.class(b) {
                prop_assert_eq!(fate(a), fate(b), "{} {}", a, b);
            }
        }
    }
}

#[test]
fn a_policy_follows_an_edit_of_its_set_by_name() {
    let rule = |set: &str| {
        let conditions = Conditions { prefix_set: Some(SetMatch::any(set)), ..Conditions::default() };
        statement(conditions, Actions::default(), Some(Verdict::Accept))
    };
    let mut set = exporting(vec![rule("prefixes"), rule("empty")]);
    let mut sets = PrefixSets::new(&set.sets);
    let mut policy = set.prepare_with(&sets, Direction::Export, &view("10.0.0.9"));
    let route = prefix("203.0.113.0/24");
    let passes =
        |policy: &PeerPolicy| policy.evaluate(&route, RouteType::Local, &attributes(), attributes().next_hop).is_some();
    assert!(!passes(&policy));
    let added = [PrefixRange::exact(route)];
    policy.replace_prefix_set("empty", &sets.edit("empty", &added, &[]));
    assert!(passes(&policy));
    set.sets.prefix.insert("empty".to_owned(), added.to_vec());
    assert_eq!(policy, set.prepare(Direction::Export, &view("10.0.0.9")));
    policy.replace_prefix_set("empty", &sets.edit("empty", &[], &added));
    assert!(!passes(&policy));
}
