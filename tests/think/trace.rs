//! For random clusters and packets: what a node should have does what Kubernetes says should happen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrovia::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, NodeName, Service, ServicePort, ServiceType, SliceKey, Snapshot,
    TrafficPolicy, WeightRule, WeightSelector,
};
use ferrovia::net::{Family, Protocol};
use ferrovia::proxy::render::Picture;
use ferrovia::proxy::{Config, NodeView};
use ferrovia::testing::builders::{cluster, endpoint, ip, key, prefix, service};
use ferrovia::testing::oracle::Oracle;
use ferrovia::testing::tracer::{Fate, Origin, Packet, Tracer};
use proptest::prelude::*;

/// The node's own addresses; the last of each family are not in its Node object.
const OWN: [&str; 4] = ["192.168.10.11", "127.0.0.1", "fd10::11", "::1"];

/// One Service of a random cluster, in small numbers that collide often.
#[derive(Clone, Debug)]
struct Random {
    cluster_ip: u8,
    families: u8,
    external: Vec<u8>,
    balancer: Vec<u8>,
    ports: Vec<(u8, bool, bool)>,
    policies: (bool, bool, bool),
    flags: (bool, bool, bool, bool),
    weights: Vec<(u8, u32)>,
    ranges: Vec<u8>,
    created: i64,
    slices: Vec<(u8, Vec<RandomEndpoint>)>,
}

#[derive(Clone, Debug)]
struct RandomEndpoint {
    node: u8,
    host: u8,
    v6: bool,
    state: u8,
    zone_hints: u8,
    node_hints: u8,
}

fn endpoints() -> impl Strategy<Value = Vec<RandomEndpoint>> {
    let one = (1_u8..4, 1_u8..5, prop::bool::weighted(0.3), 0_u8..6, 0_u8..4, 0_u8..4).prop_map(
        |(node, host, v6, state, zone_hints, node_hints)| RandomEndpoint {
            node,
            host,
            v6,
            state,
            zone_hints,
            node_hints,
        },
    );
    prop::collection::vec(one, 0..5)
}

fn random() -> impl Strategy<Value = Random> {
    let addresses = (
        0_u8..6,
        0_u8..3,
        prop::collection::vec(0_u8..5, 0..2),
        prop::collection::vec(0_u8..4, 0..2),
        prop::collection::vec((0_u8..3, any::<bool>(), any::<bool>()), 1..3),
        prop::collection::vec((0_u8..3, endpoints()), 0..4),
    );
    let behaviour = (
        (prop::bool::weighted(0.3), prop::bool::weighted(0.3), prop::bool::weighted(0.1)),
        // Ignored, no cluster address, load balancer addresses skipped, direct return.
        (prop::bool::weighted(0.1), prop::bool::weighted(0.05), prop::bool::weighted(0.1), prop::bool::weighted(0.15)),
        prop::collection::vec((0_u8..6, 0_u32..3), 0..2),
        prop::collection::vec(0_u8..4, 0..2),
        0_i64..4,
    );
    (addresses, behaviour).prop_map(|(a, b)| Random {
        cluster_ip: a.0,
        families: a.1,
        external: a.2,
        balancer: a.3,
        ports: a.4,
        slices: a.5,
        policies: b.0,
        flags: b.1,
        weights: b.2,
        ranges: b.3,
        created: b.4,
    })
}

const PORT_NAMES: [&str; 3] = ["http", "dns", "admin"];
const PORT_NUMBERS: [u16; 3] = [80, 53, 8080];

