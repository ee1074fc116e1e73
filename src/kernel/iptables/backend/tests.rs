//! The backend on fakes: what is written, in which order, and what is left alone.

use super::*;
use crate::kernel::filter::plan::{Change, remove};
use crate::kernel::filter::{Chain, Elements, Field, Rule, Statement, Value};
use crate::kernel::ipset::Op;
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

fn saved_text(fake: &mut Fake, family: Family) -> String {
    let (_, programs) = fake.doors();
    programs.family(family).print()
}

#[test]
fn without_the_program_for_ipv6_ipv4_rules_are_in_force_and_it_is_told() {
    let mut fake = fake();
    fake.doors().1.lack(Family::V6, true);
    converge(&mut fake, &speakable());
    assert!(saved_text(&mut fake, Family::V4).contains("FERROVIA-FORWARD"));
    let (ipset, programs) = fake.doors();
    assert!(programs.restored.iter().all(|(family, _)| *family == Family::V4));
    let families = ipset.sets().values().filter_map(|found| found.shape?.family);
    assert!(families.into_iter().all(|family| family == Family::V4));
    let told = fake.limits();
    assert!(told.len() == 1 && told[0].contains("no IPv6 rules") && told[0].contains("not installed"), "{told:?}");
    // Somebody installs it.
    fake.doors().1.lack(Family::V6, false);
    converge(&mut fake, &speakable());
    assert!(saved_text(&mut fake, Family::V6).contains("FERROVIA-FORWARD"));
    assert!(fake.limits().is_empty());
    // That it fails later is a fault, and not a family less.
    fake.doors().1.lack(Family::V6, true);
    fake.plan(&Name::from(TABLE), &speakable()).expect_err("it was there");
}

#[test]
fn without_sets_of_ipv6_ipv4_rules_are_in_force_and_it_is_told() {
    let mut fake = fake();
    fake.doors().0.lack_family(Family::V6);
    converge(&mut fake, &speakable());
    assert!(saved_text(&mut fake, Family::V4).contains("FERROVIA-FORWARD"));
    assert!(fake.limits().iter().any(|told| told.contains("no sets of this family")));
}

#[test]
fn what_one_family_refuses_the_other_gets() {
    let mut fake = fake();
    let table = Name::from(TABLE);
    fake.doors().1.refuse(Family::V4, "-j DROP");
    let transaction = fake.plan(&table, &speakable()).expect("a plan");
    let error = fake.commit(&transaction).expect_err("IPv4 is refused");
    assert!(error.op.contains("-j DROP") && error.op.contains("--comment"), "the line is named: {error}");
    assert!(saved_text(&mut fake, Family::V6).contains("FERROVIA-FORWARD"));
    fake.doors().1.refuse(Family::V4, "");
    converge(&mut fake, &speakable());
}

#[test]
fn a_set_that_a_rule_still_holds_goes_later() {
    let mut fake = fake();
    converge(&mut fake, &speakable());
    let hold = |fake: &mut Fake, held: u32| {
        let (ipset, _) = fake.doors();
        let all = ipset.sets().keys().map(|name| (name.clone(), held)).collect();
        ipset.refer(&all);
        ipset.sets().len()
    };
    let n_sets = hold(&mut fake, 1);
    converge(&mut fake, &Ruleset::default());
    assert_eq!(fake.doors().0.sets().len(), n_sets, "they are still held, and nothing failed");
    // Wanted again before they went.
    converge(&mut fake, &speakable());
    hold(&mut fake, 1);
    converge(&mut fake, &Ruleset::default());
    hold(&mut fake, 0);
    assert!(fake.plan(&Name::from(TABLE), &Ruleset::default()).expect("a plan").is_empty());
    assert!(fake.doors().0.sets().is_empty());
}

