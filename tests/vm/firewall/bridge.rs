//! Pods beside each other on one bridge: what they send under addresses that are no pod's leads around no policy.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Lab, Options, Pod, wait};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use serde_json::json;

use super::super::truth_table::open;
use super::super::{SOON, with_lab};
use super::cut::apply;
use super::{Backend, only_from, policy, wait_for, web, write_pods};

pub(super) const PORT: u16 = 7_100;
/// How long a denied connection may take to come about nevertheless.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The address of a pod's own link, with the number of the link.
fn of_link(pod: &Pod) -> Result<(Ipv6Addr, u32)> {
    let line = pod.ns.command("ip -6 -o addr show dev eth0 scope link")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = words.first().and_then(|word| word.trim_end_matches(':').parse().ok()).context(line.clone())?;
    let at = words.iter().position(|word| *word == "inet6").context(line.clone())?;
    let address = words.get(at + 1).and_then(|word| word.split('/').next()?.parse().ok()).context(line.clone())?;
    ensure!(!line.contains("tentative"), "{line}");
    Ok((address, number))
}

fn settled(pod: &Pod) -> Result<(Ipv6Addr, u32)> {
    wait::until("the link has its address", SOON, || of_link(pod))
}

/// A connection from a pod, from this address of its own, where it comes about within a limit.
fn connected(from: &Pod, source: SocketAddr, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
    from.ns.run(|| {
        let socket = open(Protocol::Tcp, source)?;
        wait::until("a connection", limit, || match connect(&socket, &to) {
            Ok(()) | Err(Errno::ISCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })?;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        Ok(stream)
    })
}

/// Whether a byte gets from one end of a connection to the other.
fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b".").is_ok() && to.read(&mut [0; 16]).is_ok_and(|read| read > 0)
}

/// Groups and everybody, with the address of the sender's link.
fn groups(link: u32) -> [SocketAddr; 3] {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    [
        (Ipv4Addr::new(224, 0, 0, 1), PORT).into(),
        (Ipv4Addr::BROADCAST, PORT).into(),
        SocketAddrV6::new(all_nodes, PORT, 0, link).into(),
    ]
}

/// A pod's sockets that take whatever comes, of both families.
pub(super) fn ears(pod: &Pod) -> Result<[UdpSocket; 2]> {
    pod.ns.run(|| {
        // One that is bound to every address of IPv6 takes IPv4, too, unless somebody is there before it.
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        let v6 = socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
        sockopt::set_ipv6_v6only(&v6, true)?;
        bind(&v6, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))?;
        let ears = [v4, UdpSocket::from(v6)];
        for ear in &ears {
            ear.set_read_timeout(Some(SOON))?;
        }
        Ok(ears)
    })
}

/// Says a word to this address, from whatever address of one's own.
pub(super) fn say(word: u8, to: SocketAddr) -> Result<()> {
    let local: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0))?;
    socket.set_broadcast(true)?;
    socket.send_to(&[word], to).with_context(|| format!("send to {to}"))?;
    Ok(())
}

/// The words a pod has heard, by family. A last one from its node, which may always send, shows that all before it are there.
pub(super) fn words(lab: &Lab, to: &Pod, ears: &[UdpSocket; 2]) -> Result<[Vec<u8>; 2]> {
    lab.node(to.node)?.ns.run(|| Family::ALL.iter().try_for_each(|of| say(u8::MAX, (to.address(*of), PORT).into())))?;
    let mut heard = [Vec::new(), Vec::new()];
    for (heard, ear) in heard.iter_mut().zip(ears) {
        loop {
            let mut word = [0];
            ear.recv(&mut word).context("the node's word")?;
            if word[0] == u8::MAX {
                break;
            }
            heard.push(word[0]);
        }
    }
    Ok(heard)
}

/// The groups by which a pod is heard by another one.
fn heard(lab: &Lab, from: &Pod, to: &Pod, ears: &[UdpSocket; 2]) -> Result<Vec<SocketAddr>> {
    let (_, link) = settled(from)?;
    let all = groups(link);
    from.ns.run(|| (0_u8..).zip(all).try_for_each(|(number, group)| say(number, group)))?;
    let numbers = words(lab, to, ears)?.concat();
    numbers.into_iter().map(|number| all.get(usize::from(number)).copied().context("a word nobody said")).collect()
}

both_backends!(addresses_that_are_no_pod_s_lead_around_no_policy);

fn addresses_that_are_no_pod_s_lead_around_no_policy(backend: Backend) {
    with_lab(Options { nodes: 1, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        let daemons = lab.start_daemons(&backend.options())?;
        let (client, server) = (lab.pod("p11")?, lab.pod("p12")?);
        let ((from, link), (at, _)) = (settled(client)?, settled(server)?);
        let source = SocketAddr::from(SocketAddrV6::new(from, 0, 0, link));
        let target = SocketAddr::from(SocketAddrV6::new(at, PORT, 0, link));
        let listener = server.ns.run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?))?;
        let ears = ears(server)?;
        let mut near = connected(client, source, target, SOON)?;
        let (mut far, _) = listener.accept()?;
        far.set_read_timeout(Some(ATTEMPT))?;
        ensure!(passes(&mut near, &mut far) && passes(&mut far, &mut near), "without policies");
        ensure!(heard(lab, client, server, &ears)?.len() == 3, "without policies groups are heard");

        apply(lab, &daemons[0], &[only_from("p12", "nobody")])?;
        ensure!(!passes(&mut near, &mut far) && !passes(&mut far, &mut near), "a connection between links goes on");
        ensure!(connected(client, source, target, ATTEMPT).is_err(), "the address of its link leads in");
        let heard = heard(lab, client, server, &ears)?;
        ensure!(heard.is_empty(), "heard by {heard:?}");

        // By such an address a pod sends no more than by its own.
        let egress = json!({"podSelector": {"matchLabels": {"app": "p11"}}, "policyTypes": ["Egress"]});
        let global = SocketAddr::from((server.address(Family::V6), PORT));
        apply(lab, &daemons[0], &[policy("out", egress)])?;
        ensure!(connected(client, source, global, ATTEMPT).is_err(), "the address of its link leads out");

        // What is allowed finds its way.
        apply(lab, &daemons[0], &[only_from("p12", "p11")])?;
        for pod in [client, server] {
            pod.ns.command("ip neigh flush all")?;
        }
        for family in Family::ALL {
            wait_for(lab, "pods find each other", "p11", web(lab, "p12", family)?, true)?;
        }
        let findings = daemons[0].admin("/debug/firewall/findings")?.1;
        ensure!(findings.is_empty(), "what is read back is what was written: {findings}");
        Ok(())
    });
}
