//! iptables in memory, for tests: takes what `iptables-restore --noflush` takes of our words, and prints it back.

use std::collections::BTreeMap;

use super::Table;
use super::programs::Programs;
use super::saved::{Saved, SavedRule, parse};
use crate::kernel::error::{Disposition, Error};
use crate::net::Family;

/// The chains of an imagined network namespace.
#[derive(Clone, Debug, Default)]
pub struct FakePrograms {
    families: BTreeMap<Family, Saved>,
    /// Every script that was restored, oldest first.
    pub restored: Vec<(Family, String)>,
    fail_next: bool,
}

impl FakePrograms {
    /// The kernel's own chains, without rules.
    pub fn new() -> FakePrograms {
        let empty = "*mangle\n:PREROUTING\n:INPUT\n:FORWARD\n:OUTPUT\n:POSTROUTING\n*nat\n:PREROUTING\n:INPUT\n:OUTPUT\n\
                     :POSTROUTING\n*filter\n:INPUT\n:FORWARD\n:OUTPUT\n";
        let families = Family::ALL.map(|family| (family, parse(empty))).into();
        FakePrograms { families, ..FakePrograms::default() }
    }

    /// The next restore is refused and changes nothing.
    pub fn fail_next(&mut self) {
        self.fail_next = true;
    }

    /// What a family has.
    pub fn family(&mut self, family: Family) -> &mut Saved {
        self.families.entry(family).or_default()
    }

    /// Somebody else puts a rule in front of a chain.
    pub fn put_foreign_rule(&mut self, family: Family, table: Table, chain: &str, spec: &str) {
        let rules = self.family(family).tables.entry(table).or_default().chains.entry(chain.to_owned()).or_default();
        rules.insert(0, SavedRule { spec: spec.to_owned(), digest: None });
    }
}

impl Programs for FakePrograms {
    fn save(&mut self, family: Family) -> Result<String, Error> {
        Ok(self.families.get(&family).map(Saved::print).unwrap_or_default())
    }

    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        let refused = |message: String| Error {
            op: "iptables-restore --noflush".to_owned(),
            errno: None,
            message,
            kind: Disposition::Retry,
        };
        if std::mem::take(&mut self.fail_next) {
            return Err(refused("told to fail".to_owned()));
        }
        self.family(family).apply(script).map_err(refused)?;
        self.restored.push((family, script.to_owned()));
        Ok(())
    }
}
