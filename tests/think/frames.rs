//! The table that lets no frame with a VLAN tag pass from pod to pod, with either backend.

use ferrovia::firewall::{BESIDE, Config, FRAMES, TABLE};
use ferrovia::kernel::filter::{Hook, Inside, Match, Statement};
use ferrovia::kernel::nft::text;
use ferrovia::model::{Notice, Snapshot};
use ferrovia::reconcile::{Outcome, Read};
use ferrovia::testing::builders::cluster;
use ferrovia::testing::node::FakeNode;

use super::firewall::{pass, put_pod, put_policy, repairs, room};

fn config(inside: Inside) -> Config {
    Config { inside, drop_tagged: true, ..Config::default() }
}

/// A pod of this node that a policy isolates.
fn isolated() -> Snapshot {
    let mut snapshot = cluster("n1").build();
    put_pod(&mut snapshot, "web", "web", "n1", "10.244.1.5");
    put_policy(&mut snapshot, "clients", "web", "client");
    snapshot
}

fn tables(node: &FakeNode) -> Vec<String> {
    node.nft.open().tables().map(ToString::to_string).collect()
}

fn told(outcome: &Outcome) -> Vec<&Notice> {
    outcome.notices.iter().filter(|notice| notice.reason == "TaggedFramesUnfiltered").collect()
}

#[test]
fn it_is_there_while_a_policy_may_isolate_somebody() {
    for inside in [Inside::Own, Inside::Beside, Inside::Nowhere] {
        let (node, mut snapshot) = (FakeNode::new(), isolated());
        let policies = std::mem::take(&mut snapshot.policies);
        let mut room = room(&node, &config(inside));
        let _ = pass(&mut room, &snapshot, Read::Remembered);
        assert_eq!(tables(&node), [TABLE], "{inside:?}: nobody is isolated");
        snapshot.policies = policies;
        let _ = pass(&mut room, &snapshot, Read::Remembered);
        assert_eq!(tables(&node), [FRAMES, TABLE], "{inside:?}");
        let commits = node.nft.open().commits().len();
        let table = |at: usize| node.nft.open().commits()[at].table.clone().expect("a table").to_string();
        assert_eq!(
            (table(commits - 2), table(commits - 1)),
            (FRAMES.to_owned(), TABLE.to_owned()),
            "the stricter first"
        );
        put_policy(&mut snapshot, "monitors", "web", "monitor");
        let _ = pass(&mut room, &snapshot, Read::Remembered);
        assert_eq!(node.nft.open().commits().len(), commits + 1, "more policies change nothing in it");
        snapshot.policies.clear();
        let _ = pass(&mut room, &snapshot, Read::Remembered);
        assert_eq!(tables(&node), [TABLE]);
    }
}

#[test]
fn only_tagged_frames_from_ports_of_pod_bridges_are_dropped() {
    let (node, snapshot) = (FakeNode::new(), isolated());
    let _ = pass(&mut room(&node, &config(Inside::Own)), &snapshot, Read::Kernel);
    let ruleset = node.nft.open().ruleset(FRAMES).expect("it is there");
    let [base] = ruleset.chains.values().filter(|chain| chain.base.is_some()).collect::<Vec<_>>()[..] else {
        panic!("one way in: {ruleset:?}");
    };
    assert_eq!(base.base.map(|base| base.hook), Some(Hook::Forward));
    for rule in &base.rules {
        assert!(matches!(rule.matches[..], [Match::InputBridge(_)]), "{rule:?}");
        assert!(matches!(rule.statements[..], [Statement::Jump(_)]), "{rule:?}");
    }
    let text = text::render(FRAMES, &ruleset);
    assert!(text.starts_with("table bridge ferrovia-bridge {"), "{text}");
    for part in [
        "hook forward priority -210; policy accept;",
        "meta ibrname \"kube-bridge\" jump from-pods",
        "meta ibrname \"cni0\" jump from-pods",
        "ether type 0x8100 counter drop",
        "ether type 0x88a8 counter drop",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_somebody_else_changes_in_it_is_repaired_and_it_goes_with_the_rest() {
    for inside in [Inside::Own, Inside::Beside] {
        let (node, snapshot) = (FakeNode::new(), isolated());
        let mut room = room(&node, &config(inside));
        let _ = pass(&mut room, &snapshot, Read::Remembered);
        let whole = node.nft.open().ruleset(FRAMES);
        repairs(&node, &mut room, &snapshot, FRAMES, "from-pods");
        assert_eq!(node.nft.open().ruleset(FRAMES), whole);
        assert!(room.clean_up().failed.is_empty());
        assert_eq!(tables(&node), [""; 0]);
    }
}

#[test]
fn a_kernel_without_such_tables_keeps_no_other_rules_out_and_is_told_of() {
    let (node, snapshot) = (FakeNode::new(), isolated());
    node.nft.open().refuse("table bridge");
    let mut room = room(&node, &config(Inside::Own));
    let outcome = pass(&mut room, &snapshot, Read::Kernel);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(tables(&node), [TABLE]);
    assert!(told(&outcome).is_empty(), "no pod is on a bridge");
    node.sysctl.open().values.insert("net/ipv4/conf/cni0/rp_filter".to_owned(), "0".to_owned());
    let outcome = pass(&mut room, &snapshot, Read::Kernel);
    assert!(told(&outcome)[0].message.contains("nft_meta_bridge"), "{outcome:?}");
    let outcome = pass(&mut room, &snapshot, Read::Remembered);
    assert!(outcome.failed.is_empty() && told(&outcome).len() == 1, "{outcome:?}");
    // The module is there now.
    node.nft.open().refuse("");
    let outcome = pass(&mut room, &snapshot, Read::Kernel);
    assert!(outcome.failed.is_empty() && told(&outcome).is_empty(), "{outcome:?}");
    assert_eq!(tables(&node), [FRAMES, TABLE]);
}

#[test]
fn one_that_cannot_be_written_now_is_written_with_the_next_pass() {
    let (node, snapshot) = (FakeNode::new(), isolated());
    node.nft.open().fail_next(12);
    let mut room = room(&node, &config(Inside::Beside));
    let outcome = pass(&mut room, &snapshot, Read::Remembered);
    assert_eq!(outcome.failed.len(), 1, "{:?}", outcome.failed);
    assert_eq!(tables(&node), [TABLE], "what could be written is in force");
    assert!(pass(&mut room, &snapshot, Read::Remembered).failed.is_empty());
    assert_eq!(tables(&node), [FRAMES, TABLE]);
    assert!(!tables(&node).contains(&BESIDE.to_owned()));
}
