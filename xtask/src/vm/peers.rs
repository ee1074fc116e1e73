//! The other BGP daemons that tests and benchmarks talk to: installed by package, or unpacked and built into a cache.
//!
//! Nothing here may take over the machine: a daemon's service that a package would start is kept from starting, and one
//! that was installed before is left as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{cache, setup};
use crate::shell;

/// Debian's package, the program that proves it, and the services it would start.
const PACKAGES: [(&str, &str, &[&str]); 3] =
    [("bird2", "bird", &["bird"]), ("frr", "/usr/lib/frr/bgpd", &["frr"]), ("gobgpd", "gobgpd", &["gobgpd"])];

/// BIRD 1.6 conflicts with bird2 as a package, so it is unpacked.
const BIRD1: &str = "bird";

/// GoBGP's current major version, from source.
const GOBGP4: &str = "v4.8.0";
const GOBGP4_PROGRAMS: [&str; 2] = ["gobgpd", "gobgp"];
/// The Go release its module asks for.
const GOBGP4_GO: (u32, u32) = (1, 25);

/// Where a package's own start is refused from (see invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Name of the variable that tells tests where [`folder`] is.
pub(crate) const TOOLS: &str = "FERROVIA_TOOLS";

/// `FERROVIA_TOOLS`, else `tools` beside the cache of kernels.
pub(crate) fn folder() -> Result<PathBuf> {
    let named = std::env::var_os(TOOLS).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = match named {
        Some(folder) => folder,
        None => cache::folder()?.parent().context("the cache is the root of the file system")?.join("tools"),
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Fetches what is missing. A daemon that cannot be had is named, and is no error here: tests that need it say that
/// they were skipped, and fail in CI.
pub(crate) fn prepare() -> Result<()> {
    let folder = folder()?;
    let _lock = cache::lock(&folder)?;
    let steps: [(&str, Result<()>); 3] =
        [("BIRD 2, FRR and GoBGP 3", packages()), ("BIRD 1.6", bird1(&folder)), ("GoBGP 4", gobgp4(&folder))];
    for (what, result) in steps {
        if let Err(error) = result {
            eprintln!("xtask: no {what} for the interop tests: {error:#}");
        }
    }
    Ok(())
}

fn packages() -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|(_, program, _)| !is_there(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let services: Vec<&str> = missing.iter().flat_map(|(_, _, services)| services.iter().copied()).collect();
    eprintln!(
        "xtask: the daemons of {} are for tests: their services are neither started nor enabled",
        services.join(", ")
    );
    let names: Vec<&str> = missing.iter().map(|(package, ..)| *package).collect();
    let refusal = Refusal::new()?;
    let installed = setup::install(&names);
    drop(refusal);
    installed?;
    for service in services {
        disable(service);
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    if program.starts_with('/') { Path::new(program).is_file() } else { shell::which(program).is_some() }
}

/// Keeps a service from starting at boot. Where nothing starts services there is nothing to keep.
fn disable(service: &str) {
    let tools: [(&str, &[&str]); 2] =
        [("systemctl", &["disable", "--quiet", service]), ("update-rc.d", &[service, "disable"])];
    for (tool, arguments) in tools {
        if shell::which(tool).is_some() {
            let mut command = setup::as_root(tool);
            // A tool that does not run this machine's services refuses, and that is fine.
            let _ = command.args(arguments).stdin(Stdio::null()).output();
        }
    }
}

/// While it lives, packages that are being installed start no service. Where the machine has a policy of its own, that
/// one stays.
struct Refusal(bool);

impl Refusal {
    fn new() -> Result<Refusal> {
        if Path::new(POLICY).exists() {
            return Ok(Refusal(false));
        }
        let folder = cache::RunFolder::new()?;
        let written = folder.path.join("policy");
        fs::write(
            &written,
            "#!/bin/sh\n# Put here while test programs are installed; removed afterwards.\nexit 101\n",
        )?;
        shell::run(setup::as_root("install").args(["-m", "755"]).arg(&written).arg(POLICY))?;
        Ok(Refusal(true))
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if self.0
            && let Err(error) = shell::run(setup::as_root("rm").args(["-f", POLICY]))
        {
            eprintln!("xtask: {error:#}: remove {POLICY} by hand, or no package will start its service");
        }
    }
}

fn bird1(folder: &Path) -> Result<()> {
    let tree = folder.join("bird1");
    if tree.join("usr/sbin/bird").is_file() {
        return Ok(());
    }
    let version = shell::output(&mut shell::command("apt-cache", ["show", "--no-all-versions", BIRD1]))
        .with_context(|| format!("the package lists name no `{BIRD1}`"))?;
    if !version.lines().any(|line| line.starts_with("Version: 1.6")) {
        bail!("the package `{BIRD1}` of this release is not BIRD 1.6");
    }
    eprintln!("xtask: fetching BIRD 1.6 (once, unpacked, not installed)");
    let new = fresh(folder, "bird1.new")?;
    shell::output(shell::command("apt-get", ["download", "-qq", BIRD1]).current_dir(&new))?;
    for entry in fs::read_dir(&new)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(new.join("root")))?;
        }
    }
    put(&new.join("root"), &tree)?;
    fs::remove_dir_all(&new).map_err(Into::into)
}

