//! rtnetlink messages (pure): `include/uapi/linux/rtnetlink.h`, `if_link.h`, `if_addr.h`, `fib_rules.h`.
//!
//! Decoders take any bytes. What the model has no word for is left out rather than shown as something else: routes
//! of other kinds (broadcast, multicast …), rules with conditions beyond mark, source and
//! incoming link.

use std::net::IpAddr;

use super::{Address, Link, LinkName, Neighbour, NextHop, Op, Route, RouteFilter, RouteKind, Rule, Tunnel};
use crate::kernel::netlink::{Attribute, Attributes, Batch, Writer, flag};
use crate::net::{Family, Prefix};

/// Message types.
#[allow(missing_docs, reason = "the kernel's own names")]
pub(super) mod message {
    pub(crate) const NEW_LINK: u16 = 16;
    pub(crate) const DELETE_LINK: u16 = 17;
    pub(crate) const GET_LINK: u16 = 18;
    pub(crate) const NEW_ADDRESS: u16 = 20;
    pub(crate) const DELETE_ADDRESS: u16 = 21;
    pub(crate) const GET_ADDRESS: u16 = 22;
    pub(crate) const NEW_ROUTE: u16 = 24;
    pub(crate) const DELETE_ROUTE: u16 = 25;
    pub(crate) const GET_ROUTE: u16 = 26;
    pub(crate) const NEW_RULE: u16 = 32;
    pub(crate) const DELETE_RULE: u16 = 33;
    pub(crate) const GET_RULE: u16 = 34;
    pub(crate) const GET_NEIGHBOUR: u16 = 30;
}

/// Bytes of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Bytes of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// Bytes of `struct ndmsg`.
const NEIGHBOUR_HEADER: usize = 12;
/// Bytes of `struct rtmsg` and of `struct fib_rule_hdr`.
const ROUTE_HEADER: usize = 12;

/// Bytes of `struct rtnexthop`.
const NEXT_HOP_HEADER: usize = 8;

const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_NOARP: u32 = 0x80;
const IFF_LOWER_UP: u32 = 0x1_0000;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

mod link {
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const MASTER: u16 = 10;
    pub(super) const INFO: u16 = 18;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const EXT_MASK: u16 = 29;
    /// RTEXT_FILTER_SKIP_STATS: half of every link message otherwise.
    pub(super) const SKIP_STATS: u32 = 0x8;
}

mod address {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const FLAGS: u16 = 8;
    /// IFA_F_NODAD: usable at once, no duplicate address detection.
    pub(super) const NO_DAD: u32 = 0x2;
    /// IFA_F_NOPREFIXROUTE: no route for the prefix beside the local one.
    pub(super) const NO_PREFIX_ROUTE: u32 = 0x200;
}

mod route {
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const OUTPUT_LINK: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const PREFERRED_SOURCE: u16 = 7;
    /// `struct rtnexthop` with attributes of its own, several times.
    pub(super) const MULTIPATH: u16 = 9;
    pub(super) const TABLE: u16 = 15;
    /// A gateway of the other family: family in 16 bits, then the address.
    pub(super) const VIA: u16 = 18;
    /// RTM_F_CLONED: a cache entry, not a route.
    pub(super) const CLONED: u32 = 0x200;
    /// What the kernel makes of metric 0 in IPv6 (IP6_RT_PRIO_USER).
    pub(super) const IPV6_DEFAULT_METRIC: u32 = 1024;
}

mod neighbour {
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const STATION: u16 = 2;
    /// NUD_REACHABLE, _STALE, _DELAY, _PROBE and _PERMANENT.
    pub(super) const VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
}

mod rule {
    pub(super) const SOURCE: u16 = 2;
    pub(super) const INPUT_LINK: u16 = 3;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const MARK: u16 = 10;
    pub(super) const SUPPRESS_PREFIX_LENGTH: u16 = 14;
    pub(super) const TABLE: u16 = 15;
    pub(super) const MASK: u16 = 16;
    pub(super) const PAD: u16 = 18;
    pub(super) const PROTOCOL: u16 = 21;
    /// FR_ACT_TO_TBL.
    pub(super) const TO_TABLE: u8 = 1;
    /// FIB_RULE_INVERT.
    pub(super) const INVERT: u32 = 0x2;
}

