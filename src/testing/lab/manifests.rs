//! The folder of YAML the daemons read the cluster from, written as a cluster would look: Nodes, Pods, Services and
//! their EndpointSlices.
//!
//! Each object set has a file of its own, written beside the folder and renamed into it: a reader sees the old or
//! the new file, never half of one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Node, Pod, topology};
use crate::net::{Family, Protocol};

/// Two folders: the one the daemons watch, and one for files being written.
#[derive(Debug)]
pub struct Manifests {
    watched: PathBuf,
    drafts: PathBuf,
}

/// A Service to expose, field by field. Namespace `default`.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    name: String,
    kind: &'static str,
    cluster_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    ports: Vec<Port>,
    annotations: Vec<(String, String)>,
    source_ranges: Vec<String>,
    affinity_seconds: Option<u32>,
    external_local: bool,
    internal_local: bool,
    health_check_node_port: Option<u16>,
}

/// One port of a Service.
#[derive(Clone, Debug)]
struct Port {
    name: String,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
    target: Target,
}

/// Where a port leads.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// What the pods of the lab serve for this protocol (a host-network pod on a port of its own).
    Served,
    /// This port, whatever is there.
    Port(u16),
}

/// What an endpoint's conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Ready and serving.
    Ready,
    /// Neither ready nor serving.
    NotReady,
    /// Its pod is being deleted and still answers.
    TerminatingServing,
    /// Its pod is being deleted and answers no more.
    TerminatingGone,
}

