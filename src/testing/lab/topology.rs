//! Who has which address, and the `ip` lines that wire it up.
//!
//! ```text
//!  far 203.0.113.100 --- edge 192.168.10.1 --- rack bridge 192.168.10.0/24 --- n1 n2 n3 (192.168.10.1N)
//!                                                  |                             pods 10.244.N.11, .12 …
//!                                                 near 192.168.10.100
//! ```
//!
//! The IPv6 twins: `2001:db8:c::/64` outside, `fd10::/64` on the rack, `fd00:244:N::/64` for pods. Each node has
//! static routes to the other nodes' pod prefixes: they stand in for the router where it does not run
//! ([`Options::static_routes`](super::Options)).
//!
//! On request there is a second edge router, `edge2` at 192.168.10.2 with `far2` 203.0.114.100 behind it (`fd10::2`,
//! `2001:db8:d::/64`), and a second rack, 192.168.20.0/24 (`fd20::/64`), which only the first edge joins to the first.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Family;

/// The cluster IP range.
pub const CLUSTER_RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The range of granted external IPs.
pub const EXTERNAL_RANGES: [&str; 2] = ["198.51.101.0/24", "2001:db8:65::/64"];
/// The range of load-balancer addresses.
pub const LOAD_BALANCER_RANGES: [&str; 2] = ["198.51.100.0/24", "2001:db8:64::/64"];
/// The subnets of the outside client.
pub const OUTSIDE: [&str; 2] = ["203.0.113.0/24", "2001:db8:c::/64"];

/// The bridge pods hang on.
pub const POD_BRIDGE: &str = "kube-bridge";
/// The port pods serve HTTP on.
pub const HTTP_PORT: u16 = 8080;
/// The port pods echo datagrams on.
pub const UDP_PORT: u16 = 5353;
/// The port pods serve SCTP on, where the lab was asked for it.
pub const SCTP_PORT: u16 = 9999;
/// The port of the host-network pod, apart from what the daemon listens on.
pub const HOST_POD_PORT: u16 = 9080;

/// The last 16 bits of the address of `edge`, `edge2`, `near` and `far` in their subnets.
const EDGE: u16 = 1;
const EDGE2: u16 = 2;
const NEAR: u16 = 100;
const RACK: u16 = 253;

/// An address on the rack, or outside, or in a node's pod prefix.
fn address(family: Family, v4: [u8; 3], v6: [u16; 4], host: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(v4[0], v4[1], v4[2], u8::try_from(host).unwrap_or(u8::MAX)).into(),
        // Written as decimal digits after the prefix (fd10::11 is node 1), so that both families read alike.
        Family::V6 => {
            let digits = u16::from_str_radix(&host.to_string(), 16).unwrap_or(u16::MAX);
            Ipv6Addr::new(v6[0], v6[1], v6[2], v6[3], 0, 0, 0, digits).into()
        }
    }
}

/// An address on the first rack.
fn on_rack(family: Family, host: u16) -> IpAddr {
    address(family, [192, 168, 10], [0xfd10, 0, 0, 0], host)
}

/// An address on the second rack.
fn on_rack2(family: Family, host: u16) -> IpAddr {
    address(family, [192, 168, 20], [0xfd20, 0, 0, 0], host)
}

/// An address outside the edge.
fn outside(family: Family, host: u16) -> IpAddr {
    address(family, [203, 0, 113], [0x2001, 0xdb8, 0xc, 0], host)
}

/// An address outside the second edge.
fn outside2(family: Family, host: u16) -> IpAddr {
    address(family, [203, 0, 114], [0x2001, 0xdb8, 0xd, 0], host)
}

/// An address in the pod prefix of node `node`.
fn in_pod_prefix(family: Family, node: u16, host: u16) -> IpAddr {
    let third = u8::try_from(node).unwrap_or(u8::MAX);
    address(family, [10, 244, third], [0xfd00, 0x244, node, 0], host)
}

/// The address of node `node` (from 1) on the first rack.
pub fn node_address(family: Family, node: u16) -> IpAddr {
    on_rack(family, 10 + node)
}

/// The address of node `node` (from 1) on the second rack.
pub fn node_address2(family: Family, node: u16) -> IpAddr {
    on_rack2(family, 10 + node)
}

/// The address of the edge on the first rack.
pub fn edge_address(family: Family) -> IpAddr {
    on_rack(family, EDGE)
}

