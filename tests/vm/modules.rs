//! Kernel modules that are not there: the daemon says which, does the rest, and needs no restart once they are.
//!
//! Modules are the whole guest's: what is taken away here is put back, whatever happens.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ferrovia::net::Protocol;
use ferrovia::testing::lab::{DaemonOptions, Namespace, Options, ServiceSpec, wait};

use serde_json::json;

use super::firewall::{policy, write_pods};
use super::{SOON, with_lab};

/// The program the kernel asks for modules.
const LOADER: &str = "/proc/sys/kernel/modprobe";
/// Modules taken away: unloaded, and not to be had from the kernel's loader. Given back on drop.
struct Missing {
    ns: Namespace,
    modules: Vec<String>,
    loader: String,
}

impl Missing {
    /// Takes a module away, and those built on it, as soon as nobody uses them: namespaces of earlier tests may still
    /// be on their way out.
    fn take(ns: &Namespace, module: &str) -> Result<Missing> {
        let loader = std::fs::read_to_string(LOADER).context("read the kernel's loader")?.trim().to_owned();
        let mut missing = Missing { ns: ns.clone(), modules: Vec::new(), loader };
        wait::until(&format!("{module} can be unloaded"), SOON, || {
            while let Some(users) = users(module)? {
                let first = users.first().map_or(module, String::as_str).to_owned();
                ns.command(&format!("rmmod {first}"))?;
                missing.modules.push(first);
            }
            Ok(())
        })?;
        std::fs::write(LOADER, "/bin/false").context("silence the kernel's loader")?;
        Ok(missing)
    }
}

impl Missing {
    /// Lets the kernel's loader load all others, but for those with this word in their names.
    fn alone(self, directory: &Path, word: &str) -> Result<Missing> {
        let script = directory.join("loader");
        let text = format!("#!/bin/sh\ncase \"$*\" in *{word}*) exit 1;; esac\nexec {} \"$@\"\n", self.loader);
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        std::fs::write(LOADER, script.as_os_str().as_encoded_bytes()).context("change the kernel's loader")?;
        Ok(self)
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        std::fs::write(LOADER, &self.loader).expect("the kernel's loader is restored");
        for module in self.modules.iter().rev() {
            self.ns.command(&format!("modprobe {module}")).expect("a module is loaded again");
        }
    }
}

/// The modules built on a loaded one; `None` where it is not loaded. `/proc/modules`: name, size, uses, users, state.
fn users(module: &str) -> Result<Option<Vec<String>>> {
    let modules = std::fs::read_to_string("/proc/modules").context("read /proc/modules")?;
    let mut lines = modules.lines().map(|line| line.split(' '));
    let line = lines.find_map(|mut words| (words.next() == Some(module)).then_some(words));
    let users = line.and_then(|mut words| words.nth(2));
    Ok(users.map(|users| users.split(',').filter(|user| !user.is_empty() && *user != "-").map(str::to_owned).collect()))
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
        let missing = Missing::take(&node.ns, "ip_vs")?;
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
        ensure!(users("ip_vs")?.is_none(), "ip_vs came back by itself");
        drop(missing);
        if daemon.try_status()?.is_some() {
            // It chose to end: a supervisor starts it again.
            daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        }
        daemon.wait_ready()?;
        wait::until_true("the Service is served", SOON, || Ok(node.ipvsadm()?.contains("TCP  10.96.0.10:80 rr")))
    });
}

/// iptables-legacy hands the kernel all rules at once, and is told of no rule why they are refused.
#[test]
fn a_rule_whose_module_iptables_legacy_lacks_takes_its_policy_out_and_no_other() {
    with_lab(one_node(), |lab| {
        let node = lab.node(1)?;
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            node.ns.command(&format!("{program} -N KUBE-KUBELET-CANARY"))?;
        }
        write_pods(lab, &[])?;
        let only_port = |name: &str, app: &str, port: serde_json::Value| {
            policy(name, json!({"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"ports": [port]}]}))
        };
        let policies = [
            only_port("picky", "p11", json!({"protocol": "SCTP", "port": 80})),
            only_port("plain", "p12", json!({"protocol": "TCP", "port": 80})),
        ];
        lab.manifests().write("policies", &policies)?;
        let missing = Missing::take(&node.ns, "xt_sctp")?.alone(lab.directory(), "t_sctp")?;
        let flags = ["--run-firewall=true", "--iptables-sync-period=2s", "--firewall-backend=iptables"];
        let daemon = lab.start_daemon(1, &DaemonOptions::with(&flags))?;
        let rules = || node.ns.command("iptables-legacy-save -t filter");
        wait::until("the other policy is in force", SOON, || {
            let rules = rules()?;
            ensure!(rules.contains("\"default/plain ingress[0]"), "{rules}");
            Ok(())
        })?;
        let (rules_now, findings) = (rules()?, daemon.admin("/debug/firewall/findings")?.1);
        ensure!(!rules_now.contains("default/picky ingress[0]") && !rules_now.contains("TRIAL"), "{rules_now}");
        ensure!(rules_now.matches("no policy allows it").count() >= 2, "its pod stays isolated: {rules_now}");
        ensure!(findings.contains("PolicyRefused: networkpolicy default/picky"), "{findings}");
        drop(missing);
        wait::until("it is in force once the module is there", SOON, || {
            let rules = rules()?;
            ensure!(rules.contains("\"default/picky ingress[0]"), "{rules}");
            Ok(())
        })
    });
}
