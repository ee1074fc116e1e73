//! Conversions, table style, through the API's own JSON.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::*;

/// A value, and `field: reason` of each rejection.
fn rejected(rejections: &[Rejection]) -> Vec<String> {
    rejections.iter().map(|rejection| format!("{}: {}", rejection.field, rejection.reason)).collect()
}

fn service(object: Value) -> (Option<(ServiceKey, Service)>, Vec<String>) {
    let names = Names::default();
    let own_node = NodeName::new("n1");
    let object = serde_json::from_value(object).unwrap();
    let converted = super::service::convert(&object, Context { own_node: &own_node, names: &names, policies: true });
    (converted.value, rejected(&converted.rejections))
}

fn slice(object: Value) -> (Option<(SliceKey, EndpointSlice)>, Vec<String>) {
    let names = Names::default();
    let own_node = NodeName::new("n1");
    let object = serde_json::from_value(object).unwrap();
    let converted =
        super::endpoint_slice::convert(&object, Context { own_node: &own_node, names: &names, policies: true });
    (converted.value, rejected(&converted.rejections))
}

fn node(object: Value) -> (Option<(NodeName, Node)>, Vec<String>) {
    let names = Names::default();
    let own_node = NodeName::new("n1");
    let object = serde_json::from_value(object).unwrap();
    let converted = super::node::convert(&object, Context { own_node: &own_node, names: &names, policies: true });
    (converted.value, rejected(&converted.rejections))
}

fn pod(object: Value) -> (Option<(PodKey, Pod)>, Vec<String>) {
    let names = Names::default();
    let own_node = NodeName::new("n1");
    let object = serde_json::from_value(object).unwrap();
    let converted = super::pod::convert(&object, Context { own_node: &own_node, names: &names, policies: true });
    (converted.value, rejected(&converted.rejections))
}

fn namespace(object: Value) -> (Option<(NamespaceName, Namespace)>, Vec<String>) {
    let names = Names::default();
    let own_node = NodeName::new("n1");
    let object = serde_json::from_value(object).unwrap();
    let context = Context { own_node: &own_node, names: &names, policies: true };
    let converted = super::namespace::convert(&object, context);
    (converted.value, rejected(&converted.rejections))
}

/// A NetworkPolicy `ns/p` with this spec.
fn policy(spec: Value) -> (NetworkPolicy, Vec<String>) {
    let names = Names::default();
    let own_node = NodeName::new("n1");
    let object = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
    let object = serde_json::from_value(object).unwrap();
    let context = Context { own_node: &own_node, names: &names, policies: true };
    let converted = super::network_policy::convert(&object, context);
    (converted.value.unwrap().1, rejected(&converted.rejections))
}

/// A Service with this spec, otherwise plain.
fn with_spec(spec: Value) -> (Service, Vec<String>) {
    let (value, rejections) = service(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec}));
    (value.unwrap().1, rejections)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_whole_service_reads() {
    let (value, rejections) = service(json!({
        "metadata": {"namespace": "ns", "name": "web", "uid": "u-1", "creationTimestamp": "2024-01-02T03:04:05Z"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "loadBalancerSourceRanges": [" 192.0.2.7/24 "], "trafficDistribution": "PreferSameNode",
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"}
            ]
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"ip": "198.51.100.3", "ipMode": "VIP"},
            {"hostname": "lb.example.org"}
        ]}}
    }));
    let (key, service) = value.unwrap();
    assert_eq!(rejections, [] as [&str; 0]);
    assert_eq!(key, ServiceKey::new("ns", "web"));
    let expected = Service {
        uid: "u-1".into(),
        created: 1_704_164_645,
        kind: ServiceType::LoadBalancer,
        cluster_ips: ips(&["10.96.0.1", "fd00::1"]),
        external_ips: ips(&["192.0.2.1"]),
        load_balancer_ips: ips(&["198.51.100.1", "198.51.100.3"]),
        ports: vec![
            ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                target_port: Some(8080),
                node_port: 30080,
            },
            ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, target_port: None, node_port: 0 },
        ],
        affinity: Some(Affinity { timeout: 60 }),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 31000,
        source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        traffic_distribution: Some(TrafficDistribution::PreferSameNode),
        ignored_by_proxy: false,
        settings: ServiceSettings::default(),
    };
    assert_eq!(service, expected);
}

