//! Why a pod may or may not be reached: what the rules of the table say about one flow, in words (pure).
//!
//! It asks the same book the rules are compiled from, so the answer is about what is enforced, not about what somebody
//! meant to write.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::book::Book;
use super::members::View;
use super::resolve::{Allow, AllowPeer, AllowPort, Direction};
use super::tiers::Rank;
use super::{Config, LEGACY_POLICY};
use crate::model::{Action, ClusterPolicyName, NodeName, Pod, PodKey, PolicyKey, Snapshot, Tier};
use crate::net::{Family, Protocol};
use crate::reconcile::query::{Peer, PodQuestion};

/// Addresses that stand for "somebody outside the cluster": kept for documentation (RFC 5737, RFC 3849), so nobody has
/// them.
const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

/// One flow, as its first packet shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sends.
    pub source: IpAddr,
    /// Who receives.
    pub destination: IpAddr,
    /// On which port; `None` where that is left open.
    pub port: Option<(Protocol, u16)>,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It does not.
    Denied,
    /// On some ports it does.
    Depends,
}

/// Who decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decider {
    /// A rule of a cluster policy.
    Cluster {
        /// The policy.
        name: ClusterPolicyName,
        /// The rule, counted from 0.
        rule: usize,
        /// Its name, empty where it has none.
        rule_name: Arc<str>,
        /// What it does.
        action: Action,
    },
    /// A rule of a NetworkPolicy.
    Policy(PolicyKey, usize),
    /// None of these NetworkPolicies allows it.
    NoRule(BTreeSet<PolicyKey>),
    /// No policy says anything about it.
    NoPolicy,
    /// It is not for policies to decide.
    Always(&'static str),
}

/// What one end says to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Which of its directions was asked.
    pub direction: Direction,
    /// What it says.
    pub verdict: Verdict,
    /// Who decided, where the port does not matter or is known.
    pub by: Decider,
    /// Rules that decide for some ports only.
    pub depending: Vec<Decider>,
}

/// Whether a rule is about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    /// For some ports.
    Depends,
}

/// What the policies of a pod of the book's node say to a flow.
pub fn judge(book: &Book, pod: &PodKey, direction: Direction, flow: Flow) -> Judgement {
    let mut depending: Vec<(Decider, Option<Verdict>)> = Vec::new();
    let (verdict, by) = decide(book, pod, direction, flow, &mut depending);
    let settled = depending.iter().all(|(_, other)| *other == Some(verdict));
    let verdict = if settled { verdict } else { Verdict::Depends };
    let depending = if settled { Vec::new() } else { depending.into_iter().map(|(by, _)| by).collect() };
    Judgement { direction, verdict, by, depending }
}

fn decide(
    book: &Book,
    pod: &PodKey,
    direction: Direction,
    flow: Flow,
    depending: &mut Vec<(Decider, Option<Verdict>)>,
) -> (Verdict, Decider) {
    let under = book.tiers().under(pod, direction);
    if let Some(decided) = under.and_then(|under| ask_tier(book, &under.admin, direction, flow, depending)) {
        return decided;
    }
    let empty = BTreeSet::new();
    let policies = book.pods().get(pod).map_or(&empty, |found| match direction {
        Direction::Ingress => &found.ingress,
        Direction::Egress => &found.egress,
    });
    for key in policies {
        let allows = book.policy(key).and_then(|found| match direction {
            Direction::Ingress => found.ingress.as_ref(),
            Direction::Egress => found.egress.as_ref(),
        });
        for allow in allows.into_iter().flatten() {
            let by = Decider::Policy(key.clone(), allow.rule);
            match fit(allow, book, direction, flow) {
                Fit::Yes => return (Verdict::Allowed, by),
                Fit::Depends => depending.push((by, Some(Verdict::Allowed))),
                Fit::No => {}
            }
        }
    }
    if !policies.is_empty() {
        return (Verdict::Denied, Decider::NoRule(policies.clone()));
    }
    let baseline = under.and_then(|under| ask_tier(book, &under.baseline, direction, flow, depending));
    baseline.unwrap_or((Verdict::Allowed, Decider::NoPolicy))
}

