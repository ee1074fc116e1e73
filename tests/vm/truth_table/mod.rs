//! Truth tables on the real kernel: after each of many changes of policies, labels and pods, every pod tries every other one, over
//! each protocol, port and family, and what it sees is compared with a naive reading of the Kubernetes API.
//!
//! The seed of the generated cases is printed; `FERROVIA_SEED` takes another one. The kernel must have SCTP: the lab does not
//! come up without it.

#![allow(clippy::disallowed_methods, reason = "how long real daemons and packets take is measured in plain time")]

mod cases;
mod generate;
mod prober;
mod world;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ferrovia::k8s::load_folder_once;
use ferrovia::model::{NodeName, Snapshot};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Daemon, DaemonOptions, Lab, Options, report, wait};
use ferrovia::testing::policy_oracle::PolicyOracle;
use ferrovia::testing::tracer::{Origin, Packet};

use self::generate::Random;
pub(crate) use self::prober::open;
use self::prober::{Host, PROTOCOLS, Probe, Prober, Seen};
use self::world::World;
use super::firewall::{Backend, generation};
use super::{SOON, with_lab};

/// Rows of one case that are printed.
const ROWS: usize = 30;
/// How long nodes remember what no longer is, seconds.
const FORGET_SOON: [(&str, &str); 4] = [
    ("net/netfilter/nf_conntrack_udp_timeout", "15"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "15"),
    ("net/netfilter/nf_conntrack_tcp_timeout_close", "3"),
    ("net/netfilter/nf_conntrack_sctp_timeout_closed", "3"),
];
/// Cases with differences after which the rest is not tried.
const ENOUGH: usize = 5;

/// Two nodes with five pods each, of which the first nine are used.
fn options() -> Options {
    Options { nodes: 2, pods: 5, sctp: true, ..Options::default() }
}

/// Writes the world, and waits until every daemon has it in force.
fn put_in_force(lab: &Lab, daemons: &[Daemon], world: &World) -> Result<()> {
    let before = daemons.iter().map(generation).collect::<Result<Vec<f64>>>()?;
    world.write(lab)?;
    // One after the other: asking costs the only processor of an emulated guest as much as the change.
    daemons.iter().zip(before).try_for_each(|(daemon, before)| {
        wait::until("the change is in force", SOON, || {
            let now = generation(daemon)?;
            ensure!(now > before, "{before}, now {now}");
            Ok(())
        })
    })
}

/// What the API says of every probe.
fn expected(lab: &Lab, prober: &Prober) -> Result<Vec<bool>> {
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for node in lab.nodes() {
        let (snapshot, reports) = load_folder_once(lab.manifests().path(), &NodeName::new(node.name.as_str()))?;
        ensure!(reports.is_empty(), "a case is not valid: {reports:?}");
        snapshots.push(snapshot);
    }
    let oracles: Vec<PolicyOracle<'_>> = snapshots.iter().map(PolicyOracle::new).collect();
    let address = |host: usize, family: Family| {
        prober.hosts.get(host).and_then(|host| host.addresses.get(usize::from(family == Family::V6))).copied()
    };
    let judge = |probe: &Probe| {
        let (source, destination) = (address(probe.from, probe.family)?, address(probe.to, probe.family)?);
        let (protocol, port) = (probe.protocol, probe.port);
        let packet = Packet { origin: Origin::Wire, source, source_port: 40_000, destination, protocol, port };
        Some(oracles.iter().all(|oracle| oracle.allows(packet, false)))
    };
    Ok(prober.probes.iter().filter_map(judge).collect())
}

/// The rows in which the API and the kernel differ.
fn differences(prober: &Prober, world: &World, expected: &[bool], seen: &[Seen]) -> Vec<String> {
    let name = |number: usize| {
        world.pods.get(number).map_or(String::new(), |pod| format!("{number}:{}/{}", pod.namespace, pod.name))
    };
    let cells = prober.probes.iter().zip(expected.iter().zip(seen));
    let wrong =
        cells.filter(|(_, (open, seen))| **open != (**seen == Seen::Open) || (!**open && **seen == Seen::HalfOpen));
    wrong
        .map(|(probe, (open, seen))| {
            let expected = if *open { "open" } else { "closed" };
            let Probe { from, to, protocol, port, family } = probe;
            format!("{} -> {} {protocol}/{port} {family}: expected {expected}, seen {seen:?}", name(*from), name(*to))
        })
        .collect()
}

