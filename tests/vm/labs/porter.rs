//! P1-P35: Porter, in our words: one node speaks for all on port 17900 over one session with ADD-PATH, the edge has its
//! file as the document gives it (E1), and a NIC without an address towards the clients.
//!
//! n1 is the master and runs another BGP daemon on port 179. BIRD 2 and BIRD 1.6 play the edge at the same time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::bird;
use ferrovia::testing::lab::edge_files::Neighbour;
use ferrovia::testing::lab::{Daemon, DaemonOptions, Frr, Gobgpd, Lab, Options, ServiceSpec, topology, traffic, wait};

use super::site::{EdgeRouter, answered, bare_uplink, edges, hops, listens, neighbour, return_by_uplink, session};
use super::{Cluster, SOON, Step, complete, not, play, step};

const PORT: u16 = 17900;
const VIP: &str = "139.198.121.228";
const PREFIX: &str = "139.198.121.228/32";

/// The cluster and its edges.
pub(super) struct Porter {
    daemons: Vec<Daemon>,
    edges: Vec<EdgeRouter>,
    /// Whoever has port 179 on the master.
    other: Gobgpd,
    lab: Lab,
}

impl Cluster for Porter {
    fn lab(&self) -> &Lab {
        &self.lab
    }
}

const DOCUMENTATION: &str = "documentation";
const POOLS: &str = "address pools come with a later version; spec.externalIPs and the granted range stand for them";

pub(super) const STEPS: &[Step<Porter>] = &[
    step("P1", "a cluster, edges that reach nodes and pods' ports, a public address, a client outside", places),
    step("P2", "BIRD 1.6 and BIRD 2 run side by side", both_birds),
    step("P18", "a label pins the speaker to the master", pinned),
    step("P19", "the daemons start and are ready", start),
    step("P3", "the session on port 17900, while another BGP daemon has 179", own_port),
    step("P13", "birdc show protocols: Established", established),
    step("P6", "the edge restarts and the session is there again", edge_restarts),
    step("P7", "every node is a neighbour of the edge; those that do not speak do no harm", every_node),
    not("P15", "one manifest to fetch", DOCUMENTATION),
    not("P16", "the config map bgp-cfg", "flags carry the same settings; importers come with a later version"),
    not("P20", "the Eip object", POOLS),
    step("P21", "a Service of type LoadBalancer, port 8088", service),
    step("P22", "externalIPs typed by hand, in a granted range", granted),
    not("P23", "the annotation protocol.porter.kubesphere.io", "compatibility kinds come with a later version"),
    step("P24", "a Service without an external address is ignored", ignored),
    step("P4", "several paths from one neighbour live together", add_paths),
    step("P5", "merge paths: one multipath route in the edge's kernel", merged),
    step("P28", "ip route on the edge: the address with two next hops, weight 1 each", multipath_route),
    step("P32", "the next hops are exactly the pods' nodes", invariant),
    step("P8", "a NIC without an address, state UP", bare_nic),
    step("P9", "ip_forward and rp_filter as the document sets them", sysctls),
    not("P10", "test ports in the cloud's firewall", DOCUMENTATION),
    step("P11", "without a way back the SYN is repeated", no_way_back),
    step("P12", "the rule for the public address on the edge lets replies leave by eth1", way_back),
    step("P17", "nodes need no rule: replies leave through the router they came from", return_path),
    step("P14", "the daemon changes no host route of the edge's network; --dry-run tells what it would do", dry_run),
    step("P27", "http://EIP:8088 is served", page),
    step("P29", "hash policy 0: one node for one client; policy 1: both nodes", hash_policy),
    step("P30", "a switch needs only ECMP turned on: FRR with maximum-paths 8", switch),
    step("P31", "requests of several sources are seen on each node, and the daemons count them", counted),
    step("P33", "table local has the address on kube-dummy-if, no rule", table_local),
    step("P25", "the log names the address that is announced", log_line),
    not("P26", "kubectl describe eip", POOLS),
    not("P34", "DNAT from 179 to 17900", "not needed: the port is configurable (P3), and 179 can be ours"),
    step("P35", "the Service is deleted: the route goes, and the address", withdrawal),
];

#[test]
fn porter_with_one_speaker_for_all() {
    guest!();
    complete('P', 35, STEPS).expect("a complete list");
    play("P", Options { static_routes: false, second_edge: true, pods: 1, ..Options::default() }, build, STEPS);
}

fn build(lab: Lab) -> Result<Porter> {
    let edges = edges(&lab, 65001, |edge| edge.e1(&neighbour("mymaster", 1, PORT, 65000)))?;
    let other = "[global.config]\n as = 64999\n router-id = \"192.168.10.11\"\n port = 179\n";
    let other = Gobgpd::start(&lab.node(1)?.ns, "gobgpd-n1", lab.directory(), other)?;
    Ok(Porter { daemons: Vec::new(), edges, other, lab })
}

