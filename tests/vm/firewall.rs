//! Policies on the real kernel: what they forbid does not pass, what they allow does, and nobody else's rules suffer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{
    Connection, Daemon, DaemonOptions, Lab, Options, ServiceSpec, daemon::run_once, topology, traffic, wait,
};
use serde_json::{Value, json};

use super::{SOON, with_lab};

const FLAGS: [&str; 1] = ["--run-firewall=true"];
const TABLE: &str = "nft list table inet ferrovia-firewall";
/// How long a connection may take that is allowed; one that is denied is refused much sooner.
const PATIENCE: Duration = Duration::from_secs(3);

/// All pods of the lab as API objects, each with its name as label `app`, but for what `relabel` says.
fn write_pods(lab: &Lab, relabel: &[(&str, &str)]) -> Result<()> {
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

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

fn only_from(to: &str, from: &str) -> Value {
    policy(
        "only",
        json!({
            "podSelector": {"matchLabels": {"app": to}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"port": "web"}]}],
        }),
    )
}

fn gets(lab: &Lab, from: &str, to: SocketAddr) -> Result<bool> {
    Ok(traffic::http_once(&lab.pod(from)?.ns, to, PATIENCE).is_ok())
}

fn web(lab: &Lab, pod: &str, family: Family) -> Result<SocketAddr> {
    Ok((lab.pod(pod)?.address(family), topology::HTTP_PORT).into())
}

fn wait_for(lab: &Lab, what: &str, from: &str, to: SocketAddr, open: bool) -> Result<()> {
    wait::until_true(what, SOON, || Ok(gets(lab, from, to)? == open))
}

fn firewall_ops(daemon: &Daemon) -> Result<f64> {
    daemon.metric("ferrovia_ops_total", &["room=\"firewall\"", "result=\"ok\""])
}

#[test]
fn a_policy_cuts_and_opens_traffic_of_every_kind() {
    with_lab(Options::default(), |lab| {
        write_pods(lab, &[])?;
        let daemons = lab.start_daemons(&DaemonOptions::with(&FLAGS))?;
        let vips: [IpAddr; 2] = ["10.96.0.10".parse()?, "fd00:96::10".parse()?];
        let service = ServiceSpec::new("web", &vips).port_to(Protocol::Tcp, 80, topology::HTTP_PORT).node_port(30_080);
        lab.manifests().expose(&service, &lab.pods(&["p12"])?)?;
        for family in Family::ALL {
            for from in ["p11", "p21"] {
                wait_for(lab, "open without policies", from, web(lab, "p12", family)?, true)?;
            }
        }
        lab.manifests().write("policies", &[only_from("p12", "p11")])?;
        for (family, vip) in Family::ALL.into_iter().zip(vips) {
            let (pod, vip) = (web(lab, "p12", family)?, SocketAddr::new(vip, 80));
            wait_for(lab, "closed across nodes", "p21", pod, false)?;
            ensure!(!gets(lab, "p21", vip)?, "{family}: a Service does not lead around a policy");
            ensure!(gets(lab, "p11", pod)?, "{family}: the pod beside it is allowed");
            wait_for(lab, "the Service for the pod beside it", "p11", vip, true)?;
            ensure!(gets(lab, "p12", web(lab, "p21", family)?)?, "{family}: replies to what it asks");
            let node = &lab.node(1)?.ns;
            ensure!(traffic::http_once(node, pod, PATIENCE).is_ok(), "{family}: the node reaches its pod");
            ensure!(traffic::http_once(node, vip, PATIENCE).is_ok(), "{family}: also through the Service");
            let port = SocketAddr::new(lab.node(1)?.address(family), 30_080);
            ensure!(traffic::http_once(&lab.far, port, PATIENCE).is_err(), "{family}: a node port leads in");
        }
        let listing = lab.node(1)?.ns.command(TABLE)?;
        ensure!(listing.contains("default/only ingress[0]"), "{listing}");

        // On one node, by the label of the other side.
        lab.manifests().write("policies", &[only_from("p12", "friend")])?;
        for family in Family::ALL {
            wait_for(lab, "closed on one node", "p11", web(lab, "p12", family)?, false)?;
        }
        write_pods(lab, &[("p21", "friend")])?;
        for family in Family::ALL {
            wait_for(lab, "opened by a label", "p21", web(lab, "p12", family)?, true)?;
            ensure!(!gets(lab, "p11", web(lab, "p12", family)?)?);
        }
        // What a pod may send.
        let egress = json!({"podSelector": {"matchLabels": {"app": "p11"}}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24"]}}], "ports": [{"port": 8000, "endPort": 9000}]}
        ]});
        lab.manifests().write("policies", &[policy("out", egress)])?;
        wait_for(lab, "closed by an exception", "p11", web(lab, "p21", Family::V4)?, false)?;
        wait_for(lab, "open again", "p11", web(lab, "p12", Family::V4)?, true)?;
        ensure!(gets(lab, "p11", web(lab, "p31", Family::V4)?)?);
        ensure!(!gets(lab, "p11", web(lab, "p12", Family::V6)?)?, "the block has no IPv6 address");
        lab.manifests().write("policies", &[])?;
        for family in Family::ALL {
            wait_for(lab, "open without policies", "p11", web(lab, "p21", family)?, true)?;
        }
        ensure!(daemons[0].admin("/debug/firewall/findings")?.1.is_empty(), "nothing to find");
        Ok(())
    });
}

