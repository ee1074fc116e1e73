//! The operators' language: tables as `nft list table` prints them, changes as `nft` commands (pure).
//!
//! Everything printed here is valid input for `nft -f`, and loads the same expressions as the netlink encoder writes;
//! the contract suite compares the two on a real kernel.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;

use super::codec::{kind_name, rule_comment};
use super::expr::inner;
use super::guard::{Check, Context, ICMP, ICMPV6};
use crate::kernel::filter::plan::{Change, SetKind, Transaction};
use crate::kernel::filter::{
    Base, Chain, CtState, Elements, Field, FieldType, Hook, Map, Match, Name, Rule, Ruleset, Selector, Set, Statement,
    TableFamily, Value, ValueType,
};
use crate::net::{Family, Prefix, Protocol};

/// Elements shown of a change in an error or a log line; the rest is counted.
const BRIEF: usize = 3;

/// A whole table, as `nft list table` shows it: sets, maps, chains, each in the order of their names.
pub fn render(table: &str, ruleset: &Ruleset) -> String {
    let blocks: Vec<String> = ruleset
        .sets
        .iter()
        .map(|(name, set)| set_block(name, set))
        .chain(ruleset.maps.iter().map(|(name, map)| map_block(name, map)))
        .chain(ruleset.chains.iter().map(|(name, chain)| chain_block(name, chain)))
        .collect();
    format!("table {} {table} {{\n{}}}\n", TableFamily::of(table), blocks.join("\n"))
}

fn set_block(name: &str, set: &Set) -> String {
    let mut out = format!("\tset {name} {{\n\t\ttype {}\n", joined(&set.key, |field| field_name(*field)));
    let elements: Vec<String> = match &set.elements {
        Elements::Keys(keys) => {
            push_size(&mut out, set.size);
            keys.iter().map(|key| key_text(key)).collect()
        }
        Elements::Prefixes(prefixes) => {
            out.push_str("\t\tflags interval\n");
            prefixes.iter().map(prefix_text).collect()
        }
    };
    push_elements(&mut out, &elements);
    out.push_str("\t}\n");
    out
}

fn map_block(name: &str, map: &Map) -> String {
    let key = joined(&map.key, |field| field_name(*field));
    let mut out = format!("\tmap {name} {{\n\t\ttype {key} : {}\n", value_type_name(map.value));
    push_size(&mut out, map.size);
    let entries: Vec<String> = map.elements.iter().map(|(key, value)| entry_text(key, value)).collect();
    push_elements(&mut out, &entries);
    out.push_str("\t}\n");
    out
}

fn chain_block(name: &str, chain: &Chain) -> String {
    let mut out = format!("\tchain {name} {{\n");
    if let Some(base) = &chain.base {
        let _ = writeln!(out, "\t\t{}", base_text(base));
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule_text(rule));
    }
    out.push_str("\t}\n");
    out
}

fn push_size(out: &mut String, size: u32) {
    if size != 0 {
        let _ = writeln!(out, "\t\tsize {size}");
    }
}

/// One element a line: a change of one element is a change of one line.
fn push_elements(out: &mut String, elements: &[String]) {
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
}

fn base_text(base: &Base) -> String {
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    format!("type {} hook {hook} priority {}; policy accept;", kind_name(base.kind), base.priority)
}

/// A rule as `nft` takes it: checks that `nft` adds by itself are left out, the others are said.
pub fn rule_text(rule: &Rule) -> String {
    let mut words = Vec::new();
    let mut context = Context::default();
    for matched in &rule.matches {
        words.extend(
            context.before_match(matched).into_iter().filter(|guard| !guard.implied).map(|g| check_text(g.check)),
        );
        // The guards say all of it.
        if !matches!(matched, Match::IpInIp(_)) {
            words.push(match_text(matched));
        }
    }
    for statement in &rule.statements {
        let guards = context.before_statement(statement).into_iter().filter(|guard| !guard.implied);
        words.extend(guards.map(|guard| check_text(guard.check)));
        words.push(statement_text(statement));
    }
    words.push(format!("comment \"{}\"", rule_comment(rule)));
    words.join(" ")
}

