//! One daemon for each network namespace: two would undo each other's work.
//!
//! The lock is an abstract Unix socket (unix(7)): its name belongs to the network namespace, as the kernel state does
//! that it protects, whatever containers the two daemons are in, and it ends with its owner.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// The lock's name.
pub(super) const NAME: &str = "ferrovia.lock";

/// Held as long as this value lives, and at most as long as the process.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _listener: UnixListener,
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("another ferrovia runs on this node ({owner}); stop it first")]
    Held { owner: String },
    #[error("cannot use the lock @{name}: {source}")]
    Unusable { name: String, source: io::Error },
}

/// Take the lock, or say who has it.
pub(super) fn take(name: &str) -> Result<InstanceLock, LockError> {
    let unusable = |source: io::Error| LockError::Unusable { name: name.to_owned(), source };
    let address = SocketAddr::from_abstract_name(name).map_err(unusable)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(InstanceLock { _listener: listener }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Held { owner: owner(&address) }),
        Err(error) => Err(unusable(error)),
    }
}

/// The process that listens, as far as it can be seen from here: another container may hide its number.
fn owner(address: &SocketAddr) -> String {
    let peer =
        UnixStream::connect_addr(address).ok().and_then(|stream| rustix::net::sockopt::socket_peercred(stream).ok());
    match peer {
        Some(peer) => format!("process {}", peer.pid.as_raw_nonzero()),
        None => "in another container".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_runs_and_the_lock_ends_with_its_owner() {
        let name = format!("ferrovia.test.{}", std::process::id());
        let first = take(&name).unwrap();
        let told = take(&name).unwrap_err().to_string();
        assert!(told.contains(&format!("process {})", std::process::id())), "{told}");
        drop(first);
        take(&name).unwrap();
        let lost = take(&"x".repeat(200)).unwrap_err().to_string();
        assert!(lost.starts_with("cannot use the lock "), "{lost}");
    }
}
