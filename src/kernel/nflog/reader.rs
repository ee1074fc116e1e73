//! One log group, read as its packets come.

use std::io;

use tokio::io::unix::AsyncFd;

use super::Packet;
use super::codec::{decode_packet, encode_bind};
use crate::kernel::netlink::{Batch, EventSocket, Fault, Heard, Protocol, Refusal};

/// Why a group cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error("another program reads log group {group}: stop it, or leave the reading to it")]
    Taken {
        /// The group.
        group: u16,
    },
    /// The kernel refuses for another reason.
    #[error("cannot read log group {group}: {fault}; is kernel module nfnetlink_log loaded?")]
    Refused {
        /// The group.
        group: u16,
        /// Why.
        fault: Fault,
    },
    /// The socket cannot be watched.
    #[error("cannot wait for packets of a log group: {0}")]
    Socket(#[from] io::Error),
}

/// Reads one group of the network namespace it was opened in. Dropping it gives the group up.
#[derive(Debug)]
pub struct Reader {
    socket: AsyncFd<EventSocket>,
}

impl Reader {
    /// Takes a group. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(group: u16) -> Result<Reader, OpenError> {
        let mut batch = Batch::new();
        encode_bind(&mut batch, group);
        let socket = EventSocket::subscribe(Protocol::Netfilter, &mut batch).map_err(|fault| match fault.errno() {
            // A group of another socket is refused as if a right were missing (nfulnl_recv_config).
            Some(Refusal::EPERM | Refusal::EBUSY) => OpenError::Taken { group },
            _ => OpenError::Refused { group, fault },
        })?;
        Ok(Reader { socket: socket.into_async()? })
    }

    /// Waits for packets; those of one reading come together, with whether others were lost before them. Safe to drop
    /// while waiting.
    ///
    /// # Errors
    /// Where the socket fails.
    pub async fn next(&mut self) -> io::Result<(Vec<Packet>, Heard)> {
        loop {
            let mut ready = self.socket.readable_mut().await?;
            let mut packets = Vec::new();
            let visit = &mut |kind: u16, _, payload: &[u8]| packets.extend(decode_packet(kind, payload));
            // An error here is a false alarm: wait again.
            let Ok(heard) = ready.try_io(|socket| socket.get_mut().read(visit)) else { continue };
            let heard = heard?;
            if !packets.is_empty() || heard == Heard::Lost {
                return Ok((packets, heard));
            }
        }
    }
}
