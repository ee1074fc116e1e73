//! One daemon on a node: two would undo each other's work.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Where the lock is.
pub(super) const PATH: &str = "/run/ferrovia.lock";

/// Held as long as this value lives, and at most as long as the process.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _file: File,
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("another ferrovia runs on this node (process {pid}, lock {}); stop it first", path.display())]
    Held { path: PathBuf, pid: String },
    #[error("cannot use the lock {}: {source}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// Take the lock, or say who has it.
pub(super) fn take(path: &Path) -> Result<InstanceLock, LockError> {
    let unusable = |source: io::Error| LockError::Unusable { path: path.to_owned(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(unusable)?;
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(LockError::Held { path: path.to_owned(), pid });
        }
        Err(errno) => return Err(unusable(errno.into())),
    }
    let own = std::process::id();
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{own}")).map_err(unusable)?;
    Ok(InstanceLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_runs_and_the_lock_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = take(&path).unwrap();
        let told = take(&path).unwrap_err().to_string();
        assert!(told.contains(&format!("process {},", std::process::id())), "{told}");
        drop(first);
        take(&path).unwrap();
        let lost = take(&folder.path().join("no/such/folder")).unwrap_err().to_string();
        assert!(lost.starts_with("cannot use the lock "), "{lost}");
    }
}
