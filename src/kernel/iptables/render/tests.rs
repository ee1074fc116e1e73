//! Rendered rules against what the model means, and the limits of names.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::kernel::filter::{Chain, Match, Statement, Value};
use crate::kernel::ipset::LONGEST_NAME;
use crate::net::Protocol;
use crate::testing::contract::nft::{everything, random_ruleset};
use crate::testing::iptables::IptablesTracer;
use crate::testing::tracer::{Origin, Packet, Tracer};

fn table() -> Name {
    Name::from("ferrovia-firewall")
}

fn rule(matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: Name::from("why") }
}

/// More verdicts than the contract's rulesets have: some chains accept, return, drop, at any depth.
fn decided(seed: u64) -> Ruleset {
    let mut ruleset = random_ruleset(seed);
    // Foreign types of maps lead nowhere here.
    let mut dice = seed;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (dice >> 33) % sides
    };
    for chain in ruleset.chains.values_mut() {
        if let Some(base) = &mut chain.base {
            base.priority = -5 - i32::try_from(roll(2)).unwrap_or(0);
        }
        for at in 0..roll(3) {
            let matches = match roll(3) {
                0 => vec![Match::Protocol(Protocol::Tcp)],
                1 => vec![Match::DestinationPorts { first: 1, last: 2 }],
                _ => Vec::new(),
            };
            let mut statements = match roll(3) {
                0 => vec![Statement::Log { group: 1, per_minute: 1 }],
                _ => vec![Statement::SetMark(1), Statement::Counter],
            };
            statements.extend(match roll(4) {
                0 => Some(Statement::Accept),
                1 => Some(Statement::Return),
                2 => Some(Statement::Drop),
                _ => None,
            });
            let place = usize::try_from(at).unwrap_or(0).min(chain.rules.len());
            chain.rules.insert(place, rule(matches, statements));
        }
    }
    ruleset
}

#[test]
fn rules_mean_what_the_model_means() {
    let address = |n: u8| IpAddr::V4(Ipv4Addr::new(10, n % 3 % 2, 0, n));
    let mut ends = BTreeSet::new();
    for seed in 1..400 {
        let ruleset = decided(seed);
        let rendered = render(&table(), &ruleset).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let (here, there) = (IptablesTracer::new(&rendered, &[]), Tracer::of_filter(&ruleset, &[]));
        for number in 0..60_u8 {
            let packet = Packet {
                origin: Origin::Wire,
                source: address(number % 12),
                source_port: 40_000,
                destination: address(number / 5),
                protocol: Protocol::ALL[usize::from(number % 3)],
                port: u16::from(number % 4),
            };
            for hook in [Hook::Input, Hook::Forward] {
                let (found, wanted) = (here.hook(hook, packet), there.hook(hook, packet));
                ends.insert(format!("{wanted:?}"));
                assert_eq!(found, wanted, "seed {seed}, {hook:?}, {packet:?}\n{ruleset:#?}\n{rendered:#?}");
            }
        }
    }
    assert_eq!(ends.len(), 2, "packets pass and are dropped: {ends:?}");
}

#[test]
fn names_fit_and_every_reference_is_there() {
    for seed in 1..100 {
        let rendered = render(&table(), &decided(seed)).expect("it can be said");
        assert!(rendered.sets.keys().all(|name| name.len() <= LONGEST_NAME));
        for rules in rendered.rules.values() {
            for (name, lines) in &rules.chains {
                assert!(name.len() <= LONGEST_CHAIN && name.starts_with("FERROVIA-FIR-"), "{name}");
                for line in lines {
                    let words: Vec<&str> = line.text.split(' ').collect();
                    let target = words.iter().rev().find(|word| word.starts_with(PREFIX));
                    let known = |name: &&str| rules.chains.contains_key(*name) || rendered.sets.contains_key(*name);
                    assert!(target.is_none_or(known), "{line:?}");
                }
            }
        }
    }
}