fn check_text(check: Check) -> String {
    match check {
        Check::Family(family) => format!("meta nfproto {family}"),
        Check::Protocol(ICMP) => "meta l4proto icmp".to_owned(),
        Check::Protocol(ICMPV6) => "meta l4proto ipv6-icmp".to_owned(),
        Check::Protocol(number) => match Protocol::from_number(number) {
            Some(protocol) => format!("meta l4proto {protocol}"),
            None => format!("meta l4proto {number}"),
        },
        Check::Ported => "meta l4proto { tcp, udp, sctp }".to_owned(),
        Check::Ethernet => "meta iiftype ether".to_owned(),
    }
}

fn match_text(matched: &Match) -> String {
    let unless = |negated: bool| if negated { "!= " } else { "" };
    match matched {
        Match::Family(family) => check_text(Check::Family(*family)),
        Match::Protocol(protocol) => check_text(Check::Protocol(protocol.number())),
        Match::InSet { selectors, set, negated } => {
            format!("{} {}@{set}", joined(selectors, |selector| selector_name(*selector)), unless(*negated))
        }
        Match::DestinationPorts { first, last } if first == last => format!("th dport {first}"),
        Match::DestinationPorts { first, last } => format!("th dport {first}-{last}"),
        Match::IpInIp(_) => String::new(),
        Match::InnerIsOpaque(Family::V4) => format!("{} != {:#04x}", inner_text(0, 1), inner::PLAIN_IPV4),
        Match::InnerIsOpaque(Family::V6) => {
            let plain: Vec<String> = inner::PLAIN_PROTOCOLS.iter().map(u8::to_string).collect();
            format!("{} != {{ {} }}", inner_text(inner::NEXT_HEADER, 1), plain.join(", "))
        }
        Match::InnerProtocol(family, protocol) => {
            let offset = match family {
                Family::V4 => inner::PROTOCOL,
                Family::V6 => inner::NEXT_HEADER,
            };
            format!("{} {}", inner_text(offset, 1), protocol.number())
        }
        Match::InnerDestinationPorts { family, first, last } => {
            let port = inner_text(inner::destination_port(*family), 2);
            if first == last { format!("{port} {first}") } else { format!("{port} {first}-{last}") }
        }
        Match::IcmpTypes { family, types } => {
            let word = match family {
                Family::V4 => "icmp",
                Family::V6 => "icmpv6",
            };
            match types.as_slice() {
                [only] => format!("{word} type {only}"),
                many => {
                    let many: Vec<String> = many.iter().map(u8::to_string).collect();
                    format!("{word} type {{ {} }}", many.join(", "))
                }
            }
        }
        Match::SourceIsLocal { negated } => format!("fib saddr type {}local", unless(*negated)),
        Match::DestinationIsLocal { negated } => format!("fib daddr type {}local", unless(*negated)),
        Match::InputInterface { name, negated } => format!("iifname {}\"{name}\"", unless(*negated)),
        Match::CtState(states) => {
            let states: Vec<&str> = states.iter().map(|state| state_name(*state)).collect();
            format!("ct state {}", states.join(","))
        }
        Match::CtDirectionOriginal => "ct direction original".to_owned(),
        Match::CtDirectionReply => "ct direction reply".to_owned(),
        Match::CtMark { mask: u32::MAX, value } => format!("ct mark {value:#010x}"),
        Match::CtMark { mask, value } => format!("ct mark & {mask:#010x} == {value:#010x}"),
        Match::SourceStation([a, b, c, d, e, f]) => {
            format!("ether saddr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        }
        Match::InputBridge(name) => format!("meta ibrname \"{name}\""),
        Match::EtherType(number) => format!("ether type {number:#06x}"),
        Match::Mark { mask: u32::MAX, value } => format!("meta mark {value:#010x}"),
        Match::Mark { mask, value } => format!("meta mark & {mask:#010x} == {value:#010x}"),
        Match::TcpFlags { mask, value } => format!("tcp flags & {mask:#04x} == {value:#04x}"),
    }
}

fn statement_text(statement: &Statement) -> String {
    let randomly = |random: bool| if random { " fully-random" } else { "" };
    match statement {
        Statement::Counter => "counter".to_owned(),
        Statement::SetMark(mark) => format!("meta mark set {mark:#010x}"),
        Statement::SetMarkBits { mask, value } => format!("meta mark set meta mark {}", bits_text(*mask, *value)),
        Statement::SetCtMarkBits { mask, value } => format!("ct mark set ct mark {}", bits_text(*mask, *value)),
        Statement::SetMarkFromMap { selectors, map } => {
            format!("meta mark set {} map @{map}", joined(selectors, |selector| selector_name(*selector)))
        }
        Statement::VerdictMap { selectors, map } => {
            format!("{} vmap @{map}", joined(selectors, |selector| selector_name(*selector)))
        }
        Statement::Snat { to: to @ IpAddr::V4(_), random } => format!("snat ip to {to}{}", randomly(*random)),
        Statement::Snat { to: to @ IpAddr::V6(_), random } => format!("snat ip6 to {to}{}", randomly(*random)),
        Statement::SnatToOriginalDestination { family: Family::V4 } => "snat ip to ct original ip daddr".to_owned(),
        Statement::SnatToOriginalDestination { family: Family::V6 } => "snat ip6 to ct original ip6 daddr".to_owned(),
        Statement::Masquerade { random } => format!("masquerade{}", randomly(*random)),
        Statement::ClampSegment(size) => format!("tcp option maxseg size > {size} tcp option maxseg size set {size}"),
        Statement::Log { group, per_minute } => {
            format!("limit rate {per_minute}/minute burst {per_minute} packets log group {group}")
        }
        Statement::Reject => "reject with icmpx port-unreachable".to_owned(),
        Statement::Drop => "drop".to_owned(),
        Statement::Accept => "accept".to_owned(),
        Statement::Return => "return".to_owned(),
        Statement::Jump(chain) => format!("jump {chain}"),
    }
}

/// As `nft list` writes it: the bits that are set are not masked first.
fn bits_text(mask: u32, value: u32) -> String {
    let value = value & mask;
    if value == 0 { format!("& {:#010x}", !mask) } else { format!("& {:#010x} | {value:#010x}", !mask | value) }
}

fn state_name(state: CtState) -> &'static str {
    match state {
        CtState::Invalid => "invalid",
        CtState::Established => "established",
        CtState::Related => "related",
        CtState::New => "new",
        CtState::Untracked => "untracked",
    }
}

/// Bytes of the packet inside a packet, as `nft` prints what it has no word for. Sets of addresses looked up so are printed
/// by `nft list` and refused by `nft -f`, which wants types: only the kernel's own interface takes them.
fn inner_text(offset: u32, length: u32) -> String {
    format!("@th,{},{}", offset * 8, length * 8)
}

fn selector_name(selector: Selector) -> &'static str {
    match selector {
        Selector::InnerSource4 => "@th,96,32",
        Selector::InnerSource6 => "@th,64,128",
        Selector::InnerDestinationPort4 => "@th,176,16",
        Selector::InnerDestinationPort6 => "@th,336,16",
        Selector::Source4 => "ip saddr",
        Selector::Source6 => "ip6 saddr",
        Selector::Destination4 => "ip daddr",
        Selector::Destination6 => "ip6 daddr",
        Selector::Protocol => "meta l4proto",
        Selector::SourcePort => "th sport",
        Selector::DestinationPort => "th dport",
        Selector::OriginalDestination4 => "ct original ip daddr",
        Selector::OriginalDestination6 => "ct original ip6 daddr",
        Selector::OriginalDestinationPort => "ct original proto-dst",
        Selector::Mark => "meta mark",
        Selector::InputInterface => "iifname",
        Selector::OutputInterface => "oifname",
    }
}

