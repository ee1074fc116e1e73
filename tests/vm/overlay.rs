//! Across subnets: what hosts and outside clients send to pods through a tunnel arrives and is answered, whatever the
//! kernel is told about sources it would not send back to by the same link.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{DaemonOptions, Lab, Options, ServiceSpec, topology, traffic, wait};

use super::{SOON, with_lab};

const NODE_PORT: u16 = 30080;
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
const VIPS: [&str; 2] = ["198.51.100.10", "2001:db8:64::10"];
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

fn vips(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("an address"))
}

/// n1 in the first rack, n2 in the second; `near` sends what is for the cluster to n1.
fn across_subnets(rp_filter: &str, encapsulation: &str) {
    let options = Options { nodes: 2, pods: 1, static_routes: false, in_second_rack: 1, ..Options::default() };
    with_lab(options, |lab| {
        for node in lab.nodes() {
            let keys = ["all", "default", "eth0"].map(|link| format!("net/ipv4/conf/{link}/rp_filter"));
            let settings: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), rp_filter)).collect();
            node.ns.set_sysctls(&settings)?;
        }
        let mut flags = vec!["--run-router=true", "--overlay-type=subnet", "--enable-cni=false"];
        let overlay = format!("--overlay-encap={encapsulation}");
        flags.push(&overlay);
        // The router alone first: nobody else loosens a filter for all links.
        let mut alone = flags.clone();
        alone.push("--run-service-proxy=false");
        let mut daemons = lab.start_daemons(&DaemonOptions::with(&alone))?;
        for family in Family::ALL {
            let prefix = topology::pod_prefix(family, 2);
            let entry = lab.node(1)?.address(family);
            lab.near.ip(&format!("route replace {prefix} via {entry}\n"))?;
            host_to_pod(lab, family)?;
            // Routed, not translated: the source leads to the node's uplink, not into the tunnel.
            let pod = SocketAddr::new(lab.pod("p21")?.address(family), topology::HTTP_PORT);
            seen_as(lab, "near by n1's route", &lab.near, pod, topology::near_address(family))?;
        }
        for daemon in &mut daemons {
            daemon.stop()?;
        }

        let mut daemons = lab.start_daemons(&DaemonOptions::with(&flags))?;
        let web = ServiceSpec::new("web", &vips(CLUSTER_IPS)).port(Protocol::Tcp, 80).node_port(NODE_PORT);
        lab.manifests().expose(&web.load_balancer(&vips(VIPS)), &lab.pods(&["p21"])?)?;
        for (family, vip) in Family::ALL.into_iter().zip(vips(VIPS)) {
            let entry = lab.node(1)?.address(family);
            lab.near.ip(&format!("route replace {vip} via {entry}\n"))?;
            host_to_pod(lab, family)?;
            for to in [SocketAddr::new(entry, NODE_PORT), SocketAddr::new(vip, 80)] {
                seen_as(lab, "near through a Service", &lab.near, to, entry)?;
            }
        }
        if let Some(daemon) = daemons.first_mut() {
            repaired(lab)?;
            daemon.stop()?;
        }
        Ok(())
    });
}

/// Host processes and pods of one node reach pods of the other, and back.
fn host_to_pod(lab: &Lab, family: Family) -> Result<()> {
    for (from, to) in [(1, "p21"), (2, "p11")] {
        let (node, pod) = (lab.node(from)?, lab.pod(to)?);
        let to = SocketAddr::new(pod.address(family), topology::HTTP_PORT);
        seen_as(lab, &node.name, &node.ns, to, node.address(family))?;
        let (asks, target) = (lab.pod(&format!("p{from}1"))?, to);
        seen_as(lab, &asks.name, &asks.ns, target, asks.address(family))?;
    }
    Ok(())
}

/// Waits until an endpoint answers and has seen this source.
fn seen_as(
    lab: &Lab,
    what: &str,
    from: &ferrovia::testing::lab::Namespace,
    to: SocketAddr,
    source: IpAddr,
) -> Result<()> {
    wait::until(&format!("{what}: {to} answers in {}", lab.directory().display()), SOON, || {
        let reply = traffic::http_once(from, to, ATTEMPT)?;
        ensure!(reply.client.ip() == source, "the pod saw {}, not {source}", reply.client);
        Ok(())
    })
}

/// An address somebody takes off a tunnel comes back.
fn repaired(lab: &Lab) -> Result<()> {
    let node = lab.node(1)?;
    let listing = || node.ns.command("ip -o -4 addr show to 192.168.10.11");
    let tunnel = listing()?.split_whitespace().find(|word| word.starts_with("tun-")).map(str::to_owned);
    let tunnel = tunnel.ok_or_else(|| anyhow::anyhow!("no tunnel has the node's address"))?;
    node.ns.command(&format!("ip addr del 192.168.10.11/32 dev {tunnel}"))?;
    wait::until("the address is back", SOON, || {
        let listing = listing()?;
        ensure!(listing.contains(&tunnel), "{listing}");
        Ok(())
    })
}

#[test]
fn ipip_with_a_strict_filter() {
    across_subnets("1", "ipip");
}

#[test]
fn ipip_with_a_loose_filter() {
    across_subnets("2", "ipip");
}

#[test]
fn ipip_without_a_filter() {
    across_subnets("0", "ipip");
}

#[test]
fn fou_with_a_strict_filter() {
    across_subnets("1", "fou");
}

#[test]
fn fou_without_a_filter() {
    across_subnets("0", "fou");
}
