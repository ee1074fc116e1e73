//! Sets and maps of the model as ipsets, or as one condition for each member where ipset has no type (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::conditions::Condition;
use super::{RenderedSet, set_name};
use crate::kernel::filter::{Elements, Field, FieldType, Key, Name, Selector, Set, Value};
use crate::kernel::ipset::{Element, Kind, Shape};
use crate::net::{Family, Prefix, Protocol};

/// The most members of a set of blocks: no memory is taken for them before they come.
const MOST_BLOCKS: u32 = 1 << 20;

/// The ipsets that rules refer to.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// By name.
    pub(super) sets: BTreeMap<Arc<str>, RenderedSet>,
    /// Sets of the model that became one.
    pub(super) of_model: BTreeMap<Name, Arc<str>>,
    /// Keys of maps with one value that became one.
    pub(super) of_maps: BTreeMap<Name, BTreeMap<Value, Arc<str>>>,
    /// Sets and maps whose members became conditions of rules.
    pub(super) in_rules: BTreeSet<Name>,
}

impl Lookups {
    /// The conditions for a packet to be in a set of the model; the error says why there are none.
    pub(super) fn in_set(
        &mut self,
        table: &str,
        name: &Name,
        set: &Set,
        selectors: &[Selector],
        negated: bool,
    ) -> Result<Vec<Condition>, &'static str> {
        let Some(shape) = shape(&set.key, &set.elements, set.size) else {
            self.in_rules.insert(name.clone());
            let Elements::Keys(keys) = &set.elements else { return Err("blocks of something that is no address") };
            return if negated { none_of(keys) } else { Ok(one_of(keys, selectors)) };
        };
        let Some(directions) = directions(shape.kind, selectors) else {
            // Whom the client asked, for one: ipset looks at the packet as it is.
            self.in_rules.insert(name.clone());
            return match &set.elements {
                Elements::Keys(keys) if negated => none_of(keys),
                Elements::Keys(keys) => Ok(one_of(keys, selectors)),
                Elements::Prefixes(blocks) => blocks_of(blocks, selectors, negated),
            };
        };
        let ipset = set_name(table, &[name, "set"], &shape);
        let found = RenderedSet { shape, elements: elements(&set.elements), leads: false };
        self.sets.insert(Arc::clone(&ipset), found);
        self.of_model.insert(name.clone(), Arc::clone(&ipset));
        Ok(vec![Condition::in_ipset(&ipset, directions, negated)])
    }

    /// The conditions for a packet to have one of these keys of a map, all with this value.
    pub(super) fn in_map(
        &mut self,
        table: &str,
        (map, value): (&Name, &Value),
        (types, size): (&[FieldType], u32),
        selectors: &[Selector],
        keys: BTreeSet<Key>,
    ) -> Vec<Condition> {
        let keys = Elements::Keys(keys);
        let shape = shape(types, &keys, size);
        let ipset = shape.and_then(|shape| Some((shape, directions(shape.kind, selectors)?)));
        match (ipset, &keys) {
            (Some((shape, directions)), _) => {
                let name = set_name(table, &[map, "map", &format!("{value:?}")], &shape);
                self.of_maps.entry(map.clone()).or_default().insert(value.clone(), Arc::clone(&name));
                self.sets.insert(Arc::clone(&name), RenderedSet { shape, elements: elements(&keys), leads: true });
                vec![Condition::in_ipset(&name, directions, false)]
            }
            (None, Elements::Keys(keys)) => {
                self.in_rules.insert(map.clone());
                one_of(keys, selectors)
            }
            (None, Elements::Prefixes(_)) => Vec::new(),
        }
    }
}

/// The type of ipset for a key; `None` where there is none.
fn shape(key: &[FieldType], elements: &Elements, size: u32) -> Option<Shape> {
    use FieldType::{Ipv4, Ipv6, Port, Protocol};
    let family = match key.first()? {
        Ipv4 => Some(Family::V4),
        Ipv6 => Some(Family::V6),
        _ => None,
    };
    // A key without a protocol means every protocol with ports.
    let times = |factor: u32| size.max(1).saturating_mul(factor);
    let (kind, most) = match (key, elements) {
        ([Ipv4 | Ipv6], Elements::Prefixes(_)) => (Kind::Block, MOST_BLOCKS),
        (_, Elements::Prefixes(_)) => return None,
        ([Ipv4 | Ipv6], _) => (Kind::Address, times(1)),
        ([Ipv4 | Ipv6, Protocol, Port], _) => (Kind::Socket, times(1)),
        ([Ipv4 | Ipv6, Port], _) => (Kind::Socket, times(3)),
        ([Ipv4, Ipv4] | [Ipv6, Ipv6], _) => (Kind::Pair, times(1)),
        ([Port], _) => return Some(Shape { kind: Kind::Port, family: None, most: 0 }),
        _ => return None,
    };
    Some(Shape { kind, family, most })
}

