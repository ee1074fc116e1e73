//! The kernel's side of a pass: what is read, and what is written in which order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Refusal, Room, Seen, Voice, is_inner};
use crate::kernel::filter::{Name, Ruleset};
use crate::kernel::fou::{self, Fou};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::monitor::Event;
use crate::kernel::rtnl::{Address, Link, Op, RouteFilter, Rtnl, protocol, table};
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{Disposition, Error};
use crate::model::Snapshot;
use crate::net::Prefix;
use crate::reconcile::{Outcome, Read};
use crate::routing::bgp::speaker::Change;
use crate::routing::egress;
use crate::routing::overlay::{TABLE, tunnel_routes};
use crate::routing::plan::{self, RouteKey};

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Reads links, addresses and rules, and routes where asked to. What was seen before an error counts.
    pub(super) fn read_kernel(
        &mut self,
        snapshot: &Snapshot,
        read: Read,
        seen: &mut Seen,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        seen.relinked = self.read_links(snapshot)?;
        self.rules_observed = self.kernel.rtnl.rules()?;
        if read >= Read::Routes {
            seen.bars = self.read_routes(seen.first, outcome)?;
        }
        Ok(())
    }

    /// Reads both tables. Returns the learned prefixes that a route of somebody else bars now and did not before, or the
    /// other way round.
    pub(super) fn read_routes(&mut self, first: bool, outcome: &mut Outcome) -> Result<Vec<Prefix>, Error> {
        let main = self.kernel.rtnl.routes(RouteFilter { table: Some(table::MAIN), ..RouteFilter::default() })?;
        let tunnels = self.kernel.rtnl.routes(RouteFilter { table: Some(TABLE), ..RouteFilter::default() })?;
        outcome.drift += self.routes.observe(main, tunnels, first);
        self.read = true;
        // Whether a route of somebody else stands in the way is judged with every reading.
        let was_barred = |prefix: &Prefix| self.refused.get(prefix) == Some(&Refusal::Foreign);
        let other = |prefix: &&Prefix| self.routes.is_foreign(prefix) != was_barred(prefix);
        Ok(self.learned.routes.keys().filter(other).copied().collect())
    }

    /// True where something learned routes depend on is another than before.
    fn read_links(&mut self, snapshot: &Snapshot) -> Result<bool, Error> {
        let links = self.kernel.rtnl.links()?;
        let mut addresses = self.kernel.rtnl.addresses(None)?;
        self.inner = inner_addresses(&links, &addresses);
        let outer: Vec<Link> = links.iter().filter(|link| !is_inner(&link.name)).cloned().collect();
        let lost = self.networks.see(&outer, &addresses);
        if self.lost != lost {
            let texts: Vec<String> = lost.iter().map(ToString::to_string).collect();
            tracing::info!(networks = texts.join(", "), "networks this node has lost with their links");
            self.lost.clone_from(&lost);
            self.voice.change(vec![Change::LoseNetworks(lost)]);
        }
        let usable: BTreeSet<u32> = links
            .iter()
            .filter(|link| link.up && !link.loopback && link.tunnel.is_none() && !is_inner(&link.name))
            .map(|link| link.index)
            .collect();
        addresses.retain(|address| usable.contains(&address.link));
        addresses.sort_unstable();
        let own = snapshot.own_node().and_then(|node| node.primary_ip());
        let uplink = addresses
            .iter()
            .find(|address| Some(address.prefix.addr()) == own)
            .and_then(|address| links.iter().find(|link| link.index == address.link));
        let mtu = uplink.map_or(self.mtu, |link| link.mtu);
        let uplink = uplink.map(|link| link.name.clone());
        // Links of pods come and go; what learned routes depend on seldom does.
        let tunnels = std::mem::take(&mut self.tunnel_links);
        self.set_links(links);
        let changed = self.addresses != addresses || self.tunnel_links != tunnels || self.mtu != mtu;
        (self.addresses, self.uplink, self.mtu) = (addresses, uplink, mtu);
        Ok(changed)
    }

    /// Reads links again, and what addresses tunnels have, after changing them.
    fn reread_links(&mut self, outcome: &mut Outcome) {
        let read = self.kernel.rtnl.links().and_then(|links| Ok((links, self.kernel.rtnl.addresses(None)?)));
        match read {
            Ok((links, addresses)) => {
                self.inner = inner_addresses(&links, &addresses);
                self.set_links(links);
            }
            Err(error) => outcome.fail_part("links and routes", error),
        }
    }

    /// What others changed decides what is read. Routes go without a word of their own with the link or the address they
    /// lead through, and with those alone that routes of ours can lead through.
    pub(super) fn heed_events(&mut self, events: &[Event]) -> Option<Read> {
        events.iter().filter_map(|event| self.heed_event(event)).max()
    }

    fn heed_event(&mut self, event: &Event) -> Option<Read> {
        match *event {
            Event::Overflow => Some(Read::Routes),
            Event::Link { link, lost } | Event::Address { link, lost } => {
                let carries = self.addresses.iter().any(|address| address.link == link)
                    || self.tunnel_links.values().any(|tunnel| *tunnel == link);
                Some(if lost && carries { Read::Routes } else { Read::Links })
            }
            Event::Rule => Some(Read::Links),
            Event::Route { table, destination, metric, protocol } => {
                let bars = table == table::MAIN && metric == 0 && self.learned.routes.contains_key(&destination);
                if self.routes.heed(RouteKey { table, destination, metric }, protocol) || bars {
                    return Some(Read::Routes);
                }
                // Ours in other tables are those of the return path.
                (protocol == protocol::OURS).then_some(Read::Links)
            }
        }
    }

    pub(super) fn set_links(&mut self, links: Vec<Link>) {
        let tunnels = links.iter().filter(|link| link.tunnel.is_some());
        self.tunnel_links = tunnels.map(|link| (link.name.clone(), link.index)).collect();
        self.links = links;
    }

    /// Makes tunnels and the ports they arrive on. True where links changed by it.
    pub(super) fn sync_links(&mut self, read: Read, outcome: &mut Outcome) -> bool {
        let missing = plan::links(self.tunnels.values(), &self.links, &self.inner).make.len();
        if read == Read::Kernel || missing > 0 {
            self.sync_ports(outcome);
        }
        let mut changed = false;
        // Links that were just made are set up in a second round.
        for _ in 0..2 {
            let plan = plan::links(self.tunnels.values(), &self.links, &self.inner);
            for name in &plan.taken {
                outcome.fail(format!("link {name}"), "another kind of link has this name: remove or rename it");
            }
            let makes = !plan.make.is_empty();
            for (name, op) in plan.make.into_iter().chain(plan.set) {
                changed = true;
                self.write(&format!("link {name}"), op, outcome);
            }
            if !changed {
                break;
            }
            self.reread_links(outcome);
            if !makes {
                break;
            }
        }
        if changed || read == Read::Kernel {
            self.sync_tunnel_settings(outcome);
        }
        changed
    }

    /// What another node forwards into a tunnel for a client outside has a source that leads elsewhere: where the kernel
    /// would check it strictly, the tunnel checks it loosely. The higher value of `all` and the link counts
    /// (Documentation/networking/ip-sysctl.rst); a filter that is off stays off.
    fn sync_tunnel_settings(&mut self, outcome: &mut Outcome) {
        let key = |link: &str| format!("net/ipv4/conf/{link}/rp_filter");
        let all = self.kernel.sysctl.read(&key("all")).unwrap_or_default();
        for tunnel in self.tunnels.values().filter(|tunnel| tunnel.local.is_ipv4()) {
            let key = key(&tunnel.name);
            let own = self.kernel.sysctl.read(&key).unwrap_or_default();
            let strict = own.is_some() && all.as_ref().max(own.as_ref()).is_some_and(|value| value == "1");
            if !strict {
                continue;
            }
            outcome.ops += 1;
            if let Err(error) = self.kernel.sysctl.write(&key, "2") {
                outcome.fail(format!("sysctl {key}"), error);
            }
        }
    }

    fn sync_ports(&mut self, outcome: &mut Outcome) {
        let wanted = plan::ports(self.tunnels.values());
        if wanted.is_empty() {
            return;
        }
        let there: BTreeSet<fou::Port> = match self.kernel.fou.ports() {
            Ok(ports) => ports.into_iter().collect(),
            Err(error) => {
                outcome.fail("tunnel ports", error);
                return;
            }
        };
        let ops: Vec<fou::Op> = wanted.difference(&there).map(|port| fou::Op::AddPort(*port)).collect();
        for (op, result) in ops.iter().zip(self.kernel.fou.apply(&ops)) {
            outcome.ops += 1;
            if let Err(error) = or_already_so(result) {
                outcome.fail(format!("tunnel port {}", op.port().number), error);
            }
        }
    }

    /// One change of links, told under a key.
    pub(super) fn write(&mut self, key: &str, op: Op, outcome: &mut Outcome) {
        outcome.ops += 1;
        for result in self.kernel.rtnl.apply(&[op]) {
            if let Err(error) = or_already_so(result) {
                outcome.fail(key, error);
            }
        }
    }

    /// Routes that are not learned: to the other ends of tunnels, and those that keep packets to pods which are not
    /// there from going round in circles.
    pub(super) fn set_fixed_routes(&mut self, snapshot: &Snapshot) {
        let mut wanted = BTreeMap::new();
        for route in tunnel_routes(&self.tunnels) {
            if let Some(route) = plan::route(&route, &self.tunnel_links, &self.addresses) {
                wanted.insert(RouteKey::of(&route), route);
            }
        }
        for prefix in snapshot.own_node().into_iter().flat_map(|node| &node.pod_cidrs) {
            let route = plan::last_resort(prefix.trunc());
            wanted.insert(RouteKey::of(&route), route);
        }
        let older = std::mem::take(&mut self.fixed);
        for key in older.keys().filter(|key| !wanted.contains_key(*key)) {
            self.routes.set_desired(*key, None);
        }
        for (key, route) in &wanted {
            if older.get(key) != Some(route) {
                self.routes.set_desired(*key, Some(route.clone()));
            }
        }
        self.fixed = wanted;
    }

    pub(super) fn sync_rules(&mut self, outcome: &mut Outcome) {
        let ops = plan::rules(&self.rules, &self.rules_observed);
        if ops.is_empty() {
            return;
        }
        outcome.ops += ops.len();
        for (op, result) in ops.iter().zip(self.kernel.rtnl.apply(&ops)) {
            match (or_already_so(result), op) {
                (Ok(()), Op::AddRule(rule)) => self.rules_observed.push(*rule),
                (Ok(()), Op::DeleteRule(rule)) => self.rules_observed.retain(|other| other != rule),
                (Ok(()), _) => {}
                (Err(error), _) => outcome.fail(format!("rule {op}"), error),
            }
        }
    }

    /// New and changed routes, then those that go, in one batch.
    pub(super) fn sync_routes(&mut self, outcome: &mut Outcome) {
        let (keys, ops): (Vec<RouteKey>, Vec<Op>) = self.routes.plan().into_iter().unzip();
        if ops.is_empty() {
            return;
        }
        outcome.ops += ops.len();
        let results = self.kernel.rtnl.apply(&ops);
        for ((key, op), result) in keys.iter().zip(&ops).zip(results) {
            match or_already_so(result) {
                Ok(()) => {
                    let count = if matches!(op, Op::DeleteRoute(_)) {
                        &mut self.counts.removed
                    } else {
                        &mut self.counts.added
                    };
                    *count = count.saturating_add(1);
                    self.routes.done(key);
                }
                Err(error) => outcome.fail(format!("route {}", key.destination), error),
            }
        }
    }

    /// Tunnels nobody wants go once no route of a former run may still lead into them.
    pub(super) fn remove_stale(&mut self, outcome: &mut Outcome) {
        if self.routes.n_inherited() > 0 || !self.learned.settled {
            return;
        }
        let names: BTreeSet<&str> = self.tunnels.values().map(|tunnel| tunnel.name.as_str()).collect();
        let stale = plan::stale_links(&names, &self.links);
        if stale.is_empty() {
            return;
        }
        for (name, op) in stale {
            self.write(&format!("link {name}"), op, outcome);
        }
        if let Ok(links) = self.kernel.rtnl.links() {
            self.set_links(links);
        }
    }

    /// The packet filter table, as a whole: it changes with nodes only.
    pub(super) fn sync_filter(&mut self, snapshot: &Snapshot, read: Read, first: bool, outcome: &mut Outcome) {
        let mut desired = egress::ruleset(snapshot, &self.config);
        self.around.return_path.add_to(&mut desired, snapshot);
        if read != Read::Kernel && self.ruleset.as_ref() == Some(&desired) {
            return;
        }
        let unchanged = self.ruleset.as_ref() == Some(&desired);
        match bring(&mut self.kernel.nft, &self.table, &desired, unchanged && !first, outcome) {
            Ok(()) => self.ruleset = Some(desired),
            Err(error) => {
                self.ruleset = None;
                outcome.fail_part(format!("table {}", self.table), error);
            }
        }
    }

    /// The table that accepts the traffic of pods. Where it fails, a node that drops nothing by itself misses nothing:
    /// no announcement waits for it.
    pub(super) fn sync_forward(&mut self, read: Read, first: bool, outcome: &mut Outcome) {
        let desired = egress::forward(self.uplink.as_deref());
        if read != Read::Kernel && self.forward.tried.as_ref() == Some(&desired) {
            return;
        }
        let unchanged = self.forward.in_force && self.forward.tried.as_ref() == Some(&desired);
        let table = Name::from(egress::FORWARD_TABLE);
        let done = bring(&mut self.kernel.nft, &table, &desired, unchanged && !first, outcome);
        self.forward = Forward { tried: Some(desired), in_force: done.is_ok() };
        if let Err(error) = done {
            outcome.fail(format!("table {table}"), error);
        }
    }
}

/// What was last written to accept the traffic of pods.
#[derive(Debug, Default)]
pub(super) struct Forward {
    tried: Option<Ruleset>,
    in_force: bool,
}

/// Brings one table to what it should be. `unchanged`: whatever differs is somebody else's doing.
fn bring(
    nft: &mut impl Nft,
    table: &Name,
    desired: &Ruleset,
    unchanged: bool,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let transaction = nft.plan(table, desired)?;
    if transaction.is_empty() {
        return Ok(());
    }
    outcome.ops += transaction.changes.len();
    if unchanged {
        outcome.drift += transaction.changes.len();
    }
    nft.commit(&transaction)
}

/// What was already so is as good as done.
pub(super) fn or_already_so(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.disposition() == Disposition::AlreadySo => Ok(()),
        other => other,
    }
}

/// The addresses of tunnels, each with its link.
fn inner_addresses(links: &[Link], addresses: &[Address]) -> BTreeSet<(u32, Prefix)> {
    let tunnels: BTreeSet<u32> = links.iter().filter(|link| link.tunnel.is_some()).map(|link| link.index).collect();
    let inner = addresses.iter().filter(|address| tunnels.contains(&address.link));
    inner.map(|address| (address.link, address.prefix)).collect()
}
