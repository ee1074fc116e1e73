//! Direct server return under policies: what is tunnelled to a pod is judged by the packet inside, with both backends of rules.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::daemon::run_once;
use ferrovia::testing::lab::{Connection, DaemonOptions, Lab, Namespace, Options, topology, traffic, wait};
use serde_json::json;

use super::dsr::{ATTEMPT, Runtime, answered_by, direct, to_vip};
use super::firewall::{Backend, generation};
use super::{SOON, with_lab};

both_backends!(policies_hold_for_what_is_tunnelled answers_reach_a_pod_that_may_receive_nothing_else);

/// The table of nftables that looks inside.
fn table(backend: Backend) -> &'static str {
    match backend {
        Backend::Nftables => "ferrovia-firewall",
        Backend::Iptables => "ferrovia-tunnelled",
    }
}

/// What somebody else does to rules is seen within two seconds.
fn options(runtime: &Runtime, backend: Backend) -> DaemonOptions {
    DaemonOptions::with(&[&runtime.endpoint(), "--run-firewall=true", "--iptables-sync-period=2s", backend.flag()])
}

/// A policy for all pods of the namespace, as one file.
fn policy(lab: &Lab, spec: serde_json::Value) -> Result<()> {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "direct", "namespace": "default"}, "spec": spec,
    });
    lab.manifests().write("policies", &[policy])
}

/// Lets the pods' HTTP port be reached from these addresses only.
fn only_from(lab: &Lab, addresses: [IpAddr; 2]) -> Result<()> {
    let blocks = addresses.map(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        json!({"ipBlock": {"cidr": format!("{address}/{bits}")}})
    });
    policy(lab, json!({"podSelector": {}, "ingress": [{"from": blocks, "ports": [{"port": topology::HTTP_PORT}]}]}))
}

fn becomes(what: &str, from: &Namespace, to: SocketAddr, open: bool) -> Result<()> {
    wait::until_true(&format!("{what}: {to} is open: {open}"), SOON, || {
        Ok(traffic::http_once(from, to, ATTEMPT).is_ok() == open)
    })
}

fn policies_hold_for_what_is_tunnelled(backend: Backend) {
    with_lab(Options { nodes: 2, pods: 2, ..Options::default() }, |lab| {
        let runtime = Runtime::start(lab)?;
        let _daemons = lab.start_daemons(&options(&runtime, backend))?;
        let (near, far) = (Family::ALL.map(topology::near_address), Family::ALL.map(topology::far_address));
        // The edge sends the VIPs to node 1: the tunnel leads to another node, then to a pod beside its beginning.
        for pod in ["p21", "p11"] {
            policy(lab, json!({"podSelector": {"matchLabels": {"no": "pod"}}}))?;
            lab.manifests().expose(&direct()?, &[lab.pod(pod)?])?;
            for family in Family::ALL {
                let vip = to_vip(family, topology::HTTP_PORT)?;
                answered_by(lab, pod, vip)?;
                let mut connection = Connection::open(&lab.far, vip)?;
                connection.request()?;

                only_from(lab, near)?;
                becomes("another client", &lab.far, vip, false)?;
                ensure!(connection.request().is_err(), "{vip}: what is open goes on against the policy");
                only_from(lab, far)?;
                becomes("the client that is allowed", &lab.far, vip, true)?;
                // The port counts, too: that of the packet inside.
                let other = json!([{"from": [], "ports": [{"port": topology::HTTP_PORT + 1}]}]);
                policy(lab, json!({"podSelector": {}, "ingress": other}))?;
                becomes("another port", &lab.far, vip, false)?;
                policy(lab, json!({"podSelector": {"matchLabels": {"no": "pod"}}}))?;
                becomes("no policy", &lab.far, vip, true)?;
            }
        }
        // What a pod may send, to a pod behind such a Service on another node.
        lab.manifests().expose(&direct()?, &[lab.pod("p21")?])?;
        let (server, client) = (lab.pod("p21")?, &lab.pod("p12")?.ns);
        for family in Family::ALL {
            let vip = to_vip(family, topology::HTTP_PORT)?;
            becomes("a pod without policy", client, vip, true)?;
            let to = |address: IpAddr| {
                let block =
                    json!({"ipBlock": {"cidr": format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })}});
                json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [block]}]})
            };
            policy(lab, to(lab.pod("p22")?.address(family)))?;
            becomes("a pod that may send elsewhere", client, vip, false)?;
            policy(lab, to(server.address(family)))?;
            becomes("a pod that may send there", client, vip, true)?;
            policy(lab, json!({"podSelector": {"matchLabels": {"no": "pod"}}}))?;
        }
        let twins = || lab.node(1)?.ns.command(&format!("nft list table inet {}", table(backend)));
        let listing = twins()?;
        ensure!(listing.contains("@th,96,32") && listing.contains("tunnel6-ingress6"), "{listing}");
        lab.manifests().delete("direct")?;
        wait::until("the twins go with the Service", SOON, || match (backend, twins()) {
            (Backend::Iptables, gone) => {
                ensure!(gone.is_err(), "{gone:?}");
                let rules = backend.listing(&lab.node(1)?.ns)?;
                ensure!(!rules.contains("tunnelled to a pod"), "{rules}");
                Ok(())
            }
            (Backend::Nftables, listing) => {
                let listing = listing?;
                ensure!(!listing.contains("tunnel"), "{listing}");
                Ok(())
            }
        })
    });
}

