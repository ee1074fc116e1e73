//! Routes as `gobgp` shows them, made from what is on the wire (pure): columns, and `-j`.
//!
//! Whatever a server knows and this speaker does not (sets in AS_PATH, attributes nobody registered) is shown all the
//! same.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::adapt::{self, Version};
use super::raw::{self, Part, code};
use super::{message as m, typed};
use crate::net::{Family, Prefix};

/// A path, ready for the columns of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Prefix.
    pub network: String,
    /// Next hop.
    pub next_hop: String,
    /// AS_PATH.
    pub as_path: String,
    /// The rest, in brackets.
    pub attributes: String,
}

/// The prefix of a path.
///
/// # Errors
/// Where it has none of a family that is known here.
pub fn prefix(version: Version, path: &m::Path) -> Result<Prefix, String> {
    if path.nlri_binary.is_empty() {
        return typed::prefix(version, &path.nlri);
    }
    let family = adapt::family(path.family.as_ref()).map_err(|refusal| refusal.to_string())?;
    typed::prefix_from_raw(&path.nlri_binary, family == Family::V6)
}

/// The attributes of a path as on the wire, whichever way they came.
fn attributes(version: Version, path: &m::Path, prefix: &Prefix) -> Vec<Vec<u8>> {
    if !path.pattrs_binary.is_empty() || path.pattrs.is_empty() {
        return path.pattrs_binary.clone();
    }
    typed::attributes_raw(version, &path.pattrs, prefix)
}

/// A path for the columns.
///
/// # Errors
/// See [`prefix`].
pub fn columns(version: Version, path: &m::Path) -> Result<Shown, String> {
    let prefix = prefix(version, path)?;
    let attributes = attributes(version, path, &prefix);
    let parts: Vec<Part<'_>> = attributes.iter().filter_map(|raw| raw::part(raw)).collect();
    let hop = parts.iter().find_map(|part| next_hop(part)).map(|hop| address(&hop));
    let as_path = parts.iter().find(|part| part.code == code::AS_PATH);
    let hidden = [code::NEXT_HOP, code::MP_REACH, code::AS_PATH, code::AS4_PATH];
    let words: Vec<String> = parts.iter().filter(|part| !hidden.contains(&part.code)).map(word).collect();
    Ok(Shown {
        network: prefix.to_string(),
        next_hop: hop.unwrap_or_else(|| "fictitious".to_owned()),
        as_path: as_path.map(|part| as_path_text(part.value)).unwrap_or_default(),
        attributes: format!("[{}]", words.join(" ")),
    })
}

/// A path for `-j`.
///
/// # Errors
/// See [`prefix`].
pub fn json(version: Version, path: &m::Path) -> Result<String, String> {
    let prefix = prefix(version, path)?;
    let attributes = attributes(version, path, &prefix);
    let parts = attributes.iter().filter_map(|raw| raw::part(raw));
    let list: Vec<String> = parts.map(|part| part_json(&part)).collect();
    let age = path.age.as_ref().map_or(0, |age| age.seconds);
    let mut out = format!("{{\"nlri\":{{\"prefix\":\"{prefix}\"}},\"age\":{age},\"best\":{}", path.best);
    let _ = write!(out, ",\"attrs\":[{}],\"stale\":{}", list.join(","), path.stale);
    if path.is_withdraw {
        out.push_str(",\"withdrawal\":true");
    }
    for (name, text) in [("source-id", &path.source_id), ("neighbor-ip", &path.neighbor_ip)] {
        if let Ok(ip) = text.parse::<IpAddr>() {
            let _ = write!(out, ",\"{name}\":\"{}\"", address(&ip));
        }
    }
    out.push('}');
    Ok(out)
}

/// An address; one of IPv4 inside IPv6 is shown as the former.
fn address(ip: &IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| v6.to_string(), |v4| v4.to_string()),
        IpAddr::V4(v4) => v4.to_string(),
    }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let octets = <[u8; 16]>::try_from(octets.get(..16)?).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

