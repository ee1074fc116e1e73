//! The router's room over fakes: whatever happened before, a pass brings kernel and speaker where cluster and peers say.

use std::collections::BTreeSet;
use std::sync::Arc;

use ferrovia::kernel::rtnl::{Op, Route, RouteKind, Rtnl, Rule, protocol, table};
use ferrovia::model::{Generation, NodeName, Snapshot};
use ferrovia::net::Family;
use ferrovia::reconcile::Read;
use ferrovia::routing::config::{Config, Encapsulation, OverlayScope};
use ferrovia::routing::overlay::tunnel_name;
use ferrovia::testing::builders::{ClusterBuilder, cluster, ip, prefix, service, with_nodes};
use ferrovia::testing::expand::{emptied, expand};
use ferrovia::testing::node::{FakeNode, Fault, State};
use ferrovia::testing::router::{FakeRouterRoom, RouterNode, pass};
use proptest::prelude::*;

use crate::generate::{snapshot, states};

fn config() -> Config {
    Config {
        advertise_cluster_ip: true,
        advertise_external_ip: true,
        advertise_load_balancer_ip: true,
        external_ip_ranges: vec![prefix("198.51.100.0/24")],
        load_balancer_ip_ranges: vec![prefix("203.0.113.0/24")],
        ..Config::default()
    }
}

fn at(builder: &ClusterBuilder, generation: u64) -> Snapshot {
    let mut snapshot = with_nodes(builder.build());
    snapshot.generation = Generation(generation);
    snapshot
}

fn web() -> ClusterBuilder {
    cluster("n1").service(service("shop/web", "10.96.0.1").port(80)).ready("shop/web", &["10.244.1.5"], 8080)
}

fn succeeds(room: &mut FakeRouterRoom, snapshot: &Snapshot, read: Read, seconds: u64) -> usize {
    let outcome = pass(room, snapshot, read, seconds);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    outcome.ops
}

/// A static route of the administrator, and a rule of somebody else.
fn host() -> RouterNode {
    let router = RouterNode::on(FakeNode::new());
    {
        let mut rtnl = router.node.rtnl.open();
        rtnl.put_route(Route {
            table: table::MAIN,
            destination: prefix("172.20.0.0/16"),
            kind: RouteKind::Unicast,
            protocol: protocol::STATIC,
            scope: 0,
            link: Some(2),
            gateway: Some(ip("192.168.10.99")),
            next_hops: Vec::new(),
            source: None,
            metric: 0,
        });
        let rule = Rule { from: Some(prefix("10.9.0.0/16")), ..Rule::to_table(Family::V4, 32_763, 99) };
        assert_eq!(rtnl.apply(&[Op::AddRule(rule)]), [Ok(())]);
    }
    router
}

