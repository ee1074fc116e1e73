//! ipset's messages (pure). Any bytes may be given to the decoding functions.
//!
//! Numbers are in network order where the kernel says so, and the attribute then carries NLA_F_NET_BYTEORDER, without
//! which it is refused. Many elements travel in one message (IPSET_ATTR_ADT), which needs a line number each: a message
//! that holds one thousand costs a tenth of one thousand messages.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Element, Found, Kind, Op, Shape};
use crate::kernel::netlink::{Attribute, Attributes, Batch, Writer, flag};
use crate::net::{Family, Prefix};

/// `NFNL_SUBSYS_IPSET`.
const SUBSYSTEM: u16 = 6;
/// `IPSET_PROTOCOL`: what kernels since 4.20 speak; older ones speak 6.
pub const PROTOCOL: u8 = 7;
/// `IPSET_PROTOCOL_MIN`.
pub const OLDEST_PROTOCOL: u8 = 6;
/// Bytes of `struct nfgenmsg` in front of the attributes.
const HEADER: usize = 4;
/// Elements in one message: far below the 64 KiB of an attribute, because a refused message comes back as a whole.
const ELEMENTS_AT_ONCE: usize = 500;
/// `NLA_F_NET_BYTEORDER`.
const NETWORK_ORDER: u16 = 0x4000;
/// Smallest and largest hash to begin with (the kernel's own smallest is 64).
const HASH_SIZES: (u32, u32) = (64, 1 << 20);

/// Commands (enum ipset_cmd).
pub(super) mod command {
    pub(crate) const PROTOCOL: u16 = 1;
    pub(crate) const CREATE: u16 = 2;
    pub(crate) const DESTROY: u16 = 3;
    pub(crate) const SWAP: u16 = 6;
    pub(crate) const LIST: u16 = 7;
    pub(crate) const ADD: u16 = 9;
    pub(crate) const DELETE: u16 = 10;
    pub(crate) const TYPE: u16 = 13;
}

/// Attributes of a command.
mod attribute {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const SET_NAME: u16 = 2;
    /// Also IPSET_ATTR_SETNAME2.
    pub(super) const TYPE_NAME: u16 = 3;
    pub(super) const REVISION: u16 = 4;
    pub(super) const FAMILY: u16 = 5;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const DATA: u16 = 7;
    pub(super) const ELEMENTS: u16 = 8;
    pub(super) const LINE_NUMBER: u16 = 9;
    /// Also IPSET_ATTR_REVISION_MIN.
    pub(super) const PROTOCOL_MIN: u16 = 10;
}

/// Attributes inside IPSET_ATTR_DATA.
mod data {
    pub(super) const IP: u16 = 1;
    pub(super) const CIDR: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const PORT_TO: u16 = 5;
    pub(super) const TIMEOUT: u16 = 6;
    pub(super) const PROTO: u16 = 7;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const HASH_SIZE: u16 = 18;
    pub(super) const MOST: u16 = 19;
    pub(super) const NETMASK: u16 = 20;
    pub(super) const IP2: u16 = 20;
    pub(super) const CIDR2: u16 = 21;
    pub(super) const REFERENCES: u16 = 25;
    /// IPSET_ATTR_IPADDR_IPV4 and _IPV6, inside an address.
    pub(super) const IPV4: u16 = 1;
    pub(super) const IPV6: u16 = 2;
}

/// IPSET_FLAG_LIST_SETNAME: a listing of names alone.
const LIST_NAMES: u32 = 2;
/// IPSET_FLAG_NOMATCH of an element.
const NO_MATCH: u32 = 4;

/// How to speak to this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The protocol both sides know.
    pub protocol: u8,
}

fn kind(command: u16) -> u16 {
    (SUBSYSTEM << 8) | command
}

