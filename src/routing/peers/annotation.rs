//! What a node's annotations say about BGP, value by value.

use std::net::{IpAddr, Ipv4Addr};

use super::{Prepend, Reflector, key};
use crate::model::{Node, NodeName, Notice, Severity, Subject};
use crate::net::{Asn, Prefix};

/// Reads the annotations of one node and collects what is wrong with them.
pub(super) struct Reader<'a> {
    name: &'a NodeName,
    node: &'a Node,
    pub(super) notices: Vec<Notice>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(name: &'a NodeName, node: &'a Node) -> Reader<'a> {
        Reader { name, node, notices: Vec::new() }
    }

    /// The annotation as written, where it is there and not blank.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.node.annotations.get(key).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Tell the node's owner that the value in one place is not used, and what to do.
    pub(super) fn warn(&mut self, place: &str, value: &str, cure: &str) {
        let field = if place.starts_with('-') { place.to_owned() } else { format!("metadata.annotations[{place}]") };
        let message = format!("node {}: {field}: \"{value}\": {cure}", self.name);
        let subject = Subject::Node(self.name.clone());
        self.notices.push(Notice { subject, severity: Severity::Warning, reason: "InvalidBgpSetting", message });
    }

    pub(super) fn asn(&mut self) -> Option<Asn> {
        let text = self.get(key::ASN)?;
        let asn = parse_asn(text);
        if asn.is_none() {
            self.warn(key::ASN, text, "not an AS number a peer may have: use for example 64512");
        }
        asn
    }

    /// The server key wins over the client key.
    pub(super) fn reflector(&mut self) -> Option<Reflector> {
        type Part = fn(Ipv4Addr) -> Reflector;
        let parts: [(&str, Part); 2] =
            [(key::REFLECTOR_SERVER, Reflector::Server), (key::REFLECTOR_CLIENT, Reflector::Client)];
        for (key, make) in parts {
            let Some(text) = self.get(key) else { continue };
            match parse_cluster_id(text) {
                Some(id) => return Some(make(id)),
                None => self.warn(key, text, "not a cluster id, the key is ignored: use a number or an IPv4 address"),
            }
        }
        None
    }

    pub(super) fn prepend(&mut self) -> Option<Prepend> {
        let (asn, times) = (self.get(key::PREPEND_AS), self.get(key::PREPEND_TIMES));
        let (Some(asn_text), Some(times_text)) = (asn, times) else {
            if let Some(asn) = asn {
                self.warn(
                    key::PREPEND_AS,
                    asn,
                    "nothing is prepended: say how often in kube-router.io/path-prepend.repeat-n",
                );
            } else if let Some(times) = times {
                self.warn(
                    key::PREPEND_TIMES,
                    times,
                    "nothing is prepended: say what in kube-router.io/path-prepend.as",
                );
            }
            return None;
        };
        let asn = parse_asn(asn_text);
        if asn.is_none() {
            self.warn(key::PREPEND_AS, asn_text, "nothing is prepended: use an AS number");
        }
        let times = parse_integer(times_text).and_then(|number| u8::try_from(number).ok());
        if times.is_none() {
            self.warn(key::PREPEND_TIMES, times_text, "nothing is prepended: use 0 to 255");
        }
        Some(Prepend { asn: asn?, times: times? })
    }

    pub(super) fn communities(&mut self) -> Vec<u32> {
        let cure = "left out: use a number, a:b, or a well-known name such as no-export";
        let mut communities = self.list(key::COMMUNITIES, parse_community, cure);
        communities.sort_unstable();
        communities.dedup();
        communities
    }

    pub(super) fn import_reject(&mut self) -> Vec<Prefix> {
        let parse = |text: &str| text.parse::<Prefix>().ok().map(|prefix| prefix.trunc());
        let mut prefixes = self.list(key::IMPORT_REJECT, parse, "left out: use a prefix such as 10.0.0.0/16");
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    pub(super) fn local_addresses(&mut self) -> Vec<IpAddr> {
        let mut addresses = self.list(key::LOCAL_ADDRESSES, parse_address, "left out: use an address of this node");
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The readable entries of a comma list.
    fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>, cure: &str) -> Vec<T> {
        let mut values = Vec::new();
        for entry in self.get(key).into_iter().flat_map(entries) {
            match parse(entry) {
                Some(value) => values.push(value),
                None => self.warn(key, entry, cure),
            }
        }
        values
    }
}

/// The entries of a comma list without the blank ones.
fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// An address, IPv6 with or without brackets.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    text.trim()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

/// A number in the notations kube-router reads: decimal, `0x`, `0o` or a leading `0`, `0b`.
pub(super) fn parse_integer(text: &str) -> Option<u64> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    let based = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
    if let Some(digits) = lower.strip_prefix("0x") {
        based(digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        based(digits, 2)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        based(digits, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        based(&lower, 8)
    } else {
        based(&lower, 10)
    }
}

/// An AS number a peer may have: none that is reserved (0, 23456, 64000-64511, 65535-131071, 4294967295).
pub fn parse_asn(text: &str) -> Option<Asn> {
    parse_integer(text).and_then(|number| u32::try_from(number).ok()).and_then(usable_asn)
}

/// The number as AS, unless it is reserved.
pub(super) fn usable_asn(number: u32) -> Option<Asn> {
    matches!(number, 1..=23455 | 23457..=63999 | 64512..=65534 | 131_072..=4_294_967_294).then_some(Asn(number))
}

/// A cluster id: dotted, or a number that stands for its four octets.
pub fn parse_cluster_id(text: &str) -> Option<Ipv4Addr> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<u32>().ok().map(Ipv4Addr::from)).filter(|id| !id.is_unspecified())
}

/// A community: a number, `a:b`, or a well-known name.
pub fn parse_community(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some((high, low)) = text.split_once(':') {
        let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
        return Some(u32::from(high) << 16 | u32::from(low));
    }
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    Some(match text.to_ascii_lowercase().as_str() {
        "internet" => 0,
        "planned-shut" | "graceful-shutdown" => 0xffff_0000,
        "accept-own" => 0xffff_0001,
        "route-filter-translated-v4" => 0xffff_0002,
        "route-filter-v4" => 0xffff_0003,
        "route-filter-translated-v6" => 0xffff_0004,
        "route-filter-v6" => 0xffff_0005,
        "llgr-stale" => 0xffff_0006,
        "no-llgr" => 0xffff_0007,
        "blackhole" => 0xffff_029a,
        "no-export" => 0xffff_ff01,
        "no-advertise" => 0xffff_ff02,
        "no-export-subconfed" => 0xffff_ff03,
        "no-peer" => 0xffff_ff04,
        _ => return None,
    })
}
