//! L1-L37: kube-loadbalancer-controller, in our words: two of three masters speak for all nodes on port 1790, with the
//! addresses of the nodes that have an endpoint as next hops. The edge has all three masters in its file (E2).
//!
//! n1, n2 and n3 are masters, n4 joins late. `spec.externalIPs` names the address, as the lab's users typed it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::bird::{self, Version};
use ferrovia::testing::lab::edge_files::Neighbour;
use ferrovia::testing::lab::{Daemon, DaemonOptions, EndpointState, Lab, Load, Options, ServiceSpec, wait};

use super::site::{EdgeRouter, answered, edges, gobgp, hops, listeners, neighbour, session, time};
use super::{Cluster, SOON, Step, complete, not, play, step};

const PORT: u16 = 1790;
const VIP: &str = "139.198.190.117";
const PREFIX: &str = "139.198.190.117/32";
const DRAIN: &str = "ferrovia.dev/drain";
/// Names the nodes that speak, and by their number of two leaves the third silent.
const SPEAKER: &str = "ferrovia.dev/speaker";

/// The cluster and its edges.
pub(super) struct Balancer {
    daemons: Vec<Daemon>,
    edges: Vec<EdgeRouter>,
    lab: Lab,
    load: Option<Load>,
}

impl Cluster for Balancer {
    fn lab(&self) -> &Lab {
        &self.lab
    }
}

const DOCUMENTATION: &str = "documentation";

pub(super) const STEPS: &[Step<Balancer>] = &[
    step("L6", "EndpointSlices are all it reads", slices_only),
    not("L8", "the config map kube-gobgp-cfg", "flags carry the same settings: port, neighbour, both AS numbers"),
    not("L11", "config map, rbac, controller and daemon set in this order", "one manifest, docs/user/install.md"),
    step("L7", "the BGP port is 1790; a port that is taken is named with its cure", port_taken),
    step("L13", "the edge knows one master on port 1790", one_master),
    step("L14", "the edge takes its file again and needs nothing from us", reconfigure),
    step("L1", "sessions between masters and edge come up", masters_up),
    step("L15", "the daemons are ready", ready),
    step("L16", "one process, and ss shows it on the BGP port", one_process),
    step("L17", "gobgp neighbor on a master shows the edge established", neighbour_listed),
    step("L18", "the daemon runs on nodes that do not speak, too", silent_node),
    step("L19", "a Service of type LoadBalancer with an external address is accepted if granted", accepted),
    not("L37", "everyday use: type LoadBalancer and an address", "the sum of L19 to L31"),
    not("L20", "kubectl get svc -o wide", "kubectl's own output; nothing of ours in it"),
    step("L2", "the address is local on the nodes", local_address),
    step("L3", "the nodes of the pods are equal-cost next hops, announced by others", equal_cost),
    step("L21", "two pods on two nodes", two_pods),
    step("L22", "gobgp global rib lists one line for each next hop", rib),
    step("L23", "the next hops are the two pods' nodes, not the third", not_the_third),
    step("L24", "table local has the address; no rule is needed", table_local),
    not("L12", "the H3C switch: balance eibgp 8", DOCUMENTATION),
    not("L25", "H3C display current-configuration", DOCUMENTATION),
    step("L26", "the routes received from one master", received),
    step("L27", "birdc show protocols: Established", established),
    step("L28", "birdc show route all shows the address with its attributes", attributes),
    step("L35", "two speakers of three masters", two_speakers),
    step("L36", "two sessions Established, the third not, and nobody is harmed", third_not),
    step("L29", "without add-path the edge keeps one path, with it all", without_add_path),
    step("L30", "the address is bound to a NIC without an address", bare_nic),
    step("L9", "the way back is the peer's: no iprule config map", return_path),
    step("L10", "the default route of table main is not touched", default_route),
    step("L31", "the page opens from outside", page),
    step("L4", "the pod sees the client's own address", client_address),
    step("L5", "pods move and routes follow", pods_move),
    step("L32", "Services come and go, routes at the edge follow within seconds", services_change),
    step("L33", "a node is added and has what the others have; nobody restarts", node_added),
    step("L34", "a node is drained under load: no request is lost", drain_under_load),
];

