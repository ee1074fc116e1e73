//! Bytes of nfnetlink's log subsystem (`include/uapi/linux/netfilter/nfnetlink_log.h`) and of the packets in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Packet;
use crate::kernel::netlink::{Attributes, Batch};

/// `NFNL_SUBSYS_ULOG`, and `NFULNL_MSG_PACKET` in it: a logged packet.
pub const PACKET: u16 = 4 << 8;
/// `NFULNL_MSG_CONFIG`.
const CONFIG: u16 = PACKET | 1;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;

/// `NFULA_CFG_*`.
mod config {
    pub(super) const COMMAND: u16 = 1;
    pub(super) const MODE: u16 = 2;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const THRESHOLD: u16 = 5;
}

/// `NFULA_*`.
mod packet {
    pub(super) const HEADER: u16 = 1;
    pub(super) const PAYLOAD: u16 = 9;
}

/// Protocol numbers of a packet in a packet (IANA).
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
/// `NFULNL_CFG_CMD_BIND`.
const BIND: u8 = 1;
/// `NFULNL_COPY_PACKET`.
const COPY_PACKET: u8 = 2;
/// Bytes of each packet that are wanted: an IPv6 header, some extension headers, and ports.
const COPY_RANGE: u32 = 128;
/// How long the kernel may collect packets before it sends them, hundredths of a second.
const COLLECT: u32 = 20;
/// How many it may collect.
const COLLECT_MOST: u32 = 16;
/// Extension headers looked past at most: a bound, no rule of IPv6.
const MOST_EXTENSIONS: usize = 8;

/// Appends the request for the packets of a group.
pub fn encode_bind(batch: &mut Batch, group: u16) {
    let mut message = batch.message(CONFIG, 0);
    message.netfilter(0, group);
    let mut attributes = message.attributes();
    attributes.bytes(config::COMMAND, &[BIND]);
    // struct nfulnl_msg_config_mode: the range in network order, the mode, one byte of padding.
    let [a, b, c, d] = COPY_RANGE.to_be_bytes();
    attributes.bytes(config::MODE, &[a, b, c, d, COPY_PACKET, 0]);
    attributes.be32(config::TIMEOUT, COLLECT);
    attributes.be32(config::THRESHOLD, COLLECT_MOST);
}

/// Reads one message. `None` for anything but a logged IP packet whose header is whole.
pub fn decode_packet(kind: u16, payload: &[u8]) -> Option<Packet> {
    if kind != PACKET {
        return None;
    }
    let (mut hook, mut bytes) = (None, None);
    for attribute in Attributes::after(payload, HEADER) {
        match attribute.kind {
            // struct nfulnl_msg_packet_hdr: EtherType, hook, one byte of padding.
            packet::HEADER => hook = attribute.value.get(2).copied(),
            packet::PAYLOAD => bytes = Some(attribute.value),
            _ => {}
        }
    }
    let (hook, bytes) = (hook?, bytes?);
    let (outer, rest) = decode_ip(hook, bytes)?;
    if ![IPV4_IN_IP, IPV6_IN_IP].contains(&outer.protocol) {
        return Some(outer);
    }
    // Whom it is for tells the outer one: the address inside is that of the Service.
    let inner = decode_ip(hook, rest).map(|(inner, _)| Packet { destination: outer.destination, ..inner });
    Some(inner.filter(|inner| inner.source.is_ipv4() == outer.source.is_ipv4()).unwrap_or(outer))
}

/// The packet, and what follows its header.
fn decode_ip(hook: u8, bytes: &[u8]) -> Option<(Packet, &[u8])> {
    match bytes.first()? >> 4 {
        4 => decode_v4(hook, bytes),
        6 => decode_v6(hook, bytes),
        _ => None,
    }
}

/// RFC 791, section 3.1.
fn decode_v4(hook: u8, bytes: &[u8]) -> Option<(Packet, &[u8])> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let address = |at: usize| bytes.get(at..)?.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets));
    let protocol = header[9];
    let rest = if fragment_offset == 0 && length >= 20 { bytes.get(length..).unwrap_or_default() } else { &[] };
    let (source, destination) = (IpAddr::V4(address(12)?), IpAddr::V4(address(16)?));
    Some((Packet { hook, source, destination, protocol, ports: ports(protocol, rest) }, rest))
}

/// RFC 8200, sections 3 and 4.
fn decode_v6(hook: u8, bytes: &[u8]) -> Option<(Packet, &[u8])> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let header: &[u8; 40] = bytes.first_chunk()?;
    let address = |at: usize| bytes.get(at..)?.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets));
    let (mut protocol, mut rest, mut is_first) = (header[6], bytes.get(40..)?, true);
    for _ in 0..MOST_EXTENSIONS {
        let [next, length, offset_high, offset_low, ..] = *rest else { break };
        let skipped = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(length) + 1) * 8,
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            FRAGMENT => {
                is_first &= u16::from_be_bytes([offset_high, offset_low]) & 0xfff8 == 0;
                8
            }
            _ => break,
        };
        protocol = next;
        rest = rest.get(skipped..).unwrap_or_default();
        if !is_first {
            break;
        }
    }
    let rest = if is_first { rest } else { &[] };
    let (source, destination) = (IpAddr::V6(address(8)?), IpAddr::V6(address(24)?));
    Some((Packet { hook, source, destination, protocol, ports: ports(protocol, rest) }, rest))
}