fn gobgp4(folder: &Path) -> Result<()> {
    let tree = folder.join("gobgp4");
    let built = tree.join(GOBGP4);
    if built.is_file() && GOBGP4_PROGRAMS.iter().all(|program| tree.join(program).is_file()) {
        return Ok(());
    }
    let go = go()?;
    eprintln!("xtask: building GoBGP {GOBGP4} (once, into {})", tree.display());
    let new = fresh(folder, "gobgp4.new")?;
    let mut build = Command::new(go);
    build.arg("install");
    build.args(GOBGP4_PROGRAMS.map(|program| format!("github.com/osrg/gobgp/v4/cmd/{program}@{GOBGP4}")));
    build.env("GOBIN", &new).env("GOFLAGS", "-trimpath").env("GOTOOLCHAIN", "auto").env("CGO_ENABLED", "0");
    shell::run(build.current_dir(&new).stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr())))?;
    fs::write(new.join(GOBGP4), "")?;
    put(&new, &tree)
}

/// A Go compiler that can build it: 1.21 and newer fetch the release a module asks for.
fn go() -> Result<PathBuf> {
    const LEAST: (u32, u32) = (1, 21);
    let usable = |go: &Path| {
        let said = shell::output(&mut shell::command(go, ["env", "GOVERSION"])).unwrap_or_default();
        go_version(&said).is_some_and(|version| version >= LEAST)
    };
    let known =
        || shell::which("go").or_else(|| Some("/usr/local/go/bin/go".into()).filter(|go: &PathBuf| go.is_file()));
    if let Some(go) = known().filter(|go| usable(go)) {
        return Ok(go);
    }
    setup::install_from_backports(&["golang-go"])?;
    known().filter(|go| usable(go)).with_context(|| {
        format!("it needs Go {}.{}: install a Go of at least {}.{}", GOBGP4_GO.0, GOBGP4_GO.1, LEAST.0, LEAST.1)
    })
}

/// Major and minor of `go1.26.8`.
fn go_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().strip_prefix("go")?.split(['.', '-', ' ']).map(|number| {
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    Some((numbers.next()??, numbers.next()??))
}

fn fresh(folder: &Path, name: &str) -> Result<PathBuf> {
    let new = folder.join(name);
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    Ok(new)
}

/// Moves a finished tree to where it is looked for.
fn put(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::rename(from, to).with_context(|| format!("cannot put {} in its place", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_go() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(go_version("go1.23rc2"), Some((1, 23)));
        assert_eq!(go_version("devel"), None);
    }
}
