//! Real servers that go take no new connections, keep the ones they have, and have an end.

use ferrovia::kernel::ipvs::{Connections, VirtualServerKey};
use ferrovia::model::Snapshot;
use ferrovia::net::Protocol;
use ferrovia::proxy::Config;
use ferrovia::reconcile::Read;
use ferrovia::testing::builders::{ClusterBuilder, cluster, ip, service};
use ferrovia::testing::node::{FakeNode, FakeRoom, pass};

use crate::convergence::{at, config, host, real};

const BOTH: [&str; 2] = ["10.244.1.5", "10.244.2.5"];
const OPEN: Connections = Connections { active: 3, inactive: 1, persistent: 0 };
const CLOSING: Connections = Connections { active: 0, inactive: 1, persistent: 0 };
const TEMPLATE: Connections = Connections { active: 0, inactive: 0, persistent: 1 };

/// A room with graceful termination, its node, and the cluster states it has seen.
struct Scene {
    node: FakeNode,
    room: FakeRoom,
    config: Config,
    generation: u64,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(Config { graceful_termination: true, ..config() })
    }

    fn with(config: Config) -> Scene {
        let node = host();
        let room = node.room(&config);
        Scene { node, room, config, generation: 0 }
    }

    /// A pass for a new state; how soon the room wants to be called again.
    fn see(&mut self, built: &ClusterBuilder, seconds: u64) -> Option<u64> {
        self.look(&built.build(), Read::Remembered, seconds)
    }

    fn look(&mut self, state: &Snapshot, read: Read, seconds: u64) -> Option<u64> {
        self.generation += 1;
        let mut state = state.clone();
        state.generation.0 = self.generation;
        let outcome = pass(&mut self.room, &state, read, seconds);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        outcome.again_in.map(|delay| delay.as_secs())
    }

    /// The daemon starts anew over what is there.
    fn restart(&mut self) {
        self.room = self.node.room(&self.config);
    }

    /// Address and weight of each real server of 10.96.0.10:80, `None` where there is no virtual server.
    fn weights(&self) -> Option<Vec<(String, u32)>> {
        let table = self.node.ipvs.open().table();
        let server = table.get(&at("10.96.0.10", Protocol::Tcp, 80))?;
        Some(server.real_servers.iter().map(|real| (real.key.address.to_string(), real.weight)).collect())
    }

    fn has(&self, expected: &[(&str, u32)]) {
        let expected: Vec<(String, u32)> =
            expected.iter().map(|(address, weight)| ((*address).to_owned(), *weight)).collect();
        assert_eq!(self.weights(), Some(expected));
    }

    fn connect(&self, address: &str, connections: Connections) {
        self.node.ipvs.open().set_connections(&at("10.96.0.10", Protocol::Tcp, 80), &real(address, 8080), connections);
    }

    fn is_bound(&self) -> bool {
        self.node.vips().0.contains(&ip("10.96.0.10"))
    }

    /// Whether the packet filter refuses what is for no virtual server on the VIP.
    fn is_guarded(&self) -> bool {
        let text = format!("{:?}", self.node.state().tables["ferrovia-proxy"].sets["vips4"]);
        text.contains("10.96.0.10")
    }
}

fn with(endpoints: &[&str]) -> ClusterBuilder {
    cluster("n1").service(service("shop/web", "10.96.0.10").port(80)).ready("shop/web", endpoints, 8080)
}

#[test]
fn a_real_server_stays_until_its_last_connection_has_ended() {
    let mut scene = Scene::new();
    assert_eq!(scene.see(&with(&BOTH), 0), None);
    for (seconds, connections) in [(1, OPEN), (2, OPEN), (3, CLOSING)] {
        scene.connect("10.244.2.5", connections);
        assert_eq!(scene.see(&with(&BOTH[..1]), seconds), Some(1), "look again in a second");
        scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 0)]);
    }
    scene.connect("10.244.2.5", TEMPLATE);
    assert_eq!(scene.see(&with(&BOTH[..1]), 4), None, "a persistence template is no connection");
    scene.has(&[("10.244.1.5", 1)]);
}

#[test]
fn a_drain_costs_one_write_and_then_only_reading() {
    let mut scene = Scene::new();
    scene.see(&with(&BOTH), 0);
    scene.connect("10.244.2.5", OPEN);
    scene.see(&with(&BOTH[..1]), 1);
    let before = scene.node.written();
    for seconds in 2..10 {
        scene.look(&with(&BOTH[..1]).build(), if seconds % 2 == 0 { Read::Kernel } else { Read::Remembered }, seconds);
    }
    assert_eq!(scene.node.written(), before);
}