#[test]
fn only_services_for_this_proxy_are_served() {
    for (labels, spec, ignored, n_cluster_ips) in [
        (json!({}), json!({"clusterIP": "10.0.0.1"}), false, 1),
        (json!({}), json!({"clusterIP": "None"}), true, 0),
        (json!({}), json!({"clusterIPs": ["None"]}), true, 0),
        (json!({"service.kubernetes.io/headless": ""}), json!({"clusterIP": "10.0.0.1"}), true, 0),
        (
            json!({"service.kubernetes.io/service-proxy-name": "kube-router"}),
            json!({"clusterIP": "10.0.0.1"}),
            false,
            1,
        ),
        (json!({"service.kubernetes.io/service-proxy-name": "ferrovia"}), json!({"clusterIP": "10.0.0.1"}), false, 1),
        (json!({"service.kubernetes.io/service-proxy-name": "other"}), json!({"clusterIP": "10.0.0.1"}), true, 1),
        (json!({"service.kubernetes.io/service-proxy-name": ""}), json!({"clusterIP": "10.0.0.1"}), true, 1),
        (json!({}), json!({"type": "ExternalName", "externalName": "example.org"}), true, 0),
        (json!(null), json!(null), false, 0),
    ] {
        let object = json!({"metadata": {"name": "web", "labels": labels}, "spec": spec});
        let (value, rejections) = service(object.clone());
        let (key, service) = value.unwrap();
        assert_eq!(&*key.namespace, "default");
        assert_eq!((service.ignored_by_proxy, service.cluster_ips.len()), (ignored, n_cluster_ips), "{object}");
        assert_eq!(rejections, [] as [&str; 0], "{object}");
    }
}

#[test]
fn one_bad_value_costs_only_itself() {
    let (service, rejections) = with_spec(json!({
        "type": "Sometimes", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "x"],
        "externalIPs": ["192.0.2.1", "192.0.2.300", "127.0.0.1", "224.0.0.1", "0.0.0.0", "fe80::1", "192.0.2.1"],
        "internalTrafficPolicy": "Nearby", "externalTrafficPolicy": "Local", "sessionAffinity": "Cookie",
        "healthCheckNodePort": -1, "trafficDistribution": "PreferMoon",
        "loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/99"],
        "ports": [
            {"name": "a", "port": 0}, {"name": "b", "port": 80, "protocol": "ICMP"}, {"name": "c", "port": 81, "nodePort": 70000},
            {"name": "c", "port": 82}, {"name": "d", "port": 81}, {"name": "e", "port": 81, "protocol": "UDP"}
        ]
    }));
    assert_eq!(
        rejections,
        [
            "spec.type: UnknownServiceType",
            "spec.clusterIPs[1]: InvalidAddress",
            "spec.externalIPs[1]: InvalidAddress",
            "spec.externalIPs[2]: InvalidAddress",
            "spec.externalIPs[3]: InvalidAddress",
            "spec.externalIPs[4]: InvalidAddress",
            "spec.externalIPs[5]: InvalidAddress",
            "spec.ports[0].port: InvalidPort",
            "spec.ports[1].protocol: UnknownProtocol",
            "spec.ports[2].nodePort: InvalidPort",
            "spec.ports[3].name: DuplicatePort",
            "spec.ports[4].port: DuplicatePort",
            "spec.sessionAffinity: UnknownAffinity",
            "spec.internalTrafficPolicy: UnknownTrafficPolicy",
            "spec.healthCheckNodePort: InvalidPort",
            "spec.loadBalancerSourceRanges[1]: InvalidPrefix",
            "spec.trafficDistribution: UnknownTrafficDistribution",
        ]
    );
    assert_eq!(service.kind, ServiceType::ClusterIp);
    assert_eq!(service.cluster_ips, ips(&["10.0.0.1"]));
    assert_eq!(service.external_ips, ips(&["192.0.2.1"]));
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(service.source_ranges.len(), 1);
    let ports: Vec<(&str, u16, u16)> =
        service.ports.iter().map(|port| (&*port.name, port.port, port.node_port)).collect();
    assert_eq!(ports, [("c", 81, 0), ("e", 81, 0)]);
}

