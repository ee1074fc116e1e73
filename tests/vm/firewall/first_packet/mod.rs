//! Pods that send with their first instruction, and are sent to just then: nothing gets past a deny, though the daemon has yet
//! to hear of them, and though their addresses were those of pods that had no deny.
//!
//! They come in batches, each into the network namespaces and addresses of the last. A batch is wired and sends at once, and
//! only then its Pod objects appear; it dies, and its objects go or say so, before the next one comes. What sends goes on until
//! the daemon is done, from the same ports every time: what connection tracking remembers of one pod fits the next.

#![allow(clippy::disallowed_methods, reason = "how long real daemons and packets take is measured in plain time")]

mod party;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{Daemon, DaemonOptions, Lab, Namespace, Options, Pod, report, topology, wait};
use serde_json::{Value, json};

use self::party::{Arrival, Attempt, Party, Way};
use super::super::with_lab;
use super::{Backend, generation, policy};

/// Pods that live at once: addresses, network namespaces.
const PLACES: u16 = 20;
/// How long the daemon may take to know of a change, which takes an emulated guest a second or two.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two rounds of packets while the daemon works: an emulated guest has one processor for both.
const PAUSE: Duration = Duration::from_millis(300);
/// Leaks that are printed.
const ROWS: usize = 20;
/// How often others take their places, without and with `--netpol-default-deny`.
const BATCHES: u16 = 5;

/// What policies let a pod do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    sends: bool,
    receives: bool,
}

const KINDS: [Kind; 4] = [
    Kind { sends: true, receives: true },
    Kind { sends: false, receives: true },
    Kind { sends: true, receives: false },
    Kind { sends: false, receives: false },
];

/// The kind of a birth: of two neighbours, one place sees kinds in this order, the other in the opposite one.
fn kind(birth: u16) -> Kind {
    let (batch, place) = (birth / PLACES, birth % PLACES);
    let turn = if place.is_multiple_of(2) { batch } else { batch * 3 };
    KINDS[usize::from((place / 2 + turn) % 4)]
}

/// Egress for whoever must not send, ingress for whoever must not receive.
fn policies() -> [Value; 2] {
    [("sends", "Egress"), ("receives", "Ingress")].map(|(label, direction)| {
        policy(label, json!({"podSelector": {"matchLabels": {label: "no"}}, "policyTypes": [direction]}))
    })
}

fn object(name: &str, node: u16, addresses: [IpAddr; 2], kind: Kind, phase: &str) -> Value {
    let word = |may: bool| if may { "yes" } else { "no" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"sends": word(kind.sends), "receives": word(kind.receives)},
        },
        "spec": {"nodeName": format!("n{node}"), "containers": [{"name": "main", "image": "main"}]},
        "status": {"phase": phase, "podIP": addresses[0], "podIPs": addresses.map(|ip| json!({"ip": ip}))},
    })
}

/// Where pods live and die.
struct Place {
    number: u16,
    ns: Namespace,
    addresses: [IpAddr; 2],
}

/// A pod that lives.
struct Newborn {
    birth: u16,
    party: Party,
    /// Connections in both directions.
    attempts: Vec<Attempt>,
    /// The ways that packets have come, to it and from it.
    arrived: BTreeSet<Way>,
}

impl Newborn {
    fn kind(&self) -> Kind {
        kind(self.birth)
    }

    /// Whether packets may come this way.
    fn may(&self, way: &Way) -> bool {
        if self.party.addresses.contains(&way.0) { self.kind().sends } else { self.kind().receives }
    }

    /// Whether it still tries: until something arrives.
    fn tries(&self, way: &Way) -> bool {
        !self.arrived.contains(way)
    }

