//! From a desired ruleset and an observed table to one transaction (pure).
//!
//! Rules are compared by digest: a backend stores [`Rule::digest`] beside each rule and reads it back. A chain whose
//! digests differ, in content or in order, is flushed and written again inside the transaction, or only continued
//! where rules are missing at its end; sets and maps change element by element; whatever else is in the table is
//! removed, because the table is ours.

use std::collections::{BTreeMap, BTreeSet};

use super::{Base, Chain, Elements, FieldType, Key, Map, Match, Name, Rule, Ruleset, Set, Statement, Value, ValueType};
use crate::net::Prefix;

/// What a backend found in our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Sets with their elements.
    pub sets: BTreeMap<Name, Set>,
    /// Maps with their elements.
    pub maps: BTreeMap<Name, Map>,
    /// Chains with the digests of their rules; `None` for a rule that carries none, which is foreign.
    pub chains: BTreeMap<Name, ObservedChain>,
    /// What the model has no word for (key types, policies, ranges …), named for people. Any of it makes [`plan`]
    /// write the whole table again.
    pub unknown: BTreeSet<String>,
}

impl From<&Ruleset> for Observed {
    /// A ruleset that is in the kernel as it was written.
    fn from(ruleset: &Ruleset) -> Observed {
        let chain = |chain: &Chain| ObservedChain {
            base: chain.base,
            rules: chain.rules.iter().map(Rule::digest).map(Some).collect(),
        };
        Observed {
            sets: ruleset.sets.clone(),
            maps: ruleset.maps.clone(),
            chains: ruleset.chains.iter().map(|(name, found)| (name.clone(), chain(found))).collect(),
            unknown: BTreeSet::new(),
        }
    }
}

/// A chain as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// Where packets enter it.
    pub base: Option<Base>,
    /// Digest of each rule, in order.
    pub rules: Vec<Option<u64>>,
}

/// Changes of one table that take effect together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Transaction {
    /// The table they are about.
    pub table: Option<Name>,
    /// The changes, in order: referents before what refers to them, removals the other way round.
    pub changes: Vec<Change>,
}

impl Transaction {
    /// True when there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Create the table where it is missing.
    AddTable,
    /// Remove the table with everything in it.
    DeleteTable,
    /// Create an empty set: key, interval or hash, declared size.
    AddSet(Name, Vec<FieldType>, SetKind, u32),
    /// Remove a set.
    DeleteSet(Name),
    /// Create an empty map.
    AddMap(Name, Vec<FieldType>, ValueType, u32),
    /// Remove a map.
    DeleteMap(Name),
    /// Add keys to a hash set.
    AddKeys(Name, Vec<Key>),
    /// Remove keys from a hash set.
    DeleteKeys(Name, Vec<Key>),
    /// Add blocks to an interval set.
    AddPrefixes(Name, Vec<Prefix>),
    /// Remove blocks from an interval set.
    DeletePrefixes(Name, Vec<Prefix>),
    /// Add entries to a map.
    AddEntries(Name, Vec<(Key, Value)>),
    /// Remove entries from a map.
    DeleteEntries(Name, Vec<(Key, Value)>),
    /// Create a chain.
    AddChain(Name, Option<Base>),
    /// Remove all rules of a chain.
    FlushChain(Name),
    /// Remove a chain.
    DeleteChain(Name),
    /// Append a rule to a chain.
    AddRule(Name, Rule),
}

