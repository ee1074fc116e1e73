//! Bytes of the generic netlink family `IPVS`, version 1 (`include/uapi/linux/ip_vs.h`,
//! `net/netfilter/ipvs/ip_vs_ctl.c`).
//!
//! An address is always 16 bytes, IPv4 in the first four. Ports are big-endian, everything else is host order, but for
//! the IPv4 netmask. Flags are a value and a mask. What cannot be represented is left out, never an error: the table
//! may hold virtual servers of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Connections, Forwarding, Op, RealServer, RealServerKey, Scheduler, Stats, Timeouts, TunnelType, VirtualServerKey,
    VirtualServerSpec,
};
use crate::kernel::netlink::{Attributes, Batch, Writer, flag, generic};
use crate::net::{Family, Protocol};

/// The family's name.
pub const FAMILY_NAME: &str = "IPVS";
/// Its version.
const VERSION: u8 = 1;

mod command {
    pub(super) const NEW_SERVICE: u8 = 1;
    pub(super) const SET_SERVICE: u8 = 2;
    pub(super) const DEL_SERVICE: u8 = 3;
    pub(super) const GET_SERVICE: u8 = 4;
    pub(super) const NEW_DEST: u8 = 5;
    pub(super) const SET_DEST: u8 = 6;
    pub(super) const DEL_DEST: u8 = 7;
    pub(super) const GET_DEST: u8 = 8;
    pub(super) const SET_CONFIG: u8 = 12;
}

/// `IPVS_CMD_ATTR_*`.
mod top {
    pub(super) const SERVICE: u16 = 1;
    pub(super) const DEST: u16 = 2;
    pub(super) const TIMEOUT_TCP: u16 = 4;
    pub(super) const TIMEOUT_TCP_FIN: u16 = 5;
    pub(super) const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const MARK: u16 = 5;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
    pub(super) const STATS64: u16 = 12;
}

/// `IPVS_DEST_ATTR_*`.
mod destination {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FORWARDING: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER_THRESHOLD: u16 = 5;
    pub(super) const LOWER_THRESHOLD: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const PERSISTENT: u16 = 9;
    pub(super) const FAMILY: u16 = 11;
    pub(super) const TUNNEL_TYPE: u16 = 13;
    pub(super) const TUNNEL_PORT: u16 = 14;
    pub(super) const TUNNEL_FLAGS: u16 = 15;
}

/// `IP_VS_SVC_F_*`. 0x2 (hashed) is the kernel's own and never looked at.
mod svc_flag {
    pub(super) const PERSISTENT: u32 = 0x1;
    pub(super) const ONE_PACKET: u32 = 0x4;
    /// Three scheduler flags from this bit on.
    pub(super) const SCHEDULER_SHIFT: u32 = 3;
    pub(super) const SCHEDULER_MASK: u32 = 0x7;
}

