//! What the firewall itself computes for one change: no kernel, processor time of the thread.

use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::reconcile::{Read, Subsystem};

use super::cluster::{FEW, MANY, Twist, World, local_pods, remote_pods};
use super::doors::nowhere;
use crate::place::cpu_time;
use crate::table::{Row, Samples, show};

/// Changes in a row.
const N_CHANGES: usize = 4_000;
/// Processor time that one change may take.
const BAR: Duration = Duration::from_micros(300);
/// How much more a change may take in the big cluster: caches hold less of it, and its trees are a level deeper.
const GROWTH: f64 = 2.0;
/// Time from change to change: each is followed by its own look at tracked connections, which are looked at once a
/// second at most.
const PAUSE: Duration = Duration::from_secs(2);

/// What changes of one kind, again and again: pod `index` becomes so, and back.
#[derive(Clone, Copy, Debug)]
struct Kind {
    what: &'static str,
    local: bool,
    twist: Twist,
}

const KINDS: [Kind; 3] = [
    Kind {
        what: "one pod of another node joins or leaves what one policy allows",
        local: false,
        twist: Twist { without_role: true, unguarded: false, lonely: false },
    },
    Kind {
        what: "one pod of this node comes under one policy or leaves it",
        local: true,
        twist: Twist { without_role: false, unguarded: true, lonely: false },
    },
    Kind {
        what: "the same, as the policy's first and last pod here: a set of 200 comes or goes",
        local: true,
        twist: Twist { without_role: false, unguarded: false, lonely: true },
    },
];

/// One pod joins or leaves one policy, from the event to the encoded transaction.
pub(crate) fn one_change(repetitions: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in KINDS {
        let (mut big, mut small, mut start) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..repetitions {
            small.push(change_many(FEW, kind)?.each);
            let measured = change_many(MANY, kind)?;
            big.push(measured.each);
            start.push(measured.start);
        }
        let median = big.median();
        rows.push(Row::figure(
            &format!("firewall, {}: processor time, native, mean of {N_CHANGES}", kind.what),
            format!("{}; one transaction each", big.spread()),
            &format!("≤ {}", show(BAR)),
            median <= BAR,
        ));
        let against = "at a tenth of pods and policies";
        rows.push(Row::ratio("… independent of the cluster", &big, (against, &small), Some(GROWTH)));
        if !kind.local {
            rows.push(Row::note("… first pass over the big cluster: processor time, native", start.spread()));
        }
    }
    Ok(rows)
}

/// What changes in a row took.
struct Measured {
    /// Processor time of the first pass.
    start: Duration,
    /// Processor time of a change on average.
    each: Duration,
}

fn change_many(n_namespaces: usize, kind: Kind) -> Result<Measured> {
    let mut world = World::new(n_namespaces);
    let (mut room, clock) = nowhere();
    let snapshot = world.snapshot();
    let begun = cpu_time()?;
    let first = room.sync(&snapshot, Read::Kernel, Duration::ZERO);
    let start = cpu_time()? - begun;
    ensure!(first.failed.is_empty() && first.ops > world.n_policies(), "the first pass: {:?}", first.failed);
    ensure!(clock.take().n_transactions == 1, "the first pass is one transaction");
    drop(snapshot);
    // Lonely is one pod of the one namespace whose policy that is.
    let pods: Vec<usize> = match (kind.twist.lonely, kind.local) {
        (true, _) => local_pods(n_namespaces).take(1).collect(),
        (false, true) => local_pods(n_namespaces).collect(),
        (false, false) => remote_pods(n_namespaces).collect(),
    };
    let begun = cpu_time()?;
    for n in 0..N_CHANGES {
        // There and back again, then the next pod.
        let Some(pod) = pods.get(n / 2 % pods.len()) else { break };
        world.set_pod(*pod, if n.is_multiple_of(2) { kind.twist } else { Twist::default() });
        let now = PAUSE * u32::try_from(n + 1)?;
        let outcome = room.sync(&world.snapshot(), Read::Remembered, now);
        ensure!(outcome.failed.is_empty() && outcome.ops > 0, "a change that changes nothing: {outcome:?}");
    }
    let each = (cpu_time()? - begun) / u32::try_from(N_CHANGES)?;
    let n_transactions = clock.take().n_transactions;
    ensure!(n_transactions == N_CHANGES, "{n_transactions} transactions for {N_CHANGES} changes");
    Ok(Measured { start, each })
}
