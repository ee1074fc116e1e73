//! A small kernel for tests: sets in memory that refuse what ipset refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Element, Found, Ipset, Kind, LONGEST_NAME, Op, Shape, errno, refusal};
use crate::kernel::error::Error;
use crate::kernel::netlink::{Fault, Refusal};
use crate::net::Family;

/// The sets of an imagined network namespace.
#[derive(Clone, Debug, Default)]
pub struct FakeIpset {
    sets: BTreeMap<Arc<str>, Found>,
    missing: BTreeSet<Kind>,
    missing_families: BTreeSet<Family>,
    applied: Vec<Op>,
}

impl FakeIpset {
    /// No sets, and every kind of them.
    pub fn new() -> FakeIpset {
        FakeIpset::default()
    }

    /// A kernel without this kind of set.
    pub fn lack(&mut self, kind: Kind) {
        self.missing.insert(kind);
    }

    /// A kernel that has no sets of this family.
    pub fn lack_family(&mut self, family: Family) {
        self.missing_families.insert(family);
    }

    /// All sets.
    pub fn sets(&self) -> &BTreeMap<Arc<str>, Found> {
        &self.sets
    }

    /// Every change that was made, oldest first.
    pub fn applied(&self) -> &[Op] {
        &self.applied
    }

    /// How often rules refer to each set: what is named cannot be destroyed.
    pub fn refer(&mut self, references: &BTreeMap<Arc<str>, u32>) {
        for (name, found) in &mut self.sets {
            found.references = references.get(name).copied().unwrap_or(0);
        }
    }

    fn change(&mut self, op: &Op) -> Result<(), i32> {
        match op {
            Op::Create { name, shape, .. } => {
                if self.missing.contains(&shape.kind) {
                    return Err(errno::FIND_TYPE);
                }
                if shape.family.is_some_and(|family| self.missing_families.contains(&family)) {
                    return Err(errno::INVALID_FAMILY);
                }
                if self.sets.contains_key(name) {
                    return Err(Refusal::EEXIST);
                }
                if name.is_empty() || name.len() > LONGEST_NAME {
                    return Err(errno::PROTOCOL);
                }
                let found = Found { shape: Some(*shape), references: 0, elements: BTreeSet::new() };
                self.sets.insert(name.clone(), found);
            }
            Op::Add(name, elements) => {
                let set = self.sets.get_mut(name).ok_or(Refusal::ENOENT)?;
                let shape = set.shape.ok_or(errno::PROTOCOL)?;
                for element in elements {
                    fits(&shape, element)?;
                    if set.elements.contains(element) {
                        continue;
                    }
                    if shape.kind != Kind::Port && set.elements.len() >= shape.most as usize {
                        return Err(errno::HASH_FULL);
                    }
                    set.elements.insert(*element);
                }
            }
            Op::Delete(name, elements) => {
                let set = self.sets.get_mut(name).ok_or(Refusal::ENOENT)?;
                let shape = set.shape.ok_or(errno::PROTOCOL)?;
                for element in elements {
                    fits(&shape, element)?;
                    set.elements.remove(element);
                }
            }
            Op::Swap(one, other) => {
                let first = self.sets.get(one).ok_or(Refusal::ENOENT)?.clone();
                let second = self.sets.get(other).ok_or(errno::EXIST_SETNAME2)?.clone();
                let alike = |found: &Found| found.shape.map(|shape| (shape.kind, shape.family));
                if alike(&first) != alike(&second) {
                    return Err(errno::TYPE_MISMATCH);
                }
                // Rules refer to names; the content changes behind them.
                let (mut a, mut b) = (second.clone(), first.clone());
                (a.references, b.references) = (first.references, second.references);
                self.sets.insert(one.clone(), a);
                self.sets.insert(other.clone(), b);
            }
            Op::Destroy(name) => {
                if self.sets.get(name).ok_or(Refusal::ENOENT)?.references > 0 {
                    return Err(errno::BUSY);
                }
                self.sets.remove(name);
            }
        }
        Ok(())
    }
}

fn fits(shape: &Shape, element: &Element) -> Result<(), i32> {
    let kind = match element {
        Element::Address(_) => Kind::Address,
        Element::Block(block) if block.prefix_len() == 0 => return Err(errno::INVALID_CIDR),
        Element::Block(_) => Kind::Block,
        Element::Socket(..) => Kind::Socket,
        Element::Pair(..) => Kind::Pair,
        Element::Port(_) => Kind::Port,
    };
    if kind != shape.kind {
        return Err(errno::PROTOCOL);
    }
    let of = |address: IpAddr| match (shape.family, Family::of(address)) {
        (Some(Family::V4), Family::V6) => Err(errno::IPADDR_IPV4),
        (Some(Family::V6), Family::V4) => Err(errno::IPADDR_IPV6),
        _ => Ok(()),
    };
    match *element {
        Element::Address(address) | Element::Socket(address, ..) => of(address),
        Element::Block(block) => of(block.network()),
        Element::Pair(one, other) => of(one).and_then(|()| of(other)),
        Element::Port(_) => Ok(()),
    }
}

impl Ipset for FakeIpset {
    fn supports(&mut self, kind: Kind, family: Family) -> Result<bool, Error> {
        Ok(!self.missing.contains(&kind) && !self.missing_families.contains(&family))
    }

    fn names(&mut self) -> Result<Vec<Arc<str>>, Error> {
        Ok(self.sets.keys().cloned().collect())
    }

    fn list(&mut self, name: &str) -> Result<Option<Found>, Error> {
        Ok(self.sets.get(name).cloned())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        let one = |fake: &mut FakeIpset, op: &Op| {
            fake.change(op)
                .map_err(|errno| refusal(op, Fault::Refused(Refusal { errno, message: None, offset: None })))?;
            fake.applied.push(op.clone());
            Ok(())
        };
        ops.iter().map(|op| one(self, op)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::contract::ipset::promises;

    #[test]
    fn keeps_every_promise() {
        for (_, promise) in promises::<FakeIpset>() {
            promise(&mut FakeIpset::new());
        }
    }
}
