//! Keeps the times that health is judged by: when watches were in sync, when each room ended a pass.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::health::{RoomHealth, Verdict, WatchHealth, judge};
use crate::reconcile::Applied;

/// What is known now; read by the health server at any time.
#[derive(Clone, Debug)]
struct State {
    watches: WatchHealth,
    rooms: Vec<RoomHealth>,
}

/// The keeper of these times. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Vitals {
    started: Instant,
    state: watch::Sender<State>,
}

impl Vitals {
    /// Nothing has happened yet; watches may take until `sync_timeout` after `started`.
    pub(super) fn new(started: Instant, sync_timeout: Duration, rooms: Vec<RoomHealth>) -> Vitals {
        let state = State { watches: WatchHealth::Waiting { until: sync_timeout }, rooms };
        Vitals { started, state: watch::Sender::new(state) }
    }

    /// The first snapshot is there.
    pub(super) fn in_sync(&self) {
        let since = self.started.elapsed();
        self.state.send_modify(|state| {
            if matches!(state.watches, WatchHealth::Waiting { .. }) {
                state.watches = WatchHealth::InSync { since };
            }
        });
    }

    /// Follow the reports of the room at `index` until it ends.
    pub(super) async fn follow(self, index: usize, mut applied: watch::Receiver<Applied>) {
        while applied.changed().await.is_ok() {
            let report = applied.borrow_and_update().clone();
            let now = self.started.elapsed();
            self.state.send_modify(|state| {
                if let Some(room) = state.rooms.get_mut(index) {
                    room.observe(now, &report);
                }
            });
        }
    }

    /// How it stands now.
    pub(super) fn verdict(&self) -> Verdict {
        let state = self.state.borrow();
        judge(self.started.elapsed(), state.watches, &state.rooms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_room_is_ready_after_its_first_report_and_stalled_when_reports_end() {
        let (reports, applied) = watch::channel(Applied::default());
        let rooms = vec![RoomHealth::new("proxy", Duration::from_secs(60))];
        let vitals = Vitals::new(Instant::now(), Duration::from_secs(60), rooms);
        tokio::spawn(vitals.clone().follow(0, applied));
        assert!(vitals.verdict().is_healthy() && !vitals.verdict().is_ready());
        vitals.in_sync();
        reports.send_replace(Applied { passes: 1, ..Applied::default() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(vitals.verdict().is_ready());
        tokio::time::sleep(Duration::from_secs(91)).await;
        assert!(!vitals.verdict().is_healthy());
    }
}
