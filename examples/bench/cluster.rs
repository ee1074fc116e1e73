//! The clusters that are measured, held in the daemon's own stores so that an event takes its real way.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ferrovia::k8s::cluster::{Cluster, Update};
use ferrovia::k8s::convert::Converted;
use ferrovia::k8s::store::{Event, Key};
use ferrovia::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Generation, Node, NodeName, Pod, PodKey, Scheduler, Service,
    ServiceKey, ServicePort, ServiceSettings, ServiceType, SliceKey, Snapshot, TrafficPolicy,
};
use ferrovia::net::{Prefix, Protocol};

/// Endpoints of each Service.
pub(crate) const ENDPOINTS: usize = 5;
/// Pods they are spread over.
const PODS: usize = 10_000;

/// A cluster as the daemon holds it.
pub(crate) struct World {
    cluster: Cluster,
    generation: Generation,
    node: NodeName,
    port_name: Arc<str>,
}

/// Address `index` above `base`.
fn address(base: Ipv4Addr, index: usize) -> IpAddr {
    Ipv4Addr::from(base.to_bits() + u32::try_from(index).unwrap_or_default()).into()
}

/// The address of pod `index`.
fn pod_address(index: usize) -> IpAddr {
    address(Ipv4Addr::new(10, 128, 0, 1), index)
}

/// The key of Service `index`.
pub(crate) fn service_key(index: usize) -> ServiceKey {
    ServiceKey::new("bench", format!("service-{index}"))
}

impl World {
    /// A node, and nothing else.
    pub(crate) fn empty() -> World {
        let mut world = World {
            cluster: Cluster::default(),
            generation: Generation(0),
            node: NodeName::new("n1"),
            port_name: Arc::from("http"),
        };
        let node = Node {
            internal_ips: vec![Ipv4Addr::new(192, 168, 10, 11).into()],
            pod_cidrs: vec![Prefix::from(IpAddr::from(Ipv4Addr::new(10, 128, 0, 0))).supernet_of(24)],
            ..Node::default()
        };
        world.apply(Update::Node, world.node.clone(), node);
        world
    }

    /// `n_services` Services of [`ENDPOINTS`] endpoints each, over at most [`PODS`] pods.
    pub(crate) fn with_services(n_services: usize) -> World {
        let mut world = World::empty();
        for index in 0..PODS.min(n_services * ENDPOINTS) {
            let pod = Pod {
                addresses: [pod_address(index)].into(),
                node: Some(NodeName::new(format!("n{}", index % 100))),
                grace_period: 30,
                ..Pod::default()
            };
            world.apply(Update::Pod, PodKey::new("bench", format!("pod-{index}")), pod);
        }
        for index in 0..n_services {
            world.set_service(index, None);
            world.set_endpoints(index, (0..ENDPOINTS).map(|n| index * ENDPOINTS + n));
        }
        world
    }

    /// Writes Service `index`.
    pub(crate) fn set_service(&mut self, index: usize, scheduler: Option<Scheduler>) {
        let port = ServicePort {
            name: self.port_name.clone(),
            protocol: Protocol::Tcp,
            port: 80,
            target_port: Some(8080),
            node_port: 0,
        };
        let service = Service {
            uid: Arc::from(""),
            created: 0,
            kind: ServiceType::ClusterIp,
            cluster_ips: vec![address(Ipv4Addr::new(10, 100, 0, 0), index)],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: vec![port],
            affinity: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            source_ranges: Vec::new(),
            traffic_distribution: None,
            ignored_by_proxy: false,
            settings: ServiceSettings { scheduler, ..ServiceSettings::default() },
        };
        self.apply(Update::Service, service_key(index), service);
    }

    /// Writes the endpoints of Service `index`: the pods with these numbers.
    pub(crate) fn set_endpoints(&mut self, index: usize, pods: impl Iterator<Item = usize>) {
        let mut endpoints: Vec<Endpoint> = pods
            .map(|pod| Endpoint {
                address: pod_address(pod % PODS),
                conditions: Conditions { ready: true, serving: true, terminating: false },
                node: Some(NodeName::new(format!("n{}", pod % PODS % 100))),
                zone: None,
                pod: Some(Arc::from(format!("pod-{}", pod % PODS))),
                zone_hints: Box::default(),
                node_hints: Box::default(),
            })
            .collect();
        endpoints.sort_unstable_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        let slice = EndpointSlice {
            ports: [EndpointPort { name: self.port_name.clone(), protocol: Protocol::Tcp, port: 8080 }].into(),
            endpoints: endpoints.into(),
        };
        let key = SliceKey { service: service_key(index), name: Arc::from(format!("service-{index}-a")) };
        self.apply(Update::EndpointSlice, key, slice);
    }

    /// One event through the store.
    fn apply<K: Key, V>(&mut self, update: impl Fn(Event<K, V>) -> Update, key: K, value: V) {
        let converted = Converted { id: key.id(), value: Some((key, value)), rejections: Vec::new() };
        drop(self.cluster.fold(update(Event::Apply(converted))));
    }

    /// A snapshot of now.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        self.generation = Generation(self.generation.0 + 1);
        self.cluster.snapshot(self.generation, &self.node)
    }
}

/// Widening a prefix.
trait Supernet {
    /// The prefix of `length` bits it lies in.
    fn supernet_of(self, length: u8) -> Prefix;
}

impl Supernet for Prefix {
    fn supernet_of(self, length: u8) -> Prefix {
        Prefix::new(self.addr(), length).map_or(self, |prefix| prefix.trunc())
    }
}
