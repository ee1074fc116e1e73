//! The neutral rule model of all rooms: sets, maps, chains, rules and verdicts, in one table for each room.
//!
//! A room builds a [`Ruleset`] (pure), [`plan::plan`] compares it with what a backend observed, and the backend
//! commits the [`plan::Transaction`]. The model holds what both nftables and iptables + ipset can say, so that both
//! renderers stay thin. Must not know Kubernetes, and does no I/O.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::kernel::error::Error;
use crate::net::{Prefix, Protocol};

/// A name of a table, chain, set or map: a letter, then letters, digits, `-` and `_`, at most 64 bytes. No word of
/// nft's grammar that could stand in its place (`mark`, `drop` …), or the text form cannot be loaded.
pub type Name = Arc<str>;

/// The ending of the names of tables of family `bridge`: a table's name tells what its rules see.
const BRIDGE_ENDING: &str = "-bridge";

/// What packets the rules of a table see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFamily {
    /// IPv4 and IPv6, where the host takes, passes on or sends them: every table but those of the other kind.
    Inet,
    /// Frames of bridges: tables whose name ends in `-bridge`. Only nftables has them, and of conditions they have
    /// [`Match::InputBridge`] and [`Match::EtherType`].
    Bridge,
}

impl TableFamily {
    /// What a table's name says of it.
    pub fn of(table: &str) -> TableFamily {
        if table.ends_with(BRIDGE_ENDING) { TableFamily::Bridge } else { TableFamily::Inet }
    }
}

impl std::fmt::Display for TableFamily {
    /// As `nft` calls it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TableFamily::Inet => "inet",
            TableFamily::Bridge => "bridge",
        })
    }
}

/// Everything one table should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Named sets.
    pub sets: BTreeMap<Name, Set>,
    /// Named maps.
    pub maps: BTreeMap<Name, Map>,
    /// Chains.
    pub chains: BTreeMap<Name, Chain>,
}

