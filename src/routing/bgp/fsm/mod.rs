//! The state machine of one peer (pure): events in, actions out, timers as deadlines.
//!
//! RFC 4271 section 8 with two connection slots, one for the connection we opened and one for the connection the peer
//! opened, so that a collision (6.8, 6286) is decided here and not between tasks. Subcodes for unexpected messages:
//! RFC 6608. Send hold timer: RFC 9687. Whether routes outlive the session: RFC 4724 and 8538.
//!
//! The caller owns sockets, clock and random numbers. It calls [`Fsm::step`] for every event, carries out the actions
//! in their order, and comes back with [`Event::Tick`] at [`Fsm::deadline`]. Events of a slot that is closed already do
//! nothing, so the caller need not care for what was still under way.

mod connection;
mod handshake;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::connection::{Connection, Expired, Phase};
use crate::routing::bgp::types::{Negotiated, Notification, OpenSettings};

/// The least a send hold timer waits (RFC 9687).
const SEND_HOLD_LEAST: Duration = Duration::from_secs(8 * 60);

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The one we opened.
    Active,
    /// The one the peer opened.
    Passive,
}

impl Slot {
    /// Both.
    pub const BOTH: [Slot; 2] = [Slot::Active, Slot::Passive];

    fn other(self) -> Slot {
        match self {
            Slot::Active => Slot::Passive,
            Slot::Passive => Slot::Active,
        }
    }
}

/// How a peer is to be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsmConfig {
    /// What our OPEN says.
    pub open: OpenSettings,
    /// Never connect, only accept.
    pub passive: bool,
    /// Wait before the second attempt to connect; doubled for each further one.
    pub connect_retry: Duration,
    /// The longest such wait. A session that lasted this long ends the back-off.
    pub connect_retry_max: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long to wait for the peer's OPEN.
    pub open_wait: Duration,
    /// A connection that is silent for this long no longer wins a collision.
    pub collision_wait: Duration,
    /// Protocol errors in a row after which the peer is left alone for a while.
    pub idle_after: u32,
    /// For how long.
    pub idle_hold: Duration,
}

impl FsmConfig {
    /// The usual times.
    pub fn new(open: OpenSettings) -> FsmConfig {
        FsmConfig {
            open,
            passive: false,
            connect_retry: Duration::from_secs(1),
            connect_retry_max: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            open_wait: Duration::from_secs(240),
            collision_wait: Duration::from_secs(5),
            idle_after: 5,
            idle_hold: Duration::from_secs(30),
        }
    }
}

/// A message that came, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// OPEN, after negotiation with ours.
    Open(Result<Negotiated, Notification>),
    /// KEEPALIVE.
    Keepalive,
    /// UPDATE.
    Update,
    /// NOTIFICATION.
    Notification(Notification),
    /// ROUTE-REFRESH.
    Refresh,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The operator wants the session; ends an idle hold too.
    Start,
    /// The operator does not want it. The peer is told the notification, if there is one; administrative shutdown and
    /// de-configured go as hard reset where the peer would otherwise keep our routes (RFC 8538).
    Stop {
        /// A Cease, see RFC 9003 for its text.
        notification: Option<Notification>,
    },
    /// The attempt to connect worked.
    Connected,
    /// It did not.
    ConnectFailed,
    /// The peer has connected; the socket waits for [`Action::Accept`] or [`Action::RefuseAccepted`].
    Accepted,
    /// The socket of the slot is gone.
    Closed(Slot),
    /// A message.
    Received(Slot, Incoming),
    /// Bytes that are no message; the notification says why. Also for what we end a session for: too many prefixes.
    /// An FSM error without subcode gets the one of the state.
    BadBytes(Slot, Notification),
    /// A deadline is due.
    Tick,
    /// BFD lost the peer. A restart closes the connection first, so on a session that is up this is no restart
    /// (RFC 5882 4.3.2).
    BfdDown,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// Our OPEN.
    Open,
    /// KEEPALIVE.
    Keepalive,
    /// NOTIFICATION; [`Action::Close`] follows.
    Notification(Notification),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// We sent this.
    Sent(Notification),
    /// The peer sent this.
    Received(Notification),
    /// The connection broke.
    Closed,
    /// The peer took no bytes for too long (RFC 9687).
    SendHold,
    /// The operator wanted it, without a word to the peer.
    Stopped,
    /// The peer has restarted and connected anew (RFC 4724 section 5).
    Restarted,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the peer; answer with [`Event::Connected`] or [`Event::ConnectFailed`].
    Connect,
    /// Close the socket of the slot once what was sent is out; for the active slot also end an attempt to connect.
    Close(Slot),
    /// Put the socket that waits into the passive slot.
    Accept,
    /// Close the socket that waits.
    RefuseAccepted,
    /// Send this.
    Send(Slot, Out),
    /// The session is Established.
    Up {
        /// On this connection.
        slot: Slot,
        /// With this.
        session: Negotiated,
    },
    /// It no longer is.
    Down {
        /// Why.
        reason: DownReason,
        /// Graceful restart applies: keep the peer's routes as stale.
        keep_routes: bool,
    },
}

