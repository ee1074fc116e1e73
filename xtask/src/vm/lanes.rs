//! All tests of tier 4, in several guests, as many at a time as there are processors: an emulated guest has one.
//!
//! Each module of tests has a guest, which is up in a second. What a guest says is kept, and shown in one piece when it
//! has ended.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::{Console, Guest};
use super::test::executed;
use crate::shell;

/// Modules whose tests run for minutes: each test has a guest of its own, and they go first, so that the last guest of
/// all is a short one.
const LONG: &[&str] = &["truth_table", "firewall", "labs"];

/// Guests at once: tests that wait for others' timers want some processor left.
const AT_MOST: usize = 2;

/// Tests that share a guest.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    name: String,
    tests: Vec<String>,
}

/// What became of a group.
struct Ended {
    name: String,
    status: u8,
    n_executed: u64,
    n_expected: usize,
}

impl Ended {
    fn is_good(&self) -> bool {
        self.status == 0 && self.n_executed == self.n_expected as u64
    }
}

/// Runs all tests of `program`, each group in a guest that `guest` makes of the tests' arguments, with what they print in
/// files of `folder`. The exit status is 0 where every test was executed and passed.
pub(super) fn run_all(
    program: &Path,
    folder: &Path,
    guest: &(dyn Fn(Vec<OsString>) -> Result<Guest> + Sync),
) -> Result<u8> {
    let listed = shell::output(&mut shell::command(program, ["--list", "--format=terse"]))?;
    let mut groups = group(listed.lines().filter_map(|line| line.strip_suffix(": test")));
    if groups.is_empty() {
        bail!("{} has no tests", program.display());
    }
    let n_groups = groups.len();
    // Taken from the end.
    groups.reverse();
    let n_lanes = thread::available_parallelism().map_or(1, usize::from).min(AT_MOST);
    eprintln!("xtask: {n_groups} guests, {n_lanes} at a time; each is shown when it has ended");
    let (begun, queue, ended) = (Instant::now(), Mutex::new(groups), Mutex::new(Vec::new()));
    let lane = || -> Result<()> {
        loop {
            // Nobody panics while it holds one of the locks.
            let Some(group) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return Ok(()) };
            eprintln!("xtask: guest `{}`: started", group.name);
            let (result, output, took) = run(&group, folder, guest)?;
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            println!("\n=== guest {} of {n_groups}: {} ({} s)", ended.len() + 1, group.name, took.as_secs());
            print!("{output}");
            ended.push(result);
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..n_lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    let n_executed: u64 = ended.iter().map(|ended| ended.n_executed).sum();
    println!("\n{n_executed} tests in {} guests, {} s", ended.len(), begun.elapsed().as_secs());
    let mut status = 0;
    for bad in ended.iter().filter(|ended| !ended.is_good()) {
        let Ended { name, status: said, n_executed, n_expected } = bad;
        println!("guest `{name}` failed: status {said}, {n_executed} of {n_expected} tests executed");
        status = (*said).max(1).max(status);
    }
    Ok(status)
}

/// One group in one guest: how it ended, all it said, and how long it took.
fn run(
    group: &Group,
    folder: &Path,
    guest: &(dyn Fn(Vec<OsString>) -> Result<Guest> + Sync),
) -> Result<(Ended, String, Duration)> {
    let begun = Instant::now();
    let file: PathBuf = folder.join(format!("{}.txt", group.name.replace("::", ".")));
    let exact = ["--exact".into()].into_iter().chain(group.tests.iter().map(OsString::from));
    let mut guest = guest(exact.collect())?;
    guest.console = Console::File;
    guest.output_copy = Some(file.clone());
    let status = guest.run()?;
    let output = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let output = String::from_utf8_lossy(&output).into_owned();
    let n_executed = output.lines().map(executed).sum();
    Ok((Ended { name: group.name.clone(), status, n_executed, n_expected: group.tests.len() }, output, begun.elapsed()))
}

/// Puts tests into groups: each test of a long module alone and first, others by the first part of their names.
fn group<'a>(tests: impl Iterator<Item = &'a str>) -> Vec<Group> {
    let (mut long, mut rest) = (Vec::new(), Vec::<Group>::new());
    for test in tests {
        let module = test.split("::").next().unwrap_or(test);
        let own = vec![test.to_owned()];
        if LONG.contains(&module) {
            long.push(Group { name: test.to_owned(), tests: own });
        } else if let Some(group) = rest.iter_mut().find(|group| group.name == module) {
            group.tests.extend(own);
        } else {
            rest.push(Group { name: module.to_owned(), tests: own });
        }
    }
    // As LONG has them.
    long.sort_by_key(|group| LONG.iter().position(|module| group.name.starts_with(module)));
    long.extend(rest);
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_tests_have_guests_of_their_own_and_go_first() {
        let tests = ["a::x", "labs::one::y", "a::b::z", "b::x", "truth_table::n::p", "truth_table::n::q"];
        let groups = group(tests.into_iter());
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["truth_table::n::p", "truth_table::n::q", "labs::one::y", "a", "b"]);
        assert_eq!(groups.iter().find(|group| group.name == "a").unwrap().tests, ["a::x", "a::b::z"]);
    }

    #[test]
    fn a_guest_is_good_only_if_every_test_was_executed() {
        let ended = |status, n_executed| Ended { name: String::new(), status, n_executed, n_expected: 2 };
        assert!(ended(0, 2).is_good());
        assert!(!ended(0, 1).is_good());
        assert!(!ended(101, 2).is_good());
    }
}
