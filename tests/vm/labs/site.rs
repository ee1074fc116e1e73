//! What the labs share: the edge routers, our own `gobgp`, and questions to kernels.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::bird::{self, Version};
use ferrovia::testing::lab::edge_files::{Edge, Neighbour};
use ferrovia::testing::lab::{Bird, Lab, Namespace, Node, ServiceSpec, daemon, topology, wait};

use super::SOON;

/// The route protocol the daemon marks its routes with.
pub(super) const ROUTE_PROTOCOL: &str = "17";

/// An edge router.
pub(super) struct EdgeRouter {
    /// What its file says of itself.
    pub(super) edge: Edge,
    /// Where it runs.
    pub(super) ns: Namespace,
    /// The client behind it.
    pub(super) far: Namespace,
    /// The running BIRD.
    pub(super) bird: Bird,
}

/// BIRD 2 on the first edge and BIRD 1.6 on the second, where there is one; each with the file `file` makes for it.
pub(super) fn edges(lab: &Lab, asn: u32, file: impl Fn(&Edge) -> String) -> Result<Vec<EdgeRouter>> {
    let first = (Version::Two, &lab.edge, &lab.far, topology::edge_address(Family::V4));
    let second = lab
        .second
        .as_ref()
        .map(|second| (Version::One, &second.edge, &second.far, topology::edge2_address(Family::V4)));
    let routers = std::iter::once(first).chain(second).map(|(version, ns, far, address)| {
        let edge = Edge { version, address, asn };
        let bird = Bird::start(ns, &format!("bird-{version:?}"), lab.directory(), version, &file(&edge))?;
        Ok(EdgeRouter { edge, ns: ns.clone(), far: far.clone(), bird })
    });
    routers.collect()
}

/// The address of a node on the first rack.
pub(super) fn node_address(node: u16) -> IpAddr {
    topology::node_address(Family::V4, node)
}

/// The addresses of nodes as texts, sorted as texts.
pub(super) fn hops(nodes: &[u16]) -> Vec<String> {
    let mut hops: Vec<String> = nodes.iter().map(|node| node_address(*node).to_string()).collect();
    hops.sort();
    hops
}

/// A node as a neighbour of an edge.
pub(super) fn neighbour(name: &str, node: u16, port: u16, asn: u32) -> Neighbour {
    Neighbour::new(name, node_address(node), port, asn)
}

impl EdgeRouter {
    /// Waits until its kernel has exactly these nodes as next hops of a prefix.
    pub(super) fn kernel(&self, prefix: &str, nodes: &[u16]) -> Result<()> {
        let hops = hops(nodes);
        let hops: Vec<&str> = hops.iter().map(String::as_str).collect();
        bird::wait_kernel_next_hops(&self.ns, prefix, &hops, SOON).with_context(|| self.routes())
    }

    /// Waits until BIRD's table has exactly these paths to a prefix, duplicates included.
    pub(super) fn table(&self, prefix: &str, nodes: &[u16]) -> Result<()> {
        let wanted = hops(nodes);
        wait::until(&format!("{:?}: paths to {prefix} by {wanted:?}", self.edge.version), SOON, || {
            let hops = self.bird.next_hops(prefix)?;
            ensure!(hops == wanted, "{hops:?}");
            Ok(())
        })
        .with_context(|| self.routes())
    }

