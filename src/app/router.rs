//! The router as it runs on a node: its room, the BGP speaker, and who looks at both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::backend::{Found, NodeTables};
use super::doors;
use super::inhibit::Inhibitor;
use super::servers::Tasks;
use super::translate::routing_config;
use crate::admin;
use crate::admin::status::PeerStatus;
use crate::config::Config;
use crate::kernel::fou::FouClient;
use crate::kernel::rtnl::{RouteFilter, Rtnl, RtnlClient, protocol, table};
use crate::kernel::sysctl::ProcSys;
use crate::model::Published;
use crate::reconcile::Applied;
use crate::routing::aws;
use crate::routing::bgp::api;
use crate::routing::bgp::api::query::PeerDetail;
use crate::routing::bgp::policy::PolicySet;
use crate::routing::bgp::rib;
use crate::routing::bgp::speaker::{self, Goodbye, Options, Speaker};
use crate::routing::bgp::types::PeerKind;
use crate::routing::cni::{self, CniFile};
use crate::routing::config as room;
use crate::routing::drain::{Asked, Report};
use crate::routing::logind;
use crate::routing::reconciler::{Figures, Room};
use crate::routing::sessions::{self, Line, Sessions};
use crate::telemetry::registry::{Metrics, PeerInfoLabels, PeerLabels, PrefixLabels, RouteLabels, SentLabels};

/// The room on the real kernel.
pub(super) type RouterRoom = Room<NodeTables, RtnlClient, FouClient, ProcSys, Line>;

/// How long peers may take to hear the last word.
const GOODBYE: Duration = Duration::from_secs(3);
/// How often a closed CNI gate is told.
const GATE_REMINDER: Duration = Duration::from_secs(30);

/// What the rest of the daemon sees of the router.
#[derive(Clone, Debug)]
pub(super) struct Router {
    speaker: Speaker,
    graceful_restart: bool,
    snapshots: watch::Receiver<Option<Published>>,
    /// What the room counts.
    pub(super) figures: watch::Receiver<Figures>,
    /// How the sessions stand.
    pub(super) sessions: watch::Receiver<Sessions>,
    asked: watch::Sender<Asked>,
    drained: watch::Receiver<Report>,
    /// How the CNI gate stands.
    gate: watch::Receiver<cni::State>,
}

/// A port of the gobgp API, and the certificates it asks for and shows.
pub(super) type ApiPort = (TcpListener, Option<api::server::Tls>);

/// The ports of the gobgp API, taken before anything else: the one asked for, and beside an address of one link loopback
/// in plain text, as kube-router has it.
///
/// # Errors
/// A port cannot be had, or a certificate not be read.
pub(super) async fn bind_api(config: &Config) -> anyhow::Result<Vec<ApiPort>> {
    let router = &config.router;
    let Some(port) = router.admin_port.filter(|_| config.features.router) else { return Ok(Vec::new()) };
    let read = |flag: &str, path: &std::path::Path| {
        std::fs::read(path).with_context(|| format!("--{flag}={}: cannot be read", path.display()))
    };
    let tls = match &router.admin_tls {
        None => None,
        Some(files) => Some(api::server::Tls {
            certificate: read("gobgp-admin-tls-cert", &files.certificate)?,
            key: read("gobgp-admin-tls-key", &files.key)?,
            client_authority: read("gobgp-admin-tls-client-ca", &files.client_authority)?,
        }),
    };
    let address = router.admin_address;
    let bind = async |address| {
        let address = std::net::SocketAddr::new(address, port);
        admin::bind("gobgp-admin-address and --gobgp-admin-port", &[address]).await
    };
    let mut ports = vec![(bind(address).await?, tls)];
    if !address.is_loopback() && !address.is_unspecified() {
        ports.push((bind(std::net::Ipv4Addr::LOCALHOST.into()).await?, None));
    }
    Ok(ports)
}

/// What the rooms before this one have in force.
pub(super) struct Before {
    /// The service proxy and the firewall together, where one of them runs.
    pub(super) both: Option<watch::Receiver<Applied>>,
    /// The firewall, where it runs.
    pub(super) firewall: Option<watch::Receiver<Applied>>,
}

