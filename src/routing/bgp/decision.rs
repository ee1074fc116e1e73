//! Which of several paths to a prefix is best, and why the others are not (RFC 4271 9.1.2, RFC 4456 9, RFC 5004,
//! RFC 9494 4.3). Pure, and independent of the order in which paths came.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::types::{Attributes, PeerKind, community};
use crate::net::Asn;

/// LOCAL_PREF of a path that has none.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// What the decision needs to know of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Internal or external.
    pub kind: PeerKind,
    /// Its identifier, from its OPEN.
    pub router_id: Ipv4Addr,
    /// The address the session is with.
    pub address: IpAddr,
    /// A client of ours as route reflector (RFC 4456).
    pub client: bool,
    /// Its AS.
    pub asn: Asn,
}

/// What an administrator can choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Use all paths that are equal up to the router id, not only the best.
    pub multipath: bool,
    /// For multipath, AS paths need equal length only, not equal content.
    pub relax_as_path: bool,
    /// Compare MED also between paths from different neighbouring AS.
    pub always_compare_med: bool,
    /// Among external paths keep the one that is there already (RFC 5004). Makes results depend on history.
    pub prefer_older: bool,
}

/// One path as the decision sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its attributes after import policy.
    pub attributes: &'a Attributes,
    /// Whom it came from; `None` for a route that starts here.
    pub peer: Option<&'a PeerInfo>,
    /// The path identifier it came with.
    pub path_id: u32,
    /// When it came, since daemon start.
    pub learned: Duration,
    /// Nothing filtered it and its next hop is reachable.
    pub eligible: bool,
}

/// Why one path is preferred to another, in order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A route of our own wins.
    Local,
    /// Filtered, or next hop not reachable.
    Ineligible,
    /// Long-lived stale (RFC 9494).
    LongLivedStale,
    /// Lower LOCAL_PREF.
    LocalPref,
    /// Longer AS_PATH.
    AsPath,
    /// Worse ORIGIN.
    Origin,
    /// Higher MED.
    Med,
    /// Internal, where there is an external one.
    Internal,
    /// Newer (RFC 5004).
    Newer,
    /// Higher router id, or originator id.
    RouterId,
    /// Longer CLUSTER_LIST.
    ClusterList,
    /// Higher peer address.
    PeerAddress,
    /// Higher path identifier.
    PathId,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Local => "a local route exists",
            Reason::Ineligible => "filtered or next hop unreachable",
            Reason::LongLivedStale => "long-lived stale",
            Reason::LocalPref => "lower LOCAL_PREF",
            Reason::AsPath => "longer AS_PATH",
            Reason::Origin => "worse ORIGIN",
            Reason::Med => "higher MED",
            Reason::Internal => "internal, not external",
            Reason::Newer => "newer",
            Reason::RouterId => "higher router id",
            Reason::ClusterList => "longer CLUSTER_LIST",
            Reason::PeerAddress => "higher peer address",
            Reason::PathId => "higher path identifier",
        })
    }
}

/// `Less`: `a` is preferred; with the step that decided. Two paths that no step tells apart are `Equal`.
///
/// Over more than two paths this is no order, as MED counts only within one neighbouring AS; [`rank`] knows how.
pub fn compare(a: &Candidate<'_>, b: &Candidate<'_>, settings: &Settings) -> (Ordering, Reason) {
    let meds = if settings.always_compare_med || a.attributes.as_path.first() == b.attributes.as_path.first() {
        med(a).cmp(&med(b))
    } else {
        Ordering::Equal
    };
    decided(before_med(a, b)).or_else(|| decided([(meds, Reason::Med)])).unwrap_or_else(|| after_med(a, b, settings))
}

/// The result of ranking the paths of one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// Positions of the candidates, best first, those not eligible last.
    pub order: Vec<usize>,
    /// How many of the first are used: 0 when none is eligible, else 1, or more with multipath.
    pub leading: usize,
}

