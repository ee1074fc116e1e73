//! From what this node wants to what the speaker is told (pure).
//!
//! [`build`] makes the speaker's configuration; [`Told`] remembers what the speaker heard and gives the difference:
//! withdrawals first, then configuration or one edit of the VIP set, then announcements. One VIP more costs one VIP.
//! [`Leaving`] keeps sessions with other nodes for a while when the mesh becomes a reflected one or the other way
//! round, and a reflector goes on reflecting: new sessions come up before old ways go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::bgp::bfd::driver::Ports;
use super::bgp::bfd::session::Timers;
use super::bgp::policy::{NodePolicy, PrefixRange, Prepend, node_policies, vip_set};
use super::bgp::rib;
use super::bgp::speaker::{Bfd, Change, Config as SpeakerConfig, Password, PeerConfig};
use super::bgp::tcp::Distance;
use super::bgp::types::{AsPath, Attributes, NextHop, Origin, OwnRestart, PeerKind};
use super::config::Config;
use super::desired::router_id;
use super::peers::{AddPath, DesiredPeer, DesiredPeers, NextHops, Reflector};
use super::speakers::{Style, is_speaker};
use crate::model::Snapshot;
use crate::net::{Family, Prefix, host_prefix};

/// Hops between peers of one AS.
const ANY_DISTANCE: u8 = 255;
/// How long a session lingers at least after it is not wanted any more.
pub const LINGER: Duration = Duration::from_secs(10);
/// How long it lingers at most.
pub const LINGER_AT_MOST: Duration = Duration::from_secs(60);

/// The attributes of a route that starts here.
pub fn own_route(next_hop: IpAddr) -> Attributes {
    Attributes::new(Origin::Igp, AsPath::empty(), NextHop::from(next_hop))
}

/// The speaker's configuration; `None` while the node has no identifier. `links` are this node's addresses with the
/// length of their links' prefixes, `vips` what is announced now, `leaving` what goes soon.
pub fn build<'a>(
    desired: &DesiredPeers,
    snapshot: &Snapshot,
    config: &Config,
    links: &[Prefix],
    vips: impl IntoIterator<Item = &'a IpAddr>,
    leaving: &Leaving,
) -> Option<SpeakerConfig> {
    let own = snapshot.own_node()?;
    let router_id = router_id(own, config.router_id)?;
    let asn = desired.asn.unwrap_or(config.cluster_asn);
    let names: BTreeMap<IpAddr, &str> = snapshot
        .nodes
        .iter()
        .flat_map(|(name, node)| node.addresses().map(move |address| (address, name.as_str())))
        .collect();
    let reflects = match desired.reflector {
        Some(Reflector::Server(id)) => Some(id),
        // A client with its reflector's id would take every reflected route for a loop (RFC 4456 8).
        Some(Reflector::Client(_)) => leaving.reflector().map(|_| router_id),
        None => leaving.reflector(),
    };
    // Routers beside a speaker or a reflector hear of every way there is, where they can.
    let several = config.advertise_style == Style::Speakers || reflects.is_some();
    // A node that does not speak knows the routers outside only as ways back for answers.
    let silent = config.advertise_style == Style::Speakers && !is_speaker(own, &config.speaker_selector);
    let made = |peer: &DesiredPeer| {
        let mut made = peer_config(peer, asn, links);
        made.client |= leaving.is_client(&peer.address);
        made.shutdown = (silent && !peer.node).then(|| "this node is no speaker".to_owned());
        if several && !peer.node && peer.options.add_path.is_none() {
            made.add_path_send.clone_from(&made.families);
        }
        made.description = match (names.get(&peer.address), peer.node) {
            (Some(name), true) => format!("node {name}"),
            _ => String::new(),
        };
        made
    };
    let named = |peer: &DesiredPeer| (peer.address, made(peer));
    let mut peers: BTreeMap<IpAddr, PeerConfig> = leaving.peers().map(named).collect();
    peers.extend(desired.peers.iter().map(named));
    let dynamic = desired.ranges.iter().filter(|_| !silent).map(|(range, peer)| (*range, made(peer))).collect();
    let listen = if desired.asn.is_some() { desired.listen.as_slice() } else { &[] };
    Some(SpeakerConfig {
        asn,
        router_id,
        cluster_id: reflects.unwrap_or(router_id),
        listen: listen.iter().map(|address| SocketAddr::new(*address, config.bgp_port)).collect(),
        decision: rib::Settings {
            multipath: true,
            relax_as_path: false,
            always_compare_med: false,
            prefer_older: false,
        },
        policies: node_policies(&NodePolicy {
            pod_cidrs: own.pod_cidrs.iter().map(Prefix::trunc).collect(),
            vips: vips.into_iter().copied().collect(),
            node_addresses: if config.ibgp {
                snapshot.nodes.values().filter_map(|node| node.primary_ip()).chain(node_peers(desired)).collect()
            } else {
                Vec::new()
            },
            external_peers: outside(desired, |_| true),
            unchanged_peers: outside(desired, |peer| peer.options.next_hops == NextHops::Unchanged),
            own_next_hop_peers: outside(desired, |peer| matches!(peer.options.next_hops, NextHops::Own { .. })),
            own_as_peers: outside(desired, |peer| peer.kind == PeerKind::Internal),
            prepend: desired.prepend.map(|prepend| Prepend { asn: Some(prepend.asn), times: prepend.times }),
            communities: desired.communities.clone(),
            import_reject: desired.import_reject.clone(),
            default_routes: {
                let allowed = config.allowed_imports.iter().filter(|prefix| prefix.prefix_len() == 0);
                allowed.map(|prefix| Family::of(prefix.addr())).collect()
            },
            advertise_pod_cidr: config.advertise_pod_cidr,
            override_next_hop: config.override_next_hop,
            reflector: reflects.is_some(),
            graceful_shutdown: config.graceful_shutdown,
        }),
        peers,
        dynamic,
    })
}

