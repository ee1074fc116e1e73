//! Prefix sets: prefixes with ranges of lengths, found by a search per length used.

use crate::net::{Family, Prefix};

/// A prefix and the lengths under it that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixRange {
    /// The prefix.
    pub prefix: Prefix,
    /// The shortest length that matches.
    pub min: u8,
    /// The longest length that matches.
    pub max: u8,
}

impl PrefixRange {
    /// The prefix itself and nothing under it.
    pub fn exact(prefix: Prefix) -> PrefixRange {
        PrefixRange { prefix, min: prefix.prefix_len(), max: prefix.prefix_len() }
    }

    /// The prefix and all under it.
    pub fn or_longer(prefix: Prefix) -> PrefixRange {
        PrefixRange { prefix, min: prefix.prefix_len(), max: prefix.max_prefix_len() }
    }

    /// Whether a prefix is inside and of a length that matches.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        let length = prefix.prefix_len();
        self.prefix.contains(prefix) && (self.min..=self.max).contains(&length)
    }
}

/// Ranges in order, grouped by family and length of their prefixes: a look-up costs one binary search for each length
/// in use, however many ranges there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    lengths: Vec<(Family, u8, Vec<PrefixRange>)>,
}

impl PrefixSet {
    /// The set of these ranges; their order does not matter.
    pub fn new(ranges: impl IntoIterator<Item = PrefixRange>) -> PrefixSet {
        let key = |range: &PrefixRange| (Family::of(range.prefix.addr()), range.prefix.prefix_len(), *range);
        let mut ranges: Vec<PrefixRange> =
            ranges.into_iter().map(|range| PrefixRange { prefix: range.prefix.trunc(), ..range }).collect();
        ranges.sort_unstable_by_key(key);
        ranges.dedup();
        let mut lengths: Vec<(Family, u8, Vec<PrefixRange>)> = Vec::new();
        for range in ranges {
            let (family, length, _) = key(&range);
            match lengths.last_mut() {
                Some((f, l, group)) if (*f, *l) == (family, length) => group.push(range),
                _ => lengths.push((family, length, vec![range])),
            }
        }
        PrefixSet { lengths }
    }

    /// Whether a range of the set matches.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        let (family, length) = (Family::of(prefix.addr()), prefix.prefix_len());
        self.lengths.iter().filter(|(f, l, _)| *f == family && *l <= length).any(|(_, l, group)| {
            let Ok(cover) = Prefix::new(prefix.addr(), *l).map(|cover| cover.trunc()) else { return false };
            let start = group.partition_point(|range| range.prefix < cover);
            let same = group.iter().skip(start).take_while(|range| range.prefix == cover);
            same.into_iter().any(|range| (range.min..=range.max).contains(&length))
        })
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}
