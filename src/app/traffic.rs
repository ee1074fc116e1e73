//! Counters of Services: what IPVS counted, under the names of the Services behind the virtual servers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::kernel::ipvs::{Ipvs, Stats, VirtualServerKey};
use crate::model::{Published, Service, ServiceKey, Snapshot};
use crate::net::Protocol;
use crate::telemetry::registry::Metrics;
use crate::telemetry::services::{ServiceLabels, ServiceSeries, ServiceStatsSource};

type Tuple = (IpAddr, Protocol, u16);

/// Reads counters through a door of its own, so that a scrape never waits for a pass.
pub(super) fn source(
    ipvs: impl Ipvs + 'static,
    snapshots: watch::Receiver<Option<Published>>,
    metrics: &Metrics,
) -> ServiceStatsSource {
    let ipvs = Mutex::new(ipvs);
    let n_virtual_servers = metrics.ipvs_services.clone();
    Arc::new(move || {
        let Some(snapshot) = snapshots.borrow().as_ref().map(|published| Arc::clone(&published.snapshot)) else {
            return Vec::new();
        };
        match ipvs.lock().unwrap_or_else(PoisonError::into_inner).stats() {
            Ok(stats) => {
                n_virtual_servers.set(i64::try_from(stats.len()).unwrap_or(i64::MAX));
                series(&snapshot, &stats)
            }
            Err(error) => {
                tracing::warn!(reason = %error, "could not read the counters of virtual servers");
                Vec::new()
            }
        }
    })
}

/// The series of every virtual server that belongs to a Service. Those with a mark have no VIP and get none.
fn series(snapshot: &Snapshot, stats: &[(VirtualServerKey, Stats)]) -> Vec<ServiceSeries> {
    let owners = owners(snapshot);
    let series = |(key, stats): &(VirtualServerKey, Stats)| {
        let VirtualServerKey::Address { address, protocol, port } = *key else { return None };
        let owner = owners.get(&(address, protocol, port))?;
        Some(ServiceSeries {
            labels: ServiceLabels {
                svc_namespace: owner.namespace.to_string(),
                service_name: owner.name.to_string(),
                service_vip: address.to_string(),
                protocol: protocol.to_string(),
                port: port.to_string(),
            },
            values: values(stats),
        })
    };
    stats.iter().filter_map(series).collect()
}

/// In the order of [`crate::telemetry::services::NAMES`].
fn values(stats: &Stats) -> [u64; 10] {
    [
        stats.connections,
        stats.packets_in,
        stats.packets_out,
        stats.bytes_in,
        stats.bytes_out,
        stats.packets_in_per_second,
        stats.packets_out_per_second,
        stats.bytes_in_per_second,
        stats.bytes_out_per_second,
        stats.connections_per_second,
    ]
}

/// Whose each virtual server is. Of several Services that claim one, the oldest has it.
fn owners(snapshot: &Snapshot) -> BTreeMap<Tuple, &ServiceKey> {
    let node_addresses: Vec<IpAddr> = snapshot.own_node().map(|node| node.addresses().collect()).unwrap_or_default();
    let mut by_age: Vec<(&ServiceKey, &Service)> =
        snapshot.services.iter().map(|(key, service)| (key, &**service)).collect();
    by_age.sort_by_key(|(key, service)| (service.created, *key));
    let mut owners = BTreeMap::new();
    for (key, service) in by_age {
        let vips = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
        for vip in vips {
            for port in &service.ports {
                owners.entry((*vip, port.protocol, port.port)).or_insert(key);
            }
        }
        for port in service.ports.iter().filter(|port| port.node_port != 0) {
            for address in &node_addresses {
                owners.entry((*address, port.protocol, port.node_port)).or_insert(key);
            }
        }
    }
    owners
}
