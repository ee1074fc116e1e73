//! The firewall's room over fakes: what it writes, and what it leaves alone.

use std::sync::Arc;
use std::time::Duration;

use ferrovia::firewall::book::Book;
use ferrovia::firewall::compile::ruleset;
use ferrovia::firewall::reconciler::{BRIDGE, Figures, Kernel, Room};
use ferrovia::firewall::{Config, ENDED_MARK, TABLE};
use ferrovia::kernel::conntrack::fake::FakeConntrack;
use ferrovia::kernel::conntrack::{Flow, Transport};
use ferrovia::kernel::filter::{Inside, Ruleset};
use ferrovia::kernel::nft::fake::FakeNft;
use ferrovia::kernel::rtnl::fake::FakeRtnl;
use ferrovia::kernel::sysctl::FakeSysctl;
use ferrovia::model::{
    Labels, NetworkPolicy, NodeName, Peer, Peers, Pod, PodKey, PolicyKey, PolicyRule, Ports, Snapshot,
};
use ferrovia::model::{Namespaces, Operator, Requirement, Selector};
use ferrovia::net::Protocol;
use ferrovia::reconcile::{Outcome, Read, Subsystem};
use ferrovia::testing::builders::{cluster, ip, service};
use ferrovia::testing::node::{Door, FakeNode};
use proptest::prelude::*;
use tokio::sync::watch;

use super::policy::snapshot;

type FakeRoom = Room<Door<FakeNft>, Door<FakeRtnl>, Door<FakeConntrack>, Door<FakeSysctl>>;

pub(super) fn room(node: &FakeNode, config: &Config) -> FakeRoom {
    let kernel = Kernel {
        nft: node.nft.clone(),
        rtnl: node.rtnl.clone(),
        conntrack: node.conntrack.clone(),
        sysctl: node.sysctl.clone(),
    };
    Room::new(config.clone(), kernel, watch::channel(Figures::default()).0)
}

pub(super) fn pass(room: &mut FakeRoom, snapshot: &Snapshot, read: Read) -> Outcome {
    room.sync(snapshot, read, Duration::ZERO)
}

/// A table beside the room's own one that somebody takes away, and then puts a rule into, is mended and counted.
pub(super) fn repairs(node: &FakeNode, room: &mut FakeRoom, snapshot: &Snapshot, table: &str, chain: &str) {
    node.nft.open().remove_table(table);
    let outcome = pass(room, snapshot, Read::Links);
    assert!(outcome.drift > 0 && outcome.failed.is_empty(), "{outcome:?}");
    assert!(node.nft.open().put_foreign_rule(table, chain));
    assert!(pass(room, snapshot, Read::Kernel).drift > 0);
    assert_eq!(pass(room, snapshot, Read::Kernel).drift, 0);
}

fn table(node: &FakeNode) -> Ruleset {
    node.nft.open().ruleset(TABLE).unwrap_or_default()
}

fn wanted(snapshot: &Snapshot, config: &Config) -> Ruleset {
    ruleset(&Book::build(snapshot, config), snapshot, config)
}

fn labels(app: &str) -> Labels {
    [(Arc::from("app"), Arc::from(app))].into()
}

fn selector(app: &str) -> Selector {
    let values = [Arc::from(app)].into();
    Selector(vec![Requirement { key: Arc::from("app"), operator: Operator::In(values) }])
}

pub(super) fn put_pod(snapshot: &mut Snapshot, name: &str, app: &str, node: &str, address: &str) {
    let addresses = [ip(address)].into();
    let pod = Pod { addresses, node: Some(NodeName::new(node)), labels: labels(app), ..Pod::default() };
    snapshot.pods.insert(PodKey::new("default", name), Arc::new(pod));
}

/// Pods with app=`to` receive from those with app=`from` alone.
pub(super) fn put_policy(snapshot: &mut Snapshot, name: &str, to: &str, from: &str) {
    let peers = Peers::Only(vec![Peer::Pods { namespaces: Namespaces::Own, pods: selector(from) }]);
    let ingress = Some(vec![PolicyRule { peers, ports: Ports::Any }]);
    let policy = NetworkPolicy { targets: selector(to), ingress, egress: None };
    snapshot.policies.insert(PolicyKey::new("default", name), Arc::new(policy));
}

