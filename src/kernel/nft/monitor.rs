//! What others change in some tables, as a stream of hints: whoever hears one reads them again.

use std::io;

use tokio::io::unix::AsyncFd;

use super::uapi::SUBSYSTEM;
use crate::kernel::filter::Name;
use crate::kernel::netlink::{Attributes, EventSocket, Heard, Protocol};

/// `NFNLGRP_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;
/// The attribute that names the table, in messages about tables, chains, rules, sets, elements and objects alike.
const TABLE: u16 = 1;

/// Listens to tables of the network namespace it was opened in.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<EventSocket>,
    tables: Vec<Name>,
    own: u32,
}

impl Monitor {
    /// Begins to listen, deaf to changes made through the socket with the number `own`
    /// ([`NftClient::port`](super::NftClient::port)). Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// Where the socket cannot be had or not be watched.
    pub fn open(tables: Vec<Name>, own: u32) -> io::Result<Monitor> {
        Ok(Monitor { socket: EventSocket::open(Protocol::Netfilter, &[GROUP])?.into_async()?, tables, own })
    }

    /// Waits until somebody else changed one of the tables, or until events were lost. Safe to drop while waiting.
    ///
    /// # Errors
    /// Where the socket fails.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable_mut().await?;
            let mut touched = false;
            let (tables, own) = (&self.tables, self.own);
            let visit = &mut |kind: u16, port: u32, payload: &[u8]| {
                touched |= port != own && concerns(kind, payload, tables);
            };
            // An error here is a false alarm: wait again.
            let Ok(heard) = ready.try_io(|socket| socket.get_mut().read(visit)) else { continue };
            if heard? == Heard::Lost || touched {
                return Ok(());
            }
        }
    }
}

/// Whether a message (type and payload) is about one of these tables.
fn concerns(kind: u16, payload: &[u8], tables: &[Name]) -> bool {
    let name = || Attributes::after(payload, HEADER).find(TABLE).and_then(|name| name.text());
    kind >> 8 == SUBSYSTEM && name().is_some_and(|name| tables.iter().any(|table| &**table == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::filter::plan::{Change, Transaction};
    use crate::kernel::netlink::Messages;

    #[test]
    fn every_kind_of_message_names_its_table() {
        let changes = vec![
            Change::AddTable,
            Change::AddChain(Name::from("c"), None),
            Change::FlushChain(Name::from("c")),
            Change::DeleteSet(Name::from("s")),
            Change::AddKeys(Name::from("s"), vec![vec![crate::kernel::filter::Field::Port(1)]]),
        ];
        let transaction = Transaction { table: Some(Name::from("ours")), changes };
        let encoded = super::super::codec::encode(&transaction).unwrap();
        let (ours, other) = ([Name::from("theirs"), Name::from("ours")], [Name::from("other")]);
        let mut heard = 0;
        for message in Messages::new(encoded.batch.bytes()).filter(|message| message.kind >> 8 == SUBSYSTEM) {
            assert!(concerns(message.kind, message.payload, &ours), "type {:#x}", message.kind);
            assert!(!concerns(message.kind, message.payload, &other));
            assert!(!concerns(message.kind & 0xff, message.payload, &ours), "another subsystem");
            heard += 1;
        }
        assert_eq!(heard, 5);
    }
}