fn v4(octets: &[u8]) -> String {
    ip(octets).map_or_else(|| "<nil>".to_owned(), |ip| ip.to_string())
}

/// The next hop, where this attribute carries it.
fn next_hop(part: &Part<'_>) -> Option<IpAddr> {
    match part.code {
        code::NEXT_HOP => ip(part.value),
        code::MP_REACH => ip(reach(part.value)?.2),
        _ => None,
    }
}

/// Family numbers, next hop and routes of MP_REACH_NLRI.
fn reach(value: &[u8]) -> Option<(u16, u8, &[u8], &[u8])> {
    let [a, b, safi, length, rest @ ..] = value else { return None };
    let hop = rest.get(..usize::from(*length))?;
    Some((u16::from_be_bytes([*a, *b]), *safi, hop, rest.get(usize::from(*length) + 1..)?))
}

/// Type and AS numbers of each segment. Numbers have four octets; two, where four do not come out even.
fn segments(value: &[u8]) -> Vec<(u8, Vec<u32>)> {
    let read = |width: usize| -> Option<Vec<(u8, Vec<u32>)>> {
        let mut rest = value;
        let mut all = Vec::new();
        while let [kind, count, tail @ ..] = rest {
            let (numbers, tail) = tail.split_at_checked(usize::from(*count) * width)?;
            let number = |octets: &[u8]| octets.iter().fold(0, |sum: u32, octet| sum << 8 | u32::from(*octet));
            all.push((*kind, numbers.chunks(width).map(number).collect()));
            rest = tail;
        }
        rest.is_empty().then_some(all)
    };
    read(4).or_else(|| read(2)).unwrap_or_default()
}

fn as_path_text(value: &[u8]) -> String {
    let segment = |(kind, numbers): (u8, Vec<u32>)| {
        let (open, between, close) = match kind {
            1 => ("{", ",", "}"),
            3 => ("(", " ", ")"),
            4 => ("[", ",", "]"),
            _ => ("", " ", ""),
        };
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        format!("{open}{}{close}", numbers.join(between))
    };
    segments(value).into_iter().map(segment).collect::<Vec<_>>().join(" ")
}

fn words(value: &[u8]) -> impl Iterator<Item = u32> + '_ {
    value.as_chunks::<4>().0.iter().map(|octets| u32::from_be_bytes(*octets))
}

fn number(value: &[u8]) -> u32 {
    words(value).next().unwrap_or_default()
}

/// An attribute in the column of attributes.
fn word(part: &Part<'_>) -> String {
    let value = part.value;
    match part.code {
        code::ORIGIN => {
            let origin = match value {
                [0] => "i",
                [1] => "e",
                [2] => "?",
                _ => "-",
            };
            format!("{{Origin: {origin}}}")
        }
        code::MED => format!("{{Med: {}}}", number(value)),
        code::LOCAL_PREF => format!("{{LocalPref: {}}}", number(value)),
        code::ATOMIC_AGGREGATE => "{AtomicAggregate}".to_owned(),
        code::AGGREGATOR => {
            let (asn, address) = aggregator(value);
            format!("{{Aggregate: {{AS: {asn}, Address: {address}}}}}")
        }
        code::COMMUNITIES => format!("{{Communities: {}}}", join(words(value).map(community), ", ")),
        code::ORIGINATOR_ID => format!("{{Originator: {}}}", v4(value)),
        code::CLUSTER_LIST => format!("{{ClusterList: [{}]}}", join(value.chunks(4).map(v4), " ")),
        code::EXTENDED_COMMUNITIES => {
            let list = value.as_chunks::<8>().0.iter().map(|one| format!("[{}]", extended_community(one)));
            format!("{{Extcomms: {}}}", join(list, ", "))
        }
        code::LARGE_COMMUNITIES => {
            let list = large(value).map(|[a, b, c]| format!("{a}:{b}:{c}"));
            format!("{{LargeCommunity: [ {}]}}", join(list, ", "))
        }
        code::AIGP => format!("{{Aigp: [{}]}}", join(aigp(value).map(|metric| format!("{{Metric: {metric}}}")), "")),
        _ => {
            let octets = join(value.iter().map(ToString::to_string), " ");
            format!("{{Flags: {}, Type: {}, Value: [{octets}]}}", flags(part.flags), kind(part.code))
        }
    }
}

