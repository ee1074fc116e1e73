//! From one rendering to another: sets, rules, sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Iptables, Known};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::filter::plan::{Change, Transaction};
use crate::kernel::filter::{Key, Name, Ruleset, Value};
use crate::kernel::ipset::{Element, Ipset, Op};
use crate::kernel::iptables::programs::Programs;
use crate::kernel::iptables::render::{Rendered, RenderedSet, lookups};
use crate::net::Family;

/// How often, and how long apart, a set is asked to go when its table goes: nobody comes back for it then. A rule of
/// iptables-nft lets go of its set a moment after it is gone (`nf_tables_trans_destroy_work`).
const GOING: (u32, Duration) = (20, Duration::from_millis(10));

/// What failed, by family; `None` stands for what has none.
type Faults = BTreeMap<Option<Family>, Error>;

/// The sets of one table that are there; `None` for one that was made in a shape of its own.
type There = BTreeMap<Arc<str>, Option<RenderedSet>>;

impl<I: Ipset, P: Programs> Iptables<I, P> {
    /// Brings the kernel from one rendering, or from whatever it holds, to another. Each family goes as far as it can.
    fn write(&mut self, table: &Name, old: Option<&Rendered>, new: &Rendered) -> Result<(), Error> {
        if self.saved.is_empty() {
            self.read()?;
        }
        let mut there: There = match old {
            Some(old) => old.sets.iter().map(|(name, set)| (name.clone(), Some(set.clone()))).collect(),
            None => self.read_sets(table)?,
        };
        for name in new.sets.keys() {
            if self.lingering.remove(name)
                && let Some(set) = self.read_set(name)?
            {
                there.insert(name.clone(), set);
            }
        }
        let (before, after) = set_changes(&there, new);
        let mut faults = Faults::new();
        self.apply(&before, new, &there, &mut faults);
        for (family, script) in self.scripts(table, new) {
            if faults.keys().any(|failed| failed.is_none_or(|failed| failed == family)) {
                continue;
            }
            if let Err(error) = self.restore(table, family, &script) {
                faults.insert(Some(family), error);
            }
        }
        let whole = faults.is_empty();
        let goes_on = |op: &Op| match family_of(op.set(), new, &there) {
            Some(family) => !faults.contains_key(&Some(family)) && !faults.contains_key(&None),
            None => whole,
        };
        let after: Vec<Op> = after.into_iter().filter(goes_on).collect();
        self.apply(&after, new, &there, &mut faults);
        faults.into_values().next().map_or(Ok(()), Err)
    }

    fn restore(&mut self, table: &Name, family: Family, script: &str) -> Result<(), Error> {
        let restored = self.programs.restore(family, script);
        restored.map_err(|error| self.blame(table, family, script, error))?;
        let applied = self.saved.get_mut(&family).map_or(Ok(()), |saved| saved.apply(script));
        applied.map_err(|message| {
            let op = "read back what was restored".to_owned();
            Error { op, errno: None, message, kind: Disposition::Stale }
        })
    }

    /// Changes sets. One that a rule still holds on to goes later: that is no fault.
    fn apply(&mut self, ops: &[Op], new: &Rendered, there: &There, faults: &mut Faults) {
        for (op, answer) in ops.iter().zip(self.ipset.apply(ops)) {
            match answer {
                Ok(()) => {}
                Err(error) if error.kind == Disposition::AlreadySo => {}
                Err(error) if matches!(op, Op::Destroy(_)) && error.kind == Disposition::Retry => {
                    self.lingering.insert(op.set().clone());
                }
                Err(mut error) => {
                    if let Some(name) = new.model_of(op.set()) {
                        error.op = format!("{}, which is {name}", error.op);
                    }
                    faults.entry(family_of(op.set(), new, there)).or_insert(error);
                }
            }
        }
    }

    /// Asks the sets that were still held to go.
    pub(super) fn sweep(&mut self) {
        if self.lingering.is_empty() {
            return;
        }
        let ops: Vec<Op> = self.lingering.iter().cloned().map(Op::Destroy).collect();
        for (op, answer) in ops.iter().zip(self.ipset.apply(&ops)) {
            if answer.is_ok_and(|()| true) || self.ipset.list(op.set()).is_ok_and(|found| found.is_none()) {
                self.lingering.remove(op.set());
            }
        }
    }

    /// One set; `Some(None)` where it has a shape of its own.
    pub(super) fn read_set(&mut self, name: &str) -> Result<Option<Option<RenderedSet>>, Error> {
        let Some(found) = self.ipset.list(name)? else { return Ok(None) };
        Ok(Some(found.shape.map(|shape| RenderedSet { shape, elements: found.elements, leads: false })))
    }

