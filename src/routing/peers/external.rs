//! Peers outside the cluster: from flags, the annotation `peers`, or the older `peer.*` annotations.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::annotation::{Reader, parse_address, parse_asn, usable_asn};
use super::options::{self, Fault, fault};
use super::{BGP_PORT, DesiredPeer, PeerOptions, families, key};
use crate::model::Node;
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::types::PeerKind;
use crate::routing::config::{Bfd, Config, Password};

/// The most milliseconds a BFD interval may have: more does not fit the packet's 32 bits of microseconds.
const MOST_MILLISECONDS: u64 = 4_294_967;

/// What one entry says.
struct Entry {
    /// Where it stands, for notices.
    place: String,
    address: IpAddr,
    asn: Asn,
    port: u16,
    local: Option<IpAddr>,
    password: Option<Password>,
    bfd: Option<Bfd>,
    /// Whoever connects from here, not the one peer of `address`.
    range: Option<Prefix>,
    options: PeerOptions,
}

/// An external peer, or all of a range.
pub(super) struct Found {
    /// Where it stands, for notices.
    pub(super) place: String,
    pub(super) range: Option<Prefix>,
    pub(super) peer: DesiredPeer,
}

/// The external peers.
pub(super) fn external_peers(own: &Node, config: &Config, asn: Asn, reader: &mut Reader<'_>) -> Vec<Found> {
    let entries = if !config.peers.is_empty() {
        let cure = "not used: --peer-router-ips names the peers of every node; take one of the two away";
        shadowed(&[key::PEERS, key::PEER_IPS], cure, reader);
        from_flags(config)
    } else if let Some(text) = reader.get(key::PEERS) {
        let cure = "not used: kube-router.io/peers names the peers; take the older form away";
        shadowed(&[key::PEER_IPS], cure, reader);
        from_yaml(text, config, reader)
    } else {
        from_lists(reader)
    };
    entries.into_iter().filter_map(|entry| peer(entry, own, config, asn, reader)).collect()
}

/// Whoever wrote one of these should know that something else counts. The text may hold passwords: it is not repeated.
fn shadowed(keys: &[&str], cure: &str, reader: &mut Reader<'_>) {
    for key in keys.iter().filter(|key| reader.has(key)).copied().collect::<Vec<&str>>() {
        reader.warn(key, "…", cure);
    }
}

fn peer(entry: Entry, own: &Node, config: &Config, asn: Asn, reader: &mut Reader<'_>) -> Option<Found> {
    let family = Family::of(entry.address);
    let local = entry.local.or_else(|| own.best_ip(family));
    let Some(local_address) = local.filter(|local| Family::of(*local) == family) else {
        let cure = match local {
            Some(_) => "the peer is left out: its own and our address must be of one family",
            None => "the peer is left out: the node has no address of this family; give it one or name another peer",
        };
        reader.warn(&entry.place, &entry.address.to_string(), cure);
        return None;
    };
    let kind = if entry.asn == asn { PeerKind::Internal } else { PeerKind::External };
    let options = entry.options;
    let peer = DesiredPeer {
        address: entry.address,
        asn: Some(entry.asn),
        port: entry.port,
        local_address,
        password: entry.password,
        kind,
        node: false,
        families: families(own),
        hold_time: options.hold_time.unwrap_or(config.hold_time),
        multihop: options.multihop.or(Some(config.multihop_ttl)).filter(|ttl| *ttl >= 2 && kind == PeerKind::External),
        bfd: entry.bfd,
        graceful_restart: config.graceful_restart,
        reflector_client: false,
        options,
    };
    Some(Found { place: entry.place, range: entry.range, peer })
}

fn from_flags(config: &Config) -> Vec<Entry> {
    config
        .peers
        .iter()
        .map(|peer| Entry {
            place: "--peer-router-ips".to_owned(),
            address: peer.address,
            asn: peer.asn,
            port: peer.port,
            local: None,
            password: peer.password.clone(),
            bfd: config.bfd,
            range: None,
            options: PeerOptions::default(),
        })
        .collect()
}