#[test]
fn affinity_timeouts_default_and_stay_in_bounds() {
    for (config, timeout, n_rejections) in [
        (json!(null), 10_800, 0),
        (json!({"clientIP": {}}), 10_800, 0),
        (json!({"clientIP": {"timeoutSeconds": 0}}), 1, 1),
        (json!({"clientIP": {"timeoutSeconds": -5}}), 1, 1),
        (json!({"clientIP": {"timeoutSeconds": 86_400}}), 86_400, 0),
        (json!({"clientIP": {"timeoutSeconds": 86_401}}), 86_400, 1),
    ] {
        let (service, rejections) = with_spec(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}));
        assert_eq!(service.affinity, Some(Affinity { timeout }), "{config}");
        assert_eq!(rejections.len(), n_rejections, "{config}: {rejections:?}");
    }
    assert_eq!(with_spec(json!({"sessionAffinity": "None"})).0.affinity, None);
}

#[test]
fn source_ranges_that_cannot_be_read_let_nobody_in() {
    let ranges = |annotation: &str, spec: Value| {
        let annotations = json!({"service.beta.kubernetes.io/load-balancer-source-ranges": annotation});
        let (value, rejections) =
            service(json!({"metadata": {"name": "web", "annotations": annotations}, "spec": spec}));
        let ranges: Vec<String> = value.unwrap().1.source_ranges.iter().map(ToString::to_string).collect();
        (ranges, rejections.len())
    };
    assert_eq!(ranges("", json!({})), (vec![], 0));
    let two = vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()];
    assert_eq!(ranges(" 10.1.0.0/8 , 2001:db8::/32,", json!({})), (two, 0));
    let field_wins = ranges("10.0.0.0/8", json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}));
    assert_eq!(field_wins, (vec!["192.0.2.0/24".to_owned()], 0));
    let nobody = vec!["0.0.0.0/32".to_owned(), "::/128".to_owned()];
    assert_eq!(ranges("office", json!({})), (nobody, 2));
}

#[test]
fn traffic_distribution_and_the_older_annotation() {
    for (annotation, field, expected, n_rejections) in [
        (None, None, None, 0),
        (None, Some("PreferClose"), Some(TrafficDistribution::PreferSameZone), 0),
        (None, Some("PreferSameZone"), Some(TrafficDistribution::PreferSameZone), 0),
        (None, Some("PreferSameNode"), Some(TrafficDistribution::PreferSameNode), 0),
        (Some("Auto"), Some("PreferSameNode"), Some(TrafficDistribution::PreferSameZone), 0),
        (Some("auto"), None, Some(TrafficDistribution::PreferSameZone), 0),
        (Some("Disabled"), Some("PreferSameNode"), Some(TrafficDistribution::PreferSameNode), 0),
        (Some("Maybe"), None, None, 1),
    ] {
        let mut object =
            json!({"metadata": {"name": "web", "annotations": {}}, "spec": {"trafficDistribution": field}});
        if let Some(annotation) = annotation {
            object["metadata"]["annotations"]["service.kubernetes.io/topology-mode"] = json!(annotation);
        }
        let (value, rejections) = service(object.clone());
        assert_eq!(value.unwrap().1.traffic_distribution, expected, "{object}");
        assert_eq!(rejections.len(), n_rejections, "{object}");
    }
}

#[test]
fn a_whole_slice_reads_sorted_and_merged() {
    let (value, rejections) = slice(json!({
        "metadata": {"namespace": "ns", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"port": 53, "protocol": "UDP"}, {"name": "any"}],
        "endpoints": [
            {"addresses": ["10.0.0.9", "10.0.0.10"], "nodeName": "n2", "zone": "b",
             "targetRef": {"kind": "Pod", "name": "web-2"},
             "hints": {"forZones": [{"name": "b"}], "forNodes": [{"name": "n2"}]}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "young"}}
        ]
    }));
    assert_eq!(rejections, [] as [&str; 0]);
    let (key, slice) = value.unwrap();
    assert_eq!(key, SliceKey { service: ServiceKey::new("ns", "web"), name: "web-x".into() });
    let ports: Vec<(&str, Protocol, u16)> =
        slice.ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 8080), ("", Protocol::Udp, 53)]);
    let addresses: Vec<IpAddr> = slice.endpoints.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(addresses, ips(&["10.0.0.2", "10.0.0.9", "10.0.0.10"]));
    assert_eq!(slice.endpoints[0].pod.as_deref(), Some("young"));
    let last = &slice.endpoints[2];
    assert_eq!(last.node, Some(NodeName::new("n2")));
    assert_eq!(last.zone.as_deref(), Some("b"));
    assert_eq!(*last.zone_hints, ["b".into()]);
    assert_eq!(*last.node_hints, [NodeName::new("n2")]);
}

