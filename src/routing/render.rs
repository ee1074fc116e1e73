//! What this node would tell peers and hold for a snapshot, in the operators' own languages, without a kernel (pure).
//!
//! The same functions as in the daemon. What only kernel and peers know is assumed: the node has the addresses of its
//! Node object on links of 24 and 64 bits with an MTU of 1500, other nodes announce their pod prefixes and nobody
//! anything else, and the service proxy has everything in force. Peers on those links answer with Ethernet addresses that
//! are for documentation (RFC 7042), so that the return path is drawn with one for each.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write as _};
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::bgp::speaker::{Config as SpeakerConfig, PeerConfig};
use super::bgp::tcp::Distance;
use super::bgp::types::Attributes;
use super::boundary::Boundary;
use super::config::Config;
use super::desired::{Desired, pod_prefixes};
use super::peers::{DesiredPeers, build_peers};
use super::return_path::{self, Mode, ReturnPath};
use super::speaker_config::{Leaving, build, own_route};
use super::speakers::{self, next_hops};
use super::{egress, overlay, plan};
use crate::kernel::nft::text as nft_text;
use crate::kernel::rtnl::{Address, Link, Neighbour, Op, Route};
use crate::model::{Node, NodeName, Notice, Snapshot};
use crate::net::{Family, Prefix, host_prefix};

/// Bytes: what most links have.
const MTU: u32 = 1500;
/// The link with the node's addresses; in the text its name stands instead.
const UPLINK: u32 = 2;
/// The first tunnel.
const FIRST_TUNNEL: u32 = 1000;
/// Its name.
const UPLINK_NAME: &str = "eth0";

/// What a node would tell and hold, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// The node.
    pub node: NodeName,
    /// The speaker, its peers, and what it originates.
    #[serde(serialize_with = "lines")]
    pub bgp: String,
    /// `ip` commands that make tunnels, rules and routes.
    #[serde(serialize_with = "lines")]
    pub ip: String,
    /// The packet filter tables as `nft list ruleset` prints them.
    #[serde(serialize_with = "lines")]
    pub nft: String,
    /// What owners of objects should know.
    pub notices: Vec<Notice>,
}

