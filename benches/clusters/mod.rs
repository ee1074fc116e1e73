//! Large clusters in memory.

use std::sync::Arc;

use ferrovia::model::{EndpointPort, EndpointSlice, ServicePort, SliceKey, Snapshot};
use ferrovia::net::Protocol;
use ferrovia::testing::builders::{cluster, endpoint, key, service};

/// Services with one port and this many endpoints each, spread over 250 nodes.
pub fn services(n_services: u32, n_endpoints: u32) -> Snapshot {
    let template = cluster("n1").service(service("shop/s", "10.96.0.1")).build();
    let mut snapshot = cluster("n1").build();
    let Some(template) = template.services.get(&key("shop/s")) else { return snapshot };
    for number in 0..n_services {
        let key = key(&format!("shop/s{number:05}"));
        let mut service = (**template).clone();
        service.cluster_ips = vec![std::net::Ipv4Addr::from(0x0a60_0001 + number).into()];
        service.ports = vec![ServicePort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port: 80,
            target_port: Some(8080),
            node_port: 0,
        }];
        snapshot.services.insert(key.clone(), Arc::new(service));
        snapshot.slices.insert(SliceKey { service: key, name: Arc::from("1") }, Arc::new(slice(number, n_endpoints)));
    }
    snapshot
}

/// The endpoints of the Service of this number.
pub fn slice(number: u32, n_endpoints: u32) -> EndpointSlice {
    let address = |index: u32| {
        let place = number * n_endpoints + index;
        format!("10.244.{}.{}", place % 250, 1 + place / 250 % 250)
    };
    let mut endpoints: Vec<_> = (0..n_endpoints).map(|index| endpoint(&address(index))).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    let port = EndpointPort { name: Arc::from("http"), protocol: Protocol::Tcp, port: 8080 };
    EndpointSlice { ports: Box::new([port]), endpoints: endpoints.into() }
}
