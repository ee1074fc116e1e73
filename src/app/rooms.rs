//! Rooms and what surrounds them: a thread for each room, the news of the kernel, the neighbours of the service proxy.

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::servers::Tasks;
use crate::kernel::rtnl::monitor::Monitor;
use crate::reconcile::Subsystem;
use crate::reconcile::driver::{self, Timing, Wiring};

/// Run a room on a thread of its own, where a long kernel commit delays nobody.
pub(super) fn spawn<S: Subsystem + Send + 'static>(
    tasks: &mut Tasks,
    room: S,
    wiring: Wiring,
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

/// Tell a room that links, addresses or routes changed. News that come while it looks become one. `own` are the
/// sockets whose changes are no news.
pub(super) fn spawn_monitor(tasks: &mut Tasks, own: Vec<u32>) -> anyhow::Result<mpsc::Receiver<()>> {
    let mut monitor = Monitor::of_others(own).context("cannot listen to changes of links and addresses")?;
    let (news, disturbances) = mpsc::channel(1);
    tasks.spawn(async move {
        let ended = loop {
            let heard = tokio::select! {
                heard = monitor.next() => heard,
                () = news.closed() => break Ok(()),
            };
            match heard {
                // Full means that the room has not looked yet: it will see this change, too.
                Ok(_) => drop(news.try_send(())),
                Err(error) => break Err(error).context("listening to changes of links and addresses"),
            }
        };
        ("kernel monitor", ended)
    });
    Ok(disturbances)
}
