//! Which endpoints a service port may use on this node (pure).
//!
//! The rules are kube-proxy's, so that a cluster behaves the same under either (KEP-1669 terminating endpoints,
//! KEP-2433 and KEP-4444 topology hints, KEP-3015 same node). For each address family on its own:
//!
//! 1. An endpoint belongs to a service port when a slice of the Service carries a port of the same name and protocol.
//!    An address listed in several slices counts once, in its best condition.
//! 2. Policy `Cluster` takes all ready endpoints; policy `Local` takes the ready ones on this node.
//! 3. Where none is ready *in that scope*, the ones that still serve while they terminate are taken instead.
//! 4. Hints narrow policy `Cluster` only, and only when every ready endpoint carries one: first hints for nodes when
//!    one of them names this node, else hints for zones when one of them names this node's zone, else no narrowing.
//!    The hints decide, not the field that asked for them: the control plane writes them only when asked, and takes
//!    them away when they can no longer be followed.
//! 5. Policy `Local` without an endpoint here means "not served on this node", which differs from "served by nobody".

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{
    Endpoint, EndpointSlice, NodeName, Service, ServicePort, TrafficPolicy, WeightRule, WeightSelector,
};
use crate::net::Family;

/// Where this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// Its zone (label `topology.kubernetes.io/zone`), where it has one.
    pub zone: Option<&'a str>,
}

/// Which of a Service's two traffic policies applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// To a cluster IP: `spec.internalTrafficPolicy`.
    Internal,
    /// To a node port, external or load balancer address: `spec.externalTrafficPolicy`.
    External,
}

/// What a service port may use on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The policy that was applied.
    pub policy: TrafficPolicy,
    /// The endpoints to use, of both families, each (address, port) once, in that order.
    pub endpoints: Vec<Target>,
    /// True when a ready endpoint of this port runs on this node, whatever the policy.
    pub any_ready_local: bool,
    /// How many ready endpoints of this port run on this node, whatever the policy.
    pub local_ready: usize,
    /// Why these, for IPv4.
    pub reason_v4: Reason,
    /// Why these, for IPv6.
    pub reason_v6: Reason,
}

/// One endpoint to send traffic to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Where it listens.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// It runs on this node.
    pub node_local: bool,
    /// Share of new connections: 1 unless the weights annotation says otherwise; 0 takes none.
    pub weight: u32,
    /// Its pod is being deleted.
    pub terminating: bool,
}

/// Why a selection is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Every ready endpoint of the policy's scope.
    Ready,
    /// The ready endpoints hinted to this node.
    SameNode,
    /// The ready endpoints hinted to this node's zone.
    SameZone,
    /// Nothing in scope is ready: those that serve while they terminate.
    Terminating,
    /// Policy `Cluster` and nothing to send to: connections are refused.
    NoEndpoints,
    /// Policy `Local` and nothing on this node: this node does not serve the port.
    NoLocalEndpoints,
}

impl Selection {
    /// The endpoints of one family, or `None` when the policy says that this node does not serve that family: then
    /// there must be no virtual server. An empty slice is a virtual server without real servers.
    pub fn of(&self, family: Family) -> Option<&[Target]> {
        if self.reason(family) == Reason::NoLocalEndpoints {
            return None;
        }
        // IPv4 addresses sort before IPv6 ones.
        let (v4, v6) = self.endpoints.split_at(self.endpoints.partition_point(|target| target.address.is_ipv4()));
        Some(match family {
            Family::V4 => v4,
            Family::V6 => v6,
        })
    }

    /// Why these endpoints, for one family.
    pub fn reason(&self, family: Family) -> Reason {
        match family {
            Family::V4 => self.reason_v4,
            Family::V6 => self.reason_v6,
        }
    }
}