fn start(batch: &mut Batch, command: u16, flags: u16, dialect: Dialect, fill: impl FnOnce(&mut Writer<'_>)) {
    let mut message = batch.message(kind(command), flags);
    message.netfilter(family_number(None), 0);
    let mut out = message.attributes();
    out.u8(attribute::PROTOCOL, dialect.protocol);
    fill(&mut out);
}

/// Asks which protocols the kernel speaks.
pub(super) fn request_protocol(batch: &mut Batch) {
    start(batch, command::PROTOCOL, 0, Dialect { protocol: PROTOCOL }, |_| {});
}

/// The newest and the oldest protocol (answer to IPSET_CMD_PROTOCOL).
pub fn decode_protocol(payload: &[u8]) -> Option<(u8, u8)> {
    let find = |number| Attributes::after(payload, HEADER).find(number).and_then(|found| found.u8());
    let newest = find(attribute::PROTOCOL)?;
    Some((newest, find(attribute::PROTOCOL_MIN).unwrap_or(newest)))
}

/// Asks for the revisions of a type.
pub(super) fn request_type(batch: &mut Batch, dialect: Dialect, of: Kind, family: Option<Family>) {
    start(batch, command::TYPE, 0, dialect, |out| {
        out.text(attribute::TYPE_NAME, of.name());
        out.u8(attribute::FAMILY, family_number(family));
    });
}

/// The newest revision of a type (answer to IPSET_CMD_TYPE).
pub fn decode_type(payload: &[u8]) -> Option<u8> {
    Attributes::after(payload, HEADER).find(attribute::REVISION)?.u8()
}

/// Asks for the names of all sets.
pub(super) fn request_names(batch: &mut Batch, dialect: Dialect) {
    start(batch, command::LIST, flag::DUMP, dialect, |out| out.be32(attribute::FLAGS, LIST_NAMES));
}

/// The name of a listed set.
pub fn decode_name(payload: &[u8]) -> Option<&str> {
    Attributes::after(payload, HEADER).find(attribute::SET_NAME)?.text()
}

/// Asks for one set with its members.
pub(super) fn request_set(batch: &mut Batch, dialect: Dialect, name: &str) {
    start(batch, command::LIST, flag::DUMP, dialect, |out| out.text(attribute::SET_NAME, name));
}

/// The messages of one change; `revision` is that of the type, for a new set.
pub(super) fn encode(batch: &mut Batch, dialect: Dialect, op: &Op, revision: u8) {
    match op {
        Op::Create { name, shape, expected } => {
            start(batch, command::CREATE, flag::CREATE | flag::EXCL, dialect, |out| {
                out.text(attribute::SET_NAME, name);
                out.text(attribute::TYPE_NAME, shape.kind.name());
                out.u8(attribute::REVISION, revision);
                out.u8(attribute::FAMILY, family_number(shape.family));
                out.nest(attribute::DATA, |out| push_shape(out, shape, *expected));
            });
        }
        Op::Add(name, elements) => push_elements(batch, dialect, command::ADD, name, elements),
        Op::Delete(name, elements) => push_elements(batch, dialect, command::DELETE, name, elements),
        Op::Swap(one, other) => start(batch, command::SWAP, 0, dialect, |out| {
            out.text(attribute::SET_NAME, one);
            out.text(attribute::TYPE_NAME, other);
        }),
        Op::Destroy(name) => {
            // Newer kernels say nothing about a set that is gone, unless told to be exact.
            start(batch, command::DESTROY, flag::EXCL, dialect, |out| out.text(attribute::SET_NAME, name));
        }
    }
}

fn push_shape(out: &mut Writer<'_>, shape: &Shape, expected: usize) {
    if shape.kind == Kind::Port {
        out.be16(data::PORT | NETWORK_ORDER, 0);
        out.be16(data::PORT_TO | NETWORK_ORDER, u16::MAX);
        return;
    }
    let (least, largest) = HASH_SIZES;
    let size = u32::try_from(expected).unwrap_or(largest).clamp(least, largest).next_power_of_two();
    out.be32(data::HASH_SIZE | NETWORK_ORDER, size);
    out.be32(data::MOST | NETWORK_ORDER, shape.most);
}

fn push_elements(batch: &mut Batch, dialect: Dialect, command: u16, name: &str, elements: &[Element]) {
    for some in elements.chunks(ELEMENTS_AT_ONCE) {
        // Without NLM_F_EXCL what is there, or gone, already is no error.
        start(batch, command, 0, dialect, |out| {
            out.text(attribute::SET_NAME, name);
            out.u32(attribute::LINE_NUMBER, 1);
            out.nest(attribute::ELEMENTS, |out| {
                for (element, line) in some.iter().zip(1_u32..) {
                    out.nest(attribute::DATA, |out| {
                        push_element(out, element);
                        out.u32(attribute::LINE_NUMBER, line);
                    });
                }
            });
        });
    }
}

fn push_element(out: &mut Writer<'_>, element: &Element) {
    match element {
        Element::Address(address) => push_address(out, data::IP, *address),
        Element::Block(block) => {
            push_address(out, data::IP, block.network());
            out.u8(data::CIDR, block.prefix_len());
        }
        Element::Socket(address, protocol, port) => {
            push_address(out, data::IP, *address);
            out.be16(data::PORT | NETWORK_ORDER, *port);
            out.u8(data::PROTO, *protocol);
        }
        Element::Pair(one, other) => {
            for (address, ip, cidr) in [(one, data::IP, data::CIDR), (other, data::IP2, data::CIDR2)] {
                push_address(out, ip, *address);
                out.u8(cidr, Family::of(*address).host_length());
            }
        }
        Element::Port(port) => out.be16(data::PORT | NETWORK_ORDER, *port),
    }
}

fn push_address(out: &mut Writer<'_>, kind: u16, address: IpAddr) {
    out.nest(kind, |out| match address {
        IpAddr::V4(address) => out.bytes(data::IPV4 | NETWORK_ORDER, &address.octets()),
        IpAddr::V6(address) => out.bytes(data::IPV6 | NETWORK_ORDER, &address.octets()),
    });
}

/// One message of a listed set: the first has its shape, and all have some of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// What the set was made with, in the first message; the inner `None` is a set of a kind not used here.
    pub header: Option<(Option<Shape>, u32)>,
    /// Its members in the kernel's form: they can be read when the kind is known.
    pub elements: Vec<RawElement>,
}