/// The peers outside the cluster for which this holds, by address or range.
fn outside(desired: &DesiredPeers, holds: impl Fn(&DesiredPeer) -> bool) -> Vec<Prefix> {
    let named = desired.peers.iter().filter(|peer| !peer.node).map(|peer| (host_prefix(peer.address), peer));
    let ranges = desired.ranges.iter().map(|(range, peer)| (*range, peer));
    named.chain(ranges).filter(|(_, peer)| holds(peer)).map(|(peers, _)| peers).collect()
}

/// A session with a node may be with another than its primary address.
fn node_peers(desired: &DesiredPeers) -> impl Iterator<Item = IpAddr> + '_ {
    desired.peers.iter().filter(|peer| peer.node).map(|peer| peer.address)
}

fn peer_config(peer: &DesiredPeer, asn: crate::net::Asn, links: &[Prefix]) -> PeerConfig {
    let is_shared = |link: &&Prefix| link.contains(&peer.address);
    let options = &peer.options;
    let AddPath { receive, send } = options.add_path.unwrap_or(AddPath { receive: false, send: false });
    let (next_hop_v4, next_hop_v6) = match options.next_hops {
        NextHops::Own { v4, v6 } => (v4, v6.map(|address| NextHop::from(IpAddr::V6(address)))),
        NextHops::AsFlags | NextHops::Unchanged => (None, None),
    };
    PeerConfig {
        description: String::new(),
        asn: peer.asn,
        local_asn: asn,
        port: peer.port,
        local_address: Some(peer.local_address),
        scope: 0,
        password: Password(peer.password.as_ref().map(|password| password.reveal().to_vec()).unwrap_or_default()),
        distance: match (options.security, peer.kind, peer.multihop) {
            (Some(hops), ..) => Distance::Security(hops),
            (None, PeerKind::Internal, _) => Distance::Multihop(ANY_DISTANCE),
            (None, PeerKind::External, Some(hops)) => Distance::Multihop(hops),
            (None, PeerKind::External, None) => Distance::Link,
        },
        passive: options.passive,
        shutdown: None,
        families: peer.families.clone(),
        hold_time: u16::try_from(peer.hold_time.as_secs()).unwrap_or(u16::MAX),
        add_path_receive: if receive { peer.families.clone() } else { Vec::new() },
        add_path_send: if send { peer.families.clone() } else { Vec::new() },
        // An IPv4 session can carry IPv4 next hops, so only the other kind needs it.
        extended_next_hop: peer.address.is_ipv6() && peer.families.contains(&Family::V4),
        graceful_restart: peer.graceful_restart.map(|restart| OwnRestart {
            // A part of a second is a second.
            restart_time: u16::try_from(restart.restart_time.as_millis().div_ceil(1000)).unwrap_or(u16::MAX),
            restarting: false,
            // With it, a peer that hears nothing any more would go on sending packets into a dead node.
            notification: false,
        }),
        long_lived: options.long_lived.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        client: peer.reflector_client,
        next_hop_self: false,
        next_hop_unchanged: options.next_hops == NextHops::Unchanged,
        next_hop_v4,
        next_hop_v6,
        shared: links.iter().filter(is_shared).map(Prefix::trunc).collect(),
        bfd: peer.bfd.map(|bfd| Bfd {
            // What stands for the usual port is the usual one of either kind.
            port: Some(bfd.port).filter(|port| *port != Ports::default().single_hop),
            timers: Timers {
                desired_min_tx: bfd.desired_min_tx,
                required_min_rx: bfd.required_min_rx,
                multiplier: bfd.detection_multiplier,
            },
        }),
        max_prefixes: options.max_prefixes,
    }
}

