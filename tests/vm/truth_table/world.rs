//! The cluster of the truth table as API objects: what a case changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::Lab;
use serde_json::{Value, json};

/// The namespaces.
pub(super) const NAMESPACES: [&str; 3] = ["x", "y", "z"];

/// Labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// A pod object; which address it has is said by its place.
#[derive(Clone, Debug)]
pub(super) struct PodSpec {
    pub(super) namespace: &'static str,
    pub(super) name: String,
    pub(super) labels: Labels,
    /// Name, number and protocol of its ports.
    pub(super) ports: Vec<(&'static str, u16, Protocol)>,
}

impl PodSpec {
    fn object(&self, node: u16, addresses: [IpAddr; 2]) -> Value {
        let ports = self.ports.iter().map(|(name, port, protocol)| {
            json!({"name": name, "containerPort": port, "protocol": protocol.to_string().to_uppercase()})
        });
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels},
            "spec": {
                "nodeName": format!("n{node}"),
                "containers": [{"name": "server", "image": "server", "ports": ports.collect::<Vec<_>>()}],
            },
            "status": {"phase": "Running", "podIP": addresses[0], "podIPs": addresses.map(|ip| json!({"ip": ip}))},
        })
    }
}

/// All that the API has.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) namespaces: BTreeMap<&'static str, Labels>,
    /// By the pods of the lab, whose addresses they have.
    pub(super) pods: Vec<PodSpec>,
    /// By namespace and name.
    pub(super) policies: BTreeMap<(String, String), Value>,
    /// ClusterNetworkPolicies by name.
    pub(super) cluster_policies: BTreeMap<String, Value>,
    /// Changes with every case, so that each is a change for the daemons.
    pub(super) case: usize,
}

/// Labels from pairs.
pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl World {
    /// Three namespaces with three pods each, in turn: neighbours on a bridge are of different namespaces.
    pub(super) fn new(n_pods: usize) -> World {
        let teams = [("x", "red"), ("y", "blue"), ("z", "blue")];
        let namespaces =
            teams.map(|(name, team)| (name, labels(&[("team", team), ("kubernetes.io/metadata.name", name)])));
        let apps = ["a", "b", "c"];
        let pods = (0..n_pods).map(|number| {
            let namespace = NAMESPACES.get(number % 3).copied().unwrap_or_default();
            let app = apps.get(number / 3 % 3).copied().unwrap_or_default();
            // The same name means another number in every second pod.
            let (web, other) = if number % 2 == 0 { (7001, 7002) } else { (7002, 7001) };
            PodSpec {
                namespace,
                name: app.to_owned(),
                labels: labels(&[("app", app), ("tier", if number % 2 == 0 { "front" } else { "back" })]),
                ports: vec![
                    ("web", web, Protocol::Tcp),
                    ("dns", other, Protocol::Udp),
                    ("signal", web, Protocol::Sctp),
                ],
            }
        });
        World {
            namespaces: namespaces.into(),
            pods: pods.collect(),
            policies: BTreeMap::new(),
            cluster_policies: BTreeMap::new(),
            case: 0,
        }
    }

    /// A NetworkPolicy that is added, or takes the place of one with its name.
    pub(super) fn put(&mut self, namespace: &str, name: &str, spec: Value) {
        self.policies.insert((namespace.to_owned(), name.to_owned()), spec);
    }

    fn policy_objects(&self) -> Vec<Value> {
        let policies = self.policies.iter().map(|((namespace, name), spec)| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": name}, "spec": spec,
            })
        });
        let cluster = self.cluster_policies.iter().map(|(name, spec)| {
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": name}, "spec": spec,
            })
        });
        policies.chain(cluster).collect()
    }

    /// Everything as objects of the API.
    fn objects(&self, lab: &Lab) -> Vec<Value> {
        let mut objects = self.policy_objects();
        let marker = [("case".to_owned(), json!({"case": self.case.to_string()}))];
        let namespaces = self.namespaces.iter().map(|(name, labels)| ((*name).to_owned(), json!(labels)));
        objects.extend(namespaces.chain(marker).map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        }));
        let places = lab.nodes().iter().flat_map(|node| &node.pods).filter(|pod| !pod.host_network);
        objects.extend(
            places
                .zip(&self.pods)
                .map(|(place, pod)| pod.object(place.node, Family::ALL.map(|family| place.address(family)))),
        );
        objects
    }

    /// Writes all of it at once, as one change.
    pub(super) fn write(&self, lab: &Lab) -> Result<()> {
        lab.manifests().write("pods", &self.objects(lab))
    }

    /// What the table prints above differences.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (name, labels) in &self.namespaces {
            text.push_str(&format!("  namespace {name} {labels:?}\n"));
        }
        for pod in &self.pods {
            text.push_str(&format!("  pod {}/{} {:?} ports {:?}\n", pod.namespace, pod.name, pod.labels, pod.ports));
        }
        for object in self.policy_objects() {
            text.push_str(&format!("  {object}\n"));
        }
        text
    }
}