fn daemon_options() -> DaemonOptions {
    DaemonOptions::with(&[
        "--run-router=true",
        "--enable-cni=false",
        "--cluster-asn=65000",
        "--bgp-port=17900",
        "--peer-router-ips=192.168.10.1,192.168.10.2,192.168.10.100",
        "--peer-router-asns=65001,65001,65002",
        "--advertise-external-ip=true",
        "--service-external-ip-range=139.198.0.0/16",
        "--advertise-style=speakers",
        "--speaker-selector=dedicated=master",
        "--return-path=peer",
    ])
}

fn web() -> Result<ServiceSpec> {
    Ok(super::site::web("mylbapp", "10.96.44.1", &[VIP])?.external_local())
}

fn target() -> Result<std::net::SocketAddr> {
    Ok(format!("{VIP}:8088").parse()?)
}

fn places(p: &mut Porter) -> Result<()> {
    for edge in &p.edges {
        for node in p.lab.nodes() {
            ensure!(traffic::ping(&edge.ns, node.address(Family::V4), Duration::from_secs(5))?, "{}", node.name);
        }
        ensure!(traffic::ping(&edge.far, p.lab.node(1)?.address(Family::V4), Duration::from_secs(5)).is_ok());
    }
    Ok(())
}

fn both_birds(p: &mut Porter) -> Result<()> {
    let versions: Vec<String> = p.edges.iter().map(|edge| edge.bird.ask("show status")).collect::<Result<_>>()?;
    ensure!(versions.iter().any(|said| said.contains("BIRD 1.6")), "{versions:?}");
    ensure!(versions.iter().any(|said| said.contains("BIRD 2.")), "{versions:?}");
    Ok(())
}

fn pinned(p: &mut Porter) -> Result<()> {
    p.lab.label(1, "dedicated", Some("master"))
}

fn start(p: &mut Porter) -> Result<()> {
    p.daemons = p.lab.start_daemons(&daemon_options())?;
    Ok(())
}

fn own_port(p: &mut Porter) -> Result<()> {
    let master = &p.lab.node(1)?.ns;
    ensure!(listens(master, PORT)? && listens(master, 179)?, "{}", super::site::listeners(master)?);
    ensure!(p.other.ask("global")?.contains("64999"), "the other daemon does not answer");
    for edge in &p.edges {
        edge.bird.wait_established("mymaster", SOON)?;
        let state = session(&p.lab, 1, &edge.edge.address.to_string())?;
        ensure!(state == "Establ", "{state:?}");
    }
    Ok(())
}

fn established(p: &mut Porter) -> Result<()> {
    for edge in &p.edges {
        let protocols = edge.bird.ask("show protocols")?;
        let line = protocols.lines().find(|line| line.starts_with("mymaster")).context("no line")?;
        ensure!(line.trim_end().ends_with("Established"), "{protocols}");
    }
    Ok(())
}

fn edge_restarts(p: &mut Porter) -> Result<()> {
    let before: Vec<Option<u32>> = p.daemons.iter().map(Daemon::pid).collect();
    for edge in &mut p.edges {
        edge.bird.stop()?;
        edge.bird.begin()?;
    }
    p.edges.iter().try_for_each(|edge| edge.bird.wait_established("mymaster", SOON))?;
    ensure!(before == p.daemons.iter().map(Daemon::pid).collect::<Vec<_>>(), "somebody restarted");
    Ok(())
}

fn every_node(p: &mut Porter) -> Result<()> {
    let all: Vec<Neighbour> =
        [("mymaster", 1), ("node2", 2), ("node3", 3)].map(|(name, node)| neighbour(name, node, PORT, 65000)).into();
    for edge in &p.edges {
        edge.bird.configure(&edge.edge.e2(&all))?;
        edge.bird.wait_established("mymaster", SOON)?;
        for silent in ["node2", "node3"] {
            let state = edge.bird.session(silent)?;
            ensure!(!state.starts_with("Established"), "{silent}: {state}");
        }
    }
    Ok(())
}

fn service(p: &mut Porter) -> Result<()> {
    p.lab.manifests().expose(&web()?, &p.lab.pods(&["p11", "p31"])?)
}

fn granted(p: &mut Porter) -> Result<()> {
    // The policy is Local: nodes without an endpoint forward nothing from outside.
    for node in p.lab.nodes().iter().filter(|node| node.number != 2) {
        wait::until("the virtual server", SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains(&format!("TCP  {VIP}:8088")), "{}: {listing}", node.name);
            Ok(())
        })?;
    }
    Ok(())
}

