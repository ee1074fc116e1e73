//! How packets get to other nodes: directly or through tunnels, and which learned routes enter the kernel (pure).
//!
//! A tunnel leads to a node of this cluster only, never to a next hop somebody outside made up. Its name is the one
//! kube-router gives, so that a take-over adopts it; where two addresses would share a name the higher one gets
//! another. A learned route that would lead node, Service or pod addresses of the cluster elsewhere is refused with a
//! [`Refusal`], unless it is inside a prefix the operator allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::config::{Config, Encapsulation, OverlayScope};
use crate::kernel::rtnl::Rule;
use crate::model::{NodeName, Snapshot};
use crate::net::{Family, Prefix, host_prefix};

/// The routing table of tunnels to nodes, the number kube-router uses.
pub const TABLE: u32 = 77;
/// Order of the rules that look it up: before the main table's 32766 and the proxy's 32764.
pub const RULE_PRIORITY: u32 = 32_763;
/// How names of tunnels start.
pub const TUNNEL_PREFIX: &str = "tun-";
/// Hex digits behind it: a link's name has at most 15 bytes.
const NAME_DIGITS: usize = 11;

/// How a next hop is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is on a link of this node.
    Direct,
    /// Through a tunnel.
    Tunnel,
    /// Neither on a link, nor is there to be a tunnel.
    Unreachable,
}

/// How a next hop is reached, given this node's own addresses with the length of their links' prefixes.
pub fn reach(scope: OverlayScope, next_hop: IpAddr, own_links: &[Prefix]) -> Reach {
    let on_link = own_links.iter().any(|link| link.contains(&next_hop));
    match scope {
        OverlayScope::All => Reach::Tunnel,
        OverlayScope::OtherSubnets if !on_link => Reach::Tunnel,
        _ if on_link => Reach::Direct,
        _ => Reach::Unreachable,
    }
}

/// A tunnel to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// This node's end.
    pub local: IpAddr,
    /// The other node's address.
    pub remote: IpAddr,
    /// How packets are wrapped.
    pub encapsulation: Encapsulation,
    /// Bytes a packet inside may have.
    pub mtu: u32,
}

/// The tunnels to other nodes, by the node's address. `mtu` is that of the link the outer packets leave by.
pub fn tunnels(snapshot: &Snapshot, config: &Config, own_links: &[Prefix], mtu: u32) -> BTreeMap<IpAddr, Tunnel> {
    let Some(own) = snapshot.own_node() else { return BTreeMap::new() };
    let remotes: BTreeSet<IpAddr> = snapshot
        .nodes
        .iter()
        .filter(|(name, _)| **name != snapshot.node_name)
        .flat_map(|(_, node)| Family::ALL.into_iter().filter_map(|family| node.best_ip(family)))
        .filter(|remote| reach(config.overlay, *remote, own_links) == Reach::Tunnel)
        .filter(|remote| own.addresses().all(|address| address != *remote))
        .collect();
    let mut tunnels = BTreeMap::new();
    for (remote, name) in tunnel_names(&remotes) {
        let Some(local) = own.best_ip(Family::of(remote)) else { continue };
        let encapsulation = config.encapsulation;
        let mtu = mtu.saturating_sub(overhead(Family::of(remote), encapsulation));
        tunnels.insert(remote, Tunnel { name, local, remote, encapsulation, mtu });
    }
    tunnels
}

/// The name of the tunnel to each address. A function of the whole set: of those that share kube-router's name the
/// lowest address keeps it.
pub fn tunnel_names(remotes: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
    let (mut names, mut taken) = (BTreeMap::new(), BTreeSet::new());
    let mut left = Vec::new();
    for remote in remotes {
        let name = tunnel_name(*remote);
        if taken.insert(name.clone()) {
            names.insert(*remote, name);
        } else {
            left.push(*remote);
        }
    }
    for remote in left {
        let free = (0..u32::MAX).map(|n| hashed(&format!("{remote}/{n}"))).find(|name| !taken.contains(name));
        if let Some(name) = free {
            taken.insert(name.clone());
            names.insert(remote, name);
        }
    }
    names
}

/// kube-router's name for a tunnel: a hash of the address without its separators.
pub fn tunnel_name(remote: IpAddr) -> String {
    hashed(&remote.to_string().replace(['.', ':'], ""))
}

fn hashed(text: &str) -> String {
    let hex = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    TUNNEL_PREFIX.chars().chain(hex.chars().take(NAME_DIGITS)).collect()
}

