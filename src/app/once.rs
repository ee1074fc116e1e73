//! What is done once and then over: `--cleanup-config` and `--dry-run`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::dry_run::{Journal, dry, dry_firewall, dry_router};
use super::{backend, door_config, doors, router, translate};
use crate::config::Config;
use crate::k8s;
use crate::model::{NodeName, Snapshot};
use crate::proxy::reconciler::Outputs;
use crate::reconcile::query::View;
use crate::reconcile::{Outcome, Read, Subsystem};
use crate::routing::reconciler::Figures;
use crate::routing::sessions::Mute;
use crate::telemetry::print;
use crate::{firewall, proxy, routing};

/// Take away everything of ours. Failures are logged, and do not change the exit code, as in kube-router.
pub(super) fn clean_up(config: &Config, node: NodeName) -> anyhow::Result<ExitCode> {
    let mut n_ops = 0;
    let mut n_failed = 0;
    let mut told = |room: &str, outcome: anyhow::Result<Outcome>| match outcome {
        Ok(outcome) => {
            for (key, reason) in &outcome.failed {
                tracing::error!(key, reason, "could not remove");
            }
            n_ops += outcome.ops;
            n_failed += outcome.failed.len();
        }
        Err(error) => {
            tracing::error!(room, reason = format!("{error:#}"), "could not remove");
            n_failed += 1;
        }
    };
    told(
        "firewall",
        backend::find(config.rule_backend, config.features.router)
            .and_then(|tables| doors::open_firewall(&tables))
            .map(|kernel| {
                let figures = watch::channel(firewall::reconciler::Figures::default()).0;
                firewall::reconciler::Room::new(translate::firewall_config(config), kernel, figures).clean_up()
            }),
    );
    told(
        "proxy",
        backend::find(config.rule_backend, config.features.router).and_then(|tables| doors::open(&tables)).map(
            |kernel| {
                proxy::reconciler::Room::new(translate::proxy_config(config), kernel, Outputs::default()).clean_up(node)
            },
        ),
    );
    told(
        "routing",
        backend::find(config.rule_backend, config.features.router)
            .and_then(|tables| doors::open_router(&config.router, &tables))
            .map(|kernel| {
                let figures = watch::channel(Figures::default()).0;
                let settings = translate::routing_config(config);
                routing::reconciler::Room::new(settings, kernel, Mute, None, figures).clean_up()
            }),
    );
    match router::remove_gate(config) {
        Ok(restored) => n_ops += usize::from(restored),
        Err(error) => {
            tracing::error!(reason = routing::cni::with_cause(&error), "could not remove the CNI gate");
            n_failed += 1;
        }
    }
    tracing::info!(n_ops, n_failed, "cleaned up");
    Ok(ExitCode::SUCCESS)
}

/// Decide for the cluster as it is, and print what would be written to the kernel as it is.
pub(super) async fn dry_run(config: &Config, node: NodeName) -> anyhow::Result<ExitCode> {
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
    let config = config.clone();
    let passes = move || passes(&config, &published.snapshot);
    let (text, whole) = tokio::task::spawn_blocking(passes).await.context("the pass ended midway")??;
    print(&text)?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What each room would write, and whether that would be everything.
fn passes(config: &Config, snapshot: &Snapshot) -> anyhow::Result<(String, bool)> {
    let journal = Journal::default();
    let tables = backend::find(config.rule_backend, config.features.router)?;
    let mut whole = true;
    let mut outcomes = Vec::new();
    if config.features.firewall {
        let kernel = dry_firewall(doors::open_firewall(&tables)?, &journal);
        let figures = watch::channel(firewall::reconciler::Figures::default()).0;
        let mut room = firewall::reconciler::Room::new(translate::firewall_config(config), kernel, figures);
        outcomes.push(room.sync(snapshot, Read::Kernel, Duration::ZERO));
    }
    if config.features.proxy {
        let kernel = dry(doors::open(&tables)?, &journal);
        let mut room = proxy::reconciler::Room::new(translate::proxy_config(config), kernel, Outputs::default());
        outcomes.push(room.sync(snapshot, Read::Kernel, Duration::ZERO));
    }
    let mut told = String::new();
    if config.features.router {
        let kernel = dry_router(doors::open_router(&config.router, &tables)?, &journal);
        let figures = watch::channel(Figures::default()).0;
        let mut room = routing::reconciler::Room::new(router::settings(config)?, kernel, Mute, None, figures);
        outcomes.push(room.sync(snapshot, Read::Kernel, Duration::ZERO));
        let desired = room.answer(&View::Desired);
        told = desired.lines().take_while(|line| *line != "# ip").map(|line| format!("{line}\n")).collect();
    }
    let mut text = String::new();
    let lines = journal.take();
    text.push_str(&format!("# dry run: {} changes, nothing was written\n", lines.len()));
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&told);
    for outcome in outcomes {
        whole &= outcome.failed.is_empty();
        text.push_str(&report(&outcome));
    }
    Ok((text, whole))
}

/// What stands in the way, as comments.
fn report(outcome: &Outcome) -> String {
    let mut text = String::new();
    for notice in &outcome.notices {
        text.push_str(&format!("# {} ({}): {}\n", notice.subject, notice.reason, notice.message));
    }
    for (key, reason) in &outcome.failed {
        text.push_str(&format!("# cannot be brought into force: {key}: {reason}\n"));
    }
    text
}
