//! Attributes made ready once for all sessions of one shape, so that a route to many peers is encoded once.
//!
//! As bytes: one octet with the length of what stands before the routes in MP_REACH_NLRI (0 where the routes go into
//! the field for them), that, and then all other attributes as they are sent.

use std::net::IpAddr;

use rustbgpd_wire::attribute::{decode_path_attributes_revised, encode_path_attributes};
use rustbgpd_wire::{PathAttribute, RawAttribute as CodecRaw};

use super::encode::{MP_REACH, Unsendable, attribute_of_routes, fill, first_length, reach_head, to_codec, unencodable};
use super::update::{Gathered, gather};
use super::{HEADER, MAX_EXTENDED, UPDATE, begin, finish, put_length};
use crate::net::{Asn, Family};
use crate::routing::bgp::types::{Attributes, Negotiated, NextHop, Origin};

const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const OPTIONAL_TRANSITIVE: u8 = 0xc0;

/// AS_SEQUENCE, and how many AS numbers one holds.
const SEQUENCE: u8 = 2;
const SEGMENT: usize = 255;

/// What the form of attributes depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// AS numbers have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
}

impl From<&Negotiated> for Shape {
    fn from(session: &Negotiated) -> Shape {
        Shape { four_octet_as: session.four_octet_as, extended_next_hop: session.extended_next_hop }
    }
}

/// Appends the attributes of routes of a family. On error what was appended is of no use.
pub fn prepare(attributes: &Attributes, family: Family, shape: Shape, out: &mut Vec<u8>) -> Result<(), Unsendable> {
    let hop = &attributes.next_hop;
    let head = match (family, hop.address) {
        (Family::V4, IpAddr::V4(_)) => None,
        (Family::V4, IpAddr::V6(_)) if !shape.extended_next_hop => return Err(Unsendable::NextHop(hop.address)),
        _ => Some(reach_head(family, hop).ok_or(Unsendable::NextHop(hop.address))?),
    };
    let length = head.as_ref().map_or(0, Vec::len);
    out.push(u8::try_from(length).unwrap_or(u8::MAX));
    out.extend(head.iter().flatten());
    let asns = || attributes.as_path.0.iter().chain(attributes.aggregator.iter().map(|(asn, _)| asn));
    if asns().all(|asn| is_plain(*asn, shape)) {
        return put_attributes(attributes, head.is_none(), shape, out);
    }
    encode_path_attributes(&to_codec(attributes, head.is_none()), out, shape.four_octet_as, false).map_err(unencodable)
}

/// Whether an AS number can be sent as it is: there is no AS 0, and in two octets others need AS_TRANS and a second
/// attribute (RFC 6793), which AS_TRANS itself would be taken for.
fn is_plain(asn: Asn, shape: Shape) -> bool {
    const AS_TRANS: u32 = 23_456;
    asn.0 != 0 && (shape.four_octet_as || (asn.0 != AS_TRANS && asn.0 <= u32::from(u16::MAX)))
}

/// Appends as many UPDATEs as the routes need, which come as bytes, with path identifiers where `ids` says so. On error
/// nothing is appended.
pub fn encode_prepared(
    prepared: &[u8],
    routes: &[u8],
    ids: bool,
    max_message: usize,
    out: &mut Vec<u8>,
) -> Result<(), Unsendable> {
    let (head, fixed) = split(prepared);
    let taken = HEADER + 4 + fixed.len() + if head.is_empty() { 0 } else { 4 + head.len() };
    let room = max_message.min(MAX_EXTENDED).saturating_sub(taken);
    let before = out.len();
    let mut rest = routes;
    while !rest.is_empty() {
        if first_length(rest, ids) > room {
            out.truncate(before);
            return Err(Unsendable::TooLong(fixed.len()));
        }
        let (now, later) = fill(rest, room, ids);
        rest = later;
        let start = begin(UPDATE, out);
        out.extend_from_slice(&[0, 0, 0, 0]);
        let lengths = start + HEADER + 2;
        if head.is_empty() {
            out.extend_from_slice(fixed);
            put_length(lengths, fixed.len(), out);
            out.extend_from_slice(now);
        } else {
            // RFC 7606 5.1: before all others.
            attribute_of_routes(MP_REACH, head, now, out);
            out.extend_from_slice(fixed);
            put_length(lengths, out.len() - lengths - 2, out);
        }
        finish(start, out);
    }
    Ok(())
}

