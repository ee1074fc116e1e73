//! A denied packet becomes a line and a count.

use std::io::{self, Write};
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrovia::firewall::Config;
use ferrovia::firewall::book::Book;
use ferrovia::firewall::compile::ruleset;
use ferrovia::firewall::log_reader::follow;
use ferrovia::k8s::load_text;
use ferrovia::kernel::filter;
use ferrovia::kernel::ipset::IpsetClient;
use ferrovia::kernel::iptables::{Flavour, Iptables, SystemPrograms};
use ferrovia::kernel::nflog::{OpenError, Reader};
use ferrovia::kernel::nft::NftClient;
use ferrovia::model::{NodeName, Published};
use ferrovia::telemetry::log::{LogOptions, subscriber};
use ferrovia::testing::lab::Namespace;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::SOON;
use crate::firewall::Backend;

const GROUP: u16 = 100;
const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.1.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.10.11}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web}, spec: {nodeName: n1}, status: {phase: Running, podIP: 10.244.1.5}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: far}, spec: {nodeName: n2}, status: {phase: Running, podIP: 10.244.2.7}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: web}, spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 99}}}]}
";

/// Log lines, to be looked at.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

both_backends!(a_denied_packet_yields_a_line_and_a_count);

fn a_denied_packet_yields_a_line_and_a_count(backend: Backend) {
    guest!();
    let names = ["client", "node", "pod"].map(|role| format!("denied-{}-{role}", std::process::id()));
    let namespaces = Namespace::create(&names).unwrap();
    let seen = denied_packets(backend, &namespaces);
    Namespace::delete(&names).unwrap();
    let (lines, counts) = seen.unwrap();
    let has = |words: &[&str]| lines.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(
        has(&[
            "namespace=shop pod=web direction=ingress",
            "shop/far (10.244.2.7)",
            "udp/81",
            "no policy allows it (shop/web)"
        ]),
        "{lines}"
    );
    assert!(has(&["udp/99", "clusternetworkpolicy guard rule 0: Deny"]), "{lines}");
    assert!(counts.contains(&("shop".to_owned(), "ingress".to_owned(), "no_rule")), "{counts:?}");
    assert!(counts.contains(&("shop".to_owned(), "ingress".to_owned(), "cluster_policy")), "{counts:?}");
}

/// Where the rules are written.
fn tables(backend: Backend) -> Result<Box<dyn filter::Backend>> {
    Ok(match backend {
        Backend::Nftables => Box::new(NftClient::open()?),
        Backend::Iptables => Box::new(Iptables::new(IpsetClient::open()?, SystemPrograms { flavour: Flavour::Nft })),
    })
}

type Count = (String, String, &'static str);

/// Sends to ports that are denied until both were told.
fn denied_packets(backend: Backend, namespaces: &[Namespace]) -> Result<(String, Vec<Count>)> {
    let [client, node, pod] = namespaces else { bail!("three namespaces") };
    wire(client, node, "c", "10.244.2.7", "10.244.2.1")?;
    wire(pod, node, "p", "10.244.1.5", "10.244.1.1")?;
    node.set_sysctls(&[("net/ipv4/ip_forward", "1")])?;
    let own_node = NodeName::new("n1");
    let (snapshot, reports) = load_text(CLUSTER, &own_node);
    assert!(reports.is_empty(), "{reports:?}");
    let config = Config { log_group: Some(GROUP), ..Config::default() };
    let rules = ruleset(&Book::build(&snapshot, &config), &snapshot, &config);
    let published = Published { snapshot: Arc::new(snapshot), oldest_event: Duration::ZERO };
    let (_held, snapshots) = watch::channel(Some(published));
    let lines = Lines::default();
    let written = lines.clone();
    let counts = node.run(move || {
        let table = Arc::from(ferrovia::firewall::TABLE);
        let mut tables = tables(backend)?;
        let transaction = tables.plan(&table, &rules)?;
        tables.commit(&transaction)?;
        let log = subscriber(&LogOptions::default(), move || written.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tracing::subscriber::with_default(log, || {
            runtime.block_on(async {
                let reader = Reader::open(GROUP)?;
                assert!(matches!(Reader::open(GROUP), Err(OpenError::Taken { .. })), "one reader only");
                let counts = Mutex::new(Vec::new());
                let count = |denial: &ferrovia::firewall::denied::Denial| {
                    let count = (denial.pod.namespace.to_string(), denial.direction.to_string(), denial.reason.name());
                    counts.lock().unwrap().push(count);
                };
                let deadline = Instant::now() + SOON;
                let sending = async {
                    loop {
                        client.run(|| {
                            let socket = UdpSocket::bind("10.244.2.7:0")?;
                            for port in [81, 99] {
                                // What was refused before is told at the next sending.
                                let _ = socket.send_to(b"x", ("10.244.1.5", port));
                            }
                            Ok(())
                        })?;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        let kinds = |reason| counts.lock().unwrap().iter().any(|(.., of)| *of == reason);
                        if kinds("no_rule") && kinds("cluster_policy") {
                            return Ok(());
                        }
                        if Instant::now() > deadline {
                            bail!("only {:?} was told of", counts.lock().unwrap());
                        }
                    }
                };
                tokio::select! {
                    ended = follow(reader, snapshots, config, count) => ended.context("the reader ended"),
                    sent = sending => sent,
                }?;
                Ok(counts.into_inner().unwrap())
            })
        })
    })?;
    let lines = String::from_utf8(lines.0.lock().unwrap().clone())?;
    Ok((lines, counts))
}

/// A link from a namespace to the node, with a route to everything by it.
fn wire(namespace: &Namespace, node: &Namespace, link: &str, address: &str, gateway: &str) -> Result<()> {
    node.ip(&format!(
        "link add {link}0 type veth peer name eth0 netns {}\naddr add {gateway}/24 dev {link}0\nlink set {link}0 up\n",
        namespace.name()
    ))?;
    namespace.ip(&format!(
        "addr add {address}/24 dev eth0\nlink set eth0 up\nlink set lo up\nroute add default via {gateway}\n"
    ))
}
