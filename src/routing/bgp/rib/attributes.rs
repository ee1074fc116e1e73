//! Equal attributes are kept once, for as long as a path in the RIB has them.

use std::sync::Arc;

use hashbrown::HashTable;

use super::super::hash::hash_of;
use super::super::types::Attributes;

/// The attribute sets in use, each with the number of its users in the RIB. Others may hold the same `Arc` for longer
/// without keeping it here.
#[derive(Debug, Default)]
pub(super) struct Pool {
    all: HashTable<Entry>,
}

#[derive(Debug)]
struct Entry {
    attributes: Arc<Attributes>,
    /// Half of their hash, so that the table grows without looking at them.
    hash: u32,
    users: u32,
}

impl Entry {
    fn hash(&self) -> u64 {
        spread(self.hash)
    }

    fn is(&self, hash: u32, attributes: &Attributes) -> bool {
        self.hash == hash && (std::ptr::eq(&*self.attributes, attributes) || *self.attributes == *attributes)
    }
}

/// Half a hash over the width of a whole one: the table looks at both ends.
fn spread(half: u32) -> u64 {
    u64::from(half) << 32 | u64::from(half)
}

fn half_of(attributes: &Attributes) -> u32 {
    hash_of(attributes) as u32
}

impl Pool {
    /// The shared value where there is one, else a new one that nobody uses yet.
    pub(super) fn share(&self, attributes: Attributes) -> Arc<Attributes> {
        let hash = half_of(&attributes);
        match self.all.find(spread(hash), |entry| entry.is(hash, &attributes)) {
            Some(entry) => entry.attributes.clone(),
            None => Arc::new(attributes),
        }
    }

    /// Counts `users` more of these attributes; the value that all of them share.
    pub(super) fn hold(&mut self, attributes: &Arc<Attributes>, users: u32) -> Arc<Attributes> {
        let hash = half_of(attributes);
        let place = self.all.entry(spread(hash), |entry| entry.is(hash, attributes), Entry::hash);
        let new = || Entry { attributes: attributes.clone(), hash, users: 0 };
        let mut entry = place.or_insert_with(new);
        let entry = entry.get_mut();
        entry.users += users;
        entry.attributes.clone()
    }

    /// `users` of these attributes are gone.
    pub(super) fn release(&mut self, attributes: &Arc<Attributes>, users: u32) {
        let hash = half_of(attributes);
        if let Ok(mut entry) = self.all.find_entry(spread(hash), |entry| entry.is(hash, attributes)) {
            let count = entry.get().users.saturating_sub(users);
            entry.get_mut().users = count;
            if count == 0 {
                entry.remove();
            }
        }
    }

    /// How many different attribute sets are in use.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Gives memory back after many have gone.
    pub(super) fn trim(&mut self) {
        if self.all.capacity() > 1024 && self.all.len() < self.all.capacity() / 8 {
            self.all.shrink_to(self.all.len() * 2, Entry::hash);
        }
    }
}
