//! Hash maps that are fast and the same on every run.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A hash map with a fast hasher that gives the same on every run.
pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;

/// Multiplies to 128 bits and folds the halves, word by word. Against crafted collisions the limit on prefixes of a
/// session helps, not this.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FoldHasher(u64);

impl FoldHasher {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn add(&mut self, word: u64) {
        let product = u128::from(self.0.rotate_left(29) ^ word ^ 0x5851_f42d_4c95_7f2d) * u128::from(Self::FACTOR);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            self.add(rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.add(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.add(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.add(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.add(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash of one value.
pub(super) fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = FoldHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The hash of an IPv4 prefix: its address as a number, of which `length` bits count, and what else tells it from others.
/// Sixteen neighbours of one length have places side by side, which saves most misses of the cache: pod CIDRs and VIPs are
/// neighbours.
pub(super) fn hash_v4(address: u32, length: u8, salt: u32) -> u64 {
    let place = u64::from(address).checked_shr(u32::from(32_u8.saturating_sub(length))).unwrap_or(0);
    let mut hasher = FoldHasher::default();
    // All in one word: 28 bits of the place, 6 of the length, and 30 of what else there is, whose last two come round.
    hasher.add(place >> BLOCK ^ u64::from(length) << 28 ^ u64::from(salt).rotate_left(34));
    neighbours(hasher, place)
}

/// The same for IPv6.
pub(super) fn hash_v6(address: u128, length: u8, salt: u32) -> u64 {
    let place = address.checked_shr(u32::from(128_u8.saturating_sub(length))).unwrap_or(0);
    let block = place >> BLOCK;
    let mut hasher = FoldHasher::default();
    hasher.add(block as u64);
    hasher.add((block >> 64) as u64);
    hasher.add(u64::from(salt) << 8 | u64::from(length));
    neighbours(hasher, place as u64)
}

/// Bits of a prefix that tell it from its neighbours.
const BLOCK: u32 = 4;

fn neighbours(hasher: FoldHasher, place: u64) -> u64 {
    // Tables look at the low bits for the place, and at the highest seven to tell entries of a place from each other.
    let within = place & ((1 << BLOCK) - 1);
    (hasher.finish() & !((1 << BLOCK) - 1) | within) ^ within << 58
}
