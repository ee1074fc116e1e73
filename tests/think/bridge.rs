//! What passes between pods of one bridge under addresses that are no pod's, by both backends' rules.

use std::sync::Arc;

use ferrovia::firewall::Config;
use ferrovia::firewall::book::Book;
use ferrovia::firewall::compile::ruleset;
use ferrovia::kernel::filter::Hook;
use ferrovia::kernel::iptables::render::render;
use ferrovia::model::{NetworkPolicy, NodeName, Pod, PodKey, PolicyKey, Selector, Snapshot};
use ferrovia::net::Protocol;
use ferrovia::testing::builders::{cluster, ip};
use ferrovia::testing::iptables::IptablesTracer;
use ferrovia::testing::tracer::{Fate, Origin, Packet, Tracer, Tracking};

/// Two pods of this node, and a policy that is about neither of them where there is to be one.
fn snapshot(policy: bool) -> Snapshot {
    let mut snapshot = cluster("n1").build();
    for (name, host) in [("one", 5), ("two", 6)] {
        let addresses = [ip(&format!("10.244.1.{host}")), ip(&format!("fd00:244:1::{host}"))].into();
        let pod = Pod { addresses, node: Some(NodeName::new("n1")), ..Pod::default() };
        snapshot.pods.insert(PodKey::new("default", name), Arc::new(pod));
    }
    if policy {
        let policy = NetworkPolicy { targets: Selector::default(), ingress: Some(Vec::new()), egress: None };
        snapshot.policies.insert(PolicyKey::new("elsewhere", "nothing"), Arc::new(policy));
    }
    snapshot
}

/// What becomes of a packet that came in by a link; both backends say the same.
fn fate(snapshot: &Snapshot, hook: Hook, link: &'static str, (source, destination): (&str, &str)) -> Option<Fate> {
    let rules = ruleset(&Book::build(snapshot, &Config::default()), snapshot, &Config::default());
    let own = [ip("192.168.10.11"), ip("fe80::1")];
    let iptables = IptablesTracer::new(&render(&Arc::from("ferrovia-firewall"), &rules).unwrap(), &own);
    let (source, destination) = (ip(source), ip(destination));
    let protocol = Protocol::Udp;
    let packet = Packet { origin: Origin::Wire, source, source_port: 4_000, destination, protocol, port: 53 };
    let found = [false, true].map(|established| {
        let tracking = Tracking { established, ..Tracking::default() };
        let found = Tracer::of_filter(&rules, &own).hook_from(hook, packet, tracking, link);
        assert_eq!(iptables.hook_from(hook, packet, tracking, link), found, "{packet:?} {established}");
        found
    });
    // Groups have no connections.
    assert!(found[0] == found[1] || destination.is_ipv4(), "{packet:?}: {found:?}");
    found[0].clone()
}

#[test]
fn under_no_pod_s_address_nothing_passes_from_pod_to_pod() {
    let there = ["fd00:244:1::6", "fe80::6", "ff02::1"].map(|to| ("fe80::5", to));
    let here = ["fe80::6", "ff02::1", "ff05::7"].map(|to| ("fd00:244:1::5", to));
    let v4 = ["224.0.0.1", "239.1.2.3", "255.255.255.255"].map(|to| ("10.244.1.5", to));
    for ends in there.into_iter().chain(here).chain(v4) {
        for link in ["kube-bridge", "cni0"] {
            assert_eq!(fate(&snapshot(true), Hook::Forward, link, ends), Some(Fate::Dropped), "{link} {ends:?}");
            assert_eq!(fate(&snapshot(false), Hook::Forward, link, ends), None, "{link} {ends:?} without policies");
        }
        // Other bridges of the node are others' business, but for what is for a pod here.
        assert_eq!(fate(&snapshot(true), Hook::Forward, "virbr0", ends), None, "{ends:?}");
    }
    for ends in [("fd00:244:1::5", "fd00:244:1::6"), ("10.244.1.5", "10.244.1.6"), ("10.244.1.5", "223.255.255.1")] {
        assert_eq!(fate(&snapshot(true), Hook::Forward, "kube-bridge", ends), None, "{ends:?}");
    }
}

#[test]
fn through_a_service_neither_and_the_node_sends_as_ever() {
    let by_service = ("fe80::5", "fd00:244:1::6");
    assert_eq!(fate(&snapshot(true), Hook::Output, "", by_service), Some(Fate::Dropped));
    assert_eq!(fate(&snapshot(false), Hook::Output, "", by_service), None);
    // What the node says on its links, also where it does not find its own address again (`fib saddr type local`).
    for ends in [("fe80::1", "fd00:244:1::6"), ("fe80::1", "fe80::6"), ("fe80::2", "ff02::1"), ("fe80::2", "fe80::9")] {
        assert_eq!(fate(&snapshot(true), Hook::Output, "", ends), None, "{ends:?}");
    }
}
