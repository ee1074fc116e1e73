//! What surrounds the router's routes and sessions, over fakes: speakers, drain, the way back of answers, the bridge and
//! the CNI file, findings.

use std::collections::BTreeSet;
use std::sync::Arc;

use ferrovia::kernel::rtnl::{Neighbour, Rtnl};
use ferrovia::model::{Generation, Node, NodeName, Snapshot, TrafficPolicy};
use ferrovia::net::Asn;
use ferrovia::reconcile::query::View;
use ferrovia::reconcile::{Applied, Read, Subsystem};
use ferrovia::routing::cni::{CniFile, Gate, State};
use ferrovia::routing::config::{Config, FlagPeer};
use ferrovia::routing::return_path::{self, Mode};
use ferrovia::routing::speakers::{LabelSelector, Style};
use ferrovia::routing::{drain, speakers};
use ferrovia::testing::builders::{cluster, ip, prefix, service};
use ferrovia::testing::node::FakeNode;
use ferrovia::testing::router::{FakeRouterRoom, RouterNode, pass};
use tokio::sync::watch;

const VIP: &str = "198.51.100.1/32";
const EDGE: &str = "192.168.10.254";

fn config() -> Config {
    Config {
        advertise_external_ip: true,
        external_ip_ranges: vec![prefix("198.51.100.0/24")],
        peers: vec![FlagPeer { address: ip(EDGE), asn: Asn(65001), port: 179, password: None }],
        ..Config::default()
    }
}

/// This node n1 and two more; a Service with an external address and endpoints on n2 and n3.
fn snapshot(generation: u64) -> Snapshot {
    let web = service("web", "10.96.0.1").port(80).external_ip("198.51.100.1");
    let mut snapshot = cluster("n1").service(web).ready("web", &["10.244.2.5", "10.244.3.5"], 8080).build();
    for (name, address, pods) in [("n2", "192.168.10.12", "10.244.2.0/24"), ("n3", "192.168.10.13", "10.244.3.0/24")] {
        let node = Node { internal_ips: vec![ip(address)], pod_cidrs: vec![prefix(pods)], ..Node::default() };
        snapshot.nodes.insert(NodeName::new(name), Arc::new(node));
    }
    snapshot.generation = Generation(generation);
    snapshot
}

fn annotated(mut snapshot: Snapshot, node: &str, key: &str, value: &str) -> Snapshot {
    let name = NodeName::new(node);
    let mut changed = (**snapshot.nodes.get(&name).unwrap()).clone();
    changed.annotations.insert(Arc::from(key), Arc::from(value));
    snapshot.nodes.insert(name, Arc::new(changed));
    snapshot
}

/// The next hops a prefix is announced with.
fn hops(router: &RouterNode, prefix: &str) -> Vec<String> {
    let heard = router.speaker.open();
    let paths = heard.routes.get(&prefix.parse().unwrap()).cloned().unwrap_or_default();
    paths.iter().map(|path| path.next_hop.address.to_string()).collect()
}

fn settled(room: &mut FakeRouterRoom, snapshot: &Snapshot, seconds: u64) {
    let outcome = pass(room, snapshot, Read::Kernel, seconds);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let outcome = pass(room, snapshot, Read::Kernel, seconds);
    assert_eq!((outcome.failed.len(), outcome.ops), (0, 0), "a second pass does nothing");
}

#[test]
fn a_speaker_announces_the_nodes_behind_an_address_and_follows_them() {
    let router = RouterNode::on(FakeNode::new());
    let config = Config { advertise_style: Style::Speakers, ..config() };
    let mut room = router.room(&config, false);
    let quiet = snapshot(1);
    settled(&mut room, &quiet, 0);
    assert!(hops(&router, VIP).is_empty(), "this node is no speaker");
    let speaks = annotated(snapshot(2), "n1", speakers::ANNOTATION, "true");
    settled(&mut room, &speaks, 1);
    assert_eq!(hops(&router, VIP), ["192.168.10.12", "192.168.10.13"]);
    let peers = router.speaker.open().config.clone().unwrap().peers;
    assert!(!peers[&ip(EDGE)].add_path_send.is_empty(), "several paths need ADD-PATH");
    assert!(peers[&ip("192.168.10.12")].add_path_send.is_empty());

    let drained =
        annotated(annotated(snapshot(3), "n1", speakers::ANNOTATION, "true"), "n2", drain::ANNOTATION, "true");
    settled(&mut room, &drained, 2);
    assert_eq!(hops(&router, VIP), ["192.168.10.13"]);

    let mut moved = annotated(snapshot(4), "n1", speakers::ANNOTATION, "true");
    let one = cluster("n1").ready("web", &["10.244.2.5"], 8080).build();
    moved.slices = one.slices.clone();
    settled(&mut room, &moved, 3);
    assert_eq!(hops(&router, VIP), ["192.168.10.12"]);
    moved.slices = Snapshot::empty(NodeName::new("n1")).slices;
    moved.generation = Generation(5);
    settled(&mut room, &moved, 4);
    assert!(hops(&router, VIP).is_empty(), "no endpoint, no announcement");
}

