//! Short ways to write a cluster in a test.
//!
//! ```
//! use ferrovia::testing::builders::{cluster, service};
//!
//! let snapshot = cluster("n1").service(service("shop/web", "10.96.0.10").port(80)).ready("shop/web", &["10.244.1.5"], 8080);
//! assert_eq!(snapshot.build().services.len(), 1);
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::model::{
    Affinity, Conditions, Endpoint, EndpointPort, EndpointSlice, Generation, Node, NodeName, Pod, PodKey, Scheduler,
    Service, ServiceKey, ServicePort, ServiceSettings, ServiceType, SliceKey, Snapshot, TrafficPolicy,
};
use crate::net::{Asn, Family, Prefix, Protocol};
use crate::routing::bgp::speaker::{Password, PeerConfig};
use crate::routing::bgp::tcp::Distance;
use crate::routing::bgp::types::{Negotiated, PeerKind};
use crate::routing::bgp::wire;

/// A cluster of one node with address 192.168.10.11 and fd10::11, pods in 10.244.1.0/24 and fd00:244:1::/64.
pub fn cluster(node: &str) -> ClusterBuilder {
    let name = NodeName::new(node);
    let mut snapshot = Snapshot::empty(name.clone());
    snapshot.generation = Generation(1);
    let own = Node {
        internal_ips: vec![ip("192.168.10.11"), ip("fd10::11")],
        pod_cidrs: vec![prefix("10.244.1.0/24"), prefix("fd00:244:1::/64")],
        ..Node::default()
    };
    snapshot.nodes.insert(name, Arc::new(own));
    ClusterBuilder { snapshot }
}

/// The addresses of that node with the length of their links' prefixes.
pub fn own_links() -> Vec<Prefix> {
    ["192.168.10.11/24", "fd10::11/64"].map(prefix).to_vec()
}

/// The cluster with two more nodes: n2 on the same subnet, n3 behind a router.
pub fn with_nodes(mut snapshot: Snapshot) -> Snapshot {
    for (name, address, pods) in [("n2", "192.168.10.12", "10.244.2.0/24"), ("n3", "192.168.30.13", "10.244.3.0/24")] {
        let node = Node { internal_ips: vec![ip(address)], pod_cidrs: vec![prefix(pods)], ..Node::default() };
        snapshot.nodes.insert(NodeName::new(name), Arc::new(node));
    }
    snapshot
}

/// A ClusterIP Service without ports.
pub fn service(name: &str, cluster_ip: &str) -> ServiceBuilder {
    ServiceBuilder {
        key: key(name),
        service: Service {
            uid: Arc::from(""),
            created: 0,
            kind: ServiceType::ClusterIp,
            cluster_ips: vec![ip(cluster_ip)],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: Vec::new(),
            affinity: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            source_ranges: Vec::new(),
            traffic_distribution: None,
            ignored_by_proxy: false,
            settings: ServiceSettings::default(),
        },
    }
}

/// `namespace/name`.
pub fn key(name: &str) -> ServiceKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ServiceKey::new(namespace, name)
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("not an address: {text}"))
}

/// A prefix.
pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap_or_else(|_| panic!("not a prefix: {text}"))
}

/// A session for IPv4 routes as any two of today's speakers agree on one: 4-octet AS numbers and ROUTE-REFRESH, and nothing
/// beyond.
pub fn bgp_session(peer_asn: Asn, peer_id: Ipv4Addr, kind: PeerKind) -> Negotiated {
    Negotiated {
        peer_asn,
        peer_id,
        kind,
        hold_time: 90,
        four_octet_as: true,
        families: vec![Family::V4],
        add_path_receive: Vec::new(),
        add_path_send: Vec::new(),
        extended_next_hop: false,
        max_message: wire::MAX,
        route_refresh: true,
        enhanced_refresh: false,
        graceful_restart: None,
        long_lived: Vec::new(),
    }
}

/// A peer of any AS next door, seen from the speaker at `own` in `local_asn`: both families, and nothing special.
pub fn bgp_peer(local_asn: Asn, own: IpAddr, port: u16) -> PeerConfig {
    PeerConfig {
        description: String::new(),
        asn: None,
        local_asn,
        port,
        local_address: Some(own),
        scope: 0,
        password: Password::default(),
        distance: Distance::Link,
        passive: false,
        shutdown: None,
        families: Family::ALL.to_vec(),
        hold_time: 90,
        add_path_receive: Vec::new(),
        add_path_send: Vec::new(),
        extended_next_hop: false,
        graceful_restart: None,
        long_lived: 0,
        client: false,
        next_hop_self: false,
        next_hop_unchanged: false,
        next_hop_v4: None,
        next_hop_v6: None,
        shared: Vec::new(),
        bfd: None,
        max_prefixes: None,
    }
}

/// Makes a snapshot.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    snapshot: Snapshot,
}

impl ClusterBuilder {
    /// Add or replace a Service.
    #[must_use]
    pub fn service(mut self, builder: ServiceBuilder) -> Self {
        self.snapshot.services.insert(builder.key, Arc::new(builder.service));
        self
    }