impl Random {
    fn service(&self, name: &str) -> Service {
        let mut made = cluster("n1").service(service(name, "10.96.0.1")).build();
        let mut service = Service::clone(&made.services.remove(&key(name)).unwrap());
        let number = self.cluster_ip + 1;
        let (v4, v6) = (ip(&format!("10.96.0.{number}")), ip(&format!("fd00:96::{number}")));
        service.cluster_ips = match self.families {
            _ if self.flags.1 => Vec::new(),
            0 => vec![v4],
            1 => vec![v6],
            _ => vec![v4, v6],
        };
        // The fifth external address is the node's own, the fourth of each kind is not granted.
        let externals = ["198.51.100.1", "198.51.100.2", "2001:db8:51::1", "198.51.101.1", "192.168.10.11"];
        let balancers = ["203.0.113.1", "2001:db8:71::1", "198.51.100.1", "203.0.114.1"];
        service.external_ips = self.external.iter().map(|index| ip(externals[usize::from(*index)])).collect();
        service.load_balancer_ips = self.balancer.iter().map(|index| ip(balancers[usize::from(*index)])).collect();
        if self.flags.3 {
            // An address is served by direct return or it is not: nobody shares one that may be.
            let own = format!("198.51.100.{}", 100 + self.number(name));
            service.external_ips = service.external_ips.iter().take(1).map(|_| ip(&own)).collect();
            service.load_balancer_ips.clear();
        }
        service.kind = ServiceType::LoadBalancer;
        let mut seen = BTreeSet::new();
        for (index, udp, node_port) in &self.ports {
            let protocol = if *udp { Protocol::Udp } else { Protocol::Tcp };
            if !seen.insert(*index) {
                continue;
            }
            let index = usize::from(*index);
            service.ports.push(ServicePort {
                name: Arc::from(PORT_NAMES[index]),
                protocol,
                port: PORT_NUMBERS[index],
                target_port: None,
                // Port numbers of the node are unique in a cluster.
                node_port: if *node_port { 30000 + u16::from(self.number(name)) * 3 + index as u16 } else { 0 },
            });
        }
        let local = |wanted: bool| if wanted { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        service.internal_policy = local(self.policies.0);
        service.external_policy = local(self.policies.1);
        service.settings.local = self.policies.2;
        service.ignored_by_proxy = self.flags.0;
        service.settings.skip_load_balancer_ips = self.flags.2;
        service.settings.dsr = self.flags.3;
        service.settings.weights = self.weights.iter().map(|(index, weight)| rule(*index, *weight)).collect();
        let ranges = ["192.0.2.0/24", "10.244.0.0/16", "2001:db8::/32", "192.0.2.7/32"];
        service.source_ranges = self.ranges.iter().map(|index| prefix(ranges[usize::from(*index)])).collect();
        service.created = self.created;
        service
    }

    fn number(&self, name: &str) -> u8 {
        name.bytes().last().unwrap_or(0) % 10
    }
}

fn rule(index: u8, weight: u32) -> WeightRule {
    let selector = match index {
        0 => WeightSelector::Any,
        1 => WeightSelector::Address(ip("10.244.1.1")),
        2 => WeightSelector::Node(NodeName::new("n2")),
        3 => WeightSelector::Zone(Arc::from("a")),
        4 => WeightSelector::Pod(Arc::from("pod-2-2")),
        _ => WeightSelector::Node(NodeName::new("n1")),
    };
    WeightRule { selector, weight }
}

impl RandomEndpoint {
    fn endpoint(&self) -> Endpoint {
        let RandomEndpoint { node, host, .. } = self;
        // The fourth host of every node is the node itself.
        let address = match (self.v6, *host == 4) {
            (false, false) => format!("10.244.{node}.{host}"),
            (true, false) => format!("fd00:244:{node}::{host}"),
            (false, true) => format!("192.168.10.{}", 10 + node),
            (true, true) => format!("fd10::1{node}"),
        };
        let (ready, serving, terminating) = match self.state {
            0 => (false, false, false),
            1 => (false, true, true),
            2 => (false, true, false),
            3 => (true, true, true),
            _ => (true, true, false),
        };
        let hints = |bits: u8, names: [&'static str; 2]| -> Vec<&'static str> {
            names.into_iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| name).collect()
        };
        Endpoint {
            node: Some(NodeName::new(format!("n{node}"))),
            zone: Some(Arc::from(if node % 2 == 1 { "a" } else { "b" })),
            pod: Some(Arc::from(format!("pod-{node}-{host}"))),
            conditions: Conditions { ready, serving, terminating },
            zone_hints: hints(self.zone_hints, ["a", "b"]).into_iter().map(Arc::from).collect(),
            node_hints: hints(self.node_hints, ["n1", "n2"]).into_iter().map(NodeName::new).collect(),
            ..endpoint(&address)
        }
    }
}

fn snapshot(services: &[Random]) -> Snapshot {
    let mut snapshot = cluster("n1").node(|node| node.zone = Some(Arc::from("a"))).build();
    for (number, random) in services.iter().enumerate() {
        let service_key = key(&format!("shop/s{number}"));
        let service = random.service(&format!("shop/s{number}"));
        for (index, (flavour, endpoints)) in random.slices.iter().enumerate() {
            let ports = service.ports.iter().map(|port| EndpointPort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: if *flavour == 0 { port.port + 1000 } else { port.port },
            });
            // One flavour lacks the first port.
            let ports: Box<[EndpointPort]> = ports.skip(usize::from(*flavour == 2)).collect();
            for v6 in [false, true] {
                let of_family = endpoints.iter().filter(|endpoint| endpoint.v6 == v6);
                let unique: BTreeMap<IpAddr, Endpoint> =
                    of_family.map(RandomEndpoint::endpoint).map(|endpoint| (endpoint.address, endpoint)).collect();
                let slice = EndpointSlice { ports: ports.clone(), endpoints: unique.into_values().collect() };
                let name = Arc::from(format!("s{number}-{index}-{v6}"));
                snapshot.slices.insert(SliceKey { service: service_key.clone(), name }, Arc::new(slice));
            }
        }
        snapshot.services.insert(service_key, Arc::new(service));
    }
    snapshot
}

fn config(masquerade_all: bool, node_port_all_addresses: bool, input_firewall: bool, direct: bool) -> Config {
    Config {
        masquerade_all,
        node_port_all_addresses,
        input_firewall,
        runtime_endpoint: direct,
        cluster_ip_ranges: vec![prefix("10.96.0.0/12"), prefix("fd00:96::/112")],
        external_ip_ranges: vec![prefix("198.51.100.0/24"), prefix("2001:db8:51::/64"), prefix("192.168.10.0/24")],
        load_balancer_ip_ranges: vec![prefix("203.0.113.0/24"), prefix("2001:db8:71::/64"), prefix("198.51.100.0/24")],
        ..Config::default()
    }
}

