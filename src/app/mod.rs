//! The composition root: the only part that knows every other. It builds, wires, waits and stops.
//!
//! Start: probe the kernel, take lock and ports, open the front door, run the rooms. Stop: on a signal, in order, with
//! everything in the kernel left as it is. When any task ends by itself, the daemon ends with an error: a restart is
//! cheap, because every room repairs what it finds.

pub mod translate;

mod backend;
mod denied;
mod doors;
mod dry_run;
mod firewall;
mod inhibit;
mod lock;
mod observer;
mod once;
mod rooms;
mod router;
mod servers;
mod signals;
mod status;
mod takeover;
mod traffic;
mod vitals;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admin::health::RoomHealth;
use crate::config::{Config, Source};
use crate::k8s;
use crate::kernel::ipvs::client::IpvsClient;
use crate::model::{NodeName, Notice, Snapshot};
use crate::net::Family;
use crate::proxy;
use crate::proxy::reconciler::{Outputs, Room};
use crate::reconcile::driver::Timing;
use crate::reconcile::query::Query;
use crate::reconcile::{Applied, Subsystem};
use crate::routing;
use crate::telemetry::registry::Metrics;
use doors::ProxyKernel;
use observer::Counting;

use servers::{Servers, Tasks};
use signals::Signals;
use status::{Parts, RoomParts};
use vitals::Vitals;

/// How long tasks may take to end in order.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service proxy as it runs on a node.
type ProxyRoom = Room<
    crate::kernel::ipvs::client::IpvsClient,
    backend::NodeTables,
    crate::kernel::rtnl::RtnlClient,
    crate::kernel::conntrack::client::ConntrackClient,
    crate::kernel::sysctl::ProcSys,
>;

/// The room's name.
const PROXY: &str = <ProxyRoom as Subsystem>::NAME;
/// The name of the router's room.
const ROUTING: &str = <router::RouterRoom as Subsystem>::NAME;

