//! What every [`Ipvs`] must do. Each check wants an empty table of its own.

use crate::kernel::Disposition;
use crate::kernel::ipvs::{
    Connections, Forwarding, Ipvs, Op, RealServer, RealServerKey, Scheduler, Stats, Table, Timeouts, TunnelType,
    VirtualServer, VirtualServerKey, VirtualServerSpec,
};
use crate::net::{Family, Protocol};

/// A check by name.
pub type Check<I> = (&'static str, fn(&mut I));

/// All checks.
pub fn all<I: Ipvs>() -> Vec<Check<I>> {
    vec![
        ("starts_empty", starts_empty),
        ("holds_what_was_written", holds_what_was_written),
        ("says_what_was_so_already", says_what_was_so_already),
        ("says_what_is_stale", says_what_is_stale),
        ("changes_in_place", changes_in_place),
        ("deletes_a_virtual_server_with_its_real_servers", deletes_a_virtual_server_with_its_real_servers),
        ("keeps_order_and_goes_on_after_a_failure", keeps_order_and_goes_on_after_a_failure),
        ("names_the_missing_scheduler", names_the_missing_scheduler),
        ("refuses_what_the_kernel_cannot_hold", refuses_what_the_kernel_cannot_hold),
        ("answers_each_of_many", answers_each_of_many),
        ("tells_connections_and_stats", tells_connections_and_stats),
        ("sets_timeouts", sets_timeouts),
    ]
}

/// A table with one of everything that `ipvsadm` can make: families, marks, persistence, flags, tunnels, weights.
pub fn showcase() -> Table {
    let gue = Forwarding::Tunnel(TunnelType::Gue { port: 6080 });
    let ipip = Forwarding::Tunnel(TunnelType::Ipip);
    let gre = Forwarding::Tunnel(TunnelType::Gre);
    let masquerade = Forwarding::Masquerade;
    let route = Forwarding::Route;
    let long = "fd00:1111:2222:3333:4444:5555:6666:7777";
    let longer = "fd00:1111:2222:3333:4444:5555:6666:7778";
    let entries = [
        (
            address("10.96.0.1", Protocol::Tcp, 443),
            spec("rr"),
            vec![
                real("10.0.0.2", 6443, masquerade, 5),
                real("10.0.0.1", 443, ipip, 5),
                RealServer { upper_threshold: 10, lower_threshold: 4, ..real("10.0.0.3", 443, gue, 65_535) },
                real("10.0.0.4", 443, gre, 1),
                real("10.0.0.5", 443, masquerade, 2_147_483_647),
            ],
        ),
        (
            address("10.96.0.10", Protocol::Udp, 53),
            VirtualServerSpec { scheduler_flags: 0b11, one_packet: true, ..spec("mh") },
            vec![real("10.1.0.3", 53, route, 0)],
        ),
        (
            address("10.96.0.14", Protocol::Udp, 80),
            VirtualServerSpec { scheduler_flags: 0b100, one_packet: true, ..persistent("mh", 70, 32) },
            vec![],
        ),
        (
            address("fd00::1", Protocol::Tcp, 80),
            VirtualServerSpec { scheduler_flags: 0b10, ..persistent("sh", 10_800, 128) },
            vec![real("fd00:1::5", 8080, masquerade, 1)],
        ),
        (address(long, Protocol::Tcp, 65_535), persistent("wrr", 300, 64), vec![real(longer, 65_535, masquerade, 1)]),
        (
            VirtualServerKey::Mark { mark: 77, family: Family::V4 },
            persistent("wlc", 60, 24),
            vec![real("10.0.0.1", 0, route, 1), real("10.0.0.2", 0, ipip, 1)],
        ),
        (
            VirtualServerKey::Mark { mark: 78, family: Family::V6 },
            VirtualServerSpec { persistence_prefix: 128, ..spec("sed") },
            vec![real("fd00::7", 0, masquerade, 1)],
        ),
        (
            address("10.96.0.11", Protocol::Sctp, 3868),
            VirtualServerSpec { scheduler_flags: 0b101, ..spec("lblc") },
            vec![real("192.168.100.100", 3868, masquerade, 1)],
        ),
        (
            address("10.96.0.200", Protocol::Tcp, 80),
            VirtualServerSpec { scheduler_flags: 0b1, ..persistent("sh", 70, 32) },
            vec![],
        ),
        (
            address("10.96.0.12", Protocol::Tcp, 80),
            VirtualServerSpec { scheduler_flags: 0b10, ..persistent("mh", 70, 32) },
            vec![],
        ),
        (address("10.96.0.13", Protocol::Tcp, 80), VirtualServerSpec { scheduler_flags: 0b110, ..spec("wlc") }, vec![]),
        (
            address("255.255.255.254", Protocol::Udp, 65_535),
            persistent("rr", 300, 25),
            vec![real("255.255.255.253", 65_535, masquerade, 1), real(longer, 65_535, ipip, 1)],
        ),
        (VirtualServerKey::Mark { mark: u32::MAX, family: Family::V4 }, spec("rr"), vec![]),
        (address("10.0.0.9", Protocol::Tcp, 0), persistent("rr", 60, 32), vec![real("10.2.2.2", 0, route, 1)]),
        (
            address("::ffff:1.2.3.4", Protocol::Udp, 53),
            VirtualServerSpec { persistence_prefix: 128, ..spec("rr") },
            vec![],
        ),
        (
            address("2001:db8::1:0:0:1", Protocol::Udp, 53),
            VirtualServerSpec { persistence_prefix: 128, ..spec("rr") },
            vec![],
        ),
    ];
    entries
        .into_iter()
        .map(|(key, spec, mut real_servers)| {
            real_servers.sort_unstable_by_key(|real| real.key);
            (key, VirtualServer { spec, real_servers: real_servers.into_boxed_slice() })
        })
        .collect()
}

/// The ops that make a table out of nothing.
pub fn ops_for(table: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    for (key, server) in table {
        ops.push(Op::AddVirtualServer(*key, server.spec.clone()));
        ops.extend(server.real_servers.iter().map(|real| Op::AddRealServer(*key, *real)));
    }
    ops
}

/// Applies the same ops to two implementations and demands the same answers and the same table.
pub fn behave_alike<A: Ipvs, B: Ipvs>(a: &mut A, b: &mut B, ops: &[Op]) {
    let (a_results, b_results) = (a.apply(ops), b.apply(ops));
    assert_eq!((a_results.len(), b_results.len()), (ops.len(), ops.len()), "one answer per op");
    for (op, (a_result, b_result)) in ops.iter().zip(a_results.iter().zip(&b_results)) {
        let (a_error, b_error) = (a_result.as_ref().err(), b_result.as_ref().err());
        assert_eq!(
            a_error.map(|error| (error.kind, error.errno)),
            b_error.map(|error| (error.kind, error.errno)),
            "answers to {op}"
        );
    }
    assert_eq!(a.dump().expect("dump of the first"), b.dump().expect("dump of the second"), "tables");
}

/// Connections count as inactive for UDP, and a real server that is deleted and added again finds them in the kernel's
/// trash. `connect` opens one connection to the virtual server it is given, which has one real server on this host.
pub fn finds_old_connections_in_the_trash<I: Ipvs>(
    ipvs: &mut I,
    connect: impl FnOnce(&mut I, &VirtualServerKey, &RealServerKey),
) {
    let key = address("127.0.0.1", Protocol::Udp, 5300);
    let server = real("127.0.0.1", 5301, Forwarding::Masquerade, 1);
    succeed(ipvs, &[Op::AddVirtualServer(key, spec("rr")), Op::AddRealServer(key, server)]);
    connect(ipvs, &key, &server.key);
    let one = [(server.key, Connections { inactive: 1, ..Connections::default() })];
    assert_eq!(ipvs.connections(&key).unwrap(), one, "after one datagram");
    succeed(ipvs, &[Op::SetRealServer(key, RealServer { weight: 0, ..server })]);
    assert_eq!(ipvs.connections(&key).unwrap(), one, "weight 0 ends nothing");
    succeed(ipvs, &[Op::DeleteRealServer(key, server.key)]);
    assert_eq!(ipvs.connections(&key).unwrap(), []);
    succeed(ipvs, &[Op::AddRealServer(key, server)]);
    assert_eq!(ipvs.connections(&key).unwrap(), one, "out of the trash");
}

fn starts_empty<I: Ipvs>(ipvs: &mut I) {
    assert_eq!(ipvs.dump().unwrap(), Table::new());
    assert_eq!(ipvs.stats().unwrap(), []);
    let key = address("10.96.0.1", Protocol::Tcp, 80);
    assert_eq!(ipvs.read(&key).unwrap(), None);
    assert_eq!(ipvs.connections(&key).unwrap(), []);
    assert!(ipvs.apply(&[]).is_empty());
}

fn holds_what_was_written<I: Ipvs>(ipvs: &mut I) {
    let table = showcase();
    succeed(ipvs, &ops_for(&table));
    let dumped = ipvs.dump().unwrap();
    for (key, server) in &table {
        assert_eq!(dumped.get(key), Some(server), "{key:?}");
        assert_eq!(ipvs.read(key).unwrap().as_ref(), Some(server), "read {key:?}");
    }
    assert_eq!(dumped.len(), table.len());
    let deletes: Vec<Op> = table.keys().map(|key| Op::DeleteVirtualServer(*key)).collect();
    succeed(ipvs, &deletes);
    assert_eq!(ipvs.dump().unwrap(), Table::new());
}

fn says_what_was_so_already<I: Ipvs>(ipvs: &mut I) {
    let key = address("10.96.0.1", Protocol::Tcp, 80);
    let other = address("10.96.0.2", Protocol::Tcp, 80);
    let server = real("10.0.0.1", 80, Forwarding::Masquerade, 1);
    succeed(ipvs, &[Op::AddVirtualServer(key, spec("rr")), Op::AddRealServer(key, server)]);
    let before = ipvs.dump().unwrap();
    let missing = RealServerKey { port: 81, ..server.key };
    let repeated = [
        Op::AddVirtualServer(key, spec("wlc")),
        Op::AddRealServer(key, RealServer { weight: 9, ..server }),
        Op::DeleteRealServer(key, missing),
        Op::DeleteRealServer(other, server.key),
        Op::DeleteVirtualServer(other),
    ];
    assert_kinds(ipvs, &repeated, &[Some(Disposition::AlreadySo); 5]);
    assert_eq!(ipvs.dump().unwrap(), before, "nothing was changed");
}

fn says_what_is_stale<I: Ipvs>(ipvs: &mut I) {
    let key = address("fd00::a", Protocol::Udp, 53);
    let spec = VirtualServerSpec { persistence_prefix: 128, ..spec("rr") };
    let server = real("fd00::1", 53, Forwarding::Masquerade, 1);
    let stale = [
        Op::SetVirtualServer(key, spec.clone()),
        Op::AddRealServer(key, server),
        Op::SetRealServer(key, server),
        Op::AddVirtualServer(key, spec),
        Op::SetRealServer(key, server),
    ];
    let kind = Some(Disposition::Stale);
    assert_kinds(ipvs, &stale, &[kind, kind, kind, None, kind]);
}

fn changes_in_place<I: Ipvs>(ipvs: &mut I) {
    let key = address("10.96.0.1", Protocol::Tcp, 80);
    let server = real("10.0.0.1", 80, Forwarding::Masquerade, 1);
    succeed(ipvs, &[Op::AddVirtualServer(key, persistent("rr", 60, 24)), Op::AddRealServer(key, server)]);
    let changed = RealServer {
        forwarding: Forwarding::Tunnel(TunnelType::Gue { port: 6080 }),
        weight: 0,
        upper_threshold: 100,
        lower_threshold: 50,
        ..server
    };
    let plain = VirtualServerSpec { scheduler_flags: 0b11, ..spec("mh") };
    succeed(ipvs, &[Op::SetVirtualServer(key, plain.clone()), Op::SetRealServer(key, changed)]);
    let want = VirtualServer { spec: plain, real_servers: Box::new([changed]) };
    assert_eq!(ipvs.read(&key).unwrap(), Some(want));
    succeed(ipvs, &[Op::SetRealServer(key, server), Op::SetVirtualServer(key, persistent("wrr", 7, 32))]);
    let want = VirtualServer { spec: persistent("wrr", 7, 32), real_servers: Box::new([server]) };
    assert_eq!(ipvs.read(&key).unwrap(), Some(want));
}

fn deletes_a_virtual_server_with_its_real_servers<I: Ipvs>(ipvs: &mut I) {
    let key = address("10.96.0.1", Protocol::Tcp, 80);
    let server = real("10.0.0.1", 80, Forwarding::Masquerade, 1);
    succeed(ipvs, &[Op::AddVirtualServer(key, spec("rr")), Op::AddRealServer(key, server)]);
    succeed(ipvs, &[Op::DeleteVirtualServer(key), Op::AddVirtualServer(key, spec("rr"))]);
    assert_eq!(ipvs.read(&key).unwrap().map(|server| server.real_servers.len()), Some(0));
}

fn keeps_order_and_goes_on_after_a_failure<I: Ipvs>(ipvs: &mut I) {
    let key = address("10.96.0.1", Protocol::Tcp, 80);
    let server = real("10.0.0.1", 80, Forwarding::Masquerade, 1);
    let ops = [
        Op::AddRealServer(key, server),
        Op::AddVirtualServer(key, spec("rr")),
        Op::AddRealServer(key, server),
        Op::DeleteRealServer(key, server.key),
        Op::SetRealServer(key, server),
        Op::AddRealServer(key, RealServer { weight: 3, ..server }),
    ];
    let stale = Some(Disposition::Stale);
    assert_kinds(ipvs, &ops, &[stale, None, None, None, stale, None]);
    let weights: Vec<u32> = ipvs.read(&key).unwrap().unwrap().real_servers.iter().map(|real| real.weight).collect();
    assert_eq!(weights, [3]);
}

fn names_the_missing_scheduler<I: Ipvs>(ipvs: &mut I) {
    let key = address("10.96.0.1", Protocol::Tcp, 80);
    let add = Op::AddVirtualServer(key, spec("nosuch"));
    let error = ipvs.apply(std::slice::from_ref(&add)).remove(0).expect_err("an unknown scheduler");
    assert_eq!(error.kind, Disposition::Fatal, "{error}");
    // The scheduler, and the module to load; how depends on what the node has.
    assert!(error.message.starts_with("scheduler nosuch is not available: "), "{error}");
    assert!(error.message.contains("ip_vs_nosuch"), "{error}");
    assert_eq!(error.op, format!("ipvsadm {add}"));
    succeed(ipvs, &[Op::AddVirtualServer(key, spec("rr"))]);
    assert_kinds(ipvs, &[Op::SetVirtualServer(key, spec("nosuch"))], &[Some(Disposition::Fatal)]);
    assert_eq!(ipvs.read(&key).unwrap().map(|server| server.spec), Some(spec("rr")));
}

fn refuses_what_the_kernel_cannot_hold<I: Ipvs>(ipvs: &mut I) {
    let v4 = address("10.96.0.1", Protocol::Tcp, 80);
    let v6 = address("fd00::a", Protocol::Tcp, 80);
    let v6_spec = VirtualServerSpec { persistence_prefix: 128, ..spec("rr") };
    succeed(ipvs, &[Op::AddVirtualServer(v4, spec("rr")), Op::AddVirtualServer(v6, v6_spec.clone())]);
    let good = real("10.0.0.1", 80, Forwarding::Masquerade, 1);
    let refused = [
        Op::AddRealServer(v4, RealServer { weight: u32::MAX, ..good }),
        Op::AddRealServer(v4, RealServer { upper_threshold: 1, lower_threshold: 2, ..good }),
        Op::AddRealServer(v4, RealServer { forwarding: Forwarding::Tunnel(TunnelType::Gue { port: 0 }), ..good }),
        Op::AddRealServer(v4, real("fd00::1", 80, Forwarding::Masquerade, 1)),
        Op::AddRealServer(v6, real("10.0.0.1", 80, Forwarding::Route, 1)),
        Op::AddRealServer(v4, real("0.0.0.0", 80, Forwarding::Masquerade, 1)),
        Op::AddRealServer(v4, real("224.0.0.1", 80, Forwarding::Masquerade, 1)),
        Op::AddRealServer(v6, real("ff02::1", 80, Forwarding::Masquerade, 1)),
        Op::AddRealServer(v6, real("fe80::1", 80, Forwarding::Masquerade, 1)),
        Op::AddVirtualServer(
            address("fd00::b", Protocol::Tcp, 80),
            VirtualServerSpec { persistence_prefix: 0, ..v6_spec },
        ),
    ];
    assert_kinds(ipvs, &refused, &vec![Some(Disposition::Fatal); refused.len()]);
    assert!(ipvs.dump().unwrap().values().all(|server| server.real_servers.is_empty()));
    succeed(ipvs, &[Op::AddRealServer(v4, real("fd00::1", 80, Forwarding::Tunnel(TunnelType::Ipip), 1))]);
}

/// More than one `send`, with failures at the edges of sends.
fn answers_each_of_many<I: Ipvs>(ipvs: &mut I) {
    let bad = [0_u16, 199, 200, 201, 399, 449];
    let ops: Vec<Op> = (0..450_u16)
        .map(|index| {
            let scheduler = if bad.contains(&index) { "nosuch" } else { "rr" };
            Op::AddVirtualServer(address("10.96.0.1", Protocol::Tcp, 1 + index), spec(scheduler))
        })
        .collect();
    let results = ipvs.apply(&ops);
    assert_eq!(results.len(), ops.len());
    for (index, result) in (0..).zip(&results) {
        let want = bad.contains(&index).then_some(Disposition::Fatal);
        assert_eq!(result.as_ref().err().map(|error| error.kind), want, "op {index}");
    }
    let table = ipvs.dump().unwrap();
    assert_eq!(table.len(), ops.len() - bad.len());
    assert!(
        !table.keys().any(|key| matches!(key, VirtualServerKey::Address { port, .. } if bad.contains(&(port - 1))))
    );
}

fn tells_connections_and_stats<I: Ipvs>(ipvs: &mut I) {
    let table = showcase();
    succeed(ipvs, &ops_for(&table));
    let mut stats = ipvs.stats().unwrap();
    stats.sort_unstable_by_key(|(key, _)| *key);
    let want: Vec<_> = table.keys().map(|key| (*key, Stats::default())).collect();
    assert_eq!(stats, want);
    for (key, server) in &table {
        let mut connections = ipvs.connections(key).unwrap();
        connections.sort_unstable_by_key(|(key, _)| *key);
        let want: Vec<_> = server.real_servers.iter().map(|real| (real.key, Connections::default())).collect();
        assert_eq!(connections, want, "{key:?}");
    }
}

fn sets_timeouts<I: Ipvs>(ipvs: &mut I) {
    ipvs.set_timeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }).unwrap();
    ipvs.set_timeouts(Timeouts::default()).unwrap();
    let error = ipvs.set_timeouts(Timeouts { tcp: u32::MAX, tcp_fin: 0, udp: 0 }).expect_err("out of range");
    assert_eq!(error.kind, Disposition::Fatal, "{error}");
}

