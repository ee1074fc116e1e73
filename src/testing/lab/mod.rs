//! A three-node cluster in network namespaces of one kernel: nodes, pods with servers, clients inside and outside.
//!
//! [`Lab::up`] wires it (see [`topology`]), [`Manifests`] is the folder the daemons read the cluster from, and
//! [`Daemon`] runs the real binary in a node. Everything a test waits for has a deadline ([`wait`]), and dropping the
//! lab ends the daemons and removes the namespaces. Needs root and a kernel with IPVS: it is made for the guest of
//! `cargo xtask vm`.
//!
//! Must not know: how the daemon works. It sees the outside only: packets, listings, exit codes, HTTP.
#![allow(
    clippy::disallowed_methods,
    reason = "the lab lives on plain threads and starts the operators' own tools; none of it is in the daemon"
)]

pub mod bird;
pub mod daemon;
pub mod edge_files;
pub mod frr;
pub mod gobgpd;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod programs;
pub mod servers;
pub mod topology;
pub mod traffic;
pub mod wait;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

pub use bird::Bird;
pub use daemon::{Daemon, DaemonOptions};
pub use frr::Frr;
pub use gobgpd::Gobgpd;
pub use load::{Load, Tally};
pub use manifests::{EndpointState, Manifests, ServiceSpec};
pub use netns::Namespace;
pub use programs::Program;
pub use servers::{Server, Servers};
pub use traffic::{Connection, Reply, UdpClient};

use crate::net::Family;

/// One lab at a time in one process: they would share the guest's only processor anyway.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Makes the names of successive labs differ.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// How long connections of a pod that leaves may drain, in seconds.
const GRACE_PERIOD: u32 = 30;

/// How big a lab is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, 1-9.
    pub nodes: u16,
    /// Pods on each node, 1-80.
    pub pods: u16,
    /// True for namespaces called plainly `n1`, `p11`, `far` …, for people to type; tests need unique names.
    pub plain_names: bool,
    /// True to let pods also listen on SCTP; loads the kernel's module.
    pub sctp: bool,
    /// True for static routes to all pods and VIPs; false where the router is to make them.
    pub static_routes: bool,
    /// True for a second edge router on the rack, with a client behind it.
    pub second_edge: bool,
    /// How many nodes, the last ones, stand in a second rack with a subnet of its own.
    pub in_second_rack: u16,
    /// How many nodes, the last ones, are wired but have not joined the cluster ([`Lab::join`]).
    pub absent: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 3,
            pods: 2,
            plain_names: false,
            sctp: false,
            static_routes: true,
            second_edge: false,
            in_second_rack: 0,
            absent: 0,
        }
    }
}

impl Options {
    /// Whether node `number` stands in the second rack.
    fn is_in_second_rack(&self, number: u16) -> bool {
        number > self.nodes.saturating_sub(self.in_second_rack)
    }
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    // Fields drop in this order: servers end before the namespaces go, and only then may the next lab begin.
    nodes: Vec<Node>,
    /// The client behind the edge router.
    pub far: Namespace,
    /// The client on the node subnet.
    pub near: Namespace,
    /// The edge router.
    pub edge: Namespace,
    /// The second edge router and the client behind it, where the lab was asked for them.
    pub second: Option<SecondEdge>,
    /// The switch the nodes are plugged into.
    pub rack: Namespace,
    manifests: Manifests,
    objects: Mutex<BTreeMap<u16, Value>>,
    servers: Servers,
    options: Options,
    removal: Removal,
    _alone: MutexGuard<'static, ()>,
}

/// A second edge router on the rack.
#[derive(Debug)]
pub struct SecondEdge {
    /// The router.
    pub edge: Namespace,
    /// The client behind it.
    pub far: Namespace,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `n1`, `n2` …: the name of its Node object.
    pub name: String,
    /// Its number, from 1.
    pub number: u16,
    /// Its network namespace.
    pub ns: Namespace,
    /// Its pods.
    pub pods: Vec<Pod>,
    addresses: [IpAddr; 2],
}

