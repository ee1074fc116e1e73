//! The devices under test: our speaker and the daemons beside it, each started with a configuration that takes all,
//! sends all and writes no kernel routes, and ended by its process number.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::peer::{DEVICE, DEVICE_AS, HOLD, Identity};

/// Where gobgpd and our speaker answer `gobgp`.
pub(crate) const API: &str = "127.0.0.1:50051";

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Our speaker without the rest of the daemon.
    Ferrovia,
    /// BIRD 2.
    Bird,
    /// FRR's bgpd.
    Frr,
    /// gobgpd of the distribution.
    Gobgp3,
    /// gobgpd of the current major version.
    Gobgp4,
}

/// What all of them are configured with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// Who may connect. The device connects to nobody.
    pub(crate) peers: Vec<Identity>,
    /// The hold time the device offers.
    pub(crate) hold: Option<u16>,
    /// Whom our speaker watches with BFD, 3 × 300 ms.
    pub(crate) bfd: Option<Ipv4Addr>,
}

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    child: Child,
    folder: TempDir,
}

impl Kind {
    /// All of them, ours first.
    pub(crate) const ALL: [Kind; 5] = [Kind::Ferrovia, Kind::Bird, Kind::Frr, Kind::Gobgp3, Kind::Gobgp4];

    /// As it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ferrovia => "ferrovia",
            Kind::Bird => "bird",
            Kind::Frr => "frr",
            Kind::Gobgp3 => "gobgp3",
            Kind::Gobgp4 => "gobgp4",
        }
    }

    /// Where its program is. A variable of the environment names the two that no package installs.
    pub(crate) fn program(self) -> Result<PathBuf> {
        let (variable, usual) = match self {
            Kind::Ferrovia => ("FERROVIA_SPEAKER", ""),
            Kind::Bird => ("FERROVIA_BENCH_BIRD", "/usr/sbin/bird"),
            Kind::Frr => ("FERROVIA_BENCH_FRR", "/usr/lib/frr/bgpd"),
            Kind::Gobgp3 => ("FERROVIA_BENCH_GOBGP3", "/usr/bin/gobgpd"),
            Kind::Gobgp4 => ("FERROVIA_BENCH_GOBGP4", ""),
        };
        let path = std::env::var_os(variable).map_or_else(|| PathBuf::from(usual), PathBuf::from);
        ensure!(path.is_file(), "no program for {}: {variable} names it ({:?} is none)", self.name(), path);
        Ok(path)
    }

    /// What it calls itself.
    pub(crate) fn version(self) -> Result<String> {
        if self == Kind::Ferrovia {
            return Ok(format!("Ferrovia {}", env!("CARGO_PKG_VERSION")));
        }
        let output = Command::new(self.program()?).arg("--version").output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().find(|line| line.contains(|c: char| c.is_ascii_digit())).unwrap_or_default();
        Ok(line.trim().to_owned())
    }

    /// Starts it in the network namespace of the calling thread.
    pub(crate) fn start(self, setup: &Setup) -> Result<Device> {
        let folder = TempDir::new().context("make a folder for the device")?;
        let path = folder.path();
        let file = path.join("conf");
        let hold = setup.hold.unwrap_or(HOLD);
        let mut command = Command::new(self.program()?);
        let text = match self {
            Kind::Ferrovia => {
                command.arg(&file);
                ours(setup)
            }
            Kind::Bird => {
                command.arg("-f").arg("-c").arg(&file).arg("-s").arg(path.join("control"));
                bird(setup, hold)
            }
            Kind::Frr => {
                command.args(["-Z", "-S", "-n", "-P", "0", "-l"]).arg(DEVICE.to_string());
                command.arg("-f").arg(&file).arg("-i").arg(path.join("pid"));
                command.arg("--vty_socket").arg(path).args(["--log", "stdout", "--log-level", "warnings"]);
                frr(setup, hold)
            }
            Kind::Gobgp3 | Kind::Gobgp4 => {
                command.args(["-l", "warn", "--pprof-disable", "--api-hosts", API, "-f"]).arg(&file);
                gobgp(setup, hold)
            }
        };
        fs::write(&file, text).context("write the device's configuration")?;
        let log = fs::File::create(path.join("log")).context("make the device's log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.name()))?;
        Ok(Device { child, folder })
    }
}

