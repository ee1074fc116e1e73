//! What people and probes may ask a running daemon: health, metrics, profiles, and its own view of things.
//!
//! Each server is bound before anything else starts, because a port that is taken is a start-up error. Nothing here
//! decides anything about the node; all that can be asked for through it is a drain.

pub mod debug;
pub mod health;
pub mod probes;
pub mod profile;
pub mod status;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// Why a server cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A port cannot be had.
    #[error("--{flag}: cannot listen on {wanted}: {source}; stop what holds it or choose another")]
    Bind {
        /// The flag that names the port.
        flag: &'static str,
        /// Where.
        wanted: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("--admin-socket={}: cannot listen: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Take a port: the first of `addresses` that can be had.
///
/// # Errors
/// [`AdminError::Bind`] naming `flag`.
pub async fn bind(flag: &'static str, addresses: &[SocketAddr]) -> Result<TcpListener, AdminError> {
    TcpListener::bind(addresses).await.map_err(|source| AdminError::Bind {
        flag,
        wanted: addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        source,
    })
}

/// Make the admin socket, readable and writable for root alone. A socket that an earlier run left is replaced; the
/// caller holds the single-instance lock, so nobody can be listening on it.
///
/// # Errors
/// [`AdminError::Socket`].
pub fn bind_socket(path: &Path) -> Result<UnixListener, AdminError> {
    open_socket(path).map_err(|source| AdminError::Socket { path: path.to_owned(), source })
}

fn open_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if is_socket(&found) => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn is_socket(found: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())
}

/// Connections served at a time by one server: probes, a scraper or two, an operator. More wait to be accepted.
const MOST_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's header, and how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Answer requests until `stop` resolves; then end when the requests that are being answered are.
pub async fn serve<L>(mut listener: L, routes: axum::Router, stop: impl Future<Output = ()> + Send + 'static)
where
    L: axum::serve::Listener,
{
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let open = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let place = Arc::clone(&free).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, (stream, _)) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = open.watch(server.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            // A client that breaks off or dawdles hurts only itself.
            let _ = connection.await;
            drop(place);
        });
    }
    open.shutdown().await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_told_with_its_flag() {
        let first = bind("health-port", &["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind("health-port", &[address]).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("--health-port: cannot listen on {address}: ")), "{error}");
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only_and_replaces_a_stale_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/admin.sock");
        drop(bind_socket(&path).unwrap());
        let _listener = bind_socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(bind_socket(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }

    /// A server on a socket of its own; it ends when the sender is gone.
    fn server(folder: &Path) -> (PathBuf, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let path = folder.join("socket");
        let (stop, stopping) = oneshot::channel();
        let routes = axum::Router::new().route("/", get(|| async { "here" }));
        let stopped = async move { drop(stopping.await) };
        let running = tokio::spawn(serve(bind_socket(&path).unwrap(), routes, stopped));
        (path, stop, running)
    }

    async fn answer(stream: &mut UnixStream) -> String {
        let mut text = String::new();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_say_nothing_are_dropped_and_keep_out_nobody_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stop, running) = server(folder.path());
        let mut silent = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut late = UnixStream::connect(&path).await.unwrap();
        let begun = tokio::time::Instant::now();
        let text = answer(&mut late).await;
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("here"), "{text}");
        assert!(begun.elapsed() >= HEADER_TIMEOUT, "served beside the others, after {:?}", begun.elapsed());
        drop(stop);
        running.await.unwrap();
        assert!(UnixStream::connect(&path).await.is_err(), "it has stopped");
    }
}