/// Appends the message of one op.
pub(super) fn encode(op: &Op, batch: &mut Batch) {
    let create = flag::CREATE | flag::EXCL;
    match op {
        Op::AddDummy { name } => add_link(batch, name, None, "dummy", |_| {}),
        Op::AddBridge { name, mtu } => add_link(batch, name, *mtu, "bridge", |_| {}),
        Op::AddTunnel { name, tunnel } => add_link(batch, name, None, tunnel.kind(), |data| tunnel.encode(data)),
        Op::DeleteLink { link } => {
            batch.message(message::DELETE_LINK, 0).header(&link_header(*link, 0, 0));
        }
        Op::SetUp { link, up } => {
            let flags = if *up { IFF_UP } else { 0 };
            batch.message(message::NEW_LINK, 0).header(&link_header(*link, flags, IFF_UP));
        }
        Op::SetMtu { link, mtu } => {
            let mut message = batch.message(message::NEW_LINK, 0);
            message.header(&link_header(*link, 0, 0));
            message.attributes().u32(link::MTU, *mtu);
        }
        Op::AddAddress(address) => encode_address(batch, message::NEW_ADDRESS, create, address),
        Op::DeleteAddress(address) => encode_address(batch, message::DELETE_ADDRESS, 0, address),
        Op::ReplaceRoute(route) => encode_route(batch, message::NEW_ROUTE, flag::CREATE | flag::REPLACE, route),
        Op::DeleteRoute(route) => encode_route(batch, message::DELETE_ROUTE, 0, route),
        Op::AddRule(rule) => encode_rule(batch, message::NEW_RULE, create, rule),
        Op::DeleteRule(rule) => encode_rule(batch, message::DELETE_RULE, 0, rule),
    }
}

fn add_link(batch: &mut Batch, name: &str, mtu: Option<u32>, kind: &str, data: impl FnOnce(&mut Writer<'_>)) {
    let mut message = batch.message(message::NEW_LINK, flag::CREATE | flag::EXCL);
    message.header(&link_header(0, 0, 0));
    let mut attributes = message.attributes();
    attributes.text(link::NAME, name);
    if let Some(mtu) = mtu {
        attributes.u32(link::MTU, mtu);
    }
    attributes.nest(link::INFO, |info| {
        info.text(link::INFO_KIND, kind);
        info.nest(link::INFO_DATA, data);
    });
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    let fields = [0, index, flags, change].into_iter().flat_map(u32::to_ne_bytes);
    header.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
    header
}

fn encode_address(batch: &mut Batch, kind: u16, flags: u16, address: &Address) {
    let mut message = batch.message(kind, flags);
    let [a, b, c, d] = address.link.to_ne_bytes();
    let family = family_number(Family::of(address.prefix.addr()));
    message.header(&[family, address.prefix.prefix_len(), 0, address.scope, a, b, c, d]);
    let mut attributes = message.attributes();
    attributes.ip(address::LOCAL, address.prefix.addr());
    attributes.ip(address::ADDRESS, address.prefix.addr());
    if family == AF_INET6 && kind == message::NEW_ADDRESS {
        attributes.u32(address::FLAGS, address::NO_DAD | address::NO_PREFIX_ROUTE);
    }
}

fn encode_route(batch: &mut Batch, kind: u16, flags: u16, route: &Route) {
    let family = Family::of(route.destination.addr());
    let delete = kind == message::DELETE_ROUTE;
    let mut message = batch.message(kind, flags);
    message.header(&route_header(
        family,
        route.destination.prefix_len(),
        table_byte(route.table),
        route.protocol,
        // Scope is not looked at in IPv6.
        route.scope,
        route_kind_number(route.kind),
    ));
    let mut attributes = message.attributes();
    attributes.u32(route::TABLE, route.table);
    if route.destination.prefix_len() != 0 {
        attributes.ip(route::DESTINATION, route.destination.network());
    }
    if let Some(link) = route.link {
        attributes.u32(route::OUTPUT_LINK, link);
    }
    encode_gateway(&mut attributes, family, route.gateway);
    if !route.next_hops.is_empty() {
        attributes.bytes(route::MULTIPATH, &multipath_bytes(family, &route.next_hops));
    }
    if let Some(source) = route.source {
        attributes.ip(route::PREFERRED_SOURCE, source);
    }
    match (route.metric, family) {
        // Said explicitly, so that a route with the default metric is replaced and not joined by a sibling.
        (0, Family::V6) if !delete => attributes.u32(route::PRIORITY, route::IPV6_DEFAULT_METRIC),
        (0, _) => {}
        (metric, _) => attributes.u32(route::PRIORITY, metric),
    }
}

fn encode_gateway(attributes: &mut Writer<'_>, family: Family, gateway: Option<IpAddr>) {
    match gateway {
        Some(gateway) if Family::of(gateway) == family => attributes.ip(route::GATEWAY, gateway),
        Some(gateway) => attributes.bytes(route::VIA, &via_bytes(gateway)),
        None => {}
    }
}

/// Each hop: `struct rtnexthop` (length, flags, weight less one, link), then its gateway.
fn multipath_bytes(family: Family, hops: &[NextHop]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hops.len().saturating_mul(NEXT_HOP_HEADER + 24));
    for hop in hops {
        let (mut inner, mut too_long) = (Vec::new(), false);
        encode_gateway(&mut Writer::new(&mut inner, &mut too_long), family, hop.gateway);
        let length = u16::try_from(NEXT_HOP_HEADER + inner.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend([0, u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX)]);
        bytes.extend(hop.link.unwrap_or(0).to_ne_bytes());
        bytes.extend(inner);
    }
    bytes
}