#[test]
fn absent_conditions_have_the_defaults_of_the_api() {
    for (conditions, ready, serving, terminating) in [
        (json!(null), true, true, false),
        (json!({}), true, true, false),
        (json!({"ready": false}), false, false, false),
        (json!({"ready": true}), true, true, false),
        (json!({"ready": false, "serving": true, "terminating": true}), false, true, true),
        (json!({"serving": false}), true, false, false),
    ] {
        let (value, _) = slice(json!({
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}]
        }));
        let slice = value.unwrap().1;
        assert_eq!(slice.endpoints[0].conditions, Conditions { ready, serving, terminating }, "{conditions}");
    }
}

#[test]
fn slices_find_their_owner() {
    let owner = |name: &str, kind: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u"});
    for (meta, expected) in [
        (
            json!({"labels": {"kubernetes.io/service-name": "web"}, "ownerReferences": [owner("x", "Service")]}),
            Some("web"),
        ),
        (json!({"ownerReferences": [owner("web", "Service")]}), Some("web")),
        (json!({"ownerReferences": [owner("web", "Endpoints")], "generateName": "db-"}), Some("db")),
        (json!({"ownerReferences": [owner("a", "Service"), owner("b", "Service")]}), None),
        (json!({"generateName": "web-"}), Some("web")),
        (json!({"labels": {"kubernetes.io/service-name": ""}, "generateName": "-"}), None),
        (json!({}), None),
    ] {
        let mut object = json!({"metadata": meta, "addressType": "IPv6"});
        object["metadata"]["name"] = json!("s");
        let (value, rejections) = slice(object.clone());
        assert_eq!(value.map(|(key, _)| key.service.name.to_string()).as_deref(), expected, "{object}");
        assert_eq!(rejections, [] as [&str; 0]);
    }
}

#[test]
fn slices_that_cannot_be_forwarded_to_are_left_out() {
    let of_type = |address_type: &str, addresses: Value| {
        slice(json!({
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": address_type,
            "endpoints": [{"addresses": addresses}], "ports": [{"port": 0}, {"port": 80, "protocol": "QUIC"}]
        }))
    };
    assert_eq!(of_type("FQDN", json!(["example.org"])), (None, vec![]));
    assert_eq!(of_type("", json!([])), (None, vec!["addressType: UnknownAddressType".to_owned()]));
    let (value, rejections) = of_type("IPv4", json!(["10.0.0.1", "fd00::1", "", "::ffff:10.0.0.2"]));
    let slice = value.unwrap().1;
    let addresses: Vec<IpAddr> = slice.endpoints.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(addresses, ips(&["10.0.0.1", "10.0.0.2"]));
    assert!(slice.ports.is_empty());
    assert_eq!(
        rejections,
        [
            "ports[0].port: InvalidPort",
            "ports[1].protocol: UnknownProtocol",
            "endpoints[0].addresses[1]: InvalidAddress",
            "endpoints[0].addresses[2]: InvalidAddress",
        ]
    );
}