/// A rule that looks at addresses of packets, and one that looks at whom the client asked.
fn vips() -> Ruleset {
    use crate::kernel::filter::{Base, BaseKind, FieldType, Hook, Map, Match, Selector, Set, ValueType};
    let address = |n: u8| Field::Ipv4([10, 96, 0, n].into());
    let set = |keys| Set { key: vec![FieldType::Ipv4], elements: Elements::Keys(keys), size: 64 };
    let looks = |selector, set: &str| Match::InSet { selectors: vec![selector], set: Name::from(set), negated: false };
    let rule = |matches, statement| Rule { matches, statements: vec![statement], comment: Name::from("a rule") };
    let chain = |kind, hook, rules| Chain { base: Some(Base { kind, hook, priority: -1 }), rules };
    let mut ruleset = Ruleset::default();
    ruleset.sets.insert(Name::from("vips"), set([vec![address(1)]].into()));
    ruleset.sets.insert(Name::from("clients"), set([vec![address(2)]].into()));
    let elements = [(vec![address(3)], Value::Jump(Name::from("a"))), (vec![address(4)], Value::Jump(Name::from("a")))];
    let map = Map { key: vec![FieldType::Ipv4], elements: elements.into(), value: ValueType::Verdict, size: 64 };
    ruleset.maps.insert(Name::from("pods"), map);
    let verdicts = Statement::VerdictMap { selectors: vec![Selector::Source4], map: Name::from("pods") };
    let guard = vec![
        rule(vec![looks(Selector::Destination4, "vips")], Statement::Drop),
        rule(vec![looks(Selector::Source4, "clients")], Statement::Accept),
        rule(vec![], verdicts),
    ];
    let asked = rule(vec![looks(Selector::OriginalDestination4, "vips")], Statement::Masquerade { random: true });
    ruleset.chains.insert(Name::from("guard"), chain(BaseKind::Filter, Hook::Input, guard));
    ruleset.chains.insert(Name::from("nat"), chain(BaseKind::Nat, Hook::Postrouting, vec![asked]));
    ruleset.chains.insert(Name::from("a"), Chain { base: None, rules: vec![rule(vec![], Statement::Drop)] });
    ruleset
}

#[test]
fn only_members_that_are_in_rules_cost_a_program() {
    let table = Name::from(TABLE);
    let address = |n: u8| vec![Field::Ipv4([10, 96, 0, n].into())];
    let entry = |n: u8| (address(n), Value::Jump(Name::from("a")));
    let changes = [
        (Change::AddKeys(Name::from("clients"), vec![address(9)]), 0),
        (Change::DeleteKeys(Name::from("clients"), vec![address(9), address(2)]), 0),
        (Change::AddEntries(Name::from("pods"), vec![entry(5)]), 0),
        (Change::DeleteEntries(Name::from("pods"), vec![entry(3), entry(4)]), 0),
        // The last of a kind takes its rule away; one more kind brings one.
        (Change::DeleteEntries(Name::from("pods"), vec![entry(5)]), 1),
        (Change::AddEntries(Name::from("pods"), vec![(address(5), Value::Drop)]), 1),
        // Whom the client asked is in a rule for each.
        (Change::AddKeys(Name::from("vips"), vec![address(7)]), 1),
        (Change::DeleteKeys(Name::from("vips"), vec![address(1)]), 1),
    ];
    let mut fake = fake();
    let mut ruleset = vips();
    converge(&mut fake, &ruleset);
    for (change, restores) in changes {
        let before = writes(&mut fake);
        change.apply_to(&mut ruleset);
        let transaction = Transaction { table: Some(table.clone()), changes: vec![change] };
        fake.commit(&transaction).expect("it is done");
        let after = writes(&mut fake);
        assert_eq!(after.1 - before.1, restores, "{transaction}");
        assert!(restores > 0 || after.0 > before.0, "{transaction}");
        // Whoever reads everything finds it as it should be.
        let plan = restarted(&mut fake).plan(&table, &ruleset).expect("a plan");
        assert!(plan.is_empty(), "after {transaction}: {plan}");
    }
    assert!(saved_text(&mut fake, Family::V4).contains("--ctorigdst 10.96.0.7"));
    assert!(!saved_text(&mut fake, Family::V4).contains("--ctorigdst 10.96.0.1 "));
}

#[test]
fn a_pod_comes_under_its_new_rules_before_it_leaves_the_old_ones() {
    let mut fake = fake();
    let table = Name::from(TABLE);
    let mut ruleset = vips();
    let address = |n: u8| vec![Field::Ipv4([10, 96, 0, n].into())];
    let to_a = Value::Jump(Name::from("a"));
    ruleset.maps.get_mut("pods").expect("it is there").elements.insert(address(6), Value::Drop);
    converge(&mut fake, &ruleset);
    let changes = vec![
        Change::DeleteEntries(Name::from("pods"), vec![(address(3), to_a)]),
        Change::AddEntries(Name::from("pods"), vec![(address(3), Value::Drop)]),
    ];
    let before = writes(&mut fake);
    fake.commit(&Transaction { table: Some(table), changes }).expect("it is done");
    assert_eq!(writes(&mut fake).1, before.1, "no program");
    let done = fake.doors().0.applied()[before.0..].to_vec();
    assert!(matches!(done.as_slice(), [Op::Add(..), Op::Delete(..)]), "{done:?}");
}

