//! What the kernel holds, in words of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Iptables, Known};
use crate::kernel::filter::plan::Observed;
use crate::kernel::filter::{Elements, Key, Name};
use crate::kernel::ipset::{Element, Ipset};
use crate::kernel::iptables::programs::Programs;
use crate::kernel::iptables::render::{RenderedSet, lookups};
use crate::kernel::iptables::script;
use crate::kernel::iptables::{PREFIX, tag};

impl<I: Ipset, P: Programs> Iptables<I, P> {
    /// What was written, less what somebody else changed: chains that differ without their rules, sets and maps with the
    /// members that are there.
    pub(super) fn remains(
        &self,
        table: &Name,
        known: &Known,
        sets: &BTreeMap<Arc<str>, Option<RenderedSet>>,
    ) -> Observed {
        let (ruleset, rendered) = (&known.ruleset, &known.rendered);
        let mut observed = Observed::from(ruleset);
        let mut broken = BTreeSet::new();
        let mut foreign = sets.keys().filter(|name| !rendered.sets.contains_key(*name)).count();
        let prefix = format!("{PREFIX}{}-", tag(table));
        for family in &self.families {
            for iptables_table in crate::kernel::iptables::Table::ALL {
                let empty = script::Chains::new();
                let there = self.saved.get(family).and_then(|saved| saved.tables.get(&iptables_table));
                let there = there.map_or(&empty, |there| &there.chains);
                let wanted = rendered.rules.get(&(*family, iptables_table));
                let wanted = wanted.into_iter().flat_map(|rules| &rules.chains);
                let names: BTreeSet<&str> = wanted.clone().map(|(name, _)| name.as_ref()).collect();
                foreign +=
                    there.keys().filter(|name| name.starts_with(&prefix) && !names.contains(name.as_str())).count();
                let differs = |(name, lines): &(&Arc<str>, &Vec<_>)| {
                    !there.get(name.as_ref()).is_some_and(|there| script::holds(there, lines))
                };
                broken.extend(wanted.filter(differs).map(|(name, _)| name.clone()));
            }
        }
        for model in broken.iter().filter_map(|chain| rendered.of_chains.get(chain)).flatten() {
            observed.chains.entry(model.clone()).or_default().rules.clear();
        }
        let found = |ipset: &Arc<str>| sets.get(ipset).and_then(Option::as_ref).map(|set| &set.elements);
        for (name, ipset) in &rendered.of_model {
            let Some(set) = observed.sets.get_mut(name) else { continue };
            match found(ipset) {
                Some(found) => retain(&mut set.elements, found),
                None => drop(observed.sets.remove(name)),
            }
        }
        for (name, of_map) in &rendered.of_maps {
            let Some(map) = observed.maps.get_mut(name) else { continue };
            map.elements.retain(|key, value| of_map.get(value).and_then(found).is_some_and(|found| has(key, found)));
        }
        if foreign > 0 {
            observed.unknown.insert(format!("{foreign} chains and sets that are not known"));
        }
        if broken.is_empty() && !self.scripts(table, rendered).is_empty() {
            observed.unknown.insert("the jumps that lead from the hooks of iptables to these rules".to_owned());
        }
        observed
    }
}

fn retain(elements: &mut Elements, found: &BTreeSet<Element>) {
    match elements {
        Elements::Keys(keys) => keys.retain(|key| has(key, found)),
        Elements::Prefixes(blocks) => {
            blocks.retain(|block| lookups::block_elements(block).iter().all(|element| found.contains(element)));
        }
    }
}

fn has(key: &Key, found: &BTreeSet<Element>) -> bool {
    lookups::key_elements(key).iter().all(|element| found.contains(element))
}
