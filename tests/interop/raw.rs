//! A peer that says exactly what a test wants: bytes of its own making over a plain socket.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::testing::lab::Namespace;

/// One connection of it, with the session up.
pub(crate) struct Raw {
    stream: TcpStream,
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(19 + body.len()).expect("a message").to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// An OPEN with capabilities: 4-octet AS, IPv4 and IPv6.
pub(crate) fn open(asn: u16, id: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![4];
    body.extend(asn.to_be_bytes());
    body.extend(90u16.to_be_bytes());
    body.extend(id.octets());
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4];
    capabilities.extend(u32::from(asn).to_be_bytes());
    body.extend([u8::try_from(capabilities.len() + 2).expect("short"), 2]);
    body.push(u8::try_from(capabilities.len()).expect("short"));
    body.extend(capabilities);
    message(1, &body)
}

/// An UPDATE of these three fields.
pub(crate) fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(withdrawn.len()).expect("short").to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).expect("short").to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(2, &body)
}

/// A path attribute.
pub(crate) fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags, code];
    match u8::try_from(value.len()) {
        Ok(length) => bytes.push(length),
        Err(_) => {
            bytes[0] |= 0x10;
            bytes.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        }
    }
    bytes.extend(value);
    bytes
}

/// Listens in a namespace.
pub(crate) fn listen(ns: &Namespace, address: IpAddr, port: u16) -> Result<TcpListener> {
    ns.run(|| TcpListener::bind(SocketAddr::new(address, port)).with_context(|| format!("listen on {port}")))
}

/// Connects from a namespace.
pub(crate) fn connect(ns: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    ns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).with_context(|| format!("connect to {to}")))
}

impl Raw {
    /// Takes the next connection and brings the session up.
    pub(crate) fn accept(listener: &TcpListener, asn: u16, id: Ipv4Addr) -> Result<Raw> {
        let (stream, _) = listener.accept()?;
        Raw::open(stream, asn, id)
    }

    /// A connection on which nothing was said yet.
    pub(crate) fn bare(stream: TcpStream) -> Result<Raw> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream })
    }

    /// Brings a session up over a connection.
    pub(crate) fn open(stream: TcpStream, asn: u16, id: Ipv4Addr) -> Result<Raw> {
        let mut raw = Raw::bare(stream)?;
        raw.send(&open(asn, id))?;
        let (kind, body) = raw.receive()?;
        ensure!(kind == 1, "an OPEN was due, not {kind} {body:?}");
        raw.send(&message(4, &[]))?;
        let (kind, body) = raw.receive()?;
        ensure!(kind == 4, "a KEEPALIVE was due, not {kind} {body:?}");
        Ok(raw)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")
    }

    /// The next message: its kind and body.
    pub(crate) fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut header = [0; 19];
        self.stream.read_exact(&mut header).context("receive")?;
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        ensure!(length >= 19, "a message of {length} octets");
        let mut body = vec![0; length - 19];
        self.stream.read_exact(&mut body)?;
        Ok((header[18], body))
    }

    /// The NOTIFICATION that must come, whatever comes before it.
    pub(crate) fn notification(&mut self) -> Result<(u8, u8)> {
        loop {
            match self.receive()? {
                (3, body) => match body.as_slice() {
                    [code, subcode, ..] => return Ok((*code, *subcode)),
                    _ => bail!("a NOTIFICATION of {} octets", body.len()),
                },
                _ => continue,
            }
        }
    }

    /// Reads whatever comes on a thread of its own, so that the other side can always write.
    pub(crate) fn drain(&self) -> Result<()> {
        let mut stream = self.stream.try_clone()?;
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
        });
        Ok(())
    }
}
