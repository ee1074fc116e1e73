//! What has to be checked before a packet field may be read (pure).
//!
//! In a table of family `inet` a rule sees packets of both families and of every protocol. Bytes 12 to 16 of the
//! network header are a source address only in IPv4, bytes 2 to 4 of the transport header a port only in TCP, UDP and
//! SCTP. Rules of the model do not say so; the encoder and the text form ask here, so that neither can forget it.

use crate::kernel::filter::{Match, Rule, Selector, Statement, TableFamily};
use crate::net::{Family, Protocol};

/// Protocol number of ICMP (IANA).
pub(super) const ICMP: u8 = 1;
/// Protocol number of IPv4 in IP (IANA).
pub(super) const IPV4_IN_IP: u8 = 4;
/// Protocol number of IPv6 in IP (IANA).
pub(super) const IPV6_IN_IP: u8 = 41;
/// Protocol number of ICMPv6 (IANA).
pub(super) const ICMPV6: u8 = 58;

/// One check that goes before a match or a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    /// What is checked.
    pub(super) check: Check,
    /// True where `nft` adds the check by itself to the text form, so that the text need not say it.
    pub(super) implied: bool,
}

/// What a guard checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// `meta nfproto`.
    Family(Family),
    /// `meta l4proto`, one number.
    Protocol(u8),
    /// `meta l4proto { tcp, udp, sctp }`: the protocols with ports.
    Ported,
    /// `meta iiftype ether`.
    Ethernet,
}

/// What the parts of a rule so far make sure of.
#[derive(Debug, Default)]
pub(super) struct Context {
    family: Option<Family>,
    protocol: Option<Check>,
    ethernet: bool,
}

impl Context {
    /// The checks one match needs first. Afterwards the context knows what they and the match itself establish.
    pub(super) fn before_match(&mut self, matched: &Match) -> Vec<Guard> {
        let mut guards = Vec::new();
        match matched {
            Match::Family(family) => self.family = Some(*family),
            Match::Protocol(protocol) => self.protocol = Some(Check::Protocol(protocol.number())),
            Match::InSet { selectors, .. } => self.before_selectors(selectors, &mut guards),
            Match::IcmpTypes { family, .. } => {
                self.need_family(*family, true, &mut guards);
                let number = match family {
                    Family::V4 => ICMP,
                    Family::V6 => ICMPV6,
                };
                self.need_protocol(Check::Protocol(number), true, &mut guards);
            }
            Match::DestinationPorts { .. } => self.need_protocol(Check::Ported, false, &mut guards),
            Match::TcpFlags { .. } => {
                self.need_protocol(Check::Protocol(Protocol::Tcp.number()), true, &mut guards);
            }
            Match::IpInIp(family) => self.need_tunnel(*family, &mut guards),
            Match::SourceStation(_) => {
                if !self.ethernet {
                    self.ethernet = true;
                    guards.push(Guard { check: Check::Ethernet, implied: true });
                }
            }
            // What a bridge passes is a frame of Ethernet.
            Match::InputBridge(_)
            | Match::EtherType(_)
            | Match::SourceIsLocal { .. }
            | Match::DestinationIsLocal { .. }
            | Match::InputInterface { .. }
            | Match::CtState(_)
            | Match::CtDirectionOriginal
            | Match::CtDirectionReply
            | Match::CtMark { .. }
            | Match::Mark { .. } => {}
            // In a chain that only tunnelled packets get to. `nft` (1.0.6) cannot list a rule that has both: it takes
            // what follows an IP-in-IP protocol for a network header and gives up at the first field.
            Match::InnerIsOpaque(_) | Match::InnerProtocol(..) | Match::InnerDestinationPorts { .. } => {}
        }
        guards
    }

    /// The checks one statement needs first.
    pub(super) fn before_statement(&mut self, statement: &Statement) -> Vec<Guard> {
        let mut guards = Vec::new();
        match statement {
            Statement::SetMarkFromMap { selectors, .. } | Statement::VerdictMap { selectors, .. } => {
                self.before_selectors(selectors, &mut guards);
            }
            Statement::Snat { to, .. } => self.need_family(Family::of(*to), false, &mut guards),
            Statement::SnatToOriginalDestination { family } => self.need_family(*family, false, &mut guards),
            Statement::ClampSegment(_) => {
                self.need_protocol(Check::Protocol(Protocol::Tcp.number()), false, &mut guards);
            }
            Statement::Counter
            | Statement::SetMark(_)
            | Statement::SetMarkBits { .. }
            | Statement::SetCtMarkBits { .. }
            | Statement::Masquerade { .. }
            | Statement::Log { .. }
            | Statement::Reject
            | Statement::Drop
            | Statement::Accept
            | Statement::Return
            | Statement::Jump(_) => {}
        }
        guards
    }

