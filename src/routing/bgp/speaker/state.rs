//! What the speaker knows: routes, peers, and when things happened.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answers::Answers;
use super::control::{Config, PeerConfig};
use super::watching::Watching;
use crate::net::Prefix;
use crate::routing::bgp::fsm::{DownReason, State as SessionState};
use crate::routing::bgp::hub::{Hub, PeerSettings};
use crate::routing::bgp::session::{Chunk, Command, Status};
use crate::routing::bgp::tcp::TcpTransport;
use crate::routing::bgp::types::{Negotiated, NextHop, Notification, OpenSettings, PeerId};
use crate::routing::bgp::wire;

/// Everything a question can be about.
pub(super) struct State {
    /// As it was last given.
    pub(super) config: Config,
    /// Routes, policies, and what each peer still has to hear.
    pub(super) hub: Hub,
    /// All peers, configured and dynamic.
    pub(super) peers: BTreeMap<PeerId, Peer>,
    /// Their ids.
    pub(super) by_address: BTreeMap<IpAddr, PeerId>,
    /// What time it is.
    pub(super) clock: Clock,
    /// Connections from addresses nobody is configured for.
    pub(super) refused: u64,
    /// Whoever asked for news, and what came in through the API.
    pub(super) answers: Answers,
    /// Steps that sessions took since the last round, in order.
    pub(super) steps: Vec<(PeerId, SessionState)>,
    /// BFD.
    pub(super) watching: Watching,
}

/// What the operator wants of a peer beyond its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Admin {
    /// A session.
    #[default]
    Up,
    /// None, until it is enabled again; the text went to the peer.
    Down(String),
    /// None: it sent more routes than it may. Enabling or resetting it begins anew.
    PrefixLimit,
}

/// A session that is up.
#[derive(Clone, Debug)]
pub(super) struct Up {
    /// Our address on it.
    pub(super) local: Option<IpAddr>,
    /// What was agreed on.
    pub(super) negotiated: Negotiated,
    /// Since when, since start.
    pub(super) since: Duration,
}

/// One peer.
pub(super) struct Peer {
    /// Its address.
    pub(super) address: IpAddr,
    /// As configured, or as its prefix is.
    pub(super) config: PeerConfig,
    /// The prefix that lets it in, where it is not configured by its address.
    pub(super) dynamic: Option<Prefix>,
    /// What the operator wants of it.
    pub(super) admin: Admin,
    /// Its session's state and counters.
    pub(super) status: Arc<Status>,
    /// Its session, where one is up.
    pub(super) up: Option<Up>,
    /// The last step of its session that was told.
    pub(super) step: SessionState,
    /// What our last OPEN of an established session said.
    pub(super) our_open: Option<Arc<OpenSettings>>,
    /// What the peer's last OPEN of an established session said.
    pub(super) their_open: Option<Box<wire::Open>>,
    /// When a session last came up, since start.
    pub(super) up_since: Option<Duration>,
    /// When the last one went down.
    pub(super) down_since: Option<Duration>,
    /// Why.
    pub(super) down_reason: Option<DownReason>,
    /// How often sessions went down.
    pub(super) flops: u32,
    /// When it was made.
    pub(super) created: Duration,
    /// Pieces of output its session has not written yet.
    pub(super) in_flight: u32,
    pub(super) commands: mpsc::UnboundedSender<Command<TcpTransport>>,
    pub(super) chunks: mpsc::Sender<Chunk>,
}

impl Peer {
    /// Tells its session's task something.
    pub(super) fn tell(&self, command: Command<TcpTransport>) {
        // The task runs for as long as this end of the channel is there.
        let _ = self.commands.send(command);
    }

    /// Whether a session is wanted now.
    pub(super) fn is_wanted(&self) -> bool {
        self.admin == Admin::Up && self.config.shutdown.is_none()
    }

    /// State of its session (RFC 4271 8.2.2).
    pub(super) fn state(&self) -> SessionState {
        if self.up.is_some() { SessionState::Established } else { self.status.state() }
    }

