//! Prefix sets: prefixes with ranges of lengths, found by hash, one look-up for each length in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DefinedSets;
use crate::net::{Family, Prefix};
use crate::routing::bgp::hash::FastMap;

/// A prefix and the lengths under it that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixRange {
    /// The prefix.
    pub prefix: Prefix,
    /// The shortest length that matches.
    pub min: u8,
    /// The longest length that matches.
    pub max: u8,
}

impl PrefixRange {
    /// The prefix itself and nothing under it.
    pub fn exact(prefix: Prefix) -> PrefixRange {
        PrefixRange { prefix, min: prefix.prefix_len(), max: prefix.prefix_len() }
    }

    /// The prefix and all under it.
    pub fn or_longer(prefix: Prefix) -> PrefixRange {
        PrefixRange { prefix, min: prefix.prefix_len(), max: prefix.max_prefix_len() }
    }

    /// Whether a prefix is inside and of a length that matches.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        let length = prefix.prefix_len();
        self.prefix.contains(prefix) && (self.min..=self.max).contains(&length)
    }
}

/// A set of ranges. A look-up costs one hash for each length in use, however many ranges there are. Clones share one
/// value.
#[derive(Clone, Debug, Default)]
pub struct PrefixSet(Arc<Ranges>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges {
    by_prefix: FastMap<Prefix, Lengths>,
    /// How many prefixes there are of each length, shortest first.
    in_use: BTreeMap<(Family, u8), usize>,
}

/// The lengths that match under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lengths {
    One(u8, u8),
    /// In order, each once.
    Many(Vec<(u8, u8)>),
}

impl Lengths {
    fn as_vec(&self) -> Vec<(u8, u8)> {
        match self {
            Lengths::One(min, max) => vec![(*min, *max)],
            Lengths::Many(all) => all.clone(),
        }
    }

    /// `None` where none is left.
    fn of(mut all: Vec<(u8, u8)>) -> Option<Lengths> {
        all.sort_unstable();
        all.dedup();
        match *all.as_slice() {
            [] => None,
            [(min, max)] => Some(Lengths::One(min, max)),
            _ => Some(Lengths::Many(all)),
        }
    }

    fn contain(&self, length: u8) -> bool {
        match self {
            Lengths::One(min, max) => (*min..=*max).contains(&length),
            Lengths::Many(all) => all.iter().any(|(min, max)| (*min..=*max).contains(&length)),
        }
    }
}

impl PrefixSet {
    /// The set of these ranges; their order does not matter.
    pub fn new(ranges: impl IntoIterator<Item = PrefixRange>) -> PrefixSet {
        let mut all = Ranges::default();
        ranges.into_iter().for_each(|range| all.change(&range, true));
        PrefixSet(Arc::new(all))
    }

    /// Takes ranges out and others in. Clones keep what they had.
    pub fn edit(&mut self, add: &[PrefixRange], remove: &[PrefixRange]) {
        let all = Arc::make_mut(&mut self.0);
        remove.iter().for_each(|range| all.change(range, false));
        add.iter().for_each(|range| all.change(range, true));
    }

    /// Whether a range of the set matches.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        let (family, length) = (Family::of(prefix.addr()), prefix.prefix_len());
        self.0.in_use.range((family, 0)..=(family, length)).any(|((_, shorter), _)| {
            let Ok(cover) = Prefix::new(prefix.addr(), *shorter) else { return false };
            self.0.by_prefix.get(&cover.trunc()).is_some_and(|lengths| lengths.contain(length))
        })
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.by_prefix.is_empty()
    }
}

impl PartialEq for PrefixSet {
    fn eq(&self, other: &PrefixSet) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for PrefixSet {}

impl Ranges {
    fn change(&mut self, range: &PrefixRange, add: bool) {
        let prefix = range.prefix.trunc();
        let before = self.by_prefix.get(&prefix);
        let mut lengths = before.map(Lengths::as_vec).unwrap_or_default();
        let there = before.is_some();
        if add {
            lengths.push((range.min, range.max));
        } else {
            lengths.retain(|each| *each != (range.min, range.max));
        }
        let lengths = Lengths::of(lengths);
        let length = (Family::of(prefix.addr()), prefix.prefix_len());
        match (there, lengths) {
            (_, Some(lengths)) => {
                *self.in_use.entry(length).or_default() += usize::from(!there);
                self.by_prefix.insert(prefix, lengths);
            }
            (true, None) => {
                self.by_prefix.remove(&prefix);
                let left = self.in_use.get(&length).map_or(0, |count| count - 1);
                if left == 0 {
                    self.in_use.remove(&length)
                } else {
                    self.in_use.insert(length, left)
                };
            }
            (false, None) => {}
        }
    }
}

/// All prefix sets by name, made once for the policies of all peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSets(BTreeMap<String, PrefixSet>);

impl PrefixSets {
    /// The prefix sets among these.
    pub fn new(sets: &DefinedSets) -> PrefixSets {
        let ready = |(name, ranges): (&String, &Vec<PrefixRange>)| (name.clone(), PrefixSet::new(ranges.clone()));
        PrefixSets(sets.prefix.iter().map(ready).collect())
    }

    /// These are the sets now. One that is equal to what it was stays the same value, which makes it cheap to see that
    /// a peer's policy did not change.
    pub fn replace(&mut self, sets: &DefinedSets) {
        let mut new = PrefixSets::new(sets);
        for (name, set) in &mut new.0 {
            if let Some(old) = self.0.get(name).filter(|old| *old == set) {
                *set = old.clone();
            }
        }
        *self = new;
    }

    /// A set by its name.
    pub fn get(&self, name: &str) -> Option<&PrefixSet> {
        self.0.get(name)
    }

    /// Members of a set come and go; the set as it is now. It is made where there is none.
    pub fn edit(&mut self, name: &str, add: &[PrefixRange], remove: &[PrefixRange]) -> PrefixSet {
        let set = self.0.entry(name.to_owned()).or_default();
        set.edit(add, remove);
        set.clone()
    }
}