fn succeed<I: Ipvs>(ipvs: &mut I, ops: &[Op]) {
    let results = ipvs.apply(ops);
    assert_eq!(results.len(), ops.len(), "one answer per op");
    for result in results {
        if let Err(error) = result {
            panic!("{error}");
        }
    }
}

fn assert_kinds<I: Ipvs>(ipvs: &mut I, ops: &[Op], want: &[Option<Disposition>]) {
    let results = ipvs.apply(ops);
    assert_eq!(results.len(), want.len(), "one answer per op");
    for ((op, result), want) in ops.iter().zip(&results).zip(want) {
        assert_eq!(result.as_ref().err().map(|error| error.kind), *want, "{op}: {result:?}");
    }
}

fn address(address: &str, protocol: Protocol, port: u16) -> VirtualServerKey {
    VirtualServerKey::Address { address: address.parse().expect("an address"), protocol, port }
}

fn spec(scheduler: &str) -> VirtualServerSpec {
    VirtualServerSpec {
        scheduler: Scheduler::new(scheduler),
        scheduler_flags: 0,
        persistence: None,
        persistence_prefix: 32,
        one_packet: false,
    }
}

fn persistent(scheduler: &str, timeout: u32, prefix: u8) -> VirtualServerSpec {
    VirtualServerSpec { persistence: Some(timeout), persistence_prefix: prefix, ..spec(scheduler) }
}

