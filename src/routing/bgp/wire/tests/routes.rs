//! UPDATEs: byte vectors written by hand from the formats in the RFCs, agreements that matter, full messages.

use super::*;

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
