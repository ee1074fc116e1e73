//! The speaker and the others: BIRD 1.6, BIRD 2, FRR, GoBGP 3 and GoBGP 4 as the other side of a session, in network
//! namespaces of this machine's kernel or the guest's.
//!
//! Run it with `cargo xtask test interop`. Without root or without one of the daemons a test says that it was skipped;
//! in CI (`CI=true`) that is a failure. `docs/design/interop.md` has the table of what is proved here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]
#![allow(clippy::disallowed_methods, reason = "daemons and tools are processes, and tests are threads that wait")]

/// Makes a test of a scenario for each implementation named, and the list that the table is checked against.
macro_rules! scenarios {
    ($($name:ident [$($row:literal),+] $($kind:ident)+;)+) => {
        pub(crate) const CLAIMS: &[crate::matrix::Claim] = &[$(
            crate::matrix::Claim { rows: &[$($row),+], kinds: &[$(crate::describe::Kind::$kind),+] },
        )+];
        $(mod $name {
            const ROWS: &[&str] = &[$($row),+];
            $(scenarios!(@test $kind $name);)+
        })+
    };
    (@test Bird1 $name:ident) => { scenarios!(@named bird1 Bird1 $name); };
    (@test Bird2 $name:ident) => { scenarios!(@named bird2 Bird2 $name); };
    (@test Frr $name:ident) => { scenarios!(@named frr Frr $name); };
    (@test Gobgp3 $name:ident) => { scenarios!(@named gobgp3 Gobgp3 $name); };
    (@test Gobgp4 $name:ident) => { scenarios!(@named gobgp4 Gobgp4 $name); };
    (@named $test:ident $kind:ident $name:ident) => {
        #[test]
        fn $test() {
            crate::matrix::cell(crate::describe::Kind::$kind, ROWS, super::$name);
        }
    };
}

mod basics;
mod bfd;
mod describe;
mod faults;
mod lab;
mod matrix;
mod pair;
mod paths;
mod peers;
mod raw;
mod reflection;
mod restart;
mod rows;
mod transport;
mod vectors;
mod wire;

use describe::Kind;
use ferrovia::testing::lab::report;

/// All that the scenarios claim to prove.
pub(crate) const CLAIMS: &[&[matrix::Claim]] = &[
    basics::CLAIMS,
    paths::CLAIMS,
    transport::CLAIMS,
    restart::CLAIMS,
    reflection::CLAIMS,
    bfd::CLAIMS,
    faults::CLAIMS,
    vectors::CLAIMS,
];

/// Whether something is missing to run a test with these; says what. A failure in CI.
pub(crate) fn skipped(kinds: &[Kind]) -> bool {
    let root = (!rustix::process::geteuid().is_root()).then(|| "needs root, run cargo xtask test interop".to_owned());
    let Some(why) = root.or_else(|| kinds.iter().find_map(|kind| peers::missing(*kind))) else { return false };
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    report(&format!("{test}: skipped: {why}"));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped: {why}");
    true
}
