//! Links, addresses, routes and rules of the network namespace this thread is in, over rtnetlink.

use super::{Address, Link, Neighbour, Op, Route, RouteFilter, Rtnl, Rule, codec};
use crate::kernel::error::{Disposition, Error};
use crate::kernel::netlink::{Batch, Fault, Protocol, Refusal, Socket};
use crate::net::Family;

/// [`Rtnl`] on a netlink socket.
#[derive(Debug)]
pub struct RtnlClient {
    socket: Socket,
    batch: Batch,
}

impl RtnlClient {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where the socket cannot be had.
    pub fn open() -> Result<RtnlClient, Error> {
        let socket = Socket::open(Protocol::Route).map_err(|error| Error {
            op: "open a route netlink socket".to_owned(),
            errno: error.raw_os_error(),
            message: String::new(),
            kind: Disposition::Fatal,
        })?;
        Ok(RtnlClient { socket, batch: Batch::new() })
    }

    /// The number by which a [`Monitor`](super::monitor::Monitor) knows the changes made here.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn port(&self) -> std::io::Result<u32> {
        self.socket.port()
    }

    fn query<T>(
        &mut self,
        request: impl FnOnce(&mut Batch),
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        self.batch.clear();
        request(&mut self.batch);
        self.socket.query(&mut self.batch, |_, payload| decode(payload))
    }
}

impl Rtnl for RtnlClient {
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.query(codec::request_links, codec::decode_link).map_err(|fault| unread(fault, "ip link show"))
    }

    fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error> {
        let mut found = Vec::new();
        for family in Family::ALL {
            let request = |batch: &mut Batch| codec::request_addresses(batch, family, link);
            // Where IPv6 is off, the kernel answers with the other family.
            let decode = |payload: &[u8]| {
                codec::decode_address(payload).filter(|address| {
                    Family::of(address.prefix.addr()) == family && link.is_none_or(|link| link == address.link)
                })
            };
            found.extend(absent_is_empty(self.query(request, decode)).map_err(|f| unread(f, "ip address show"))?);
        }
        Ok(found)
    }

    fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        let mut found = Vec::new();
        for family in Family::ALL {
            let request = |batch: &mut Batch| codec::request_routes(batch, family, filter);
            let decode = |payload: &[u8]| {
                codec::decode_route(payload)
                    .filter(|route| Family::of(route.destination.addr()) == family && filter.admits(route))
            };
            found.extend(absent_is_empty(self.query(request, decode)).map_err(|f| unread(f, "ip route show"))?);
        }
        Ok(found)
    }

    fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        let mut found = Vec::new();
        for family in Family::ALL {
            let request = |batch: &mut Batch| codec::request_rules(batch, family);
            let decode = |payload: &[u8]| codec::decode_rule(payload).filter(|rule| rule.family == family);
            found.extend(absent_is_empty(self.query(request, decode)).map_err(|f| unread(f, "ip rule show"))?);
        }
        Ok(found)
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        let mut found = Vec::new();
        for family in Family::ALL {
            let request = |batch: &mut Batch| codec::request_neighbours(batch, family);
            let decode =
                |payload: &[u8]| codec::decode_neighbour(payload).filter(|it| Family::of(it.address) == family);
            found.extend(absent_is_empty(self.query(request, decode)).map_err(|f| unread(f, "ip neighbour show"))?);
        }
        Ok(found)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        self.batch.clear();
        for op in ops {
            codec::encode(op, &mut self.batch);
        }
        let results = self.socket.apply(&mut self.batch);
        ops.iter().zip(results).map(|(op, result)| result.map_err(|fault| refusal(op, fault))).collect()
    }
}

/// A filter that names a table or link that is not there finds nothing; families the kernel lacks hold nothing.
fn absent_is_empty<T>(found: Result<Vec<T>, Fault>) -> Result<Vec<T>, Fault> {
    const EAFNOSUPPORT: i32 = 97;
    match found.as_ref().err().and_then(Fault::errno) {
        Some(Refusal::ENOENT | Refusal::ENODEV | Refusal::EOPNOTSUPP | EAFNOSUPPORT) => Ok(Vec::new()),
        _ => found,
    }
}

fn unread(fault: Fault, op: &str) -> Error {
    // A dump that lost answers has changed nothing: it may simply be asked again.
    let kind = match fault.disposition() {
        Disposition::Stale => Disposition::Retry,
        other => other,
    };
    fault.into_error(op.to_owned(), kind)
}

/// What the kernel's answer to an op means.
pub(super) fn refusal(op: &Op, fault: Fault) -> Error {
    const ENETDOWN: i32 = 100;
    const ENETUNREACH: i32 = 101;
    const EHOSTUNREACH: i32 = 113;
    let deletes = matches!(op, Op::DeleteLink { .. } | Op::DeleteAddress(_) | Op::DeleteRoute(_) | Op::DeleteRule(_));
    let kind = match fault.errno() {
        Some(Refusal::EEXIST) if !deletes => Disposition::AlreadySo,
        Some(Refusal::ENOENT | Refusal::ESRCH | Refusal::ENODEV | Refusal::EADDRNOTAVAIL) if deletes => {
            Disposition::AlreadySo
        }
        // The link is down or gone, or the way to the gateway is.
        Some(ENETDOWN | ENETUNREACH | EHOSTUNREACH) => Disposition::Stale,
        _ => fault.disposition(),
    };
    let module = match op {
        Op::AddDummy { .. } => Some("dummy"),
        Op::AddBridge { .. } => Some("bridge"),
        // Without the module of its encapsulation a tunnel is an invalid argument.
        Op::AddTunnel { tunnel, .. } => Some(tunnel.module(fault.errno() == Some(Refusal::EINVAL))),
        _ => None,
    };
    let encapsulated = matches!(op, Op::AddTunnel { tunnel, .. } if tunnel.gue.is_some());
    let lacks_kind = match fault.errno() {
        Some(Refusal::EOPNOTSUPP) => true,
        Some(Refusal::EINVAL) => encapsulated,
        _ => false,
    };
    let mut error = fault.into_error(op.to_string(), kind);
    if let Some(module) = module.filter(|_| lacks_kind) {
        error.message = format!("{}: load the kernel module {module} on the host", error.message);
    }
    error
}
