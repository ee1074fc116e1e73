//! The twins of chains and maps for what is tunnelled to pods, as parts of a step (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::{Draft, Step};
use super::{DIRECTIONS, Table};
use crate::firewall::book::Book;
use crate::firewall::compile::{declared_size, frame_beside, pods_map};
use crate::firewall::tunnelled;
use crate::kernel::filter::plan::ObservedChain;
use crate::kernel::filter::{Chain, Field, Inside, Name, Rule, Ruleset};
use crate::net::Family;

/// Addresses of pods to which packets are tunnelled, by families in use.
pub(super) type Direct = BTreeMap<Family, BTreeSet<IpAddr>>;

impl Table {
    /// The families in which packets are tunnelled to pods, with the sizes of the sets of those pods.
    pub(super) fn tunnelled(&self) -> BTreeMap<Family, u32> {
        self.direct.iter().map(|(family, addresses)| (*family, declared_size(addresses.len()))).collect()
    }

    /// The set of pods to which packets are tunnelled, where rules can look inside. A set that needs another size is another
    /// set.
    pub(super) fn update_direct(&mut self, book: &Book, draft: &mut Draft) {
        draft.was_direct = self.direct.keys().copied().collect();
        if self.config.inside == Inside::Nowhere || self.direct_version == book.direct().version() {
            return;
        }
        self.direct_version = book.direct().version();
        let mut newer = Direct::new();
        for address in book.direct().addresses() {
            newer.entry(Family::of(address)).or_default().insert(address);
        }
        let older = std::mem::replace(&mut self.direct, newer);
        for family in Family::ALL {
            let (was, is) = (older.get(&family), self.direct.get(&family));
            if was == is {
                continue;
            }
            let size = |of: Option<&BTreeSet<IpAddr>>| of.map(|addresses| declared_size(addresses.len()));
            let same = size(was) == size(is);
            let (was, is) = (was.cloned().unwrap_or_default(), is.cloned().unwrap_or_default());
            for (comes, all, minus) in [(false, &was, &is), (true, &is, &was)] {
                if all.is_empty() {
                    continue;
                }
                let size = declared_size(all.len());
                let elements = all.iter().filter(|address| !same || !minus.contains(*address)).copied();
                let set = tunnelled::addresses(family, size, elements);
                draft.note_direct(tunnelled::pods_set(family, size), set, comes);
            }
        }
    }

    /// Adds the sets of pods to which packets are tunnelled, and the twins where they are in the same table.
    pub(super) fn add_direct(&self, ruleset: &mut Ruleset) {
        for (family, addresses) in &self.direct {
            let size = declared_size(addresses.len());
            let pods = tunnelled::addresses(*family, size, addresses.iter().copied());
            ruleset.sets.insert(tunnelled::pods_set(*family, size), pods);
        }
        if self.config.inside == Inside::Own {
            let twins = self.twins(ruleset);
            ruleset.chains.extend(twins.chains);
            ruleset.maps.extend(twins.maps);
        }
    }

    /// The table of what is tunnelled, where that is not judged in the same table; `None` where nothing is tunnelled. It has
    /// copies of the sets it looks into.
    pub fn beside(&self, book: &Book) -> Option<Ruleset> {
        let framing = self.framed.as_ref().filter(|framing| framing.beside && !framing.tunnelled.is_empty())?;
        let whole = self.whole(book);
        let mut ruleset = self.twins(&whole);
        ruleset.chains.extend(frame_beside(framing));
        let rules = ruleset.chains.values().flat_map(|chain| &chain.rules);
        let used: BTreeSet<&Name> = rules.flat_map(Rule::refers_to).collect();
        ruleset.sets = whole.sets.into_iter().filter(|(name, _)| used.contains(name)).collect();
        Some(ruleset)
    }

    /// Whether packets are tunnelled to this address, and judged by what is inside.
    pub fn judges_tunnelled(&self, address: IpAddr) -> bool {
        self.direct.get(&Family::of(address)).is_some_and(|addresses| addresses.contains(&address))
    }

    /// The twins of the chains, and of these maps.
    fn twins(&self, of: &Ruleset) -> Ruleset {
        let mut twins = Ruleset::default();
        for family in self.direct.keys() {
            let plain = self.chains.iter().filter(|(_, chain)| chain.base.is_none());
            twins.chains.extend(plain.map(|(name, chain)| twin(*family, name, chain)));
            for name in DIRECTIONS.map(|direction| pods_map(direction, *family)) {
                let map = of.maps.get(&name).map(|map| tunnelled::map(*family, map));
                twins.maps.extend(map.map(|map| (tunnelled::name(*family, &name), map)));
            }
        }
        twins
    }
}

/// A chain's twin with its name.
fn twin(family: Family, name: &Name, chain: &Chain) -> (Name, Chain) {
    (tunnelled::name(family, name), tunnelled::chain(family, name, chain))
}

/// Adds to a step what it means for twins. `touched`: chains as they were before the first touch.
pub(super) fn finish(
    step: &mut Step,
    table: &Table,
    touched: &BTreeMap<Name, Option<Chain>>,
    was_direct: &BTreeSet<Family>,
) {
    if table.config.inside != Inside::Own {
        return;
    }
    for family in Family::ALL {
        let (was, is) = (was_direct.contains(&family), table.direct.contains_key(&family));
        if was || is {
            chains(step, table, touched, family, (was, is));
            maps(step, table, family, (was, is));
        }
    }
}

fn chains(
    step: &mut Step,
    table: &Table,
    touched: &BTreeMap<Name, Option<Chain>>,
    family: Family,
    (was, is): (bool, bool),
) {
    // Where twins as such come or go, it is all of them.
    let untouched = table.chains.keys().filter(|_| was != is);
    for name in touched.keys().chain(untouched).collect::<BTreeSet<_>>() {
        let newer = table.chains.get(name);
        let older = touched.get(name).map_or(newer, |older| older.as_ref());
        let of = |chain: Option<&Chain>, there: bool| {
            chain.filter(|chain| there && chain.base.is_none()).map(|chain| twin(family, name, chain))
        };
        let (older, newer) = (of(older, was), of(newer, is));
        if older == newer {
            continue;
        }
        if let Some((name, chain)) = older {
            let rules = chain.rules.iter().map(|rule| Some(rule.digest())).collect();
            step.before.chains.insert(name, ObservedChain { base: None, rules });
        }
        step.after.chains.extend(newer);
    }
}

fn maps(step: &mut Step, table: &Table, family: Family, (was, is): (bool, bool)) {
    for direction in DIRECTIONS {
        let name = pods_map(direction, family);
        let Some(frame) = table.frame.maps.get(&name) else { continue };
        let mut whole = frame.clone();
        let own = table.addresses.iter().filter(|(address, _)| Family::of(**address) == family);
        let entry = own.map(|(address, verdicts)| (vec![Field::from(*address)], verdicts.of(direction).clone()));
        let (before, after) = if was && is {
            (step.before.maps.get(&name).cloned(), step.after.maps.get(&name).cloned())
        } else if is {
            whole.elements = entry.collect();
            (None, Some(whole))
        } else {
            // It goes as it is: what was in it is of no interest.
            (Some(whole), None)
        };
        let twin = tunnelled::name(family, &name);
        step.before.maps.extend(before.map(|map| (twin.clone(), tunnelled::map(family, &map))));
        step.after.maps.extend(after.map(|map| (twin, tunnelled::map(family, &map))));
    }
}
