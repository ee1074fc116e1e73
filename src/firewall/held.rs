//! Whether the kernel holds what a pod of this node is under (pure).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::compile::pods_map;
use super::resolve::Direction;
use super::tunnelled;
use crate::kernel::filter::plan::Observed;
use crate::kernel::filter::{Elements, Field, Name, Ruleset, Statement, Value};
use crate::net::Family;

/// One line for each address and direction: where its map leads to, and what of that is not in the kernel.
pub fn held(addresses: &[IpAddr], desired: &Ruleset, observed: Option<&Observed>) -> Vec<String> {
    let Some(observed) = observed else { return vec!["not in the kernel: the table is not there".to_owned()] };
    let mut lines: Vec<String> =
        observed.unknown.iter().map(|what| format!("not in the kernel as it should be: {what}")).collect();
    for address in addresses {
        for direction in [Direction::Ingress, Direction::Egress] {
            let map = pods_map(direction, Family::of(*address));
            lines.push(format!("{direction} of {address}: {}", state(*address, &map, desired, observed)));
        }
    }
    lines
}

/// The same for what is tunnelled to these addresses: one line for each.
pub fn held_tunnelled(addresses: &[IpAddr], desired: &Ruleset, observed: Option<&Observed>) -> Vec<String> {
    let nothing = Observed::default();
    let observed = observed.unwrap_or(&nothing);
    let line = |address: &IpAddr| {
        let family = Family::of(*address);
        let map = tunnelled::name(family, &pods_map(Direction::Ingress, family));
        format!("tunnelled to {address}: {}", state(*address, &map, desired, observed))
    };
    addresses.iter().map(line).collect()
}

fn state(address: IpAddr, map: &Name, desired: &Ruleset, observed: &Observed) -> String {
    let key = vec![Field::from(address)];
    let wanted = desired.maps.get(map).and_then(|map| map.elements.get(&key));
    let found = observed.maps.get(map).and_then(|map| map.elements.get(&key));
    match (wanted, found) {
        (None, _) => "not decided yet".to_owned(),
        (Some(wanted), Some(found)) if wanted == found => match wanted {
            Value::Jump(chain) => match missing(chain, desired, observed) {
                (n_rules, missing) if missing.is_empty() => {
                    format!("in the kernel: {map} leads to {chain} ({n_rules} rules in all)")
                }
                (_, missing) => format!("not in the kernel as it should be: {}", missing.join(", ")),
            },
            _ => format!("in the kernel: {map} accepts it"),
        },
        (Some(_), Some(_)) => format!("not in the kernel as it should be: {map} leads elsewhere"),
        (Some(_), None) => format!("not in the kernel: {map} does not know the address"),
    }
}

/// How many rules are behind a chain, and which chains and sets behind it are not as they should be.
fn missing(chain: &Name, desired: &Ruleset, observed: &Observed) -> (usize, Vec<String>) {
    let (mut n_rules, mut missing) = (0, Vec::new());
    let (mut waiting, mut seen) = (vec![chain.clone()], BTreeSet::new());
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(wanted) = desired.chains.get(&name) else { continue };
        n_rules += wanted.rules.len();
        let digests = wanted.rules.iter().map(|rule| Some(rule.digest()));
        if !observed.chains.get(&name).is_some_and(|found| found.rules.iter().copied().eq(digests)) {
            missing.push(format!("chain {name}"));
        }
        for rule in &wanted.rules {
            waiting.extend(rule.statements.iter().filter_map(|statement| match statement {
                Statement::Jump(next) => Some(next.clone()),
                _ => None,
            }));
            for set in rule.refers_to().filter(|set| seen.insert((*set).clone())) {
                let elements = desired.sets.get(set).map(|set| &set.elements);
                if elements != observed.sets.get(set).map(|set| &set.elements) {
                    missing.push(format!(
                        "set {set}: {}",
                        difference(elements, observed.sets.get(set).map(|set| &set.elements))
                    ));
                }
            }
        }
    }
    (n_rules, missing)
}

