//! UPDATE on the way in, with the error handling of RFC 7606 applied.

use std::net::{IpAddr, Ipv4Addr};

use rustbgpd_wire::attribute::{decode_path_attributes_revised, encode_path_attributes};
use rustbgpd_wire::validate::validate_update_attributes_with_context;
use rustbgpd_wire::{
    ErrorDisposition, NlriEntry, Origin as CodecOrigin, PathAttribute, Prefix as CodecPrefix, UpdateValidationOptions,
};

use super::plain::{self, Plain};
use super::{codec_family, family, nlri, notification, refusal};
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::types::{
    AsPath, Attributes, Negotiated, NextHop, Nlri, Notification, Origin, PeerKind, RawAttribute,
};

const OPTIONAL_TRANSITIVE: u8 = 0xc0;
const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// An UPDATE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Routes it announces. More than one entry where it has routes of both families.
    pub reach: Vec<Reach>,
    /// Routes it withdraws, and those a malformed attribute took down (RFC 7606 2).
    pub withdrawn: Vec<Nlri>,
    /// It is an End-of-RIB mark (RFC 4724 2).
    pub end_of_rib: Option<Family>,
    /// What was wrong with it, one sentence each.
    pub faults: Vec<String>,
}

/// Routes with common attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Their attributes.
    pub attributes: Attributes,
    /// The routes.
    pub nlri: Vec<Nlri>,
}

/// The three fields of an UPDATE.
struct Fields<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    nlri: &'a [u8],
}

impl Fields<'_> {
    fn split(body: &[u8]) -> Option<Fields<'_>> {
        let (length, rest) = body.split_first_chunk()?;
        let (withdrawn, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk()?;
        let (attributes, nlri) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some(Fields { withdrawn, attributes, nlri })
    }
}

pub(super) fn decode(body: &[u8], session: &Negotiated) -> Result<Update, Notification> {
    decode_by(body, session, plain::read)
}

/// `plain` reads attributes without the codec where it can.
pub(super) fn decode_by(
    body: &[u8],
    session: &Negotiated,
    plain: impl FnOnce(&[u8], &Negotiated) -> Option<Plain>,
) -> Result<Update, Notification> {
    let fields = Fields::split(body).ok_or_else(|| notification(3, 1, &[]))?;
    let mut update = Update::default();
    if fields.withdrawn.is_empty() && fields.attributes.is_empty() && fields.nlri.is_empty() {
        update.end_of_rib = Some(Family::V4).filter(|family| session.families.contains(family));
        return Ok(update);
    }
    let ids = session.add_path_receive.contains(&Family::V4);
    let mut withdrawn = ipv4_routes(fields.withdrawn, ids)?;
    let mut body_routes = ipv4_routes(fields.nlri, ids)?;
    let lone = withdrawn.is_empty() && body_routes.is_empty();
    if !lone && !session.families.contains(&Family::V4) {
        update.faults.push("IPv4 routes on a session without IPv4 were ignored".to_string());
        withdrawn.clear();
        body_routes.clear();
    }
    update.withdrawn = withdrawn;
    let internal = session.kind == PeerKind::Internal;
    if fields.attributes.is_empty() && body_routes.is_empty() {
        return Ok(update);
    }
    match (plain(fields.attributes, session), body_routes.is_empty()) {
        (Some(Plain::Body(attributes)), false) => {
            update.reach.push(Reach { attributes, nlri: body_routes });
            return Ok(update);
        }
        (Some(Plain::Reach(attributes, nlri)), true) => {
            update.reach.push(Reach { attributes, nlri });
            return Ok(update);
        }
        (Some(Plain::Unreach(nlri)), true) => {
            update.withdrawn.extend(nlri);
            return Ok(update);
        }
        _ => {}
    }
    let add_path: Vec<_> = session.add_path_receive.iter().copied().map(codec_family).collect();
    let decoded = decode_path_attributes_revised(fields.attributes, session.four_octet_as, internal, &add_path)
        .map_err(|error| refusal(&error))?;
    let has_body_routes = !body_routes.is_empty();
    let mut faulty = false;
    for malformed in &decoded.malformed {
        let what = format!("attribute {}: {}", malformed.type_code, malformed.error);
        faulty |= fault(malformed.disposition, what, &mut update.faults);
    }
    faulty |= invalid(&decoded.attributes, has_body_routes, &mut update.faults)?;

    let Gathered { attributes, next_hop, reach, unreach } = gather(decoded.attributes, internal);
    let mut attributes = Some(attributes);
    if let Some((family, routes)) = unreach
        && carried(family, session, &mut update.faults)
    {
        if lone && routes.is_empty() && reach.is_none() && only_attribute(fields.attributes) {
            update.end_of_rib = family;
        }
        update.withdrawn.extend(routes);
    }
    if let Some((family, hop, routes)) = reach
        && carried(family, session, &mut update.faults)
        && !routes.is_empty()
    {
        let hop = if family == Some(Family::V4) && hop.address.is_ipv6() && !session.extended_next_hop {
            update.faults.push("an IPv6 next hop for IPv4 routes was not agreed on".to_string());
            None
        } else {
            Some(hop)
        };
        let own = if has_body_routes { attributes.clone() } else { attributes.take() };
        settle(own, hop.filter(|_| !faulty), routes, &mut update);
    }
    if has_body_routes {
        settle(attributes, next_hop.filter(|_| !faulty), body_routes, &mut update);
    }
    Ok(update)
}

