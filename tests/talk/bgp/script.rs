//! A peer that does exactly what a test says, and speakers to set it against.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use ferrovia::net::{Asn, Family, Prefix};
use ferrovia::routing::bgp::negotiate::negotiate;
use ferrovia::routing::bgp::policy::PolicySet;
use ferrovia::routing::bgp::rib::Settings;
use ferrovia::routing::bgp::speaker::{Change, Config, Goodbye, Learned, Options, PeerConfig, Speaker, spawn};
use ferrovia::routing::bgp::types::{
    AsPath, Attributes, Negotiated, NextHop, Nlri, Notification, OpenSettings, Origin, OwnRestart,
};
use ferrovia::routing::bgp::wire::{self, Message, Update};
use ferrovia::testing::builders::bgp_peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::DEADLINE;

/// The address of speaker or peer `n`.
pub(super) fn address(n: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, n])
}

/// Its next hop: one of loopback would be refused, as it should be.
pub(super) fn next_hop(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// A port that nobody has on 127.0.0.1.
pub(super) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.local_addr().expect("bound").port()
}

pub(super) fn restart() -> OwnRestart {
    OwnRestart { restart_time: 60, restarting: false, notification: false }
}

/// Peer `n`, of AS 64500 + n, seen from speaker `from`.
pub(super) fn peer(from: u8, n: u8, port: u16) -> PeerConfig {
    PeerConfig {
        asn: Some(asn(n)),
        next_hop_v4: Some(Ipv4Addr::new(192, 0, 2, from)),
        ..bgp_peer(asn(from), address(from), port)
    }
}

pub(super) fn asn(n: u8) -> Asn {
    Asn(64500 + u32::from(n))
}

/// Speaker `n` with these peers.
pub(super) fn config(n: u8, port: u16, peers: impl IntoIterator<Item = (u8, PeerConfig)>) -> Config {
    Config {
        asn: asn(n),
        router_id: Ipv4Addr::new(10, 0, 0, n),
        cluster_id: Ipv4Addr::new(10, 0, 0, n),
        listen: vec![SocketAddr::new(address(n), port)],
        decision: Settings::default(),
        policies: PolicySet::default(),
        peers: peers.into_iter().map(|(n, peer)| (address(n), peer)).collect(),
        dynamic: BTreeMap::new(),
    }
}

/// A speaker on its thread.
pub(super) struct Node {
    pub(super) speaker: Speaker,
    /// What it learned: gathered only while somebody holds on to it.
    pub(super) learned: watch::Receiver<Learned>,
    thread: JoinHandle<()>,
}

impl Node {
    pub(super) fn start(config: Config) -> Node {
        Node::start_with(config, Options::default())
    }

    pub(super) fn start_with(config: Config, options: Options) -> Node {
        let (speaker, thread) = spawn(config, options).expect("a speaker");
        let learned = speaker.learned();
        Node { speaker, learned, thread }
    }

    pub(super) async fn change(&self, changes: Vec<Change>) {
        timeout(DEADLINE, self.speaker.change(changes)).await.expect("in time").expect("the speaker runs");
    }

    pub(super) async fn configure(&self, config: Config) {
        self.change(vec![Change::Configure(Box::new(config))]).await;
    }

    /// Originates these with our own address as next hop.
    pub(super) async fn announce(&self, prefixes: impl IntoIterator<Item = Prefix>) {
        let ours = Attributes::new(Origin::Igp, AsPath::empty(), NextHop::from(IpAddr::from([0, 0, 0, 0])));
        self.change(vec![Change::Announce(prefixes.into_iter().map(|of| (of, vec![ours.clone()])).collect())]).await;
    }

    /// Waits until what was learned fits.
    pub(super) async fn learns(&self, what: &str, fits: impl Fn(&Learned) -> bool) {
        let mut learned = self.learned.clone();
        if timeout(DEADLINE, learned.wait_for(&fits)).await.is_err() {
            let learned = learned.borrow();
            let few: Vec<_> = learned.routes.iter().take(5).collect();
            panic!("never learned {what}: {} routes, settled {}, {few:?}", learned.routes.len(), learned.settled);
        }
    }

    pub(super) async fn stop(self, how: Goodbye) {
        timeout(DEADLINE, self.speaker.stop(how, Duration::from_secs(5))).await.expect("a bounded stop");
        let Node { speaker, learned, thread } = self;
        drop((speaker, learned));
        tokio::task::spawn_blocking(move || thread.join().expect("no panic")).await.expect("joined");
    }
}

/// `count` prefixes /24 from 20.0.0.0 on.
pub(super) fn table(count: u32) -> impl Iterator<Item = Prefix> {
    (0..count).map(|n| Prefix::new(IpAddr::V4((0x1400_0000 + (n << 8)).into()), 24).expect("a prefix"))
}

/// A peer whose every message a test writes.
pub(super) struct Script {
    stream: TcpStream,
    received: Vec<u8>,
    pub(super) session: Negotiated,
}

/// What peer `n` offers.
pub(super) fn offer(n: u8) -> OpenSettings {
    OpenSettings {
        asn: asn(n),
        router_id: Ipv4Addr::new(10, 0, 0, n),
        hold_time: 90,
        peer_asn: None,
        families: Family::ALL.to_vec(),
        add_path_receive: Vec::new(),
        add_path_send: Vec::new(),
        extended_next_hop: false,
        extended_messages: false,
        graceful_restart: None,
        long_lived: 0,
        forwarding_kept: false,
    }
}