fn difference(wanted: Option<&Elements>, found: Option<&Elements>) -> String {
    match (wanted, found) {
        (Some(Elements::Keys(wanted)), Some(Elements::Keys(found))) => {
            format!(
                "{} of {} elements are missing, {} too many",
                wanted.difference(found).count(),
                wanted.len(),
                found.difference(wanted).count()
            )
        }
        (_, None) => "it is not there".to_owned(),
        _ => "it has other elements".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernel::filter::plan::ObservedChain;
    use crate::kernel::filter::{Chain, FieldType, Map, Match, Rule, Selector, Set, ValueType};

    fn rule(matches: Vec<Match>, statement: Statement) -> Rule {
        Rule { matches, statements: vec![statement], comment: Arc::from("") }
    }

    /// One pod, isolated in what it receives; and the same as the kernel has it.
    fn table() -> (Ruleset, Observed) {
        let address: IpAddr = "10.244.1.5".parse().unwrap();
        let key = vec![Field::from(address)];
        let name = |text: &str| Name::from(text);
        let mut desired = Ruleset::default();
        let map = |value| Map {
            key: vec![FieldType::Ipv4],
            elements: [(key.clone(), value)].into(),
            value: ValueType::Verdict,
            size: 16,
        };
        desired.maps.insert(pods_map(Direction::Ingress, Family::V4), map(Value::Jump(name("receive-a"))));
        desired.maps.insert(pods_map(Direction::Egress, Family::V4), map(Value::Accept));
        let set = Set { key: vec![FieldType::Ipv4], elements: Elements::Keys([key].into()), size: 64 };
        desired.sets.insert(name("pods4-a"), set);
        let jump = rule(Vec::new(), Statement::Jump(name("to-a")));
        let looks = Match::InSet { selectors: vec![Selector::Source4], set: name("pods4-a"), negated: false };
        let accept = rule(vec![looks], Statement::Accept);
        desired.chains.insert(name("receive-a"), Chain { base: None, rules: vec![jump] });
        desired.chains.insert(name("to-a"), Chain { base: None, rules: vec![accept] });
        let chains = desired.chains.iter().map(|(name, chain)| {
            let rules = chain.rules.iter().map(|rule| Some(rule.digest())).collect();
            (name.clone(), ObservedChain { base: None, rules })
        });
        let observed = Observed {
            sets: desired.sets.clone(),
            maps: desired.maps.clone(),
            chains: chains.collect(),
            ..Observed::default()
        };
        (desired, observed)
    }

    #[test]
    fn what_is_missing_is_named() {
        let (desired, observed) = table();
        let ask = |observed: &Observed| held(&["10.244.1.5".parse().unwrap()], &desired, Some(observed)).remove(0);
        assert_eq!(
            ask(&observed),
            "ingress of 10.244.1.5: in the kernel: ingress4 leads to receive-a (2 rules in all)"
        );
        let mut broken = observed.clone();
        broken.chains.remove("to-a");
        assert!(ask(&broken).ends_with("not in the kernel as it should be: chain to-a"), "{}", ask(&broken));
        let mut broken = observed.clone();
        broken.sets.get_mut("pods4-a").unwrap().elements = Elements::Keys(BTreeSet::new());
        assert!(ask(&broken).contains("set pods4-a: 1 of 1 elements are missing"), "{}", ask(&broken));
        let mut broken = observed.clone();
        broken.maps.clear();
        assert!(ask(&broken).contains("does not know the address"), "{}", ask(&broken));
        let open = &held(&["10.244.1.5".parse().unwrap()], &desired, Some(&observed))[1];
        assert!(open.ends_with("in the kernel: egress4 accepts it"), "{open}");
        assert_eq!(held(&[], &desired, None), ["not in the kernel: the table is not there"]);
    }
}