/// `IP_VS_CONN_F_*` forwarding methods.
mod forward {
    pub(super) const MASK: u32 = 0x7;
    pub(super) const MASQUERADE: u32 = 0;
    pub(super) const LOCAL: u32 = 1;
    pub(super) const TUNNEL: u32 = 2;
    pub(super) const ROUTE: u32 = 3;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What the kernel tells about a virtual server without its real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServerRecord {
    /// What identifies it.
    pub key: VirtualServerKey,
    /// Scheduler, persistence and flags.
    pub spec: VirtualServerSpec,
    /// Its counters.
    pub stats: Stats,
}

/// Appends the message that does `op`. `kind` is the family's number.
pub fn encode_op(batch: &mut Batch, kind: u16, op: &Op) {
    let (command, key) = match op {
        Op::AddVirtualServer(key, _) => (command::NEW_SERVICE, key),
        Op::SetVirtualServer(key, _) => (command::SET_SERVICE, key),
        Op::DeleteVirtualServer(key) => (command::DEL_SERVICE, key),
        Op::AddRealServer(key, _) => (command::NEW_DEST, key),
        Op::SetRealServer(key, _) => (command::SET_DEST, key),
        Op::DeleteRealServer(key, _) => (command::DEL_DEST, key),
    };
    let mut message = batch.message(kind, 0);
    message.generic(command, VERSION);
    let mut attributes = message.attributes();
    attributes.nest(top::SERVICE, |service| {
        write_key(service, key);
        if let Op::AddVirtualServer(_, spec) | Op::SetVirtualServer(_, spec) = op {
            write_spec(service, key.family(), spec);
        }
    });
    match op {
        Op::AddRealServer(_, real) | Op::SetRealServer(_, real) => {
            attributes.nest(top::DEST, |destination| write_real_server(destination, real));
        }
        Op::DeleteRealServer(_, real) => {
            attributes.nest(top::DEST, |destination| write_real_server_key(destination, real));
        }
        Op::AddVirtualServer(..) | Op::SetVirtualServer(..) | Op::DeleteVirtualServer(_) => {}
    }
}

/// Appends the request for all virtual servers.
pub fn encode_dump_virtual_servers(batch: &mut Batch, kind: u16) {
    batch.message(kind, flag::DUMP).generic(command::GET_SERVICE, VERSION);
}

/// Appends the request for one virtual server; the kernel answers ESRCH where it does not exist.
pub fn encode_get_virtual_server(batch: &mut Batch, kind: u16, key: &VirtualServerKey) {
    let mut message = batch.message(kind, 0);
    message.generic(command::GET_SERVICE, VERSION);
    message.attributes().nest(top::SERVICE, |service| write_key(service, key));
}

/// Appends the request for the real servers of one virtual server; none where it does not exist.
pub fn encode_dump_real_servers(batch: &mut Batch, kind: u16, key: &VirtualServerKey) {
    let mut message = batch.message(kind, flag::DUMP);
    message.generic(command::GET_DEST, VERSION);
    message.attributes().nest(top::SERVICE, |service| write_key(service, key));
}

/// Appends the message that sets the global timeouts.
pub fn encode_timeouts(batch: &mut Batch, kind: u16, timeouts: Timeouts) {
    let mut message = batch.message(kind, 0);
    message.generic(command::SET_CONFIG, VERSION);
    let mut attributes = message.attributes();
    attributes.u32(top::TIMEOUT_TCP, timeouts.tcp);
    attributes.u32(top::TIMEOUT_TCP_FIN, timeouts.tcp_fin);
    attributes.u32(top::TIMEOUT_UDP, timeouts.udp);
}

fn write_key(service: &mut Writer<'_>, key: &VirtualServerKey) {
    service.u16(service::FAMILY, family_number(key.family()));
    match *key {
        VirtualServerKey::Address { address, protocol, port } => {
            service.u16(service::PROTOCOL, u16::from(protocol.number()));
            service.bytes(service::ADDRESS, &address_bytes(address));
            service.be16(service::PORT, port);
        }
        VirtualServerKey::Mark { mark, .. } => service.u32(service::MARK, mark),
    }
}

fn write_spec(service: &mut Writer<'_>, family: Family, spec: &VirtualServerSpec) {
    service.text(service::SCHEDULER, &spec.scheduler.0);
    let mut flags = (u32::from(spec.scheduler_flags) & svc_flag::SCHEDULER_MASK) << svc_flag::SCHEDULER_SHIFT;
    if spec.persistence.is_some() {
        flags |= svc_flag::PERSISTENT;
    }
    if spec.one_packet {
        flags |= svc_flag::ONE_PACKET;
    }
    // `struct ip_vs_flags`: value and mask, host order.
    service.u64(service::FLAGS, joined(flags, u32::MAX));
    service.u32(service::TIMEOUT, spec.persistence.unwrap_or(0));
    match family {
        Family::V4 => service.bytes(service::NETMASK, &v4_netmask(spec.persistence_prefix)),
        Family::V6 => service.u32(service::NETMASK, u32::from(spec.persistence_prefix)),
    }
}

fn write_real_server_key(destination: &mut Writer<'_>, key: &RealServerKey) {
    destination.u16(destination::FAMILY, family_number(Family::of(key.address)));
    destination.bytes(destination::ADDRESS, &address_bytes(key.address));
    destination.be16(destination::PORT, key.port);
}

fn write_real_server(destination: &mut Writer<'_>, real: &RealServer) {
    write_real_server_key(destination, &real.key);
    let (method, tunnel) = match real.forwarding {
        Forwarding::Masquerade => (forward::MASQUERADE, None),
        Forwarding::Local => (forward::LOCAL, None),
        Forwarding::Route => (forward::ROUTE, None),
        Forwarding::Tunnel(TunnelType::Ipip) => (forward::TUNNEL, Some((0, 0))),
        Forwarding::Tunnel(TunnelType::Gue { port }) => (forward::TUNNEL, Some((1, port))),
        Forwarding::Tunnel(TunnelType::Gre) => (forward::TUNNEL, Some((2, 0))),
    };
    destination.u32(destination::FORWARDING, method);
    destination.u32(destination::WEIGHT, real.weight);
    destination.u32(destination::UPPER_THRESHOLD, real.upper_threshold);
    destination.u32(destination::LOWER_THRESHOLD, real.lower_threshold);
    if let Some((kind, port)) = tunnel {
        destination.u8(destination::TUNNEL_TYPE, kind);
        destination.be16(destination::TUNNEL_PORT, port);
        destination.u16(destination::TUNNEL_FLAGS, 0);
    }
}

/// Reads an answer to a request for virtual servers (with its `struct genlmsghdr`). `None` where it is not about a
/// virtual server we can represent: another protocol, or bytes that make no sense.
pub fn decode_virtual_server(payload: &[u8]) -> Option<VirtualServerRecord> {
    let (mut family, mut protocol, mut address, mut port, mut mark) = (None, None, None, 0, 0);
    let (mut scheduler, mut flags, mut timeout, mut netmask) = (None, 0, 0, None);
    let mut stats = Stats::default();
    for attribute in Attributes::after(payload, generic::HEADER).find(top::SERVICE)?.nested() {
        match attribute.kind {
            service::FAMILY => family = family_from(attribute.u16()?),
            service::PROTOCOL => protocol = attribute.u16(),
            service::ADDRESS => address = Some(attribute.value),
            service::PORT => port = attribute.be16()?,
            service::MARK => mark = attribute.u32()?,
            service::SCHEDULER => scheduler = attribute.text(),
            service::FLAGS => flags = attribute.u32()?,
            service::TIMEOUT => timeout = attribute.u32()?,
            service::NETMASK => netmask = Some(attribute),
            service::STATS64 => stats = decode_stats(attribute.nested()),
            _ => {}
        }
    }
    let family = family?;
    let key = if mark == 0 {
        let protocol = u8::try_from(protocol?).ok().and_then(Protocol::from_number)?;
        VirtualServerKey::Address { address: address_from(family, address?)?, protocol, port }
    } else {
        VirtualServerKey::Mark { mark, family }
    };
    let persistence_prefix = match (family, netmask) {
        (_, None) => family.host_length(),
        (Family::V4, Some(mask)) => u8::try_from(mask.be32()?.leading_ones()).ok()?,
        (Family::V6, Some(length)) => u8::try_from(length.u32()?).ok()?,
    };
    let spec = VirtualServerSpec {
        scheduler: Scheduler::new(scheduler?),
        scheduler_flags: u8::try_from((flags >> svc_flag::SCHEDULER_SHIFT) & svc_flag::SCHEDULER_MASK).ok()?,
        persistence: (flags & svc_flag::PERSISTENT != 0).then_some(timeout),
        persistence_prefix,
        one_packet: flags & svc_flag::ONE_PACKET != 0,
    };
    Some(VirtualServerRecord { key, spec, stats })
}

/// Reads an answer to a request for real servers (with its `struct genlmsghdr`). `family` is that of the virtual
/// server, which old kernels do not repeat. `None` where it makes no sense or uses a method we do not have.
pub fn decode_real_server(family: Family, payload: &[u8]) -> Option<(RealServer, Connections)> {
    let (mut family, mut address, mut port) = (family, None, 0);
    let (mut method, mut weight, mut upper_threshold, mut lower_threshold) = (0, 0, 0, 0);
    let (mut tunnel_type, mut tunnel_port) = (0, 0);
    let mut connections = Connections::default();
    for attribute in Attributes::after(payload, generic::HEADER).find(top::DEST)?.nested() {
        match attribute.kind {
            destination::FAMILY => family = family_from(attribute.u16()?)?,
            destination::ADDRESS => address = Some(attribute.value),
            destination::PORT => port = attribute.be16()?,
            destination::FORWARDING => method = attribute.u32()? & forward::MASK,
            destination::WEIGHT => weight = attribute.u32()?,
            destination::UPPER_THRESHOLD => upper_threshold = attribute.u32()?,
            destination::LOWER_THRESHOLD => lower_threshold = attribute.u32()?,
            destination::ACTIVE => connections.active = attribute.u32()?,
            destination::INACTIVE => connections.inactive = attribute.u32()?,
            destination::PERSISTENT => connections.persistent = attribute.u32()?,
            destination::TUNNEL_TYPE => tunnel_type = attribute.u8()?,
            destination::TUNNEL_PORT => tunnel_port = attribute.be16()?,
            _ => {}
        }
    }
    let forwarding = match (method, tunnel_type) {
        (forward::MASQUERADE, _) => Forwarding::Masquerade,
        (forward::LOCAL, _) => Forwarding::Local,
        (forward::ROUTE, _) => Forwarding::Route,
        (forward::TUNNEL, 0) => Forwarding::Tunnel(TunnelType::Ipip),
        (forward::TUNNEL, 1) => Forwarding::Tunnel(TunnelType::Gue { port: tunnel_port }),
        (forward::TUNNEL, 2) => Forwarding::Tunnel(TunnelType::Gre),
        _ => return None,
    };
    let key = RealServerKey { address: address_from(family, address?)?, port };
    Some((RealServer { key, forwarding, weight, upper_threshold, lower_threshold }, connections))
}

/// `IPVS_STATS_ATTR_*` of the 64-bit kind; absent ones are 0.
fn decode_stats(attributes: Attributes<'_>) -> Stats {
    let mut stats = Stats::default();
    for attribute in attributes {
        let slot = match attribute.kind {
            1 => &mut stats.connections,
            2 => &mut stats.packets_in,
            3 => &mut stats.packets_out,
            4 => &mut stats.bytes_in,
            5 => &mut stats.bytes_out,
            6 => &mut stats.connections_per_second,
            7 => &mut stats.packets_in_per_second,
            8 => &mut stats.packets_out_per_second,
            9 => &mut stats.bytes_in_per_second,
            10 => &mut stats.bytes_out_per_second,
            _ => continue,
        };
        *slot = attribute.u64().unwrap_or(0);
    }
    stats
}

fn family_number(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn family_from(number: u16) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

/// `union nf_inet_addr`.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn address_from(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        Family::V4 => bytes.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets))),
        Family::V6 => bytes.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))),
    }
}

/// The netmask of a prefix length, in network order.
pub(super) fn v4_netmask(length: u8) -> [u8; 4] {
    u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(length))).unwrap_or(0).to_be_bytes()
}

/// Two 32-bit fields that follow each other, as the 64 bits to write in host order.
fn joined(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
