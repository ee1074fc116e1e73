//! Taking away everything the room has put into the kernel, and nothing else (`--cleanup-config`).

use super::Room;
use super::links::or_already_so;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::Ipvs;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Op, Route, RouteFilter, RouteKind, Rtnl};
use crate::kernel::sysctl::Sysctl;
use crate::model::{NodeName, Snapshot};
use crate::proxy::dsr::TABLE;
use crate::proxy::{DUMMY_LINK, NodeView};
use crate::reconcile::Outcome;

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Remove our virtual servers, routing rules, packet filter table and the dummy link with its VIPs. Every failure is
    /// in the outcome, and does not keep the rest from going. Kernel settings stay as they are: what they were before
    /// is not known, and others may rely on them by now.
    pub fn clean_up(mut self, node: NodeName) -> Outcome {
        let mut outcome = Outcome::default();
        let snapshot = Snapshot::empty(node);
        self.config.graceful_termination = false;
        let dummy = match self.kernel.rtnl.links() {
            Ok(links) => links.into_iter().find(|link| link.name == DUMMY_LINK).map(|link| link.index),
            Err(error) => {
                outcome.fail("links", error);
                None
            }
        };
        if dummy.is_some() {
            self.read_links(&snapshot, &mut outcome);
        }
        self.view = Some(NodeView::new(&snapshot, &self.link_addresses, self.mtu));
        self.read_direct(&mut outcome);
        self.read_servers(true, &mut outcome);
        self.sync_servers(std::time::Duration::ZERO, &mut outcome);
        self.clean_direct(&mut outcome);
        self.clean_filter(&mut outcome);
        if let Some(link) = dummy {
            // Everything on the link goes with it, in one message instead of one for each VIP.
            outcome.ops += 1;
            self.clean_ops(&[Op::DeleteLink { link }], "link", &mut outcome);
        }
        outcome
    }

    fn clean_direct(&mut self, outcome: &mut Outcome) {
        let mut ops: Vec<Op> = self.direct_rules.iter().map(|rule| Op::DeleteRule(*rule)).collect();
        match self.kernel.rtnl.routes(RouteFilter { table: Some(TABLE), ..RouteFilter::default() }) {
            Ok(routes) => {
                let is_ours = |route: &Route| route.kind == RouteKind::Local && route.destination.prefix_len() == 0;
                ops.extend(routes.into_iter().filter(is_ours).map(Op::DeleteRoute));
            }
            Err(error) => {
                outcome.fail(format!("table {TABLE}"), error);
            }
        }
        outcome.ops += ops.len();
        self.clean_ops(&ops, "direct server return", outcome);
    }

    fn clean_filter(&mut self, outcome: &mut Outcome) {
        match self.kernel.nft.remove(&self.table) {
            Ok(n_changes) => outcome.ops += n_changes,
            Err(error) => {
                outcome.fail(format!("table {}", self.table), error);
            }
        }
    }

    fn clean_ops(&mut self, ops: &[Op], what: &str, outcome: &mut Outcome) {
        for (op, result) in ops.iter().zip(self.kernel.rtnl.apply(ops)) {
            if let Err(error) = or_already_so(result) {
                outcome.fail(format!("{what} {op:?}"), error);
            }
        }
    }
}
