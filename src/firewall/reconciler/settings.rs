//! Kernel settings the room needs: the packet filter must see what pods on one bridge say to each other.

use super::Room;
use crate::firewall::nobody::POD_BRIDGES;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::model::{Notice, Severity, Subject};
use crate::reconcile::Outcome;

/// Bridged packets pass the IP hooks (Documentation/networking/ip-sysctl.rst, `bridge-nf-call-*`).
pub const BRIDGE: [&str; 2] = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Brings the settings to their values, and tells where that is not possible.
    pub(super) fn apply_settings(&mut self, outcome: &mut Outcome) {
        self.settings_notices.clear();
        for key in BRIDGE {
            let reason = match self.kernel.sysctl.read(key) {
                Ok(Some(value)) if value == "1" => continue,
                Ok(Some(_)) => {
                    outcome.ops += 1;
                    match self.kernel.sysctl.write(key, "1") {
                        Ok(()) => {
                            tracing::info!(key, value = "1", "kernel setting changed");
                            continue;
                        }
                        Err(error) => format!("it cannot be written ({error}): set it to 1 on the host"),
                    }
                }
                Ok(None) if !self.has_bridge() => continue,
                Ok(None) => "this kernel does not have it: load the module br_netfilter".to_owned(),
                Err(error) => format!("it cannot be read ({error})"),
            };
            let message = format!(
                "policies do not see traffic between pods on the same bridge: sysctl {key} must be 1, and {reason}"
            );
            self.settings_notices.extend(self.warning("BridgeUnfiltered", message));
        }
    }

    /// Tells what keeps rules that are written from having their effect.
    pub(super) fn note_limits(&mut self) {
        let limits = self.kernel.nft.limits();
        self.limits = limits.into_iter().filter_map(|message| self.warning("RulesWithoutEffect", message)).collect();
    }

    /// A warning about this node; `None` before the first snapshot, which names it.
    pub(super) fn warning(&self, reason: &'static str, message: String) -> Option<Notice> {
        let subject = Subject::Node(self.last.as_ref()?.node_name.clone());
        Some(Notice { subject, severity: Severity::Warning, reason, message })
    }

    /// Whether pods of this node are on a bridge.
    pub(super) fn has_bridge(&mut self) -> bool {
        let key = |name: &str| format!("net/ipv4/conf/{name}/rp_filter");
        POD_BRIDGES.iter().any(|name| matches!(self.kernel.sysctl.read(&key(name)), Ok(Some(_))))
    }
}
