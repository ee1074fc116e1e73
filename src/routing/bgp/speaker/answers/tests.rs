use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::api::handle::Handle;
use crate::routing::bgp::api::query::*;
use crate::routing::bgp::policy::{self, PolicySet, PrefixRange, SetMatch};
use crate::routing::bgp::rib::Settings;
use crate::routing::bgp::speaker::{self, Change, Config, Goodbye, Options, PeerConfig, Speaker};
use crate::routing::bgp::tcp::Distance;
use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Nlri, Origin};
use crate::testing::builders::bgp_peer;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn route(hop: &str, med: Option<u32>) -> Attributes {
    let hop: IpAddr = hop.parse().unwrap();
    Attributes { med, ..Attributes::new(Origin::Igp, AsPath::empty(), NextHop::from(hop)) }
}

fn given(hop: &str, med: u32) -> GivenAttributes {
    GivenAttributes::Typed(Box::new(route(hop, Some(med))))
}

fn config(asn: u32, id: u8, peers: &[(u8, u16)], listen: Option<u16>) -> Config {
    let own = IpAddr::from([127, 0, 0, id]);
    Config {
        asn: Asn(asn),
        router_id: Ipv4Addr::new(10, 0, 0, id),
        cluster_id: Ipv4Addr::new(10, 0, 0, id),
        listen: listen.map(|port| (own, port).into()).into_iter().collect(),
        decision: Settings::default(),
        policies: PolicySet::default(),
        peers: peers.iter().map(|(n, port)| (IpAddr::from([127, 0, 0, *n]), peer(asn, own, *port))).collect(),
        dynamic: BTreeMap::new(),
    }
}

fn peer(asn: u32, own: IpAddr, port: u16) -> PeerConfig {
    PeerConfig {
        description: "rack".to_owned(),
        distance: Distance::Multihop(4),
        families: vec![Family::V4],
        ..bgp_peer(Asn(asn), own, port)
    }
}

/// A speaker without BFD, which would take ports of the machine.
fn start(config: Config) -> Speaker {
    let ports = crate::routing::bgp::bfd::driver::Ports { single_hop: 0, multihop: 0 };
    let (speaker, _) = speaker::spawn(config, Options { bfd_ports: ports, ..Options::default() }).unwrap();
    drop(speaker.change(vec![Change::Announce(Vec::new())]));
    speaker
}

async fn all(handle: &Handle, table: Table) -> Vec<Destination> {
    look(handle, table, Vec::new()).await
}

async fn look(handle: &Handle, table: Table, prefixes: Vec<(Prefix, Lookup)>) -> Vec<Destination> {
    let query = PathQuery { table, family: Family::V4, prefixes, filtered: false };
    handle.paths(query).await.unwrap().collect()
}

fn names(found: &[Destination]) -> Vec<String> {
    found.iter().map(|one| one.prefix.to_string()).collect()
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("news in time").expect("news")
}

async fn stop(speaker: &Speaker) {
    speaker.stop(Goodbye::Leave(String::new()), Duration::from_secs(2)).await;
}

#[tokio::test]
async fn what_the_daemon_announces_goes_before_what_was_added_by_hand() {
    let speaker = start(config(64512, 1, &[], None));
    let ask = speaker.questions().clone();
    let nlri = Nlri::new(prefix("10.1.0.0/24"));
    let added = ask.command(Command::AddPath(nlri, given("192.0.2.9", 7))).await.unwrap();
    let Done::Added(id) = added else { panic!("no id: {added:?}") };
    let found = all(&ask, Table::Global).await;
    assert_eq!((found[0].paths[0].uuid, found[0].paths[0].best), (Some(id), true));

    // The daemon takes the prefix for itself and gives it back.
    let own = (nlri.prefix, vec![route("192.0.2.1", None)]);
    speaker.change(vec![Change::Announce(vec![own])]).await.unwrap();
    let found = all(&ask, Table::Global).await;
    assert_eq!(found[0].paths.len(), 1, "{found:?}");
    assert_eq!(found[0].paths[0].attributes.next_hop.address, IpAddr::from([192, 0, 2, 1]));
    let refused = ask.command(Command::DeletePath(Nlri::new(prefix("10.2.0.0/24")))).await.unwrap_err();
    assert_eq!(refused, Refusal::NotFound("no route to 10.2.0.0/24 was added here".to_owned()));
    speaker.change(vec![Change::Withdraw(vec![nlri.prefix])]).await.unwrap();
    assert_eq!(all(&ask, Table::Global).await[0].paths[0].uuid, Some(id));

    // A new configuration leaves it alone.
    let changed = config(64512, 1, &[(9, 1)], None);
    speaker.change(vec![Change::Configure(Box::new(changed))]).await.unwrap();
    assert_eq!(all(&ask, Table::Global).await[0].paths[0].uuid, Some(id));
    ask.command(Command::DeleteById(id)).await.unwrap();
    assert!(all(&ask, Table::Global).await.is_empty());
    stop(&speaker).await;
}

