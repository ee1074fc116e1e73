use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::net::{Asn, Family};
use crate::routing::bgp::types::{OwnRestart, PeerKind, PeerRestart};
use crate::testing::builders::bgp_session;

pub(super) fn settings(id: u8) -> OpenSettings {
    OpenSettings {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(10, 0, 0, id),
        hold_time: 90,
        peer_asn: None,
        families: vec![Family::V4],
        add_path_receive: vec![],
        add_path_send: vec![],
        extended_next_hop: false,
        extended_messages: false,
        graceful_restart: Some(OwnRestart { restart_time: 120, restarting: false, notification: true }),
        long_lived: 0,
        forwarding_kept: false,
    }
}

pub(super) fn session(peer: u8) -> Negotiated {
    bgp_session(Asn(64512), Ipv4Addr::new(10, 0, 0, peer), PeerKind::Internal)
}

pub(super) fn with_restart(restarting: bool, notification: bool) -> Negotiated {
    let restart = PeerRestart { restarting, notification, restart_time: 120, families: vec![(Family::V4, true)] };
    Negotiated { graceful_restart: Some(restart), ..session(2) }
}

fn notification(code: u8, subcode: u8) -> Notification {
    Notification { code, subcode, data: vec![] }
}

fn said(slot: Slot, code: u8, subcode: u8) -> Action {
    Action::Send(slot, Out::Notification(notification(code, subcode)))
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn open(slot: Slot, session: Negotiated) -> Event {
    Event::Received(slot, Incoming::Open(Ok(session)))
}

fn keepalive(slot: Slot) -> Event {
    Event::Received(slot, Incoming::Keepalive)
}

/// Feeds events at one time; answers with all actions.
fn run(fsm: &mut Fsm, now: Duration, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
    events.into_iter().flat_map(|event| fsm.step(event, now, 1.0)).collect()
}

fn fsm() -> Fsm {
    Fsm::new(FsmConfig::new(settings(1)))
}

/// Established on the active slot at time 0.
fn established(session: Negotiated) -> Fsm {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Connected, open(Slot::Active, session), keepalive(Slot::Active)]);
    assert_eq!(fsm.state(), State::Established);
    fsm
}

fn down(actions: &[Action]) -> Option<(&DownReason, bool)> {
    actions.iter().find_map(|action| match action {
        Action::Down { reason, keep_routes } => Some((reason, *keep_routes)),
        _ => None,
    })
}

#[test]
fn comes_up_over_the_connection_it_opened() {
    let mut fsm = fsm();
    assert_eq!(fsm.state(), State::Idle);
    assert_eq!(run(&mut fsm, s(0), [Event::Start]), [Action::Connect]);
    assert_eq!(fsm.state(), State::Connect);
    assert_eq!(run(&mut fsm, s(0), [Event::Connected]), [Action::Send(Slot::Active, Out::Open)]);
    assert_eq!((fsm.state(), fsm.deadline()), (State::OpenSent, Some(s(240))));
    let actions = run(&mut fsm, s(1), [open(Slot::Active, session(2))]);
    assert_eq!(actions, [Action::Send(Slot::Active, Out::Keepalive)]);
    assert_eq!((fsm.state(), fsm.deadline()), (State::OpenConfirm, Some(s(31))));
    let actions = run(&mut fsm, s(2), [keepalive(Slot::Active)]);
    assert_eq!(actions, [Action::Up { slot: Slot::Active, session: session(2) }]);
    assert_eq!(fsm.state(), State::Established);
}

#[test]
fn passive_peer_never_connects_and_accepts() {
    let mut fsm = Fsm::new(FsmConfig { passive: true, ..FsmConfig::new(settings(1)) });
    assert_eq!(run(&mut fsm, s(0), [Event::Start]), []);
    assert_eq!((fsm.state(), fsm.deadline()), (State::Active, None));
    let actions = run(&mut fsm, s(1), [Event::Accepted]);
    assert_eq!(actions, [Action::Accept, Action::Send(Slot::Passive, Out::Open)]);
}

