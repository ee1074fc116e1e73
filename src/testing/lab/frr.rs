//! FRR, as a switch: its BGP daemon, and zebra, which brings what was learned into the kernel.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Namespace, Program, wait};

/// How long both may take to answer.
const START: Duration = Duration::from_secs(30);

/// A running FRR.
#[derive(Debug)]
pub struct Frr {
    // The one that needs the other ends first.
    _bgpd: Program,
    _zebra: Program,
    ns: Namespace,
    directory: PathBuf,
}

impl Frr {
    /// Starts zebra and bgpd with this configuration of bgpd and waits until both answer.
    ///
    /// # Errors
    /// Where they are missing or do not take the file.
    pub fn start(ns: &Namespace, name: &str, directory: &Path, file: &str) -> Result<Frr> {
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        std::fs::write(directory.join("zebra.conf"), "")?;
        std::fs::write(directory.join("bgpd.conf"), file)?;
        // The daemons drop root's privileges and still want their sockets here.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        let launch = |daemon: &str| {
            let path = |extension: &str| directory.join(format!("{daemon}.{extension}")).display().to_string();
            let (program, folder) = (format!("/usr/lib/frr/{daemon}"), directory.display().to_string());
            let (file, pid, zserv) = (path("conf"), path("pid"), directory.join("zserv.api").display().to_string());
            let mut command = vec![program.as_str(), "-f", &file, "-i", &pid, "-z", &zserv, "--vty_socket", &folder];
            command.extend(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
            Program::start(ns, &format!("{name}-{daemon}"), &directory, &command)
        };
        let zebra = launch("zebra")?;
        wait::until("zebra listens", START, || {
            ensure!(directory.join("zserv.api").exists(), "{}", zebra.log());
            Ok(())
        })?;
        let bgpd = launch("bgpd")?;
        let frr = Frr { _bgpd: bgpd, _zebra: zebra, ns: ns.clone(), directory };
        wait::until(&format!("{name} answers"), START, || frr.ask("show bgp summary").map(drop))?;
        Ok(frr)
    }

    /// What `vtysh -c COMMAND` says.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn ask(&self, command: &str) -> Result<String> {
        self.ns.run(|| {
            let mut vtysh = std::process::Command::new("vtysh");
            let output = vtysh.arg("--vty_socket").arg(&self.directory).args(["-c", command]).output();
            let output = output.context("start vtysh")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "vtysh -c \"{command}\": {text}");
            Ok(text)
        })
    }
}
