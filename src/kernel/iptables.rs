//! iptables by its own programs, where a node has them: the one place that starts processes.
//!
//! Native netlink cannot reach the legacy tables, and the nftables flavour must be changed in its own words. Needed
//! only to take rules of a predecessor away; a node without the programs has nothing to run and is told so by `save`
//! returning nothing.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Disposition, Error};

/// The flavours a node may have, each with its own rules.
pub const FLAVOURS: [&str; 4] = ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"];

/// What `<flavour>-save` prints, or `None` where the program is not installed or has no rules to show.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn save(flavour: &str) -> Option<String> {
    let output = Command::new(format!("{flavour}-save")).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Feeds `script` to `<flavour>-restore --noflush`: all of a table or nothing of it.
///
/// # Errors
/// When the program cannot be started or refuses the script; its own words are in the message.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn restore(flavour: &str, script: &str) -> Result<(), Error> {
    let program = format!("{flavour}-restore");
    let failed =
        |message: String| Error { op: format!("{program} --noflush"), errno: None, message, kind: Disposition::Retry };
    let mut child = Command::new(&program)
        .args(["--noflush", "--wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