/// Starts the speaker, and makes the room that leads it.
///
/// # Errors
/// What of the kernel is missing, an unreadable passwords file.
pub(super) fn start(
    config: &Config,
    tables: &Found,
    api: Vec<ApiPort>,
    before: Before,
    snapshots: watch::Receiver<Option<Published>>,
    stop: &watch::Receiver<bool>,
    tasks: &mut Tasks,
) -> anyhow::Result<(RouterRoom, Router, mpsc::Receiver<()>)> {
    if config.router.disable_source_dest_check {
        forward_on_ec2();
    }
    let settings = settings(config)?;
    let mut kernel = doors::open_router(&config.router, tables)?;
    let ours = RouteFilter { table: Some(table::MAIN), protocol: Some(protocol::OURS), link: None };
    let restarted = !kernel.rtnl.routes(ours).context("cannot read the routes of a former run")?.is_empty();
    let deferral = settings.graceful_restart.map_or(Options::default().deferral, |restart| restart.deferral_time);
    let options = Options { restarted, deferral, ..Options::default() };
    let (speaker, thread) = speaker::spawn(silent(&settings), options).context("cannot start the BGP speaker")?;
    tasks.spawn(async move {
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        let ended = ended
            .context("the speaker's thread cannot be watched")
            .and_then(|joined| joined.map_err(|_| anyhow::anyhow!("the speaker's thread has ended midway")));
        ("bgp speaker", ended)
    });

    let (their_sessions, sessions) = watch::channel(Sessions::default());
    let questions = speaker.questions().clone();
    let mut stopping = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = sessions::follow(questions, their_sessions) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        ("bgp sessions", Ok(()))
    });
    for (listener, tls) in api {
        let questions = speaker.questions().clone();
        let mut stopping = stop.clone();
        tasks.spawn(async move {
            let until_stop = async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            ("gobgp API", api::server::serve_with(listener, questions, tls, until_stop).await.map_err(Into::into))
        });
    }
    let (asked, heard) = watch::channel(Asked::default());
    let (report, drained) = watch::channel(Report { text: "serving".to_owned(), ..Report::default() });
    let wakes = wakes(&speaker, before.both.clone(), sessions.clone(), heard.clone(), stop, tasks);
    if config.router.shutdown_inhibit {
        let address = std::env::var(logind::ADDRESS_VARIABLE).ok();
        let inhibitor = Inhibitor {
            socket: logind::socket(address.as_deref()),
            asked: asked.clone(),
            report: drained.clone(),
            drain: settings.drain.clone(),
        };
        let mut stopping = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = inhibitor.run() => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            ("shutdown inhibitor", Ok(()))
        });
    }
    let line = Line::new(&speaker, sessions.clone());
    let (their_figures, figures) = watch::channel(Figures::default());
    let graceful_restart = settings.graceful_restart.is_some();
    let mut room = Room::new(settings, kernel, line, before.both, their_figures);
    let (their_gate, gate) = watch::channel(cni::State::Off);
    match cni_file(config) {
        (file, gate) if config.router.cni_gate => {
            let file = file.gated(gate);
            their_gate.send_replace(file.gate_state("the cluster to be read"));
            spawn_gate_watcher(tasks, their_gate.subscribe(), stop);
            room.keep_gate(file, before.firewall, their_gate);
        }
        (file, _) if config.router.enable_cni => room.keep_cni(file),
        _ => {}
    }
    room.heed_drain(heard, report);
    Ok((room, Router { speaker, graceful_restart, snapshots, figures, sessions, asked, drained, gate }, wakes))
}

/// What the room and the speaker are configured with.
///
/// # Errors
/// The passwords file cannot be read, or does not fit the peers.
pub(super) fn settings(config: &Config) -> anyhow::Result<room::Config> {
    let mut settings = routing_config(config);
    let Some(file) = &config.router.passwords_file else { return Ok(settings) };
    let flag = format!("--peer-router-passwords-file={}", file.display());
    let text = std::fs::read_to_string(file).with_context(|| format!("{flag}: cannot be read"))?;
    let entries: Vec<&str> = text.trim().split(',').map(str::trim).collect();
    if entries.len() != settings.peers.len() {
        let (n_entries, n_peers) = (entries.len(), settings.peers.len());
        bail!("{flag}: has {n_entries} entries for the {n_peers} of --peer-router-ips; give one for each");
    }
    for (n, (peer, entry)) in settings.peers.iter_mut().zip(entries).enumerate() {
        if entry.is_empty() {
            continue;
        }
        let plain = BASE64.decode(entry).with_context(|| format!("{flag}: entry {} is not base64", n + 1))?;
        peer.password = Some(room::Password::new(plain));
    }
    Ok(settings)
}

