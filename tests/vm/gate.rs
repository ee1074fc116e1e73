//! `--cni-gate` on a node that boots: the container runtime gets its network configuration after the first rules.
//!
//! The daemon's folder in memory is a tmpfs that is unmounted as a boot would do it, the API server is a scripted one that
//! keeps silent, and the firewall is kept from writing by somebody who owns its table.

#![allow(clippy::disallowed_methods, reason = "what keeps the firewall out is a program")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Daemon, DaemonOptions, Lab, Namespace, Options, topology, wait};
use serde_json::{Value, json};

use super::router::dynamic;
use super::server::{Feed, Server};
use super::{SOON, with_lab};

/// Where the daemon keeps what is behind the link.
const MEMORY: &str = "/run/ferrovia";
const NAME: &str = "10-kuberouter.conflist";
const NETWORK: &str =
    r#"{"name":"x","plugins":[{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local"}}]}"#;

/// A tmpfs at the daemon's folder. Dropping it is what a boot does.
struct Memory;

impl Memory {
    fn mount() -> Result<Memory> {
        fs::create_dir_all(MEMORY)?;
        rustix::mount::mount("none", MEMORY, "tmpfs", rustix::mount::MountFlags::empty(), None)?;
        Ok(Memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(MEMORY, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Owns the firewall's table as long as it lives: nobody else can write to it.
struct Owner(Child);

impl Owner {
    fn start(ns: &Namespace) -> Result<Owner> {
        let mut command = Command::new("nft");
        command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = ns.run(|| command.spawn().context("start nft"))?;
        let input = child.stdin.as_mut().context("no input")?;
        input.write_all(b"add table inet ferrovia-firewall { flags owner; }\n")?;
        input.flush()?;
        let owner = Owner(child);
        wait::until_true("the table has an owner", SOON, || Ok(rules(ns).contains("flags owner")))?;
        Ok(owner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn rules(ns: &Namespace) -> String {
    ns.command("nft list table inet ferrovia-firewall").unwrap_or_default()
}

/// What the API server says of a resource, as one streamed list. The stream goes on while the feed lives.
fn say(server: &Server, resource: &'static str, objects: &[Value]) -> Feed {
    let feed = server.script(resource).stream();
    for object in objects {
        feed.added(object);
    }
    feed.listed("9");
    feed
}

fn node() -> Value {
    let prefixes = Family::ALL.map(|family| topology::pod_prefix(family, 1));
    let addresses =
        Family::ALL.map(|family| json!({"type": "InternalIP", "address": topology::node_address(family, 1)}));
    json!({
        "kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "resourceVersion": "2"},
        "spec": {"podCIDR": prefixes[0], "podCIDRs": prefixes}, "status": {"addresses": addresses},
    })
}

fn isolated_pod() -> [Value; 2] {
    let address = topology::pod_address(Family::V4, 1, 1);
    let pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "default", "name": "p11", "resourceVersion": "3"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "main"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    });
    let policy = json!({
        "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"namespace": "default", "name": "nothing-in", "resourceVersion": "4"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    [pod, policy]
}

struct Boot<'a> {
    lab: &'a Lab,
    path: PathBuf,
}

impl Boot<'_> {
    fn start(&self, flags: &[&str]) -> Result<Daemon> {
        let mut options = DaemonOptions::with(&["--run-router=true", "--run-firewall=true"]);
        options.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        options.environment.push(("KUBE_ROUTER_CNI_CONF_FILE".to_owned(), self.path.display().to_string()));
        self.lab.start_daemon(1, &options)
    }

    fn is_closed(&self) -> bool {
        self.path.is_symlink() && fs::read(&self.path).is_err()
    }
}

/// The whole life of a gate on one node.
fn live(lab: &Lab) -> Result<()> {
    let ns = lab.node(1)?.ns.clone();
    let folder = lab.directory().join("net.d");
    fs::create_dir_all(&folder)?;
    let boot = Boot { lab, path: folder.join(NAME) };
    fs::write(&boot.path, NETWORK)?;
    let memory = Memory::mount()?;
    let mut daemon = boot.start(&["--cni-gate"])?;
    daemon.wait_ready()?;
    wait::until_true("the file is a link", SOON, || Ok(boot.path.is_symlink()))?;
    let before = fs::read_to_string(&boot.path)?;
    ensure!(before.contains(&topology::pod_prefix(Family::V4, 1)), "{before}");
    daemon.stop()?;
    ensure!(fs::read_to_string(&boot.path)? == before, "a daemon that stops takes nothing away");

    drop(memory);
    let _memory = Memory::mount()?;
    ns.command("nft delete table inet ferrovia-firewall")?;
    ensure!(boot.is_closed(), "after a boot the link leads nowhere");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let server = ns.run(|| Ok(tokio.block_on(Server::start())))?;
    // Silent until it is told what to say.
    for resource in ["nodes", "pods", "networkpolicies"] {
        server.script(resource);
    }
    // A cluster without ClusterNetworkPolicy.
    server.script("v1alpha2").refuse(404, "NotFound", "no such version");
    let master = format!("--master={}", server.url());
    let daemon = boot.start(&["--cni-gate", "--manifests=", &master])?;
    wait::until_true("it asks for policies", SOON, || Ok(!server.queries("networkpolicies").is_empty()))?;
    wait::until_true("it says so", SOON, || Ok(daemon.log().contains("the CNI gate is closed")))?;
    wait::throughout("the gate is closed", SOON / 10, || Ok(boot.is_closed()))?;
    ensure!(daemon.metric("ferrovia_cni_gate_closed", &[])? > 0.0, "no metric says so");

    let owner = Owner::start(&ns)?;
    let [pod, policy] = isolated_pod();
    let _feeds =
        [say(&server, "nodes", &[node()]), say(&server, "pods", &[pod]), say(&server, "networkpolicies", &[policy])];
    let routing = ["stage=\"applied\"", "room=\"routing\""];
    let passed = || Ok(daemon.metric("ferrovia_generation", &routing)? >= 1.0);
    wait::until_true("the router is through its first pass", SOON, passed).with_context(|| daemon.log())?;
    wait::throughout("rules are not in force, so the gate is closed", SOON / 10, || Ok(boot.is_closed()))?;
    let (_, status) = daemon.admin("/status")?;
    ensure!(status.contains("waits for the firewall's rules"), "{status}");

    drop(owner);
    wait::until_true("the gate opens", SOON, || Ok(!boot.is_closed())).with_context(|| daemon.log())?;
    ensure!(rules(&ns).contains("nothing-in"), "pods may start without rules: {}", rules(&ns));
    ensure!(fs::read_to_string(&boot.path)? == before, "what was there before the boot");
    let metric = || Ok(daemon.metric("ferrovia_cni_gate_closed", &[])? == 0.0);
    wait::until_true("the metric follows", SOON, metric)?;

    drop(daemon);
    let mut daemon = boot.start(&["--cni-gate=false"])?;
    daemon.wait_ready()?;
    ensure!(!boot.path.is_symlink() && fs::read_to_string(&boot.path)? == before, "a plain file comes back");
    ensure!(!Path::new(MEMORY).join("cni").join(NAME).exists(), "and nothing is left behind");
    Ok(())
}

#[test]
fn pods_wait_for_the_first_rules_after_a_boot() {
    with_lab(Options { nodes: 1, ..dynamic() }, |lab| live(lab));
}
