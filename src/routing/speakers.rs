//! Who announces a VIP, and with which next hops (pure).
//!
//! Style *node*, the default: every node announces the VIPs it serves, with itself as next hop. Style *speakers*: only
//! chosen nodes have sessions worth speaking of; each of them announces every VIP once for each node that has a ready
//! endpoint behind it, as third-party next hops of equal standing (several paths on one session need ADD-PATH, RFC
//! 7911). The other nodes announce no VIPs.
//!
//! A node that is being drained is no next hop while another one is left. The speaker itself is one only for what its
//! own service proxy has in force; of other nodes it knows that their endpoint is ready.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::config::Config;
use super::desired::Desired;
use super::{drain, peers};
use crate::model::{Node, NodeName, Notice, Severity, Snapshot, Subject};
use crate::net::Family;

/// The annotation that makes a node a speaker (`true`) or keeps it from being one (`false`), whatever its labels say.
pub const ANNOTATION: &str = "ferrovia.dev/speaker";

/// Who announces VIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Every node, for itself.
    #[default]
    Node,
    /// Chosen nodes, for all.
    Speakers,
}

impl Style {
    /// By its name in the flag.
    pub fn parse(text: &str) -> Option<Style> {
        match text {
            "node" => Some(Style::Node),
            "speakers" => Some(Style::Speakers),
            _ => None,
        }
    }
}

/// What labels a node must have: all of these. `None` as value takes any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<(String, Option<String>)>);

impl LabelSelector {
    /// Reads `key=value,other-key`; `None` where a term has no key.
    pub fn parse(text: &str) -> Option<LabelSelector> {
        let term = |term: &str| {
            let (key, value) = match term.split_once('=') {
                Some((key, value)) => (key.trim(), Some(value.trim_start_matches('=').trim().to_owned())),
                None => (term.trim(), None),
            };
            (!key.is_empty()).then(|| (key.to_owned(), value))
        };
        let terms = text.split(',').filter(|part| !part.trim().is_empty());
        terms.map(term).collect::<Option<Vec<_>>>().map(LabelSelector)
    }

    /// Whether a node has them all. A selector without terms selects nothing.
    pub fn selects(&self, node: &Node) -> bool {
        let has = |(key, value): &(String, Option<String>)| {
            let found = node.labels.get(key.as_str());
            found.is_some_and(|found| value.as_deref().is_none_or(|value| value == &**found))
        };
        !self.0.is_empty() && self.0.iter().all(has)
    }
}

/// Whether a node is a speaker: by its annotation, else by its labels.
pub fn is_speaker(node: &Node, selector: &LabelSelector) -> bool {
    match node.annotations.get(ANNOTATION).map(|text| text.trim()) {
        Some("true") => true,
        Some("false") => false,
        _ => selector.selects(node),
    }
}

/// The next hops this node announces a VIP with, in order; none where it does not announce it. `in_force` says whether
/// this node's own proxy forwards the VIP.
pub fn next_hops(
    vip: IpAddr,
    desired: &Desired,
    snapshot: &Snapshot,
    config: &Config,
    in_force: bool,
) -> BTreeSet<IpAddr> {
    let family = Family::of(vip);
    let Some(own) = snapshot.own_node() else { return BTreeSet::new() };
    if config.advertise_style == Style::Node {
        return own.best_ip(family).filter(|_| in_force).into_iter().collect();
    }
    if !is_speaker(own, &config.speaker_selector) {
        return BTreeSet::new();
    }
    let hops = |drained_too: bool| -> BTreeSet<IpAddr> {
        desired
            .nodes(vip)
            .into_iter()
            .filter(|name| **name != snapshot.node_name || in_force)
            .filter_map(|name| snapshot.nodes.get(name))
            .filter(|node| drained_too || drain::wanted(node, &config.drain).is_none())
            .filter_map(|node| node.best_ip(family))
            .collect()
    };
    let ready = hops(false);
    // Better a way through a node that is to go than none.
    if ready.is_empty() { hops(true) } else { ready }
}

