//! What comes from outside for a Service is judged by the pod that gets it and by the client, whatever address was asked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Lab, Namespace, Options, ServiceSpec, topology, traffic, wait};
use serde_json::{Value, json};

use super::super::{SOON, with_lab};
use super::{Backend, policy, write_pods};

const NODE_PORT: u16 = 30_080;
/// As many as there are endpoints: each gets one in turn.
const REQUESTS: usize = 2;
/// How long each may take. What is denied may stay without any answer.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pod that a policy isolates, and the one beside it that none does. Both serve.
const ISOLATED: &str = "p11";
const OTHER: &str = "p12";

/// Where a client is, and its addresses.
type Client<'a> = (&'a Namespace, fn(Family) -> IpAddr);

/// Lets the isolated pod receive from these addresses alone.
fn only_clients(address: impl Fn(Family) -> IpAddr) -> Value {
    let blocks = Family::ALL.map(|family| {
        let cidr = format!("{}/{}", address(family), family.host_length());
        json!({"ipBlock": {"cidr": cidr}})
    });
    policy("clients", json!({"podSelector": {"matchLabels": {"app": ISOLATED}}, "ingress": [{"from": blocks}]}))
}

/// Whom a client reaches, and how many requests failed. Every pod that answers must have seen `address`.
fn reached(client: &Namespace, address: IpAddr, to: SocketAddr) -> Result<(BTreeSet<String>, usize)> {
    let (mut pods, mut failed) = (BTreeSet::new(), 0);
    for _ in 0..REQUESTS {
        match traffic::http_once(client, to, ATTEMPT) {
            Ok(reply) => {
                ensure!(reply.client.ip() == address, "{} saw {} and not {address}", reply.pod, reply.client.ip());
                pods.insert(reply.pod);
            }
            Err(_) => failed += 1,
        }
    }
    Ok((pods, failed))
}

/// Waits until a client that pods see as `address` reaches both pods, or only the one that no policy isolates.
fn reaches(what: &str, client: &Namespace, address: IpAddr, to: SocketAddr, both: bool) -> Result<()> {
    wait::until(&format!("{what}: {} to {to}", client.name()), SOON, || {
        let (pods, failed) = reached(client, address, to)?;
        let expected: BTreeSet<String> =
            if both { [ISOLATED, OTHER].map(String::from).into() } else { [OTHER.into()].into() };
        ensure!(pods == expected && (failed > 0) != both, "{pods:?} answered, {failed} requests failed");
        Ok(())
    })
}

/// The addresses a Service has outside, when packets enter at this node.
fn targets(vips: [IpAddr; 2], family: Family, entry: u16) -> [SocketAddr; 2] {
    let [v4, v6] = vips;
    let vip = if family == Family::V4 { v4 } else { v6 };
    [SocketAddr::new(vip, 80), SocketAddr::new(topology::node_address(family, entry), NODE_PORT)]
}

/// Sends what both clients ask load balancers to a node.
fn enter_at(lab: &Lab, entry: u16) -> Result<()> {
    lab.announce(&topology::LOAD_BALANCER_RANGES, entry)?;
    lab.announce_near(&topology::LOAD_BALANCER_RANGES, entry)
}

both_backends!(what_a_service_gets_from_outside_is_judged_by_its_pod_and_client);

fn what_a_service_gets_from_outside_is_judged_by_its_pod_and_client(backend: Backend) {
    with_lab(Options { nodes: 2, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        let _daemons = lab.start_daemons(&backend.options())?;
        let vips: [IpAddr; 2] = ["198.51.100.10".parse()?, "2001:db8:64::10".parse()?];
        let cluster_ips: [IpAddr; 2] = ["10.96.0.10".parse()?, "fd00:96::10".parse()?];
        let service = ServiceSpec::new("web", &cluster_ips)
            .port_to(Protocol::Tcp, 80, topology::HTTP_PORT)
            .node_port(NODE_PORT)
            .load_balancer(&vips);
        let pods = lab.pods(&[ISOLATED, OTHER])?;
        let clients: [Client<'_>; 2] = [(&lab.far, topology::far_address), (&lab.near, topology::near_address)];
        enter_at(lab, 1)?;
        for (word, service) in [("Cluster", service.clone()), ("Local", service.clone().external_local())] {
            lab.manifests().expose(&service, &pods)?;
            for (allowed, denied) in [(clients[0], clients[1]), (clients[1], clients[0])] {
                lab.manifests().write("policies", &[only_clients(allowed.1)])?;
                for family in Family::ALL {
                    for to in targets(vips, family, 1) {
                        reaches(word, allowed.0, allowed.1(family), to, true)?;
                        reaches(word, denied.0, denied.1(family), to, false)?;
                    }
                }
            }
        }
        // A node that passes them on to another one asks in its own name, and that is whom policies there judge.
        enter_at(lab, 2)?;
        lab.manifests().expose(&service, &pods)?;
        let first_node = |family| topology::node_address(family, 2);
        for (clients, both) in [(only_clients(topology::far_address), false), (only_clients(first_node), true)] {
            lab.manifests().write("policies", &[clients])?;
            for family in Family::ALL {
                for to in targets(vips, family, 2) {
                    reaches("from another node", &lab.far, first_node(family), to, both)?;
                }
            }
        }
        // By the client's own address where it is known: the same policy, the other node.
        for family in Family::ALL {
            let to = SocketAddr::new(topology::node_address(family, 1), NODE_PORT);
            reaches("on the pod's node", &lab.far, topology::far_address(family), to, false)?;
        }
        Ok(())
    });
}