fn from_yaml(text: &str, config: &Config, reader: &mut Reader<'_>) -> Vec<Entry> {
    // The text may hold passwords: it is never repeated in a notice.
    let Ok(list) = serde_saphyr::from_str::<Vec<Value>>(text) else {
        reader.warn(key::PEERS, "…", "not a YAML list of peers, none is used: write - remoteip: … and remoteasn: …");
        return Vec::new();
    };
    let mut entries = Vec::new();
    for (n, value) in list.iter().enumerate() {
        let place = format!("{}[{n}]", key::PEERS);
        let Some(map) = value.as_object() else {
            reader.warn(&place, "…", "the peer is left out: write a map with remoteip and remoteasn");
            continue;
        };
        match yaml_entry(place.clone(), map, config) {
            Ok(entry) => entries.push(entry),
            Err(fault) => reader.warn(&format!("{place}.{}", fault.field), &fault.value, fault.cure),
        }
    }
    entries
}

fn yaml_entry(place: String, map: &Map<String, Value>, config: &Config) -> Result<Entry, Fault> {
    let get = |name: &str| map.get(name).unwrap_or(&Value::Null);
    let address_of = |name: &'static str, cure| {
        let value = get(name);
        value.as_str().and_then(parse_address).ok_or_else(|| fault(name, value, cure))
    };
    let given = |name: &str| !matches!(get(name), Value::Null) && get(name).as_str() != Some("");
    let range = given("remoterange").then(|| range(get("remoterange"))).transpose()?;
    if range.is_some() && given("remoteip") {
        let cure = "the peer is left out: use either remoteip or remoterange";
        return Err(fault("remoterange", get("remoterange"), cure));
    }
    let asn = get("remoteasn");
    let asn_number = asn.as_u64().and_then(|number| u32::try_from(number).ok()).and_then(usable_asn);
    Ok(Entry {
        place,
        address: match range {
            Some(range) => range.addr(),
            None => address_of("remoteip", "the peer is left out: use an IP address")?,
        },
        asn: asn_number
            .or_else(|| asn.as_str().and_then(parse_asn))
            .ok_or_else(|| fault("remoteasn", asn, "the peer is left out: use an AS number such as 64512"))?,
        port: if given("port") { port(get("port"), "port")? } else { BGP_PORT },
        local: given("localip")
            .then(|| address_of("localip", "the peer is left out: use an address of this node"))
            .transpose()?,
        password: if given("password") {
            let value = get("password");
            let cure = "the peer is left out: the password must be base64";
            Some(value.as_str().and_then(password).ok_or_else(|| fault("password", value, cure))?)
        } else {
            None
        },
        bfd: bfd(get("bfd"), config)?,
        range,
        options: options::read(map, config.graceful_restart.is_some())?,
    })
}

/// The prefix that dynamic peers are in.
fn range(value: &Value) -> Result<Prefix, Fault> {
    let prefix = value.as_str().and_then(|text| text.trim().parse::<Prefix>().ok());
    prefix
        .map(|prefix| prefix.trunc())
        .ok_or_else(|| fault("remoterange", value, "the peers are left out: use a prefix such as 192.0.2.0/24"))
}

fn port(value: &Value, field: &'static str) -> Result<u16, Fault> {
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
    number.ok_or_else(|| fault(field, value, "the peer is left out: use a port, 1 to 65535"))
}

fn bfd(value: &Value, config: &Config) -> Result<Option<Bfd>, Fault> {
    let Some(map) = value.as_object() else {
        let unset = value.is_null();
        return if unset {
            Ok(None)
        } else {
            Err(fault("bfd", value, "the peer is left out: use a map with enabled: true"))
        };
    };
    match map.get("enabled") {
        Some(Value::Bool(true)) => {}
        None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
        Some(other) => return Err(fault("bfd.enabled", other, "the peer is left out: use true or false")),
    }
    let get = |name: &str| map.get(name).filter(|value| !value.is_null());
    let interval = |name: &str, field: &'static str, default: Duration| {
        let Some(value) = get(name) else { return Ok(default) };
        let number = value.as_u64().filter(|number| (1..=MOST_MILLISECONDS).contains(number));
        let cure = "the peer is left out: use milliseconds, 1 to 4294967";
        number.map(Duration::from_millis).ok_or_else(|| fault(field, value, cure))
    };
    let defaults = config.bfd_defaults;
    let detection_multiplier = match get("detection_multiplier") {
        None => defaults.detection_multiplier,
        Some(value) => value
            .as_u64()
            .and_then(|number| u8::try_from(number).ok())
            .filter(|number| *number != 0)
            .ok_or_else(|| fault("bfd.detection_multiplier", value, "the peer is left out: use 1 to 255"))?,
    };
    Ok(Some(Bfd {
        port: get("port").map_or(Ok(defaults.port), |value| port(value, "bfd.port"))?,
        detection_multiplier,
        desired_min_tx: interval("desired_min_tx_interval", "bfd.desired_min_tx_interval", defaults.desired_min_tx)?,
        required_min_rx: interval(
            "required_min_rx_interval",
            "bfd.required_min_rx_interval",
            defaults.required_min_rx,
        )?,
    }))
}

