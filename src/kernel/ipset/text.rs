//! Changes as `ipset` commands, for logs and dry runs (pure).

use std::fmt;

use super::{Element, Kind, Op, Shape};
use crate::net::{Family, Protocol};

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Address(address) => address.fmt(f),
            Element::Block(block) => block.fmt(f),
            Element::Socket(address, protocol, port) => match Protocol::from_number(*protocol) {
                Some(protocol) => write!(f, "{address},{protocol}:{port}"),
                None => write!(f, "{address},{protocol}:{port}"),
            },
            Element::Pair(one, other) => write!(f, "{one},{other}"),
            Element::Port(port) => port.fmt(f),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.family {
            Some(Family::V4) => f.write_str(" family inet")?,
            Some(Family::V6) => f.write_str(" family inet6")?,
            None => {}
        }
        if self.kind == Kind::Port { f.write_str(" range 0-65535") } else { write!(f, " maxelem {}", self.most) }
    }
}

/// Elements shown of one command; the rest is counted.
const SHOWN: usize = 3;

fn elements(f: &mut fmt::Formatter<'_>, verb: &str, set: &str, elements: &[Element]) -> fmt::Result {
    for (index, element) in elements.iter().take(SHOWN).enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        write!(f, "{separator}{verb} {set} {element}")?;
    }
    match elements.len().checked_sub(SHOWN) {
        Some(more @ 1..) => write!(f, "; and {more} more"),
        _ => Ok(()),
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create { name, shape, .. } => write!(f, "create {name} {shape}"),
            Op::Add(name, added) => elements(f, "add", name, added),
            Op::Delete(name, removed) => elements(f, "del", name, removed),
            Op::Swap(one, other) => write!(f, "swap {one} {other}"),
            Op::Destroy(name) => write!(f, "destroy {name}"),
        }
    }
}