#[test]
fn a_stricter_policy_ends_connections_and_a_looser_one_does_not() {
    with_lab(Options::default(), |lab| {
        write_pods(lab, &[])?;
        let _daemons = lab.start_daemons(&DaemonOptions::with(&FLAGS))?;
        let vip: SocketAddr = "10.96.0.10:80".parse()?;
        let service = ServiceSpec::new("web", &[vip.ip()]).port_to(Protocol::Tcp, 80, topology::HTTP_PORT);
        lab.manifests().expose(&service, &lab.pods(&["p12"])?)?;
        wait_for(lab, "the Service", "p11", vip, true)?;
        let mut open: Vec<(&str, Connection)> = Vec::new();
        for (name, from, to) in [
            ("p11 beside", "p11", web(lab, "p12", Family::V4)?),
            ("p11 by Service", "p11", vip),
            ("p21 across", "p21", web(lab, "p12", Family::V6)?),
        ] {
            let mut connection = Connection::open(&lab.pod(from)?.ns, to)?;
            ensure!(connection.request()?.pod == "p12");
            open.push((name, connection));
        }
        lab.manifests().write("policies", &[only_from("p12", "p11")])?;
        let (_, across) = open.last_mut().context("three connections")?;
        wait::until_true("the denied connection ends", SOON, || Ok(across.request().is_err()))?;
        open.pop();
        for (name, connection) in &mut open {
            ensure!(connection.request().is_ok(), "{name} is allowed and lives on");
        }
        lab.manifests().write("policies", &[only_from("p12", "nobody")])?;
        for (name, connection) in &mut open {
            wait::until_true(name, SOON, || Ok(connection.request().is_err()))?;
        }
        Ok(())
    });
}

#[test]
fn the_table_outlives_the_daemon_and_nobody_else_s_rules_suffer() {
    const FOREIGN: &str = "table ip docker {\n chain forward {\n type filter hook forward priority 0; policy accept;\n \
                           ip saddr 172.17.0.0/16 counter accept\n }\n}\ntable inet firewalld {\n chain input {\n \
                           type filter hook input priority 10; policy accept;\n tcp dport 9 drop\n }\n}\n";
    with_lab(Options::default(), |lab| {
        write_pods(lab, &[])?;
        let ns = lab.node(1)?.ns.clone();
        ns.feed("nft -f -", FOREIGN)?;
        let foreign = |ns: &ferrovia::testing::lab::Namespace| -> Result<String> {
            Ok(ns.command("nft -s list table ip docker")? + &ns.command("nft -s list table inet firewalld")?)
        };
        let before = foreign(&ns)?;
        lab.manifests().write("policies", &[only_from("p12", "p11")])?;
        let mut daemons = lab.start_daemons(&DaemonOptions::with(&FLAGS))?;
        let to = web(lab, "p12", Family::V4)?;
        wait_for(lab, "closed", "p21", to, false)?;
        ensure!(gets(lab, "p11", to)?);
        for harm in [
            "nft delete table inet ferrovia-firewall",
            "nft flush chain inet ferrovia-firewall ingress",
            "nft flush map inet ferrovia-firewall ingress4",
            "nft insert rule inet ferrovia-firewall ingress accept",
        ] {
            ns.command(harm)?;
            wait_for(lab, harm, "p21", to, false)?;
            wait::until_true("no difference is left", SOON, || {
                Ok(daemons[0].admin("/debug/firewall/plan")?.1 == "nothing to do\n")
            })?;
            ensure!(!gets(lab, "p21", to)?, "repaired after {harm}");
        }
        ensure!(daemons[0].metric("ferrovia_drift_total", &["room=\"firewall\""])? > 0.0);

        daemons[0].kill()?;
        ensure!(!gets(lab, "p21", to)? && gets(lab, "p11", to)?, "the table outlives the daemon");
        // The first start may still cut what got in while rules were gone; the next one finds everything done.
        for last in [false, true] {
            daemons[0] = lab.start_daemon(1, &DaemonOptions::with(&FLAGS))?;
            daemons[0].wait_ready()?;
            ensure!(daemons[0].metric("ferrovia_drift_total", &["room=\"firewall\""])? == 0.0);
            if !last {
                daemons[0].kill()?;
            }
        }
        ensure!(firewall_ops(&daemons[0])? == 0.0, "a restart that finds everything in force writes nothing");
        ensure!(!gets(lab, "p21", to)? && gets(lab, "p11", to)?);
        ensure!(foreign(&ns)? == before, "foreign tables while ours runs");
        daemons[0].stop()?;
        let (status, log) = run_once(&ns, &["--cleanup-config".to_owned()])?;
        ensure!(status.success(), "{log}");
        ensure!(ns.command(TABLE).is_err(), "our table is gone");
        ensure!(foreign(&ns)? == before, "foreign tables after cleaning up");
        Ok(())
    });
}
