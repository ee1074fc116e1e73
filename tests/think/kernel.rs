//! The room and what else happens in the kernel: stale flows, other people's changes, how VIPs are bound.

use ferrovia::kernel::conntrack::Flow;
use ferrovia::kernel::ipvs::{self, RealServer, VirtualServerKey};
use ferrovia::kernel::rtnl::{Address, Op, Rtnl};
use ferrovia::model::{Scheduler, Snapshot};
use ferrovia::net::{Protocol, host_prefix};
use ferrovia::proxy::{Config, VipBinding};
use ferrovia::reconcile::Read;
use ferrovia::testing::builders::{ClusterBuilder, cluster, ip, service};
use ferrovia::testing::node::{FakeNode, FakeRoom, pass};

use crate::convergence::{at, config, host, real};

fn flow(protocol: Protocol, vip: &str, port: u16, endpoint: &str, client_port: u16, zone: u16) -> Flow {
    Flow {
        transport: protocol.into(),
        source: ip(if vip.contains(':') { "fd20::1" } else { "10.244.1.99" }),
        source_port: client_port,
        destination: ip(vip),
        destination_port: port,
        reply_source: ip(endpoint),
        reply_source_port: if endpoint == vip { port } else { 5353 },
        zone,
        mark: 0,
        half_closed: false,
    }
}

/// A pass that works; how much it wrote.
fn sync(room: &mut FakeRoom, state: &Snapshot) -> usize {
    let outcome = pass(room, state, Read::Remembered, 1);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    outcome.ops
}

fn dns(endpoints: &[&str]) -> ClusterBuilder {
    let dns = service("shop/dns", "10.96.0.10").and_ip("fd00:96::10").protocol_port(Protocol::Udp, 53, 30053);
    let dns = dns.external_ip("198.51.100.1").protocol_port(Protocol::Tcp, 53, 0);
    cluster("n1")
        .service(dns)
        .ready("shop/dns", endpoints, 5353)
        .service(service("shop/other", "10.96.0.11").udp(53))
        .ready("shop/other", &["10.244.1.6"], 5353)
}

const VIPS: [(&str, u16); 3] = [("10.96.0.10", 53), ("198.51.100.1", 53), ("192.168.10.11", 30053)];

#[test]
fn flows_to_an_endpoint_that_goes_are_forgotten_and_no_others() {
    let node = host();
    let mut room = node.room(&config());
    let v6 = "fd00:244:1::5";
    sync(&mut room, &dns(&["10.244.1.5", "10.244.2.5", v6]).build());
    let mut gone: Vec<Flow> = Vec::new();
    let mut stay = vec![
        flow(Protocol::Tcp, "10.96.0.10", 53, "10.244.2.5", 1, 0),
        flow(Protocol::Udp, "10.96.0.11", 53, "10.244.2.5", 2, 0),
        flow(Protocol::Udp, "172.16.0.1", 53, "10.244.2.5", 3, 0),
        flow(Protocol::Udp, "10.96.0.10", 54, "10.244.2.5", 4, 0),
        flow(Protocol::Udp, "fd00:96::10", 53, v6, 5, 0),
    ];
    for (index, (vip, port)) in VIPS.into_iter().enumerate() {
        let client_port = 100 + u16::try_from(index).unwrap();
        gone.push(flow(Protocol::Udp, vip, port, "10.244.2.5", client_port, 0));
        gone.push(flow(Protocol::Udp, vip, port, "10.244.2.5", client_port, 7));
        stay.push(flow(Protocol::Udp, vip, port, "10.244.1.5", client_port + 100, 0));
    }
    node.conntrack.open().flows.extend(gone.iter().chain(&stay).copied());
    sync(&mut room, &dns(&["10.244.1.5", v6]).build());
    stay.sort();
    assert_eq!(node.conntrack.open().flows.iter().copied().collect::<Vec<_>>(), stay);
    let mut deleted = node.conntrack.open().deleted.clone();
    deleted.sort();
    gone.sort();
    assert_eq!(deleted, gone, "each once");
}

