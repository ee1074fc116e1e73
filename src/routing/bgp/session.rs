//! One peer's task: sockets and deadlines around the state machine of [`super::fsm`].
//!
//! Reads in large pieces and hands one batch of updates for each read to the speaker over a bounded channel, so that a
//! peer that sends faster than the speaker decides is slowed by its own TCP window and by nothing else. Writes what
//! the speaker has packed and asks for more only when it is written, so that a slow peer holds a few chunks and no
//! more. Generic over its transport: tests use pipes.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fsm::{Action, DownReason, Event, Fsm, FsmConfig, Incoming, Out, Slot};
use super::negotiate::negotiate;
use super::types::{Negotiated, Notification, OpenSettings, PeerId};
use super::wire::{self, Message, Refresh, Update};
use crate::net::Family;

/// How much is read at once.
const READ_SIZE: usize = 64 * 1024;

/// How long a closing connection may take to send its last words.
const FAREWELL: Duration = Duration::from_secs(1);

/// Opens connections to one peer.
pub trait Transport {
    /// The receiving half.
    type Reader: AsyncRead + Unpin;
    /// The sending half.
    type Writer: AsyncWrite + Unpin;

    /// Connects to the peer, with every socket option the peer needs set before the first byte.
    fn connect(&self) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>>;
}

/// What the speaker tells a session.
#[derive(Debug)]
pub enum Command<R, W> {
    /// Begin, or begin again after [`Command::Stop`].
    Start,
    /// End the session, telling the peer why.
    Stop(Notification),
    /// The peer connected to our port.
    Accepted(R, W),
    /// BFD says the way to the peer is gone.
    BfdDown {
        /// As in [`Event::BfdDown`].
        independent: bool,
    },
    /// Ask the peer for its routes again.
    Refresh(Family),
}

/// Encoded messages for one session; those of an earlier session are dropped.
#[derive(Debug)]
pub struct Chunk {
    /// The session they were packed for, as [`What::Up`] numbered it.
    pub session: u64,
    /// Whole messages.
    pub bytes: Vec<u8>,
}

/// What a session tells the speaker.
#[derive(Debug)]
pub struct Report {
    /// Whose session.
    pub peer: PeerId,
    /// What happened.
    pub what: What,
}

/// What happened on a session.
#[derive(Debug)]
pub enum What {
    /// Established.
    Up {
        /// Its number; a [`Chunk`] names it.
        session: u64,
        /// What was agreed.
        negotiated: Box<Negotiated>,
        /// The peer's OPEN.
        open: Option<Box<wire::Open>>,
    },
    /// No longer established.
    Down {
        /// Why.
        reason: DownReason,
        /// Its routes are kept as stale (RFC 4724).
        keep_routes: bool,
    },
    /// Routes, in the order they came.
    Updates(Vec<Update>),
    /// A ROUTE-REFRESH.
    Refresh(Family, Refresh),
    /// A chunk is written: there is room for the next.
    Written,
}

/// One connection's bytes.
struct Connection<R, W> {
    reader: R,
    writer: W,
    received: Vec<u8>,
    outgoing: Vec<u8>,
    written: usize,
    /// Some of the bytes going out are a chunk of the speaker's.
    has_chunk: bool,
    /// The peer's OPEN, until the session is up.
    open: Option<wire::Open>,
}

impl<R, W> Connection<R, W> {
    fn new((reader, writer): (R, W)) -> Connection<R, W> {
        Connection {
            reader,
            writer,
            received: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            has_chunk: false,
            open: None,
        }
    }
}

/// What woke the task.
enum Wake<R, W> {
    Command(Command<R, W>),
    Connected(io::Result<(R, W)>),
    Read(Slot, io::Result<usize>),
    Wrote(Slot, io::Result<usize>),
    Chunk(Chunk),
    Deadline,
    Gone,
}

/// The speaker has dropped its end: nobody wants this peer any more.
struct Gone;

