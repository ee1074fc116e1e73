//! Transactions as netlink messages (pure). The other direction is `decode.rs`.
//!
//! A set element is its key, fields one after the other; in joined keys each field is padded to 4 bytes. An interval
//! set holds the first address of each block and, marked as an end, the first address after it; a block that reaches
//! the last address has no end.

use std::net::IpAddr;

use super::expr::{ANONYMOUS_NAME, AnonymousSet, INTERFACE_LENGTH, Program, interface_bytes, push_value, push_verdict};
use super::guard::objection;
use super::uapi::{
    BATCH_BEGIN, BATCH_END, FAMILY_BRIDGE, FAMILY_INET, LIST_ELEMENT, SUBSYSTEM, chain, data, datatype, element,
    elements, hook, message, rule, set, table, userdata,
};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::filter::plan::{Change, SetKind, Transaction};
use crate::kernel::filter::{Base, BaseKind, Field, FieldType, Hook, Key, Name, Rule, TableFamily, Value, ValueType};
use crate::kernel::netlink::{Batch, Writer, flag};
use crate::net::Prefix;

/// Room for elements in one message, bytes: their list is an attribute, whose length has 16 bits.
const LIST_BYTES: usize = 60_000;
/// Bytes of attributes around the key and the data of one element, chain name not counted.
const ELEMENT_OVERHEAD: usize = 48;
/// Accept: the policy of all base chains (NF_ACCEPT).
const POLICY_ACCEPT: u32 = 1;

/// A transaction in bytes.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// BATCH_BEGIN, the messages, BATCH_END.
    pub(super) batch: Batch,
    /// For each message but the last the change it belongs to; BATCH_BEGIN counts to the first.
    pub(super) changes: Vec<usize>,
}

/// Encodes all changes. Fails on rules and names that nftables cannot express as the model means them.
pub(super) fn encode(transaction: &Transaction) -> Result<Encoded, Error> {
    let table = transaction.table.as_ref().ok_or_else(|| Error {
        op: transaction.to_string(),
        errno: None,
        message: "the transaction names no table".to_owned(),
        kind: Disposition::Fatal,
    })?;
    let mut encoder = Encoder { table, encoded: Encoded::default(), current: 0, next_id: 1 };
    encoder.encoded.batch.message(BATCH_BEGIN, 0).netfilter(0, SUBSYSTEM);
    encoder.encoded.changes.push(0);
    for (index, change) in transaction.changes.iter().enumerate() {
        encoder.current = index;
        if let Change::AddRule(_, rule) = change
            && let Some(reason) = objection(TableFamily::of(table), rule)
        {
            let op = super::text::ChangeIn { table, change }.to_string();
            return Err(Error { op, errno: None, message: reason.to_owned(), kind: Disposition::Fatal });
        }
        encoder.change(change);
    }
    encoder.encoded.batch.message(BATCH_END, 0).netfilter(0, SUBSYSTEM);
    Ok(encoder.encoded)
}

struct Encoder<'a> {
    table: &'a Name,
    encoded: Encoded,
    current: usize,
    next_id: u32,
}

