//! C1-C18: Calico with a route reflector, a RouterOS edge and two subnets, in our words: annotations for peers, BIRD as
//! the stand-in for RouterOS (E4).
//!
//! n1 is the control node, n2 the reflector, n3 a worker beside them, n4 a worker in another subnet. The client `near`
//! is the outside host with two static routes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{
    Connection, Daemon, DaemonOptions, Lab, Load, Options, ServiceSpec, Tally, report, traffic, wait,
};

use super::site::{EdgeRouter, edges, gobgp, neighbour, own_routes, session, wait_own_route, wait_sessions};
use super::{Cluster, SOON, Step, complete, not, play, step};

const ASN: u32 = 63400;
const SERVER: &str = "kube-router.io/rr.server";
const CLIENT: &str = "kube-router.io/rr.client";
const PEERS: &str = "kube-router.io/peers";
const DNS: &str = "10.96.0.10";
const VIP: &str = "198.51.101.7";

/// The cluster and its edges.
pub(super) struct Reflector {
    daemons: Vec<Daemon>,
    edges: Vec<EdgeRouter>,
    lab: Lab,
}

impl Cluster for Reflector {
    fn lab(&self) -> &Lab {
        &self.lab
    }
}

pub(super) const STEPS: &[Step<Reflector>] = &[
    step("C1", "a control node, workers, a reflector, an edge: a full mesh of AS 63400 to begin with", mesh),
    step("C4", "only the labelled node becomes a client; the others keep their mesh", one_client),
    step("C5", "cluster ids dotted or as a number, in force without a restart", cluster_ids),
    step("C2", "the mesh ends and not one request between nodes fails", make_before_break),
    step("C3", "all nodes have their one session to the reflector", star),
    not(
        "C6",
        "the label route-reflector=true",
        "peer objects come with a later version; the annotation rr.server stands for it",
    ),
    step("C7", "the same session named again is opened once, and the overlap is told", overlap),
    step("C8", "the list of peers shows address, AS and state", list),
    step("C9", "a client has one connection on port 179, the reflector one with each node", connections),
    step(
        "C10",
        "an outside host with two static routes reaches services and pods, in the reflector's subnet and beyond",
        outside,
    ),
    step("C16", "UDP and TCP replies come from the address that was asked", reply_source),
    step("C13", "the edge waits in Active or OpenSent while our side is missing", edge_waits),
    step("C14", "naming the edge starts the session on both sides, taking it back stops it", edge_session),
    step("C15", "the edge learns pod prefixes by each node, not by the reflector", next_hops),
    step("C18", "a service address of several nodes has several next hops behind one reflector", add_path),
    step("C12", "CrossSubnet: plain inside a subnet, a tunnel across; none and full switch under open flows", overlays),
    step(
        "C11",
        "full overlay: the cluster works, and an outside host behind the reflector too, which in the document it does not",
        full_overlay,
    ),
    step("I9", "reflector to mesh and back: not one request between nodes fails", back_to_mesh),
    not("C17", "security groups of the cloud", "documentation"),
];

#[test]
fn calico_with_a_route_reflector() {
    guest!();
    complete('C', 18, STEPS).expect("a complete list");
    let options =
        Options { nodes: 4, pods: 1, static_routes: false, second_edge: true, in_second_rack: 1, ..Options::default() };
    play("C", options, build, STEPS);
}

fn build(lab: Lab) -> Result<Reflector> {
    let dns = ServiceSpec::new("dns", &[DNS.parse()?]).port(Protocol::Udp, 53).port(Protocol::Tcp, 53);
    lab.manifests().expose(&dns, &lab.pods(&["p31"])?)?;
    let web = super::site::web("web", "10.96.0.20", &[VIP])?;
    lab.manifests().expose(&web, &lab.pods(&["p11", "p31"])?)?;
    lab.label(2, "rr-id", Some("rr1"))?;
    for node in 1..=4 {
        lab.annotate(node, "kube-router.io/node.asn", Some(&ASN.to_string()))?;
    }
    // `near` and the edge reach the second rack through the edge; nodes of the first do so by their default route.
    let edges = edges(&lab, ASN, |edge| edge.e4(&neighbour("rr1", 2, 179, ASN), true))?;
    let daemons = lab.start_daemons(&daemon_options("subnet"))?;
    Ok(Reflector { daemons, edges, lab })
}

