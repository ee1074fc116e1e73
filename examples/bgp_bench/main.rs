//! The BGP part of `make bench`: our speaker beside BIRD, FRR and both major versions of gobgpd, doing the same work.
//!
//! Runs natively, as root: every device has a network namespace of its own, in which this program is all of its
//! peers. The peers encode what they send before the clock starts, and know of what they receive only the prefixes.
//! Devices take turns within each repetition, so that what else the machine does meets all of them.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark prints its table, starts the programs it measures and measures plain time"
)]

mod bfd;
mod client;
mod crowd;
mod device;
mod kernel;
mod peer;
mod place;
mod reflect;
mod routes;
mod silence;
#[allow(dead_code, reason = "the file of the example `speaker`, of which not all is wanted here")]
#[path = "../speaker/file.rs"]
mod speaker_file;
mod table;
mod vip;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use ferrovia::testing::meter;

use device::Kind;
use routes::Load;
use table::Table;

/// How often each measurement is repeated unless asked otherwise.
const REPETITIONS: usize = 3;

/// Measures something about one device.
type Scenario = fn(Kind, &mut Table) -> Result<()>;

/// What can be measured, by name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("10k-shared", |kind, table| reflect::measure(kind, Load { n: 10_000, unique: false }, table)),
    ("10k-unique", |kind, table| reflect::measure(kind, Load { n: 10_000, unique: true }, table)),
    ("100k-shared", |kind, table| reflect::measure(kind, Load { n: 100_000, unique: false }, table)),
    ("100k-unique", |kind, table| reflect::measure(kind, Load { n: 100_000, unique: true }, table)),
    ("mesh", crowd::mesh),
    ("idle", crowd::idle),
    ("fan-out", crowd::fan_out),
    ("vip", vip::measure),
    ("client", client::measure),
    ("bfd", bfd::measure),
    ("kernel", kernel::measure),
];

/// What the command line asks for.
struct Arguments {
    repetitions: usize,
    devices: Vec<Kind>,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments).and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bgp_bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures and prints; true where every bar held.
fn run(arguments: &Arguments) -> Result<bool> {
    let mut table = Table::default();
    let mut complete = true;
    let mut devices = Vec::new();
    for kind in &arguments.devices {
        match kind.version() {
            Ok(version) => {
                table.remark(format!("{}: {version}", kind.name()));
                devices.push(*kind);
            }
            Err(error) => {
                table.remark(format!("{}: not measured: {error:#}", kind.name()));
                complete = false;
            }
        }
    }
    for (name, measure) in SCENARIOS {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|asked| asked == name) {
            continue;
        }
        for turn in 1..=arguments.repetitions {
            for kind in &devices {
                let since = Instant::now();
                // One that cannot be measured has not held, and is no reason to lose the others.
                if let Err(error) = measure(*kind, &mut table) {
                    table.remark(format!("{name}, {}: not measured: {error:#}", kind.name()));
                    complete = false;
                }
                eprintln!("bgp_bench: {name}, {}, turn {turn}: {:.1} s", kind.name(), since.elapsed().as_secs_f64());
            }
        }
        // Whoever stops it halfway has half.
        eprintln!("{}", table.markdown());
    }
    println!("## BGP\n\n{}, {} repetitions.\n\n{}", meter::machine()?, arguments.repetitions, table.markdown());
    Ok(complete && table.passed())
}

/// `[--repetitions N] [--device NAME]… [SCENARIO…]`.
fn parse(arguments: &[String]) -> Result<Arguments> {
    let mut parsed = Arguments { repetitions: REPETITIONS, devices: Vec::new(), names: Vec::new() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--repetitions" => {
                parsed.repetitions = meter::repetitions(words.next())?;
            }
            "--device" => {
                let kind = words.next().and_then(|word| Kind::ALL.into_iter().find(|kind| kind.name() == word));
                let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                parsed.devices.push(kind.with_context(|| format!("--device takes one of {}", names.join(", ")))?);
            }
            name => parsed.names.push(name.to_owned()),
        }
    }
    if parsed.devices.is_empty() {
        parsed.devices = Kind::ALL.to_vec();
    }
    meter::check_scenarios(&parsed.names, SCENARIOS.iter().map(|(name, _)| *name))?;
    Ok(parsed)
}
