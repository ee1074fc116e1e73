//! Programs that tests run but nobody should install for them: Debian's container runtime, unpacked into the cache.
//!
//! Installing it could remove another runtime that the machine uses; unpacked it disturbs nobody.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use crate::shell;

const PACKAGES: [&str; 3] = ["containerd", "runc", "libseccomp2"];

/// The folders with the programs, fetched once.
pub(crate) fn folders() -> Result<Vec<PathBuf>> {
    let cache = cache::folder()?;
    let _lock = cache::lock(&cache)?;
    let tree = cache.join("tools");
    if !tree.join("usr/bin/containerd").is_file() {
        let new = cache.join("tools.new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        fs::create_dir_all(&new)?;
        eprintln!("xtask: fetching {} for the tests (once, unpacked, not installed)", PACKAGES.join(", "));
        let mut fetch = shell::command("apt-get", ["download"]);
        shell::output(fetch.args(PACKAGES).current_dir(&new))
            .context("`cargo xtask vm setup` refreshes the package lists")?;
        for entry in fs::read_dir(&new)? {
            let package = entry?.path();
            if package.extension().is_some_and(|extension| extension == "deb") {
                shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(new.join("root")))?;
            }
        }
        fs::rename(new.join("root"), &tree)?;
        fs::remove_dir_all(&new)?;
    }
    Ok(vec![tree.join("usr/bin"), tree.join("usr/sbin")])
}