/// State of a peer as shown to operators (RFC 4271 8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or left alone after errors.
    Idle,
    /// Connecting.
    Connect,
    /// Waiting for the peer, or until the next attempt.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// The peer's OPEN was good.
    OpenConfirm,
    /// Routes flow.
    Established,
}

/// Notifications of the machine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    HoldTimer,
    Unexpected(u8),
    Collision,
    BfdDown,
}

impl Notice {
    fn notification(self) -> Notification {
        let (code, subcode) = match self {
            Notice::HoldTimer => (4, 0),
            Notice::Unexpected(subcode) => (5, subcode),
            Notice::Collision => (6, 7),
            Notice::BfdDown => (6, 10),
        };
        Notification { code, subcode, data: Vec::new() }
    }
}

/// What the operator and past errors allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Stopped,
    /// Left alone until then.
    IdleHold(Duration),
    Running,
}

/// The state machine of one peer.
#[derive(Clone, Debug)]
pub struct Fsm {
    config: FsmConfig,
    mode: Mode,
    active: Option<Connection>,
    passive: Option<Connection>,
    /// An attempt to connect is under way and ends then.
    connecting: Option<Duration>,
    /// The next attempt.
    retry: Option<Duration>,
    /// Waits since the last stable session.
    attempts: u32,
    /// Protocol errors since the last stable session.
    errors: u32,
}

/// What one step knows.
struct Step {
    now: Duration,
    jitter: f64,
    actions: Vec<Action>,
}

impl Step {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }
}

impl Fsm {
    /// A machine at rest; [`Event::Start`] sets it going.
    pub fn new(config: FsmConfig) -> Fsm {
        Fsm {
            config,
            mode: Mode::Stopped,
            active: None,
            passive: None,
            connecting: None,
            retry: None,
            attempts: 0,
            errors: 0,
        }
    }

    /// Treats the peer so from now on. Sessions that are up or being made keep what was agreed on.
    pub fn set_config(&mut self, config: FsmConfig) {
        let was_passive = std::mem::replace(&mut self.config, config).passive;
        if was_passive && !self.config.passive {
            self.retry = Some(Duration::ZERO);
        }
    }

    /// Takes an event. `jitter` is random in 0.75 to 1 and shortens timers (RFC 4271 section 10).
    pub fn step(&mut self, event: Event, now: Duration, jitter: f64) -> Vec<Action> {
        let jitter = if (0.75..=1.0).contains(&jitter) { jitter } else { 1.0 };
        let mut step = Step { now, jitter, actions: Vec::new() };
        match event {
            Event::Start => self.start(now),
            Event::Stop { notification } => self.stop(notification, &mut step),
            Event::Connected => self.connected(&mut step),
            Event::ConnectFailed => self.connecting = None,
            Event::Accepted => self.accepted(&mut step),
            Event::Closed(slot) => {
                if slot == Slot::Active {
                    self.connecting = None;
                }
                self.close(slot, DownReason::Closed, &mut step);
            }
            Event::Received(slot, message) => self.received(slot, message, &mut step),
            Event::BadBytes(slot, notification) => self.bad_bytes(slot, notification, &mut step),
            Event::Tick => self.tick(&mut step),
            Event::BfdDown => self.bfd_down(&mut step),
        }
        self.schedule(&mut step);
        step.actions
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        let idle = match self.mode {
            Mode::IdleHold(until) => Some(until),
            Mode::Stopped | Mode::Running => None,
        };
        let connections = [&self.active, &self.passive].into_iter().flatten().filter_map(Connection::deadline);
        [idle, self.connecting, self.retry].into_iter().flatten().chain(connections).min()
    }

    /// State of the peer: that of the connection that is furthest.
    pub fn state(&self) -> State {
        let phase = [&self.active, &self.passive].into_iter().flatten().map(|connection| connection.phase).max();
        match (phase, self.mode) {
            (Some(Phase::Established), _) => State::Established,
            (Some(Phase::OpenConfirm), _) => State::OpenConfirm,
            (Some(Phase::OpenSent), _) => State::OpenSent,
            (_, Mode::Running) if self.connecting.is_some() => State::Connect,
            (_, Mode::Running) => State::Active,
            _ => State::Idle,
        }
    }