fn real(address: &str, port: u16, forwarding: Forwarding, weight: u32) -> RealServer {
    let key = RealServerKey { address: address.parse().expect("an address"), port };
    RealServer { key, forwarding, weight, upper_threshold: 0, lower_threshold: 0 }
}

/// Generators of values and of ops.
pub mod arbitrary {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    /// Any key.
    pub fn key() -> impl Strategy<Value = VirtualServerKey> {
        let protocol = proptest::sample::select(Protocol::ALL.to_vec());
        let family = proptest::sample::select(Family::ALL.to_vec());
        prop_oneof![
            (any::<IpAddr>(), protocol, any::<u16>()).prop_map(|(address, protocol, port)| VirtualServerKey::Address {
                address,
                protocol,
                port
            }),
            (1..=u32::MAX, family).prop_map(|(mark, family)| VirtualServerKey::Mark { mark, family }),
        ]
    }

    /// Any spec; the persistence prefix may be above 32.
    pub fn spec() -> impl Strategy<Value = VirtualServerSpec> {
        ("[a-z]{1,15}", 0_u8..8, proptest::option::of(any::<u32>()), 0_u8..=128, any::<bool>()).prop_map(
            |(scheduler, scheduler_flags, persistence, persistence_prefix, one_packet)| VirtualServerSpec {
                scheduler: Scheduler::new(&scheduler),
                scheduler_flags,
                persistence,
                persistence_prefix,
                one_packet,
            },
        )
    }

