//! The real daemon, run in a node's namespace.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Namespace, Node, report, topology, traffic, wait};

/// How long a start, a stop or an answer may take.
const LIMIT: Duration = Duration::from_secs(60);
/// One HTTP question to the daemon.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// How to run it.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// More flags, after the lab's own.
    pub flags: Vec<String>,
    /// Environment variables to set.
    pub environment: Vec<(String, String)>,
    /// True to hide `/lib/modules` from it, as in a container without that mount.
    pub without_modules: bool,
}

impl Default for DaemonOptions {
    fn default() -> DaemonOptions {
        let environment = vec![("RUST_LOG".into(), "ferrovia=debug,info".into())];
        DaemonOptions { flags: Vec::new(), environment, without_modules: false }
    }
}

impl DaemonOptions {
    /// The lab's defaults and these flags.
    pub fn with(flags: &[&str]) -> DaemonOptions {
        DaemonOptions { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..DaemonOptions::default() }
    }
}

/// A running (or ended) daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    node: String,
    ns: Namespace,
    log: PathBuf,
    socket: PathBuf,
}

/// The binary under test: `FERROVIA_BIN`, else the debug build beside the running program.
///
/// # Errors
/// Where there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERROVIA_BIN") {
        return Ok(PathBuf::from(path));
    }
    let program = std::env::current_exe().context("find the running program")?;
    // target/debug/deps/vm-…, target/debug/examples/demo: the binary is two levels up.
    let candidate = program.ancestors().nth(2).map(|directory| directory.join("ferrovia"));
    candidate
        .filter(|path| path.is_file())
        .ok_or_else(|| anyhow!("no ferrovia binary: build it, or name it in FERROVIA_BIN"))
}

impl Daemon {
    /// The flags the lab always gives.
    pub fn flags(node: &str, manifests: &Path, directory: &Path) -> Vec<String> {
        let range = |ranges: [&str; 2]| ranges.join(",");
        vec![
            "--run-service-proxy=true".into(),
            "--run-router=false".into(),
            "--run-firewall=false".into(),
            "--enable-ipv6=true".into(),
            format!("--service-cluster-ip-range={}", range(topology::CLUSTER_RANGES)),
            format!("--service-external-ip-range={}", range(topology::EXTERNAL_RANGES)),
            format!("--loadbalancer-ip-range={}", range(topology::LOAD_BALANCER_RANGES)),
            format!("--manifests={}", manifests.display()),
            format!("--hostname-override={node}"),
            "--health-port=20244".into(),
            "--metrics-port=8080".into(),
            format!("--admin-socket={}", directory.join(format!("{node}.sock")).display()),
            format!("--state-dir={}", directory.join(format!("{node}.state")).display()),
        ]
    }

    /// Starts it; [`Daemon::wait_ready`] waits for it.
    pub(super) fn start(node: &Node, manifests: &Path, directory: &Path, options: &DaemonOptions) -> Result<Daemon> {
        let binary = binary()?;
        let log = directory.join(format!("{}.log", node.name));
        std::fs::create_dir_all(directory.join(format!("{}.state", node.name)))?;
        let out =
            File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let mut command = if options.without_modules {
            let mut command = Command::new("unshare");
            let hide = "mount -t tmpfs none /lib/modules && exec \"$@\"";
            command.args(["--mount", "sh", "-c", hide, "sh"]).arg(&binary);
            command
        } else {
            Command::new(&binary)
        };
        command
            .args(Daemon::flags(&node.name, manifests, directory))
            .args(&options.flags)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let child = node.ns.run(|| command.spawn().with_context(|| format!("start {}", binary.display())))?;
        Ok(Daemon {
            child: Some(child),
            node: node.name.clone(),
            ns: node.ns.clone(),
            log,
            socket: directory.join(format!("{}.sock", node.name)),
        })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it ends or takes too long; with the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let result = wait::until(&format!("{} ready", self.node), LIMIT, || {
            if let Some(status) = self.try_status()? {
                return Ok(Err(anyhow!("the daemon on {} ended ({status}) before it was ready", self.node)));
            }
            match self.health("/readyz")? {
                (200, _) => Ok(Ok(())),
                (status, body) => bail!("/readyz answers {status}: {}", body.trim()),
            }
        });
        result.and_then(|ended| ended).with_context(|| format!("log of {}:\n{}", self.node, self.log_end()))
    }

