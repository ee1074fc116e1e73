//! What stands in the way of traffic on this node, in words (pure): the answers of `ferrovia doctor` for this room.
//!
//! Each finding says what is seen, what comes of it, and what to do. What the room can repair by itself is no finding.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::bgp::types::PeerKind;
use super::bridge::{BRIDGE_SYSCTLS, pod_mtu};
use super::config::{Config, OverlayScope};
use super::egress::BRIDGE_LINK;
use super::overlay::TUNNEL_PREFIX;
use super::peers::{DesiredPeer, DesiredPeers, Reflector};
use super::return_path::Mode;
use crate::kernel::rtnl::{Address, Link, Route, table};
use crate::model::Snapshot;
use crate::net::Family;

/// Everything a finding is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The room's settings.
    pub config: &'a Config,
    /// Whom this node should peer with.
    pub peers: &'a DesiredPeers,
    /// The return path in force on this node.
    pub return_path: Mode,
    /// Peers that are told several paths of a prefix, where ADD-PATH came about (RFC 7911).
    pub add_path: &'a [IpAddr],
    /// The node's links.
    pub links: &'a [Link],
    /// Their addresses.
    pub addresses: &'a [Address],
    /// Routes of the table main.
    pub routes: &'a [Route],
    /// Kernel settings by their path below `/proc/sys`; see [`sysctls`].
    pub sysctls: &'a BTreeMap<String, String>,
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Its name, one CamelCase word.
    pub name: &'static str,
    /// What is seen, what comes of it, what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}

/// The kernel settings [`findings`] looks at.
pub fn sysctls(links: &[Link]) -> Vec<String> {
    let filters = links.iter().filter(|link| !link.loopback).map(|link| rp_filter(&link.name));
    let fixed = [rp_filter("all"), FORWARD_V4.to_owned(), FORWARD_V6.to_owned()];
    fixed.into_iter().chain(filters).chain(BRIDGE_SYSCTLS.map(|(key, _)| key.to_owned())).collect()
}

const FORWARD_V4: &str = "net/ipv4/ip_forward";
const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";

fn rp_filter(link: &str) -> String {
    format!("net/ipv4/conf/{link}/rp_filter")
}

/// All findings, in the order in which a packet meets them.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    out_of_reach(facts, &mut found);
    reverse_path_filter(facts, &mut found);
    forwarding(facts, &mut found);
    bridge(facts, &mut found);
    return_path(facts, &mut found);
    overlay(facts, &mut found);
    reflector(facts, &mut found);
    found
}

/// A peer of another AS behind another router: what is sent to it ends there (RFC 4271 5.1.3 wants it on a link).
fn out_of_reach(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let near = |peer: IpAddr| {
        let covers = |route: &&Route| route.table == table::MAIN && route.destination.contains(&peer);
        let nearest = facts.routes.iter().filter(covers).max_by_key(|route| route.destination.prefix_len());
        facts.addresses.iter().any(|address| address.prefix.contains(&peer))
            || nearest
                .map(Route::hops)
                .is_some_and(|hops| !hops.is_empty() && hops.iter().all(|hop| hop.gateway.is_none()))
    };
    let one_hop = |peer: &&DesiredPeer| peer.kind == PeerKind::External && peer.multihop.is_none();
    for peer in facts.peers.peers.iter().filter(one_hop).filter(|peer| !near(peer.address)) {
        found.push(Finding {
            name: "PeerOutOfReach",
            text: format!(
                "peer {} of another AS is on no link of this node, and packets to it live for one hop: the session cannot \
                 come up; set --peer-router-multihop-ttl to the hops there are, or peer with the router next to the node",
                peer.address
            ),
        });
    }
}

/// The link that carries the node's own address of a family.
fn uplink<'a>(facts: &Facts<'a>, family: Family) -> Option<&'a Link> {
    let address = facts.snapshot.own_node()?.best_ip(family)?;
    let carries = |it: &&Address| it.prefix.addr() == address;
    let index = facts.addresses.iter().find(carries)?.link;
    facts.links.iter().find(|link| link.index == index)
}

