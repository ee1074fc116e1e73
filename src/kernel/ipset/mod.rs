//! ipset: named sets of addresses, blocks and ports that iptables rules look things up in
//! (`include/uapi/linux/netfilter/ipset/ip_set.h`).
//!
//! Promises: `apply` does what it is told, in order, one answer per op; elements that are there already, or gone already,
//! are no error. Must not know what rules do with the sets.

mod client;
pub mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod text;

pub use client::IpsetClient;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::kernel::error::{Disposition, Error};
use crate::kernel::netlink::{Fault, Refusal};
use crate::net::{Family, Prefix};

/// The longest name of a set, bytes (`IPSET_MAXNAMELEN` without its zero).
pub const LONGEST_NAME: usize = 31;

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `hash:ip`: addresses.
    Address,
    /// `hash:net`: blocks, of any overlap. The kernel refuses /0.
    Block,
    /// `hash:ip,port`: address, protocol and port.
    Socket,
    /// `hash:net,net`: pairs of addresses.
    Pair,
    /// `bitmap:port`: ports of any protocol that has them.
    Port,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Address, Kind::Block, Kind::Socket, Kind::Pair, Kind::Port];

    /// The kernel's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Address => "hash:ip",
            Kind::Block => "hash:net",
            Kind::Socket => "hash:ip,port",
            Kind::Pair => "hash:net,net",
            Kind::Port => "bitmap:port",
        }
    }

    /// The kind with this name, where it is one of ours.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One member of a set. Its variant must be that of the set's kind, its addresses of the set's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// Of [`Kind::Address`].
    Address(IpAddr),
    /// Of [`Kind::Block`].
    Block(Prefix),
    /// Of [`Kind::Socket`]: address, protocol number, port.
    Socket(IpAddr, u8, u16),
    /// Of [`Kind::Pair`].
    Pair(IpAddr, IpAddr),
    /// Of [`Kind::Port`].
    Port(u16),
}

/// What a set is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// What it holds.
    pub kind: Kind,
    /// Of which family; `None` for [`Kind::Port`].
    pub family: Option<Family>,
    /// The most elements it takes (`maxelem`); memory follows the need. 0 for [`Kind::Port`].
    pub most: u32,
}

/// A set as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it was made with; `None` where it is of a kind not used here, or has time-outs or counters.
    pub shape: Option<Shape>,
    /// How many rules and sets refer to it.
    pub references: u32,
    /// Its members; empty where the kind is not used here.
    pub elements: BTreeSet<Element>,
}

/// One change. `Display` prints it as `ipset` commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Make an empty set; refused where the name is taken.
    Create {
        /// Its name.
        name: Arc<str>,
        /// What it is to hold.
        shape: Shape,
        /// Elements expected at once: a hash of the right size loads several times faster.
        expected: usize,
    },
    /// Add members; those that are there stay.
    Add(Arc<str>, Vec<Element>),
    /// Remove members; those that are gone are no error.
    Delete(Arc<str>, Vec<Element>),
    /// Exchange the contents of two sets of the same kind and family, in one moment for every rule.
    Swap(Arc<str>, Arc<str>),
    /// Remove a set. Refused while a rule refers to it.
    Destroy(Arc<str>),
}

impl Op {
    /// The set it is about.
    pub fn set(&self) -> &Arc<str> {
        match self {
            Op::Create { name, .. } | Op::Add(name, _) | Op::Delete(name, _) | Op::Destroy(name) => name,
            Op::Swap(name, _) => name,
        }
    }
}

/// The sets of one network namespace.
pub trait Ipset: Send {
    /// Whether the kernel has this kind of set for a family; it may load a module to find out.
    fn supports(&mut self, kind: Kind, family: Family) -> Result<bool, Error>;
    /// The names of all sets.
    fn names(&mut self) -> Result<Vec<Arc<str>>, Error>;
    /// One set with its members; `None` where there is no such set.
    fn list(&mut self, name: &str) -> Result<Option<Found>, Error>;
    /// In order, one answer per op. A failed op leaves the others done; of a failed addition some members may be in.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>>;
}

