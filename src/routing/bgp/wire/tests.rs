//! Byte vectors written by hand from the formats in the RFCs, round trips, and broken bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::net::{Asn, Prefix};
use crate::routing::bgp::types::{
    AsPath, Attributes, NextHop, Nlri, OpenSettings, Origin, OwnRestart, PeerKind, PeerRestart, RawAttribute, family_of,
};
use crate::testing::builders::bgp_session;

fn settings() -> OpenSettings {
    OpenSettings {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        hold_time: 90,
        peer_asn: None,
        families: vec![Family::V4, Family::V6],
        add_path_receive: Vec::new(),
        add_path_send: Vec::new(),
        extended_next_hop: false,
        extended_messages: false,
        graceful_restart: None,
        long_lived: 0,
        forwarding_kept: false,
    }
}

fn session() -> Negotiated {
    let families = vec![Family::V4, Family::V6];
    let peer_id = Ipv4Addr::new(10, 0, 0, 2);
    Negotiated { families, enhanced_refresh: true, ..bgp_session(Asn(64513), peer_id, PeerKind::External) }
}

fn route(text: &str) -> Nlri {
    Nlri::new(text.parse().unwrap())
}

fn hop(text: &str) -> NextHop {
    NextHop::from(text.parse::<IpAddr>().unwrap())
}

fn plain(next_hop: &str) -> Attributes {
    Attributes::new(Origin::Igp, AsPath::from_iter([Asn(64513)]), hop(next_hop))
}

/// A message with this body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(HEADER + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// An UPDATE with these fields.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(withdrawn.len()).unwrap().to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(UPDATE, &body)
}

/// Every message of a stream, each no longer than `max`.
fn split(mut bytes: &[u8], max: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = frame(bytes, max).unwrap() {
        let (first, rest) = bytes.split_at(length);
        all.push(first.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "rest of a message");
    all
}

fn read(bytes: &[u8], session: &Negotiated) -> Update {
    match decode(bytes, Some(session)) {
        Ok(Message::Update(update)) => update,
        other => panic!("not an UPDATE: {other:?}"),
    }
}

fn sent(attributes: &Attributes, nlri: &[Nlri], session: &Negotiated) -> Result<Vec<u8>, Unsendable> {
    let mut out = Vec::new();
    let family = family_of(&nlri[0].prefix);
    encode_reach(attributes, family, nlri, session, &mut out).map(|()| out)
}

const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01];
const HOP: [u8; 7] = [0x40, 3, 4, 192, 0, 2, 1];

#[test]
fn open_has_the_bytes_of_the_rfcs() {
    let mut full = settings();
    full.asn = Asn(4_200_000_000);
    full.add_path_receive = vec![Family::V4];
    full.add_path_send = vec![Family::V4, Family::V6];
    full.extended_next_hop = true;
    full.extended_messages = true;
    full.graceful_restart = Some(OwnRestart { restart_time: 120, restarting: true, notification: true });
    full.long_lived = 3600;
    full.forwarding_kept = true;
    let capabilities: &[&[u8]] = &[
        &[1, 4, 0, 1, 0, 1],
        &[1, 4, 0, 2, 0, 1],
        &[2, 0],
        &[5, 6, 0, 1, 0, 1, 0, 2],
        &[6, 0],
        &[64, 10, 0xc0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80],
        &[65, 4, 0xfa, 0x56, 0xea, 0x00],
        &[69, 8, 0, 1, 1, 3, 0, 2, 1, 2],
        &[70, 0],
        &[71, 14, 0, 1, 1, 0x80, 0, 0x0e, 0x10, 0, 2, 1, 0x80, 0, 0x0e, 0x10],
    ];
    let capabilities = capabilities.concat();
    let length = u8::try_from(capabilities.len()).unwrap();
    let mut body = vec![4, 0x5b, 0xa0, 0, 90, 10, 0, 0, 1, length + 2, 2, length];
    body.extend(&capabilities);
    let mut out = Vec::new();
    encode_open(&full, &mut out);
    assert_eq!(out, message(OPEN, &body));

    let Ok(Message::Open(open)) = decode(&out, None) else { panic!("not an OPEN") };
    assert_eq!((open.asn, open.hold_time, open.router_id), (full.asn, 90, full.router_id));
    assert_eq!(open, Open::from_settings(&full));
    let all = [Family::V4, Family::V6];
    let restart = PeerRestart {
        restarting: true,
        notification: true,
        restart_time: 120,
        families: all.map(|family| (family, true)).to_vec(),
    };
    assert_eq!(
        open.capabilities(),
        [
            Capability::Multiprotocol(Family::V4),
            Capability::Multiprotocol(Family::V6),
            Capability::RouteRefresh,
            Capability::ExtendedNextHop,
            Capability::ExtendedMessage,
            Capability::GracefulRestart(restart),
            Capability::FourOctetAs(full.asn),
            Capability::AddPath(vec![(Family::V4, true, true), (Family::V6, false, true)]),
            Capability::EnhancedRefresh,
            Capability::LongLived(all.map(|family| (family, 3600)).to_vec()),
        ]
    );
}

#[test]
fn restart_bits_are_clear_after_a_first_start() {
    let own = OwnRestart { restart_time: 9999, restarting: false, notification: false };
    let open = Open::from_settings(&OpenSettings { graceful_restart: Some(own), ..settings() });
    let found = open.capabilities().into_iter().find_map(|capability| match capability {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    });
    let families = vec![(Family::V4, false), (Family::V6, false)];
    let expected = PeerRestart { restarting: false, notification: false, restart_time: 4095, families };
    assert_eq!(found, Some(expected));
}