#[test]
fn the_first_word_has_everything_and_comes_after_the_proxy() {
    let router = host();
    let mut room = router.room(&config(), true);
    let snapshot = at(&web(), 1);
    let outcome = pass(&mut room, &snapshot, Read::Kernel, 0);
    assert!(outcome.again_in.is_some());
    assert!(router.speaker.open().log.is_empty(), "a peer that kept our routes would drop what it does not hear");
    router.apply(1, &[]);
    succeeds(&mut room, &snapshot, Read::Remembered, 1);
    assert_eq!(router.speaker.open().log, ["configure", "announce 3"]);
    assert_eq!(router.speaker.announced(), ["10.96.0.1/32", "10.244.1.0/24", "fd00:244:1::/64"]);
    let config = router.speaker.open().config.clone().unwrap();
    assert_eq!(config.peers.keys().copied().collect::<Vec<_>>(), [ip("192.168.10.12"), ip("192.168.30.13")]);
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn in_a_cluster_that_never_rests_the_first_word_waits_for_the_first_snapshot() {
    let router = host();
    let mut room = router.room(&config(), true);
    let _ = pass(&mut room, &at(&web(), 1), Read::Kernel, 0);
    router.apply(1, &[]);
    let late = service("late", "10.96.0.2").port(80);
    let snapshot = at(&web().service(late).ready("late", &["10.244.1.6"], 80), 3);
    succeeds(&mut room, &snapshot, Read::Remembered, 1);
    assert_eq!(router.speaker.announced(), ["10.96.0.1/32", "10.244.1.0/24", "fd00:244:1::/64"]);
    router.apply(3, &[]);
    succeeds(&mut room, &snapshot, Read::Remembered, 2);
    assert!(router.speaker.announced().contains(&"10.96.0.2/32".to_owned()), "it waited for itself");
}

#[test]
fn a_proxy_that_says_nothing_is_not_waited_for_for_ever() {
    let router = host();
    let mut room = router.room(&config(), true);
    let snapshot = at(&web(), 1);
    let _ = pass(&mut room, &snapshot, Read::Kernel, 0);
    let _ = pass(&mut room, &snapshot, Read::Remembered, 15);
    assert_eq!(router.speaker.announced(), ["10.244.1.0/24", "fd00:244:1::/64"], "pods are reached without it");
}

#[test]
fn one_vip_of_many_costs_one_vip() {
    let router = host();
    let mut room = router.room(&config(), true);
    let mut builder = cluster("n1");
    for n in 1..=200 {
        let name = format!("shop/s{n}");
        builder = builder.service(service(&name, &format!("10.96.0.{n}")).port(80)).ready(&name, &["10.244.1.5"], 80);
    }
    router.apply(1, &[]);
    succeeds(&mut room, &at(&builder, 1), Read::Kernel, 0);
    router.speaker.open().log.clear();
    let more =
        builder.clone().service(service("shop/new", "10.96.1.1").port(80)).ready("shop/new", &["10.244.1.5"], 80);
    let mut newer = more.after(&builder.build());
    newer = with_nodes(newer);
    newer.generation = Generation(2);
    assert_eq!(succeeds(&mut room, &newer, Read::Remembered, 1), 0);
    assert!(router.speaker.open().log.is_empty(), "the proxy does not have it yet");
    router.apply(2, &["vip 10.96.1.1"]);
    succeeds(&mut room, &newer, Read::Remembered, 2);
    assert!(router.speaker.open().log.is_empty(), "nor now");
    router.apply(2, &[]);
    succeeds(&mut room, &newer, Read::Remembered, 3);
    assert_eq!(router.speaker.open().log, ["edit +1 -0", "announce 1"]);
    router.speaker.open().log.clear();
    let mut older = at(&builder, 3);
    older.nodes = newer.nodes.clone();
    succeeds(&mut room, &older, Read::Remembered, 4);
    assert_eq!(router.speaker.open().log, ["withdraw 1", "edit +0 -1"], "the proxy still has it: going does not wait");
}

#[test]
fn learned_routes_enter_the_kernel_and_leave_it() {
    let router = host();
    let mut room = router.room(&config(), false);
    let snapshot = at(&web(), 1);
    router.speaker.learn("10.244.2.0/24", &["192.168.10.12"]);
    router.speaker.learn("10.244.3.0/24", &["192.168.30.13"]);
    router.speaker.learn("172.16.0.0/12", &["192.168.10.1", "192.168.10.2"]);
    router.speaker.learn("10.96.0.0/16", &["192.168.10.1"]);
    router.speaker.learn("172.20.0.0/16", &["192.168.10.1"]);
    let outcome = pass(&mut room, &snapshot, Read::Kernel, 0);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let refused: Vec<&str> =
        outcome.notices.iter().filter(|n| n.reason == "RouteRefused").map(|n| n.message.as_str()).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("10.96.0.0/16") && refused[1].contains("172.20.0.0/16"), "{refused:?}");
    let tunnel = router.node.rtnl.open().links().unwrap().into_iter().find(|link| link.kind == "ipip").unwrap();
    assert_eq!((tunnel.name.as_str(), tunnel.up, tunnel.mtu), (&*tunnel_name(ip("192.168.30.13")), true, 1480));
    let routes = router.routes();
    for wanted in [
        "10.244.2.0/24 via 192.168.10.12 dev if2 table main proto 17".to_owned(),
        format!("10.244.3.0/24 dev if{} table main proto 17 scope link src 192.168.10.11", tunnel.index),
        format!("192.168.30.13/32 dev if{} table 77 proto 17 scope link", tunnel.index),
        "blackhole 10.244.1.0/24 table main proto 17 metric 4278198272".to_owned(),
        "172.16.0.0/12 table main proto 17 nexthop via 192.168.10.1 dev if2 weight 1 \
         nexthop via 192.168.10.2 dev if2 weight 1"
            .to_owned(),
    ] {
        assert!(routes.contains(&wanted), "{wanted} is not in {routes:#?}");
    }
    router.speaker.forget("172.16.0.0/12");
    router.speaker.learn("10.244.2.0/24", &["192.168.10.12"]);
    assert_eq!(succeeds(&mut room, &snapshot, Read::Remembered, 1), 1, "one withdrawal is one op");
    assert!(!router.routes().iter().any(|route| route.starts_with("172.16")));
    let fixed = router.node.state().routes.into_iter().find(|route| route.destination == prefix("172.20.0.0/16"));
    assert_eq!(fixed.unwrap().gateway, Some(ip("192.168.10.99")));
}

