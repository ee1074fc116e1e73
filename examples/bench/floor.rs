//! The floor: netlink messages encoded beforehand, sent and answered, and nothing else. No decoding, no thinking, no
//! allocation on the way. What the daemon does cannot be quicker than this on the same kernel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ferrovia::kernel::ipvs::codec;
use ferrovia::kernel::ipvs::{Op, VirtualServerKey};
use ferrovia::kernel::netlink::generic::Family;
use ferrovia::kernel::netlink::{Batch, Protocol, Socket};
use netlink_sys::protocols::NETLINK_GENERIC;

/// Messages in one `send`; more is not faster.
const CHUNK: usize = 200;
/// `struct nlmsghdr`, bytes.
const HEADER: usize = 16;
/// `NLMSG_ERROR`: an acknowledgement or a refusal.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// `NLM_F_ACK`.
const ACK: u16 = 4;

/// Encoded messages, cut into datagrams.
#[derive(Debug)]
pub(crate) struct Prepared {
    datagrams: Vec<(Vec<u8>, u32)>,
}

/// A raw generic netlink socket of the calling thread's namespace.
pub(crate) struct Floor {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// The number of the IPVS family in this kernel.
///
/// # Errors
/// Where the kernel has no IPVS.
pub(crate) fn family_number() -> Result<u16> {
    let mut socket = Socket::open(Protocol::Generic).context("open a generic netlink socket")?;
    Family::new(codec::FAMILY_NAME).number(&mut socket).context("the kernel has no IPVS")
}

/// Messages that do `ops`.
///
/// # Errors
/// Where a message is longer than netlink allows.
pub(crate) fn changes(kind: u16, ops: &[Op]) -> Result<Prepared> {
    let mut batch = Batch::new();
    ops.iter().for_each(|op| codec::encode_op(&mut batch, kind, op));
    cut(batch.bytes(), CHUNK, ACK)
}

/// Requests that read the whole table: all virtual servers, then the real servers of each.
///
/// # Errors
/// Where a message is longer than netlink allows.
pub(crate) fn readings(kind: u16, keys: &[VirtualServerKey]) -> Result<Prepared> {
    let mut batch = Batch::new();
    codec::encode_dump_virtual_servers(&mut batch, kind);
    keys.iter().for_each(|key| codec::encode_dump_real_servers(&mut batch, kind, key));
    cut(batch.bytes(), 1, 0)
}

/// Cuts messages into datagrams of `n` and numbers them; the last of each gets `flags` on top.
fn cut(mut bytes: &[u8], n: usize, flags: u16) -> Result<Prepared> {
    let mut datagrams = Vec::new();
    let mut sequence = 0_u32;
    while !bytes.is_empty() {
        let mut datagram = Vec::new();
        let mut last = 0;
        for _ in 0..n {
            let Some(length) = bytes.first_chunk::<4>() else { break };
            let (message, rest) = bytes
                .split_at_checked(usize::try_from(u32::from_ne_bytes(*length))?)
                .context("a message is cut off")?;
            sequence += 1;
            last = datagram.len();
            datagram.extend_from_slice(message);
            patch(&mut datagram, last + 8, &sequence.to_ne_bytes())?;
            bytes = rest;
        }
        let old = datagram.get(last + 6..last + 8).context("a message without a header")?;
        let with_flags = u16::from_ne_bytes([old[0], old[1]]) | flags;
        patch(&mut datagram, last + 6, &with_flags.to_ne_bytes())?;
        datagrams.push((datagram, sequence));
    }
    Ok(Prepared { datagrams })
}

/// Overwrites bytes in place.
fn patch(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    bytes.get_mut(at..at + value.len()).context("a message without a header")?.copy_from_slice(value);
    Ok(())
}

impl Floor {
    /// Opens a socket.
    ///
    /// # Errors
    /// Where none can be had.
    pub(crate) fn open() -> Result<Floor> {
        let mut socket = netlink_sys::Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        Ok(Floor { socket, buffer: Vec::with_capacity(1 << 16) })
    }

    /// Sends everything and waits for each answer; how long that took.
    ///
    /// # Errors
    /// Where the kernel refuses one of the messages.
    pub(crate) fn run(&mut self, prepared: &Prepared) -> Result<Duration> {
        let start = Instant::now();
        for (datagram, last) in &prepared.datagrams {
            self.socket.send(datagram, 0)?;
            while !self.receive(*last)? {}
        }
        Ok(start.elapsed())
    }

    /// One datagram from the kernel; true where it answers message `last` to its end.
    fn receive(&mut self, last: u32) -> Result<bool> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut bytes = self.buffer.as_slice();
        let mut answered = false;
        while let Some((header, _)) = bytes.split_at_checked(HEADER) {
            let field = |at: usize| {
                header.get(at..at + 4).and_then(|four| four.first_chunk::<4>()).copied().unwrap_or_default()
            };
            let length = usize::try_from(u32::from_ne_bytes(field(0)))?.max(HEADER);
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            if kind == ERROR {
                let number =
                    bytes.get(HEADER..HEADER + 4).and_then(|four| four.first_chunk::<4>()).context("a short answer")?;
                let number = i32::from_ne_bytes(*number);
                if number != 0 {
                    bail!("the kernel refused a message: {}", std::io::Error::from_raw_os_error(-number));
                }
            }
            answered |= (kind == ERROR || kind == DONE) && u32::from_ne_bytes(field(8)) == last;
            // Messages are padded to four bytes, the last one may not be.
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answered)
    }
}
