//! What marks packets for direct server return, and clamps the segments of those that are tunnelled: sets, maps and chains of
//! the room's table.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::kernel::filter::{
    Base, BaseKind, Chain, Elements, Field, FieldType, Hook, Key, Map, Match, Name, Rule, Ruleset, Selector, Set,
    Statement, Value, ValueType,
};
use crate::kernel::nft::priority;
use crate::net::{Family, Protocol};

use super::marks::MAX_MARKS;
use super::{DsrKey, DsrNeeds};

impl DsrNeeds {
    /// Adds what marks the packets and clamps the segments to the room's table. Nothing is added for a family without
    /// marks. `mtu` is the node's own, in bytes.
    pub fn add_to(&self, ruleset: &mut Ruleset, mtu: u32) {
        let families = self.families();
        if families.is_empty() {
            return;
        }
        let mut prerouting = Vec::new();
        for family in families.iter().copied() {
            let tcp = self.tcp_sources(family);
            if !tcp.is_empty() {
                let words = Words::of(family);
                ruleset.sets.insert(Arc::from(words.clamp_set), clamp_set(&words, tcp));
                prerouting.push(clamp_rule(&words, segment_size(family, mtu)));
            }
        }
        let mut mark_rules = Vec::new();
        for family in families {
            let words = Words::of(family);
            ruleset.maps.insert(Arc::from(words.mark_map), self.mark_map(&words));
            mark_rules.push(mark_rule(&words));
        }
        prerouting.extend(mark_rules.iter().cloned());
        let chain =
            |kind, hook, rules| Chain { base: Some(Base { kind, hook, priority: priority::PROXY_MARK }), rules };
        ruleset.chains.insert(Arc::from("dsr-prerouting"), chain(BaseKind::Filter, Hook::Prerouting, prerouting));
        // Type route: what the node itself sends is routed again once it has its mark.
        ruleset.chains.insert(Arc::from("dsr-output"), chain(BaseKind::Route, Hook::Output, mark_rules));
    }

    fn mark_map(&self, words: &Words) -> Map {
        let entry = |(key, mark): (&DsrKey, &u32)| {
            let fields = vec![Field::from(key.vip), Field::Protocol(key.protocol), Field::Port(key.port)];
            (fields, Value::Mark(*mark))
        };
        Map {
            key: vec![words.address, FieldType::Protocol, FieldType::Port],
            elements: self.marks.iter().filter(|(key, _)| key.family() == words.family).map(entry).collect(),
            value: ValueType::Mark,
            size: MAX_MARKS,
        }
    }

    /// VIP and port of every TCP key of a family.
    fn tcp_sources(&self, family: Family) -> BTreeSet<Key> {
        self.marks
            .keys()
            .filter(|key| key.family() == family && key.protocol == Protocol::Tcp)
            .map(|key| vec![Field::from(key.vip), Field::Port(key.port)])
            .collect()
    }
}

/// What the names are called for one family.
struct Words {
    family: Family,
    mark_map: &'static str,
    clamp_set: &'static str,
    address: FieldType,
    source: Selector,
    destination: Selector,
}

impl Words {
    fn of(family: Family) -> Words {
        match family {
            Family::V4 => Words {
                family,
                mark_map: "dsr-marks-4",
                clamp_set: "dsr-clamp-4",
                address: FieldType::Ipv4,
                source: Selector::Source4,
                destination: Selector::Destination4,
            },
            Family::V6 => Words {
                family,
                mark_map: "dsr-marks-6",
                clamp_set: "dsr-clamp-6",
                address: FieldType::Ipv6,
                source: Selector::Source6,
                destination: Selector::Destination6,
            },
        }
    }
}

fn clamp_set(words: &Words, keys: BTreeSet<Key>) -> Set {
    Set { key: vec![words.address, FieldType::Port], elements: Elements::Keys(keys), size: MAX_MARKS }
}

