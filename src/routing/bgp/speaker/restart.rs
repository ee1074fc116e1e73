//! After a restart with the kernel's routes kept (RFC 4724 4.1): when all is told and heard again.
//!
//! Until then our OPENs say that we have restarted, peers hear no End-of-RIB, so that they keep what they had from us,
//! and nothing that the former run left in the kernel may go.

use std::time::Duration;

use super::configure::machine;
use super::configure::transport;
use super::state::Peer;
use super::task::Task;
use crate::routing::bgp::hub::Hub;
use crate::routing::bgp::session::Command;
use crate::routing::bgp::types::PeerId;

/// How long a peer without graceful restart is listened to before what it said counts as all it has.
const LISTENING: Duration = Duration::from_secs(5);

/// How long a peer whose session has no hold time may take to be back.
const USUAL_HOLD_TIME: Duration = Duration::from_secs(90);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settling {
    /// Done, or there was nothing to wait for.
    Settled,
    /// Waiting.
    Waiting {
        /// Not beyond this time, since start.
        until: Duration,
        /// The next look at peers that never say that this was all.
        look: Duration,
        /// Own routes have been handed over.
        own_routes: bool,
    },
}

impl Settling {
    /// Waiting for at most this long, from start.
    pub(super) fn waiting(deferral: Duration) -> Settling {
        Settling::Waiting { until: deferral, look: deferral, own_routes: false }
    }

    pub(super) fn is_settled(self) -> bool {
        self == Settling::Settled
    }

    /// When there is something to do without anything having come.
    pub(super) fn deadline(self) -> Option<Duration> {
        match self {
            Settling::Settled => None,
            Settling::Waiting { until, look, .. } => Some(until.min(look)),
        }
    }

    /// Own routes are there: peers may hear that these are all.
    pub(super) fn has_own_routes(&mut self) {
        if let Settling::Waiting { own_routes, .. } = self {
            *own_routes = true;
        }
    }
}

impl Task {
    /// Ends the wait where nothing is left to wait for.
    pub(super) fn settle(&mut self) {
        let Settling::Waiting { until, own_routes, .. } = self.settling else { return };
        let now = self.state.clock.now();
        let mut look = until;
        let mut all_heard = own_routes;
        for (id, peer) in &self.state.peers {
            match waits_for(*id, peer, &self.state.hub, now) {
                Wait::No => {}
                Wait::Until(at) => {
                    all_heard = false;
                    look = look.min(at);
                }
                Wait::Yes => all_heard = false,
            }
        }
        if !all_heard && now < until {
            self.settling = Settling::Waiting { until, look, own_routes };
            return;
        }
        tracing::info!(all_heard, "routes are complete again after the restart");
        self.settling = Settling::Settled;
        self.state.hub.end_restart();
        let config = &self.state.config;
        for (address, peer) in self.state.peers.values().map(|peer| (peer.address, peer)) {
            let machine = machine(config, &peer.config, peer.dynamic.is_some(), false);
            peer.tell(Command::Configure(Box::new(machine), transport(address, &peer.config)));
        }
    }
}

enum Wait {
    No,
    Until(Duration),
    Yes,
}

/// Whether a peer may still tell something that it told the former run too.
fn waits_for(id: PeerId, peer: &Peer, hub: &Hub, now: Duration) -> Wait {
    if !peer.is_wanted() || peer.dynamic.is_some() && peer.up.is_none() {
        return Wait::No;
    }
    let Some(up) = &peer.up else {
        // A peer that lives notices within its hold time that the old session is over, and takes the next one.
        let hold = Duration::from_secs(peer.config.hold_time.into());
        let patience = if hold.is_zero() { USUAL_HOLD_TIME } else { hold };
        let until = peer.down_since.unwrap_or(peer.created).saturating_add(patience);
        return if until <= now { Wait::No } else { Wait::Until(until) };
    };
    if hub.is_complete(id) {
        return Wait::No;
    }
    match &up.negotiated.graceful_restart {
        // It waits for us as we would for it.
        Some(theirs) if theirs.restarting => Wait::No,
        Some(_) => Wait::Yes,
        None if up.since.saturating_add(LISTENING) <= now => Wait::No,
        None => Wait::Until(up.since.saturating_add(LISTENING)),
    }
}
