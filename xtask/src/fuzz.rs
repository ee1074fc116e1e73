//! `cargo xtask fuzz`: one decoder, for a bounded time, with the nightly compiler or, where there is none, with the one at
//! hand told to be one.

use anyhow::{Context, Result, bail};

use crate::shell;

const DEFAULT_SECONDS: u32 = 60;

/// Runs `TARGET [--seconds N]` from the `fuzz` package; what it finds stays in `fuzz/artifacts`.
pub(crate) fn fuzz(arguments: &[&str]) -> Result<()> {
    let (target, seconds) = parse(arguments)?;
    let root = shell::root();
    if !root.join("fuzz/Cargo.toml").exists() {
        bail!("there is no fuzz package in {}", root.display());
    }
    if shell::which("cargo-fuzz").is_none() && !installed_by_cargo("cargo-fuzz") {
        shell::run(&mut shell::command("cargo", ["install", "--locked", "cargo-fuzz"]))?;
    }
    let limit = format!("-max_total_time={seconds}");
    let arguments = ["fuzz", "run", target, "--", &limit];
    let mut run = if has_nightly() {
        let mut run = shell::command("cargo", [&["+nightly"][..], arguments.as_slice()].concat());
        // The pinned compiler of this repository must not reach the nightly one.
        run.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
        run
    } else {
        let mut run = shell::command("cargo", arguments);
        run.env("RUSTC_BOOTSTRAP", "1");
        run
    };
    shell::run(run.current_dir(root))
}

fn has_nightly() -> bool {
    let mut ask = shell::command("rustc", ["+nightly", "--version"]);
    shell::output(ask.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC")).is_ok()
}

fn parse<'a>(arguments: &[&'a str]) -> Result<(&'a str, u32)> {
    match arguments {
        [target] => Ok((target, DEFAULT_SECONDS)),
        [target, "--seconds", n] | ["--seconds", n, target] => {
            Ok((target, n.parse().with_context(|| format!("--seconds {n} is no number"))?))
        }
        _ => bail!("say `cargo xtask fuzz TARGET [--seconds N]`; targets are in fuzz/fuzz_targets"),
    }
}

/// Whether it is in cargo's own folder, which need not be in `PATH`.
fn installed_by_cargo(program: &str) -> bool {
    shell::output(&mut shell::command("cargo", ["install", "--list"]))
        .is_ok_and(|list| list.lines().any(|line| line.trim() == program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_bounded() {
        assert_eq!(parse(&["wire"]).unwrap(), ("wire", 60));
        assert_eq!(parse(&["wire", "--seconds", "5"]).unwrap(), ("wire", 5));
        assert!(parse(&["wire", "--seconds", "long"]).is_err());
        assert!(parse(&[]).is_err());
    }
}
