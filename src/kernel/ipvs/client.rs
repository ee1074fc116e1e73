//! The IPVS table of the running kernel, over generic netlink.

use std::collections::BTreeMap;

use super::codec::{
    self, VirtualServerRecord, decode_real_server, decode_virtual_server, encode_dump_real_servers,
    encode_dump_virtual_servers, encode_get_virtual_server, encode_op, encode_timeouts,
};
use super::{
    Connections, Ipvs, Op, RealServer, RealServerKey, Stats, Table, Timeouts, VirtualServer, VirtualServerKey,
};
use crate::kernel::modules::Modules;
use crate::kernel::netlink::generic::Family;
use crate::kernel::netlink::{Batch, Fault, Protocol, Refusal, Socket};
use crate::kernel::{Disposition, Error};

/// Ops encoded before they are sent: bounds the buffer, and is a multiple of what one `send` takes.
const OPS_AT_ONCE: usize = 2_000;

/// A client for the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct IpvsClient {
    socket: Socket,
    family: Family,
    batch: Batch,
}

impl IpvsClient {
    /// Open a socket. Whether the kernel has IPVS shows at the first use; it may load the module then.
    ///
    /// # Errors
    /// Where no generic netlink socket can be had.
    pub fn open() -> Result<IpvsClient, Error> {
        let socket = Socket::open(Protocol::Generic).map_err(|error| {
            let fault = Fault::Socket(error);
            let kind = fault.disposition();
            fault.into_error("open a generic netlink socket for ipvs".to_owned(), kind)
        })?;
        Ok(IpvsClient { socket, family: Family::new(codec::FAMILY_NAME), batch: Batch::new() })
    }

    /// Datagrams sent so far.
    pub fn sends(&self) -> u64 {
        self.socket.sends()
    }

    fn number(&mut self) -> Result<u16, Error> {
        self.family.number(&mut self.socket).map_err(no_family)
    }

    /// One request, with the family's number renewed once where the kernel no longer knows it.
    fn query<T>(
        &mut self,
        what: &dyn Fn() -> String,
        encode: impl Fn(&mut Batch, u16),
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Result<Vec<T>, Refusal>, Error> {
        let mut number = self.number()?;
        let mut renewed = false;
        loop {
            self.batch.clear();
            encode(&mut self.batch, number);
            match self.socket.query(&mut self.batch, |kind, payload| (kind == number).then(|| decode(payload))?) {
                Ok(found) => return Ok(Ok(found)),
                Err(Fault::Refused(refusal)) if refusal.errno == Refusal::ENOENT && !renewed => {
                    renewed = true;
                    match self.family.renumber(&mut self.socket).map_err(no_family)? {
                        Some(new) => number = new,
                        None => return Ok(Err(refusal)),
                    }
                }
                Err(Fault::Refused(refusal)) => return Ok(Err(refusal)),
                Err(fault) => {
                    let kind = fault.disposition();
                    return Err(fault.into_error(what(), kind));
                }
            }
        }
    }

    fn virtual_servers(&mut self) -> Result<Vec<VirtualServerRecord>, Error> {
        let what = || "read virtual servers (ipvsadm -Ln)".to_owned();
        self.query(&what, encode_dump_virtual_servers, decode_virtual_server)?
            .map_err(|refusal| refused(refusal, what()))
    }

    fn real_servers(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServer, Connections)>, Error> {
        let what = || format!("read real servers of {key:?}");
        let family = key.family();
        self.query(
            &what,
            |batch, number| encode_dump_real_servers(batch, number, key),
            |payload| decode_real_server(family, payload),
        )?
        .map_err(|refusal| refused(refusal, what()))
    }

    fn sorted_real_servers(&mut self, key: &VirtualServerKey) -> Result<Box<[RealServer]>, Error> {
        let mut found: Vec<RealServer> = self.real_servers(key)?.into_iter().map(|(real, _)| real).collect();
        found.sort_unstable_by_key(|real| real.key);
        // A dump that somebody writes into may tell the same one twice.
        found.dedup_by_key(|real| real.key);
        Ok(found.into_boxed_slice())
    }

    fn apply_some(&mut self, ops: &[Op], results: &mut Vec<Result<(), Error>>) {
        let number = match self.number() {
            Ok(number) => number,
            Err(error) => {
                results.extend(ops.iter().map(|op| Err(Error { op: command(op), ..error.clone() })));
                return;
            }
        };
        self.batch.clear();
        for op in ops {
            encode_op(&mut self.batch, number, op);
        }
        let mut answers = self.socket.apply(&mut self.batch);
        // A family that is gone answers ENOENT to everything. Where it came back under another number, nothing of
        // this was done yet.
        if answers.iter().all(|answer| matches!(answer, Err(fault) if fault.errno() == Some(Refusal::ENOENT))) {
            match self.family.renumber(&mut self.socket) {
                Ok(None) => {}
                Ok(Some(new)) => {
                    self.batch.retype(new);
                    answers = self.socket.apply(&mut self.batch);
                }
                Err(fault) => {
                    let error = no_family(fault);
                    results.extend(ops.iter().map(|op| Err(Error { op: command(op), ..error.clone() })));
                    return;
                }
            }
        }
        results.extend(ops.iter().zip(answers).map(|(op, answer)| answer.map_err(|fault| failed(op, fault))));
    }
}

impl Ipvs for IpvsClient {
    fn dump(&mut self) -> Result<Table, Error> {
        let mut table = Table::new();
        for VirtualServerRecord { key, spec, .. } in self.virtual_servers()? {
            let real_servers = self.sorted_real_servers(&key)?;
            table.insert(key, VirtualServer { spec, real_servers });
        }
        Ok(table)
    }

