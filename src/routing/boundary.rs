//! Which learned routes enter the kernel (pure).
//!
//! A learned route that would lead node, Service or pod addresses of the cluster elsewhere is refused with a
//! [`Refusal`], unless it is inside a prefix the operator allowed. Every question costs look-ups, not a walk: there may
//! be ten thousand VIPs and as many routes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use imbl::OrdMap;

use super::config::{Config, OverlayScope};
use super::overlay::{Hop, KernelRoute, Reach, Tunnel, reach};
use crate::kernel::rtnl::table;
use crate::model::{NodeName, Snapshot};
use crate::net::{Family, Prefix};

/// Why a learned route or one of its next hops does not enter the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It would lead a node's address elsewhere.
    NodeAddress(IpAddr),
    /// It would lead Service addresses elsewhere.
    ServiceRange(Prefix),
    /// It would lead a VIP elsewhere.
    Vip(IpAddr),
    /// It would lead pods of this node elsewhere.
    OwnPods(Prefix),
    /// It would lead pods of another node elsewhere than to that node.
    PodsOf(NodeName),
    /// The next hop is IPv4 and the route IPv6.
    OtherFamily(IpAddr),
    /// The next hop is this node.
    OwnNextHop(IpAddr),
    /// The next hop is neither on a link of this node nor a node to tunnel to.
    UnreachableNextHop(IpAddr),
    /// There is a route of somebody else to the same prefix.
    Foreign,
}

impl Refusal {
    /// Whether `--allowed-import-prefixes` would let the route in.
    pub fn is_guard(&self) -> bool {
        match self {
            Refusal::NodeAddress(_)
            | Refusal::ServiceRange(_)
            | Refusal::Vip(_)
            | Refusal::OwnPods(_)
            | Refusal::PodsOf(_) => true,
            Refusal::OtherFamily(_) | Refusal::OwnNextHop(_) | Refusal::UnreachableNextHop(_) | Refusal::Foreign => {
                false
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NodeAddress(address) => write!(f, "would lead node address {address} elsewhere"),
            Refusal::ServiceRange(range) => write!(f, "would lead service addresses {range} elsewhere"),
            Refusal::Vip(vip) => write!(f, "would lead VIP {vip} elsewhere"),
            Refusal::OwnPods(prefix) => write!(f, "would lead pods of this node {prefix} elsewhere"),
            Refusal::PodsOf(node) => write!(f, "would lead pods of node {node} elsewhere"),
            Refusal::OtherFamily(address) => write!(f, "next hop {address} is of another family"),
            Refusal::OwnNextHop(address) => write!(f, "next hop {address} is this node"),
            Refusal::UnreachableNextHop(address) => {
                write!(f, "next hop {address} is neither on a link nor a node of the cluster")
            }
            Refusal::Foreign => f.write_str("a route that is not ours leads there already"),
        }
    }
}

/// What learned routes are judged by. Made again when nodes change; links and VIPs come and go by themselves.
#[derive(Clone, Debug, Default)]
pub struct Boundary {
    own_name: Option<NodeName>,
    nodes: BTreeMap<IpAddr, NodeName>,
    pods: BTreeMap<Prefix, NodeName>,
    /// The lengths that pod prefixes have: few, mostly one for each family.
    pod_lengths: BTreeSet<(Family, u8)>,
    ranges: Vec<Prefix>,
    vips: BTreeSet<IpAddr>,
    allowed: Vec<Prefix>,
    own_links: Vec<Prefix>,
    scope: Option<OverlayScope>,
    tunnels: BTreeMap<IpAddr, Tunnel>,
    sources: [Option<IpAddr>; 2],
}

impl Boundary {
    /// The boundary of this cluster. `vips` are all VIPs that some node serves.
    pub fn new(
        snapshot: &Snapshot,
        config: &Config,
        vips: impl IntoIterator<Item = IpAddr>,
        own_links: &[Prefix],
        tunnels: BTreeMap<IpAddr, Tunnel>,
    ) -> Boundary {
        let nodes = snapshot.nodes.iter();
        let pods: BTreeMap<Prefix, NodeName> = nodes
            .clone()
            .flat_map(|(name, node)| node.pod_cidrs.iter().map(move |prefix| (prefix.trunc(), name.clone())))
            .collect();
        Boundary {
            own_name: Some(snapshot.node_name.clone()),
            nodes: nodes
                .flat_map(|(name, node)| node.addresses().map(move |address| (address, name.clone())))
                .collect(),
            pod_lengths: pods.keys().map(|pods| (Family::of(pods.addr()), pods.prefix_len())).collect(),
            pods,
            ranges: config.cluster_ip_ranges.clone(),
            vips: vips.into_iter().collect(),
            allowed: config.allowed_imports.clone(),
            own_links: own_links.to_vec(),
            scope: Some(config.overlay),
            tunnels,
            sources: Family::ALL.map(|family| snapshot.own_node().and_then(|node| node.best_ip(family))),
        }
    }

