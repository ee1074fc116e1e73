//! What becomes of routes whose bytes are broken (RFC 7606).

use super::*;

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
