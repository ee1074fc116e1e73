//! Two machines on a small simulated network that delays, refuses, loses, breaks and swallows.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{session, settings, with_restart};
use super::*;

/// For so long faults happen.
const FAULTS: Duration = Duration::from_secs(120);
/// Both must agree by then: a swallowed connection costs an OPEN wait of four minutes at worst.
const END: Duration = Duration::from_secs(900);

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn jitter(&mut self) -> f64 {
        0.75 + self.below(1000) as f64 / 4000.0
    }
}

/// A TCP connection. End 0 belongs to the node that opened it.
struct Tcp {
    opener: usize,
    /// Which ends still hold it.
    held: [bool; 2],
    /// Nothing gets through any more.
    swallowed: bool,
    /// Nothing arrives at an end before this: bytes stay in order.
    arrives: [Duration; 2],
}

enum Arrival {
    Connected(usize, usize),
    Refused(usize, usize),
    Accepted(usize, usize),
    Message(usize, usize, Out),
    Closed(usize, usize),
}

struct Node {
    fsm: Fsm,
    /// Connections in the slots.
    slots: [Option<usize>; 2],
    /// Number of the attempt under way.
    attempt: Option<usize>,
    up: Option<usize>,
}

struct Network {
    now: Duration,
    /// Faults happen until then.
    faults: Duration,
    /// Both sides speak graceful restart.
    restart: bool,
    last_up: Duration,
    random: Random,
    slow: u64,
    nodes: [Node; 2],
    tcp: Vec<Tcp>,
    queue: BTreeMap<(Duration, usize), Arrival>,
    count: usize,
}

impl Network {
    fn new(seed: u64, slow: u64, passive: bool) -> Network {
        let node = |id, passive| Node {
            fsm: Fsm::new(FsmConfig { passive, ..FsmConfig::new(settings(id)) }),
            slots: [None; 2],
            attempt: None,
            up: None,
        };
        Network {
            now: Duration::ZERO,
            faults: FAULTS,
            restart: false,
            last_up: Duration::ZERO,
            random: Random(seed),
            slow,
            nodes: [node(1, false), node(2, passive)],
            tcp: vec![],
            queue: BTreeMap::new(),
            count: 0,
        }
    }

    fn at(&mut self, time: Duration, arrival: Arrival) {
        self.count += 1;
        self.queue.insert((time, self.count), arrival);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(50 + self.random.below(self.slow))
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.now < self.faults && self.random.below(limit) == 0
    }

    /// Something is on its way to an end of a connection, in order.
    fn deliver(&mut self, tcp: usize, end: usize, arrival: Arrival) {
        if self.tcp[tcp].swallowed {
            return;
        }
        let time = (self.now + self.delay()).max(self.tcp[tcp].arrives[end]);
        self.tcp[tcp].arrives[end] = time;
        self.at(time, arrival);
    }

    fn end(&self, tcp: usize, node: usize) -> usize {
        usize::from(self.tcp[tcp].opener != node)
    }

    fn hang_up(&mut self, node: usize, tcp: usize) {
        let end = self.end(tcp, node);
        if std::mem::take(&mut self.tcp[tcp].held[end]) {
            self.deliver(tcp, 1 - end, Arrival::Closed(1 - node, tcp));
        }
    }

    fn connect(&mut self, node: usize) {
        let attempt = self.tcp.len();
        self.nodes[node].attempt = Some(attempt);
        self.tcp.push(Tcp { opener: node, held: [false; 2], swallowed: false, arrives: [Duration::ZERO; 2] });
        if self.one_in(4) {
            return;
        }
        if self.one_in(3) {
            let time = self.now + self.delay();
            return self.at(time, Arrival::Refused(node, attempt));
        }
        self.tcp[attempt].held = [true; 2];
        self.deliver(attempt, 1, Arrival::Accepted(1 - node, attempt));
        self.deliver(attempt, 0, Arrival::Connected(node, attempt));
    }

    fn feed(&mut self, node: usize, event: Event, waiting: Option<usize>) {
        let jitter = self.random.jitter();
        for action in self.nodes[node].fsm.step(event, self.now, jitter) {
            match action {
                Action::Connect => self.connect(node),
                Action::Close(slot) => {
                    if slot == Slot::Active {
                        self.nodes[node].attempt = None;
                    }
                    if let Some(tcp) = self.nodes[node].slots[slot as usize].take() {
                        self.hang_up(node, tcp);
                    }
                }
                Action::Accept => self.nodes[node].slots[1] = waiting,
                Action::RefuseAccepted => self.hang_up(node, waiting.unwrap()),
                Action::Send(slot, out) => {
                    let tcp = self.nodes[node].slots[slot as usize].expect("sends on an open slot");
                    let end = self.end(tcp, node);
                    self.deliver(tcp, 1 - end, Arrival::Message(1 - node, tcp, out));
                    let (now, jitter) = (self.now, self.random.jitter());
                    self.nodes[node].fsm.sent(slot, now, jitter);
                }
                Action::Up { slot, .. } => {
                    let tcp = self.nodes[node].slots[slot as usize];
                    assert!(self.nodes[node].up.is_none() && tcp.is_some());
                    self.nodes[node].up = tcp;
                    self.last_up = self.now;
                }
                Action::Down { .. } => assert!(self.nodes[node].up.take().is_some()),
            }
        }
    }

