//! For random clusters, policies and packets: the firewall's rules do what Kubernetes says policies allow.
//!
//! The seed of the packets and clusters is printed; `FERROVIA_SEED` runs the same ones again.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrovia::firewall::book::Book;
use ferrovia::firewall::compile::ruleset;
use ferrovia::firewall::judge::{Connection, Judge};
use ferrovia::firewall::table::Table;
use ferrovia::firewall::{Config, ENDED_MARK};
use ferrovia::kernel::filter::{Hook, Inside};
use ferrovia::kernel::iptables::render::render;
use ferrovia::model::{
    Action, ClusterNetworkPolicy, ClusterPolicyName, ClusterRule, Labels, NamedPort, Namespace, NamespaceName,
    Namespaces, NetworkPolicy, NodeName, Operator, Peer, Peers, Pod, PodKey, PolicyKey, PolicyPort, PolicyRule,
    PortMatch, Ports, Requirement, Selector, Snapshot, Tier,
};
use ferrovia::net::{Prefix, Protocol};
use ferrovia::testing::builders::{ClusterBuilder, cluster, endpoint, ip, prefix, service};
use ferrovia::testing::iptables::IptablesTracer;
use ferrovia::testing::policy_oracle::PolicyOracle;
use ferrovia::testing::tracer::{Fate, Origin, Packet, Tracer, Tracking};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Packets tried on each cluster; with the number of clusters below, more than 100,000 cases.
const PACKETS: usize = 120;
const CLUSTERS: u32 = 900;

fn text(number: u8) -> Arc<str> {
    Arc::from(["a", "b", "c", "d"][usize::from(number % 4)])
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map((0..3_u8).prop_map(text), (0..2_u8).prop_map(text), 0..3)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = prop::collection::btree_set((0..2_u8).prop_map(text), 1..3);
    let operator = prop_oneof![
        4 => values.clone().prop_map(Operator::In),
        1 => values.prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement = (0..3_u8, operator).prop_map(|(key, operator)| Requirement { key: text(key), operator });
    prop::collection::vec(requirement, 0..2).prop_map(Selector)
}

/// Blocks of all sizes that lie over pods, nodes and the world.
fn block() -> impl Strategy<Value = Prefix> {
    prop::sample::select(vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.244.0.0/16",
        "10.244.1.0/24",
        "10.244.1.0/30",
        "10.244.2.1/32",
        "198.51.100.0/24",
        "198.51.100.1/32",
        "192.168.10.0/24",
        "::/0",
        "fd00:244::/32",
        "fd00:244:1::/64",
        "fd00:244:1::1/128",
    ])
    .prop_map(prefix)
}

fn peer() -> impl Strategy<Value = Peer> {
    let namespaces = prop_oneof![Just(Namespaces::Own), selector().prop_map(Namespaces::Selected)];
    prop_oneof![
        3 => (namespaces, selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        2 => (block(), prop::collection::vec(block(), 0..3)).prop_map(|(cidr, holes)| {
            let except = holes.into_iter().filter(|hole| cidr.contains(hole)).collect();
            Peer::Block { cidr, except }
        }),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn port() -> impl Strategy<Value = PolicyPort> {
    let matched = prop_oneof![
        Just(PortMatch::Any),
        (1..5_u16, 0..3_u16).prop_map(|(first, more)| PortMatch::Range(first, first + more)),
        (0..3_u8).prop_map(|name| PortMatch::Named(text(name))),
    ];
    (protocol(), matched).prop_map(|(protocol, port)| PolicyPort { protocol, port })
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        3 => prop::collection::vec(peer(), 0..3).prop_map(Peers::Only),
    ];
    let ports = prop_oneof![
        1 => Just(Ports::Any),
        2 => prop::collection::vec(port(), 0..3).prop_map(Ports::Only),
    ];
    (peers, ports).prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || prop::option::of(prop::collection::vec(rule(), 0..3));
    (selector(), rules(), rules()).prop_map(|(targets, ingress, egress)| NetworkPolicy { targets, ingress, egress })
}

/// What an API server lets through: peers are always named, and namespaces never the policy's own.
fn cluster_rule() -> impl Strategy<Value = ClusterRule> {
    let pods = (selector(), selector())
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Namespaces::Selected(namespaces), pods });
    let block = block().prop_map(|cidr| Peer::Block { cidr, except: Vec::new() });
    // A rule that could not be read is for everybody, or for nobody.
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        6 => prop::collection::vec(prop_oneof![3 => pods, 2 => block], 0..3).prop_map(Peers::Only),
    ];
    let ports = prop_oneof![
        2 => Just(Ports::Any),
        1 => prop::collection::vec(port(), 1..3).prop_map(Ports::Only),
    ];
    let action = prop::sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
    (action, peers, ports).prop_map(|(action, peers, ports)| ClusterRule { name: Arc::from(""), action, peers, ports })
}

