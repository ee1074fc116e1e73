//! BFD (RFC 5880) of our speaker while it has other work: how soon it notices a peer that froze, and whether it ever
//! loses one that did not.
//!
//! The peer shares the processors with the speaker and with whatever else the machine does, and may be late itself. So
//! it keeps a diary of its own silence: that it was lost counts against the speaker only where it had sent in time.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::device::{Device, Kind, Setup};
use super::peer::{DEVICE, HOLD, Identity, KEEPALIVE, NOTIFICATION, Session, message};
use super::place;
use super::reflect::millis;
use super::routes::Load;
use super::silence::{Gap, Loss, Silence};
use super::table::{Bar, Table, Unit};

/// What both ends say they want, 300 ms; what we keep to is less by some of the jitter that the RFC wants.
const WANTED: u32 = 300_000;
const EVERY: Duration = Duration::from_millis(270);
/// After how long without a packet we are lost: three of what both want (RFC 5880 6.8.4).
const DETECTION: Duration = Duration::from_millis(900);
/// What a session that is not up says.
const SLOWLY: u32 = 1_000_000;
/// How often the peer freezes.
const FREEZES: u32 = 5;
/// How long it does not, unless `FERROVIA_BENCH_BFD_SECONDS` says otherwise.
const WATCHED: u64 = 30;

const PEER: Identity = Identity { address: std::net::Ipv4Addr::new(10, 200, 0, 2), asn: 65001, hold: HOLD };
const SINK: Identity = Identity { address: std::net::Ipv4Addr::new(10, 200, 0, 3), asn: 65002, hold: HOLD };
const BUSY: Identity = Identity { address: std::net::Ipv4Addr::new(10, 200, 0, 4), asn: 65003, hold: HOLD };
const LOAD: Load = Load { n: 10_000, unique: true };

const DOWN: u8 = 1;
const INIT: u8 = 2;
const UP: u8 = 3;

/// Our end of the BFD session.
struct Partner {
    stopped: AtomicBool,
    frozen: AtomicBool,
    up: AtomicBool,
    /// When our packets left.
    silence: Mutex<Silence>,
    /// When the device said that it lost us, since we froze.
    noticed: Mutex<Option<Instant>>,
}

/// Our speaker only: the others' BFD is another daemon, or none.
pub(crate) fn measure(kind: Kind, table: &mut Table) -> Result<()> {
    if kind != Kind::Ferrovia {
        return Ok(());
    }
    let seconds = std::env::var("FERROVIA_BENCH_BFD_SECONDS").ok().and_then(|text| text.parse().ok());
    let watched = Duration::from_secs(seconds.unwrap_or(WATCHED));
    let Seen { took, losses, n_ends, longest } = place::fresh(|| {
        let setup = Setup { peers: vec![PEER, SINK, BUSY], bfd: Some(PEER.address), ..Setup::default() };
        let device = kind.start(&setup)?;
        let seen = run(&device, watched);
        seen.with_context(|| format!("its log ends: {}", device.log()))
    })?;
    let bar = [Bar::Between(900.0, 1000.0)];
    for (noticed, ended) in took {
        table.add("BFD 3 × 300 ms under load: last packet to our Down", Unit::Millis, &bar, kind, noticed);
        // The peer reads on, and has the routes of the load before it in the queue.
        table.add("… to the NOTIFICATION, behind what was sent before", Unit::Millis, &[], kind, ended);
    }
    let n_silent = losses.iter().filter(|loss| loss.was_silent).count();
    // A session that ended without a word of BFD is as bad as a false Down.
    let n_false = losses.len().max(n_ends) - n_silent;
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let seconds = watched.as_secs();
    table.add(&format!("… false downs in {seconds} s"), Unit::Count, &[Bar::AtMost(0.0)], kind, count(n_false));
    table.add("… downs after 900 ms without a packet of the peer's", Unit::Count, &[], kind, count(n_silent));
    table.add("… longest time between two of the peer's packets", Unit::Millis, &[], kind, millis(longest.lasted));
    table.remark(format!(
        "BFD: the peer was silent for longest, {:.0} ms, until {:.1} s of {seconds} s",
        millis(longest.lasted),
        longest.until.as_secs_f64(),
    ));
    for loss in losses {
        table.remark(format!("BFD: {loss}"));
    }
    Ok(())
}

/// What a run showed.
struct Seen {
    /// Of each freeze: until BFD said so, and until the session ended, in milliseconds.
    took: Vec<(f64, f64)>,
    losses: Vec<Loss>,
    /// How often the BGP session ended while watched.
    n_ends: usize,
    longest: Gap,
}

