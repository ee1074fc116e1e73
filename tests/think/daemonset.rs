//! The manifests in `daemonset/`: their arguments are accepted, and the cluster role lets the daemon read what it needs.

use std::collections::BTreeSet;
use std::path::Path;

use ferrovia::cli::{self, Environment, Request};
use ferrovia::config::{Config, Features, Purpose};
use ferrovia::routing::cni::{CniFile, Gate};
use ferrovia::testing::builders::prefix;
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

/// What the init container does on a host whose folders are these.
#[allow(clippy::disallowed_methods, reason = "the shell runs the manifest's script, as the container does")]
fn set_up_cni(host: &Path, run: &Path) {
    let documents = documents("ferrovia-all.yaml");
    let set = documents.iter().find(|document| document["kind"] == "DaemonSet").expect("a daemon set");
    let container = &set["spec"]["template"]["spec"]["initContainers"][0];
    let mounts: Vec<&str> =
        container["volumeMounts"].as_array().into_iter().flatten().filter_map(|it| it["mountPath"].as_str()).collect();
    let script = container["command"][2].as_str().expect("a script");
    let mut here = script.replace("/run/ferrovia", &run.display().to_string());
    for mount in mounts {
        let place = host.join(mount.trim_start_matches('/'));
        std::fs::create_dir_all(&place).expect("a folder");
        here = here.replace(mount, &place.display().to_string());
    }
    let map = documents.iter().find(|document| document["kind"] == "ConfigMap").expect("a config map");
    let configuration = map["data"]["cni-conf.json"].as_str().expect("a configuration");
    std::fs::write(host.join("etc/ferrovia/cni-conf.json"), configuration).expect("the configuration");
    let done = std::process::Command::new("sh").arg("-c").arg(here).status().expect("sh");
    assert!(done.success(), "{done}");
}

#[test]
fn a_new_node_begins_with_the_cni_gate_closed_and_the_daemon_opens_it() {
    let (host, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let folder = host.path().join("etc/cni/net.d");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("99-other.conf"), "{}").unwrap();
    set_up_cni(host.path(), memory.path());
    let path = folder.join("10-kuberouter.conflist");
    assert!(path.is_symlink() && !path.exists(), "the gate is closed");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no other configuration is left");
    let gate = Gate::new(&path, &memory.path().join("cni"), &host.path().join("var/lib/ferrovia/cni"));
    CniFile::new(&path).gated(gate).ensure(&[prefix("10.244.1.0/24")], None).expect("it opens");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains("10.244.1.0/24") && text.contains("kube-bridge"), "{text}");
    // The next start finds it as it is.
    set_up_cni(host.path(), memory.path());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_node_that_has_a_cni_configuration_keeps_it() {
    let (host, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let folder = host.path().join("etc/cni/net.d");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("10-kuberouter.conflist");
    std::fs::write(&path, "theirs").unwrap();
    set_up_cni(host.path(), memory.path());
    assert!(!path.is_symlink());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
}