#[test]
fn two_of_three_masters_speak_for_all_nodes() {
    guest!();
    complete('L', 37, STEPS).expect("a complete list");
    let options =
        Options { nodes: 4, pods: 1, static_routes: false, second_edge: true, absent: 1, ..Options::default() };
    play("L", options, build, STEPS);
}

fn build(lab: Lab) -> Result<Balancer> {
    let edges = edges(&lab, 65001, |edge| edge.e1(&neighbour("xenial100", 1, PORT, 65000)))?;
    for node in [1, 2] {
        lab.annotate(node, SPEAKER, Some("true"))?;
    }
    Ok(Balancer { daemons: Vec::new(), edges, lab, load: None })
}

fn daemon_options() -> DaemonOptions {
    DaemonOptions::with(&[
        "--run-router=true",
        "--enable-cni=false",
        "--cluster-asn=65000",
        "--bgp-port=1790",
        "--peer-router-ips=192.168.10.1,192.168.10.2",
        "--peer-router-asns=65001,65001",
        "--advertise-external-ip=true",
        "--service-external-ip-range=139.198.0.0/16",
        "--advertise-style=speakers",
        "--return-path=peer",
        "--ipvs-graceful-termination=true",
    ])
}

fn web() -> Result<ServiceSpec> {
    Ok(super::site::web("myweb", "10.96.209.55", &[VIP])?.external_local())
}

/// The edge's file with all three masters.
fn masters() -> Vec<Neighbour> {
    (1..=3).map(|node| neighbour(&format!("xenial10{}", node - 1), node, PORT, 65000)).collect()
}

impl Balancer {
    /// Both edges' kernels have exactly these nodes for the address.
    fn kernels(&self, nodes: &[u16]) -> Result<()> {
        self.edges.iter().try_for_each(|edge| edge.kernel(PREFIX, nodes))
    }
}

fn slices_only(l: &mut Balancer) -> Result<()> {
    l.lab.manifests().expose(&web()?, &l.lab.pods(&["p11", "p31"])?)?;
    let objects = l.lab.manifests().read("service-myweb")?;
    ensure!(objects.contains("kind: EndpointSlice") && !objects.contains("kind: Endpoints\n"), "{objects}");
    Ok(())
}

fn port_taken(l: &mut Balancer) -> Result<()> {
    let node = l.lab.node(1)?;
    let address = std::net::SocketAddr::new(node.address(Family::V4), PORT);
    let taken = node.ns.run(|| Ok(std::net::TcpListener::bind(address)?))?;
    let mut daemon = l.lab.start_daemon(1, &daemon_options())?;
    wait::until("the taken port is named", SOON, || {
        let log = daemon.log();
        ensure!(log.contains("1790") && log.to_lowercase().contains("in use"), "{log}");
        Ok(())
    })?;
    drop(taken);
    drop(daemon.try_status()?.is_none().then(|| daemon.stop()));
    l.daemons = l.lab.start_daemons(&daemon_options())?;
    Ok(())
}

fn one_master(l: &mut Balancer) -> Result<()> {
    l.edges.iter().try_for_each(|edge| edge.bird.wait_established("xenial100", SOON))
}

fn reconfigure(l: &mut Balancer) -> Result<()> {
    l.edges.iter().try_for_each(|edge| edge.bird.configure(&edge.edge.e2(&masters())))
}

fn masters_up(l: &mut Balancer) -> Result<()> {
    for edge in &l.edges {
        edge.bird.wait_established("xenial100", SOON)?;
        edge.bird.wait_established("xenial101", SOON)?;
    }
    Ok(())
}

