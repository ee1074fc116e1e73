//! Two sessions over pipes, on a clock that jumps.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::connection::FAREWELL;
use super::*;
use crate::net::{Asn, Family};
use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Nlri, Origin};

type Reader = ReadHalf<DuplexStream>;
type Writer = WriteHalf<DuplexStream>;

/// Connecting makes a pipe; the other end goes to whoever accepts.
struct Pipe {
    accepts: Option<mpsc::UnboundedSender<(Reader, Writer)>>,
}

impl Transport for Pipe {
    type Reader = Reader;
    type Writer = Writer;

    async fn connect(&self) -> io::Result<(Reader, Writer)> {
        let (here, there) = duplex(4096);
        match &self.accepts {
            Some(accepts) if accepts.send(split(there)).is_ok() => Ok(split(here)),
            _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
        }
    }
}

struct Speaker {
    commands: mpsc::UnboundedSender<Command<Pipe>>,
    chunks: mpsc::Sender<Chunk>,
    reports: mpsc::Receiver<Report>,
}

impl Speaker {
    async fn up(&mut self) -> (u64, Negotiated) {
        match self.report().await {
            What::Up { session, negotiated, .. } => (session, *negotiated),
            other => panic!("expected an established session, got {other:?}"),
        }
    }

    /// What happens next, other than steps on the way.
    async fn report(&mut self) -> What {
        loop {
            let what = self.any_report().await;
            if !matches!(what, What::State(_)) {
                return what;
            }
        }
    }

    async fn any_report(&mut self) -> What {
        tokio::time::timeout(Duration::from_secs(600), self.reports.recv())
            .await
            .expect("a report")
            .expect("the session runs")
            .what
    }

    async fn tell(&self, command: Command<Pipe>) {
        assert!(self.commands.send(command).is_ok(), "the session runs");
    }
}

fn settings(asn: u32, id: u8) -> OpenSettings {
    OpenSettings {
        asn: Asn(asn),
        router_id: Ipv4Addr::new(192, 0, 2, id),
        hold_time: 90,
        peer_asn: None,
        families: Family::ALL.to_vec(),
        add_path_receive: Vec::new(),
        add_path_send: Vec::new(),
        extended_next_hop: false,
        extended_messages: true,
        graceful_restart: None,
        long_lived: 0,
        forwarding_kept: false,
    }
}

fn start(config: FsmConfig, transport: Pipe) -> Speaker {
    let (commands, their_commands) = mpsc::unbounded_channel();
    let (chunks, their_chunks) = mpsc::channel(4);
    let (their_reports, reports) = mpsc::channel(8);
    let channels =
        Channels { commands: their_commands, chunks: their_chunks, reports: their_reports, status: Arc::default() };
    let started = Instant::now();
    tokio::task::spawn_local(run(PeerId(1), config, transport, channels, started));
    Speaker { commands, chunks, reports }
}

/// Two speakers; the first connects, the second only accepts.
async fn pair() -> (Speaker, Speaker) {
    let (accepts, mut accepted) = mpsc::unbounded_channel();
    let here = start(FsmConfig::new(settings(64512, 1)), Pipe { accepts: Some(accepts) });
    let passive = FsmConfig { passive: true, ..FsmConfig::new(settings(64513, 2)) };
    let there = start(passive, Pipe { accepts: None });
    let commands = there.commands.clone();
    tokio::task::spawn_local(async move {
        while let Some((reader, writer)) = accepted.recv().await {
            if commands.send(Command::Accepted(reader, writer)).is_err() {
                return;
            }
        }
    });
    there.tell(Command::Start).await;
    here.tell(Command::Start).await;
    (here, there)
}

