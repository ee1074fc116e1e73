//! Is the daemon well, and is the node programmed (pure).
//!
//! *Healthy* decides whether the kubelet restarts the daemon, so only what a restart may cure turns it red: a room
//! that no longer ends its passes, a whole part of the kernel that cannot be programmed for long, watches that never
//! saw the cluster. One key that fails is no reason, however long: a Service that asks for what this kernel does not
//! have would restart the daemon for ever. Nor is an API server that went away later: the last snapshot stays in force.
//! *Ready* says that this node forwards: every room ended its first pass, and no whole part fails. Single keys are told
//! beside it as remarks.

use std::time::Duration;

use crate::reconcile::Applied;

/// How long a whole part of a room may fail before the daemon is called unhealthy.
pub const FAILING_LIMIT: Duration = Duration::from_secs(300);

/// How much longer than its resync period a room may go without ending a pass.
pub const STALL_MARGIN: Duration = Duration::from_secs(30);

/// What is known of one room. All times are since the daemon started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomHealth {
    name: &'static str,
    /// Longest time between the ends of two passes.
    pass_within: Duration,
    passes: u64,
    last_pass: Option<Duration>,
    /// Since when a whole part fails, and the first such part with its reason.
    broken: Option<(Duration, String)>,
    /// How many keys failed in the last pass, and the first of them with its reason.
    failed: Option<(usize, String)>,
}

impl RoomHealth {
    /// A room that has not ended a pass yet and repeats one at least every `resync`.
    pub fn new(name: &'static str, resync: Duration) -> RoomHealth {
        RoomHealth {
            name,
            pass_within: resync.saturating_add(STALL_MARGIN),
            passes: 0,
            last_pass: None,
            broken: None,
            failed: None,
        }
    }

    /// Take in what the room reports.
    pub fn observe(&mut self, now: Duration, applied: &Applied) {
        if applied.passes == self.passes {
            return;
        }
        self.passes = applied.passes;
        self.last_pass = Some(now);
        let with_reason = |(key, reason): (&String, &String)| format!("{key}: {reason}");
        self.failed = applied.failed.first_key_value().map(|first| (applied.failed.len(), with_reason(first)));
        let broken = applied.failed.iter().find(|(key, _)| applied.broken.contains(*key)).map(with_reason);
        let since = self.broken.as_ref().map_or(now, |(since, _)| *since);
        self.broken = broken.map(|part| (since, part));
    }

    /// That the room ends no passes any more. `in_sync_at` is when the first snapshot was there.
    fn stalled(&self, now: Duration, in_sync_at: Duration) -> Option<String> {
        let quiet = now.saturating_sub(self.last_pass.unwrap_or(in_sync_at));
        (quiet > self.pass_within).then(|| format!("{}: no pass ended for {}s", self.name, quiet.as_secs()))
    }

    /// The whole part that fails, and for how long.
    fn fault(&self, now: Duration) -> Option<(Duration, String)> {
        let (since, part) = self.broken.as_ref()?;
        let failing = now.saturating_sub(*since);
        Some((failing, format!("{}: failing for {}s: {part}", self.name, failing.as_secs())))
    }

    /// The keys that fail.
    fn remark(&self) -> Option<String> {
        let (n_failed, first) = self.failed.as_ref()?;
        Some(format!("{}: {n_failed} keys not in force, first {first}", self.name))
    }
}

/// What is known of all watches together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchHealth {
    /// The cluster has not been seen whole yet; that may last until this time.
    Waiting {
        /// Time since the daemon started.
        until: Duration,
    },
    /// It has, at this time since the daemon started.
    InSync {
        /// Time since the daemon started.
        since: Duration,
    },
}

/// Both answers, with reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the daemon is unhealthy; empty when it is healthy.
    pub unhealthy: Vec<String>,
    /// Why the node is not ready; empty when it is.
    pub unready: Vec<String>,
    /// What is not in force although the node forwards.
    pub remarks: Vec<String>,
}

impl Verdict {
    /// True where nothing speaks against it.
    pub fn is_healthy(&self) -> bool {
        self.unhealthy.is_empty()
    }

    /// True where nothing speaks against it.
    pub fn is_ready(&self) -> bool {
        self.unready.is_empty()
    }
}

