//! BIRD, the edge router of the labs: version 1.6 (unpacked, see [`Version::One`]) and version 2 (installed).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{Namespace, Program, wait};

/// How long it may take to answer after its start.
const START: Duration = Duration::from_secs(20);

/// Which BIRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.6, which cannot be installed beside 2: `cargo xtask setup` unpacks it below `~/.cache/ferrovia/tools/bird1`.
    One,
    /// 2, as Debian installs it.
    Two,
}

impl Version {
    /// Both.
    pub const ALL: [Version; 2] = [Version::One, Version::Two];

    /// The path of one of its programs.
    fn program(self, name: &str) -> Result<PathBuf> {
        if self == Version::Two {
            return Ok(PathBuf::from("/usr/sbin").join(name));
        }
        // As `cargo xtask setup` has it: named, or beside the cache of kernels.
        let named = std::env::var_os("FERROVIA_TOOLS").map(PathBuf::from);
        let beside = || Some(PathBuf::from(std::env::var_os("FERROVIA_VM_CACHE")?).parent()?.join("tools"));
        let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ferrovia/tools"));
        let root = named.or_else(beside).or_else(usual).map(|tools| tools.join("bird1"));
        let path = root.map(|root| root.join("usr/sbin").join(name));
        path.filter(|path| path.is_file()).ok_or_else(|| anyhow!("BIRD 1.6 is not unpacked: run `cargo xtask setup`"))
    }
}

/// A running BIRD.
#[derive(Debug)]
pub struct Bird {
    program: Option<Program>,
    ns: Namespace,
    name: String,
    directory: PathBuf,
    version: Version,
}

/// One way to a prefix in the kernel's routing table: gateway and device.
pub type KernelHop = String;

impl Bird {
    /// Starts BIRD with this configuration and waits until it answers.
    ///
    /// # Errors
    /// Where it is missing or does not take the file.
    pub fn start(ns: &Namespace, name: &str, directory: &Path, version: Version, file: &str) -> Result<Bird> {
        let mut bird =
            Bird { program: None, ns: ns.clone(), name: name.to_owned(), directory: directory.to_owned(), version };
        std::fs::write(bird.path("conf"), file)?;
        bird.begin()?;
        Ok(bird)
    }

    /// Starts it again, with the file it has.
    ///
    /// # Errors
    /// As [`Bird::start`].
    pub fn begin(&mut self) -> Result<()> {
        let (program, file, socket, pid) =
            (self.version.program("bird")?, self.path("conf"), self.path("ctl"), self.path("pid"));
        let [program, file, socket, pid] = [&program, &file, &socket, &pid].map(|path| path.display().to_string());
        let command = [program.as_str(), "-d", "-c", &file, "-s", &socket, "-P", &pid];
        self.program = Some(Program::start(&self.ns, &self.name, &self.directory, &command)?);
        wait::until(&format!("{} answers", self.name), START, || {
            let program = self.program.as_mut().ok_or_else(|| anyhow!("not started"))?;
            if !program.is_running()? {
                return Ok(Err(anyhow!("{} ended: {}", self.name, program.log())));
            }
            self.ask("show status").map(Ok)
        })??;
        Ok(())
    }

