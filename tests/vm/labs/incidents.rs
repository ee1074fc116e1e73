//! I2-I35: what has gone wrong with other routers of this kind, made to happen here. Three nodes announce themselves to
//! both edges (E3); the numbers are those of the list of incidents in `docs/design/labs.md`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::bird::{self, Version};
use ferrovia::testing::lab::edge_files::Neighbour;
use ferrovia::testing::lab::{
    Connection, Daemon, DaemonOptions, Gobgpd, Lab, Load, Options, ServiceSpec, topology, traffic, wait,
};

use super::site::{EdgeRouter, edges, hops, neighbour, own_routes, time, wait_own_route};
use super::{Cluster, SOON, Step, not, play, step};

const VIP: &str = "198.51.101.10";
const PREFIX: &str = "198.51.101.10/32";
const DRAIN: &str = "ferrovia.dev/drain";
/// How long next hops must have stayed the same to count as settled.
const STEADY: Duration = Duration::from_secs(4);
/// How long the edge keeps the routes of a daemon that went without a word.
const RESTART_TIME: Duration = Duration::from_secs(60);
/// In base64 `cm9zZWJ1ZA==`.
const PASSWORD: &str = "rosebud";

/// Three nodes, two edges.
pub(super) struct Incidents {
    daemons: Vec<Daemon>,
    edges: Vec<EdgeRouter>,
    lab: Lab,
}

impl Cluster for Incidents {
    fn lab(&self) -> &Lab {
        &self.lab
    }
}

pub(super) const STEPS: &[Step<Incidents>] = &[
    step(
        "I4",
        "with graceful restart on and a peer that never comes, routes are there within seconds",
        bounded_deferral,
    ),
    step(
        "I5",
        "a peer with graceful restart and one without both have fresh routes, before and after a restart",
        mixed_restart,
    ),
    step("I2", "every daemon is restarted in turn under load: not one request fails", rolling_update),
    step("I18", "a shared address stays until the last of its Services goes", shared_address),
    step("I21", "whenever the edge has a route, the node already forwards", announced_when_forwarding),
    step("I33", "addresses go out as /32, and Local ones only from nodes with an endpoint", host_prefixes),
    step("I8", "fifty Services come and go: no session is touched", sessions_untouched),
    step("I23", "an unassigned address of a range is refused at once, no loop", unassigned),
    step("I25", "IPv6 routes over an IPv4 session carry the node's IPv6 address", next_hop_family),
    step("I26", "routes flushed by somebody are back within seconds, also after the link was down", flushed_routes),
    step("I30", "the administration API is not reachable from outside the node", closed_api),
    step("I31", "a session with a password comes up, and no log tells the password", password),
    step("I32", "an external address that nobody granted is not announced, and the owner is told", not_granted),
    step("I35", "a node whose address appears late has its sessions within seconds", late_address),
    step("I6", "a node is drained under load: nothing is lost but what the edge itself moves in mid-flight", drain),
    step("I7", "all nodes are drained at once: the last path stays", drain_all),
    step("I22", "flows that a removed next hop does not concern survive", rehash),
    step("I3", "a killed daemon keeps its traffic; a dead node is left within the detection time", death),
    not("I9", "mesh to reflector and back under load", "shown in lab C by C2 and I9"),
    not("I24", "a reflector hides equal paths", "shown in lab C by C18"),
    not(
        "I34",
        "tunnels over a multipath underlay",
        "needs a node with two uplinks; routes name the tunnel's device, as C12 shows",
    ),
];

#[test]
fn what_went_wrong_elsewhere() {
    guest!();
    let options = Options { nodes: 3, pods: 2, static_routes: false, second_edge: true, ..Options::default() };
    play("I", options, build, STEPS);
}

fn daemon_options() -> DaemonOptions {
    DaemonOptions::with(&[
        "--run-router=true",
        "--enable-cni=false",
        "--advertise-external-ip=true",
        "--bgp-graceful-restart=true",
        "--bgp-graceful-restart-time=60s",
        // The third one never answers.
        "--peer-router-ips=192.168.10.1,192.168.10.2,192.168.10.99",
        "--peer-router-asns=65001,65001,65001",
        "--ipvs-graceful-termination=true",
    ])
}

