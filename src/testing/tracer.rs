//! One imaginary packet walks through what a node should have, and says where it ends.
//!
//! The first packet of a connection: packet filter, routing, IPVS and source translation in the order of the kernel's
//! hooks. The packet filter is interpreted as a ruleset, not as what the proxy meant by it. Replies are not traced, but
//! through one hook.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::kernel::filter::{
    BaseKind, Chain, CtState, Elements, Field, Hook, Match, Name, Rule, Ruleset, Selector, Statement, Value,
};
use crate::kernel::ipvs::{Forwarding, RealServer, Table, VirtualServerKey};
use crate::kernel::rtnl::{self, Op};
use crate::net::{Family, Protocol};
use crate::proxy::render::Picture;

/// Where IPVS takes packets in INPUT (`NF_IP_PRI_NAT_SRC - 2`).
const IPVS_IN_INPUT: i32 = 98;
/// A bound for jumps, as the kernel has one.
const MAX_DEPTH: usize = 16;

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A process in this node's own network.
    Node,
    /// Anything else: a pod of this node, another node, a client outside.
    Wire,
}

/// The first packet of a connection, as it reaches or leaves this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Where it comes from.
    pub origin: Origin,
    /// Who asks.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// Whom it asks.
    pub destination: IpAddr,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
}

/// What connection tracking knows of the connection of a packet. By default nothing: the packet is its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// The connection is established.
    pub established: bool,
    /// The packet is an answer.
    pub reply: bool,
    /// The connection's mark.
    pub mark: u32,
}

impl Tracking {
    /// The word of nft and iptables for the state.
    pub(super) fn state(self) -> CtState {
        if self.established { CtState::Established } else { CtState::New }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its destination is no address of this node: it travels on.
    Elsewhere,
    /// The client is told that nobody serves this.
    Refused,
    /// Nobody is told anything.
    Dropped,
    /// A socket of the node itself gets it, if there is one.
    Host,
    /// One of these gets it; for each, the source address it sees.
    Endpoints(BTreeMap<(IpAddr, u16), IpAddr>),
}

/// What packets meet on a node.
#[derive(Debug)]
pub struct Tracer<'a> {
    ruleset: &'a Ruleset,
    table: &'a Table,
    /// Addresses that are local: the node's own and the VIPs bound to it.
    local: BTreeSet<IpAddr>,
    rules: Vec<rtnl::Rule>,
}

/// A packet with what it has picked up on its way.
#[derive(Clone, Copy, Debug)]
struct Walker {
    packet: Packet,
    /// What the client asked for, whatever the packet carries by now.
    asked: (IpAddr, u16),
    mark: u32,
    new_source: Option<IpAddr>,
    tracking: Tracking,
    /// The address of the tunnel's near end, where the packet is inside another one: the packet's destination is then
    /// the far end, as everything else of it is inside.
    tunnel: Option<IpAddr>,
    /// The link it came in by; none has this name where that does not matter.
    link: &'static str,
}

/// What a chain says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing final.
    Continue,
    Accept,
    Drop,
    Reject,
}

