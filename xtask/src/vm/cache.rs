//! The folder that keeps kernels and saved states between runs, and the locks on it.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// `FERROVIA_VM_CACHE`, else `ferrovia/vm` in the user's cache folder, else in `target/`. Made if missing.
pub(crate) fn folder() -> Result<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named("FERROVIA_VM_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("ferrovia/vm")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/ferrovia/vm")))
        .unwrap_or_else(|| shell::root().join("target/vm"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))
}

/// An exclusive lock, held while the returned file is open. Two runs at once: one prepares, one waits.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A folder for one run, gone when dropped. Folders of runs that were killed are swept by the next one:
/// a living run holds the lock on its folder.
pub(crate) struct RunFolder {
    /// Short, because the paths of Unix sockets may not pass 107 bytes.
    pub(crate) path: PathBuf,
    _lock: File,
}

const RUN_PREFIX: &str = "ferrovia-vm-";

impl RunFolder {
    pub(crate) fn new() -> Result<RunFolder> {
        let parent = Path::new("/tmp");
        sweep(parent);
        let pid = std::process::id();
        for n in 0u32.. {
            let path = parent.join(format!("{RUN_PREFIX}{pid}-{n}"));
            // Ours alone: the command's environment passes through it.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let _lock = lock(&path)?;
                    return Ok(RunFolder { path, _lock });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
            }
        }
        anyhow::bail!("no free name for a run's folder in {}", parent.display())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of runs that are no more. Best effort: other users' folders refuse, which is right.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(RUN_PREFIX) {
            continue;
        }
        // Without a lock file it was made this instant, and its owner is about to lock it.
        let lock = File::open(entry.path().join(".lock"));
        if lock.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