/// The policy that applies to one kind of traffic. `kube-router.io/service.local: "true"` makes external traffic
/// `Local` and leaves internal traffic `Cluster`, whatever the fields say.
pub fn effective_policy(service: &Service, traffic: Traffic) -> TrafficPolicy {
    match traffic {
        Traffic::Internal if service.settings.local => TrafficPolicy::Cluster,
        Traffic::External if service.settings.local => TrafficPolicy::Local,
        Traffic::Internal => service.internal_policy,
        Traffic::External => service.external_policy,
    }
}

/// Selects the endpoints of one service port from the slices of its Service.
pub fn select<'a>(
    service: &Service,
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    place: Place<'_>,
    traffic: Traffic,
) -> Selection {
    let policy = effective_policy(service, traffic);
    let mut v4 = Candidates::default();
    let mut v6 = Candidates::default();
    for ((address, target_port), endpoint) in join(port, slices) {
        let candidate = Candidate { endpoint, port: target_port, local: endpoint.node.as_ref() == Some(place.node) };
        match Family::of(address) {
            Family::V4 => v4.0.push(candidate),
            Family::V6 => v6.0.push(candidate),
        }
    }
    let local_ready = v4.local_ready() + v6.local_ready();
    let weights = &service.settings.weights;
    let (reason_v4, chosen_v4) = v4.choose(policy, place);
    let (reason_v6, chosen_v6) = v6.choose(policy, place);
    let endpoints = chosen_v4.into_iter().chain(chosen_v6).map(|candidate| candidate.target(weights)).collect();
    Selection { policy, endpoints, any_ready_local: local_ready > 0, local_ready, reason_v4, reason_v6 }
}

/// How many distinct addresses of this node stand behind a Service, ready and not terminating: what a load balancer's
/// health check of this node asks for. An address with several ports counts once, and only ports the Service has count.
pub fn local_ready_count<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &NodeName,
) -> usize {
    let serves = |slice: &&EndpointSlice| {
        slice
            .ports
            .iter()
            .any(|theirs| service.ports.iter().any(|ours| ours.name == theirs.name && ours.protocol == theirs.protocol))
    };
    let ready_here = |endpoint: &&Endpoint| {
        endpoint.conditions.ready && !endpoint.conditions.terminating && endpoint.node.as_ref() == Some(node)
    };
    slices
        .into_iter()
        .filter(serves)
        .flat_map(|slice| slice.endpoints.iter())
        .filter(ready_here)
        .map(|endpoint| endpoint.address)
        .collect::<BTreeSet<IpAddr>>()
        .len()
}

/// The weight of an endpoint: that of the first rule that selects it, else 1.
pub fn weight_of(rules: &[WeightRule], endpoint: &Endpoint) -> u32 {
    let selects = |rule: &&WeightRule| match &rule.selector {
        WeightSelector::Any => true,
        WeightSelector::Address(address) => *address == endpoint.address,
        WeightSelector::Pod(pod) => endpoint.pod.as_ref() == Some(pod),
        WeightSelector::Node(node) => endpoint.node.as_ref() == Some(node),
        WeightSelector::Zone(zone) => endpoint.zone.as_ref() == Some(zone),
    };
    rules.iter().find(selects).map_or(1, |rule| rule.weight)
}

/// Every endpoint of a service port once, by address and port, in its best condition.
fn join<'a>(
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
    let mut joined: BTreeMap<(IpAddr, u16), &'a Endpoint> = BTreeMap::new();
    for slice in slices {
        for theirs in slice.ports.iter().filter(|theirs| theirs.name == port.name && theirs.protocol == port.protocol) {
            for endpoint in &slice.endpoints {
                match joined.entry((endpoint.address, theirs.port)) {
                    Entry::Vacant(entry) => {
                        entry.insert(endpoint);
                    }
                    Entry::Occupied(mut entry) => {
                        // Equal ranks keep the first: slices come in the order of their names.
                        if rank(endpoint) > rank(entry.get()) {
                            entry.insert(endpoint);
                        }
                    }
                }
            }
        }
    }
    joined
}

