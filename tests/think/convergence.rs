//! Whatever happened before, a pass brings the kernel where the newest cluster state says.

use std::collections::BTreeMap;

use ferrovia::kernel::filter::{Chain, Ruleset};
use ferrovia::kernel::ipvs::{
    Forwarding, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey, VirtualServerSpec,
};
use ferrovia::kernel::rtnl::{Address, Op, Route, RouteKind, Rtnl, Rule, protocol, table};
use ferrovia::model::{Snapshot, TrafficPolicy};
use ferrovia::net::{Family, Protocol};
use ferrovia::proxy::{Config, VipBinding};
use ferrovia::reconcile::Read;
use ferrovia::testing::builders::{ClusterBuilder, cluster, endpoint, ip, prefix, service};
use ferrovia::testing::expand::{Run, emptied, expand};
use ferrovia::testing::node::{FakeNode, FakeRoom, Fault, State, pass};
use proptest::prelude::*;

use crate::generate::{config as granted, snapshot, states};

/// A configuration that grants the generated VIPs and leaves 10.96.200.0/24 to others.
pub(crate) fn config() -> Config {
    Config { excluded: vec![prefix("10.96.200.0/24")], ..granted() }
}

fn configs() -> Vec<(&'static str, Config)> {
    vec![
        ("plain", config()),
        ("graceful", Config { graceful_termination: true, ..config() }),
        (
            "everything",
            Config { masquerade_all: true, node_port_all_addresses: true, runtime_endpoint: true, ..config() },
        ),
        ("routes, no guard", Config { vip_binding: VipBinding::Route, input_firewall: false, ..config() }),
    ]
}

pub(crate) fn at(address: &str, protocol: Protocol, port: u16) -> VirtualServerKey {
    VirtualServerKey::Address { address: ip(address), protocol, port }
}

pub(crate) fn real(address: &str, port: u16) -> RealServerKey {
    RealServerKey { address: ip(address), port }
}

fn foreign_server(endpoint: &str) -> VirtualServer {
    VirtualServer {
        spec: VirtualServerSpec {
            scheduler: Scheduler::new("wlc"),
            scheduler_flags: 0,
            persistence: Some(5),
            persistence_prefix: 24,
            one_packet: false,
        },
        real_servers: Box::new([RealServer {
            key: real(endpoint, 80),
            forwarding: Forwarding::Route,
            weight: 7,
            upper_threshold: 0,
            lower_threshold: 0,
        }]),
    }
}

fn foreign_servers() -> Vec<VirtualServerKey> {
    vec![
        at("10.96.200.1", Protocol::Tcp, 80),
        at("172.16.0.1", Protocol::Udp, 53),
        at("192.168.10.11", Protocol::Tcp, 8443),
        VirtualServerKey::Mark { mark: 77, family: Family::V4 },
    ]
}

/// A host that others use too.
pub(crate) fn host() -> FakeNode {
    let node = FakeNode::new();
    for key in foreign_servers() {
        node.ipvs.open().insert(key, foreign_server("172.16.0.9"));
    }
    let mut rtnl = node.rtnl.open();
    let other = rtnl.put_link("dummy0", "dummy");
    for address in ["10.96.0.250/32", "172.16.0.1/32"] {
        assert!(rtnl.put_address(Address { link: other, prefix: prefix(address), scope: 0 }));
    }
    rtnl.put_route(Route {
        table: table::MAIN,
        destination: prefix("10.244.2.0/24"),
        kind: RouteKind::Unicast,
        protocol: protocol::STATIC,
        scope: 0,
        link: Some(2),
        gateway: Some(ip("192.168.10.12")),
        next_hops: Vec::new(),
        source: None,
        metric: 0,
    });
    let rule = Rule { mark: Some(9), ..Rule::to_table(Family::V4, 32764, 99) };
    assert_eq!(rtnl.apply(&[Op::AddRule(rule)]), [Ok(())]);
    drop(rtnl);
    let chains = BTreeMap::from([("theirs".into(), Chain::default())]);
    node.nft.open().put_foreign_table("kube-proxy", Ruleset { chains, ..Ruleset::default() });
    node
}

/// What a room that starts now over a host without anything of ours makes of a state.
fn fresh(state: &Snapshot, config: &Config) -> State {
    let node = host();
    let mut room = node.room(config);
    let outcome = pass(&mut room, state, Read::Kernel, 0);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    node.state()
}

