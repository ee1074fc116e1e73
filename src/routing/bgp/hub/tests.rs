use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::net::Asn;
use crate::routing::bgp::rib::Settings;
use crate::routing::bgp::types::{AsPath, Origin, PeerKind, PeerRestart, community};
use crate::routing::bgp::wire;
use crate::testing::builders::bgp_session;

const NOW: Duration = Duration::from_secs(1);

fn hub() -> Hub {
    let router_id = Ipv4Addr::new(192, 0, 2, 1);
    let own = RibSettings { asn: Asn(64512), router_id, cluster_id: router_id, decision: Settings::default() };
    Hub::new(own, PolicySet::default())
}

fn settings(n: u8) -> PeerSettings {
    PeerSettings::new(IpAddr::from([192, 0, 2, n]), Asn(64512), Ipv4Addr::new(192, 0, 2, 1))
}

fn negotiated(n: u8) -> Negotiated {
    bgp_session(Asn(65000 + u32::from(n)), Ipv4Addr::new(192, 0, 2, n), PeerKind::External)
}

fn restarting(n: u8) -> Negotiated {
    let families = vec![(Family::V4, true)];
    let restart = PeerRestart { restart_time: 120, families, ..PeerRestart::default() };
    Negotiated { graceful_restart: Some(restart), ..negotiated(n) }
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn route(n: u8, prefixes: &[&str]) -> Update {
    let next_hop = IpAddr::from([192, 0, 2, n]).into();
    let as_path: AsPath = [Asn(65000 + u32::from(n))].into_iter().collect();
    let attributes = Attributes::new(Origin::Igp, as_path, next_hop);
    let nlri = prefixes.iter().map(|text| Nlri::new(prefix(text))).collect();
    let reach = vec![wire::Reach { attributes, nlri }];
    Update { reach, withdrawn: Vec::new(), end_of_rib: None, faults: Vec::new() }
}

/// What the peer would read of everything that waits for it.
fn heard(hub: &mut Hub, peer: PeerId, session: &Negotiated) -> Vec<Update> {
    let mut updates = Vec::new();
    while let Some((_, bytes)) = hub.take(peer, 4096) {
        let mut rest = bytes.as_slice();
        while let Some(length) = wire::frame(rest, wire::MAX).expect("whole messages") {
            let (message, tail) = rest.split_at(length);
            rest = tail;
            match wire::decode(message, Some(session)).expect("readable") {
                wire::Message::Update(update) => updates.push(update),
                other => panic!("expected an UPDATE, got {other:?}"),
            }
        }
    }
    updates
}

/// A route of the first peer travels to the second.
fn two_peers(first: Negotiated) -> Hub {
    let mut hub = hub();
    for n in [2, 3] {
        hub.add_peer(PeerId(n.into()), settings(n));
    }
    hub.up(PeerId(2), 1, first, NOW);
    hub.up(PeerId(3), 1, negotiated(3), NOW);
    hub
}

#[test]
fn a_route_goes_from_peer_to_peer_with_our_as_in_front() {
    let mut hub = two_peers(negotiated(2));
    assert_eq!(heard(&mut hub, PeerId(3), &negotiated(3)).len(), 1, "the End-of-RIB");
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
    let updates = heard(&mut hub, PeerId(3), &negotiated(3));
    let reach = &updates[0].reach[0];
    assert_eq!(reach.nlri.len(), 2);
    assert_eq!(reach.attributes.as_path.to_string(), "64512 65002");
    assert_eq!(reach.attributes.next_hop.address, IpAddr::from([192, 0, 2, 1]));
    assert_eq!(hub.take_best_changes().len(), 2);
    assert!(heard(&mut hub, PeerId(2), &negotiated(2)).iter().all(|update| update.reach.is_empty()));
}

#[test]
fn a_peer_becomes_a_client_and_stops_being_one_without_a_new_session() {
    let internal = |n| Negotiated { peer_asn: Asn(64512), kind: PeerKind::Internal, ..negotiated(n) };
    let mut hub = hub();
    for n in [2, 3] {
        hub.add_peer(PeerId(n.into()), settings(n));
        hub.up(PeerId(n.into()), 1, internal(n), NOW);
    }
    let mut update = route(2, &["10.1.0.0/24"]);
    update.reach[0].attributes.as_path = AsPath::empty();
    update.reach[0].attributes.local_pref = Some(100);
    hub.updates(PeerId(2), vec![update], NOW);
    let told = |hub: &mut Hub| heard(hub, PeerId(3), &internal(3));
    assert!(told(&mut hub).iter().all(|update| update.reach.is_empty()), "nothing passes between internal peers");
    hub.set_peer(PeerId(2), PeerSettings { client: true, ..settings(2) });
    assert!(told(&mut hub).iter().any(|update| !update.reach.is_empty()), "a client's routes do");
    hub.set_peer(PeerId(2), settings(2));
    assert!(told(&mut hub).iter().any(|update| !update.withdrawn.is_empty()), "and are taken back");
    hub.set_peer(PeerId(3), PeerSettings { client: true, ..settings(3) });
    assert!(told(&mut hub).iter().any(|update| !update.reach.is_empty()), "a client hears everybody's");
    hub.set_peer(PeerId(3), settings(3));
    assert!(told(&mut hub).iter().any(|update| !update.withdrawn.is_empty()), "until it is none");
}

#[test]
fn a_peer_that_comes_late_hears_everything_and_then_the_end() {
    let mut hub = hub();
    hub.add_peer(PeerId(3), settings(3));
    let attributes = Attributes::new(Origin::Igp, AsPath::empty(), IpAddr::from([192, 0, 2, 1]).into());
    hub.announce(vec![(prefix("10.244.1.0/24"), vec![attributes])], NOW);
    hub.up(PeerId(3), 7, negotiated(3), NOW);
    let updates = heard(&mut hub, PeerId(3), &negotiated(3));
    assert_eq!(updates[0].reach[0].nlri, [Nlri::new(prefix("10.244.1.0/24"))]);
    assert_eq!(updates[1].end_of_rib, Some(Family::V4));
}

#[test]
fn a_malformed_attribute_takes_down_its_routes_and_no_others() {
    let mut hub = two_peers(negotiated(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
    heard(&mut hub, PeerId(3), &negotiated(3));
    let attributes = [&[0x40, 1, 1, 9][..], &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea], &[0x40, 3, 4, 192, 0, 2, 2]];
    let attributes = attributes.concat();
    let mut message = vec![0xff; 16];
    message.extend([0, u8::try_from(23 + attributes.len() + 4).expect("short"), 2, 0, 0, 0]);
    message.push(u8::try_from(attributes.len()).expect("short"));
    message.extend(&attributes);
    message.extend([24, 10, 1, 0]);
    let Ok(wire::Message::Update(update)) = wire::decode(&message, Some(&negotiated(2))) else {
        panic!("the session must go on");
    };
    hub.updates(PeerId(2), vec![update], NOW);
    let updates = heard(&mut hub, PeerId(3), &negotiated(3));
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.1.0.0/24"))]);
    assert_eq!(hub.n_told(PeerId(3), Family::V4), 1);
}

#[test]
fn a_session_that_ends_takes_its_routes_along() {
    let mut hub = two_peers(negotiated(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    heard(&mut hub, PeerId(3), &negotiated(3));
    hub.down(PeerId(2), true, NOW);
    let updates = heard(&mut hub, PeerId(3), &negotiated(3));
    assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.1.0.0/24"))]);
}

#[test]
fn a_restarting_peer_keeps_its_routes_until_its_time_is_over() {
    let mut hub = two_peers(restarting(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    heard(&mut hub, PeerId(3), &negotiated(3));
    hub.down(PeerId(2), true, NOW);
    assert!(hub.take(PeerId(3), 4096).is_none());
    let until = hub.deadline().expect("a restart time");
    assert_eq!(until, NOW + Duration::from_secs(120));
    hub.expire(until);
    assert_eq!(heard(&mut hub, PeerId(3), &negotiated(3))[0].withdrawn.len(), 1);
    assert_eq!(hub.deadline(), None);
}

#[test]
fn a_restarted_peer_loses_only_what_it_no_longer_has() {
    let mut hub = two_peers(restarting(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
    heard(&mut hub, PeerId(3), &negotiated(3));
    hub.down(PeerId(2), true, NOW);
    hub.up(PeerId(2), 2, restarting(2), NOW);
    let end = Update { end_of_rib: Some(Family::V4), ..Update { reach: Vec::new(), ..route(2, &[]) } };
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"]), end], NOW);
    let updates = heard(&mut hub, PeerId(3), &negotiated(3));
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.2.0.0/24"))]);
}

#[test]
fn a_peer_that_is_back_in_time_may_take_longer_than_that_to_tell_its_routes() {
    let mut hub = two_peers(restarting(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24"])], NOW);
    heard(&mut hub, PeerId(3), &negotiated(3));
    hub.down(PeerId(2), true, NOW);
    let restart_time = hub.deadline().expect("a restart time");
    let back = restart_time - Duration::from_secs(1);
    hub.up(PeerId(2), 2, restarting(2), back);
    hub.expire(restart_time);
    assert!(hub.take(PeerId(3), 4096).is_none(), "it was back before its time was over");
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], restart_time);
    assert_eq!(hub.deadline(), Some(back + TELLING_AGAIN), "and has no time without end");
    hub.expire(back + TELLING_AGAIN);
    let updates = heard(&mut hub, PeerId(3), &negotiated(3));
    assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.2.0.0/24"))]);
    assert_eq!((updates.len(), hub.deadline()), (1, None));
}

#[test]
fn the_time_of_a_last_resort_goes_on_when_the_peer_is_back() {
    let long = |n| Negotiated { long_lived: vec![(Family::V4, true, 1000)], ..restarting(n) };
    let mut hub = two_peers(long(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    hub.down(PeerId(2), true, NOW);
    let restart_time = hub.deadline().expect("a restart time");
    hub.expire(restart_time);
    let last = restart_time + Duration::from_secs(1000);
    assert_eq!(hub.deadline(), Some(last));
    hub.up(PeerId(2), 2, long(2), last - Duration::from_secs(1));
    assert_eq!(hub.deadline(), Some(last));
    hub.expire(last);
    assert_eq!((hub.rib().stats(PeerId(2), Family::V4).received, hub.deadline()), (0, None));
}

#[test]
fn a_last_resort_outlives_a_session_that_ends_before_it_has_told_all() {
    let long = |n| Negotiated { long_lived: vec![(Family::V4, true, 1000)], ..restarting(n) };
    let mut hub = two_peers(long(2));
    let no_llgr = |mut update: Update| {
        update.reach[0].attributes.communities = [community::NO_LLGR].into();
        update
    };
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"])], NOW);
    hub.down(PeerId(2), true, NOW);
    let restart_time = hub.deadline().expect("a restart time");
    hub.expire(restart_time);
    let last = hub.deadline();
    hub.up(PeerId(2), 2, long(2), restart_time);
    hub.updates(
        PeerId(2),
        vec![route(2, &["10.1.0.0/24", "10.4.0.0/24"]), no_llgr(route(2, &["10.3.0.0/24"]))],
        restart_time,
    );
    hub.down(PeerId(2), true, restart_time + Duration::from_secs(10));
    assert_eq!(hub.deadline(), last, "its time goes on");
    let is_last = |network| {
        let paths = hub.rib().paths(&prefix(network));
        paths.iter().map(|path| path.attributes.communities.contains(&community::LLGR_STALE)).collect::<Vec<_>>()
    };
    assert_eq!(is_last("10.1.0.0/24"), [true], "told again");
    assert_eq!(is_last("10.2.0.0/24"), [true], "not told again");
    assert!(is_last("10.3.0.0/24").is_empty(), "not to be kept for long");
    assert_eq!(is_last("10.4.0.0/24"), [true], "told for the first time");
    // A session that tells all ends it.
    hub.up(PeerId(2), 3, long(2), restart_time + Duration::from_secs(20));
    let end = Update { end_of_rib: Some(Family::V4), ..Update::default() };
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"]), end], restart_time + Duration::from_secs(20));
    assert_eq!((hub.rib().stats(PeerId(2), Family::V4).received, hub.deadline()), (1, None));
}

#[test]
fn a_family_that_only_the_long_lived_capability_lists_has_no_restart_time() {
    let long = |n, kept| {
        let restart = PeerRestart { restart_time: 120, ..PeerRestart::default() };
        let long_lived = vec![(Family::V4, kept, 1000)];
        Negotiated { graceful_restart: Some(restart), long_lived, ..negotiated(n) }
    };
    for (kept, left) in [(true, 1), (false, 0)] {
        let mut hub = two_peers(long(2, true));
        hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
        heard(&mut hub, PeerId(3), &negotiated(3));
        hub.down(PeerId(2), true, NOW);
        assert_eq!(hub.rib().stats(PeerId(2), Family::V4).received, 1);
        assert_eq!(hub.deadline(), Some(NOW + Duration::from_secs(1000)), "it is the last resort at once");
        let updates = heard(&mut hub, PeerId(3), &negotiated(3));
        assert_eq!(updates[0].withdrawn, [Nlri::new(prefix("10.1.0.0/24"))], "which others do not hear of");
        hub.up(PeerId(2), 2, long(2, kept), NOW + Duration::from_secs(500));
        assert_eq!(hub.rib().stats(PeerId(2), Family::V4).received, left, "forwarding went on: {kept}");
    }
    let mut hub = two_peers(long(2, true));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    hub.down(PeerId(2), false, NOW);
    assert_eq!(hub.rib().stats(PeerId(2), Family::V4).received, 0, "an end that keeps nothing keeps nothing");
}

#[test]
fn routes_kept_for_a_restart_go_when_forwarding_is_gone_and_not_those_it_told_since() {
    let mut hub = two_peers(restarting(2));
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    hub.drop_stale(PeerId(2));
    assert_eq!(hub.rib().stats(PeerId(2), Family::V4).received, 1, "nothing was stale");
    hub.down(PeerId(2), true, NOW);
    hub.drop_stale(PeerId(2));
    assert_eq!((hub.rib().stats(PeerId(2), Family::V4).received, hub.deadline()), (0, None));
}

/// What becomes of a route that does not come again between two marks.
fn after_refresh(session: Negotiated, tells_all_first: bool, marks: &[Refresh]) -> u32 {
    let mut hub = two_peers(session);
    let end = Update { end_of_rib: Some(Family::V4), ..Update::default() };
    let first = route(2, &["10.1.0.0/24", "10.2.0.0/24"]);
    hub.updates(PeerId(2), if tells_all_first { vec![first, end] } else { vec![first] }, NOW);
    marks.iter().for_each(|mark| hub.refresh(PeerId(2), Family::V4, *mark, NOW));
    hub.rib().stats(PeerId(2), Family::V4).received
}

#[test]
fn marks_of_a_refresh_count_where_they_were_agreed_on_and_only_in_pairs() {
    let plain = Negotiated { enhanced_refresh: false, ..negotiated(2) };
    let marked = Negotiated { enhanced_refresh: true, ..negotiated(2) };
    let both = Negotiated { enhanced_refresh: true, ..restarting(2) };
    let pair = [Refresh::Begin, Refresh::End];
    assert_eq!(after_refresh(marked.clone(), false, &pair), 0, "what did not come again is gone");
    assert_eq!(after_refresh(marked, false, &[Refresh::End]), 2, "an end without a beginning");
    assert_eq!(after_refresh(plain, true, &pair), 2, "not agreed on");
    assert_eq!(after_refresh(both.clone(), true, &pair), 0);
    assert_eq!(after_refresh(both, false, &pair), 2, "a restart ends with its End-of-RIB first");
}

#[test]
fn a_question_about_a_family_that_was_not_agreed_on_has_no_answer() {
    let session = Negotiated { enhanced_refresh: true, ..negotiated(2) };
    assert_eq!(session.families, [Family::V4]);
    let mut hub = two_peers(session.clone());
    heard(&mut hub, PeerId(2), &session);
    hub.refresh(PeerId(2), Family::V6, Refresh::Ask, NOW);
    assert!(hub.take(PeerId(2), 4096).is_none(), "not even marks");
    hub.refresh(PeerId(2), Family::V4, Refresh::Ask, NOW);
    assert!(hub.take(PeerId(2), 4096).is_some());
}

#[test]
fn the_end_of_a_refresh_that_never_began_leaves_a_restart_alone() {
    let both = Negotiated { enhanced_refresh: true, ..restarting(2) };
    let mut hub = two_peers(both.clone());
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    hub.down(PeerId(2), true, NOW);
    hub.up(PeerId(2), 2, both, NOW);
    hub.refresh(PeerId(2), Family::V4, Refresh::Begin, NOW);
    hub.refresh(PeerId(2), Family::V4, Refresh::End, NOW);
    assert_eq!(hub.rib().stats(PeerId(2), Family::V4).stale, 1);
}

#[test]
fn with_add_path_a_peer_hears_of_every_path_and_of_each_that_goes() {
    let mut hub = hub();
    for n in [2, 3, 4] {
        hub.add_peer(PeerId(n.into()), settings(n));
    }
    let all = Negotiated { add_path_send: vec![Family::V4], add_path_receive: Vec::new(), ..negotiated(4) };
    let as_received = Negotiated { add_path_receive: vec![Family::V4], ..negotiated(4) };
    hub.up(PeerId(2), 1, negotiated(2), NOW);
    hub.up(PeerId(3), 1, negotiated(3), NOW);
    hub.up(PeerId(4), 1, all, NOW);
    hub.updates(PeerId(2), vec![route(2, &["10.1.0.0/24"])], NOW);
    hub.updates(PeerId(3), vec![route(3, &["10.1.0.0/24"])], NOW);
    let told = heard(&mut hub, PeerId(4), &as_received);
    let ids: BTreeSet<u32> =
        told.iter().flat_map(|update| &update.reach).flat_map(|reach| &reach.nlri).map(|nlri| nlri.path_id).collect();
    assert_eq!(ids.len(), 2, "{told:?}");
    hub.down(PeerId(2), false, NOW);
    let told = heard(&mut hub, PeerId(4), &as_received);
    assert_eq!(told.iter().map(|update| update.withdrawn.len()).sum::<usize>(), 1, "{told:?}");
}
