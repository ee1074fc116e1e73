//! `render`: what a node would hold for a cluster in files, without a kernel.

use std::fmt::Write as _;

use anyhow::{Context, bail};

use crate::app::translate::{firewall_config, proxy_config, routing_config};
use crate::cli::{Output, Render, RenderSource};
use crate::config::{Config, Purpose};
use crate::k8s::load_folder_once;
use crate::model::{NodeName, Snapshot};
use crate::{firewall, proxy, routing};

/// What a room would hold.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
enum Rendered {
    Proxy(Box<proxy::render::Rendered>),
    Firewall(Box<firewall::render::Rendered>),
    Routing(Box<routing::render::Rendered>),
}

impl std::fmt::Display for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rendered::Proxy(rendered) => rendered.fmt(f),
            Rendered::Firewall(rendered) => rendered.fmt(f),
            Rendered::Routing(rendered) => rendered.fmt(f),
        }
    }
}

/// What a node would hold, and what it does not because of the files.
#[derive(Debug, serde::Serialize)]
struct Answer {
    #[serde(flatten)]
    rendered: Rendered,
    /// What in the files could not be used.
    reports: Vec<String>,
}

/// The text of `ferrovia render`.
///
/// # Errors
/// Flags that do not fit together, files that cannot be read, a node or room that does not exist.
pub fn render(request: &Render) -> anyhow::Result<String> {
    if !["proxy", "firewall", "routing"].contains(&request.room.as_str()) {
        bail!("--room={}: there is proxy, firewall and routing", request.room);
    }
    let config = Config::new(&request.flags, Purpose::Render)?;
    let (snapshot, reports) = cluster(request)?;
    if snapshot.own_node().is_none() {
        let known: Vec<&str> = snapshot.nodes.keys().map(NodeName::as_str).collect();
        let node = &snapshot.node_name;
        bail!("--node={node}: the cluster has no such node; it has {}", known.join(", "));
    }
    let rendered = match request.room.as_str() {
        "firewall" => Rendered::Firewall(Box::new(firewall::render::render(&snapshot, &firewall_config(&config)))),
        "routing" => Rendered::Routing(Box::new(routing::render::render(&snapshot, &routing_config(&config)))),
        _ => Rendered::Proxy(Box::new(proxy::render::render(&snapshot, &proxy_config(&config)))),
    };
    let answer = Answer { rendered, reports };
    match request.output {
        Output::Text => Ok(text(&answer)),
        Output::Json => Ok(serde_json::to_string_pretty(&answer)? + "\n"),
    }
}

/// The cluster, and what in its files could not be used.
fn cluster(request: &Render) -> anyhow::Result<(Snapshot, Vec<String>)> {
    match &request.source {
        RenderSource::Manifests(folder) => {
            let node = request.node.as_deref().context("--manifests needs --node NAME: the node to decide for")?;
            let (snapshot, reports) = load_folder_once(folder, &NodeName::new(node))?;
            Ok((snapshot, reports.iter().map(ToString::to_string).collect()))
        }
        RenderSource::Snapshot(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("--snapshot={}: cannot be read", file.display()))?;
            let mut snapshot: Snapshot = serde_json::from_str(&text)
                .with_context(|| format!("--snapshot={}: is not what ferrovia snapshot prints", file.display()))?;
            if let Some(node) = &request.node {
                snapshot.node_name = NodeName::new(node.as_str());
            }
            Ok((snapshot, Vec::new()))
        }
    }
}

/// What was not used stands above everything else, as comments.
fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for report in &answer.reports {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# not used: {report}");
    }
    text + &answer.rendered.to_string()
}
