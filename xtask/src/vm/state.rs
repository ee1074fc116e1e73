//! The emulated guest as it is after boot, saved once: going on from there takes a second, booting five.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::cache::{self, RunFolder};
use super::guest::{Ports, await_exit};
use super::qemu::{Machine, Start, quoted};

/// States kept, newest first; one is about 100 MB.
const KEPT: usize = 6;

/// A boot on a busy machine, several times over.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Writing the guest's memory to the cache.
const SAVE_LIMIT: Duration = Duration::from_secs(60);

/// The saved state of this machine, made if there is none yet.
pub(crate) fn of(machine: &Machine) -> Result<PathBuf> {
    let state = machine.kernel.folder.join(format!("state-{}", machine.fingerprint()?));
    if state.exists() {
        return Ok(state);
    }
    let _lock = cache::lock(&machine.kernel.folder)?;
    if !state.exists() {
        save(machine, &state).context("cannot save the guest's state")?;
        keep_newest(&machine.kernel.folder);
    }
    Ok(state)
}

/// Boots, waits until the guest says it is ready, and has QEMU write it down.
fn save(machine: &Machine, state: &Path) -> Result<()> {
    let run = RunFolder::new()?;
    let mut ports = Ports::listen(&run.path, Start::UntilReady)?;
    let mut command = machine.command(&run.path, Start::UntilReady)?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut qemu = command.spawn().context("cannot start QEMU")?;
    let deadline = Instant::now() + BOOT_LIMIT;
    let new = run.path.join("state");
    let saved = (|| {
        ports.accept(&mut qemu, deadline)?;
        let control = ports.connected("ctl")?;
        control.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now())))?;
        BufReader::new(control).read_line(&mut String::new()).context("the guest did not boot in time")?;
        let mut monitor = qemu.stdin.take().context("QEMU has no monitor")?;
        writeln!(monitor, "migrate \"exec:cat > {}\"\nquit", quoted(&new))?;
        await_exit(&mut qemu, Some(Instant::now() + SAVE_LIMIT))?.context("QEMU did not save the state in time")
    })();
    if saved.is_err() {
        // Already gone is as good.
        let _ = qemu.kill();
        let _ = qemu.wait();
    }
    if !saved?.success() || fs::metadata(&new).map_or(0, |file| file.len()) == 0 {
        bail!("QEMU wrote no state");
    }
    // Across file systems, so: copy under another name, then rename.
    let copy = state.with_extension("new");
    fs::copy(&new, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    fs::rename(&copy, state)?;
    Ok(())
}

/// Best effort: a state that cannot be removed costs space only.
fn keep_newest(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut states: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("state-"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    states.sort();
    states.reverse();
    for (_, path) in states.into_iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}
