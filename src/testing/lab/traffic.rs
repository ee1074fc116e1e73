//! Clients inside namespaces: HTTP, UDP and SCTP, as code of the test process, because starting `curl` costs more
//! than the request under emulation.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::net::{AddressFamily, SocketType, connect, ipproto, socket, sockopt};

use super::netns::Namespace;

/// How long one request may take unless the caller says otherwise.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// What a pod answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The pod that answered.
    pub pod: String,
    /// The client address and port it saw.
    pub client: SocketAddr,
}

/// An open HTTP connection: several requests go to the same pod.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

/// A connected UDP socket: the kernel drops datagrams that do not come from the address it was connected to, so a
/// reply proves that it came from the VIP.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
}

/// `n` HTTP requests, each on its own connection.
///
/// # Errors
/// At the first that fails.
pub fn http(from: &Namespace, to: SocketAddr, n: usize) -> Result<Vec<Reply>> {
    http_within(from, to, n, REQUEST_LIMIT)
        .into_iter()
        .enumerate()
        .map(|(i, reply)| reply.with_context(|| format!("http from {} to {to}, request {}", from.name(), i + 1)))
        .collect()
}

/// `n` HTTP requests, each on its own connection, each with its own outcome.
pub fn http_within(from: &Namespace, to: SocketAddr, n: usize, limit: Duration) -> Vec<io::Result<Reply>> {
    let requests = || Ok((0..n).map(|_| one_request(to, limit)).collect());
    from.run(requests).unwrap_or_else(|error| vec![Err(io::Error::other(format!("{error:#}")))])
}

/// One HTTP request; the error kind tells refused from timed out.
///
/// # Errors
/// Where it is not answered within `limit`.
pub fn http_once(from: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<Reply> {
    http_within(from, to, 1, limit).pop().unwrap_or_else(|| Err(ErrorKind::UnexpectedEof.into()))
}

/// One request of any path, such as `/readyz`: the status code and the body.
///
/// # Errors
/// Where it is not answered within `limit`.
pub fn get(from: &Namespace, to: SocketAddr, path: &str, limit: Duration) -> Result<(u16, String)> {
    from.run(|| {
        let mut stream = open(to, limit).with_context(|| format!("connect to {to}"))?;
        exchange(&mut stream, path).with_context(|| format!("GET {path} from {to}"))
    })
}

/// One request over an already open stream.
///
/// # Errors
/// Where the other side does not speak HTTP/1.1.
pub fn exchange(stream: &mut (impl Read + Write), path: &str) -> Result<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n")?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    let text = String::from_utf8_lossy(&raw);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| anyhow!("no end of headers in {text:?}"))?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    Ok((status.ok_or_else(|| anyhow!("no status in {head:?}"))?, body))
}

/// The content of a chunked body (RFC 9112 section 7.1).
fn unchunk(mut body: &str) -> String {
    let mut content = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        content.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    content
}

/// One datagram and its reply from a fresh socket, `n` times.
///
/// # Errors
/// At the first that is not answered.
pub fn udp(from: &Namespace, to: SocketAddr, n: usize) -> Result<Vec<Reply>> {
    (0..n)
        .map(|i| {
            let reply = UdpClient::connect(from, to)?.ask(REQUEST_LIMIT);
            reply.with_context(|| format!("udp from {} to {to}, datagram {}", from.name(), i + 1))
        })
        .collect()
}

/// One request over SCTP (one-to-one style, RFC 6458 section 4).
///
/// # Errors
/// Where it is not answered within [`REQUEST_LIMIT`].
pub fn sctp(from: &Namespace, to: SocketAddr) -> Result<Reply> {
    from.run(|| {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::STREAM, Some(ipproto::SCTP)).context("open an sctp socket")?;
        for timeout in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
            sockopt::set_socket_timeout(&socket, timeout, Some(REQUEST_LIMIT))?;
        }
        connect(&socket, &to).with_context(|| format!("connect sctp {to}"))?;
        Ok(Connection { stream: TcpStream::from(socket) }.request()?)
    })
}

/// Whether `to` answers an ICMP echo request within `limit`.
///
/// # Errors
/// Where no raw socket can be opened or the request cannot be sent.
pub fn ping(from: &Namespace, to: IpAddr, limit: Duration) -> Result<bool> {
    let seconds = limit.as_secs().max(1);
    let output = from.output(&format!("ping -n -q -c 1 -W {seconds} {to}"))?;
    // 0: answered, 1: no answer; anything else is a fault of the call.
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(anyhow!("ping {to}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl From<TcpStream> for Connection {
    /// What is open already, over TCP or SCTP.
    fn from(stream: TcpStream) -> Connection {
        Connection { stream }
    }
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// Where it is not accepted within [`REQUEST_LIMIT`].
    pub fn open(from: &Namespace, to: SocketAddr) -> Result<Connection> {
        let stream = from.run(|| open(to, REQUEST_LIMIT).with_context(|| format!("connect to {to}")));
        Ok(Connection { stream: stream.with_context(|| format!("from {}", from.name()))? })
    }

    /// One request on this connection.
    ///
    /// # Errors
    /// Where the connection was cut or nothing came in time.
    pub fn request(&mut self) -> io::Result<Reply> {
        request_on(&mut self.stream)
    }

    /// The local port, which identifies the flow in conntrack and IPVS listings.
    ///
    /// # Errors
    /// Where the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl UdpClient {
    /// Opens a socket and connects it.
    ///
    /// # Errors
    /// Where there is no route to `to`.
    pub fn connect(from: &Namespace, to: SocketAddr) -> Result<UdpClient> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = from.run(|| {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to).with_context(|| format!("no route to {to}"))?;
            Ok(socket)
        })?;
        Ok(UdpClient { socket })
    }

    /// Sends one datagram without waiting for an answer. ICMP errors of earlier ones are not failures: a one-way
    /// sender does not look at them either.
    pub fn send(&self) {
        drop(self.socket.send(b"ping\n"));
    }

    /// Sends one datagram and waits for its reply.
    ///
    /// # Errors
    /// Where none comes within `limit`, or the port is refused.
    pub fn ask(&self, limit: Duration) -> io::Result<Reply> {
        self.socket.set_read_timeout(Some(limit))?;
        self.socket.send(b"ping\n")?;
        let mut datagram = [0; 2048];
        let n = self.socket.recv(&mut datagram).map_err(timed_out)?;
        parse(&String::from_utf8_lossy(datagram.get(..n).unwrap_or_default()))
    }
}

/// Connects in the namespace of the calling thread.
fn open(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One connection, one request.
fn one_request(to: SocketAddr, limit: Duration) -> io::Result<Reply> {
    request_on(&mut open(to, limit)?)
}

/// One request on an open connection.
fn request_on(stream: &mut TcpStream) -> io::Result<Reply> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: lab\r\n\r\n")?;
    let mut raw = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let n = stream.read(&mut piece).map_err(timed_out)?;
        if n == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed before the reply was complete"));
        }
        raw.extend_from_slice(piece.get(..n).unwrap_or_default());
        let text = String::from_utf8_lossy(&raw);
        if let Some((_, body)) = text.split_once("\r\n\r\n").filter(|(_, body)| body.ends_with('\n')) {
            return parse(body);
        }
    }
}

/// `pod address:port`, as the servers write it.
fn parse(text: &str) -> io::Result<Reply> {
    let words = text.trim().split_once(' ');
    words
        .and_then(|(pod, client)| Some(Reply { pod: pod.to_owned(), client: client.parse().ok()? }))
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("not a reply of the lab's servers: {text:?}")))
}

/// A read timeout has one name here, whatever the platform calls it.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}