impl<'a> Tracer<'a> {
    /// A node with these addresses of its own and what the picture shows.
    pub fn new(picture: &'a Picture, own: &[IpAddr]) -> Tracer<'a> {
        let mut local: BTreeSet<IpAddr> = own.iter().copied().collect();
        let mut rules = Vec::new();
        for op in &picture.links {
            match op {
                Op::AddAddress(address) => {
                    local.insert(address.prefix.addr());
                }
                Op::ReplaceRoute(route)
                    if route.kind == rtnl::RouteKind::Local && route.destination.prefix_len() > 0 =>
                {
                    local.insert(route.destination.addr());
                }
                Op::AddRule(rule) => rules.push(*rule),
                _ => {}
            }
        }
        Tracer { ruleset: &picture.ruleset, table: &picture.table, local, rules }
    }

    /// A node with these local addresses of which only the packet filter matters.
    pub fn of_filter(ruleset: &'a Ruleset, own: &[IpAddr]) -> Tracer<'a> {
        static NO_SERVERS: Table = Table::new();
        Tracer { ruleset, table: &NO_SERVERS, local: own.iter().copied().collect(), rules: Vec::new() }
    }

    /// What the chains of one hook do to a packet; `None` when they let it through.
    pub fn hook(&self, hook: Hook, packet: Packet) -> Option<Fate> {
        self.hook_tracked(hook, packet, Tracking::default())
    }

    /// The same for a packet of a connection that is known.
    pub fn hook_tracked(&self, hook: Hook, packet: Packet, tracking: Tracking) -> Option<Fate> {
        self.pass(hook, i32::MIN..i32::MAX, &mut Walker { tracking, ..Walker::new(packet) })
    }

    /// The same for a packet that node `from` has put into another one to the packet's destination.
    pub fn hook_tunnelled(&self, hook: Hook, packet: Packet, from: IpAddr) -> Option<Fate> {
        self.hook_tunnelled_marked(hook, packet, from, &mut 0)
    }

    /// The same for one with a mark, and which mark it has then.
    pub fn hook_tunnelled_marked(&self, hook: Hook, packet: Packet, from: IpAddr, mark: &mut u32) -> Option<Fate> {
        let mut walker = Walker { tunnel: Some(from), mark: *mark, ..Walker::new(packet) };
        let fate = self.pass(hook, i32::MIN..i32::MAX, &mut walker);
        *mark = walker.mark;
        fate
    }

    /// The same for a packet of a known connection that came in by a link.
    pub fn hook_from(&self, hook: Hook, packet: Packet, tracking: Tracking, link: &'static str) -> Option<Fate> {
        self.pass(hook, i32::MIN..i32::MAX, &mut Walker { tracking, link, ..Walker::new(packet) })
    }

    /// Where a packet ends.
    pub fn trace(&self, packet: Packet) -> Fate {
        let mut walker = Walker::new(packet);
        let entry = match packet.origin {
            Origin::Node => Hook::Output,
            Origin::Wire => Hook::Prerouting,
        };
        if let Some(fate) = self.pass(entry, i32::MIN..i32::MAX, &mut walker) {
            return fate;
        }
        if packet.origin == Origin::Node
            && let Some(fate) = self.forward(&walker)
        {
            // IPVS takes what the node itself sends before it is routed to itself.
            return fate;
        }
        if !self.is_local(&walker) {
            return Fate::Elsewhere;
        }
        if let Some(fate) = self.pass(Hook::Input, i32::MIN..IPVS_IN_INPUT, &mut walker) {
            return fate;
        }
        self.forward(&walker).unwrap_or(Fate::Host)
    }

    /// All base chains of a hook; a fate when one of them ends the walk.
    fn pass(&self, hook: Hook, priorities: std::ops::Range<i32>, walker: &mut Walker) -> Option<Fate> {
        let base =
            |chain: &'a Chain| chain.base.filter(|base| base.hook == hook && priorities.contains(&base.priority));
        let mut chains: Vec<(i32, BaseKind, &Chain)> = self
            .ruleset
            .chains
            .values()
            .filter_map(|chain| base(chain).map(|base| (base.priority, base.kind, chain)))
            .collect();
        chains.sort_by_key(|(priority, ..)| *priority);
        for (_, _, chain) in chains {
            match self.walk(chain, walker, 0) {
                Verdict::Continue | Verdict::Accept => {}
                Verdict::Drop => return Some(Fate::Dropped),
                Verdict::Reject => return Some(Fate::Refused),
            }
        }
        None
    }

    fn is_local(&self, walker: &Walker) -> bool {
        let family = Family::of(walker.packet.destination);
        let by_mark = |rule: &rtnl::Rule| rule.mark == Some(walker.mark) && rule.family == family;
        self.local.contains(&walker.packet.destination) || self.rules.iter().any(by_mark)
    }

    /// What IPVS does; `None` when it has no virtual server for the packet.
    fn forward(&self, walker: &Walker) -> Option<Fate> {
        let Packet { destination, protocol, port, .. } = walker.packet;
        let by_mark = VirtualServerKey::Mark { mark: walker.mark, family: Family::of(destination) };
        let by_address = VirtualServerKey::Address { address: destination, protocol, port };
        let marked = if walker.mark == 0 { None } else { self.table.get(&by_mark) };
        let server = marked.or_else(|| self.table.get(&by_address))?;
        let takes_new = |real: &&RealServer| real.weight > 0;
        let endpoints: BTreeMap<(IpAddr, u16), IpAddr> = server
            .real_servers
            .iter()
            .filter(takes_new)
            .map(|real| ((real.key.address, real.key.port), self.source_seen_by(real, *walker)))
            .collect();
        Some(if endpoints.is_empty() { Fate::Refused } else { Fate::Endpoints(endpoints) })
    }

    /// The source after source translation on the way to a real server.
    fn source_seen_by(&self, real: &RealServer, mut walker: Walker) -> IpAddr {
        if matches!(real.forwarding, Forwarding::Tunnel(_)) {
            return walker.packet.source;
        }
        walker.packet.destination = real.key.address;
        walker.packet.port = real.key.port;
        let _ = self.pass(Hook::Postrouting, i32::MIN..i32::MAX, &mut walker);
        walker.new_source.unwrap_or(walker.packet.source)
    }

    fn walk(&self, chain: &Chain, walker: &mut Walker, depth: usize) -> Verdict {
        assert!(depth < MAX_DEPTH, "jumps do not end");
        for rule in &chain.rules {
            if !rule.matches.iter().all(|matched| self.matches(matched, walker)) {
                continue;
            }
            match self.run(rule, walker, depth) {
                Step::Next => {}
                Step::Back => return Verdict::Continue,
                Step::End(verdict) => return verdict,
            }
        }
        Verdict::Continue
    }

    fn jump(&self, name: &Name, walker: &mut Walker, depth: usize) -> Step {
        let chain = self.ruleset.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        match self.walk(chain, walker, depth + 1) {
            Verdict::Continue => Step::Next,
            verdict => Step::End(verdict),
        }
    }

    fn run(&self, rule: &Rule, walker: &mut Walker, depth: usize) -> Step {
        for statement in &rule.statements {
            let step = match statement {
                Statement::Counter | Statement::Log { .. } | Statement::ClampSegment(_) => Step::Next,
                Statement::SetMark(mark) => {
                    walker.mark = *mark;
                    Step::Next
                }
                Statement::SetMarkBits { mask, value } => {
                    walker.mark = walker.mark & !mask | value & mask;
                    Step::Next
                }
                // The connection is not traced beyond its first packet.
                Statement::SetCtMarkBits { .. } => Step::Next,
                Statement::SetMarkFromMap { selectors, map } => match self.look_up(selectors, map, walker) {
                    Some(Value::Mark(mark)) => {
                        walker.mark = *mark;
                        Step::Next
                    }
                    _ => return Step::Next,
                },
                Statement::VerdictMap { selectors, map } => match self.look_up(selectors, map, walker) {
                    // Whoever comes back from a jump goes on with the next rule.
                    Some(Value::Jump(chain)) => return self.jump(chain, walker, depth),
                    Some(Value::Accept) => Step::End(Verdict::Accept),
                    Some(Value::Drop) => Step::End(Verdict::Drop),
                    Some(Value::Mark(_)) => panic!("marks in the verdict map {map}"),
                    None => return Step::Next,
                },
                Statement::Snat { to, .. } if Family::of(*to) == walker.family() => walker.translate(*to),
                Statement::SnatToOriginalDestination { family } if *family == walker.family() => {
                    walker.translate(walker.asked.0)
                }
                // Only packets of its family get to a translation.
                Statement::Snat { .. } | Statement::SnatToOriginalDestination { .. } => return Step::Next,
                Statement::Masquerade { .. } => panic!("masquerading depends on a link, which is not traced"),
                Statement::Reject => Step::End(Verdict::Reject),
                Statement::Drop => Step::End(Verdict::Drop),
                Statement::Accept => Step::End(Verdict::Accept),
                Statement::Return => Step::Back,
                Statement::Jump(chain) => return self.jump(chain, walker, depth),
            };
            if step != Step::Next {
                return step;
            }
        }
        Step::Next
    }

    fn matches(&self, matched: &Match, walker: &Walker) -> bool {
        const SYN: u8 = 0x02;
        match matched {
            Match::Family(family) => *family == walker.family(),
            Match::Protocol(protocol) => walker.tunnel.is_none() && *protocol == walker.packet.protocol,
            Match::IpInIp(family) => walker.tunnel.is_some() && *family == walker.family(),
            Match::InnerIsOpaque(_) => false,
            Match::InnerProtocol(family, protocol) => {
                walker.tunnel.is_some() && *family == walker.family() && *protocol == walker.packet.protocol
            }
            Match::InnerDestinationPorts { family, first, last } => {
                let inside = walker.tunnel.is_some() && *family == walker.family();
                inside && (*first..=*last).contains(&walker.packet.port)
            }
            Match::InSet { selectors, set, negated } => {
                self.in_set(selectors, set, walker).is_some_and(|is_in| is_in != *negated)
            }
            Match::DestinationPorts { first, last } => {
                walker.tunnel.is_none() && (*first..=*last).contains(&walker.packet.port)
            }
            Match::IcmpTypes { .. } => false,
            Match::SourceIsLocal { negated } => self.local.contains(&walker.outer_source()) != *negated,
            Match::DestinationIsLocal { negated } => self.local.contains(&walker.packet.destination) != *negated,
            Match::InputInterface { .. } => panic!("only sets of interfaces are traced"),
            Match::CtState(states) => states.contains(&walker.tracking.state()),
            Match::CtDirectionOriginal => !walker.tracking.reply,
            Match::CtDirectionReply => walker.tracking.reply,
            Match::CtMark { mask, value } => walker.tracking.mark & mask == *value,
            Match::SourceStation(_) => panic!("stations are not traced"),
            Match::InputBridge(_) | Match::EtherType(_) => panic!("frames are not traced"),
            Match::Mark { mask, value } => walker.mark & mask == *value,
            Match::TcpFlags { mask, value } => walker.packet.protocol == Protocol::Tcp && SYN & mask == *value,
        }
    }

    /// Whether a set holds what the selectors read; `None` where the packet has no such field.
    fn in_set(&self, selectors: &[Selector], name: &Name, walker: &Walker) -> Option<bool> {
        let set = self.ruleset.sets.get(name).unwrap_or_else(|| panic!("no set {name}"));
        let key: Vec<Field> = selectors.iter().map(|selector| walker.read(*selector)).collect::<Option<_>>()?;
        Some(match &set.elements {
            Elements::Keys(keys) => keys.contains(&key),
            Elements::Prefixes(prefixes) => match key.as_slice() {
                [Field::Ipv4(address)] => prefixes.iter().any(|prefix| prefix.contains(&IpAddr::V4(*address))),
                [Field::Ipv6(address)] => prefixes.iter().any(|prefix| prefix.contains(&IpAddr::V6(*address))),
                other => panic!("{other:?} is looked up among prefixes of {name}"),
            },
        })
    }

    fn look_up(&self, selectors: &[Selector], name: &Name, walker: &Walker) -> Option<&Value> {
        let map = self.ruleset.maps.get(name).unwrap_or_else(|| panic!("no map {name}"));
        let key: Vec<Field> = selectors.iter().map(|selector| walker.read(*selector)).collect::<Option<_>>()?;
        map.elements.get(&key)
    }
}

/// How it goes on after a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Next,
    /// To the calling chain.
    Back,
    End(Verdict),
}

impl Walker {
    fn new(packet: Packet) -> Walker {
        let asked = (packet.destination, packet.port);
        Walker { packet, asked, mark: 0, new_source: None, tracking: Tracking::default(), tunnel: None, link: "" }
    }