#[test]
fn capabilities_of_other_families_hide_nothing() {
    let value: &[&[u8]] = &[
        &[1, 4, 0, 9, 0, 9],
        &[69, 12, 0, 9, 9, 1, 0, 1, 1, 1, 0, 2, 1, 7],
        &[71, 14, 0, 9, 9, 0, 0, 0, 1, 0, 2, 1, 0, 0, 0, 2],
        &[5, 12, 0, 9, 0, 9, 0, 2, 0, 1, 0, 1, 0, 2],
        &[73, 2, 1, b'x'],
        &[9, 1, 4],
        &[2, 1, 0],
    ];
    let value = value.concat();
    let length = u8::try_from(value.len()).unwrap();
    let mut body = vec![4, 0xfc, 0x01, 0, 90, 10, 0, 0, 2, length + 2, 2, length];
    body.extend(value);
    let Ok(Message::Open(open)) = decode(&message(OPEN, &body), None) else { panic!("not an OPEN") };
    assert_eq!(
        open.capabilities(),
        [
            Capability::Unknown(1, vec![0, 9, 0, 9]),
            Capability::AddPath(vec![(Family::V4, true, false)]),
            Capability::LongLived(vec![(Family::V6, 2)]),
            Capability::ExtendedNextHop,
            Capability::Unknown(73, vec![1, b'x']),
            Capability::Unknown(9, vec![4]),
            Capability::Unknown(2, vec![0]),
        ]
    );
}

#[test]
fn broken_headers_and_opens_get_the_notification_of_the_rfc() {
    let open = |body: &[u8]| message(OPEN, body);
    let mut bad_marker = message(KEEPALIVE, &[]);
    bad_marker[3] = 0;
    let cases: Vec<(&str, Vec<u8>, (u8, u8))> = vec![
        ("marker", bad_marker, (1, 1)),
        ("keepalive with a body", message(KEEPALIVE, &[0]), (1, 2)),
        ("short OPEN", open(&[4; 9]), (1, 2)),
        ("short UPDATE", message(UPDATE, &[0, 0, 0]), (1, 2)),
        ("short NOTIFICATION", message(NOTIFICATION, &[6]), (1, 2)),
        ("short refresh", message(REFRESH, &[0, 1, 0]), (1, 2)),
        ("unknown type", message(9, &[]), (1, 3)),
        ("version", open(&[3, 0, 1, 0, 90, 10, 0, 0, 2, 0]), (2, 1)),
        ("unknown parameter", open(&[4, 0, 1, 0, 90, 10, 0, 0, 2, 2, 7, 0]), (2, 4)),
        ("parameter too long", open(&[4, 0, 1, 0, 90, 10, 0, 0, 2, 2, 2, 9]), (2, 0)),
        ("capability too long", open(&[4, 0, 1, 0, 90, 10, 0, 0, 2, 4, 2, 2, 65, 4]), (2, 0)),
        ("refresh mark with a rest", message(REFRESH, &[0, 1, 1, 1, 0]), (7, 1)),
        ("UPDATE before a session", update(&[], &[], &[]), (5, 0)),
    ];
    for (name, bytes, expected) in cases {
        let refused = decode(&bytes, None).expect_err(name);
        assert_eq!((refused.code, refused.subcode), expected, "{name}");
    }
    let mut long = vec![0xff; 16];
    long.extend([0x10, 0x01, UPDATE]);
    assert_eq!(frame(&long, MAX), Err(notification(1, 2, &[0x10, 0x01])));
    assert_eq!(frame(&long, MAX_EXTENDED), Ok(None));
    long[18] = OPEN;
    assert_eq!(frame(&long, MAX_EXTENDED), Err(notification(1, 2, &[0x10, 0x01])), "RFC 8654 leaves OPEN out");
}

#[test]
fn small_messages_come_back_as_they_went() {
    let mut out = Vec::new();
    encode_keepalive(&mut out);
    let said = Notification { code: 3, subcode: 5, data: vec![1, 2, 3] };
    encode_notification(&said, &mut out);
    for kind in [Refresh::Ask, Refresh::Begin, Refresh::End] {
        encode_refresh(Family::V6, kind, &mut out);
    }
    out.extend(message(REFRESH, &[0, 25, 0, 70]));
    out.extend(message(REFRESH, &[0, 1, 9, 1]));
    let read: Vec<_> = split(&out, MAX).iter().map(|bytes| decode(bytes, None).unwrap()).collect();
    let refresh = |kind| Message::Refresh { family: Family::V6, kind };
    assert_eq!(
        read,
        [
            Message::Keepalive,
            Message::Notification(said),
            refresh(Refresh::Ask),
            refresh(Refresh::Begin),
            refresh(Refresh::End),
            Message::RefreshOther,
            Message::RefreshOther,
        ]
    );
    assert_eq!(out[..19], message(KEEPALIVE, &[]));
}

