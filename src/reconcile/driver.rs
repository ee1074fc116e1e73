//! The loop around a room: what makes it run, how soon it is tried again, what is told afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::query::Query;
use super::{Applied, Outcome, Read, Subsystem};
use crate::model::{Notice, Published};

/// How often kernel events may make a room look at the kernel again.
const DISTURBANCE_INTERVAL: Duration = Duration::from_secs(1);

/// What a room's loop is connected to.
pub struct Wiring<N> {
    /// Snapshots; `None` until the first.
    pub snapshots: watch::Receiver<Option<Published>>,
    /// What others changed in the kernel; how much is read for it, the room says.
    pub disturbances: mpsc::Receiver<N>,
    /// One message whenever something beside snapshots and kernel changed that the room decides from.
    pub wakes: mpsc::Receiver<()>,
    /// Questions from the admin socket.
    pub queries: mpsc::Receiver<Query>,
    /// Turns true when the daemon ends.
    pub stop: watch::Receiver<bool>,
    /// Where the room says what it has in force.
    pub applied: watch::Sender<Applied>,
    /// Where notices go that have not been told yet.
    pub notices: mpsc::UnboundedSender<Notice>,
    /// Who counts passes.
    pub observer: Arc<dyn Observer>,
}

/// When a room looks at the kernel again although nothing happened, and from when time counts.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The full reading of the kernel.
    pub resync: Duration,
    /// When the daemon started.
    pub started: Instant,
}

/// One pass, for whoever counts.
#[derive(Debug)]
pub struct Pass<'a> {
    /// The room.
    pub room: &'static str,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// How much of the kernel it read.
    pub read: Read,
    /// Keys that failed in this very pass; the outcome also names those that still wait for the next try.
    pub n_failed: usize,
    /// How long it took.
    pub took: Duration,
    /// From the arrival of the oldest event to the kernel's last answer, where the pass was for a new snapshot.
    pub lag: Option<Duration>,
}

/// Counts passes.
pub trait Observer: Send + Sync {
    /// A pass has ended.
    fn pass(&self, pass: &Pass<'_>);
}

/// Runs a room until it is told to stop.
pub async fn run<S: Subsystem>(mut room: S, mut wiring: Wiring<S::News>, timing: Timing) {
    let mut state = Loop::new(timing);
    loop {
        tokio::select! {
            biased;
            _ = wiring.stop.wait_for(|stop| *stop) => return,
            Some(query) = wiring.queries.recv() => {
                let answer = room.answer(&query.what);
                let _ = query.reply.send(answer);
                continue;
            }
            changed = wiring.snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                state.want(Read::Remembered);
            }
            Some(()) = wiring.wakes.recv() => {}
            Some(news) = wiring.disturbances.recv() => {
                if let Some(read) = room.heed(&news) {
                    state.disturbed(read);
                }
                continue;
            }
            () = sleep_until(state.due) => state.on_timer(),
        }
        let published = wiring.snapshots.borrow_and_update().clone();
        if let Some(published) = published {
            state.pass(&mut room, &published, &wiring);
        }
    }
}

/// What the loop remembers between passes.
struct Loop {
    timing: Timing,
    /// The next time something is to be done without being asked.
    due: Instant,
    next_resync: Instant,
    retry: Option<Instant>,
    again: Option<Instant>,
    /// Kernel events have come in: when they will be looked at, and how much will be read.
    look: Option<(Instant, Read)>,
    last_look: Option<Instant>,
    backoff: Backoff,
    wanted: Read,
    generation: Option<crate::model::Generation>,
    told: BTreeSet<Notice>,
    passes: u64,
    last_failed: Option<String>,
    /// Keys that failed since the kernel was read last, and those of them that are whole parts.
    failing: (BTreeMap<String, String>, BTreeSet<String>),
}

impl Loop {
    fn new(timing: Timing) -> Loop {
        let next_resync = Instant::now() + timing.resync;
        Loop {
            timing,
            due: next_resync,
            next_resync,
            retry: None,
            again: None,
            look: None,
            last_look: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
            wanted: Read::Remembered,
            generation: None,
            told: BTreeSet::new(),
            passes: 0,
            last_failed: None,
            failing: Default::default(),
        }
    }

    fn want(&mut self, read: Read) {
        self.wanted = self.wanted.max(read);
    }

