//! Sessions on real sockets and in real time, on a thread of their own.
//!
//! All deadlines are in one sorted queue. Before a session is given up, whatever its socket still holds is read, so
//! that a thread that got no CPU for a while does not take its own delay for the neighbour's.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::packet::{Diagnostic, Packet, State};
use super::session::{Change, Output, Remote, Session, Timers};
use super::socket::{Listener, endpoint, sender};

/// How long after a socket could not be opened the next attempt is made: the address may be on its way.
const RETRY: Duration = Duration::from_secs(1);

/// Datagrams read from one socket in a row.
const BURST: usize = 256;

/// The largest datagram of interest; a longer one is cut and still has all fields.
const BUFFER: usize = 128;

/// Names a session, for as long as the driver runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// How far away the neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hops {
    /// On the same link (RFC 5881).
    Single,
    /// Any number of routers away (RFC 5883).
    Multi,
}

/// UDP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For neighbours on the same link.
    pub single_hop: u16,
    /// For others.
    pub multihop: u16,
}

impl Ports {
    fn of(self, hops: Hops) -> u16 {
        match hops {
            Hops::Single => self.single_hop,
            Hops::Multi => self.multihop,
        }
    }
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { single_hop: 3784, multihop: 4784 }
    }
}

/// A neighbour to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Its address.
    pub remote: IpAddr,
    /// Ours; unspecified lets the kernel choose.
    pub local: IpAddr,
    /// Interface index, for link-local IPv6 addresses; else 0.
    pub scope: u32,
    /// On the same link or beyond.
    pub hops: Hops,
    /// Destination port; `None` takes the one that belongs to `hops`.
    pub port: Option<u16>,
    /// Intervals and multiplier.
    pub timers: Timers,
    /// Announce that BFD goes on while the control plane restarts (C). True only where it does.
    pub independent: bool,
}

/// A session came up or went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The neighbour is there.
    Up(SessionId),
    /// It no longer is.
    Down {
        /// The session.
        session: SessionId,
        /// Why.
        diagnostic: Diagnostic,
        /// One side ended BFD on purpose: the path may be as good as before, so the BGP session stays (RFC 5882 3.2).
        administrative: bool,
        /// The neighbour's BFD does not share fate with its control plane (C): its forwarding is gone, and graceful
        /// restart must not keep its routes (RFC 5882 4.3).
        independent: bool,
    },
}

/// A session as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub session: SessionId,
    /// What was asked for.
    pub settings: PeerSettings,
    /// State.
    pub state: State,
    /// Why it last left Up.
    pub diagnostic: Diagnostic,
    /// Our discriminator.
    pub discriminator: u32,
    /// The neighbour as last heard.
    pub remote: Remote,
    /// Time between the packets we send, before jitter.
    pub transmit_interval: Option<Duration>,
    /// Time without packets after which the neighbour is gone.
    pub detection_time: Duration,
    /// Since when it is in this state.
    pub since: Instant,
    /// How many times it came up.
    pub times_up: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// What keeps it from sending.
    pub error: Option<String>,
}

enum Command {
    Add(SessionId, PeerSettings),
    SetTimers(SessionId, Timers),
    AdminDown(SessionId, bool),
    Remove(SessionId),
    /// Ends without a word, as a crash does.
    #[cfg(test)]
    Vanish,
}

type Table = Arc<Mutex<BTreeMap<SessionId, Snapshot>>>;

/// The driver, seen from outside. Dropping it takes all sessions down on purpose and waits for the thread to end.
#[derive(Debug)]
pub struct BfdHandle {
    commands: Option<UnboundedSender<Command>>,
    table: Table,
    next: AtomicU32,
    thread: Option<JoinHandle<()>>,
}

