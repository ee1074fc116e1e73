//! The metrics: values that are handed to whoever counts, and the registry they are scraped from.
//!
//! Base units; labels are small closed sets. [`METRICS`] describes every one of them, for the generated page.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::process::ProcessCollector;
use super::services::{self, ServiceCollector, ServiceStatsSource};

/// Which snapshot has come how far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabels {
    /// `published` or `applied`.
    pub stage: &'static str,
    /// The room; `all` for a published snapshot.
    pub room: &'static str,
}

/// A room.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoomLabels {
    /// Its name.
    pub room: &'static str,
}

/// A room's pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassLabels {
    /// The room.
    pub room: &'static str,
    /// How much of the kernel it read: `nothing`, `links`, `routes` or `everything`.
    pub read: &'static str,
}

/// What came of kernel changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OpLabels {
    /// The room.
    pub room: &'static str,
    /// `ok` or `failed`.
    pub result: &'static str,
}

/// A kind of Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// Its name, such as `Service`.
    pub kind: &'static str,
}

/// A BGP peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabels {
    /// Its address.
    pub peer: String,
    /// Its AS; 0 while any is taken and none known.
    pub asn: u32,
    /// `internal` or `external`.
    pub kind: &'static str,
}

/// Routes of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PrefixLabels {
    /// Its address.
    pub peer: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// `received`, `accepted` or `advertised`.
    pub direction: &'static str,
}

/// A BGP peer under kube-router's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerInfoLabels {
    /// Its address.
    pub address: String,
    /// `internal` or `external`.
    pub r#type: &'static str,
    /// Its AS.
    pub asn: u32,
    /// State of the session in small letters.
    pub state: String,
}

/// What was announced, under kube-router's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SentLabels {
    /// `advertise-vip` or `withdraw-vip`.
    pub r#type: &'static str,
}

/// Routes of the router.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// `learned`, `refused`, `kernel`, `inherited`, `originated`, `vips` or `vips_waiting`.
    pub what: &'static str,
}

/// A denied packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeniedLabels {
    /// The namespace of the pod whose policies denied it; `other` beyond a bounded number of them.
    pub namespace: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `no_rule`, `cluster_policy` or `changed`.
    pub reason: &'static str,
}

/// Everything that is counted. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Newest snapshot published and applied.
    pub generation: Family<StageLabels, Gauge>,
    /// How long passes take.
    pub reconcile_duration: Family<PassLabels, Histogram>,
    /// Changes written to the kernel.
    pub ops: Family<OpLabels, Counter>,
    /// Differences found in the kernel that no snapshot explains.
    pub drift: Family<RoomLabels, Counter>,
    /// Keys that are not in force.
    pub failed_keys: Family<RoomLabels, Gauge>,
    /// Objects that could not be read, by kind.
    pub rejected_objects: Family<KindLabels, Gauge>,
    /// From a snapshot's publication to the kernel's last answer.
    pub event_lag: Histogram,
    /// 1 where a watch has seen the whole cluster.
    pub watch_in_sync: Family<KindLabels, Gauge>,
    /// Watches that had to start over.
    pub watch_restarts: Family<KindLabels, Counter>,
    /// Sessions: 1 idle to 6 established.
    pub bgp_peer_state: Family<PeerLabels, Gauge>,
    /// Sessions that went down.
    pub bgp_session_drops: Family<PeerLabels, Counter>,
    /// Routes of peers.
    pub bgp_prefixes: Family<PrefixLabels, Gauge>,
    /// Routes of the router.
    pub routes: Family<RouteLabels, Gauge>,
    /// Tunnels to nodes.
    pub tunnels: Gauge,
    /// 1 while pods wait for the first rules after a boot.
    pub cni_gate_closed: Gauge,
    /// Peers (kube-router's name).
    pub bgp_peer_info: Family<PeerInfoLabels, Gauge>,
    /// Announcements and withdrawals of VIPs (kube-router's name).
    pub advertisements_sent: Family<SentLabels, Counter>,
    /// Routes in the kernel (kube-router's name).
    pub host_routes_synced: Gauge,
    /// Routes added to it (kube-router's name).
    pub host_routes_added: Counter,
    /// Routes removed from it (kube-router's name).
    pub host_routes_removed: Counter,
    /// How long a pass of the router takes (kube-router's name).
    pub host_routes_sync_time: Histogram,
    /// Denied packets that were logged.
    pub denied: Family<DeniedLabels, Counter>,
    /// How long a pass of the firewall takes (kube-router's name).
    pub iptables_sync_time: Histogram,
    /// Chains of the firewall's table (kube-router's name).
    pub policy_chains: Gauge,
    /// Sets of the firewall's table (kube-router's name).
    pub policy_ipsets: Gauge,
    /// Connections cut because policies no longer allow them.
    pub cut_flows: Counter,
    /// Policies that isolate pods of this node.
    pub policies: Gauge,
    /// Pods of this node that a policy isolates.
    pub isolated_pods: Gauge,
    /// Virtual servers on this node (kube-router's name).
    pub ipvs_services: Gauge,
    /// How long a pass of the service proxy takes (kube-router's name).
    pub ipvs_services_sync_time: Histogram,
    /// How long reading the counters of Services takes (kube-router's name).
    pub ipvs_metrics_export_time: Histogram,
}