#[test]
fn nodes_take_pod_prefixes_from_the_first_source_that_says_anything() {
    let both = json!({"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"], "podCIDR": "10.9.0.0/24"});
    for (annotations, spec, expected) in [
        (
            json!({"kube-router.io/pod-cidrs": "10.2.0.0/24,fd00:2::/64"}),
            both.clone(),
            vec!["10.2.0.0/24", "fd00:2::/64"],
        ),
        (json!({"kube-router.io/pod-cidr": "10.3.0.0/24"}), both.clone(), vec!["10.1.0.0/24", "fd00:1::/64"]),
        (json!({"kube-router.io/pod-cidr": "10.3.0.0/24"}), json!({"podCIDR": "10.9.0.0/24"}), vec!["10.3.0.0/24"]),
        (json!({}), json!({"podCIDR": "10.9.0.0/24"}), vec!["10.9.0.0/24"]),
        (json!({"kube-router.io/pod-cidrs": ""}), both, vec!["10.1.0.0/24", "fd00:1::/64"]),
        (json!(null), json!(null), vec![]),
    ] {
        let object = json!({"metadata": {"name": "n1", "annotations": annotations}, "spec": spec});
        let (value, rejections) = node(object.clone());
        let prefixes: Vec<String> = value.unwrap().1.pod_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, expected, "{object}");
        assert_eq!(rejections, [] as [&str; 0]);
    }
}

#[test]
fn nodes_keep_addresses_in_order_and_only_annotations_that_matter() {
    let (value, rejections) = node(json!({
        "metadata": {
            "name": "n1", "uid": "u", "labels": {"topology.kubernetes.io/zone": "a", "rack": "7"},
            "annotations": {"kube-router.io/node.asn": "64512", "ferrovia.dev/x": "y", "flannel.alpha/x": "z"}
        },
        "status": {"addresses": [
            {"type": "ExternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "fd00::1"},
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "ten"}, {}
        ]}
    }));
    assert_eq!(rejections, ["status.addresses[4].address: InvalidAddress"]);
    let node = value.unwrap().1;
    assert_eq!(node.internal_ips, ips(&["fd00::1", "10.0.0.1"]));
    assert_eq!(node.external_ips, ips(&["192.0.2.1"]));
    assert_eq!(node.zone.as_deref(), Some("a"));
    assert_eq!(node.labels.len(), 2);
    let keys: Vec<&str> = node.annotations.keys().map(|key| &**key).collect();
    assert_eq!(keys, ["ferrovia.dev/x", "kube-router.io/node.asn"]);
}

#[test]
fn pods_without_address_or_life_are_left_out() {
    let with = |phase: &str, ips: Value| {
        pod(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": phase, "podIPs": ips}})).0
    };
    assert!(with("Running", json!([{"ip": "10.0.0.1"}])).is_some());
    assert!(with("Pending", json!([{"ip": "10.0.0.1"}])).is_some());
    assert!(with("Succeeded", json!([{"ip": "10.0.0.1"}])).is_none());
    assert!(with("Failed", json!([{"ip": "10.0.0.1"}])).is_none());
    assert!(with("Running", json!([])).is_none());
    assert!(with("Running", json!(null)).is_none());
    assert!(pod(json!({"metadata": {"name": "p"}})).0.is_none());
}

#[test]
fn nodes_say_whether_they_are_well_and_whether_they_stop() {
    let stops = "[container runtime is down, node is shutting down]";
    for (conditions, not_ready, shutting_down) in [
        (json!(null), false, false),
        (json!([{"type": "MemoryPressure", "status": "Unknown"}]), false, false),
        (json!([{"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}]), false, false),
        (json!([{"type": "Ready", "status": "False", "message": "container runtime is down"}]), true, false),
        (
            json!([{"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}]),
            true,
            false,
        ),
        (json!([{"type": "Ready", "status": "False", "message": stops}]), true, true),
    ] {
        let (value, _) = node(json!({"metadata": {"name": "n1"}, "status": {"conditions": conditions}}));
        let (_, read) = value.unwrap();
        assert_eq!((read.not_ready, read.shutting_down), (not_ready, shutting_down), "{conditions}");
    }
}

#[test]
fn pods_read_grace_deletion_and_container_of_this_node_only() {
    let object = |node: &str| {
        json!({
            "metadata": {"namespace": "ns", "name": "p", "deletionTimestamp": "1970-01-01T00:01:00Z", "deletionGracePeriodSeconds": 5},
            "spec": {"nodeName": node, "hostNetwork": true, "terminationGracePeriodSeconds": 90},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": ""}], "containerStatuses": [
                {"containerID": "containerd://ended", "state": {"terminated": {"exitCode": 1}}},
                {"containerID": "", "state": {"running": {}}}, {"state": {"running": {}}},
                {"containerID": "containerd://alive", "state": {"running": {}}}
            ]}
        })
    };
    let here = pod(object("n1")).0.unwrap().1;
    let expected = Pod {
        addresses: ips(&["10.0.0.1", "fd00::1"]).into(),
        node: Some(NodeName::new("n1")),
        labels: Labels::default(),
        ports: Box::default(),
        host_network: true,
        grace_period: 5,
        deletion: Some(60),
        container_id: Some("containerd://alive".into()),
    };
    assert_eq!(here, expected);
    assert_eq!(pod(object("n2")).0.unwrap().1.container_id, None);
    let plain = json!({"metadata": {"name": "p"}, "status": {"podIP": "10.0.0.1"}});
    let plain = pod(plain).0.unwrap().1;
    assert_eq!((plain.grace_period, plain.deletion, plain.node), (30, None, None));
}

#[test]
fn pods_keep_labels_and_named_ports_for_policies() {
    let object = json!({
        "metadata": {"namespace": "ns", "name": "p", "labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 8080}, {"containerPort": 9}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "odd", "containerPort": 0}, {"name": "other", "containerPort": 1, "protocol": "QUIC"}
            ]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "never", "containerPort": 1}]},
                {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9090}]}
            ]
        },
        "status": {"podIP": "10.0.0.1"}
    });
    let read = pod(object).0.unwrap().1;
    assert_eq!(read.labels.get("app").map(AsRef::as_ref), Some("web"));
    let ports: Vec<(&str, Protocol, u16)> =
        read.ports.iter().map(|port| (port.name.as_ref(), port.protocol, port.port)).collect();
    assert_eq!(ports, [("dns", Protocol::Udp, 53), ("http", Protocol::Tcp, 8080), ("metrics", Protocol::Tcp, 9090)]);
}

