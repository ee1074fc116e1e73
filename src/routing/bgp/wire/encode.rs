//! UPDATE on the way out: attributes encoded once, routes packed into as many messages as they need.

use std::net::IpAddr;

use rustbgpd_wire::{
    Aggregator, AsPath, AsPathSegment, EncodeError, ExtendedCommunity, LargeCommunity, Origin as CodecOrigin,
    PathAttribute, RawAttribute as CodecRaw,
};

use super::prepared::{encode_prepared, prepare};
use super::{HEADER, MAX_EXTENDED, UNICAST, UPDATE, afi, begin, finish, put_length};
use crate::net::{Family, Prefix};
use crate::routing::bgp::types::{Attributes, Negotiated, NextHop, Nlri, Origin, family_of};

/// Optional, with a length of two octets.
const OPTIONAL_LONG: u8 = 0x90;
pub(super) const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;

/// Why a route cannot be sent on a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// A prefix of the other family.
    #[error("the prefix {0} is of another family than the message")]
    Family(Prefix),
    /// The session has no form for this next hop.
    #[error("the session cannot carry the next hop {0}")]
    NextHop(IpAddr),
    /// The attributes leave no room for a route.
    #[error("attributes of {0} octets leave no room for a route in a message")]
    TooLong(usize),
    /// An attribute that has no form.
    #[error("an attribute cannot be encoded: {0}")]
    Attribute(String),
}

/// Appends as many UPDATEs as the routes need. On error nothing is appended.
pub fn encode_reach(
    attributes: &Attributes,
    family: Family,
    nlri: &[Nlri],
    session: &Negotiated,
    out: &mut Vec<u8>,
) -> Result<(), Unsendable> {
    check(family, nlri)?;
    if nlri.is_empty() {
        return Ok(());
    }
    let mut prepared = Vec::with_capacity(64);
    prepare(attributes, family, session.into(), &mut prepared)?;
    let ids = session.add_path_send.contains(&family);
    encode_prepared(&prepared, &flat(nlri, ids), ids, session.max_message, out)
}

/// Appends UPDATEs that withdraw the routes: IPv4 in the field for it, IPv6 in MP_UNREACH_NLRI.
pub fn encode_withdraw(family: Family, nlri: &[Nlri], session: &Negotiated, out: &mut Vec<u8>) {
    let ids = session.add_path_send.contains(&family);
    withdraw(family, &flat(nlri, ids), ids, session.max_message, out);
}

/// The same for routes that are bytes already, with path identifiers where `ids` says so.
pub fn withdraw(family: Family, routes: &[u8], ids: bool, max_message: usize, out: &mut Vec<u8>) {
    let head = [0, afi(family), UNICAST];
    let taken = HEADER + 4 + if family == Family::V6 { 4 + head.len() } else { 0 };
    let room = max_message.min(MAX_EXTENDED).saturating_sub(taken);
    let mut rest = routes;
    while !rest.is_empty() {
        let (now, later) = fill(rest, room, ids);
        rest = later;
        let start = begin(UPDATE, out);
        out.extend_from_slice(&[0, 0]);
        let field = out.len();
        match family {
            Family::V4 => {
                out.extend_from_slice(now);
                put_length(field - 2, out.len() - field, out);
                out.extend_from_slice(&[0, 0]);
            }
            Family::V6 => {
                out.extend_from_slice(&[0, 0]);
                attribute_of_routes(MP_UNREACH, &head, now, out);
                put_length(field, out.len() - field - 2, out);
            }
        }
        finish(start, out);
    }
}

/// Appends the End-of-RIB mark (RFC 4724 2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let start = begin(UPDATE, out);
    out.extend_from_slice(&[0, 0]);
    match family {
        Family::V4 => out.extend_from_slice(&[0, 0]),
        Family::V6 => out.extend_from_slice(&[0, 6, 0x80, MP_UNREACH, 3, 0, afi(family), UNICAST]),
    }
    finish(start, out);
}

fn check(family: Family, nlri: &[Nlri]) -> Result<(), Unsendable> {
    match nlri.iter().find(|route| family_of(&route.prefix) != family) {
        Some(route) => Err(Unsendable::Family(route.prefix)),
        None => Ok(()),
    }
}

pub(super) fn unencodable(error: EncodeError) -> Unsendable {
    Unsendable::Attribute(error.to_string())
}

/// As many routes as there is room for, at least one, and the others.
pub(super) fn fill(routes: &[u8], room: usize, ids: bool) -> (&[u8], &[u8]) {
    if routes.len() <= room {
        return (routes, &[]);
    }
    let mut used = first_length(routes, ids);
    loop {
        let next = used + first_length(routes.get(used..).unwrap_or_default(), ids);
        if next > room || next == used {
            return routes.split_at_checked(used).unwrap_or((routes, &[]));
        }
        used = next;
    }
}

