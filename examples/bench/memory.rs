//! How much memory the daemon itself takes: the real program, fed from an API server or from a folder.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrovia::testing::lab::daemon::binary;
use serde_json::Value;

use super::api_server::{ApiServer, Lists};
use super::cluster::ENDPOINTS;
use super::objects::{N_PODS, node, pod, service, slice};
use super::place::fresh;
use super::scenarios::N_SERVICES;
use super::standin::FLAG;
use super::table::Row;

/// Objects of one file.
const FILE: usize = 500;
/// What the daemon may keep resident, MiB.
const BAR: f64 = 80.0;
/// Reading all those objects takes a while in an emulated guest.
const LIMIT: Duration = Duration::from_secs(900);
/// Between two looks at the kernel, each of which costs the guest as much as a good part of the daemon's own work.
const PAUSE: Duration = Duration::from_secs(3);
/// How long the daemon is left alone before its settled size is read.
const SETTLE: Duration = Duration::from_secs(5);

/// The daemon against an API server, with streamed and with paged lists.
pub(crate) fn from_an_api_server(_repetitions: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (lists, words) in [(Lists::Streamed, "streamed lists"), (Lists::Paged, "paged lists")] {
        let sizes = fresh(|| {
            let server = ApiServer::start(lists)?;
            measure(&[format!("--master=http://{}", server.address)])
        })?;
        rows.push(sizes.row(&format!("API server, {words}")));
    }
    Ok(rows)
}

/// Front door and room without a kernel, natively, with streamed and with paged lists.
pub(crate) fn of_a_stand_in(_repetitions: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (lists, words) in [(Lists::Streamed, "streamed lists"), (Lists::Paged, "paged lists")] {
        let server = ApiServer::start(lists)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([FLAG, &format!("http://{}", server.address)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the stand-in")?;
        let output = child.stdout.take().context("the stand-in has no output")?;
        let daemon = Daemon(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "in force", "the stand-in ended: {line:?}");
        let Sizes { settled, anonymous, peak } = Sizes::of(&daemon)?;
        rows.push(Row::note(
            &format!("… front door and room without a kernel, native: {words}"),
            format!("{settled:.0} MiB ({anonymous:.0} MiB anonymous); peak {peak:.0} MiB"),
        ));
    }
    Ok(rows)
}

/// The daemon on a folder of manifests.
pub(crate) fn from_a_folder(_repetitions: usize) -> Result<Vec<Row>> {
    let folder = std::env::temp_dir().join("ferrovia-bench-manifests");
    std::fs::create_dir_all(&folder)?;
    write(&folder, "node", &[node()])?;
    for first in (0..N_PODS).step_by(FILE) {
        write(&folder, &format!("pods-{first}"), &(first..first + FILE).map(pod).collect::<Vec<_>>())?;
    }
    for first in (0..N_SERVICES).step_by(FILE) {
        let objects: Vec<Value> = (first..first + FILE).flat_map(|index| [service(index), slice(index)]).collect();
        write(&folder, &format!("services-{first}"), &objects)?;
    }
    let sizes = fresh(|| measure(&[format!("--manifests={}", folder.display())]))?;
    std::fs::remove_dir_all(&folder)?;
    Ok(vec![sizes.row("folder of YAML")])
}

/// One file with these documents.
fn write(folder: &Path, name: &str, objects: &[Value]) -> Result<()> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
    }
    std::fs::write(folder.join(format!("{name}.yaml")), text).context("write a manifest")
}

/// What the daemon took, MiB.
struct Sizes {
    settled: f64,
    /// Of that, memory of its own: neither its program file nor libraries.
    anonymous: f64,
    peak: f64,
}

impl Sizes {
    /// Of a process, once it has settled.
    fn of(daemon: &Daemon) -> Result<Sizes> {
        std::thread::sleep(SETTLE);
        let status = format!("/proc/{}/status", daemon.0.id());
        let status = std::fs::read_to_string(&status).with_context(|| format!("read {status}"))?;
        Ok(Sizes {
            settled: mebibytes(&status, "VmRSS:")?,
            anonymous: mebibytes(&status, "RssAnon:")?,
            peak: mebibytes(&status, "VmHWM:")?,
        })
    }

    fn row(&self, source: &str) -> Row {
        Row::figure(
            &format!(
                "resident memory at {N_SERVICES} Services, {} endpoints, {N_PODS} pods: {source}",
                N_SERVICES * ENDPOINTS
            ),
            format!("{:.0} MiB ({:.0} MiB anonymous); peak {:.0} MiB", self.settled, self.anonymous, self.peak),
            &format!("≤ {BAR:.0} MiB settled"),
            self.settled <= BAR,
        )
    }
}

/// A running daemon, ended when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts the daemon in the calling thread's namespace, waits until everything is programmed, and reads its size.
fn measure(source: &[String]) -> Result<Sizes> {
    let folder = std::env::temp_dir().join(format!("ferrovia-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let log = folder.join("log");
    let child = Command::new(binary()?)
        .args(["--run-service-proxy=true", "--run-router=false", "--run-firewall=false", "--enable-ipv6=false"])
        .args(["--service-cluster-ip-range=10.100.0.0/16", "--hostname-override=n1", "--cache-sync-timeout=15m"])
        // Pods are watched only where something needs them.
        .args(["--ipvs-graceful-termination=true", "--health-port=20244", "--metrics-port=0"])
        .arg(format!("--admin-socket={}", folder.join("socket").display()))
        .arg(format!("--state-dir={}", folder.display()))
        .args(source)
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .stderr(File::options().append(true).open(&log)?)
        .spawn()
        .context("start the daemon")?;
    let mut daemon = Daemon(child);
    let start = Instant::now();
    loop {
        std::thread::sleep(PAUSE);
        if let Some(status) = daemon.0.try_wait()? {
            bail!("the daemon ended: {status}\n{}", std::fs::read_to_string(&log)?);
        }
        let table = std::fs::read_to_string("/proc/thread-self/net/ip_vs")?;
        let n = table.lines().filter(|line| line.trim_start().starts_with("-> ") && line.contains("Masq")).count();
        if n == N_SERVICES * ENDPOINTS {
            break;
        }
        ensure!(start.elapsed() < LIMIT, "{n} real servers after {LIMIT:?}\n{}", std::fs::read_to_string(&log)?);
    }
    Sizes::of(&daemon)
}

/// A field of `/proc/PID/status`.
fn mebibytes(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{field} {line}"))?;
    Ok(kibibytes / 1024.0)
}