#[test]
fn shutdown_text_survives_also_inside_a_hard_reset() {
    let said = cease(2, "node drained");
    assert_eq!(said.data, b"\x0cnode drained");
    assert_eq!(shutdown_text(&said).as_deref(), Some("node drained"));
    let mut data = vec![6, 2];
    data.extend(&said.data);
    assert_eq!(shutdown_text(&notification(6, 9, &data)).as_deref(), Some("node drained"));
    assert_eq!(shutdown_text(&notification(6, 2, &[9, b'x'])), None);
    assert_eq!(shutdown_text(&notification(6, 2, &[1, 0xff])), None);
    assert_eq!(shutdown_text(&cease(2, "")), None);
    assert_eq!(cease(2, &"ä".repeat(200)).data.len(), 129);
    let mut out = Vec::new();
    encode_notification(&notification(6, 2, &[0; 9000]), &mut out);
    assert_eq!(frame(&out, MAX), Ok(Some(MAX)));
}

#[test]
fn ipv4_update_has_the_bytes_of_the_rfc() {
    let mut attributes = plain("192.0.2.1");
    attributes.med = Some(5);
    attributes.communities = [0xfc00_0001].into();
    let field = [&ORIGIN[..], &PATH, &HOP, &[0x80, 4, 4, 0, 0, 0, 5], &[0xc0, 8, 4, 0xfc, 0, 0, 1]].concat();
    let bytes = update(&[], &field, &[24, 10, 1, 2, 32, 10, 9, 9, 9, 0]);
    let nlri = [route("10.1.2.0/24"), route("10.9.9.9/32"), route("0.0.0.0/0")];
    assert_eq!(sent(&attributes, &nlri, &session()).unwrap(), bytes);
    let reach = vec![Reach { attributes, nlri: nlri.to_vec() }];
    assert_eq!(read(&bytes, &session()), Update { reach, ..Update::default() });
}

#[test]
fn ipv6_update_has_the_bytes_of_the_rfc() {
    let mut attributes = plain("2001:db8::1");
    attributes.next_hop.link_local = Some("fe80::1".parse().unwrap());
    let mut value = vec![0, 2, 1, 32];
    value.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    value.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
    value.extend([0, 48, 0x20, 0x01, 0x0d, 0xb8, 0, 1]);
    let mut field = vec![0x90, 14, 0, u8::try_from(value.len()).unwrap()];
    field.extend(value);
    field.extend(ORIGIN.iter().chain(&PATH));
    let bytes = update(&[], &field, &[]);
    let nlri = [route("2001:db8:1::/48")];
    assert_eq!(sent(&attributes, &nlri, &session()).unwrap(), bytes);
    let reach = vec![Reach { attributes, nlri: nlri.to_vec() }];
    assert_eq!(read(&bytes, &session()), Update { reach, ..Update::default() });
}

#[test]
fn ipv4_over_ipv6_needs_the_agreement() {
    let nlri = [route("10.1.2.0/24")];
    let attributes = plain("2001:db8::1");
    let refused = sent(&attributes, &nlri, &session());
    assert_eq!(refused, Err(Unsendable::NextHop("2001:db8::1".parse().unwrap())));
    let agreed = Negotiated { extended_next_hop: true, ..session() };
    let bytes = sent(&attributes, &nlri, &agreed).unwrap();
    let reach = vec![Reach { attributes, nlri: nlri.to_vec() }];
    assert_eq!(read(&bytes, &agreed), Update { reach, ..Update::default() });
    let strict = read(&bytes, &session());
    assert_eq!((strict.reach.len(), strict.withdrawn), (0, nlri.to_vec()));
}

#[test]
fn families_that_do_not_fit_are_refused() {
    let mut out = Vec::new();
    let v6 = [route("2001:db8::/32")];
    let refused = encode_reach(&plain("192.0.2.1"), Family::V4, &v6, &session(), &mut out);
    assert_eq!(refused, Err(Unsendable::Family(v6[0].prefix)));
    let refused = encode_reach(&plain("192.0.2.1"), Family::V6, &v6, &session(), &mut out);
    assert_eq!(refused, Err(Unsendable::NextHop("192.0.2.1".parse().unwrap())));
    let mut zero = plain("192.0.2.1");
    zero.as_path = AsPath::from_iter([Asn(0)]);
    let refused = encode_reach(&zero, Family::V4, &[route("10.0.0.0/8")], &session(), &mut out);
    assert!(matches!(refused, Err(Unsendable::Attribute(_))), "{refused:?}");
    assert!(out.is_empty());
}

#[test]
fn two_octet_peers_get_as_trans_and_the_whole_path_beside() {
    let old = Negotiated { four_octet_as: false, ..session() };
    let mut attributes = plain("192.0.2.1");
    attributes.as_path = AsPath::from_iter([Asn(64513), Asn(4_200_000_000)]);
    attributes.aggregator = Some((Asn(4_200_000_000), Ipv4Addr::new(10, 0, 0, 9)));
    let nlri = [route("10.1.2.0/24")];
    let bytes = sent(&attributes, &nlri, &old).unwrap();
    let path = [0x40, 2, 6, 2, 2, 0xfc, 0x01, 0x5b, 0xa0];
    assert!(bytes.windows(path.len()).any(|window| window == path));
    let as4 = [0xc0, 17, 10, 2, 2, 0, 0, 0xfc, 0x01, 0xfa, 0x56, 0xea, 0x00];
    assert!(bytes.windows(as4.len()).any(|window| window == as4));
    assert_eq!(read(&bytes, &old).reach, [Reach { attributes, nlri: nlri.to_vec() }]);
}

