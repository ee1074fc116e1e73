//! The sets of the network namespace this thread is in, over nfnetlink.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::codec::{self, Dialect};
use super::{Found, Ipset, Kind, Op, Shape, described, errno, refusal};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::netlink::{Batch, Fault, Protocol, Refusal, Socket};
use crate::net::Family;

/// [`Ipset`] on a netlink socket.
#[derive(Debug)]
pub struct IpsetClient {
    socket: Socket,
    batch: Batch,
    dialect: Option<Dialect>,
    /// The kernel's newest revision of each type, once asked for.
    revisions: BTreeMap<(Kind, Option<Family>), u8>,
}

impl IpsetClient {
    /// Opens a socket in the network namespace of the calling thread. Whether the kernel has ipset shows at the first
    /// use; it may load the module then.
    ///
    /// # Errors
    /// Where no netfilter netlink socket can be had.
    pub fn open() -> Result<IpsetClient, Error> {
        let socket = Socket::open(Protocol::Netfilter).map_err(|error| {
            let fault = Fault::Socket(error);
            let kind = fault.disposition();
            fault.into_error("open a netfilter netlink socket for ipset".to_owned(), kind)
        })?;
        Ok(IpsetClient { socket, batch: Batch::new(), dialect: None, revisions: BTreeMap::new() })
    }

    /// What both sides speak, asked once.
    fn dialect(&mut self) -> Result<Dialect, Error> {
        if let Some(dialect) = self.dialect {
            return Ok(dialect);
        }
        self.batch.clear();
        codec::request_protocol(&mut self.batch);
        let answer = self.socket.query(&mut self.batch, |_, payload| codec::decode_protocol(payload));
        let op = || "ipset version".to_owned();
        let answers = answer.map_err(|fault| {
            let kind = fault.disposition();
            described(fault, op(), kind)
        })?;
        let (newest, oldest) = answers.first().copied().unwrap_or((0, 0));
        let protocol = newest.min(codec::PROTOCOL);
        if protocol < oldest.max(codec::OLDEST_PROTOCOL) {
            let message = format!(
                "the kernel speaks ipset protocols {oldest} to {newest}, this program {} to {}",
                codec::OLDEST_PROTOCOL,
                codec::PROTOCOL
            );
            return Err(Error { op: op(), errno: None, message, kind: Disposition::Fatal });
        }
        let dialect = Dialect { protocol };
        self.dialect = Some(dialect);
        Ok(dialect)
    }

    /// The newest revision of a type; `None` where the kernel does not have it.
    fn revision(&mut self, kind: Kind, family: Option<Family>) -> Result<Option<u8>, Error> {
        if let Some(known) = self.revisions.get(&(kind, family)) {
            return Ok(Some(*known));
        }
        let dialect = self.dialect()?;
        self.batch.clear();
        codec::request_type(&mut self.batch, dialect, kind, family);
        match self.socket.query(&mut self.batch, |_, payload| codec::decode_type(payload)) {
            Ok(found) => {
                let newest = found.first().copied();
                self.revisions.extend(newest.map(|newest| ((kind, family), newest)));
                Ok(newest)
            }
            Err(fault) if matches!(fault.errno(), Some(errno::FIND_TYPE | Refusal::EEXIST)) => Ok(None),
            Err(fault) => {
                let kind_of_fault = fault.disposition();
                Err(described(fault, format!("ask for sets of type {}", kind.name()), kind_of_fault))
            }
        }
    }

    /// Everything that must be known to encode an op.
    fn prepare(&mut self, op: &Op) -> Result<(Dialect, u8), Error> {
        let dialect = self.dialect()?;
        let revision = match op {
            Op::Create { shape: Shape { kind, family, .. }, .. } => {
                let missing =
                    || refusal(op, Fault::Refused(Refusal { errno: errno::FIND_TYPE, message: None, offset: None }));
                self.revision(*kind, *family)?.ok_or_else(missing)?
            }
            _ => 0,
        };
        Ok((dialect, revision))
    }
}

impl Ipset for IpsetClient {
    fn supports(&mut self, kind: Kind, family: Family) -> Result<bool, Error> {
        let family = (kind != Kind::Port).then_some(family);
        Ok(self.revision(kind, family)?.is_some())
    }

    fn names(&mut self) -> Result<Vec<Arc<str>>, Error> {
        let dialect = self.dialect()?;
        self.batch.clear();
        codec::request_names(&mut self.batch, dialect);
        let found = self.socket.query(&mut self.batch, |_, payload| codec::decode_name(payload).map(Arc::from));
        found.map_err(|fault| {
            let kind = fault.disposition();
            described(fault, "ipset list -name".to_owned(), kind)
        })
    }

    fn list(&mut self, name: &str) -> Result<Option<Found>, Error> {
        let dialect = self.dialect()?;
        self.batch.clear();
        codec::request_set(&mut self.batch, dialect, name);
        match self.socket.query(&mut self.batch, |_, payload| Some(codec::decode_part(payload))) {
            Ok(parts) => Ok(codec::assemble(parts)),
            Err(fault) if fault.errno() == Some(Refusal::ENOENT) => Ok(None),
            Err(fault) => {
                let kind = fault.disposition();
                Err(described(fault, format!("ipset list {name}"), kind))
            }
        }
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut prepared = Vec::with_capacity(ops.len());
        for op in ops {
            let ready = self.prepare(op);
            prepared.push(ready.as_ref().ok().copied());
            results.push(ready.map(drop));
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let mut owners = Vec::new();
        for (index, (op, ready)) in ops.iter().zip(prepared).enumerate() {
            let Some((dialect, revision)) = ready else { continue };
            codec::encode(&mut batch, dialect, op, revision);
            owners.resize(batch.len(), index);
        }
        for (index, answer) in owners.into_iter().zip(self.socket.apply(&mut batch)) {
            // The first refusal of an op tells.
            if let (Err(fault), Some(op), Some(slot)) = (answer, ops.get(index), results.get_mut(index))
                && slot.is_ok()
            {
                *slot = Err(refusal(op, fault));
            }
        }
        self.batch = batch;
        results
    }
}