/// Judge the whole daemon.
pub fn judge<'a>(now: Duration, watches: WatchHealth, rooms: impl IntoIterator<Item = &'a RoomHealth>) -> Verdict {
    let mut verdict = Verdict::default();
    let in_sync_at = match watches {
        WatchHealth::InSync { since } => since,
        WatchHealth::Waiting { until } => {
            let reason = "watches: the cluster has not been read yet";
            verdict.unready.push(reason.to_owned());
            if now > until {
                verdict.unhealthy.push(reason.to_owned());
            }
            // Rooms have nothing to do before there is a snapshot.
            return verdict;
        }
    };
    for room in rooms {
        if room.last_pass.is_none() {
            verdict.unready.push(format!("{}: the first pass has not ended", room.name));
        }
        if let Some(stalled) = room.stalled(now, in_sync_at) {
            verdict.unready.push(stalled.clone());
            verdict.unhealthy.push(stalled);
        }
        match room.fault(now) {
            Some((failing, fault)) => {
                verdict.unready.push(fault.clone());
                verdict.unhealthy.extend((failing > FAILING_LIMIT).then_some(fault));
            }
            None => verdict.remarks.extend(room.remark()),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const IN_SYNC: WatchHealth = WatchHealth::InSync { since: Duration::from_secs(2) };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn applied(passes: u64, failed: &[&str]) -> Applied {
        let failed: BTreeMap<String, String> = failed.iter().map(|key| ((*key).into(), "EINVAL".into())).collect();
        let broken = failed.keys().filter(|key| *key == "ipvs").cloned().collect();
        Applied { failed, broken, passes, ..Applied::default() }
    }

    fn room() -> RoomHealth {
        RoomHealth::new("proxy", seconds(60))
    }

    #[test]
    fn waiting_for_the_cluster_is_healthy_until_the_deadline_and_never_ready() {
        let watches = WatchHealth::Waiting { until: seconds(60) };
        let early = judge(seconds(60), watches, [&room()]);
        assert!(early.is_healthy() && !early.is_ready());
        assert!(!judge(seconds(61), watches, [&room()]).is_healthy());
    }

    #[test]
    fn ready_after_the_first_pass() {
        let mut room = room();
        let before = judge(seconds(3), IN_SYNC, [&room]);
        assert!(before.is_healthy() && !before.is_ready());
        room.observe(seconds(3), &applied(1, &[]));
        assert_eq!(judge(seconds(3), IN_SYNC, [&room]), Verdict::default());
    }

    #[test]
    fn a_room_that_ends_no_pass_is_stalled_after_period_and_margin() {
        let mut room = room();
        assert!(judge(seconds(92), IN_SYNC, [&room]).is_healthy(), "90 s after in sync");
        assert!(!judge(seconds(93), IN_SYNC, [&room]).is_healthy());
        room.observe(seconds(100), &applied(1, &[]));
        assert!(judge(seconds(190), IN_SYNC, [&room]).is_healthy());
        // The same report seen again is no new pass.
        room.observe(seconds(190), &applied(1, &[]));
        let late = judge(seconds(191), IN_SYNC, [&room]);
        assert_eq!(late.unhealthy, ["proxy: no pass ended for 91s"]);
        assert_eq!(late.unready, late.unhealthy);
    }

    #[test]
    fn a_part_that_fails_is_unready_at_once_unhealthy_when_it_lasts_and_green_at_the_first_success() {
        let mut room = room();
        for n in 0..11 {
            room.observe(seconds(10 + n * 30), &applied(n + 1, &["default/web:http", "ipvs"]));
        }
        let early = judge(seconds(310), IN_SYNC, [&room]);
        assert!(early.is_healthy() && !early.is_ready(), "exactly the limit: {early:?}");
        let late = judge(seconds(311), IN_SYNC, [&room]);
        assert_eq!(late.unhealthy, ["proxy: failing for 301s: ipvs: EINVAL"]);
        room.observe(seconds(312), &applied(12, &[]));
        assert_eq!(judge(seconds(312), IN_SYNC, [&room]), Verdict::default());
        room.observe(seconds(313), &applied(13, &["ipvs"]));
        assert!(judge(seconds(314), IN_SYNC, [&room]).is_healthy(), "the time starts over");
    }

    #[test]
    fn keys_that_fail_for_ever_are_only_told() {
        let mut room = room();
        for n in 0..100 {
            room.observe(seconds(10 + n * 30), &applied(n + 1, &["default/web:http", "default/api:http"]));
        }
        let verdict = judge(seconds(2990), IN_SYNC, [&room]);
        assert!(verdict.is_healthy() && verdict.is_ready());
        assert_eq!(verdict.remarks, ["proxy: 2 keys not in force, first default/api:http: EINVAL"]);
    }
}
