//! BFD for peers that want it (RFC 5882): its sessions follow the configuration, its events reach the peers' sessions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::sync::mpsc::UnboundedReceiver;

use super::control::PeerConfig;
use super::task::Task;
use crate::routing::bgp::bfd::driver::{BfdHandle, Event, Hops, PeerSettings, Ports, SessionId, Snapshot};
use crate::routing::bgp::session::Command;
use crate::routing::bgp::tcp::Distance;
use crate::routing::bgp::types::PeerId;

/// The driver, once a peer wants it, and whose its sessions are.
pub(super) struct Watching {
    ports: Ports,
    driver: Option<(BfdHandle, UnboundedReceiver<Event>)>,
    sessions: BTreeMap<PeerId, (SessionId, PeerSettings)>,
}

impl Watching {
    /// Nothing is watched yet, and no port is open.
    pub(super) fn new(ports: Ports) -> Watching {
        Watching { ports, driver: None, sessions: BTreeMap::new() }
    }

    /// The next event, if ever.
    pub(super) async fn next(&mut self) -> Event {
        if let Some((_, events)) = &mut self.driver
            && let Some(event) = events.recv().await
        {
            return event;
        }
        std::future::pending().await
    }

    /// Brings the session of one peer to what is wanted of it.
    fn follow(&mut self, peer: PeerId, wanted: Option<PeerSettings>) {
        let known = self.sessions.get(&peer).copied();
        if known.map(|(_, settings)| settings) == wanted {
            return;
        }
        if let (Some((id, before)), Some(after), Some((driver, _))) = (known, wanted, &self.driver)
            && before == (PeerSettings { timers: before.timers, ..after })
        {
            driver.set_timers(id, after.timers);
            self.sessions.insert(peer, (id, after));
            return;
        }
        if let (Some((id, _)), Some((driver, _))) = (known, &self.driver) {
            driver.remove(id);
            self.sessions.remove(&peer);
        }
        let Some(settings) = wanted else { return };
        if self.driver.is_none() {
            match BfdHandle::start(self.ports) {
                Ok(driver) => self.driver = Some(driver),
                Err(error) => tracing::error!(peer = %settings.remote, reason = %error, "BFD cannot be started"),
            }
        }
        if let Some((driver, _)) = &self.driver {
            self.sessions.insert(peer, (driver.add(settings), settings));
        }
    }

    /// How BFD towards a peer stands, where it is wanted.
    pub(super) fn status(&self, peer: PeerId) -> Option<Snapshot> {
        let (id, _) = self.sessions.get(&peer)?;
        let (driver, _) = self.driver.as_ref()?;
        driver.state().into_iter().find(|session| session.session == *id)
    }

    fn peer_of(&self, session: SessionId) -> Option<PeerId> {
        self.sessions.iter().find(|(_, (id, _))| *id == session).map(|(peer, _)| *peer)
    }
}

impl Task {
    /// Brings BFD towards a peer to what its configuration says.
    pub(super) fn watch_peer(&mut self, id: PeerId) {
        let peer = self.state.peers.get(&id);
        let wanted = peer.filter(|peer| peer.is_wanted()).and_then(|peer| settings(peer.address, &peer.config));
        self.state.watching.follow(id, wanted);
    }

    /// Ends BFD towards a peer on purpose.
    pub(super) fn unwatch_peer(&mut self, id: PeerId) {
        self.state.watching.follow(id, None);
    }

    /// Ends all of it on purpose, so that no neighbour takes our leaving for a broken path.
    pub(super) fn stop_bfd(&mut self) {
        self.state.watching.sessions.clear();
        self.state.watching.driver = None;
    }

    /// A BFD session came up or went down.
    pub(super) fn bfd_event(&mut self, event: Event) {
        // Ended on purpose, the path may be as good as before (RFC 5882 3.2).
        let Event::Down { session, administrative: false, independent, .. } = event else { return };
        let Some(id) = self.state.watching.peer_of(session) else { return };
        let Some(peer) = self.state.peers.get(&id) else { return };
        if peer.up.is_some() {
            peer.tell(Command::BfdDown);
        } else if independent {
            tracing::warn!(peer = %peer.address, "forwarding of a peer that restarts is gone: its routes go too");
            self.state.hub.drop_stale(id);
        }
    }
}

fn settings(address: IpAddr, config: &PeerConfig) -> Option<PeerSettings> {
    let bfd = config.bfd?;
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let on_link = config.shared.iter().any(|subnet| subnet.contains(&address));
    let hops = match config.distance {
        Distance::Link | Distance::Security(1) => Hops::Single,
        // One of our AS may be anywhere, and is next to us where a link of ours has its address.
        Distance::Multihop(_) if on_link && config.asn == Some(config.local_asn) => Hops::Single,
        Distance::Multihop(_) | Distance::Security(_) => Hops::Multi,
    };
    Some(PeerSettings {
        remote: address,
        local: config.local_address.unwrap_or(any),
        scope: config.scope,
        hops,
        port: bfd.port,
        timers: bfd.timers,
        // The thread ends with the daemon.
        independent: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Asn;
    use crate::routing::bgp::bfd::session::Timers;
    use crate::routing::bgp::speaker::Bfd;
    use crate::testing::builders::{bgp_peer, ip, prefix};

    #[test]
    fn a_neighbour_on_a_link_is_one_hop_away_unless_somebody_says_otherwise() {
        let (ours, theirs) = (Asn(64512), Asn(65001));
        let link = vec![prefix("192.168.10.0/24")];
        let cases = [
            (theirs, Distance::Link, &link, Hops::Single),
            (theirs, Distance::Security(1), &link, Hops::Single),
            (theirs, Distance::Security(3), &link, Hops::Multi),
            (theirs, Distance::Multihop(3), &link, Hops::Multi),
            (ours, Distance::Multihop(255), &link, Hops::Single),
            (ours, Distance::Multihop(255), &Vec::new(), Hops::Multi),
        ];
        for (asn, distance, shared, expected) in cases {
            let config = PeerConfig {
                asn: Some(asn),
                distance,
                shared: shared.clone(),
                bfd: Some(Bfd { port: None, timers: Timers::default() }),
                ..bgp_peer(ours, ip("192.168.10.11"), 179)
            };
            let settings = settings(ip("192.168.10.1"), &config).expect("BFD is wanted");
            assert_eq!(settings.hops, expected, "{asn} {distance:?} {shared:?}");
        }
    }
}