    /// Everything it knows, for a failure's report.
    fn routes(&self) -> String {
        self.bird.ask("show route all").unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// Our own binary under the name `gobgp`.
pub(super) fn gobgp_name(lab: &Lab) -> Result<PathBuf> {
    let path = lab.directory().join("gobgp");
    if !path.exists() {
        std::os::unix::fs::symlink(daemon::binary()?, &path)?;
    }
    Ok(path)
}

/// What our own `gobgp ARGUMENTS` prints on a node.
pub(super) fn gobgp(lab: &Lab, node: u16, arguments: &str) -> Result<String> {
    lab.node(node)?.ns.command(&format!("{} {arguments}", gobgp_name(lab)?.display()))
}

/// The state of a session as a node's `gobgp neighbor` tells it, such as `Establ`; empty where there is no such peer.
pub(super) fn session(lab: &Lab, node: u16, peer: &str) -> Result<String> {
    let listing = gobgp(lab, node, "neighbor")?;
    let line = listing.lines().find(|line| line.split_whitespace().next() == Some(peer));
    // Peer AS Up/Down State |#Received Accepted; a session that is down says `never` or how long.
    Ok(line.and_then(|line| line.split('|').next()?.split_whitespace().last()).unwrap_or_default().to_owned())
}

/// How many sessions of a node are established, and how many it wants.
pub(super) fn sessions(lab: &Lab, node: u16) -> Result<(usize, usize)> {
    let listing = gobgp(lab, node, "neighbor")?;
    let lines: Vec<&str> = listing.lines().skip(1).filter(|line| !line.trim().is_empty()).collect();
    Ok((lines.iter().filter(|line| line.contains("Establ")).count(), lines.len()))
}

/// Waits until a node has exactly `n` sessions and all are established.
pub(super) fn wait_sessions(lab: &Lab, node: u16, n: usize) -> Result<()> {
    wait::until(&format!("{n} sessions of n{node}"), SOON, || {
        let (up, all) = sessions(lab, node)?;
        ensure!(up == n && all == n, "{up} of {all} are up");
        Ok(())
    })
}

/// The lines of `ip route show` on a node that the daemon made, those of learned routes: the blackhole under the node's
/// own pod prefix is apart.
pub(super) fn own_routes(node: &Node) -> Result<Vec<String>> {
    let listing = node.ns.command(&format!("ip route show proto {ROUTE_PROTOCOL}"))?;
    let lines = listing.lines().map(|line| line.trim().to_owned());
    Ok(lines.filter(|line| !line.starts_with("blackhole")).collect())
}

/// Waits until a node's kernel reaches `prefix` by `via` through a route of the daemon.
pub(super) fn wait_own_route(node: &Node, prefix: &str, via: &str) -> Result<()> {
    wait::until(&format!("{} routes {prefix} by {via}", node.name), SOON, || {
        let routes = own_routes(node)?;
        let there = routes.iter().any(|route| route.starts_with(prefix) && route.contains(via));
        ensure!(there, "its routes are {routes:?}");
        Ok(())
    })
}

/// A Service with an external address, as the labs' users typed it; HTTP on port 8088 and UDP on 53.
pub(super) fn web(name: &str, cluster: &str, external: &[&str]) -> Result<ServiceSpec> {
    let external = external.iter().map(|text| text.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
    let service = ServiceSpec::new(name, &[cluster.parse()?]).port(Protocol::Tcp, 8088).port(Protocol::Udp, 53);
    Ok(service.load_balancer(&[]).external_ips(&external))
}

/// Waits until a request is answered and returns who answered.
pub(super) fn answered(lab: &Lab, from: &Namespace, to: &str) -> Result<String> {
    let to: SocketAddr = to.parse()?;
    wait::until(&format!("{to} answers {}", from.name()), SOON, || {
        Ok(lab.http(from, to, 1)?.pop().context("no reply")?.pod)
    })
}

/// What listens on TCP ports of a namespace, as `ss -ltnp` prints it.
pub(super) fn listeners(ns: &Namespace) -> Result<String> {
    ns.command("ss -Hltnp")
}

/// Whether somebody listens on a port.
pub(super) fn listens(ns: &Namespace, port: u16) -> Result<bool> {
    Ok(listeners(ns)?.lines().any(|line| {
        line.split_whitespace().nth(3).and_then(|local| local.rsplit(':').next()) == Some(port.to_string().as_str())
    }))
}

/// Which node's address answers a probe that may travel `ttl` hops; `None` where the target itself answers.
pub(super) fn hop(from: &Namespace, to: IpAddr, ttl: u8) -> Result<Option<String>> {
    let output = from.output(&format!("ping -n -c 1 -W 5 -t {ttl} {to}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(None);
    }
    match text.lines().find(|line| line.contains("Time to live exceeded")) {
        Some(line) => Ok(line.split_whitespace().nth(1).map(|hop| hop.trim_end_matches(':').to_owned())),
        None => bail!("no answer from a hop: {text}"),
    }
}

/// Runs a fault or a change and says how long until `look` is content.
pub(super) fn time(what: &str, act: impl FnOnce() -> Result<()>, look: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = std::time::Instant::now();
    act()?;
    wait::until(what, SOON, look)?;
    Ok(start.elapsed())
}

/// Takes the first edge's addresses off its outer NIC, as a router has it that a cloud binds a public address to: the
/// NIC answers for addresses the router has a route to, and the client behind it has nobody else.
pub(super) fn bare_uplink(lab: &Lab) -> Result<()> {
    lab.edge.ip("addr flush dev eth1\n")?;
    lab.edge.set_sysctls(&[
        ("net/ipv4/conf/eth1/proxy_arp", "1"),
        ("net/ipv4/neigh/eth1/proxy_delay", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "0"),
        ("net/ipv4/conf/eth1/rp_filter", "0"),
    ])?;
    lab.far.ip("route replace default dev eth0\n")
}

/// On the edge: what comes from a public address leaves by the outer NIC.
pub(super) fn return_by_uplink(lab: &Lab, address: &str) -> Result<()> {
    lab.edge.ip(&format!("rule add from {address}/32 lookup 101\nroute replace default dev eth1 table 101\n"))
}
