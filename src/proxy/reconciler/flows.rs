//! Stale UDP flows: connection tracking entries that still point at an endpoint that is gone.
//!
//! A UDP client that keeps its socket keeps its entry alive, and with it the translation to the old endpoint. Whenever
//! a UDP virtual server loses a real server, gets its first one, or goes, its flows to anything that is not one of its
//! real servers are deleted, by exact tuple. It holds for every kind of VIP, because it goes by virtual server.

use std::collections::BTreeSet;

use super::Room;
use crate::kernel::conntrack::{Conntrack, Flow, only_one};
use crate::kernel::ipvs::{Ipvs, Op, RealServerKey, VirtualServer, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::net::Protocol;
use crate::reconcile::Outcome;

/// UDP virtual servers whose flows must be looked at.
#[derive(Debug, Default)]
pub(super) struct StaleFlows {
    pending: BTreeSet<VirtualServerKey>,
}

impl StaleFlows {
    /// Note what ops mean for the flows of a virtual server that was `observed` before them.
    pub(super) fn note(&mut self, key: VirtualServerKey, ops: &[Op], observed: Option<&VirtualServer>) {
        if !matches!(key, VirtualServerKey::Address { protocol: Protocol::Udp, .. }) {
            return;
        }
        let had_none = observed.is_none_or(|observed| observed.real_servers.is_empty());
        let matters = |op: &Op| match op {
            Op::DeleteRealServer(..) | Op::DeleteVirtualServer(_) => true,
            Op::AddRealServer(..) => had_none,
            _ => false,
        };
        if ops.iter().any(matters) {
            self.pending.insert(key);
        }
    }
}

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Delete the stale flows. The first pass looks at every UDP virtual server, because an earlier daemon may have
    /// ended between a removal and this.
    pub(super) fn forget_flows(&mut self, first: bool, outcome: &mut Outcome) {
        if first {
            let all = self.udp_servers();
            self.flows.pending.extend(all);
        }
        let keys = &self.flows.pending;
        if keys.is_empty() {
            return;
        }
        let family = only_one(|family| keys.iter().any(|key| key.family() == family));
        let servers = &self.servers;
        let mut is_stale = |flow: &Flow| {
            let Some(protocol) = flow.transport.protocol() else { return false };
            let key = VirtualServerKey::Address { address: flow.destination, protocol, port: flow.destination_port };
            let endpoint = RealServerKey { address: flow.reply_source, port: flow.reply_source_port };
            keys.contains(&key)
                && servers
                    .observed(&key)
                    .is_none_or(|server| server.real_servers.binary_search_by_key(&endpoint, |real| real.key).is_err())
        };
        let deleted = match self.kernel.conntrack.list(family, &mut is_stale) {
            Ok(flows) if flows.is_empty() => Ok(()),
            Ok(flows) => {
                outcome.ops += flows.len();
                self.kernel.conntrack.delete(&flows)
            }
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => self.flows.pending.clear(),
            Err(error) => {
                outcome.fail("conntrack entries of UDP clients", error);
            }
        }
    }
}
