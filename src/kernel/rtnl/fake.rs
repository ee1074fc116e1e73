//! A small kernel for tests: links, addresses, routes and rules in memory, with the side effects they have on each
//! other in Linux.
//!
//! Left out: secondary IPv4 addresses, broadcast and multicast routes, link-local addresses.

use std::net::IpAddr;

use super::client::refusal;
use super::{
    Address, LONGEST_NAME, Link, Neighbour, NextHop, Op, Route, RouteFilter, RouteKind, Rtnl, Rule, Tunnel, protocol,
    table,
};
use crate::kernel::error::Error;
use crate::kernel::netlink::{Fault, Refusal};
use crate::net::{Family, host_prefix};

const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
/// Least and greatest MTU of a link here, bytes (ETH_MIN_MTU, ETH_MAX_MTU).
const MTUS: std::ops::RangeInclusive<u32> = 68..=65535;
/// What metric 0 becomes in IPv6.
const IPV6_DEFAULT_METRIC: u32 = 1024;
/// Scope of whatever this host answers itself (RT_SCOPE_HOST).
const HOST: u8 = 254;
/// Scope of what is on the link (RT_SCOPE_LINK).
const LINK: u8 = 253;

/// One imagined network namespace; it begins with the loopback link, which is down.
#[derive(Clone, Debug)]
pub struct FakeRtnl {
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// With the metrics the kernel uses inside.
    routes: Vec<Route>,
    rules: Vec<Rule>,
    neighbours: Vec<Neighbour>,
    next_index: u32,
    fail_next: Option<i32>,
    applied: Vec<Op>,
    dumps: Vec<RouteFilter>,
}

impl Default for FakeRtnl {
    fn default() -> FakeRtnl {
        FakeRtnl::new()
    }
}

impl FakeRtnl {
    /// A namespace as it is made.
    pub fn new() -> FakeRtnl {
        let loopback = Link {
            index: 1,
            name: "lo".to_owned(),
            kind: String::new(),
            up: false,
            carrier: false,
            no_arp: false,
            loopback: true,
            mtu: 65536,
            master: None,
            tunnel: None,
        };
        let rule =
            |family, priority, table| Rule { protocol: protocol::KERNEL, ..Rule::to_table(family, priority, table) };
        let rules = vec![
            rule(Family::V4, 0, table::LOCAL),
            rule(Family::V4, 32766, table::MAIN),
            rule(Family::V4, 32767, 253),
            rule(Family::V6, 0, table::LOCAL),
            rule(Family::V6, 32766, table::MAIN),
        ];
        FakeRtnl {
            links: vec![loopback],
            addresses: Vec::new(),
            routes: Vec::new(),
            rules,
            neighbours: Vec::new(),
            next_index: 2,
            fail_next: None,
            applied: Vec::new(),
            dumps: Vec::new(),
        }
    }

    /// The next op fails with this error number, and changes nothing.
    pub fn fail_next(&mut self, errno: i32) {
        self.fail_next = Some(errno);
    }

    /// Every op that took effect, oldest first.
    pub fn applied(&self) -> &[Op] {
        &self.applied
    }

    /// Every reading of routes, oldest first, by what it asked for.
    pub fn route_dumps(&self) -> &[RouteFilter] {
        &self.dumps
    }

    /// Somebody else makes a link of any kind, which is up. Returns its index.
    pub fn put_link(&mut self, name: &str, kind: &str) -> u32 {
        let index = self.new_link(name, kind, 1500, false);
        self.set_up(index, true);
        index
    }

    /// A cable is pulled out, or put in: the link stays up.
    pub fn set_carrier(&mut self, index: u32, carrier: bool) {
        self.links.iter_mut().filter(|link| link.index == index).for_each(|link| link.carrier = carrier);
    }

    /// Somebody else adds an address, with what the kernel adds to it; false where the kernel refuses.
    pub fn put_address(&mut self, address: Address) -> bool {
        self.add_address(&address).is_ok()
    }

    /// A neighbour answers.
    pub fn put_neighbour(&mut self, neighbour: Neighbour) {
        self.neighbours.push(neighbour);
    }

    /// Somebody else adds a route, whatever it is.
    pub fn put_route(&mut self, route: Route) {
        self.routes.push(inside(&route));
    }

    fn new_link(&mut self, name: &str, kind: &str, mtu: u32, no_arp: bool) -> u32 {
        let index = self.next_index;
        self.next_index += 1;
        let (name, kind) = (name.to_owned(), kind.to_owned());
        let (up, carrier, loopback, master, tunnel) = (false, false, false, None, None);
        let link = Link { index, name, kind, up, carrier, no_arp, loopback, mtu, master, tunnel };
        self.links.push(link);
        index
    }

