//! The router on three nodes: pods and VIPs are announced, learned routes enter the kernel and stay there.

#![allow(clippy::disallowed_methods, reason = "a wrong wall clock is measured by the real one")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::bird::{self, Version};
use ferrovia::testing::lab::{Bird, Daemon, DaemonOptions, Lab, Options, ServiceSpec, topology, traffic, wait};

use super::{SOON, with_lab};

pub(super) const VIP: &str = "198.51.100.10";
/// How soon foreign changes are repaired: told by the kernel, not found by a timer.
const AT_ONCE: Duration = Duration::from_secs(10);
/// What the router needs beside the lab's flags.
pub(super) const FLAGS: [&str; 5] = [
    "--run-router=true",
    "--peer-router-ips=192.168.10.1",
    "--peer-router-asns=65001",
    "--advertise-loadbalancer-ip",
    "--bgp-graceful-restart",
];

pub(super) fn dynamic() -> Options {
    Options { static_routes: false, ..Options::default() }
}

fn vip() -> IpAddr {
    VIP.parse().expect("an address")
}

pub(super) fn web() -> ServiceSpec {
    ServiceSpec::new("web", &["10.96.0.10".parse().expect("an address")])
        .port(Protocol::Tcp, 80)
        .load_balancer(&[vip()])
}

/// The edge with one session for each node.
pub(super) fn edge(lab: &Lab) -> Result<Bird> {
    let mut file = String::from(
        "router id 192.168.10.1;\nprotocol device { scan time 10; }\n\
         protocol kernel { scan time 60; ipv4 { import none; export all; }; merge paths on; }\n",
    );
    for node in lab.nodes() {
        file.push_str(&format!(
            "protocol bgp {} {{ local as 65001; neighbor {} as 64512; graceful restart on; \
             ipv4 {{ import all; export none; }}; }}\n",
            node.name,
            node.address(Family::V4)
        ));
    }
    Bird::start(&lab.edge, "edge", lab.directory(), Version::Two, &file)
}

fn wait_for_route(lab: &Lab, node: u16, prefix: &str, hop: &str, limit: Duration) -> Result<()> {
    bird::wait_kernel_next_hops(&lab.node(node)?.ns, prefix, &[hop], limit)
}

/// Routes of every node to the pods of every other one.
fn wait_for_pod_routes(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        for other in lab.nodes().iter().filter(|other| other.number != node.number) {
            for family in Family::ALL {
                let (prefix, hop) = (topology::pod_prefix(family, other.number), other.address(family).to_string());
                wait_for_route(lab, node.number, &prefix, &hop, SOON)?;
            }
        }
    }
    Ok(())
}