#[test]
fn retries_at_once_then_slower_and_at_most_thirty_seconds_apart() {
    let mut fsm = fsm();
    let mut now = s(0);
    assert_eq!(run(&mut fsm, now, [Event::Start]), [Action::Connect]);
    let mut waits = vec![];
    for _ in 0..7 {
        assert_eq!(run(&mut fsm, now, [Event::ConnectFailed]), []);
        let next = fsm.deadline().unwrap();
        waits.push((next - now).as_secs());
        now = next;
        assert_eq!(run(&mut fsm, now, [Event::Tick]), [Action::Connect]);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn gives_up_an_attempt_that_takes_too_long() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start]);
    assert_eq!(run(&mut fsm, s(10), [Event::Tick]), [Action::Close(Slot::Active)]);
    assert_eq!((fsm.state(), fsm.deadline()), (State::Active, Some(s(11))));
}

#[test]
fn messages_out_of_place_are_answered_with_the_subcode_of_the_state() {
    let bad = [Incoming::Update, Incoming::Refresh];
    for message in bad.iter().cloned().chain([Incoming::Keepalive]) {
        let mut fsm = fsm();
        let actions = run(&mut fsm, s(0), [Event::Start, Event::Connected, Event::Received(Slot::Active, message)]);
        assert!(actions.contains(&said(Slot::Active, 5, 1)));
    }
    for message in bad.into_iter().chain([Incoming::Open(Ok(session(2)))]) {
        let mut fsm = fsm();
        run(&mut fsm, s(0), [Event::Start, Event::Connected, open(Slot::Active, session(2))]);
        let actions = run(&mut fsm, s(0), [Event::Received(Slot::Active, message)]);
        assert_eq!(actions, [said(Slot::Active, 5, 2), Action::Close(Slot::Active)]);
    }
    let actions = run(&mut established(session(2)), s(1), [open(Slot::Active, session(2))]);
    assert_eq!(actions[..2], [said(Slot::Active, 5, 3), Action::Close(Slot::Active)]);
}

#[test]
fn vague_error_of_the_decoder_gets_the_subcode_of_the_state() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Connected, open(Slot::Active, session(2))]);
    let actions = run(&mut fsm, s(0), [Event::BadBytes(Slot::Active, notification(5, 0))]);
    assert_eq!(actions, [said(Slot::Active, 5, 2), Action::Close(Slot::Active)]);
}

#[test]
fn collision_keeps_the_connection_of_the_higher_identifier() {
    for (peer, winner) in [(2, Slot::Passive), (0, Slot::Active)] {
        for first in Slot::BOTH {
            let mut fsm = fsm();
            run(&mut fsm, s(0), [Event::Start, Event::Accepted, Event::Connected, open(first, session(peer))]);
            run(&mut fsm, s(0), [open(first.other(), session(peer))]);
            assert_eq!(fsm.phase(winner.other()), None, "peer {peer}, first OPEN on {first:?}");
            run(&mut fsm, s(0), [keepalive(winner)]);
            assert_eq!(fsm.established(), Some(winner));
        }
    }
}

#[test]
fn session_that_comes_up_ends_what_is_still_beside_it() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Accepted, open(Slot::Passive, session(2))]);
    let actions = run(&mut fsm, s(0), [Event::Connected, keepalive(Slot::Passive)]);
    assert_eq!(actions[1..3], [said(Slot::Active, 6, 7), Action::Close(Slot::Active)]);
    assert_eq!(fsm.established(), Some(Slot::Passive));
    let mut fsm = self::fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Accepted, open(Slot::Passive, session(2))]);
    let actions = run(&mut fsm, s(0), [keepalive(Slot::Passive)]);
    assert_eq!(actions[0], Action::Close(Slot::Active), "an attempt under way ends too");
}

#[test]
fn equal_identifiers_leave_the_collision_to_the_as_numbers() {
    let equal = Negotiated { peer_asn: Asn(1), kind: PeerKind::External, ..session(1) };
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Accepted, Event::Connected, open(Slot::Passive, equal)]);
    assert_eq!((fsm.phase(Slot::Active), fsm.phase(Slot::Passive)), (Some(Phase::OpenSent), None));
}

