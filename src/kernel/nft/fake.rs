//! A small kernel for tests: tables in memory that refuse what nf_tables refuses.

use std::collections::{BTreeMap, BTreeSet};

use super::Nft;
use super::client::refusal;
use super::guard::objection;
use super::text::ChangeIn;
use crate::kernel::error::{Disposition, Error};
use crate::kernel::filter::plan::{Change, Observed, ObservedChain, SetKind, Transaction};
use crate::kernel::filter::{
    Base, Chain, Elements, Field, FieldType, Key, Map, Match, Name, Rule, Ruleset, Selector, Set, Statement,
    TableFamily, Value, ValueType,
};
use crate::kernel::netlink::{Fault, Refusal};
use crate::net::Prefix;

/// Too many levels of jumps, or a loop of them.
const ELOOP: i32 = 40;

/// The tables of an imagined network namespace.
#[derive(Clone, Debug, Default)]
pub struct FakeNft {
    tables: BTreeMap<Name, Table>,
    fail_next: Option<i32>,
    forward_drops: Vec<String>,
    refused: Option<String>,
    commits: Vec<Transaction>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    sets: BTreeMap<Name, Set>,
    maps: BTreeMap<Name, Map>,
    chains: BTreeMap<Name, FakeChain>,
    unknown: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FakeChain {
    base: Option<Base>,
    /// `None` is a rule somebody else wrote.
    rules: Vec<Option<Rule>>,
}

impl FakeNft {
    /// No tables.
    pub fn new() -> FakeNft {
        FakeNft::default()
    }

    /// The next commit fails with this error number, and changes nothing.
    pub fn fail_next(&mut self, errno: i32) {
        self.fail_next = Some(errno);
    }

    /// Every change with these words in its command is refused, until others are; none with an empty text.
    pub fn refuse(&mut self, words: &str) {
        self.refused = Some(words.to_owned()).filter(|words| !words.is_empty());
    }

    /// Somebody else's chain drops what it does not accept of forwarded packets.
    pub fn put_forward_drop(&mut self, chain: &str) {
        self.forward_drops.push(chain.to_owned());
    }

    /// Every transaction that took effect, oldest first.
    pub fn commits(&self) -> &[Transaction] {
        &self.commits
    }

    /// The names of all tables.
    pub fn tables(&self) -> impl Iterator<Item = &Name> {
        self.tables.keys()
    }

    /// What a table holds, foreign rules left out; `None` where there is no such table.
    pub fn ruleset(&self, table: &str) -> Option<Ruleset> {
        let table = self.tables.get(table)?;
        let chain =
            |chain: &FakeChain| Chain { base: chain.base, rules: chain.rules.iter().flatten().cloned().collect() };
        Some(Ruleset {
            sets: table.sets.clone(),
            maps: table.maps.clone(),
            chains: table.chains.iter().map(|(name, found)| (name.clone(), chain(found))).collect(),
        })
    }

    /// Somebody else adds a table, or replaces one of ours.
    pub fn put_foreign_table(&mut self, name: &str, ruleset: Ruleset) {
        let chain = |chain: Chain| FakeChain { base: chain.base, rules: chain.rules.into_iter().map(Some).collect() };
        let table = Table {
            sets: ruleset.sets,
            maps: ruleset.maps,
            chains: ruleset.chains.into_iter().map(|(name, found)| (name, chain(found))).collect(),
            unknown: BTreeSet::new(),
        };
        self.tables.insert(Name::from(name), table);
    }

    /// Somebody else puts a rule in front of a chain of ours; false where there is no such chain.
    pub fn put_foreign_rule(&mut self, table: &str, chain: &str) -> bool {
        let chain = self.tables.get_mut(table).and_then(|table| table.chains.get_mut(chain));
        chain.map(|chain| chain.rules.insert(0, None)).is_some()
    }

    /// Somebody else puts something into a table of ours that the model has no word for; false where there is no
    /// such table.
    pub fn put_unknown(&mut self, table: &str, what: &str) -> bool {
        self.tables.get_mut(table).is_some_and(|table| table.unknown.insert(what.to_owned()))
    }

