//! Direct server return: marks, their virtual servers, their routing rules, and the pods that answer.

use std::collections::BTreeSet;

use super::Room;
use super::links::or_already_so;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::{Ipvs, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Op, Route, RouteFilter, RouteKind, Rtnl, Rule};
use crate::kernel::sysctl::Sysctl;
use crate::model::Snapshot;
use crate::net::Family;
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
        let mut desired = self.direct.rules();
        // A rule tells whose a virtual server with its mark is: it stays until that has gone.
        let in_use = |rule: &&Rule| {
            let key = rule.mark.map(|mark| VirtualServerKey::Mark { mark, family: rule.family });
            key.is_some_and(|key| self.servers.observed(&key).is_some())
        };
        desired.extend(self.direct_rules.iter().filter(in_use));
        if read == Read::Remembered && desired == self.direct_rules {
            return;
        }
        if let Err(error) = self.try_sync_direct(&desired, outcome) {
            outcome.failed.insert("direct server return".to_owned(), error.to_string());
        }
    }

    fn try_sync_direct(&mut self, desired: &BTreeSet<Rule>, outcome: &mut Outcome) -> Result<(), crate::kernel::Error> {
        let observed = self.kernel.rtnl.routes(RouteFilter { table: Some(TABLE), ..RouteFilter::default() })?;
        let wanted = self.loopback.map(|loopback| self.direct.routes(loopback)).unwrap_or_default();
        let same = |a: &Route, b: &Route| a.destination == b.destination && a.kind == b.kind;
        let is_idle = |route: &&Route| {
            let family = Family::of(route.destination.addr());
            let is_default = route.kind == RouteKind::Local && route.destination.prefix_len() == 0;
            is_default && !desired.iter().any(|rule| rule.family == family)
        };
        let missing = wanted.iter().filter(|route| !observed.iter().any(|known| same(known, route)));
        let surplus = observed.iter().filter(is_idle);
        let mut ops: Vec<Op> = missing.cloned().map(Op::ReplaceRoute).collect();
        ops.extend(desired.difference(&self.direct_rules).map(|rule| Op::AddRule(*rule)));
        ops.extend(self.direct_rules.difference(desired).map(|rule| Op::DeleteRule(*rule)));
        ops.extend(surplus.cloned().map(Op::DeleteRoute));
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
