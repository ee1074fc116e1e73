//! What the kernel says about a table, as values of the rule model (pure). Any bytes may be given to these functions.
//!
//! Whatever the model has no word for (other key types, ranges that are no prefixes, a drop policy) is named in
//! [`Observed::unknown`](crate::kernel::filter::plan::Observed::unknown), never guessed at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::codec::{field_datatype, field_length, hook_number, key_length, kind_name};
use super::uapi::{
    FAMILY_INET, FAMILY_IPV4, FAMILY_IPV6, chain, data, datatype, element, elements, hook, object, rule, set, table,
    userdata,
};
use crate::kernel::filter::{Base, BaseKind, Elements, Field, FieldType, Hook, Key, Name, Value, ValueType};
use crate::kernel::netlink::{Attribute, Attributes};
use crate::net::{Prefix, Protocol};

/// Bytes of `struct nfgenmsg` in front of the attributes.
const HEADER: usize = 4;

/// A set or map without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetHeader {
    /// Its name.
    pub name: Name,
    /// What it holds.
    pub shape: Shape,
    /// Declared size; 0 where none is.
    pub size: u32,
}

/// What a set or map holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Single keys.
    Keys(Vec<FieldType>),
    /// Address blocks.
    Prefixes(FieldType),
    /// Keys and values.
    Map(Vec<FieldType>, ValueType),
    /// It belongs to one rule.
    Anonymous,
    /// Something the model has no word for.
    Unknown,
}

/// One element as the kernel stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawElement {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// The key is the end of an interval.
    pub end: bool,
    /// What a map gives for it.
    pub value: Option<RawValue>,
    /// Something about it the model has no word for: catch-all, key range, timeout.
    pub odd: bool,
}

/// The value of a map element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawValue {
    /// Plain bytes.
    Bytes(Vec<u8>),
    /// A verdict and the chain it names.
    Verdict(i32, Option<Name>),
}

/// Name and flags of a table (answer to NFT_MSG_GETTABLE).
pub fn table(payload: &[u8]) -> Option<(Name, u32)> {
    let name = Attributes::after(payload, HEADER).find(table::NAME)?.text()?;
    let flags = Attributes::after(payload, HEADER).find(table::FLAGS).and_then(|flags| flags.be32());
    Some((Name::from(name), flags.unwrap_or(0)))
}

/// A chain of this table (answer to NFT_MSG_GETCHAIN): its name and base; an error names what the model cannot say.
pub fn chain(payload: &[u8], of: &str) -> Option<(Name, Result<Option<Base>, &'static str>)> {
    let attributes = || Attributes::after(payload, HEADER);
    if attributes().find(chain::TABLE)?.text()? != of {
        return None;
    }
    let name = Name::from(attributes().find(chain::NAME)?.text()?);
    let Some(hook) = attributes().find(chain::HOOK) else {
        return Some((name, Ok(None)));
    };
    Some((name, base(attributes(), hook).map(Some)))
}

/// The name of a chain that drops forwarded packets by its policy (answer to NFT_MSG_GETCHAIN); `None` for any other.
pub fn forward_drop(payload: &[u8]) -> Option<String> {
    const DROP: u32 = 0;
    let family = match *payload.first()? {
        FAMILY_INET => "inet",
        FAMILY_IPV4 => "ip",
        FAMILY_IPV6 => "ip6",
        _ => return None,
    };
    let attributes = || Attributes::after(payload, HEADER);
    let number = attributes().find(chain::HOOK)?.nested().find(hook::NUMBER)?.be32()?;
    let policy = attributes().find(chain::POLICY)?.be32()?;
    if number != hook_number(Hook::Forward) || policy != DROP {
        return None;
    }
    Some(format!("{family} {} {}", attributes().find(chain::TABLE)?.text()?, attributes().find(chain::NAME)?.text()?))
}

