//! `gobgp global rib` against gobgpd and against us: the same program, the same routes.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::device::{Kind, Setup};
use super::peer::{HOLD, Identity, Session};
use super::place;
use super::reflect::millis;
use super::routes::{Load, prefix};
use super::table::{Bar, Table, Unit, percentile};

/// How often each command is run.
const TIMES: usize = 7;
/// The routes asked for.
const LOAD: Load = Load { n: 10_000, unique: true };
const SOURCE: Identity = Identity { address: std::net::Ipv4Addr::new(10, 200, 0, 2), asn: 65001, hold: HOLD };

/// The clients of both major versions against a device that answers them; a gobgpd answers its own only.
pub(crate) fn measure(kind: Kind, table: &mut Table) -> Result<()> {
    let answered: &[Kind] = match kind {
        Kind::Ferrovia => &[Kind::Gobgp3, Kind::Gobgp4],
        Kind::Gobgp3 => &[Kind::Gobgp3],
        Kind::Gobgp4 => &[Kind::Gobgp4],
        Kind::Bird | Kind::Frr => return Ok(()),
    };
    let mut clients = Vec::new();
    for theirs in answered {
        // Whoever is not installed is named where it is itself the device.
        let Ok(daemon) = theirs.program() else { continue };
        clients.push((*theirs, daemon.with_file_name("gobgp")));
    }
    let took = place::fresh(|| run(kind, &clients))?;
    for (theirs, took) in took {
        let what = format!("`gobgp global rib`, 10k routes, client of {}", theirs.name());
        table.add(&what, Unit::Millis, &[Bar::Of(theirs, 1.2)], kind, took);
    }
    Ok(())
}

fn run(kind: Kind, clients: &[(Kind, PathBuf)]) -> Result<Vec<(Kind, f64)>> {
    let device = kind.start(&Setup { peers: vec![SOURCE], ..Setup::default() })?;
    let mut source = Session::establish(SOURCE)?;
    source.drain()?;
    source.write(&LOAD.announce(SOURCE))?;
    let mut medians = Vec::new();
    for (theirs, client) in clients {
        complete(client).with_context(|| format!("ask {}; its log ends: {}", kind.name(), device.log()))?;
        let mut took = Vec::new();
        for _ in 0..TIMES {
            let since = Instant::now();
            let n_lines = ask(client)?;
            took.push(millis(since.elapsed()));
            ensure!(n_lines > LOAD.n as usize, "`gobgp global rib` printed {n_lines} lines");
        }
        medians.push((*theirs, percentile(&took, 50)));
    }
    Ok(medians)
}

/// Waits until the table is complete, and looks whether the last route is as announced.
fn complete(client: &PathBuf) -> Result<()> {
    let begun = Instant::now();
    while ask(client)? <= LOAD.n as usize {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the table did not become complete");
        std::thread::sleep(Duration::from_millis(200));
    }
    let last = prefix(LOAD.n - 1);
    let output = Command::new(client).args(["global", "rib", &last]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains(&last) && said.contains("10.200.0.2"), "`gobgp global rib {last}` said: {said}");
    Ok(())
}

/// Lines that the command prints.
fn ask(client: &PathBuf) -> Result<usize> {
    let output = Command::new(client)
        .args(["global", "rib"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", client.display()))?;
    // What it says of an empty table goes where a table would go.
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    let said = String::from_utf8_lossy(&all);
    ensure!(output.status.success() || said.contains("not in table"), "`gobgp global rib` failed: {said}");
    Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count())
}
