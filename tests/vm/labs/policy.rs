//! K2 and K19: the steps of kube-router's walk-through with the firewall.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Daemon, Lab, daemon::run_once, topology, traffic, wait};
use serde_json::{Value, json};

use super::SOON;
use super::site::listens;
use super::walkthrough::{Walkthrough, daemon_options};

/// The file of the policies, in the folder of manifests.
const FILE: &str = "policies";
const TABLE: &str = "inet ferrovia-firewall";
/// What kube-proxy writes for one Service, as far as it matters here: its address becomes that of pod p12.
const KUBE_PROXY: &str = "table ip kube-proxy {\n chain nat-prerouting {\n type nat hook prerouting priority -100; policy \
                          accept;\n ip daddr 10.96.0.99 tcp dport 80 counter dnat to 10.244.1.12:8080\n }\n}\n";
const ANNOTATION: &str = "net.beta.kubernetes.io/network-policy";
const DEFAULT_DENY: &str = "{\"ingress\": {\"isolation\": \"DefaultDeny\"}}";
/// How long a request or a ping may take that is allowed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A policy that lets this pod reach p12, and no other.
fn only(from: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "only", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"pod": "p12"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": from}}}]}],
        },
    })
}

/// Waits until p11 is answered at an address of p12, or refused.
fn reaches(lab: &Lab, to: &str, open: bool) -> Result<()> {
    let (from, to) = (&lab.pod("p11")?.ns, to.parse::<SocketAddr>()?);
    wait::until_true(&format!("{to} answers p11: {open}"), SOON, || {
        Ok(traffic::http_once(from, to, PATIENCE).is_ok() == open)
    })
}

/// The firewall runs alone on the first node, before any other part ever ran there.
pub(super) fn alone(k: &mut Walkthrough) -> Result<()> {
    let node = k.lab.node(1)?;
    node.ns.feed("nft -f -", KUBE_PROXY)?;
    let chain = || node.ns.command("nft -s list table ip kube-proxy");
    let before = chain()?;
    let flags = ["--run-router=false", "--run-service-proxy=false", "--run-firewall=true"];
    let mut daemon = k.lab.start_daemon(1, &daemon_options(&flags))?;
    daemon.wait_ready()?;
    let addresses = ["10.244.1.12:8080", "10.96.0.99:80"];
    let everywhere = |open| addresses.iter().try_for_each(|to| reaches(&k.lab, to, open));
    everywhere(true)?;
    k.lab.manifests().write(FILE, &[only("p31")])?;
    everywhere(false)?;
    k.lab.manifests().write(FILE, &[only("p11")])?;
    everywhere(true)?;
    let listing = node.ns.command(&format!("nft list table {TABLE}"))?;
    ensure!(listing.contains("default/only ingress[0]"), "{listing}");
    ensure!(!listens(&node.ns, 179)?, "somebody listens on port 179");
    ensure!(!node.ipvsadm()?.contains("TCP"), "{}", node.ipvsadm()?);
    let links = node.ns.command("ip -o link show")?;
    ensure!(!links.contains("kube-dummy-if"), "{links}");
    ensure!(chain()? == before, "kube-proxy's table was changed:\n{}", chain()?);
    k.lab.manifests().write(FILE, &[])?;
    everywhere(true)?;
    daemon.stop()?;
    node.ns.command(&format!("nft delete table {TABLE}"))?;
    node.ns.command("nft delete table ip kube-proxy").map(drop)
}

/// The namespaces of the step, `prod` with the old annotation or without.
fn namespaces(annotated: bool) -> [Value; 2] {
    let annotations = if annotated { json!({ANNOTATION: DEFAULT_DENY}) } else { json!({}) };
    let namespace = |name: &str, annotations: Value| {
        let labels = json!({"kubernetes.io/metadata.name": name});
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
        })
    };
    [namespace("default", json!({})), namespace("prod", annotations)]
}

/// Starts the first node's daemon again, with these flags.
fn again(k: &mut Walkthrough, flags: &[&str]) -> Result<()> {
    let place = k.daemons.first_mut().context("a daemon")?;
    place.stop()?;
    *place = k.lab.start_daemon(1, &daemon_options(flags))?;
    place.wait_ready()
}

/// Waits until pods of the namespace `default`, beside it and on another node, can ping p11 or cannot.
fn pinged(lab: &Lab, open: bool) -> Result<()> {
    for from in ["p12", "p21"] {
        for family in Family::ALL {
            let (ns, to) = (&lab.pod(from)?.ns, lab.pod("p11")?.address(family));
            wait::until_true(&format!("{from} can ping {to}: {open}"), SOON, || {
                Ok(traffic::ping(ns, to, PATIENCE)? == open)
            })?;
        }
    }
    Ok(())
}

/// The NetworkPolicy that the daemon names in place of the annotation, as `ferrovia doctor` prints it.
fn named(lab: &Lab, words: &str) -> Result<Value> {
    let node = lab.node(1)?;
    let socket = lab.directory().join(format!("{}.sock", node.name));
    let arguments = ["doctor".to_owned(), format!("--admin-socket={}", socket.display())];
    wait::until("the NetworkPolicy is named", SOON, || {
        let (_, text) = run_once(&node.ns, &arguments)?;
        let line = text.lines().find(|line| line.contains(ANNOTATION) && line.contains(words));
        let line = line.with_context(|| text.clone())?;
        let begin = line.find("{apiVersion").with_context(|| text.clone())?;
        let end = line.rfind('}').with_context(|| text.clone())?;
        let policy = line.get(begin..=end).context("it begins before it ends")?;
        serde_saphyr::from_str(policy).with_context(|| policy.to_owned())
    })
}

/// Without the flag, with it, and with the policy in place of the annotation.
pub(super) fn isolation(k: &mut Walkthrough) -> Result<()> {
    k.lab.set_namespaces(&[("p11", "prod")])?;
    k.lab.manifests().write("namespaces", &namespaces(true))?;
    again(k, &["--run-firewall=true"])?;
    pinged(&k.lab, true)?;
    let policy = named(&k.lab, "is not heeded")?;

    again(k, &["--run-firewall=true", "--legacy-namespace-isolation=true"])?;
    pinged(&k.lab, false)?;
    let (from, to) = (&k.lab.pod("p11")?.ns, k.lab.pod("p21")?.address(Family::V4));
    ensure!(traffic::ping(from, to, PATIENCE)?, "replies to what the isolated pod asks");
    let node = &k.lab.node(1)?.ns;
    ensure!(traffic::ping(node, k.lab.pod("p11")?.address(Family::V4), PATIENCE)?, "the node reaches its pod");
    ensure!(named(&k.lab, "is heeded")? == policy, "the same policy with the flag and without");
    let told = k.daemons.first().map(Daemon::log).unwrap_or_default();
    ensure!(told.contains(ANNOTATION) && told.contains("default-deny"), "nothing in the log:\n{told}");

    k.lab.manifests().write("namespaces", &namespaces(false))?;
    pinged(&k.lab, true)?;
    k.lab.manifests().write(FILE, &[policy])?;
    pinged(&k.lab, false)?;
    k.lab.manifests().write(FILE, &[])?;
    pinged(&k.lab, true)?;
    k.lab.set_namespaces(&[])?;
    again(k, &[])?;
    k.lab.node(1)?.ns.command(&format!("nft delete table {TABLE}")).map(drop)
}

/// The port of the pods' servers, which [`KUBE_PROXY`] and the addresses of [`alone`] spell out.
const _: () = assert!(topology::HTTP_PORT == 8080);