/// One metric, for the generated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// The name as scraped.
    pub name: &'static str,
    /// counter, gauge, histogram, info or unknown.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static str,
    /// What it tells.
    pub help: &'static str,
}

macro_rules! described {
    ($($name:literal, $kind:literal, $labels:literal, $help:literal;)*) => {
        /// Every metric but those of single Services, which [`services::NAMES`] lists.
        pub const METRICS: &[Described] =
            &[ $( Described { name: $name, kind: $kind, labels: $labels, help: $help }, )* ];
    };
}

described! {
    "kube_router_build_info", "info", "goversion, version", "Version of this program; goversion is always empty";
    "kube_router_controller_ipvs_services", "gauge", "", "Virtual servers in the node's IPVS table";
    "kube_router_controller_ipvs_services_sync_time", "histogram", "", "Seconds a pass of the service proxy took";
    "kube_router_controller_ipvs_metrics_export_time", "histogram", "", "Seconds reading the counters of Services took";
    "kube_router_controller_iptables_sync_time", "histogram", "", "Seconds a pass of the firewall took";
    "kube_router_controller_policy_chains", "gauge", "", "Chains of the firewall's table";
    "kube_router_controller_policy_ipsets", "gauge", "", "Sets of the firewall's table";
    "ferrovia_cut_flows_total", "counter", "", "Connections cut because policies no longer allow them";
    "ferrovia_policies", "gauge", "", "Policies that isolate pods of this node";
    "ferrovia_isolated_pods", "gauge", "", "Pods of this node that a policy isolates";
    "kube_router_bgp_peer_info", "gauge", "address, type, asn, state", "1 for each BGP peer";
    "kube_router_controller_bgp_advertisements_sent_total", "counter", "type", "VIPs announced (advertise-vip) and withdrawn (withdraw-vip)";
    "kube_router_host_routes_synced", "gauge", "", "Routes of ours in the kernel";
    "kube_router_host_routes_added_total", "counter", "", "Routes added to the kernel or changed in it";
    "kube_router_host_routes_removed_total", "counter", "", "Routes removed from the kernel";
    "kube_router_host_routes_sync_time", "histogram", "", "Seconds a pass of the router took";
    "ferrovia_bgp_peer_state", "gauge", "peer, asn, kind", "State of the session: 1 idle, 2 connect, 3 active, 4 open sent, 5 open confirm, 6 established";
    "ferrovia_bgp_session_drops_total", "counter", "peer, asn, kind", "How often the session went down";
    "ferrovia_bgp_prefixes", "gauge", "peer, family, direction", "Routes received from a peer, accepted, and advertised to it";
    "ferrovia_routes", "gauge", "what", "Routes: learned, refused, kernel, inherited (of a former run), originated, vips, vips_waiting (for the service proxy)";
    "ferrovia_tunnels", "gauge", "", "Tunnels to other nodes";
    "ferrovia_cni_gate_closed", "gauge", "", "1 while the container runtime has no network configuration yet because rules are not in force after a boot (--cni-gate)";
    "ferrovia_firewall_denied_logged_total", "counter", "namespace, direction, reason", "Denied packets that were logged, of a rate-limited sample; reason: no_rule, cluster_policy, changed (the policies changed since)";
    "ferrovia_generation", "gauge", "stage, room", "Newest snapshot of the cluster, published and applied";
    "ferrovia_reconcile_duration_seconds", "histogram", "room, read", "Seconds a pass took, by how much of the kernel it read: nothing, links, everything";
    "ferrovia_ops_total", "counter", "room, result", "Changes written to the kernel";
    "ferrovia_drift_total", "counter", "room", "Differences found in the kernel that somebody else made";
    "ferrovia_failed_keys", "gauge", "room", "Keys that could not be brought to their desired state";
    "ferrovia_rejected_objects", "gauge", "kind", "Objects left out because they could not be read";
    "ferrovia_event_lag_seconds", "histogram", "", "Seconds from the arrival of the oldest event in a new snapshot to the kernel's last answer";
    "ferrovia_watch_in_sync", "gauge", "kind", "1 where the watch has seen the whole cluster";
    "ferrovia_watch_restarts_total", "counter", "kind", "Watches that had to start over";
    "process_resident_memory_bytes", "gauge", "", "Resident memory";
    "process_cpu_seconds_total", "counter", "", "User and system time";
    "process_open_fds", "gauge", "", "Open file descriptors";
    "process_start_time_seconds", "gauge", "", "Start of the process, seconds since the epoch";
}