/// Routes with a next hop are announced, those without withdrawn.
fn settle(attributes: Option<Attributes>, next_hop: Option<NextHop>, nlri: Vec<Nlri>, update: &mut Update) {
    match attributes.zip(next_hop) {
        Some((attributes, next_hop)) => {
            update.reach.push(Reach { attributes: Attributes { next_hop, ..attributes }, nlri });
        }
        None => update.withdrawn.extend(nlri),
    }
}

/// Notes a malformed attribute; whether its routes have to be withdrawn.
fn fault(disposition: ErrorDisposition, what: String, faults: &mut Vec<String>) -> bool {
    let withdraw = disposition != ErrorDisposition::AttributeDiscard;
    faults.push(if withdraw { format!("{what}: routes withdrawn") } else { format!("{what}: attribute ignored") });
    withdraw
}

/// Checks across attributes: mandatory ones (RFC 4271 6.3), next hops. LOCAL_PREF may be missing: it has a default.
fn invalid(
    attributes: &[PathAttribute],
    has_body_routes: bool,
    faults: &mut Vec<String>,
) -> Result<bool, Notification> {
    let has_reach = attributes.iter().any(|attribute| matches!(attribute, PathAttribute::MpReachNlri(_)));
    let mut options = UpdateValidationOptions::default();
    // Link-local next hops alone are what sessions between link-local addresses use.
    options.allow_ipv4_link_local_mp_reach_next_hop = true;
    options.link_local_next_hop = true;
    let checked = validate_update_attributes_with_context(
        attributes,
        has_body_routes || has_reach,
        has_body_routes,
        // NEXT_HOP is mandatory for internal peers as well, which only this makes the check say.
        true,
        options,
    );
    match checked {
        Ok(()) => Ok(false),
        Err(invalid) if invalid.error.disposition == ErrorDisposition::SessionReset => {
            Err(notification(3, invalid.error.subcode, &invalid.error.data))
        }
        Err(invalid) => {
            let what = match invalid.error.subcode {
                2 => "unknown well-known attribute",
                3 => "missing attribute",
                8 => "bad next hop in attribute",
                11 => "malformed path in attribute",
                _ => "error in attribute",
            };
            Ok(fault(invalid.error.disposition, format!("{what} {}", invalid.type_code), faults))
        }
    }
}

fn carried(family: Option<Family>, session: &Negotiated, faults: &mut Vec<String>) -> bool {
    let carried = family.is_some_and(|family| session.families.contains(&family));
    if !carried {
        faults.push("routes of a family that was not agreed on were ignored".to_string());
    }
    carried
}

/// Whether the field holds one attribute and nothing else.
fn only_attribute(field: &[u8]) -> bool {
    match *field {
        [flags, _, high, low, ..] if flags & EXTENDED_LENGTH != 0 => {
            field.len() == 4 + usize::from(u16::from_be_bytes([high, low]))
        }
        [_, _, length, ..] => field.len() == 3 + usize::from(length),
        _ => false,
    }
}

/// Attributes sorted out. The next hop inside [`Attributes`] is only a placeholder.
pub(super) struct Gathered {
    pub(super) attributes: Attributes,
    pub(super) next_hop: Option<NextHop>,
    pub(super) reach: Option<(Option<Family>, NextHop, Vec<Nlri>)>,
    pub(super) unreach: Option<(Option<Family>, Vec<Nlri>)>,
}

