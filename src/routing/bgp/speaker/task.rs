//! The task itself: waits for whatever comes, works it into the [`Hub`](crate::routing::bgp::hub::Hub), and only then
//! lets anything go out, so that what came together is told together.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answers;
use super::control::{Batch, Change, Config, Stop};
use super::learned::Publisher;
use super::listeners::{Incoming, Listeners};
use super::restart::Settling;
use super::state::State;
use crate::routing::bgp::api::handle::Question;
use crate::routing::bgp::bfd::driver::Event;
use crate::routing::bgp::session::{Chunk, Report};
use crate::routing::bgp::types::PeerId;

/// How long work that has come is done before output and other work get their turn.
const ROUND: Duration = Duration::from_millis(5);

/// About how many bytes go to a session at once.
const CHUNK: usize = 64 * 1024;

/// How many such pieces may wait for a session's task. One is on its way to the kernel besides.
pub(super) const CHUNKS: usize = 2;

/// How often dynamic peers that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// What the task hears from outside.
pub(super) struct Inbox {
    pub(super) batches: mpsc::UnboundedReceiver<Batch>,
    pub(super) stops: mpsc::Receiver<Stop>,
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) connections: mpsc::Receiver<Incoming>,
}

/// The speaker.
pub(super) struct Task {
    pub(super) state: State,
    pub(super) listeners: Listeners,
    pub(super) settling: Settling,
    pub(super) reports: mpsc::Sender<Report>,
    /// Ids of peers that are no more, while their tasks say their last words.
    pub(super) ending: BTreeSet<PeerId>,
    pub(super) learned: Publisher,
    pub(super) sweep: Option<Instant>,
}

/// What woke the task.
enum Wake {
    Batch(Batch),
    Stop(Stop),
    Question(Question),
    Report(Report),
    Connection(Incoming),
    Bfd(Event),
    Deadline,
    /// Nobody holds a handle any more.
    Abandoned,
}

impl Task {
    /// Runs until it is stopped, or until nobody can reach it any more.
    pub(super) async fn run(mut self, config: Config, mut inbox: Inbox) {
        self.configure(config);
        loop {
            self.finish_round();
            match self.next(&mut inbox).await {
                Wake::Batch(batch) => self.batch(batch),
                Wake::Question(question) => answers::answer(&mut self.state, question),
                Wake::Report(report) => self.report(report),
                Wake::Connection(incoming) => self.incoming(incoming),
                Wake::Bfd(event) => self.bfd_event(event),
                Wake::Deadline => self.tick(),
                Wake::Stop(stop) => return self.stop(stop, inbox).await,
                Wake::Abandoned => return,
            }
            self.drain(&mut inbox);
        }
    }

    async fn next(&mut self, inbox: &mut Inbox) -> Wake {
        let deadline = self.deadline();
        tokio::select! {
            batch = inbox.batches.recv() => batch.map_or(Wake::Abandoned, Wake::Batch),
            Some(stop) = inbox.stops.recv() => Wake::Stop(stop),
            Some(report) = inbox.reports.recv() => Wake::Report(report),
            Some(question) = inbox.questions.recv() => Wake::Question(question),
            Some(incoming) = inbox.connections.recv() => Wake::Connection(incoming),
            event = self.state.watching.next() => Wake::Bfd(event),
            () = until(deadline) => Wake::Deadline,
        }
    }

    /// Takes what else is there already, for a bounded time.
    fn drain(&mut self, inbox: &mut Inbox) {
        let end = Instant::now() + ROUND;
        while Instant::now() < end {
            if let Ok(report) = inbox.reports.try_recv() {
                self.report(report);
            } else if let Ok(batch) = inbox.batches.try_recv() {
                self.batch(batch);
            } else {
                return;
            }
        }
    }

    /// Tells everybody what has come of it.
    pub(super) fn finish_round(&mut self) {
        self.settle();
        let best = self.state.hub.take_best_changes();
        let steps = std::mem::take(&mut self.state.steps);
        self.learned.publish(self.state.hub.rib(), &best, self.settling.is_settled());
        if !best.is_empty() || !steps.is_empty() {
            answers::news(&mut self.state, &best, &steps);
        }
        self.pump();
    }

    /// Hands every session as much as it can take.
    fn pump(&mut self) {
        let State { hub, peers, .. } = &mut self.state;
        for peer in hub.busy() {
            let Some(entry) = peers.get_mut(&peer) else { continue };
            while entry.chunks.capacity() > 0 {
                let Some((session, bytes)) = hub.take(peer, CHUNK) else { break };
                if entry.chunks.try_send(Chunk { session, bytes }).is_ok() {
                    entry.in_flight += 1;
                }
            }
        }
    }

    fn batch(&mut self, batch: Batch) {
        let now = self.state.clock.now();
        for change in batch.changes {
            match change {
                Change::Configure(config) => self.configure(*config),
                Change::Announce(routes) => {
                    self.state.hub.announce(routes, now);
                    self.settling.has_own_routes();
                }
                Change::Withdraw(prefixes) => self.state.hub.withdraw_all(&prefixes),
                Change::LoseNetworks(networks) => self.state.hub.lose_networks(networks),
                Change::EditPrefixSet { set, add, remove } => self.state.hub.edit_prefix_set(&set, &add, &remove),
            }
        }
        // Whoever no longer waits need not know.
        let _ = batch.done.send(());
    }

    fn deadline(&self) -> Option<Instant> {
        let started = self.state.clock.started;
        let stale = self.state.hub.deadline().map(|after| started + after);
        let settling = self.settling.deadline().map(|after| started + after);
        [stale, settling, self.listeners.deadline(), self.sweep].into_iter().flatten().min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.state.hub.expire(self.state.clock.now());
        if self.listeners.deadline().is_some_and(|at| at <= now) {
            self.listeners.open_missing();
        }
        if self.sweep.is_some_and(|at| at <= now) {
            let some_left = self.sweep_dynamic();
            self.sweep = some_left.then(|| now + SWEEP);
        }
    }

    /// Dynamic peers come and go: looks for those that are gone from now on.
    pub(super) fn start_sweeping(&mut self) {
        self.sweep.get_or_insert_with(|| Instant::now() + SWEEP);
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
