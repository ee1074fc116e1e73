//! Writing rulesets to iptables and ipset.
//!
//! A transaction is applied to the ruleset in memory, and what differs between the two renderings is written: members of
//! sets that stay go over netlink alone; where rules change, one `iptables-restore` for each family. Before rules
//! change, a set of addresses only shrinks, and grows afterwards, so that nothing passes that neither the old nor the new
//! rules let through; a set that leads to chains does it the other way round, so that no pod is led nowhere.
//!
//! Whatever fails makes the backend forget what it knew, and the next [`plan`](Backend::plan) compares with the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::programs::{Programs, SystemPrograms};
use super::render::{Rendered, RenderedSet, lookups, render};
use super::saved::{Saved, parse};
use super::script::script;
use super::{PREFIX, tag};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::filter::plan::{Change, Observed, ObservedChain, Transaction, plan};
use crate::kernel::filter::{Backend, Name, Rule, Ruleset};
use crate::kernel::ipset::{Element, Ipset, IpsetClient, Op};
use crate::net::Family;

/// Rules of the model on iptables and ipset.
#[derive(Debug)]
pub struct Iptables<I, P> {
    ipset: I,
    programs: P,
    known: BTreeMap<Name, Known>,
    saved: BTreeMap<Family, Saved>,
}

/// A table that the kernel is known to hold.
#[derive(Clone, Debug, Default)]
struct Known {
    ruleset: Ruleset,
    rendered: Rendered,
}

/// One writer for all rooms of a daemon: their jumps share a chain.
#[derive(Clone, Debug)]
pub struct SharedIptables(Arc<Mutex<Iptables<IpsetClient, SystemPrograms>>>);