/// One pod of this node that two policies isolate, and a client elsewhere.
fn shop() -> Snapshot {
    let mut snapshot = cluster("n1").build();
    put_pod(&mut snapshot, "web", "web", "n1", "10.244.1.5");
    put_pod(&mut snapshot, "client", "client", "n2", "10.244.2.5");
    put_policy(&mut snapshot, "clients", "web", "client");
    put_policy(&mut snapshot, "monitors", "web", "monitor");
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn changes_lead_to_the_table_a_fresh_start_writes(states in prop::collection::vec(snapshot(), 2..6)) {
        let config = Config { legacy_isolation: true, inside: Inside::Own, ..Config::default() };
        let node = FakeNode::new();
        let mut room = room(&node, &config);
        for state in &states {
            let outcome = pass(&mut room, state, Read::Remembered);
            prop_assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
            prop_assert_eq!(table(&node), wanted(state, &config));
        }
        let commits = node.nft.open().commits().len();
        prop_assert!(commits <= states.len(), "at most one transaction for each state");
        // Nothing to do: neither for the room that knows, nor for one that has just started.
        let last = states.last().unwrap();
        let outcome = pass(&mut room, last, Read::Kernel);
        prop_assert_eq!((outcome.ops, outcome.drift), (0, 0));
        prop_assert_eq!(pass(&mut super::firewall::room(&node, &config), last, Read::Kernel).ops, 0);
        prop_assert_eq!(node.nft.open().commits().len(), commits);
    }
}

#[test]
fn one_pod_is_one_element_in_one_transaction() {
    let (node, config) = (FakeNode::new(), Config::default());
    let mut room = room(&node, &config);
    let mut snapshot = shop();
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    put_pod(&mut snapshot, "client-2", "client", "n2", "10.244.2.6");
    assert_eq!(pass(&mut room, &snapshot, Read::Remembered).ops, 1);
    let last = node.nft.open().commits().last().unwrap().to_string();
    assert!(last.contains("add element") && last.contains("10.244.2.6") && !last.contains("10.244.2.5"), "{last}");
    // A pod nobody asks for is no write at all.
    put_pod(&mut snapshot, "other", "other", "n2", "10.244.2.7");
    assert_eq!(pass(&mut room, &snapshot, Read::Remembered).ops, 0);
}

fn flow(source: &str, destination: &str, reply_source: &str, port: u16) -> Flow {
    Flow {
        transport: Protocol::Tcp.into(),
        source: ip(source),
        source_port: 40_000,
        destination: ip(destination),
        destination_port: 80,
        reply_source: ip(reply_source),
        reply_source_port: port,
        zone: 0,
        mark: 0,
        half_closed: false,
    }
}

fn echo(source: &str, destination: &str) -> Flow {
    let transport = Transport::Icmp { kind: 8, code: 0 };
    Flow { transport, destination_port: 0, ..flow(source, destination, destination, 40_000) }
}

/// The connections that are marked as ended, in order, as they were before.
fn ended(node: &FakeNode) -> Vec<Flow> {
    let conntrack = node.conntrack.open();
    assert!(conntrack.deleted.is_empty(), "none is forgotten: its server could begin it anew");
    let ended = conntrack.flows.iter().filter(|flow| flow.mark & ENDED_MARK != 0);
    ended.map(|flow| Flow { mark: flow.mark & !ENDED_MARK, ..*flow }).collect()
}

