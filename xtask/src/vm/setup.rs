//! `cargo xtask vm setup`: the programs on this machine that the guest needs, inside and out.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{cache, kernel, peers};
use crate::shell;

/// Of the packages: QEMU, then what builds the initramfs, then what tests call inside the guest.
const QEMU_PACKAGE: &str = "qemu-system-x86";
const PACKAGES: &[&str] = &[
    "busybox-static",
    "kmod",
    "zstd",
    "xz-utils",
    "lz4",
    "util-linux",
    "iproute2",
    "iputils-ping",
    "ipvsadm",
    "ipset",
    "iptables",
    "nftables",
    "conntrack",
    "tcpdump",
    "socat",
    "curl",
    "dbus-daemon",
    "dbus-bin",
    "systemd",
];

/// Debian 12's own QEMU starts programs three times slower when emulating than the one in its backports.
const RELEASE_WITH_OLD_QEMU: &str = "bookworm";
const SOURCES: &str = "/etc/apt/sources.list.d";

/// Installs what is missing and fetches the kernel. Quick when nothing is missing.
pub(crate) fn setup() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the guest is an x86_64 machine; on {} there is no setup yet", std::env::consts::ARCH);
    }
    if shell::which("apt-get").is_none() {
        bail!(
            "this machine has no apt-get. Install by its own means what these Debian packages hold: {QEMU_PACKAGE} {}; \
             and unpack a kernel with ip_vs as FERROVIA_VM_KERNEL=VERSION into {}/VERSION/root",
            PACKAGES.join(" "),
            cache::folder()?.display()
        );
    }
    let wanted: Vec<&str> = std::iter::once(QEMU_PACKAGE).chain(PACKAGES.iter().copied()).collect();
    let missing = missing(&wanted)?;
    if missing.is_empty() {
        eprintln!("xtask: every package the guest needs is installed");
    } else {
        install(&missing)?;
    }
    peers::prepare()?;
    let kernel = kernel::prepare().or_else(|error| {
        eprintln!("xtask: {error:#}; refreshing the package lists and trying again");
        add_backports()?;
        update()?;
        kernel::prepare()
    })?;
    eprintln!("xtask: the guest's kernel is {} in {}", kernel.version, kernel.folder.display());
    Ok(())
}

/// One field of `/etc/os-release`.
pub(crate) fn os_release(field: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

fn missing<'a>(all: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails when it knows nothing of a package: the packages are asked for one by one by their
    // output, not by its status.
    let asked = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(all)
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    let installed: Vec<&str> = said.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(all.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Installs packages, QEMU from the backports where its release has an old one.
pub(super) fn install(missing: &[&str]) -> Result<()> {
    eprintln!("xtask: installing {}", missing.join(" "));
    if !is_root() && shell::which("sudo").is_none() {
        bail!("installing packages needs root, and there is no sudo: run this once as root");
    }
    let backports = add_backports()?;
    update()?;
    let rest: Vec<&str> = missing.iter().copied().filter(|package| *package != QEMU_PACKAGE).collect();
    if missing.contains(&QEMU_PACKAGE) {
        let suite = backports.as_deref().map(|suite| ["-t", suite]);
        apt_get(&suite.into_iter().flatten().collect::<Vec<_>>(), &[QEMU_PACKAGE])?;
    }
    if !rest.is_empty() {
        apt_get(&[], &rest)?;
    }
    Ok(())
}

/// Installs packages in the version of the backports, where this release has any.
pub(super) fn install_from_backports(packages: &[&str]) -> Result<()> {
    if !is_root() && shell::which("sudo").is_none() {
        bail!("installing {} needs root, and there is no sudo", packages.join(" "));
    }
    let backports = add_backports()?;
    update()?;
    let suite = backports.as_deref().map(|suite| ["-t", suite]);
    apt_get(&suite.into_iter().flatten().collect::<Vec<_>>(), packages)
}

fn apt_get(options: &[&str], packages: &[&str]) -> Result<()> {
    let mut install = as_root("env");
    install
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y", "--no-install-recommends"])
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"])
        .args(options)
        .args(packages);
    // apt's own talk is for whoever looks for an error; our standard output belongs to commands in the guest.
    install.stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr()));
    shell::run(&mut install).with_context(|| format!("cannot install {}", packages.join(" ")))
}