/// The strictest of the two settings counts: what comes in where its answer would not go out is dropped.
fn reverse_path_filter(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let strict = |name: &str| facts.sysctls.get(&rp_filter(name)).is_some_and(|value| value == "1");
    let loose = |name: &str| facts.sysctls.get(&rp_filter(name)).is_some_and(|value| value == "2");
    let uplink = uplink(facts, Family::V4).map(|link| link.index);
    for link in facts.links {
        let concerns = Some(link.index) == uplink || link.name.starts_with(TUNNEL_PREFIX) || has_peer(facts, link);
        let filtered = (strict(&link.name) || strict("all")) && !loose(&link.name) && !loose("all");
        if concerns && filtered {
            found.push(Finding {
                name: "StrictReversePath",
                text: format!(
                    "rp_filter is 1 on {}: what a router brings in whose answer would leave by another link is dropped \
                     without a word; set net.ipv4.conf.{}.rp_filter=2",
                    link.name, link.name
                ),
            });
        }
    }
}

/// Whether an external peer is on a link.
fn has_peer(facts: &Facts<'_>, link: &Link) -> bool {
    let mut on_link = facts.addresses.iter().filter(|address| address.link == link.index);
    let mut peers = external(facts);
    on_link.any(|address| peers.any(|peer| address.prefix.contains(&peer)))
}

fn external<'a>(facts: &Facts<'a>) -> impl Iterator<Item = IpAddr> + 'a {
    facts.peers.peers.iter().filter(|peer| !peer.node).map(|peer| peer.address)
}

fn forwarding(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let own = facts.snapshot.own_node();
    for (family, key) in [(Family::V4, FORWARD_V4), (Family::V6, FORWARD_V6)] {
        let used = own.is_some_and(|node| node.pod_cidrs.iter().any(|cidr| Family::of(cidr.addr()) == family));
        if used && facts.sysctls.get(key).is_some_and(|value| value == "0") {
            let name = key.replace('/', ".");
            found.push(Finding {
                name: "ForwardingOff",
                text: format!("{name} is 0: pods reach nothing outside this node in {family}; set {name}=1"),
            });
        }
    }
}

fn bridge(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let Some(bridge) = facts.links.iter().find(|link| link.name == BRIDGE_LINK) else { return };
    let own = facts.snapshot.own_node();
    for (key, family) in BRIDGE_SYSCTLS {
        let used = own.is_some_and(|node| node.pod_cidrs.iter().any(|cidr| Family::of(cidr.addr()) == family));
        if used && facts.sysctls.get(key).is_none_or(|value| value == "0") {
            found.push(Finding {
                name: "BridgeUnseen",
                text: format!(
                    "{} is not 1: what pods of this node answer each other through a Service is not translated back; \
                     load br_netfilter and set it to 1",
                    key.replace('/', ".")
                ),
            });
        }
    }
    let longest = |family| Some(pod_mtu(own?, facts.config, uplink(facts, family)?.mtu));
    if let Some(fits) = Family::ALL.into_iter().filter_map(longest).min()
        && bridge.mtu > fits
    {
        found.push(Finding {
            name: "MtuTooLarge",
            text: format!(
                "{BRIDGE_LINK} has an MTU of {}, but only {fits} bytes fit through the overlay: large packets are cut \
                 or lost; turn --auto-mtu on, or set the MTU in the CNI configuration, and restart pods",
                bridge.mtu
            ),
        });
    }
}

/// A default route that leads past the routers clients come through.
fn return_path(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    if facts.return_path == Mode::Peer {
        return;
    }
    let peers: Vec<IpAddr> = external(facts).collect();
    for family in Family::ALL {
        let ours = || peers.iter().filter(move |peer| Family::of(**peer) == family);
        let defaults = facts.routes.iter().filter(|route| {
            route.table == table::MAIN
                && route.destination.prefix_len() == 0
                && Family::of(route.destination.addr()) == family
        });
        let gateways: Vec<IpAddr> = defaults.flat_map(Route::hops).filter_map(|hop| hop.gateway).collect();
        let on_link = ours().any(|peer| facts.addresses.iter().any(|address| address.prefix.contains(peer)));
        if !on_link || gateways.iter().any(|gateway| peers.contains(gateway)) {
            continue;
        }
        let through = match gateways.first() {
            Some(gateway) => format!("leave by the default route through {gateway}"),
            None => "have no route to leave by".to_owned(),
        };
        let peer = ours().next().map(IpAddr::to_string).unwrap_or_default();
        found.push(Finding {
            name: "MissingReturnPath",
            text: format!(
                "clients come through peer {peer}, but answers to them {through}: they may never arrive, and clients \
                 repeat their first packet; set --return-path=peer, or route their networks through the peer"
            ),
        });
    }
}