/// A pod, or on the last node also a host-network pod.
#[derive(Debug)]
pub struct Pod {
    /// `p11` is pod 1 of node 1; `h3` the host-network pod of node 3.
    pub name: String,
    /// The number of its node.
    pub node: u16,
    /// Its network namespace; the node's own for a host-network pod.
    pub ns: Namespace,
    /// True for the host-network pod.
    pub host_network: bool,
    addresses: [IpAddr; 2],
    listen: servers::Listen,
    server: Option<Server>,
}

impl Lab {
    /// Builds a lab and starts the pods' servers; no daemon runs yet.
    ///
    /// # Errors
    /// Where the kernel or the tools refuse; what was built is removed again.
    pub fn up(options: Options) -> Result<Lab> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        load_modules(if options.sctp { &["br_netfilter", "sctp"] } else { &["br_netfilter"] })?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = if options.plain_names { String::new() } else { format!("l{}-{count}-", std::process::id()) };
        let full = |short: &str| format!("{prefix}{short}");

        let mut shorts: Vec<String> = ["rack", "edge", "far", "near"].map(String::from).to_vec();
        shorts.extend(if options.second_edge { &["edge2", "far2"][..] } else { &[] }.iter().map(|s| (*s).to_owned()));
        shorts.extend((1..=options.nodes).map(|node| format!("n{node}")));
        for node in 1..=options.nodes {
            shorts.extend((1..=options.pods).map(|pod| format!("p{node}{pod}")));
        }
        let namespaces: Vec<String> = shorts.iter().map(|short| full(short)).collect();
        let directory = std::env::temp_dir().join(format!("ferrovia-lab-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let removal = Removal { namespaces: namespaces.clone(), directory };

        Namespace::create(&namespaces)?;
        let open = |short: &str| Namespace::open(&full(short));
        let servers = Servers::new()?;
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            nodes.push(Node::prepare(number, &options, &open)?);
        }
        let (rack, edge, far, near) = (open("rack")?, open("edge")?, open("far")?, open("near")?);
        let second =
            if options.second_edge { Some(SecondEdge { edge: open("edge2")?, far: open("far2")? }) } else { None };
        let manifests = Manifests::create(&removal.directory)?;
        let present = usize::from(options.nodes - options.absent);
        let objects = nodes.iter().take(present).map(|node| (node.number, manifests::node_object(node))).collect();
        let objects = Mutex::new(objects);
        let mut lab =
            Lab { nodes, far, near, edge, second, rack, manifests, objects, servers, options, removal, _alone: alone };
        lab.wire()?;
        lab.serve()?;
        lab.write_nodes()?;
        lab.set_grace_period(GRACE_PERIOD)?;
        Ok(lab)
    }