    /// Links or tunnels of this node are others; all else is as before.
    pub fn relink(&mut self, own_links: Vec<Prefix>, tunnels: BTreeMap<IpAddr, Tunnel>) {
        (self.own_links, self.tunnels) = (own_links, tunnels);
    }

    /// A VIP is served by some node, or by none any more. True where that is news.
    pub fn set_vip(&mut self, vip: IpAddr, served: bool) -> bool {
        if served { self.vips.insert(vip) } else { self.vips.remove(&vip) }
    }

    /// The kernel's route for a learned prefix with these next hops, or why there is none. One bad next hop of several
    /// is left out.
    pub fn install(&self, prefix: Prefix, next_hops: &[IpAddr]) -> Result<KernelRoute, Refusal> {
        let mut hops = BTreeSet::new();
        let mut refusal = None;
        for next_hop in next_hops {
            match self.judge(&prefix, *next_hop).and_then(|()| self.hop(*next_hop)) {
                Ok(hop) => {
                    hops.insert(hop);
                }
                Err(reason) => refusal = refusal.or(Some(reason)),
            }
        }
        match refusal {
            Some(refusal) if hops.is_empty() => Err(refusal),
            _ => {
                let tunnelled = hops.iter().any(|hop| matches!(hop, Hop::Tunnel(_)));
                let [v4, v6] = self.sources;
                let source = if prefix.addr().is_ipv4() { v4 } else { v6 };
                Ok(KernelRoute {
                    table: table::MAIN,
                    destination: prefix.trunc(),
                    hops,
                    source: source.filter(|_| tunnelled),
                })
            }
        }
    }

    /// Whether packets to a prefix may be dropped because a peer asks for it (RFC 7999).
    ///
    /// # Errors
    /// Whose addresses it would take.
    pub fn black_hole(&self, prefix: &Prefix) -> Result<(), Refusal> {
        self.guard(prefix, None)
    }

    /// Whether a route may lead this prefix to this next hop.
    fn judge(&self, prefix: &Prefix, next_hop: IpAddr) -> Result<(), Refusal> {
        if prefix.addr().is_ipv6() && next_hop.is_ipv4() {
            return Err(Refusal::OtherFamily(next_hop));
        }
        let owner = self.nodes.get(&next_hop);
        if owner.is_some() && owner == self.own_name.as_ref() {
            return Err(Refusal::OwnNextHop(next_hop));
        }
        self.guard(prefix, owner)
    }