/// What changes in own routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteChanges {
    /// Prefixes that go.
    pub withdraw: Vec<Prefix>,
    /// Prefixes that come or have other paths.
    pub announce: Vec<(Prefix, Vec<Attributes>)>,
    /// VIPs among those that go.
    pub vips_gone: Vec<IpAddr>,
    /// VIPs among those that come.
    pub vips_new: Vec<IpAddr>,
}

impl RouteChanges {
    /// True where nothing changes.
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty() && self.vips_gone.is_empty() && self.vips_new.is_empty()
    }
}

/// What the speaker was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The configuration without its VIPs.
    frame: Option<SpeakerConfig>,
    vips: BTreeSet<IpAddr>,
    routes: BTreeMap<Prefix, Vec<Attributes>>,
}

impl Told {
    /// The routes announced.
    pub fn routes(&self) -> &BTreeMap<Prefix, Vec<Attributes>> {
        &self.routes
    }

    /// The VIPs among them.
    pub fn vips(&self) -> &BTreeSet<IpAddr> {
        &self.vips
    }

    /// The configuration in force, without the VIPs in its policies.
    pub fn config(&self) -> Option<&SpeakerConfig> {
        self.frame.as_ref()
    }

    /// Brings the speaker from what it was told to what it should know. `frame` makes the configuration with the VIPs
    /// it is given, and is asked only where `reframe` says that something else than VIPs may have changed or where
    /// the first VIP of a family comes or the last one goes.
    pub fn tell(
        &mut self,
        routes: RouteChanges,
        reframe: bool,
        frame: impl Fn(&BTreeSet<IpAddr>) -> Option<SpeakerConfig>,
    ) -> Vec<Change> {
        let before = kinds_of(&self.vips);
        let silent = self.frame.is_none();
        for vip in &routes.vips_gone {
            self.vips.remove(vip);
        }
        self.vips.extend(&routes.vips_new);
        let mut changes = Vec::new();
        if !routes.withdraw.is_empty() {
            for prefix in &routes.withdraw {
                self.routes.remove(prefix);
            }
            changes.push(Change::Withdraw(routes.withdraw));
        }
        let configure = if reframe || self.frame.is_none() || before != kinds_of(&self.vips) {
            let examples: BTreeSet<IpAddr> = example_vips(&self.vips);
            let newer = frame(&examples).map(without_vips);
            let differs = newer != self.frame;
            self.frame = newer.or(self.frame.take());
            differs
        } else {
            false
        };
        match (&self.frame, configure) {
            (Some(frame), true) => changes.push(Change::Configure(Box::new(with_vips(frame.clone(), &self.vips)))),
            (Some(_), false) => changes.extend(edits(&routes.vips_new, &routes.vips_gone)),
            (None, _) => {}
        }
        // The first announcement, be it empty, tells the speaker that it knows all own routes.
        if !routes.announce.is_empty() || (silent && self.frame.is_some()) {
            for (prefix, paths) in &routes.announce {
                self.routes.insert(*prefix, paths.clone());
            }
            changes.push(Change::Announce(routes.announce));
        }
        changes
    }
}

/// Whether there are VIPs of each family; IPv4 ones sort first.
fn kinds_of(vips: &BTreeSet<IpAddr>) -> [bool; 2] {
    [vips.first().is_some_and(IpAddr::is_ipv4), vips.last().is_some_and(IpAddr::is_ipv6)]
}

/// One VIP of each family there is: policies depend on nothing else.
fn example_vips(vips: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    vips.first().into_iter().chain(vips.last()).copied().collect()
}

fn without_vips(mut config: SpeakerConfig) -> SpeakerConfig {
    for family in Family::ALL {
        config.policies.sets.prefix.insert(vip_set(family), Vec::new());
    }
    config
}

fn with_vips(mut config: SpeakerConfig, vips: &BTreeSet<IpAddr>) -> SpeakerConfig {
    for family in Family::ALL {
        let of_family = vips.iter().filter(|vip| Family::of(**vip) == family);
        let ranges = of_family.map(|vip| PrefixRange::exact(host_prefix(*vip))).collect();
        config.policies.sets.prefix.insert(vip_set(family), ranges);
    }
    config
}

