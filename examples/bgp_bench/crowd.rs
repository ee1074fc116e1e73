//! Hundreds of peers at once: how soon all are up and told, what one costs, and what they cost doing nothing; and one
//! route to many of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::device::{Device, Kind, Setup, address};
use super::peer::{
    DEVICE_AS, Frames, HOLD, Identity, KEEPALIVE, NOTIFICATION, OPEN, STALL, UPDATE, device, message, open,
};
use super::place;
use super::reflect::{mebibytes, millis};
use super::routes::{Counter, some};
use super::table::{Bar, Table, Unit, percentile};

/// Peers of the mesh, and what each announces.
const N_MESH: u16 = 200;
const ROUTES_EACH: u32 = 5;
/// Peers that only keep their sessions.
const N_IDLE: u16 = 500;
/// Their hold time, and how long they are watched: as long as each needs to send once.
const IDLE_HOLD: u16 = 90;
const WATCHED: Duration = Duration::from_secs(30);
/// Peers that all hear of one route more, the routes they know already, and how many come one by one.
pub(crate) const N_FAN: u16 = 50;
pub(crate) const KNOWN: u32 = 10_000;
const N_SINGLES: u32 = 100;
/// How long a device may set itself up, with the peers configured and none connected.
const REST: Duration = Duration::from_secs(3);

/// How long a peer waits for an answer before it connects anew: a device that lets 8 wait to be accepted drops the rest.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the crowd's addresses begin: 10.200.1.0.
const FIRST: u16 = 256;

const SINK: Identity = Identity { address: std::net::Ipv4Addr::new(10, 200, 0, 3), asn: 65002, hold: HOLD };
const SOURCE: Identity = Identity { address: std::net::Ipv4Addr::new(10, 200, 0, 2), asn: 65001, hold: HOLD };

/// One of the crowd.
pub(crate) struct Member {
    stream: TcpStream,
    frames: Frames,
}

