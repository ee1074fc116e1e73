//! Cost follows the change (ADR 6): counted at the allocator, so a busy machine changes nothing.
//!
//! What gathers, clones or formats in a change's path shows here; what only looks shows in the counts beside the indexes
//! that save it.
#![allow(unsafe_code, reason = "an allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ferrovia::firewall::Config;
use ferrovia::firewall::reconciler::{Figures, Kernel, Room};
use ferrovia::kernel::Error;
use ferrovia::kernel::conntrack::fake::FakeConntrack;
use ferrovia::kernel::filter::plan::{Observed, Transaction};
use ferrovia::kernel::filter::{Backend, Name};
use ferrovia::kernel::rtnl::fake::FakeRtnl;
use ferrovia::kernel::sysctl::FakeSysctl;
use ferrovia::model::{
    Labels, Namespaces, NetworkPolicy, NodeName, Operator, Peer, Peers, Pod, PodKey, PolicyKey, PolicyRule, Ports,
    Requirement, Selector, Snapshot,
};
use ferrovia::reconcile::{Read, Subsystem};
use ferrovia::testing::builders::cluster;
use tokio::sync::watch;

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no count any more.
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get().wrapping_add(layout.size())));
        // SAFETY: the caller keeps the promises that are the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes every transaction and keeps none.
struct Nowhere;

impl Backend for Nowhere {
    fn dump(&mut self, _: &Name) -> Result<Option<Observed>, Error> {
        Ok(None)
    }

    fn commit(&mut self, _: &Transaction) -> Result<(), Error> {
        Ok(())
    }
}

/// Pods of a namespace: the first of them runs here.
const PODS: usize = 20;

fn namespace(index: usize) -> String {
    format!("team-{index}")
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(value.as_str()))).collect()
}

fn selector(key: &str, value: &str) -> Selector {
    Selector(vec![Requirement { key: Arc::from(key), operator: Operator::In([Arc::from(value)].into()) }])
}

fn put_pod(snapshot: &mut Snapshot, namespace_index: usize, number: usize, labels: Labels) {
    let index = u32::try_from(namespace_index * PODS + number).unwrap();
    let node = NodeName::new(if number == 0 { "n1" } else { "n2" });
    let address = IpAddr::from(Ipv4Addr::from(0x0a80_0000 + index));
    let pod = Pod { addresses: [address].into(), node: Some(node), labels, ..Pod::default() };
    snapshot.pods.insert(PodKey::new(namespace(namespace_index), format!("pod-{number}")), Arc::new(pod));
}

/// Every namespace has a policy about its pod of this node, and one about nobody yet.
fn crowd(n_namespaces: usize) -> Snapshot {
    let mut snapshot = cluster("n1").build();
    for index in 0..n_namespaces {
        let pods = selector("group", &format!("g-{index}"));
        let peers = Peers::Only(vec![Peer::Pods { namespaces: Namespaces::Selected(Selector::default()), pods }]);
        let ingress = Some(vec![PolicyRule { peers, ports: Ports::Any }]);
        let policy = |targets| NetworkPolicy { targets, ingress: ingress.clone(), egress: None };
        for (name, targets) in [("all", Selector::default()), ("later", selector("chosen", "yes"))] {
            snapshot.policies.insert(PolicyKey::new(namespace(index), name), Arc::new(policy(targets)));
        }
        for number in 0..PODS {
            put_pod(&mut snapshot, index, number, labels(&[("group", format!("g-{index}"))]));
        }
    }
    // Its set is like no other's.
    let peers = Peers::Only(vec![Peer::Pods { namespaces: Namespaces::Own, pods: selector("group", "g-0") }]);
    let ingress = Some(vec![PolicyRule { peers, ports: Ports::Any }]);
    let policy = NetworkPolicy { targets: selector("first", "yes"), ingress, egress: None };
    snapshot.policies.insert(PolicyKey::new(namespace(0), "first"), Arc::new(policy));
    snapshot
}

/// Bytes allocated for each change in a cluster of so many namespaces.
fn costs(n_namespaces: usize) -> Vec<usize> {
    let kernel = Kernel {
        nft: Nowhere,
        rtnl: FakeRtnl::new(),
        conntrack: FakeConntrack::default(),
        sysctl: FakeSysctl::default(),
    };
    let mut room = Room::new(Config::default(), kernel, watch::channel(Figures::default()).0);
    let mut snapshot = crowd(n_namespaces);
    assert!(room.sync(&snapshot, Read::Kernel, Duration::ZERO).ops > n_namespaces);
    let group = ("group", "g-0".to_owned());
    let yes = |key| (key, "yes".to_owned());
    let mut now = Duration::ZERO;
    let changes = [
        // A pod elsewhere leaves what a policy allows, and joins again.
        (1, labels(&[])),
        (1, labels(std::slice::from_ref(&group))),
        // A pod of this node comes under a policy, and leaves it.
        (0, labels(&[group.clone(), yes("chosen")])),
        (0, labels(std::slice::from_ref(&group))),
        // The same, with a set that nobody else uses.
        (0, labels(&[group.clone(), yes("first")])),
        (0, labels(std::slice::from_ref(&group))),
    ];
    let cost = |(number, labels)| {
        put_pod(&mut snapshot, 0, number, labels);
        // Late enough for a look at tracked connections each time.
        now += Duration::from_secs(2);
        let before = BYTES.get();
        let outcome = room.sync(&snapshot, Read::Remembered, now);
        let cost = BYTES.get().wrapping_sub(before);
        assert!(outcome.ops > 0 && outcome.failed.is_empty(), "{outcome:?}");
        cost
    };
    changes.into_iter().map(cost).collect()
}

#[test]
fn one_pod_s_change_costs_the_firewall_the_same_in_a_cluster_ten_times_as_large() {
    let (small, big) = (costs(10), costs(100));
    for (n, (small, big)) in small.iter().zip(&big).enumerate() {
        assert!(
            *big <= small + small / 10 + 2_000,
            "change {n}: {small} bytes, and {big} among ten times as many pods"
        );
    }
}
