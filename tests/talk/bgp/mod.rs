//! Speakers talk to each other and to scripted peers over loopback.
//!
//! Clock jumps need no test: everything the speaker decides by is time since its start, which a change of the wall clock
//! does not move.

mod bfd;
mod restart;
mod script;

use std::net::SocketAddr;

use ferrovia::net::Prefix;
use ferrovia::routing::bgp::policy::{
    Assignment, Conditions, Policy, PolicySet, PrefixRange, SetMatch, Statement, Verdict,
};
use ferrovia::routing::bgp::speaker::{Change, Goodbye, Options, Password, PeerConfig, spawn};
use ferrovia::routing::bgp::types::{AsPath, Attributes, NextHop, Nlri, OpenSettings, Origin};
use ferrovia::routing::bgp::wire::{self, Message};

use self::script::{Node, Script, address, asn, config, free_port, next_hop, offer, peer, prefix, table};
use crate::eventually;

/// A speaker with one peer that connects to it, and where it listens.
fn passive(port: u16, settings: PeerConfig) -> (Node, SocketAddr) {
    let node = Node::start(config(1, port, [(2, PeerConfig { passive: true, ..settings })]));
    (node, SocketAddr::new(address(1), port))
}

/// Exports only what is in the set `told`, imports all.
fn exporting(told: &[Prefix]) -> PolicySet {
    let mut set = PolicySet::default();
    set.sets.prefix.insert("told".to_owned(), told.iter().copied().map(PrefixRange::exact).collect());
    let accept = Statement {
        name: "told".to_owned(),
        conditions: Conditions { prefix_set: Some(SetMatch::any("told")), ..Conditions::default() },
        verdict: Some(Verdict::Accept),
        ..Statement::default()
    };
    set.policies.push(Policy { name: "told".to_owned(), statements: vec![accept] });
    set.export = Assignment { policies: vec!["told".to_owned()], default: Verdict::Reject };
    set
}

