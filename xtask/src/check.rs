//! Tests and gates, each in one place, so that a push, CI and a person run the same.

use std::process::Command;

use anyhow::{Result, bail};

use crate::cargo::{TESTING, cargo};
use crate::vm::Selection;
use crate::{generated, shell, supply, tidy, vm};

/// Before a push: everything that needs no guest.
pub(crate) fn check() -> Result<()> {
    format()?;
    lints()?;
    tidy::tidy()?;
    host_tests(&[])
}

/// All tiers, on a machine that is made ready for them first. Git hooks are no part of that: whoever only runs the
/// tests keeps their configuration.
pub(crate) fn test_all() -> Result<u8> {
    vm::setup()?;
    tidy::tidy()?;
    host_tests(&[])?;
    guest_tests(&[])
}

/// One tier, by name or by its number in the design; arguments go to the test programs.
pub(crate) fn test_tier(tier: &str, arguments: &[&str]) -> Result<u8> {
    match tier {
        "tidy" | "0" if arguments.is_empty() => tidy::tidy().map(|()| 0),
        "host" | "1" | "2" => host_tests(arguments).map(|()| 0),
        "vm" | "4" => guest_tests(arguments),
        _ => bail!("no tier `{tier}`: there are tidy (0), host (1 and 2) and vm (4)"),
    }
}

/// Unit tests, integration tests and documentation tests on this machine; those that need a guest say so and skip.
fn host_tests(arguments: &[&str]) -> Result<()> {
    step("tests on this machine");
    shell::run(cargo(["test"]).args(TESTING).args(arguments))?;
    if arguments.is_empty() {
        shell::run(&mut cargo(["test", "--package", "xtask"]))?;
    }
    Ok(())
}

fn guest_tests(arguments: &[&str]) -> Result<u8> {
    step("tests in a guest with a kernel of its own");
    let arguments: Vec<_> = arguments.iter().map(std::ffi::OsString::from).collect();
    vm::test(&Selection::parse(&arguments)?)
}

/// What CI runs after the tests. The profile of the benches is the tests' own: the point is that they build, and an
/// optimised build of every dependency would cost more than all the rest.
pub(crate) fn ci() -> Result<()> {
    format()?;
    lints()?;
    step("documentation");
    shell::run(cargo(["doc", "--workspace", "--no-deps"]).args(TESTING).env("RUSTDOCFLAGS", "-D warnings"))?;
    step("benches build");
    shell::run(cargo(["bench", "--no-run", "--profile", "dev"]).args(TESTING))?;
    generated::check()?;
    supply::check()
}

fn format() -> Result<()> {
    step("formatting");
    shell::run(&mut cargo(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    step("lints");
    shell::run(cargo(["clippy", "--workspace", "--all-targets"]).args(TESTING).args(["--", "-D", "warnings"]))
}

/// Lets the tests rewrite what they compare with, and shows what that changed.
pub(crate) fn bless() -> Result<()> {
    shell::run(cargo(["test"]).args(TESTING).env("FERROVIA_BLESS", "1"))?;
    shell::run(Command::new("git").args(["diff", "--stat"]).current_dir(shell::root()))
}

pub(crate) fn step(what: &str) {
    eprintln!("\nxtask: {what}");
}
