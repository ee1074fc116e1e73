//! E1-E4: the edge's files alone. GoBGP speaks here instead of the daemon, so that a failure of a lab can be told from
//! a misunderstanding of BIRD: these are the figures the labs expect, measured with another speaker.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::bird::{self, Version};
use ferrovia::testing::lab::edge_files::{Edge, Neighbour};
use ferrovia::testing::lab::{Bird, Gobgpd, Lab, Namespace, Options, topology, wait};

use super::{Cluster, SOON, Step, play, step};

const VIP: &str = "139.198.190.117/32";

/// Two edges, BIRD 2 and BIRD 1.6, and speakers on the nodes.
struct Edges {
    // Programs end before the namespaces they run in go.
    birds: Vec<(Edge, Namespace, Bird)>,
    speakers: Vec<Gobgpd>,
    lab: Lab,
}

const STEPS: &[Step<Edges>] = &[
    step("E1", "one master with ADD-PATH: two paths, one multipath kernel route, on 1.6 and 2", one_master),
    step("E1", "a next hop that is withdrawn leaves a plain route", withdrawn),
    step("E1", "without add paths there is one path only", no_add_paths),
    step("E2", "two of three masters speak: duplicates are folded, the third does no harm", three_masters),
    step("E2", "one master killed: the route stays; the last one stopped: it goes", masters_leave),
    step("E4", "an RR client without add paths loses ECMP, with it there are two next hops", reflector_client),
];

impl Cluster for Edges {
    fn lab(&self) -> &Lab {
        &self.lab
    }
}

#[test]
fn the_edge_routers_files_do_what_the_labs_rely_on() {
    guest!();
    let options = Options { nodes: 3, pods: 1, static_routes: false, second_edge: true, ..Options::default() };
    play("E", options, build, STEPS);
}

/// Both edges with E1.
fn build(lab: Lab) -> Result<Edges> {
    let second = lab.second.as_ref().context("a second edge")?;
    let places = [
        (Version::Two, lab.edge.clone(), topology::edge_address(Family::V4)),
        (Version::One, second.edge.clone(), topology::edge2_address(Family::V4)),
    ];
    let mut birds = Vec::new();
    for (version, ns, address) in places {
        let edge = Edge { version, address, asn: 65001 };
        let file = edge.e1(&master(1, 17900));
        let bird = Bird::start(&ns, &format!("bird-{version:?}"), lab.directory(), version, &file)?;
        birds.push((edge, ns, bird));
    }
    Ok(Edges { birds, speakers: Vec::new(), lab })
}

/// A node as a neighbour of the edge.
fn master(node: u16, port: u16) -> Neighbour {
    Neighbour::new(&format!("master{node}"), address(node), port, 65000)
}

fn address(node: u16) -> IpAddr {
    topology::node_address(Family::V4, node)
}

/// GoBGP's configuration on a node: both edges as neighbours, waiting to be called.
fn speaker(lab: &Lab, node: u16, port: u16, asn: u32, internal: bool) -> Result<Gobgpd> {
    let us = address(node);
    let mut file = format!("[global.config]\n as = {asn}\n router-id = \"{us}\"\n port = {port}\n");
    for edge in [topology::edge_address(Family::V4), topology::edge2_address(Family::V4)] {
        let peer = if internal { asn } else { 65001 };
        let reflector = if internal {
            format!(
                "[neighbors.route-reflector.config]\n route-reflector-client = true\n route-reflector-cluster-id = \"{us}\"\n"
            )
        } else {
            String::new()
        };
        file.push_str(&format!(
            "[[neighbors]]\n[neighbors.config]\n neighbor-address = \"{edge}\"\n peer-as = {peer}\n\
             [neighbors.transport.config]\n passive-mode = true\n{reflector}\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n afi-safi-name = \"ipv4-unicast\"\n\
             [neighbors.afi-safis.add-paths.config]\n send-max = 8\n"
        ));
    }
    Gobgpd::start(&lab.node(node)?.ns, &format!("gobgpd-n{node}"), lab.directory(), &file)
}

fn hops(nodes: &[u16]) -> Vec<String> {
    nodes.iter().map(|node| address(*node).to_string()).collect()
}