#[test]
fn flows_are_forgotten_when_the_last_endpoint_goes_and_when_the_first_one_comes() {
    let node = host();
    let mut room = node.room(&config());
    sync(&mut room, &dns(&["10.244.1.5"]).build());
    let with_endpoint: Vec<Flow> = VIPS.map(|(vip, port)| flow(Protocol::Udp, vip, port, "10.244.1.5", 9, 0)).to_vec();
    node.conntrack.open().flows.extend(with_endpoint);
    sync(&mut room, &dns(&[]).build());
    assert!(node.conntrack.open().flows.is_empty(), "the last one goes");
    // While nobody serves, the host itself is asked: such a flow would hide the endpoint that comes.
    let unserved: Vec<Flow> = VIPS.map(|(vip, port)| flow(Protocol::Udp, vip, port, vip, 9, 0)).to_vec();
    node.conntrack.open().flows.extend(unserved);
    let lists = node.conntrack.open().lists;
    sync(&mut room, &dns(&[]).build());
    assert_eq!(node.conntrack.open().lists, lists, "nothing changed, nothing is read");
    sync(&mut room, &dns(&["10.244.1.5"]).build());
    assert!(node.conntrack.open().flows.is_empty(), "the first one comes");
}

#[test]
fn flows_are_forgotten_when_their_service_goes_or_the_daemon_missed_it() {
    for missed in [false, true] {
        let node = host();
        let mut room = node.room(&config());
        sync(&mut room, &dns(&["10.244.1.5", "10.244.2.5"]).build());
        let flows = VIPS.map(|(vip, port)| flow(Protocol::Udp, vip, port, "10.244.2.5", 9, 0));
        let state = if missed {
            // It ended after it changed the table and before it forgot the flows.
            sync(&mut room, &dns(&["10.244.1.5"]).build());
            room = node.room(&config());
            dns(&["10.244.1.5"]).build()
        } else {
            cluster("n1").build()
        };
        node.conntrack.open().flows.extend(flows);
        sync(&mut room, &state);
        assert!(node.conntrack.open().flows.is_empty(), "missed: {missed}");
    }
}

#[test]
fn a_failed_deletion_of_flows_is_tried_again() {
    let node = host();
    let mut room = node.room(&config());
    sync(&mut room, &dns(&["10.244.1.5"]).build());
    node.conntrack.open().flows.insert(flow(Protocol::Udp, "10.96.0.10", 53, "10.244.1.5", 9, 0));
    node.conntrack.open().fail_next = Some(ferrovia::kernel::Disposition::Retry);
    let state = dns(&[]).build();
    let outcome = pass(&mut room, &state, Read::Remembered, 1);
    assert!(outcome.failed.keys().any(|key| key.starts_with("conntrack entries")), "{:?}", outcome.failed);
    sync(&mut room, &state);
    assert!(node.conntrack.open().flows.is_empty());
}

fn web() -> ClusterBuilder {
    cluster("n1").service(service("shop/web", "10.96.0.10").and_ip("fd00:96::10").node_port(80, 30080)).ready(
        "shop/web",
        &["10.244.1.5", "10.244.2.5"],
        8080,
    )
}

