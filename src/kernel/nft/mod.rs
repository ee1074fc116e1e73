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
mod uapi;

pub use client::NftClient;

use crate::kernel::Error;
use crate::kernel::filter::Name;
use crate::kernel::filter::plan::{Observed, Transaction};

/// The tables of one network namespace, family `inet`.
pub trait Nft: Send {
    /// What one table holds, or `None` where there is no such table. Interrupted dumps are repeated.
    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error>;
    /// All or nothing. The error names the first change that failed.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error>;
}

#[cfg(test)]
mod tests;
