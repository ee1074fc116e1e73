//! Direct server return: what it takes on the node and in the pods (pure).
//!
//! A packet for a VIP is marked before routing, the mark sends it to the host itself (table 78), where a virtual
//! server for that mark forwards it inside IP-in-IP to a pod. The pod takes it off a tunnel device that carries the
//! VIP, and answers the client by itself, with the VIP as source. Consequences, each with its place below:
//!
//! - ports cannot change on the way ([`refusal`]);
//! - the VIP must *not* be an address of the node: the pod's answers would arrive with a source the node holds for its
//!   own, and be dropped as martians. [`DsrNeeds::vips`] says which addresses to keep off the dummy link;
//! - the client's segments must leave room for the outer header: the pod's SYN-ACK is clamped ([`segment_size`]);
//! - every local pod behind the VIP needs the tunnel ([`pod_setups`], written by `pods.rs`).
//!
//! Only external and load balancer addresses are served this way; cluster IPs and node ports are not. A port that is
//! refused should be served as if the annotation were absent: reachable, but with translation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::kernel::filter::{
    Base, BaseKind, Chain, Elements, Field, FieldType, Hook, Key, Map, Match, Name, Rule, Ruleset, Selector, Set,
    Statement, Value, ValueType,
};
use crate::kernel::ipvs::{Forwarding, TunnelType, VirtualServerKey};
use crate::kernel::nft::priority;
use crate::kernel::rtnl::{self, RouteKind};
use crate::model::{Notice, PodKey, ServiceKey, ServicePort, Severity, Snapshot, Subject};
use crate::net::{Family, Prefix, Protocol};

use super::endpoints::{Selection, Target};

/// The routing table in which everything is local (kube-router's `kube-router-dsr`).
pub const TABLE: u32 = 78;
/// Where the rules that lead to [`TABLE`] stand: just before main (32766) and default.
pub const RULE_PRIORITY: u32 = 32764;
/// How packets get to a pod.
pub const FORWARDING: Forwarding = Forwarding::Tunnel(TunnelType::Ipip);

/// Marks are 14 bits wide, as kube-router's are; other users of marks stay clear of them.
const MARK_MASK: u32 = 0x3fff;
/// How many suffixes are tried for a key whose mark is taken.
const MAX_SUFFIX: u32 = 16_380;
/// Declared size of the sets and maps: there are no more marks than this.
const MAX_MARKS: u32 = MARK_MASK + 1;

/// One port of a VIP that is served directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DsrKey {
    /// The VIP.
    pub vip: IpAddr,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// The port, on the VIP and in the pod.
    pub port: u16,
}

impl DsrKey {
    /// The family of the VIP.
    pub fn family(&self) -> Family {
        Family::of(self.vip)
    }
}

/// A pod of this node that must take packets off a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSetup {
    /// Which pod.
    pub pod: PodKey,
    /// One of its containers, `scheme://id`: the way to its network namespace.
    pub container_id: Arc<str>,
    /// The pod's addresses: the tunnels end at the first of each family.
    pub addresses: Vec<IpAddr>,
    /// The VIPs it answers for.
    pub vips: BTreeSet<IpAddr>,
    /// Whose VIPs they are: who is told when it does not work.
    pub services: BTreeSet<ServiceKey>,
}

/// Everything direct server return needs on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsrNeeds {
    /// The mark of each VIP and port.
    pub marks: BTreeMap<DsrKey, u32>,
    /// Local pods, each once.
    pub pods: BTreeMap<PodKey, PodSetup>,
}

impl DsrNeeds {
    /// Joins the keys and pods of all Services. Keys for which no mark is left are absent from `marks`
    /// (see [`assign_marks`]).
    pub fn gather(keys: &BTreeSet<DsrKey>, pods: impl IntoIterator<Item = PodSetup>) -> DsrNeeds {
        let mut needs = DsrNeeds { marks: assign_marks(keys), pods: BTreeMap::new() };
        for setup in pods {
            match needs.pods.get_mut(&setup.pod) {
                Some(known) => {
                    known.vips.extend(setup.vips);
                    known.services.extend(setup.services);
                }
                None => {
                    needs.pods.insert(setup.pod.clone(), setup);
                }
            }
        }
        needs
    }

