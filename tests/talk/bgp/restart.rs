//! Restarts and goodbyes, ours and the peer's (RFC 4724, 8538, 9494).

use std::net::SocketAddr;
use std::time::Duration;

use ferrovia::routing::bgp::speaker::{Goodbye, Options, PeerConfig};
use ferrovia::routing::bgp::types::{Nlri, OpenSettings, OwnRestart};
use ferrovia::routing::bgp::wire;

use super::script::{Node, Script, address, asn, config, free_port, offer, peer, prefix, restart, table};

fn restarting(n: u8) -> OpenSettings {
    OpenSettings { graceful_restart: Some(restart()), ..offer(n) }
}

fn with_restart(port: u16) -> PeerConfig {
    PeerConfig { passive: true, graceful_restart: Some(restart()), ..peer(1, 2, port) }
}

#[tokio::test]
async fn a_peer_that_restarts_keeps_its_routes_but_those_it_no_longer_has() {
    let port = free_port();
    let node = Node::start(config(1, port, [(2, with_restart(port))]));
    let to = SocketAddr::new(address(1), port);
    let mut script = Script::connect(2, to, &restarting(2)).await;
    script.announce(&[asn(2)], &table(3).collect::<Vec<_>>()).await;
    node.learns("three routes", |learned| learned.routes.len() == 3).await;
    drop(script);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.learned.borrow().routes.len(), 3, "routes are kept while it is away");
    let back = OwnRestart { restarting: true, ..restart() };
    let back = OpenSettings { graceful_restart: Some(back), forwarding_kept: true, ..offer(2) };
    let mut script = Script::connect(2, to, &back).await;
    script.announce(&[asn(2)], &table(2).collect::<Vec<_>>()).await;
    script.end_of_rib().await;
    node.learns("what it has now", |learned| learned.routes.len() == 2).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_peer_that_lost_its_forwarding_loses_its_routes_when_it_is_back() {
    let port = free_port();
    let node = Node::start(config(1, port, [(2, with_restart(port))]));
    let to = SocketAddr::new(address(1), port);
    let mut script = Script::connect(2, to, &restarting(2)).await;
    script.announce(&[asn(2)], &table(3).collect::<Vec<_>>()).await;
    node.learns("three routes", |learned| learned.routes.len() == 3).await;
    drop(script);
    let _back = Script::connect(2, to, &restarting(2)).await;
    node.learns("nothing", |learned| learned.routes.is_empty()).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn after_our_restart_own_routes_go_out_at_once_and_their_end_when_all_is_heard() {
    let port = free_port();
    let options = Options { restarted: true, deferral: Duration::from_secs(600), ..Options::default() };
    let node = Node::start_with(config(1, port, [(2, with_restart(port))]), options);
    let mut script = Script::connect(2, SocketAddr::new(address(1), port), &restarting(2)).await;
    let theirs = script.session.graceful_restart.clone().expect("graceful restart");
    assert!(theirs.restarting && theirs.families.iter().all(|(_, kept)| *kept), "{theirs:?}");
    script.announce(&[asn(2)], &[prefix("10.2.0.0/24")]).await;
    node.learns("a route, at once", |learned| learned.routes.len() == 1 && !learned.settled).await;
    script.end_of_rib().await;
    assert!(script.is_quiet().await, "the end was told before own routes were there");
    node.announce([prefix("10.1.0.0/24")]).await;
    assert_eq!(script.until_end_of_rib().await, [Nlri::new(prefix("10.1.0.0/24"))]);
    node.learns("that this was all", |learned| learned.settled).await;
    // Whoever connects from now on sees a speaker that has not just restarted.
    drop(script);
    let script = Script::connect(2, SocketAddr::new(address(1), port), &restarting(2)).await;
    let theirs = script.session.graceful_restart.clone().expect("graceful restart");
    assert!(!theirs.restarting && theirs.families.iter().all(|(_, kept)| *kept), "{theirs:?}");
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_peer_that_never_comes_is_waited_for_no_longer_than_the_deferral() {
    let port = free_port();
    let options = Options { restarted: true, deferral: Duration::from_millis(500), ..Options::default() };
    let node = Node::start_with(config(1, port, [(2, with_restart(port))]), options);
    node.announce([prefix("10.1.0.0/24")]).await;
    assert!(!node.learned.borrow().settled);
    node.learns("the end of the wait", |learned| learned.settled).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_dead_peer_is_waited_for_no_longer_than_its_hold_time_and_one_without_restart_hardly() {
    let port = free_port();
    let options = Options { restarted: true, deferral: Duration::from_secs(600), ..Options::default() };
    let dead = PeerConfig { hold_time: 3, ..with_restart(port) };
    // This one takes part in no graceful restart, and never says that it has told all.
    let plain = PeerConfig { passive: true, ..peer(1, 4, port) };
    let node = Node::start_with(config(1, port, [(2, with_restart(port)), (3, dead), (4, plain)]), options);
    node.announce([prefix("10.1.0.0/24")]).await;
    let to = SocketAddr::new(address(1), port);
    let _plain = Script::connect(4, to, &offer(4)).await;
    let mut script = Script::connect(2, to, &restarting(2)).await;
    script.end_of_rib().await;
    assert_eq!(script.update().await.reach.len(), 1, "own routes are told at once");
    assert!(script.is_quiet().await && !node.learned.borrow().settled, "the third peer may still come");
    assert!(script.until_end_of_rib().await.is_empty());
    node.learns("that this was all", |learned| learned.settled).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn a_peer_that_comes_back_late_but_in_time_is_heard_out() {
    let port = free_port();
    let options = Options { restarted: true, deferral: Duration::from_secs(600), ..Options::default() };
    let late = PeerConfig { hold_time: 3, ..with_restart(port) };
    let node = Node::start_with(config(1, port, [(2, late)]), options);
    node.announce([prefix("10.1.0.0/24")]).await;
    let mut script = Script::connect(2, SocketAddr::new(address(1), port), &restarting(2)).await;
    assert_eq!(script.update().await.reach.len(), 1);
    let keepalive = async {
        // Longer than the wait for a peer that does not come.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut bytes = Vec::new();
            wire::encode_keepalive(&mut bytes);
            script.send(&bytes).await;
            assert!(!node.learned.borrow().settled, "it has not told all it has");
        }
    };
    keepalive.await;
    script.end_of_rib().await;
    node.learns("that this was all", |learned| learned.settled).await;
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn leaving_takes_routes_back_before_it_says_why() {
    let port = free_port();
    let node = Node::start(config(1, port, [(2, with_restart(port))]));
    node.announce(table(10)).await;
    let mut script = Script::connect(2, SocketAddr::new(address(1), port), &restarting(2)).await;
    assert_eq!(script.until_end_of_rib().await.len(), 10);
    let (closed, ()) = tokio::join!(script.until_closed(), node.stop(Goodbye::Leave("disk failed".to_owned())));
    let (withdrawn, notification) = closed;
    assert_eq!(withdrawn.len(), 10);
    let notification = notification.expect("a Cease");
    assert_eq!((notification.code, notification.subcode), (6, 2));
    assert_eq!(wire::shutdown_text(&notification).as_deref(), Some("disk failed"));
}

#[tokio::test]
async fn restarting_closes_without_a_word_for_peers_that_keep_our_routes() {
    for (ours, expected) in [(restarting(2), None), (offer(2), Some((6, 4)))] {
        let port = free_port();
        let node = Node::start(config(1, port, [(2, with_restart(port))]));
        node.announce(table(10)).await;
        let mut script = Script::connect(2, SocketAddr::new(address(1), port), &ours).await;
        script.until_end_of_rib().await;
        let (closed, ()) = tokio::join!(script.until_closed(), node.stop(Goodbye::Restart));
        let (withdrawn, notification) = closed;
        assert!(withdrawn.is_empty(), "routes were taken back before a restart");
        assert_eq!(notification.map(|cease| (cease.code, cease.subcode)), expected);
    }
}

#[tokio::test]
async fn stale_routes_become_the_last_resort_where_both_sides_know_how() {
    let port = free_port();
    let brief = OwnRestart { restart_time: 1, ..restart() };
    let long = PeerConfig { long_lived: 100, ..with_restart(port) };
    let other = PeerConfig { passive: true, ..peer(1, 3, port) };
    let node = Node::start(config(1, port, [(2, long), (3, other)]));
    let to = SocketAddr::new(address(1), port);
    let ours = OpenSettings { graceful_restart: Some(brief), long_lived: 100, ..offer(2) };
    let mut script = Script::connect(2, to, &ours).await;
    let mut other = Script::connect(3, to, &offer(3)).await;
    other.until_end_of_rib().await;
    script.announce(&[asn(2)], &table(1).collect::<Vec<_>>()).await;
    assert_eq!(other.update().await.reach.len(), 1);
    drop(script);
    // After the restart time it is long-lived stale: still in use here, told to nobody who does not know what that is.
    assert_eq!(other.update().await.withdrawn.len(), 1);
    assert_eq!(node.learned.borrow().routes.len(), 1);
    node.stop(Goodbye::Restart).await;
}
