//! Direct server return: pods get their tunnels through a container runtime, packets go in through the tunnel, and
//! answers come straight back.
#![allow(clippy::disallowed_methods, reason = "processes of the tests' own make a pod's network namespace findable")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::model::{PodKey, ServiceKey};
use ferrovia::net::{Family, Protocol};
use ferrovia::proxy::dsr::PodSetup;
use ferrovia::proxy::fake_runtime::{FakeContainer, FakeRuntime};
use ferrovia::proxy::pod_worker::{self, PodState, Timing};
use ferrovia::proxy::pods::{self, KernelPods, PodNetwork};
use ferrovia::testing::lab::servers::Listen;
use ferrovia::testing::lab::{
    Connection, DaemonOptions, Lab, Namespace, Options, Pod, ServiceSpec, UdpClient, topology, traffic, wait,
};
use tokio::sync::{mpsc, watch};

use super::{SOON, with_lab};

/// Load-balancer addresses of the lab's ranges.
const VIPS: [&str; 2] = ["198.51.100.20", "2001:db8:64::20"];
/// One attempt.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);
/// A port of servers that listen on the VIPs alone.
const VIP_UDP_PORT: u16 = 5454;

/// Reverse-path filters that would drop what comes out of a tunnel: the way back is another device.
const STRICT: [(&str, &str); 3] = [
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/eth0/rp_filter", "1"),
];

/// A container runtime that knows each pod of a lab by its name, as the lab's Pod objects name their containers.
pub(crate) struct Runtime {
    fake: FakeRuntime,
    socket: PathBuf,
    processes: Vec<(String, Child)>,
}

impl Runtime {
    /// Starts it, with one process in every pod's network namespace.
    pub(crate) fn start(lab: &Lab) -> Result<Runtime> {
        let socket = lab.directory().join("cri.sock");
        let mut runtime = Runtime { fake: FakeRuntime::start(&socket)?, socket, processes: Vec::new() };
        for pod in lab.nodes().iter().flat_map(|node| &node.pods).filter(|pod| !pod.host_network) {
            let process = pod.ns.run(|| Command::new("sleep").arg("infinity").spawn().context("start sleep"))?;
            runtime.fake.set(&pod.name, FakeContainer::Running(process.id()));
            runtime.processes.push((pod.name.clone(), process));
        }
        Ok(runtime)
    }

