//! Messages waiting to be sent: one buffer, with the offset of each message.

use super::attr::{Writer, pad};
use super::{HEADER, flag};

/// Messages in the order they will be sent. Keep one and [`clear`](Batch::clear) it: the memory is reused.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    offsets: Vec<usize>,
    too_long: bool,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Forget the messages, keep the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.clear();
        self.too_long = false;
    }

    /// How many messages.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// True without any message.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// All messages as they would be sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begin a message of type `kind` (`nlmsg_type`) with these flags beside `NLM_F_REQUEST`, which is always set.
    /// The fixed header of the protocol follows with [`Message::header`]. Sequence number and `NLM_F_ACK` are set
    /// when it is sent. The message is complete when the returned value is dropped.
    pub fn message(&mut self, kind: u16, flags: u16) -> Message<'_> {
        let start = self.bytes.len();
        self.offsets.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        Message { batch: self, start }
    }

    /// True where an attribute or message was too long for its length field: the batch cannot be sent.
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// The bytes of messages `first..end`, numbered from `sequence` on.
    pub(super) fn window(&mut self, first: usize, end: usize, sequence: u32) -> &mut [u8] {
        let offsets = self.offsets.get(first..end).unwrap_or_default();
        for (offset, number) in offsets.iter().zip(0_u32..) {
            if let Some(slot) = self.bytes.get_mut(offset + 8..offset + 12) {
                slot.copy_from_slice(&sequence.wrapping_add(number).to_ne_bytes());
            }
        }
        let from = offsets.first().copied().unwrap_or(self.bytes.len());
        let to = self.offsets.get(end).copied().unwrap_or(self.bytes.len());
        self.bytes.get_mut(from..to).unwrap_or_default()
    }

    /// Ask for an acknowledgement of message `index`.
    pub(super) fn ask_ack(&mut self, index: usize) {
        if let Some(&offset) = self.offsets.get(index)
            && let Some(slot) = self.bytes.get_mut(offset + 6..offset + 8)
            && let Ok(old) = <[u8; 2]>::try_from(&*slot)
        {
            slot.copy_from_slice(&(u16::from_ne_bytes(old) | flag::ACK).to_ne_bytes());
        }
    }

    /// Give all messages another type: a generic netlink family may get a new number.
    pub fn retype(&mut self, kind: u16) {
        for &offset in &self.offsets {
            if let Some(slot) = self.bytes.get_mut(offset + 4..offset + 6) {
                slot.copy_from_slice(&kind.to_ne_bytes());
            }
        }
    }
}

/// A message being written.
#[derive(Debug)]
pub struct Message<'a> {
    batch: &'a mut Batch,
    start: usize,
}

impl Message<'_> {
    /// Append the fixed header of the protocol (`struct genlmsghdr`, `struct nfgenmsg`, `struct rtmsg` …), padded.
    pub fn header(&mut self, bytes: &[u8]) -> &mut Self {
        self.batch.bytes.extend_from_slice(bytes);
        pad(&mut self.batch.bytes);
        self
    }

    /// Append the four bytes of `struct genlmsghdr`.
    pub fn generic(&mut self, command: u8, version: u8) -> &mut Self {
        self.header(&[command, version, 0, 0])
    }

    /// Append the four bytes of `struct nfgenmsg`: address family, version 0, resource id in network order.
    pub fn netfilter(&mut self, family: u8, resource: u16) -> &mut Self {
        let [high, low] = resource.to_be_bytes();
        self.header(&[family, 0, high, low])
    }

    /// Write attributes.
    pub fn attributes(&mut self) -> Writer<'_> {
        Writer::new(&mut self.batch.bytes, &mut self.batch.too_long)
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        pad(&mut self.batch.bytes);
        let length = self.batch.bytes.len().saturating_sub(self.start).max(HEADER);
        match u32::try_from(length) {
            Ok(length) => {
                if let Some(slot) = self.batch.bytes.get_mut(self.start..self.start.saturating_add(4)) {
                    slot.copy_from_slice(&length.to_ne_bytes());
                }
            }
            Err(_) => self.batch.too_long = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Messages;
    use super::*;

    #[test]
    fn messages_carry_length_type_flags_and_sequence() {
        let mut batch = Batch::new();
        batch.message(20, flag::CREATE).generic(1, 1).attributes().u8(1, 9);
        batch.message(21, 0).netfilter(2, 10);
        batch.ask_ack(1);
        batch.retype(33);
        let bytes = batch.window(0, 2, u32::MAX);
        let read: Vec<_> = Messages::new(bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (33, flag::REQUEST | flag::CREATE, u32::MAX));
        assert_eq!((read[1].kind, read[1].flags, read[1].sequence), (33, flag::REQUEST | flag::ACK, 0));
        assert_eq!(read[0].payload, [1, 1, 0, 0, 5, 0, 1, 0, 9, 0, 0, 0]);
        assert_eq!(read[1].payload, [2, 0, 0, 10]);
        assert_eq!(batch.window(1, 2, 5).len(), 20);
        assert!(batch.window(2, 2, 5).is_empty());
        batch.clear();
        assert!(batch.is_empty() && batch.bytes().is_empty());
    }
}
