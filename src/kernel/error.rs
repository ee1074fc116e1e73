//! What the kernel answers when it does not do what was asked.

use std::fmt;

/// A refused or failed kernel operation, with enough to find the object and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What was attempted, in the operators' own language (`ipvsadm -A -t 10.96.0.1:80 -s rr`).
    pub op: String,
    /// The kernel's error number (positive), where the kernel gave one.
    pub errno: Option<i32>,
    /// The kernel's extended message or ours.
    pub message: String,
    /// What a caller may do about it.
    pub kind: Disposition,
}

/// What a caller may do about an error: match on this, never on numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The kernel already is as asked (EEXIST on add, ENOENT or ESRCH on delete): success, but our picture was stale.
    AlreadySo,
    /// Passing trouble (ENOBUFS, EINTR, EBUSY, ENOMEM, interrupted dump): the same call may work later.
    Retry,
    /// The picture this was planned on is wrong (ENOENT on change, unknown outcome): read again, plan again.
    Stale,
    /// Will not work however often it is tried (EINVAL, EPERM, EOPNOTSUPP, missing module).
    Fatal,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        if let Some(errno) = self.errno {
            write!(f, ": {}", std::io::Error::from_raw_os_error(errno))?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl Error {
    /// What a caller may do about it.
    pub fn disposition(&self) -> Disposition {
        self.kind
    }
}
