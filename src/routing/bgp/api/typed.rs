//! Messages inside messages, whose shape differs between the majors: `Any` in 3.x, one-of in 4.x (pure).
//!
//! Here the NLRI and attributes of routes; [`super::capability`] has the capabilities.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use prost::Message;

use super::adapt::Version;
use super::message::{Any, Family};
use super::raw;
use crate::net::{Asn, Prefix};
use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Origin, RawAttribute};
use crate::routing::bgp::wire;

/// `IPAddressPrefix`.
#[derive(Clone, PartialEq, Message)]
struct IpPrefix {
    #[prost(uint32, tag = "1")]
    length: u32,
    #[prost(string, tag = "2")]
    address: String,
}

/// Any message whose field 1 is a number.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(uint32, tag = "1")]
    pub(super) value: u32,
}

/// Any message whose field 1 is text.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    value: String,
}

/// Any message whose field 1 is a list of texts.
#[derive(Clone, PartialEq, Message)]
struct Texts {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

/// Any message whose field 1 is a list of numbers.
#[derive(Clone, PartialEq, Message)]
struct Numbers {
    #[prost(uint32, repeated, tag = "1")]
    values: Vec<u32>,
}

/// Any message whose field 1 is a list of messages.
#[derive(Clone, PartialEq, Message)]
struct Inner {
    #[prost(bytes = "vec", repeated, tag = "1")]
    values: Vec<Vec<u8>>,
}

/// `AsSegment`.
#[derive(Clone, PartialEq, Message)]
struct Segment {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, repeated, tag = "2")]
    numbers: Vec<u32>,
}

/// `AggregatorAttribute`.
#[derive(Clone, PartialEq, Message)]
struct Aggregator {
    #[prost(uint32, tag = "1")]
    asn: u32,
    #[prost(string, tag = "2")]
    address: String,
}

/// `MpReachNLRIAttribute`.
#[derive(Clone, PartialEq, Message)]
struct MpReach {
    #[prost(message, optional, tag = "1")]
    family: Option<Family>,
    #[prost(string, repeated, tag = "2")]
    next_hops: Vec<String>,
}

/// `LargeCommunity`.
#[derive(Clone, PartialEq, Message)]
struct LargeCommunity {
    #[prost(uint32, tag = "1")]
    global: u32,
    #[prost(uint32, tag = "2")]
    local1: u32,
    #[prost(uint32, tag = "3")]
    local2: u32,
}

/// The AS-specific and address-specific extended communities; the third field is a number or text.
#[derive(Clone, PartialEq, Message)]
struct AsSpecific {
    #[prost(bool, tag = "1")]
    transitive: bool,
    #[prost(uint32, tag = "2")]
    sub_type: u32,
    #[prost(uint32, tag = "3")]
    asn: u32,
    #[prost(uint32, tag = "4")]
    local: u32,
}

/// See [`AsSpecific`].
#[derive(Clone, PartialEq, Message)]
struct AddressSpecific {
    #[prost(bool, tag = "1")]
    transitive: bool,
    #[prost(uint32, tag = "2")]
    sub_type: u32,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(uint32, tag = "4")]
    local: u32,
}

