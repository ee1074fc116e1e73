//! Plans against the fake: what they change, in which order, and that they arrive.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::kernel::filter::{Field, Selector};
use crate::kernel::nft::Nft;
use crate::kernel::nft::fake::FakeNft;
use crate::testing::contract::nft::{TABLE, converge, everything, random_ruleset};

fn table() -> Name {
    Name::from(TABLE)
}

fn changes(desired: &Ruleset, fake: &mut FakeNft) -> Vec<Change> {
    let observed = fake.dump(&table()).unwrap();
    plan(&table(), desired, observed.as_ref()).changes
}

fn key(last: u8) -> Key {
    vec![Field::Ipv4(Ipv4Addr::new(10, 0, 0, last))]
}

fn jump(set: Option<&str>, to: &str) -> Rule {
    let in_set = |set: &str| Match::InSet { selectors: vec![Selector::Source4], set: Name::from(set), negated: false };
    Rule {
        matches: set.map(in_set).into_iter().collect(),
        statements: vec![Statement::Jump(Name::from(to))],
        comment: Name::from("a jump"),
    }
}

/// Two chains, a set that both use, and a verdict map.
fn small() -> Ruleset {
    let mut ruleset = Ruleset::default();
    let keys = Elements::Keys(BTreeSet::from([key(1)]));
    ruleset.sets.insert(Name::from("set"), Set { key: vec![FieldType::Ipv4], elements: keys, size: 16 });
    let elements = BTreeMap::from([(key(1), Value::Jump(Name::from("end")))]);
    let map = Map { key: vec![FieldType::Ipv4], elements, value: ValueType::Verdict, size: 16 };
    ruleset.maps.insert(Name::from("map"), map);
    ruleset.chains.insert(Name::from("end"), Chain::default());
    let rules = vec![jump(Some("set"), "end"), jump(None, "end")];
    ruleset.chains.insert(Name::from("start"), Chain { base: None, rules });
    ruleset
}

#[test]
fn an_unchanged_ruleset_is_no_change() {
    let mut fake = FakeNft::new();
    converge(&mut fake, &small());
    assert_eq!(changes(&small(), &mut fake), []);
    // Interval sets declare no size, whatever the model says.
    let mut ruleset = everything();
    if let Some(blocks) = ruleset.sets.get_mut("blocks4") {
        blocks.size = 1000;
    }
    fake = FakeNft::new();
    converge(&mut fake, &ruleset);
    assert_eq!(changes(&ruleset, &mut fake), []);
}

#[test]
fn small_changes_stay_small() {
    let mut fake = FakeNft::new();
    converge(&mut fake, &small());
    let mut ruleset = small();
    if let Some(Set { elements: Elements::Keys(keys), .. }) = ruleset.sets.get_mut("set") {
        keys.insert(key(2));
    }
    assert_eq!(changes(&ruleset, &mut fake), [Change::AddKeys(Name::from("set"), vec![key(2)])]);
    let mut ruleset = small();
    if let Some(start) = ruleset.chains.get_mut("start") {
        start.rules.push(jump(None, "end"));
    }
    assert_eq!(changes(&ruleset, &mut fake), [Change::AddRule(Name::from("start"), jump(None, "end"))]);
    let mut ruleset = small();
    if let Some(map) = ruleset.maps.get_mut("map") {
        map.elements.insert(key(1), Value::Drop);
    }
    let expected = [
        Change::DeleteEntries(Name::from("map"), vec![(key(1), Value::Jump(Name::from("end")))]),
        Change::AddEntries(Name::from("map"), vec![(key(1), Value::Drop)]),
    ];
    assert_eq!(changes(&ruleset, &mut fake), expected);
}

#[test]
fn a_set_of_another_size_takes_only_its_rules_along() {
    let mut fake = FakeNft::new();
    converge(&mut fake, &small());
    let mut ruleset = small();
    if let Some(set) = ruleset.sets.get_mut("set") {
        set.size = 32;
    }
    let name = || Name::from("set");
    let expected = [
        Change::FlushChain(Name::from("start")),
        Change::DeleteSet(name()),
        Change::AddSet(name(), vec![FieldType::Ipv4], SetKind::Hash, 32),
        Change::AddKeys(name(), vec![key(1)]),
        Change::AddRule(Name::from("start"), jump(Some("set"), "end")),
        Change::AddRule(Name::from("start"), jump(None, "end")),
    ];
    assert_eq!(changes(&ruleset, &mut fake), expected);
    converge(&mut fake, &ruleset);
}

