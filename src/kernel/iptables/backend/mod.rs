//! Writing rulesets to iptables and ipset.
//!
//! A transaction is applied to the ruleset in memory, and what differs between the two renderings is written: members of
//! sets that stay go over netlink alone; where rules change, one `iptables-restore` for each family. Before rules
//! change, a set of addresses only shrinks, and grows afterwards, so that nothing passes that neither the old nor the new
//! rules let through; a set that leads to chains does it the other way round, so that no pod is led nowhere.
//!
//! Whatever fails makes the backend forget what it knew, and the next [`plan`](Backend::plan) compares with the kernel.
//! What fails for one family keeps the other from nothing.

mod blame;
mod observe;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::programs::{Programs, SystemPrograms};
use super::render::{Rendered, RenderedSet, render};
use super::saved::{Saved, parse};
use super::script::script;
use super::{PREFIX, tag};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::filter::plan::{Observed, Transaction, plan};
use crate::kernel::filter::{Backend, Inside, Name, Ruleset};
use crate::kernel::ipset::{Ipset, IpsetClient, Kind};
use crate::net::Family;

/// Rules of the model on iptables and ipset.
#[derive(Debug)]
pub struct Iptables<I, P> {
    ipset: I,
    programs: P,
    known: BTreeMap<Name, Known>,
    saved: BTreeMap<Family, Saved>,
    /// The families rules are written for.
    families: BTreeSet<Family>,
    /// Why there are none for IPv6, where there should be.
    without: Option<Error>,
    /// Why there are no sets, where there are none.
    without_sets: Option<Error>,
    /// Sets nobody wants that rules held on to when they were to go.
    lingering: BTreeSet<Arc<str>>,
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
    fn inside(&self) -> Inside {
        Inside::Nowhere
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

    fn limits(&mut self) -> Vec<String> {
        self.with(Backend::limits)
    }

    fn place(&self, table: &Name) -> String {
        place(table)
    }
}

impl<I: Ipset, P: Programs> Iptables<I, P> {
    /// A backend that knows nothing yet.
    pub fn new(ipset: I, programs: P) -> Iptables<I, P> {
        Iptables {
            ipset,
            programs,
            known: BTreeMap::new(),
            saved: BTreeMap::new(),
            families: BTreeSet::new(),
            without: None,
            without_sets: None,
            lingering: BTreeSet::new(),
        }
    }

    /// The doors, to look at what was written.
    pub fn doors(&mut self) -> (&mut I, &mut P) {
        (&mut self.ipset, &mut self.programs)
    }

    fn read(&mut self) -> Result<(), Error> {
        self.find_families()?;
        for family in &self.families {
            let text = self.programs.save(*family)?;
            self.saved.insert(*family, parse(&text));
        }
        Ok(())
    }

    /// Which families can be written. IPv4 is a must; a node that lacks the tools for IPv6 keeps its IPv4 rules. One that
    /// could be written once is not given up: then a failure is one.
    fn find_families(&mut self) -> Result<(), Error> {
        self.find_sets();
        for family in Family::ALL.into_iter().filter(|family| !self.families.contains(family)).collect::<Vec<_>>() {
            let usable = match self.programs.usable(family) {
                Ok(true) => self.has_sets_of(family).map(|()| true),
                other => other,
            };
            let without = match usable {
                Ok(true) => {
                    self.families.insert(family);
                    // What was rendered without it is not all there is to write.
                    self.known.clear();
                    None
                }
                Ok(false) => None,
                Err(error) if family == Family::V4 => return Err(error),
                Err(error) => Some(error),
            };
            if family == Family::V6 {
                if let Some(error) = without.as_ref().filter(|_| self.without.is_none()) {
                    tracing::warn!(reason = %error, "no IPv6 rules are written: only IPv4 is filtered and translated");
                }
                self.without = without;
            }
        }
        Ok(())
    }

