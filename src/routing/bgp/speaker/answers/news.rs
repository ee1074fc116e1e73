//! News for whoever watches. A watcher that does not read is dropped: its channel ends, and nobody waited for it.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{peer_named, peers, routes};
use crate::net::{Family, Prefix};
use crate::routing::bgp::api::query::{Event, PathRow, Refusal, Watch};
use crate::routing::bgp::fsm;
use crate::routing::bgp::rib::Path;
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::speaker::state::State;
use crate::routing::bgp::types::{Nlri, PeerId};
use crate::routing::bgp::wire::Update;

/// Events that may wait for a watcher, besides those it begins with.
const WAITING: usize = 1024;

/// Routes in one event.
const ROUTES: usize = 256;

/// All watchers.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: Vec<Watcher>,
    /// The best routes watchers know of, while there are such watchers: what is said of one that goes.
    best: BTreeMap<Prefix, PathRow>,
}

#[derive(Debug)]
struct Watcher {
    watch: Watch,
    /// Only routes of this one.
    peer: Option<PeerId>,
    events: mpsc::Sender<Event>,
}

impl Watcher {
    /// Whether it is still there and keeps up.
    fn tell(&self, event: Event) -> bool {
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                tracing::warn!(waiting = WAITING, "a watcher of the gobgp API does not read: it is cut off");
                false
            }
        }
    }

    fn wants_routes_of(&self, peer: Option<PeerId>) -> bool {
        self.peer.is_none() || self.peer == peer
    }
}

/// Begins to watch.
pub(super) fn watch(state: &mut State, watch: Watch) -> Result<mpsc::Receiver<Event>, Refusal> {
    let peer = watch.peer.as_deref().map(|name| peer_named(state, name)).transpose()?;
    if watch.best.is_some() && state.answers.watchers.best.is_empty() {
        state.answers.watchers.best = all_best(state);
    }
    let mut first = Vec::new();
    if watch.peers {
        let there = peers::details(state, None, false).into_iter().map(|peer| Event::PeerInitial(Box::new(peer)));
        first.extend(there);
        first.push(Event::PeersComplete);
    }
    let of_peer = |id: PeerId| peer.is_none_or(|peer| peer == id);
    let mut rows: Vec<(Prefix, PathRow)> = Vec::new();
    let sources = routes::sources(state);
    if watch.best == Some(true) {
        let address = peer.and_then(|peer| state.peers.get(&peer)).map(|peer| peer.address);
        let is_meant = |row: &PathRow| address.is_none() || row.source.map(|source| source.0) == address;
        let best = state.answers.watchers.best.iter().filter(|(_, row)| is_meant(row));
        rows.extend(best.map(|(prefix, row)| (*prefix, row.clone())));
    }
    if watch.adj_in == Some(true) {
        for family in Family::ALL {
            for (prefix, paths) in state.hub.rib().iterate(family) {
                let sent = paths.iter().filter(|path| !path.peer.is_own() && of_peer(path.peer));
                rows.extend(sent.map(|path| (prefix, routes::row(state, prefix, path, true, &sources))));
            }
        }
    }
    first.extend(rows.chunks(ROUTES).map(|chunk| Event::Routes(chunk.to_vec())));
    let (events, reader) = mpsc::channel(first.len() + WAITING);
    let watcher = Watcher { watch, peer, events };
    // There is room for all of them.
    first.into_iter().for_each(|event| {
        watcher.tell(event);
    });
    state.answers.watchers.list.push(watcher);
    Ok(reader)
}

fn all_best(state: &State) -> BTreeMap<Prefix, PathRow> {
    let rib = state.hub.rib();
    let sources = routes::sources(state);
    let families = Family::ALL.into_iter().flat_map(|family| rib.unsorted(family));
    let best = families.filter_map(|(prefix, paths)| Some((prefix, paths.first().filter(|path| path.in_use())?)));
    best.map(|(prefix, path)| (prefix, routes::row(state, prefix, path, false, &sources))).collect()
}

