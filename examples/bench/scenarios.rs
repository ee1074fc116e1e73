//! Single passes of the room against the floor.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrovia::kernel::ipvs::{Op, Scheduler, VirtualServerKey};
use ferrovia::model::{self, Snapshot};
use ferrovia::reconcile::{Read, Subsystem};

use super::cluster::{ENDPOINTS, World};
use super::doors::{RealRoom, Seen, room};
use super::floor::{self, Floor};
use super::place::{cpu_time, fresh};
use super::table::{Row, Samples, show};

/// The big cluster.
pub(crate) const N_SERVICES: usize = 10_000;
/// The small one to compare with.
const FEW_SERVICES: usize = 100;
/// Changes of one endpoint in a row; few enough that the kernel's list of deleted real servers stays short.
const N_CHANGES: usize = 300;

/// One pass that must succeed: how many changes it wrote, and how long it took.
pub(crate) fn pass(room: &mut RealRoom, snapshot: &Snapshot, read: Read) -> Result<(usize, Duration)> {
    let start = Instant::now();
    let outcome = room.sync(snapshot, read, Duration::from_secs(1));
    let took = start.elapsed();
    ensure!(outcome.failed.is_empty(), "the pass failed: {:?}", outcome.failed.iter().take(3).collect::<Vec<_>>());
    Ok((outcome.ops, took))
}

/// The virtual servers that `ops` add.
fn added(ops: &[Op]) -> Vec<VirtualServerKey> {
    let keys = ops.iter().filter_map(|op| match op {
        Op::AddVirtualServer(key, _) => Some(*key),
        _ => None,
    });
    keys.collect()
}

/// What one cold start and one restart after it took.
struct Start {
    cold: Seen,
    cold_pass: Duration,
    restart: Seen,
    restart_pass: Duration,
    restart_ops: usize,
}

/// Cold start and restart in one namespace; the floor's turn comes in others.
fn start_once(snapshot: &Snapshot) -> Result<Start> {
    fresh(|| {
        let (mut first, clock) = room(true)?;
        let (_, cold_pass) = pass(&mut first, snapshot, Read::Kernel)?;
        let cold = clock.take();
        drop(first);
        let (mut second, clock) = room(true)?;
        let (restart_ops, restart_pass) = pass(&mut second, snapshot, Read::Kernel)?;
        Ok(Start { cold, cold_pass, restart: clock.take(), restart_pass, restart_ops })
    })
}

/// Programs the big cluster from nothing, then finds it all there.
pub(crate) fn cold_start_and_restart(repetitions: usize) -> Result<Vec<Row>> {
    let snapshot = World::with_services(N_SERVICES).snapshot();
    let kind = floor::family_number()?;
    let (mut cold, mut cold_pass, mut cold_floor) = (Samples::default(), Samples::default(), Samples::default());
    let (mut warm, mut warm_pass, mut warm_floor) = (Samples::default(), Samples::default(), Samples::default());
    let (mut n_messages, mut n_writes) = (0, 0);
    for _ in 0..repetitions {
        let start = start_once(&snapshot)?;
        let keys = added(&start.cold.ops);
        ensure!(keys.len() == N_SERVICES, "{} virtual servers", keys.len());
        let (changes, readings) = (floor::changes(kind, &start.cold.ops)?, floor::readings(kind, &keys)?);
        let (wrote, read) = fresh(|| {
            let mut floor = Floor::open()?;
            Ok((floor.run(&changes)?, floor.run(&readings)?))
        })?;
        n_messages = start.cold.ops.len();
        n_writes += start.restart_ops + start.restart.ops.len();
        cold.push(start.cold.took);
        cold_pass.push(start.cold_pass);
        cold_floor.push(wrote);
        warm.push(start.restart.took);
        warm_pass.push(start.restart_pass);
        warm_floor.push(read);
    }
    let size = format!("{N_SERVICES} Services × {ENDPOINTS} endpoints");
    let floor = format!("floor, the same {n_messages} messages");
    Ok(vec![
        Row::ratio(&format!("cold start, {size}: IPVS part"), &cold, (&floor, &cold_floor), 1.5),
        Row::note(
            "… the whole pass, with thinking, VIPs and packet filter",
            cold_pass.spread(),
            String::new(),
            ratio(&cold_pass, &cold_floor),
        ),
        Row::ratio(
            &format!("restart with the right state, {size}: IPVS part"),
            &warm,
            ("floor, reading it once", &warm_floor),
            2.0,
        ),
        Row::note("… the whole pass", warm_pass.spread(), String::new(), ratio(&warm_pass, &warm_floor)),
        Row::figure("… changes written", format!("{repetitions} restarts"), n_writes.to_string(), "0", n_writes == 0),
    ])
}

/// The ratio of two medians, as text.
fn ratio(measured: &Samples, against: &Samples) -> String {
    format!("{:.2}", measured.median().as_secs_f64() / against.median().as_secs_f64())
}

/// What single changes took.
#[derive(Default)]
struct Changes {
    took: Samples,
    cpu: Samples,
    floor: Samples,
}

