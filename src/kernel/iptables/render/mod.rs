//! What a ruleset means in iptables chains and ipsets (pure).
//!
//! A table of family `inet` becomes rules of both families. Sets become ipsets; a verdict map becomes one set for each
//! thing it leads to, so rules grow with the chains a map leads to and not with its keys. What ipset has no type for
//! (links, marks, whom the client asked) becomes one rule for each member.
//!
//! Chains are named by their content: a chain never changes, another one comes, and the jumps to it are written in the
//! same restore.

mod conditions;
mod flow;
pub(crate) mod lookups;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{PREFIX, Table, tag};
use crate::kernel::filter::{Base, BaseKind, Elements, Field, Hook, Key, Match, Name, Rule, Ruleset, Value};
use crate::kernel::ipset::{Element, Shape};
use crate::net::Family;

/// The longest name of a chain, bytes (XT_EXTENSION_MAXNAMELEN without its zero).
pub const LONGEST_CHAIN: usize = 28;

/// One rule of iptables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Conditions and target, as `iptables-restore` reads them.
    pub text: String,
    /// Why it is there.
    pub why: String,
}

impl Line {
    /// The digest by which the rule is known again (FNV-1a, 64 bits).
    pub fn digest(&self) -> u64 {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let bytes = self.text.bytes().chain(std::iter::once(0)).chain(self.why.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
    }

    /// The rule in this chain, with its reason and digest as its comment.
    pub fn in_chain(&self, chain: &str) -> String {
        format!("-A {chain} {}", self.spec())
    }

    /// The rule without a chain.
    pub fn spec(&self) -> String {
        let digest = self.digest();
        let space = if self.why.is_empty() { "" } else { " " };
        let comment = format!("-m comment --comment \"{}{space}#{digest:016x}\"", self.why);
        // The comment goes before the target, whose options end the rule.
        match self.text.rfind("-j ").into_iter().chain(self.text.rfind("-g ")).max() {
            Some(at) => {
                let (conditions, target) = self.text.split_at(at);
                format!("{conditions}{comment} {target}")
            }
            None => format!("{} {comment}", self.text),
        }
    }
}

/// A jump from a hook of iptables to a base chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Order among all entries of a hook; lower is earlier.
    pub priority: i32,
    /// The model's table.
    pub table: Name,
    /// The model's base chain.
    pub base: Name,
    /// The chain of iptables it became.
    pub target: Arc<str>,
}

/// What one family has in one table of iptables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Our chains.
    pub chains: BTreeMap<Arc<str>, Vec<Line>>,
    /// Where packets enter them, by hook.
    pub entries: BTreeMap<&'static str, Vec<Entry>>,
}

/// An ipset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedSet {
    /// What it is made with.
    pub shape: Shape,
    /// Its members.
    pub elements: BTreeSet<Element>,
    /// It leads to chains: a key may be in two for a moment, but never in none.
    pub leads: bool,
}

/// What one table of the model has in ipset and iptables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Sets of both families.
    pub sets: BTreeMap<Arc<str>, RenderedSet>,
    /// The sets that stand for sets of the model, by its names.
    pub of_model: BTreeMap<Name, Arc<str>>,
    /// The sets that stand for the keys of a verdict map with one value, by the map's name.
    pub of_maps: BTreeMap<Name, BTreeMap<Value, Arc<str>>>,
    /// The chains of the model that a chain of iptables is made from.
    pub of_chains: BTreeMap<Arc<str>, BTreeSet<Name>>,
    /// Sets and maps of the model whose members are in rules, wholly or beside a set.
    pub in_rules: BTreeSet<Name>,
    /// Rules by family and table.
    pub rules: BTreeMap<(Family, Table), Rules>,
}

impl Rendered {
    /// Only what these families have, and what has none.
    pub fn keep(&mut self, families: &BTreeSet<Family>) {
        self.sets.retain(|_, set| set.shape.family.is_none_or(|family| families.contains(&family)));
        self.rules.retain(|(family, _), _| families.contains(family));
        let sets = &self.sets;
        self.of_model.retain(|_, set| sets.contains_key(set));
        self.of_maps.values_mut().for_each(|of_map| of_map.retain(|_, set| sets.contains_key(set)));
    }

    /// What an ipset stands for in the model.
    pub fn model_of(&self, ipset: &str) -> Option<&Name> {
        let set = self.of_model.iter().find(|(_, set)| set.as_ref() == ipset).map(|(name, _)| name);
        set.or_else(|| {
            let leads = |of_map: &BTreeMap<Value, Arc<str>>| of_map.values().any(|set| set.as_ref() == ipset);
            self.of_maps.iter().find(|(_, of_map)| leads(of_map)).map(|(name, _)| name)
        })
    }
}

/// A rule that iptables cannot say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {comment:?} of chain {chain}: {reason}")]
pub struct Unspeakable {
    /// The model's chain.
    pub chain: Name,
    /// The rule's comment.
    pub comment: Name,
    /// Why.
    pub reason: &'static str,
}

impl Unspeakable {
    /// Which rule it is.
    pub fn place(&self) -> String {
        format!("rule \"{}\" of chain {}", self.comment, self.chain)
    }
}

