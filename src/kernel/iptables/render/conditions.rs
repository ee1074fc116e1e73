//! Matches of the model as conditions of iptables (pure). Several conditions for one match stand for "one of these"; no
//! packet fulfils two of them.

use crate::kernel::filter::{CtState, Field, Key, Match, Selector};
use crate::net::{Family, Protocol};

/// What a rule asks of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Condition {
    /// `-p`: the protocol's name.
    protocol: Option<&'static str>,
    /// `-i`, with its `!` where negated.
    input: Option<String>,
    /// `-o`.
    output: Option<String>,
    /// Everything else, in order.
    rest: Vec<String>,
}

impl Condition {
    pub(super) fn plain(text: String) -> Condition {
        Condition { rest: vec![text], ..Condition::default() }
    }

    pub(super) fn in_ipset(set: &str, directions: &str, negated: bool) -> Condition {
        let not = if negated { "! " } else { "" };
        Condition::plain(format!("-m set {not}--match-set {set} {directions}"))
    }

    /// That the packet has this key.
    pub(super) fn of_key(selectors: &[Selector], key: &Key) -> Option<Condition> {
        let mut condition = Condition::default();
        for (selector, field) in selectors.iter().zip(key) {
            condition = condition.and(&Condition::of_field(*selector, field)?)?;
        }
        Some(condition)
    }

    fn of_field(selector: Selector, field: &Field) -> Option<Condition> {
        let original = |word: &str, value: String| Condition::plain(format!("-m conntrack --{word} {value}"));
        Some(match (selector, field) {
            (Selector::Source4, Field::Ipv4(address)) => Condition::plain(format!("-s {address}")),
            (Selector::Source6, Field::Ipv6(address)) => Condition::plain(format!("-s {address}")),
            (Selector::Destination4, Field::Ipv4(address)) => Condition::plain(format!("-d {address}")),
            (Selector::Destination6, Field::Ipv6(address)) => Condition::plain(format!("-d {address}")),
            (Selector::Protocol, Field::Protocol(protocol)) => Condition::of_protocol(*protocol),
            (Selector::OriginalDestination4, Field::Ipv4(address)) => original("ctorigdst", address.to_string()),
            (Selector::OriginalDestination6, Field::Ipv6(address)) => original("ctorigdst", address.to_string()),
            (Selector::OriginalDestinationPort, Field::Port(port)) => original("ctorigdstport", port.to_string()),
            (Selector::Mark, Field::Mark(mark)) => Condition::plain(format!("-m mark --mark {mark:#x}")),
            (Selector::InputInterface, Field::Interface(name)) => {
                Condition { input: Some(format!("-i {name}")), ..Condition::default() }
            }
            (Selector::OutputInterface, Field::Interface(name)) => {
                Condition { output: Some(format!("-o {name}")), ..Condition::default() }
            }
            _ => return None,
        })
    }

    fn of_protocol(protocol: Protocol) -> Condition {
        let name = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        Condition { protocol: Some(name), ..Condition::default() }
    }

    /// Both; `None` where no packet fulfils both.
    pub(super) fn and(&self, other: &Condition) -> Option<Condition> {
        fn both<T: Clone + PartialEq>(one: &Option<T>, other: &Option<T>) -> Option<Option<T>> {
            match (one, other) {
                (Some(one), Some(other)) if one != other => None,
                (Some(either), _) | (None, Some(either)) => Some(Some(either.clone())),
                (None, None) => Some(None),
            }
        }
        Some(Condition {
            protocol: both(&self.protocol, &other.protocol)?,
            input: both(&self.input, &other.input)?,
            output: both(&self.output, &other.output)?,
            rest: self.rest.iter().chain(&other.rest).cloned().collect(),
        })
    }

    /// The words of a rule, with a space behind each.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        let parts = self.input.iter().chain(&self.output).cloned();
        let protocol = self.protocol.map(|name| format!("-p {name}"));
        for part in parts.chain(protocol).chain(self.rest.iter().cloned()) {
            words.push_str(&part);
            words.push(' ');
        }
        words
    }

    /// One of the conditions of a SYN: what a TCPMSS target asks for.
    pub(super) fn syn() -> Condition {
        let rest = vec!["-m tcp --tcp-flags SYN,RST SYN".to_owned()];
        Condition { protocol: Some("tcp"), rest, ..Condition::default() }
    }
}

