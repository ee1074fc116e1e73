//! What peers are told, as bytes, each once: attributes prepared for the wire, shared by all groups.

use std::num::NonZeroU32;

use hashbrown::HashTable;

use crate::routing::bgp::hash::hash_of;

/// The number of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WordId(NonZeroU32);

impl WordId {
    fn at(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// All words somebody holds.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Those that are free too, until they are given away.
    index: HashTable<WordId>,
    all: Vec<Word>,
    free: Vec<WordId>,
}

#[derive(Debug, Default)]
struct Word {
    bytes: Box<[u8]>,
    hash: u32,
    users: u32,
}

/// Half a hash over the width of a whole one: the table looks at both ends.
fn wide(half: u32) -> u64 {
    u64::from(half) << 32 | u64::from(half)
}

impl Words {
    /// The word with these bytes, held once more.
    pub(super) fn hold(&mut self, bytes: &[u8]) -> Option<WordId> {
        let hash = hash_of(bytes) as u32;
        let Words { index, all, free } = self;
        let is = |word: &Word| word.hash == hash && *word.bytes == *bytes && word.users > 0;
        let known = index.find(wide(hash), |id| all.get(id.at()).is_some_and(is)).copied();
        if let Some(id) = known {
            self.again(id);
            return Some(id);
        }
        let word = Word { bytes: bytes.into(), hash, users: 1 };
        let id = match free.pop() {
            Some(id) => {
                let before = std::mem::replace(all.get_mut(id.at())?, word);
                if let Ok(entry) = index.find_entry(wide(before.hash), |other| *other == id) {
                    entry.remove();
                }
                id
            }
            None => {
                reserve(all);
                all.push(word);
                WordId(NonZeroU32::new(u32::try_from(all.len()).ok()?)?)
            }
        };
        index.insert_unique(wide(hash), id, |id| wide(all.get(id.at()).map_or(0, |word| word.hash)));
        Some(id)
    }

    /// The word is held once more.
    pub(super) fn again(&mut self, id: WordId) {
        if let Some(word) = self.all.get_mut(id.at()) {
            word.users += 1;
        }
    }

    /// The word is held once less.
    pub(super) fn release(&mut self, id: WordId) {
        self.release_some(id, 1);
    }

    /// The word is held so many times less.
    pub(super) fn release_some(&mut self, id: WordId, times: u32) {
        let Some(word) = self.all.get_mut(id.at()) else { return };
        word.users -= times;
        if word.users > 0 {
            return;
        }
        word.bytes = Box::default();
        self.free.push(id);
        if self.free.len() == self.all.len() {
            *self = Words::default();
        }
    }

    pub(super) fn bytes(&self, id: WordId) -> &[u8] {
        self.all.get(id.at()).map_or(&[], |word| &word.bytes)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

/// Room for more, but not twice what is there: most of the memory of a large table would be air.
pub(super) fn reserve<T>(all: &mut Vec<T>) {
    if all.len() == all.capacity() {
        all.reserve_exact((all.len() / 8).max(16));
    }
}
