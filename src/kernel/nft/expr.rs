//! Rules as lists of nf_tables expressions: the program the kernel runs for each packet (pure).
//!
//! Expressions read packet fields into registers, compare or look them up, and break off the rule at the first
//! mismatch. The lists are the same as those of the `nft` program for our text form, so that `nft list` prints them
//! back.

use std::net::IpAddr;

use super::guard::{Check, Context};
use super::uapi::expression::{self, REGISTER, VERDICT_REGISTER};
use super::uapi::{FAMILY_IPV4, FAMILY_IPV6, LIST_ELEMENT, data, datatype};
use crate::kernel::filter::{CtState, Match, Name, Rule, Selector, Statement};
use crate::kernel::netlink::Writer;
use crate::net::{Family, Protocol};

/// Longest interface name with its terminating zero (IFNAMSIZ), bytes.
pub(super) const INTERFACE_LENGTH: usize = 16;
/// Name pattern of sets that belong to one rule; the kernel puts a number in.
pub(super) const ANONYMOUS_NAME: &str = "__set%d";

/// Where the fields of the packet inside an IP-in-IP packet are, bytes from the transport header of the outer one: that is
/// the inner packet's first byte (RFC 791, 3.1; RFC 8200, 3).
pub(super) mod inner {
    use crate::net::Family;

    /// Version 4 and a header of five words.
    pub(in super::super) const PLAIN_IPV4: u8 = 0x45;
    /// The protocol, in IPv4.
    pub(in super::super) const PROTOCOL: u32 = 9;
    /// The next header, in IPv6.
    pub(in super::super) const NEXT_HEADER: u32 = 6;
    /// The source, in IPv4.
    pub(in super::super) const SOURCE4: u32 = 12;
    /// The source, in IPv6.
    pub(in super::super) const SOURCE6: u32 = 8;
    /// Next headers that are no extensions: TCP, UDP, SCTP and ICMPv6.
    pub(in super::super) const PLAIN_PROTOCOLS: [u8; 4] = [6, 17, 58, 132];

    /// The destination port behind a header without options or extensions.
    pub(in super::super) fn destination_port(family: Family) -> u32 {
        match family {
            Family::V4 => 22,
            Family::V6 => 42,
        }
    }
}

/// A set that lives and dies with one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AnonymousSet {
    /// Names it within the transaction.
    pub(super) id: u32,
    /// The `nft` program's number of the key type.
    pub(super) datatype: u32,
    /// Members, one byte each.
    pub(super) members: Vec<u8>,
}

/// The expressions of one rule.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// Members of NFTA_RULE_EXPRESSIONS.
    pub(super) bytes: Vec<u8>,
    /// Sets to be created before the rule.
    pub(super) sets: Vec<AnonymousSet>,
    next_id: u32,
    too_long: bool,
}

impl Program {
    /// Encodes a rule. Its anonymous sets are numbered from `first_id`.
    pub(super) fn new(rule: &Rule, first_id: u32) -> Program {
        let mut program = Program { next_id: first_id, ..Program::default() };
        let mut context = Context::default();
        for matched in &rule.matches {
            for guard in context.before_match(matched) {
                program.check(guard.check);
            }
            program.matching(matched);
        }
        for statement in &rule.statements {
            for guard in context.before_statement(statement) {
                program.check(guard.check);
            }
            program.statement(statement);
        }
        program
    }

    fn check(&mut self, check: Check) {
        match check {
            Check::Family(family) => {
                self.load_meta(expression::meta::NFPROTO, 0);
                self.compare(expression::compare::EQUAL, &[family_number(family)]);
            }
            Check::Protocol(number) => {
                self.load_meta(expression::meta::L4PROTO, 0);
                self.compare(expression::compare::EQUAL, &[number]);
            }
            Check::Ported => {
                self.load_meta(expression::meta::L4PROTO, 0);
                self.lookup_anonymous(datatype::PROTOCOL, Protocol::ALL.map(Protocol::number).to_vec(), false);
            }
            Check::Ethernet => {
                self.load_meta(expression::meta::IIFTYPE, 0);
                self.compare(expression::compare::EQUAL, &expression::meta::TYPE_ETHERNET.to_ne_bytes());
            }
        }
    }

