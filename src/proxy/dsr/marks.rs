//! The firewall mark of each VIP and port that is served directly.

use std::collections::{BTreeMap, BTreeSet};

use super::DsrKey;

/// Marks are 14 bits wide, as kube-router's are; other users of marks stay clear of them.
const MARK_MASK: u32 = 0x3fff;
/// How many suffixes are tried for a key whose mark is taken.
const MAX_SUFFIX: u32 = 16_380;
/// There are no more marks than this.
pub(super) const MAX_MARKS: u32 = MARK_MASK + 1;

/// A mark for each key, never 0 and each once: FNV-1a (32 bits) over `VIP-PROTOCOL-PORT`, cut to 14 bits. kube-router
/// computes the same, so that a take-over keeps the marks.
///
/// The marks are a function of the set of keys alone. Of several keys with the same hash the first in order gets it;
/// only when all of those are placed do the others try `…-1`, `…-2` and so on, in order. So no key is moved by another
/// one's second choice, and a new key can move only those that collide with it. Keys for which nothing is free are
/// left out.
pub fn assign_marks(keys: &BTreeSet<DsrKey>) -> BTreeMap<DsrKey, u32> {
    let mut marks = BTreeMap::new();
    let mut taken = BTreeSet::from([0]);
    let mut later = Vec::new();
    for key in keys {
        let mark = hash(&text(key));
        if taken.insert(mark) {
            marks.insert(*key, mark);
        } else {
            later.push(*key);
        }
    }
    for key in later {
        let base = text(&key);
        let free = (1..=MAX_SUFFIX).map(|suffix| hash(&format!("{base}-{suffix}"))).find(|mark| taken.insert(*mark));
        if let Some(mark) = free {
            marks.insert(key, mark);
        }
    }
    marks
}

fn text(key: &DsrKey) -> String {
    format!("{}-{}-{}", key.vip, key.protocol, key.port)
}

/// FNV-1a, 32 bits, cut to the width of our marks.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) & MARK_MASK
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;
    use crate::net::Protocol;

    #[test]
    fn marks_are_those_of_kube_router() {
        let tcp = key("10.255.0.1", Protocol::Tcp, 80);
        let udp = key("10.255.0.1", Protocol::Udp, 53);
        let marks = assign_marks(&BTreeSet::from([tcp, udp]));
        assert_eq!(marks, BTreeMap::from([(tcp, 9054), (udp, 1074)]));
    }

    /// Keys of one VIP, by hash, from the definition.
    fn by_hash() -> BTreeMap<u32, Vec<DsrKey>> {
        let mut groups: BTreeMap<u32, Vec<DsrKey>> = BTreeMap::new();
        for port in 1..=u16::MAX {
            let key = key("10.255.0.1", Protocol::Tcp, port);
            groups.entry(hash(&text(&key))).or_default().push(key);
        }
        groups
    }

    #[test]
    fn no_mark_is_zero() {
        let zero = by_hash().remove(&0).expect("65535 keys over 16384 marks")[0];
        let mark = assign_marks(&BTreeSet::from([zero]))[&zero];
        assert_ne!(mark, 0);
        assert_eq!(mark, (1..).map(|n| hash(&format!("{}-{n}", text(&zero)))).find(|mark| *mark != 0).unwrap());
    }

    #[test]
    fn colliding_keys_get_the_next_mark_and_move_nobody_else() {
        let groups = by_hash();
        let pair = groups.values().find(|keys| keys.len() >= 2 && hash(&text(&keys[0])) != 0).unwrap();
        let (first, second) = (pair[0], pair[1]);
        let alone = assign_marks(&BTreeSet::from([second]))[&second];
        let both = assign_marks(&BTreeSet::from([first, second]));
        assert_eq!(both[&first], alone, "the first in order has the hash itself");
        assert_eq!(both[&second], hash(&format!("{}-1", text(&second))));
        // A key whose own hash is the second choice of another keeps it; the other one goes on.
        let third = groups[&both[&second]][0];
        let three = assign_marks(&BTreeSet::from([first, second, third]));
        assert_eq!(three[&third], both[&second]);
        assert_eq!(three[&first], both[&first]);
        assert_ne!(three[&second], both[&second]);
    }

    #[test]
    fn marks_stay_unique_and_bounded_when_there_are_many() {
        let keys: BTreeSet<DsrKey> = (1..=4000).map(|port| key("2001:db8::1", Protocol::Tcp, port)).collect();
        let marks = assign_marks(&keys);
        assert_eq!(marks.len(), keys.len());
        assert_eq!(marks.values().collect::<BTreeSet<_>>().len(), keys.len());
        assert!(marks.values().all(|mark| (1..=MARK_MASK).contains(mark)));
    }
}
