//! Attributes that many routes have, as one value with its hash beside it: telling two apart, finding one in a table
//! and counting its routes need no look at the attributes themselves.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::hash::hash_of;
use super::types::Attributes;

/// One value of attributes; a clone is the same value.
#[derive(Clone)]
pub struct Shared(Arc<Value>);

struct Value {
    attributes: Attributes,
    /// Half of their hash.
    hash: u32,
    /// How many of the RIB's routes have it. Only the RIB counts, on its one thread.
    users: AtomicU32,
}

impl Shared {
    /// Whether both are one value, not only equal.
    pub fn is(&self, other: &Shared) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How many hold the value, whatever for.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// The hash over the width of a whole one: tables look at both ends.
    pub(super) fn hash(&self) -> u64 {
        u64::from(self.0.hash) << 32 | u64::from(self.0.hash)
    }

    pub(super) fn users(&self) -> u32 {
        self.0.users.load(Ordering::Relaxed)
    }

    pub(super) fn set_users(&self, users: u32) {
        self.0.users.store(users, Ordering::Relaxed);
    }

    /// The attributes alone.
    pub fn attributes(&self) -> &Attributes {
        &self.0.attributes
    }
}

impl From<Attributes> for Shared {
    fn from(attributes: Attributes) -> Shared {
        let hash = hash_of(&attributes) as u32;
        Shared(Arc::new(Value { attributes, hash, users: AtomicU32::new(0) }))
    }
}

impl Deref for Shared {
    type Target = Attributes;

    fn deref(&self) -> &Attributes {
        &self.0.attributes
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Shared) -> bool {
        self.is(other) || self.0.hash == other.0.hash && self.0.attributes == other.0.attributes
    }
}

impl Eq for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.attributes.fmt(f)
    }
}