#[test]
fn end_of_rib_is_told_from_an_empty_withdrawal() {
    for (family, expected) in
        [(Family::V4, update(&[], &[], &[])), (Family::V6, update(&[], &[0x80, 15, 3, 0, 2, 1], &[]))]
    {
        let mut out = Vec::new();
        encode_end_of_rib(family, &mut out);
        assert_eq!(out, expected);
        assert_eq!(read(&out, &session()), Update { end_of_rib: Some(family), ..Update::default() });
    }
    let with_origin = update(&[], &[&[0x80, 15, 3, 0, 2, 1][..], &ORIGIN].concat(), &[]);
    assert_eq!(read(&with_origin, &session()).end_of_rib, None);
    let only_v4 = Negotiated { families: vec![Family::V4], ..session() };
    assert_eq!(read(&update(&[], &[0x80, 15, 3, 0, 2, 1], &[]), &only_v4).end_of_rib, None);
}

/// What has to become of a route whose attributes are broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Withdrawn,
    Kept,
    Reset(u8),
}

fn fate(attributes: &[u8], session: &Negotiated) -> Fate {
    let bytes = update(&[], attributes, &[24, 10, 1, 2]);
    match decode(&bytes, Some(session)) {
        Err(refused) => Fate::Reset(refused.subcode),
        Ok(Message::Update(update)) => {
            assert!(!update.faults.is_empty(), "no word about it");
            if update.reach.is_empty() {
                assert_eq!(update.withdrawn, [route("10.1.2.0/24")]);
                Fate::Withdrawn
            } else {
                assert!(update.withdrawn.is_empty());
                Fate::Kept
            }
        }
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
fn every_malformed_attribute_gets_the_treatment_of_rfc_7606() {
    use Fate::{Kept, Reset, Withdrawn};
    let good = [&ORIGIN[..], &PATH, &HOP].concat();
    let with = |more: &[u8]| [&good, more].concat();
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("ORIGIN value", [&[0x40, 1, 1, 3][..], &PATH, &HOP].concat(), Withdrawn),
        ("ORIGIN length", [&[0x40, 1, 2, 0, 0][..], &PATH, &HOP].concat(), Withdrawn),
        ("ORIGIN flags", [&[0xc0, 1, 1, 0][..], &PATH, &HOP].concat(), Withdrawn),
        ("no ORIGIN", [&PATH[..], &HOP].concat(), Withdrawn),
        ("no AS_PATH", [&ORIGIN[..], &HOP].concat(), Withdrawn),
        ("no NEXT_HOP", [&ORIGIN[..], &PATH].concat(), Withdrawn),
        ("nothing at all", Vec::new(), Withdrawn),
        ("AS_PATH segment", [&ORIGIN[..], &[0x40, 2, 3, 2, 9, 0], &HOP].concat(), Withdrawn),
        ("AS_SET", [&ORIGIN[..], &[0x40, 2, 6, 1, 1, 0, 0, 0, 1], &HOP].concat(), Withdrawn),
        ("confederation", [&ORIGIN[..], &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], &HOP].concat(), Withdrawn),
        ("AS 0", [&ORIGIN[..], &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], &HOP].concat(), Withdrawn),
        ("NEXT_HOP length", [&ORIGIN[..], &PATH, &[0x40, 3, 3, 1, 2, 3]].concat(), Withdrawn),
        ("NEXT_HOP multicast", [&ORIGIN[..], &PATH, &[0x40, 3, 4, 224, 0, 0, 1]].concat(), Withdrawn),
        ("NEXT_HOP unspecified", [&ORIGIN[..], &PATH, &[0x40, 3, 4, 0, 0, 0, 0]].concat(), Withdrawn),
        ("MED length", with(&[0x80, 4, 3, 0, 0, 0]), Withdrawn),
        ("LOCAL_PREF from outside", with(&[0x40, 5, 3, 0, 0, 0]), Kept),
        ("ATOMIC_AGGREGATE length", with(&[0x40, 6, 1, 0]), Kept),
        ("AGGREGATOR length", with(&[0xc0, 7, 6, 0, 1, 10, 0, 0, 1]), Kept),
        ("COMMUNITIES length", with(&[0xc0, 8, 3, 0, 0, 0]), Withdrawn),
        ("ORIGINATOR_ID from outside", with(&[0x80, 9, 3, 0, 0, 0]), Kept),
        ("CLUSTER_LIST from outside", with(&[0x80, 10, 3, 0, 0, 0]), Kept),
        ("EXTENDED COMMUNITIES length", with(&[0xc0, 16, 7, 0, 0, 0, 0, 0, 0, 0]), Withdrawn),
        ("LARGE_COMMUNITY length", with(&[0xc0, 32, 4, 0, 0, 0, 0]), Withdrawn),
        ("unknown well-known", with(&[0x40, 99, 0]), Withdrawn),
        ("twice", with(&ORIGIN), Kept),
        ("longer than the field", with(&[0x80, 4, 9, 0]), Withdrawn),
        ("MP_REACH too short", with(&[0x80, 14, 2, 0, 2]), Reset(5)),
        ("MP_UNREACH too short", with(&[0x80, 15, 2, 0, 2]), Reset(5)),
        ("MP_REACH next hop length", with(&[0x80, 14, 8, 0, 2, 1, 3, 1, 2, 3, 0]), Reset(9)),
        ("MP_UNREACH twice", with(&[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1]), Reset(1)),
    ];
    for (name, field, expected) in cases {
        assert_eq!(fate(&field, &session()), expected, "{name}");
    }
    let internal = Negotiated { kind: PeerKind::Internal, ..session() };
    for (name, more) in [
        ("LOCAL_PREF", &[0x40, 5, 3, 0, 0, 0][..]),
        ("ORIGINATOR_ID", &[0x80, 9, 3, 0, 0, 0]),
        ("CLUSTER_LIST", &[0x80, 10, 3, 0, 0, 0]),
    ] {
        assert_eq!(fate(&with(more), &internal), Withdrawn, "{name} from inside");
    }
    assert_eq!(fate(&[&ORIGIN[..], &PATH].concat(), &internal), Withdrawn, "no NEXT_HOP from inside");
}