/// Upper bounds in seconds, the defaults of Prometheus libraries, with three more below for a fast daemon.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            generation: Family::default(),
            reconcile_duration: Family::new_with_constructor(seconds),
            ops: Family::default(),
            drift: Family::default(),
            failed_keys: Family::default(),
            rejected_objects: Family::default(),
            event_lag: seconds(),
            watch_in_sync: Family::default(),
            watch_restarts: Family::default(),
            bgp_peer_state: Family::default(),
            bgp_session_drops: Family::default(),
            bgp_prefixes: Family::default(),
            routes: Family::default(),
            tunnels: Gauge::default(),
            cni_gate_closed: Gauge::default(),
            bgp_peer_info: Family::default(),
            advertisements_sent: Family::default(),
            host_routes_synced: Gauge::default(),
            host_routes_added: Counter::default(),
            host_routes_removed: Counter::default(),
            host_routes_sync_time: seconds(),
            denied: Family::default(),
            iptables_sync_time: seconds(),
            policy_chains: Gauge::default(),
            policy_ipsets: Gauge::default(),
            cut_flows: Counter::default(),
            policies: Gauge::default(),
            isolated_pods: Gauge::default(),
            ipvs_services: Gauge::default(),
            ipvs_services_sync_time: seconds(),
            ipvs_metrics_export_time: seconds(),
        }
    }
}

/// What is scraped.
#[derive(Debug)]
pub struct Scrape {
    registry: Registry,
    services: Option<Services>,
}

/// The counters of Services: read before everything else is encoded, because reading them sets other metrics.
struct Services {
    source: ServiceStatsSource,
    collector: ServiceCollector,
    export_time: Histogram,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    fn read(&self) {
        let started = tokio::time::Instant::now();
        self.collector.set((self.source)());
        self.export_time.observe(started.elapsed().as_secs_f64());
    }
}

impl Scrape {
    /// Everything in `metrics`, this process, and where given the counters of Services.
    pub fn new(metrics: &Metrics, services: Option<ServiceStatsSource>) -> Scrape {
        let mut registry = Registry::default();
        let build = Info::new(vec![("goversion", ""), ("version", env!("CARGO_PKG_VERSION"))]);
        register(&mut registry, "kube_router_build_info", build);
        register(&mut registry, "kube_router_controller_ipvs_services", metrics.ipvs_services.clone());
        register(
            &mut registry,
            "kube_router_controller_ipvs_services_sync_time",
            metrics.ipvs_services_sync_time.clone(),
        );
        register(
            &mut registry,
            "kube_router_controller_ipvs_metrics_export_time",
            metrics.ipvs_metrics_export_time.clone(),
        );
        register_firewall(&mut registry, metrics);
        register_router(&mut registry, metrics);
        register(&mut registry, "ferrovia_firewall_denied_logged_total", metrics.denied.clone());
        register(&mut registry, "ferrovia_generation", metrics.generation.clone());
        register(&mut registry, "ferrovia_reconcile_duration_seconds", metrics.reconcile_duration.clone());
        register(&mut registry, "ferrovia_ops_total", metrics.ops.clone());
        register(&mut registry, "ferrovia_drift_total", metrics.drift.clone());
        register(&mut registry, "ferrovia_failed_keys", metrics.failed_keys.clone());
        register(&mut registry, "ferrovia_rejected_objects", metrics.rejected_objects.clone());
        register(&mut registry, "ferrovia_event_lag_seconds", metrics.event_lag.clone());
        register(&mut registry, "ferrovia_watch_in_sync", metrics.watch_in_sync.clone());
        register(&mut registry, "ferrovia_watch_restarts_total", metrics.watch_restarts.clone());
        registry.register_collector(Box::new(ProcessCollector));
        let services = services.map(|source| {
            let collector = ServiceCollector::default();
            registry.register_collector(Box::new(collector.clone()));
            Services { source, collector, export_time: metrics.ipvs_metrics_export_time.clone() }
        });
        Scrape { registry, services }
    }