/// A session's ends of its channels.
#[derive(Debug)]
pub struct Channels<R, W> {
    /// From the speaker.
    pub commands: mpsc::Receiver<Command<R, W>>,
    /// From the speaker's output.
    pub chunks: mpsc::Receiver<Chunk>,
    /// To the speaker.
    pub reports: mpsc::Sender<Report>,
}

/// Runs the sessions of one peer until the speaker drops its end of the channels. Deadlines count from `started`.
pub async fn run<T: Transport>(
    peer: PeerId,
    config: FsmConfig,
    transport: T,
    channels: Channels<T::Reader, T::Writer>,
    started: Instant,
) {
    let mut session = Session {
        peer,
        open: config.open.clone(),
        fsm: Fsm::new(config),
        reports: channels.reports,
        active: None,
        passive: None,
        waiting: None,
        established: None,
        number: 0,
        wants_connection: false,
        started,
        updates: Vec::new(),
    };
    let Err(Gone) = session.run(&transport, channels.commands, channels.chunks).await;
}

struct Session<R, W> {
    peer: PeerId,
    open: OpenSettings,
    fsm: Fsm,
    reports: mpsc::Sender<Report>,
    active: Option<Connection<R, W>>,
    passive: Option<Connection<R, W>>,
    /// A connection the peer opened, until the state machine takes or refuses it.
    waiting: Option<(R, W)>,
    established: Option<(Slot, Negotiated)>,
    /// Counts sessions.
    number: u64,
    wants_connection: bool,
    started: Instant,
    /// Read but not yet reported.
    updates: Vec<Update>,
}

