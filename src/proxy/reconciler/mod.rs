//! One pass of the room: read, think, write, report.
//!
//! The order inside a pass, additions: VIPs, virtual servers, real servers, packet filter; removals the other way
//! round. A pass that trusts its memory costs what changed in the snapshot; one that reads the kernel repairs whatever
//! differs. Every failure stays with its key: the rest of the pass goes on.

mod cleanup;
mod direct;
mod explain;
mod filter;
mod flows;
mod leaving;
mod links;
mod servers;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::book::{Book, Element, Touched};
use super::desired::build_service;
use super::drain::{CHECK_INTERVAL, Draining};
use super::nat::Frame;
use super::vips::Bindings;
use super::{Config, NodeView, dsr};
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::Name;
use crate::kernel::ipvs::{Ipvs, VirtualServer, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::monitor::Event;
use crate::kernel::rtnl::{Rtnl, table};
use crate::kernel::sysctl::Sysctl;
use crate::model::{Notice, Pod, PodKey, ServiceKey, Severity, Snapshot, Subject};
use crate::reconcile::query::View;
use crate::reconcile::tracker::Tracker;
use crate::reconcile::{Applied, Outcome, Read, Subsystem};

/// The doors of the room.
#[derive(Debug)]
pub struct Kernel<I, N, R, C, S> {
    /// IPVS.
    pub ipvs: I,
    /// nftables.
    pub nft: N,
    /// Links, addresses, routes, rules.
    pub rtnl: R,
    /// Connection tracking.
    pub conntrack: C,
    /// Kernel settings.
    pub sysctl: S,
}

/// What the room hands to its two async neighbours.
#[derive(Debug)]
pub struct Outputs {
    /// Health-check node ports: port to Service and number of ready local endpoints.
    pub health_checks: watch::Sender<BTreeMap<u16, (ServiceKey, usize)>>,
    /// Pods that must answer for VIPs themselves.
    pub pods: watch::Sender<Vec<dsr::PodSetup>>,
}

impl Default for Outputs {
    fn default() -> Outputs {
        Outputs { health_checks: watch::channel(BTreeMap::new()).0, pods: watch::channel(Vec::new()).0 }
    }
}

/// The room. Owns its picture of the kernel; nobody else writes there.
#[derive(Debug)]
pub struct Room<I, N, R, C, S> {
    config: Config,
    kernel: Kernel<I, N, R, C, S>,
    outputs: Outputs,
    table: Name,
    /// Wall clock in seconds since the epoch, for the end of a pod's grace period.
    epoch: fn() -> i64,
    book: Book,
    view: Option<NodeView>,
    /// Addresses and MTU that only the kernel knows, from the last reading.
    link_addresses: Vec<IpAddr>,
    mtu: u32,
    last: Option<Snapshot>,
    pods_by_address: BTreeMap<IpAddr, PodKey>,
    servers: Tracker<VirtualServerKey, Arc<VirtualServer>>,
    /// The table has been read: nothing is written to it before.
    servers_read: bool,
    draining: Draining,
    link: Option<u32>,
    loopback: Option<u32>,
    bindings: Bindings,
    /// VIPs nobody asks for, bound until their last virtual server is gone and nobody is sent to them.
    leaving: leaving::Leaving,
    /// How VIPs were bound in the last pass.
    as_addresses: bool,
    frame: Option<Frame>,
    /// Set elements nobody asks for that stay until their last connection has ended.
    held: BTreeSet<Element>,
    direct: dsr::DsrNeeds,
    direct_notices: Vec<Notice>,
    settings_notices: Vec<Notice>,
    /// Marks that routing rules of direct return lead from, as read from the kernel.
    direct_marks_observed: BTreeSet<u32>,
    /// Routing rules of direct return in the kernel.
    direct_rules: BTreeSet<crate::kernel::rtnl::Rule>,
    /// A direct virtual server hashes: its packets may start in the middle of a connection.
    sloppy: bool,
    sloppy_was_set: bool,
    /// Links that carry the node's own traffic.
    uplinks: Vec<String>,
    /// VIPs whose address goes while their route stays.
    surplus_addresses: Vec<IpAddr>,
    flows: flows::StaleFlows,
}

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// A room that has read nothing yet: its first pass reads the kernel.
    pub fn new(config: Config, kernel: Kernel<I, N, R, C, S>, outputs: Outputs) -> Self {
        Room {
            config,
            kernel,
            outputs,
            table: Arc::from(super::TABLE),
            epoch: || jiff::Timestamp::now().as_second(),
            book: Book::default(),
            view: None,
            link_addresses: Vec::new(),
            mtu: 1500,
            last: None,
            pods_by_address: BTreeMap::new(),
            servers: Tracker::default(),
            servers_read: false,
            draining: Draining::default(),
            link: None,
            loopback: None,
            bindings: Bindings::default(),
            leaving: leaving::Leaving::default(),
            as_addresses: true,
            frame: None,
            held: BTreeSet::new(),
            direct: dsr::DsrNeeds::default(),
            direct_notices: Vec::new(),
            settings_notices: Vec::new(),
            direct_marks_observed: BTreeSet::new(),
            direct_rules: BTreeSet::new(),
            sloppy: false,
            sloppy_was_set: false,
            uplinks: Vec::new(),
            surplus_addresses: Vec::new(),
            flows: flows::StaleFlows::default(),
        }
    }

    /// The same room beside a router, where there is one: a VIP stays bound until routing, whose reports these are, has
    /// withdrawn it.
    #[must_use]
    pub fn with_routing(mut self, reports: Option<watch::Receiver<Applied>>) -> Self {
        self.leaving.follow(reports);
        self
    }

    /// The same room with another wall clock, for tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_epoch(mut self, epoch: fn() -> i64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The kernel doors, to look at what was written.
    pub fn kernel_mut(&mut self) -> &mut Kernel<I, N, R, C, S> {
        &mut self.kernel
    }

    /// What all Services ask of this node.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Virtual servers, desired and observed.
    pub fn servers(&self) -> &Tracker<VirtualServerKey, Arc<VirtualServer>> {
        &self.servers
    }

    /// Bring the book up to date with a snapshot. Everything is derived again when the node itself has changed.
    fn think(&mut self, snapshot: &Snapshot) -> Touched {
        let view = NodeView::new(snapshot, &self.link_addresses, self.mtu);
        let everything = self.view.as_ref() != Some(&view);
        match &self.last {
            Some(last) if !everything => {
                let changes = snapshot.changes_since(last);
                for key in &changes.services {
                    let state = build_service(key, snapshot, &self.config, &view);
                    self.book.set(key, state);
                }
                if !changes.pods.is_empty() {
                    let last = last.clone();
                    self.index_pods(&last, snapshot, &changes.pods);
                }
            }
            _ => {
                let known: Vec<ServiceKey> = self.book.services().cloned().collect();
                for key in known.iter().filter(|key| !snapshot.services.contains_key(*key)) {
                    self.book.set(key, None);
                }
                for key in snapshot.services.keys() {
                    let state = build_service(key, snapshot, &self.config, &view);
                    self.book.set(key, state);
                }
                self.pods_by_address = snapshot
                    .pods
                    .iter()
                    .flat_map(|(key, pod)| pod.addresses.iter().map(move |address| (*address, key.clone())))
                    .collect();
            }
        }
        self.view = Some(view);
        self.last = Some(snapshot.clone());
        self.book.take_touched()
    }

    fn index_pods(&mut self, last: &Snapshot, snapshot: &Snapshot, changed: &BTreeSet<PodKey>) {
        for key in changed {
            for address in last.pods.get(key).iter().flat_map(|pod| pod.addresses.iter()) {
                if self.pods_by_address.get(address) == Some(key) {
                    self.pods_by_address.remove(address);
                }
            }
        }
        for key in changed {
            for address in snapshot.pods.get(key).iter().flat_map(|pod| pod.addresses.iter()) {
                self.pods_by_address.insert(*address, key.clone());
            }
        }
    }

    /// The pod that has (or last had) an address.
    fn pod_at(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.last.as_ref()?.pods.get(self.pods_by_address.get(&address)?)
    }
}

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Subsystem for Room<I, N, R, C, S> {
    const NAME: &'static str = "proxy";
    type News = Vec<Event>;

    fn sync(&mut self, snapshot: &Snapshot, read: Read, now: Duration) -> Outcome {
        let first = !self.servers_read;
        let read = if first { Read::Kernel } else { read };
        let mut outcome = Outcome { generation: snapshot.generation, ..Outcome::default() };
        if read >= Read::Links {
            self.read_links(snapshot, &mut outcome);
            self.read_direct(&mut outcome);
        }
        let pods_changed = self.last.as_ref().is_none_or(|last| !last.pods.ptr_eq(&snapshot.pods));
        let touched = self.think(snapshot);
        if touched.special || pods_changed {
            self.think_direct(snapshot);
        }
        if read == Read::Kernel || self.sloppy != self.sloppy_was_set {
            self.apply_settings(&mut outcome);
        }
        self.mark_desired(&touched);
        if read == Read::Kernel {
            self.read_servers(first, &mut outcome);
        }
        self.bind_vips(&touched, read, now, &mut outcome);
        self.sync_servers(now, &mut outcome);
        self.finish_draining(now, &mut outcome);
        self.sync_filter(&touched, read, first, &mut outcome);
        self.sync_direct(read, &mut outcome);
        self.unbind_vips(now, &mut outcome);
        self.forget_flows(first, &mut outcome);
        if touched.special || first {
            self.outputs.health_checks.send_replace(self.book.health_checks());
        }
        let draining = (!self.draining.is_empty()).then_some(CHECK_INTERVAL);
        outcome.again_in = self.leaving.again_in(now).or(draining);
        outcome.notices.extend(self.book.notices());
        outcome.notices.extend(self.direct_notices.iter().cloned());
        outcome.notices.extend(self.settings_notices.iter().cloned());
        outcome
    }

    /// VIPs are addresses, or routes of the table `local`; the main table is nothing to this room.
    fn heed(&mut self, news: &Vec<Event>) -> Option<Read> {
        let concerns = |event: &Event| !matches!(event, Event::Route { table: table::MAIN, .. });
        news.iter().any(concerns).then_some(Read::Links)
    }

    fn answer(&mut self, what: &View) -> String {
        self.explain(what)
    }
}

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// A notice about this node.
    fn node_notice(&self, reason: &'static str, message: String) -> Option<Notice> {
        let node = self.last.as_ref().map(|snapshot| snapshot.node_name.clone())?;
        Some(Notice { subject: Subject::Node(node), severity: Severity::Warning, reason, message })
    }
}
