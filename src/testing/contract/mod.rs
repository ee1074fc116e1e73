//! What every implementation of a kernel trait must do, fake or real: plain functions that panic with what differs.

pub mod conntrack;
pub mod fou;
pub mod ipset;
pub mod iptables;
pub mod ipvs;
pub mod nft;
pub mod rtnl;