    /// The VIPs that must not be addresses of this node.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.marks.keys().map(|key| key.vip).collect()
    }

    /// The virtual server that serves a key.
    pub fn virtual_server(&self, key: &DsrKey) -> Option<VirtualServerKey> {
        self.marks.get(key).map(|mark| VirtualServerKey::Mark { mark: *mark, family: key.family() })
    }

    /// The routing rules that send marked packets to [`TABLE`].
    pub fn rules(&self) -> BTreeSet<rtnl::Rule> {
        let rule = |(key, mark): (&DsrKey, &u32)| rtnl::Rule {
            family: key.family(),
            priority: RULE_PRIORITY,
            mark: Some(*mark),
            mark_mask: u32::MAX,
            from: None,
            iif: None,
            table: TABLE,
            protocol: 0,
        };
        self.marks.iter().map(rule).collect()
    }

    /// The contents of [`TABLE`]: for each family in use, everything is delivered here. `loopback` is the index of `lo`.
    pub fn routes(&self, loopback: u32) -> Vec<rtnl::Route> {
        self.families().into_iter().map(|family| local_default(family, loopback)).collect()
    }

    /// Adds what marks the packets and clamps the segments to the room's table. Nothing is added for a family without
    /// marks. `mtu` is the node's own, in bytes.
    pub fn add_to(&self, ruleset: &mut Ruleset, mtu: u32) {
        let families = self.families();
        if families.is_empty() {
            return;
        }
        let mut prerouting = Vec::new();
        for family in families.iter().copied() {
            let tcp = self.tcp_sources(family);
            if !tcp.is_empty() {
                let words = Words::of(family);
                ruleset.sets.insert(Arc::from(words.clamp_set), clamp_set(&words, tcp));
                prerouting.push(clamp_rule(&words, segment_size(family, mtu)));
            }
        }
        let mut mark_rules = Vec::new();
        for family in families {
            let words = Words::of(family);
            ruleset.maps.insert(Arc::from(words.mark_map), self.mark_map(&words));
            mark_rules.push(mark_rule(&words));
        }
        prerouting.extend(mark_rules.iter().cloned());
        let chain =
            |kind, hook, rules| Chain { base: Some(Base { kind, hook, priority: priority::PROXY_MARK }), rules };
        ruleset.chains.insert(Arc::from("dsr-prerouting"), chain(BaseKind::Filter, Hook::Prerouting, prerouting));
        // Type route: what the node itself sends is routed again once it has its mark.
        ruleset.chains.insert(Arc::from("dsr-output"), chain(BaseKind::Route, Hook::Output, mark_rules));
    }

    fn families(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| self.marks.keys().any(|key| key.family() == *family)).collect()
    }

    fn mark_map(&self, words: &Words) -> Map {
        let entry = |(key, mark): (&DsrKey, &u32)| {
            let fields = vec![Field::from(key.vip), Field::Protocol(key.protocol), Field::Port(key.port)];
            (fields, Value::Mark(*mark))
        };
        Map {
            key: vec![words.address, FieldType::Protocol, FieldType::Port],
            elements: self.marks.iter().filter(|(key, _)| key.family() == words.family).map(entry).collect(),
            value: ValueType::Mark,
            size: MAX_MARKS,
        }
    }

    /// VIP and port of every TCP key of a family.
    fn tcp_sources(&self, family: Family) -> BTreeSet<Key> {
        self.marks
            .keys()
            .filter(|key| key.family() == family && key.protocol == Protocol::Tcp)
            .map(|key| vec![Field::from(key.vip), Field::Port(key.port)])
            .collect()
    }
}

/// True for a routing rule that is ours: our priority and our table (kube-router's are the same, and adopted).
pub fn owns_rule(rule: &rtnl::Rule) -> bool {
    rule.priority == RULE_PRIORITY && rule.table == TABLE && rule.mark.is_some()
}

/// What the names are called for one family.
struct Words {
    family: Family,
    mark_map: &'static str,
    clamp_set: &'static str,
    address: FieldType,
    source: Selector,
    destination: Selector,
}

