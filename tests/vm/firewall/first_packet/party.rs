//! One side of what is sent: sockets that send, and sockets that see everything that arrives.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use ferrovia::net::{Family, Protocol};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom_with, bind, connect, connect_unspec,
    ipproto, listen, recvfrom, sendto, socket_with, sockopt,
};

use crate::truth_table::open;

/// Where everybody is asked.
const PORT: u16 = 7001;
/// Where everybody asks from, always: the next pod with an address sends just what the last one did.
const FROM: u16 = 7100;
/// Bytes that may wait for a look: none may be lost.
const ROOM: usize = 4 << 20;

/// What was sent and arrived: who, to whom, and how.
pub(super) type Way = (IpAddr, IpAddr, Protocol);

/// A way that a packet has come. Datagrams say of which birth they are; a TCP segment is of whoever has the address.
pub(super) struct Arrival {
    pub(super) way: Way,
    pub(super) birth: Option<u16>,
}

/// Somebody with an address of each family.
#[derive(Debug)]
pub(super) struct Party {
    /// IPv4, IPv6.
    pub(super) addresses: [IpAddr; 2],
    /// By family, as all sockets here.
    clients: [OwnedFd; 2],
    servers: [OwnedFd; 2],
    listeners: [OwnedFd; 2],
    /// Get every TCP segment, whatever becomes of it.
    wires: [OwnedFd; 2],
    /// Connections that are left as they are.
    accepted: Vec<OwnedFd>,
}

/// One of each family, the first is IPv4.
fn each<T>(mut make: impl FnMut(usize) -> Result<T>) -> Result<[T; 2]> {
    Ok([make(0)?, make(1)?])
}

/// Sees all TCP segments to an address.
fn wire(address: IpAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::RAW, flags, Some(ipproto::TCP)).context("open a raw socket")?;
    bind(&socket, &SocketAddr::new(address, 0))?;
    Ok(socket)
}

/// Whether this is a TCP segment to [`PORT`]; IPv4 has its header before it.
fn is_asking(packet: &[u8], family: usize) -> bool {
    let header = if family == 0 { usize::from(packet.first().copied().unwrap_or_default() & 0xf) * 4 } else { 0 };
    packet.get(header + 2..header + 4) == Some(&PORT.to_be_bytes()[..])
}

impl Party {
    /// Opens all sockets; to be called in the network namespace.
    pub(super) fn open(addresses: [IpAddr; 2]) -> Result<Party> {
        let at =
            |protocol: Protocol, port: u16| each(|family| open(protocol, SocketAddr::new(addresses[family], port)));
        let party = Party {
            addresses,
            clients: at(Protocol::Udp, FROM)?,
            servers: at(Protocol::Udp, PORT)?,
            listeners: at(Protocol::Tcp, PORT)?,
            wires: each(|family| wire(addresses[family]))?,
            accepted: Vec::new(),
        };
        for listener in &party.listeners {
            listen(listener, 512)?;
        }
        for socket in party.servers.iter().chain(&party.wires) {
            sockopt::set_socket_recv_buffer_size_force(socket, ROOM)?;
        }
        Ok(party)
    }

    /// Sends a datagram that says of which birth it is.
    pub(super) fn send(&self, to: IpAddr, birth: u16) {
        let client = &self.clients[usize::from(to.is_ipv6())];
        // An error is the answer to an earlier one.
        let _earlier = sendto(client, &birth.to_be_bytes(), SendFlags::empty(), &SocketAddr::new(to, PORT));
    }

    /// Takes what has arrived. Datagrams are answered and connections kept open: flows of the longest memory.
    pub(super) fn take(&mut self, mut arrived: impl FnMut(Arrival)) {
        let mut buffer = [0_u8; 256];
        for family in 0..Family::ALL.len() {
            let own = self.addresses[family];
            while let Ok((n, _, Some(peer))) = recvfrom(&self.servers[family], &mut buffer[..], RecvFlags::empty()) {
                let datagram = buffer.get(..n).unwrap_or_default();
                let _best_effort = sendto(&self.servers[family], datagram, SendFlags::empty(), &peer);
                let Ok(peer) = SocketAddr::try_from(peer) else { continue };
                let birth = datagram.try_into().ok().map(u16::from_be_bytes);
                arrived(Arrival { way: (peer.ip(), own, Protocol::Udp), birth });
            }
            while let Ok((n, _, Some(peer))) = recvfrom(&self.wires[family], &mut buffer[..], RecvFlags::empty()) {
                let Ok(peer) = SocketAddr::try_from(peer) else { continue };
                if is_asking(buffer.get(..n.min(buffer.len())).unwrap_or_default(), family) {
                    arrived(Arrival { way: (peer.ip(), own, Protocol::Tcp), birth: None });
                }
            }
            while let Ok((socket, _)) = acceptfrom_with(&self.listeners[family], SocketFlags::CLOEXEC) {
                self.accepted.push(socket);
            }
        }
    }

    /// Gives the connections away that it was asked for.
    pub(super) fn give_up(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.accepted)
    }
}

/// A connection that somebody tries to open, again and again.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) way: Way,
    socket: OwnedFd,
}

impl Attempt {
    /// One that has not begun; to be called in the network namespace of `from`.
    pub(super) fn new(from: IpAddr, to: IpAddr) -> Result<Attempt> {
        let socket = open(Protocol::Tcp, SocketAddr::new(from, FROM))?;
        Ok(Attempt { way: (from, to, Protocol::Tcp), socket })
    }

    /// Sends a SYN, another one if the last was in vain.
    pub(super) fn begin(&self) {
        let _there_was_none = connect_unspec(&self.socket);
        let _on_its_way = connect(&self.socket, &SocketAddr::new(self.way.1, PORT));
    }
}
