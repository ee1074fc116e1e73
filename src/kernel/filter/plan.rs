//! From a desired ruleset and an observed table to one transaction (pure).
//!
//! Rules are compared by digest: a backend stores [`Rule::digest`] beside each rule and reads it back. A chain whose
//! digests differ, in content or in order, is flushed and written again inside the transaction; sets and maps change
//! element by element; whatever else is in the table is removed, because the table is ours.

use std::collections::{BTreeMap, BTreeSet};

use super::{Base, Chain, Elements, FieldType, Key, Map, Name, Rule, Ruleset, Set, Value, ValueType};
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

impl Rule {
    /// A digest of everything in the rule, equal for equal rules on every machine and version of the compiler
    /// (FNV-1a, 64 bits, over the rule's debug form).
    pub fn digest(&self) -> u64 {
        format!("{self:?}")
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

/// What makes `observed` (or `None`: no such table) equal to `desired`. Empty when it already is.
pub fn plan(table: &Name, desired: &Ruleset, observed: Option<&Observed>) -> Transaction {
    let nothing = Observed::default();
    let mut before = Vec::new();
    if observed.is_none() {
        before.push(Change::AddTable);
    }
    let observed = observed.unwrap_or(&nothing);
    let mut removals = Vec::new();
    let mut rules = Vec::new();

    // A chain, set or map of another shape cannot be changed in place: it goes and comes back in the same
    // transaction, and every chain is rewritten, because rules refer to it.
    let reshaped =
        desired.chains.iter().any(|(name, chain)| observed.chains.get(name).is_some_and(|o| o.base != chain.base))
            || desired.sets.iter().any(|(name, set)| {
                observed
                    .sets
                    .get(name)
                    .is_some_and(|o| o.key != set.key || o.elements.kind() != set.elements.kind() || o.size != set.size)
            })
            || desired.maps.iter().any(|(name, map)| {
                observed.maps.get(name).is_some_and(|o| o.key != map.key || o.value != map.value || o.size != map.size)
            });
    let observed = if reshaped {
        before.push(Change::DeleteTable);
        before.push(Change::AddTable);
        &nothing
    } else {
        observed
    };

    for name in desired.chains.keys().filter(|name| !observed.chains.contains_key(*name)) {
        before.push(Change::AddChain(name.clone(), desired.chains.get(name).and_then(|chain| chain.base)));
    }
    for (name, set) in &desired.sets {
        plan_set(name, set, observed.sets.get(name), &mut before, &mut removals);
    }
    for (name, map) in &desired.maps {
        plan_map(name, map, observed.maps.get(name), &mut before, &mut removals);
    }
    for (name, chain) in &desired.chains {
        plan_chain(name, chain, observed.chains.get(name), &mut rules);
    }
    let stale_chains: Vec<&Name> = observed.chains.keys().filter(|name| !desired.chains.contains_key(*name)).collect();
    rules.extend(stale_chains.iter().map(|name| Change::FlushChain((*name).clone())));
    for (name, map) in observed.maps.iter().filter(|(name, _)| !desired.maps.contains_key(*name)) {
        // Verdict entries hold chains: let go of them before the chains go.
        if !map.elements.is_empty() {
            removals.push(Change::DeleteEntries(name.clone(), map.elements.clone().into_iter().collect()));
        }
        removals.push(Change::DeleteMap(name.clone()));
    }
    removals.extend(
        observed
            .sets
            .keys()
            .filter(|name| !desired.sets.contains_key(*name))
            .map(|name| Change::DeleteSet(name.clone())),
    );
    removals.extend(stale_chains.into_iter().map(|name| Change::DeleteChain(name.clone())));

    let mut changes = before;
    changes.extend(rules);
    changes.extend(removals);
    Transaction { table: Some(table.clone()), changes }
}

/// Removes the table: empty when there is none.
pub fn remove(table: &Name, observed: Option<&Observed>) -> Transaction {
    let changes = observed.map(|_| Change::DeleteTable).into_iter().collect();
    Transaction { table: Some(table.clone()), changes }
}

fn plan_set(name: &Name, set: &Set, observed: Option<&Set>, adds: &mut Vec<Change>, removals: &mut Vec<Change>) {
    if observed.is_none() {
        adds.push(Change::AddSet(name.clone(), set.key.clone(), set.elements.kind(), set.size));
    }
    match (&set.elements, observed.map(|o| &o.elements)) {
        (Elements::Keys(desired), Some(Elements::Keys(observed))) => {
            push_keys(adds, Change::AddKeys, name, desired.difference(observed));
            push_keys(removals, Change::DeleteKeys, name, observed.difference(desired));
        }
        (Elements::Keys(desired), _) => push_keys(adds, Change::AddKeys, name, desired.iter()),
        (Elements::Prefixes(desired), observed) => {
            let none = BTreeSet::new();
            let observed = match observed {
                Some(Elements::Prefixes(observed)) => observed,
                _ => &none,
            };
            // Old blocks go first: a new one may overlap an old one, which interval sets refuse.
            push_keys(adds, Change::DeletePrefixes, name, observed.difference(desired));
            push_keys(adds, Change::AddPrefixes, name, desired.difference(observed));
        }
    }
}

fn plan_map(name: &Name, map: &Map, observed: Option<&Map>, adds: &mut Vec<Change>, removals: &mut Vec<Change>) {
    let none = BTreeMap::new();
    if observed.is_none() {
        adds.push(Change::AddMap(name.clone(), map.key.clone(), map.value, map.size));
    }
    let observed = observed.map_or(&none, |o| &o.elements);
    let entry = |(key, value): (&Key, &Value)| (key.clone(), value.clone());
    // An entry with another value goes before it comes back; both in one transaction, so no packet sees the gap.
    let changed: Vec<_> =
        observed.iter().filter(|(key, value)| map.elements.get(*key).is_some_and(|v| v != *value)).map(entry).collect();
    let gone: Vec<_> = observed.iter().filter(|(key, _)| !map.elements.contains_key(*key)).map(entry).collect();
    let new: Vec<_> =
        map.elements.iter().filter(|(key, value)| observed.get(*key) != Some(*value)).map(entry).collect();
    if !changed.is_empty() {
        adds.push(Change::DeleteEntries(name.clone(), changed));
    }
    if !new.is_empty() {
        adds.push(Change::AddEntries(name.clone(), new));
    }
    if !gone.is_empty() {
        removals.push(Change::DeleteEntries(name.clone(), gone));
    }
}

fn plan_chain(name: &Name, chain: &Chain, observed: Option<&ObservedChain>, rules: &mut Vec<Change>) {
    let nothing = Vec::new();
    let observed = observed.map_or(&nothing, |o| &o.rules);
    if observed.len() == chain.rules.len() && observed.iter().zip(&chain.rules).all(|(o, d)| *o == Some(d.digest())) {
        return;
    }
    if !observed.is_empty() {
        rules.push(Change::FlushChain(name.clone()));
    }
    rules.extend(chain.rules.iter().map(|rule| Change::AddRule(name.clone(), rule.clone())));
}

fn push_keys<'a, K: Clone + 'a>(
    changes: &mut Vec<Change>,
    change: impl Fn(Name, Vec<K>) -> Change,
    name: &Name,
    keys: impl Iterator<Item = &'a K>,
) {
    let keys: Vec<K> = keys.cloned().collect();
    if !keys.is_empty() {
        changes.push(change(name.clone(), keys));
    }
}