    fn matching(&mut self, matched: &Match) {
        use expression::compare::{EQUAL, NOT_EQUAL};
        let operator = |negated: bool| if negated { NOT_EQUAL } else { EQUAL };
        match matched {
            Match::Family(family) => self.check(Check::Family(*family)),
            Match::Protocol(protocol) => self.check(Check::Protocol(protocol.number())),
            Match::InSet { selectors, set, negated } => {
                self.load_key(selectors);
                self.lookup(set, None, *negated);
            }
            Match::DestinationPorts { first, last } => {
                self.load_payload(expression::payload::TRANSPORT, 2, 2, 0);
                self.compare_ports(*first, *last);
            }
            // What the guards before it have compared is all.
            Match::IpInIp(_) => {}
            Match::InnerIsOpaque(Family::V4) => {
                self.load_payload(expression::payload::TRANSPORT, 0, 1, 0);
                self.compare(NOT_EQUAL, &[inner::PLAIN_IPV4]);
            }
            Match::InnerIsOpaque(Family::V6) => {
                self.load_payload(expression::payload::TRANSPORT, inner::NEXT_HEADER, 1, 0);
                self.lookup_anonymous(datatype::PROTOCOL, inner::PLAIN_PROTOCOLS.to_vec(), true);
            }
            Match::InnerProtocol(family, protocol) => {
                let offset = match family {
                    Family::V4 => inner::PROTOCOL,
                    Family::V6 => inner::NEXT_HEADER,
                };
                self.load_payload(expression::payload::TRANSPORT, offset, 1, 0);
                self.compare(EQUAL, &[protocol.number()]);
            }
            Match::InnerDestinationPorts { family, first, last } => {
                self.load_payload(expression::payload::TRANSPORT, inner::destination_port(*family), 2, 0);
                self.compare_ports(*first, *last);
            }
            Match::IcmpTypes { family, types } => {
                self.load_payload(expression::payload::TRANSPORT, 0, 1, 0);
                match (types.as_slice(), family) {
                    ([only], _) => self.compare(EQUAL, &[*only]),
                    (_, Family::V4) => self.lookup_anonymous(datatype::ICMP_TYPE, types.clone(), false),
                    (_, Family::V6) => self.lookup_anonymous(datatype::ICMPV6_TYPE, types.clone(), false),
                }
            }
            Match::SourceIsLocal { negated } => {
                self.load_address_type(expression::fib::FLAG_SADDR);
                self.compare(operator(*negated), &expression::fib::TYPE_LOCAL.to_ne_bytes());
            }
            Match::DestinationIsLocal { negated } => {
                self.load_address_type(expression::fib::FLAG_DADDR);
                self.compare(operator(*negated), &expression::fib::TYPE_LOCAL.to_ne_bytes());
            }
            Match::InputInterface { name, negated } => {
                self.load_meta(expression::meta::IIFNAME, 0);
                self.compare(operator(*negated), &interface_bytes(name));
            }
            Match::CtState(states) => {
                let bits = states.iter().fold(0u32, |bits, state| bits | state_bit(*state));
                self.load_ct(expression::ct::KEY_STATE, false, 0);
                self.mask(&bits.to_ne_bytes());
                self.compare(NOT_EQUAL, &[0; 4]);
            }
            Match::CtDirectionOriginal => {
                self.load_ct(expression::ct::KEY_DIRECTION, false, 0);
                self.compare(EQUAL, &[expression::ct::ORIGINAL]);
            }
            Match::CtDirectionReply => {
                self.load_ct(expression::ct::KEY_DIRECTION, false, 0);
                self.compare(EQUAL, &[expression::ct::REPLY]);
            }
            Match::Mark { mask, value } => {
                self.load_meta(expression::meta::MARK, 0);
                self.compare_bits(*mask, *value);
            }
            Match::CtMark { mask, value } => {
                self.load_ct(expression::ct::KEY_MARK, false, 0);
                self.compare_bits(*mask, *value);
            }
            Match::SourceStation(station) => {
                self.load_payload(expression::payload::LINK, 6, 6, 0);
                self.compare(EQUAL, station);
            }
            Match::InputBridge(name) => {
                self.load_meta(expression::meta::IBRNAME, 0);
                self.compare(EQUAL, &interface_bytes(name));
            }
            Match::EtherType(number) => {
                self.load_payload(expression::payload::LINK, 12, 2, 0);
                self.compare(EQUAL, &number.to_be_bytes());
            }
            Match::TcpFlags { mask, value } => {
                self.load_payload(expression::payload::TRANSPORT, 13, 1, 0);
                self.mask(&[*mask]);
                self.compare(EQUAL, &[*value]);
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Counter => self.expression("counter", |_| {}),
            Statement::SetMark(mark) => {
                self.immediate(&mark.to_ne_bytes());
                self.set_mark();
            }
            Statement::SetMarkBits { mask, value } => {
                self.load_meta(expression::meta::MARK, 0);
                self.merge(&(!mask).to_ne_bytes(), &(value & mask).to_ne_bytes());
                self.set_mark();
            }
            Statement::SetCtMarkBits { mask, value } => {
                self.load_ct(expression::ct::KEY_MARK, false, 0);
                self.merge(&(!mask).to_ne_bytes(), &(value & mask).to_ne_bytes());
                self.expression("ct", |out| {
                    out.be32(expression::ct::KEY, expression::ct::KEY_MARK);
                    out.be32(expression::ct::SREG, REGISTER);
                });
            }
            Statement::SetMarkFromMap { selectors, map } => {
                self.load_key(selectors);
                self.lookup(map, Some(REGISTER), false);
                self.set_mark();
            }
            Statement::VerdictMap { selectors, map } => {
                self.load_key(selectors);
                self.lookup(map, Some(VERDICT_REGISTER), false);
            }
            Statement::Snat { to, random } => {
                match to {
                    IpAddr::V4(address) => self.immediate(&address.octets()),
                    IpAddr::V6(address) => self.immediate(&address.octets()),
                }
                self.source_nat(Family::of(*to), *random);
            }
            Statement::SnatToOriginalDestination { family } => {
                let key = match family {
                    Family::V4 => expression::ct::KEY_DST_IP,
                    Family::V6 => expression::ct::KEY_DST_IP6,
                };
                self.load_ct(key, true, 0);
                self.source_nat(*family, false);
            }
            Statement::Masquerade { random } => self.expression("masq", |out| {
                if *random {
                    out.be32(expression::masquerade::FLAGS, expression::NAT_FULLY_RANDOM);
                }
            }),
            Statement::ClampSegment(size) => self.clamp_segment(*size),
            Statement::Log { group, per_minute } => self.log(*group, *per_minute),
            Statement::Reject => self.expression("reject", |out| {
                out.be32(expression::reject::TYPE, expression::reject::ICMPX);
                out.u8(expression::reject::CODE, expression::reject::PORT_UNREACHABLE);
            }),
            Statement::Drop => self.verdict(data::DROP, None),
            Statement::Accept => self.verdict(data::ACCEPT, None),
            Statement::Return => self.verdict(data::RETURN, None),
            Statement::Jump(chain) => self.verdict(data::JUMP, Some(chain)),
        }
    }

    /// Loads the fields of a key into consecutive registers, each on a boundary of 4 bytes, as sets store them.
    fn load_key(&mut self, selectors: &[Selector]) {
        use expression::payload::{NETWORK, TRANSPORT};
        let mut at = 0;
        for selector in selectors {
            match selector {
                Selector::Source4 => self.load_payload(NETWORK, 12, 4, at),
                Selector::Destination4 => self.load_payload(NETWORK, 16, 4, at),
                Selector::Source6 => self.load_payload(NETWORK, 8, 16, at),
                Selector::Destination6 => self.load_payload(NETWORK, 24, 16, at),
                Selector::Protocol => self.load_meta(expression::meta::L4PROTO, at),
                Selector::SourcePort => self.load_payload(TRANSPORT, 0, 2, at),
                Selector::DestinationPort => self.load_payload(TRANSPORT, 2, 2, at),
                Selector::OriginalDestination4 => self.load_ct(expression::ct::KEY_DST_IP, true, at),
                Selector::OriginalDestination6 => self.load_ct(expression::ct::KEY_DST_IP6, true, at),
                Selector::OriginalDestinationPort => self.load_ct(expression::ct::KEY_PROTO_DST, true, at),
                Selector::Mark => self.load_meta(expression::meta::MARK, at),
                Selector::InputInterface => self.load_meta(expression::meta::IIFNAME, at),
                Selector::OutputInterface => self.load_meta(expression::meta::OIFNAME, at),
                Selector::InnerSource4 => self.load_payload(TRANSPORT, inner::SOURCE4, 4, at),
                Selector::InnerSource6 => self.load_payload(TRANSPORT, inner::SOURCE6, 16, at),
                Selector::InnerDestinationPort4 => {
                    self.load_payload(TRANSPORT, inner::destination_port(Family::V4), 2, at);
                }
                Selector::InnerDestinationPort6 => {
                    self.load_payload(TRANSPORT, inner::destination_port(Family::V6), 2, at);
                }
            }
            at += match selector {
                Selector::Source6
                | Selector::Destination6
                | Selector::OriginalDestination6
                | Selector::InnerSource6
                | Selector::InputInterface
                | Selector::OutputInterface => 4,
                _ => 1,
            };
        }
    }

    /// Lowers the segment size and never raises it: a smaller one stays.
    fn clamp_segment(&mut self, size: u16) {
        use expression::exthdr::{DREG, LENGTH, MAXSEG, OFFSET, OPERATION, SREG, TCP_OPTION, TYPE};
        let maxseg = |out: &mut Writer<'_>, direction: u16| {
            out.be32(direction, REGISTER);
            out.u8(TYPE, MAXSEG);
            // The size follows the kind and the length of the option.
            out.be32(OFFSET, 2);
            out.be32(LENGTH, 2);
            out.be32(OPERATION, TCP_OPTION);
        };
        self.expression("exthdr", |out| maxseg(out, DREG));
        self.compare(expression::compare::GREATER, &size.to_be_bytes());
        self.immediate(&size.to_be_bytes());
        self.expression("exthdr", |out| maxseg(out, SREG));
    }