/// The nodes that go on announcing when this one stops: those that are well, not to be drained themselves, and have a
/// router outside to announce to. Asked once for all VIPs.
#[derive(Debug)]
pub struct Others<'a> {
    /// Nobody hears of VIPs from this node: it has no last path to keep.
    unheard: bool,
    nodes: Vec<(&'a NodeName, &'a Node)>,
    style: Style,
}

impl<'a> Others<'a> {
    /// As of this snapshot.
    pub fn new(snapshot: &'a Snapshot, config: &Config) -> Others<'a> {
        let heard = |name: &NodeName, node: &Node| peers::has_external_peers(name, node, config);
        let others = snapshot.nodes.iter().map(|(name, node)| (name, node.as_ref()));
        let others = others
            .filter(|(name, node)| **name != snapshot.node_name && !node.not_ready)
            .filter(|(_, node)| drain::wanted(node, &config.drain).is_none())
            .filter(|(_, node)| config.advertise_style == Style::Node || is_speaker(node, &config.speaker_selector))
            .filter(|(name, node)| heard(name, node));
        Others {
            unheard: !snapshot.own_node().is_some_and(|own| heard(&snapshot.node_name, own)),
            nodes: others.collect(),
            style: config.advertise_style,
        }
    }

    /// Whether a VIP is still announced when this node stops, or was not heard of from it in the first place.
    pub fn announce(&self, vip: IpAddr, desired: &Desired) -> bool {
        let mut able = self.nodes.iter().filter(|(_, node)| node.best_ip(Family::of(vip)).is_some());
        self.unheard
            || match self.style {
                Style::Node if desired.needs_local(vip) => {
                    let endpoints = desired.nodes(vip);
                    able.any(|(name, _)| endpoints.contains(name))
                }
                Style::Node | Style::Speakers => able.next().is_some(),
            }
    }
}

/// What the operator should know about the choice of speakers.
pub fn notices(snapshot: &Snapshot, config: &Config) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let Some(own) = snapshot.own_node()
        && let Some(text) = own.annotations.get(ANNOTATION)
        && !matches!(text.trim(), "true" | "false")
    {
        let message = format!("{ANNOTATION}: {text:?}: neither true nor false, the node's labels decide");
        notices.push(warning(&snapshot.node_name, "UnknownSpeaker", message));
    }
    let anybody = || snapshot.nodes.values().any(|node| is_speaker(node, &config.speaker_selector));
    if config.advertise_style == Style::Speakers && !anybody() {
        let message = format!(
            "no node is a speaker, so no VIP is announced: set --speaker-selector to labels that nodes have, or the \
             annotation {ANNOTATION}=true on a node"
        );
        notices.push(warning(&snapshot.node_name, "NoSpeaker", message));
    }
    notices
}

