//! The routes of a group by number, each with what the group's peers are to be told of it now.

use std::net::IpAddr;

use hashbrown::HashTable;

use super::words::{WordId, Words, reserve};
use crate::net::Prefix;
use crate::routing::bgp::hash::{hash_v4, hash_v6};
use crate::routing::bgp::types::Nlri;

/// A route as a message has it with a path identifier, host octets and all: 9 octets for IPv4, 21 for IPv6.
pub(super) type Key<const SIZE: usize> = [u8; SIZE];

/// Where the octets of a key are that are there without a path identifier too.
const LENGTH_AT: usize = 4;
const ADDRESS_AT: usize = 5;

/// The key of a route. `SIZE` is that of its family.
pub(super) fn key<const SIZE: usize>(nlri: &Nlri) -> Key<SIZE> {
    let mut key = [0; SIZE];
    let (v4, v6);
    let address: &[u8] = match nlri.prefix {
        Prefix::V4(prefix) => {
            v4 = prefix.addr().octets();
            &v4
        }
        Prefix::V6(prefix) => {
            v6 = prefix.addr().octets();
            &v6
        }
    };
    let id = nlri.path_id.to_be_bytes();
    let octets = id.iter().chain(std::iter::once(&0)).chain(address);
    key.iter_mut().zip(octets).for_each(|(place, octet)| *place = *octet);
    if let Some(length) = key.get_mut(LENGTH_AT) {
        *length = nlri.prefix.prefix_len();
    }
    key
}

fn hash<const SIZE: usize>(key: &Key<SIZE>) -> u64 {
    let Some((id, [length, address @ ..])) = key.split_first_chunk() else { return 0 };
    let id = u32::from_be_bytes(*id);
    match address.first_chunk() {
        Some(v6) => hash_v6(u128::from_be_bytes(*v6), *length, id),
        None => address.first_chunk().map_or(0, |v4| hash_v4(u32::from_be_bytes(*v4), *length, id)),
    }
}

/// The route of a key.
fn nlri<const SIZE: usize>(key: &Key<SIZE>) -> Option<Nlri> {
    let (id, rest) = key.split_first_chunk()?;
    let (length, address) = rest.split_first()?;
    let address = match <[u8; 4]>::try_from(address) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    Some(Nlri { prefix: Prefix::new(address, *length).ok()?, path_id: u32::from_be_bytes(*id) })
}

/// The routes of one family.
#[derive(Debug)]
pub(super) struct Table<const SIZE: usize> {
    index: HashTable<u32>,
    routes: Vec<Route<SIZE>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Route<const SIZE: usize> {
    /// `None`: the route is to be withdrawn from who has it.
    word: Option<WordId>,
    /// Peers that were told of it or have to hear of it.
    holders: u16,
    key: Key<SIZE>,
}

/// A hundred thousand routes are nothing special, so every octet counts.
const _: () = assert!(size_of::<Route<9>>() == 16);

impl<const SIZE: usize> Default for Table<SIZE> {
    fn default() -> Table<SIZE> {
        Table { index: HashTable::new(), routes: Vec::new(), free: Vec::new() }
    }
}

impl<const SIZE: usize> Table<SIZE> {
    /// The number of a route.
    pub(super) fn find(&self, key: &Key<SIZE>) -> Option<u32> {
        let is = |n: &u32| self.routes.get(*n as usize).is_some_and(|route| route.key == *key);
        self.index.find(hash(key), is).copied()
    }

    /// A number for a route that has none yet; its word is one that withdraws it.
    pub(super) fn add(&mut self, key: Key<SIZE>) -> u32 {
        let route = Route { word: None, holders: 0, key };
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.routes.get_mut(number as usize) {
                    *place = route;
                }
                number
            }
            None => {
                reserve(&mut self.routes);
                self.routes.push(route);
                u32::try_from(self.routes.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let routes = &self.routes;
        let rehash = |n: &u32| routes.get(*n as usize).map_or(0, |route| hash(&route.key));
        self.index.insert_unique(hash(&key), number, rehash);
        number
    }

    pub(super) fn word(&self, number: u32) -> Option<WordId> {
        self.routes.get(number as usize)?.word
    }

    /// Peers are told this from now on; returns what it was before.
    pub(super) fn set_word(&mut self, number: u32, word: Option<WordId>) -> Option<WordId> {
        let route = self.routes.get_mut(number as usize)?;
        std::mem::replace(&mut route.word, word)
    }

    /// One more peer has to do with the route.
    pub(super) fn hold(&mut self, number: u32) {
        if let Some(route) = self.routes.get_mut(number as usize) {
            route.holders = route.holders.saturating_add(1);
        }
    }

    /// One peer less has to do with it.
    pub(super) fn release(&mut self, number: u32) {
        // A count that was too high to go on counting stays.
        if let Some(route) = self.routes.get_mut(number as usize).filter(|route| route.holders < u16::MAX) {
            route.holders -= 1;
        }
    }

    /// Forgets a route that nobody has to do with.
    pub(super) fn reap(&mut self, number: u32) {
        let Some(route) = self.routes.get(number as usize) else { return };
        if route.holders > 0 || route.word.is_some() {
            return;
        }
        if let Ok(entry) = self.index.find_entry(hash(&route.key), |other| *other == number) {
            entry.remove();
            self.free.push(number);
        }
        if self.free.len() == self.routes.len() {
            *self = Table::default();
        }
    }

    /// Every word is held once less: the table goes.
    pub(super) fn release_words(&mut self, words: &mut Words) {
        self.routes.iter_mut().filter_map(|route| route.word.take()).for_each(|word| words.release(word));
    }

    pub(super) fn nlri(&self, number: u32) -> Option<Nlri> {
        nlri(&self.routes.get(number as usize)?.key)
    }

    /// The route as a message has it.
    pub(super) fn put(&self, number: u32, ids: bool, out: &mut Vec<u8>) {
        let Some(route) = self.routes.get(number as usize) else { return };
        let length = route.key.get(LENGTH_AT).copied().unwrap_or_default();
        let from = if ids { 0 } else { LENGTH_AT };
        out.extend_from_slice(route.key.get(from..ADDRESS_AT + usize::from(length.div_ceil(8))).unwrap_or_default());
    }
}
