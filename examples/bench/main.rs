//! `make bench`: what the daemon costs, held against the floor of the same kernel.
//!
//! Runs as root in the guest of `cargo xtask vm`; `cargo xtask bench` arranges that and keeps the table. An emulated
//! guest is slow, so nothing measured there is an absolute time to quote: the bars are ratios between two measurements
//! of the same guest, taken in turn, and counts. Each measurement has a network namespace of its own, because IPVS keeps
//! deleted real servers for minutes and every addition walks them.
//!
//! What needs no kernel is measured before that, on the machine itself (`--native`), and handed to the run in the guest
//! in a file, so that there is one table.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark prints its table, waits for plain time and measures it"
)]

mod api_server;
mod cluster;
mod doors;
mod firewall;
mod floor;
mod memory;
mod native;
mod null;
mod objects;
mod place;
mod scenarios;
mod standin;
mod sustained;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrovia::testing::meter;
use serde::{Deserialize, Serialize};

use table::Row;

/// How often each measurement is repeated unless asked otherwise.
const REPETITIONS: usize = 5;

/// Measures something so many times.
type Scenario = fn(usize) -> Result<Vec<Row>>;

/// What can be measured in a guest, by name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("start", scenarios::cold_start_and_restart),
    ("change", scenarios::one_change),
    ("sustained", sustained::changes_per_second),
    ("memory-api", memory::from_an_api_server),
    ("memory-folder", memory::from_a_folder),
    ("firewall-start", firewall::scenarios::full_load),
    ("firewall-change", firewall::scenarios::one_change),
    ("firewall-sustained", firewall::scenarios::pods_per_second),
    ("firewall-packets", firewall::packets::per_packet),
    // The last one: it has brought a kernel down.
    ("mh", scenarios::hashed_service),
];
/// What can be measured anywhere.
const NATIVE: &[(&str, Scenario)] = &[
    ("processor", native::one_change),
    ("firewall-processor", firewall::native::one_change),
    ("memory", memory::of_a_stand_in),
];
/// Names the file that takes the native rows to the guest.
const NATIVE_FILE: &str = "FERROVIA_BENCH_NATIVE";

/// What the command line asks for.
struct Arguments {
    repetitions: usize,
    native: bool,
    names: Vec<String>,
}

/// Rows on their way to the guest.
#[derive(Serialize, Deserialize)]
struct Native {
    machine: String,
    rows: Vec<Row>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [standin::FLAG, master] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return match standin::run(master) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match parse(&arguments).and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures and prints; true where every bar held.
fn run(arguments: &Arguments) -> Result<bool> {
    let file = std::env::var_os(NATIVE_FILE);
    if arguments.native {
        let rows = measure(NATIVE, arguments);
        let text = serde_json::to_string(&Native { machine: meter::machine()?, rows: rows.clone() })?;
        match file {
            Some(file) => std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?,
            None => print!("{}", table::markdown(&rows)),
        }
        return Ok(rows.iter().all(|row| row.passed));
    }
    if std::env::var_os("FERROVIA_VM").is_none() {
        bail!("the benchmarks fill the kernel's tables: run them in the guest, with `cargo xtask bench`");
    }
    // Loads the module, whose settings namespaces have only then. What needs IPVS fails where there is none.
    let _ = floor::family_number();
    println!("# Benchmarks\n");
    let mut rows = measure(SCENARIOS, arguments);
    if let Some(file) = file {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let native: Native = serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        println!("Native rows: {}.\n", native.machine);
        rows.extend(native.rows);
    }
    println!(
        "All other rows: {}, {} repetitions; ratios, counts and memory, and times that hold for this guest only.\n",
        meter::machine()?,
        arguments.repetitions
    );
    print!("{}", table::markdown(&rows));
    let n_failed = rows.iter().filter(|row| !row.passed).count();
    println!(
        "\n{} bars held, {n_failed} did not.",
        rows.iter().filter(|row| row.passed && !row.bar.is_empty()).count()
    );
    Ok(n_failed == 0)
}

/// Runs those of `scenarios` that are asked for.
fn measure(scenarios: &[(&str, Scenario)], arguments: &Arguments) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, measure) in scenarios {
        if arguments.names.is_empty() || arguments.names.iter().any(|asked| asked == name) {
            let start = Instant::now();
            // One that cannot be measured has not held, and is no reason to lose the others.
            let measured = measure(arguments.repetitions)
                .unwrap_or_else(|error| vec![Row::figure(name, format!("not measured: {error:#}"), "measured", false)]);
            eprintln!("bench: {name} took {}\n{}", table::show(start.elapsed()), table::markdown(&measured));
            rows.extend(measured);
        }
    }
    rows
}

/// `[--native] [--repetitions N] [SCENARIO…]`.
fn parse(arguments: &[String]) -> Result<Arguments> {
    let mut parsed = Arguments { repetitions: REPETITIONS, native: false, names: Vec::new() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--native" => parsed.native = true,
            "--repetitions" => {
                parsed.repetitions = meter::repetitions(words.next())?;
            }
            name => parsed.names.push(name.to_owned()),
        }
    }
    meter::check_scenarios(&parsed.names, SCENARIOS.iter().chain(NATIVE).map(|(name, _)| *name))?;
    Ok(parsed)
}
