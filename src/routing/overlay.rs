//! How packets get to other nodes: directly or through tunnels (pure).
//!
//! A tunnel leads to a node of this cluster only, never to a next hop somebody outside made up. Its name is the one
//! kube-router gives, so that a take-over adopts it; where two addresses would share a name the higher one gets
//! another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::config::{Config, Encapsulation, OverlayScope};
use crate::kernel::rtnl::Rule;
use crate::model::Snapshot;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::{cluster, ip, own_links, prefix, with_nodes};

    fn three_nodes() -> Snapshot {
        with_nodes(cluster("n1").build())
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
            assert_eq!(reach(scope, ip("192.168.10.12"), &own_links()), near, "{scope:?}");
            assert_eq!(reach(scope, ip("192.168.30.13"), &own_links()), far, "{scope:?}");
        }
    }

    #[test]
    fn tunnels_leave_room_for_their_headers() {
        let fou = Encapsulation::Fou { port: 5555 };
        for (encapsulation, v4, v6) in [(Encapsulation::Ipip, 1480, 1452), (fou, 1468, 1440)] {
            assert_eq!(1500 - overhead(Family::V4, encapsulation), v4);
            assert_eq!(1500 - overhead(Family::V6, encapsulation), v6);
        }
        let tunnels = tunnels(&three_nodes(), &Config::default(), &own_links(), 1500);
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
}
