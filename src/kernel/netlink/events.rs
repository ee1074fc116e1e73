//! Kernel events: a socket bound to multicast groups, to be awaited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::Socket as Raw;
use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;

use super::batch::Batch;
use super::error::Fault;
use super::message::{FIRST_OWN, Messages};
use super::socket::{Protocol, Socket, awaited, open_raw, receive_into};

/// Datagrams taken in one go, so that a storm of events cannot hold its reader for ever.
const DATAGRAMS_AT_ONCE: usize = 256;
/// The biggest datagram of events: one link message with all its attributes stays well below.
const DATAGRAM: usize = 64 << 10;

/// What a reading of events means for the reader's picture of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "lost events mean that the kernel must be read again"]
pub enum Heard {
    /// Everything that happened was seen.
    Everything,
    /// The buffer overflowed and events are missing: resync now.
    Lost,
}

/// A non-blocking socket that hears what others change. [`into_async`](EventSocket::into_async) makes it awaitable.
pub struct EventSocket {
    raw: Raw,
    datagram: Box<[u8]>,
}

impl std::fmt::Debug for EventSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSocket").field("fd", &self.raw.as_raw_fd()).finish_non_exhaustive()
    }
}

impl EventSocket {
    /// Listen to these multicast groups by number (`RTNLGRP_LINK` = 1 …), in the current network namespace.
    ///
    /// # Errors
    /// Whatever `socket(2)`, `bind(2)` or joining a group answers.
    pub fn open(protocol: Protocol, groups: &[u32]) -> io::Result<EventSocket> {
        let raw = open_raw(protocol)?;
        for &group in groups {
            raw.add_membership(group)?;
        }
        raw.set_non_blocking(true)?;
        Ok(EventSocket { raw, datagram: vec![0; DATAGRAM].into_boxed_slice() })
    }

    /// Listen to what the kernel sends to this socket alone once it took these requests.
    ///
    /// # Errors
    /// The first request that was refused; failures of the socket.
    pub fn subscribe(protocol: Protocol, requests: &mut Batch) -> Result<EventSocket, Fault> {
        let mut socket = Socket::open(protocol).map_err(Fault::Socket)?;
        for answer in socket.apply(requests) {
            answer?;
        }
        let raw = socket.into_raw();
        raw.set_non_blocking(true).map_err(Fault::Socket)?;
        Ok(EventSocket { raw, datagram: vec![0; DATAGRAM].into_boxed_slice() })
    }

    /// Register it with the tokio runtime the caller is in: wait with `readable_mut`, then `try_io` around
    /// [`read`](EventSocket::read).
    ///
    /// # Errors
    /// Where the descriptor cannot be watched.
    pub fn into_async(self) -> io::Result<AsyncFd<EventSocket>> {
        awaited(self)
    }

    /// Give every waiting event (type, the socket whose change it is, and payload) to `visit`, until the socket is empty or enough was read for one
    /// turn; in the latter case the descriptor stays readable.
    ///
    /// # Errors
    /// `WouldBlock` where nothing was waiting, so that `AsyncFd`'s `try_io` can be used; other failures of the
    /// socket.
    pub fn read(&mut self, visit: &mut dyn FnMut(u16, u32, &[u8])) -> io::Result<Heard> {
        let mut heard = Heard::Everything;
        for turn in 0..DATAGRAMS_AT_ONCE {
            match receive_into(self.raw.as_fd(), &mut self.datagram, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok(Some(length)) => {
                    for message in Messages::new(self.datagram.get(..length).unwrap_or_default()) {
                        if message.kind >= FIRST_OWN {
                            visit(message.kind, message.port, message.payload);
                        }
                    }
                }
                Ok(None) if turn == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                Ok(None) => break,
                Err(Fault::Socket(error)) => return Err(error),
                Err(_) => heard = Heard::Lost,
            }
        }
        Ok(heard)
    }
}

impl AsFd for EventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl AsRawFd for EventSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}