impl ServiceSpec {
    /// A Service of type ClusterIP with these addresses.
    pub fn new(name: &str, cluster_ips: &[IpAddr]) -> ServiceSpec {
        ServiceSpec {
            name: name.to_owned(),
            kind: "ClusterIP",
            cluster_ips: cluster_ips.to_vec(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: Vec::new(),
            annotations: Vec::new(),
            source_ranges: Vec::new(),
            affinity_seconds: None,
            external_local: false,
            internal_local: false,
            health_check_node_port: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A port that leads to what the lab's pods serve for `protocol`.
    #[must_use]
    pub fn port(mut self, protocol: Protocol, port: u16) -> ServiceSpec {
        let name = format!("{protocol}-{port}");
        self.ports.push(Port { name, protocol, port, node_port: None, target: Target::Served });
        self
    }

    /// A port that leads to a port of choice.
    #[must_use]
    pub fn port_to(mut self, protocol: Protocol, port: u16, target: u16) -> ServiceSpec {
        let name = format!("{protocol}-{port}");
        self.ports.push(Port { name, protocol, port, node_port: None, target: Target::Port(target) });
        self
    }

    /// Gives the newest port this node port; the Service becomes a NodePort one unless it is more already.
    #[must_use]
    pub fn node_port(mut self, node_port: u16) -> ServiceSpec {
        if self.kind == "ClusterIP" {
            self.kind = "NodePort";
        }
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(node_port);
        }
        self
    }

    /// Adds external IPs.
    #[must_use]
    pub fn external_ips(mut self, addresses: &[IpAddr]) -> ServiceSpec {
        self.external_ips.extend(addresses);
        self
    }

    /// Makes it a LoadBalancer Service that was given these addresses.
    #[must_use]
    pub fn load_balancer(mut self, addresses: &[IpAddr]) -> ServiceSpec {
        self.kind = "LoadBalancer";
        self.load_balancer_ips.extend(addresses);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> ServiceSpec {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The scheduler annotation.
    #[must_use]
    pub fn scheduler(self, name: &str) -> ServiceSpec {
        self.annotation("kube-router.io/service.scheduler", name)
    }

    /// Keeps the connections of one client together for this many seconds.
    #[must_use]
    pub fn affinity(mut self, seconds: u32) -> ServiceSpec {
        self.affinity_seconds = Some(seconds);
        self
    }

    /// `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(mut self) -> ServiceSpec {
        self.external_local = true;
        self
    }

    /// `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(mut self) -> ServiceSpec {
        self.internal_local = true;
        self
    }

    /// Lets only these blocks use its load-balancer addresses.
    #[must_use]
    pub fn source_ranges(mut self, ranges: &[&str]) -> ServiceSpec {
        self.source_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
        self
    }

    /// `healthCheckNodePort`.
    #[must_use]
    pub fn health_check_node_port(mut self, port: u16) -> ServiceSpec {
        self.health_check_node_port = Some(port);
        self
    }

    /// The Service object.
    fn object(&self) -> Value {
        let ports: Vec<Value> = self.ports.iter().map(|port| port.object(self.kind)).collect();
        let policy = |local: bool| if local { "Local" } else { "Cluster" };
        let families: Vec<&str> =
            self.cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        let mut spec = json!({
            "type": self.kind,
            "clusterIP": self.cluster_ips.first(),
            "clusterIPs": self.cluster_ips,
            "ipFamilies": families,
            "ports": ports,
            "internalTrafficPolicy": policy(self.internal_local),
            "sessionAffinity": if self.affinity_seconds.is_some() { "ClientIP" } else { "None" },
        });
        if self.kind != "ClusterIP" || !self.external_ips.is_empty() {
            spec["externalTrafficPolicy"] = policy(self.external_local).into();
        }
        if let Some(seconds) = self.affinity_seconds {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        if !self.external_ips.is_empty() {
            spec["externalIPs"] = json!(self.external_ips);
        }
        if !self.source_ranges.is_empty() {
            spec["loadBalancerSourceRanges"] = json!(self.source_ranges);
        }
        if let Some(port) = self.health_check_node_port {
            spec["healthCheckNodePort"] = port.into();
        }
        let annotations: serde_json::Map<String, Value> =
            self.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let ingress: Vec<Value> = self.load_balancer_ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default", "annotations": annotations},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    /// The EndpointSlices: one for each family of the Service, and the host-network pods apart, whose ports differ.
    fn slices(&self, endpoints: &[(&Pod, EndpointState)]) -> Vec<Value> {
        let mut slices = Vec::new();
        let families = Family::ALL.into_iter();
        for family in families.filter(|family| self.cluster_ips.iter().any(|ip| Family::of(*ip) == *family)) {
            for host_network in [false, true] {
                let members: Vec<Value> = endpoints
                    .iter()
                    .filter(|(pod, _)| pod.host_network == host_network)
                    .map(|(pod, state)| state.endpoint(pod, family))
                    .collect();
                if members.is_empty() && host_network {
                    continue;
                }
                let ports: Vec<Value> = self
                    .ports
                    .iter()
                    .map(|port| {
                        let number = port.number(host_network);
                        json!({"name": port.name, "protocol": upper(port.protocol), "port": number})
                    })
                    .collect();
                let name = format!("{}-{family}{}", self.name, if host_network { "-host" } else { "" });
                slices.push(json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": name,
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": self.name},
                    },
                    "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
                    "ports": ports,
                    "endpoints": members,
                }));
            }
        }
        slices
    }
}

impl Port {
    /// The port in a Service object.
    fn object(&self, kind: &str) -> Value {
        let mut port = json!({
            "name": self.name,
            "protocol": upper(self.protocol),
            "port": self.port,
            "targetPort": self.number(false),
        });
        if let Some(node_port) = self.node_port.filter(|_| kind != "ClusterIP") {
            port["nodePort"] = node_port.into();
        }
        port
    }

