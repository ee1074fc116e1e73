//! Kernel settings the room needs, written only where they differ and read back.
//!
//! Nothing is set for all interfaces that another network plugin may depend on: answering ARP for VIPs is switched off
//! on the uplinks only.

use super::Room;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::ipvs::Ipvs;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::proxy::{BRIDGE_LINK, DUMMY_LINK};
use crate::reconcile::Outcome;

/// Settings of IPVS (Documentation/networking/ipvs-sysctl.rst).
const IPVS: [(&str, &str); 3] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];

impl<I: Ipvs, N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<I, N, R, C, S> {
    /// Bring the settings to their values.
    pub(super) fn apply_settings(&mut self, outcome: &mut Outcome) {
        self.settings_notices.clear();
        for (key, value) in IPVS {
            self.set(key, value, outcome);
        }
        self.set_connection_reuse(outcome);
        for uplink in self.uplinks.clone() {
            // Answer ARP only for addresses of the interface that is asked, and ask with them (I14).
            self.set(&format!("net/ipv4/conf/{uplink}/arp_ignore"), "1", outcome);
            self.set(&format!("net/ipv4/conf/{uplink}/arp_announce"), "2", outcome);
        }
        let mut filtered: Vec<String> = vec!["all".to_owned(), BRIDGE_LINK.to_owned(), DUMMY_LINK.to_owned()];
        filtered.extend(self.uplinks.iter().cloned());
        for link in filtered {
            // Strict reverse path filtering drops replies that come another way; loose keeps its purpose.
            let key = format!("net/ipv4/conf/{link}/rp_filter");
            if self.get(&key).as_deref() == Some("1") {
                self.set(&key, "2", outcome);
            }
        }
        if self.sloppy || self.sloppy_was_set {
            let done = self.set("net/ipv4/vs/sloppy_tcp", if self.sloppy { "1" } else { "0" }, outcome);
            self.sloppy_was_set = self.sloppy || !done;
        }
        if self.get("net/ipv4/ip_forward").as_deref() == Some("0") {
            let told = self.node_notice(
                "ForwardingOff",
                "net.ipv4.ip_forward is 0: pods on other nodes cannot be reached through Services; set it to 1"
                    .to_owned(),
            );
            self.settings_notices.extend(told);
        }
        if self.get("net/bridge/bridge-nf-call-iptables").as_deref() == Some("0") && self.has_bridge() {
            let told = self.node_notice(
                "BridgeFilterOff",
                format!(
                    "net.bridge.bridge-nf-call-iptables is 0: a pod on {BRIDGE_LINK} that asks a Service gets the reply \
                     of a pod on the same bridge from the wrong address; set it to 1"
                ),
            );
            self.settings_notices.extend(told);
        }
    }

    /// A client that uses its port again must not wait a second (kernels before 5.9 do with 1), nor meet a server that
    /// is gone (all kernels do with 0): 0 before 5.9, 1 from then on.
    fn set_connection_reuse(&mut self, outcome: &mut Outcome) {
        let Some(release) = self.get("kernel/osrelease") else { return };
        let value = if kernel_version(&release) < (5, 9) { "0" } else { "1" };
        self.set("net/ipv4/vs/conn_reuse_mode", value, outcome);
    }

    fn has_bridge(&mut self) -> bool {
        self.get(&format!("net/ipv4/conf/{BRIDGE_LINK}/rp_filter")).is_some()
    }

    fn get(&mut self, key: &str) -> Option<String> {
        self.kernel.sysctl.read(key).ok().flatten()
    }

    /// Write a setting where it differs, and make sure it took. A setting this kernel does not have is left out.
    /// False when it is not as it should be.
    fn set(&mut self, key: &str, value: &str, outcome: &mut Outcome) -> bool {
        let before = match self.kernel.sysctl.read(key) {
            Ok(Some(before)) => before,
            Ok(None) => {
                tracing::debug!(key, "setting does not exist on this kernel");
                return true;
            }
            Err(error) => {
                outcome.failed.insert(format!("sysctl {key}"), format!("cannot be read: {error}"));
                return false;
            }
        };
        if before == value {
            return true;
        }
        outcome.ops += 1;
        let written = self.kernel.sysctl.write(key, value);
        let after = self.get(key);
        if after.as_deref() == Some(value) {
            tracing::info!(key, before, value, "kernel setting changed");
            return true;
        }
        let why = match written {
            Err(error) => error.to_string(),
            Ok(()) => format!("it reads {} afterwards", after.unwrap_or_default()),
        };
        let message = format!(
            "sysctl {key} must be {value} and is {before}: {why}; make /proc/sys writable or set it on the host"
        );
        let told = self.node_notice("SysctlNotWritable", message.clone());
        self.settings_notices.extend(told);
        if key.starts_with("net/ipv4/vs/") {
            outcome.failed.insert(format!("sysctl {key}"), message);
        }
        false
    }
}

/// Major and minor of a release such as `6.12.95+deb12-amd64`; an unreadable one counts as new.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => (u32::MAX, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn reads_the_versions_distributions_use() {
        assert_eq!(kernel_version("6.12.95+deb12-amd64"), (6, 12));
        assert_eq!(kernel_version("5.4.0-150-generic"), (5, 4));
        assert!(kernel_version("custom") > (5, 9));
    }
}