/// Bytes the outer headers take: IP, and with FoU also UDP and GUE; an `ip6tnl` link adds its encapsulation limit.
pub fn overhead(family: Family, encapsulation: Encapsulation) -> u32 {
    let ip = match family {
        Family::V4 => 20,
        Family::V6 => 48,
    };
    match encapsulation {
        Encapsulation::Ipip => ip,
        Encapsulation::Fou { .. } => ip + 12,
    }
}

/// The rules that send what pods answer to other nodes through the tunnels: none without an overlay.
pub fn rules(snapshot: &Snapshot, config: &Config) -> BTreeSet<Rule> {
    let wanted = |_: &&Prefix| config.overlay != OverlayScope::Off;
    let own = snapshot.own_node().into_iter().flat_map(|node| &node.pod_cidrs);
    own.filter(wanted)
        .map(|prefix| Rule {
            from: Some(prefix.trunc()),
            ..Rule::to_table(Family::of(prefix.addr()), RULE_PRIORITY, TABLE)
        })
        .collect()
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// To a router on a link.
    Gateway(IpAddr),
    /// Into the tunnel of this name.
    Tunnel(String),
}

/// A route the kernel should have. Interface numbers are filled in where it is planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRoute {
    /// Table number.
    pub table: u32,
    /// What it matches.
    pub destination: Prefix,
    /// Where it leads, at least one; several share the traffic.
    pub hops: BTreeSet<Hop>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// The routes of [`TABLE`]: one to each tunnel's other end.
pub fn tunnel_routes(tunnels: &BTreeMap<IpAddr, Tunnel>) -> BTreeSet<KernelRoute> {
    let route = |tunnel: &Tunnel| KernelRoute {
        table: TABLE,
        destination: host_prefix(tunnel.remote),
        hops: BTreeSet::from([Hop::Tunnel(tunnel.name.clone())]),
        source: None,
    };
    tunnels.values().map(route).collect()
}

/// Why a learned route or one of its next hops does not enter the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It would lead a node's address elsewhere.
    NodeAddress(IpAddr),
    /// It would lead Service addresses elsewhere.
    ServiceRange(Prefix),
    /// It would lead pods of this node elsewhere.
    OwnPods(Prefix),
    /// It would lead pods of another node elsewhere than to that node.
    PodsOf(NodeName),
    /// The next hop is of another family than the route.
    OtherFamily(IpAddr),
    /// The next hop is this node.
    OwnNextHop(IpAddr),
    /// The next hop is neither on a link of this node nor a node to tunnel to.
    UnreachableNextHop(IpAddr),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NodeAddress(address) => write!(f, "would lead node address {address} elsewhere"),
            Refusal::ServiceRange(range) => write!(f, "would lead service addresses {range} elsewhere"),
            Refusal::OwnPods(prefix) => write!(f, "would lead pods of this node {prefix} elsewhere"),
            Refusal::PodsOf(node) => write!(f, "would lead pods of node {node} elsewhere"),
            Refusal::OtherFamily(address) => write!(f, "next hop {address} is of another family"),
            Refusal::OwnNextHop(address) => write!(f, "next hop {address} is this node"),
            Refusal::UnreachableNextHop(address) => {
                write!(f, "next hop {address} is neither on a link nor a node of the cluster")
            }
        }
    }
}

/// What learned routes are judged by. Made again when nodes, VIPs or links change.
#[derive(Clone, Debug)]
pub struct Boundary {
    own_name: NodeName,
    nodes: BTreeMap<IpAddr, NodeName>,
    pods: BTreeMap<NodeName, Vec<Prefix>>,
    /// Cluster IP ranges and VIPs outside them.
    services: Vec<Prefix>,
    allowed: Vec<Prefix>,
    own_links: Vec<Prefix>,
    scope: OverlayScope,
    tunnels: BTreeMap<IpAddr, Tunnel>,
    sources: [Option<IpAddr>; 2],
}

