use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn timers(milliseconds: u32, multiplier: u8) -> Timers {
    Timers { desired_min_tx: MS * milliseconds, required_min_rx: MS * milliseconds, multiplier }
}

/// Evenly spread numbers, the same in every run of a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}

/// Two sessions with a wire between them that takes some time and loses some packets.
struct Pair {
    now: Duration,
    sides: [Session; 2],
    /// On the way: when it arrives, at which side.
    wire: Vec<(Duration, usize, Packet)>,
    delay: Duration,
    /// Packets of 100 that get lost, for each sender.
    loss: [u32; 2],
    /// Nothing a dead side would do happens.
    dead: [bool; 2],
    random: Random,
    sent: Vec<(Duration, usize, Packet)>,
    changes: Vec<(Duration, usize, Change)>,
}

impl Pair {
    fn new(left: Timers, right: Timers, seed: u64) -> Pair {
        Pair {
            now: Duration::ZERO,
            sides: [Session::new(1, left, false), Session::new(2, right, true)],
            wire: Vec::new(),
            delay: Duration::from_micros(200),
            loss: [0; 2],
            dead: [false; 2],
            random: Random(seed),
            sent: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn take(&mut self, side: usize, output: Output) {
        if let Some(packet) = output.send {
            self.sent.push((self.now, side, packet));
            if self.random.next() % 100 >= self.loss[side] {
                self.wire.push((self.now + self.delay, 1 - side, packet));
            }
        }
        self.changes.extend(output.change.map(|change| (self.now, side, change)));
    }

    /// The next thing that happens; `None` as the side of a tick.
    fn next(&self) -> Option<(Duration, usize, Option<Packet>)> {
        let packets = self.wire.iter().map(|(at, side, packet)| (*at, *side, Some(*packet)));
        let ticks = (0..2).filter_map(|side| Some((self.sides[side].deadline()?.max(self.now), side, None)));
        packets.chain(ticks).filter(|(_, side, _)| !self.dead[*side]).min_by_key(|(at, side, _)| (*at, *side))
    }

    fn run_until(&mut self, end: Duration) {
        while let Some((at, side, packet)) = self.next().filter(|(at, ..)| *at <= end) {
            self.now = at;
            let random = self.random.next();
            let output = match packet {
                Some(packet) => {
                    let place = self.wire.iter().position(|entry| *entry == (at, side, packet)).unwrap();
                    self.wire.remove(place);
                    self.sides[side].receive(&packet, at, random)
                }
                None => self.sides[side].tick(at, random),
            };
            self.take(side, output);
        }
        self.now = end;
    }

    fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }

    /// Up, with the poll sequences over.
    fn up(left: Timers, right: Timers, seed: u64) -> Pair {
        let mut pair = Pair::new(left, right, seed);
        pair.run(Duration::from_secs(5));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.sent.clear();
        pair.changes.clear();
        pair
    }

    fn gaps(&self, side: usize) -> Vec<Duration> {
        let times: Vec<_> = self.sent.iter().filter(|entry| entry.1 == side && !entry.2.last).map(|e| e.0).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn packet(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::None,
        state,
        poll: false,
        last: false,
        independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 1,
        desired_min_tx: 300_000,
        required_min_rx: 300_000,
        required_min_echo_rx: 0,
    }
}

/// A session brought to a state by the packets that lead there.
fn session_in(state: State) -> Session {
    let mut session = Session::new(1, timers(300, 3), false);
    match state {
        State::AdminDown => drop(session.admin_down(true, Duration::ZERO, 0)),
        State::Down => {}
        State::Init => drop(session.receive(&packet(State::Down), Duration::ZERO, 0)),
        State::Up => drop(session.receive(&packet(State::Init), Duration::ZERO, 0)),
    }
    assert_eq!(session.state(), state);
    session
}

#[test]
fn follows_the_state_machine_of_the_rfc() {
    use State::{AdminDown, Down, Init, Up};
    let expected = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (from, results) in expected {
        for (heard, to) in [AdminDown, Down, Init, Up].into_iter().zip(results) {
            let mut session = session_in(from);
            let output = session.receive(&packet(heard), MS, 0);
            assert_eq!(session.state(), to, "{from} hears {heard}");
            assert_eq!(output.change.is_some(), from != to, "{from} hears {heard}");
        }
    }
}

#[test]
fn both_come_up_and_agree_on_the_fast_timers_by_poll_sequences() {
    let pair = Pair::up(timers(300, 3), timers(100, 5), 1);
    let [left, right] = &pair.sides;
    assert_eq!([left, right].map(Session::transmit_interval), [Some(MS * 300), Some(MS * 300)]);
    assert_eq!([left, right].map(Session::detection_time), [MS * 1500, MS * 900]);
    assert_eq!([left, right].map(|side| side.poll), [Poll::Idle; 2]);
    assert!(left.remote().independent && !right.remote().independent);
}

#[test]
fn nothing_is_faster_than_a_packet_a_second_before_the_session_is_up() {
    let mut pair = Pair::new(timers(50, 3), timers(50, 3), 3);
    pair.dead[1] = true;
    pair.run(Duration::from_secs(60));
    assert!(pair.sent.iter().all(|(_, _, packet)| packet.desired_min_tx == 1_000_000 && !packet.poll));
    let gaps = pair.gaps(0);
    assert!(gaps.len() >= 59 && gaps.iter().all(|gap| (MS * 750..=MS * 1000).contains(gap)), "{gaps:?}");
}

#[test]
fn packets_are_jittered_by_up_to_a_quarter() {
    for (multiplier, most) in [(3, 300), (1, 270)] {
        let mut pair = Pair::up(timers(300, multiplier), timers(300, multiplier), 4);
        pair.run(Duration::from_secs(120));
        let gaps = pair.gaps(0);
        let (least, longest) = (*gaps.iter().min().unwrap(), *gaps.iter().max().unwrap());
        assert!((MS * 225..MS * 235).contains(&least), "{least:?}");
        assert!((MS * (most - 10)..=MS * most).contains(&longest), "{longest:?}");
        assert_eq!(pair.changes, [], "multiplier {multiplier} stays up on a wire without loss");
    }
}

#[test]
fn a_dead_neighbour_is_noticed_900_ms_after_its_last_packet() {
    for seed in 0..200 {
        let mut pair = Pair::up(timers(300, 3), timers(300, 3), seed);
        pair.run(MS * (seed as u32 * 7));
        pair.dead[1] = true;
        let heard = pair.sides[0].last_received.unwrap();
        // A packet that was on the wire still counts.
        let heard = pair.wire.iter().filter(|entry| entry.1 == 0).map(|entry| entry.0).fold(heard, Duration::max);
        pair.changes.clear();
        pair.run(Duration::from_secs(2));
        let [(at, 0, change)] = pair.changes[..] else { panic!("{:?}", pair.changes) };
        assert_eq!(at - heard, MS * 900);
        let expected = Change {
            from: State::Up,
            to: State::Down,
            diagnostic: Diagnostic::DetectionTimeExpired,
            administrative: false,
        };
        assert_eq!(change, expected);
        assert_eq!(pair.sides[0].remote().discriminator, 0, "a new start of it will have another");
    }
}

#[test]
fn two_lost_packets_are_borne_and_a_third_is_not() {
    for (lost, seed) in (0..5).flat_map(|lost| (0..50).map(move |seed| (lost, seed))) {
        let mut pair = Pair::up(timers(300, 3), timers(300, 3), seed);
        pair.loss = [0, 100];
        let mut heard = Duration::ZERO;
        while pair.sent.iter().filter(|entry| entry.1 == 1).count() < lost {
            heard = pair.sides[0].last_received.unwrap_or(heard);
            pair.run(MS);
        }
        pair.loss = [0; 2];
        pair.run(MS * 400);
        if lost < 3 {
            assert_eq!(pair.changes, [], "{lost} lost, seed {seed}");
        } else {
            assert_eq!((pair.changes[0].0, pair.changes[0].1), (heard + MS * 900, 0), "{lost} lost, seed {seed}");
        }
    }
}

#[test]
fn a_neighbour_that_comes_back_is_taken_up_again() {
    let mut pair = Pair::up(timers(300, 3), timers(300, 3), 7);
    pair.dead[1] = true;
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.sides[0].state(), State::Down);
    pair.sides[1] = Session::new(77, timers(300, 3), true);
    pair.wire.clear();
    pair.dead[1] = false;
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sides[0].diagnostic(), Diagnostic::None);
}

