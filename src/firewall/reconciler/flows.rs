//! Connections that policies no longer allow: ended, because replies and what was allowed before always pass.
//!
//! A change that makes something stricter names the pods it touches. Their tracked connections are judged by the rules as
//! they are now, with the real client and the real pod, and those denied are marked ([`ENDED_MARK`]): the rules judge what the
//! client of such a connection sends anew, and drop what the server sends. What is still allowed is not disturbed. One look
//! answers all changes that came meanwhile.
//!
//! They are not deleted: connection tracking would take the server's next packet for the first of a new connection, whose
//! replies the client's packets then were. For the same reason one that its client has closed is held: what the server repeats
//! into the void comes ever more seldom, and an entry of that kind is forgotten after a minute. A change that allows one of them again takes its mark off, and it goes on.
//!
//! An entry outlives its connection, and what it stands for passes as a reply in any state: an SCTP association that is
//! closed lets an INIT with the same ports in for another ten seconds (`nf_conntrack_proto_sctp.c`). So a generation counts as
//! applied only once its look is over. A packet that the old rules have let through may get its entry after that look: the same
//! pods are looked at once more, with the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Room;
use crate::firewall::ENDED_MARK;
use crate::firewall::book::Book;
use crate::firewall::judge::{Connection, Judge};
use crate::kernel::Error;
use crate::kernel::conntrack::{Conntrack, Flow, only_one};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{RouteFilter, RouteKind, Rtnl, table};
use crate::kernel::sysctl::Sysctl;
use crate::model::Snapshot;
use crate::net::{Family, Prefix};
use crate::reconcile::Outcome;

/// The least time between two looks at all tracked connections.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// The share of time looking may take: one in this many.
const SHARE: u32 = 10;
/// The longest time between two: a change waits for its look before it counts as applied, also on a node that is so busy that a
/// look takes seconds.
const MOST_INTERVAL: Duration = Duration::from_secs(5);

/// What is still to be judged.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pods: Pods,
    /// Those of the last look: packets may have been on their way then.
    once_more: Pods,
    not_before: Duration,
    /// Connections that are marked as ended, as far as the last look found them.
    ended: Vec<Flow>,
    /// The rules have changed since those were judged.
    loosened: bool,
}

impl Cut {
    /// The rules have changed; for pods at these addresses, or for all, they may have become stricter.
    pub(super) fn note(&mut self, stricter: BTreeSet<IpAddr>, all: bool, changed: bool) {
        self.pods.addresses.extend(stricter);
        self.pods.everything |= all;
        self.loosened |= changed;
    }
}

/// Whose connections may not be allowed any longer.
#[derive(Debug, Default)]
struct Pods {
    addresses: BTreeSet<IpAddr>,
    /// All addresses for pods of this node: a former run may have ended between a change and this, or somebody else took
    /// rules away.
    everything: bool,
}

impl Pods {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && !self.everything
    }

    fn has(&self, address: IpAddr, judge: &Judge<'_>) -> bool {
        self.addresses.contains(&address) || (self.everything && judge.concerns(address))
    }

    fn has_any(&self, family: Family) -> bool {
        self.everything || self.addresses.iter().any(|address| Family::of(*address) == family)
    }
}

/// Where packets to addresses with direct server return may be tunnelled: pods by address. Connection tracking knows what the
/// client asked and what it is answered by the address asked alone; rules judge the packets in the tunnel one by one, with the pod
/// as destination.
type Tunnels = BTreeMap<IpAddr, BTreeSet<IpAddr>>;

fn tunnels(book: &Book, snapshot: Option<&Snapshot>) -> Tunnels {
    let mut tunnels = Tunnels::new();
    for (key, pods) in book.direct().services() {
        let Some(service) = snapshot.and_then(|snapshot| snapshot.services.get(key)) else { continue };
        for address in service.external_ips.iter().chain(&service.load_balancer_ips) {
            tunnels.entry(*address).or_default().extend(pods);
        }
    }
    tunnels
}

/// Whether the rules of now allow a flow. One to an address with direct server return is allowed if it is to one of the
/// pods behind it: to which one it goes, only IPVS knows.
fn allows(judge: &Judge<'_>, tunnels: &Tunnels, flow: &Flow, from_node: bool) -> bool {
    let asked = connection(flow);
    let pods = tunnels.get(&flow.destination).filter(|_| flow.reply_source == flow.destination);
    judge.allows(&asked, from_node)
        || pods.into_iter().flatten().any(|pod| judge.allows(&Connection { destination: *pod, ..asked }, from_node))
}