    /// Whether somebody but `owner` may have this prefix.
    fn guard(&self, prefix: &Prefix, owner: Option<&NodeName>) -> Result<(), Refusal> {
        if self.allowed.iter().any(|allowed| allowed.contains(prefix)) {
            return Ok(());
        }
        if let Some((address, _)) = self.nodes.range(prefix.network()..=prefix.broadcast()).next() {
            return Err(Refusal::NodeAddress(*address));
        }
        if let Some(range) = self.ranges.iter().find(|range| range.contains(prefix) || prefix.contains(*range)) {
            return Err(Refusal::ServiceRange(*range));
        }
        if let Some(vip) = self.vips.range(prefix.network()..=prefix.broadcast()).next() {
            return Err(Refusal::Vip(*vip));
        }
        for (touched, name) in self.touched_pods(prefix) {
            if Some(name) == self.own_name.as_ref() {
                return Err(Refusal::OwnPods(*touched));
            }
            // A node may announce its pods, whole or in parts, and nobody else may.
            if owner != Some(name) || !touched.contains(prefix) {
                return Err(Refusal::PodsOf(name.clone()));
            }
        }
        Ok(())
    }

    /// Pod prefixes that have addresses in common with a prefix: those around it, and those inside.
    fn touched_pods(&self, prefix: &Prefix) -> impl Iterator<Item = (&Prefix, &NodeName)> {
        let family = Family::of(prefix.addr());
        let network = prefix.network();
        let around = self
            .pod_lengths
            .iter()
            .filter(move |(of, length)| *of == family && *length < prefix.prefix_len())
            .filter_map(move |(_, length)| Prefix::new(network, *length).ok())
            .filter_map(|wider| self.pods.get_key_value(&wider.trunc()));
        // Prefixes sort by address, then by length.
        let inside = self
            .pods
            .range(prefix.trunc()..)
            .take_while(|(pods, _)| prefix.contains(&pods.addr()))
            .filter(|(pods, _)| prefix.contains(*pods));
        around.chain(inside)
    }

