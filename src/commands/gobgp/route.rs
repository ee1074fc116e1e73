//! The words of `global rib add PREFIX …` as a route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::family_message;
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::api::raw::{self, code};
use crate::routing::bgp::api::{message as m, shown};
use crate::routing::bgp::types::{Attributes, NextHop, Origin};

/// A route to add or take back.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    prefix: Prefix,
    identifier: u32,
    attributes: Attributes,
    aigp: Option<u64>,
}

impl Route {
    /// The route in binary form, which both majors take; since `now`, which gobgpd believes.
    pub(super) fn into_path(self, now: Duration) -> m::Path {
        let mut attributes = raw::attributes(&self.attributes, &self.prefix);
        if let Some(metric) = self.aigp {
            let value = [&[1, 0, 11][..], &metric.to_be_bytes()].concat();
            attributes.push(raw::write(0x80, code::AIGP, &value));
            attributes.sort_by_key(|raw| raw.get(1).copied());
        }
        m::Path {
            family: Some(family_message(Family::of(self.prefix.addr()))),
            nlri_binary: raw::prefix(&self.prefix),
            pattrs_binary: attributes,
            identifier: self.identifier,
            age: Some(m::Timestamp { seconds: i64::try_from(now.as_secs()).unwrap_or_default(), nanos: 0 }),
            ..m::Path::default()
        }
    }
}

/// Reads the words.
///
/// # Errors
/// A sentence that names the word.
pub(super) fn parse(family: Family, words: &[String]) -> Result<Route, String> {
    let mut words = words.iter().map(String::as_str).peekable();
    let prefix = words.next().ok_or("give a prefix, such as 203.0.113.0/24")?;
    let prefix: Prefix = prefix.parse().map_err(|_| format!("{prefix:?} is not a prefix such as 203.0.113.0/24"))?;
    let prefix = prefix.trunc();
    if Family::of(prefix.addr()) != family {
        return Err(format!("{prefix} is not of the address family; say -a {}", Family::of(prefix.addr())));
    }
    let ours = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let attributes = Attributes::new(Origin::Incomplete, std::iter::empty().collect(), NextHop::from(ours));
    let mut route = Route { prefix, identifier: 0, attributes, aigp: None };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        if word == "aigp" {
            let metric = words.next().filter(|_| value == "metric").ok_or("aigp takes: metric NUMBER")?;
            route.aigp = Some(number(word, metric)?);
            continue;
        }
        if word == "rt" {
            let mut targets = vec![route_target(value)?];
            while let Some(more) = words.next_if(|next| next.contains(':')) {
                targets.push(route_target(more)?);
            }
            targets.sort_unstable();
            route.attributes.extended_communities = targets.into();
            continue;
        }
        attribute(&mut route, word, value)?;
    }
    Ok(route)
}

fn attribute(route: &mut Route, word: &str, value: &str) -> Result<(), String> {
    let attributes = &mut route.attributes;
    match word {
        "identifier" => route.identifier = number(word, value)?,
        "nexthop" => {
            let address = value.parse().map_err(|_| format!("nexthop {value:?} is not an address"))?;
            attributes.next_hop = NextHop { address, link_local: None };
        }
        "origin" => {
            attributes.origin = match value {
                "igp" => Origin::Igp,
                "egp" => Origin::Egp,
                "incomplete" => Origin::Incomplete,
                other => return Err(format!("invalid origin type. expect [igp|egp|incomplete] but {other}")),
            };
        }
        "med" => attributes.med = Some(number(word, value)?),
        "local-pref" => attributes.local_pref = Some(number(word, value)?),
        "aspath" => {
            if value.contains(['{', '}']) {
                return Err("aspath: sets in an AS path are no longer allowed (RFC 9774)".to_owned());
            }
            let numbers = value.split([',', ' ']).filter(|text| !text.is_empty()).map(asn);
            attributes.as_path = numbers.collect::<Result<_, _>>()?;
        }
        "community" => attributes.communities = list(value, community)?,
        "large-community" => attributes.large_communities = list(value, large_community)?,
        "aggregator" => {
            let (number, address) = value.split_once(':').ok_or("aggregator takes AS:ADDRESS")?;
            let address = address.parse().map_err(|_| format!("aggregator: {address:?} is not an IPv4 address"))?;
            attributes.aggregator = Some((asn(number)?, address));
        }
        other => return Err(format!("unexpected {other:?}; --help lists the attributes a route may have")),
    }
    Ok(())
}

fn number<T: std::str::FromStr>(word: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{word} {value:?} is not a number in range"))
}

/// An AS number, plain or with a dot.
fn asn(text: &str) -> Result<Asn, String> {
    let dotted = text.split_once('.').and_then(|(high, low)| {
        let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
        Some(u32::from(high) << 16 | u32::from(low))
    });
    dotted.or_else(|| text.parse().ok()).map(Asn).ok_or_else(|| format!("{text:?} is not an AS number"))
}

