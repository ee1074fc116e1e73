//! Connections that policies no longer allow: cut, because replies and what was allowed before always pass.
//!
//! A change that makes something stricter names the pods it touches. Their tracked connections are judged by the rules as
//! they are now, with the real client and the real pod, and those denied are deleted by exact tuple: their next packet is
//! a new connection. What is still allowed is not disturbed. One look answers all changes that came meanwhile.

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
use crate::net::{Family, Prefix, Protocol};
use crate::reconcile::Outcome;

/// The least time between two looks at all tracked connections.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// The share of time looking may take: one in this many.
const SHARE: u32 = 10;

/// What is still to be judged.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Pods whose connections may not be allowed any longer.
    addresses: BTreeSet<IpAddr>,
    /// All pods of this node: a former run may have ended between a change and this, or somebody else took rules away.
    everything: bool,
    not_before: Duration,
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Cuts what the rules in force deny.
    pub(super) fn cut_flows(&mut self, stricter: BTreeSet<IpAddr>, all: bool, now: Duration, outcome: &mut Outcome) {
        self.cut.addresses.extend(stricter);
        self.cut.everything |= all;
        // What is not in force yet must not be judged by; the pass that brings it into force comes here again.
        if !self.in_force || (self.cut.addresses.is_empty() && !self.cut.everything) {
            return;
        }
        if now < self.cut.not_before {
            outcome.again_in = Some(self.cut.not_before.saturating_sub(now));
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
                self.cut.addresses.clear();
                self.cut.everything = false;
            }
            Err(error) => outcome.fail("connections that policies no longer allow", error),
        }
        self.cut.not_before = now + LEAST_INTERVAL.max(begun.elapsed() * SHARE);
    }

    fn cut_now(&mut self) -> Result<usize, Error> {
        let own = self.own_addresses()?;
        let judge = Judge::new(&self.table, &self.book);
        let pending = &self.cut;
        let is_touched = |address: &IpAddr| {
            if pending.everything { judge.knows(*address) } else { pending.addresses.contains(address) }
        };
        let mut is_denied = |flow: &Flow| {
            let connection = Connection {
                source: flow.source,
                source_port: flow.source_port,
                destination: flow.reply_source,
                port: flow.reply_source_port,
                protocol: flow.protocol,
            };
            let touched = is_touched(&connection.source) || is_touched(&connection.destination);
            touched && !judge.allows(&connection, own.iter().any(|prefix| prefix.contains(&connection.source)))
        };
        let mut denied = Vec::new();
        for family in Family::ALL {
            if !pending.everything && !pending.addresses.iter().any(|address| Family::of(*address) == family) {
                continue;
            }
            for protocol in Protocol::ALL {
                denied.extend(self.kernel.conntrack.list(family, protocol, &mut is_denied)?);
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
