//! Kernel modules: which are there, and loading the ones we need (finit_module(2)).
//!
//! No program is run for it: `modules.dep` and `modules.builtin` (depmod(8)) say where a module lies and what it
//! needs, and the kernel unpacks compressed ones itself (`MODULE_INIT_COMPRESSED_FILE`, since 5.17).

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// `MODULE_INIT_COMPRESSED_FILE` of `include/uapi/linux/module.h`.
const COMPRESSED_FILE: i32 = 4;

/// Why a module could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Neither in the kernel nor on disk.
    #[error(
        "kernel module {module} is not among the modules in {}: \
         run `modprobe {module}` on the host, or install the package with the host kernel's extra modules",
        directory.display()
    )]
    Missing {
        /// Its name.
        module: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The list of modules cannot be read: not mounted, as a rule.
    #[error(
        "cannot read {} to find kernel module {module}: run `modprobe {module}` on the host, \
         or mount the host's /lib/modules: {source}",
        path.display()
    )]
    NoList {
        /// The module looked for.
        module: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel would not take it.
    #[error(
        "cannot load kernel module {module} (needed by {wanted}) from {}: {source}: \
         run `modprobe {wanted}` on the host, or run with CAP_SYS_MODULE",
        path.display()
    )]
    Refused {
        /// The module that failed.
        module: String,
        /// The module that was asked for.
        wanted: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where to learn about modules and where they lie.
#[derive(Clone, Debug)]
pub struct Modules {
    directory: PathBuf,
    loaded: PathBuf,
}

impl Modules {
    /// Those of the running kernel: `/lib/modules/<release>`.
    pub fn of_this_kernel() -> Modules {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Modules::new(Path::new("/lib/modules").join(release), PathBuf::from("/proc/modules"))
    }

    /// Those in `directory`, with the list of loaded ones (`/proc/modules`) at `loaded`.
    pub fn new(directory: PathBuf, loaded: PathBuf) -> Modules {
        Modules { directory, loaded }
    }

    /// Whether the running kernel has the module: loaded and live, or built in. `-` and `_` are the same in names.
    pub fn is_present(&self, module: &str) -> bool {
        let module = canonical(module);
        self.is_loaded(&module) || self.is_built_in(&module)
    }

    /// Makes sure that the kernel has the module: loads it, and what it needs before it, unless it is there.
    ///
    /// # Errors
    /// Which module is missing or refused, and what the operator can do.
    pub fn load(&self, module: &str) -> Result<(), ModuleError> {
        let wanted = canonical(module);
        if self.is_present(&wanted) {
            return Ok(());
        }
        for path in self.load_order(&wanted)? {
            let name = name_of(&path);
            if self.is_loaded(&name) {
                continue;
            }
            match insert(&path) {
                Err(source) if source.raw_os_error() != Some(rustix::io::Errno::EXIST.raw_os_error()) => {
                    return Err(ModuleError::Refused { module: name, wanted, path, source });
                }
                // Somebody else was faster: just as good.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The files to load for a module, what is needed first.
    fn load_order(&self, module: &str) -> Result<Vec<PathBuf>, ModuleError> {
        let path = self.directory.join("modules.dep");
        let list = fs::read_to_string(&path).map_err(|source| ModuleError::NoList {
            module: module.to_owned(),
            path,
            source,
        })?;
        for line in list.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            if name_of(Path::new(file)) == module {
                // A line names everything needed, the deepest last.
                let mut files: Vec<PathBuf> =
                    needs.split_whitespace().rev().map(|need| self.directory.join(need)).collect();
                files.push(self.directory.join(file));
                return Ok(files);
            }
        }
        Err(ModuleError::Missing { module: module.to_owned(), directory: self.directory.clone() })
    }

    /// `name size users needs state address`: only a live module works.
    fn is_loaded(&self, module: &str) -> bool {
        let list = fs::read_to_string(&self.loaded).unwrap_or_default();
        list.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(module) && words.nth(3) == Some("Live")
        })
    }

    fn is_built_in(&self, module: &str) -> bool {
        let list = fs::read_to_string(self.directory.join("modules.builtin")).unwrap_or_default();
        list.lines().any(|file| name_of(Path::new(file)) == module)
    }
}

/// Names are told with `_` by the kernel and with either sign by files and people.
fn canonical(module: &str) -> String {
    module.replace('-', "_")
}

/// `kernel/net/netfilter/ipvs/ip_vs.ko.xz` → `ip_vs`.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    canonical(file.split_once(".ko").map_or(&*file, |(name, _)| name))
}

fn insert(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = if path.extension().is_some_and(|extension| extension == "ko") { 0 } else { COMPRESSED_FILE };
    rustix::system::finit_module(&file, &CString::default(), flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(directory: &Path) -> Modules {
        fs::write(
            directory.join("modules.dep"),
            "kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko.xz kernel/lib/libcrc32c.ko\n\
             kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/lib/libcrc32c.ko\n\
             kernel/lib/libcrc32c.ko:\n\
             kernel/net/bridge/br-netfilter.ko.zst: kernel/lib/libcrc32c.ko\n",
        )
        .unwrap();
        fs::write(directory.join("modules.builtin"), "kernel/net/ipv4/nf-dup.ko\nkernel/net/core/dummy.ko\n").unwrap();
        let loaded = directory.join("loaded");
        fs::write(
            &loaded,
            "ip_vs 200704 2 ip_vs_rr, Live 0x0000000000000000\nip_vs_wrr 16384 0 - Unloading 0x0000000000000000 (O)\n",
        )
        .unwrap();
        Modules::new(directory.to_owned(), loaded)
    }

    #[test]
    fn tells_loaded_and_built_in_from_absent() {
        let folder = tempfile::tempdir().unwrap();
        let modules = modules(folder.path());
        assert!(modules.is_present("ip_vs") && modules.is_present("ip-vs"));
        assert!(modules.is_present("nf_dup") && modules.is_present("dummy"));
        assert!(!modules.is_present("ip_vs_rr"), "only a user of ip_vs");
        assert!(!modules.is_present("ip_vs_wrr"), "going away");
        modules.load("ip_vs").unwrap();
        modules.load("dummy").unwrap();
    }

    #[test]
    fn loads_what_is_needed_first() {
        let folder = tempfile::tempdir().unwrap();
        let order = |module: &str| -> Vec<String> {
            modules(folder.path()).load_order(module).unwrap().iter().map(|path| name_of(path)).collect()
        };
        assert_eq!(order("ip_vs_rr"), ["libcrc32c", "ip_vs", "ip_vs_rr"]);
        assert_eq!(order("br_netfilter"), ["libcrc32c", "br_netfilter"]);
        assert_eq!(order("libcrc32c"), ["libcrc32c"]);
    }

    #[test]
    fn errors_name_the_module_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let modules = modules(folder.path());
        let missing = modules.load("ip_vs_mh").unwrap_err().to_string();
        assert!(missing.contains("ip_vs_mh") && missing.contains("modprobe ip_vs_mh"), "{missing}");
        let refused = modules.load("ip_vs_rr").unwrap_err();
        assert!(
            matches!(&refused, ModuleError::Refused { module, wanted, .. }
            if module == "libcrc32c" && wanted == "ip_vs_rr"),
            "{refused}"
        );
        assert!(refused.to_string().contains("needed by ip_vs_rr"), "{refused}");
        let unmounted = Modules::new(folder.path().join("none"), folder.path().join("loaded"));
        let no_list = unmounted.load("dummy").unwrap_err().to_string();
        assert!(no_list.contains("mount the host's /lib/modules"), "{no_list}");
    }
}
