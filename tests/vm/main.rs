//! Tier 4: everything that needs a kernel with IPVS. One binary, so that one guest serves all of it.
//!
//! Run it with `cargo xtask vm test`. Elsewhere every test says that it was skipped, and CI makes sure that it was
//! not. Tests share one kernel: each makes namespaces of its own and removes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]

/// Returns from a test outside the guest, and says so.
macro_rules! guest {
    () => {
        if !$crate::in_guest() {
            return;
        }
    };
}

mod contracts_ipvs;

/// Whether this is the guest; says that a test was skipped where it is not.
#[allow(clippy::print_stderr, reason = "a skip must be seen")]
fn in_guest() -> bool {
    let inside = std::env::var("FERROVIA_VM").is_ok_and(|value| value == "1");
    if !inside {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        eprintln!("{test}: skipped: needs the guest, run cargo xtask vm test");
    }
    inside
}
