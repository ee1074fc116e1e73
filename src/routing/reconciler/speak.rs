//! The speaker's side of a pass: withdrawals before the kernel is written, configuration and announcements after.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{PROXY_PATIENCE, Room, Voice, next_hops};
use crate::kernel::fou::Fou;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::model::Snapshot;
use crate::net::{Prefix, host_prefix};
use crate::routing::bgp::types::Attributes;
use crate::routing::desired::pod_prefixes;
use crate::routing::speaker_config::{RouteChanges, build, own_route};

/// Prefixes of one pass that the log names one by one; more become a number.
const MOST_LINES: usize = 16;

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Sessions come up with everything this node serves: a peer that kept our routes through a restart drops what it
    /// does not hear again. So nothing is said before the service proxy has reported once, or was waited for.
    pub(super) fn may_speak(&self, snapshot: &Snapshot, now: Duration) -> bool {
        let Some(proxy) = &self.proxy else { return true };
        let waited = now.saturating_sub(self.first_seen.unwrap_or(now));
        let reported = || {
            let applied = proxy.borrow();
            applied.passes > 0 && applied.generation >= snapshot.generation
        };
        self.told.config().is_some() || waited >= PROXY_PATIENCE || reported()
    }

    /// What is not to be announced any longer is withdrawn before anything else.
    pub(super) fn withdraw(&mut self, snapshot: &Snapshot, now: Duration) {
        if !self.may_speak(snapshot, now) {
            return;
        }
        let applied = self.proxy.as_mut().map(|proxy| proxy.borrow_and_update().clone());
        let difference = self.advertiser.settle(applied.as_ref());
        self.counts.withdrawals = self.counts.withdrawals.saturating_add(difference.withdraw.len() as u64);
        self.counts.announcements = self.counts.announcements.saturating_add(difference.announce.len() as u64);
        self.vips_new.extend(&difference.announce);
        let gone: Vec<IpAddr> = difference.withdraw;
        self.vips_new.retain(|vip| !gone.contains(vip));
        let pods: BTreeMap<Prefix, IpAddr> =
            pod_prefixes(snapshot).0.into_iter().map(|pod| (pod.prefix, pod.next_hop)).collect();
        let lost_pods = self.pods.keys().filter(|prefix| !pods.contains_key(*prefix)).copied();
        let withdraw: Vec<Prefix> = lost_pods.chain(gone.iter().copied().map(host_prefix)).collect();
        if self.pods != pods {
            (self.pods, self.retell) = (pods, true);
        }
        let changes = RouteChanges { withdraw, vips_gone: gone, ..RouteChanges::default() };
        if !changes.is_empty() {
            self.tell(changes, false, snapshot);
        }
    }

    /// Configuration, and what is announced from now on.
    pub(super) fn announce(&mut self, snapshot: &Snapshot, now: Duration) {
        if !self.may_speak(snapshot, now) {
            return;
        }
        let up = self.voice.up();
        let lingered: Vec<IpAddr> = self.leaving.peers().map(|peer| peer.address).collect();
        self.leaving.update(&self.peers, snapshot, &up, now);
        if !self.leaving.peers().map(|peer| peer.address).eq(lingered) {
            self.reframe = true;
        }
        let hops = next_hops(snapshot);
        let path = |vip: &IpAddr| {
            let [v4, v6] = hops;
            let hop = if vip.is_ipv4() { v4 } else { v6 };
            hop.map(|hop| (host_prefix(*vip), vec![own_route(hop)]))
        };
        let vips_new = std::mem::take(&mut self.vips_new);
        let mut announce: Vec<(Prefix, Vec<Attributes>)> = Vec::new();
        if std::mem::take(&mut self.retell) {
            announce.extend(self.pods.iter().map(|(prefix, hop)| (*prefix, vec![own_route(*hop)])));
            announce.extend(self.advertiser.announced().iter().filter_map(path));
            announce.retain(|(prefix, paths)| self.told.routes().get(prefix) != Some(paths));
        } else {
            announce.extend(vips_new.iter().filter_map(path));
        }
        let reframe = std::mem::take(&mut self.reframe);
        let changes = RouteChanges { announce, vips_new: vips_new.into_iter().collect(), ..RouteChanges::default() };
        if reframe || !changes.is_empty() {
            self.tell(changes, reframe, snapshot);
        }
    }

    fn tell(&mut self, changes: RouteChanges, reframe: bool, snapshot: &Snapshot) {
        log(&changes);
        let links = self.own_links();
        let (peers, config, leaving) = (&self.peers, &self.config, &self.leaving);
        let told =
            self.told.tell(changes, reframe, |vips| build(peers, snapshot, config, &links, vips, leaving.peers()));
        if !told.is_empty() {
            self.voice.change(told);
        }
    }
}

/// One line for each prefix that is announced or withdrawn, with its next hops; a flood is counted.
fn log(changes: &RouteChanges) {
    for (prefix, paths) in changes.announce.iter().take(MOST_LINES) {
        let next_hops: Vec<IpAddr> = paths.iter().map(|path| path.next_hop.address).collect();
        tracing::info!(%prefix, ?next_hops, "announced");
    }
    for prefix in changes.withdraw.iter().take(MOST_LINES) {
        tracing::info!(%prefix, "withdrawn");
    }
    let rest = |n: usize| n.saturating_sub(MOST_LINES);
    let (announced, withdrawn) = (rest(changes.announce.len()), rest(changes.withdraw.len()));
    if announced + withdrawn > 0 {
        tracing::info!(announced, withdrawn, "and more prefixes");
    }
}
