//! The routes of a group by number, each with what the group's peers are to be told of it now.

use std::net::IpAddr;

use hashbrown::HashTable;

use super::words::{WordId, Words, reserve};
use crate::net::Prefix;
use crate::routing::bgp::hash::{hash_v4, hash_v6};
use crate::routing::bgp::types::Nlri;

/// A route as a message has it with a path identifier, host octets and all: 9 octets for IPv4, 21 for IPv6.
pub(super) type Key<const SIZE: usize> = [u8; SIZE];

/// Where the octets of a key begin that are there without a path identifier too.
const LENGTH_AT: usize = 4;

/// The key of a route. `SIZE` is that of its family.
pub(super) fn key<const SIZE: usize>(nlri: &Nlri) -> Key<SIZE> {
    let mut key = [0; SIZE];
    // Each field in one piece: put together octet by octet it would have to be read so as well.
    if let Some((id, [length, address @ ..])) = key.split_first_chunk_mut() {
        *id = nlri.path_id.to_be_bytes();
        *length = nlri.prefix.prefix_len();
        match nlri.prefix {
            Prefix::V4(prefix) => {
                address.first_chunk_mut().into_iter().for_each(|place| *place = prefix.addr().octets());
            }
            Prefix::V6(prefix) => {
                address.first_chunk_mut().into_iter().for_each(|place| *place = prefix.addr().octets());
            }
        }
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
    /// Those that are free too, until they are given away: a table that goes is not taken apart route by route.
    index: HashTable<u32>,
    routes: Vec<Route<SIZE>>,
    free: Vec<u32>,
    /// The number after the one found last. Peers take routes back, or say others of them, mostly in the order in which
    /// they came.
    next: u32,
}

#[derive(Debug)]
struct Route<const SIZE: usize> {
    /// `None`: the route is to be withdrawn from who has it.
    word: Option<WordId>,
    /// Peers that were told of it or have to hear of it.
    holders: u16,
    /// The number is free.
    is_free: bool,
    key: Key<SIZE>,
}

/// A hundred thousand routes are nothing special, so every octet counts.
const _: () = assert!(size_of::<Route<9>>() == 16);

impl<const SIZE: usize> Default for Table<SIZE> {
    fn default() -> Table<SIZE> {
        Table { index: HashTable::new(), routes: Vec::new(), free: Vec::new(), next: 0 }
    }
}

impl<const SIZE: usize> Table<SIZE> {
    /// The number of a route.
    pub(super) fn find(&mut self, key: &Key<SIZE>) -> Option<u32> {
        let is = |n: &u32| self.routes.get(*n as usize).is_some_and(|route| route.key == *key && !route.is_free);
        let found = if is(&self.next) { Some(self.next) } else { self.index.find(hash(key), is).copied() };
        if let Some(number) = found {
            self.next = number.wrapping_add(1);
        }
        found
    }

    /// A number for a route that has none yet; its word is one that withdraws it.
    pub(super) fn add(&mut self, key: Key<SIZE>) -> u32 {
        let route = Route { word: None, holders: 0, is_free: false, key };
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.routes.get_mut(number as usize) {
                    let before = std::mem::replace(place, route);
                    if let Ok(entry) = self.index.find_entry(hash(&before.key), |other| *other == number) {
                        entry.remove();
                    }
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
        let Some(route) = self.routes.get_mut(number as usize) else { return };
        if route.holders > 0 || route.word.is_some() || route.is_free {
            return;
        }
        route.is_free = true;
        self.free.push(number);
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
        let Some((id, rest)) = route.key.split_first_chunk::<LENGTH_AT>() else { return };
        if ids {
            out.extend_from_slice(id);
        }
        let start = out.len();
        // All of it and then back again: how much it is is known beforehand.
        out.extend_from_slice(rest);
        let length = rest.first().copied().unwrap_or_default();
        out.truncate(start + 1 + usize::from(length.div_ceil(8)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{V4, V6};
    use super::*;
    use crate::testing::builders::prefix;

    fn route(text: &str) -> Nlri {
        Nlri { prefix: prefix(text), path_id: 0x0102_0304 }
    }

    #[test]
    fn a_number_that_is_free_goes_to_another_route_and_its_first_may_come_back() {
        let mut table = Table::<V4>::default();
        let [first, second, third] = ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"].map(|text| key(&route(text)));
        let numbers = [table.add(first), table.add(second)];
        numbers.iter().for_each(|number| table.hold(*number));
        table.release(numbers[0]);
        table.reap(numbers[0]);
        table.reap(numbers[0]);
        assert_eq!([table.find(&first), table.find(&second)], [None, Some(numbers[1])]);
        assert_eq!(table.add(third), numbers[0]);
        table.hold(numbers[0]);
        let again = table.add(first);
        assert!(!numbers.contains(&again));
        assert_eq!(
            [&first, &second, &third].map(|key| table.find(key)),
            [Some(again), Some(numbers[1]), Some(numbers[0])]
        );
    }

    #[test]
    fn a_route_comes_back_as_it_went_and_goes_out_as_long_as_it_is() {
        for (text, octets) in [("0.0.0.0/0", 0), ("10.1.16.0/20", 3), ("10.1.2.3/32", 4)] {
            let mut table = Table::<V4>::default();
            check(&mut table, &route(text), octets);
        }
        for (text, octets) in [("::/0", 0), ("2001:db8::/33", 5), ("2001:db8::1/128", 16)] {
            let mut table = Table::<V6>::default();
            check(&mut table, &route(text), octets);
        }
    }

    fn check<const SIZE: usize>(table: &mut Table<SIZE>, route: &Nlri, octets: usize) {
        let number = table.add(key(route));
        assert_eq!(table.nlri(number), Some(*route));
        let (mut with_id, mut without) = (Vec::new(), Vec::new());
        table.put(number, true, &mut with_id);
        table.put(number, false, &mut without);
        assert_eq!(with_id, [&[1, 2, 3, 4], without.as_slice()].concat());
        assert_eq!(without.len(), 1 + octets);
        assert_eq!(without[0], route.prefix.prefix_len());
    }
}