#[tokio::test]
async fn only_what_was_added_by_hand_can_be_deleted_by_hand() {
    let speaker = start(config(64512, 1, &[], None));
    let ask = speaker.questions().clone();
    let own = prefix("10.1.0.0/24");
    speaker.change(vec![Change::Announce(vec![(own, vec![route("192.0.2.1", None)])])]).await.unwrap();
    let refused = ask.command(Command::DeletePath(Nlri::new(own))).await.unwrap_err().to_string();
    assert!(refused.starts_with("10.1.0.0/24 is announced by the daemon itself"), "{refused}");
    for text in ["10.2.0.0/24", "10.3.0.0/24"] {
        ask.command(Command::AddPath(Nlri::new(prefix(text)), given("0.0.0.0", 1))).await.unwrap();
    }
    let raw = vec![vec![0x40, 1, 1, 0], vec![0x40, 2, 0], vec![0x40, 3, 4, 192, 0, 2, 7]];
    let second = Nlri { prefix: prefix("10.3.0.0/24"), path_id: 5 };
    ask.command(Command::AddPath(second, GivenAttributes::Raw(raw))).await.unwrap();
    assert_eq!(
        ask.table(Table::Global, Family::V4).await.unwrap(),
        TableInfo { destinations: 3, paths: 4, accepted: 0 }
    );
    let cut = GivenAttributes::Raw(vec![vec![0x40, 1, 1, 9]]);
    assert!(matches!(ask.command(Command::AddPath(second, cut)).await, Err(Refusal::Invalid(_))));
    ask.command(Command::DeleteAll(Some(Family::V6))).await.unwrap();
    assert_eq!(all(&ask, Table::Global).await.len(), 3);
    ask.command(Command::DeleteAll(None)).await.unwrap();
    assert_eq!(names(&all(&ask, Table::Global).await), ["10.1.0.0/24"]);
    stop(&speaker).await;
}

#[tokio::test]
async fn a_lookup_finds_what_its_kind_means() {
    let speaker = start(config(64512, 1, &[], None));
    let ask = speaker.questions().clone();
    let routes = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "192.0.2.0/24"];
    let routes = routes.iter().map(|text| (prefix(text), vec![route("192.0.2.1", None)])).collect();
    speaker.change(vec![Change::Announce(routes)]).await.unwrap();
    let cases = [
        ("10.1.0.0/16", Lookup::Exact, vec!["10.1.0.0/16"]),
        ("10.1.0.0/17", Lookup::Exact, vec![]),
        ("10.1.2.3/32", Lookup::LongestMatch, vec!["10.1.2.0/24"]),
        ("10.9.2.3/32", Lookup::LongestMatch, vec!["10.0.0.0/8"]),
        ("10.1.0.0/16", Lookup::Longer, vec!["10.1.0.0/16", "10.1.2.0/24"]),
        ("10.1.2.0/24", Lookup::Shorter, vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"]),
        ("2001:db8::/32", Lookup::Exact, vec![]),
    ];
    for (wanted, how, want) in cases {
        let found = look(&ask, Table::Global, vec![(prefix(wanted), how)]).await;
        assert_eq!(names(&found), want, "{wanted} {how:?}");
    }
    assert_eq!(all(&ask, Table::Global).await.len(), 5);
    stop(&speaker).await;
}

