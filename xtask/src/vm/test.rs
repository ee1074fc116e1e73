//! `cargo xtask vm test`: the integration tests that need a kernel of their own, all in one guest.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::guest::Guest;
use crate::shell;

/// How long the whole run may take: emulated guests on a busy machine are slow.
const LIMIT: Duration = Duration::from_secs(1800);

/// Which tests to run.
pub(crate) struct Selection {
    /// The integration test binary: `tests/NAME.rs` or `tests/NAME/main.rs`.
    pub(crate) binary: String,
    /// Passed to the test binary.
    pub(crate) arguments: Vec<OsString>,
}

impl Selection {
    pub(crate) fn parse(args: &[OsString]) -> Result<Selection> {
        let mut selection = Selection { binary: "vm".to_owned(), arguments: Vec::new() };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            if word == "--bin" {
                let name = words.next().and_then(|name| name.to_str());
                selection.binary = name.context("--bin needs the name of an integration test")?.to_owned();
            } else {
                selection.arguments.extend((word != "--").then(|| word.clone()));
                selection.arguments.extend(words.by_ref().cloned());
            }
        }
        Ok(selection)
    }
}

/// Builds and runs them; the exit status is the test binary's. A run that executed nothing is a failure, so
/// that a silent skip cannot pass for success.
pub(crate) fn test(selection: &Selection) -> Result<u8> {
    let executable = build(&selection.binary)?;
    let summary = shell::root().join("target/vm-test");
    std::fs::create_dir_all(&summary)?;
    let count = summary.join("executed");
    let mut command: Vec<OsString> = vec!["sh".into(), "-c".into(), SCRIPT.into(), "vm-test".into()];
    command.push(count.clone().into());
    command.push(executable.into());
    command.extend(selection.arguments.iter().cloned());
    let mut guest = Guest::new(command);
    guest.write.push(summary);
    guest.timeout = Some(LIMIT);
    guest.folder = Some(shell::root());
    guest.environment.push(("FERROVIA_VM".into(), "1".into()));
    guest.environment.push(("CARGO_MANIFEST_DIR".into(), shell::root().into()));
    if count.exists() {
        std::fs::remove_file(&count)?;
    }
    let status = guest.run()?;
    let executed = std::fs::read_to_string(&count).unwrap_or_default();
    if status == 0 && !executed.lines().any(ran_something) {
        bail!("no test of `{}` was executed in the guest", selection.binary);
    }
    Ok(status)
}

/// Shows the test binary's output and keeps its closing line.
const SCRIPT: &str = r#"
summary=$1; shift
{ { "$@" 3>&-; echo $? >&3; } | tee /run/vm-test.out >&4; } 4>&1 3> /run/vm-test.status
grep '^test result:' /run/vm-test.out > "$summary"
exit "$(cat /run/vm-test.status)"
"#;

/// Whether libtest's closing line tells of at least one executed test.
fn ran_something(line: &str) -> bool {
    let count = |what: &str| {
        let before = line.split(what).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    line.starts_with("test result:") && count(" passed") + count(" failed") > 0
}

/// The test executable, as cargo names it.
fn build(binary: &str) -> Result<PathBuf> {
    let mut cargo = shell::command(
        std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        ["test", "--no-run", "--features", "testing", "--test", binary, "--message-format=json-render-diagnostics"],
    );
    cargo.current_dir(shell::root()).stderr(Stdio::inherit());
    let output = cargo.stdin(Stdio::null()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the integration test `{binary}` does not build");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    executable(&text, binary).with_context(|| format!("cargo names no executable for the integration test `{binary}`"))
}

fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut artifacts = parsed.filter(|message| message["reason"] == "compiler-artifact");
    let ours = artifacts.find(|message| message["target"]["name"] == binary && message["executable"].is_string())?;
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
        assert_eq!(executable(messages, "vm"), Some("/t/vm-1".into()));
        assert_eq!(executable(messages, "netns"), None);
    }

    #[test]
    fn a_run_of_nothing_is_told_from_a_run() {
        assert!(ran_something("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured"));
        assert!(ran_something("test result: FAILED. 0 passed; 1 failed; 0 ignored"));
        assert!(!ran_something("test result: ok. 0 passed; 0 failed; 4 ignored; 0 measured; 9 filtered out"));
        assert!(!ran_something("running 3 tests"));
    }

    #[test]
    fn arguments_after_the_selection_are_the_tests_own() {
        let words: Vec<OsString> = ["--bin", "netns", "--", "ipvs", "--nocapture"].iter().map(OsString::from).collect();
        let selection = Selection::parse(&words).unwrap();
        assert_eq!(selection.binary, "netns");
        assert_eq!(selection.arguments, ["ipvs", "--nocapture"]);
    }
}
