//! `cargo xtask setup`: makes this machine ready, and says what only its owner can do.

use anyhow::Result;

use crate::{shell, vm};

/// What some commands need and none of the usual ones does.
const OPTIONAL: &[(&str, &str)] = &[
    ("cargo-deny", "`cargo xtask supply` then asks it too"),
    ("cargo-fuzz", "`cargo xtask fuzz` installs it"),
    ("musl-gcc", "`cargo xtask image` needs it (package musl-tools)"),
];

/// Safe to run again; quick when there is nothing to do.
pub(crate) fn setup() -> Result<()> {
    hooks()?;
    vm::setup()?;
    for (program, why) in OPTIONAL {
        if shell::which(program).is_none() {
            eprintln!("xtask: not installed, and not needed yet: {program}: {why}");
        }
    }
    Ok(())
}

/// Points git at the project's hooks. Without a checkout, or in CI, there is nobody to hook.
fn hooks() -> Result<()> {
    if std::env::var_os("CI").is_some() || !shell::root().join(".git").exists() || shell::which("git").is_none() {
        return Ok(());
    }
    let mut set = shell::command("git", ["config", "core.hooksPath", ".githooks"]);
    shell::run(set.current_dir(shell::root()))
}