fn join(list: impl Iterator<Item = String>, between: &str) -> String {
    list.collect::<Vec<_>>().join(between)
}

fn aggregator(value: &[u8]) -> (u32, String) {
    match value {
        [a, b, c, d, address @ ..] if address.len() == 4 => (u32::from_be_bytes([*a, *b, *c, *d]), v4(address)),
        [a, b, address @ ..] => (u32::from(u16::from_be_bytes([*a, *b])), v4(address)),
        _ => (0, v4(&[])),
    }
}

/// Communities with names, as `gobgp` writes them.
pub const COMMUNITY_NAMES: [(u32, &str); 14] = [
    (0x0000_0000, "internet"),
    (0xffff_0000, "planned-shut"),
    (0xffff_0001, "accept-own"),
    (0xffff_0002, "route-filter-translated-v4"),
    (0xffff_0003, "route-filter-v4"),
    (0xffff_0004, "route-filter-translated-v6"),
    (0xffff_0005, "route-filter-v6"),
    (0xffff_0006, "llgr-stale"),
    (0xffff_0007, "no-llgr"),
    (0xffff_029a, "blackhole"),
    (0xffff_ff01, "no-export"),
    (0xffff_ff02, "no-advertise"),
    (0xffff_ff03, "no-export-subconfed"),
    (0xffff_ff04, "no-peer"),
];

/// A community by its name, or in two halves.
pub fn community(value: u32) -> String {
    let known = COMMUNITY_NAMES.iter().find(|(known, _)| *known == value);
    known.map_or_else(|| format!("{}:{}", value >> 16, value & 0xffff), |(_, name)| (*name).to_owned())
}

fn large(value: &[u8]) -> impl Iterator<Item = [u32; 3]> + '_ {
    value.as_chunks::<12>().0.iter().map(|[a, b, c, d, e, f, g, h, i, j, k, l]| {
        [
            u32::from_be_bytes([*a, *b, *c, *d]),
            u32::from_be_bytes([*e, *f, *g, *h]),
            u32::from_be_bytes([*i, *j, *k, *l]),
        ]
    })
}

/// The metrics of AIGP (RFC 7311).
fn aigp(value: &[u8]) -> impl Iterator<Item = u64> + '_ {
    value.as_chunks::<11>().0.iter().filter_map(|tlv| match tlv {
        [1, 0, 11, metric @ ..] => Some(u64::from_be_bytes(*metric)),
        _ => None,
    })
}

/// An extended community.
pub fn extended_community(value: &[u8; 8]) -> String {
    let [kind, sub, a, b, c, d, e, f] = *value;
    let last4 = u32::from_be_bytes([c, d, e, f]);
    match (kind, sub) {
        (0x00 | 0x40, 4) => format!("{}:{}", u16::from_be_bytes([a, b]), f32::from_bits(last4) as u32),
        (0x00 | 0x40, _) => format!("{}:{last4}", u16::from_be_bytes([a, b])),
        (0x01 | 0x41, _) => format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, f])),
        (0x02 | 0x42, _) => {
            format!("{}.{}:{}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), u16::from_be_bytes([e, f]))
        }
        (0x03, 0x0b) => last4.to_string(),
        (0x03, 0x0d) => "default-gateway".to_owned(),
        (0x43, 0x00) => match f {
            0 => "valid".to_owned(),
            1 => "not-found".to_owned(),
            2 => "invalid".to_owned(),
            other => format!("unknown validation state({other})"),
        },
        _ => u64::from_be_bytes([0, sub, a, b, c, d, e, f]).to_string(),
    }
}

