//! The gate: a node that has just booted starts no pod before rules are in force (ADR 0025).
//!
//! The file that the container runtime reads becomes a symbolic link into a folder in memory, which is empty after a boot:
//! the link leads nowhere then, and a runtime without a readable network configuration starts only pods of the host's
//! network. A copy outside that memory says what to put there once rules are in force. Must not know: what those rules are.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{CniFile, Error};

/// The folder in memory. The runtime follows the link on the host, so that it must have this path there, too.
pub const RUN_FOLDER: &str = "/run/ferrovia/cni";
/// The folder of the copies, below `--state-dir`.
pub const COPIES: &str = "cni";

/// Where the content is while the file is a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// In memory: where the link leads.
    pub(super) content: PathBuf,
    /// What outlives a boot.
    pub(super) copy: PathBuf,
}

/// How the gate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not asked for.
    #[default]
    Off,
    /// The runtime has its configuration, and loses it with the next boot.
    Open,
    /// The runtime has none, and starts no pod with a pod network, before this.
    Closed(String),
    /// The file is no link, because of this: after a boot pods start before rules are in force.
    Absent(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Off => f.write_str("off"),
            State::Open => f.write_str("open"),
            State::Closed(wait) => write!(f, "closed, no pod of the pod network starts: waits for {wait}"),
            State::Absent(reason) => write!(f, "not in place: {reason}"),
        }
    }
}

impl Gate {
    /// The gate for a file, with its content in the first folder and the copy in the second.
    pub fn new(file: &Path, run: &Path, copies: &Path) -> Gate {
        let name = file.file_name().unwrap_or_default();
        Gate { content: run.join(name), copy: copies.join(name) }
    }

    /// Where the link leads.
    pub fn content(&self) -> &Path {
        &self.content
    }

    /// Whether a file is a link that leads here, to something or to nothing.
    pub(super) fn is_in_place(&self, file: &Path) -> bool {
        std::fs::read_link(file).is_ok_and(|to| to == self.content)
    }

    /// Whether a file is our link and leads nowhere.
    pub(super) fn is_closed(&self, file: &Path) -> bool {
        self.is_in_place(file) && !self.content.exists()
    }

    /// Makes the folder of the content, which must be gone with a boot.
    ///
    /// # Errors
    /// It would outlive a boot: the gate would never close. Or it cannot be made.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let folder = self.content.parent().unwrap_or(Path::new("/")).to_owned();
        let in_memory = std::fs::create_dir_all(&folder).and_then(|()| is_in_memory(&folder));
        match in_memory {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotInMemory { folder }),
            Err(source) => Err(Error::Write { path: folder, source }),
        }
    }

    /// What should be behind the link: what is there, else the copy, else what the file itself says.
    pub(super) fn source(&self, file: &Path) -> PathBuf {
        if !self.is_in_place(file) {
            return file.to_owned();
        }
        if self.content.exists() { self.content.clone() } else { self.copy.clone() }
    }

    /// Puts content, copy and link in place where they are not, in this order, so that whoever reads the file always finds
    /// all of it. True where something was written.
    ///
    /// # Errors
    /// What cannot be written. What was there before still holds.
    pub(super) fn put(&self, file: &Path, text: &str, mode: u32) -> Result<bool, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        let says = |path: &Path| std::fs::read_to_string(path).is_ok_and(|old| old == text);
        let news = !says(&self.content);
        let mut written = false;
        for path in [&self.content, &self.copy] {
            if !says(path) {
                written = true;
                path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed(path))?;
                write(path, text, mode).map_err(failed(path))?;
            }
        }
        if news || !self.is_in_place(file) || self.is_untold(file) {
            written = true;
            relink(file, &self.content).map_err(failed(file))?;
        }
        Ok(written)
    }

    /// Whether the content is newer than the link: runtimes watch the link's folder only, and have not heard of it.
    fn is_untold(&self, file: &Path) -> bool {
        let link = std::fs::symlink_metadata(file).and_then(|it| it.modified());
        let content = std::fs::metadata(&self.content).and_then(|it| it.modified());
        matches!((link, content), (Ok(link), Ok(content)) if link < content)
    }
}

/// Whether a folder is on a tmpfs, which is empty after a boot.
pub(super) fn is_in_memory(folder: &Path) -> io::Result<bool> {
    // TMPFS_MAGIC of linux/magic.h; the field's width is the architecture's.
    Ok(rustix::fs::statfs(folder)?.f_type == 0x0102_1994)
}

