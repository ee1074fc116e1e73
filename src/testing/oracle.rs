//! What Kubernetes says should happen to a connection, read naively from Services and EndpointSlices.
//!
//! Written from the API's own descriptions, with no look at how the proxy does it and no word of the kernel; slow and
//! obvious on purpose. Where the API leaves something open, the comment says what we promise instead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::tracer::{Fate, Origin, Packet};
use crate::model::{
    Endpoint, Service, ServiceKey, ServicePort, ServiceType, Snapshot, TrafficPolicy, WeightRule, WeightSelector,
};
use crate::net::{Family, Prefix};
use crate::proxy::Config;

/// How a Service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    ClusterIp,
    ExternalIp,
    LoadBalancerIp,
    NodePort,
}

/// The cluster as one node's administrator reads it.
#[derive(Debug)]
pub struct Oracle<'a> {
    snapshot: &'a Snapshot,
    config: &'a Config,
    /// The node's own addresses.
    own: &'a [IpAddr],
}

impl<'a> Oracle<'a> {
    /// For the node of a snapshot that has these addresses.
    pub fn new(snapshot: &'a Snapshot, config: &'a Config, own: &'a [IpAddr]) -> Oracle<'a> {
        Oracle { snapshot, config, own }
    }

    /// What should become of a connection.
    pub fn expect(&self, packet: Packet) -> Fate {
        let Some((key, service, port, asked)) = self.owner(packet) else {
            return self.unserved(packet.destination);
        };
        let family = Family::of(packet.destination);
        let Some(endpoints) = self.endpoints(&key, port, self.policy(service, asked), family) else {
            return self.unserved(packet.destination);
        };
        // "traffic through the load balancer will be restricted to the specified client IPs"; we hold every client on
        // the wire to it, and let the node itself in.
        let restricted = asked == Asked::LoadBalancerIp && !service.source_ranges.is_empty();
        if restricted && packet.origin == Origin::Wire && !within(&service.source_ranges, packet.source) {
            return Fate::Dropped;
        }
        let direct = self.is_direct(&key, service) && matches!(asked, Asked::ExternalIp | Asked::LoadBalancerIp);
        let chosen: BTreeMap<(IpAddr, u16), IpAddr> = endpoints
            .into_iter()
            .filter(|((..), endpoint)| weight(&service.settings.weights, endpoint) > 0)
            .map(|(place, endpoint)| {
                let source = if direct { packet.source } else { self.source_seen_by(place.0, endpoint, packet) };
                (place, source)
            })
            .collect();
        if chosen.is_empty() { Fate::Refused } else { Fate::Endpoints(chosen) }
    }

    /// An address nobody serves at this port: refused where it belongs to Services, the node's own business where it
    /// is the node's.
    fn unserved(&self, address: IpAddr) -> Fate {
        if self.own.contains(&address) {
            return Fate::Host;
        }
        let has = |service: &Service| {
            let kinds = [Asked::ClusterIp, Asked::ExternalIp, Asked::LoadBalancerIp];
            kinds.into_iter().any(|kind| self.addresses(service, kind).contains(&address))
        };
        let claims = |(_, service): &(&ServiceKey, &Service)| !service.ports.is_empty() && has(service);
        let holders: Vec<(&ServiceKey, &Service)> = self.services().filter(claims).collect();
        if holders.is_empty() {
            return Fate::Elsewhere;
        }
        let only_direct = holders.iter().all(|(key, service)| {
            self.is_direct(key, service) && !self.addresses(service, Asked::ClusterIp).contains(&address)
        });
        // A VIP of direct return is no address of the node: what is not marked travels on.
        match (only_direct, self.config.input_firewall) {
            (true, _) => Fate::Elsewhere,
            (false, true) => Fate::Refused,
            (false, false) => Fate::Host,
        }
    }

    /// The Services a proxy serves: no headless ones, no aliases, none of other proxies.
    fn services(&self) -> impl Iterator<Item = (&'a ServiceKey, &'a Service)> {
        let served = |service: &&Service| {
            !service.ignored_by_proxy && service.kind != ServiceType::ExternalName && !service.cluster_ips.is_empty()
        };
        self.snapshot
            .services
            .iter()
            .map(|(key, service)| (key, &**service))
            .filter(move |(_, service)| served(service))
    }

    /// Whose address, protocol and port this is. Two Services may ask for the same, about which the API says nothing:
    /// the older has it, and one that its policy keeps off this node asks for nothing here.
    fn owner(&self, packet: Packet) -> Option<(ServiceKey, &'a Service, &'a ServicePort, Asked)> {
        let mut claims = Vec::new();
        for (key, service) in self.services() {
            for port in service.ports.iter().filter(|port| port.protocol == packet.protocol) {
                let kinds = [Asked::ClusterIp, Asked::ExternalIp, Asked::LoadBalancerIp, Asked::NodePort];
                let is_asked = |kind: &Asked| {
                    let number = if *kind == Asked::NodePort { port.node_port } else { port.port };
                    number != 0 && number == packet.port && self.addresses(service, *kind).contains(&packet.destination)
                };
                let family = Family::of(packet.destination);
                let is_served = |kind: &Asked| self.endpoints(key, port, self.policy(service, *kind), family).is_some();
                if let Some(kind) = kinds.into_iter().find(is_asked).filter(is_served) {
                    let age = if service.created == 0 { i64::MAX } else { service.created };
                    claims.push((age, key.clone(), service, port, kind));
                }
            }
        }
        claims.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        claims.into_iter().next().map(|(_, key, service, port, kind)| (key, service, port, kind))
    }

    /// The addresses at which a Service is asked in one way.
    fn addresses(&self, service: &Service, kind: Asked) -> Vec<IpAddr> {
        let granted = |addresses: &[IpAddr], ranges: &[Prefix]| -> Vec<IpAddr> {
            let grants = |address: &&IpAddr| {
                !self.config.strict_external_ips
                    || (within(ranges, **address) && !within(&self.config.cluster_ip_ranges, **address))
            };
            addresses.iter().filter(grants).copied().collect()
        };
        match kind {
            Asked::ClusterIp => service.cluster_ips.clone(),
            Asked::ExternalIp => granted(&service.external_ips, &self.config.external_ip_ranges),
            Asked::LoadBalancerIp if service.settings.skip_load_balancer_ips => Vec::new(),
            Asked::LoadBalancerIp => granted(&service.load_balancer_ips, &self.config.load_balancer_ip_ranges),
            Asked::NodePort => {
                let of_service = |address: &IpAddr| {
                    service.cluster_ips.iter().any(|other| Family::of(*other) == Family::of(*address))
                };
                if self.config.node_port_all_addresses {
                    self.own.iter().copied().filter(of_service).collect()
                } else {
                    Family::ALL.into_iter().filter_map(|family| self.node_address(family)).filter(of_service).collect()
                }
            }
        }
    }

    fn node_address(&self, family: Family) -> Option<IpAddr> {
        let node = self.snapshot.nodes.get(&self.snapshot.node_name)?;
        node.internal_ips.iter().chain(&node.external_ips).copied().find(|address| Family::of(*address) == family)
    }

    fn policy(&self, service: &Service, asked: Asked) -> TrafficPolicy {
        match (asked, service.settings.local) {
            (Asked::ClusterIp, true) => TrafficPolicy::Cluster,
            (Asked::ClusterIp, false) => service.internal_policy,
            (_, true) => TrafficPolicy::Local,
            (_, false) => service.external_policy,
        }
    }

    /// Everything behind a port, each address and port once, or `None` where the policy keeps this node out.
    ///
    /// The API promises more for `externalTrafficPolicy: Local` than we do: clients inside the cluster that ask an
    /// external address should get `Cluster` semantics. One virtual server cannot tell them apart, here as in
    /// kube-router.
    fn endpoints(
        &self,
        key: &ServiceKey,
        port: &ServicePort,
        policy: TrafficPolicy,
        family: Family,
    ) -> Option<Vec<((IpAddr, u16), &'a Endpoint)>> {
        let mut all: BTreeMap<(IpAddr, u16), &'a Endpoint> = BTreeMap::new();
        for (slice_key, slice) in &self.snapshot.slices {
            if slice_key.service != *key {
                continue;
            }
            for theirs in
                slice.ports.iter().filter(|theirs| (&theirs.name, theirs.protocol) == (&port.name, port.protocol))
            {
                for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family) {
                    let place = (endpoint.address, theirs.port);
                    // The same endpoint in two slices: one of them is out of date, the better one counts.
                    if all.get(&place).is_none_or(|known| goodness(endpoint) > goodness(known)) {
                        all.insert(place, endpoint);
                    }
                }
            }
        }
        let here = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(&self.snapshot.node_name);
        let in_scope: Vec<_> =
            all.into_iter().filter(|(_, endpoint)| policy == TrafficPolicy::Cluster || here(endpoint)).collect();
        let ready: Vec<_> = in_scope.iter().copied().filter(|(_, endpoint)| endpoint.conditions.ready).collect();
        if !ready.is_empty() {
            return Some(if policy == TrafficPolicy::Cluster { self.follow_hints(ready) } else { ready });
        }
        // "If there are no ready endpoints, those that serve while they terminate."
        let last: Vec<_> = in_scope
            .into_iter()
            .filter(|(_, endpoint)| endpoint.conditions.serving && endpoint.conditions.terminating)
            .collect();
        if last.is_empty() && policy == TrafficPolicy::Local { None } else { Some(last) }
    }

