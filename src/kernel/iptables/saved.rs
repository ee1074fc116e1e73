//! What `iptables-save` prints, as values (pure). Any text may be given to these functions.

use std::collections::BTreeMap;

use super::{PREFIX, Table};

/// One rule as printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// The rule behind its chain.
    pub spec: String,
    /// The digest in its comment, if it carries one.
    pub digest: Option<u64>,
}

/// The chains of one table, in which the kernel's own have no place of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTable {
    /// Rules by chain.
    pub chains: BTreeMap<String, Vec<SavedRule>>,
}

/// The tables of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// By table; those of other names are left out.
    pub tables: BTreeMap<Table, SavedTable>,
}

/// Reads it.
pub fn parse(text: &str) -> Saved {
    let mut saved = Saved::default();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            current = Table::from_name(name.trim());
            continue;
        }
        let Some(table) = current else { continue };
        let chains = &mut saved.tables.entry(table).or_default().chains;
        if let Some(chain) = line.strip_prefix(':') {
            chains.entry(chain.split(' ').next().unwrap_or_default().to_owned()).or_default();
        } else if let Some((chain, spec)) = line.strip_prefix("-A ").and_then(|rule| rule.split_once(' ')) {
            let rule = SavedRule { spec: spec.to_owned(), digest: digest(spec) };
            chains.entry(chain.to_owned()).or_default().push(rule);
        }
    }
    saved
}

/// The digest at the end of a comment.
pub fn digest(spec: &str) -> Option<u64> {
    const DIGITS: usize = 16;
    let (_, comment) = spec.split_once("--comment ")?;
    let (_, tail) = comment.split_once('#')?;
    let (digits, end) = (tail.get(..DIGITS)?, tail.get(DIGITS..)?);
    let ends = end.is_empty() || end.starts_with(['"', ' ']);
    ends.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// What the comment of a rule says before its digest.
pub fn comment(spec: &str) -> Option<&str> {
    let (_, comment) = spec.split_once("--comment ")?;
    let (text, _) = comment.split_once('#')?;
    Some(text.trim_start_matches('"').trim_end())
}

impl Saved {
    /// Whether any chain is ours.
    pub fn has_ours(&self, tag: &str) -> bool {
        let prefix = format!("{PREFIX}{tag}-");
        self.tables.values().flat_map(|table| table.chains.keys()).any(|chain| chain.starts_with(&prefix))
    }
}

impl Saved {
    /// What a restore without flush changes: all of it, or nothing where it would be refused.
    ///
    /// # Errors
    /// The line that would be refused.
    pub fn apply(&mut self, script: &str) -> Result<(), String> {
        let mut tables = self.tables.clone();
        let mut current = None;
        for line in script.lines() {
            if let Some(name) = line.strip_prefix('*') {
                current = Some(Table::from_name(name).ok_or_else(|| line.to_owned())?);
            } else if line != "COMMIT" {
                let table = current.ok_or_else(|| line.to_owned())?;
                tables.entry(table).or_default().change(line).ok_or_else(|| format!("line refused: {line}"))?;
            }
        }
        for table in tables.values() {
            table.dangling().map_or(Ok(()), Err)?;
        }
        self.tables = tables;
        Ok(())
    }

    /// As `iptables-save` prints it, without counters.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for (table, saved) in &self.tables {
            text.push_str(&format!("*{}\n", table.name()));
            saved.chains.keys().for_each(|chain| text.push_str(&format!(":{chain} - [0:0]\n")));
            for (chain, rules) in &saved.chains {
                rules.iter().for_each(|rule| text.push_str(&format!("-A {chain} {}\n", rule.spec)));
            }
            text.push_str("COMMIT\n");
        }
        text
    }
}

impl SavedTable {
    fn change(&mut self, line: &str) -> Option<()> {
        if let Some(chain) = line.strip_prefix(':') {
            // Declaring a chain empties it.
            self.chains.insert(chain.split(' ').next()?.to_owned(), Vec::new());
            return Some(());
        }
        let (verb, rest) = line.split_once(' ')?;
        let (chain, spec) = rest.split_once(' ').unwrap_or((rest, ""));
        if verb == "-I" {
            // The kernel's own chains appear with the first rule of their table.
            self.chains.entry(chain.to_owned()).or_default();
        }
        let rules = self.chains.get_mut(chain)?;
        match verb {
            "-A" => rules.push(SavedRule { spec: spec.to_owned(), digest: digest(spec) }),
            "-I" => {
                let spec = spec.strip_prefix("1 ")?;
                rules.insert(0, SavedRule { spec: spec.to_owned(), digest: digest(spec) });
            }
            "-D" => {
                let at = rules.iter().position(|rule| rule.spec == spec)?;
                rules.remove(at);
            }
            "-F" => rules.clear(),
            "-X" if rules.is_empty() => drop(self.chains.remove(chain)),
            _ => return None,
        }
        Some(())
    }

    /// A rule that leads to a chain of ours that is not there.
    fn dangling(&self) -> Option<String> {
        let leads = |rule: &SavedRule| {
            let target = rule.spec.rsplit(' ').next().unwrap_or_default();
            target.starts_with(PREFIX) && !self.chains.contains_key(target)
        };
        self.chains.values().flatten().find(|rule| leads(rule)).map(|rule| format!("no such chain: {}", rule.spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_chains_rules_and_digests() {
        let saved = parse(
            "# Generated\n*filter\n:INPUT ACCEPT [0:0]\n:FERROVIA-FIR-X - [0:0]\n-A INPUT -p tcp -j ACCEPT\n-A \
             FERROVIA-FIR-X -m comment --comment \"why, # \" -j DROP\n-A FERROVIA-FIR-X -m comment --comment \"a pod \
             #00000000000000ff\" -j DROP\nCOMMIT\n*security\n:X - [0:0]\nCOMMIT\n",
        );
        let chains = &saved.tables[&Table::Filter].chains;
        assert_eq!(chains.len(), 2);
        assert_eq!(chains["INPUT"][0], SavedRule { spec: "-p tcp -j ACCEPT".into(), digest: None });
        assert_eq!(chains["FERROVIA-FIR-X"].iter().map(|rule| rule.digest).collect::<Vec<_>>(), [None, Some(255)]);
        assert_eq!(comment(&chains["FERROVIA-FIR-X"][1].spec), Some("a pod"));
        assert!(saved.has_ours("FIR") && !saved.has_ours("PRO"));
    }
}
