//! One command in one guest: start, streams, exit status.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::cache::RunFolder;
use super::kernel::{self, Kernel};
use super::qemu::{self, Accelerator, Machine, Start};
use super::state;
use crate::shell;

/// Where the command's streams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// Standard output and error are ours, apart and live; no input.
    Streams,
    /// The same, and standard input is passed on.
    StreamsWithInput,
    /// The command has our terminal.
    Terminal,
    /// Standard output and error both go to [`Guest::output_copy`], and nothing is shown.
    File,
    /// Nothing is shown.
    Discarded,
}

/// A command and the guest it wants.
pub(crate) struct Guest {
    pub(crate) command: Vec<OsString>,
    /// Host folders the guest may write to.
    pub(crate) write: Vec<PathBuf>,
    pub(crate) console: Console,
    /// `None` is: without limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) memory: String,
    /// QEMU's user network, in which 10.0.2.2 is the host's loopback.
    pub(crate) network: bool,
    /// Start from the state saved after boot where possible.
    pub(crate) saved_state: bool,
    /// Added to our own environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Working directory; ours if `None`.
    pub(crate) folder: Option<PathBuf>,
    /// A file of the host that gets standard output too.
    pub(crate) output_copy: Option<PathBuf>,
}

/// How an attempt ended.
pub(crate) enum Status {
    Ended(u8),
    TimedOut,
    /// Before the command began, so it may be tried again. With what QEMU and the console said.
    DiedBooting(String),
    /// After the command began.
    Died(String),
}

/// Exit status of a run that took too long, as of `timeout(1)`.
const TIMED_OUT: u8 = 124;
/// Exit status when there is no status of the command.
const DIED: u8 = 125;

/// Boots tried before giving up.
const ATTEMPTS: u32 = 3;

/// From the start of QEMU to the start of the command, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(5);

impl Guest {
    pub(crate) fn new(command: Vec<OsString>) -> Guest {
        Guest {
            command,
            write: Vec::new(),
            console: Console::Streams,
            timeout: Some(super::DEFAULT_TIMEOUT),
            memory: "2G".to_owned(),
            network: false,
            saved_state: true,
            environment: Vec::new(),
            folder: None,
            output_copy: None,
        }
    }

    pub(crate) fn machine<'a>(&'a self, kernel: &'a Kernel, accelerator: Accelerator) -> Machine<'a> {
        Machine { kernel, accelerator, memory: &self.memory, network: self.network, write: &self.write }
    }

    /// Runs the command once and returns its exit status, 124 or 125. Boots that fail are repeated; a command
    /// that has begun never is.
    pub(crate) fn run(&self) -> Result<u8> {
        let kernel = kernel::prepare()?;
        let machine = self.machine(&kernel, qemu::accelerator(&kernel)?);
        let mut saved = self.saved_state(&machine);
        for attempt in 1..=ATTEMPTS {
            let start = match &saved {
                _ if self.console == Console::Terminal => Start::Terminal,
                Some(state) => Start::From(state),
                None => Start::Cold,
            };
            match self.attempt(&machine, start)? {
                Status::Ended(status) => return Ok(status),
                Status::TimedOut => {
                    let limit = self.timeout.unwrap_or_default().as_secs();
                    eprintln!("xtask vm: ended the guest after {limit} s (--timeout)");
                    return Ok(TIMED_OUT);
                }
                Status::Died(said) => {
                    eprintln!("{said}xtask vm: the guest died before the command ended");
                    return Ok(DIED);
                }
                Status::DiedBooting(said) => eprintln!("{said}xtask vm: the guest did not boot (attempt {attempt})"),
            }
            if let Some(state) = saved.take() {
                eprintln!("xtask vm: dropping the saved state, booting afresh");
                // Removed by another run is as good.
                let _ = fs::remove_file(state);
            }
        }
        Ok(DIED)
    }

    /// Only emulated guests are worth saving, and a guest with a terminal has other devices.
    fn saved_state(&self, machine: &Machine) -> Option<PathBuf> {
        if !self.saved_state || machine.accelerator == Accelerator::Kvm || self.console == Console::Terminal {
            return None;
        }
        state::of(machine).inspect_err(|error| eprintln!("xtask vm: {error:#}; booting afresh")).ok()
    }

