//! Calling cargo on the daemon's package, always with the same features so that nothing is built twice.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

/// Fakes, builders and the cluster of network namespaces; on for everything but what is shipped.
pub(crate) const TESTING: [&str; 2] = ["--features", "testing"];

/// `cargo ARGS` at the root of the repository.
pub(crate) fn cargo<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = shell::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args);
    command.current_dir(shell::root()).stdin(Stdio::null());
    // What cargo told us about xtask is wrong for anything else, and some build scripts run again when it changes.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_xtask(name)) {
        command.env_remove(name);
    }
    command
}

fn is_about_xtask(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_BIN_")
}

/// Builds with `cargo ARGS` and returns the executables of the named targets, in that order.
pub(crate) fn executables<const N: usize>(args: &[&str], names: [&str; N]) -> Result<[PathBuf; N]> {
    let mut build = cargo(args);
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = build.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut found = [const { PathBuf::new() }; N];
    for (path, name) in found.iter_mut().zip(names) {
        *path = find_executable(&messages, name).with_context(|| format!("cargo built no executable called {name}"))?;
    }
    Ok(found)
}

fn find_executable(messages: &str, name: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut artifacts = parsed.filter(|message| message["reason"] == "compiler-artifact");
    let ours = artifacts.find(|message| message["target"]["name"] == name && message["executable"].is_string())?;
    ours["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_executable_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"ferrovia"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"vm"},"executable":"/t/vm-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(find_executable(messages, "vm"), Some("/t/vm-1".into()));
        assert_eq!(find_executable(messages, "netns"), None);
    }
}