    /// How a next hop is reached, whatever the route.
    ///
    /// # Errors
    /// It is not.
    pub fn hop(&self, next_hop: IpAddr) -> Result<Hop, Refusal> {
        let on_link = self.own_links.iter().any(|link| link.contains(&next_hop));
        let reached = self.scope.map(|scope| reach(scope, next_hop, &self.own_links));
        match (self.tunnels.get(&next_hop), reached) {
            (Some(tunnel), Some(Reach::Tunnel)) => Ok(Hop::Tunnel(tunnel.name.clone())),
            // A router outside the cluster is asked directly, whatever the overlay is for.
            _ if on_link => Ok(Hop::Gateway(next_hop)),
            _ => Err(Refusal::UnreachableNextHop(next_hop)),
        }
    }
}

/// The prefixes that contain this one and are wider, the default route first.
fn wider(prefix: &Prefix) -> Vec<Prefix> {
    let network = prefix.network();
    (0..prefix.prefix_len()).filter_map(|length| Prefix::new(network, length).ok().map(|wider| wider.trunc())).collect()
}

/// The prefixes of a table that contain an address.
pub fn covering<V>(routes: &OrdMap<Prefix, V>, address: IpAddr) -> Vec<Prefix> {
    let host = crate::net::host_prefix(address);
    wider(&host).into_iter().chain([host]).filter(|prefix| routes.contains_key(prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::overlay::{tunnel_name, tunnels};
    use crate::testing::builders::{cluster, ip, own_links, prefix, with_nodes};

    fn boundary(config: &Config) -> Boundary {
        let snapshot = with_nodes(cluster("n1").build());
        let tunnels = tunnels(&snapshot, config, &own_links(), 1500);
        Boundary::new(&snapshot, config, [ip("203.0.113.1")], &own_links(), tunnels)
    }

    #[test]
    fn learned_routes_enter_the_kernel_only_where_they_lead_nothing_of_the_cluster_astray() {
        let gateway = |address: &str| Ok(BTreeSet::from([Hop::Gateway(ip(address))]));
        let tunnel = |address: &str| Ok(BTreeSet::from([Hop::Tunnel(tunnel_name(ip(address)))]));
        let pods_of = |name: &str| Err(Refusal::PodsOf(NodeName::new(name)));
        let service = |range: &str| Err(Refusal::ServiceRange(prefix(range)));
        type Answer = Result<BTreeSet<Hop>, Refusal>;
        let cases: [(&str, &str, Answer); 18] = [
            ("10.244.2.0/24", "192.168.10.12", gateway("192.168.10.12")),
            ("10.244.2.128/25", "192.168.10.12", gateway("192.168.10.12")),
            ("10.244.3.0/24", "192.168.30.13", tunnel("192.168.30.13")),
            ("172.16.0.0/12", "192.168.10.1", gateway("192.168.10.1")),
            ("172.16.0.0/12", "192.168.30.13", tunnel("192.168.30.13")),
            ("172.16.0.0/12", "198.51.100.7", Err(Refusal::UnreachableNextHop(ip("198.51.100.7")))),
            ("172.16.0.0/12", "fd10::1", gateway("fd10::1")),
            ("2001:db8:77::/48", "192.168.10.1", Err(Refusal::OtherFamily(ip("192.168.10.1")))),
            ("172.16.0.0/12", "192.168.10.11", Err(Refusal::OwnNextHop(ip("192.168.10.11")))),
            ("10.244.3.0/24", "192.168.10.12", pods_of("n3")),
            ("10.244.3.7/32", "192.168.10.1", pods_of("n3")),
            ("10.244.1.0/24", "192.168.10.12", Err(Refusal::OwnPods(prefix("10.244.1.0/24")))),
            ("10.244.2.0/23", "192.168.10.12", pods_of("n2")),
            ("10.96.0.1/32", "192.168.10.1", service("10.96.0.0/12")),
            ("203.0.113.0/24", "192.168.10.1", Err(Refusal::Vip(ip("203.0.113.1")))),
            ("203.0.113.2/32", "192.168.10.1", gateway("192.168.10.1")),
            ("192.168.30.0/24", "192.168.10.1", Err(Refusal::NodeAddress(ip("192.168.30.13")))),
            ("0.0.0.0/0", "192.168.10.1", Err(Refusal::NodeAddress(ip("192.168.10.11")))),
        ];
        let boundary = boundary(&Config::default());
        for (destination, next_hop, expected) in cases {
            let found = boundary.install(prefix(destination), &[ip(next_hop)]).map(|route| route.hops);
            assert_eq!(found, expected, "{destination} via {next_hop}");
        }
    }

    #[test]
    fn what_the_operator_allows_enters() {
        let config =
            Config { allowed_imports: vec![prefix("10.244.0.0/16"), prefix("0.0.0.0/32")], ..Config::default() };
        let boundary = boundary(&config);
        assert!(boundary.install(prefix("10.244.3.0/24"), &[ip("192.168.10.1")]).is_ok());
        assert!(boundary.install(prefix("10.0.0.0/8"), &[ip("192.168.10.1")]).is_err(), "more than is allowed");
        assert!(boundary.install(prefix("0.0.0.0/0"), &[ip("192.168.10.1")]).is_err());
    }

    #[test]
    fn several_next_hops_share_a_route_and_a_bad_one_is_left_out() {
        let route = boundary(&Config::default())
            .install(prefix("172.16.0.0/12"), &[ip("192.168.10.1"), ip("198.51.100.7"), ip("192.168.10.2")])
            .unwrap();
        assert_eq!(route.hops, BTreeSet::from([Hop::Gateway(ip("192.168.10.1")), Hop::Gateway(ip("192.168.10.2"))]));
        assert_eq!(route.source, None);
    }

    #[test]
    fn the_routes_around_an_address_are_found() {
        let routes: OrdMap<Prefix, ()> = ["0.0.0.0/0", "203.0.113.0/24", "203.0.113.1/32", "203.0.112.0/24", "::/0"]
            .map(|text| (prefix(text), ()))
            .into_iter()
            .collect();
        let found: Vec<String> = covering(&routes, ip("203.0.113.1")).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["0.0.0.0/0", "203.0.113.0/24", "203.0.113.1/32"]);
    }
}