#[test]
fn a_proxy_that_reports_in_the_middle_of_a_pass_hides_nothing() {
    let router = RouterNode::on(FakeNode::new());
    let config = Config { advertise_style: Style::Speakers, ..config() };
    let mut room = router.room(&config, true);
    let mut speaks = annotated(snapshot(1), "n1", speakers::ANNOTATION, "true");
    // No pod of it here, so that this node serves it to nobody and only tells of the others.
    for service in speaks.services.clone().keys() {
        let mut local = (**speaks.services.get(service).unwrap()).clone();
        local.external_policy = TrafficPolicy::Local;
        speaks.services.insert(service.clone(), Arc::new(local));
    }
    let applied = Applied { generation: Generation(1), passes: 1, ..Applied::default() };
    router.speaker.open().reports = Some((router.proxy.clone(), applied));
    let _ = pass(&mut room, &speaks, Read::Kernel, 0);
    assert!(router.speaker.open().reports.is_none(), "it was a pass in which the proxy reported");
    let _ = pass(&mut room, &speaks, Read::Remembered, 1);
    assert_eq!(hops(&router, VIP), ["192.168.10.12", "192.168.10.13"]);
}

#[test]
fn labels_choose_speakers_as_well() {
    let router = RouterNode::on(FakeNode::new());
    let speaker_selector = LabelSelector::parse("dedicated=master").unwrap();
    let config = Config { advertise_style: Style::Speakers, speaker_selector, ..config() };
    let mut room = router.room(&config, false);
    let mut labelled = snapshot(1);
    let name = NodeName::new("n1");
    let mut own = (**labelled.nodes.get(&name).unwrap()).clone();
    own.labels.insert(Arc::from("dedicated"), Arc::from("master"));
    labelled.nodes.insert(name, Arc::new(own));
    settled(&mut room, &labelled, 0);
    assert_eq!(hops(&router, VIP).len(), 2);
}

#[test]
fn a_default_route_is_used_where_the_operator_allows_it() {
    for (allowed, expected) in [(vec![], false), (vec![prefix("0.0.0.0/0")], true)] {
        let router = RouterNode::on(FakeNode::new());
        let mut room = router.room(&Config { allowed_imports: allowed, ..config() }, false);
        router.speaker.learn("0.0.0.0/0", &[EDGE]);
        let outcome = pass(&mut room, &snapshot(1), Read::Kernel, 0);
        let told =
            outcome.notices.iter().any(|it| it.reason == "RouteRefused" && it.message.contains("allowed-import"));
        let policies = router.speaker.open().config.clone().unwrap().policies;
        let barred = policies.sets.prefix["defaultroutedefinedset"].is_empty();
        assert_eq!((barred, told), (expected, !expected), "peers may tell it, and the node be told if it is not used");
        assert!(!policies.sets.prefix["defaultroutedefinedsetv6"].is_empty(), "the other family's is not allowed");
        let used = router.routes().iter().any(|route| route.starts_with("default via 192.168.10.254"));
        assert_eq!(used, expected, "{:?}", router.routes());
    }
}

/// The community of graceful shutdown is in what external peers get.
fn tags(router: &RouterNode) -> bool {
    let config = router.speaker.open().config.clone().unwrap();
    let statements = config.policies.policies.iter().flat_map(|policy| &policy.statements);
    let added: Vec<_> = statements.flat_map(|statement| &statement.actions.communities).collect();
    format!("{added:?}").contains(&drain::GRACEFUL_SHUTDOWN.to_string())
}

