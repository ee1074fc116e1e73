//! `cargo xtask release`: the edits of a release, and what its author does next. Nothing is tagged or pushed here.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::cargo::cargo;
use crate::{image, shell};

const UNRELEASED: &str = "## Unreleased";

/// Gives the unreleased changes a heading and the package a version.
pub(crate) fn release(version: &str) -> Result<()> {
    let numbers: Vec<&str> = version.split('.').collect();
    if numbers.len() != 3 || numbers.iter().any(|number| number.parse::<u32>().is_err()) {
        bail!("{version} is no version of the form 1.2.3");
    }
    let root = shell::root();
    let mut status = shell::command("git", ["status", "--porcelain"]);
    if !shell::output(status.current_dir(&root))?.trim().is_empty() {
        bail!("the checkout has changes: commit them first");
    }
    let changelog = root.join("CHANGELOG.md");
    let text = fs::read_to_string(&changelog).context("cannot read CHANGELOG.md")?;
    let date = shell::output(&mut shell::command("date", ["-u", "+%F"]))?;
    let (dated, notes) = dated(&text, version, date.trim())?;
    let manifest = root.join("Cargo.toml");
    let old = image::version()?;
    let bumped = fs::read_to_string(&manifest)?.replacen(
        &format!("version = \"{old}\""),
        &format!("version = \"{version}\""),
        1,
    );
    fs::write(&changelog, dated)?;
    fs::write(&manifest, bumped)?;
    shell::run(&mut cargo(["update", "--workspace", "--offline"]))?;
    println!("{notes}\n");
    println!("Review, then:");
    println!("  git commit -am 'docs: release {version}' && git tag -a v{version}   (the notes above as its text)");
    Ok(())
}

/// The changelog with a heading for the version, and the notes under it.
fn dated(changelog: &str, version: &str, date: &str) -> Result<(String, String)> {
    let (before, after) = changelog.split_once(UNRELEASED).context("CHANGELOG.md has no heading `## Unreleased`")?;
    let notes = after.split("\n## ").next().unwrap_or_default().trim();
    if notes.is_empty() {
        bail!("CHANGELOG.md has nothing under `{UNRELEASED}`");
    }
    Ok((format!("{before}{UNRELEASED}\n\n## {version} - {date}{after}"), notes.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreleased_changes_get_a_heading_of_their_own() {
        let changelog = "# Changelog\n\n## Unreleased\n\n### Added\n\n- A.\n\n## 0.1.0 - 2026-01-01\n\n- B.\n";
        let (dated, notes) = dated(changelog, "0.2.0", "2026-02-02").unwrap();
        assert_eq!(notes, "### Added\n\n- A.");
        assert_eq!(
            dated,
            "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-02-02\n\n### Added\n\n- A.\n\n## 0.1.0 - 2026-01-01\n\n- B.\n"
        );
    }

    #[test]
    fn a_release_without_changes_is_refused() {
        assert!(dated("## Unreleased\n\n## 0.1.0\n\n- B.\n", "0.2.0", "d").is_err());
    }
}
