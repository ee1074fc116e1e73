//! What this node originates: its pod prefixes, and the VIPs it serves (pure).
//!
//! [`build_service`] is a function of one Service, its endpoint slices, this node and the configuration. [`Desired`]
//! adds the Services up: a VIP is announced while at least one Service contributes it, so that a shared address stays
//! when one of its Services goes. One changed slice costs one Service.
//!
//! A VIP is contributed where the flag or the annotation of its kind says so, the address is granted, and a usable
//! endpoint of its family is there: on this node under traffic policy Local (or `kube-router.io/service.local`),
//! anywhere otherwise. Usable are ready ones, and where the whole cluster has none those that still serve while they
//! terminate (KEP-1669): the service proxy sends them what comes, and connections they have must reach them to end well.
//! VIPs are announced as host prefixes only, never as the range they lie in. Services left to
//! another proxy are not announced: nothing here forwards them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::config::{Config, RouterId};
use crate::model::{
    Changes, Conditions, Endpoint, Node, NodeName, Notice, Service, ServiceKey, ServiceType, Severity, Snapshot,
    Subject, TrafficPolicy,
};
use crate::net::{Family, Prefix};

/// What one Service asks the router for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRoutes {
    /// Its VIPs that are to be advertised by some node, with what this node knows of them.
    pub vips: BTreeMap<IpAddr, VipRoutes>,
    /// What the Service's owner should know.
    pub notices: Vec<Notice>,
}

/// One VIP of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipRoutes {
    /// This node announces it.
    pub announce: bool,
    /// The nodes with a usable endpoint behind it.
    pub nodes: BTreeSet<NodeName>,
    /// Only nodes with an endpoint forward it.
    pub needs_local: bool,
}

/// All that Services ask for, kept up to date Service by Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    services: BTreeMap<ServiceKey, ServiceRoutes>,
    announced: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    listed: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    /// VIPs that were listed or taken off the list since somebody asked.
    relisted: BTreeSet<IpAddr>,
}

impl Desired {
    /// Everything from scratch.
    pub fn build(snapshot: &Snapshot, config: &Config) -> Desired {
        let mut desired = Desired::default();
        for key in snapshot.services.keys() {
            desired.update(key, snapshot, config);
        }
        desired
    }

    /// Bring up to date what `changes` names. Returns the VIPs whose contributors or nodes changed.
    pub fn apply(&mut self, changes: &Changes, snapshot: &Snapshot, config: &Config) -> BTreeSet<IpAddr> {
        if changes.nodes.contains(&snapshot.node_name) {
            // Own addresses decide next hops and which endpoints are local.
            let older = std::mem::replace(self, Desired::build(snapshot, config));
            let vips = older.announced.keys().chain(self.announced.keys());
            return vips.filter(|vip| older.announced.get(*vip) != self.announced.get(*vip)).copied().collect();
        }
        changes.services.iter().flat_map(|key| self.update(key, snapshot, config)).collect()
    }

    /// Derive one Service again. Returns the VIPs whose contributors or nodes changed.
    pub fn update(&mut self, key: &ServiceKey, snapshot: &Snapshot, config: &Config) -> BTreeSet<IpAddr> {
        let routes = build_service(key, snapshot, config);
        let older = match &routes {
            Some(routes) => self.services.insert(key.clone(), routes.clone()),
            None => self.services.remove(key),
        };
        let (older, newer) = (older.unwrap_or_default(), routes.unwrap_or_default());
        let mut changed = BTreeSet::new();
        for vip in older.vips.keys().chain(newer.vips.keys()) {
            if set_member(&mut self.listed, *vip, key, newer.vips.contains_key(vip)) {
                self.relisted.insert(*vip);
            }
            let announce = newer.vips.get(vip).is_some_and(|routes| routes.announce);
            let differs = older.vips.get(vip) != newer.vips.get(vip);
            if set_member(&mut self.announced, *vip, key, announce) || differs {
                changed.insert(*vip);
            }
        }
        changed
    }

    /// The VIPs this node should announce, with the Services that contribute them.
    pub fn vips(&self) -> &BTreeMap<IpAddr, BTreeSet<ServiceKey>> {
        &self.announced
    }

