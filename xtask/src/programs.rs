//! The demonstration and the benchmarks: examples of the package, run in a guest against the built daemon.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::{TESTING, executables};
use crate::check::step;
use crate::vm::{Console, Guest};
use crate::{shell, vm};

/// How the programs find the daemon.
const BINARY: &str = "FERROVIA_BIN";

/// Names the file in which `bench` on this machine leaves its rows for `bench` in the guest.
const NATIVE_FILE: &str = "FERROVIA_BENCH_NATIVE";

/// `make demo`.
pub(crate) fn demo(arguments: &[&str]) -> Result<u8> {
    guest("demo", &[], arguments)?.run()
}

/// The demonstration with a console: it ends in a shell among its namespaces.
pub(crate) fn demo_shell() -> Result<u8> {
    let mut guest = guest("demo", &[], &["--shell"])?;
    guest.console = Console::Terminal;
    guest.run()
}

/// Optimised builds; the table goes to the terminal and to a file. BGP is measured on this machine, beside the other
/// daemons; then what else needs no kernel of its own, which is handed to the guest, which prints the rest of the table.
/// `bgp` as first argument measures BGP alone.
pub(crate) fn bench(arguments: &[&str]) -> Result<u8> {
    match arguments {
        ["bgp", arguments @ ..] => {
            vm::setup()?;
            bench_bgp(arguments).map(|(_, status)| status)
        }
        [] => {
            vm::setup()?;
            let (bgp, first) = bench_bgp(&[])?;
            let second = bench_rest(&[])?;
            let table = shell::root().join("target/bench/latest.md");
            let mut all = fs::read(&table).with_context(|| format!("cannot read {}", table.display()))?;
            all.extend_from_slice(b"\n");
            all.extend(fs::read(&bgp).with_context(|| format!("cannot read {}", bgp.display()))?);
            fs::write(&table, all).with_context(|| format!("cannot write {}", table.display()))?;
            Ok(first.max(second))
        }
        _ => bench_rest(arguments),
    }
}

/// Our speaker beside BIRD, FRR and GoBGP, on this machine: the file with the table, and the exit status.
fn bench_bgp(arguments: &[&str]) -> Result<(PathBuf, u8)> {
    step("building the speaker and the example `bgp_bench`");
    let build = [&["build", "--release"][..], &TESTING, &["--example", "speaker", "--example", "bgp_bench"]].concat();
    let [speaker, meter] = executables(&build, ["speaker", "bgp_bench"])?;
    step("`bgp_bench` on this machine");
    let mut command = Command::new(meter);
    command.args(arguments).env("FERROVIA_SPEAKER", speaker);
    command.env("FERROVIA_BENCH_GOBGP4", vm::tools_folder()?.join("gobgp4/gobgpd"));
    let output = command.stderr(Stdio::inherit()).output().context("cannot start bgp_bench")?;
    // 1 is a bar that did not hold: the table says which.
    let Some(status @ (0 | 1)) = output.status.code() else { bail!("`bgp_bench` failed: {}", output.status) };
    let folder = shell::root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("bgp.md");
    fs::write(&file, &output.stdout).with_context(|| format!("cannot write {}", file.display()))?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("xtask: the table is in {}", file.display());
    Ok((file, u8::from(status == 1)))
}

/// What needs a guest, and what goes into one table with it.
fn bench_rest(arguments: &[&str]) -> Result<u8> {
    let mut guest = guest("bench", &["--release"], arguments)?;
    let folder = shell::root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let native = folder.join("native.json");
    let program = guest.command.first().context("no program to run")?;
    step("`bench` on this machine, as far as no kernel is needed");
    let mut here = Command::new(program);
    let status = here.arg("--native").args(arguments).env(NATIVE_FILE, &native).status()?;
    // 1 is a bar that did not hold: the table says which.
    if !matches!(status.code(), Some(0 | 1)) {
        bail!("`bench --native` failed: {status}");
    }
    guest.environment.push((NATIVE_FILE.into(), native.into()));
    let table = folder.join("latest.md");
    guest.output_copy = Some(table.clone());
    guest.timeout = Some(Duration::from_secs(5400));
    let status = guest.run()?;
    eprintln!("xtask: the table is in {}", table.display());
    Ok(status)
}

/// A guest that runs an example, both it and the daemon freshly built.
fn guest(example: &str, profile: &[&str], arguments: &[&str]) -> Result<Guest> {
    vm::setup()?;
    step(&format!("building the daemon and the example `{example}`"));
    // One build for both, with the features of the tests: nothing is compiled twice.
    let target = ["--bin", "ferrovia", "--example", example];
    let build = [&["build"], profile, &TESTING, &target].concat();
    let [daemon, program] = executables(&build, ["ferrovia", example])?;
    let mut command: Vec<OsString> = vec![program.into()];
    command.extend(arguments.iter().map(OsString::from));
    let mut guest = Guest::new(command);
    guest.folder = Some(shell::root());
    guest.timeout = Some(Duration::from_secs(900));
    guest.environment.push((BINARY.into(), daemon.into()));
    guest.environment.push(("FERROVIA_VM".into(), "1".into()));
    step(&format!("`{example}` in a guest"));
    Ok(guest)
}