/// Something somebody else does to a host that is as it should be.
type Meddling = (&'static str, Read, fn(&FakeNode));

const MEDDLING: [Meddling; 10] = [
    ("a virtual server is gone", Read::Kernel, |node| node.ipvs.open().remove(&at("10.96.0.10", Protocol::Tcp, 80))),
    ("another scheduler", Read::Kernel, |node| {
        let key = at("10.96.0.10", Protocol::Tcp, 80);
        let mut server = node.ipvs.open().table()[&key].clone();
        server.spec.scheduler = ferrovia::kernel::ipvs::Scheduler::new("lc");
        node.ipvs.open().insert(key, server);
    }),
    ("another real server, another weight", Read::Kernel, |node| {
        let key = at("10.96.0.10", Protocol::Tcp, 80);
        let mut server = node.ipvs.open().table()[&key].clone();
        let mut servers = server.real_servers.to_vec();
        servers[0].weight = 0;
        servers.push(RealServer { key: real("10.244.9.9", 1), ..servers[1] });
        server.real_servers = servers.into();
        node.ipvs.open().insert(key, server);
    }),
    ("a stale virtual server in the cluster range", Read::Kernel, |node| {
        let server = node.ipvs.open().table()[&at("10.96.0.10", Protocol::Tcp, 80)].clone();
        node.ipvs.open().insert(at("10.96.7.7", Protocol::Tcp, 80), server);
    }),
    ("the table is gone", Read::Kernel, |node| node.nft.open().remove_table("ferrovia-proxy")),
    ("a rule in our chain", Read::Kernel, |node| {
        assert!(node.nft.open().put_foreign_rule("ferrovia-proxy", "input"));
    }),
    ("something unknown in our table", Read::Kernel, |node| {
        assert!(node.nft.open().put_unknown("ferrovia-proxy", "flowtable"));
    }),
    ("a VIP is gone", Read::Links, |node| {
        let link = dummy(node);
        let address = Address { link, prefix: host_prefix(ip("10.96.0.10")), scope: 253 };
        assert_eq!(node.rtnl.open().apply(&[Op::DeleteAddress(address)]), [Ok(())]);
    }),
    ("the link is down", Read::Links, |node| {
        let link = dummy(node);
        assert_eq!(node.rtnl.open().apply(&[Op::SetUp { link, up: false }]), [Ok(())]);
    }),
    ("an address nobody asks for", Read::Links, |node| {
        let link = dummy(node);
        assert!(node.rtnl.open().put_address(Address { link, prefix: host_prefix(ip("10.96.9.9")), scope: 253 }));
    }),
];

fn dummy(node: &FakeNode) -> u32 {
    let links = node.rtnl.open().links().unwrap();
    links.iter().find(|link| link.name == "kube-dummy-if").unwrap().index
}

#[test]
fn what_somebody_else_changes_is_repaired() {
    for (what, read, meddle) in MEDDLING {
        let node = host();
        let mut room = node.room(&config());
        let state = web().build();
        sync(&mut room, &state);
        let good = node.state();
        meddle(&node);
        let outcome = pass(&mut room, &state, read, 1);
        assert!(outcome.failed.is_empty(), "{what}: {:?}", outcome.failed);
        assert!(outcome.ops > 0, "{what}");
        assert!(node.state() == good, "{what}:\n{}", node.state().difference(&good));
        if read == Read::Kernel {
            assert!(outcome.drift > 0, "{what}: counted as drift");
        }
        let outcome = pass(&mut room, &state, Read::Kernel, 2);
        assert_eq!((outcome.ops, outcome.drift), (0, 0), "{what}");
    }
}

#[test]
fn a_dummy_link_that_was_deleted_comes_back_with_its_addresses() {
    let node = host();
    let mut room = node.room(&config());
    let state = web().build();
    sync(&mut room, &state);
    let link = dummy(&node);
    let vips = node.vips();
    assert_eq!(node.rtnl.open().apply(&[Op::DeleteLink { link }]), [Ok(())]);
    let outcome = pass(&mut room, &state, Read::Links, 1);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert_eq!(node.vips(), vips);
}

#[test]
fn what_kube_router_left_is_adopted_without_a_gap() {
    let node = host();
    let state = web().build();
    sync(&mut node.room(&config()), &state);
    // The other daemon's own: a service that is gone, a weight it set, no table of ours.
    let key = at("10.96.0.10", Protocol::Tcp, 80);
    let server = node.ipvs.open().table()[&key].clone();
    node.ipvs.open().insert(at("10.96.3.3", Protocol::Tcp, 80), server);
    node.nft.open().remove_table("ferrovia-proxy");
    node.ipvs.open().log.clear();
    assert!(sync(&mut node.room(&config()), &state) > 0);
    let log: Vec<String> = node.ipvs.open().log.iter().map(ToString::to_string).collect();
    assert_eq!(log, ["-D -t 10.96.3.3:80"], "what is right is not touched");
}

#[test]
fn an_address_in_an_excluded_range_is_served_and_settles() {
    let node = host();
    let state = cluster("n1")
        .service(service("shop/web", "10.96.200.9").port(80))
        .ready("shop/web", &["10.244.1.5"], 80)
        .build();
    let mut room = node.room(&config());
    sync(&mut room, &state);
    assert!(node.ipvs.open().table().contains_key(&at("10.96.200.9", Protocol::Tcp, 80)));
    for read in [Read::Kernel, Read::Kernel] {
        let outcome = pass(&mut room, &state, read, 1);
        assert_eq!((outcome.ops, outcome.drift, outcome.failed.len()), (0, 0, 0), "{:?}", outcome.failed);
    }
    sync(&mut room, &cluster("n1").build());
    assert!(!node.ipvs.open().table().contains_key(&at("10.96.200.9", Protocol::Tcp, 80)));
    assert!(node.ipvs.open().table().contains_key(&at("10.96.200.1", Protocol::Tcp, 80)), "the other one is foreign");
}

#[test]
fn no_virtual_server_is_written_before_the_table_was_read() {
    let node = FakeNode::new();
    let mut room = node.room(&Config::default());
    let state = web().build();
    node.ipvs.open().fail_next_dump(105);
    let blind = pass(&mut room, &state, Read::Kernel, 0);
    assert!(blind.broken.contains("ipvs"), "{blind:?}");
    assert!(node.written().ipvs.is_empty() && node.state().servers.is_empty());
    let seeing = pass(&mut room, &state, Read::Remembered, 1);
    assert!(seeing.failed.is_empty() && seeing.broken.is_empty() && seeing.drift == 0, "{seeing:?}");
    assert!(!node.state().servers.is_empty());
}

#[test]
fn it_is_a_whole_part_that_fails_where_no_virtual_server_can_be_written() {
    let refuse = |n_refused: usize| {
        let node = FakeNode::new();
        let mut room = node.room(&Config::default());
        let mut cluster = cluster("n1");
        for (name, vip) in [("shop/web", "10.96.0.10"), ("shop/api", "10.96.0.11")] {
            cluster = cluster.service(service(name, vip).port(80)).ready(name, &["10.244.1.5"], 8080);
        }
        for _ in 0..n_refused {
            node.ipvs.open().fail_next(|op| matches!(op, ipvs::Op::AddVirtualServer(..)), 1);
        }
        pass(&mut room, &cluster.build(), Read::Kernel, 0)
    };
    let one = refuse(1);
    assert!(one.failed.len() == 1 && one.broken.is_empty(), "{one:?}");
    let all = refuse(2);
    assert!(all.failed.len() == 3 && all.broken.contains("every virtual server"), "{all:?}");
}

fn many(n_vips: u32) -> Snapshot {
    let mut built = cluster("n1");
    for number in 0..n_vips {
        let vip = format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250);
        built = built.service(service(&format!("shop/s{number:04}"), &vip).port(80));
    }
    built.build()
}

