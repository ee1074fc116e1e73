//! One pass of the room: read, think, withdraw, write, announce, report.
//!
//! The order inside a pass, coming: link, routing rule, route, announcement; going: withdrawal, route, rule, link. What
//! peers announce enters the kernel as far as [`Boundary`] lets it, what this node announces is what it wants and the
//! service proxy has in force ([`Advertiser`]). A pass that trusts its memory costs what changed in the snapshot, in what
//! was learned and in what the proxy reports; one that reads the kernel repairs whatever differs. Every failure stays
//! with its key: the rest of the pass goes on.

mod around;
mod cleanup;
mod explain;
mod guard;
mod kernel;
mod speak;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use tokio::sync::watch;

use super::advertise::Advertiser;
use super::bgp::speaker::{Change, Learned, LearnedRoute};
use super::boundary::{Boundary, Refusal, covering};
use super::config::Config;
use super::desired::{Desired, pod_prefixes};
use super::egress;
use super::networks::Networks;
use super::overlay::{self, Tunnel};
use super::peers::{DesiredPeers, build_peers};
use super::plan::{self, RouteKey, Routes};
use super::sessions::Sessions;
use super::speaker_config::{Leaving, Told};
use super::speakers::Style;
use crate::kernel::filter::{Name, Ruleset};
use crate::kernel::fou::Fou;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::monitor::Event;
use crate::kernel::rtnl::{Address, Link, Route, Rtnl, Rule};
use crate::kernel::sysctl::Sysctl;
use crate::model::{Changes, Generation, Notice, Severity, Snapshot, Subject};
use crate::net::{Family, Prefix};
use crate::reconcile::query::View;
use crate::reconcile::{Applied, Outcome, Read, Subsystem};

use around::Around;
use ways::{Way, Ways};

/// How long announcements wait for the first word of the service proxy.
const PROXY_PATIENCE: Duration = Duration::from_secs(15);
/// How soon the room looks again while something lingers.
const SOON: Duration = Duration::from_millis(500);
/// The most refused routes a node is told of one by one.
const MOST_TOLD: usize = 20;

/// The doors of the room.
#[derive(Debug)]
pub struct Kernel<N, R, F, S> {
    /// nftables.
    pub nft: N,
    /// Links, addresses, routes, rules.
    pub rtnl: R,
    /// UDP ports of tunnels.
    pub fou: F,
    /// Kernel settings.
    pub sysctl: S,
}

/// The speaker, as the room needs it.
pub trait Voice: Send {
    /// Hand over changes, which take effect in order.
    fn change(&mut self, changes: Vec<Change>);
    /// What was learned, newest state.
    fn learned(&mut self) -> Learned;
    /// Peers whose session is up.
    fn up(&mut self) -> BTreeSet<IpAddr>;
    /// How the sessions stand.
    fn sessions(&mut self) -> Sessions;
}

/// What the room tells whoever counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Learned routes.
    pub learned: usize,
    /// Learned routes that do not enter the kernel.
    pub refused: usize,
    /// Routes of ours in the kernel.
    pub routes: usize,
    /// Routes a former run left and nobody asked for yet.
    pub inherited: usize,
    /// Tunnels.
    pub tunnels: usize,
    /// VIPs announced.
    pub vips: usize,
    /// VIPs that wait for the service proxy.
    pub vips_waiting: usize,
    /// Prefixes announced, VIPs included.
    pub originated: usize,
    /// Routes added or changed in the kernel since start.
    pub added: u64,
    /// Routes removed from the kernel since start.
    pub removed: u64,
    /// Announcements of VIPs since start.
    pub announcements: u64,
    /// Withdrawals of VIPs since start.
    pub withdrawals: u64,
}

