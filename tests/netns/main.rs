//! Tier 3: the kernel this runs on, in network namespaces of its own. It takes CAP_SYS_ADMIN and CAP_NET_ADMIN (root,
//! or `unshare -Urn`) and nftables; nothing leaves the namespaces.
//!
//! Run it with `cargo xtask test netns`. Where namespaces are forbidden every test says that it was skipped; xtask then
//! runs it in the guest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]

use ferrovia::kernel::netns::run_in_new;
use ferrovia::testing::lab::report;

/// Returns from a test where no network namespace can be made, and says so. In the guest's tier, which shares these
/// tests, the same word asks for the guest.
macro_rules! guest {
    () => {
        if !$crate::in_own_namespace() {
            return;
        }
    };
}

#[path = "../vm/contracts_ipset.rs"]
mod contracts_ipset;
#[path = "../vm/contracts_iptables.rs"]
mod contracts_iptables;
#[path = "../vm/contracts_nft.rs"]
mod contracts_nft;
#[path = "../vm/contracts_rtnl.rs"]
mod contracts_rtnl;
mod gobgp;

/// Whether namespaces can be made here; says that a test was skipped where not.
fn in_own_namespace() -> bool {
    let refused = run_in_new(|| ()).err();
    if let Some(error) = &refused {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        report(&format!("{test}: skipped: {error}; run cargo xtask test netns"));
    }
    refused.is_none()
}
