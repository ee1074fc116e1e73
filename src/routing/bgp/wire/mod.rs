//! BGP messages as bytes: the facade of the codec, and the only place that names it.
//!
//! RFC 4271 (base), 4760 (families), 2545 (IPv6), 5492 and 9072 (capabilities), 6793 (4-octet AS), 7606 (malformed
//! attributes), 7911 (path identifiers), 8654 (long messages), 8950 (IPv6 next hops of IPv4), 2918 and 7313 (refresh),
//! 9003 (shutdown text). What RFC 7606 makes a withdrawal is one already when it leaves here.

mod encode;
mod nlri;
mod open;
mod plain;
mod prepared;
mod raw;
#[cfg(test)]
mod tests;
mod update;

use rustbgpd_wire::{Afi, Safi};

pub use encode::{Unsendable, encode_end_of_rib, encode_reach, encode_withdraw, withdraw};
pub use open::{Capability, Open, encode_open};
pub use prepared::{Shape, encode_prepared, prepare, read_prepared};
pub use raw::{attributes_from_raw, attributes_raw, nlri_raw};
pub use update::{Reach, Update};

use super::types::{Negotiated, Notification};
use crate::net::Family;

/// Length of the header every message has.
pub const HEADER: usize = 19;

/// The longest message without RFC 8654.
pub const MAX: usize = 4096;

/// The longest message with it.
pub const MAX_EXTENDED: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const REFRESH: u8 = 5;

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// UPDATE.
    Update(Update),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    Refresh {
        /// Which routes.
        family: Family,
        /// What about them.
        kind: Refresh,
    },
    /// ROUTE-REFRESH of a family or a kind unknown here: to be ignored.
    RefreshOther,
}

/// What a ROUTE-REFRESH says (RFC 7313).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresh {
    /// Send everything again.
    Ask,
    /// Everything comes again from here.
    Begin,
    /// That was everything.
    End,
}

/// Length of the first message in `bytes`; `None` while its header is not complete. The message may be longer than
/// what is there.
fn announced_length(bytes: &[u8], max: usize) -> Result<Option<usize>, Notification> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let (marker, rest) = header.split_at(MARKER.len());
    let &[high, low, kind] = rest else { return Ok(None) };
    if marker != MARKER {
        return Err(notification(1, 1, &[]));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (least, most) = match kind {
        OPEN => (HEADER + 10, MAX),
        UPDATE => (HEADER + 4, max),
        NOTIFICATION => (HEADER + 2, max),
        KEEPALIVE => (HEADER, HEADER),
        REFRESH => (HEADER + 4, max),
        _ => (HEADER, max),
    };
    if length < least || length > most {
        return Err(notification(1, 2, &[high, low]));
    }
    if !(OPEN..=REFRESH).contains(&kind) {
        return Err(notification(1, 3, &[kind]));
    }
    Ok(Some(length))
}

/// Length of the first whole message in `bytes`; `None` when more must come. `max` is [`MAX`] unless we offered long
/// messages: then the peer may send them whether it offered to take them or not (RFC 8654 4).
pub fn frame(bytes: &[u8], max: usize) -> Result<Option<usize>, Notification> {
    Ok(announced_length(bytes, max)?.filter(|&length| length <= bytes.len()))
}

/// Reads exactly one message as [`frame`] cut it. Without a session an UPDATE is an error of the state machine.
pub fn decode(bytes: &[u8], session: Option<&Negotiated>) -> Result<Message, Notification> {
    let bad_length = || notification(1, 2, &u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    if announced_length(bytes, MAX_EXTENDED)? != Some(bytes.len()) {
        return Err(bad_length());
    }
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return Err(bad_length()) };
    match header.last() {
        Some(&OPEN) => Open::decode(body).map(Message::Open),
        Some(&UPDATE) => match session {
            Some(session) => update::decode(body, session).map(Message::Update),
            None => Err(notification(5, 0, &[])),
        },
        Some(&NOTIFICATION) => match body {
            &[code, subcode, ref data @ ..] => Ok(Message::Notification(notification(code, subcode, data))),
            _ => Err(bad_length()),
        },
        Some(&KEEPALIVE) => Ok(Message::Keepalive),
        Some(&REFRESH) => decode_refresh(bytes, body),
        _ => Err(notification(1, 3, &[])),
    }
}