#[test]
fn a_neighbour_that_restarted_faster_than_detection_is_noticed_by_its_first_packet() {
    let mut pair = Pair::up(timers(300, 3), timers(300, 3), 8);
    pair.sides[1] = Session::new(77, timers(300, 3), true);
    pair.wire.clear();
    pair.run(MS * 10);
    let (_, side, change) = pair.changes[0];
    assert_eq!((side, change.to, change.diagnostic), (0, State::Down, Diagnostic::NeighborSignaledDown));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn a_planned_stop_is_told_at_once_and_not_taken_for_a_failure() {
    let mut pair = Pair::up(timers(300, 3), timers(300, 3), 9);
    let output = pair.sides[0].admin_down(true, pair.now, 0);
    pair.take(0, output);
    pair.run(MS);
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    let (_, side, change) = pair.changes[1];
    assert_eq!((side, change.administrative, change.diagnostic), (1, true, Diagnostic::NeighborSignaledDown));
    assert_eq!(pair.sides[1].remote().diagnostic, Diagnostic::AdministrativelyDown);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.states(), [State::AdminDown, State::Down], "it stays so");
    let output = pair.sides[0].admin_down(false, pair.now, 0);
    pair.take(0, output);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn slower_timers_are_kept_to_only_after_the_neighbour_answered() {
    let mut pair = Pair::up(timers(300, 3), timers(300, 3), 10);
    pair.sides[0].set_timers(timers(2000, 3));
    assert_eq!(pair.sides[0].transmit_interval(), Some(MS * 300), "still as the neighbour expects it");
    pair.loss = [100; 2];
    pair.run(MS * 500);
    assert_eq!(pair.sides[0].transmit_interval(), Some(MS * 300), "the poll got lost");
    pair.loss = [0; 2];
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.changes, [], "and no session goes down over it");
    assert_eq!(pair.sides[0].transmit_interval(), Some(MS * 2000));
    assert_eq!(pair.sides[1].detection_time(), MS * 6000);
}

