//! The front door: the only part that knows the Kubernetes API.
//!
//! It watches the cluster (or a folder of manifests), converts each object to a [`crate::model`] value at once, folds
//! the values into stores and publishes snapshots. Nothing behind this door sees a Kubernetes type.
//!
//! ```text
//! watch (one task per kind)  ─┐                                   ┌─▶ snapshots: latest wins
//!   or folder (one task)     ─┴─▶ snapshotter: stores, bursts ────┤
//!                                                                 └─▶ notices ─▶ events, log, debug page
//! ```
//!
//! Files: `api` finds the server, `watch` lists and watches, `folder` reads manifests, `convert` reduces objects,
//! `store` and `cluster` hold them, `snapshotter` publishes, `events` tells owners, `status` tells operators.

pub mod annotations;
mod api;
pub mod cluster;
pub mod convert;
mod delay;
mod errors;
mod events;
pub mod folder;
mod snapshotter;
mod state_file;
mod status;
pub mod store;
mod throttle;
mod watch;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use tokio::sync::{mpsc, watch as latest};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

pub use api::{ApiConfig, ApiError};
pub use cluster::Kind;
pub use errors::Error;
pub use events::{Noted, RecentNotices};
pub use folder::manifest::Report;
pub use folder::{FolderError, load_folder_once, load_text};
pub use snapshotter::Published;
pub use status::{Status, WatchStatus};

use crate::model::{Generation, NodeName, Notice, Snapshot};
use convert::Names;
use convert::cluster_policy::ClusterNetworkPolicy as ApiClusterPolicy;
use folder::watch::FolderWatch;
use snapshotter::{Rhythm, Snapshotter};
use watch::{Selection, Shared, Stamped, Watched};

/// Updates on their way to the snapshotter: enough to keep it busy, few enough to bound memory during initial lists.
const UPDATES: usize = 512;
/// Notices on their way to the log and the API server.
const NOTICES: usize = 1024;

/// Where the cluster comes from, and what is needed of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it comes from.
    pub source: Source,
    /// The node this daemon runs on.
    pub node_name: NodeName,
    /// What is needed beside Services and endpoint slices.
    pub needs: Needs,
    /// How long the first complete list of every kind may take (`--cache-sync-timeout`).
    pub sync_timeout: Duration,
    /// How long to wait for what.
    pub timings: Timings,
}

impl Config {
    /// A configuration with kube-router's time limit of one minute and the usual timings.
    pub fn new(source: Source, node_name: NodeName, needs: Needs) -> Config {
        Config { source, node_name, needs, sync_timeout: Duration::from_secs(60), timings: Timings::default() }
    }
}

/// Where the cluster comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The API server.
    Api(ApiConfig),
    /// A folder of manifests, watched for changes.
    Folder(PathBuf),
    /// One snapshot that never changes: a dump that is looked at again.
    Fixed(Box<Snapshot>),
}

/// Which kinds are needed beside Services and endpoint slices. A folder always gives everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// All nodes, not only the own one.
    pub all_nodes: bool,
    /// Pods.
    pub pods: bool,
    /// Network policies, with namespaces and the labels and ports of pods. Implies pods.
    pub policies: bool,
}

impl Needs {
    fn want(self, kind: Kind) -> bool {
        match kind {
            Kind::Service | Kind::EndpointSlice | Kind::Node => true,
            Kind::Pod => self.pods || self.policies,
            Kind::Namespace | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => self.policies,
        }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Quiet time after a change before a snapshot is published.
    pub quiet: Duration,
    /// How long a change may wait for quiet at most.
    pub most: Duration,
    /// First delay after a failed request; later ones double.
    pub first_delay: Duration,
    /// Longest delay.
    pub most_delay: Duration,
    /// How long an initial list may be silent before it is given up.
    pub list_idle: Duration,
    /// How long a resumed watch must be silent to count as working again.
    pub settled: Duration,
    /// Quiet time after a change in a folder before it is read.
    pub folder_quiet: Duration,
    /// How often a folder is looked at without being told.
    pub folder_poll: Duration,
    /// How often the server is asked for a kind that it did not know.
    pub unknown_kind: Duration,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            quiet: Duration::from_millis(10),
            most: Duration::from_millis(100),
            first_delay: Duration::from_millis(200),
            most_delay: Duration::from_secs(30),
            list_idle: Duration::from_secs(15),
            settled: Duration::from_secs(10),
            folder_quiet: Duration::from_millis(50),
            folder_poll: Duration::from_secs(10),
            unknown_kind: Duration::from_secs(60),
        }
    }
}