/// What ipset is to read of the packet, for selectors that it can read.
fn directions(kind: Kind, selectors: &[Selector]) -> Option<&'static str> {
    let side = |selector: &Selector| match selector {
        Selector::Source4 | Selector::Source6 | Selector::SourcePort => Some("src"),
        Selector::Destination4 | Selector::Destination6 | Selector::DestinationPort => Some("dst"),
        _ => None,
    };
    let read: Vec<&str> =
        selectors.iter().filter(|selector| **selector != Selector::Protocol).map(side).collect::<Option<_>>()?;
    match (kind, read.as_slice()) {
        (Kind::Address | Kind::Block | Kind::Port, ["src"]) => Some("src"),
        (Kind::Address | Kind::Block | Kind::Port, ["dst"]) => Some("dst"),
        (Kind::Socket | Kind::Pair, ["src", "src"]) => Some("src,src"),
        (Kind::Socket | Kind::Pair, ["src", "dst"]) => Some("src,dst"),
        (Kind::Socket | Kind::Pair, ["dst", "src"]) => Some("dst,src"),
        (Kind::Socket | Kind::Pair, ["dst", "dst"]) => Some("dst,dst"),
        _ => None,
    }
}

/// The members of an ipset for the members of a set.
pub(crate) fn elements(of: &Elements) -> BTreeSet<Element> {
    match of {
        Elements::Keys(keys) => keys.iter().flat_map(key_elements).collect(),
        Elements::Prefixes(blocks) => blocks.iter().flat_map(block_elements).collect(),
    }
}

/// The members of an ipset for one key.
pub(crate) fn key_elements(key: &Key) -> Vec<Element> {
    let address = |field: &Field| match field {
        Field::Ipv4(address) => Some(IpAddr::V4(*address)),
        Field::Ipv6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    match key.as_slice() {
        [Field::Port(port)] => vec![Element::Port(*port)],
        [one] => address(one).map(Element::Address).into_iter().collect(),
        [one, Field::Protocol(protocol), Field::Port(port)] => {
            address(one).map(|address| Element::Socket(address, protocol.number(), *port)).into_iter().collect()
        }
        [one, Field::Port(port)] => {
            let socket = |protocol: Protocol| Some(Element::Socket(address(one)?, protocol.number(), *port));
            Protocol::ALL.into_iter().filter_map(socket).collect()
        }
        [one, other] => {
            address(one).zip(address(other)).map(|(one, other)| Element::Pair(one, other)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The members of an ipset for one block: it takes no block of all addresses.
pub(crate) fn block_elements(block: &Prefix) -> Vec<Element> {
    if block.prefix_len() > 0 {
        return vec![Element::Block(*block)];
    }
    block.subnets(1).map(|halves| halves.map(Element::Block).collect()).unwrap_or_default()
}

/// One condition for each key: a packet has at most one of them.
fn one_of(keys: &BTreeSet<Key>, selectors: &[Selector]) -> Vec<Condition> {
    keys.iter().filter_map(|key| Condition::of_key(selectors, key)).collect()
}

/// The condition for none of the keys.
fn none_of(keys: &BTreeSet<Key>) -> Result<Vec<Condition>, &'static str> {
    if keys.is_empty() {
        return Ok(vec![Condition::default()]);
    }
    Err("iptables cannot say that a packet is in none of several links, marks or original destinations")
}

fn blocks_of(blocks: &BTreeSet<Prefix>, selectors: &[Selector], negated: bool) -> Result<Vec<Condition>, &'static str> {
    match selectors {
        [Selector::OriginalDestination4 | Selector::OriginalDestination6] if !negated => {
            Ok(blocks.iter().map(|block| Condition::plain(format!("-m conntrack --ctorigdst {block}"))).collect())
        }
        _ => Err("iptables cannot look this up among blocks"),
    }
}