/// The room. Owns its picture of the kernel; nobody else writes there.
pub struct Room<N, R, F, S, V> {
    config: Config,
    kernel: Kernel<N, R, F, S>,
    voice: V,
    /// What the service proxy has in force; `None` where none of ours runs.
    proxy: Option<watch::Receiver<Applied>>,
    figures: watch::Sender<Figures>,
    table: Name,
    last: Option<Snapshot>,
    /// When the room first saw a snapshot, and which.
    first_seen: Option<(Duration, Generation)>,
    peers: DesiredPeers,
    desired: Desired,
    advertiser: Advertiser,
    told: Told,
    leaving: Leaving,
    /// Something else than VIPs changed in what the speaker's configuration is made from.
    reframe: bool,
    /// Announced VIPs must be told again, with other next hops.
    retell: bool,
    /// Pod prefixes of this node with their next hops.
    pods: BTreeMap<Prefix, IpAddr>,
    /// VIPs whose announcement may be another than the one told.
    vips_dirty: BTreeSet<IpAddr>,
    links: Vec<Link>,
    tunnel_links: BTreeMap<String, u32>,
    addresses: Vec<Address>,
    /// Those of tunnels, each with its link.
    inner: BTreeSet<(u32, Prefix)>,
    uplink: Option<String>,
    /// The networks of links, and those the speaker was told are lost.
    networks: Networks,
    lost: BTreeSet<Prefix>,
    mtu: u32,
    tunnels: BTreeMap<IpAddr, Tunnel>,
    boundary: Boundary,
    learned: Learned,
    refused: BTreeMap<Prefix, Refusal>,
    /// How the next hops of `learned` are reached.
    ways: Ways,
    routes: Routes,
    /// Those of them that are not learned.
    fixed: BTreeMap<RouteKey, Route>,
    rules: BTreeSet<Rule>,
    rules_observed: Vec<Rule>,
    /// Links and routes have been read: nothing is written before.
    read: bool,
    /// The packet filter table in force, once it is.
    ruleset: Option<Ruleset>,
    /// The table that accepts the traffic of pods.
    forward: kernel::Forward,
    notices: Vec<Notice>,
    counts: Figures,
    around: Around,
}

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// A room that has read nothing yet: its first pass reads the kernel.
    pub fn new(
        config: Config,
        kernel: Kernel<N, R, F, S>,
        voice: V,
        proxy: Option<watch::Receiver<Applied>>,
        figures: watch::Sender<Figures>,
    ) -> Self {
        Room {
            config,
            kernel,
            voice,
            proxy,
            figures,
            table: Arc::from(egress::TABLE),
            forward: kernel::Forward::default(),
            last: None,
            first_seen: None,
            peers: DesiredPeers::default(),
            desired: Desired::default(),
            advertiser: Advertiser::default(),
            told: Told::default(),
            leaving: Leaving::default(),
            reframe: true,
            retell: false,
            pods: BTreeMap::new(),
            vips_dirty: BTreeSet::new(),
            links: Vec::new(),
            tunnel_links: BTreeMap::new(),
            addresses: Vec::new(),
            inner: BTreeSet::new(),
            uplink: None,
            networks: Networks::default(),
            lost: BTreeSet::new(),
            mtu: 1500,
            tunnels: BTreeMap::new(),
            boundary: Boundary::default(),
            learned: Learned::default(),
            refused: BTreeMap::new(),
            ways: Ways::default(),
            routes: Routes::default(),
            fixed: BTreeMap::new(),
            rules: BTreeSet::new(),
            rules_observed: Vec::new(),
            read: false,
            ruleset: None,
            notices: Vec::new(),
            counts: Figures::default(),
            around: Around::default(),
        }
    }

    /// The kernel doors, to look at what was written.
    pub fn kernel_mut(&mut self) -> &mut Kernel<N, R, F, S> {
        &mut self.kernel
    }

    /// The speaker, to look at what it was told.
    pub fn voice_mut(&mut self) -> &mut V {
        &mut self.voice
    }

    /// Routes, desired and observed.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Brings what should be up to date with a snapshot and with what was read.
    fn think(&mut self, snapshot: &Snapshot, seen: Seen) -> Thought {
        let changes = self.last.as_ref().map(|last| snapshot.changes_since(last));
        let nodes = changes.as_ref().is_none_or(|changes| !changes.nodes.is_empty());
        let own = changes.as_ref().is_none_or(|changes| changes.nodes.contains(&snapshot.node_name));
        let services = self.think_vips(changes.as_ref(), snapshot);
        if nodes {
            self.peers = build_peers(snapshot, &self.config);
        }
        if nodes || seen.relinked {
            self.reframe = true;
            let own_links = self.own_links();
            self.tunnels = overlay::tunnels(snapshot, &self.config, &own_links, self.mtu);
            self.rules = overlay::rules(snapshot, &self.config);
            let tunnels = self.tunnels.clone();
            if nodes {
                self.boundary = Boundary::new(snapshot, &self.config, self.desired.listed(), &own_links, tunnels);
            } else {
                self.boundary.relink(own_links, tunnels);
            }
        }
        // Which nodes are drained, and which speak, decides about everybody's next hops.
        if own || (nodes && self.config.advertise_style == Style::Speakers) {
            self.retell = true;
        }
        let relisted = self.desired.take_relisted();
        let moved: Vec<IpAddr> = relisted
            .into_iter()
            .filter(|(vip, listed)| self.boundary.set_vip(*vip, *listed))
            .map(|(vip, _)| vip)
            .collect();
        if nodes || services {
            self.collect_notices(snapshot);
        }
        self.last = Some(snapshot.clone());
        Thought { nodes, all: nodes || seen.first, links: nodes || seen.relinked, bars: seen.bars, vips: moved }
    }

    /// True where a Service changed.
    fn think_vips(&mut self, changes: Option<&Changes>, snapshot: &Snapshot) -> bool {
        let generation = snapshot.generation;
        let (touched, changed) = match changes {
            Some(changes) => {
                let changed = !changes.services.is_empty() || changes.nodes.contains(&snapshot.node_name);
                (self.desired.apply(changes, snapshot, &self.config), changed)
            }
            None => {
                self.desired = Desired::build(snapshot, &self.config);
                (self.desired.vips().keys().copied().collect(), true)
            }
        };
        for vip in touched {
            self.advertiser.set(vip, self.desired.vips().get(&vip), generation);
            self.vips_dirty.insert(vip);
        }
        changed
    }

    fn collect_notices(&mut self, snapshot: &Snapshot) {
        let (_, pods) = pod_prefixes(snapshot);
        self.notices = self.peers.notices.iter().chain(self.desired.notices()).cloned().chain(pods).collect();
        self.notices.extend(self.notices_around(snapshot));
    }

    /// What was learned since the last pass becomes routes, or refusals.
    fn learn(&mut self, thought: &Thought, outcome: &mut Outcome) {
        let newer = self.voice.learned();
        let older = std::mem::replace(&mut self.learned, newer);
        let mut prefixes = self.learned_since(&older, thought);
        if thought.links {
            prefixes.extend(self.moved());
        }
        let doubtful = |prefix: &Prefix| self.routes.is_doubtful(prefix);
        if prefixes.iter().any(doubtful) || (thought.all && self.learned.routes.keys().any(doubtful)) {
            match self.read_routes(false, outcome) {
                Ok(bars) => prefixes.extend(bars),
                Err(error) => outcome.fail_part("links and routes", error),
            }
        }
        if thought.all {
            prefixes.extend(self.learned.routes.keys().copied());
        }
        for prefix in prefixes {
            self.judge(prefix);
        }
    }

    /// Prefixes that are learned otherwise than before, and those that a thought is about.
    fn learned_since(&mut self, older: &Learned, thought: &Thought) -> Vec<Prefix> {
        let mut ways = std::mem::take(&mut self.ways);
        let mut prefixes = thought.bars.clone();
        for item in older.routes.diff(&self.learned.routes) {
            let (prefix, before, now) = match item {
                DiffItem::Add(prefix, now) => (prefix, None, Some(now)),
                DiffItem::Remove(prefix, before) => (prefix, Some(before), None),
                DiffItem::Update { old: (_, before), new: (prefix, now) } => (prefix, Some(before), Some(now)),
            };
            for hop in now.iter().flat_map(|route| &route.hops) {
                ways.add(hop.next_hop.address, || self.way(hop.next_hop.address));
            }
            for hop in before.iter().flat_map(|route| &route.hops) {
                ways.remove(hop.next_hop.address);
            }
            prefixes.push(*prefix);
        }
        self.ways = ways;
        for vip in &thought.vips {
            prefixes.extend(covering(&self.learned.routes, *vip));
        }
        prefixes
    }

    /// Learned prefixes with a next hop that is reached otherwise than when this was last asked.
    fn moved(&mut self) -> Vec<Prefix> {
        let mut ways = std::mem::take(&mut self.ways);
        let moved = ways.renew(|next_hop| self.way(next_hop));
        self.ways = ways;
        if moved.is_empty() {
            return Vec::new();
        }
        let concerns = |route: &LearnedRoute| route.hops.iter().any(|hop| moved.contains(&hop.next_hop.address));
        let routes = self.learned.routes.iter().filter(|(_, route)| concerns(route));
        routes.map(|(prefix, _)| *prefix).collect()
    }

    /// How a next hop is reached now.
    fn way(&self, next_hop: IpAddr) -> Way {
        let hop = self.boundary.hop(next_hop)?;
        Ok(plan::next_hop(&hop, &self.tunnel_links, &self.addresses))
    }

    /// Whether and how one learned prefix enters the kernel.
    fn judge(&mut self, prefix: Prefix) {
        let wanted = self.learned.routes.get(&prefix).map(|route| self.kernel_route(prefix, route));
        let key = RouteKey::learned(prefix);
        let (route, refusal) = match wanted {
            Some(Ok(route)) => (route, None),
            Some(Err(refusal)) => (None, Some(refusal)),
            None => (None, None),
        };
        self.routes.set_desired(key, route);
        match refusal {
            Some(refusal) => self.refused.insert(prefix, refusal),
            None => self.refused.remove(&prefix),
        };
    }

    fn kernel_route(&self, prefix: Prefix, learned: &LearnedRoute) -> Result<Option<Route>, Refusal> {
        if self.routes.is_foreign(&prefix) {
            return Err(Refusal::Foreign);
        }
        if learned.blackhole {
            return self.boundary.black_hole(&prefix).map(|()| Some(plan::black_hole(prefix)));
        }
        let hops: Vec<IpAddr> = learned.hops.iter().map(|hop| hop.next_hop.address).collect();
        let route = self.boundary.install(prefix, &hops)?;
        Ok(plan::route(&route, &self.tunnel_links, &self.addresses))
    }

    /// This node's addresses with the length of their links' prefixes.
    fn own_links(&self) -> Vec<Prefix> {
        self.addresses.iter().map(|address| address.prefix).collect()
    }

    fn publish(&mut self) {
        let figures = Figures {
            learned: self.learned.routes.len(),
            refused: self.refused.len(),
            routes: self.routes.tracker().all_observed().len(),
            inherited: self.routes.n_inherited(),
            tunnels: self.tunnels.len(),
            vips: self.told.vips().len(),
            vips_waiting: self.advertiser.waiting().count(),
            originated: self.told.routes().len(),
            ..self.counts.clone()
        };
        self.figures.send_if_modified(|old| {
            let differs = *old != figures;
            *old = figures;
            differs
        });
    }

    /// A notice about this node.
    fn node_notice(&self, snapshot: &Snapshot, reason: &'static str, message: String) -> Notice {
        let subject = Subject::Node(snapshot.node_name.clone());
        Notice { subject, severity: Severity::Warning, reason, message }
    }
}

