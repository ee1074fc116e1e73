//! Which ports can be served directly, and which pods of this node must be set up for that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Notice, PodKey, ServiceKey, ServicePort, Severity, Snapshot, Subject};
use crate::proxy::endpoints::{Selection, Target};

use super::PodSetup;

/// Why a service port cannot be served directly, or `None` when it can. `selection` is the one for external traffic;
/// `runtime_endpoint` says whether the daemon was told where the container runtime is.
///
/// One endpoint that cannot is enough: whichever the scheduler chose would work or not by chance.
pub fn refusal(
    snapshot: &Snapshot,
    service: &ServiceKey,
    port: &ServicePort,
    selection: &Selection,
    runtime_endpoint: bool,
) -> Option<Notice> {
    if !runtime_endpoint {
        return Some(unavailable(
            service,
            "direct server return needs the container runtime to reach the pods, and no runtime endpoint is set; set \
             --runtime-endpoint, for example unix:///run/containerd/containerd.sock, and mount that socket"
                .to_owned(),
        ));
    }
    let number = port.port;
    let other_port = |target: &&Target| target.port != number;
    if let Some(Target { address, port: theirs, .. }) = selection.endpoints.iter().find(other_port) {
        return Some(unavailable(
            service,
            format!(
                "direct server return cannot change ports: port {number} ({}) goes to port {theirs} of endpoint \
                 {address}; make targetPort equal to port",
                port.protocol
            ),
        ));
    }
    let chosen: BTreeSet<IpAddr> = selection.endpoints.iter().map(|target| target.address).collect();
    let on_host = host_endpoint(snapshot, service, &chosen)?;
    Some(unavailable(
        service,
        format!(
            "direct server return cannot reach endpoint {on_host}, which is in its node's own network \
             (hostNetwork: true); remove the annotation or give the pod its own network"
        ),
    ))
}

/// The first of `chosen` that lies in a node's own network.
fn host_endpoint(snapshot: &Snapshot, service: &ServiceKey, chosen: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let in_host_network =
        |name: &Arc<str>| snapshot.pods.get(&pod_key(service, name)).is_some_and(|pod| pod.host_network);
    let by_pod = snapshot
        .slices_of(service)
        .flat_map(|(_, slice)| slice.endpoints.iter())
        .find(|endpoint| chosen.contains(&endpoint.address) && endpoint.pod.as_ref().is_some_and(in_host_network))
        .map(|endpoint| endpoint.address);
    // Pods of other nodes may be unknown here, but an endpoint with a node's address is one of them.
    by_pod
        .or_else(|| snapshot.nodes.values().flat_map(|node| node.addresses()).find(|address| chosen.contains(address)))
}

/// The pods of this node behind a Service, each with the VIPs it must answer for.
///
/// All of them, ready or not: one that starts is configured before its first packet, and one that fails its probe or
/// terminates keeps the connections it has.
pub fn pod_setups(snapshot: &Snapshot, service: &ServiceKey, vips: &BTreeSet<IpAddr>) -> (Vec<PodSetup>, Vec<Notice>) {
    let mut setups: BTreeMap<PodKey, PodSetup> = BTreeMap::new();
    let mut notices = BTreeSet::new();
    if vips.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let local = snapshot
        .slices_of(service)
        .flat_map(|(_, slice)| slice.endpoints.iter())
        .filter(|endpoint| endpoint.node.as_ref() == Some(&snapshot.node_name));
    for endpoint in local {
        let Some(name) = &endpoint.pod else {
            notices.insert(unavailable(
                service,
                format!("direct server return cannot configure endpoint {}: it names no pod", endpoint.address),
            ));
            continue;
        };
        let key = pod_key(service, name);
        let Some(pod) = snapshot.pods.get(&key).filter(|pod| !pod.host_network) else {
            // Not here yet or gone already: a snapshot with the pod follows, or one without the endpoint.
            continue;
        };
        let Some(container_id) = &pod.container_id else {
            if endpoint.conditions.ready {
                notices.insert(unavailable(
                    service,
                    format!("direct server return cannot configure pod {key}: none of its containers runs"),
                ));
            }
            continue;
        };
        setups.entry(key.clone()).or_insert_with(|| PodSetup {
            pod: key,
            container_id: container_id.clone(),
            addresses: pod.addresses.to_vec(),
            vips: vips.clone(),
            services: BTreeSet::from([service.clone()]),
        });
    }
    (setups.into_values().collect(), notices.into_iter().collect())
}

