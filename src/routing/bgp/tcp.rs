//! BGP over TCP: connecting to a peer, and the port peers connect to (RFC 4271 8.2.1, port 179 or another).
//!
//! Every option a peer was configured with is set before the first segment leaves, and its refusal is the error of
//! the attempt: no session without its authentication, none further away than allowed.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::session::Transport;
use super::sockopt;
use crate::net::{Family, Prefix, host_prefix};

/// Bytes the kernel may hold for a peer that does not take them: a few pieces of output, so that a fast one never waits.
const MOST_UNSENT: u32 = 256 * 1024;

/// How far away a peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// On a link of ours: packets live for one hop. The rule for external peers.
    Link,
    /// Up to so many hops. Internal peers have 255.
    Multihop(u8),
    /// Exactly so many hops or fewer, checked on what arrives (GTSM, RFC 5082). Both sides must ask for it.
    Security(u8),
}

/// The TCP side of one peer.
#[derive(Clone, Debug)]
pub struct TcpTransport {
    /// Where the peer listens.
    pub remote: SocketAddr,
    /// Our address towards it, where it is configured.
    pub local: Option<IpAddr>,
    /// How far away it may be.
    pub distance: Distance,
    /// The TCP-MD5 key, empty for none.
    pub key: Vec<u8>,
}

impl Transport for TcpTransport {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn connect(&self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
        let socket = match self.remote {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(local) = self.local {
            socket.bind(SocketAddr::new(local, 0))?;
        }
        if !self.key.is_empty() {
            sockopt::set_md5(&socket, host_prefix(self.remote.ip()), &self.key)?;
        }
        set_distance(&socket, Family::of(self.remote.ip()), self.distance)?;
        let stream = socket.connect(self.remote).await?;
        ready(stream)
    }

    fn local_address(reader: &OwnedReadHalf) -> Option<IpAddr> {
        reader.local_addr().ok().map(|address| address.ip().to_canonical())
    }
}

fn set_distance(socket: &impl std::os::fd::AsFd, family: Family, distance: Distance) -> io::Result<()> {
    match distance {
        Distance::Link => sockopt::set_hop_limit(socket, family, 1),
        Distance::Multihop(hops) => sockopt::set_hop_limit(socket, family, hops),
        Distance::Security(hops) => {
            sockopt::set_hop_limit(socket, family, u8::MAX)?;
            sockopt::set_max_distance(socket, family, hops)
        }
    }
}

/// A port of ours that peers connect to.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Listens on one address. An IPv6 socket takes IPv6 only, so that both families can have the same port.
    ///
    /// # Errors
    /// With the address and port in the text, and for a port that is taken what to do.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = bind(address).map_err(|error| {
            let cure = match error.kind() {
                io::ErrorKind::AddrInUse => "; another BGP speaker runs here: stop it, or give --bgp-port another port",
                io::ErrorKind::AddrNotAvailable => {
                    "; the address is on no interface of this node: see kube-router.io/bgp-local-addresses"
                }
                io::ErrorKind::PermissionDenied => "; ports below 1024 need the capability NET_BIND_SERVICE",
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{cure}"))
        })?;
        Ok(Listener { socket })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Requires TCP-MD5 of these peers, or no longer for an empty key.
    ///
    /// # Errors
    /// As [`sockopt::set_md5`].
    pub fn set_key(&self, peers: Prefix, key: &[u8]) -> io::Result<()> {
        sockopt::set_md5(&self.socket, peers, key)
    }

    /// The next connection and the address it comes from.
    ///
    /// # Errors
    /// What the kernel answered; the listener goes on.
    pub async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, from) = self.socket.accept().await?;
        Ok((stream, from.ip().to_canonical()))
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // A whole mesh may connect at once, and whoever finds no room tries again only after a second.
    socket.listen(1024)
}

/// Makes an accepted connection ready for its peer.
///
/// # Errors
/// What the kernel answered: then the connection must be closed.
pub fn accepted(stream: TcpStream, distance: Distance) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let family = Family::of(stream.peer_addr()?.ip());
    set_distance(&stream, family, distance)?;
    ready(stream)
}

/// A connection whose last words do not wait long behind routes: those stay here, where they can be dropped.
fn ready(stream: TcpStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    sockopt::set_unsent_limit(&stream, MOST_UNSENT)?;
    Ok(stream.into_split())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
    }

    fn loopback() -> Listener {
        Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port")
    }

    #[test]
    fn connects_from_the_configured_address() {
        run(async {
            let listener = loopback();
            let transport = TcpTransport {
                remote: listener.local_addr().expect("bound"),
                local: Some(IpAddr::from([127, 0, 0, 7])),
                distance: Distance::Link,
                key: Vec::new(),
            };
            let (connected, accept) = tokio::join!(transport.connect(), listener.accept());
            let (_, mut writer) = connected.expect("connected");
            let (stream, from) = accept.expect("accepted");
            assert_eq!(from, IpAddr::from([127, 0, 0, 7]));
            let (mut reader, _writer) = accepted(stream, Distance::Link).expect("ready");
            writer.write_all(b"x").await.expect("sent");
            assert_eq!(reader.read_u8().await.expect("received"), b'x');
        });
    }

    #[test]
    fn a_peer_that_does_not_read_holds_little_in_the_kernel() {
        run(async {
            let listener = loopback();
            let transport = TcpTransport {
                remote: listener.local_addr().expect("bound"),
                local: None,
                distance: Distance::Link,
                key: Vec::new(),
            };
            let (connected, accept) = tokio::join!(transport.connect(), listener.accept());
            let ((_reader, writer), (_peer, _)) = (connected.expect("connected"), accept.expect("accepted"));
            let (piece, mut taken) = (vec![0; 64 * 1024], 0);
            loop {
                // Until it is not ready for a while, so that what can be sent is sent.
                let wait = std::time::Duration::from_millis(300);
                if tokio::time::timeout(wait, writer.writable()).await.is_err() {
                    break;
                }
                taken += writer.try_write(&piece).unwrap_or_default();
            }
            assert!(taken > 64 * 1024 && taken < 1024 * 1024, "the kernel took {taken} bytes");
        });
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_the_flag_that_helps() {
        run(async {
            let listener = loopback();
            let error = Listener::bind(listener.local_addr().expect("bound")).expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains("--bgp-port"), "{error}");
        });
    }

    #[test]
    fn both_families_share_a_port() {
        run(async {
            let listener = loopback();
            let port = listener.local_addr().expect("bound").port();
            if let Err(error) = Listener::bind(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))) {
                assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
            }
        });
    }
}
