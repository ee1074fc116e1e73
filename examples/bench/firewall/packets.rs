//! What a packet costs on its way from one pod to another through the node, under policies and without.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrovia::kernel::filter::Backend;
use ferrovia::model::Snapshot;
use ferrovia::reconcile::Read;
use ferrovia::testing::lab::{Namespace, report};

use super::cluster::{MANY, PORT, World, local_pods, pod_address};
use super::doors::{RealRoom, on_iptables, on_nftables};
use super::scenarios::pass;
use crate::place::settle;
use crate::table::{Row, Samples, show};

/// Packets of one measurement.
const N_PACKETS: u32 = 5_000;
/// Packets on the way at once: a receive buffer holds them all.
const WINDOW: u32 = 32;
/// Bytes of a packet's payload.
const PAYLOAD: [u8; 64] = [0; 64];
/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The address by which a node is its pods' router.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 127, 255, 254);
/// Pods of this node in the small case.
const FEW_LOCAL: usize = 10;
/// What flat means: nothing grows, but one measurement is not like the other.
const FLAT: f64 = 1.15;

/// Policies each pod is under. iptables in its flavour of nftables takes no way through more than 16 chains, and each
/// policy is one.
const N_ROLES: usize = 4;
/// The pod that receives: that many policies are about it.
const RECEIVER: usize = 0;
/// The pod that sends: the fourth of them is the first that allows it.
const SENDER: usize = 2_040;

/// What filters.
enum Filter {
    /// Nothing, and connections are not tracked.
    Nothing,
    /// Nothing, but connections are tracked.
    Tracking,
    /// The firewall, on nftables.
    Nftables(Snapshot),
    /// The firewall, on iptables and ipset.
    Iptables(Snapshot),
}

/// A node with two of its pods, as real as packets need it.
struct Node {
    names: Vec<String>,
    /// From one pod to the other, as often as wanted: nobody ever answers.
    unanswered: Flow,
    /// The same, after an answer.
    answered: Flow,
}

/// Two sockets that packets go between.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Flow {
    fn open(from: (&Namespace, IpAddr), to: (&Namespace, IpAddr), port: u16) -> Result<Flow> {
        let socket = |namespace: &Namespace, address: SocketAddr| {
            namespace.run(|| {
                let socket = UdpSocket::bind(address).with_context(|| format!("listen on {address}"))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })
        };
        let receiver = socket(to.0, (to.1, port).into())?;
        let sender = socket(from.0, (from.1, 0).into())?;
        sender.connect((to.1, port))?;
        Ok(Flow { sender, receiver })
    }

    /// Sends packets and waits for them: how long each took, on average.
    fn send(&self, n_packets: u32) -> Result<Duration> {
        let mut buffer = [0; PAYLOAD.len()];
        let start = Instant::now();
        for _ in 0..n_packets / WINDOW {
            for _ in 0..WINDOW {
                self.sender.send(&PAYLOAD)?;
            }
            for _ in 0..WINDOW {
                self.receiver.recv(&mut buffer).context("a packet did not arrive")?;
            }
        }
        Ok(start.elapsed() / (n_packets / WINDOW * WINDOW))
    }

    /// One packet there and one back.
    fn answer(&self) -> Result<()> {
        let mut buffer = [0; PAYLOAD.len()];
        self.sender.send(&PAYLOAD)?;
        let (length, from) = self.receiver.recv_from(&mut buffer)?;
        self.receiver.send_to(buffer.get(..length).unwrap_or_default(), from)?;
        self.sender.recv(&mut buffer).context("no answer")?;
        Ok(())
    }
}

impl Node {
    fn up(name: &str, filter: &Filter) -> Result<Node> {
        let names: Vec<String> =
            ["node", "from", "to"].iter().map(|part| format!("bench-{}-{name}-{part}", std::process::id())).collect();
        let made = Namespace::create(&names).and_then(|namespaces| Node::wire(&namespaces, filter));
        match made {
            Ok((unanswered, answered)) => Ok(Node { names, unanswered, answered }),
            Err(error) => {
                // It may not have come so far that there is something to delete.
                drop(Namespace::delete(&names));
                Err(error)
            }
        }
    }