impl Change {
    /// What the change makes of a ruleset. It must fit: a backend that keeps rulesets in memory plans on what it keeps.
    pub fn apply_to(&self, ruleset: &mut Ruleset) {
        let keys = |ruleset: &mut Ruleset, name: &Name, act: &mut dyn FnMut(&mut BTreeSet<Key>)| {
            if let Some(Elements::Keys(keys)) = ruleset.sets.get_mut(name).map(|set| &mut set.elements) {
                act(keys);
            }
        };
        let blocks = |ruleset: &mut Ruleset, name: &Name, act: &mut dyn FnMut(&mut BTreeSet<Prefix>)| {
            if let Some(Elements::Prefixes(blocks)) = ruleset.sets.get_mut(name).map(|set| &mut set.elements) {
                act(blocks);
            }
        };
        match self {
            Change::AddTable => {}
            Change::DeleteTable => *ruleset = Ruleset::default(),
            Change::AddSet(name, key, kind, size) => {
                let elements = match kind {
                    SetKind::Hash => Elements::Keys(BTreeSet::new()),
                    SetKind::Interval => Elements::Prefixes(BTreeSet::new()),
                };
                ruleset.sets.insert(name.clone(), Set { key: key.clone(), elements, size: *size });
            }
            Change::DeleteSet(name) => drop(ruleset.sets.remove(name)),
            Change::AddMap(name, key, value, size) => {
                let map = Map { key: key.clone(), elements: BTreeMap::new(), value: *value, size: *size };
                ruleset.maps.insert(name.clone(), map);
            }
            Change::DeleteMap(name) => drop(ruleset.maps.remove(name)),
            Change::AddKeys(name, more) => keys(ruleset, name, &mut |keys| keys.extend(more.iter().cloned())),
            Change::DeleteKeys(name, less) => keys(ruleset, name, &mut |keys| {
                less.iter().for_each(|key| {
                    keys.remove(key);
                })
            }),
            Change::AddPrefixes(name, more) => blocks(ruleset, name, &mut |blocks| blocks.extend(more.iter().copied())),
            Change::DeletePrefixes(name, less) => {
                blocks(ruleset, name, &mut |blocks| {
                    less.iter().for_each(|block| {
                        blocks.remove(block);
                    })
                });
            }
            Change::AddEntries(name, entries) => {
                ruleset.maps.get_mut(name).into_iter().for_each(|map| map.elements.extend(entries.iter().cloned()));
            }
            Change::DeleteEntries(name, entries) => {
                let map = ruleset.maps.get_mut(name);
                map.into_iter().for_each(|map| entries.iter().for_each(|(key, _)| drop(map.elements.remove(key))));
            }
            Change::AddChain(name, base) => {
                ruleset.chains.insert(name.clone(), Chain { base: *base, rules: Vec::new() });
            }
            Change::FlushChain(name) => ruleset.chains.get_mut(name).into_iter().for_each(|chain| chain.rules.clear()),
            Change::DeleteChain(name) => drop(ruleset.chains.remove(name)),
            Change::AddRule(name, rule) => {
                ruleset.chains.get_mut(name).into_iter().for_each(|chain| chain.rules.push(rule.clone()));
            }
        }
    }
}

/// How a set stores its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Single keys.
    Hash,
    /// Address blocks.
    Interval,
}

impl Elements {
    /// How the set stores them.
    pub fn kind(&self) -> SetKind {
        match self {
            Elements::Keys(_) => SetKind::Hash,
            Elements::Prefixes(_) => SetKind::Interval,
        }
    }
}

/// Goes into every digest. To be raised when an encoder writes the same rule in another way, so that rules which an
/// older version left in the kernel are written again.
const ENCODING: u64 = 1;

impl Rule {
    /// A digest of everything in the rule, the same on every machine (FNV-1a, 64 bits, over the rule's debug form).
    pub fn digest(&self) -> u64 {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        format!("{self:?}")
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325 ^ ENCODING, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
    }

    /// The named sets and maps the rule looks things up in.
    pub fn refers_to(&self) -> impl Iterator<Item = &Name> {
        let sets = self.matches.iter().filter_map(|matched| match matched {
            Match::InSet { set, .. } => Some(set),
            _ => None,
        });
        let maps = self.statements.iter().filter_map(|statement| match statement {
            Statement::SetMarkFromMap { map, .. } | Statement::VerdictMap { map, .. } => Some(map),
            _ => None,
        });
        sets.chain(maps)
    }
}

