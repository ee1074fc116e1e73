//! What can go wrong between a request and its answer, before a subsystem gives it a meaning.

use std::io;

use crate::kernel::error::{Disposition, Error};

/// A refusal by the kernel (`NLMSG_ERROR` with a number).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's extended message, where it sent one.
    pub message: Option<String>,
    /// Offset of the attribute it complains about, from the start of the message.
    pub offset: Option<u32>,
}

/// Error numbers a subsystem's meaning hangs on, the same on all architectures Linux has them on
/// (`include/uapi/asm-generic/errno*.h`).
#[allow(missing_docs, reason = "errno(3) describes them")]
impl Refusal {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const ESRCH: i32 = 3;
    pub const EINTR: i32 = 4;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const ENODEV: i32 = 19;
    pub const EINVAL: i32 = 22;
    pub const ENFILE: i32 = 23;
    pub const EBADMSG: i32 = 74;
    pub const EMSGSIZE: i32 = 90;
    pub const EOPNOTSUPP: i32 = 95;
    pub const EAFNOSUPPORT: i32 = 97;
    pub const EADDRNOTAVAIL: i32 = 99;
    pub const ENOBUFS: i32 = 105;
    pub const ERESTART: i32 = 85;
}

/// Why a message has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The kernel said no.
    #[error("refused with error {}{}", .0.errno, .0.message.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused(Refusal),
    /// The answer was lost (receive buffer overflow, or none came in time): it may have been done or not.
    #[error("the kernel's answer was lost, the outcome is unknown")]
    Unknown,
    /// A dump was changed under our feet more often than we try.
    #[error("the dump was interrupted {attempts} times in a row")]
    Interrupted {
        /// Dumps started.
        attempts: u32,
    },
    /// A message did not fit: an attribute above 65,535 bytes or a datagram above the receive buffer.
    #[error("a message is too long for netlink")]
    TooLong,
    /// The socket itself failed; nothing of this was done.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
}

impl Fault {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Fault::Refused(refusal) => Some(refusal.errno),
            Fault::Socket(error) => error.raw_os_error(),
            Fault::Unknown | Fault::Interrupted { .. } | Fault::TooLong => None,
        }
    }

    /// What a caller may do where the number has no meaning of its own for the operation. Subsystems look at their
    /// own cases (EEXIST on add, ENOENT on delete) first.
    pub fn disposition(&self) -> Disposition {
        match self {
            Fault::Unknown => Disposition::Stale,
            Fault::Interrupted { .. } => Disposition::Retry,
            Fault::TooLong => Disposition::Fatal,
            Fault::Refused(_) | Fault::Socket(_) => match self.errno() {
                Some(
                    Refusal::EINTR
                    | Refusal::EAGAIN
                    | Refusal::ENOMEM
                    | Refusal::EBUSY
                    | Refusal::ENOBUFS
                    | Refusal::ERESTART,
                ) => Disposition::Retry,
                Some(Refusal::ENOENT | Refusal::ESRCH | Refusal::ENODEV | Refusal::EEXIST) => Disposition::Stale,
                _ => Disposition::Fatal,
            },
        }
    }

    /// The error callers see, for an operation in the operators' own language.
    pub fn into_error(self, op: String, kind: Disposition) -> Error {
        let errno = self.errno();
        let message = match self {
            Fault::Refused(refusal) => refusal.message.unwrap_or_default(),
            Fault::Socket(error) if error.raw_os_error().is_some() => "on the netlink socket".to_owned(),
            other => other.to_string(),
        };
        let message = if message.is_empty() && errno == Some(Refusal::EPERM) {
            "run with CAP_NET_ADMIN in the network namespace's user namespace".to_owned()
        } else {
            message
        };
        Error { op, errno, message, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_answers_are_never_taken_for_a_result() {
        assert_eq!(Fault::Unknown.disposition(), Disposition::Stale);
        assert_eq!(Fault::Interrupted { attempts: 10 }.disposition(), Disposition::Retry);
        let full = Fault::Socket(io::Error::from_raw_os_error(Refusal::ENOBUFS));
        assert_eq!((full.disposition(), full.errno()), (Disposition::Retry, Some(Refusal::ENOBUFS)));
    }

    #[test]
    fn errors_name_operation_number_and_the_kernels_words() {
        let refusal = Refusal { errno: Refusal::EINVAL, message: Some("Invalid scope".into()), offset: None };
        let error = Fault::Refused(refusal).into_error("ip route add".into(), Disposition::Fatal);
        assert_eq!(error.to_string(), "ip route add: Invalid argument (os error 22): Invalid scope");
    }
}
