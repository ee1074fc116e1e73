//! What every [`Nft`] must do. Each function takes an empty namespace (or a new fake) and panics where the promise is
//! broken.

#![allow(clippy::expect_used, clippy::panic, reason = "a broken promise must stop the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::kernel::error::Disposition;
use crate::kernel::filter::plan::{Change, Observed, SetKind, Transaction, plan, remove};
use crate::kernel::filter::{
    Base, BaseKind, Chain, CtState, Elements, Field, FieldType, Hook, Key, Map, Match, Name, Rule, Ruleset, Selector,
    Set, Statement, Value, ValueType,
};
use crate::kernel::netlink::Refusal;
use crate::kernel::nft::Nft;
use crate::net::{Family, Prefix, Protocol};

/// The table most promises are tried on.
pub const TABLE: &str = "ferrovia-contract";

/// A promise and its name.
pub type Promise<N> = (&'static str, fn(&mut N));

/// Every promise; each wants a namespace of its own.
pub fn promises<N: Nft>() -> Vec<Promise<N>> {
    vec![
        ("reads_back_everything_it_wrote", reads_back_everything_it_wrote),
        ("an_absent_table_is_none", an_absent_table_is_none),
        ("a_refused_transaction_changes_nothing", a_refused_transaction_changes_nothing),
        ("sets_in_use_and_full_sets_refuse", sets_in_use_and_full_sets_refuse),
        ("interval_sets_hold_any_disjoint_blocks", interval_sets_hold_any_disjoint_blocks),
        ("overlapping_blocks_are_refused", overlapping_blocks_are_refused),
        ("big_sets_come_and_go", big_sets_come_and_go),
        ("any_ruleset_becomes_any_other", any_ruleset_becomes_any_other),
        ("other_tables_stay", other_tables_stay),
        ("rules_look_into_tunnels", rules_look_into_tunnels),
    ]
}

fn rules_look_into_tunnels(nft: &mut impl Nft) {
    converge(nft, &with_tunnels());
}

/// [`everything`] with all that can be asked of a tunnelled packet; `nft` prints such lookups and does not take them.
pub fn with_tunnels() -> Ruleset {
    let mut ruleset = everything();
    let lookup = |selectors: Vec<Selector>, set: &str| Match::InSet { selectors, set: Name::from(set), negated: false };
    let mut rules = Vec::new();
    for (number, matches) in [
        vec![Match::IpInIp(Family::V4)],
        vec![Match::IpInIp(Family::V6)],
        vec![Match::InnerIsOpaque(Family::V4)],
        vec![Match::InnerIsOpaque(Family::V6)],
        vec![Match::InnerProtocol(Family::V4, Protocol::Udp), lookup(vec![Selector::InnerSource4], "blocks4")],
        vec![Match::InnerProtocol(Family::V6, Protocol::Sctp), lookup(vec![Selector::InnerSource6], "blocks6")],
        vec![
            Match::InnerProtocol(Family::V4, Protocol::Tcp),
            Match::InnerDestinationPorts { family: Family::V4, first: 80, last: 80 },
        ],
        vec![
            Match::InnerProtocol(Family::V6, Protocol::Tcp),
            Match::InnerDestinationPorts { family: Family::V6, first: 80, last: 90 },
        ],
        vec![lookup(vec![Selector::InnerDestinationPort4], "ports")],
        vec![lookup(vec![Selector::InnerDestinationPort6], "ports")],
    ]
    .into_iter()
    .enumerate()
    {
        rules.push(rule(number, matches, vec![Statement::Counter]));
    }
    ruleset.chains.insert(Name::from("tunnels"), Chain { base: None, rules });
    ruleset
}

/// Brings the table from whatever it holds to `desired`, and checks that nothing is left to do. Returns how many
/// changes it took.
pub fn converge(nft: &mut impl Nft, desired: &Ruleset) -> usize {
    let table = Name::from(TABLE);
    let transaction = plan(&table, desired, dump(nft).as_ref());
    if let Err(error) = nft.commit(&transaction) {
        panic!("{error}\nin\n{transaction}");
    }
    let observed = dump(nft).expect("the table is there");
    let left = plan(&table, desired, Some(&observed));
    assert!(left.is_empty(), "still to do:\n{left}\nafter\n{transaction}\nobserved {observed:?}");
    assert_eq!(contents(&observed), desired_contents(desired), "after\n{transaction}");
    transaction.changes.len()
}

fn dump(nft: &mut impl Nft) -> Option<Observed> {
    nft.dump(&Name::from(TABLE)).expect("the table can be read")
}

/// What is comparable between desired and observed: interval sets declare no size, rules are their digests.
fn desired_contents(ruleset: &Ruleset) -> Observed {
    let chain = |chain: &Chain| crate::kernel::filter::plan::ObservedChain {
        base: chain.base,
        rules: chain.rules.iter().map(|rule| Some(rule.digest())).collect(),
    };
    let observed = Observed {
        sets: ruleset.sets.clone(),
        maps: ruleset.maps.clone(),
        chains: ruleset.chains.iter().map(|(name, found)| (name.clone(), chain(found))).collect(),
        unknown: BTreeSet::new(),
    };
    contents(&observed)
}

fn contents(observed: &Observed) -> Observed {
    let mut observed = observed.clone();
    for set in observed.sets.values_mut().filter(|set| set.elements.kind() == SetKind::Interval) {
        set.size = 0;
    }
    observed
}

fn an_absent_table_is_none(nft: &mut impl Nft) {
    assert_eq!(dump(nft), None);
    let table = Name::from(TABLE);
    assert!(remove(&table, None).is_empty());
    nft.commit(&plan(&table, &Ruleset::default(), None)).expect("an empty table is created");
    assert_eq!(dump(nft), Some(Observed::default()));
    let observed = dump(nft);
    nft.commit(&remove(&table, observed.as_ref())).expect("the table is removed");
    assert_eq!(dump(nft), None);
    let gone = Transaction { table: Some(table), changes: vec![Change::DeleteTable] };
    let error = nft.commit(&gone).expect_err("it is gone already");
    assert_eq!((error.errno, error.kind), (Some(Refusal::ENOENT), Disposition::Stale));
}

fn reads_back_everything_it_wrote(nft: &mut impl Nft) {
    let desired = everything();
    converge(nft, &desired);
    assert_eq!(converge(nft, &desired), 0, "a second pass does nothing");

    // One element more or less is one change.
    let mut more = desired.clone();
    let key = vec![Field::Ipv4(Ipv4Addr::new(10, 9, 9, 9)), Field::Protocol(Protocol::Udp), Field::Port(53)];
    if let Some(Set { elements: Elements::Keys(keys), .. }) = more.sets.get_mut("keys4") {
        keys.insert(key);
    }
    assert_eq!(converge(nft, &more), 1);
    assert_eq!(converge(nft, &desired), 1);

    // A rule at the end of a chain is one change, too; one in front rewrites the chain.
    let rule = Rule { matches: Vec::new(), statements: vec![Statement::Counter], comment: Name::from("one more") };
    let mut longer = desired.clone();
    longer.chains.entry(Name::from("sub")).or_default().rules.push(rule.clone());
    assert_eq!(converge(nft, &longer), 1);
    longer.chains.entry(Name::from("sub")).or_default().rules.insert(0, rule);
    let n_rules = longer.chains.get("sub").map_or(0, |chain| chain.rules.len());
    assert_eq!(converge(nft, &longer), 1 + n_rules, "a flush and every rule");
    converge(nft, &desired);
    converge(nft, &Ruleset::default());
}

fn a_refused_transaction_changes_nothing(nft: &mut impl Nft) {
    converge(nft, &everything());
    let before = dump(nft);
    let key = |port: u16| vec![Field::Ipv4(Ipv4Addr::LOCALHOST), Field::Protocol(Protocol::Tcp), Field::Port(port)];
    let name = Name::from("keys4");
    let transaction = Transaction {
        table: Some(Name::from(TABLE)),
        changes: vec![
            Change::AddKeys(name.clone(), vec![key(1)]),
            Change::AddKeys(name.clone(), vec![key(2)]),
            Change::AddKeys(name.clone(), vec![key(1)]),
            Change::DeleteKeys(name, vec![key(3)]),
        ],
    };
    let error = nft.commit(&transaction).expect_err("a key twice");
    assert_eq!((error.errno, error.kind), (Some(Refusal::EEXIST), Disposition::Stale), "{error}");
    let command = "add element inet ferrovia-contract keys4 { 127.0.0.1 . tcp . 1 }";
    assert!(error.op.ends_with(command), "{}", error.op);
    assert_eq!(dump(nft), before);

    let unspeakable = Rule {
        matches: Vec::new(),
        statements: vec![Statement::Log { group: 1, per_minute: 1 }, Statement::Drop],
        comment: Name::from("drops only what it logs"),
    };
    let transaction =
        Transaction { table: Some(Name::from(TABLE)), changes: vec![Change::AddRule(Name::from("sub"), unspeakable)] };
    let error = nft.commit(&transaction).expect_err("the drop would depend on the rate");
    assert_eq!(error.kind, Disposition::Fatal);
    assert_eq!(dump(nft), before);
}

fn sets_in_use_and_full_sets_refuse(nft: &mut impl Nft) {
    converge(nft, &everything());
    let before = dump(nft);
    let refused = |nft: &mut _, changes| {
        let transaction = Transaction { table: Some(Name::from(TABLE)), changes };
        Nft::commit(nft, &transaction).expect_err("it must be refused").errno
    };
    assert_eq!(refused(nft, vec![Change::DeleteSet(Name::from("blocks4"))]), Some(Refusal::EBUSY));
    assert_eq!(refused(nft, vec![Change::DeleteMap(Name::from("verdicts"))]), Some(Refusal::EBUSY));
    assert_eq!(refused(nft, vec![Change::DeleteChain(Name::from("sub"))]), Some(Refusal::EBUSY));
    let set = Set { key: vec![FieldType::Port], elements: Elements::Keys(BTreeSet::new()), size: 3 };
    let full = Name::from("full");
    let keys = |from: u16| (from..from + 3).map(|port| vec![Field::Port(port)]).collect::<Vec<Key>>();
    let create = Change::AddSet(full.clone(), set.key.clone(), SetKind::Hash, set.size);
    let over = vec![create, Change::AddKeys(full.clone(), keys(1)), Change::AddKeys(full.clone(), keys(4))];
    assert_eq!(refused(nft, over), Some(Refusal::ENFILE));
    assert_eq!(refused(nft, vec![Change::AddChain(Name::from("sub"), None)]), Some(Refusal::EEXIST));
    assert_eq!(refused(nft, vec![Change::FlushChain(Name::from("none"))]), Some(Refusal::ENOENT));
    assert_eq!(dump(nft), before);

    // A full set changes all its members at once.
    let with = |from: u16| {
        let mut ruleset = everything();
        ruleset
            .sets
            .insert(full.clone(), Set { elements: Elements::Keys(keys(from).into_iter().collect()), ..set.clone() });
        ruleset
    };
    converge(nft, &with(1));
    assert_eq!(converge(nft, &with(4)), 2, "out and in");
}

fn interval_sets_hold_any_disjoint_blocks(nft: &mut impl Nft) {
    let cases: [&[&str]; 8] = [
        &["0.0.0.0/0"],
        &["128.0.0.0/1"],
        &["0.0.0.0/1", "255.255.255.255/32"],
        &["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/23", "10.0.4.0/32", "10.0.4.1/32"],
        &["10.0.1.0/24", "10.0.2.0/23"],
        &["::/0"],
        &["fd00::/8", "fe80::/10", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
        &[],
    ];
    for case in cases {
        converge(nft, &blocks(case));
    }
}

fn overlapping_blocks_are_refused(nft: &mut impl Nft) {
    converge(nft, &blocks(&["10.0.0.0/8"]));
    let changes = vec![Change::AddPrefixes(Name::from("blocks"), vec![prefix("10.1.0.0/16")])];
    let transaction = Transaction { table: Some(Name::from(TABLE)), changes };
    let error = nft.commit(&transaction).expect_err("inside another block");
    assert_eq!(error.kind, Disposition::Stale, "{error}");
    // Going from the wide block to the narrow one is one transaction.
    converge(nft, &blocks(&["10.1.0.0/16", "10.128.0.0/9"]));
    converge(nft, &blocks(&["10.0.0.0/8"]));
}

fn big_sets_come_and_go(nft: &mut impl Nft) {
    const N_ELEMENTS: u32 = 20_000;
    let address = |number: u32| Ipv4Addr::from(0x0a00_0000 + number);
    let keys = (0..N_ELEMENTS).map(|number| vec![Field::Ipv4(address(number)), Field::Port(80)]).collect();
    let prefixes = (0..N_ELEMENTS / 4).map(|number| crate::net::host_prefix(IpAddr::V4(address(number * 2)))).collect();
    let key = vec![FieldType::Ipv4, FieldType::Port];
    let mut ruleset = Ruleset::default();
    ruleset.sets.insert(Name::from("keys"), Set { key, elements: Elements::Keys(keys), size: N_ELEMENTS });
    let key = vec![FieldType::Ipv4];
    ruleset.sets.insert(Name::from("blocks"), Set { key, elements: Elements::Prefixes(prefixes), size: 0 });
    converge(nft, &ruleset);
    for set in ruleset.sets.values_mut() {
        match &mut set.elements {
            Elements::Keys(keys) => keys.retain(|key| key.first() >= Some(&Field::Ipv4(address(N_ELEMENTS / 2)))),
            Elements::Prefixes(blocks) => blocks.retain(|block| u32::from(ipv4(block)) % 3 == 0),
        }
    }
    assert_eq!(converge(nft, &ruleset), 2);
    converge(nft, &Ruleset::default());
}

fn any_ruleset_becomes_any_other(nft: &mut impl Nft) {
    for seed in 1..=60 {
        converge(nft, &random_ruleset(seed));
    }
    converge(nft, &everything());
    converge(nft, &random_ruleset(7));
}

fn other_tables_stay(nft: &mut impl Nft) {
    let foreign = Name::from("somebody-elses");
    nft.commit(&plan(&foreign, &random_ruleset(3), None)).expect("the other table is made");
    let before = nft.dump(&foreign).expect("it can be read");
    assert!(before.is_some());
    converge(nft, &everything());
    let observed = dump(nft);
    nft.commit(&remove(&Name::from(TABLE), observed.as_ref())).expect("ours goes");
    assert_eq!(nft.dump(&foreign).expect("it can be read"), before);
}

fn blocks(blocks: &[&str]) -> Ruleset {
    let elements = Elements::Prefixes(blocks.iter().map(|block| prefix(block)).collect());
    let field = if blocks.iter().any(|block| block.contains(':')) { FieldType::Ipv6 } else { FieldType::Ipv4 };
    let set = Set { key: vec![field], elements, size: 0 };
    Ruleset { sets: BTreeMap::from([(Name::from("blocks"), set)]), ..Ruleset::default() }
}

fn ipv4(block: &Prefix) -> Ipv4Addr {
    match block.addr() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("an IPv4 block"),
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A ruleset with every kind of set, map, match and statement there is.
pub fn everything() -> Ruleset {
    let mut ruleset = Ruleset::default();
    add_sets(&mut ruleset);
    add_maps(&mut ruleset);
    let jump = Statement::Jump(Name::from("sub"));
    let mut sub: Vec<Rule> =
        every_match().into_iter().enumerate().map(|(at, matches)| rule(at, matches, vec![])).collect();
    sub.push(rule(90, vec![], vec![Statement::Return]));
    ruleset.chains.insert(Name::from("sub"), Chain { base: None, rules: sub });
    let base = |kind, hook, priority| Some(Base { kind, hook, priority });
    let statements = [
        vec![Statement::Counter, Statement::SetMark(0x4000)],
        vec![Statement::SetMarkBits { mask: 0x7f00_0000, value: 0x0500_0000 }],
        vec![Statement::SetMarkBits { mask: 0xff, value: 0 }, Statement::Accept],
        vec![Statement::SetCtMarkBits { mask: 0x7f00_0000, value: 0x0500_0000 }],
        vec![Statement::SetMarkFromMap { selectors: key4(), map: Name::from("marks") }, Statement::Accept],
        vec![Statement::VerdictMap { selectors: vec![Selector::Source4], map: Name::from("verdicts") }],
        vec![Statement::ClampSegment(1400)],
        vec![Statement::Log { group: 100, per_minute: 10 }],
        vec![Statement::Counter, jump.clone()],
        vec![Statement::Reject],
        vec![Statement::Drop],
    ];
    let rules = statements.into_iter().enumerate().map(|(at, statements)| rule(at, vec![], statements)).collect();
    ruleset.chains.insert(Name::from("forward"), Chain { base: base(BaseKind::Filter, Hook::Forward, -7), rules });
    let to = |to: &str| address(to);
    let nat = [
        vec![Statement::Snat { to: to("10.0.0.1"), random: true }],
        vec![Statement::Snat { to: to("fd00::1"), random: false }],
        vec![Statement::SnatToOriginalDestination { family: Family::V4 }],
        vec![Statement::SnatToOriginalDestination { family: Family::V6 }],
        vec![Statement::Masquerade { random: true }],
        vec![Statement::Masquerade { random: false }],
    ];
    let rules = nat.into_iter().enumerate().map(|(at, statements)| rule(at, vec![], statements)).collect();
    ruleset.chains.insert(Name::from("nat"), Chain { base: base(BaseKind::Nat, Hook::Postrouting, 90), rules });
    for (name, kind, hook) in [
        ("prerouting", BaseKind::Filter, Hook::Prerouting),
        ("input", BaseKind::Filter, Hook::Input),
        ("output", BaseKind::Route, Hook::Output),
    ] {
        let rules = vec![rule(0, vec![Match::Family(Family::V4)], vec![jump.clone()])];
        ruleset.chains.insert(Name::from(name), Chain { base: base(kind, hook, -150), rules });
    }
    ruleset
}

fn rule(number: usize, matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: Name::from(format!("rule {number}: why it is there")) }
}

fn key4() -> Vec<Selector> {
    vec![Selector::Destination4, Selector::Protocol, Selector::DestinationPort]
}

fn every_match() -> Vec<Vec<Match>> {
    let in_set =
        |selectors: Vec<Selector>, set: &str, negated| Match::InSet { selectors, set: Name::from(set), negated };
    let original4 = vec![Selector::OriginalDestination4, Selector::Protocol, Selector::OriginalDestinationPort];
    let original6 = vec![Selector::OriginalDestination6, Selector::Protocol, Selector::OriginalDestinationPort];
    vec![
        vec![in_set(vec![Selector::Source4], "blocks4", false), in_set(vec![Selector::Destination4], "blocks4", true)],
        vec![in_set(vec![Selector::Destination6], "blocks6", true)],
        vec![Match::Family(Family::V6), in_set(vec![Selector::Source6], "blocks6", false)],
        vec![in_set(key4(), "keys4", false)],
        vec![in_set(vec![Selector::Source6, Selector::Protocol, Selector::SourcePort], "keys6", true)],
        vec![in_set(original4, "keys4", false)],
        vec![Match::Protocol(Protocol::Tcp), in_set(original6, "keys6", false)],
        vec![in_set(vec![Selector::DestinationPort], "ports", false)],
        vec![Match::Protocol(Protocol::Sctp), in_set(vec![Selector::SourcePort], "ports", false)],
        vec![in_set(vec![Selector::Protocol], "protocols", false)],
        vec![in_set(vec![Selector::InputInterface, Selector::Mark], "links", false)],
        vec![in_set(vec![Selector::OutputInterface, Selector::Mark], "links", true)],
        vec![Match::Protocol(Protocol::Udp)],
        vec![Match::IcmpTypes { family: Family::V4, types: vec![3, 8, 11] }],
        vec![Match::IcmpTypes { family: Family::V6, types: vec![1, 128, 134] }],
        vec![Match::IcmpTypes { family: Family::V4, types: vec![8] }],
        vec![Match::SourceIsLocal { negated: false }, Match::DestinationIsLocal { negated: true }],
        vec![Match::SourceIsLocal { negated: true }, Match::DestinationIsLocal { negated: false }],
        vec![Match::InputInterface { name: Name::from("eth0"), negated: false }],
        vec![Match::InputInterface { name: Name::from("kube-dummy-if"), negated: true }],
        vec![Match::CtState(vec![CtState::Established, CtState::Related])],
        vec![Match::CtState(vec![CtState::Invalid]), Match::CtState(vec![CtState::New, CtState::Untracked])],
        vec![Match::CtDirectionOriginal],
        vec![Match::CtDirectionReply, Match::CtMark { mask: 0x7f00_0000, value: 0x0500_0000 }],
        vec![Match::CtMark { mask: u32::MAX, value: 9 }],
        vec![Match::SourceStation([0x02, 0, 0x5e, 0x10, 0, 0x01]), Match::Family(Family::V4)],
        vec![Match::Mark { mask: 0x4000, value: 0x4000 }],
        vec![Match::Mark { mask: u32::MAX, value: 7 }],
        vec![Match::TcpFlags { mask: 0x17, value: 0x02 }],
        vec![Match::TcpFlags { mask: 0x02, value: 0x02 }],
    ]
}

fn add_sets(ruleset: &mut Ruleset) {
    let tcp = Field::Protocol(Protocol::Tcp);
    let key = |text: &str, port: u16| vec![Field::from(address(text)), tcp.clone(), Field::Port(port)];
    let hash = |key: &[FieldType], keys: Vec<Key>| Set {
        key: key.to_vec(),
        elements: Elements::Keys(keys.into_iter().collect()),
        size: 64,
    };
    let interval = |field, blocks: &[&str]| Set {
        key: vec![field],
        elements: Elements::Prefixes(blocks.iter().map(|block| prefix(block)).collect()),
        size: 0,
    };
    let socket = |address| [address, FieldType::Protocol, FieldType::Port];
    let sets = [
        ("keys4", hash(&socket(FieldType::Ipv4), vec![key("10.0.0.1", 80), key("10.0.0.2", 443)])),
        ("keys6", hash(&socket(FieldType::Ipv6), vec![key("fd00::1", 80), key("fd00::2", 443)])),
        ("ports", hash(&[FieldType::Port], vec![vec![Field::Port(80)], vec![Field::Port(8443)]])),
        ("protocols", hash(&[FieldType::Protocol], vec![vec![tcp.clone()], vec![Field::Protocol(Protocol::Udp)]])),
        ("marks-only", hash(&[FieldType::Mark], vec![vec![Field::Mark(0x10)]])),
        (
            "links",
            hash(
                &[FieldType::Interface, FieldType::Mark],
                vec![vec![Field::Interface(Name::from("kube-bridge")), Field::Mark(0x10)]],
            ),
        ),
        ("blocks4", interval(FieldType::Ipv4, &["10.0.0.0/8", "192.168.1.0/24", "255.255.255.255/32"])),
        ("blocks6", interval(FieldType::Ipv6, &["fd00::/8", "2001:db8::1/128"])),
        ("empty", hash(&[FieldType::Ipv4], vec![])),
    ];
    ruleset.sets.extend(sets.map(|(name, set)| (Name::from(name), set)));
}

fn add_maps(ruleset: &mut Ruleset) {
    let key4 = |text: &str| vec![Field::from(address(text))];
    let mark_key = |text: &str| vec![Field::from(address(text)), Field::Protocol(Protocol::Tcp), Field::Port(80)];
    let marks = Map {
        key: vec![FieldType::Ipv4, FieldType::Protocol, FieldType::Port],
        elements: BTreeMap::from([(mark_key("10.0.0.1"), Value::Mark(0x1234)), (mark_key("10.0.0.2"), Value::Mark(2))]),
        value: ValueType::Mark,
        size: 64,
    };
    let verdicts = Map {
        key: vec![FieldType::Ipv4],
        elements: BTreeMap::from([
            (key4("10.0.0.1"), Value::Jump(Name::from("sub"))),
            (key4("10.0.0.2"), Value::Accept),
            (key4("10.0.0.3"), Value::Drop),
        ]),
        value: ValueType::Verdict,
        size: 64,
    };
    ruleset.maps.insert(Name::from("marks"), marks);
    ruleset.maps.insert(Name::from("verdicts"), verdicts);
}

/// Some ruleset, the same for the same seed: few names in many shapes, so that consecutive ones differ in every way
/// two rulesets can.
pub fn random_ruleset(seed: u64) -> Ruleset {
    // Sub-chains may jump to later ones only: no loops.
    const SUBS: [&str; 4] = ["sub-a", "sub-b", "sub-c", "sub-d"];
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut ruleset = Ruleset::default();
    for name in ["s1", "s2", "s3", "s4"] {
        if dice.roll(4) != 0 {
            ruleset.sets.insert(Name::from(name), random_set(&mut dice));
        }
    }
    let subs: Vec<&str> = SUBS.into_iter().filter(|_| dice.roll(3) != 0).collect();
    for name in ["m1", "m2", "s4"] {
        if dice.roll(3) != 0 && !ruleset.sets.contains_key(name) {
            ruleset.maps.insert(Name::from(name), random_map(&mut dice, subs.last().copied()));
        }
    }
    for (at, name) in subs.iter().enumerate() {
        let later = subs.get(at + 1..).unwrap_or_default();
        // The last chain is what verdict maps jump to, so it looks nothing up.
        let rules = random_rules(&mut dice, &ruleset, later, !later.is_empty());
        ruleset.chains.insert(Name::from(*name), Chain { base: None, rules });
    }
    for (name, hook) in [("hook-a", Hook::Input), ("hook-b", Hook::Forward)] {
        let base = Base { kind: BaseKind::Filter, hook, priority: if dice.roll(8) == 0 { 5 } else { -5 } };
        let rules = random_rules(&mut dice, &ruleset, &subs, true);
        ruleset.chains.insert(Name::from(name), Chain { base: (dice.roll(8) != 0).then_some(base), rules });
    }
    ruleset
}

fn random_set(dice: &mut Dice) -> Set {
    let n_elements = dice.roll(6);
    if dice.roll(2) == 0 {
        let block = |dice: &mut Dice| prefix(&format!("10.{}.0.0/{}", dice.roll(8), 8 + dice.roll(9))).trunc();
        let elements = crate::kernel::filter::merge_prefixes((0..n_elements).map(|_| block(dice)));
        return Set { key: vec![FieldType::Ipv4], elements: Elements::Prefixes(elements), size: 0 };
    }
    let size = 16 << dice.roll(2);
    let key = vec![FieldType::Ipv4; 1 + dice.roll(2)];
    let elements = (0..n_elements).map(|_| random_key(dice, &key)).collect();
    Set { key, elements: Elements::Keys(elements), size }
}

fn random_map(dice: &mut Dice, target: Option<&str>) -> Map {
    let value = if dice.roll(2) == 0 { ValueType::Mark } else { ValueType::Verdict };
    let key = vec![FieldType::Ipv4];
    let entry = |dice: &mut Dice| {
        let value = match (value, dice.roll(3), target) {
            (ValueType::Mark, mark, _) => Value::Mark(u32::try_from(mark).unwrap_or(0)),
            (ValueType::Verdict, 0, Some(chain)) => Value::Jump(Name::from(chain)),
            (ValueType::Verdict, 1, _) => Value::Accept,
            (ValueType::Verdict, _, _) => Value::Drop,
        };
        (random_key(dice, &[FieldType::Ipv4]), value)
    };
    let elements = (0..dice.roll(6)).map(|_| entry(dice)).collect();
    Map { key, elements, value, size: 16 }
}

fn random_key(dice: &mut Dice, types: &[FieldType]) -> Key {
    types.iter().map(|_| Field::Ipv4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(dice.roll(12)).unwrap_or(0)))).collect()
}

fn random_rules(dice: &mut Dice, ruleset: &Ruleset, targets: &[&str], lookups: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for at in 0..dice.roll(4) {
        let mut matches = Vec::new();
        let mut statements = vec![Statement::Counter];
        let set = ruleset.sets.iter().nth(dice.roll(4));
        if let Some((name, set)) = set.filter(|_| lookups) {
            let selectors = vec![Selector::Source4, Selector::Destination4].into_iter().take(set.key.len()).collect();
            matches.push(Match::InSet { selectors, set: name.clone(), negated: dice.roll(2) == 0 });
        }
        let map = ruleset.maps.iter().nth(dice.roll(4));
        if let Some((name, map)) = map.filter(|_| lookups) {
            let (selectors, map_name) = (vec![Selector::Source4], name.clone());
            statements.push(match map.value {
                ValueType::Mark => Statement::SetMarkFromMap { selectors, map: map_name },
                ValueType::Verdict => Statement::VerdictMap { selectors, map: map_name },
            });
        }
        if let Some(target) = targets.get(dice.roll(5)) {
            statements.push(Statement::Jump(Name::from(*target)));
        }
        rules.push(rule(at, matches, statements));
    }
    rules
}

/// Numbers that look random (xorshift64).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }
}
