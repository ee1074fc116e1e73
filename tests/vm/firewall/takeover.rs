//! kube-router's chains, sets and tables give way to ours, and at no moment does anything pass that both deny.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Load, Namespace, Options, wait};

use super::super::{SOON, with_lab};
use super::{Backend, PATIENCE, only_from, web, write_pods};

/// The fewest attempts of the denied client that say something, and answers to the allowed one before and after.
const ATTEMPTS: usize = 20;

/// A set as kube-router makes it, with one address.
fn set(name: &str, family: Family, address: IpAddr) -> String {
    let (prefix, kind) = match family {
        Family::V4 => ("", "inet"),
        Family::V6 => ("inet6:", "inet6"),
    };
    let name = format!("{prefix}{name}");
    format!("create {name} hash:ip family {kind} timeout 0\nadd {name} {address} timeout 0\n")
}

/// The rules of one pod under one policy that allows one source (kube-router 2.x, `pkg/controllers/netpol`).
fn rules(family: Family, pod: IpAddr) -> String {
    let prefix = if family == Family::V4 { "" } else { "inet6:" };
    let mut text = String::from("*filter\n");
    for chain in ["KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-OUTPUT"] {
        text.push_str(&format!(":{chain} - [0:0]\n"));
    }
    for chain in ["DEFAULT", "COMMON", "TAIL", "RQ5X3TNHQ6BVLCAV"] {
        text.push_str(&format!(":KUBE-NWPLCY-{chain} - [0:0]\n"));
    }
    text.push_str(":KUBE-POD-FW-B3ILTVVXAIQRS6H5 - [0:0]\n");
    for (from, uuid) in [("INPUT", "4IA2OSFRMVNDXBVV"), ("FORWARD", "TEMCG2JMHZYE7H7T"), ("OUTPUT", "VEAAIY32XVBHCSCY")]
    {
        let comment = format!("-m comment --comment \"kube-router netpol - {uuid}\"");
        text.push_str(&format!("-I {from} 1 {comment} -j KUBE-ROUTER-{from}\n"));
    }
    for (chain, bridged) in [("FORWARD", true), ("FORWARD", false), ("OUTPUT", false)] {
        let physdev = if bridged { "-m physdev --physdev-is-bridged " } else { "" };
        let comment =
            "-m comment --comment \"rule to jump traffic destined to POD name:p12 namespace: default to chain\"";
        text.push_str(&format!("-A KUBE-ROUTER-{chain} {physdev}-d {pod} {comment} -j KUBE-POD-FW-B3ILTVVXAIQRS6H5\n"));
    }
    for chain in ["INPUT", "FORWARD", "OUTPUT"] {
        text.push_str(&format!(
            "-A KUBE-ROUTER-{chain} -j KUBE-NWPLCY-TAIL\n-A KUBE-ROUTER-{chain} -m mark --mark 0x20000/0x20000 -j ACCEPT\n"
        ));
    }
    text.push_str(&format!(
        "-A KUBE-NWPLCY-DEFAULT -j MARK --set-xmark 0x10000/0x10000\n\
         -A KUBE-NWPLCY-COMMON -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-NWPLCY-COMMON -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A KUBE-NWPLCY-TAIL -m mark --mark 0x20000/0x20000 -j ACCEPT\n\
         -A KUBE-NWPLCY-RQ5X3TNHQ6BVLCAV -m set --match-set {prefix}KUBE-SRC-DKGXMCAQNFKHS3YO src -m set --match-set \
         {prefix}KUBE-DST-2FAIIK2E4RIPMTGF dst -j MARK --set-xmark 0x10000/0x10000\n\
         -A KUBE-NWPLCY-RQ5X3TNHQ6BVLCAV -m mark --mark 0x10000/0x10000 -j RETURN\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -j KUBE-NWPLCY-COMMON\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -d {pod} -m addrtype --src-type LOCAL -j ACCEPT\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -s {pod} -j KUBE-NWPLCY-DEFAULT\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -d {pod} -j KUBE-NWPLCY-RQ5X3TNHQ6BVLCAV\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -m mark ! --mark 0x10000/0x10000 -m limit --limit 10/minute --limit-burst 10 -j NFLOG \
         --nflog-group 100\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -m mark ! --mark 0x10000/0x10000 -j REJECT\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -j MARK --set-xmark 0x0/0x10000\n\
         -A KUBE-POD-FW-B3ILTVVXAIQRS6H5 -j MARK --set-xmark 0x20000/0x20000\nCOMMIT\n"
    ));
    text
}

