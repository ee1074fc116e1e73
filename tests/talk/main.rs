//! Tier 2: async code that talks, against scripted partners on loopback. No kernel, no cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]
#![allow(clippy::print_stderr, reason = "a test that is skipped must say so")]

mod bgp;
mod folder;
mod server;
mod watch;

use std::time::Duration;

use ferrovia::k8s::{Handle, Published, Timings};
use ferrovia::model::Snapshot;
use tokio::time::timeout;

/// How long anything in these tests may take before it counts as "never".
const DEADLINE: Duration = Duration::from_secs(20);

/// Short waits where a test wants something to be given up.
fn timings() -> Timings {
    Timings {
        first_delay: Duration::from_millis(5),
        most_delay: Duration::from_millis(50),
        list_idle: Duration::from_secs(10),
        settled: Duration::from_millis(200),
        folder_poll: Duration::from_millis(100),
        unknown_kind: Duration::from_millis(50),
        ..Timings::default()
    }
}

/// Waits for a snapshot that fits, and fails with the last one where none comes.
async fn until(handle: &mut Handle, what: &str, fits: impl Fn(&Snapshot) -> bool) -> Published {
    let mut snapshots = handle.snapshots.clone();
    let fitting = snapshots.wait_for(|published| published.snapshot.generation.0 > 0 && fits(&published.snapshot));
    match timeout(DEADLINE, fitting).await {
        Ok(Ok(published)) => return published.clone(),
        Ok(Err(_)) => {}
        Err(_) => panic!("no snapshot with {what}; the last has {:?}", services(&handle.snapshots.borrow().snapshot)),
    }
    panic!("the front door closed before a snapshot with {what}: {:?}", (&mut handle.task).await);
}

/// Waits until something holds that no channel tells of.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(DEADLINE, polled).await.is_ok(), "never: {what}");
}

/// The Services of a snapshot with their cluster addresses, as text.
fn services(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .services
        .iter()
        .map(|(key, service)| {
            let address = service.cluster_ips.first().map(ToString::to_string).unwrap_or_default();
            format!("{}={address}", key.name)
        })
        .collect()
}
