//! The CNI file in a pass: what it says, and with a gate when the container runtime may have it.

use std::time::Duration;

use tokio::sync::watch;

use super::{PROXY_PATIENCE, Room, SOON, Voice};
use crate::kernel::fou::Fou;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::model::{Notice, Snapshot};
use crate::net::Prefix;
use crate::reconcile::{Applied, Outcome, Read};
use crate::routing::bridge;
use crate::routing::cni::{CniFile, State, with_cause};

/// The name of what says that pods wait.
pub(super) const CLOSED: &str = "CniGateClosed";

/// The file, and what it was last made to say.
#[derive(Debug)]
pub(super) struct Guard {
    file: CniFile,
    told: Option<(Vec<Prefix>, Option<u32>)>,
    notices: Vec<Notice>,
    gate: Option<Keeper>,
}

/// Who opens the gate.
#[derive(Debug)]
struct Keeper {
    /// What the firewall has in force; `None` where none runs.
    firewall: Option<watch::Receiver<Applied>>,
    state: watch::Sender<State>,
    /// Rules were in force once, which the kernel keeps.
    ready: bool,
}

impl Keeper {
    /// What has to be before the gate may be opened; `None` where nothing is missing.
    fn waits_for(&mut self, outcome: &Outcome) -> Option<String> {
        if !self.ready && !outcome.broken.is_empty() {
            let parts: Vec<&str> = outcome.broken.iter().map(String::as_str).collect();
            return Some(format!("a pass of the router without a fault: {}", parts.join(", ")));
        }
        if let Some(firewall) = self.firewall.as_ref().filter(|_| !self.ready) {
            let applied = firewall.borrow();
            if let Some(part) = applied.broken.first() {
                let reason = applied.failed.get(part).map(String::as_str).unwrap_or_default();
                return Some(format!("the firewall's rules: {part}: {reason}"));
            }
            if applied.passes == 0 || applied.generation.0 == 0 {
                return Some("the firewall's first rules".to_owned());
            }
        }
        self.ready = true;
        None
    }
}

impl Guard {
    pub(super) fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// What is to be said of a gate that is asked for and not open.
    pub(super) fn finding(&self) -> Option<String> {
        let state = self.gate.as_ref()?.state.borrow().clone();
        match state {
            State::Off | State::Open => None,
            State::Closed(_) | State::Absent(_) => Some(format!("{CLOSED}: the CNI gate is {state}\n")),
        }
    }
}

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Keep this CNI file up to date.
    pub fn keep_cni(&mut self, file: CniFile) {
        self.around.cni = Some(Guard { file, told: None, notices: Vec::new(), gate: None });
    }

    /// The same with a gate, which opens when the firewall, where one runs, has its first rules in force and a pass of this
    /// room went well. How it stands is told in `state`.
    pub fn keep_gate(
        &mut self,
        file: CniFile,
        firewall: Option<watch::Receiver<Applied>>,
        state: watch::Sender<State>,
    ) {
        let gate = Some(Keeper { firewall, state, ready: false });
        self.around.cni = Some(Guard { file, told: None, notices: Vec::new(), gate });
    }

    /// At the end of a pass, when its rules are in force.
    pub(super) fn sync_cni(&mut self, snapshot: &Snapshot, read: Read, now: Duration, outcome: &mut Outcome) {
        let Some(own) = snapshot.own_node() else { return };
        let known = self.config.auto_mtu && self.uplink.is_some();
        let wanted = (own.pod_cidrs.clone(), known.then(|| bridge::pod_mtu(own, &self.config, self.mtu)));
        let Some(mut guard) = self.around.cni.take() else { return };
        let wait = match &mut guard.gate {
            Some(keeper) => keeper.waits_for(outcome),
            None => None,
        };
        let wait = wait.or_else(|| wanted.0.is_empty().then(|| "a pod prefix of this node".to_owned()));
        let is_due = read == Read::Kernel || guard.told.as_ref() != Some(&wanted);
        match wait {
            Some(wait) => self.wait_with_cni(snapshot, &mut guard, &wait, now, outcome),
            None if is_due => self.write_cni(snapshot, &mut guard, wanted, outcome),
            None => {}
        }
        self.around.cni = Some(guard);
    }

    fn wait_with_cni(&self, snapshot: &Snapshot, guard: &mut Guard, wait: &str, now: Duration, outcome: &mut Outcome) {
        let Some(keeper) = &guard.gate else { return };
        let state = guard.file.gate_state(wait);
        if !keeper.ready {
            outcome.again_in = outcome.again_in.into_iter().chain([SOON]).min();
        }
        let since = self.first_seen.map_or(now, |(since, _)| since);
        // Every boot closes it for a moment.
        let told = matches!(state, State::Closed(_)) && now.saturating_sub(since) >= PROXY_PATIENCE;
        let message = || format!("the CNI gate is {state}");
        guard.notices = told.then(|| self.node_notice(snapshot, CLOSED, message())).into_iter().collect();
        keeper.state.send_replace(state);
    }

    fn write_cni(
        &self,
        snapshot: &Snapshot,
        guard: &mut Guard,
        wanted: (Vec<Prefix>, Option<u32>),
        outcome: &mut Outcome,
    ) {
        let path = guard.file.path().display().to_string();
        let was_closed = matches!(guard.file.gate_state(""), State::Closed(_));
        let state = match guard.file.ensure(&wanted.0, wanted.1) {
            Ok(report) => {
                if report.written {
                    outcome.ops += 1;
                    tracing::info!(path, "wrote the pod prefixes of this node into the CNI configuration");
                }
                let stale = |range: &String| {
                    let message = format!(
                        "CNI configuration {path}: range {range} is no pod prefix of this node, but pods may have \
                         addresses of it: remove it when none has"
                    );
                    self.node_notice(snapshot, "StaleCniRange", message)
                };
                guard.notices = report.foreign.iter().map(stale).collect();
                guard.told = Some(wanted);
                let refused = report.refused.map(|refused| {
                    guard.notices.push(self.node_notice(snapshot, "CniGateRefused", refused.clone()));
                    outcome.fail("CNI gate", &refused);
                    State::Absent(refused)
                });
                refused.unwrap_or_else(|| guard.file.gate_state(""))
            }
            Err(error) => {
                guard.told = None;
                let reason = with_cause(&error);
                outcome.fail("CNI configuration", &reason);
                guard.file.gate_state(&reason)
            }
        };
        let Some(keeper) = &guard.gate else { return };
        match &state {
            State::Open if was_closed => tracing::info!(path, "opened the CNI gate: rules are in force"),
            State::Closed(wait) => tracing::error!(path, wait, "the CNI gate stays closed"),
            _ => {}
        }
        keeper.state.send_replace(state);
    }
}