    fn add_tunnel(&mut self, name: &str, tunnel: Tunnel) -> Result<(), i32> {
        self.free_name(name)?;
        // One tunnel for each pair of ends; an IPv6 one must have an end.
        let ends = |tunnel: &Tunnel| (tunnel.local, tunnel.remote);
        if self.links.iter().filter_map(|link| link.tunnel.as_ref()).any(|other| ends(other) == ends(&tunnel)) {
            return Err(Refusal::EEXIST);
        }
        let inner = match tunnel.local {
            IpAddr::V4(_) => 1480,
            IpAddr::V6(_) => 1460,
        };
        // UDP and GUE have 8 and 4 bytes.
        let index = self.new_link(name, tunnel.kind(), if tunnel.gue.is_some() { inner - 12 } else { inner }, true);
        if let Some(link) = self.links.iter_mut().find(|link| link.index == index) {
            link.tunnel = Some(tunnel);
        }
        Ok(())
    }

    fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), i32> {
        let link = self.links.iter_mut().find(|link| link.index == index).ok_or(Refusal::ENODEV)?;
        if !MTUS.contains(&mtu) {
            return Err(Refusal::EINVAL);
        }
        link.mtu = mtu;
        Ok(())
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), i32> {
        if let Some(errno) = self.fail_next.take() {
            return Err(errno);
        }
        match op {
            Op::AddDummy { name } => {
                self.free_name(name)?;
                self.new_link(name, "dummy", 1500, true);
                Ok(())
            }
            Op::AddBridge { name, mtu } => {
                self.free_name(name)?;
                if mtu.is_some_and(|mtu| !MTUS.contains(&mtu)) {
                    return Err(Refusal::EINVAL);
                }
                self.new_link(name, "bridge", mtu.unwrap_or(1500), false);
                Ok(())
            }
            Op::AddTunnel { name, tunnel } => self.add_tunnel(name, *tunnel),
            Op::SetMtu { link, mtu } => self.set_mtu(*link, *mtu),
            Op::DeleteLink { link } => self.delete_link(*link),
            Op::SetUp { link, up } => {
                self.link(*link)?;
                self.set_up(*link, *up);
                Ok(())
            }
            Op::AddAddress(address) => self.add_address(address),
            Op::DeleteAddress(address) => self.delete_address(address),
            Op::ReplaceRoute(route) => self.replace_route(route),
            Op::DeleteRoute(route) => self.delete_route(route),
            Op::AddRule(rule) if self.rules.iter().any(|other| other == rule && other.protocol == rule.protocol) => {
                Err(Refusal::EEXIST)
            }
            Op::AddRule(rule) => {
                self.rules.push(*rule);
                Ok(())
            }
            Op::DeleteRule(rule) => {
                let at = self.rules.iter().position(|other| other == rule).ok_or(Refusal::ENOENT)?;
                self.rules.remove(at);
                Ok(())
            }
        }
    }

    fn link(&self, index: u32) -> Result<&Link, i32> {
        self.links.iter().find(|link| link.index == index).ok_or(Refusal::ENODEV)
    }

    fn free_name(&self, name: &str) -> Result<(), i32> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(Refusal::EINVAL);
        }
        let taken = self.links.iter().any(|link| link.name == name);
        if taken { Err(Refusal::EEXIST) } else { Ok(()) }
    }

    fn delete_link(&mut self, index: u32) -> Result<(), i32> {
        if self.link(index)?.loopback {
            return Err(Refusal::EOPNOTSUPP);
        }
        self.links.retain(|link| link.index != index);
        for link in self.links.iter_mut().filter(|link| link.master == Some(index)) {
            link.master = None;
        }
        let mut gone = Vec::new();
        self.addresses.retain(|address| {
            let stays = address.link != index;
            if !stays {
                gone.push(*address);
            }
            stays
        });
        self.routes.retain_mut(|route| stays_without(route, index));
        for address in gone {
            self.forget_source(address.prefix.addr());
        }
        Ok(())
    }

    fn set_up(&mut self, index: u32, up: bool) {
        let Some(link) = self.links.iter_mut().find(|link| link.index == index) else { return };
        if link.up == up {
            return;
        }
        (link.up, link.carrier) = (up, up);
        if up {
            let addresses: Vec<Address> = self.addresses.iter().filter(|a| a.link == index).copied().collect();
            for address in addresses {
                self.routes_of_address(&address, true).into_iter().for_each(|route| self.insert(route));
            }
            return;
        }
        // IPv6 forgets all about a link that goes down; IPv4 goes on answering for the host's own addresses.
        self.addresses.retain(|address| address.link != index || address.prefix.addr().is_ipv4());
        self.routes.retain_mut(|route| {
            let ipv4 = route.destination.addr().is_ipv4();
            stays_without(route, index) || (ipv4 && route.kind == RouteKind::Local && route.scope == HOST)
        });
    }

    fn add_address(&mut self, address: &Address) -> Result<(), i32> {
        let up = self.link(address.link)?.up;
        let same = |other: &Address| {
            let (old, new) = (other.prefix, address.prefix);
            // IPv6 knows an address once for each link, whatever its length.
            other.link == address.link && if new.addr().is_ipv4() { old == new } else { old.addr() == new.addr() }
        };
        if self.addresses.iter().any(same) {
            return Err(Refusal::EEXIST);
        }
        let scope = if address.prefix.addr().is_ipv6() { 0 } else { address.scope };
        let address = Address { scope, ..*address };
        self.addresses.push(address);
        self.routes_of_address(&address, up).into_iter().for_each(|route| self.insert(route));
        Ok(())
    }

    fn delete_address(&mut self, address: &Address) -> Result<(), i32> {
        self.link(address.link)?;
        let at = self
            .addresses
            .iter()
            .position(|other| other.link == address.link && other.prefix == address.prefix)
            .ok_or(Refusal::EADDRNOTAVAIL)?;
        let gone = self.addresses.remove(at);
        let its_own = self.routes_of_address(&gone, true);
        self.routes.retain(|route| !its_own.contains(route));
        self.forget_source(gone.prefix.addr());
        Ok(())
    }

    /// What the kernel adds for an address on a link.
    fn routes_of_address(&self, address: &Address, up: bool) -> Vec<Route> {
        let ip = address.prefix.addr();
        let local = Route {
            table: table::LOCAL,
            destination: host_prefix(ip),
            kind: RouteKind::Local,
            protocol: protocol::KERNEL,
            scope: if ip.is_ipv4() { HOST } else { 0 },
            link: Some(address.link),
            gateway: None,
            next_hops: Vec::new(),
            source: ip.is_ipv4().then_some(ip),
            metric: 0,
        };
        if ip.is_ipv6() {
            return Vec::from_iter(up.then_some(local));
        }
        let connected = Route {
            table: table::MAIN,
            destination: address.prefix.trunc(),
            kind: RouteKind::Unicast,
            scope: LINK,
            ..local.clone()
        };
        let subnet = up && address.prefix.prefix_len() < Family::V4.host_length();
        Vec::from_iter([Some(local), subnet.then_some(connected)].into_iter().flatten())
    }

    /// Routes that prefer an address nobody has any more: IPv4 drops them, IPv6 only the preference.
    fn forget_source(&mut self, address: IpAddr) {
        if self.addresses.iter().any(|other| other.prefix.addr() == address) {
            return;
        }
        if address.is_ipv4() {
            self.routes.retain(|route| route.source != Some(address));
        }
        for route in self.routes.iter_mut().filter(|route| route.source == Some(address)) {
            route.source = None;
        }
    }

    fn replace_route(&mut self, route: &Route) -> Result<(), i32> {
        let mut route = inside(route);
        self.check_link(&mut route)?;
        if let Some(source) = route.source {
            let local = |other: &Route| other.kind == RouteKind::Local && other.destination.contains(&source);
            let known = self.addresses.iter().any(|address| address.prefix.addr() == source);
            let answered = source.is_ipv4() && self.routes.iter().any(local);
            if !known && !answered {
                return Err(Refusal::EINVAL);
            }
        }
        self.insert(route);
        Ok(())
    }

    fn check_link(&self, route: &mut Route) -> Result<(), i32> {
        if route.kind.is_dead_end() {
            route.link = None;
            return Ok(());
        }
        // Only what IPv4 answers itself may be on a link that is down.
        let answered = route.destination.addr().is_ipv4() && route.scope == HOST;
        let mut hops = route.hops();
        if hops.is_empty() {
            return Err(Refusal::ENODEV);
        }
        for hop in &mut hops {
            self.check_hop(hop, answered)?;
        }
        route.set_hops(hops);
        Ok(())
    }

    /// Whether a hop can be taken, and through which link.
    fn check_hop(&self, hop: &mut NextHop, answered: bool) -> Result<(), i32> {
        if let Some(gateway) = hop.gateway {
            let on_link = |other: &&Route| {
                other.kind == RouteKind::Unicast && other.gateway.is_none() && other.destination.contains(&gateway)
            };
            let through = self.routes.iter().filter(|other| hop.link.is_none() || other.link == hop.link);
            // What is link-local is on every link.
            let link_local = matches!(gateway, IpAddr::V6(six) if six.is_unicast_link_local()) && hop.link.is_some();
            if !link_local {
                hop.link = through.clone().find(on_link).ok_or(ENETUNREACH)?.link;
            }
        }
        let Some(index) = hop.link else { return Err(Refusal::ENODEV) };
        if self.link(index)?.up || answered { Ok(()) } else { Err(ENETDOWN) }
    }

    /// Adds a route in place of the one with the same table, destination and metric.
    fn insert(&mut self, route: Route) {
        let key = |route: &Route| (route.table, route.destination, route.metric);
        match self.routes.iter_mut().find(|other| key(other) == key(&route)) {
            Some(other) => *other = route,
            None => self.routes.push(route),
        }
    }

    fn delete_route(&mut self, route: &Route) -> Result<(), i32> {
        let wanted = inside(route);
        let matches = |other: &Route| {
            (other.table, other.destination, other.kind) == (wanted.table, wanted.destination, wanted.kind)
                && (other.protocol, other.scope) == (wanted.protocol, wanted.scope)
                && wanted.link.is_none_or(|link| other.link == Some(link))
                && wanted.gateway.is_none_or(|gateway| other.gateway == Some(gateway))
                && (wanted.next_hops.is_empty() || same_hops(&wanted.next_hops, &other.next_hops))
                && wanted.source.is_none_or(|source| other.source == Some(source))
                && (route.metric == 0 || other.metric == wanted.metric)
        };
        let at = self.routes.iter().position(matches).ok_or(Refusal::ESRCH)?;
        self.routes.remove(at);
        Ok(())
    }
}

