//! The steps: the life of one Service, as kube-router's own walk-through tells it, and what happens under load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Bird, Connection, Daemon, Lab, Load, Namespace, Reply, ServiceSpec, traffic, wait};

use super::narrator::Narrator;
use super::{daemon_options, policy, routing};

/// How long anything may take; an emulated guest is slow.
pub(crate) const SOON: Duration = Duration::from_secs(30);
const VIP: &str = "10.96.116.179:80";
const VIP6: &str = "[fd00:96::179]:80";
const NODE_PORT: u16 = 31117;
const REPLICAS: [&str; 4] = ["p22", "p11", "p31", "p12"];

/// One step.
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) show: fn(&Lab, &mut [Daemon], &Bird, &mut Narrator) -> Result<()>,
}

/// All of them, in order; each begins where the one before ended.
pub(crate) const ALL: &[Step] = &[
    Step {
        title: "nodes and the edge router find each other",
        show: |lab, _, bird, n| routing::sessions(lab, bird, n),
    },
    Step { title: "expose one replica of nginx", show: expose },
    Step { title: "the VIP is bound on every node", show: bound },
    Step { title: "requests from a pod, a node and outside", show: requests },
    Step { title: "a NetworkPolicy cuts traffic between pods", show: |lab, _, _, n| policy::cuts(lab, VIP, n) },
    Step { title: "the policy allows one pod, and is deleted", show: |lab, _, _, n| policy::opens(lab, VIP, n) },
    Step { title: "scale to four replicas", show: scale },
    Step { title: "session affinity", show: affinity },
    Step { title: "a node port, and whom the pod sees", show: node_port },
    Step { title: "another scheduler, under an open connection", show: scheduler },
    Step { title: "a load-balancer address and UDP, in both families", show: load_balancer },
    Step {
        title: "a load-balancer address with three equal paths",
        show: |lab, _, bird, n| routing::multipath(lab, bird, n),
    },
    Step { title: "a node is drained under load", show: |lab, _, bird, n| routing::drain(lab, bird, n) },
    Step { title: "a node dies under load", show: routing::death },
    Step { title: "scale down and up under load", show: under_load },
    Step { title: "kill the daemon and start it again", show: restart },
    Step { title: "somebody flushes the IPVS table", show: repair },
    Step { title: "delete the Service", show: delete },
];

/// The Service of the demonstration.
fn nginx() -> Result<ServiceSpec> {
    let vips = [VIP, VIP6].map(|vip| vip.parse::<SocketAddr>().map(|vip| vip.ip()));
    let [v4, v6] = vips;
    Ok(ServiceSpec::new("nginx", &[v4?, v6?]).port(Protocol::Tcp, 80))
}

/// Something to look at for whoever stays: the Service with four replicas and a node port.
///
/// # Errors
/// Where it does not come into force.
pub(crate) fn leave_behind(lab: &Lab) -> Result<()> {
    expose_replicas(lab, &nginx()?.node_port(NODE_PORT), REPLICAS.len())?;
    listed(lab, "10.244.3.11:8080", true)
}

/// Exposes the Service with its first `n` replicas.
fn expose_replicas(lab: &Lab, service: &ServiceSpec, n: usize) -> Result<()> {
    let replicas = REPLICAS.get(..n).context("no so many replicas")?;
    lab.manifests().expose(service, &lab.pods(replicas)?)
}