/// What the node of the snapshot would tell and hold.
pub fn render(snapshot: &Snapshot, config: &Config) -> Rendered {
    let desired = Desired::build(snapshot, config);
    let wanted = build_peers(snapshot, config);
    let (pods, missing) = pod_prefixes(snapshot);
    let links = links_of(snapshot.own_node().map(AsRef::as_ref));
    let prefixes: Vec<Prefix> = links.iter().map(|address| address.prefix).collect();
    let mut routes: BTreeMap<Prefix, Vec<Attributes>> =
        pods.iter().map(|pod| (pod.prefix, vec![own_route(pod.next_hop)])).collect();
    let hops = |vip: IpAddr| next_hops(vip, &desired, snapshot, config, desired.vips().contains_key(&vip));
    let vips: BTreeMap<IpAddr, Vec<Attributes>> = desired
        .listed()
        .map(|vip| (vip, hops(vip).into_iter().map(own_route).collect::<Vec<Attributes>>()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    let speaker = build(&wanted, snapshot, config, &prefixes, vips.keys(), &Leaving::default());
    routes.extend(vips.into_iter().map(|(vip, paths)| (host_prefix(vip), paths)));
    let back = way_back(snapshot, config, &wanted, &prefixes);
    let mut ruleset = egress::ruleset(snapshot, config);
    back.add_to(&mut ruleset, snapshot);
    let told = wanted.notices.iter().chain(desired.notices()).cloned().chain(missing);
    let notices = told.chain(speakers::notices(snapshot, config)).chain(back.notices.iter().cloned()).collect();
    Rendered {
        node: snapshot.node_name.clone(),
        bgp: speaker.map(|speaker| peers(&speaker)).unwrap_or_default() + &originated(&routes),
        ip: ip(snapshot, config, &desired, &links, &back),
        nft: nft_text::render(egress::TABLE, &ruleset)
            + &nft_text::render(egress::FORWARD_TABLE, &egress::forward(Some(UPLINK_NAME))),
        notices,
    }
}

/// The ways back to the external peers, where answers are to leave by them.
fn way_back(snapshot: &Snapshot, config: &Config, wanted: &DesiredPeers, links: &[Prefix]) -> ReturnPath {
    let Some(own) = snapshot.own_node() else { return ReturnPath::default() };
    let (mode, notice) = Mode::of(&snapshot.node_name, own, config.return_path);
    let mut path = match mode {
        Mode::Off => ReturnPath::default(),
        Mode::Peer => {
            let neighbours = neighbours(wanted, links);
            let peers = neighbours.iter().map(|neighbour| neighbour.address).chain(outside(wanted));
            return_path::build(&snapshot.node_name, peers, links, &[uplink()], &neighbours)
        }
    };
    path.notices.extend(notice);
    path
}

fn outside(wanted: &DesiredPeers) -> impl Iterator<Item = IpAddr> + '_ {
    wanted.peers.iter().filter(|peer| !peer.node).map(|peer| peer.address)
}

/// The external peers on a link of the node, each with an Ethernet address for documentation.
pub fn neighbours(wanted: &DesiredPeers, links: &[Prefix]) -> Vec<Neighbour> {
    let on_link = outside(wanted).filter(|peer| links.iter().any(|link| link.contains(peer)));
    let station = |number| [0, 0, 0x5e, 0, 0x53, number];
    on_link.zip(1..).map(|(address, number)| Neighbour { link: UPLINK, address, station: station(number) }).collect()
}

/// The link with the node's addresses.
fn uplink() -> Link {
    Link {
        index: UPLINK,
        name: UPLINK_NAME.to_owned(),
        kind: String::new(),
        up: true,
        carrier: true,
        no_arp: false,
        loopback: false,
        mtu: MTU,
        master: None,
        tunnel: None,
    }
}

/// The addresses the node is assumed to have.
fn links_of(node: Option<&Node>) -> Vec<Address> {
    let length = |address: IpAddr| if address.is_ipv4() { 24 } else { 64 };
    let on_link = |address: IpAddr| {
        let prefix = Prefix::new(address, length(address)).ok()?;
        Some(Address { link: UPLINK, prefix, scope: 0 })
    };
    node.into_iter().flat_map(Node::addresses).filter_map(on_link).collect()
}

/// Tunnels, rules and routes, as what makes them.
fn ip(snapshot: &Snapshot, config: &Config, desired: &Desired, links: &[Address], back: &ReturnPath) -> String {
    let prefixes: Vec<Prefix> = links.iter().map(|address| address.prefix).collect();
    let tunnels = overlay::tunnels(snapshot, config, &prefixes, MTU);
    let indexes: BTreeMap<String, u32> =
        tunnels.values().map(|tunnel| tunnel.name.clone()).zip(FIRST_TUNNEL..).collect();
    let mut ops = Vec::new();
    for tunnel in tunnels.values() {
        ops.push(Op::AddTunnel { name: tunnel.name.clone(), tunnel: plan::tunnel_link(tunnel) });
        let link = indexes.get(&tunnel.name).copied().unwrap_or_default();
        ops.push(Op::SetMtu { link, mtu: tunnel.mtu });
        ops.push(Op::SetUp { link, up: true });
        ops.push(Op::AddAddress(plan::tunnel_address(tunnel, link)));
    }
    ops.extend(overlay::rules(snapshot, config).into_iter().map(Op::AddRule));
    let mut routes: Vec<Route> = Vec::new();
    routes.extend(overlay::tunnel_routes(&tunnels).iter().filter_map(|route| plan::route(route, &indexes, links)));
    let boundary = Boundary::new(snapshot, config, desired.listed(), &prefixes, tunnels);
    for (name, node) in &snapshot.nodes {
        for pods in &node.pod_cidrs {
            if *name == snapshot.node_name {
                routes.push(plan::last_resort(pods.trunc()));
                continue;
            }
            let Some(hop) = node.best_ip(Family::of(pods.addr())) else { continue };
            let route = boundary.install(pods.trunc(), &[hop]).ok();
            routes.extend(route.and_then(|route| plan::route(&route, &indexes, links)));
        }
    }
    ops.extend(return_path::plan(back, &[], &[]));
    ops.extend(routes.into_iter().map(Op::ReplaceRoute));
    let names: Vec<(String, &str)> = indexes
        .iter()
        .map(|(name, index)| (format!("if{index}"), name.as_str()))
        .chain([(format!("if{UPLINK}"), UPLINK_NAME)])
        .collect();
    let by_name = |op: &Op| {
        let text = op.to_string();
        let word = |word: &str| names.iter().find(|(index, _)| index == word).map_or(word, |(_, name)| name).to_owned();
        text.split(' ').map(word).collect::<Vec<String>>().join(" ") + "\n"
    };
    ops.iter().map(by_name).collect()
}

/// A text as a list of its lines.
fn lines<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(text.lines())
}