fn flags(flags: u8) -> String {
    let names = [(0x10, "EXTENDED_LENGTH"), (0x20, "PARTIAL"), (0x40, "TRANSITIVE"), (0x80, "OPTIONAL")];
    join(names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned()), "|")
}

/// Names of attributes that nothing above shows.
fn kind(code: u8) -> String {
    let name = match code {
        18 => "BGP_ATTR_TYPE_AS4_AGGREGATOR",
        22 => "BGP_ATTR_TYPE_PMSI_TUNNEL",
        23 => "BGP_ATTR_TYPE_TUNNEL_ENCAP",
        25 => "BGP_ATTR_TYPE_IP6_EXTENDED_COMMUNITIES",
        29 => "BGP_ATTR_TYPE_LS",
        40 => "BGP_ATTR_TYPE_PREFIX_SID",
        _ => return format!("BGPAttrType({code})"),
    };
    name.to_owned()
}

/// An attribute for `-j`.
fn part_json(part: &Part<'_>) -> String {
    let value = part.value;
    let number_json = |name: &str, number: u64| format!("\"{name}\":{number}");
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let quoted = |text: String| format!("\"{text}\"");
    let body = match part.code {
        code::ORIGIN => number_json("value", u64::from(value.first().copied().unwrap_or_default())),
        code::AS_PATH => {
            let segment = |(kind, numbers): (u8, Vec<u32>)| {
                let asns = numbers.iter().map(ToString::to_string).collect();
                format!("{{\"segment_type\":{kind},\"num\":{},\"asns\":{}}}", numbers.len(), list(asns))
            };
            format!("\"as_paths\":{}", list(segments(value).into_iter().map(segment).collect()))
        }
        code::NEXT_HOP => format!("\"nexthop\":\"{}\"", ip(value).map_or_else(String::new, |hop| address(&hop))),
        code::MED => number_json("metric", u64::from(number(value))),
        code::LOCAL_PREF => number_json("value", u64::from(number(value))),
        code::ATOMIC_AGGREGATE => return format!("{{\"type\":{}}}", part.code),
        code::AGGREGATOR => {
            let (asn, address) = aggregator(value);
            format!("\"as\":{asn},\"address\":\"{address}\"")
        }
        code::COMMUNITIES => format!("\"communities\":{}", list(words(value).map(|one| one.to_string()).collect())),
        code::ORIGINATOR_ID => format!("\"value\":\"{}\"", v4(value)),
        code::CLUSTER_LIST => format!("\"value\":{}", list(value.chunks(4).map(v4).map(quoted).collect())),
        code::MP_REACH => reach_json(value),
        code::EXTENDED_COMMUNITIES => {
            format!("\"value\":{}", list(value.as_chunks::<8>().0.iter().map(extended_json).collect()))
        }
        code::LARGE_COMMUNITIES => {
            let one = |[a, b, c]: [u32; 3]| format!("{{\"ASN\":{a},\"LocalData1\":{b},\"LocalData2\":{c}}}");
            format!("\"value\":{}", list(large(value).map(one).collect()))
        }
        code::AIGP => {
            let one = |metric: u64| format!("{{\"type\":1,\"metric\":{metric}}}");
            format!("\"value\":{}", list(aigp(value).map(one).collect()))
        }
        _ => {
            let encoded = BASE64.encode(value);
            return format!("{{\"flags\":{},\"type\":{},\"value\":\"{encoded}\"}}", part.flags, part.code);
        }
    };
    format!("{{\"type\":{},{body}}}", part.code)
}

