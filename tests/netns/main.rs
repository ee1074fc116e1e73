//! Tier 3: the kernel this runs on, in network namespaces of its own. It takes CAP_SYS_ADMIN and CAP_NET_ADMIN (root,
//! or `unshare -Urn`) and nftables; nothing leaves the namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]

#[path = "../vm/contracts_nft.rs"]
mod contracts_nft;
#[path = "../vm/contracts_rtnl.rs"]
mod contracts_rtnl;