/// The type of one field of a set key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldType {
    /// `ipv4_addr`.
    Ipv4,
    /// `ipv6_addr`.
    Ipv6,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`.
    Port,
    /// `mark`.
    Mark,
    /// `ifname`.
    Interface,
}

/// One field of a set element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A layer-4 protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
    /// A packet mark.
    Mark(u32),
    /// An interface name.
    Interface(Name),
}

impl From<IpAddr> for Field {
    fn from(address: IpAddr) -> Field {
        match address {
            IpAddr::V4(address) => Field::Ipv4(address),
            IpAddr::V6(address) => Field::Ipv6(address),
        }
    }
}

/// A set key: one field, or several joined (`ipv4_addr . inet_proto . inet_service`).
pub type Key = Vec<Field>;

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Field types of its key.
    pub key: Vec<FieldType>,
    /// Its members.
    pub elements: Elements,
    /// Upper bound of the number of elements of a hash set, declared to the kernel: loads faster, bounds memory.
    pub size: u32,
}

/// The members of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Single keys, in a hash set.
    Keys(BTreeSet<Key>),
    /// Address blocks, in an interval set: one field, never overlapping (merge them with [`merge_prefixes`]).
    Prefixes(BTreeSet<Prefix>),
}

/// A named map from keys to marks or verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Field types of its key.
    pub key: Vec<FieldType>,
    /// Its entries; all values of the same kind.
    pub elements: BTreeMap<Key, Value>,
    /// What the values are.
    pub value: ValueType,
    /// Upper bound of the number of entries.
    pub size: u32,
}

/// The kind of a map's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Packet marks.
    Mark,
    /// Verdicts.
    Verdict,
}

/// One value of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A packet mark.
    Mark(u32),
    /// Continue in this chain and come back.
    Jump(Name),
    /// Accept.
    Accept,
    /// Drop.
    Drop,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it, for base chains.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The hook of a base chain. Its policy is always accept: a room that wants to deny says so in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The chain type.
    pub kind: BaseKind,
    /// The hook.
    pub hook: Hook,
    /// Order among chains of the same hook; lower is earlier (constants in `kernel/nft/priority.rs`).
    pub priority: i32,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum BaseKind {
    Filter,
    Nat,
    Route,
}

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// One rule: all matches must hold, then the statements run in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions, all of which must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub statements: Vec<Statement>,
    /// Why the rule is there, shown by `nft list`; at most 100 bytes, no quotes or control characters.
    pub comment: Name,
}

/// Something read from a packet, as part of a set or map key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `ip saddr`.
    Source4,
    /// `ip6 saddr`.
    Source6,
    /// `ip daddr`.
    Destination4,
    /// `ip6 daddr`.
    Destination6,
    /// `meta l4proto`.
    Protocol,
    /// `th sport`.
    SourcePort,
    /// `th dport`.
    DestinationPort,
    /// `ct original ip daddr`: whom the client asked, before any translation.
    OriginalDestination4,
    /// `ct original ip6 daddr`.
    OriginalDestination6,
    /// `ct original proto-dst`.
    OriginalDestinationPort,
    /// `meta mark`.
    Mark,
    /// `iifname`.
    InputInterface,
    /// `oifname`.
    OutputInterface,
    /// Source of the packet inside an IPv4-in-IPv4 packet. This and the next three only in chains that a rule with
    /// [`Match::IpInIp`] leads to, and no other: for other packets the same bytes mean something else.
    InnerSource4,
    /// Source of the packet inside an IPv6-in-IPv6 packet.
    InnerSource6,
    /// Destination port of the packet inside an IPv4-in-IPv4 packet whose inner header has no options.
    InnerDestinationPort4,
    /// Destination port of the packet inside an IPv6-in-IPv6 packet whose inner header has no extensions.
    InnerDestinationPort6,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet is of this family (`meta nfproto`).
    Family(crate::net::Family),
    /// The joined selectors are (or are not) in a named set.
    InSet {
        /// What to look up.
        selectors: Vec<Selector>,
        /// Where.
        set: Name,
        /// True to match when absent.
        negated: bool,
    },
    /// The protocol is one of Kubernetes' (`meta l4proto`).
    Protocol(Protocol),
    /// The destination port is from the first to the last, both included (`th dport`). A protocol with ports must be
    /// matched before it, else any of them will do.
    DestinationPorts {
        /// The first.
        first: u16,
        /// The last.
        last: u16,
    },
    /// A packet of this family in another one of the same (IP protocol 4, RFC 2003, and 41, RFC 2473).
    IpInIp(crate::net::Family),
    /// What is inside (of a packet that [`Match::IpInIp`] has led here) has options or extension headers, so that its protocol or ports are not where they usually are.
    InnerIsOpaque(crate::net::Family),
    /// The protocol of the packet inside.
    InnerProtocol(crate::net::Family, Protocol),
    /// The destination port of the packet inside is from the first to the last, both included. Its protocol must be
    /// matched before.
    InnerDestinationPorts {
        /// Of both packets.
        family: crate::net::Family,
        /// The first.
        first: u16,
        /// The last.
        last: u16,
    },
    /// ICMP of this family with one of these types (`icmp type`, `icmpv6 type`).
    IcmpTypes {
        /// Which ICMP.
        family: crate::net::Family,
        /// Type numbers.
        types: Vec<u8>,
    },
    /// The source is (or is not) an address of this host (`fib saddr type local`).
    SourceIsLocal {
        /// True to match when it is not.
        negated: bool,
    },
    /// The destination is (or is not) an address of this host (`fib daddr type local`).
    DestinationIsLocal {
        /// True to match when it is not.
        negated: bool,
    },
    /// In from (or not from) this interface (`iifname`).
    InputInterface {
        /// Exact name.
        name: Name,
        /// True to match any other.
        negated: bool,
    },
    /// Connection tracking state is one of these.
    CtState(Vec<CtState>),
    /// The packet goes in the original direction of its connection.
    CtDirectionOriginal,
    /// The packet is an answer in its connection.
    CtDirectionReply,
    /// `ct mark and mask == value`: what was noted on the connection.
    CtMark {
        /// Bits compared.
        mask: u32,
        /// Their value.
        value: u32,
    },
    /// It came over Ethernet from this station (`ether saddr`). Only where packets come in.
    SourceStation([u8; 6]),
    /// In through a port of this bridge (`meta ibrname`). Only in tables of family `bridge`.
    InputBridge(Name),
    /// The type of the Ethernet frame, which is a VLAN tag's where it has one (`ether type`). Only in tables of family
    /// `bridge`.
    EtherType(u16),
    /// `meta mark and mask == value`.
    Mark {
        /// Bits compared.
        mask: u32,
        /// Their value.
        value: u32,
    },
    /// TCP flags: `flags and mask == value` (FIN 1, SYN 2, RST 4, ACK 16).
    TcpFlags {
        /// Flags compared.
        mask: u8,
        /// Their value.
        value: u8,
    },
}

/// Connection tracking states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "nft's own words")]
pub enum CtState {
    Invalid,
    Established,
    Related,
    New,
    Untracked,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Count packets and bytes.
    Counter,
    /// Set the packet mark.
    SetMark(u32),
    /// Set some bits of the packet mark and leave the others.
    SetMarkBits {
        /// Bits set.
        mask: u32,
        /// Their value; no bit outside the mask.
        value: u32,
    },
    /// The same on the connection (`ct mark`): every later packet of it tells.
    SetCtMarkBits {
        /// Bits set.
        mask: u32,
        /// Their value; no bit outside the mask.
        value: u32,
    },
    /// Set the packet mark from a map; no entry, no change and no further statement.
    SetMarkFromMap {
        /// What to look up.
        selectors: Vec<Selector>,
        /// Where.
        map: Name,
    },
    /// Do what the map says; no entry, go on with the next rule.
    VerdictMap {
        /// What to look up.
        selectors: Vec<Selector>,
        /// Where.
        map: Name,
    },
    /// Source translation to this address.
    Snat {
        /// New source.
        to: IpAddr,
        /// Unpredictable ports (`fully-random`).
        random: bool,
    },
    /// Source translation to the address the client asked for (hairpin).
    SnatToOriginalDestination {
        /// Which family the packet is of.
        family: crate::net::Family,
    },
    /// Source translation to the address of the outgoing interface.
    Masquerade {
        /// Unpredictable ports.
        random: bool,
    },
    /// Lower the TCP maximum segment size option to this (`tcp option maxseg size set`), bytes.
    ClampSegment(u16),
    /// Send to a netlink log group at a limited rate. Must be the last statement of its rule: beyond the rate, nft
    /// ends the rule here, and a drop behind it would depend on how much was logged.
    Log {
        /// The group.
        group: u16,
        /// Packets a minute, with a burst of the same.
        per_minute: u32,
    },
    /// Refuse with ICMP port unreachable.
    Reject,
    /// Drop silently.
    Drop,
    /// Accept, ending this table for the hook.
    Accept,
    /// Go back to the calling chain.
    Return,
    /// Continue in another chain and come back.
    Jump(Name),
}

/// Where rules can look into tunnelled packets ([`Match::InnerProtocol`] and what goes with it); more comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inside {
    /// Nowhere.
    #[default]
    Nowhere,
    /// In a table beside the one that asks everything else.
    Beside,
    /// In any table.
    Own,
}

/// Where rulesets are written: the tables of one network namespace.
pub trait Backend: Send {
    /// What one table holds, or `None` where there is no such table. Interrupted dumps are repeated.
    fn dump(&mut self, table: &Name) -> Result<Option<plan::Observed>, Error>;
    /// All or nothing, as far as the kernel can. The error names the first change that failed.
    fn commit(&mut self, transaction: &plan::Transaction) -> Result<(), Error>;
    /// Takes a table away, wherever it is; how many changes that took.
    fn remove(&mut self, table: &Name) -> Result<usize, Error> {
        let transaction = plan::remove(table, self.dump(table)?.as_ref());
        if !transaction.is_empty() {
            self.commit(&transaction)?;
        }
        Ok(transaction.changes.len())
    }
    /// Where rules can look into tunnelled packets.
    fn inside(&self) -> Inside {
        Inside::Own
    }
    /// What brings a table to `desired`, compared with what the kernel holds. Empty when it already is so.
    fn plan(&mut self, table: &Name, desired: &Ruleset) -> Result<plan::Transaction, Error> {
        Ok(plan::plan(table, desired, self.dump(table)?.as_ref()))
    }
    /// What operators see a table as.
    fn place(&self, table: &Name) -> String {
        format!("table {} {table}", TableFamily::of(table))
    }
    /// What of this node keeps rules from having their effect although they are written, each in words for its operator.
    fn limits(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Chains of others that drop what they do not accept of forwarded packets, by name (`ip filter FORWARD`): no accept
    /// outside of them helps.
    fn forward_drops(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// The fewest prefixes that cover exactly the same addresses, none overlapping: interval sets refuse overlaps.
pub fn merge_prefixes(prefixes: impl IntoIterator<Item = Prefix>) -> BTreeSet<Prefix> {
    Prefix::aggregate(&prefixes.into_iter().map(|prefix| prefix.trunc()).collect::<Vec<_>>()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merged(blocks: &[&str]) -> Vec<String> {
        merge_prefixes(blocks.iter().map(|block| block.parse().unwrap())).iter().map(Prefix::to_string).collect()
    }

    #[test]
    fn merges_overlaps_and_neighbours() {
        assert_eq!(merged(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]), ["10.0.0.0/8"]);
        assert_eq!(merged(&["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]), ["10.0.0.0/23", "10.0.2.0/24"]);
        assert_eq!(merged(&["10.0.0.7/8"]), ["10.0.0.0/8"], "host bits do not count");
        assert_eq!(merged(&["0.0.0.0/1", "128.0.0.0/1", "::/0", "fd00::/8"]), ["0.0.0.0/0", "::/0"]);
        assert!(merged(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn merged_blocks_hold_the_same_addresses_and_are_disjoint(
            blocks in proptest::collection::vec((any::<u8>(), 0..=8u8), 0..12),
            probe in any::<u8>(),
        ) {
            // One byte of address space is enough to try every relation of two blocks.
            let prefix = |(byte, length): (u8, u8)| {
                let network = Ipv4Addr::new(10, 0, 0, byte);
                Prefix::from(ipnet::Ipv4Net::new(network, 24 + length).unwrap())
            };
            let merged = merge_prefixes(blocks.iter().copied().map(prefix));
            let probe = IpAddr::from(Ipv4Addr::new(10, 0, 0, probe));
            prop_assert_eq!(
                merged.iter().any(|block| block.contains(&probe)),
                blocks.iter().copied().map(prefix).any(|block| block.contains(&probe))
            );
            for (one, other) in merged.iter().zip(merged.iter().skip(1)) {
                prop_assert!(!one.contains(other) && !other.contains(one));
            }
        }
    }
}
