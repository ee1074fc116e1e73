//! The steps with a NetworkPolicy: it cuts and opens traffic between pods, and the daemon says why.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Lab, daemon, topology, traffic, wait};
use serde_json::{Value, json};

use super::narrator::Narrator;
use super::steps::SOON;

/// The file of these steps in the folder of manifests.
const FILE: &str = "policy-nginx";
/// Whom the policy is about.
const SERVER: &str = "p22";
/// How long a request may take that is allowed; one that is denied is refused much sooner.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the daemons judge what pods receive and send.
pub(crate) const FLAGS: [&str; 1] = ["--run-firewall=true"];

/// A policy that lets nobody reach the server, but for these rules.
fn policy(ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nginx", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"pod": SERVER}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

/// Applies the policy, and shows it.
fn apply(lab: &Lab, narrator: &Narrator, ingress: &Value) -> Result<()> {
    narrator.kubectl("apply -f nginx-policy.yaml");
    lab.manifests().write(FILE, &[policy(ingress)])?;
    narrator.say(&lab.manifests().read(FILE)?);
    Ok(())
}

/// Waits until a pod gets an answer, or none, and shows the request that found it so.
fn curl(lab: &Lab, narrator: &Narrator, from: &str, to: SocketAddr, open: bool) -> Result<()> {
    let (ns, wanted) = (&lab.pod(from)?.ns, if open { "answers" } else { "is closed to" });
    let found = wait::until(&format!("{to} {wanted} {from}"), SOON, || {
        let found = traffic::http_once(ns, to, PATIENCE);
        ensure!(found.is_ok() == open, "{found:?}");
        Ok(found)
    })?;
    narrator.command(from, &format!("curl -s http://{to}/"));
    narrator.say(&match found {
        Ok(reply) => format!("answered by {}, which saw {}", reply.pod, reply.client.ip()),
        Err(error) => format!("failed: {error}"),
    });
    Ok(())
}

/// `ferrovia explain` about a flow to the server, on the server's node, which must contain `words`.
fn explain(lab: &Lab, narrator: &Narrator, from: &str, words: &str) -> Result<()> {
    let node = lab.node(lab.pod(SERVER)?.node)?;
    let question = format!("explain pod default/{SERVER} --from default/{from} --port {}/tcp", topology::HTTP_PORT);
    narrator.command(&node.name, &format!("ferrovia {question}"));
    let socket = lab.directory().join(format!("{}.sock", node.name));
    let line = format!("{} {question} --admin-socket {}", daemon::binary()?.display(), socket.display());
    let answer = node.ns.command(&line)?;
    narrator.say(answer.trim_end());
    ensure!(answer.contains(words), "it does not say {words:?}");
    Ok(())
}

/// The server's and the Service's address.
fn targets(lab: &Lab, service: &str) -> Result<[SocketAddr; 2]> {
    Ok([SocketAddr::new(lab.pod(SERVER)?.address(Family::V4), topology::HTTP_PORT), service.parse()?])
}

/// A policy without rules.
pub(crate) fn cuts(lab: &Lab, service: &str, narrator: &Narrator) -> Result<()> {
    let targets = targets(lab, service)?;
    curl(lab, narrator, "p11", targets[0], true)?;
    apply(lab, narrator, &json!([]))?;
    narrator.expect("no pod reaches p22 any more, neither by its address nor through its Service");
    for to in targets {
        curl(lab, narrator, "p11", to, false)?;
    }
    explain(lab, narrator, "p11", "no rule of default/nginx allows it")
}

/// The same policy with a rule, and its end.
pub(crate) fn opens(lab: &Lab, service: &str, narrator: &Narrator) -> Result<()> {
    let targets = targets(lab, service)?;
    let port = topology::HTTP_PORT;
    let rule = json!([{"from": [{"podSelector": {"matchLabels": {"pod": "p11"}}}], "ports": [{"port": port}]}]);
    apply(lab, narrator, &rule)?;
    narrator.expect("p11 passes, by either address; p31 by none");
    for to in targets {
        curl(lab, narrator, "p11", to, true)?;
        curl(lab, narrator, "p31", to, false)?;
    }
    explain(lab, narrator, "p11", "allowed: networkpolicy default/nginx rule 0")?;
    explain(lab, narrator, "p31", "no rule of default/nginx allows it")?;
    listing(lab, narrator)?;
    narrator.kubectl("delete networkpolicy nginx");
    lab.manifests().write(FILE, &[])?;
    narrator.expect("everybody passes again");
    curl(lab, narrator, "p31", targets[0], true)
}

/// What of the server's node's table is about the policy.
fn listing(lab: &Lab, narrator: &Narrator) -> Result<()> {
    const SHOWN: [&str; 4] = ["set pods4-", "map ingress4 ", "chain receive-", "chain to-"];
    let node = lab.node(lab.pod(SERVER)?.node)?;
    let command = "nft list table inet ferrovia-firewall";
    narrator.expect("the rules name their policy (the table, shortened)");
    narrator.command(&node.name, command);
    let table = node.ns.command(command)?;
    narrator.say("table inet ferrovia-firewall {");
    let blocks = table.split("\n\n").map(|block| block.trim_start_matches("table inet ferrovia-firewall {\n"));
    for block in blocks.filter(|block| SHOWN.iter().any(|shown| block.trim_start().starts_with(shown))) {
        narrator.say(block.trim_end().trim_end_matches("\n}"));
    }
    narrator.say("\t…\n}");
    ensure!(table.contains("default/nginx ingress[0]"), "no rule of the policy in\n{table}");
    Ok(())
}