#[tokio::test]
async fn routes_travel_from_speaker_to_speaker_and_go_when_their_origin_leaves() {
    let port = free_port();
    let first = Node::start(config(1, port, [(2, peer(1, 2, port))]));
    let middle = Node::start(config(2, port, [(1, peer(2, 1, port)), (3, peer(2, 3, port))]));
    let last = Node::start(config(3, port, [(2, peer(3, 2, port))]));
    first.announce(table(3)).await;
    last.learns("all three", |learned| learned.routes.len() == 3).await;
    let learned = last.learned.borrow().clone();
    assert!(learned.settled, "a first start waits for nobody");
    let route = learned.routes.get(&prefix("20.0.1.0/24")).expect("learned");
    assert_eq!(
        route.hops.iter().map(|hop| (hop.next_hop.address, hop.peer)).collect::<Vec<_>>(),
        [(next_hop(2), address(2))]
    );
    first.change(vec![Change::Withdraw(vec![prefix("20.0.1.0/24")])]).await;
    last.learns("the withdrawal", |learned| learned.routes.len() == 2).await;
    first.stop(Goodbye::Leave("maintenance".to_owned())).await;
    last.learns("that the origin left", |learned| learned.routes.is_empty()).await;
    middle.stop(Goodbye::Restart).await;
    last.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn of_two_connections_one_stays() {
    let port = free_port();
    // We listen where the speaker connects to, and connect to it at the same time with the higher identifier.
    let ours = tokio::net::TcpListener::bind((address(9), port)).await.expect("a port");
    let node = Node::start(config(1, port, [(9, peer(1, 9, port))]));
    let (theirs, _) = ours.accept().await.expect("the speaker connects");
    let mut theirs = Script::begin(theirs, &offer(9)).await.expect("an OPEN");
    let mine = Script::open(9, SocketAddr::new(address(1), port)).await;
    let mut mine = Script::shake(mine, &offer(9)).await.expect("ours has the higher identifier and stays");
    let (_, notification) = theirs.until_closed().await;
    assert_eq!(notification.map(|cease| (cease.code, cease.subcode)), Some((6, 7)));
    mine.until_end_of_rib().await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_reset_amid_a_big_table_ends_with_the_same_table() {
    let port = free_port();
    let before = config(1, port, [(2, peer(1, 2, port))]);
    let first = Node::start(before.clone());
    let second = Node::start(config(2, port, [(1, peer(2, 1, port))]));
    first.announce(table(20_000)).await;
    second.learns("some", |learned| !learned.routes.is_empty()).await;
    // This field is one that only a new session can change.
    let mut after = before;
    after.peers.insert(address(2), PeerConfig { client: true, ..peer(1, 2, port) });
    first.configure(after).await;
    first.change(vec![Change::Withdraw(table(20_000).skip(15_000).collect())]).await;
    second
        .learns("what is left of the table", |learned| {
            learned.routes.len() == 15_000 && !learned.routes.contains_key(&prefix("20.63.0.0/24"))
        })
        .await;
    first.stop(Goodbye::Restart).await;
    second.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn what_needs_no_reset_is_told_on_the_session_that_is_up() {
    let port = free_port();
    let (node, to) = passive(port, peer(1, 2, port));
    node.announce([prefix("10.1.0.0/24")]).await;
    let mut script = Script::connect(2, to, &offer(2)).await;
    assert_eq!(script.update().await.reach[0].attributes.next_hop.address, next_hop(1));
    let settings = PeerConfig {
        passive: true,
        next_hop_v4: Some([192, 0, 2, 7].into()),
        description: "rack 7".to_owned(),
        hold_time: 30,
        ..peer(1, 2, port)
    };
    node.configure(config(1, port, [(2, settings.clone())])).await;
    let update = script.update().await;
    assert_eq!(update.reach[0].attributes.next_hop.address.to_string(), "192.0.2.7");
    let mut refusing = config(1, port, [(2, settings)]);
    refusing.policies = exporting(&[]);
    node.configure(refusing).await;
    assert_eq!(script.update().await.withdrawn, [Nlri::new(prefix("10.1.0.0/24"))]);
    assert!(script.is_quiet().await, "more was told than changed");
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn what_needs_a_reset_says_so_to_the_peer() {
    let port = free_port();
    let (node, to) = passive(port, peer(1, 2, port));
    let mut script = Script::connect(2, to, &offer(2)).await;
    let other = PeerConfig { passive: true, families: vec![ferrovia::net::Family::V4], ..peer(1, 2, port) };
    node.configure(config(1, port, [(2, other)])).await;
    let (_, notification) = script.until_closed().await;
    assert_eq!(notification.map(|cease| (cease.code, cease.subcode)), Some((6, 6)));
    let script = Script::connect(2, to, &offer(2)).await;
    assert_eq!(script.session.families, [ferrovia::net::Family::V4]);
    node.configure(config(1, port, [])).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_peer_that_is_shut_down_hears_the_text_and_may_come_back() {
    let port = free_port();
    let (node, to) = passive(port, peer(1, 2, port));
    let mut script = Script::connect(2, to, &offer(2)).await;
    let down = PeerConfig { passive: true, shutdown: Some("moving racks".to_owned()), ..peer(1, 2, port) };
    node.configure(config(1, port, [(2, down)])).await;
    let (_, notification) = script.until_closed().await;
    let text = notification.as_ref().and_then(wire::shutdown_text);
    assert_eq!(text.as_deref(), Some("moving racks"));
    let refused = Script::shake(Script::open(2, to).await, &offer(2)).await;
    assert!(refused.is_none(), "a session in spite of the shutdown");
    node.configure(config(1, port, [(2, PeerConfig { passive: true, ..peer(1, 2, port) })])).await;
    Script::connect(2, to, &offer(2)).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn dynamic_neighbours_come_by_the_longest_prefix_and_strangers_do_not() {
    let port = free_port();
    let mut settings = config(1, port, []);
    let any = PeerConfig { asn: None, ..peer(1, 2, port) };
    let strict = PeerConfig { asn: Some(asn(77)), ..peer(1, 2, port) };
    settings.dynamic = [(prefix("127.0.0.0/28"), any), (prefix("127.0.0.8/30"), strict)].into();
    let node = Node::start(settings);
    let to = SocketAddr::new(address(1), port);
    let mut welcome = Script::connect(5, to, &offer(5)).await;
    welcome.announce(&[asn(5)], &[prefix("10.5.0.0/24")]).await;
    node.learns("the route of a dynamic peer", |learned| learned.routes.len() == 1).await;
    let wrong_as = Script::shake(Script::open(9, to).await, &offer(9)).await;
    assert!(wrong_as.is_none(), "the longer prefix names another AS");
    let stranger = Script::shake(Script::open(99, to).await, &offer(99)).await;
    assert!(stranger.is_none(), "an address of no prefix got a session");
    drop(welcome);
    node.learns("that it is gone", |learned| learned.routes.is_empty()).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_slow_reader_slows_nobody_and_gets_all_in_the_end() {
    let port = free_port();
    let settings = config(
        1,
        port,
        [(2, PeerConfig { passive: true, ..peer(1, 2, port) }), (3, PeerConfig { passive: true, ..peer(1, 3, port) })],
    );
    let node = Node::start(settings);
    let to = SocketAddr::new(address(1), port);
    let mut slow = Script::connect_narrowly(2, to, &offer(2)).await;
    let mut quick = Script::connect(3, to, &offer(3)).await;
    quick.until_end_of_rib().await;
    let routes: u32 = 20_000;
    let unique = |n: u32, of| {
        let path: AsPath = std::iter::repeat_n(asn(8), 200).collect();
        let mut attributes = Attributes::new(Origin::Igp, path, NextHop::from(next_hop(1)));
        attributes.med = Some(n);
        (of, vec![attributes])
    };
    // Attributes of their own, and long ones: some 17 megabytes, more than sockets hold.
    node.change(vec![Change::Announce(table(routes).zip(0..).map(|(of, n)| unique(n, of)).collect())]).await;
    let mut heard = 0;
    while heard < routes as usize {
        heard += quick.update().await.reach.iter().map(|reach| reach.nlri.len()).sum::<usize>();
    }
    node.change(vec![Change::Withdraw(table(routes).skip(1).collect())]).await;
    let mut held = std::collections::BTreeSet::new();
    let mut messages = 0_u32;
    loop {
        match slow.next().await {
            Some(Message::Update(update)) => {
                messages += 1;
                update.withdrawn.iter().for_each(|nlri| {
                    held.remove(nlri);
                });
                held.extend(update.reach.into_iter().flat_map(|reach| reach.nlri));
                if held.len() == 1 && messages > 10 {
                    break;
                }
            }
            Some(Message::Keepalive) => {}
            other => panic!("expected routes, got {other:?}"),
        }
    }
    assert!(messages < routes, "every route was told although most were gone before the peer read: {messages}");
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn too_many_routes_end_the_session_until_somebody_says_otherwise() {
    let port = free_port();
    let (node, to) = passive(port, PeerConfig { max_prefixes: Some(2), ..peer(1, 2, port) });
    let mut script = Script::connect(2, to, &offer(2)).await;
    script.announce(&[asn(2)], &table(2).collect::<Vec<_>>()).await;
    node.learns("what is allowed", |learned| learned.routes.len() == 2).await;
    script.announce(&[asn(2)], &table(3).collect::<Vec<_>>()).await;
    let (_, notification) = script.until_closed().await;
    assert_eq!(notification.map(|cease| (cease.code, cease.subcode)), Some((6, 1)));
    node.learns("that all of them are gone", |learned| learned.routes.is_empty()).await;
    assert!(Script::shake(Script::open(2, to).await, &offer(2)).await.is_none(), "it came back by itself");
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn edits_of_a_prefix_set_tell_what_they_cover_and_nothing_else() {
    let port = free_port();
    let mut settings = config(1, port, [(2, PeerConfig { passive: true, ..peer(1, 2, port) })]);
    let (old, new) = (prefix("20.0.0.0/24"), prefix("20.0.1.0/24"));
    settings.policies = exporting(&[old]);
    let node = Node::start(settings);
    node.announce(table(100)).await;
    let mut script = Script::connect(2, SocketAddr::new(address(1), port), &offer(2)).await;
    assert_eq!(script.until_end_of_rib().await, [Nlri::new(old)]);
    let edit = |add: &[Prefix], remove: &[Prefix]| Change::EditPrefixSet {
        set: "told".to_owned(),
        add: add.iter().copied().map(PrefixRange::exact).collect(),
        remove: remove.iter().copied().map(PrefixRange::exact).collect(),
    };
    node.change(vec![edit(&[new], &[])]).await;
    assert_eq!(script.update().await.reach[0].nlri, [Nlri::new(new)]);
    node.change(vec![edit(&[], &[old])]).await;
    assert_eq!(script.update().await.withdrawn, [Nlri::new(old)]);
    assert!(script.is_quiet().await, "more was told than changed");
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn several_next_hops_are_several_paths_for_add_path_and_one_for_others() {
    let port = free_port();
    let both = PeerConfig { add_path_send: vec![ferrovia::net::Family::V4], passive: true, ..peer(1, 2, port) };
    let node = Node::start(config(1, port, [(2, both), (3, PeerConfig { passive: true, ..peer(1, 3, port) })]));
    let of = prefix("10.1.0.1/32");
    let paths = |hops: &[u8]| {
        let path = |n: &u8| Attributes::new(Origin::Igp, AsPath::empty(), NextHop::from(next_hop(*n)));
        vec![Change::Announce(vec![(of, hops.iter().map(path).collect())])]
    };
    node.change(paths(&[11, 12])).await;
    let to = SocketAddr::new(address(1), port);
    let takes_all = OpenSettings { add_path_receive: vec![ferrovia::net::Family::V4], ..offer(2) };
    let (mut all, mut one) = (Script::connect(2, to, &takes_all).await, Script::connect(3, to, &offer(3)).await);
    assert_eq!(all.until_end_of_rib().await.len(), 2);
    assert_eq!(one.update().await.reach[0].attributes.next_hop.address, next_hop(11));
    node.change(paths(&[12, 13])).await;
    let mut hops = Vec::new();
    let update = all.update().await;
    hops.extend(update.reach.iter().map(|reach| reach.attributes.next_hop.address));
    assert_eq!((hops, update.withdrawn.len()), (vec![next_hop(13)], 0), "only what changed, in the place of the old");
    node.change(paths(&[12])).await;
    assert_eq!(all.update().await.withdrawn.len(), 1);
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_wrong_key_gets_no_session_and_the_right_one_does() {
    let port = free_port();
    let key = |text: &str| Password(text.as_bytes().to_vec());
    let first = Node::start(config(1, port, [(2, PeerConfig { password: key("right"), ..peer(1, 2, port) })]));
    let probe = std::net::TcpListener::bind((address(1), 0)).expect("a port");
    if ferrovia::routing::bgp::sockopt::set_md5(&probe, prefix("127.0.0.2/32"), b"key").is_err() {
        eprintln!("skipped: this kernel has no TCP-MD5 signatures; a peer with a key gets no session without them");
        let refused = Script::shake(Script::open(2, SocketAddr::new(address(1), port)).await, &offer(2)).await;
        assert!(refused.is_none(), "a session without the key it was configured with");
        return first.stop(Goodbye::Restart).await;
    }
    first.announce(table(1)).await;
    let wrong = config(2, port, [(1, PeerConfig { password: key("wrong"), ..peer(2, 1, port) })]);
    let second = Node::start(wrong);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(second.learned.borrow().routes.is_empty(), "a session with the wrong key");
    second.configure(config(2, port, [(1, PeerConfig { password: key("right"), ..peer(2, 1, port) })])).await;
    second.learns("a route over a signed session", |learned| learned.routes.len() == 1).await;
    first.stop(Goodbye::Restart).await;
    second.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_taken_port_is_told_by_name_at_the_start_and_tried_again_later() {
    let port = free_port();
    let taken = std::net::TcpListener::bind((address(1), port)).expect("a port");
    let error = spawn(config(1, port, []), Options::default()).expect_err("no port, no speaker");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    let mut settings = config(1, port, [(2, PeerConfig { passive: true, ..peer(1, 2, port) })]);
    let listen = std::mem::take(&mut settings.listen);
    let node = Node::start(settings.clone());
    settings.listen = listen;
    node.configure(settings).await;
    drop(taken);
    let to = SocketAddr::new(address(1), port);
    eventually("the port is opened", || std::net::TcpStream::connect(to).is_ok()).await;
    Script::connect(2, to, &offer(2)).await;
    node.stop(Goodbye::Restart).await;
}