    /// What the hub has to know of it.
    pub(super) fn settings(&self) -> PeerSettings {
        let local = self.up.as_ref().and_then(|up| up.local).or(self.config.local_address);
        let (v4, v6) = match local {
            Some(IpAddr::V4(address)) => (Some(address), None),
            Some(IpAddr::V6(address)) => (None, Some(NextHop::from(IpAddr::V6(address)))),
            None => (None, None),
        };
        PeerSettings {
            address: self.address,
            local_asn: self.config.local_asn,
            local_v4: self.config.next_hop_v4.or(v4),
            local_v6: self.config.next_hop_v6.or(v6),
            shared: self.config.shared.clone(),
            client: self.config.client,
            next_hop_self: self.config.next_hop_self,
            next_hop_unchanged: self.config.next_hop_unchanged,
        }
    }
}

impl State {
    /// The peer of this address.
    pub(super) fn peer_of(&self, address: IpAddr) -> Option<PeerId> {
        self.by_address.get(&address).copied()
    }

    /// A peer's session took a step. Coming up and going down are told by themselves, the same step twice is one.
    pub(super) fn step(&mut self, peer: PeerId, step: SessionState) {
        if let Some(entry) = self.peers.get_mut(&peer)
            && std::mem::replace(&mut entry.step, step) != step
        {
            self.steps.push((peer, step));
        }
    }

    /// What the operator wants of a peer is another: it is told with the step it was told with last.
    pub(super) fn repeat_step(&mut self, peer: PeerId) {
        self.steps.extend(self.peers.get(&peer).map(|entry| (peer, entry.step)));
    }

    /// Ends a peer's session for good, until [`State::enable`].
    pub(super) fn disable(&mut self, peer: PeerId, text: &str) {
        self.hold(peer, Admin::Down(text.to_owned()), wire::cease(ADMINISTRATIVE_SHUTDOWN, text));
    }

    /// Ends a peer's session until somebody says otherwise.
    pub(super) fn hold(&mut self, peer: PeerId, admin: Admin, why: Notification) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.admin = admin;
            entry.tell(Command::Stop(Some(why)));
        }
    }

    /// Lets a peer have a session again. Its configuration may still say no.
    pub(super) fn enable(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.admin = Admin::Up;
            if entry.is_wanted() {
                entry.tell(Command::Start);
            }
        }
    }

    /// Ends a peer's session and begins a new one.
    pub(super) fn reset(&mut self, peer: PeerId, why: Notification) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            if entry.admin == Admin::PrefixLimit {
                entry.admin = Admin::Up;
            }
            entry.tell(Command::Stop(Some(why)));
            if entry.is_wanted() {
                entry.tell(Command::Start);
            }
        }
    }

    /// Runs policy again without a new session. Import: the peer is asked for its routes again; all it sent is kept as
    /// received, so that policy changes need no such question. Export: the peer is told everything once more.
    pub(super) fn soft_reset(&mut self, peer: PeerId, import: bool, export: bool) {
        let Some(entry) = self.peers.get(&peer) else { return };
        let Some(up) = &entry.up else { return };
        if import {
            up.negotiated.families.iter().for_each(|family| entry.tell(Command::Refresh(*family)));
        }
        if export {
            for family in up.negotiated.families.clone() {
                self.hub.refresh(peer, family, wire::Refresh::Ask, self.clock.now());
            }
        }
    }
}

/// Subcodes of Cease (RFC 4486).
pub(super) const MAXIMUM_PREFIXES: u8 = 1;
pub(super) const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
pub(super) const DECONFIGURED: u8 = 3;
pub(super) const ADMINISTRATIVE_RESET: u8 = 4;
pub(super) const OTHER_CONFIGURATION: u8 = 6;

/// Time since start, and what that is for people.
///
/// Everything the speaker decides by is time since start, which no change of the wall clock moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The zero of all durations.
    pub(super) started: Instant,
    /// Since 1970, when that was.
    since_epoch: Duration,
}

impl Clock {
    pub(super) fn new() -> Clock {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), since_epoch }
    }

    /// Now, since start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A moment since start, as one since 1970.
    pub(super) fn since_epoch(&self, at: Duration) -> Duration {
        self.since_epoch.saturating_add(at)
    }
}
