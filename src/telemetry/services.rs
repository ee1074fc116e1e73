//! Traffic counters of Services, read from IPVS at each scrape. The names and labels are kube-router's, for its
//! dashboards; they are the only metrics that are labelled by Service.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;

/// Which Service, on which VIP and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "kube-router's label names")]
pub struct ServiceLabels {
    pub svc_namespace: String,
    pub service_name: String,
    pub service_vip: String,
    pub protocol: String,
    pub port: String,
}

/// The counters of one virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSeries {
    /// What it serves.
    pub labels: ServiceLabels,
    /// Values in the order of [`NAMES`].
    pub values: [u64; 10],
}

/// Name and help of the values of a [`ServiceSeries`], in their order. The first five count up.
pub const NAMES: [(&str, &str); 10] = [
    ("kube_router_service_total_connections", "Connections since the virtual server was made"),
    ("kube_router_service_packets_in", "Packets to the service"),
    ("kube_router_service_packets_out", "Packets from the service"),
    ("kube_router_service_bytes_in", "Bytes to the service"),
    ("kube_router_service_bytes_out", "Bytes from the service"),
    ("kube_router_service_pps_in", "Packets per second to the service"),
    ("kube_router_service_pps_out", "Packets per second from the service"),
    ("kube_router_service_bps_in", "Bytes per second to the service"),
    ("kube_router_service_bps_out", "Bytes per second from the service"),
    ("kube_router_service_cps", "New connections per second"),
];

/// Reads the counters; called once for each scrape, on a thread that may block.
pub type ServiceStatsSource = Arc<dyn Fn() -> Vec<ServiceSeries> + Send + Sync>;

/// Encodes what was read last.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceCollector(Arc<Mutex<Vec<ServiceSeries>>>);

impl ServiceCollector {
    /// What the next scrape shows.
    pub(super) fn set(&self, series: Vec<ServiceSeries>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = series;
    }
}

impl Collector for ServiceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, (name, help)) in NAMES.into_iter().enumerate() {
            // OpenMetrics demands that a counter ends in _total; kube-router's names do not, so the first five are
            // of unknown type. Queries do not see the difference.
            let kind = if n < 5 { MetricType::Unknown } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for one in series.iter() {
                if let Some(value) = one.values.get(n) {
                    metric.encode_family(&one.labels)?.encode_gauge(value)?;
                }
            }
        }
        Ok(())
    }
}
