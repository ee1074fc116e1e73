//! What the daemon itself computes, on the machine as it is: no guest, no kernel, processor time of the thread.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrovia::reconcile::{Read, Subsystem};

use super::cluster::{ENDPOINTS, World};
use super::null::{self, NullRoom};
use super::place::cpu_time;
use super::scenarios::{FEW_SERVICES, N_SERVICES};
use super::table::{Row, Samples, show};

/// Changes in a row.
const N_CHANGES: usize = 10_000;
/// Processor time that one change may take.
const BAR: Duration = Duration::from_micros(200);

/// One change of an endpoint, from the event to the encoded messages.
pub(crate) fn one_change(repetitions: usize) -> Result<Vec<Row>> {
    let (mut big, mut small, mut tails, mut start) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    for _ in 0..repetitions {
        small.push(change_many(FEW_SERVICES)?.each);
        let measured = change_many(N_SERVICES)?;
        big.push(measured.each);
        tails.push(measured.tail);
        start.push(measured.start);
    }
    let median = big.median();
    Ok(vec![
        Row::figure(
            &format!("one endpoint replaced among {N_SERVICES} Services: processor time, native, mean of {N_CHANGES}"),
            big.spread(),
            &format!("≤ {}", show(BAR)),
            median <= BAR,
        ),
        Row::note("… 99th percentile of elapsed time, native", tails.spread()),
        Row::ratio(
            "… grows with the change, not with the cluster",
            &big,
            (&format!("among {FEW_SERVICES}"), &small),
            None,
        ),
        Row::note(
            &format!("first pass over {N_SERVICES} Services × {ENDPOINTS} endpoints: processor time, native"),
            start.spread(),
        ),
    ])
}

/// What changes in a row took.
struct Measured {
    /// Processor time of the first pass.
    start: Duration,
    /// Processor time of a change on average.
    each: Duration,
    /// Elapsed time of the slowest hundredth.
    tail: Duration,
}

fn change_many(n_services: usize) -> Result<Measured> {
    let mut world = World::with_services(n_services);
    let mut room = null::room();
    let snapshot = world.snapshot();
    let begun = cpu_time()?;
    let first = room.sync(&snapshot, Read::Kernel, Duration::ZERO);
    let start = cpu_time()? - begun;
    ensure!(first.failed.is_empty() && first.ops > n_services, "the first pass failed: {:?}", first.failed);
    drop(snapshot);
    let mut took = Samples::default();
    let begun = cpu_time()?;
    for n in 0..N_CHANGES {
        let since = Instant::now();
        change(&mut world, &mut room, n % n_services, n / n_services)?;
        took.push(since.elapsed());
    }
    let each = (cpu_time()? - begun) / u32::try_from(N_CHANGES)?;
    Ok(Measured { start, each, tail: took.percentile(99) })
}

/// The endpoints of one Service move on by one pod.
fn change(world: &mut World, room: &mut NullRoom, service: usize, round: usize) -> Result<()> {
    let first = service * ENDPOINTS + round + 1;
    world.set_endpoints(service, first..first + ENDPOINTS);
    let outcome = room.sync(&world.snapshot(), Read::Remembered, Duration::from_secs(1));
    ensure!(outcome.ops >= 2 && outcome.failed.is_empty(), "a replaced endpoint is two changes, not {outcome:?}");
    Ok(())
}
