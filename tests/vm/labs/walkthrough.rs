//! K1-K26: kube-router's walk-through, on three nodes with a full mesh.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{
    Connection, Daemon, DaemonOptions, EndpointState, Lab, Options, ServiceSpec, traffic, wait,
};

use super::site::{gobgp, hop, listens, own_routes, sessions, wait_own_route, wait_sessions};
use super::{Cluster, SOON, Step, complete, not, play, policy, step};

const VIP: &str = "10.96.116.179";
const NODE_PORT: u16 = 31117;

/// Three nodes.
pub(super) struct Walkthrough {
    pub(super) daemons: Vec<Daemon>,
    pub(super) lab: Lab,
    /// An open connection to the Service, which must outlive a change of scheduler.
    open: Option<Connection>,
}

impl Cluster for Walkthrough {
    fn lab(&self) -> &Lab {
        &self.lab
    }
}

pub(super) const STEPS: &[Step<Walkthrough>] = &[
    step("K2", "the firewall alone, beside kube-proxy's rules: no IPVS, no BGP socket", policy::alone),
    step("K1", "router and proxy run alone and together, and own nothing outside their part", parts),
    step("K3", "the proxy alone: no BGP socket, no pod prefix needed", proxy_alone),
    step("K4", "podCIDRs of the nodes are announced; kube-router.io/pod-cidrs overrides them", pod_cidrs),
    step("K5", "a node without podCIDR is no crash loop, and is well again when it gets one", no_pod_cidr),
    not(
        "K6",
        "the API server by its endpoint address",
        "the cluster is a folder here; --master and the kubeconfig name an endpoint",
    ),
    step("K7", "no program of the host is needed: the daemons' PATH is empty", no_programs),
    step("K8", "a pod reaches itself through its own Service", hairpin),
    not("K9", "direct return needs the runtime's socket", "shown by the tests in tests/vm/dsr.rs"),
    not("K10", "the configuration is read from the admin kubeconfig", "documentation: docs/user/install.md"),
    not("K11", "one manifest with all features", "documentation: daemonset/"),
    step("K12", "one replica of nginx runs", replica),
    step("K13", "it is exposed and has a cluster address", expose),
    step("K14", "ipvsadm -Ln prints the expected lines on every node", listing),
    step("K15", "kube-dummy-if has one address for each Service", addresses),
    step("K16", "session affinity shows as persistent 10800", affinity),
    step("K17", "a node port adds an entry at the node's address", node_port),
    step("K18", "the scheduler annotation changes it in place; an unknown one keeps the default", scheduler),
    step(
        "K19",
        "the old namespace annotation denies pings by its flag; the NetworkPolicy it names does the same",
        policy::isolation,
    ),
    step("K20", "every node has routes to the others' pods, marked as the daemon's", routes),
    step("K21", "gobgp neighbor prints its table, and so does Debian's gobgp", neighbors),
    step("K22", "gobgp global rib prints the pod prefixes, LocalPref on those learned", rib),
    step("K24", "several replicas are one line each", replicas),
    step("K25", "pod to pod the server sees the pod's own address", pod_to_pod),
    step("K26", "the way between pods leads over node addresses, without a tunnel", trace),
    step("K23", "a deleted Service leaves nothing behind", delete),
];

#[test]
fn kube_routers_walk_through() {
    guest!();
    complete('K', 26, STEPS).expect("a complete list");
    play("K", Options { static_routes: false, ..Options::default() }, build, STEPS);
}

fn build(lab: Lab) -> Result<Walkthrough> {
    Ok(Walkthrough { daemons: Vec::new(), lab, open: None })
}

/// The daemons as K runs them, without any program to call.
pub(super) fn daemon_options(flags: &[&str]) -> DaemonOptions {
    let mut options = DaemonOptions::with(&["--run-router=true", "--enable-cni=false"]);
    options.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    options.environment.push(("PATH".into(), "/nowhere".into()));
    options
}

