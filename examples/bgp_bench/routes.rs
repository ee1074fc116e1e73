//! Routes by the thousand, encoded before the clock starts, and their counter at the other end.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::peer::{Identity, UPDATE, message};

/// 20.0.0.0: the first of the /24 that everything here is about.
const BASE: u32 = 0x1400_0000;
/// Prefixes in one UPDATE with shared attributes.
const PER_UPDATE: u32 = 900;

/// What a source announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// How many prefixes.
    pub(crate) n: u32,
    /// One UPDATE with its own MED and communities for each, instead of one set of attributes for all.
    pub(crate) unique: bool,
}

impl Load {
    /// The UPDATEs of the load, one after the other.
    pub(crate) fn announce(self, source: Identity) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.unique {
            for index in 0..self.n {
                bytes.extend(one(source, index));
            }
        } else {
            let attributes = attributes(source, 0);
            for first in (0..self.n).step_by(PER_UPDATE as usize) {
                let nlri = nlri(first..self.n.min(first + PER_UPDATE));
                bytes.extend(update(&[], &attributes, &nlri));
            }
        }
        bytes
    }

    /// The UPDATEs that take all of it back.
    pub(crate) fn withdraw(self) -> Vec<u8> {
        let firsts = (0..self.n).step_by(PER_UPDATE as usize);
        firsts.flat_map(|first| update(&nlri(first..self.n.min(first + PER_UPDATE)), &[], &[])).collect()
    }
}

/// The UPDATE that announces the prefix of this number with attributes of its own.
pub(crate) fn one(source: Identity, index: u32) -> Vec<u8> {
    update(&[], &attributes(source, index + 1), &nlri(index..index + 1))
}

/// One UPDATE that announces some prefixes with one set of attributes.
pub(crate) fn some(source: Identity, indexes: std::ops::Range<u32>) -> Vec<u8> {
    update(&[], &attributes(source, 0), &nlri(indexes))
}

/// The prefix of this number.
pub(crate) fn prefix(index: u32) -> String {
    format!("{}/24", network(index))
}

/// Its address.
pub(crate) fn network(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(BASE + (index << 8))
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + withdrawn.len() + attributes.len() + nlri.len());
    for part in [withdrawn, attributes] {
        body.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(part);
    }
    body.extend_from_slice(nlri);
    message(UPDATE, &body)
}

fn nlri(indexes: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in indexes {
        let [a, b, c, _] = (BASE + (index << 8)).to_be_bytes();
        bytes.extend_from_slice(&[24, a, b, c]);
    }
    bytes
}

/// ORIGIN, AS_PATH, NEXT_HOP, MED and two communities; LOCAL_PREF besides towards the device's own AS.
fn attributes(source: Identity, number: u32) -> Vec<u8> {
    let internal = source.asn == super::peer::DEVICE_AS;
    let mut bytes = vec![0x40, 1, 1, 0];
    if internal {
        bytes.extend_from_slice(&[0x40, 2, 0]);
    } else {
        let [high, low] = source.asn.to_be_bytes();
        bytes.extend_from_slice(&[0x40, 2, 6, 2, 1, 0, 0, high, low]);
    }
    bytes.extend_from_slice(&[0x40, 3, 4]);
    bytes.extend_from_slice(&source.address.octets());
    bytes.extend_from_slice(&[0x80, 4, 4]);
    bytes.extend_from_slice(&number.to_be_bytes());
    if internal {
        bytes.extend_from_slice(&[0x40, 5, 4, 0, 0, 0, 100]);
    }
    let [_, high, middle, low] = number.to_be_bytes();
    bytes.extend_from_slice(&[0xc0, 8, 8, 0xfd, 0xe9, high, middle, 0xfd, 0xea, middle, low]);
    bytes
}

/// Which of the prefixes a peer holds.
#[derive(Debug)]
pub(crate) struct Counter {
    held: Vec<bool>,
    count: u32,
}

impl Counter {
    /// For prefixes below `n`.
    pub(crate) fn new(n: u32) -> Counter {
        Counter { held: vec![false; n as usize], count: 0 }
    }

    /// How many are held.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Whether the prefix of this number is.
    pub(crate) fn holds(&self, index: u32) -> bool {
        self.held.get(index as usize).copied().unwrap_or_default()
    }

    /// Works in the body of one UPDATE.
    pub(crate) fn update(&mut self, body: &[u8]) -> Result<()> {
        let (withdrawn, rest) = part(body)?;
        let (_, announced) = part(rest)?;
        self.mark(withdrawn, false)?;
        self.mark(announced, true)
    }

    fn mark(&mut self, mut bytes: &[u8], now: bool) -> Result<()> {
        while let Some((length, rest)) = bytes.split_first() {
            ensure!(*length == 24, "the device sent a prefix of length {length} that nobody gave it");
            let ([a, b, c], rest) = rest.split_first_chunk().context("a prefix cut short")?;
            let index = u32::from_be_bytes([0, *a, *b, *c]).wrapping_sub(BASE >> 8);
            let held = self.held.get_mut(index as usize).context("the device sent a prefix that nobody gave it")?;
            if *held != now {
                *held = now;
                self.count = if now { self.count + 1 } else { self.count - 1 };
            }
            bytes = rest;
        }
        Ok(())
    }
}

/// A part that begins with its length in two octets, and what follows it.
fn part(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk().context("an UPDATE cut short")?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).context("an UPDATE cut short")
}