/// A list that cannot be refreshed is reported and may not matter: the next step says what is missing.
fn update() -> Result<()> {
    let mut update = as_root("apt-get");
    update.args(["update", "-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    if let Err(error) = shell::run(update.stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr()))) {
        eprintln!("xtask: {error:#}; going on with the package lists as they are");
    }
    Ok(())
}

/// On a release with an old QEMU, the suite to take a newer one from, configured if it was not yet: a copy of
/// the configured source with the other suite, so that the same mirror and key serve it.
fn add_backports() -> Result<Option<String>> {
    if os_release("ID").as_deref() != Some("debian")
        || os_release("VERSION_CODENAME").as_deref() != Some(RELEASE_WITH_OLD_QEMU)
    {
        return Ok(None);
    }
    let suite = format!("{RELEASE_WITH_OLD_QEMU}-backports");
    if is_configured(&suite) {
        return Ok(Some(suite));
    }
    let configured = Path::new(SOURCES).join("debian.sources");
    let Some(source) = fs::read_to_string(&configured).ok().and_then(|text| with_suite(&text, &suite)) else {
        eprintln!(
            "xtask: {} is not as expected, so QEMU comes from {RELEASE_WITH_OLD_QEMU} itself and is slower",
            configured.display()
        );
        return Ok(None);
    };
    let ours = Path::new(SOURCES).join("ferrovia-backports.sources");
    eprintln!("xtask: adding the suite {suite} in {}", ours.display());
    let folder = cache::RunFolder::new()?;
    let written = folder.path.join("sources");
    fs::write(&written, source)?;
    shell::run(as_root("install").args(["-m", "644"]).arg(&written).arg(&ours))?;
    Ok(Some(suite))
}

/// Whether any source already names the suite.
fn is_configured(suite: &str) -> bool {
    let names = |path: &Path| fs::read_to_string(path).is_ok_and(|text| names_suite(&text, suite));
    let listed = fs::read_dir(SOURCES).into_iter().flatten().flatten().any(|entry| names(&entry.path()));
    listed || names(Path::new("/etc/apt/sources.list"))
}

fn names_suite(text: &str, suite: &str) -> bool {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.flat_map(str::split_whitespace).any(|word| word == suite)
}

/// The first stanza of a deb822 source, for another suite.
fn with_suite(text: &str, suite: &str) -> Option<String> {
    let stanza = text.split("\n\n").next()?;
    let mut found = false;
    let lines = stanza.lines().filter(|line| !line.starts_with('#')).map(|line| {
        if line.starts_with("Suites:") {
            found = true;
            format!("Suites: {suite}\n")
        } else {
            format!("{line}\n")
        }
    });
    let stanza: String = lines.collect();
    found.then_some(stanza)
}

fn is_root() -> bool {
    shell::output(&mut shell::command("id", ["-u"])).is_ok_and(|id| id.trim() == "0")
}

/// A program as root: as it is for root, by sudo for others.
pub(super) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    shell::command("sudo", [program])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: &str = "Types: deb\n# a snapshot\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                              Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://mirror.example/security\nSuites: s\n";

    #[test]
    fn copies_the_first_source_for_another_suite() {
        assert_eq!(
            with_suite(CONFIGURED, "bookworm-backports").unwrap(),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\nSigned-By: /k.gpg\n"
        );
        assert_eq!(with_suite("deb http://mirror.example bookworm main\n", "x"), None);
    }

    #[test]
    fn sees_a_suite_that_is_configured() {
        assert!(names_suite(CONFIGURED, "bookworm-updates"));
        assert!(!names_suite(CONFIGURED, "bookworm-backports"));
        assert!(!names_suite("# deb http://mirror.example bookworm-backports main", "bookworm-backports"));
    }
}
