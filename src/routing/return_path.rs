//! Answers leave by the router the question came from (pure).
//!
//! A client outside reaches a VIP through one of the external peers. Without more ado the answer follows the default
//! route of this node, which may lead to another router: the client sees nothing, or a router that watches connections
//! drops it. With a return path, for every external peer on a link of this node:
//!
//! 1. what comes in from the peer's station (its Ethernet address) and from outside the cluster notes the peer on the
//!    connection (`ct mark`);
//! 2. answers of that connection, from a pod, from another node, or from this host itself, get the note as packet mark;
//! 3. a routing rule sends packets with that mark to a table with one route: default, through the peer.
//!
//! The table `main` is not touched. A client on the node's own link, a second router that is no peer, and traffic
//! between nodes carry no note and go as before. The note is made of 7 bits of the marks ([`MARK_MASK`]), the others
//! stay as they are. A peer keeps its number while other peers come and go, or running connections would change sides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::egress;
use crate::kernel::filter::{
    Base, BaseKind, Chain, Hook, Match, Name, Rule as FilterRule, Ruleset, Selector, Statement,
};
use crate::kernel::nft::priority;
use crate::kernel::rtnl::{Link, Neighbour, Op, Route, RouteKind, Rule, protocol};
use crate::model::{Node, NodeName, Notice, Severity, Snapshot, Subject};
use crate::net::{Family, Prefix};

/// The annotation of a node that overrides the flag: `peer` or `off`.
pub const ANNOTATION: &str = "ferrovia.dev/return-path";
/// The bits of packet and connection marks that hold a peer's number.
pub const MARK_MASK: u32 = 0x7f00_0000;
/// Where the number begins in a mark.
const MARK_SHIFT: u32 = 24;
/// Most peers that can have a number.
const MOST_PEERS: u32 = MARK_MASK >> MARK_SHIFT;
/// The routing table of the peer with number n is this plus n.
pub const FIRST_TABLE: u32 = 7_800;
/// Order of the rules: before those of the overlay, so that an answer goes back even where a tunnel leads to its client.
pub const RULE_PRIORITY: u32 = 32_762;

/// Whether answers are tied to the router the question came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They follow the routes of this node.
    #[default]
    Off,
    /// They leave by the peer.
    Peer,
}

impl Mode {
    /// By its name in flag and annotation.
    pub fn parse(text: &str) -> Option<Mode> {
        match text {
            "off" => Some(Mode::Off),
            "peer" => Some(Mode::Peer),
            _ => None,
        }
    }

    /// What holds on a node: its annotation, else the flag. A word that means nothing is told, and the flag counts.
    pub fn of(name: &NodeName, node: &Node, flag: Mode) -> (Mode, Option<Notice>) {
        let Some(text) = node.annotations.get(ANNOTATION) else { return (flag, None) };
        match Mode::parse(text) {
            Some(mode) => (mode, None),
            None => {
                let message = format!("{ANNOTATION}: {text:?}: not a return path, the flag counts: use peer or off");
                (flag, Some(warning(name, "UnknownReturnPath", message)))
            }
        }
    }
}

/// One way back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The peer.
    pub peer: IpAddr,
    /// Its number, 1 to 127.
    pub number: u32,
    /// The link it is on.
    pub link: u32,
    /// That link's name.
    pub link_name: String,
    /// Its Ethernet address.
    pub station: [u8; 6],
    /// Its address in each family it can be reached in.
    pub gateways: BTreeSet<IpAddr>,
}

impl Way {
    fn mark(&self) -> u32 {
        self.number << MARK_SHIFT
    }

    fn table(&self) -> u32 {
        FIRST_TABLE + self.number
    }
}

/// The ways back from this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReturnPath {
    /// In order of the peers.
    pub ways: Vec<Way>,
    /// What was left out and why.
    pub notices: Vec<Notice>,
}