fn ready(l: &mut Balancer) -> Result<()> {
    for daemon in &l.daemons {
        let (status, body) = daemon.health("/readyz")?;
        ensure!(status == 200, "/readyz answers {status}: {body}");
    }
    Ok(())
}

fn one_process(l: &mut Balancer) -> Result<()> {
    let node = l.lab.node(1)?;
    let listening = listeners(&node.ns)?;
    let pid = l.daemons.first().and_then(Daemon::pid).context("a running daemon")?;
    let line = listening.lines().find(|line| line.contains(":1790")).with_context(|| listening.clone())?;
    ensure!(line.contains("ferrovia") && line.contains(&format!("pid={pid},")), "{listening}");
    Ok(())
}

fn neighbour_listed(l: &mut Balancer) -> Result<()> {
    for node in [1, 2] {
        for edge in ["192.168.10.1", "192.168.10.2"] {
            let state = session(&l.lab, node, edge)?;
            ensure!(state == "Establ", "n{node} with {edge}: {state:?}");
        }
    }
    Ok(())
}

fn silent_node(l: &mut Balancer) -> Result<()> {
    let third = l.daemons.get_mut(2).context("a third daemon")?;
    ensure!(third.try_status()?.is_none() && third.health("/readyz")?.0 == 200, "n3");
    let listing = gobgp(&l.lab, 3, "neighbor")?;
    let edge = listing.lines().find(|line| line.starts_with("192.168.10.1 ")).context("no line of the edge")?;
    ensure!(!edge.contains("Establ"), "a node that does not speak has a session with the edge:\n{listing}");
    Ok(())
}

fn accepted(l: &mut Balancer) -> Result<()> {
    // The policy is Local: nodes without an endpoint forward nothing from outside.
    for node in [1, 3] {
        let node = l.lab.node(node)?;
        wait::until("the virtual server", SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains(&format!("TCP  {VIP}:8088")), "{listing}");
            Ok(())
        })?;
    }
    Ok(())
}

fn local_address(l: &mut Balancer) -> Result<()> {
    for node in 1..=3 {
        let addresses = l.lab.node(node)?.ns.command("ip -o addr show dev kube-dummy-if")?;
        ensure!(addresses.contains(&format!("{VIP}/32")), "n{node}: {addresses}");
    }
    Ok(())
}

fn equal_cost(l: &mut Balancer) -> Result<()> {
    l.kernels(&[1, 3])?;
    for edge in &l.edges {
        let route = edge.ns.command(&format!("ip route show {PREFIX}"))?;
        ensure!(route.matches("nexthop via").count() == 2 && route.matches("weight 1").count() == 2, "{route}");
    }
    Ok(())
}

fn two_pods(l: &mut Balancer) -> Result<()> {
    for name in ["p11", "p31"] {
        let pod = l.lab.pod(name)?;
        let reply = l.lab.http(&l.lab.node(pod.node)?.ns, (pod.address(Family::V4), 8080).into(), 1)?;
        ensure!(reply.iter().all(|reply| reply.pod == name), "{reply:?}");
    }
    Ok(())
}

fn rib(l: &mut Balancer) -> Result<()> {
    let rib = gobgp(&l.lab, 1, "global rib -a ipv4")?;
    let lines: Vec<&str> = rib.lines().filter(|line| line.contains(PREFIX)).collect();
    ensure!(lines.len() == 2, "{rib}");
    for hop in hops(&[1, 3]) {
        ensure!(lines.iter().any(|line| line.contains(&hop)), "{hop} is missing:\n{rib}");
    }
    ensure!(lines.iter().all(|line| line.contains("{Origin: ") && line.starts_with('*')), "{rib}");
    Ok(())
}

fn not_the_third(l: &mut Balancer) -> Result<()> {
    for edge in &l.edges {
        ensure!(bird::kernel_next_hops(&edge.ns, PREFIX)? == hops(&[1, 3]), "another set of next hops");
    }
    Ok(())
}