fn assert_same(have: &State, want: &State, what: &str) {
    assert!(have == want, "{what}: has (+) and should have (-)\n{}", have.difference(want));
}

/// Nothing is left to do, and a room that starts now finds nothing to do either.
fn assert_settled(node: &FakeNode, room: &mut FakeRoom, state: &Snapshot, config: &Config, seconds: u64, what: &str) {
    for read in [Read::Remembered, Read::Links, Read::Kernel] {
        let outcome = pass(room, state, read, seconds);
        assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
        assert_eq!((outcome.ops, outcome.drift), (0, 0), "{what}: a second pass, {read:?}");
    }
    let before = node.written();
    let outcome = pass(&mut node.room(config), state, Read::Kernel, 0);
    assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
    assert_eq!(outcome.ops, 0, "{what}: after a restart");
    assert_eq!(node.written(), before, "{what}: after a restart");
}

fn follow(run: &Run, config: &Config, what: &str) {
    let node = host();
    let untouched = node.state();
    let mut room = node.room(config);
    let mut seconds = 0;
    for (index, state) in run.states.iter().enumerate() {
        let what = format!("{what}, {}, step {index}", run.name);
        seconds += 1;
        let outcome = pass(&mut room, state, Read::Remembered, seconds);
        assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
        assert_same(&node.state(), &fresh(state, config), &what);
        assert_settled(&node, &mut room, state, config, seconds, &what);
    }
    let Some(last) = run.states.last() else { return };
    let outcome = pass(&mut room, &emptied(last), Read::Remembered, seconds + 1);
    assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
    let state = node.state();
    assert_eq!(state.servers, untouched.servers, "{what}, {}: nothing is left but what is foreign", run.name);
    assert_eq!(node.vips(), (Vec::new(), Vec::new()), "{what}, {}", run.name);
    let outcome = node.room(config).clean_up(last.node_name.clone());
    assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
    let state = State { settings: untouched.settings.clone(), ..node.state() };
    assert_same(&state, &untouched, &format!("{what}, {}: cleaned up", run.name));
}

fn three(built: ClusterBuilder) -> ClusterBuilder {
    built
        .service(service("shop/web", "10.96.0.10").and_ip("fd00:96::10").node_port(80, 30080))
        .ready("shop/web", &["10.244.1.5", "10.244.2.5", "fd00:244:1::5"], 8080)
        .service(service("shop/dns", "10.96.0.11").udp(53).protocol_port(Protocol::Tcp, 53, 0))
        .ready("shop/dns", &["10.244.1.6"], 53)
        .service(service("shop/hash", "10.96.0.12").port(443).scheduler(ferrovia::model::Scheduler::Mh).affinity(60))
        .ready("shop/hash", &["10.244.1.7", "10.244.2.7", "10.244.3.7"], 8443)
}

fn direct(external: &str, scheduler: ferrovia::model::Scheduler, endpoints: &[&str]) -> ClusterBuilder {
    let one = service("shop/direct", "10.96.0.20").port(80).external_ip(external).scheduler(scheduler);
    cluster("n1").service(one.with(|service| service.settings.dsr = true)).ready("shop/direct", endpoints, 80)
}

