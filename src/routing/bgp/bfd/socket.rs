//! The sockets of BFD: one to receive for each local address and port, one to send for each session, because a
//! session's source port is its own (RFC 5881 4).
//!
//! Everything leaves with TTL 255, and what comes for single-hop sessions must have arrived with it (RFC 5881 5): a
//! filter on the socket drops the rest before it costs anything.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use crate::net::Family;
use crate::routing::bgp::sockopt::only_from_the_link;

/// Source ports (RFC 5881 4).
const SOURCE_PORTS: RangeInclusive<u16> = 49152..=65535;

/// Network control (CS6), as routing protocols are marked.
const TRAFFIC_CLASS: u8 = 0xc0;

/// Receives for all sessions of one local address and port.
pub(super) struct Listener {
    /// Tells when there is something to read.
    socket: tokio::net::UdpSocket,
    /// The same socket, which reads without waiting to be told.
    direct: UdpSocket,
}

impl Listener {
    /// With `from_link` only what was sent on this link arrives.
    pub(super) fn open(local: SocketAddr, from_link: bool) -> io::Result<Listener> {
        let direct = open(local, from_link)?;
        let socket = tokio::net::UdpSocket::from_std(direct.try_clone()?)?;
        Ok(Listener { socket, direct })
    }

    /// Whether there may be something to read; wakes the task when there is.
    pub(super) fn poll_ready(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.socket.poll_recv_ready(context).map(|_| ())
    }

    /// The next datagram that the runtime knows of.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        self.socket.try_recv_from(buffer).ok()
    }

    /// The next datagram that is there, though the runtime may not have noticed yet.
    pub(super) fn receive_directly(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        self.direct.recv_from(buffer).ok()
    }
}

/// A socket to send from, on a port of the range that no other session of this address has. `random` spreads them.
pub(super) fn sender(local: SocketAddr, random: u32, taken: impl Fn(u16) -> bool) -> io::Result<UdpSocket> {
    let (first, last) = (*SOURCE_PORTS.start(), *SOURCE_PORTS.end());
    let start = first + (random % u32::from(last - first + 1)) as u16;
    let mut ports = (start..=last).chain(first..start).filter(|port| !taken(*port));
    // Another error than a port in use is the same for every port.
    ports
        .find_map(|port| {
            let mut local = local;
            local.set_port(port);
            match open(local, false) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                other => Some(other),
            }
        })
        .unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
}

fn open(local: SocketAddr, from_link: bool) -> io::Result<UdpSocket> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if local.is_ipv4() {
        sockopt::set_ip_ttl(&socket, 255)?;
        sockopt::set_ip_tos(&socket, TRAFFIC_CLASS)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_unicast_hops(&socket, Some(255))?;
        sockopt::set_ipv6_tclass(&socket, u32::from(TRAFFIC_CLASS))?;
    }
    if from_link {
        only_from_the_link(&socket, Family::of(local.ip()))?;
    }
    bind(&socket, &local)?;
    Ok(UdpSocket::from(socket))
}

/// The address to bind to or send to; the scope matters for link-local IPv6 addresses only.
pub(super) fn endpoint(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match SocketAddr::new(address, port) {
        SocketAddr::V6(mut v6) => {
            v6.set_scope_id(if v6.ip().is_unicast_link_local() { scope } else { 0 });
            v6.into()
        }
        v4 => v4,
    }
}