    fn slot_of(&self, node: usize, tcp: usize) -> Option<Slot> {
        Slot::BOTH.into_iter().find(|slot| self.nodes[node].slots[*slot as usize] == Some(tcp))
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Connected(node, tcp) if self.nodes[node].attempt == Some(tcp) => {
                self.nodes[node].attempt = None;
                self.nodes[node].slots[0] = Some(tcp);
                self.feed(node, Event::Connected, None);
            }
            Arrival::Connected(node, tcp) => self.hang_up(node, tcp),
            Arrival::Refused(node, tcp) => {
                if self.nodes[node].attempt == Some(tcp) {
                    self.nodes[node].attempt = None;
                    self.feed(node, Event::ConnectFailed, None);
                }
            }
            Arrival::Accepted(node, tcp) => self.feed(node, Event::Accepted, Some(tcp)),
            Arrival::Message(node, tcp, out) => {
                let Some(slot) = self.slot_of(node, tcp) else { return };
                let peer = if node == 0 { 2 } else { 1 };
                let plain = session(peer);
                let restart =
                    Negotiated { graceful_restart: with_restart(false, false).graceful_restart, ..session(peer) };
                let message = match out {
                    Out::Open => Incoming::Open(Ok(if self.restart { restart } else { plain })),
                    Out::Keepalive => Incoming::Keepalive,
                    Out::Notification(notification) => Incoming::Notification(notification),
                };
                self.feed(node, Event::Received(slot, message), None);
            }
            Arrival::Closed(node, tcp) => {
                let Some(slot) = self.slot_of(node, tcp) else { return };
                self.nodes[node].slots[slot as usize] = None;
                let end = self.end(tcp, node);
                self.tcp[tcp].held[end] = false;
                self.feed(node, Event::Closed(slot), None);
            }
        }
    }

    fn fault(&mut self) {
        if self.tcp.is_empty() || !self.one_in(12) {
            return;
        }
        let tcp = self.tcp.len() - 1 - self.random.below(self.tcp.len().min(3) as u64) as usize;
        if self.random.below(3) == 0 {
            self.tcp[tcp].swallowed = true;
            return;
        }
        let opener = self.tcp[tcp].opener;
        self.deliver(tcp, 0, Arrival::Closed(opener, tcp));
        self.deliver(tcp, 1, Arrival::Closed(1 - opener, tcp));
    }

    /// Both are up on the same connection and hold no other.
    fn one_session(&self) -> bool {
        let one = |node: &Node| node.slots.iter().flatten().count() == 1;
        self.nodes[0].up.is_some() && self.nodes[0].up == self.nodes[1].up && self.nodes.iter().all(one)
    }

    fn run(&mut self) {
        for node in [0, 1] {
            self.feed(node, Event::Start, None);
        }
        loop {
            let message = self.queue.first_key_value().map(|(key, _)| key.0);
            let timers = [0, 1].map(|node| self.nodes[node].fsm.deadline());
            let next = timers.into_iter().flatten().chain(message).min().expect("something always goes on");
            if next > END {
                return;
            }
            assert!(next >= self.now, "time runs backwards");
            self.now = next;
            if message == Some(next) {
                if let Some((_, arrival)) = self.queue.pop_first() {
                    self.arrive(arrival);
                }
            } else {
                for node in [0, 1].into_iter().filter(|node| timers[*node] == Some(next)) {
                    self.feed(node, Event::Tick, None);
                    assert!(self.nodes[node].fsm.deadline().is_none_or(|at| at > next), "a deadline stays behind");
                }
            }
            self.fault();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn two_speakers_always_end_with_one_session(
        seed in any::<u64>(),
        slow in prop_oneof![Just(100u64), Just(20_000), Just(300_000), Just(2_000_000)],
        passive in any::<bool>(),
        restart in any::<bool>(),
    ) {
        let mut network = Network::new(seed, slow, passive);
        network.restart = restart;
        network.run();
        prop_assert!(network.one_session());
    }

    #[test]
    fn two_speakers_that_connect_to_each_other_at_once_agree_soon(seed in any::<u64>()) {
        let mut network = Network::new(seed, 20_000, false);
        network.faults = Duration::ZERO;
        network.run();
        prop_assert!(network.one_session());
        prop_assert!(network.last_up < Duration::from_secs(3), "took {:?}", network.last_up);
    }
}
