//! From one source through the device to one sink: many routes, a new peer, all back, and one route at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::device::{Device, Kind, Setup, address};
use super::peer::{HOLD, Identity, KEEPALIVE, Session, UPDATE, message};
use super::place;
use super::routes::{Counter, Load, one};
use super::table::{Bar, Table, Unit, percentile};

/// Single announcements.
const N_SINGLES: u32 = 100;
/// How long the device has for what it does after the last route.
const REST: Duration = Duration::from_millis(300);
/// Between a session and the first route: FRR sends nothing to a peer in its first second.
const FIRST_REST: Duration = Duration::from_millis(1500);

const SOURCE: Identity = who(2, 65001);
const SINK: Identity = who(3, 65002);
const LATER: Identity = who(4, 65003);

const fn who(number: u8, asn: u16) -> Identity {
    Identity { address: std::net::Ipv4Addr::new(10, 200, 0, number), asn, hold: HOLD }
}

/// What one run showed.
struct Reflected {
    idle: f64,
    converge: f64,
    loaded: f64,
    added: f64,
    dump: f64,
    withdraw: f64,
    cpu: f64,
    singles: Vec<f64>,
}

/// All that is to say about one load and one device.
pub(crate) fn measure(kind: Kind, load: Load, table: &mut Table) -> Result<()> {
    let mut seen = place::fresh(|| run(kind, load))?;
    seen.added = seen.loaded - without_bgp(kind)?;
    let name = format!("{}k {}", load.n / 1000, if load.unique { "unique" } else { "shared" });
    let time = [Bar::Of(Kind::Bird, 1.0), Bar::Of(Kind::Gobgp3, 0.2), Bar::Of(Kind::Gobgp4, 0.2)];
    let memory = [
        Bar::Of(Kind::Bird, if load.unique { 1.5 } else { 1.0 }),
        Bar::Of(Kind::Gobgp3, 0.25),
        Bar::Of(Kind::Gobgp4, 0.25),
    ];
    table.add(&format!("{name}: source to sink"), Unit::Millis, &time, kind, seen.converge);
    table.add(&format!("{name}: dump to a new peer"), Unit::Millis, &time, kind, seen.dump);
    table.add(&format!("{name}: withdrawn"), Unit::Millis, &time, kind, seen.withdraw);
    table.add(&format!("{name}: memory with them"), Unit::Memory, &[], kind, seen.loaded);
    table.add(&format!("{name}: … what BGP adds to our process"), Unit::Memory, &memory, kind, seen.added);
    table.add(&format!("{name}: processor time of all that"), Unit::Millis, &[], kind, seen.cpu);
    if load == (Load { n: 10_000, unique: false }) {
        table.add("memory before the first route", Unit::Memory, &[], kind, seen.idle);
        let median = [Bar::Of(Kind::Bird, 2.0)];
        table.add("one route, written to seen: p50", Unit::Micros, &median, kind, percentile(&seen.singles, 50));
        let tail = [Bar::AtMost(500.0)];
        table.add("one route, written to seen: p99", Unit::Micros, &tail, kind, percentile(&seen.singles, 99));
    }
    Ok(())
}

/// What the process takes when it speaks with nobody, where that is not BGP's: our speaker lives in a daemon that is
/// there anyhow, and the example it runs in here has a runtime and a log of its own too. The others are nothing else.
fn without_bgp(kind: Kind) -> Result<f64> {
    if kind != Kind::Ferrovia {
        return Ok(0.0);
    }
    place::fresh(|| {
        let device = kind.start(&Setup::default())?;
        std::thread::sleep(REST);
        Ok(mebibytes(device.memory()?))
    })
}

fn run(kind: Kind, load: Load) -> Result<Reflected> {
    debug_assert_eq!(SOURCE.address, address(2));
    let setup = Setup { peers: vec![SOURCE, SINK, LATER], ..Setup::default() };
    let mut device = kind.start(&setup)?;
    let seen = with(&mut device, load);
    device.check()?;
    seen.with_context(|| format!("{}, {load:?}; its log ends: {}", kind.name(), device.log()))
}

fn with(device: &mut Device, load: Load) -> Result<Reflected> {
    let announcements = load.announce(SOURCE);
    let withdrawals = load.withdraw();
    let singles: Vec<Vec<u8>> = (0..N_SINGLES).map(|index| one(SOURCE, index)).collect();
    let mut source = Session::establish(SOURCE)?;
    let mut sink = Session::establish(SINK)?;
    source.drain()?;
    sink.calm(FIRST_REST)?;
    let idle = mebibytes(device.memory()?);
    let begun = device.cpu()?;
    let mut counter = Counter::new(load.n.max(N_SINGLES));

    let converge = push(&mut source, &announcements, &mut sink, &mut counter, load.n)?;
    sink.calm(REST)?;
    let loaded = mebibytes(device.memory()?);

    let mut later = Session::establish(LATER)?;
    let since = Instant::now();
    let mut held = Counter::new(load.n.max(N_SINGLES));
    wait(&mut later, &mut held, |held| held.count() == load.n)?;
    let dump = millis(since.elapsed());
    drop(later);
    alive(&mut source, &mut sink)?;

    let withdraw = push(&mut source, &withdrawals, &mut sink, &mut counter, 0)?;
    let cpu = millis(device.cpu()? - begun);
    alive(&mut source, &mut sink)?;

    let mut took = Vec::new();
    for (index, bytes) in (0..).zip(&singles) {
        std::thread::sleep(Duration::from_millis(2));
        let since = Instant::now();
        source.write(bytes)?;
        wait(&mut sink, &mut counter, |counter| counter.holds(index))?;
        took.push(since.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Reflected { idle, converge, loaded, added: loaded, dump, withdraw, cpu, singles: took })
}

/// Writes from a thread of its own while the sink reads; from the first byte written to the last route counted.
fn push(source: &mut Session, bytes: &[u8], sink: &mut Session, counter: &mut Counter, until: u32) -> Result<f64> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let since = Instant::now();
            source.write(bytes).map(|()| since)
        });
        let counted = wait(sink, counter, |counter| counter.count() == until).map(|()| Instant::now());
        let since = writer.join().map_err(|_| anyhow::anyhow!("the writing thread panicked"))?;
        Ok(millis(counted? - since?))
    })
}

/// Reads until the counter is as wanted.
fn wait(sink: &mut Session, counter: &mut Counter, done: impl Fn(&Counter) -> bool) -> Result<()> {
    while !done(counter) {
        let (kind, body) = sink.read().with_context(|| format!("with {} routes at the sink", counter.count()))?;
        match kind {
            UPDATE => counter.update(body)?,
            KEEPALIVE => {}
            _ => anyhow::bail!("message {kind} {:?} from the device", body.get(..2)),
        }
    }
    Ok(())
}

/// A sign of life from both ends, and a rest.
fn alive(source: &mut Session, sink: &mut Session) -> Result<()> {
    source.write(&message(KEEPALIVE, &[]))?;
    sink.write(&message(KEEPALIVE, &[]))?;
    sink.calm(REST)
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// KiB in MiB.
#[allow(clippy::cast_precision_loss, reason = "nobody has that much memory")]
pub(crate) fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
