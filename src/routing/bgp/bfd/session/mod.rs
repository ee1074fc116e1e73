//! One session, pure: packets and the time go in, packets and state changes come out (RFC 5880 6.8).
//!
//! Asynchronous mode in the active role; demand mode is never asked for, but a neighbour's is honoured. Changes of
//! timers go through a poll sequence, and while the session is not Up packets are at least a second apart.

use std::time::Duration;

use super::packet::{Diagnostic, Packet, State};

/// Slowest rate at which a session that is not Up may be left to send (6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// Least interval taken from settings: what the clock of the driver can tell apart.
const LEAST: Duration = Duration::from_millis(1);

/// What a neighbour's Required Min RX Interval is held to be before it says so.
const UNKNOWN_MIN_RX: Duration = Duration::from_micros(1);

/// How often packets go, and how many may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Desired Min TX Interval while Up.
    pub desired_min_tx: Duration,
    /// Required Min RX Interval.
    pub required_min_rx: Duration,
    /// Detection multiplier.
    pub multiplier: u8,
}

impl Timers {
    /// Within what the packet can say and the clock can keep.
    fn bounded(self) -> Timers {
        let most = Duration::from_micros(u64::from(u32::MAX));
        Timers {
            desired_min_tx: self.desired_min_tx.clamp(LEAST, most),
            required_min_rx: self.required_min_rx.clamp(LEAST, most),
            multiplier: self.multiplier.max(1),
        }
    }
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { desired_min_tx: Duration::from_secs(1), required_min_rx: Duration::from_secs(1), multiplier: 3 }
    }
}

/// A state change worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Why Up was last left; none once it is entered again.
    pub diagnostic: Diagnostic,
    /// One of the two sides took it down on purpose: the path is no worse for it, and RFC 5882 3.2 says not to act.
    pub administrative: bool,
}

/// What a step asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Send this now.
    pub send: Option<Packet>,
    /// The state changed.
    pub change: Option<Change>,
}

/// The neighbour as its last packet told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its discriminator; 0 while it is not heard.
    pub discriminator: u32,
    /// Its state.
    pub state: State,
    /// Its diagnostic.
    pub diagnostic: Diagnostic,
    /// Its Desired Min TX Interval.
    pub desired_min_tx: Duration,
    /// Its Required Min RX Interval; zero: it wants no packets.
    pub required_min_rx: Duration,
    /// Its detection multiplier.
    pub multiplier: u8,
    /// It wants demand mode.
    pub demand: bool,
    /// Its BFD outlives its control plane (C).
    pub independent: bool,
}

impl Remote {
    const UNKNOWN: Remote = Remote {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::None,
        desired_min_tx: Duration::ZERO,
        required_min_rx: UNKNOWN_MIN_RX,
        multiplier: 0,
        demand: false,
        independent: false,
    };
}

/// A poll sequence under way (6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// Sent or about to be.
    Asking,
    /// As `Asking`, and timers changed meanwhile: the answer may be to the older ones, so ask again.
    Twice,
}

/// One session.
#[derive(Clone, Debug)]
pub struct Session {
    discriminator: u32,
    independent: bool,
    timers: Timers,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// The transmit interval being kept: follows what is announced, later while a poll must confirm it.
    tx_in_use: Duration,
    /// The same for the interval that detection counts with.
    rx_in_use: Duration,
    last_sent: Option<Duration>,
    last_received: Option<Duration>,
    /// Decides the jitter of the present interval.
    random: u32,
}

impl Session {
    /// A session in state Down. The discriminator is unique on this system and not 0; `independent` is the C bit.
    pub fn new(discriminator: u32, timers: Timers, independent: bool) -> Session {
        let timers = timers.bounded();
        Session {
            discriminator,
            independent,
            timers,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: Remote::UNKNOWN,
            poll: Poll::Idle,
            tx_in_use: timers.desired_min_tx.max(SLOW),
            rx_in_use: timers.required_min_rx,
            last_sent: None,
            last_received: None,
            random: 0,
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it last left Up.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// Our name for it.
    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// The neighbour, as heard.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Time between packets we send, before jitter; `None`: the neighbour wants none.
    pub fn transmit_interval(&self) -> Option<Duration> {
        let remote = &self.remote;
        let demanded = remote.demand && self.state == State::Up && remote.state == State::Up && self.poll == Poll::Idle;
        (!remote.required_min_rx.is_zero() && !demanded).then(|| self.tx_in_use.max(remote.required_min_rx))
    }

    /// Time without packets after which the neighbour is gone (6.8.4); zero while it is not heard.
    pub fn detection_time(&self) -> Duration {
        self.rx_in_use.max(self.remote.desired_min_tx) * u32::from(self.remote.multiplier)
    }

    /// When the neighbour is given up, unless a packet comes before.
    pub fn detection_deadline(&self) -> Option<Duration> {
        self.last_received.map(|at| at + self.detection_time())
    }

    /// When [`Session::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.transmit_deadline().into_iter().chain(self.detection_deadline()).min()
    }

    fn transmit_deadline(&self) -> Option<Duration> {
        let interval = self.transmit_interval()?;
        Some(self.last_sent.map_or(Duration::ZERO, |at| at + jittered(interval, self.timers.multiplier, self.random)))
    }

    /// A packet of this session came. `random` is any value, all equally likely.
    pub fn receive(&mut self, packet: &Packet, now: Duration, random: u32) -> Output {
        if packet.your_discriminator != 0 && packet.your_discriminator != self.discriminator {
            return Output::default();
        }
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            desired_min_tx: Duration::from_micros(u64::from(packet.desired_min_tx)),
            required_min_rx: Duration::from_micros(u64::from(packet.required_min_rx)),
            multiplier: packet.multiplier,
            demand: packet.demand,
            independent: packet.independent,
        };
        self.last_received = Some(now);
        if packet.last {
            self.poll_answered();
        }
        let change = self.transition(packet.state);
        let send = if self.state == State::AdminDown {
            None
        } else if packet.poll {
            // Beside the periodic packets, so that it cannot keep a poll of ours from being sent.
            Some(Packet { poll: false, last: true, ..self.packet() })
        } else {
            change.and_then(|_| self.transmit(now, random))
        };
        Output { send, change }
    }

