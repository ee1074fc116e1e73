//! The cluster whose memory is measured, as the API server and manifests have it.

use serde_json::{Value, json};

use super::cluster::ENDPOINTS;

/// Pods of the cluster.
pub(crate) const N_PODS: usize = 10_000;

/// The address of pod `index`.
fn pod_address(index: usize) -> String {
    format!("10.128.{}.{}", index / 250, index % 250 + 1)
}

/// This node.
pub(crate) fn node() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.128.4.0/24", "podCIDRs": ["10.128.4.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.10.11"}]},
    })
}

/// A pod with what it takes to be one, and no more.
pub(crate) fn pod(index: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{index}"), "namespace": "bench", "labels": {"app": "bench"}},
        "spec": {"nodeName": format!("n{}", index % 100), "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": pod_address(index), "podIPs": [{"ip": pod_address(index)}]},
    })
}

/// A Service and its slice.
pub(crate) fn service(index: usize) -> [Value; 2] {
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
            "metadata": {
                "name": format!("{name}-a"),
                "namespace": "bench",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": endpoints,
        }),
    ]
}

/// Adds what an API server keeps beside: identity, field managers of a Deployment's object, and for pods the volumes,
/// environment and conditions that make them the largest objects on the wire (some 8 KiB here).
pub(crate) fn as_served(mut object: Value, index: usize) -> Value {
    let managed: Vec<Value> = (0..3)
        .map(|n| {
            json!({
                "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": format!("manager-{n}"), "operation": "Update",
                "time": "2026-01-01T00:00:00Z",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}, "f:type": {}}},
            })
        })
        .collect();
    let is_pod = object["kind"] == "Pod";
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(format!("00000000-0000-4000-8000-{index:012}"));
    metadata["resourceVersion"] = json!((index + 1).to_string());
    metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    metadata["managedFields"] = json!(managed);
    if is_pod {
        let environment: Vec<Value> = (0..40)
            .map(|n| json!({"name": format!("SETTING_{n}"), "value": "a value of a length that values tend to have"}))
            .collect();
        let volumes: Vec<Value> =
            (0..10).map(|n| json!({"name": format!("volume-{n}"), "configMap": {"name": "config"}})).collect();
        object["spec"]["containers"][0]["env"] = json!(environment);
        object["spec"]["volumes"] = json!(volumes);
        object["status"]["conditions"] = json!([
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]);
    }
    object
}