/// E3 for all three nodes; BIRD 1.6 without graceful restart, so that both kinds of peers are there.
fn file(edge: &ferrovia::testing::lab::edge_files::Edge) -> String {
    let nodes: Vec<Neighbour> = (1..=3).map(|node| neighbour(&format!("node{node}"), node, 179, 64512)).collect();
    let text = edge.e3(&nodes);
    match edge.version {
        Version::One => text.replace("import all;", "graceful restart off; import all;"),
        Version::Two => text,
    }
}

fn build(lab: Lab) -> Result<Incidents> {
    let edges = edges(&lab, 65001, file)?;
    for router in &edges {
        router.ns.set_sysctls(&[("net/ipv4/fib_multipath_hash_policy", "1")])?;
    }
    lab.manifests().expose(&web()?, &lab.pods(&["p11", "p21", "p31"])?)?;
    Ok(Incidents { daemons: Vec::new(), edges, lab })
}

fn web() -> Result<ServiceSpec> {
    super::site::web("web", "10.96.0.10", &[VIP])
}

fn vip() -> Result<SocketAddr> {
    Ok(format!("{VIP}:8088").parse()?)
}

impl Incidents {
    /// Both edges' kernels have exactly these nodes for the VIP.
    fn kernels(&self, nodes: &[u16]) -> Result<()> {
        self.edges.iter().try_for_each(|edge| edge.kernel(PREFIX, nodes))
    }

    /// The same, and it stays so: nodes that come back from a drain take their mark off one after the other, and until the
    /// last has, all of them may be next hops for a moment and only some in the next.
    fn settled(&self, nodes: &[u16]) -> Result<()> {
        wait::until("next hops are there to stay", SOON, || {
            self.kernels(nodes)?;
            wait::throughout("no next hop moves", STEADY, || {
                let all = self.edges.iter().map(|edge| Ok(bird::kernel_next_hops(&edge.ns, PREFIX)? == hops(nodes)));
                Ok(all.collect::<Result<Vec<bool>>>()?.into_iter().all(|same| same))
            })
        })
    }

    /// The first edge, with BIRD 2.
    fn edge(&self) -> Result<&EdgeRouter> {
        self.edges.first().context("an edge")
    }

    /// Requests from behind the first edge while something changes. So many connections may be moved by the edge: two
    /// clients for each change of its next hops.
    fn under_load(&mut self, moved: usize, change: impl FnOnce(&mut Incidents) -> Result<()>) -> Result<()> {
        let far = self.lab.far.clone();
        let load = Load::start(&[(&far, vip()?), (&far, vip()?)], Duration::from_secs(4));
        load.wait_answers(10, SOON)?;
        let changed = change(self);
        let more = load.wait_answers(20, SOON);
        let tally = load.stop()?;
        changed?;
        more?;
        tally.flawless_but_moved(30, moved)
    }
}

fn bounded_deferral(i: &mut Incidents) -> Result<()> {
    i.daemons = i.lab.start_daemons(&daemon_options())?;
    let took = time(
        "routes at the edge",
        || Ok(()),
        || {
            let routers = i.edges.iter();
            routers.map(|edge| bird::kernel_next_hops(&edge.ns, PREFIX)).try_for_each(|found| {
                let found = found?;
                ensure!(found == hops(&[1, 2, 3]), "{found:?}");
                Ok(())
            })
        },
    )?;
    ensure!(took < Duration::from_secs(30), "it took {took:?}");
    wait_own_route(i.lab.node(1)?, "10.244.3.0/24", "192.168.10.13")
}

fn mixed_restart(i: &mut Incidents) -> Result<()> {
    let stale = |i: &Incidents| -> Result<()> {
        for edge in &i.edges {
            let all = edge.bird.ask("show protocols all")?;
            ensure!(!all.contains("stale"), "{all}");
        }
        Ok(())
    };
    i.kernels(&[1, 2, 3])?;
    stale(i)?;
    let daemon = i.daemons.get_mut(1).context("a second daemon")?;
    daemon.stop()?;
    *daemon = i.lab.start_daemon(2, &daemon_options())?;
    daemon.wait_ready()?;
    i.kernels(&[1, 2, 3])?;
    wait::until("nothing is stale", SOON, || stale(i))
}

