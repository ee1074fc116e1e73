//! OPEN, headers and short messages: byte vectors written by hand from the formats in the RFCs, and broken ones.

use super::*;

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
            Capability::LongLived(all.map(|family| (family, full.forwarding_kept, 3600)).to_vec()),
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
            Capability::LongLived(vec![(Family::V6, false, 2)]),
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