#[test]
fn namespaces_carry_their_name_as_a_label_and_the_old_isolation() {
    let (value, rejections) = namespace(json!({"metadata": {"name": "prod", "labels": {"team": "a"}}}));
    let read = value.unwrap().1;
    assert_eq!(read.labels.get("kubernetes.io/metadata.name").map(AsRef::as_ref), Some("prod"));
    assert_eq!((read.labels.len(), read.legacy_isolation, rejections.is_empty()), (2, false, true));
    let old = |text: &str| {
        let annotations = json!({"net.beta.kubernetes.io/network-policy": text});
        let (value, rejections) = namespace(json!({"metadata": {"name": "prod", "annotations": annotations}}));
        (value.unwrap().1.legacy_isolation, rejections.len())
    };
    assert_eq!(old(r#"{"ingress":{"isolation":"DefaultDeny"}}"#), (true, 0));
    for odd in ["", "{", r#"{"ingress":{"isolation":"Maybe"}}"#, "[]"] {
        assert_eq!(old(odd), (false, 1), "{odd}");
    }
}

#[test]
fn policy_types_default_as_the_api_says() {
    let directions = |spec: Value| {
        let (policy, rejections) = policy(spec);
        (policy.ingress.map(|rules| rules.len()), policy.egress.map(|rules| rules.len()), rejections)
    };
    for (spec, ingress, egress) in [
        (json!({}), Some(0), None),
        (json!({"egress": []}), Some(0), None),
        (json!({"egress": [{}]}), Some(0), Some(1)),
        (json!({"policyTypes": ["Egress"], "ingress": [{}]}), None, Some(0)),
        (json!({"policyTypes": ["Ingress", "Egress"], "ingress": [{}, {}]}), Some(2), Some(0)),
    ] {
        assert_eq!(directions(spec.clone()), (ingress, egress, Vec::new()), "{spec}");
    }
    let odd = directions(json!({"policyTypes": ["ingres"]}));
    assert_eq!(odd, (Some(0), None, vec!["spec.policyTypes[0]: InvalidPolicyType".to_owned()]));
}

#[test]
fn a_whole_policy_reads() {
    let (policy, rejections) = policy(json!({
        "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["b", "a"]}]},
        "ingress": [{
            "from": [
                {"podSelector": {}},
                {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}},
                {"namespaceSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.2.0.0/16", "10.1.0.0/16"]}}
            ],
            "ports": [
                {"port": 80}, {"port": "dns", "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": 1000, "endPort": 2000}
            ]
        }, {}]
    }));
    assert_eq!(rejections, [""; 0]);
    assert_eq!(policy.targets.to_string(), "app=web,tier notin (a,b)");
    let rules = policy.ingress.unwrap();
    let Peers::Only(peers) = &rules[0].peers else { panic!("{rules:?}") };
    assert_eq!(peers[0], Peer::Pods { namespaces: Namespaces::Own, pods: Selector::default() });
    let Peer::Pods { namespaces: Namespaces::Selected(team), pods } = &peers[1] else { panic!("{peers:?}") };
    assert_eq!((team.to_string().as_str(), pods.to_string().as_str()), ("team=a", "x"));
    let everywhere = Namespaces::Selected(Selector::default());
    assert_eq!(peers[2], Peer::Pods { namespaces: everywhere, pods: Selector::default() });
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let except = vec![prefix("10.1.0.0/16"), prefix("10.2.0.0/16")];
    assert_eq!(peers[3], Peer::Block { cidr: prefix("10.0.0.0/8"), except });
    let port = |protocol, port| PolicyPort { protocol, port };
    let ports = vec![
        port(Protocol::Tcp, PortMatch::Range(80, 80)),
        port(Protocol::Udp, PortMatch::Named("dns".into())),
        port(Protocol::Sctp, PortMatch::Any),
        port(Protocol::Tcp, PortMatch::Range(1000, 2000)),
    ];
    assert_eq!(rules[0].ports, Ports::Only(ports));
    assert_eq!(rules[1], PolicyRule { peers: Peers::Any, ports: Ports::Any });
}

