//! The one door to every development command of Ferrovia: `cargo xtask help` lists them.
//!
//! Needs nothing installed but the toolchain. What a command needs beyond that it either installs
//! (`cargo xtask setup`) or names in its error.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command-line tool talks on the terminal and starts processes"
)]

mod shell;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  vm [OPTIONS] [--] CMD ARG…   run a command as root in a guest kernel (vm --help)
  vm setup                     install what the guest needs
  vm test [LIBTEST ARGS]       run the tests that need a guest kernel
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
    match command.to_str() {
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(0)
        }
        Some("vm") => vm::main(rest),
        _ => bail!("unknown command {command:?}; `cargo xtask help` lists them"),
    }
}
