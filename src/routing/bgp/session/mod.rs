//! One peer's task: sockets and deadlines around the state machine of [`super::fsm`].
//!
//! Reads in large pieces and hands one batch of updates for each read to the speaker over a bounded channel, so that a
//! peer that sends faster than the speaker decides is slowed by its own TCP window and by nothing else. Writes what
//! the speaker has packed and asks for more only when it is written, so that a slow peer holds a few chunks and no
//! more. Generic over its transport: tests use pipes.

mod connection;
mod sockets;
mod status;

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::net::Family;
use crate::routing::bgp::fsm::{Action, DownReason, Event, Fsm, FsmConfig, Incoming, Out, Slot, State};
use crate::routing::bgp::negotiate::negotiate;
use crate::routing::bgp::types::{Negotiated, Notification, OpenSettings, PeerId};
use crate::routing::bgp::wire::{self, Message, Refresh, Update};

use self::connection::Connection;
use self::sockets::{halves, read, until, when, write};
pub use self::status::{MessageCounts, Messages, Status};

/// Opens connections to one peer.
pub trait Transport {
    /// The receiving half.
    type Reader: AsyncRead + Unpin;
    /// The sending half.
    type Writer: AsyncWrite + Unpin;

    /// Connects to the peer, with every socket option the peer needs set before the first byte.
    fn connect(&self) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>>;

    /// Our address on a connection, where it has one.
    fn local_address(_: &Self::Reader) -> Option<IpAddr> {
        None
    }
}

/// What the speaker tells a session.
pub enum Command<T: Transport> {
    /// Begin, or begin again after [`Command::Stop`].
    Start,
    /// End the session, telling the peer why; without a notification the connection just closes, and a peer that knows
    /// graceful restart keeps our routes.
    Stop(Option<Notification>),
    /// From the next connection on these count.
    Configure(Box<FsmConfig>, T),
    /// The peer connected to our port.
    Accepted(T::Reader, T::Writer),
    /// BFD says the way to the peer is gone.
    BfdDown,
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
        /// What our OPEN said.
        ours: Arc<OpenSettings>,
        /// Our address on the connection.
        local: Option<IpAddr>,
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
    /// A step on the way to a session, or the end of trying. Connecting and waiting to connect are one, Active.
    State(State),
    /// A chunk is written, or dropped because its session is over: there is room for the next.
    Written,
    /// The task is over; nothing more comes of it.
    Ended,
}

/// What woke the task.
enum Wake<T: Transport> {
    Command(Command<T>),
    Connected(io::Result<(T::Reader, T::Writer)>),
    Read(Slot, io::Result<usize>),
    Wrote(Slot, io::Result<usize>),
    Chunk(Chunk),
    Deadline,
    Gone,
}

/// The speaker has dropped its end: nobody wants this peer any more.
struct Gone;

/// A session's ends of its channels.
pub struct Channels<T: Transport> {
    /// From the speaker.
    pub commands: mpsc::UnboundedReceiver<Command<T>>,
    /// From the speaker's output.
    pub chunks: mpsc::Receiver<Chunk>,
    /// To the speaker.
    pub reports: mpsc::Sender<Report>,
    /// For everybody to look at.
    pub status: Arc<Status>,
}

/// Runs the sessions of one peer until the speaker drops its end of the channels; what it was told before that is
/// still done. Deadlines count from `started`.
pub async fn run<T: Transport + 'static>(
    peer: PeerId,
    config: FsmConfig,
    transport: T,
    channels: Channels<T>,
    started: Instant,
) {
    let Channels { commands, chunks, reports, status } = channels;
    let mut session = Session::<T> {
        peer,
        open: Arc::new(config.open.clone()),
        fsm: Fsm::new(config),
        transport: Arc::new(transport),
        reports,
        status,
        active: None,
        passive: None,
        waiting: None,
        established: None,
        number: 0,
        wants_connection: false,
        started,
        updates: Vec::new(),
        told: State::Idle,
    };
    let Err(Gone) = session.run(commands, chunks).await;
    // Nobody listens any more where this fails.
    let _ = session.report(What::Ended).await;
}

struct Session<T: Transport> {
    peer: PeerId,
    open: Arc<OpenSettings>,
    fsm: Fsm,
    transport: Arc<T>,
    reports: mpsc::Sender<Report>,
    status: Arc<Status>,
    active: Option<Connection<T::Reader, T::Writer>>,
    passive: Option<Connection<T::Reader, T::Writer>>,
    /// A connection the peer opened, until the state machine takes or refuses it.
    waiting: Option<(T::Reader, T::Writer)>,
    established: Option<(Slot, Arc<Negotiated>)>,
    /// Counts sessions.
    number: u64,
    wants_connection: bool,
    started: Instant,
    /// Read but not yet reported.
    updates: Vec<Update>,
    /// The state that was reported last.
    told: State,
}