/// Takes a link that is gone or down out of a route; false where nothing is left of it.
///
/// IPv4 keeps such a hop and marks it dead, until none is left alive; IPv6 forgets it.
fn stays_without(route: &mut Route, link: u32) -> bool {
    if route.next_hops.is_empty() {
        return route.link != Some(link);
    }
    let left = || route.next_hops.iter().filter(|hop| hop.link != Some(link)).copied();
    if left().next().is_none() {
        return false;
    }
    if route.destination.addr().is_ipv6() {
        route.set_hops(left().collect());
    }
    true
}

/// Whether the hops asked for are those of a route, whose links are known.
fn same_hops(wanted: &[NextHop], there: &[NextHop]) -> bool {
    let same = |wanted: &NextHop, hop: &NextHop| {
        wanted.gateway == hop.gateway && (wanted.link.is_none() || wanted.link == hop.link)
    };
    wanted.len() == there.len() && wanted.iter().all(|wanted| there.iter().any(|hop| same(wanted, hop)))
}

/// A route as the kernel keeps it.
fn inside(route: &Route) -> Route {
    let mut route = Route { destination: route.destination.trunc(), ..route.clone() };
    if route.destination.addr().is_ipv6() {
        route.scope = 0;
        if route.metric == 0 {
            route.metric = IPV6_DEFAULT_METRIC;
        }
    }
    route
}

