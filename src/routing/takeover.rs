//! What kube-router's router leaves in iptables, and how to take it away (pure).
//!
//! Its masquerading looks into sets that nobody keeps up to date any more, so that traffic to pods of a new node would
//! leave with the node's address. Removed are exactly the rules kube-router writes; everything else stays. Its acceptance
//! of pod traffic stays too where FORWARD drops and our own acceptance is not in it: pods would be cut off.

/// Comments of the rules in FORWARD.
const COMMENTS: [&str; 3] = [
    "allow outbound traffic from pods",
    "allow inbound traffic to pods",
    "allow outbound node port traffic on node interface with which node ip is associated",
];

/// Input for `iptables-restore --noflush` that removes the rules from what `iptables-save` printed, or `None` where
/// there are none.
pub fn removal(saved: &str) -> Option<String> {
    let mut script = String::new();
    for table in saved.split("\n*").map(|table| table.trim_start_matches('*')) {
        let Some(name) = table.lines().next().filter(|name| matches!(*name, "filter" | "nat")) else { continue };
        let has = |start: &str| table.lines().any(|line| line.starts_with(start));
        let is_needed = name == "filter" && has(":FORWARD DROP ") && !has(":FERROVIA-FORWARD ");
        let left = table.lines().filter(|line| !is_needed && is_leftover(name, line));
        let lines: Vec<String> =
            left.filter_map(|line| line.strip_prefix("-A ")).map(|it| format!("-D {it}\n")).collect();
        if !lines.is_empty() {
            script.push_str(&format!("*{name}\n{}COMMIT\n", lines.concat()));
        }
    }
    (!script.is_empty()).then_some(script)
}

/// Whether an ipset is one that only those rules look into.
pub fn is_set(name: &str) -> bool {
    matches!(name.strip_prefix("inet6:").unwrap_or(name), "kube-router-pod-subnets" | "kube-router-node-ips")
}

fn is_leftover(table: &str, line: &str) -> bool {
    match table {
        "filter" => {
            let says = |comment: &&str| line.contains(&format!("--comment \"{comment}\""));
            line.starts_with("-A FORWARD ") && line.ends_with(" -j ACCEPT") && COMMENTS.iter().any(says)
        }
        _ => {
            line.starts_with("-A POSTROUTING ")
                && line.contains("kube-router-pod-subnets src")
                && line.contains("kube-router-pod-subnets dst")
                && line.contains(" -j MASQUERADE")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_set, removal};

    #[test]
    fn where_forward_drops_its_acceptance_stays_until_ours_is_there() {
        let accept = "-A FORWARD -o kube-bridge -m comment --comment \"allow inbound traffic to pods\" -j ACCEPT";
        let saved = |more: &str| format!("*filter\n:FORWARD DROP [0:0]\n{more}{accept}\nCOMMIT\n");
        assert_eq!(removal(&saved("")), None);
        assert!(removal(&saved(":FERROVIA-FORWARD - [0:0]\n")).is_some());
    }

    #[test]
    fn removes_the_router_s_rules_and_nothing_else() {
        let accept = "-A FORWARD -i kube-bridge -m comment --comment \"allow outbound traffic from pods\" -j ACCEPT";
        let masquerade = "-A POSTROUTING -m set --match-set kube-router-pod-subnets src -m set ! --match-set \
                          kube-router-pod-subnets dst -m set ! --match-set kube-router-node-ips dst -j MASQUERADE --random-fully";
        let saved = format!(
            "*nat\n:POSTROUTING ACCEPT [0:0]\n{masquerade}\n-A POSTROUTING -o docker0 -j MASQUERADE\nCOMMIT\n*filter\n{accept}\n\
             -A FORWARD -i docker0 -j ACCEPT\nCOMMIT\n"
        );
        let expected = format!("*nat\n{masquerade}\nCOMMIT\n*filter\n{accept}\nCOMMIT\n").replace("-A ", "-D ");
        assert_eq!(removal(&saved), Some(expected));
        assert_eq!(removal("*filter\n-A FORWARD -i kube-bridge -j ACCEPT\nCOMMIT\n"), None);
        assert!(is_set("inet6:kube-router-node-ips") && !is_set("kube-router-svip"));
    }
}