fn base(attributes: Attributes<'_>, of: Attribute<'_>) -> Result<Base, &'static str> {
    const ACCEPT: u32 = 1;
    let number = of.nested().find(hook::NUMBER).and_then(|number| number.be32());
    let hook = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting]
        .into_iter()
        .find(|hook| Some(hook_number(*hook)) == number)
        .ok_or("its hook")?;
    let priority = of.nested().find(hook::PRIORITY).and_then(|value| value.be32()).ok_or("its priority")?;
    let kind = attributes.clone().find(chain::TYPE).and_then(|kind| kind.text());
    let kind = [BaseKind::Filter, BaseKind::Nat, BaseKind::Route]
        .into_iter()
        .find(|candidate| Some(kind_name(*candidate)) == kind)
        .ok_or("its type")?;
    let policy = attributes.find(chain::POLICY).and_then(|policy| policy.be32());
    if policy != Some(ACCEPT) {
        return Err("its policy");
    }
    Ok(Base { kind, hook, priority: i32::from_be_bytes(priority.to_be_bytes()) })
}

/// A rule of this table (answer to NFT_MSG_GETRULE): its chain and the digest it carries, if any.
pub fn rule(payload: &[u8], of: &str) -> Option<(Name, Option<u64>)> {
    let attributes = || Attributes::after(payload, HEADER);
    if attributes().find(rule::TABLE)?.text()? != of {
        return None;
    }
    let chain = Name::from(attributes().find(rule::CHAIN)?.text()?);
    let digest = attributes().find(rule::USERDATA).and_then(|blob| comment(blob.value)).and_then(digest);
    Some((chain, digest))
}

/// The comment in a rule's user data.
fn comment(mut blob: &[u8]) -> Option<&str> {
    loop {
        let (&[kind, length], rest) = blob.split_first_chunk::<2>()?;
        let value = rest.get(..usize::from(length))?;
        if kind == userdata::RULE_COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        blob = rest.get(usize::from(length)..)?;
    }
}

