//! Pages written from the code, so that they cannot disagree with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo::{TESTING, executables};
use crate::check::step;
use crate::shell;

/// What the daemon's `gen-docs` can print; each is a page in [`FOLDER`].
const PAGES: &[&str] = &["flags", "annotations", "metrics"];

const FOLDER: &str = "docs/user";

/// Writes every page.
pub(crate) fn write() -> Result<()> {
    let daemon = daemon()?;
    for page in PAGES {
        let text = render(&daemon, page)?;
        let path = shell::root().join(path_of(page));
        fs::create_dir_all(shell::root().join(FOLDER))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path_of(page));
    }
    Ok(())
}

/// Fails if a page is not what the code says.
pub(crate) fn check() -> Result<()> {
    step("pages made from the code");
    let daemon = daemon()?;
    let mut stale = Vec::new();
    for page in PAGES {
        let written = fs::read_to_string(shell::root().join(path_of(page))).unwrap_or_default();
        if written != render(&daemon, page)? {
            stale.push(path_of(page));
        }
    }
    if !stale.is_empty() {
        bail!("stale: {}; `cargo xtask gen` writes them", stale.join(", "));
    }
    println!("gen: {} pages are fresh", PAGES.len());
    Ok(())
}

fn path_of(page: &str) -> String {
    format!("{FOLDER}/{page}.md")
}

/// The daemon as the tests build it (naming a test turns their features on), because it is built already.
fn daemon() -> Result<PathBuf> {
    let [daemon] =
        executables(&["build", "--bin", "ferrovia", "--test", "architecture", TESTING[0], TESTING[1]], ["ferrovia"])?;
    Ok(daemon)
}

fn render(daemon: &Path, page: &str) -> Result<String> {
    let text = shell::output(&mut shell::command(daemon, ["gen-docs", page]))?;
    if text.trim().is_empty() {
        bail!("`ferrovia gen-docs {page}` printed nothing");
    }
    Ok(text)
}
