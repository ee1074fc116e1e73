//! Equal attributes are kept once, for as long as a path in the RIB has them.

use hashbrown::HashTable;

use super::super::shared::Shared;
use super::super::types::Attributes;

/// The attribute sets in use; each counts its users in the RIB. Others may hold the same value for longer without
/// keeping it here.
#[derive(Debug, Default)]
pub(super) struct Pool {
    all: HashTable<Shared>,
}

impl Pool {
    /// The shared value where there is one, else a new one that nobody uses yet.
    pub(super) fn share(&self, attributes: Attributes) -> Shared {
        let new = Shared::from(attributes);
        self.all.find(new.hash(), |shared| *shared == new).cloned().unwrap_or(new)
    }

    /// Counts `users` more of these attributes; the value that all of them share.
    pub(super) fn hold(&mut self, attributes: &Shared, users: u32) -> Shared {
        let place = self.all.entry(attributes.hash(), |shared| shared == attributes, Shared::hash);
        // One that another RIB counts by cannot be counted by here as well.
        let new = || {
            if attributes.users() == 0 { attributes.clone() } else { attributes.attributes().clone().into() }
        };
        let entry = place.or_insert_with(new);
        let shared = entry.get();
        shared.set_users(shared.users().saturating_add(users));
        shared.clone()
    }

    /// `users` of these attributes, which are from here, are gone.
    pub(super) fn release(&mut self, attributes: &Shared, users: u32) {
        let left = attributes.users().saturating_sub(users);
        attributes.set_users(left);
        if left == 0
            && let Ok(entry) = self.all.find_entry(attributes.hash(), |shared| shared.is(attributes))
        {
            entry.remove();
        }
    }

    /// How many different attribute sets are in use.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Gives memory back after many have gone.
    pub(super) fn trim(&mut self) {
        if self.all.capacity() > 1024 && self.all.len() < self.all.capacity() / 8 {
            self.all.shrink_to(self.all.len() * 2, Shared::hash);
        }
    }
}