/// The address of the second edge on the first rack.
pub fn edge2_address(family: Family) -> IpAddr {
    on_rack(family, EDGE2)
}

/// The pod prefix of node `node`, as text.
pub fn pod_prefix(family: Family, node: u16) -> String {
    match family {
        Family::V4 => format!("10.244.{node}.0/24"),
        Family::V6 => format!("fd00:244:{node:x}::/64"),
    }
}

/// The bridge address of node `node`: its pods' gateway.
pub fn bridge_address(family: Family, node: u16) -> IpAddr {
    in_pod_prefix(family, node, 1)
}

/// The address of pod `pod` (from 1) of node `node`.
pub fn pod_address(family: Family, node: u16, pod: u16) -> IpAddr {
    in_pod_prefix(family, node, 10 + pod)
}

/// The address of the client on the node subnet.
pub fn near_address(family: Family) -> IpAddr {
    on_rack(family, NEAR)
}

/// The address of the client behind the edge.
pub fn far_address(family: Family) -> IpAddr {
    outside(family, NEAR)
}

/// The address of the client behind the second edge.
pub fn far2_address(family: Family) -> IpAddr {
    outside2(family, NEAR)
}

/// Length of the subnets of the lab (not of VIPs).
fn subnet_length(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// `addr add` for both families.
fn add_addresses(lines: &mut String, device: &str, address: impl Fn(Family) -> IpAddr) {
    for family in Family::ALL {
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        let length = subnet_length(family);
        lines.push_str(&format!("addr add {}/{length} dev {device}{nodad}\n", address(family)));
    }
}

/// A default route for both families.
fn add_default(lines: &mut String, gateway: impl Fn(Family) -> IpAddr) {
    for family in Family::ALL {
        lines.push_str(&format!("route add default via {}\n", gateway(family)));
    }
}

/// A rack switch: a bridge with one port for each of `members`, given as (port name, namespace).
fn switch(name: &str, members: &[(String, &str)], device: &str) -> String {
    let mut lines = format!("link add {name} type bridge\nlink set {name} up\n");
    for (port, namespace) in members {
        lines.push_str(&format!("link add {port} type veth peer name {device} netns {namespace}\n"));
        lines.push_str(&format!("link set {port} master {name} up\n"));
    }
    lines
}

/// The first rack's switch, with an address to look in from.
pub(super) fn rack(members: &[(String, &str)]) -> String {
    let mut lines = String::from("link set lo up\n");
    lines.push_str(&switch("rack", members, "eth0"));
    add_addresses(&mut lines, "rack", |family| on_rack(family, RACK));
    lines
}

/// The second rack's switch, in the same namespace but on no wire with the first: only the edge joins them.
pub(super) fn rack2(edge: &str, members: &[(String, &str)]) -> String {
    let mut lines = switch("rack2", members, "eth0");
    lines.push_str(&format!("link add s-edge-2 type veth peer name eth2 netns {edge}\n"));
    lines.push_str("link set s-edge-2 master rack2 up\n");
    lines
}

/// The edge router, with the outside client's namespace behind it.
pub(super) fn edge(far: &str, second_rack: bool) -> String {
    let mut lines = format!("link add eth1 type veth peer name eth0 netns {far}\n");
    lines.push_str("link set lo up\nlink set eth0 up\nlink set eth1 up\n");
    add_addresses(&mut lines, "eth0", |family| on_rack(family, EDGE));
    add_addresses(&mut lines, "eth1", |family| outside(family, EDGE));
    if second_rack {
        lines.push_str("link set eth2 up\n");
        add_addresses(&mut lines, "eth2", |family| on_rack2(family, EDGE));
    }
    lines
}

/// The second edge router, with its outside client's namespace behind it.
pub(super) fn edge2(far2: &str) -> String {
    let mut lines = format!("link add eth1 type veth peer name eth0 netns {far2}\n");
    lines.push_str("link set lo up\nlink set eth0 up\nlink set eth1 up\n");
    add_addresses(&mut lines, "eth0", |family| on_rack(family, EDGE2));
    add_addresses(&mut lines, "eth1", |family| outside2(family, EDGE));
    lines
}

/// The client behind the edge.
pub(super) fn far() -> String {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    add_addresses(&mut lines, "eth0", far_address);
    add_default(&mut lines, |family| outside(family, EDGE));
    lines
}

/// The client behind the second edge.
pub(super) fn far2() -> String {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    add_addresses(&mut lines, "eth0", far2_address);
    add_default(&mut lines, |family| outside2(family, EDGE));
    lines
}

/// The client on the node subnet.
pub(super) fn near() -> String {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    add_addresses(&mut lines, "eth0", near_address);
    add_default(&mut lines, |family| on_rack(family, EDGE));
    lines
}

/// What a node is wired with.
pub(super) struct NodePlan<'a> {
    /// Its number.
    pub(super) number: u16,
    /// Whether it stands in the second rack.
    pub(super) second_rack: bool,
    /// Its pods and their namespaces.
    pub(super) pods: &'a [(String, String)],
    /// The nodes it has static routes to the pods of.
    pub(super) static_routes: &'a [u16],
}

