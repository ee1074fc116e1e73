//! What the firewall does when the kernel refuses some of its rules, on both backends.

use std::sync::Arc;
use std::time::Duration;

use ferrovia::firewall::reconciler::{Figures, Kernel, Room};
use ferrovia::firewall::{Config, LOG_GROUP, TABLE};
use ferrovia::kernel::conntrack::fake::FakeConntrack;
use ferrovia::kernel::filter::Backend;
use ferrovia::kernel::ipset::fake::FakeIpset;
use ferrovia::kernel::iptables::Iptables;
use ferrovia::kernel::iptables::fake::FakePrograms;
use ferrovia::kernel::nft::fake::FakeNft;
use ferrovia::kernel::nft::text;
use ferrovia::kernel::rtnl::fake::FakeRtnl;
use ferrovia::kernel::sysctl::FakeSysctl;
use ferrovia::model::{
    Action, ClusterNetworkPolicy, ClusterPolicyName, ClusterRule, Labels, Namespaces, NetworkPolicy, NodeName,
    Operator, Peer, Peers, Pod, PodKey, PolicyKey, PolicyRule, Ports, Requirement, Selector, Snapshot, Tier,
};
use ferrovia::net::Family;
use ferrovia::reconcile::query::View;
use ferrovia::reconcile::{Outcome, Read, Subsystem};
use ferrovia::testing::builders::{cluster, ip};
use ferrovia::testing::node::{Door, FakeNode};
use tokio::sync::watch;

/// A backend that can be told what to refuse, and shows what it holds as text.
trait Refusing: Backend {
    fn refuse(&mut self, words: &str);
    fn held(&mut self) -> String;
}

impl Refusing for FakeNft {
    fn refuse(&mut self, words: &str) {
        FakeNft::refuse(self, words);
    }

    fn held(&mut self) -> String {
        self.ruleset(TABLE).map(|ruleset| text::render(TABLE, &ruleset)).unwrap_or_default()
    }
}

impl Refusing for Iptables<FakeIpset, FakePrograms> {
    fn refuse(&mut self, words: &str) {
        Family::ALL.into_iter().for_each(|family| self.doors().1.refuse(family, words));
    }

    fn held(&mut self) -> String {
        self.doors().1.family(Family::V4).print()
    }
}

fn iptables() -> Iptables<FakeIpset, FakePrograms> {
    Iptables::new(FakeIpset::new(), FakePrograms::new())
}

/// Whose refusals name no rule.
fn legacy() -> Iptables<FakeIpset, FakePrograms> {
    let mut iptables = iptables();
    iptables.doors().1.refuse_at_commit(true);
    iptables
}

type Tried<N> = Room<N, Door<FakeRtnl>, Door<FakeConntrack>, Door<FakeSysctl>>;

fn room<N: Backend>(nft: N, config: &Config) -> Tried<N> {
    let node = FakeNode::new();
    let kernel =
        Kernel { nft, rtnl: node.rtnl.clone(), conntrack: node.conntrack.clone(), sysctl: node.sysctl.clone() };
    Room::new(config.clone(), kernel, watch::channel(Figures::default()).0)
}

fn labels(app: &str) -> Labels {
    [(Arc::from("app"), Arc::from(app))].into()
}

fn selector(app: &str) -> Selector {
    Selector(vec![Requirement { key: Arc::from("app"), operator: Operator::In([Arc::from(app)].into()) }])
}

fn put_pod(snapshot: &mut Snapshot, name: &str, address: &str) {
    let addresses = [ip(address)].into();
    let pod = Pod { addresses, node: Some(NodeName::new("n1")), labels: labels(name), ..Pod::default() };
    snapshot.pods.insert(PodKey::new("default", name), Arc::new(pod));
}

/// Two pods; policy `one` is about the first, `two` about the second.
fn two_policies() -> Snapshot {
    let mut snapshot = cluster("n1").build();
    put_pod(&mut snapshot, "web", "10.244.1.5");
    put_pod(&mut snapshot, "db", "10.244.1.6");
    for (name, to, from) in [("one", "web", "db"), ("two", "db", "web")] {
        let peers = Peers::Only(vec![Peer::Pods { namespaces: Namespaces::Own, pods: selector(from) }]);
        let ingress = Some(vec![PolicyRule { peers, ports: Ports::Any }]);
        let policy = NetworkPolicy { targets: selector(to), ingress, egress: None };
        snapshot.policies.insert(PolicyKey::new("default", name), Arc::new(policy));
    }
    snapshot
}

