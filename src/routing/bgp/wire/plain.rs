//! The attributes of an ordinary UPDATE, read straight from the bytes. Nearly all UPDATEs are of this kind.
//!
//! Reads only what is beyond doubt: attributes this speaker knows, each once, with the flags and lengths of the RFCs,
//! on a session with 4-octet AS numbers. All else is left to the codec, which knows what becomes of it; both give the
//! same for what is read here.

use std::net::{IpAddr, Ipv4Addr};

use super::update::sorted;
use crate::net::Asn;
use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Origin};

const EXTENDED_LENGTH: u8 = 0x10;
const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const OPTIONAL_TRANSITIVE: u8 = 0xc0;

/// The attributes of routes in the field for IPv4 routes; `None` leaves the field to the codec.
pub(super) fn attributes(field: &[u8], internal: bool) -> Option<Attributes> {
    let mut all =
        Attributes::new(Origin::Incomplete, AsPath::empty(), NextHop::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
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
        read(flags & !EXTENDED_LENGTH, code, value, internal, &mut all)?;
    }
    // ORIGIN, AS_PATH, NEXT_HOP.
    (seen & 0b1110 == 0b1110).then_some(all)
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

fn read(flags: u8, code: u8, value: &[u8], internal: bool, all: &mut Attributes) -> Option<()> {
    match (flags, code) {
        (WELL_KNOWN, 1) => {
            all.origin = match value {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                [2] => Origin::Incomplete,
                _ => return None,
            }
        }
        (WELL_KNOWN, 2) => all.as_path = as_path(value)?,
        (WELL_KNOWN, 3) => all.next_hop = next_hop(address(value)?)?,
        (OPTIONAL, 4) => all.med = Some(number(value)?),
        (WELL_KNOWN, 5) => all.local_pref = Some(number(value)?).filter(|_| internal),
        (WELL_KNOWN, 6) if value.is_empty() => all.atomic_aggregate = true,
        (OPTIONAL_TRANSITIVE, 7) => {
            let (asn, by) = value.split_first_chunk()?;
            let asn = Asn(u32::from_be_bytes(*asn));
            all.aggregator = Some((asn, address(by)?)).filter(|_| asn.0 != 0);
            all.aggregator?;
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
        _ => return None,
    }
    Some(())
}

/// Sequences only, none of them empty, without AS 0.
fn as_path(value: &[u8]) -> Option<AsPath> {
    const SEQUENCE: u8 = 2;
    let mut asns = Vec::with_capacity(value.len().saturating_sub(2) / 4);
    let mut rest = value;
    while !rest.is_empty() {
        let (&[kind, count], later) = rest.split_first_chunk()?;
        let (segment, later) = later.split_at_checked(usize::from(count) * 4)?;
        rest = later;
        if kind != SEQUENCE || segment.is_empty() {
            return None;
        }
        asns.extend(segment.as_chunks().0.iter().map(|asn| Asn(u32::from_be_bytes(*asn))));
    }
    (!asns.contains(&Asn(0))).then(|| AsPath(asns.into()))
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