    /// Asks its health port.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn health(&self, path: &str) -> Result<(u16, String)> {
        traffic::get(&self.ns, SocketAddr::from(([127, 0, 0, 1], 20244)), path, ASK_LIMIT)
    }

    /// Its metrics page.
    ///
    /// # Errors
    /// Where nobody answers, or not with 200.
    pub fn metrics(&self) -> Result<String> {
        match traffic::get(&self.ns, SocketAddr::from(([127, 0, 0, 1], 8080)), "/metrics", ASK_LIMIT)? {
            (200, page) => Ok(page),
            (status, body) => bail!("/metrics answers {status}: {body}"),
        }
    }

    /// The sum of all samples of one metric whose labels contain all of `labels` (as `name="value"`).
    ///
    /// # Errors
    /// Where the page cannot be had.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(sum(&self.metrics()?, name, labels))
    }

    /// Asks its admin socket.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        let mut stream =
            UnixStream::connect(&self.socket).with_context(|| format!("connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(ASK_LIMIT))?;
        traffic::exchange(&mut stream, path)
    }

    /// Its process number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// Where it was already stopped by us.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().ok_or_else(|| anyhow!("the daemon was already stopped"))?;
        Ok(child.try_wait()?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// Where it does not.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let status = wait::until(&format!("end of the daemon on {}", self.node), LIMIT, || {
            self.try_status()?.ok_or_else(|| anyhow!("it runs"))
        });
        let status = status.with_context(|| format!("log:\n{}", self.log_end()))?;
        self.child = None;
        Ok(status)
    }

    /// Asks it to stop (SIGTERM) and waits.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_end()
    }

    /// Kills it where it stands (SIGKILL).
    ///
    /// # Errors
    /// Where it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_end().map(drop)
    }

    /// Sends a signal.
    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().ok_or_else(|| anyhow!("the daemon was already stopped"))?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("signal the daemon on {}", self.node))
    }

    /// Everything it logged, over all starts in this node.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        // Whoever reads a log wants what is there; an unreadable one is an empty one.
        drop(File::open(&self.log).and_then(|mut file| file.read_to_end(&mut bytes)));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its log.
    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&format!("--- log of the daemon on {} ---\n{}", self.node, self.log_end()));
        }
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Adds up samples of the Prometheus text format.
fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let values = samples.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
        (metric == name && labels.iter().all(|label| rest.contains(label))).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

/// Runs the daemon once in a node to its end, for `--cleanup-config` and the like: status and output.
///
/// # Errors
/// Where it cannot be started or does not end in time.
pub fn run_once(ns: &Namespace, arguments: &[String]) -> Result<(ExitStatus, String)> {
    let binary = binary()?;
    let mut line = binary.display().to_string();
    for argument in arguments {
        line.push(' ');
        line.push_str(argument);
    }
    let output = ns.output(&line)?;
    let mut text = Vec::new();
    text.write_all(&output.stdout)?;
    text.write_all(&output.stderr)?;
    Ok((output.status, String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_the_named_labels() {
        let page = "# TYPE a counter\na_total{room=\"proxy\",op=\"x\"} 2\na_total{room=\"bgp\"} 5\na_total{room=\"proxy\"} 1\nb 7\n";
        assert_eq!(sum(page, "a_total", &["room=\"proxy\""]), 3.0);
        assert_eq!(sum(page, "a_total", &[]), 8.0);
        assert_eq!(sum(page, "b", &[]), 7.0);
        assert_eq!(sum(page, "c", &[]), 0.0);
    }
}