#[test]
fn a_stricter_policy_ends_what_it_denies_and_a_looser_one_nothing() {
    let (node, config) = (FakeNode::new(), Config::default());
    let mut room = room(&node, &config);
    let mut snapshot = shop();
    snapshot.policies.clear();
    put_pod(&mut snapshot, "stranger", "stranger", "n2", "10.244.2.9");
    let service = "10.96.0.10";
    let allowed = [
        flow("10.244.2.5", "10.244.1.5", "10.244.1.5", 8080),
        flow("10.244.2.5", service, "10.244.1.5", 8080),
        // The node itself, and a pod that no policy isolates.
        flow("192.168.10.11", "10.244.1.5", "10.244.1.5", 8080),
        flow("10.244.1.5", "10.244.2.9", "10.244.2.9", 8080),
        echo("10.244.2.5", "10.244.1.5"),
    ];
    let mut denied = vec![
        // The router has a note on it, which stays.
        Flow { mark: 0x0500_0000, ..flow("10.244.2.9", "10.244.1.5", "10.244.1.5", 8080) },
        flow("198.51.100.1", service, "10.244.1.5", 8080),
        // Its client has said its last word, the server has not.
        Flow { half_closed: true, ..flow("198.51.100.2", service, "10.244.1.5", 8080) },
        // A ping that runs.
        echo("10.244.2.9", "10.244.1.5"),
    ];
    node.conntrack.open().flows = allowed.iter().chain(&denied).copied().collect();
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    assert_eq!(ended(&node), [], "nothing is isolated");
    put_policy(&mut snapshot, "clients", "web", "client");
    let _ = room.sync(&snapshot, Read::Remembered, Duration::from_secs(60));
    denied.iter_mut().for_each(|flow| flow.half_closed = false);
    denied.sort_unstable();
    assert_eq!(ended(&node), denied, "and none of them is soon forgotten");
    // A policy more is looser for pods that are isolated already: what it allows goes on, without a look.
    put_policy(&mut snapshot, "strangers", "web", "stranger");
    let _ = room.sync(&snapshot, Read::Remembered, Duration::from_secs(120));
    let lists = node.conntrack.open().lists;
    assert_eq!(ended(&node), ["198.51.100.1", "198.51.100.2"].map(|from| flow(from, service, "10.244.1.5", 8080)));
    assert_eq!(node.conntrack.open().lists, lists);
    // Its end is stricter; several changes within a moment are one look.
    snapshot.policies.remove(&PolicyKey::new("default", "strangers"));
    let outcome = room.sync(&snapshot, Read::Remembered, Duration::from_secs(120));
    assert!(outcome.again_in.is_some() && outcome.unfinished, "denied connections go on: {outcome:?}");
    let lists = node.conntrack.open().lists;
    let outcome = room.sync(&snapshot, Read::Remembered, Duration::from_secs(180));
    assert!(node.conntrack.open().lists > lists && !outcome.unfinished);
    // A packet that was on its way during that look is found by the next one.
    let in_flight = flow("10.244.2.9", "10.244.1.5", "10.244.1.5", 7777);
    node.conntrack.open().flows.insert(in_flight);
    assert!(outcome.again_in.is_some());
    let _ = room.sync(&snapshot, Read::Remembered, Duration::from_secs(200));
    assert_eq!(ended(&node).len(), denied.len() + 1);
    assert!(ended(&node).contains(&in_flight));
    let outcome = room.sync(&snapshot, Read::Remembered, Duration::from_secs(240));
    assert!(!outcome.unfinished && outcome.again_in.is_none(), "{outcome:?}");
}

/// What IPVS tunnels is judged packet by packet, with the pod as its destination; the answers come from the address asked.
#[test]
fn a_client_of_direct_server_return_is_judged_by_the_pods_behind_the_address() {
    let (node, config) = (FakeNode::new(), Config::default());
    let service = service("direct", "10.96.0.9").port(8080).external_ip("198.51.100.7");
    let direct = service.with(|service| service.settings.dsr = true);
    let mut snapshot = cluster("n1").service(direct).ready("direct", &["10.244.2.9"], 8080).build();
    put_pod(&mut snapshot, "client", "client", "n1", "10.244.1.5");
    let cidr = "10.244.2.9/32".parse().unwrap();
    let peers = Peers::Only(vec![Peer::Block { cidr, except: Vec::new() }]);
    let egress = Some(vec![PolicyRule { peers, ports: Ports::Any }]);
    let mut policy = NetworkPolicy { targets: Selector::default(), ingress: None, egress };
    snapshot.policies.insert(PolicyKey::new("default", "out"), Arc::new(policy.clone()));
    let tunnelled = flow("10.244.1.5", "198.51.100.7", "198.51.100.7", 80);
    let other = flow("10.244.1.5", "198.51.100.8", "198.51.100.8", 80);
    node.conntrack.open().flows = [tunnelled, other].into();
    let mut room = room(&node, &config);
    let _ = pass(&mut room, &snapshot, Read::Kernel);
    assert_eq!(ended(&node), [other]);
    policy.egress = Some(Vec::new());
    snapshot.policies.insert(PolicyKey::new("default", "out"), Arc::new(policy));
    let _ = room.sync(&snapshot, Read::Remembered, Duration::from_secs(60));
    assert_eq!(ended(&node), [tunnelled, other]);
}