    fn log(&mut self, group: u16, per_minute: u32) {
        self.expression("limit", |out| {
            out.be64(expression::limit::RATE, u64::from(per_minute));
            out.be64(expression::limit::UNIT, 60);
            out.be32(expression::limit::BURST, per_minute);
            out.be32(expression::limit::TYPE, expression::limit::PACKETS);
            out.be32(expression::limit::FLAGS, 0);
        });
        self.expression("log", |out| out.be16(expression::log::GROUP, group));
    }

    fn source_nat(&mut self, family: Family, random: bool) {
        self.expression("nat", |out| {
            out.be32(expression::nat::TYPE, expression::nat::SOURCE);
            out.be32(expression::nat::FAMILY, u32::from(family_number(family)));
            out.be32(expression::nat::ADDRESS_MIN, REGISTER);
            if random {
                out.be32(expression::nat::FLAGS, expression::NAT_FULLY_RANDOM);
            }
        });
    }

    fn set_mark(&mut self) {
        self.expression("meta", |out| {
            out.be32(expression::meta::KEY, expression::meta::MARK);
            out.be32(expression::meta::SREG, REGISTER);
        });
    }

    fn verdict(&mut self, code: i32, chain: Option<&Name>) {
        self.expression("immediate", |out| {
            out.be32(expression::immediate::DREG, VERDICT_REGISTER);
            push_verdict(out, expression::immediate::DATA, code, chain);
        });
    }

