//! What `--version` tells beyond the version: the compiler, and the revision a release was built from.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=FERROVIA_GIT_HASH");
    if let Some(version) = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]))
        && let Some(number) = version.split_whitespace().nth(1)
    {
        println!("cargo::rustc-env=FERROVIA_RUSTC_VERSION={number}");
    }
    let given = env::var("FERROVIA_GIT_HASH").ok().filter(|hash| !hash.is_empty());
    if let Some(hash) = given.or_else(revision) {
        println!("cargo::rustc-env=FERROVIA_GIT_HASH={hash}");
    }
}

/// The commit that is checked out; `None` without git, as from a tarball. Only for releases: a new commit must not
/// compile the library and all tests again while developing.
fn revision() -> Option<String> {
    if env::var("PROFILE").as_deref() != Ok("release") || !Path::new(".git").exists() {
        return None;
    }
    let hash = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    // Where the branch points changes with each commit, and this file with it.
    let log = output("git", &["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]);
    if let Some(log) = log.filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    Some(hash)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this runs while building, not in the daemon")]
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