/// A route as it is read back.
fn outside(route: &Route) -> Route {
    let default = route.destination.addr().is_ipv6() && route.metric == IPV6_DEFAULT_METRIC;
    Route { metric: if default { 0 } else { route.metric }, ..route.clone() }
}

impl Rtnl for FakeRtnl {
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        Ok(self.links.clone())
    }

    fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error> {
        Ok(self.addresses.iter().filter(|address| link.is_none_or(|link| link == address.link)).copied().collect())
    }

    fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        self.dumps.push(filter);
        Ok(self.routes.iter().map(outside).filter(|route| filter.admits(route)).collect())
    }

    fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        Ok(self.rules.clone())
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        Ok(self.neighbours.clone())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        ops.iter()
            .map(|op| match self.apply_one(op) {
                Ok(()) => {
                    self.applied.push(op.clone());
                    Ok(())
                }
                Err(errno) => Err(refusal(op, Fault::Refused(Refusal { errno, message: None, offset: None }))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::contract::rtnl;

    #[test]
    #[expect(clippy::print_stdout, reason = "names the promise that is broken")]
    fn keeps_every_promise() {
        for (name, promise) in rtnl::promises::<FakeRtnl>() {
            println!("{name}");
            let mut fake = FakeRtnl::new();
            let link = fake.put_link("test0", "veth");
            promise(&mut fake, link);
        }
        for (name, promise) in rtnl::link_promises::<FakeRtnl>() {
            println!("{name}");
            promise(&mut FakeRtnl::new());
        }
    }

    #[test]
    fn an_injected_failure_hits_one_op() {
        let mut fake = FakeRtnl::new();
        fake.fail_next(Refusal::ENOBUFS);
        let dummy = Op::AddDummy { name: "kube-dummy-if".into() };
        let results = fake.apply(&[dummy.clone(), dummy.clone()]);
        assert_eq!(results.first().and_then(|result| result.as_ref().err()?.errno), Some(Refusal::ENOBUFS));
        assert_eq!(results.get(1), Some(&Ok(())));
        assert_eq!(fake.applied(), [dummy]);
    }
}