    /// The addresses, in the VIP's family, of the nodes with a usable endpoint behind a VIP: the next hops a speaker
    /// announces that does not forward itself.
    pub fn speakers(&self, vip: IpAddr, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
        let nodes = self.shares(vip).flat_map(|routes| &routes.nodes);
        nodes.filter_map(|name| snapshot.nodes.get(name)?.best_ip(Family::of(vip))).collect()
    }

    /// The nodes with a usable endpoint behind a VIP.
    pub fn nodes(&self, vip: IpAddr) -> BTreeSet<&NodeName> {
        self.shares(vip).flat_map(|routes| &routes.nodes).collect()
    }

    /// Whether only nodes with an endpoint forward a VIP, whichever of its Services is asked.
    pub fn needs_local(&self, vip: IpAddr) -> bool {
        self.shares(vip).all(|routes| routes.needs_local)
    }

    fn shares(&self, vip: IpAddr) -> impl Iterator<Item = &VipRoutes> {
        let services = self.listed.get(&vip).into_iter().flatten().filter_map(|key| self.services.get(key));
        services.filter_map(move |routes| routes.vips.get(&vip))
    }

    /// All VIPs that some node is to announce.
    pub fn listed(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.listed.keys().copied()
    }

    /// The VIPs that some node is to announce, or that none is to any more, since the last call.
    pub fn take_relisted(&mut self) -> Vec<(IpAddr, bool)> {
        let relisted = std::mem::take(&mut self.relisted);
        relisted.into_iter().map(|vip| (vip, self.listed.contains_key(&vip))).collect()
    }

    /// What one Service asks for.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceRoutes> {
        self.services.get(key)
    }

    /// What the owners of Services should know.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.services.values().flat_map(|routes| &routes.notices)
    }
}

/// Puts a Service into the set of a VIP or takes it out. True where that changed something.
fn set_member(map: &mut BTreeMap<IpAddr, BTreeSet<ServiceKey>>, vip: IpAddr, key: &ServiceKey, member: bool) -> bool {
    if member {
        return map.entry(vip).or_default().insert(key.clone());
    }
    let Some(keys) = map.get_mut(&vip) else { return false };
    let removed = keys.remove(key);
    if keys.is_empty() {
        map.remove(&vip);
    }
    removed
}

/// What kind of address a VIP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VipKind {
    Cluster,
    External,
    LoadBalancer,
}

/// What `key` asks the router for; `None` where it asks for nothing.
pub fn build_service(key: &ServiceKey, snapshot: &Snapshot, config: &Config) -> Option<ServiceRoutes> {
    let service = snapshot.services.get(key)?;
    if service.ignored_by_proxy || service.kind == ServiceType::ExternalName || service.cluster_ips.is_empty() {
        return None;
    }
    let own = snapshot.own_node();
    let mut routes = ServiceRoutes::default();
    for (vip, kind) in vips(service, config) {
        let family = Family::of(vip);
        let usable = usable_endpoints(service, key, snapshot, family);
        let local = |endpoint: &&Endpoint| is_local(endpoint, snapshot, own.map(AsRef::as_ref));
        let served = if needs_local(service, kind) { usable.iter().any(local) } else { !usable.is_empty() };
        let next_hop = own.and_then(|node| node.best_ip(family));
        if next_hop.is_none() {
            let message = format!("{vip} is not announced: this node has no {family} address to be the next hop");
            let (subject, severity) = (Subject::Service(key.clone()), Severity::Warning);
            routes.notices.push(Notice { subject, severity, reason: "NoNextHop", message });
        }
        let entry = routes.vips.entry(vip).or_default();
        entry.announce |= served && next_hop.is_some();
        entry.needs_local = needs_local(service, kind);
        entry.nodes.extend(usable.iter().filter_map(|endpoint| endpoint.node.clone()));
        if usable.iter().any(local) {
            entry.nodes.insert(snapshot.node_name.clone());
        }
    }
    (routes != ServiceRoutes::default()).then_some(routes)
}