    fn before_selectors(&mut self, selectors: &[Selector], guards: &mut Vec<Guard>) {
        let joined_with_protocol = selectors.contains(&Selector::Protocol);
        for selector in selectors {
            match selector {
                Selector::Source4 | Selector::Destination4 => self.need_family(Family::V4, true, guards),
                Selector::Source6 | Selector::Destination6 => self.need_family(Family::V6, true, guards),
                // A key that holds the protocol as well cannot match by accident.
                Selector::SourcePort | Selector::DestinationPort if joined_with_protocol => {}
                // `nft` refuses to read this one before it knows of ports at all.
                Selector::SourcePort | Selector::DestinationPort | Selector::OriginalDestinationPort => {
                    self.need_protocol(Check::Ported, false, guards);
                }
                // The kernel itself compares the family of the connection.
                Selector::OriginalDestination4
                | Selector::OriginalDestination6
                | Selector::Protocol
                | Selector::Mark
                | Selector::InputInterface
                | Selector::OutputInterface
                | Selector::InnerSource4
                | Selector::InnerSource6
                | Selector::InnerDestinationPort4
                | Selector::InnerDestinationPort6 => {}
            }
        }
    }

    fn need_tunnel(&mut self, family: Family, guards: &mut Vec<Guard>) {
        let number = match family {
            Family::V4 => IPV4_IN_IP,
            Family::V6 => IPV6_IN_IP,
        };
        self.need_family(family, false, guards);
        self.need_protocol(Check::Protocol(number), false, guards);
    }

    fn need_family(&mut self, family: Family, implied: bool, guards: &mut Vec<Guard>) {
        if self.family != Some(family) {
            self.family = Some(family);
            guards.push(Guard { check: Check::Family(family), implied });
        }
    }

    fn need_protocol(&mut self, check: Check, implied: bool, guards: &mut Vec<Guard>) {
        let known = match (self.protocol, check) {
            (Some(Check::Protocol(number)), Check::Ported) => Protocol::from_number(number).is_some(),
            (known, check) => known == Some(check),
        };
        if !known {
            self.protocol = Some(check);
            guards.push(Guard { check, implied });
        }
    }
}

/// Why a rule cannot be written to a table of nftables as the model means it, or `None` when it can.
pub(super) fn objection(family: TableFamily, rule: &Rule) -> Option<&'static str> {
    let of_frames = |matched: &Match| matches!(matched, Match::InputBridge(_) | Match::EtherType(_));
    let fits = match family {
        TableFamily::Inet => !rule.matches.iter().any(of_frames),
        TableFamily::Bridge => rule.matches.iter().all(of_frames),
    };
    if !fits {
        return Some("frames are asked about in tables of family bridge, and nothing else is there");
    }
    // The rate limit is a match: beyond the rate the rule ends there, and what follows would not happen.
    let log = rule.statements.iter().position(|statement| matches!(statement, Statement::Log { .. }));
    if log.is_some_and(|at| at + 1 != rule.statements.len()) {
        return Some("a log statement must be the last of its rule: put what follows into a rule of its own");
    }
    let empty = rule.matches.iter().any(|matched| match matched {
        Match::IcmpTypes { types, .. } => types.is_empty(),
        Match::CtState(states) => states.is_empty(),
        Match::InSet { selectors, .. } => selectors.is_empty(),
        _ => false,
    });
    if empty {
        return Some("a match without types, states or selectors matches nothing: leave the rule out");
    }
    if rule.matches.iter().any(|it| matches!(it, Match::IpInIp(_))) && looks_inside(rule) {
        return Some("what is in a tunnelled packet is asked in a chain of its own: nft cannot list both in one rule");
    }
    rule.comment
        .bytes()
        .any(|byte| byte == b'"' || byte < b' ')
        .then_some("a comment must not hold quotes or control characters")
}

fn looks_inside(rule: &Rule) -> bool {
    let inner = |selectors: &[Selector]| {
        selectors.iter().any(|selector| {
            matches!(
                selector,
                Selector::InnerSource4
                    | Selector::InnerSource6
                    | Selector::InnerDestinationPort4
                    | Selector::InnerDestinationPort6
            )
        })
    };
    let statement = |statement: &Statement| match statement {
        Statement::VerdictMap { selectors, .. } | Statement::SetMarkFromMap { selectors, .. } => inner(selectors),
        _ => false,
    };
    let matched = |matched: &Match| match matched {
        Match::InSet { selectors, .. } => inner(selectors),
        Match::InnerIsOpaque(_) | Match::InnerProtocol(..) | Match::InnerDestinationPorts { .. } => true,
        _ => false,
    };
    rule.matches.iter().any(matched) || rule.statements.iter().any(statement)
}
