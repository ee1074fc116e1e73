//! Other programs' rules on the same node: ours come back when somebody takes them, theirs are never touched.

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Daemon, Namespace, Options, daemon::run_once, wait};

use super::super::{SOON, with_lab};
use super::{Backend, gets, only_from, wait_for, web, write_pods};

/// Docker's and firewalld's own tables, the latter with an input chain that drops.
const TABLES: &str = "\
table ip docker {
 chain forward {
  type filter hook forward priority 0; policy accept;
  ip saddr 172.17.0.0/16 counter accept
 }
}
table inet firewalld {
 chain input {
  type filter hook input priority 10; policy drop;
  ct state established,related accept
  iifname lo accept
  meta l4proto { icmp, ipv6-icmp } accept
  tcp dport 22 accept
 }
}
";

/// What kube-proxy and Docker have in iptables, as far as shapes matter.
const CHAINS: &str = "\
*nat
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A DOCKER -i docker0 -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -p tcp -m comment --comment \"default/kubernetes:https cluster IP\" -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SVC-NPX46M4PTMTKRN6Y -m comment --comment \"default/kubernetes:https\" -j KUBE-MARK-MASQ
COMMIT
*filter
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A DOCKER-USER -j RETURN
-A DOCKER-FORWARD -i docker0 -o docker0 -j ACCEPT
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

/// Puts them there.
fn move_in(ns: &Namespace) -> Result<()> {
    ns.feed("nft -f -", TABLES)?;
    ns.feed("iptables-nft-restore --noflush", CHAINS)?;
    ns.feed("ip6tables-nft-restore --noflush", CHAINS).map(drop)
}

/// All rules that are not ours, byte for byte but for counters.
fn theirs(ns: &Namespace) -> Result<String> {
    let mut all = ns.command("nft -s list table ip docker")? + &ns.command("nft -s list table inet firewalld")?;
    for program in ["iptables-nft-save", "ip6tables-nft-save"] {
        let saved = ns.command(program)?;
        // What is generated when, and chains that no jump needs any more, say nothing about rules.
        let rules = saved.lines().filter(|line| !line.starts_with('#') && !line.contains("FERROVIA-"));
        rules.for_each(|line| all.push_str(&format!("{}\n", line.split(" [").next().unwrap_or_default())));
    }
    Ok(all)
}

/// What somebody may do to our rules: a program, and its input.
fn harms(backend: Backend, ns: &Namespace) -> Result<Vec<(&'static str, String)>> {
    if backend == Backend::Nftables {
        let harms = [
            "delete table inet ferrovia-firewall",
            "flush chain inet ferrovia-firewall ingress",
            "flush map inet ferrovia-firewall ingress4",
            "insert rule inet ferrovia-firewall ingress accept",
        ];
        return Ok(harms.map(|harm| ("nft -f -", harm.to_owned())).into());
    }
    let saved = ns.command("iptables-nft-save -t filter")?;
    let jump =
        saved.lines().find_map(|line| line.strip_prefix("-A FORWARD ").filter(|rule| rule.contains("FERROVIA-")));
    let jump = jump.context("a jump to our chain")?;
    let sets = ns.command("ipset list -n")?;
    let set = sets.lines().find(|set| set.starts_with("FERROVIA-FIR-ingr")).context("the set of isolated pods")?;
    let rules = [format!("-D FORWARD {jump}"), "-F FERROVIA-FORWARD".into(), "-I FERROVIA-FORWARD -j ACCEPT".into()];
    let rules = rules.map(|rule| ("iptables-nft-restore --noflush", format!("*filter\n{rule}\nCOMMIT\n")));
    Ok(rules.into_iter().chain([("ipset restore", format!("flush {set}\n"))]).collect())
}

both_backends!(rules_outlive_the_daemon_and_nobody_else_s_suffer);

fn firewall_ops(daemon: &Daemon) -> Result<f64> {
    daemon.metric("ferrovia_ops_total", &["room=\"firewall\"", "result=\"ok\""])
}

fn rules_outlive_the_daemon_and_nobody_else_s_suffer(backend: Backend) {
    with_lab(Options::default(), |lab| {
        write_pods(lab, &[])?;
        let ns = lab.node(1)?.ns.clone();
        move_in(&ns)?;
        let before = theirs(&ns)?;
        lab.manifests().write("policies", &[only_from("p12", "p11")])?;
        let mut daemons = lab.start_daemons(&backend.options())?;
        let to = web(lab, "p12", Family::V4)?;
        wait_for(lab, "closed", "p21", to, false)?;
        ensure!(gets(lab, "p11", to)?);
        for (program, harm) in harms(backend, &ns)? {
            ns.feed(program, &harm)?;
            wait_for(lab, &harm, "p21", to, false)?;
            wait::until_true("no difference is left", SOON, || {
                Ok(daemons[0].admin("/debug/firewall/plan")?.1 == "nothing to do\n")
            })?;
            ensure!(!gets(lab, "p21", to)?, "repaired after {harm}");
        }
        ensure!(daemons[0].metric("ferrovia_drift_total", &["room=\"firewall\""])? > 0.0);

        daemons[0].kill()?;
        ensure!(!gets(lab, "p21", to)? && gets(lab, "p11", to)?, "the rules outlive the daemon");
        // The first start may still cut what got in while rules were gone; the next one finds everything done.
        for last in [false, true] {
            daemons[0] = lab.start_daemon(1, &backend.options())?;
            daemons[0].wait_ready()?;
            ensure!(daemons[0].metric("ferrovia_drift_total", &["room=\"firewall\""])? == 0.0);
            if !last {
                daemons[0].kill()?;
            }
        }
        ensure!(firewall_ops(&daemons[0])? == 0.0, "a restart that finds everything in force writes nothing");
        ensure!(!gets(lab, "p21", to)? && gets(lab, "p11", to)?);
        ensure!(theirs(&ns)? == before, "while ours run:\n{before}\nnow\n{}", theirs(&ns)?);
        daemons[0].stop()?;
        // It need not be told where the rules are.
        let (status, log) = run_once(&ns, &["--cleanup-config".to_owned()])?;
        ensure!(status.success(), "{log}");
        ensure!(backend.listing(&ns)?.is_empty(), "ours are left: {}", backend.listing(&ns)?);
        ensure!(theirs(&ns)? == before, "after cleaning up:\n{before}\nnow\n{}", theirs(&ns)?);
        Ok(())
    });
}