fn ignored(p: &mut Porter) -> Result<()> {
    let inner = ServiceSpec::new("inner", &["10.96.44.2".parse()?]).port(ferrovia::net::Protocol::Tcp, 80);
    p.lab.manifests().expose(&inner, &p.lab.pods(&["p21"])?)?;
    wait::until("it is forwarded", SOON, || {
        let listing = p.lab.node(1)?.ipvsadm()?;
        ensure!(listing.contains("10.96.44.2:80"), "{listing}");
        Ok(())
    })?;
    for edge in &p.edges {
        let table = edge.bird.ask("show route")?;
        ensure!(!table.contains("10.96.44."), "{table}");
    }
    p.lab.manifests().delete("inner")
}

fn add_paths(p: &mut Porter) -> Result<()> {
    for edge in &p.edges {
        edge.table(PREFIX, &[1, 3])?;
        let routes = edge.bird.ask(&format!("show route all {PREFIX}"))?;
        ensure!(
            routes.matches("[mymaster").count() == 2 && routes.matches("BGP.as_path: 65000").count() == 2,
            "{routes}"
        );
    }
    Ok(())
}

fn merged(p: &mut Porter) -> Result<()> {
    p.edges.iter().try_for_each(|edge| edge.kernel(PREFIX, &[1, 3]))
}

fn multipath_route(p: &mut Porter) -> Result<()> {
    for edge in &p.edges {
        let route = edge.ns.command(&format!("ip route show {PREFIX}"))?;
        let lines: Vec<String> = route
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").replace(" metric 32", ""))
            .collect();
        ensure!(lines.first().is_some_and(|line| line == &format!("{VIP} proto bird")), "{route}");
        let mut below: Vec<&str> = lines.iter().skip(1).map(String::as_str).collect();
        below.sort_unstable();
        let expected = ["nexthop via 192.168.10.11 dev eth0 weight 1", "nexthop via 192.168.10.13 dev eth0 weight 1"];
        ensure!(below == expected, "{route}");
    }
    Ok(())
}

fn invariant(p: &mut Porter) -> Result<()> {
    for pods in [vec!["p21"], vec!["p11", "p21", "p31"], vec!["p11", "p31"]] {
        p.lab.manifests().expose(&web()?, &p.lab.pods(&pods)?)?;
        let mut nodes: Vec<u16> = p.lab.pods(&pods)?.iter().map(|pod| pod.node).collect();
        nodes.sort_unstable();
        p.edges.iter().try_for_each(|edge| edge.kernel(PREFIX, &nodes))?;
    }
    Ok(())
}

fn bare_nic(p: &mut Porter) -> Result<()> {
    bare_uplink(&p.lab)?;
    let addresses = p.lab.edge.command("ip -o -4 addr show dev eth1")?;
    let state = p.lab.edge.command("ip -o link show dev eth1")?;
    ensure!(addresses.trim().is_empty() && state.contains("state UP"), "{addresses}{state}");
    Ok(())
}

fn sysctls(p: &mut Porter) -> Result<()> {
    for key in ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/eth1/rp_filter"] {
        ensure!(p.lab.edge.sysctl(key)? == "0", "{key}");
    }
    ensure!(p.lab.edge.sysctl("net/ipv4/ip_forward")? == "1");
    Ok(())
}

/// How many SYNs a namespace sent again.
fn repeated(ns: &ferrovia::testing::lab::Namespace) -> Result<u64> {
    ns.run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let found = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "TCPSynRetrans");
        Ok(found.context("no TCPSynRetrans")?.1.parse()?)
    })
}

fn no_way_back(p: &mut Porter) -> Result<()> {
    let before = repeated(&p.lab.far)?;
    let outcome = traffic::http_once(&p.lab.far, target()?, Duration::from_secs(3));
    ensure!(outcome.is_err(), "it was answered without a way back: {outcome:?}");
    let after = repeated(&p.lab.far)?;
    ensure!(after > before, "no SYN was repeated");
    Ok(())
}

fn way_back(p: &mut Porter) -> Result<()> {
    return_by_uplink(&p.lab, VIP)?;
    answered(&p.lab, &p.lab.far, &target()?.to_string()).map(drop)
}

fn return_path(p: &mut Porter) -> Result<()> {
    // The default route of every node leads to the first edge: the second's client gets its answers by its own way or
    // not at all, for the first edge does not know it.
    let second = p.lab.second.as_ref().context("a second edge")?;
    ensure!(p.lab.edge.command("ip route show 203.0.114.0/24")?.trim().is_empty(), "the first edge knows the way");
    answered(&p.lab, &second.far, &target()?.to_string())?;
    let replies = p.lab.http(&second.far, target()?, 6)?;
    ensure!(replies.iter().all(|reply| reply.client.ip() == topology::far2_address(Family::V4)), "{replies:?}");
    p.lab.http(&p.lab.far, target()?, 3).map(drop)
}