fn run(device: &Device, watched: Duration) -> Result<Seen> {
    let partner = Partner {
        stopped: AtomicBool::new(false),
        frozen: AtomicBool::new(false),
        up: AtomicBool::new(false),
        silence: Mutex::new(Silence::new(DETECTION)),
        noticed: Mutex::new(None),
    };
    let socket = UdpSocket::bind((PEER.address, 3784)).context("bind BFD's port")?;
    let sender = UdpSocket::bind((PEER.address, 49_200)).context("bind a port to send BFD from")?;
    sender.set_ttl(255)?;
    sender.connect((DEVICE, 3784))?;
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| partner.talk(&socket, &sender));
        let working = scope.spawn(|| partner.work());
        let seen = partner.measure(device, watched);
        partner.stopped.store(true, Ordering::Relaxed);
        let ends = [talking.join(), working.join()];
        let seen = seen?;
        for end in ends {
            end.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(seen)
    })
}

impl Partner {
    fn measure(&self, device: &Device, watched: Duration) -> Result<Seen> {
        let mut session = Session::establish(PEER)?;
        self.wait_up()?;
        let mut n_ends = 0;
        self.silence().begin();
        let (begun, busy) = (Instant::now(), device.cpu()?);
        while begun.elapsed() < watched {
            session.write(&message(KEEPALIVE, &[]))?;
            if session.calm(Duration::from_secs(1)).is_err() {
                n_ends += 1;
                session = Session::establish(PEER)?;
            }
        }
        let busy = (device.cpu()? - busy).as_secs_f64() / watched.as_secs_f64();
        ensure!(busy > 0.1, "the device had nothing to do meanwhile: {busy:.2} of a core");
        let (longest, losses) = self.silence().end();
        let mut took = Vec::new();
        for _ in 0..FREEZES {
            self.wait_up()?;
            session.calm(Duration::from_millis(700))?;
            self.frozen.store(true, Ordering::Relaxed);
            loop {
                match session.read() {
                    Ok((NOTIFICATION, _)) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            // No packet has left since: the lock is taken after `frozen` was seen.
            let since = self.silence().last();
            let ended = millis(since.elapsed());
            std::thread::sleep(Duration::from_millis(50));
            let noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let noticed = noticed.context("the session ended without a word of BFD")?;
            took.push((millis(noticed - since), ended));
            self.up.store(false, Ordering::Relaxed);
            self.frozen.store(false, Ordering::Relaxed);
            session = Session::establish(PEER)?;
        }
        Ok(Seen { took, losses, n_ends, longest })
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_up(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.up.load(Ordering::Relaxed) {
            ensure!(begun.elapsed() < Duration::from_secs(20), "the BFD session does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The protocol, as far as an honest peer needs it (RFC 5880 6.8.6).
    fn talk(&self, socket: &UdpSocket, sender: &UdpSocket) -> Result<()> {
        let (mut ours, mut theirs) = (DOWN, 0_u32);
        let mut due = Instant::now();
        let mut buffer = [0; 64];
        while !self.stopped.load(Ordering::Relaxed) {
            let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            socket.set_read_timeout(Some(wait))?;
            let received = socket.recv(&mut buffer);
            let mut answer = 0;
            if self.frozen.load(Ordering::Relaxed) {
                if received.is_ok() && buffer[1] >> 6 == DOWN {
                    let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
                    noticed.get_or_insert_with(Instant::now);
                }
                (ours, due) = (DOWN, Instant::now() + Duration::from_millis(5));
                continue;
            }
            if received.is_ok() {
                let [_, bits, _, _, discriminator @ ..] = buffer;
                theirs = discriminator.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                ours = match (ours, bits >> 6) {
                    (DOWN, DOWN) => INIT,
                    (DOWN, INIT) | (INIT, INIT | UP) => UP,
                    (UP, DOWN | 0) => {
                        self.silence().lost(Instant::now());
                        DOWN
                    }
                    (same, _) => same,
                };
                self.up.store(ours == UP && bits >> 6 == UP, Ordering::Relaxed);
                // A poll wants its final.
                answer = if bits & 0x20 == 0 { 0 } else { 0x10 };
            }
            if due <= Instant::now() || answer != 0 {
                let mut packet = vec![0x20, ours << 6 | answer, 3, 24, 0, 0, 0, 7];
                let interval = if ours == UP { WANTED } else { SLOWLY };
                for field in [theirs, interval, WANTED, 0] {
                    packet.extend_from_slice(&field.to_be_bytes());
                }
                let mut silence = self.silence();
                let before = Instant::now();
                // A device that is not ready yet refuses.
                if sender.send(&packet).is_ok() {
                    silence.ended(before, Instant::now());
                }
                due = Instant::now() + EVERY;
            }
        }
        Ok(())
    }

    /// Routes come and go through the device as fast as it takes them.
    fn work(&self) -> Result<()> {
        let sink = Session::establish(SINK)?;
        sink.drain()?;
        let mut busy = Session::establish(BUSY)?;
        busy.drain()?;
        let (announcements, withdrawals) = (LOAD.announce(BUSY), LOAD.withdraw());
        while !self.stopped.load(Ordering::Relaxed) {
            if busy.write(&announcements).and_then(|()| busy.write(&withdrawals)).is_err() {
                bail!("the device ended the session that gives it work");
            }
        }
        Ok(())
    }
}