impl Display for Rendered {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "# node {}", self.node)?;
        for Notice { subject, reason, message, .. } in &self.notices {
            writeln!(f, "# {subject} ({reason}): {message}")?;
        }
        writeln!(f, "\n# bgp\n{}", self.bgp)?;
        writeln!(f, "# tunnels, rules and routes\n{}", self.ip)?;
        write!(f, "# nft list ruleset\n{}", self.nft)
    }
}

/// The speaker and its peers.
pub fn peers(config: &SpeakerConfig) -> String {
    let mut text = format!("as {} router-id {} cluster-id {}\n", config.asn, config.router_id, config.cluster_id);
    for listen in &config.listen {
        let _ = writeln!(text, "listen {listen}");
    }
    for (address, config) in &config.peers {
        text.push_str(&peer(address, config));
    }
    for (range, config) in &config.dynamic {
        text.push_str(&peer(range, config));
    }
    text
}

/// One peer, or all of a range.
pub fn peer(address: &impl std::fmt::Display, peer: &PeerConfig) -> String {
    let asn = peer.asn.map_or_else(|| "any".to_owned(), |asn| asn.to_string());
    let mut text = format!("peer {address} as {asn} port {}", peer.port);
    if !peer.description.is_empty() {
        let _ = write!(text, " ({})", peer.description);
    }
    text.push('\n');
    if let Some(local) = peer.local_address {
        let _ = writeln!(text, "  local {local} as {}", peer.local_asn);
    }
    let families: Vec<String> = peer.families.iter().map(ToString::to_string).collect();
    let _ = write!(text, "  families {} hold {}s", families.join(","), peer.hold_time);
    match peer.distance {
        Distance::Link => text.push_str(" on the link"),
        Distance::Multihop(hops) => {
            let _ = write!(text, " ttl {hops}");
        }
        Distance::Security(hops) => {
            let _ = write!(text, " gtsm {hops}");
        }
    }
    text.push('\n');
    let mut more = Vec::new();
    if !peer.password.0.is_empty() {
        more.push("md5".to_owned());
    }
    if let Some(text) = &peer.shutdown {
        more.push(format!("no session: {text}"));
    }
    if peer.passive {
        more.push("passive".to_owned());
    }
    if peer.next_hop_unchanged {
        more.push("next hops unchanged".to_owned());
    }
    let explicit = [peer.next_hop_v4.map(IpAddr::V4), peer.next_hop_v6.map(|hop| hop.address)];
    more.extend(explicit.into_iter().flatten().map(|address| format!("next hop {address}")));
    if peer.client {
        more.push("reflector client".to_owned());
    }
    if !peer.add_path_send.is_empty() {
        more.push("all paths".to_owned());
    }
    if !peer.add_path_receive.is_empty() {
        more.push("takes all paths".to_owned());
    }
    if peer.extended_next_hop {
        more.push("ipv6 next hops for ipv4".to_owned());
    }
    if let Some(restart) = peer.graceful_restart {
        more.push(format!("graceful restart {}s", restart.restart_time));
    }
    if peer.long_lived > 0 {
        more.push(format!("long-lived {}s", peer.long_lived));
    }
    if let Some(most) = peer.max_prefixes {
        more.push(format!("at most {most} routes"));
    }
    if let Some(bfd) = peer.bfd {
        let port = bfd.port.map_or_else(|| "default".to_owned(), |port| port.to_string());
        let timers = bfd.timers;
        more.push(format!(
            "bfd port {port} tx {}ms rx {}ms x{}",
            timers.desired_min_tx.as_millis(),
            timers.required_min_rx.as_millis(),
            timers.multiplier
        ));
    }
    if !more.is_empty() {
        let _ = writeln!(text, "  {}", more.join(", "));
    }
    text
}

/// Own routes.
pub fn originated(routes: &BTreeMap<Prefix, Vec<Attributes>>) -> String {
    let mut text = String::new();
    for (prefix, paths) in routes {
        for path in paths {
            let _ = writeln!(text, "originate {prefix} next-hop {}", path.next_hop.address);
        }
    }
    text
}