#[test]
fn does_not_connect_into_a_handshake_the_peer_has_just_begun() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::ConnectFailed]);
    assert_eq!(fsm.deadline(), Some(s(1)));
    run(&mut fsm, s(0), [Event::Accepted]);
    assert_eq!(run(&mut fsm, s(1), [Event::Tick]), []);
    assert_eq!(run(&mut fsm, s(5), [Event::Tick]), [Action::Connect], "but one that hangs does not hold it up");
}

#[test]
fn connection_that_says_nothing_does_not_win_a_collision() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Connected]);
    let actions = run(&mut fsm, s(5), [Event::Accepted, open(Slot::Passive, session(0))]);
    assert!(actions.contains(&said(Slot::Active, 6, 7)));
    assert_eq!(fsm.phase(Slot::Passive), Some(Phase::OpenConfirm));
}

#[test]
fn established_session_is_kept_when_the_peer_connects_anew() {
    let mut fsm = established(session(2));
    assert_eq!(run(&mut fsm, s(50), [Event::Accepted]), [Action::Accept]);
    let actions = run(&mut fsm, s(50), [open(Slot::Passive, session(2))]);
    assert_eq!(actions, [said(Slot::Passive, 6, 7), Action::Close(Slot::Passive)]);
    assert_eq!(fsm.state(), State::Established);
}

#[test]
fn restarted_peer_replaces_its_session_and_keeps_its_routes() {
    for (at, restarting) in [(1, true), (11, false)] {
        let mut fsm = established(with_restart(false, false));
        run(&mut fsm, s(at), [Event::Accepted]);
        let actions = run(&mut fsm, s(at), [open(Slot::Passive, with_restart(restarting, false))]);
        assert_eq!(
            actions,
            [
                Action::Close(Slot::Active),
                Action::Down { reason: DownReason::Restarted, keep_routes: true },
                Action::Send(Slot::Passive, Out::Open),
                Action::Send(Slot::Passive, Out::Keepalive),
            ]
        );
    }
    let mut fsm = established(with_restart(false, false));
    let actions = run(&mut fsm, s(1), [Event::Accepted, open(Slot::Passive, with_restart(false, false))]);
    assert!(actions.contains(&said(Slot::Passive, 6, 7)), "a late connection of the same round is no restart");
}

#[test]
fn restarted_peer_replaces_the_session_it_opened_itself() {
    let mut fsm = fsm();
    let up = [Event::Start, Event::Accepted, open(Slot::Passive, with_restart(false, false)), keepalive(Slot::Passive)];
    run(&mut fsm, s(0), up);
    assert_eq!(run(&mut fsm, s(1), [Event::Accepted]), [Action::RefuseAccepted]);
    let actions = run(&mut fsm, s(10), [Event::Accepted]);
    assert_eq!(down(&actions), Some((&DownReason::Restarted, true)));
    assert_eq!(actions[2..], [Action::Accept, Action::Send(Slot::Passive, Out::Open)]);
}

#[test]
fn watched_connection_takes_over_when_the_session_breaks() {
    let mut fsm = established(session(2));
    run(&mut fsm, s(50), [Event::Accepted]);
    let actions = run(&mut fsm, s(51), [Event::Closed(Slot::Active)]);
    assert_eq!(actions.last(), Some(&Action::Send(Slot::Passive, Out::Open)));
    assert_eq!(fsm.state(), State::OpenSent);
}

#[test]
fn routes_are_kept_as_graceful_restart_says() {
    let closed = || Event::Closed(Slot::Active);
    let told = |code, subcode| Event::Received(Slot::Active, Incoming::Notification(notification(code, subcode)));
    let cases = [
        (session(2), closed(), false),
        (with_restart(false, false), closed(), true),
        (with_restart(false, false), told(6, 4), false),
        (with_restart(false, true), told(6, 4), true),
        (with_restart(false, true), told(6, 9), false),
        (with_restart(false, true), Event::BadBytes(Slot::Active, notification(3, 1)), true),
        (with_restart(false, false), Event::BadBytes(Slot::Active, notification(3, 1)), false),
        (with_restart(false, true), Event::BadBytes(Slot::Active, notification(6, 9)), false),
        (with_restart(false, true), Event::Stop { notification: None }, false),
        (with_restart(false, true), Event::Stop { notification: Some(notification(6, 4)) }, false),
        (with_restart(false, false), Event::BfdDown, false),
        (with_restart(false, true), Event::BfdDown, false),
        (session(2), Event::BfdDown, false),
    ];
    for (session, event, keep) in cases {
        let actions = run(&mut established(session), s(40), [event.clone()]);
        assert_eq!(down(&actions).map(|(_, keep)| keep), Some(keep), "{event:?}");
    }
}