/// What a tier decides; `None` where it leaves the decision to others.
fn ask_tier(
    book: &Book,
    ranks: &BTreeSet<Rank>,
    direction: Direction,
    flow: Flow,
    depending: &mut Vec<(Decider, Option<Verdict>)>,
) -> Option<(Verdict, Decider)> {
    for policy in ranks.iter().filter_map(|rank| book.tiers().policy(&rank.name)) {
        for saying in policy.of(direction) {
            let by = Decider::Cluster {
                name: policy.rank.name.clone(),
                rule: saying.packets.rule,
                rule_name: Arc::clone(&saying.rule_name),
                action: saying.action,
            };
            let verdict = match saying.action {
                Action::Accept => Some(Verdict::Allowed),
                Action::Deny => Some(Verdict::Denied),
                Action::Pass => None,
            };
            match fit(&saying.packets, book, direction, flow) {
                Fit::Yes => return verdict.map(|verdict| (verdict, by)),
                Fit::Depends => depending.push((by, verdict)),
                Fit::No => {}
            }
        }
    }
    None
}

fn fit(packets: &Allow, book: &Book, direction: Direction, flow: Flow) -> Fit {
    let other = match direction {
        Direction::Ingress => flow.source,
        Direction::Egress => flow.destination,
    };
    let is_peer = match &packets.peer {
        AllowPeer::Any => true,
        AllowPeer::Pods(set) => book.members().elements(set).any(|(address, _)| address == other),
        AllowPeer::Blocks(blocks) => blocks.iter().any(|block| block.contains(&other)),
    };
    if !is_peer {
        return Fit::No;
    }
    let when = |fits: bool| if fits { Fit::Yes } else { Fit::No };
    match (&packets.port, flow.port) {
        (AllowPort::Any, _) => Fit::Yes,
        (AllowPort::Protocol(wanted), Some((protocol, _))) => when(*wanted == protocol),
        (AllowPort::Range(wanted, first, last), Some((protocol, port))) => {
            when(*wanted == protocol && (*first..=*last).contains(&port))
        }
        (AllowPort::Named(set), port) => {
            let mut there = book.members().elements(set).filter(|(address, _)| *address == flow.destination);
            let of_view = match &set.view {
                View::NamedPort { protocol, .. } => Some(*protocol),
                View::Addresses => None,
            };
            match port {
                Some((protocol, port)) => when(of_view == Some(protocol) && there.any(|(_, number)| number == port)),
                None if there.next().is_some() => Fit::Depends,
                None => Fit::No,
            }
        }
        (AllowPort::Protocol(_) | AllowPort::Range(..), None) => Fit::Depends,
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decider::Cluster { name, rule, rule_name, action } if rule_name.is_empty() => {
                write!(f, "clusternetworkpolicy {name} rule {rule}: {action}")
            }
            Decider::Cluster { name, rule, rule_name, action } => {
                write!(f, "clusternetworkpolicy {name} rule {rule} ({rule_name:?}): {action}")
            }
            Decider::Policy(key, _) if *key.name == *LEGACY_POLICY => {
                write!(f, "annotation {LEGACY_POLICY} of namespace {}", key.namespace)
            }
            Decider::Policy(key, rule) => write!(f, "networkpolicy {key} rule {rule}"),
            Decider::NoRule(keys) => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                write!(f, "no rule of {} allows it", keys.join(", "))
            }
            Decider::NoPolicy => f.write_str("no policy says anything about it"),
            Decider::Always(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "denied",
            Verdict::Depends => "depends on the port",
        })
    }
}

/// Everything there is to say about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Where it runs; empty where it is not placed yet.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What stands in the way of an answer; then there is nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unclear: Option<String>,
    /// What it may receive.
    pub ingress: Selection,
    /// What it may send.
    pub egress: Selection,
    /// The flows that were asked about.
    pub flows: Vec<FlowAnswer>,
    /// Whether the kernel holds it now; empty where nobody looked.
    pub kernel: Vec<String>,
}

/// The policies that are asked about one direction, in the order they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// Cluster policies of the Admin tier, with their priorities.
    pub admin: Vec<String>,
    /// NetworkPolicies that isolate it.
    pub policies: Vec<String>,
    /// Cluster policies of the Baseline tier. They are not asked where a NetworkPolicy isolates it.
    pub baseline: Vec<String>,
}

/// What becomes of a flow, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowAnswer {
    /// `from shop/client (10.244.1.7)`, with the port.
    pub flow: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What each end says.
    pub ends: Vec<EndAnswer>,
}

/// What one end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndAnswer {
    /// `egress of shop/client`.
    pub end: String,
    /// What it says.
    pub verdict: Verdict,
    /// Who decided; several where it depends on the port.
    pub by: Vec<String>,
}