fn rolling_update(i: &mut Incidents) -> Result<()> {
    i.under_load(0, |i| {
        for number in 1..=3 {
            let daemon = i.daemons.get_mut(usize::from(number) - 1).context("a daemon")?;
            daemon.stop()?;
            *daemon = i.lab.start_daemon(number, &daemon_options())?;
            daemon.wait_ready()?;
            for edge in &i.edges {
                edge.bird.wait_established(&format!("node{number}"), SOON)?;
            }
        }
        i.kernels(&[1, 2, 3])
    })
}

fn shared_address(i: &mut Incidents) -> Result<()> {
    let pods = i.lab.pods(&["p12", "p22", "p32"])?;
    let shared: IpAddr = "198.51.101.20".parse()?;
    let service = |name: &str, cluster: &str, port| -> Result<ServiceSpec> {
        Ok(ServiceSpec::new(name, &[cluster.parse()?]).port(Protocol::Tcp, port).external_ips(&[shared]))
    };
    i.lab.manifests().expose(&service("one", "10.96.0.21", 81)?, &pods)?;
    i.lab.manifests().expose(&service("two", "10.96.0.22", 82)?, &pods)?;
    let edge = i.edge()?;
    edge.kernel("198.51.101.20/32", &[1, 2, 3])?;
    super::site::answered(&i.lab, &i.lab.far, "198.51.101.20:82")?;
    i.lab.manifests().delete("one")?;
    wait::until("the first one is gone", SOON, || {
        let listing = i.lab.node(1)?.ipvsadm()?;
        ensure!(!listing.contains("198.51.101.20:81"), "{listing}");
        Ok(())
    })?;
    ensure!(bird::kernel_next_hops(&edge.ns, "198.51.101.20/32")? == hops(&[1, 2, 3]), "the route went with the first");
    i.lab.http(&i.lab.far, "198.51.101.20:82".parse()?, 3)?;
    i.lab.manifests().delete("two")?;
    edge.kernel("198.51.101.20/32", &[])
}

fn announced_when_forwarding(i: &mut Incidents) -> Result<()> {
    let pods = i.lab.pods(&["p12", "p22"])?;
    let edge = i.edge()?;
    for round in 1..=3_u8 {
        let address = IpAddr::from([198, 51, 101, 100 + round]);
        let service = ServiceSpec::new(&format!("quick-{round}"), &[IpAddr::from([10, 96, 1, round])])
            .port(Protocol::Tcp, 80)
            .external_ips(&[address]);
        i.lab.manifests().expose(&service, &pods)?;
        // The first sight of any next hop: that node must already have the address and the virtual server.
        let first = wait::until("a route", SOON, || {
            bird::kernel_next_hops(&edge.ns, &format!("{address}/32"))?.pop().context("none yet")
        })?;
        let node = i.lab.nodes().iter().find(|node| node.address(Family::V4).to_string() == first);
        let listing = node.with_context(|| format!("no node has {first}"))?.ipvsadm()?;
        ensure!(listing.contains(&format!("TCP  {address}:80")), "{first} announced {address} too early:\n{listing}");
    }
    (1..=3).try_for_each(|round| i.lab.manifests().delete(&format!("quick-{round}")))
}

fn host_prefixes(i: &mut Incidents) -> Result<()> {
    let local = ServiceSpec::new("local", &["10.96.0.30".parse()?])
        .port(Protocol::Tcp, 80)
        .load_balancer(&["198.51.100.30".parse()?])
        .annotation("kube-router.io/service.advertise.loadbalancerip", "true")
        .external_local();
    i.lab.manifests().expose(&local, &i.lab.pods(&["p22"])?)?;
    for edge in &i.edges {
        edge.kernel("198.51.100.30/32", &[2])?;
        let table = edge.bird.ask("show route")?;
        let ranges = ["198.51.100.0/", "198.51.101.0/", "10.96.0.0/"];
        ensure!(!ranges.iter().any(|range| table.contains(range)), "{table}");
    }
    i.lab.manifests().expose(&local, &i.lab.pods(&["p31"])?)?;
    i.edges.iter().try_for_each(|edge| edge.kernel("198.51.100.30/32", &[3]))?;
    i.lab.manifests().delete("local")?;
    i.edges.iter().try_for_each(|edge| edge.kernel("198.51.100.30/32", &[]))
}