/// Best paths of these prefixes are others, and sessions took these steps.
pub(in crate::routing::bgp::speaker) fn news(state: &mut State, best: &[Prefix], steps: &[(PeerId, fsm::State)]) {
    let mut watchers = std::mem::take(&mut state.answers.watchers);
    watchers.list.retain(|watcher| !watcher.events.is_closed());
    if watchers.list.iter().any(|watcher| watcher.watch.best.is_some()) {
        let changes = best_changes(state, &mut watchers.best, best);
        watchers.list.retain(|watcher| watcher.watch.best.is_none() || tell_routes(state, watcher, &changes));
    } else {
        watchers.best.clear();
    }
    for (id, step) in steps {
        if let Some(peer) = state.peers.get(id)
            && watchers.list.iter().any(|watcher| watcher.watch.peers)
        {
            let mut detail = peers::detail(state, *id, peer, false);
            // What it is by now comes with the steps after this one.
            detail.row.state = peers::session_state(*step);
            watchers
                .list
                .retain(|watcher| !watcher.watch.peers || watcher.tell(Event::PeerState(Box::new(detail.clone()))));
        }
    }
    state.answers.watchers = watchers;
}

/// What became of best routes that changed.
fn best_changes(state: &State, known: &mut BTreeMap<Prefix, PathRow>, changed: &[Prefix]) -> Vec<(Prefix, PathRow)> {
    let sources = routes::sources(state);
    let mut changes = Vec::new();
    for prefix in changed {
        match state.hub.rib().best(prefix) {
            Some(path) => {
                let row = routes::row(state, *prefix, path, false, &sources);
                let is_same = |known: &PathRow| known.attributes == row.attributes && known.source == row.source;
                if !known.insert(*prefix, row.clone()).is_some_and(|known| is_same(&known)) {
                    changes.push((*prefix, row));
                }
            }
            None => {
                if let Some(row) = known.remove(prefix) {
                    changes.push((*prefix, PathRow { withdrawn: true, best: false, ..row }));
                }
            }
        }
    }
    changes
}

/// Whether the watcher is still there after it was told of them.
fn tell_routes(state: &State, watcher: &Watcher, changes: &[(Prefix, PathRow)]) -> bool {
    let is_meant = |row: &PathRow| {
        let peer = row.source.and_then(|source| state.peer_of(source.0));
        watcher.wants_routes_of(peer)
    };
    let wanted: Vec<(Prefix, PathRow)> = changes.iter().filter(|(_, row)| is_meant(row)).cloned().collect();
    wanted.chunks(ROUTES).all(|chunk| watcher.tell(Event::Routes(chunk.to_vec())))
}

/// A peer sent routes; they are not in the RIB yet.
pub(in crate::routing::bgp::speaker) fn received(state: &mut State, peer: PeerId, updates: &[Update]) {
    let wanted = |watcher: &Watcher| watcher.watch.adj_in.is_some() && watcher.wants_routes_of(Some(peer));
    if !state.answers.watchers.list.iter().any(wanted) {
        return;
    }
    let mut rows = Vec::new();
    let sources = routes::sources(state);
    let source = sources.get(&peer).copied();
    let since = state.clock.since_epoch(state.clock.now());
    for update in updates {
        for nlri in &update.withdrawn {
            if let Some(path) = held(state, peer, nlri) {
                let row = routes::row(state, nlri.prefix, path, true, &sources);
                rows.push((nlri.prefix, PathRow { withdrawn: true, best: false, ..row }));
            }
        }
        for reach in &update.reach {
            let attributes = Shared::from(reach.attributes.clone());
            let row = |nlri: &Nlri| PathRow {
                attributes: attributes.clone(),
                since,
                best: false,
                withdrawn: false,
                stale: false,
                filtered: false,
                next_hop_invalid: false,
                source,
                received_id: nlri.path_id,
                local_id: 0,
                uuid: None,
            };
            rows.extend(reach.nlri.iter().map(|nlri| (nlri.prefix, row(nlri))));
        }
    }
    let tell = |watcher: &Watcher| rows.chunks(ROUTES).all(|chunk| watcher.tell(Event::Routes(chunk.to_vec())));
    state.answers.watchers.list.retain(|watcher| !wanted(watcher) || tell(watcher));
}

fn held<'a>(state: &'a State, peer: PeerId, nlri: &Nlri) -> Option<&'a Path> {
    let paths = state.hub.rib().paths(&nlri.prefix);
    paths.iter().find(|path| path.peer == peer && path.remote_id == nlri.path_id)
}
