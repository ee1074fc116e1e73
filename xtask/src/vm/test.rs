//! `cargo xtask vm test`: the integration tests that need a kernel of their own.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::guest::Guest;
use super::{lanes, tools};
use crate::{cargo, shell};

/// How long one guest may take: emulated guests on a busy machine are slow.
const LIMIT: Duration = Duration::from_secs(3000);

/// The test binary of tier 4.
const EVERYTHING: &str = "vm";

/// Which tests to run.
pub(crate) struct Selection {
    /// The integration test binary: `tests/NAME.rs` or `tests/NAME/main.rs`.
    pub(crate) binary: String,
    /// Passed to the test binary.
    pub(crate) arguments: Vec<OsString>,
    /// Passed to it too.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Selection {
    pub(crate) fn parse(args: &[OsString]) -> Result<Selection> {
        let mut selection = Selection { binary: EVERYTHING.to_owned(), arguments: Vec::new(), environment: Vec::new() };
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

/// Builds and runs them: those of tier 4, if nobody chose some, in [several guests](lanes), others in one. The exit status is
/// the test binary's. A run that executed nothing is a failure, so that a silent skip cannot pass for success.
pub(crate) fn test(selection: &Selection) -> Result<u8> {
    let build = ["test", "--no-run", "--test", &selection.binary, cargo::TESTING[0], cargo::TESTING[1]];
    let [executable] = cargo::executables(&build, [&selection.binary])?;
    let folder = shell::root().join("target/vm-test");
    fs::create_dir_all(&folder)?;
    let guest = |arguments| guest(&executable, arguments, &selection.environment);
    if selection.arguments.is_empty() && selection.binary == EVERYTHING {
        return lanes::run_all(&executable, &folder, &guest);
    }
    let mut guest = guest(selection.arguments.clone())?;
    guest.output_copy = Some(folder.join("output.txt"));
    let status = guest.run()?;
    let output = fs::read(folder.join("output.txt")).unwrap_or_default();
    if status == 0 && String::from_utf8_lossy(&output).lines().map(executed).sum::<u64>() == 0 {
        bail!("no test of `{}` was executed in the guest", selection.binary);
    }
    Ok(status)
}

/// A guest that runs a test binary.
fn guest(executable: &Path, arguments: Vec<OsString>, environment: &[(OsString, OsString)]) -> Result<Guest> {
    let mut guest = Guest::new(vec![executable.into()]);
    guest.command.extend(arguments);
    // One kernel for all: what one test loads, unloads or fills must not be under another one's feet.
    guest.command.push("--test-threads=1".into());
    guest.timeout = Some(LIMIT);
    guest.folder = Some(shell::root());
    // Tests that need the guest skip themselves, loudly, where this is not set.
    guest.environment.extend(environment.iter().cloned());
    guest.environment.push(("FERROVIA_VM".into(), "1".into()));
    guest.environment.push(("CARGO_MANIFEST_DIR".into(), shell::root().into()));
    guest.environment.push(("PATH".into(), path_with_tools()?));
    Ok(guest)
}

/// The search path with the unpacked programs behind everything that is installed.
fn path_with_tools() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).chain(tools::folders()?).collect();
    std::env::join_paths(folders).context("PATH holds a colon inside a folder's name")
}

/// How many tests libtest's closing line tells of as executed; 0 for any other line.
pub(super) fn executed(line: &str) -> u64 {
    let count = |what: &str| {
        let before = line.split(what).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    if line.starts_with("test result:") { count(" passed") + count(" failed") } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_nothing_is_told_from_a_run() {
        assert_eq!(executed("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured"), 3);
        assert_eq!(executed("test result: FAILED. 0 passed; 1 failed; 0 ignored"), 1);
        assert_eq!(executed("test result: ok. 0 passed; 0 failed; 4 ignored; 0 measured; 9 filtered out"), 0);
        assert_eq!(executed("running 3 tests"), 0);
    }

    #[test]
    fn arguments_after_the_selection_are_the_tests_own() {
        let words: Vec<OsString> = ["--bin", "netns", "--", "ipvs", "--nocapture"].iter().map(OsString::from).collect();
        let selection = Selection::parse(&words).unwrap();
        assert_eq!(selection.binary, "netns");
        assert_eq!(selection.arguments, ["ipvs", "--nocapture"]);
    }
}