/// What reading the kernel showed.
#[derive(Debug, Default)]
struct Seen {
    /// It was read for the first time.
    first: bool,
    /// Links or addresses are others than before, as far as learned routes depend on them.
    relinked: bool,
    /// Learned prefixes that a route of somebody else bars, or bars no longer.
    bars: Vec<Prefix>,
}

/// What a new snapshot and what was read touched.
#[derive(Debug)]
struct Thought {
    /// Some node changed.
    nodes: bool,
    /// Every learned route is to be judged again.
    all: bool,
    /// Next hops may be reached otherwise than before.
    links: bool,
    /// Learned routes to these prefixes are.
    bars: Vec<Prefix>,
    /// Learned routes around these addresses are.
    vips: Vec<IpAddr>,
}

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Subsystem for Room<N, R, F, S, V> {
    const NAME: &'static str = "routing";
    type News = Vec<Event>;

    fn sync(&mut self, snapshot: &Snapshot, read: Read, now: Duration) -> Outcome {
        let first = !self.read;
        let read = if first { Read::Kernel } else { read };
        let mut outcome = Outcome { generation: snapshot.generation, ..Outcome::default() };
        self.first_seen.get_or_insert((now, snapshot.generation));
        let mut seen = Seen { first, ..Seen::default() };
        if read >= Read::Links
            && let Err(error) = self.read_kernel(snapshot, read, &mut seen, &mut outcome)
        {
            outcome.fail_part("links and routes", error);
        }
        let thought = self.think(snapshot, seen);
        // Asked once: what is announced builds on what was found to be withdrawn, and the proxy may report in between.
        let speaks = self.may_speak(snapshot, now);
        if speaks {
            self.withdraw(snapshot, now);
        }
        if self.read {
            self.sync_bridge(snapshot, read, thought.nodes, &mut outcome);
            let made = self.sync_links(read, &mut outcome);
            let thought = Thought { links: thought.links || made, ..thought };
            self.learn(&thought, &mut outcome);
            if self.learned.settled {
                self.routes.settle();
            }
            if thought.links || thought.all {
                self.set_fixed_routes(snapshot);
            }
            self.sync_rules(&mut outcome);
            self.sync_return_path(snapshot, read, thought.nodes, &mut outcome);
            self.sync_routes(&mut outcome);
            self.remove_stale(&mut outcome);
        }
        if thought.nodes || read == Read::Kernel || self.ruleset.is_none() {
            self.sync_filter(snapshot, read, first, &mut outcome);
        }
        self.sync_forward(read, first, &mut outcome);
        if speaks {
            self.announce(snapshot, now);
        }
        if self.read {
            self.sync_cni(snapshot, read, now, &mut outcome);
        }
        let lingers = (!self.leaving.is_empty() || !speaks).then_some(SOON);
        outcome.again_in = outcome.again_in.into_iter().chain(self.around.decision.again_in).chain(lingers).min();
        outcome.notices.extend(self.notices.iter().cloned());
        outcome.notices.extend(self.told_around().cloned());
        let refused = self.refused.iter().take(MOST_TOLD);
        outcome.notices.extend(refused.map(|(prefix, refusal)| {
            let message = if refusal.is_guard() {
                let cure = "--allowed-import-prefixes lets what it covers in";
                format!("route to {prefix} is not used: it {refusal}; {cure}")
            } else {
                format!("route to {prefix} is not used: {refusal}")
            };
            self.node_notice(snapshot, "RouteRefused", message)
        }));
        self.publish();
        outcome
    }

    fn heed(&mut self, news: &Vec<Event>) -> Option<Read> {
        self.heed_events(news)
    }

    fn answer(&mut self, what: &View) -> String {
        self.explain(what)
    }
}

/// Whether links of this name are none that routers are reached through.
fn is_inner(name: &str) -> bool {
    ["dummy", "docker"].iter().any(|part| name.contains(part))
}

/// Next hops of both families, IPv4 first.
fn next_hops(snapshot: &Snapshot) -> [Option<IpAddr>; 2] {
    Family::ALL.map(|family| snapshot.own_node().and_then(|node| node.best_ip(family)))
}
