//! The messages of gobgp 3.x that `-j` prints, field by field, and what can be done with a message by its description
//! alone: print it as gobgp does, and turn one of 4.x into one of 3.x (pure).
//!
//! `-j` prints all a server says, also what nothing here knows a use for. The password of a peer is the exception: it
//! is left out, though gobgpd tells it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};

use super::adapt::Version;
use super::message::Any;

/// What a field is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A switch.
    Bool,
    /// A number without sign.
    Unsigned,
    /// A number with one.
    Signed,
    /// A word, as a number that is the same in both majors.
    Enum,
    /// A word, as a number that is one higher in 4.x.
    Shifted,
    /// A result of origin validation in a condition: -1 for none in 3.x, 0 in 4.x.
    Validity,
    /// Text.
    Text,
    /// Octets.
    Bytes,
    /// A message.
    Inner(Shape),
    /// A capability: any message in 3.x, one of many in 4.x.
    Capability,
    /// Never shown.
    Secret,
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    tag: u32,
    name: &'static str,
    kind: Kind,
    many: bool,
}

/// The fields of a message in their order.
pub type Shape = &'static [Field];

const fn one(tag: u32, name: &'static str, kind: Kind) -> Field {
    Field { tag, name, kind, many: false }
}

const fn many(tag: u32, name: &'static str, kind: Kind) -> Field {
    Field { tag, name, kind, many: true }
}

