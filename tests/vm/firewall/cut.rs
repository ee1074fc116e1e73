//! Once a stricter policy counts as applied, nothing of what it denies passes: no running connection of any protocol, and none
//! that connection tracking has not forgotten yet.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Connection, Lab, Options, UdpClient, topology, wait};
use rustix::io::Errno;
use rustix::net::connect;

use super::super::truth_table::open;
use super::super::{SOON, with_lab};
use super::{Backend, PATIENCE, generation, only_from, web, write_pods};

/// Source ports that the kernel gives nobody by itself.
const RUNNING: u16 = 20_001;
const CLOSED: u16 = 20_002;
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

both_backends!(nothing_denied_passes_once_it_is_applied);

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

        let before = daemons.first().map_or(Ok(0.0), generation)?;
        lab.manifests().write("policies", &[only_from("p12", "p11")])?;
        wait::until_true("the policy is applied on the pod's node", SOON, || {
            Ok(daemons.first().map_or(Ok(0.0), generation)? > before)
        })?;
        ensure!(associate(lab, CLOSED, ATTEMPT).is_err(), "the ports of a closed association let one in");
        ensure!(sctp.request().is_err(), "a running association goes on");
        ensure!(udp.ask(ATTEMPT).is_err(), "a UDP flow goes on");
        ensure!(tcp.request().is_err(), "a TCP connection goes on");
        ensure!(allowed.request().is_ok(), "what is allowed lives on");
        Ok(())
    });
}
