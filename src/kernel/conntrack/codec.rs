//! Bytes of nfnetlink's conntrack subsystem (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use super::Flow;
use crate::kernel::netlink::{Attribute, Attributes, Batch, Writer, flag};
use crate::net::{Family, Protocol};

use std::net::IpAddr;

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_NEW`: what a dump answers with.
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
    pub(super) const ZONE: u16 = 18;
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
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Appends the request for all entries of a family.
pub fn encode_dump(batch: &mut Batch, family: Family) {
    batch.message(GET, flag::DUMP).netfilter(family_number(family), 0);
}

/// Appends the deletion of one flow, found by its original tuple. There is always a tuple: without one the message
/// would flush the table.
pub fn encode_delete(batch: &mut Batch, flow: &Flow) {
    let mut message = batch.message(DELETE, 0);
    message.netfilter(family_number(Family::of(flow.source)), 0);
    let mut attributes = message.attributes();
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
    tuple.nest(tuple::PROTO, |protocol| {
        protocol.u8(proto::NUMBER, flow.protocol.number());
        protocol.be16(proto::SOURCE_PORT, flow.source_port);
        protocol.be16(proto::DESTINATION_PORT, flow.destination_port);
    });
}

/// Reads an entry of a dump (`kind` is the message type). `None` where it is of a protocol that is not ours, or makes
/// no sense.
pub fn decode_flow(kind: u16, payload: &[u8]) -> Option<Flow> {
    if kind != NEW {
        return None;
    }
    let (mut original, mut reply, mut zone) = (None, None, 0);
    for attribute in Attributes::after(payload, HEADER) {
        match attribute.kind {
            top::TUPLE_ORIGINAL => original = Some(decode_tuple(attribute)?),
            top::TUPLE_REPLY => reply = Some(decode_tuple(attribute)?),
            top::ZONE => zone = attribute.be16()?,
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    Some(Flow {
        protocol: original.protocol,
        source: original.source,
        source_port: original.source_port,
        destination: original.destination,
        destination_port: original.destination_port,
        reply_source: reply.source,
        reply_source_port: reply.source_port,
        // A zone of one direction only stands in that tuple.
        zone: original.zone.unwrap_or(zone),
    })
}

struct Tuple {
    protocol: Protocol,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    zone: Option<u16>,
}

fn decode_tuple(tuple: Attribute<'_>) -> Option<Tuple> {
    let (mut source, mut destination, mut protocol, mut zone) = (None, None, None, None);
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
                for part in attribute.nested() {
                    match part.kind {
                        proto::NUMBER => protocol = part.u8().and_then(Protocol::from_number),
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
    Some(Tuple { protocol: protocol?, source: source?, source_port, destination: destination?, destination_port, zone })
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
            protocol: Protocol::Udp,
            source: client,
            source_port: 40_000,
            destination: vip,
            destination_port: 53,
            reply_source: endpoint,
            reply_source_port: 5353,
            zone: 7,
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