fn overlay(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    if facts.config.overlay == OverlayScope::All
        && let Some(peer) = external(facts).next()
    {
        found.push(Finding {
            name: "OverlayHidesClients",
            text: format!(
                "--overlay-type=full tunnels what nodes of one subnet say to each other: traffic that peer {peer} sends \
                 to this node for a pod of another one enters a tunnel, while its answer goes to the client directly, \
                 which a firewall on the way that never saw the question drops; use --overlay-type=subnet"
            ),
        });
    }
}

/// A reflector that tells one path of each prefix leaves routers beside it with one next hop of many.
fn reflector(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    if !matches!(facts.peers.reflector, Some(Reflector::Server(_))) {
        return;
    }
    for peer in external(facts).filter(|peer| !facts.add_path.contains(peer)) {
        found.push(Finding {
            name: "ReflectorHidesPaths",
            text: format!(
                "this node reflects routes to {peer} without ADD-PATH: of several nodes that announce an address the \
                 router learns one; let it receive additional paths, or peer it with the nodes themselves"
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::kernel::rtnl::{RouteFilter, RouteKind, Rtnl, fake::FakeRtnl, protocol};
    use crate::net::Asn;
    use crate::routing::config::FlagPeer;
    use crate::routing::peers::build_peers;
    use crate::testing::builders::{cluster, ip, prefix};

    const PEER: &str = "192.168.10.254";

    /// A healthy node with one external peer, which is also its default gateway.
    struct Node {
        kernel: FakeRtnl,
        config: Config,
        snapshot: Snapshot,
        reflector: bool,
        add_path: Vec<IpAddr>,
        mode: Mode,
        sysctls: BTreeMap<String, String>,
    }

    impl Node {
        fn new() -> Node {
            let mut kernel = FakeRtnl::new();
            let uplink = kernel.put_link("eth0", "");
            kernel.put_address(Address { link: uplink, prefix: prefix("192.168.10.11/24"), scope: 0 });
            kernel.put_link(BRIDGE_LINK, "bridge");
            let peer = FlagPeer { address: ip(PEER), asn: Asn(65001), port: 179, password: None };
            let config = Config { peers: vec![peer], overlay: OverlayScope::Off, ..Config::default() };
            let sysctls = [
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/eth0/rp_filter", "2"),
                (FORWARD_V4, "1"),
                (FORWARD_V6, "1"),
                ("net/bridge/bridge-nf-call-iptables", "1"),
                ("net/bridge/bridge-nf-call-ip6tables", "1"),
            ];
            let mut node = Node {
                kernel,
                config,
                snapshot: cluster("n1").build(),
                reflector: false,
                add_path: Vec::new(),
                mode: Mode::Off,
                sysctls: sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect(),
            };
            node.default_through(PEER);
            node
        }

        fn default_through(&mut self, gateway: &str) {
            self.route_to("0.0.0.0/0", Some(gateway));
        }

        fn route_to(&mut self, destination: &str, gateway: Option<&str>) {
            self.kernel.put_route(Route {
                table: table::MAIN,
                destination: prefix(destination),
                kind: RouteKind::Unicast,
                protocol: protocol::STATIC,
                scope: 0,
                link: gateway.is_none().then_some(2),
                gateway: gateway.map(ip),
                next_hops: Vec::new(),
                source: None,
                metric: 0,
            });
        }

        fn set(&mut self, key: &str, value: &str) {
            self.sysctls.insert(key.to_owned(), value.to_owned());
        }

        fn found(&mut self) -> Vec<&'static str> {
            let mut peers = build_peers(&self.snapshot, &self.config);
            peers.reflector = self.reflector.then_some(Reflector::Server(Ipv4Addr::LOCALHOST));
            let (links, addresses) = (self.kernel.links().unwrap(), self.kernel.addresses(None).unwrap());
            let routes = self.kernel.routes(RouteFilter::default()).unwrap();
            let facts = Facts {
                snapshot: &self.snapshot,
                config: &self.config,
                peers: &peers,
                return_path: self.mode,
                add_path: &self.add_path,
                links: &links,
                addresses: &addresses,
                routes: &routes,
                sysctls: &self.sysctls,
            };
            findings(&facts).into_iter().map(|finding| finding.name).collect()
        }
    }

    #[test]
    fn a_healthy_node_has_no_findings() {
        assert_eq!(Node::new().found(), [""; 0]);
    }

    #[test]
    fn a_peer_behind_another_router_is_found_unless_it_may_be_there() {
        let mut node = Node::new();
        node.config.peers[0].address = ip("203.0.113.9");
        assert_eq!(node.found(), ["PeerOutOfReach"]);
        node.config.multihop_ttl = 3;
        assert_eq!(node.found(), [""; 0]);
        node.config.multihop_ttl = 0;
        node.config.peers[0].asn = node.config.cluster_asn;
        assert_eq!(node.found(), [""; 0], "within an AS peers may be anywhere");
        node.config.peers[0].asn = Asn(65001);
        node.route_to("203.0.113.9/32", None);
        assert_eq!(node.found(), [""; 0], "its own route says that it is on the link");
    }

    #[test]
    fn a_strict_reverse_path_filter_is_found_where_the_kernel_applies_it() {
        for (all, link, expected) in [("0", "1", 1), ("1", "0", 1), ("1", "2", 0), ("2", "1", 0), ("0", "0", 0)] {
            let mut node = Node::new();
            node.set("net/ipv4/conf/all/rp_filter", all);
            node.set("net/ipv4/conf/eth0/rp_filter", link);
            assert_eq!(node.found(), vec!["StrictReversePath"; expected], "all {all}, eth0 {link}");
        }
    }

    #[test]
    fn answers_that_leave_past_the_peer_are_found_until_they_have_a_way_back() {
        let mut node = Node::new();
        node.kernel = {
            let mut fresh = Node::new().kernel;
            for route in fresh.routes(RouteFilter::default()).unwrap() {
                fresh.apply(&[crate::kernel::rtnl::Op::DeleteRoute(route)]).pop().unwrap().unwrap();
            }
            fresh
        };
        assert_eq!(node.found(), ["MissingReturnPath"], "no default route at all");
        node.default_through("192.168.10.1");
        assert_eq!(node.found(), ["MissingReturnPath"], "another gateway");
        node.mode = Mode::Peer;
        assert_eq!(node.found(), [""; 0]);
    }

    #[test]
    fn settings_of_the_kernel_are_found() {
        for (key, value, expected) in [
            (FORWARD_V4, "0", "ForwardingOff"),
            (FORWARD_V6, "0", "ForwardingOff"),
            ("net/bridge/bridge-nf-call-ip6tables", "0", "BridgeUnseen"),
        ] {
            let mut node = Node::new();
            node.set(key, value);
            assert_eq!(node.found(), [expected], "{key}={value}");
        }
        let mut node = Node::new();
        node.sysctls.remove("net/bridge/bridge-nf-call-iptables");
        assert_eq!(node.found(), ["BridgeUnseen"], "the module is not loaded");
    }

    #[test]
    fn an_overlay_for_everything_is_found_with_its_mtu() {
        let mut node = Node::new();
        node.config.overlay = OverlayScope::All;
        assert_eq!(node.found(), ["MtuTooLarge", "OverlayHidesClients"]);
    }

    #[test]
    fn a_reflector_that_tells_one_path_is_found() {
        let mut node = Node::new();
        node.reflector = true;
        assert_eq!(node.found(), ["ReflectorHidesPaths"]);
        node.add_path.push(ip(PEER));
        assert_eq!(node.found(), [""; 0]);
    }

    #[test]
    fn every_setting_that_is_looked_at_is_asked_for() {
        let mut node = Node::new();
        let asked = sysctls(&node.kernel.links().unwrap());
        assert!(node.sysctls.keys().all(|key| asked.contains(key)), "{asked:?}");
    }
}