/// What makes `observed` (or `None`: no such table) equal to `desired`. Empty when it already is.
///
/// Order: what others refer to is added first and removed last. Chains are emptied before the sets and chains their
/// rules refer to go, and written after the ones they need exist.
pub fn plan(table: &Name, desired: &Ruleset, observed: Option<&Observed>) -> Transaction {
    let nothing = Observed::default();
    let mut plan = Plan::default();
    let observed = match observed {
        None => {
            plan.first.push(Change::AddTable);
            &nothing
        }
        // What the model has no word for cannot be changed piece by piece, nor can the hook of a chain.
        Some(observed) if !observed.unknown.is_empty() || rehooked(desired, observed) => {
            plan.first.extend([Change::DeleteTable, Change::AddTable]);
            &nothing
        }
        Some(observed) => observed,
    };

    let replaced = replaced(desired, observed);
    for (name, chain) in &desired.chains {
        plan.chain(name, chain, observed.chains.get(name), &replaced);
    }
    for name in observed.chains.keys().filter(|name| !desired.chains.contains_key(*name)) {
        plan.first.push(Change::FlushChain(name.clone()));
        plan.last.push(Change::DeleteChain(name.clone()));
    }
    for (name, map) in &observed.maps {
        if !desired.maps.contains_key(name) || replaced.contains(name) {
            plan.delete_map(name, map);
        }
    }
    for name in observed.sets.keys() {
        if !desired.sets.contains_key(name) || replaced.contains(name) {
            plan.sets_out.push(Change::DeleteSet(name.clone()));
        }
    }
    for (name, set) in &desired.sets {
        plan.set(name, set, observed.sets.get(name).filter(|_| !replaced.contains(name)));
    }
    for (name, map) in &desired.maps {
        plan.map(name, map, observed.maps.get(name).filter(|_| !replaced.contains(name)));
    }
    plan.into_transaction(table)
}

/// A chain that enters packets elsewhere, or no longer: jumps to it and its hook cannot change in place.
fn rehooked(desired: &Ruleset, observed: &Observed) -> bool {
    desired.chains.iter().any(|(name, chain)| observed.chains.get(name).is_some_and(|o| o.base != chain.base))
}

/// Sets and maps that exist under a desired name in another shape: they go and come back in the same transaction,
/// with every rule that refers to them.
fn replaced(desired: &Ruleset, observed: &Observed) -> BTreeSet<Name> {
    let sets = desired.sets.iter().filter(|(name, set)| {
        let reshaped = |o: &Set| {
            let kind = set.elements.kind();
            // Interval sets declare no size.
            o.key != set.key || o.elements.kind() != kind || (kind == SetKind::Hash && o.size != set.size)
        };
        observed.maps.contains_key(*name) || observed.sets.get(*name).is_some_and(reshaped)
    });
    let maps = desired.maps.iter().filter(|(name, map)| {
        let reshaped = |o: &Map| o.key != map.key || o.value != map.value || o.size != map.size;
        observed.sets.contains_key(*name) || observed.maps.get(*name).is_some_and(reshaped)
    });
    sets.map(|(name, _)| name.clone()).chain(maps.map(|(name, _)| name.clone())).collect()
}

/// Changes sorted by when they have to happen.
#[derive(Default)]
struct Plan {
    /// The table itself, and rules that go: nothing refers to sets and chains through them any more.
    first: Vec<Change>,
    /// Map entries that go: verdicts hold chains.
    entries_out: Vec<Change>,
    /// Sets and maps that go.
    sets_out: Vec<Change>,
    /// Chains that come: rules and verdicts may refer to them.
    chains_in: Vec<Change>,
    /// Sets and maps that come, and their elements; within one set, elements go before others come.
    sets_in: Vec<Change>,
    /// Rules that come.
    rules_in: Vec<Change>,
    /// Chains that go, when nobody refers to them any more.
    last: Vec<Change>,
}

impl Plan {
    fn into_transaction(self, table: &Name) -> Transaction {
        let mut changes = self.first;
        for more in [self.entries_out, self.sets_out, self.chains_in, self.sets_in, self.rules_in, self.last] {
            changes.extend(more);
        }
        Transaction { table: Some(table.clone()), changes }
    }