fn nginx() -> Result<ServiceSpec> {
    Ok(ServiceSpec::new("nginx", &[VIP.parse()?]).port(Protocol::Tcp, 80))
}

/// Waits until every node's `ipvsadm -Ln` contains a text, or lacks it.
fn listed(lab: &Lab, text: &str, there: bool) -> Result<()> {
    for node in lab.nodes() {
        wait::until(&format!("{} lists {text:?}: {there}", node.name), SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains(text) == there, "{listing}");
            Ok(())
        })?;
    }
    Ok(())
}

fn parts(k: &mut Walkthrough) -> Result<()> {
    k.lab.manifests().expose(&nginx()?, &k.lab.pods(&["p11"])?)?;
    let node = k.lab.node(1)?;
    for (router, proxy) in [(true, false), (false, false)] {
        let flags = [format!("--run-router={router}"), format!("--run-service-proxy={proxy}")];
        let mut daemon = k.lab.start_daemon(1, &daemon_options(&[&flags[0], &flags[1]]))?;
        if !router && !proxy {
            // With nothing to run there is nothing to be ready for; it must not look like an accident.
            wait::until("it runs idle or says why not", SOON, || {
                let idle = daemon.health("/readyz").is_ok_and(|(status, _)| status == 200);
                let ended = daemon.try_status()?;
                ensure!(idle || ended.is_some(), "neither");
                Ok(())
            })?;
        } else {
            daemon.wait_ready()?;
        }
        ensure!(listens(&node.ns, 179)? == router, "port 179 with {flags:?}");
        ensure!(!node.ipvsadm()?.contains("TCP"), "IPVS with {flags:?}:\n{}", node.ipvsadm()?);
        ensure!(node.ns.command("ip -o link show")?.contains("kube-dummy-if") == proxy, "dummy link with {flags:?}");
        if daemon.try_status()?.is_none() {
            daemon.stop()?;
        }
    }
    k.daemons = k.lab.start_daemons(&daemon_options(&[]))?;
    ensure!(listens(&node.ns, 179)? && node.ipvsadm()?.contains(VIP), "both at once");
    Ok(())
}

fn proxy_alone(k: &mut Walkthrough) -> Result<()> {
    k.daemons.first_mut().context("a daemon")?.stop()?;
    k.lab.edit_node(1, |node| node["spec"] = serde_json::json!({}))?;
    let mut daemon = k.lab.start_daemon(1, &daemon_options(&["--run-router=false"]))?;
    daemon.wait_ready()?;
    let node = k.lab.node(1)?;
    ensure!(!listens(&node.ns, 179)?, "somebody listens on port 179");
    ensure!(own_routes(node)?.is_empty() || node.ipvsadm()?.contains(VIP));
    ensure!(node.ipvsadm()?.contains(VIP), "{}", node.ipvsadm()?);
    daemon.stop()?;
    k.lab.join(1)?;
    let mut daemon = k.lab.start_daemon(1, &daemon_options(&[]))?;
    daemon.wait_ready()?;
    if let Some(place) = k.daemons.first_mut() {
        *place = daemon;
    }
    Ok(())
}

fn pod_cidrs(k: &mut Walkthrough) -> Result<()> {
    (1..=3).try_for_each(|node| wait_sessions(&k.lab, node, 2))?;
    let node = k.lab.node(2)?;
    wait_own_route(node, "10.244.1.0/24", "192.168.10.11")?;
    k.lab.annotate(1, "kube-router.io/pod-cidrs", Some("10.244.101.0/24,fd00:244:1::/64"))?;
    wait_own_route(node, "10.244.101.0/24", "192.168.10.11")?;
    gone(k, 2, "10.244.1.0/24")?;
    k.lab.annotate(1, "kube-router.io/pod-cidrs", None)?;
    wait_own_route(node, "10.244.1.0/24", "192.168.10.11")?;
    gone(k, 2, "10.244.101.0/24")
}