#[test]
fn a_service_whose_tunnels_no_rule_looks_into_is_named() {
    let service = service("direct", "10.96.0.9").port(8080).external_ip("198.51.100.7");
    let direct = service.with(|service| service.settings.dsr = true);
    let mut snapshot = cluster("n1").service(direct).ready("direct", &["10.244.1.5"], 8080).build();
    put_pod(&mut snapshot, "web", "web", "n1", "10.244.1.5");
    put_policy(&mut snapshot, "clients", "web", "client");
    let told = |snapshot: &Snapshot, inside| {
        let config = Config { inside, ..Config::default() };
        let outcome = pass(&mut room(&FakeNode::new(), &config), snapshot, Read::Kernel);
        let found = outcome.notices.into_iter().filter(|notice| notice.reason == "PolicyNotApplied");
        found.map(|notice| format!("{}: {}", notice.subject, notice.message)).collect::<Vec<_>>()
    };
    let blind = told(&snapshot, Inside::Nowhere);
    assert!(blind.len() == 1 && blind[0].contains("direct") && blind[0].contains("pod default/web"), "{blind:?}");
    assert!(told(&snapshot, Inside::Beside).is_empty() && told(&snapshot, Inside::Own).is_empty());
    snapshot.policies.clear();
    assert!(told(&snapshot, Inside::Nowhere).is_empty());
}

#[test]
fn a_restarted_daemon_ends_what_it_missed_and_lets_go_what_is_allowed_again() {
    let (node, config) = (FakeNode::new(), Config::default());
    let mut snapshot = shop();
    let [late, again] = [9999, 7777].map(|port| flow("10.244.2.9", "10.244.1.5", "10.244.1.5", port));
    let allowed = Flow { mark: ENDED_MARK | 1, ..flow("10.244.2.5", "10.244.1.5", "10.244.1.5", 8080) };
    node.conntrack.open().flows = [late, Flow { mark: ENDED_MARK, ..again }, allowed].into();
    let mut room = room(&node, &config);
    let _ = pass(&mut room, &snapshot, Read::Kernel);
    assert_eq!(ended(&node), [again, late]);
    assert!(node.conntrack.open().flows.contains(&Flow { mark: 1, ..allowed }));
    // Without policies all go on; where that fails it is done with the next pass.
    snapshot.policies.clear();
    node.conntrack.open().fail_next = Some(ferrovia::kernel::Disposition::Retry);
    let outcome = room.sync(&snapshot, Read::Remembered, Duration::from_secs(60));
    assert!(outcome.failed.keys().any(|key| key.contains("allow again")), "{:?}", outcome.failed);
    let outcome = room.sync(&snapshot, Read::Remembered, Duration::from_secs(61));
    assert!(outcome.failed.is_empty() && ended(&node).is_empty(), "{:?}", outcome.failed);
}

