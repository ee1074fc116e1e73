//! The node's CNI configuration file: the pod prefixes and the MTU that pods get (a small door around [`edit`]).
//!
//! Promises: the file is replaced as a whole or not at all, only when it says something else than it should, and what
//! we do not know in it stays. It is never created: a plugin we did not install must not appear configured. Must not
//! know: nodes and snapshots.

mod edit;
pub mod gate;

use std::io;
use std::path::{Path, PathBuf};

use crate::net::Prefix;

pub use edit::{Edited, Fault, Form, edit};
pub use gate::{Gate, State, restore};

/// Where the file is when the environment does not say.
pub const DEFAULT_PATH: &str = "/etc/cni/net.d/10-kuberouter.conf";
/// The environment variable that names it.
pub const PATH_VARIABLE: &str = "KUBE_ROUTER_CNI_CONF_FILE";

/// The file a run works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniFile {
    path: PathBuf,
    gate: Option<Gate>,
}

/// Why pods do not get their addresses from us. Each names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error(
        "CNI configuration {}: there is no such file: install one with a bridge plugin, name it in {PATH_VARIABLE}, \
         or set --enable-cni=false",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("CNI configuration {}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says nothing that can be edited.
    #[error("CNI configuration {}: {fault}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// It cannot be replaced.
    #[error("CNI configuration {}: cannot be replaced: is its folder mounted writable?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the gate keeps would outlive a boot.
    #[error(
        "--cni-gate: {} is not on a tmpfs, so pods would start before the first rules after a boot all the same: mount the \
         host's /run/ferrovia at that path (hostPath), or set --cni-gate=false",
        folder.display()
    )]
    NotInMemory {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is a link of the gate, and what should be behind it is nowhere.
    #[error(
        "CNI configuration {}: the copy {} cannot be read, so there is nothing to put behind the link: install the \
         configuration again in place of the link, and mount --state-dir from the host",
        path.display(), copy.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// The copy.
        copy: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The file was replaced.
    pub written: bool,
    /// Ranges in the file that are not among the node's pod prefixes, kept because pods may have addresses of them.
    pub foreign: Vec<String>,
    /// Why the gate that was asked for is not in place. The file is a plain one then.
    pub refused: Option<String>,
}

impl CniFile {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> CniFile {
        CniFile { path: path.into(), gate: None }
    }

    /// The same behind a gate. Whoever calls [`CniFile::ensure`] then opens it.
    pub fn gated(self, gate: Gate) -> CniFile {
        CniFile { gate: Some(gate), ..self }
    }

    /// Whether a gate was asked for.
    pub fn has_gate(&self) -> bool {
        self.gate.is_some()
    }

    /// How the gate stands, seen from the files; `wait` is what has to be before it may be opened.
    pub fn gate_state(&self, wait: &str) -> State {
        match &self.gate {
            None => State::Off,
            Some(gate) if gate.is_closed(&self.path) => State::Closed(wait.to_owned()),
            Some(gate) if gate.is_in_place(&self.path) => State::Open,
            Some(_) => State::Absent(format!("waits for {wait}")),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file give pods addresses of these prefixes, and this MTU where one is given. Writes nothing when it
    /// does already.
    ///
    /// # Errors
    /// The file, and what is wrong with it. It is unchanged then.
    pub fn ensure(&self, pods: &[Prefix], mtu: Option<u32>) -> Result<Report, Error> {
        let Some(gate) = &self.gate else { return self.ensure_plain(pods, mtu) };
        if let Err(error) = gate.prepare() {
            // A link to what outlives a boot is worse than none: it looks like a gate.
            restore(self, gate)?;
            let refused = Some(with_cause(&error));
            return Ok(Report { refused, ..self.ensure_plain(pods, mtu)? });
        }
        let source = gate.source(&self.path);
        let text = std::fs::read_to_string(&source).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if source == self.path => Error::Missing { path: source.clone() },
            _ if source == gate.copy => Error::Lost { path: self.path.clone(), copy: source.clone(), source: error },
            _ => Error::Read { path: source.clone(), source: error },
        })?;
        let edited = self.edited(&text, pods, mtu)?;
        let text = edited.text.unwrap_or(text);
        let written = gate.put(&self.path, &text, gate::mode_of(&source))?;
        Ok(Report { written, foreign: edited.foreign, refused: None })
    }

    fn ensure_plain(&self, pods: &[Prefix], mtu: Option<u32>) -> Result<Report, Error> {
        // A link leads to the file that counts: replacing the link would leave that one behind.
        let path = match std::fs::canonicalize(&self.path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing { path: self.path.clone() });
            }
            Err(source) => return Err(Error::Read { path: self.path.clone(), source }),
        };
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let edited = self.edited(&text, pods, mtu)?;
        if let Some(text) = &edited.text {
            gate::write(&path, text, gate::mode_of(&path)).map_err(|source| Error::Write { path, source })?;
        }
        Ok(Report { written: edited.text.is_some(), foreign: edited.foreign, refused: None })
    }

    fn edited(&self, text: &str, pods: &[Prefix], mtu: Option<u32>) -> Result<Edited, Error> {
        edit(text, Form::of(&self.path), pods, mtu).map_err(|fault| Error::Content { path: self.path.clone(), fault })
    }
}

/// An error with its cause, in one line.
pub fn with_cause(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::prefix;

    const LIST: &str = r#"{"cniVersion":"0.3.0","name":"mynet","plugins":[{"name":"kubernetes","type":"bridge","bridge":"kube-bridge","isDefaultGateway":true,"ipam":{"type":"host-local"}}]}"#;

    #[test]
    fn writes_once_and_then_leaves_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("10-kuberouter.conflist");
        std::fs::write(&path, LIST).unwrap();
        let file = CniFile::new(&path);
        let pods = [prefix("10.244.1.0/24"), prefix("fd00:244:1::/64")];
        assert!(file.ensure(&pods, Some(1480)).unwrap().written);
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let before = inode(&path);
        assert!(!file.ensure(&pods, Some(1480)).unwrap().written);
        assert_eq!(inode(&path), before, "an unchanged file is not replaced");
        assert!(file.ensure(&pods, Some(1400)).unwrap().written);
        assert_ne!(inode(&path), before, "a changed one is replaced as a whole");
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["10-kuberouter.conflist"], "nothing else is left in the folder");
    }

    #[test]
    fn keeps_the_mode_and_follows_a_link() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("10-kuberouter.conflist"));
        std::fs::write(&real, LIST).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        CniFile::new(&link).ensure(&[prefix("10.244.1.0/24")], None).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(&real).unwrap().contains("10.244.1.0/24"));
    }

    #[test]
    fn errors_name_the_file_and_leave_it_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent.conf");
        let error = CniFile::new(&path).ensure(&[], None).unwrap_err().to_string();
        assert!(error.contains("absent.conf") && error.contains("--enable-cni=false"), "{error}");
        assert!(!path.exists(), "it is never created");
        let path = folder.path().join("broken.conf");
        std::fs::write(&path, "{").unwrap();
        let error = CniFile::new(&path).ensure(&[], None).unwrap_err().to_string();
        assert!(error.contains("broken.conf") && error.contains("JSON"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{");
    }
}
