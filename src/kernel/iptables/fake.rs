//! iptables in memory, for tests: takes what `iptables-restore --noflush` takes of our words, and prints it back.

use std::collections::{BTreeMap, BTreeSet};

use super::Table;
use super::programs::{AT_COMMIT, Programs};
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
    missing: BTreeSet<Family>,
    refused: BTreeMap<Family, String>,
    at_commit: bool,
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

    /// The programs of a family are not installed, or are again.
    pub fn lack(&mut self, family: Family, missing: bool) {
        if missing {
            self.missing.insert(family)
        } else {
            self.missing.remove(&family)
        };
    }

    /// A family's kernel refuses every rule with these words in it; none with an empty text.
    pub fn refuse(&mut self, family: Family, words: &str) {
        self.refused.insert(family, words.to_owned());
    }

    /// Whether refusals name no rule, as those of iptables-legacy do.
    pub fn refuse_at_commit(&mut self, at_commit: bool) {
        self.at_commit = at_commit;
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
    fn usable(&mut self, family: Family) -> Result<bool, Error> {
        self.save(family).map(|_| true)
    }

    fn save(&mut self, family: Family) -> Result<String, Error> {
        if self.missing.contains(&family) {
            let (op, message) = (format!("iptables-save {family}"), "not installed".to_owned());
            return Err(Error { op, errno: None, message, kind: Disposition::Fatal });
        }
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
        let words = self.refused.get(&family).filter(|words| !words.is_empty());
        if let Some(line) = words.and_then(|words| script.lines().find(|line| line.contains(words.as_str()))) {
            let error = refused("refused".to_owned());
            let place = if self.at_commit { AT_COMMIT.to_owned() } else { format!(", at: {line}") };
            return Err(Error { op: format!("{}{place}", error.op), ..error });
        }
        self.family(family).apply(script).map_err(refused)?;
        self.restored.push((family, script.to_owned()));
        Ok(())
    }
}
