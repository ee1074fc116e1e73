//! What policies forbid does not pass, what they allow does, and what a change forbids ends.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Connection, Options, ServiceSpec, topology, traffic, wait};
use serde_json::json;

use super::super::{SOON, with_lab};
use super::{Backend, PATIENCE, gets, only_from, policy, wait_for, web, write_pods};

both_backends! {
    a_policy_cuts_and_opens_traffic_of_every_kind
    a_stricter_policy_ends_connections_and_a_looser_one_does_not
}

fn a_policy_cuts_and_opens_traffic_of_every_kind(backend: Backend) {
    with_lab(Options::default(), |lab| {
        write_pods(lab, &[])?;
        let daemons = lab.start_daemons(&backend.options())?;
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
        let listing = backend.listing(&lab.node(1)?.ns)?;
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

fn a_stricter_policy_ends_connections_and_a_looser_one_does_not(backend: Backend) {
    with_lab(Options::default(), |lab| {
        write_pods(lab, &[])?;
        let _daemons = lab.start_daemons(&backend.options())?;
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
