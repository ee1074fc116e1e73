//! What the servers answer with: closures over what the daemon has.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::firewall;
use super::observer::Counting;
use super::router::{Router, Shared};
use super::vitals::Vitals;
use crate::admin::debug::{Drain, Sources};
use crate::admin::probes::{Judge, MetricsText};
use crate::admin::status::{RoomStatus, Status, WatchStatus};
use crate::config::Config;
use crate::k8s;
use crate::model::{NodeName, Published};
use crate::reconcile::Applied;
use crate::reconcile::query::Query;
use crate::telemetry::registry::{KindLabels, Metrics, Scrape, StageLabels};
use crate::telemetry::services::ServiceStatsSource;

/// What is known of a room.
#[derive(Debug)]
pub(super) struct RoomParts {
    /// Its name.
    pub(super) name: &'static str,
    /// What it has in force.
    pub(super) applied: watch::Receiver<Applied>,
}

/// Everything that is asked about.
pub(super) struct Parts {
    node: NodeName,
    features: Vec<String>,
    started: Instant,
    vitals: Vitals,
    published: watch::Receiver<Option<Published>>,
    counting: Arc<Counting>,
    rooms: Vec<RoomParts>,
    router: Shared,
    firewall: Option<watch::Receiver<crate::firewall::reconciler::Figures>>,
    /// There once the front door is open.
    door: OnceLock<(Arc<k8s::Status>, Arc<k8s::RecentNotices>)>,
}

impl Parts {
    pub(super) fn new(
        config: &Config,
        node: NodeName,
        started: Instant,
        vitals: Vitals,
        published: watch::Receiver<Option<Published>>,
        counting: Arc<Counting>,
        rooms: Vec<RoomParts>,
    ) -> Parts {
        let features = config.features;
        let named = [
            (features.proxy, "service proxy"),
            (features.router, "router"),
            (features.firewall, "firewall"),
            (features.balancer, "load balancer allocator"),
        ];
        Parts {
            node,
            features: named.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect(),
            started,
            vitals,
            published,
            counting,
            rooms,
            router: None,
            firewall: None,
            door: OnceLock::new(),
        }
    }

    /// The same with the router, where it runs.
    pub(super) fn with_router(mut self, router: Shared) -> Parts {
        self.router = router;
        self
    }

    /// The same with what the firewall counts, where it runs.
    pub(super) fn with_firewall(
        mut self,
        figures: Option<watch::Receiver<crate::firewall::reconciler::Figures>>,
    ) -> Parts {
        self.firewall = figures;
        self
    }

    /// The front door is open.
    pub(super) fn set_door(&self, door: &k8s::Handle) {
        // Set once: there is one front door.
        let _ = self.door.set((Arc::clone(&door.status), Arc::clone(&door.recent_notices)));
    }

    /// The same snapshot with its age counted as the rooms count.
    pub(super) fn for_rooms(&self, published: k8s::Published) -> Published {
        let oldest_event = published.oldest_event.saturating_duration_since(self.started);
        Published { snapshot: published.snapshot, oldest_event }
    }

    fn generation(&self) -> u64 {
        self.published.borrow().as_ref().map_or(0, |published| published.snapshot.generation.0)
    }

    fn status(&self) -> Status {
        let verdict = self.vitals.verdict();
        let door = self.door.get();
        let watches = door.map(|(status, _)| status.watches().iter().map(|watch| watch_status(watch)).collect());
        let notices = door.map(|(_, notices)| notices.all().iter().map(notice_line).collect());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.to_string(),
            uptime_seconds: self.started.elapsed().as_secs(),
            features: self.features.clone(),
            generation: self.generation(),
            rooms: self.rooms.iter().map(|room| self.room_status(room)).collect(),
            peers: self.router.as_ref().map(Router::peers).unwrap_or_default(),
            watches: watches.unwrap_or_default(),
            notices: notices.unwrap_or_default(),
            cni_gate: self.router.as_ref().and_then(Router::gate),
            drain: self.router.as_ref().map(|router| router.drain(None)),
            unhealthy: verdict.unhealthy,
            unready: verdict.unready,
        }
    }

    fn room_status(&self, room: &RoomParts) -> RoomStatus {
        let applied = room.applied.borrow();
        let sums = self.counting.sums(room.name);
        RoomStatus {
            name: room.name.to_owned(),
            generation: applied.generation.0,
            passes: applied.passes,
            drift: sums.drift,
            lag_ms: sums.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            failed: applied.failed.clone(),
        }
    }

    /// Bring the metrics of the front door up to date.
    fn observe_door(&self, metrics: &Metrics) {
        let generation = i64::try_from(self.generation()).unwrap_or(i64::MAX);
        metrics.generation.get_or_create(&StageLabels { stage: "published", room: "all" }).set(generation);
        let Some((status, _)) = self.door.get() else { return };
        for watch in status.watches() {
            let labels = KindLabels { kind: watch.kind.name() };
            metrics.watch_in_sync.get_or_create(&labels).set(i64::from(watch.in_sync()));
            let n_rejected = i64::try_from(status.n_rejected(watch.kind)).unwrap_or(i64::MAX);
            metrics.rejected_objects.get_or_create(&labels).set(n_rejected);
            let restarts = metrics.watch_restarts.get_or_create_owned(&labels);
            restarts.inc_by(watch.restarts().saturating_sub(restarts.get()));
        }
    }
}

fn watch_status(watch: &k8s::WatchStatus) -> WatchStatus {
    WatchStatus { kind: watch.kind.name().to_owned(), in_sync: watch.in_sync(), restarts: watch.restarts() }
}

fn notice_line(noted: &k8s::Noted) -> String {
    let notice = &noted.notice;
    format!("{} ({}): {}", notice.subject, notice.reason, notice.message)
}

/// What the health server asks.
pub(super) fn judge(vitals: &Vitals) -> Judge {
    let vitals = vitals.clone();
    Arc::new(move || vitals.verdict())
}

/// What the metrics server asks.
pub(super) fn metrics_text(parts: &Arc<Parts>, metrics: &Metrics, stats: Option<ServiceStatsSource>) -> MetricsText {
    let (parts, metrics) = (Arc::clone(parts), metrics.clone());
    let scrape = Scrape::new(&metrics, stats);
    Arc::new(move || {
        parts.observe_door(&metrics);
        if let Some(router) = &parts.router {
            router.observe(&metrics);
        }
        if let Some(figures) = &parts.firewall {
            firewall::observe(figures, &metrics);
        }
        scrape.text()
    })
}

/// What the admin socket asks.
pub(super) fn sources(parts: &Arc<Parts>, rooms: BTreeMap<&'static str, mpsc::Sender<Query>>) -> Sources {
    let (for_snapshot, for_notices, for_status) = (Arc::clone(parts), Arc::clone(parts), Arc::clone(parts));
    Sources {
        snapshot: Arc::new(move || {
            let published = for_snapshot.published.borrow().clone();
            let published = published.ok_or_else(|| "the cluster has not been read yet".to_owned())?;
            serde_json::to_string(&*published.snapshot).map_err(|error| error.to_string())
        }),
        notices: Arc::new(move || {
            let notices = for_notices.door.get().map(|(_, notices)| notices.all()).unwrap_or_default();
            serde_json::to_string_pretty(&notices).map_err(|error| error.to_string())
        }),
        status: Arc::new(move || for_status.status()),
        drain: parts.router.clone().map(|router| -> Drain { Arc::new(move |wanted| router.drain(wanted)) }),
        rooms: Arc::new(rooms),
    }
}