#[test]
fn pods_that_lead_to_one_chain_are_one_rule() {
    let mut ruleset = Ruleset::default();
    let base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: -5 };
    let verdict =
        Statement::VerdictMap { selectors: vec![crate::kernel::filter::Selector::Source4], map: "pods".into() };
    ruleset.chains.insert("forward".into(), Chain { base: Some(base), rules: vec![rule(vec![], vec![verdict])] });
    let deny = vec![rule(vec![], vec![Statement::Reject])];
    ruleset.chains.insert("deny".into(), Chain { base: None, rules: deny });
    let key = |n: u8| vec![crate::kernel::filter::Field::Ipv4(Ipv4Addr::new(10, 0, 0, n))];
    let elements =
        (0..200).map(|n| (key(n), if n < 150 { Value::Jump("deny".into()) } else { Value::Accept })).collect();
    let map = crate::kernel::filter::Map {
        key: vec![crate::kernel::filter::FieldType::Ipv4],
        elements,
        value: crate::kernel::filter::ValueType::Verdict,
        size: 256,
    };
    ruleset.maps.insert("pods".into(), map);
    let rendered = render(&table(), &ruleset).expect("it can be said");
    let rules = &rendered.rules[&(Family::V4, Table::Filter)];
    let texts: Vec<&str> = rules.chains.values().flatten().map(|line| line.text.as_str()).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(
        texts.iter().any(|text| text.ends_with("src -j RETURN")),
        "an accept leaves later questions open: {texts:?}"
    );
    let mut sizes: Vec<usize> = rendered.sets.values().map(|set| set.elements.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 150]);
}

/// How many chains below one another rules lead to from here.
fn depth(rules: &Rules, lines: &[Line]) -> usize {
    let next = lines.iter().filter_map(|line| {
        let mut words = line.text.split_whitespace().skip_while(|word| !["-g", "-j"].contains(word)).skip(1);
        words.next().and_then(|name| rules.chains.get(name))
    });
    next.map(|lines| 1 + depth(rules, lines)).max().unwrap_or(0)
}

#[test]
fn many_chains_in_turn_are_not_one_below_the_other() {
    let ruleset = crate::testing::contract::iptables::in_turn(40);
    let rendered = render(&table(), &ruleset).expect("iptables can say it");
    for rules in rendered.rules.values() {
        for entry in rules.entries.values().flatten() {
            let depth = depth(rules, &rules.chains[&entry.target]);
            assert!(depth <= 3, "{depth}");
        }
    }
}

#[test]
fn what_cannot_be_said_is_named() {
    let error = render(&table(), &everything()).expect_err("links that are not in a set");
    assert_eq!((error.chain.as_ref(), error.comment.as_ref()), ("sub", "rule 11: why it is there"));
}

#[test]
fn a_tunnelled_packet_is_known_by_its_protocol_and_no_more() {
    let base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: -5 };
    let of = |matches: Vec<Match>| {
        let chain = Chain { base: Some(base), rules: vec![rule(matches, vec![Statement::Drop])] };
        render(&table(), &Ruleset { chains: [(Name::from("tunnels"), chain)].into(), ..Ruleset::default() })
    };
    for (family, number) in [(Family::V4, "-p 4 "), (Family::V6, "-p 41 ")] {
        let rendered =
            of(vec![Match::IpInIp(family), Match::Mark { mask: 1 << 31, value: 0 }]).expect("it can be said");
        for (other, rules) in Family::ALL.map(|other| (other, &rendered.rules[&(other, Table::Filter)])) {
            let lines: Vec<&str> = rules.chains.values().flatten().map(|line| line.text.as_str()).collect();
            let there = lines.iter().any(|line| line.starts_with(number) && line.contains("--mark 0x0/0x80000000"));
            assert_eq!(there, other == family, "{lines:?}");
        }
        assert!(of(vec![Match::InnerIsOpaque(family)]).is_err());
    }
}
