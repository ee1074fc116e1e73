//! The commands beside the daemon: look at files, ask a running daemon, print generated pages. None needs root but
//! those that ask the daemon, and none changes anything.

mod ask;
mod gen_docs;
mod render;

use std::path::Path;

pub use gen_docs::page;
pub use render::render;

pub use crate::telemetry::print;

use crate::admin::status::Status;

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

/// `ferrovia explain service NS/NAME`: where one Service is served on this node and announced, and what stands in the
/// way. Every room that runs answers.
///
/// # Errors
/// No daemon listens there, or no room answers.
pub fn explain_service(admin_socket: &Path, service: &str) -> anyhow::Result<String> {
    let answers = ["proxy", "routing"].map(|room| {
        let text = ask::get(admin_socket, &format!("/debug/{room}/explain/service/{service}"))?;
        anyhow::Ok(format!("# {room}\n{text}"))
    });
    let mut text = String::new();
    let mut refusal = None;
    for answer in answers {
        match answer {
            Ok(answer) => text.push_str(&answer),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match refusal {
        Some(refusal) if text.is_empty() => Err(refusal),
        _ => Ok(text),
    }
}

/// `ferrovia explain route ADDRESS` and `explain peer ADDRESS`: what the router does about them, and why.
///
/// # Errors
/// No daemon listens there, or it runs no router.
pub fn explain_routing(admin_socket: &Path, question: &str) -> anyhow::Result<String> {
    ask::get(admin_socket, &format!("/debug/routing/explain/{question}"))
}