impl Encoder<'_> {
    fn change(&mut self, change: &Change) {
        let create = flag::CREATE | flag::EXCL;
        match change {
            Change::AddTable => self.message(message::NEW_TABLE, flag::CREATE, |out, name| out.text(table::NAME, name)),
            Change::DeleteTable => self.message(message::DELETE_TABLE, 0, |out, name| out.text(table::NAME, name)),
            Change::AddSet(name, key, kind, size) => self.add_set(name, key, *kind, *size),
            Change::AddMap(name, key, value, size) => self.add_map(name, key, *value, *size),
            Change::DeleteSet(name) | Change::DeleteMap(name) => {
                self.message(message::DELETE_SET, 0, |out, table| {
                    out.text(set::TABLE, table);
                    out.text(set::NAME, name);
                });
            }
            Change::AddKeys(name, keys) => self.elements(message::NEW_ELEMENTS, create, name, keys, push_key),
            Change::DeleteKeys(name, keys) => self.elements(message::DELETE_ELEMENTS, 0, name, keys, push_key),
            Change::AddPrefixes(name, prefixes) => {
                self.elements(message::NEW_ELEMENTS, create, name, prefixes, push_prefix);
            }
            Change::DeletePrefixes(name, prefixes) => {
                self.elements(message::DELETE_ELEMENTS, 0, name, prefixes, push_prefix);
            }
            Change::AddEntries(name, entries) => {
                self.elements(message::NEW_ELEMENTS, create, name, entries, push_entry);
            }
            Change::DeleteEntries(name, entries) => {
                self.elements(message::DELETE_ELEMENTS, 0, name, entries, |out, (key, _)| push_key(out, key));
            }
            Change::AddChain(name, base) => self.add_chain(name, base.as_ref()),
            Change::FlushChain(name) => self.message(message::DELETE_RULE, 0, |out, table| {
                out.text(rule::TABLE, table);
                out.text(rule::CHAIN, name);
            }),
            Change::DeleteChain(name) => self.message(message::DELETE_CHAIN, 0, |out, table| {
                out.text(chain::TABLE, table);
                out.text(chain::NAME, name);
            }),
            Change::AddRule(name, rule) => self.add_rule(name, rule),
        }
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: impl FnOnce(&mut Writer<'_>, &str)) {
        let mut message = self.encoded.batch.message((SUBSYSTEM << 8) | kind, flags);
        message.netfilter(family_number(self.table), 0);
        attributes(&mut message.attributes(), self.table);
        drop(message);
        self.encoded.changes.push(self.current);
    }

    fn add_chain(&mut self, name: &Name, base: Option<&Base>) {
        self.message(message::NEW_CHAIN, flag::CREATE | flag::EXCL, |out, table| {
            out.text(chain::TABLE, table);
            out.text(chain::NAME, name);
            if let Some(base) = base {
                out.nest(chain::HOOK, |out| {
                    out.be32(hook::NUMBER, hook_number(base.hook));
                    out.bytes(hook::PRIORITY, &base.priority.to_be_bytes());
                });
                out.be32(chain::POLICY, POLICY_ACCEPT);
                out.text(chain::TYPE, kind_name(base.kind));
            }
        });
    }

    fn add_set(&mut self, name: &Name, key: &[FieldType], kind: SetKind, size: u32) {
        let id = self.new_id();
        let flags = match kind {
            SetKind::Hash => 0,
            SetKind::Interval => set::FLAG_INTERVAL,
        };
        self.message(message::NEW_SET, flag::CREATE | flag::EXCL, |out, table| {
            push_set(out, table, name, id, flags, key);
            if kind == SetKind::Hash {
                push_size(out, size);
            }
            out.bytes(set::USERDATA, &byteorder_entry(userdata::SET_KEY_BYTEORDER, key_byteorder(key)));
        });
    }

    fn add_map(&mut self, name: &Name, key: &[FieldType], value: ValueType, size: u32) {
        let id = self.new_id();
        self.message(message::NEW_SET, flag::CREATE | flag::EXCL, |out, table| {
            push_set(out, table, name, id, set::FLAG_MAP, key);
            let data_byteorder = match value {
                ValueType::Mark => {
                    out.be32(set::DATA_TYPE, datatype::MARK);
                    out.be32(set::DATA_LENGTH, 4);
                    userdata::BYTEORDER_HOST
                }
                ValueType::Verdict => {
                    out.be32(set::DATA_TYPE, set::DATA_VERDICT);
                    userdata::BYTEORDER_NONE
                }
            };
            push_size(out, size);
            let mut blob = byteorder_entry(userdata::SET_KEY_BYTEORDER, key_byteorder(key));
            blob.extend(byteorder_entry(userdata::SET_DATA_BYTEORDER, data_byteorder));
            out.bytes(set::USERDATA, &blob);
        });
    }

    fn add_rule(&mut self, chain: &Name, rule: &Rule) {
        let program = Program::new(rule, self.next_id);
        for anonymous in &program.sets {
            self.next_id = self.next_id.max(anonymous.id + 1);
            self.add_anonymous(anonymous);
        }
        self.message(message::NEW_RULE, flag::CREATE | flag::APPEND, |out, table| {
            out.text(rule::TABLE, table);
            out.text(rule::CHAIN, chain);
            out.nest(rule::EXPRESSIONS, |out| out.buffer().extend_from_slice(&program.bytes));
            out.bytes(rule::USERDATA, &comment_entry(&rule_comment(rule)));
        });
    }

    fn add_anonymous(&mut self, anonymous: &AnonymousSet) {
        self.message(message::NEW_SET, flag::CREATE | flag::EXCL, |out, table| {
            out.text(set::TABLE, table);
            out.text(set::NAME, ANONYMOUS_NAME);
            out.be32(set::FLAGS, set::FLAG_ANONYMOUS | set::FLAG_CONSTANT);
            out.be32(set::KEY_TYPE, anonymous.datatype);
            out.be32(set::KEY_LENGTH, 1);
            out.be32(set::ID, anonymous.id);
            push_size(out, u32::try_from(anonymous.members.len()).unwrap_or(u32::MAX));
            out.bytes(set::USERDATA, &byteorder_entry(userdata::SET_KEY_BYTEORDER, userdata::BYTEORDER_BIG));
        });
        self.message(message::NEW_ELEMENTS, flag::CREATE, |out, table| {
            out.text(elements::TABLE, table);
            out.text(elements::SET, ANONYMOUS_NAME);
            out.be32(elements::SET_ID, anonymous.id);
            out.nest(elements::LIST, |out| {
                for member in &anonymous.members {
                    out.nest(LIST_ELEMENT, |out| push_value(out, element::KEY, &[*member]));
                }
            });
        });
    }

    /// Elements in as many messages as they need.
    fn elements<T: ElementSize>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &Name,
        items: &[T],
        push: impl Fn(&mut Writer<'_>, &T),
    ) {
        let mut rest = items;
        while !rest.is_empty() {
            let mut room = LIST_BYTES;
            let fitting = rest.iter().take_while(|item| take_room(&mut room, item.bytes())).count().max(1);
            let (now, later) = rest.split_at(fitting);
            self.message(kind, flags, |out, table| {
                out.text(elements::TABLE, table);
                out.text(elements::SET, set);
                out.nest(elements::LIST, |out| now.iter().for_each(|item| push(out, item)));
            });
            rest = later;
        }
    }

    fn new_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

fn take_room(room: &mut usize, bytes: usize) -> bool {
    match room.checked_sub(bytes) {
        Some(left) => {
            *room = left;
            true
        }
        None => false,
    }
}

/// An upper bound of what an element needs in a message, bytes.
trait ElementSize {
    fn bytes(&self) -> usize;
}

impl ElementSize for Key {
    fn bytes(&self) -> usize {
        ELEMENT_OVERHEAD + self.len() * INTERFACE_LENGTH
    }
}

impl ElementSize for Prefix {
    fn bytes(&self) -> usize {
        2 * (ELEMENT_OVERHEAD + INTERFACE_LENGTH)
    }
}

impl ElementSize for (Key, Value) {
    fn bytes(&self) -> usize {
        let name = match &self.1 {
            Value::Jump(chain) => chain.len() + 1,
            Value::Mark(_) | Value::Accept | Value::Drop => 0,
        };
        self.0.bytes() + name
    }
}

fn push_set(out: &mut Writer<'_>, table: &str, name: &str, id: u32, flags: u32, key: &[FieldType]) {
    out.text(set::TABLE, table);
    out.text(set::NAME, name);
    out.be32(set::FLAGS, flags);
    out.be32(set::KEY_TYPE, key_datatype(key));
    out.be32(set::KEY_LENGTH, key_length(key));
    out.be32(set::ID, id);
}

/// A declared size selects the faster of the kernel's hash sets and bounds memory; 0 declares none.
fn push_size(out: &mut Writer<'_>, size: u32) {
    if size != 0 {
        out.nest(set::DESCRIPTION, |out| out.be32(set::DESCRIPTION_SIZE, size));
    }
}

fn push_key(out: &mut Writer<'_>, key: &Key) {
    out.nest(LIST_ELEMENT, |out| push_value(out, element::KEY, &key_bytes(key)));
}

fn push_entry(out: &mut Writer<'_>, (key, value): &(Key, Value)) {
    out.nest(LIST_ELEMENT, |out| {
        push_value(out, element::KEY, &key_bytes(key));
        match value {
            Value::Mark(mark) => push_value(out, element::DATA, &mark.to_ne_bytes()),
            Value::Jump(chain) => push_verdict(out, element::DATA, data::JUMP, Some(chain)),
            Value::Accept => push_verdict(out, element::DATA, data::ACCEPT, None),
            Value::Drop => push_verdict(out, element::DATA, data::DROP, None),
        }
    });
}

fn push_prefix(out: &mut Writer<'_>, prefix: &Prefix) {
    out.nest(LIST_ELEMENT, |out| push_value(out, element::KEY, &address_bytes(prefix.network())));
    if let Some(end) = address_after(prefix) {
        out.nest(LIST_ELEMENT, |out| {
            out.be32(element::FLAGS, element::FLAG_INTERVAL_END);
            push_value(out, element::KEY, &end);
        });
    }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The first address after a block; none after the last one.
fn address_after(prefix: &Prefix) -> Option<Vec<u8>> {
    match prefix {
        Prefix::V4(prefix) => u32::from(prefix.broadcast()).checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        Prefix::V6(prefix) => u128::from(prefix.broadcast()).checked_add(1).map(|next| next.to_be_bytes().to_vec()),
    }
}

/// The bytes of a key as registers hold them.
pub(super) fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INTERFACE_LENGTH);
    for field in key {
        match field {
            Field::Ipv4(address) => bytes.extend(address.octets()),
            Field::Ipv6(address) => bytes.extend(address.octets()),
            Field::Protocol(protocol) => bytes.push(protocol.number()),
            Field::Port(port) => bytes.extend(port.to_be_bytes()),
            Field::Mark(mark) => bytes.extend(mark.to_ne_bytes()),
            Field::Interface(name) => bytes.extend(interface_bytes(name)),
        }
        if key.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// Bytes of one field.
pub(super) fn field_length(field: FieldType) -> usize {
    match field {
        FieldType::Ipv4 | FieldType::Mark => 4,
        FieldType::Ipv6 | FieldType::Interface => 16,
        FieldType::Protocol => 1,
        FieldType::Port => 2,
    }
}

/// Bytes of a key.
pub(super) fn key_length(key: &[FieldType]) -> u32 {
    let length = match key {
        [only] => field_length(*only),
        fields => fields.iter().map(|field| field_length(*field).next_multiple_of(4)).sum(),
    };
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The `nft` program's number of a field type.
pub(super) fn field_datatype(field: FieldType) -> u32 {
    match field {
        FieldType::Ipv4 => datatype::IPV4,
        FieldType::Ipv6 => datatype::IPV6,
        FieldType::Protocol => datatype::PROTOCOL,
        FieldType::Port => datatype::PORT,
        FieldType::Mark => datatype::MARK,
        FieldType::Interface => datatype::INTERFACE,
    }
}

/// The `nft` program's number of a key type: one field after the other, 6 bits each.
fn key_datatype(key: &[FieldType]) -> u32 {
    key.iter().fold(0, |joined, field| (joined << datatype::BITS) | field_datatype(*field))
}

fn key_byteorder(key: &[FieldType]) -> u32 {
    match key {
        [FieldType::Mark | FieldType::Interface] => userdata::BYTEORDER_HOST,
        [_] => userdata::BYTEORDER_BIG,
        _ => userdata::BYTEORDER_NONE,
    }
}

fn byteorder_entry(kind: u8, byteorder: u32) -> Vec<u8> {
    let mut entry = vec![kind, 4];
    entry.extend(byteorder.to_ne_bytes());
    entry
}

/// The comment `nft list` shows for a rule: why it is there, and the digest by which we know it again.
pub(super) fn rule_comment(rule: &Rule) -> String {
    // User data of a comment is 128 bytes at most for `nft`; the digest needs 18 and the terminating zero 1.
    const LONGEST: usize = 109;
    let mut text: &str = &rule.comment;
    while text.len() > LONGEST {
        text = text.char_indices().next_back().map_or("", |(at, _)| text.get(..at).unwrap_or_default());
    }
    let digest = rule.digest();
    if text.is_empty() { format!("#{digest:016x}") } else { format!("{text} #{digest:016x}") }
}

fn comment_entry(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let mut entry = vec![userdata::RULE_COMMENT, length];
    entry.extend(comment.bytes());
    entry.push(0);
    entry
}

/// The kernel's number of a table's family (NFPROTO_*).
pub(super) fn family_number(table: &str) -> u8 {
    match TableFamily::of(table) {
        TableFamily::Inet => FAMILY_INET,
        TableFamily::Bridge => FAMILY_BRIDGE,
    }
}

/// The number of a hook: enum nf_inet_hooks, and the same in family `bridge` (NF_BR_*, `netfilter_bridge.h`).
pub(super) fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// The kernel's name of a chain type.
pub(super) fn kind_name(kind: BaseKind) -> &'static str {
    match kind {
        BaseKind::Filter => "filter",
        BaseKind::Nat => "nat",
        BaseKind::Route => "route",
    }
}
