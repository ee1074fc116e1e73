//! Bytes of nfnetlink's conntrack subsystem (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use super::{Flow, Transport};
use crate::kernel::netlink::{Attribute, Attributes, Batch, Writer, flag};
use crate::net::{Family, Protocol};

use std::net::IpAddr;

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_NEW`: what a dump answers with, and what changes an entry that is there.
const NEW: u16 = SUBSYSTEM << 8;
/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = NEW | 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = NEW | 2;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;

/// `CTA_*`.
mod top {
    pub(super) const TUPLE_ORIGINAL: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const PROTOCOL: u16 = 4;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const MARK: u16 = 8;
    pub(super) const ZONE: u16 = 18;
    pub(super) const MARK_MASK: u16 = 21;
}

/// `CTA_TUPLE_*`.
mod tuple {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTO: u16 = 2;
    pub(super) const ZONE: u16 = 3;
}

/// `CTA_IP_*`.
mod ip {
    pub(super) const V4_SOURCE: u16 = 1;
    pub(super) const V4_DESTINATION: u16 = 2;
    pub(super) const V6_SOURCE: u16 = 3;
    pub(super) const V6_DESTINATION: u16 = 4;
}

/// `CTA_PROTO_*`.
mod proto {
    pub(super) const NUMBER: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
    /// Identifier, type and code of ICMP, and of ICMPv6.
    pub(super) const ICMP: [u16; 3] = [4, 5, 6];
    pub(super) const ICMPV6: [u16; 3] = [7, 8, 9];
    pub(super) const NUMBER_OF_ICMP: u8 = 1;
    pub(super) const NUMBER_OF_ICMPV6: u8 = 58;
}

/// `CTA_PROTOINFO_*` of TCP, and states (`nf_conntrack_tcp.h`).
mod tcp {
    pub(super) const TCP: u16 = 1;
    pub(super) const STATE: u16 = 1;
    pub(super) const ESTABLISHED: u8 = 3;
    pub(super) const FIN_WAIT: u8 = 4;
    pub(super) const CLOSE_WAIT: u8 = 5;
}

/// How long an open TCP connection is remembered, seconds: the kernel's default (`nf_conntrack_tcp_timeout_established`). The
/// next packet sets what the node has instead.
const OPEN: u32 = 432_000;
/// `AF_UNSPEC`: entries of both families (`ctnetlink_filter_match` in `nf_conntrack_netlink.c`).
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Appends the request for all entries of a family, or of both.
pub fn encode_dump(batch: &mut Batch, family: Option<Family>) {
    batch.message(GET, flag::DUMP).netfilter(family.map_or(AF_UNSPEC, family_number), 0);
}

/// Appends the deletion of one flow, found by its original tuple. There is always a tuple: without one the message
/// would flush the table.
pub fn encode_delete(batch: &mut Batch, flow: &Flow) {
    let mut message = batch.message(DELETE, 0);
    message.netfilter(family_number(Family::of(flow.source)), 0);
    write_identity(&mut message.attributes(), flow);
}

/// Appends a change of some bits of one flow's mark. Without `NLM_F_CREATE` no flow is made.
pub fn encode_mark(batch: &mut Batch, flow: &Flow, mask: u32, value: u32) {
    let mut message = batch.message(NEW, 0);
    message.netfilter(family_number(Family::of(flow.source)), 0);
    let mut attributes = message.attributes();
    write_identity(&mut attributes, flow);
    attributes.be32(top::MARK, value & mask);
    attributes.be32(top::MARK_MASK, mask);
}

/// Appends that one TCP flow counts as open from now on. Likewise no flow is made.
pub fn encode_hold(batch: &mut Batch, flow: &Flow) {
    let mut message = batch.message(NEW, 0);
    message.netfilter(family_number(Family::of(flow.source)), 0);
    let mut attributes = message.attributes();
    write_identity(&mut attributes, flow);
    attributes.be32(top::TIMEOUT, OPEN);
    attributes.nest(top::PROTOCOL, |of| of.nest(tcp::TCP, |it| it.u8(tcp::STATE, tcp::ESTABLISHED)));
}

/// What the kernel finds a flow by.
fn write_identity(attributes: &mut Writer<'_>, flow: &Flow) {
    attributes.nest(top::TUPLE_ORIGINAL, |tuple| write_original(tuple, flow));
    if flow.zone != 0 {
        attributes.be16(top::ZONE, flow.zone);
    }
}

fn write_original(tuple: &mut Writer<'_>, flow: &Flow) {
    let (source, destination) = match flow.source {
        IpAddr::V4(_) => (ip::V4_SOURCE, ip::V4_DESTINATION),
        IpAddr::V6(_) => (ip::V6_SOURCE, ip::V6_DESTINATION),
    };
    tuple.nest(tuple::IP, |addresses| {
        addresses.ip(source, flow.source);
        addresses.ip(destination, flow.destination);
    });
    tuple.nest(tuple::PROTO, |part| match flow.transport {
        Transport::Ports(protocol) => {
            part.u8(proto::NUMBER, protocol.number());
            part.be16(proto::SOURCE_PORT, flow.source_port);
            part.be16(proto::DESTINATION_PORT, flow.destination_port);
        }
        Transport::Icmp { kind, code } => {
            let (number, [id_at, kind_at, code_at]) = match flow.source {
                IpAddr::V4(_) => (proto::NUMBER_OF_ICMP, proto::ICMP),
                IpAddr::V6(_) => (proto::NUMBER_OF_ICMPV6, proto::ICMPV6),
            };
            part.u8(proto::NUMBER, number);
            part.be16(id_at, flow.source_port);
            part.u8(kind_at, kind);
            part.u8(code_at, code);
        }
    });
}

/// Reads an entry of a dump (`kind` is the message type). `None` where it is of a protocol that is not ours, or makes
/// no sense.
pub fn decode_flow(kind: u16, payload: &[u8]) -> Option<Flow> {
    if kind != NEW {
        return None;
    }
    let (mut original, mut reply, mut zone, mut mark, mut half_closed) = (None, None, 0, 0, false);
    for attribute in Attributes::after(payload, HEADER) {
        match attribute.kind {
            top::TUPLE_ORIGINAL => original = Some(decode_tuple(attribute)?),
            top::TUPLE_REPLY => reply = Some(decode_tuple(attribute)?),
            top::ZONE => zone = attribute.be16()?,
            top::MARK => mark = attribute.be32()?,
            top::PROTOCOL => half_closed = is_half_closed(attribute),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    Some(Flow {
        transport: original.transport,
        source: original.source,
        source_port: original.source_port,
        destination: original.destination,
        destination_port: original.destination_port,
        reply_source: reply.source,
        reply_source_port: reply.source_port,
        // A zone of one direction only stands in that tuple.
        zone: original.zone.unwrap_or(zone),
        mark,
        half_closed,
    })
}

/// Whether the state of a connection says that one side has closed; no protocol but TCP has such a one.
fn is_half_closed(protocol: Attribute<'_>) -> bool {
    let tcp = protocol.nested().find(tcp::TCP);
    let state = tcp.and_then(|tcp| tcp.nested().find(tcp::STATE)?.u8());
    matches!(state, Some(tcp::FIN_WAIT | tcp::CLOSE_WAIT))
}

struct Tuple {
    transport: Transport,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    zone: Option<u16>,
}

fn decode_tuple(tuple: Attribute<'_>) -> Option<Tuple> {
    let (mut source, mut destination, mut transport, mut zone) = (None, None, None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for attribute in tuple.nested() {
        match attribute.kind {
            tuple::IP => {
                for address in attribute.nested() {
                    match address.kind {
                        ip::V4_SOURCE | ip::V6_SOURCE => source = address.ip(),
                        ip::V4_DESTINATION | ip::V6_DESTINATION => destination = address.ip(),
                        _ => {}
                    }
                }
            }
            tuple::PROTO => {
                let number = attribute.nested().find(proto::NUMBER)?.u8()?;
                transport = match number {
                    proto::NUMBER_OF_ICMP => icmp(attribute, proto::ICMP, &mut source_port),
                    proto::NUMBER_OF_ICMPV6 => icmp(attribute, proto::ICMPV6, &mut source_port),
                    number => Protocol::from_number(number).map(Transport::Ports),
                };
                for part in attribute.nested() {
                    match part.kind {
                        proto::SOURCE_PORT => source_port = part.be16()?,
                        proto::DESTINATION_PORT => destination_port = part.be16()?,
                        _ => {}
                    }
                }
            }
            tuple::ZONE => zone = attribute.be16(),
            _ => {}
        }
    }
    let (transport, source, destination) = (transport?, source?, destination?);
    Some(Tuple { transport, source, source_port, destination, destination_port, zone })
}

/// What an echo is known by goes to `id`.
fn icmp(part: Attribute<'_>, [id_at, kind_at, code_at]: [u16; 3], id: &mut u16) -> Option<Transport> {
    let of = |attribute: u16| part.nested().find(attribute);
    *id = of(id_at)?.be16()?;
    Some(Transport::Icmp { kind: of(kind_at)?.u8()?, code: of(code_at)?.u8()? })
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::netlink::Messages;

    fn flow(v6: bool) -> Flow {
        let [client, vip, endpoint]: [IpAddr; 3] = if v6 {
            ["fd00::9", "fd00::a", "fd00:1::1"].map(|text| text.parse().unwrap())
        } else {
            ["192.0.2.9", "10.96.0.10", "10.1.0.1"].map(|text| text.parse().unwrap())
        };
        Flow {
            transport: Protocol::Udp.into(),
            source: client,
            source_port: 40_000,
            destination: vip,
            destination_port: 53,
            reply_source: endpoint,
            reply_source_port: 5353,
            zone: 7,
            mark: 0x8000_0001,
            half_closed: false,
        }
    }

    /// An entry as the kernel dumps it.
    fn entry(flow: &Flow) -> Vec<u8> {
        let reply = Flow {
            source: flow.reply_source,
            source_port: flow.reply_source_port,
            destination: flow.source,
            destination_port: flow.source_port,
            ..*flow
        };
        let mut batch = Batch::new();
        let mut message = batch.message(NEW, 0);
        message.netfilter(family_number(Family::of(flow.source)), 0);
        let mut attributes = message.attributes();
        attributes.nest(top::TUPLE_ORIGINAL, |tuple| write_original(tuple, flow));
        attributes.nest(top::TUPLE_REPLY, |tuple| write_original(tuple, &reply));
        attributes.be32(3, 0x188);
        attributes.be32(top::MARK, flow.mark);
        attributes.be16(top::ZONE, flow.zone);
        drop(message);
        Messages::new(batch.bytes()).next().unwrap().payload.to_vec()
    }

    #[test]
    fn reads_entries_of_both_families_and_leaves_other_protocols_out() {
        for v6 in [false, true] {
            let flow = flow(v6);
            let bytes = entry(&flow);
            assert_eq!(decode_flow(NEW, &bytes), Some(flow));
            assert_eq!(decode_flow(GET, &bytes), None);
        }
        let mut icmp = entry(&flow(false));
        let at = icmp.windows(5).position(|window| window == [5, 0, 1, 0, 17]).unwrap();
        icmp[at + 4] = 1;
        assert_eq!(decode_flow(NEW, &icmp), None);
    }

    #[test]
    fn a_connection_that_one_side_has_closed_is_told_and_held() {
        let flow = Flow { transport: Protocol::Tcp.into(), ..flow(false) };
        for (state, half_closed) in [(3, false), (4, true), (5, true), (6, false), (7, false)] {
            let mut bytes = entry(&flow);
            let mut batch = Batch::new();
            let mut message = batch.message(NEW, 0);
            message.netfilter(AF_INET, 0);
            message.attributes().nest(top::PROTOCOL, |of| of.nest(tcp::TCP, |it| it.u8(tcp::STATE, state)));
            drop(message);
            let more = Messages::new(batch.bytes()).next().unwrap().payload.to_vec();
            bytes.extend(&more[HEADER..]);
            assert_eq!(decode_flow(NEW, &bytes), Some(Flow { half_closed, ..flow }), "{state}");
        }
        let mut batch = Batch::new();
        encode_hold(&mut batch, &flow);
        let message = Messages::new(batch.bytes()).next().unwrap();
        assert_eq!((message.kind, message.flags & 0x400), (NEW, 0), "not NLM_F_CREATE");
        let of = |kind| Attributes::after(message.payload, HEADER).find(kind).unwrap();
        assert_eq!(of(top::TIMEOUT).be32(), Some(432_000));
        let state = of(top::PROTOCOL).nested().find(tcp::TCP).unwrap().nested().find(tcp::STATE).unwrap();
        assert_eq!(state.u8(), Some(tcp::ESTABLISHED));
        assert_eq!(decode_tuple(of(top::TUPLE_ORIGINAL)).unwrap().source, flow.source);
    }

    #[test]
    fn an_echo_is_read_and_deleted_by_what_it_is_known_by() {
        for v6 in [false, true] {
            let kind = if v6 { 128 } else { 8 };
            let echo = Flow {
                transport: Transport::Icmp { kind, code: 0 },
                source_port: 4711,
                destination_port: 0,
                reply_source_port: 4711,
                ..flow(v6)
            };
            let read = decode_flow(NEW, &entry(&echo)).unwrap();
            assert_eq!((read.transport, read.source_port, read.destination_port), (echo.transport, 4711, 0));
            let mut batch = Batch::new();
            encode_delete(&mut batch, &read);
            let message = Messages::new(batch.bytes()).next().unwrap();
            let original = Attributes::after(message.payload, HEADER).find(top::TUPLE_ORIGINAL).unwrap();
            let tuple = decode_tuple(original).unwrap();
            assert_eq!(
                (tuple.transport, tuple.source_port, tuple.destination),
                (echo.transport, 4711, echo.destination)
            );
        }
    }

    #[test]
    fn every_delete_carries_a_whole_tuple() {
        for v6 in [false, true] {
            let mut batch = Batch::new();
            encode_delete(&mut batch, &flow(v6));
            let message = Messages::new(batch.bytes()).next().unwrap();
            assert_eq!(message.kind, DELETE);
            let original = Attributes::after(message.payload, HEADER).find(top::TUPLE_ORIGINAL).unwrap();
            let tuple = decode_tuple(original).unwrap();
            assert_eq!((tuple.source, tuple.source_port), (flow(v6).source, 40_000));
            assert_eq!((tuple.destination, tuple.destination_port), (flow(v6).destination, 53));
            let zone = Attributes::after(message.payload, HEADER).find(top::ZONE).unwrap();
            assert_eq!(zone.be16(), Some(7));
        }
    }

    #[test]
    fn a_mark_is_set_bit_by_bit_on_a_flow_that_is_there() {
        for v6 in [false, true] {
            let mut batch = Batch::new();
            encode_mark(&mut batch, &flow(v6), 0x8000_0000, u32::MAX);
            let message = Messages::new(batch.bytes()).next().unwrap();
            assert_eq!((message.kind, message.flags & 0x400), (NEW, 0), "not NLM_F_CREATE");
            let number = |kind| Attributes::after(message.payload, HEADER).find(kind).unwrap().be32();
            assert_eq!((number(top::MARK), number(top::MARK_MASK)), (Some(0x8000_0000), Some(0x8000_0000)));
            let original = Attributes::after(message.payload, HEADER).find(top::TUPLE_ORIGINAL).unwrap();
            assert_eq!(decode_tuple(original).unwrap().source, flow(v6).source);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_flow(NEW, &bytes);
        }

        #[test]
        fn damaged_entries_decode_without_panic(v6: bool, at in 0_usize..160, to: u8, cut in 0_usize..160) {
            let mut bytes = entry(&flow(v6));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(bytes.len() - cut.min(bytes.len()) / 2);
            let _ = decode_flow(NEW, &bytes);
        }
    }
}
