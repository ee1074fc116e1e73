//! Where packets to a VIP end, from every side: who answers, from which address, and whom the endpoint sees.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::servers::Listen;
use ferrovia::testing::lab::{Lab, Namespace, Options, Pod, Reply, ServiceSpec, UdpClient, topology, traffic, wait};

use super::{SOON, with_daemons};

/// How long one cell of a matrix may take to come right; many cells, so less than [`SOON`].
const CELL: Duration = Duration::from_secs(8);
/// One attempt within a cell.
const ATTEMPT: Duration = Duration::from_secs(2);

const PODS: [&str; 6] = ["p11", "p12", "p21", "p22", "p31", "p32"];
const TCP_NODE_PORT: u16 = 30080;
const UDP_NODE_PORT: u16 = 30053;

/// The four ways to address a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VipKind {
    ClusterIp,
    NodePort,
    ExternalIp,
    LoadBalancer,
}

impl VipKind {
    const ALL: [VipKind; 4] = [VipKind::ClusterIp, VipKind::NodePort, VipKind::ExternalIp, VipKind::LoadBalancer];

    /// Its addresses, IPv4 first; those of node `entry` for a node port.
    fn addresses(self, entry: u16) -> [IpAddr; 2] {
        let texts = match self {
            VipKind::ClusterIp => ["10.96.0.10", "fd00:96::10"],
            VipKind::ExternalIp => ["198.51.101.10", "2001:db8:65::10"],
            VipKind::LoadBalancer => ["198.51.100.10", "2001:db8:64::10"],
            VipKind::NodePort => return Family::ALL.map(|family| topology::node_address(family, entry)),
        };
        texts.map(|text| text.parse().expect("an address"))
    }

    /// Where to send a packet that should enter the cluster at node `entry`.
    fn target(self, family: Family, protocol: Protocol, entry: u16) -> SocketAddr {
        let [v4, v6] = self.addresses(entry);
        let port = match (self, protocol) {
            (VipKind::NodePort, Protocol::Udp) => UDP_NODE_PORT,
            (VipKind::NodePort, _) => TCP_NODE_PORT,
            (_, Protocol::Udp) => 53,
            _ => 80,
        };
        SocketAddr::new(if family == Family::V4 { v4 } else { v6 }, port)
    }
}

/// A Service with all four kinds of VIP, for TCP and UDP.
fn everything(name: &str) -> ServiceSpec {
    ServiceSpec::new(name, &VipKind::ClusterIp.addresses(0))
        .port(Protocol::Tcp, 80)
        .node_port(TCP_NODE_PORT)
        .port(Protocol::Udp, 53)
        .node_port(UDP_NODE_PORT)
        .external_ips(&VipKind::ExternalIp.addresses(0))
        .load_balancer(&VipKind::LoadBalancer.addresses(0))
}

/// Somebody who sends packets.
struct Source<'a> {
    what: &'static str,
    ns: &'a Namespace,
    addresses: [IpAddr; 2],
    /// The node whose IPVS table a VIP meets first.
    entry: u16,
    /// The node it runs on, if any.
    node: Option<u16>,
    /// Its pod, if it is one.
    pod: Option<&'a Pod>,
}

impl Source<'_> {
    fn address(&self, family: Family) -> IpAddr {
        self.addresses[usize::from(family == Family::V6)]
    }

    /// Where its packets enter: a node port is always asked of node 1, other VIPs where they meet IPVS first.
    fn entry(&self, kind: VipKind) -> u16 {
        if kind == VipKind::NodePort { 1 } else { self.entry }
    }

    /// Whom `endpoint` should see as the client.
    ///
    /// The client itself, wherever the reply comes back through the entry node on its own: the endpoint is there, or
    /// the client is. Otherwise the entry node, or the reply would pass by and not come from the VIP.
    fn expected(&self, family: Family, kind: VipKind, endpoint: &Pod) -> IpAddr {
        let entry = self.entry(kind);
        if endpoint.node == entry || self.node == Some(entry) {
            self.address(family)
        } else {
            topology::node_address(family, entry)
        }
    }
}