/// TCP, UDP and SCTP begin with both ports.
fn ports(protocol: u8, bytes: &[u8]) -> Option<(u16, u16)> {
    crate::net::Protocol::from_number(protocol)?;
    let [a, b, c, d, ..] = *bytes else { return None };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::netlink::Messages;

    /// A message as the kernel sends it, with this packet inside.
    fn message(hook: u8, bytes: &[u8]) -> Vec<u8> {
        let mut batch = Batch::new();
        {
            let mut message = batch.message(PACKET, 0);
            message.netfilter(2, 100);
            let mut attributes = message.attributes();
            attributes.bytes(packet::HEADER, &[8, 0, hook, 0]);
            attributes.u32(4, 3);
            attributes.text(10, "");
            attributes.bytes(packet::PAYLOAD, bytes);
        }
        Messages::new(batch.bytes()).next().unwrap().payload.to_vec()
    }

    fn v4(fragment: [u8; 2], protocol: u8, options: usize) -> Vec<u8> {
        let mut bytes =
            vec![0x45 + u8::try_from(options).unwrap(), 0, 0, 60, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0];
        bytes.extend([10, 244, 1, 5, 10, 244, 2, 9]);
        bytes.extend(vec![1; options * 4]);
        bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0]);
        bytes
    }

    fn v6(extensions: &[(u8, &[u8])], protocol: u8) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 20, extensions.first().map_or(protocol, |(kind, _)| *kind), 64];
        bytes.extend("fd00:244:1::5".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("fd00:244:2::9".parse::<Ipv6Addr>().unwrap().octets());
        for (index, (_, content)) in extensions.iter().enumerate() {
            bytes.push(extensions.get(index + 1).map_or(protocol, |(kind, _)| *kind));
            bytes.extend(*content);
        }
        bytes.extend([0x9c, 0x40, 0, 53, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn packets_read_with_options_fragments_and_extensions() {
        let read =
            |bytes: &[u8]| decode_packet(PACKET, &message(2, bytes)).map(|packet| (packet.protocol, packet.ports));
        assert_eq!(read(&v4([0, 0], 6, 0)), Some((6, Some((40_000, 80)))));
        assert_eq!(read(&v4([0x40, 0], 17, 3)), Some((17, Some((40_000, 80)))), "with options");
        assert_eq!(read(&v4([0x20, 1], 17, 0)), Some((17, None)), "a later fragment");
        assert_eq!(read(&v4([0, 0], 1, 0)), Some((1, None)), "no ports in ICMP");
        assert_eq!(read(&v6(&[], 17)), Some((17, Some((40_000, 53)))));
        let hop: &[u8] = &[0; 7];
        let routing: &[u8] = &[[1, 0, 0].as_slice(), &[0; 12]].concat();
        assert_eq!(read(&v6(&[(0, hop), (43, routing), (60, hop)], 6)), Some((6, Some((40_000, 53)))));
        assert_eq!(read(&v6(&[(44, &[0, 0, 1, 0, 0, 0, 7])], 17)), Some((17, Some((40_000, 53)))), "a first fragment");
        assert_eq!(read(&v6(&[(44, &[0, 0, 9, 0, 0, 0, 7])], 17)), Some((17, None)), "a later one");
        assert_eq!(read(&v4([0, 0], 6, 0)[..19]), None, "half a header");
        let packet = decode_packet(PACKET, &message(3, &v4([0, 0], 132, 0))).unwrap();
        assert_eq!(packet.hook, 3);
        assert_eq!(
            (packet.source.to_string(), packet.destination.to_string()),
            ("10.244.1.5".into(), "10.244.2.9".into())
        );
        assert_eq!(decode_packet(PACKET + 1, &message(3, &v4([0, 0], 6, 0))), None, "no packet");
    }

    #[test]
    fn a_packet_in_a_packet_is_read_from_inside() {
        let mut outer = v4([0, 0], 4, 0);
        outer.truncate(20);
        outer[12..20].copy_from_slice(&[192, 168, 10, 11, 10, 244, 3, 7]);
        let read = |inside: &[u8]| decode_packet(PACKET, &message(3, &[&outer, inside].concat())).unwrap();
        let packet = read(&v4([0, 0], 6, 0));
        assert_eq!((packet.source, packet.destination), ([10, 244, 1, 5].into(), [10, 244, 3, 7].into()));
        assert_eq!((packet.protocol, packet.ports), (6, Some((40_000, 80))));
        for strange in [&v6(&[], 6)[..], &[0x45, 0], &[]] {
            let packet = read(strange);
            assert_eq!(
                (packet.source, packet.protocol),
                ([192, 168, 10, 11].into(), 4),
                "not of one family, or cut off"
            );
        }
    }

    #[test]
    fn a_group_is_asked_for_with_few_bytes_of_each_packet() {
        let mut batch = Batch::new();
        encode_bind(&mut batch, 100);
        let message = Messages::new(batch.bytes()).next().unwrap();
        assert_eq!(message.kind, 0x0401);
        assert_eq!(message.payload[..4], [0, 0, 0, 100], "any family, group in network order");
        let attributes: Vec<(u16, Vec<u8>)> =
            Attributes::after(message.payload, 4).map(|found| (found.kind, found.value.to_vec())).collect();
        assert_eq!(attributes[0], (1, vec![1]));
        assert_eq!(attributes[1], (2, vec![0, 0, 0, 128, 2, 0]));
    }

    proptest! {
        #[test]
        fn any_bytes_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = decode_packet(PACKET, &bytes);
            let _ = decode_packet(PACKET, &message(2, &bytes));
        }
    }
}