/// RFC 7606 3 c: optional and transitive bits that are not those of the attribute.
#[test]
fn wrong_flags_withdraw_the_routes_whichever_attribute_has_them() {
    let values: [(u8, u8, &[u8]); 13] = [
        (0x40, 1, &[0]),
        (0x40, 2, &[2, 1, 0, 0, 0xfc, 0x01]),
        (0x40, 3, &[192, 0, 2, 1]),
        (0x80, 4, &[0, 0, 0, 1]),
        (0x40, 5, &[0, 0, 0, 1]),
        (0x40, 6, &[]),
        (0xc0, 7, &[0, 0, 0xfc, 1, 10, 0, 0, 1]),
        (0xc0, 8, &[0, 0, 0, 1]),
        (0x80, 9, &[10, 0, 0, 1]),
        (0x80, 10, &[10, 0, 0, 1]),
        (0xc0, 16, &[0, 2, 0, 0, 0, 0, 0, 1]),
        (0xc0, 32, &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
        (0x80, 14, &[0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
    ];
    let length = |value: &[u8]| u8::try_from(value.len()).unwrap();
    for (flags, code, value) in values {
        for turned in [0x40, 0x80, 0xc0] {
            let wrong = [&[flags ^ turned, code, length(value)], value].concat();
            let least = [&ORIGIN[..], &PATH, &HOP];
            let others = least.iter().filter(|one| one[1] != code).copied();
            let field: Vec<u8> = others.chain([wrong.as_slice()]).flatten().copied().collect();
            for kind in [PeerKind::External, PeerKind::Internal] {
                let found = fate(&field, &Negotiated { kind, ..session() });
                // Of routes in an MP attribute nothing is left to trust (RFC 7606 5.3).
                let right = if code == 14 { matches!(found, Fate::Reset(_)) } else { found == Fate::Withdrawn };
                assert!(right, "{code} {turned:#x} {found:?}");
            }
        }
    }
}

#[test]
fn malformed_attributes_of_two_octet_sessions_are_told_apart() {
    let old = Negotiated { four_octet_as: false, ..session() };
    let good = [&ORIGIN[..], &[0x40, 2, 4, 2, 1, 0xfc, 0x01], &HOP].concat();
    let with = |more: &[u8]| [&good, more].concat();
    for (name, more, expected) in [
        ("AS4_PATH length", &[0xc0, 17, 3, 2, 1, 0][..], Fate::Kept),
        ("AS4_PATH segment", &[0xc0, 17, 6, 9, 1, 0, 0, 0, 1], Fate::Kept),
        ("AS4_PATH with a set", &[0xc0, 17, 6, 1, 1, 0, 0, 0, 1], Fate::Withdrawn),
        ("AS4_AGGREGATOR length", &[0xc0, 18, 7, 0, 0, 0, 1, 10, 0, 0], Fate::Kept),
        ("AGGREGATOR of the other width", &[0xc0, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1], Fate::Kept),
        ("AGGREGATOR of AS 0", &[0xc0, 7, 6, 0, 0, 10, 0, 0, 1], Fate::Kept),
    ] {
        assert_eq!(fate(&with(more), &old), expected, "{name}");
    }
}

#[test]
fn broken_fields_reset_the_session() {
    let good = [&ORIGIN[..], &PATH, &HOP].concat();
    for (name, bytes, subcode) in [
        ("prefix length", update(&[], &good, &[33, 10, 0, 0, 0, 0]), 10),
        ("prefix cut", update(&[], &good, &[24, 10, 0]), 10),
        ("withdrawn prefix length", update(&[33, 10, 0, 0, 0, 0], &[], &[]), 10),
        ("withdrawn field too long", message(UPDATE, &[0, 9, 0, 0]), 1),
        ("attribute field too long", message(UPDATE, &[0, 0, 0, 9]), 1),
    ] {
        let refused = decode(&bytes, Some(&session())).expect_err(name);
        assert_eq!((refused.code, refused.subcode), (3, subcode), "{name}");
    }
}

#[test]
fn attributes_of_inside_an_as_are_ignored_from_outside() {
    let more = [&[0x40, 5, 4, 0, 0, 0, 200][..], &[0x80, 9, 4, 1, 1, 1, 1], &[0x80, 10, 4, 2, 2, 2, 2]].concat();
    let bytes = update(&[], &[&ORIGIN[..], &PATH, &HOP, &more].concat(), &[8, 10]);
    let outside = &read(&bytes, &session()).reach[0].attributes;
    assert_eq!(*outside, plain("192.0.2.1"));
    let inside = &read(&bytes, &Negotiated { kind: PeerKind::Internal, ..session() }).reach[0].attributes;
    assert_eq!(inside.local_pref, Some(200));
    assert_eq!(inside.originator_id, Some(Ipv4Addr::new(1, 1, 1, 1)));
    assert_eq!(inside.cluster_list[..], [Ipv4Addr::new(2, 2, 2, 2)]);
}

#[test]
fn unknown_attributes_travel_on_as_partial_when_transitive() {
    let more = [&[0xc0, 99, 2, 7, 8][..], &[0x80, 98, 1, 1], &[0xc0, 35, 4, 0, 0, 0, 1], &[0xc0, 40, 0]].concat();
    let bytes = update(&[], &[&ORIGIN[..], &PATH, &HOP, &more].concat(), &[8, 10]);
    let found = read(&bytes, &session());
    let unknown = &found.reach[0].attributes.unknown;
    assert!(unknown.contains(&RawAttribute { flags: 0xe0, code: 99, value: [7, 8].into() }));
    assert!(unknown.contains(&RawAttribute { flags: 0xe0, code: 35, value: [0, 0, 0, 1].into() }));
    assert!(unknown.iter().all(|raw| raw.code != 98));
    let again = sent(&found.reach[0].attributes, &found.reach[0].nlri, &session()).unwrap();
    assert_eq!(read(&again, &session()).reach, found.reach);
}

#[test]
fn families_without_agreement_are_ignored() {
    let only_v6 = Negotiated { families: vec![Family::V6], ..session() };
    let bytes = update(&[8, 11], &[&ORIGIN[..], &PATH, &HOP].concat(), &[8, 10]);
    let found = read(&bytes, &only_v6);
    assert!(found.reach.is_empty() && found.withdrawn.is_empty() && found.faults.len() == 1, "{found:?}");
    let only_v4 = Negotiated { families: vec![Family::V4], ..session() };
    let bytes = sent(&plain("2001:db8::1"), &[route("2001:db8::/32")], &session()).unwrap();
    let found = read(&bytes, &only_v4);
    assert!(found.reach.is_empty() && found.withdrawn.is_empty() && found.faults.len() == 1, "{found:?}");
}

#[test]
fn routes_fill_messages_to_the_last_octet() {
    let attributes = plain("192.0.2.1");
    let fixed = HEADER + 4 + ORIGIN.len() + PATH.len() + HOP.len();
    for max in [MAX, MAX_EXTENDED] {
        let wide = Negotiated { max_message: max, ..session() };
        let fit = (max - fixed) / 5;
        let nlri: Vec<Nlri> = (0..u32::try_from(fit).unwrap() * 2 + 1)
            .map(|n| Nlri::new(Prefix::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)), 32).unwrap()))
            .collect();
        let messages = split(&sent(&attributes, &nlri, &wide).unwrap(), max);
        let lengths: Vec<_> = messages.iter().map(Vec::len).collect();
        assert_eq!(lengths, [fixed + fit * 5, fixed + fit * 5, fixed + 5]);
        let back: Vec<Nlri> = messages.iter().flat_map(|m| read(m, &wide).reach.remove(0).nlri).collect();
        assert_eq!(back, nlri);

        let mut out = Vec::new();
        encode_withdraw(Family::V4, &nlri, &wide, &mut out);
        let back: Vec<Nlri> = split(&out, max).iter().flat_map(|m| read(m, &wide).withdrawn).collect();
        assert_eq!(back, nlri);
    }
}

