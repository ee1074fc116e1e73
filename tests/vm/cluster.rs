//! The lab itself, before any daemon: if these fail, no other failure here means anything.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Connection, Lab, Options, topology, traffic, wait};

use super::{SOON, with_lab};

#[test]
fn pods_see_each_other_with_their_own_addresses() {
    with_lab(Options::default(), |lab| {
        for family in Family::ALL {
            for (from, to) in [("p11", "p12"), ("p11", "p32"), ("p31", "p21")] {
                let (from, to) = (lab.pod(from)?, lab.pod(to)?);
                let seen = lab.http(&from.ns, (to.address(family), topology::HTTP_PORT).into(), 1)?;
                ensure!(seen[0].pod == to.name && seen[0].client.ip() == from.address(family), "{family}: {seen:?}");
                let seen = lab.udp(&from.ns, (to.address(family), topology::UDP_PORT).into(), 1)?;
                ensure!(seen[0].pod == to.name && seen[0].client.ip() == from.address(family), "{family}: {seen:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn both_clients_reach_nodes_and_host_network_pods() {
    with_lab(Options::default(), |lab| {
        let host_pod = lab.pod("h3")?;
        for family in Family::ALL {
            let to = SocketAddr::new(host_pod.address(family), topology::HOST_POD_PORT);
            for (client, address) in
                [(&lab.far, topology::far_address(family)), (&lab.near, topology::near_address(family))]
            {
                let seen = lab.http(client, to, 1)?;
                ensure!(seen[0].pod == "h3" && seen[0].client.ip() == address, "{family}: {seen:?}");
                ensure!(lab.udp(client, to, 1)?[0].client.ip() == address, "{family} udp");
            }
            ensure!(traffic::ping(&lab.far, lab.node(1)?.address(family), Duration::from_secs(3))?, "{family} ping");
        }
        Ok(())
    });
}

#[test]
fn a_closed_port_is_refused_and_a_silenced_pod_cuts_its_connections() {
    with_lab(Options::default(), |lab| {
        let (from, to) = (lab.pod("p11")?.ns.clone(), lab.pod("p21")?.address(Family::V4));
        let refused = traffic::http_once(&from, (to, 81).into(), SOON).expect_err("nothing listens there");
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");

        let mut connection = Connection::open(&from, (to, topology::HTTP_PORT).into())?;
        ensure!(connection.request()?.pod == "p21" && connection.request()?.pod == "p21");
        lab.silence("p21")?;
        let cut = wait::until_true("the open connection breaks", SOON, || Ok(connection.request().is_err()));
        cut?;
        wait::until_true("the port closes", SOON, || {
            Ok(traffic::http_once(&from, (to, topology::HTTP_PORT).into(), SOON).is_err())
        })
    });
}

/// The lab carries IPVS traffic when an operator programs it by hand: what the daemon will do must be possible.
#[test]
fn ipvs_by_hand_works_in_the_lab() {
    with_lab(Options { sctp: true, ..Options::default() }, |lab| {
        by_hand(lab)?;
        for vip in ["10.96.0.10:80", "[fd00:96::10]:80"] {
            let vip: SocketAddr = vip.parse()?;
            let pod = lab.pod("p11")?;
            let mut pods: Vec<String> = lab.http(&pod.ns, vip, 6)?.into_iter().map(|reply| reply.pod).collect();
            pods.sort();
            ensure!(pods == ["p12", "p12", "p12", "p21", "p21", "p21"], "{vip}: {pods:?}");
            let vip = SocketAddr::new(vip.ip(), 53);
            ensure!(
                lab.udp(&pod.ns, vip, 2)?.iter().all(|reply| reply.client.ip() == pod.address(Family::of(vip.ip())))
            );
        }
        let seen = traffic::sctp(&lab.pod("p11")?.ns, "10.96.0.10:90".parse()?)?;
        ensure!(seen.pod == "p21", "{seen:?}");
        Ok(())
    });
}

/// One virtual server for each family and protocol on node 1.
fn by_hand(lab: &Lab) -> Result<()> {
    let node = &lab.node(1)?.ns;
    node.ip("link add kube-dummy-if type dummy\nlink set kube-dummy-if up\n\
             addr add 10.96.0.10/32 dev kube-dummy-if\naddr add fd00:96::10/128 dev kube-dummy-if nodad\n")?;
    let mut lines = String::new();
    for (vip, first, second) in
        [("10.96.0.10", "10.244.1.12", "10.244.2.11"), ("[fd00:96::10]", "[fd00:244:1::12]", "[fd00:244:2::11]")]
    {
        lines.push_str(&format!(
            "-A -t {vip}:80 -s rr\n-a -t {vip}:80 -r {first}:8080 -m\n-a -t {vip}:80 -r {second}:8080 -m\n"
        ));
        lines.push_str(&format!("-A -u {vip}:53 -s rr\n-a -u {vip}:53 -r {second}:5353 -m\n"));
    }
    lines.push_str("-A --sctp-service 10.96.0.10:90 -s rr\n-a --sctp-service 10.96.0.10:90 -r 10.244.2.11:9999 -m\n");
    node.feed("ipvsadm -R", &lines)?;
    node.set_sysctls(&[("net/ipv4/vs/conntrack", "1")])
}

#[test]
fn labs_follow_each_other_without_leftovers() {
    guest!();
    let names = |lab: &Lab| lab.nodes().iter().map(|node| node.ns.name().to_owned()).collect::<Vec<_>>();
    let small = Options { nodes: 1, pods: 1, ..Options::default() };
    let first = Lab::up(small.clone()).expect("first lab");
    let first_names = names(&first);
    let directory = first.directory().to_owned();
    drop(first);
    assert!(!directory.exists());
    for name in &first_names {
        assert!(!std::path::Path::new("/run/netns").join(name).exists(), "{name} is still there");
    }
    let second = Lab::up(small).expect("second lab");
    assert!(names(&second).iter().all(|name| !first_names.contains(name)));
}
