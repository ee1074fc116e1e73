//! What a change of a Service does to clients that are busy with it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{
    Connection, EndpointState, Lab, Options, Pod, ServiceSpec, UdpClient, topology, traffic, wait,
};

use super::{SOON, with_daemons};

const VIP: &str = "10.96.0.10";
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(2);

fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().expect("an address"), port)
}

fn web() -> ServiceSpec {
    ServiceSpec::new("web", &[VIP.parse().expect("an address"), "fd00:96::10".parse().expect("an address")])
        .port(Protocol::Tcp, 80)
}

/// A lab with two nodes is enough here, and quicker.
fn two_nodes() -> Options {
    Options { nodes: 2, ..Options::default() }
}

/// The pods that answer `n` requests, sorted, each once.
fn who_answers(from: &Pod, to: SocketAddr, n: usize) -> Result<Vec<String>> {
    let replies = traffic::http_within(&from.ns, to, n, ATTEMPT).into_iter();
    let mut pods = replies.map(|reply| Ok(reply?.pod)).collect::<Result<Vec<String>>>()?;
    pods.sort();
    pods.dedup();
    Ok(pods)
}

/// Waits until exactly these pods answer.
fn wait_for_pods(from: &Pod, to: SocketAddr, expected: &[&str]) -> Result<()> {
    wait::until(&format!("{to} is answered by {expected:?}"), SOON, || {
        let pods = who_answers(from, to, expected.len() * 3)?;
        ensure!(pods == expected, "{pods:?} answer");
        Ok(())
    })
}

/// Waits until a line of node 1's IPVS listing contains `text` (or none does).
fn wait_for_listing(lab: &Lab, text: &str, there: bool) -> Result<String> {
    wait::until(&format!("{text:?} in the listing: {there}"), SOON, || {
        let listing = lab.node(1)?.ipvsadm()?;
        ensure!(listing.contains(text) == there, "{listing}");
        Ok(listing)
    })
}

#[test]
fn session_affinity_keeps_a_client_on_one_pod() {
    with_daemons(two_nodes(), &[], |lab, _| {
        let pods = lab.pods(&["p11", "p12", "p21", "p22"])?;
        lab.manifests().expose(&web().affinity(7200), &pods)?;
        wait_for_listing(lab, "TCP  10.96.0.10:80 rr persistent 7200", true)?;
        for to in [vip(80), "[fd00:96::10]:80".parse()?] {
            let from = lab.pod("p11")?;
            wait::until("the service answers", SOON, || who_answers(from, to, 1))?;
            ensure!(who_answers(from, to, 8)?.len() == 1, "{to}: a client was moved");
        }
        // Without it the requests spread again; the persistence templates of before must not hold anybody.
        lab.manifests().expose(&web(), &pods)?;
        wait_for_listing(lab, "persistent", false)?;
        wait_for_pods(lab.pod("p21")?, vip(80), &["p11", "p12", "p21", "p22"])
    });
}

#[test]
fn a_new_scheduler_is_set_in_place_under_an_open_connection() {
    with_daemons(two_nodes(), &[], |lab, _| {
        let pods = lab.pods(&["p12", "p21", "p22"])?;
        let from = lab.pod("p11")?;
        lab.manifests().expose(&web(), &pods)?;
        wait_for_pods(from, vip(80), &["p12", "p21", "p22"])?;
        let mut connection = Connection::open(&from.ns, vip(80))?;
        let pod = connection.request()?.pod;
        for scheduler in ["dh", "sh", "mh", "wlc", "rr"] {
            lab.manifests().expose(&web().scheduler(scheduler), &pods)?;
            wait_for_listing(lab, &format!("TCP  10.96.0.10:80 {scheduler}"), true)?;
            let reply = connection.request().with_context(|| format!("the connection broke at {scheduler}"))?;
            ensure!(reply.pod == pod, "the connection moved from {pod} to {}", reply.pod);
        }
        // A name no kernel knows keeps what is there and stops nothing else.
        lab.manifests().expose(&web().scheduler("best"), &pods)?;
        lab.manifests().expose(&ServiceSpec::new("other", &["10.96.0.11".parse()?]).port(Protocol::Tcp, 80), &pods)?;
        wait_for_listing(lab, "TCP  10.96.0.11:80 rr", true)?;
        ensure!(lab.node(1)?.ipvsadm()?.contains("TCP  10.96.0.10:80 rr"), "the unknown scheduler changed something");
        ensure!(connection.request()?.pod == pod);
        Ok(())
    });
}

