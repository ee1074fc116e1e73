//! Single passes of the room against the floor.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrovia::kernel::ipvs::{Op, Scheduler, VirtualServerKey};
use ferrovia::model::{self, Snapshot};
use ferrovia::reconcile::{Read, Subsystem};

use super::cluster::{ENDPOINTS, World};
use super::doors::{RealRoom, Seen, read_once, room};
use super::floor::{self, Floor, Prepared};
use super::place::{fresh, settle};
use super::table::{Row, Samples};

/// The big cluster.
pub(crate) const N_SERVICES: usize = 10_000;
/// The small one to compare with.
pub(crate) const FEW_SERVICES: usize = 100;
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
    /// Reading everything by the same doors and doing nothing with it.
    reading: Duration,
}

/// Cold start and restart in one namespace; the floor's turn to write comes in another.
fn start_once(snapshot: &Snapshot) -> Result<Start> {
    fresh(|| {
        let (mut first, clock) = room(true)?;
        let (_, cold_pass) = pass(&mut first, snapshot, Read::Kernel)?;
        let cold = clock.take();
        drop(first);
        settle()?;
        let (reading, [n_servers, n_vips, n_rules]) = read_once()?;
        ensure!(
            // IPv6 has a local route of its own on every link.
            n_servers == N_SERVICES && n_vips >= N_SERVICES && n_rules > 0,
            "the kernel holds {n_servers} virtual servers, {n_vips} VIPs, {n_rules} rules"
        );
        settle()?;
        let (mut second, clock) = room(true)?;
        let (restart_ops, restart_pass) = pass(&mut second, snapshot, Read::Kernel)?;
        Ok(Start { cold, cold_pass, restart: clock.take(), restart_pass, restart_ops, reading })
    })
}

/// Everything about starting, over all repetitions.
#[derive(Default)]
struct Starts {
    cold: Samples,
    cold_pass: Samples,
    writing_floor: Samples,
    restart: Samples,
    restart_pass: Samples,
    reading: Samples,
    reading_floor: Samples,
    n_writes: usize,
}

impl Starts {
    fn daemon(&mut self, snapshot: &Snapshot) -> Result<()> {
        let start = start_once(snapshot)?;
        self.n_writes += start.restart_ops + start.restart.ops.len();
        self.cold.push(start.cold.took);
        self.cold_pass.push(start.cold_pass);
        self.restart.push(start.restart.took);
        self.restart_pass.push(start.restart_pass);
        self.reading.push(start.reading);
        Ok(())
    }

    fn floor(&mut self, changes: &Prepared, readings: &Prepared) -> Result<()> {
        let (wrote, read) = fresh(|| {
            let mut floor = Floor::open()?;
            let wrote = floor.run(changes)?;
            settle()?;
            Ok((wrote, floor.run(readings)?))
        })?;
        self.writing_floor.push(wrote);
        self.reading_floor.push(read);
        Ok(())
    }
}

/// Programs the big cluster from nothing, then finds it all there.
pub(crate) fn cold_start_and_restart(repetitions: usize) -> Result<Vec<Row>> {
    let snapshot = World::with_services(N_SERVICES).snapshot();
    let kind = floor::family_number()?;
    // One for the messages that the floor sends, and for everything to be in the caches.
    let ops = start_once(&snapshot)?.cold.ops;
    let keys = added(&ops);
    ensure!(keys.len() == N_SERVICES, "{} virtual servers", keys.len());
    let (changes, readings) = (floor::changes(kind, &ops)?, floor::readings(kind, &keys)?);
    let mut starts = Starts::default();
    for repetition in 0..repetitions {
        if repetition.is_multiple_of(2) {
            starts.daemon(&snapshot)?;
            starts.floor(&changes, &readings)?;
        } else {
            starts.floor(&changes, &readings)?;
            starts.daemon(&snapshot)?;
        }
    }
    let size = format!("{N_SERVICES} Services × {ENDPOINTS} endpoints");
    let writing = format!("the floor, the same {} messages", ops.len());
    let n_writes = starts.n_writes;
    Ok(vec![
        Row::ratio(
            &format!("cold start, {size}: IPVS part"),
            &starts.cold,
            (&writing, &starts.writing_floor),
            Some(1.5),
        ),
        Row::ratio(
            "… the whole pass, with thinking, VIPs and packet filter",
            &starts.cold_pass,
            ("the floor of its IPVS part", &starts.writing_floor),
            None,
        ),
        Row::ratio(
            &format!("restart with the right state, {size}: the whole pass"),
            &starts.restart_pass,
            ("reading virtual servers, VIPs, rules and the table once", &starts.reading),
            Some(2.0),
        ),
        Row::ratio(
            "… IPVS part",
            &starts.restart,
            ("the floor, the same requests without decoding", &starts.reading_floor),
            Some(2.0),
        ),
        Row::figure("… changes written", format!("{n_writes} in {repetitions} restarts"), "0", n_writes == 0),
    ])
}