impl Words {
    fn of(family: Family) -> Words {
        match family {
            Family::V4 => Words {
                family,
                mark_map: "dsr-marks-4",
                clamp_set: "dsr-clamp-4",
                address: FieldType::Ipv4,
                source: Selector::Source4,
                destination: Selector::Destination4,
            },
            Family::V6 => Words {
                family,
                mark_map: "dsr-marks-6",
                clamp_set: "dsr-clamp-6",
                address: FieldType::Ipv6,
                source: Selector::Source6,
                destination: Selector::Destination6,
            },
        }
    }
}

fn clamp_set(words: &Words, keys: BTreeSet<Key>) -> Set {
    Set { key: vec![words.address, FieldType::Port], elements: Elements::Keys(keys), size: MAX_MARKS }
}

fn mark_rule(words: &Words) -> Rule {
    Rule {
        matches: vec![Match::Family(words.family)],
        statements: vec![Statement::SetMarkFromMap {
            selectors: vec![words.destination, Selector::Protocol, Selector::DestinationPort],
            map: Arc::from(words.mark_map),
        }],
        comment: comment("direct server return: to the virtual server of this mark"),
    }
}

/// The pod's SYN-ACK tells the client how large its segments may be; those get an outer header on the way to the pod.
fn clamp_rule(words: &Words, segment: u16) -> Rule {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    Rule {
        matches: vec![
            Match::Family(words.family),
            Match::Protocol(Protocol::Tcp),
            Match::TcpFlags { mask: SYN | RST, value: SYN },
            Match::InSet {
                selectors: vec![words.source, Selector::SourcePort],
                set: Arc::from(words.clamp_set),
                negated: false,
            },
        ],
        statements: vec![Statement::ClampSegment(segment)],
        comment: comment("direct server return: leave room for the outer header"),
    }
}

fn comment(text: &str) -> Name {
    Arc::from(text)
}

/// The largest TCP segment a client may send, in bytes: the node's MTU without outer and inner header and TCP options
/// (60 for IPv4, 100 for IPv6, as kube-router has it).
pub fn segment_size(family: Family, mtu: u32) -> u16 {
    let headers = match family {
        Family::V4 => 60,
        Family::V6 => 100,
    };
    u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
}

/// `local default dev lo table 78`, in the form it is read back: IPv6 routes have no scope.
fn local_default(family: Family, loopback: u32) -> rtnl::Route {
    let (destination, scope) = match family {
        Family::V4 => (Prefix::V4(Ipv4Net::default()), 254),
        Family::V6 => (Prefix::V6(Ipv6Net::default()), 0),
    };
    rtnl::Route {
        table: TABLE,
        destination,
        kind: RouteKind::Local,
        protocol: rtnl::protocol::OURS,
        scope,
        link: Some(loopback),
        gateway: None,
        next_hops: Vec::new(),
        source: None,
        metric: 0,
    }
}

/// A mark for each key, never 0 and each once: FNV-1a (32 bits) over `VIP-PROTOCOL-PORT`, cut to 14 bits. kube-router
/// computes the same, so that a take-over keeps the marks.
///
/// The marks are a function of the set of keys alone. Of several keys with the same hash the first in order gets it;
/// only when all of those are placed do the others try `…-1`, `…-2` and so on, in order. So no key is moved by another
/// one's second choice, and a new key can move only those that collide with it. Keys for which nothing is free are
/// left out.
pub fn assign_marks(keys: &BTreeSet<DsrKey>) -> BTreeMap<DsrKey, u32> {
    let mut marks = BTreeMap::new();
    let mut taken = BTreeSet::from([0]);
    let mut later = Vec::new();
    for key in keys {
        let mark = hash(&text(key));
        if taken.insert(mark) {
            marks.insert(*key, mark);
        } else {
            later.push(*key);
        }
    }
    for key in later {
        let base = text(&key);
        let free = (1..=MAX_SUFFIX).map(|suffix| hash(&format!("{base}-{suffix}"))).find(|mark| taken.insert(*mark));
        if let Some(mark) = free {
            marks.insert(key, mark);
        }
    }
    marks
}

fn text(key: &DsrKey) -> String {
    format!("{}-{}-{}", key.vip, key.protocol, key.port)
}