    /// Changes that are about members of sets alone: no rule is looked at, and no program runs. `None` where they are
    /// about more.
    fn only_members(&mut self, table: &Name, changes: &[Change]) -> Option<Result<(), Error>> {
        let known = self.known.get(table)?;
        let mut ops = Vec::new();
        for change in changes {
            members(change, &known.rendered, &mut ops)?;
        }
        keeps_values(changes, &known.ruleset).then_some(())?;
        let mut known = self.known.remove(table)?;
        for change in changes {
            change.apply_to(&mut known.ruleset);
        }
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
        let leads = |op: &Op| known.rendered.sets.get(op.set()).is_some_and(|set| set.leads);
        // No pod is led nowhere: it comes into its new set before it leaves the old one.
        ops.sort_by_key(|op| match op {
            Op::Add(..) if leads(op) => 0,
            Op::Delete(..) if leads(op) => 2,
            _ => 1,
        });
        let mut faults = Faults::new();
        self.apply(&ops, &known.rendered, &There::new(), &mut faults);
        self.known.insert(table.clone(), known);
        Some(faults.into_values().next().map_or(Ok(()), Err))
    }

    pub(super) fn change(&mut self, table: &Name, transaction: &Transaction) -> Result<(), Error> {
        self.sweep();
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
        if self.saved.is_empty() {
            self.read()?;
        }
        let rendered = ruleset.as_ref().map_or_else(|| Ok(Rendered::default()), |it| self.said(table, it))?;
        let old = self.known.get(table).map(|known| known.rendered.clone());
        self.write(table, old.as_ref(), &rendered)?;
        match ruleset {
            Some(ruleset) => drop(self.known.insert(table.clone(), Known { ruleset, rendered })),
            None => self.forget(table),
        }
        Ok(())
    }

    /// The table is gone, and its sets are to be.
    fn forget(&mut self, table: &Name) {
        self.known.remove(table);
        let (tries, pause) = GOING;
        for _ in 0..tries {
            self.sweep();
            if self.lingering.is_empty() {
                return;
            }
            std::thread::sleep(pause);
        }
    }
}

/// Whether every value of a map that loses entries has some left: the last key of a value takes a rule with it.
fn keeps_values(changes: &[Change], ruleset: &Ruleset) -> bool {
    let of = |name: &Name, wanted: bool| {
        let name = name.clone();
        changes.iter().flat_map(move |change| match change {
            Change::AddEntries(map, entries) if wanted && *map == name => entries.as_slice(),
            Change::DeleteEntries(map, entries) if !wanted && *map == name => entries.as_slice(),
            _ => &[],
        })
    };
    changes.iter().all(|change| {
        let Change::DeleteEntries(map, entries) = change else { return true };
        let gone: BTreeSet<&Key> = of(map, false).map(|(key, _)| key).collect();
        let stays = |value: &Value| {
            let there = ruleset.maps.get(map).into_iter().flat_map(|map| &map.elements);
            of(map, true).any(|(_, new)| new == value)
                || there.into_iter().any(|(key, other)| other == value && !gone.contains(key))
        };
        entries.iter().map(|(_, value)| value).collect::<BTreeSet<_>>().into_iter().all(stays)
    })
}

/// What is done with sets before rules change, and afterwards.
fn set_changes(there: &There, new: &Rendered) -> (Vec<Op>, Vec<Op>) {
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
    (before, after)
}

/// What a change does to sets; `None` where it does more than that.
fn members(change: &Change, rendered: &Rendered, ops: &mut Vec<Op>) -> Option<()> {
    let mut of_set = |name: &Name, add: bool, elements: Vec<Element>| {
        // A set that became rules, or that no rule looks into.
        let ipset = rendered.of_model.get(name).filter(|_| !rendered.in_rules.contains(name))?.clone();
        ops.push(if add { Op::Add(ipset, elements) } else { Op::Delete(ipset, elements) });
        Some(())
    };
    match change {
        Change::AddKeys(name, keys) => of_set(name, true, keys.iter().flat_map(lookups::key_elements).collect()),
        Change::DeleteKeys(name, keys) => of_set(name, false, keys.iter().flat_map(lookups::key_elements).collect()),
        Change::AddPrefixes(name, blocks) => {
            of_set(name, true, blocks.iter().flat_map(lookups::block_elements).collect())
        }
        Change::DeletePrefixes(name, blocks) => {
            of_set(name, false, blocks.iter().flat_map(lookups::block_elements).collect())
        }
        Change::AddEntries(name, entries) | Change::DeleteEntries(name, entries) => {
            let sets = rendered.of_maps.get(name).filter(|_| !rendered.in_rules.contains(name))?;
            let add = matches!(change, Change::AddEntries(..));
            for (key, value) in entries {
                let (ipset, elements) = (sets.get(value)?.clone(), lookups::key_elements(key));
                ops.push(if add { Op::Add(ipset, elements) } else { Op::Delete(ipset, elements) });
            }
            Some(())
        }
        _ => None,
    }
}

fn family_of(set: &Arc<str>, new: &Rendered, there: &There) -> Option<Family> {
    let found = new.sets.get(set).or_else(|| there.get(set)?.as_ref())?;
    found.shape.family
}

fn some<'a>(
    op: impl Fn(Arc<str>, Vec<Element>) -> Op,
    name: &Arc<str>,
    elements: impl Iterator<Item = &'a Element>,
) -> Option<Op> {
    let elements: Vec<Element> = elements.copied().collect();
    (!elements.is_empty()).then(|| op(name.clone(), elements))
}
