//! Best routes of peers as the kernel is to have them, kept up prefix by prefix.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::control::{Learned, LearnedHop, LearnedRoute};
use crate::net::Prefix;
use crate::routing::bgp::rib::Rib;
use crate::routing::bgp::types::community;

/// Publishes the routes to prefixes that changed. Costs what changed, however many there are.
pub(super) fn publish(learned: &watch::Sender<Learned>, rib: &Rib, changed: &BTreeSet<Prefix>, settled: bool) {
    learned.send_if_modified(|learned| {
        let mut is_new = learned.settled != settled;
        learned.settled = settled;
        for prefix in changed {
            let route = route(rib, prefix);
            if learned.routes.get(prefix).map(|known| &**known) == route.as_ref() {
                continue;
            }
            is_new = true;
            match route {
                Some(route) => learned.routes.insert(*prefix, Arc::new(route)),
                None => learned.routes.remove(prefix),
            };
        }
        is_new
    });
}

/// The ways to a prefix; none where there is no route or it starts here.
fn route(rib: &Rib, prefix: &Prefix) -> Option<LearnedRoute> {
    let best = rib.best(prefix).filter(|best| !best.peer.is_own())?;
    let mut hops: Vec<LearnedHop> = rib
        .multipath(prefix)
        .filter_map(|path| {
            let from = rib.peer(path.peer)?;
            Some(LearnedHop { next_hop: path.attributes.next_hop, peer: from.address, kind: from.kind })
        })
        .collect();
    hops.sort_unstable();
    hops.dedup();
    let blackhole = best.attributes.communities.contains(&community::BLACKHOLE);
    (!hops.is_empty()).then_some(LearnedRoute { hops, blackhole })
}