#[tokio::test]
async fn policies_are_told_in_the_words_of_the_api() {
    let mut config = config(64512, 1, &[(9, 1)], None);
    let policies = &mut config.policies;
    let range = PrefixRange::or_longer(prefix("10.0.0.0/8"));
    policies.sets.prefix.insert("pods".to_owned(), vec![range]);
    policies.sets.community.insert("c".to_owned(), vec![100 << 16 | 200]);
    let conditions = policy::Conditions { prefix_set: Some(SetMatch::invert("pods")), ..policy::Conditions::default() };
    let statement = policy::Statement {
        name: "s".to_owned(),
        conditions,
        actions: policy::Actions::next_hop_own(),
        verdict: Some(policy::Verdict::Accept),
    };
    policies.policies = vec![policy::Policy { name: "out".to_owned(), statements: vec![statement] }];
    policies.export =
        policy::Assignment { policies: vec!["out".to_owned(), "gone".to_owned()], default: policy::Verdict::Reject };
    let speaker = start(config);
    let ask = speaker.questions().clone();
    let want = Statement {
        name: "s".to_owned(),
        conditions: vec![Condition::Prefix(Match::Invert, "pods".to_owned())],
        actions: vec![Action::NextHopSelf],
        verdict: Some(Verdict::Accept),
    };
    let assigned = ask.assignment(Some("127.0.0.9".to_owned()), Direction::Export).await.unwrap();
    assert_eq!((assigned.name.as_str(), assigned.default), ("127.0.0.9", Verdict::Reject));
    assert_eq!(assigned.policies, [Policy { name: "out".to_owned(), statements: vec![want] }]);
    assert_eq!(ask.assignment(None, Direction::Import).await.unwrap().policies, []);
    assert_eq!(ask.sets(SetKind::Prefix).await.unwrap()[0].prefixes, [(prefix("10.0.0.0/8"), 8, 32)]);
    assert_eq!(ask.sets(SetKind::Community).await.unwrap()[0].list, ["^100:200$"]);
    assert!(ask.assignment(Some("127.0.0.8".to_owned()), Direction::Import).await.is_err());
    stop(&speaker).await;
}

