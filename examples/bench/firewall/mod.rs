//! What the firewall costs: a full load, one change, changes that keep coming, and packets.

mod cluster;
mod doors;
pub(crate) mod native;
pub(crate) mod packets;
pub(crate) mod scenarios;