/// How good a condition is: ready and staying, ready, serving, neither.
fn rank(endpoint: &Endpoint) -> u8 {
    let conditions = endpoint.conditions;
    match (conditions.ready, conditions.serving) {
        (true, _) if !conditions.terminating => 3,
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }
}

/// An endpoint of the service port being looked at.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    port: u16,
    local: bool,
}

impl Candidate<'_> {
    fn ready(&self) -> bool {
        self.endpoint.conditions.ready
    }

    fn serving_terminating(&self) -> bool {
        self.endpoint.conditions.serving && self.endpoint.conditions.terminating
    }

    fn hinted_to_node(&self, node: &NodeName) -> bool {
        self.endpoint.node_hints.contains(node)
    }

    fn hinted_to_zone(&self, zone: Option<&str>) -> bool {
        zone.is_some_and(|zone| self.endpoint.zone_hints.iter().any(|hint| &**hint == zone))
    }

    fn target(self, weights: &[WeightRule]) -> Target {
        Target {
            address: self.endpoint.address,
            port: self.port,
            node_local: self.local,
            weight: weight_of(weights, self.endpoint),
            terminating: self.endpoint.conditions.terminating,
        }
    }
}

/// The endpoints of one service port and family, sorted by address and port.
#[derive(Default)]
struct Candidates<'a>(Vec<Candidate<'a>>);

impl<'a> Candidates<'a> {
    fn local_ready(&self) -> usize {
        self.0.iter().filter(|candidate| candidate.local && candidate.ready()).count()
    }

    fn choose(self, policy: TrafficPolicy, place: Place<'_>) -> (Reason, Vec<Candidate<'a>>) {
        let in_scope: Vec<Candidate<'a>> = match policy {
            TrafficPolicy::Cluster => self.0,
            TrafficPolicy::Local => self.0.into_iter().filter(|candidate| candidate.local).collect(),
        };
        let ready: Vec<Candidate<'a>> = in_scope.iter().copied().filter(Candidate::ready).collect();
        if !ready.is_empty() {
            return match policy {
                TrafficPolicy::Cluster => narrow_by_hints(ready, place),
                TrafficPolicy::Local => (Reason::Ready, ready),
            };
        }
        let terminating: Vec<Candidate<'a>> = in_scope.into_iter().filter(Candidate::serving_terminating).collect();
        let reason = match policy {
            _ if !terminating.is_empty() => Reason::Terminating,
            TrafficPolicy::Cluster => Reason::NoEndpoints,
            TrafficPolicy::Local => Reason::NoLocalEndpoints,
        };
        (reason, terminating)
    }
}