fn warning(name: &NodeName, reason: &'static str, message: String) -> Notice {
    Notice { subject: Subject::Node(name.clone()), severity: Severity::Warning, reason, message }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::TrafficPolicy;
    use crate::net::Asn;
    use crate::routing::config::FlagPeer;
    use crate::testing::builders::{cluster, ip, prefix, service};

    const VIP: &str = "203.0.113.1";

    /// Three nodes, endpoints on n2 and n3; n1 and n2 are labelled as masters.
    fn snapshot(own: &str, policy: TrafficPolicy) -> Snapshot {
        let web = service("web", "10.96.0.1").port(80).external_ip(VIP).with(|it| it.external_policy = policy);
        let mut snapshot = cluster(own).service(web).ready("web", &["10.244.2.5", "10.244.3.5"], 8080).build();
        for (name, address, master) in
            [("n1", "192.168.10.11", true), ("n2", "192.168.10.12", true), ("n3", "192.168.10.13", false)]
        {
            let labels = master.then(|| (Arc::from("dedicated"), Arc::from("master"))).into_iter().collect();
            let node = Node { internal_ips: vec![ip(address)], labels, ..Node::default() };
            snapshot.nodes.insert(NodeName::new(name), Arc::new(node));
        }
        snapshot
    }

    fn config(style: Style) -> Config {
        Config {
            advertise_style: style,
            speaker_selector: LabelSelector::parse("dedicated=master").unwrap(),
            advertise_external_ip: true,
            external_ip_ranges: vec![prefix("203.0.113.0/24")],
            ..Config::default()
        }
    }

    /// With a router outside for every node.
    fn heard(style: Style) -> Config {
        let edge = FlagPeer { address: ip("192.168.10.254"), asn: Asn(65001), port: 179, password: None };
        Config { peers: vec![edge], ..config(style) }
    }

    fn annotate(snapshot: &mut Snapshot, node: &str, key: &str, value: &str) {
        let name = NodeName::new(node);
        let mut changed = (**snapshot.nodes.get(&name).unwrap()).clone();
        changed.annotations.insert(Arc::from(key), Arc::from(value));
        snapshot.nodes.insert(name, Arc::new(changed));
    }

    fn hops(snapshot: &Snapshot, config: &Config, in_force: bool) -> Vec<String> {
        let desired = Desired::build(snapshot, config);
        next_hops(ip(VIP), &desired, snapshot, config, in_force).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_speaker_announces_the_nodes_with_a_ready_endpoint_and_nobody_else() {
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let config = config(Style::Speakers);
            assert_eq!(hops(&snapshot("n1", policy), &config, false), ["192.168.10.12", "192.168.10.13"]);
            assert!(hops(&snapshot("n3", policy), &config, true).is_empty(), "n3 is no speaker");
        }
    }

    #[test]
    fn a_speaker_is_its_own_next_hop_only_for_what_its_proxy_forwards() {
        let (snapshot, config) = (snapshot("n2", TrafficPolicy::Cluster), config(Style::Speakers));
        assert_eq!(hops(&snapshot, &config, true), ["192.168.10.12", "192.168.10.13"]);
        assert_eq!(hops(&snapshot, &config, false), ["192.168.10.13"]);
    }

    #[test]
    fn a_drained_node_is_no_next_hop_unless_it_is_the_last() {
        let config = config(Style::Speakers);
        let mut snapshot = snapshot("n1", TrafficPolicy::Cluster);
        annotate(&mut snapshot, "n2", drain::ANNOTATION, "true");
        assert_eq!(hops(&snapshot, &config, true), ["192.168.10.13"]);
        annotate(&mut snapshot, "n3", drain::ANNOTATION, "true");
        assert_eq!(hops(&snapshot, &config, true), ["192.168.10.12", "192.168.10.13"]);
    }

    #[test]
    fn in_the_style_node_each_announces_itself_once_it_forwards() {
        let (snapshot, config) = (snapshot("n3", TrafficPolicy::Cluster), config(Style::Node));
        assert_eq!(hops(&snapshot, &config, true), ["192.168.10.13"]);
        assert!(hops(&snapshot, &config, false).is_empty());
    }

    #[test]
    fn the_annotation_wins_over_labels() {
        let mut snapshot = snapshot("n1", TrafficPolicy::Cluster);
        let config = config(Style::Speakers);
        annotate(&mut snapshot, "n1", ANNOTATION, "false");
        assert!(hops(&snapshot, &config, true).is_empty());
        annotate(&mut snapshot, "n1", ANNOTATION, "perhaps");
        assert_eq!(hops(&snapshot, &config, true).len(), 2);
        assert_eq!(notices(&snapshot, &config)[0].reason, "UnknownSpeaker");
        let nobody = Config { speaker_selector: LabelSelector::default(), ..config };
        assert_eq!(notices(&snapshot, &nobody)[1].reason, "NoSpeaker");
    }

    /// What becomes of a node of this name.
    type Changed<'a> = (&'a str, fn(&mut Node));

    /// Whether this node may stop announcing, with nodes changed like this.
    fn may_go(own: &str, policy: TrafficPolicy, config: &Config, changes: &[Changed<'_>]) -> bool {
        let mut snapshot = snapshot(own, policy);
        for (node, change) in changes {
            let name = NodeName::new(*node);
            let mut changed = (**snapshot.nodes.get(&name).unwrap()).clone();
            change(&mut changed);
            snapshot.nodes.insert(name, Arc::new(changed));
        }
        Others::new(&snapshot, config).announce(ip(VIP), &Desired::build(&snapshot, config))
    }

    fn drained(node: &mut Node) {
        node.annotations.insert(Arc::from(drain::ANNOTATION), Arc::from("true"));
    }

    fn peered(node: &mut Node) {
        let peers = "- remoteip: 192.168.10.254\n  remoteasn: 65001";
        node.annotations.insert(Arc::from(peers::key::PEERS), Arc::from(peers));
    }

    #[test]
    fn who_else_announces_depends_on_style_and_policy() {
        use Style::{Node, Speakers};
        use TrafficPolicy::{Cluster, Local};
        let elsewhere = |own: &str, policy, style, changes: &[Changed<'_>]| may_go(own, policy, &heard(style), changes);
        assert!(elsewhere("n2", Cluster, Node, &[("n3", drained)]), "n1 forwards it, too");
        assert!(elsewhere("n2", Local, Node, &[]), "n3 has an endpoint");
        assert!(!elsewhere("n2", Local, Node, &[("n3", drained)]), "n1 has none");
        assert!(!elsewhere("n2", Cluster, Node, &[("n1", drained), ("n3", drained)]));
        assert!(elsewhere("n1", Cluster, Speakers, &[]), "n2 speaks, too");
        assert!(!elsewhere("n1", Cluster, Speakers, &[("n2", drained)]), "n3 does not speak");
    }

    #[test]
    fn a_node_that_is_not_well_is_not_relied_on() {
        let unwell = |node: &mut Node| node.not_ready = true;
        let config = heard(Style::Node);
        assert!(may_go("n1", TrafficPolicy::Cluster, &config, &[("n2", unwell)]), "n3 is well");
        assert!(!may_go("n1", TrafficPolicy::Cluster, &config, &[("n2", unwell), ("n3", unwell)]));
        assert!(!may_go("n2", TrafficPolicy::Local, &config, &[("n3", unwell)]), "n1 has no endpoint");
    }

    #[test]
    fn a_node_without_a_router_to_announce_to_is_not_relied_on() {
        let config = config(Style::Node);
        let cluster = TrafficPolicy::Cluster;
        assert!(!may_go("n1", cluster, &config, &[("n1", peered)]), "n2 and n3 have nobody to announce to");
        assert!(may_go("n1", cluster, &config, &[("n1", peered), ("n3", peered)]));
        assert!(may_go("n1", cluster, &config, &[]), "n1 has nobody itself: there is no last path to keep");
        let asked = Config { full_mesh: false, ..config };
        let with_asn = |node: &mut Node| {
            peered(node);
            node.annotations.insert(Arc::from(peers::key::ASN), Arc::from("64512"));
        };
        assert!(!may_go("n1", cluster, &asked, &[("n1", with_asn), ("n2", peered)]), "n2 has no AS, so no session");
        assert!(may_go("n1", cluster, &asked, &[("n1", with_asn), ("n2", with_asn)]));
    }

    #[test]
    fn selectors_read_as_label_selectors() {
        let node = Node { labels: [(Arc::from("a"), Arc::from("1"))].into_iter().collect(), ..Node::default() };
        for (text, expected) in
            [("a=1", true), ("a==1", true), ("a", true), ("a=2", false), ("a=1,b", false), ("", false)]
        {
            assert_eq!(LabelSelector::parse(text).unwrap().selects(&node), expected, "{text}");
        }
        assert_eq!(LabelSelector::parse("=1"), None);
    }
}