    /// Somebody else removes a table.
    pub fn remove_table(&mut self, table: &str) {
        self.tables.remove(table);
    }
}

impl Nft for FakeNft {
    fn forward_drops(&mut self) -> Vec<String> {
        self.forward_drops.clone()
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        let observed = self.tables.get(table).map(|table| Observed {
            sets: table.sets.clone(),
            maps: table.maps.clone(),
            chains: table.chains.iter().map(|(name, chain)| (name.clone(), observed_chain(chain))).collect(),
            unknown: table.unknown.clone(),
        });
        Ok(observed)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let refused = |change, errno| {
            let fault = Fault::Refused(Refusal { errno, message: None, offset: None });
            Err(refusal(transaction, change, fault))
        };
        if let Some(errno) = self.fail_next.take() {
            return refused(transaction.changes.first(), errno);
        }
        let Some(name) = &transaction.table else {
            let message = "the transaction names no table".to_owned();
            return Err(Error { op: transaction.to_string(), errno: None, message, kind: Disposition::Fatal });
        };
        let mut tables = self.tables.clone();
        for change in &transaction.changes {
            let is_refused = |words: &String| ChangeIn { table: name, change }.brief().contains(words.as_str());
            if self.refused.as_ref().is_some_and(is_refused) {
                return refused(Some(change), Refusal::ENOENT);
            }
            if let Err(errno) = apply(&mut tables, name, change) {
                return refused(Some(change), errno);
            }
        }
        // The kernel looks for loops when everything else is in place.
        if tables.get(name).is_some_and(|table| table.chains.keys().any(|chain| table.loops(chain, chain, 0))) {
            return refused(transaction.changes.last(), ELOOP);
        }
        self.tables = tables;
        if !transaction.is_empty() {
            self.commits.push(transaction.clone());
        }
        Ok(())
    }
}

fn observed_chain(chain: &FakeChain) -> ObservedChain {
    let rules = chain.rules.iter().map(|rule| rule.as_ref().map(Rule::digest)).collect();
    ObservedChain { base: chain.base, rules }
}

fn apply(tables: &mut BTreeMap<Name, Table>, name: &Name, change: &Change) -> Result<(), i32> {
    match change {
        Change::AddTable => {
            tables.entry(name.clone()).or_default();
            return Ok(());
        }
        Change::DeleteTable => return tables.remove(name).map(|_| ()).ok_or(Refusal::ENOENT),
        _ => {}
    }
    let table = tables.get_mut(name).ok_or(Refusal::ENOENT)?;
    match change {
        Change::AddTable | Change::DeleteTable => Ok(()),
        Change::AddSet(name, key, kind, size) => {
            table.free_name(name)?;
            let elements = match kind {
                SetKind::Hash => Elements::Keys(BTreeSet::new()),
                SetKind::Interval => Elements::Prefixes(BTreeSet::new()),
            };
            // Interval sets declare no size.
            let size = if *kind == SetKind::Hash { *size } else { 0 };
            table.sets.insert(name.clone(), Set { key: key.clone(), elements, size });
            Ok(())
        }
        Change::AddMap(name, key, value, size) => {
            table.free_name(name)?;
            let map = Map { key: key.clone(), elements: BTreeMap::new(), value: *value, size: *size };
            table.maps.insert(name.clone(), map);
            Ok(())
        }
        Change::DeleteSet(name) | Change::DeleteMap(name) => table.delete_set(name),
        Change::AddKeys(name, keys) => table.add_keys(name, keys),
        Change::DeleteKeys(name, keys) => {
            let Some(Elements::Keys(members)) = table.sets.get_mut(name).map(|set| &mut set.elements) else {
                return Err(Refusal::ENOENT);
            };
            keys.iter().try_for_each(|key| members.remove(key).then_some(()).ok_or(Refusal::ENOENT))
        }
        Change::AddPrefixes(name, prefixes) => table.add_prefixes(name, prefixes),
        Change::DeletePrefixes(name, prefixes) => {
            let Some(Elements::Prefixes(members)) = table.sets.get_mut(name).map(|set| &mut set.elements) else {
                return Err(Refusal::ENOENT);
            };
            prefixes.iter().try_for_each(|prefix| members.remove(prefix).then_some(()).ok_or(Refusal::ENOENT))
        }
        Change::AddEntries(name, entries) => table.add_entries(name, entries),
        Change::DeleteEntries(name, entries) => {
            let map = table.maps.get_mut(name).ok_or(Refusal::ENOENT)?;
            entries.iter().try_for_each(|(key, _)| map.elements.remove(key).map(|_| ()).ok_or(Refusal::ENOENT))
        }
        Change::AddChain(name, base) => {
            if table.chains.contains_key(name) {
                return Err(Refusal::EEXIST);
            }
            table.chains.insert(name.clone(), FakeChain { base: *base, rules: Vec::new() });
            Ok(())
        }
        Change::FlushChain(name) => table.chains.get_mut(name).map(|chain| chain.rules.clear()).ok_or(Refusal::ENOENT),
        Change::DeleteChain(name) => table.delete_chain(name),
        Change::AddRule(chain, rule) => table.add_rule(TableFamily::of(name), chain, rule),
    }
}

impl Table {
    fn free_name(&self, name: &Name) -> Result<(), i32> {
        let taken = self.sets.contains_key(name) || self.maps.contains_key(name);
        if taken { Err(Refusal::EEXIST) } else { Ok(()) }
    }

