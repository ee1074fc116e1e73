//! What the pods serve: HTTP that names the pod and the client it saw, and a UDP echo that does the same.
//!
//! Listeners are opened inside a pod's namespace and served from one background runtime for the whole lab.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, listen, socket, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinSet};

use super::netns::Namespace;

/// Runs the servers of a lab.
#[derive(Debug)]
pub struct Servers {
    runtime: Runtime,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses; empty means every address, both families.
    pub addresses: Vec<IpAddr>,
    /// HTTP port.
    pub http: u16,
    /// UDP echo port.
    pub udp: u16,
    /// SCTP port with the same talk as HTTP, where wanted (and the kernel has SCTP).
    pub sctp: Option<u16>,
}

/// One pod's servers. Dropping it closes its listeners and cuts its connections.
#[derive(Debug)]
pub struct Server {
    counts: Arc<Counts>,
    tasks: Vec<AbortHandle>,
}

/// What a server saw.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    datagrams: AtomicU64,
}

impl Servers {
    /// Starts the background runtime.
    ///
    /// # Errors
    /// Where threads cannot be started.
    pub fn new() -> Result<Servers> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("lab-servers")
            .build()
            .context("start the runtime of the lab's servers")?;
        Ok(Servers { runtime })
    }

    /// Opens a pod's listeners in its namespace and serves them.
    ///
    /// # Errors
    /// Where an address or port cannot be bound.
    pub fn serve(&self, namespace: &Namespace, pod: &str, listen: &Listen) -> Result<Server> {
        let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = if listen.addresses.is_empty() { &everywhere[..] } else { &listen.addresses };
        let counts = Arc::new(Counts::default());
        let pod: Arc<str> = Arc::from(pod);
        let mut tasks = Vec::new();
        let _inside = self.runtime.enter();
        for &address in addresses {
            let http = SocketAddr::new(address, listen.http);
            let listener =
                namespace.run(|| std::net::TcpListener::bind(http).with_context(|| format!("bind {http}")))?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            tasks.push(self.runtime.spawn(accept(listener, pod.clone(), counts.clone())).abort_handle());

            let udp = SocketAddr::new(address, listen.udp);
            let socket = namespace.run(|| std::net::UdpSocket::bind(udp).with_context(|| format!("bind udp {udp}")))?;
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket)?;
            tasks.push(self.runtime.spawn(echo(socket, pod.clone(), counts.clone())).abort_handle());

            if let Some(port) = listen.sctp {
                let listener = namespace.run(|| sctp_listener(SocketAddr::new(address, port)))?;
                let listener = TcpListener::from_std(std::net::TcpListener::from(listener))?;
                tasks.push(self.runtime.spawn(accept(listener, pod.clone(), counts.clone())).abort_handle());
            }
        }
        Ok(Server { counts, tasks })
    }
}

impl Server {
    /// TCP and SCTP connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// UDP datagrams received so far.
    pub fn datagrams(&self) -> u64 {
        self.counts.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A one-to-one style SCTP listener (RFC 6458 section 4): read, written and accepted like TCP.
fn sctp_listener(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let listener = socket(family, SocketType::STREAM, Some(ipproto::SCTP)).context("open an sctp socket")?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &address).with_context(|| format!("bind sctp {address}"))?;
    listen(&listener, 128)?;
    rustix::fs::fcntl_setfl(&listener, rustix::fs::OFlags::NONBLOCK)?;
    Ok(listener)
}

/// Accepts until aborted; its connections end with it.
async fn accept(listener: TcpListener, pod: Arc<str>, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    counts.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(answer(stream, canonical(peer), pod.clone(), counts.clone()));
                }
                // The connection was reset before it was accepted; the listener is sound.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Answers requests of one connection until the client closes it.
async fn answer(mut stream: TcpStream, peer: SocketAddr, pod: Arc<str>, counts: Arc<Counts>) {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(n) = stream.read(&mut piece).await {
        if n == 0 {
            return;
        }
        request.extend_from_slice(piece.get(..n).unwrap_or_default());
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        // HTTP/1.0 and whoever says so expect the end of the connection for an answer (RFC 9112 section 9.3).
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let last = text.contains("http/1.0\r\n") || text.contains("connection: close\r\n");
        request.clear();
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let body = format!("{pod} {peer}\n");
        let reply =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(reply.as_bytes()).await.is_err() || last {
            return;
        }
    }
}

/// Answers datagrams until aborted.
async fn echo(socket: UdpSocket, pod: Arc<str>, counts: Arc<Counts>) {
    let mut datagram = [0; 2048];
    loop {
        // An error here is an ICMP message about an earlier reply: the next datagram may be fine.
        let Ok((_, peer)) = socket.recv_from(&mut datagram).await else { continue };
        counts.datagrams.fetch_add(1, Ordering::Relaxed);
        drop(socket.send_to(format!("{pod} {}\n", canonical(peer)).as_bytes(), peer).await);
    }
}

/// The IPv4 address where IPv6 notation wraps one: the wildcard listeners take both families.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