#[test]
fn what_is_left_of_a_table_is_told_piece_by_piece() {
    let table = Name::from(TABLE);
    let whole = Observed::from(&vips());
    let told = |break_it: &dyn Fn(&mut Fake)| {
        let mut fake = fake();
        converge(&mut fake, &vips());
        break_it(&mut fake);
        let observed = fake.dump(&table).expect("a dump").expect("something is there");
        converge(&mut fake, &vips());
        observed
    };
    assert_eq!(told(&|_| {}), whole);
    let ipset_of = |fake: &mut Fake, model: &str| -> Arc<str> {
        let hint = format!("-{model}-");
        fake.doors().0.sets().keys().find(|name| name.contains(&hint)).expect("it is there").clone()
    };
    let members = told(&|fake| {
        for model in ["clie", "pods"] {
            let name = ipset_of(fake, model);
            let found = fake.doors().0.sets()[&name].elements.clone();
            let first = found.first().copied().into_iter().collect();
            fake.doors().0.apply(&[Op::Delete(name, first)]).into_iter().for_each(|done| done.expect("it is done"));
        }
    });
    assert_eq!(members.maps["pods"].elements.len(), 1, "one of two pods is led nowhere");
    assert_eq!(members.sets["clients"].elements, Elements::Keys(BTreeSet::new()));
    assert_eq!((&members.chains, &members.sets["vips"]), (&whole.chains, &whole.sets["vips"]));
    let chain = told(&|fake| {
        let (_, programs) = fake.doors();
        let chains = &mut programs.family(Family::V4).tables.get_mut(&Table::Nat).expect("it is there").chains;
        chains
            .values_mut()
            .filter(|rules| rules.iter().any(|rule| rule.spec.contains("MASQUERADE")))
            .for_each(Vec::clear);
    });
    assert!(chain.chains["nat"].rules.is_empty() && !chain.chains["guard"].rules.is_empty());
    let jump = told(&|fake| fake.doors().1.put_foreign_rule(Family::V4, Table::Filter, "INPUT", "-j ACCEPT"));
    assert!(jump.unknown.iter().any(|what| what.contains("jumps")), "{:?}", jump.unknown);
    assert_eq!(jump.chains, whole.chains);
}

#[test]
fn a_chain_that_a_foreign_rule_leads_to_stays_empty_and_holds_nothing_up() {
    let mut fake = fake();
    converge(&mut fake, &vips());
    let (_, programs) = fake.doors();
    let chains = &programs.family(Family::V4).tables[&Table::Filter].chains;
    let ours = chains.keys().find(|chain| chain.starts_with("FERROVIA-CON-")).expect("it is there").clone();
    programs.put_foreign_rule(Family::V4, Table::Filter, "FORWARD", &format!("-p tcp -j {ours}"));
    converge(&mut fake, &Ruleset::default());
    let (_, programs) = fake.doors();
    let chains = &programs.family(Family::V4).tables[&Table::Filter].chains;
    assert_eq!(chains.get(&ours), Some(&Vec::new()));
    assert_eq!(chains.keys().filter(|chain| chain.starts_with("FERROVIA")).count(), 1, "all others are gone");
    converge(&mut fake, &vips());
}

#[test]
fn links_whose_names_are_no_plain_words_are_refused_by_rule() {
    use crate::kernel::filter::{FieldType, Match, Selector, Set};
    for (link, is_plain) in [("eth0.100", true), ("veth-a_b@1", true), ("eth+", false), ("a\"b", false), ("-j", false)]
    {
        let mut ruleset = vips();
        let elements = Elements::Keys([vec![Field::Interface(Name::from(link))]].into());
        ruleset.sets.insert(Name::from("links"), Set { key: vec![FieldType::Interface], elements, size: 16 });
        let matched =
            Match::InSet { selectors: vec![Selector::InputInterface], set: Name::from("links"), negated: false };
        let rule = Rule { matches: vec![matched], statements: vec![Statement::Accept], comment: Name::from("by link") };
        ruleset.chains.get_mut("guard").expect("it is there").rules.insert(0, rule);
        let planned = fake().plan(&Name::from(TABLE), &ruleset);
        match planned {
            Ok(_) => assert!(is_plain, "{link}"),
            Err(error) => assert!(!is_plain && error.op.contains("\"by link\""), "{link}: {error}"),
        }
    }
}