/// Few priorities, so that many are equal.
fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let rules = || prop::collection::vec(cluster_rule(), 0..4);
    let tier = prop::sample::select(vec![Tier::Admin, Tier::Baseline]);
    (tier, 0..3_u16, selector(), selector(), rules(), rules()).prop_map(
        |(tier, priority, namespaces, pods, ingress, egress)| ClusterNetworkPolicy {
            tier,
            priority,
            namespaces,
            pods,
            ingress,
            egress,
        },
    )
}

/// Pod number `n` is on node `n % 2 + 1` of two.
fn pod() -> impl Strategy<Value = Pod> {
    let ports = prop::collection::vec((0..3_u8, protocol(), 1..6_u16), 0..3);
    (labels(), ports, prop::bool::weighted(0.1)).prop_map(|(labels, ports, host_network)| {
        let ports = ports.into_iter().map(|(name, protocol, port)| NamedPort { name: text(name), protocol, port });
        Pod { labels, ports: ports.collect(), host_network, ..Pod::default() }
    })
}

pub(super) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let pods = prop::collection::vec((0..3_u8, pod()), 0..8);
    let policies = prop::collection::vec((0..3_u8, policy()), 0..5);
    let namespaces = prop::collection::vec(labels(), 3);
    let cluster_policies = prop::collection::vec((0..5_u8, cluster_policy()), 0..5);
    let direct = prop::collection::btree_set((any::<bool>(), 0..10_u8), 0..6);
    (pods, policies, namespaces, cluster_policies, direct).prop_map(
        |(pods, policies, namespaces, cluster_policies, direct)| {
            let mut snapshot = with_direct(cluster("n1"), direct).build();
            for (number, labels) in (0..).zip(namespaces) {
                snapshot
                    .namespaces
                    .insert(NamespaceName(text(number)), Arc::new(Namespace { labels, legacy_isolation: false }));
            }
            for (number, (namespace, pod)) in (0_u8..).zip(pods) {
                let node = number % 2 + 1;
                let addresses = if pod.host_network {
                    [ip(&format!("192.168.10.1{node}")), ip(&format!("fd10::1{node}"))]
                } else {
                    [ip(&format!("10.244.{node}.{}", number + 1)), ip(&format!("fd00:244:{node}::{}", number + 1))]
                };
                let pod = Pod { addresses: addresses.into(), node: Some(NodeName::new(format!("n{node}"))), ..pod };
                snapshot.pods.insert(PodKey::new(text(namespace), format!("p{number}")), Arc::new(pod));
            }
            for (number, policy) in cluster_policies {
                snapshot
                    .cluster_policies
                    .insert(ClusterPolicyName(Arc::from(format!("cnp{number}"))), Arc::new(policy));
            }
            for (number, (namespace, policy)) in policies.into_iter().enumerate() {
                snapshot.policies.insert(PolicyKey::new(text(namespace), format!("np{number}")), Arc::new(policy));
            }
            snapshot
        },
    )
}

/// A Service with direct server return, where it has endpoints.
fn with_direct(cluster: ClusterBuilder, endpoints: BTreeSet<(bool, u8)>) -> ClusterBuilder {
    if endpoints.is_empty() {
        return cluster;
    }
    let endpoints = endpoints.into_iter().map(|(v6, number)| endpoint(&address(v6, number).to_string()));
    let service = service("direct", "10.96.0.9").port(1).with(|service| service.settings.dsr = true);
    cluster.service(service).endpoints("direct", endpoints.collect(), 1)
}