/// Run until told to stop, or do once what the configuration asks for.
///
/// # Errors
/// Whatever keeps the daemon from starting, and whatever ended it without being asked.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    let node = node_name(&config);
    if config.cleanup {
        let _lock = lock::take(lock::NAME)?;
        return once::clean_up(&config, node);
    }
    if config.features.nothing_to_run() {
        tracing::info!("none of router, firewall and service proxy is to run, so there is nothing to do");
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let ended = if config.dry_run {
        runtime.block_on(once::dry_run(&config, node))
    } else {
        let _lock = lock::take(lock::NAME)?;
        runtime.block_on(daemon(&config, node))
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The Node object of this machine: by flag or environment, else by host name.
fn node_name(config: &Config) -> NodeName {
    let host_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    NodeName::new(config.node_name.clone().unwrap_or_else(host_name))
}

/// What the front door is asked for.
fn door_config(config: &Config, node: NodeName) -> k8s::Config {
    let source = match &config.source {
        Source::Folder(folder) => k8s::Source::Folder(folder.clone()),
        Source::Api { kubeconfig, master } => k8s::Source::Api(k8s::ApiConfig {
            kubeconfig: kubeconfig.clone(),
            master: master.clone(),
            endpoints_file: (!config.dry_run).then(|| config.state_dir.join("apiserver.json")),
        }),
    };
    let pods = config.proxy.graceful_termination || config.proxy.runtime_endpoint.is_some();
    let needs = k8s::Needs {
        all_nodes: config.features.router,
        pods: pods && config.features.proxy,
        policies: config.features.firewall,
    };
    k8s::Config { sync_timeout: config.cache_sync_timeout, ..k8s::Config::new(source, node, needs) }
}

async fn daemon(config: &Config, node: NodeName) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut signals = Signals::new().context("cannot listen to signals")?;
    let features = config.features;
    let tables = backend::find(config.rule_backend, features.router)?;
    let kernel = features.proxy.then(|| doors::open(&tables)).transpose()?;
    let firewall_kernel = features.firewall.then(|| doors::open_firewall(&tables)).transpose()?;
    let counters = features.proxy.then(IpvsClient::open).transpose().context("cannot reach IPVS")?;
    let servers = Servers::bind(config).await?;
    let api = router::bind_api(config).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %node, "started");

    if !config.router.cni_gate
        && let Err(error) = router::remove_gate(config)
    {
        tracing::error!(reason = routing::cni::with_cause(&error), "a CNI gate of an earlier run stays closed");
    }
    let (stop, stopping) = watch::channel(false);
    let mut tasks = Tasks::new();
    let metrics = Metrics::default();
    let (snapshots, published) = watch::channel(None);
    let counting = Arc::new(Counting::new(metrics.clone()));
    let mut ends = Vec::new();
    let proxy_parts = features.proxy.then(|| parts_of(PROXY, config.proxy.sync_period, &mut ends));
    let firewall_parts = features.firewall.then(|| parts_of(firewall::NAME, config.firewall.sync_period, &mut ends));
    let router_parts = features.router.then(|| parts_of(ROUTING, config.router.resync(), &mut ends));
    // Nothing is announced before policies are in force: the router waits for both.
    let reports = |parts: &Option<RoomEnd>| parts.as_ref().map(|parts| parts.reports.clone());
    let (proxy_reports, firewall_reports) = (reports(&proxy_parts), reports(&firewall_parts));
    let in_force = firewall::both(proxy_reports, firewall_reports.clone(), &mut tasks);
    let healths = ends.iter().map(|end: &End| RoomHealth::new(end.name, end.resync)).collect();
    let vitals = Vitals::new(started, config.cache_sync_timeout, healths);

    let mut rooms_of_router = None;
    if features.router {
        let before = router::Before { both: in_force, firewall: firewall_reports };
        let started = router::start(config, &tables, api, before, published.clone(), &stopping, &mut tasks);
        rooms_of_router = Some(started?);
    }
    let router = rooms_of_router.as_ref().map(|(_, router, _)| router.clone());
    let rooms = ends.iter().map(|end| RoomParts { name: end.name, applied: end.reports.clone() }).collect();
    let (node_name, counted) = (node.clone(), Arc::clone(&counting));
    let parts = Parts::new(config, node_name, started, vitals.clone(), published.clone(), counted, rooms);
    let firewall = firewall_kernel.map(|kernel| firewall::room(config, kernel));
    let figures = firewall.as_ref().map(|(_, figures)| figures.clone());
    let parts = Arc::new(parts.with_router(router.clone()).with_firewall(figures));
    let stats = counters.map(|counters| traffic::source(counters, published.clone(), &metrics));
    servers.spawn(
        &mut tasks,
        &stopping,
        &config.metrics_path,
        status::judge(&vitals),
        status::metrics_text(&parts, &metrics, stats),
        status::sources(&parts, ends.iter().map(|end| (end.name, end.ear.clone())).collect()),
    );

    // Health answers while the front door opens, which takes as long as the API server lets it.
    let door = tokio::select! {
        door = k8s::start(door_config(config, node), stopping.clone()) => door?,
        signal = signals.ended() => {
            tracing::info!(signal, "stopped before the cluster was read");
            return Ok(ExitCode::SUCCESS);
        }
    };
    parts.set_door(&door);
    let notices = spawn_notices(&mut tasks, door.notices.clone());
    spawn_publisher(
        &mut tasks,
        door.snapshots.clone(),
        snapshots,
        vitals.clone(),
        parts.clone(),
        config.families.clone(),
    );
    spawn_followers(&mut tasks, door.task, ends, &vitals);

    let mut own_sockets = Vec::new();
    let shared = rooms::Shared {
        snapshots: published.clone(),
        stop: stopping.clone(),
        notices: notices.clone(),
        observer: Arc::clone(&counting) as Arc<dyn crate::reconcile::driver::Observer>,
    };
    denied::spawn(&mut tasks, &stopping, &published, config, &metrics);
    if let (Some(parts), Some((mut room, _))) = (firewall_parts, firewall) {
        tokio::spawn(takeover::run(parts.reports.clone(), takeover::POLICIES));
        let disturbances = firewall::spawn_monitor(&mut tasks, &mut room)?;
        let wiring = shared.wiring(parts, disturbances, mpsc::channel(1).1);
        rooms::spawn(&mut tasks, room, wiring, Timing { resync: config.firewall.sync_period, started })?;
    }
    if let (Some(parts), Some(kernel)) = (proxy_parts, kernel) {
        tokio::spawn(takeover::run(parts.reports.clone(), takeover::SERVICES));
        own_sockets.extend(kernel.rtnl.port());
        let wiring = shared.wiring(parts, rooms::spawn_monitor(&mut tasks, Vec::new())?, mpsc::channel(1).1);
        let room = proxy_room(config, kernel, &mut tasks, notices.clone())?.with_routing(reports(&router_parts));
        rooms::spawn(&mut tasks, room, wiring, Timing { resync: config.proxy.sync_period, started })?;
    }
    if let (Some(parts), Some((mut room, _, wakes))) = (router_parts, rooms_of_router) {
        tokio::spawn(takeover::run(parts.reports.clone(), takeover::ROUTES));
        own_sockets.extend(room.kernel_mut().rtnl.port());
        let wiring = shared.wiring(parts, rooms::spawn_monitor(&mut tasks, own_sockets)?, wakes);
        rooms::spawn(&mut tasks, room, wiring, Timing { resync: config.router.resync(), started })?;
    }
    // Whoever waits for the last notice must see the last sender go.
    drop((notices, shared));
    wait(&mut tasks, &mut signals, &stop, router).await
}

