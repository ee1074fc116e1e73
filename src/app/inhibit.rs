//! The host's shutdown waits until this node is out of traffic (`--shutdown-inhibit`).

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::reconcile::backoff::Backoff;
use crate::routing::drain::{Asked, Report, Settings};
use crate::routing::logind::{Error, Logind};

/// Shown by `systemd-inhibit --list`.
const WHY: &str = "Take this node out of traffic";
/// How much longer than the drain itself a shutdown is held back at most: an address that no other node announces is
/// kept, and must not keep the host.
const BEYOND: Duration = Duration::from_secs(30);
/// What is left of the host's patience when the lock is let go of.
const MARGIN: Duration = Duration::from_secs(1);

/// Who holds shutdowns back.
#[derive(Debug)]
pub(super) struct Inhibitor {
    /// The system bus.
    pub(super) socket: PathBuf,
    /// Where the drain is asked for.
    pub(super) asked: watch::Sender<Asked>,
    /// How far it is.
    pub(super) report: watch::Receiver<Report>,
    /// How long its stages take.
    pub(super) drain: Settings,
}

impl Inhibitor {
    /// Holds a lock for as long as the daemon runs; without a bus or a logind it says so and tries again.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut told = String::new();
        loop {
            let Err(error) = self.hold(&mut backoff).await;
            let reason = error.to_string();
            if reason != told {
                let socket = self.socket.display().to_string();
                tracing::warn!(socket, reason, "shutdowns of the host do not wait for this node, trying again");
                told = reason;
            }
            sleep(backoff.failed()).await;
        }
    }

    /// One connection, until it breaks off.
    async fn hold(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Error> {
        let mut logind = Logind::connect(&self.socket).await?;
        let mut delay = logind.longest_delay().await?;
        let mut lock = None;
        let mut until = None;
        if logind.is_shutting_down().await? {
            // Too late to hold it back.
            until = Some(self.begin(delay));
        } else {
            lock = Some(logind.hold(WHY).await?);
            self.say_so(delay);
        }
        backoff.succeeded();
        loop {
            tokio::select! {
                begins = logind.next() => {
                    if begins? {
                        // The kubelet, too, changes how long this is.
                        delay = logind.longest_delay().await.unwrap_or(delay);
                        until = Some(self.begin(delay));
                    } else {
                        tracing::info!("the host does not shut down after all");
                        self.asked.send_modify(|asked| asked.shutdown = None);
                        until = None;
                        if lock.is_none() {
                            lock = Some(logind.hold(WHY).await?);
                        }
                    }
                }
                drained = drained(&mut self.report, until) => {
                    tracing::info!(drained, "the shutdown of the host may go on");
                    (until, lock) = (None, None);
                }
            }
        }
    }

    /// The host begins to shut down. Returns when it waits no longer.
    fn begin(&self, delay: Duration) -> Instant {
        let budget = budget(delay, &self.drain);
        let budget_ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(budget_ms, "the host shuts down: taking this node out of traffic first");
        self.asked.send_modify(|asked| asked.shutdown = Some(budget));
        Instant::now() + budget
    }

    fn say_so(&self, delay: Duration) {
        let wanted = self.drain.tag.saturating_add(self.drain.settle);
        let (delay_s, wanted_s) = (delay.as_secs(), wanted.saturating_add(MARGIN).as_secs());
        if budget(delay, &self.drain) < wanted {
            tracing::warn!(
                delay_s,
                wanted_s,
                "the host lets nobody hold its shutdown back for as long as a drain takes, which will be hurried: set \
                 InhibitDelayMaxSec in logind.conf, or shorten --drain-tag-time and --drain-settle-time"
            );
        } else {
            tracing::info!(delay_s, "shutdowns of the host wait until this node is out of traffic");
        }
    }
}

/// How long a shutdown is held back: a little less than the host allows, and not without end.
fn budget(delay: Duration, drain: &Settings) -> Duration {
    let most = drain.tag.saturating_add(drain.settle).saturating_add(BEYOND);
    delay.saturating_sub(MARGIN.min(delay / 10)).min(most)
}

/// Ends when the node is drained (true) or at this time (false); never without one.
async fn drained(report: &mut watch::Receiver<Report>, until: Option<Instant>) -> bool {
    let Some(until) = until else { return std::future::pending().await };
    tokio::select! {
        found = report.wait_for(|report| report.drained) => found.is_ok(),
        () = sleep_until(until) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_is_held_back_for_less_than_the_host_allows_and_not_for_ever() {
        let drain = Settings::default();
        for (delay, expected) in [
            (Duration::from_secs(5), Duration::from_millis(4500)),
            (Duration::from_secs(30), Duration::from_secs(29)),
            (Duration::from_micros(u64::MAX), Duration::from_secs(45)),
            (Duration::ZERO, Duration::ZERO),
        ] {
            assert_eq!(budget(delay, &drain), expected, "{delay:?}");
        }
    }
}