fn routing_ops(page: &str) -> Option<u64> {
    let line = page.lines().find(|line| line.starts_with("ferrovia_ops_total{room=\"routing\",result=\"ok\"}"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn nodes_exchange_pod_prefixes_and_the_edge_learns_vips() {
    with_lab(dynamic(), |lab| {
        let edge = edge(lab)?;
        let mut daemons = lab.start_daemons(&DaemonOptions::with(&FLAGS))?;
        wait_for_pod_routes(lab)?;
        let listing = lab.node(1)?.ns.command("ip route show proto 17")?;
        ensure!(listing.contains("10.244.2.0/24 via 192.168.10.12"), "{listing}");
        ensure!(listing.contains("blackhole 10.244.1.0/24"), "{listing}");
        let pod = SocketAddr::new(lab.pod("p21")?.address(Family::V4), topology::HTTP_PORT);
        ensure!(traffic::http(&lab.pod("p11")?.ns, pod, 1)?[0].pod == "p21");

        for node in lab.nodes() {
            edge.wait_established(&node.name, SOON)?;
        }
        lab.manifests().expose(&web(), &lab.pods(&["p11", "p21", "p31"])?)?;
        let hops = ["192.168.10.11", "192.168.10.12", "192.168.10.13"];
        bird::wait_kernel_next_hops(&lab.edge, &format!("{VIP}/32"), &hops, SOON)?;
        let from_far = traffic::http(&lab.far, SocketAddr::new(vip(), 80), 3)?;
        ensure!(from_far.len() == 3);
        let told = daemons[0].admin("/debug/routing/explain/route/198.51.100.10")?;
        ensure!(told.1.contains("peer 192.168.10.1: hears it"), "{told:?}");
        ensure!(told.1.contains("peer 192.168.10.12: does not hear it"), "{told:?}");

        // Traffic policy Local: only nodes with an endpoint.
        lab.manifests().expose(&web().external_local(), &lab.pods(&["p21"])?)?;
        bird::wait_kernel_next_hops(&lab.edge, &format!("{VIP}/32"), &["192.168.10.12"], SOON)?;
        // Without endpoints nobody announces it.
        lab.manifests().expose(&web(), &[])?;
        bird::wait_kernel_next_hops(&lab.edge, &format!("{VIP}/32"), &[], SOON)?;

        // A stop with graceful restart keeps routes at the edge, one for good takes them away.
        lab.manifests().expose(&web(), &lab.pods(&["p11", "p21", "p31"])?)?;
        bird::wait_kernel_next_hops(&lab.edge, &format!("{VIP}/32"), &hops, SOON)?;
        daemons[0].stop()?;
        let kept = bird::kernel_next_hops(&lab.edge, &format!("{VIP}/32"))?;
        ensure!(kept == hops, "the edge has {kept:?} right after the stop");
        Ok(())
    });
}

#[test]
fn routes_that_somebody_removes_come_back_and_a_restart_adopts_them() {
    with_lab(dynamic(), |lab| {
        let mut daemons = lab.start_daemons(&DaemonOptions::with(&FLAGS))?;
        wait_for_pod_routes(lab)?;
        let ns = lab.node(1)?.ns.clone();
        ns.command("ip route flush proto 17")?;
        wait_for_route(lab, 1, "10.244.2.0/24", "192.168.10.12", AT_ONCE)?;
        ns.command("ip -6 route flush proto 17")?;
        wait_for_route(lab, 1, "fd00:244:2::/64", "fd10::12", AT_ONCE)?;
        // A link that goes down and up again; the kernel forgets its IPv6 address, which somebody else gives it.
        ns.command("ip link set eth0 down")?;
        ns.command("ip link set eth0 up")?;
        ns.command("ip address add fd10::11/64 dev eth0 nodad")?;
        wait_for_route(lab, 1, "10.244.3.0/24", "192.168.10.13", AT_ONCE)?;
        wait_for_route(lab, 1, "fd00:244:3::/64", "fd10::13", SOON)?;
        wait_for_pod_routes(lab)?;

        let before = ns.command("ip route show proto 17")?;
        daemons[0].kill()?;
        ensure!(ns.command("ip route show proto 17")? == before, "a dead daemon's routes stay");
        daemons[0] = lab.start_daemon(1, &DaemonOptions::with(&FLAGS))?;
        daemons[0].wait_ready()?;
        wait::until("the sessions are up again", SOON, || {
            let page = daemons[0].metrics()?;
            ensure!(page.contains("ferrovia_routes{what=\"learned\"} 4"), "{page}");
            let ops = routing_ops(&page).context("no count of changes")?;
            ensure!(ops == 0, "{ops} changes after a restart that had nothing to repair");
            Ok(())
        })?;
        ensure!(ns.command("ip route show proto 17")? == before);
        Ok(())
    });
}

/// The wall clock of the guest, set wrong until this goes.
struct WrongClock<'a> {
    lab: &'a Lab,
    /// Since when, and what time it was: what passes meanwhile is counted by a clock that nobody sets.
    start: Instant,
    epoch: Duration,
}

impl<'a> WrongClock<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        Ok(WrongClock { lab, start: Instant::now(), epoch: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? })
    }

    /// Sets the clock to so many seconds from the right time.
    fn set(&self, wrong_by: i64) -> Result<()> {
        let right = i64::try_from((self.epoch + self.start.elapsed()).as_secs())?;
        self.lab.edge.command(&format!("date -s @{}", right + wrong_by)).map(drop)
    }
}