fn daemon_options(overlay: &str) -> DaemonOptions {
    let mut options = DaemonOptions::with(&[
        "--run-router=true",
        "--enable-cni=false",
        // 63400 is nobody's private number, which --cluster-asn insists on: each node names it.
        "--nodes-full-mesh=false",
        "--advertise-external-ip=true",
        // The reflector speaks for all nodes: what lies behind it is not lost in its best path.
        "--advertise-style=speakers",
        "--speaker-selector=rr-id=rr1",
    ]);
    options.flags.push(format!("--overlay-type={overlay}"));
    options
}

impl Reflector {
    /// The pod on a node.
    fn pod(&self, node: u16) -> Result<&ferrovia::testing::lab::Pod> {
        self.lab.pod(&format!("p{node}1"))
    }

    /// Waits until every pod reaches every other one, with its own address.
    fn all_pods_meet(&self) -> Result<()> {
        for (from, to) in [(1, 3), (3, 1), (1, 4), (4, 3), (2, 4)] {
            let (from, to) = (self.pod(from)?, self.pod(to)?);
            wait::until(&format!("{} reaches {}", from.name, to.name), SOON, || {
                let limit = Duration::from_secs(2);
                let reply = traffic::http_once(&from.ns, (to.address(Family::V4), 8080).into(), limit)?;
                ensure!(reply.client.ip() == from.address(Family::V4), "it saw {}", reply.client);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Requests between pods of different nodes while something changes.
    fn under_load(&self, change: impl FnOnce() -> Result<()>) -> Result<Tally> {
        let [one, three, four] = [self.pod(1)?, self.pod(3)?, self.pod(4)?];
        let to = |pod: &ferrovia::testing::lab::Pod| (pod.address(Family::V4), 8080).into();
        let load = Load::start(&[(&one.ns, to(three)), (&three.ns, to(four))], Duration::from_secs(3));
        load.wait_answers(10, SOON)?;
        let changed = change();
        let more = load.wait_answers(30, SOON);
        let tally = load.stop()?;
        changed?;
        more?;
        Ok(tally)
    }

    /// Starts all daemons again with another overlay.
    fn restart(&mut self, overlay: &str) -> Result<()> {
        for (daemon, number) in self.daemons.iter_mut().zip(1..) {
            daemon.stop()?;
            *daemon = self.lab.start_daemon(number, &daemon_options(overlay))?;
            daemon.wait_ready()?;
        }
        Ok(())
    }
}

fn mesh(c: &mut Reflector) -> Result<()> {
    (1..=4).try_for_each(|node| wait_sessions(&c.lab, node, 3))?;
    c.all_pods_meet()
}

fn one_client(c: &mut Reflector) -> Result<()> {
    c.lab.annotate(2, SERVER, Some("244.0.0.1"))?;
    c.lab.annotate(1, CLIENT, Some("244.0.0.1"))?;
    wait_sessions(&c.lab, 1, 1)?;
    wait_sessions(&c.lab, 3, 2)?;
    wait_sessions(&c.lab, 4, 2)?;
    c.all_pods_meet()
}

fn cluster_ids(c: &mut Reflector) -> Result<()> {
    let before: Vec<Option<u32>> = c.daemons.iter().map(Daemon::pid).collect();
    // 244.0.0.1 as a number.
    c.lab.annotate(1, CLIENT, Some("4093640705"))?;
    wait_sessions(&c.lab, 1, 1)?;
    wait_own_route(c.lab.node(1)?, "10.244.3.0/24", "192.168.10.13")?;
    let after: Vec<Option<u32>> = c.daemons.iter().map(Daemon::pid).collect();
    ensure!(before == after && after.iter().all(Option::is_some), "{before:?} became {after:?}");
    Ok(())
}

fn make_before_break(c: &mut Reflector) -> Result<()> {
    let tally = c.under_load(|| {
        c.lab.annotate(3, CLIENT, Some("244.0.0.1"))?;
        c.lab.annotate(4, CLIENT, Some("244.0.0.1"))?;
        wait_sessions(&c.lab, 3, 1)?;
        wait_sessions(&c.lab, 4, 1)
    })?;
    tally.flawless(40)
}

fn star(c: &mut Reflector) -> Result<()> {
    wait_sessions(&c.lab, 2, 3)?;
    for node in [1, 3, 4] {
        wait_sessions(&c.lab, node, 1)?;
        wait::until("the session to the reflector", SOON, || {
            let state = session(&c.lab, node, "192.168.10.12")?;
            ensure!(state == "Establ", "{state:?}");
            Ok(())
        })?;
    }
    c.all_pods_meet()
}

fn overlap(c: &mut Reflector) -> Result<()> {
    let peers = format!("- remoteip: 192.168.10.12\n  remoteasn: {ASN}\n");
    c.lab.annotate(1, PEERS, Some(&peers))?;
    let daemon = c.daemons.first().context("a daemon")?;
    wait::until("the overlap is told", SOON, || {
        let (_, status) = daemon.admin("/status")?;
        ensure!(status.contains("192.168.10.12") && status.contains("only once"), "{status}");
        Ok(())
    })?;
    wait_sessions(&c.lab, 1, 1)?;
    c.lab.annotate(1, PEERS, None)
}

fn list(c: &mut Reflector) -> Result<()> {
    let listing = gobgp(&c.lab, 2, "neighbor")?;
    for peer in ["192.168.10.11", "192.168.10.13", "192.168.20.14"] {
        let line = listing.lines().find(|line| line.starts_with(peer)).with_context(|| listing.clone())?;
        ensure!(line.contains("63400") && line.contains("Establ"), "{listing}");
    }
    Ok(())
}

fn connections(c: &mut Reflector) -> Result<()> {
    for (number, n) in [(1, 1), (2, 3), (3, 1), (4, 1)] {
        let node = c.lab.node(number)?;
        wait::until(&format!("{n} connections of n{number}"), SOON, || {
            let listing = node.ns.command("ss -Htn state established")?;
            let peers = listing
                .lines()
                .filter(|line| line.split_whitespace().filter(|word| word.ends_with(":179")).count() > 0);
            ensure!(peers.count() == n, "{listing}");
            Ok(())
        })?;
    }
    Ok(())
}

fn outside(c: &mut Reflector) -> Result<()> {
    // The host stays with its routes, whatever shorter way the reflector tells it of.
    let redirects = ["net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/eth0/accept_redirects"];
    c.lab.near.set_sysctls(&redirects.map(|key| (key, "0")))?;
    c.lab.near.ip("route replace 10.96.0.0/16 via 192.168.10.12\nroute replace 10.244.0.0/16 via 192.168.10.12\n")?;
    for node in [2, 3, 4] {
        let pod = c.pod(node)?;
        let to = (pod.address(Family::V4), 8080).into();
        let reply = wait::until(&format!("{} answers", pod.name), SOON, || {
            Ok(traffic::http_once(&c.lab.near, to, Duration::from_secs(2))?)
        })?;
        ensure!(reply.pod == pod.name, "{reply:?}");
    }
    let to = format!("{DNS}:53").parse()?;
    ensure!(c.lab.http(&c.lab.near, to, 3)?.iter().all(|reply| reply.pod == "p31"));
    Ok(())
}

fn reply_source(c: &mut Reflector) -> Result<()> {
    // A connected socket takes replies only from the address that was asked.
    let to = format!("{DNS}:53").parse()?;
    let replies = c.lab.udp(&c.lab.near, to, 5)?;
    ensure!(replies.iter().all(|reply| reply.pod == "p31"), "{replies:?}");
    c.lab.http(&c.lab.near, to, 3).map(drop)
}

fn edge_waits(c: &mut Reflector) -> Result<()> {
    for edge in &c.edges {
        let state = edge.bird.session("rr1")?;
        ensure!(["Active", "OpenSent", "Connect", "Idle"].iter().any(|word| state.starts_with(word)), "{state}");
    }
    Ok(())
}

/// The edges as peers of the reflector.
fn edge_peers() -> String {
    ["192.168.10.1", "192.168.10.2"].map(|edge| format!("- remoteip: {edge}\n  remoteasn: {ASN}\n")).concat()
}

fn edge_session(c: &mut Reflector) -> Result<()> {
    c.lab.annotate(2, PEERS, Some(&edge_peers()))?;
    for edge in &c.edges {
        edge.bird.wait_established("rr1", SOON)?;
    }
    wait_sessions(&c.lab, 2, 5)?;
    c.lab.annotate(2, PEERS, None)?;
    wait_sessions(&c.lab, 2, 3)?;
    for edge in &c.edges {
        wait::until("the session ends at the edge", SOON, || {
            let state = edge.bird.session("rr1")?;
            ensure!(!state.starts_with("Established"), "{state}");
            Ok(())
        })?;
    }
    c.lab.annotate(2, PEERS, Some(&edge_peers()))?;
    c.edges.iter().try_for_each(|edge| edge.bird.wait_established("rr1", SOON))
}

fn next_hops(c: &mut Reflector) -> Result<()> {
    for edge in &c.edges {
        for node in [1, 2, 3] {
            edge.kernel(&format!("10.244.{node}.0/24"), &[node])?;
        }
    }
    Ok(())
}

fn add_path(c: &mut Reflector) -> Result<()> {
    for edge in &c.edges {
        edge.kernel(&format!("{VIP}/32"), &[1, 3])?;
    }
    Ok(())
}

fn overlays(c: &mut Reflector) -> Result<()> {
    let plain = |c: &Reflector| wait_own_route(c.lab.node(1)?, "10.244.3.0/24", "via 192.168.10.13 dev eth0");
    let tunnelled = |c: &Reflector| {
        wait::until("a tunnel to the other subnet", SOON, || {
            let routes = own_routes(c.lab.node(1)?)?;
            let route = routes.iter().find(|route| route.starts_with("10.244.4.0/24"));
            ensure!(route.is_some_and(|route| route.contains("dev tun")), "{routes:?}");
            Ok(())
        })
    };
    plain(c)?;
    tunnelled(c)?;
    c.all_pods_meet()?;
    let mut open = Connection::open(&c.pod(1)?.ns, (c.pod(3)?.address(Family::V4), 8080).into())?;
    open.request()?;
    c.restart("none")?;
    plain(c)?;
    wait::until("no tunnel is left", SOON, || {
        let links = c.lab.node(1)?.ns.command("ip -o link show")?;
        ensure!(!links.contains("tun-"), "{links}");
        Ok(())
    })?;
    open.request().context("the flow inside the subnet was cut by overlay none")?;
    c.restart("subnet")?;
    plain(c)?;
    tunnelled(c)?;
    open.request().context("the flow inside the subnet was cut by overlay subnet")?;
    c.all_pods_meet()
}

fn full_overlay(c: &mut Reflector) -> Result<()> {
    c.restart("full")?;
    wait::until("tunnels to every node", SOON, || {
        let routes = own_routes(c.lab.node(1)?)?;
        let tunnels = routes.iter().filter(|route| route.starts_with("10.244.") && route.contains("dev tun"));
        ensure!(tunnels.count() == 3, "{routes:?}");
        Ok(())
    })?;
    c.all_pods_meet()?;
    // In the document it is dropped where it comes out of the tunnel, for the way back to its sender is another one: the
    // kernel drops that on a link without an address, and our tunnels have one.
    let to = (c.pod(3)?.address(Family::V4), 8080).into();
    let answered = |c: &Reflector| {
        wait::until("the outside host is answered", SOON, || {
            Ok(traffic::http_once(&c.lab.near, to, Duration::from_secs(2)).map(drop)?)
        })
    };
    answered(c)?;
    c.restart("subnet")?;
    c.all_pods_meet()?;
    answered(c)
}

fn back_to_mesh(c: &mut Reflector) -> Result<()> {
    c.lab.annotate(2, PEERS, None)?;
    wait_sessions(&c.lab, 2, 3)?;
    let tally = c.under_load(|| {
        (1..=4).try_for_each(|node| {
            c.lab.annotate(node, CLIENT, None)?;
            c.lab.annotate(node, SERVER, None)
        })?;
        (1..=4).try_for_each(|node| wait_sessions(&c.lab, node, 3))?;
        c.lab.annotate(2, SERVER, Some("244.0.0.1"))?;
        [1, 3, 4].into_iter().try_for_each(|node| c.lab.annotate(node, CLIENT, Some("244.0.0.1")))?;
        [1, 3, 4].into_iter().try_for_each(|node| wait_sessions(&c.lab, node, 1))
    })?;
    report(&format!("I9: {} requests answered, {} failed", tally.n_answered(), tally.failed.len()));
    tally.flawless(100)
}