/// Every client asks every address at every port that occurs, and some that do not.
fn packets(snapshot: &Snapshot) -> Vec<Packet> {
    let mut destinations: BTreeSet<IpAddr> = OWN.iter().map(|address| ip(address)).collect();
    let mut ports: BTreeSet<u16> = BTreeSet::from([80, 9999]);
    for service in snapshot.services.values() {
        destinations.extend(service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips));
        ports.extend(service.ports.iter().flat_map(|port| [port.port, port.node_port]).filter(|port| *port != 0));
    }
    destinations.insert(ip("10.96.0.99"));
    let clients = [
        (Origin::Node, "192.168.10.11"),
        (Origin::Wire, "10.244.1.1"),
        (Origin::Wire, "10.244.1.9"),
        (Origin::Wire, "10.244.2.2"),
        (Origin::Wire, "192.0.2.7"),
        (Origin::Node, "fd10::11"),
        (Origin::Wire, "fd00:244:1::1"),
        (Origin::Wire, "2001:db8::7"),
    ]
    .map(|(origin, address)| (origin, ip(address)));
    let mut packets = Vec::new();
    for destination in destinations {
        for (origin, source) in clients.into_iter().filter(|(_, source)| Family::of(*source) == Family::of(destination))
        {
            for port in &ports {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    packets.push(Packet { origin, source, source_port: 40000, destination, protocol, port: *port });
                }
            }
        }
    }
    packets
}

fn own() -> Vec<IpAddr> {
    OWN.iter().map(|address| ip(address)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_end_where_kubernetes_says(
        services in prop::collection::vec(random(), 1..5),
        (masquerade, all, guard, direct) in (prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.8), any::<bool>()),
    ) {
        let snapshot = snapshot(&services);
        let config = config(masquerade, all, guard, direct);
        let own = own();
        let picture = Picture::seen_from(&NodeView::new(&snapshot, &own, 1500), &snapshot, &config);
        let tracer = Tracer::new(&picture, &own);
        let oracle = Oracle::new(&snapshot, &config, &own);
        for packet in packets(&snapshot) {
            let (traced, expected) = (tracer.trace(packet), oracle.expect(packet));
            prop_assert_eq!(&traced, &expected, "{:?}: traced {:?}, expected {:?}", packet, traced, expected);
        }
    }
}

/// The tracer itself on a table small enough to read.
#[test]
fn the_paths_of_a_small_cluster() {
    let built = cluster("n1")
        .service(service("shop/web", "10.96.0.10").node_port(80, 30080).external_ip("198.51.100.1"))
        .ready("shop/web", &["10.244.1.5", "10.244.2.5"], 8080)
        .service(service("shop/empty", "10.96.0.11").port(80));
    let snapshot = built.build();
    let config = config(false, false, true, false);
    let own = own();
    let picture = Picture::seen_from(&NodeView::new(&snapshot, &own, 1500), &snapshot, &config);
    let tracer = Tracer::new(&picture, &own);
    let node = "192.168.10.11";
    let both = |here: &str, there: &str| {
        Fate::Endpoints(BTreeMap::from([((ip("10.244.1.5"), 8080), ip(here)), ((ip("10.244.2.5"), 8080), ip(there))]))
    };
    let table = [
        (
            "pod of this node to a cluster IP",
            Origin::Wire,
            "10.244.1.9",
            "10.96.0.10",
            80,
            both("10.244.1.9", "10.244.1.9"),
        ),
        (
            "an endpoint to its own Service",
            Origin::Wire,
            "10.244.1.5",
            "10.96.0.10",
            80,
            both("10.96.0.10", "10.244.1.5"),
        ),
        ("an endpoint through the node port", Origin::Wire, "10.244.1.5", node, 30080, both(node, "10.244.1.5")),
        ("a client outside", Origin::Wire, "192.0.2.1", "198.51.100.1", 80, both("192.0.2.1", node)),
        ("a client outside to the node port", Origin::Wire, "192.0.2.1", node, 30080, both("192.0.2.1", node)),
        ("the node itself", Origin::Node, node, "10.96.0.10", 80, both(node, node)),
        ("nobody behind it", Origin::Wire, "192.0.2.1", "10.96.0.11", 80, Fate::Refused),
        ("another port of a VIP", Origin::Wire, "192.0.2.1", "10.96.0.10", 22, Fate::Refused),
        ("another port of a VIP, from the node", Origin::Node, node, "10.96.0.10", 22, Fate::Refused),
        ("a port of the node", Origin::Wire, "192.0.2.1", node, 22, Fate::Host),
        ("somebody else", Origin::Wire, "192.0.2.1", "192.0.2.99", 80, Fate::Elsewhere),
    ];
    for (what, origin, source, destination, port, fate) in table {
        let packet = Packet {
            origin,
            source: ip(source),
            source_port: 40000,
            destination: ip(destination),
            protocol: Protocol::Tcp,
            port,
        };
        assert_eq!(tracer.trace(packet), fate, "{what}");
    }
}
