//! The firewall's table as text, for `ferrovia render` and golden files (pure).

use std::fmt;

use super::book::Book;
use super::compile::ruleset;
use super::{Config, TABLE, legacy};
use crate::kernel::nft::text;
use crate::model::{Notice, Snapshot};

/// What the room would hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rendered {
    /// The table, as `nft list table inet ferrovia-firewall` would print it.
    pub nft: String,
    /// What owners of objects should know.
    pub notices: Vec<Notice>,
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for notice in &self.notices {
            writeln!(f, "# {}: {}: {}", notice.reason, notice.subject, notice.message)?;
        }
        write!(f, "# nft\n{}", self.nft)
    }
}

/// What the node of a snapshot would hold.
pub fn render(snapshot: &Snapshot, config: &Config) -> Rendered {
    let nft = text::render(TABLE, &ruleset(&Book::build(snapshot, config), snapshot, config));
    Rendered { nft, notices: legacy::notices(snapshot, config) }
}
