//! What iptables does with a packet, read from the text of its rules.
//!
//! Understands the words our renderer uses, and panics at any other. Packets have no marks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::tracer::{Fate, Packet, Tracking};
use crate::kernel::filter::{CtState, Hook};
use crate::kernel::ipset::Element;
use crate::kernel::iptables::Table;
use crate::kernel::iptables::render::{Rendered, RenderedSet};
use crate::net::{Family, Prefix};

/// Chains of one table by name, each a list of rules without their chain.
pub type Chains = BTreeMap<String, Vec<String>>;

/// The rules of one node.
#[derive(Clone, Debug, Default)]
pub struct IptablesTracer {
    tables: BTreeMap<(Family, Table), Chains>,
    sets: BTreeMap<Arc<str>, RenderedSet>,
    local: Vec<IpAddr>,
}

/// A packet, what is known of its connection, and the link it came in by.
type Traced = (Packet, Tracking, &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Continue,
    Accept,
    Drop,
    Reject,
}

impl IptablesTracer {
    /// A node with these addresses and what a ruleset was rendered to.
    pub fn new(rendered: &Rendered, local: &[IpAddr]) -> IptablesTracer {
        let mut tables: BTreeMap<(Family, Table), Chains> = BTreeMap::new();
        for (place, rules) in &rendered.rules {
            let chains = tables.entry(*place).or_default();
            for (name, lines) in &rules.chains {
                chains.insert(name.to_string(), lines.iter().map(|line| line.text.clone()).collect());
            }
            for (hook, entries) in &rules.entries {
                let jumps = entries.iter().map(|entry| format!("-j {}", entry.target)).collect();
                chains.insert((*hook).to_owned(), jumps);
            }
        }
        IptablesTracer { tables, sets: rendered.sets.clone(), local: local.to_vec() }
    }

    /// What the chains of one hook do to a packet; `None` when they let it through.
    pub fn hook(&self, hook: Hook, packet: Packet) -> Option<Fate> {
        self.hook_tracked(hook, packet, Tracking::default())
    }

    /// The same for a packet of a connection that is known.
    pub fn hook_tracked(&self, hook: Hook, packet: Packet, tracking: Tracking) -> Option<Fate> {
        self.hook_from(hook, packet, tracking, "")
    }

    /// The same for a packet that came in by a link.
    pub fn hook_from(&self, hook: Hook, packet: Packet, tracking: Tracking, link: &'static str) -> Option<Fate> {
        let packet = (packet, tracking, link);
        let name = match hook {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        };
        let family = Family::of(packet.0.destination);
        for table in [Table::Mangle, Table::Filter] {
            let Some(chains) = self.tables.get(&(family, table)) else { continue };
            match self.walk(chains, name, packet, 0) {
                Verdict::Continue | Verdict::Accept => {}
                Verdict::Drop => return Some(Fate::Dropped),
                Verdict::Reject => return Some(Fate::Refused),
            }
        }
        None
    }

    fn walk(&self, chains: &Chains, chain: &str, packet: Traced, depth: usize) -> Verdict {
        assert!(depth < 64, "jumps do not end");
        let none = Vec::new();
        let rules = match chains.get(chain) {
            Some(rules) => rules,
            None if depth == 0 => &none,
            None => panic!("no chain {chain}"),
        };
        for rule in rules {
            let words: Vec<&str> = rule.split_whitespace().collect();
            let Some(target) = self.matches(&words, packet) else { continue };
            match target {
                ["-j", "RETURN"] => return Verdict::Continue,
                ["-j", "ACCEPT"] => return Verdict::Accept,
                ["-j", "DROP"] => return Verdict::Drop,
                ["-j", "REJECT", ..] => return Verdict::Reject,
                ["-j", "MARK" | "CONNMARK" | "NFLOG" | "TCPMSS", ..] => {}
                // Whatever is found there, this chain is left.
                ["-g", next] => return self.walk(chains, next, packet, depth + 1),
                ["-j", next] => match self.walk(chains, next, packet, depth + 1) {
                    Verdict::Continue => {}
                    verdict => return verdict,
                },
                other => panic!("{other:?} in {rule}"),
            }
        }
        Verdict::Continue
    }

    /// The target, where the packet fulfils every condition.
    fn matches<'a, 'b>(&self, words: &'b [&'a str], (packet, tracking, link): Traced) -> Option<&'b [&'a str]> {
        let mut rest = words;
        loop {
            let (fulfilled, used) = match rest {
                ["-j" | "-g", ..] => return Some(rest),
                ["-i", name, ..] => (*name == link, 2),
                ["-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", _, ..] => (false, 6),
                ["-p", protocol, ..] => (*protocol == packet.protocol.to_string(), 2),
                ["-m", "tcp" | "udp" | "sctp", "--dport", range, ..] => {
                    let (first, last) = range.split_once(':').unwrap_or((range, range));
                    let bound = |text: &str| text.parse::<u16>().expect("a port");
                    ((bound(first)..=bound(last)).contains(&packet.port), 4)
                }
                ["-m", "set", "!", "--match-set", set, directions, ..] => (!self.in_set(set, directions, packet), 6),
                ["-m", "set", "--match-set", set, directions, ..] => (self.in_set(set, directions, packet), 5),
                ["-m", "addrtype", "!", "--src-type", "LOCAL", ..] => (!self.local.contains(&packet.source), 5),
                ["-m", "addrtype", "--src-type", "LOCAL", ..] => (self.local.contains(&packet.source), 4),
                ["-m", "addrtype", "!", "--dst-type", "LOCAL", ..] => (!self.local.contains(&packet.destination), 5),
                ["-m", "addrtype", "--dst-type", "LOCAL", ..] => (self.local.contains(&packet.destination), 4),
                ["-m", "conntrack", "--ctstate", states, ..] => {
                    let wanted = match tracking.state() {
                        CtState::Established => "ESTABLISHED",
                        _ => "NEW",
                    };
                    (states.split(',').any(|state| state == wanted), 4)
                }
                ["-m", "conntrack", "--ctdir", direction, ..] => ((*direction == "REPLY") == tracking.reply, 4),
                ["-m", "connmark", "--mark", bits, ..] => {
                    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a mark");
                    let (value, mask) = bits.split_once('/').expect("a mask");
                    (tracking.mark & number(mask) == number(value), 4)
                }
                ["-m", "limit", "--limit", _, "--limit-burst", _, ..] => (true, 6),
                other => panic!("{other:?} in {words:?}"),
            };
            if !fulfilled {
                return None;
            }
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    fn in_set(&self, set: &str, directions: &str, packet: Packet) -> bool {
        let found = self.sets.get(set).unwrap_or_else(|| panic!("no set {set}"));
        let side = |at: usize| directions.split(',').nth(at).expect("a direction");
        let address = |at: usize| if side(at) == "src" { packet.source } else { packet.destination };
        let port = |at: usize| if side(at) == "src" { packet.source_port } else { packet.port };
        found.elements.iter().any(|element| match element {
            Element::Address(one) => *one == address(0),
            Element::Block(block) => Prefix::contains(block, &address(0)),
            Element::Socket(one, protocol, number) => {
                *one == address(0) && *protocol == packet.protocol.number() && *number == port(1)
            }
            Element::Pair(one, other) => *one == address(0) && *other == address(1),
            Element::Port(number) => *number == port(0),
        })
    }
}