#[test]
fn the_next_pod_with_an_address_goes_on_with_nothing_of_the_last() {
    let (node, config) = (FakeNode::new(), Config::default());
    let mut snapshot = shop();
    put_pod(&mut snapshot, "open", "open", "n1", "10.244.1.7");
    let open = PodKey::new("default", "open");
    let own = [flow("10.244.1.7", "10.244.2.9", "10.244.2.9", 53), flow("10.244.2.9", "10.244.1.7", "10.244.1.7", 53)];
    let all = || own.into_iter().chain([flow("10.244.2.5", "10.244.1.5", "10.244.1.5", 8080)]).collect();
    node.conntrack.open().flows = all();
    let mut first = room(&node, &config);
    let _ = pass(&mut first, &snapshot, Read::Remembered);
    assert_eq!(ended(&node), [], "nothing is denied to it");
    snapshot.pods.remove(&open);
    let _ = first.sync(&snapshot, Read::Remembered, Duration::from_secs(60));
    assert_eq!(ended(&node), own, "an address of nobody is closed");
    // It went while no daemon ran.
    node.conntrack.open().flows = all();
    let _ = pass(&mut room(&node, &config), &snapshot, Read::Kernel);
    assert_eq!(ended(&node), own);
    // Without policies nothing is closed, and nobody looks.
    node.conntrack.open().flows = all();
    snapshot.policies.clear();
    put_pod(&mut snapshot, "open", "open", "n1", "10.244.1.7");
    let mut last = room(&node, &config);
    let _ = pass(&mut last, &snapshot, Read::Kernel);
    let _ = last.sync(&snapshot, Read::Remembered, Duration::from_secs(60));
    let lists = node.conntrack.open().lists;
    snapshot.pods.remove(&open);
    let _ = last.sync(&snapshot, Read::Remembered, Duration::from_secs(120));
    assert_eq!(node.conntrack.open().lists, lists);
    assert_eq!(ended(&node), []);
}

#[test]
fn a_setting_that_somebody_takes_away_is_back_with_the_next_look() {
    let (node, config, snapshot) = (FakeNode::new(), Config::default(), shop());
    let set = |value: &str| BRIDGE.map(|key| node.sysctl.open().values.insert(key.to_owned(), value.to_owned()));
    set("1");
    let mut room = room(&node, &config);
    let _ = pass(&mut room, &snapshot, Read::Kernel);
    set("0");
    let outcome = pass(&mut room, &snapshot, Read::Links);
    assert!(outcome.ops == BRIDGE.len() && outcome.failed.is_empty(), "{outcome:?}");
    assert!(BRIDGE.iter().all(|key| node.sysctl.open().values[*key] == "1"));
    assert_eq!(pass(&mut room, &snapshot, Read::Links).ops, 0);
}

#[test]
fn what_somebody_else_changes_is_repaired_and_counted() {
    let (node, config, snapshot) = (FakeNode::new(), Config::default(), shop());
    let mut room = room(&node, &config);
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    let whole = table(&node);
    node.nft.open().remove_table(TABLE);
    let outcome = pass(&mut room, &snapshot, Read::Links);
    assert!(outcome.drift > 0 && outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(table(&node), whole);
    assert!(node.nft.open().put_foreign_rule(TABLE, "egress"));
    assert!(pass(&mut room, &snapshot, Read::Kernel).drift > 0);
    assert!(node.nft.open().put_unknown(TABLE, "quota"));
    assert!(pass(&mut room, &snapshot, Read::Kernel).drift > 0);
    assert_eq!(pass(&mut room, &snapshot, Read::Kernel).drift, 0);
    assert_eq!(table(&node), whole);
}

#[test]
fn a_change_that_fails_is_made_up_for_by_the_next_pass() {
    let (node, config) = (FakeNode::new(), Config::default());
    let mut room = room(&node, &config);
    let mut snapshot = shop();
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    // The table goes, and a change comes before anybody has told of it.
    node.nft.open().remove_table(TABLE);
    put_pod(&mut snapshot, "client-2", "client", "n2", "10.244.2.6");
    assert!(pass(&mut room, &snapshot, Read::Remembered).failed.is_empty());
    assert_eq!(table(&node), wanted(&snapshot, &config));
    snapshot.policies.remove(&PolicyKey::new("default", "monitors"));
    node.nft.open().fail_next(12);
    // The step is refused, comparing everything is not.
    assert!(pass(&mut room, &snapshot, Read::Remembered).failed.is_empty());
    assert_eq!(table(&node), wanted(&snapshot, &config));
}

#[test]
fn cleaning_up_takes_our_table_alone() {
    let (node, config) = (FakeNode::new(), Config::default());
    node.nft.open().put_foreign_table("docker", Ruleset::default());
    let mut first = room(&node, &config);
    let _ = pass(&mut first, &shop(), Read::Remembered);
    assert_eq!(room(&node, &config).clean_up().failed.len(), 0);
    let left: Vec<String> = node.nft.open().tables().map(ToString::to_string).collect();
    assert_eq!(left, ["docker"]);
}