    /// Any real server.
    pub fn real_server() -> impl Strategy<Value = RealServer> {
        (any::<IpAddr>(), any::<u16>(), forwarding(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
            |(address, port, forwarding, weight, upper_threshold, lower_threshold)| RealServer {
                key: RealServerKey { address, port },
                forwarding,
                weight,
                upper_threshold,
                lower_threshold,
            },
        )
    }

    fn forwarding() -> impl Strategy<Value = Forwarding> {
        prop_oneof![
            Just(Forwarding::Masquerade),
            Just(Forwarding::Route),
            Just(Forwarding::Local),
            Just(Forwarding::Tunnel(TunnelType::Ipip)),
            Just(Forwarding::Tunnel(TunnelType::Gre)),
            any::<u16>().prop_map(|port| Forwarding::Tunnel(TunnelType::Gue { port })),
        ]
    }

    /// Ops over a handful of keys, so that they meet: mostly sensible, some that a kernel refuses.
    pub fn op() -> impl Strategy<Value = Op> {
        let keys = vec![
            super::address("10.96.0.1", Protocol::Tcp, 80),
            super::address("10.96.0.1", Protocol::Udp, 80),
            super::address("fd00::a", Protocol::Tcp, 80),
            VirtualServerKey::Mark { mark: 7, family: Family::V4 },
            VirtualServerKey::Mark { mark: 7, family: Family::V6 },
        ];
        let key = proptest::sample::select(keys);
        let scheduler = proptest::sample::select(vec!["rr", "wrr", "lc", "wlc", "sh", "mh", "sed", "nq", "nosuch"]);
        let spec = (scheduler, 0_u8..8, proptest::option::of(1_u32..100_000), 1_u8..=32, any::<bool>()).prop_map(
            |(scheduler, scheduler_flags, persistence, persistence_prefix, one_packet)| VirtualServerSpec {
                scheduler: Scheduler::new(scheduler),
                scheduler_flags,
                persistence,
                persistence_prefix,
                one_packet,
            },
        );
        let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "224.0.0.1", "fe80::1"];
        let address = proptest::sample::select(addresses.map(|text| text.parse::<IpAddr>().expect("address")).to_vec());
        let port = proptest::sample::select(vec![80_u16, 8080]);
        let weight = prop_oneof![9 => 0_u32..100, 1 => Just(u32::MAX)];
        let real = (address, port, forwarding(), weight, 0_u32..4, 0_u32..3).prop_map(
            |(address, port, forwarding, weight, upper_threshold, lower_threshold)| RealServer {
                key: RealServerKey { address, port },
                forwarding,
                weight,
                upper_threshold,
                lower_threshold,
            },
        );
        (0_u8..12, key, spec, real).prop_map(|(kind, key, spec, real)| match kind {
            0 | 1 => Op::AddVirtualServer(key, spec),
            2 => Op::SetVirtualServer(key, spec),
            3 => Op::DeleteVirtualServer(key),
            4..=7 => Op::AddRealServer(key, real),
            8 | 9 => Op::SetRealServer(key, real),
            _ => Op::DeleteRealServer(key, real.key),
        })
    }
}