    /// One start of QEMU.
    pub(crate) fn attempt(&self, machine: &Machine, start: Start) -> Result<Status> {
        let run = RunFolder::new()?;
        self.leave_orders(machine.kernel, &run.path)?;
        let mut ports = Ports::listen(&run.path, start)?;
        let mut command = machine.command(&run.path, start)?;
        let said = run.path.join("qemu.log");
        let terminal = start == Start::Terminal;
        if terminal {
            command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        } else {
            let log = fs::File::create(&said)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        }
        let settings = terminal.then(TerminalSettings::save);
        let mut qemu = command.spawn().context("cannot start QEMU")?;
        let began = Instant::now();
        let limit = self.timeout.filter(|_| !terminal).map(|timeout| began + timeout);
        let result = self.attend(&mut qemu, &mut ports, &run.path, limit, began + BOOT_LIMIT);
        if let Some(settings) = settings {
            settings.restore();
        }
        let exited = match result {
            Ok(exited) => exited,
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                return Err(error);
            }
        };
        if let Some(status) = fs::read_to_string(run.path.join("status")).ok().and_then(|text| text.trim().parse().ok())
        {
            return Ok(Status::Ended(status));
        }
        if exited.is_none() && limit.is_some_and(|limit| Instant::now() >= limit) {
            return Ok(Status::TimedOut);
        }
        let words = last_words(&[said, run.path.join("console")]);
        Ok(if run.path.join("started").exists() { Status::Died(words) } else { Status::DiedBooting(words) })
    }

    /// From QEMU's start to its end: streams flow meanwhile, and are empty on return. `None`: it was ended here,
    /// because of a limit.
    fn attend(
        &self,
        qemu: &mut Child,
        ports: &mut Ports,
        run: &Path,
        limit: Option<Instant>,
        boot_limit: Instant,
    ) -> Result<Option<ExitStatus>> {
        ports.accept(qemu, boot_limit)?;
        if let Ok(mut control) = ports.connected("ctl") {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            // A guest that is gone already shows itself below.
            let _ = writeln!(control, "{now}");
        }
        let readers = self.readers(ports, &end_mark(run))?;
        let started = run.join("started");
        let first_limit = limit.map_or(boot_limit, |limit| limit.min(boot_limit));
        let mut exited = None;
        while exited.is_none() && !started.exists() && Instant::now() < first_limit {
            exited = qemu.try_wait()?;
            thread::sleep(POLL);
        }
        if exited.is_none() && started.exists() {
            if let Some(input) = ports.take("in").filter(|_| self.console == Console::StreamsWithInput) {
                // Not joined: it may wait for a key long after the command ended.
                thread::spawn(move || pass_input(&input));
            }
            exited = await_exit(qemu, limit)?;
        }
        if exited.is_none() {
            qemu.kill()?;
            qemu.wait()?;
        }
        for reader in readers {
            // A reader does nothing that panics.
            let _ = reader.join();
        }
        Ok(exited)
    }

    /// The threads that pass the guest's output on; each ends with QEMU.
    fn readers(&self, ports: &mut Ports, end: &str) -> Result<Vec<JoinHandle<()>>> {
        let mut readers = Vec::new();
        if self.console == Console::File {
            let path = self.output_copy.as_ref().context("no file for what the guest says")?;
            fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
            for stream in [ports.take("out"), ports.take("err")].into_iter().flatten() {
                let (file, end) = (fs::File::options().append(true).open(path)?, end.to_owned());
                readers.push(thread::spawn(move || pump(stream, file, end.as_bytes())));
            }
            return Ok(readers);
        }
        let shown = self.console != Console::Discarded;
        if let Some(stream) = ports.take("out") {
            let end = end.to_owned();
            let copy = self.output_copy.as_ref().map(fs::File::create).transpose();
            let copy = copy.with_context(|| format!("cannot write {:?}", self.output_copy))?;
            readers.push(thread::spawn(move || match copy {
                Some(file) => pump(stream, Both(std::io::stdout(), file), end.as_bytes()),
                None if shown => pump(stream, std::io::stdout(), end.as_bytes()),
                None => pump(stream, std::io::sink(), end.as_bytes()),
            }));
        }
        if let Some(stream) = ports.take("err") {
            let end = end.to_owned();
            readers.push(thread::spawn(move || match shown {
                true => pump(stream, std::io::stderr(), end.as_bytes()),
                false => pump(stream, std::io::sink(), end.as_bytes()),
            }));
        }
        Ok(readers)
    }

    /// What the guest's PID 1 reads: settings, shared folders, and the command as a script.
    fn leave_orders(&self, kernel: &Kernel, run: &Path) -> Result<()> {
        let (rows, columns) = terminal_size();
        let mut settings = format!("kver='{}' rows={rows} columns={columns}\nmodules=", kernel.version).into_bytes();
        settings.extend(shell::quote(kernel.modules.as_os_str()));
        let flag = |set: bool| if set { "1" } else { "" };
        let stdin = flag(self.console == Console::StreamsWithInput);
        let terminal = flag(self.console == Console::Terminal);
        settings.extend(format!("\nnet={} shell={terminal} stdin={stdin}\n", flag(self.network)).bytes());
        settings.extend(format!("end='{}'\n", end_mark(run)).bytes());
        fs::write(run.join("conf"), settings)?;
        let mut shared = Vec::new();
        for folder in &self.write {
            shared.extend_from_slice(folder.as_os_str().as_bytes());
            shared.push(b'\n');
        }
        fs::write(run.join("rw"), shared)?;
        fs::write(run.join("cmd"), self.script()?)?;
        Ok(())
    }

    fn script(&self) -> Result<Vec<u8>> {
        let mut script = Vec::new();
        let own = std::env::vars_os().filter(|(name, _)| is_shell_name(name));
        for (name, value) in own.chain(self.environment.iter().cloned()) {
            script.extend_from_slice(b"export ");
            script.extend_from_slice(name.as_bytes());
            script.push(b'=');
            script.extend(shell::quote(&value));
            script.push(b'\n');
        }
        // Root's tools, whoever started us.
        script.extend_from_slice(b"export PATH=\"$PATH:/usr/local/sbin:/usr/sbin:/sbin\"\ncd ");
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => std::env::current_dir().context("no working directory")?,
        };
        script.extend(shell::quote(folder.as_os_str()));
        script.extend_from_slice(b" && exec");
        for word in &self.command {
            script.push(b' ');
            script.extend(shell::quote(word));
        }
        script.push(b'\n');
        Ok(script)
    }
}

