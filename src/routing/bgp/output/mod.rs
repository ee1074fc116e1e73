//! What peers are told: export rules, update groups, and for each peer what it still has to hear.
//!
//! [`export`] says what one peer may know of a path. [`Groups`] keeps peers that would be told the same together, so
//! that a route is rewritten once for all of them, and feeds a [`Queue`] for each. A queue holds the newest word about
//! each route only: a slow peer costs memory for routes, never for events.
//!
//! RFC 4271 (5.1, 9.1.3, 9.2), 1997 (communities that stop a route), 4456 (reflection), 4724 and 7313 (marks), 8950.

mod export;
mod groups;
mod queue;

#[cfg(test)]
mod tests;

pub use export::{Own, Source, Target, export, may_send, rewrite};
pub use groups::{Groups, Offer};
pub use queue::{Encoder, Mark, Queue, Stats};