/// Everybody: on node 1, on node 2, and outside.
fn sources(lab: &Lab) -> Result<Vec<Source<'_>>> {
    let node = |number: u16, what| -> Result<Source<'_>> {
        let node = lab.node(number)?;
        let addresses = Family::ALL.map(|family| node.address(family));
        Ok(Source { what, ns: &node.ns, addresses, entry: number, node: Some(number), pod: None })
    };
    let pod = |name: &str, what| -> Result<Source<'_>> {
        let pod = lab.pod(name)?;
        let addresses = Family::ALL.map(|family| pod.address(family));
        Ok(Source { what, ns: &pod.ns, addresses, entry: pod.node, node: Some(pod.node), pod: Some(pod) })
    };
    let outside = |ns, what, address: fn(Family) -> IpAddr| Source {
        what,
        ns,
        addresses: Family::ALL.map(address),
        entry: 1,
        node: None,
        pod: None,
    };
    Ok(vec![
        node(1, "the node itself")?,
        node(2, "a host process of another node")?,
        pod("p11", "a pod of the node")?,
        pod("p21", "a pod of another node")?,
        outside(&lab.far, "a client behind the edge", topology::far_address),
        outside(&lab.near, "a client on the node subnet", topology::near_address),
    ])
}

/// `n` fresh requests, each within [`ATTEMPT`].
fn ask(from: &Namespace, protocol: Protocol, to: SocketAddr, n: usize) -> Result<Vec<Reply>> {
    let replies: std::io::Result<Vec<Reply>> = match protocol {
        Protocol::Udp => {
            (0..n).map(|_| UdpClient::connect(from, to).map_err(std::io::Error::other)?.ask(ATTEMPT)).collect()
        }
        _ => traffic::http_within(from, to, n, ATTEMPT).into_iter().collect(),
    };
    replies.with_context(|| format!("{protocol} from {} to {to}", from.name()))
}

/// Sends outside traffic for every VIP to node `entry`.
fn enter_at(lab: &Lab, entry: u16) -> Result<()> {
    let ranges = [topology::LOAD_BALANCER_RANGES, topology::EXTERNAL_RANGES, topology::CLUSTER_RANGES].concat();
    lab.announce(&ranges, entry)?;
    lab.announce_near(&ranges, entry)
}

/// Waits until an endpoint answers on every node.
fn answers_everywhere(lab: &Lab, to: SocketAddr) -> Result<()> {
    for node in lab.nodes() {
        wait::until(&format!("{to} answers on {}", node.name), SOON, || ask(&node.ns, Protocol::Tcp, to, 1))?;
    }
    Ok(())
}

