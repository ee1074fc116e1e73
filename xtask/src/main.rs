//! The one door to every development command of Ferrovia: `cargo xtask help` lists them.
//!
//! Needs nothing installed but the toolchain. What a command needs beyond that it either installs
//! (`cargo xtask setup`) or names in its error.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command-line tool talks on the terminal, starts processes and waits for them"
)]

mod cargo;
mod check;
mod commit;
mod fuzz;
mod generated;
mod image;
mod programs;
mod release;
mod setup;
mod shell;
mod supply;
mod tidy;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  setup                 git hooks, the guest's packages and kernel; says what is missing on this machine
  check                 formatting, lints, tidy, every test that needs no guest: before a push
  test [TIER]           all tests; or one tier: tidy, host, netns, interop, vm
  bless                 rewrite golden files, then show the difference
  gen [--check]         write the pages made from the code; --check: fail if they are stale
  tidy [--text]         house rules: architecture, sizes, words, links; --text: only the quick part
  supply                licences, duplicates and sources of dependencies, as deny.toml says
  ci                    what follows the tests in CI: formatting, lints, documentation, benches, pages, supply

  vm [OPTIONS] CMD…     run a command on a guest kernel (vm --help)
  demo                  the demonstration, in the guest
  demo-shell            the demonstration, then a shell in it
  bench [bgp]           benchmarks beside other BGP daemons, and against a guest kernel; table in target/bench/latest.md;
                        bgp: only the former
  fuzz TARGET [--seconds N]
                        fuzz one decoder for a bounded time (default 60)

  image                 a static binary and, where a builder works, the container images
  release VERSION       changelog heading, version, and what to tag
";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match dispatch(&args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one command and returns the exit status to end with.
fn dispatch(args: &[OsString]) -> Result<u8> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(2);
    };
    let command = command.to_str().unwrap_or_default();
    // The guest's command line is the only one that need not be text.
    if command == "vm" {
        return vm::main(rest);
    }
    let rest = rest.iter().map(|word| word.to_str().with_context(|| format!("{word:?} is not text")));
    let rest: Vec<&str> = rest.collect::<Result<_>>()?;
    let ok = |result: Result<()>| result.map(|()| 0);
    match (command, rest.as_slice()) {
        ("help" | "--help" | "-h", []) => {
            print!("{HELP}");
            Ok(0)
        }
        ("setup", []) => ok(setup::setup()),
        ("check", []) => ok(check::check()),
        ("test", []) => check::test_all(),
        ("test", [tier, arguments @ ..]) => check::test_tier(tier, arguments),
        ("bless", []) => ok(check::bless()),
        ("gen", []) => ok(generated::write()),
        ("gen", ["--check"]) => ok(generated::check()),
        ("tidy", []) => ok(tidy::tidy()),
        ("tidy", ["--text"]) => ok(tidy::tidy_text()),
        ("supply", []) => ok(supply::check()),
        ("ci", []) => ok(check::ci()),
        ("commit-message", [file]) => ok(commit::check(file)),
        ("demo", arguments) => programs::demo(arguments),
        ("demo-shell", []) => programs::demo_shell(),
        ("bench", arguments) => programs::bench(arguments),
        ("fuzz", arguments) => ok(fuzz::fuzz(arguments)),
        ("image", []) => ok(image::image()),
        ("release", [version]) => ok(release::release(version)),
        _ => bail!("`{command} {}` is no command; `cargo xtask help` lists them", rest.join(" ")),
    }
}