fn encode_rule(batch: &mut Batch, kind: u16, flags: u16, rule: &Rule) {
    let mut message = batch.message(kind, flags);
    let from = rule.from.map_or(0, |from| from.prefix_len());
    let table = table_byte(rule.table);
    message.header(&[family_number(rule.family), 0, from, 0, table, 0, 0, rule::TO_TABLE, 0, 0, 0, 0]);
    let mut attributes = message.attributes();
    attributes.u32(rule::TABLE, rule.table);
    attributes.u32(rule::PRIORITY, rule.priority);
    if let Some(from) = rule.from.filter(|from| from.prefix_len() != 0) {
        attributes.ip(rule::SOURCE, from.network());
    }
    if let Some(mark) = rule.mark {
        attributes.u32(rule::MARK, mark);
        attributes.u32(rule::MASK, rule.mark_mask);
    }
    if let Some(iif) = &rule.iif {
        attributes.text(rule::INPUT_LINK, iif.as_str());
    }
    // What is to go is found whoever made it.
    if rule.protocol != 0 && kind == message::NEW_RULE {
        attributes.u8(rule::PROTOCOL, rule.protocol);
    }
}

/// Asks for all links, without their counters.
pub(super) fn request_links(batch: &mut Batch) {
    let mut message = batch.message(message::GET_LINK, flag::DUMP);
    message.header(&link_header(0, 0, 0));
    message.attributes().u32(link::EXT_MASK, link::SKIP_STATS);
}

/// Asks for the addresses of one family, of one link where given.
pub(super) fn request_addresses(batch: &mut Batch, family: Family, link: Option<u32>) {
    let [a, b, c, d] = link.unwrap_or(0).to_ne_bytes();
    batch.message(message::GET_ADDRESS, flag::DUMP).header(&[family_number(family), 0, 0, 0, a, b, c, d]);
}

/// Asks for the routes of one family.
pub(super) fn request_routes(batch: &mut Batch, family: Family, filter: RouteFilter) {
    let mut message = batch.message(message::GET_ROUTE, flag::DUMP);
    message.header(&route_header(family, 0, 0, filter.protocol.unwrap_or(0), 0, 0));
    let mut attributes = message.attributes();
    if let Some(table) = filter.table {
        attributes.u32(route::TABLE, table);
    }
    if let Some(link) = filter.link {
        attributes.u32(route::OUTPUT_LINK, link);
    }
}