#[test]
fn a_drain_tags_then_withdraws_and_keeps_pods() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    settled(&mut room, &snapshot(1), 0);
    assert_eq!((hops(&router, VIP).len(), tags(&router)), (1, false));

    let drained = annotated(snapshot(2), "n1", drain::ANNOTATION, "true");
    let outcome = pass(&mut room, &drained, Read::Remembered, 100);
    assert_eq!(outcome.again_in.map(|wait| wait.as_secs()), Some(5));
    assert_eq!((hops(&router, VIP).len(), tags(&router)), (1, true), "tagged, and still there");
    let outcome = pass(&mut room, &drained, Read::Remembered, 105);
    assert_eq!(outcome.again_in.map(|wait| wait.as_secs()), Some(10));
    assert!(hops(&router, VIP).is_empty());
    assert_eq!(hops(&router, "10.244.1.0/24").len(), 1, "pods stay reachable");
    let outcome = pass(&mut room, &drained, Read::Remembered, 115);
    assert_eq!(outcome.again_in, None);

    settled(&mut room, &snapshot(3), 120);
    assert_eq!((hops(&router, VIP).len(), tags(&router)), (1, false), "back at once");
}

#[test]
fn a_drain_for_all_withdraws_pods_last() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    settled(&mut room, &snapshot(1), 0);
    let drained = annotated(snapshot(2), "n1", drain::ANNOTATION, "all");
    for (now, announced) in [(100, 3), (105, 2), (115, 0)] {
        let _ = pass(&mut room, &drained, Read::Remembered, now);
        assert_eq!(router.speaker.announced().len(), announced, "after {now} s: {:?}", router.speaker.announced());
    }
    settled(&mut room, &snapshot(3), 120);
    assert_eq!(router.speaker.announced().len(), 3);
}

#[test]
fn the_last_node_keeps_an_address_until_another_one_takes_part() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    settled(&mut room, &snapshot(1), 0);
    let mut all = snapshot(2);
    for node in ["n1", "n2", "n3"] {
        all = annotated(all, node, drain::ANNOTATION, "true");
    }
    for now in [100, 105, 200] {
        let _ = pass(&mut room, &all, Read::Remembered, now);
        assert_eq!(hops(&router, VIP).len(), 1, "after {now} s");
    }
    let mut one_back = annotated(snapshot(3), "n1", drain::ANNOTATION, "true");
    one_back = annotated(one_back, "n2", drain::ANNOTATION, "true");
    let _ = pass(&mut room, &one_back, Read::Remembered, 201);
    assert!(hops(&router, VIP).is_empty());
}

#[test]
fn a_drained_node_announces_again_when_no_other_one_is_well() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    let mut state = annotated(snapshot(1), "n1", drain::ANNOTATION, "true");
    settled(&mut room, &state, 0);
    assert!(hops(&router, VIP).is_empty(), "n2 and n3 announce it");
    for (generation, node, expected) in [(2, "n2", 0), (3, "n3", 1)] {
        let name = NodeName::new(node);
        let lost = Node { not_ready: true, ..(**state.nodes.get(&name).unwrap()).clone() };
        state.nodes.insert(name, Arc::new(lost));
        state.generation = Generation(generation);
        let _ = pass(&mut room, &state, Read::Remembered, generation);
        assert_eq!(hops(&router, VIP).len(), expected, "{node} is not well");
    }
}

#[test]
fn a_command_on_the_node_drains_it_and_tells_how_far_it_is() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    let (command, commands) = tokio::sync::watch::channel(drain::Asked::default());
    let (report, reports) = tokio::sync::watch::channel(drain::Report::default());
    room.heed_drain(commands, report);
    settled(&mut room, &snapshot(1), 0);
    assert_eq!((reports.borrow().text.as_str(), reports.borrow().leaving), ("serving", false));
    command.send_replace(drain::Asked { command: true, shutdown: None });
    for (now, text) in [(100, "draining"), (105, "draining"), (115, "drained (ferrovia drain)")] {
        let _ = pass(&mut room, &snapshot(1), Read::Remembered, now);
        assert!(reports.borrow().text.starts_with(text) && reports.borrow().leaving, "{:?}", *reports.borrow());
    }
    assert!(hops(&router, VIP).is_empty());
    command.send_replace(drain::Asked::default());
    settled(&mut room, &snapshot(1), 120);
    assert_eq!(hops(&router, VIP).len(), 1);
}

