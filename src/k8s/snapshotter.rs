//! Gathers what the watches send and publishes snapshots.
//!
//! The first one goes out at the moment everything is in sync; later ones after a burst: when it has been quiet for a
//! moment, or at the latest when a bounded time is over. Nothing is published when nothing changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::cluster::{Cluster, RejectionChange, log_rejections};
use super::errors::Error;
use super::status::Status;
use super::watch::{News, Stamped};
use crate::model::{Generation, NodeName, Notice, Severity, Snapshot};

/// Updates taken in at once before the clock is looked at.
const BATCH: usize = 256;

/// A snapshot with the age of its news.
#[derive(Clone, Debug)]
pub struct Published {
    /// The snapshot. Generation 0: nothing has been published yet.
    pub snapshot: Arc<Snapshot>,
    /// When the oldest change that is new in it arrived: the start of the way to the kernel.
    pub oldest_event: Instant,
}

impl Published {
    /// Nothing yet.
    pub(super) fn nothing(node_name: &NodeName) -> Published {
        Published { snapshot: Arc::new(Snapshot::empty(node_name.clone())), oldest_event: Instant::now() }
    }
}

/// When to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    /// How long it must be quiet.
    pub(super) quiet: Duration,
    /// How long a change may wait at most.
    pub(super) most: Duration,
    /// How long everything may take to be in sync.
    pub(super) sync_timeout: Duration,
}

/// What the snapshotter works with.
#[derive(Debug)]
pub(super) struct Snapshotter {
    pub(super) node_name: NodeName,
    pub(super) rhythm: Rhythm,
    pub(super) status: Arc<Status>,
    pub(super) published: watch::Sender<Published>,
    pub(super) notices: mpsc::Sender<Notice>,
}

/// Changes not published yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    oldest: Instant,
    due: Instant,
    latest: Instant,
}

impl Snapshotter {
    /// Runs until the updates end.
    ///
    /// # Errors
    ///
    /// [`Error::NotInSync`] when not everything was listed in time.
    pub(super) async fn run(self, mut updates: mpsc::Receiver<Stamped>) -> Result<(), Error> {
        let mut cluster = Cluster::default();
        let mut generation = Generation::default();
        let mut pending: Option<Pending> = None;
        let mut batch = Vec::with_capacity(BATCH);
        let give_up = Instant::now() + self.rhythm.sync_timeout;
        loop {
            let first = generation == Generation::default();
            let wake = if first { give_up } else { pending.map_or(give_up, |pending| pending.due) };
            tokio::select! {
                received = updates.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return Ok(());
                    }
                    for (news, arrived) in batch.drain(..) {
                        if self.fold(&mut cluster, news) {
                            pending = Some(self.postpone(pending, arrived));
                        }
                    }
                }
                () = sleep_until(wake), if first || pending.is_some() => {
                    if first {
                        return Err(self.not_in_sync(&cluster));
                    }
                }
            }
            let due = pending.is_some_and(|pending| first || Instant::now() >= pending.due);
            if due && self.status.watches().iter().all(|watch| cluster.in_sync(watch.kind)) {
                generation.0 += 1;
                // The time everything took to be listed is no lag: the first snapshot is as old as its last piece.
                let oldest_event =
                    pending.take().filter(|_| !first).map_or_else(Instant::now, |pending| pending.oldest);
                self.publish(&cluster, generation, oldest_event);
            }
        }
    }

    /// Takes in all that arrived at one moment: true when it changed anything.
    fn fold(&self, cluster: &mut Cluster, news: News) -> bool {
        let (one, folder) = match news {
            News::One(update) => (Some(update), Vec::new()),
            News::Folder(updates) => (None, updates),
        };
        let mut any = false;
        for update in one.into_iter().chain(folder) {
            let (changed, rejections) = cluster.fold(update);
            self.tell(&rejections);
            any |= changed;
        }
        any
    }

    /// One more change: the due time moves, within its bound.
    fn postpone(&self, pending: Option<Pending>, arrived: Instant) -> Pending {
        let now = Instant::now();
        let (oldest, latest) =
            pending.map_or((arrived, now + self.rhythm.most), |pending| (pending.oldest.min(arrived), pending.latest));
        Pending { oldest, latest, due: latest.min(now + self.rhythm.quiet) }
    }

    fn publish(&self, cluster: &Cluster, generation: Generation, oldest_event: Instant) {
        let snapshot = Arc::new(cluster.snapshot(generation, &self.node_name));
        self.status.set_published(generation.0, |kind| cluster.count(kind));
        let (services, slices) = (snapshot.services.len(), snapshot.slices.len());
        if generation == Generation(1) {
            info!(services, slices, nodes = snapshot.nodes.len(), pods = snapshot.pods.len(), "first snapshot");
        } else {
            debug!(%generation, services, slices, "snapshot");
        }
        self.published.send_replace(Published { snapshot, oldest_event });
    }

    /// Keeps what is newly rejected, and passes it on to be logged and told to the owner.
    fn tell(&self, changes: &[RejectionChange]) {
        for change in changes {
            self.status.set_rejections(change);
            let Some(subject) = change.subject.as_ref().filter(|_| !change.rejections.is_empty()) else {
                log_rejections(change);
                continue;
            };
            for rejection in &change.rejections {
                let notice = Notice {
                    subject: subject.clone(),
                    severity: Severity::Warning,
                    reason: rejection.reason,
                    message: rejection.to_string(),
                };
                // Whoever takes notices logs them. Waiting for a full channel would hold up the snapshots.
                if self.notices.try_send(notice).is_err() {
                    log_rejections(change);
                    break;
                }
            }
        }
    }

    fn not_in_sync(&self, cluster: &Cluster) -> Error {
        let missing = self
            .status
            .watches()
            .iter()
            .filter(|watch| !cluster.in_sync(watch.kind))
            .map(|watch| (watch.kind, watch.last_error()))
            .collect();
        Error::NotInSync { missing, after: self.rhythm.sync_timeout }
    }
}
