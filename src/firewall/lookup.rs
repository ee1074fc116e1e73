//! A hash map that can be looked up and never walked, so that its order cannot show anywhere.
//!
//! Keys here are labels, namespaces and pods: comparing one with a dozen others of a tree costs several times what hashing it
//! does, and the first pass looks some twenty up for each pod of the cluster.

use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

/// Values by key, without an order. Names come from whoever may label a pod: the hash has a secret of this process.
#[derive(Clone, Debug)]
pub(super) struct Lookup<K, V>(HashMap<K, V>);

impl<K, V> Default for Lookup<K, V> {
    fn default() -> Lookup<K, V> {
        Lookup(HashMap::default())
    }
}

impl<K: Eq + Hash, V> Lookup<K, V> {
    /// A value, by its key or by something that is equal and has the same hash.
    pub(super) fn get<Q: Hash + Equivalent<K>>(&self, key: &Q) -> Option<&V> {
        self.0.get(key)
    }

    /// A value, to change it, likewise.
    pub(super) fn get_mut<Q: Hash + Equivalent<K>>(&mut self, key: &Q) -> Option<&mut V> {
        self.0.get_mut(key)
    }

    /// A value to change, made where there is none.
    pub(super) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.0.entry(key).or_default()
    }

    /// Puts a value in, in place of the one that was there.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, value);
    }

    /// Takes a value out, likewise.
    pub(super) fn remove<Q: Hash + Equivalent<K>>(&mut self, key: &Q) -> Option<V> {
        self.0.remove(key)
    }

    /// True without any value.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
