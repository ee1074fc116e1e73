//! The speaker's side of a pass: withdrawals before the kernel is written, configuration and announcements after.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{PROXY_PATIENCE, Room, Voice};
use crate::kernel::fou::Fou;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::model::Snapshot;
use crate::net::{Prefix, host_prefix};
use crate::routing::bgp::types::Attributes;
use crate::routing::desired::pod_prefixes;
use crate::routing::drain;
use crate::routing::speaker_config::{RouteChanges, build, own_route};
use crate::routing::speakers::{Others, Style, is_speaker, next_hops};

/// The most VIPs of one pass that are logged one by one.
const MOST_LOGGED: usize = 20;

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Sessions come up with everything this node serves: a peer that kept our routes through a restart drops what it
    /// does not hear again. So nothing is said before the service proxy has in force what this room saw first, or was
    /// waited for. What came since waits for itself: in a cluster where something always changes, the newest snapshot is
    /// hardly ever in force.
    pub(super) fn may_speak(&self, snapshot: &Snapshot, now: Duration) -> bool {
        let Some(proxy) = &self.proxy else { return true };
        let (since, first) = self.first_seen.unwrap_or((now, snapshot.generation));
        let waited = now.saturating_sub(since);
        let reported = || {
            let applied = proxy.borrow();
            applied.passes > 0 && applied.generation >= first
        };
        self.told.config().is_some() || waited >= PROXY_PATIENCE || reported()
    }

    /// What is not to be announced any longer is withdrawn before anything else.
    pub(super) fn withdraw(&mut self, snapshot: &Snapshot, now: Duration) {
        let applied = self.proxy.as_mut().map(|proxy| proxy.borrow_and_update().clone());
        let difference = self.advertiser.settle(applied.as_ref());
        self.vips_dirty.extend(difference.withdraw.into_iter().chain(difference.announce));
        self.step_drain(snapshot, now);
        if self.retell {
            self.vips_dirty.extend(self.desired.listed());
            self.vips_dirty.extend(self.told.vips());
        }
        let is_told = |vip: &IpAddr| self.told.vips().contains(vip);
        let gone: Vec<IpAddr> = self.vips_dirty.iter().copied().filter(is_told).collect();
        let gone: Vec<IpAddr> = gone.into_iter().filter(|vip| self.next_hops_of(*vip, snapshot).is_empty()).collect();
        self.counts.withdrawals = self.counts.withdrawals.saturating_add(gone.len() as u64);
        let pods: BTreeMap<Prefix, IpAddr> = if self.around.decision.withhold_pods {
            BTreeMap::new()
        } else {
            pod_prefixes(snapshot).0.into_iter().map(|pod| (pod.prefix, pod.next_hop)).collect()
        };
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
        let up = self.voice.up();
        if self.leaving.update(&self.peers, snapshot, &up, now) {
            self.reframe = true;
        }
        let mut announce: Vec<(Prefix, Vec<Attributes>)> = Vec::new();
        if std::mem::take(&mut self.retell) {
            announce.extend(self.pods.iter().map(|(prefix, hop)| (*prefix, vec![own_route(*hop)])));
        }
        let mut vips_new = Vec::new();
        for vip in std::mem::take(&mut self.vips_dirty) {
            let hops = self.next_hops_of(vip, snapshot);
            if hops.is_empty() {
                continue;
            }
            if !self.told.vips().contains(&vip) {
                vips_new.push(vip);
            }
            announce.push((host_prefix(vip), hops.into_iter().map(own_route).collect()));
        }
        announce.retain(|(prefix, paths)| self.told.routes().get(prefix) != Some(paths));
        self.counts.announcements = self.counts.announcements.saturating_add(vips_new.len() as u64);
        self.log_announcements(&vips_new, &announce);
        let reframe = std::mem::take(&mut self.reframe);
        let changes = RouteChanges { announce, vips_new, ..RouteChanges::default() };
        if reframe || !changes.is_empty() {
            self.tell(changes, reframe, snapshot);
        }
    }

    /// A line for each VIP that is new, or one for many.
    fn log_announcements(&self, vips: &[IpAddr], announce: &[(Prefix, Vec<Attributes>)]) {
        if vips.len() > MOST_LOGGED {
            tracing::info!(n_vips = vips.len(), "announcing service addresses");
            return;
        }
        for vip in vips {
            let paths = announce.iter().find(|(prefix, _)| *prefix == host_prefix(*vip)).map(|(_, paths)| paths);
            let hops: Vec<String> = paths.into_iter().flatten().map(|it| it.next_hop.address.to_string()).collect();
            let services = self.desired.vips().get(vip).into_iter().flatten();
            let services: Vec<String> = services.map(ToString::to_string).collect();
            let (vip, next_hops, service) = (vip.to_string(), hops.join(", "), services.join(", "));
            tracing::info!(vip, next_hops, service, "announcing a service address");
        }
    }

    /// The next hops a VIP is announced with now; none where it is not to be announced by this node.
    fn next_hops_of(&self, vip: IpAddr, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
        if self.around.decision.withhold.contains(&vip) {
            return BTreeSet::new();
        }
        let in_force = self.advertiser.announced().contains(&vip);
        next_hops(vip, &self.desired, snapshot, &self.config, in_force)
    }

    /// Whether this node is drained, and what that withholds.
    fn step_drain(&mut self, snapshot: &Snapshot, now: Duration) {
        let own = snapshot.own_node();
        let asked = self.around.asked();
        let settings = &self.config.drain;
        let wanted = own.and_then(|node| drain::wanted(node, settings)).or(asked.wanted());
        let vips: BTreeSet<IpAddr> = match self.config.advertise_style {
            _ if wanted.is_none() => BTreeSet::new(),
            Style::Node => self.advertiser.announced().clone(),
            // A node that does not speak has nothing to take back.
            Style::Speakers if !own.is_some_and(|node| is_speaker(node, &self.config.speaker_selector)) => {
                BTreeSet::new()
            }
            Style::Speakers => self.desired.listed().filter(|vip| !self.desired.nodes(*vip).is_empty()).collect(),
        };
        let others = wanted.map(|_| Others::new(snapshot, &self.config));
        let elsewhere = |vip: IpAddr| others.as_ref().is_some_and(|others| others.announce(vip, &self.desired));
        let hurried = asked.shutdown.map(|budget| settings.within(budget));
        let settings = hurried.as_ref().unwrap_or(settings);
        let decision = self.around.drain.step(wanted, &vips, elsewhere, settings, now);
        let older = std::mem::replace(&mut self.around.decision, decision);
        let newer = &self.around.decision;
        if older.tag != newer.tag {
            self.reframe = true;
        }
        if older.withhold != newer.withhold {
            self.vips_dirty.extend(older.withhold.symmetric_difference(&newer.withhold));
        }
        // Whatever else takes the node out of traffic: peers of a host that goes are not to wait for it.
        let leaving = asked.wanted().is_some() || own.is_some_and(|node| node.shutting_down);
        self.around.report(wanted, leaving, now);
    }

    fn tell(&mut self, changes: RouteChanges, reframe: bool, snapshot: &Snapshot) {
        let links = self.own_links();
        let mut peers = Cow::Borrowed(&self.peers);
        if self.around.decision.tag && !peers.communities.contains(&drain::GRACEFUL_SHUTDOWN) {
            peers.to_mut().communities.push(drain::GRACEFUL_SHUTDOWN);
        }
        let (peers, config, leaving) = (peers.as_ref(), &self.config, &self.leaving);
        let told = self.told.tell(changes, reframe, |vips| build(peers, snapshot, config, &links, vips, leaving));
        if !told.is_empty() {
            self.voice.change(told);
        }
    }
}