/// Replaces one endpoint of one Service after the other in a cluster of `n_services`.
fn change_many(n_services: usize, changes: &mut Changes) -> Result<()> {
    let mut world = World::with_services(n_services);
    let snapshot = world.snapshot();
    let ops = fresh(|| {
        let (mut room, clock) = room(true)?;
        pass(&mut room, &snapshot, Read::Kernel)?;
        clock.take();
        let cpu = cpu_time()?;
        for n in 0..N_CHANGES {
            let service = n % FEW_SERVICES;
            let first = service * ENDPOINTS + n / FEW_SERVICES + 1;
            // From here it is an event as the watch hands it over: store, snapshot, room, kernel.
            let start = Instant::now();
            world.set_endpoints(service, first..first + ENDPOINTS);
            let snapshot = world.snapshot();
            let (n_ops, _) = pass(&mut room, &snapshot, Read::Remembered)?;
            changes.took.push(start.elapsed());
            ensure!(n_ops >= 2, "a replaced endpoint is two changes, {n_ops} were made");
        }
        changes.cpu.push((cpu_time()? - cpu) / u32::try_from(N_CHANGES)?);
        Ok(clock.take().ops)
    })?;
    // The floor sends what each change sent, on a table of the same size.
    let kind = floor::family_number()?;
    let before = start_once(&snapshot)?.cold.ops;
    let (all, each) = (floor::changes(kind, &before)?, ops.chunks(2).map(|ops| floor::changes(kind, ops)));
    let each = each.collect::<Result<Vec<_>>>()?;
    fresh(|| {
        let mut floor = Floor::open()?;
        floor.run(&all)?;
        for change in &each {
            changes.floor.push(floor.run(change)?);
        }
        Ok(())
    })
}

/// One endpoint replaced, in a big and in a small cluster: the cost must follow the change, not the cluster.
pub(crate) fn one_change(repetitions: usize) -> Result<Vec<Row>> {
    let (mut big, mut small) = (Changes::default(), Changes::default());
    for _ in 0..repetitions {
        change_many(FEW_SERVICES, &mut small)?;
        change_many(N_SERVICES, &mut big)?;
    }
    let what = format!("one endpoint replaced among {N_SERVICES} Services: event to last ACK");
    let against = format!("among {FEW_SERVICES}");
    let tail = |changes: &Changes| show(changes.took.percentile(99));
    Ok(vec![
        Row::ratio(&what, &big.took, (&against, &small.took), 2.0),
        Row::note("… 99th percentile", tail(&big), format!("{against}: {}", tail(&small)), String::new()),
        Row::ratio("… processor time of each change", &big.cpu, (&against, &small.cpu), 2.0),
        Row::note(
            "… against the floor, two messages",
            format!("{} ({} changes)", big.took.spread(), big.took.len()),
            format!("floor: {}", big.floor.spread()),
            ratio(&big.took, &big.floor),
        ),
    ])
}

/// A Service with the `mh` scheduler and a thousand endpoints: its table must be built once, not a thousand times.
pub(crate) fn hashed_service(repetitions: usize) -> Result<Vec<Row>> {
    const MANY: usize = 1_000;
    let mut world = World::empty();
    world.set_service(0, Some(model::Scheduler::Mh));
    world.set_endpoints(0, 0..MANY);
    let snapshot = world.snapshot();
    let kind = floor::family_number()?;
    let (mut took, mut floor_took, mut naive) = (Samples::default(), Samples::default(), Samples::default());
    let mut n_ops = 0;
    for _ in 0..repetitions {
        let seen = fresh(|| {
            let (mut room, clock) = room(true)?;
            pass(&mut room, &snapshot, Read::Kernel)?;
            Ok(clock.take())
        })?;
        n_ops = seen.ops.len();
        took.push(seen.took);
        let (quick, slow) = orders(&seen.ops);
        for (ops, samples) in [(quick, &mut floor_took), (slow, &mut naive)] {
            let prepared = floor::changes(kind, &ops)?;
            samples.push(fresh(|| Floor::open()?.run(&prepared))?);
        }
    }
    Ok(vec![
        Row::ratio(
            &format!("mh Service with {MANY} endpoints, first load: IPVS part ({n_ops} messages)"),
            &took,
            ("floor, rr first and mh last", &floor_took),
            1.5,
        ),
        Row::note("… what it avoids: mh from the start", naive.spread(), String::new(), ratio(&naive, &floor_took)),
    ])
}

/// The same table in two orders: with the scheduler set at the end, and from the start.
fn orders(ops: &[Op]) -> (Vec<Op>, Vec<Op>) {
    let (mut quick, mut slow, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for op in ops {
        match op {
            Op::AddVirtualServer(key, spec) | Op::SetVirtualServer(key, spec) => {
                let with = |name| ferrovia::kernel::ipvs::VirtualServerSpec {
                    scheduler: Scheduler::new(name),
                    ..spec.clone()
                };
                if matches!(op, Op::AddVirtualServer(..)) {
                    quick.push(Op::AddVirtualServer(*key, with("rr")));
                    slow.push(Op::AddVirtualServer(*key, with("mh")));
                    last.push(Op::SetVirtualServer(*key, with("mh")));
                }
            }
            other => {
                quick.push(other.clone());
                slow.push(other.clone());
            }
        }
    }
    quick.extend(last);
    (quick, slow)
}