#[test]
fn stop_tells_the_peer_and_goes_as_hard_reset_where_it_would_keep_routes() {
    let text = Notification { code: 6, subcode: 2, data: vec![2, b'b', b'y'] };
    let stop = Event::Stop { notification: Some(text.clone()) };
    let mut fsm = established(session(2));
    let actions = run(&mut fsm, s(1), [stop.clone()]);
    assert_eq!(actions[0], Action::Send(Slot::Active, Out::Notification(text)));
    assert_eq!((fsm.state(), fsm.deadline()), (State::Idle, None));
    assert_eq!(run(&mut fsm, s(2), [Event::Accepted]), [Action::RefuseAccepted]);
    let actions = run(&mut established(with_restart(false, true)), s(1), [stop]);
    let hard = Notification { code: 6, subcode: 9, data: vec![6, 2, 2, b'b', b'y'] };
    assert_eq!(actions[0], Action::Send(Slot::Active, Out::Notification(hard)));
}

#[test]
fn hold_timer_ends_the_session_and_keepalives_go_out_each_third() {
    let mut fsm = established(session(2));
    assert_eq!(fsm.deadline(), Some(s(30)));
    for at in [30, 60] {
        assert_eq!(run(&mut fsm, s(at), [Event::Tick]), [Action::Send(Slot::Active, Out::Keepalive)]);
    }
    let actions = run(&mut fsm, s(90), [Event::Tick]);
    assert_eq!(actions[..2], [said(Slot::Active, 4, 0), Action::Close(Slot::Active)]);
    assert_eq!(fsm.deadline(), Some(s(91)), "a stable session ends the back-off");
}

#[test]
fn updates_hold_the_session_and_written_bytes_postpone_keepalives() {
    let mut fsm = established(session(2));
    for at in 1..200 {
        fsm.sent(Slot::Active, s(at), 1.0);
        assert_eq!(run(&mut fsm, s(at), [Event::Received(Slot::Active, Incoming::Update), Event::Tick]), []);
    }
    assert_eq!(fsm.deadline(), Some(s(229)));
}

#[test]
fn peer_that_takes_no_bytes_is_dropped_without_a_word() {
    let mut fsm = established(with_restart(false, false));
    for at in (30..480).step_by(30) {
        run(&mut fsm, s(at), [keepalive(Slot::Active), Event::Tick]);
    }
    let actions = run(&mut fsm, s(480), [keepalive(Slot::Active), Event::Tick]);
    assert_eq!(actions[0], Action::Close(Slot::Active));
    assert_eq!(down(&actions), Some((&DownReason::SendHold, true)));
}

#[test]
fn hold_time_zero_has_no_timers_once_established() {
    let fsm = established(Negotiated { hold_time: 0, ..session(2) });
    assert_eq!(fsm.deadline(), None);
}

#[test]
fn open_that_never_comes_ends_the_connection_after_four_minutes() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start, Event::Connected]);
    assert_eq!(run(&mut fsm, s(239), [Event::Tick]), []);
    assert_eq!(run(&mut fsm, s(240), [Event::Tick]), [said(Slot::Active, 4, 0), Action::Close(Slot::Active)]);
}