    /// The links, addresses and routes of everything.
    fn wire(&self) -> Result<()> {
        let fixed = [("s-edge", &self.edge), ("s-near", &self.near)];
        let second = self.second.iter().map(|second| ("s-edge2", &second.edge));
        let (rack2, rack): (Vec<&Node>, Vec<&Node>) =
            self.nodes.iter().partition(|node| self.options.is_in_second_rack(node.number));
        let members: Vec<(String, &str)> = fixed
            .into_iter()
            .chain(second)
            .chain(rack.iter().map(|node| (node.name.as_str(), &node.ns)))
            .map(|(port, namespace)| (port.to_owned(), namespace.name()))
            .collect();
        self.rack.ip(&topology::rack(&members))?;
        if !rack2.is_empty() {
            let members: Vec<(String, &str)> = rack2.iter().map(|node| (node.name.clone(), node.ns.name())).collect();
            self.rack.ip(&topology::rack2(self.edge.name(), &members))?;
        }
        self.edge.set_sysctls(&topology::EDGE_SYSCTLS)?;
        self.edge.ip(&topology::edge(self.far.name(), !rack2.is_empty()))?;
        self.far.ip(&topology::far())?;
        if let Some(second) = &self.second {
            second.edge.set_sysctls(&topology::EDGE_SYSCTLS)?;
            second.edge.ip(&topology::edge2(second.far.name()))?;
            second.far.ip(&topology::far2())?;
        }
        self.near.ip(&topology::near())?;
        let all: Vec<u16> = (1..=self.options.nodes).collect();
        for node in &self.nodes {
            let pods = node.pods.iter().filter(|pod| !pod.host_network);
            let pods: Vec<_> = pods.map(|pod| (pod.name.clone(), pod.ns.name().to_owned())).collect();
            node.ns.set_sysctls(&topology::NODE_SYSCTLS)?;
            node.ns.ip(&topology::node(&topology::NodePlan {
                number: node.number,
                second_rack: self.options.is_in_second_rack(node.number),
                pods: &pods,
                static_routes: if self.options.static_routes { &all } else { &[] },
            }))?;
            for (pod, number) in node.pods.iter().filter(|pod| !pod.host_network).zip(1..) {
                pod.ns.ip(&topology::pod(node.number, number))?;
            }
        }
        if !self.options.static_routes {
            return Ok(());
        }
        self.announce(
            &[topology::LOAD_BALANCER_RANGES, topology::EXTERNAL_RANGES, topology::CLUSTER_RANGES].concat(),
            1,
        )
    }

    /// Starts the servers of all pods.
    fn serve(&mut self) -> Result<()> {
        for pod in self.nodes.iter_mut().flat_map(|node| &mut node.pods) {
            pod.server = Some(self.servers.serve(&pod.ns, &pod.name, &pod.listen)?);
        }
        Ok(())
    }

    /// Node `number`, from 1.
    ///
    /// # Errors
    /// Where the lab has no such node.
    pub fn node(&self, number: u16) -> Result<&Node> {
        self.nodes.iter().find(|node| node.number == number).ok_or_else(|| anyhow!("the lab has no node {number}"))
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A pod by name.
    ///
    /// # Errors
    /// Where the lab has no such pod.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let mut pods = self.nodes.iter().flat_map(|node| &node.pods);
        pods.find(|pod| pod.name == name).ok_or_else(|| anyhow!("the lab has no pod {name}"))
    }

    /// Pods by name.
    ///
    /// # Errors
    /// Where the lab lacks one of them.
    pub fn pods(&self, names: &[&str]) -> Result<Vec<&Pod>> {
        names.iter().map(|name| self.pod(name)).collect()
    }

    /// The folder the daemons read.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// A folder for logs, sockets and state of this lab, gone with it.
    pub fn directory(&self) -> &Path {
        &self.removal.directory
    }

    /// Lets the edge send `prefixes` to node `node`, as if that node had announced them.
    ///
    /// # Errors
    /// Where the edge refuses the route.
    pub fn announce(&self, prefixes: &[&str], node: u16) -> Result<()> {
        self.edge.ip(&topology::announce(prefixes, node))
    }

    /// Lets the client on the node subnet send `prefixes` to node `node` directly.
    ///
    /// # Errors
    /// Where it refuses the route.
    pub fn announce_near(&self, prefixes: &[&str], node: u16) -> Result<()> {
        self.near.ip(&topology::announce(prefixes, node))
    }

    /// Ends the servers of a pod, as if its process had died: listeners close, connections break.
    ///
    /// # Errors
    /// Where the lab has no such pod.
    pub fn silence(&mut self, name: &str) -> Result<()> {
        let mut pods = self.nodes.iter_mut().flat_map(|node| &mut node.pods);
        let pod = pods.find(|pod| pod.name == name).ok_or_else(|| anyhow!("the lab has no pod {name}"))?;
        pod.server = None;
        Ok(())
    }

