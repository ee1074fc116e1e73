//! Whom this node peers with (pure).
//!
//! Other nodes come from the snapshot (iBGP: full mesh, or all nodes of the same AS; RFC 4456 with reflectors),
//! external peers from flags, else from the annotation `kube-router.io/peers`, else from the older `peer.*` ones. An
//! entry that cannot be read is left out and told in a [`Notice`]; the others count. Each node reports only what its
//! own object says.

mod annotation;
mod external;
mod options;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use annotation::Reader;

use super::bgp::types::PeerKind;
use super::config::{Bfd, Config, GracefulRestart, Password};
use crate::model::{Node, NodeName, Notice, Snapshot};
use crate::net::{Asn, Family, Prefix};

pub use annotation::{parse_asn, parse_cluster_id, parse_community};

/// The keys this file reads, below `kube-router.io/`.
pub mod key {
    /// AS of a node outside the full mesh.
    pub const ASN: &str = "kube-router.io/node.asn";
    /// The node is a route reflector.
    pub const REFLECTOR_SERVER: &str = "kube-router.io/rr.server";
    /// The node is a client of route reflectors.
    pub const REFLECTOR_CLIENT: &str = "kube-router.io/rr.client";
    /// AS to prepend towards external peers.
    pub const PREPEND_AS: &str = "kube-router.io/path-prepend.as";
    /// How often.
    pub const PREPEND_TIMES: &str = "kube-router.io/path-prepend.repeat-n";
    /// Communities towards external peers.
    pub const COMMUNITIES: &str = "kube-router.io/node.bgp.communities";
    /// Prefixes never accepted.
    pub const IMPORT_REJECT: &str = "kube-router.io/node.bgp.customimportreject";
    /// Listening addresses.
    pub const LOCAL_ADDRESSES: &str = "kube-router.io/bgp-local-addresses";
    /// External peers as YAML.
    pub const PEERS: &str = "kube-router.io/peers";
    /// External peers, older form: addresses.
    pub const PEER_IPS: &str = "kube-router.io/peer.ips";
    /// External peers, older form: AS numbers.
    pub const PEER_ASNS: &str = "kube-router.io/peer.asns";
    /// External peers, older form: ports.
    pub const PEER_PORTS: &str = "kube-router.io/peer.ports";
    /// External peers, older form: passwords in base64.
    pub const PEER_PASSWORDS: &str = "kube-router.io/peer.passwords";
    /// External peers, older form: own addresses.
    pub const PEER_LOCAL_IPS: &str = "kube-router.io/peer.localips";
}

/// The port peers listen on where nothing else is said.
pub const BGP_PORT: u16 = 179;
/// Hold time between nodes.
pub const NODE_HOLD_TIME: Duration = Duration::from_secs(90);

/// A peer this node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS; `None` takes any.
    pub asn: Option<Asn>,
    /// Where it listens.
    pub port: u16,
    /// Our end.
    pub local_address: IpAddr,
    /// TCP-MD5 password.
    pub password: Option<Password>,
    /// Same AS or another one.
    pub kind: PeerKind,
    /// True for a node of this cluster, false for a router outside it.
    pub node: bool,
    /// Families to offer, IPv4 first.
    pub families: Vec<Family>,
    /// Hold time to propose.
    pub hold_time: Duration,
    /// TTL of packets to it where it may be more than one hop away.
    pub multihop: Option<u8>,
    /// BFD, where wanted.
    pub bfd: Option<Bfd>,
    /// Graceful restart, where wanted.
    pub graceful_restart: Option<GracefulRestart>,
    /// It is our route-reflector client.
    pub reflector_client: bool,
    /// What its entry says beyond that.
    pub options: PeerOptions,
}

