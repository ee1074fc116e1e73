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
    command
}

/// Builds with `cargo ARGS` and returns the executable of the target called `name`.
pub(crate) fn executable(args: &[&str], name: &str) -> Result<PathBuf> {
    let mut build = cargo(args);
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = build.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    find_executable(&messages, name).with_context(|| format!("cargo built no executable called {name}"))
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
