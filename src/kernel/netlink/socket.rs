//! One netlink socket: opening, buffers, datagrams. What the datagrams mean is in `exchange.rs` and `events.rs`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::constants::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket as Raw, SocketAddr};
use rustix::net::{RecvFlags, SendFlags, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::Fault;
use super::events::EventSocket;

/// Receive buffer asked for, in bytes: room for some ten thousand queued errors (one is charged about 830 bytes).
const RECEIVE_BUFFER: usize = 8 << 20;
/// The largest send buffer we ask for: bounds one nftables transaction.
const MOST_SEND_BUFFER: usize = 64 << 20;
/// What the kernel keeps of the send buffer for itself (`netlink_sendmsg`).
const SEND_OVERHEAD: usize = 32;
/// The biggest datagram the kernel builds is 32 KiB; twice that leaves room for later kernels.
const DATAGRAM: usize = 64 << 10;
/// How long an answer may take. The kernel answers inside `send`, so this only ever ends a wait for an answer that
/// was lost without a trace.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which part of the kernel a socket talks to (`NETLINK_*` of `include/uapi/linux/netlink.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// rtnetlink: links, addresses, routes, rules.
    Route,
    /// nfnetlink: nftables, conntrack.
    Netfilter,
    /// Generic netlink: IPVS.
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Protocol::Route => NETLINK_ROUTE,
            Protocol::Netfilter => NETLINK_NETFILTER,
            Protocol::Generic => NETLINK_GENERIC,
        }
    }
}

/// A blocking socket for requests. Belongs to the network namespace the thread was in when it was opened.
pub struct Socket {
    raw: Raw,
    pub(super) sequence: u32,
    send_buffer: usize,
    datagram: Box<[u8]>,
    pub(super) sends: u64,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("sequence", &self.sequence).field("sends", &self.sends).finish_non_exhaustive()
    }
}

impl Socket {
    /// Open a socket in the current network namespace.
    ///
    /// # Errors
    /// Whatever `socket(2)`, `bind(2)` or the options answer; a kernel without the protocol says EPROTONOSUPPORT.
    pub fn open(protocol: Protocol) -> io::Result<Socket> {
        let raw = open_raw(protocol)?;
        // Before EXT_ACK: without it an error echoes the request and the text moves behind it.
        raw.set_cap_ack(true)?;
        raw.set_ext_ack(true)?;
        if protocol == Protocol::Route {
            // Without it filters in dump requests are ignored. Kernels before 4.20 do not have it.
            let _ = raw.set_netlink_get_strict_chk(true);
        }
        sockopt::set_socket_timeout(raw.as_fd(), sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        let send_buffer = sockopt::socket_send_buffer_size(raw.as_fd())?;
        Ok(Socket { raw, sequence: 1, send_buffer, datagram: vec![0; DATAGRAM].into_boxed_slice(), sends: 0 })
    }

    /// The number of this socket, by which events tell who made a change.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.raw.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// How many datagrams were sent: tests hold it against the number of operations.
    pub fn sends(&self) -> u64 {
        self.sends
    }

    /// The descriptor, for tests that make its buffers small.
    #[cfg(test)]
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }

    /// Send one datagram, growing the send buffer where needed. The kernel has done all of it when this returns.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.grow_send_buffer(bytes.len())?;
        self.sends = self.sends.saturating_add(1);
        loop {
            match rustix::net::send(self.raw.as_fd(), bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Fault::Socket(errno.into())),
            }
        }
    }

    /// The descriptor alone.
    pub(super) fn into_raw(self) -> Raw {
        self.raw
    }

    /// Receive one datagram; `None` where there is none (with `wait`: not even after the time-out).
    pub(super) fn receive(&mut self, wait: bool) -> Result<Option<&[u8]>, Fault> {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        let length = receive_into(self.raw.as_fd(), &mut self.datagram, flags)?;
        Ok(length.and_then(|length| self.datagram.get(..length)))
    }

    /// Throw away everything queued.
    pub(super) fn discard_queued(&mut self) {
        while !matches!(self.receive(false), Ok(None) | Err(Fault::Socket(_))) {}
    }

    fn grow_send_buffer(&mut self, length: usize) -> Result<(), Fault> {
        let needed = length.saturating_add(SEND_OVERHEAD);
        if needed <= self.send_buffer {
            return Ok(());
        }
        if needed > MOST_SEND_BUFFER {
            return Err(Fault::TooLong);
        }
        // The kernel doubles what it is given. Forcing needs CAP_NET_ADMIN; without it the limit is wmem_max.
        let asked = needed.next_power_of_two();
        if sockopt::set_socket_send_buffer_size_force(self.raw.as_fd(), asked).is_err() {
            sockopt::set_socket_send_buffer_size(self.raw.as_fd(), asked).map_err(io::Error::from)?;
        }
        self.send_buffer = sockopt::socket_send_buffer_size(self.raw.as_fd()).map_err(io::Error::from)?;
        Ok(())
    }
}

/// A socket in no multicast group yet, talking to the kernel only.
pub(super) fn open_raw(protocol: Protocol) -> io::Result<Raw> {
    let mut raw = Raw::new(protocol.number())?;
    if sockopt::set_socket_recv_buffer_size_force(raw.as_fd(), RECEIVE_BUFFER).is_err() {
        // Without CAP_NET_ADMIN the limit is rmem_max: lost answers stay noticed, they are only likelier.
        sockopt::set_socket_recv_buffer_size(raw.as_fd(), RECEIVE_BUFFER)?;
    }
    raw.bind(&SocketAddr::new(0, 0))?;
    raw.connect(&SocketAddr::new(0, 0))?;
    Ok(raw)
}

/// Registers an event socket with the tokio runtime the caller is in.
#[expect(unsafe_code, reason = "tokio cannot see that a descriptor stays the same and open")]
pub(super) fn awaited(events: EventSocket) -> io::Result<AsyncFd<EventSocket>> {
    // SAFETY: an `EventSocket` owns its descriptor, gives no way to replace or close it, tells the same one every
    // time, and closes it only when dropped, which `AsyncFd` does after it has deregistered.
    unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }.map_err(io::Error::from)
}

/// One datagram into `buffer`; its length, or `None` where nothing came.
pub(super) fn receive_into(
    descriptor: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<Option<usize>, Fault> {
    loop {
        match rustix::net::recv(descriptor, &mut *buffer, flags) {
            Ok((_, length)) if length > buffer.len() => return Err(Fault::TooLong),
            Ok((_, length)) => return Ok(Some(length)),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::NOBUFS) => return Err(Fault::Unknown),
            Err(errno) => return Err(Fault::Socket(errno.into())),
        }
    }
}
