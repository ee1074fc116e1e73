//! Round trips, random and broken bytes, and the codec as the judge of what is read and written without it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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