    /// All metrics in the OpenMetrics text format. May block while Service counters are read.
    pub fn text(&self) -> String {
        if let Some(services) = &self.services {
            services.read();
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Only a collector that gives up midway comes here; half a page would be taken for a whole one.
            Err(std::fmt::Error) => String::from("# EOF\n"),
        }
    }
}

fn register_firewall(registry: &mut Registry, metrics: &Metrics) {
    register(registry, "kube_router_controller_iptables_sync_time", metrics.iptables_sync_time.clone());
    register(registry, "kube_router_controller_policy_chains", metrics.policy_chains.clone());
    register(registry, "kube_router_controller_policy_ipsets", metrics.policy_ipsets.clone());
    register(registry, "ferrovia_cut_flows", metrics.cut_flows.clone());
    register(registry, "ferrovia_policies", metrics.policies.clone());
    register(registry, "ferrovia_isolated_pods", metrics.isolated_pods.clone());
}

fn register_router(registry: &mut Registry, metrics: &Metrics) {
    register(registry, "kube_router_bgp_peer_info", metrics.bgp_peer_info.clone());
    let sent = metrics.advertisements_sent.clone();
    register(registry, "kube_router_controller_bgp_advertisements_sent_total", sent);
    register(registry, "kube_router_host_routes_synced", metrics.host_routes_synced.clone());
    register(registry, "kube_router_host_routes_added_total", metrics.host_routes_added.clone());
    register(registry, "kube_router_host_routes_removed_total", metrics.host_routes_removed.clone());
    register(registry, "kube_router_host_routes_sync_time", metrics.host_routes_sync_time.clone());
    register(registry, "ferrovia_bgp_peer_state", metrics.bgp_peer_state.clone());
    register(registry, "ferrovia_bgp_session_drops_total", metrics.bgp_session_drops.clone());
    register(registry, "ferrovia_bgp_prefixes", metrics.bgp_prefixes.clone());
    register(registry, "ferrovia_routes", metrics.routes.clone());
    register(registry, "ferrovia_tunnels", metrics.tunnels.clone());
    register(registry, "ferrovia_cni_gate_closed", metrics.cni_gate_closed.clone());
}

/// The media type of [`Scrape::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Register under the described name and help; the library adds what the format wants at the end.
fn register(registry: &mut Registry, name: &'static str, metric: impl Metric) {
    let described = METRICS.iter().find(|one| one.name == name);
    let help = described.map_or("", |one| one.help);
    // The encoder adds what the type calls for; a gauge may have `_info` in its own name.
    let suffix = match described.map(|one| one.kind) {
        Some("info") => "_info",
        _ => "_total",
    };
    let stem = name.strip_suffix(suffix).unwrap_or(name);
    registry.register(stem, help, metric);
}

/// `docs/user/metrics.md`.
pub fn metrics_page() -> String {
    let mut page = String::from(PAGE_HEAD);
    for one in METRICS {
        page.push_str(&row(one.name, one.kind, one.labels, one.help));
    }
    page.push_str(SERVICES_HEAD);
    for (n, (name, help)) in services::NAMES.into_iter().enumerate() {
        page.push_str(&row(name, if n < 5 { "unknown (counts up)" } else { "gauge" }, SERVICE_LABELS, help));
    }
    page
}

const SERVICE_LABELS: &str = "svc_namespace, service_name, service_vip, protocol, port";

const PAGE_HEAD: &str = "\
# Metrics

<!-- Written by `cargo xtask gen`; change `src/telemetry/registry.rs`, not this page. -->

Served at `--metrics-path` (`/metrics`) on `--metrics-port`, which is off by default, in the OpenMetrics text format. Times are
seconds. Names that begin with `kube_router_` are kube-router's, so that its dashboards keep working.