fn reach_json(value: &[u8]) -> String {
    let Some((afi, safi, hop, mut routes)) = reach(value) else { return "\"value\":null".to_owned() };
    let mut prefixes = Vec::new();
    while let [length, ..] = routes {
        let size = 1 + usize::from(length.div_ceil(8));
        let Some((one, rest)) = routes.split_at_checked(size) else { break };
        let Ok(prefix) = typed::prefix_from_raw(one, afi == 2) else { break };
        prefixes.push(format!("{{\"prefix\":\"{prefix}\"}}"));
        routes = rest;
    }
    let hop = ip(hop).map_or_else(|| "fictitious".to_owned(), |hop| address(&hop));
    format!("\"nexthop\":\"{hop}\",\"afi\":{afi},\"safi\":{safi},\"value\":[{}]", prefixes.join(","))
}

fn extended_json(value: &[u8; 8]) -> String {
    let [kind, sub, rest @ ..] = *value;
    let body = match (kind, sub) {
        (0x00 | 0x40, 4) => {
            let [a, b, c, d, e, f] = rest;
            let bandwidth = f32::from_bits(u32::from_be_bytes([c, d, e, f]));
            format!("\"asn\":{},\"bandwidth\":{bandwidth}", u16::from_be_bytes([a, b]))
        }
        (0x00..=0x02 | 0x40..=0x42, _) => format!("\"value\":\"{}\"", extended_community(value)),
        (0x03, 0x0b) => format!("\"color\":{}", extended_community(value)),
        (0x03, 0x0d) => return format!("{{\"type\":{kind},\"subtype\":{sub}}}"),
        (0x43, 0x00) => {
            let [.., state] = rest;
            format!("\"value\":{state}")
        }
        _ => {
            let [_, opaque @ ..] = value;
            format!("\"value\":\"{}\"", BASE64.encode(opaque))
        }
    };
    format!("{{\"type\":{kind},\"subtype\":{sub},{body}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(attributes: &[&[u8]]) -> m::Path {
        m::Path {
            family: Some(m::Family { afi: 1, safi: 1 }),
            nlri_binary: vec![8, 10],
            pattrs_binary: attributes.iter().map(|raw| raw.to_vec()).collect(),
            ..m::Path::default()
        }
    }

    #[test]
    fn shows_what_the_speaker_itself_does_not_know() {
        let set = [0x40, 2, 16, 2, 1, 0, 0, 0xfd, 0xe9, 1, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let odd = [0xc0, 99, 2, 1, 2];
        let shown = columns(Version::V3, &path(&[&[0x40, 1, 1, 2], &set, &[0x40, 3, 4, 192, 0, 2, 1], &odd])).unwrap();
        assert_eq!(shown.as_path, "65001 {1,2}");
        assert_eq!(shown.next_hop, "192.0.2.1");
        let rest = "[{Origin: ?} {Flags: TRANSITIVE|OPTIONAL, Type: BGPAttrType(99), Value: [1 2]}]";
        assert_eq!(shown.attributes, rest);
    }

    #[test]
    fn names_every_kind_of_community() {
        let plain = [0xc0, 8, 8, 0xff, 0xff, 0xff, 1, 0, 100, 0, 200];
        let extended = [0xc0, 16, 16, 0, 2, 0, 100, 0, 0, 0, 200, 3, 0x0b, 0, 0, 0, 0, 0, 7];
        let large = [0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let shown = columns(Version::V3, &path(&[&plain, &extended, &large])).unwrap();
        let rest = "[{Communities: no-export, 100:200} {Extcomms: [100:200], [7]} {LargeCommunity: [ 1:2:3]}]";
        assert_eq!((shown.attributes.as_str(), shown.next_hop.as_str()), (rest, "fictitious"));
        let json = json(Version::V3, &path(&[&plain, &extended, &large])).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["attrs"][1]["value"][1]["color"], 7);
        assert_eq!(value["attrs"][2]["value"][0]["LocalData2"], 3);
    }

    #[test]
    fn bytes_cut_short_show_less_and_break_nothing() {
        let whole = [0x80, 14, 24, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 16, 0x20, 1];
        for end in 0..=whole.len() {
            let one = path(&[&whole[..end]]);
            assert!(columns(Version::V3, &one).is_ok() && json(Version::V3, &one).is_ok());
        }
    }
}