    /// Hints for this node, else for this zone, when every endpoint has one of that kind.
    fn follow_hints(&self, ready: Vec<((IpAddr, u16), &'a Endpoint)>) -> Vec<((IpAddr, u16), &'a Endpoint)> {
        let for_node: Vec<_> = ready
            .iter()
            .copied()
            .filter(|(_, endpoint)| endpoint.node_hints.contains(&self.snapshot.node_name))
            .collect();
        if !for_node.is_empty() && ready.iter().all(|(_, endpoint)| !endpoint.node_hints.is_empty()) {
            return for_node;
        }
        let zone = self.snapshot.nodes.get(&self.snapshot.node_name).and_then(|node| node.zone.clone());
        let for_zone: Vec<_> = ready
            .iter()
            .copied()
            .filter(|(_, endpoint)| zone.as_ref().is_some_and(|zone| endpoint.zone_hints.contains(zone)))
            .collect();
        if !for_zone.is_empty() && ready.iter().all(|(_, endpoint)| !endpoint.zone_hints.is_empty()) {
            return for_zone;
        }
        ready
    }

    /// Whose address the endpoint sees. Replies must come back this way: they do by themselves from endpoints of this
    /// node and to pods of this node, and need this node's address otherwise. An endpoint that asks itself must see
    /// another address than its own, or it answers itself: it sees the address it asked.
    fn source_seen_by(&self, address: IpAddr, endpoint: &Endpoint, packet: Packet) -> IpAddr {
        let family = Family::of(packet.destination);
        let is_here = endpoint.node.as_ref() == Some(&self.snapshot.node_name)
            || self.own.contains(&address)
            || self.is_local_pod(address);
        if packet.source == address && endpoint.node.as_ref() == Some(&self.snapshot.node_name) {
            return packet.destination;
        }
        let keeps = !self.config.masquerade_all && (is_here || self.is_local_pod(packet.source));
        if keeps { packet.source } else { self.node_address(family).unwrap_or(packet.source) }
    }

    fn is_local_pod(&self, address: IpAddr) -> bool {
        self.snapshot.nodes.get(&self.snapshot.node_name).is_some_and(|node| within(&node.pod_cidrs, address))
    }

    /// Direct return, which changes nothing about who is asked: no endpoint may need another port or sit in a node's
    /// own network, and the container runtime must be known.
    fn is_direct(&self, key: &ServiceKey, service: &Service) -> bool {
        let nodes: BTreeSet<IpAddr> = self
            .snapshot
            .nodes
            .values()
            .flat_map(|node| node.internal_ips.iter().chain(&node.external_ips))
            .copied()
            .collect();
        let fits = |port: &ServicePort| {
            Family::ALL.into_iter().all(|family| {
                let policy = self.policy(service, Asked::ExternalIp);
                let endpoints = self.endpoints(key, port, policy, family).unwrap_or_default();
                endpoints.iter().all(|((address, number), _)| *number == port.port && !nodes.contains(address))
            })
        };
        service.settings.dsr && self.config.runtime_endpoint && service.ports.iter().all(fits)
    }
}

fn within(prefixes: &[Prefix], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

fn goodness(endpoint: &Endpoint) -> u8 {
    let conditions = endpoint.conditions;
    match (conditions.ready, conditions.terminating, conditions.serving) {
        (true, false, _) => 3,
        (true, true, _) => 2,
        (false, _, true) => 1,
        (false, _, false) => 0,
    }
}

fn weight(rules: &[WeightRule], endpoint: &Endpoint) -> u32 {
    for rule in rules {
        let applies = match &rule.selector {
            WeightSelector::Any => true,
            WeightSelector::Address(address) => endpoint.address == *address,
            WeightSelector::Pod(pod) => endpoint.pod.as_deref() == Some(pod),
            WeightSelector::Node(node) => endpoint.node.as_ref() == Some(node),
            WeightSelector::Zone(zone) => endpoint.zone.as_deref() == Some(zone),
        };
        if applies {
            return rule.weight;
        }
    }
    1
}
