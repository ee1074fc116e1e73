//! Tables of routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::peer_named;
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::api::query::{Destination, Lookup, PathQuery, PathRow, Refusal, Rows, Table, TableInfo};
use crate::routing::bgp::rib::{Filtered, Path};
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::speaker::state::State;
use crate::routing::bgp::types::{Nlri, PeerId, family_of};

/// Address, AS and identifier of each peer with routes.
pub(super) type Sources = BTreeMap<PeerId, (IpAddr, Asn, Ipv4Addr)>;

/// A path on its way out of the speaker: little to gather, and all that a row is made of.
struct Gathered {
    prefix: Prefix,
    attributes: Shared,
    peer: PeerId,
    since: Duration,
    remote_id: u32,
    local_id: u32,
    best: bool,
    stale: bool,
    filtered: bool,
    reachable: bool,
    uuid: Option<[u8; 16]>,
}

impl Gathered {
    fn row(self, sources: &Sources) -> PathRow {
        PathRow {
            attributes: self.attributes,
            since: self.since,
            best: self.best,
            withdrawn: false,
            stale: self.stale,
            filtered: self.filtered,
            next_hop_invalid: !self.reachable,
            source: sources.get(&self.peer).copied(),
            received_id: self.remote_id,
            local_id: self.local_id,
            uuid: self.uuid,
        }
    }
}

/// Peers by what routes are said to come from.
pub(super) fn sources(state: &State) -> Sources {
    let rib = state.hub.rib();
    let known = state.peers.keys().filter_map(|id| Some((*id, rib.peer(*id)?)));
    known.map(|(id, info)| (id, (info.address, info.asn, info.router_id))).collect()
}

/// A path of the RIB, as it is best or not; with `received` before policy.
fn gather(state: &State, prefix: Prefix, path: &Path, received: bool) -> Gathered {
    let rib = state.hub.rib();
    Gathered {
        prefix,
        attributes: if received { path.received() } else { &path.attributes }.clone(),
        peer: path.peer,
        since: state.clock.since_epoch(path.learned()),
        // What starts here has identifiers only to tell paths apart.
        remote_id: if path.peer == PeerId::LOCAL { 0 } else { path.remote_id },
        local_id: path.local_id,
        // Being best is a matter of the table of all.
        best: path.in_use() && !received,
        stale: rib.is_stale(family_of(&prefix), path),
        filtered: path.filtered.is_some(),
        reachable: path.filtered.is_some() || rib.is_reachable(path),
        uuid: state.answers.injected.id(Nlri { prefix, path_id: path.remote_id }).filter(|_| path.peer == PeerId::API),
    }
}

/// One path as a row of its own; with `received` before policy.
pub(super) fn row(state: &State, prefix: Prefix, path: &Path, received: bool, sources: &Sources) -> PathRow {
    gather(state, prefix, path, received).row(sources)
}

/// Routes of a table.
pub(super) fn paths(state: &State, query: &PathQuery) -> Result<Rows<Destination>, Refusal> {
    let gathered = match &query.table {
        Table::Global => {
            let mut all = Vec::new();
            for (prefix, paths) in looked_up(state, query) {
                let shown = paths.iter().filter(|path| path.filtered.is_none());
                all.extend(shown.map(|path| gather(state, prefix, path, false)));
            }
            all
        }
        Table::AdjIn(name) => {
            let peer = peer_named(state, name)?;
            let mut all = Vec::new();
            for (prefix, paths) in looked_up(state, query) {
                let theirs = paths.iter().filter(|path| path.peer == peer);
                let shown = theirs.filter(|path| query.filtered || path.filtered.is_none_or(is_policy));
                all.extend(shown.map(|path| gather(state, prefix, path, true)));
            }
            all
        }
        Table::AdjOut(name) => told(state, peer_named(state, name)?, query),
        Table::Local(name) => {
            let peer = peer_named(state, name)?;
            let address = state.peers.get(&peer).map(|peer| peer.address.to_string()).unwrap_or_default();
            return Err(Refusal::Invalid(format!("neighbor {address} doesn't have local rib")));
        }
    };
    Ok(rows(gathered, sources(state)))
}

fn is_policy(filtered: Filtered) -> bool {
    filtered == Filtered::Policy
}

/// Makes destinations of paths while they are read. Paths of a prefix come in their order.
fn rows(mut gathered: Vec<Gathered>, sources: Sources) -> Rows<Destination> {
    let mut sorted = false;
    let mut rest = Vec::new().into_iter().peekable();
    Rows::new(std::iter::from_fn(move || {
        if !sorted {
            sorted = true;
            let mut all = std::mem::take(&mut gathered);
            all.sort_by_key(|one| one.prefix);
            rest = all.into_iter().peekable();
        }
        let first: Gathered = rest.next()?;
        let prefix = first.prefix;
        let mut paths = vec![first.row(&sources)];
        while let Some(next) = rest.next_if(|next| next.prefix == prefix) {
            paths.push(next.row(&sources));
        }
        Some(Destination { prefix, paths })
    }))
}