impl Script {
    /// Connects from 127.0.0.`n` and shakes hands.
    pub(super) async fn connect(n: u8, to: SocketAddr, ours: &OpenSettings) -> Script {
        let stream = Script::open(n, to).await;
        Script::shake(stream, ours).await.expect("a session")
    }

    /// The same with a receive buffer that holds little.
    pub(super) async fn connect_narrowly(n: u8, to: SocketAddr, ours: &OpenSettings) -> Script {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(8192).expect("a size");
        socket.bind(SocketAddr::new(address(n), 0)).expect("bound");
        let stream = socket.connect(to).await.expect("connected");
        Script::shake(stream, ours).await.expect("a session")
    }

    /// Only connects.
    pub(super) async fn open(n: u8, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(address(n), 0)).expect("bound");
        socket.connect(to).await.expect("connected")
    }

    /// Shakes hands on a connection; `None` where the speaker closes it.
    pub(super) async fn shake(stream: TcpStream, ours: &OpenSettings) -> Option<Script> {
        let mut script = Script::begin(stream, ours).await?;
        let mut bytes = Vec::new();
        wire::encode_keepalive(&mut bytes);
        script.send(&bytes).await;
        match script.next().await? {
            Message::Keepalive => Some(script),
            Message::Notification(_) => None,
            other => panic!("expected a KEEPALIVE, got {other:?}"),
        }
    }

    /// Exchanges OPENs and no more.
    pub(super) async fn begin(stream: TcpStream, ours: &OpenSettings) -> Option<Script> {
        let somebody = OpenSettings { asn: Asn(1), router_id: Ipv4Addr::new(1, 1, 1, 1), ..ours.clone() };
        let session = negotiate(ours, &wire::Open::from_settings(&somebody)).expect("agreed");
        let mut script = Script { stream, received: Vec::new(), session };
        let mut bytes = Vec::new();
        wire::encode_open(ours, &mut bytes);
        // A speaker that wants nothing of us may have closed it already.
        let _ = script.stream.write_all(&bytes).await;
        let theirs = match script.next().await? {
            Message::Open(theirs) => theirs,
            Message::Notification(_) => return None,
            other => panic!("expected an OPEN, got {other:?}"),
        };
        script.session = negotiate(ours, &theirs).expect("agreed");
        Some(script)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("in time").expect("sent");
    }

    /// Announces prefixes, all with one path.
    pub(super) async fn announce(&mut self, as_path: &[Asn], prefixes: &[Prefix]) {
        let next_hop = match self.stream.local_addr().expect("connected").ip() {
            IpAddr::V4(ours) => next_hop(ours.octets()[3]),
            IpAddr::V6(_) => panic!("tests run over IPv4"),
        };
        let attributes = Attributes::new(Origin::Igp, as_path.iter().copied().collect(), NextHop::from(next_hop));
        let nlri: Vec<Nlri> = prefixes.iter().copied().map(Nlri::new).collect();
        let mut bytes = Vec::new();
        wire::encode_reach(&attributes, Family::V4, &nlri, &self.session, &mut bytes).expect("fits");
        self.send(&bytes).await;
    }

    /// Says that this was all.
    pub(super) async fn end_of_rib(&mut self) {
        let mut bytes = Vec::new();
        self.session.families.clone().into_iter().for_each(|family| wire::encode_end_of_rib(family, &mut bytes));
        self.send(&bytes).await;
    }

    /// The next message; `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<Message> {
        timeout(DEADLINE, self.read()).await.expect("a message in time")
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(length) = wire::frame(&self.received, wire::MAX).expect("a header") {
                let message: Vec<u8> = self.received.drain(..length).collect();
                return Some(wire::decode(&message, Some(&self.session)).expect("a message"));
            }
            self.received.reserve(16384);
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next UPDATE, other than End-of-RIB.
    pub(super) async fn update(&mut self) -> Update {
        loop {
            match self.next().await {
                Some(Message::Update(update)) if update.end_of_rib.is_none() => return update,
                Some(Message::Update(_) | Message::Keepalive) => {}
                other => panic!("expected an UPDATE, got {other:?}"),
            }
        }
    }

    /// Whether nothing but KEEPALIVEs comes for a while.
    pub(super) async fn is_quiet(&mut self) -> bool {
        loop {
            match timeout(Duration::from_millis(300), self.read()).await {
                Err(_) => return true,
                Ok(Some(Message::Keepalive)) => {}
                Ok(_) => return false,
            }
        }
    }

    /// Reads until the first End-of-RIB; everything announced before it.
    pub(super) async fn until_end_of_rib(&mut self) -> Vec<Nlri> {
        let mut routes = Vec::new();
        loop {
            match self.next().await {
                Some(Message::Update(update)) if update.end_of_rib.is_some() => return routes,
                Some(Message::Update(update)) => routes.extend(update.reach.into_iter().flat_map(|reach| reach.nlri)),
                Some(Message::Keepalive) => {}
                other => panic!("expected the End-of-RIB, got {other:?}"),
            }
        }
    }

    /// Reads to the end of the connection: routes withdrawn on the way, and the NOTIFICATION if there was one.
    pub(super) async fn until_closed(&mut self) -> (Vec<Nlri>, Option<Notification>) {
        let (mut withdrawn, mut last) = (Vec::new(), None);
        while let Some(message) = self.next().await {
            match message {
                Message::Update(update) => withdrawn.extend(update.withdrawn),
                Message::Notification(notification) => last = Some(notification),
                _ => {}
            }
        }
        (withdrawn, last)
    }
}
