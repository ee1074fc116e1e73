//! Folders and texts, as an operator would write them.

use std::fs;

use super::*;

const GOOD: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: ns, name: web}
spec:
  clusterIP: 10.96.0.1
  ports: [{port: 80}]
";

fn names_of(snapshot: &Snapshot) -> Vec<String> {
    snapshot.services.keys().map(ToString::to_string).collect()
}

fn load(text: &str) -> (Vec<String>, Vec<String>) {
    let (snapshot, reports) = load_text(text, &NodeName::new("n1"));
    (names_of(&snapshot), reports.iter().map(ToString::to_string).collect())
}

#[test]
fn a_broken_document_harms_no_other_and_is_reported_with_its_place() {
    let broken = [
        ("kind: [", 1, "not YAML, document ignored"),
        ("a: b\nkind: Service\n  x: y", 3, "not YAML, document ignored"),
        ("just text", 1, "it has no kind"),
        ("kind: Service\napiVersion: v2\nmetadata: {name: x}", 2, "service default/x: apiVersion: \"v2\" is not read"),
        ("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1beta1", 2, "write discovery.k8s.io/v1"),
        (
            "kind: Service\napiVersion: v1\nmetadata: {name: x, namespace: y}\nspec:\n  ports:\n  - port: 80\n  - port: http",
            7,
            "service y/x: spec.ports[1].port: object ignored: invalid type: string \"http\"",
        ),
        (
            "kind: Node\napiVersion: v1\nmetadata:\n  labels:\n    example.org/on: true",
            5,
            "metadata.labels[example.org/on]: ",
        ),
        ("kind: Pod\napiVersion: v1\nmetadata: {}", 3, "metadata.name: the object has no name"),
    ];
    for (text, line, message) in broken {
        let (services, reports) = load(&format!("{text}\n---{GOOD}"));
        assert_eq!(services, ["ns/web"], "{text}");
        assert_eq!(reports.len(), 1, "{text}: {reports:?}");
        assert!(reports[0].starts_with(&format!("cluster.yaml:{line}: ")), "{text}: {}", reports[0]);
        assert!(reports[0].contains(message), "{text}: {}", reports[0]);
        let (services, reports) = load(&format!("{GOOD}---\n{text}\n"));
        assert_eq!(services, ["ns/web"], "{text}");
        assert!(reports[0].starts_with(&format!("cluster.yaml:{}: ", line + 8)), "{text}: {}", reports[0]);
    }
}

#[test]
fn a_rejected_value_is_reported_with_its_line_and_the_rest_counts() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations:\n    kube-router.io/service.scheduler: best\nspec:\n  externalIPs:\n  - 192.0.2.1\n  - nowhere\n";
    let (snapshot, reports) = load_text(text, &NodeName::new("n1"));
    let lines: Vec<(usize, &str)> = reports.iter().map(|report| (report.line, report.field.as_str())).collect();
    assert_eq!(lines, [(6, "metadata.annotations[kube-router.io/service.scheduler]"), (10, "spec.externalIPs[1]")]);
    let (_, service) = snapshot.services.iter().next().unwrap();
    assert_eq!(service.external_ips.len(), 1);
}

#[test]
fn lists_unfold_and_other_kinds_pass_in_silence() {
    let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
- {apiVersion: v1, kind: Service, metadata: {name: c}, spec: {ports: 5}}
- {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: d}}
---
apiVersion: v1
kind: ServiceList
items:
- {metadata: {name: e}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
---
apiVersion: v1
kind: Namespace
metadata: {name: ns}
---
# nothing here
---
";
    let (services, reports) = load(text);
    assert_eq!(services, ["default/a", "default/e"]);
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].starts_with("cluster.yaml:7: service default/c: spec.ports: object ignored"), "{}", reports[0]);
}

#[test]
fn json_and_windows_line_ends_read_too() {
    let names = Names::default();
    let node = NodeName::new("n1");
    let mut loaded = Loaded::default();
    let context = Context { own_node: &node, names: &names, policies: true };
    let json = "{\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}\n\n{\"kind\": 5}\n{\"kind\":";
    loaded.read("x.json", json, context);
    loaded.read("y.yaml", &format!("\u{feff}%YAML 1.2\n---{GOOD}...\n").replace('\n', "\r\n"), context);
    let (snapshot, reports) = loaded.into_snapshot(&node);
    assert_eq!(names_of(&snapshot), ["default/a", "ns/web"]);
    let lines: Vec<(&str, usize)> = reports.iter().map(|report| (report.file.as_str(), report.line)).collect();
    assert_eq!(lines, [("x.json", 4), ("x.json", 5)], "{reports:?}");
}

#[test]
fn the_first_of_two_equal_objects_wins() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let service = |ip: &str| GOOD.replace("10.96.0.1", ip);
    fs::write(folder.path().join("b.yml"), service("10.0.0.2")).unwrap();
    fs::write(folder.path().join("a.yaml"), service("10.0.0.1")).unwrap();
    fs::write(folder.path().join("sub/c.yaml"), service("10.0.0.3")).unwrap();
    fs::write(folder.path().join(".hidden.yaml"), service("10.0.0.4")).unwrap();
    fs::write(folder.path().join("notes.txt"), "x").unwrap();
    fs::write(folder.path().join("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.path().join("dangling.yaml")).unwrap();
    fs::remove_file(folder.path().join("loop")).unwrap();
    let (snapshot, reports) = load_folder_once(folder.path(), &NodeName::new("n1")).unwrap();
    let (_, found) = snapshot.services.iter().next().unwrap();
    assert_eq!(found.cluster_ips[0].to_string(), "10.0.0.1");
    let reports: Vec<String> = reports.iter().map(ToString::to_string).collect();
    assert_eq!(reports.len(), 3, "{reports:?}");
    assert_eq!(reports[0], "b.yml:2: service ns/web: object ignored: it already stands in a.yaml:2");
    assert!(reports[1].starts_with("binary.yaml:1: not UTF-8"), "{}", reports[1]);
    assert!(reports[2].starts_with("sub/c.yaml:2: "), "{}", reports[2]);
}

#[test]
fn links_in_a_circle_end() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), GOOD).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    let (snapshot, _) = load_folder_once(folder.path(), &NodeName::new("n1")).unwrap();
    assert_eq!(names_of(&snapshot), ["ns/web"]);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let error = load_folder_once(Path::new("/nowhere/at/all"), &NodeName::new("n1")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