/// Lists in which something depends on something else.
fn lists() -> Vec<(&'static str, Vec<Snapshot>)> {
    use ferrovia::model::Scheduler::{Mh, Rr};
    let shared = |name: &str, created: i64, cluster_ip: &str| {
        service(name, cluster_ip).port(80).external_ip("198.51.100.1").with(move |service| service.created = created)
    };
    let balanced = |ranges: &[&str], policy: TrafficPolicy| {
        let ranges: Vec<_> = ranges.iter().map(|range| prefix(range)).collect();
        let one = service("shop/lb", "10.96.0.30").node_port(80, 30090).load_balancer_ip("203.0.113.1");
        let one = one.with(move |service| {
            service.source_ranges = ranges;
            service.external_policy = policy;
            service.health_check_node_port = 32000;
        });
        cluster("n1").service(one).ready("shop/lb", &["10.244.2.9"], 8080)
    };
    let web = || three(cluster("n1"));
    vec![
        (
            "endpoints come and go",
            vec![
                web().build(),
                web().ready("shop/web", &["10.244.2.5"], 8080).ready("shop/dns", &[], 53).build(),
                web().ready("shop/web", &["10.244.2.5", "10.244.1.8"], 8081).build(),
                web().endpoints("shop/hash", vec![terminating("10.244.1.7")], 8443).build(),
            ],
        ),
        (
            "Services change their addresses",
            vec![
                web().build(),
                web().service(service("shop/web", "10.96.0.11").port(81)).build(),
                web().without("shop/dns").service(service("shop/web", "10.96.0.11").udp(53)).build(),
                web().service(service("shop/web", "10.96.0.10").node_port(80, 30081)).build(),
            ],
        ),
        (
            "the holder of a shared address goes",
            vec![
                cluster("n1")
                    .service(shared("shop/old", 1, "10.96.0.1"))
                    .service(shared("shop/young", 2, "10.96.0.2"))
                    .ready("shop/old", &["10.244.1.1"], 80)
                    .ready("shop/young", &["10.244.1.2"], 80)
                    .build(),
                cluster("n1")
                    .service(shared("shop/young", 2, "10.96.0.2"))
                    .ready("shop/young", &["10.244.1.2"], 80)
                    .build(),
                cluster("n1")
                    .service(shared("shop/old", 3, "10.96.0.1"))
                    .service(shared("shop/young", 2, "10.96.0.2"))
                    .ready("shop/old", &["10.244.1.1"], 80)
                    .build(),
            ],
        ),
        (
            "a cluster address becomes an external one",
            vec![
                cluster("n1").service(service("shop/a", "10.96.0.1").port(80).external_ip("198.51.100.1")).build(),
                cluster("n1").service(service("shop/b", "10.96.0.2").port(80).external_ip("198.51.100.1")).build(),
                cluster("n1").service(service("shop/b", "10.96.0.1").port(80).external_ip("198.51.100.2")).build(),
            ],
        ),
        (
            "direct return comes, changes and goes",
            vec![
                direct("198.51.100.1", Rr, &["10.244.1.5"]).build(),
                direct("198.51.100.1", Mh, &["10.244.1.5", "10.244.2.5"]).build(),
                direct("198.51.100.2", Mh, &["10.244.2.5"]).build(),
                direct("198.51.100.2", Mh, &[]).build(),
                direct("198.51.100.2", Rr, &["10.244.2.5"]).ready("shop/direct", &["10.244.2.5"], 8080).build(),
                three(direct("198.51.100.1", Rr, &["10.244.1.5"])).build(),
            ],
        ),
        (
            "policies, ranges and health checks",
            vec![
                balanced(&[], TrafficPolicy::Cluster).build(),
                balanced(&["192.0.2.0/24"], TrafficPolicy::Cluster).build(),
                balanced(&["192.0.2.0/25", "2001:db8::/32"], TrafficPolicy::Local).build(),
                balanced(&["192.0.2.0/25"], TrafficPolicy::Local)
                    .ready("shop/lb", &["10.244.1.9", "10.244.2.9"], 8080)
                    .build(),
            ],
        ),
        (
            "the node changes",
            vec![
                web().build(),
                web().node(|node| node.pod_cidrs = vec![prefix("10.244.2.0/24")]).build(),
                web().node(|node| node.internal_ips = vec![ip("fd10::11"), ip("192.168.10.11")]).build(),
                web().node(|node| node.zone = Some("a".into())).build(),
            ],
        ),
    ]
}

pub(crate) fn terminating(address: &str) -> ferrovia::model::Endpoint {
    let mut endpoint = endpoint(address);
    endpoint.conditions.ready = false;
    endpoint.conditions.terminating = true;
    endpoint
}

