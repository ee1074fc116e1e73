//! The cluster whose memory is measured, as the API server and manifests have it.

use std::sync::LazyLock;

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

/// A Service.
pub(crate) fn service(index: usize) -> Value {
    let address = format!("10.100.{}.{}", index / 250, index % 250 + 1);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": format!("service-{index}"), "namespace": "bench"},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    })
}

/// Its slice.
pub(crate) fn slice(index: usize) -> Value {
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
    })
}

/// What is the same in every object: made once, because the guest that serves it is slow.
struct Common {
    managed: Value,
    environment: Value,
    volumes: Value,
    conditions: Value,
}

static COMMON: LazyLock<Common> = LazyLock::new(|| {
    let managed = (0..3).map(|n| {
        json!({
            "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": format!("manager-{n}"), "operation": "Update",
            "time": "2026-01-01T00:00:00Z",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}, "f:type": {}}},
        })
    });
    let environment = (0..40)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": "a value of a length that values tend to have"}));
    let volumes = (0..10).map(|n| json!({"name": format!("volume-{n}"), "configMap": {"name": "config"}}));
    Common {
        managed: managed.collect(),
        environment: environment.collect(),
        volumes: volumes.collect(),
        conditions: json!([
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]),
    }
});

/// Adds what an API server keeps beside: identity, field managers of a Deployment's object, and for pods the volumes,
/// environment and conditions that make them the largest objects on the wire (some 5 KiB here).
pub(crate) fn as_served(mut object: Value, index: usize) -> Value {
    let is_pod = object["kind"] == "Pod";
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(format!("00000000-0000-4000-8000-{index:012}"));
    metadata["resourceVersion"] = json!((index + 1).to_string());
    metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    metadata["managedFields"] = COMMON.managed.clone();
    if is_pod {
        object["spec"]["containers"][0]["env"] = COMMON.environment.clone();
        object["spec"]["volumes"] = COMMON.volumes.clone();
        object["status"]["conditions"] = COMMON.conditions.clone();
    }
    object
}
