//! Changes that keep coming: does the room keep up?

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use ferrovia::model::{Generation, Published, Snapshot};
use ferrovia::reconcile::driver::{self, Observer, Pass, Timing, Wiring};
use ferrovia::reconcile::{Applied, Subsystem};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::{ENDPOINTS, World};
use super::doors::room;
use super::place::fresh;
use super::scenarios::N_SERVICES;
use super::table::{Row, Samples, show};

/// Endpoint changes in a second.
const RATE: usize = 1_000;
/// For how many seconds.
const SECONDS: usize = 30;
/// Services whose endpoint comes and goes. Bounded, because IPVS keeps every deleted real server for minutes and looks
/// through all of them at each addition: new addresses without end would measure that list and nothing else.
const FLAPPING: usize = 1_000;
/// The longest that 99 of 100 changes may wait for their last ACK.
const BAR: Duration = Duration::from_secs(1);
/// The longest the last changes may take after the stream has ended.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Notes for every change how long it took until a pass that held it had ended.
struct Watchman {
    start: Instant,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// Changes not yet in force.
    open: VecDeque<(Generation, Duration)>,
    lags: Samples,
    n_passes: usize,
    failed: Option<String>,
}

impl Watchman {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Watchman {
    fn pass(&self, pass: &Pass<'_>) {
        let now = self.start.elapsed();
        let mut notes = self.notes();
        notes.n_passes += 1;
        if let Some((key, reason)) = pass.outcome.failed.first_key_value() {
            notes.failed = Some(format!("{key}: {reason}"));
        }
        while let Some((_, since)) = notes.open.front().copied().filter(|(g, _)| *g <= pass.outcome.generation) {
            notes.open.pop_front();
            notes.lags.push(now.saturating_sub(since));
        }
    }
}

/// A cluster that changes.
pub(crate) trait Changing: Send {
    /// As it is now.
    fn snapshot(&mut self) -> Snapshot;
    /// Change number `n`, from 0.
    fn change(&mut self, n: usize);
}

/// How much of it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// What changes.
    pub(crate) what: String,
    /// Changes in a second.
    pub(crate) rate: usize,
    /// For how many seconds.
    pub(crate) seconds: usize,
}

impl Load {
    fn n_changes(&self) -> usize {
        self.rate * self.seconds
    }
}

/// One endpoint of each of some Services fails its probe and recovers, over and over.
struct Flapping(World);

impl Changing for Flapping {
    fn snapshot(&mut self) -> Snapshot {
        self.0.snapshot()
    }

    fn change(&mut self, n: usize) {
        let (service, fails) = (n % FLAPPING, (n / FLAPPING).is_multiple_of(2));
        let first = service * ENDPOINTS;
        self.0.set_endpoints(service, first + usize::from(fails)..first + ENDPOINTS);
    }
}

/// A thousand changes a second on the big cluster.
pub(crate) fn changes_per_second(_repetitions: usize) -> Result<Vec<Row>> {
    let load = Load { what: format!("endpoint changes at {N_SERVICES} Services"), rate: RATE, seconds: SECONDS };
    keeps_up(&load, Flapping(World::with_services(N_SERVICES)), || Ok(room(false)?.0))
}

/// Changes through the daemon's own loop, in a namespace of their own.
pub(crate) fn keeps_up<R: Subsystem>(
    load: &Load,
    mut world: impl Changing,
    room: impl FnOnce() -> Result<R> + Send,
) -> Result<Vec<Row>> {
    let watchman = Arc::new(Watchman { start: Instant::now(), notes: Mutex::default() });
    let span = fresh(|| run(load, &mut world, room()?, &watchman))?;
    let notes = watchman.notes();
    ensure!(notes.failed.is_none(), "a pass failed: {:?}", notes.failed);
    ensure!(notes.lags.len() == load.n_changes(), "{} changes came into force", notes.lags.len());
    let slow = notes.lags.percentile(99);
    let rate = load.n_changes() as f64 / span.as_secs_f64();
    let Load { what, rate: offered, seconds } = load;
    Ok(vec![
        Row::figure(
            &format!("{what}, {offered} a second for {seconds} s: lag, 99th percentile"),
            format!(
                "{}; median {}, at most {}; {} passes",
                show(slow),
                show(notes.lags.median()),
                show(notes.lags.highest()),
                notes.n_passes
            ),
            &format!("≤ {}", show(BAR)),
            slow <= BAR,
        ),
        Row::figure(
            "… changes a second that were offered and taken",
            format!("{rate:.0} over {}", show(span)),
            &format!("≥ {}", offered * 9 / 10),
            rate >= (offered * 9 / 10) as f64,
        ),
    ])
}

/// The room's loop on this thread, the source of events on another; how long the source took.
fn run<R: Subsystem>(load: &Load, world: &mut impl Changing, room: R, watchman: &Arc<Watchman>) -> Result<Duration> {
    let (snapshots, receiver) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);
    let (applied, in_force) = watch::channel(Applied::default());
    let (notices, _told) = mpsc::unbounded_channel();
    let (_disturb, disturbances) = mpsc::channel(1);
    let (_ask, queries) = mpsc::channel(1);
    let observer = Arc::clone(watchman);
    let wakes = tokio::sync::mpsc::channel(1).1;
    let wiring =
        Wiring { snapshots: receiver, disturbances, wakes, queries, stop: stopped, applied, notices, observer };
    let timing = Timing { resync: Duration::from_secs(3600), started: watchman.start };
    std::thread::scope(|scope| {
        let source = scope.spawn(move || {
            let result = runtime()?.block_on(feed(load, world, &snapshots, in_force, watchman));
            // The loop also ends when this is dropped, so an error does not leave it waiting.
            drop(stop);
            result
        });
        runtime()?.block_on(driver::run(room, wiring, timing));
        source.join().map_err(|_| anyhow!("the source of events panicked"))?
    })
}

/// A runtime for one thread.
fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Publishes the cluster, waits until it is in force, then changes it at the rate of the load and waits for the last.
async fn feed(
    load: &Load,
    world: &mut impl Changing,
    snapshots: &watch::Sender<Option<Published>>,
    mut in_force: watch::Receiver<Applied>,
    watchman: &Watchman,
) -> Result<Duration> {
    let publish = |snapshot: Snapshot| -> Result<Generation> {
        let snapshot = Arc::new(snapshot);
        let generation = snapshot.generation;
        let oldest_event = watchman.start.elapsed();
        watchman.notes().open.push_back((generation, oldest_event));
        snapshots.send(Some(Published { snapshot, oldest_event })).map_err(|_| anyhow!("the room's loop ended"))?;
        Ok(generation)
    };
    let mut last = publish(world.snapshot())?;
    in_force.wait_for(|applied| applied.generation >= last).await.context("the room's loop ended")?;
    *watchman.notes() = Notes::default();

    let begin = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(load.rate)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0..load.n_changes() {
        ticks.tick().await;
        world.change(n);
        last = publish(world.snapshot())?;
    }
    let span = begin.elapsed();
    let drained = in_force.wait_for(|applied| applied.generation >= last);
    let drained = tokio::time::timeout(CATCH_UP, drained).await;
    drained
        .map_err(|_| anyhow!("changes still wait {CATCH_UP:?} after the last one"))?
        .context("the room's loop ended")?;
    Ok(span)
}