#[test]
fn attributes_without_room_for_a_route_are_refused() {
    let mut attributes = plain("192.0.2.1");
    attributes.communities = (0..1100).collect();
    let nlri = [route("10.0.0.0/8")];
    assert!(matches!(sent(&attributes, &nlri, &session()), Err(Unsendable::TooLong(_))));
    let wide = Negotiated { max_message: MAX_EXTENDED, ..session() };
    assert_eq!(read(&sent(&attributes, &nlri, &wide).unwrap(), &wide).reach[0].attributes, attributes);
    attributes.communities = (0..17_000).collect();
    assert!(matches!(sent(&attributes, &nlri, &wide), Err(Unsendable::TooLong(_))));
}

#[test]
fn raw_attributes_carry_ipv6_routes_inside() {
    let v4 = attributes_raw(&plain("192.0.2.1"), &route("10.1.2.0/24"));
    assert_eq!(v4, [ORIGIN.to_vec(), PATH.to_vec(), HOP.to_vec()]);
    let nlri = route("2001:db8:1::/48");
    let v6 = attributes_raw(&plain("2001:db8::1"), &nlri);
    assert_eq!(attributes_from_raw(&v6), Ok((plain("2001:db8::1"), vec![nlri])));
    assert_eq!(attributes_from_raw(&v4), Ok((plain("192.0.2.1"), Vec::new())));
    assert_eq!(nlri_raw(&nlri.prefix), [48, 0x20, 0x01, 0x0d, 0xb8, 0, 1]);
    let (empty, _) = attributes_from_raw(&[]).unwrap();
    assert_eq!(empty, Attributes::new(Origin::Incomplete, AsPath::empty(), hop("0.0.0.0")));
    assert!(attributes_from_raw(&[vec![0x40, 1, 1, 9]]).is_err());
}

fn prefix(family: Family) -> BoxedStrategy<Prefix> {
    match family {
        Family::V4 => (any::<u32>(), 0..=32u8)
            .prop_map(|(bits, length)| Prefix::new(IpAddr::V4(bits.into()), length).unwrap().trunc())
            .boxed(),
        Family::V6 => (any::<u128>(), 0..=128u8)
            .prop_map(|(bits, length)| Prefix::new(IpAddr::V6(bits.into()), length).unwrap().trunc())
            .boxed(),
    }
}

