//! `make demo`: a small cluster, the daemon on every node, the life of one Service and of one policy, shown with the
//! commands an operator would type and what they really print.
//!
//! Runs as root in the guest of `cargo xtask vm`; `cargo xtask demo` arranges that. With `--shell` it ends in a shell
//! among the namespaces. Every step has an expectation; the exit status tells whether all of them came true.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a demonstration talks on the terminal, runs the operators' tools and measures plain time"
)]

mod narrator;
mod policy;
mod routing;
mod shell;
mod steps;

use std::process::ExitCode;

use anyhow::{Result, bail};
use ferrovia::testing::lab::{Daemon, DaemonOptions, Lab, Options};

use narrator::Narrator;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:?}");
            ExitCode::from(2)
        }
    }
}

/// Everything; true where every expectation came true.
fn run(arguments: &[String]) -> Result<bool> {
    let shell = match arguments {
        [] => false,
        [flag] if flag == "--shell" => true,
        _ => bail!("usage: demo [--shell]"),
    };
    if std::env::var_os("FERROVIA_VM").is_none() {
        bail!("the demonstration changes IPVS, links and rules: run it in the guest, with `cargo xtask demo`");
    }
    let mut narrator = Narrator::new();
    narrator.chapter("A cluster in a box");
    narrator.say(
        "  far 203.0.113.100 --- edge --- rack 192.168.10.0/24 --- n1 n2 n3   192.168.10.11 .12 .13\n\
         \x20                               |                        pods 10.244.N.11 and .12 on node N\n\
         \x20                             near 192.168.10.100        (and the same again in IPv6)",
    );
    let lab = Lab::up(Options { plain_names: true, static_routes: false, ..Options::default() })?;
    narrator.say(&format!("{} nodes, 6 pods with HTTP on 8080 and UDP echo on 5353, two clients.", lab.nodes().len()));
    narrator.say(
        "Listings are the tools' own output. Requests come from a client inside this program, which also tells whom\n\
                  the pod saw: starting curl would take longer than the request. The command shown asks the same.",
    );
    let bird = routing::edge(&lab)?;
    let mut daemons = start(&lab, &mut narrator)?;
    for step in steps::ALL {
        narrator.step(step.title);
        let outcome = (step.show)(&lab, &mut daemons, &bird, &mut narrator);
        narrator.end_step(outcome);
    }
    let all_well = narrator.summary();
    if !all_well {
        for (daemon, node) in daemons.iter().zip(lab.nodes()) {
            eprintln!("--- log of {} ---\n{}", node.name, daemon.log());
        }
    }
    if shell {
        steps::leave_behind(&lab)?;
        shell::enter(&lab)?;
    }
    Ok(all_well)
}

/// How the daemons run in the demonstration.
pub(crate) fn daemon_options() -> DaemonOptions {
    let proxy = ["--ipvs-graceful-termination=true", "--ipvs-sync-period=3s"];
    DaemonOptions::with(&[&proxy[..], &routing::FLAGS, &policy::FLAGS].concat())
}

/// One daemon on every node, all reading the same folder.
fn start(lab: &Lab, narrator: &mut Narrator) -> Result<Vec<Daemon>> {
    let flags = Daemon::flags("n1", lab.manifests().path(), lab.directory());
    let flags: Vec<String> = flags.into_iter().chain(daemon_options().flags).collect();
    narrator.command("n1", &format!("ferrovia {}", flags.join(" \\\n        ")));
    narrator.say("(and the same on n2 and n3, with their names)");
    lab.start_daemons(&daemon_options())
}