/// What a table of the model means.
///
/// # Errors
/// The first rule that iptables has no words for.
pub fn render(table: &Name, ruleset: &Ruleset) -> Result<Rendered, Unspeakable> {
    let mut rendered = Rendered::default();
    links_are_speakable(ruleset)?;
    for family in Family::ALL {
        for (name, chain) in &ruleset.chains {
            let Some(base) = chain.base else { continue };
            let Some((iptables_table, hook)) = place(&base) else {
                let reason = "iptables has no such hook";
                return Err(Unspeakable { chain: name.clone(), comment: Name::from(""), reason });
            };
            // At the priority of the filter table a chain belongs to it: an accept there is one for all that follows.
            let accept_is_final = base.kind == BaseKind::Filter && base.priority >= 0;
            let mut flow = flow::Flow::new(table, ruleset, family, accept_is_final);
            let lines = flow.base(name)?;
            let rules = rendered.rules.entry((family, iptables_table)).or_default();
            let target = chain_name(table, &lines);
            rules.chains.extend(flow.chains);
            rules.chains.insert(Arc::clone(&target), lines);
            let entry =
                Entry { priority: base.priority, table: table.clone(), base: name.clone(), target: target.clone() };
            rules.entries.entry(hook).or_default().push(entry);
            rendered.sets.extend(flow.lookups.sets);
            rendered.of_model.extend(flow.lookups.of_model);
            rendered.in_rules.extend(flow.lookups.in_rules);
            rendered.of_chains.entry(Arc::clone(&target)).or_default().insert(name.clone());
            for (chain, names) in flow.of_chains {
                rendered.of_chains.entry(chain).or_default().extend(names);
            }
            for (map, sets) in flow.lookups.of_maps {
                rendered.of_maps.entry(map).or_default().extend(sets);
            }
        }
    }
    for rules in rendered.rules.values_mut() {
        rules.entries.values_mut().for_each(|entries| entries.sort());
    }
    Ok(rendered)
}

/// Names of links come from the node: the kernel takes nearly every character in one. iptables takes some for quotes,
/// options or (`+`) any ending.
fn links_are_speakable(ruleset: &Ruleset) -> Result<(), Unspeakable> {
    let is_plain = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && name.chars().all(plain)
    };
    let is_odd = |field: &Field| matches!(field, Field::Interface(name) if !is_plain(name));
    let odd_key = |key: &Key| key.iter().any(is_odd);
    let odd = |name: &Name| {
        let of_set = ruleset.sets.get(name).is_some_and(|set| match &set.elements {
            Elements::Keys(keys) => keys.iter().any(odd_key),
            Elements::Prefixes(_) => false,
        });
        of_set || ruleset.maps.get(name).is_some_and(|map| map.elements.keys().any(odd_key))
    };
    for (chain, rule) in
        ruleset.chains.iter().flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)))
    {
        let matched = |it: &Match| matches!(it, Match::InputInterface { name, .. } if !is_plain(name));
        if rule.matches.iter().any(matched) || rule.refers_to().any(odd) {
            let reason = "iptables cannot be told a link of this name: letters, digits and - _ . @ only";
            return Err(Unspeakable { chain: chain.clone(), comment: rule.comment.clone(), reason });
        }
    }
    Ok(())
}

/// The table and hook of iptables for a base chain.
fn place(base: &Base) -> Option<(Table, &'static str)> {
    let hook = match base.hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
        Hook::Output => "OUTPUT",
        Hook::Postrouting => "POSTROUTING",
    };
    let table = match (base.kind, base.hook) {
        (BaseKind::Filter, Hook::Input | Hook::Forward | Hook::Output) => Table::Filter,
        // A mark set in OUTPUT of this table lets the packet be routed again.
        (BaseKind::Filter, _) | (BaseKind::Route, Hook::Output) => Table::Mangle,
        (BaseKind::Nat, Hook::Prerouting | Hook::Input | Hook::Output | Hook::Postrouting) => Table::Nat,
        (BaseKind::Nat, Hook::Forward) | (BaseKind::Route, _) => return None,
    };
    Some((table, hook))
}

/// The chain that a hook of iptables jumps to first, and that leads to all base chains there.
pub fn dispatcher(hook: &str) -> Arc<str> {
    Arc::from(format!("{PREFIX}{hook}"))
}

/// The name of a chain with this content.
fn chain_name(table: &str, lines: &[Line]) -> Arc<str> {
    let mut parts = vec![table];
    for line in lines {
        parts.extend([line.text.as_str(), line.why.as_str()]);
    }
    Arc::from(format!("{PREFIX}{}-{}", tag(table), digest(&parts)))
}

/// The name of an ipset, at most 31 bytes: four letters of what it is called in the model, and a digest.
fn set_name(table: &str, parts: &[&str], shape: &Shape) -> Arc<str> {
    let hint: String = parts.first().unwrap_or(&"").chars().filter(char::is_ascii_alphanumeric).take(4).collect();
    let shape = format!("{shape:?}");
    let all: Vec<&str> = std::iter::once(table).chain(parts.iter().copied()).chain([shape.as_str()]).collect();
    Arc::from(format!("{PREFIX}{}-{hint}-{}", tag(table), digest(&all)))
}

/// Thirteen letters and digits that stand for these texts, each delimited (65 bits of SHA-256).
fn digest(parts: &[&str]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    let mut bits = u128::from_be_bytes(bytes.first_chunk().copied().unwrap_or_default());
    let mut text = String::with_capacity(13);
    for _ in 0..13 {
        let letter = usize::try_from(bits >> 123).unwrap_or(0);
        text.push(char::from(LETTERS.get(letter).copied().unwrap_or(b'A')));
        bits <<= 5;
    }
    text
}

/// What a comment may hold: no quotes, backslashes or control characters, at most 200 bytes.
fn why(rule: &Rule) -> String {
    const LONGEST: usize = 200;
    let end = rule.comment.floor_char_boundary(LONGEST);
    let kept = rule.comment.get(..end).unwrap_or_default().trim();
    kept.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\' | '#') { '\'' } else { c }).collect()
}

#[cfg(test)]
mod tests;
