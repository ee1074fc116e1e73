//! `cargo xtask image`: a static binary, and the container images of the `Dockerfile` with it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cargo::executables;
use crate::check::step;
use crate::shell;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Stages of the `Dockerfile` that become images, and what their tags end in.
const IMAGES: &[(&str, &str)] = &[("default", ""), ("tools", "-tools")];

/// Programs that build images, and how each is asked whether it can.
const BUILDERS: &[(&str, &[&str])] = &[("docker", &["info"]), ("podman", &["info"]), ("buildah", &["info"])];

/// Fails when no image was built; the binary is there then all the same.
pub(crate) fn image() -> Result<()> {
    let folder = shell::root().join("target/image");
    fs::create_dir_all(&folder)?;
    let binary = folder.join("ferrovia");
    static_binary(&binary)?;
    let Some((builder, _)) = BUILDERS.iter().find(|(program, ask)| works(program, ask)) else {
        bail!(
            "no image was built: neither docker, podman nor buildah works on this machine. The static binary is {}",
            binary.display()
        );
    };
    let version = version()?;
    for (stage, suffix) in IMAGES {
        let tag = format!("ferrovia:{version}{suffix}");
        step(&format!("image {tag} with {builder}"));
        let mut build = shell::command(builder, ["build", "--target", stage, "--tag", &tag, "."]);
        shell::run(build.current_dir(shell::root()))?;
        println!("image: {tag}");
    }
    Ok(())
}

/// Builds for musl, which links everything in.
fn static_binary(to: &Path) -> Result<()> {
    let sysroot = shell::output(&mut shell::command("rustc", ["--print", "sysroot"]))?;
    if !Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).exists() {
        bail!("the compiler has no {TARGET} library: `rustup target add {TARGET}` installs it");
    }
    if shell::which("musl-gcc").is_none() {
        bail!("musl-gcc is missing, which the cryptography is built with: install the package musl-tools");
    }
    step("static binary");
    let [built] = executables(&["build", "--release", "--target", TARGET, "--bin", "ferrovia"], ["ferrovia"])?;
    fs::copy(&built, to).with_context(|| format!("cannot copy {} to {}", built.display(), to.display()))?;
    link_as_gobgp(to)?;
    let size = fs::metadata(to)?.len() / 1024;
    println!("binary: {} ({size} KiB)", to.display());
    Ok(())
}

/// Beside the binary a folder with the link under which it is gobgp's command line. A folder, because only links inside
/// one are copied into an image as links.
fn link_as_gobgp(binary: &Path) -> Result<()> {
    let folder = binary.with_file_name("links");
    fs::create_dir_all(&folder)?;
    let link = folder.join("gobgp");
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink("ferrovia", &link).with_context(|| format!("cannot make {}", link.display()))
}

/// Installed is not enough: a client without its daemon builds nothing.
fn works(program: &str, ask: &[&str]) -> bool {
    let mut ask = shell::command(program, ask);
    ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell::which(program).is_some() && ask.status().is_ok_and(|status| status.success())
}

/// The package's version, from its manifest.
pub(crate) fn version() -> Result<String> {
    let manifest = fs::read_to_string(shell::root().join("Cargo.toml"))?;
    let line =
        manifest.lines().skip_while(|line| *line != "[package]").find_map(|line| line.strip_prefix("version = "));
    Ok(line.context("Cargo.toml has no version")?.trim_matches('"').to_owned())
}