/// Shorthand for messages of fields of one kind each.
macro_rules! shape {
    ($($(#[$doc:meta])* $vis:vis $name:ident { $($tag:literal $field:literal $how:ident $kind:expr),* $(,)? })*) => {
        $($(#[$doc])* $vis const $name: Shape = &[$($how($tag, $field, $kind)),*];)*
    };
}

use Kind::{Bool, Bytes, Capability, Enum, Inner, Secret, Shifted, Signed, Text, Unsigned, Validity};

shape! {
    FAMILY { 1 "afi" one Enum, 2 "safi" one Enum }
    ANY { 1 "type_url" one Text, 2 "value" one Bytes }
    TIME { 1 "seconds" one Signed, 2 "nanos" one Signed }
    MATCH_SET { 1 "type" one Shifted, 2 "name" one Text }
    AS_PATH_LENGTH { 1 "type" one Shifted, 2 "length" one Unsigned }
    CONDITIONS {
        1 "prefix_set" one Inner(MATCH_SET), 2 "neighbor_set" one Inner(MATCH_SET),
        3 "as_path_length" one Inner(AS_PATH_LENGTH), 4 "as_path_set" one Inner(MATCH_SET),
        5 "community_set" one Inner(MATCH_SET), 6 "ext_community_set" one Inner(MATCH_SET),
        7 "rpki_result" one Validity, 8 "route_type" one Enum, 9 "large_community_set" one Inner(MATCH_SET),
        10 "next_hop_in_list" many Text, 11 "afi_safi_in" many Inner(FAMILY),
    }
    COMMUNITY_ACTION { 1 "type" one Shifted, 2 "communities" many Text }
    MED_ACTION { 1 "type" one Shifted, 2 "value" one Signed }
    AS_PREPEND { 1 "asn" one Unsigned, 2 "repeat" one Unsigned, 3 "use_left_most" one Bool }
    NEXT_HOP_ACTION { 1 "address" one Text, 2 "self" one Bool, 3 "unchanged" one Bool }
    LOCAL_PREF_ACTION { 1 "value" one Unsigned }
    ACTIONS {
        1 "route_action" one Enum, 2 "community" one Inner(COMMUNITY_ACTION), 3 "med" one Inner(MED_ACTION),
        4 "as_prepend" one Inner(AS_PREPEND), 5 "ext_community" one Inner(COMMUNITY_ACTION),
        6 "nexthop" one Inner(NEXT_HOP_ACTION), 7 "local_pref" one Inner(LOCAL_PREF_ACTION),
        8 "large_community" one Inner(COMMUNITY_ACTION),
    }
    /// A statement.
    pub STATEMENT { 1 "name" one Text, 2 "conditions" one Inner(CONDITIONS), 3 "actions" one Inner(ACTIONS) }
    /// A policy.
    pub POLICY { 1 "name" one Text, 2 "statements" many Inner(STATEMENT) }
    /// An assignment.
    pub ASSIGNMENT {
        1 "name" one Text, 2 "direction" one Enum, 4 "policies" many Inner(POLICY), 5 "default_action" one Enum,
    }
    PREFIX { 1 "ip_prefix" one Text, 2 "mask_length_min" one Unsigned, 3 "mask_length_max" one Unsigned }
    /// A defined set.
    pub DEFINED_SET {
        1 "defined_type" one Shifted, 2 "name" one Text, 3 "list" many Text, 4 "prefixes" many Inner(PREFIX),
    }
    /// The size of a table.
    pub TABLE { 1 "num_destination" one Unsigned, 2 "num_path" one Unsigned, 3 "num_accepted" one Unsigned }
    APPLY_POLICY {
        1 "in_policy" one Inner(ASSIGNMENT), 2 "export_policy" one Inner(ASSIGNMENT),
        3 "import_policy" one Inner(ASSIGNMENT),
    }
    SELECTION {
        1 "always_compare_med" one Bool, 2 "ignore_as_path_length" one Bool, 3 "external_compare_router_id" one Bool,
        4 "advertise_inactive_routes" one Bool, 5 "enable_aigp" one Bool, 6 "ignore_next_hop_igp_metric" one Bool,
        7 "disable_best_path_selection" one Bool,
    }
    DISTANCE { 1 "external_route_distance" one Unsigned, 2 "internal_route_distance" one Unsigned }
    CONFEDERATION { 1 "enabled" one Bool, 2 "identifier" one Unsigned, 3 "member_as_list" many Unsigned }
    GRACEFUL_RESTART {
        1 "enabled" one Bool, 2 "restart_time" one Unsigned, 3 "helper_only" one Bool, 4 "deferral_time" one Unsigned,
        5 "notification_enabled" one Bool, 6 "longlived_enabled" one Bool, 7 "stale_routes_time" one Unsigned,
        8 "peer_restart_time" one Unsigned, 9 "peer_restarting" one Bool, 10 "local_restarting" one Bool,
        11 "mode" one Text,
    }
    /// The speaker.
    pub GLOBAL {
        1 "asn" one Unsigned, 2 "router_id" one Text, 3 "listen_port" one Signed, 4 "listen_addresses" many Text,
        5 "families" many Unsigned, 6 "use_multiple_paths" one Bool, 7 "route_selection_options" one Inner(SELECTION),
        8 "default_route_distance" one Inner(DISTANCE), 9 "confederation" one Inner(CONFEDERATION),
        10 "graceful_restart" one Inner(GRACEFUL_RESTART), 11 "apply_policy" one Inner(APPLY_POLICY),
        12 "bind_to_device" one Text,
    }
    PEER_CONF {
        1 "auth_password" one Secret, 2 "description" one Text, 3 "local_asn" one Unsigned,
        4 "neighbor_address" one Text, 5 "peer_asn" one Unsigned, 6 "peer_group" one Text, 7 "type" one Shifted,
        8 "remove_private" one Enum, 9 "route_flap_damping" one Bool, 10 "send_community" one Unsigned,
        11 "neighbor_interface" one Text, 12 "vrf" one Text, 13 "allow_own_asn" one Unsigned,
        14 "replace_peer_asn" one Bool, 15 "admin_down" one Bool,
    }
    MULTIHOP { 1 "enabled" one Bool, 2 "multihop_ttl" one Unsigned }
    TTL_SECURITY { 1 "enabled" one Bool, 2 "ttl_min" one Unsigned }
    REFLECTOR { 1 "route_reflector_client" one Bool, 2 "route_reflector_cluster_id" one Text }
    COUNTS {
        1 "notification" one Unsigned, 2 "update" one Unsigned, 3 "open" one Unsigned, 4 "keepalive" one Unsigned,
        5 "refresh" one Unsigned, 6 "discarded" one Unsigned, 7 "total" one Unsigned,
        8 "withdraw_update" one Unsigned, 9 "withdraw_prefix" one Unsigned,
    }
    MESSAGES { 1 "received" one Inner(COUNTS), 2 "sent" one Inner(COUNTS) }
    QUEUES { 1 "input" one Unsigned, 2 "output" one Unsigned }
    BFD_COUNTERS { 3 "transmitted_packets" one Unsigned, 4 "received_packets" one Unsigned }
    BFD_STATE {
        1 "session_state" one Enum, 2 "remote_session_state" one Enum, 3 "last_failure_time" one Unsigned,
        4 "failure_transitions" one Unsigned, 5 "local_discriminator" one Unsigned,
        6 "remote_discriminator" one Unsigned, 7 "local_diagnostic_code" one Enum, 8 "remote_diagnostic_code" one Enum,
        9 "remote_minimum_receive_interval" one Unsigned, 10 "bfd_async" one Inner(BFD_COUNTERS),
    }
    PEER_STATE {
        1 "auth_password" one Secret, 2 "description" one Text, 3 "local_asn" one Unsigned,
        4 "messages" one Inner(MESSAGES), 5 "neighbor_address" one Text, 6 "peer_asn" one Unsigned,
        7 "peer_group" one Text, 8 "type" one Shifted, 9 "queues" one Inner(QUEUES), 10 "remove_private" one Enum,
        11 "route_flap_damping" one Bool, 12 "send_community" one Unsigned, 13 "session_state" one Enum,
        15 "admin_state" one Shifted, 16 "out_q" one Unsigned, 17 "flops" one Unsigned,
        18 "remote_cap" many Capability, 19 "local_cap" many Capability, 20 "router_id" one Text,
        23 "bfd_state" one Inner(BFD_STATE),
    }
    TIMERS_CONFIG {
        1 "connect_retry" one Unsigned, 2 "hold_time" one Unsigned, 3 "keepalive_interval" one Unsigned,
        4 "minimum_advertisement_interval" one Unsigned, 5 "idle_hold_time_after_reset" one Unsigned,
    }
    TIMERS_STATE {
        1 "connect_retry" one Unsigned, 2 "hold_time" one Unsigned, 3 "keepalive_interval" one Unsigned,
        4 "minimum_advertisement_interval" one Unsigned, 5 "negotiated_hold_time" one Unsigned,
        6 "uptime" one Inner(TIME), 7 "downtime" one Inner(TIME),
    }
    TIMERS { 1 "config" one Inner(TIMERS_CONFIG), 2 "state" one Inner(TIMERS_STATE) }
    TRANSPORT {
        1 "local_address" one Text, 2 "local_port" one Unsigned, 3 "mtu_discovery" one Bool,
        4 "passive_mode" one Bool, 5 "remote_address" one Text, 6 "remote_port" one Unsigned,
        7 "tcp_mss" one Unsigned, 8 "bind_interface" one Text,
    }
    ROUTE_SERVER { 1 "route_server_client" one Bool, 2 "secondary_route" one Bool }
    ENABLED { 1 "enabled" one Bool }
    RESTART_STATE {
        1 "enabled" one Bool, 2 "received" one Bool, 3 "advertised" one Bool, 4 "end_of_rib_received" one Bool,
        5 "end_of_rib_sent" one Bool,
    }
    RESTART { 1 "config" one Inner(ENABLED), 2 "state" one Inner(RESTART_STATE) }
    AFI_SAFI_CONFIG { 1 "family" one Inner(FAMILY), 2 "enabled" one Bool }
    AFI_SAFI_STATE {
        1 "family" one Inner(FAMILY), 2 "enabled" one Bool, 3 "received" one Unsigned, 4 "accepted" one Unsigned,
        5 "advertised" one Unsigned,
    }
    SELECTIONS { 1 "config" one Inner(SELECTION), 2 "state" one Inner(SELECTION) }
    EXTERNAL_PATHS { 1 "allow_multiple_asn" one Bool, 2 "maximum_paths" one Unsigned }
    EXTERNAL { 1 "config" one Inner(EXTERNAL_PATHS), 2 "state" one Inner(EXTERNAL_PATHS) }
    INTERNAL_PATHS { 1 "maximum_paths" one Unsigned }
    INTERNAL { 1 "config" one Inner(INTERNAL_PATHS), 2 "state" one Inner(INTERNAL_PATHS) }
    MULTIPLE_PATHS {
        1 "config" one Inner(ENABLED), 2 "state" one Inner(ENABLED), 3 "ebgp" one Inner(EXTERNAL),
        4 "ibgp" one Inner(INTERNAL),
    }
    PREFIX_LIMIT {
        1 "family" one Inner(FAMILY), 2 "max_prefixes" one Unsigned, 3 "shutdown_threshold_pct" one Unsigned,
    }
    DEFERRAL { 1 "deferral_time" one Unsigned }
    MEMBERSHIP { 1 "config" one Inner(DEFERRAL), 2 "state" one Inner(DEFERRAL) }
    LONG_LIVED_CONFIG { 1 "enabled" one Bool, 2 "restart_time" one Unsigned }
    LONG_LIVED_STATE {
        1 "enabled" one Bool, 2 "received" one Bool, 3 "advertised" one Bool, 4 "peer_restart_time" one Unsigned,
        5 "peer_restart_timer_expired" one Bool,
    }
    LONG_LIVED { 1 "config" one Inner(LONG_LIVED_CONFIG), 2 "state" one Inner(LONG_LIVED_STATE) }
    ADD_PATHS_OF { 1 "receive" one Bool, 2 "send_max" one Unsigned }
    ADD_PATHS { 1 "config" one Inner(ADD_PATHS_OF), 2 "state" one Inner(ADD_PATHS_OF) }
    AFI_SAFI {
        1 "mp_graceful_restart" one Inner(RESTART), 2 "config" one Inner(AFI_SAFI_CONFIG),
        3 "state" one Inner(AFI_SAFI_STATE), 4 "apply_policy" one Inner(APPLY_POLICY),
        5 "route_selection_options" one Inner(SELECTIONS), 6 "use_multiple_paths" one Inner(MULTIPLE_PATHS),
        7 "prefix_limits" one Inner(PREFIX_LIMIT), 8 "route_target_membership" one Inner(MEMBERSHIP),
        9 "long_lived_graceful_restart" one Inner(LONG_LIVED), 10 "add_paths" one Inner(ADD_PATHS),
    }
    /// A peer.
    pub PEER {
        1 "apply_policy" one Inner(APPLY_POLICY), 2 "conf" one Inner(PEER_CONF), 3 "ebgp_multihop" one Inner(MULTIHOP),
        4 "route_reflector" one Inner(REFLECTOR), 5 "state" one Inner(PEER_STATE), 6 "timers" one Inner(TIMERS),
        7 "transport" one Inner(TRANSPORT), 8 "route_server" one Inner(ROUTE_SERVER),
        9 "graceful_restart" one Inner(GRACEFUL_RESTART), 10 "afi_safis" many Inner(AFI_SAFI),
        11 "ttl_security" one Inner(TTL_SECURITY),
    }
}

/// The names of the capabilities, by their fields in 4.x.
const CAPABILITIES: [(u32, &str); 14] = [
    (1, "UnknownCapability"),
    (2, "MultiProtocolCapability"),
    (3, "RouteRefreshCapability"),
    (4, "CarryingLabelInfoCapability"),
    (5, "ExtendedNexthopCapability"),
    (6, "GracefulRestartCapability"),
    (7, "FourOctetASNCapability"),
    (8, "AddPathCapability"),
    (9, "EnhancedRouteRefreshCapability"),
    (10, "LongLivedGracefulRestartCapability"),
    (11, "RouteRefreshCiscoCapability"),
    (12, "FqdnCapability"),
    (13, "SoftwareVersionCapability"),
    (14, "ExtendedMessageCapability"),
];

/// What stands in a field on the wire.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Octets(&'a [u8]),
}

/// The fields of a message, as they come. What follows a fault is left out.
fn fields(mut bytes: &[u8]) -> Vec<(u32, Value<'_>)> {
    let mut all = Vec::new();
    while let Some(field) = next_field(&mut bytes) {
        all.push(field);
    }
    all
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = decode_varint(bytes).ok()?;
    let tag = u32::try_from(key >> 3).ok()?;
    let (value, rest) = match key & 7 {
        0 => (Value::Number(decode_varint(bytes).ok()?), *bytes),
        2 => {
            let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            let (octets, rest) = bytes.split_at_checked(length)?;
            (Value::Octets(octets), rest)
        }
        5 => {
            let (octets, rest) = bytes.split_at_checked(4)?;
            (Value::Octets(octets), rest)
        }
        1 => {
            let (octets, rest) = bytes.split_at_checked(8)?;
            (Value::Octets(octets), rest)
        }
        _ => return None,
    };
    *bytes = rest;
    Some((tag, value))
}

/// A message as gobgp's `-j` prints it: fields in order, those with nothing in them left out.
pub fn json(shape: Shape, message: &[u8]) -> String {
    let there = fields(message);
    let mut out = String::from("{");
    for field in shape {
        let values: Vec<Value<'_>> =
            there.iter().filter(|(tag, _)| *tag == field.tag).map(|(_, value)| *value).collect();
        let text = if field.many {
            list_json(field.kind, &values)
        } else {
            values.last().and_then(|value| value_json(field.kind, *value))
        };
        if let Some(text) = text {
            let comma = if out.len() > 1 { "," } else { "" };
            let _ = write!(out, "{comma}\"{}\":{text}", field.name);
        }
    }
    out.push('}');
    out
}

fn list_json(kind: Kind, values: &[Value<'_>]) -> Option<String> {
    let mut texts = Vec::new();
    for value in values {
        match (kind, value) {
            // Numbers may come packed.
            (Unsigned, Value::Octets(octets)) => {
                let mut rest = *octets;
                while let Ok(number) = decode_varint(&mut rest) {
                    texts.push(number.to_string());
                }
            }
            _ => texts.push(
                value_json(kind, *value).unwrap_or_else(|| if matches!(kind, Text) { "\"\"" } else { "0" }.to_owned()),
            ),
        }
    }
    (!texts.is_empty()).then(|| format!("[{}]", texts.join(",")))
}

fn value_json(kind: Kind, value: Value<'_>) -> Option<String> {
    Some(match (kind, value) {
        (Bool, Value::Number(1..)) => "true".to_owned(),
        (Unsigned | Enum | Shifted, Value::Number(number @ 1..)) => number.to_string(),
        (Signed | Validity, Value::Number(number @ 1..)) => number.cast_signed().to_string(),
        (Text, Value::Octets(octets)) if !octets.is_empty() => quote(&String::from_utf8_lossy(octets)),
        (Bytes, Value::Octets(octets)) if !octets.is_empty() => format!("\"{}\"", BASE64.encode(octets)),
        (Inner(shape), Value::Octets(octets)) => json(shape, octets),
        (Capability, Value::Octets(octets)) => json(ANY, octets),
        _ => return None,
    })
}

/// Text in quotes. Signs that mean something in HTML are written as numbers, as gobgp does.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A message of 4.x as one of 3.x. One of 3.x stays as it is.
pub fn as_v3(version: Version, shape: Shape, message: &[u8]) -> Vec<u8> {
    if version == Version::V3 {
        return message.to_vec();
    }
    let mut out = Vec::with_capacity(message.len());
    let there = fields(message);
    for (tag, value) in &there {
        let Some(field) = shape.iter().find(|field| field.tag == *tag) else { continue };
        match (field.kind, *value) {
            (Shifted | Validity, Value::Number(number)) => put_number(*tag, number.saturating_sub(1), &mut out),
            (Inner(shape), Value::Octets(octets)) => put_octets(*tag, &as_v3(version, shape, octets), &mut out),
            (Capability, Value::Octets(octets)) => put_octets(*tag, &capability_as_v3(octets), &mut out),
            (_, Value::Number(number)) => put_number(*tag, number, &mut out),
            (_, Value::Octets(octets)) => put_octets(*tag, octets, &mut out),
        }
    }
    for field in shape.iter().filter(|field| matches!(field.kind, Validity)) {
        if !there.iter().any(|(tag, _)| *tag == field.tag) {
            put_number(field.tag, u64::MAX, &mut out);
        }
    }
    out
}

fn capability_as_v3(message: &[u8]) -> Vec<u8> {
    let all = fields(message);
    let known =
        all.iter().find_map(|(tag, value)| match (CAPABILITIES.iter().find(|(known, _)| known == tag), value) {
            (Some((_, name)), Value::Octets(octets)) => Some((*name, octets.to_vec())),
            _ => None,
        });
    let (name, value) = known.unwrap_or(("UnknownCapability", Vec::new()));
    Any { type_url: format!("type.googleapis.com/apipb.{name}"), value }.encode_to_vec()
}

fn put_number(tag: u32, number: u64, out: &mut Vec<u8>) {
    encode_varint(u64::from(tag) << 3, out);
    encode_varint(number, out);
}

fn put_octets(tag: u32, octets: &[u8], out: &mut Vec<u8>) {
    encode_varint(u64::from(tag) << 3 | 2, out);
    encode_varint(octets.len() as u64, out);
    out.extend_from_slice(octets);
}

/// The message in a field of a message, empty where it is not there.
pub fn inner(tag: u32, message: &[u8]) -> &[u8] {
    let of = |(there, value): (u32, Value<'_>)| there == tag && matches!(value, Value::Octets(_));
    let mut rest = message;
    let mut found: &[u8] = &[];
    while let Some(field) = next_field(&mut rest) {
        if of(field)
            && let (_, Value::Octets(octets)) = field
        {
            found = octets;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::bgp::api::{message as m, policy_message as p};

    #[test]
    fn prints_what_there_is_in_the_order_of_the_description() {
        let global = m::Global {
            asn: 64512,
            router_id: "<a&b>".to_owned(),
            listen_port: -1,
            listen_addresses: vec!["10.0.0.1".to_owned(), String::new()],
            use_multiple_paths: true,
        };
        let text = json(GLOBAL, &global.encode_to_vec());
        let want = "{\"asn\":64512,\"router_id\":\"\\u003ca\\u0026b\\u003e\",\"listen_port\":-1,\
                    \"listen_addresses\":[\"10.0.0.1\",\"\"],\"use_multiple_paths\":true}";
        assert_eq!(text, want);
        assert_eq!(json(GLOBAL, &[]), "{}");
        assert_eq!(json(GLOBAL, &[0x2a, 3, 1, 0x80, 2]), "{\"families\":[1,256]}");
    }

    #[test]
    fn a_password_is_never_printed() {
        let mut conf = Vec::new();
        put_octets(1, b"secret", &mut conf);
        put_octets(2, b"rack", &mut conf);
        let mut peer = Vec::new();
        put_octets(2, &conf, &mut peer);
        assert_eq!(json(PEER, &peer), "{\"conf\":{\"description\":\"rack\"}}");
    }

    #[test]
    fn a_message_of_the_fourth_major_becomes_one_of_the_third() {
        let conditions = p::Conditions {
            prefix_set: Some(p::MatchSet { kind: 3, name: "x".to_owned() }),
            ..p::Conditions::default()
        };
        let statement = p::Statement { name: "s".to_owned(), conditions: Some(conditions), actions: None };
        let old = as_v3(Version::V4, STATEMENT, &statement.encode_to_vec());
        let read = p::Statement::decode(old.as_slice()).unwrap().conditions.unwrap();
        assert_eq!((read.prefix_set.unwrap().kind, read.rpki_result), (2, -1));
        assert_eq!(as_v3(Version::V3, STATEMENT, &[1, 2, 3]), [1, 2, 3]);
    }

    #[test]
    fn bytes_cut_short_print_less_and_break_nothing() {
        let peer = [0x2a, 8, 0x92, 1, 5, 10, 3, b'a', b'b', b'c'];
        for end in 0..peer.len() {
            let text = json(PEER, &peer[..end]);
            assert!(text.starts_with('{') && text.ends_with('}'));
            as_v3(Version::V4, PEER, &peer[..end]);
        }
        assert_eq!(inner(5, &peer), &peer[2..]);
    }
}