/// Ends with the front door, and keeps the vital signs of rooms up to date.
fn spawn_followers(
    tasks: &mut Tasks,
    door: tokio::task::JoinHandle<Result<(), k8s::Error>>,
    ends: Vec<End>,
    vitals: &Vitals,
) {
    tasks.spawn(async move {
        let ended = door.await.context("the front door ended midway");
        ("front door", ended.and_then(|ended| ended.map_err(Into::into)))
    });
    for (index, end) in ends.into_iter().enumerate() {
        let vitals = vitals.clone();
        tasks.spawn(async move {
            vitals.follow(index, end.reports).await;
            ("vitals", Ok(()))
        });
    }
}

/// A room's end of what connects it with the rest.
struct RoomEnd {
    applied: watch::Sender<Applied>,
    reports: watch::Receiver<Applied>,
    queries: mpsc::Receiver<Query>,
}

/// The other end.
struct End {
    name: &'static str,
    resync: Duration,
    reports: watch::Receiver<Applied>,
    ear: mpsc::Sender<Query>,
}

/// Both ends for one room; the outer one goes to `ends`.
fn parts_of(name: &'static str, resync: Duration, ends: &mut Vec<End>) -> RoomEnd {
    let (applied, reports) = watch::channel(Applied::default());
    let (ear, queries) = mpsc::channel(4);
    ends.push(End { name, resync, reports: reports.clone(), ear });
    RoomEnd { applied, reports, queries }
}

/// The room with its two neighbours: health-check node ports, and the pods that answer for VIPs themselves.
fn proxy_room(
    config: &Config,
    kernel: ProxyKernel,
    tasks: &mut Tasks,
    notices: mpsc::UnboundedSender<Notice>,
) -> anyhow::Result<ProxyRoom> {
    let outputs = Outputs::default();
    let health_checks = proxy::health::serve(outputs.health_checks.subscribe(), notices.clone());
    tasks.spawn(async move {
        health_checks.await;
        ("health check node ports", Ok(()))
    });
    if let Some(socket) = &config.proxy.runtime_endpoint {
        let timing = proxy::pod_worker::Timing::default();
        proxy::pod_worker::spawn(socket, proxy::pods::KernelPods, timing, outputs.pods.subscribe(), notices)
            .context("cannot start the worker for direct server return")?;
    }
    Ok(Room::new(translate::proxy_config(config), kernel, outputs))
}

