//! The engine the rooms share: when to look, what to repeat, what to report.
//!
//! A room implements [`Subsystem`]: one pass from a snapshot to the kernel. [`driver::run`] calls it when there is a
//! new snapshot, when the resync timer fires, when something else changed the kernel, when a failed pass is due
//! again, and when the room itself asked for a moment (draining). The engine knows no room and no kernel subsystem.

pub mod backoff;
pub mod driver;
pub mod query;
pub mod tracker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use crate::model::{Generation, Notice, Snapshot};

/// What the driver needs from a room.
pub trait Subsystem {
    /// The room's name in logs and metrics: `proxy`, `firewall`, `routing`.
    const NAME: &'static str;

    /// What the room is told when somebody else changed the kernel.
    type News: Send + 'static;

    /// One pass: derive what should be, compare, write the difference. Runs on the room's own thread and may take
    /// as long as the kernel takes. `now` is the time since the daemon started.
    fn sync(&mut self, snapshot: &Snapshot, read: Read, now: Duration) -> Outcome;

    /// How much of the kernel must be read for this; `None` where it is nothing to this room.
    fn heed(&mut self, news: &Self::News) -> Option<Read>;

    /// Answer an operator's question in text.
    fn answer(&mut self, what: &query::View) -> String;
}

/// How much of the kernel a pass must read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Read {
    /// Trust what the last pass left: only what changed in the snapshot matters.
    Remembered,
    /// Links, addresses or rules may have changed: read those again, which is little.
    Links,
    /// Routes as well, of which there may be many.
    Routes,
    /// Read the kernel again and repair whatever differs.
    Kernel,
}

/// What came of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "an outcome says whether the pass must be repeated"]
pub struct Outcome {
    /// The snapshot this pass worked from.
    pub generation: Generation,
    /// Changes written to the kernel.
    pub ops: usize,
    /// Differences found in the kernel that no snapshot explains: somebody else changed it.
    pub drift: usize,
    /// Keys that could not be brought to their desired state, with the reason. Empty when all is well.
    pub failed: BTreeMap<String, String>,
    /// Those failed keys that stand for a whole part of the room: behind them nothing can be programmed.
    pub broken: BTreeSet<String>,
    /// Call again after this long even if nothing happens (draining). `None`: nothing is due.
    pub again_in: Option<Duration>,
    /// What the snapshot asks for is written, but something that ends with it goes on until that next pass: connections
    /// that are denied now. The generation does not count as applied before.
    pub unfinished: bool,
    /// What the owners of objects should know. The driver passes on only what is new.
    pub notices: Vec<Notice>,
}

impl Outcome {
    /// A key is not in its desired state; the rest of the pass goes on.
    pub fn fail(&mut self, key: impl Into<String>, reason: impl Display) {
        self.failed.insert(key.into(), reason.to_string());
    }

    /// A whole part cannot be read or written, not just one key of it.
    pub fn fail_part(&mut self, part: impl Into<String>, reason: impl Display) {
        let part = part.into();
        self.broken.insert(part.clone());
        self.fail(part, reason);
    }
}

/// What a room has in force, for whoever must wait for it (routing announces only what forwards) and for health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The newest snapshot whose pass ended.
    pub generation: Generation,
    /// Keys not in force.
    pub failed: BTreeMap<String, String>,
    /// Those of them that stand for a whole part of the room.
    pub broken: BTreeSet<String>,
    /// Passes so far.
    pub passes: u64,
}