fn run_local(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn two_speakers_agree_and_exchange_routes() {
    run_local(async {
        let (mut here, mut there) = pair().await;
        let (number, session) = here.up().await;
        let (_, other) = there.up().await;
        assert_eq!((session.peer_asn, other.peer_asn), (Asn(64513), Asn(64512)));
        let next_hop = NextHop::from(std::net::IpAddr::from([192, 0, 2, 1]));
        let attributes = Attributes::new(Origin::Igp, [Asn(64512)].into_iter().collect::<AsPath>(), next_hop);
        let nlri: Vec<Nlri> =
            (0..200).map(|n| Nlri::new(format!("10.{n}.0.0/24").parse().expect("a prefix"))).collect();
        let mut bytes = Vec::new();
        wire::encode_reach(&attributes, Family::V4, &nlri, &session, &mut bytes).expect("fits");
        here.chunks.send(Chunk { session: number, bytes }).await.expect("the session runs");
        let mut seen = Vec::new();
        while seen.len() < nlri.len() {
            let What::Updates(updates) = there.report().await else { panic!("expected routes") };
            for reach in updates.into_iter().flat_map(|update| update.reach) {
                assert_eq!(reach.attributes, attributes);
                seen.extend(reach.nlri);
            }
        }
        assert_eq!(seen, nlri);
        assert!(matches!(here.report().await, What::Written));
    });
}

#[test]
fn a_session_outlives_its_hold_time_on_keepalives_alone() {
    run_local(async {
        let (mut here, mut there) = pair().await;
        here.up().await;
        there.up().await;
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert!(here.reports.try_recv().is_err());
        assert!(there.reports.try_recv().is_err());
    });
}

#[test]
fn a_stall_is_no_silence_of_the_peer() {
    run_local(async {
        let (accepts, mut accepted) = mpsc::unbounded_channel();
        let mut here = start(FsmConfig::new(settings(64512, 1)), Pipe { accepts: Some(accepts) });
        here.tell(Command::Start).await;
        let (mut reader, mut writer) = accepted.recv().await.expect("a connection");
        tokio::task::spawn_local(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        let (mut hello, mut keepalive, mut refreshes, mut update) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        wire::encode_open(&settings(64513, 2), &mut hello);
        wire::encode_keepalive(&mut keepalive);
        hello.extend_from_slice(&keepalive);
        writer.write_all(&hello).await.expect("written");
        let (_, session) = here.up().await;
        // As many reports as wait for the speaker, and one more: nothing is read meanwhile.
        (0..8).for_each(|_| wire::encode_refresh(Family::V4, Refresh::Ask, &mut refreshes));
        let next_hop = NextHop::from(std::net::IpAddr::from([192, 0, 2, 2]));
        let attributes = Attributes::new(Origin::Igp, [Asn(64513)].into_iter().collect::<AsPath>(), next_hop);
        let nlri = [Nlri::new("10.0.0.0/24".parse().expect("a prefix"))];
        wire::encode_reach(&attributes, Family::V4, &nlri, &session, &mut update).expect("fits");
        // Chance decides which of two things that are due is looked at first.
        for _ in 0..16 {
            for bytes in [&refreshes, &update] {
                writer.write_all(bytes).await.expect("written");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::advance(Duration::from_secs(100)).await;
            writer.write_all(&keepalive).await.expect("written");
            for _ in 0..9 {
                let heard = here.report().await;
                assert!(matches!(heard, What::Refresh(..) | What::Updates(_)), "{heard:?}");
            }
        }
        let What::Down { reason: DownReason::Sent(notification), .. } = here.report().await else {
            panic!("expected the end of a silent session")
        };
        assert_eq!(notification.code, 4, "a peer that says nothing any more is gone all the same");
    });
}

#[test]
fn a_stop_tells_the_peer_why_and_the_next_start_comes_up_again() {
    run_local(async {
        let (mut here, mut there) = pair().await;
        here.up().await;
        there.up().await;
        here.tell(Command::Stop(Some(wire::cease(2, "maintenance")))).await;
        assert!(matches!(here.report().await, What::Down { .. }));
        let What::Down { reason: DownReason::Received(notification), keep_routes: false } = there.report().await else {
            panic!("expected the Cease")
        };
        assert_eq!(wire::shutdown_text(&notification).as_deref(), Some("maintenance"));
        here.tell(Command::Start).await;
        assert_eq!(here.up().await.0, 2);
        there.up().await;
    });
}

#[test]
fn a_chunk_of_an_earlier_session_is_never_sent() {
    run_local(async {
        let (mut here, mut there) = pair().await;
        here.up().await;
        there.up().await;
        here.chunks.send(Chunk { session: 0, bytes: vec![0; 64] }).await.expect("the session runs");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(there.reports.try_recv().is_err(), "the peer saw bytes of a session that is over");
    });
}

#[test]
fn garbage_from_the_peer_ends_the_session_with_a_header_error() {
    run_local(async {
        let (mut here, mut there) = pair().await;
        let (number, _) = here.up().await;
        there.up().await;
        here.chunks.send(Chunk { session: number, bytes: vec![0; 64] }).await.expect("the session runs");
        let What::Down { reason: DownReason::Sent(notification), .. } = there.report().await else {
            panic!("expected the end of the session")
        };
        assert_eq!((notification.code, notification.subcode), (1, 1));
    });
}

#[test]
fn a_peer_that_is_not_there_is_tried_again() {
    run_local(async {
        let alone = start(FsmConfig::new(settings(64512, 1)), Pipe { accepts: None });
        alone.tell(Command::Start).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        let (here, there) = duplex(4096);
        let (reader, writer) = split(there);
        alone.tell(Command::Accepted(reader, writer)).await;
        let (mut reader, _writer) = split(here);
        let mut header = [0; wire::HEADER];
        reader.read_exact(&mut header).await.expect("an OPEN");
        assert_eq!(header[18], 1);
    });
}

#[test]
fn the_routes_of_a_frozen_peer_do_not_wait_for_its_farewell() {
    run_local(async {
        let passive = FsmConfig { passive: true, ..FsmConfig::new(settings(64513, 2)) };
        let mut here = start(passive, Pipe { accepts: None });
        here.tell(Command::Start).await;
        let (ours, theirs) = duplex(4096);
        let (reader, writer) = split(ours);
        here.tell(Command::Accepted(reader, writer)).await;
        let (_neither_read_nor_closed, mut writer) = split(theirs);
        let mut bytes = Vec::new();
        wire::encode_open(&settings(64512, 1), &mut bytes);
        wire::encode_keepalive(&mut bytes);
        writer.write_all(&bytes).await.expect("the session reads");
        here.up().await;
        let frozen = Instant::now();
        here.tell(Command::BfdDown).await;
        assert!(matches!(here.report().await, What::Down { .. }));
        assert!(frozen.elapsed() < FAREWELL / 2, "{:?}", frozen.elapsed());
    });
}

#[test]
fn a_goodbye_overtakes_the_routes_that_wait_but_cuts_no_message() {
    run_local(async {
        let passive = FsmConfig { passive: true, ..FsmConfig::new(settings(64513, 2)) };
        let mut here = start(passive, Pipe { accepts: None });
        here.tell(Command::Start).await;
        // The pipe holds less than one of the messages below.
        let (ours, theirs) = duplex(1500);
        let (reader, writer) = split(ours);
        here.tell(Command::Accepted(reader, writer)).await;
        let (mut reader, mut writer) = split(theirs);
        let mut bytes = Vec::new();
        wire::encode_open(&settings(64512, 1), &mut bytes);
        wire::encode_keepalive(&mut bytes);
        writer.write_all(&bytes).await.expect("the session reads");
        let (session, _) = here.up().await;
        // Ten UPDATEs of 2,000 bytes, of which no more than header and beginning matter here.
        let mut message = vec![0xff; 16];
        message.extend(2000u16.to_be_bytes());
        message.push(2);
        message.resize(2000, 0);
        here.chunks.send(Chunk { session, bytes: message.repeat(10) }).await.expect("the session runs");
        // Time for as much as the pipe takes, its OPEN and KEEPALIVE first.
        tokio::time::sleep(Duration::from_secs(1)).await;
        here.tell(Command::Stop(Some(wire::cease(2, "maintenance")))).await;
        // Heard before the pipe has room again, or the next message would begin.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).await.expect("whole messages, then the end");
        let (mut types, mut rest) = (Vec::new(), heard.as_slice());
        while let Some(length) = wire::frame(rest, wire::MAX).expect("a header") {
            types.push(rest[18]);
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "{} bytes of half a message", rest.len());
        assert_eq!(types, [1, 4, 2, 3], "OPEN, KEEPALIVE, the UPDATE that had begun, NOTIFICATION");
    });
}