    fn read(&mut self, key: &VirtualServerKey) -> Result<Option<VirtualServer>, Error> {
        let what = || format!("read virtual server {key:?}");
        let answer =
            self.query(&what, |batch, number| encode_get_virtual_server(batch, number, key), decode_virtual_server)?;
        let spec = match answer {
            Ok(found) => match found.into_iter().find(|record| record.key == *key) {
                Some(record) => record.spec,
                None => return Ok(None),
            },
            Err(refusal) if matches!(refusal.errno, Refusal::ESRCH | Refusal::ENOENT) => return Ok(None),
            Err(refusal) => return Err(refused(refusal, what())),
        };
        Ok(Some(VirtualServer { spec, real_servers: self.sorted_real_servers(key)? }))
    }

    fn connections(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error> {
        Ok(self.real_servers(key)?.into_iter().map(|(real, connections)| (real.key, connections)).collect())
    }

    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error> {
        Ok(self.virtual_servers()?.into_iter().map(|record| (record.key, record.stats)).collect())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(ops.len());
        for some in ops.chunks(OPS_AT_ONCE) {
            self.apply_some(some, &mut results);
        }
        load_schedulers(ops, &mut results);
        results
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        let what = || format!("ipvsadm --set {} {} {}", timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
        self.query(&what, |batch, number| encode_timeouts(batch, number, timeouts), |_| Some(()))?
            .map(|_| ())
            .map_err(|refusal| refused(refusal, what()))
    }
}

/// Load the modules of schedulers that the kernel misses: it asks modprobe itself, which a host need not have. The
/// ops stay failed, the next try finds the scheduler. Where the module cannot be had, the error says what to do.
fn load_schedulers(ops: &[Op], results: &mut [Result<(), Error>]) {
    let mut tried: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (op, result) in ops.iter().zip(results) {
        let (Err(error), Some(scheduler)) = (result, scheduler_of(op)) else { continue };
        if error.errno != Some(Refusal::ENOENT) {
            continue;
        }
        let module = format!("ip_vs_{scheduler}");
        let failed = tried.entry(module).or_insert_with_key(|module| match Modules::of_this_kernel().load(module) {
            Ok(()) => {
                tracing::info!(module, "loaded the kernel module of a scheduler");
                None
            }
            Err(error) => Some(error.to_string()),
        });
        if let Some(reason) = failed {
            error.message = format!("scheduler {scheduler} is not available: {reason}");
        }
    }
}

/// The scheduler that an op asks the kernel for.
fn scheduler_of(op: &Op) -> Option<&str> {
    match op {
        Op::AddVirtualServer(_, spec) | Op::SetVirtualServer(_, spec) => Some(&spec.scheduler.0),
        _ => None,
    }
}

/// An op as the operator would type it.
fn command(op: &Op) -> String {
    format!("ipvsadm {op}")
}

fn refused(refusal: Refusal, op: String) -> Error {
    let fault = Fault::Refused(refusal);
    let kind = fault.disposition();
    fault.into_error(op, kind)
}

fn no_family(fault: Fault) -> Error {
    if fault.errno() == Some(Refusal::ENOENT) {
        return Error {
            op: "find ipvs in the kernel".to_owned(),
            errno: fault.errno(),
            message: "ipvs is not available: load kernel module ip_vs on the host".to_owned(),
            kind: Disposition::Fatal,
        };
    }
    let kind = fault.disposition();
    fault.into_error("find ipvs in the kernel".to_owned(), kind)
}

/// What a failed op means: the kernel's numbers depend on the op.
pub(super) fn failed(op: &Op, fault: Fault) -> Error {
    let errno = fault.errno();
    let (kind, message) = match (op, &fault, errno) {
        (Op::AddVirtualServer(..) | Op::AddRealServer(..), Fault::Refused(_), Some(Refusal::EEXIST)) => {
            (Disposition::AlreadySo, None)
        }
        (
            Op::DeleteVirtualServer(_) | Op::DeleteRealServer(..),
            Fault::Refused(_),
            Some(Refusal::ENOENT | Refusal::ESRCH),
        ) => (Disposition::AlreadySo, None),
        (Op::AddVirtualServer(_, spec) | Op::SetVirtualServer(_, spec), Fault::Refused(_), Some(Refusal::ENOENT)) => {
            let name = &spec.scheduler.0;
            let message = format!("scheduler {name} is not available: load kernel module ip_vs_{name}");
            (Disposition::Fatal, Some(message))
        }
        _ => (fault.disposition(), None),
    };
    let error = fault.into_error(command(op), kind);
    match message {
        Some(message) => Error { message, ..error },
        None => error,
    }
}
