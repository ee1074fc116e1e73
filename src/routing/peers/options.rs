//! What an entry of `kube-router.io/peers` may say beyond kube-router's keys, value by value.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::annotation::parse_address;
use super::{AddPath, NextHops, PeerOptions};
use crate::net::Family;

/// The most a long-lived stale time can say (24 bits, RFC 9494).
const MAX_LONG_LIVED: u64 = 0x00ff_ffff;

/// Why an entry is left out.
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) value: String,
    pub(super) cure: &'static str,
}

pub(super) fn fault(field: &'static str, value: &Value, cure: &'static str) -> Fault {
    let value = match value {
        _ if field == "password" => "<redacted>".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Fault { field, value, cure }
}

/// Reads them. `restarts`: graceful restart is on.
pub(super) fn read(map: &Map<String, Value>, restarts: bool) -> Result<PeerOptions, Fault> {
    let entry = Entry(map);
    let security = entry.number("ttlsecurity", 1, 254, "the peer is left out: use hops, 1 to 254")?;
    let multihop = entry.number("multihop", 2, 255, "the peer is left out: use hops, 2 to 255")?;
    if security.is_some() && multihop.is_some() {
        let cure = "the peer is left out: use either multihop or ttlsecurity, which takes several hops as well";
        return Err(fault("multihop", entry.get("multihop"), cure));
    }
    let cure = "the peer is left out: use seconds, 1 to 16777215";
    let long_lived = entry.number("longlivedstaletime", 1, MAX_LONG_LIVED, cure)?;
    if long_lived.is_some() && !restarts {
        let cure = "the peer is left out: a long-lived stale time needs --bgp-graceful-restart";
        return Err(fault("longlivedstaletime", entry.get("longlivedstaletime"), cure));
    }
    let hold_time = entry.number("holdtime", 3, 65535, "the peer is left out: use seconds, 3 to 65535")?;
    let cure = "the peer is left out: use a number of routes, 1 or more";
    let max_prefixes = entry.number("maxprefixes", 1, u32::MAX.into(), cure)?;
    Ok(PeerOptions {
        passive: entry.flag("passive")?,
        security: security.and_then(|hops| u8::try_from(hops).ok()),
        multihop: multihop.and_then(|hops| u8::try_from(hops).ok()),
        hold_time: hold_time.map(Duration::from_secs),
        add_path: entry.add_path()?,
        long_lived: long_lived.map(Duration::from_secs),
        max_prefixes: max_prefixes.and_then(|routes| u32::try_from(routes).ok()),
        next_hops: entry.next_hops()?,
    })
}

struct Entry<'a>(&'a Map<String, Value>);

impl Entry<'_> {
    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    fn flag(&self, name: &'static str) -> Result<bool, Fault> {
        match self.get(name) {
            Value::Null => Ok(false),
            Value::Bool(set) => Ok(*set),
            other => Err(fault(name, other, "the peer is left out: use true or false")),
        }
    }

    fn number(&self, name: &'static str, least: u64, most: u64, cure: &'static str) -> Result<Option<u64>, Fault> {
        let value = self.get(name);
        if value.is_null() {
            return Ok(None);
        }
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| fault(name, value, cure))
    }

    fn add_path(&self) -> Result<Option<AddPath>, Fault> {
        let value = self.get("addpath");
        let (receive, send) = match value.as_str() {
            None if value.is_null() => return Ok(None),
            Some("off") => (false, false),
            Some("receive") => (true, false),
            Some("send") => (false, true),
            Some("both") => (true, true),
            _ => return Err(fault("addpath", value, "the peer is left out: use off, receive, send or both")),
        };
        Ok(Some(AddPath { receive, send }))
    }

    /// At most one of the three keys; `nexthop` is one address, or one of each family.
    fn next_hops(&self) -> Result<NextHops, Fault> {
        let (unchanged, own) = (self.flag("nexthopunchanged")?, self.flag("nexthopself")?);
        let value = self.get("nexthop");
        if usize::from(unchanged) + usize::from(own) + usize::from(!value.is_null()) > 1 {
            let cure = "the peer is left out: use one of nexthop, nexthopself and nexthopunchanged";
            let field = if value.is_null() { "nexthopself" } else { "nexthop" };
            return Err(fault(field, self.get(field), cure));
        }
        let cure = "the peer is left out: use an address, or a list of one for each family";
        let bad = || fault("nexthop", value, cure);
        let texts: Vec<&Value> = match value {
            Value::Null if unchanged => return Ok(NextHops::Unchanged),
            Value::Null if own => return Ok(NextHops::Own { v4: None, v6: None }),
            Value::Null => return Ok(NextHops::AsFlags),
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        let (mut v4, mut v6) = (None, None);
        for text in texts {
            let address = text.as_str().and_then(parse_address).filter(|address| !address.is_unspecified());
            let before = match address.ok_or_else(bad)? {
                IpAddr::V4(address) => v4.replace(address).map(|_| Family::V4),
                IpAddr::V6(address) => v6.replace(address).map(|_| Family::V6),
            };
            if before.is_some() {
                return Err(bad());
            }
        }
        if v4.is_none() && v6.is_none() { Err(bad()) } else { Ok(NextHops::Own { v4, v6 }) }
    }
}
