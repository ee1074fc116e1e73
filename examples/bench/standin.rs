//! The daemon without its kernel, in a process of its own: front door, driver and room as the daemon wires them, over
//! doors that forget everything. Shows on any machine what the daemon's own data takes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ferrovia::k8s::{ApiConfig, Config, Needs, Source, start};
use ferrovia::model::{NodeName, Published};
use ferrovia::reconcile::Applied;
use ferrovia::reconcile::driver::{self, Observer, Pass, Timing, Wiring};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::null;

/// What makes this program that process.
pub(crate) const FLAG: &str = "--stand-in";

/// Counts nothing.
struct Nobody;

impl Observer for Nobody {
    fn pass(&self, _: &Pass<'_>) {}
}

/// Runs until killed; prints a line once the first snapshot is in force.
///
/// # Errors
/// Where the API server cannot be read.
pub(crate) fn run(master: &str) -> Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start threads")?;
    let started = Instant::now();
    let (_stop, stopping) = watch::channel(false);
    let access = ApiConfig { master: Some(master.to_owned()), ..ApiConfig::default() };
    let needs = Needs { all_nodes: false, pods: true, policies: false };
    let config = Config::new(Source::Api(access), NodeName::new("n1"), needs);
    let door = runtime.block_on(start(config, stopping.clone()))?;
    let mut published = door.snapshots.clone();
    let (snapshots, receiver) = watch::channel(None);
    let (applied, mut in_force) = watch::channel(Applied::default());
    let (notices, _told) = mpsc::unbounded_channel();
    let (_disturb, disturbances) = mpsc::channel(1);
    let (_ask, queries) = mpsc::channel(1);
    runtime.spawn(async move {
        while published.changed().await.is_ok() {
            let newest = published.borrow_and_update().clone();
            let oldest_event = newest.oldest_event - started;
            drop(snapshots.send(Some(Published { snapshot: newest.snapshot, oldest_event })));
        }
    });
    runtime.spawn(async move {
        if in_force.wait_for(|applied| applied.generation.0 > 0).await.is_ok() {
            println!("in force");
        }
        std::future::pending::<()>().await;
    });
    let observer = Arc::new(Nobody);
    let wakes = tokio::sync::mpsc::channel(1).1;
    let wiring =
        Wiring { snapshots: receiver, disturbances, wakes, queries, stop: stopping, applied, notices, observer };
    let timing = Timing { resync: Duration::from_secs(3600), started };
    let room = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| runtime.block_on(driver::run(null::room(), wiring, timing)))
    });
    drop(room.join());
    Ok(())
}
