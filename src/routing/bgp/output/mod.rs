//! What peers are told: export rules, update groups, and for each peer what it still has to hear.
//!
//! [`export`] says what one peer may know of a path. [`Groups`] keeps peers that would be told the same together: a
//! path is rewritten and encoded once for all of them. A group has a table of its routes, each with the word about it,
//! which is attributes as bytes; of a peer it has three bits for each route. So nothing is stored twice, and a slow
//! peer costs memory for routes, never for events.
//!
//! RFC 4271 (5.1, 9.1.3, 9.2), 1997 (communities that stop a route), 4456 (reflection), 4724 and 7313 (marks), 8950.

mod bits;
mod export;
mod group;
mod groups;
mod share;
mod table;
mod words;

#[cfg(test)]
mod tests;

use super::wire::{self, Refresh};
use crate::net::Family;

pub use export::{Own, Source, Target, export, may_send, rewrite};
pub use groups::{Groups, Offer};

/// Octets of a key of an IPv4 and of an IPv6 route.
const V4: usize = 9;
const V6: usize = 21;

/// What says that a set of routes is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// End-of-RIB: the first dump of a family (RFC 4724).
    EndOfRib(Family),
    /// The beginning of a route refresh (RFC 7313). It goes before all that is pending.
    BeginOfRefresh(Family),
    /// The end of a route refresh.
    EndOfRefresh(Family),
}

impl Mark {
    fn family(self) -> Family {
        match self {
            Mark::EndOfRib(family) | Mark::BeginOfRefresh(family) | Mark::EndOfRefresh(family) => family,
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        match self {
            Mark::EndOfRib(family) => wire::encode_end_of_rib(family, out),
            Mark::BeginOfRefresh(family) => wire::encode_refresh(family, Refresh::Begin, out),
            Mark::EndOfRefresh(family) => wire::encode_refresh(family, Refresh::End, out),
        }
    }
}

/// What messages to one peer depend on besides their content.
#[derive(Clone, Copy, Debug)]
struct Session {
    /// Routes have path identifiers.
    add_path: bool,
    max_message: usize,
}

/// Counters of what one peer was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Routes the peer holds.
    pub advertised: usize,
    /// Routes it still has to hear of.
    pub pending: usize,
}