/// Every edge's kernel has exactly these nodes as next hops.
fn kernels(edges: &Edges, nodes: &[u16]) -> Result<()> {
    let hops = hops(nodes);
    let hops: Vec<&str> = hops.iter().map(String::as_str).collect();
    edges.birds.iter().try_for_each(|(_, ns, _)| bird::wait_kernel_next_hops(ns, VIP, &hops, SOON))
}

/// Every edge's BIRD has exactly these next hops, duplicates included.
fn tables(edges: &Edges, nodes: &[u16]) -> Result<()> {
    let wanted = hops(nodes);
    edges.birds.iter().try_for_each(|(edge, _, bird)| {
        wait::until(&format!("paths of BIRD {:?}", edge.version), SOON, || {
            let hops = bird.next_hops(VIP)?;
            ensure!(hops == wanted, "{hops:?} instead of {wanted:?}");
            Ok(())
        })
    })
}

fn one_master(edges: &mut Edges) -> Result<()> {
    let gobgpd = speaker(&edges.lab, 1, 17900, 65000, false)?;
    for (_, _, bird) in &edges.birds {
        bird.wait_established("master1", SOON)?;
    }
    gobgpd.announce(VIP, address(2), 1)?;
    gobgpd.announce(VIP, address(3), 2)?;
    edges.speakers.push(gobgpd);
    tables(edges, &[2, 3])?;
    kernels(edges, &[2, 3])
}

fn withdrawn(edges: &mut Edges) -> Result<()> {
    let gobgpd = edges.speakers.first().context("a speaker")?;
    gobgpd.withdraw(VIP, address(2), 1)?;
    kernels(edges, &[3])?;
    edges.speakers.first().context("a speaker")?.announce(VIP, address(2), 1)?;
    kernels(edges, &[2, 3])
}

fn no_add_paths(edges: &mut Edges) -> Result<()> {
    for (edge, ns, bird) in &edges.birds {
        bird.configure(&edge.e1_with(&master(1, 17900), false))?;
        bird.wait_established("master1", SOON)?;
        wait::until("one next hop", SOON, || {
            let hops = bird::kernel_next_hops(ns, VIP)?;
            ensure!(hops.len() == 1, "{hops:?}");
            Ok(())
        })?;
    }
    edges.speakers.clear();
    Ok(())
}

fn three_masters(edges: &mut Edges) -> Result<()> {
    let masters: Vec<Neighbour> = (1..=3).map(|node| master(node, 1790)).collect();
    for (edge, _, bird) in &edges.birds {
        bird.configure(&edge.e2(&masters))?;
    }
    for node in [1, 2] {
        let gobgpd = speaker(&edges.lab, node, 1790, 65000, false)?;
        gobgpd.announce(VIP, address(2), 1)?;
        gobgpd.announce(VIP, address(3), 2)?;
        edges.speakers.push(gobgpd);
    }
    tables(edges, &[2, 2, 3, 3])?;
    kernels(edges, &[2, 3])?;
    for (_, _, bird) in &edges.birds {
        let third = bird.session("master3")?;
        ensure!(!third.starts_with("Established"), "{third}");
    }
    Ok(())
}

fn masters_leave(edges: &mut Edges) -> Result<()> {
    edges.speakers.pop().context("a second speaker")?.kill()?;
    tables(edges, &[2, 3])?;
    kernels(edges, &[2, 3])?;
    edges.speakers.pop().context("a first speaker")?.stop()?;
    kernels(edges, &[])
}

fn reflector_client(edges: &mut Edges) -> Result<()> {
    let reflector = Neighbour::new("rr1", address(1), 179, 65001);
    for (edge, _, bird) in &edges.birds {
        bird.configure(&edge.e4(&reflector, false))?;
    }
    let gobgpd = speaker(&edges.lab, 1, 179, 65001, true)?;
    gobgpd.announce(VIP, address(2), 1)?;
    gobgpd.announce(VIP, address(3), 2)?;
    edges.speakers.push(gobgpd);
    for (_, ns, _) in &edges.birds {
        wait::until("one next hop", SOON, || {
            let hops = bird::kernel_next_hops(ns, VIP)?;
            ensure!(hops.len() == 1, "{hops:?}");
            Ok(())
        })?;
    }
    for (edge, _, bird) in &edges.birds {
        bird.configure(&edge.e4(&reflector, true))?;
    }
    kernels(edges, &[2, 3])
}