#[test]
fn vips_are_addresses_up_to_1024_and_routes_above_in_either_direction() {
    let node = FakeNode::new();
    let mut room = node.room(&config());
    for n_vips in [1023_u32, 1024, 1025, 1026, 1024, 1025, 3] {
        sync(&mut room, &many(n_vips));
        let (addresses, routes) = node.vips();
        let expected = if n_vips <= 1024 { n_vips } else { 0 };
        assert_eq!(addresses.len(), usize::try_from(expected).unwrap(), "{n_vips} VIPs");
        assert_eq!(routes.len(), usize::try_from(n_vips).unwrap(), "{n_vips} VIPs");
        let outcome = pass(&mut room, &many(n_vips), Read::Kernel, 1);
        assert_eq!((outcome.ops, outcome.failed.len()), (0, 0), "{n_vips} VIPs");
    }
}

#[test]
fn the_binding_may_be_changed_from_one_start_to_the_next() {
    let node = FakeNode::new();
    let state = web().build();
    for binding in [VipBinding::Address, VipBinding::Route, VipBinding::Auto, VipBinding::Route, VipBinding::Address] {
        let config = Config { vip_binding: binding, ..config() };
        sync(&mut node.room(&config), &state);
        let (addresses, routes) = node.vips();
        assert_eq!(routes.len(), 2, "{binding:?}");
        assert_eq!(addresses.len(), if binding == VipBinding::Route { 0 } else { 2 }, "{binding:?}");
    }
}

#[test]
fn a_hashing_virtual_server_is_filled_before_it_hashes_however_it_fails() {
    let state = cluster("n1")
        .service(service("shop/web", "10.96.0.10").port(80).scheduler(Scheduler::Mh))
        .ready("shop/web", &["10.244.1.5", "10.244.2.5"], 8080)
        .build();
    let node = host();
    let mut room = node.room(&config());
    // The last op of three: the virtual server has its real servers under rr.
    let is_set = |op: &ferrovia::kernel::ipvs::Op| matches!(op, ferrovia::kernel::ipvs::Op::SetVirtualServer(..));
    node.ipvs.open().fail_next(is_set, 105);
    let outcome = pass(&mut room, &state, Read::Kernel, 0);
    assert_eq!(outcome.failed.len(), 1);
    let scheduler = |node: &FakeNode| {
        let key: VirtualServerKey = at("10.96.0.10", Protocol::Tcp, 80);
        node.ipvs.open().table()[&key].spec.scheduler.0.to_string()
    };
    assert_eq!(scheduler(&node), "rr");
    let outcome = pass(&mut room, &state, Read::Kernel, 1);
    assert!(outcome.failed.is_empty());
    assert_eq!((scheduler(&node), outcome.ops), ("mh".to_owned(), 1));
}
