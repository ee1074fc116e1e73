//! Best routes of peers as the kernel is to have them, kept up prefix by prefix for as long as somebody wants them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::control::{Learned, LearnedHop, LearnedRoute};
use crate::net::{Family, Prefix};
use crate::routing::bgp::rib::{Path, Rib};
use crate::routing::bgp::types::{NextHop, PeerId, community};

/// The sending end.
pub(super) struct Publisher {
    sender: Arc<watch::Sender<Learned>>,
    /// What was sent is kept up, because somebody receives it.
    follows: bool,
}

impl Publisher {
    pub(super) fn new(sender: Arc<watch::Sender<Learned>>) -> Publisher {
        Publisher { sender, follows: false }
    }

    /// Publishes the routes to prefixes that changed. Costs what changed, however many there are; nothing where nobody
    /// listens, and one pass over all of them when somebody begins to.
    pub(super) fn publish(&mut self, rib: &Rib, changed: &[Prefix], settled: bool) {
        let wanted = self.sender.receiver_count() > 0;
        match (self.follows, wanted) {
            (false, false) => {}
            (true, true) => self.update(rib, changed.iter(), settled),
            (false, true) => {
                let all: Vec<Prefix> =
                    Family::ALL.iter().flat_map(|family| rib.iterate(*family)).map(|(prefix, _)| prefix).collect();
                self.update(rib, all.iter(), settled);
            }
            (true, false) => {
                self.sender.send_replace(Learned::default());
            }
        }
        self.follows = wanted;
    }

    fn update<'a>(&self, rib: &Rib, changed: impl Iterator<Item = &'a Prefix>, settled: bool) {
        let mut routes = Routes { rib, single: BTreeMap::new() };
        self.sender.send_if_modified(|learned| {
            let mut is_new = learned.settled != settled;
            learned.settled = settled;
            for prefix in changed {
                let route = routes.to(prefix);
                if learned.routes.get(prefix) == route.as_ref() {
                    continue;
                }
                is_new = true;
                match route {
                    Some(route) => learned.routes.insert(*prefix, route),
                    None => learned.routes.remove(prefix),
                };
            }
            is_new
        });
    }
}

/// What communities say of a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Marks {
    blackhole: bool,
    leaving: bool,
}

/// Routes as they are asked for. Nearly all lead one of few ways, and share what says so.
struct Routes<'a> {
    rib: &'a Rib,
    single: BTreeMap<(PeerId, NextHop, Marks), Option<Arc<LearnedRoute>>>,
}

impl Routes<'_> {
    /// The ways to a prefix; none where there is no route or it starts here.
    fn to(&mut self, prefix: &Prefix) -> Option<Arc<LearnedRoute>> {
        let best = self.rib.best(prefix).filter(|best| !best.peer.is_own())?;
        let has = |value| best.attributes.communities.contains(&value);
        let marks = Marks {
            blackhole: has(community::BLACKHOLE),
            leaving: has(community::GRACEFUL_SHUTDOWN) && best.attributes.local_pref == Some(0),
        };
        let rib = self.rib;
        if rib.multipath(prefix).nth(1).is_some() {
            return route(rib, rib.multipath(prefix), marks);
        }
        let key = (best.peer, best.attributes.next_hop, marks);
        self.single.entry(key).or_insert_with(|| route(rib, std::iter::once(best), marks)).clone()
    }
}

fn route<'a>(rib: &Rib, paths: impl Iterator<Item = &'a Path>, marks: Marks) -> Option<Arc<LearnedRoute>> {
    let mut hops: Vec<LearnedHop> = paths
        .filter_map(|path| {
            let from = rib.peer(path.peer)?;
            Some(LearnedHop { next_hop: path.attributes.next_hop, peer: from.address, kind: from.kind })
        })
        .collect();
    hops.sort_unstable();
    hops.dedup();
    (!hops.is_empty()).then(|| Arc::new(LearnedRoute { hops, blackhole: marks.blackhole, leaving: marks.leaving }))
}