| Name | Type | Labels | Meaning |
| --- | --- | --- | --- |
";

const SERVICES_HEAD: &str = "
## For each Service

One series for each virtual server, read from IPVS at the moment of the scrape.

| Name | Type | Labels | Meaning |
| --- | --- | --- | --- |
";

fn row(name: &str, kind: &str, labels: &str, help: &str) -> String {
    let labels = if labels.is_empty() { "none" } else { labels };
    format!("| `{name}` | {kind} | {labels} | {help} |\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::super::services::{ServiceLabels, ServiceSeries};
    use super::*;

    fn metrics_with_one_of_each() -> Metrics {
        let metrics = Metrics::default();
        metrics.generation.get_or_create(&StageLabels { stage: "applied", room: "proxy" }).set(7);
        metrics.reconcile_duration.get_or_create(&PassLabels { room: "proxy", read: "links" }).observe(0.002);
        metrics.ops.get_or_create(&OpLabels { room: "proxy", result: "ok" }).inc_by(3);
        metrics.drift.get_or_create(&RoomLabels { room: "proxy" }).inc();
        metrics.failed_keys.get_or_create(&RoomLabels { room: "proxy" }).set(0);
        metrics.rejected_objects.get_or_create(&KindLabels { kind: "Service" }).set(1);
        metrics.watch_in_sync.get_or_create(&KindLabels { kind: "Service" }).set(1);
        metrics.watch_restarts.get_or_create(&KindLabels { kind: "Service" }).inc();
        let peer = PeerLabels { peer: "192.0.2.1".into(), asn: 64512, kind: "external" };
        let denied = DeniedLabels { namespace: "a".into(), direction: "ingress".into(), reason: "no_rule" };
        metrics.denied.get_or_create(&denied).inc();
        metrics.bgp_peer_state.get_or_create(&peer).set(6);
        metrics.bgp_session_drops.get_or_create(&peer).inc();
        let prefixes = PrefixLabels { peer: "192.0.2.1".into(), family: "ipv4".into(), direction: "received" };
        metrics.bgp_prefixes.get_or_create(&prefixes).set(3);
        metrics.routes.get_or_create(&RouteLabels { what: "learned" }).set(3);
        let state = "established".into();
        let info = PeerInfoLabels { address: "192.0.2.1".into(), r#type: "external", asn: 64512, state };
        metrics.bgp_peer_info.get_or_create(&info).set(1);
        metrics.advertisements_sent.get_or_create(&SentLabels { r#type: "advertise-vip" }).inc();
        metrics
    }

    #[test]
    fn every_described_metric_is_scraped_and_every_scraped_one_is_described() {
        let source: ServiceStatsSource = Arc::new(|| {
            let labels = ServiceLabels {
                svc_namespace: "default".into(),
                service_name: "web".into(),
                service_vip: "10.96.0.1".into(),
                protocol: "tcp".into(),
                port: "80".into(),
            };
            vec![ServiceSeries { labels, values: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] }]
        });
        let text = Scrape::new(&metrics_with_one_of_each(), Some(source)).text();
        let scraped: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .filter(|name| !name.ends_with("_bucket") && !name.ends_with("_sum"))
            .map(|name| name.strip_suffix("_count").unwrap_or(name))
            .collect();
        let described: BTreeSet<&str> =
            METRICS.iter().map(|one| one.name).chain(services::NAMES.into_iter().map(|(name, _)| name)).collect();
        assert_eq!(scraped, described, "{text}");
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("\nkube_router_controller_ipvs_metrics_export_time_count 1\n"), "of this scrape");
        assert!(text.contains("ferrovia_generation{stage=\"applied\",room=\"proxy\"} 7\n"), "{text}");
        assert!(
            text.contains(
                "kube_router_service_total_connections{svc_namespace=\"default\",service_name=\"web\",\
                 service_vip=\"10.96.0.1\",protocol=\"tcp\",port=\"80\"} 1\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_process_collector_reads_this_process() {
        let text = Scrape::new(&Metrics::default(), None).text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 1e6);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_start_time_seconds ") > 1.6e9);
    }

    #[test]
    fn the_page_is_the_same_every_time() {
        assert_eq!(metrics_page(), metrics_page());
        assert!(metrics_page().contains("| `ferrovia_drift_total` | counter | room |"));
    }
}
