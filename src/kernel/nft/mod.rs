//! nftables: one `inet` table for each room, changed in transactions (`include/uapi/linux/netfilter/nf_tables.h`).

mod client;
mod codec;
pub mod decode;
mod expr;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod guard;
pub mod monitor;
pub mod priority;
pub mod text;
pub(crate) mod uapi;

pub use client::NftClient;

/// The tables of one network namespace, family `inet`.
pub use crate::kernel::filter::Backend as Nft;

#[cfg(test)]
mod tests;