impl BfdHandle {
    /// Starts the thread. It listens on `ports`, and opens no socket before there is a session.
    pub fn start(ports: Ports) -> io::Result<(BfdHandle, UnboundedReceiver<Event>)> {
        let (commands, receiver) = unbounded_channel();
        let (events, event_receiver) = unbounded_channel();
        let table = Table::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let shared = table.clone();
        let thread = std::thread::Builder::new().name("bfd".to_owned()).spawn(move || {
            runtime.block_on(Driver::new(ports, receiver, events, shared).run());
        })?;
        let handle = BfdHandle { commands: Some(commands), table, next: AtomicU32::new(1), thread: Some(thread) };
        Ok((handle, event_receiver))
    }

    /// Watches a neighbour. One session for each pair of addresses and kind of `hops`: a second one would never hear a
    /// neighbour that does not know it yet.
    pub fn add(&self, settings: PeerSettings) -> SessionId {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        self.tell(Command::Add(id, settings));
        id
    }

    /// Changes intervals and multiplier without taking the session down.
    pub fn set_timers(&self, session: SessionId, timers: Timers) {
        self.tell(Command::SetTimers(session, timers));
    }

    /// Holds a session down on purpose, or lets it go again.
    pub fn admin_down(&self, session: SessionId, hold: bool) {
        self.tell(Command::AdminDown(session, hold));
    }

    /// Tells the neighbour that BFD ends here on purpose, and forgets the session. One that was up gives a last,
    /// administrative event.
    pub fn remove(&self, session: SessionId) {
        self.tell(Command::Remove(session));
    }

    /// All sessions as they are now, in order of their names.
    pub fn state(&self) -> Vec<Snapshot> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Fails only after the thread is gone, and then nothing is left to tell.
            let _ = commands.send(command);
        }
    }
}

impl Drop for BfdHandle {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One session with what it needs of the world.
struct Peer {
    settings: PeerSettings,
    session: Session,
    sender: Option<UdpSocket>,
    source_port: u16,
    /// When opening sockets is tried (again), while there is no sender.
    retry: Duration,
    queued: Option<Duration>,
    since: Instant,
    times_up: u64,
    sent: u64,
    received: u64,
    error: Option<String>,
}

impl Peer {
    fn deadline(&self) -> Option<Duration> {
        if self.sender.is_some() { self.session.deadline() } else { Some(self.retry) }
    }

    fn snapshot(&self, session: SessionId) -> Snapshot {
        Snapshot {
            session,
            settings: self.settings,
            state: self.session.state(),
            diagnostic: self.session.diagnostic(),
            discriminator: self.session.discriminator(),
            remote: *self.session.remote(),
            transmit_interval: self.session.transmit_interval(),
            detection_time: self.session.detection_time(),
            since: self.since,
            times_up: self.times_up,
            sent: self.sent,
            received: self.received,
            error: self.error.clone(),
        }
    }

    /// Counts and logs a change of state. The event, where Up is entered or left.
    fn changed(&mut self, session: SessionId, change: Change, independent: bool) -> Option<Event> {
        self.since = Instant::now();
        let Change { from, to, diagnostic, administrative } = change;
        let remote = self.settings.remote;
        match (from, to) {
            (_, State::Up) => {
                self.times_up += 1;
                tracing::info!(%remote, "BFD session is up");
                Some(Event::Up(session))
            }
            (State::Up, _) => {
                tracing::warn!(%remote, %diagnostic, administrative, "BFD session went down");
                Some(Event::Down { session, diagnostic, administrative, independent })
            }
            _ => None,
        }
    }