    fn family(&self) -> Family {
        Family::of(self.packet.destination)
    }

    /// The source that the packet has on its way.
    fn outer_source(&self) -> IpAddr {
        self.tunnel.unwrap_or(self.packet.source)
    }

    fn translate(&mut self, to: IpAddr) -> Step {
        self.new_source = Some(to);
        Step::End(Verdict::Accept)
    }

    fn read(&self, selector: Selector) -> Option<Field> {
        let of = |family: Family, address: IpAddr| (Family::of(address) == family).then(|| Field::from(address));
        match selector {
            Selector::Source4 => of(Family::V4, self.outer_source()),
            Selector::Source6 => of(Family::V6, self.outer_source()),
            Selector::InnerSource4 => self.tunnel.and_then(|_| of(Family::V4, self.packet.source)),
            Selector::InnerSource6 => self.tunnel.and_then(|_| of(Family::V6, self.packet.source)),
            Selector::InnerDestinationPort4 | Selector::InnerDestinationPort6 => {
                self.tunnel.map(|_| Field::Port(self.packet.port))
            }
            Selector::Protocol | Selector::SourcePort | Selector::DestinationPort if self.tunnel.is_some() => None,
            Selector::Destination4 => of(Family::V4, self.packet.destination),
            Selector::Destination6 => of(Family::V6, self.packet.destination),
            Selector::Protocol => Some(Field::Protocol(self.packet.protocol)),
            Selector::SourcePort => Some(Field::Port(self.packet.source_port)),
            Selector::DestinationPort => Some(Field::Port(self.packet.port)),
            Selector::OriginalDestination4 => of(Family::V4, self.asked.0),
            Selector::OriginalDestination6 => of(Family::V6, self.asked.0),
            Selector::OriginalDestinationPort => Some(Field::Port(self.asked.1)),
            Selector::Mark => Some(Field::Mark(self.mark)),
            Selector::InputInterface => Some(Field::Interface(Name::from(self.link))),
            Selector::OutputInterface => panic!("where packets leave is not traced"),
        }
    }
}
