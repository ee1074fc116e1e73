//! Random clusters for property tests: few names and addresses, so that they collide often.

use std::collections::BTreeMap;

use ferrovia::model::{Conditions, Scheduler, Snapshot, TrafficPolicy};
use ferrovia::net::Protocol;
use ferrovia::testing::builders::{ClusterBuilder, cluster, endpoint, service};
use proptest::prelude::*;

/// One Service of a generated cluster.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    cluster_ip: u8,
    dual: bool,
    port: u16,
    udp: bool,
    node_port: Option<u16>,
    external: Option<u8>,
    balancer: Option<u8>,
    local: bool,
    affinity: bool,
    scheduler: Option<Scheduler>,
    created: i64,
    endpoints: Vec<(u8, u8, u8)>,
    ignored: bool,
    health: bool,
    restricted: bool,
}

/// Services by the number in their name.
pub(crate) type State = BTreeMap<u8, Spec>;

pub(crate) fn states() -> impl Strategy<Value = Vec<State>> {
    prop::collection::vec(prop::collection::btree_map(0_u8..6, spec(), 0..6), 1..6)
}

fn spec() -> impl Strategy<Value = Spec> {
    let addresses = (
        0_u8..5,
        any::<bool>(),
        prop::sample::select(vec![80_u16, 443]),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec![30080_u16, 30081])),
        prop::option::of(0_u8..3),
        prop::option::of(0_u8..3),
    );
    let behaviour = (
        any::<bool>(),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec![Scheduler::Mh, Scheduler::Lc, Scheduler::Sh])),
        0_i64..3,
        prop::collection::vec((1_u8..4, 1_u8..5, 0_u8..4), 0..5),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    (addresses, behaviour).prop_map(|(a, b)| Spec {
        cluster_ip: a.0,
        dual: a.1,
        port: a.2,
        udp: a.3,
        node_port: a.4,
        external: a.5,
        balancer: a.6,
        local: b.0,
        affinity: b.1,
        scheduler: b.2,
        created: b.3,
        endpoints: b.4,
        ignored: b.5,
        health: b.6,
        restricted: b.7,
    })
}

/// The snapshot of a state.
pub(crate) fn snapshot(state: &State) -> Snapshot {
    builder(state).build()
}

pub(crate) fn builder(state: &State) -> ClusterBuilder {
    let mut built = cluster("n1");
    for (number, spec) in state {
        let name = format!("shop/s{number}");
        let protocol = if spec.udp { Protocol::Udp } else { Protocol::Tcp };
        let mut one = service(&name, &format!("10.96.0.{}", spec.cluster_ip + 1)).protocol_port(
            protocol,
            spec.port,
            spec.node_port.unwrap_or(0),
        );
        if spec.dual {
            one = one.and_ip(&format!("fd00:96::{}", spec.cluster_ip + 1));
        }
        if let Some(external) = spec.external {
            one = one.external_ip(&format!("198.51.100.{}", external + 1));
        }
        if let Some(balancer) = spec.balancer {
            one = one.load_balancer_ip(&format!("203.0.113.{}", balancer + 1));
        }
        if spec.affinity {
            one = one.affinity(10800);
        }
        if let Some(scheduler) = spec.scheduler {
            one = one.scheduler(scheduler);
        }
        let spec = spec.clone();
        let wanted = spec.clone();
        one = one.with(move |service| {
            service.created = wanted.created;
            service.ignored_by_proxy = wanted.ignored;
            if wanted.local {
                service.external_policy = TrafficPolicy::Local;
            }
            if wanted.health {
                service.health_check_node_port = 31000 + u16::from(wanted.cluster_ip);
            }
            if wanted.restricted {
                service.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
            }
        });
        let endpoints = spec
            .endpoints
            .iter()
            .map(|(node, host, state)| {
                let mut endpoint = endpoint(&format!("10.244.{node}.{host}"));
                endpoint.conditions = match state {
                    0 => Conditions { ready: false, serving: false, terminating: false },
                    1 => Conditions { ready: false, serving: true, terminating: true },
                    _ => Conditions { ready: true, serving: true, terminating: false },
                };
                endpoint
            })
            .fold(BTreeMap::new(), |mut by_address, endpoint| {
                by_address.insert(endpoint.address, endpoint);
                by_address
            })
            .into_values()
            .collect();
        built = built.service(one).endpoints(&name, endpoints, 8080);
    }
    built
}

/// The ranges that grant every generated VIP but one of each kind.
pub(crate) fn config() -> ferrovia::proxy::Config {
    ferrovia::proxy::Config {
        external_ip_ranges: vec!["198.51.100.0/31".parse().unwrap(), "198.51.100.2/32".parse().unwrap()],
        load_balancer_ip_ranges: vec!["203.0.113.0/31".parse().unwrap(), "203.0.113.2/32".parse().unwrap()],
        ..ferrovia::proxy::Config::default()
    }
}
