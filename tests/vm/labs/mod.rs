//! The four reference labs, step by step: what their documents have a user do and see, on the real daemon, with BIRD
//! 1.6 and BIRD 2 as the edge router. `docs/design/labs.md` is the list.
//!
//! Each lab is a table of numbered steps on one running cluster. A step is code, or the reason why there is none. Every
//! step is reported by its number, whether or not one before it failed; one that fails fails the test.
//!
//! | file | steps | from |
//! | --- | --- | --- |
//! | `porter.rs` | P1-P35 | Porter / OpenELB: one speaker for all nodes, BIRD, a NIC without an address |
//! | `walkthrough.rs` | K1-K26 | kube-router's walk-through |
//! | `policy.rs` | K2, K19 | its steps with the firewall |
//! | `balancer.rs` | L1-L37 | kube-loadbalancer-controller: several masters on port 1790 |
//! | `reflector.rs` | C1-C18 | Calico with a route reflector and a RouterOS edge |
//! | `incidents.rs` | I2-I35 | what has gone wrong elsewhere and must not here |
//! | `edge.rs` | E1-E4 | the edge's files alone, with GoBGP as the speaker |

#![allow(clippy::disallowed_methods, reason = "what a kernel and other daemons do is measured in plain time")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrovia::testing::lab::{Lab, Options, report};

mod balancer;
mod edge;
mod incidents;
mod policy;
mod porter;
mod reflector;
mod site;
mod walkthrough;

/// How long a session may take to come up and a route to arrive.
const SOON: Duration = Duration::from_secs(40);

/// One numbered step of a lab.
struct Step<C> {
    /// Its number in the list, such as `P28`.
    id: &'static str,
    /// What is expected, in one line.
    what: &'static str,
    /// How it is shown.
    how: How<C>,
}

/// What becomes of a step.
enum How<C> {
    /// It is done and looked at.
    Do(fn(&mut C) -> Result<()>),
    /// There is nothing to do here, for this reason.
    Not(&'static str),
}

/// A step with code.
const fn step<C>(id: &'static str, what: &'static str, how: fn(&mut C) -> Result<()>) -> Step<C> {
    Step { id, what, how: How::Do(how) }
}

/// A step without.
const fn not<C>(id: &'static str, what: &'static str, reason: &'static str) -> Step<C> {
    Step { id, what, how: How::Not(reason) }
}

/// A running lab with what its steps need.
trait Cluster {
    /// Its network.
    fn lab(&self) -> &Lab;
}

/// Builds a lab, takes its steps, and shows the nodes where one failed.
fn play<C: Cluster>(name: &str, options: Options, build: fn(Lab) -> Result<C>, steps: &[Step<C>]) {
    let mut cluster = Lab::up(options).and_then(build).unwrap_or_else(|error| panic!("lab {name}: {error:#}"));
    if let Err(error) = run(name, &mut cluster, steps) {
        panic!("{error:#}\n{}", super::state(cluster.lab()));
    }
}

/// Takes all steps in order, says by number what became of each, and fails where one failed.
fn run<C>(lab: &str, context: &mut C, steps: &[Step<C>]) -> Result<()> {
    let (mut passed, mut failed, mut not_applicable) = (0, Vec::new(), 0);
    let start = Instant::now();
    for step in steps {
        let begin = Instant::now();
        let Step { id, what, how } = step;
        match how {
            How::Not(reason) => {
                not_applicable += 1;
                report(&format!("{id} not applicable  {what}: {reason}"));
            }
            How::Do(act) => match act(context) {
                Ok(()) => {
                    passed += 1;
                    report(&format!("{id} passed  {what} ({:.1} s)", begin.elapsed().as_secs_f32()));
                }
                Err(error) => {
                    report(&format!("{id} FAILED  {what} ({:.1} s): {error:#}", begin.elapsed().as_secs_f32()));
                    failed.push(*id);
                }
            },
        }
    }
    report(&format!(
        "lab {lab}: {passed} passed, {} failed, {not_applicable} not applicable, {:.0} s",
        failed.len(),
        start.elapsed().as_secs_f32()
    ));
    ensure!(failed.is_empty(), "lab {lab}: failed: {}", failed.join(" "));
    ensure!(passed > 0, "lab {lab}: nothing was done");
    Ok(())
}

/// Makes sure that a table has every number from 1 to `last` at least once: a step that is dropped by mistake shows.
fn complete<C>(letter: char, last: usize, steps: &[Step<C>]) -> Result<()> {
    for number in 1..=last {
        let id = format!("{letter}{number}");
        ensure!(steps.iter().any(|step| step.id == id), "step {id} is missing in its table");
    }
    Ok(())
}

/// The rows of a table as `docs/design/labs.md` has them.
fn rows<C>(steps: &[Step<C>]) -> Vec<String> {
    let row = |step: &Step<C>| {
        let status = match step.how {
            How::Do(_) => "done".to_owned(),
            How::Not(reason) => format!("not applicable: {reason}"),
        };
        format!("| {} | {} | {status} |", step.id, step.what)
    };
    steps.iter().map(row).collect()
}

#[test]
fn the_list_in_the_documentation_is_the_list_that_is_run() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design/labs.md");
    let text = std::fs::read_to_string(&path).expect("docs/design/labs.md");
    let tables = [
        ("Porter", rows(porter::STEPS)),
        ("walk-through", rows(walkthrough::STEPS)),
        ("load balancer", rows(balancer::STEPS)),
        ("reflector", rows(reflector::STEPS)),
        ("incidents", rows(incidents::STEPS)),
        ("edge", rows(edge::STEPS)),
    ];
    let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let missing: Vec<String> = tables
        .iter()
        .flat_map(|(table, rows)| rows.iter().map(move |row| (table, row)))
        .filter(|(_, row)| !listed.contains(&row.as_str()))
        .map(|(table, row)| format!("{table}: {row}"))
        .collect();
    assert!(missing.is_empty(), "rows that {} lacks:\n{}", path.display(), missing.join("\n"));
    let n_rows: usize = tables.iter().map(|(_, rows)| rows.len()).sum();
    let n_listed =
        listed.iter().filter(|line| line.ends_with("| done |") || line.contains("| not applicable: ")).count();
    assert_eq!(n_listed, n_rows, "rows in {} that no table has", path.display());
}