    /// The ways between it and a peer.
    fn ways(&self, peer: &Party) -> impl Iterator<Item = Way> {
        let pairs = self.party.addresses.into_iter().zip(peer.addresses);
        pairs.flat_map(|(own, peer)| {
            [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .flat_map(move |protocol| [(own, peer, protocol), (peer, own, protocol)])
        })
    }

    /// What may arrive and has not.
    fn missing(&self, peers: &[Party]) -> usize {
        peers.iter().flat_map(|peer| self.ways(peer)).filter(|way| self.may(way) && !self.arrived.contains(way)).count()
    }

    /// It sends to everybody, and everybody to it.
    fn knock(&self, peers: &[Party]) -> usize {
        let attempts = self.attempts.iter().filter(|attempt| self.tries(&attempt.way));
        let mut n = attempts.map(Attempt::begin).count();
        for peer in peers {
            for way in self.ways(peer).filter(|way| way.2 == Protocol::Udp && self.tries(way)) {
                let from = if self.party.addresses.contains(&way.0) { &self.party } else { peer };
                from.send(way.1, self.birth);
                n += 1;
            }
        }
        n
    }
}

/// What all of it came to.
#[derive(Debug, Default)]
struct Tally {
    births: usize,
    sent: usize,
    /// Ways that are open and ways that are not, of all pods.
    open: usize,
    closed: usize,
    /// What arrived that must not.
    leaks: Vec<String>,
}

/// The lab, and who is in it.
struct Nursery<'a> {
    lab: &'a Lab,
    places: Vec<Place>,
    /// Pods that nothing is denied to: one beside the new ones, one on another node.
    peers: Vec<Party>,
    peer_pods: [&'a Pod; 2],
    /// Connections of the dead, as peers still have them.
    haunted: Vec<OwnedFd>,
    /// Objects of the dead.
    dead: Vec<Value>,
    tally: Tally,
}

impl Tally {
    fn no_leaks(&self) -> Result<()> {
        let some: Vec<&str> = self.leaks.iter().take(ROWS).map(String::as_str).collect();
        ensure!(some.is_empty(), "{} times something arrived that must not:\n{}", self.leaks.len(), some.join("\n"));
        Ok(())
    }
}

impl<'a> Nursery<'a> {
    fn new(lab: &'a Lab, names: &[String]) -> Result<Nursery<'a>> {
        let peer_pods = [lab.pod("p11")?, lab.pod("p21")?];
        let peers = peer_pods.map(|pod| {
            let addresses = Family::ALL.map(|family| pod.address(family));
            pod.ns.run(|| Party::open(addresses))
        });
        let places = (0..).zip(Namespace::create(names)?).map(|(number, ns)| {
            let addresses = Family::ALL.map(|family| topology::pod_address(family, 1, 20 + number));
            Place { number, ns, addresses }
        });
        Ok(Nursery {
            lab,
            places: places.collect(),
            peers: peers.into_iter().collect::<Result<_>>()?,
            peer_pods,
            haunted: Vec::new(),
            dead: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// Writes all objects, as one change. Those of the dead are of use once.
    fn write(&mut self, living: &[Newborn], with_policies: bool) -> Result<()> {
        let mut objects = std::mem::take(&mut self.dead);
        for pod in self.peer_pods {
            let addresses = Family::ALL.map(|family| pod.address(family));
            objects.push(object(&pod.name, pod.node, addresses, KINDS[0], "Running"));
        }
        for newborn in living {
            let name = format!("new{}", newborn.birth);
            objects.push(object(&name, 1, newborn.party.addresses, newborn.kind(), "Running"));
        }
        objects.extend(with_policies.then(policies).into_iter().flatten());
        self.lab.manifests().write("pods", &objects)
    }

    /// Pods come to life in all places: they have an address, they send.
    fn bear(&mut self, batch: u16) -> Result<Vec<Newborn>> {
        let mut wires = String::new();
        for Place { number, ns, .. } in &self.places {
            // The same address has the same hardware address, as of some CNI plugins: everybody's neighbour entries hold.
            let hardware = format!("0a:58:0a:f4:01:{number:02x}");
            wires.push_str(&format!(
                "link add f{number} type veth peer name eth0 address {hardware} netns {}\n",
                ns.name()
            ));
            wires.push_str(&format!("link set f{number} master {} up\n", topology::POD_BRIDGE));
        }
        self.lab.node(1)?.ns.ip(&wires)?;
        let mut attempts: Vec<Vec<Attempt>> = self.places.iter().map(|_| Vec::new()).collect();
        for (pod, peer) in self.peer_pods.iter().zip(&self.peers) {
            pod.ns.run(|| {
                for (attempts, place) in attempts.iter_mut().zip(&self.places) {
                    for (from, to) in peer.addresses.into_iter().zip(place.addresses) {
                        attempts.push(Attempt::new(from, to)?);
                    }
                }
                Ok(())
            })?;
        }
        let mut living = Vec::new();
        for (place, mut attempts) in self.places.iter().zip(attempts) {
            let [v4, v6] = place.addresses;
            let [via4, via6] = Family::ALL.map(|family| topology::bridge_address(family, 1));
            place.ns.ip(&format!(
                "link set lo up\nlink set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
                 route add default via {via4}\nroute add default via {via6}\n"
            ))?;
            let newborn = place.ns.run(|| {
                for peer in &self.peers {
                    for (from, to) in place.addresses.into_iter().zip(peer.addresses) {
                        let attempt = Attempt::new(from, to)?;
                        attempt.begin();
                        attempts.push(attempt);
                    }
                }
                let birth = batch * PLACES + place.number;
                let party = Party::open(place.addresses)?;
                Ok(Newborn { birth, party, attempts, arrived: BTreeSet::new() })
            })?;
            self.tally.sent += newborn.knock(&self.peers);
            living.push(newborn);
        }
        self.tally.births += living.len();
        Ok(living)
    }

    /// Takes what has arrived everywhere. While nobody is `known`, that is nothing.
    fn look(&mut self, living: &mut [Newborn], known: bool) {
        let mut arrivals: Vec<Arrival> = Vec::new();
        let parties = living.iter_mut().map(|newborn| &mut newborn.party);
        parties.chain(&mut self.peers).for_each(|party| party.take(|arrival| arrivals.push(arrival)));
        for Arrival { way, birth } in arrivals {
            let here = |newborn: &&mut Newborn| {
                newborn.party.addresses.contains(&way.0) || newborn.party.addresses.contains(&way.1)
            };
            // Everything of the last batch was taken before it died.
            let Some(newborn) = living.iter_mut().find(here) else {
                self.tally.leaks.push(format!("{way:?} of nobody who lives"));
                continue;
            };
            if birth.is_some_and(|birth| birth != newborn.birth) {
                self.tally.leaks.push(format!("{way:?} of birth {birth:?} reached {}", newborn.birth));
            } else if !known || !newborn.may(&way) {
                let state = if known { "" } else { "before anybody knew of it" };
                self.tally.leaks.push(format!("{way:?} of birth {} {:?} {state}", newborn.birth, newborn.kind()));
            }
            newborn.arrived.insert(way);
        }
    }

    /// Everybody tries everything that has not arrived yet.
    fn knock(&mut self, living: &mut [Newborn]) {
        self.tally.sent += living.iter().map(|newborn| newborn.knock(&self.peers)).sum::<usize>();
        self.look(living, true);
    }

    /// One batch, from birth to death. `with_policies` says whether there are any while no pod is under them.
    fn batch(&mut self, batch: u16, daemon: &mut Daemon, always_policies: bool) -> Result<()> {
        let mut living = self.bear(batch)?;
        self.look(&mut living, false);
        self.tally.no_leaks()?;
        let before = generation(daemon)?;
        self.write(&living, true)?;
        let mut knocked = Instant::now();
        wait::until("the daemon knows the pods", PATIENCE, || {
            if knocked.elapsed() > PAUSE {
                self.knock(&mut living);
                knocked = Instant::now();
            }
            let now = generation(daemon)?;
            ensure!(now > before, "{before}, now {now}");
            Ok(())
        })?;
        wait::until("what is allowed gets through", PATIENCE, || {
            self.knock(&mut living);
            let missing: usize = living.iter().map(|newborn| newborn.missing(&self.peers)).sum();
            ensure!(missing == 0, "{missing} ways are not open");
            Ok(())
        })?;
        self.tally.no_leaks()?;
        for newborn in &living {
            let ways = self.peers.iter().flat_map(|peer| newborn.ways(peer));
            let (open, closed): (Vec<Way>, Vec<Way>) = ways.partition(|way| newborn.may(way));
            self.tally.open += open.len();
            self.tally.closed += closed.len();
        }
        self.bury(living, batch, daemon, always_policies)
    }

    /// All of them die at once, and say nothing to anybody. Then the API tells.
    fn bury(&mut self, mut living: Vec<Newborn>, batch: u16, daemon: &mut Daemon, always_policies: bool) -> Result<()> {
        let links = self.places.iter().map(|place| format!("link del f{}\n", place.number));
        self.lab.node(1)?.ns.ip(&links.collect::<String>())?;
        // What came after the last look, an ACK behind its SYN, would pass for one of the next with the address.
        self.look(&mut living, true);
        self.tally.no_leaks()?;
        // Peers keep their ends: a reset would have connection tracking forget.
        self.haunted = self.peers.iter_mut().flat_map(Party::give_up).collect();
        // Every other time objects stay and say that the pod has ended, its address still in them.
        if batch % 2 == 1 {
            let ended = living.iter().map(|newborn| {
                object(&format!("new{}", newborn.birth), 1, newborn.party.addresses, newborn.kind(), "Succeeded")
            });
            self.dead = ended.collect();
        }
        drop(living);
        let dead = self.dead.clone();
        let before = generation(daemon)?;
        self.write(&[], always_policies)?;
        // They are there for the next change, too: beside those who have their addresses then.
        self.dead = dead;
        wait::until("the daemon knows that they are gone", PATIENCE, || {
            let now = generation(daemon)?;
            ensure!(now > before, "{before}, now {now}");
            Ok(())
        })
    }
}

fn first_packets(lab: &Lab, backend: Backend, names: &[String]) -> Result<()> {
    let begun = Instant::now();
    let mut nursery = Nursery::new(lab, names)?;
    for (always_policies, flag) in [(true, "--netpol-default-deny=false"), (false, "--netpol-default-deny=true")] {
        nursery.write(&[], always_policies)?;
        let flags = ["--run-firewall=true", "--run-service-proxy=false", flag, backend.flag()];
        let mut daemon = lab.start_daemon(1, &DaemonOptions::with(&flags))?;
        daemon.wait_ready()?;
        for n in 0..BATCHES {
            let batch = if always_policies { n } else { BATCHES + n };
            nursery.batch(batch, &mut daemon, always_policies)?;
        }
        daemon.stop()?;
    }
    let Tally { births, sent, open, closed, .. } = &nursery.tally;
    ensure!(*births >= 200 && *open > 0 && *closed > 0, "{:?}", nursery.tally);
    report(&format!(
        "{backend:?}: {births} pods sent before anybody knew of them: on {closed} denied ways nothing arrived, on {open} others \
         everything did, {sent} packets sent, {:.0?}",
        begun.elapsed()
    ));
    Ok(())
}

both_backends!(a_pod_s_first_packet_does_not_get_past_a_deny);

fn a_pod_s_first_packet_does_not_get_past_a_deny(backend: Backend) {
    with_lab(Options { nodes: 2, pods: 1, ..Options::default() }, |lab| {
        let names: Vec<String> = (0..PLACES).map(|place| format!("f{}-{place}", std::process::id())).collect();
        let result = first_packets(lab, backend, &names);
        let removed = Namespace::delete(&names);
        result.and(removed)
    });
}
