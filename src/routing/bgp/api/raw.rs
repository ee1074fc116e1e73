//! Path attributes as on the wire, one by one: written for answers, taken apart for printing (pure).
//!
//! AS numbers always have four octets. IPv6 routes, and IPv4 routes with an IPv6 next hop, have MP_REACH_NLRI with the
//! prefix inside (RFC 4760, 8950).

use crate::net::Prefix;
use crate::routing::bgp::types::{Attributes, Nlri};
use crate::routing::bgp::wire;

/// Codes of attributes (RFC 4271, 1997, 4456, 4760, 4360, 7311, 8092).
#[allow(missing_docs, reason = "the registered names say it")]
pub mod code {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AIGP: u8 = 26;
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// What the speaker reads, and MP_UNREACH_NLRI and AS4_AGGREGATOR, which only a session writes.
    pub const KNOWN: [u8; 17] = [
        ORIGIN,
        AS_PATH,
        NEXT_HOP,
        MED,
        LOCAL_PREF,
        ATOMIC_AGGREGATE,
        AGGREGATOR,
        COMMUNITIES,
        ORIGINATOR_ID,
        CLUSTER_LIST,
        MP_REACH,
        15,
        EXTENDED_COMMUNITIES,
        AS4_PATH,
        18,
        AIGP,
        LARGE_COMMUNITIES,
    ];
}

/// The flag of attributes that a speaker need not know (RFC 4271, 4.3).
pub const OPTIONAL: u8 = 0x80;
const EXTENDED_LENGTH: u8 = 0x10;

/// One attribute, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Flags octet.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// The value.
    pub value: &'a [u8],
}

/// Takes one attribute apart; `None` where it is cut short.
pub fn part(raw: &[u8]) -> Option<Part<'_>> {
    let (flags, code, value) = match raw {
        [flags, code, high, low, value @ ..] if flags & EXTENDED_LENGTH != 0 => {
            (*flags, *code, value.get(..usize::from(u16::from_be_bytes([*high, *low])))?)
        }
        [flags, code, length, value @ ..] => (*flags, *code, value.get(..usize::from(*length))?),
        _ => return None,
    };
    Some(Part { flags, code, value })
}

/// One attribute with its header.
pub fn write(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 4);
    match u8::try_from(value.len()) {
        Ok(length) => out.extend([flags & !EXTENDED_LENGTH, code, length]),
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            out.extend([flags | EXTENDED_LENGTH, code, high, low]);
        }
    }
    out.extend_from_slice(value);
    out
}

/// A prefix in binary form: its length in bits, then as many octets as it needs.
pub fn prefix(prefix: &Prefix) -> Vec<u8> {
    wire::nlri_raw(prefix)
}

/// All attributes of a route, in order of their codes.
pub fn attributes(attributes: &Attributes, prefix: &Prefix) -> Vec<Vec<u8>> {
    let mut out = wire::attributes_raw(attributes, &Nlri::new(*prefix));
    out.sort_by_key(|raw| raw.get(1).copied());
    out
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::net::Asn;
    use crate::routing::bgp::types::{AsPath, NextHop, Origin, RawAttribute};

    #[test]
    fn attributes_come_in_order_with_their_headers() {
        let hop = IpAddr::from([192, 0, 2, 1]);
        let mut all = Attributes::new(Origin::Egp, [Asn(65001), Asn(70000)].into_iter().collect(), hop.into());
        all.med = Some(5);
        all.communities = vec![0xffff_ff01].into();
        all.large_communities = vec![[1, 2, 3]].into();
        all.unknown = vec![RawAttribute { flags: 0xe0, code: 20, value: vec![7; 300].into() }].into();
        let raw = attributes(&all, &"10.0.0.0/8".parse().unwrap());
        let codes: Vec<u8> = raw.iter().map(|raw| part(raw).unwrap().code).collect();
        assert_eq!(codes, [1, 2, 3, 4, 8, 20, 32]);
        assert_eq!(raw[1], [0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe9, 0, 1, 0x11, 0x70]);
        let long = part(&raw[5]).unwrap();
        assert_eq!((long.flags, long.value.len()), (0xf0, 300));
    }

    #[test]
    fn an_ipv6_next_hop_brings_its_prefix_along() {
        let hop = NextHop { address: "2001:db8::1".parse().unwrap(), link_local: Some("fe80::1".parse().unwrap()) };
        let all = Attributes::new(Origin::Igp, AsPath::empty(), hop);
        let raw = attributes(&all, &"2001:db8:1::/48".parse().unwrap());
        let reach = part(raw.last().unwrap()).unwrap();
        assert_eq!((reach.code, reach.value.len()), (14, 4 + 32 + 1 + 7));
        assert_eq!(reach.value[..4], [0, 2, 1, 32]);
        assert_eq!(part(&raw[2][..10]), None);
    }
}
