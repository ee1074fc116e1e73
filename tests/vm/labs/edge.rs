//! E1, E2: the edge's files alone. GoBGP speaks here instead of the daemon, so that a failure of a lab can be told from
//! a misunderstanding of BIRD: these are the figures the labs expect, measured with another speaker.

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::bird::Version;
use ferrovia::testing::lab::edge_files::Neighbour;
use ferrovia::testing::lab::{Bird, Gobgpd, Lab, Options, topology};

use super::site::{EdgeRouter, edges, neighbour, node_address};
use super::{Cluster, Step, play, step};

const VIP: &str = "139.198.190.117/32";

/// Two edges, BIRD 2 and BIRD 1.6, and speakers on the nodes.
pub(super) struct Edges {
    // Programs end before the namespaces they run in go.
    edges: Vec<EdgeRouter>,
    speakers: Vec<Gobgpd>,
    lab: Lab,
}

pub(super) const STEPS: &[Step<Edges>] = &[
    step("E1-E4", "BIRD 1.6 and 2 take their files, and 2 refuses those of 1.6", files),
    step("E1", "one master with ADD-PATH: two paths, one multipath kernel route, on 1.6 and 2", one_master),
    step("E1", "a next hop that is withdrawn leaves a plain route", withdrawn),
    step("E2", "two of three masters speak: duplicates are folded, the third does no harm", three_masters),
    step("E2", "one master killed: the route stays; the last one stopped: it goes", masters_leave),
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
    let edges = edges(&lab, 65001, |edge| edge.e1(&neighbour("mymaster", 1, 17900, 65000)))?;
    Ok(Edges { edges, speakers: Vec::new(), lab })
}

/// GoBGP on a node: both edges as neighbours, waiting to be called; two next hops announced.
fn speaker(lab: &Lab, node: u16, port: u16) -> Result<Gobgpd> {
    let us = node_address(node);
    let mut file = format!("[global.config]\n as = 65000\n router-id = \"{us}\"\n port = {port}\n");
    for edge in [topology::edge_address(Family::V4), topology::edge2_address(Family::V4)] {
        file.push_str(&format!(
            "[[neighbors]]\n[neighbors.config]\n neighbor-address = \"{edge}\"\n peer-as = 65001\n\
             [neighbors.transport.config]\n passive-mode = true\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n afi-safi-name = \"ipv4-unicast\"\n\
             [neighbors.afi-safis.add-paths.config]\n send-max = 8\n"
        ));
    }
    let gobgpd = Gobgpd::start(&lab.node(node)?.ns, &format!("gobgpd-n{node}"), lab.directory(), &file)?;
    gobgpd.announce(VIP, node_address(2), 1)?;
    gobgpd.announce(VIP, node_address(3), 2)?;
    Ok(gobgpd)
}

fn files(edges: &mut Edges) -> Result<()> {
    let masters: Vec<Neighbour> = (1..=3).map(|node| neighbour(&format!("master{node}"), node, 1790, 65000)).collect();
    let master = masters.first().context("a master")?;
    for router in &edges.edges {
        let (edge, parse) =
            (&router.edge, |file: &str| Bird::parse(&router.ns, edges.lab.directory(), router.edge.version, file));
        for file in [edge.e1(master), edge.e2(&masters), edge.e3(&masters), edge.e4(master, true)] {
            parse(&file)?;
        }
        if edge.version == Version::Two {
            parse(&edge.e3_range("192.168.10.0/24", 65000))?;
            let older = ferrovia::testing::lab::edge_files::Edge { version: Version::One, ..edge.clone() };
            let refused = parse(&older.e1(master)).err().context("BIRD 2 took a file of 1.6")?;
            ensure!(refused.to_string().contains("syntax error"), "{refused}");
        }
    }
    Ok(())
}

fn one_master(edges: &mut Edges) -> Result<()> {
    edges.speakers.push(speaker(&edges.lab, 1, 17900)?);
    edges.edges.iter().try_for_each(|edge| edge.table(VIP, &[2, 3]).and_then(|()| edge.kernel(VIP, &[2, 3])))
}

fn withdrawn(edges: &mut Edges) -> Result<()> {
    edges.speakers.first().context("a speaker")?.withdraw(VIP, node_address(2), 1)?;
    edges.edges.iter().try_for_each(|edge| edge.kernel(VIP, &[3]))?;
    edges.speakers.clear();
    Ok(())
}

fn three_masters(edges: &mut Edges) -> Result<()> {
    let masters: Vec<Neighbour> = (1..=3).map(|node| neighbour(&format!("master{node}"), node, 1790, 65000)).collect();
    for node in [1, 2] {
        edges.speakers.push(speaker(&edges.lab, node, 1790)?);
    }
    for edge in &edges.edges {
        edge.bird.configure(&edge.edge.e2(&masters))?;
    }
    for edge in &edges.edges {
        edge.table(VIP, &[2, 2, 3, 3])?;
        edge.kernel(VIP, &[2, 3])?;
        let third = edge.bird.session("master3")?;
        ensure!(!third.starts_with("Established"), "{third}");
    }
    Ok(())
}

fn masters_leave(edges: &mut Edges) -> Result<()> {
    edges.speakers.pop().context("a second speaker")?.kill()?;
    edges.edges.iter().try_for_each(|edge| edge.table(VIP, &[2, 3]).and_then(|()| edge.kernel(VIP, &[2, 3])))?;
    edges.speakers.pop().context("a first speaker")?.stop()?;
    edges.edges.iter().try_for_each(|edge| edge.kernel(VIP, &[]))
}