    /// The state machine of 6.8.6 (and figure 2 of 6.2).
    fn transition(&mut self, heard: State) -> Option<Change> {
        match (self.state, heard) {
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::None),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::None)
            }
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(State::Down, Diagnostic::NeighborSignaledDown)
            }
            _ => None,
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration, random: u32) -> Output {
        let mut output = Output::default();
        if self.detection_deadline().is_some_and(|deadline| deadline <= now) {
            self.remote = Remote::UNKNOWN;
            self.last_received = None;
            if matches!(self.state, State::Init | State::Up) {
                output.change = self.enter(State::Down, Diagnostic::DetectionTimeExpired);
            }
        }
        if output.change.is_some() || self.transmit_deadline().is_some_and(|deadline| deadline <= now) {
            output.send = self.transmit(now, random);
        }
        output
    }

    /// Holds the session down on purpose, and tells the neighbour; or lets it go again.
    pub fn admin_down(&mut self, hold: bool, now: Duration, random: u32) -> Output {
        let change = match (hold, self.state) {
            (true, State::AdminDown) => None,
            (true, _) => self.enter(State::AdminDown, Diagnostic::AdministrativelyDown),
            (false, State::AdminDown) => self.enter(State::Down, Diagnostic::None),
            (false, _) => None,
        };
        Output { send: change.and_then(|_| self.transmit(now, random)), change }
    }

    /// Other timers, agreed on with the neighbour by a poll sequence while the session is Up.
    pub fn set_timers(&mut self, timers: Timers) {
        let before = (self.announced_tx(), self.timers.required_min_rx);
        self.timers = timers.bounded();
        if (self.announced_tx(), self.timers.required_min_rx) != before {
            self.renegotiate();
        }
    }

    /// Enters a state, with the timers that belong to it.
    fn enter(&mut self, to: State, diagnostic: Diagnostic) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        // The diagnostic tells of the last time the session left Up, and stays through Down and Init.
        if to != State::Init {
            self.diagnostic = diagnostic;
        }
        if (from == State::Up) != (to == State::Up) {
            self.renegotiate();
        }
        let administrative = to == State::AdminDown || (to == State::Down && self.remote.state == State::AdminDown);
        Some(Change { from, to, diagnostic: self.diagnostic, administrative })
    }

    /// What we announce as Desired Min TX Interval: slow start while not Up.
    fn announced_tx(&self) -> Duration {
        if self.state == State::Up { self.timers.desired_min_tx } else { self.timers.desired_min_tx.max(SLOW) }
    }

    /// Announced timers changed (6.8.3). What would make the neighbour's or our detection fire too early waits for
    /// the answer: sending slower, and counting on packets that come faster.
    fn renegotiate(&mut self) {
        if self.state != State::Up {
            self.poll = Poll::Idle;
            self.use_announced();
            return;
        }
        self.tx_in_use = self.tx_in_use.min(self.announced_tx());
        self.rx_in_use = self.rx_in_use.max(self.timers.required_min_rx);
        self.poll = if self.poll == Poll::Idle { Poll::Asking } else { Poll::Twice };
    }

    fn poll_answered(&mut self) {
        match self.poll {
            Poll::Idle => {}
            Poll::Asking => {
                self.poll = Poll::Idle;
                self.use_announced();
            }
            Poll::Twice => self.poll = Poll::Asking,
        }
    }

    fn use_announced(&mut self) {
        (self.tx_in_use, self.rx_in_use) = (self.announced_tx(), self.timers.required_min_rx);
    }

    /// The next packet, with the interval after it starting now; `None` where the neighbour wants none.
    fn transmit(&mut self, now: Duration, random: u32) -> Option<Packet> {
        self.transmit_interval()?;
        (self.last_sent, self.random) = (Some(now), random);
        Some(self.packet())
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.poll != Poll::Idle,
            last: false,
            independent: self.independent,
            demand: false,
            multiplier: self.timers.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: micros(self.announced_tx()),
            required_min_rx: micros(self.timers.required_min_rx),
            required_min_echo_rx: 0,
        }
    }
}

fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

/// An interval made shorter by up to a quarter, and by at least a tenth where one lost packet counts (6.8.7).
fn jittered(interval: Duration, multiplier: u8, random: u32) -> Duration {
    let share = f64::from(random) / f64::from(u32::MAX);
    interval.mul_f64(if multiplier == 1 { 0.75 + 0.15 * share } else { 0.75 + 0.25 * share })
}

#[cfg(test)]
mod tests;