impl Boundary {
    /// The boundary of this cluster. `vips` are all VIPs this node serves.
    pub fn new(
        snapshot: &Snapshot,
        config: &Config,
        vips: impl IntoIterator<Item = IpAddr>,
        own_links: &[Prefix],
        tunnels: BTreeMap<IpAddr, Tunnel>,
    ) -> Boundary {
        let in_range = |vip: &IpAddr| config.cluster_ip_ranges.iter().any(|range| range.contains(vip));
        let vips = vips.into_iter().filter(|vip| !in_range(vip)).map(host_prefix);
        let nodes = snapshot.nodes.iter();
        Boundary {
            own_name: snapshot.node_name.clone(),
            nodes: nodes
                .clone()
                .flat_map(|(name, node)| node.addresses().map(move |address| (address, name.clone())))
                .collect(),
            pods: nodes.map(|(name, node)| (name.clone(), node.pod_cidrs.clone())).collect(),
            services: config.cluster_ip_ranges.iter().copied().chain(vips).collect(),
            allowed: config.allowed_imports.clone(),
            own_links: own_links.to_vec(),
            scope: config.overlay,
            tunnels,
            sources: Family::ALL.map(|family| snapshot.own_node().and_then(|node| node.best_ip(family))),
        }
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
                    table: crate::kernel::rtnl::table::MAIN,
                    destination: prefix.trunc(),
                    hops,
                    source: source.filter(|_| tunnelled),
                })
            }
        }
    }

    /// Whether a route may lead this prefix to this next hop.
    fn judge(&self, prefix: &Prefix, next_hop: IpAddr) -> Result<(), Refusal> {
        if Family::of(prefix.addr()) != Family::of(next_hop) {
            return Err(Refusal::OtherFamily(next_hop));
        }
        let owner = self.nodes.get(&next_hop);
        if owner == Some(&self.own_name) {
            return Err(Refusal::OwnNextHop(next_hop));
        }
        if self.allowed.iter().any(|allowed| allowed.contains(prefix)) {
            return Ok(());
        }
        if let Some(address) = self.nodes.keys().find(|address| prefix.contains(*address)) {
            return Err(Refusal::NodeAddress(*address));
        }
        if let Some(range) = self.services.iter().find(|range| overlap(range, prefix)) {
            return Err(Refusal::ServiceRange(*range));
        }
        for (name, pods) in &self.pods {
            let Some(touched) = pods.iter().find(|pods| overlap(pods, prefix)) else { continue };
            if *name == self.own_name {
                return Err(Refusal::OwnPods(*touched));
            }
            // A node may announce its pods, whole or in parts, and nobody else may.
            if owner != Some(name) || !touched.contains(prefix) {
                return Err(Refusal::PodsOf(name.clone()));
            }
        }
        Ok(())
    }

    fn hop(&self, next_hop: IpAddr) -> Result<Hop, Refusal> {
        let on_link = self.own_links.iter().any(|link| link.contains(&next_hop));
        match (self.tunnels.get(&next_hop), reach(self.scope, next_hop, &self.own_links)) {
            (Some(tunnel), Reach::Tunnel) => Ok(Hop::Tunnel(tunnel.name.clone())),
            // A router outside the cluster is asked directly, whatever the overlay is for.
            _ if on_link => Ok(Hop::Gateway(next_hop)),
            _ => Err(Refusal::UnreachableNextHop(next_hop)),
        }
    }
}

