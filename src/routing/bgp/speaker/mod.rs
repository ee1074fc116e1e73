//! The running speaker: one task that owns the [`Hub`](super::hub::Hub) and one task for each peer around it.
//!
//! [`control`] is its face: what the daemon tells it and hears from it.

pub mod control;

pub use control::{Bfd, Change, Config, Goodbye, Learned, LearnedHop, LearnedRoute, Password, PeerConfig, Speaker};