/// The ways back to external peers, as far as they are known to be on a link. `own_links` are this node's addresses with
/// the length of their links' prefixes: a peer inside one that does not answer yet is waited for without a word.
pub fn build(
    name: &NodeName,
    peers: impl IntoIterator<Item = IpAddr>,
    own_links: &[Prefix],
    links: &[Link],
    neighbours: &[Neighbour],
) -> ReturnPath {
    let mut path = ReturnPath::default();
    for (peer, number) in numbers(&peers.into_iter().collect()) {
        let known = neighbours.iter().find(|neighbour| neighbour.address == peer);
        let link = known.and_then(|known| links.iter().find(|link| link.index == known.link));
        let (Some(known), Some(link)) = (known, link) else {
            if own_links.iter().any(|link| link.contains(&peer)) {
                continue;
            }
            let message = format!(
                "answers to what comes through peer {peer} follow the node's own routes: the peer is on no link of \
                 this node; peer with the router next to the node, or set {ANNOTATION}=off"
            );
            path.notices.push(warning(name, "NoReturnPath", message));
            continue;
        };
        path.ways.push(Way {
            peer,
            number,
            link: link.index,
            link_name: link.name.clone(),
            station: known.station,
            gateways: gateways(known, neighbours),
        });
    }
    path
}

/// The peer's own address, and for the other family one by which the same station is known on the same link, a
/// link-local one first: it is the router's own and no address it holds for somebody.
fn gateways(peer: &Neighbour, neighbours: &[Neighbour]) -> BTreeSet<IpAddr> {
    let other = |neighbour: &&Neighbour| {
        neighbour.link == peer.link
            && neighbour.station == peer.station
            && Family::of(neighbour.address) != Family::of(peer.address)
    };
    let is_local = |address: IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let other = neighbours.iter().filter(other).map(|it| it.address).min_by_key(|it| (!is_local(*it), *it));
    std::iter::once(peer.address).chain(other).collect()
}

/// A number for each peer, from its address alone where no other peer has the same: then it depends on nobody else.
fn numbers(peers: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, u32> {
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    let mut left = Vec::new();
    for peer in peers {
        let number = 1 + hash(*peer) % MOST_PEERS;
        if taken.insert(number) {
            numbers.insert(*peer, number);
        } else {
            left.push(*peer);
        }
    }
    for peer in left {
        if let Some(free) = (1..=MOST_PEERS).find(|number| !taken.contains(number)) {
            taken.insert(free);
            numbers.insert(peer, free);
        }
    }
    numbers
}

/// FNV-1a, 32 bits, folded once so that its low bits depend on all others.
fn hash(address: IpAddr) -> u32 {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash ^ (hash >> 16)
}

impl ReturnPath {
    /// The routing tables in use.
    pub fn tables(&self) -> impl Iterator<Item = u32> + '_ {
        self.ways.iter().map(Way::table)
    }

    /// The routing rules that should be: one for each way and family.
    pub fn rules(&self) -> BTreeSet<Rule> {
        let rule = |way: &Way, gateway: &IpAddr| Rule {
            mark: Some(way.mark()),
            mark_mask: MARK_MASK,
            ..Rule::to_table(Family::of(*gateway), RULE_PRIORITY, way.table())
        };
        self.ways.iter().flat_map(|way| way.gateways.iter().map(move |gateway| rule(way, gateway))).collect()
    }

    /// The routes that should be: a default route in each way's own table.
    pub fn routes(&self) -> BTreeSet<Route> {
        let route = |way: &Way, gateway: &IpAddr| Route {
            table: way.table(),
            destination: default_route(Family::of(*gateway)),
            kind: RouteKind::Unicast,
            protocol: protocol::OURS,
            scope: 0,
            link: Some(way.link),
            gateway: Some(*gateway),
            next_hops: Vec::new(),
            source: None,
            metric: 0,
        };
        self.ways.iter().flat_map(|way| way.gateways.iter().map(move |gateway| route(way, gateway))).collect()
    }

    /// Adds what notes peers on connections and brings the notes back, with the sets of the cluster's addresses it
    /// needs, to the room's table. Nothing is added without a way.
    pub fn add_to(&self, ruleset: &mut Ruleset, snapshot: &Snapshot) {
        if self.ways.is_empty() {
            return;
        }
        egress::add_sets(snapshot, ruleset);
        let note: Name = Arc::from(NOTE);
        let mut prerouting: Vec<FilterRule> = Family::ALL
            .into_iter()
            .map(|family| {
                let source = match family {
                    Family::V4 => Selector::Source4,
                    Family::V6 => Selector::Source6,
                };
                let outside = |set| Match::InSet { selectors: vec![source], set, negated: true };
                FilterRule {
                    matches: vec![
                        Match::CtDirectionOriginal,
                        outside(egress::pods_set(family)),
                        outside(egress::nodes_set(family)),
                    ],
                    statements: vec![Statement::Jump(Arc::clone(&note))],
                    comment: Arc::from("asked from outside the cluster"),
                }
            })
            .collect();
        prerouting.extend(self.restore());
        ruleset.chains.insert(note, Chain { base: None, rules: self.ways.iter().map(note_rule).collect() });
        for (name, kind, hook, rules) in [
            ("return-in", BaseKind::Filter, Hook::Prerouting, prerouting),
            // What this host answers itself; the type lets it be routed again.
            ("return-out", BaseKind::Route, Hook::Output, self.restore().collect()),
        ] {
            let base = Base { kind, hook, priority: priority::ROUTING_RETURN };
            ruleset.chains.insert(Arc::from(name), Chain { base: Some(base), rules });
        }
    }

    fn restore(&self) -> impl Iterator<Item = FilterRule> + '_ {
        self.ways.iter().map(|way| FilterRule {
            matches: vec![Match::CtDirectionReply, Match::CtMark { mask: MARK_MASK, value: way.mark() }],
            statements: vec![Statement::Counter, Statement::SetMarkBits { mask: MARK_MASK, value: way.mark() }],
            comment: Arc::from(format!("answers through {}", way.peer)),
        })
    }
}

