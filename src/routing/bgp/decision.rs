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
    /// Our AS towards it.
    pub local_asn: Asn,
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
    /// Filtered, or next hop not reachable.
    Ineligible,
    /// A route of our own wins.
    Local,
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
        (b.eligible.cmp(&a.eligible), Reason::Ineligible),
        (a.peer.is_some().cmp(&b.peer.is_some()), Reason::Local),
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::bgp::types::{AsPath, NextHop, Origin};

    fn peer(kind: PeerKind, last: u8) -> PeerInfo {
        PeerInfo {
            kind,
            router_id: Ipv4Addr::new(10, 0, 0, last),
            address: IpAddr::from([192, 0, 2, last]),
            client: false,
            asn: Asn(64_512 + u32::from(last)),
            local_asn: Asn(64_500),
        }
    }

    fn attributes(path: &[u32]) -> Attributes {
        let next_hop = NextHop::from(IpAddr::from([192, 0, 2, 1]));
        Attributes::new(Origin::Igp, path.iter().copied().map(Asn).collect::<AsPath>(), next_hop)
    }

    fn candidate<'a>(attributes: &'a Attributes, peer: &'a PeerInfo) -> Candidate<'a> {
        Candidate { attributes, peer: Some(peer), path_id: 0, learned: Duration::ZERO, eligible: true }
    }

    /// Asserts that the first wins over the second for this reason, whichever way they are asked.
    fn wins(a: &Candidate<'_>, b: &Candidate<'_>, settings: &Settings, reason: Reason) {
        assert_eq!(compare(a, b, settings), (Ordering::Less, reason));
        assert_eq!(compare(b, a, settings), (Ordering::Greater, reason));
        assert_eq!(explain(&[*b, *a], settings), [Some(reason), None]);
    }

    #[test]
    fn each_attribute_decides_in_its_step_even_against_all_later_ones() {
        let (first, second) = (peer(PeerKind::Internal, 9), peer(PeerKind::External, 1));
        let base = attributes(&[1, 2]);
        let worse: [(Reason, Attributes, Attributes); 5] = [
            (
                Reason::LongLivedStale,
                attributes(&[1, 2, 3]),
                Attributes { communities: [community::LLGR_STALE].into(), local_pref: Some(900), ..base.clone() },
            ),
            (Reason::LocalPref, Attributes { local_pref: Some(101), ..attributes(&[1, 2, 3]) }, base.clone()),
            (Reason::AsPath, Attributes { origin: Origin::Incomplete, ..base.clone() }, attributes(&[1, 2, 3])),
            (
                Reason::Origin,
                Attributes { med: Some(5), ..base.clone() },
                Attributes { origin: Origin::Egp, ..base.clone() },
            ),
            (Reason::Med, base.clone(), Attributes { med: Some(1), ..base.clone() }),
        ];
        for (reason, better, worse) in worse {
            wins(&candidate(&better, &first), &candidate(&worse, &second), &Settings::default(), reason);
        }
    }

    #[test]
    fn prefers_a_local_route_to_everything() {
        let (mut ours, theirs, from) = (attributes(&[]), attributes(&[]), peer(PeerKind::External, 1));
        ours.origin = Origin::Incomplete;
        let local = Candidate { peer: None, ..candidate(&ours, &from) };
        wins(&local, &candidate(&theirs, &from), &Settings::default(), Reason::Local);
    }

    #[test]
    fn explains_an_ineligible_path_as_such_even_alone() {
        let (set, from) = (attributes(&[1]), peer(PeerKind::External, 1));
        let blocked = Candidate { eligible: false, ..candidate(&set, &from) };
        assert_eq!(explain(&[blocked], &Settings::default()), [Some(Reason::Ineligible)]);
        assert_eq!(rank(&[blocked], &Settings::default()).leading, 0);
        wins(&candidate(&set, &from), &blocked, &Settings::default(), Reason::Ineligible);
        let own = Candidate { peer: None, ..blocked };
        wins(&candidate(&set, &from), &own, &Settings::default(), Reason::Ineligible);
    }

    #[test]
    fn tie_breakers_come_in_order() {
        let settings = Settings::default();
        let set = attributes(&[1]);
        let (internal, external) = (peer(PeerKind::Internal, 1), peer(PeerKind::External, 9));
        wins(&candidate(&set, &external), &candidate(&set, &internal), &settings, Reason::Internal);
        let (low, high) = (peer(PeerKind::External, 1), peer(PeerKind::External, 2));
        let clusters = Attributes { cluster_list: [Ipv4Addr::LOCALHOST].into(), ..set.clone() };
        wins(&candidate(&clusters, &low), &candidate(&set, &high), &settings, Reason::RouterId);
        let same_id = PeerInfo { router_id: low.router_id, ..high };
        wins(&candidate(&set, &same_id), &candidate(&clusters, &low), &settings, Reason::ClusterList);
        wins(&candidate(&set, &low), &candidate(&set, &same_id), &settings, Reason::PeerAddress);
        let other = Candidate { path_id: 1, ..candidate(&set, &low) };
        wins(&candidate(&set, &low), &other, &settings, Reason::PathId);
        assert_eq!(compare(&other, &other, &settings).0, Ordering::Equal);
    }

    #[test]
    fn originator_id_stands_for_router_id() {
        let (low, high) = (peer(PeerKind::Internal, 1), peer(PeerKind::Internal, 9));
        let set = attributes(&[1]);
        let reflected = Attributes { originator_id: Some(Ipv4Addr::new(9, 0, 0, 0)), ..set.clone() };
        wins(&candidate(&reflected, &high), &candidate(&set, &low), &Settings::default(), Reason::RouterId);
    }

    #[test]
    fn the_older_external_path_wins_only_where_asked_for() {
        let (low, high) = (peer(PeerKind::External, 1), peer(PeerKind::External, 2));
        let set = attributes(&[1]);
        let newer = Candidate { learned: Duration::from_secs(2), ..candidate(&set, &low) };
        let older = candidate(&set, &high);
        wins(&newer, &older, &Settings::default(), Reason::RouterId);
        let settings = Settings { prefer_older: true, ..Settings::default() };
        wins(&older, &newer, &settings, Reason::Newer);
        let (low, high) = (peer(PeerKind::Internal, 1), peer(PeerKind::Internal, 2));
        wins(
            &Candidate { peer: Some(&low), ..newer },
            &Candidate { peer: Some(&high), ..older },
            &settings,
            Reason::RouterId,
        );
    }

    #[test]
    fn med_counts_within_one_neighbouring_as_in_whatever_order() {
        // The classic: a beats b, b beats c, c beats a when compared two by two.
        let (one, two, three) = (peer(PeerKind::External, 1), peer(PeerKind::External, 2), peer(PeerKind::External, 3));
        let low_id_high_med = Attributes { med: Some(10), ..attributes(&[7]) };
        let other_as = attributes(&[8]);
        let low_med = Attributes { med: Some(5), ..attributes(&[7]) };
        let all = [candidate(&low_id_high_med, &one), candidate(&other_as, &two), candidate(&low_med, &three)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let ranking = rank(&order.map(|at| all[at]), &Settings::default());
            assert_eq!(ranking.order.iter().map(|at| order[*at]).collect::<Vec<_>>(), [1, 2, 0]);
        }
        assert_eq!(explain(&all, &Settings::default()), [Some(Reason::Med), None, Some(Reason::RouterId)]);
        let always = Settings { always_compare_med: true, ..Settings::default() };
        assert_eq!(rank(&all, &always).order, [1, 2, 0]);
        wins(&all[1], &all[0], &always, Reason::Med);
    }

    #[test]
    fn multipath_takes_what_is_equal_up_to_the_router_id() {
        let (one, two, inner) = (peer(PeerKind::External, 1), peer(PeerKind::External, 2), peer(PeerKind::Internal, 3));
        let (set, other_path) = (attributes(&[7]), attributes(&[8]));
        let worse_med = Attributes { med: Some(1), ..set.clone() };
        let many = Settings { multipath: true, ..Settings::default() };
        let relaxed = Settings { relax_as_path: true, ..many };
        let leading = |all: &[Candidate<'_>], settings: &Settings| rank(all, settings).leading;
        let equal = [candidate(&set, &two), candidate(&set, &one)];
        assert_eq!(leading(&equal, &Settings::default()), 1);
        assert_eq!(leading(&equal, &many), 2);
        let two_as = [candidate(&set, &one), candidate(&other_path, &two)];
        assert_eq!((leading(&two_as, &many), leading(&two_as, &relaxed)), (1, 2));
        assert_eq!(leading(&[candidate(&set, &one), candidate(&worse_med, &two)], &relaxed), 1);
        assert_eq!(leading(&[candidate(&set, &one), candidate(&set, &inner)], &relaxed), 1);
    }

    #[test]
    fn reasons_are_phrases() {
        assert_eq!(Reason::LocalPref.to_string(), "lower LOCAL_PREF");
    }

    proptest! {
        #[test]
        fn ranking_is_the_same_for_every_order_of_arrival(
            specs in prop::collection::vec((0..3_u32, 0..3_u32, 0..2_u32, any::<bool>(), 1..4_u8), 1..8),
            turn in 0..8_usize,
            multipath in any::<bool>(),
        ) {
            let settings = Settings { multipath, relax_as_path: true, ..Settings::default() };
            let built: Vec<(Attributes, PeerInfo)> = specs.iter().map(|(first, med, pref, external, last)| {
                let kind = if *external { PeerKind::External } else { PeerKind::Internal };
                let set = Attributes { med: Some(*med), local_pref: Some(*pref), ..attributes(&[*first]) };
                (set, peer(kind, *last))
            }).collect();
            let all: Vec<Candidate<'_>> = built.iter().enumerate().map(|(n, (set, peer))| {
                Candidate { path_id: n as u32, ..candidate(set, peer) }
            }).collect();
            let mut turned = all.clone();
            turned.rotate_left(turn % all.len());
            turned.reverse();
            let ids = |all: &[Candidate<'_>]| {
                let ranking = rank(all, &settings);
                (ranking.order.iter().map(|at| all[*at].path_id).collect::<Vec<_>>(), ranking.leading)
            };
            prop_assert_eq!(ids(&all), ids(&turned));
        }
    }
}
