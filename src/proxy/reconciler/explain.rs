//! Answers for operators: what this node holds, what it should hold, and why, in the tools' own languages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::Room;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::text::Saved;
use crate::kernel::ipvs::{Ipvs, Table, VirtualServer, VirtualServerKey};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::model::ServiceKey;
use crate::proxy::book::describe;

use crate::proxy::plan::{Removal, plan_virtual_server};
use crate::reconcile::query::View;

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Answer a question.
    pub(super) fn explain(&mut self, what: &View) -> String {
        match what {
            View::Desired => save(self.servers.all_desired()),
            View::Observed => save(self.servers.all_observed()),
            View::Plan => self.explain_plan(),
            View::Service(key) => self.explain_service(key),
            // What the proxy cannot do is in its failed keys and notices.
            View::Findings => String::new(),
            View::Route(..) | View::Peer(_) => "the service proxy knows no routes: ask routing\n".to_owned(),
            View::Pod(_) => "the service proxy knows no policies: ask firewall\n".to_owned(),
        }
    }

    fn explain_plan(&self) -> String {
        let ops = self.servers.pending().flat_map(|key| {
            let desired = self.servers.desired(key).map(|value| &**value);
            let observed = self.servers.observed(key).map(|value| &**value);
            plan_virtual_server(*key, desired, observed, |_| Removal::Now)
        });
        let mut text = String::new();
        for op in ops {
            let _ = writeln!(text, "{op}");
        }
        if text.is_empty() { "nothing to do\n".to_owned() } else { text }
    }

    /// Where one Service is served on this node, from which endpoints, and what stands in the way.
    fn explain_service(&self, key: &ServiceKey) -> String {
        let mut text = format!("service {key}\n");
        let Some(snapshot) = &self.last else {
            return text + "  the cluster has not been read yet\n";
        };
        let Some(service) = snapshot.services.get(key) else {
            return text + "  no such Service in the cluster\n";
        };
        let n_slices = snapshot.slices_of(key).count();
        let n_endpoints: usize = snapshot.slices_of(key).map(|(_, slice)| slice.endpoints.len()).sum();
        let _ = writeln!(text, "  type {:?}, {n_endpoints} endpoints in {n_slices} slices", service.kind);
        let Some(state) = self.book.service(key) else {
            return text
                + "  not served by this proxy: headless, ExternalName, or left to another proxy by its labels\n";
        };
        for (server, _) in &state.virtual_servers {
            let _ = writeln!(text, "  {}: {}", describe(server), self.explain_server(key, server));
        }
        for direct in &state.direct {
            let (address, protocol, port) = direct.tuple;
            let server = VirtualServerKey::Address { address, protocol, port };
            match self.direct.virtual_server(&direct.key()) {
                Some(mark) => {
                    let told = self.explain_server(key, &mark);
                    let _ = writeln!(text, "  {} by direct return, {}: {told}", describe(&server), describe(&mark));
                }
                None => {
                    let _ = writeln!(text, "  {} by direct return: no mark is left for it", describe(&server));
                }
            }
        }
        if state.virtual_servers.is_empty() && state.direct.is_empty() {
            text.push_str("  no virtual server on this node: its traffic policy is Local and no endpoint is here\n");
        }
        for notice in &state.notices {
            let _ = writeln!(text, "  {}: {}", notice.reason, notice.message);
        }
        text
    }

    fn explain_server(&self, key: &ServiceKey, server: &VirtualServerKey) -> String {
        if let Some(owner) = self.book.owner(server).filter(|owner| *owner != key) {
            return format!("belongs to the older service {owner}");
        }
        match (self.servers.desired(server), self.servers.observed(server)) {
            (Some(desired), Some(observed)) if desired == observed => {
                format!("in force, scheduler {}, {} real servers", desired.spec.scheduler.0, desired.real_servers.len())
            }
            (Some(_), Some(_)) => "in force, with real servers that come or go".to_owned(),
            (Some(_), None) => "not in the kernel yet".to_owned(),
            (None, _) => "not wanted".to_owned(),
        }
    }
}

/// In the form `ipvsadm -Sn` prints and `ipvsadm -R` reads.
fn save(servers: &BTreeMap<VirtualServerKey, Arc<VirtualServer>>) -> String {
    let table: Table = servers.iter().map(|(key, value)| (*key, (**value).clone())).collect();
    Saved(&table).to_string()
}
