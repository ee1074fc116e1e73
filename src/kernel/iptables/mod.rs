//! The rule model on iptables and ipset, for nodes whose operators want to see their rules there.
//!
//! `render` says what a ruleset means in chains and sets, `saved` reads what `iptables-save` prints, `script` is the
//! difference as input for `iptables-restore --noflush`, `backend` writes it, `programs` starts the programs: the one
//! place of the daemon that starts any. `monitor` hears what others change, where the kernel tells.
//!
//! Promises: chains of others are never touched. Whoever reads the chains at any moment sees the old rules or the new
//! ones: sets come first, then chains, all of a table at once, then the sets that nobody names any more go.

pub mod backend;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod monitor;
pub mod programs;
pub mod render;
pub mod saved;
pub mod script;

pub use backend::{Iptables, SharedIptables};
pub use programs::{Choice, FLAVOURS, Flavour, Programs, SystemPrograms, restore, save};

/// What the names of all our chains and sets begin with.
pub const PREFIX: &str = "FERROVIA-";

/// A table of iptables that rules of the model end up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Marks, before routing and translation.
    Mangle,
    /// Address translation.
    Nat,
    /// Verdicts.
    Filter,
}

impl Table {
    /// All of them, in the order they come in a restore.
    pub const ALL: [Table; 3] = [Table::Mangle, Table::Nat, Table::Filter];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
        }
    }

    /// The table with this name, where it is one of these.
    pub fn from_name(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// The short form of a table of the model in names of chains and sets: three letters.
pub(crate) fn tag(table: &str) -> String {
    let own = table.strip_prefix("ferrovia-").unwrap_or(table);
    own.chars().filter(char::is_ascii_alphanumeric).take(3).collect::<String>().to_uppercase()
}
