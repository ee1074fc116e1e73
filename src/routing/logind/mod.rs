//! Holding the host's shutdown back for a moment: a delay lock of systemd-logind, over the system bus (`systemd-inhibit(1)`,
//! `org.freedesktop.login1(5)`).
//!
//! [`Logind`] is one connection. Whoever has a [`Lock`] is told of a shutdown before anything is stopped, and the shutdown
//! goes on when the lock is let go of, or after [`Logind::longest_delay`] in any case. Only what logind itself says counts:
//! a signal to our address may come from anybody on the host.

pub mod wire;

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use wire::{Kind, Malformed, Message};

/// Where the system bus of the host listens, unless [`ADDRESS_VARIABLE`] says something else.
pub const SOCKET: &str = "/run/dbus/system_bus_socket";
/// Names the system bus ("D-Bus Specification", Well-known Message Bus Instances).
pub const ADDRESS_VARIABLE: &str = "DBUS_SYSTEM_BUS_ADDRESS";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line of the handshake, bytes.
const LONGEST_LINE: usize = 512;
/// The most file descriptors of one reading: logind sends one.
const MOST_FDS: usize = 4;
/// The most signals that wait to be looked at.
const MOST_SIGNALS: usize = 64;

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const SIGNAL: &str = "PrepareForShutdown";

