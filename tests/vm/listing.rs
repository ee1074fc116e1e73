//! What an operator sees: `ipvsadm -Ln` byte for byte, and the VIPs on the dummy link, step by step through the life
//! of one Service (checklist K12-K18, K23, K24 of kube-router's own walk-through).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::daemon::run_once;
use ferrovia::testing::lab::{Daemon, Lab, Namespace, Node, Options, ServiceSpec, wait};

use super::{SOON, with_daemons};

const HEADER: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
";
/// The API server's own Service, which every cluster has.
const API: &str = "TCP  10.96.0.1:443 rr persistent 10800\n";
const API_SERVER: &str = "192.168.10.13:6443";

/// One real server as `ipvsadm` prints it while it has no connections.
fn real_server(address: &str) -> String {
    format!("  -> {address:<28} Masq    1      0          0         \n")
}

/// A listing: virtual server lines, each with its real servers.
fn listing(servers: &[(&str, &[&str])]) -> String {
    let mut text = String::from(HEADER);
    for (virtual_server, real_servers) in servers {
        text.push_str(virtual_server);
        real_servers.iter().for_each(|address| text.push_str(&real_server(address)));
    }
    text
}

/// A listing as header, and each virtual server's line with its real servers' lines. `ipvsadm` sorts by the bytes of
/// addresses in the processor's order, which is nobody's business.
fn blocks(listing: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut blocks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let (header, servers) = listing.split_at(HEADER.len().min(listing.len()));
    blocks.insert(header, BTreeSet::new());
    let mut virtual_server = "";
    for line in servers.split_inclusive('\n') {
        if line.starts_with("  ->") {
            blocks.entry(virtual_server).or_default().insert(line);
        } else {
            virtual_server = line;
            blocks.entry(line).or_default();
        }
    }
    blocks
}

/// Waits until `ipvsadm -Ln` on a node is exactly this.
fn shows(node: &Node, expected: &str) -> Result<()> {
    wait::until(&format!("ipvsadm -Ln on {}", node.name), SOON, || {
        let listing = node.ipvsadm()?;
        let same = listing.len() == expected.len() && blocks(&listing) == blocks(expected);
        ensure!(same, "it shows\n{listing}\ninstead of\n{expected}");
        Ok(())
    })
}

/// Waits until the dummy link has exactly these addresses, each as a host address.
fn binds(node: &Namespace, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected
        .iter()
        .map(|address| format!("{address}/{}", Family::of(address.parse().expect("an address")).host_length()))
        .collect();
    wait::until(&format!("addresses of kube-dummy-if in {}", node.name()), SOON, || {
        let output = node.command("ip -o addr show dev kube-dummy-if")?;
        let words = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let addresses = words.filter_map(|words| words.get(3).map(|address| (*address).to_owned()));
        let addresses: BTreeSet<String> = addresses.filter(|address| !address.starts_with("fe80:")).collect();
        ensure!(addresses == expected, "{addresses:?} instead of {expected:?}");
        Ok(())
    })
}

/// On every node: this listing (`{node}` stands for its address), these addresses.
fn everywhere(lab: &Lab, servers: &[(&str, &[&str])], addresses: &[&str]) -> Result<()> {
    for node in lab.nodes() {
        shows(node, &listing(servers).replace("{node}", &node.address(Family::V4).to_string()))?;
        binds(&node.ns, addresses)?;
    }
    Ok(())
}

#[test]
fn a_service_is_listed_as_kube_router_users_know_it_from_birth_to_end() {
    with_daemons(Options::default(), &[], |lab, _| {
        let api = ServiceSpec::new("kubernetes", &["10.96.0.1".parse()?]).affinity(10800);
        lab.manifests().expose(&api.port_to(Protocol::Tcp, 443, 6443), &[])?;
        let host = lab.pods(&["h3"])?;
        let api = ServiceSpec::new("kubernetes", &["10.96.0.1".parse()?]).affinity(10800);
        lab.manifests().expose(&api.port_to(Protocol::Tcp, 443, 6443), &host)?;
        let api: (&str, &[&str]) = (API, &[API_SERVER]);
        everywhere(lab, &[api], &["10.96.0.1"])?;

        // K12, K13, K14, K15: one replica, exposed.
        let nginx =
            || Ok::<_, anyhow::Error>(ServiceSpec::new("nginx", &["10.96.116.179".parse()?]).port(Protocol::Tcp, 80));
        lab.manifests().expose(&nginx()?, &lab.pods(&["p22"])?)?;
        let both = ["10.96.0.1", "10.96.116.179"];
        everywhere(lab, &[api, ("TCP  10.96.116.179:80 rr\n", &["10.244.2.12:8080"])], &both)?;

        // K23 and K16: deleted, then exposed with session affinity.
        lab.manifests().delete("nginx")?;
        everywhere(lab, &[api], &["10.96.0.1"])?;
        lab.manifests().expose(&nginx()?.affinity(10800), &lab.pods(&["p22"])?)?;
        everywhere(lab, &[api, ("TCP  10.96.116.179:80 rr persistent 10800\n", &["10.244.2.12:8080"])], &both)?;

        // K17: deleted, then exposed as a node port.
        lab.manifests().delete("nginx")?;
        everywhere(lab, &[api], &["10.96.0.1"])?;
        lab.manifests().expose(&nginx()?.node_port(31117), &lab.pods(&["p22"])?)?;
        let nginx_servers = |scheduler: &str| {
            (format!("TCP  10.96.116.179:80 {scheduler}\n"), format!("TCP  {{node}}:31117 {scheduler}\n"))
        };
        let (inside, outside) = nginx_servers("rr");
        everywhere(lab, &[api, (&inside, &["10.244.2.12:8080"]), (&outside, &["10.244.2.12:8080"])], &both)?;

        // K18: another scheduler.
        lab.manifests().expose(&nginx()?.node_port(31117).scheduler("dh"), &lab.pods(&["p22"])?)?;
        let (inside, outside) = nginx_servers("dh");
        everywhere(lab, &[api, (&inside, &["10.244.2.12:8080"]), (&outside, &["10.244.2.12:8080"])], &both)?;

        // K24: one replica becomes three.
        lab.manifests().expose(&nginx()?.node_port(31117), &lab.pods(&["p11", "p22", "p31"])?)?;
        let (inside, outside) = nginx_servers("rr");
        let three: &[&str] = &["10.244.1.11:8080", "10.244.2.12:8080", "10.244.3.11:8080"];
        everywhere(lab, &[api, (&inside, three), (&outside, three)], &both)?;

        // K23: nothing is left of it.
        lab.manifests().delete("nginx")?;
        everywhere(lab, &[api], &["10.96.0.1"])?;
        lab.manifests().delete("kubernetes")?;
        everywhere(lab, &[], &[])
    });
}