/// IPVS confirms what its node has tracked of a client before it tunnels the packet on, so that answers are known for what they
/// are where they come in, from whichever node.
fn answers_reach_a_pod_that_may_receive_nothing_else(backend: Backend) {
    with_lab(Options { nodes: 2, pods: 2, ..Options::default() }, |lab| {
        let runtime = Runtime::start(lab)?;
        let _daemons = lab.start_daemons(&options(&runtime, backend))?;
        let client = lab.pod("p12")?;
        for server in ["p21", "p11"] {
            policy(lab, json!({"podSelector": {"matchLabels": {"no": "pod"}}}))?;
            lab.manifests().expose(&direct()?, &[lab.pod(server)?])?;
            let closed = |family| SocketAddr::new(client.address(family), topology::HTTP_PORT);
            for family in Family::ALL {
                becomes("no policy", &client.ns, to_vip(family, topology::HTTP_PORT)?, true)?;
            }
            policy(lab, json!({"podSelector": {"matchLabels": {"pod": "p12"}}, "policyTypes": ["Ingress"]}))?;
            for family in Family::ALL {
                becomes("the client receives nothing", &lab.pod("p22")?.ns, closed(family), false)?;
                let vip = to_vip(family, topology::HTTP_PORT)?;
                let reply = traffic::http_once(&client.ns, vip, ATTEMPT);
                let tracked = lab.node(1)?.ns.command(&format!("conntrack -L -f {family} -d {}", vip.ip()))?;
                ensure!(reply.is_ok(), "{server}: {reply:?}\n{tracked}");
            }
        }
        Ok(())
    });
}

/// Rules of iptables alone let nothing be tunnelled: without the table beside them there is no open moment.
#[test]
fn nothing_is_tunnelled_that_nobody_has_looked_into() {
    with_lab(Options { nodes: 2, pods: 2, ..Options::default() }, |lab| {
        let runtime = Runtime::start(lab)?;
        let (near, far) = (Family::ALL.map(topology::near_address), Family::ALL.map(topology::far_address));
        let options = options(&runtime, Backend::Iptables);
        let mut daemons = lab.start_daemons(&options)?;
        let ns = &lab.node(1)?.ns;
        let delete = || ns.command("nft delete table inet ferrovia-tunnelled");
        // A pod beside the beginning of the tunnel: the node sends what it gets.
        lab.manifests().expose(&direct()?, &[lab.pod("p11")?])?;
        only_from(lab, far)?;
        let vips = || Family::ALL.into_iter().map(|family| to_vip(family, topology::HTTP_PORT));
        for vip in vips() {
            becomes("who is allowed", &lab.far, vip?, true)?;
        }
        only_from(lab, near)?;
        for vip in vips() {
            becomes("who is not", &lab.far, vip?, false)?;
        }
        // Taken away: back at once, and meanwhile nothing passes.
        for vip in vips() {
            let vip = vip?;
            delete()?;
            wait::throughout("closed", Duration::from_secs(3), || {
                Ok(traffic::http_once(&lab.far, vip, Duration::from_millis(300)).is_err())
            })?;
            wait::until_true("no difference is left", SOON, || {
                Ok(daemons[0].admin("/debug/firewall/plan")?.1 == "nothing to do\n")
            })?;
        }
        ensure!(daemons[0].metric("ferrovia_drift_total", &["room=\"firewall\""])? > 0.0);
        only_from(lab, far)?;
        for vip in vips() {
            becomes("who is allowed", &lab.far, vip?, true)?;
        }
        // Nobody is there to put it back: whoever is allowed waits, too.
        daemons[0].kill()?;
        for vip in vips() {
            ensure!(traffic::http_once(&lab.far, vip?, ATTEMPT).is_ok(), "rules outlive the daemon");
        }
        delete()?;
        for vip in vips() {
            ensure!(traffic::http_once(&lab.far, vip?, ATTEMPT).is_err(), "nobody looks inside");
        }
        for last in [false, true] {
            daemons[0] = lab.start_daemon(1, &options)?;
            daemons[0].wait_ready()?;
            for vip in vips() {
                becomes("who is allowed", &lab.far, vip?, true)?;
            }
            if !last {
                daemons[0].kill()?;
            }
        }
        let ops = daemons[0].metric("ferrovia_ops_total", &["room=\"firewall\"", "result=\"ok\""])?;
        ensure!(ops == 0.0, "a restart that finds everything in force writes nothing, this one {ops}");
        ensure!(generation(&daemons[0])? > 0.0);

        // The other backend has it in its own table, and back; at no moment is the denied client let in.
        only_from(lab, near)?;
        for vip in vips() {
            becomes("who is not", &lab.far, vip?, false)?;
        }
        for backend in [Backend::Nftables, Backend::Iptables] {
            daemons[0].stop()?;
            daemons[0] = lab.start_daemon(1, &self::options(&runtime, backend))?;
            let vip = to_vip(Family::V4, topology::HTTP_PORT)?;
            wait::throughout("closed", Duration::from_secs(3), || {
                Ok(traffic::http_once(&lab.far, vip, Duration::from_millis(300)).is_err())
            })?;
            daemons[0].wait_ready()?;
            wait::until("only one table looks inside", SOON, || {
                let tables = ns.command("nft list tables")?;
                let is_there = |backend| tables.contains(table(backend));
                let other = if backend == Backend::Nftables { Backend::Iptables } else { Backend::Nftables };
                ensure!(is_there(backend) && !is_there(other), "{tables}");
                Ok(())
            })?;
        }
        daemons[0].stop()?;
        let (status, log) = run_once(ns, &["--cleanup-config".to_owned()])?;
        ensure!(status.success(), "{log}");
        let tables = ns.command("nft list tables")?;
        ensure!(!tables.contains("ferrovia"), "{tables}");
        ensure!(Backend::Iptables.listing(ns)?.is_empty(), "{}", Backend::Iptables.listing(ns)?);
        Ok(())
    });
}