#[test]
fn what_a_node_took_for_itself_stops_the_route_that_led_there() {
    let router = host();
    let mut room = router.room(&config(), false);
    router.speaker.learn("198.51.100.0/24", &["192.168.10.1"]);
    succeeds(&mut room, &at(&web(), 1), Read::Kernel, 0);
    assert!(router.routes().iter().any(|route| route.starts_with("198.51.100.0/24")));
    let vip = cluster("n1").service(service("shop/web", "10.96.0.1").port(80).external_ip("198.51.100.7")).ready(
        "shop/web",
        &["10.244.1.5"],
        8080,
    );
    succeeds(&mut room, &at(&vip, 2), Read::Remembered, 1);
    assert!(!router.routes().iter().any(|route| route.starts_with("198.51.100.0/24")), "it covers a VIP now");
    succeeds(&mut room, &at(&web(), 3), Read::Remembered, 2);
    assert!(router.routes().iter().any(|route| route.starts_with("198.51.100.0/24")));
}

#[test]
fn a_restart_adopts_and_removes_only_when_peers_have_told_all() {
    let router = host();
    let snapshot = at(&web(), 1);
    for (prefix, hop) in [("10.244.2.0/24", "192.168.10.12"), ("172.16.0.0/12", "192.168.10.1")] {
        router.speaker.learn(prefix, &[hop]);
    }
    router.speaker.settle();
    succeeds(&mut router.room(&config(), false), &snapshot, Read::Kernel, 0);
    let before = router.node.state();
    let again = router.restarted();
    let mut room = again.room(&config(), false);
    assert_eq!(succeeds(&mut room, &snapshot, Read::Kernel, 0), 0, "a restart writes nothing");
    again.speaker.learn("10.244.2.0/24", &["192.168.10.12"]);
    assert_eq!(succeeds(&mut room, &snapshot, Read::Remembered, 1), 0, "what was told is there already");
    assert!(again.node.state() == before);
    again.speaker.settle();
    assert_eq!(succeeds(&mut room, &snapshot, Read::Remembered, 2), 1);
    assert!(!again.routes().iter().any(|route| route.starts_with("172.16")), "nobody told it again");
}