/// How often a session ended so far, as the daemons tell it, and since when BIRD 2's sessions are up.
fn history(i: &Incidents) -> Result<(usize, Vec<String>)> {
    let ends = i.daemons.iter().map(|daemon| daemon.log().matches("session went down").count()).sum();
    let listing = i.edge()?.bird.ask("show protocols")?;
    Ok((ends, listing.lines().filter(|line| line.starts_with("node")).map(str::to_owned).collect()))
}

fn sessions_untouched(i: &mut Incidents) -> Result<()> {
    const N: u8 = 50;
    let before = history(i)?;
    let services: Vec<ServiceSpec> = (1..=N)
        .map(|n| {
            ServiceSpec::new(&format!("many-{n}"), &[IpAddr::from([10, 96, 2, n])])
                .port(Protocol::Tcp, 80)
                .external_ips(&[IpAddr::from([198, 51, 101, 100 + n])])
        })
        .collect();
    let pods = i.lab.pods(&["p12"])?;
    let count = |edge: &EdgeRouter| -> Result<usize> {
        Ok(edge
            .bird
            .ask("show route")?
            .lines()
            .filter(|line| line.starts_with("198.51.101.1") || line.starts_with("198.51.101.2"))
            .count())
    };
    i.lab.manifests().expose_many("many", &services, &pods)?;
    wait::until("all at the edge", SOON * 2, || {
        i.edges.iter().try_for_each(|edge| {
            let n = count(edge)?;
            ensure!(n >= usize::from(N), "{n} of {N}");
            Ok(())
        })
    })?;
    i.lab.manifests().write("many", &[])?;
    wait::until("all are gone", SOON * 2, || {
        i.edges.iter().try_for_each(|edge| {
            let table = edge.bird.ask("show route")?;
            ensure!(!table.contains("198.51.101.125/32"), "{table}");
            Ok(())
        })
    })?;
    let after = history(i)?;
    ensure!(before == after, "sessions changed:\n{before:?}\n{after:?}");
    ensure!(after.1.len() == 3 && after.1.iter().all(|line| line.contains("Established")), "{after:?}");
    Ok(())
}

fn unassigned(i: &mut Incidents) -> Result<()> {
    let output = i.lab.far.output("ping -n -c 1 -W 3 198.51.101.99")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("Unreachable") && !text.contains("Time to live exceeded"), "{text}");
    Ok(())
}

fn next_hop_family(i: &mut Incidents) -> Result<()> {
    // A peer with both families on one IPv4 session.
    let near = topology::near_address(Family::V4);
    let mut file = format!("[global.config]\n as = 65009\n router-id = \"{near}\"\n");
    file.push_str("[[neighbors]]\n[neighbors.config]\n neighbor-address = \"192.168.10.12\"\n peer-as = 64512\n");
    for family in ["ipv4-unicast", "ipv6-unicast"] {
        file.push_str(&format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n afi-safi-name = \"{family}\"\n"
        ));
    }
    let service = ServiceSpec::new("both", &["10.96.0.40".parse()?, "fd00:96::40".parse()?])
        .port(Protocol::Tcp, 80)
        .external_ips(&["198.51.101.40".parse()?, "2001:db8:65::40".parse()?]);
    i.lab.manifests().expose(&service, &i.lab.pods(&["p22"])?)?;
    let daemon = i.daemons.get_mut(1).context("a second daemon")?;
    daemon.stop()?;
    // Flags that name peers win over annotations: this node gets one more by flag.
    let mut options = daemon_options();
    options.flags.extend(["--peer-router-ips=192.168.10.100".to_owned(), "--peer-router-asns=65009".to_owned()]);
    *daemon = i.lab.start_daemon(2, &options)?;
    let gobgpd = Gobgpd::start(&i.lab.near, "gobgpd-near", i.lab.directory(), &file)?;
    daemon.wait_ready()?;
    wait::until("both families with their own next hops", SOON, || {
        let (v4, v6) = (gobgpd.ask("global rib -a ipv4")?, gobgpd.ask("global rib -a ipv6")?);
        let line = |table: &str, prefix: &str| table.lines().find(|line| line.contains(prefix)).map(str::to_owned);
        let v4 = line(&v4, "198.51.101.40/32").with_context(|| v4.clone())?;
        let v6 = line(&v6, "2001:db8:65::40/128").with_context(|| v6.clone())?;
        ensure!(v4.contains("192.168.10.12") && v6.contains("fd10::12"), "{v4}\n{v6}");
        Ok(())
    })?;
    gobgpd.stop()?;
    i.lab.manifests().delete("both")
}

