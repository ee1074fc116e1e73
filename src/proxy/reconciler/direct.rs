//! Direct server return: marks, their virtual servers, their routing rules, and the pods that answer.

use std::collections::BTreeSet;

use super::Room;
use super::links::or_already_so;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::{Ipvs, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Op, Route, RouteFilter, Rtnl, Rule};
use crate::kernel::sysctl::Sysctl;
use crate::model::Snapshot;
use crate::proxy::direct::Direct;
use crate::proxy::dsr::{TABLE, owns_rule};
use crate::reconcile::{Outcome, Read};

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Read which marks have routing rules: virtual servers with these marks are ours.
    pub(super) fn read_direct(&mut self, outcome: &mut Outcome) {
        match self.kernel.rtnl.rules() {
            Ok(rules) => {
                self.direct_rules = rules.into_iter().filter(owns_rule).collect();
                self.direct_marks_observed = self.direct_rules.iter().filter_map(|rule| rule.mark).collect();
            }
            Err(error) => {
                outcome.failed.insert("routing rules".to_owned(), error.to_string());
            }
        }
    }

    /// Derive marks, virtual servers and pods from what the book asks for.
    pub(super) fn think_direct(&mut self, snapshot: &Snapshot) {
        let Direct { needs, virtual_servers: desired, sloppy, notices } = Direct::build(snapshot, &self.book);
        let gone: Vec<VirtualServerKey> = self
            .servers
            .all_desired()
            .keys()
            .filter(|key| matches!(key, VirtualServerKey::Mark { .. }) && !desired.contains_key(*key))
            .copied()
            .collect();
        for key in gone {
            self.servers.set_desired(&key, None);
        }
        for (key, value) in desired {
            self.servers.set_desired(&key, Some(value));
        }
        self.sloppy = sloppy;
        self.direct_notices = notices;
        let pods: Vec<_> = needs.pods.values().cloned().collect();
        self.outputs.pods.send_if_modified(|current| {
            let differs = *current != pods;
            if differs {
                *current = pods;
            }
            differs
        });
        self.direct = needs;
    }

    /// Rules and the table that make marked packets local.
    pub(super) fn sync_direct(&mut self, read: Read, outcome: &mut Outcome) {
        let desired = self.direct.rules();
        if read == Read::Remembered && desired == self.direct_rules {
            return;
        }
        if let Err(error) = self.try_sync_direct(&desired, outcome) {
            outcome.failed.insert("direct server return".to_owned(), error.to_string());
        }
    }

    fn try_sync_direct(&mut self, desired: &BTreeSet<Rule>, outcome: &mut Outcome) -> Result<(), crate::kernel::Error> {
        let mut ops = Vec::new();
        if !desired.is_empty()
            && let Some(loopback) = self.loopback
        {
            let filter = RouteFilter { table: Some(TABLE), ..RouteFilter::default() };
            let observed = self.kernel.rtnl.routes(filter)?;
            let is_there = |route: &Route| {
                observed.iter().any(|known| known.destination == route.destination && known.kind == route.kind)
            };
            let missing = self.direct.routes(loopback).into_iter().filter(|route| !is_there(route));
            ops.extend(missing.map(Op::ReplaceRoute));
        }
        ops.extend(desired.difference(&self.direct_rules).map(|rule| Op::AddRule(*rule)));
        ops.extend(self.direct_rules.difference(desired).map(|rule| Op::DeleteRule(*rule)));
        if ops.is_empty() {
            return Ok(());
        }
        outcome.ops += ops.len();
        for result in self.kernel.rtnl.apply(&ops) {
            or_already_so(result)?;
        }
        self.direct_rules = desired.clone();
        self.direct_marks_observed = desired.iter().filter_map(|rule| rule.mark).collect();
        Ok(())
    }
}