/// A connection attempt under way.
type Attempt<T> =
    Option<Pin<Box<dyn Future<Output = io::Result<(<T as Transport>::Reader, <T as Transport>::Writer)>>>>>;

impl<T: Transport> Session<T> {
    async fn run(
        &mut self,
        mut commands: mpsc::UnboundedReceiver<Command<T>>,
        mut chunks: mpsc::Receiver<Chunk>,
    ) -> Result<Infallible, Gone>
    where
        T: 'static,
    {
        let mut attempt: Attempt<T> = None;
        loop {
            if !self.wants_connection {
                attempt = None;
            } else if attempt.is_none() {
                let transport = Arc::clone(&self.transport);
                attempt = Some(Box::pin(async move { transport.connect().await }));
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
                Wake::Read(slot, _) | Wake::Wrote(slot, Err(_) | Ok(0)) => self.lost(slot).await?,
                Wake::Wrote(slot, Ok(n)) => self.wrote(slot, n).await?,
                Wake::Chunk(chunk) => self.put(chunk).await?,
                Wake::Deadline => {
                    self.hear_out().await?;
                    self.step(Event::Tick).await?;
                }
            }
        }
    }

    /// Takes what has come already. After a stall of the process a deadline may be due together with bytes that came long
    /// before it: a peer that has spoken is not silent.
    async fn hear_out(&mut self) -> Result<(), Gone> {
        for slot in [Slot::Active, Slot::Passive] {
            let (reading, _) = halves(self.connection(slot));
            if reading.is_none() {
                continue;
            }
            match tokio::task::unconstrained(read(reading)).now_or_never() {
                None => {}
                Some(Ok(1..)) => self.received(slot).await?,
                Some(_) => self.lost(slot).await?,
            }
        }
        Ok(())
    }

    /// A connection has ended.
    async fn lost(&mut self, slot: Slot) -> Result<(), Gone> {
        *self.connection(slot) = None;
        self.step(Event::Closed(slot)).await
    }

