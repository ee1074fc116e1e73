//! What an update has touched, and the step that makes of it (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Piece, Table, twins};
use crate::firewall::book::Book;
use crate::firewall::compile::member_set;
use crate::firewall::members::{Delta, SetKey};
use crate::kernel::filter::plan::{Observed, ObservedChain};
use crate::kernel::filter::{Chain, Elements, Key, Map, Name, Ruleset, Set, Value};
use crate::model::PodKey;
use crate::net::Family;

/// What a change does to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The touched pieces as they were: of sets and maps only the elements that go.
    pub before: Observed,
    /// The same pieces as they shall be: of sets and maps only the elements that come.
    pub after: Ruleset,
    /// Addresses of this node's pods whose connections may have been allowed and no longer be.
    pub stricter: BTreeSet<IpAddr>,
}

impl Step {
    /// True where nothing changes.
    pub fn is_empty(&self) -> bool {
        self.before == Observed::default() && self.after == Ruleset::default()
    }
}

/// Entries of a map.
type Entries = BTreeMap<Key, Value>;

/// What an update has touched so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Nobody asks what differs.
    quiet: bool,
    /// Chains as they were before the first touch.
    chains: BTreeMap<Name, Option<Chain>>,
    /// Sets of blocks, likewise.
    blocks: BTreeMap<Name, Option<Set>>,
    /// Sets of pods and of the frame.
    sets: (BTreeMap<Name, Set>, BTreeMap<Name, Set>),
    /// Entries of maps that go, and those that come.
    pub(super) entries: BTreeMap<Name, (Entries, Entries)>,
    /// Elements of the sets of pods to themselves, likewise.
    pub(super) itself: BTreeMap<Name, (BTreeSet<Key>, BTreeSet<Key>)>,
    /// Families in which packets were tunnelled to pods.
    pub(super) was_direct: BTreeSet<Family>,
    pub(super) had_frame: bool,
    pub(super) stricter: BTreeSet<IpAddr>,
    /// Pieces that may allow less than before.
    pub(super) tightened: BTreeSet<Piece>,
}

impl Draft {
    /// One that nobody asks what differs: it keeps only whose connections may no longer be allowed.
    pub(super) fn quiet() -> Draft {
        Draft { quiet: true, ..Draft::default() }
    }

    /// A chain as it was before this touch.
    pub(super) fn note_chain(&mut self, name: &Name, older: Option<Chain>) {
        if !self.quiet {
            self.chains.entry(name.clone()).or_insert(older);
        }
    }

    pub(super) fn note_block(&mut self, table: &Table, name: &Name) {
        if self.quiet {
            return;
        }
        let older = || table.blocks.get(name).map(|(set, _)| set.clone());
        self.blocks.entry(name.clone()).or_insert_with(older);
    }

    pub(super) fn note_frame(&mut self, name: &Name, older: Option<&Set>, newer: &Set) {
        if let Some(older) = older {
            self.sets.0.insert(name.clone(), older.clone());
        }
        self.sets.1.insert(name.clone(), newer.clone());
    }

    pub(super) fn add_set(&mut self, key: &SetKey, size: u32, book: &Book) {
        for family in self.families() {
            let (name, set) = member_set(key, *family, size, book.members().elements(key));
            self.sets.1.insert(name, set);
        }
    }

    /// The families somebody asks about.
    fn families(&self) -> &'static [Family] {
        if self.quiet { &[] } else { &Family::ALL }
    }

    pub(super) fn remove_set(&mut self, key: &SetKey, size: u32) {
        for family in self.families() {
            let (name, set) = member_set(key, *family, size, []);
            self.sets.0.insert(name, set);
        }
    }

    pub(super) fn change_set(&mut self, key: &SetKey, size: u32, delta: &Delta) {
        for family in self.families() {
            let (name, older) = member_set(key, *family, size, delta.removed.iter().copied());
            let (_, newer) = member_set(key, *family, size, delta.added.iter().copied());
            if older != newer {
                self.sets.0.insert(name.clone(), older);
                self.sets.1.insert(name, newer);
            }
        }
    }

    pub(super) fn finish(mut self, table: &Table, book: &Book) -> Step {
        let mut step = Step { stricter: self.stricter.clone(), ..Step::default() };
        if !self.quiet {
            self.differences(table, &mut step);
        }
        step.stricter.extend(self.addresses_of_tightened(table, book));
        step
    }

    /// What differs, from what was touched.
    fn differences(&mut self, table: &Table, step: &mut Step) {
        let chains = std::mem::take(&mut self.chains);
        for (name, older) in &chains {
            let newer = table.chains.get(name);
            if older.as_ref() == newer {
                continue;
            }
            if let Some(older) = older {
                let rules = older.rules.iter().map(|rule| Some(rule.digest())).collect();
                step.before.chains.insert(name.clone(), ObservedChain { base: older.base, rules });
            }
            step.after.chains.extend(newer.map(|newer| (name.clone(), newer.clone())));
        }
        for (name, older) in std::mem::take(&mut self.blocks) {
            let newer = table.blocks.get(&name).map(|(set, _)| set.clone());
            if older != newer {
                self.sets.0.extend(older.map(|older| (name.clone(), older)));
                self.sets.1.extend(newer.map(|newer| (name, newer)));
            }
        }
        (step.before.sets, step.after.sets) = std::mem::take(&mut self.sets);
        for (name, (gone, new)) in std::mem::take(&mut self.itself) {
            let Some(set) = table.frame.sets.get(&name) else { continue };
            if self.had_frame {
                step.before.sets.insert(name.clone(), Set { elements: Elements::Keys(gone), ..set.clone() });
            }
            step.after.sets.insert(name, Set { elements: Elements::Keys(new), ..set.clone() });
        }
        for (name, map) in &table.frame.maps {
            let entries = self.entries.remove(name);
            if !self.had_frame {
                let elements = entries.map(|(_, new)| new).unwrap_or_default();
                step.after.maps.insert(name.clone(), Map { elements, ..map.clone() });
            } else if let Some((gone, new)) = entries {
                step.before.maps.insert(name.clone(), Map { elements: gone, ..map.clone() });
                step.after.maps.insert(name.clone(), Map { elements: new, ..map.clone() });
            }
        }
        twins::finish(step, table, &chains, &self.was_direct);
    }

    /// A set of the frame goes.
    pub(super) fn drop_frame(&mut self, name: &Name, older: &Set) {
        self.sets.0.insert(name.clone(), older.clone());
    }

    /// Elements of a set of the frame go, or come.
    pub(super) fn note_direct(&mut self, name: Name, set: Set, comes: bool) {
        if comes { &mut self.sets.1 } else { &mut self.sets.0 }.insert(name, set);
    }

    /// The addresses of pods under pieces that may allow less than before.
    fn addresses_of_tightened(&self, table: &Table, book: &Book) -> BTreeSet<IpAddr> {
        let pods = self.tightened.iter().flat_map(|piece| -> Vec<&PodKey> {
            match piece {
                Piece::Policy(key) => book.pods_under(key).collect(),
                Piece::Tier(name) => {
                    let ranks = table.tiers.get(name).into_iter().flat_map(|(chain, _)| chain.ranks());
                    ranks.flat_map(|rank| book.tiers().pods_under(&rank.name)).collect()
                }
            }
        });
        pods.filter_map(|key| book.pods().get(key)).flat_map(|pod| pod.addresses.iter().copied()).collect()
    }
}
