//! Tier 4: everything that needs a kernel with IPVS. One binary, so that it is linked once.
//!
//! Run it with `cargo xtask vm test`. Elsewhere every test says that it was skipped, and CI makes sure that it was
//! not. Tests of a module share a kernel: each makes namespaces of its own and removes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::time::Duration;

use anyhow::Result;
use ferrovia::testing::lab::{Daemon, DaemonOptions, Lab, Options, report};

/// Returns from a test outside the guest, and says so.
macro_rules! guest {
    () => {
        if !$crate::in_guest() {
            return;
        }
    };
}

/// Makes a test on nftables and one on iptables of each function that takes a backend.
macro_rules! both_backends {
    ($($name:ident)+) => {$(
        mod $name {
            #[test]
            fn nftables() {
                super::$name($crate::firewall::Backend::Nftables);
            }

            #[test]
            fn iptables() {
                super::$name($crate::firewall::Backend::Iptables);
            }
        }
    )+};
}

mod changes;
mod cluster;
mod cluster_policy;
mod containerd;
mod contracts_fou;
mod contracts_ipset;
mod contracts_iptables;
mod contracts_ipvs;
mod contracts_nft;
mod contracts_rtnl;
mod denied;
mod dsr;
mod dsr_policy;
mod faults;
mod firewall;
mod gate;
mod labs;
mod listing;
mod modules;
mod overlay;
mod packets;
mod router;
#[allow(dead_code, reason = "the tests of the watches use all of it")]
#[path = "../talk/server.rs"]
mod server;
mod shutdown;
mod truth_table;

/// How long the daemon may take to bring a change into the kernel, and packets to show it. Generous: an emulated
/// guest on a busy machine is slow, and nothing waits longer than it must.
const SOON: Duration = Duration::from_secs(30);

/// Whether this is the guest; says that a test was skipped where it is not.
fn in_guest() -> bool {
    let inside = std::env::var("FERROVIA_VM").is_ok_and(|value| value == "1");
    if !inside {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        report(&format!("{test}: skipped: needs the guest, run cargo xtask vm test"));
    }
    inside
}

/// Runs a test in a lab of its own.
fn with_lab(options: Options, test: impl FnOnce(&mut Lab) -> Result<()>) {
    guest!();
    let mut lab = Lab::up(options).expect("the lab comes up");
    if let Err(error) = test(&mut lab) {
        panic!("{error:#}\n{}", state(&lab));
    }
}

/// Runs a test in a lab with a ready daemon on every node, all started with these flags.
fn with_daemons(options: Options, flags: &[&str], test: impl FnOnce(&mut Lab, &mut [Daemon]) -> Result<()>) {
    with_lab(options, |lab| {
        let mut daemons = lab.start_daemons(&DaemonOptions::with(flags))?;
        test(lab, &mut daemons)
    });
}

/// What a failed test should show: every node's IPVS table, rules, VIPs and the end of its daemon's log.
fn state(lab: &Lab) -> String {
    const LINES: usize = 80;
    let mut text = String::new();
    for node in lab.nodes() {
        let log = std::fs::read_to_string(lab.directory().join(format!("{}.log", node.name))).unwrap_or_default();
        let skip = log.lines().count().saturating_sub(LINES);
        let log: Vec<&str> = log.lines().skip(skip).collect();
        text.push_str(&format!("--- {}: log ---\n{}\n", node.name, log.join("\n")));
        for command in ["ipvsadm -Ln", "ip -o addr show", "ip route show table local", "nft list ruleset", "ipset save"]
        {
            let output = node.ns.command(command).unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("--- {}: {command} ---\n{output}\n", node.name));
        }
    }
    text
}
