//! `--shutdown-inhibit` with the real systemd-logind: the host stops after the node is out of traffic, not before.
//!
//! The guest runs no systemd that logind could ask to stop it. What stands in for one refuses: a shutdown comes as far as
//! logind lets it go on, and is called off then. That is what is needed here, twice.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::Family;
use ferrovia::routing::logind::wire::{Kind, Message};
use ferrovia::testing::lab::{Bird, DaemonOptions, Lab, Program, bird, topology, wait};

use super::router::{FLAGS, VIP, dynamic, edge, web};
use super::{SOON, with_lab};

const LOGIND: &str = "/usr/lib/systemd/systemd-logind";
/// Read by logind beside its own file.
const SETTINGS: &str = "/run/systemd/logind.conf.d";

/// The other side of what stands in for systemd.
struct Systemd {
    /// The host is to be stopped now.
    stops: Receiver<()>,
    /// Refuse that.
    refuse: Sender<()>,
}

/// Takes systemd's name on the bus, says of every unit that it is loaded, and starts none.
fn stand_in_for_systemd(socket: &Path) -> Result<Systemd> {
    const BUS: &str = "org.freedesktop.DBus";
    let mut stream = UnixStream::connect(socket)?;
    // The user id 0 in hexadecimal digits of its decimal ones.
    stream.write_all(b"\0AUTH EXTERNAL 30\r\n")?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    ensure!(line.starts_with(b"OK "), "the bus says {}", String::from_utf8_lossy(&line));
    let method = |name| [BUS, "/org/freedesktop/DBus", BUS, name];
    let mut request = Message::call(2, method("RequestName"), &["org.freedesktop.systemd1"]);
    request.signature.push('u');
    request.body.resize(request.body.len().next_multiple_of(4), 0);
    request.body.extend([0; 4]);
    stream.write_all(b"BEGIN\r\n")?;
    stream.write_all(&Message::call(1, method("Hello"), &[]).encode())?;
    stream.write_all(&request.encode())?;
    let ((stop, stops), (refuse, refused)) = (channel(), channel());
    std::thread::spawn(move || {
        let (mut read, mut bytes) = (Vec::new(), [0; 4096]);
        while let Ok(n_read @ 1..) = stream.read(&mut bytes) {
            read.extend(bytes.iter().take(n_read));
            while let Ok(Some((call, taken))) = Message::decode(&read) {
                read.drain(..taken);
                if call.member.as_deref() == Some("StartUnit") && (stop.send(()).is_err() || refused.recv().is_err()) {
                    return;
                }
                if call.kind == Kind::Call && stream.write_all(&answer(&call).encode()).is_err() {
                    return;
                }
            }
        }
    });
    Ok(Systemd { stops, refuse })
}

fn answer(call: &Message) -> Message {
    let base =
        Message { serial: 9, reply_to: Some(call.serial), destination: call.sender.clone(), ..Message::default() };
    if call.member.as_deref() == Some("Get") {
        let body = b"\x01s\0\0\x06\0\0\0loaded\0".to_vec();
        return Message { kind: Kind::Return, signature: "v".to_owned(), body, ..base };
    }
    Message { kind: Kind::Error, error: Some("org.freedesktop.systemd1.Refused".to_owned()), ..base }
}

/// A message bus with a logind on it, which lets shutdowns be held back for a minute.
struct Host<'a> {
    lab: &'a Lab,
    address: String,
    systemd: Systemd,
    _programs: [Program; 2],
}

impl<'a> Host<'a> {
    fn start(lab: &'a Lab) -> Result<Host<'a>> {
        ensure!(Path::new(LOGIND).is_file(), "no {LOGIND}: `cargo xtask vm setup` installs what the guest needs");
        for folder in [SETTINGS, "/run/systemd/seats", "/run/systemd/users", "/run/systemd/sessions"] {
            std::fs::create_dir_all(folder).with_context(|| format!("make {folder}"))?;
        }
        std::fs::write(format!("{SETTINGS}/test.conf"), "[Login]\nInhibitDelayMaxSec=60\nNAutoVTs=0\nReserveVT=0\n")?;
        let socket = lab.directory().join("bus");
        let address = format!("unix:path={}", socket.display());
        let file = lab.directory().join("bus.conf");
        std::fs::write(
            &file,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
                 <busconfig><listen>{address}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
                 <allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
                 </policy></busconfig>\n"
            ),
        )?;
        let ns = &lab.node(1)?.ns;
        let file = format!("--config-file={}", file.display());
        let bus = Program::start(ns, "bus", lab.directory(), &["dbus-daemon", &file, "--nofork", "--nopidfile"])?;
        let systemd = wait::until("the bus takes us in", SOON, || stand_in_for_systemd(&socket))?;
        let variable = format!("DBUS_SYSTEM_BUS_ADDRESS={address}");
        let logind = Program::start(ns, "logind", lab.directory(), &["env", &variable, LOGIND])?;
        let host = Host { lab, address, systemd, _programs: [bus, logind] };
        wait::until("logind answers", SOON, || host.locks())?;
        Ok(host)
    }