    fn chain(&mut self, name: &Name, chain: &Chain, observed: Option<&ObservedChain>, replaced: &BTreeSet<Name>) {
        let Some(observed) = observed else {
            self.chains_in.push(Change::AddChain(name.clone(), chain.base));
            self.add_rules(name, &chain.rules);
            return;
        };
        let held = chain.rules.iter().any(|rule| rule.refers_to().any(|set| replaced.contains(set)));
        let same = observed.rules.iter().zip(&chain.rules).all(|(o, d)| *o == Some(d.digest()));
        match chain.rules.get(observed.rules.len()..) {
            // What is there is the beginning of what should be: only the rest is missing.
            Some(missing) if same && !held => self.add_rules(name, missing),
            _ => {
                if !observed.rules.is_empty() {
                    self.first.push(Change::FlushChain(name.clone()));
                }
                self.add_rules(name, &chain.rules);
            }
        }
    }

    fn add_rules(&mut self, chain: &Name, rules: &[Rule]) {
        self.rules_in.extend(rules.iter().map(|rule| Change::AddRule(chain.clone(), rule.clone())));
    }

    fn delete_map(&mut self, name: &Name, map: &Map) {
        // Older kernels do not let go of the chains when a verdict map goes as a whole.
        if map.value == ValueType::Verdict && !map.elements.is_empty() {
            self.entries_out.push(Change::DeleteEntries(name.clone(), map.elements.clone().into_iter().collect()));
        }
        self.sets_out.push(Change::DeleteMap(name.clone()));
    }

    fn set(&mut self, name: &Name, set: &Set, observed: Option<&Set>) {
        if observed.is_none() {
            self.sets_in.push(Change::AddSet(name.clone(), set.key.clone(), set.elements.kind(), set.size));
        }
        // What goes goes first: the set may be full, and blocks of an interval set must not overlap.
        match (&set.elements, observed.map(|o| &o.elements)) {
            (Elements::Keys(desired), Some(Elements::Keys(observed))) => {
                self.elements(Change::DeleteKeys, name, observed.difference(desired));
                self.elements(Change::AddKeys, name, desired.difference(observed));
            }
            (Elements::Prefixes(desired), Some(Elements::Prefixes(observed))) => {
                self.elements(Change::DeletePrefixes, name, observed.difference(desired));
                self.elements(Change::AddPrefixes, name, desired.difference(observed));
            }
            (Elements::Keys(desired), _) => self.elements(Change::AddKeys, name, desired),
            (Elements::Prefixes(desired), _) => self.elements(Change::AddPrefixes, name, desired),
        }
    }

    fn map(&mut self, name: &Name, map: &Map, observed: Option<&Map>) {
        if observed.is_none() {
            self.sets_in.push(Change::AddMap(name.clone(), map.key.clone(), map.value, map.size));
        }
        let none = BTreeMap::new();
        let observed = observed.map_or(&none, |o| &o.elements);
        let owned = |(key, value): (&Key, &Value)| (key.clone(), value.clone());
        // An entry with another value goes before it comes back: no packet sees the gap.
        let gone: Vec<_> =
            observed.iter().filter(|(key, value)| map.elements.get(*key) != Some(*value)).map(owned).collect();
        let new: Vec<_> =
            map.elements.iter().filter(|(key, value)| observed.get(*key) != Some(*value)).map(owned).collect();
        if !gone.is_empty() {
            self.sets_in.push(Change::DeleteEntries(name.clone(), gone));
        }
        if !new.is_empty() {
            self.sets_in.push(Change::AddEntries(name.clone(), new));
        }
    }

    fn elements<'a, K: Clone + 'a>(
        &mut self,
        change: impl Fn(Name, Vec<K>) -> Change,
        name: &Name,
        elements: impl IntoIterator<Item = &'a K>,
    ) {
        let elements: Vec<K> = elements.into_iter().cloned().collect();
        if !elements.is_empty() {
            self.sets_in.push(change(name.clone(), elements));
        }
    }
}

/// Removes the table: empty when there is none.
pub fn remove(table: &Name, observed: Option<&Observed>) -> Transaction {
    let changes = observed.map(|_| Change::DeleteTable).into_iter().collect();
    Transaction { table: Some(table.clone()), changes }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