/// A connection attempt under way.
type Attempt<'a, R, W> = Option<Pin<Box<dyn Future<Output = io::Result<(R, W)>> + 'a>>>;

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    async fn run<T: Transport<Reader = R, Writer = W>>(
        &mut self,
        transport: &T,
        mut commands: mpsc::Receiver<Command<R, W>>,
        mut chunks: mpsc::Receiver<Chunk>,
    ) -> Result<Infallible, Gone> {
        let mut attempt: Attempt<'_, R, W> = None;
        loop {
            if !self.wants_connection {
                attempt = None;
            } else if attempt.is_none() {
                attempt = Some(Box::pin(transport.connect()));
            }
            match self.next(&mut attempt, &mut commands, &mut chunks).await {
                Wake::Gone => return Err(Gone),
                Wake::Command(command) => self.command(command).await?,
                Wake::Connected(result) => {
                    attempt = None;
                    self.wants_connection = false;
                    self.connected(result).await?;
                }
                Wake::Read(slot, Ok(1..)) => self.received(slot).await?,
                Wake::Read(slot, _) | Wake::Wrote(slot, Err(_) | Ok(0)) => {
                    *self.connection(slot) = None;
                    self.step(Event::Closed(slot)).await?;
                }
                Wake::Wrote(slot, Ok(n)) => self.wrote(slot, n).await?,
                Wake::Chunk(chunk) => self.put(chunk).await?,
                Wake::Deadline => self.step(Event::Tick).await?,
            }
        }
    }

    /// Waits for whatever is next.
    async fn next(
        &mut self,
        attempt: &mut Attempt<'_, R, W>,
        commands: &mut mpsc::Receiver<Command<R, W>>,
        chunks: &mut mpsc::Receiver<Chunk>,
    ) -> Wake<R, W> {
        let deadline = self.fsm.deadline().map(|after| self.started + after);
        // A chunk for a session that has ended is taken too, and dropped.
        let takes_chunks = match &self.established {
            Some((slot, _)) => self.connection(*slot).as_ref().is_none_or(|connection| connection.outgoing.is_empty()),
            None => true,
        };
        let (active_in, active_out) = halves(&mut self.active);
        let (passive_in, passive_out) = halves(&mut self.passive);
        tokio::select! {
            command = commands.recv() => command.map_or(Wake::Gone, Wake::Command),
            result = when(attempt.as_mut()) => Wake::Connected(result),
            result = read(active_in) => Wake::Read(Slot::Active, result),
            result = read(passive_in) => Wake::Read(Slot::Passive, result),
            result = write(active_out) => Wake::Wrote(Slot::Active, result),
            result = write(passive_out) => Wake::Wrote(Slot::Passive, result),
            chunk = chunks.recv(), if takes_chunks => chunk.map_or(Wake::Gone, Wake::Chunk),
            () = until(deadline) => Wake::Deadline,
        }
    }

    async fn command(&mut self, command: Command<R, W>) -> Result<(), Gone> {
        match command {
            Command::Start => self.step(Event::Start).await,
            Command::Stop(notification) => self.step(Event::Stop { notification: Some(notification) }).await,
            Command::Accepted(reader, writer) => {
                self.waiting = Some((reader, writer));
                self.step(Event::Accepted).await
            }
            Command::BfdDown { independent } => self.step(Event::BfdDown { independent }).await,
            Command::Refresh(family) => {
                if let Some((slot, session)) = self.established.clone()
                    && session.route_refresh
                    && let Some(connection) = self.connection(slot)
                {
                    wire::encode_refresh(family, Refresh::Ask, &mut connection.outgoing);
                }
                Ok(())
            }
        }
    }

    async fn connected(&mut self, result: io::Result<(R, W)>) -> Result<(), Gone> {
        match result {
            Ok(halves) => {
                self.active = Some(Connection::new(halves));
                self.step(Event::Connected).await
            }
            Err(error) => {
                tracing::debug!(reason = %error, "the peer cannot be reached");
                self.step(Event::ConnectFailed).await
            }
        }
    }

    /// Bytes have come: takes every whole message of them, and reports the routes as one batch.
    async fn received(&mut self, slot: Slot) -> Result<(), Gone> {
        let Some(connection) = self.connection(slot) else { return Ok(()) };
        let bytes = std::mem::take(&mut connection.received);
        let max = if self.open.extended_messages { wire::MAX_EXTENDED } else { wire::MAX };
        let mut rest = bytes.as_slice();
        loop {
            let length = match wire::frame(rest, max) {
                Ok(None) => break,
                Ok(Some(length)) => length,
                Err(notification) => {
                    self.step(Event::BadBytes(slot, notification)).await?;
                    break;
                }
            };
            let (message, tail) = rest.split_at(length.min(rest.len()));
            rest = tail;
            self.message(slot, message).await?;
            if self.connection(slot).is_none() {
                break;
            }
        }
        let rest = rest.to_vec();
        if let Some(connection) = self.connection(slot) {
            connection.received = rest;
        }
        self.report_updates().await
    }

    async fn message(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), Gone> {
        let session = self.established.as_ref().filter(|(up, _)| *up == slot).map(|(_, session)| session);
        let incoming = match wire::decode(bytes, session) {
            Err(notification) => return self.step(Event::BadBytes(slot, notification)).await,
            Ok(Message::RefreshOther) => return Ok(()),
            Ok(Message::Open(open)) => {
                let negotiated = negotiate(&self.open, &open);
                if let Some(connection) = self.connection(slot) {
                    connection.open = Some(open);
                }
                Incoming::Open(negotiated)
            }
            Ok(Message::Keepalive) => Incoming::Keepalive,
            Ok(Message::Notification(notification)) => Incoming::Notification(notification),
            Ok(Message::Update(update)) => {
                self.updates.push(update);
                Incoming::Update
            }
            Ok(Message::Refresh { family, kind }) => {
                if self.established.as_ref().is_some_and(|(up, _)| *up == slot) {
                    self.report_updates().await?;
                    self.report(What::Refresh(family, kind)).await?;
                }
                Incoming::Refresh
            }
        };
        self.step(Event::Received(slot, incoming)).await
    }

    /// Feeds the state machine and does what it says.
    async fn step(&mut self, event: Event) -> Result<(), Gone> {
        let now = self.started.elapsed();
        for action in self.fsm.step(event, now, jitter()) {
            match action {
                Action::Connect => self.wants_connection = true,
                Action::Close(slot) => self.close(slot).await,
                Action::Accept => self.passive = self.waiting.take().map(Connection::new),
                Action::RefuseAccepted => self.waiting = None,
                Action::Send(slot, out) => self.send(slot, &out),
                Action::Up { slot, session } => self.up(slot, session).await?,
                Action::Down { reason, keep_routes } => {
                    self.established = None;
                    self.report_updates().await?;
                    self.report(What::Down { reason, keep_routes }).await?;
                }
            }
        }
        Ok(())
    }

    async fn up(&mut self, slot: Slot, session: Negotiated) -> Result<(), Gone> {
        self.number = self.number.wrapping_add(1);
        let open = self.connection(slot).as_mut().and_then(|connection| connection.open.take());
        self.established = Some((slot, session.clone()));
        let up = What::Up { session: self.number, negotiated: Box::new(session), open: open.map(Box::new) };
        self.report(up).await
    }

    fn send(&mut self, slot: Slot, out: &Out) {
        let open = self.open.clone();
        let Some(connection) = self.connection(slot) else { return };
        match out {
            Out::Open => wire::encode_open(&open, &mut connection.outgoing),
            Out::Keepalive => wire::encode_keepalive(&mut connection.outgoing),
            Out::Notification(notification) => wire::encode_notification(notification, &mut connection.outgoing),
        }
    }

    /// Closes a connection after its last words, which a peer that reads takes at once.
    async fn close(&mut self, slot: Slot) {
        if slot == Slot::Active {
            self.wants_connection = false;
        }
        let Some(mut connection) = self.connection(slot).take() else { return };
        let rest = connection.outgoing.get(connection.written..).unwrap_or_default();
        let farewell = async {
            connection.writer.write_all(rest).await?;
            connection.writer.shutdown().await
        };
        // Whatever comes of it, the connection ends here.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    async fn wrote(&mut self, slot: Slot, n: usize) -> Result<(), Gone> {
        self.fsm.sent(slot, self.started.elapsed(), jitter());
        let Some(connection) = self.connection(slot) else { return Ok(()) };
        connection.written = connection.written.saturating_add(n);
        if connection.written < connection.outgoing.len() {
            return Ok(());
        }
        connection.outgoing.clear();
        connection.written = 0;
        if std::mem::take(&mut connection.has_chunk) { self.report(What::Written).await } else { Ok(()) }
    }

    async fn put(&mut self, chunk: Chunk) -> Result<(), Gone> {
        let number = self.number;
        if let Some((slot, _)) = self.established
            && let Some(connection) = self.connection(slot)
            && chunk.session == number
        {
            connection.outgoing.extend(chunk.bytes);
            connection.has_chunk = true;
        }
        Ok(())
    }

    async fn report_updates(&mut self) -> Result<(), Gone> {
        if self.updates.is_empty() {
            return Ok(());
        }
        let updates = std::mem::take(&mut self.updates);
        self.report(What::Updates(updates)).await
    }

    async fn report(&self, what: What) -> Result<(), Gone> {
        self.reports.send(Report { peer: self.peer, what }).await.map_err(|_| Gone)
    }

    fn connection(&mut self, slot: Slot) -> &mut Option<Connection<R, W>> {
        match slot {
            Slot::Active => &mut self.active,
            Slot::Passive => &mut self.passive,
        }
    }
}

