//! `ferrovia`: read the command line, do what it says, tell how it went by the exit code.

use std::process::ExitCode;

use ferrovia::cli::{self, Environment, Flags, Request};
use ferrovia::config::{Config, Purpose};
use ferrovia::telemetry::log::{self, LogOptions};
use ferrovia::{app, commands};
use tikv_jemallocator::Jemalloc;

/// Routes, endpoints and pods come and go by the ten thousand, and the static binary would have the allocator of musl, with
/// one lock for every call (ADR 0023).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let request = match cli::parse(std::env::args_os(), &Environment::of_process()) {
        Ok(request) => request,
        Err(refusal) => {
            tell(&refusal.text);
            return ExitCode::from(refusal.code);
        }
    };
    match follow(request) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn follow(request: Request) -> anyhow::Result<ExitCode> {
    let text = match request {
        Request::Run(flags) => return run(&flags),
        Request::Print(text) => text,
        Request::Render(request) => commands::render(&request)?,
        Request::Snapshot { admin_socket } => commands::snapshot(&admin_socket)?,
        Request::Status { admin_socket } => {
            let (text, healthy) = commands::status(&admin_socket)?;
            commands::print(&text)?;
            return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Request::Explain { admin_socket, what } => commands::explain(&admin_socket, &what)?,
        Request::Gobgp(asked) => return commands::gobgp(&asked),
        Request::Doctor { admin_socket } => {
            let (text, well) = commands::doctor(&admin_socket)?;
            commands::print(&text)?;
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Request::Drain { admin_socket, stop, wait } => {
            let (text, drained) = commands::drain(&admin_socket, stop, wait)?;
            commands::print(&text)?;
            return Ok(if drained { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Request::GenDocs(page) => commands::page(page),
    };
    commands::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "must run as root: it changes the node's network");
    let config = Config::new(flags, Purpose::Daemon)?;
    let filter = std::env::var("RUST_LOG").ok();
    // A dry run prints what it would do; a log that says it was done would be wrong.
    let verbosity = if config.dry_run { config.verbosity.saturating_sub(1) } else { config.verbosity };
    log::init(&LogOptions { json: config.log_json, verbosity, filter })?;
    app::run(config)
}

/// Before there is a log, and for commands, which have none.
#[allow(clippy::print_stderr, reason = "the message of a command goes to its standard error")]
fn tell(text: &str) {
    eprint!("{text}");
}
