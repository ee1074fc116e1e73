//! Health-check node ports: how a load balancer learns which nodes have local endpoints (async).
//!
//! One listener for each port, on all addresses of both families. Any request is answered with kube-router's texts:
//! 200 `<n> Service Endpoints found`, or 503 `No Service Endpoints Found`. A port that cannot be opened is tried
//! again for as long as it is wanted, and reported meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::model::{Notice, ServiceKey, Severity, Subject};
use crate::reconcile::backoff::Backoff;

/// How long a client may take to send its request, as kube-router has it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to read the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest request head that is read, in bytes.
const MAX_REQUEST: usize = 8 * 1024;
/// Connections served at a time for each port; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;
/// Length of the listener's backlog.
const BACKLOG: u32 = 128;

/// What the room asks for: for each port whose it is, and how many distinct endpoints are ready on this node.
pub type HealthChecks = BTreeMap<u16, (ServiceKey, usize)>;

/// One running port.
struct Server {
    entry: watch::Sender<(ServiceKey, usize)>,
    task: JoinHandle<()>,
}

/// Opens, changes and closes ports until they are as desired, again and again, until nobody can desire any more; then
/// closes them all. A port that cannot be opened becomes a notice when that begins, and when the reason changes.
pub async fn serve(mut desired: watch::Receiver<HealthChecks>, notices: mpsc::UnboundedSender<Notice>) {
    let mut servers: BTreeMap<u16, Server> = BTreeMap::new();
    loop {
        let wanted = desired.borrow_and_update().clone();
        let gone: Vec<u16> = servers.keys().copied().filter(|port| !wanted.contains_key(port)).collect();
        for server in gone.iter().filter_map(|port| servers.remove(port)) {
            close(server).await;
        }
        for (port, entry) in wanted {
            match servers.get(&port) {
                Some(server) => {
                    server.entry.send_replace(entry);
                }
                None => {
                    let (entry, current) = watch::channel(entry);
                    let task = tokio::spawn(keep_open(port, current, notices.clone()));
                    servers.insert(port, Server { entry, task });
                }
            }
        }
        if desired.changed().await.is_err() {
            break;
        }
    }
    for server in servers.into_values() {
        close(server).await;
    }
}

/// Ends a server and waits until its socket is closed, so that the port can be opened again.
async fn close(server: Server) {
    server.task.abort();
    if let Err(error) = server.task.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Opens a port, however long it takes, and serves it.
async fn keep_open(port: u16, entry: watch::Receiver<(ServiceKey, usize)>, notices: mpsc::UnboundedSender<Notice>) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut told = None;
    let listener = loop {
        match listen(port) {
            Ok(listener) => break listener,
            Err(error) => {
                let notice = port_taken(port, &entry.borrow().0, &error);
                if told.as_ref() != Some(&notice) {
                    told = Some(notice.clone());
                    // Nobody listens any more only while the daemon ends.
                    let _ = notices.send(notice);
                }
                sleep(backoff.failed()).await;
            }
        }
    };
    tracing::debug!(port, "health check port open");
    accept(listener, entry).await;
}

/// Listens on all addresses: one socket for both families, or IPv4 alone where the kernel has no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let dual = TcpSocket::new_v6().and_then(|socket| {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        bind(socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    });
    match dual {
        Err(error) if no_ipv6(&error) => bind(TcpSocket::new_v4()?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        other => other,
    }
}

