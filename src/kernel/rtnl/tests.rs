//! Encoder and decoder against each other, without a kernel.

use proptest::prelude::*;

use super::monitor::{Event, decode};
use super::*;
use crate::kernel::netlink::{Batch, Messages};
use crate::net::Family;

/// The payload of the only message an op becomes.
fn payload(op: &Op) -> Vec<u8> {
    let mut batch = Batch::new();
    codec::encode(op, &mut batch);
    assert_eq!(batch.len(), 1, "one op, one message");
    Messages::new(batch.bytes()).next().unwrap().payload.to_vec()
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(octets, length)| Prefix::new(IpAddr::from(octets), length).unwrap()),
        (any::<[u8; 16]>(), 0..=128u8).prop_map(|(octets, length)| Prefix::new(IpAddr::from(octets), length).unwrap()),
    ]
}

fn routes() -> impl Strategy<Value = Route> {
    let kind = prop_oneof![
        Just(RouteKind::Unicast),
        Just(RouteKind::Local),
        Just(RouteKind::Blackhole),
        Just(RouteKind::Unreachable)
    ];
    let hop = (any::<Option<u32>>(), any::<Option<IpAddr>>(), any::<Option<IpAddr>>());
    (prefixes(), any::<(u32, u8, u8)>(), kind, hop, 0..5000u32).prop_map(
        |(destination, (table, protocol, scope), kind, (link, gateway, source), metric)| Route {
            table,
            destination: destination.trunc(),
            kind,
            protocol,
            scope,
            link,
            gateway,
            source,
            // 1024 is how IPv6 says none.
            metric: if metric == 1024 { 1 } else { metric },
        },
    )
}

proptest! {
    #[test]
    fn routes_decode_as_encoded(route in routes()) {
        prop_assert_eq!(decode_route(&payload(&Op::ReplaceRoute(route.clone()))), Some(route));
    }

    #[test]
    fn addresses_decode_as_encoded(prefix in prefixes(), link in any::<u32>(), scope in any::<u8>()) {
        let address = Address { link, prefix, scope };
        prop_assert_eq!(decode_address(&payload(&Op::AddAddress(address))), Some(address));
    }

    #[test]
    fn rules_decode_as_encoded(from in prefixes(), mark in any::<Option<u32>>(), numbers in any::<(u32, u32)>()) {
        let family = Family::of(from.addr());
        let from = Some(from.trunc()).filter(|from| from.prefix_len() != 0);
        let rule = Rule { family, priority: numbers.0, mark, from, table: numbers.1 };
        prop_assert_eq!(decode_rule(&payload(&Op::AddRule(rule))), Some(rule));
    }

    #[test]
    fn decoders_take_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..40u16) {
        let _ = decode_link(&bytes);
        let _ = decode_address(&bytes);
        let _ = decode_route(&bytes);
        let _ = decode_rule(&bytes);
        let _ = decode(kind, &bytes);
    }
}

#[test]
fn events_name_where_to_look() {
    let dummy = payload(&Op::AddDummy { name: "kube-dummy-if".into() });
    assert_eq!(decode(16, &dummy), Some(Event::Link("kube-dummy-if".into())));
    assert_eq!(decode(17, &dummy), Some(Event::Link("kube-dummy-if".into())));
    let address = Address { link: 7, prefix: "10.0.0.1/32".parse().unwrap(), scope: 0 };
    assert_eq!(decode(21, &payload(&Op::DeleteAddress(address))), Some(Event::Address(7)));
    assert_eq!(decode(32, &[]), Some(Event::Rule));
    assert_eq!(decode(28, &dummy), None, "neighbours are nobody's business");
}
