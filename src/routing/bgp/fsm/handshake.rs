//! Connections come, shake hands, collide and go.

use super::connection::{Connection, Phase};
use super::{Action, DownReason, Fsm, Incoming, Mode, Notice, Out, Slot, Step};
use crate::routing::bgp::types::{Negotiated, Notification, PeerRestart};

/// Error code of Cease, and the subcodes used here (RFC 4486, 8538).
const CEASE: u8 = 6;
const HARD_RESET: u8 = 9;

impl Fsm {
    pub(super) fn connected(&mut self, step: &mut Step) {
        if self.connecting.take().is_some() && self.active.is_none() {
            self.open(Slot::Active, step);
        } else if self.active.is_none() {
            step.push(Action::Close(Slot::Active));
        }
    }

    pub(super) fn accepted(&mut self, step: &mut Step) {
        let phase = self.phase(Slot::Passive);
        if self.mode != Mode::Running || (phase == Some(Phase::Established) && !self.outlived(Slot::Passive, step)) {
            step.push(Action::RefuseAccepted);
            return;
        }
        // A peer has one connection of its own at a time: a second one means that it has given up the first.
        if phase == Some(Phase::Established) {
            self.close(Slot::Passive, DownReason::Restarted, step);
        } else if phase.is_some() {
            self.close(Slot::Passive, DownReason::Closed, step);
        }
        step.push(Action::Accept);
        if self.established().is_some() {
            self.passive = Some(Connection::new(Phase::Watched, step.now, self.config.open_wait));
        } else {
            self.open(Slot::Passive, step);
        }
    }

    pub(super) fn received(&mut self, slot: Slot, message: Incoming, step: &mut Step) {
        let Some(connection) = self.slot_mut(slot) else { return };
        match (connection.phase, message) {
            (_, Incoming::Notification(notification)) => self.close(slot, DownReason::Received(notification), step),
            (Phase::Watched | Phase::OpenSent, Incoming::Open(Ok(session))) => self.opened(slot, session, step),
            (Phase::Watched | Phase::OpenSent, Incoming::Open(Err(notification))) => {
                self.close(slot, DownReason::Sent(notification), step);
            }
            (Phase::OpenConfirm, Incoming::Keepalive) => self.establish(slot, step),
            (Phase::Established, Incoming::Keepalive | Incoming::Update) => connection.heard(step.now),
            (Phase::Established, Incoming::Refresh) => {}
            _ => {
                let notification = connection.unexpected();
                self.close(slot, DownReason::Sent(notification), step);
            }
        }
    }

    pub(super) fn bad_bytes(&mut self, slot: Slot, notification: Notification, step: &mut Step) {
        let Some(connection) = self.slot(slot) else { return };
        let unexpected = connection.unexpected();
        let vague = notification.code == unexpected.code && notification.subcode == 0;
        let notification = if vague { Notification { data: notification.data, ..unexpected } } else { notification };
        self.close(slot, DownReason::Sent(notification), step);
    }

    /// A good OPEN: which of two connections stays (RFC 4271 6.8)?
    fn opened(&mut self, slot: Slot, session: Negotiated, step: &mut Step) {
        let other = slot.other();
        match self.phase(other) {
            Some(Phase::Established) => {
                if !self.outlived(other, step) && !self.announces_restart(other, &session) {
                    return self.collide(slot, step);
                }
                // Watched becomes OpenSent here: the old session is gone.
                self.close(other, DownReason::Restarted, step);
            }
            Some(Phase::OpenSent | Phase::OpenConfirm) => {
                let loses = if self.winner(&session) == slot || self.is_silent(other, step) { other } else { slot };
                self.collide(loses, step);
                if loses == slot {
                    return;
                }
            }
            Some(Phase::Watched) | None => {}
        }
        if let Some(connection) = self.slot_mut(slot) {
            connection.confirm(session, step.now, step.jitter);
            step.push(Action::Send(slot, Out::Keepalive));
        }
    }

    fn establish(&mut self, slot: Slot, step: &mut Step) {
        self.end_connecting(step);
        self.collide(slot.other(), step);
        let Some(connection) = self.slot_mut(slot) else { return };
        connection.establish(step.now, step.jitter);
        if let Some(session) = connection.session.clone() {
            step.push(Action::Up { slot, session });
        }
    }

    fn collide(&mut self, slot: Slot, step: &mut Step) {
        self.close(slot, DownReason::Sent(Notice::Collision.notification()), step);
    }

    /// The connection opened by the side with the higher identifier stays; with equal ones the higher AS decides
    /// (RFC 6286).
    fn winner(&self, session: &Negotiated) -> Slot {
        let ours = (self.config.open.router_id, self.config.open.asn);
        if ours > (session.peer_id, session.peer_asn) { Slot::Active } else { Slot::Passive }
    }

    fn is_silent(&self, slot: Slot, step: &Step) -> bool {
        self.slot(slot).is_some_and(|connection| {
            connection.phase == Phase::OpenSent
                && connection.opened.saturating_add(self.config.collision_wait) <= step.now
        })
    }

