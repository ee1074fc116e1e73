//! NetworkPolicy on the real kernel, the same tests for both backends: what policies forbid does not pass, what they allow does.

mod bridge;
mod cut;
mod first_packet;
mod frames;
mod neighbours;
mod policies;
mod services;
mod takeover;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use ferrovia::net::Family;
use ferrovia::testing::lab::{Daemon, DaemonOptions, Lab, Namespace, topology, traffic, wait};
use serde_json::{Value, json};

use super::SOON;

/// How long a connection may take that is allowed; one that is denied is refused much sooner.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nftables,
    Iptables,
}

impl Backend {
    /// The flag that asks for it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Backend::Nftables => "--firewall-backend=nftables",
            Backend::Iptables => "--firewall-backend=iptables",
        }
    }

    /// A daemon with the firewall on this backend. What somebody else does to rules is seen within two seconds.
    fn options(self) -> DaemonOptions {
        DaemonOptions::with(&["--run-firewall=true", "--iptables-sync-period=2s", self.flag()])
    }

    /// All that the firewall has written there, empty where there is nothing.
    pub(crate) fn listing(self, ns: &Namespace) -> Result<String> {
        match self {
            Backend::Nftables => Ok(ns.command("nft list table inet ferrovia-firewall").unwrap_or_default()),
            Backend::Iptables => {
                let mut all = String::new();
                for program in ["iptables-nft-save", "ip6tables-nft-save", "ipset save"] {
                    all.push_str(&ns.command(program)?);
                }
                Ok(all.lines().filter(|line| line.contains("FERROVIA-")).map(|line| format!("{line}\n")).collect())
            }
        }
    }
}

/// What a daemon has in force, and has cut what that denies.
pub(crate) fn generation(daemon: &Daemon) -> Result<f64> {
    daemon.metric("ferrovia_generation", &["stage=\"applied\"", "room=\"firewall\""])
}

/// All pods of the lab as API objects, each with its name as label `app`, but for what `relabel` says.
pub(crate) fn write_pods(lab: &Lab, relabel: &[(&str, &str)]) -> Result<()> {
    let pods = lab.nodes().iter().flat_map(|node| &node.pods);
    let objects: Vec<Value> = pods
        .map(|pod| {
            let app = relabel.iter().find(|(name, _)| *name == pod.name).map_or(pod.name.as_str(), |(_, app)| app);
            let addresses: Vec<Value> = Family::ALL.iter().map(|family| json!({"ip": pod.address(*family)})).collect();
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod.name, "namespace": "default", "labels": {"app": app}},
                "spec": {
                    "nodeName": format!("n{}", pod.node),
                    "hostNetwork": pod.host_network,
                    "containers": [{
                        "name": "server", "image": "server",
                        "ports": [{"name": "web", "containerPort": topology::HTTP_PORT, "protocol": "TCP"}],
                    }],
                },
                "status": {"phase": "Running", "podIP": pod.address(Family::V4), "podIPs": addresses},
            })
        })
        .collect();
    lab.manifests().write("pods", &objects)
}

pub(crate) fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

pub(crate) fn only_from(to: &str, from: &str) -> Value {
    policy(
        "only",
        json!({
            "podSelector": {"matchLabels": {"app": to}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"port": "web"}]}],
        }),
    )
}

pub(crate) fn gets(lab: &Lab, from: &str, to: SocketAddr) -> Result<bool> {
    Ok(traffic::http_once(&lab.pod(from)?.ns, to, PATIENCE).is_ok())
}

pub(crate) fn web(lab: &Lab, pod: &str, family: Family) -> Result<SocketAddr> {
    Ok((lab.pod(pod)?.address(family), topology::HTTP_PORT).into())
}

pub(crate) fn wait_for(lab: &Lab, what: &str, from: &str, to: SocketAddr, open: bool) -> Result<()> {
    wait::until_true(what, SOON, || Ok(gets(lab, from, to)? == open))
}