/// The same, and two cluster policies about both pods, of which the first one denies nothing.
fn with_cluster_policies() -> Snapshot {
    let mut snapshot = two_policies();
    for (name, priority, action) in [("first", 1, Action::Accept), ("second", 2, Action::Accept)] {
        let peers = Peers::Only(vec![Peer::Pods {
            namespaces: Namespaces::Selected(Selector::default()),
            pods: selector(name),
        }]);
        let rule = ClusterRule { name: Arc::from(""), action, peers, ports: Ports::Any };
        let policy = ClusterNetworkPolicy {
            tier: Tier::Admin,
            priority,
            namespaces: Selector::default(),
            pods: Selector::default(),
            ingress: vec![rule],
            egress: Vec::new(),
        };
        snapshot.cluster_policies.insert(ClusterPolicyName(Arc::from(name)), Arc::new(policy));
    }
    snapshot
}

fn pass<N: Backend>(room: &mut Tried<N>, snapshot: &Snapshot) -> Outcome {
    room.sync(snapshot, Read::Kernel, Duration::ZERO)
}

fn refused_policy_withholds_itself<N: Refusing>(mut backend: N) {
    backend.refuse("\"default/one ingress[0]");
    let mut room = room(backend, &Config::default());
    let snapshot = two_policies();
    let outcome = pass(&mut room, &snapshot);
    assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), ["networkpolicy default/one"], "{:?}", outcome.failed);
    assert!(outcome.broken.is_empty(), "the table is in force");
    let held = room.kernel_mut().nft.held();
    assert!(held.contains("default/two ingress[0]") && !held.contains("default/one ingress[0]"), "{held}");
    assert!(held.contains("no policy allows it"), "its pod stays isolated: {held}");
    assert!(!held.contains("TRIAL"), "what was only tried is gone: {held}");
    room.kernel_mut().nft.refuse("");
    let outcome = pass(&mut room, &snapshot);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(room.kernel_mut().nft.held().contains("default/one ingress[0]"));
}

fn refused_cluster_policy_withholds_itself<N: Refusing>(mut backend: N) {
    backend.refuse("\"first ingress[0]");
    let mut room = room(backend, &Config::default());
    let snapshot = with_cluster_policies();
    let outcome = pass(&mut room, &snapshot);
    assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), ["clusternetworkpolicy first"], "{:?}", outcome.failed);
    let held = room.kernel_mut().nft.held();
    assert!(held.contains("withheld: first"), "what it selects is denied: {held}");
    assert!(!held.contains("first ingress[0]"), "{held}");
    assert!(held.contains("default/one ingress[0]"), "the rest of the table is in force: {held}");
    assert!(room.answer(&View::Findings).contains("PolicyRefused: clusternetworkpolicy first"));
    room.kernel_mut().nft.refuse("");
    let outcome = pass(&mut room, &snapshot);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let held = room.kernel_mut().nft.held();
    assert!(held.contains("first ingress[0]") && held.contains("second ingress[0]") && !held.contains("withheld"));
}

fn without_logging_policies_are_in_force<N: Refusing>(mut backend: N, words: &str) {
    backend.refuse(words);
    let mut room = room(backend, &Config { log_group: Some(LOG_GROUP), ..Config::default() });
    let snapshot = with_cluster_policies();
    for _ in 0..2 {
        let outcome = pass(&mut room, &snapshot);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        assert!(outcome.notices.iter().any(|notice| notice.reason == "DeniedUnlogged"), "{:?}", outcome.notices);
    }
    let held = room.kernel_mut().nft.held();
    assert!(held.contains("no policy allows it") && held.contains("second ingress[0]"), "{held}");
    assert!(room.answer(&View::Findings).contains("DeniedUnlogged"));
    // A change afterwards is a step like any other.
    let mut changed = snapshot.clone();
    changed.policies.remove(&PolicyKey::new("default", "one"));
    let outcome = room.sync(&changed, Read::Remembered, Duration::ZERO);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(pass(&mut room, &changed).failed.is_empty());
    assert!(!room.kernel_mut().nft.held().contains("default/one"));
}

#[test]
fn a_refused_policy_withholds_itself_alone() {
    refused_policy_withholds_itself(FakeNft::new());
    refused_policy_withholds_itself(iptables());
    refused_policy_withholds_itself(legacy());
}

#[test]
fn a_refused_cluster_policy_withholds_itself_alone_and_denies() {
    refused_cluster_policy_withholds_itself(FakeNft::new());
    refused_cluster_policy_withholds_itself(iptables());
    refused_cluster_policy_withholds_itself(legacy());
}

#[test]
fn a_kernel_that_cannot_log_denies_all_the_same() {
    without_logging_policies_are_in_force(FakeNft::new(), "log group");
    without_logging_policies_are_in_force(iptables(), "NFLOG");
    without_logging_policies_are_in_force(legacy(), "NFLOG");
}
