//! GoBGP, as the other side of a session and as the client whose tables ours are compared with.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Namespace, Program, wait};

/// Where its administration port is; apart from the one of the daemon under test.
const PORT: u16 = 50052;
/// How long it may take to answer after its start.
const START: Duration = Duration::from_secs(30);

/// A running `gobgpd`.
#[derive(Debug)]
pub struct Gobgpd {
    program: Program,
    ns: Namespace,
}

impl Gobgpd {
    /// Starts it with this configuration (TOML) and waits until it answers.
    ///
    /// # Errors
    /// Where it is missing or does not take the file.
    pub fn start(ns: &Namespace, name: &str, directory: &Path, file: &str) -> Result<Gobgpd> {
        let path = directory.join(format!("{name}.toml"));
        std::fs::write(&path, file)?;
        let (path, api) = (path.display().to_string(), format!("127.0.0.1:{PORT}"));
        let command = ["gobgpd", "-f", &path, "--api-hosts", &api, "--pprof-disable"];
        let mut gobgpd = Gobgpd { program: Program::start(ns, name, directory, &command)?, ns: ns.clone() };
        wait::until(&format!("{name} answers"), START, || {
            if !gobgpd.program.is_running()? {
                return Ok(Err(anyhow::anyhow!("{name} ended: {}", gobgpd.program.log())));
            }
            gobgpd.ask("global").map(Ok)
        })??;
        Ok(gobgpd)
    }

    /// What `gobgp COMMAND` says.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn ask(&self, command: &str) -> Result<String> {
        self.ns.command(&format!("gobgp -p {PORT} {command}"))
    }

    /// Originates a prefix with a next hop.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn announce(&self, prefix: &str, next_hop: IpAddr, identifier: u32) -> Result<()> {
        let said = self.ask(&format!("global rib add {prefix} identifier {identifier} nexthop {next_hop}"))?;
        ensure!(said.trim().is_empty(), "{said}");
        Ok(())
    }

    /// Takes it back.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn withdraw(&self, prefix: &str, next_hop: IpAddr, identifier: u32) -> Result<()> {
        self.ask(&format!("global rib del {prefix} identifier {identifier} nexthop {next_hop}")).map(drop)
    }

    /// The running program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn stop(self) -> Result<()> {
        self.program.stop()
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    /// Where it has ended already.
    pub fn kill(self) -> Result<()> {
        self.program.kill()
    }
}
