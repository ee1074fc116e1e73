//! What every [`Conntrack`] must do. The caller puts the flows in place: no trait can create them.

use std::net::IpAddr;

use crate::kernel::conntrack::{Conntrack, Flow, Transport};
use crate::net::{Family, Protocol};

/// Flows of both families and several protocols, some differing in one field only. For [`lists_and_deletes`].
pub fn showcase() -> Vec<Flow> {
    let base = Flow {
        transport: Protocol::Udp.into(),
        source: address("192.0.2.9"),
        source_port: 40_000,
        destination: address("10.96.0.10"),
        destination_port: 53,
        reply_source: address("10.1.0.1"),
        reply_source_port: 5353,
        zone: 0,
        mark: 0,
        half_closed: false,
    };
    vec![
        base,
        Flow { source_port: 40_001, reply_source: address("10.1.0.2"), ..base },
        Flow { transport: Protocol::Tcp.into(), ..base },
        Flow {
            source: address("fd00::9"),
            destination: address("fd00::a"),
            reply_source: address("fd00:1::1"),
            ..base
        },
        Flow { source_port: 40_002, zone: 7, ..base },
        Flow {
            transport: Transport::Icmp { kind: 8, code: 0 },
            source_port: 4711,
            destination: address("10.1.0.1"),
            destination_port: 0,
            reply_source_port: 4711,
            ..base
        },
    ]
}

/// Enough flows for more than one message to the kernel. For [`deletes_many`].
pub fn many() -> Vec<Flow> {
    let [base, ..] = &showcase()[..] else { unreachable!("the showcase is not empty") };
    (0..450).map(|index| Flow { source_port: 20_000 + index, ..*base }).collect()
}

/// With exactly [`showcase`] in the table: lists by family, both at once, and predicate; marks and deletes only what is
/// named; gone ones count as deleted.
pub fn lists_and_deletes<C: Conntrack>(conntrack: &mut C) {
    let flows = showcase();
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            let want: Vec<Flow> = flows
                .iter()
                .filter(|flow| flow.transport == protocol.into() && Family::of(flow.source) == family)
                .copied()
                .collect();
            assert_eq!(listed(conntrack, family, protocol, |_| true), want, "{family} {protocol}");
        }
    }
    let everything = |conntrack: &mut C| {
        let mut found = conntrack.list(None, &mut |_| true).expect("list");
        found.sort_unstable();
        found
    };
    let by_source = |flow: &Flow| (flow.transport, flow.source, flow.source_port, flow.destination, flow.zone);
    let mut want: Vec<_> = flows.iter().map(by_source).collect();
    want.sort_unstable();
    assert_eq!(everything(conntrack).iter().map(by_source).collect::<Vec<_>>(), want, "both families at once");
    marks_bits(conntrack, &flows);
    let echoes = |conntrack: &mut C| {
        let mut is_echo = |flow: &Flow| flow.transport.protocol().is_none();
        let found = conntrack.list(Some(Family::V4), &mut is_echo).expect("list");
        found.into_iter().map(|flow| (flow.transport, flow.source, flow.source_port)).collect::<Vec<_>>()
    };
    let echo = flows[5];
    assert_eq!(echoes(conntrack), [(echo.transport, echo.source, echo.source_port)]);
    conntrack.delete(&[echo]).unwrap();
    assert_eq!(echoes(conntrack), []);
    let to_endpoint = |flow: &Flow| flow.reply_source == address("10.1.0.2");
    let stale = listed(conntrack, Family::V4, Protocol::Udp, to_endpoint);
    assert_eq!(stale, [flows[1]]);
    conntrack.delete(&stale).unwrap();
    assert_eq!(listed(conntrack, Family::V4, Protocol::Udp, |_| true), [flows[0], flows[4]]);
    assert_eq!(listed(conntrack, Family::V4, Protocol::Tcp, |_| true), [flows[2]], "another protocol stays");
    conntrack.delete(&stale).expect("a flow that is gone already counts as deleted");
    conntrack.delete(&[]).unwrap();
    assert_eq!(listed(conntrack, Family::V6, Protocol::Udp, |_| true), [flows[3]], "no delete of nothing flushes");
    conntrack.delete(&[Flow { zone: 0, ..flows[4] }]).unwrap();
    assert_eq!(listed(conntrack, Family::V4, Protocol::Udp, |_| true), [flows[0], flows[4]], "another zone stays");
    conntrack.delete(&[stale[0], flows[4], flows[3]]).unwrap();
    assert_eq!(listed(conntrack, Family::V4, Protocol::Udp, |_| true), [flows[0]]);
    assert_eq!(listed(conntrack, Family::V6, Protocol::Udp, |_| true), []);
}

/// Marks some bits of some flows, and takes them off again.
fn marks_bits<C: Conntrack>(conntrack: &mut C, flows: &[Flow]) {
    let marked = |conntrack: &mut C| {
        let found = conntrack.list(None, &mut |flow| flow.mark != 0).expect("list");
        let mut found: Vec<_> =
            found.iter().map(|flow| (flow.source, flow.source_port, flow.zone, flow.mark)).collect();
        found.sort_unstable();
        found
    };
    let all = |mark: u32, flows: [&Flow; 3]| {
        let mut all = flows.map(|flow| (flow.source, flow.source_port, flow.zone, mark)).to_vec();
        all.sort_unstable();
        all
    };
    // Another family, another zone, an echo.
    let some = [flows[3], flows[4], flows[5]];
    let references = [&flows[3], &flows[4], &flows[5]];
    assert_eq!(marked(conntrack), []);
    conntrack.mark(&some, 0x8000_0000, u32::MAX).unwrap();
    assert_eq!(marked(conntrack), all(0x8000_0000, references));
    conntrack.mark(&some, 0x00ff_0000, 0x0005_0000).unwrap();
    assert_eq!(marked(conntrack), all(0x8005_0000, references), "other bits stay");
    conntrack.mark(&[Flow { source_port: 9, ..flows[0] }], u32::MAX, 1).expect("a flow that is gone counts as marked");
    conntrack.mark(&[], u32::MAX, 1).unwrap();
    assert_eq!(marked(conntrack), all(0x8005_0000, references), "none is made");
    conntrack.mark(&some, u32::MAX, 0).unwrap();
    assert_eq!(marked(conntrack), []);
}

/// With exactly [`many`] in the table: all of them go in one call.
pub fn deletes_many<C: Conntrack>(conntrack: &mut C) {
    let flows = listed(conntrack, Family::V4, Protocol::Udp, |_| true);
    assert_eq!(flows, many());
    conntrack.delete(&flows[1..]).unwrap();
    assert_eq!(listed(conntrack, Family::V4, Protocol::Udp, |_| true), flows[..1]);
}

/// Sorted, as the kernel tells them in the order of a hash.
fn listed<C: Conntrack>(
    conntrack: &mut C,
    family: Family,
    protocol: Protocol,
    mut keep: impl FnMut(&Flow) -> bool,
) -> Vec<Flow> {
    let mut of_kind = |flow: &Flow| flow.transport == protocol.into() && keep(flow);
    let mut flows = conntrack.list(Some(family), &mut of_kind).expect("list");
    flows.sort_unstable();
    flows
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
