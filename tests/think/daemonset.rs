//! The manifests in `daemonset/`: their arguments are accepted, and the cluster role lets the daemon read what it needs.

use std::collections::BTreeSet;
use std::path::Path;

use ferrovia::cli::{self, Environment, Request};
use ferrovia::config::{Config, Features, Purpose};
use serde_json::Value;

/// All documents of a file.
fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("daemonset").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).expect(file)).collect()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the daemon of a file runs.
fn features(file: &str) -> Features {
    let documents = documents(file);
    let set = documents.iter().find(|document| document["kind"] == "DaemonSet").expect(file);
    let containers = set["spec"]["template"]["spec"]["containers"].as_array().expect(file);
    let arguments = containers.iter().flat_map(|container| strings(&container["args"]));
    let request = cli::parse(std::iter::once("ferrovia").chain(arguments), &Environment::default());
    let Ok(Request::Run(flags)) = request else { panic!("{file}: {request:?}") };
    Config::new(&flags, Purpose::Daemon).unwrap_or_else(|faults| panic!("{file}: {faults}")).features
}

#[test]
fn the_manifests_run_what_their_names_say() {
    let shown = |file| {
        let Features { proxy, router, firewall, .. } = features(file);
        (proxy, router, firewall)
    };
    assert_eq!(shown("ferrovia-proxy.yaml"), (true, false, false));
    assert_eq!(shown("ferrovia-proxy-dsr.yaml"), (true, false, false));
    assert_eq!(shown("ferrovia-firewall.yaml"), (false, false, true));
    assert_eq!(shown("ferrovia-all.yaml"), (true, true, true));
}

#[test]
fn the_cluster_role_lets_the_daemon_list_and_watch_what_it_reads() {
    let documents = documents("rbac.yaml");
    let role = documents.iter().find(|document| document["kind"] == "ClusterRole").expect("a role");
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        let verbs = strings(&rule["verbs"]);
        if verbs.contains(&"list") && verbs.contains(&"watch") {
            for group in strings(&rule["apiGroups"]) {
                granted.extend(strings(&rule["resources"]).into_iter().map(|resource| (group, resource)));
            }
        }
    }
    let read = [
        ("", "services"),
        ("", "nodes"),
        ("", "pods"),
        ("", "namespaces"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "networkpolicies"),
        ("policy.networking.k8s.io", "clusternetworkpolicies"),
    ];
    assert_eq!(granted, BTreeSet::from(read));
}