#[test]
fn the_time_of_a_drain_is_the_pod_s_own() {
    // Pod, its grace period and the end of its deletion (the clock of these tests stands at 0), seconds it may take.
    for (pod, seconds) in [(None, 30), (Some((5, None)), 5), (Some((60, None)), 60), (Some((60, Some(12))), 12)] {
        let after = match pod {
            None => with(&BOTH[..1]),
            Some((grace, deletion)) => with(&BOTH[..1]).pod("shop/web-2", "10.244.2.5", grace, deletion),
        };
        let mut scene = Scene::new();
        scene.see(&with(&BOTH), 0);
        scene.connect("10.244.2.5", OPEN);
        scene.see(&after, 100);
        scene.see(&after, 100 + seconds - 1);
        scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 0)]);
        assert_eq!(scene.see(&after, 100 + seconds), None, "{pod:?}");
        scene.has(&[("10.244.1.5", 1)]);
    }
}

#[test]
fn an_endpoint_that_comes_back_gets_its_weight_back_and_a_new_time() {
    let mut scene = Scene::new();
    scene.see(&with(&BOTH), 0);
    scene.connect("10.244.2.5", OPEN);
    scene.see(&with(&BOTH[..1]), 1);
    assert_eq!(scene.see(&with(&BOTH), 20), None);
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 1)]);
    scene.see(&with(&BOTH), 500);
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 1)]);
    scene.see(&with(&BOTH[..1]), 501);
    scene.see(&with(&BOTH[..1]), 530);
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 0)]);
    scene.see(&with(&BOTH[..1]), 531);
    scene.has(&[("10.244.1.5", 1)]);
    assert_eq!(scene.node.ipvs.open().connections_cut, 0, "never deleted while it was wanted");
}

#[test]
fn a_restart_in_the_middle_of_a_drain_goes_on_with_it() {
    let mut scene = Scene::new();
    scene.see(&with(&BOTH), 0);
    scene.connect("10.244.2.5", OPEN);
    scene.see(&with(&BOTH[..1]), 1);
    scene.restart();
    let before = scene.node.written();
    assert_eq!(scene.see(&with(&BOTH[..1]), 0), Some(1));
    assert_eq!(scene.node.written(), before, "it is as it should be");
    scene.see(&with(&BOTH[..1]), 29);
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 0)]);
    scene.see(&with(&BOTH[..1]), 30);
    scene.has(&[("10.244.1.5", 1)]);

    // One that is asked for again after the restart (I12).
    scene.see(&with(&BOTH), 40);
    scene.connect("10.244.2.5", OPEN);
    scene.see(&with(&BOTH[..1]), 41);
    scene.restart();
    assert_eq!(scene.see(&with(&BOTH), 0), None);
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 1)]);
}

#[test]
fn a_deleted_service_keeps_its_address_until_its_connections_have_ended() {
    for restarts in [false, true] {
        let mut scene = Scene::new();
        scene.see(&with(&BOTH), 0);
        scene.connect("10.244.1.5", OPEN);
        scene.connect("10.244.2.5", OPEN);
        assert_eq!(scene.see(&cluster("n1"), 1), Some(1));
        if restarts {
            scene.restart();
            assert_eq!(scene.see(&cluster("n1"), 1), Some(1));
        }
        scene.has(&[("10.244.1.5", 0), ("10.244.2.5", 0)]);
        assert!(scene.is_bound() && scene.is_guarded(), "restarts: {restarts}");
        scene.connect("10.244.1.5", Connections::default());
        assert_eq!(scene.look(&cluster("n1").build(), Read::Kernel, 2), Some(1));
        scene.has(&[("10.244.2.5", 0)]);
        assert!(scene.is_bound() && scene.is_guarded(), "restarts: {restarts}");
        scene.connect("10.244.2.5", Connections::default());
        assert_eq!(scene.see(&cluster("n1"), 3), None);
        assert_eq!(scene.weights(), None);
        assert!(!scene.is_bound() && !scene.is_guarded(), "restarts: {restarts}");
    }
}