    /// Remove a Service and its endpoints.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let service = key(name);
        self.snapshot.services.remove(&service);
        let slices: Vec<SliceKey> = self.snapshot.slices_of(&service).map(|(key, _)| key.clone()).collect();
        for slice in slices {
            self.snapshot.slices.remove(&slice);
        }
        self
    }

    /// Ready TCP and UDP endpoints of a Service on a nameless port. An address in 10.244.N.0/24 is on node nN.
    #[must_use]
    pub fn ready(self, name: &str, addresses: &[&str], port: u16) -> Self {
        let endpoints = addresses.iter().map(|address| endpoint(address)).collect();
        self.endpoints(name, endpoints, port)
    }

    /// Endpoints of a Service on a nameless port, for TCP and UDP, replacing those it had.
    #[must_use]
    pub fn endpoints(mut self, name: &str, mut endpoints: Vec<Endpoint>, port: u16) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.address);
        let service = key(name);
        let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .map(|protocol| EndpointPort { name: Arc::from(""), protocol, port })
            .into();
        let slice = EndpointSlice { ports, endpoints: endpoints.into_boxed_slice() };
        let name = Arc::from(format!("{}-1", service.name));
        self.snapshot.slices.insert(SliceKey { service, name }, Arc::new(slice));
        self
    }

    /// Change this node.
    #[must_use]
    pub fn node(mut self, change: impl FnOnce(&mut Node)) -> Self {
        let name = self.snapshot.node_name.clone();
        let mut node = self.snapshot.own_node().map(|node| (**node).clone()).unwrap_or_default();
        change(&mut node);
        self.snapshot.nodes.insert(name, Arc::new(node));
        self
    }

    /// Add a pod.
    #[must_use]
    pub fn pod(mut self, name: &str, address: &str, grace_period: u32, deletion: Option<i64>) -> Self {
        let service = key(name);
        let pod = Pod { addresses: Box::new([ip(address)]), grace_period, deletion, ..Pod::default() };
        self.snapshot.pods.insert(PodKey::new(service.namespace, service.name), Arc::new(pod));
        self
    }

    /// The snapshot.
    pub fn build(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// The snapshot as the one after `older`.
    pub fn after(&self, older: &Snapshot) -> Snapshot {
        let mut snapshot = self.snapshot.clone();
        snapshot.generation = Generation(older.generation.0 + 1);
        snapshot
    }
}

/// A ready endpoint. An address in 10.244.N.0/24 or fd00:244:N::/64 is on node nN.
pub fn endpoint(address: &str) -> Endpoint {
    let node = address
        .strip_prefix("10.244.")
        .and_then(|rest| rest.split('.').next())
        .or_else(|| address.strip_prefix("fd00:244:").and_then(|rest| rest.split(':').next()));
    Endpoint {
        address: ip(address),
        conditions: Conditions { ready: true, serving: true, terminating: false },
        node: node.map(|number| NodeName::new(format!("n{number}"))),
        zone: None,
        pod: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

/// Makes a Service.
#[derive(Clone, Debug)]
pub struct ServiceBuilder {
    key: ServiceKey,
    service: Service,
}

impl ServiceBuilder {
    /// A nameless TCP port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.protocol_port(Protocol::Tcp, port, 0)
    }

    /// A nameless UDP port.
    #[must_use]
    pub fn udp(self, port: u16) -> Self {
        self.protocol_port(Protocol::Udp, port, 0)
    }

    /// A nameless TCP port with a NodePort.
    #[must_use]
    pub fn node_port(mut self, port: u16, node_port: u16) -> Self {
        self.service.kind = ServiceType::NodePort;
        self.protocol_port(Protocol::Tcp, port, node_port)
    }

    /// Any nameless port.
    #[must_use]
    pub fn protocol_port(mut self, protocol: Protocol, port: u16, node_port: u16) -> Self {
        self.service.ports.push(ServicePort { name: Arc::from(""), protocol, port, target_port: None, node_port });
        self
    }

    /// Another cluster IP.
    #[must_use]
    pub fn and_ip(mut self, address: &str) -> Self {
        self.service.cluster_ips.push(ip(address));
        self
    }

    /// An external IP.
    #[must_use]
    pub fn external_ip(mut self, address: &str) -> Self {
        self.service.external_ips.push(ip(address));
        self
    }

    /// A load balancer IP.
    #[must_use]
    pub fn load_balancer_ip(mut self, address: &str) -> Self {
        self.service.kind = ServiceType::LoadBalancer;
        self.service.load_balancer_ips.push(ip(address));
        self
    }

    /// The scheduler annotation.
    #[must_use]
    pub fn scheduler(mut self, scheduler: Scheduler) -> Self {
        self.service.settings.scheduler = Some(scheduler);
        self
    }

    /// Client-IP affinity.
    #[must_use]
    pub fn affinity(mut self, timeout: u32) -> Self {
        self.service.affinity = Some(Affinity { timeout });
        self
    }

    /// Anything else.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.service);
        self
    }
}