/// The VIPs to be advertised, each address once: the first kind it has counts.
fn vips(service: &Service, config: &Config) -> Vec<(IpAddr, VipKind)> {
    let settings = &service.settings;
    let balanced = service.kind == ServiceType::LoadBalancer && !settings.skip_load_balancer_ips;
    let kinds = [
        (VipKind::Cluster, &service.cluster_ips, settings.advertise_cluster_ip.unwrap_or(config.advertise_cluster_ip)),
        (
            VipKind::External,
            &service.external_ips,
            settings.advertise_external_ip.unwrap_or(config.advertise_external_ip),
        ),
        (
            VipKind::LoadBalancer,
            &service.load_balancer_ips,
            balanced && settings.advertise_load_balancer_ip.unwrap_or(config.advertise_load_balancer_ip),
        ),
    ];
    let mut vips: Vec<(IpAddr, VipKind)> = Vec::new();
    for (kind, addresses, advertise) in kinds {
        for address in addresses.iter().filter(|address| advertise && granted(**address, kind, config)) {
            if !vips.iter().any(|(known, _)| known == address) {
                vips.push((*address, kind));
            }
        }
    }
    vips
}

/// Whether a Service may have this address: the rule of the service proxy, which also tells the owner.
fn granted(address: IpAddr, kind: VipKind, config: &Config) -> bool {
    let ranges = match kind {
        VipKind::Cluster => return true,
        VipKind::External => &config.external_ip_ranges,
        VipKind::LoadBalancer => &config.load_balancer_ip_ranges,
    };
    let inside = |ranges: &[Prefix]| ranges.iter().any(|range| range.contains(&address));
    !config.strict_external_ips || (inside(ranges) && !inside(&config.cluster_ip_ranges))
}

fn needs_local(service: &Service, kind: VipKind) -> bool {
    match kind {
        // As in the service proxy, the annotation decides about both policies.
        VipKind::Cluster => service.internal_policy == TrafficPolicy::Local && !service.settings.local,
        VipKind::External | VipKind::LoadBalancer => {
            service.external_policy == TrafficPolicy::Local || service.settings.local
        }
    }
}

/// Endpoints of one family on a port the Service has: the ready ones, or those that serve while they terminate where
/// none is ready.
fn usable_endpoints<'a>(
    service: &Service,
    key: &'a ServiceKey,
    snapshot: &'a Snapshot,
    family: Family,
) -> Vec<&'a Endpoint> {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    let endpoints = snapshot
        .slices_of(key)
        .filter(|(_, slice)| {
            slice.ports.iter().any(|theirs| {
                service.ports.iter().any(|ours| ours.name == theirs.name && ours.protocol == theirs.protocol)
            })
        })
        .flat_map(|(_, slice)| slice.endpoints.iter())
        .filter(|endpoint| Family::of(endpoint.address) == family);
    for endpoint in endpoints {
        match endpoint.conditions {
            Conditions { ready: true, terminating: false, .. } => ready.push(endpoint),
            Conditions { serving: true, terminating: true, .. } => ending.push(endpoint),
            _ => {}
        }
    }
    if ready.is_empty() { ending } else { ready }
}

/// On this node by name; without a name, by an address that is the node's.
fn is_local(endpoint: &Endpoint, snapshot: &Snapshot, own: Option<&Node>) -> bool {
    match &endpoint.node {
        Some(name) => *name == snapshot.node_name,
        None => own.is_some_and(|node| node.addresses().any(|address| address == endpoint.address)),
    }
}

/// A prefix this node originates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Originated {
    /// The prefix.
    pub prefix: Prefix,
    /// This node, in the prefix's family.
    pub next_hop: IpAddr,
}

/// The pod prefixes of this node with their next hops; one without a next hop is left out and told.
pub fn pod_prefixes(snapshot: &Snapshot) -> (Vec<Originated>, Vec<Notice>) {
    let (mut originated, mut notices) = (Vec::new(), Vec::new());
    for prefix in snapshot.own_node().into_iter().flat_map(|node| &node.pod_cidrs) {
        let family = Family::of(prefix.addr());
        match snapshot.own_node().and_then(|node| node.best_ip(family)) {
            Some(next_hop) => originated.push(Originated { prefix: prefix.trunc(), next_hop }),
            None => notices.push(Notice {
                subject: Subject::Node(snapshot.node_name.clone()),
                severity: Severity::Warning,
                reason: "NoNextHop",
                message: format!(
                    "node {}: pod prefix {prefix} is not announced: give the node an {family} address",
                    snapshot.node_name
                ),
            }),
        }
    }
    originated.sort_unstable();
    originated.dedup();
    (originated, notices)
}

