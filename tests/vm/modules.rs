//! Kernel modules that are not there: the daemon says which, does the rest, and needs no restart once they are.
//!
//! Modules are the whole guest's: what is taken away here is put back, whatever happens.

use anyhow::{Context, Result, ensure};
use ferrovia::net::Protocol;
use ferrovia::testing::lab::{DaemonOptions, Namespace, Options, ServiceSpec, wait};

use super::{SOON, with_lab};

/// The program the kernel asks for modules.
const LOADER: &str = "/proc/sys/kernel/modprobe";
/// IPVS with its schedulers.
const IPVS: &str = "xt_ipvs ip_vs_dh ip_vs_fo ip_vs_lblc ip_vs_lblcr ip_vs_lc ip_vs_mh ip_vs_nq ip_vs_ovf ip_vs_rr ip_vs_sed \
                    ip_vs_sh ip_vs_twos ip_vs_wlc ip_vs_wrr ip_vs";

/// Modules taken away: unloaded, and not to be had from the kernel's loader. Given back on drop.
struct Missing {
    ns: Namespace,
    modules: &'static str,
    loader: String,
}

impl Missing {
    /// Takes modules away as soon as nobody uses them: namespaces of earlier tests may still be on their way out.
    fn take(ns: &Namespace, modules: &'static str) -> Result<Missing> {
        let loader = std::fs::read_to_string(LOADER).context("read the kernel's loader")?.trim().to_owned();
        wait::until(&format!("{modules} can be unloaded"), SOON, || {
            for module in modules.split_whitespace() {
                if loaded(module)? {
                    ns.command(&format!("rmmod {module}"))?;
                }
            }
            Ok(())
        })?;
        std::fs::write(LOADER, "/bin/false").context("silence the kernel's loader")?;
        Ok(Missing { ns: ns.clone(), modules, loader })
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        std::fs::write(LOADER, &self.loader).expect("the kernel's loader is restored");
        for module in self.modules.split_whitespace().rev() {
            // `twos` is younger than the oldest kernel this runs on.
            drop(self.ns.command(&format!("modprobe {module}")));
        }
    }
}

/// Whether the kernel has a module now.
fn loaded(module: &str) -> Result<bool> {
    let modules = std::fs::read_to_string("/proc/modules").context("read /proc/modules")?;
    Ok(modules.lines().any(|line| line.split(' ').next() == Some(module)))
}

/// One node is enough.
fn one_node() -> Options {
    Options { nodes: 1, ..Options::default() }
}

#[test]
fn a_missing_scheduler_is_named_and_hurts_only_its_own_service() {
    with_lab(one_node(), |lab| {
        let node = lab.node(1)?;
        let missing = Missing::take(&node.ns, "ip_vs_ovf")?;
        let pods = lab.pods(&["p11", "p12"])?;
        let service = |name: &str, vip: &str| {
            Ok::<_, anyhow::Error>(ServiceSpec::new(name, &[vip.parse()?]).port(Protocol::Tcp, 80))
        };
        lab.manifests().expose(&service("picky", "10.96.0.10")?.scheduler("ovf"), &pods)?;
        lab.manifests().expose(&service("plain", "10.96.0.11")?, &pods)?;
        let options = DaemonOptions { without_modules: true, ..DaemonOptions::default() };
        let daemon = lab.start_daemon(1, &options)?;
        wait::until("the other Service is served", SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains("TCP  10.96.0.11:80 rr\n  -> 10.244.1.11:8080"), "{listing}");
            Ok(())
        })?;
        wait::until_true("the log names the module", SOON, || Ok(daemon.log().contains("ip_vs_ovf")))?;
        drop(missing);
        wait::until("it is served once the module is there", SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains("TCP  10.96.0.10:80 ovf\n  -> 10.244.1.11:8080"), "{listing}");
            Ok(())
        })
    });
}

#[test]
fn a_scheduler_is_loaded_where_the_kernel_has_no_loader() {
    with_lab(one_node(), |lab| {
        let node = lab.node(1)?;
        let _missing = Missing::take(&node.ns, "ip_vs_ovf")?;
        let service = ServiceSpec::new("web", &["10.96.0.10".parse()?]).port(Protocol::Tcp, 80).scheduler("ovf");
        lab.manifests().expose(&service, &lab.pods(&["p11"])?)?;
        let _daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        wait::until("it is served", SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains("TCP  10.96.0.10:80 ovf\n  -> 10.244.1.11:8080"), "{listing}");
            Ok(())
        })
    });
}

#[test]
fn without_ipvs_the_daemon_says_what_to_load_and_serves_once_it_is_there() {
    with_lab(one_node(), |lab| {
        let node = lab.node(1)?;
        let missing = Missing::take(&node.ns, IPVS)?;
        let service = ServiceSpec::new("web", &["10.96.0.10".parse()?]).port(Protocol::Tcp, 80);
        lab.manifests().expose(&service, &lab.pods(&["p11"])?)?;
        let options = DaemonOptions { without_modules: true, ..DaemonOptions::default() };
        let mut daemon = lab.start_daemon(1, &options)?;
        wait::until("the log says what to do", SOON, || {
            let log = daemon.log();
            let told = log.contains("modprobe ip_vs") || log.contains("load kernel module ip_vs");
            ensure!(told, "{log}");
            Ok(())
        })?;
        ensure!(!loaded("ip_vs")?, "ip_vs came back by itself");
        drop(missing);
        if daemon.try_status()?.is_some() {
            // It chose to end: a supervisor starts it again.
            daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        }
        daemon.wait_ready()?;
        wait::until_true("the Service is served", SOON, || Ok(node.ipvsadm()?.contains("TCP  10.96.0.10:80 rr")))
    });
}
