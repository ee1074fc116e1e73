//! BFD tells the speaker that a peer is gone (RFC 5882).

use std::net::SocketAddr;
use std::time::Duration;

use ferrovia::routing::bgp::bfd::driver::Ports;
use ferrovia::routing::bgp::bfd::packet::{Diagnostic, Packet, State};
use ferrovia::routing::bgp::bfd::session::Timers;
use ferrovia::routing::bgp::speaker::{Bfd, Goodbye, Options, PeerConfig};
use ferrovia::routing::bgp::types::OpenSettings;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use super::script::{Node, Script, address, asn, config, free_port, offer, peer, prefix, restart};
use crate::DEADLINE;

/// A free UDP port of this address.
fn free_udp(n: u8) -> u16 {
    let socket = std::net::UdpSocket::bind((address(n), 0)).expect("a port");
    socket.local_addr().expect("bound").port()
}

/// Answers packets until the session is up on the other side. `independent` is the C bit.
async fn bring_up(socket: &UdpSocket, listens: u16, independent: bool) {
    loop {
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer).await.expect("a packet");
        let theirs = Packet::decode(&buffer[..length]).expect("BFD");
        if theirs.state == State::Up && !theirs.poll {
            return;
        }
        let ours = Packet {
            diagnostic: Diagnostic::of(0),
            state: if theirs.state == State::Down { State::Init } else { State::Up },
            poll: false,
            last: theirs.poll,
            independent,
            demand: false,
            multiplier: 3,
            my_discriminator: 7,
            your_discriminator: theirs.my_discriminator,
            desired_min_tx: 100_000,
            required_min_rx: 100_000,
            required_min_echo_rx: 0,
        };
        socket.send_to(&ours.encode(), SocketAddr::new(address(1), listens)).await.expect("sent");
    }
}

/// A speaker with one neighbour that it watches, on a port of its own for BFD.
fn watching(port: u16, listens: u16, neighbour: &UdpSocket, restarts: bool) -> Node {
    let interval = Duration::from_millis(100);
    let bfd = Bfd {
        port: Some(neighbour.local_addr().expect("bound").port()),
        timers: Timers { desired_min_tx: interval, required_min_rx: interval, multiplier: 3 },
    };
    let graceful_restart = restarts.then(restart);
    let watched = PeerConfig { passive: true, bfd: Some(bfd), graceful_restart, ..peer(1, 2, port) };
    let bfd_ports = Ports { single_hop: listens, multihop: free_udp(1) };
    Node::start_with(config(1, port, [(2, watched)]), Options { bfd_ports, ..Options::default() })
}

/// A speaker with a route of a neighbour that knows graceful restart, and BFD with it up. The neighbour's socket says
/// nothing more, but is there: nobody is told that its port is closed.
async fn up_with_restart(independent: bool) -> (UdpSocket, Node, Script) {
    let (port, listens) = (free_port(), free_udp(1));
    let neighbour = UdpSocket::bind((address(2), 0)).await.expect("a socket");
    neighbour.set_ttl(255).expect("a hop limit");
    let node = watching(port, listens, &neighbour, true);
    let ours = OpenSettings { graceful_restart: Some(restart()), ..offer(2) };
    let mut script = Script::connect(2, SocketAddr::new(address(1), port), &ours).await;
    script.announce(&[asn(2)], &[prefix("10.2.0.0/24")]).await;
    node.learns("a route", |learned| learned.routes.len() == 1).await;
    timeout(DEADLINE, bring_up(&neighbour, listens, independent)).await.expect("BFD comes up");
    (neighbour, node, script)
}

#[tokio::test]
async fn with_graceful_restart_a_neighbour_that_falls_silent_loses_its_routes_all_the_same() {
    let (_neighbour, node, mut script) = up_with_restart(false).await;
    node.learns("that the way is gone", |learned| learned.routes.is_empty()).await;
    let (_, notification) = script.until_closed().await;
    assert_eq!(notification.map(|cease| (cease.code, cease.subcode)), Some((6, 10)));
    node.stop(Goodbye::Restart).await;
}

#[tokio::test]
async fn while_a_neighbour_restarts_its_bfd_counts_only_where_it_outlives_the_control_plane() {
    for independent in [true, false] {
        let (_neighbour, node, script) = up_with_restart(independent).await;
        // Its control plane ends here, its packets a moment later.
        drop(script);
        let failed = async {
            loop {
                let told =
                    node.speaker.questions().peers(None, false).await.expect("an answer").next().expect("a peer");
                if told.bfd.is_some_and(|bfd| bfd.failures == 1) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, failed).await.expect("BFD goes down");
        if independent {
            node.learns("that forwarding is gone", |learned| learned.routes.is_empty()).await;
        } else {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(node.learned.borrow().routes.len(), 1, "a restart, as far as anybody can tell");
        }
        node.stop(Goodbye::Restart).await;
    }
}

#[tokio::test]
async fn a_neighbour_that_falls_silent_loses_its_session_long_before_the_hold_time() {
    let (port, listens) = (free_port(), free_udp(1));
    let neighbour = UdpSocket::bind((address(2), 0)).await.expect("a socket");
    neighbour.set_ttl(255).expect("a hop limit");
    let node = watching(port, listens, &neighbour, false);
    let mut script = Script::connect(2, SocketAddr::new(address(1), port), &offer(2)).await;
    script.until_end_of_rib().await;
    timeout(DEADLINE, bring_up(&neighbour, listens, false)).await.expect("BFD comes up");
    let told = node.speaker.questions().peers(None, false).await.expect("an answer").next().expect("a peer");
    let told = told.bfd.expect("BFD is told");
    assert_eq!((told.state, told.failures, told.remote_discriminator), (State::Up, 0, 7));
    assert!(told.sent > 0 && told.received > 0, "{told:?}");
    let silent_since = Instant::now();
    let (_, notification) = script.until_closed().await;
    assert_eq!(notification.map(|cease| (cease.code, cease.subcode)), Some((6, 10)));
    let told = node.speaker.questions().peers(None, false).await.expect("an answer").next().expect("a peer");
    let told = told.bfd.expect("BFD is told");
    assert_eq!((told.state, told.diagnostic, told.failures), (State::Down, Diagnostic::DetectionTimeExpired, 1));
    assert!(silent_since.elapsed() < Duration::from_secs(10), "{:?}", silent_since.elapsed());
    node.stop(Goodbye::Restart).await;
}
