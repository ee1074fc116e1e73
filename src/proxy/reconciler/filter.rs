//! The room's nftables table.

use super::Room;
use crate::kernel::Error;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::plan::{Transaction, plan};
use crate::kernel::ipvs::Ipvs;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::proxy::book::Touched;
use crate::proxy::nat::{Frame, element_changes};
use crate::reconcile::{Outcome, Read};

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Bring the table up to date: element by element while the frame stays, as a whole when it changes or the kernel
    /// is read.
    pub(super) fn sync_filter(&mut self, touched: &Touched, read: Read, first: bool, outcome: &mut Outcome) {
        let Some(view) = &self.view else { return };
        let frame = Frame::new(&self.config, view, &self.book, self.direct.clone());
        let done = if read == Read::Remembered && self.frame.as_ref() == Some(&frame) {
            let changes = element_changes(&touched.added, &touched.removed);
            self.commit(Transaction { table: Some(self.table.clone()), changes }, outcome)
        } else {
            let drifted = read == Read::Kernel && !first && self.frame.as_ref() == Some(&frame) && touched.is_empty();
            self.rewrite_filter(&frame, drifted, outcome)
        };
        match done {
            Ok(()) => self.frame = Some(frame),
            Err(error) => {
                // What the table holds is not known any more: the next pass compares it as a whole.
                self.frame = None;
                outcome.failed.insert(format!("table {}", self.table), error.to_string());
            }
        }
    }

    fn rewrite_filter(&mut self, frame: &Frame, drifted: bool, outcome: &mut Outcome) -> Result<(), Error> {
        let observed = self.kernel.nft.dump(&self.table)?;
        let desired = frame.ruleset(self.book.elements());
        let transaction = plan(&self.table, &desired, observed.as_ref());
        if drifted {
            outcome.drift += transaction.changes.len();
        }
        self.commit(transaction, outcome)
    }

    fn commit(&mut self, transaction: Transaction, outcome: &mut Outcome) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        outcome.ops += transaction.changes.len();
        self.kernel.nft.commit(&transaction)
    }
}
