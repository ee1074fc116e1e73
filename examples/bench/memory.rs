//! How much memory the daemon itself takes: the real binary, fed from a folder.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrovia::testing::lab::{DaemonOptions, Lab, Options, wait};
use serde_json::{Value, json};

use super::cluster::ENDPOINTS;
use super::scenarios::N_SERVICES;
use super::table::Row;

/// Pods of the cluster.
const N_PODS: usize = 10_000;
/// Objects of one file.
const FILE: usize = 500;
/// What the daemon may keep resident, MiB.
const BAR: f64 = 80.0;
/// Reading all those files takes a while in an emulated guest.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the daemon on a folder of 10,000 Services, 50,000 endpoints and 10,000 pods and reads its resident size.
pub(crate) fn resident(_repetitions: usize) -> Result<Vec<Row>> {
    let lab = Lab::up(Options { nodes: 1, pods: 1, ..Options::default() })?;
    for first in (0..N_PODS).step_by(FILE) {
        let pods: Vec<Value> = (first..first + FILE).map(pod).collect();
        lab.manifests().write(&format!("pods-{first}"), &pods)?;
    }
    for first in (0..N_SERVICES).step_by(FILE) {
        let objects: Vec<Value> = (first..first + FILE).flat_map(service).collect();
        lab.manifests().write(&format!("services-{first}"), &objects)?;
    }
    let node = &lab.node(1)?.ns;
    let mut options = DaemonOptions::with(&["--service-cluster-ip-range=10.0.0.0/8,fd00:96::/112"]);
    options.environment.clear();
    let mut daemon = lab.start_daemon(1, &options)?;
    wait::until("everything is programmed", LIMIT, || {
        if let Some(status) = daemon.try_status()? {
            return Ok(Err(anyhow::anyhow!("the daemon ended: {status}\n{}", daemon.log())));
        }
        let n = node.run(|| {
            let table = std::fs::read_to_string("/proc/thread-self/net/ip_vs")?;
            Ok(table.lines().filter(|line| line.trim_start().starts_with("-> ") && line.contains("Masq")).count())
        })?;
        ensure!(n == N_SERVICES * ENDPOINTS, "{n} real servers");
        Ok(Ok(()))
    })??;
    daemon.wait_ready()?;
    let status = format!("/proc/{}/status", daemon.pid().context("the daemon is gone")?);
    let status = std::fs::read_to_string(&status).with_context(|| format!("read {status}"))?;
    let (resident, peak) = (mebibytes(&status, "VmRSS:")?, mebibytes(&status, "VmHWM:")?);
    Ok(vec![Row::figure(
        &format!("resident memory at {N_SERVICES} Services, {} endpoints, {N_PODS} pods", N_SERVICES * ENDPOINTS),
        format!("peak {peak:.0} MiB"),
        format!("{resident:.0} MiB"),
        &format!("≤ {BAR:.0} MiB"),
        resident <= BAR,
    )])
}

/// A field of `/proc/PID/status`.
fn mebibytes(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{field} {line}"))?;
    Ok(kibibytes / 1024.0)
}

/// The address of pod `index`.
fn pod_address(index: usize) -> String {
    format!("10.128.{}.{}", index / 250, index % 250 + 1)
}

/// A pod as the API would give it.
fn pod(index: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{index}"), "namespace": "bench", "labels": {"app": "bench"}},
        "spec": {"nodeName": format!("n{}", index % 100), "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": pod_address(index), "podIPs": [{"ip": pod_address(index)}]},
    })
}

/// A Service and its slice.
fn service(index: usize) -> [Value; 2] {
    let name = format!("service-{index}");
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|n| {
            let pod = (index * ENDPOINTS + n) % N_PODS;
            json!({
                "addresses": [pod_address(pod)],
                "conditions": {"ready": true},
                "nodeName": format!("n{}", pod % 100),
                "targetRef": {"kind": "Pod", "name": format!("pod-{pod}"), "namespace": "bench"},
            })
        })
        .collect();
    let address = format!("10.100.{}.{}", index / 250, index % 250 + 1);
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "bench"},
            "spec": {
                "clusterIP": address,
                "clusterIPs": [address],
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-a"), "namespace": "bench", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": endpoints,
        }),
    ]
}
