//! The daemons: how each is configured, started and asked.

pub(crate) mod bird;
pub(crate) mod frr;
pub(crate) mod gobgp;
pub(crate) mod ours;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::describe::Kind;

/// Where a daemon's programs are.
pub(crate) fn program(kind: Kind, name: &str) -> Result<String> {
    let tools = std::env::var_os("FERROVIA_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        cache.or_else(home).unwrap_or_else(|| "target".into()).join("ferrovia/tools")
    });
    let places: Vec<PathBuf> = match kind {
        Kind::Bird1 => vec![tools.join("bird1/usr/sbin")],
        Kind::Gobgp4 => vec![tools.join("gobgp4")],
        Kind::Frr => vec!["/usr/lib/frr".into(), "/usr/bin".into()],
        _ => vec!["/usr/sbin".into(), "/usr/bin".into()],
    };
    match places.iter().map(|place| place.join(name)).find(|file| file.is_file()) {
        Some(file) => Ok(file.display().to_string()),
        None => bail!("{kind} is not installed ({name} not in {places:?}): run cargo xtask vm setup"),
    }
}

/// What is missing to run a daemon.
pub(crate) fn missing(kind: Kind) -> Option<String> {
    let names: &[&str] = match kind {
        Kind::Bird1 | Kind::Bird2 => &["bird", "birdc"],
        Kind::Frr => &["zebra", "bgpd", "bfdd", "vtysh"],
        Kind::Gobgp3 | Kind::Gobgp4 => &["gobgpd", "gobgp"],
        Kind::Ours => return ours::speaker().err().map(|error| format!("{error:#}")),
    };
    names.iter().find_map(|name| program(kind, name).err()).map(|error| format!("{error:#}"))
}