impl Member {
    /// Opens a session, as often as it takes.
    pub(crate) async fn establish(who: Identity) -> Result<Member> {
        let begun = Instant::now();
        loop {
            let attempt = tokio::time::timeout(PATIENCE, Member::attempt(who)).await;
            match attempt.context("no answer").flatten() {
                Ok(member) => return Ok(member),
                Err(error) if begun.elapsed() > STALL => {
                    return Err(error.context(format!("no session from {}", who.address)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn attempt(who: Identity) -> Result<Member> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((who.address, 0).into())?;
        let stream = socket.connect(device()).await?;
        stream.set_nodelay(true)?;
        let mut member = Member { stream, frames: Frames::small() };
        member.stream.write_all(&open(who)).await?;
        let mut opened = false;
        loop {
            match member.read().await? {
                (OPEN, _) => {
                    opened = true;
                    member.stream.write_all(&message(KEEPALIVE, &[])).await?;
                }
                (KEEPALIVE, _) if opened => return Ok(member),
                (kind, body) => bail!("message {kind} {:?} before the session was up", body.get(..2)),
            }
        }
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            if let Some((kind, body)) = self.frames.next()? {
                ensure!(kind != NOTIFICATION || body.len() < 2, "the device ended the session: {:?}", body.get(..2));
                return Ok((kind, body.to_vec()));
            }
            let count = self.stream.read(self.frames.room()).await?;
            ensure!(count > 0, "the device closed the session");
            self.frames.add(count);
        }
    }

    /// Reads until the counter is as wanted.
    pub(crate) async fn wait(&mut self, counter: &mut Counter, done: impl Fn(&Counter) -> bool) -> Result<()> {
        let all = async {
            while !done(counter) {
                if let (UPDATE, body) = self.read().await? {
                    counter.update(&body)?;
                }
            }
            Ok(())
        };
        let told = tokio::time::timeout(STALL, all).await;
        told.with_context(|| format!("a peer waits for routes in vain, with {} there", counter.count()))?
    }

    /// Keeps the session and reads what comes, for ever.
    async fn keep(mut self, first: Duration) -> Result<()> {
        let every = Duration::from_secs(u64::from(IDLE_HOLD) / 3);
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
        let keepalive = message(KEEPALIVE, &[]);
        loop {
            tokio::select! {
                message = self.read() => drop(message?),
                _ = due.tick() => self.stream.write_all(&keepalive).await?,
            }
        }
    }
}

/// The peers that all hear of one route.
pub(crate) fn fan() -> Vec<Identity> {
    (0..N_FAN).map(|number| member(number, DEVICE_AS, HOLD)).collect()
}

fn member(number: u16, asn: u16, hold: u16) -> Identity {
    Identity { address: address(FIRST + number), asn, hold }
}

/// Runs on one thread in a namespace, with a device beside.
fn beside<T: Send>(kind: Kind, setup: &Setup, measure: impl AsyncFnOnce(&Device) -> Result<T> + Send) -> Result<T> {
    place::fresh(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut device = kind.start(setup)?;
        let seen = runtime.block_on(measure(&device));
        device.check()?;
        seen.with_context(|| format!("{}; its log ends: {}", kind.name(), device.log()))
    })
}

/// 200 iBGP peers at once with 5 routes each, and one eBGP peer that hears of all of them.
pub(crate) fn mesh(kind: Kind, table: &mut Table) -> Result<()> {
    let crowd: Vec<Identity> = (0..N_MESH).map(|number| member(number, DEVICE_AS, HOLD)).collect();
    // What it takes without them.
    let alone = beside(kind, &Setup { peers: vec![SINK], ..Setup::default() }, async |device| {
        let _sink = Member::establish(SINK).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        device.memory()
    })?;
    let setup = Setup { peers: [vec![SINK], crowd.clone()].concat(), ..Setup::default() };
    let (up, told, memory) = beside(kind, &setup, async |device| {
        let mut sink = Member::establish(SINK).await?;
        tokio::time::sleep(REST).await;
        let since = Instant::now();
        let members = crowd.iter().zip(0..).map(async |(who, number)| {
            let mut member = Member::establish(*who).await?;
            let up = since.elapsed();
            let first = number * ROUTES_EACH;
            member.stream.write_all(&some(*who, first..first + ROUTES_EACH)).await?;
            Ok::<_, anyhow::Error>((member, up))
        });
        let n_routes = u32::from(N_MESH) * ROUTES_EACH;
        let mut counter = Counter::new(n_routes);
        let arrival = async {
            sink.wait(&mut counter, |counter| counter.count() == n_routes).await?;
            Ok(since.elapsed())
        };
        let (members, told) = tokio::try_join!(try_join_all(members), arrival)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let up = members.iter().map(|(_, up)| *up).max().unwrap_or_default();
        Ok((up, told, device.memory()?))
    })?;
    table.add("200 iBGP peers at once: all up", Unit::Millis, &[Bar::Best(1.0)], kind, millis(up));
    table.add("… and 5 routes of each at a sink", Unit::Millis, &[Bar::Best(1.0)], kind, millis(told));
    let each = mebibytes(memory.saturating_sub(alone)) * 1024.0 / f64::from(N_MESH);
    table.add("… memory for each peer", Unit::Kib, &[Bar::AtMost(25.0)], kind, each);
    Ok(())
}

/// 500 peers that say nothing but that they are there.
pub(crate) fn idle(kind: Kind, table: &mut Table) -> Result<()> {
    let crowd: Vec<Identity> = (0..N_IDLE).map(|number| member(number, DEVICE_AS, IDLE_HOLD)).collect();
    let setup = Setup { peers: crowd.clone(), hold: Some(IDLE_HOLD), bfd: None };
    let busy = beside(kind, &setup, async |device| {
        tokio::time::sleep(REST).await;
        let members = try_join_all(crowd.iter().map(|who| Member::establish(*who))).await?;
        let every = Duration::from_secs(u64::from(IDLE_HOLD) / 3) / u32::from(N_IDLE);
        let kept = try_join_all(members.into_iter().zip(1..).map(|(member, nth)| member.keep(every * nth)));
        let watched = async {
            tokio::time::sleep(REST).await;
            let begun = device.cpu()?;
            tokio::time::sleep(WATCHED).await;
            Ok((device.cpu()? - begun).as_secs_f64() / WATCHED.as_secs_f64())
        };
        tokio::select! {
            kept = kept => { kept?; bail!("every session ended") }
            busy = watched => busy,
        }
    })?;
    table.add("500 idle sessions: processor", Unit::Percent, &[Bar::AtMost(0.5)], kind, busy * 100.0);
    Ok(())
}

/// Waits until all members know [`KNOWN`] routes, then lets one after the other be added; how many milliseconds each took
/// to the last member.
pub(crate) async fn one_by_one(
    members: &mut [Member],
    mut add: impl AsyncFnMut(u32) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut counters: Vec<Counter> = members.iter().map(|_| Counter::new(KNOWN + N_SINGLES)).collect();
    all_see(members, &mut counters, |counter| counter.count() == KNOWN).await?;
    let mut took = Vec::new();
    for index in KNOWN..KNOWN + N_SINGLES {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let since = Instant::now();
        add(index).await?;
        all_see(members, &mut counters, |counter| counter.holds(index)).await?;
        took.push(millis(since.elapsed()));
    }
    Ok(took)
}

async fn all_see(members: &mut [Member], counters: &mut [Counter], done: impl Fn(&Counter) -> bool) -> Result<()> {
    let all = members.iter_mut().zip(counters);
    try_join_all(all.map(|(member, counter)| member.wait(counter, &done))).await.map(drop)
}

/// One route more among 10,000, from a source to the last of 50 peers.
pub(crate) fn fan_out(kind: Kind, table: &mut Table) -> Result<()> {
    let crowd = fan();
    let setup = Setup { peers: [vec![SOURCE], crowd.clone()].concat(), ..Setup::default() };
    let took = beside(kind, &setup, async |_| {
        let mut source = Member::establish(SOURCE).await?;
        let mut members = try_join_all(crowd.iter().map(|who| Member::establish(*who))).await?;
        tokio::time::sleep(REST).await;
        for first in (0..KNOWN).step_by(500) {
            source.stream.write_all(&some(SOURCE, first..first + 500)).await?;
        }
        let add = async |index| Ok(source.stream.write_all(&some(SOURCE, index..index + 1)).await?);
        one_by_one(&mut members, add).await
    })?;
    let what = "one more route at 10,000, to the last of 50 peers";
    table.add(&format!("{what}: p50"), Unit::Millis, &[], kind, percentile(&took, 50));
    table.add(&format!("{what}: p99"), Unit::Millis, &[Bar::AtMost(10.0)], kind, percentile(&took, 99));
    Ok(())
}
