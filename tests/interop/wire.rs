//! What really went over the link: `tcpdump` writes it down, and the BGP messages are put together from the segments.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ferrovia::testing::lab::{Namespace, wait};

/// A recording in progress.
#[derive(Debug)]
pub(crate) struct Recording {
    tcpdump: Child,
    file: PathBuf,
}

/// One message on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub from: IpAddr,
    pub to: IpAddr,
    /// With its header.
    pub bytes: Vec<u8>,
}

pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const REFRESH: u8 = 5;

impl Sent {
    pub(crate) fn kind(&self) -> u8 {
        self.bytes.get(18).copied().unwrap_or_default()
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(19..).unwrap_or_default()
    }
}

impl Recording {
    /// Records `eth0` of a namespace from now on.
    pub(crate) fn start(ns: &Namespace, file: &Path) -> Result<Recording> {
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", "eth0", "-U", "--immediate-mode", "-s", "0", "-B", "8192", "-Z", "root", "-w"])
            .arg(file)
            .arg("tcp");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tcpdump = ns.run(|| command.spawn().context("start tcpdump"))?;
        // It says "listening on" once nothing can pass it by any more.
        let mut said = BufReader::new(tcpdump.stderr.take().ok_or_else(|| anyhow!("no standard error"))?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                bail!("tcpdump ended: {}", tcpdump.wait()?);
            }
        }
        // Kept open, so that its closing words do not break a pipe.
        std::thread::spawn(move || said.lines().for_each(drop));
        Ok(Recording { tcpdump, file: file.to_owned() })
    }

    /// Every whole message so far, in order of arrival within each connection's direction.
    pub(crate) fn messages(&self) -> Result<Vec<Sent>> {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut File::open(&self.file)?, &mut bytes)?;
        messages(&bytes)
    }

    /// Messages of one kind from one address.
    pub(crate) fn from(&self, address: &str, kind: u8) -> Result<Vec<Sent>> {
        let address: IpAddr = address.parse()?;
        Ok(self.messages()?.into_iter().filter(|sent| sent.from == address && sent.kind() == kind).collect())
    }

    /// Waits for a message of one kind from one address that pleases `check`.
    pub(crate) fn seen(&self, what: &str, address: &str, kind: u8, check: impl Fn(&Sent) -> bool) -> Result<Sent> {
        wait::until(what, Duration::from_secs(20), || {
            let all = self.from(address, kind)?;
            all.iter().find(|sent| check(sent)).cloned().ok_or_else(|| anyhow!("seen: {}", texts(&all)))
        })
    }
}

fn texts(all: &[Sent]) -> String {
    let hex = |sent: &Sent| sent.bytes.iter().take(80).map(|byte| format!("{byte:02x}")).collect::<String>();
    all.iter().map(hex).collect::<Vec<_>>().join(" | ")
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(self.tcpdump.kill());
        drop(self.tcpdump.wait());
    }
}

/// The capabilities of an OPEN, as code and value.
pub(crate) fn capabilities(open: &Sent) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let body = open.body();
    let mut parameters = match body.get(9..12) {
        // RFC 9072: lengths of two octets.
        Some([255, 255, _]) => body.get(13..).unwrap_or_default(),
        _ => body.get(10..).unwrap_or_default(),
    };
    let wide = body.get(9..11) == Some(&[255, 255]);
    loop {
        let (kind, value, rest) = match (wide, parameters) {
            (false, [kind, length, rest @ ..]) if rest.len() >= usize::from(*length) => {
                let (value, rest) = rest.split_at(usize::from(*length));
                (*kind, value, rest)
            }
            (true, [kind, high, low, rest @ ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
                let (value, rest) = rest.split_at(length);
                (*kind, value, rest)
            }
            _ => return all,
        };
        parameters = rest;
        let mut value = value;
        while let (2, [code, length, more @ ..]) = (kind, value) {
            let (this, rest) = more.split_at(usize::from(*length).min(more.len()));
            all.push((*code, this.to_vec()));
            value = rest;
        }
    }
}