/// Asks for the rules of one family.
pub(super) fn request_rules(batch: &mut Batch, family: Family) {
    batch.message(message::GET_RULE, flag::DUMP).header(&[family_number(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// A link (RTM_NEWLINK).
pub fn decode_link(payload: &[u8]) -> Option<Link> {
    let index = host_u32(payload, 4)?;
    let flags = host_u32(payload, 8)?;
    let mut found = Link {
        index,
        name: String::new(),
        kind: String::new(),
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        no_arp: flags & IFF_NOARP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        mtu: 0,
        master: None,
        tunnel: None,
    };
    for attribute in Attributes::after(payload, LINK_HEADER) {
        match attribute.kind {
            link::NAME => found.name = attribute.text()?.to_owned(),
            link::MTU => found.mtu = attribute.u32()?,
            link::MASTER => found.master = attribute.u32(),
            link::INFO => {
                let kind = attribute.nested().find(link::INFO_KIND);
                let kind = kind.and_then(|kind| kind.text()).unwrap_or_default();
                found.kind = kind.to_owned();
                let data = attribute.nested().find(link::INFO_DATA);
                found.tunnel = data.and_then(|data| Tunnel::decode(kind, data.nested()));
            }
            _ => {}
        }
    }
    Some(found)
}

/// An address (RTM_NEWADDR).
pub fn decode_address(payload: &[u8]) -> Option<Address> {
    let &[family, length, _, scope] = payload.first_chunk::<4>()?;
    let link = host_u32(payload, 4)?;
    // IPv4 has the peer in ADDRESS, IPv6 has no LOCAL unless there is a peer.
    let attributes = || Attributes::after(payload, ADDRESS_HEADER);
    let found = attributes().find(address::LOCAL).or_else(|| attributes().find(address::ADDRESS))?.ip()?;
    let prefix = Prefix::new(found, length).ok().filter(|_| family_of(family) == Some(Family::of(found)))?;
    Some(Address { link, prefix, scope })
}

/// A route (RTM_NEWROUTE), where it is of a kind the model knows.
pub fn decode_route(payload: &[u8]) -> Option<Route> {
    let &[family, length, _, _, table, protocol, scope, kind] = payload.first_chunk::<8>()?;
    let family = family_of(family)?;
    if host_u32(payload, 8)? & route::CLONED != 0 {
        return None;
    }
    let mut destination = unspecified(family);
    let mut found = Route {
        table: u32::from(table),
        destination: Prefix::new(destination, 0).ok()?,
        kind: route_kind(kind)?,
        protocol,
        scope,
        link: None,
        gateway: None,
        next_hops: Vec::new(),
        source: None,
        metric: 0,
    };
    for attribute in Attributes::after(payload, ROUTE_HEADER) {
        match attribute.kind {
            route::DESTINATION => destination = attribute.ip()?,
            route::OUTPUT_LINK => found.link = attribute.u32(),
            route::GATEWAY => found.gateway = attribute.ip(),
            route::VIA => found.gateway = via(attribute),
            route::MULTIPATH => found.set_hops(decode_multipath(attribute.value)),
            route::PREFERRED_SOURCE => found.source = attribute.ip(),
            route::PRIORITY => found.metric = attribute.u32()?,
            route::TABLE => found.table = attribute.u32()?,
            _ => {}
        }
    }
    found.destination = Prefix::new(destination, length).ok().filter(|_| Family::of(destination) == family)?;
    if family == Family::V6 && found.metric == route::IPV6_DEFAULT_METRIC {
        found.metric = 0;
    }
    if found.kind.is_dead_end() {
        found.link = None;
    }
    Some(found)
}

/// The hops of RTA_MULTIPATH; ends at the first one whose length is impossible.
fn decode_multipath(mut rest: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(&[low, high, _flags, weight, a, b, c, d]) = rest.first_chunk::<NEXT_HOP_HEADER>() {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let Some(inside) = rest.get(NEXT_HOP_HEADER..length) else { break };
        let link = Some(u32::from_ne_bytes([a, b, c, d])).filter(|link| *link != 0);
        let mut hop = NextHop { link, gateway: None, weight: u16::from(weight).saturating_add(1) };
        for attribute in Attributes::new(inside) {
            match attribute.kind {
                route::GATEWAY => hop.gateway = attribute.ip(),
                route::VIA => hop.gateway = via(attribute),
                _ => {}
            }
        }
        hops.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// A rule (RTM_NEWRULE), where it has no conditions but mark, source and incoming link, and looks up a table.
pub fn decode_rule(payload: &[u8]) -> Option<Rule> {
    let &[family, destination, source, tos, table, _, _, action] = payload.first_chunk::<8>()?;
    let flags = host_u32(payload, 8)?;
    if action != rule::TO_TABLE || destination != 0 || tos != 0 || flags & rule::INVERT != 0 {
        return None;
    }
    let family = family_of(family)?;
    let mut found = Rule { protocol: 0, ..Rule::to_table(family, 0, u32::from(table)) };
    for attribute in Attributes::after(payload, ROUTE_HEADER) {
        match attribute.kind {
            rule::TABLE => found.table = attribute.u32()?,
            rule::PRIORITY => found.priority = attribute.u32()?,
            rule::MARK => found.mark = Some(attribute.u32()?),
            rule::SOURCE => {
                let address = attribute.ip().filter(|address| Family::of(*address) == family)?;
                found.from = Some(Prefix::new(address, source).ok()?);
            }
            // Said in every answer; these values mean nothing.
            rule::SUPPRESS_PREFIX_LENGTH if attribute.u32() == Some(u32::MAX) => {}
            // Said only where the mark is looked at; a mark of zero is not said.
            rule::MASK => {
                found.mark_mask = attribute.u32()?;
                found.mark = found.mark.or(Some(0));
            }
            rule::INPUT_LINK => found.iif = Some(LinkName::new(attribute.text()?)?),
            rule::PROTOCOL => found.protocol = attribute.u8()?,
            rule::PAD => {}
            _ => return None,
        }
    }
    Some(found)
}

/// Asks for the neighbours of one family.
pub(super) fn request_neighbours(batch: &mut Batch, family: Family) {
    let header = [family_number(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    batch.message(message::GET_NEIGHBOUR, flag::DUMP).header(&header);
}

/// A neighbour (RTM_NEWNEIGH) with an Ethernet address that is valid or was so lately.
pub fn decode_neighbour(payload: &[u8]) -> Option<Neighbour> {
    let family = family_of(*payload.first()?)?;
    let link = host_u32(payload, 4)?;
    let state = payload.get(8..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))?;
    if state & neighbour::VALID == 0 {
        return None;
    }
    let attributes = || Attributes::after(payload, NEIGHBOUR_HEADER);
    let address = attributes().find(neighbour::DESTINATION)?.ip().filter(|address| Family::of(*address) == family)?;
    let station = attributes().find(neighbour::STATION)?.value.try_into().ok()?;
    Some(Neighbour { link, address, station })
}

fn route_header(family: Family, length: u8, table: u8, protocol: u8, scope: u8, kind: u8) -> [u8; ROUTE_HEADER] {
    [family_number(family), length, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}

/// The old one-byte table field; RT_TABLE_COMPAT where the number does not fit, the attribute says it all.
fn table_byte(table: u32) -> u8 {
    const COMPAT: u8 = 252;
    u8::try_from(table).unwrap_or(COMPAT)
}

fn host_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn family_of(number: u8) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family_number(*family) == number)
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn via_bytes(gateway: IpAddr) -> Vec<u8> {
    let mut bytes = u16::from(family_number(Family::of(gateway))).to_ne_bytes().to_vec();
    match gateway {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
    bytes
}

fn via(attribute: Attribute<'_>) -> Option<IpAddr> {
    Attribute { kind: attribute.kind, value: attribute.value.get(2..)? }.ip()
}

fn route_kind_number(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Unicast => 1,
        RouteKind::Local => 2,
        RouteKind::Blackhole => 6,
        RouteKind::Unreachable => 7,
        RouteKind::Prohibit => 8,
        RouteKind::Throw => 9,
    }
}

fn route_kind(number: u8) -> Option<RouteKind> {
    use RouteKind::{Blackhole, Local, Prohibit, Throw, Unicast, Unreachable};
    let kinds = [Unicast, Local, Blackhole, Unreachable, Prohibit, Throw];
    kinds.into_iter().find(|kind| route_kind_number(*kind) == number)
}