/// ROUTE-REFRESH. A longer one asks with filters (RFC 5291) that were never agreed on, so all routes answer it.
fn decode_refresh(bytes: &[u8], body: &[u8]) -> Result<Message, Notification> {
    let &[afi_high, afi_low, kind, safi, ref filters @ ..] = body else {
        return Err(notification(1, 2, &u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()));
    };
    let kind = match kind {
        0 => Refresh::Ask,
        1 | 2 if !filters.is_empty() => return Err(notification(7, 1, bytes)),
        1 => Refresh::Begin,
        2 => Refresh::End,
        _ => return Ok(Message::RefreshOther),
    };
    Ok(match family(u16::from_be_bytes([afi_high, afi_low]), safi) {
        Some(family) => Message::Refresh { family, kind },
        None => Message::RefreshOther,
    })
}

/// Appends a KEEPALIVE.
pub fn encode_keepalive(out: &mut Vec<u8>) {
    encode(KEEPALIVE, &[], out);
}

/// Appends a NOTIFICATION, its data cut where it would be longer than a message.
pub fn encode_notification(notification: &Notification, out: &mut Vec<u8>) {
    let mut body = vec![notification.code, notification.subcode];
    body.extend(notification.data.iter().take(MAX - HEADER - body.len()));
    encode(NOTIFICATION, &body, out);
}

/// Appends a ROUTE-REFRESH.
pub fn encode_refresh(family: Family, kind: Refresh, out: &mut Vec<u8>) {
    let kind = match kind {
        Refresh::Ask => 0,
        Refresh::Begin => 1,
        Refresh::End => 2,
    };
    encode(REFRESH, &[0, afi(family), kind, UNICAST], out);
}

/// A Cease with a text for the peer's operator (RFC 9003), cut after 128 octets.
pub fn cease(subcode: u8, text: &str) -> Notification {
    let data = if text.is_empty() {
        Vec::new()
    } else {
        rustbgpd_wire::notification::encode_shutdown_communication(text).to_vec()
    };
    Notification { code: CEASE, subcode, data }
}

/// The text of an administrative Cease, also of one inside a Hard Reset (RFC 8538).
pub fn shutdown_text(notification: &Notification) -> Option<String> {
    const SHUTDOWN: u8 = 2;
    const RESET: u8 = 4;
    const HARD_RESET: u8 = 9;
    let data = match (notification.code, notification.subcode, notification.data.as_slice()) {
        (CEASE, SHUTDOWN | RESET, data) => data,
        (CEASE, HARD_RESET, &[CEASE, SHUTDOWN | RESET, ref data @ ..]) => data,
        _ => return None,
    };
    rustbgpd_wire::notification::decode_shutdown_communication(data).filter(|text| !text.is_empty())
}

const CEASE: u8 = 6;
const UNICAST: u8 = 1;

/// A header and its body.
fn encode(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    let start = begin(kind, out);
    out.extend_from_slice(body);
    finish(start, out);
}

/// A header whose length is still open; returns where the message starts.
fn begin(kind: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, kind]);
    start
}

/// Fills in the length of the message that goes from `start` to the end.
fn finish(start: usize, out: &mut [u8]) {
    let length = out.len() - start;
    put_length(start + MARKER.len(), length, out);
}

/// Writes a two-octet length over two octets that were left for it. Callers keep within a message.
fn put_length(at: usize, length: usize, out: &mut [u8]) {
    if let (Some(place), Ok(length)) = (out.get_mut(at..at + 2), u16::try_from(length)) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn notification(code: u8, subcode: u8, data: &[u8]) -> Notification {
    Notification { code, subcode, data: data.to_vec() }
}

/// The NOTIFICATION the codec has for an error.
fn refusal(error: &rustbgpd_wire::DecodeError) -> Notification {
    let (code, subcode, data) = error.to_notification();
    notification(code.as_u8(), subcode, &data)
}

/// Address family number of RFC 4760.
const fn afi(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// The family of an AFI and a SAFI; `None` for those this speaker does not carry.
fn family(afi: u16, safi: u8) -> Option<Family> {
    match (afi, safi) {
        (1, UNICAST) => Some(Family::V4),
        (2, UNICAST) => Some(Family::V6),
        _ => None,
    }
}

/// A family in the codec's words.
pub(super) fn codec_family(family: Family) -> (Afi, Safi) {
    match family {
        Family::V4 => (Afi::Ipv4, Safi::Unicast),
        Family::V6 => (Afi::Ipv6, Safi::Unicast),
    }
}

/// A NOTIFICATION in the codec's words, as ours.
pub(super) fn from_codec(message: &rustbgpd_wire::NotificationMessage) -> Notification {
    notification(message.code.as_u8(), message.subcode, &message.data)
}
