//! Desired and observed side by side, and which keys may differ (pure).
//!
//! Values are meant to be cheap to clone (`Arc`, small copies): once a key is in its desired state both sides hold
//! the same value, so remembering what the kernel has costs next to nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Desired and observed values by key, with the keys that may differ.
#[derive(Clone, Debug)]
pub struct Tracker<K, V> {
    desired: BTreeMap<K, V>,
    observed: BTreeMap<K, V>,
    pending: BTreeSet<K>,
}

impl<K, V> Default for Tracker<K, V> {
    fn default() -> Self {
        Tracker { desired: BTreeMap::new(), observed: BTreeMap::new(), pending: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq> Tracker<K, V> {
    /// Set what a key should be; `None` for "should not exist".
    pub fn set_desired(&mut self, key: &K, value: Option<V>) {
        match value {
            Some(value) => self.desired.insert(key.clone(), value),
            None => self.desired.remove(key),
        };
        self.judge(key);
    }

    /// Set what the kernel has for a key; `None` for "does not exist".
    pub fn set_observed(&mut self, key: &K, value: Option<V>) {
        match value {
            Some(value) => self.observed.insert(key.clone(), value),
            None => self.observed.remove(key),
        };
        self.judge(key);
    }

    /// Believe a fresh reading of the kernel. Returns how many keys differ from what was remembered.
    pub fn replace_observed(&mut self, observed: BTreeMap<K, V>) -> usize {
        let gone = self.observed.keys().filter(|key| !observed.contains_key(*key)).count();
        let changed = observed.iter().filter(|(key, value)| self.observed.get(*key) != Some(*value)).count();
        self.observed = observed;
        self.pending = self
            .desired
            .keys()
            .chain(self.observed.keys())
            .filter(|key| self.desired.get(*key) != self.observed.get(*key))
            .cloned()
            .collect();
        gone + changed
    }

    /// The keys that differ, in order.
    pub fn pending(&self) -> impl Iterator<Item = &K> {
        self.pending.iter()
    }

    /// How many keys differ.
    pub fn n_pending(&self) -> usize {
        self.pending.len()
    }

    /// What a key should be.
    pub fn desired(&self, key: &K) -> Option<&V> {
        self.desired.get(key)
    }

    /// What the kernel has for a key.
    pub fn observed(&self, key: &K) -> Option<&V> {
        self.observed.get(key)
    }

    /// All desired values.
    pub fn all_desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// All observed values.
    pub fn all_observed(&self) -> &BTreeMap<K, V> {
        &self.observed
    }

    fn judge(&mut self, key: &K) {
        if self.desired.get(key) == self.observed.get(key) {
            self.pending.remove(key);
        } else {
            self.pending.insert(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_is_exactly_what_differs() {
        let mut tracker = Tracker::default();
        tracker.set_desired(&1, Some("a"));
        tracker.set_desired(&2, Some("b"));
        tracker.set_observed(&2, Some("b"));
        tracker.set_observed(&3, Some("c"));
        assert_eq!(tracker.pending().copied().collect::<Vec<_>>(), [1, 3]);
        tracker.set_observed(&1, Some("a"));
        tracker.set_observed(&3, None);
        assert_eq!(tracker.n_pending(), 0);
    }

    #[test]
    fn a_fresh_reading_counts_what_somebody_else_changed() {
        let mut tracker = Tracker::default();
        for key in 1..=3 {
            tracker.set_desired(&key, Some("same"));
            tracker.set_observed(&key, Some("same"));
        }
        let read = BTreeMap::from([(1, "same"), (2, "other"), (9, "new")]);
        assert_eq!(tracker.replace_observed(read), 3, "one changed, one gone, one new");
        assert_eq!(tracker.pending().copied().collect::<Vec<_>>(), [2, 3, 9]);
    }
}