fn flushed_routes(i: &mut Incidents) -> Result<()> {
    let node = i.lab.node(1)?;
    let expected = own_routes(node)?;
    ensure!(expected.len() >= 2, "{expected:?}");
    let back = || {
        let now = own_routes(node)?;
        ensure!(now == expected, "{now:?} instead of {expected:?}");
        Ok(())
    };
    let took = time("flushed routes come back", || node.ns.command("ip route flush proto 17").map(drop), back)?;
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    let bounce = "link set eth0 down\nlink set eth0 up\nroute replace default via 192.168.10.1\n\
                  addr replace fd10::11/64 dev eth0 nodad\nroute replace default via fd10::1\n";
    let took = time("routes come back after the link was down", || node.ns.ip(bounce), back)?;
    ensure!(took < Duration::from_secs(15), "it took {took:?}");
    i.kernels(&[1, 2, 3])
}

fn closed_api(i: &mut Incidents) -> Result<()> {
    let node = i.lab.node(1)?;
    let refused = traffic::http_once(&i.lab.near, (node.address(Family::V4), 50051).into(), Duration::from_secs(3));
    ensure!(refused.is_err(), "{refused:?}");
    let listening = super::site::listeners(&node.ns)?;
    let open: Vec<&str> = listening
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .filter(|local| !local.starts_with("127.") && !local.starts_with("[::1]"))
        .collect();
    // BGP, health, metrics and health checks of Services are for others; nothing else is.
    let known = |local: &&&str| [":179", ":20244", ":8080"].iter().any(|port| local.ends_with(port));
    ensure!(open.iter().filter(|local| !known(local)).count() == 0, "{open:?}");
    ensure!(listening.contains("127.0.0.1:50051"), "{listening}");
    Ok(())
}

/// The first edge's file with a password for node 3.
fn with_password(edge: &ferrovia::testing::lab::edge_files::Edge) -> String {
    let with = format!("node3 from node {{ password \"{PASSWORD}\"; ");
    file(edge).replace("node3 from node { ", &with)
}

fn password(i: &mut Incidents) -> Result<()> {
    let edge = i.edges.first().context("an edge")?;
    let daemon = i.daemons.get_mut(2).context("a third daemon")?;
    daemon.stop()?;
    let mut options = daemon_options();
    options.flags.push("--peer-router-passwords=cm9zZWJ1ZA==,,".into());
    edge.bird.configure(&with_password(&edge.edge))?;
    *daemon = i.lab.start_daemon(3, &options)?;
    daemon.wait_ready()?;
    edge.bird.wait_established("node3", SOON)?;
    i.kernels(&[1, 2, 3])?;
    let daemon = i.daemons.get(2).context("a third daemon")?;
    let told = [daemon.log(), daemon.admin("/status")?.1, daemon.admin("/snapshot")?.1];
    for text in &told {
        ensure!(!text.contains(PASSWORD) && !text.contains("cm9zZWJ1ZA"), "the password is told");
    }
    Ok(())
}

fn not_granted(i: &mut Incidents) -> Result<()> {
    let service = super::site::web("greedy", "10.96.0.50", &["8.8.8.8"])?;
    i.lab.manifests().expose(&service, &i.lab.pods(&["p12"])?)?;
    wait::until("the owner is told", SOON, || {
        let (_, status) = i.daemons.first().context("a daemon")?.admin("/status")?;
        ensure!(status.contains("8.8.8.8"), "{status}");
        Ok(())
    })?;
    for edge in &i.edges {
        ensure!(bird::kernel_next_hops(&edge.ns, "8.8.8.8/32")?.is_empty(), "8.8.8.8 is announced");
    }
    i.lab.manifests().delete("greedy")
}

fn late_address(i: &mut Incidents) -> Result<()> {
    i.lab.edit_node(3, |node| node["status"]["addresses"] = serde_json::json!([]))?;
    let left = wait::until("the others have no session with it", SOON, || {
        let (_, all) = super::site::sessions(&i.lab, 1)?;
        ensure!(all == 4, "{all} peers");
        Ok(())
    });
    let took = time(
        "its sessions are up",
        || i.lab.join(3),
        || {
            let state = super::site::session(&i.lab, 1, "192.168.10.13")?;
            ensure!(state == "Establ", "{state:?}");
            Ok(())
        },
    )?;
    left?;
    ensure!(took < Duration::from_secs(20), "it took {took:?}");
    i.kernels(&[1, 2, 3])
}