#[test]
fn a_host_that_waits_has_its_drain_in_time_and_peers_do_not_wait_for_it() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    let (asked, heard) = tokio::sync::watch::channel(drain::Asked::default());
    let (report, reports) = tokio::sync::watch::channel(drain::Report::default());
    room.heed_drain(heard, report);
    settled(&mut room, &snapshot(1), 0);
    asked.send_replace(drain::Asked { command: false, shutdown: Some(std::time::Duration::from_secs(3)) });
    for (now, announced, drained) in [(100, 1, false), (101, 0, false), (103, 0, true)] {
        let _ = pass(&mut room, &snapshot(1), Read::Remembered, now);
        assert_eq!(hops(&router, VIP).len(), announced, "after {now} s");
        assert_eq!((reports.borrow().drained, reports.borrow().leaving), (drained, true), "after {now} s");
    }
    assert_eq!(reports.borrow().text, "drained (the host is shutting down)");
    let annotated = annotated(snapshot(2), "n1", drain::ANNOTATION, "true");
    let _ = pass(&mut room, &annotated, Read::Remembered, 104);
    assert!(reports.borrow().leaving, "the annotation does not keep the host");
    asked.send_replace(drain::Asked::default());
    let _ = pass(&mut room, &annotated, Read::Remembered, 105);
    assert!(!reports.borrow().leaving, "the annotation says nothing about the host");
}

fn own_rules(router: &RouterNode) -> usize {
    router.node.rtnl.open().rules().unwrap().iter().filter(|rule| return_path::owns_rule(rule)).count()
}

fn return_chains(router: &RouterNode) -> BTreeSet<String> {
    let ruleset = router.node.nft.open().ruleset("ferrovia-routing").unwrap_or_default();
    ruleset.chains.keys().filter(|name| name.starts_with("return")).map(|name| name.to_string()).collect()
}

#[test]
fn answers_get_a_way_back_when_the_peer_is_known_and_lose_it_with_the_annotation() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&Config { return_path: Mode::Peer, ..config() }, false);
    let outcome = pass(&mut room, &snapshot(1), Read::Kernel, 0);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(own_rules(&router), 0, "the peer did not answer yet");

    let neighbour = Neighbour { link: 2, address: ip(EDGE), station: [2, 0, 0, 0, 0, 0xed] };
    router.node.rtnl.open().put_neighbour(neighbour);
    router.speaker.open().up.insert(ip(EDGE));
    settled(&mut room, &snapshot(1), 1);
    assert_eq!(own_rules(&router), 1);
    assert_eq!(return_chains(&router).len(), 3);
    assert!(router.routes().iter().any(|route| route.contains("default via 192.168.10.254")), "{:?}", router.routes());
    let main = router.node.state().routes.iter().filter(|route| route.table == 254).count();

    // Somebody removes the rule: it comes back.
    let rule = router.node.rtnl.open().rules().unwrap().into_iter().find(return_path::owns_rule).unwrap();
    router.node.rtnl.open().apply(&[ferrovia::kernel::rtnl::Op::DeleteRule(rule)]);
    let _ = pass(&mut room, &snapshot(1), Read::Links, 2);
    assert_eq!(own_rules(&router), 1);

    let off = annotated(snapshot(2), "n1", return_path::ANNOTATION, "off");
    settled(&mut room, &off, 3);
    assert_eq!((own_rules(&router), return_chains(&router).len()), (0, 0));
    assert_eq!(router.node.state().routes.iter().filter(|route| route.table == 254).count(), main, "main is untouched");
    assert!(
        router.node.state().routes.iter().all(|route| route.table < return_path::FIRST_TABLE || route.table > 7927)
    );
}

#[test]
fn a_restarted_daemon_without_the_setting_removes_the_way_back() {
    let router = RouterNode::on(FakeNode::new());
    router.node.rtnl.open().put_neighbour(Neighbour { link: 2, address: ip(EDGE), station: [2, 0, 0, 0, 0, 0xed] });
    settled(&mut router.room(&Config { return_path: Mode::Peer, ..config() }, false), &snapshot(1), 0);
    assert_eq!(own_rules(&router), 1);
    let again = router.restarted();
    settled(&mut again.room(&config(), false), &snapshot(1), 0);
    assert_eq!((own_rules(&again), return_chains(&again).len()), (0, 0));
}