/// What stands after the last byte of a stream. No command prints it by chance: it begins with a control character
/// and names the run.
fn end_mark(run: &Path) -> String {
    format!("\u{1e}end of output of {}\u{1e}", run.display())
}

/// Whether `sh` takes it as the name of a variable, and the guest may have it.
fn is_shell_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let word = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    word && !bytes.first().is_none_or(u8::is_ascii_digit) && name != "PWD" && name != "_"
}

/// The sockets QEMU connects its ports to.
pub(crate) struct Ports {
    listening: Vec<(&'static str, UnixListener)>,
    connected: Vec<(&'static str, UnixStream)>,
}

impl Ports {
    pub(crate) fn listen(run: &Path, start: Start) -> Result<Ports> {
        let mut listening = Vec::new();
        for name in start.ports() {
            let listener = UnixListener::bind(run.join(name))?;
            listener.set_nonblocking(true)?;
            listening.push((*name, listener));
        }
        Ok(Ports { listening, connected: Vec::new() })
    }

    /// Waits until QEMU has connected all, or is gone, which the caller then sees.
    pub(crate) fn accept(&mut self, qemu: &mut Child, deadline: Instant) -> Result<()> {
        while let Some((name, listener)) = self.listening.last() {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    self.connected.push((*name, stream));
                    self.listening.pop();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if qemu.try_wait()?.is_some() {
                        return Ok(());
                    }
                    if Instant::now() > deadline {
                        bail!("QEMU did not open its port {name} in time");
                    }
                    thread::sleep(POLL);
                }
                Err(error) => return Err(error).context("cannot listen for QEMU"),
            }
        }
        Ok(())
    }

    pub(crate) fn connected(&self, name: &str) -> Result<&UnixStream> {
        let found = self.connected.iter().find(|(port, _)| *port == name);
        found.map(|(_, stream)| stream).with_context(|| format!("QEMU did not open its port {name}"))
    }

    fn take(&mut self, name: &str) -> Option<UnixStream> {
        let at = self.connected.iter().position(|(port, _)| *port == name)?;
        Some(self.connected.swap_remove(at).1)
    }
}

/// Waits for the end, or until the deadline: `None`.
pub(crate) fn await_exit(qemu: &mut Child, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = qemu.try_wait()? {
            return Ok(Some(status));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Writes to two places; either may be closed without the other noticing.
struct Both<A, B>(A, B);

impl<A: Write, B: Write> Write for Both<A, B> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let first = self.0.write_all(bytes);
        let second = self.1.write_all(bytes);
        first.or(second).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let first = self.0.flush();
        let second = self.1.flush();
        first.or(second)
    }
}

/// Passes on what comes as it comes, up to the mark of the end, and answers the mark once all before it is written.
/// A target that is closed must not block the guest: then the rest is dropped.
fn pump(mut from: UnixStream, mut to: impl Write, end: &[u8]) {
    let mut buffer = [0; 64 * 1024];
    let mut held = Vec::new();
    let mut open = true;
    while let Ok(n) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else { break };
        held.extend_from_slice(bytes);
        let ended = held.ends_with(end);
        let kept = if ended { end.len() } else { begun(&held, end) };
        let rest = held.split_off(held.len() - kept);
        open = open && to.write_all(&held).and_then(|()| to.flush()).is_ok();
        held = rest;
        if ended {
            held.clear();
            // A guest that is gone needs no answer.
            let _ = from.write_all(b"\n");
        }
    }
    if open {
        // As above; nothing follows.
        let _ = to.write_all(&held).and_then(|()| to.flush());
    }
}

