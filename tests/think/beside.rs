//! Policies for what is tunnelled to pods where everything else is judged by iptables: two tables that need each other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ferrovia::firewall::book::Book;
use ferrovia::firewall::table::Table;
use ferrovia::firewall::{BESIDE, Config, PASSED_MARK, TABLE};
use ferrovia::kernel::filter::{Hook, Inside, Ruleset};
use ferrovia::kernel::iptables::render::render;
use ferrovia::model::Snapshot;
use ferrovia::reconcile::Read;
use ferrovia::testing::builders::{cluster, ip, service};
use ferrovia::testing::node::FakeNode;
use ferrovia::testing::policy_oracle::PolicyOracle;
use ferrovia::testing::tracer::{Fate, Packet, Tracer};
use proptest::prelude::*;

use super::firewall::{pass, put_pod, put_policy, repairs, room};
use super::policy::{packets, snapshot};

fn config() -> Config {
    Config { inside: Inside::Beside, ..Config::default() }
}

fn wanted(snapshot: &Snapshot) -> (Ruleset, Option<Ruleset>) {
    let book = Book::build(snapshot, &config());
    let table = Table::build(&book, snapshot, &config());
    (table.whole(&book), table.beside(&book))
}

fn tables(node: &FakeNode) -> (Ruleset, Option<Ruleset>) {
    let nft = node.nft.open();
    (nft.ruleset(TABLE).unwrap_or_default(), nft.ruleset(BESIDE))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_tunnelled_is_judged_by_the_packet_inside(snapshot in snapshot(), packets in packets()) {
        let own = [ip("192.168.10.11"), ip("fd10::11")];
        let (rules, beside) = wanted(&snapshot);
        render(&Arc::from(TABLE), &rules).expect("iptables can say it");
        let oracle = PolicyOracle::new(&snapshot);
        let book = Book::build(&snapshot, &config());
        let direct: BTreeSet<IpAddr> = book.direct().addresses().collect();
        prop_assert_eq!(beside.is_some(), !direct.is_empty());
        let iptables = Tracer::of_filter(&rules, &own);
        for packet in packets {
            prop_assert_eq!(iptables.hook(Hook::Forward, packet).is_none(), oracle.allows(packet, false), "{:?}", packet);
            let Some(beside) = beside.as_ref().filter(|_| direct.contains(&packet.destination)) else { continue };
            let nftables = Tracer::of_filter(beside, &own);
            let v6 = usize::from(packet.source.is_ipv6());
            let far = [ip("192.168.10.12"), ip("fd10::12")][v6];
            let both = |hook, packet: Packet, from| {
                let mut mark = 0x1234;
                let fate = nftables.hook_tunnelled_marked(hook, packet, from, &mut mark);
                fate.or_else(|| iptables.hook_tunnelled_marked(hook, packet, from, &mut mark))
            };
            for (hook, from) in [(Hook::Output, own[v6]), (Hook::Forward, far)] {
                prop_assert_eq!(both(hook, packet, from).is_none(), oracle.allows(packet, false), "{:?} {:?}", hook, packet);
                // Nobody has looked inside.
                prop_assert_eq!(iptables.hook_tunnelled(hook, packet, from), Some(Fate::Dropped));
                prop_assert_eq!(iptables.hook_tunnelled_marked(hook, packet, from, &mut PASSED_MARK.clone()), None);
            }
            let from_node = Packet { source: own[v6], ..packet };
            prop_assert_eq!(both(Hook::Output, from_node, own[v6]).is_none(), oracle.allows(from_node, true));
        }
    }

    #[test]
    fn changes_lead_to_the_tables_a_fresh_start_writes(states in prop::collection::vec(snapshot(), 2..6)) {
        let node = FakeNode::new();
        let mut first = room(&node, &config());
        for state in &states {
            let outcome = pass(&mut first, state, Read::Remembered);
            prop_assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
            prop_assert_eq!(tables(&node), wanted(state));
        }
        let commits = node.nft.open().commits().len();
        let last = states.last().expect("there are some");
        let outcome = pass(&mut first, last, Read::Kernel);
        prop_assert_eq!((outcome.ops, outcome.drift), (0, 0));
        prop_assert_eq!(pass(&mut room(&node, &config()), last, Read::Kernel).ops, 0);
        prop_assert_eq!(node.nft.open().commits().len(), commits);
    }
}

/// A Service with direct return to a pod of this node that a policy isolates.
fn shop() -> Snapshot {
    let service = service("direct", "10.96.0.9").port(8080).external_ip("198.51.100.7");
    let direct = service.with(|service| service.settings.dsr = true);
    let mut snapshot = cluster("n1").service(direct).ready("direct", &["10.244.1.5"], 8080).build();
    put_pod(&mut snapshot, "web", "web", "n1", "10.244.1.5");
    put_policy(&mut snapshot, "clients", "web", "client");
    snapshot
}

/// The tables of the commits since the `n`th, in order.
fn written(node: &FakeNode, n: usize) -> Vec<String> {
    let nft = node.nft.open();
    nft.commits().iter().skip(n).filter_map(|it| it.table.as_ref().map(ToString::to_string)).collect()
}

#[test]
fn it_comes_before_the_rules_that_need_it_and_goes_after_them() {
    let (node, mut snapshot) = (FakeNode::new(), shop());
    let mut room = room(&node, &config());
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    assert_eq!(written(&node, 0), [BESIDE, TABLE]);
    put_policy(&mut snapshot, "monitors", "web", "monitor");
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    assert_eq!(written(&node, 2), [BESIDE, TABLE]);
    snapshot.services.clear();
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    assert_eq!(written(&node, 4), [TABLE, BESIDE]);
    assert_eq!(tables(&node), wanted(&snapshot));
    assert!(node.nft.open().ruleset(BESIDE).is_none());
}

#[test]
fn what_somebody_else_changes_in_it_is_repaired_and_counted() {
    let (node, snapshot) = (FakeNode::new(), shop());
    let mut room = room(&node, &config());
    let _ = pass(&mut room, &snapshot, Read::Remembered);
    let whole = tables(&node);
    repairs(&node, &mut room, &snapshot, BESIDE, "tunnel4-ingress");
    assert_eq!(tables(&node), whole);
    let outcome = room.clean_up();
    assert!(outcome.failed.is_empty() && node.nft.open().tables().count() == 0, "{outcome:?}");
}

#[test]
fn a_table_that_cannot_be_written_keeps_no_other_rules_out() {
    let (node, snapshot) = (FakeNode::new(), shop());
    node.nft.open().fail_next(95);
    let mut room = room(&node, &config());
    let outcome = pass(&mut room, &snapshot, Read::Remembered);
    assert_eq!(outcome.failed.len(), 1, "{:?}", outcome.failed);
    assert_eq!(tables(&node), (wanted(&snapshot).0, None));
    assert!(pass(&mut room, &snapshot, Read::Remembered).failed.is_empty());
    assert_eq!(tables(&node), wanted(&snapshot));
}

#[test]
fn nftables_alone_takes_it_away_once_its_own_table_is_in_force() {
    let (node, snapshot) = (FakeNode::new(), shop());
    let _ = pass(&mut room(&node, &config()), &snapshot, Read::Kernel);
    let alone = Config { inside: Inside::Own, ..Config::default() };
    assert!(pass(&mut room(&node, &alone), &snapshot, Read::Kernel).failed.is_empty());
    assert_eq!(written(&node, 2), [TABLE, BESIDE]);
    assert!(node.nft.open().ruleset(BESIDE).is_none());
}
