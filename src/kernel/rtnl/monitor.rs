//! What others change in links, addresses, routes and rules, as a stream of hints.
//!
//! An event says where to look, not what is there: whoever hears it reads again. Our own changes are heard as well,
//! unless the sockets that make them are named.

use std::io;

use tokio::io::unix::AsyncFd;

use super::codec::{decode_address, decode_link, decode_route, message};
use crate::kernel::netlink::{EventSocket, Heard, Protocol};
use crate::net::Prefix;

/// Multicast groups (enum rtnetlink_groups): links, IPv4 and IPv6 addresses, routes and rules.
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A link came, went, or is another than before.
    Link {
        /// Interface index.
        link: u32,
        /// It is down or gone, and with it, without another word, the IPv4 routes through it (`fib_table_flush` of
        /// `net/ipv4/fib_trie.c`).
        lost: bool,
    },
    /// An address came or went.
    Address {
        /// Interface index.
        link: u32,
        /// It went; routes that prefer it as their source may have gone in silence.
        lost: bool,
    },
    /// A route came, went or was replaced.
    Route {
        /// Table number.
        table: u32,
        /// What it matches.
        destination: Prefix,
        /// Its metric.
        metric: u32,
        /// Its maker.
        protocol: u8,
    },
    /// The routing rules.
    Rule,
    /// Events were lost: anything may have changed.
    Overflow,
}

/// Listens to one network namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<EventSocket>,
    own: Vec<u32>,
}

impl Monitor {
    /// Begins to listen in the network namespace of the calling thread. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// Where the socket cannot be had or not be watched.
    pub fn open() -> io::Result<Monitor> {
        Monitor::of_others(Vec::new())
    }

    /// The same, deaf to changes made through the sockets with these numbers
    /// ([`RtnlClient::port`](super::RtnlClient::port)).
    ///
    /// # Errors
    /// As [`Monitor::open`].
    pub fn of_others(own: Vec<u32>) -> io::Result<Monitor> {
        Ok(Monitor { socket: EventSocket::open(Protocol::Route, &GROUPS)?.into_async()?, own })
    }

    /// Waits for the next events; those of one reading come together, each once. Safe to drop while waiting: nothing
    /// heard is lost.
    ///
    /// # Errors
    /// Where the socket fails.
    pub async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.socket.readable_mut().await?;
            let mut events = Vec::new();
            let own = &self.own;
            let visit = &mut |kind: u16, port: u32, payload: &[u8]| {
                if port == 0 || !own.contains(&port) {
                    events.extend(decode(kind, payload));
                }
            };
            // An error here is a false alarm: wait again.
            let Ok(heard) = ready.try_io(|socket| socket.get_mut().read(visit)) else { continue };
            if heard? == Heard::Lost {
                events.push(Event::Overflow);
            }
            events.sort_unstable();
            events.dedup();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// What one message (type and payload) announces; `None` for what nobody here cares about.
pub fn decode(kind: u16, payload: &[u8]) -> Option<Event> {
    match kind {
        message::NEW_LINK | message::DELETE_LINK => decode_link(payload)
            .map(|link| Event::Link { link: link.index, lost: kind == message::DELETE_LINK || !link.up }),
        message::NEW_ADDRESS | message::DELETE_ADDRESS => decode_address(payload)
            .map(|address| Event::Address { link: address.link, lost: kind == message::DELETE_ADDRESS }),
        message::NEW_ROUTE | message::DELETE_ROUTE => decode_route(payload).map(|route| Event::Route {
            table: route.table,
            destination: route.destination,
            metric: route.metric,
            protocol: route.protocol,
        }),
        message::NEW_RULE | message::DELETE_RULE => Some(Event::Rule),
        _ => None,
    }
}
