//! One pass of the room: think, write the difference, cut what is no longer allowed, report.
//!
//! A pass that trusts its memory costs what changed in the snapshot and writes one transaction with just that; one that
//! reads the kernel repairs whatever differs. Within a transaction there is no order that packets could see: they meet
//! the table before it or the table after it. What failed leaves the kernel as it was, and the next pass reads it.

mod beside;
mod cleanup;
mod explain;
mod extra;
mod flows;
mod settings;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

pub use self::settings::BRIDGE;
use super::book::Book;
use super::refused::Refused;
use super::table::Table;
use super::{Config, legacy, unjudged};
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::{Inside, Name};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::model::{Changes, Notice, Snapshot};
use crate::reconcile::query::View;
use crate::reconcile::{Outcome, Read, Subsystem};

/// The doors of the room.
#[derive(Debug)]
pub struct Kernel<N, R, C, S> {
    /// nftables.
    pub nft: N,
    /// Routes: which addresses are the node's own.
    pub rtnl: R,
    /// Connection tracking.
    pub conntrack: C,
    /// Kernel settings.
    pub sysctl: S,
}

/// What the room tells whoever counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Chains of the table.
    pub chains: usize,
    /// Sets of the table.
    pub sets: usize,
    /// Policies that isolate pods of this node.
    pub policies: usize,
    /// Pods of this node that a policy isolates.
    pub isolated_pods: usize,
    /// Connections cut since start, because policies no longer allow them.
    pub cut_flows: u64,
}

/// The room. Owns its picture of the kernel; nobody else writes there.
#[derive(Debug)]
pub struct Room<N, R, C, S> {
    config: Config,
    kernel: Kernel<N, R, C, S>,
    figures: watch::Sender<Figures>,
    name: Name,
    book: Book,
    table: Table,
    beside: beside::Beside,
    last: Option<Snapshot>,
    /// The kernel's table has been as ours since it was last read or written.
    in_force: bool,
    /// Policies the kernel refused, with its words.
    withheld: BTreeMap<Refused, String>,
    cut: flows::Cut,
    notices: Vec<Notice>,
    /// Where tunnels hide packets from policies.
    unjudged: Vec<Notice>,
    settings_notices: Vec<Notice>,
    /// What keeps rules that are written from having their effect.
    limits: Vec<Notice>,
    /// Why denied packets are not logged, where the kernel refused that.
    log_notice: Option<Notice>,
    /// Where frames with a tag lead around policies.
    frames_notice: Option<Notice>,
    counts: Figures,
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// A room that has read nothing yet: its first pass reads the kernel.
    pub fn new(mut config: Config, kernel: Kernel<N, R, C, S>, figures: watch::Sender<Figures>) -> Self {
        config.inside = config.inside.min(kernel.nft.inside());
        let table = Table::new(&config);
        Room {
            config,
            kernel,
            figures,
            name: Name::from(super::TABLE),
            book: Book::default(),
            table,
            beside: beside::Beside::default(),
            last: None,
            in_force: false,
            withheld: BTreeMap::new(),
            cut: flows::Cut::default(),
            notices: Vec::new(),
            unjudged: Vec::new(),
            settings_notices: Vec::new(),
            limits: Vec::new(),
            log_notice: None,
            frames_notice: None,
            counts: Figures::default(),
        }
    }

    /// The kernel doors, to look at what was written.
    pub fn kernel_mut(&mut self) -> &mut Kernel<N, R, C, S> {
        &mut self.kernel
    }

    /// Brings book and table up to date with a snapshot, and says what that changes.
    fn think(&mut self, snapshot: &Snapshot) -> super::table::Step {
        let changes = match &self.last {
            Some(last) => snapshot.changes_since(last),
            None => Changes {
                policies: snapshot.policies.keys().cloned().collect(),
                namespaces: snapshot.namespaces.keys().cloned().collect(),
                pods: snapshot.pods.keys().cloned().collect(),
                cluster_policies: snapshot.cluster_policies.keys().cloned().collect(),
                services: snapshot.services.keys().cloned().collect(),
                ..Changes::default()
            },
        };
        self.book.apply(&changes, snapshot, &self.config);
        if self.last.is_none() || !changes.namespaces.is_empty() {
            self.notices = legacy::notices(snapshot, &self.config);
        }
        self.last = Some(snapshot.clone());
        let touched = self.book.take_touched();
        if self.in_force {
            return self.table.update(&self.book, &touched, snapshot);
        }
        // Everything is compared with the kernel.
        let stricter = self.table.catch_up(&self.book, &touched, snapshot);
        super::table::Step { stricter, ..super::table::Step::default() }
    }

    fn publish(&mut self) {
        let pods = self.book.pods().values().filter(|pod| !pod.ingress.is_empty() || !pod.egress.is_empty());
        let figures = Figures {
            chains: self.table.n_chains(),
            sets: self.table.n_sets(),
            policies: self.table.n_policies(),
            isolated_pods: pods.count(),
            ..self.counts.clone()
        };
        self.figures.send_if_modified(|old| {
            let differs = *old != figures;
            *old = figures;
            differs
        });
    }
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Subsystem for Room<N, R, C, S> {
    const NAME: &'static str = "firewall";
    type News = ();

    fn sync(&mut self, snapshot: &Snapshot, read: Read, now: Duration) -> Outcome {
        let first = self.last.is_none();
        let mut outcome = Outcome { generation: snapshot.generation, ..Outcome::default() };
        let step = self.think(snapshot);
        if read != Read::Remembered || first {
            self.apply_settings(&mut outcome);
        }
        let (was_in_force, ops) = (self.in_force, outcome.ops);
        self.sync_table(&step, read, first, &mut outcome);
        let changed = !was_in_force || outcome.ops > ops;
        if read == Read::Kernel || first {
            self.note_limits();
        }
        if changed || read == Read::Kernel {
            self.note_frames();
        }
        self.report_withheld(&mut outcome);
        if self.config.inside == Inside::Nowhere {
            self.unjudged = unjudged::notices(&self.book, &self.table);
        }
        // Somebody else has had the table open for a moment, and what began then is allowed no more than at the start.
        let all = first || outcome.drift > 0;
        self.cut.note(step.stricter, all, changed);
        self.let_go(&mut outcome);
        self.cut_flows(now, &mut outcome);
        outcome.notices.extend(self.notices.iter().chain(&self.unjudged).cloned());
        let of_kernel = self.settings_notices.iter().chain(&self.limits).chain(&self.log_notice);
        outcome.notices.extend(of_kernel.chain(&self.frames_notice).cloned());
        self.publish();
        outcome
    }

    /// Its table is what it hears of, and that is looked at with every reading.
    fn heed(&mut self, (): &()) -> Option<Read> {
        Some(Read::Links)
    }

    fn answer(&mut self, what: &View) -> String {
        self.explain(what)
    }
}
