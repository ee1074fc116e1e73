//! The client against a bus that plays logind, byte by byte where it matters.

use std::io::{IoSlice, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Pipe;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

use super::*;

/// One side of a connection: the bus, and logind behind it.
struct Host {
    stream: UnixStream,
    read: Vec<u8>,
    /// logind's unique name.
    owner: &'static str,
    locks: Vec<Pipe>,
}

fn listen() -> (TempDir, UnixListener, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, listener, path)
}

/// A connection, and the host it is with.
async fn connected() -> (Logind, Host) {
    let (_folder, listener, path) = listen();
    let serve = async {
        let mut host = Host::accept(&listener).await;
        host.answer(3).await;
        host
    };
    let (logind, host) = tokio::join!(Logind::connect(&path), serve);
    (logind.unwrap(), host)
}

impl Host {
    async fn accept(listener: &UnixListener) -> Host {
        let (stream, _) = listener.accept().await.unwrap();
        let mut host = Host { stream, read: Vec::new(), owner: ":1.7", locks: Vec::new() };
        let greeting = host.line().await;
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        assert_eq!(greeting, format!("\0AUTH EXTERNAL {user}"));
        host.write(b"OK 1234deadbeef\r\n").await;
        assert_eq!(host.line().await, "NEGOTIATE_UNIX_FD");
        host.write(b"AGREE_UNIX_FD\r\n").await;
        assert_eq!(host.line().await, "BEGIN");
        host
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// In two pieces, as a stream may bring it.
    async fn write(&mut self, bytes: &[u8]) {
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        self.stream.write_all(head).await.unwrap();
        tokio::task::yield_now().await;
        self.stream.write_all(tail).await.unwrap();
    }

    /// Answers so many calls.
    async fn answer(&mut self, n_calls: usize) {
        for _ in 0..n_calls {
            let call = self.call().await;
            self.reply(&call).await;
        }
    }

    async fn call(&mut self) -> Message {
        loop {
            if let Some((message, taken)) = Message::decode(&self.read).unwrap() {
                self.read.drain(..taken);
                assert_eq!(message.kind, Kind::Call);
                return message;
            }
            assert_ne!(self.stream.read_buf(&mut self.read).await.unwrap(), 0, "the client has gone");
        }
    }

    async fn reply(&mut self, call: &Message) {
        let arguments = call.signature.len();
        let mut values = call.values();
        let texts: Vec<String> = (0..arguments).map(|_| values.string().unwrap()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let base = Message { kind: Kind::Return, serial: 9, reply_to: Some(call.serial), ..Message::default() };
        let strings = |text: &str| Message::call(9, [""; 4], &[text]).body;
        let answer = match (call.member.as_deref().unwrap(), texts.as_slice()) {
            ("Hello", []) => Message { signature: "s".into(), body: strings(":1.3"), ..base },
            ("AddMatch", [rule]) => {
                assert!(rule.contains("sender='org.freedesktop.login1'") && rule.contains("'PrepareForShutdown'"));
                base
            }
            ("GetNameOwner", [LOGIND]) => Message { signature: "s".into(), body: strings(self.owner), ..base },
            ("Get", [MANAGER, "InhibitDelayMaxUSec"]) => {
                let body = [b"\x01t\0".as_slice(), &[0; 5], &5_000_000_u64.to_le_bytes()].concat();
                Message { signature: "v".into(), body, ..base }
            }
            ("Get", [MANAGER, "PreparingForShutdown"]) => {
                let body = [b"\x01b\0\0".as_slice(), &1_u32.to_le_bytes()].concat();
                Message { signature: "v".into(), body, ..base }
            }
            ("Inhibit", ["shutdown", "ferrovia", "test", "delay"]) => {
                let answer = Message { signature: "h".into(), body: vec![0; 4], n_fds: 1, ..base };
                let (theirs, ours) = Pipe::pair().unwrap();
                let fds = [theirs.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
                let bytes = answer.encode();
                sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
                self.locks.push(ours);
                return;
            }
            ("Inhibit", _) => Message {
                kind: Kind::Error,
                error: Some("org.freedesktop.DBus.Error.AccessDenied".to_owned()),
                signature: "s".into(),
                body: strings("Permission denied"),
                ..base
            },
            (member, texts) => panic!("unexpected call {member} {texts:?}"),
        };
        self.write(&answer.encode()).await;
    }

    async fn tell(&mut self, sender: &str, member: &str, begins: bool) {
        let signal = Message {
            kind: Kind::Signal,
            path: Some(LOGIND_PATH.to_owned()),
            interface: Some(MANAGER.to_owned()),
            member: Some(member.to_owned()),
            sender: Some(sender.to_owned()),
            signature: "b".to_owned(),
            body: u32::from(begins).to_le_bytes().to_vec(),
            serial: 20,
            ..Message::default()
        };
        self.write(&signal.encode()).await;
    }
}

#[tokio::test]
async fn a_lock_is_held_until_it_is_dropped() {
    let (mut logind, mut host) = connected().await;
    let (lock, ()) = tokio::join!(logind.hold("test"), host.answer(1));
    let lock = lock.unwrap();
    let held = &mut host.locks[0];
    held.set_nonblocking(true).unwrap();
    let mut byte = [0];
    assert_eq!(held.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it is held");
    drop(lock);
    assert_eq!(held.read(&mut byte).unwrap(), 0, "it was let go of");
}

#[tokio::test]
async fn what_logind_says_is_read() {
    let (mut logind, mut host) = connected().await;
    let (delay, ()) = tokio::join!(logind.longest_delay(), host.answer(1));
    assert_eq!(delay.unwrap(), Duration::from_secs(5));
    let (stops, ()) = tokio::join!(logind.is_shutting_down(), host.answer(1));
    assert!(stops.unwrap());
    let (refused, ()) = tokio::join!(logind.hold("something else"), host.answer(1));
    let told = refused.unwrap_err().to_string();
    assert_eq!(told, "Inhibit: org.freedesktop.DBus.Error.AccessDenied: Permission denied");
}

#[tokio::test]
async fn only_logind_is_believed() {
    let (mut logind, mut host) = connected().await;
    let tell = async {
        host.tell(":1.66", SIGNAL, true).await;
        host.answer(1).await;
        host.tell(":1.7", "PrepareForSleep", true).await;
        host.tell(":1.7", SIGNAL, false).await;
    };
    let (word, ()) = tokio::join!(logind.next(), tell);
    assert!(!word.unwrap(), "that a stranger says it begins is nothing");
    let tell = async {
        // It was restarted.
        host.owner = ":1.9";
        host.tell(":1.9", SIGNAL, true).await;
        host.answer(1).await;
    };
    let (word, ()) = tokio::join!(logind.next(), tell);
    assert!(word.unwrap());
}

#[tokio::test]
async fn a_word_that_comes_before_an_answer_is_not_lost() {
    let (mut logind, mut host) = connected().await;
    let serve = async {
        let call = host.call().await;
        host.tell(":1.7", SIGNAL, true).await;
        host.reply(&call).await;
    };
    let (delay, ()) = tokio::join!(logind.longest_delay(), serve);
    assert_eq!(delay.unwrap(), Duration::from_secs(5));
    assert!(logind.next().await.unwrap());
}

#[tokio::test]
async fn a_bus_that_ends_or_talks_nonsense_is_an_error() {
    let (mut logind, host) = connected().await;
    drop(host);
    assert!(matches!(logind.next().await, Err(Error::Io(_))));
    let (mut logind, mut host) = connected().await;
    host.write(b"HTTP/1.1 400 Bad Request").await;
    assert!(matches!(logind.next().await, Err(Error::Malformed(_))));
    let (_folder, listener, path) = listen();
    let refuse = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"REJECTED EXTERNAL\r\n").await.unwrap();
        stream
    };
    let (refused, _stream) = tokio::join!(Logind::connect(&path), refuse);
    assert!(matches!(refused, Err(Error::Refused(text)) if text == "REJECTED EXTERNAL"));
}

#[test]
fn the_bus_is_where_the_environment_says() {
    for (address, expected) in [
        (None, SOCKET),
        (Some("unix:path=/a/bus"), "/a/bus"),
        (Some("tcp:host=localhost;unix:guid=12,path=/b"), "/b"),
        (Some("unix:abstract=/c"), SOCKET),
    ] {
        assert_eq!(socket(address), Path::new(expected));
    }
}
