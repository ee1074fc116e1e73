//! `make bench`: what the daemon costs, held against the floor of the same kernel.
//!
//! Runs as root in the guest of `cargo xtask vm`; `cargo xtask bench` arranges that and keeps the table. An emulated
//! guest is slow, so nothing here is an absolute time to quote: the bars are ratios between two measurements of the
//! same guest, taken in turn, and counts. Each measurement has a network namespace of its own, because IPVS keeps
//! deleted real servers for minutes and every addition walks them.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark prints its table, waits for plain time and measures it"
)]

mod cluster;
mod doors;
mod floor;
mod memory;
mod place;
mod scenarios;
mod sustained;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use table::Row;

/// How often each measurement is repeated unless asked otherwise.
const REPETITIONS: usize = 5;

/// Measures something so many times.
type Scenario = fn(usize) -> Result<Vec<Row>>;

/// What can be measured, by name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("start", scenarios::cold_start_and_restart),
    ("change", scenarios::one_change),
    ("mh", scenarios::hashed_service),
    ("sustained", sustained::changes_per_second),
    ("memory", memory::resident),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::from(2)
        }
    }
}

/// Measures and prints; true where every bar held.
fn run(arguments: &[String]) -> Result<bool> {
    let (repetitions, names) = parse(arguments)?;
    if std::env::var_os("FERROVIA_VM").is_none() {
        bail!("the benchmarks fill the kernel's IPVS table: run them in the guest, with `cargo xtask bench`");
    }
    // Also loads the module, whose settings namespaces have only then.
    floor::family_number()?;
    let mut rows = Vec::new();
    for (name, measure) in SCENARIOS {
        if names.is_empty() || names.iter().any(|asked| asked == name) {
            eprintln!("bench: {name}");
            rows.extend(measure(repetitions).with_context(|| format!("scenario {name}"))?);
        }
    }
    println!("# Benchmarks\n");
    println!("Kernel {}, {repetitions} repetitions. Ratios and counts; times hold for this guest only.\n", kernel()?);
    print!("{}", table::markdown(&rows));
    let n_failed = rows.iter().filter(|row| !row.passed).count();
    println!(
        "\n{} bars held, {n_failed} did not.",
        rows.iter().filter(|row| row.passed && !row.bar.is_empty()).count()
    );
    Ok(n_failed == 0)
}

/// `[--repetitions N] [SCENARIO…]`.
fn parse(arguments: &[String]) -> Result<(usize, &[String])> {
    let (repetitions, names) = match arguments {
        [flag, n, names @ ..] if flag == "--repetitions" => (n.parse().context("--repetitions takes a number")?, names),
        names => (REPETITIONS, names),
    };
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        bail!("no scenario {unknown:?}; there are {}", known.join(", "));
    }
    Ok((repetitions, names))
}

/// The kernel's release.
fn kernel() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    Ok(release.trim().to_owned())
}