fn table_local(l: &mut Balancer) -> Result<()> {
    for node in 1..=3 {
        let ns = &l.lab.node(node)?.ns;
        let table = ns.command("ip route show table local")?;
        ensure!(table.contains(&format!("local {VIP} dev kube-dummy-if")), "n{node}: {table}");
        let rules = ns.command("ip rule list")?;
        ensure!(!rules.contains(VIP), "n{node}: {rules}");
    }
    Ok(())
}

fn received(l: &mut Balancer) -> Result<()> {
    for edge in &l.edges {
        let routes = edge.bird.ask("show route protocol xenial100")?;
        let address = routes.split(PREFIX).nth(1).with_context(|| routes.clone())?;
        ensure!(address.contains("via 192.168.10.11") && address.contains("via 192.168.10.13"), "{routes}");
    }
    Ok(())
}

fn established(l: &mut Balancer) -> Result<()> {
    for edge in &l.edges {
        let protocols = edge.bird.ask("show protocols")?;
        ensure!(protocols.matches("Established").count() == 2, "{protocols}");
    }
    Ok(())
}

fn attributes(l: &mut Balancer) -> Result<()> {
    for edge in &l.edges {
        let routes = edge.bird.ask(&format!("show route all {PREFIX}"))?;
        ensure!(routes.contains("BGP.as_path: 65000") && routes.contains("BGP.next_hop: 192.168.10.13"), "{routes}");
    }
    Ok(())
}

fn two_speakers(l: &mut Balancer) -> Result<()> {
    // Two speakers tell the same two next hops: four paths, folded into two by the kernel.
    l.edges.iter().try_for_each(|edge| edge.table(PREFIX, &[1, 1, 3, 3]))?;
    l.kernels(&[1, 3])
}

fn third_not(l: &mut Balancer) -> Result<()> {
    for edge in &l.edges {
        let third = edge.bird.session("xenial102")?;
        ensure!(!third.starts_with("Established"), "{third}");
    }
    Ok(())
}

fn without_add_path(l: &mut Balancer) -> Result<()> {
    let edge = l.edges.iter().find(|edge| edge.edge.version == Version::One).context("BIRD 1.6")?;
    edge.bird.configure(&edge.edge.e1_with(&neighbour("xenial100", 1, PORT, 65000), false))?;
    wait::until("one path", SOON, || {
        let hops = edge.bird.next_hops(PREFIX)?;
        ensure!(hops.len() == 1, "{hops:?}");
        Ok(())
    })?;
    edge.bird.configure(&edge.edge.e2(&masters()))?;
    edge.table(PREFIX, &[1, 1, 3, 3])
}

fn bare_nic(l: &mut Balancer) -> Result<()> {
    super::site::bare_uplink(&l.lab)?;
    let nic = l.lab.edge.command("ip -o -4 addr show dev eth1")?;
    ensure!(nic.trim().is_empty(), "{nic}");
    super::site::return_by_uplink(&l.lab, VIP)
}

fn return_path(l: &mut Balancer) -> Result<()> {
    // The second edge is nobody's default route: its clients get answers only by the way they came.
    let second = l.lab.second.as_ref().context("a second edge")?;
    let pod = answered(&l.lab, &second.far, &format!("{VIP}:8088"))?;
    ensure!(["p11", "p31"].contains(&pod.as_str()), "{pod}");
    Ok(())
}

fn default_route(l: &mut Balancer) -> Result<()> {
    for node in 1..=3 {
        let route = l.lab.node(node)?.ns.command("ip route show default")?;
        ensure!(route.trim() == "default via 192.168.10.1 dev eth0", "n{node}: {route}");
    }
    Ok(())
}

fn page(l: &mut Balancer) -> Result<()> {
    answered(&l.lab, &l.lab.far, &format!("{VIP}:8088"))?;
    l.lab.http(&l.lab.far, format!("{VIP}:8088").parse()?, 6).map(drop)
}

