//! The tables of the network namespace this thread is in, over netlink.

use super::Nft;
use super::codec::{encode, family_number};
use super::decode::{self, RawElement, SetHeader, Shape};
use super::text::ChangeIn;
use super::uapi::{
    BATCH_BEGIN, BATCH_END, FAMILY_IPV4, FAMILY_IPV6, SUBSYSTEM, chain, elements, message, object, rule, set, table,
};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::filter::plan::{Change, Observed, ObservedChain, Transaction};
use crate::kernel::filter::{Elements, Map, Name, Set, TableFamily};
use crate::kernel::netlink::{Batch, Fault, Protocol, Refusal, Socket, Writer, flag};
use crate::net::Family;

/// How often a transaction is sent again when the kernel asks for it (ERESTART: another writer came between).
const ATTEMPTS: u32 = 5;

/// [`Nft`] on a netlink socket.
#[derive(Debug)]
pub struct NftClient {
    socket: Socket,
    request: Batch,
}

impl NftClient {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where the socket cannot be had: no memory, or a kernel without netfilter's netlink.
    pub fn open() -> Result<NftClient, Error> {
        let socket = Socket::open(Protocol::Netfilter).map_err(|error| Error {
            op: "open a netfilter netlink socket".to_owned(),
            errno: error.raw_os_error(),
            message: "check that the kernel has nf_tables".to_owned(),
            kind: Disposition::Fatal,
        })?;
        Ok(NftClient { socket, request: Batch::new() })
    }

    /// The number of its socket, which the kernel names as the author of changes.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn port(&self) -> std::io::Result<u32> {
        self.socket.port()
    }

    /// Takes away somebody else's table of family `ip` or `ip6` with all that is in it, in one transaction. Whether there
    /// was one.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove_table_of(&mut self, family: Family, name: &str) -> Result<bool, Error> {
        let (word, number) = match family {
            Family::V4 => ("ip", FAMILY_IPV4),
            Family::V6 => ("ip6", FAMILY_IPV6),
        };
        self.request.clear();
        self.request.message(BATCH_BEGIN, 0).netfilter(0, SUBSYSTEM);
        let mut removal = self.request.message((SUBSYSTEM << 8) | message::DELETE_TABLE, 0);
        removal.netfilter(number, 0);
        removal.attributes().text(table::NAME, name);
        drop(removal);
        self.request.message(BATCH_END, 0).netfilter(0, SUBSYSTEM);
        match self.socket.transact(&mut self.request) {
            Ok(()) => Ok(true),
            // No such table; or no nftables for this family, or at all.
            Err(refused)
                if matches!(refused.fault.errno(), Some(Refusal::ENOENT | Refusal::EINVAL | Refusal::EOPNOTSUPP)) =>
            {
                Ok(false)
            }
            Err(refused) => {
                let kind = refused.fault.disposition();
                Err(refused.fault.into_error(format!("nft delete table {word} {name}"), kind))
            }
        }
    }

    /// Asks for objects of one kind in the family of a table, and gathers what `decode` makes of each answer.
    fn query<T>(
        &mut self,
        table: &str,
        kind: u16,
        flags: u16,
        attributes: impl FnOnce(&mut Writer<'_>),
        decode: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        self.request.clear();
        let mut request = self.request.message((SUBSYSTEM << 8) | kind, flags);
        request.netfilter(family_number(table), 0);
        attributes(&mut request.attributes());
        drop(request);
        self.socket.query(&mut self.request, decode)
    }

    /// Chains of every family that drop forwarded packets by their policy.
    fn read_forward_drops(&mut self) -> Result<Vec<String>, Fault> {
        const ANY_FAMILY: u8 = 0;
        self.request.clear();
        let mut request = self.request.message((SUBSYSTEM << 8) | message::GET_CHAIN, flag::DUMP);
        request.netfilter(ANY_FAMILY, 0);
        drop(request);
        self.socket.query(&mut self.request, |_, payload| decode::forward_drop(payload))
    }

    fn read_table(&mut self, name: &Name) -> Result<Option<Observed>, Fault> {
        let get = |out: &mut Writer<'_>| out.text(table::NAME, name);
        let found = match self.query(name, message::GET_TABLE, 0, get, |_, payload| decode::table(payload)) {
            Err(Fault::Refused(refusal)) if refusal.errno == Refusal::ENOENT => return Ok(None),
            found => found?,
        };
        let mut observed = Observed::default();
        if found.iter().any(|(_, flags)| *flags != 0) {
            observed.unknown.insert(format!("table {name}: its flags"));
        }
        self.read_chains(name, &mut observed)?;
        let of_table = |out: &mut Writer<'_>| out.text(set::TABLE, name);
        let sets = self.query(name, message::GET_SET, flag::DUMP, of_table, |_, payload| decode::set(payload, name))?;
        for header in sets {
            self.read_set(name, header, &mut observed)?;
        }
        for (kind, word) in [(message::GET_OBJECT, "object"), (message::GET_FLOWTABLE, "flowtable")] {
            let of_table = |out: &mut Writer<'_>| out.text(object::TABLE, name);
            let found = self.query(name, kind, flag::DUMP, of_table, |_, payload| decode::object(payload, name))?;
            observed.unknown.extend(found.into_iter().map(|found| format!("{word} {found}")));
        }
        Ok(Some(observed))
    }

    fn read_chains(&mut self, name: &Name, observed: &mut Observed) -> Result<(), Fault> {
        let of_table = |out: &mut Writer<'_>| out.text(chain::TABLE, name);
        let chains =
            self.query(name, message::GET_CHAIN, flag::DUMP, of_table, |_, payload| decode::chain(payload, name))?;
        for (chain, base) in chains {
            let base = base.unwrap_or_else(|what| {
                observed.unknown.insert(format!("chain {chain}: {what}"));
                None
            });
            observed.chains.insert(chain, ObservedChain { base, rules: Vec::new() });
        }
        let of_table = |out: &mut Writer<'_>| out.text(rule::TABLE, name);
        let rules =
            self.query(name, message::GET_RULE, flag::DUMP, of_table, |_, payload| decode::rule(payload, name))?;
        for (chain, digest) in rules {
            observed.chains.entry(chain).or_default().rules.push(digest);
        }
        Ok(())
    }

    fn read_set(&mut self, table: &Name, header: SetHeader, observed: &mut Observed) -> Result<(), Fault> {
        let SetHeader { name, shape, size } = header;
        let known = match shape {
            Shape::Anonymous => true,
            Shape::Unknown => false,
            Shape::Keys(key) => decode::keys(&key, &self.read_elements(table, &name)?)
                .map(|keys| {
                    observed.sets.insert(name.clone(), Set { key, elements: Elements::Keys(keys), size });
                })
                .is_some(),
            Shape::Prefixes(field) => decode::prefixes(field, &self.read_elements(table, &name)?)
                .map(|elements| {
                    observed.sets.insert(name.clone(), Set { key: vec![field], elements, size });
                })
                .is_some(),
            Shape::Map(key, value) => decode::entries(&key, value, &self.read_elements(table, &name)?)
                .map(|elements| {
                    observed.maps.insert(name.clone(), Map { key, elements, value, size });
                })
                .is_some(),
        };
        if !known {
            observed.unknown.insert(format!("set {name}"));
        }
        Ok(())
    }

    fn read_elements(&mut self, table: &Name, set: &Name) -> Result<Vec<RawElement>, Fault> {
        let of_set = |out: &mut Writer<'_>| {
            out.text(elements::TABLE, table);
            out.text(elements::SET, set);
        };
        let messages = self.query(table, message::GET_ELEMENTS, flag::DUMP, of_set, |_, payload| {
            Some(decode::raw_elements(payload))
        })?;
        Ok(messages.into_iter().flatten().collect())
    }
}