#[test]
fn repeated_errors_leave_the_peer_alone_for_a_while() {
    let mut fsm = fsm();
    run(&mut fsm, s(0), [Event::Start]);
    let mut now = s(0);
    let bad = || Event::Received(Slot::Active, Incoming::Open(Err(notification(2, 2))));
    for left in (0..5).rev() {
        let actions = run(&mut fsm, now, [Event::Connected, bad()]);
        assert_eq!(actions[1..], [said(Slot::Active, 2, 2), Action::Close(Slot::Active)]);
        if left > 0 {
            now = fsm.deadline().unwrap();
            assert_eq!(run(&mut fsm, now, [Event::Tick]), [Action::Connect]);
        }
    }
    assert_eq!((fsm.state(), fsm.deadline()), (State::Idle, Some(now + s(30))));
    assert_eq!(run(&mut fsm, now, [Event::Accepted]), [Action::RefuseAccepted]);
    let mut impatient = fsm.clone();
    assert_eq!(run(&mut impatient, now, [Event::Start]), [Action::Connect]);
    assert_eq!(run(&mut fsm, now + s(30), [Event::Tick]), [Action::Connect]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let slot = || prop_oneof![Just(Slot::Active), Just(Slot::Passive)];
    let note = || (1u8..9, 0u8..11).prop_map(|(code, subcode)| notification(code, subcode));
    let session = || {
        prop_oneof![
            Just(session(0)),
            Just(session(2)),
            Just(Negotiated { hold_time: 0, ..session(2) }),
            (any::<bool>(), any::<bool>()).prop_map(|(restarting, n)| with_restart(restarting, n)),
        ]
    };
    let message = prop_oneof![
        4 => session().prop_map(|session| Incoming::Open(Ok(session))),
        1 => note().prop_map(|note| Incoming::Open(Err(note))),
        6 => Just(Incoming::Keepalive),
        1 => Just(Incoming::Update),
        1 => Just(Incoming::Refresh),
        1 => note().prop_map(Incoming::Notification),
    ];
    prop_oneof![
        3 => Just(Event::Start),
        1 => prop::option::of(note()).prop_map(|notification| Event::Stop { notification }),
        6 => Just(Event::Connected),
        2 => Just(Event::ConnectFailed),
        6 => Just(Event::Accepted),
        2 => slot().prop_map(Event::Closed),
        20 => (slot(), message).prop_map(|(slot, message)| Event::Received(slot, message)),
        1 => (slot(), note()).prop_map(|(slot, note)| Event::BadBytes(slot, note)),
        8 => Just(Event::Tick),
        1 => Just(Event::BfdDown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_events_leave_the_machine_sound(
        events in prop::collection::vec((any_event(), 0u64..20_000, 0.75f64..=1.0), 1..120),
    ) {
        let mut fsm = fsm();
        let (mut now, mut up, mut connecting) = (s(0), None, false);
        let mut sockets = [false; 2];
        for (event, wait, jitter) in events {
            now += Duration::from_millis(wait);
            let tick = event == Event::Tick;
            let accepted = event == Event::Accepted;
            match &event {
                Event::Connected if connecting => (connecting, sockets[0]) = (false, true),
                Event::ConnectFailed => connecting = false,
                Event::Closed(slot) => {
                    sockets[*slot as usize] = false;
                    connecting &= *slot != Slot::Active;
                }
                _ => {}
            }
            let mut answers = 0;
            for action in fsm.step(event, now, jitter) {
                match action {
                    Action::Connect => {
                        prop_assert!(!connecting && !sockets[0]);
                        connecting = true;
                    }
                    Action::Close(slot) => {
                        sockets[slot as usize] = false;
                        connecting &= slot != Slot::Active;
                    }
                    Action::Accept => {
                        prop_assert!(!sockets[1]);
                        sockets[1] = true;
                        answers += 1;
                    }
                    Action::RefuseAccepted => answers += 1,
                    Action::Send(slot, _) => prop_assert!(sockets[slot as usize], "sends on a closed slot"),
                    Action::Up { slot, .. } => {
                        prop_assert!(up.is_none() && sockets[slot as usize]);
                        up = Some(slot);
                    }
                    Action::Down { .. } => prop_assert!(up.take().is_some()),
                }
            }
            prop_assert_eq!(answers, usize::from(accepted));
            prop_assert_eq!(fsm.established(), up);
            prop_assert_eq!(fsm.state() == State::Established, up.is_some());
            for slot in Slot::BOTH {
                prop_assert_eq!(fsm.slot(slot).is_some(), sockets[slot as usize]);
            }
            prop_assert_eq!(fsm.connecting.is_some(), connecting);
            if tick {
                prop_assert!(fsm.deadline().is_none_or(|at| at > now), "a deadline stays behind");
            }
            if fsm.state() == State::Active {
                prop_assert!(fsm.deadline().is_some(), "nobody would ever connect");
            }
        }
    }
}