/// What to read into, and what to write from, of one connection.
type Halves<'a, R, W> = (Option<(&'a mut R, &'a mut Vec<u8>)>, Option<(&'a mut W, &'a [u8])>);

fn halves<R, W>(connection: &mut Option<Connection<R, W>>) -> Halves<'_, R, W> {
    let Some(connection) = connection else { return (None, None) };
    let outgoing = connection.outgoing.get(connection.written..).unwrap_or_default();
    let writing = Some((&mut connection.writer, outgoing)).filter(|(_, bytes)| !bytes.is_empty());
    (Some((&mut connection.reader, &mut connection.received)), writing)
}

/// Appends what comes next.
async fn read<R: AsyncRead + Unpin>(half: Option<(&mut R, &mut Vec<u8>)>) -> io::Result<usize> {
    match half {
        Some((reader, received)) => {
            received.reserve(READ_SIZE);
            reader.read_buf(received).await
        }
        None => pending().await,
    }
}

async fn write<W: AsyncWrite + Unpin>(half: Option<(&mut W, &[u8])>) -> io::Result<usize> {
    match half {
        Some((writer, bytes)) => writer.write(bytes).await,
        None => pending().await,
    }
}

async fn when<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Random in 0.75 to 1 (RFC 4271 section 10). Nobody needs it to be unpredictable.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish() % 1000;
    let thousandths = u32::try_from(random).unwrap_or_default();
    0.25_f64.mul_add(f64::from(thousandths) / 1000.0, 0.75)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

    use super::*;
    use crate::net::{Asn, Family};
    use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Nlri, Origin};

    type Reader = ReadHalf<DuplexStream>;
    type Writer = WriteHalf<DuplexStream>;

    /// Connecting makes a pipe; the other end goes to whoever accepts.
    struct Pipe {
        accepts: Option<mpsc::UnboundedSender<(Reader, Writer)>>,
    }

    impl Transport for Pipe {
        type Reader = Reader;
        type Writer = Writer;

        async fn connect(&self) -> io::Result<(Reader, Writer)> {
            let (here, there) = duplex(4096);
            match &self.accepts {
                Some(accepts) if accepts.send(split(there)).is_ok() => Ok(split(here)),
                _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
            }
        }
    }

    struct Speaker {
        commands: mpsc::Sender<Command<Reader, Writer>>,
        chunks: mpsc::Sender<Chunk>,
        reports: mpsc::Receiver<Report>,
    }

    impl Speaker {
        async fn up(&mut self) -> (u64, Negotiated) {
            match self.report().await {
                What::Up { session, negotiated, .. } => (session, *negotiated),
                other => panic!("expected an established session, got {other:?}"),
            }
        }

        async fn report(&mut self) -> What {
            tokio::time::timeout(Duration::from_secs(600), self.reports.recv())
                .await
                .expect("a report")
                .expect("the session runs")
                .what
        }

        async fn tell(&self, command: Command<Reader, Writer>) {
            assert!(self.commands.send(command).await.is_ok(), "the session runs");
        }
    }

    fn settings(asn: u32, id: u8) -> OpenSettings {
        OpenSettings {
            asn: Asn(asn),
            router_id: Ipv4Addr::new(192, 0, 2, id),
            hold_time: 90,
            peer_asn: None,
            families: Family::ALL.to_vec(),
            add_path_receive: Vec::new(),
            add_path_send: Vec::new(),
            extended_next_hop: false,
            extended_messages: true,
            graceful_restart: None,
            long_lived: 0,
        }
    }

    fn start(config: FsmConfig, transport: Pipe) -> Speaker {
        let (commands, their_commands) = mpsc::channel(8);
        let (chunks, their_chunks) = mpsc::channel(4);
        let (their_reports, reports) = mpsc::channel(8);
        let channels = Channels { commands: their_commands, chunks: their_chunks, reports: their_reports };
        let started = Instant::now();
        tokio::task::spawn_local(run(PeerId(1), config, transport, channels, started));
        Speaker { commands, chunks, reports }
    }

    /// Two speakers; the first connects, the second only accepts.
    async fn pair() -> (Speaker, Speaker) {
        let (accepts, mut accepted) = mpsc::unbounded_channel();
        let here = start(FsmConfig::new(settings(64512, 1)), Pipe { accepts: Some(accepts) });
        let passive = FsmConfig { passive: true, ..FsmConfig::new(settings(64513, 2)) };
        let there = start(passive, Pipe { accepts: None });
        let commands = there.commands.clone();
        tokio::task::spawn_local(async move {
            while let Some((reader, writer)) = accepted.recv().await {
                if commands.send(Command::Accepted(reader, writer)).await.is_err() {
                    return;
                }
            }
        });
        there.tell(Command::Start).await;
        here.tell(Command::Start).await;
        (here, there)
    }

    fn run_local(test: impl Future<Output = ()>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn two_speakers_agree_and_exchange_routes() {
        run_local(async {
            let (mut here, mut there) = pair().await;
            let (number, session) = here.up().await;
            let (_, other) = there.up().await;
            assert_eq!((session.peer_asn, other.peer_asn), (Asn(64513), Asn(64512)));
            let next_hop = NextHop::from(std::net::IpAddr::from([192, 0, 2, 1]));
            let attributes = Attributes::new(Origin::Igp, [Asn(64512)].into_iter().collect::<AsPath>(), next_hop);
            let nlri: Vec<Nlri> =
                (0..200).map(|n| Nlri::new(format!("10.{n}.0.0/24").parse().expect("a prefix"))).collect();
            let mut bytes = Vec::new();
            wire::encode_reach(&attributes, Family::V4, &nlri, &session, &mut bytes).expect("fits");
            here.chunks.send(Chunk { session: number, bytes }).await.expect("the session runs");
            let mut seen = Vec::new();
            while seen.len() < nlri.len() {
                let What::Updates(updates) = there.report().await else { panic!("expected routes") };
                for reach in updates.into_iter().flat_map(|update| update.reach) {
                    assert_eq!(reach.attributes, attributes);
                    seen.extend(reach.nlri);
                }
            }
            assert_eq!(seen, nlri);
            assert!(matches!(here.report().await, What::Written));
        });
    }

    #[test]
    fn a_session_outlives_its_hold_time_on_keepalives_alone() {
        run_local(async {
            let (mut here, mut there) = pair().await;
            here.up().await;
            there.up().await;
            tokio::time::sleep(Duration::from_secs(1000)).await;
            assert!(here.reports.try_recv().is_err());
            assert!(there.reports.try_recv().is_err());
        });
    }

    #[test]
    fn a_stop_tells_the_peer_why_and_the_next_start_comes_up_again() {
        run_local(async {
            let (mut here, mut there) = pair().await;
            here.up().await;
            there.up().await;
            here.tell(Command::Stop(wire::cease(2, "maintenance"))).await;
            assert!(matches!(here.report().await, What::Down { .. }));
            let What::Down { reason: DownReason::Received(notification), keep_routes: false } = there.report().await
            else {
                panic!("expected the Cease")
            };
            assert_eq!(wire::shutdown_text(&notification).as_deref(), Some("maintenance"));
            here.tell(Command::Start).await;
            assert_eq!(here.up().await.0, 2);
            there.up().await;
        });
    }

    #[test]
    fn a_chunk_of_an_earlier_session_is_never_sent() {
        run_local(async {
            let (mut here, mut there) = pair().await;
            here.up().await;
            there.up().await;
            here.chunks.send(Chunk { session: 0, bytes: vec![0; 64] }).await.expect("the session runs");
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert!(there.reports.try_recv().is_err(), "the peer saw bytes of a session that is over");
        });
    }

    #[test]
    fn garbage_from_the_peer_ends_the_session_with_a_header_error() {
        run_local(async {
            let (mut here, mut there) = pair().await;
            let (number, _) = here.up().await;
            there.up().await;
            here.chunks.send(Chunk { session: number, bytes: vec![0; 64] }).await.expect("the session runs");
            let What::Down { reason: DownReason::Sent(notification), .. } = there.report().await else {
                panic!("expected the end of the session")
            };
            assert_eq!((notification.code, notification.subcode), (1, 1));
        });
    }

    #[test]
    fn a_peer_that_is_not_there_is_tried_again() {
        run_local(async {
            let alone = start(FsmConfig::new(settings(64512, 1)), Pipe { accepts: None });
            alone.tell(Command::Start).await;
            tokio::time::sleep(Duration::from_secs(120)).await;
            let (here, there) = duplex(4096);
            let (reader, writer) = split(there);
            alone.tell(Command::Accepted(reader, writer)).await;
            let (mut reader, _writer) = split(here);
            let mut header = [0; wire::HEADER];
            reader.read_exact(&mut header).await.expect("an OPEN");
            assert_eq!(header[18], 1);
        });
    }
}
