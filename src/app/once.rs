//! What is done once and then over: `--cleanup-config` and `--dry-run`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::dry_run::{Journal, dry};
use super::{door_config, doors, translate};
use crate::config::Config;
use crate::k8s;
use crate::model::NodeName;
use crate::proxy::reconciler::{Outputs, Room};
use crate::reconcile::{Outcome, Read, Subsystem};
use crate::telemetry::print;

/// Take away everything of ours. Failures are logged, and do not change the exit code, as in kube-router.
pub(super) fn clean_up(config: &Config, node: NodeName) -> anyhow::Result<ExitCode> {
    let room = Room::new(translate::proxy_config(config), doors::open()?, Outputs::default());
    let outcome = room.clean_up(node);
    for (key, reason) in &outcome.failed {
        tracing::error!(key, reason, "could not remove");
    }
    tracing::info!(n_ops = outcome.ops, n_failed = outcome.failed.len(), "cleaned up");
    Ok(ExitCode::SUCCESS)
}

/// Decide for the cluster as it is, and print what would be written to the kernel as it is.
pub(super) async fn dry_run(config: &Config, node: NodeName) -> anyhow::Result<ExitCode> {
    let journal = Journal::default();
    let mut room = Room::new(translate::proxy_config(config), dry(doors::open()?, &journal), Outputs::default());
    let (_stop, stopping) = watch::channel(false);
    let mut door = k8s::start(door_config(config, node), stopping).await?;
    let published = tokio::select! {
        published = door.snapshots.wait_for(|published| published.snapshot.generation.0 > 0) => {
            published.context("the front door closed")?.clone()
        }
        ended = &mut door.task => {
            ended.context("the front door ended midway")??;
            anyhow::bail!("the front door closed before there was a snapshot");
        }
    };
    let outcome = tokio::task::spawn_blocking(move || room.sync(&published.snapshot, Read::Kernel, Duration::ZERO))
        .await
        .context("the pass ended midway")?;
    print(&report(&journal.take(), &outcome))?;
    Ok(if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The commands an operator would type, and what stands in the way as comments.
fn report(lines: &[String], outcome: &Outcome) -> String {
    let mut text = format!("# dry run: {} changes, nothing was written\n", lines.len());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    for notice in &outcome.notices {
        text.push_str(&format!("# {} ({}): {}\n", notice.subject, notice.reason, notice.message));
    }
    for (key, reason) in &outcome.failed {
        text.push_str(&format!("# cannot be brought into force: {key}: {reason}\n"));
    }
    text
}