    /// Whether a new connection means that the peer of this Established one has restarted. RFC 4724 section 5 takes any
    /// new connection for that; one that may have been under way when the session came up is not.
    fn outlived(&self, slot: Slot, step: &Step) -> bool {
        self.slot(slot).is_some_and(|connection| {
            self.restarts(connection)
                && connection.up_since.saturating_add(self.config.connect_timeout) <= self.newest(slot, step)
        })
    }

    /// When the connection beside this one was opened: now, if there is none yet.
    fn newest(&self, slot: Slot, step: &Step) -> std::time::Duration {
        self.slot(slot.other()).map_or(step.now, |connection| connection.opened)
    }

    fn announces_restart(&self, established: Slot, new: &Negotiated) -> bool {
        self.slot(established).is_some_and(|connection| self.restarts(connection))
            && new.graceful_restart.as_ref().is_some_and(|restart| restart.restarting)
    }

    /// Whether graceful restart was agreed on, be it for long-lived routes only.
    fn restarts(&self, connection: &Connection) -> bool {
        let lists_one = |session: &Negotiated| {
            let restart = session.graceful_restart.as_ref();
            restart.is_some_and(|restart| !restart.families.is_empty() || !session.long_lived.is_empty())
        };
        self.config.open.graceful_restart.is_some() && connection.session.as_ref().is_some_and(lists_one)
    }

    /// Whether both sides keep routes after a NOTIFICATION (RFC 8538).
    fn keeps_after_notification(&self, connection: &Connection) -> bool {
        self.restarts(connection)
            && self.config.open.graceful_restart.is_some_and(|own| own.notification)
            && peer_restart(connection).is_some_and(|restart| restart.notification)
    }

    fn keeps_routes(&self, connection: &Connection, reason: &DownReason) -> bool {
        match reason {
            DownReason::Sent(notification) | DownReason::Received(notification) => {
                let hard = notification.code == CEASE && notification.subcode == HARD_RESET;
                self.mode != Mode::Stopped && !hard && self.keeps_after_notification(connection)
            }
            DownReason::Stopped => false,
            DownReason::Closed | DownReason::SendHold | DownReason::Restarted => self.restarts(connection),
        }
    }

    /// Where the peer would keep our routes although we mean to leave, the notification goes inside a hard reset.
    pub(super) fn hard(&self, slot: Slot, notification: Notification) -> Notification {
        let keeps = self.slot(slot).is_some_and(|connection| self.keeps_after_notification(connection));
        if !keeps || notification.code != CEASE || !matches!(notification.subcode, 2 | 3 | 10) {
            return notification;
        }
        let mut data = vec![notification.code, notification.subcode];
        data.extend(notification.data);
        Notification { code: CEASE, subcode: HARD_RESET, data }
    }

    /// Our OPEN goes out on a connection that is there.
    fn open(&mut self, slot: Slot, step: &mut Step) {
        let connection = Connection::new(Phase::OpenSent, step.now, self.config.open_wait);
        match slot {
            Slot::Active => self.active = Some(connection),
            Slot::Passive => self.passive = Some(connection),
        }
        step.push(Action::Send(slot, Out::Open));
    }

    /// Ends a connection, if the slot has one, with all that follows from it.
    pub(super) fn close(&mut self, slot: Slot, reason: DownReason, step: &mut Step) {
        let taken = match slot {
            Slot::Active => self.active.take(),
            Slot::Passive => self.passive.take(),
        };
        let Some(connection) = taken else { return };
        if let DownReason::Sent(notification) = &reason {
            step.push(Action::Send(slot, Out::Notification(notification.clone())));
        }
        step.push(Action::Close(slot));
        let up = connection.phase == Phase::Established;
        if up && connection.up_since.saturating_add(self.config.connect_retry_max) <= step.now {
            self.attempts = 0;
            self.errors = 0;
        }
        let failed = is_error(&reason);
        if failed {
            self.errors = self.errors.saturating_add(1);
        }
        if up {
            let keep_routes = self.keeps_routes(&connection, &reason);
            step.push(Action::Down { reason, keep_routes });
        }
        self.after_close(slot, failed, step);
    }

    fn after_close(&mut self, closed: Slot, failed: bool, step: &mut Step) {
        let other = closed.other();
        if self.mode != Mode::Running {
            return;
        }
        if self.phase(other) == Some(Phase::Watched) {
            return self.open(other, step);
        }
        if failed && self.slot(other).is_none() && self.errors >= self.config.idle_after {
            self.end_connecting(step);
            self.mode = Mode::IdleHold(step.now.saturating_add(self.config.idle_hold.mul_f64(step.jitter)));
        }
    }
}

fn peer_restart(connection: &Connection) -> Option<&PeerRestart> {
    connection.session.as_ref().and_then(|session| session.graceful_restart.as_ref())
}

/// Header, OPEN, UPDATE, FSM and ROUTE-REFRESH errors: trying again at once will not help. Cease and timers are none.
fn is_error(reason: &DownReason) -> bool {
    match reason {
        DownReason::Sent(notification) | DownReason::Received(notification) => {
            matches!(notification.code, 1 | 2 | 3 | 5 | 7)
        }
        _ => false,
    }
}