fn bind(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The kernel has no IPv6, or has it switched off.
fn no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn port_taken(port: u16, service: &ServiceKey, error: &io::Error) -> Notice {
    Notice {
        subject: Subject::Service(service.clone()),
        severity: Severity::Warning,
        reason: "HealthCheckPortTaken",
        message: format!(
            "healthCheckNodePort {port} cannot be opened ({error}), so load balancers take this node for down; stop \
             what uses the port, or give the Service another one"
        ),
    }
}

/// Serves connections, a bounded number at a time.
async fn accept(listener: TcpListener, entry: watch::Receiver<(ServiceKey, usize)>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Never closed, so this cannot fail.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let entry = entry.clone();
                connections.spawn(async move {
                    converse(stream, &entry).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, or a client that left early: the next one may fare better.
                tracing::debug!(reason = %error, "health check connection not accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One request, one answer. What goes wrong is the client's own business.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, entry: &watch::Receiver<(ServiceKey, usize)>) {
    let request = match timeout(REQUEST_TIMEOUT, read_head(&mut stream)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None) | Err(_)) | Err(_) => return,
    };
    let ready = entry.borrow().1;
    let answer = answer(&request, ready);
    let write = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // An error or an elapsed time closes the connection, which is all there is to do.
    let _closed = timeout(ANSWER_TIMEOUT, write).await;
}

/// The request head, or `None` when the client closed before its end. Cut at [`MAX_REQUEST`].
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(512);
    loop {
        if head.len() >= MAX_REQUEST || ends_head(&head) {
            return Ok(Some(head));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
}

/// True when an empty line is among the bytes (RFC 9112, section 2.2: a lone LF may end a line).
fn ends_head(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|window| window == b"\r\n\r\n") || bytes.windows(2).any(|window| window == b"\n\n")
}

/// The whole response to a request head.
fn answer(head: &[u8], local_ready: usize) -> String {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let is_http = words.nth(1).is_some_and(|version| version.starts_with(b"HTTP/1."));
    let (status, body) = if !ends_head(head) {
        ("431 Request Header Fields Too Large", "request head too long\n".to_owned())
    } else if !is_http {
        ("400 Bad Request", "not an HTTP/1 request\n".to_owned())
    } else if local_ready > 0 {
        ("200 OK", format!("{local_ready} Service Endpoints found\n"))
    } else {
        ("503 Service Unavailable", "No Service Endpoints Found\n".to_owned())
    };
    let length = body.len();
    let body = if method == b"HEAD" { "" } else { &body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn entry(local_ready: usize) -> (ServiceKey, usize) {
        (ServiceKey::new("default", "web"), local_ready)
    }

    /// The room's end of a running responder.
    struct Room {
        desired: watch::Sender<HealthChecks>,
        notices: mpsc::UnboundedReceiver<Notice>,
    }

    fn start() -> Room {
        let (desired, wanted) = watch::channel(BTreeMap::new());
        let (tell, notices) = mpsc::unbounded_channel();
        tokio::spawn(serve(wanted, tell));
        Room { desired, notices }
    }

    /// A port nobody uses at the moment.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    async fn ask(address: IpAddr, port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Asks until the answer is as wanted.
    async fn ask_until(address: &str, port: u16, wanted: impl Fn(&io::Result<String>) -> bool) {
        let address: IpAddr = address.parse().unwrap();
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = ask(address, port).await;
            if wanted(&answer) {
                return;
            }
            assert!(Instant::now() < end, "last answer: {answer:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn says<'a>(status: &'a str, body: &'a str) -> impl Fn(&io::Result<String>) -> bool + 'a {
        move |answer| {
            answer.as_ref().is_ok_and(|text| {
                text.starts_with(&format!("HTTP/1.1 {status} ")) && text.ends_with(&format!("\r\n\r\n{body}"))
            })
        }
    }

    #[test]
    fn answers_with_the_texts_load_balancers_know() {
        let head = b"GET / HTTP/1.0\r\n\r\n";
        let ready = answer(head, 3);
        assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
        assert!(ready.contains("\r\nContent-Length: 26\r\n") && ready.ends_with("\r\n\r\n3 Service Endpoints found\n"));
        let none = answer(b"GET /healthz HTTP/1.1\nHost: a\n\n", 0);
        assert!(none.starts_with("HTTP/1.1 503 ") && none.ends_with("\r\n\r\nNo Service Endpoints Found\n"), "{none}");
        let no_body = answer(b"HEAD / HTTP/1.1\r\n\r\n", 3);
        assert!(no_body.contains("Content-Length: 26") && no_body.ends_with("\r\n\r\n"), "{no_body}");
        for nonsense in [&b"\r\n\r\n"[..], b"GET /\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / SPDY/3\r\n\r\n"] {
            assert!(answer(nonsense, 3).starts_with("HTTP/1.1 400 "), "{nonsense:?}");
        }
        assert!(answer(b"GET / HTTP/1.1\r\nX: ", 3).starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_slowly_is_let_go() {
        let (_keep, entry) = watch::channel(entry(1));
        let (mut client, server) = tokio::io::duplex(1024);
        let start = Instant::now();
        let send_slowly = async {
            for _ in 0..100 {
                if client.write_all(b"x").await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = converse(server, &entry) => {}
            () = send_slowly => panic!("served for ever"),
        }
        assert_eq!(start.elapsed(), REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_let_go() {
        let (_keep, entry) = watch::channel(entry(1));
        let (mut client, server) = tokio::io::duplex(18);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let start = Instant::now();
        converse(server, &entry).await;
        assert_eq!(start.elapsed(), ANSWER_TIMEOUT);
    }

    #[tokio::test]
    async fn a_request_may_come_in_pieces_and_must_end() {
        let (_keep, entry) = watch::channel(entry(1));
        let (mut client, server) = tokio::io::duplex(1024);
        let talk = async {
            for piece in [&b"GET / HT"[..], b"TP/1.1\r\n", b"\r", b"\n"] {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(converse(server, &entry), talk);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

        let (mut client, server) = tokio::io::duplex(2 * MAX_REQUEST);
        client.write_all(&vec![b'a'; MAX_REQUEST + 1]).await.unwrap();
        converse(server, &entry).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn opens_changes_and_closes_ports() {
        let mut room = start();
        let port = free_port();
        room.desired.send_replace(BTreeMap::from([(port, entry(2))]));
        ask_until("127.0.0.1", port, says("200", "2 Service Endpoints found\n")).await;
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            ask_until("::1", port, says("200", "2 Service Endpoints found\n")).await;
        }
        room.desired.send_replace(BTreeMap::from([(port, entry(0))]));
        ask_until("127.0.0.1", port, says("503", "No Service Endpoints Found\n")).await;
        let other = free_port();
        room.desired.send_replace(BTreeMap::from([(other, entry(1))]));
        ask_until("127.0.0.1", other, says("200", "1 Service Endpoints found\n")).await;
        ask_until("127.0.0.1", port, Result::is_err).await;
        drop(room.desired);
        ask_until("127.0.0.1", other, Result::is_err).await;
        assert_eq!(room.notices.recv().await, None, "nothing was wrong");
    }

    #[tokio::test]
    async fn a_taken_port_is_reported_once_and_opened_when_it_is_free() {
        let holder = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let mut room = start();
        room.desired.send_replace(BTreeMap::from([(port, entry(1))]));
        let notice = timeout(DEADLINE, room.notices.recv()).await.unwrap().unwrap();
        assert_eq!(notice.reason, "HealthCheckPortTaken");
        assert_eq!(notice.subject, Subject::Service(ServiceKey::new("default", "web")));
        assert!(notice.message.contains(&port.to_string()), "{}", notice.message);
        drop(holder);
        ask_until("127.0.0.1", port, says("200", "1 Service Endpoints found\n")).await;
        drop(room.desired);
        assert_eq!(room.notices.recv().await, None, "told once");
    }

    #[tokio::test]
    async fn a_taken_port_that_is_no_longer_wanted_is_not_opened() {
        let holder = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let taken = holder.local_addr().unwrap().port();
        let mut room = start();
        room.desired.send_replace(BTreeMap::from([(taken, entry(1))]));
        timeout(DEADLINE, room.notices.recv()).await.unwrap().unwrap();
        let other = free_port();
        room.desired.send_replace(BTreeMap::from([(other, entry(1))]));
        ask_until("127.0.0.1", other, says("200", "1 Service Endpoints found\n")).await;
        // The task that wanted the port has ended by now: it is free for others.
        drop(holder);
        drop(std::net::TcpListener::bind(("0.0.0.0", taken)).unwrap());
    }

    #[tokio::test]
    async fn connections_that_end_make_room_for_others() {
        let room = start();
        let port = free_port();
        room.desired.send_replace(BTreeMap::from([(port, entry(1))]));
        ask_until("127.0.0.1", port, says("200", "1 Service Endpoints found\n")).await;
        for _ in 0..3 {
            let mut idle = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
            }
            drop(idle);
            timeout(DEADLINE, ask_until("127.0.0.1", port, says("200", "1 Service Endpoints found\n"))).await.unwrap();
        }
    }
}
