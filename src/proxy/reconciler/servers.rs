//! Virtual and real servers: what the kernel has, and the ops that make it right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Room;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::{Ipvs, Op, RealServer, VirtualServer, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::net::Protocol;
use crate::proxy::book::{Touched, describe};
use crate::proxy::drain::{Draining, grace};
use crate::proxy::plan::{Removal, after, plan_virtual_server};
use crate::reconcile::Outcome;

/// Virtual servers planned and written at a time: bounds the memory of a cold start, and is far above what one batch
/// of netlink messages holds.
const CHUNK: usize = 1024;

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Take over what the book now asks for.
    pub(super) fn mark_desired(&mut self, touched: &Touched) {
        for key in &touched.virtual_servers {
            let desired = self.book.virtual_server(key).cloned();
            self.servers.set_desired(key, desired);
        }
    }

    /// Read the table and believe it, as far as it is ours.
    pub(super) fn read_servers(&mut self, first: bool, outcome: &mut Outcome) {
        let table = match self.kernel.ipvs.dump() {
            Ok(table) => table,
            Err(error) => {
                outcome.failed.insert("ipvs".to_owned(), error.to_string());
                return;
            }
        };
        let mut observed: BTreeMap<VirtualServerKey, Arc<VirtualServer>> = BTreeMap::new();
        for (key, virtual_server) in table {
            if !self.is_ours(&key) {
                continue;
            }
            // Equal to what it should be: keep one copy in memory, not two.
            let shared = match self.servers.desired(&key) {
                Some(desired) if **desired == virtual_server => Arc::clone(desired),
                _ => Arc::new(virtual_server),
            };
            observed.insert(key, shared);
        }
        let drift = self.servers.replace_observed(observed);
        if !first {
            outcome.drift += drift;
        }
    }

    /// Whether a virtual server in the kernel is this room's to change.
    ///
    /// IPVS has no marker for ownership. Ours is what a Service asks for, and what lies where only we put virtual
    /// servers: on a granted range, on a VIP of the dummy link, on a NodePort of this node, on a mark of direct
    /// return. Everything else in `--excluded-cidrs`, and everything elsewhere, is somebody else's.
    pub(super) fn is_ours(&self, key: &VirtualServerKey) -> bool {
        match *key {
            VirtualServerKey::Mark { mark, .. } => {
                self.servers.desired(key).is_some() || self.direct_marks_observed.contains(&mark)
            }
            VirtualServerKey::Address { address, port, .. } => {
                if self.servers.desired(key).is_some() || self.servers.observed(key).is_some() {
                    return true;
                }
                if self.config.excluded.iter().any(|prefix| prefix.contains(&address)) {
                    return false;
                }
                let granted = [
                    &self.config.cluster_ip_ranges,
                    &self.config.external_ip_ranges,
                    &self.config.load_balancer_ip_ranges,
                ];
                let (first, last) = self.config.node_port_range;
                granted.iter().any(|ranges| ranges.iter().any(|range| range.contains(&address)))
                    || self.bindings.addresses.contains(&address)
                    || self.bindings.routes.contains_key(&address)
                    || ((first..=last).contains(&port) && self.view.as_ref().is_some_and(|view| view.is_local(address)))
            }
        }
    }

    /// Plan and write every virtual server that is not as it should be.
    pub(super) fn sync_servers(&mut self, now: Duration, outcome: &mut Outcome) {
        let pending: Vec<VirtualServerKey> = self.servers.pending().copied().collect();
        for keys in pending.chunks(CHUNK) {
            let mut ops = Vec::new();
            let mut spans = Vec::with_capacity(keys.len());
            for key in keys {
                let first = ops.len();
                ops.extend(self.plan_one(*key, now));
                spans.push((*key, first..ops.len()));
            }
            if ops.is_empty() {
                continue;
            }
            let results = self.kernel.ipvs.apply(&ops);
            outcome.ops += ops.len();
            for (key, span) in spans {
                let done = ops.get(span.clone()).unwrap_or_default();
                let answers = results.get(span).unwrap_or_default();
                self.note_results(key, done, answers, outcome);
            }
        }
    }

    fn plan_one(&mut self, key: VirtualServerKey, now: Duration) -> Vec<Op> {
        let desired = self.servers.desired(&key).cloned();
        let observed = self.servers.observed(&key).cloned();
        if let Some(desired) = &desired {
            for real_server in &desired.real_servers {
                self.draining.forget(key, real_server.key);
            }
        }
        let graceful = self.config.graceful_termination && Draining::waits(&key);
        let mut begun: Vec<(RealServer, Duration)> = Vec::new();
        let ops = plan_virtual_server(key, desired.as_deref(), observed.as_deref(), |real_server| {
            if !graceful {
                return Removal::Now;
            }
            if !self.draining.contains(key, real_server.key) {
                let pod = self.pod_at(real_server.key.address).map(|pod| &**pod);
                let grace = grace(pod, (self.epoch)(), self.config.graceful_period);
                begun.push((*real_server, grace));
            }
            Removal::Drain
        });
        for (real_server, grace) in begun {
            self.draining.begin(key, real_server.key, now, grace);
        }
        ops
    }

    /// Remember what the kernel now has; after a failure, ask it.
    fn note_results(
        &mut self,
        key: VirtualServerKey,
        ops: &[Op],
        results: &[Result<(), crate::kernel::Error>],
        outcome: &mut Outcome,
    ) {
        if ops.is_empty() {
            return;
        }
        self.flows.note(key, ops, self.servers.observed(&key).map(|observed| &**observed));
        let failure = results.iter().find_map(|result| result.as_ref().err());
        let state = if results.len() == ops.len() && failure.is_none() {
            let state = after(self.servers.observed(&key).map(|observed| &**observed), ops);
            self.share(&key, state)
        } else {
            match self.kernel.ipvs.read(&key) {
                Ok(state) => self.share(&key, state),
                Err(error) => {
                    outcome.failed.insert(self.name_of(&key), error.to_string());
                    return;
                }
            }
        };
        self.servers.set_observed(&key, state);
        if self.servers.desired(&key) != self.servers.observed(&key)
            && let Some(error) = failure
        {
            outcome.failed.insert(self.name_of(&key), error.to_string());
        }
    }

    /// One copy in memory where desired and observed are equal.
    fn share(&self, key: &VirtualServerKey, state: Option<VirtualServer>) -> Option<Arc<VirtualServer>> {
        let state = state?;
        Some(match self.servers.desired(key) {
            Some(desired) if **desired == state => Arc::clone(desired),
            _ => Arc::new(state),
        })
    }

    /// Remove draining real servers that are done, and virtual servers whose last one that was.
    pub(super) fn finish_draining(&mut self, now: Duration, outcome: &mut Outcome) {
        for key in self.draining.virtual_servers() {
            let connections = match self.kernel.ipvs.connections(&key) {
                Ok(connections) => connections,
                Err(error) => {
                    outcome.failed.insert(self.name_of(&key), error.to_string());
                    continue;
                }
            };
            let done = self.draining.finish(key, &connections, now);
            if done.is_empty() {
                continue;
            }
            let mut ops: Vec<Op> = done.iter().map(|real_server| Op::DeleteRealServer(key, *real_server)).collect();
            let left = self.servers.observed(&key).map_or(0, |observed| observed.real_servers.len());
            if self.servers.desired(&key).is_none() && left <= done.len() {
                ops = vec![Op::DeleteVirtualServer(key)];
            }
            let results = self.kernel.ipvs.apply(&ops);
            outcome.ops += ops.len();
            self.note_results(key, &ops, &results, outcome);
        }
    }

    /// The name a virtual server goes by in failures: its Service where it has one.
    pub(super) fn name_of(&self, key: &VirtualServerKey) -> String {
        match self.book.owner(key) {
            Some(service) => format!("{service}: {}", describe(key)),
            None => describe(key),
        }
    }

    /// True while the kernel has a virtual server on this address.
    pub(super) fn has_virtual_server(&self, address: IpAddr) -> bool {
        let first = VirtualServerKey::Address { address, protocol: Protocol::Tcp, port: 0 };
        let next = self.servers.all_observed().range(first..).next();
        matches!(next, Some((VirtualServerKey::Address { address: found, .. }, _)) if *found == address)
    }

    /// The UDP virtual servers the kernel has.
    pub(super) fn udp_servers(&self) -> BTreeSet<VirtualServerKey> {
        let is_udp = |key: &&VirtualServerKey| matches!(key, VirtualServerKey::Address { protocol: Protocol::Udp, .. });
        self.servers.all_observed().keys().filter(is_udp).copied().collect()
    }
}
