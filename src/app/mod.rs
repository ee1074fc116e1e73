//! The composition root: the only file that knows every part. It builds, wires, waits and stops.

pub mod translate;

mod lock;
mod observer;
mod signals;
mod vitals;

use std::process::ExitCode;

use crate::config::Config;

/// Run the daemon until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    if config.features.nothing_to_run() {
        tracing::info!("none of router, firewall and service proxy is to run, so there is nothing to do");
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("not wired")
}
