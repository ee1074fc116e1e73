//! What the rooms report, turned into metrics and into what `status` shows.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::reconcile::Read;
use crate::reconcile::driver::{Observer, Pass};
use crate::telemetry::registry::{Metrics, OpLabels, PassLabels, RoomLabels, StageLabels};

/// Sums that live as long as the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Differences found that somebody else made.
    pub(super) drift: u64,
    /// Of the last pass for a new snapshot.
    pub(super) lag: Option<Duration>,
}

/// Counts passes.
pub(super) struct Counting {
    metrics: Metrics,
    sums: Mutex<BTreeMap<&'static str, Sums>>,
}

impl Counting {
    pub(super) fn new(metrics: Metrics) -> Counting {
        Counting { metrics, sums: Mutex::default() }
    }

    /// What a room did so far.
    pub(super) fn sums(&self, room: &str) -> Sums {
        let sums = self.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sums.get(room).copied().unwrap_or_default()
    }
}

impl Observer for Counting {
    fn pass(&self, pass: &Pass<'_>) {
        let (room, outcome, metrics) = (pass.room, pass.outcome, &self.metrics);
        let n_failed = outcome.failed.len();
        let read = match pass.read {
            Read::Remembered => "nothing",
            Read::Links => "links",
            Read::Routes => "routes",
            Read::Kernel => "everything",
        };
        let took = pass.took.as_secs_f64();
        metrics.reconcile_duration.get_or_create(&PassLabels { room, read }).observe(took);
        match room {
            "proxy" => metrics.ipvs_services_sync_time.observe(took),
            "firewall" => metrics.iptables_sync_time.observe(took),
            "routing" => metrics.host_routes_sync_time.observe(took),
            _ => {}
        }
        let ops = |result| metrics.ops.get_or_create_owned(&OpLabels { room, result });
        ops("ok").inc_by(u64::try_from(outcome.ops.saturating_sub(pass.n_failed)).unwrap_or(u64::MAX));
        ops("failed").inc_by(u64::try_from(pass.n_failed).unwrap_or(u64::MAX));
        metrics.failed_keys.get_or_create(&RoomLabels { room }).set(i64::try_from(n_failed).unwrap_or(i64::MAX));
        let drift = u64::try_from(outcome.drift).unwrap_or(u64::MAX);
        metrics.drift.get_or_create(&RoomLabels { room }).inc_by(drift);
        if !outcome.unfinished {
            let generation = i64::try_from(outcome.generation.0).unwrap_or(i64::MAX);
            metrics.generation.get_or_create(&StageLabels { stage: "applied", room }).set(generation);
        }
        if let Some(lag) = pass.lag {
            metrics.event_lag.observe(lag.as_secs_f64());
        }
        let mut sums = self.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sum = sums.entry(room).or_default();
        sum.drift = sum.drift.saturating_add(drift);
        sum.lag = pass.lag.or(sum.lag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Generation;
    use crate::reconcile::Outcome;
    use crate::telemetry::registry::Scrape;

    #[test]
    fn a_pass_shows_in_metrics_and_sums() {
        let metrics = Metrics::default();
        let counting = Counting::new(metrics.clone());
        let failed = BTreeMap::from([("default/web:http".to_owned(), "EINVAL".to_owned())]);
        let outcome = Outcome { generation: Generation(4), ops: 3, drift: 2, failed, ..Outcome::default() };
        let took = Duration::from_millis(2);
        let lag = Some(Duration::from_millis(9));
        counting.pass(&Pass { room: "proxy", outcome: &outcome, read: Read::Kernel, n_failed: 1, took, lag });
        counting.pass(&Pass { room: "proxy", outcome: &outcome, read: Read::Kernel, n_failed: 1, took, lag: None });
        let unfinished = Outcome { generation: Generation(5), ops: 0, drift: 0, unfinished: true, ..outcome.clone() };
        counting.pass(&Pass { room: "proxy", outcome: &unfinished, read: Read::Kernel, n_failed: 0, took, lag: None });
        assert_eq!(counting.sums("proxy"), Sums { drift: 4, lag });
        assert_eq!(counting.sums("attic"), Sums::default());
        let text = Scrape::new(&metrics, None).text();
        for line in [
            "ferrovia_generation{stage=\"applied\",room=\"proxy\"} 4",
            "ferrovia_ops_total{room=\"proxy\",result=\"ok\"} 4",
            "ferrovia_ops_total{room=\"proxy\",result=\"failed\"} 2",
            "ferrovia_drift_total{room=\"proxy\"} 4",
            "ferrovia_failed_keys{room=\"proxy\"} 1",
            "ferrovia_event_lag_seconds_count 1",
            "kube_router_controller_ipvs_services_sync_time_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
