//! Prefixes with their paths. A key takes no more room than its family needs: with a hundred thousand routes that is a
//! good part of the memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;

use super::super::hash::{hash_v4, hash_v6};
use super::Path;
use super::destination::Paths;
use crate::net::{Family, Prefix};

/// All paths by prefix.
#[derive(Debug, Default)]
pub(super) struct Table {
    v4: Map<V4>,
    v6: Map<V6>,
}

/// The prefixes of one family. Keys say their hash themselves.
type Map<K> = HashTable<(K, Paths)>;

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct V4(u32, u8);

/// An IPv6 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct V6([u8; 16], u8);

trait Keyed: Copy + Eq {
    fn hash(&self) -> u64;
}

impl Keyed for V4 {
    fn hash(&self) -> u64 {
        hash_v4(self.0, self.1, 0)
    }
}

impl Keyed for V6 {
    fn hash(&self) -> u64 {
        hash_v6(u128::from_be_bytes(self.0), self.1, 0)
    }
}

/// What there was of a path that is to go.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// It was the only one, and is no longer in the table; nor is the prefix.
    Only(Path),
    /// It may be among these.
    Among(&'a mut Paths),
    /// There are no paths to the prefix.
    Nothing,
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

fn get_in<K: Keyed>(map: &Map<K>, key: K) -> Option<&Paths> {
    map.find(key.hash(), |(other, _)| *other == key).map(|(_, paths)| paths)
}

fn get_mut_in<K: Keyed>(map: &mut Map<K>, key: K) -> Option<&mut Paths> {
    map.find_mut(key.hash(), |(other, _)| *other == key).map(|(_, paths)| paths)
}

fn slot_in<K: Keyed>(map: &mut Map<K>, key: K) -> &mut Paths {
    let entry = map.entry(key.hash(), |(other, _)| *other == key, |(key, _)| key.hash());
    &mut entry.or_insert_with(|| (key, Paths::default())).into_mut().1
}

fn take_in<K: Keyed>(map: &mut Map<K>, key: K, is: impl Fn(&Path) -> bool) -> Found<'_> {
    let Ok(entry) = map.find_entry(key.hash(), |(other, _)| *other == key) else { return Found::Nothing };
    if !matches!(&entry.get().1, Paths::One(only) if is(only)) {
        return Found::Among(&mut entry.into_mut().1);
    }
    match entry.remove().0.1 {
        Paths::One(only) => Found::Only(only),
        Paths::Many(_) => Found::Nothing,
    }
}

/// Halves a table that is mostly empty.
fn trim<K: Keyed>(map: &mut Map<K>) {
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2, |(key, _)| key.hash());
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
            Key::V4(key) => get_in(&self.v4, key),
            Key::V6(key) => get_in(&self.v6, key),
        }
    }

    pub(super) fn get_mut(&mut self, prefix: &Prefix) -> Option<&mut Paths> {
        match key(prefix) {
            Key::V4(key) => get_mut_in(&mut self.v4, key),
            Key::V6(key) => get_mut_in(&mut self.v6, key),
        }
    }

    /// The paths of a prefix, none where there were none: the caller adds one then.
    pub(super) fn slot(&mut self, prefix: &Prefix) -> &mut Paths {
        match key(prefix) {
            Key::V4(key) => slot_in(&mut self.v4, key),
            Key::V6(key) => slot_in(&mut self.v6, key),
        }
    }

    /// Takes the path that `is` it out of the table, and the prefix with it, where it is the only one to the prefix.
    pub(super) fn take_only(&mut self, prefix: &Prefix, is: impl Fn(&Path) -> bool) -> Found<'_> {
        match key(prefix) {
            Key::V4(key) => take_in(&mut self.v4, key, is),
            Key::V6(key) => take_in(&mut self.v6, key, is),
        }
    }

    /// Keeps what `keep` says true for.
    pub(super) fn retain(&mut self, family: Family, mut keep: impl FnMut(Prefix, &mut Paths) -> bool) {
        match family {
            Family::V4 => self.v4.retain(|(key, paths)| prefix_v4(key).is_some_and(|prefix| keep(prefix, paths))),
            Family::V6 => self.v6.retain(|(key, paths)| prefix_v6(key).is_some_and(|prefix| keep(prefix, paths))),
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
