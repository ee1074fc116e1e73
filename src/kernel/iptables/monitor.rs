//! What others change in iptables-nft around our chains, as a stream of hints: whoever hears one reads the rules again.
//!
//! The nftables flavour is tables of nftables, whose changes the kernel tells. The tables of old and ipset tell nothing.

use std::io;

use tokio::io::unix::AsyncFd;

use super::script::HOOKS;
use super::{PREFIX, Table, programs};
use crate::kernel::netlink::{Attributes, EventSocket, Heard, Protocol};
use crate::kernel::nft::uapi::{FAMILY_IPV4, FAMILY_IPV6, SUBSYSTEM, chain, message, rule, table};

/// `NFNLGRP_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;

/// Listens to the tables of iptables-nft of the network namespace it was opened in, deaf to what programs write that this
/// daemon started.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<EventSocket>,
}

impl Monitor {
    /// Begins to listen. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// Where the socket cannot be had or not be watched.
    pub fn open() -> io::Result<Monitor> {
        Ok(Monitor { socket: EventSocket::open(Protocol::Netfilter, &[GROUP])?.into_async()? })
    }

    /// Waits until somebody else changed our chains or a chain that leads to them, or until events were lost. Safe to drop
    /// while waiting.
    ///
    /// # Errors
    /// Where the socket fails.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable_mut().await?;
            let mut touched = false;
            // A program's socket bears the number of its process (netlink_autobind).
            let visit = &mut |kind: u16, port: u32, payload: &[u8]| {
                touched |= concerns(kind, payload) && !programs::is_started(port);
            };
            // An error here is a false alarm: wait again.
            let Ok(heard) = ready.try_io(|socket| socket.get_mut().read(visit)) else { continue };
            if heard? == Heard::Lost || touched {
                return Ok(());
            }
        }
    }
}

/// Whether a message (type and payload) is about chains of ours, or what stands before the jumps to them.
fn concerns(kind: u16, payload: &[u8]) -> bool {
    let family = payload.first().copied();
    if kind >> 8 != SUBSYSTEM || !matches!(family, Some(FAMILY_IPV4 | FAMILY_IPV6)) {
        return false;
    }
    let text = |attribute: u16| {
        let found = Attributes::after(payload, HEADER).find(attribute);
        found.and_then(|found| found.text().map(str::to_owned)).unwrap_or_default()
    };
    // Tables, chains and rules all name the table in their first attribute.
    if Table::from_name(&text(table::NAME)).is_none() {
        return false;
    }
    match kind & 0xff {
        message::DELETE_TABLE => true,
        message::NEW_CHAIN | message::DELETE_CHAIN => text(chain::NAME).starts_with(PREFIX),
        message::NEW_RULE | message::DELETE_RULE => {
            let chain = text(rule::CHAIN);
            chain.starts_with(PREFIX) || HOOKS.contains(&chain.as_str())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::{Batch, Messages};

    fn heard(kind: u16, family: u8, of_table: &str, chain: Option<(u16, &str)>) -> bool {
        let mut batch = Batch::new();
        let mut message = batch.message((SUBSYSTEM << 8) | kind, 0);
        message.netfilter(family, 0);
        let mut attributes = message.attributes();
        attributes.text(table::NAME, of_table);
        if let Some((attribute, name)) = chain {
            attributes.text(attribute, name);
        }
        drop(message);
        Messages::new(batch.bytes()).any(|message| concerns(message.kind, message.payload))
    }

    #[test]
    fn our_chains_and_the_hooks_concern_us() {
        let rule = |name| Some((rule::CHAIN, name));
        for family in [FAMILY_IPV4, FAMILY_IPV6] {
            assert!(heard(message::NEW_RULE, family, "filter", rule("FORWARD")));
            assert!(heard(message::DELETE_RULE, family, "nat", rule("FERROVIA-PRO-X")));
            assert!(heard(message::DELETE_CHAIN, family, "filter", Some((chain::NAME, "FERROVIA-FIR-X"))));
            assert!(heard(message::DELETE_TABLE, family, "filter", None));
            assert!(!heard(message::NEW_TABLE, family, "filter", None));
            assert!(!heard(message::NEW_RULE, family, "filter", rule("KUBE-SERVICES")), "a busy chain of others");
            assert!(!heard(message::NEW_CHAIN, family, "filter", Some((chain::NAME, "KUBE-X"))));
            assert!(!heard(message::NEW_RULE, family, "ours", rule("FORWARD")), "another table");
        }
        assert!(!heard(message::NEW_RULE, 1, "filter", rule("FORWARD")), "family inet is none of iptables");
    }
}