/// What an entry of `kube-router.io/peers` may say beyond kube-router's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerOptions {
    /// `passive`: wait for it to connect.
    pub passive: bool,
    /// `ttlsecurity`: it is at most so many hops away, and what comes from farther is dropped (RFC 5082).
    pub security: Option<u8>,
    /// `multihop`, instead of `--peer-router-multihop-ttl`.
    pub multihop: Option<u8>,
    /// `holdtime`, instead of `--bgp-holdtime`.
    pub hold_time: Option<Duration>,
    /// `addpath`; without it, routers outside are sent several paths where this node speaks for others or reflects.
    pub add_path: Option<AddPath>,
    /// `longlivedstaletime`: how long routes stay as the last resort after the restart time (RFC 9494), in whole seconds.
    pub long_lived: Option<Duration>,
    /// `maxprefixes`: with more routes its session ends.
    pub max_prefixes: Option<u32>,
    /// `nexthop`, `nexthopself` or `nexthopunchanged`.
    pub next_hops: NextHops,
}

/// Several paths for one prefix (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddPath {
    /// Take them.
    pub receive: bool,
    /// Send them.
    pub send: bool,
}

/// Which next hop a peer is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHops {
    /// As `--override-nexthop` says.
    #[default]
    AsFlags,
    /// The one of the route.
    Unchanged,
    /// Ours: these, or our end of the session.
    Own {
        /// For IPv4.
        v4: Option<Ipv4Addr>,
        /// For IPv6.
        v6: Option<Ipv6Addr>,
    },
}

/// A node's part in route reflection, with the cluster id (RFC 4456).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflector {
    /// Reflects.
    Server(Ipv4Addr),
    /// Is reflected to.
    Client(Ipv4Addr),
}

/// AS path prepending towards external peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepend {
    /// What to prepend.
    pub asn: Asn,
    /// How often.
    pub times: u8,
}

/// Everything the flags and the nodes' annotations say about sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPeers {
    /// Our AS; `None` where the node names none and nodes do not form a full mesh: then there are no sessions.
    pub asn: Option<Asn>,
    /// Our part in route reflection.
    pub reflector: Option<Reflector>,
    /// The peers, in order of their addresses, one for each.
    pub peers: Vec<DesiredPeer>,
    /// Who may connect from these prefixes, where no peer has the address. The address in each is the prefix's.
    pub ranges: BTreeMap<Prefix, DesiredPeer>,
    /// Prepending towards external peers.
    pub prepend: Option<Prepend>,
    /// Communities towards external peers, sorted.
    pub communities: Vec<u32>,
    /// Prefixes that, with all longer ones, are never accepted from anybody.
    pub import_reject: Vec<Prefix>,
    /// Addresses to listen on.
    pub listen: Vec<IpAddr>,
    /// What was left out and why.
    pub notices: Vec<Notice>,
}

/// Whom this node peers with, and how.
pub fn build_peers(snapshot: &Snapshot, config: &Config) -> DesiredPeers {
    let Some(own) = snapshot.own_node() else { return DesiredPeers::default() };
    let mut reader = Reader::new(&snapshot.node_name, own);
    let asn = own_asn(config, &mut reader);
    let reflector = reader.reflector();
    let mut desired = DesiredPeers {
        asn,
        reflector,
        peers: Vec::new(),
        ranges: BTreeMap::new(),
        prepend: reader.prepend(),
        communities: reader.communities(),
        import_reject: reader.import_reject(),
        listen: listen(own, &mut reader),
        notices: Vec::new(),
    };
    if let Some(asn) = asn {
        let mut peers: BTreeMap<IpAddr, DesiredPeer> = BTreeMap::new();
        if config.ibgp {
            peers
                .extend(node_peers(snapshot, config, own, asn, reflector).into_iter().map(|peer| (peer.address, peer)));
        }
        let own_addresses: BTreeSet<IpAddr> = own.addresses().collect();
        for external::Found { place, range, peer } in external::external_peers(own, config, asn, &mut reader) {
            if let Some(range) = range {
                match desired.ranges.entry(range) {
                    Entry::Vacant(free) => {
                        free.insert(peer);
                    }
                    Entry::Occupied(_) => {
                        reader.warn(&place, &range.to_string(), "this range is there already: name each only once");
                    }
                }
                continue;
            }
            if own_addresses.contains(&peer.address) {
                reader.warn(&place, &peer.address.to_string(), "this is the node's own address: name another router");
                continue;
            }
            match peers.entry(peer.address) {
                Entry::Vacant(free) => {
                    free.insert(peer);
                }
                Entry::Occupied(_) => {
                    reader.warn(&place, &peer.address.to_string(), "this peer is there already: name each only once");
                }
            }
        }
        desired.peers = peers.into_values().collect();
    }
    desired.notices = reader.notices;
    desired
}

