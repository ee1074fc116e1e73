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

/// `ferrovia explain service NS/NAME`: where one Service is served on this node, and what stands in the way.
///
/// # Errors
/// No daemon listens there, or it runs no service proxy.
pub fn explain_service(admin_socket: &Path, service: &str) -> anyhow::Result<String> {
    ask::get(admin_socket, &format!("/debug/proxy/explain/service/{service}"))
}
