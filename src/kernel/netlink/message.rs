//! Received messages: header and payload (`struct nlmsghdr`), errors and acknowledgements (`struct nlmsgerr`).

use super::HEADER;
use super::attr::Attributes;
use super::error::Refusal;

/// `NLMSG_ERROR`: a refusal, or an acknowledgement where the number is 0.
pub(super) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(super) const DONE: u16 = 3;
/// The lowest type that belongs to a protocol (`NLMSG_MIN_TYPE`).
pub(super) const FIRST_OWN: u16 = 16;

/// `NLM_F_CAPPED`: the request is not echoed in this error.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: what the kernel has to say.
const ATTR_MSG: u16 = 1;
/// `NLMSGERR_ATTR_OFFS`: offset of the offending attribute in the request.
const ATTR_OFFSET: u16 = 2;

/// A message as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: of the request this answers; 0 for events.
    pub sequence: u32,
    /// `nlmsg_pid`: the socket ([`Socket::port`](super::Socket::port)) that asked; in events the one that made the
    /// change, 0 where the kernel did.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Walks the messages of one datagram. Ends at the first one whose length is impossible.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Messages<'a> {
        Messages { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let (header, _) = self.rest.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, kind_low, kind_high, flags_low, flags_high, e, f, g, h, i, j, k, l] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some(payload) = self.rest.get(HEADER..length) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes([kind_low, kind_high]),
            flags: u16::from_ne_bytes([flags_low, flags_high]),
            sequence: u32::from_ne_bytes([e, f, g, h]),
            port: u32::from_ne_bytes([i, j, k, l]),
            payload,
        })
    }
}

/// Reads an `NLMSG_ERROR`: `None` is an acknowledgement. A message too short to hold a number is a refusal with
/// EBADMSG, never an acknowledgement.
pub fn decode_error(message: &Received<'_>) -> Option<Refusal> {
    let Some(number) = message.payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) else {
        return Some(Refusal { errno: Refusal::EBADMSG, message: None, offset: None });
    };
    if number == 0 {
        return None;
    }
    let mut refusal = Refusal { errno: number.saturating_neg().max(1), message: None, offset: None };
    if message.flags & ACK_TLVS != 0 {
        let echoed = if message.flags & CAPPED == 0 { echoed_length(message.payload) } else { HEADER };
        for attribute in Attributes::after(message.payload, 4_usize.saturating_add(echoed)) {
            match attribute.kind {
                ATTR_MSG => refusal.message = attribute.text().map(str::to_owned),
                ATTR_OFFSET => refusal.offset = attribute.u32(),
                _ => {}
            }
        }
    }
    Some(refusal)
}

/// Length of the request echoed behind the number, padded; at least its header.
fn echoed_length(payload: &[u8]) -> usize {
    let length = payload.get(4..).and_then(|echo| echo.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    usize::try_from(length).unwrap_or(usize::MAX).clamp(HEADER, payload.len().max(HEADER)).next_multiple_of(4)
}

/// The number in an `NLMSG_DONE`: a dump that failed half-way ends with a negative one.
pub(super) fn done_error(message: &Received<'_>) -> Option<Refusal> {
    let number = message.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    (number < 0).then(|| Refusal { errno: number.saturating_neg(), message: None, offset: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(flags: u16, number: i32, tail: &[u8]) -> Vec<u8> {
        let mut payload = number.to_ne_bytes().to_vec();
        payload.extend_from_slice(tail);
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&ERROR.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&payload);
        bytes
    }

    fn decoded(bytes: &[u8]) -> Option<Refusal> {
        decode_error(&Messages::new(bytes).next().unwrap())
    }

    #[test]
    fn reads_the_kernels_text_behind_a_capped_and_an_echoed_request() {
        let text = [9_u8, 0, 1, 0, b'n', b'o', b'p', b'e', 0, 0, 0, 0, 8, 0, 2, 0, 36, 0, 0, 0];
        let mut capped = vec![40, 0, 0, 0];
        capped.extend_from_slice(&[0; 12]);
        let mut echoed = capped.clone();
        echoed.extend_from_slice(&[0xff; 24]);
        capped.extend_from_slice(&text);
        echoed.extend_from_slice(&text);
        let want = Refusal { errno: 22, message: Some("nope".into()), offset: Some(36) };
        assert_eq!(decoded(&error(CAPPED | ACK_TLVS, -22, &capped)), Some(want.clone()));
        assert_eq!(decoded(&error(ACK_TLVS, -22, &echoed)), Some(want));
    }

    #[test]
    fn zero_is_an_acknowledgement_and_a_short_message_is_not() {
        assert_eq!(decoded(&error(CAPPED, 0, &[0; 16])), None);
        let short = Received { kind: ERROR, flags: 0, sequence: 1, port: 0, payload: &[0, 0] };
        assert_eq!(decode_error(&short).map(|refusal| refusal.errno), Some(Refusal::EBADMSG));
    }

    proptest! {
        #[test]
        fn decodes_any_bytes_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), flags: u16) {
            for message in Messages::new(&bytes) {
                let _ = (decode_error(&message), done_error(&message));
            }
            let _ = decode_error(&Received { kind: ERROR, flags, sequence: 0, port: 0, payload: &bytes });
        }
    }
}
