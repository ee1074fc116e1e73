//! What comes in from outside: licences, duplicate versions and sources of every dependency, checked against the
//! lists in `deny.toml` with what cargo itself knows: a second, anywhere. cargo-deny is asked too where it is installed,
//! and in CI installed for it, which takes some four minutes on two cores.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::cargo;
use crate::check::step;
use crate::shell;

/// The platform we ship for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The version whose `deny.toml` we write.
const CARGO_DENY: &str = "0.20.2";

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `deny.toml` allows.
#[derive(Default)]
struct Rules {
    licences: BTreeSet<String>,
    /// Licences allowed for one crate only.
    exceptions: BTreeMap<String, BTreeSet<String>>,
    /// `name@version` that may be there beside another version.
    duplicates: BTreeSet<String>,
}

/// A dependency.
struct Package {
    name: String,
    version: String,
    licence: String,
    /// `None`: in this repository.
    source: Option<String>,
}

/// Fails with every violation printed.
pub(crate) fn check() -> Result<()> {
    step("dependencies: licences, duplicates, sources");
    let text = fs::read_to_string(shell::root().join("deny.toml")).context("cannot read deny.toml")?;
    let rules = Rules::parse(&text);
    let packages = packages()?;
    let wrong = violations(&rules, &packages);
    for line in &wrong {
        println!("{line}");
    }
    if !wrong.is_empty() {
        bail!("{} dependencies break deny.toml", wrong.len());
    }
    println!("supply: {} dependencies ok", packages.len());
    if !has_cargo_deny() {
        if std::env::var_os("CI").is_none() {
            println!("supply: cargo-deny is not installed; its own check was left out");
            return Ok(());
        }
        step("cargo-deny");
        let mut install = cargo(["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY]);
        if let Err(error) = shell::run(&mut install) {
            println!("supply: {error:#}; cargo-deny's own check was left out");
            return Ok(());
        }
    }
    shell::run(&mut cargo(["deny", "--all-features", "check", "licenses", "bans", "sources"]))
}

/// Cargo finds it in its own folder too, which need not be in `PATH`.
fn has_cargo_deny() -> bool {
    shell::output(&mut cargo(["deny", "--version"])).is_ok()
}

/// Everything that can be part of a build for our platform.
fn packages() -> Result<Vec<Package>> {
    let arguments = ["metadata", "--format-version=1", "--locked", "--all-features", "--filter-platform", PLATFORM];
    let metadata: Value = serde_json::from_slice(&shell::output_bytes(&mut cargo(arguments))?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let used: BTreeSet<String> = list(&metadata["resolve"]["nodes"]).iter().map(|node| text(&node["id"])).collect();
    let packages = list(&metadata["packages"]);
    let ours = packages.iter().filter(|package| used.contains(&text(&package["id"]))).map(|package| Package {
        name: text(&package["name"]),
        version: text(&package["version"]),
        licence: text(&package["license"]),
        source: package["source"].as_str().map(str::to_owned),
    });
    Ok(ours.collect())
}

fn violations(rules: &Rules, packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(package);
        let Package { name, version, licence, source } = package;
        if source.as_ref().is_some_and(|source| source != CRATES_IO) {
            wrong.push(format!("{name} {version}: comes from {}", source.as_deref().unwrap_or_default()));
        }
        let allowed = |term: &str| rules.allows(name, term);
        if !satisfied(licence, &allowed) {
            wrong.push(format!("{name} {version}: licence {licence:?} is not allowed"));
        }
    }
    for (name, versions) in versions {
        let counted = versions.iter().filter(|package| {
            !rules.duplicates.contains(name) && !rules.duplicates.contains(&format!("{name}@{}", package.version))
        });
        if counted.count() > 1 {
            let listed: Vec<&str> = versions.iter().map(|package| package.version.as_str()).collect();
            wrong.push(format!("{name}: several versions: {}", listed.join(", ")));
        }
    }
    for skipped in &rules.duplicates {
        let there = |package: &Package| *skipped == format!("{}@{}", package.name, package.version);
        if !packages.iter().any(there) {
            wrong.push(format!("deny.toml: {skipped} is skipped but not there any more"));
        }
    }
    wrong
}

impl Rules {
    /// Reads the few forms used in our `deny.toml`: `allow = […]`, `crate = "…"` lines and `skip` entries.
    fn parse(text: &str) -> Rules {
        let mut rules = Rules::default();
        let mut section = "";
        let mut exception = String::new();
        let mut list = "";
        for line in text.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let mut quoted = line.split('"').skip(1).step_by(2).map(str::to_owned);
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with('[') {
                section = line;
                continue;
            }
            if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with('{')) {
                list = key;
            }
            match (section, list) {
                ("[licenses]", "allow") => rules.licences.extend(quoted),
                ("[[licenses.exceptions]]", "crate") => exception = quoted.next().unwrap_or_default(),
                ("[[licenses.exceptions]]", "allow") => {
                    rules.exceptions.entry(exception.clone()).or_default().extend(quoted);
                }
                ("[bans]", "skip") => rules.duplicates.extend(quoted.next()),
                _ => {}
            }
        }
        rules
    }

    fn allows(&self, name: &str, licence: &str) -> bool {
        // "or later" is covered by the version itself.
        let licence = licence.trim_end_matches('+');
        self.licences.contains(licence) || self.exceptions.get(name).is_some_and(|more| more.contains(licence))
    }
}