#[test]
fn every_way_through_every_list_converges() {
    for (config_name, config) in configs() {
        for (name, states) in lists() {
            // Half of the configurations only go there, back, and through nothing.
            let n_runs = if ["plain", "graceful"].contains(&config_name) { usize::MAX } else { 3 };
            for run in expand(&states).into_iter().take(n_runs) {
                follow(&run, &config, &format!("{config_name}, {name}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_clusters_converge(states in states(), config in 0_usize..4, run in 0_usize..9) {
        let snapshots: Vec<Snapshot> = states.iter().map(snapshot).collect();
        let (name, config) = configs().swap_remove(config);
        follow(&expand(&snapshots).swap_remove(run), &config, name);
    }
}

/// With a failure at every single call and change, one after the other: it is reported, the rest is done, and the
/// retry brings everything into force.
#[test]
fn a_failure_anywhere_is_reported_and_repaired() {
    for (config_name, config) in configs() {
        for (name, states) in lists() {
            let mut n_places = 0;
            for pair in states.windows(2) {
                let [from, to] = pair else { unreachable!() };
                let mut to = to.clone();
                to.generation.0 += 1;
                let wanted = fresh(&to, &config);
                for (fault, read) in ways(config_name) {
                    let what = format!("{config_name}, {name}");
                    let mut n = 0;
                    while fails_at(n, fault, read, from, (&to, &wanted), &config, &what) {
                        n += 1;
                    }
                    n_places += n;
                }
            }
            assert!(n_places > 5, "{config_name}, {name}: {n_places} places to fail");
        }
    }
}

/// Not every way under every configuration: what fails does not depend on it.
fn ways(config_name: &str) -> Vec<(Fault, Read)> {
    match config_name {
        "plain" => vec![(Fault::Refused, Read::Remembered), (Fault::Refused, Read::Kernel)],
        "graceful" => vec![(Fault::Fatal, Read::Remembered), (Fault::AnswerLost, Read::Remembered)],
        "everything" => vec![(Fault::Fatal, Read::Kernel), (Fault::AnswerLost, Read::Kernel)],
        _ => vec![(Fault::Refused, Read::Links)],
    }
}

#[test]
fn a_failure_anywhere_in_a_cold_start_is_reported_and_repaired() {
    let (_, config) = configs().swap_remove(2);
    let state = three(direct("198.51.100.1", ferrovia::model::Scheduler::Mh, &["10.244.1.5"])).build();
    let wanted = fresh(&state, &config);
    for fault in [Fault::Refused, Fault::Fatal, Fault::AnswerLost] {
        let mut n = 0;
        while cold_start_fails_at(n, fault, (&state, &wanted), &config) {
            n += 1;
        }
        assert!(n > 40, "only {n} places to fail");
    }
}

fn cold_start_fails_at(n: usize, fault: Fault, (state, wanted): (&Snapshot, &State), config: &Config) -> bool {
    let node = host();
    let mut room = node.room(config);
    node.faults.lock().unwrap().plan(n, fault);
    let outcome = pass(&mut room, state, Read::Kernel, 0);
    repaired(&node, &mut room, &outcome, fault, (state, wanted), config, "cold start")
}

fn fails_at(
    n: usize,
    fault: Fault,
    read: Read,
    from: &Snapshot,
    (to, wanted): (&Snapshot, &State),
    config: &Config,
    what: &str,
) -> bool {
    let node = host();
    let mut room = node.room(config);
    let outcome = pass(&mut room, from, Read::Kernel, 0);
    assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
    node.faults.lock().unwrap().plan(n, fault);
    let outcome = pass(&mut room, to, read, 1);
    repaired(&node, &mut room, &outcome, fault, (to, wanted), config, what)
}

/// What must hold after a pass with a failure. False when the pass was over before the failure was due.
fn repaired(
    node: &FakeNode,
    room: &mut FakeRoom,
    outcome: &ferrovia::reconcile::Outcome,
    fault: Fault,
    (state, wanted): (&Snapshot, &State),
    config: &Config,
    what: &str,
) -> bool {
    let met = node.faults.lock().unwrap().met().map(str::to_owned);
    *node.faults.lock().unwrap() = ferrovia::testing::node::Faults::default();
    let Some(met) = met else {
        assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
        assert_same(&node.state(), wanted, what);
        return false;
    };
    let what = format!("{what}, {fault:?} at {met}");
    if fault != Fault::AnswerLost {
        let told = outcome.notices.iter().any(|notice| notice.reason == "SysctlNotWritable");
        assert!(!outcome.failed.is_empty() || told, "{what}: nothing is reported");
    }
    if met.starts_with("ipvsadm") || met.starts_with("nft") || met.starts_with("conntrack") {
        let have = node.state();
        let differ = wanted.servers.iter().filter(|(key, server)| have.servers.get(*key) != Some(*server)).count();
        let stay = have.servers.keys().filter(|key| !wanted.servers.contains_key(*key)).count();
        let allowed = usize::from(met.starts_with("ipvsadm"));
        assert!(differ + stay <= allowed, "{what}: {differ} others are not as they should be, {stay} are left");
    }
    let outcome = pass(room, state, Read::Kernel, 2);
    assert!(outcome.failed.is_empty(), "{what}, then {:?}", outcome.failed);
    assert_same(&node.state(), wanted, &what);
    assert_settled(node, room, state, config, 3, &what);
    true
}
