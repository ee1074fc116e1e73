//! The room's nftables table.

use super::Room;
use crate::kernel::Error;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::plan::Transaction;
use crate::kernel::ipvs::{Ipvs, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::proxy::book::{Element, Touched};
use crate::proxy::nat::{Frame, element_changes};
use crate::reconcile::{Outcome, Read};

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Bring the table up to date: element by element while the frame stays, as a whole when it changes or the kernel
    /// is read.
    pub(super) fn sync_filter(&mut self, touched: &Touched, read: Read, first: bool, outcome: &mut Outcome) {
        let Some(view) = &self.view else { return };
        let frame = Frame::new(&self.config, view, &self.book, self.direct.clone());
        let done = if read == Read::Remembered && self.frame.as_ref() == Some(&frame) {
            let (added, removed) = self.hold_guards(touched);
            let changes = element_changes(&added, &removed);
            self.commit(Transaction { table: Some(self.table.clone()), changes }, outcome)
        } else {
            let _ = self.hold_guards(touched);
            self.find_held();
            let drifted = read == Read::Kernel && !first && self.frame.as_ref() == Some(&frame) && touched.is_empty();
            self.rewrite_filter(&frame, drifted, outcome)
        };
        match done {
            Ok(()) => self.frame = Some(frame),
            Err(error) => {
                // What the table holds is not known any more: the next pass compares it as a whole.
                self.frame = None;
                outcome.fail_part(format!("table {}", self.table), error);
            }
        }
    }

    /// A VIP whose Service is gone stays guarded while connections to it end: the elements to add and to remove now.
    fn hold_guards(&mut self, touched: &Touched) -> (Vec<Element>, Vec<Element>) {
        let mut added = touched.added.clone();
        let mut removed = touched.removed.clone();
        added.retain(|element| !self.held.remove(element));
        let release: Vec<Element> = self.held.iter().filter(|element| !self.is_busy(element)).copied().collect();
        for element in &release {
            self.held.remove(element);
        }
        let (hold, now): (Vec<Element>, Vec<Element>) = removed.drain(..).partition(|element| self.is_busy(element));
        self.held.extend(hold);
        removed = now;
        removed.extend(release);
        (added, removed)
    }

    /// What an earlier daemon held, or should have: VIPs that carry connections of Services that are gone.
    fn find_held(&mut self) {
        let is_left = |key: &&VirtualServerKey| self.servers.desired(key).is_none();
        let guard = |key: &VirtualServerKey| match *key {
            VirtualServerKey::Address { address, .. } if self.bindings.routes.contains_key(&address) => {
                Some(Element::Guarded(address))
            }
            _ => None,
        };
        let left = self.servers.all_observed().keys().filter(is_left).filter_map(guard);
        let held: Vec<Element> = left.filter(|element| !self.book.asks_for(element)).collect();
        self.held.extend(held);
    }

    fn is_busy(&self, element: &Element) -> bool {
        matches!(element, Element::Guarded(vip) if self.has_virtual_server(*vip))
    }

    fn rewrite_filter(&mut self, frame: &Frame, drifted: bool, outcome: &mut Outcome) -> Result<(), Error> {
        let desired = frame.ruleset(self.book.elements().chain(&self.held));
        let transaction = self.kernel.nft.plan(&self.table, &desired)?;
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