#[test]
fn what_a_policy_says_wrongly_never_allows_more() {
    // Each of these entries is the only one of its list: the list must not turn into one for all.
    for (peer, field) in [
        (json!({}), "spec.ingress[0].from[0]: InvalidPeer"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), "spec.ingress[0].from[0]: InvalidPeer"),
        (json!({"ipBlock": {"cidr": "ten"}}), "spec.ingress[0].from[0].ipBlock.cidr: InvalidPrefix"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}),
            "spec.ingress[0].from[0].ipBlock.except[0]: InvalidPrefix",
        ),
    ] {
        let (policy, rejections) = policy(json!({"ingress": [{"from": [peer]}]}));
        assert_eq!(rejections, [field]);
        assert_eq!(policy.ingress.unwrap()[0].peers, Peers::Only(Vec::new()));
    }
    for (port, field) in [
        (json!({"port": 0}), "spec.egress[0].ports[0].port: InvalidPort"),
        (json!({"port": 80, "endPort": 79}), "spec.egress[0].ports[0].endPort: InvalidPort"),
        (json!({"port": "http", "endPort": 79}), "spec.egress[0].ports[0].endPort: InvalidPort"),
        (json!({"endPort": 79}), "spec.egress[0].ports[0].endPort: InvalidPort"),
        (json!({"port": 80, "protocol": "ICMP"}), "spec.egress[0].ports[0].protocol: InvalidProtocol"),
        (json!({"port": ""}), "spec.egress[0].ports[0].port: InvalidPort"),
    ] {
        let (policy, rejections) = policy(json!({"egress": [{"ports": [port]}]}));
        assert_eq!(rejections, [field]);
        assert_eq!(policy.egress.unwrap()[0].ports, Ports::Only(Vec::new()));
    }
    let odd =
        json!({"matchExpressions": [{"key": "a", "operator": "Like"}, {"key": "b", "operator": "In", "values": []}]});
    let (policy, rejections) = policy(json!({"podSelector": odd, "ingress": [{"from": [{"podSelector": odd}]}]}));
    assert_eq!(rejections.len(), 4, "{rejections:?}");
    assert!(policy.targets.is_everything(), "it isolates more pods rather than fewer");
    let rules = policy.ingress.unwrap();
    let Peers::Only(peers) = &rules[0].peers else { panic!("{rules:?}") };
    let Peer::Pods { pods, .. } = &peers[0] else { panic!("{peers:?}") };
    assert!(!pods.matches(&Labels::default()), "it allows fewer pods rather than more");
}