fn field_name(field: FieldType) -> &'static str {
    match field {
        FieldType::Ipv4 => "ipv4_addr",
        FieldType::Ipv6 => "ipv6_addr",
        FieldType::Protocol => "inet_proto",
        FieldType::Port => "inet_service",
        FieldType::Mark => "mark",
        FieldType::Interface => "ifname",
    }
}

fn value_type_name(value: ValueType) -> &'static str {
    match value {
        ValueType::Mark => "mark",
        ValueType::Verdict => "verdict",
    }
}

fn field_text(field: &Field) -> String {
    match field {
        Field::Ipv4(address) => address.to_string(),
        Field::Ipv6(address) => address.to_string(),
        Field::Protocol(protocol) => protocol.to_string(),
        Field::Port(port) => port.to_string(),
        Field::Mark(mark) => format!("{mark:#010x}"),
        Field::Interface(name) => format!("\"{name}\""),
    }
}

fn key_text(key: &[Field]) -> String {
    joined(key, field_text)
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Mark(mark) => format!("{mark:#010x}"),
        Value::Jump(chain) => format!("jump {chain}"),
        Value::Accept => "accept".to_owned(),
        Value::Drop => "drop".to_owned(),
    }
}

fn entry_text(key: &[Field], value: &Value) -> String {
    format!("{} : {}", key_text(key), value_text(value))
}

