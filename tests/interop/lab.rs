//! Namespaces on one switch, a daemon in each: wiring, starting, ending by process id, freezing.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Namespace, report, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::describe::{Kind, Originated, Route, Router, State};
use crate::peers;

thread_local! {
    /// What the daemons of the running test wrote.
    static LOGS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The logs of the daemons that have ended, for a test that failed.
pub(crate) fn take_logs() -> String {
    LOGS.take()
}

/// The test passed: nobody wants to see them.
pub(crate) fn forget_logs() {
    drop(LOGS.take());
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How long a session may take to come up, and a route to arrive. Nothing waits longer than it must.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// A switch with named namespaces on it: number `n` has 10.77.0.n and fd77::n on `eth0`.
#[derive(Debug)]
pub(crate) struct Lab {
    prefix: String,
    names: Vec<String>,
    pub directory: PathBuf,
}

impl Lab {
    /// One namespace for each name, numbered from 1.
    pub(crate) fn new(names: &[&str]) -> Result<Lab> {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("i{}-{count}-", std::process::id());
        let directory = std::env::temp_dir().join(format!("ferrovia-interop-{}-{count}", std::process::id()));
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(["sw".to_owned()]).collect();
        let lab = Lab { prefix, names, directory };
        let full: Vec<String> = lab.names.iter().map(|name| lab.full(name)).collect();
        Namespace::create(&full)?;
        let mut lines = String::from("link add lan type bridge forward_delay 0\nlink set lan up\n");
        for name in &lab.names[..lab.names.len() - 1] {
            lines += &format!("link add {name} type veth peer name eth0 netns {}\n", lab.full(name));
            lines += &format!("link set {name} master lan up\n");
        }
        lab.ns("sw")?.ip(&lines)?;
        for (name, number) in lab.names[..lab.names.len() - 1].iter().zip(1u8..) {
            let ns = lab.ns(name)?;
            // Duplicate address detection would hold IPv6 back for seconds; there are no duplicates here.
            ns.set_sysctls(&[("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/eth0/accept_dad", "0")])?;
            ns.ip(&format!(
                "link set lo up\nlink set eth0 up\naddr add 10.77.0.{number}/24 dev eth0\naddr add fd77::{number}/64 dev \
                 eth0 nodad\n"
            ))?;
        }
        Ok(lab)
    }

    /// A namespace that is on no switch.
    pub(crate) fn extra(&self, name: &str) -> Result<Namespace> {
        let full = self.full(name);
        Namespace::create(std::slice::from_ref(&full))?;
        // Its veth goes with the namespace, and so does whatever is named after this lab.
        self.ns(name)
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn ns(&self, name: &str) -> Result<Namespace> {
        Namespace::open(&self.full(name))
    }

    /// Takes the cable of one namespace out or plugs it in again.
    pub(crate) fn cable(&self, name: &str, plugged: bool) -> Result<()> {
        self.ns("sw")?.ip(&format!("link set {name} {}\n", if plugged { "up" } else { "down" }))
    }

    /// Starts a daemon.
    pub(crate) fn start(&self, name: &str, kind: Kind, router: Router) -> Result<Running> {
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory)?;
        // FRR's daemons run as a user of their own.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        let ns = self.ns(name)?;
        let mut running = Running { kind, ns, directory, router, children: Vec::new(), name: name.to_owned() };
        running.launch()?;
        Ok(running)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = all.filter_map(|entry| entry.file_name().into_string().ok());
        let there: Vec<String> = names.filter(|name| name.starts_with(&self.prefix)).collect();
        if let Err(error) = Namespace::delete(&there) {
            report(&format!("a namespace is left behind: {error:#}"));
        }
        if std::thread::panicking() && std::env::var_os("FERROVIA_INTEROP_KEEP").is_some() {
            report(&format!("kept: {}", self.directory.display()));
            return;
        }
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// A daemon that was started. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    pub kind: Kind,
    pub name: String,
    pub ns: Namespace,
    pub directory: PathBuf,
    pub router: Router,
    children: Vec<(String, Child)>,
}

impl Running {
    fn launch(&mut self) -> Result<()> {
        match self.kind {
            Kind::Bird1 | Kind::Bird2 => peers::bird::launch(self),
            Kind::Frr => peers::frr::launch(self),
            Kind::Gobgp3 | Kind::Gobgp4 => peers::gobgp::launch(self),
            Kind::Ours => peers::ours::launch(self),
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Starts one process of it.
    pub(crate) fn spawn(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let short = program.rsplit('/').next().unwrap_or(program).to_owned();
        let log = self.directory.join(format!("{short}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("FERROVIA_LOG", "ferrovia=debug,info")
            .env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = self.ns.run(|| command.spawn().with_context(|| format!("start {program}")))?;
        self.children.push((short, child));
        Ok(())
    }

    /// Fails where a process of it has ended.
    pub(crate) fn alive(&mut self) -> Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended: {status}\n{}", log_end(&self.directory.join(format!("{name}.log"))));
            }
        }
        Ok(())
    }

    /// Waits for something, but not for a daemon that has ended.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Running) -> Result<T>,
    ) -> Result<T> {
        wait::until(what, limit, || match self.alive() {
            Ok(()) => look(self).map(Ok),
            Err(ended) => Ok(Err(ended)),
        })?
    }

    /// Runs a tool in its namespace.
    pub(crate) fn tool(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().ok_or_else(|| anyhow!("no words"))?;
        let output = self.ns.run(|| {
            let mut command = Command::new(program);
            command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
            command.output().with_context(|| format!("start {program}"))
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("`{}` failed: {}{text}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        for (name, child) in &self.children {
            kill_process(Pid::from_child(child), signal).with_context(|| format!("signal {name}"))?;
        }
        Ok(())
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) -> Result<()> {
        for (_, mut child) in self.children.drain(..).rev() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP: the process is there and says nothing.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Starts it again after [`Running::kill`], with `router` as it is now.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.launch()
    }

    /// What it says of its session number `session`.
    pub(crate) fn state(&self, session: usize) -> Result<State> {
        match self.kind {
            Kind::Bird1 | Kind::Bird2 => peers::bird::state(self, session),
            Kind::Frr => peers::frr::state(self, session),
            Kind::Gobgp3 | Kind::Gobgp4 | Kind::Ours => peers::gobgp::state(self, session),
        }
    }

    /// Everything it has learned from others.
    pub(crate) fn routes(&self, family: Family) -> Result<Vec<Route>> {
        match self.kind {
            Kind::Bird1 | Kind::Bird2 => peers::bird::routes(self, family),
            Kind::Frr => peers::frr::routes(self, family),
            Kind::Gobgp3 | Kind::Gobgp4 | Kind::Ours => peers::gobgp::routes(self, family),
        }
    }

    /// Originates one more route.
    pub(crate) fn announce(&mut self, route: Originated) -> Result<()> {
        self.router.routes.push(route.clone());
        match self.kind {
            Kind::Bird1 | Kind::Bird2 => peers::bird::reload(self),
            Kind::Frr => peers::frr::announce(self, &route),
            Kind::Gobgp3 | Kind::Gobgp4 => peers::gobgp::announce(self, &route),
            Kind::Ours => peers::ours::reload(self),
        }
    }

    /// Originates one route less: the one with this prefix and next hop.
    pub(crate) fn withdraw(&mut self, prefix: &str, next_hop: Option<&str>) -> Result<()> {
        let next_hop: Option<IpAddr> = next_hop.map(str::parse).transpose()?;
        let gone = self.router.routes.iter().position(|r| r.prefix.to_string() == prefix && r.next_hop == next_hop);
        let gone = self.router.routes.remove(gone.ok_or_else(|| anyhow!("{prefix} is not originated"))?);
        match self.kind {
            Kind::Bird1 | Kind::Bird2 => peers::bird::reload(self),
            Kind::Frr => peers::frr::withdraw(self, &gone),
            Kind::Gobgp3 | Kind::Gobgp4 => peers::gobgp::withdraw(self, &gone),
            Kind::Ours => peers::ours::reload(self),
        }
    }

    /// Waits until session number `session` is up.
    pub(crate) fn up(&mut self, session: usize) -> Result<State> {
        let what = format!("session {session} of {} ({}) up", self.name, self.kind);
        self.until(&what, SOON, |this| {
            let state = this.state(session)?;
            if state.up { Ok(state) } else { bail!("{}", state.text) }
        })
    }

    /// Waits until it is down.
    pub(crate) fn down(&self, session: usize, limit: Duration) -> Result<()> {
        wait::until_true(&format!("session {session} of {} ({}) down", self.name, self.kind), limit, || {
            Ok(!self.state(session)?.up)
        })
    }

    /// Waits until its learned routes of a prefix please `check`.
    pub(crate) fn learns(&self, prefix: &str, check: impl Fn(&[Route]) -> bool) -> Result<Vec<Route>> {
        self.learns_within(prefix, SOON, check)
    }

    pub(crate) fn learns_within(
        &self,
        prefix: &str,
        limit: Duration,
        check: impl Fn(&[Route]) -> bool,
    ) -> Result<Vec<Route>> {
        let family = if prefix.contains(':') { Family::V6 } else { Family::V4 };
        wait::until(&format!("{prefix} as wanted in {} ({})", self.name, self.kind), limit, || {
            let mut all = self.routes(family)?;
            all.retain(|route| route.prefix == prefix);
            if check(&all) { Ok(all) } else { bail!("it has {all:#?}") }
        })
    }

    /// Waits until it has learned exactly one path for a prefix.
    pub(crate) fn one(&self, prefix: &str) -> Result<Route> {
        let mut all = self.learns(prefix, |routes| routes.len() == 1)?;
        all.pop().ok_or_else(|| anyhow!("none"))
    }

    /// Waits until it has no path for a prefix.
    pub(crate) fn none(&self, prefix: &str) -> Result<()> {
        self.learns(prefix, <[Route]>::is_empty).map(drop)
    }

    /// The end of everything its processes wrote.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log" || extension == "conf") {
                text += &format!("--- {} {} ---\n{}\n", self.name, entry.path().display(), log_end(&entry.path()));
            }
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whether the test failed is known only later.
        LOGS.with_borrow_mut(|logs| *logs += &self.logs());
        for (_, mut child) in self.children.drain(..).rev() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn log_end(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