/// Whether two blocks have an address in common.
fn overlap(one: &Prefix, other: &Prefix) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;
    use crate::testing::builders::{cluster, ip, prefix};
    use std::sync::Arc;

    const LINKS: [&str; 2] = ["192.168.10.11/24", "fd10::11/64"];

    fn links() -> Vec<Prefix> {
        LINKS.into_iter().map(prefix).collect()
    }

    fn three_nodes() -> Snapshot {
        let mut snapshot = cluster("n1").build();
        for (name, address, pods) in
            [("n2", "192.168.10.12", "10.244.2.0/24"), ("n3", "192.168.30.13", "10.244.3.0/24")]
        {
            let node = Node { internal_ips: vec![ip(address)], pod_cidrs: vec![prefix(pods)], ..Node::default() };
            snapshot.nodes.insert(NodeName::new(name), Arc::new(node));
        }
        snapshot
    }

    fn boundary(config: &Config) -> Boundary {
        let snapshot = three_nodes();
        let tunnels = tunnels(&snapshot, config, &links(), 1500);
        Boundary::new(&snapshot, config, [ip("203.0.113.1")], &links(), tunnels)
    }

    #[test]
    fn tunnel_names_are_those_of_kube_router() {
        for (address, name) in [
            ("10.0.0.1", "tun-e443169117a"),
            ("2001:db8::1", "tun-5c79b9c1639"),
            ("21.3.0.4", "tun-8bbcaad3138"),
            ("2.13.0.4", "tun-8bbcaad3138"),
        ] {
            assert_eq!(tunnel_name(ip(address)), name);
        }
    }

    #[test]
    fn two_nodes_never_share_a_tunnel() {
        let names = tunnel_names(&["21.3.0.4", "2.13.0.4", "10.0.0.1"].into_iter().map(ip).collect());
        assert_eq!(names[&ip("2.13.0.4")], "tun-8bbcaad3138", "the lowest keeps the name");
        assert_ne!(names[&ip("21.3.0.4")], names[&ip("2.13.0.4")]);
        assert_eq!(names[&ip("21.3.0.4")].len(), 15);
        assert_eq!(names[&ip("10.0.0.1")], "tun-e443169117a");
    }

    #[test]
    fn scope_and_subnet_decide_how_a_node_is_reached() {
        use OverlayScope::{All, Off, OtherSubnets};
        for (scope, near, far) in [
            (Off, Reach::Direct, Reach::Unreachable),
            (OtherSubnets, Reach::Direct, Reach::Tunnel),
            (All, Reach::Tunnel, Reach::Tunnel),
        ] {
            assert_eq!(reach(scope, ip("192.168.10.12"), &links()), near, "{scope:?}");
            assert_eq!(reach(scope, ip("192.168.30.13"), &links()), far, "{scope:?}");
        }
    }

    #[test]
    fn tunnels_leave_room_for_their_headers() {
        let fou = Encapsulation::Fou { port: 5555 };
        for (encapsulation, v4, v6) in [(Encapsulation::Ipip, 1480, 1452), (fou, 1468, 1440)] {
            assert_eq!(1500 - overhead(Family::V4, encapsulation), v4);
            assert_eq!(1500 - overhead(Family::V6, encapsulation), v6);
        }
        let tunnels = tunnels(&three_nodes(), &Config::default(), &links(), 1500);
        let tunnel = &tunnels[&ip("192.168.30.13")];
        assert_eq!((tunnels.len(), tunnel.local, tunnel.mtu), (1, ip("192.168.10.11"), 1480));
        let routes = tunnel_routes(&tunnels);
        assert_eq!(routes.first().unwrap().destination, prefix("192.168.30.13/32"));
        assert_eq!(routes.first().unwrap().table, 77);
    }

    #[test]
    fn own_pods_look_up_the_tunnels() {
        let on = rules(&three_nodes(), &Config::default());
        let from: Vec<String> = on.iter().map(|rule| rule.from.unwrap().to_string()).collect();
        assert_eq!(from, ["10.244.1.0/24", "fd00:244:1::/64"]);
        let off = Config { overlay: OverlayScope::Off, ..Config::default() };
        assert!(rules(&three_nodes(), &off).is_empty());
    }

    #[test]
    fn learned_routes_enter_the_kernel_only_where_they_lead_nothing_of_the_cluster_astray() {
        let gateway = |address: &str| Ok(BTreeSet::from([Hop::Gateway(ip(address))]));
        let tunnel = |address: &str| Ok(BTreeSet::from([Hop::Tunnel(tunnel_name(ip(address)))]));
        let pods_of = |name: &str| Err(Refusal::PodsOf(NodeName::new(name)));
        let service = |range: &str| Err(Refusal::ServiceRange(prefix(range)));
        type Answer = Result<BTreeSet<Hop>, Refusal>;
        let cases: [(&str, &str, Answer); 16] = [
            ("10.244.2.0/24", "192.168.10.12", gateway("192.168.10.12")),
            ("10.244.2.128/25", "192.168.10.12", gateway("192.168.10.12")),
            ("10.244.3.0/24", "192.168.30.13", tunnel("192.168.30.13")),
            ("172.16.0.0/12", "192.168.10.1", gateway("192.168.10.1")),
            ("172.16.0.0/12", "192.168.30.13", tunnel("192.168.30.13")),
            ("172.16.0.0/12", "198.51.100.7", Err(Refusal::UnreachableNextHop(ip("198.51.100.7")))),
            ("172.16.0.0/12", "fd10::1", Err(Refusal::OtherFamily(ip("fd10::1")))),
            ("172.16.0.0/12", "192.168.10.11", Err(Refusal::OwnNextHop(ip("192.168.10.11")))),
            ("10.244.3.0/24", "192.168.10.12", pods_of("n3")),
            ("10.244.3.7/32", "192.168.10.1", pods_of("n3")),
            ("10.244.1.0/24", "192.168.10.12", Err(Refusal::OwnPods(prefix("10.244.1.0/24")))),
            ("10.244.2.0/23", "192.168.10.12", pods_of("n2")),
            ("10.96.0.1/32", "192.168.10.1", service("10.96.0.0/12")),
            ("203.0.113.0/24", "192.168.10.1", service("203.0.113.1/32")),
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
}