    fn delete_set(&mut self, name: &Name) -> Result<(), i32> {
        if self.rules().any(|rule| rule.refers_to().any(|set| set == name)) {
            return Err(Refusal::EBUSY);
        }
        let gone = self.sets.remove(name).is_some() || self.maps.remove(name).is_some();
        if gone { Ok(()) } else { Err(Refusal::ENOENT) }
    }

    fn add_keys(&mut self, name: &Name, keys: &[Key]) -> Result<(), i32> {
        let set = self.sets.get_mut(name).ok_or(Refusal::ENOENT)?;
        let Elements::Keys(members) = &mut set.elements else { return Err(Refusal::EINVAL) };
        for key in keys {
            if !fits(key, &set.key) {
                return Err(Refusal::EINVAL);
            }
            if !members.insert(key.clone()) {
                return Err(Refusal::EEXIST);
            }
        }
        within(members.len(), set.size)
    }

    fn add_prefixes(&mut self, name: &Name, prefixes: &[Prefix]) -> Result<(), i32> {
        let set = self.sets.get_mut(name).ok_or(Refusal::ENOENT)?;
        let Elements::Prefixes(members) = &mut set.elements else { return Err(Refusal::EINVAL) };
        for prefix in prefixes {
            let field = if prefix.addr().is_ipv4() { FieldType::Ipv4 } else { FieldType::Ipv6 };
            if set.key != [field] {
                return Err(Refusal::EINVAL);
            }
            // Among disjoint blocks in order, only the neighbours can overlap a new one.
            let before = members.range(..=*prefix).next_back().is_some_and(|other| other.contains(prefix));
            let after = members.range(*prefix..).next().is_some_and(|other| prefix.contains(other));
            if before || after {
                return Err(Refusal::EEXIST);
            }
            members.insert(*prefix);
        }
        Ok(())
    }

    fn add_entries(&mut self, name: &Name, entries: &[(Key, Value)]) -> Result<(), i32> {
        for (_, value) in entries {
            if let Value::Jump(chain) = value {
                self.jump_target(chain)?;
            }
        }
        let map = self.maps.get_mut(name).ok_or(Refusal::ENOENT)?;
        for (key, value) in entries {
            if !fits(key, &map.key) || matches!(value, Value::Mark(_)) != (map.value == ValueType::Mark) {
                return Err(Refusal::EINVAL);
            }
            if map.elements.insert(key.clone(), value.clone()).is_some() {
                return Err(Refusal::EEXIST);
            }
        }
        within(map.elements.len(), map.size)
    }

    fn delete_chain(&mut self, name: &Name) -> Result<(), i32> {
        let jumped_to = self
            .chains
            .iter()
            .filter(|(from, _)| *from != name)
            .any(|(_, chain)| chain.rules.iter().flatten().any(|rule| jumps(rule).any(|target| target == name)));
        let mapped_to = self.maps.values().flat_map(|map| map.elements.values());
        if jumped_to || mapped_to.into_iter().any(|value| *value == Value::Jump(name.clone())) {
            return Err(Refusal::EBUSY);
        }
        self.chains.remove(name).map(|_| ()).ok_or(Refusal::ENOENT)
    }

    fn add_rule(&mut self, family: TableFamily, chain: &Name, rule: &Rule) -> Result<(), i32> {
        if objection(family, rule).is_some() {
            return Err(Refusal::EINVAL);
        }
        for matched in &rule.matches {
            if let Match::InSet { selectors, set, .. } = matched {
                let set = self.sets.get(set).ok_or(Refusal::ENOENT)?;
                same_types(selectors, &set.key)?;
            }
        }
        for statement in &rule.statements {
            let (selectors, map, kind) = match statement {
                Statement::SetMarkFromMap { selectors, map } => (selectors, map, ValueType::Mark),
                Statement::VerdictMap { selectors, map } => (selectors, map, ValueType::Verdict),
                _ => continue,
            };
            let map = self.maps.get(map).ok_or(Refusal::ENOENT)?;
            same_types(selectors, &map.key)?;
            if map.value != kind {
                return Err(Refusal::EINVAL);
            }
        }
        jumps(rule).try_for_each(|target| self.jump_target(target))?;
        let chain = self.chains.get_mut(chain).ok_or(Refusal::ENOENT)?;
        chain.rules.push(Some(rule.clone()));
        Ok(())
    }

    fn jump_target(&self, name: &Name) -> Result<(), i32> {
        match self.chains.get(name) {
            None => Err(Refusal::ENOENT),
            Some(FakeChain { base: Some(_), .. }) => Err(Refusal::EOPNOTSUPP),
            Some(FakeChain { base: None, .. }) => Ok(()),
        }
    }