fn next_hop(v6: bool) -> BoxedStrategy<NextHop> {
    if v6 {
        let low = any::<u64>();
        (low, any::<Option<u64>>())
            .prop_map(|(low, local)| NextHop {
                address: IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(low)).into()),
                link_local: local.map(|low| (0xfe80_u128 << 112 | u128::from(low)).into()),
            })
            .boxed()
    } else {
        (1..=126u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| NextHop::from(IpAddr::from([a, b, c, d]))).boxed()
    }
}

fn unique<T: Ord>(mut all: Vec<T>) -> Box<[T]> {
    all.sort_unstable();
    all.dedup();
    all.into()
}

prop_compose! {
    fn attributes(v6: bool)(
        next_hop in next_hop(v6),
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        path in prop_oneof![vec(1u32.., 0..300), vec(1..=65_535u32, 0..300)],
        med in any::<Option<u32>>(),
        local_pref in any::<Option<u32>>(),
        atomic_aggregate in any::<bool>(),
        aggregator in proptest::option::of((prop_oneof![1u32.., 1..=65_535u32], any::<u32>())),
        communities in vec(any::<u32>(), 0..90),
        extended in vec(any::<[u8; 8]>(), 0..9),
        large in vec(any::<[u32; 3]>(), 0..9),
        originator in any::<Option<u32>>(),
        clusters in vec(any::<u32>(), 0..4),
        unknown in proptest::collection::btree_map(100..120u8, vec(any::<u8>(), 0..300), 0..3),
    ) -> Attributes {
        Attributes {
            med,
            local_pref,
            atomic_aggregate,
            aggregator: aggregator.map(|(asn, id)| (Asn(asn), id.into())),
            communities: unique(communities),
            extended_communities: unique(extended),
            large_communities: unique(large),
            originator_id: originator.map(Into::into),
            cluster_list: clusters.into_iter().map(Into::into).collect(),
            unknown: unknown
                .into_iter()
                .map(|(code, value)| RawAttribute { flags: 0xe0, code, value: value.into() })
                .collect(),
            ..Attributes::new(origin, path.into_iter().map(Asn).collect(), next_hop)
        }
    }
}