#[test]
fn cleaning_up_takes_the_way_back_along() {
    let router = RouterNode::on(FakeNode::new());
    router.node.rtnl.open().put_neighbour(Neighbour { link: 2, address: ip(EDGE), station: [2, 0, 0, 0, 0, 0xed] });
    let mut room = router.room(&Config { return_path: Mode::Peer, ..config() }, false);
    settled(&mut room, &snapshot(1), 0);
    let outcome = room.clean_up();
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(own_rules(&router), 0);
    assert!(router.routes().is_empty(), "{:?}", router.routes());
}

#[test]
fn pods_get_their_bridge_and_the_cni_file_their_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("10-kuberouter.conflist");
    let text = r#"{"name":"x","plugins":[{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local"}}]}"#;
    std::fs::write(&path, text).unwrap();
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    room.keep_cni(CniFile::new(&path));
    settled(&mut room, &snapshot(1), 0);
    let links = router.node.rtnl.open().links().unwrap();
    let bridge = links.iter().find(|link| link.name == "kube-bridge").unwrap();
    // Both families have addresses, so the wider header counts: 48 bytes of ip6tnl.
    assert_eq!((bridge.mtu, bridge.up), (1452, true));
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.contains("10.244.1.0/24") && written.contains("fd00:244:1::/64") && written.contains("1452"));

    // Another prefix is added, and the old one told.
    let mut other = snapshot(2);
    let name = NodeName::new("n1");
    let mut own = (**other.nodes.get(&name).unwrap()).clone();
    own.pod_cidrs = vec![prefix("10.244.9.0/24")];
    other.nodes.insert(name.clone(), Arc::new(own.clone()));
    let outcome = pass(&mut room, &other, Read::Remembered, 1);
    assert!(std::fs::read_to_string(&path).unwrap().contains("10.244.9.0/24"));
    assert_eq!(outcome.notices.iter().filter(|notice| notice.reason == "StaleCniRange").count(), 2);

    // K5: without a prefix the node says what is missing, and goes on.
    own.pod_cidrs.clear();
    other.nodes.insert(name, Arc::new(own));
    other.generation = Generation(3);
    let outcome = pass(&mut room, &other, Read::Remembered, 2);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(outcome.notices.iter().any(|notice| notice.reason == "NoPodCidr"));

    std::fs::remove_file(&path).unwrap();
    let outcome = pass(&mut room, &snapshot(4), Read::Kernel, 3);
    assert!(outcome.failed["CNI configuration"].contains("there is no such file"), "{:?}", outcome.failed);
    assert_eq!(hops(&router, VIP).len(), 1, "the rest goes on");
}

#[test]
fn findings_are_lines_and_go_with_their_cause() {
    let router = RouterNode::on(FakeNode::new());
    let mut room = router.room(&config(), false);
    assert!(room.answer(&View::Findings).starts_with("NotRead"));
    settled(&mut room, &snapshot(1), 0);
    let names = |room: &mut FakeRouterRoom| -> BTreeSet<String> {
        let text = room.answer(&View::Findings);
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
    };
    // The fake host has a strict filter on eth0, no bridge settings, and no default route.
    let expected = ["BridgeUnseen", "MissingReturnPath", "StrictReversePath"].map(str::to_owned);
    assert_eq!(names(&mut room), BTreeSet::from(expected));
    {
        let mut sysctl = router.node.sysctl.open();
        sysctl.values.insert("net/ipv4/conf/eth0/rp_filter".to_owned(), "2".to_owned());
        for key in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
            sysctl.values.insert(key.to_owned(), "0".to_owned());
        }
    }
    let _ = pass(&mut room, &snapshot(1), Read::Kernel, 1);
    assert_eq!(names(&mut room), BTreeSet::from(["MissingReturnPath".to_owned()]), "the room sets what it may");
    let back = annotated(snapshot(2), "n1", return_path::ANNOTATION, "peer");
    router.node.rtnl.open().put_neighbour(Neighbour { link: 2, address: ip(EDGE), station: [2, 0, 0, 0, 0, 0xed] });
    settled(&mut room, &back, 2);
    assert_eq!(names(&mut room), BTreeSet::new());
}