/// Whether a node of the cluster has a session with a router outside to announce Service addresses on, as far as flags
/// and its annotations say. Every node can tell it of every other one.
pub fn has_external_peers(name: &NodeName, node: &Node, config: &Config) -> bool {
    let mut reader = Reader::new(name, node);
    let asn = if config.full_mesh { Some(config.cluster_asn) } else { reader.asn() };
    let Some(asn) = asn else { return false };
    let peers = external::external_peers(node, config, asn, &mut reader);
    // Of a range nobody knows more than that such routers are expected.
    peers.iter().any(|found| found.range.is_some() || node.addresses().all(|own| own != found.peer.address))
}

fn own_asn(config: &Config, reader: &mut Reader<'_>) -> Option<Asn> {
    if config.full_mesh {
        return Some(config.cluster_asn);
    }
    let asn = reader.asn();
    if asn.is_none() && !reader.has(key::ASN) {
        reader.warn(key::ASN, "", "missing: without --nodes-full-mesh every node needs its AS number here");
    }
    asn
}

/// The addresses to listen on: those of the annotation, else the node's own in each family.
fn listen(own: &Node, reader: &mut Reader<'_>) -> Vec<IpAddr> {
    let named = reader.local_addresses();
    if named.is_empty() { Family::ALL.into_iter().filter_map(|family| own.best_ip(family)).collect() } else { named }
}

/// The families a node has addresses of.
fn families(node: &Node) -> Vec<Family> {
    Family::ALL.into_iter().filter(|family| node.best_ip(*family).is_some()).collect()
}

/// The other nodes this one has sessions with. Both ends come to the same answer, or a session could not come up.
fn node_peers(
    snapshot: &Snapshot,
    config: &Config,
    own: &Node,
    asn: Asn,
    reflector: Option<Reflector>,
) -> Vec<DesiredPeer> {
    let mut peers = Vec::new();
    for (name, node) in snapshot.nodes.iter().filter(|(name, _)| **name != snapshot.node_name) {
        let mut reader = Reader::new(name, node);
        let theirs = reader.reflector();
        let is_server = |part: Option<Reflector>| matches!(part, Some(Reflector::Server(_)));
        let is_client = |part: Option<Reflector>| matches!(part, Some(Reflector::Client(_)));
        let reflected = (is_client(reflector) && !is_server(theirs)) || (is_client(theirs) && !is_server(reflector));
        let same_as = config.full_mesh || reader.asn() == Some(asn);
        if reflected || !same_as {
            continue;
        }
        let Some((local_address, address)) = ends(own, node) else { continue };
        peers.push(DesiredPeer {
            address,
            asn: Some(asn),
            port: config.bgp_port,
            local_address,
            password: None,
            kind: PeerKind::Internal,
            node: true,
            families: families(own).into_iter().filter(|family| node.best_ip(*family).is_some()).collect(),
            hold_time: NODE_HOLD_TIME,
            multihop: None,
            bfd: None,
            graceful_restart: config.graceful_restart,
            reflector_client: is_server(reflector) && is_client(theirs),
            options: PeerOptions::default(),
        });
    }
    peers
}

/// Both ends of a session between two nodes: their primary addresses, else those of the first family both have.
fn ends(own: &Node, other: &Node) -> Option<(IpAddr, IpAddr)> {
    let primary = own.primary_ip().zip(other.primary_ip());
    let same_family = |(ours, theirs): &(IpAddr, IpAddr)| Family::of(*ours) == Family::of(*theirs);
    primary
        .filter(same_family)
        .or_else(|| Family::ALL.into_iter().find_map(|family| own.best_ip(family).zip(other.best_ip(family))))
        .filter(|(ours, theirs)| ours != theirs)
}

#[cfg(test)]
mod tests;