/// Makes a plain file of a link that a gate left: for whoever runs without one, or cleans up. True where there was one.
///
/// # Errors
/// Neither content nor copy can be read, or the file not be written. It is as before then.
pub fn restore(file: &CniFile, gate: &Gate) -> Result<bool, Error> {
    let path = file.path();
    if !gate.is_in_place(path) {
        return Ok(false);
    }
    let source = gate.source(path);
    let text = std::fs::read_to_string(&source).map_err(|source| Error::Lost {
        path: path.to_owned(),
        copy: gate.copy.clone(),
        source,
    })?;
    let mode = mode_of(&source);
    write(path, &text, mode).map_err(|source| Error::Write { path: path.to_owned(), source })?;
    for left in [&gate.content, &gate.copy] {
        // Nothing leads there any longer: what cannot be removed does no harm.
        let _ = std::fs::remove_file(left);
    }
    Ok(true)
}

/// The permissions of a file, and of a new one where it has gone.
pub(super) fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).map_or(0o644, |it| it.permissions().mode() & 0o7777)
}

/// The name beside a file under which its successor is made: no container runtime reads one with this ending.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".ferrovia-new");
    path.with_file_name(name)
}

/// Writes beside a file and renames over it, and over a link, not where that leads. It is on the disk afterwards.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let beside = beside(path);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        // What is left of a failed attempt helps nobody; that it cannot be removed changes nothing.
        let _ = std::fs::remove_file(&beside);
    });
    renamed.and_then(|()| File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all())
}

