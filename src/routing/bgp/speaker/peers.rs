//! Peers come, change, report, and go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::answers;
use super::configure::{self, Effect};
use super::control::{Config, PeerConfig};
use super::listeners::Incoming;
use super::state::{ADMINISTRATIVE_SHUTDOWN, Admin, DECONFIGURED, MAXIMUM_PREFIXES, OTHER_CONFIGURATION, Peer, Up};
use super::task::{CHUNKS, Task};
use crate::net::{Family, Prefix, host_prefix};
use crate::routing::bgp::fsm::{self, DownReason};
use crate::routing::bgp::session::{self, Channels, Command, Report, Status, What};
use crate::routing::bgp::tcp;
use crate::routing::bgp::types::{Notification, PeerId};
use crate::routing::bgp::wire;

/// Dynamic peers at one time.
const MOST_DYNAMIC: usize = 4096;

/// How long a dynamic peer may take for its handshake before it is forgotten.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl Task {
    /// The configuration is this now.
    pub(super) fn configure(&mut self, config: Config) {
        let before = std::mem::replace(&mut self.state.config, config);
        let config = self.state.config.clone();
        self.state.hub.set_policies(config.policies.clone());
        let somebody_else = configure::is_somebody_else(&before, &config);
        if somebody_else {
            let now = self.state.clock.now();
            let peers: Vec<PeerId> = self.state.peers.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.session_down(peer, DownReason::Stopped, false, now));
        }
        self.state.hub.set_own(configure::own(&config));
        self.listeners.follow(&config);
        let wanted = self.wanted(&config);
        let gone: Vec<PeerId> = self
            .state
            .peers
            .iter()
            .filter(|(_, peer)| !wanted.contains_key(&peer.address))
            .map(|(id, _)| *id)
            .collect();
        for peer in gone {
            self.remove_peer(peer, wire::cease(DECONFIGURED, ""));
        }
        for (address, (dynamic, peer)) in wanted {
            match self.state.peer_of(address) {
                Some(id) => self.change_peer(id, dynamic, peer, somebody_else),
                None => {
                    self.add_peer(address, dynamic, peer);
                }
            }
        }
    }

    /// All peers there shall be: those configured, and of the dynamic ones those that are there and still let in.
    fn wanted(&self, config: &Config) -> BTreeMap<IpAddr, (Option<Prefix>, PeerConfig)> {
        let configured = config.peers.iter().map(|(address, peer)| (*address, (None, peer.clone())));
        let there = self.state.peers.values().filter(|peer| peer.dynamic.is_some());
        let mut wanted: BTreeMap<_, _> = there
            .filter_map(|peer| {
                let (prefix, settings) = admitting(config, peer.address)?;
                Some((peer.address, (Some(prefix), settings.clone())))
            })
            .collect();
        wanted.extend(configured);
        wanted
    }

    fn add_peer(&mut self, address: IpAddr, dynamic: Option<Prefix>, config: PeerConfig) -> PeerId {
        let is_free = |id: &PeerId| !self.state.peers.contains_key(id) && !self.ending.contains(id);
        let id = (PeerId::LOCAL.0 + 1..).map(PeerId).find(is_free).unwrap_or(PeerId::LOCAL);
        let (commands, their_commands) = mpsc::unbounded_channel();
        let (chunks, their_chunks) = mpsc::channel(CHUNKS);
        let status = Arc::new(Status::default());
        let machine = configure::machine(&self.state.config, &config, dynamic.is_some(), !self.settling.is_settled());
        let channels = Channels {
            commands: their_commands,
            chunks: their_chunks,
            reports: self.reports.clone(),
            status: Arc::clone(&status),
        };
        let transport = configure::transport(address, &config);
        tokio::task::spawn_local(session::run(id, machine, transport, channels, self.state.clock.started));
        let peer = Peer {
            address,
            config,
            dynamic,
            admin: Admin::Up,
            status,
            up: None,
            step: fsm::State::Idle,
            our_open: None,
            their_open: None,
            up_since: None,
            down_since: None,
            down_reason: None,
            flops: 0,
            created: self.state.clock.now(),
            in_flight: 0,
            commands,
            chunks,
        };
        self.state.hub.add_peer(id, peer.settings());
        if peer.is_wanted() {
            peer.tell(Command::Start);
        }
        tracing::info!(peer = %address, dynamic = dynamic.is_some(), "peer added");
        self.state.by_address.insert(address, id);
        self.state.peers.insert(id, peer);
        self.watch_peer(id);
        id
    }

    /// A peer is configured no longer.
    pub(super) fn remove_peer(&mut self, id: PeerId, why: Notification) {
        let now = self.state.clock.now();
        self.unwatch_peer(id);
        self.session_down(id, DownReason::Stopped, false, now);
        self.state.hub.remove_peer(id);
        let Some(peer) = self.state.peers.remove(&id) else { return };
        self.state.by_address.remove(&peer.address);
        // The task still does this, and ends when it finds the channel closed.
        peer.tell(Command::Stop(Some(why)));
        self.ending.insert(id);
        tracing::info!(peer = %peer.address, "peer removed");
    }

    fn change_peer(&mut self, id: PeerId, dynamic: Option<Prefix>, config: PeerConfig, somebody_else: bool) {
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        if peer.config == config && peer.dynamic == dynamic && !somebody_else {
            return;
        }
        let session = peer.up.as_ref().map(|up| &up.negotiated);
        let effect = configure::effect(&peer.config, &config, session);
        let was_wanted = peer.is_wanted();
        peer.config = config;
        peer.dynamic = dynamic;
        let machine =
            configure::machine(&self.state.config, &peer.config, dynamic.is_some(), !self.settling.is_settled());
        let transport = configure::transport(peer.address, &peer.config);
        peer.tell(Command::Configure(Box::new(machine), transport));
        match (was_wanted, peer.is_wanted()) {
            (true, false) => {
                let text = peer.config.shutdown.clone().unwrap_or_default();
                peer.tell(Command::Stop(Some(wire::cease(ADMINISTRATIVE_SHUTDOWN, &text))));
            }
            (true, true) if effect == Effect::Resets || somebody_else => {
                tracing::info!(peer = %peer.address, "its configuration asks for a new session");
                peer.tell(Command::Stop(Some(wire::cease(OTHER_CONFIGURATION, ""))));
                peer.tell(Command::Start);
            }
            (false, true) => peer.tell(Command::Start),
            _ => {}
        }
        let settings = peer.settings();
        self.state.hub.set_peer(id, settings);
        self.watch_peer(id);
        self.check_limit(id);
    }

    /// A session's task tells something.
    pub(super) fn report(&mut self, report: Report) {
        let Report { peer: id, what } = report;
        let now = self.state.clock.now();
        if let What::Ended = what {
            self.ending.remove(&id);
            return;
        }
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        match what {
            What::Up { session, negotiated, open, ours, local } => {
                tracing::info!(
                    peer = %peer.address, asn = %negotiated.peer_asn, hold_time = negotiated.hold_time, "session is up"
                );
                peer.up = Some(Up { local, negotiated: (*negotiated).clone(), since: now });
                (peer.our_open, peer.their_open) = (Some(ours), open);
                peer.up_since = Some(now);
                let settings = peer.settings();
                self.state.step(id, fsm::State::Established);
                self.state.hub.set_peer(id, settings);
                self.state.hub.up(id, session, *negotiated, now);
            }
            What::Down { reason, keep_routes } => self.session_down(id, reason, keep_routes, now),
            What::Updates(updates) => {
                answers::received(&mut self.state, id, &updates);
                self.state.hub.updates(id, updates, now);
                self.check_limit(id);
            }
            What::Refresh(family, kind) => self.state.hub.refresh(id, family, kind, now),
            What::State(step) => self.state.step(id, step),
            What::Written => peer.in_flight = peer.in_flight.saturating_sub(1),
            What::Ended => {}
        }
    }

    /// A session is over; nothing happens where none was up.
    fn session_down(&mut self, id: PeerId, reason: DownReason, keep_routes: bool, now: Duration) {
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        if peer.up.take().is_none() {
            return;
        }
        tracing::warn!(peer = %peer.address, reason = %Why(&reason), keep_routes, "session went down");
        peer.down_since = Some(now);
        peer.down_reason = Some(reason);
        peer.flops = peer.flops.saturating_add(1);
        self.state.step(id, fsm::State::Idle);
        self.state.hub.down(id, keep_routes, now);
    }

    /// Ends the session of a peer that sent more than it may.
    fn check_limit(&mut self, id: PeerId) {
        let Some(peer) = self.state.peers.get(&id) else { return };
        let Some(limit) = peer.config.max_prefixes.filter(|_| peer.up.is_some()) else { return };
        let rib = self.state.hub.rib();
        let routes = Family::ALL.iter().fold(0u32, |sum, of| sum.saturating_add(rib.stats(id, *of).received));
        if routes > limit {
            tracing::error!(
                peer = %peer.address, routes, limit,
                "the peer sent more routes than it may: no session until it is reset or enabled by hand"
            );
            self.state.hold(id, Admin::PrefixLimit, wire::cease(MAXIMUM_PREFIXES, ""));
        }
    }

    /// Somebody connected to one of our ports.
    pub(super) fn incoming(&mut self, incoming: Incoming) {
        let Incoming { stream, from, through } = incoming;
        let id = match self.state.peer_of(from) {
            Some(id) => id,
            None => {
                let Some((prefix, settings)) = admitting(&self.state.config, from) else {
                    self.state.refused += 1;
                    tracing::debug!(%from, "refused a connection: no peer is configured for this address");
                    return;
                };
                let n_dynamic = self.state.peers.values().filter(|peer| peer.dynamic.is_some()).count();
                if n_dynamic >= MOST_DYNAMIC {
                    self.state.refused += 1;
                    tracing::warn!(%from, n_dynamic, "refused a connection: there are too many dynamic peers");
                    return;
                }
                let settings = settings.clone();
                self.start_sweeping();
                self.add_peer(from, Some(prefix), settings)
            }
        };
        let Some(peer) = self.state.peers.get(&id) else { return };
        let peers = peer.dynamic.map_or_else(|| host_prefix(from), |prefix| prefix.trunc());
        if !self.listeners.requires(through, peers, &peer.config.password) {
            self.state.refused += 1;
            tracing::warn!(%from, "refused a connection: its TCP-MD5 key is not in force on this port");
            return;
        }
        match tcp::accepted(stream, peer.config.distance) {
            Ok((reader, writer)) => peer.tell(Command::Accepted(reader, writer)),
            Err(error) => tracing::warn!(%from, reason = %error, "refused a connection: its socket cannot be set up"),
        }
    }

    /// Forgets dynamic peers that are gone. Whether any are left.
    pub(super) fn sweep_dynamic(&mut self) -> bool {
        let now = self.state.clock.now();
        let hub = &self.state.hub;
        let is_over = |id: PeerId, peer: &Peer| {
            let since = peer.down_since.unwrap_or(peer.created);
            peer.up.is_none() && !hub.has_stale(id) && since.saturating_add(HANDSHAKE) <= now
        };
        let dynamic = self.state.peers.iter().filter(|(_, peer)| peer.dynamic.is_some());
        let over: Vec<PeerId> = dynamic.filter(|(id, peer)| is_over(**id, peer)).map(|(id, _)| *id).collect();
        for peer in over {
            self.remove_peer(peer, wire::cease(DECONFIGURED, ""));
        }
        self.state.peers.values().any(|peer| peer.dynamic.is_some())
    }
}

/// The longest prefix that lets an address in, with what its peers have in common.
fn admitting(config: &Config, address: IpAddr) -> Option<(Prefix, &PeerConfig)> {
    let matching = config.dynamic.iter().filter(|(prefix, _)| prefix.contains(&address));
    matching.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(prefix, peer)| (*prefix, peer))
}

/// Why a session ended, for the log.
struct Why<'a>(&'a DownReason);

impl std::fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = |f: &mut std::fmt::Formatter<'_>, who: &str, notification: &Notification| {
            let Notification { code, subcode, .. } = notification;
            write!(f, "{who} NOTIFICATION {code}/{subcode}")?;
            match wire::shutdown_text(notification) {
                Some(text) => write!(f, ": {text}"),
                None => Ok(()),
            }
        };
        match self.0 {
            DownReason::Sent(notification) => code(f, "we sent", notification),
            DownReason::Received(notification) => code(f, "the peer sent", notification),
            DownReason::Closed => f.write_str("the connection closed"),
            DownReason::SendHold => f.write_str("the peer took no bytes for too long"),
            DownReason::Stopped => f.write_str("stopped here"),
            DownReason::Restarted => f.write_str("the peer has restarted"),
        }
    }
}
