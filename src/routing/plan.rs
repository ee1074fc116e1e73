//! What of this room is in the kernel, what should be, and the ops in between (pure).
//!
//! Name plates: routes of the main table are ours by their protocol (17); table 77 is ours with all in it; rules are
//! ours where they look up table 77 by source; tunnels where an IP-in-IP link has a name as we give them. Whatever a
//! former run or kube-router left under a plate is taken over where it is as it should be, and stays until the speaker
//! says that peers have told all they have. A route of anybody else is never replaced.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Encapsulation;
use super::overlay::{Hop, KernelRoute, TABLE, TUNNEL_PREFIX, Tunnel};
use crate::kernel::fou;
use crate::kernel::rtnl::{self, Gue, Link, NextHop, Op, Route, RouteKind, Rule, protocol, table};
use crate::net::{Family, Prefix, host_prefix};
use crate::reconcile::tracker::Tracker;

/// Order of the routes that drop what no better one leads anywhere: behind whatever a network plugin adds.
pub const LAST_RESORT: u32 = 4_278_198_272;
/// Time to live of tunnels in UDP, as kube-router sets it. Those without UDP take it from the packet inside.
const UDP_TTL: u8 = 225;
/// Scope of what is on the link (RT_SCOPE_LINK).
const ON_LINK: u8 = 253;
/// The most changed routes of others that are remembered one by one.
const MOST_DOUBTFUL: usize = 4096;

/// What tells one route from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Table number.
    pub table: u32,
    /// What it matches.
    pub destination: Prefix,
    /// Its metric.
    pub metric: u32,
}

impl RouteKey {
    /// The key of a route.
    pub fn of(route: &Route) -> RouteKey {
        RouteKey { table: route.table, destination: route.destination, metric: route.metric }
    }

    /// The key of a learned route.
    pub fn learned(prefix: Prefix) -> RouteKey {
        RouteKey { table: table::MAIN, destination: prefix, metric: 0 }
    }
}

/// The routes of this room.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    tracker: Tracker<RouteKey, Route>,
    /// Left by a former run, and not asked for yet: they stay until peers have told all.
    inherited: BTreeSet<RouteKey>,
    /// Routes of others in the main table.
    foreign: BTreeSet<(Prefix, u32)>,
    /// Where others changed theirs since.
    doubtful: BTreeSet<Prefix>,
}

impl Routes {
    /// What a route should be; `None` for none.
    pub fn set_desired(&mut self, key: RouteKey, route: Option<Route>) {
        if route.is_some() {
            self.inherited.remove(&key);
        }
        self.tracker.set_desired(&key, route);
    }

    /// Believes a reading of both tables. Returns how many of our routes somebody else changed.
    pub fn observe(&mut self, main: Vec<Route>, tunnels: Vec<Route>, first: bool) -> usize {
        let (ours, others): (Vec<Route>, Vec<Route>) = main.into_iter().partition(is_ours);
        self.doubtful.clear();
        self.foreign = others.iter().map(|route| (route.destination, route.metric)).collect();
        let observed: BTreeMap<RouteKey, Route> =
            ours.into_iter().chain(tunnels).map(|route| (RouteKey::of(&route), route)).collect();
        if first {
            self.inherited = observed.keys().filter(|key| self.tracker.desired(key).is_none()).copied().collect();
        }
        let drift = self.tracker.replace_observed(observed);
        self.inherited.retain(|key| self.tracker.observed(key).is_some());
        if first { 0 } else { drift }
    }

    /// Whether somebody else has, or may have, a route to a prefix where ours would be.
    pub fn is_foreign(&self, prefix: &Prefix) -> bool {
        self.foreign.contains(&(*prefix, 0)) || self.is_doubtful(prefix)
    }

    /// Whether routes must be read before one to this prefix may be written.
    pub fn is_doubtful(&self, prefix: &Prefix) -> bool {
        self.doubtful.contains(prefix)
    }