    fn wire(namespaces: &[Namespace], filter: &Filter) -> Result<(Flow, Flow)> {
        let [node, from, to] = namespaces else { anyhow::bail!("three namespaces") };
        let (source, destination) = (pod_address(SENDER), pod_address(RECEIVER));
        node.ip("link set lo up\n")?;
        node.set_sysctls(&[("net/ipv4/ip_forward", "1")])?;
        for (pod, address, link) in [(from, source, "v-from"), (to, destination, "v-to")] {
            node.ip(&format!(
                "link add {link} type veth peer name eth0 netns {}\nlink set {link} up\naddr add {ROUTER}/32 dev {link}\n\
                 route add {address}/32 dev {link}\n",
                pod.name()
            ))?;
            pod.ip(&format!(
                "link set lo up\nlink set eth0 up\naddr add {address}/32 dev eth0\nroute add {ROUTER}/32 dev eth0\n\
                 route add default via {ROUTER}\n"
            ))?;
        }
        match filter {
            Filter::Nothing => {}
            Filter::Tracking => {
                let rules =
                    "table inet tracking { chain forward { type filter hook forward priority 0; ct state new; }; }";
                node.feed("nft -f -", rules)?;
            }
            Filter::Nftables(snapshot) => node.run(|| program(on_nftables(false)?.0, snapshot))?,
            Filter::Iptables(snapshot) => node.run(|| program(on_iptables()?.0, snapshot))?,
        }
        let flow = |port: u16| Flow::open((from, source), (to, destination), port);
        let (unanswered, answered) = (flow(PORT)?, flow(PORT + 1)?);
        // Neighbours find each other now, and not on the clock.
        answered.answer()?;
        unanswered.send(WINDOW)?;
        if !matches!(filter, Filter::Nothing | Filter::Tracking) {
            let denied = flow(PORT - 1)?;
            denied.receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
            ensure!(denied.send(WINDOW).is_err(), "policies are not in force");
        }
        Ok((unanswered, answered))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = Namespace::delete(&self.names) {
            report(&format!("bench: {error:#}"));
        }
    }
}

fn program<B: Backend>(mut room: RealRoom<B>, snapshot: &Snapshot) -> Result<()> {
    let (_, took) = pass(&mut room, snapshot, Read::Kernel, Duration::ZERO)?;
    report(&format!("bench: the firewall was written in {}", show(took)));
    Ok(())
}

/// The cluster of which so many pods run here, sender and receiver among them.
fn cluster(n_local: usize) -> Snapshot {
    let mut local: BTreeSet<usize> = [RECEIVER, SENDER].into();
    for pod in local_pods(MANY) {
        if local.len() < n_local {
            local.insert(pod);
        }
    }
    World::with_local(MANY, N_ROLES, local).snapshot()
}

/// What one filter makes of packets.
struct Measured {
    node: Node,
    unanswered: Samples,
    answered: Samples,
}

/// Packets of flows that policies are asked about, and of flows that were allowed before, past all filters in turn.
pub(crate) fn per_packet(repetitions: usize) -> Result<Vec<Row>> {
    let n_local = local_pods(MANY).count();
    let filters = [
        ("none", Filter::Nothing),
        ("tracking", Filter::Tracking),
        ("nft-few", Filter::Nftables(cluster(FEW_LOCAL))),
        ("nft-many", Filter::Nftables(cluster(n_local))),
        ("ipt-few", Filter::Iptables(cluster(FEW_LOCAL))),
        ("ipt-many", Filter::Iptables(cluster(n_local))),
    ];
    let mut all = Vec::new();
    for (name, filter) in &filters {
        let node = Node::up(name, filter).with_context(|| format!("a node with the filter {name}"))?;
        all.push(Measured { node, unanswered: Samples::default(), answered: Samples::default() });
    }
    settle()?;
    for _ in 0..repetitions.max(5) {
        for measured in &mut all {
            measured.unanswered.push(measured.node.unanswered.send(N_PACKETS)?);
            measured.answered.push(measured.node.answered.send(N_PACKETS)?);
        }
    }
    let [none, tracking, nft_few, nft_many, ipt_few, ipt_many] = all.as_slice() else { anyhow::bail!("six filters") };
    let (few, many) =
        (format!("with {FEW_LOCAL} local pods"), format!("{n_local} local pods under {N_ROLES} policies each"));
    let mut rows = Vec::new();
    for (packet, of) in [
        ("a packet that policies are asked about", (|m| &m.unanswered) as fn(&Measured) -> &Samples),
        ("a packet of a connection that was allowed", |m| &m.answered),
    ] {
        let row = |what: &str, measured: &Measured, against: (&str, &Measured), bar: Option<f64>| {
            Row::ratio(what, of(measured), (against.0, of(against.1)), bar)
        };
        rows.extend([
            row(&format!("{packet}, pod to pod, {many}: nftables"), nft_many, ("no firewall", none), None),
            row("… nftables is flat in the number of pods", nft_many, (&few, nft_few), Some(FLAT)),
            row("… nftables against connection tracking alone", nft_many, ("tracking", tracking), None),
            row("… iptables", ipt_many, ("no firewall", none), None),
            row("… iptables in the number of pods", ipt_many, (&few, ipt_few), None),
            row("… nftables against iptables", nft_many, ("iptables", ipt_many), None),
        ]);
    }
    Ok(rows)
}