/// Why logind cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus cannot be reached or broke off.
    #[error("the system bus: {0}")]
    Io(#[from] io::Error),
    /// The bus does not let us in.
    #[error("the system bus refuses us: {0:?}")]
    Refused(String),
    /// The bus says something else than messages.
    #[error("the system bus: {0}")]
    Malformed(#[from] Malformed),
    /// A call was answered with an error.
    #[error("{call}: {name}: {text}")]
    Answer {
        /// What was asked.
        call: &'static str,
        /// The error's name.
        name: String,
        /// What it says.
        text: String,
    },
    /// A call was not answered.
    #[error("{0}: no answer")]
    Silence(&'static str),
}

/// Where the system bus listens, by what [`ADDRESS_VARIABLE`] says.
pub fn socket(address: Option<&str>) -> PathBuf {
    let options = address.into_iter().flat_map(|list| list.split(';')).filter_map(|it| it.strip_prefix("unix:"));
    let path = options.flat_map(|options| options.split(',')).find_map(|option| option.strip_prefix("path="));
    PathBuf::from(path.unwrap_or(SOCKET))
}

/// A delay lock: the shutdown waits while it lives.
#[derive(Debug)]
pub struct Lock {
    _held: OwnedFd,
}

/// A connection to logind.
#[derive(Debug)]
pub struct Logind {
    bus: Bus,
    /// The unique name of logind's own connection.
    owner: String,
}

impl Logind {
    /// Connects, and listens for shutdowns from then on.
    ///
    /// # Errors
    /// The bus is not there or refuses us, or there is no logind on it.
    pub async fn connect(socket: &Path) -> Result<Logind, Error> {
        let mut bus = Bus::connect(socket).await?;
        bus.call("Hello", [BUS, BUS_PATH, BUS, "Hello"], &[]).await?;
        let rule =
            format!("type='signal',sender='{LOGIND}',path='{LOGIND_PATH}',interface='{MANAGER}',member='{SIGNAL}'");
        bus.call("AddMatch", [BUS, BUS_PATH, BUS, "AddMatch"], &[&rule]).await?;
        let owner = owner(&mut bus).await?;
        Ok(Logind { bus, owner })
    }

    /// How long logind lets locks delay a shutdown (`InhibitDelayMaxSec` of logind.conf).
    ///
    /// # Errors
    /// logind does not say.
    pub async fn longest_delay(&mut self) -> Result<Duration, Error> {
        let (answer, _) = self.property("InhibitDelayMaxUSec").await?;
        let mut value = answer.values();
        value.variant_of("t")?;
        Ok(Duration::from_micros(value.u64()?))
    }

    /// Whether a shutdown has begun and waits for locks.
    ///
    /// # Errors
    /// logind does not say.
    pub async fn is_shutting_down(&mut self) -> Result<bool, Error> {
        let (answer, _) = self.property("PreparingForShutdown").await?;
        let mut value = answer.values();
        value.variant_of("b")?;
        Ok(value.bool()?)
    }

    /// Takes a lock. `why` is shown to whoever lists locks.
    ///
    /// # Errors
    /// logind refuses.
    pub async fn hold(&mut self, why: &str) -> Result<Lock, Error> {
        let to = [LOGIND, LOGIND_PATH, MANAGER, "Inhibit"];
        let (_, mut fds) = self.bus.call("Inhibit", to, &["shutdown", "ferrovia", why, "delay"]).await?;
        let held = fds.pop_front().ok_or(Malformed::NO_FD)?;
        Ok(Lock { _held: held })
    }

    /// Waits for the next word about a shutdown: true when one begins, false when it is over or was called off.
    ///
    /// # Errors
    /// The bus broke off.
    pub async fn next(&mut self) -> Result<bool, Error> {
        loop {
            // Kept until it has been judged: whoever stops waiting in between loses nothing.
            let signal = self.bus.peek_signal().await?.clone();
            if signal.sender.as_ref() != Some(&self.owner) {
                self.owner = owner(&mut self.bus).await?;
            }
            self.bus.signals.pop_front();
            if signal.sender.as_ref() == Some(&self.owner) && signal.signature == "b" {
                return Ok(signal.values().bool()?);
            }
        }
    }

    async fn property(&mut self, name: &'static str) -> Result<(Message, VecDeque<OwnedFd>), Error> {
        self.bus.call(name, [LOGIND, LOGIND_PATH, PROPERTIES, "Get"], &[MANAGER, name]).await
    }
}

/// The unique name of logind's connection.
async fn owner(bus: &mut Bus) -> Result<String, Error> {
    let (answer, _) = bus.call("GetNameOwner", [BUS, BUS_PATH, BUS, "GetNameOwner"], &[LOGIND]).await?;
    Ok(answer.values().string()?)
}

/// A connection to a message bus.
#[derive(Debug)]
struct Bus {
    stream: UnixStream,
    serial: u32,
    /// What was read and is no whole message yet.
    read: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects and says who we are: by user id, which the kernel confirms to the bus (EXTERNAL of RFC 4422).
    async fn connect(socket: &Path) -> Result<Bus, Error> {
        let stream = UnixStream::connect(socket).await?;
        let mut bus = Bus { stream, serial: 0, read: Vec::new(), fds: VecDeque::new(), signals: VecDeque::new() };
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.greet(&format!("\0AUTH EXTERNAL {user}\r\n"), "OK ").await?;
        bus.greet("NEGOTIATE_UNIX_FD\r\n", "AGREE_UNIX_FD").await?;
        bus.stream.write_all(b"BEGIN\r\n").await?;
        Ok(bus)
    }

    /// One line of the handshake and its answer.
    async fn greet(&mut self, line: &str, expected: &str) -> Result<(), Error> {
        self.stream.write_all(line.as_bytes()).await?;
        let answer = timeout(PATIENCE, self.line()).await.map_err(|_| Error::Silence("the handshake"))??;
        if answer.starts_with(expected) { Ok(()) } else { Err(Error::Refused(answer)) }
    }

    async fn line(&mut self) -> Result<String, Error> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.read.len() > LONGEST_LINE {
                return Err(Error::Refused(String::from_utf8_lossy(&self.read).into_owned()));
            }
            self.fill().await?;
        }
    }

    /// Calls a method and waits for the answer, with the file descriptors that came along.
    async fn call(
        &mut self,
        name: &'static str,
        to: [&str; 4],
        arguments: &[&str],
    ) -> Result<(Message, VecDeque<OwnedFd>), Error> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let serial = self.serial;
        self.stream.write_all(&Message::call(serial, to, arguments).encode()).await?;
        let (answer, fds) = timeout(PATIENCE, self.answer(serial)).await.map_err(|_| Error::Silence(name))??;
        if answer.kind == Kind::Error {
            let text = answer.values().string().unwrap_or_default();
            return Err(Error::Answer { call: name, name: answer.error.unwrap_or_default(), text });
        }
        Ok((answer, fds))
    }

    async fn answer(&mut self, serial: u32) -> Result<(Message, VecDeque<OwnedFd>), Error> {
        loop {
            let (message, fds) = self.message().await?;
            match message.kind {
                Kind::Signal => self.keep(message),
                Kind::Return | Kind::Error if message.reply_to == Some(serial) => return Ok((message, fds)),
                _ => {}
            }
        }
    }

    /// The oldest signal that was not taken yet.
    async fn peek_signal(&mut self) -> Result<&Message, Error> {
        while self.signals.is_empty() {
            let (message, _) = self.message().await?;
            self.keep(message);
        }
        self.signals.front().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }

    /// Keeps a signal about a shutdown. Anybody may send some: a few are kept.
    fn keep(&mut self, message: Message) {
        let is_ours = message.kind == Kind::Signal
            && message.member.as_deref() == Some(SIGNAL)
            && message.path.as_deref() == Some(LOGIND_PATH);
        if is_ours && self.signals.len() < MOST_SIGNALS {
            self.signals.push_back(message);
        }
    }

    async fn message(&mut self) -> Result<(Message, VecDeque<OwnedFd>), Error> {
        loop {
            if let Some((message, taken)) = Message::decode(&self.read)? {
                self.read.drain(..taken);
                let n_fds = usize::try_from(message.n_fds).unwrap_or(usize::MAX).min(self.fds.len());
                let fds = self.fds.drain(..n_fds).collect();
                return Ok((message, fds));
            }
            self.fill().await?;
        }
    }

    /// Reads what there is, at least a byte.
    async fn fill(&mut self) -> Result<(), Error> {
        let (stream, fds) = (&self.stream, &mut self.fds);
        let mut bytes = [0; 4096];
        let n_read = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut into = [IoSliceMut::new(&mut bytes)];
                let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                let received = recvmsg(stream, &mut into, &mut control, flags)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                Ok(received.bytes)
            })
            .await?;
        if n_read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.read.extend(bytes.iter().take(n_read));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