    /// Whether the kernel has sets: rules that look into none do without.
    fn find_sets(&mut self) {
        if self.without_sets.is_none() && !self.families.is_empty() {
            return;
        }
        let message = "the kernel has no sets of addresses: load module ip_set_hash_ip".to_owned();
        let missing = Error { op: "ipset".to_owned(), errno: None, message, kind: Disposition::Fatal };
        self.without_sets = match self.ipset.supports(Kind::Address, Family::V4) {
            Ok(true) => None,
            Ok(false) => Some(missing),
            Err(error) => Some(error),
        };
    }

    fn has_sets_of(&mut self, family: Family) -> Result<(), Error> {
        if self.without_sets.is_some() || self.ipset.supports(Kind::Address, family)? {
            return Ok(());
        }
        let message = "the kernel has no sets of this family".to_owned();
        Err(Error { op: format!("ipset of {family}"), errno: None, message, kind: Disposition::Fatal })
    }

    /// What a table of the model means in the families that are written.
    fn said(&self, table: &Name, ruleset: &Ruleset) -> Result<Rendered, Error> {
        let mut rendered = render(table, ruleset).map_err(|unspeakable| Error {
            op: format!("write {table} to iptables, at: {}", unspeakable.place()),
            errno: None,
            message: unspeakable.reason.to_owned(),
            kind: Disposition::Fatal,
        })?;
        rendered.keep(&self.families);
        match &self.without_sets {
            Some(error) if !rendered.sets.is_empty() => Err(error.clone()),
            _ => Ok(rendered),
        }
    }

    /// What is to be restored so that a table means this, by family.
    fn scripts(&self, table: &Name, rendered: &Rendered) -> Vec<(Family, String)> {
        let mut known: BTreeMap<Name, &Rendered> =
            self.known.iter().map(|(name, known)| (name.clone(), &known.rendered)).collect();
        known.insert(table.clone(), rendered);
        let of = |(family, saved): (&Family, &Saved)| Some((*family, script(saved, *family, &known)?));
        self.saved.iter().filter_map(of).collect()
    }

    /// The sets of a table in the kernel, without those that only wait to go.
    fn read_sets(&mut self, table: &Name) -> Result<BTreeMap<Arc<str>, Option<RenderedSet>>, Error> {
        if self.without_sets.is_some() {
            return Ok(BTreeMap::new());
        }
        self.sweep();
        let prefix = format!("{PREFIX}{}-", tag(table));
        let mut sets = BTreeMap::new();
        for name in self.ipset.names()?.into_iter().filter(|name| name.starts_with(&prefix)) {
            if self.lingering.contains(&name) {
                continue;
            }
            if let Some(set) = self.read_set(&name)? {
                sets.insert(name, set);
            }
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
}

impl<I: Ipset, P: Programs> Backend for Iptables<I, P> {
    fn inside(&self) -> Inside {
        Inside::Nowhere
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.read()?;
        let sets = self.read_sets(table)?;
        if let Some(known) = self.known.get(table)
            && self.holds(table, &known.rendered, &sets)
        {
            return Ok(Some(Observed::from(&known.ruleset)));
        }
        if let Some(known) = self.known.remove(table) {
            return Ok(Some(self.remains(table, &known, &sets)));
        }
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
        self.read()?;
        let rendered = self.said(table, desired)?;
        let sets = self.read_sets(table)?;
        if self.holds(table, &rendered, &sets) {
            self.known.insert(table.clone(), Known { ruleset: desired.clone(), rendered });
            return Ok(Transaction { table: Some(table.clone()), changes: Vec::new() });
        }
        if let Some(known) = self.known.get(table)
            && self.holds(table, &known.rendered, &sets)
        {
            return Ok(plan(table, desired, Some(&Observed::from(&known.ruleset))));
        }
        // Everything is compared with the kernel, and only what differs is written.
        self.known.remove(table);
        Ok(plan(table, desired, None))
    }

    fn place(&self, table: &Name) -> String {
        place(table)
    }

    fn limits(&mut self) -> Vec<String> {
        let without = self.without.iter();
        without.map(|error| format!("no IPv6 rules are written, IPv4 rules are: {error}")).collect()
    }
}

fn place(table: &Name) -> String {
    format!("{table} in iptables (chains and ipsets {PREFIX}{}-*)", tag(table))
}

#[cfg(test)]
mod tests;