impl Drop for WrongClock<'_> {
    fn drop(&mut self) {
        self.set(0).expect("the clock is right again");
    }
}

#[test]
fn a_wall_clock_that_jumps_moves_no_session_and_no_route() {
    const DAY: i64 = 86_400;
    with_lab(dynamic(), |lab| {
        let edge = edge(lab)?;
        // Short, so that whoever measured it by the wall clock would end the session at once.
        let flags: Vec<&str> = FLAGS.into_iter().chain(["--bgp-holdtime=9s"]).collect();
        let mut daemons = lab.start_daemons(&DaemonOptions::with(&flags))?;
        wait_for_pod_routes(lab)?;
        for node in lab.nodes() {
            edge.wait_established(&node.name, SOON)?;
        }
        lab.manifests().expose(&web(), &lab.pods(&["p11", "p21", "p31"])?)?;
        let (prefix, hops) = (format!("{VIP}/32"), ["192.168.10.11", "192.168.10.12", "192.168.10.13"]);
        bird::wait_kernel_next_hops(&lab.edge, &prefix, &hops, SOON)?;
        let drops = |daemon: &Daemon| daemon.metric("ferrovia_bgp_session_drops_total", &[]);
        let before: Vec<f64> = daemons.iter().map(drops).collect::<Result<_>>()?;

        let clock = WrongClock::new(lab)?;
        for wrong_by in [DAY, -DAY] {
            clock.set(wrong_by)?;
            wait::throughout("the edge has its routes", Duration::from_secs(12), || {
                Ok(bird::kernel_next_hops(&lab.edge, &prefix)? == hops)
            })?;
            // What changes meanwhile arrives.
            lab.manifests().expose(&web(), &lab.pods(&["p11"])?)?;
            lab.http(&lab.far, SocketAddr::new(vip(), 80), 3)?;
            lab.manifests().expose(&web().external_local(), &lab.pods(&["p21"])?)?;
            bird::wait_kernel_next_hops(&lab.edge, &prefix, &hops[1..2], SOON)?;
            lab.manifests().expose(&web(), &lab.pods(&["p11", "p21", "p31"])?)?;
            bird::wait_kernel_next_hops(&lab.edge, &prefix, &hops, SOON)?;
        }
        let after: Vec<f64> = daemons.iter().map(drops).collect::<Result<_>>()?;
        ensure!(before == after, "sessions went down: {before:?}, now {after:?}");

        // A restart across a jump is a restart like any other.
        daemons[0].kill()?;
        clock.set(DAY)?;
        daemons[0] = lab.start_daemon(1, &DaemonOptions::with(&flags))?;
        daemons[0].wait_ready()?;
        ensure!(bird::kernel_next_hops(&lab.edge, &prefix)? == hops, "the restarted node's route stayed");
        edge.wait_established("n1", SOON)?;
        wait_for_pod_routes(lab)
    });
}

/// What kube-router's router writes into iptables, and one rule of somebody else.
fn as_kube_router_left_it(lab: &Lab) -> Result<()> {
    let ns = &lab.node(1)?.ns;
    ns.feed(
        "ipset restore",
        "create kube-router-pod-subnets hash:net timeout 0\nadd kube-router-pod-subnets 10.244.0.0/16\n\
         create kube-router-node-ips hash:ip timeout 0\nadd kube-router-node-ips 192.168.10.11\n",
    )?;
    ns.feed(
        "iptables-nft-restore --noflush",
        "*filter\n-A FORWARD -m comment --comment \"allow outbound traffic from pods\" -i kube-bridge -j ACCEPT\n\
         -A FORWARD -m comment --comment \"allow inbound traffic to pods\" -o kube-bridge -j ACCEPT\n\
         -A FORWARD -p tcp --dport 22 -j ACCEPT\nCOMMIT\n\
         *nat\n-A POSTROUTING -m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst \
         -m set ! --match-set kube-router-node-ips dst -j MASQUERADE --random-fully\nCOMMIT\n",
    )
    .map(drop)
}