    /// Starts one more server, such as a host process of a node.
    ///
    /// # Errors
    /// Where an address or port cannot be bound.
    pub fn serve_in(&self, namespace: &Namespace, name: &str, listen: &servers::Listen) -> Result<Server> {
        self.servers.serve(namespace, name, listen)
    }

    /// Gives every pod this grace period: how long its connections may drain.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn set_grace_period(&self, seconds: u32) -> Result<()> {
        self.manifests.write_pods(&self.nodes, seconds, &[])
    }

    /// Writes the Pod objects with some of them in other namespaces: pairs of a pod and its namespace. Without any, all
    /// are in `default` again.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn set_namespaces(&self, moved: &[(&str, &str)]) -> Result<()> {
        self.manifests.write_pods(&self.nodes, GRACE_PERIOD, moved)
    }

    /// Changes the Node object of node `number`, which has joined.
    ///
    /// # Errors
    /// Where it has not, or the folder cannot be written.
    pub fn edit_node(&self, number: u16, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        edit(objects.get_mut(&number).ok_or_else(|| anyhow!("node {number} is not in the cluster"))?);
        drop(objects);
        self.write_nodes()
    }

    /// Sets an annotation of a node, or removes it.
    ///
    /// # Errors
    /// As [`Lab::edit_node`].
    pub fn annotate(&self, number: u16, key: &str, value: Option<&str>) -> Result<()> {
        self.edit_node(number, |object| set_member(object, "annotations", key, value))
    }

    /// Sets a label of a node, or removes it.
    ///
    /// # Errors
    /// As [`Lab::edit_node`].
    pub fn label(&self, number: u16, key: &str, value: Option<&str>) -> Result<()> {
        self.edit_node(number, |object| set_member(object, "labels", key, value))
    }

    /// Lets node `number` join the cluster: its Node object appears.
    ///
    /// # Errors
    /// Where the lab has no such node, or the folder cannot be written.
    pub fn join(&self, number: u16) -> Result<()> {
        let object = manifests::node_object(self.node(number)?);
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).insert(number, object);
        self.write_nodes()
    }

    /// Takes the Node object of node `number` away.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn leave(&self, number: u16) -> Result<()> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.write_nodes()
    }

    /// Writes the Node objects.
    fn write_nodes(&self) -> Result<()> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let objects: Vec<Value> = objects.values().cloned().collect();
        self.manifests.write("nodes", &objects)
    }

    /// Starts the real daemon in node `number`.
    ///
    /// # Errors
    /// Where the binary is missing or cannot be started.
    pub fn start_daemon(&self, number: u16, options: &DaemonOptions) -> Result<Daemon> {
        Daemon::start(self.node(number)?, self.manifests.path(), self.directory(), options)
    }

    /// Starts a daemon on every node that was in the cluster from the start, all with the same options, and waits
    /// until each is ready.
    ///
    /// # Errors
    /// Where one cannot be started or does not become ready.
    pub fn start_daemons(&self, options: &DaemonOptions) -> Result<Vec<Daemon>> {
        let present = usize::from(self.options.nodes - self.options.absent);
        let started = self.nodes().iter().take(present).map(|node| self.start_daemon(node.number, options));
        let mut daemons: Vec<Daemon> = started.collect::<Result<_>>()?;
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        Ok(daemons)
    }

    /// `n` HTTP requests, each on its own connection.
    ///
    /// # Errors
    /// At the first that fails.
    pub fn http(&self, from: &Namespace, to: SocketAddr, n: usize) -> Result<Vec<Reply>> {
        traffic::http(from, to, n)
    }

    /// `n` datagrams, each from its own socket.
    ///
    /// # Errors
    /// At the first that is not answered.
    pub fn udp(&self, from: &Namespace, to: SocketAddr, n: usize) -> Result<Vec<Reply>> {
        traffic::udp(from, to, n)
    }
}