/// Values with commas between, sorted, each once.
fn list<T: Ord>(text: &str, one: fn(&str) -> Result<T, String>) -> Result<Box<[T]>, String> {
    let mut all = text.split(',').map(one).collect::<Result<Vec<T>, String>>()?;
    all.sort();
    all.dedup();
    Ok(all.into())
}

fn community(text: &str) -> Result<u32, String> {
    if let Some((value, _)) = shown::COMMUNITY_NAMES.iter().find(|(_, name)| *name == text) {
        return Ok(*value);
    }
    let pair = text.split_once(':').and_then(|(high, low)| {
        let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
        Some(u32::from(high) << 16 | u32::from(low))
    });
    let value = pair.or_else(|| text.parse().ok());
    value.ok_or_else(|| format!("failed to parse {text} as community: expected 100:200, a number or a known name"))
}

fn large_community(text: &str) -> Result<[u32; 3], String> {
    let parts = text.split(':').map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    let parts = parts.and_then(|parts| <[u32; 3]>::try_from(parts).ok());
    parts.ok_or_else(|| format!("large-community {text:?} is not of the form 1:2:3"))
}

/// A route target: AS:NUMBER or ADDRESS:NUMBER (RFC 4360, 5668).
fn route_target(text: &str) -> Result<[u8; 8], String> {
    let wrong = || format!("rt {text:?} is not of the form AS:NUMBER or ADDRESS:NUMBER");
    let (administrator, value) = text.rsplit_once(':').ok_or_else(wrong)?;
    let short = || value.parse::<u16>().map_err(|_| wrong());
    if let Ok(address) = administrator.parse::<Ipv4Addr>() {
        let ([a, b, c, d], [e, f]) = (address.octets(), short()?.to_be_bytes());
        return Ok([1, 2, a, b, c, d, e, f]);
    }
    let Asn(number) = asn(administrator).map_err(|_| wrong())?;
    if let Ok(number) = u16::try_from(number)
        && !administrator.contains('.')
    {
        let [c, d, e, f] = value.parse::<u32>().map_err(|_| wrong())?.to_be_bytes();
        let [a, b] = number.to_be_bytes();
        return Ok([0, 2, a, b, c, d, e, f]);
    }
    let ([a, b, c, d], [e, f]) = (number.to_be_bytes(), short()?.to_be_bytes());
    Ok([2, 2, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::bgp::api::adapt::Version;

    fn words(line: &str) -> Vec<String> {
        // An AS path is one word to the shell.
        line.split_whitespace().map(|word| word.replace('_', " ")).collect()
    }

    fn shown_of(family: Family, line: &str) -> String {
        let path = parse(family, &words(line)).unwrap().into_path(Duration::ZERO);
        let shown = shown::columns(Version::V3, &path).unwrap();
        format!("{} {} [{}] {}", shown.network, shown.next_hop, shown.as_path, shown.attributes)
    }

    #[test]
    fn every_attribute_is_taken() {
        assert_eq!(shown_of(Family::V4, "203.0.113.7/24"), "203.0.113.0/24 0.0.0.0 [] [{Origin: ?}]");
        let line = "203.0.113.0/24 identifier 7 nexthop 192.0.2.1 origin igp med 5 local-pref 200 aspath 65001_1.2 \
                    community no-export,100:200 large-community 1:2:3 rt 65000:1 192.0.2.1:2 aggregator 65001:10.0.0.1 \
                    aigp metric 10";
        let want = "203.0.113.0/24 192.0.2.1 [65001 65538] [{Origin: i} {Med: 5} {LocalPref: 200} \
                    {Aggregate: {AS: 65001, Address: 10.0.0.1}} {Communities: 100:200, no-export} \
                    {Extcomms: [65000:1], [192.0.2.1:2]} {Aigp: [{Metric: 10}]} {LargeCommunity: [ 1:2:3]}]";
        assert_eq!(shown_of(Family::V4, line), want);
        assert_eq!(parse(Family::V4, &words(line)).unwrap().into_path(Duration::ZERO).identifier, 7);
        assert_eq!(
            shown_of(Family::V6, "2001:db8::/32 nexthop 2001:db8::1"),
            "2001:db8::/32 2001:db8::1 [] [{Origin: ?}]"
        );
    }

    #[test]
    fn a_word_that_makes_no_sense_is_named() {
        let fault = |line: &str| parse(Family::V4, &words(line)).unwrap_err();
        assert_eq!(fault(""), "give a prefix, such as 203.0.113.0/24");
        assert_eq!(fault("2001:db8::/32"), "2001:db8::/32 is not of the address family; say -a ipv6");
        assert_eq!(fault("10.0.0.0/8 med"), "med needs a value");
        assert_eq!(fault("10.0.0.0/8 med x"), "med \"x\" is not a number in range");
        assert!(fault("10.0.0.0/8 community 1:70000").starts_with("failed to parse 1:70000 as community"));
        assert!(fault("10.0.0.0/8 colour 7").starts_with("unexpected \"colour\""));
        assert!(fault("10.0.0.0/8 aspath {1}").contains("RFC 9774"));
    }
}
