//! Prefixes with their paths. A key takes no more room than its family needs: with a hundred thousand routes that is a
//! good part of the memory.

use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::hash::{PlainMap, hash_v4, hash_v6, trim};
use super::destination::Paths;
use crate::net::{Family, Prefix};

/// All paths by prefix.
#[derive(Debug, Default)]
pub(super) struct Table {
    v4: PlainMap<V4, Paths>,
    v6: PlainMap<V6, Paths>,
}

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct V4(u32, u8);

/// An IPv6 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct V6([u8; 16], u8);

impl Hash for V4 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash_v4(self.0, self.1, 0));
    }
}

impl Hash for V6 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash_v6(u128::from_be_bytes(self.0), self.1, 0));
    }
}

/// The key of a prefix in the map of its family.
enum Key {
    V4(V4),
    V6(V6),
}

fn key(prefix: &Prefix) -> Key {
    match prefix {
        Prefix::V4(prefix) => Key::V4(V4(prefix.addr().to_bits(), prefix.prefix_len())),
        Prefix::V6(prefix) => Key::V6(V6(prefix.addr().octets(), prefix.prefix_len())),
    }
}

fn work_in<K: Eq + Hash>(map: &mut PlainMap<K, Paths>, key: K, work: impl FnOnce(&mut Paths)) {
    let Entry::Occupied(mut entry) = map.entry(key) else { return };
    work(entry.get_mut());
    if entry.get().is_empty() {
        entry.remove();
    }
}

/// Keys were prefixes, so there is one for each.
fn prefix(address: impl Into<IpAddr>, length: u8) -> Option<Prefix> {
    Prefix::new(address.into(), length).ok()
}

fn prefix_v4(&V4(address, length): &V4) -> Option<Prefix> {
    prefix(Ipv4Addr::from_bits(address), length)
}

fn prefix_v6(&V6(address, length): &V6) -> Option<Prefix> {
    prefix(Ipv6Addr::from(address), length)
}

impl Table {
    pub(super) fn get(&self, prefix: &Prefix) -> Option<&Paths> {
        match key(prefix) {
            Key::V4(key) => self.v4.get(&key),
            Key::V6(key) => self.v6.get(&key),
        }
    }

    pub(super) fn get_mut(&mut self, prefix: &Prefix) -> Option<&mut Paths> {
        match key(prefix) {
            Key::V4(key) => self.v4.get_mut(&key),
            Key::V6(key) => self.v6.get_mut(&key),
        }
    }

    /// The paths of a prefix, none where there were none: the caller adds one then.
    pub(super) fn slot(&mut self, prefix: &Prefix) -> &mut Paths {
        match key(prefix) {
            Key::V4(key) => self.v4.entry(key).or_default(),
            Key::V6(key) => self.v6.entry(key).or_default(),
        }
    }

    /// Lets `work` at the paths of a prefix that has some, and forgets the prefix when none is left.
    pub(super) fn work(&mut self, prefix: &Prefix, work: impl FnOnce(&mut Paths)) {
        match key(prefix) {
            Key::V4(key) => work_in(&mut self.v4, key, work),
            Key::V6(key) => work_in(&mut self.v6, key, work),
        }
    }

    /// Keeps what `keep` says true for.
    pub(super) fn retain(&mut self, family: Family, mut keep: impl FnMut(Prefix, &mut Paths) -> bool) {
        match family {
            Family::V4 => self.v4.retain(|key, paths| prefix_v4(key).is_some_and(|prefix| keep(prefix, paths))),
            Family::V6 => self.v6.retain(|key, paths| prefix_v6(key).is_some_and(|prefix| keep(prefix, paths))),
        }
    }

    /// All of a family, in no order, but in the same one after the same calls.
    pub(super) fn iter(&self, family: Family) -> impl Iterator<Item = (Prefix, &Paths)> {
        let v4 = (family == Family::V4).then(|| self.v4.iter());
        let v6 = (family == Family::V6).then(|| self.v6.iter());
        let v4 = v4.into_iter().flatten().filter_map(|(key, paths)| Some((prefix_v4(key)?, paths)));
        v4.chain(v6.into_iter().flatten().filter_map(|(key, paths)| Some((prefix_v6(key)?, paths))))
    }

    pub(super) fn len(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.v4.len(),
            Family::V6 => self.v6.len(),
        }
    }

    /// Gives memory back after many have gone.
    pub(super) fn trim(&mut self) {
        trim(&mut self.v4);
        trim(&mut self.v6);
    }
}