    /// Whether jumps from `chain` come back to `start`, or go deeper than the kernel's 16 levels.
    fn loops(&self, start: &Name, chain: &Name, depth: usize) -> bool {
        const DEEPEST: usize = 16;
        self.targets(chain)
            .into_iter()
            .any(|next| next == start || depth >= DEEPEST || self.loops(start, next, depth + 1))
    }

    fn targets(&self, chain: &Name) -> BTreeSet<&Name> {
        let mut targets = BTreeSet::new();
        for rule in self.chains.get(chain).into_iter().flat_map(|chain| chain.rules.iter().flatten()) {
            targets.extend(jumps(rule));
            let maps = rule.refers_to().filter_map(|map| self.maps.get(map));
            targets.extend(maps.flat_map(|map| map.elements.values()).filter_map(|value| match value {
                Value::Jump(target) => Some(target),
                Value::Mark(_) | Value::Accept | Value::Drop => None,
            }));
        }
        targets
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.values().flat_map(|chain| chain.rules.iter().flatten())
    }
}

fn jumps(rule: &Rule) -> impl Iterator<Item = &Name> {
    rule.statements.iter().filter_map(|statement| match statement {
        Statement::Jump(chain) => Some(chain),
        _ => None,
    })
}

fn within(n_elements: usize, size: u32) -> Result<(), i32> {
    let fits = size == 0 || u32::try_from(n_elements).is_ok_and(|n_elements| n_elements <= size);
    if fits { Ok(()) } else { Err(Refusal::ENFILE) }
}

fn fits(key: &Key, types: &[FieldType]) -> bool {
    key.iter().map(field_type).eq(types.iter().copied())
}

fn same_types(selectors: &[Selector], types: &[FieldType]) -> Result<(), i32> {
    let same = selectors.iter().map(|selector| selected_type(*selector)).eq(types.iter().copied());
    if same { Ok(()) } else { Err(Refusal::EINVAL) }
}

fn field_type(field: &Field) -> FieldType {
    match field {
        Field::Ipv4(_) => FieldType::Ipv4,
        Field::Ipv6(_) => FieldType::Ipv6,
        Field::Protocol(_) => FieldType::Protocol,
        Field::Port(_) => FieldType::Port,
        Field::Mark(_) => FieldType::Mark,
        Field::Interface(_) => FieldType::Interface,
    }
}

fn selected_type(selector: Selector) -> FieldType {
    match selector {
        Selector::Source4 | Selector::Destination4 | Selector::OriginalDestination4 | Selector::InnerSource4 => {
            FieldType::Ipv4
        }
        Selector::Source6 | Selector::Destination6 | Selector::OriginalDestination6 | Selector::InnerSource6 => {
            FieldType::Ipv6
        }
        Selector::Protocol => FieldType::Protocol,
        Selector::SourcePort
        | Selector::DestinationPort
        | Selector::OriginalDestinationPort
        | Selector::InnerDestinationPort4
        | Selector::InnerDestinationPort6 => FieldType::Port,
        Selector::Mark => FieldType::Mark,
        Selector::InputInterface | Selector::OutputInterface => FieldType::Interface,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::filter::plan::plan;
    use crate::testing::contract::nft::{TABLE, everything, promises, random_ruleset};

    #[test]
    #[expect(clippy::print_stdout, reason = "names the promise that is broken")]
    fn keeps_every_promise() {
        for (name, promise) in promises::<FakeNft>() {
            println!("{name}");
            promise(&mut FakeNft::new());
        }
    }

    #[test]
    fn an_injected_failure_changes_nothing_and_hits_one_commit() {
        let (mut fake, table) = (FakeNft::new(), Name::from(TABLE));
        let transaction = plan(&table, &everything(), None);
        fake.fail_next(Refusal::ENOBUFS);
        let error = fake.commit(&transaction).unwrap_err();
        assert_eq!((error.errno, error.kind), (Some(Refusal::ENOBUFS), Disposition::Retry));
        assert!(fake.tables().next().is_none() && fake.commits().is_empty());
        fake.commit(&transaction).unwrap();
        assert_eq!(fake.ruleset(TABLE).map(|found| found.chains), Some(everything().chains));
        assert_eq!(fake.commits(), [transaction]);
    }

    #[test]
    fn loops_of_jumps_are_refused() {
        let mut ruleset = random_ruleset(1);
        let jump = |to: &str| Chain {
            base: None,
            rules: vec![Rule {
                matches: Vec::new(),
                statements: vec![Statement::Jump(Name::from(to))],
                comment: Name::from(""),
            }],
        };
        ruleset.chains.insert(Name::from("x"), jump("y"));
        ruleset.chains.insert(Name::from("y"), jump("x"));
        let error = FakeNft::new().commit(&plan(&Name::from(TABLE), &ruleset, None)).unwrap_err();
        assert_eq!((error.errno, error.kind), (Some(ELOOP), Disposition::Fatal));
    }
}