/// The chain that notes where a connection came from.
const NOTE: &str = "return-note";

fn note_rule(way: &Way) -> FilterRule {
    FilterRule {
        matches: vec![
            Match::InputInterface { name: Arc::from(way.link_name.as_str()), negated: false },
            Match::SourceStation(way.station),
        ],
        statements: vec![Statement::SetCtMarkBits { mask: MARK_MASK, value: way.mark() }],
        comment: Arc::from(format!("from {}", way.peer)),
    }
}

/// Whether a rule is one of these.
pub fn owns_rule(rule: &Rule) -> bool {
    rule.priority == RULE_PRIORITY && is_own_table(rule.table)
}

/// Whether a route is one of these.
pub fn owns_route(route: &Route) -> bool {
    route.protocol == protocol::OURS && is_own_table(route.table)
}

fn is_own_table(table: u32) -> bool {
    (FIRST_TABLE + 1..=FIRST_TABLE + MOST_PEERS).contains(&table)
}

fn default_route(family: Family) -> Prefix {
    match family {
        Family::V4 => Prefix::V4(ipnet::Ipv4Net::default()),
        Family::V6 => Prefix::V6(ipnet::Ipv6Net::default()),
    }
}

/// What brings the kernel's rules and routes to what should be; without ways it removes all. Routes come before the
/// rules that lead to them and go after them. Whatever somebody else made is left alone.
pub fn plan(path: &ReturnPath, rules: &[Rule], routes: &[Route]) -> Vec<Op> {
    let (wanted_rules, wanted_routes) = (path.rules(), path.routes());
    let same = |one: &Route, other: &Route| Route { scope: 0, ..one.clone() } == Route { scope: 0, ..other.clone() };
    let mut ops = Vec::new();
    for route in wanted_routes.iter().filter(|route| !routes.iter().any(|found| same(found, route))) {
        ops.push(Op::ReplaceRoute(route.clone()));
    }
    ops.extend(wanted_rules.iter().filter(|rule| !rules.contains(rule)).map(|rule| Op::AddRule(*rule)));
    ops.extend(rules.iter().filter(|it| owns_rule(it) && !wanted_rules.contains(it)).map(|it| Op::DeleteRule(*it)));
    let replaced =
        |route: &Route| wanted_routes.iter().any(|it| (it.table, it.destination) == (route.table, route.destination));
    ops.extend(routes.iter().filter(|it| owns_route(it) && !replaced(it)).map(|it| Op::DeleteRoute(it.clone())));
    ops
}

