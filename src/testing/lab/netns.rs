//! Network namespaces: running code, opening sockets and starting programs inside one.
//!
//! A socket stays in the namespace it was made in, and a process inherits the namespace of the thread that starts
//! it. So everything here is a short-lived thread that enters the namespace, does one thing and ends: no thread of
//! the caller ever changes its own namespace.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a tool (`ip`, `ipvsadm`, `nft`) may take before it is killed.
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// A named network namespace, as `ip netns` knows it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// Makes one namespace for each name, in one `ip` call.
    ///
    /// # Errors
    /// Where a name is taken or the caller is not root.
    pub fn create(names: &[String]) -> Result<Vec<Namespace>> {
        let lines: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        ip_batch(&lines).context("make network namespaces")?;
        names.iter().map(|name| Namespace::open(name)).collect()
    }

    /// A namespace that exists.
    ///
    /// # Errors
    /// Where `/run/netns/NAME` cannot be opened.
    pub fn open(name: &str) -> Result<Namespace> {
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("open network namespace {path}"))?;
        Ok(Namespace { name: Arc::from(name), file: Arc::new(file) })
    }

    /// Removes the names; the kernel drops each namespace when its last socket and process are gone.
    ///
    /// # Errors
    /// Where `ip` refuses.
    pub fn delete(names: &[String]) -> Result<()> {
        let lines: String = names.iter().map(|name| format!("netns del {name}\n")).collect();
        ip_batch(&lines).context("remove network namespaces")
    }

    /// The name `ip netns` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `task` on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// Where the namespace cannot be entered, or `task` says so.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter network namespace {}", self.name))?;
                task()
            });
            match entered.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a program inside; `line` is split at white space. Its output whatever its status.
    ///
    /// # Errors
    /// Where it cannot be started or does not end in time.
    pub fn output(&self, line: &str) -> Result<Output> {
        self.run(|| tool(line, ""))
    }

    /// Runs a program inside and returns what it printed.
    ///
    /// # Errors
    /// Where it cannot be started, does not end in time, or fails; with its error output.
    pub fn command(&self, line: &str) -> Result<String> {
        self.run(|| succeeded(line, tool(line, "")?)).with_context(|| format!("in namespace {}", self.name))
    }

    /// The same, with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Namespace::command`].
    pub fn feed(&self, line: &str, input: &str) -> Result<String> {
        self.run(|| succeeded(line, tool(line, input)?))
            .with_context(|| format!("in namespace {}, given:\n{input}", self.name))
    }

    /// Runs lines of `ip -batch` inside: one program start for any number of changes.
    ///
    /// # Errors
    /// At the first line `ip` refuses.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.feed("ip -batch -", lines).map(drop)
    }

    /// Reads a kernel setting of the namespace; `key` is a path below `/proc/sys`.
    ///
    /// # Errors
    /// Where this kernel has no such setting.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        self.run(|| {
            let path = format!("/proc/sys/{key}");
            Ok(std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?.trim().to_owned())
        })
    }

    /// Writes kernel settings of the namespace.
    ///
    /// # Errors
    /// At the first one this kernel lacks or refuses.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{key}");
                std::fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
            }
            Ok(())
        })
    }
}

/// `ip -batch` in the namespace of the caller.
fn ip_batch(lines: &str) -> Result<()> {
    succeeded("ip -batch -", tool("ip -batch -", lines)?).map(drop)
}

/// What a program printed, or an error with what it complained about.
fn succeeded(line: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program in the namespace of the calling thread, within [`TOOL_LIMIT`].
fn tool(line: &str, input: &str) -> Result<Output> {
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else { bail!("an empty command") };
    let mut child = Command::new(program)
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{line}`"))?;
    let pid = Pid::from_child(&child);
    let input = input.to_owned();
    let stdin = child.stdin.take();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        // Fed from its own thread: a program that prints while it reads must not wait for us.
        let feeding = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let output = child.wait_with_output();
        // A program that ended without reading everything breaks the pipe; its status tells, not the pipe.
        drop(feeding.join());
        send.send(output)
    });
    match receive.recv_timeout(TOOL_LIMIT) {
        Ok(output) => output.with_context(|| format!("wait for `{line}`")),
        Err(_) => {
            let killed = kill_process(pid, Signal::KILL);
            bail!("`{line}` did not end within {TOOL_LIMIT:?} (kill: {killed:?})")
        }
    }
}