/// The open front door.
#[derive(Debug)]
pub struct Handle {
    /// The newest snapshot. Starts with generation 0, which means that nothing has been published yet.
    pub snapshots: latest::Receiver<Published>,
    /// How it is doing.
    pub status: Arc<Status>,
    /// Takes what owners of objects should know.
    pub notices: mpsc::Sender<Notice>,
    /// The last notices, for the debug page.
    pub recent_notices: Arc<RecentNotices>,
    /// Ends well after the shutdown signal, with an error when something is wrong for good.
    pub task: JoinHandle<Result<(), Error>>,
}

/// Opens the front door. `shutdown` closes it when it turns true, or when its sender is gone.
///
/// # Errors
///
/// When there is no way to the API server within the sync time limit, or its configuration makes no sense. What goes
/// wrong later ends [`Handle::task`].
pub async fn start(config: Config, shutdown: latest::Receiver<bool>) -> Result<Handle, Error> {
    let kinds = kinds(&config);
    let status = Arc::new(Status::new(&kinds));
    let (published, snapshots) = latest::channel(Published::nothing(&config.node_name));
    let (notices, notices_to_tell) = mpsc::channel(NOTICES);
    let (updates, updates_to_fold) = mpsc::channel(UPDATES);
    let recent_notices = Arc::new(RecentNotices::default());
    let mut tasks = Tasks::default();
    let mut api = None;
    match &config.source {
        Source::Api(access) => {
            let server = api::ApiServer::connect(access.clone(), config.sync_timeout).await?;
            let shared = Arc::new(Shared {
                server,
                own_node: config.node_name.clone(),
                names: Arc::new(Names::default()),
                timings: config.timings,
                policies: config.needs.policies,
                streaming: AtomicBool::new(true),
            });
            if let Some(path) = access.endpoints_file.clone() {
                tasks.spawn_minor("remember", api::remember(path, snapshots.clone()));
            }
            spawn_watches(&mut tasks, &shared, &kinds, config.needs, &updates, &status);
            api = Some(shared);
        }
        Source::Folder(folder) => {
            let watch = FolderWatch {
                folder: folder.clone(),
                own_node: config.node_name.clone(),
                names: Arc::new(Names::default()),
                timings: config.timings,
                status: Arc::clone(&status),
            };
            tasks.spawn("folder", watch.run(updates.clone()));
        }
        Source::Fixed(snapshot) => {
            let generation = Generation(snapshot.generation.0.max(1));
            let snapshot = Arc::new(Snapshot { generation, ..snapshot.as_ref().clone() });
            status.set_published(generation.0, |kind| count(&snapshot, kind));
            published.send_replace(Published { snapshot, oldest_event: Instant::now() });
        }
    }
    let snapshotter = Snapshotter {
        node_name: config.node_name,
        rhythm: Rhythm { quiet: config.timings.quiet, most: config.timings.most, sync_timeout: config.sync_timeout },
        status: Arc::clone(&status),
        published,
        notices: notices.clone(),
    };
    if kinds.is_empty() {
        // Nothing will ever come, but the last snapshot must stay readable.
        tasks.spawn("snapshotter", async move {
            let _held = snapshotter;
            pending().await
        });
    } else {
        tasks.spawn("snapshotter", snapshotter.run(updates_to_fold));
    }
    let told = events::run(notices_to_tell, api, snapshots.clone(), Arc::clone(&recent_notices));
    tasks.spawn_minor("events", told);
    let task = tokio::spawn(tasks.run_until(shutdown));
    Ok(Handle { snapshots, status, notices, recent_notices, task })
}