/// FNV-1a, 32 bits, cut to the width of our marks.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) & MARK_MASK
}

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
    use super::*;
    use crate::model::{
        Conditions, Endpoint, EndpointPort, EndpointSlice, Node, NodeName, Pod, SliceKey, TrafficPolicy,
    };
    use crate::proxy::endpoints::Reason;

    fn key(vip: &str, protocol: Protocol, port: u16) -> DsrKey {
        DsrKey { vip: vip.parse().unwrap(), protocol, port }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn marks_are_those_of_kube_router() {
        let tcp = key("10.255.0.1", Protocol::Tcp, 80);
        let udp = key("10.255.0.1", Protocol::Udp, 53);
        let marks = assign_marks(&BTreeSet::from([tcp, udp]));
        assert_eq!(marks, BTreeMap::from([(tcp, 9054), (udp, 1074)]));
    }

    /// Keys of one VIP, by hash, from the definition.
    fn by_hash() -> BTreeMap<u32, Vec<DsrKey>> {
        let mut groups: BTreeMap<u32, Vec<DsrKey>> = BTreeMap::new();
        for port in 1..=u16::MAX {
            let key = key("10.255.0.1", Protocol::Tcp, port);
            groups.entry(hash(&text(&key))).or_default().push(key);
        }
        groups
    }

    #[test]
    fn no_mark_is_zero() {
        let zero = by_hash().remove(&0).expect("65535 keys over 16384 marks")[0];
        let mark = assign_marks(&BTreeSet::from([zero]))[&zero];
        assert_ne!(mark, 0);
        assert_eq!(mark, (1..).map(|n| hash(&format!("{}-{n}", text(&zero)))).find(|mark| *mark != 0).unwrap());
    }

    #[test]
    fn colliding_keys_get_the_next_mark_and_move_nobody_else() {
        let groups = by_hash();
        let pair = groups.values().find(|keys| keys.len() >= 2 && hash(&text(&keys[0])) != 0).unwrap();
        let (first, second) = (pair[0], pair[1]);
        let alone = assign_marks(&BTreeSet::from([second]))[&second];
        let both = assign_marks(&BTreeSet::from([first, second]));
        assert_eq!(both[&first], alone, "the first in order has the hash itself");
        assert_eq!(both[&second], hash(&format!("{}-1", text(&second))));
        // A key whose own hash is the second choice of another keeps it; the other one goes on.
        let third = groups[&both[&second]][0];
        let three = assign_marks(&BTreeSet::from([first, second, third]));
        assert_eq!(three[&third], both[&second]);
        assert_eq!(three[&first], both[&first]);
        assert_ne!(three[&second], both[&second]);
    }

    #[test]
    fn marks_stay_unique_and_bounded_when_there_are_many() {
        let keys: BTreeSet<DsrKey> = (1..=4000).map(|port| key("2001:db8::1", Protocol::Tcp, port)).collect();
        let marks = assign_marks(&keys);
        assert_eq!(marks.len(), keys.len());
        assert_eq!(marks.values().collect::<BTreeSet<_>>().len(), keys.len());
        assert!(marks.values().all(|mark| (1..=MARK_MASK).contains(mark)));
    }

    #[test]
    fn segments_leave_room_for_the_headers() {
        assert_eq!(segment_size(Family::V4, 1500), 1440);
        assert_eq!(segment_size(Family::V6, 1500), 1400);
        assert_eq!(segment_size(Family::V4, 9001), 8941);
        assert_eq!(segment_size(Family::V4, 65_536), 65_476);
        assert_eq!(segment_size(Family::V6, 0), 0);
    }

    fn needs() -> DsrNeeds {
        let keys = BTreeSet::from([
            key("10.255.0.1", Protocol::Tcp, 80),
            key("10.255.0.1", Protocol::Udp, 53),
            key("2001:db8::80", Protocol::Udp, 53),
        ]);
        DsrNeeds::gather(&keys, [])
    }

    #[test]
    fn the_node_delivers_marked_packets_to_itself() {
        let needs = needs();
        let v6 = needs.marks[&key("2001:db8::80", Protocol::Udp, 53)];
        assert_eq!(needs.vips(), BTreeSet::from([ip("10.255.0.1"), ip("2001:db8::80")]));
        let rules = needs.rules();
        let seen: BTreeSet<(Family, Option<u32>)> = rules.iter().map(|rule| (rule.family, rule.mark)).collect();
        assert_eq!(seen, BTreeSet::from([(Family::V4, Some(9054)), (Family::V4, Some(1074)), (Family::V6, Some(v6))]));
        assert!(rules.iter().all(|rule| rule.priority == 32764 && rule.table == 78 && owns_rule(rule)));
        let routes = needs.routes(1);
        let texts: Vec<String> = routes.iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(texts, ["0.0.0.0/0", "::/0"]);
        assert!(routes.iter().all(|route| route.kind == RouteKind::Local && route.table == 78));
        assert_eq!(
            needs.virtual_server(&key("10.255.0.1", Protocol::Tcp, 80)),
            Some(VirtualServerKey::Mark { mark: 9054, family: Family::V4 })
        );
        assert_eq!(needs.virtual_server(&key("10.255.0.9", Protocol::Tcp, 80)), None);
    }

    #[test]
    fn only_marked_rules_of_our_table_are_ours() {
        let ours = needs().rules().into_iter().next().unwrap();
        assert!(owns_rule(&ours));
        for foreign in [
            rtnl::Rule { table: 79, ..ours },
            rtnl::Rule { priority: 32763, ..ours },
            rtnl::Rule { mark: None, ..ours },
        ] {
            assert!(!owns_rule(&foreign), "{foreign:?}");
        }
    }

    #[test]
    fn the_table_marks_both_ways_in_and_clamps_tcp_only() {
        let mut ruleset = Ruleset::default();
        needs().add_to(&mut ruleset, 1500);
        let maps: Vec<(&str, usize)> = ruleset.maps.iter().map(|(name, map)| (&**name, map.elements.len())).collect();
        assert_eq!(maps, [("dsr-marks-4", 2), ("dsr-marks-6", 1)]);
        assert_eq!(
            ruleset.maps["dsr-marks-4"].elements.get(&vec![
                Field::from(ip("10.255.0.1")),
                Field::Protocol(Protocol::Tcp),
                Field::Port(80)
            ]),
            Some(&Value::Mark(9054))
        );
        // UDP alone needs no clamping, so IPv6 has no set.
        assert_eq!(ruleset.sets.keys().map(|name| &**name).collect::<Vec<_>>(), ["dsr-clamp-4"]);
        let prerouting = &ruleset.chains["dsr-prerouting"];
        let statements: Vec<&Statement> = prerouting.rules.iter().flat_map(|rule| &rule.statements).collect();
        assert_eq!(statements.len(), 3);
        assert_eq!(statements[0], &Statement::ClampSegment(1440));
        let output = &ruleset.chains["dsr-output"];
        assert_eq!(output.rules, prerouting.rules[1..]);
        assert_eq!(output.base.map(|base| (base.kind, base.hook)), Some((BaseKind::Route, Hook::Output)));
        // Everything a rule refers to is there.
        for rule in ruleset.chains.values().flat_map(|chain| &chain.rules) {
            assert!(rule.comment.len() <= 100);
            for statement in &rule.statements {
                if let Statement::SetMarkFromMap { map, .. } = statement {
                    assert!(ruleset.maps.contains_key(map));
                }
            }
        }
    }

    #[test]
    fn nothing_to_serve_adds_nothing() {
        let mut ruleset = Ruleset::default();
        DsrNeeds::default().add_to(&mut ruleset, 1500);
        assert_eq!(ruleset, Ruleset::default());
        assert!(DsrNeeds::default().rules().is_empty() && DsrNeeds::default().routes(1).is_empty());
    }

    fn setup(pod: &str, vips: &[&str]) -> PodSetup {
        PodSetup {
            pod: PodKey::new("default", pod),
            container_id: Arc::from("containerd://1"),
            addresses: vec![ip("10.1.0.2")],
            vips: vips.iter().map(|vip| ip(vip)).collect(),
            services: vips.iter().map(|vip| ServiceKey::new("default", *vip)).collect(),
        }
    }

    #[test]
    fn a_pod_behind_two_services_answers_for_the_vips_of_both() {
        let pods = [setup("web-0", &["10.255.0.1"]), setup("web-1", &["10.255.0.1"]), setup("web-0", &["10.255.0.2"])];
        let needs = DsrNeeds::gather(&BTreeSet::new(), pods);
        assert_eq!(needs.pods.len(), 2);
        assert_eq!(needs.pods[&PodKey::new("default", "web-0")], setup("web-0", &["10.255.0.1", "10.255.0.2"]));
    }

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