/// A node: its addresses, its bridge, one bridge port for each pod, and the way to other nodes' pods.
pub(super) fn node(plan: &NodePlan<'_>) -> String {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    if plan.second_rack {
        add_addresses(&mut lines, "eth0", |family| node_address2(family, plan.number));
        add_default(&mut lines, |family| on_rack2(family, EDGE));
    } else {
        add_addresses(&mut lines, "eth0", |family| node_address(family, plan.number));
        add_default(&mut lines, |family| on_rack(family, EDGE));
    }
    lines.push_str(&format!("link add {POD_BRIDGE} type bridge\nlink set {POD_BRIDGE} up\n"));
    add_addresses(&mut lines, POD_BRIDGE, |family| bridge_address(family, plan.number));
    for (pod, namespace) in plan.pods {
        lines.push_str(&format!("link add v-{pod} type veth peer name eth0 netns {namespace}\n"));
        lines.push_str(&format!("link set v-{pod} master {POD_BRIDGE} up\n"));
        // As the CNI configuration asks for (hairpinMode): a pod's packet may leave by the port it came in.
        lines.push_str(&format!("link set v-{pod} type bridge_slave hairpin on\n"));
    }
    for other in plan.static_routes.iter().filter(|other| **other != plan.number) {
        for family in Family::ALL {
            let (prefix, via) = (pod_prefix(family, *other), node_address(family, *other));
            lines.push_str(&format!("route add {prefix} via {via}\n"));
        }
    }
    lines
}

/// A pod.
pub(super) fn pod(node: u16, number: u16) -> String {
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    add_addresses(&mut lines, "eth0", |family| pod_address(family, node, number));
    add_default(&mut lines, |family| bridge_address(family, node));
    lines
}

/// The way from the edge to the pods and the rest of the cluster, through node `node`: what BGP would announce.
pub(super) fn announce(prefixes: &[&str], node: u16) -> String {
    let mut lines = String::new();
    for prefix in prefixes {
        let family = if prefix.contains(':') { Family::V6 } else { Family::V4 };
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "route replace {prefix} via {}", node_address(family, node));
    }
    lines
}

/// What a node's CNI and kubelet set before the daemon runs. Everything else is the daemon's to set.
pub(super) const NODE_SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
];

/// What makes the edge a router.
pub(super) const EDGE_SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        assert_eq!(node_address(Family::V4, 1).to_string(), "192.168.10.11");
        assert_eq!(node_address(Family::V6, 1).to_string(), "fd10::11");
        assert_eq!(pod_address(Family::V4, 3, 2).to_string(), "10.244.3.12");
        assert_eq!(pod_address(Family::V6, 3, 2).to_string(), "fd00:244:3::12");
        assert_eq!(far_address(Family::V6).to_string(), "2001:db8:c::100");
        assert_eq!(node_address2(Family::V6, 3).to_string(), "fd20::13");
        assert_eq!(edge2_address(Family::V4).to_string(), "192.168.10.2");
    }

    #[test]
    fn a_node_knows_the_way_to_every_other_nodes_pods() {
        let plan = NodePlan { number: 2, second_rack: false, pods: &[], static_routes: &[1, 2, 3] };
        let lines = node(&plan);
        assert!(lines.contains("route add 10.244.1.0/24 via 192.168.10.11\n"), "{lines}");
        assert!(lines.contains("route add fd00:244:3::/64 via fd10::13\n"), "{lines}");
        assert!(!lines.contains("10.244.2.0/24 via"), "{lines}");
    }
}