#[test]
fn the_gate_opens_when_the_firewall_has_its_first_rules_in_force_and_stays_so() {
    let (disk, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let path = disk.path().join("10-kuberouter.conflist");
    let run = memory.path().join("cni");
    let gate = Gate::new(&path, &run, &disk.path().join("state"));
    std::fs::create_dir(disk.path().join("state")).unwrap();
    // As a boot leaves it.
    let text = r#"{"name":"x","plugins":[{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local"}}]}"#;
    std::fs::write(disk.path().join("state/10-kuberouter.conflist"), text).unwrap();
    std::os::unix::fs::symlink(gate.content(), &path).unwrap();

    let router = RouterNode::on(FakeNode::new());
    let (firewall, reports) = watch::channel(Applied::default());
    let (their_state, state) = watch::channel(State::Off);
    let mut room = router.room(&config(), false);
    room.keep_gate(CniFile::new(&path).gated(gate.clone()), Some(reports.clone()), their_state);
    let shut = |state: &State, reason: &str| matches!(state, State::Closed(wait) if wait.contains(reason));

    let outcome = pass(&mut room, &snapshot(1), Read::Kernel, 0);
    assert!(shut(&state.borrow(), "the firewall's first rules") && !path.exists());
    assert!(outcome.again_in.is_some() && outcome.notices.iter().all(|notice| notice.reason != "CniGateClosed"));
    // A pass that cannot write the table is no pass that puts rules in force.
    let table = "table ferrovia-firewall".to_owned();
    let broken = Applied {
        generation: Generation(1),
        passes: 1,
        failed: [(table.clone(), "ENOMEM".to_owned())].into(),
        broken: [table].into(),
    };
    firewall.send_replace(broken.clone());
    // No time opens it: it is told.
    let outcome = pass(&mut room, &snapshot(1), Read::Kernel, 3600);
    assert!(shut(&state.borrow(), "ENOMEM") && !path.exists());
    assert_eq!(outcome.notices.iter().filter(|notice| notice.reason == "CniGateClosed").count(), 1);
    let findings = room.answer(&View::Findings);
    assert_eq!(findings.matches("CniGateClosed").count(), 1, "{findings}");
    assert!(findings.contains("ENOMEM"), "{findings}");
    // The rules for a snapshot that goes on being written are not in force.
    firewall.send_replace(Applied { passes: 2, ..Applied::default() });
    let _ = pass(&mut room, &snapshot(1), Read::Remembered, 3601);
    assert!(!path.exists());

    firewall.send_replace(Applied { generation: Generation(1), passes: 3, ..Applied::default() });
    let outcome = pass(&mut room, &snapshot(1), Read::Remembered, 3602);
    assert_eq!(*state.borrow(), State::Open);
    assert!(outcome.notices.iter().all(|notice| notice.reason != "CniGateClosed"));
    assert!(std::fs::read_to_string(&path).unwrap().contains("10.244.1.0/24"));
    assert!(!room.answer(&View::Findings).contains("CniGateClosed"));

    // Once open it is a configuration like any other.
    firewall.send_replace(broken);
    let mut other = snapshot(2);
    let name = NodeName::new("n1");
    let mut own = (**other.nodes.get(&name).unwrap()).clone();
    own.pod_cidrs.push(prefix("10.244.9.0/24"));
    other.nodes.insert(name, Arc::new(own));
    let _ = pass(&mut room, &other, Read::Remembered, 3603);
    assert!(std::fs::read_to_string(&path).unwrap().contains("10.244.9.0/24"));
    assert!(path.is_symlink());
}

#[test]
fn without_a_firewall_the_gate_waits_for_a_whole_pass_of_the_router() {
    let (disk, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let path = disk.path().join("10-kuberouter.conflist");
    let gate = Gate::new(&path, &memory.path().join("cni"), &disk.path().join("state"));
    let text = r#"{"name":"x","plugins":[{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local"}}]}"#;
    std::fs::write(&path, text).unwrap();
    let router = RouterNode::on(FakeNode::new());
    let (their_state, state) = watch::channel(State::Off);
    let mut room = router.room(&config(), false);
    room.keep_gate(CniFile::new(&path).gated(gate), None, their_state);
    // A first pass without a pod prefix gives pods no network.
    let mut without = snapshot(1);
    let name = NodeName::new("n1");
    let mut own = (**without.nodes.get(&name).unwrap()).clone();
    own.pod_cidrs.clear();
    without.nodes.insert(name, Arc::new(own));
    let _ = pass(&mut room, &without, Read::Kernel, 0);
    assert!(matches!(&*state.borrow(), State::Absent(wait) if wait.contains("pod prefix")), "{:?}", state.borrow());
    assert!(!path.is_symlink());
    settled(&mut room, &snapshot(2), 1);
    assert_eq!(*state.borrow(), State::Open);
    assert!(path.is_symlink());
}