/// What a message inside is: its name in 3.x, its tag in 4.x, made one.
fn unwrap(version: Version, bytes: &[u8], names: &[(&'static str, u32)]) -> Result<(&'static str, Vec<u8>), String> {
    let (known, value) = match version {
        Version::V3 => {
            let any = Any::decode(bytes).map_err(|error| format!("a field is not of type Any: {error}"))?;
            let name = any.type_url.rsplit(['/', '.']).next().unwrap_or_default();
            let known = names.iter().find(|(known, _)| *known == name);
            (known.ok_or_else(|| format!("{} is not supported", any.type_url))?, any.value)
        }
        Version::V4 => {
            let (tag, value) = one_of(bytes)?;
            let known = names.iter().find(|(_, known)| *known == tag);
            (known.ok_or_else(|| format!("a one-of with field {tag} is not supported"))?, value)
        }
    };
    Ok((known.0, value))
}

/// Tag and bytes of the first field of a message that is length-delimited.
fn one_of(bytes: &[u8]) -> Result<(u32, Vec<u8>), String> {
    let mut rest = bytes;
    let key = prost::encoding::decode_varint(&mut rest).map_err(|error| error.to_string())?;
    let length = prost::encoding::decode_varint(&mut rest).map_err(|error| error.to_string())?;
    let value = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    match (key & 7, u32::try_from(key >> 3), value) {
        (2, Ok(tag), Some(value)) => Ok((tag, value.to_vec())),
        _ => Err("a one-of field is cut short".to_owned()),
    }
}

/// The reverse of [`unwrap`].
pub(super) fn wrap(version: Version, name: &str, tag: u32, value: &impl Message) -> Vec<u8> {
    let value = value.encode_to_vec();
    match version {
        Version::V3 => Any { type_url: format!("type.googleapis.com/apipb.{name}"), value }.encode_to_vec(),
        Version::V4 => {
            let mut out = Vec::with_capacity(value.len() + 4);
            prost::encoding::bytes::encode(tag, &value, &mut out);
            out
        }
    }
}

/// The prefix in field 1 of a path.
///
/// # Errors
/// Where it is none.
pub fn prefix(version: Version, nlri: &[u8]) -> Result<Prefix, String> {
    let (_, value) = unwrap(version, nlri, &[("IPAddressPrefix", 1)])?;
    let message: IpPrefix = read(&value)?;
    let address: IpAddr = parse(&message.address)?;
    let length = u8::try_from(message.length).unwrap_or(u8::MAX);
    let prefix = Prefix::new(address, length).map_err(|_| format!("{address}/{length} is not a prefix"))?;
    Ok(prefix.trunc())
}

const ATTRIBUTES: &[(&str, u32)] = &[
    ("UnknownAttribute", 1),
    ("OriginAttribute", 2),
    ("AsPathAttribute", 3),
    ("NextHopAttribute", 4),
    ("MultiExitDiscAttribute", 5),
    ("LocalPrefAttribute", 6),
    ("AtomicAggregateAttribute", 7),
    ("AggregatorAttribute", 8),
    ("CommunitiesAttribute", 9),
    ("OriginatorIdAttribute", 10),
    ("ClusterListAttribute", 11),
    ("MpReachNLRIAttribute", 12),
    ("ExtendedCommunitiesAttribute", 14),
    ("AigpAttribute", 20),
    ("LargeCommunitiesAttribute", 21),
];

/// `UnknownAttribute`.
#[derive(Clone, PartialEq, Message)]
struct UnknownAttribute {
    #[prost(uint32, tag = "1")]
    flags: u32,
    #[prost(uint32, tag = "2")]
    code: u32,
    #[prost(bytes = "vec", tag = "3")]
    value: Vec<u8>,
}

/// The same attributes as on the wire, to be shown: those that nothing here knows are left out, sets in AS_PATH stay.
pub fn attributes_raw(version: Version, list: &[Vec<u8>], prefix: &Prefix) -> Vec<Vec<u8>> {
    let known: Vec<Vec<u8>> =
        list.iter().filter(|one| attributes(version, std::slice::from_ref(one), prefix).is_ok()).cloned().collect();
    let Ok(shown) = attributes(version, &known, prefix) else { return Vec::new() };
    let mut raw = raw::attributes(&shown, prefix);
    let path = list.iter().find_map(|one| match unwrap(version, one, ATTRIBUTES) {
        Ok(("AsPathAttribute", value)) => as_path_raw(&value).ok(),
        _ => None,
    });
    for one in &mut raw {
        if let (Some(2), Some(path)) = (one.get(1), &path) {
            *one = raw::write(0x40, raw::code::AS_PATH, path);
        }
    }
    raw
}

fn as_path_raw(value: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for segment in read::<Inner>(value)?.values {
        let segment: Segment = read(&segment)?;
        let octet = |number: usize| u8::try_from(number).map_err(|error| error.to_string());
        out.extend([u8::try_from(segment.kind).map_err(|error| error.to_string())?, octet(segment.numbers.len())?]);
        out.extend(segment.numbers.iter().flat_map(|number| number.to_be_bytes()));
    }
    Ok(out)
}

/// The attributes in field 2 of a path. Without a next hop it is the unspecified address of the prefix's family, which
/// means ours.
///
/// # Errors
/// Where one of them cannot be read, or is not supported: a route without it would not be what was asked for.
pub fn attributes(version: Version, list: &[Vec<u8>], prefix: &Prefix) -> Result<Attributes, String> {
    let ours = match prefix {
        Prefix::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Prefix::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut attributes = Attributes::new(Origin::Incomplete, AsPath::empty(), NextHop::from(ours));
    let mut plain_next_hop = None;
    let mut mp_next_hop = None;
    for bytes in list {
        let (name, value) = unwrap(version, bytes, ATTRIBUTES)?;
        match name {
            "NextHopAttribute" => plain_next_hop = Some(NextHop::from(parse::<IpAddr>(&read::<Text>(&value)?.value)?)),
            "MpReachNLRIAttribute" => mp_next_hop = mp_reach(&value)?,
            _ => apply(version, name, &value, &mut attributes)?,
        }
    }
    if let Some(next_hop) = mp_next_hop.or(plain_next_hop) {
        let unspecified = next_hop.address.is_unspecified();
        attributes.next_hop = if unspecified { NextHop::from(ours) } else { next_hop };
    }
    Ok(attributes)
}

fn apply(version: Version, name: &str, value: &[u8], attributes: &mut Attributes) -> Result<(), String> {
    match name {
        "OriginAttribute" => {
            attributes.origin = match read::<Number>(value)?.value {
                0 => Origin::Igp,
                1 => Origin::Egp,
                2 => Origin::Incomplete,
                other => return Err(format!("origin {other} does not exist; use 0, 1 or 2")),
            };
        }
        "AsPathAttribute" => attributes.as_path = as_path(value)?,
        "MultiExitDiscAttribute" => attributes.med = Some(read::<Number>(value)?.value),
        "LocalPrefAttribute" => attributes.local_pref = Some(read::<Number>(value)?.value),
        "AtomicAggregateAttribute" => attributes.atomic_aggregate = true,
        "AggregatorAttribute" => {
            let aggregator: Aggregator = read(value)?;
            attributes.aggregator = Some((Asn(aggregator.asn), parse(&aggregator.address)?));
        }
        "CommunitiesAttribute" => attributes.communities = sorted(read::<Numbers>(value)?.values),
        "OriginatorIdAttribute" => attributes.originator_id = Some(parse(&read::<Text>(value)?.value)?),
        "ClusterListAttribute" => {
            let ids = read::<Texts>(value)?.values;
            attributes.cluster_list = ids.iter().map(|id| parse(id)).collect::<Result<_, String>>()?;
        }
        "ExtendedCommunitiesAttribute" => {
            let list = read::<Inner>(value)?.values;
            let list = list.iter().map(|one| extended(version, one)).collect::<Result<_, String>>()?;
            attributes.extended_communities = sorted(list);
        }
        "LargeCommunitiesAttribute" => {
            let list = read::<Inner>(value)?.values;
            let list = list.iter().map(|one| {
                let one: LargeCommunity = read(one)?;
                Ok([one.global, one.local1, one.local2])
            });
            attributes.large_communities = sorted(list.collect::<Result<_, String>>()?);
        }
        "AigpAttribute" => {
            let mut octets = Vec::new();
            for tlv in read::<Inner>(value)?.values {
                let (_, metric) = unwrap(version, &tlv, &[("AigpTLVIGPMetric", 2)])?;
                octets.extend([1, 0, 11].into_iter().chain(read::<Metric>(&metric)?.value.to_be_bytes()));
            }
            keep(attributes, 0x80, raw::code::AIGP, octets);
        }
        "UnknownAttribute" => {
            let one: UnknownAttribute = read(value)?;
            let octet = |number: u32| u8::try_from(number).map_err(|_| format!("{number} has more than one octet"));
            let (flags, code) = (octet(one.flags)?, octet(one.code)?);
            must_be_unknown(flags, code, &one.value)?;
            keep(attributes, flags, code, one.value);
        }
        other => return Err(format!("{other} is not supported")),
    }
    Ok(())
}

/// An attribute given by number reaches peers as it is. One that is not optional ends the session of each peer that does
/// not know it (RFC 4271, 6.3); one of those we know would be there twice, or past every check.
fn must_be_unknown(flags: u8, code: u8, value: &[u8]) -> Result<(), String> {
    if raw::code::KNOWN.contains(&code) {
        return Err(format!("attribute {code} has a message of its own, use that one"));
    }
    if flags & raw::OPTIONAL == 0 {
        return Err(format!(
            "attribute {code} with flags {flags:#04x} is not optional: peers that do not know it end their session; \
             set {:#04x}, too",
            raw::OPTIONAL
        ));
    }
    let octets = raw::write(flags, code, value);
    wire::attributes_from_raw(&[octets]).map(drop).map_err(|error| format!("attribute {code} is not valid: {error}"))
}

fn keep(attributes: &mut Attributes, flags: u8, code: u8, value: Vec<u8>) {
    let mut all = attributes.unknown.to_vec();
    all.push(RawAttribute { flags, code, value: value.into() });
    all.sort_by_key(|raw| raw.code);
    attributes.unknown = all.into();
}

/// `AigpTLVIGPMetric`.
#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(uint64, tag = "1")]
    value: u64,
}

fn mp_reach(value: &[u8]) -> Result<Option<NextHop>, String> {
    let message: MpReach = read(value)?;
    let addresses: Vec<IpAddr> = message.next_hops.iter().map(|hop| parse(hop)).collect::<Result<_, String>>()?;
    let link_local = addresses.get(1).and_then(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    Ok(addresses.first().map(|address| NextHop { address: *address, link_local }))
}

fn as_path(value: &[u8]) -> Result<AsPath, String> {
    let mut numbers = Vec::new();
    for segment in read::<Inner>(value)?.values {
        let segment: Segment = read(&segment)?;
        if segment.kind != 2 {
            return Err("only sequences are supported in an AS path (RFC 9774)".to_owned());
        }
        numbers.extend(segment.numbers.into_iter().map(Asn));
    }
    Ok(numbers.into_iter().collect())
}

const EXTENDED: &[(&str, u32)] =
    &[("TwoOctetAsSpecificExtended", 2), ("IPv4AddressSpecificExtended", 3), ("FourOctetAsSpecificExtended", 4)];

/// An extended community (RFC 4360, 5668).
fn extended(version: Version, bytes: &[u8]) -> Result<[u8; 8], String> {
    let (name, value) = unwrap(version, bytes, EXTENDED)?;
    let kind = |base: u8, transitive: bool| if transitive { base } else { base | 0x40 };
    let octet = |value: u32| u8::try_from(value).map_err(|_| format!("sub-type {value} has more than one octet"));
    let short = |value: u32| u16::try_from(value).map_err(|_| format!("{value} has more than two octets"));
    let mut out = [0; 8];
    let (head, tail) = out.split_at_mut(2);
    let body: [u8; 6] = if name == "IPv4AddressSpecificExtended" {
        let one: AddressSpecific = read(&value)?;
        head.copy_from_slice(&[kind(1, one.transitive), octet(one.sub_type)?]);
        join(&parse::<Ipv4Addr>(&one.address)?.octets(), &short(one.local)?.to_be_bytes())
    } else {
        let one: AsSpecific = read(&value)?;
        let four = name == "FourOctetAsSpecificExtended";
        head.copy_from_slice(&[kind(if four { 2 } else { 0 }, one.transitive), octet(one.sub_type)?]);
        if four {
            join(&one.asn.to_be_bytes(), &short(one.local)?.to_be_bytes())
        } else {
            join(&short(one.asn)?.to_be_bytes(), &one.local.to_be_bytes())
        }
    };
    tail.copy_from_slice(&body);
    Ok(out)
}

fn join(first: &[u8], second: &[u8]) -> [u8; 6] {
    let mut out = [0; 6];
    for (to, from) in out.iter_mut().zip(first.iter().chain(second)) {
        *to = *from;
    }
    out
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Box<[T]> {
    list.sort();
    list.dedup();
    list.into_boxed_slice()
}

pub(super) fn read<T: Message + Default>(bytes: &[u8]) -> Result<T, String> {
    T::decode(bytes).map_err(|error| error.to_string())
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address"))
}

/// The prefix of the binary form: a length in bits, then as many octets as it needs.
///
/// # Errors
/// Where it is cut short, too long, or has bits the family has not.
pub fn prefix_from_raw(bytes: &[u8], v6: bool) -> Result<Prefix, String> {
    let wrong = || "the binary NLRI is not a prefix".to_owned();
    let (&length, rest) = bytes.split_first().ok_or_else(wrong)?;
    if rest.len() != usize::from(length).div_ceil(8) {
        return Err(wrong());
    }
    let mut octets = [0; 16];
    octets.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let [a, b, c, d, ..] = octets;
    let address = if v6 { IpAddr::from(octets) } else { IpAddr::from([a, b, c, d]) };
    Prefix::new(address, length).map(|prefix| prefix.trunc()).map_err(|_| wrong())
}