fn case() -> impl Strategy<Value = (Attributes, Family, Vec<Nlri>, Negotiated)> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_flat_map(|(v6, v6_hop, ids, wide)| {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let routes = vec((prefix(family), any::<u32>()), 1..1500).prop_map(move |all| {
            all.into_iter().map(|(prefix, id)| Nlri { prefix, path_id: if ids { id } else { 0 } }).collect()
        });
        let listed = if ids { vec![family] } else { Vec::new() };
        let session = Negotiated {
            kind: PeerKind::Internal,
            add_path_receive: listed.clone(),
            add_path_send: listed,
            extended_next_hop: v6_hop,
            max_message: if wide { MAX_EXTENDED } else { MAX },
            ..session()
        };
        (attributes(v6 || v6_hop), Just(family), routes, Just(session))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn routes_come_back_as_they_went((attributes, family, nlri, session) in case()) {
        let mut out = Vec::new();
        encode_reach(&attributes, family, &nlri, &session, &mut out).unwrap();
        let mut back = Vec::new();
        for message in split(&out, session.max_message) {
            let update = read(&message, &session);
            prop_assert!(update.faults.is_empty() && update.withdrawn.is_empty(), "{:?}", update.faults);
            for reach in update.reach {
                prop_assert_eq!(&reach.attributes, &attributes);
                back.extend(reach.nlri);
            }
        }
        prop_assert_eq!(&back, &nlri);

        out.clear();
        encode_withdraw(family, &nlri, &session, &mut out);
        let back: Vec<Nlri> = split(&out, session.max_message).iter().flat_map(|m| read(m, &session).withdrawn).collect();
        prop_assert_eq!(&back, &nlri);

        let first = Nlri::new(nlri[0].prefix);
        let (raw, routes) = attributes_from_raw(&attributes_raw(&attributes, &first)).unwrap();
        prop_assert_eq!(&raw, &attributes);
        prop_assert!(routes.iter().all(|route| *route == first));
    }

    #[test]
    fn two_octet_sessions_lose_no_as(path in vec(1u32.., 0..40)) {
        let old = Negotiated { four_octet_as: false, ..session() };
        let mut attributes = plain("192.0.2.1");
        // RFC 6793 4.2.3: 23456 in a path from an old speaker stands for another AS.
        attributes.as_path = path.into_iter().map(Asn).collect();
        let bytes = sent(&attributes, &[route("10.0.0.0/8")], &old).unwrap();
        prop_assert_eq!(&read(&bytes, &old).reach[0].attributes, &attributes);
    }

    #[test]
    fn random_bytes_never_panic(kind in 0..7u8, body in vec(any::<u8>(), 0..200), bare in vec(any::<u8>(), 0..40)) {
        let bytes = message(kind, &body);
        let _ = (frame(&bare, MAX), decode(&bare, None), decode(&bytes, None), decode(&bytes, Some(&session())));
        let _ = attributes_from_raw(&[body]);
    }

    #[test]
    fn mutated_messages_never_panic(
        (attributes, family, nlri, session) in case(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        (internal, four_octet_as) in any::<(bool, bool)>(),
    ) {
        let kind = if internal { PeerKind::Internal } else { PeerKind::External };
        let session = Negotiated { kind, four_octet_as, ..session };
        let mut out = Vec::new();
        encode_reach(&attributes, family, &nlri[..nlri.len().min(20)], &session, &mut out).unwrap();
        for (place, value) in changes {
            let place = HEADER + place.index(out.len() - HEADER);
            out[place] = value;
        }
        if let Ok(Message::Update(update)) = decode(&out, Some(&session)) {
            for reach in update.reach {
                let _ = attributes_raw(&reach.attributes, &reach.nlri[0]);
                let family = family_of(&reach.nlri[0].prefix);
                let mut again = Vec::new();
                if encode_reach(&reach.attributes, family, &reach.nlri, &session, &mut again).is_ok() {
                    let first = split(&again, session.max_message).remove(0);
                    prop_assert_eq!(&read(&first, &session).reach[0].attributes, &reach.attributes);
                }
            }
        }
        let body = out[HEADER..HEADER + cut.index(out.len() - HEADER)].to_vec();
        let _ = decode(&message(UPDATE, &body), Some(&session));
    }

    #[test]
    fn what_is_read_without_the_codec_is_what_the_codec_reads(
        (attributes, _, nlri, session) in case(),
        (external, four_octet_as) in any::<(bool, bool)>(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let kind = if external { PeerKind::External } else { PeerKind::Internal };
        let session = Negotiated { kind, four_octet_as, families: Family::ALL.to_vec(), ..session };
        let nlri: Vec<Nlri> = nlri.into_iter().take(3).collect();
        let Ok(mut bytes) = sent(&attributes, &nlri, &session) else { return Ok(()) };
        bytes.truncate(usize::from(u16::from_be_bytes([bytes[16], bytes[17]])));
        let mut body = bytes.split_off(HEADER);
        let same = |body: &[u8]| {
            let alone = update::decode_by(body, &session, |_, _| None);
            prop_assert_eq!(update::decode(body, &session), alone);
            Ok(())
        };
        same(&body)?;
        for (at, value) in flips {
            let at = at.index(body.len());
            body[at] = value;
            same(&body)?;
        }
    }

    #[test]
    fn what_is_written_without_the_codec_is_what_the_codec_writes(
        (attributes, family, _, session) in case(),
        four_octet_as in any::<bool>(),
    ) {
        let session = Negotiated { four_octet_as, ..session };
        let shape = Shape::from(&session);
        let mut prepared = Vec::new();
        prepare(&attributes, family, shape, &mut prepared).unwrap();
        let head = usize::from(prepared[0]) + 1;
        let mut alone = Vec::new();
        let codec = encode::to_codec(&attributes, head == 1);
        rustbgpd_wire::attribute::encode_path_attributes(&codec, &mut alone, four_octet_as, false).unwrap();
        prop_assert_eq!(&prepared[head..], alone);
        prop_assert_eq!(read_prepared(&prepared, shape), Some(attributes));
    }
}

/// Each attribute read without the codec, in forms that are right, wrong, and strange: one byte of each at a time.
#[test]
fn single_wrong_octets_are_read_as_the_codec_reads_them() {
    let mut full = plain("192.0.2.1");
    full.med = Some(5);
    full.local_pref = Some(100);
    full.atomic_aggregate = true;
    full.aggregator = Some((Asn(64513), Ipv4Addr::new(10, 0, 0, 9)));
    full.communities = [1, 2].into();
    full.extended_communities = [[0; 8]].into();
    full.large_communities = [[1, 2, 3]].into();
    full.originator_id = Some(Ipv4Addr::new(10, 0, 0, 8));
    full.cluster_list = [Ipv4Addr::new(10, 0, 0, 7)].into();
    let v6 = Attributes { next_hop: hop("2001:db8::1"), ..full.clone() };
    let both = NextHop { link_local: Some("fe80::1".parse().unwrap()), ..hop("2001:db8::1") };
    let both = Attributes { next_hop: both, ..full.clone() };
    let old = Negotiated { four_octet_as: false, ..session() };
    let ids = Negotiated { add_path_receive: vec![Family::V6], add_path_send: vec![Family::V6], ..session() };
    for (attributes, prefix, session) in [
        (&full, "10.1.0.0/24", &session()),
        (&full, "10.1.0.0/24", &old),
        (&v6, "2001:db8:1::/47", &session()),
        (&both, "2001:db8:1::/48", &ids),
    ] {
        let bytes = sent(attributes, &[route(prefix)], session).unwrap();
        octet_by_octet(bytes.split_at(HEADER).1, session);
        let mut gone = Vec::new();
        encode_withdraw(family_of(&route(prefix).prefix), &[route(prefix)], session, &mut gone);
        octet_by_octet(gone.split_at(HEADER).1, session);
    }
}

fn octet_by_octet(body: &[u8], session: &Negotiated) {
    let read_as_codec = |body: &[u8], session: &Negotiated, what: String| {
        let alone = update::decode_by(body, session, |_, _| None);
        assert_eq!(update::decode(body, session), alone, "{what}");
    };
    for kind in [PeerKind::External, PeerKind::Internal] {
        let session = Negotiated { kind, ..session.clone() };
        read_as_codec(body, &session, "as it was sent".to_owned());
        for at in 0..body.len() {
            for value in [0, 1, 2, 3, 4, 5, 8, 0x10, 0x20, 0x40, 0x50, 0x60, 0x7f, 0x80, 0xc0, 0xd0, 0xe0, 0xff] {
                let mut body = body.to_vec();
                body[at] = value;
                read_as_codec(&body, &session, format!("octet {at} {value:#x}"));
            }
        }
    }
}
