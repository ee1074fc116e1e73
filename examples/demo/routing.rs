//! The steps with the edge router: what BGP told it, and what becomes of requests while a node is drained or dies.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::bird::{self, Version};
use ferrovia::testing::lab::{Bird, Daemon, Lab, Load, Namespace, ServiceSpec, Tally, daemon, topology, wait};

use super::narrator::Narrator;
use super::steps::{SOON, ask, tally};

/// The load-balancer address of these steps.
const VIP: &str = "198.51.100.80";
const PREFIX: &str = "198.51.100.80/32";
const DRAIN: &str = "ferrovia.dev/drain";
/// The file of the edge router: one session for each node, BFD, equal paths together in the kernel.
const EDGE_FILE: &str = "\
router id 192.168.10.1;
protocol device { scan time 10; }
protocol kernel { ipv4 { import none; export all; }; merge paths on; }
protocol kernel { ipv6 { import none; export all; }; merge paths on; }
protocol bfd { interface \"eth0\" { interval 500 ms; multiplier 3; }; }
template bgp node {
  local 192.168.10.1 as 65001; bfd on;
  connect delay time 1; error wait time 1, 5;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
protocol bgp n1 from node { neighbor 192.168.10.11 as 64512; }
protocol bgp n2 from node { neighbor 192.168.10.12 as 64512; }
protocol bgp n3 from node { neighbor 192.168.10.13 as 64512; }
";

/// How the daemons speak BGP in the demonstration.
pub(crate) const FLAGS: [&str; 11] = [
    "--run-router=true",
    "--enable-cni=false",
    "--bgp-graceful-restart=true",
    "--peer-router-ips=192.168.10.1",
    "--peer-router-asns=65001",
    "--advertise-cluster-ip=true",
    "--advertise-loadbalancer-ip=true",
    "--enable-bfd=true",
    "--bfd-desired-min-tx-interval=500",
    "--bfd-required-min-rx-interval=500",
    "--drain-tag-time=2s",
];

/// Starts the edge router.
///
/// # Errors
/// Where BIRD is missing or does not take the file.
pub(crate) fn edge(lab: &Lab) -> Result<Bird> {
    lab.edge
        .set_sysctls(&[("net/ipv4/fib_multipath_hash_policy", "1"), ("net/ipv6/fib_multipath_hash_policy", "1")])?;
    Bird::start(&lab.edge, "bird", lab.directory(), Version::Two, EDGE_FILE)
}

/// Shows what `birdc COMMAND` prints on the edge, without its greeting.
fn birdc(narrator: &Narrator, bird: &Bird, command: &str) -> Result<()> {
    narrator.command("edge", &format!("birdc {command}"));
    for line in bird.ask(command)?.lines().filter(|line| !line.starts_with("BIRD ") && !line.is_empty()) {
        narrator.say(line);
    }
    Ok(())
}

/// Shows what our binary prints under the name `gobgp`.
fn gobgp(lab: &Lab, narrator: &Narrator, node: u16, arguments: &str) -> Result<String> {
    let node = lab.node(node)?;
    let path = lab.directory().join("gobgp");
    if !path.exists() {
        std::os::unix::fs::symlink(daemon::binary()?, &path)?;
    }
    narrator.command(&node.name, &format!("gobgp {arguments}"));
    let output = node.ns.command(&format!("{} {arguments}", path.display()))?;
    for line in output.lines() {
        narrator.say(line);
    }
    Ok(output)
}

/// The sessions come up, and pods find each other by what nodes told each other.
pub(crate) fn sessions(lab: &Lab, bird: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.say("The edge router is BIRD 2 with this file:\n");
    narrator.say(EDGE_FILE);
    narrator.expect("three sessions at the edge; at each node two with other nodes and one with the edge");
    for session in ["n1", "n2", "n3"] {
        bird.wait_established(session, SOON)?;
    }
    birdc(narrator, bird, "show protocols")?;
    wait::until("three sessions of n1", SOON, || {
        let listing = lab.node(1)?.ns.command(&format!("{} neighbor", daemon::binary()?.display()))?;
        ensure!(listing.matches("Establ").count() == 3, "{listing}");
        Ok(())
    })?;
    gobgp(lab, narrator, 1, "neighbor")?;
    gobgp(lab, narrator, 1, "global rib")?;
    narrator.expect("the other nodes' pods are reached by routes the daemon made (protocol 17)");
    let routes = narrator.run("n1", &lab.node(1)?.ns, "ip route show proto 17")?;
    for node in [2, 3] {
        ensure!(routes.contains(&format!("10.244.{node}.0/24 via 192.168.10.1{node}")), "{routes}");
    }
    Ok(())
}

/// Waits until the edge's kernel has exactly these nodes as next hops.
fn next_hops(lab: &Lab, nodes: &[u16]) -> Result<()> {
    let hops: Vec<String> = nodes.iter().map(|node| topology::node_address(Family::V4, *node).to_string()).collect();
    let hops: Vec<&str> = hops.iter().map(String::as_str).collect();
    bird::wait_kernel_next_hops(&lab.edge, PREFIX, &hops, SOON)
}

fn target() -> Result<SocketAddr> {
    Ok(format!("{VIP}:80").parse()?)
}

/// A load-balancer address, announced by three nodes.
pub(crate) fn multipath(lab: &Lab, bird: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("apply -f web.yaml     # type LoadBalancer, 198.51.100.80, externalTrafficPolicy Local");
    let service = ServiceSpec::new("web", &["10.96.0.80".parse()?])
        .port(Protocol::Tcp, 80)
        .load_balancer(&[VIP.parse()?])
        .external_local();
    lab.manifests().expose(&service, &lab.pods(&["p11", "p21", "p31"])?)?;
    narrator.expect("every node with an endpoint announces it; the edge spreads connections over all three");
    next_hops(lab, &[1, 2, 3])?;
    birdc(narrator, bird, &format!("show route {PREFIX}"))?;
    narrator.run("edge", &lab.edge, &format!("ip route show {PREFIX}"))?;
    gobgp(lab, narrator, 2, &format!("global rib {PREFIX}"))?;
    let replies = ask(narrator, "far", &lab.far, target()?, 24)?;
    ensure!(tally(&replies).len() == 3, "{:?}", tally(&replies));
    let client = topology::far_address(Family::V4);
    ensure!(replies.iter().all(|reply| reply.client.ip() == client), "the client's address was hidden");
    Ok(())
}

/// Two clients outside, until told to stop.
fn load(lab: &Lab) -> Result<Load> {
    let far: &Namespace = &lab.far;
    let load = Load::start(&[(far, target()?), (far, target()?)], Duration::from_secs(4));
    load.wait_answers(10, SOON)?;
    Ok(load)
}

/// Says what became of the requests.
fn report(narrator: &Narrator, tally: &Tally) {
    narrator.say(&format!(
        "{} requests answered {:?}, {} failed",
        tally.n_answered(),
        tally.answered,
        tally.failed.len()
    ));
    for (when, error) in &tally.failed {
        narrator.say(&format!("  failed after {:.1} s: {error}", when.as_secs_f32()));
    }
}

/// A node is taken out of traffic in order.
pub(crate) fn drain(lab: &Lab, bird: &Bird, narrator: &mut Narrator) -> Result<()> {
    let load = load(lab)?;
    narrator.say("far sends requests all the time");
    narrator.kubectl(&format!("annotate node n2 {DRAIN}=true"));
    narrator.expect("n2 leaves the edge's route in order: not one request fails");
    lab.annotate(2, DRAIN, Some("true"))?;
    let drained = next_hops(lab, &[1, 3]).and_then(|()| load.wait_answers(20, SOON));
    narrator.run("edge", &lab.edge, &format!("ip route show {PREFIX}"))?;
    narrator.kubectl(&format!("annotate node n2 {DRAIN}-"));
    lab.annotate(2, DRAIN, None)?;
    let back = next_hops(lab, &[1, 2, 3]);
    let tally = load.stop()?;
    report(narrator, &tally);
    drained?;
    back?;
    birdc(narrator, bird, &format!("show route {PREFIX}"))?;
    tally.flawless(30)
}

/// A node dies without a word.
pub(crate) fn death(lab: &Lab, daemons: &mut [Daemon], bird: &Bird, narrator: &mut Narrator) -> Result<()> {
    wait::until("three BFD sessions", SOON, || {
        let sessions = bird.ask("show bfd sessions")?;
        ensure!(sessions.matches("Up").count() == 3, "{sessions}");
        Ok(())
    })?;
    let load = load(lab)?;
    narrator.say("far sends requests all the time");
    narrator.command("n3", "kill -9 $(pidof ferrovia); ip link set eth0 down     # the node is gone");
    narrator.expect("BFD notices after 1.5 s; what was on its way to n3 is sent again by TCP and finds another node");
    daemons.get_mut(2).context("a third daemon")?.kill()?;
    lab.node(3)?.ns.ip("link set eth0 down\n")?;
    let start = std::time::Instant::now();
    let left = next_hops(lab, &[1, 2]);
    let took = start.elapsed();
    let more = load.wait_answers(20, SOON);
    let tally = load.stop()?;
    narrator.run("edge", &lab.edge, &format!("ip route show {PREFIX}"))?;
    narrator.say(&format!("the edge left n3 after {:.1} s", took.as_secs_f32()));
    report(narrator, &tally);
    left?;
    more?;
    // Connections that were open to a pod of n3 cannot be saved; with two clients those are two at most.
    ensure!(tally.failed.len() <= 4, "{} requests failed", tally.failed.len());
    narrator.say("n3 comes back:");
    lab.node(3)?
        .ns
        .ip("link set eth0 up\nroute replace default via 192.168.10.1\naddr replace fd10::13/64 dev eth0 nodad\n\
         route replace default via fd10::1\n")?;
    if let Some(daemon) = daemons.get_mut(2) {
        *daemon = lab.start_daemon(3, &super::daemon_options())?;
        daemon.wait_ready()?;
    }
    next_hops(lab, &[1, 2, 3])?;
    narrator.run("edge", &lab.edge, &format!("ip route show {PREFIX}"))?;
    lab.manifests().delete("web")
}