/// The runs of all cases, and what they have shown.
struct Table<'a> {
    lab: &'a Lab,
    daemons: &'a [Daemon],
    prober: Prober,
    world: World,
    n_open: usize,
    n_probes: usize,
    /// Spent until changes were in force, and on probes.
    took: [Duration; 2],
    failed: Vec<String>,
}

impl Table<'_> {
    /// Puts the world in force and compares.
    fn run(&mut self, title: &str) -> Result<()> {
        self.world.case += 1;
        let begun = Instant::now();
        put_in_force(self.lab, self.daemons, &self.world)?;
        self.took[0] += begun.elapsed();
        let expected = expected(self.lab, &self.prober)?;
        ensure!(expected.len() == self.prober.probes.len(), "an answer for every probe");
        let begun = Instant::now();
        let seen = self.prober.round(&expected)?;
        self.took[1] += begun.elapsed();
        let wrong = differences(&self.prober, &self.world, &expected, &seen);
        self.n_probes += seen.len();
        self.n_open += seen.iter().filter(|seen| **seen == Seen::Open).count();
        if wrong.is_empty() {
            return Ok(());
        }
        let mut text = format!("case {}: {title}: {} of {} differ\n", self.world.case, wrong.len(), seen.len());
        wrong.iter().take(ROWS).for_each(|row| writeln!(text, "    {row}").unwrap_or_default());
        text.push_str(&self.world.describe());
        let again = self.prober.round(&expected)?;
        let again = differences(&self.prober, &self.world, &expected, &again).len();
        writeln!(text, "  when tried again, {again} differ")?;
        report(&text);
        self.failed.push(text);
        if self.failed.len() >= ENOUGH {
            bail!("{} cases differ, the rest was not tried", self.failed.len());
        }
        Ok(())
    }
}

/// The seed of generated cases: `FERROVIA_SEED`, or always the same one.
fn seed() -> u64 {
    std::env::var("FERROVIA_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(190_980_319_242_198)
}

/// Runs all cases written by hand and `n_generated` generated ones.
fn truth(backend: &str, n_generated: usize) {
    with_lab(options(), |lab| {
        let flags = ["--run-firewall=true", "--run-service-proxy=false", backend];
        let places: Vec<_> =
            lab.nodes().iter().flat_map(|node| &node.pods).filter(|pod| !pod.host_network).take(9).collect();
        // Connections of past rounds would fill the table of a small guest, and daemons read all of it for many a change.
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_max", "262144")?;
        for node in lab.nodes() {
            node.ns.set_sysctls(&FORGET_SOON)?;
        }
        let hosts =
            places.iter().map(|pod| Host::listen(&pod.ns, Family::ALL.map(|family| pod.address(family)), &PROTOCOLS));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let world = World::new(hosts.len());
        world.write(lab)?;
        let daemons = lab.start_daemons(&DaemonOptions::with(&flags))?;
        let prober = Prober::new(hosts);
        let seed = seed();
        report(&format!("{backend}: {} probes a case, FERROVIA_SEED={seed}", prober.probes.len()));
        let failed = Vec::new();
        let mut table =
            Table { lab, daemons: &daemons, prober, world, n_open: 0, n_probes: 0, took: Default::default(), failed };
        table.run("no policies")?;
        for case in cases::all() {
            (case.change)(&mut table.world);
            table.run(case.title)?;
        }
        let n_written = table.world.case;
        let mut random = Random(seed);
        for _ in 0..n_generated {
            let title = random.change(&mut table.world);
            table.run(&title)?;
        }
        report(&format!(
            "{backend}: {n_written} cases by hand and {n_generated} generated, {} probes, {} open, {} closed, {} cases differ, \
             {:.0?} until changes were in force, {:.0?} for probes",
            table.n_probes,
            table.n_open,
            table.n_probes - table.n_open,
            table.failed.len(),
            table.took[0],
            table.took[1]
        ));
        ensure!(table.failed.is_empty(), "seed {seed}:\n{}", table.failed.join("\n"));
        ensure!(table.n_open > 0 && table.n_open < table.n_probes, "a table of one answer says nothing");
        Ok(())
    });
}

both_backends!(packets_do_what_the_api_says);

/// Runs all cases written by hand and as many generated ones.
fn packets_do_what_the_api_says(backend: Backend) {
    truth(backend.flag(), 60);
}
