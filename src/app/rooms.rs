//! Rooms and what surrounds them: a thread for each room, the news of the kernel, the neighbours of the service proxy.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};

use super::RoomEnd;
use super::servers::Tasks;
use crate::kernel::rtnl::monitor::{Event, Monitor};
use crate::model::{Notice, Published};
use crate::reconcile::Subsystem;
use crate::reconcile::driver::{self, Observer, Timing, Wiring};

/// What all rooms are connected to.
pub(super) struct Shared {
    pub(super) snapshots: watch::Receiver<Option<Published>>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) observer: Arc<dyn Observer>,
}

impl Shared {
    /// What one room's loop is connected to.
    pub(super) fn wiring<N>(
        &self,
        parts: RoomEnd,
        disturbances: mpsc::Receiver<N>,
        wakes: mpsc::Receiver<()>,
    ) -> Wiring<N> {
        Wiring {
            snapshots: self.snapshots.clone(),
            disturbances,
            wakes,
            queries: parts.queries,
            stop: self.stop.clone(),
            applied: parts.applied,
            notices: self.notices.clone(),
            observer: Arc::clone(&self.observer),
        }
    }
}

/// Run a room on a thread of its own, where a long kernel commit delays nobody.
pub(super) fn spawn<S: Subsystem + Send + 'static>(
    tasks: &mut Tasks,
    room: S,
    wiring: Wiring<S::News>,
    timing: Timing,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, ended) = oneshot::channel();
    let run = move || {
        runtime.block_on(driver::run(room, wiring, timing));
        // Nobody waits any more only when the daemon is gone.
        let _ = done.send(());
    };
    std::thread::Builder::new().name(S::NAME.to_owned()).spawn(run).context("cannot start a thread")?;
    tasks.spawn(async move { (S::NAME, ended.await.context("the room's thread has ended midway")) });
    Ok(())
}

/// The most events kept for a room that has not taken them yet.
const MOST_WAITING: usize = 4096;

/// Tell a room what others changed in links, addresses, routes and rules. `own` are the sockets whose changes are no
/// news.
pub(super) fn spawn_monitor(tasks: &mut Tasks, own: Vec<u32>) -> anyhow::Result<mpsc::Receiver<Vec<Event>>> {
    let mut monitor = Monitor::of_others(own).context("cannot listen to changes of links and addresses")?;
    let (news, disturbances) = mpsc::channel(1);
    tasks.spawn(async move {
        let mut waiting = Vec::new();
        let ended = loop {
            tokio::select! {
                heard = monitor.next() => match heard {
                    Ok(events) => gather(&mut waiting, events),
                    Err(error) => break Err(error).context("listening to changes of links and addresses"),
                },
                room = news.reserve(), if !waiting.is_empty() => match room {
                    Ok(room) => room.send(std::mem::take(&mut waiting)),
                    Err(_) => break Ok(()),
                },
                () = news.closed() => break Ok(()),
            }
        };
        ("kernel monitor", ended)
    });
    Ok(disturbances)
}

/// Keeps events until they are taken. Of too many only that they were is kept: everything is read then.
fn gather(waiting: &mut Vec<Event>, events: Vec<Event>) {
    if waiting.len().saturating_add(events.len()) > MOST_WAITING {
        *waiting = vec![Event::Overflow];
    } else {
        waiting.extend(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_to_keep_is_an_overflow() {
        let mut waiting = vec![Event::Rule];
        gather(&mut waiting, vec![Event::Link { link: 2, lost: true }]);
        assert_eq!(waiting, [Event::Rule, Event::Link { link: 2, lost: true }]);
        gather(&mut waiting, vec![Event::Rule; MOST_WAITING]);
        assert_eq!(waiting, [Event::Overflow]);
        gather(&mut waiting, vec![Event::Rule]);
        assert_eq!(waiting, [Event::Overflow, Event::Rule]);
    }
}