fn prefix_text(prefix: &Prefix) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() { prefix.addr().to_string() } else { prefix.trunc().to_string() }
}

fn joined<T, S: Display>(parts: &[T], text: impl Fn(&T) -> S) -> String {
    let parts: Vec<String> = parts.iter().map(|part| text(part).to_string()).collect();
    parts.join(" . ")
}

/// One change together with the table it is about; `Display` prints the `nft` command.
#[derive(Clone, Copy, Debug)]
pub struct ChangeIn<'a> {
    /// The table.
    pub table: &'a str,
    /// The change.
    pub change: &'a Change,
}

impl ChangeIn<'_> {
    /// The command with at most three elements, for errors and log lines.
    pub fn brief(&self) -> String {
        self.command(BRIEF)
    }

    fn command(&self, limit: usize) -> String {
        let ChangeIn { table, change } = self;
        let table = format!("{} {table}", TableFamily::of(table));
        let elements = |verb: &str, set: &Name, elements: Vec<String>| {
            format!("{verb} element {table} {set} {{ {} }}", listed(&elements, limit))
        };
        match change {
            Change::AddTable => format!("add table {table}"),
            Change::DeleteTable => format!("delete table {table}"),
            Change::AddSet(name, key, kind, size) => {
                let more = match kind {
                    SetKind::Hash if *size != 0 => format!(" size {size};"),
                    SetKind::Hash => String::new(),
                    SetKind::Interval => " flags interval;".to_owned(),
                };
                let key = joined(key, |field| field_name(*field));
                format!("add set {table} {name} {{ type {key};{more} }}")
            }
            Change::AddMap(name, key, value, size) => {
                let key = joined(key, |field| field_name(*field));
                let size = if *size == 0 { String::new() } else { format!(" size {size};") };
                format!("add map {table} {name} {{ type {key} : {};{size} }}", value_type_name(*value))
            }
            Change::DeleteSet(name) => format!("delete set {table} {name}"),
            Change::DeleteMap(name) => format!("delete map {table} {name}"),
            Change::AddKeys(name, keys) => elements("add", name, keys.iter().map(|key| key_text(key)).collect()),
            Change::DeleteKeys(name, keys) => elements("delete", name, keys.iter().map(|key| key_text(key)).collect()),
            Change::AddPrefixes(name, prefixes) => elements("add", name, prefixes.iter().map(prefix_text).collect()),
            Change::DeletePrefixes(name, prefixes) => {
                elements("delete", name, prefixes.iter().map(prefix_text).collect())
            }
            Change::AddEntries(name, entries) => {
                elements("add", name, entries.iter().map(|(key, value)| entry_text(key, value)).collect())
            }
            Change::DeleteEntries(name, entries) => {
                elements("delete", name, entries.iter().map(|(key, value)| entry_text(key, value)).collect())
            }
            Change::AddChain(name, None) => format!("add chain {table} {name}"),
            Change::AddChain(name, Some(base)) => format!("add chain {table} {name} {{ {} }}", base_text(base)),
            Change::FlushChain(name) => format!("flush chain {table} {name}"),
            Change::DeleteChain(name) => format!("delete chain {table} {name}"),
            Change::AddRule(chain, rule) => format!("add rule {table} {chain} {}", rule_text(rule)),
        }
    }
}

fn listed(elements: &[String], limit: usize) -> String {
    let shown = elements.get(..limit).unwrap_or(elements);
    let left_out = elements.len().saturating_sub(shown.len());
    let more = if left_out == 0 { String::new() } else { format!(", … {left_out} more") };
    format!("{}{more}", shown.join(", "))
}

impl Display for ChangeIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command(usize::MAX))
    }
}

/// One `nft` command a line.
impl Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.as_deref().unwrap_or("?");
        for change in &self.changes {
            writeln!(f, "{}", ChangeIn { table, change })?;
        }
        Ok(())
    }
}