impl Nft for NftClient {
    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.read_table(table).map_err(|fault| {
            // A chain or set that went away between two questions: ask again.
            let kind = match fault.disposition() {
                Disposition::Stale => Disposition::Retry,
                other => other,
            };
            fault.into_error(format!("list table {} {table}", TableFamily::of(table)), kind)
        })
    }

    fn forward_drops(&mut self) -> Vec<String> {
        // A kernel without nf_tables has no such chains.
        self.read_forward_drops().unwrap_or_default()
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        let mut encoded = encode(transaction)?;
        let mut attempts = 1;
        loop {
            match self.socket.transact(&mut encoded.batch) {
                Ok(()) => return Ok(()),
                Err(refused) if refused.fault.errno() == Some(Refusal::ERESTART) && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                Err(refused) => {
                    let change = encoded.changes.get(refused.index).and_then(|at| transaction.changes.get(*at));
                    return Err(refusal(transaction, change, refused.fault));
                }
            }
        }
    }
}

/// The error for a refused transaction: names the change that failed, as an `nft` command.
pub(super) fn refusal(transaction: &Transaction, change: Option<&Change>, fault: Fault) -> Error {
    let n_changes = transaction.changes.len();
    let table = transaction.table.as_deref().unwrap_or("?");
    let op = match change {
        Some(change) if matches!(fault, Fault::Refused(_)) => {
            format!("nft transaction of {n_changes} changes, at: {}", ChangeIn { table, change }.brief())
        }
        _ => format!("nft transaction of {n_changes} changes on table {} {table}", TableFamily::of(table)),
    };
    let kind = match fault.errno() {
        // The picture it was planned on is wrong: something exists, is gone, or is held by what we did not see.
        Some(Refusal::EEXIST | Refusal::ENOENT | Refusal::EBUSY) => Disposition::Stale,
        Some(Refusal::EMSGSIZE) => Disposition::Fatal,
        _ => fault.disposition(),
    };
    fault.into_error(op, kind)
}