    /// Ends it in order: sessions are closed with a notification, its kernel routes go.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn stop(&mut self) -> Result<()> {
        self.program.take().ok_or_else(|| anyhow!("{} does not run", self.name))?.stop()
    }

    /// Kills it where it stands: its kernel routes stay.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.program.take().ok_or_else(|| anyhow!("{} does not run", self.name))?.kill()
    }

    /// The running program.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn program(&self) -> Result<&Program> {
        self.program.as_ref().ok_or_else(|| anyhow!("{} does not run", self.name))
    }

    /// Gives it another file and lets it take over the difference (`birdc configure`).
    ///
    /// # Errors
    /// Where it refuses the file.
    pub fn configure(&self, file: &str) -> Result<()> {
        std::fs::write(self.path("conf"), file)?;
        let said = self.ask("configure")?;
        ensure!(said.contains("Reconfigured") || said.contains("Reconfiguration in progress"), "{said}");
        Ok(())
    }

    /// Only reads a file, to see whether this version takes it (`bird -p`).
    ///
    /// # Errors
    /// What it complains about.
    pub fn parse(ns: &Namespace, directory: &Path, version: Version, file: &str) -> Result<()> {
        let path = directory.join("parse.conf");
        std::fs::write(&path, file)?;
        let program = version.program("bird")?;
        let output = ns.output(&format!("{} -p -c {}", program.display(), path.display()))?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// The command line that asks it, as somebody would type it.
    pub fn command(&self, command: &str) -> Result<String> {
        Ok(format!("{} -s {} {command}", self.version.program("birdc")?.display(), self.path("ctl").display()))
    }

    /// What `birdc COMMAND` says.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn ask(&self, command: &str) -> Result<String> {
        self.ns.command(&self.command(command)?)
    }

    /// The state of a BGP session: the last words of its line in `show protocols` (`Established`, `Active  Socket:
    /// Connection refused`).
    ///
    /// # Errors
    /// Where there is no such protocol.
    pub fn session(&self, protocol: &str) -> Result<String> {
        let listing = self.ask("show protocols")?;
        let line = listing.lines().find(|line| line.split_whitespace().next() == Some(protocol));
        let line = line.with_context(|| format!("no protocol {protocol} in\n{listing}"))?;
        // name proto table state since info…
        Ok(line.split_whitespace().skip(5).collect::<Vec<_>>().join(" "))
    }

    /// Waits until a session is established.
    ///
    /// # Errors
    /// Where it is not within `limit`.
    pub fn wait_established(&self, protocol: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("{}: {protocol} is established", self.name), limit, || {
            let state = self.session(protocol)?;
            ensure!(state.starts_with("Established"), "it is {state:?}");
            Ok(())
        })
    }

    /// The next hops of every path to a prefix in its table, with duplicates, sorted.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn next_hops(&self, prefix: &str) -> Result<Vec<String>> {
        let listing = match self.ask(&format!("show route {prefix}")) {
            Ok(listing) => listing,
            Err(error) if format!("{error:#}").contains("Network not") => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // 1.6 writes `PREFIX via ADDRESS on eth0 […]`, 2 writes the `via` on a line of its own.
        let words: Vec<&str> = listing.split_whitespace().collect();
        let hops =
            words.windows(2).filter_map(|pair| if let ["via", hop] = pair { Some((*hop).to_owned()) } else { None });
        let mut hops: Vec<String> = hops.collect();
        hops.sort();
        Ok(hops)
    }

    /// A file of this BIRD.
    fn path(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.name))
    }
}

/// The next hops of a route in a namespace's kernel, sorted; empty where there is none. Both forms of `ip route` are
/// read: one `via` in the line, or several `nexthop via` below it.
///
/// # Errors
/// Where `ip` fails.
pub fn kernel_next_hops(ns: &Namespace, prefix: &str) -> Result<Vec<KernelHop>> {
    let family = if prefix.contains(':') { "-6 " } else { "" };
    let listing = ns.command(&format!("ip {family}route show {prefix}"))?;
    let words: Vec<&str> = listing.split_whitespace().collect();
    let hops = words.windows(2).filter_map(|pair| if let ["via", hop] = pair { Some((*hop).to_owned()) } else { None });
    let mut hops: Vec<KernelHop> = hops.collect();
    hops.sort();
    Ok(hops)
}

/// Waits until the kernel of a namespace has exactly these next hops for a prefix.
///
/// # Errors
/// Where it has not within `limit`.
pub fn wait_kernel_next_hops(ns: &Namespace, prefix: &str, hops: &[&str], limit: Duration) -> Result<()> {
    let mut wanted: Vec<String> = hops.iter().map(|hop| (*hop).to_owned()).collect();
    wanted.sort();
    wait::until(&format!("{}: {prefix} leads to {wanted:?}", ns.name()), limit, || {
        let hops = kernel_next_hops(ns, prefix)?;
        if hops != wanted {
            bail!("it leads to {hops:?}");
        }
        Ok(())
    })
}