/// A password as it stands in an annotation.
fn password(text: &str) -> Option<Password> {
    BASE64.decode(text.trim()).ok().filter(|bytes| !bytes.is_empty()).map(Password::new)
}

/// The older form: lists joined by position. With lists of different lengths nobody knows what belongs together.
fn from_lists(reader: &mut Reader<'_>) -> Vec<Entry> {
    let list = |reader: &Reader<'_>, key: &str| -> Vec<String> {
        reader.get(key).map(|text| text.split(',').map(|entry| entry.trim().to_owned()).collect()).unwrap_or_default()
    };
    let (ips, asns) = (list(reader, key::PEER_IPS), list(reader, key::PEER_ASNS));
    if ips.is_empty() || asns.is_empty() {
        for (key, cure) in [
            (key::PEER_IPS, "no peer is used: name their AS numbers in kube-router.io/peer.asns"),
            (key::PEER_ASNS, "no peer is used: name their addresses in kube-router.io/peer.ips"),
        ] {
            if let Some(text) = reader.get(key) {
                reader.warn(key, text, cure);
            }
        }
        return Vec::new();
    }
    let optional = [key::PEER_PORTS, key::PEER_PASSWORDS, key::PEER_LOCAL_IPS].map(|key| (key, list(reader, key)));
    let mut whole = true;
    for (key, values) in [(key::PEER_ASNS, &asns)].into_iter().chain(optional.iter().map(|(key, list)| (*key, list))) {
        if values.len() != ips.len() && (key == key::PEER_ASNS || !values.is_empty()) {
            let value = if key == key::PEER_PASSWORDS { "<redacted>".to_owned() } else { values.join(",") };
            reader.warn(key, &value, "no peer is used: give one entry for each of kube-router.io/peer.ips");
            whole = false;
        }
    }
    if !whole {
        return Vec::new();
    }
    let [(_, ports), (_, passwords), (_, locals)] = optional;
    let mut entries = Vec::new();
    for (n, (ip, asn)) in ips.iter().zip(&asns).enumerate() {
        let at = |list: &[String]| list.get(n).filter(|text| !text.is_empty()).cloned();
        match list_entry(ip, asn, at(&ports), at(&passwords), at(&locals)) {
            Ok(entry) => entries.push(entry),
            Err((key, value, cure)) => reader.warn(&format!("{key}[{n}]"), &value, cure),
        }
    }
    entries
}

type ListFault = (&'static str, String, &'static str);

fn list_entry(
    ip: &str,
    asn: &str,
    port: Option<String>,
    secret: Option<String>,
    local: Option<String>,
) -> Result<Entry, ListFault> {
    let fault = |key, value: &str, cure| (key, value.to_owned(), cure);
    let cure = "the peer is left out: use an IP address";
    let address = parse_address(ip).ok_or_else(|| fault(key::PEER_IPS, ip, cure))?;
    let asn = parse_asn(asn).ok_or_else(|| fault(key::PEER_ASNS, asn, "the peer is left out: use an AS number"))?;
    let port = match port {
        None => BGP_PORT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| fault(key::PEER_PORTS, &text, "the peer is left out: use a port, 1 to 65535"))?,
    };
    let password = match secret {
        None => None,
        Some(text) => Some(password(&text).ok_or_else(|| {
            fault(key::PEER_PASSWORDS, "<redacted>", "the peer is left out: the password must be base64")
        })?),
    };
    let local = match local {
        None => None,
        Some(text) => Some(parse_address(&text).ok_or_else(|| fault(key::PEER_LOCAL_IPS, &text, cure))?),
    };
    let place = key::PEER_IPS.to_owned();
    let options = PeerOptions::default();
    Ok(Entry { place, address, asn, port, local, password, bfd: None, range: None, options })
}