/// A member as listed, whatever the kind of its set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawElement {
    ip: Option<IpAddr>,
    ip2: Option<IpAddr>,
    cidr: Option<u8>,
    cidr2: Option<u8>,
    port: Option<u16>,
    protocol: Option<u8>,
    odd: bool,
}

/// Reads one message of a listed set.
pub fn decode_part(payload: &[u8]) -> Part {
    let find = |number| Attributes::after(payload, HEADER).find(number);
    let header = find(attribute::TYPE_NAME).and_then(|name| name.text()).map(|type_name| {
        let family = find(attribute::FAMILY).and_then(|family| family.u8());
        let created = find(attribute::DATA);
        let number = |of: u16| created.and_then(|it| it.nested().find(of)).and_then(|found| found.be32());
        (shape(type_name, family, created), number(data::REFERENCES).unwrap_or(0))
    });
    let list = find(attribute::ELEMENTS);
    let elements = list.into_iter().flat_map(|list| list.nested()).map(|item| raw_element(item.nested())).collect();
    Part { header, elements }
}

fn shape(type_name: &str, family: Option<u8>, created: Option<Attribute<'_>>) -> Option<Shape> {
    let kind = Kind::from_name(type_name)?;
    let created = created?;
    let has = |number: u16| created.nested().find(number).is_some();
    // What would make members match otherwise, or vanish.
    if has(data::TIMEOUT) || (kind != Kind::Pair && has(data::NETMASK)) {
        return None;
    }
    let number = |of: u16| created.nested().find(of).and_then(|found| found.be16());
    if kind == Kind::Port {
        let whole = number(data::PORT) == Some(0) && number(data::PORT_TO) == Some(u16::MAX);
        return whole.then_some(Shape { kind, family: None, most: 0 });
    }
    let family = Family::ALL.into_iter().find(|known| Some(family_number(Some(*known))) == family)?;
    let most = created.nested().find(data::MOST).and_then(|found| found.be32())?;
    Some(Shape { kind, family: Some(family), most })
}

fn raw_element(attributes: Attributes<'_>) -> RawElement {
    let mut raw = RawElement::default();
    for attribute in attributes {
        match attribute.kind {
            data::IP => raw.ip = address(attribute),
            data::IP2 => raw.ip2 = address(attribute),
            data::CIDR => raw.cidr = attribute.u8(),
            data::CIDR2 => raw.cidr2 = attribute.u8(),
            data::PORT => raw.port = attribute.be16(),
            data::PROTO => raw.protocol = attribute.u8(),
            data::FLAGS => raw.odd |= attribute.be32().is_none_or(|flags| flags & NO_MATCH != 0),
            data::TIMEOUT => raw.odd = true,
            _ => {}
        }
    }
    raw
}

fn address(attribute: Attribute<'_>) -> Option<IpAddr> {
    attribute.nested().find_map(|inner| matches!(inner.kind, data::IPV4 | data::IPV6).then(|| inner.ip())?)
}

/// Puts the messages of one set together; `None` without a header. A member that cannot be read makes the shape unknown.
pub fn assemble(parts: impl IntoIterator<Item = Part>) -> Option<Found> {
    let mut found: Option<Found> = None;
    let mut raw = Vec::new();
    for part in parts {
        if let Some((shape, references)) = part.header {
            found.get_or_insert(Found { shape, references, elements: BTreeSet::new() });
        }
        raw.extend(part.elements);
    }
    let mut found = found?;
    if let Some(shape) = found.shape {
        match raw.iter().map(|raw| element(shape.kind, raw)).collect() {
            Some(elements) => found.elements = elements,
            None => found.shape = None,
        }
    }
    Some(found)
}

fn element(kind: Kind, raw: &RawElement) -> Option<Element> {
    let whole = |address: IpAddr, cidr: Option<u8>| cidr.is_none_or(|cidr| cidr == Family::of(address).host_length());
    if raw.odd {
        return None;
    }
    Some(match kind {
        Kind::Address => Element::Address(raw.ip?),
        Kind::Block => {
            let address = raw.ip?;
            let length = raw.cidr.unwrap_or(Family::of(address).host_length());
            Element::Block(Prefix::new(address, length).ok()?)
        }
        Kind::Socket => Element::Socket(raw.ip?, raw.protocol?, raw.port?),
        Kind::Pair => {
            let (one, other) = (raw.ip?, raw.ip2?);
            (whole(one, raw.cidr) && whole(other, raw.cidr2)).then_some(Element::Pair(one, other))?
        }
        Kind::Port => Element::Port(raw.port?),
    })
}

/// NFPROTO_IPV4, _IPV6, or _UNSPEC.
fn family_number(family: Option<Family>) -> u8 {
    match family {
        Some(Family::V4) => 2,
        Some(Family::V6) => 10,
        None => 0,
    }
}
