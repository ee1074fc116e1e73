//! Single passes of the firewall's room against the floor, and changes that keep coming.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrovia::kernel::filter::Backend;
use ferrovia::kernel::filter::plan::Transaction;
use ferrovia::kernel::netlink::{Batch, Protocol, Socket};
use ferrovia::kernel::nft::encoded;
use ferrovia::model::Snapshot;
use ferrovia::reconcile::{Read, Subsystem};

use super::cluster::{FEW, MANY, Twist, World, local_pods, remote_pods};
use super::doors::{RealRoom, on_nftables};
use crate::place::{bare, settle};
use crate::sustained::{Changing, Load, keeps_up};
use crate::table::{Row, Samples};

/// Changes in a row.
const N_CHANGES: usize = 200;
/// Between two looks at tracked connections, and more.
const PAUSE: Duration = Duration::from_secs(2);

/// One pass that must succeed: how many changes it wrote, and how long it took.
pub(super) fn pass<B: Backend>(
    room: &mut RealRoom<B>,
    snapshot: &Snapshot,
    read: Read,
    now: Duration,
) -> Result<(usize, Duration)> {
    let start = Instant::now();
    let outcome = room.sync(snapshot, read, now);
    let took = start.elapsed();
    ensure!(outcome.failed.is_empty(), "the pass failed: {:?}", outcome.failed.iter().take(3).collect::<Vec<_>>());
    Ok((outcome.ops, took))
}

/// The floor: transactions encoded beforehand, sent in one piece each and answered.
struct Floor(Socket);

impl Floor {
    fn open() -> Result<Floor> {
        Ok(Floor(Socket::open(Protocol::Netfilter).context("open a netfilter socket")?))
    }

    fn run(&mut self, prepared: &mut Batch) -> Result<Duration> {
        let start = Instant::now();
        self.0.transact(prepared)?;
        Ok(start.elapsed())
    }
}

/// What a full load and a restart after it took.
struct Start {
    whole: Duration,
    writing: Duration,
    transaction: Transaction,
    restart: Duration,
    /// Reading the table and doing nothing with it.
    reading: Duration,
    n_rewritten: usize,
}

fn start_once(snapshot: &Snapshot) -> Result<Start> {
    bare(|| {
        let (mut room, clock) = on_nftables(true)?;
        let (_, whole) = pass(&mut room, snapshot, Read::Kernel, Duration::ZERO)?;
        let seen = clock.take();
        ensure!(seen.n_transactions == 1, "{} transactions", seen.n_transactions);
        drop(room);
        settle()?;
        let begun = Instant::now();
        let table = ferrovia::kernel::nft::NftClient::open()?.dump(&ferrovia::firewall::TABLE.into())?;
        let reading = begun.elapsed();
        drop(table.context("the table is not there")?);
        settle()?;
        let (mut room, _) = on_nftables(false)?;
        let (n_rewritten, restart) = pass(&mut room, snapshot, Read::Kernel, Duration::ZERO)?;
        let transaction = seen.last.context("nothing was written")?;
        Ok(Start { whole, writing: seen.writing, transaction, restart, reading, n_rewritten })
    })
}