#[test]
fn a_service_that_comes_back_during_its_drain_goes_on() {
    let mut scene = Scene::new();
    scene.see(&with(&BOTH), 0);
    scene.connect("10.244.1.5", OPEN);
    scene.see(&cluster("n1"), 1);
    scene.has(&[("10.244.1.5", 0)]);
    assert_eq!(scene.see(&with(&BOTH), 2), None);
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 1)]);
    scene.look(&with(&BOTH).build(), Read::Kernel, 100);
    assert!(scene.is_bound() && scene.is_guarded());
    scene.has(&[("10.244.1.5", 1), ("10.244.2.5", 1)]);
}

#[test]
fn udp_has_nothing_to_wait_for() {
    let udp = |endpoints: &[&str]| {
        cluster("n1").service(service("shop/dns", "10.96.0.10").udp(53)).ready("shop/dns", endpoints, 53)
    };
    let mut scene = Scene::new();
    scene.see(&udp(&BOTH), 0);
    let key = at("10.96.0.10", Protocol::Udp, 53);
    scene.node.ipvs.open().set_connections(&key, &real("10.244.2.5", 53), OPEN);
    assert_eq!(scene.see(&udp(&BOTH[..1]), 1), None);
    assert_eq!(scene.node.ipvs.open().table()[&key].real_servers.len(), 1);
}

#[test]
fn without_the_flag_everything_goes_at_once() {
    let mut scene = Scene::with(config());
    scene.see(&with(&BOTH), 0);
    scene.connect("10.244.2.5", OPEN);
    assert_eq!(scene.see(&with(&BOTH[..1]), 1), None);
    scene.has(&[("10.244.1.5", 1)]);
}

#[test]
fn a_drain_survives_failures() {
    use ferrovia::testing::node::{Fault, Faults};
    for fault in [Fault::Refused, Fault::AnswerLost] {
        for n in 0.. {
            let mut scene = Scene::new();
            scene.see(&with(&BOTH), 0);
            scene.connect("10.244.2.5", OPEN);
            let gone = with(&BOTH[..1]).build();
            scene.node.faults.lock().unwrap().plan(n, fault);
            for seconds in 1..4 {
                let _ = pass(&mut scene.room, &gone, Read::Kernel, seconds);
            }
            scene.connect("10.244.2.5", Connections::default());
            for seconds in 4..6 {
                let _ = pass(&mut scene.room, &gone, Read::Kernel, seconds);
            }
            let met = scene.node.faults.lock().unwrap().met().map(str::to_owned);
            *scene.node.faults.lock().unwrap() = Faults::default();
            assert_eq!(scene.look(&gone, Read::Kernel, 6), None, "{fault:?} at {met:?}");
            scene.has(&[("10.244.1.5", 1)]);
            if met.is_none() {
                assert!(n > 10);
                break;
            }
        }
    }
}

#[test]
fn a_virtual_server_of_direct_return_drains_and_leaves_nothing() {
    for restarts in [false, true] {
        let config = Config { graceful_termination: true, runtime_endpoint: true, ..config() };
        let mut scene = Scene::with(config);
        let one = service("shop/direct", "10.96.0.20").port(80).external_ip("198.51.100.1");
        let one = one.with(|service| service.settings.dsr = true);
        scene.see(&cluster("n1").service(one).ready("shop/direct", &BOTH, 80), 0);
        let empty = cluster("n1").build();
        let untouched = {
            let mut other = Scene::with(scene.config.clone());
            other.look(&empty, Read::Kernel, 0);
            other.node.state()
        };
        let table = scene.node.ipvs.open().table();
        let is_mark = |key: &VirtualServerKey| matches!(key, VirtualServerKey::Mark { mark, .. } if *mark != 77);
        let mark = *table.keys().find(|key| is_mark(key)).unwrap();
        scene.node.ipvs.open().set_connections(&mark, &real("10.244.1.5", 80), OPEN);
        assert_eq!(scene.look(&empty, Read::Remembered, 1), Some(1));
        if restarts {
            scene.restart();
            assert_eq!(scene.look(&empty, Read::Remembered, 1), Some(1));
        }
        assert_eq!(scene.look(&empty, Read::Kernel, 2), Some(1), "restarts: {restarts}");
        assert_eq!(scene.node.ipvs.open().table()[&mark].real_servers.len(), 1, "restarts: {restarts}");
        scene.node.ipvs.open().set_connections(&mark, &real("10.244.1.5", 80), Connections::default());
        assert_eq!(scene.look(&empty, Read::Remembered, 3), None);
        let state = scene.node.state();
        assert!(state == untouched, "restarts: {restarts}\n{}", state.difference(&untouched));
    }
}
