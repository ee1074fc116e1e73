//! From what is there to what should be, as input for `iptables-restore --noflush` (pure).
//!
//! All of a table takes effect at once. Chains come first, then the jumps to them, then chains go that nobody jumps to
//! any more. Chains of others, and the rules others have in the kernel's own chains, stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::render::{Entry, Line, Rendered, Rules, dispatcher};
use super::saved::{Saved, SavedRule, SavedTable, comment};
use super::{PREFIX, Table, tag};
use crate::kernel::filter::Name;
use crate::net::Family;

/// The hooks of iptables that have chains of the kernel.
pub const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// What brings one family to what these tables of the model mean; `None` where it is so already. Tables of the model
/// that are not named keep their chains and their place.
pub fn script(saved: &Saved, family: Family, known: &BTreeMap<Name, &Rendered>) -> Option<String> {
    let empty = SavedTable::default();
    let mut text = String::new();
    for table in Table::ALL {
        let wanted: Vec<&Rules> = known.values().filter_map(|it| it.rules.get(&(family, table))).collect();
        let found = saved.tables.get(&table).unwrap_or(&empty);
        let lines = of_table(found, &wanted, known);
        if !lines.is_empty() {
            text.push_str(&format!("*{}\n{}\nCOMMIT\n", table.name(), lines.join("\n")));
        }
    }
    (!text.is_empty()).then_some(text)
}

fn of_table(found: &SavedTable, wanted: &[&Rules], known: &BTreeMap<Name, &Rendered>) -> Vec<String> {
    let (mut declared, mut rules, mut unwanted) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut write = |chain: &str, lines: &[Line]| {
        if !found.chains.get(chain).is_some_and(|there| holds(there, lines)) {
            declared.push(format!(":{chain} - [0:0]"));
            rules.extend(lines.iter().map(|line| line.in_chain(chain)));
        }
    };
    for (chain, lines) in wanted.iter().flat_map(|rules| &rules.chains) {
        write(chain, lines);
    }
    let mut jumps = Vec::new();
    for hook in HOOKS {
        let name = dispatcher(hook);
        let mut entries = kept(found.chains.get(name.as_ref()), known);
        entries.extend(wanted.iter().flat_map(|rules| rules.entries.get(hook)).flatten().cloned());
        entries.sort();
        let lines: Vec<Line> = entries.iter().map(entry_line).collect();
        let in_use = !lines.is_empty();
        if in_use {
            write(&name, &lines);
        } else {
            unwanted.extend(found.chains.get_key_value(name.as_ref()));
        }
        jumps.extend(jump_lines(hook, &name, found.chains.get(hook), in_use));
    }
    for table in known.keys() {
        let prefix = format!("{PREFIX}{}-", tag(table));
        let is_wanted = |chain: &str| wanted.iter().any(|rules| rules.chains.contains_key(chain));
        unwanted.extend(found.chains.iter().filter(|(chain, _)| chain.starts_with(&prefix) && !is_wanted(chain)));
    }
    let (emptied, removed) = removals(found, &unwanted);
    [declared, rules, jumps, emptied, removed].concat()
}

/// How unwanted chains go: all are emptied before any goes. One that a rule of somebody else leads to cannot go, and a
/// restore that tries is refused as a whole: it stays, empty.
fn removals(found: &SavedTable, unwanted: &BTreeMap<&String, &Vec<SavedRule>>) -> (Vec<String>, Vec<String>) {
    let (mut emptied, mut removed) = (Vec::new(), Vec::new());
    if unwanted.is_empty() {
        return (emptied, removed);
    }
    let is_foreign = |chain: &str| !chain.starts_with(PREFIX);
    let rules = found.chains.iter().filter(|(chain, _)| is_foreign(chain)).flat_map(|(chain, rules)| {
        // The jumps from hooks to their dispatchers are ours, and go in the same restore.
        let own = HOOKS.contains(&chain.as_str()).then(|| dispatcher(chain));
        rules.iter().filter_map(leads_to).filter(move |target| own.as_deref() != Some(*target))
    });
    let held: BTreeSet<&str> = rules.collect();
    for (chain, rules) in unwanted {
        let stays = held.contains(chain.as_str());
        if !stays || !rules.is_empty() {
            emptied.push(format!("-F {chain}"));
        }
        if !stays {
            removed.push(format!("-X {chain}"));
        }
    }
    (emptied, removed)
}

/// The chain a rule leads to, or its target.
fn leads_to(rule: &SavedRule) -> Option<&str> {
    let at = ["-j ", "-g "].iter().filter_map(|word| rule.spec.rfind(word)).max()?;
    rule.spec.get(at + 3..)?.split(' ').next()
}

/// The entries of tables of the model that are not ours to judge now: another room's, or an earlier run's.
fn kept(there: Option<&Vec<SavedRule>>, known: &BTreeMap<Name, &Rendered>) -> Vec<Entry> {
    let entry = |rule: &SavedRule| {
        let mut words = comment(&rule.spec)?.split(' ');
        let (priority, table, base) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let (_, target) = rule.spec.rsplit_once("-j ")?;
        Some(Entry { priority, table: Name::from(table), base: Name::from(base), target: Name::from(target) })
    };
    let found = there.into_iter().flatten().filter(|rule| rule.digest.is_some()).filter_map(entry);
    found.filter(|entry| !known.contains_key(&entry.table)).collect()
}

fn entry_line(entry: &Entry) -> Line {
    let Entry { priority, table, base, target } = entry;
    Line { text: format!("-j {target}"), why: format!("{priority} {table} {base}") }
}

/// One jump, in front of everything else of the hook; none where nothing is to be jumped to.
fn jump_lines(hook: &str, dispatcher: &str, there: Option<&Vec<SavedRule>>, in_use: bool) -> Vec<String> {
    let jump = Line { text: format!("-j {dispatcher}"), why: "Ferrovia".to_owned() };
    let target = format!("-j {dispatcher}");
    let rules = there.map(Vec::as_slice).unwrap_or_default();
    let ours: Vec<&SavedRule> = rules.iter().filter(|rule| rule.spec.ends_with(&target)).collect();
    let is_first = rules.first().is_some_and(|rule| rule.digest == Some(jump.digest()));
    if (in_use && is_first && ours.len() == 1) || (!in_use && ours.is_empty()) {
        return Vec::new();
    }
    let mut lines: Vec<String> = ours.iter().map(|rule| format!("-D {hook} {}", rule.spec)).collect();
    lines.extend(in_use.then(|| format!("-I {hook} 1 {}", jump.spec())));
    lines
}

/// Chains by name.
pub(super) type Chains = BTreeMap<String, Vec<SavedRule>>;

/// Whether a chain has exactly these rules.
pub(super) fn holds(there: &[SavedRule], lines: &[Line]) -> bool {
    there.iter().map(|rule| rule.digest).eq(lines.iter().map(|line| Some(line.digest())))
}