    /// The port the pods listen on.
    fn number(&self, host_network: bool) -> u16 {
        match (self.target, self.protocol) {
            (Target::Port(number), _) => number,
            (Target::Served, _) if host_network => topology::HOST_POD_PORT,
            (Target::Served, Protocol::Tcp) => topology::HTTP_PORT,
            (Target::Served, Protocol::Udp) => topology::UDP_PORT,
            (Target::Served, Protocol::Sctp) => topology::SCTP_PORT,
        }
    }
}

impl EndpointState {
    /// One endpoint of a slice.
    fn endpoint(self, pod: &Pod, family: Family) -> Value {
        let (ready, serving, terminating) = match self {
            EndpointState::Ready => (true, true, false),
            EndpointState::NotReady => (false, false, false),
            EndpointState::TerminatingServing => (false, true, true),
            EndpointState::TerminatingGone => (false, false, true),
        };
        json!({
            "addresses": [pod.address(family)],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "nodeName": format!("n{}", pod.node),
            "targetRef": {"kind": "Pod", "name": pod.name, "namespace": "default"},
        })
    }
}

impl Manifests {
    /// Makes the folders below `directory`.
    pub(super) fn create(directory: &Path) -> Result<Manifests> {
        let manifests = Manifests { watched: directory.join("manifests"), drafts: directory.join("drafts") };
        for folder in [&manifests.watched, &manifests.drafts] {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(manifests)
    }

    /// The folder the daemons watch.
    pub fn path(&self) -> &Path {
        &self.watched
    }

    /// Writes the Pod objects, each with this grace period in seconds; those named in `moved` are in that namespace,
    /// all others in `default`.
    pub(super) fn write_pods(&self, nodes: &[Node], grace_period: u32, moved: &[(&str, &str)]) -> Result<()> {
        let pods = nodes.iter().flat_map(|node| &node.pods);
        let namespace = |pod: &Pod| moved.iter().find(|(name, _)| *name == pod.name).map_or("default", |(_, to)| to);
        self.write("pods", &pods.map(|pod| pod_object(pod, namespace(pod), grace_period)).collect::<Vec<_>>())
    }

    /// Writes (or rewrites) a Service whose endpoints are all ready.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn expose(&self, service: &ServiceSpec, endpoints: &[&Pod]) -> Result<()> {
        let endpoints: Vec<_> = endpoints.iter().map(|pod| (*pod, EndpointState::Ready)).collect();
        self.expose_as(service, &endpoints)
    }

    /// Writes (or rewrites) a Service with a state for each endpoint. The object and its slices change together.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn expose_as(&self, service: &ServiceSpec, endpoints: &[(&Pod, EndpointState)]) -> Result<()> {
        let mut objects = vec![service.object()];
        objects.extend(service.slices(endpoints));
        self.write(&format!("service-{}", service.name), &objects)
    }

    /// Writes many Services with the same ready endpoints into one file.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn expose_many(&self, file: &str, services: &[ServiceSpec], endpoints: &[&Pod]) -> Result<()> {
        let endpoints: Vec<_> = endpoints.iter().map(|pod| (*pod, EndpointState::Ready)).collect();
        let mut objects = Vec::new();
        for service in services {
            objects.push(service.object());
            objects.extend(service.slices(&endpoints));
        }
        self.write(file, &objects)
    }

    /// Removes a Service with its slices.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn delete(&self, service: &str) -> Result<()> {
        let path = self.file(&format!("service-{service}"));
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Writes a set of objects as one file, all at once.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            text.push_str("---\n");
            text.push_str(&serde_saphyr::to_string(object).context("write a manifest as YAML")?);
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        let draft = self.drafts.join(name);
        std::fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
        let path = self.file(name);
        std::fs::rename(&draft, &path).with_context(|| format!("rename to {}", path.display()))
    }

    /// What a file holds, to show it.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn read(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The path of a set of objects.
    fn file(&self, name: &str) -> PathBuf {
        self.watched.join(format!("{name}.yaml"))
    }
}

/// A protocol as the API writes it.
fn upper(protocol: Protocol) -> String {
    protocol.to_string().to_uppercase()
}

/// The Node object of a lab node.
pub(super) fn node_object(node: &Node) -> Value {
    let addresses: Vec<Value> =
        Family::ALL.iter().map(|family| json!({"type": "InternalIP", "address": node.address(*family)})).collect();
    let pod_cidrs: Vec<String> = Family::ALL.iter().map(|family| topology::pod_prefix(*family, node.number)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}, "annotations": {}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The Pod object of a lab pod. Policies choose it alone by its label `pod`.
fn pod_object(pod: &Pod, namespace: &str, grace_period: u32) -> Value {
    let addresses: Vec<Value> = Family::ALL.iter().map(|family| json!({"ip": pod.address(*family)})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": namespace, "labels": {"app": "web", "pod": pod.name}},
        "spec": {
            "nodeName": format!("n{}", pod.node),
            "hostNetwork": pod.host_network,
            "terminationGracePeriodSeconds": grace_period,
            "containers": [{"name": "server", "image": "server"}],
        },
        "status": {
            "phase": "Running",
            "hostIP": topology::node_address(Family::V4, pod.node),
            "podIP": pod.address(Family::V4),
            "podIPs": addresses,
            "containerStatuses": [{
                "name": "server",
                "image": "server",
                "imageID": "server",
                "containerID": format!("containerd://{}", pod.name),
                "ready": true,
                "restartCount": 0,
                "state": {"running": {}},
            }],
        },
    })
}