#[test]
fn weights_follow_the_annotation() {
    with_daemons(two_nodes(), &[], |lab, _| {
        let pods = lab.pods(&["p12", "p21", "p22"])?;
        let weights = "pod:p21=0,node:n1=3,*=1";
        let service = web().scheduler("wrr").annotation("ferrovia.dev/service.weights", weights);
        lab.manifests().expose(&service, &pods)?;
        wait::until("the weights are set", SOON, || {
            let listing = lab.node(1)?.ipvsadm()?;
            for (address, weight) in [("10.244.1.12", "3"), ("10.244.2.11", "0"), ("10.244.2.12", "1")] {
                let line = listing.lines().find(|line| line.contains(&format!("{address}:8080")));
                let line = line.with_context(|| format!("no {address} in {listing}"))?;
                ensure!(line.split_whitespace().nth(3) == Some(weight), "{line}");
            }
            Ok(())
        })?;
        let replies = traffic::http(&lab.pod("p11")?.ns, vip(80), 8)?;
        let count = |name: &str| replies.iter().filter(|reply| reply.pod == name).count();
        ensure!((count("p12"), count("p21"), count("p22")) == (6, 0, 2), "{replies:?}");
        Ok(())
    });
}

#[test]
fn graceful_termination_lets_connections_end_and_takes_no_new_ones() {
    let flags = ["--ipvs-graceful-termination=true", "--ipvs-graceful-period=20s"];
    with_daemons(two_nodes(), &flags, |lab, _| {
        lab.set_grace_period(20)?;
        let (from, leaving, staying) = (lab.pod("p11")?, lab.pod("p21")?, lab.pod("p22")?);
        lab.manifests().expose(&web(), &[leaving, staying])?;
        wait_for_pods(from, vip(80), &["p21", "p22"])?;
        let mut connection = connection_to(from, "p21")?;

        let gone = tokio::time::Instant::now();
        lab.manifests().expose_as(&web(), &[(staying, EndpointState::Ready)])?;
        wait::until("p21 takes no new connections", SOON, || {
            let listing = lab.node(1)?.ipvsadm()?;
            let line = listing.lines().find(|line| line.contains("10.244.2.11:8080")).context("p21 is gone at once")?;
            ensure!(line.split_whitespace().nth(3) == Some("0"), "{line}");
            Ok(())
        })?;
        wait_for_pods(from, vip(80), &["p22"])?;
        ensure!(connection.request()?.pod == "p21", "the open connection moved");
        // It holds until the bound and not longer.
        wait::until("p21 is removed", Duration::from_secs(60), || {
            if gone.elapsed() < Duration::from_secs(15) {
                connection.request().context("the connection was cut before the grace period passed")?;
            }
            ensure!(!lab.node(1)?.ipvsadm()?.contains("10.244.2.11:8080"), "it is still there");
            Ok(())
        })?;
        let took = gone.elapsed();
        ensure!(took >= Duration::from_secs(15), "removed after {took:?} though a connection was open");
        ensure!(connection.request().is_err(), "a removed real server still answers");
        Ok(())
    });
}

/// A connection that ended at `pod`.
fn connection_to(from: &Pod, pod: &str) -> Result<Connection> {
    for _ in 0..10 {
        let mut connection = Connection::open(&from.ns, vip(80))?;
        if connection.request()?.pod == pod {
            return Ok(connection);
        }
    }
    bail!("none of ten connections reached {pod}")
}

#[test]
fn an_endpoint_that_comes_back_while_it_drains_takes_connections_again() {
    with_daemons(two_nodes(), &["--ipvs-graceful-termination=true"], |lab, _| {
        let (from, both) = (lab.pod("p11")?, lab.pods(&["p21", "p22"])?);
        lab.manifests().expose(&web(), &both)?;
        wait_for_pods(from, vip(80), &["p21", "p22"])?;
        let mut connection = connection_to(from, "p21")?;
        lab.manifests().expose(&web(), &[lab.pod("p22")?])?;
        wait_for_pods(from, vip(80), &["p22"])?;
        lab.manifests().expose(&web(), &both)?;
        wait_for_pods(from, vip(80), &["p21", "p22"])?;
        ensure!(connection.request()?.pod == "p21", "the open connection did not survive");
        Ok(())
    });
}