/// Answers a question about a pod, of any node.
pub fn explain(snapshot: &Snapshot, config: &Config, question: &PodQuestion) -> Explanation {
    let key = &question.pod;
    let found = snapshot.pods.get(key);
    let mut answer = Explanation {
        pod: key.to_string(),
        node: found.and_then(|pod| pod.node.as_ref()).map(ToString::to_string).unwrap_or_default(),
        addresses: found.map(|pod| pod.addresses.to_vec()).unwrap_or_default(),
        unclear: None,
        ingress: Selection::default(),
        egress: Selection::default(),
        flows: Vec::new(),
        kernel: Vec::new(),
    };
    let Some(pod) = found else {
        answer.unclear = Some("there is no such pod that has an address and has not ended".to_owned());
        return answer;
    };
    if pod.host_network {
        answer.unclear = Some("it is in its node's network: it is the node, and no policy is about it".to_owned());
        return answer;
    }
    let mut asker = Asker { snapshot, config, books: Vec::new() };
    answer.ingress = asker.selection(key, pod, Direction::Ingress);
    answer.egress = asker.selection(key, pod, Direction::Egress);
    for (peer, inwards) in [(&question.from, true), (&question.to, false)] {
        let Some(peer) = peer else { continue };
        match asker.flows(key, pod, peer, inwards, question.port) {
            Ok(flows) => answer.flows.extend(flows),
            Err(unclear) => answer.unclear = Some(unclear),
        }
    }
    answer
}

/// Who answers for pods of several nodes: each node has a book of its own.
struct Asker<'a> {
    snapshot: &'a Snapshot,
    config: &'a Config,
    books: Vec<(NodeName, Book)>,
}

impl Asker<'_> {
    fn book(&mut self, node: &NodeName) -> &Book {
        let known = self.books.iter().position(|(name, _)| name == node);
        let index = known.unwrap_or_else(|| {
            let seen = Snapshot { node_name: node.clone(), ..self.snapshot.clone() };
            self.books.push((node.clone(), Book::build(&seen, self.config)));
            self.books.len() - 1
        });
        &self.books[index].1
    }

    fn selection(&mut self, key: &PodKey, pod: &Pod, direction: Direction) -> Selection {
        let Some(node) = &pod.node else { return Selection::default() };
        let book = self.book(node);
        let tier = |ranks: &BTreeSet<Rank>| {
            ranks.iter().map(|rank| format!("{} (priority {})", rank.name, rank.priority)).collect::<Vec<_>>()
        };
        let under = book.tiers().under(key, direction).cloned().unwrap_or_default();
        let policies = book.pods().get(key).map(|found| match direction {
            Direction::Ingress => &found.ingress,
            Direction::Egress => &found.egress,
        });
        Selection {
            admin: tier(&under.admin),
            policies: policies.into_iter().flatten().map(ToString::to_string).collect(),
            baseline: tier(&under.baseline),
        }
    }

    /// One answer for each family both ends have.
    fn flows(
        &mut self,
        key: &PodKey,
        pod: &Pod,
        peer: &Peer,
        inwards: bool,
        port: Option<(Protocol, u16)>,
    ) -> Result<Vec<FlowAnswer>, String> {
        let (others, called) = self.addresses(peer)?;
        let on_port = port.map_or(String::new(), |(protocol, port)| format!(" port {port}/{protocol}"));
        let word = if inwards { "from" } else { "to" };
        let mut answers = Vec::new();
        for own in &pod.addresses {
            let same = |other: &&IpAddr| Family::of(**other) == Family::of(*own);
            let Some(other) = others.iter().find(same) else { continue };
            let (source, destination) = if inwards { (*other, *own) } else { (*own, *other) };
            let flow = Flow { source, destination, port };
            let ends = self.ends(flow);
            let verdicts: Vec<Verdict> = ends.iter().map(|end| end.verdict).collect();
            let verdict = if verdicts.contains(&Verdict::Denied) {
                Verdict::Denied
            } else if verdicts.contains(&Verdict::Depends) {
                Verdict::Depends
            } else {
                Verdict::Allowed
            };
            let name = called.as_ref().map_or(other.to_string(), |called| format!("{called} ({other})"));
            answers.push(FlowAnswer { flow: format!("{word} {name}{on_port}"), verdict, ends });
        }
        if answers.is_empty() {
            return Err(format!("{key} and {} have no address of the same family", called.unwrap_or_default()));
        }
        Ok(answers)
    }

    /// The addresses of a peer, and what to call it beside them.
    fn addresses(&self, peer: &Peer) -> Result<(Vec<IpAddr>, Option<String>), String> {
        match peer {
            Peer::Address(address) => Ok((vec![*address], self.pod_at(*address).map(|(key, _)| key.to_string()))),
            Peer::Outside => {
                Ok((OUTSIDE.iter().filter_map(|text| text.parse().ok()).collect(), Some("outside".to_owned())))
            }
            Peer::Pod(key) => match self.snapshot.pods.get(key) {
                Some(pod) => Ok((pod.addresses.to_vec(), Some(key.to_string()))),
                None => Err(format!("there is no pod {key} that has an address and has not ended")),
            },
        }
    }

    fn pod_at(&self, address: IpAddr) -> Option<(&PodKey, &Pod)> {
        let mut pods = self.snapshot.pods.iter().filter(|(_, pod)| !pod.host_network);
        pods.find(|(_, pod)| pod.addresses.contains(&address)).map(|(key, pod)| (key, pod.as_ref()))
    }

    /// What the sender's end says, and what the receiver's does: each on the node of its pod.
    fn ends(&mut self, flow: Flow) -> Vec<EndAnswer> {
        let mut ends = Vec::new();
        for (address, other, direction) in
            [(flow.source, flow.destination, Direction::Egress), (flow.destination, flow.source, Direction::Ingress)]
        {
            let Some((key, pod)) = self.pod_at(address) else { continue };
            let (key, node) = (key.clone(), pod.node.clone());
            let end = format!("{direction} of {key}");
            let judgement = match node {
                _ if address == other => always(direction, "a pod may always reach itself"),
                Some(node) if self.is_of_node(other, &node) => {
                    always(direction, "a pod and its own node may always reach each other")
                }
                Some(node) => judge(self.book(&node), &key, direction, flow),
                None => always(direction, "it is on no node yet"),
            };
            let by = if judgement.verdict == Verdict::Depends {
                &judgement.depending[..]
            } else {
                std::slice::from_ref(&judgement.by)
            };
            let mut by: Vec<String> = by.iter().map(ToString::to_string).collect();
            by.dedup();
            if judgement.verdict == Verdict::Depends {
                by.push(format!("else {}", judgement.by));
            }
            ends.push(EndAnswer { end, verdict: judgement.verdict, by });
        }
        ends
    }

    fn is_of_node(&self, address: IpAddr, node: &NodeName) -> bool {
        self.snapshot.nodes.get(node).is_some_and(|node| node.addresses().any(|own| own == address))
    }
}

