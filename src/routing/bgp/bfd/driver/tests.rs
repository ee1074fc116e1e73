use super::*;

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ports nobody else on this machine uses.
fn ports(offset: u16) -> Ports {
    Ports { single_hop: 23784 + offset, multihop: 24784 + offset }
}

fn settings(local: &str, remote: &str, hops: Hops) -> PeerSettings {
    let timers = Timers {
        desired_min_tx: Duration::from_millis(100),
        required_min_rx: Duration::from_millis(100),
        multiplier: 3,
    };
    PeerSettings {
        remote: remote.parse().unwrap(),
        local: local.parse().unwrap(),
        scope: 0,
        hops,
        port: None,
        timers,
        independent: true,
    }
}

struct Side {
    handle: BfdHandle,
    events: UnboundedReceiver<Event>,
    session: SessionId,
}

fn side(ports: Ports, settings: PeerSettings) -> Side {
    let (handle, events) = BfdHandle::start(ports).unwrap();
    let session = handle.add(settings);
    Side { handle, events, session }
}

async fn next(side: &mut Side) -> Event {
    tokio::time::timeout(PATIENCE, side.events.recv()).await.expect("an event in time").expect("a living driver")
}

async fn both_up(ports: Ports, hops: Hops, [left, right]: [&str; 2]) -> [Side; 2] {
    let mut sides = [side(ports, settings(left, right, hops)), side(ports, settings(right, left, hops))];
    for side in &mut sides {
        assert_eq!(next(side).await, Event::Up(side.session));
    }
    sides
}

#[tokio::test]
async fn tells_when_a_neighbour_vanishes() {
    let [mut left, right] = both_up(ports(0), Hops::Single, ["127.0.71.1", "127.0.71.2"]).await;
    right.handle.tell(Command::Vanish);
    let expected = Event::Down {
        session: left.session,
        diagnostic: Diagnostic::DetectionTimeExpired,
        administrative: false,
        independent: true,
    };
    assert_eq!(next(&mut left).await, expected);
    let state = left.handle.state();
    assert_eq!((state.len(), state[0].state, state[0].times_up), (1, State::Down, 1));
    assert_eq!(state[0].remote.discriminator, 0);
}

#[tokio::test]
async fn a_planned_stop_is_told_as_one() {
    let [mut left, right] = both_up(ports(1), Hops::Multi, ["127.0.71.3", "127.0.71.4"]).await;
    drop(right);
    let expected = Event::Down {
        session: left.session,
        diagnostic: Diagnostic::NeighborSignaledDown,
        administrative: true,
        independent: true,
    };
    assert_eq!(next(&mut left).await, expected);
    assert_eq!(left.handle.state()[0].remote.diagnostic, Diagnostic::AdministrativelyDown);
}

#[tokio::test]
async fn comes_up_again_after_it_was_held_down_over_ipv6() {
    let mut both = settings("::1", "::1", Hops::Single);
    let (left_ports, right_ports) = (ports(2), ports(3));
    both.port = Some(right_ports.single_hop);
    let mut left = side(left_ports, both);
    both.port = Some(left_ports.single_hop);
    let mut right = side(right_ports, both);
    assert_eq!(next(&mut left).await, Event::Up(left.session));
    assert_eq!(next(&mut right).await, Event::Up(right.session));
    left.handle.admin_down(left.session, true);
    assert!(matches!(next(&mut left).await, Event::Down { administrative: true, .. }));
    assert!(matches!(next(&mut right).await, Event::Down { administrative: true, .. }));
    left.handle.admin_down(left.session, false);
    assert_eq!(next(&mut left).await, Event::Up(left.session));
    assert_eq!(next(&mut right).await, Event::Up(right.session));
}

#[tokio::test]
async fn packets_leave_with_ttl_255_from_the_source_ports_of_the_rfc() {
    let ports = ports(4);
    let receiver = UdpSocket::bind(("127.0.71.6", ports.single_hop)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let (handle, _events) = BfdHandle::start(ports).unwrap();
    let settings = settings("127.0.71.5", "127.0.71.6", Hops::Single);
    handle.add(settings);
    handle.add(settings);
    let mut sources = BTreeSet::new();
    let mut buffer = [0; BUFFER];
    while sources.len() < 2 {
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        let packet = Packet::decode(&buffer[..length]).unwrap();
        assert_eq!((packet.state, packet.desired_min_tx, packet.required_min_rx), (State::Down, 1_000_000, 100_000));
        assert!((49152..=65535).contains(&from.port()));
        sources.insert((packet.my_discriminator, from.port()));
    }
    let ports: BTreeSet<_> = sources.iter().map(|(_, port)| port).collect();
    assert_eq!(ports.len(), 2, "each session has its own");
    let socket = sender("127.0.71.5:0".parse().unwrap(), 7, |_| false).unwrap();
    assert_eq!(socket.ttl().unwrap(), 255);
}

#[tokio::test]
async fn an_address_that_is_not_there_is_reported_and_forgotten_on_removal() {
    let (handle, _events) = BfdHandle::start(ports(5)).unwrap();
    let session = handle.add(settings("192.0.2.1", "192.0.2.2", Hops::Single));
    let wait = async |done: &dyn Fn(&[Snapshot]) -> bool| {
        while !done(&handle.state()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reported = |state: &[Snapshot]| state.iter().any(|peer| peer.error.is_some());
    tokio::time::timeout(PATIENCE, wait(&reported)).await.expect("the refusal is shown");
    handle.remove(session);
    tokio::time::timeout(PATIENCE, wait(&|state| state.is_empty())).await.expect("the session is gone");
}

#[tokio::test]
async fn packets_of_others_change_nothing() {
    let ports = ports(6);
    let [left, _right] = both_up(ports, Hops::Single, ["127.0.71.7", "127.0.71.8"]).await;
    let stranger = UdpSocket::bind("127.0.71.9:0").unwrap();
    let known = left.handle.state()[0].discriminator;
    let packet = Packet {
        diagnostic: Diagnostic::None,
        state: State::Down,
        poll: false,
        last: false,
        independent: false,
        demand: false,
        multiplier: 1,
        my_discriminator: 5,
        your_discriminator: known,
        desired_min_tx: 1,
        required_min_rx: 1,
        required_min_echo_rx: 0,
    };
    for packet in [packet, Packet { your_discriminator: 0, ..packet }] {
        stranger.send_to(&packet.encode(), ("127.0.71.7", ports.single_hop)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let state = left.handle.state();
    assert_eq!((state[0].state, state[0].times_up), (State::Up, 1));
}
