//! Learned routes on their way into the kernel: the whole daemon against a program that only sends the same netlink
//! messages.
//!
//! Both are watched from outside, by the kernel's own notifications of new routes.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrovia::testing::lab::{Namespace, daemon, report};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::device::Kind;
use super::peer::{DEVICE, DEVICE_AS, HOLD, Identity, Session};
use super::reflect::millis;
use super::routes::{Load, network, one};
use super::table::{Bar, Table, Unit, percentile};

const LOAD: Load = Load { n: 10_000, unique: false };
const N_SINGLES: u32 = 100;
/// Messages in one datagram of the floor; more is not faster.
const CHUNK: usize = 200;
/// `RTNLGRP_IPV4_ROUTE`.
const ROUTES: u32 = 7;
/// `RTM_NEWROUTE` and `RTM_DELROUTE`.
const NEW: u16 = 24;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_CREATE`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;

const PEER: Identity = Identity { address: Ipv4Addr::new(10, 200, 0, 2), asn: 65001, hold: HOLD };

/// The daemon only: how the others are told to install routes differs too much.
pub(crate) fn measure(kind: Kind, table: &mut Table) -> Result<()> {
    if kind != Kind::Ferrovia {
        return Ok(());
    }
    let floor = between(|node, _| node.run(send_all))?;
    let (all, singles) = between(through_the_daemon)?;
    let what = "10k learned routes into the kernel, the whole daemon";
    table.add(what, Unit::Millis, &[], kind, all);
    table.add("… a program that only sends them", Unit::Millis, &[], kind, floor);
    table.add("… the former in multiples of the latter", Unit::Times, &[Bar::AtMost(2.0)], kind, all / floor);
    let what = "one route more, from the peer's write to the kernel";
    table.add(&format!("{what}: p50"), Unit::Millis, &[], kind, percentile(&singles, 50));
    table.add(&format!("{what}: p99"), Unit::Millis, &[Bar::AtMost(5.0)], kind, percentile(&singles, 99));
    Ok(())
}

/// A node and a neighbour of it, each in a namespace of its own: no host routes to itself.
fn between<T>(measure: impl FnOnce(&Namespace, &Namespace) -> Result<T>) -> Result<T> {
    let names = ["node", "peer"].map(|name| format!("bgp-bench-{}-{name}", std::process::id()));
    let namespaces = Namespace::create(&names)?;
    let [node, peer] = namespaces.as_slice() else { bail!("no namespaces") };
    let result = node
        .ip(&format!(
            "link set lo up\nlink add peers type veth peer name node netns {}\naddr add 10.200.0.1/16 dev peers\n\
             link set peers up\n",
            peer.name()
        ))
        .and_then(|()| peer.ip("link set lo up\naddr add 10.200.0.2/16 dev node\nlink set node up\n"))
        .and_then(|()| measure(node, peer));
    drop(namespaces);
    if let Err(error) = Namespace::delete(&names) {
        report(&format!("bgp_bench: {error:#}"));
    }
    result
}

/// The kernel's notifications in the namespace of the calling thread.
struct Watcher {
    socket: Socket,
    buffer: Vec<u8>,
    count: u32,
}

impl Watcher {
    fn new() -> Result<Watcher> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // As root the limit of the system does not count.
        socket.set_rx_buf_sz(32 * 1024 * 1024_u32)?;
        socket.add_membership(ROUTES)?;
        Ok(Watcher { socket, buffer: vec![0; 64 * 1024], count: 0 })
    }

    /// Reads until so many of the load's routes are there, all in all.
    fn wait(&mut self, count: u32) -> Result<()> {
        while self.count < count {
            let mut room = self.buffer.as_mut_slice();
            let n = self.socket.recv(&mut room, 0).context("the kernel's notifications")?;
            let mut rest = self.buffer.get(..n).unwrap_or_default();
            while let Some((length, kind, destination)) = route(rest) {
                let ours = destination.is_some_and(|address| address.octets().starts_with(&[20]));
                self.count += u32::from(kind == NEW && ours);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Length, type and destination of the first message.
fn route(bytes: &[u8]) -> Option<(usize, u16, Option<Ipv4Addr>)> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?);
    // After nlmsghdr and rtmsg: attributes, of which RTA_DST is 1.
    let mut attributes = bytes.get(28..length).unwrap_or_default();
    while let Some(head) = attributes.first_chunk::<4>() {
        let [low, high, kind_low, kind_high] = *head;
        let size = usize::from(u16::from_ne_bytes([low, high])).max(4);
        if u16::from_ne_bytes([kind_low, kind_high]) == 1 {
            let address = attributes.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
            return Some((length, kind, address.map(|bytes| Ipv4Addr::from(*bytes))));
        }
        attributes = attributes.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    (length >= 16).then_some((length, kind, None))
}

/// The floor: messages encoded beforehand, sent and acknowledged datagram by datagram.
fn send_all() -> Result<f64> {
    let index = fs::read_to_string("/sys/class/net/peers/ifindex");
    let index = match index {
        Ok(text) => text.trim().parse::<u32>().context("no interface index")?,
        // /sys shows the namespace it was mounted in.
        Err(_) => index_of_peers()?,
    };
    let mut datagrams = Vec::new();
    for first in (0..LOAD.n).step_by(CHUNK) {
        let mut datagram = Vec::new();
        let last = (first as usize + CHUNK).min(LOAD.n as usize) - 1;
        for number in first..=u32::try_from(last)? {
            let flags = REQUEST | CREATE | if number as usize == last { ACK } else { 0 };
            datagram.extend(new_route(number, index, flags));
        }
        datagrams.push(datagram);
    }
    let mut watcher = Watcher::new()?;
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watcher.wait(LOAD.n).map(|()| Instant::now()));
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        let mut answer = vec![0; 8192];
        let since = Instant::now();
        for datagram in &datagrams {
            socket.send(datagram, 0)?;
            let mut room = answer.as_mut_slice();
            let n = socket.recv(&mut room, 0)?;
            let error =
                answer.get(16..20).and_then(|bytes| bytes.first_chunk()).map(|bytes| i32::from_ne_bytes(*bytes));
            ensure!(n >= 20 && error == Some(0), "the kernel refused a route: {error:?}");
        }
        let end = watching.join().map_err(|_| anyhow::anyhow!("the watching thread panicked"))??;
        Ok(millis(end - since))
    })
}

fn index_of_peers() -> Result<u32> {
    let output = Command::new("ip").args(["-o", "link", "show", "peers"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.split(':').next().and_then(|number| number.trim().parse().ok()).context("no interface `peers`")
}

/// `ip route add 20.x.y.0/24 via 10.200.0.2 dev peers proto 17`, as a message.
fn new_route(number: u32, index: u32, flags: u16) -> Vec<u8> {
    let mut message = 52_u32.to_ne_bytes().to_vec();
    message.extend_from_slice(&NEW.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&(number + 1).to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    // AF_INET, /24, table main, protocol 17, scope universe, unicast.
    message.extend_from_slice(&[2, 24, 0, 0, 254, 17, 0, 1, 0, 0, 0, 0]);
    for (kind, value) in [(1_u16, network(number).octets()), (5, PEER.address.octets()), (4, index.to_ne_bytes())] {
        message.extend_from_slice(&8_u16.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&value);
    }
    message
}

/// The daemon, ended by its process number.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only where it has already gone.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn through_the_daemon(node: &Namespace, peer: &Namespace) -> Result<(f64, Vec<f64>)> {
    let folder = tempfile::TempDir::new()?;
    let (manifests, log) = (folder.path().join("manifests"), folder.path().join("log"));
    fs::create_dir(&manifests)?;
    fs::write(
        manifests.join("node.yaml"),
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}\n\
         status: {addresses: [{type: InternalIP, address: 10.200.0.1}]}\n",
    )?;
    let out = fs::File::create(&log)?;
    let mut command = Command::new(daemon::binary()?);
    command
        .args(["--run-router=true", "--run-service-proxy=false", "--run-firewall=false", "--enable-ipv6=false"])
        .args(["--enable-overlay=false", "--enable-pod-egress=false", "--enable-cni=false", "--health-port=0"])
        .args(["--metrics-port=0", "--hostname-override=n1", "--service-cluster-ip-range=10.96.0.0/12"])
        .arg(format!("--cluster-asn={DEVICE_AS}"))
        .arg(format!("--peer-router-ips={}", PEER.address))
        .arg(format!("--peer-router-asns={}", PEER.asn))
        .arg(format!("--manifests={}", manifests.display()))
        .arg(format!("--admin-socket={}", folder.path().join("socket").display()))
        .arg(format!("--state-dir={}", folder.path().display()))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    let _daemon = Daemon(node.run(|| command.spawn().context("start the daemon"))?);
    let seen = peer.run(|| Session::establish(PEER)).and_then(|session| fill(node, session));
    seen.with_context(|| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{DEVICE}: its log ends: {}", lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n"))
    })
}

fn fill(node: &Namespace, mut session: Session) -> Result<(f64, Vec<f64>)> {
    session.drain()?;
    let announcements = LOAD.announce(PEER);
    std::thread::sleep(Duration::from_secs(1));
    node.run(|| {
        let mut watcher = Watcher::new()?;
        let all = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let since = Instant::now();
                session.write(&announcements).map(|()| since)
            });
            let seen = watcher.wait(LOAD.n).map(|()| Instant::now());
            let since = writing.join().map_err(|_| anyhow::anyhow!("the writing thread panicked"))??;
            anyhow::Ok(millis(seen? - since))
        })?;
        let mut took = Vec::new();
        for number in LOAD.n..LOAD.n + N_SINGLES {
            std::thread::sleep(Duration::from_millis(20));
            let since = Instant::now();
            session.write(&one(PEER, number))?;
            watcher.wait(number + 1)?;
            took.push(millis(since.elapsed()));
        }
        Ok((all, took))
    })
}