    /// The socket of the slot took bytes: the send hold timer starts anew and the next KEEPALIVE can wait.
    pub fn sent(&mut self, slot: Slot, now: Duration, jitter: f64) {
        let jitter = if (0.75..=1.0).contains(&jitter) { jitter } else { 1.0 };
        if let Some(connection) = self.slot_mut(slot)
            && connection.phase == Phase::Established
        {
            connection.progress(now);
            connection.wrote(now, jitter);
        }
    }

    fn slot(&self, slot: Slot) -> Option<&Connection> {
        match slot {
            Slot::Active => self.active.as_ref(),
            Slot::Passive => self.passive.as_ref(),
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> Option<&mut Connection> {
        match slot {
            Slot::Active => self.active.as_mut(),
            Slot::Passive => self.passive.as_mut(),
        }
    }

    fn phase(&self, slot: Slot) -> Option<Phase> {
        self.slot(slot).map(|connection| connection.phase)
    }

    fn established(&self) -> Option<Slot> {
        Slot::BOTH.into_iter().find(|slot| self.phase(*slot) == Some(Phase::Established))
    }

    fn start(&mut self, now: Duration) {
        if self.mode != Mode::Running {
            self.mode = Mode::Running;
            self.attempts = 0;
            self.errors = 0;
            self.retry = (!self.config.passive).then_some(now);
        }
    }

    fn stop(&mut self, notification: Option<Notification>, step: &mut Step) {
        self.mode = Mode::Stopped;
        self.end_connecting(step);
        for slot in Slot::BOTH {
            let reason = match &notification {
                Some(notification) => DownReason::Sent(self.hard(slot, notification.clone())),
                None => DownReason::Stopped,
            };
            self.close(slot, reason, step);
        }
    }

    fn bfd_down(&mut self, step: &mut Step) {
        if let Some(slot) = self.established() {
            let notification = self.hard(slot, Notice::BfdDown.notification());
            self.close(slot, DownReason::Sent(notification), step);
        }
    }

    fn tick(&mut self, step: &mut Step) {
        if let Mode::IdleHold(until) = self.mode
            && until <= step.now
        {
            self.mode = Mode::Running;
            self.errors = 0;
            self.retry = (!self.config.passive).then_some(step.now);
        }
        if self.connecting.is_some_and(|until| until <= step.now) {
            self.end_connecting(step);
        }
        for slot in Slot::BOTH {
            match self.slot(slot).and_then(|connection| connection.expired(step.now)) {
                Some(Expired::Hold) => {
                    self.close(slot, DownReason::Sent(Notice::HoldTimer.notification()), step);
                }
                Some(Expired::SendHold) => self.close(slot, DownReason::SendHold, step),
                Some(Expired::Keepalive) => self.keepalive(slot, step),
                None => {}
            }
        }
    }

    fn keepalive(&mut self, slot: Slot, step: &mut Step) {
        if let Some(connection) = self.slot_mut(slot) {
            connection.wrote(step.now, step.jitter);
            step.push(Action::Send(slot, Out::Keepalive));
        }
    }

    fn end_connecting(&mut self, step: &mut Step) {
        if self.connecting.take().is_some() {
            step.push(Action::Close(Slot::Active));
        }
    }

    /// After every event: connects if it is time, or notes when that will be.
    fn schedule(&mut self, step: &mut Step) {
        let wants = self.mode == Mode::Running
            && !self.config.passive
            && self.active.is_none()
            && self.connecting.is_none()
            && self.established().is_none();
        if !wants {
            self.retry = None;
            return;
        }
        let Some(at) = self.retry else {
            self.retry = Some(step.now.saturating_add(self.back_off().mul_f64(step.jitter)));
            self.attempts = self.attempts.saturating_add(1);
            return;
        };
        if at > step.now {
            return;
        }
        // A handshake the peer has just begun gets its chance first: no collision of our own making.
        let chance = self.passive.as_ref().map(|peer| peer.opened.saturating_add(self.config.collision_wait));
        if let Some(chance) = chance.filter(|chance| *chance > step.now) {
            self.retry = Some(chance);
            return;
        }
        self.retry = None;
        self.connecting = Some(step.now.saturating_add(self.config.connect_timeout));
        step.push(Action::Connect);
    }

    fn back_off(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempts.min(16)).unwrap_or(u32::MAX);
        self.config.connect_retry.saturating_mul(factor).min(self.config.connect_retry_max)
    }
}