#[test]
fn what_cannot_change_piece_by_piece_is_written_again() {
    let mut fake = FakeNft::new();
    converge(&mut fake, &small());
    assert!(fake.put_unknown(TABLE, "flowtable theirs"));
    assert_eq!(changes(&small(), &mut fake).get(..2), Some(&[Change::DeleteTable, Change::AddTable][..]));
    converge(&mut fake, &small());
    let mut ruleset = small();
    let base = Base { kind: super::super::BaseKind::Filter, hook: super::super::Hook::Input, priority: 1 };
    ruleset.chains.insert(Name::from("start"), Chain { base: Some(base), rules: Vec::new() });
    assert_eq!(changes(&ruleset, &mut fake).first(), Some(&Change::DeleteTable));
    converge(&mut fake, &ruleset);
}

#[test]
fn a_chain_goes_after_the_verdicts_that_name_it() {
    let mut fake = FakeNft::new();
    converge(&mut fake, &small());
    let mut ruleset = small();
    ruleset.chains.remove("end");
    ruleset.maps.clear();
    ruleset.chains.insert(Name::from("start"), Chain::default());
    let expected = [
        Change::FlushChain(Name::from("start")),
        Change::FlushChain(Name::from("end")),
        Change::DeleteEntries(Name::from("map"), vec![(key(1), Value::Jump(Name::from("end")))]),
        Change::DeleteMap(Name::from("map")),
        Change::DeleteChain(Name::from("end")),
    ];
    assert_eq!(changes(&ruleset, &mut fake), expected);
    converge(&mut fake, &ruleset);
}

#[test]
fn a_name_may_change_from_set_to_map() {
    let mut fake = FakeNft::new();
    converge(&mut fake, &small());
    let mut ruleset = small();
    let map = ruleset.maps.remove("map").unwrap();
    let set = ruleset.sets.remove("set").unwrap();
    ruleset.maps.insert(Name::from("set"), map);
    ruleset.sets.insert(Name::from("map"), set);
    ruleset.chains.insert(Name::from("start"), Chain { base: None, rules: vec![jump(Some("map"), "end")] });
    converge(&mut fake, &ruleset);
    converge(&mut fake, &small());
}

#[test]
fn foreign_rules_go_and_foreign_tables_stay() {
    let mut fake = FakeNft::new();
    fake.put_foreign_table("theirs", small());
    converge(&mut fake, &small());
    assert!(fake.put_foreign_rule(TABLE, "start") && fake.put_foreign_rule(TABLE, "end"));
    converge(&mut fake, &small());
    assert_eq!(fake.ruleset("theirs"), Some(small()));
    let observed = fake.dump(&table()).unwrap();
    fake.commit(&remove(&table(), observed.as_ref())).unwrap();
    assert_eq!(fake.tables().map(|name| &**name).collect::<Vec<_>>(), ["theirs"]);
}

#[test]
fn digests_tell_rules_apart() {
    let rules: Vec<Rule> = everything().chains.into_values().flat_map(|chain| chain.rules).collect();
    let distinct: BTreeSet<u64> = rules.iter().map(Rule::digest).collect();
    let different: BTreeSet<String> = rules.iter().map(|rule| format!("{rule:?}")).collect();
    assert_eq!(distinct.len(), different.len());
    // Kept in the kernel across restarts and upgrades: must not change without need.
    assert_eq!(jump(Some("set"), "end").digest(), 15_727_686_077_369_149_988);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_ruleset_becomes_any_other(seeds in proptest::collection::vec(any::<u64>(), 1..6), intrusion in 0..4u8) {
        let mut fake = FakeNft::new();
        fake.put_foreign_table("theirs", small());
        for seed in seeds {
            let desired = random_ruleset(seed);
            converge(&mut fake, &desired);
            // Somebody interferes; the next ruleset must come about all the same.
            match intrusion {
                1 => {
                    fake.put_foreign_rule(TABLE, "hook-a");
                    fake.put_foreign_rule(TABLE, "sub-d");
                }
                2 => fake.remove_table(TABLE),
                3 => fake.put_foreign_table(TABLE, random_ruleset(seed.rotate_left(9))),
                _ => {}
            }
        }
        prop_assert_eq!(fake.ruleset("theirs"), Some(small()));
        converge(&mut fake, &Ruleset::default());
        prop_assert_eq!(fake.ruleset(TABLE), Some(Ruleset::default()));
    }
}