/// One direction of one connection.
#[derive(Default)]
struct Stream {
    /// Sequence number of the first octet that is still missing.
    next: Option<u32>,
    early: BTreeMap<u32, Vec<u8>>,
    bytes: Vec<u8>,
}

impl Stream {
    /// Takes a segment in whatever order it comes.
    fn take(&mut self, sequence: u32, data: &[u8]) {
        let Some(next) = self.next else { return };
        if !data.is_empty() {
            self.early.insert(sequence.wrapping_sub(next), data.to_vec());
        }
        let mut at = 0u32;
        // Keys are offsets from `next`; one that lies before it is a repetition.
        let early = std::mem::take(&mut self.early);
        for (offset, data) in early {
            let length = u32::try_from(data.len()).unwrap_or(0);
            if offset > u32::MAX / 2 {
                let behind = usize::try_from(offset.wrapping_neg()).unwrap_or(usize::MAX);
                if let Some(rest) = data.get(behind..).filter(|rest| !rest.is_empty()) {
                    self.bytes.extend_from_slice(rest);
                    at = at.wrapping_add(u32::try_from(rest.len()).unwrap_or(0));
                }
            } else if offset <= at {
                let skip = usize::try_from(at - offset).unwrap_or(usize::MAX);
                if let Some(rest) = data.get(skip..) {
                    self.bytes.extend_from_slice(rest);
                    at = at.max(offset + length);
                }
            } else {
                self.early.insert(offset, data);
            }
        }
        if at > 0 {
            self.next = Some(next.wrapping_add(at));
            self.early = std::mem::take(&mut self.early).into_iter().map(|(o, d)| (o.wrapping_sub(at), d)).collect();
        }
    }
}

/// Reads a capture file (microsecond or nanosecond pcap, Ethernet).
fn messages(pcap: &[u8]) -> Result<Vec<Sent>> {
    let mut all = Vec::new();
    let mut streams: BTreeMap<(SocketAddr, SocketAddr), Stream> = BTreeMap::new();
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    if word(pcap, 0) != Some(0xa1b2_c3d4) {
        bail!("not a capture file");
    }
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some(length) = word(rest, 8) {
        let length = usize::try_from(length)?;
        let Some(frame) = rest.get(16..16 + length) else { break };
        rest = rest.get(16 + length..).unwrap_or_default();
        let Some((from, to, segment)) = tcp(frame) else { continue };
        let Some(header) = segment.get(..20) else { continue };
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let data = segment.get(usize::from(header[12] >> 4) * 4..).unwrap_or_default();
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let key = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
        let stream = streams.entry(key).or_default();
        if header[13] & 2 != 0 {
            *stream = Stream { next: Some(sequence.wrapping_add(1)), ..Stream::default() };
            continue;
        }
        stream.take(sequence, data);
        while let Some(length) = whole(&stream.bytes) {
            let bytes = stream.bytes.drain(..length).collect();
            all.push(Sent { from, to, bytes });
        }
    }
    Ok(all)
}

/// Length of the first message, when it is all there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    (bytes.len() >= length && length >= 19).then_some(length)
}

/// Addresses and segment of an Ethernet frame that carries TCP.
fn tcp(frame: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 15) * 4;
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            let address = |at: usize| -> Option<IpAddr> {
                Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into())
            };
            let total = if total == 0 { packet.len() } else { total };
            (*packet.get(9)? == 6).then_some((address(12)?, address(16)?, packet.get(header..total)?))
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
            let address = |at: usize| -> Option<IpAddr> {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into())
            };
            let end = if length == 0 { packet.len() } else { 40 + length };
            (*packet.get(6)? == 6).then_some((address(8)?, address(24)?, packet.get(40..end)?))
        }
        _ => None,
    }
}

#[test]
fn segments_are_put_together_in_any_order() {
    let mut stream = Stream { next: Some(10), ..Stream::default() };
    stream.take(13, b"def");
    assert!(stream.bytes.is_empty());
    stream.take(10, b"abc");
    stream.take(10, b"abc");
    stream.take(12, b"cdefg");
    assert_eq!(stream.bytes, b"abcdefg");
}