/// Octets of the first route; 0 where there is none.
pub(super) fn first_length(routes: &[u8], ids: bool) -> usize {
    let before = if ids { 4 } else { 0 };
    routes.get(before).map_or(0, |length| before + 1 + usize::from(length.div_ceil(8)))
}

/// Routes as they stand in a message.
pub(super) fn flat(nlri: &[Nlri], ids: bool) -> Vec<u8> {
    let mut routes = Vec::with_capacity(nlri.len() * if ids { 9 } else { 5 });
    for route in nlri {
        if ids {
            routes.extend_from_slice(&route.path_id.to_be_bytes());
        }
        put_prefix(&route.prefix, &mut routes);
    }
    routes
}

/// Length in bits, then as many octets as it takes.
pub(super) fn put_prefix(prefix: &Prefix, out: &mut Vec<u8>) {
    let length = prefix.prefix_len();
    out.push(length);
    let octets = usize::from(length.div_ceil(8));
    match prefix {
        Prefix::V4(prefix) => out.extend_from_slice(prefix.network().octets().get(..octets).unwrap_or_default()),
        Prefix::V6(prefix) => out.extend_from_slice(prefix.network().octets().get(..octets).unwrap_or_default()),
    }
}

/// MP_REACH_NLRI or MP_UNREACH_NLRI: what stands before the routes, and the routes.
pub(super) fn attribute_of_routes(code: u8, head: &[u8], routes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[OPTIONAL_LONG, code, 0, 0]);
    let value = out.len();
    out.extend_from_slice(head);
    out.extend_from_slice(routes);
    put_length(value - 2, out.len() - value, out);
}

/// AFI, SAFI, the IPv6 next hop with its link-local companion (RFC 2545 3, 8950 3), and the reserved octet.
pub(super) fn reach_head(family: Family, hop: &NextHop) -> Option<Vec<u8>> {
    let IpAddr::V6(address) = hop.address else { return None };
    let mut head = vec![0, afi(family), UNICAST];
    match hop.link_local {
        Some(link_local) => {
            head.push(32);
            head.extend(address.octets());
            head.extend(link_local.octets());
        }
        None => {
            head.push(16);
            head.extend(address.octets());
        }
    }
    head.push(0);
    Some(head)
}

/// The attributes in the codec's words, in order of their codes; all but MP_REACH_NLRI.
pub(super) fn to_codec(attributes: &Attributes, next_hop: bool) -> Vec<PathAttribute> {
    let mut all = Vec::with_capacity(8);
    all.push(PathAttribute::Origin(match attributes.origin {
        Origin::Igp => CodecOrigin::Igp,
        Origin::Egp => CodecOrigin::Egp,
        Origin::Incomplete => CodecOrigin::Incomplete,
    }));
    let asns: Vec<u32> = attributes.as_path.0.iter().map(|asn| asn.0).collect();
    let segments = if asns.is_empty() { Vec::new() } else { vec![AsPathSegment::AsSequence(asns)] };
    all.push(PathAttribute::AsPath(AsPath { segments }));
    if let (true, IpAddr::V4(address)) = (next_hop, attributes.next_hop.address) {
        all.push(PathAttribute::NextHop(address));
    }
    all.extend(attributes.med.map(PathAttribute::Med));
    all.extend(attributes.local_pref.map(PathAttribute::LocalPref));
    if attributes.atomic_aggregate {
        all.push(PathAttribute::AtomicAggregate);
    }
    all.extend(
        attributes
            .aggregator
            .map(|(asn, router_id)| PathAttribute::Aggregator(Aggregator { asn: asn.0, router_id, partial: false })),
    );
    communities_to_codec(attributes, &mut all);
    for raw in &attributes.unknown {
        let data = raw.value.to_vec().into();
        all.push(PathAttribute::Unknown(CodecRaw { flags: raw.flags, type_code: raw.code, data }));
    }
    all
}

/// COMMUNITIES to LARGE_COMMUNITY; empty ones are left out (RFC 7606 7.8).
fn communities_to_codec(attributes: &Attributes, all: &mut Vec<PathAttribute>) {
    if !attributes.communities.is_empty() {
        all.push(PathAttribute::Communities(attributes.communities.to_vec()));
    }
    all.extend(attributes.originator_id.map(PathAttribute::OriginatorId));
    if !attributes.cluster_list.is_empty() {
        all.push(PathAttribute::ClusterList(attributes.cluster_list.to_vec()));
    }
    if !attributes.extended_communities.is_empty() {
        let each = attributes.extended_communities.iter();
        let each = each.map(|octets| ExtendedCommunity::new(u64::from_be_bytes(*octets)));
        all.push(PathAttribute::ExtendedCommunities(each.collect()));
    }
    if !attributes.large_communities.is_empty() {
        let each = attributes.large_communities.iter();
        let each = each.map(|&[global, one, two]| LargeCommunity::new(global, one, two));
        all.push(PathAttribute::LargeCommunities(each.collect()));
    }
}