fn always(direction: Direction, why: &'static str) -> Judgement {
    Judgement { direction, verdict: Verdict::Allowed, by: Decider::Always(why), depending: Vec::new() }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        writeln!(f, "pod {}", self.pod)?;
        if !self.addresses.is_empty() {
            writeln!(f, "  {} on node {}", addresses.join(", "), self.node)?;
        }
        if let Some(unclear) = &self.unclear {
            writeln!(f, "  {unclear}")?;
        }
        if self.unclear.is_none() || !self.flows.is_empty() {
            write_selection(f, "ingress", &self.ingress)?;
            write_selection(f, "egress", &self.egress)?;
        }
        for flow in &self.flows {
            writeln!(f, "  {}: {}", flow.flow, flow.verdict)?;
            for end in &flow.ends {
                writeln!(f, "    {}: {}: {}", end.end, end.verdict, end.by.join("; "))?;
            }
        }
        self.kernel.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

fn write_selection(f: &mut fmt::Formatter<'_>, direction: &str, selection: &Selection) -> fmt::Result {
    let Selection { admin, policies, baseline } = selection;
    if admin.is_empty() && policies.is_empty() && baseline.is_empty() {
        return writeln!(f, "  {direction}: no policy: everything is allowed");
    }
    writeln!(f, "  {direction}:")?;
    for (title, listed) in [(Tier::Admin, admin), (Tier::Baseline, baseline)] {
        if title == Tier::Baseline && !policies.is_empty() {
            writeln!(f, "    networkpolicies: {}", policies.join(", "))?;
            if !listed.is_empty() {
                writeln!(f, "    tier {title}: {}, not asked", listed.join(", "))?;
            }
        } else if !listed.is_empty() {
            writeln!(f, "    tier {title}: {}", listed.join(", "))?;
        }
    }
    Ok(())
}
