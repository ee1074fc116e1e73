//! The room's table in the kernel: the only file that reads and writes it.

use super::Room;
use super::beside::DesiredBeside;
use super::extra::{commit, compare};
use crate::firewall::refused::is_of_log;
use crate::firewall::table::Step;
use crate::kernel::Error;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::Ruleset;
use crate::kernel::filter::plan::{Observed, Transaction, plan};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::reconcile::{Outcome, Read};

/// How many policies may be left out of one pass before the table counts as refused altogether.
const MOST_WITHHELD: usize = 8;

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Writes what the step changes; compares everything where the kernel is to be read, or where the step cannot be
    /// written as it is.
    pub(super) fn sync_table(&mut self, step: &Step, read: Read, first: bool, outcome: &mut Outcome) {
        let mut foreign = false;
        if self.in_force {
            match self.write_step(step, outcome) {
                Ok(()) if read == Read::Remembered => return,
                // Ours is in force, so whatever differs is somebody else's doing.
                Ok(()) => foreign = true,
                Err(error) => {
                    let reason = error.to_string();
                    tracing::info!(reason, "the change does not fit what is in the kernel, comparing everything");
                }
            }
        }
        if read == Read::Kernel {
            self.table.release_all(&self.book);
        }
        self.in_force = false;
        loop {
            match self.write_all(foreign && !first, outcome) {
                Ok(()) => break self.in_force = true,
                Err(error) if self.table.logs() && is_of_log(&error) => self.do_without_log(&error),
                Err(error) => {
                    // One policy the kernel refuses must not keep all others out: its pods stay isolated by it, and it
                    // allows nothing until it is accepted.
                    let culprit = self.table.named_in(&error.op, &self.book);
                    let Some(refused) = culprit.filter(|_| self.table.withheld().len() < MOST_WITHHELD) else {
                        outcome.fail_part(format!("table {}", self.name), error);
                        return;
                    };
                    self.table.withhold(&refused, &self.book);
                    self.withheld.insert(refused, error.to_string());
                }
            }
        }
        let left_out = self.table.withheld();
        self.withheld.retain(|key, _| left_out.contains(key));
    }

    /// The policies the kernel refused, as failed keys.
    pub(super) fn report_withheld(&self, outcome: &mut Outcome) {
        for (refused, reason) in &self.withheld {
            outcome.fail(refused.to_string(), format!("allows nothing until the kernel takes it: {reason}"));
        }
    }

    /// A kernel that cannot log must deny all the same.
    fn do_without_log(&mut self, error: &Error) {
        let Some(snapshot) = &self.last else { return };
        self.table.drop_log(&self.book, snapshot);
        self.config.log_group = None;
        let message = format!(
            "denied packets are not logged, neither for --log-denied nor for another reader of the log group; policies are in \
             force. Load modules nfnetlink_log and xt_NFLOG and restart: {error}"
        );
        tracing::warn!(reason = %error, "the kernel refuses rules that log, so denied packets are not logged");
        self.log_notice = self.warning("DeniedUnlogged", message);
    }

    fn write_step(&mut self, step: &Step, outcome: &mut Outcome) -> Result<(), Error> {
        if step.is_empty() {
            return Ok(());
        }
        let beside = self.desired_beside();
        self.change_beside(&beside, outcome)?;
        commit(&mut self.kernel.nft, &plan(&self.name, &step.after, Some(&step.before)), outcome)?;
        self.drop_beside(&beside, true, outcome)
    }

    fn write_all(&mut self, foreign: bool, outcome: &mut Outcome) -> Result<(), Error> {
        let beside = self.desired_beside();
        // What fails there keeps nothing else out: without it nothing is tunnelled.
        let written = self.compare_beside(&beside, foreign, outcome);
        let desired = self.table.whole(&self.book);
        compare(&mut self.kernel.nft, &self.name, &desired, foreign, outcome)?;
        written?;
        self.drop_beside(&beside, false, outcome)
    }

    /// What the kernel has; `None` where the table is not there.
    pub(super) fn observe(&mut self) -> Result<Option<Observed>, Error> {
        self.kernel.nft.dump(&self.name)
    }

    /// What the next pass that reads the kernel would write.
    pub(super) fn difference(&mut self) -> Result<[Transaction; 3], Error> {
        let desired: Ruleset = self.table.whole(&self.book);
        let [tunnelled, frames] = self.difference_beside()?;
        Ok([tunnelled, frames, self.kernel.nft.plan(&self.name, &desired)?])
    }

    /// Takes the table away, and those beside it.
    pub(super) fn remove_table(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        outcome.ops += self.kernel.nft.remove(&self.name)?;
        self.drop_beside(&DesiredBeside::default(), false, outcome)
    }
}