impl Device {
    /// Memory it holds, in KiB.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let number = line.split_whitespace().next().and_then(|number| number.parse().ok());
        number.context("VmRSS is no number")
    }

    /// Processor time it has had, all its threads together.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut nanos = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
            // A thread may end in between.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// What went wrong with it, as far as its log tells.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
    }

    /// Fails where it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the device ended by itself ({status}): {}", self.log());
        }
        Ok(())
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("read {path}; is the device still there?\n{}", self.log()))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It holds nothing worth a farewell; both fail only where it has already gone.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The configuration of our speaker's example.
pub(crate) fn ours(setup: &Setup) -> String {
    let hold = setup.hold.unwrap_or(HOLD);
    let mut text =
        format!("asn = {DEVICE_AS}\nrouter_id = \"{DEVICE}\"\nlisten = [\"{DEVICE}:179\"]\napi = \"{API}\"\n");
    for peer in &setup.peers {
        let (address, asn) = (peer.address, peer.asn);
        let bfd = setup.bfd.filter(|watched| *watched == address);
        let bfd = bfd.map_or("", |_| "bfd = { interval_ms = 300, multiplier = 3 }\n");
        write(
            &mut text,
            format_args!(
                "\n[[peer]]\naddress = \"{address}\"\nasn = {asn}\npassive = true\nfamilies = [\"ipv4\"]\n\
             hold_time = {hold}\nlocal_address = \"{DEVICE}\"\n{bfd}"
            ),
        );
    }
    text
}

fn bird(setup: &Setup, hold: u16) -> String {
    let mut text = format!(
        "log stderr all;\nrouter id {DEVICE};\nprotocol device {{}}\n\
         template bgp all_in_all_out {{\n  local {DEVICE} as {DEVICE_AS};\n  passive;\n  direct;\n  hold time {hold};\n  \
         ipv4 {{ import all; export all; }};\n}}\n"
    );
    for (number, peer) in setup.peers.iter().enumerate() {
        write(
            &mut text,
            format_args!(
                "protocol bgp p{number} from all_in_all_out {{ neighbor {} as {}; }}\n",
                peer.address, peer.asn
            ),
        );
    }
    text
}

fn frr(setup: &Setup, hold: u16) -> String {
    let mut text = format!(
        "frr defaults traditional\nrouter bgp {DEVICE_AS}\n bgp router-id {DEVICE}\n no bgp ebgp-requires-policy\n"
    );
    for Identity { address, asn, .. } in &setup.peers {
        write(
            &mut text,
            format_args!(
                " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
             neighbor {address} timers {} {hold}\n",
                hold / 3
            ),
        );
        if *asn != DEVICE_AS {
            // Without zebra it knows no interfaces.
            write(&mut text, format_args!(" neighbor {address} disable-connected-check\n"));
        }
    }
    text.push_str(" address-family ipv4 unicast\n");
    for Identity { address, .. } in &setup.peers {
        write(&mut text, format_args!("  neighbor {address} activate\n"));
    }
    text.push_str(" exit-address-family\n");
    text
}

fn gobgp(setup: &Setup, hold: u16) -> String {
    let mut text = format!(
        "[global.config]\n  as = {DEVICE_AS}\n  router-id = \"{DEVICE}\"\n  port = 179\n  \
         local-address-list = [\"{DEVICE}\"]\n"
    );
    for peer in &setup.peers {
        write(
            &mut text,
            format_args!(
                "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    peer-as = {}\n  \
             [neighbors.timers.config]\n    hold-time = {hold}\n    keepalive-interval = {}\n  \
             [neighbors.transport.config]\n    passive-mode = true\n",
                peer.address,
                peer.asn,
                hold / 3
            ),
        );
    }
    text
}

/// Writing to a String cannot fail.
fn write(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

/// The address of a peer by number; the low ones are the source and the sinks.
pub(crate) fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 200, high, low)
}