    /// Somebody else changed a route. True where the tables must be read for it: it is one of ours, or too many others
    /// changed. Another one is looked at when a route of ours would take its place.
    pub fn heed(&mut self, key: RouteKey, maker: u8) -> bool {
        let known = self.tracker.desired(&key).is_some() || self.tracker.observed(&key).is_some();
        let in_main = key.table == table::MAIN;
        if in_main && key.metric == 0 && maker != protocol::OURS {
            self.doubtful.insert(key.destination);
        }
        let ours = known || key.table == TABLE || (in_main && maker == protocol::OURS);
        ours || self.doubtful.len() > MOST_DOUBTFUL
    }

    /// Peers have told all they have: what a former run left goes.
    pub fn settle(&mut self) {
        self.inherited.clear();
    }

    /// What to write: new and changed routes first, then those that go.
    pub fn plan(&self) -> Vec<(RouteKey, Op)> {
        let mut ops = Vec::with_capacity(self.tracker.n_pending());
        let mut removals = Vec::new();
        for key in self.tracker.pending() {
            match (self.tracker.desired(key), self.tracker.observed(key)) {
                (Some(route), _) => ops.push((*key, Op::ReplaceRoute(route.clone()))),
                (None, Some(route)) if !self.inherited.contains(key) => {
                    removals.push((*key, Op::DeleteRoute(route.clone())));
                }
                (None, _) => {}
            }
        }
        ops.append(&mut removals);
        ops
    }

    /// An op of the plan was done.
    pub fn done(&mut self, key: &RouteKey) {
        let desired = self.tracker.desired(key).cloned();
        self.tracker.set_observed(key, desired);
    }

    /// Routes, desired and observed.
    pub fn tracker(&self) -> &Tracker<RouteKey, Route> {
        &self.tracker
    }

    /// How many routes a former run left that nobody asked for yet.
    pub fn n_inherited(&self) -> usize {
        self.inherited.len()
    }
}

fn is_ours(route: &Route) -> bool {
    route.protocol == protocol::OURS
}

/// A kernel route with the numbers of its links; `None` while a link it needs is not there. `gateways` are the node's
/// addresses with the links they are on.
pub fn route(route: &KernelRoute, links: &BTreeMap<String, u32>, gateways: &[rtnl::Address]) -> Option<Route> {
    let hops: Vec<NextHop> = route.hops.iter().filter_map(|hop| next_hop(hop, links, gateways)).collect();
    if hops.is_empty() {
        return None;
    }
    let on_link = route.destination.addr().is_ipv4() && hops.iter().all(|hop| hop.gateway.is_none());
    let mut made = Route {
        scope: if on_link { ON_LINK } else { 0 },
        source: route.source,
        ..plain(route.table, route.destination, RouteKind::Unicast, 0)
    };
    made.set_hops(hops);
    Some(made)
}

/// A hop with the number of its link; `None` while that is not there.
pub fn next_hop(hop: &Hop, links: &BTreeMap<String, u32>, gateways: &[rtnl::Address]) -> Option<NextHop> {
    match hop {
        Hop::Gateway(gateway) => {
            let around = gateways.iter().filter(|address| address.prefix.contains(gateway));
            let nearest = around.max_by_key(|address| address.prefix.prefix_len())?;
            Some(NextHop { link: Some(nearest.link), gateway: Some(*gateway), weight: 1 })
        }
        Hop::Tunnel(name) => Some(NextHop { link: Some(*links.get(name)?), gateway: None, weight: 1 }),
    }
}

/// A route that drops packets, in order behind every other to the same prefix.
pub fn last_resort(prefix: Prefix) -> Route {
    plain(table::MAIN, prefix, RouteKind::Blackhole, LAST_RESORT)
}

/// A route that drops packets because a peer asked for it (RFC 7999).
pub fn black_hole(prefix: Prefix) -> Route {
    plain(table::MAIN, prefix, RouteKind::Blackhole, 0)
}

fn plain(table: u32, destination: Prefix, kind: RouteKind, metric: u32) -> Route {
    Route {
        table,
        destination,
        kind,
        protocol: protocol::OURS,
        scope: 0,
        link: None,
        gateway: None,
        next_hops: Vec::new(),
        source: None,
        metric,
    }
}

