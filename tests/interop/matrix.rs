//! The table: which capability was seen to work with which implementation.
//!
//! A test names the rows it proves. What is not claimed there is `n/a`, and [`REASONS`] says why. The page in
//! `docs/design/interop.md` is made from both; `target/interop/latest.md` shows what the last run saw.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use ferrovia::testing::lab::report;

use crate::describe::Kind;

/// A row of the table.
pub(crate) struct Row {
    pub name: &'static str,
    pub proof: &'static str,
    /// Why there is nothing to test with one of the others.
    pub not: &'static [(Kind, &'static str)],
}

/// What a scenario proves, and with whom.
pub(crate) struct Claim {
    pub rows: &'static [&'static str],
    pub kinds: &'static [Kind],
}

/// What a cell saw: passed or failed, and how long its test took.
static SEEN: Mutex<BTreeMap<(usize, Kind), (bool, Duration)>> = Mutex::new(BTreeMap::new());

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The place of a row.
fn place(name: &str) -> usize {
    crate::rows::ROWS.iter().position(|row| row.name == name).unwrap_or_else(|| panic!("no row `{name}`"))
}

/// Why a cell is not applicable.
fn reason(row: &Row, kind: Kind) -> Option<&'static str> {
    row.not.iter().find(|(other, _)| *other == kind).map(|(_, why)| *why)
}

/// Runs a test of some rows against one implementation. Says so where it must be skipped.
pub(crate) fn cell(kind: Kind, rows: &[&str], test: impl FnOnce(Kind) -> Result<()>) {
    let places: Vec<usize> = rows.iter().map(|row| place(row)).collect();
    let all = crate::rows::ROWS;
    if let Some(why) = places.iter().find_map(|place| reason(&all[*place], kind)) {
        panic!("{rows:?} has a test with {kind}, and the table says: {why}");
    }
    if crate::skipped(&[kind, crate::pair::us()]) {
        return;
    }
    let start = Instant::now();
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| test(kind)));
    let passed = matches!(result, Ok(Ok(())));
    {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places {
            let entry = seen.entry((place, kind)).or_insert((true, Duration::ZERO));
            *entry = (entry.0 && passed, entry.1 + start.elapsed());
        }
        write_latest(&seen);
    }
    match result {
        Ok(Ok(())) => crate::lab::forget_logs(),
        Ok(Err(error)) => {
            report(&crate::lab::take_logs());
            panic!("{kind}: {rows:?}: {error:#}");
        }
        Err(panic) => {
            report(&crate::lab::take_logs());
            std::panic::resume_unwind(panic);
        }
    }
}

fn write_latest(seen: &BTreeMap<(usize, Kind), (bool, Duration)>) {
    let text = table(|place, kind| match seen.get(&(place, kind)) {
        Some((true, took)) => format!("passed ({:.1} s)", took.as_secs_f64()),
        Some((false, _)) => "**failed**".into(),
        None => match reason(&crate::rows::ROWS[place], kind) {
            Some(_) => "n/a".into(),
            None => "not run".into(),
        },
    });
    let folder = root().join("target/interop");
    drop(fs::create_dir_all(&folder));
    // In a guest the folder may be read-only: the table on the terminal remains.
    drop(fs::write(folder.join("latest.md"), text));
}

fn table(cell: impl Fn(usize, Kind) -> String) -> String {
    let mut text = String::from("| capability |");
    for kind in Kind::OTHERS {
        let _ = write!(text, " {kind} |");
    }
    text += "\n| --- | --- | --- | --- | --- | --- |\n";
    for (place, row) in crate::rows::ROWS.iter().enumerate() {
        let _ = write!(text, "| {} |", row.name);
        for kind in Kind::OTHERS {
            let _ = write!(text, " {} |", cell(place, kind));
        }
        text += "\n";
    }
    text
}

/// The generated part of the page.
fn page() -> String {
    let mut reasons: Vec<&str> = Vec::new();
    for why in crate::rows::ROWS.iter().flat_map(|row| row.not).map(|(_, why)| *why) {
        if !reasons.contains(&why) {
            reasons.push(why);
        }
    }
    let number = |why: &str| reasons.iter().position(|other| *other == why).map_or(0, |n| n + 1);
    let mut text = table(|place, kind| match reason(&crate::rows::ROWS[place], kind) {
        Some(why) => format!("n/a {}", number(why)),
        None => "yes".into(),
    });
    text += "\nNot applicable, because:\n\n";
    for (n, why) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {why}", n + 1);
    }
    text += "\nWhat each row means:\n\n";
    for row in crate::rows::ROWS {
        let _ = writeln!(text, "- {}: {}", row.name, row.proof);
    }
    text
}

const BEGIN: &str = "<!-- made from tests/interop/rows.rs by cargo xtask bless -->\n";
const END: &str = "<!-- end -->\n";

/// The page says what the rows say. Needs no daemon.
#[test]
fn the_page_is_current() {
    let path = root().join("docs/design/interop.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the page has the mark where the made part begins");
    let (old, after) = rest.split_once(END).expect("the page has the mark where the made part ends");
    if old != page() {
        assert!(std::env::var_os("FERROVIA_BLESS").is_some(), "docs/design/interop.md is stale: FERROVIA_BLESS=1");
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", page())).unwrap();
    }
}

/// Every cell of the table that is not explained away has a test: the macro that makes tests names them all.
#[test]
fn every_cell_has_a_test() {
    let claims = crate::CLAIMS.iter().copied().flatten();
    for (row, kind) in crate::rows::ROWS.iter().flat_map(|row| Kind::OTHERS.map(|kind| (row, kind))) {
        let has = claims.clone().any(|claim| claim.kinds.contains(&kind) && claim.rows.contains(&row.name));
        assert_eq!(has, reason(row, kind).is_none(), "{} with {kind}", row.name);
    }
}