/// Two speakers and a session between them; the second one's port is one that was free a moment ago.
async fn pair() -> (Speaker, Speaker) {
    let port = std::net::TcpListener::bind("127.0.0.22:0").unwrap().local_addr().unwrap().port();
    let second = start(config(65001, 22, &[(21, 1)], Some(port)));
    let first = start(config(64512, 21, &[(22, port)], None));
    let mut events = first.questions().watch(Watch { peers: true, ..Watch::default() }).await.unwrap();
    loop {
        match next(&mut events).await {
            Event::PeerInitial(peer) | Event::PeerState(peer) if peer.row.state == SessionState::Established => {
                return (first, second);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_peer_its_routes_and_its_end_are_told() {
    let (first, second) = pair().await;
    let ask = first.questions().clone();
    let watch = |best, adj_in, peers| Watch { peers, best, adj_in, peer: Some("127.0.0.22".to_owned()) };
    let mut best = ask.watch(watch(Some(true), None, false)).await.unwrap();
    let mut sent = ask.watch(watch(None, Some(true), false)).await.unwrap();
    let routes = vec![(prefix("10.7.0.0/24"), vec![route("192.0.2.9", Some(3))])];
    second.change(vec![Change::Announce(routes)]).await.unwrap();
    for events in [&mut best, &mut sent] {
        let Event::Routes(rows) = next(events).await else { panic!("no routes") };
        assert_eq!((rows[0].0, rows[0].1.withdrawn, rows[0].1.attributes.med), (prefix("10.7.0.0/24"), false, Some(3)));
        assert_eq!(rows[0].1.source.unwrap().1, Asn(65001));
    }
    let of = || "127.0.0.22".to_owned();
    assert_eq!(names(&all(&ask, Table::AdjIn(of())).await), ["10.7.0.0/24"]);
    let told = all(second.questions(), Table::AdjOut("127.0.0.21".to_owned())).await;
    assert_eq!(told[0].paths[0].attributes.as_path.to_string(), "65001");
    assert!(matches!(ask.paths(query(Table::Local(of()))).await, Err(Refusal::Invalid(_))));
    assert!(matches!(ask.paths(query(Table::AdjIn("127.0.0.9".to_owned()))).await, Err(Refusal::NotFound(_))));

    let peer = ask.peers(Some(of()), true).await.unwrap().next().unwrap();
    assert_eq!((peer.row.asn, peer.row.counts(None)), (Some(Asn(65001)), (1, 1, 0)));
    assert_eq!((peer.negotiated_hold_time, peer.router_id), (90, Some(Ipv4Addr::new(10, 0, 0, 22))));
    assert!(peer.sent.open >= 1 && peer.received.update >= 1 && !peer.remote_capabilities.is_empty());

    let mut peers = ask.watch(Watch { peers: true, ..Watch::default() }).await.unwrap();
    ask.command(Command::Disable(PeerChoice::One(of()), "maintenance".to_owned())).await.unwrap();
    for events in [&mut best, &mut peers] {
        loop {
            match next(events).await {
                Event::Routes(rows) => {
                    assert!(rows[0].1.withdrawn);
                    assert_eq!(rows[0].1.attributes.med, Some(3), "what went is told with what it was");
                    break;
                }
                Event::PeerState(peer) if peer.row.state != SessionState::Established => {
                    assert_eq!(peer.row.admin, AdminState::Down);
                    assert!(peer.row.up_since.is_some() && peer.row.down_since.is_some());
                    break;
                }
                _ => {}
            }
        }
    }
    ask.command(Command::Enable(PeerChoice::All)).await.unwrap();
    stop(&first).await;
    stop(&second).await;
}

#[tokio::test]
async fn every_step_of_a_session_is_told_in_order() {
    let (first, second) = pair().await;
    let ask = first.questions().clone();
    let mut events = ask.watch(Watch { peers: true, ..Watch::default() }).await.unwrap();
    let of = || PeerChoice::One("127.0.0.22".to_owned());
    ask.command(Command::Disable(of(), String::new())).await.unwrap();
    ask.command(Command::Enable(of())).await.unwrap();
    use SessionState::{Active, Established, Idle, OpenConfirm, OpenSent};
    let mut steps = Vec::new();
    while steps.last() != Some(&Established) {
        match next(&mut events).await {
            // What came before the session was disabled is no matter here.
            Event::PeerState(peer) if !steps.is_empty() || peer.row.state == Idle => steps.push(peer.row.state),
            _ => {}
        }
    }
    // That it is enabled is news by itself.
    steps.dedup();
    assert_eq!(steps, [Idle, Active, OpenSent, OpenConfirm, Established]);
    stop(&first).await;
    stop(&second).await;
}

fn query(table: Table) -> PathQuery {
    PathQuery { table, family: Family::V4, prefixes: Vec::new(), filtered: false }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    let speaker = start(config(64512, 1, &[], None));
    let ask = speaker.questions().clone();
    let mut events = ask.watch(Watch { best: Some(false), ..Watch::default() }).await.unwrap();
    let mut reader = ask.watch(Watch { best: Some(false), ..Watch::default() }).await.unwrap();
    for n in 0..1100u32 {
        let [_, _, high, low] = n.to_be_bytes();
        let route = (prefix(&format!("10.{high}.{low}.0/24")), vec![route("192.0.2.1", None)]);
        speaker.change(vec![Change::Announce(vec![route])]).await.unwrap();
        // One event for each: what came together would be told together.
        next(&mut reader).await;
    }
    let mut heard = 0;
    while events.recv().await.is_some() {
        heard += 1;
    }
    assert!((1000..1100).contains(&heard), "{heard} events before the end");
    assert_eq!(ask.table(Table::Global, Family::V4).await.unwrap().paths, 1100);
    stop(&speaker).await;
}