/// The link a tunnel should be.
pub fn tunnel_link(tunnel: &Tunnel) -> rtnl::Tunnel {
    let plain = rtnl::Tunnel::plain(tunnel.local, Some(tunnel.remote));
    match tunnel.encapsulation {
        Encapsulation::Ipip => plain,
        Encapsulation::Fou { port } => rtnl::Tunnel { ttl: UDP_TTL, gue: Some(Gue { port }), ..plain },
    }
}

/// The address the tunnel's link carries.
pub fn tunnel_address(tunnel: &Tunnel, link: u32) -> rtnl::Address {
    rtnl::Address { link, prefix: host_prefix(tunnel.local), scope: 0 }
}

/// Whether a link is a tunnel of ours or of kube-router.
pub fn is_our_tunnel(link: &Link) -> bool {
    let digits = link.name.strip_prefix(TUNNEL_PREFIX);
    let named = digits.is_some_and(|digits| digits.len() == 11 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    named && link.tunnel.is_some()
}

/// What makes tunnels: those that are another's than they should be go first, then missing ones come. The second part
/// belongs to links that are there. Whoever applies ops of the first part reads links again and asks again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkPlan {
    /// Links to remove and to make, with the tunnel's name.
    pub make: Vec<(String, Op)>,
    /// What is to be set on links that are there.
    pub set: Vec<(String, Op)>,
    /// Tunnels whose name another kind of link has.
    pub taken: Vec<String>,
}

/// Compares tunnels with links. `inner` are the addresses of tunnels, each with its link.
///
/// Each tunnel carries this node's end as a host address: what the node itself sends in has that source, which the other
/// end answers through a tunnel, and the kernel checks sources on the link loosely (`__fib_validate_source` of
/// `net/ipv4/fib_frontend.c` drops on a link without any address what it would send back by another link).
pub fn links<'a>(
    tunnels: impl IntoIterator<Item = &'a Tunnel>,
    links: &[Link],
    inner: &BTreeSet<(u32, Prefix)>,
) -> LinkPlan {
    let by_name: BTreeMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut plan = LinkPlan::default();
    let mut missing = Vec::new();
    for tunnel in tunnels {
        let wanted = tunnel_link(tunnel);
        let add = Op::AddTunnel { name: tunnel.name.clone(), tunnel: wanted };
        let Some(link) = by_name.get(tunnel.name.as_str()) else {
            missing.push((tunnel.name.clone(), add));
            continue;
        };
        let Some(found) = link.tunnel else {
            plan.taken.push(tunnel.name.clone());
            continue;
        };
        // The time to live does not matter to the other end: one that is otherwise right is taken over.
        if (found.local, found.remote, found.gue) != (wanted.local, wanted.remote, wanted.gue) {
            plan.make.push((tunnel.name.clone(), Op::DeleteLink { link: link.index }));
            missing.push((tunnel.name.clone(), add));
            continue;
        }
        if link.mtu != tunnel.mtu {
            plan.set.push((tunnel.name.clone(), Op::SetMtu { link: link.index, mtu: tunnel.mtu }));
        }
        if !link.up {
            plan.set.push((tunnel.name.clone(), Op::SetUp { link: link.index, up: true }));
        }
        let address = tunnel_address(tunnel, link.index);
        if !inner.contains(&(address.link, address.prefix)) {
            plan.set.push((tunnel.name.clone(), Op::AddAddress(address)));
        }
    }
    plan.make.append(&mut missing);
    plan
}

/// Tunnels nobody wants any more.
pub fn stale_links(wanted: &BTreeSet<&str>, links: &[Link]) -> Vec<(String, Op)> {
    links
        .iter()
        .filter(|link| is_our_tunnel(link) && !wanted.contains(link.name.as_str()))
        .map(|link| (link.name.clone(), Op::DeleteLink { link: link.index }))
        .collect()
}

/// The ports on which tunnels in UDP arrive.
pub fn ports<'a>(tunnels: impl IntoIterator<Item = &'a Tunnel>) -> BTreeSet<fou::Port> {
    let port = |tunnel: &Tunnel| match tunnel.encapsulation {
        Encapsulation::Fou { port } => Some(fou::Port { family: Family::of(tunnel.local), number: port }),
        Encapsulation::Ipip => None,
    };
    tunnels.into_iter().filter_map(port).collect()
}

