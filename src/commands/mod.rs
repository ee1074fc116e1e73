//! The commands beside the daemon: look at files, ask a running daemon, print generated pages. None needs root but
//! those that ask the daemon, and none but `drain` changes anything.

mod ask;
mod gen_docs;
mod gobgp;
mod render;

use std::path::Path;
use std::time::Duration;

pub use gen_docs::page;
pub use gobgp::gobgp;
pub use render::render;

pub use crate::telemetry::print;

use crate::admin::status::Status;
use crate::cli::Explained;

/// `ferrovia snapshot`: the cluster as a running daemon sees it, as JSON.
///
/// # Errors
/// No daemon listens there, or it has no snapshot yet.
pub fn snapshot(admin_socket: &Path) -> anyhow::Result<String> {
    Ok(ask::get(admin_socket, "/snapshot")? + "\n")
}

/// `ferrovia status`: one screen, and whether the daemon is healthy.
///
/// # Errors
/// No daemon listens there, or it answers something else.
pub fn status(admin_socket: &Path) -> anyhow::Result<(String, bool)> {
    let status: Status = serde_json::from_str(&ask::get(admin_socket, "/status")?)?;
    Ok((status.to_string(), status.unhealthy.is_empty()))
}

/// `ferrovia doctor`: what stands in the way on this node, one line each, and whether that is nothing.
///
/// # Errors
/// No daemon listens there, or it answers something else.
pub fn doctor(admin_socket: &Path) -> anyhow::Result<(String, bool)> {
    let status: Status = serde_json::from_str(&ask::get(admin_socket, "/status")?)?;
    let mut lines: Vec<String> = Vec::new();
    lines.extend(status.unhealthy.iter().map(|reason| format!("Unhealthy: {reason}")));
    lines.extend(status.unready.iter().map(|reason| format!("NotReady: {reason}")));
    for room in &status.rooms {
        lines.extend(room.failed.iter().map(|(key, reason)| format!("NotInForce: {}: {key}: {reason}", room.name)));
        let findings = ask::get(admin_socket, &format!("/debug/{}/findings", room.name))?;
        lines.extend(findings.lines().map(str::to_owned));
    }
    let well = lines.is_empty();
    let text = if well { "nothing found\n".to_owned() } else { lines.join("\n") + "\n" };
    Ok((text, well))
}

/// How often a drain is looked at while somebody waits for its end.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// `ferrovia drain`: begin a drain or end it; with `wait`, return when it is done. The text says how far it is, the
/// other value whether what was asked for is so.
///
/// # Errors
/// No daemon listens there, or it runs no router.
pub fn drain(admin_socket: &Path, stop: bool, wait: Option<Duration>) -> anyhow::Result<(String, bool)> {
    let method = if stop { "DELETE" } else { "POST" };
    let mut report = ask::send(admin_socket, method, "/drain")?;
    let Some(wait) = wait else { return Ok((report, true)) };
    // The first look may still be at what was before.
    let mut waited = Duration::ZERO;
    while !report.starts_with("drained") {
        if waited >= wait {
            return Ok((format!("not drained after {} s: {report}", wait.as_secs()), false));
        }
        waited += LOOK_AGAIN;
        std::thread::sleep(LOOK_AGAIN);
        report = ask::get(admin_socket, "/drain")?;
    }
    Ok((report, true))
}

/// `ferrovia explain …`: of a Service what each room that runs knows; of routes and peers what the router does, of pods what the firewall does.
///
/// # Errors
/// No daemon listens there, or the room that knows does not run.
pub fn explain(admin_socket: &Path, what: &Explained) -> anyhow::Result<String> {
    let ask = |room: &str, question: String| ask::get(admin_socket, &format!("/debug/{room}/explain/{question}"));
    match what {
        Explained::Route(prefix) => ask("routing", format!("route/{prefix}")),
        Explained::Peer(address) => ask("routing", format!("peer/{address}")),
        Explained::Pod(pod) => ask("firewall", format!("pod/{pod}")),
        Explained::Service(service) => {
            let status: Status = serde_json::from_str(&ask::get(admin_socket, "/status")?)?;
            let mut text = String::new();
            for room in &status.rooms {
                let answer = ask(&room.name, format!("service/{service}"))?;
                if status.rooms.len() > 1 {
                    text.push_str(&format!("# {}\n", room.name));
                }
                text.push_str(&answer);
            }
            Ok(text)
        }
    }
}
