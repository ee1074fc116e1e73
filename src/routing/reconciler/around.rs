//! What surrounds routes and sessions in a pass: the pod bridge, the way back of answers, the drain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::guard::{self, Guard};
use super::kernel::or_already_so;
use super::{Room, Voice};
use crate::kernel::fou::Fou;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Op, Route, RouteFilter, Rtnl, protocol, table};
use crate::kernel::sysctl::Sysctl;
use crate::model::{Node, Notice, Severity, Snapshot};
use crate::reconcile::{Outcome, Read};
use crate::routing::bgp::api::query::Capability;
use crate::routing::bridge::{self, BRIDGE_SYSCTLS};
use crate::routing::doctor::{self, Facts};
use crate::routing::drain::{self, Asked, Decision, Drain, Report, Wanted};
use crate::routing::egress::BRIDGE_LINK;
use crate::routing::return_path::{self, Mode, ReturnPath};
use crate::routing::speakers;

/// Switches IPv6 off for the whole host.
const IPV6_OFF: &str = "net/ipv6/conf/all/disable_ipv6";

/// This file's part of the room.
#[derive(Debug, Default)]
pub(super) struct Around {
    pub(super) cni: Option<Guard>,
    /// The way back of answers, as it is in force.
    pub(super) return_path: ReturnPath,
    return_routes: Vec<Route>,
    /// Sessions that were up when neighbours were last read.
    up: BTreeSet<IpAddr>,
    /// How far this node is out of traffic.
    pub(super) drain: Drain,
    /// What that withholds.
    pub(super) decision: Decision,
    asked: Option<watch::Receiver<Asked>>,
    report: Option<watch::Sender<Report>>,
}

impl Around {
    /// What is asked for on the node itself.
    pub(super) fn asked(&self) -> Asked {
        self.asked.as_ref().map(|asked| *asked.borrow()).unwrap_or_default()
    }

