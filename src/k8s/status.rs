//! What the front door knows about itself: for metrics, health and the debug page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::cluster::{Kind, RejectionChange};
use super::convert::Rejection;
use super::folder::manifest::Report;

/// How the watch of one kind is doing.
#[derive(Debug)]
pub struct WatchStatus {
    /// The kind.
    pub kind: Kind,
    started: Instant,
    in_sync: AtomicBool,
    connected: AtomicBool,
    /// Milliseconds from `started` to the last event, plus one; zero: none yet.
    last_event: AtomicU64,
    events: AtomicU64,
    restarts: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl WatchStatus {
    pub(super) fn new(kind: Kind) -> WatchStatus {
        WatchStatus {
            kind,
            started: Instant::now(),
            in_sync: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            last_event: AtomicU64::new(0),
            events: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }

    /// Whether this kind has been listed completely. Stays true when the source goes away.
    pub fn in_sync(&self) -> bool {
        self.in_sync.load(Ordering::Relaxed)
    }

    /// Whether the source answers at the moment. While it does not, the last known objects stay in force.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// When the last event arrived.
    pub fn last_event(&self) -> Option<Instant> {
        let after = self.last_event.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started + std::time::Duration::from_millis(after))
    }

    /// Events so far, those of initial lists included.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Initial lists begun after the first one.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The error the watch is suffering from. `None` while all is well.
    pub fn last_error(&self) -> Option<String> {
        locked(&self.last_error).clone()
    }

    /// How long this watch has been running.
    pub fn age(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    pub(super) fn set_in_sync(&self) {
        self.in_sync.store(true, Ordering::Relaxed);
    }

    /// Notes an event.
    pub(super) fn note_event(&self) {
        let after = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_event.store(after.saturating_add(1), Ordering::Relaxed);
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the source answers; the end of a trouble is handed back.
    pub(super) fn note_well(&self) -> Option<String> {
        self.connected.store(true, Ordering::Relaxed);
        locked(&self.last_error).take()
    }

    pub(super) fn note_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an error: whether it is another one than before.
    pub(super) fn note_error(&self, error: &str) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.connected.store(false, Ordering::Relaxed);
        let mut last = locked(&self.last_error);
        let is_new = last.as_deref() != Some(error);
        *last = Some(error.to_owned());
        is_new
    }
}

/// The state of the whole front door.
#[derive(Debug)]
pub struct Status {
    watches: Vec<Arc<WatchStatus>>,
    generation: AtomicU64,
    objects: [AtomicU64; Kind::ALL.len()],
    rejections: Mutex<BTreeMap<(Kind, String), Vec<Rejection>>>,
    reports: Mutex<Vec<Report>>,
}

impl Status {
    pub(super) fn new(kinds: &[Kind]) -> Status {
        Status {
            watches: kinds.iter().map(|kind| Arc::new(WatchStatus::new(*kind))).collect(),
            generation: AtomicU64::new(0),
            objects: [const { AtomicU64::new(0) }; Kind::ALL.len()],
            rejections: Mutex::default(),
            reports: Mutex::default(),
        }
    }

    /// The kinds that are watched.
    pub fn watches(&self) -> &[Arc<WatchStatus>] {
        &self.watches
    }

    /// Whether every kind has been listed completely.
    pub fn in_sync(&self) -> bool {
        self.watches.iter().all(|watch| watch.in_sync())
    }

    /// Whether the source of every kind answers at the moment.
    pub fn connected(&self) -> bool {
        self.watches.iter().all(|watch| watch.connected())
    }

    /// The newest snapshot that was published; 0: none yet.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// How many objects of a kind the newest snapshot holds.
    pub fn objects(&self, kind: Kind) -> u64 {
        self.objects.iter().zip(Kind::ALL).find(|(_, of)| *of == kind).map_or(0, |(n, _)| n.load(Ordering::Relaxed))
    }

    /// What could not be used, by kind and object, as things are now.
    pub fn rejections(&self) -> BTreeMap<(Kind, String), Vec<Rejection>> {
        locked(&self.rejections).clone()
    }

    /// How many objects of a kind hold something that could not be used.
    pub fn n_rejected(&self, kind: Kind) -> usize {
        locked(&self.rejections).keys().filter(|(of, _)| *of == kind).count()
    }

    /// What could not be used of a folder of manifests, as things are now.
    pub fn reports(&self) -> Vec<Report> {
        locked(&self.reports).clone()
    }

    pub(super) fn watch(&self, kind: Kind) -> Option<&Arc<WatchStatus>> {
        self.watches.iter().find(|watch| watch.kind == kind)
    }

    pub(super) fn set_published(&self, generation: u64, count: impl Fn(Kind) -> usize) {
        self.generation.store(generation, Ordering::Relaxed);
        for (held, kind) in self.objects.iter().zip(Kind::ALL) {
            held.store(u64::try_from(count(kind)).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    pub(super) fn set_rejections(&self, change: &RejectionChange) {
        let key = (change.kind, change.object.clone());
        let mut all = locked(&self.rejections);
        if change.rejections.is_empty() {
            all.remove(&key);
        } else {
            all.insert(key, change.rejections.clone());
        }
    }

    /// Sets the reports and hands back the ones before.
    pub(super) fn set_reports(&self, reports: Vec<Report>) -> Vec<Report> {
        std::mem::replace(&mut *locked(&self.reports), reports)
    }
}

/// Nothing behind these locks can be left half done, so a poisoned one is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