    fn ask(&self, method: &str) -> Result<String> {
        let manager = "--dest=org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager";
        self.lab.node(1)?.ns.command(&format!("dbus-send --bus={} --print-reply {manager}.{method}", self.address))
    }

    fn locks(&self) -> Result<String> {
        self.ask("ListInhibitors")
    }

    fn is_held(&self) -> Result<bool> {
        let locks = self.locks()?;
        Ok(locks.contains("\"ferrovia\"") && locks.contains("\"shutdown\"") && locks.contains("\"delay\""))
    }

    fn power_off(&self) -> Result<()> {
        self.ask("PowerOff boolean:false").map(drop)
    }
}

/// Lets the shutdown begin and looks at the edge when logind goes on with it.
fn is_out_of_traffic_when_let_go(host: &Host<'_>, edge: &Bird, vip: &str, left: &[&str]) -> Result<()> {
    host.power_off()?;
    let tagged = || Ok(edge.ask(&format!("show route all {vip}"))?.contains("(65535,0)"));
    wait::until_true("announcements are tagged first", SOON, tagged)?;
    ensure!(host.is_held()?, "the lock was let go of while the node was being drained");
    host.systemd.stops.recv_timeout(SOON * 2).context("logind does not go on")?;
    let hops = bird::kernel_next_hops(&host.lab.edge, vip)?;
    if hops != left {
        bail!("the host was let go on while the edge had {hops:?}");
    }
    host.systemd.refuse.send(()).context("nobody stands in for systemd")
}

#[test]
fn the_host_stops_when_the_node_is_out_of_traffic() {
    with_lab(dynamic(), |lab| {
        let host = Host::start(lab)?;
        let edge = edge(lab)?;
        let mut options = DaemonOptions::with(&FLAGS);
        options.flags.extend(["--drain-tag-time=8s".to_owned(), "--drain-settle-time=8s".to_owned()]);
        let mut daemons = Vec::new();
        for node in 1..=3 {
            let mut options = options.clone();
            if node == 1 {
                options.flags.push("--shutdown-inhibit".to_owned());
                options.environment.push(("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), host.address.clone()));
            }
            daemons.push(lab.start_daemon(node, &options)?);
        }
        for (daemon, node) in daemons.iter_mut().zip(lab.nodes()) {
            daemon.wait_ready()?;
            edge.wait_established(&node.name, SOON)?;
        }
        lab.manifests().expose(&web(), &lab.pods(&["p11", "p21", "p31"])?)?;
        let vip = format!("{VIP}/32");
        let all = ["192.168.10.11", "192.168.10.12", "192.168.10.13"];
        bird::wait_kernel_next_hops(&lab.edge, &vip, &all, SOON)?;
        wait::until_true("the daemon holds a lock", SOON, || host.is_held())?;

        is_out_of_traffic_when_let_go(&host, &edge, &vip, &all[1..])?;
        // Nobody stops this host: what was called off is forgotten.
        bird::wait_kernel_next_hops(&lab.edge, &vip, &all, SOON)?;
        wait::until_true("the daemon holds a lock again", SOON, || host.is_held())?;

        // A host that goes does not come back soon: graceful restart must not keep its routes.
        let pods = topology::pod_prefix(Family::V4, 1);
        bird::wait_kernel_next_hops(&lab.edge, &pods, &all[..1], SOON)?;
        let begun = |log: String| log.matches("the host shuts down: taking").count();
        let before = begun(daemons[0].log());
        host.power_off()?;
        wait::until_true("the drain begins", SOON, || Ok(begun(daemons[0].log()) > before))?;
        daemons[0].stop()?;
        bird::wait_kernel_next_hops(&lab.edge, &pods, &[], Duration::from_secs(20))?;
        bird::wait_kernel_next_hops(&lab.edge, &vip, &all[1..], SOON)
    });
}
