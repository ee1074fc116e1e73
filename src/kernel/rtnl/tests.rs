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
        Just(RouteKind::Unreachable),
        Just(RouteKind::Prohibit),
        Just(RouteKind::Throw)
    ];
    let hop = (proptest::option::of(1..u32::MAX), any::<Option<IpAddr>>(), 1..=256u16)
        .prop_map(|(link, gateway, weight)| NextHop { link, gateway, weight });
    let hops = (proptest::collection::vec(hop, 0..4), any::<Option<IpAddr>>());
    (prefixes(), any::<(u32, u8, u8)>(), kind, hops, 0..5000u32).prop_map(
        |(destination, (table, protocol, scope), kind, (hops, source), metric)| {
            let mut route = Route {
                table,
                destination: destination.trunc(),
                kind,
                protocol,
                scope,
                link: None,
                gateway: None,
                next_hops: Vec::new(),
                source,
                // 1024 is how IPv6 says none.
                metric: if metric == 1024 { 1 } else { metric },
            };
            if !kind.is_dead_end() {
                route.set_hops(hops);
            }
            route
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
        let iif = LinkName::new("eth0").filter(|_| numbers.0 % 2 == 0);
        let rule = Rule { mark, from, iif, ..Rule::to_table(family, numbers.0, numbers.1) };
        let found = decode_rule(&payload(&Op::AddRule(rule)));
        prop_assert_eq!(found, Some(rule));
        prop_assert_eq!(found.map(|rule| rule.protocol), Some(protocol::OURS));
    }

    #[test]
    fn tunnels_decode_as_encoded(
        ends in any::<(IpAddr, Option<IpAddr>)>(), ttl in any::<u8>(), port in any::<Option<u16>>()
    ) {
        let remote = ends.1.filter(|remote| remote.is_ipv4() == ends.0.is_ipv4() && !remote.is_unspecified());
        let tunnel = Tunnel { local: ends.0, remote, ttl, gue: port.map(|port| Gue { port }) };
        let link = decode_link(&payload(&Op::AddTunnel { name: "tun-a".into(), tunnel })).unwrap();
        prop_assert_eq!((link.kind.as_str(), link.tunnel), (tunnel.kind(), Some(tunnel)));
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
fn a_changed_encapsulation_is_another_tunnel() {
    let tunnel = |gue| Tunnel { ttl: 225, gue, ..Tunnel::plain(IpAddr::from([10, 0, 0, 1]), None) };
    let read = |tunnel| decode_link(&payload(&Op::AddTunnel { name: "tun-a".into(), tunnel })).unwrap().tunnel;
    let gue = |port| tunnel(Some(Gue { port }));
    assert_eq!(read(gue(5555)), Some(gue(5555)));
    assert_ne!(read(gue(5556)), Some(gue(5555)));
    assert_ne!(read(tunnel(None)), Some(gue(5555)));
}

#[test]
fn ports_of_tunnels_are_big_endian() {
    let tunnel = Tunnel { gue: Some(Gue { port: 0x15b3 }), ..Tunnel::plain(IpAddr::from([10, 0, 0, 1]), None) };
    let bytes = payload(&Op::AddTunnel { name: "tun-a".into(), tunnel });
    assert!(bytes.windows(6).any(|window| window == [6, 0, 18, 0, 0x15, 0xb3]));
}

#[test]
fn next_hops_are_a_set_and_a_single_one_is_no_multipath() {
    let hop = |last| NextHop::via(IpAddr::from([192, 0, 2, last]));
    let mut route = Route {
        table: table::MAIN,
        destination: "198.51.100.0/24".parse().unwrap(),
        kind: RouteKind::Unicast,
        protocol: protocol::OURS,
        scope: 0,
        link: None,
        gateway: None,
        next_hops: Vec::new(),
        source: None,
        metric: 0,
    };
    assert!(route.hops().is_empty());
    route.set_hops(vec![hop(2), hop(1), hop(2)]);
    assert_eq!(route.next_hops, [hop(1), hop(2)]);
    assert_eq!(route.hops(), route.next_hops);
    route.set_hops(vec![hop(3)]);
    assert_eq!((route.gateway, route.next_hops.len()), (hop(3).gateway, 0));
    assert_eq!(route.hops(), [hop(3)]);
}

#[test]
fn link_names_are_1_to_15_bytes() {
    assert_eq!(LinkName::new("kube-bridge").unwrap().as_str(), "kube-bridge");
    assert_eq!(LinkName::new("fifteen-bytes-x").unwrap().as_str(), "fifteen-bytes-x");
    assert_eq!(LinkName::new("sixteen-bytes-xx"), None);
    assert_eq!(LinkName::new(""), None);
}

#[test]
fn events_name_where_to_look() {
    let dummy = payload(&Op::AddDummy { name: "kube-dummy-if".into() });
    assert_eq!(decode(16, &dummy), Some(Event::Link { link: 0, lost: true }));
    assert_eq!(decode(17, &dummy), Some(Event::Link { link: 0, lost: true }));
    let address = Address { link: 7, prefix: "10.0.0.1/32".parse().unwrap(), scope: 0 };
    let up = payload(&Op::SetUp { link: 7, up: true });
    assert_eq!(decode(16, &up), Some(Event::Link { link: 7, lost: false }));
    assert_eq!(decode(17, &up), Some(Event::Link { link: 7, lost: true }), "the last word of a link that goes");
    assert_eq!(decode(20, &payload(&Op::AddAddress(address))), Some(Event::Address { link: 7, lost: false }));
    assert_eq!(decode(21, &payload(&Op::DeleteAddress(address))), Some(Event::Address { link: 7, lost: true }));
    assert_eq!(decode(32, &[]), Some(Event::Rule));
    assert_eq!(decode(28, &dummy), None, "neighbours are nobody's business");
}

#[test]
fn a_neighbour_counts_while_its_station_is_known() {
    const STALE: u16 = 0x04;
    const FAILED: u16 = 0x20;
    let message = |family: u8, state: u16, address: &[u8]| {
        let mut bytes = vec![family, 0, 0, 0];
        bytes.extend(3u32.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        bytes.extend([0, 1]);
        for (kind, value) in [(1u16, address), (2, &[2, 0, 0, 0, 0, 7])] {
            bytes.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    };
    let v4 = message(2, STALE, &[192, 0, 2, 1]);
    let expected = Neighbour { link: 3, address: "192.0.2.1".parse().unwrap(), station: [2, 0, 0, 0, 0, 7] };
    assert_eq!(decode_neighbour(&v4), Some(expected));
    let v6 = message(10, STALE, &"fe80::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(decode_neighbour(&v6).map(|it| it.address), Some("fe80::7".parse().unwrap()));
    assert_eq!(decode_neighbour(&message(2, FAILED, &[192, 0, 2, 1])), None);
    assert_eq!(decode_neighbour(&message(7, STALE, &[192, 0, 2, 1])), None, "a bridge's table");
    assert_eq!(decode_neighbour(v4.get(..20).unwrap()), None);
}