/// A speaker that does not speak yet: the room configures it once it knows the node.
fn silent(settings: &room::Config) -> speaker::Config {
    let unknown = std::net::Ipv4Addr::UNSPECIFIED;
    speaker::Config {
        asn: settings.cluster_asn,
        router_id: unknown,
        cluster_id: unknown,
        listen: Vec::new(),
        decision: rib::Settings::default(),
        policies: PolicySet::default(),
        peers: std::collections::BTreeMap::new(),
        dynamic: std::collections::BTreeMap::new(),
    }
}

/// The room runs when something was learned, when the service proxy has something in force, and when a session came
/// up or went down, and when somebody asks for a drain.
fn wakes(
    speaker: &Speaker,
    proxy: Option<watch::Receiver<Applied>>,
    mut sessions: watch::Receiver<Sessions>,
    mut asked: watch::Receiver<Asked>,
    stop: &watch::Receiver<bool>,
    tasks: &mut Tasks,
) -> mpsc::Receiver<()> {
    let (wake, wakes) = mpsc::channel(1);
    let mut learned = speaker.learned();
    let mut stopping = stop.clone();
    tasks.spawn(async move {
        let mut proxy = proxy;
        loop {
            let told = async {
                match &mut proxy {
                    Some(proxy) => proxy.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let goes_on = tokio::select! {
                changed = learned.changed() => changed.is_ok(),
                changed = sessions.changed() => changed.is_ok(),
                changed = asked.changed() => changed.is_ok(),
                goes_on = told => goes_on,
                _ = stopping.wait_for(|stop| *stop) => false,
            };
            if !goes_on {
                // Whoever is gone ends by its own account.
                let _ = stopping.wait_for(|stop| *stop).await;
                return ("router news", Ok(()));
            }
            // Full means that the room has not looked yet: it will see this, too.
            let _ = wake.try_send(());
        }
    });
    wakes
}

/// EC2 lets machines forward packets of others only when told to. Nobody waits for it, and nothing ends when it fails.
fn forward_on_ec2() {
    if !aws::is_instance() {
        return;
    }
    #[cfg(feature = "aws")]
    tokio::spawn(async {
        match aws::disable_source_dest_check().await {
            Ok(instance) => tracing::info!(instance, "EC2 no longer checks source and destination of this machine"),
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(reason, "EC2 still checks source and destination: traffic of pods may be dropped");
            }
        }
    });
    #[cfg(not(feature = "aws"))]
    tracing::warn!(
        "this machine is on EC2, and this build cannot turn the source/destination check off: turn it off for the \
         instance, and set --disable-source-dest-check=false"
    );
}

/// The CNI configuration, and the gate it may have.
fn cni_file(config: &Config) -> (CniFile, cni::Gate) {
    let path = cni_path();
    let gate = cni::Gate::new(&path, Path::new(cni::gate::RUN_FOLDER), &config.state_dir.join(cni::gate::COPIES));
    (CniFile::new(path), gate)
}

/// Puts a plain CNI configuration back where a gate of an earlier run left a link. True where it did.
///
/// # Errors
/// What keeps it from doing so.
pub(super) fn remove_gate(config: &Config) -> Result<bool, cni::Error> {
    let (file, gate) = cni_file(config);
    let restored = cni::restore(&file, &gate)?;
    if restored {
        let path = file.path().display().to_string();
        tracing::info!(path, "the CNI configuration is a plain file again: pods no longer wait for rules after a boot");
    }
    Ok(restored)
}

/// Says over and over that pods wait, as long as they do.
fn spawn_gate_watcher(tasks: &mut Tasks, mut state: watch::Receiver<cni::State>, stop: &watch::Receiver<bool>) {
    let mut stopping = stop.clone();
    tasks.spawn(async move {
        let watching = async {
            loop {
                let Ok(closed) =
                    state.wait_for(|state| matches!(state, cni::State::Closed(_))).await.map(|it| it.clone())
                else {
                    return std::future::pending::<()>().await;
                };
                tracing::warn!(state = %closed, "the CNI gate is closed");
                tokio::time::sleep(GATE_REMINDER).await;
            }
        };
        tokio::select! {
            () = watching => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        ("CNI gate", Ok(()))
    });
}

/// Where the CNI configuration is: what the environment says, as kube-router's manifests set it.
fn cni_path() -> PathBuf {
    let named = std::env::var_os(cni::PATH_VARIABLE).filter(|path| !path.is_empty());
    named.map_or_else(|| PathBuf::from(cni::DEFAULT_PATH), PathBuf::from)
}

impl Router {
    /// The peers, for whoever looks at the state of the daemon.
    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let peers = self.sessions.borrow().peers.clone();
        let status = |peer: &PeerDetail| PeerStatus {
            address: peer.row.address.to_string(),
            asn: peer.row.asn.map(|asn| asn.0),
            state: format!("{:?}", peer.row.state).to_lowercase(),
            routes: peer.row.counts(None),
        };
        peers.values().map(status).collect()
    }

    /// Begins a drain (true) or ends it (false); says how far it is. A drain just begun is told in the next moment.
    pub(super) fn drain(&self, wanted: Option<bool>) -> String {
        if let Some(wanted) = wanted {
            tracing::info!(drain = wanted, "a drain was asked for on this node");
            self.asked.send_modify(|asked| asked.command = wanted);
        }
        self.drained.borrow().text.clone()
    }

    /// How the CNI gate stands; `None` where none was asked for.
    pub(super) fn gate(&self) -> Option<String> {
        let state = self.gate.borrow();
        (*state != cni::State::Off).then(|| state.to_string())
    }

    /// Brings the metrics up to date.
    pub(super) fn observe(&self, metrics: &Metrics) {
        let figures = self.figures.borrow().clone();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (what, count) in [
            ("learned", figures.learned),
            ("refused", figures.refused),
            ("kernel", figures.routes),
            ("inherited", figures.inherited),
            ("originated", figures.originated),
            ("vips", figures.vips),
            ("vips_waiting", figures.vips_waiting),
        ] {
            metrics.routes.get_or_create(&RouteLabels { what }).set(number(count));
        }
        metrics.tunnels.set(number(figures.tunnels));
        metrics.cni_gate_closed.set(i64::from(matches!(*self.gate.borrow(), cni::State::Closed(_))));
        metrics.host_routes_synced.set(number(figures.routes));
        let up_to = |counter: &Counter, value: u64| {
            let _ = counter.inc_by(value.saturating_sub(counter.get()));
        };
        up_to(&metrics.host_routes_added, figures.added);
        up_to(&metrics.host_routes_removed, figures.removed);
        for (kind, count) in [("advertise-vip", figures.announcements), ("withdraw-vip", figures.withdrawals)] {
            up_to(&metrics.advertisements_sent.get_or_create_owned(&SentLabels { r#type: kind }), count);
        }
        metrics.bgp_peer_state.clear();
        metrics.bgp_prefixes.clear();
        metrics.bgp_peer_info.clear();
        for peer in self.sessions.borrow().peers.values() {
            let (address, asn) = (peer.row.address.to_string(), peer.row.asn.map_or(0, |asn| asn.0));
            let kind = match peer.kind {
                PeerKind::Internal => "internal",
                PeerKind::External => "external",
            };
            let labels = PeerLabels { peer: address.clone(), asn, kind };
            metrics.bgp_peer_state.get_or_create(&labels).set(peer.row.state as i64);
            up_to(&metrics.bgp_session_drops.get_or_create_owned(&labels), u64::from(peer.flops));
            let state = format!("{:?}", peer.row.state).to_lowercase();
            let info = PeerInfoLabels { address: address.clone(), r#type: kind, asn, state };
            metrics.bgp_peer_info.get_or_create(&info).set(1);
            for counts in &peer.row.families {
                for (direction, count) in
                    [("received", counts.received), ("accepted", counts.accepted), ("advertised", counts.advertised)]
                {
                    let labels = PrefixLabels { peer: address.clone(), family: counts.family.to_string(), direction };
                    metrics.bgp_prefixes.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
                }
            }
        }
    }

    /// Says goodbye to every peer: for a moment where graceful restart is on and the host stays, else for good.
    pub(super) async fn goodbye(&self) {
        let own = self.snapshots.borrow().as_ref().map(|published| published.snapshot.own_node().cloned());
        let gone = own.as_ref().is_some_and(Option::is_none);
        // The room may not have come to what was asked a moment ago.
        let leaving = self.drained.borrow().leaving
            || self.asked.borrow().wanted().is_some()
            || own.flatten().is_some_and(|node| node.shutting_down);
        let how = match (gone, leaving, self.graceful_restart) {
            (true, ..) => Goodbye::Leave("the node leaves the cluster".to_owned()),
            (false, true, _) => Goodbye::Leave("the host goes down".to_owned()),
            (false, false, true) => Goodbye::Restart,
            (false, false, false) => Goodbye::Leave("the router is stopped".to_owned()),
        };
        tracing::info!(reason = ?how, "saying goodbye to peers");
        self.speaker.stop(how, GOODBYE).await;
    }
}

/// The router, where it runs.
pub(super) type Shared = Option<Router>;