impl SharedIptables {
    /// Begins to write with these programs, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where no netlink socket can be had.
    pub fn open(programs: SystemPrograms) -> Result<SharedIptables, Error> {
        Ok(SharedIptables(Arc::new(Mutex::new(Iptables::new(IpsetClient::open()?, programs)))))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Iptables<IpsetClient, SystemPrograms>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Backend for SharedIptables {
    fn looks_inside(&self) -> bool {
        false
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.with(|iptables| iptables.dump(table))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        self.with(|iptables| iptables.commit(transaction))
    }

    fn plan(&mut self, table: &Name, desired: &Ruleset) -> Result<Transaction, Error> {
        self.with(|iptables| iptables.plan(table, desired))
    }
}

impl<I: Ipset, P: Programs> Iptables<I, P> {
    /// A backend that knows nothing yet.
    pub fn new(ipset: I, programs: P) -> Iptables<I, P> {
        Iptables { ipset, programs, known: BTreeMap::new(), saved: BTreeMap::new() }
    }

    /// The doors, to look at what was written.
    pub fn doors(&mut self) -> (&mut I, &mut P) {
        (&mut self.ipset, &mut self.programs)
    }

    fn read(&mut self) -> Result<(), Error> {
        for family in Family::ALL {
            let text = self.programs.save(family)?;
            self.saved.insert(family, parse(&text));
        }
        Ok(())
    }

    /// What is to be restored so that a table means this, by family.
    fn scripts(&self, table: &Name, rendered: &Rendered) -> Vec<(Family, String)> {
        let mut known: BTreeMap<Name, &Rendered> =
            self.known.iter().map(|(name, known)| (name.clone(), &known.rendered)).collect();
        known.insert(table.clone(), rendered);
        let of = |(family, saved): (&Family, &Saved)| Some((*family, script(saved, *family, &known)?));
        self.saved.iter().filter_map(of).collect()
    }

    /// The sets of a table in the kernel.
    fn read_sets(&mut self, table: &Name) -> Result<BTreeMap<Arc<str>, Option<RenderedSet>>, Error> {
        let prefix = format!("{PREFIX}{}-", tag(table));
        let mut sets = BTreeMap::new();
        for name in self.ipset.names()?.into_iter().filter(|name| name.starts_with(&prefix)) {
            let Some(found) = self.ipset.list(&name)? else { continue };
            let set = found.shape.map(|shape| RenderedSet { shape, elements: found.elements, leads: false });
            sets.insert(name, set);
        }
        Ok(sets)
    }

    /// Whether the kernel, as just read, holds this.
    fn holds(&self, table: &Name, rendered: &Rendered, sets: &BTreeMap<Arc<str>, Option<RenderedSet>>) -> bool {
        let same = |(name, set): (&Arc<str>, &Option<RenderedSet>)| {
            let wanted = rendered.sets.get(name);
            let pair = set.as_ref().zip(wanted);
            pair.is_some_and(|(set, wanted)| set.shape == wanted.shape && set.elements == wanted.elements)
        };
        sets.len() == rendered.sets.len() && sets.iter().all(same) && self.scripts(table, rendered).is_empty()
    }

    /// Brings the kernel from one rendering, or from whatever it holds, to another.
    fn write(&mut self, table: &Name, old: Option<&Rendered>, new: &Rendered) -> Result<(), Error> {
        if self.saved.is_empty() {
            self.read()?;
        }
        let there: BTreeMap<Arc<str>, Option<RenderedSet>> = match old {
            Some(old) => old.sets.iter().map(|(name, set)| (name.clone(), Some(set.clone()))).collect(),
            None => self.read_sets(table)?,
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (name, set) in &new.sets {
            let found = there.get(name).and_then(Option::as_ref).filter(|found| found.shape == set.shape);
            let Some(found) = found else {
                // Somebody made another one under our name: it goes first.
                before.extend(there.contains_key(name).then(|| Op::Destroy(name.clone())));
                let expected = set.elements.len();
                before.push(Op::Create { name: name.clone(), shape: set.shape, expected });
                before.extend(some(Op::Add, name, set.elements.iter()));
                continue;
            };
            let more = some(Op::Add, name, set.elements.difference(&found.elements));
            let less = some(Op::Delete, name, found.elements.difference(&set.elements));
            let (now, later) = if set.leads { (more, less) } else { (less, more) };
            before.extend(now);
            after.extend(later);
        }
        after.extend(there.keys().filter(|name| !new.sets.contains_key(*name)).cloned().map(Op::Destroy));
        self.apply(&before)?;
        for (family, script) in self.scripts(table, new) {
            self.programs.restore(family, &script)?;
            if let Some(saved) = self.saved.get_mut(&family)
                && let Err(message) = saved.apply(&script)
            {
                let op = "read back what was restored".to_owned();
                return Err(Error { op, errno: None, message, kind: Disposition::Stale });
            }
        }
        self.apply(&after)
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), Error> {
        let failed = self.ipset.apply(ops).into_iter().filter_map(Result::err);
        failed.into_iter().find(|error| error.kind != Disposition::AlreadySo).map_or(Ok(()), Err)
    }

    /// Changes that are about members of sets alone: no rule is looked at.
    fn only_members(&mut self, table: &Name, changes: &[Change]) -> Option<Result<(), Error>> {
        let known = self.known.get_mut(table)?;
        let mut ops = Vec::new();
        for change in changes {
            let (name, add, elements): (&Name, bool, Vec<Element>) = match change {
                Change::AddKeys(name, keys) => (name, true, keys.iter().flat_map(lookups::key_elements).collect()),
                Change::DeleteKeys(name, keys) => (name, false, keys.iter().flat_map(lookups::key_elements).collect()),
                Change::AddPrefixes(name, blocks) => {
                    (name, true, blocks.iter().flat_map(lookups::block_elements).collect())
                }
                Change::DeletePrefixes(name, blocks) => {
                    (name, false, blocks.iter().flat_map(lookups::block_elements).collect())
                }
                _ => return None,
            };
            // A set that became rules, or that no rule looks into.
            let ipset = known.rendered.of_model.get(name)?.clone();
            ops.push(if add { Op::Add(ipset, elements) } else { Op::Delete(ipset, elements) });
        }
        let mut ruleset = std::mem::take(&mut known.ruleset);
        for change in changes {
            change.apply_to(&mut ruleset);
        }
        known.ruleset = ruleset;
        for op in &ops {
            let Some(set) = known.rendered.sets.get_mut(op.set()) else { continue };
            match op {
                Op::Add(_, elements) => set.elements.extend(elements),
                Op::Delete(_, elements) => elements.iter().for_each(|element| {
                    set.elements.remove(element);
                }),
                Op::Create { .. } | Op::Swap(..) | Op::Destroy(_) => {}
            }
        }
        Some(self.apply(&ops))
    }

    fn change(&mut self, table: &Name, transaction: &Transaction) -> Result<(), Error> {
        if let Some(done) = self.only_members(table, &transaction.changes) {
            return done;
        }
        let mut ruleset = self.known.get(table).map(|known| known.ruleset.clone());
        for change in &transaction.changes {
            match (change, &mut ruleset) {
                (Change::DeleteTable, ruleset) => *ruleset = None,
                (Change::AddTable, ruleset) => drop(ruleset.get_or_insert_default()),
                (change, Some(ruleset)) => change.apply_to(ruleset),
                (_, None) => {
                    let op = format!("iptables transaction of {} changes on {table}", transaction.changes.len());
                    let message = "what the table holds is not known".to_owned();
                    return Err(Error { op, errno: None, message, kind: Disposition::Stale });
                }
            }
        }
        let rendered = ruleset.as_ref().map_or_else(|| Ok(Rendered::default()), |it| said(table, it))?;
        let old = self.known.get(table).map(|known| known.rendered.clone());
        self.write(table, old.as_ref(), &rendered)?;
        match ruleset {
            Some(ruleset) => drop(self.known.insert(table.clone(), Known { ruleset, rendered })),
            None => drop(self.known.remove(table)),
        }
        Ok(())
    }
}

fn some<'a>(
    op: impl Fn(Arc<str>, Vec<Element>) -> Op,
    name: &Arc<str>,
    elements: impl Iterator<Item = &'a Element>,
) -> Option<Op> {
    let elements: Vec<Element> = elements.copied().collect();
    (!elements.is_empty()).then(|| op(name.clone(), elements))
}

fn said(table: &Name, ruleset: &Ruleset) -> Result<Rendered, Error> {
    render(table, ruleset).map_err(|unspeakable| Error {
        op: format!("write {table} to iptables"),
        errno: None,
        message: unspeakable.to_string(),
        kind: Disposition::Fatal,
    })
}

/// A ruleset as a backend reports it.
fn observed(ruleset: &Ruleset) -> Observed {
    let chain = |chain: &crate::kernel::filter::Chain| ObservedChain {
        base: chain.base,
        rules: chain.rules.iter().map(Rule::digest).map(Some).collect(),
    };
    Observed {
        sets: ruleset.sets.clone(),
        maps: ruleset.maps.clone(),
        chains: ruleset.chains.iter().map(|(name, found)| (name.clone(), chain(found))).collect(),
        unknown: BTreeSet::new(),
    }
}

impl<I: Ipset, P: Programs> Backend for Iptables<I, P> {
    fn looks_inside(&self) -> bool {
        false
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.read()?;
        let sets = self.read_sets(table)?;
        if let Some(known) = self.known.get(table)
            && self.holds(table, &known.rendered, &sets)
        {
            return Ok(Some(observed(&known.ruleset)));
        }
        self.known.remove(table);
        let any = !sets.is_empty() || self.saved.values().any(|saved| saved.has_ours(&tag(table)));
        let unknown = BTreeSet::from(["chains and sets that are not known".to_owned()]);
        Ok(any.then(|| Observed { unknown, ..Observed::default() }))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let Some(table) = &transaction.table else {
            let message = "the transaction names no table".to_owned();
            return Err(Error { op: transaction.to_string(), errno: None, message, kind: Disposition::Fatal });
        };
        if transaction.is_empty() {
            return Ok(());
        }
        let done = self.change(table, transaction);
        if done.is_err() {
            self.known.remove(table);
            self.saved.clear();
        }
        done
    }

    fn plan(&mut self, table: &Name, desired: &Ruleset) -> Result<Transaction, Error> {
        let rendered = said(table, desired)?;
        self.read()?;
        let sets = self.read_sets(table)?;
        if self.holds(table, &rendered, &sets) {
            self.known.insert(table.clone(), Known { ruleset: desired.clone(), rendered });
            return Ok(Transaction { table: Some(table.clone()), changes: Vec::new() });
        }
        if let Some(known) = self.known.get(table)
            && self.holds(table, &known.rendered, &sets)
        {
            return Ok(plan(table, desired, Some(&observed(&known.ruleset))));
        }
        // Everything is compared with the kernel, and only what differs is written.
        self.known.remove(table);
        Ok(plan(table, desired, None))
    }
}

#[cfg(test)]
mod tests;
