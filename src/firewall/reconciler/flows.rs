//! Connections that policies no longer allow: cut, because replies and what was allowed before always pass.
//!
//! A change that makes something stricter names the pods it touches. Their tracked connections are judged by the rules as
//! they are now, with the real client and the real pod, and those denied are deleted by exact tuple: their next packet is
//! a new connection. What is still allowed is not disturbed. One look answers all changes that came meanwhile.
//!
//! An entry outlives its connection, and what it stands for passes as a reply in any state: an SCTP association that is
//! closed lets an INIT with the same ports in for another ten seconds (`nf_conntrack_proto_sctp.c`). So a generation counts as
//! applied only once its look is over. A packet that the old rules have let through may get its entry after that look: the same
//! pods are looked at once more, with the next look.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Room;
use crate::firewall::judge::{Connection, Judge};
use crate::kernel::Error;
use crate::kernel::conntrack::{Conntrack, Flow};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{RouteFilter, RouteKind, Rtnl, table};
use crate::kernel::sysctl::Sysctl;
use crate::net::{Family, Prefix};
use crate::reconcile::Outcome;

/// The least time between two looks at all tracked connections.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// The share of time looking may take: one in this many.
const SHARE: u32 = 10;

/// What is still to be judged.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pods: Pods,
    /// Those of the last look: packets may have been on their way then.
    once_more: Pods,
    not_before: Duration,
}

/// Whose connections may not be allowed any longer.
#[derive(Debug, Default)]
struct Pods {
    addresses: BTreeSet<IpAddr>,
    /// All pods of this node: a former run may have ended between a change and this, or somebody else took rules away.
    everything: bool,
}

impl Pods {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && !self.everything
    }

    fn has(&self, address: IpAddr, judge: &Judge<'_>) -> bool {
        self.addresses.contains(&address) || (self.everything && judge.knows(address))
    }

    fn has_any(&self, family: Family) -> bool {
        self.everything || self.addresses.iter().any(|address| Family::of(*address) == family)
    }
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Cuts what the rules in force deny.
    pub(super) fn cut_flows(&mut self, stricter: BTreeSet<IpAddr>, all: bool, now: Duration, outcome: &mut Outcome) {
        self.cut.pods.addresses.extend(stricter);
        self.cut.pods.everything |= all;
        // What is not in force yet must not be judged by; the pass that brings it into force comes here again.
        if !self.in_force || (self.cut.pods.is_empty() && self.cut.once_more.is_empty()) {
            return;
        }
        if now < self.cut.not_before {
            outcome.again_in = Some(self.cut.not_before.saturating_sub(now));
            outcome.unfinished = !self.cut.pods.is_empty();
            return;
        }
        let begun = Instant::now();
        match self.cut_now() {
            Ok(cut) => {
                outcome.ops += cut;
                self.counts.cut_flows = self.counts.cut_flows.saturating_add(cut as u64);
                if cut > 0 {
                    tracing::info!(n_flows = cut, "cut connections that policies no longer allow");
                }
                self.cut.once_more = std::mem::take(&mut self.cut.pods);
            }
            Err(error) => {
                outcome.unfinished = true;
                outcome.fail("connections that policies no longer allow", error);
            }
        }
        let pause = LEAST_INTERVAL.max(begun.elapsed() * SHARE);
        self.cut.not_before = now + pause;
        if !self.cut.once_more.is_empty() {
            outcome.again_in = Some(pause);
        }
    }

    fn cut_now(&mut self) -> Result<usize, Error> {
        let own = self.own_addresses()?;
        let judge = Judge::new(&self.table, &self.book);
        let Cut { pods, once_more, .. } = &self.cut;
        let is_touched = |address: &IpAddr| pods.has(*address, &judge) || once_more.has(*address, &judge);
        let mut is_denied = |flow: &Flow| {
            let connection = Connection {
                source: flow.source,
                source_port: flow.source_port,
                destination: flow.reply_source,
                port: flow.reply_source_port,
                protocol: flow.transport.protocol(),
            };
            let touched = is_touched(&connection.source) || is_touched(&connection.destination);
            touched && !judge.allows(&connection, own.iter().any(|prefix| prefix.contains(&connection.source)))
        };
        let mut denied = Vec::new();
        for family in Family::ALL {
            if pods.has_any(family) || once_more.has_any(family) {
                denied.extend(self.kernel.conntrack.list(family, &mut is_denied)?);
            }
        }
        if !denied.is_empty() {
            self.kernel.conntrack.delete(&denied)?;
        }
        Ok(denied.len())
    }

    /// What the kernel counts as local (`fib saddr type local`): addresses, and service addresses bound as routes.
    fn own_addresses(&mut self) -> Result<Vec<Prefix>, Error> {
        let filter = RouteFilter { table: Some(table::LOCAL), ..RouteFilter::default() };
        let routes = self.kernel.rtnl.routes(filter)?;
        let local = routes.into_iter().filter(|route| route.kind == RouteKind::Local);
        Ok(local.map(|route| route.destination).collect())
    }
}