fn mark_rule(words: &Words) -> Rule {
    Rule {
        matches: vec![Match::Family(words.family)],
        statements: vec![Statement::SetMarkFromMap {
            selectors: vec![words.destination, Selector::Protocol, Selector::DestinationPort],
            map: Arc::from(words.mark_map),
        }],
        comment: comment("direct server return: to the virtual server of this mark"),
    }
}

/// The pod's SYN-ACK tells the client how large its segments may be; those get an outer header on the way to the pod.
fn clamp_rule(words: &Words, segment: u16) -> Rule {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    Rule {
        matches: vec![
            Match::Family(words.family),
            Match::Protocol(Protocol::Tcp),
            Match::TcpFlags { mask: SYN | RST, value: SYN },
            Match::InSet {
                selectors: vec![words.source, Selector::SourcePort],
                set: Arc::from(words.clamp_set),
                negated: false,
            },
        ],
        statements: vec![Statement::ClampSegment(segment)],
        comment: comment("direct server return: leave room for the outer header"),
    }
}

fn comment(text: &str) -> Name {
    Arc::from(text)
}

/// The largest TCP segment a client may send, in bytes: the node's MTU without outer and inner header and TCP options
/// (60 for IPv4, 100 for IPv6, as kube-router has it).
pub fn segment_size(family: Family, mtu: u32) -> u16 {
    let headers = match family {
        Family::V4 => 60,
        Family::V6 => 100,
    };
    u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ip, needs};
    use super::*;

    #[test]
    fn segments_leave_room_for_the_headers() {
        assert_eq!(segment_size(Family::V4, 1500), 1440);
        assert_eq!(segment_size(Family::V6, 1500), 1400);
        assert_eq!(segment_size(Family::V4, 9001), 8941);
        assert_eq!(segment_size(Family::V4, 65_536), 65_476);
        assert_eq!(segment_size(Family::V6, 0), 0);
    }

    #[test]
    fn the_table_marks_both_ways_in_and_clamps_tcp_only() {
        let mut ruleset = Ruleset::default();
        needs().add_to(&mut ruleset, 1500);
        let maps: Vec<(&str, usize)> = ruleset.maps.iter().map(|(name, map)| (&**name, map.elements.len())).collect();
        assert_eq!(maps, [("dsr-marks-4", 2), ("dsr-marks-6", 1)]);
        assert_eq!(
            ruleset.maps["dsr-marks-4"].elements.get(&vec![
                Field::from(ip("10.255.0.1")),
                Field::Protocol(Protocol::Tcp),
                Field::Port(80)
            ]),
            Some(&Value::Mark(9054))
        );
        // UDP alone needs no clamping, so IPv6 has no set.
        assert_eq!(ruleset.sets.keys().map(|name| &**name).collect::<Vec<_>>(), ["dsr-clamp-4"]);
        let prerouting = &ruleset.chains["dsr-prerouting"];
        let statements: Vec<&Statement> = prerouting.rules.iter().flat_map(|rule| &rule.statements).collect();
        assert_eq!(statements.len(), 3);
        assert_eq!(statements[0], &Statement::ClampSegment(1440));
        let output = &ruleset.chains["dsr-output"];
        assert_eq!(output.rules, prerouting.rules[1..]);
        assert_eq!(output.base.map(|base| (base.kind, base.hook)), Some((BaseKind::Route, Hook::Output)));
        // Everything a rule refers to is there.
        for rule in ruleset.chains.values().flat_map(|chain| &chain.rules) {
            assert!(rule.comment.len() <= 100);
            for statement in &rule.statements {
                if let Statement::SetMarkFromMap { map, .. } = statement {
                    assert!(ruleset.maps.contains_key(map));
                }
            }
        }
    }

    #[test]
    fn nothing_to_serve_adds_nothing() {
        let mut ruleset = Ruleset::default();
        DsrNeeds::default().add_to(&mut ruleset, 1500);
        assert_eq!(ruleset, Ruleset::default());
    }
}
