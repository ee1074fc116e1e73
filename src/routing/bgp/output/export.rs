//! What one peer may be told of a path.

use std::net::{IpAddr, Ipv4Addr};

use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::policy::{PeerPolicy, PeerView, RouteType};
use crate::routing::bgp::types::{Attributes, NextHop, Nlri, PeerId, PeerKind, community};

/// This speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Our AS.
    pub asn: Asn,
    /// Our identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster as a reflector.
    pub cluster_id: Ipv4Addr,
}

/// Where a path came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The peer, [`PeerId::LOCAL`] where it starts here.
    pub peer: PeerId,
    /// How.
    pub route_type: RouteType,
    /// The peer is a client of our cluster.
    pub client: bool,
    /// The peer's identifier.
    pub router_id: Ipv4Addr,
}

impl Source {
    /// A path that starts here.
    pub fn local(own: &Own) -> Source {
        Source { peer: PeerId::LOCAL, route_type: RouteType::Local, client: false, router_id: own.router_id }
    }
}

/// A peer as what it is told depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The peer.
    pub peer: PeerId,
    /// Internal or external.
    pub kind: PeerKind,
    /// Its AS.
    pub asn: Asn,
    /// Our AS towards it.
    pub local_asn: Asn,
    /// Its identifier.
    pub router_id: Ipv4Addr,
    /// It is a client of our cluster.
    pub client: bool,
    /// Its address.
    pub address: IpAddr,
    /// Our IPv4 address towards it.
    pub local_v4: Option<Ipv4Addr>,
    /// Our IPv6 address towards it, where we know one.
    pub local_v6: Option<NextHop>,
    /// Subnets it is on with us: next hops inside are left to it (RFC 4271 5.1.3), other than its own address.
    pub shared: Vec<Prefix>,
    /// Families of the session.
    pub families: Vec<Family>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// An internal peer that gets our address as next hop.
    pub next_hop_self: bool,
    /// An external peer that gets the next hop a route came with.
    pub next_hop_unchanged: bool,
    /// It takes routes with its own AS on their path.
    pub takes_own_as: bool,
    /// Families in which it knows what a long-lived stale route is (RFC 9494).
    pub long_lived: Vec<Family>,
    /// AS numbers on the session have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Families whose routes go with path identifiers, all paths of them (RFC 7911).
    pub add_path: Vec<Family>,
    /// The longest message it takes.
    pub max_message: usize,
}

impl Target {
    /// The peer as policies see it.
    pub fn view(&self) -> PeerView {
        PeerView { address: self.address, local_v4: self.local_v4.map(IpAddr::V4), local_v6: self.local_v6 }
    }
}

/// What a peer is told of a path, if anything.
pub fn export(
    nlri: &Nlri,
    path: &Attributes,
    from: &Source,
    to: &Target,
    own: &Own,
    policy: &PeerPolicy,
) -> Option<Attributes> {
    may_send(path, from, to).then(|| rewrite(nlri, path, from, to, own, policy)).flatten()
}

/// The part of [`export`] that peers of one group answer differently: whether the path would come back to whom it came
/// from, or send the peer's packets to itself.
pub fn may_send(path: &Attributes, from: &Source, to: &Target) -> bool {
    if from.peer == to.peer && from.peer != PeerId::LOCAL {
        return false;
    }
    if from.route_type == RouteType::Local && path.next_hop.address == to.address {
        return false;
    }
    match to.kind {
        PeerKind::External => to.takes_own_as || !path.as_path.contains(to.asn),
        // The peer would have to ignore it (RFC 4456 8).
        PeerKind::Internal => path.originator_id != Some(to.router_id),
    }
}