/// The same as kube-router writes it with `--use-nftables-for-netpol` (`npc_nftables.go`).
fn table(family: Family, pod: IpAddr, friend: IpAddr) -> String {
    let (ip, name, kind) = match family {
        Family::V4 => ("ip", "kube-router-filter-ipv4", "ipv4_addr"),
        Family::V6 => ("ip6", "kube-router-filter-ipv6", "ipv6_addr"),
    };
    let mut text = format!("table {ip} {name} {{\ncomment \"rules for {name}\"\n");
    for (set, address) in [("KUBE-SRC-DKGXMCAQNFKHS3YO", friend), ("KUBE-DST-2FAIIK2E4RIPMTGF", pod)] {
        text.push_str(&format!("set {set} {{ type {kind}; elements = {{ {address} }} }}\n"));
    }
    text.push_str(&format!(
        "chain KUBE-NWPLCY-DEFAULT {{ counter meta mark set meta mark or 0x10000; }}\n\
         chain KUBE-NWPLCY-COMMON {{ ct state invalid drop; ct state related,established accept; }}\n\
         chain KUBE-NWPLCY-TAIL {{ meta mark and 0x20000 == 0x20000 accept; }}\n\
         chain KUBE-NWPLCY-RQ5X3TNHQ6BVLCAV {{ {ip} saddr @KUBE-SRC-DKGXMCAQNFKHS3YO {ip} daddr \
         @KUBE-DST-2FAIIK2E4RIPMTGF counter meta mark set meta mark or 0x10000 return; }}\n\
         chain KUBE-POD-FW-B3ILTVVXAIQRS6H5 {{\n jump KUBE-NWPLCY-COMMON;\n fib saddr type local {ip} daddr {pod} counter accept;\n \
         jump KUBE-NWPLCY-RQ5X3TNHQ6BVLCAV;\n {ip} saddr {pod} jump KUBE-NWPLCY-DEFAULT;\n \
         meta mark and 0x10000 == 0x0 limit rate 10/minute burst 10 packets log group 100;\n \
         meta mark and 0x10000 == 0x0 counter reject;\n meta mark set meta mark and 0xfffeffff;\n \
         meta mark set meta mark or 0x20000;\n }}\n"
    ));
    for hook in ["input", "forward", "output"] {
        let chain = hook.to_uppercase();
        text.push_str(&format!(
            "chain KUBE-ROUTER-{chain} {{\n type filter hook {hook} priority filter; policy accept;\n {ip} daddr {pod} jump \
             KUBE-POD-FW-B3ILTVVXAIQRS6H5;\n {ip} saddr {pod} jump KUBE-POD-FW-B3ILTVVXAIQRS6H5;\n jump KUBE-NWPLCY-TAIL;\n }}\n"
        ));
    }
    text + "}\n"
}

/// What is left of kube-router's firewall.
fn left(ns: &Namespace) -> Result<Vec<String>> {
    let mut all = String::new();
    for program in ["iptables-nft-save", "ip6tables-nft-save", "ipset list -n", "nft list tables"] {
        all.push_str(&ns.command(program)?);
    }
    Ok(all.lines().filter(|line| line.contains("KUBE-") || line.contains("kube-router")).map(str::to_owned).collect())
}

both_backends!(kube_router_s_rules_give_way_without_an_open_moment);

fn kube_router_s_rules_give_way_without_an_open_moment(backend: Backend) {
    give_way(backend, |ns, family, pod, friend| {
        let sets = [
            ("KUBE-SRC-DKGXMCAQNFKHS3YO", friend),
            ("KUBE-DST-2FAIIK2E4RIPMTGF", pod),
            ("kube-router-local-pods", pod),
        ];
        ns.feed("ipset restore", &sets.map(|(name, address)| set(name, family, address)).concat())?;
        let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
        ns.feed(&format!("{program}-nft-restore --noflush"), &rules(family, pod)).map(drop)
    });
}

/// kube-router with `--use-nftables-for-netpol` has tables of its own.
#[test]
fn kube_router_s_tables_give_way_without_an_open_moment() {
    give_way(Backend::Nftables, |ns, family, pod, friend| ns.feed("nft -f -", &table(family, pod, friend)).map(drop));
}

/// `deny` writes what kube-router has: pod p12 receives from p11 alone.
fn give_way(backend: Backend, deny: impl Fn(&Namespace, Family, IpAddr, IpAddr) -> Result<()>) {
    with_lab(Options { nodes: 2, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        lab.manifests().write("policies", &[only_from("p12", "p11")])?;
        let ns = lab.node(1)?.ns.clone();
        for family in Family::ALL {
            deny(&ns, family, lab.pod("p12")?.address(family), lab.pod("p11")?.address(family))?;
        }
        ensure!(!left(&ns)?.is_empty(), "kube-router's rules are there");
        let targets = Family::ALL.map(|family| web(lab, "p12", family));
        let [v4, v6] = targets;
        let (v4, v6) = (v4?, v6?);
        let (friend, stranger) = (&lab.pod("p11")?.ns, &lab.pod("p21")?.ns);
        let denied = Load::start(&[(stranger, v4), (stranger, v6)], PATIENCE);
        let allowed = Load::start(&[(friend, v4), (friend, v6)], PATIENCE);
        allowed.wait_answers(ATTEMPTS, SOON)?;

        let mut daemon = lab.start_daemon(1, &backend.options())?;
        daemon.wait_ready()?;
        wait::until("kube-router's chains and sets are gone", SOON, || {
            let left = left(&ns)?;
            ensure!(left.is_empty(), "{}", left.join("\n"));
            Ok(())
        })?;
        allowed.wait_answers(ATTEMPTS, SOON)?;
        let gone = denied.elapsed();
        wait::until("enough denied attempts without kube-router's rules", SOON, || {
            let since = denied.elapsed() - gone;
            ensure!(since > PATIENCE * 3, "for {since:?}");
            Ok(())
        })?;
        let span = denied.elapsed();
        let (denied, allowed) = (denied.stop()?, allowed.stop()?);
        allowed.flawless(2 * ATTEMPTS)?;
        ensure!(denied.n_answered() == 0, "a denied client got through {} times", denied.n_answered());
        let late = denied.failed.iter().filter(|(at, _)| *at > span.saturating_sub(PATIENCE)).count();
        let n = denied.failed.len();
        ensure!(n >= ATTEMPTS && late > 0, "{n} attempts, {late} of them at the end: too few to prove anything");
        ensure!(!backend.listing(&ns)?.is_empty(), "ours are there");
        Ok(())
    });
}
