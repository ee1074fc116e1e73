//! nftables: tables of ours, changed in transactions (`include/uapi/linux/netfilter/nf_tables.h`).

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

/// The tables of one network namespace.
pub use crate::kernel::filter::Backend as Nft;

/// The messages of a transaction as [`NftClient`] sends them, for a meter that sends them itself.
///
/// # Errors
/// Where nftables cannot express a change as the model means it.
#[cfg(any(test, feature = "testing"))]
pub fn encoded(transaction: &super::filter::plan::Transaction) -> Result<super::netlink::Batch, super::Error> {
    codec::encode(transaction).map(|encoded| encoded.batch)
}

#[cfg(test)]
mod tests;