#[test]
fn what_somebody_else_removed_comes_back() {
    let router = host();
    let snapshot = at(&web(), 1);
    let mut room = router.room(&config(), false);
    router.speaker.learn("10.244.2.0/24", &["192.168.10.12"]);
    router.speaker.learn("10.244.3.0/24", &["192.168.30.13"]);
    succeeds(&mut room, &snapshot, Read::Kernel, 0);
    let before = names(router.node.state());
    let links = router.node.rtnl.open().links().unwrap();
    let tunnel = links.iter().find(|link| link.kind == "ipip").unwrap().index;
    let routes: Vec<Op> =
        router.node.state().routes.into_iter().filter(|r| r.protocol == 17).map(Op::DeleteRoute).collect();
    let rules: Vec<Op> =
        router.node.state().rules.into_iter().filter(|rule| rule.table == 77).map(Op::DeleteRule).collect();
    {
        let mut rtnl = router.node.rtnl.open();
        let results = rtnl.apply(&[routes, rules, vec![Op::DeleteLink { link: tunnel }]].concat());
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    let outcome = pass(&mut room, &snapshot, Read::Routes, 1);
    assert!(outcome.failed.is_empty() && outcome.drift > 0, "{outcome:?}");
    assert_eq!(names(router.node.state()), before);
    assert_eq!(succeeds(&mut room, &snapshot, Read::Kernel, 2), 0);
}

/// A state in which links that were made again, under other numbers, are the same.
fn names(state: State) -> BTreeSet<String> {
    let links = state.links.iter().map(|(name, up)| format!("{name} {up}"));
    let routes = state.routes.iter().map(|route| format!("{} {} {:?}", route.table, route.destination, route.gateway));
    links.chain(routes).chain(state.rules.iter().map(ToString::to_string)).collect()
}

#[test]
fn leaving_nodes_take_their_tunnels_along() {
    let router = host();
    let mut room = router.room(&Config { overlay: OverlayScope::All, ..config() }, false);
    router.speaker.settle();
    let snapshot = at(&web(), 1);
    succeeds(&mut room, &snapshot, Read::Kernel, 0);
    let tunnels = |router: &RouterNode| {
        router.node.rtnl.open().links().unwrap().iter().filter(|link| link.kind == "ipip").count()
    };
    assert_eq!(tunnels(&router), 2);
    let mut fewer = snapshot.clone();
    fewer.nodes.remove(&NodeName::new("n3"));
    fewer.generation = Generation(2);
    succeeds(&mut room, &fewer, Read::Remembered, 1);
    assert_eq!(tunnels(&router), 1);
    assert!(!router.routes().iter().any(|route| route.contains("192.168.30.13")));
    let peers = router.speaker.open().config.clone().unwrap().peers;
    assert_eq!(peers.len(), 1, "a node that is gone is no peer, and does not linger");
}

#[test]
fn another_encapsulation_makes_tunnels_again() {
    let router = host();
    let snapshot = at(&web(), 1);
    succeeds(&mut router.room(&config(), false), &snapshot, Read::Kernel, 0);
    let fou = Config { encapsulation: Encapsulation::Fou { port: 5555 }, ..config() };
    let mut room = router.room(&fou, false);
    succeeds(&mut room, &snapshot, Read::Kernel, 0);
    let link = router.node.rtnl.open().links().unwrap().into_iter().find(|link| link.tunnel.is_some()).unwrap();
    assert!(link.tunnel.unwrap().gue.is_some() && link.up && link.mtu == 1468, "{link:?}");
    assert_eq!(router.fou.open().ports.len(), 1);
    assert_eq!(succeeds(&mut room, &snapshot, Read::Kernel, 1), 0);
}

#[test]
fn mesh_and_reflector_follow_each_other_without_a_gap() {
    let router = host();
    let mut room = router.room(&config(), false);
    let mesh = at(&web(), 1);
    succeeds(&mut room, &mesh, Read::Kernel, 0);
    let peers =
        |router: &RouterNode| router.speaker.open().config.clone().unwrap().peers.into_keys().collect::<Vec<_>>();
    assert_eq!(peers(&router), [ip("192.168.10.12"), ip("192.168.30.13")]);
    let mut reflected = mesh.clone();
    reflected.generation = Generation(2);
    for (name, key) in [("n1", "rr.client"), ("n2", "rr.server"), ("n3", "rr.client")] {
        let mut node = (*reflected.nodes[&NodeName::new(name)]).clone();
        node.annotations.insert(format!("kube-router.io/{key}").into(), "42".into());
        reflected.nodes.insert(NodeName::new(name), Arc::new(node));
    }
    let outcome = pass(&mut room, &reflected, Read::Remembered, 1);
    assert_eq!(peers(&router), [ip("192.168.10.12"), ip("192.168.30.13")], "the old session stays for now");
    let cluster = router.speaker.open().config.clone().unwrap().cluster_id;
    assert_eq!(cluster.to_string(), "192.168.10.11", "with the reflector's id a client sees loops everywhere");
    assert!(outcome.again_in.is_some());
    let _ = pass(&mut room, &reflected, Read::Remembered, 30);
    assert_eq!(peers(&router).len(), 2, "the reflector's session is not up");
    router.speaker.open().up.insert(ip("192.168.10.12"));
    let outcome = pass(&mut room, &reflected, Read::Remembered, 31);
    assert_eq!(peers(&router), [ip("192.168.10.12")]);
    assert!(outcome.again_in.is_none());
}

/// The snapshot with what annotations say of route reflection: `(node, key, value)`.
fn reflecting(mesh: &Snapshot, generation: u64, parts: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = mesh.clone();
    snapshot.generation = Generation(generation);
    for (name, key) in parts {
        let mut node = (*snapshot.nodes[&NodeName::new(*name)]).clone();
        node.annotations.insert(format!("kube-router.io/{key}").into(), "42".into());
        snapshot.nodes.insert(NodeName::new(*name), Arc::new(node));
    }
    snapshot
}

#[test]
fn a_node_that_stops_reflecting_goes_on_until_the_mesh_had_time_to_come_up() {
    let router = host();
    let mut room = router.room(&config(), false);
    router.speaker.open().up.extend([ip("192.168.10.12"), ip("192.168.30.13")]);
    let mesh = at(&web(), 1);
    let star = reflecting(&mesh, 1, &[("n1", "rr.server"), ("n2", "rr.client"), ("n3", "rr.client")]);
    succeeds(&mut room, &star, Read::Kernel, 0);
    let told = |router: &RouterNode| {
        let config = router.speaker.open().config.clone().unwrap();
        let reflected = format!("{:?}", config.policies).contains("reflected");
        let clients: Vec<String> =
            config.peers.iter().filter(|(_, peer)| peer.client).map(|(address, _)| address.to_string()).collect();
        (clients, reflected, config.cluster_id.to_string())
    };
    let reflects = (vec!["192.168.10.12".to_owned(), "192.168.30.13".to_owned()], true, "0.0.0.42".to_owned());
    assert_eq!(told(&router), reflects);
    // Annotations go one after the other: first the reflector is none, then its clients are none.
    let between = reflecting(&mesh, 2, &[("n3", "rr.client")]);
    let _ = pass(&mut room, &between, Read::Remembered, 1);
    assert_eq!(told(&router), reflects, "n3 wants no session now, and keeps the one it has");
    let mut plain = mesh.clone();
    plain.generation = Generation(3);
    let outcome = pass(&mut room, &plain, Read::Remembered, 2);
    assert_eq!(told(&router), reflects, "former clients may not have found each other yet");
    assert!(outcome.again_in.is_some());
    let _ = pass(&mut room, &plain, Read::Remembered, 59);
    assert_eq!(told(&router), reflects, "their sessions are not seen from here: no early end");
    let outcome = pass(&mut room, &plain, Read::Remembered, 63);
    assert_eq!(told(&router), (Vec::new(), false, "192.168.10.11".to_owned()));
    assert!(outcome.again_in.is_none());
    // A client of another reflector goes on as well, but not with a cluster id its new reflector may have.
    let star = Snapshot { generation: Generation(4), ..star };
    let _ = pass(&mut room, &star, Read::Remembered, 64);
    let swapped = reflecting(&mesh, 5, &[("n1", "rr.client"), ("n2", "rr.server"), ("n3", "rr.client")]);
    let _ = pass(&mut room, &swapped, Read::Remembered, 65);
    let (clients, reflected, cluster) = told(&router);
    assert_eq!((clients, reflected, cluster.as_str()), (reflects.0.clone(), true, "192.168.10.11"));
}

/// What a room that starts now over an untouched host makes of a state.
fn fresh(state: &Snapshot, learned: &RouterNode) -> (State, RouterNode) {
    let router = host();
    let routes = learned.speaker.open().learned.clone();
    router.speaker.open().learned = routes;
    router.apply(state.generation.0, &[]);
    succeeds(&mut router.room(&config(), true), state, Read::Kernel, 0);
    (router.node.state(), router)
}

fn assert_same(have: &RouterNode, want: &(State, RouterNode), what: &str) {
    let state = have.node.state();
    // Links are made in another order, and so have other numbers; what is compared is told without them.
    assert_eq!(names(state.clone()), names(want.0.clone()), "{what}");
    assert_eq!(state.tables, want.0.tables, "{what}");
    let (have, want) = (have.speaker.open(), want.1.speaker.open());
    assert_eq!(have.routes, want.routes, "{what}");
    let sets = |config: &Option<ferrovia::routing::bgp::speaker::Config>| {
        let mut config = config.clone().unwrap();
        config.policies.sets.prefix.values_mut().for_each(|ranges| ranges.sort_unstable());
        config
    };
    assert_eq!(sets(&have.config), sets(&want.config), "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_way_through_the_states_ends_in_the_same_place(states in states(), fault in prop::option::of(0_usize..20)) {
        let snapshots: Vec<Snapshot> = states.iter().map(|state| with_nodes(snapshot(state))).collect();
        for run in expand(&snapshots) {
            let router = host();
            let mut room = router.room(&config(), true);
            router.speaker.learn("10.244.2.0/24", &["192.168.10.12"]);
            router.speaker.learn("198.51.100.0/24", &["192.168.10.1"]);
            router.speaker.settle();
            let mut seconds = 0;
            for state in &run.states {
                seconds += 1;
                if let Some(n) = fault {
                    router.node.faults.lock().unwrap().plan(n, Fault::Refused);
                }
                router.apply(state.generation.0, &[]);
                let _ = pass(&mut room, state, Read::Remembered, seconds);
            }
            router.node.faults.lock().unwrap().plan(usize::MAX, Fault::Refused);
            let last = run.states.last().unwrap();
            succeeds(&mut room, last, Read::Kernel, seconds + 1);
            assert_same(&router, &fresh(last, &router), &run.name);
            assert_eq!(succeeds(&mut room, last, Read::Kernel, seconds + 2), 0, "{}: a second pass", run.name);
            let mut empty = emptied(last);
            empty.generation = Generation(last.generation.0 + 1);
            router.apply(empty.generation.0, &[]);
            succeeds(&mut room, &empty, Read::Remembered, seconds + 3);
            assert_same(&router, &fresh(&empty, &router), &run.name);
        }
    }
}