#[test]
fn ipv6_and_every_protocol_are_listed() {
    with_daemons(Options { nodes: 1, ..Options::default() }, &[], |lab, _| {
        let service = ServiceSpec::new("dns", &["10.96.0.10".parse()?, "fd00:96::10".parse()?])
            .port(Protocol::Tcp, 53)
            .port(Protocol::Udp, 53)
            .external_ips(&["198.51.101.10".parse()?])
            .load_balancer(&["2001:db8:64::10".parse()?]);
        lab.manifests().expose(&service, &lab.pods(&["p12"])?)?;
        let (v4, v6) = ("10.244.1.12", "[fd00:244:1::12]");
        let (tcp4, udp4) = (format!("{v4}:8080"), format!("{v4}:5353"));
        let (tcp6, udp6) = (format!("{v6}:8080"), format!("{v6}:5353"));
        shows(
            lab.node(1)?,
            &listing(&[
                ("TCP  10.96.0.10:53 rr\n", &[&tcp4]),
                ("TCP  198.51.101.10:53 rr\n", &[&tcp4]),
                ("TCP  [2001:db8:64::10]:53 rr\n", &[&tcp6]),
                ("TCP  [fd00:96::10]:53 rr\n", &[&tcp6]),
                ("UDP  10.96.0.10:53 rr\n", &[&udp4]),
                ("UDP  198.51.101.10:53 rr\n", &[&udp4]),
                ("UDP  [2001:db8:64::10]:53 rr\n", &[&udp6]),
                ("UDP  [fd00:96::10]:53 rr\n", &[&udp6]),
            ]),
        )?;
        binds(&lab.node(1)?.ns, &["10.96.0.10", "198.51.101.10", "2001:db8:64::10", "fd00:96::10"])?;
        replays(lab, lab.node(1)?)
    });
}

/// What a daemon decides from, taken along and rendered, says what its node has.
fn replays(lab: &Lab, node: &Node) -> Result<()> {
    let flags = Daemon::flags(&node.name, lab.manifests().path(), lab.directory());
    let with = |prefixes: &[&str]| {
        flags.iter().filter(|flag| prefixes.iter().any(|prefix| flag.starts_with(prefix))).cloned().collect::<Vec<_>>()
    };
    let ask = [vec!["snapshot".to_owned()], with(&["--admin-socket="])].concat();
    let (status, snapshot) = run_once(&node.ns, &ask)?;
    ensure!(status.success(), "{snapshot}");
    let file = lab.directory().join("snapshot.json");
    std::fs::write(&file, snapshot)?;
    let render = vec!["render".to_owned(), format!("--snapshot={}", file.display()), "--output=json".to_owned()];
    let decides = with(&["--enable-ipv6=", "--service-cluster-", "--service-external-", "--loadbalancer-ip-"]);
    let (status, text) = run_once(&node.ns, &[render, decides].concat())?;
    ensure!(status.success(), "{text}");
    let rendered: serde_json::Value = serde_json::from_str(&text)?;
    let lines = rendered["ipvs"].as_array().into_iter().flatten().filter_map(|line| line.as_str());
    let rendered: BTreeSet<&str> = lines.collect();
    let saved = node.ns.command("ipvsadm -Sn")?;
    let saved: BTreeSet<&str> = saved.lines().map(str::trim_end).collect();
    ensure!(rendered == saved, "rendered\n{rendered:#?}\nthe node has\n{saved:#?}");
    Ok(())
}
