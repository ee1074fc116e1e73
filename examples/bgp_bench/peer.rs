//! A BGP peer with no opinions: it opens a session, writes what it is given and takes messages apart only as far as
//! their frames. Nothing here is shared with the speaker it measures.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketType};

/// Where the device under test listens, in the namespace of a measurement.
pub(crate) const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// Its AS.
pub(crate) const DEVICE_AS: u16 = 65000;
/// The port everybody listens on.
const PORT: u16 = 179;

/// Message types.
pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;

const MARKER: [u8; 16] = [0xff; 16];
const HEADER: usize = 19;
/// Long enough for any single phase, so that nobody's keepalives disturb one.
pub(crate) const HOLD: u16 = 240;
/// How long a device may take from its start to its first session.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing at all may come from a device that owes us something.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// Who we are towards the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Our end of the connection and our identifier.
    pub(crate) address: Ipv4Addr,
    /// Our AS.
    pub(crate) asn: u16,
    /// The hold time we offer.
    pub(crate) hold: u16,
}

/// A session that is up.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
    frames: Frames,
}

/// Bytes received, cut into messages.
#[derive(Debug)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// A whole message of the type with the body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = MARKER.to_vec();
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// OPEN with IPv4 unicast, route refresh and 4-octet AS numbers.
pub(crate) fn open(who: Identity) -> Vec<u8> {
    let [high, low] = who.asn.to_be_bytes();
    let capabilities = [1, 4, 0, 1, 0, 1, 2, 0, 65, 4, 0, 0, high, low];
    let mut body = vec![4, high, low];
    body.extend_from_slice(&who.hold.to_be_bytes());
    body.extend_from_slice(&who.address.octets());
    body.extend_from_slice(&[16, 2, 14]);
    body.extend_from_slice(&capabilities);
    message(OPEN, &body)
}

impl Frames {
    pub(crate) fn new() -> Frames {
        Frames { buffer: vec![0; 256 * 1024], start: 0, end: 0 }
    }

    /// A smaller one, where there are hundreds.
    pub(crate) fn small() -> Frames {
        Frames { buffer: vec![0; 8 * 1024], start: 0, end: 0 }
    }

    /// Room for more bytes; what is there moves to the front.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were written to [`Frames::room`].
    pub(crate) fn add(&mut self, count: usize) {
        self.end += count;
    }

    /// The next whole message, where there is one: its type and body.
    pub(crate) fn next(&mut self) -> Result<Option<(u8, &[u8])>> {
        let held = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((header, rest)) = held.split_first_chunk::<HEADER>() else { return Ok(None) };
        ensure!(header.starts_with(&MARKER), "the device lost its framing");
        let [.., high, low, kind] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = length.checked_sub(HEADER).context("a message shorter than its header")?;
        let Some(body) = rest.get(..body) else { return Ok(None) };
        self.start += length;
        Ok(Some((kind, body)))
    }
}

impl Session {
    /// Opens a session, again and again until the device takes it.
    pub(crate) fn establish(who: Identity) -> Result<Session> {
        let begun = Instant::now();
        loop {
            match Session::attempt(who) {
                Ok(session) => return Ok(session),
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(error.context(format!("no session from {} within {PATIENCE:?}", who.address)));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn attempt(who: Identity) -> Result<Session> {
        let stream = connect(who.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session = Session { stream, frames: Frames::new() };
        session.write(&open(who))?;
        let mut opened = false;
        loop {
            match session.read()? {
                (OPEN, _) => {
                    opened = true;
                    session.write(&message(KEEPALIVE, &[]))?;
                }
                (KEEPALIVE, _) if opened => break,
                (NOTIFICATION, body) => bail!("the device refused: NOTIFICATION {:?}", body.get(..2)),
                (kind, _) => bail!("message {kind} before the session was up"),
            }
        }
        session.stream.set_read_timeout(Some(STALL))?;
        Ok(session)
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("write to the device")
    }

    /// The next message; an error where the device says nothing for [`STALL`] or hangs up.
    pub(crate) fn read(&mut self) -> Result<(u8, &[u8])> {
        // Looked for twice: the borrow of a message found in a loop would outlive the loop.
        while !self.frames.is_ready() {
            let count = self.stream.read(self.frames.room()).context("the device fell silent")?;
            ensure!(count > 0, "the device closed the session");
            self.frames.add(count);
        }
        self.frames.next()?.context("no message after all")
    }

    /// Reads what has come within `span` and forgets it, so that nothing of an earlier phase is in the next.
    pub(crate) fn calm(&mut self, span: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(span))?;
        let begun = Instant::now();
        while begun.elapsed() < span {
            match self.stream.read(self.frames.room()) {
                Ok(0) => bail!("the device closed the session"),
                Ok(count) => {
                    self.frames.add(count);
                    while let Some((kind, body)) = self.frames.next()? {
                        ensure!(kind != NOTIFICATION, "the device ended the session: {:?}", body.get(..2));
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.stream.set_read_timeout(Some(STALL))?;
        Ok(())
    }

    /// Takes off the device's hands whatever it sends to this session, on a thread of its own, until it closes.
    pub(crate) fn drain(&self) -> Result<()> {
        let mut stream = self.stream.try_clone()?;
        stream.set_read_timeout(None)?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
        });
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends the draining thread too; a session that is gone already needs no end.
        drop(self.stream.shutdown(std::net::Shutdown::Both));
    }
}

impl Frames {
    /// Whether a whole message has come.
    fn is_ready(&self) -> bool {
        let held = self.buffer.get(self.start..self.end).unwrap_or_default();
        let length = held.get(16..18).and_then(|length| length.try_into().ok()).map(u16::from_be_bytes);
        length.is_some_and(|length| held.len() >= usize::from(length).max(HEADER))
    }
}

fn connect(from: Ipv4Addr) -> Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0)).with_context(|| format!("bind to {from}"))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(DEVICE, PORT))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The address everybody connects to.
pub(crate) fn device() -> std::net::SocketAddr {
    SocketAddrV4::new(DEVICE, PORT).into()
}