fn client_address(l: &mut Balancer) -> Result<()> {
    let replies = l.lab.http(&l.lab.far, format!("{VIP}:8088").parse()?, 4)?;
    let client = ferrovia::testing::lab::topology::far_address(Family::V4);
    ensure!(replies.iter().all(|reply| reply.client.ip() == client), "{replies:?}");
    Ok(())
}

fn pods_move(l: &mut Balancer) -> Result<()> {
    l.lab.manifests().expose(&web()?, &l.lab.pods(&["p11", "p21"])?)?;
    l.kernels(&[1, 2])?;
    l.lab.manifests().expose(&web()?, &l.lab.pods(&["p11", "p31"])?)?;
    l.kernels(&[1, 3])
}

fn services_change(l: &mut Balancer) -> Result<()> {
    let pods = l.lab.pods(&["p21"])?;
    let other = super::site::web("other", "10.96.209.56", &["139.198.190.118"])?.external_local();
    let look = |nodes: &'static [u16]| {
        move |edge: &EdgeRouter| -> Result<()> {
            let found = bird::kernel_next_hops(&edge.ns, "139.198.190.118/32")?;
            ensure!(found == hops(nodes), "{found:?}");
            Ok(())
        }
    };
    let added =
        time("its route", || l.lab.manifests().expose(&other, &pods), || l.edges.iter().try_for_each(look(&[2])))?;
    let gone = time("no route", || l.lab.manifests().delete("other"), || l.edges.iter().try_for_each(look(&[])))?;
    // An emulated machine that does other things as well takes many times what a node takes.
    ensure!(added < Duration::from_secs(30) && gone < Duration::from_secs(30), "{added:?} to add, {gone:?} to delete");
    Ok(())
}

fn node_added(l: &mut Balancer) -> Result<()> {
    let before: Vec<Option<u32>> = l.daemons.iter().map(Daemon::pid).collect();
    l.lab.join(4)?;
    let mut daemon = l.lab.start_daemon(4, &daemon_options())?;
    daemon.wait_ready()?;
    l.daemons.push(daemon);
    let listing = l.lab.node(4)?.ipvsadm()?;
    ensure!(listing.contains("TCP  10.96.209.55:8088"), "{listing}");
    l.lab.manifests().expose(&web()?, &l.lab.pods(&["p11", "p31", "p41"])?)?;
    l.kernels(&[1, 3, 4])?;
    let listing = l.lab.node(4)?.ipvsadm()?;
    ensure!(listing.contains(&format!("TCP  {VIP}:8088")), "{listing}");
    let after: Vec<Option<u32>> = l.daemons.iter().take(3).map(Daemon::pid).collect();
    ensure!(before == after, "somebody restarted");
    Ok(())
}

fn drain_under_load(l: &mut Balancer) -> Result<()> {
    let to = format!("{VIP}:8088").parse()?;
    let far = l.lab.far.clone();
    l.load = Some(Load::start(&[(&far, to), (&far, to)], Duration::from_secs(4)));
    let load = l.load.as_ref().context("a load")?;
    load.wait_answers(20, SOON)?;
    let drained = (|| {
        l.lab.annotate(3, DRAIN, Some("true"))?;
        l.kernels(&[1, 4])?;
        // The pod follows: it terminates, and its successor is ready on n2.
        let (one, two, three, four) = (l.lab.pod("p11")?, l.lab.pod("p21")?, l.lab.pod("p31")?, l.lab.pod("p41")?);
        l.lab.manifests().expose_as(
            &web()?,
            &[
                (one, EndpointState::Ready),
                (two, EndpointState::Ready),
                (three, EndpointState::TerminatingServing),
                (four, EndpointState::Ready),
            ],
        )?;
        l.kernels(&[1, 2, 4])?;
        load.wait_answers(30, SOON)
    })();
    let tally = l.load.take().context("a load")?.stop()?;
    drained?;
    tally.flawless(50)
}
