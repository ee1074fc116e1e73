//! What people and probes may ask a running daemon: health, metrics, profiles, and its own view of things.
//!
//! Each server is bound before anything else starts, because a port that is taken is a start-up error. Nothing here
//! decides anything about the node, and nothing can be changed through it.

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

use tokio::net::{TcpListener, UnixListener};

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

/// Answer requests until `stop` resolves.
///
/// # Errors
/// Whatever ends accepting; single connections end on their own.
pub async fn serve<L>(
    listener: L,
    routes: axum::Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

#[cfg(test)]
mod tests {
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
}