fn pod_key(service: &ServiceKey, name: &Arc<str>) -> PodKey {
    PodKey { namespace: service.namespace.clone(), name: name.clone() }
}

/// A Service that does not get direct server return, or not everywhere.
fn unavailable(service: &ServiceKey, message: String) -> Notice {
    Notice {
        subject: Subject::Service(service.clone()),
        severity: Severity::Warning,
        reason: "DsrUnavailable",
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ip;
    use super::*;
    use crate::model::{
        Conditions, Endpoint, EndpointPort, EndpointSlice, Node, NodeName, Pod, SliceKey, TrafficPolicy,
    };
    use crate::net::Protocol;
    use crate::proxy::endpoints::Reason;

    /// Node n1 with pod web-0 on it, node n2 with web-1; both behind default/web, port 80.
    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::empty(NodeName::new("n1"));
        let mut endpoints = Vec::new();
        for (number, node) in [(0_u8, "n1"), (1, "n2")] {
            let address = IpAddr::from([10, 1, number, 2]);
            let name = format!("web-{number}");
            let host = Node { internal_ips: vec![IpAddr::from([192, 0, 2, number])], ..Node::default() };
            snapshot.nodes.insert(NodeName::new(node), Arc::new(host));
            let pod = Pod {
                addresses: Box::new([address, ip("2001:db8:1::2")]),
                node: Some(NodeName::new(node)),
                grace_period: 30,
                container_id: Some(Arc::from(format!("containerd://{number}"))),
                ..Pod::default()
            };
            snapshot.pods.insert(PodKey::new("default", name.as_str()), Arc::new(pod));
            endpoints.push(Endpoint {
                address,
                conditions: Conditions { ready: true, serving: true, terminating: false },
                node: Some(NodeName::new(node)),
                zone: None,
                pod: Some(Arc::from(name)),
                zone_hints: Box::new([]),
                node_hints: Box::new([]),
            });
        }
        let ports = Box::new([EndpointPort { name: Arc::from(""), protocol: Protocol::Tcp, port: 80 }]);
        snapshot.slices.insert(slice_key(), Arc::new(EndpointSlice { ports, endpoints: endpoints.into() }));
        snapshot
    }

    fn slice_key() -> SliceKey {
        SliceKey { service: web(), name: Arc::from("web-a") }
    }

    fn web() -> ServiceKey {
        ServiceKey::new("default", "web")
    }

    fn edit(snapshot: &mut Snapshot, change: impl FnOnce(&mut [Endpoint])) {
        let slice = Arc::make_mut(snapshot.slices.get_mut(&slice_key()).unwrap());
        change(&mut slice.endpoints);
    }

    fn selection(addresses: &[&str], port: u16) -> Selection {
        let target =
            |address: &&str| Target { address: ip(address), port, node_local: false, weight: 1, terminating: false };
        Selection {
            policy: TrafficPolicy::Cluster,
            endpoints: addresses.iter().map(target).collect(),
            any_ready_local: false,
            local_ready: 0,
            reason_v4: Reason::Ready,
            reason_v6: Reason::NoEndpoints,
        }
    }

    fn port() -> ServicePort {
        ServicePort { name: Arc::from(""), protocol: Protocol::Tcp, port: 80, target_port: Some(80), node_port: 0 }
    }

    #[test]
    fn refuses_what_cannot_work_and_says_why() {
        let mut snapshot = snapshot();
        let both = ["10.1.0.2", "10.1.1.2"];
        let refused = |snapshot: &Snapshot, selection: &Selection, runtime| {
            let notice = refusal(snapshot, &web(), &port(), selection, runtime)?;
            assert_eq!((notice.reason, notice.subject), ("DsrUnavailable", Subject::Service(web())));
            Some(notice.message)
        };
        assert_eq!(refused(&snapshot, &selection(&both, 80), true), None);
        assert_eq!(refused(&snapshot, &selection(&[], 80), true), None);
        let no_runtime = refused(&snapshot, &selection(&both, 80), false).unwrap();
        assert!(no_runtime.contains("--runtime-endpoint"), "{no_runtime}");
        let other_port = refused(&snapshot, &selection(&both, 8080), true).unwrap();
        assert!(other_port.contains("port 80") && other_port.contains("port 8080"), "{other_port}");
        // A pod of the host that is known by its own object…
        Arc::make_mut(snapshot.pods.get_mut(&PodKey::new("default", "web-1")).unwrap()).host_network = true;
        let on_host = refused(&snapshot, &selection(&both, 80), true).unwrap();
        assert!(on_host.contains("10.1.1.2") && on_host.contains("hostNetwork"), "{on_host}");
        assert_eq!(refused(&snapshot, &selection(&["10.1.0.2"], 80), true), None, "not one of the chosen");
        // … and one that is known only by its address.
        let address = refused(&snapshot, &selection(&["192.0.2.1"], 80), true).unwrap();
        assert!(address.contains("192.0.2.1"), "{address}");
    }

    #[test]
    fn configures_local_pods_only_ready_or_not() {
        let mut snapshot = snapshot();
        let vips = BTreeSet::from([ip("10.255.0.1")]);
        for ready in [true, false] {
            edit(&mut snapshot, |endpoints| endpoints[0].conditions.ready = ready);
            let (setups, notices) = pod_setups(&snapshot, &web(), &vips);
            let expected = PodSetup {
                pod: PodKey::new("default", "web-0"),
                container_id: Arc::from("containerd://0"),
                addresses: vec![ip("10.1.0.2"), ip("2001:db8:1::2")],
                vips: vips.clone(),
                services: BTreeSet::from([web()]),
            };
            assert_eq!((setups, notices), (vec![expected], vec![]));
        }
        assert_eq!(pod_setups(&snapshot, &web(), &BTreeSet::new()), (vec![], vec![]));
    }

    #[test]
    fn says_which_local_endpoints_cannot_be_configured() {
        let mut snapshot = snapshot();
        let vips = BTreeSet::from([ip("10.255.0.1")]);
        let name = PodKey::new("default", "web-0");
        Arc::make_mut(snapshot.pods.get_mut(&name).unwrap()).container_id = None;
        let (setups, notices) = pod_setups(&snapshot, &web(), &vips);
        assert!(setups.is_empty());
        assert!(notices.len() == 1 && notices[0].message.contains("default/web-0"), "{notices:?}");
        // A pod that is only starting is no news.
        edit(&mut snapshot, |endpoints| endpoints[0].conditions.ready = false);
        assert_eq!(pod_setups(&snapshot, &web(), &vips), (vec![], vec![]));
        // Nor is one that is gone, or one in the host's network: refusal() has that.
        snapshot.pods.remove(&name);
        edit(&mut snapshot, |endpoints| endpoints[0].conditions.ready = true);
        assert_eq!(pod_setups(&snapshot, &web(), &vips), (vec![], vec![]));
        edit(&mut snapshot, |endpoints| endpoints[0].pod = None);
        let (_, notices) = pod_setups(&snapshot, &web(), &vips);
        assert!(notices.len() == 1 && notices[0].message.contains("10.1.0.2"), "{notices:?}");
    }
}
