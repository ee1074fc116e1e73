//! Pages written from the code, so that they cannot disagree with it.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::cargo::{TESTING, cargo};
use crate::check::step;
use crate::shell;

/// What the daemon's `gen-docs` can print; each is a page in [`FOLDER`].
const PAGES: &[&str] = &["flags", "annotations", "metrics"];

const FOLDER: &str = "docs/user";

/// Writes every page.
pub(crate) fn write() -> Result<()> {
    for page in PAGES {
        let text = render(page)?;
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
    let mut stale = Vec::new();
    for page in PAGES {
        let written = fs::read_to_string(shell::root().join(path_of(page))).unwrap_or_default();
        if written != render(page)? {
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

/// With the features of the tests: the pages are the same, and the binary is built already.
fn render(page: &str) -> Result<String> {
    let mut print = cargo(["run", "--quiet", "--bin", "ferrovia"]);
    shell::output(print.args(TESTING).args(["--", "gen-docs", page]))
}
