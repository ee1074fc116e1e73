//! Once a stricter policy counts as applied, nothing of what it denies passes: no running connection of any protocol, and none
//! that connection tracking has not forgotten yet. So it stays, whoever sends next.

#![allow(clippy::disallowed_methods, reason = "how long real packets take is measured in plain time")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrovia::kernel::conntrack::Transport;
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Connection, Daemon, Lab, Options, Pod, UdpClient, topology, wait};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, accept, bind, connect, listen, socket};
use serde_json::{Value, json};

use super::super::truth_table::open;
use super::super::{SOON, with_lab};
use super::{Backend, PATIENCE, generation, only_from, policy, wait_for, web, write_pods};

/// Source ports that the kernel gives nobody by itself.
const RUNNING: u16 = 20_001;
const CLOSED: u16 = 20_002;
/// Both ports of pairs that talk.
const TALK: u16 = 20_003;
/// How long a denied request may take to be answered nevertheless.
const ATTEMPT: Duration = Duration::from_secs(1);

/// An association of pod p21 with p12 from this port, where it comes about within a limit.
fn associate(lab: &Lab, port: u16, limit: Duration) -> Result<OwnedFd> {
    let (client, server) = (lab.pod("p21")?, lab.pod("p12")?);
    let to = SocketAddr::new(server.address(Family::V4), topology::SCTP_PORT);
    client.ns.run(|| {
        let socket = open(Protocol::Sctp, SocketAddr::new(client.address(Family::V4), port))?;
        wait::until("an association", limit, || match connect(&socket, &to) {
            Ok(()) | Err(Errno::ISCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })?;
        Ok(socket)
    })
}

/// Waits until a daemon has these policies in force, and has ended what they deny.
pub(super) fn apply(lab: &Lab, daemon: &Daemon, policies: &[Value]) -> Result<()> {
    let before = generation(daemon)?;
    lab.manifests().write("policies", policies)?;
    wait::until_true("the policies are applied", SOON, || Ok(generation(daemon)? > before))
}

both_backends! {
    nothing_denied_passes_once_it_is_applied
    what_is_ended_stays_so_while_the_server_goes_on
    what_is_ended_with_one_side_closed_stays_so_too
}

fn nothing_denied_passes_once_it_is_applied(backend: Backend) {
    with_lab(Options { nodes: 2, sctp: true, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        // An association that is closed is to be remembered for longer than any machine takes for this.
        lab.node(1)?.ns.set_sysctls(&[("net/netfilter/nf_conntrack_sctp_timeout_closed", "300")])?;
        let daemons = lab.start_daemons(&backend.options())?;
        let (server, client) = (lab.pod("p12")?, lab.pod("p21")?);
        let mut allowed = Connection::open(&lab.pod("p11")?.ns, web(lab, "p12", Family::V4)?)?;
        let mut tcp = Connection::open(&client.ns, web(lab, "p12", Family::V4)?)?;
        let udp = UdpClient::connect(&client.ns, SocketAddr::new(server.address(Family::V4), topology::UDP_PORT))?;
        let sctp = TcpStream::from(associate(lab, RUNNING, SOON)?);
        sctp.set_nonblocking(false)?;
        sctp.set_read_timeout(Some(PATIENCE))?;
        let mut sctp = Connection::from(sctp);
        ensure!(allowed.request().is_ok() && tcp.request().is_ok() && udp.ask(SOON).is_ok() && sctp.request().is_ok());
        // Twice: its ports may be used again at once.
        drop(associate(lab, CLOSED, SOON)?);
        drop(associate(lab, CLOSED, SOON)?);

        apply(lab, &daemons[0], &[only_from("p12", "p11")])?;
        ensure!(associate(lab, CLOSED, ATTEMPT).is_err(), "the ports of a closed association let one in");
        ensure!(sctp.request().is_err(), "a running association goes on");
        ensure!(udp.ask(ATTEMPT).is_err(), "a UDP flow goes on");
        ensure!(tcp.request().is_err(), "a TCP connection goes on");
        ensure!(allowed.request().is_ok(), "what is allowed lives on");
        Ok(())
    });
}

/// Two ends that both write all the time and read what comes, without ever waiting.
struct Talk {
    of: Transport,
    client: TcpStream,
    server: TcpStream,
}

impl Talk {
    /// The client's pod asks the server's.
    fn begin(protocol: Protocol, family: Family, client: &Pod, server: &Pod) -> Result<Talk> {
        let [from, to] = [client, server].map(|pod| SocketAddr::new(pod.address(family), TALK));
        let listener = server.ns.run(|| open(protocol, to))?;
        let socket = client.ns.run(|| open(protocol, from))?;
        if protocol != Protocol::Udp {
            listen(&listener, 1)?;
        }
        wait::until("the client is connected", SOON, || match connect(&socket, &to) {
            Ok(()) | Err(Errno::ISCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })?;
        let answering = if protocol == Protocol::Udp {
            connect(&listener, &from)?;
            listener
        } else {
            wait::until("the server is asked", SOON, || Ok(accept(&listener)?))?
        };
        let talk = Talk { of: protocol.into(), client: TcpStream::from(socket), server: TcpStream::from(answering) };
        for end in [&talk.client, &talk.server] {
            end.set_nonblocking(true)?;
        }
        Ok(talk)
    }

    /// The client's pod sends packets of a protocol that knows no connections (253 is kept for experiments, RFC 3692).
    fn begin_raw(family: Family, client: &Pod, server: &Pod) -> Result<Talk> {
        let number = rustix::net::Protocol::from_raw(NonZeroU32::new(253).context("not zero")?);
        let address = if family == Family::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let end = |at: &Pod, with: &Pod| {
            at.ns.run(|| {
                let end = socket(address, SocketType::RAW, Some(number))?;
                bind(&end, &SocketAddr::new(at.address(family), 0))?;
                connect(&end, &SocketAddr::new(with.address(family), 0))?;
                let end = TcpStream::from(end);
                end.set_nonblocking(true)?;
                Ok(end)
            })
        };
        Ok(Talk { of: Transport::Other(253), client: end(client, server)?, server: end(server, client)? })
    }

    /// Both write, and read all there is; who of them got something.
    fn exchange(&mut self) -> [bool; 2] {
        [&mut self.client, &mut self.server].map(|end| {
            // The other end may be out of reach, which is the point of it.
            drop(end.write(b"."));
            let mut got = false;
            while end.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                got = true;
            }
            got
        })
    }

    fn goes_on(&mut self) -> Result<()> {
        let mut heard = [false; 2];
        wait::until_true(&format!("{:?}: both ends hear each other", self.of), SOON, || {
            let now = self.exchange();
            heard = [heard[0] || now[0], heard[1] || now[1]];
            Ok(heard == [true; 2])
        })
    }
}

/// Lets all of them write for a while, every 50 ms; what was heard in that time.
fn heard(talks: &mut [Talk], span: Duration) -> Vec<(Transport, [bool; 2])> {
    let mut heard = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < span {
        let now = talks.iter_mut().map(|talk| (talk.of, talk.exchange()));
        heard.extend(now.filter(|(_, heard)| *heard != [false; 2]));
        std::thread::sleep(Duration::from_millis(50));
    }
    heard
}

fn what_is_ended_stays_so_while_the_server_goes_on(backend: Backend) {
    with_lab(Options { nodes: 2, sctp: true, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        let daemons = lab.start_daemons(&backend.options())?;
        let nothing = |app: &str, direction: &str| {
            policy("nothing", json!({"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [direction]}))
        };
        // A client of another node and what its server may receive; one beside its server and what it may send itself.
        for (client, server, family, policy) in [
            ("p21", "p12", Family::V4, nothing("p12", "Ingress")),
            ("p11", "p12", Family::V6, nothing("p11", "Egress")),
        ] {
            let begin = |protocol| Talk::begin(protocol, family, lab.pod(client)?, lab.pod(server)?);
            let mut talks = Protocol::ALL.into_iter().map(begin).collect::<Result<Vec<Talk>>>()?;
            talks.push(Talk::begin_raw(family, lab.pod(client)?, lab.pod(server)?)?);
            talks.iter_mut().try_for_each(Talk::goes_on)?;
            apply(lab, &daemons[0], &[policy])?;
            // What had passed before it was applied is read, and what was on its way: pods are looked at once more for that.
            heard(&mut talks, Duration::from_secs(1));
            let heard = heard(&mut talks, Duration::from_secs(4));
            ensure!(heard.is_empty(), "{server} to {client}: what was ended goes on: {heard:?}");
            lab.manifests().write("policies", &[])?;
            wait_for(lab, "open again", client, web(lab, server, family)?, true)?;
            talks.iter_mut().try_for_each(Talk::goes_on)?;
        }
        Ok(())
    });
}

/// Half closed connections are remembered for a minute or two, and what the server repeats comes ever more seldom.
fn what_is_ended_with_one_side_closed_stays_so_too(backend: Backend) {
    with_lab(Options { nodes: 2, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        let soon = ["fin", "close"].map(|state| format!("net/netfilter/nf_conntrack_tcp_timeout_{state}_wait"));
        lab.node(1)?.ns.set_sysctls(&soon.each_ref().map(|key| (key.as_str(), "5")))?;
        let daemons = lab.start_daemons(&backend.options())?;
        for family in Family::ALL {
            let mut talk = Talk::begin(Protocol::Tcp, family, lab.pod("p21")?, lab.pod("p12")?)?;
            talk.goes_on()?;
            talk.client.shutdown(std::net::Shutdown::Write)?;
            let still = || Ok(talk.exchange()[0]);
            wait::until_true("the client goes on reading", SOON, still)?;
            // It must not be forgotten before it is ended.
            let before = generation(&daemons[0])?;
            lab.manifests().write("policies", &[only_from("p12", "p11")])?;
            wait::until_true("the policy is applied", SOON, || {
                talk.exchange();
                Ok(generation(&daemons[0])? > before)
            })?;
            let mut talks = [talk];
            heard(&mut talks, Duration::from_millis(300));
            // What is repeated comes after 0.2 s, 0.4 s and so on: between the sixth and the seventh time it would be forgotten.
            let heard = heard(&mut talks, Duration::from_secs(17));
            ensure!(heard.is_empty(), "{family}: {heard:?}");
            lab.manifests().write("policies", &[])?;
            wait_for(lab, "open again", "p21", web(lab, "p12", family)?, true)?;
            let [mut talk] = talks;
            wait::until_true("it goes on", SOON, || Ok(talk.exchange()[0]))?;
        }
        Ok(())
    });
}
