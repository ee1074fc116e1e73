//! Every probe of a round at once, from one thread: sockets are opened inside the pods' namespaces, and stay there.
//!
//! All sockets of a round are new and their ports are none of the last hundreds of rounds, so that each probe is the first packet
//! of a connection: connection tracking remembers an old one for minutes, and would take it for that. TCP and SCTP count as open
//! when the server has accepted or the client is connected, UDP when the reply is back: then both directions have passed packets.

#![allow(clippy::disallowed_methods, reason = "a thread that waits for real packets reads the real clock")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::Namespace;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, acceptfrom_with, bind, connect, ipproto,
    listen, recvfrom, sendto, socket_with, sockopt,
};

/// The ports that are probed, and listened on, for every protocol.
pub(super) const PORTS: [u16; 2] = [7001, 7002];
/// The protocols that are probed.
pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// The ports that probes come from: below those that the kernel gives away.
const SOURCE_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// How long what should be open may take: long enough for a lost SYN or INIT to be sent again (1 s, 3 s).
const PATIENCE: Duration = Duration::from_secs(8);
/// How long to wait for refusals once all that should be open is open. Packets between namespaces of one kernel are delivered as they
/// are sent, so what is not there by then was not let through.
const GRACE: Duration = Duration::from_millis(300);
/// Between two looks at all sockets.
const PAUSE: Duration = Duration::from_millis(2);

/// One cell of the truth table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// The number of the client.
    pub(super) from: usize,
    /// The number of the server.
    pub(super) to: usize,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) family: Family,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Open,
    /// The server got it, but its answer did not come back.
    HalfOpen,
    Refused,
    Silent,
}

/// A pod's sockets that wait for probes.
#[derive(Debug)]
pub(super) struct Listener {
    protocol: Protocol,
    socket: OwnedFd,
}

/// Somebody who probes and is probed.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) ns: Namespace,
    /// IPv4, IPv6.
    pub(super) addresses: [IpAddr; 2],
    listeners: Vec<Listener>,
}

/// All hosts and all probes between them.
#[derive(Debug)]
pub(super) struct Prober {
    pub(super) hosts: Vec<Host>,
    pub(super) probes: Vec<Probe>,
    round: u32,
    /// How many probes each host sends in a round.
    n_each: usize,
}

/// The clients' side of a round.
#[derive(Debug, Default)]
struct Clients {
    /// Connections on their way, with the number of the probe.
    tcp: Vec<(usize, SocketAddr, OwnedFd)>,
    udp: Vec<OwnedFd>,
    sctp: Vec<OwnedFd>,
    /// Which probe a client's address belongs to.
    connections: BTreeMap<(Protocol, SocketAddr), usize>,
}

fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// A socket that never waits.
pub(super) fn open(protocol: Protocol, at: SocketAddr) -> Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, kind, flags, Some(number)).with_context(|| format!("open a {protocol} socket"))?;
    if protocol != Protocol::Udp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Closing aborts: nothing of a round is left for the next one.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    }
    bind(&socket, &at).with_context(|| format!("bind {protocol} {at}"))?;
    Ok(socket)
}

impl Host {
    /// Listens on every probed port, protocol and family.
    pub(super) fn listen(ns: &Namespace, addresses: [IpAddr; 2], protocols: &[Protocol]) -> Result<Host> {
        let listeners = ns.run(|| {
            let mut listeners = Vec::new();
            for (address, &protocol) in
                addresses.iter().flat_map(|address| protocols.iter().map(move |one| (address, one)))
            {
                for port in PORTS {
                    let socket = open(protocol, SocketAddr::new(*address, port))?;
                    if protocol != Protocol::Udp {
                        listen(&socket, 512)?;
                    }
                    listeners.push(Listener { protocol, socket });
                }
            }
            Ok(listeners)
        })?;
        Ok(Host { ns: ns.clone(), addresses, listeners })
    }

    /// Takes all that has arrived since: who connected, and the datagrams, which are answered.
    pub(super) fn take(&self) -> (Vec<(Protocol, SocketAddr)>, Vec<Vec<u8>>) {
        let (mut connected, mut datagrams) = (Vec::new(), Vec::new());
        for listener in &self.listeners {
            if listener.protocol == Protocol::Udp {
                let mut buffer = [0_u8; 64];
                while let Ok((n, _, Some(peer))) = recvfrom(&listener.socket, &mut buffer[..], RecvFlags::empty()) {
                    let datagram = buffer.get(..n).unwrap_or_default();
                    let _best_effort = sendto(&listener.socket, datagram, SendFlags::empty(), &peer);
                    datagrams.push(datagram.to_vec());
                }
                continue;
            }
            while let Ok((_, Some(peer))) = acceptfrom_with(&listener.socket, SocketFlags::CLOEXEC) {
                if let Ok(peer) = SocketAddr::try_from(peer) {
                    connected.push((listener.protocol, peer));
                }
            }
        }
        (connected, datagrams)
    }

    /// Forgets what has arrived.
    fn drain(&self) {
        for listener in &self.listeners {
            if listener.protocol == Protocol::Udp {
                let mut buffer = [0_u8; 64];
                while recvfrom(&listener.socket, &mut buffer[..], RecvFlags::empty()).is_ok() {}
            } else {
                while accept_with(&listener.socket, SocketFlags::CLOEXEC).is_ok() {}
            }
        }
    }
}

