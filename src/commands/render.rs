//! `render`: what a node would hold for a cluster in files, without a kernel.
//!
//! The same pure functions as in the daemon. What only the kernel knows is assumed: no addresses but the Node object's,
//! an MTU of 1500.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, bail};

use crate::app::translate::proxy_config;
use crate::cli::{Output, Render, RenderSource};
use crate::config::{Config, Purpose};
use crate::k8s::load_folder_once;
use crate::kernel::ipvs::Table;
use crate::kernel::ipvs::text::Saved;
use crate::model::{NodeName, Notice, ServiceKey, Snapshot};
use crate::proxy;
use crate::proxy::book::Book;
use crate::proxy::desired::build_service;

/// What a node would hold, in the operators' own languages.
#[derive(Debug, serde::Serialize)]
struct Rendered {
    node: String,
    /// VIPs that are local to the node.
    vips: Vec<IpAddr>,
    /// Lines of `ipvsadm -Sn`.
    ipvs: Vec<String>,
    /// Health-check node ports: port, Service, ready local endpoints.
    health_checks: BTreeMap<u16, String>,
    /// What owners of objects should know.
    notices: Vec<Notice>,
    /// What in the files could not be used.
    reports: Vec<String>,
}

/// The text of `ferrovia render`.
///
/// # Errors
/// Flags that do not fit together, files that cannot be read, a node or room that does not exist.
pub fn render(request: &Render) -> anyhow::Result<String> {
    if request.room != "proxy" {
        bail!("--room={}: this version renders the room proxy only", request.room);
    }
    let config = Config::new(&request.flags, Purpose::Render)?;
    let (snapshot, reports) = cluster(request)?;
    if snapshot.own_node().is_none() {
        let known: Vec<&str> = snapshot.nodes.keys().map(NodeName::as_str).collect();
        let node = &snapshot.node_name;
        bail!("--node={node}: the cluster has no such node; it has {}", known.join(", "));
    }
    let rendered = decide(&snapshot, &proxy_config(&config), reports);
    match request.output {
        Output::Text => Ok(text(&rendered)),
        Output::Json => Ok(serde_json::to_string_pretty(&rendered)? + "\n"),
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

fn decide(snapshot: &Snapshot, config: &proxy::Config, reports: Vec<String>) -> Rendered {
    const MTU: u32 = 1500;
    let view = proxy::NodeView::new(snapshot, &[], MTU);
    let mut book = Book::default();
    for key in snapshot.services.keys() {
        book.set(key, build_service(key, snapshot, config, &view));
    }
    let table: Table = book.virtual_servers().map(|(key, server)| (*key, (**server).clone())).collect();
    let health_check = |(port, (service, ready)): (u16, (ServiceKey, usize))| (port, format!("{service} {ready}"));
    Rendered {
        node: snapshot.node_name.to_string(),
        vips: book.bound().copied().collect(),
        ipvs: Saved(&table).to_string().lines().map(str::to_owned).collect(),
        health_checks: book.health_checks().into_iter().map(health_check).collect(),
        notices: book.notices(),
        reports,
    }
}

/// Sections that tools read: everything else is a comment.
fn text(rendered: &Rendered) -> String {
    let mut text = format!("# node {}\n", rendered.node);
    for report in &rendered.reports {
        let _ = writeln!(text, "# not used: {report}");
    }
    for notice in &rendered.notices {
        let _ = writeln!(text, "# {} ({}): {}", notice.subject, notice.reason, notice.message);
    }
    text.push_str("\n# addresses of kube-dummy-if\n");
    for vip in &rendered.vips {
        let length = crate::net::Family::of(*vip).host_length();
        let _ = writeln!(text, "ip address add {vip}/{length} dev {}", proxy::DUMMY_LINK);
    }
    text.push_str("\n# ipvsadm -Sn\n");
    for line in &rendered.ipvs {
        let _ = writeln!(text, "{line}");
    }
    if !rendered.health_checks.is_empty() {
        text.push_str("\n# health check node ports: port, service, ready endpoints here\n");
        for (port, service) in &rendered.health_checks {
            let _ = writeln!(text, "# {port} {service}");
        }
    }
    text
}
