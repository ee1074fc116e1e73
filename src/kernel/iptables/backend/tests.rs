//! The backend on fakes: what is written, in which order, and what is left alone.

use super::*;
use crate::kernel::filter::plan::remove;
use crate::kernel::filter::{Chain, Elements, Field, Statement};
use crate::kernel::ipset::fake::FakeIpset;
use crate::kernel::iptables::Table;
use crate::kernel::iptables::fake::FakePrograms;
use crate::testing::contract::iptables::{TABLE, converge, speakable};
use crate::testing::contract::nft::random_ruleset;

type Fake = Iptables<FakeIpset, FakePrograms>;

fn fake() -> Fake {
    Iptables::new(FakeIpset::new(), FakePrograms::new())
}

/// The same kernel, met by a daemon that knows nothing.
fn restarted(fake: &mut Fake) -> Fake {
    let (ipset, programs) = fake.doors();
    Iptables::new(ipset.clone(), programs.clone())
}

fn writes(fake: &mut Fake) -> (usize, usize) {
    let (ipset, programs) = fake.doors();
    (ipset.applied().len(), programs.restored.len())
}

#[test]
fn keeps_every_promise() {
    for (name, promise) in crate::testing::contract::iptables::promises::<Fake>() {
        let mut fake = fake();
        promise(&mut fake);
        let (ipset, _) = fake.doors();
        assert!(ipset.sets().is_empty(), "{name} left sets");
    }
}

#[test]
fn a_correct_kernel_is_adopted_without_a_write() {
    for seed in 1..40 {
        let mut first = fake();
        converge(&mut first, &random_ruleset(seed));
        let mut second = restarted(&mut first);
        let before = writes(&mut second);
        assert!(second.plan(&Name::from(TABLE), &random_ruleset(seed)).expect("a plan").is_empty());
        assert_eq!(writes(&mut second), before);
        // From one it does not know, only what differs is written, and the end is the same.
        converge(&mut second, &random_ruleset(seed + 1));
    }
}

#[test]
fn a_new_member_costs_one_change_of_a_set_and_no_process() {
    let mut fake = fake();
    let ruleset = speakable();
    converge(&mut fake, &ruleset);
    let before = writes(&mut fake);
    let key = vec![Field::Ipv4([10, 7, 7, 7].into()), Field::Protocol(crate::net::Protocol::Udp), Field::Port(53)];
    let changes = vec![Change::AddKeys(Name::from("keys4"), vec![key])];
    fake.commit(&Transaction { table: Some(Name::from(TABLE)), changes }).expect("it is done");
    let after = writes(&mut fake);
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 0));
}

#[test]
fn what_others_do_to_our_chains_is_repaired_and_theirs_stay() {
    let mut fake = fake();
    let ruleset = speakable();
    converge(&mut fake, &ruleset);
    let foreign = "-p tcp --dport 22 -j ACCEPT";
    let (_, programs) = fake.doors();
    let chains: Vec<String> = programs.family(Family::V4).tables[&Table::Filter].chains.keys().cloned().collect();
    for chain in chains {
        let (_, programs) = fake.doors();
        programs.put_foreign_rule(Family::V4, Table::Filter, &chain, foreign);
        converge(&mut fake, &ruleset);
    }
    let (_, programs) = fake.doors();
    let chains = &programs.family(Family::V4).tables[&Table::Filter].chains;
    for hook in ["INPUT", "FORWARD"] {
        assert_eq!(chains[hook].len(), 2, "ours and theirs");
        assert!(chains[hook][0].spec.ends_with(&format!("-j FERROVIA-{hook}")), "ours is first again");
        assert_eq!(chains[hook][1].spec, foreign);
    }
}

#[test]
fn two_tables_share_a_hook_in_the_order_of_their_priorities() {
    let mut fake = fake();
    let of = |priority| {
        let base = crate::kernel::filter::Base {
            kind: crate::kernel::filter::BaseKind::Filter,
            hook: crate::kernel::filter::Hook::Forward,
            priority,
        };
        let rules = vec![Rule { matches: vec![], statements: vec![Statement::Drop], comment: "no".into() }];
        Ruleset { chains: [(Name::from("forward"), Chain { base: Some(base), rules })].into(), ..Ruleset::default() }
    };
    let commit = |fake: &mut Fake, table: &str, priority| {
        let table = Name::from(table);
        let transaction = fake.plan(&table, &of(priority)).expect("a plan");
        fake.commit(&transaction).expect("it is done");
    };
    commit(&mut fake, "ferrovia-routing", 0);
    // A daemon that runs one room knows nothing of the other's rules, and leaves them where they are.
    let mut fake = restarted(&mut fake);
    commit(&mut fake, "ferrovia-firewall", -6);
    let order = |fake: &mut Fake| {
        let (_, programs) = fake.doors();
        let chains = &programs.family(Family::V4).tables[&Table::Filter].chains;
        chains.get("FERROVIA-FORWARD").map(|rules| {
            let tag = |spec: &str| spec.rsplit_once("-j FERROVIA-").map(|(_, name)| name[..3].to_owned());
            rules.iter().filter_map(|rule| tag(&rule.spec)).collect::<Vec<_>>()
        })
    };
    assert_eq!(order(&mut fake).unwrap_or_default(), ["FIR", "ROU"]);
    for (table, left) in [("ferrovia-firewall", Some(vec!["ROU".to_owned()])), ("ferrovia-routing", None)] {
        let table = Name::from(table);
        let observed = fake.dump(&table).expect("a dump");
        fake.commit(&remove(&table, observed.as_ref())).expect("it is removed");
        assert_eq!(order(&mut fake), left);
    }
}

#[test]
fn a_refused_restore_is_told_and_the_next_pass_starts_from_the_kernel() {
    let mut fake = fake();
    converge(&mut fake, &random_ruleset(3));
    let (_, programs) = fake.doors();
    programs.fail_next();
    let table = Name::from(TABLE);
    let transaction = fake.plan(&table, &speakable()).expect("a plan");
    fake.commit(&transaction).expect_err("it was refused");
    converge(&mut fake, &speakable());
}

#[test]
fn before_rules_change_an_address_set_only_shrinks() {
    let mut fake = fake();
    let table = Name::from(TABLE);
    let mut ruleset = speakable();
    converge(&mut fake, &ruleset);
    let address =
        |n: u8| vec![Field::Ipv4([10, 1, 1, n].into()), Field::Protocol(crate::net::Protocol::Tcp), Field::Port(1)];
    if let Some(set) = ruleset.sets.get_mut("keys4") {
        set.elements = Elements::Keys([address(1)].into());
    }
    ruleset.chains.entry("sub".into()).or_default().rules.push(Rule {
        matches: vec![],
        statements: vec![Statement::Drop],
        comment: "one more".into(),
    });
    let before = writes(&mut fake).0;
    let transaction = fake.plan(&table, &ruleset).expect("a plan");
    let (_, programs) = fake.doors();
    programs.fail_next();
    fake.commit(&transaction).expect_err("rules are refused");
    let (ipset, _) = fake.doors();
    let done = &ipset.applied()[before..];
    assert!(!done.is_empty() && done.iter().all(|op| matches!(op, Op::Delete(..))), "{done:?}");
}