fn digest(comment: &str) -> Option<u64> {
    let (_, digits) = comment.rsplit_once('#')?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// A set or map of this table (answer to NFT_MSG_GETSET), elements not included.
pub fn set(payload: &[u8], of: &str) -> Option<SetHeader> {
    let attributes = || Attributes::after(payload, HEADER);
    let number = |kind: u16| attributes().find(kind).and_then(|value| value.be32());
    if attributes().find(set::TABLE)?.text()? != of {
        return None;
    }
    let name = Name::from(attributes().find(set::NAME)?.text()?);
    let description = attributes().find(set::DESCRIPTION);
    let size = description.and_then(|nest| nest.nested().find(set::DESCRIPTION_SIZE)).and_then(|size| size.be32());
    let flags = number(set::FLAGS).unwrap_or(0);
    let shape = if flags & set::FLAG_ANONYMOUS != 0 {
        Shape::Anonymous
    } else {
        number(set::KEY_TYPE)
            .zip(number(set::KEY_LENGTH))
            .and_then(|(kind, length)| key_types(kind, length))
            .map_or(Shape::Unknown, |key| shape(flags, key, number(set::DATA_TYPE)))
    };
    Some(SetHeader { name, shape, size: size.unwrap_or(0) })
}

fn shape(flags: u32, key: Vec<FieldType>, value: Option<u32>) -> Shape {
    match (flags, key.as_slice(), value) {
        (0, _, None) => Shape::Keys(key),
        (set::FLAG_INTERVAL, [only @ (FieldType::Ipv4 | FieldType::Ipv6)], None) => Shape::Prefixes(*only),
        (set::FLAG_MAP, _, Some(set::DATA_VERDICT)) => Shape::Map(key, ValueType::Verdict),
        (set::FLAG_MAP, _, Some(datatype::MARK)) => Shape::Map(key, ValueType::Mark),
        _ => Shape::Unknown,
    }
}

fn key_types(mut joined: u32, length: u32) -> Option<Vec<FieldType>> {
    const ALL: [FieldType; 6] =
        [FieldType::Ipv4, FieldType::Ipv6, FieldType::Protocol, FieldType::Port, FieldType::Mark, FieldType::Interface];
    let mut key = Vec::new();
    while joined != 0 {
        let number = joined & ((1 << datatype::BITS) - 1);
        key.push(ALL.into_iter().find(|field| field_datatype(*field) == number)?);
        joined >>= datatype::BITS;
    }
    key.reverse();
    (!key.is_empty() && key_length(&key) == length).then_some(key)
}

/// The name of an object or flowtable of this table (answer to NFT_MSG_GETOBJ, NFT_MSG_GETFLOWTABLE).
pub fn object(payload: &[u8], of: &str) -> Option<Name> {
    let attributes = || Attributes::after(payload, HEADER);
    let ours = attributes().find(object::TABLE)?.text()? == of;
    ours.then(|| attributes().find(object::NAME)?.text().map(Name::from))?
}

/// The elements in one message (answer to NFT_MSG_GETSETELEM).
pub fn raw_elements(payload: &[u8]) -> Vec<RawElement> {
    let list = Attributes::after(payload, HEADER).find(elements::LIST);
    list.into_iter().flat_map(|list| list.nested()).map(|item| raw_element(item.nested())).collect()
}

fn raw_element(attributes: Attributes<'_>) -> RawElement {
    /// NFTA_SET_ELEM_TIMEOUT, _EXPRESSION, _OBJREF and _EXPRESSIONS: state beside the key.
    const STATE: [u16; 4] = [4, 7, 9, 11];
    let mut raw = RawElement { key: Vec::new(), end: false, value: None, odd: false };
    for attribute in attributes {
        match attribute.kind {
            element::KEY => match attribute.nested().find(data::VALUE) {
                Some(value) => raw.key = value.value.to_vec(),
                None => raw.odd = true,
            },
            element::FLAGS => {
                let flags = attribute.be32().unwrap_or(u32::MAX);
                raw.end = flags & element::FLAG_INTERVAL_END != 0;
                raw.odd |= flags & element::FLAG_CATCH_ALL != 0;
            }
            element::DATA => raw.value = raw_value(attribute),
            element::KEY_END => raw.odd = true,
            kind => raw.odd |= STATE.contains(&kind),
        }
    }
    raw
}

fn raw_value(attribute: Attribute<'_>) -> Option<RawValue> {
    if let Some(value) = attribute.nested().find(data::VALUE) {
        return Some(RawValue::Bytes(value.value.to_vec()));
    }
    let verdict = attribute.nested().find(data::VERDICT)?;
    let code = verdict.nested().find(data::VERDICT_CODE)?.be32()?;
    let chain = verdict.nested().find(data::VERDICT_CHAIN).and_then(|chain| chain.text()).map(Name::from);
    Some(RawValue::Verdict(i32::from_be_bytes(code.to_be_bytes()), chain))
}

/// The members of a hash set, or `None` where the model has no word for one of them.
pub fn keys(types: &[FieldType], raw: &[RawElement]) -> Option<BTreeSet<Key>> {
    raw.iter().map(|element| (!element.odd).then(|| key(types, &element.key))?).collect()
}

/// The entries of a map, or `None` where the model has no word for one of them.
pub fn entries(types: &[FieldType], kind: ValueType, raw: &[RawElement]) -> Option<BTreeMap<Key, Value>> {
    let entry = |element: &RawElement| {
        let key = (!element.odd).then(|| key(types, &element.key))??;
        Some((key, value(kind, element.value.as_ref()?)?))
    };
    raw.iter().map(entry).collect()
}

/// The blocks of an interval set, or `None` where the model has no word for one of its ranges.
pub fn prefixes(field: FieldType, raw: &[RawElement]) -> Option<Elements> {
    let mut bounds = Vec::with_capacity(raw.len());
    for element in raw {
        bounds.push((address(field, &element.key).filter(|_| !element.odd)?, element.end));
    }
    // Where one block ends as the next begins, the end counts first.
    bounds.sort_by_key(|(at, end)| (*at, !end));
    let bits = u32::try_from(field_length(field)).ok()? * 8;
    let last = u128::MAX >> (128 - bits);
    let mut found = BTreeSet::new();
    let mut open: Option<u128> = None;
    for (at, end) in bounds {
        match (open, end) {
            (None, false) => open = Some(at),
            (Some(first), true) => {
                found.insert(prefix(field, bits, first, at.checked_sub(1)?)?);
                open = None;
            }
            // `nft` puts an end in front of the first block; it closes nothing.
            (None, true) => {}
            (Some(_), false) => return None,
        }
    }
    if let Some(first) = open {
        found.insert(prefix(field, bits, first, last)?);
    }
    Some(Elements::Prefixes(found))
}

fn prefix(field: FieldType, bits: u32, first: u128, last: u128) -> Option<Prefix> {
    let size_less_one = last.checked_sub(first)?;
    let host_bits = 128 - size_less_one.leading_zeros();
    let whole = size_less_one.wrapping_add(1);
    let is_prefix = (whole == 0 || whole.is_power_of_two()) && first & size_less_one == 0;
    let length = u8::try_from(bits.checked_sub(host_bits)?).ok().filter(|_| is_prefix)?;
    match field {
        FieldType::Ipv4 => {
            let network = Ipv4Addr::from(u32::try_from(first).ok()?);
            Ipv4Net::new(network, length).ok().map(Prefix::V4)
        }
        FieldType::Ipv6 => Ipv6Net::new(Ipv6Addr::from(first), length).ok().map(Prefix::V6),
        FieldType::Protocol | FieldType::Port | FieldType::Mark | FieldType::Interface => None,
    }
}

fn address(field: FieldType, bytes: &[u8]) -> Option<u128> {
    match (Attribute { kind: 0, value: bytes }).ip()? {
        IpAddr::V4(address) if field == FieldType::Ipv4 => Some(u128::from(u32::from(address))),
        IpAddr::V6(address) if field == FieldType::Ipv6 => Some(u128::from(address)),
        _ => None,
    }
}

fn key(types: &[FieldType], bytes: &[u8]) -> Option<Key> {
    let mut rest = bytes;
    let mut key = Key::with_capacity(types.len());
    for field in types {
        let length = field_length(*field);
        let padded = if types.len() > 1 { length.next_multiple_of(4) } else { length };
        let (now, later) = rest.split_at_checked(padded)?;
        key.push(field_value(*field, now.get(..length)?)?);
        rest = later;
    }
    rest.is_empty().then_some(key)
}

fn field_value(field: FieldType, bytes: &[u8]) -> Option<Field> {
    let attribute = Attribute { kind: 0, value: bytes };
    Some(match field {
        FieldType::Ipv4 | FieldType::Ipv6 => Field::from(attribute.ip()?),
        FieldType::Protocol => Field::Protocol(Protocol::from_number(attribute.u8()?)?),
        FieldType::Port => Field::Port(attribute.be16()?),
        FieldType::Mark => Field::Mark(attribute.u32()?),
        FieldType::Interface => Field::Interface(Name::from(attribute.text()?)),
    })
}

fn value(kind: ValueType, raw: &RawValue) -> Option<Value> {
    match (kind, raw) {
        (ValueType::Mark, RawValue::Bytes(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|mark| Value::Mark(u32::from_ne_bytes(mark)))
        }
        (ValueType::Verdict, RawValue::Verdict(data::JUMP, Some(chain))) => Some(Value::Jump(chain.clone())),
        (ValueType::Verdict, RawValue::Verdict(data::ACCEPT, None)) => Some(Value::Accept),
        (ValueType::Verdict, RawValue::Verdict(data::DROP, None)) => Some(Value::Drop),
        _ => None,
    }
}