    /// Tells whoever looks how far the drain is; `leaving` where the host goes.
    pub(super) fn report(&self, wanted: Option<Wanted>, leaving: bool, now: Duration) {
        let Some(report) = &self.report else { return };
        let newer = self.drain.report(wanted, &self.decision, leaving, now);
        report.send_if_modified(|old| {
            let differs = *old != newer;
            *old = newer;
            differs
        });
    }
}

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Drain the node while the first asks for it, and say in the second how far it is.
    pub fn heed_drain(&mut self, asked: watch::Receiver<Asked>, report: watch::Sender<Report>) {
        (self.around.asked, self.around.report) = (Some(asked), Some(report));
    }

    /// The bridge and its settings.
    pub(super) fn sync_bridge(&mut self, snapshot: &Snapshot, read: Read, nodes: bool, outcome: &mut Outcome) {
        if read < Read::Links && !nodes {
            return;
        }
        let Some(own) = snapshot.own_node().cloned() else { return };
        let known = self.config.auto_mtu && self.uplink.is_some();
        let mtu = known.then(|| bridge::pod_mtu(&own, &self.config, self.mtu));
        // A bridge that was just made is set up in a second round.
        for _ in 0..2 {
            match bridge::plan(&self.links, mtu) {
                Ok(ops) if ops.is_empty() => break,
                Ok(ops) => ops.into_iter().for_each(|op| self.write(&format!("link {BRIDGE_LINK}"), op, outcome)),
                Err(reason) => {
                    outcome.fail(format!("link {BRIDGE_LINK}"), reason);
                    break;
                }
            }
            match self.kernel.rtnl.links() {
                Ok(links) => self.set_links(links),
                Err(error) => outcome.fail_part("links and routes", error),
            }
        }
        if read == Read::Kernel {
            self.sync_settings(&own, outcome);
        }
    }

    fn sync_settings(&mut self, own: &Node, outcome: &mut Outcome) {
        let bridged = BRIDGE_SYSCTLS.into_iter().filter(|(_, family)| own.best_ip(*family).is_some());
        let mut wanted: Vec<(&str, &str)> = bridged.map(|(key, _)| (key, "1")).collect();
        if self.config.ipv6 {
            wanted.push((IPV6_OFF, "0"));
        }
        for (key, value) in wanted {
            // A kernel without the module is a finding, and nothing that can be written.
            let Some(older) = self.kernel.sysctl.read(key).unwrap_or_default() else { continue };
            if older == value {
                continue;
            }
            outcome.ops += 1;
            match self.kernel.sysctl.write(key, value) {
                Ok(()) => tracing::info!(key, older, value, "changed a kernel setting"),
                Err(error) => outcome.fail(format!("sysctl {key}"), error),
            }
        }
    }

    /// Routing rules and routes that tie answers to the peer the question came through. The marks are in the packet
    /// filter table, which is written again when the ways change.
    pub(super) fn sync_return_path(&mut self, snapshot: &Snapshot, read: Read, nodes: bool, outcome: &mut Outcome) {
        let mode = self.return_mode(snapshot);
        let peers: Vec<IpAddr> = match mode {
            Mode::Peer => self.external_peers(),
            Mode::Off => Vec::new(),
        };
        let up = self.voice.up();
        let looks = read >= Read::Links || nodes || self.around.up != up;
        // Peers behind other routers have no way and never get one: they are no reason to look with every pass.
        let own_links = self.own_links();
        let on_link = |peer: &&IpAddr| own_links.iter().any(|link| link.contains(*peer));
        let lacks = self.around.return_path.ways.len() != peers.iter().filter(on_link).count();
        if !looks && !lacks {
            return;
        }
        self.around.up = up;
        let path = if peers.is_empty() {
            ReturnPath::default()
        } else {
            match self.kernel.rtnl.neighbours() {
                Ok(neighbours) => return_path::build(&snapshot.node_name, peers, &own_links, &self.links, &neighbours),
                Err(error) => {
                    outcome.fail("return path", error);
                    return;
                }
            }
        };
        if path.ways != self.around.return_path.ways {
            self.ruleset = None;
        }
        self.around.return_path = path;
        if read >= Read::Links
            && let Err(error) = self.read_return_routes(read)
        {
            outcome.fail("return path", error);
            return;
        }
        let ops = return_path::plan(&self.around.return_path, &self.rules_observed, &self.around.return_routes);
        outcome.ops += ops.len();
        let results = self.kernel.rtnl.apply(&ops);
        for (op, result) in ops.into_iter().zip(results) {
            if let Err(error) = or_already_so(result) {
                outcome.fail(format!("return path {op}"), error);
                continue;
            }
            match op {
                Op::AddRule(rule) => self.rules_observed.push(rule),
                Op::DeleteRule(rule) => self.rules_observed.retain(|other| *other != rule),
                Op::ReplaceRoute(route) => {
                    let same = |other: &Route| (other.table, other.destination) == (route.table, route.destination);
                    self.around.return_routes.retain(|other| !same(other));
                    self.around.return_routes.push(route);
                }
                Op::DeleteRoute(route) => self.around.return_routes.retain(|other| *other != route),
                _ => {}
            }
        }
    }

    /// All of them with the whole kernel; else only those of tables in use, which is a question for each.
    fn read_return_routes(&mut self, read: Read) -> Result<(), crate::kernel::Error> {
        let filters: Vec<RouteFilter> = if read == Read::Kernel {
            vec![RouteFilter { protocol: Some(protocol::OURS), ..RouteFilter::default() }]
        } else {
            let tables = self.around.return_path.tables();
            tables.map(|table| RouteFilter { table: Some(table), ..RouteFilter::default() }).collect()
        };
        let mut routes = Vec::new();
        for filter in filters {
            routes.extend(self.kernel.rtnl.routes(filter)?.into_iter().filter(return_path::owns_route));
        }
        self.around.return_routes = routes;
        Ok(())
    }

    fn return_mode(&self, snapshot: &Snapshot) -> Mode {
        let own = snapshot.own_node();
        own.map_or(Mode::Off, |node| Mode::of(&snapshot.node_name, node, self.config.return_path).0)
    }

    fn external_peers(&self) -> Vec<IpAddr> {
        self.peers.peers.iter().filter(|peer| !peer.node).map(|peer| peer.address).collect()
    }

    /// What the operator should know about this node.
    pub(super) fn notices_around(&self, snapshot: &Snapshot) -> Vec<Notice> {
        let mut notices = speakers::notices(snapshot, &self.config);
        let Some(own) = snapshot.own_node() else { return notices };
        notices.extend(Mode::of(&snapshot.node_name, own, self.config.return_path).1);
        notices.extend(drain::notice(&snapshot.node_name, own));
        if self.around.cni.is_some() && own.pod_cidrs.is_empty() {
            let message =
                "the node has no pod prefix, so its pods get no addresses: let the controller manager give it \
                           one (--allocate-node-cidrs), or set the annotation kube-router.io/pod-cidrs"
                    .to_owned();
            notices.push(self.node_notice(snapshot, "NoPodCidr", message));
        }
        notices
    }

    /// Notices of the CNI file and of the return path.
    pub(super) fn told_around(&self) -> impl Iterator<Item = &Notice> {
        self.around.cni.iter().flat_map(Guard::notices).chain(&self.around.return_path.notices)
    }

    /// What stands in the way, one line each.
    pub(super) fn explain_findings(&mut self) -> String {
        let gate = self.around.cni.as_ref().and_then(Guard::finding).unwrap_or_default();
        let Some(snapshot) = self.last.clone() else {
            return format!("{gate}NotRead: the cluster has not been read yet\n");
        };
        let main = RouteFilter { table: Some(table::MAIN), ..RouteFilter::default() };
        let (routes, mut addresses) = match (self.kernel.rtnl.routes(main), self.kernel.rtnl.addresses(None)) {
            (Ok(routes), Ok(addresses)) => (routes, addresses),
            (Err(error), _) | (_, Err(error)) => return format!("KernelUnreadable: {error}\n"),
        };
        // The node's address is on every tunnel as well, and no way in.
        addresses.retain(|address| !self.tunnel_links.values().any(|link| *link == address.link));
        let mut sysctls = BTreeMap::new();
        for key in doctor::sysctls(&self.links) {
            if let Ok(Some(value)) = self.kernel.sysctl.read(&key) {
                sysctls.insert(key, value);
            }
        }
        let limits = self.kernel.nft.limits();
        let sessions = self.voice.sessions();
        let takes_several = |capability: &Capability| match capability {
            Capability::AddPath(families) => families.iter().any(|(_, receives, _)| *receives),
            _ => false,
        };
        let several = sessions.peers.values().filter(|peer| peer.remote_capabilities.iter().any(takes_several));
        let add_path: Vec<IpAddr> = several.map(|peer| peer.row.address).collect();
        let facts = Facts {
            snapshot: &snapshot,
            config: &self.config,
            peers: &self.peers,
            return_path: self.return_mode(&snapshot),
            add_path: &add_path,
            links: &self.links,
            addresses: &addresses,
            routes: &routes,
            sysctls: &sysctls,
        };
        let found = doctor::findings(&facts).into_iter().map(|finding| finding.to_string());
        let warnings = self.notices.iter().chain(self.told_around()).filter(|it| it.severity == Severity::Warning);
        let warnings = warnings.filter(|it| it.reason != guard::CLOSED);
        let warnings = warnings.map(|it| format!("{}: {}: {}", it.reason, it.subject, it.message));
        let limits = limits.into_iter().map(|limit| format!("RulesWithoutEffect: {limit}"));
        gate + &found.chain(warnings).chain(limits).map(|line| line + "\n").collect::<String>()
    }
}