/// A fresh link in place of a file or an older link. Runtimes watch its folder, and read again when this is done.
fn relink(file: &Path, to: &Path) -> io::Result<()> {
    let beside = beside(file);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(to, &beside)?;
    std::fs::rename(&beside, file)?;
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::net::Prefix;
    use crate::testing::builders::prefix;

    const LIST: &str = r#"{"name":"x","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;

    /// A host: its configuration folder and its disk, and memory that a boot empties.
    struct Host {
        disk: TempDir,
        memory: TempDir,
    }

    impl Host {
        fn new() -> Host {
            let host = Host { disk: tempfile::tempdir().unwrap(), memory: tempfile::tempdir_in("/dev/shm").unwrap() };
            std::fs::create_dir(host.disk.path().join("net.d")).unwrap();
            std::fs::write(host.path(), LIST).unwrap();
            host
        }

        fn path(&self) -> PathBuf {
            self.disk.path().join("net.d/10-x.conflist")
        }

        fn gate(&self) -> Gate {
            Gate::new(&self.path(), &self.memory.path().join("cni"), &self.disk.path().join("state/cni"))
        }

        fn file(&self) -> CniFile {
            CniFile::new(self.path()).gated(self.gate())
        }

        fn boot(&self) {
            std::fs::remove_dir_all(self.memory.path().join("cni")).unwrap();
        }

        fn read(&self) -> io::Result<String> {
            std::fs::read_to_string(self.path())
        }

        fn is_link(&self) -> bool {
            self.path().is_symlink()
        }

        fn link_inode(&self) -> u64 {
            std::fs::symlink_metadata(self.path()).unwrap().ino()
        }

        fn names(&self) -> Vec<std::ffi::OsString> {
            std::fs::read_dir(self.disk.path().join("net.d")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        }
    }

    fn pods() -> [Prefix; 1] {
        [prefix("10.244.1.0/24")]
    }

    #[test]
    fn a_file_becomes_a_link_that_leads_nowhere_after_a_boot() {
        let host = Host::new();
        assert!(host.file().ensure(&pods(), None).unwrap().written);
        assert!(host.is_link() && host.read().unwrap().contains("10.244.1.0/24"));
        assert_eq!(host.file().gate_state("rules"), State::Open);
        assert_eq!(host.names(), ["10-x.conflist"], "nothing else is left in the folder");

        host.boot();
        assert_eq!(host.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(host.file().gate_state("rules"), State::Closed("rules".to_owned()));
        let before = host.link_inode();
        assert!(host.file().ensure(&pods(), None).unwrap().written);
        assert!(host.is_link() && host.read().unwrap().contains("10.244.1.0/24"));
        assert_ne!(host.link_inode(), before, "runtimes hear of a fresh link only");
    }

    #[test]
    fn a_daemon_that_starts_again_leaves_all_of_it_alone() {
        let host = Host::new();
        host.file().ensure(&pods(), Some(1480)).unwrap();
        let inodes = || (host.link_inode(), std::fs::metadata(host.path()).unwrap().ino());
        let before = inodes();
        assert!(!host.file().ensure(&pods(), Some(1480)).unwrap().written);
        assert_eq!(inodes(), before);
        // The copy is made again where the disk lost it.
        std::fs::remove_file(&host.gate().copy).unwrap();
        host.file().ensure(&pods(), Some(1480)).unwrap();
        assert_eq!(std::fs::read_to_string(&host.gate().copy).unwrap(), host.read().unwrap());
        assert_eq!(inodes(), before);
    }

    #[test]
    fn a_change_reaches_content_copy_and_runtime() {
        let host = Host::new();
        host.file().ensure(&pods(), Some(1480)).unwrap();
        let before = host.link_inode();
        assert!(host.file().ensure(&pods(), Some(1400)).unwrap().written);
        assert_ne!(host.link_inode(), before);
        assert!(host.read().unwrap().contains("1400"));
        assert_eq!(std::fs::read_to_string(&host.gate().copy).unwrap(), host.read().unwrap());
        // A daemon that died between content and link: the next one tells the runtime.
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        File::open(&host.gate().content).unwrap().set_modified(later).unwrap();
        let before = host.link_inode();
        assert!(host.file().ensure(&pods(), Some(1400)).unwrap().written);
        assert_ne!(host.link_inode(), before);
    }

    #[test]
    fn what_somebody_writes_over_the_link_is_the_new_content() {
        let host = Host::new();
        host.file().ensure(&pods(), None).unwrap();
        std::fs::remove_file(host.path()).unwrap();
        std::fs::write(host.path(), LIST.replace(r#""name":"x""#, r#""name":"theirs""#)).unwrap();
        std::fs::set_permissions(host.path(), Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(host.file().gate_state(""), State::Absent(_)));
        host.file().ensure(&pods(), None).unwrap();
        let text = host.read().unwrap();
        assert!(host.is_link() && text.contains("theirs") && text.contains("10.244.1.0/24"), "{text}");
        assert_eq!(mode_of(&host.path()), 0o600);
        host.boot();
        host.file().ensure(&pods(), None).unwrap();
        assert_eq!(host.read().unwrap(), text);
    }

    #[test]
    fn a_plain_file_comes_back_open_or_closed() {
        for booted in [false, true] {
            let host = Host::new();
            host.file().ensure(&pods(), None).unwrap();
            let text = host.read().unwrap();
            if booted {
                host.boot();
            }
            assert!(restore(&CniFile::new(host.path()), &host.gate()).unwrap());
            assert!(!host.is_link());
            assert_eq!(host.read().unwrap(), text);
            assert!(!host.gate().content.exists() && !host.gate().copy.exists());
            assert!(!restore(&CniFile::new(host.path()), &host.gate()).unwrap(), "a plain file is nothing to restore");
        }
    }

    #[test]
    fn without_memory_the_file_stays_plain_and_the_reason_is_told() {
        let host = Host::new();
        let gate = Gate::new(&host.path(), Path::new("/proc/self"), &host.disk.path().join("state"));
        let report = CniFile::new(host.path()).gated(gate).ensure(&pods(), None).unwrap();
        let refused = report.refused.unwrap();
        assert!(refused.starts_with("--cni-gate: /proc/self is not on a tmpfs"), "{refused}");
        assert!(!host.is_link() && host.read().unwrap().contains("10.244.1.0/24"));
        assert!(is_in_memory(host.memory.path()).unwrap());
    }

    #[test]
    fn faults_leave_everything_as_it_was() {
        let host = Host::new();
        std::fs::write(host.path(), "{").unwrap();
        let error = host.file().ensure(&pods(), None).unwrap_err().to_string();
        assert!(error.contains("JSON") && !host.is_link() && !host.gate().content.exists(), "{error}");
        std::fs::write(host.path(), LIST).unwrap();
        host.file().ensure(&pods(), None).unwrap();
        host.boot();
        std::fs::remove_file(&host.gate().copy).unwrap();
        for error in [
            host.file().ensure(&pods(), None).unwrap_err(),
            restore(&CniFile::new(host.path()), &host.gate()).unwrap_err(),
        ] {
            assert!(error.to_string().contains("install the configuration again in place of the link"), "{error}");
        }
        assert!(host.is_link() && !host.path().exists(), "nothing was written where the link leads");
        std::fs::remove_file(host.path()).unwrap();
        let error = host.file().ensure(&pods(), None).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "it is never made from nothing");
    }
}