/// Pass notices on to whoever tells the owners of objects.
fn spawn_notices(tasks: &mut Tasks, tell: mpsc::Sender<Notice>) -> mpsc::UnboundedSender<Notice> {
    let (notices, mut told) = mpsc::unbounded_channel();
    tasks.spawn(async move {
        while let Some(notice) = told.recv().await {
            if tell.send(notice).await.is_err() {
                break;
            }
        }
        ("notices", Ok(()))
    });
    notices
}

/// Hand snapshots from the front door to the rooms, the newest one only.
fn spawn_publisher(
    tasks: &mut Tasks,
    mut door: watch::Receiver<k8s::Published>,
    rooms: watch::Sender<Option<crate::model::Published>>,
    vitals: Vitals,
    parts: Arc<Parts>,
    families: Vec<Family>,
) {
    tasks.spawn(async move {
        let mut first = true;
        loop {
            let published = door.borrow_and_update().clone();
            if published.snapshot.generation.0 > 0 {
                if first {
                    first = false;
                    if let Err(error) = check_node(&published.snapshot, &families) {
                        return ("start", Err(error));
                    }
                }
                vitals.in_sync();
                rooms.send_replace(Some(parts.for_rooms(published)));
            }
            if door.changed().await.is_err() {
                return ("publisher", Ok(()));
            }
        }
    });
}

/// The node must have an address of every family that is expected. Looked at once: a node that loses one later keeps
/// what it serves.
fn check_node(snapshot: &Snapshot, families: &[Family]) -> anyhow::Result<()> {
    let name = &snapshot.node_name;
    let Some(node) = snapshot.own_node() else {
        tracing::warn!(node = %name, "the cluster has no Node object of this name yet; see --hostname-override");
        return Ok(());
    };
    match families.iter().find(|family| node.best_ip(**family).is_none()) {
        None => Ok(()),
        Some(family) => bail!(
            "--enable-{family}=true: node {name} has no {family} address in status.addresses; \
             give it one or start with --enable-{family}=false"
        ),
    }
}

/// Wait for a signal, or for a task that ends by itself; then end all others in order.
async fn wait(
    tasks: &mut Tasks,
    signals: &mut Signals,
    stop: &watch::Sender<bool>,
    router: router::Shared,
) -> anyhow::Result<ExitCode> {
    let failure = tokio::select! {
        signal = signals.ended() => {
            tracing::info!(signal, "stopping, everything in the kernel stays in force");
            None
        }
        ended = tasks.join_next() => Some(match ended {
            Some(Ok((task, Ok(())))) => anyhow::anyhow!("{task} ended by itself"),
            Some(Ok((task, Err(error)))) => error.context(task),
            Some(Err(error)) => error.into(),
            None => anyhow::anyhow!("there is nothing left to run"),
        }),
    };
    if let Some(router) = router {
        // Before the rooms end: what is announced must not outlive them unsaid.
        router.goodbye().await;
    }
    stop.send_replace(true);
    let all_ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE, all_ended).await.is_err() {
        tracing::warn!("some tasks did not end in time");
        tasks.abort_all();
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            tracing::error!(reason = format!("{error:#}"), "stopped because a part of the daemon ended");
            bail!(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;

    #[test]
    fn a_node_must_have_an_address_of_every_expected_family() {
        let name = NodeName::new("n1");
        let mut snapshot = Snapshot::empty(name.clone());
        assert!(check_node(&snapshot, &Family::ALL).is_ok(), "it may still come");
        let node = Node { internal_ips: vec!["10.0.0.1".parse().unwrap()], ..Node::default() };
        snapshot.nodes.insert(name, Arc::new(node));
        assert!(check_node(&snapshot, &[Family::V4]).is_ok());
        let told = check_node(&snapshot, &Family::ALL).unwrap_err().to_string();
        assert!(told.starts_with("--enable-ipv6=true: node n1 has no ipv6 address"), "{told}");
    }
}