    fn send(&mut self, packet: &Packet, ports: Ports) {
        let port = self.settings.port.unwrap_or(ports.of(self.settings.hops));
        let to = endpoint(self.settings.remote, port, self.settings.scope);
        let Some(sender) = &self.sender else { return };
        match sender.send_to(&packet.encode(), to) {
            Ok(_) => {
                self.sent += 1;
                self.error = None;
            }
            Err(error) => self.error = Some(format!("cannot send to {to}: {error}")),
        }
    }
}

struct Driver {
    ports: Ports,
    commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
    table: Table,
    start: Instant,
    random: (RandomState, u64),
    peers: BTreeMap<SessionId, Peer>,
    discriminators: BTreeMap<u32, SessionId>,
    queue: BTreeSet<(Duration, SessionId)>,
    listeners: BTreeMap<SocketAddr, Listener>,
}

impl Driver {
    fn new(ports: Ports, commands: UnboundedReceiver<Command>, events: UnboundedSender<Event>, table: Table) -> Driver {
        Driver {
            ports,
            commands,
            events,
            table,
            start: Instant::now(),
            random: (RandomState::new(), 0),
            peers: BTreeMap::new(),
            discriminators: BTreeMap::new(),
            queue: BTreeSet::new(),
            listeners: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        loop {
            self.read();
            self.fire();
            let wake = self.queue.first().map(|(deadline, _)| self.start + *deadline);
            let listeners = &self.listeners;
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Add(id, settings)) => self.add(id, settings),
                    Some(Command::SetTimers(id, timers)) => self.with(id, |session, _, _| {
                        session.set_timers(timers);
                        Output::default()
                    }),
                    Some(Command::AdminDown(id, hold)) => {
                        self.with(id, |session, now, random| session.admin_down(hold, now, random));
                    }
                    Some(Command::Remove(id)) => self.remove(id),
                    #[cfg(test)]
                    Some(Command::Vanish) => return,
                    None => {
                        let ids: Vec<_> = self.peers.keys().copied().collect();
                        ids.into_iter().for_each(|id| self.remove(id));
                        return;
                    }
                },
                () = readable(listeners) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn random(&mut self) -> u32 {
        self.random.1 += 1;
        self.random.0.hash_one(self.random.1) as u32
    }

    fn add(&mut self, id: SessionId, settings: PeerSettings) {
        let discriminator = loop {
            let candidate = self.random();
            if candidate != 0 && !self.discriminators.contains_key(&candidate) {
                break candidate;
            }
        };
        let peer = Peer {
            settings,
            session: Session::new(discriminator, settings.timers, settings.independent),
            sender: None,
            source_port: 0,
            retry: Duration::ZERO,
            queued: None,
            since: Instant::now(),
            times_up: 0,
            sent: 0,
            received: 0,
            error: None,
        };
        self.discriminators.insert(discriminator, id);
        self.peers.insert(id, peer);
        self.settle(id);
    }

    fn remove(&mut self, id: SessionId) {
        self.with(id, |session, now, random| session.admin_down(true, now, random));
        let Some(peer) = self.peers.remove(&id) else { return };
        self.discriminators.remove(&peer.session.discriminator());
        if let Some(deadline) = peer.queued {
            self.queue.remove(&(deadline, id));
        }
        let local = self.listening_address(&peer.settings);
        if !self.peers.values().any(|other| self.listening_address(&other.settings) == local) {
            self.listeners.remove(&local);
        }
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn listening_address(&self, settings: &PeerSettings) -> SocketAddr {
        endpoint(settings.local, self.ports.of(settings.hops), settings.scope)
    }

    /// Reads what has come.
    fn read(&mut self) {
        let mut datagrams = Vec::new();
        for (local, listener) in &self.listeners {
            collect(*local, &mut datagrams, |buffer| listener.receive(buffer));
        }
        datagrams.iter().for_each(|datagram| self.received(datagram));
    }

    /// Reads what is there, though the runtime may not have noticed it yet.
    fn read_directly(&mut self) {
        let mut datagrams = Vec::new();
        for (local, listener) in &self.listeners {
            collect(*local, &mut datagrams, |buffer| listener.receive_directly(buffer));
        }
        datagrams.iter().for_each(|datagram| self.received(datagram));
    }

    /// Finds the session of a datagram (RFC 5880 6.3, RFC 5881 3, RFC 5883 4) and gives it the packet.
    fn received(&mut self, datagram: &Datagram) {
        let from = datagram.from.ip().to_canonical();
        let packet = match Packet::decode(datagram.bytes()) {
            Ok(packet) => packet,
            Err(refused) => {
                tracing::debug!(%from, %refused, "discarded a BFD packet");
                return;
            }
        };
        let belongs =
            |peer: &Peer| peer.settings.remote == from && self.listening_address(&peer.settings) == datagram.local;
        let found = if packet.your_discriminator == 0 {
            self.peers.iter().find(|(_, peer)| belongs(peer)).map(|(id, _)| *id)
        } else {
            let named = self.discriminators.get(&packet.your_discriminator).copied();
            named.filter(|id| self.peers.get(id).is_some_and(belongs))
        };
        let Some(id) = found else {
            tracing::debug!(%from, your_discriminator = packet.your_discriminator, "no BFD session for this packet");
            return;
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.received += 1;
        }
        self.with(id, |session, now, random| session.receive(&packet, now, random));
    }

    /// Does what is due.
    fn fire(&mut self) {
        if self.queue.first().is_none_or(|(deadline, _)| *deadline > self.now()) {
            return;
        }
        self.read_directly();
        let now = self.now();
        let due: Vec<_> = self.queue.range(..=(now, SessionId(u32::MAX))).map(|(_, id)| *id).collect();
        for id in due {
            self.open(id);
            if self.peers.get(&id).is_none_or(|peer| peer.sender.is_none()) {
                self.settle(id);
                continue;
            }
            self.with(id, |session, now, random| session.tick(now, random));
        }
    }

    /// Opens the sockets of a session that has none.
    fn open(&mut self, id: SessionId) {
        let (now, random) = (self.now(), self.random());
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.sender.is_none()) else { return };
        let settings = peer.settings;
        let listen = self.listening_address(&settings);
        let opened = match self.listeners.entry(listen) {
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(place) => Listener::open(listen, settings.hops == Hops::Single).map(|listener| {
                place.insert(listener);
            }),
        };
        let taken = |port| self.peers.values().any(|peer| peer.source_port == port);
        let opened = opened.and_then(|()| sender(endpoint(settings.local, 0, settings.scope), random, taken));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match opened {
            Ok(socket) => {
                peer.source_port = socket.local_addr().map_or(0, |address| address.port());
                (peer.sender, peer.error) = (Some(socket), None);
            }
            Err(error) => {
                peer.retry = now + RETRY;
                peer.error = Some(format!("cannot open a socket on {listen}: {error}"));
            }
        }
    }

    /// Lets a session do something, and does what it asks for.
    fn with(&mut self, id: SessionId, act: impl FnOnce(&mut Session, Duration, u32) -> Output) {
        let (now, random, ports) = (self.now(), self.random(), self.ports);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // What the last packet said: a session that is given up forgets it.
        let independent = peer.session.remote().independent;
        let output = act(&mut peer.session, now, random);
        if let Some(packet) = output.send {
            peer.send(&packet, ports);
        }
        let event = output.change.and_then(|change| peer.changed(id, change, independent));
        // Before the event, so that whoever hears of it sees it too.
        self.settle(id);
        if let Some(event) = event {
            // Whoever no longer listens no longer cares.
            let _ = self.events.send(event);
        }
    }

    /// Puts a session where it belongs in the queue, and shows it as it is.
    fn settle(&mut self, id: SessionId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let deadline = peer.deadline();
        if let Some(queued) = std::mem::replace(&mut peer.queued, deadline) {
            self.queue.remove(&(queued, id));
        }
        self.queue.extend(deadline.map(|deadline| (deadline, id)));
        self.table.lock().unwrap_or_else(PoisonError::into_inner).insert(id, peer.snapshot(id));
    }
}

struct Datagram {
    local: SocketAddr,
    from: SocketAddr,
    buffer: [u8; BUFFER],
    length: usize,
}

impl Datagram {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

fn collect(
    local: SocketAddr,
    datagrams: &mut Vec<Datagram>,
    mut receive: impl FnMut(&mut [u8]) -> Option<(usize, SocketAddr)>,
) {
    for _ in 0..BURST {
        let mut buffer = [0; BUFFER];
        let Some((length, from)) = receive(&mut buffer) else { return };
        datagrams.push(Datagram { local, from, buffer, length });
    }
}

async fn readable(listeners: &BTreeMap<SocketAddr, Listener>) {
    poll_fn(|context| {
        let ready = listeners.values().any(|listener| listener.poll_ready(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