#[test]
fn rules_left_by_kube_router_go_once_ours_are_in_force() {
    let options = Options { nodes: 1, ..dynamic() };
    with_lab(options, |lab| {
        as_kube_router_left_it(lab)?;
        let _daemons = lab.start_daemons(&DaemonOptions::with(&["--run-router=true", "--enable-cni=false"]))?;
        let ns = &lab.node(1)?.ns;
        wait::until("its rules and sets are gone", SOON, || {
            let rules = ns.command("iptables-nft-save")?;
            ensure!(!rules.contains("pods\"") && !rules.contains("kube-router"), "{rules}");
            ensure!(rules.contains("--dport 22 -j ACCEPT"), "somebody else's rule is gone: {rules}");
            let sets = ns.command("ipset list -name")?;
            ensure!(!sets.contains("kube-router"), "{sets}");
            Ok(())
        })?;
        ensure!(ns.command("nft list table inet ferrovia-routing")?.contains("masquerade"), "ours is in force");
        Ok(())
    });
}

#[test]
fn pods_have_a_way_where_forward_drops_on_either_backend() {
    for backend in ["nftables", "iptables"] {
        let options = Options { nodes: 2, ..dynamic() };
        with_lab(options, |lab| {
            for node in lab.nodes() {
                // As Docker leaves it.
                node.ns.command("iptables-nft -P FORWARD DROP")?;
            }
            let backend = format!("--firewall-backend={backend}");
            let _daemons = lab.start_daemons(&DaemonOptions::with(&["--run-router=true", &backend]))?;
            let vip: SocketAddr = "10.96.0.10:80".parse()?;
            let service = ServiceSpec::new("web", &["10.96.0.10".parse()?]).port(Protocol::Tcp, 80);
            lab.manifests().expose(&service, &lab.pods(&["p21"])?)?;
            let pod = lab.pod("p11")?.ns.clone();
            wait::until("a pod reaches one of another node", SOON, || traffic::http(&pod, vip, 4))?;
            let forward = lab.node(1)?.ns.command("iptables-nft -S FORWARD")?;
            let mut rules = forward.lines();
            ensure!(rules.next() == Some("-P FORWARD DROP"), "{forward}");
            ensure!(rules.next().is_some_and(|rule| rule.ends_with("-j FERROVIA-FORWARD")), "{forward}");
            let tables = lab.node(1)?.ns.command("nft list tables")?;
            ensure!(tables.contains("inet ferrovia-routing") == backend.ends_with("nftables"), "{tables}");
            Ok(())
        });
    }
}

#[test]
fn rules_on_iptables_do_what_those_on_nftables_do() {
    let options = Options { nodes: 2, ..dynamic() };
    with_lab(options, |lab| {
        let flags = ["--run-router=true", "--firewall-backend=iptables"];
        // What an earlier run wrote to nftables goes, once the same rules are in force here.
        let ns = lab.node(1)?.ns.clone();
        ns.command("nft add table inet ferrovia-routing")?;
        let _daemons = lab.start_daemons(&DaemonOptions::with(&flags))?;
        let vip: SocketAddr = "10.96.0.10:80".parse()?;
        let service = ServiceSpec::new("web", &["10.96.0.10".parse()?]).port(Protocol::Tcp, 80);
        let pods = lab.pods(&["p11", "p21"])?;
        lab.manifests().expose(&service, &pods)?;
        for client in ["p11", "p12", "p21"] {
            let pod = lab.pod(client)?.ns.clone();
            wait::until("a pod reaches every endpoint, itself among them", SOON, || traffic::http(&pod, vip, 4))?;
        }
        wait::until("the node reaches endpoints of both nodes", SOON, || traffic::http(&ns, vip, 4))?;
        let tables = ns.command("nft list tables")?;
        ensure!(!tables.contains("inet ferrovia"), "{tables}");
        let rules = ns.command("iptables-nft-save")?;
        for hook in ["FERROVIA-FORWARD", "FERROVIA-POSTROUTING"] {
            ensure!(rules.contains(&format!("-j {hook}")), "{rules}");
        }
        ensure!(ns.command("ipset list -name")?.contains("FERROVIA-PRO-"));
        Ok(())
    });
}