/// Whether an SPDX expression can be met with allowed licences alone. `/` is the old form of `OR`.
fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, allowed) && rest.is_empty()
}

fn any_of(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = all_of(words, allowed);
    while let ["OR", after @ ..] = *words {
        *words = after;
        met |= all_of(words, allowed);
    }
    met
}

fn all_of(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = one(words, allowed);
    while let ["AND", after @ ..] = *words {
        *words = after;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    match *words {
        ["(", after @ ..] => {
            *words = after;
            let met = any_of(words, allowed);
            if let [")", after @ ..] = *words {
                *words = after;
            }
            met
        }
        [licence, "WITH", exception, after @ ..] => {
            *words = after;
            allowed(&format!("{licence} WITH {exception}"))
        }
        [licence, after @ ..] => {
            *words = after;
            allowed(licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
[licenses]
allow = [
    "MIT",
    "Apache-2.0 WITH LLVM-exception", # why
]

[[licenses.exceptions]]
crate = "maps" # why
allow = ["MPL-2.0"]

[bans]
skip = [
    { crate = "syn@2.0.1", reason = "half of the world" },
]
"#;

    fn package(name: &str, version: &str, licence: &str) -> Package {
        let source = Some(CRATES_IO.to_owned());
        Package { name: name.to_owned(), version: version.to_owned(), licence: licence.to_owned(), source }
    }

    fn found(packages: &[Package]) -> String {
        let mut rules = Rules::parse(TOML);
        rules.duplicates.retain(|skipped| packages.iter().any(|p| format!("{}@{}", p.name, p.version) == *skipped));
        violations(&rules, packages).join("\n")
    }

    #[test]
    fn expressions_are_met_by_what_is_allowed() {
        let rules = Rules::parse(TOML);
        let met = |expression: &str| satisfied(expression, &|licence| rules.allows("other", licence));
        for expression in
            ["MIT", "MIT/Unlicense", "GPL-3.0 OR MIT", "(GPL-3.0 OR MIT) AND MIT", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(met(expression), "{expression}");
        }
        for expression in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(GPL-3.0 AND MIT) OR ISC", "MIT MIT"] {
            assert!(!met(expression), "{expression}");
        }
    }

    #[test]
    fn an_exception_is_for_one_crate() {
        assert_eq!(found(&[package("maps", "1.0.0", "MPL-2.0+")]), "");
        assert!(found(&[package("other", "1.0.0", "MPL-2.0+")]).contains("other 1.0.0: licence"));
    }

    #[test]
    fn duplicates_need_an_entry() {
        assert_eq!(found(&[package("syn", "2.0.1", "MIT"), package("syn", "3.0.0", "MIT")]), "");
        assert!(
            found(&[package("a", "1.0.0", "MIT"), package("a", "2.0.0", "MIT")])
                .contains("a: several versions: 1.0.0, 2.0.0")
        );
    }

    #[test]
    fn an_entry_that_is_not_needed_any_more_is_found() {
        let wrong = violations(&Rules::parse(TOML), &[package("syn", "3.0.0", "MIT")]);
        assert_eq!(wrong, ["deny.toml: syn@2.0.1 is skipped but not there any more"]);
    }

    #[test]
    fn other_sources_are_refused() {
        let mut from_git = package("a", "1.0.0", "MIT");
        from_git.source = Some("git+https://example.org/a".to_owned());
        assert!(found(&[from_git]).contains("comes from git+"));
    }
}