/// ipset's own error numbers: enum ipset_errno of `ip_set.h`, and what `ip_set_hash.h` adds.
pub(crate) mod errno {
    pub(crate) const PROTOCOL: i32 = 4097;
    pub(crate) const FIND_TYPE: i32 = 4098;
    pub(crate) const MAX_SETS: i32 = 4099;
    pub(crate) const BUSY: i32 = 4100;
    pub(crate) const EXIST_SETNAME2: i32 = 4101;
    pub(crate) const TYPE_MISMATCH: i32 = 4102;
    pub(crate) const INVALID_CIDR: i32 = 4104;
    pub(crate) const INVALID_FAMILY: i32 = 4106;
    pub(crate) const REFERENCED: i32 = 4108;
    pub(crate) const IPADDR_IPV4: i32 = 4109;
    pub(crate) const IPADDR_IPV6: i32 = 4110;
    pub(crate) const HASH_FULL: i32 = 4352;
    pub(crate) const HASH_ELEM: i32 = 4353;
}

/// What ipset means by one of its own numbers.
fn private_text(number: i32) -> Option<&'static str> {
    Some(match number {
        errno::PROTOCOL => "IPSET_ERR_PROTOCOL: the kernel does not understand the message",
        errno::FIND_TYPE => "IPSET_ERR_FIND_TYPE: the kernel has no such type of set: load its module (ip_set_hash_*)",
        errno::MAX_SETS => "IPSET_ERR_MAX_SETS: no more sets can be made",
        errno::BUSY => "IPSET_ERR_BUSY: a rule refers to the set",
        errno::EXIST_SETNAME2 => "IPSET_ERR_EXIST_SETNAME2: the second set does not exist",
        errno::TYPE_MISMATCH => "IPSET_ERR_TYPE_MISMATCH: the two sets differ in type or family",
        errno::INVALID_CIDR => "IPSET_ERR_INVALID_CIDR: a prefix length the set does not take",
        errno::INVALID_FAMILY => "IPSET_ERR_INVALID_FAMILY: the type does not know this family",
        errno::REFERENCED => "IPSET_ERR_REFERENCED: the set is a member of another",
        errno::IPADDR_IPV4 => "IPSET_ERR_IPADDR_IPV4: an IPv4 address is expected",
        errno::IPADDR_IPV6 => "IPSET_ERR_IPADDR_IPV6: an IPv6 address is expected",
        errno::HASH_FULL => "IPSET_ERR_HASH_FULL: the set holds as many elements as it was made for",
        errno::HASH_ELEM => "IPSET_ERR_HASH_ELEM: an element that no set takes",
        _ => return None,
    })
}

/// The error for a fault of an op, in ipset's words.
pub(crate) fn refusal(op: &Op, fault: Fault) -> Error {
    let kind = match (op, fault.errno()) {
        (Op::Destroy(_), Some(Refusal::ENOENT)) => Disposition::AlreadySo,
        // Somebody made it, perhaps in another shape; or somebody removed it.
        (Op::Create { .. }, Some(Refusal::EEXIST)) => Disposition::Stale,
        (_, Some(Refusal::ENOENT | errno::EXIST_SETNAME2)) => Disposition::Stale,
        (_, Some(errno::BUSY | errno::REFERENCED)) => Disposition::Retry,
        _ => fault.disposition(),
    };
    described(fault, op.to_string(), kind)
}

/// The error for a fault, with ipset's own numbers in words.
pub(crate) fn described(fault: Fault, op: String, kind: Disposition) -> Error {
    let words = fault.errno().and_then(private_text);
    let no_subsystem = matches!(&fault, Fault::Refused(refusal) if refusal.errno == Refusal::EINVAL);
    let mut error = fault.into_error(op, kind);
    if let Some(words) = words {
        // The number means nothing outside ipset.
        error.errno = None;
        error.message = words.to_owned();
    } else if no_subsystem && error.message.is_empty() {
        // What nfnetlink answers where nobody registered the subsystem.
        error.message = "is kernel module ip_set loaded?".to_owned();
    }
    error
}

#[cfg(test)]
mod tests;
