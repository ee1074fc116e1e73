//! Taking away everything the room has put into the kernel, and nothing else (`--cleanup-config`).

use super::kernel::or_already_so;
use super::{Room, Voice};
use crate::kernel::filter::Name;
use crate::kernel::fou::{self, Fou};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Op, RouteFilter, Rtnl, protocol, table};
use crate::kernel::sysctl::Sysctl;
use crate::net::Family;
use crate::reconcile::Outcome;
use crate::routing::config::Encapsulation;
use crate::routing::egress;
use crate::routing::overlay::TABLE;
use crate::routing::plan;
use crate::routing::return_path::{self, ReturnPath};

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Remove our routes, rules, tunnels, their ports and the packet filter tables. Pods keep their bridge. Every failure
    /// is in the outcome, and does not keep the rest from going.
    pub fn clean_up(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        self.clean_links(&mut outcome);
        if let Encapsulation::Fou { port } = self.config.encapsulation {
            let wanted = Family::ALL.map(|family| fou::Port { family, number: port });
            let there = self.kernel.fou.ports().unwrap_or_default();
            let ops: Vec<fou::Op> =
                wanted.into_iter().filter(|port| there.contains(port)).map(fou::Op::DeletePort).collect();
            outcome.ops += ops.len();
            for (op, result) in ops.iter().zip(self.kernel.fou.apply(&ops)) {
                if let Err(error) = or_already_so(result) {
                    outcome.fail(op.to_string(), error);
                }
            }
        }
        for table in [egress::TABLE, egress::FORWARD_TABLE].map(Name::from) {
            match self.kernel.nft.remove(&table) {
                Ok(n_changes) => outcome.ops += n_changes,
                Err(error) => {
                    outcome.fail(format!("table {table}"), error);
                }
            }
        }
        outcome
    }

    fn clean_links(&mut self, outcome: &mut Outcome) {
        let mut ops = Vec::new();
        let main = RouteFilter { table: Some(table::MAIN), protocol: Some(protocol::OURS), link: None };
        for filter in [main, RouteFilter { table: Some(TABLE), ..RouteFilter::default() }] {
            match self.kernel.rtnl.routes(filter) {
                Ok(routes) => ops.extend(routes.into_iter().map(Op::DeleteRoute)),
                Err(error) => outcome.fail("routes", error),
            }
        }
        let ours = RouteFilter { protocol: Some(protocol::OURS), ..RouteFilter::default() };
        match (self.kernel.rtnl.rules(), self.kernel.rtnl.routes(ours)) {
            (Ok(rules), Ok(routes)) => ops.extend(return_path::plan(&ReturnPath::default(), &rules, &routes)),
            (Err(error), _) | (_, Err(error)) => outcome.fail("return path", error),
        }
        match self.kernel.rtnl.rules() {
            Ok(rules) => ops.extend(rules.into_iter().filter(plan::is_our_rule).map(Op::DeleteRule)),
            Err(error) => outcome.fail("rules", error),
        }
        match self.kernel.rtnl.links() {
            Ok(links) => {
                let tunnels = links.iter().filter(|link| plan::is_our_tunnel(link));
                ops.extend(tunnels.map(|link| Op::DeleteLink { link: link.index }));
            }
            Err(error) => outcome.fail("links", error),
        }
        outcome.ops += ops.len();
        for (op, result) in ops.iter().zip(self.kernel.rtnl.apply(&ops)) {
            if let Err(error) = or_already_so(result) {
                outcome.fail(op.to_string(), error);
            }
        }
    }
}