/// Waits until every node lists `text` (or none does).
fn listed(lab: &Lab, text: &str, there: bool) -> Result<()> {
    for node in lab.nodes() {
        wait::until(
            &format!("`ipvsadm -Ln` on {} {} {text:?}", node.name, if there { "shows" } else { "lacks" }),
            SOON,
            || {
                let listing = node.ipvsadm()?;
                ensure!(listing.contains(text) == there, "it prints\n{listing}");
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Waits until exactly `n` pods answer from a place.
fn answered_by(from: &Namespace, to: SocketAddr, n: usize) -> Result<()> {
    wait::until(&format!("{to} is answered by {n} pods"), SOON, || {
        let replies = traffic::http(from, to, 3 * n)?;
        let pods = tally(&replies);
        ensure!(pods.len() == n, "{pods:?}");
        Ok(())
    })
}

/// How often each pod answered.
pub(crate) fn tally(replies: &[Reply]) -> BTreeMap<&str, usize> {
    let mut pods = BTreeMap::new();
    for reply in replies {
        *pods.entry(reply.pod.as_str()).or_default() += 1;
    }
    pods
}

/// Asks `n` times and shows who answered.
pub(crate) fn ask(narrator: &Narrator, place: &str, from: &Namespace, to: SocketAddr, n: usize) -> Result<Vec<Reply>> {
    narrator.command(place, &format!("for i in $(seq {n}); do curl -s http://{to}/; done | sort | uniq -c"));
    let replies = traffic::http(from, to, n)?;
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for reply in &replies {
        *lines.entry(format!("answered by {}, which saw {}", reply.pod, reply.client.ip())).or_default() += 1;
    }
    for (line, count) in lines {
        narrator.say(&format!("{count:7} {line}"));
    }
    Ok(replies)
}

fn expose(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("create deployment nginx --image=nginx --replicas=1");
    narrator.kubectl("expose deployment nginx --port=80 --target-port=8080");
    // Connections of endpoints that leave may drain this long; a demonstration is in a hurry.
    lab.set_grace_period(5)?;
    expose_replicas(lab, &nginx()?, 1)?;
    narrator.say("(here: one file in the folder all daemons watch)");
    narrator.say(&lab.manifests().read("service-nginx")?);
    narrator.expect("every node gets a virtual server for the cluster IP, with one real server");
    listed(lab, "TCP  10.96.116.179:80 rr\n  -> 10.244.2.12:8080             Masq    1", true)?;
    narrator.ipvsadm(lab.node(1)?)?;
    Ok(())
}

fn bound(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.expect("10.96.116.179/32 and fd00:96::179/128 on kube-dummy-if");
    for node in lab.nodes() {
        let output = if node.number == 1 {
            narrator.run("n1", &node.ns, "ip addr show dev kube-dummy-if")?
        } else {
            node.ns.command("ip addr show dev kube-dummy-if")?
        };
        for vip in ["10.96.116.179/32", "fd00:96::179/128"] {
            ensure!(output.contains(vip), "{vip} is missing on {}", node.name);
        }
    }
    Ok(())
}

fn requests(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    let vip = VIP.parse()?;
    narrator.expect("p22 answers everybody; a pod is seen with its own address");
    for (place, from) in [("p11", &lab.pod("p11")?.ns), ("n3", &lab.node(3)?.ns), ("far", &lab.far)] {
        let replies = ask(narrator, place, from, vip, 2)?;
        ensure!(tally(&replies).len() == 1 && replies.iter().all(|reply| reply.pod == "p22"), "{replies:?}");
        if place == "p11" {
            let own = lab.pod("p11")?.address(Family::V4);
            ensure!(replies.iter().all(|reply| reply.client.ip() == own), "the pod's address was hidden");
        }
    }
    let from = &lab.pod("p22")?.ns;
    narrator.expect("p22 even reaches itself through its Service");
    let replies = ask(narrator, "p22", from, vip, 1)?;
    ensure!(replies.iter().all(|reply| reply.pod == "p22"));
    Ok(())
}

fn scale(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("scale deployment nginx --replicas=4");
    expose_replicas(lab, &nginx()?, 4)?;
    narrator.expect("four real servers, round robin: three of twelve requests each");
    let from = &lab.node(1)?.ns;
    listed(lab, "10.244.3.11:8080", true)?;
    answered_by(from, VIP.parse()?, 4)?;
    narrator.ipvsadm(lab.node(1)?)?;
    let replies = ask(narrator, "n1", from, VIP.parse()?, 12)?;
    ensure!(tally(&replies).values().all(|count| *count == 3), "{:?}", tally(&replies));
    Ok(())
}

fn affinity(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("patch service nginx -p '{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}'");
    expose_replicas(lab, &nginx()?.affinity(10800), 4)?;
    narrator.expect("\"persistent 10800\" in the listing, and one pod for all requests of a client");
    listed(lab, "TCP  10.96.116.179:80 rr persistent 10800", true)?;
    narrator.ipvsadm(lab.node(1)?)?;
    let replies = ask(narrator, "p21", &lab.pod("p21")?.ns, VIP.parse()?, 8)?;
    ensure!(tally(&replies).len() == 1, "{:?}", tally(&replies));
    Ok(())
}

fn node_port(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("delete service nginx");
    narrator.kubectl("expose deployment nginx --type=NodePort --port=80 --target-port=8080");
    lab.manifests().delete("nginx")?;
    listed(lab, "10.96.116.179", false)?;
    expose_replicas(lab, &nginx()?.node_port(NODE_PORT), 4)?;
    for node in lab.nodes() {
        let entry = format!("TCP  {}:{NODE_PORT} rr", node.address(Family::V4));
        wait::until_true(&format!("{entry} on {}", node.name), SOON, || Ok(node.ipvsadm()?.contains(&entry)))?;
    }
    narrator.ipvsadm(lab.node(2)?)?;
    narrator.expect("pods on n2 see the client's own address; the others see n2, so that replies come back through it");
    let n2 = lab.node(2)?.address(Family::V4);
    let to = SocketAddr::new(n2, NODE_PORT);
    answered_by(&lab.far, to, 4)?;
    for reply in ask(narrator, "far", &lab.far, to, 8)? {
        let on_n2 = lab.pod(&reply.pod)?.node == 2;
        ensure!(on_n2 != (reply.client.ip() == n2), "{} saw {}", reply.pod, reply.client);
    }
    Ok(())
}

fn scheduler(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    let from = &lab.pod("p21")?.ns;
    let mut connection = Connection::open(from, VIP.parse()?)?;
    let pod = connection.request()?.pod;
    narrator.say(&format!("p21 holds a connection to {pod} open"));
    narrator.kubectl("annotate service nginx kube-router.io/service.scheduler=dh");
    expose_replicas(lab, &nginx()?.node_port(NODE_PORT).scheduler("dh"), 4)?;
    narrator.expect("\"dh\" in the listing, set in place: the open connection answers on");
    listed(lab, "TCP  10.96.116.179:80 dh", true)?;
    narrator.ipvsadm(lab.node(1)?)?;
    let reply = connection.request().context("the open connection was cut")?;
    ensure!(reply.pod == pod, "the connection moved to {}", reply.pod);
    narrator.say(&format!("the connection is still answered by {pod}"));
    Ok(())
}

fn load_balancer(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("apply -f dns.yaml     # type LoadBalancer, 198.51.100.53 and 2001:db8:64::53, UDP port 53");
    let service = ServiceSpec::new("dns", &["10.96.0.53".parse()?, "fd00:96::53".parse()?])
        .port(Protocol::Udp, 53)
        .load_balancer(&["198.51.100.53".parse()?, "2001:db8:64::53".parse()?]);
    lab.manifests().expose(&service, &lab.pods(&["p12", "p21", "p32"])?)?;
    narrator
        .expect("replies come from the address that was asked (the socket is connected, so others would be dropped)");
    for vip in ["198.51.100.53:53", "[2001:db8:64::53]:53"] {
        let vip: SocketAddr = vip.parse()?;
        for (place, from) in [("far", &lab.far), ("near", &lab.near)] {
            wait::until(&format!("{vip} answers {place}"), SOON, || traffic::udp(from, vip, 3))?;
            narrator.command(place, &format!("for i in 1 2 3; do echo | nc -u -w1 {} {}; done", vip.ip(), vip.port()));
            for reply in traffic::udp(from, vip, 3)? {
                narrator.say(&format!("answered by {}, which saw {}", reply.pod, reply.client.ip()));
            }
        }
    }
    narrator.ipvsadm(lab.node(1)?)?;
    lab.manifests().delete("dns")?;
    listed(lab, "10.96.0.53", false)
}

fn under_load(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    let service = nginx()?.node_port(NODE_PORT);
    expose_replicas(lab, &service, 4)?;
    listed(lab, "TCP  10.96.116.179:80 rr", true)?;
    let from = &lab.pod("p21")?.ns;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(from, VIP.parse()?)?;
        connection.request()?;
        open.push(connection);
    }
    narrator.expect("not one request fails, and connections to replicas that leave go on (graceful termination)");
    lab.set_grace_period(120)?;
    let node_port = SocketAddr::new(lab.node(1)?.address(Family::V4), NODE_PORT);
    let load = Load::start(&[(from, VIP.parse()?), (&lab.far, node_port)], traffic::REQUEST_LIMIT);
    let result = scale_down_and_up(lab, &service, &mut open, narrator);
    let tally = load.stop()?;
    result?;
    lab.set_grace_period(5)?;
    narrator.say(&format!("{} requests answered, {} failed", tally.n_answered(), tally.failed.len()));
    tally.flawless(21)
}

/// Down to one replica and up again, twice, while others send requests.
fn scale_down_and_up(lab: &Lab, service: &ServiceSpec, open: &mut [Connection], narrator: &Narrator) -> Result<()> {
    for round in 0..2 {
        for n in [1, 4] {
            narrator.kubectl(&format!("scale deployment nginx --replicas={n}"));
            expose_replicas(lab, service, n)?;
            // A replica that leaves goes to weight 0, or at once where it holds no connection.
            listed(lab, "10.244.3.11:8080             Masq    1", n == 4)?;
            if n == 1 && round == 0 {
                narrator.ipvsadm(lab.node(2)?)?;
            }
            for connection in &mut *open {
                connection.request().context("an open connection was cut")?;
            }
        }
    }
    Ok(())
}

fn restart(lab: &Lab, daemons: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    let (from, vip) = (&lab.pod("p11")?.ns, VIP.parse()?);
    let mut connection = Connection::open(from, vip)?;
    connection.request()?;
    let before = lab.node(1)?.ns.command("ipvsadm -Sn")?;
    narrator.command("n1", "kill -9 $(pidof ferrovia)");
    let daemon = daemons.first_mut().context("no daemon")?;
    daemon.kill()?;
    narrator.expect("traffic goes on without the daemon; the next one adopts what is there and writes nothing");
    ask(narrator, "p11", from, vip, 4)?;
    narrator.command("n1", "ferrovia … &");
    *daemon = lab.start_daemon(1, &daemon_options())?;
    daemon.wait_ready()?;
    connection.request().context("the open connection was cut")?;
    let ops = daemon.metric("ferrovia_ops_total", &[])?;
    narrator.command("n1", "curl -s http://127.0.0.1:8080/metrics | grep ^ferrovia_ops_total");
    for line in daemon.metrics()?.lines().filter(|line| line.starts_with("ferrovia_ops_total")) {
        narrator.say(line);
    }
    narrator.say(&format!("{ops} changes written by the new daemon"));
    ensure!(ops == 0.0, "it wrote {ops} changes although the state was right");
    let after = lab.node(1)?.ns.command("ipvsadm -Sn")?;
    ensure!(before == after, "the table changed");
    Ok(())
}

fn repair(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    let node = lab.node(1)?;
    narrator.command("n1", "ipvsadm --clear");
    node.ns.command("ipvsadm --clear")?;
    narrator.expect("the next look at the kernel (--ipvs-sync-period, here 3 s) puts everything back");
    wait::until("the virtual server is there again", SOON, || {
        let listing = node.ipvsadm()?;
        ensure!(listing.contains("TCP  10.96.116.179:80 rr") && listing.contains("10.244.3.11:8080"), "{listing}");
        Ok(())
    })?;
    narrator.ipvsadm(node)?;
    let replies = ask(narrator, "p11", &lab.pod("p11")?.ns, VIP.parse()?, 4)?;
    ensure!(tally(&replies).len() == 4, "{:?}", tally(&replies));
    Ok(())
}

fn delete(lab: &Lab, _: &mut [Daemon], _: &Bird, narrator: &mut Narrator) -> Result<()> {
    narrator.kubectl("delete service nginx");
    lab.manifests().delete("nginx")?;
    narrator.expect("once its connections have drained, nothing of it is left, in IPVS or on the dummy link");
    for node in lab.nodes() {
        wait::until(&format!("{} is clean", node.name), SOON, || {
            let listing = node.ipvsadm()?;
            ensure!(!listing.contains("TCP"), "it prints\n{listing}");
            let addresses = node.ns.command("ip -o addr show dev kube-dummy-if")?;
            ensure!(!addresses.contains("10.96.116.179") && !addresses.contains("fd00:96::179"), "{addresses}");
            Ok(())
        })?;
    }
    narrator.ipvsadm(lab.node(1)?)?;
    narrator.run("n1", &lab.node(1)?.ns, "ip addr show dev kube-dummy-if")?;
    Ok(())
}