/// Sorts attributes out. From an external peer those for inside an AS are ignored (RFC 4271 5.1.5, 7606 7.9, 7.10).
pub(super) fn gather(decoded: Vec<PathAttribute>, internal: bool) -> Gathered {
    let unspecified = NextHop::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut all = Attributes::new(Origin::Incomplete, AsPath::empty(), unspecified);
    let (mut next_hop, mut reach, mut unreach, mut unknown) = (None, None, None, Vec::new());
    for attribute in decoded {
        match attribute {
            PathAttribute::Origin(CodecOrigin::Igp) => all.origin = Origin::Igp,
            PathAttribute::Origin(CodecOrigin::Egp) => all.origin = Origin::Egp,
            PathAttribute::Origin(CodecOrigin::Incomplete) => all.origin = Origin::Incomplete,
            PathAttribute::AsPath(path) => all.as_path = path.asns().map(Asn).collect(),
            PathAttribute::NextHop(address) => next_hop = Some(NextHop::from(IpAddr::V4(address))),
            PathAttribute::Med(med) => all.med = Some(med),
            PathAttribute::LocalPref(value) => all.local_pref = Some(value).filter(|_| internal),
            PathAttribute::AtomicAggregate => all.atomic_aggregate = true,
            PathAttribute::Aggregator(by) => all.aggregator = Some((Asn(by.asn), by.router_id)),
            PathAttribute::Communities(each) | PathAttribute::CommunitiesPartial(each) => {
                all.communities = sorted(each);
            }
            PathAttribute::ExtendedCommunities(each) | PathAttribute::ExtendedCommunitiesPartial(each) => {
                all.extended_communities = sorted(each.iter().map(|one| one.as_u64().to_be_bytes()).collect());
            }
            PathAttribute::LargeCommunities(each) | PathAttribute::LargeCommunitiesPartial(each) => {
                let each = each.iter().map(|one| [one.global_admin, one.local_data1, one.local_data2]);
                all.large_communities = sorted(each.collect());
            }
            PathAttribute::OriginatorId(id) => all.originator_id = Some(id).filter(|_| internal),
            PathAttribute::ClusterList(list) if internal => all.cluster_list = list.into(),
            PathAttribute::ClusterList(_) => {}
            PathAttribute::MpReachNlri(mp) => {
                let hop = NextHop { address: mp.next_hop, link_local: mp.link_local_next_hop };
                reach = Some((family(mp.afi as u16, mp.safi as u8), hop, routes(&mp.announced)));
            }
            PathAttribute::MpUnreachNlri(mp) => {
                unreach = Some((family(mp.afi as u16, mp.safi as u8), routes(&mp.withdrawn)));
            }
            PathAttribute::Unknown(raw) => unknown.extend(kept(raw.flags, raw.type_code, &raw.data)),
            other => unknown.extend(passed_on(&other)),
        }
    }
    unknown.sort_unstable();
    all.unknown = unknown.into();
    Gathered { attributes: all, next_hop, reach, unreach }
}

/// Sorted and each once, so that equal sets are equal values.
pub(super) fn sorted<T: Ord>(mut each: Vec<T>) -> Box<[T]> {
    each.sort_unstable();
    each.dedup();
    each.into()
}

/// An attribute kept for others: optional and transitive, from now on partial.
fn kept(flags: u8, code: u8, value: &[u8]) -> Option<RawAttribute> {
    let transitive = flags & OPTIONAL_TRANSITIVE == OPTIONAL_TRANSITIVE;
    transitive.then(|| RawAttribute { flags: OPTIONAL_TRANSITIVE | PARTIAL, code, value: value.into() })
}

/// An attribute the codec knows and this speaker does not.
fn passed_on(attribute: &PathAttribute) -> Option<RawAttribute> {
    let mut bytes = Vec::new();
    encode_path_attributes(std::slice::from_ref(attribute), &mut bytes, true, false).ok()?;
    match *bytes.as_slice() {
        [flags, code, _, _, ref value @ ..] if flags & EXTENDED_LENGTH != 0 => kept(flags, code, value),
        [flags, code, _, ref value @ ..] => kept(flags, code, value),
        _ => None,
    }
}

fn routes(entries: &[NlriEntry]) -> Vec<Nlri> {
    entries.iter().filter_map(route).collect()
}

fn route(entry: &NlriEntry) -> Option<Nlri> {
    let (address, length) = match entry.prefix {
        CodecPrefix::V4(prefix) => (IpAddr::V4(prefix.addr), prefix.len),
        CodecPrefix::V6(prefix) => (IpAddr::V6(prefix.addr), prefix.len),
    };
    Some(Nlri { prefix: Prefix::new(address, length).ok()?.trunc(), path_id: entry.path_id })
}

/// The IPv4 routes of one of the two fields for them. A broken one leaves nothing to trust (RFC 7606 5.3).
fn ipv4_routes(field: &[u8], ids: bool) -> Result<Vec<Nlri>, Notification> {
    nlri::routes::<4>(field, ids).ok_or_else(|| notification(3, 10, &[]))
}