/// What a flow was begun with.
fn connection(flow: &Flow) -> Connection {
    Connection {
        source: flow.source,
        source_port: flow.source_port,
        destination: flow.reply_source,
        port: flow.reply_source_port,
        protocol: flow.transport.protocol(),
    }
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Lets those of the ended connections go on that the rules in force allow again. Without a look: it costs what there is
    /// of them.
    pub(super) fn let_go(&mut self, outcome: &mut Outcome) {
        if !self.in_force || !self.cut.loosened {
            return;
        }
        if self.cut.ended.is_empty() {
            self.cut.loosened = false;
            return;
        }
        let (judge, tunnels) = (Judge::new(&self.table, &self.book), tunnels(&self.book, self.last.as_ref()));
        let allowed = |flow: &Flow| allows(&judge, &tunnels, flow, false);
        let (again, ended): (Vec<Flow>, Vec<Flow>) = self.cut.ended.iter().copied().partition(allowed);
        if !again.is_empty() {
            if let Err(error) = self.kernel.conntrack.mark(&again, ENDED_MARK, 0) {
                outcome.fail("connections that policies allow again", error);
                return;
            }
            outcome.ops += again.len();
            self.cut.ended = ended;
        }
        self.cut.loosened = false;
    }

    /// Ends what the rules in force deny.
    pub(super) fn cut_flows(&mut self, now: Duration, outcome: &mut Outcome) {
        // What is not in force yet must not be judged by; the pass that brings it into force comes here again.
        if !self.in_force || (self.cut.pods.is_empty() && self.cut.once_more.is_empty()) {
            return;
        }
        if now < self.cut.not_before {
            outcome.again_in = Some(self.cut.not_before.saturating_sub(now));
            outcome.unfinished = !self.cut.pods.is_empty();
            return;
        }
        let begun = Instant::now();
        match self.cut_now() {
            Ok(cut) => {
                outcome.ops += cut;
                self.counts.cut_flows = self.counts.cut_flows.saturating_add(cut as u64);
                if cut > 0 {
                    tracing::info!(n_flows = cut, "ended connections that policies no longer allow");
                }
                self.cut.once_more = std::mem::take(&mut self.cut.pods);
            }
            Err(error) => {
                outcome.unfinished = true;
                outcome.fail("connections that policies no longer allow", error);
            }
        }
        let pause = (begun.elapsed() * SHARE).clamp(LEAST_INTERVAL, MOST_INTERVAL);
        self.cut.not_before = now + pause;
        if !self.cut.once_more.is_empty() {
            outcome.again_in = Some(pause);
        }
    }

    fn cut_now(&mut self) -> Result<usize, Error> {
        let own = self.own_addresses()?;
        let (judge, tunnels) = (Judge::new(&self.table, &self.book), tunnels(&self.book, self.last.as_ref()));
        let Cut { pods, once_more, .. } = &self.cut;
        let is_touched = |address: &IpAddr| pods.has(*address, &judge) || once_more.has(*address, &judge);
        let is_allowed =
            |flow: &Flow| allows(&judge, &tunnels, flow, own.iter().any(|prefix| prefix.contains(&flow.source)));
        let is_ended = |flow: &Flow| flow.mark & ENDED_MARK != 0;
        let mut is_wanted = |flow: &Flow| {
            let touched = || is_touched(&flow.source) || is_touched(&flow.reply_source);
            is_ended(flow) || (touched() && !is_allowed(flow))
        };
        let family = only_one(|family| pods.has_any(family) || once_more.has_any(family));
        let found = self.kernel.conntrack.list(family, &mut is_wanted)?;
        let (ended, denied): (Vec<Flow>, Vec<Flow>) = found.into_iter().partition(is_ended);
        let (again, mut ended): (Vec<Flow>, Vec<Flow>) = ended.into_iter().partition(is_allowed);
        ended.extend(&denied);
        // Those of a family that was not looked at are as they were.
        let other = |flow: &&Flow| family.is_some_and(|family| Family::of(flow.source) != family);
        ended.extend(self.cut.ended.iter().filter(other));
        for (flows, value) in [(&again, 0), (&denied, ENDED_MARK)] {
            if !flows.is_empty() {
                self.kernel.conntrack.mark(flows, ENDED_MARK, value)?;
            }
        }
        // The server of one that its client has closed may go on with it once it is forgotten.
        let fading: Vec<Flow> = ended.iter().filter(|flow| flow.half_closed).copied().collect();
        if !fading.is_empty() {
            self.kernel.conntrack.hold(&fading)?;
        }
        self.cut.ended = ended;
        Ok(denied.len())
    }

    /// What the kernel counts as local (`fib saddr type local`): addresses, and service addresses bound as routes.
    fn own_addresses(&mut self) -> Result<Vec<Prefix>, Error> {
        let filter = RouteFilter { table: Some(table::LOCAL), ..RouteFilter::default() };
        let routes = self.kernel.rtnl.routes(filter)?;
        let local = routes.into_iter().filter(|route| route.kind == RouteKind::Local);
        Ok(local.map(|route| route.destination).collect())
    }
}
