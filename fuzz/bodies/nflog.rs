//! Messages of a log group. What is understood has addresses of one family, and ports only where there are any.

use ferrovia::kernel::nflog::codec::{PACKET, decode_packet};
use ferrovia::net::Protocol;

pub(crate) fn run(bytes: &[u8]) {
    assert_eq!(decode_packet(PACKET + 1, bytes), None);
    let Some(packet) = decode_packet(PACKET, bytes) else { return };
    assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    assert!(packet.ports.is_none() || Protocol::from_number(packet.protocol).is_some());
}
