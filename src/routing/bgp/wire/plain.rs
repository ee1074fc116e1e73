//! The attributes of an ordinary UPDATE, read straight from the bytes. Nearly all UPDATEs are of this kind.
//!
//! Reads only what is beyond doubt: attributes this speaker knows, each once, with the flags and lengths of the RFCs,
//! for IPv4 routes in their field or IPv6 routes in MP_REACH_NLRI or MP_UNREACH_NLRI, and from a peer with 2-octet AS
//! numbers only where those say all. All else is left to the codec, which knows what becomes of it; both give the same
//! for what is read here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::update::sorted;
use super::{UNICAST, afi, nlri};
use crate::net::{Asn, Family};
use crate::routing::bgp::types::{AsPath, Attributes, Negotiated, NextHop, Nlri, Origin, PeerKind};

const EXTENDED_LENGTH: u8 = 0x10;
const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const OPTIONAL_TRANSITIVE: u8 = 0xc0;

/// Codes of attributes, each as a bit.
const ORIGIN_AND_PATH: u64 = 1 << 1 | 1 << 2;
const NEXT_HOP: u64 = 1 << 3;
const MP_REACH: u64 = 1 << 14;
const MP_UNREACH: u64 = 1 << 15;

/// What the attributes of an ordinary UPDATE say.
pub(super) enum Plain {
    /// Attributes of routes in the field for IPv4 routes.
    Body(Attributes),
    /// IPv6 routes with their attributes.
    Reach(Attributes, Vec<Nlri>),
    /// IPv6 routes that are withdrawn, and nothing else.
    Unreach(Vec<Nlri>),
}

/// What is known of the session, and what was read so far.
struct Reading<'a> {
    session: &'a Negotiated,
    all: Attributes,
    /// Of MP_REACH_NLRI or MP_UNREACH_NLRI.
    routes: Vec<Nlri>,
}

/// Reads all attributes; `None` leaves the field to the codec.
pub(super) fn read(field: &[u8], session: &Negotiated) -> Option<Plain> {
    let unspecified = NextHop::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let all = Attributes::new(Origin::Incomplete, AsPath::empty(), unspecified);
    let mut reading = Reading { session, all, routes: Vec::new() };
    let mut seen: u64 = 0;
    let mut rest = field;
    while !rest.is_empty() {
        let (flags, code, value, later) = split(rest)?;
        rest = later;
        let bit = 1_u64.checked_shl(code.into())?;
        if seen & bit != 0 {
            return None;
        }
        seen |= bit;
        reading.attribute(flags & !EXTENDED_LENGTH, code, value)?;
    }
    let Reading { all, routes, .. } = reading;
    if seen == MP_UNREACH {
        return Some(Plain::Unreach(routes));
    }
    let complete = seen & ORIGIN_AND_PATH == ORIGIN_AND_PATH;
    match seen & (NEXT_HOP | MP_REACH | MP_UNREACH) {
        NEXT_HOP if complete => Some(Plain::Body(all)),
        MP_REACH if complete => Some(Plain::Reach(all, routes)),
        _ => None,
    }
}