/// The part of [`export`] that peers of one group answer alike.
pub fn rewrite(
    nlri: &Nlri,
    path: &Attributes,
    from: &Source,
    to: &Target,
    own: &Own,
    policy: &PeerPolicy,
) -> Option<Attributes> {
    let family = Family::of(nlri.prefix.addr());
    if !to.families.contains(&family) || stopped_by_community(path, to.kind) || !passes_reflector(from, to) {
        return None;
    }
    // Others would take it for a route as good as any (RFC 9494 4.3).
    if path.communities.contains(&community::LLGR_STALE) && !to.long_lived.contains(&family) {
        return None;
    }
    let mut route = path.clone();
    route.next_hop = next_hop(family, path.next_hop, from, to)?;
    match to.kind {
        PeerKind::External => {
            route.as_path = path.as_path.prepend(to.local_asn, 1);
            // A MED from another AS goes no further; one of our own making does (RFC 4271 5.1.4).
            if from.route_type != RouteType::Local {
                route.med = None;
            }
            route.local_pref = None;
            route.originator_id = None;
            route.cluster_list = Box::default();
            // Those of a type that is not transitive stay inside the AS (RFC 4360 6). What a policy adds below goes out.
            if route.extended_communities.iter().any(is_for_the_as) {
                let all = route.extended_communities.iter();
                route.extended_communities = all.filter(|each| !is_for_the_as(each)).copied().collect();
            }
        }
        PeerKind::Internal => {
            route.local_pref = Some(path.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
            if from.route_type == RouteType::Internal {
                route.originator_id = Some(path.originator_id.unwrap_or(from.router_id));
                route.cluster_list = std::iter::once(own.cluster_id).chain(path.cluster_list.iter().copied()).collect();
            }
        }
    }
    let decided = policy.evaluate(&nlri.prefix, from.route_type, &route, carried(path.next_hop, to))?;
    let mut route = decided.into_owned();
    // A policy may have added what stops a route, or what an external peer must not see.
    if stopped_by_community(&route, to.kind) || !fits(family, route.next_hop, to) {
        return None;
    }
    if to.kind == PeerKind::External {
        route.local_pref = None;
    }
    Some(route)
}

const DEFAULT_LOCAL_PREF: u32 = 100;

/// Whether an extended community goes no further than its AS (RFC 4360 2: the T bit).
fn is_for_the_as(community: &[u8; 8]) -> bool {
    const NON_TRANSITIVE: u8 = 0x40;
    community[0] & NON_TRANSITIVE != 0
}

fn stopped_by_community(route: &Attributes, to: PeerKind) -> bool {
    route.communities.iter().any(|value| match *value {
        community::NO_ADVERTISE => true,
        // We are no confederation, so the member AS is the AS.
        community::NO_EXPORT | community::NO_EXPORT_SUBCONFED => to == PeerKind::External,
        _ => false,
    })
}

/// Between internal peers only where one of them is a client (RFC 4456 6).
fn passes_reflector(from: &Source, to: &Target) -> bool {
    from.route_type != RouteType::Internal || to.kind == PeerKind::External || from.client || to.client
}

fn next_hop(family: Family, received: NextHop, from: &Source, to: &Target) -> Option<NextHop> {
    let local = from.route_type == RouteType::Local;
    let unknown = received.address.is_unspecified();
    let keep = match to.kind {
        // Reflected routes always keep it, or traffic would take the detour through the reflector (RFC 4456 10).
        PeerKind::Internal => !unknown && (!to.next_hop_self || from.route_type == RouteType::Internal),
        // What starts here names its next hop itself. Nobody is named to himself (RFC 4271 5.1.3).
        PeerKind::External => {
            let unchanged = to.next_hop_unchanged && received.address != to.address;
            !unknown && (local || unchanged || third_party(received, to))
        }
    };
    if keep && fits(family, received, to) {
        return Some(carried(received, to));
    }
    if to.kind == PeerKind::Internal && from.route_type == RouteType::Internal {
        return None;
    }
    let v4 = to.local_v4.map(|address| NextHop::from(IpAddr::V4(address)));
    match family {
        Family::V4 => v4.or(to.local_v6.filter(|_| to.extended_next_hop)),
        Family::V6 => to.local_v6,
    }
}

/// A next hop passed on: its link-local half means nothing off its link (RFC 2545 3).
fn carried(next_hop: NextHop, to: &Target) -> NextHop {
    NextHop { link_local: next_hop.link_local.filter(|_| third_party(next_hop, to)), ..next_hop }
}

fn third_party(next_hop: NextHop, to: &Target) -> bool {
    next_hop.address != to.address && to.shared.iter().any(|subnet| subnet.contains(&next_hop.address))
}

/// Whether the session can carry the next hop.
fn fits(family: Family, next_hop: NextHop, to: &Target) -> bool {
    match (family, Family::of(next_hop.address)) {
        (Family::V4, Family::V6) => to.extended_next_hop,
        (Family::V6, Family::V4) => false,
        (Family::V4, Family::V4) | (Family::V6, Family::V6) => true,
    }
}
