//! What the backend on iptables and ipset must do, on the kernel and on fakes. Each function takes an empty namespace (or
//! new fakes) and panics where the promise is broken.

#![allow(clippy::expect_used, clippy::panic, reason = "a broken promise must stop the test")]

use super::nft::{everything, random_ruleset};
use crate::kernel::filter::plan::remove;
use crate::kernel::filter::{Backend, Base, BaseKind, Chain, FieldType, Hook, Match, Name, Rule, Ruleset, Statement};
use crate::kernel::nft::priority;
use crate::net::Protocol;

/// The table the promises are tried on.
pub const TABLE: &str = "ferrovia-contract";

/// A promise and its name.
pub type Promise<B> = (&'static str, fn(&mut B));

/// Every promise; each wants a namespace of its own, and leaves nothing of ours in it.
pub fn promises<B: Backend>() -> Vec<Promise<B>> {
    vec![
        ("every_kind_of_rule_is_taken_and_read_back", every_kind_of_rule_is_taken_and_read_back),
        ("any_ruleset_becomes_any_other", any_ruleset_becomes_any_other),
        ("what_is_not_known_is_refused", what_is_not_known_is_refused),
        ("many_chains_in_turn_are_taken", many_chains_in_turn_are_taken),
    ]
}

/// Brings the table to `desired`, and checks that nothing is left to do.
pub fn converge(backend: &mut impl Backend, desired: &Ruleset) {
    let table = Name::from(TABLE);
    let transaction = backend.plan(&table, desired).expect("a plan");
    if let Err(error) = backend.commit(&transaction) {
        panic!("{error}\nin\n{transaction}");
    }
    let left = backend.plan(&table, desired).expect("a plan");
    assert!(left.is_empty(), "still to do:\n{left}\nafter\n{transaction}");
}

/// A ruleset with everything that iptables can say.
pub fn speakable() -> Ruleset {
    let mut ruleset = everything();
    for chain in ruleset.chains.values_mut() {
        chain.rules.retain(|rule| {
            let unsaid = rule.matches.iter().any(|matched| match matched {
                Match::InSet { set, negated, .. } => *negated && set.as_ref() == "links",
                _ => false,
            });
            // A station is known where packets come in, and this chain is reached from OUTPUT too.
            let station = rule.matches.iter().any(|matched| matches!(matched, Match::SourceStation(_)));
            !unsaid && !station
        });
    }
    ruleset
}

/// A chain that asks so many others in turn, each of which may accept, and then refuses: a pod under so many policies.
pub fn in_turn(n: u16) -> Ruleset {
    let rule = |matches, statement| Rule { matches, statements: vec![statement], comment: Name::from("in turn") };
    let plain = |rules| Chain { base: None, rules };
    let mut ruleset = Ruleset::default();
    let mut group = Vec::new();
    for number in 0..n {
        let name = Name::from(format!("to-{number}"));
        let ports = Match::DestinationPorts { first: 1000 + number, last: 1000 + number };
        ruleset.chains.insert(name.clone(), plain(vec![rule(vec![ports], Statement::Accept)]));
        group.push(rule(Vec::new(), Statement::Jump(name)));
    }
    group.push(rule(Vec::new(), Statement::Reject));
    ruleset.chains.insert(Name::from("receive"), plain(group));
    let base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: priority::FIREWALL_INGRESS };
    let to = rule(vec![Match::Protocol(Protocol::Tcp)], Statement::Jump(Name::from("receive")));
    ruleset.chains.insert(Name::from("forward"), Chain { base: Some(base), rules: vec![to] });
    ruleset
}

fn many_chains_in_turn_are_taken(backend: &mut impl Backend) {
    converge(backend, &in_turn(40));
    gone(backend);
}

/// The same without pairs of addresses, which a kernel may have no type of set for.
fn without_pairs(mut ruleset: Ruleset) -> Ruleset {
    let pairs: Vec<Name> = ruleset
        .sets
        .iter()
        .filter(|(_, set)| matches!(set.key.as_slice(), [FieldType::Ipv4, FieldType::Ipv4]))
        .map(|(name, _)| name.clone())
        .collect();
    for chain in ruleset.chains.values_mut() {
        chain.rules.retain(|rule| !rule.refers_to().any(|name| pairs.contains(name)));
    }
    ruleset
}

fn gone(backend: &mut impl Backend) {
    let table = Name::from(TABLE);
    let observed = backend.dump(&table).expect("a dump");
    backend.commit(&remove(&table, observed.as_ref())).expect("it is removed");
    assert_eq!(backend.dump(&table).expect("a dump"), None);
}

fn every_kind_of_rule_is_taken_and_read_back(backend: &mut impl Backend) {
    assert_eq!(backend.dump(&Name::from(TABLE)).expect("a dump"), None);
    converge(backend, &speakable());
    let mut longer = speakable();
    let rules = &mut longer.chains.entry(Name::from("sub")).or_default().rules;
    rules.truncate(3);
    rules.iter_mut().for_each(|rule| rule.statements = vec![Statement::Drop]);
    converge(backend, &longer);
    converge(backend, &Ruleset::default());
    gone(backend);
}

fn any_ruleset_becomes_any_other(backend: &mut impl Backend) {
    for seed in 1..=12 {
        converge(backend, &without_pairs(random_ruleset(seed)));
    }
    converge(backend, &speakable());
    converge(backend, &without_pairs(random_ruleset(7)));
    gone(backend);
}

fn what_is_not_known_is_refused(backend: &mut impl Backend) {
    use crate::kernel::error::Disposition;
    use crate::kernel::filter::plan::{Change, Transaction};
    let changes = vec![Change::AddChain(Name::from("x"), None)];
    let error = backend.commit(&Transaction { table: Some(Name::from(TABLE)), changes }).expect_err("no table");
    assert_eq!(error.kind, Disposition::Stale);
}