/// How many bytes at the end of `text` may be the beginning of the mark.
fn begun(text: &[u8], mark: &[u8]) -> usize {
    let longest = mark.len().min(text.len());
    let is_begun = |n: &usize| mark.get(..*n).is_some_and(|beginning| text.ends_with(beginning));
    (1..=longest).rev().find(is_begun).unwrap_or(0)
}

/// Our standard input into the guest, and its end.
fn pass_input(mut to: &UnixStream) {
    // Either side may close at any time; there is nobody to tell.
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
    // A socket closed both ways makes QEMU drop what the guest has not read yet: stay until QEMU ends.
    let _ = to.read(&mut [0]);
}

/// The last lines of what was written, for whoever looks for the cause.
fn last_words(files: &[PathBuf]) -> String {
    let mut words = String::new();
    for file in files {
        let bytes = fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(40)) {
            words.push_str(line);
            words.push('\n');
        }
    }
    words
}

/// Rows and columns of our terminal, if there is one.
fn terminal_size() -> (u16, u16) {
    let mut ask = shell::command("stty", ["size"]);
    let said = ask.stdin(Stdio::inherit()).stderr(Stdio::null()).output().map(|output| output.stdout);
    let text = String::from_utf8(said.unwrap_or_default()).unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).unwrap_or((24, 80))
}

/// QEMU puts the terminal into raw mode, and cannot put it back if it is killed.
struct TerminalSettings(Option<String>);

impl TerminalSettings {
    fn save() -> TerminalSettings {
        let mut ask = shell::command("stty", ["-g"]);
        let said = ask.stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok();
        let settings = said.filter(|said| said.status.success());
        TerminalSettings(settings.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()))
    }

    fn restore(self) {
        if let Some(settings) = self.0 {
            // Without a terminal by now there is nothing to restore.
            let _ = shell::command("stty", [settings]).stdin(Stdio::inherit()).status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_quoted_and_runs_in_its_folder() {
        let mut guest = Guest::new(vec!["printf".into(), "%s|%s".into(), "it's".into(), "$HOME".into()]);
        guest.folder = Some("/".into());
        guest.environment.push(("FERROVIA_TEST".into(), "a b".into()));
        let script = String::from_utf8(guest.script().unwrap()).unwrap();
        assert!(script.contains("export FERROVIA_TEST='a b'\n"), "{script}");
        assert_eq!(shell::output(&mut shell::command("sh", ["-c", &script])).unwrap(), "it's|$HOME");
    }

    #[test]
    fn only_names_a_shell_accepts_are_exported() {
        for name in ["A", "_x1", "CARGO_BIN_EXE_x"] {
            assert!(is_shell_name(OsStr::new(name)), "{name}");
        }
        for name in ["", "1A", "A-B", "BASH_FUNC_f%%", "PWD"] {
            assert!(!is_shell_name(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_closed_target_does_not_stop_the_pump() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || pump(theirs, Closed, b"END"));
        ours.write_all(&vec![7; 1 << 20]).unwrap();
        drop(ours);
        reader.join().unwrap();
    }
    /// What arrives behind the pump when `chunks` are sent, and whether it answered.
    fn pumped(chunks: &[&str]) -> (String, bool) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (mut arrived, target) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || pump(theirs, target, b"\x1eEND"));
        for chunk in chunks {
            ours.write_all(chunk.as_bytes()).unwrap();
        }
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        reader.join().unwrap();
        let (mut text, mut answer) = (String::new(), String::new());
        arrived.read_to_string(&mut text).unwrap();
        ours.read_to_string(&mut answer).unwrap();
        (text, answer == "\n")
    }

    #[test]
    fn the_mark_of_the_end_is_answered_and_not_shown() {
        assert_eq!(pumped(&["a\n", "b", "\x1eEND"]), ("a\nb".to_owned(), true));
        assert_eq!(pumped(&["b\x1eE", "ND"]), ("b".to_owned(), true));
        assert_eq!(pumped(&["\x1eEND"]), (String::new(), true));
    }

    #[test]
    fn what_only_begins_like_the_mark_is_passed_on() {
        assert_eq!(pumped(&["b\x1eE", "N", "x"]), ("b\x1eENx".to_owned(), false));
        assert_eq!(pumped(&["b\x1eEN"]), ("b\x1eEN".to_owned(), false));
        assert_eq!(begun(b"b\x1eE", b"\x1eEND"), 2);
        assert_eq!(begun(b"b", b"\x1eEND"), 0);
    }
}