/// Whether a rule is ours: kube-router leaves its priority to the kernel, so the table decides.
pub fn is_our_rule(rule: &Rule) -> bool {
    rule.table == TABLE && rule.from.is_some() && rule.mark.is_none() && rule.iif.is_none()
}

/// What brings the rules to what they should be: new ones first.
pub fn rules(desired: &BTreeSet<Rule>, observed: &[Rule]) -> Vec<Op> {
    let there: BTreeSet<Rule> = observed.iter().copied().collect();
    let missing = desired.difference(&there).map(|rule| Op::AddRule(*rule));
    let stale = observed.iter().filter(|rule| is_our_rule(rule) && !desired.contains(rule));
    missing.chain(stale.map(|rule| Op::DeleteRule(*rule))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::overlay::tunnel_name;
    use crate::testing::builders::{ip, prefix};

    fn gateway(destination: &str, via: &str) -> Route {
        let mut made = plain(table::MAIN, prefix(destination), RouteKind::Unicast, 0);
        made.set_hops(vec![NextHop { link: Some(2), gateway: Some(ip(via)), weight: 1 }]);
        made
    }

    fn tunnel(remote: &str) -> Tunnel {
        Tunnel {
            name: tunnel_name(ip(remote)),
            local: ip("192.168.10.11"),
            remote: ip(remote),
            encapsulation: Encapsulation::Ipip,
            mtu: 1480,
        }
    }

    fn link(index: u32, name: &str, tunnel: Option<rtnl::Tunnel>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: if tunnel.is_some() { "ipip" } else { "dummy" }.to_owned(),
            up: true,
            carrier: true,
            no_arp: true,
            loopback: false,
            mtu: 1480,
            master: None,
            tunnel,
        }
    }

    fn texts(ops: impl IntoIterator<Item = Op>) -> Vec<String> {
        ops.into_iter().map(|op| op.to_string()).collect()
    }

    #[test]
    fn what_a_former_run_left_is_adopted_or_waits_until_peers_have_told_all() {
        let mut routes = Routes::default();
        let (kept, stale) = (gateway("10.244.2.0/24", "192.168.10.12"), gateway("10.244.9.0/24", "192.168.10.19"));
        let foreign = Route { protocol: protocol::STATIC, ..gateway("172.16.0.0/12", "192.168.10.1") };
        assert_eq!(routes.observe(vec![kept.clone(), stale.clone(), foreign], Vec::new(), true), 0);
        assert!(routes.is_foreign(&prefix("172.16.0.0/12")) && !routes.is_foreign(&prefix("10.244.2.0/24")));
        assert!(routes.plan().is_empty(), "nothing is known yet");
        routes.set_desired(RouteKey::of(&kept), Some(kept.clone()));
        assert!(routes.plan().is_empty(), "it is there");
        routes.set_desired(RouteKey::of(&kept), None);
        let ops: Vec<Op> = routes.plan().into_iter().map(|(_, op)| op).collect();
        assert_eq!(ops, [Op::DeleteRoute(kept)], "this one was told and withdrawn");
        routes.settle();
        assert_eq!(routes.plan().len(), 2);
        assert_eq!(routes.plan()[1].1, Op::DeleteRoute(stale));
    }

    #[test]
    fn routes_that_somebody_removed_come_back() {
        let mut routes = Routes::default();
        let wanted = gateway("10.244.2.0/24", "192.168.10.12");
        let key = RouteKey::of(&wanted);
        routes.observe(Vec::new(), Vec::new(), true);
        routes.set_desired(key, Some(wanted.clone()));
        routes.done(&key);
        assert!(routes.plan().is_empty());
        assert_eq!(routes.observe(Vec::new(), Vec::new(), false), 1);
        assert_eq!(routes.plan(), [(key, Op::ReplaceRoute(wanted))]);
    }

    #[test]
    fn hops_get_the_links_they_are_on() {
        let addresses = [
            rtnl::Address { link: 2, prefix: prefix("192.168.10.11/24"), scope: 0 },
            rtnl::Address { link: 3, prefix: prefix("192.168.10.65/26"), scope: 0 },
        ];
        let links = BTreeMap::from([("tun-a".to_owned(), 7)]);
        let made = |hops: &[Hop]| {
            let hops = hops.iter().cloned().collect();
            let wanted = KernelRoute { table: table::MAIN, destination: prefix("10.9.0.0/16"), hops, source: None };
            route(&wanted, &links, &addresses).map(|route| route.to_string())
        };
        let (near, far) = (Hop::Gateway(ip("192.168.10.1")), Hop::Gateway(ip("192.168.10.70")));
        let inside = Hop::Tunnel("tun-a".to_owned());
        assert_eq!(
            made(std::slice::from_ref(&near)).unwrap(),
            "10.9.0.0/16 via 192.168.10.1 dev if2 table main proto 17"
        );
        assert_eq!(
            made(std::slice::from_ref(&far)).unwrap(),
            "10.9.0.0/16 via 192.168.10.70 dev if3 table main proto 17"
        );
        assert_eq!(made(std::slice::from_ref(&inside)).unwrap(), "10.9.0.0/16 dev if7 table main proto 17 scope link");
        let both = made(&[near, inside]).unwrap();
        assert!(both.contains("nexthop via 192.168.10.1 dev if2") && both.contains("nexthop dev if7"), "{both}");
        assert!(!both.contains("scope"), "{both}");
        assert_eq!(made(&[Hop::Tunnel("tun-b".to_owned())]), None, "its link is not there yet");
    }

    #[test]
    fn tunnels_are_adopted_made_again_or_removed() {
        let (right, wrong, missing) = (tunnel("192.168.30.1"), tunnel("192.168.30.2"), tunnel("192.168.30.3"));
        let moved = rtnl::Tunnel { local: ip("192.168.10.99"), ..tunnel_link(&wrong) };
        let old = tunnel_name(ip("192.168.30.9"));
        let there = [
            link(5, &right.name, Some(rtnl::Tunnel { ttl: 64, ..tunnel_link(&right) })),
            link(6, &wrong.name, Some(moved)),
            link(7, &old, Some(rtnl::Tunnel::plain(ip("192.168.10.11"), Some(ip("192.168.30.9"))))),
            link(8, "tun-vpn", Some(rtnl::Tunnel::plain(ip("192.168.10.11"), None))),
            link(9, "tun-0123456789a", None),
        ];
        let wanted = [&right, &wrong, &missing];
        let own = |link: u32| BTreeSet::from([(link, prefix("192.168.10.11/32"))]);
        let plan = links(wanted, &there, &own(5));
        assert_eq!(plan.make.len(), 3);
        assert_eq!(
            plan.make[0],
            (wrong.name.clone(), Op::DeleteLink { link: 6 }),
            "it must go before its ends are free"
        );
        assert!(plan.set.is_empty() && plan.taken.is_empty());
        let names: BTreeSet<&str> = wanted.iter().map(|tunnel| tunnel.name.as_str()).collect();
        assert_eq!(stale_links(&names, &there), [(old, Op::DeleteLink { link: 7 })], "links of others stay");
        let shut = Link { up: false, mtu: 1400, ..link(5, &right.name, Some(tunnel_link(&right))) };
        let set = links([&right], &[shut], &own(6)).set.into_iter().map(|(_, op)| op);
        let ops = ["ip link set dev if5 mtu 1480", "ip link set dev if5 up", "ip address add 192.168.10.11/32 dev if5"];
        assert_eq!(texts(set), ops);
        let taken = links([&right], &[link(5, &right.name, None)], &own(6));
        assert_eq!(taken.taken, [right.name]);
    }

    #[test]
    fn rules_of_kube_router_are_replaced_and_those_of_others_left() {
        let ours = Rule { from: Some(prefix("10.244.1.0/24")), ..Rule::to_table(Family::V4, 32_763, TABLE) };
        let theirs = Rule { priority: 32_765, protocol: 3, ..ours };
        let foreign = Rule { table: 78, ..ours };
        let desired = BTreeSet::from([ours]);
        let ops = rules(&desired, &[theirs, foreign]);
        assert_eq!(ops, [Op::AddRule(ours), Op::DeleteRule(theirs)]);
        assert!(rules(&desired, &[ours, foreign]).is_empty());
    }
}