/// The kinds that must be in sync before anything is published.
fn kinds(config: &Config) -> Vec<Kind> {
    match config.source {
        Source::Fixed(_) => Vec::new(),
        Source::Folder(_) => Kind::ALL.to_vec(),
        Source::Api(_) => Kind::ALL.into_iter().filter(|kind| config.needs.want(*kind)).collect(),
    }
}

fn count(snapshot: &Snapshot, kind: Kind) -> usize {
    match kind {
        Kind::Service => snapshot.services.len(),
        Kind::EndpointSlice => snapshot.slices.len(),
        Kind::Node => snapshot.nodes.len(),
        Kind::Pod => snapshot.pods.len(),
        Kind::Namespace => snapshot.namespaces.len(),
        Kind::NetworkPolicy => snapshot.policies.len(),
        Kind::ClusterNetworkPolicy => snapshot.cluster_policies.len(),
    }
}

fn spawn_watches(
    tasks: &mut Tasks,
    shared: &Arc<Shared>,
    kinds: &[Kind],
    needs: Needs,
    updates: &mpsc::Sender<Stamped>,
    status: &Status,
) {
    for kind in kinds {
        let Some(status) = status.watch(*kind) else { continue };
        let mut selection = Selection::default();
        match kind {
            // The slices of headless Services serve name lookups only: nothing is ever forwarded to them.
            Kind::EndpointSlice => selection.labels = Some(format!("!{}", convert::service::HEADLESS_LABEL)),
            Kind::Node if !needs.all_nodes => selection.fields = Some(format!("metadata.name={}", shared.own_node)),
            _ => {}
        }
        let (shared, updates, status) = (Arc::clone(shared), updates.clone(), Arc::clone(status));
        match kind {
            Kind::Service => tasks.spawn_watch(watched::<core::Service>(*kind, shared, selection, updates, status)),
            Kind::EndpointSlice => {
                tasks.spawn_watch(watched::<discovery::EndpointSlice>(*kind, shared, selection, updates, status));
            }
            Kind::Node => tasks.spawn_watch(watched::<core::Node>(*kind, shared, selection, updates, status)),
            Kind::Pod => tasks.spawn_watch(watched::<core::Pod>(*kind, shared, selection, updates, status)),
            Kind::Namespace => tasks.spawn_watch(watched::<core::Namespace>(*kind, shared, selection, updates, status)),
            Kind::NetworkPolicy => {
                tasks.spawn_watch(watched::<networking::NetworkPolicy>(*kind, shared, selection, updates, status));
            }
            Kind::ClusterNetworkPolicy => {
                tasks.spawn_watch(watched::<ApiClusterPolicy>(*kind, shared, selection, updates, status));
            }
        }
    }
}

/// The watch of one kind in its span.
fn watched<T: Watched>(
    kind: Kind,
    shared: Arc<Shared>,
    selection: Selection,
    updates: mpsc::Sender<Stamped>,
    status: Arc<WatchStatus>,
) -> impl Future<Output = ()> + Send + 'static {
    watch::run::<T>(shared, selection, updates, status).instrument(info_span!("watch", %kind))
}

/// The tasks behind the door.
#[derive(Debug, Default)]
struct Tasks(JoinSet<(&'static str, Result<(), Error>)>);

impl Tasks {
    /// One without which there is nothing to publish: its end is the end of all.
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<(), Error>> + Send + 'static) {
        self.0.spawn(async move { (name, task.await) });
    }

    fn spawn_watch(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn("watch", async move {
            task.await;
            Ok(())
        });
    }

    /// One whose end harms nobody.
    fn spawn_minor(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async move {
            task.await;
            pending().await
        });
    }

    async fn run_until(mut self, mut shutdown: latest::Receiver<bool>) -> Result<(), Error> {
        let ended = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => None,
            ended = self.0.join_next() => ended,
        };
        self.0.shutdown().await;
        match ended {
            None => Ok(()),
            Some(Ok((_, Err(error)))) => Err(error),
            Some(Ok((task, Ok(())))) => Err(Error::TaskEnded { task, reason: "it returned".to_owned() }),
            Some(Err(error)) => Err(Error::TaskEnded { task: "unknown", reason: error.to_string() }),
        }
    }
}
