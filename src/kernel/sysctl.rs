//! Kernel settings under `/proc/sys`, of the network namespace the calling thread is in.

use std::io;
use std::path::PathBuf;

/// Read and write kernel settings.
pub trait Sysctl: Send {
    /// The value, trimmed, or `None` where this kernel has no such setting.
    /// `key` is a path below `/proc/sys`, such as `net/ipv4/vs/conntrack`.
    fn read(&mut self, key: &str) -> io::Result<Option<String>>;
    /// Write a value.
    fn write(&mut self, key: &str, value: &str) -> io::Result<()>;
}

/// The real `/proc/sys`.
#[derive(Debug, Clone)]
pub struct ProcSys {
    root: PathBuf,
}

impl Default for ProcSys {
    fn default() -> ProcSys {
        ProcSys { root: PathBuf::from("/proc/sys") }
    }
}

impl Sysctl for ProcSys {
    fn read(&mut self, key: &str) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.root.join(key)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, key: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.root.join(key), value)
    }
}

/// A `/proc/sys` in memory, for tests: keys it does not hold do not exist, and chosen ones cannot be written.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Default)]
pub struct FakeSysctl {
    /// Present settings.
    pub values: std::collections::BTreeMap<String, String>,
    /// Settings that refuse writes with EACCES.
    pub read_only: std::collections::BTreeSet<String>,
}

#[cfg(any(test, feature = "testing"))]
impl Sysctl for FakeSysctl {
    fn read(&mut self, key: &str) -> io::Result<Option<String>> {
        Ok(self.values.get(key).cloned())
    }

    fn write(&mut self, key: &str, value: &str) -> io::Result<()> {
        if self.read_only.contains(key) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        match self.values.get_mut(key) {
            Some(slot) => {
                value.clone_into(slot);
                Ok(())
            }
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }
}
