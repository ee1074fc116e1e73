//! Requests without a pause while something happens, and the count of those that failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::{Namespace, traffic, wait};

/// Pause between two requests of one client: an emulated guest has one processor for everything.
const PAUSE: Duration = Duration::from_millis(15);

/// Clients that ask, each one fresh connection after the other.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    start: Instant,
    clients: Vec<JoinHandle<Tally>>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How often each pod answered.
    pub answered: BTreeMap<String, usize>,
    /// When a request failed, counted from the start of the load, and how.
    pub failed: Vec<(Duration, String)>,
}

impl Load {
    /// One client for each of `targets`; a request that is not answered within `limit` has failed.
    pub fn start(targets: &[(&Namespace, SocketAddr)], limit: Duration) -> Load {
        let (stop, answered, start) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Instant::now());
        let clients = targets.iter().map(|(from, to)| {
            let (from, to, stop, answered) = ((*from).clone(), *to, stop.clone(), answered.clone());
            std::thread::spawn(move || client(&from, to, limit, &stop, &answered, start))
        });
        let clients = clients.collect();
        Load { stop, answered, start, clients }
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits until `n` more requests were answered.
    ///
    /// # Errors
    /// Where they are not within `limit`.
    pub fn wait_answers(&self, n: usize, limit: Duration) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        wait::until(&format!("{n} more answers"), limit, || {
            let now = self.answered.load(Ordering::Relaxed);
            ensure!(now >= before + n, "{} so far", now - before);
            Ok(())
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where a client panicked.
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients {
            let tally = client.join().map_err(|_| anyhow!("a client of the load panicked"))?;
            for (pod, n) in tally.answered {
                *sum.answered.entry(pod).or_default() += n;
            }
            sum.failed.extend(tally.failed);
        }
        Ok(sum)
    }
}

impl Tally {
    /// How many were answered.
    pub fn n_answered(&self) -> usize {
        self.answered.values().sum()
    }

    /// That more than `at_least` requests were answered and none failed.
    ///
    /// # Errors
    /// Where it was otherwise.
    pub fn flawless(&self, at_least: usize) -> Result<()> {
        let (answered, failed) = (self.n_answered(), self.failed.len());
        ensure!(failed == 0, "{failed} of {} requests failed: {:?}", answered + failed, self.failed);
        ensure!(answered >= at_least, "only {answered} requests were answered: too few to prove anything");
        Ok(())
    }
}

/// One client, until told to stop.
fn client(
    from: &Namespace,
    to: SocketAddr,
    limit: Duration,
    stop: &AtomicBool,
    answered: &AtomicUsize,
    start: Instant,
) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        match traffic::http_once(from, to, limit) {
            Ok(reply) => {
                *tally.answered.entry(reply.pod).or_default() += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tally.failed.push((start.elapsed(), error.to_string())),
        }
        std::thread::sleep(PAUSE);
    }
    tally
}