#[test]
fn a_udp_client_goes_on_after_its_endpoint_was_replaced() {
    with_daemons(two_nodes(), &[], |lab, _| {
        let service = ServiceSpec::new("dns", &[VIP.parse()?, "fd00:96::10".parse()?])
            .port(Protocol::Udp, 53)
            .node_port(30053)
            .load_balancer(&["198.51.100.10".parse()?, "2001:db8:64::10".parse()?]);
        let ranges = [topology::LOAD_BALANCER_RANGES].concat();
        lab.announce(&ranges, 1)?;
        lab.manifests().expose(&service, &lab.pods(&["p21"])?)?;
        let from = &lab.pod("p11")?.ns;
        let node_port = SocketAddr::new(lab.node(1)?.address(Family::V4), 30053);
        let targets: Vec<(SocketAddr, _)> = vec![
            (vip(53), from),
            ("[fd00:96::10]:53".parse()?, from),
            ("198.51.100.10:53".parse()?, &lab.far),
            ("[2001:db8:64::10]:53".parse()?, &lab.far),
            (node_port, &lab.near),
        ];
        let mut clients = Vec::new();
        for (to, from) in &targets {
            wait::until(&format!("{to} answers"), SOON, || Ok(UdpClient::connect(from, *to)?.ask(ATTEMPT)?))?;
            clients.push((to, UdpClient::connect(from, *to)?));
        }
        let all_reach = |pod: &str| -> Result<()> {
            for (to, client) in &clients {
                wait::until(&format!("the same socket to {to} reaches {pod}"), SOON, || {
                    let reply = client.ask(ATTEMPT)?;
                    ensure!(reply.pod == pod, "{} answered", reply.pod);
                    Ok(())
                })?;
            }
            Ok(())
        };
        all_reach("p21")?;
        lab.manifests().expose(&service, &lab.pods(&["p22"])?)?;
        all_reach("p22")?;
        // Down to nothing while the senders go on, and back.
        lab.manifests().expose(&service, &[])?;
        for (to, client) in &clients {
            wait::until(&format!("{to} has nobody left"), SOON, || {
                ensure!(client.ask(Duration::from_millis(500)).is_err(), "still answered");
                Ok(())
            })?;
        }
        let before = lab.pod("p12")?.server()?.datagrams();
        lab.manifests().expose(&service, &lab.pods(&["p12"])?)?;
        wait::until_true("one-way senders arrive", SOON, || {
            clients.iter().for_each(|(_, client)| client.send());
            Ok(lab.pod("p12")?.server()?.datagrams() > before)
        })?;
        all_reach("p12")
    });
}

#[test]
fn a_service_without_endpoints_refuses_and_comes_back() {
    with_daemons(two_nodes(), &[], |lab, _| {
        let from = lab.pod("p11")?;
        lab.manifests().expose(&web(), &lab.pods(&["p21"])?)?;
        wait_for_pods(from, vip(80), &["p21"])?;
        let not_ready = [(lab.pod("p21")?, EndpointState::NotReady)];
        for nobody in [&[][..], &not_ready] {
            lab.manifests().expose_as(&web(), nobody)?;
            wait::until("it is refused at once", SOON, || match traffic::http_once(&from.ns, vip(80), ATTEMPT) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
                other => bail!("{other:?}"),
            })?;
            lab.manifests().expose(&web(), &lab.pods(&["p21", "p22"])?)?;
            wait_for_pods(from, vip(80), &["p21", "p22"])?;
        }
        Ok(())
    });
}

#[test]
fn terminating_endpoints_serve_only_when_nobody_else_is_left() {
    with_daemons(two_nodes(), &[], |lab, _| {
        let (from, old, new) = (lab.pod("p11")?, lab.pod("p21")?, lab.pod("p22")?);
        lab.manifests().expose_as(&web(), &[(old, EndpointState::TerminatingServing)])?;
        wait_for_pods(from, vip(80), &["p21"])?;
        lab.manifests().expose_as(&web(), &[(old, EndpointState::TerminatingServing), (new, EndpointState::Ready)])?;
        wait_for_pods(from, vip(80), &["p22"])?;
        lab.manifests().expose_as(&web(), &[(old, EndpointState::TerminatingGone), (new, EndpointState::Ready)])?;
        wait_for_pods(from, vip(80), &["p22"])
    });
}

#[test]
fn sctp_services_are_forwarded() {
    with_daemons(Options { sctp: true, ..two_nodes() }, &[], |lab, _| {
        let service = ServiceSpec::new("signal", &[VIP.parse()?]).port(Protocol::Sctp, 2905);
        lab.manifests().expose(&service, &lab.pods(&["p21"])?)?;
        wait::until("the association", SOON, || {
            let reply = traffic::sctp(&lab.pod("p11")?.ns, vip(2905))?;
            ensure!(reply.pod == "p21", "{reply:?}");
            Ok(())
        })
    });
}