    /// Waits for whatever is next.
    async fn next(
        &mut self,
        attempt: &mut Attempt<T>,
        commands: &mut mpsc::UnboundedReceiver<Command<T>>,
        chunks: &mut mpsc::Receiver<Chunk>,
    ) -> Wake<T> {
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
            // That nothing more comes this way means nothing: commands may still be waiting.
            Some(chunk) = chunks.recv(), if takes_chunks => Wake::Chunk(chunk),
            () = until(deadline) => Wake::Deadline,
        }
    }

    async fn command(&mut self, command: Command<T>) -> Result<(), Gone> {
        match command {
            Command::Start => self.step(Event::Start).await,
            Command::Stop(notification) => self.step(Event::Stop { notification }).await,
            Command::Configure(config, transport) => {
                let mut open = config.open.clone();
                open.forwarding_kept |= self.number > 0;
                self.open = Arc::new(open);
                self.transport = Arc::new(transport);
                self.fsm.set_config(*config);
                self.step(Event::Tick).await
            }
            Command::Accepted(reader, writer) => {
                self.waiting = Some((reader, writer));
                self.step(Event::Accepted).await
            }
            Command::BfdDown => self.step(Event::BfdDown).await,
            Command::Refresh(family) => {
                if let Some((slot, session)) = self.established.clone()
                    && session.route_refresh
                    && let Some(connection) = self.connection(slot)
                {
                    let before = connection.outgoing.len();
                    wire::encode_refresh(family, Refresh::Ask, &mut connection.outgoing);
                    let messages = connection.outgoing.get(before..).unwrap_or_default().to_vec();
                    self.status.sent.count_all(&messages);
                }
                Ok(())
            }
        }
    }

    async fn connected(&mut self, result: io::Result<(T::Reader, T::Writer)>) -> Result<(), Gone> {
        match result {
            Ok(halves) => {
                self.status.set_error(None);
                self.active = Some(Connection::new(halves));
                self.step(Event::Connected).await
            }
            Err(error) => {
                if self.status.set_error(Some(error.to_string())) {
                    tracing::debug!(peer = self.peer.0, reason = %error, "the peer cannot be reached");
                }
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
            self.status.received.count(message);
            self.message(slot, message).await?;
            if self.connection(slot).is_none() {
                break;
            }
        }
        let rest = rest.to_vec();
        if let Some(connection) = self.connection(slot) {
            connection.received = rest;
        }
        if !self.updates.is_empty() {
            self.report_updates().await?;
            // First what was read is worked in and told, then more is read: others wait for it, and a pile of what was
            // read takes many times the memory of the routes it becomes.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn message(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), Gone> {
        let session = self.established.as_ref().filter(|(up, _)| *up == slot).map(|(_, session)| &**session);
        let incoming = match wire::decode(bytes, session) {
            Err(notification) => return self.step(Event::BadBytes(slot, notification)).await,
            Ok(Message::RefreshOther) => return Ok(()),
            Ok(Message::Open(open)) => {
                let ours = self.connection(slot).as_ref().and_then(|connection| connection.ours.clone());
                let negotiated = negotiate(ours.as_ref().unwrap_or(&self.open), &open);
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
        let mut closed = Vec::new();
        for action in self.fsm.step(event, now, jitter()) {
            match action {
                Action::Connect => self.wants_connection = true,
                Action::Close(slot) => closed.extend(self.close(slot)),
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
        self.status.set_state(self.fsm.state());
        self.report_state().await?;
        // Last, because a peer that is dead takes its time: its routes must not wait for it.
        for connection in closed {
            connection.farewell().await;
        }
        Ok(())
    }

    async fn up(&mut self, slot: Slot, session: Negotiated) -> Result<(), Gone> {
        self.number = self.number.wrapping_add(1);
        if !self.open.forwarding_kept {
            // Only a restart of ours would lose what is forwarded by, and that ends this task.
            let mut open = OpenSettings::clone(&self.open);
            open.forwarding_kept = true;
            self.open = Arc::new(open);
        }
        let (mut open, mut ours, mut local) = (None, None, None);
        if let Some(connection) = self.connection(slot) {
            open = connection.open.take();
            ours = connection.ours.clone();
            local = T::local_address(&connection.reader);
        }
        self.established = Some((slot, Arc::new(session.clone())));
        self.status.set_state(self.fsm.state());
        self.report(What::Up {
            session: self.number,
            negotiated: Box::new(session),
            open: open.map(Box::new),
            ours: ours.unwrap_or_else(|| Arc::clone(&self.open)),
            local,
        })
        .await
    }

    fn send(&mut self, slot: Slot, out: &Out) {
        let open = Arc::clone(&self.open);
        let status = Arc::clone(&self.status);
        let Some(connection) = self.connection(slot) else { return };
        if matches!(out, Out::Notification(_)) {
            connection.drop_queue();
        }
        let before = connection.outgoing.len();
        match out {
            Out::Open => {
                wire::encode_open(&open, &mut connection.outgoing);
                connection.ours = Some(open);
            }
            Out::Keepalive => wire::encode_keepalive(&mut connection.outgoing),
            Out::Notification(notification) => wire::encode_notification(notification, &mut connection.outgoing),
        }
        status.sent.count_all(connection.outgoing.get(before..).unwrap_or_default());
    }

    /// Takes a connection off its slot; what is left to do is [`Connection::farewell`].
    fn close(&mut self, slot: Slot) -> Option<Connection<T::Reader, T::Writer>> {
        if slot == Slot::Active {
            self.wants_connection = false;
        }
        self.connection(slot).take()
    }

    async fn wrote(&mut self, slot: Slot, n: usize) -> Result<(), Gone> {
        self.fsm.sent(slot, self.started.elapsed(), jitter());
        let Some(connection) = self.connection(slot) else { return Ok(()) };
        connection.written = connection.written.saturating_add(n);
        if connection.written < connection.outgoing.len() {
            return Ok(());
        }
        // The memory goes too: most peers hear little most of the time.
        connection.outgoing = Vec::new();
        connection.written = 0;
        if std::mem::take(&mut connection.has_chunk) { self.report(What::Written).await } else { Ok(()) }
    }

    async fn put(&mut self, chunk: Chunk) -> Result<(), Gone> {
        let number = self.number;
        let status = Arc::clone(&self.status);
        if let Some((slot, _)) = self.established
            && chunk.session == number
            && let Some(connection) = self.connection(slot)
        {
            status.sent.count_all(&chunk.bytes);
            if connection.outgoing.is_empty() {
                connection.outgoing = chunk.bytes;
            } else {
                connection.outgoing.extend(chunk.bytes);
            }
            connection.has_chunk = true;
            return Ok(());
        }
        self.report(What::Written).await
    }

    /// Tells a step that is new. Whether a session is up is told with what was agreed.
    async fn report_state(&mut self) -> Result<(), Gone> {
        let state = match self.fsm.state() {
            State::Connect => State::Active,
            other => other,
        };
        if std::mem::replace(&mut self.told, state) == state || state == State::Established {
            return Ok(());
        }
        self.report(What::State(state)).await
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

    fn connection(&mut self, slot: Slot) -> &mut Option<Connection<T::Reader, T::Writer>> {
        match slot {
            Slot::Active => &mut self.active,
            Slot::Passive => &mut self.passive,
        }
    }
}

/// Random in 0.75 to 1 (RFC 4271 section 10). Nobody needs it to be unpredictable.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish() % 1000;
    let thousandths = u32::try_from(random).unwrap_or_default();
    0.25_f64.mul_add(f64::from(thousandths) / 1000.0, 0.75)
}

#[cfg(test)]
mod tests;
