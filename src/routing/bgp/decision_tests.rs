use proptest::prelude::*;

use super::super::types::{AsPath, NextHop, Origin};
use super::*;

fn peer(kind: PeerKind, last: u8) -> PeerInfo {
    PeerInfo {
        kind,
        router_id: Ipv4Addr::new(10, 0, 0, last),
        address: IpAddr::from([192, 0, 2, last]),
        client: false,
        asn: Asn(64_512 + u32::from(last)),
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
