//! Foreign daemons in a namespace: started, asked for their log, frozen, stopped and killed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Namespace, report, wait};

/// How long an ordered end may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A running foreign daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// Starts `command` in a namespace; it must stay in the foreground. What it prints goes to `NAME.log` in
    /// `directory`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(ns: &Namespace, name: &str, directory: &Path, command: &[&str]) -> Result<Program> {
        let log = directory.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log);
        let out = out.with_context(|| format!("open {}", log.display()))?;
        let Some((program, arguments)) = command.split_first() else { bail!("an empty command") };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = ns.run(|| command.spawn().with_context(|| format!("start {program} in {}", ns.name())))?;
        Ok(Program { child, name: name.to_owned(), log })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Stops its threads where they stand: sockets stay open, nothing is answered.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// Where the kernel cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// Where it does not.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let name = self.name.clone();
        wait::until_true(&format!("{name} ends"), LIMIT, || Ok(!self.is_running()?))
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    /// Where it has ended already.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        // Whoever reads a log wants what is there; an unreadable one is an empty one.
        drop(File::open(&self.log).and_then(|mut file| file.read_to_end(&mut bytes)));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n");
            report(&format!("--- log of {} ---\n{end}", self.name));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