/// Ranks all paths of one prefix. The MED of a path counts as its place among the paths of the same neighbouring AS
/// that are equal so far (RFC 4271 9.1.2.2 c), so the result does not depend on the order of the candidates.
pub fn rank(candidates: &[Candidate<'_>], settings: &Settings) -> Ranking {
    let places = med_places(candidates, settings);
    let mut entries: Vec<(usize, &Candidate<'_>, usize)> =
        candidates.iter().zip(places).enumerate().map(|(at, (candidate, place))| (at, candidate, place)).collect();
    entries.sort_by(|(_, a, a_place), (_, b, b_place)| in_order(a, *a_place, b, *b_place, settings).0);
    let leading = match entries.first() {
        Some((_, best, place)) if best.eligible => entries
            .iter()
            .enumerate()
            .take_while(|(n, (_, other, other_place))| {
                *n == 0 || settings.multipath && place == other_place && equal_cost(best, other, settings)
            })
            .count(),
        _ => 0,
    };
    Ranking { order: entries.into_iter().map(|(at, _, _)| at).collect(), leading }
}

/// For each candidate why it is not the best one; `None` for the best.
pub fn explain(candidates: &[Candidate<'_>], settings: &Settings) -> Vec<Option<Reason>> {
    let places = med_places(candidates, settings);
    let best = rank(candidates, settings).order.first().copied();
    let best = best.and_then(|at| Some((at, candidates.get(at)?, places.get(at)?)));
    let Some((best_at, best, best_place)) = best else { return Vec::new() };
    let reason = |(at, (candidate, place)): (usize, (&Candidate<'_>, &usize))| {
        if !candidate.eligible {
            Some(Reason::Ineligible)
        } else if at == best_at {
            None
        } else {
            Some(in_order(best, *best_place, candidate, *place, settings).1)
        }
    };
    candidates.iter().zip(&places).enumerate().map(reason).collect()
}

/// The total order of [`rank`], with the places among equal paths of one AS in the stead of MED.
fn in_order(
    a: &Candidate<'_>,
    a_place: usize,
    b: &Candidate<'_>,
    b_place: usize,
    settings: &Settings,
) -> (Ordering, Reason) {
    decided(before_med(a, b))
        .or_else(|| decided([(a_place.cmp(&b_place), Reason::Med)]))
        .unwrap_or_else(|| after_med(a, b, settings))
}

/// The first step that tells the two apart.
fn decided(steps: impl IntoIterator<Item = (Ordering, Reason)>) -> Option<(Ordering, Reason)> {
    steps.into_iter().find(|(ordering, _)| ordering.is_ne())
}

fn before_med(a: &Candidate<'_>, b: &Candidate<'_>) -> [(Ordering, Reason); 6] {
    let (x, y) = (a.attributes, b.attributes);
    [
        (a.peer.is_some().cmp(&b.peer.is_some()), Reason::Local),
        (b.eligible.cmp(&a.eligible), Reason::Ineligible),
        (long_lived_stale(x).cmp(&long_lived_stale(y)), Reason::LongLivedStale),
        (local_pref(y).cmp(&local_pref(x)), Reason::LocalPref),
        (x.as_path.hops().cmp(&y.as_path.hops()), Reason::AsPath),
        (x.origin.cmp(&y.origin), Reason::Origin),
    ]
}

fn after_med(a: &Candidate<'_>, b: &Candidate<'_>, settings: &Settings) -> (Ordering, Reason) {
    let external = |candidate: &Candidate<'_>| candidate.peer.is_some_and(|peer| peer.kind == PeerKind::External);
    let age =
        if settings.prefer_older && external(a) && external(b) { a.learned.cmp(&b.learned) } else { Ordering::Equal };
    let clusters = |candidate: &Candidate<'_>| candidate.attributes.cluster_list.len();
    let address = |candidate: &Candidate<'_>| candidate.peer.map(|peer| peer.address);
    decided([
        (external(b).cmp(&external(a)), Reason::Internal),
        (age, Reason::Newer),
        (router_id(a).cmp(&router_id(b)), Reason::RouterId),
        (clusters(a).cmp(&clusters(b)), Reason::ClusterList),
        (address(a).cmp(&address(b)), Reason::PeerAddress),
    ])
    .unwrap_or((a.path_id.cmp(&b.path_id), Reason::PathId))
}

/// Equal up to the router id, apart from MED.
fn equal_cost(best: &Candidate<'_>, other: &Candidate<'_>, settings: &Settings) -> bool {
    let kind = |candidate: &Candidate<'_>| candidate.peer.map(|peer| peer.kind);
    decided(before_med(best, other)).is_none()
        && kind(best) == kind(other)
        && (settings.relax_as_path || best.attributes.as_path == other.attributes.as_path)
}

/// For each candidate, how many lower MEDs there are among its equals so far from the same neighbouring AS.
fn med_places(candidates: &[Candidate<'_>], settings: &Settings) -> Vec<usize> {
    let neighbour = |candidate: &Candidate<'_>| {
        if settings.always_compare_med { None } else { candidate.attributes.as_path.first() }
    };
    let mut places = vec![0; candidates.len()];
    let mut sorted: Vec<(&Candidate<'_>, &mut usize)> = candidates.iter().zip(&mut places).collect();
    let same_class = |a: &Candidate<'_>, b: &Candidate<'_>| match decided(before_med(a, b)) {
        Some((ordering, _)) => ordering,
        None => neighbour(a).cmp(&neighbour(b)),
    };
    sorted.sort_by(|(a, _), (b, _)| same_class(a, b).then_with(|| med(a).cmp(&med(b))));
    let mut previous: Option<(&Candidate<'_>, usize)> = None;
    for (candidate, place) in sorted {
        *place = match previous {
            Some((before, its)) if same_class(before, candidate).is_eq() => {
                its + usize::from(med(before) != med(candidate))
            }
            _ => 0,
        };
        previous = Some((candidate, *place));
    }
    places
}

fn med(candidate: &Candidate<'_>) -> u32 {
    candidate.attributes.med.unwrap_or(0)
}

fn local_pref(attributes: &Attributes) -> u32 {
    attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
}

fn long_lived_stale(attributes: &Attributes) -> bool {
    attributes.communities.binary_search(&community::LLGR_STALE).is_ok()
}

/// The originator's id stands for the router id of who reflected the route (RFC 4456 9).
fn router_id(candidate: &Candidate<'_>) -> Option<Ipv4Addr> {
    candidate.attributes.originator_id.or(candidate.peer.map(|peer| peer.router_id))
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