fn split(field: &[u8]) -> Option<(u8, u8, &[u8], &[u8])> {
    let (&[flags, code], rest) = field.split_first_chunk()?;
    let (length, rest) = if flags & EXTENDED_LENGTH == 0 {
        let (&length, rest) = rest.split_first()?;
        (usize::from(length), rest)
    } else {
        let (length, rest) = rest.split_first_chunk()?;
        (usize::from(u16::from_be_bytes(*length)), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((flags, code, value, rest))
}

impl Reading<'_> {
    fn attribute(&mut self, flags: u8, code: u8, value: &[u8]) -> Option<()> {
        let internal = self.session.kind == PeerKind::Internal;
        let all = &mut self.all;
        match (flags, code) {
            (WELL_KNOWN, 1) => {
                all.origin = match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    _ => return None,
                }
            }
            (WELL_KNOWN, 2) => all.as_path = as_path(value, self.session.four_octet_as)?,
            (WELL_KNOWN, 3) => all.next_hop = next_hop(address(value)?)?,
            (OPTIONAL, 4) => all.med = Some(number(value)?),
            (WELL_KNOWN, 5) => all.local_pref = Some(number(value)?).filter(|_| internal),
            (WELL_KNOWN, 6) if value.is_empty() => all.atomic_aggregate = true,
            (OPTIONAL_TRANSITIVE, 7) => {
                let (asn, by) = value.split_at_checked(width(self.session.four_octet_as))?;
                all.aggregator = Some((asn_of(asn)?, address(by)?));
            }
            (OPTIONAL_TRANSITIVE, 8) => {
                all.communities = sorted(several(value)?.iter().map(|each| u32::from_be_bytes(*each)).collect());
            }
            (OPTIONAL, 9) => all.originator_id = Some(address(value)?).filter(|_| internal),
            (OPTIONAL, 10) => {
                let list = several::<4>(value)?;
                if internal {
                    all.cluster_list = list.iter().map(|each| Ipv4Addr::from(*each)).collect();
                }
            }
            (OPTIONAL_TRANSITIVE, 16) => all.extended_communities = sorted(several(value)?.to_vec()),
            (OPTIONAL_TRANSITIVE, 32) => {
                let word = |[a, b, c, d]: [u8; 4]| u32::from_be_bytes([a, b, c, d]);
                let large = several::<12>(value)?.iter().map(|&[a, b, c, d, e, f, g, h, i, j, k, l]| {
                    [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l])]
                });
                all.large_communities = sorted(large.collect());
            }
            (OPTIONAL, 14) => {
                let (hop, routes) = reach(value)?;
                all.next_hop = hop;
                self.routes = self.ipv6_routes(routes)?;
            }
            (OPTIONAL, 15) => self.routes = self.ipv6_routes(value.strip_prefix(&IPV6_UNICAST)?)?,
            _ => return None,
        }
        Some(())
    }

    /// Routes of MP_REACH_NLRI or MP_UNREACH_NLRI. None at all may be a mark.
    fn ipv6_routes(&self, field: &[u8]) -> Option<Vec<Nlri>> {
        let carried = self.session.families.contains(&Family::V6) && !field.is_empty();
        let ids = self.session.add_path_receive.contains(&Family::V6);
        if carried { nlri::routes::<16>(field, ids) } else { None }
    }
}

/// AFI and SAFI.
const IPV6_UNICAST: [u8; 3] = [0, afi(Family::V6), UNICAST];

/// The next hop of MP_REACH_NLRI with IPv6 routes, and the routes.
fn reach(value: &[u8]) -> Option<(NextHop, &[u8])> {
    let (length, rest) = value.strip_prefix(&IPV6_UNICAST)?.split_first()?;
    let (hop, rest) = rest.split_at_checked(usize::from(*length))?;
    // An octet that says nothing comes between.
    let (_, routes) = rest.split_first()?;
    let (address, link_local) = hop.split_first_chunk::<16>()?;
    let address = Ipv6Addr::from(*address);
    let odd = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some();
    let link_local = match link_local {
        [] => None,
        octets => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
    };
    let fits = !odd && link_local.is_none_or(|address| address.is_unicast_link_local());
    fits.then_some((NextHop { address: IpAddr::V6(address), link_local }, routes))
}

/// Octets of an AS number.
fn width(four_octet_as: bool) -> usize {
    if four_octet_as { 4 } else { 2 }
}

/// One AS number. 0 is none, and in two octets AS_TRANS stands for one that another attribute names (RFC 6793).
fn asn_of(octets: &[u8]) -> Option<Asn> {
    const AS_TRANS: u16 = 23_456;
    let asn = match *octets {
        [a, b] => u32::from(Some(u16::from_be_bytes([a, b])).filter(|asn| *asn != AS_TRANS)?),
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
        _ => return None,
    };
    (asn != 0).then_some(Asn(asn))
}

/// Sequences only, none of them empty.
fn as_path(value: &[u8], four_octet_as: bool) -> Option<AsPath> {
    const SEQUENCE: u8 = 2;
    let width = width(four_octet_as);
    let mut asns = Vec::with_capacity(value.len().saturating_sub(2) / width);
    let mut rest = value;
    while !rest.is_empty() {
        let (&[kind, count], later) = rest.split_first_chunk()?;
        let (segment, later) = later.split_at_checked(usize::from(count) * width)?;
        rest = later;
        if kind != SEQUENCE || segment.is_empty() {
            return None;
        }
        for asn in segment.chunks_exact(width) {
            asns.push(asn_of(asn)?);
        }
    }
    Some(AsPath(asns.into()))
}

/// A next hop that nobody could object to.
fn next_hop(address: Ipv4Addr) -> Option<NextHop> {
    let odd = address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast();
    (!odd).then(|| IpAddr::V4(address).into())
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    number(value).map(Ipv4Addr::from)
}

/// One or more of a size.
fn several<const SIZE: usize>(value: &[u8]) -> Option<&[[u8; SIZE]]> {
    match value.as_chunks() {
        (all, []) if !all.is_empty() => Some(all),
        _ => None,
    }
}
