//! `cargo xtask tidy`: the house rules a compiler does not know.
//!
//! - the architecture table (`tests/architecture.rs`, the same code)
//! - [`text`]: length, module documentation, words that may not stay
//! - [`links`]: relative links in Markdown that lead nowhere

mod links;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::shell;

#[path = "../../../tests/architecture.rs"]
mod architecture;

/// A file of the repository.
struct Source {
    /// Below the repository's root.
    name: String,
    text: String,
}

/// All rules.
pub(crate) fn tidy() -> Result<()> {
    let root = shell::root();
    let mut wrong = architecture::violations(&root);
    wrong.extend(text_rules(&root)?);
    report(&wrong)
}

/// The rules that look at one file at a time: quick enough for every commit.
pub(crate) fn tidy_text() -> Result<()> {
    report(&text_rules(&shell::root())?)
}

fn text_rules(root: &Path) -> Result<Vec<String>> {
    let sources = sources(root)?;
    let mut wrong: Vec<String> = sources.iter().flat_map(text::violations).collect();
    wrong.extend(sources.iter().flat_map(|source| links::dead(root, source)));
    Ok(wrong)
}

fn report(wrong: &[String]) -> Result<()> {
    for line in wrong {
        println!("{line}");
    }
    if !wrong.is_empty() {
        bail!("tidy found {} violations", wrong.len());
    }
    println!("tidy: ok");
    Ok(())
}

/// Every text file git knows or would add; without git, every file outside the build folder.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut list = shell::command("git", ["ls-files", "--cached", "--others", "--exclude-standard"]);
    let mut names: Vec<PathBuf> = match shell::output(list.current_dir(root)) {
        Ok(listed) => listed.lines().map(PathBuf::from).collect(),
        Err(_) => walk(root, Path::new("")),
    };
    names.sort();
    names.dedup();
    // Inputs of decoders are bytes, also where they look like text.
    names.retain(|name| !name.starts_with("fuzz/corpus"));
    let read = |name: PathBuf| {
        // A file that is deleted but not yet committed, or no text, has no rules.
        let text = fs::read_to_string(root.join(&name)).ok()?;
        Some(Source { name: name.to_string_lossy().into_owned(), text })
    };
    Ok(names.into_iter().filter_map(read).collect())
}

fn walk(root: &Path, folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let walked = entries.flat_map(|entry| {
        let name = folder.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" => {
                walk(root, &name)
            }
            Ok(kind) if kind.is_file() => vec![name],
            _ => Vec::new(),
        }
    });
    walked.collect()
}
