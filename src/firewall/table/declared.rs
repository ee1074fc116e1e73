//! The sets of pods, as they are declared (pure).

use std::collections::BTreeMap;

use crate::firewall::compile::set_name;
use crate::firewall::members::SetKey;
use crate::kernel::filter::Name;
use crate::net::Family;

/// The sets of pods, as they are declared.
#[derive(Clone, Debug, Default)]
pub(in crate::firewall) struct Declared {
    pub(super) sizes: BTreeMap<SetKey, u32>,
    by_name: BTreeMap<Name, SetKey>,
}

impl Declared {
    /// Declares a set with a size; the one it had.
    pub(super) fn insert(&mut self, key: &SetKey, size: u32) -> Option<u32> {
        if self.sizes.get(key) == Some(&size) {
            return Some(size);
        }
        let older = self.remove(key);
        self.by_name.extend(Family::ALL.map(|family| (set_name(key, family, size), key.clone())));
        self.sizes.insert(key.clone(), size);
        older
    }

    pub(super) fn remove(&mut self, key: &SetKey) -> Option<u32> {
        let size = self.sizes.remove(key)?;
        for family in Family::ALL {
            self.by_name.remove(&set_name(key, family, size));
        }
        Some(size)
    }

    /// The set with this name in the kernel.
    pub(in crate::firewall) fn named(&self, name: &Name) -> Option<&SetKey> {
        self.by_name.get(name)
    }
}