/// Waits until a node has no route of ours to a prefix.
fn gone(k: &Walkthrough, node: u16, prefix: &str) -> Result<()> {
    let node = k.lab.node(node)?;
    wait::until(&format!("{} has no route to {prefix}", node.name), SOON, || {
        let routes = own_routes(node)?;
        ensure!(!routes.iter().any(|route| route.starts_with(prefix)), "{routes:?}");
        Ok(())
    })
}

fn no_pod_cidr(k: &mut Walkthrough) -> Result<()> {
    k.lab.edit_node(3, |node| node["spec"] = serde_json::json!({}))?;
    gone(k, 1, "10.244.3.0/24")?;
    let daemon = k.daemons.get_mut(2).context("a third daemon")?;
    ensure!(daemon.try_status()?.is_none(), "it ended");
    let (status, body) = daemon.health("/healthz")?;
    ensure!(status == 200, "/healthz answers {status}: {body}");
    k.lab.join(3)?;
    wait_own_route(k.lab.node(1)?, "10.244.3.0/24", "192.168.10.13")
}

fn no_programs(k: &mut Walkthrough) -> Result<()> {
    for (daemon, node) in k.daemons.iter().zip(k.lab.nodes()) {
        let pid = daemon.pid().context("a running daemon")?;
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        let path = b"PATH=/nowhere\0";
        ensure!(environment.windows(path.len()).any(|window| window == path), "{}: another PATH", node.name);
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        ensure!(children.trim().is_empty(), "{}: children {children}", node.name);
        ensure!(node.ipvsadm()?.contains(VIP) && !own_routes(node)?.is_empty(), "{} does nothing", node.name);
    }
    Ok(())
}

fn hairpin(k: &mut Walkthrough) -> Result<()> {
    let pod = k.lab.pod("p11")?;
    let reply = k.lab.http(&pod.ns, format!("{VIP}:80").parse()?, 2)?;
    ensure!(reply.iter().all(|reply| reply.pod == "p11"), "{reply:?}");
    k.lab.manifests().delete("nginx")?;
    listed(&k.lab, VIP, false)
}

fn replica(k: &mut Walkthrough) -> Result<()> {
    let pod = k.lab.pod("p22")?;
    let reply = k.lab.http(&k.lab.pod("p11")?.ns, (pod.address(Family::V4), 8080).into(), 1)?;
    ensure!(reply.iter().all(|reply| reply.pod == "p22"), "{reply:?}");
    Ok(())
}

fn expose(k: &mut Walkthrough) -> Result<()> {
    k.lab.manifests().expose(&nginx()?, &k.lab.pods(&["p22"])?)?;
    for from in [&k.lab.pod("p11")?.ns, &k.lab.node(3)?.ns] {
        super::site::answered(&k.lab, from, &format!("{VIP}:80"))?;
    }
    Ok(())
}

fn listing(k: &mut Walkthrough) -> Result<()> {
    let head = "IP Virtual Server version";
    let lines = format!("TCP  {VIP}:80 rr\n  -> 10.244.2.12:8080             Masq    1      ");
    listed(&k.lab, head, true)?;
    listed(&k.lab, &lines, true)
}

fn addresses(k: &mut Walkthrough) -> Result<()> {
    for node in k.lab.nodes() {
        let addresses = node.ns.command("ip -o -4 addr show dev kube-dummy-if")?;
        ensure!(addresses.lines().count() == 1 && addresses.contains(&format!("{VIP}/32")), "{addresses}");
    }
    Ok(())
}

fn affinity(k: &mut Walkthrough) -> Result<()> {
    k.lab.manifests().delete("nginx")?;
    listed(&k.lab, VIP, false)?;
    k.lab.manifests().expose(&nginx()?.affinity(10800), &k.lab.pods(&["p22"])?)?;
    listed(&k.lab, &format!("TCP  {VIP}:80 rr persistent 10800"), true)
}