#[test]
fn detection_counts_on_faster_packets_only_after_the_neighbour_answered() {
    let mut pair = Pair::up(timers(1000, 3), timers(300, 3), 11);
    assert_eq!(pair.sides[0].detection_time(), MS * 3000);
    pair.sides[0].set_timers(timers(300, 3));
    assert_eq!(pair.sides[0].detection_time(), MS * 3000);
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.sides[0].detection_time(), MS * 900);
    assert_eq!(pair.changes, []);
}

#[test]
fn timers_changed_during_a_poll_are_polled_again() {
    let mut session = session_in(State::Up);
    assert!(session.tick(MS * 300, 0).send.unwrap().poll);
    session.set_timers(timers(2000, 3));
    let answer = Packet { last: true, ..packet(State::Up) };
    session.receive(&answer, MS * 301, 0);
    assert_eq!(session.transmit_interval(), Some(MS * 300), "the answer was to the older timers");
    assert!(session.tick(MS * 600, 0).send.unwrap().poll);
    session.receive(&answer, MS * 601, 0);
    assert_eq!(session.transmit_interval(), Some(MS * 2000));
}

#[test]
fn a_poll_is_answered_at_once_and_not_with_another() {
    let mut session = session_in(State::Up);
    let output = session.receive(&Packet { poll: true, ..packet(State::Up) }, MS, 0);
    let answer = output.send.unwrap();
    assert!(answer.last && !answer.poll);
    let mut held = session_in(State::AdminDown);
    assert_eq!(held.receive(&Packet { poll: true, ..packet(State::Up) }, MS, 0).send, None);
}

#[test]
fn a_neighbour_that_wants_no_packets_gets_none() {
    let mut session = session_in(State::Up);
    let quiet = Packet { required_min_rx: 0, ..packet(State::Up) };
    session.receive(&quiet, MS, 0);
    assert_eq!(session.tick(MS * 800, 0).send, None);
    assert_eq!(session.deadline(), session.detection_deadline());
}

#[test]
fn a_neighbour_in_demand_mode_gets_none_but_polls() {
    let mut session = session_in(State::Up);
    let demand = Packet { demand: true, ..packet(State::Up) };
    session.receive(&demand, MS, 0);
    assert!(session.tick(MS * 400, 0).send.unwrap().poll);
    session.receive(&Packet { last: true, ..demand }, MS * 401, 0);
    assert_eq!(session.transmit_interval(), None);
}

#[test]
fn packets_of_another_session_change_nothing() {
    let mut session = session_in(State::Up);
    let before = format!("{session:?}");
    let other = Packet { your_discriminator: 2, ..packet(State::Down) };
    assert_eq!(session.receive(&other, MS, 0), Output::default());
    assert_eq!(format!("{session:?}"), before);
}

fn any_packet() -> impl Strategy<Value = Packet> {
    proptest::array::uniform24(any::<u8>()).prop_filter_map("not a packet", |mut bytes| {
        (bytes[0], bytes[3]) = (bytes[0] & 31 | 32, 24);
        bytes[1] &= 0xfa;
        let packet = Packet::decode(&bytes).ok()?;
        // Most of them for this session.
        Some(Packet { your_discriminator: packet.your_discriminator % 2, ..packet })
    })
}

proptest! {
    #[test]
    fn every_tick_moves_the_deadline_on(
        steps in proptest::collection::vec((any_packet(), any::<u32>(), any::<bool>()), 0..40),
    ) {
        let mut session = Session::new(1, timers(300, 3), false);
        let mut now = Duration::ZERO;
        for (packet, random, hold) in steps {
            if random % 7 == 0 {
                session.admin_down(hold, now, random);
            }
            session.receive(&packet, now, random);
            now = session.deadline().unwrap_or(now).max(now);
            let output = session.tick(now, random);
            prop_assert!(session.deadline().is_none_or(|deadline| deadline > now));
            prop_assert!(output.send.is_none_or(|sent| Packet::decode(&sent.encode()).is_ok_and(|read| read == sent)));
        }
    }

    #[test]
    fn sessions_come_up_over_a_lossy_wire_and_stay_up_over_a_good_one(seed: u64, left in 10..2000u32, right in 10..2000u32) {
        let mut pair = Pair::new(timers(left, 3), timers(right, 3), seed);
        pair.loss = [20; 2];
        pair.run(Duration::from_secs(60));
        pair.loss = [0; 2];
        pair.run(Duration::from_secs(30));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        pair.changes.clear();
        pair.run(Duration::from_secs(300));
        prop_assert_eq!(pair.changes, []);
    }
}