/// Waits until nobody answers on node `number`, and quickly so: refused, not silent.
fn refused(from: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<()> {
    let what = format!("{protocol} from {} to {to} is refused", from.name());
    wait::until(&what, SOON, || {
        let outcome = match protocol {
            Protocol::Udp => UdpClient::connect(from, to)?.ask(ATTEMPT),
            _ => traffic::http_once(from, to, ATTEMPT),
        };
        match outcome {
            Ok(reply) => bail!("{} answered", reply.pod),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => bail!("not refused but: {error}"),
        }
    })
}

#[test]
fn every_vip_answers_everybody_and_the_endpoint_sees_whom_it_should() {
    with_daemons(Options::default(), &[], |lab, _| {
        lab.manifests().expose(&everything("web"), &lab.pods(&PODS)?)?;
        enter_at(lab, 1)?;
        answers_everywhere(lab, VipKind::ClusterIp.target(Family::V4, Protocol::Tcp, 1))?;
        let mut failures = Vec::new();
        let mut n_cells = 0;
        for source in sources(lab)? {
            for kind in VipKind::ALL {
                for family in Family::ALL {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        n_cells += 1;
                        let cell = format!("{kind:?} {family} {protocol} from {}", source.what);
                        if let Err(error) =
                            wait::until(&cell, CELL, || cell_is_right(lab, &source, kind, family, protocol))
                        {
                            failures.push(format!("{error:#}"));
                        }
                    }
                }
            }
        }
        ensure!(failures.is_empty(), "{} of {n_cells} cells:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    });
}

/// Asks once for each endpoint and looks at every reply.
fn cell_is_right(lab: &Lab, source: &Source<'_>, kind: VipKind, family: Family, protocol: Protocol) -> Result<()> {
    let to = kind.target(family, protocol, source.entry(kind));
    let mut answered: Vec<String> = Vec::new();
    for reply in ask(source.ns, protocol, to, PODS.len())? {
        let endpoint = lab.pod(&reply.pod)?;
        let itself = source.pod.is_some_and(|pod| pod.name == reply.pod);
        let expected = source.expected(family, kind, endpoint);
        // A pod that reaches itself sees some address of the node or the VIP; any but its own brings the reply home.
        let right = if itself { reply.client.ip() != source.address(family) } else { reply.client.ip() == expected };
        ensure!(right, "{} saw {} where {expected} is right", reply.pod, reply.client.ip());
        answered.push(reply.pod);
    }
    answered.sort();
    answered.dedup();
    ensure!(answered.len() > PODS.len() / 2, "only {answered:?} answered");
    Ok(())
}

#[test]
fn a_lone_pod_reaches_itself_by_every_vip() {
    with_daemons(Options::default(), &[], |lab, _| {
        lab.manifests().expose(&everything("web"), &lab.pods(&["p11"])?)?;
        answers_everywhere(lab, VipKind::ClusterIp.target(Family::V4, Protocol::Tcp, 1))?;
        let pod = lab.pod("p11")?;
        let mut failures = Vec::new();
        for kind in VipKind::ALL {
            // By the node port of its own node and by that of another.
            let entries: &[u16] = if kind == VipKind::NodePort { &[1, 2] } else { &[1] };
            for (entry, family) in entries.iter().flat_map(|entry| Family::ALL.map(|family| (*entry, family))) {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let to = kind.target(family, protocol, entry);
                    let cell = format!("p11 to itself by {kind:?} {to}/{protocol}");
                    if let Err(error) = wait::until(&cell, CELL, || ask(&pod.ns, protocol, to, 2)) {
                        failures.push(format!("{error:#}"));
                    }
                }
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    });
}

#[test]
fn a_host_network_endpoint_answers_and_a_host_process_on_its_node_reaches_it() {
    with_daemons(Options::default(), &[], |lab, _| {
        lab.manifests().expose(&everything("web"), &lab.pods(&["h3"])?)?;
        enter_at(lab, 1)?;
        let mut failures = Vec::new();
        let sources =
            [&lab.pod("p11")?.ns, &lab.pod("p31")?.ns, &lab.node(3)?.ns, &lab.node(1)?.ns, &lab.far, &lab.near];
        for (from, family) in sources.iter().flat_map(|from| Family::ALL.map(|family| (from, family))) {
            for kind in [VipKind::ClusterIp, VipKind::LoadBalancer] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let to = kind.target(family, protocol, 1);
                    let cell = format!("{} to h3 by {to}/{protocol}", from.name());
                    if let Err(error) = wait::until(&cell, CELL, || ask(from, protocol, to, 1)) {
                        failures.push(format!("{error:#}"));
                    }
                }
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    });
}

#[test]
fn external_traffic_policy_local_keeps_the_client_and_uses_local_endpoints_only() {
    with_daemons(Options::default(), &[], |lab, daemons| {
        let service = everything("web").external_local().health_check_node_port(31999);
        lab.manifests().expose(&service, &lab.pods(&["p21", "p31"])?)?;
        enter_at(lab, 2)?;
        for family in Family::ALL {
            for (kind, protocol) in [VipKind::LoadBalancer, VipKind::ExternalIp, VipKind::NodePort]
                .into_iter()
                .flat_map(|kind| [Protocol::Tcp, Protocol::Udp].map(|protocol| (kind, protocol)))
            {
                let to = kind.target(family, protocol, 2);
                for (client, address) in
                    [(&lab.far, topology::far_address(family)), (&lab.near, topology::near_address(family))]
                {
                    let what = format!("{} to {to}/{protocol} ends at p21", client.name());
                    wait::until(&what, SOON, || {
                        let replies = ask(client, protocol, to, 3)?;
                        let right = replies.iter().all(|reply| reply.pod == "p21" && reply.client.ip() == address);
                        ensure!(right, "{replies:?}");
                        Ok(())
                    })?;
                }
            }
            // The cluster-internal address still reaches all of them.
            let inside = VipKind::ClusterIp.target(family, Protocol::Tcp, 1);
            let from = &lab.pod("p11")?.ns;
            wait::until("both endpoints by the cluster IP", SOON, || {
                let replies = ask(from, Protocol::Tcp, inside, 4)?;
                ensure!(
                    PODS.iter().filter(|pod| replies.iter().any(|reply| reply.pod == **pod)).count() == 2,
                    "{replies:?}"
                );
                Ok(())
            })?;
        }
        // The load balancer is told which nodes have an endpoint, and the others serve nobody from outside.
        for (number, expected) in [(1, 503), (2, 200), (3, 200)] {
            let to = SocketAddr::new(topology::node_address(Family::V4, number), 31999);
            wait::until(&format!("health check of n{number}"), SOON, || {
                let (status, body) = traffic::get(&lab.near, to, "/healthz", ATTEMPT)?;
                ensure!(status == expected, "{status} {body}");
                Ok(())
            })?;
        }
        enter_at(lab, 1)?;
        for kind in [VipKind::LoadBalancer, VipKind::NodePort] {
            let to = kind.target(Family::V4, Protocol::Tcp, 1);
            ensure!(traffic::http_once(&lab.far, to, ATTEMPT).is_err(), "n1 has no endpoint but serves {to}");
        }
        ensure!(daemons[0].health("/healthz")?.0 == 200, "a node without local endpoints is still healthy");
        Ok(())
    });
}

#[test]
fn internal_traffic_policy_local_uses_local_endpoints_only() {
    with_daemons(Options::default(), &[], |lab, _| {
        lab.manifests().expose(&everything("web").internal_local(), &lab.pods(&["p21", "p22", "p31"])?)?;
        for family in Family::ALL {
            let to = VipKind::ClusterIp.target(family, Protocol::Tcp, 1);
            wait::until("p21 sees only n2", SOON, || {
                let replies = ask(&lab.pod("p21")?.ns, Protocol::Tcp, to, 4)?;
                ensure!(replies.iter().all(|reply| reply.pod.starts_with("p2")), "{replies:?}");
                Ok(())
            })?;
            let local = traffic::http_once(&lab.pod("p11")?.ns, to, ATTEMPT);
            ensure!(local.is_err(), "n1 has no endpoint but {local:?}");
            let outside = VipKind::NodePort.target(family, Protocol::Tcp, 1);
            wait::until("the node port uses all", SOON, || ask(&lab.near, Protocol::Tcp, outside, 3))?;
        }
        Ok(())
    });
}

#[test]
fn load_balancer_source_ranges_admit_only_their_clients() {
    with_daemons(Options::default(), &[], |lab, _| {
        let service = everything("web").source_ranges(&topology::OUTSIDE);
        lab.manifests().expose(&service, &lab.pods(&["p11", "p21"])?)?;
        enter_at(lab, 1)?;
        for family in Family::ALL {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let to = VipKind::LoadBalancer.target(family, protocol, 1);
                wait::until("the admitted client", SOON, || ask(&lab.far, protocol, to, 2))?;
                wait::until(&format!("near is kept out of {to}/{protocol}"), SOON, || {
                    ensure!(ask(&lab.near, protocol, to, 1).is_err(), "it was answered");
                    Ok(())
                })?;
            }
            // They are about load-balancer addresses only.
            for kind in [VipKind::ClusterIp, VipKind::ExternalIp, VipKind::NodePort] {
                let to = kind.target(family, Protocol::Tcp, 1);
                wait::until(&format!("near by {kind:?}"), SOON, || ask(&lab.near, Protocol::Tcp, to, 1))?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_vip_refuses_other_ports_answers_ping_and_hides_the_hosts_own_ports() {
    with_daemons(Options::default(), &[], |lab, _| {
        let host = Listen { addresses: Vec::new(), http: 22, udp: 22, sctp: None };
        let _sshd = lab.serve_in(&lab.node(1)?.ns, "host", &host)?;
        lab.manifests().expose(&everything("web"), &lab.pods(&["p11", "p21"])?)?;
        enter_at(lab, 1)?;
        for family in Family::ALL {
            let own = SocketAddr::new(topology::node_address(family, 1), 22);
            ensure!(ask(&lab.near, Protocol::Tcp, own, 1)?[0].pod == "host", "the host's own address stays open");
            for kind in [VipKind::ClusterIp, VipKind::ExternalIp, VipKind::LoadBalancer] {
                let vip = kind.target(family, Protocol::Tcp, 1);
                for from in [&lab.near, &lab.far, &lab.pod("p11")?.ns] {
                    wait::until(&format!("{vip} answers"), SOON, || ask(from, Protocol::Tcp, vip, 1))?;
                    for (protocol, port) in
                        [(Protocol::Tcp, 81), (Protocol::Udp, 81), (Protocol::Tcp, 22), (Protocol::Udp, 22)]
                    {
                        refused(from, protocol, SocketAddr::new(vip.ip(), port))?;
                    }
                    wait::until_true("it answers ping", SOON, || traffic::ping(from, vip.ip(), ATTEMPT))?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn no_node_answers_arp_for_a_vip() {
    with_daemons(Options::default(), &[], |lab, _| {
        lab.manifests().expose(&everything("web"), &lab.pods(&["p11", "p21"])?)?;
        for kind in [VipKind::ClusterIp, VipKind::LoadBalancer, VipKind::ExternalIp] {
            for family in Family::ALL {
                let to = kind.target(family, Protocol::Tcp, 1);
                answers_everywhere(lab, to)?;
                // As if the VIP were on the rack: whoever answers for it would get the packets.
                let length = family.host_length();
                lab.near.ip(&format!("route replace {}/{length} dev eth0\n", to.ip()))?;
                let outcome = traffic::http_once(&lab.near, to, Duration::from_secs(4));
                ensure!(outcome.is_err(), "somebody answered for {to} on the rack: {outcome:?}");
                let neighbours = lab.near.command(&format!("ip neigh show {} dev eth0", to.ip()))?;
                ensure!(!neighbours.contains("lladdr"), "{to} was resolved: {neighbours}");
                lab.near.ip(&format!("route del {}/{length} dev eth0\n", to.ip()))?;
            }
        }
        Ok(())
    });
}

#[test]
fn foreign_tables_are_left_as_they_are() {
    with_daemons(Options { nodes: 1, ..Options::default() }, &[], |lab, daemons| {
        let node = &lab.node(1)?.ns;
        node.feed(
            "nft -f -",
            "table inet host {\n chain input {\n type filter hook input priority filter; policy accept;\n \
             tcp dport 9 counter drop\n }\n}\ntable ip mangle {\n chain KUBE-KUBELET-CANARY { }\n}\n",
        )?;
        let before = foreign_tables(node)?;
        lab.manifests().expose(&everything("web"), &lab.pods(&["p11", "p12"])?)?;
        let vip = VipKind::ClusterIp.target(Family::V4, Protocol::Tcp, 1);
        answers_everywhere(lab, vip)?;
        lab.manifests().delete("web")?;
        refusal_of_everything(node)?;
        ensure!(before == foreign_tables(node)?, "changed:\n{before}\n{}", foreign_tables(node)?);
        daemons[0].stop()?;
        ensure!(before == foreign_tables(node)?, "changed at the end");
        Ok(())
    });
}

/// The rulesets of other owners.
fn foreign_tables(node: &Namespace) -> Result<String> {
    Ok(format!("{}{}", node.command("nft list table inet host")?, node.command("nft list table ip mangle")?))
}

/// Waits until a node has no virtual server.
fn refusal_of_everything(node: &Namespace) -> Result<()> {
    wait::until_true("no virtual server is left", SOON, || {
        let listing = node.command("ipvsadm -Ln")?;
        Ok(!listing.lines().any(|line| line.starts_with("TCP") || line.starts_with("UDP")))
    })
}