fn node_port(k: &mut Walkthrough) -> Result<()> {
    k.lab.manifests().delete("nginx")?;
    listed(&k.lab, VIP, false)?;
    k.lab.manifests().expose(&nginx()?.node_port(NODE_PORT), &k.lab.pods(&["p22"])?)?;
    listed(&k.lab, &format!("TCP  {VIP}:80 rr\n"), true)?;
    for node in k.lab.nodes() {
        let entry = format!("TCP  {}:{NODE_PORT} rr\n", node.address(Family::V4));
        wait::until(&entry, SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(listing.contains(&entry), "{listing}");
            Ok(())
        })?;
    }
    Ok(())
}

fn scheduler(k: &mut Walkthrough) -> Result<()> {
    let mut connection = Connection::open(&k.lab.pod("p11")?.ns, format!("{VIP}:80").parse()?)?;
    connection.request()?;
    let pods = k.lab.pods(&["p22"])?;
    k.lab.manifests().expose(&nginx()?.node_port(NODE_PORT).scheduler("dh"), &pods)?;
    listed(&k.lab, &format!("TCP  {VIP}:80 dh"), true)?;
    connection.request().context("the open connection was cut")?;
    k.lab.manifests().expose(&nginx()?.node_port(NODE_PORT).scheduler("no-such"), &pods)?;
    listed(&k.lab, &format!("TCP  {VIP}:80 rr"), true)?;
    connection.request().context("the open connection was cut")?;
    // Against an API server this is an event of the Service; a folder's reader has the log.
    let log = k.daemons.first().context("a daemon")?.log();
    ensure!(log.contains("service.scheduler") && log.contains("no-such"), "nobody was told");
    k.open = Some(connection);
    Ok(())
}

fn routes(k: &mut Walkthrough) -> Result<()> {
    for node in k.lab.nodes() {
        for other in k.lab.nodes().iter().filter(|other| other.number != node.number) {
            let via = format!("via {}", other.address(Family::V4));
            wait_own_route(node, &format!("10.244.{}.0/24", other.number), &via)?;
        }
        let routes = own_routes(node)?;
        ensure!(routes.len() == 2, "{}: {routes:?}", node.name);
    }
    Ok(())
}

