//! Cluster policies on the real kernel: each tier in its turn, told by the daemon, and told why.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Daemon, Lab, Options, topology, traffic, wait};
use serde_json::{Value, json};

use super::firewall::Backend;
use super::{SOON, with_daemons};

/// How long a packet that is refused, or never answered, may take to count as that.
const ATTEMPT: Duration = Duration::from_secs(2);

/// One rule about all pods, in what the pods of the namespace `default` receive.
fn cluster_policy(name: &str, tier: &str, priority: u16, action: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "tier": tier, "priority": priority,
            "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}},
            "ingress": [{"name": "pods", "action": action, "from": [{"namespaces": {}}]}],
        },
    })
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
}

fn deny_all() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "nobody"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })
}

/// Whether pod p21 reaches pod p11, in both families, becomes so.
fn becomes(lab: &Lab, reachable: bool, why: &str) -> Result<()> {
    let (client, server) = (lab.pod("p21")?, lab.pod("p11")?);
    for family in Family::ALL {
        let to = SocketAddr::new(server.address(family), topology::HTTP_PORT);
        wait::until_true(&format!("{why}: {to} reachable: {reachable}"), SOON, || {
            Ok(traffic::http_once(&client.ns, to, ATTEMPT).is_ok() == reachable)
        })?;
    }
    Ok(())
}

/// Waits until the daemon explains the flow in these words: what is denied may have been denied before, by another rule.
fn explains(daemon: &Daemon, words: &[&str]) -> Result<()> {
    wait::until("the flow is explained", SOON, || {
        let (status, text) = daemon.admin("/debug/firewall/explain/pod/default/p11/from/default/p21/port/8080/tcp")?;
        ensure!(status == 200 && words.iter().all(|word| text.contains(word)), "{status}: {text}");
        Ok(())
    })
}

both_backends!(tiers_decide_in_their_order_and_denied_packets_are_told);

fn tiers_decide_in_their_order_and_denied_packets_are_told(backend: Backend) {
    let flags = ["--run-firewall=true", "--log-denied", backend.flag()];
    with_daemons(Options::default(), &flags, |lab, daemons| {
        let write = |objects: &[Value]| lab.manifests().write("policies.yaml", &[&[namespace()], objects].concat());
        let Some(first) = daemons.first() else { anyhow::bail!("a daemon") };
        becomes(lab, true, "without policies")?;

        write(&[cluster_policy("floor", "Baseline", 5, "Deny")])?;
        becomes(lab, false, "the Baseline tier denies")?;
        explains(
            first,
            &["ingress of default/p11: denied: clusternetworkpolicy floor rule 0 (\"pods\"): Deny", "in the kernel"],
        )?;
        let to = SocketAddr::new(lab.pod("p11")?.address(Family::V4), topology::HTTP_PORT);
        let another_node = &lab.node(2)?.ns;
        ensure!(traffic::http_once(another_node, to, SOON).is_ok(), "a node is no pod, and nobody isolates p11");

        write(&[cluster_policy("floor", "Baseline", 5, "Accept"), deny_all()])?;
        becomes(lab, false, "a NetworkPolicy decides before the Baseline tier")?;
        explains(first, &["no rule of default/nobody allows it", "tier Baseline: floor (priority 5), not asked"])?;

        let objects =
            [cluster_policy("guard", "Admin", 5, "Accept"), cluster_policy("late", "Admin", 6, "Deny"), deny_all()];
        write(&objects)?;
        becomes(lab, true, "the Admin tier decides before, lower numbers first")?;
        write(&[
            cluster_policy("guard", "Admin", 5, "Pass"),
            cluster_policy("late", "Admin", 6, "Accept"),
            deny_all(),
        ])?;
        becomes(lab, false, "Pass leaves the tier, and the NetworkPolicy denies")?;
        write(&[cluster_policy("guard", "Admin", 5, "Pass"), cluster_policy("late", "Admin", 6, "Deny")])?;
        becomes(lab, true, "Pass leaves the tier, and nobody else denies")?;

        write(&[cluster_policy("guard", "Admin", 5, "Deny")])?;
        becomes(lab, false, "the Admin tier denies")?;
        wait::until_true("the denied packets are counted", SOON, || {
            // Ask again: what is logged is bounded, and the first ones may have been of another policy.
            let to = SocketAddr::new(lab.pod("p11")?.address(Family::V4), topology::HTTP_PORT);
            let _ = traffic::http_once(&lab.pod("p21")?.ns, to, ATTEMPT);
            let labels = ["namespace=\"default\"", "direction=\"ingress\"", "reason=\"cluster_policy\""];
            Ok(first.metric("ferrovia_firewall_denied_logged_total", &labels)? >= 1.0)
        })?;
        let log = first.log();
        for words in ["no policy allows it (default/nobody)", "clusternetworkpolicy guard rule 0"] {
            let told = |line: &str| line.contains("denied namespace=default pod=p11") && line.contains(words);
            ensure!(log.lines().any(told), "no line with {words:?} in\n{log}");
        }

        write(&[])?;
        becomes(lab, true, "without policies again")
    });
}
