//! Attributes: type, length, value, padded to four bytes (`include/uapi/linux/netlink.h`, `struct nlattr`).
//!
//! The writer appends to one buffer and allocates nothing of its own. The reader never trusts a length: what does not
//! fit ends the walk, so any bytes may be given to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NLA_F_NESTED`: the value is itself a run of attributes.
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: the type without its two flag bits.
const TYPE_MASK: u16 = 0x3fff;
/// Bytes of `struct nlattr`.
const HEADER: usize = 4;

/// Writes attributes at the end of a message; made by [`Message::attributes`](super::Message::attributes) or
/// [`Writer::new`].
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    too_long: &'a mut bool,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `bytes`, which must have a length divisible by four. `too_long` becomes true when a
    /// value does not fit the 16-bit length of an attribute; the bytes are then not to be sent.
    pub fn new(bytes: &'a mut Vec<u8>, too_long: &'a mut bool) -> Writer<'a> {
        Writer { bytes, too_long }
    }

    /// An attribute with these bytes as its value.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// A flag: an attribute without a value.
    pub fn flag(&mut self, kind: u16) {
        self.bytes(kind, &[]);
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// 16 bits in host order.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// 32 bits in host order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// 64 bits in host order.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// 16 bits in network order.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// 32 bits in network order.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// 64 bits in network order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text with a closing NUL.
    pub fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// An address: 4 or 16 bytes.
    pub fn ip(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    /// An attribute holding the attributes that `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        let start = self.open(kind | NESTED);
        fill(&mut Writer { bytes: self.bytes, too_long: self.too_long });
        self.close(start);
    }

    /// The buffer itself, for what is encoded already. Only append,
    /// and leave a length divisible by four.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.bytes
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.bytes.len().saturating_sub(start)) {
            Ok(length) => {
                if let Some(slot) = self.bytes.get_mut(start..start.saturating_add(2)) {
                    slot.copy_from_slice(&length.to_ne_bytes());
                }
            }
            Err(_) => *self.too_long = true,
        }
        pad(self.bytes);
    }
}

/// Fill up to the next multiple of four with zeros.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One attribute as read: its type without flag bits, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// `nla_type` without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
    pub kind: u16,
    /// The value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as one byte, where it is that long.
    pub fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    /// The first 16 bits in host order.
    pub fn u16(&self) -> Option<u16> {
        self.value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    /// The first 32 bits in host order.
    pub fn u32(&self) -> Option<u32> {
        self.value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// The first 64 bits in host order.
    pub fn u64(&self) -> Option<u64> {
        self.value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    /// The first 16 bits in network order.
    pub fn be16(&self) -> Option<u16> {
        self.value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// The first 32 bits in network order.
    pub fn be32(&self) -> Option<u32> {
        self.value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The first 64 bits in network order.
    pub fn be64(&self) -> Option<u64> {
        self.value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Text up to the first NUL or the end, where it is UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|&byte| byte == 0).unwrap_or(self.value.len());
        self.value.get(..end).and_then(|text| std::str::from_utf8(text).ok())
    }

    /// An address of exactly 4 or 16 bytes.
    pub fn ip(&self) -> Option<IpAddr> {
        if let Ok(octets) = <[u8; 4]>::try_from(self.value) {
            return Some(IpAddr::V4(Ipv4Addr::from(octets)));
        }
        <[u8; 16]>::try_from(self.value).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
    }

    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// Walks a run of attributes. Ends at the first one whose length is impossible.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: bytes }
    }

    /// The attributes behind a fixed header of `length` bytes; none where `bytes` is shorter.
    pub fn after(bytes: &'a [u8], length: usize) -> Attributes<'a> {
        Attributes { rest: bytes.get(length..).unwrap_or_default() }
    }

    /// The first attribute of this type.
    pub fn find(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (header, _) = self.rest.split_first_chunk::<HEADER>()?;
        let [length_low, length_high, kind_low, kind_high] = *header;
        let length = usize::from(u16::from_ne_bytes([length_low, length_high]));
        let Some(value) = self.rest.get(HEADER..length) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([kind_low, kind_high]) & TYPE_MASK, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_wrote() {
        let (mut bytes, mut too_long) = (Vec::new(), false);
        let mut writer = Writer::new(&mut bytes, &mut too_long);
        writer.u8(1, 7);
        writer.be16(2, 0x1234);
        writer.nest(3, |inner| {
            inner.text(1, "mh");
            inner.flag(2);
            inner.u64(3, u64::MAX - 1);
        });
        writer.ip(4, "10.0.0.1".parse().unwrap());
        writer.ip(5, "fd00::1".parse().unwrap());
        assert!(!too_long && bytes.len().is_multiple_of(4));
        let read: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(read.iter().map(|attribute| attribute.kind).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(read[0].u8(), Some(7));
        assert_eq!(read[1].be16(), Some(0x1234));
        assert_eq!(read[2].nested().find(1).and_then(|name| name.text()), Some("mh"));
        assert_eq!(read[2].nested().find(2).map(|flag| flag.value.len()), Some(0));
        assert_eq!(read[2].nested().find(3).and_then(|number| number.u64()), Some(u64::MAX - 1));
        assert_eq!(read[3].ip(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(read[4].ip(), Some("fd00::1".parse().unwrap()));
        assert_eq!(read[0].u16(), None, "too short to be a u16");
    }

    #[test]
    fn says_when_a_value_does_not_fit() {
        let (mut bytes, mut too_long) = (Vec::new(), false);
        Writer::new(&mut bytes, &mut too_long).bytes(1, &[0; 65_532]);
        assert!(too_long);
    }

    proptest! {
        #[test]
        fn walks_any_bytes_without_panic_and_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut seen = 0;
            for attribute in Attributes::new(&bytes) {
                seen += 4 + attribute.value.len();
                for inner in attribute.nested() {
                    let _ = (inner.u8(), inner.u16(), inner.u32(), inner.u64(), inner.be16(), inner.be32());
                    let _ = (inner.text(), inner.ip(), inner.be64());
                }
            }
            prop_assert!(seen <= bytes.len());
        }
    }
}
