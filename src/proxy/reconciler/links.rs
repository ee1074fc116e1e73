//! The dummy link and the VIPs on it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Room;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::Ipvs;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Link, Op, RouteFilter, Rtnl, table};
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{Disposition, Error};
use crate::model::Snapshot;
use crate::proxy::book::Touched;
use crate::proxy::{DUMMY_LINK, vips};
use crate::reconcile::{Outcome, Read};

/// Links whose addresses are not the node's own, by parts of their names, as kube-router tells them apart.
const NOT_OURS_TO_SERVE: [&str; 3] = ["dummy", "kube", "docker"];

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Make sure the dummy link is there and up, and read what is on it and beside it.
    pub(super) fn read_links(&mut self, snapshot: &Snapshot, outcome: &mut Outcome) {
        if let Err(error) = self.try_read_links(snapshot, outcome) {
            outcome.fail_part(format!("link {DUMMY_LINK}"), error);
        }
    }

    fn try_read_links(&mut self, snapshot: &Snapshot, outcome: &mut Outcome) -> Result<(), Error> {
        let links = self.ensure_dummy(outcome)?;
        let Some(dummy) = links.iter().find(|link| link.name == DUMMY_LINK) else {
            self.link = None;
            return Ok(());
        };
        self.link = Some(dummy.index);
        let addresses = self.kernel.rtnl.addresses(None)?;
        let filter = RouteFilter { table: Some(table::LOCAL), protocol: None, link: Some(dummy.index) };
        let routes = self.kernel.rtnl.routes(filter)?;
        let (on_dummy, elsewhere): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| address.link == dummy.index);
        self.bindings = vips::observe(&on_dummy, &routes);

        let node_addresses: Vec<IpAddr> =
            snapshot.own_node().map(|node| node.addresses().collect()).unwrap_or_default();
        let name_of = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
        let is_own =
            |index: u32| name_of(index).is_some_and(|name| !NOT_OURS_TO_SERVE.iter().any(|part| name.contains(part)));
        self.link_addresses = elsewhere
            .iter()
            .filter(|address| is_own(address.link))
            .map(|address| address.prefix.addr())
            .filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()))
            .collect();
        self.link_addresses.sort_unstable();
        self.loopback = links.iter().find(|link| link.loopback).map(|link| link.index);
        self.mtu = elsewhere
            .iter()
            .filter(|address| node_addresses.contains(&address.prefix.addr()))
            .filter_map(|address| links.iter().find(|link| link.index == address.link))
            // Tunnels to other nodes have the node's address too.
            .find(|link| link.tunnel.is_none())
            .map_or(self.mtu, |link| link.mtu);
        self.uplinks = uplinks(&links, &elsewhere);
        Ok(())
    }

    fn ensure_dummy(&mut self, outcome: &mut Outcome) -> Result<Vec<Link>, Error> {
        let mut links = self.kernel.rtnl.links()?;
        if !links.iter().any(|link| link.name == DUMMY_LINK) {
            outcome.ops += 1;
            for result in self.kernel.rtnl.apply(&[Op::AddDummy { name: DUMMY_LINK.to_owned() }]) {
                or_already_so(result)?;
            }
            links = self.kernel.rtnl.links()?;
        }
        let down = links.iter().find(|link| link.name == DUMMY_LINK && !link.up).map(|link| link.index);
        if let Some(link) = down {
            outcome.ops += 1;
            for result in self.kernel.rtnl.apply(&[Op::SetUp { link, up: true }]) {
                or_already_so(result)?;
            }
        }
        Ok(links)
    }

    /// Bind every VIP that should be and is not.
    pub(super) fn bind_vips(&mut self, touched: &Touched, read: Read, now: Duration, outcome: &mut Outcome) {
        let (Some(link), Some(view)) = (self.link, self.view.clone()) else { return };
        let as_addresses = vips::as_addresses(self.config.vip_binding, self.book.n_bound());
        let everything = read >= Read::Links || as_addresses != self.as_addresses;
        let wanted: Vec<IpAddr> = if everything { self.book.bound().copied().collect() } else { touched.bound.clone() };
        if everything {
            self.find_stale_vips(as_addresses, now, outcome);
        }
        self.as_addresses = as_addresses;
        touched.unbound.iter().for_each(|vip| self.leaving.add(*vip, outcome.generation, now));

        let mut ops = Vec::new();
        let mut owners = Vec::new();
        for vip in wanted {
            self.leaving.remove(vip);
            let planned = vips::bind(vip, as_addresses, link, &view, &self.bindings);
            owners.extend(std::iter::repeat_n(vip, planned.len()));
            ops.extend(planned);
        }
        let failed = self.apply_link_ops(&ops, &owners, outcome);
        for vip in owners.into_iter().filter(|vip| !failed.contains(vip)) {
            vips::note_bound(vip, as_addresses, &view, &mut self.bindings);
        }
    }

    /// What the link has beyond what is asked for: VIPs of nobody, and addresses where routes are in use.
    fn find_stale_vips(&mut self, as_addresses: bool, now: Duration, outcome: &Outcome) {
        let wanted: BTreeSet<IpAddr> = self.book.bound().copied().collect();
        let have: BTreeSet<IpAddr> =
            self.bindings.addresses.iter().chain(self.bindings.routes.keys()).copied().collect();
        have.difference(&wanted).for_each(|vip| self.leaving.add(*vip, outcome.generation, now));
        if !as_addresses {
            self.surplus_addresses = self.bindings.addresses.intersection(&wanted).copied().collect();
        } else {
            self.surplus_addresses.clear();
        }
    }

    /// Unbind VIPs that nobody asks for, that nobody is sent to and that carry no virtual server any more.
    pub(super) fn unbind_vips(&mut self, now: Duration, outcome: &mut Outcome) {
        let Some(link) = self.link else { return };
        let mut free = self.leaving.free(now);
        free.retain(|vip| !self.has_virtual_server(*vip));
        let mut ops = Vec::new();
        let mut owners = Vec::new();
        for vip in &free {
            let planned = vips::unbind(*vip, link, &self.bindings);
            owners.extend(std::iter::repeat_n(*vip, planned.len()));
            ops.extend(planned);
        }
        for vip in std::mem::take(&mut self.surplus_addresses) {
            ops.push(vips::drop_address(vip, link));
            owners.push(vip);
            self.bindings.addresses.remove(&vip);
        }
        let failed = self.apply_link_ops(&ops, &owners, outcome);
        for vip in free.into_iter().filter(|vip| !failed.contains(vip)) {
            self.leaving.remove(vip);
            self.bindings.addresses.remove(&vip);
            self.bindings.routes.remove(&vip);
        }
    }

    /// Apply ops, each of which belongs to the VIP at its place in `owners`. Returns the VIPs that failed.
    fn apply_link_ops(&mut self, ops: &[Op], owners: &[IpAddr], outcome: &mut Outcome) -> BTreeSet<IpAddr> {
        let mut failed = BTreeSet::new();
        if ops.is_empty() {
            return failed;
        }
        outcome.ops += ops.len();
        for (result, vip) in self.kernel.rtnl.apply(ops).into_iter().zip(owners) {
            if let Err(error) = or_already_so(result) {
                outcome.fail(format!("vip {vip}"), error);
                failed.insert(*vip);
            }
        }
        failed
    }
}

/// The links that carry the node's own traffic: those with a global address that are not loopback, ours, or of a
/// container runtime.
fn uplinks(links: &[Link], addresses: &[crate::kernel::rtnl::Address]) -> Vec<String> {
    const VIRTUAL: [&str; 9] = ["kube-", "docker", "cni", "veth", "cali", "flannel", "tun-", "lxc", "virbr"];
    let has_global = |link: &Link| addresses.iter().any(|address| address.link == link.index && address.scope == 0);
    links
        .iter()
        .filter(|link| !link.loopback && link.kind != "dummy")
        .filter(|link| !VIRTUAL.iter().any(|prefix| link.name.starts_with(prefix)))
        .filter(|link| has_global(link))
        .map(|link| link.name.clone())
        .collect()
}

/// "It already is so" is success.
pub(super) fn or_already_so(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.disposition() == Disposition::AlreadySo => Ok(()),
        other => other,
    }
}