    fn immediate(&mut self, value: &[u8]) {
        self.expression("immediate", |out| {
            out.be32(expression::immediate::DREG, REGISTER);
            push_value(out, expression::immediate::DATA, value);
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |out| {
            out.be32(expression::compare::SREG, REGISTER);
            out.be32(expression::compare::OPERATION, operator);
            push_value(out, expression::compare::DATA, value);
        });
    }

    fn compare_ports(&mut self, first: u16, last: u16) {
        use expression::compare::{AT_LEAST, AT_MOST, EQUAL};
        if first == last {
            self.compare(EQUAL, &first.to_be_bytes());
        } else {
            self.compare(AT_LEAST, &first.to_be_bytes());
            self.compare(AT_MOST, &last.to_be_bytes());
        }
    }

    fn compare_bits(&mut self, mask: u32, value: u32) {
        if mask != u32::MAX {
            self.mask(&mask.to_ne_bytes());
        }
        self.compare(expression::compare::EQUAL, &value.to_ne_bytes());
    }

    fn mask(&mut self, mask: &[u8]) {
        self.merge(mask, &vec![0; mask.len()]);
    }

    /// Keeps the bits of the mask, then turns those of the other value.
    fn merge(&mut self, mask: &[u8], turned: &[u8]) {
        use expression::bitwise::{DREG, LENGTH, MASK, SREG, XOR};
        self.expression("bitwise", |out| {
            out.be32(SREG, REGISTER);
            out.be32(DREG, REGISTER);
            out.be32(LENGTH, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            push_value(out, MASK, mask);
            push_value(out, XOR, turned);
        });
    }

    fn lookup(&mut self, set: &str, destination: Option<u32>, negated: bool) {
        self.expression("lookup", |out| {
            out.text(expression::lookup::SET, set);
            out.be32(expression::lookup::SREG, REGISTER);
            if let Some(register) = destination {
                out.be32(expression::lookup::DREG, register);
            }
            if negated {
                out.be32(expression::lookup::FLAGS, expression::lookup::FLAG_INVERT);
            }
        });
    }

    fn lookup_anonymous(&mut self, datatype: u32, members: Vec<u8>, negated: bool) {
        let id = self.next_id;
        self.next_id += 1;
        self.sets.push(AnonymousSet { id, datatype, members });
        self.expression("lookup", |out| {
            out.text(expression::lookup::SET, ANONYMOUS_NAME);
            out.be32(expression::lookup::SREG, REGISTER);
            out.be32(expression::lookup::SET_ID, id);
            if negated {
                out.be32(expression::lookup::FLAGS, expression::lookup::FLAG_INVERT);
            }
        });
    }

    fn load_payload(&mut self, base: u32, offset: u32, length: u32, at: u32) {
        self.expression("payload", |out| {
            out.be32(expression::payload::DREG, REGISTER + at);
            out.be32(expression::payload::BASE, base);
            out.be32(expression::payload::OFFSET, offset);
            out.be32(expression::payload::LENGTH, length);
        });
    }

    fn load_meta(&mut self, key: u32, at: u32) {
        self.expression("meta", |out| {
            out.be32(expression::meta::KEY, key);
            out.be32(expression::meta::DREG, REGISTER + at);
        });
    }

    fn load_ct(&mut self, key: u32, original: bool, at: u32) {
        self.expression("ct", |out| {
            out.be32(expression::ct::KEY, key);
            out.be32(expression::ct::DREG, REGISTER + at);
            if original {
                out.u8(expression::ct::DIRECTION, expression::ct::ORIGINAL);
            }
        });
    }

    fn load_address_type(&mut self, which: u32) {
        self.expression("fib", |out| {
            out.be32(expression::fib::DREG, REGISTER);
            out.be32(expression::fib::RESULT, expression::fib::RESULT_ADDRESS_TYPE);
            out.be32(expression::fib::FLAGS, which);
        });
    }

    fn expression(&mut self, name: &str, attributes: impl FnOnce(&mut Writer<'_>)) {
        Writer::new(&mut self.bytes, &mut self.too_long).nest(LIST_ELEMENT, |out| {
            out.text(expression::NAME, name);
            out.nest(expression::DATA, attributes);
        });
    }
}

/// A value in the wrapping that registers and set keys use (NFTA_DATA_VALUE).
pub(super) fn push_value(out: &mut Writer<'_>, attribute: u16, value: &[u8]) {
    out.nest(attribute, |out| out.bytes(data::VALUE, value));
}

/// A verdict in the wrapping that registers and map entries use (NFTA_DATA_VERDICT).
pub(super) fn push_verdict(out: &mut Writer<'_>, attribute: u16, code: i32, chain: Option<&Name>) {
    out.nest(attribute, |out| {
        out.nest(data::VERDICT, |out| {
            out.bytes(data::VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = chain {
                out.text(data::VERDICT_CHAIN, chain);
            }
        });
    });
}

/// An interface name as registers hold it: 16 bytes, zeros behind it.
pub(super) fn interface_bytes(name: &str) -> [u8; INTERFACE_LENGTH] {
    let mut bytes = [0; INTERFACE_LENGTH];
    // The last byte stays zero whatever the name.
    for (slot, byte) in bytes.iter_mut().take(INTERFACE_LENGTH - 1).zip(name.bytes()) {
        *slot = byte;
    }
    bytes
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => FAMILY_IPV4,
        Family::V6 => FAMILY_IPV6,
    }
}

/// NF_CT_STATE_BIT and its two special cases (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
fn state_bit(state: CtState) -> u32 {
    match state {
        CtState::Invalid => 1,
        CtState::Established => 2,
        CtState::Related => 4,
        CtState::New => 8,
        CtState::Untracked => 64,
    }
}
