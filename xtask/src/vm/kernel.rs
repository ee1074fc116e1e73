//! The guest's kernel: found in the package lists, downloaded, unpacked into the cache. Nothing is installed
//! and none of the package's scripts run.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cache;
use super::initramfs::Archive;
use crate::shell;

/// PID 1 of the guest.
const INIT: &str = include_str!("../../vm/init");

/// What the guest needs to reach the host's files and our pipes. `vmgenid` makes the kernel reseed its random
/// numbers when it goes on from a saved state; older kernels do without.
const TRANSPORT: &[&str] = &["virtio_pci", "virtio_console", "virtio_net", "9p", "9pnet_virtio", "overlay", "vmgenid"];

/// What the tests need; loaded before the state is saved, so that no run pays for it. Everything else loads
/// on demand, as on any machine.
const SUBJECT: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_sh",
    "ip_vs_dh",
    "ip_vs_mh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_fo",
    "ip_vs_ovf",
    "br_netfilter",
    "dummy",
    "ipip",
    "ip6_tunnel",
    "fou",
    "fou6",
    "nf_conntrack_netlink",
];

/// Names the version in use, so that a run does not depend on package lists that change.
const CURRENT: &str = "current";

/// A kernel ready to boot, all paths inside the cache.
pub(crate) struct Kernel {
    /// What `uname -r` says in the guest.
    pub(crate) version: String,
    /// Where saved states of this kernel live.
    pub(crate) folder: PathBuf,
    /// The uncompressed kernel.
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// The `/lib/modules/VERSION` folder.
    pub(crate) modules: PathBuf,
}

/// Finds or makes all of it. About 25 s the first time (a download of some 100 MB), then milliseconds.
pub(crate) fn prepare() -> Result<Kernel> {
    let cache = cache::folder()?;
    let version = version(&cache)?;
    let folder = cache.join(&version);
    fs::create_dir_all(&folder)?;
    let _lock = cache::lock(&folder)?;
    let tree = folder.join("root");
    if !tree.exists() {
        unpack(&version, &folder, &tree).with_context(|| format!("cannot fetch the guest's kernel {version}"))?;
    }
    let image = folder.join("vmlinux");
    if !image.exists() {
        decompress(&compressed_image(&tree, &version)?, &image)?;
    }
    let modules = tree.join("lib/modules").join(&version);
    let initramfs = folder.join(initramfs_name());
    if !initramfs.exists() {
        write_whole(&initramfs, &build_initramfs(&tree, &version)?)?;
    }
    if std::env::var_os("FERROVIA_VM_KERNEL").is_none() {
        write_whole(&cache.join(CURRENT), version.as_bytes())?;
    }
    Ok(Kernel { version, folder, image, initramfs, modules })
}

/// The version asked for, the one used before, or the newest the package lists know.
fn version(cache: &Path) -> Result<String> {
    if let Ok(version) = std::env::var("FERROVIA_VM_KERNEL") {
        return Ok(version);
    }
    if let Ok(version) = fs::read_to_string(cache.join(CURRENT)) {
        return Ok(version.trim().to_owned());
    }
    newest().context(
        "the package lists name no kernel for the guest: run `cargo xtask vm setup`, or see FERROVIA_VM_KERNEL in \
         `cargo xtask vm --help`",
    )
}

/// The kernel the distribution's meta package names: backports first (newer schedulers, same age as the
/// backported QEMU), then the release's own, then Ubuntu's.
fn newest() -> Option<String> {
    let release = super::setup::os_release("VERSION_CODENAME").unwrap_or_default();
    let candidates = [
        format!("linux-image-amd64/{release}-backports"),
        format!("linux-image-amd64/{release}"),
        "linux-image-amd64".to_owned(),
        "linux-image-generic".to_owned(),
    ];
    candidates.iter().find_map(|package| {
        let shown = shell::output(&mut shell::command("apt-cache", ["show", package])).ok()?;
        named_in_depends(&shown)
    })
}

/// `VERSION` of the first `linux-image-VERSION` among a meta package's dependencies.
fn named_in_depends(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let names = depends.split([',', '|', ' ']).filter_map(|word| word.strip_prefix("linux-image-"));
    names.map(str::to_owned).next()
}

/// Downloads the packages of one kernel and unpacks them to `tree`.
fn unpack(version: &str, folder: &Path, tree: &Path) -> Result<()> {
    let new = folder.join("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    eprintln!("xtask: fetching the guest's kernel {version} (once)");
    let mut fetch = shell::command("apt-get", ["download", &format!("linux-image-{version}")]);
    shell::output(fetch.current_dir(&new)).context("`cargo xtask vm setup` refreshes the package lists")?;
    // Some releases keep the modules, or the image itself, in packages beside it; absent ones are no error.
    for part in ["linux-binary", "linux-modules", "linux-modules-extra"] {
        let _ = shell::output(shell::command("apt-get", ["download", &format!("{part}-{version}")]).current_dir(&new));
    }
    for entry in fs::read_dir(&new)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(new.join("root")))?;
        }
    }
    let unpacked = new.join("root");
    if !unpacked.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", unpacked.join("lib"))?;
    }
    let depmod = shell::which("depmod").context("depmod is missing: run `cargo xtask vm setup`")?;
    shell::run(Command::new(depmod).arg("-b").arg(&unpacked).arg(version))?;
    fs::rename(&unpacked, tree)?;
    fs::remove_dir_all(&new)?;
    Ok(())
}

fn compressed_image(tree: &Path, version: &str) -> Result<PathBuf> {
    let places = [tree.join(format!("boot/vmlinuz-{version}")), tree.join(format!("lib/modules/{version}/vmlinuz"))];
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("the packages of kernel {version} hold no vmlinuz"))
}