    /// Kernel events come in floods: one look answers them all.
    fn disturbed(&mut self, read: Read) {
        if let Some((_, planned)) = &mut self.look {
            *planned = read.max(*planned);
            return;
        }
        let earliest = self.last_look.map(|last| last + DISTURBANCE_INTERVAL);
        let now = Instant::now() + Duration::from_millis(20);
        self.look = Some((earliest.map_or(now, |earliest| earliest.max(now)), read));
        self.schedule();
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        if self.next_resync <= now {
            self.want(Read::Kernel);
        }
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
            self.want(Read::Kernel);
        }
        if let Some((_, read)) = self.look.take_if(|(look, _)| *look <= now) {
            self.last_look = Some(now);
            self.want(read);
        }
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
        }
    }

    fn schedule(&mut self) {
        let times = [Some(self.next_resync), self.retry, self.again, self.look.map(|(look, _)| look)];
        self.due = times.into_iter().flatten().min().unwrap_or(self.next_resync);
    }

    fn pass<S: Subsystem>(&mut self, room: &mut S, published: &Published, wiring: &Wiring<S::News>) {
        let read = std::mem::replace(&mut self.wanted, Read::Remembered);
        let begun = Instant::now();
        let span = tracing::info_span!("reconcile", room = S::NAME, generation = published.snapshot.generation.0);
        let mut outcome = span.in_scope(|| room.sync(&published.snapshot, read, begun - self.timing.started));
        let ended = Instant::now();
        if read == Read::Kernel {
            self.next_resync = ended + self.timing.resync;
        }
        self.again = outcome.again_in.map(|delay| ended + delay);
        let n_failed = outcome.failed.len();
        self.note_failures(&mut outcome, read, ended);
        self.schedule();
        self.passes += 1;

        let is_new = self.generation != Some(published.snapshot.generation);
        self.generation = Some(published.snapshot.generation);
        let lag = is_new.then(|| (ended - self.timing.started).saturating_sub(published.oldest_event));
        let pass = Pass { room: S::NAME, outcome: &outcome, read, n_failed, took: ended - begun, lag };
        wiring.observer.pass(&pass);
        span.in_scope(|| self.log(&pass));
        self.tell(&outcome, wiring);
        wiring.applied.send_replace(Applied {
            generation: outcome.generation,
            failed: outcome.failed,
            broken: outcome.broken,
            passes: self.passes,
        });
    }

    /// Plan the next try. What failed counts as failed until the kernel was read again: a pass that trusts its memory
    /// need not come across it.
    fn note_failures(&mut self, outcome: &mut Outcome, read: Read, ended: Instant) {
        if read != Read::Kernel {
            for (key, reason) in std::mem::take(&mut self.failing.0) {
                outcome.failed.entry(key).or_insert(reason);
            }
            outcome.broken.append(&mut self.failing.1);
        }
        if outcome.failed.is_empty() {
            self.backoff.succeeded();
            self.retry = None;
        } else if self.retry.is_none() {
            self.retry = Some(ended + self.backoff.failed());
        }
        self.failing = (outcome.failed.clone(), outcome.broken.clone());
    }

    /// One line for each pass that did something, and one for a failure when it is not the same as before.
    fn log(&mut self, pass: &Pass<'_>) {
        let Pass { outcome, took, .. } = pass;
        let took_ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
        if outcome.drift > 0 {
            tracing::warn!(n_drift = outcome.drift, "kernel state was changed by somebody else and is repaired");
        }
        let failed = outcome.failed.iter().next().map(|(key, reason)| format!("{key}: {reason}"));
        match &failed {
            Some(first) if failed != self.last_failed => {
                tracing::warn!(
                    n_failed = outcome.failed.len(),
                    reason = first,
                    "could not bring everything into force, retrying"
                );
            }
            None if self.last_failed.is_some() => tracing::info!("everything is in force again"),
            _ => {}
        }
        self.last_failed = failed;
        if outcome.ops > 0 {
            tracing::debug!(n_ops = outcome.ops, took_ms, "pass");
        } else {
            tracing::trace!(took_ms, "pass without changes");
        }
    }

    /// Pass on the notices that are new; one that went away may come back as new.
    fn tell<N>(&mut self, outcome: &Outcome, wiring: &Wiring<N>) {
        if outcome.notices.is_empty() && self.told.is_empty() {
            return;
        }
        let current: BTreeSet<Notice> = outcome.notices.iter().cloned().collect();
        for notice in current.difference(&self.told) {
            // Nobody listens any more only while the daemon ends.
            let _ = wiring.notices.send(notice.clone());
        }
        self.told = current;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeName, Snapshot};
    use crate::reconcile::query::View;

    /// Cannot read the kernel until told that it can; finds nothing wrong where it trusts its memory.
    struct Blind {
        sees: watch::Receiver<bool>,
    }

    impl Subsystem for Blind {
        const NAME: &'static str = "blind";
        type News = Read;

        fn sync(&mut self, snapshot: &Snapshot, read: Read, _now: Duration) -> Outcome {
            let mut outcome = Outcome { generation: snapshot.generation, ..Outcome::default() };
            if read == Read::Kernel && !*self.sees.borrow() {
                outcome.fail_part("eyes", "shut");
                outcome.fail("shop/web", "not seen");
            }
            outcome
        }

        fn heed(&mut self, news: &Read) -> Option<Read> {
            (*news > Read::Remembered).then_some(*news)
        }

        fn answer(&mut self, _what: &View) -> String {
            String::new()
        }
    }

    struct Nobody;

    impl Observer for Nobody {
        fn pass(&self, _pass: &Pass<'_>) {}
    }

    fn published(generation: u64) -> Option<Published> {
        let mut snapshot = Snapshot::empty(NodeName::new("n1"));
        snapshot.generation.0 = generation;
        Some(Published { snapshot: Arc::new(snapshot), oldest_event: Duration::ZERO })
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_is_a_pass_that_reads_nothing() {
        let (snapshots, published_snapshots) = watch::channel(published(1));
        let (_news, disturbances) = mpsc::channel(1);
        let (wake, wakes) = mpsc::channel(1);
        let (_ear, queries) = mpsc::channel(1);
        let (stop, stopping) = watch::channel(false);
        let (applied, mut reports) = watch::channel(Applied::default());
        let wiring = Wiring {
            snapshots: published_snapshots,
            disturbances,
            wakes,
            queries,
            stop: stopping,
            applied,
            notices: mpsc::unbounded_channel().0,
            observer: Arc::new(Nobody),
        };
        let timing = Timing { resync: Duration::from_secs(300), started: Instant::now() };
        // It fails whenever it reads the kernel.
        let running = tokio::spawn(run(Blind { sees: watch::channel(false).1 }, wiring, timing));
        wake.send(()).await.unwrap();
        let report = reports.wait_for(|report| report.passes == 1).await.unwrap().clone();
        assert!(report.generation.0 == 1 && report.failed.is_empty(), "{report:?}");
        wake.send(()).await.unwrap();
        reports.wait_for(|report| report.passes == 2).await.unwrap();
        stop.send_replace(true);
        running.await.unwrap();
        drop(snapshots);
    }

    /// How much each pass read.
    struct Reads(mpsc::UnboundedSender<Read>);

    impl Observer for Reads {
        fn pass(&self, pass: &Pass<'_>) {
            let _ = self.0.send(pass.read);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn news_that_come_together_are_one_look_that_reads_the_most_of_what_they_ask_for() {
        let (news, disturbances) = mpsc::channel(4);
        let (_snapshots, published_snapshots) = watch::channel(published(1));
        let (_ear, queries) = mpsc::channel(1);
        let (stop, stopping) = watch::channel(false);
        let (passes, mut reads) = mpsc::unbounded_channel();
        let wiring = Wiring {
            snapshots: published_snapshots,
            disturbances,
            wakes: mpsc::channel(1).1,
            queries,
            stop: stopping,
            applied: watch::channel(Applied::default()).0,
            notices: mpsc::unbounded_channel().0,
            observer: Arc::new(Reads(passes)),
        };
        let timing = Timing { resync: Duration::from_secs(300), started: Instant::now() };
        let running = tokio::spawn(run(Blind { sees: watch::channel(true).1 }, wiring, timing));
        for read in [Read::Links, Read::Routes, Read::Links] {
            news.send(read).await.unwrap();
        }
        assert_eq!(reads.recv().await, Some(Read::Routes));
        let begun = Instant::now();
        news.send(Read::Links).await.unwrap();
        assert_eq!(reads.recv().await, Some(Read::Links));
        assert!(begun.elapsed() <= DISTURBANCE_INTERVAL);
        // What is nothing to the room makes it do nothing before the next resync.
        news.send(Read::Remembered).await.unwrap();
        assert_eq!(reads.recv().await, Some(Read::Kernel));
        stop.send_replace(true);
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_stays_told_until_the_kernel_was_read_again() {
        let (see, sees) = watch::channel(false);
        let (snapshots, published_snapshots) = watch::channel(None);
        let (_news, disturbances) = mpsc::channel(1);
        let (_ear, queries) = mpsc::channel(1);
        let (stop, stopping) = watch::channel(false);
        let (applied, mut reports) = watch::channel(Applied::default());
        let wiring = Wiring {
            snapshots: published_snapshots,
            disturbances,
            wakes: mpsc::channel(1).1,
            queries,
            stop: stopping,
            applied,
            notices: mpsc::unbounded_channel().0,
            observer: Arc::new(Nobody),
        };
        let timing = Timing { resync: Duration::from_secs(300), started: Instant::now() };
        let running = tokio::spawn(run(Blind { sees }, wiring, timing));

        snapshots.send_replace(published(1));
        reports.wait_for(|report| report.generation.0 == 1).await.unwrap();
        // The first reading of the kernel by the timer.
        reports.wait_for(|report| !report.failed.is_empty()).await.unwrap();
        snapshots.send_replace(published(2));
        let report = reports.wait_for(|report| report.generation.0 == 2).await.unwrap().clone();
        assert_eq!(report.failed.len(), 2, "the pass for a snapshot does not hide it: {report:?}");
        assert!(report.broken.contains("eyes") && !report.broken.contains("shop/web"));

        see.send_replace(true);
        let begun = Instant::now();
        let report = reports.wait_for(|report| report.failed.is_empty()).await.unwrap().clone();
        assert!(report.broken.is_empty());
        assert!(begun.elapsed() < Duration::from_secs(31), "retried long before the next resync");
        stop.send_replace(true);
        running.await.unwrap();
    }
}