fn drain(i: &mut Incidents) -> Result<()> {
    i.under_load(4, |i| {
        i.lab.annotate(2, DRAIN, Some("true"))?;
        let drained = i.kernels(&[1, 3]);
        i.lab.annotate(2, DRAIN, None)?;
        drained?;
        i.kernels(&[1, 2, 3])
    })
}

fn drain_all(i: &mut Incidents) -> Result<()> {
    i.under_load(8, |i| {
        (1..=3).try_for_each(|node| i.lab.annotate(node, DRAIN, Some("true")))?;
        let edge = i.edge()?.ns.clone();
        let stays = wait::throughout("a path stays", Duration::from_secs(15), || {
            Ok(!bird::kernel_next_hops(&edge, PREFIX)?.is_empty())
        });
        (1..=3).try_for_each(|node| i.lab.annotate(node, DRAIN, None))?;
        stays?;
        i.kernels(&[1, 2, 3])
    })?;
    i.settled(&[1, 2, 3])
}

fn rehash(i: &mut Incidents) -> Result<()> {
    const N: usize = 60;
    let mut flows: Vec<Connection> = (0..N).map(|_| Connection::open(&i.lab.far, vip()?)).collect::<Result<_>>()?;
    for flow in &mut flows {
        flow.request()?;
    }
    i.lab.annotate(3, DRAIN, Some("true"))?;
    let left = i.kernels(&[1, 2]);
    let survivors = flows.iter_mut().map(Connection::request).filter(Result::is_ok).count();
    i.lab.annotate(3, DRAIN, None)?;
    left?;
    i.settled(&[1, 2, 3])?;
    ferrovia::testing::lab::report(&format!("I22: {survivors} of {N} flows survived when one of three next hops left"));
    // The kernel's hash moves one flow in six between the two that stay, beside the third that has to move.
    ensure!(survivors * 3 >= N, "only {survivors} of {N} flows survived");
    Ok(())
}

fn death(i: &mut Incidents) -> Result<()> {
    // The daemon alone: the node forwards on, the edge keeps the route.
    i.daemons.get_mut(1).context("a second daemon")?.kill()?;
    let edge = i.edge()?.ns.clone();
    wait::throughout("the route stays", Duration::from_secs(3), || {
        Ok(bird::kernel_next_hops(&edge, PREFIX)? == hops(&[1, 2, 3]))
    })?;
    i.lab.http(&i.lab.far, vip()?, 9)?;
    let daemon = i.daemons.get_mut(1).context("a second daemon")?;
    let mut options = daemon_options();
    options.flags.extend(
        ["--enable-bfd=true", "--bfd-desired-min-tx-interval=500", "--bfd-required-min-rx-interval=500"]
            .map(String::from),
    );
    *daemon = i.lab.start_daemon(2, &options)?;
    daemon.wait_ready()?;
    // The node: with BFD the edge leaves it at once, graceful restart or not.
    let router = i.edge()?;
    let bfd = "protocol bfd { interface \"eth0\" { interval 500 ms; multiplier 3; }; }\n";
    router.bird.configure(
        &(bfd.to_owned() + &with_password(&router.edge).replace("node2 from node { ", "node2 from node { bfd on; ")),
    )?;
    router.bird.wait_established("node2", SOON)?;
    wait::until("BFD is up", SOON, || {
        let sessions = router.bird.ask("show bfd sessions")?;
        ensure!(sessions.contains("Up"), "{sessions}");
        Ok(())
    })?;
    router.kernel(PREFIX, &[1, 2, 3])?;
    let start = Instant::now();
    i.lab.node(2)?.ns.ip("link set eth0 down\n")?;
    router.kernel(PREFIX, &[1, 3])?;
    let took = start.elapsed();
    i.lab.node(2)?.ns.ip("link set eth0 up\nroute replace default via 192.168.10.1\n")?;
    // Back it comes only when BIRD's own delay after an error is over, a minute later: nobody waits for that here.
    ensure!(
        took < Duration::from_secs(10),
        "the dead node stayed a next hop for {took:?} (graceful restart: {RESTART_TIME:?})"
    );
    Ok(())
}