impl Prober {
    /// Every pair of hosts, but nobody with itself, times protocols, ports and families.
    pub(super) fn new(hosts: Vec<Host>) -> Prober {
        let mut probes = Vec::new();
        for from in 0..hosts.len() {
            for to in (0..hosts.len()).filter(|to| *to != from) {
                for protocol in PROTOCOLS {
                    for port in PORTS {
                        probes.extend(Family::ALL.map(|family| Probe { from, to, protocol, port, family }));
                    }
                }
            }
        }
        let n_each = probes.len() / hosts.len().max(1);
        Prober { hosts, probes, round: 0, n_each }
    }

    fn target(&self, probe: &Probe) -> Option<SocketAddr> {
        Some(SocketAddr::new(*self.hosts.get(probe.to)?.addresses.get(index(probe.family))?, probe.port))
    }

    /// The port of a host's n-th probe in this round.
    fn source_port(&self, n: usize) -> Result<u16> {
        let used = usize::try_from(self.round)? * self.n_each + n;
        Ok(SOURCE_PORTS.start + u16::try_from(used % SOURCE_PORTS.len())?)
    }

    /// Sends the probes of one host.
    fn send(&self, from: usize, host: &Host, clients: &mut Clients) -> Result<()> {
        let port = self.source_port(0)?;
        let udp = host.addresses.iter().map(|address| open(Protocol::Udp, SocketAddr::new(*address, port)));
        let udp = udp.collect::<Result<Vec<_>>>()?;
        let own_probes = self.probes.iter().enumerate().filter(|(_, probe)| probe.from == from);
        for (n, (number, probe)) in own_probes.enumerate() {
            let to = self.target(probe).context("a target")?;
            let family = index(probe.family);
            if probe.protocol == Protocol::Udp {
                let mut datagram = self.round.to_be_bytes().to_vec();
                datagram.extend_from_slice(&u32::try_from(number)?.to_be_bytes());
                let socket = udp.get(family).context("a socket")?;
                // An error here is news of an earlier datagram.
                let _earlier = sendto(socket, &datagram, SendFlags::empty(), &to);
                continue;
            }
            let own = SocketAddr::new(*host.addresses.get(family).context("an address")?, self.source_port(n)?);
            let socket = open(probe.protocol, own)?;
            let _on_its_way = connect(&socket, &to);
            clients.connections.insert((probe.protocol, own), number);
            if probe.protocol == Protocol::Tcp {
                clients.tcp.push((number, to, socket));
            } else {
                clients.sctp.push(socket);
            }
        }
        clients.udp.extend(udp);
        Ok(())
    }

    /// The number in a datagram of this round.
    fn number(&self, datagram: &[u8]) -> Option<usize> {
        let (round, number) = datagram.split_at_checked(4)?;
        let number = usize::try_from(u32::from_be_bytes(number.try_into().ok()?)).ok()?;
        (round == self.round.to_be_bytes()).then_some(number)
    }

    /// One look at all sockets.
    fn look(&self, clients: &mut Clients, seen: &mut [Seen]) {
        let mut mark = |number: usize, what: Seen| {
            if let Some(cell) = seen.get_mut(number).filter(|cell| **cell != Seen::Open) {
                *cell = what;
            }
        };
        for host in &self.hosts {
            let (connected, datagrams) = host.take();
            for key in connected {
                if let Some(number) = clients.connections.get(&key) {
                    mark(*number, Seen::Open);
                }
            }
            datagrams
                .iter()
                .filter_map(|datagram| self.number(datagram))
                .for_each(|number| mark(number, Seen::HalfOpen));
        }
        for socket in &clients.udp {
            let mut buffer = [0_u8; 64];
            while let Ok((n, ..)) = recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
                if let Some(number) = self.number(buffer.get(..n).unwrap_or_default()) {
                    mark(number, Seen::Open);
                }
            }
        }
        // A second connect tells how the first one goes, and nothing else. A server that has accepted resets: that is known above.
        clients.tcp.retain(|(number, to, socket)| match connect(socket, to) {
            Err(Errno::ALREADY | Errno::INPROGRESS) => true,
            Ok(()) | Err(Errno::ISCONN) => {
                mark(*number, Seen::Open);
                false
            }
            Err(_) => {
                mark(*number, Seen::Refused);
                false
            }
        });
    }

    /// Probes everything once. What should be open is given time, and the rest no less than a grace after that.
    pub(super) fn round(&mut self, expected: &[bool]) -> Result<Vec<Seen>> {
        self.round += 1;
        self.hosts.iter().for_each(Host::drain);
        let mut clients = Clients::default();
        for (from, host) in self.hosts.iter().enumerate() {
            host.ns.run(|| self.send(from, host, &mut clients))?;
        }
        let mut seen = vec![Seen::Silent; self.probes.len()];
        let start = Instant::now();
        let mut all_open_at = None;
        loop {
            self.look(&mut clients, &mut seen);
            let all_open = expected.iter().zip(&seen).all(|(open, seen)| !open || *seen == Seen::Open);
            if all_open && all_open_at.is_none() {
                all_open_at = Some(Instant::now());
            }
            let settled = all_open_at.is_some_and(|at| clients.tcp.is_empty() || at.elapsed() > GRACE);
            if settled || start.elapsed() > PATIENCE {
                // Whatever has come while the last look went on.
                self.look(&mut clients, &mut seen);
                return Ok(seen);
            }
            std::thread::sleep(PAUSE);
        }
    }
}