fn neighbors(k: &mut Walkthrough) -> Result<()> {
    let ours = gobgp(&k.lab, 3, "neighbor")?;
    let head = ours.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(head == "Peer AS Up/Down State |#Received Accepted", "{ours}");
    for peer in ["192.168.10.11 64512", "192.168.10.12 64512"] {
        let line = ours.lines().find(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(peer));
        ensure!(line.is_some_and(|line| line.contains("Establ")), "{ours}");
    }
    let debian = k.lab.node(3)?.ns.command("gobgp neighbor")?;
    // Both were asked at slightly different times: how long a session has been up differs.
    let without_times = |text: &str| {
        let line = |line: &str| {
            let words = line.split_whitespace().enumerate();
            words.filter(|(place, _)| *place != 2).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    ensure!(without_times(&ours) == without_times(&debian), "ours:\n{ours}\nDebian's:\n{debian}");
    let remote = gobgp(&k.lab, 3, "neighbor -u 192.168.10.11");
    ensure!(remote.is_err(), "the administration port of another node answers without authentication");
    Ok(())
}

fn rib(k: &mut Walkthrough) -> Result<()> {
    let rib = gobgp(&k.lab, 1, "global rib")?;
    let line = |prefix: &str| rib.lines().find(|line| line.contains(prefix)).map(str::to_owned);
    let own = line("10.244.1.0/24").with_context(|| rib.clone())?;
    ensure!(own.starts_with("*> ") && own.contains("[{Origin: i}]"), "{rib}");
    for (prefix, hop) in [("10.244.2.0/24", "192.168.10.12"), ("10.244.3.0/24", "192.168.10.13")] {
        let learned = line(prefix).with_context(|| rib.clone())?;
        ensure!(learned.contains(hop) && learned.contains("[{Origin: i} {LocalPref: 100}]"), "{rib}");
    }
    let v6 = gobgp(&k.lab, 1, "global rib -a ipv6")?;
    ensure!(v6.contains("fd00:244:2::/64") && v6.contains("fd10::12"), "{v6}");
    let debian = k.lab.node(1)?.ns.command("gobgp global rib")?;
    ensure!(debian.lines().count() == rib.lines().count(), "ours:\n{rib}\nDebian's:\n{debian}");
    Ok(())
}

fn replicas(k: &mut Walkthrough) -> Result<()> {
    k.lab.manifests().expose(&nginx()?, &k.lab.pods(&["p11", "p22", "p31"])?)?;
    for server in ["10.244.1.11:8080", "10.244.2.12:8080", "10.244.3.11:8080"] {
        listed(&k.lab, &format!("  -> {server}             Masq    1 "), true)?;
    }
    if let Some(open) = &mut k.open {
        open.request().context("the connection that was open all the time")?;
    }
    Ok(())
}

fn pod_to_pod(k: &mut Walkthrough) -> Result<()> {
    for family in Family::ALL {
        for (from, to) in [("p11", "p22"), ("p31", "p12")] {
            let (from, to) = (k.lab.pod(from)?, k.lab.pod(to)?);
            let reply = wait::until("an answer", SOON, || k.lab.http(&from.ns, (to.address(family), 8080).into(), 1))?;
            ensure!(reply.iter().all(|reply| reply.client.ip() == from.address(family)), "{reply:?}");
            let reply = k.lab.udp(&from.ns, (to.address(family), 5353).into(), 1)?;
            ensure!(reply.iter().all(|reply| reply.client.ip() == from.address(family)), "{reply:?}");
        }
    }
    Ok(())
}

fn trace(k: &mut Walkthrough) -> Result<()> {
    let (from, to) = (k.lab.pod("p11")?, k.lab.pod("p22")?.address(Family::V4));
    let hops: Vec<Option<String>> = (1..=3).map(|ttl| hop(&from.ns, to, ttl)).collect::<Result<_>>()?;
    let expected = [Some("10.244.1.1".to_owned()), Some("192.168.10.12".to_owned()), None];
    ensure!(hops == expected, "{hops:?}");
    for node in k.lab.nodes() {
        let tunnels = node.ns.command("ip -o -d link show type ipip")?;
        let own: Vec<&str> = tunnels.lines().filter(|line| !line.contains("tunl0")).collect();
        ensure!(own.is_empty(), "{}: {own:?}", node.name);
    }
    Ok(())
}

fn delete(k: &mut Walkthrough) -> Result<()> {
    k.open = None;
    let endpoints: Vec<_> =
        k.lab.pods(&["p22"])?.into_iter().map(|pod| (pod, EndpointState::TerminatingServing)).collect();
    k.lab.manifests().expose_as(&nginx()?, &endpoints)?;
    k.lab.manifests().delete("nginx")?;
    for node in k.lab.nodes() {
        wait::until(&format!("{} is clean", node.name), SOON, || {
            let (listing, addresses) = (node.ipvsadm()?, node.ns.command("ip -o -4 addr show dev kube-dummy-if")?);
            if listing.contains("TCP") || !addresses.trim().is_empty() {
                bail!("{listing}\n{addresses}");
            }
            Ok(())
        })?;
    }
    let refused = traffic::http_once(&k.lab.pod("p11")?.ns, format!("{VIP}:80").parse()?, Duration::from_secs(2));
    ensure!(refused.is_err(), "{refused:?}");
    ensure!(sessions(&k.lab, 1)? == (2, 2), "sessions of n1: {:?}", sessions(&k.lab, 1)?);
    Ok(())
}