fn edits(new: &[IpAddr], gone: &[IpAddr]) -> Vec<Change> {
    let ranges = |vips: &[IpAddr], family: Family| -> Vec<PrefixRange> {
        let of_family = vips.iter().filter(|vip| Family::of(**vip) == family);
        of_family.map(|vip| PrefixRange::exact(host_prefix(*vip))).collect()
    };
    let edit = |family: Family| {
        let (add, remove) = (ranges(new, family), ranges(gone, family));
        let change = Change::EditPrefixSet { set: vip_set(family), add: add.clone(), remove: remove.clone() };
        (!add.is_empty() || !remove.is_empty()).then_some(change)
    };
    Family::ALL.into_iter().filter_map(edit).collect()
}

/// What is not wanted any more but stays until what is wanted is up: sessions with nodes, and reflecting between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    peers: BTreeMap<IpAddr, (DesiredPeer, Duration)>,
    /// Nodes that were clients of this one, and since when they are none.
    clients: BTreeMap<IpAddr, Duration>,
    /// This node's cluster as a reflector, and since when it is none.
    reflector: Option<(Ipv4Addr, Duration)>,
    last: Vec<DesiredPeer>,
    last_reflector: Option<Reflector>,
}

impl Leaving {
    /// Takes in what is wanted now, and says whether what lingers is another than before. A session with a node that is
    /// still in the cluster lingers; one with a node that is gone, or with a router outside, does not. `up` are the
    /// addresses of peers with an established session.
    ///
    /// Reflecting lingers for [`LINGER_AT_MOST`], and not shorter: the sessions that take its place are between other
    /// nodes, and this one does not see when they are up.
    pub fn update(&mut self, wanted: &DesiredPeers, snapshot: &Snapshot, up: &BTreeSet<IpAddr>, now: Duration) -> bool {
        let before = self.lingering();
        self.update_reflecting(wanted, now);
        let is_wanted = |address: &IpAddr| wanted.peers.iter().any(|peer| peer.address == *address);
        for peer in self.last.iter().filter(|peer| peer.node && !is_wanted(&peer.address)) {
            self.peers.entry(peer.address).or_insert_with(|| (peer.clone(), now));
        }
        let nodes: BTreeSet<IpAddr> = snapshot
            .nodes
            .iter()
            .filter(|(name, _)| **name != snapshot.node_name)
            .flat_map(|(_, node)| node.addresses())
            .collect();
        let all_up = wanted.peers.iter().filter(|peer| peer.node).all(|peer| up.contains(&peer.address));
        let asn_of = |peer: &DesiredPeer| peer.asn == wanted.asn;
        self.peers.retain(|address, (peer, since)| {
            let lingers = now.saturating_sub(*since);
            let enough = if all_up { LINGER } else { LINGER_AT_MOST };
            nodes.contains(address) && !is_wanted(address) && asn_of(peer) && lingers < enough
        });
        self.last.clone_from(&wanted.peers);
        before != self.lingering()
    }

    fn update_reflecting(&mut self, wanted: &DesiredPeers, now: Duration) {
        let recent = |since: Duration| now.saturating_sub(since) < LINGER_AT_MOST;
        let older = std::mem::replace(&mut self.last_reflector, wanted.reflector);
        self.reflector = match (older, wanted.reflector) {
            (_, Some(Reflector::Server(_))) => None,
            (Some(Reflector::Server(id)), _) => Some((id, now)),
            _ => self.reflector.filter(|(_, since)| recent(*since)),
        };
        let were = self.last.iter().chain(self.peers()).filter(|peer| peer.node && peer.reflector_client);
        let were: BTreeSet<IpAddr> = were.map(|peer| peer.address).collect();
        let none_now = wanted.peers.iter().filter(|peer| peer.node && !peer.reflector_client);
        let none_now: BTreeSet<IpAddr> = none_now.map(|peer| peer.address).collect();
        self.clients.retain(|address, since| none_now.contains(address) && recent(*since));
        for address in were.intersection(&none_now) {
            self.clients.entry(*address).or_insert(now);
        }
    }

    fn lingering(&self) -> (Vec<IpAddr>, Vec<IpAddr>, Option<Ipv4Addr>) {
        (self.peers.keys().copied().collect(), self.clients.keys().copied().collect(), self.reflector())
    }

    /// The sessions that linger.
    pub fn peers(&self) -> impl Iterator<Item = &DesiredPeer> {
        self.peers.values().map(|(peer, _)| peer)
    }

    /// Whether a node that is no client any more is still treated as one.
    pub fn is_client(&self, address: &IpAddr) -> bool {
        self.clients.contains_key(address)
    }

    /// The cluster id of a node that is no reflector any more but still reflects.
    pub fn reflector(&self) -> Option<Ipv4Addr> {
        self.reflector.map(|(id, _)| id)
    }

    /// True where nothing lingers.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.clients.is_empty() && self.reflector.is_none()
    }
}