/// Everything from nothing, and a restart that finds it all there.
pub(crate) fn full_load(repetitions: usize) -> Result<Vec<Row>> {
    let mut world = World::new(MANY);
    let snapshot = world.snapshot();
    // One for the messages that the floor sends, and for everything to be in the caches and modules to be there.
    let first = start_once(&snapshot)?;
    let n_members: usize = first.transaction.changes.iter().map(members).sum();
    let mut prepared = encoded(&first.transaction)?;
    let (mut whole, mut writing, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    let (mut restart, mut reading, mut n_rewritten) = (Samples::default(), Samples::default(), 0);
    for repetition in 0..repetitions {
        let mut sent = || bare(|| Floor::open()?.run(&mut prepared));
        let early = if repetition.is_multiple_of(2) { None } else { Some(sent()?) };
        let start = start_once(&snapshot)?;
        floor.push(match early {
            Some(took) => took,
            None => sent()?,
        });
        whole.push(start.whole);
        writing.push(start.writing);
        restart.push(start.restart);
        reading.push(start.reading);
        n_rewritten += start.n_rewritten;
    }
    let against = format!("the floor, the same {} messages in one transaction", prepared.len());
    Ok(vec![
        Row::ratio(
            &format!(
                "firewall, full load: {} policies, {} pods of which {} local, {n_members} members of sets: the whole pass",
                world.n_policies(),
                world.n_pods(),
                local_pods(MANY).count()
            ),
            &whole,
            (&against, &floor),
            Some(2.0),
        ),
        Row::ratio("… encoding and writing it", &writing, (&against, &floor), None),
        Row::ratio("… restart that finds it all: the whole pass", &restart, ("reading the table once", &reading), None),
        Row::figure("… changes written", format!("{n_rewritten} in {repetitions} restarts"), "0", n_rewritten == 0),
    ])
}

/// How many members of sets a change writes.
fn members(change: &ferrovia::kernel::filter::plan::Change) -> usize {
    use ferrovia::kernel::filter::plan::Change;
    match change {
        Change::AddKeys(_, keys) => keys.len(),
        Change::AddPrefixes(_, prefixes) => prefixes.len(),
        _ => 0,
    }
}

/// One pod of another node joins and leaves what one policy allows: each took so long.
fn change_many(n_namespaces: usize) -> Result<Samples> {
    let mut world = World::new(n_namespaces);
    let snapshot = world.snapshot();
    let pods: Vec<usize> = remote_pods(n_namespaces).collect();
    bare(|| {
        let (mut room, clock) = on_nftables(false)?;
        pass(&mut room, &snapshot, Read::Kernel, Duration::ZERO)?;
        clock.take();
        settle()?;
        let mut took = Samples::default();
        for n in 0..N_CHANGES {
            let Some(pod) = pods.get(n / 2 % pods.len()) else { break };
            let twist = Twist { without_role: n.is_multiple_of(2), ..Twist::default() };
            let start = Instant::now();
            world.set_pod(*pod, twist);
            let snapshot = world.snapshot();
            pass(&mut room, &snapshot, Read::Remembered, PAUSE * u32::try_from(n + 1)?)?;
            took.push(start.elapsed());
        }
        let n_transactions = clock.take().n_transactions;
        ensure!(n_transactions == N_CHANGES, "{n_transactions} transactions for {N_CHANGES} changes");
        Ok(took)
    })
}

/// One pod joins or leaves one policy, in a big and in a small cluster.
pub(crate) fn one_change(repetitions: usize) -> Result<Vec<Row>> {
    let (mut big, mut small, mut tail) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..repetitions {
        small.push(change_many(FEW)?.median());
        let took = change_many(MANY)?;
        big.push(took.median());
        tail.push(took.percentile(99));
    }
    Ok(vec![
        Row::ratio(
            &format!("firewall, one pod joins or leaves one policy: event to the last ACK, median of {N_CHANGES}"),
            &big,
            ("the same at a tenth of pods and policies", &small),
            Some(2.0),
        ),
        Row::note("… 99th percentile", tail.spread()),
    ])
}

/// A cluster whose pods come and go.
struct Restless {
    world: World,
    remote: Vec<usize>,
    local: Vec<usize>,
}

/// One in so many events is about a pod of this node.
const LOCAL_SHARE: usize = 10;

impl Changing for Restless {
    fn snapshot(&mut self) -> Snapshot {
        self.world.snapshot()
    }

    fn change(&mut self, n: usize) {
        // Each goes, and comes back before the next one goes.
        let turn = n / 2;
        let (pods, turn) =
            if turn.is_multiple_of(LOCAL_SHARE) { (&self.local, turn / LOCAL_SHARE) } else { (&self.remote, turn) };
        let Some(pod) = pods.get(turn % pods.len()) else { return };
        if n.is_multiple_of(2) {
            self.world.delete_pod(*pod);
        } else {
            self.world.set_pod(*pod, Twist::default());
        }
    }
}

/// Pods that come and go, each in ten sets and one in ten on this node, through the daemon's own loop.
pub(crate) fn pods_per_second(_repetitions: usize) -> Result<Vec<Row>> {
    let restless =
        Restless { world: World::new(MANY), remote: remote_pods(MANY).collect(), local: local_pods(MANY).collect() };
    let what = format!("firewall, pod events among {} pods and {} policies", MANY * super::cluster::PODS, MANY * 10);
    keeps_up(&Load { what, rate: 100, seconds: 30 }, restless, || Ok(on_nftables(false)?.0))
}
