//! What can be seen of a session while it runs, without asking it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::routing::bgp::fsm::State;
use crate::routing::bgp::wire;

/// Messages by type, of one direction.
#[derive(Debug, Default)]
pub struct Messages {
    open: AtomicU64,
    update: AtomicU64,
    notification: AtomicU64,
    keepalive: AtomicU64,
    refresh: AtomicU64,
    other: AtomicU64,
}

/// How many messages of each type there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub refresh: u64,
    /// Of a type nobody knows.
    pub other: u64,
}

impl Messages {
    /// Counts every message of these bytes.
    pub(super) fn count_all(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Ok(Some(length)) = wire::frame(rest, wire::MAX_EXTENDED) {
            let (message, tail) = rest.split_at(length.min(rest.len()));
            self.count(message);
            rest = tail;
        }
    }

    /// Counts one message.
    pub(super) fn count(&self, message: &[u8]) {
        let counter = match message.get(wire::HEADER - 1) {
            Some(1) => &self.open,
            Some(2) => &self.update,
            Some(3) => &self.notification,
            Some(4) => &self.keepalive,
            Some(5) => &self.refresh,
            _ => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were until now.
    pub fn get(&self) -> MessageCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MessageCounts {
            open: get(&self.open),
            update: get(&self.update),
            notification: get(&self.notification),
            keepalive: get(&self.keepalive),
            refresh: get(&self.refresh),
            other: get(&self.other),
        }
    }
}

/// A peer's sessions as they are now; counters go on from one to the next.
#[derive(Debug, Default)]
pub struct Status {
    state: AtomicU8,
    /// Messages that came.
    pub received: Messages,
    /// Messages that went out.
    pub sent: Messages,
    error: Mutex<Option<String>>,
}

const STATES: [State; 6] =
    [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];

impl Status {
    /// State of the peer.
    pub fn state(&self) -> State {
        STATES.get(usize::from(self.state.load(Ordering::Relaxed))).copied().unwrap_or(State::Idle)
    }

    /// Why the last attempt to connect failed, until one works.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_state(&self, state: State) {
        let at = STATES.iter().position(|known| *known == state).unwrap_or_default();
        self.state.store(u8::try_from(at).unwrap_or_default(), Ordering::Relaxed);
    }

    /// Notes how an attempt to connect went; whether that is news.
    pub(super) fn set_error(&self, error: Option<String>) -> bool {
        let mut noted = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *noted != error;
        *noted = error;
        is_new
    }
}
