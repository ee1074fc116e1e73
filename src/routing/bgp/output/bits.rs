//! A set of small numbers, one bit each.

/// A set of small numbers.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn place(n: u32) -> (usize, u64) {
        (n as usize / 64, 1 << (n % 64))
    }

    pub(super) fn contains(&self, n: u32) -> bool {
        let (at, bit) = Bits::place(n);
        self.0.get(at).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn insert(&mut self, n: u32) {
        let (at, bit) = Bits::place(n);
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        if let Some(word) = self.0.get_mut(at) {
            *word |= bit;
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, n: u32) -> bool {
        let (at, bit) = Bits::place(n);
        let Some(word) = self.0.get_mut(at) else { return false };
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    pub(super) fn set(&mut self, n: u32, there: bool) {
        // A set that stays empty takes no memory.
        if there {
            self.insert(n);
        } else {
            self.remove(n);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Bits::default();
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let word = |(at, word): (u32, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| at * 64 + bit)
        };
        (0..).zip(&self.0).flat_map(word)
    }
}