#[test]
fn an_endpoint_stays_small() {
    assert!(size_of::<Endpoint>() <= 112, "an endpoint takes {} bytes", size_of::<Endpoint>());
}

/// Words that field names of API objects are made of.
#[rustfmt::skip]
const KEYS: &[&str] = &[
    "metadata", "name", "namespace", "labels", "annotations", "spec", "status", "ports", "port", "protocol",
    "nodePort", "targetPort", "endpoints", "addresses", "address", "addressType", "conditions", "ready", "hints",
    "forZones", "clusterIP", "clusterIPs", "externalIPs", "type", "sessionAffinity", "sessionAffinityConfig",
    "clientIP", "timeoutSeconds", "loadBalancer", "ingress", "ip", "podIPs", "podIP", "phase", "containerStatuses",
    "containerID", "state", "running", "nodeName", "podCIDRs", "targetRef", "kind", "generateName",
    "ownerReferences", "kube-router.io/service.scheduler", "kube-router.io/service.schedflags",
    "ferrovia.dev/service.weights", "kube-router.io/pod-cidrs", "kubernetes.io/service-name",
    "service.kubernetes.io/headless", "service.beta.kubernetes.io/load-balancer-source-ranges", "deletionTimestamp",
    "terminationGracePeriodSeconds", "podSelector", "namespaceSelector", "matchLabels", "matchExpressions",
    "operator", "values", "key", "egress", "from", "to", "ipBlock", "cidr", "except", "endPort", "policyTypes",
    "net.beta.kubernetes.io/network-policy",
];

/// JSON that looks like an API object here and there.
fn jsonish() -> impl Strategy<Value = Value> {
    let texts = prop::sample::select(vec![
        "",
        "None",
        "IPv4",
        "FQDN",
        "10.0.0.1",
        "fd00::1",
        "::ffff:1.2.3.4",
        "10.0.0.0/8",
        "/",
        "TCP",
        "ClientIP",
        "Running",
        "ExternalName",
        "tunnel",
        "ip:=5",
        "*=1,pod:x=99999999999",
        "flag-1,,flag-3",
        "n1",
        "Auto",
        "\u{0}",
        "2024-01-02T03:04:05Z",
        "🦀=🦀",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-2..70_000_i64).prop_map(Value::from),
        texts.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    let keys = prop::sample::select(KEYS);
    leaf.prop_recursive(6, 96, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone(), inner, 0..8)
                .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    /// Whatever deserialises converts; whatever does not is reported by whoever reads it. Nothing panics.
    #[test]
    fn nothing_panics_on_odd_objects(metadata in jsonish(), spec in jsonish(), status in jsonish(), ports in jsonish(), endpoints in jsonish()) {
        let names = Names::default();
        let own_node = NodeName::new("n1");
        let context = Context { own_node: &own_node, names: &names, policies: true };
        // Parts that do not fit their type are dropped one by one, so that what remains still reaches the conversion.
        for mask in 0..32_u8 {
            let mut object = serde_json::Map::new();
            let parts = [("metadata", &metadata), ("spec", &spec), ("status", &status), ("ports", &ports), ("endpoints", &endpoints)];
            for (bit, (key, value)) in parts.into_iter().enumerate() {
                if mask & (1 << bit) != 0 {
                    object.insert(key.to_owned(), value.clone());
                }
            }
            object.entry("metadata").or_insert_with(|| json!({"name": "x"}));
            object.insert("addressType".to_owned(), json!("IPv4"));
            let object = Value::Object(object);
            if let Ok(object) = serde_json::from_value(object.clone()) {
                super::service::convert(&object, context);
            }
            if let Ok(object) = serde_json::from_value(object.clone()) {
                super::endpoint_slice::convert(&object, context);
            }
            if let Ok(object) = serde_json::from_value(object.clone()) {
                super::node::convert(&object, context);
            }
            if let Ok(object) = serde_json::from_value(object.clone()) {
                super::pod::convert(&object, context);
            }
            if let Ok(object) = serde_json::from_value(object.clone()) {
                super::namespace::convert(&object, context);
            }
            if let Ok(object) = serde_json::from_value(object.clone()) {
                super::network_policy::convert(&object, context);
            }
        }
    }
}