/// What single changes took.
#[derive(Default)]
struct Changes {
    took: Samples,
    floor: Samples,
}

/// Replaces one endpoint of one Service after the other in a cluster of `n_services`.
fn change_many(n_services: usize, kind: u16) -> Result<Changes> {
    let mut world = World::with_services(n_services);
    let snapshot = world.snapshot();
    let mut changes = Changes::default();
    let (before, ops) = fresh(|| {
        let (mut room, clock) = room(true)?;
        pass(&mut room, &snapshot, Read::Kernel)?;
        let before = clock.take().ops;
        settle()?;
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
        Ok((before, clock.take().ops))
    })?;
    // The floor sends what each change sent, on a table of the same size.
    let (all, each) = (floor::changes(kind, &before)?, ops.chunks(2).map(|ops| floor::changes(kind, ops)));
    let each = each.collect::<Result<Vec<_>>>()?;
    fresh(|| {
        let mut floor = Floor::open()?;
        floor.run(&all)?;
        settle()?;
        for change in &each {
            changes.floor.push(floor.run(change)?);
        }
        Ok(())
    })?;
    Ok(changes)
}

/// One endpoint replaced, in a big and in a small cluster: the cost must follow the change, not the cluster.
pub(crate) fn one_change(repetitions: usize) -> Result<Vec<Row>> {
    let kind = floor::family_number()?;
    let (mut big, mut small) = (Samples::default(), Samples::default());
    let (mut big_tail, mut small_tail, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..repetitions {
        let changes = change_many(FEW_SERVICES, kind)?;
        small.push(changes.took.median());
        small_tail.push(changes.took.percentile(99));
        let changes = change_many(N_SERVICES, kind)?;
        big.push(changes.took.median());
        big_tail.push(changes.took.percentile(99));
        floor.push(changes.floor.median());
    }
    let against = format!("the same among {FEW_SERVICES}");
    Ok(vec![
        Row::ratio(
            &format!(
                "one endpoint replaced among {N_SERVICES} Services: event to last ACK, 99th percentile of {N_CHANGES}"
            ),
            &big_tail,
            (&against, &small_tail),
            Some(2.0),
        ),
        Row::ratio("… median", &big, (&against, &small), None),
        Row::ratio("… median", &big, ("the floor, two messages", &floor), None),
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
    let (mut n_ops, mut last) = (0, Vec::new());
    for _ in 0..repetitions {
        let seen = fresh(|| {
            let (mut room, clock) = room(true)?;
            pass(&mut room, &snapshot, Read::Kernel)?;
            Ok(clock.take())
        })?;
        n_ops = seen.ops.len();
        took.push(seen.took);
        let (quick, slow) = orders(&seen.ops);
        let prepared = floor::changes(kind, &quick)?;
        floor_took.push(fresh(|| Floor::open()?.run(&prepared))?);
        last = slow;
    }
    // Once is enough: a thousand tables built and thrown away within a second have brought a 6.12 kernel down.
    let prepared = floor::changes(kind, &last)?;
    naive.push(fresh(|| Floor::open()?.run(&prepared))?);
    Ok(vec![
        Row::ratio(
            &format!("mh Service with {MANY} endpoints, first load: IPVS part ({n_ops} messages)"),
            &took,
            ("the floor, rr first and mh last", &floor_took),
            Some(1.5),
        ),
        Row::ratio("… against mh from the start", &took, ("the floor in naive order, once", &naive), Some(0.5)),
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