/// The conditions for one match in one family, lookups in sets left out. Empty where no packet of the family fulfils it.
pub(super) fn of_match(matched: &Match, family: Family) -> Vec<Condition> {
    let not = |negated: bool| if negated { "! " } else { "" };
    let one = |text: String| vec![Condition::plain(text)];
    match matched {
        Match::Family(of) => {
            if *of == family {
                vec![Condition::default()]
            } else {
                Vec::new()
            }
        }
        Match::Protocol(protocol) => vec![Condition::of_protocol(*protocol)],
        Match::DestinationPorts { first, last } => {
            let range = if first == last { first.to_string() } else { format!("{first}:{last}") };
            let of = |protocol: Protocol| {
                let condition = Condition::of_protocol(protocol);
                let rest = vec![format!("-m {} --dport {range}", condition.protocol.unwrap_or_default())];
                Condition { rest, ..condition }
            };
            Protocol::ALL.into_iter().map(of).collect()
        }
        Match::IcmpTypes { family: of, types } if *of == family => {
            let (protocol, words) = match family {
                Family::V4 => ("icmp", "-m icmp --icmp-type"),
                Family::V6 => ("ipv6-icmp", "-m icmp6 --icmpv6-type"),
            };
            let of = |number: &u8| Condition {
                protocol: Some(protocol),
                rest: vec![format!("{words} {number}")],
                ..Condition::default()
            };
            types.iter().map(of).collect()
        }
        Match::IcmpTypes { .. } => Vec::new(),
        Match::SourceIsLocal { negated } => one(format!("-m addrtype {}--src-type LOCAL", not(*negated))),
        Match::DestinationIsLocal { negated } => one(format!("-m addrtype {}--dst-type LOCAL", not(*negated))),
        Match::InputInterface { name, negated } => {
            vec![Condition { input: Some(format!("{}-i {name}", not(*negated))), ..Condition::default() }]
        }
        Match::CtState(states) => {
            let names: Vec<&str> = states.iter().map(|state| state_name(*state)).collect();
            one(format!("-m conntrack --ctstate {}", names.join(",")))
        }
        Match::CtDirectionOriginal => one("-m conntrack --ctdir ORIGINAL".to_owned()),
        Match::CtDirectionReply => one("-m conntrack --ctdir REPLY".to_owned()),
        Match::CtMark { mask, value } => one(format!("-m connmark --mark {value:#x}/{mask:#x}")),
        Match::SourceStation(station) => {
            let text: Vec<String> = station.iter().map(|byte| format!("{byte:02x}")).collect();
            one(format!("-m mac --mac-source {}", text.join(":")))
        }
        Match::Mark { mask, value } => one(format!("-m mark --mark {value:#x}/{mask:#x}")),
        Match::TcpFlags { mask, value } => {
            let rest = vec![format!("-m tcp --tcp-flags {} {}", flag_names(*mask), flag_names(*value))];
            vec![Condition { protocol: Some("tcp"), rest, ..Condition::default() }]
        }
        // The protocol of the packet outside (`-p` skips extension headers); what is in it nobody can say here.
        Match::IpInIp(of) if *of == family => {
            let number = match family {
                Family::V4 => "4",
                Family::V6 => "41",
            };
            vec![Condition { protocol: Some(number), ..Condition::default() }]
        }
        Match::IpInIp(_) => Vec::new(),
        // Looked up by the caller, who knows the sets.
        Match::InSet { .. } => vec![Condition::default()],
        // Refused by the caller.
        Match::InnerIsOpaque(_)
        | Match::InnerProtocol(..)
        | Match::InnerDestinationPorts { .. }
        | Match::InputBridge(_)
        | Match::EtherType(_) => Vec::new(),
    }
}

fn state_name(state: CtState) -> &'static str {
    match state {
        CtState::Invalid => "INVALID",
        CtState::Established => "ESTABLISHED",
        CtState::Related => "RELATED",
        CtState::New => "NEW",
        CtState::Untracked => "UNTRACKED",
    }
}

fn flag_names(bits: u8) -> String {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let set = NAMES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name);
    let names: Vec<&str> = set.collect();
    if names.is_empty() { "NONE".to_owned() } else { names.join(",") }
}