fn dry_run(p: &mut Porter) -> Result<()> {
    let node = p.lab.node(2)?;
    let before = node.ns.command("ip route show table all")?;
    let mut arguments = Daemon::flags("n2", p.lab.manifests().path(), p.lab.directory());
    arguments.extend(daemon_options().flags);
    arguments.push("--dry-run".into());
    let (status, output) = ferrovia::testing::lab::daemon::run_once(&node.ns, &arguments)?;
    ensure!(status.success(), "{status}: {output}");
    ensure!(before == node.ns.command("ip route show table all")?, "a dry run changed routes");
    for node in p.lab.nodes() {
        let route = node.ns.command("ip route show default")?;
        ensure!(route.trim() == "default via 192.168.10.1 dev eth0", "{}: {route}", node.name);
    }
    Ok(())
}

fn page(p: &mut Porter) -> Result<()> {
    for edge in &p.edges {
        let replies = p.lab.http(&edge.far, target()?, 4)?;
        ensure!(replies.iter().all(|reply| ["p11", "p31"].contains(&reply.pod.as_str())), "{replies:?}");
    }
    Ok(())
}

fn hash_policy(p: &mut Porter) -> Result<()> {
    let edge = p.edges.first().context("an edge")?;
    for (policy, expected) in [("0", 1), ("1", 2)] {
        edge.ns.set_sysctls(&[("net/ipv4/fib_multipath_hash_policy", policy)])?;
        let mut pods: Vec<String> = p.lab.http(&edge.far, target()?, 24)?.into_iter().map(|reply| reply.pod).collect();
        pods.sort();
        pods.dedup();
        ensure!(pods.len() == expected, "policy {policy}: {pods:?}");
    }
    Ok(())
}

fn switch(p: &mut Porter) -> Result<()> {
    let file = "router bgp 65002\n bgp router-id 192.168.10.100\n no bgp ebgp-requires-policy\n \
                neighbor 192.168.10.11 remote-as 65000\n neighbor 192.168.10.11 port 17900\n \
                neighbor 192.168.10.11 timers connect 1\n \
                address-family ipv4 unicast\n  maximum-paths 8\n exit-address-family\n";
    let frr = Frr::start(&p.lab.near, "frr-near", p.lab.directory(), file)?;
    let wanted = hops(&[1, 3]);
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    bird::wait_kernel_next_hops(&p.lab.near, PREFIX, &wanted, SOON)
        .with_context(|| frr.ask("show bgp ipv4 unicast").unwrap_or_else(|error| format!("{error:#}")))?;
    p.lab.http(&p.lab.near, target()?, 4).map(drop)
}

fn counted(p: &mut Porter) -> Result<()> {
    for (daemon, node) in p.daemons.iter().zip(p.lab.nodes()).filter(|(_, node)| node.number != 2) {
        wait::until(&format!("connections counted on {}", node.name), SOON, || {
            let n = daemon.metric("kube_router_service_total_connections", &["mylbapp"])?;
            ensure!(n > 0.0, "none");
            Ok(())
        })?;
    }
    Ok(())
}

fn table_local(p: &mut Porter) -> Result<()> {
    for node in p.lab.nodes() {
        let table = node.ns.command("ip route show table local")?;
        ensure!(table.contains(&format!("local {VIP} dev kube-dummy-if")), "{}: {table}", node.name);
        let rules = node.ns.command("ip rule list")?;
        ensure!(!rules.contains(VIP), "{}: {rules}", node.name);
    }
    Ok(())
}

fn log_line(p: &mut Porter) -> Result<()> {
    let log = p.daemons.first().context("a daemon")?.log();
    let line = log.lines().find(|line| line.contains(VIP) && line.contains("announcing a service address"));
    let line = line.with_context(|| format!("no line of the log names {VIP} as announced"))?;
    ensure!(line.contains("192.168.10.1") && line.contains("mylbapp"), "{line}");
    Ok(())
}

fn withdrawal(p: &mut Porter) -> Result<()> {
    p.lab.manifests().delete("mylbapp")?;
    let master = p.lab.node(1)?;
    wait::until("no route is left", SOON, || {
        for edge in &p.edges {
            let found = bird::kernel_next_hops(&edge.ns, PREFIX)?;
            ensure!(found.is_empty(), "{found:?} of {:?}", hops(&[1, 3]));
        }
        Ok(())
    })?;
    wait::until("no address is left", SOON, || {
        let addresses = master.ns.command("ip -o addr show dev kube-dummy-if")?;
        ensure!(!addresses.contains(VIP), "{addresses}");
        Ok(())
    })
}
