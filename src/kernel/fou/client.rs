//! FoU ports of the network namespace this thread is in, over generic netlink.

use super::{Fou, Op, Port, codec};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::netlink::generic::Family as Generic;
use crate::kernel::netlink::{Batch, Fault, Protocol, Refusal, Socket};
use crate::net::Family;

/// [`Fou`] on a netlink socket.
#[derive(Debug)]
pub struct FouClient {
    socket: Socket,
    family: Generic,
    batch: Batch,
}

impl FouClient {
    /// Opens a socket in the network namespace of the calling thread. Whether the kernel has FoU shows at the first
    /// use; it may load the module then.
    ///
    /// # Errors
    /// Where no generic netlink socket can be had.
    pub fn open() -> Result<FouClient, Error> {
        let socket = Socket::open(Protocol::Generic).map_err(|error| {
            let fault = Fault::Socket(error);
            let kind = fault.disposition();
            fault.into_error("open a generic netlink socket for fou".to_owned(), kind)
        })?;
        Ok(FouClient { socket, family: Generic::new(codec::FAMILY_NAME), batch: Batch::new() })
    }

    fn try_ports(&mut self) -> Result<Vec<Port>, Fault> {
        let number = self.family.number(&mut self.socket)?;
        let found = self.dump(number);
        // The module may have been loaded anew, under another number.
        if found.as_ref().is_err_and(|fault| fault.errno() == Some(Refusal::ENOENT))
            && let Some(number) = self.family.renumber(&mut self.socket)?
        {
            return self.dump(number);
        }
        found
    }

    fn dump(&mut self, number: u16) -> Result<Vec<Port>, Fault> {
        self.batch.clear();
        codec::request_ports(&mut self.batch, number);
        self.socket.query(
            &mut self.batch,
            |kind, payload| {
                if kind == number { codec::decode_port(payload) } else { None }
            },
        )
    }

    fn send(&mut self, op: &Op) -> Result<(), Fault> {
        let number = self.family.number(&mut self.socket)?;
        self.batch.clear();
        codec::encode(op, number, &mut self.batch);
        let mut answers = self.socket.apply(&mut self.batch);
        answers.pop().unwrap_or(Err(Fault::Unknown))
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), Error> {
        let mut answer = self.send(op);
        if answer.as_ref().is_err_and(|fault| fault.errno() == Some(Refusal::ENOENT))
            && matches!(self.family.renumber(&mut self.socket), Ok(Some(_)))
        {
            answer = self.send(op);
        }
        answer.map_err(|fault| {
            // The kernel's numbers do not tell a port of ours from a socket of somebody else: look.
            let there = || self.try_ports().ok().map(|ports| ports.contains(&op.port()));
            refusal(op, fault, there)
        })
    }
}

impl Fou for FouClient {
    fn ports(&mut self) -> Result<Vec<Port>, Error> {
        match self.try_ports() {
            Err(fault) if fault.errno() == Some(Refusal::ENOENT) => Ok(Vec::new()),
            other => other.map_err(|fault| {
                let kind = match fault.disposition() {
                    Disposition::Stale => Disposition::Retry,
                    kind => kind,
                };
                fault.into_error("ip fou show".to_owned(), kind)
            }),
        }
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        ops.iter().map(|op| self.apply_one(op)).collect()
    }
}

/// What the kernel's answer to an op means; `there` tells whether the port exists, where that can be known.
pub(super) fn refusal(op: &Op, fault: Fault, mut there: impl FnMut() -> Option<bool>) -> Error {
    const EAFNOSUPPORT: i32 = 97;
    const EADDRINUSE: i32 = 98;
    const EALREADY: i32 = 114;
    let number = op.port().number;
    let (kind, message) = match (op, fault.errno()) {
        (Op::AddPort(_), Some(EALREADY)) => (Disposition::AlreadySo, None),
        (Op::AddPort(_), Some(EADDRINUSE)) if there() == Some(true) => (Disposition::AlreadySo, None),
        (Op::AddPort(_), Some(EADDRINUSE)) => {
            (Disposition::Fatal, Some(format!("another program listens on UDP port {number}")))
        }
        // A port that is not there is an invalid argument to the kernel.
        (Op::DeletePort(_), Some(Refusal::EINVAL)) if there() == Some(false) => (Disposition::AlreadySo, None),
        (Op::DeletePort(_), Some(Refusal::ENOENT)) => (Disposition::AlreadySo, None),
        (Op::AddPort(_), Some(Refusal::ENOENT | EAFNOSUPPORT | Refusal::EOPNOTSUPP)) => {
            let module = if op.port().family == Family::V4 { "fou" } else { "fou6" };
            (Disposition::Fatal, Some(format!("load the kernel module {module} on the host")))
        }
        _ => (fault.disposition(), None),
    };
    let mut error = fault.into_error(op.to_string(), kind);
    if let Some(message) = message {
        error.message = message;
    }
    error
}