/// The attributes that were prepared; `None` where the bytes are not from [`prepare`].
pub fn read_prepared(prepared: &[u8], shape: Shape) -> Option<Attributes> {
    let (head, fixed) = split(prepared);
    let decoded = decode_path_attributes_revised(fixed, shape.four_octet_as, true, &[]).ok()?;
    let Gathered { attributes, next_hop, .. } = gather(decoded.attributes, true);
    let next_hop = match head {
        [] => next_hop?,
        // AFI and SAFI, then the next hop with its length.
        [_, _, _, _, hop @ .., 0] => {
            let (address, link_local) = hop.split_first_chunk::<16>()?;
            let link_local = link_local.first_chunk::<16>().map(|octets| (*octets).into());
            NextHop { address: IpAddr::V6((*address).into()), link_local }
        }
        _ => return None,
    };
    Some(Attributes { next_hop, ..attributes })
}

/// What stands before the routes in MP_REACH_NLRI, and all other attributes.
fn split(prepared: &[u8]) -> (&[u8], &[u8]) {
    let Some((&length, rest)) = prepared.split_first() else { return (&[], &[]) };
    rest.split_at_checked(usize::from(length)).unwrap_or((&[], rest))
}

/// The attributes, whose AS numbers can be sent as they are, in order of their codes; all but MP_REACH_NLRI.
fn put_attributes(attributes: &Attributes, next_hop: bool, shape: Shape, out: &mut Vec<u8>) -> Result<(), Unsendable> {
    let start = out.len();
    let origin = match attributes.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    put(WELL_KNOWN, 1, &[origin], out);
    let path = &attributes.as_path.0;
    let width = if shape.four_octet_as { 4 } else { 2 };
    let put_asn = |asn: &Asn, out: &mut Vec<u8>| out.extend(asn.0.to_be_bytes().iter().skip(4 - width));
    begin_attribute(WELL_KNOWN, 2, width * path.len() + 2 * path.len().div_ceil(SEGMENT), out);
    for segment in path.chunks(SEGMENT) {
        out.extend_from_slice(&[SEQUENCE, u8::try_from(segment.len()).unwrap_or(u8::MAX)]);
        segment.iter().for_each(|asn| put_asn(asn, out));
    }
    if let (true, IpAddr::V4(address)) = (next_hop, attributes.next_hop.address) {
        put(WELL_KNOWN, 3, &address.octets(), out);
    }
    if let Some(med) = attributes.med {
        put(OPTIONAL, 4, &med.to_be_bytes(), out);
    }
    if let Some(value) = attributes.local_pref {
        put(WELL_KNOWN, 5, &value.to_be_bytes(), out);
    }
    if attributes.atomic_aggregate {
        put(WELL_KNOWN, 6, &[], out);
    }
    if let Some((asn, by)) = attributes.aggregator {
        begin_attribute(OPTIONAL_TRANSITIVE, 7, width + 4, out);
        put_asn(&asn, out);
        out.extend_from_slice(&by.octets());
    }
    put_list(OPTIONAL_TRANSITIVE, 8, &attributes.communities, |each| each.to_be_bytes(), out);
    if let Some(id) = attributes.originator_id {
        put(OPTIONAL, 9, &id.octets(), out);
    }
    put_list(OPTIONAL, 10, &attributes.cluster_list, |id| id.octets(), out);
    put_list(OPTIONAL_TRANSITIVE, 16, &attributes.extended_communities, |each| *each, out);
    let large = |&[a, b, c]: &[u32; 3]| {
        let mut octets = [0; 12];
        let words = [a, b, c].map(u32::to_be_bytes);
        octets.iter_mut().zip(words.as_flattened()).for_each(|(place, octet)| *place = *octet);
        octets
    };
    put_list(OPTIONAL_TRANSITIVE, 32, &attributes.large_communities, large, out);
    for raw in &attributes.unknown {
        let data = raw.value.to_vec().into();
        let raw = PathAttribute::Unknown(CodecRaw { flags: raw.flags, type_code: raw.code, data });
        encode_path_attributes(&[raw], out, true, false).map_err(unencodable)?;
    }
    // Longer than a field for attributes can be.
    let length = out.len() - start;
    if length > MAX_EXTENDED { Err(Unsendable::TooLong(length)) } else { Ok(()) }
}

fn put(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
    begin_attribute(flags, code, value.len(), out);
    out.extend_from_slice(value);
}

/// A list; an empty one is left out (RFC 7606 7.8).
fn put_list<T, const SIZE: usize>(
    flags: u8,
    code: u8,
    all: &[T],
    octets: impl Fn(&T) -> [u8; SIZE],
    out: &mut Vec<u8>,
) {
    if !all.is_empty() {
        begin_attribute(flags, code, all.len() * SIZE, out);
        all.iter().for_each(|each| out.extend_from_slice(&octets(each)));
    }
}

fn begin_attribute(flags: u8, code: u8, length: usize, out: &mut Vec<u8>) {
    const EXTENDED_LENGTH: u8 = 0x10;
    match u8::try_from(length) {
        Ok(length) => out.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED_LENGTH, code, high, low]);
        }
    }
}