/// Somebody a packet may come from or go to: pods of both nodes known and unknown, a node, the world.
fn address(v6: bool, number: u8) -> IpAddr {
    let host = number % 10 + 1;
    let node = (host - 1) % 2 + 1;
    match (v6, host) {
        (false, 9) => ip("198.51.100.1"),
        (false, 10) => ip("192.168.10.12"),
        (true, 9) => ip("2001:db8::1"),
        (true, 10) => ip("fd10::12"),
        (false, _) => ip(&format!("10.244.{node}.{host}")),
        (true, _) => ip(&format!("fd00:244:{node}::{host}")),
    }
}

pub(super) fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let one =
        (any::<bool>(), 0..10_u8, 0..10_u8, protocol(), 1..8_u16).prop_map(|(v6, from, to, protocol, port)| Packet {
            origin: Origin::Wire,
            source: address(v6, from),
            source_port: 40_000,
            destination: address(v6, to),
            protocol,
            port,
        });
    prop::collection::vec(one, PACKETS)
}

/// A seed: the one asked for, else a new one.
fn seed() -> u64 {
    match std::env::var("FERROVIA_SEED") {
        Ok(text) => text.parse().expect("FERROVIA_SEED is a number"),
        Err(_) => std::hash::RandomState::new().build_hasher().finish(),
    }
}

