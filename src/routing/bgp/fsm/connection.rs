//! One TCP connection: how far its handshake is, and its timers as deadlines.

use std::time::Duration;

use super::Notice;
use crate::routing::bgp::types::{Negotiated, Notification};

/// How far a connection is. Connect and Active of RFC 4271 are states of the peer, not of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Came while another one is Established: we say nothing until the peer's OPEN is there (RFC 4271 8.2.2).
    Watched,
    /// Our OPEN is out.
    OpenSent,
    /// Its OPEN was good.
    OpenConfirm,
    /// Routes flow.
    Established,
}

/// Which timer of a connection ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    Hold,
    SendHold,
    Keepalive,
}

#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// When it was connected.
    pub(super) opened: Duration,
    /// When it became Established.
    pub(super) up_since: Duration,
    pub(super) session: Option<Negotiated>,
    hold: Option<Duration>,
    keepalive: Option<Duration>,
    send_hold: Option<Duration>,
}

impl Connection {
    pub(super) fn new(phase: Phase, now: Duration, open_wait: Duration) -> Connection {
        Connection {
            phase,
            opened: now,
            up_since: now,
            session: None,
            hold: Some(now.saturating_add(open_wait)),
            keepalive: None,
            send_hold: None,
        }
    }

    /// The peer's OPEN was good. Without a hold time the OPEN wait goes on until Established, so that a peer that
    /// vanishes here is noticed.
    pub(super) fn confirm(&mut self, session: Negotiated, now: Duration, jitter: f64) {
        self.phase = Phase::OpenConfirm;
        self.session = Some(session);
        self.heard(now);
        self.wrote(now, jitter);
    }

    pub(super) fn establish(&mut self, now: Duration, jitter: f64) {
        self.phase = Phase::Established;
        self.up_since = now;
        if self.hold_time().is_zero() {
            self.hold = None;
        }
        self.heard(now);
        self.wrote(now, jitter);
        self.progress(now);
    }

    /// A KEEPALIVE or UPDATE came.
    pub(super) fn heard(&mut self, now: Duration) {
        let hold = self.hold_time();
        if !hold.is_zero() {
            self.hold = Some(now.saturating_add(hold));
        }
    }

    /// A KEEPALIVE or UPDATE went out: the next KEEPALIVE is due a third of the hold time later.
    pub(super) fn wrote(&mut self, now: Duration, jitter: f64) {
        let hold = self.hold_time();
        self.keepalive = (!hold.is_zero()).then(|| now.saturating_add((hold / 3).mul_f64(jitter)));
    }

    /// The socket took bytes (RFC 9687).
    pub(super) fn progress(&mut self, now: Duration) {
        let hold = self.hold_time();
        let wait = (hold * 2).max(super::SEND_HOLD_LEAST);
        self.send_hold = (self.phase == Phase::Established && !hold.is_zero()).then(|| now.saturating_add(wait));
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.hold, self.keepalive, self.send_hold].into_iter().flatten().min()
    }

    /// The gravest timer that is due.
    pub(super) fn expired(&self, now: Duration) -> Option<Expired> {
        let due = |timer: Option<Duration>| timer.is_some_and(|at| at <= now);
        if due(self.hold) {
            Some(Expired::Hold)
        } else if due(self.send_hold) {
            Some(Expired::SendHold)
        } else {
            due(self.keepalive).then_some(Expired::Keepalive)
        }
    }

    /// The NOTIFICATION for a message that does not belong into this phase (RFC 6608).
    pub(super) fn unexpected(&self) -> Notification {
        Notice::Unexpected(match self.phase {
            Phase::Watched | Phase::OpenSent => 1,
            Phase::OpenConfirm => 2,
            Phase::Established => 3,
        })
        .notification()
    }

    fn hold_time(&self) -> Duration {
        Duration::from_secs(self.session.as_ref().map_or(0, |session| u64::from(session.hold_time)))
    }
}