fn warning(name: &NodeName, reason: &'static str, message: String) -> Notice {
    Notice { subject: Subject::Node(name.clone()), severity: Severity::Warning, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::rtnl::fake::FakeRtnl;
    use crate::kernel::rtnl::{Address, RouteFilter, Rtnl};
    use crate::testing::builders::{cluster, ip, prefix};

    const EDGE: [u8; 6] = [2, 0, 0, 0, 0, 0xed];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

    /// A node with two routers on its link, one of them known in both families, and a client.
    fn kernel() -> FakeRtnl {
        let mut kernel = FakeRtnl::new();
        let link = kernel.put_link("eth0", "veth");
        for text in ["192.168.10.11/24", "fd10::11/64"] {
            assert!(kernel.put_address(Address { link, prefix: prefix(text), scope: 0 }));
        }
        for (address, station) in [
            ("192.168.10.254", EDGE),
            ("fd10::254", EDGE),
            ("fe80::254", EDGE),
            ("192.168.10.253", OTHER),
            ("192.168.10.77", [2, 0, 0, 0, 0, 0x77]),
        ] {
            kernel.put_neighbour(Neighbour { link, address: ip(address), station });
        }
        kernel
    }

    fn path(kernel: &mut FakeRtnl, peers: &[&str]) -> ReturnPath {
        let (links, neighbours) = (kernel.links().unwrap(), kernel.neighbours().unwrap());
        let own_links = [prefix("192.168.10.11/24"), prefix("fd10::11/64")];
        build(&NodeName::new("n1"), peers.iter().map(|peer| ip(peer)), &own_links, &links, &neighbours)
    }

    fn settle(kernel: &mut FakeRtnl, path: &ReturnPath) -> usize {
        let ops = plan(path, &kernel.rules().unwrap(), &kernel.routes(RouteFilter::default()).unwrap());
        for (op, result) in ops.iter().zip(kernel.apply(&ops)) {
            assert!(result.is_ok(), "{op}: {result:?}");
        }
        let again = plan(path, &kernel.rules().unwrap(), &kernel.routes(RouteFilter::default()).unwrap());
        assert_eq!(again, [], "a second pass does nothing");
        ops.len()
    }

    #[test]
    fn each_peer_gets_a_table_and_both_families_where_its_station_has_both() {
        let mut kernel = kernel();
        let path = path(&mut kernel, &["192.168.10.254", "192.168.10.253"]);
        let gateways: Vec<String> = path.ways.iter().flat_map(|way| &way.gateways).map(ToString::to_string).collect();
        assert_eq!(gateways, ["192.168.10.253", "192.168.10.254", "fe80::254"]);
        assert_eq!(settle(&mut kernel, &path), 6);
        let rules: Vec<Rule> = kernel.rules().unwrap().into_iter().filter(owns_rule).collect();
        assert!(
            rules
                .iter()
                .all(|rule| rule.mark_mask == MARK_MASK && rule.priority < super::super::overlay::RULE_PRIORITY)
        );
        assert_eq!(rules.iter().map(|rule| rule.table).collect::<BTreeSet<_>>().len(), 2);
    }

    #[test]
    fn without_ways_nothing_of_it_is_left_and_foreign_state_stays() {
        let mut kernel = kernel();
        let foreign = Rule { protocol: protocol::STATIC, ..Rule::to_table(Family::V4, RULE_PRIORITY, 101) };
        kernel.apply(&[Op::AddRule(foreign)]).pop().unwrap().unwrap();
        let before = (kernel.rules().unwrap(), kernel.routes(RouteFilter::default()).unwrap());
        let two = path(&mut kernel, &["192.168.10.254", "192.168.10.253"]);
        settle(&mut kernel, &two);
        let one = path(&mut kernel, &["192.168.10.254"]);
        assert_eq!(settle(&mut kernel, &one), 2, "the rule and the route of the one that went");
        assert_eq!(one.ways[0].number, two.ways[1].number, "the other keeps its number");
        settle(&mut kernel, &ReturnPath::default());
        assert_eq!((kernel.rules().unwrap(), kernel.routes(RouteFilter::default()).unwrap()), before);
        let mut ruleset = Ruleset::default();
        ReturnPath::default().add_to(&mut ruleset, &cluster("n1").build());
        assert_eq!(ruleset, Ruleset::default());
    }

    #[test]
    fn a_peer_that_moved_is_followed() {
        let mut kernel = kernel();
        let path = path(&mut kernel, &["192.168.10.254"]);
        settle(&mut kernel, &path);
        let mut moved = path.clone();
        moved.ways[0].gateways = BTreeSet::from([ip("192.168.10.254")]);
        assert_eq!(settle(&mut kernel, &moved), 2, "the other family's rule and route go");
    }

    #[test]
    fn a_peer_behind_a_router_is_told() {
        let path = path(&mut kernel(), &["203.0.113.9"]);
        assert!(path.ways.is_empty());
        assert_eq!((path.notices.len(), path.notices[0].reason), (1, "NoReturnPath"));
        let silent = super::tests::path(&mut kernel(), &["192.168.10.9"]);
        assert_eq!((silent.ways.len(), silent.notices.len()), (0, 0), "it may come");
    }

    #[test]
    fn notes_what_peers_bring_from_outside_and_marks_answers_only() {
        let snapshot = cluster("n1").build();
        let path = path(&mut kernel(), &["192.168.10.254"]);
        let mut ruleset = Ruleset::default();
        path.add_to(&mut ruleset, &snapshot);
        let text = |chain: &str| -> Vec<String> {
            ruleset.chains[chain].rules.iter().map(crate::kernel::nft::text::rule_text).collect()
        };
        let mark = format!("{:#010x}", path.ways[0].number << 24);
        let bits = format!("{:#010x}", !MARK_MASK | path.ways[0].number << 24);
        assert!(
            text("return-in")[0]
                .starts_with("ct direction original ip saddr != @pods4 ip saddr != @nodes4 jump return-note")
        );
        let note = format!("iifname \"eth0\" ether saddr 02:00:00:00:00:ed ct mark set ct mark & {bits} | {mark} ");
        assert!(text("return-note")[0].starts_with(&note), "{:?}", text("return-note"));
        let restore = format!(
            "ct direction reply ct mark & 0x7f000000 == {mark} counter meta mark set meta mark & {bits} | {mark} "
        );
        assert!(text("return-in")[2].starts_with(&restore), "{:?}", text("return-in"));
        assert!(text("return-out")[0].starts_with(&restore));
    }

    #[test]
    fn the_annotation_wins_over_the_flag() {
        let node = |value: Option<&str>| {
            let annotations = value.map(|value| (Arc::from(ANNOTATION), Arc::from(value))).into_iter().collect();
            Node { annotations, ..Node::default() }
        };
        for (value, flag, expected, told) in [
            (None, Mode::Peer, Mode::Peer, false),
            (Some("off"), Mode::Peer, Mode::Off, false),
            (Some("peer"), Mode::Off, Mode::Peer, false),
            (Some("yes"), Mode::Off, Mode::Off, true),
        ] {
            let (mode, notice) = Mode::of(&NodeName::new("n1"), &node(value), flag);
            assert_eq!((mode, notice.is_some()), (expected, told), "{value:?}");
        }
    }

    #[test]
    fn numbers_fit_and_differ() {
        let peers: BTreeSet<IpAddr> = (0..200u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let numbers = numbers(&peers);
        let distinct: BTreeSet<u32> = numbers.values().copied().collect();
        assert_eq!((numbers.len(), distinct.len()), (127, 127));
        assert!(distinct.iter().all(|number| (1..=127).contains(number)));
    }
}