/// Tries so many clusters, the same ones for the same seed.
fn runner(cases: u32, seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn rules_allow_what_the_api_allows_and_nothing_else() {
    let seed = seed();
    let mut runner = runner(CLUSTERS, seed);
    let (cases, denied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcome = runner.run(&(snapshot(), packets()), |(snapshot, packets)| {
        for packet in &packets {
            cases.fetch_add(1, Ordering::Relaxed);
            if !PolicyOracle::new(&snapshot).allows(*packet, false) {
                denied.fetch_add(1, Ordering::Relaxed);
            }
        }
        agrees(&snapshot, &packets)
    });
    let (cases, denied) = (cases.into_inner(), denied.into_inner());
    // Past the test harness, which keeps back what a test that passes prints.
    let _ = writeln!(std::io::stderr(), "policies: seed {seed}, {cases} cases, {denied} of them denied");
    match outcome {
        Ok(()) => assert!(cases >= 100_000 && denied > cases / 10, "{cases} cases, {denied} denied"),
        Err(TestError::Fail(reason, (snapshot, _))) => {
            panic!("seed {seed}: {reason}\n{}", serde_json::to_string_pretty(&snapshot).unwrap())
        }
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

#[test]
fn what_is_tunnelled_to_a_pod_is_judged_by_the_packet_inside() {
    const CLUSTERS: u32 = 300;
    let seed = seed();
    let mut runner = runner(CLUSTERS, seed);
    let (cases, denied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcome = runner.run(&(snapshot(), packets()), |(snapshot, packets)| {
        let own = [ip("192.168.10.11"), ip("fd10::11")];
        let config = Config { inside: Inside::Own, ..Config::default() };
        let book = Book::build(&snapshot, &config);
        let rules = Table::build(&book, &snapshot, &config).whole(&book);
        let (tracer, oracle) = (Tracer::of_filter(&rules, &own), PolicyOracle::new(&snapshot));
        let direct: BTreeSet<IpAddr> = book.direct().addresses().collect();
        for packet in packets {
            for hook in [Hook::Forward, Hook::Output] {
                // What comes without a tunnel is judged as ever.
                prop_assert_eq!(tracer.hook(hook, packet).is_none(), oracle.allows(packet, false), "{:?}", packet);
            }
            if !direct.contains(&packet.destination) {
                continue;
            }
            cases.fetch_add(1, Ordering::Relaxed);
            let v6 = usize::from(packet.source.is_ipv6());
            let far = [ip("192.168.10.12"), ip("fd10::12")][v6];
            for (hook, from) in [(Hook::Output, own[v6]), (Hook::Forward, far)] {
                let allowed = oracle.allows(packet, false);
                denied.fetch_add(usize::from(!allowed), Ordering::Relaxed);
                prop_assert_eq!(
                    tracer.hook_tunnelled(hook, packet, from).is_none(),
                    allowed,
                    "{:?} {:?}",
                    hook,
                    packet
                );
            }
            let from_node = Packet { source: own[v6], ..packet };
            prop_assert_eq!(
                tracer.hook_tunnelled(Hook::Output, from_node, own[v6]).is_none(),
                oracle.allows(from_node, true)
            );
        }
        Ok(())
    });
    let (cases, denied) = (cases.into_inner(), denied.into_inner());
    let _ = writeln!(std::io::stderr(), "tunnelled: seed {seed}, {cases} cases, {denied} of them denied");
    match outcome {
        Ok(()) => assert!(cases >= 2_000 && denied > cases / 10, "{cases} cases, {denied} denied"),
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

fn agrees(snapshot: &Snapshot, packets: &[Packet]) -> Result<(), TestCaseError> {
    let own = [ip("192.168.10.11"), ip("fd10::11")];
    let config = Config::default();
    let book = Book::build(snapshot, &config);
    let table = Table::build(&book, snapshot, &config);
    let (rules, judge) = (table.whole(&book), Judge::new(&table, &book));
    let rendered = render(&Arc::from("ferrovia-firewall"), &rules).expect("iptables can say it");
    let iptables = IptablesTracer::new(&rendered, &own);
    let (tracer, oracle) = (Tracer::of_filter(&rules, &own), PolicyOracle::new(snapshot));
    for packet in packets.iter().copied() {
        let Packet { source, source_port, destination, port, protocol, .. } = packet;
        let connection = Connection { source, source_port, destination, port, protocol: Some(protocol) };
        prop_assert_eq!(judge.allows(&connection, false), oracle.allows(packet, false), "{:?}", connection);
        // What is routed, and what IPVS has sent on: the same question in two hooks.
        for hook in [Hook::Forward, Hook::Output] {
            let stopped = tracer.hook(hook, packet);
            prop_assert_eq!(stopped.is_none(), oracle.allows(packet, false), "{:?} {:?}: {:?}", hook, packet, stopped);
            prop_assert_eq!(iptables.hook(hook, packet), stopped.clone(), "by iptables: {:?} {:?}", hook, packet);
            // In the middle of a connection: one that is ended is as good as new to its client, and dead to its server.
            for (reply, mark, want) in [
                (false, 0, None),
                (true, 0, None),
                (true, !ENDED_MARK, None),
                (false, ENDED_MARK, stopped.clone()),
                (true, u32::MAX, Some(Fate::Dropped)),
            ] {
                let tracking = Tracking { established: true, reply, mark };
                let traced =
                    [tracer.hook_tracked(hook, packet, tracking), iptables.hook_tracked(hook, packet, tracking)];
                prop_assert_eq!(traced, [want.clone(), want], "{:?} {:?} {:?}", hook, packet, tracking);
            }
        }
        let from_node = Packet { source: own[usize::from(packet.source.is_ipv6())], ..packet };
        prop_assert_eq!(tracer.hook(Hook::Output, from_node).is_none(), oracle.allows(from_node, true));
    }
    Ok(())
}

proptest! {
    #[test]
    fn changes_lead_where_a_fresh_start_leads(states in prop::collection::vec(snapshot(), 2..5)) {
        let config = Config { legacy_isolation: true, inside: Inside::Own, ..Config::default() };
        let (mut book, mut table) = (Book::default(), Table::new(&config));
        let mut before = Snapshot::empty(NodeName::new("n1"));
        for state in states {
            book.apply(&state.changes_since(&before), &state, &config);
            let fresh = ruleset(&Book::build(&state, &config), &state, &config);
            prop_assert_eq!(&ruleset(&book, &state, &config), &fresh);
            let touched = book.take_touched();
            let _ = table.update(&book, &touched, &state);
            prop_assert_eq!(table.whole(&book), fresh);
            before = state;
        }
        let empty = Snapshot { nodes: before.nodes.clone(), ..Snapshot::empty(NodeName::new("n1")) };
        book.apply(&empty.changes_since(&before), &empty, &config);
        let touched = book.take_touched();
        let _ = table.update(&book, &touched, &empty);
        prop_assert_eq!(table.whole(&book), ruleset(&book, &empty, &config));
        prop_assert_eq!(book.members().sets().count(), 0, "no set is left behind");
        prop_assert_eq!(ruleset(&book, &empty, &config), ruleset(&Book::build(&empty, &config), &empty, &config));
    }
}