/// The prefixes a question is about, with their paths, in no order.
fn looked_up<'a>(state: &'a State, query: &'a PathQuery) -> Box<dyn Iterator<Item = (Prefix, &'a [Path])> + 'a> {
    let rib = state.hub.rib();
    let of_family = |prefix: &Prefix| family_of(prefix) == query.family;
    if query.prefixes.is_empty() {
        return Box::new(rib.unsorted(query.family));
    }
    if query.prefixes.iter().any(|(_, lookup)| *lookup == Lookup::Longer) {
        let wanted = |prefix: &Prefix| query.prefixes.iter().any(|(wanted, how)| how.admits(wanted, prefix));
        return Box::new(rib.unsorted(query.family).filter(move |(prefix, _)| wanted(prefix)));
    }
    let mut found = BTreeMap::new();
    for (wanted, how) in query.prefixes.iter().filter(|(wanted, _)| of_family(wanted)) {
        let there = |prefix: Prefix| Some((prefix, rib.paths(&prefix))).filter(|(_, paths)| !paths.is_empty());
        match how {
            Lookup::Exact => found.extend(there(*wanted)),
            Lookup::LongestMatch => found.extend(around(*wanted).find_map(there)),
            _ => found.extend(around(*wanted).filter_map(there)),
        }
    }
    Box::new(found.into_iter())
}

/// A prefix and those that cover it, the longest first.
fn around(prefix: Prefix) -> impl Iterator<Item = Prefix> {
    (0..=prefix.prefix_len())
        .rev()
        .filter_map(move |length| Prefix::new(prefix.addr(), length).ok().map(|prefix| prefix.trunc()))
}

/// What a peer was told.
fn told(state: &State, peer: PeerId, query: &PathQuery) -> Vec<Gathered> {
    let held = state.hub.told(peer, query.family);
    let rib = state.hub.rib();
    let longest: Vec<Option<Prefix>> = query
        .prefixes
        .iter()
        .map(|(wanted, how)| {
            let is_told = |prefix: &Prefix| held.iter().any(|(nlri, _)| nlri.prefix == *prefix);
            (*how == Lookup::LongestMatch).then(|| around(*wanted).find(is_told)).flatten()
        })
        .collect();
    let admits = |prefix: &Prefix| {
        query.prefixes.is_empty()
            || query.prefixes.iter().zip(&longest).any(|((wanted, how), longest)| match how {
                Lookup::LongestMatch => longest.as_ref() == Some(prefix),
                _ => how.admits(wanted, prefix),
            })
    };
    let row = |(nlri, attributes): (Nlri, Shared)| {
        let paths = rib.paths(&nlri.prefix);
        let from = paths.iter().find(|path| path.local_id == nlri.path_id).or(paths.first());
        Gathered {
            prefix: nlri.prefix,
            attributes,
            peer: from.map_or(PeerId::LOCAL, |path| path.peer),
            since: state.clock.since_epoch(from.map_or_else(|| state.clock.now(), Path::learned)),
            remote_id: 0,
            // Without ADD-PATH nobody is told one.
            local_id: if nlri.path_id == 0 { from.map_or(0, |path| path.local_id) } else { nlri.path_id },
            best: false,
            stale: false,
            filtered: false,
            reachable: true,
            uuid: None,
        }
    };
    held.into_iter().filter(|(nlri, _)| admits(&nlri.prefix)).map(row).collect()
}

/// The size of a table.
pub(super) fn info(state: &State, table: &Table, family: Family) -> Result<TableInfo, Refusal> {
    let mut info = TableInfo::default();
    let rib = state.hub.rib();
    match table {
        Table::Global => {
            for (_, paths) in rib.unsorted(family) {
                let there = paths.iter().filter(|path| path.filtered.is_none()).count() as u64;
                info.destinations += u64::from(there > 0);
                info.paths += there;
            }
        }
        Table::AdjIn(name) => {
            let peer = peer_named(state, name)?;
            for (_, paths) in rib.unsorted(family) {
                let theirs = paths.iter().filter(|path| path.peer == peer);
                let (all, accepted) = theirs
                    .fold((0, 0), |(all, accepted), path| (all + 1, accepted + u64::from(path.filtered.is_none())));
                info.destinations += u64::from(all > 0);
                info.paths += all;
                info.accepted += accepted;
            }
        }
        Table::AdjOut(name) => {
            let peer = peer_named(state, name)?;
            let mut last = None;
            for (nlri, _) in state.hub.told(peer, family) {
                info.destinations += u64::from(last != Some(nlri.prefix));
                info.paths += 1;
                last = Some(nlri.prefix);
            }
        }
        Table::Local(name) => {
            return Err(Refusal::Invalid(format!("neighbor {name} doesn't have local rib")));
        }
    }
    Ok(info)
}
