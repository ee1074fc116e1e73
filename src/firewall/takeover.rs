//! What kube-router's firewall leaves in iptables or nftables, and how to take it away (pure).
//!
//! Its chains go on denying what its last pass knew of, and pods that came later among them. They are taken away once
//! our rules are in force: until then both hold, and afterwards ours alone, so at no moment less is denied than ours deny.

use crate::net::Family;

/// Its tables of nftables (`--use-nftables-for-netpol`), each with the family it is of.
pub const TABLES: [(Family, &str); 2] =
    [(Family::V4, "kube-router-filter-ipv4"), (Family::V6, "kube-router-filter-ipv6")];
/// The chains the kernel's own jump to.
const ENTRIES: [(&str, &str); 3] =
    [("INPUT", "KUBE-ROUTER-INPUT"), ("FORWARD", "KUBE-ROUTER-FORWARD"), ("OUTPUT", "KUBE-ROUTER-OUTPUT")];
/// What names of the other chains begin with.
const PREFIXES: [&str; 2] = ["KUBE-NWPLCY-", "KUBE-POD-FW-"];

/// Input for `iptables-restore --noflush` that removes them from what `iptables-save` printed, all in one moment, or
/// `None` where there are none.
pub fn removal(saved: &str) -> Option<String> {
    let table = saved.split("\n*").map(|table| table.trim_start_matches('*'));
    let table = table.into_iter().find(|table| table.lines().next() == Some("filter"))?;
    let is_ours = |chain: &str| {
        ENTRIES.iter().any(|(_, name)| *name == chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
    };
    let declared = table.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    let chains: Vec<&str> = declared.filter(|chain| is_ours(chain)).collect();
    // Whoever jumps there from a chain that stays.
    let mut lines: Vec<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("-A "))
        .filter(|rule| {
            let from = rule.split(' ').next().unwrap_or_default();
            let to = rule.rsplit_once("-j ").map(|(_, target)| target.trim()).unwrap_or_default();
            !is_ours(from) && is_ours(to)
        })
        .map(|rule| format!("-D {rule}"))
        .collect();
    lines.extend(chains.iter().map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    (!lines.is_empty()).then(|| format!("*filter\n{}\nCOMMIT\n", lines.join("\n")))
}

/// Whether an ipset is one that only those chains look into.
pub fn is_set(name: &str) -> bool {
    let name = name.strip_prefix("inet6:").unwrap_or(name);
    name == "kube-router-local-pods" || name.starts_with("KUBE-SRC-") || name.starts_with("KUBE-DST-")
}

#[cfg(test)]
mod tests {
    use super::{is_set, removal};

    #[test]
    fn removes_the_firewall_s_chains_and_nothing_else() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-ROUTER-FORWARD - [0:0]\n\
             :KUBE-NWPLCY-DEFAULT - [0:0]\n:KUBE-POD-FW-ABC - [0:0]\n:KUBE-ROUTER-SERVICES - [0:0]\n\
             -A INPUT -j KUBE-ROUTER-SERVICES\n\
             -A FORWARD -m comment --comment \"kube-router netpol - TEMCG2JMHZYE7H7T\" -j KUBE-ROUTER-FORWARD\n\
             -A FORWARD -j KUBE-FORWARD\n-A KUBE-ROUTER-FORWARD -d 10.244.1.5/32 -j KUBE-POD-FW-ABC\n\
             -A KUBE-POD-FW-ABC -j KUBE-NWPLCY-DEFAULT\nCOMMIT\n";
        assert_eq!(
            removal(saved).as_deref(),
            Some(
                "*filter\n-D FORWARD -m comment --comment \"kube-router netpol - TEMCG2JMHZYE7H7T\" -j KUBE-ROUTER-FORWARD\n\
                 -F KUBE-ROUTER-FORWARD\n-F KUBE-NWPLCY-DEFAULT\n-F KUBE-POD-FW-ABC\n\
                 -X KUBE-ROUTER-FORWARD\n-X KUBE-NWPLCY-DEFAULT\n-X KUBE-POD-FW-ABC\nCOMMIT\n"
            )
        );
        assert_eq!(removal("*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\nCOMMIT\n"), None);
        assert!(is_set("inet6:KUBE-SRC-X") && is_set("kube-router-local-pods") && !is_set("kube-router-svip"));
    }
}