    fn process_of(&self, pod: &str) -> Result<u32> {
        let found = self.processes.iter().find(|(name, _)| name == pod);
        found.map(|(_, process)| process.id()).with_context(|| format!("no process in pod {pod}"))
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("--runtime-endpoint=unix://{}", self.socket.display())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for (_, process) in &mut self.processes {
            // One that has ended already is as good.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn vips() -> BTreeSet<IpAddr> {
    VIPS.iter().map(|vip| vip.parse().expect("an address")).collect()
}

fn setup(pod: &Pod, container: &str, vips: BTreeSet<IpAddr>) -> PodSetup {
    PodSetup {
        pod: PodKey::new("default", pod.name.as_str()),
        container_id: Arc::from(container),
        addresses: Family::ALL.map(|family| pod.address(family)).to_vec(),
        vips,
        services: BTreeSet::from([ServiceKey::new("default", "direct")]),
    }
}

/// The addresses on a device, with their prefix lengths, link-local ones left out; empty where there is no device.
fn addresses_on(namespace: &Namespace, device: &str) -> Result<Vec<String>> {
    let listing = namespace.output(&format!("ip -o addr show dev {device}"))?;
    let text = String::from_utf8_lossy(&listing.stdout).into_owned();
    let address = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    Ok(text.lines().filter_map(address).filter(|address| !address.starts_with("fe80:")).collect())
}

#[test]
fn a_pod_gets_its_tunnels_through_the_runtime_and_loses_them_again() {
    with_lab(Options { nodes: 1, pods: 2, ..Options::default() }, |lab| {
        let runtime = Runtime::start(lab)?;
        let (pod, other) = (lab.pod("p11")?, lab.pod("p12")?);
        pod.ns.set_sysctls(&STRICT)?;
        let (desired, wanted) = watch::channel(Vec::new());
        let (tell, mut told) = mpsc::unbounded_channel();
        let states = pod_worker::spawn(&runtime.socket, KernelPods, Timing::default(), wanted, tell)?;
        let configured = |setup: &PodSetup| {
            wait::until("the pod is configured", SOON, || match states.borrow().get(&setup.pod) {
                Some(PodState::Configured(now)) if now == setup => Ok(()),
                state => bail!("it is {state:?}"),
            })
        };

        let both = setup(pod, "containerd://p11", vips());
        desired.send_replace(vec![both.clone()]);
        configured(&both)?;
        ensure!(addresses_on(&pod.ns, "kube-tunnel-if")? == ["198.51.100.20/32"]);
        ensure!(addresses_on(&pod.ns, "kube-tunnel-v6")? == ["2001:db8:64::20/128"]);
        for (device, words) in [("kube-tunnel-if", "ipip any local 10.244.1.11"), ("kube-tunnel-v6", "ip6tnl ip6ip6")] {
            let link = pod.ns.command(&format!("ip -d link show {device}"))?;
            let kind = words.split_whitespace().next().unwrap_or_default();
            let local = pod.address(if device.ends_with("v6") { Family::V6 } else { Family::V4 }).to_string();
            ensure!(link.contains(kind) && link.contains(&local) && link.contains(",UP"), "{link}");
        }
        for device in ["all", "eth0", "kube-tunnel-if"] {
            ensure!(pod.ns.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"))? == "0", "rp_filter of {device}");
        }
        ensure!(addresses_on(&other.ns, "kube-tunnel-if")?.is_empty(), "the other pod was touched");

        // What is right is not written again, and what is not the pod is not written at all.
        let process = runtime.process_of("p11")?;
        ensure!(KernelPods.configure(process, &both)? == 0);
        let astray = KernelPods.configure(runtime.process_of("p12")?, &both);
        ensure!(matches!(astray, Err(pods::Error::NotThePod { .. })), "{astray:?}");
        let ended = KernelPods.configure(u32::MAX, &both);
        ensure!(matches!(ended, Err(pods::Error::Namespace { .. })), "{ended:?}");

        // One VIP goes, another comes; then a stranger's address on our device goes; then all goes.
        let changed = setup(pod, "containerd://p11", BTreeSet::from(["198.51.100.21".parse()?]));
        desired.send_replace(vec![changed.clone()]);
        configured(&changed)?;
        ensure!(addresses_on(&pod.ns, "kube-tunnel-if")? == ["198.51.100.21/32"]);
        ensure!(addresses_on(&pod.ns, "kube-tunnel-v6")?.is_empty());
        pod.ns.ip("addr add 198.51.100.99/32 dev kube-tunnel-if\nlink set kube-tunnel-if down\n")?;
        ensure!(KernelPods.configure(process, &changed)? == 2, "the stray address goes, the device comes up");
        ensure!(addresses_on(&pod.ns, "kube-tunnel-if")? == ["198.51.100.21/32"]);
        desired.send_replace(Vec::new());
        wait::until("the pod is released", SOON, || {
            let left = addresses_on(&pod.ns, "kube-tunnel-if")?;
            ensure!(left.is_empty(), "{left:?} is left");
            Ok(())
        })?;
        ensure!(told.try_recv().is_err(), "something went wrong on the way");
        Ok(())
    });
}

/// Counts packets in a namespace before anything else sees them: one rule for each (label, match).
struct Witness<'a> {
    namespace: &'a Namespace,
}

impl<'a> Witness<'a> {
    fn call(namespace: &'a Namespace, rules: &[(&str, &str)]) -> Result<Witness<'a>> {
        let mut text = String::from("table inet witness {\nchain seen {\ntype filter hook prerouting priority -400;\n");
        for (label, condition) in rules {
            text.push_str(&format!("{condition} counter comment \"{label}\"\n"));
        }
        namespace.feed("nft -f -", &(text + "}\n}\n"))?;
        Ok(Witness { namespace })
    }

    fn count(&self, label: &str) -> Result<u64> {
        let listing = self.namespace.command("nft list table inet witness")?;
        let line = listing.lines().find(|line| line.contains(&format!("\"{label}\"")));
        let line = line.with_context(|| format!("no {label} in {listing}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").with_context(|| format!("no count in {line}"))?;
        words.get(at + 1).and_then(|count| count.parse().ok()).with_context(|| format!("no number in {line}"))
    }
}

/// A Service with direct server return on both load-balancer addresses, and a cluster IP without.
pub(crate) fn direct() -> Result<ServiceSpec> {
    let vips: Vec<IpAddr> = vips().into_iter().collect();
    let service = ServiceSpec::new("direct", &["10.96.0.20".parse()?, "fd00:96::20".parse()?])
        .port_to(Protocol::Tcp, topology::HTTP_PORT, topology::HTTP_PORT)
        .port_to(Protocol::Udp, VIP_UDP_PORT, VIP_UDP_PORT)
        .load_balancer(&vips)
        .annotation("kube-router.io/service.dsr", "tunnel");
    Ok(service)
}

pub(crate) fn to_vip(family: Family, port: u16) -> Result<SocketAddr> {
    let [v4, v6] = VIPS;
    Ok(SocketAddr::new(if family == Family::V4 { v4 } else { v6 }.parse()?, port))
}

/// Waits until `pod` alone answers, and sees the client's own address.
pub(crate) fn answered_by(lab: &Lab, pod: &str, to: SocketAddr) -> Result<()> {
    let client = topology::far_address(Family::of(to.ip()));
    wait::until(&format!("{to} is answered by {pod}"), SOON, || {
        for reply in traffic::http_within(&lab.far, to, 3, ATTEMPT) {
            let reply = reply?;
            ensure!(reply.pod == pod, "{} answers", reply.pod);
            ensure!(reply.client.ip() == client, "the pod sees {}, not {client}", reply.client);
        }
        Ok(())
    })
}

#[test]
fn packets_go_in_through_the_tunnel_and_straight_back() {
    with_lab(Options { nodes: 2, pods: 1, ..Options::default() }, |lab| {
        let runtime = Runtime::start(lab)?;
        let _daemons = lab.start_daemons(&DaemonOptions::with(&[&runtime.endpoint()]))?;
        let (entry, elsewhere) = (lab.node(1)?, lab.node(2)?);
        let pod = lab.pod("p21")?;
        pod.ns.set_sysctls(&STRICT)?;
        let [v4, v6] = VIPS;
        let from_vip = [("answers-4", format!("ip saddr {v4}")), ("answers-6", format!("ip6 saddr {v6}"))];
        let tunnels = [
            ("tunnel-4", format!("ip protocol 4 ip daddr {}", pod.address(Family::V4))),
            ("tunnel-6", format!("ip6 nexthdr 41 ip6 daddr {}", pod.address(Family::V6))),
        ];
        let rules: Vec<(&str, &str)> =
            from_vip.iter().chain(&tunnels).map(|(label, condition)| (*label, condition.as_str())).collect();
        let at_entry = Witness::call(&entry.ns, &rules)?;
        let at_pod = Witness::call(&elsewhere.ns, &rules)?;

        // The edge sends the VIPs to node 1; the only pod is on node 2.
        lab.manifests().expose(&direct()?, &[pod])?;
        for (family, suffix) in [(Family::V4, "4"), (Family::V6, "6")] {
            answered_by(lab, "p21", to_vip(family, topology::HTTP_PORT)?)?;
            let (answers, tunnel) = (format!("answers-{suffix}"), format!("tunnel-{suffix}"));
            ensure!(at_entry.count(&answers)? == 0, "{family}: answers came back through the entry node");
            ensure!(at_pod.count(&answers)? >= 9, "{family}: answers leave from the pod's node");
            ensure!(at_pod.count(&tunnel)? >= 9, "{family}: packets reach the pod's node in the tunnel");
        }
        // A server that answers from the address it was asked at: datagrams work the same way.
        let listen = Listen { addresses: vips().into_iter().collect(), http: 8082, udp: VIP_UDP_PORT, sctp: None };
        let _at_vip = lab.serve_in(&pod.ns, "p21", &listen)?;
        for family in Family::ALL {
            let client = UdpClient::connect(&lab.far, to_vip(family, VIP_UDP_PORT)?)?;
            let reply = wait::until(&format!("{family} datagrams are answered"), SOON, || Ok(client.ask(ATTEMPT)?))?;
            ensure!(reply.client.ip() == topology::far_address(family), "{reply:?}");
        }
        segments_fit_the_tunnel(lab)?;
        vips_are_not_on_the_nodes(lab)?;

        // A pod on the entry node works as well, and its cluster IP stays an ordinary one.
        lab.manifests().expose(&direct()?, &[lab.pod("p11")?])?;
        for family in Family::ALL {
            answered_by(lab, "p11", to_vip(family, topology::HTTP_PORT)?)?;
        }
        let cluster = SocketAddr::new("10.96.0.20".parse()?, topology::HTTP_PORT);
        ensure!(traffic::http(&pod.ns, cluster, 1)?.iter().all(|reply| reply.pod == "p11"));
        wait::until("p21 is released", SOON, || {
            let left = addresses_on(&pod.ns, "kube-tunnel-if")?;
            ensure!(left.is_empty(), "{left:?} is left");
            Ok(())
        })?;

        lab.manifests().delete("direct")?;
        nothing_is_left(lab)
    });
}

#[test]
fn a_restart_finds_everything_right_and_removes_what_was_left_behind() {
    with_lab(Options { nodes: 1, pods: 1, ..Options::default() }, |lab| {
        let runtime = Runtime::start(lab)?;
        let flags = [runtime.endpoint(), "--ipvs-sync-period=1s".to_owned()];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let node = lab.node(1)?;
        // A mark of a Service that is gone, as kube-router leaves it, and a rule of somebody else beside it.
        node.ns.ip("rule add pref 32764 fwmark 0x1234 lookup 78\nrule add pref 32764 fwmark 0x1234 lookup 99\n\
             route add local default dev lo table 78\n")?;
        lab.manifests().expose(&direct()?.scheduler("mh"), &[lab.pod("p11")?])?;
        let mut daemons = lab.start_daemons(&DaemonOptions::with(&flags))?;
        let mut connections = Vec::new();
        for family in Family::ALL {
            let to = to_vip(family, topology::HTTP_PORT)?;
            answered_by(lab, "p11", to)?;
            connections.push(Connection::open(&lab.far, to)?);
        }
        let rules = node.ns.command("ip rule")?;
        let left = rules.lines().filter(|line| line.contains("0x1234")).collect::<Vec<_>>();
        ensure!(left.len() == 1 && left.iter().all(|line| line.contains("lookup 99")), "{rules}");
        ensure!(node.ns.sysctl("net/ipv4/vs/sloppy_tcp")? == "1", "mh needs connections taken up midway");

        for daemon in &mut daemons {
            ensure!(daemon.metric("ferrovia_ops_total", &[])? > 0.0, "the first start wrote, and must say so");
            daemon.stop()?;
        }
        for connection in &mut connections {
            connection.request().context("forwarding must not need the daemon")?;
        }
        let daemons = lab.start_daemons(&DaemonOptions::with(&flags))?;
        wait::throughout("nothing is written", Duration::from_secs(3), || {
            for connection in &mut connections {
                connection.request()?;
            }
            Ok(daemons.iter().map(|daemon| daemon.metric("ferrovia_ops_total", &[])).sum::<Result<f64>>()? == 0.0)
        })
    });
}

/// The client is told to send segments that still fit with the outer header, and such segments arrive.
fn segments_fit_the_tunnel(lab: &Lab) -> Result<()> {
    for (family, most) in [(Family::V4, 1440), (Family::V6, 1400)] {
        let to = to_vip(family, topology::HTTP_PORT)?;
        let mut connection = Connection::open(&lab.far, to)?;
        connection.request()?;
        let port = connection.local_address()?.port();
        let listing = lab.far.command(&format!("ss -tinH sport = :{port}"))?;
        let size = listing.split_whitespace().find_map(|word| word.strip_prefix("mss:"));
        let size: u16 = size.with_context(|| format!("no mss in {listing}"))?.parse()?;
        ensure!((1000..=most).contains(&size), "{family}: segments of {size} bytes, at most {most} fit: {listing}");
        let reply = lab.far.run(|| long_request(to))?;
        ensure!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    Ok(())
}

/// A request of many full segments.
fn long_request(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, ATTEMPT)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    let filler = "x".repeat(200_000);
    stream.write_all(format!("GET / HTTP/1.1\r\nX-Filler: {filler}\r\n\r\n").as_bytes())?;
    let mut reply = [0; 512];
    let n = stream.read(&mut reply).context("no reply to a long request")?;
    Ok(String::from_utf8_lossy(reply.get(..n).unwrap_or_default()).into_owned())
}

/// A node that held the VIP for its own would drop the pods' answers.
fn vips_are_not_on_the_nodes(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let local = node.ns.command("ip route show table local")? + &node.ns.command("ip -6 route show table local")?;
        for vip in VIPS {
            ensure!(!local.contains(vip), "{} holds {vip}: {local}", node.name);
        }
        ensure!(local.contains("10.96.0.20"), "{} lacks the cluster IP: {local}", node.name);
    }
    Ok(())
}

/// Waits until no node and no pod shows a trace of direct server return.
fn nothing_is_left(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        wait::until(&format!("{} is clean", node.name), SOON, || {
            for command in ["ip rule", "ip -6 rule"] {
                let rules = node.ns.command(command)?;
                ensure!(!rules.contains("32764:"), "{rules}");
            }
            let servers = node.ipvsadm()?;
            ensure!(!servers.contains("FWM"), "{servers}");
            let ruleset = node.ns.command("nft list ruleset")?;
            ensure!(
                !VIPS.iter().any(|vip| ruleset.lines().any(|line| line.contains(vip) && line.contains("elements")))
            );
            for pod in node.pods.iter().filter(|pod| !pod.host_network) {
                let left =
                    [addresses_on(&pod.ns, "kube-tunnel-if")?, addresses_on(&pod.ns, "kube-tunnel-v6")?].concat();
                ensure!(left.is_empty(), "{left:?} is left in {}", pod.name);
            }
            Ok(())
        })?;
    }
    Ok(())
}