/// Keeps the endpoints hinted to this node or its zone, when hints can be trusted: every ready endpoint has one of
/// that kind (a slice without them is newer or older than its fellows) and one of them is for us.
fn narrow_by_hints<'a>(ready: Vec<Candidate<'a>>, place: Place<'_>) -> (Reason, Vec<Candidate<'a>>) {
    let for_node = |candidate: &Candidate<'_>| candidate.hinted_to_node(place.node);
    let for_zone = |candidate: &Candidate<'_>| candidate.hinted_to_zone(place.zone);
    if ready.iter().all(|candidate| !candidate.endpoint.node_hints.is_empty()) && ready.iter().any(for_node) {
        return (Reason::SameNode, ready.into_iter().filter(for_node).collect());
    }
    if ready.iter().all(|candidate| !candidate.endpoint.zone_hints.is_empty()) && ready.iter().any(for_zone) {
        return (Reason::SameZone, ready.into_iter().filter(for_zone).collect());
    }
    (Reason::Ready, ready)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Conditions, EndpointPort, ServiceSettings, ServiceType, TrafficDistribution};
    use crate::net::Protocol;

    fn service() -> Service {
        Service {
            uid: Arc::from(""),
            created: 0,
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: vec![port("http", Protocol::Tcp)],
            affinity: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            source_ranges: Vec::new(),
            traffic_distribution: Some(TrafficDistribution::PreferSameZone),
            ignored_by_proxy: false,
            settings: ServiceSettings::default(),
        }
    }

    fn port(name: &str, protocol: Protocol) -> ServicePort {
        ServicePort { name: Arc::from(name), protocol, port: 80, target_port: None, node_port: 0 }
    }

    /// An endpoint from a line: `ADDRESS [node=N] [zone=Z] [pod=P] [zh=Z,Z] [nh=N,N] [STATE]`, where STATE is `ready`
    /// (the default), `unready`, `serving-terminating`, `ready-terminating` or `gone` (terminating, not serving).
    fn endpoint(line: &str) -> Endpoint {
        let mut words = line.split_whitespace();
        let mut endpoint = Endpoint {
            address: words.next().unwrap().parse().unwrap(),
            conditions: Conditions { ready: true, serving: true, terminating: false },
            node: None,
            zone: None,
            pod: None,
            zone_hints: Box::new([]),
            node_hints: Box::new([]),
        };
        for word in words {
            match word.split_once('=') {
                Some(("node", node)) => endpoint.node = Some(NodeName::new(node)),
                Some(("zone", zone)) => endpoint.zone = Some(Arc::from(zone)),
                Some(("pod", pod)) => endpoint.pod = Some(Arc::from(pod)),
                Some(("zh", hints)) => endpoint.zone_hints = hints.split(',').map(Arc::from).collect(),
                Some(("nh", hints)) => endpoint.node_hints = hints.split(',').map(NodeName::new).collect(),
                _ => {
                    let (ready, serving, terminating) = match word {
                        "ready" => (true, true, false),
                        "unready" => (false, false, false),
                        "serving-terminating" => (false, true, true),
                        "ready-terminating" => (true, true, true),
                        "gone" => (false, false, true),
                        other => panic!("unknown word {other}"),
                    };
                    endpoint.conditions = Conditions { ready, serving, terminating };
                }
            }
        }
        endpoint
    }

    fn slice(port_name: &str, protocol: Protocol, port: u16, lines: &[&str]) -> EndpointSlice {
        EndpointSlice {
            ports: Box::new([EndpointPort { name: Arc::from(port_name), protocol, port }]),
            endpoints: lines.iter().map(|line| endpoint(line)).collect(),
        }
    }

    fn run(service: &Service, slices: &[EndpointSlice], zone: Option<&str>, traffic: Traffic) -> Selection {
        let node = NodeName::new("n1");
        select(service, &port("http", Protocol::Tcp), slices, Place { node: &node, zone }, traffic)
    }

    fn addresses(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| target.address.to_string()).collect()
    }

    /// One case: policy, lines, zone of this node, the addresses expected (`None`: not served), the reason.
    type Case = (&'static str, TrafficPolicy, &'static [&'static str], Option<&'static [&'static str]>, Reason);

    use Reason::{NoEndpoints, NoLocalEndpoints, Ready, SameNode, SameZone, Terminating};
    use TrafficPolicy::{Cluster, Local};

    const CASES: &[Case] = &[
        ("nothing at all", Cluster, &[], Some(&[]), NoEndpoints),
        ("nothing at all, local", Local, &[], None, NoLocalEndpoints),
        ("all ready", Cluster, &["10.0.0.2 node=n2", "10.0.0.1 node=n1"], Some(&["10.0.0.1", "10.0.0.2"]), Ready),
        ("local only", Local, &["10.0.0.1 node=n1", "10.0.0.2 node=n2"], Some(&["10.0.0.1"]), Ready),
        ("no node name is not local", Local, &["10.0.0.1"], None, NoLocalEndpoints),
        ("none local", Local, &["10.0.0.2 node=n2"], None, NoLocalEndpoints),
        ("unready is no candidate", Cluster, &["10.0.0.1 unready", "10.0.0.2"], Some(&["10.0.0.2"]), Ready),
        ("only unready", Cluster, &["10.0.0.1 unready", "10.0.0.2 gone"], Some(&[]), NoEndpoints),
        ("only unready, local", Local, &["10.0.0.1 node=n1 unready"], None, NoLocalEndpoints),
        (
            "terminating ones wait while one is ready",
            Cluster,
            &["10.0.0.1 serving-terminating", "10.0.0.2"],
            Some(&["10.0.0.2"]),
            Ready,
        ),
        (
            "terminating ones serve when none is ready",
            Cluster,
            &["10.0.0.1 serving-terminating", "10.0.0.2 unready", "10.0.0.3 gone"],
            Some(&["10.0.0.1"]),
            Terminating,
        ),
        (
            "the fallback is the scope's own",
            Local,
            &["10.0.0.1 node=n1 serving-terminating", "10.0.0.2 node=n2"],
            Some(&["10.0.0.1"]),
            Terminating,
        ),
        (
            "a ready local one keeps local terminating ones out",
            Local,
            &["10.0.0.1 node=n1 serving-terminating", "10.0.0.3 node=n1"],
            Some(&["10.0.0.3"]),
            Ready,
        ),
        ("published although not ready", Cluster, &["10.0.0.1 ready-terminating"], Some(&["10.0.0.1"]), Ready),
        (
            "zone hints",
            Cluster,
            &["10.0.0.1 zh=a", "10.0.0.2 zh=b", "10.0.0.3 zh=a,b"],
            Some(&["10.0.0.1", "10.0.0.3"]),
            SameZone,
        ),
        (
            "one ready endpoint without a zone hint: all",
            Cluster,
            &["10.0.0.1 zh=a", "10.0.0.2"],
            Some(&["10.0.0.1", "10.0.0.2"]),
            Ready,
        ),
        (
            "an unready endpoint without a hint does not matter",
            Cluster,
            &["10.0.0.1 zh=a", "10.0.0.2 unready", "10.0.0.3 zh=b"],
            Some(&["10.0.0.1"]),
            SameZone,
        ),
        (
            "an unready endpoint with our hint does not count",
            Cluster,
            &["10.0.0.1 zh=a unready", "10.0.0.3 zh=b"],
            Some(&["10.0.0.3"]),
            Ready,
        ),
        ("no hint for our zone: all", Cluster, &["10.0.0.1 zh=b"], Some(&["10.0.0.1"]), Ready),
        (
            "hints do not apply to local policy",
            Local,
            &["10.0.0.1 node=n1 zh=b nh=n2", "10.0.0.2 node=n2 zh=a nh=n1"],
            Some(&["10.0.0.1"]),
            Ready,
        ),
        (
            "hints do not apply to the fallback",
            Cluster,
            &["10.0.0.1 zh=b serving-terminating", "10.0.0.2 zh=a serving-terminating"],
            Some(&["10.0.0.1", "10.0.0.2"]),
            Terminating,
        ),
        (
            "node hints go before zone hints",
            Cluster,
            &["10.0.0.1 zh=a nh=n1", "10.0.0.2 zh=a nh=n2"],
            Some(&["10.0.0.1"]),
            SameNode,
        ),
        (
            "no node hint for us: zone hints",
            Cluster,
            &["10.0.0.1 zh=a nh=n3", "10.0.0.2 zh=b nh=n2"],
            Some(&["10.0.0.1"]),
            SameZone,
        ),
        (
            "one endpoint without a node hint: zone hints",
            Cluster,
            &["10.0.0.1 zh=a nh=n1", "10.0.0.2 zh=a"],
            Some(&["10.0.0.1", "10.0.0.2"]),
            SameZone,
        ),
    ];

    #[test]
    fn selects_what_kube_proxy_selects() {
        for (what, policy, lines, expected, reason) in CASES {
            let mut service = service();
            let slices = [slice("http", Protocol::Tcp, 8080, lines)];
            // The same must come of either policy field, each asked by its own traffic.
            for (traffic, other) in [(Traffic::Internal, Traffic::External), (Traffic::External, Traffic::Internal)] {
                let opposite = if *policy == Local { Cluster } else { Local };
                let (own, foreign) = (*policy, opposite);
                (service.internal_policy, service.external_policy) =
                    if traffic == Traffic::Internal { (own, foreign) } else { (foreign, own) };
                let selection = run(&service, &slices, Some("a"), traffic);
                assert_eq!(effective_policy(&service, other), foreign);
                assert_eq!(selection.policy, own, "{what}");
                let chosen = selection.of(Family::V4).map(addresses);
                let expected = expected.map(|list| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
                assert_eq!(chosen, expected, "{what}, {traffic:?}");
                assert_eq!(selection.reason(Family::V4), *reason, "{what}, {traffic:?}");
            }
        }
    }

    #[test]
    fn a_node_without_a_zone_follows_no_zone_hint() {
        let slices = [slice("http", Protocol::Tcp, 80, &["10.0.0.1 zh=a", "10.0.0.2 zh=b"])];
        let selection = run(&service(), &slices, None, Traffic::Internal);
        assert_eq!((selection.endpoints.len(), selection.reason_v4), (2, Reason::Ready));
    }

    #[test]
    fn each_family_is_judged_alone() {
        let mut service = service();
        service.external_policy = TrafficPolicy::Local;
        let slices = [
            slice("http", Protocol::Tcp, 80, &["10.0.0.1 node=n1 zh=a", "10.0.0.2 node=n2 zh=a"]),
            slice("http", Protocol::Tcp, 80, &["2001:db8::2 node=n2 serving-terminating"]),
        ];
        let local = run(&service, &slices, Some("a"), Traffic::External);
        assert_eq!(local.of(Family::V4).map(addresses), Some(vec!["10.0.0.1".to_owned()]));
        assert_eq!(local.of(Family::V6), None);
        let cluster = run(&service, &slices, Some("a"), Traffic::Internal);
        assert_eq!((cluster.reason_v4, cluster.reason_v6), (Reason::SameZone, Reason::Terminating));
        assert_eq!(cluster.of(Family::V4).map(<[Target]>::len), Some(2));
        assert_eq!(cluster.of(Family::V6).map(addresses), Some(vec!["2001:db8::2".to_owned()]));
        assert_eq!(addresses(&cluster.endpoints), ["10.0.0.1", "10.0.0.2", "2001:db8::2"]);
    }

    #[test]
    fn joins_by_port_name_and_protocol() {
        let slices = [
            slice("http", Protocol::Tcp, 8080, &["10.0.0.1"]),
            slice("http", Protocol::Udp, 8081, &["10.0.0.2"]),
            slice("https", Protocol::Tcp, 8443, &["10.0.0.3"]),
            slice("http", Protocol::Tcp, 9090, &["10.0.0.1"]),
        ];
        let selection = run(&service(), &slices, None, Traffic::Internal);
        let pairs: Vec<(String, u16)> =
            selection.endpoints.iter().map(|target| (target.address.to_string(), target.port)).collect();
        assert_eq!(pairs, [("10.0.0.1".to_owned(), 8080), ("10.0.0.1".to_owned(), 9090)]);
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once_in_its_best_condition() {
        let states = ["gone", "serving-terminating", "ready-terminating", "ready"];
        for (worse, better) in states.iter().zip(&states[1..]) {
            for order in [[worse, better], [better, worse]] {
                let slices = order
                    .map(|state| slice("http", Protocol::Tcp, 80, &[format!("10.0.0.1 node=n1 {state}").as_str()]));
                let selection = run(&service(), &slices, None, Traffic::Internal);
                let expected = endpoint(&format!("10.0.0.1 {better}")).conditions;
                assert_eq!(selection.endpoints.len(), 1, "{order:?}");
                assert_eq!(selection.endpoints[0].terminating, expected.terminating, "{order:?}");
                assert_eq!(selection.any_ready_local, expected.ready, "{order:?}");
            }
        }
    }

    #[test]
    fn the_local_annotation_overrides_both_policies() {
        let mut service = service();
        service.settings.local = true;
        service.internal_policy = TrafficPolicy::Local;
        service.external_policy = TrafficPolicy::Cluster;
        let slices = [slice("http", Protocol::Tcp, 80, &["10.0.0.1 node=n2"])];
        assert_eq!(run(&service, &slices, None, Traffic::External).of(Family::V4), None);
        assert_eq!(run(&service, &slices, None, Traffic::Internal).endpoints.len(), 1);
    }

    #[test]
    fn the_first_weight_rule_that_selects_an_endpoint_decides() {
        let rule = |selector, weight| WeightRule { selector, weight };
        let mut service = service();
        service.settings.weights = vec![
            rule(WeightSelector::Pod(Arc::from("web-0")), 0),
            rule(WeightSelector::Address("10.0.0.2".parse().unwrap()), 20),
            rule(WeightSelector::Node(NodeName::new("n3")), 30),
            rule(WeightSelector::Zone(Arc::from("a")), 40),
        ];
        let lines = [
            "10.0.0.1 pod=web-0 node=n3",
            "10.0.0.2 node=n3 zone=a",
            "10.0.0.3 node=n3 zone=a",
            "10.0.0.4 node=n4 zone=a",
            "10.0.0.5 node=n4 zone=b pod=web-1",
            "10.0.0.6",
        ];
        let slices = [slice("http", Protocol::Tcp, 80, &lines)];
        let weights = |service: &Service| -> Vec<u32> {
            run(service, &slices, None, Traffic::Internal).endpoints.iter().map(|target| target.weight).collect()
        };
        assert_eq!(weights(&service), [0, 20, 30, 40, 1, 1]);
        service.settings.weights.push(rule(WeightSelector::Any, 7));
        assert_eq!(weights(&service), [0, 20, 30, 40, 7, 7]);
        service.settings.weights.insert(0, rule(WeightSelector::Any, 5));
        assert_eq!(weights(&service), [5; 6]);
    }

    #[test]
    fn counts_local_ready_endpoints_of_the_port_under_either_policy() {
        let slices = [slice(
            "http",
            Protocol::Tcp,
            80,
            &["10.0.0.1 node=n1", "10.0.0.2 node=n1 unready", "10.0.0.3 node=n2", "10.0.0.4 node=n1"],
        )];
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let mut service = service();
            service.internal_policy = policy;
            let selection = run(&service, &slices, None, Traffic::Internal);
            assert_eq!((selection.local_ready, selection.any_ready_local), (2, true));
            let local: Vec<bool> = selection.endpoints.iter().map(|target| target.node_local).collect();
            assert_eq!(local, if policy == TrafficPolicy::Local { vec![true, true] } else { vec![true, false, true] });
        }
    }

    #[test]
    fn the_health_check_counts_addresses_that_are_ready_and_stay() {
        let mut service = service();
        service.ports.push(port("dns", Protocol::Udp));
        let slices = [
            slice(
                "http",
                Protocol::Tcp,
                80,
                &["10.0.0.1 node=n1", "10.0.0.2 node=n1 ready-terminating", "10.0.0.3 node=n2", "10.0.0.4"],
            ),
            slice("dns", Protocol::Udp, 53, &["10.0.0.1 node=n1", "10.0.0.5 node=n1", "10.0.0.6 node=n1 unready"]),
            slice("dns", Protocol::Tcp, 53, &["10.0.0.7 node=n1"]),
            slice("other", Protocol::Tcp, 53, &["10.0.0.8 node=n1"]),
        ];
        let node = NodeName::new("n1");
        assert_eq!(local_ready_count(&service, &slices, &node), 2);
        assert_eq!(local_ready_count(&service, &slices, &NodeName::new("n9")), 0);
        assert_eq!(local_ready_count(&service, &[], &node), 0);
    }
}