impl Node {
    /// The names and addresses of a node; nothing is wired yet.
    fn prepare(number: u16, options: &Options, open: &impl Fn(&str) -> Result<Namespace>) -> Result<Node> {
        let name = format!("n{number}");
        let ns = open(&name)?;
        let sctp = options.sctp.then_some(topology::SCTP_PORT);
        let addresses = Family::ALL.map(|family| {
            let second_rack = options.is_in_second_rack(number);
            if second_rack { topology::node_address2(family, number) } else { topology::node_address(family, number) }
        });
        let mut pods = Vec::new();
        for pod in 1..=options.pods {
            let name = format!("p{number}{pod}");
            pods.push(Pod {
                node: number,
                ns: open(&name)?,
                host_network: false,
                addresses: Family::ALL.map(|family| topology::pod_address(family, number, pod)),
                listen: servers::Listen {
                    addresses: Vec::new(),
                    http: topology::HTTP_PORT,
                    udp: topology::UDP_PORT,
                    sctp,
                },
                server: None,
                name,
            });
        }
        if number == options.nodes {
            pods.push(Pod {
                name: format!("h{number}"),
                node: number,
                ns: ns.clone(),
                host_network: true,
                addresses,
                // Only the node's own addresses: the node will have every VIP too, and replies must not come from them.
                listen: servers::Listen {
                    addresses: addresses.to_vec(),
                    http: topology::HOST_POD_PORT,
                    udp: topology::HOST_POD_PORT,
                    sctp: None,
                },
                server: None,
            });
        }
        Ok(Node { name, number, ns, pods, addresses })
    }

    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        let [v4, v6] = self.addresses;
        if family == Family::V4 { v4 } else { v6 }
    }

    /// The output of `ipvsadm -Ln`.
    ///
    /// # Errors
    /// Where `ipvsadm` fails.
    pub fn ipvsadm(&self) -> Result<String> {
        self.ns.command("ipvsadm -Ln")
    }
}

impl Pod {
    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        let [v4, v6] = self.addresses;
        if family == Family::V4 { v4 } else { v6 }
    }

    /// Its server, unless it was silenced.
    ///
    /// # Errors
    /// Where it was.
    pub fn server(&self) -> Result<&Server> {
        self.server.as_ref().ok_or_else(|| anyhow!("pod {} was silenced", self.name))
    }
}

/// Sets or removes a label or an annotation of an object.
fn set_member(object: &mut Value, map: &str, key: &str, value: Option<&str>) {
    match value {
        Some(value) => object["metadata"][map][key] = value.into(),
        None => {
            if let Some(map) = object["metadata"][map].as_object_mut() {
                map.remove(key);
            }
        }
    }
}

/// Removes what a lab leaves on the machine.
#[derive(Debug)]
struct Removal {
    namespaces: Vec<String>,
    directory: PathBuf,
}

impl Drop for Removal {
    fn drop(&mut self) {
        // One that was never made must not keep the others: each is deleted only if it is there.
        let there: Vec<String> =
            self.namespaces.drain(..).filter(|name| Path::new("/run/netns").join(name).exists()).collect();
        if let Err(error) = Namespace::delete(&there) {
            report(&format!("the lab could not remove its namespaces: {error:#}"));
        }
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Loads kernel modules the lab itself needs (what a node has from its CNI and kubelet).
fn load_modules(names: &[&str]) -> Result<()> {
    let loaded = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    let missing: Vec<&&str> =
        names.iter().filter(|name| !loaded.lines().any(|l| l.starts_with(&format!("{name} ")))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let status = Command::new("modprobe").arg("-a").args(&missing).status().context("start modprobe")?;
    if !status.success() {
        bail!("the lab needs the kernel modules {missing:?}; modprobe failed ({status})");
    }
    Ok(())
}

/// Says something on standard error even where a test harness captures `eprintln!`.
pub fn report(message: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{message}"));
}