/// The BGP identifier: the one given, else the node's IPv4 address, else one made from its primary address. `None`
/// while the node has no address.
pub fn router_id(node: &Node, setting: RouterId) -> Option<Ipv4Addr> {
    let ipv4 = || match node.best_ip(Family::V4) {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    match setting {
        RouterId::Fixed(id) => Some(id),
        RouterId::NodeAddress => ipv4().or_else(|| node.primary_ip().map(generated_id)),
        RouterId::Generate => node.primary_ip().map(generated_id),
    }
}

/// FNV-1a, 32 bits, of the address as 16 bytes: what kube-router makes of it. Never the reserved 0.0.0.0.
fn generated_id(address: IpAddr) -> Ipv4Addr {
    let bytes = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from(hash.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::{ClusterBuilder, ServiceBuilder, cluster, endpoint, ip, key, prefix, service};
    use proptest::prelude::*;

    fn all() -> Config {
        Config {
            advertise_cluster_ip: true,
            advertise_external_ip: true,
            advertise_load_balancer_ip: true,
            external_ip_ranges: vec![prefix("203.0.113.0/24")],
            load_balancer_ip_ranges: vec![prefix("198.51.100.0/24")],
            ..Config::default()
        }
    }

    fn web() -> ServiceBuilder {
        service("web", "10.96.0.1").port(80).external_ip("203.0.113.1").load_balancer_ip("198.51.100.1")
    }

    fn announced(cluster: &ClusterBuilder, config: &Config) -> Vec<String> {
        Desired::build(&cluster.build(), config).vips().keys().map(IpAddr::to_string).collect()
    }

    /// What a case does to the Service.
    type Change = fn(&mut Service);

    #[test]
    fn flags_and_annotations_choose_the_kinds_and_ranges_grant_them() {
        let here = ["10.244.1.5"];
        let every = ["10.96.0.1", "198.51.100.1", "203.0.113.1"];
        let cases: [(&str, Change, Config, &[&str]); 7] = [
            ("all flags", |_| {}, all(), &every),
            ("no flags", |_| {}, Config { advertise_cluster_ip: false, ..Config::default() }, &[]),
            ("annotation against the flag", |s| s.settings.advertise_cluster_ip = Some(false), all(), &every[1..]),
            ("skiplbips", |s| s.settings.skip_load_balancer_ips = true, all(), &["10.96.0.1", "203.0.113.1"]),
            ("not granted", |_| {}, Config { external_ip_ranges: Vec::new(), ..all() }, &every[..2]),
            ("not a load balancer", |s| s.kind = ServiceType::ClusterIp, all(), &["10.96.0.1", "203.0.113.1"]),
            ("another proxy's", |s| s.ignored_by_proxy = true, all(), &[]),
        ];
        for (name, change, config, expected) in cases {
            let cluster = cluster("n1").service(web().with(change)).ready("web", &here, 8080);
            assert_eq!(announced(&cluster, &config), expected, "{name}");
        }
    }

    #[test]
    fn a_vip_is_announced_only_where_a_ready_endpoint_serves_it() {
        let (cluster_ip, outer) = ("10.96.0.1", ["198.51.100.1", "203.0.113.1"]);
        let every = [cluster_ip, outer[0], outer[1]];
        let local: Change = |s| s.external_policy = TrafficPolicy::Local;
        let cases: [(&str, Change, &[&str], &[&str]); 8] = [
            ("cluster policy, endpoint elsewhere", |_| {}, &["10.244.2.5"], &every),
            ("cluster policy, no endpoint", |_| {}, &[], &[]),
            ("external local, endpoint elsewhere", local, &["10.244.2.5"], &[cluster_ip]),
            ("external local, endpoint here", local, &["10.244.1.5"], &every),
            ("service.local", |s| s.settings.local = true, &["10.244.2.5"], &[cluster_ip]),
            ("internal local", |s| s.internal_policy = TrafficPolicy::Local, &["10.244.2.5"], &outer),
            (
                "internal local, but service.local",
                |s| (s.internal_policy, s.settings.local) = (TrafficPolicy::Local, true),
                &["10.244.2.5"],
                &[cluster_ip],
            ),
            ("endpoint of the other family", |_| {}, &["fd00:244:1::5"], &[]),
        ];
        for (name, change, endpoints, expected) in cases {
            let cluster = cluster("n1").service(web().with(change)).ready("web", endpoints, 8080);
            assert_eq!(announced(&cluster, &all()), expected, "{name}");
        }
        let mut unready = endpoint("10.244.1.5");
        unready.conditions.ready = false;
        let cluster = cluster("n1").service(web().with(local)).endpoints("web", vec![unready], 8080);
        assert!(announced(&cluster, &all()).is_empty(), "not ready");
    }

    /// Endpoints that terminate, and whether they still serve.
    type Ending<'a> = &'a [(&'a str, bool)];
    /// A name, a change, endpoints that terminate and ready ones, what is announced.
    type EndingCase<'a> = (&'a str, Change, Ending<'a>, &'a [&'a str], &'a [&'a str]);

    #[test]
    fn a_vip_stays_while_its_last_endpoints_end() {
        let (here, there) = ("10.244.1.5", "10.244.2.5");
        let local: Change = |s| s.external_policy = TrafficPolicy::Local;
        let (inner, every) = (&["10.96.0.1"][..], &["10.96.0.1", "198.51.100.1", "203.0.113.1"][..]);
        let cases: [EndingCase<'_>; 6] = [
            ("cluster policy", |_| {}, &[(there, true)], &[], every),
            ("cluster policy, served no more", |_| {}, &[(there, false)], &[], &[]),
            ("local, ending here", local, &[(here, true)], &[], every),
            ("local, ending here, served no more", local, &[(here, false)], &[], &[]),
            ("local, ending elsewhere", local, &[(there, true)], &[], inner),
            ("local, ending here, another one is ready", local, &[(here, true)], &[there], inner),
        ];
        for (name, change, ending, ready, expected) in cases {
            let conditions = |serving| Conditions { ready: false, serving, terminating: true };
            let ending =
                ending.iter().map(|(at, serving)| Endpoint { conditions: conditions(*serving), ..endpoint(at) });
            let endpoints = ending.chain(ready.iter().map(|at| endpoint(at))).collect();
            let cluster = cluster("n1").service(web().with(change)).endpoints("web", endpoints, 8080);
            assert_eq!(announced(&cluster, &all()), expected, "{name}");
        }
    }

    #[test]
    fn a_service_without_slices_harms_nobody() {
        let cluster = cluster("n1").service(service("bare", "10.96.0.9").port(80)).service(web());
        assert_eq!(announced(&cluster.ready("web", &["10.244.2.5"], 80), &all()).len(), 3);
    }

    #[test]
    fn a_shared_vip_stays_until_its_last_service_goes() {
        let other = service("other", "10.96.0.2").port(443).external_ip("203.0.113.1");
        let both = cluster("n1").service(web()).service(other).ready("web", &["10.244.2.5"], 80);
        let both = both.ready("other", &["10.244.2.6"], 443);
        let shared = ip("203.0.113.1");
        for order in [["web", "other"], ["other", "web"]] {
            let mut desired = Desired::build(&both.build(), &all());
            assert_eq!(desired.vips()[&shared], BTreeSet::from([key("web"), key("other")]));
            let one = both.clone().without(order[0]);
            desired.update(&key(order[0]), &one.build(), &all());
            assert_eq!(desired.vips()[&shared], BTreeSet::from([key(order[1])]));
            desired.update(&key(order[1]), &one.without(order[1]).build(), &all());
            assert_eq!(
                desired.take_relisted().len(),
                4,
                "two cluster addresses, one shared and one external, all gone"
            );
            assert_eq!(desired, Desired::default());
        }
    }

    #[test]
    fn a_family_the_node_has_no_address_of_is_not_announced_and_told() {
        let six = service("six", "fd00:96::1").port(80);
        let cluster = cluster("n1").service(six).ready("six", &["fd00:244:1::5"], 80);
        assert_eq!(announced(&cluster, &all()), ["fd00:96::1"]);
        assert_eq!(pod_prefixes(&cluster.build()).0.len(), 2);
        let narrow = cluster.node(|node| node.internal_ips.truncate(1)).build();
        let desired = Desired::build(&narrow, &all());
        assert!(desired.vips().is_empty());
        assert_eq!(desired.notices().count(), 1);
        let (prefixes, notices) = pod_prefixes(&narrow);
        assert_eq!(prefixes, [Originated { prefix: prefix("10.244.1.0/24"), next_hop: ip("192.168.10.11") }]);
        assert_eq!(notices.len(), 1);
    }

    #[test]
    fn speakers_name_the_nodes_with_a_ready_endpoint() {
        let cluster = cluster("n1").service(web()).ready("web", &["10.244.1.5", "10.244.2.5", "10.244.3.5"], 80);
        let mut snapshot = cluster.build();
        let node = Node { internal_ips: vec![ip("192.168.10.12")], ..Node::default() };
        snapshot.nodes.insert(NodeName::new("n2"), std::sync::Arc::new(node));
        let desired = Desired::build(&snapshot, &all());
        assert_eq!(
            desired.speakers(ip("203.0.113.1"), &snapshot),
            BTreeSet::from([ip("192.168.10.11"), ip("192.168.10.12")]),
            "n3 is not known"
        );
    }

    #[test]
    fn router_id_is_given_or_the_address_or_made_from_it() {
        let node =
            |addresses: &[&str]| Node { internal_ips: addresses.iter().map(|a| ip(a)).collect(), ..Node::default() };
        let fixed = Ipv4Addr::new(1, 2, 3, 4);
        for (addresses, setting, expected) in [
            (&["2001:db8::1"][..], RouterId::Generate, Some("110.91.4.244")),
            (&["2001:db8::1"], RouterId::NodeAddress, Some("110.91.4.244")),
            (&["2001:db8::1", "192.0.2.1"], RouterId::NodeAddress, Some("192.0.2.1")),
            (&[], RouterId::NodeAddress, None),
            (&[], RouterId::Fixed(fixed), Some("1.2.3.4")),
        ] {
            let id = router_id(&node(addresses), setting).map(|id| id.to_string());
            assert_eq!(id.as_deref(), expected, "{addresses:?} {setting:?}");
        }
    }

    proptest! {
        #[test]
        fn service_by_service_comes_to_the_same_as_all_at_once(
            steps in proptest::collection::vec((0..4u8, 0..5u8, 0..4u8), 1..24),
        ) {
            let mut cluster = cluster("n1");
            let mut older = cluster.build();
            let mut desired = Desired::build(&older, &all());
            for (number, what, where_to) in steps {
                let name = format!("s{number}");
                cluster = match what {
                    0 => cluster.without(&name),
                    1 => cluster.ready(&name, &[&format!("10.244.{where_to}.5")], 80),
                    2 => cluster.ready(&name, &[], 80),
                    3 => cluster.node(|node| node.internal_ips = vec![ip("192.168.10.11")]),
                    _ => cluster.service(
                        service(&name, &format!("10.96.0.{number}")).port(80).external_ip(&format!("203.0.113.{where_to}")),
                    ),
                };
                let newer = cluster.after(&older);
                let before = desired.clone();
                let changed = desired.apply(&newer.changes_since(&older), &newer, &all());
                let mut fresh = Desired::build(&newer, &all());
                fresh.take_relisted();
                desired.take_relisted();
                prop_assert_eq!(&desired, &fresh);
                let vips = before.vips().keys().chain(desired.vips().keys());
                let reannounced = vips.filter(|vip| before.vips().get(*vip) != desired.vips().get(*vip));
                prop_assert!(reannounced.copied().all(|vip| changed.contains(&vip)), "{changed:?}");
                for vip in changed {
                    let moved = !before.shares(vip).eq(desired.shares(vip));
                    prop_assert!(moved || before.vips().get(&vip) != desired.vips().get(&vip), "{vip} is as it was");
                }
                older = newer;
            }
        }
    }
}