/// Takes the ELF kernel out of a bzImage, by the header of the x86 boot protocol (Linux
/// `Documentation/arch/x86/boot.rst`): booting it directly saves the guest 1 to 5 s of emulated decompression.
/// A payload of unknown form is left in its bzImage, which boots too.
fn decompress(source: &Path, target: &Path) -> Result<()> {
    let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let payload = payload(&bytes).with_context(|| format!("{} is no x86 kernel image", source.display()))?;
    let program: &[&str] = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dcq"],
        [0xfd, b'7', b'z', b'X', ..] => &["xz", "-dc", "--single-stream"],
        [0x02, 0x21, 0x4c, 0x18, ..] => &["lz4", "-dcq"],
        _ => return write_whole(target, &bytes),
    };
    let packed = target.with_extension("packed");
    fs::write(&packed, payload)?;
    let new = target.with_extension("new");
    let mut words = program.iter();
    let mut unpack = shell::command(words.next().unwrap_or(&""), words);
    shell::run(unpack.stdin(File::open(&packed)?).stdout(File::create(&new)?))?;
    fs::remove_file(&packed)?;
    fs::rename(&new, target)?;
    Ok(())
}

/// The compressed kernel inside a bzImage: after `setup_sects` + 1 sectors, at `payload_offset`, without the
/// four bytes of length at its end.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}

/// The initramfs depends on what goes into it from here; the kernel is its folder's.
fn initramfs_name() -> String {
    let mut hasher = DefaultHasher::new();
    (INIT, TRANSPORT, SUBJECT).hash(&mut hasher);
    format!("initramfs-{:016x}", hasher.finish())
}

/// Static busybox, our init, and the modules in loading order.
fn build_initramfs(tree: &Path, version: &str) -> Result<Vec<u8>> {
    let busybox = shell::which("busybox").context("busybox is missing: run `cargo xtask vm setup`")?;
    let mut archive = Archive::default();
    for folder in ["bin", "m", "mnt", "proc", "sys", "dev", "run"] {
        archive.directory(folder);
    }
    archive.file("bin/busybox", &fs::read(busybox)?);
    archive.file("init", INIT.as_bytes());
    let mut order = String::new();
    let mut packed = Vec::new();
    for module in TRANSPORT.iter().chain(SUBJECT) {
        for file in module_files(tree, version, module)? {
            if packed.contains(&file) {
                continue;
            }
            let path = file.to_string_lossy();
            let name = Path::new(path.trim_end_matches(".xz").trim_end_matches(".zst")).file_name();
            let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let decompressed = match file.extension().and_then(|extension| extension.to_str()) {
                Some("xz") => shell::output_bytes(Command::new("xz").arg("-dc").arg(&file))?,
                Some("zst") => shell::output_bytes(Command::new("zstd").arg("-dcq").arg(&file))?,
                _ => fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
            };
            archive.file(&format!("m/{name}"), &decompressed);
            // No dummy0 of the module's own making: tests count links.
            let parameters = if name == "dummy.ko" { " numdummies=0" } else { "" };
            order.push_str(&format!("{name}{parameters}\n"));
            packed.push(file);
        }
    }
    archive.file("m/order", order.as_bytes());
    Ok(archive.finish())
}

/// A module's file after those it depends on; none if it is built in.
fn module_files(tree: &Path, version: &str, module: &str) -> Result<Vec<PathBuf>> {
    let modprobe = shell::which("modprobe").context("modprobe is missing: run `cargo xtask vm setup`")?;
    let mut show = Command::new(modprobe);
    show.arg("-d").arg(tree).args(["-S", version, "--show-depends", module]);
    let shown = match shell::output(show.stderr(Stdio::piped())) {
        Ok(shown) => shown,
        Err(_) if TRANSPORT.contains(&module) => return Ok(Vec::new()),
        Err(error) => bail!("kernel {version} lacks module {module}, which the tests need: {error}"),
    };
    Ok(shown.lines().filter_map(inserted).map(PathBuf::from).collect())
}

/// The file in modprobe's `insmod FILE OPTION…`; the options are this machine's own, not the guest's.
fn inserted(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("insmod ")?;
    let extension = rest.find(".ko")?;
    let end = rest.get(extension..)?.find(' ').map_or(rest.len(), |n| extension + n);
    rest.get(..end)
}

/// All or nothing, so that an interrupted run leaves no half file under the final name.
fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_from_a_meta_package() {
        let shown = "Package: linux-image-amd64\nDepends: linux-image-6.12.95+deb12-amd64 (= 6.12.95-1)\n";
        assert_eq!(named_in_depends(shown).as_deref(), Some("6.12.95+deb12-amd64"));
        let ubuntu = "Depends: linux-modules-6.8.0-45-generic, linux-image-6.8.0-45-generic, thermald\n";
        assert_eq!(named_in_depends(ubuntu).as_deref(), Some("6.8.0-45-generic"));
        assert_eq!(named_in_depends("Package: x\n"), None);
    }

    #[test]
    fn takes_the_file_out_of_modprobes_answer() {
        assert_eq!(inserted("insmod /a b/x.ko.xz "), Some("/a b/x.ko.xz"));
        assert_eq!(inserted("insmod /m/dummy.ko numdummies=0"), Some("/m/dummy.ko"));
        assert_eq!(inserted("builtin 9p"), None);
    }

    #[test]
    fn finds_the_payload_of_a_bzimage() {
        let mut image = vec![0; 3 * 512 + 64];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12u32.to_le_bytes());
        image[1024 + 16..1024 + 24].copy_from_slice(b"KERNEL!!");
        assert_eq!(payload(&image), Some(&b"KERNEL!!"[..]));
        assert_eq!(payload(&image[..1030]), None);
    }
}
