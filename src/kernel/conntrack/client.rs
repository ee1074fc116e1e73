//! The connection tracking table of the running kernel, over nfnetlink.

use super::codec::{decode_flow, encode_delete, encode_dump, encode_hold, encode_mark};
use super::{Conntrack, Flow, Transport};
use crate::kernel::Error;
use crate::kernel::netlink::{self, Batch, Fault, Refusal, Socket};
use crate::net::Family;

/// Messages encoded before they are sent: bounds the buffer, and is a multiple of what one `send` takes.
const FLOWS_AT_ONCE: usize = 2_000;

/// A client for the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct ConntrackClient {
    socket: Socket,
    batch: Batch,
}

impl ConntrackClient {
    /// Open a socket. Whether the kernel has `nf_conntrack_netlink` shows at the first use; it may load it then.
    ///
    /// # Errors
    /// Where no netfilter netlink socket can be had.
    pub fn open() -> Result<ConntrackClient, Error> {
        let socket = Socket::open(netlink::Protocol::Netfilter).map_err(|error| {
            failed("open a netfilter netlink socket for conntrack".to_owned(), Fault::Socket(error))
        })?;
        Ok(ConntrackClient { socket, batch: Batch::new() })
    }

    /// One message for each flow. One that is gone is as good as done.
    fn each(
        &mut self,
        flows: &[Flow],
        encode: impl Fn(&mut Batch, &Flow),
        command: impl Fn(&Flow) -> String,
    ) -> Result<(), Error> {
        let mut first_error = None;
        for some in flows.chunks(FLOWS_AT_ONCE) {
            self.batch.clear();
            for flow in some {
                encode(&mut self.batch, flow);
            }
            for (flow, answer) in some.iter().zip(self.socket.apply(&mut self.batch)) {
                match answer {
                    Err(fault) if fault.errno() != Some(Refusal::ENOENT) && first_error.is_none() => {
                        first_error = Some(failed(command(flow), fault));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Conntrack for ConntrackClient {
    fn list(&mut self, family: Option<Family>, keep: &mut dyn FnMut(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        self.batch.clear();
        encode_dump(&mut self.batch, family);
        let of_family = || family.map(|family| format!(" -f {family}")).unwrap_or_default();
        self.socket
            .query(&mut self.batch, |kind, payload| decode_flow(kind, payload).filter(|flow| keep(flow)))
            .map_err(|fault| failed(format!("conntrack -L{}", of_family()), fault))
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.each(flows, encode_delete, |flow| format!("conntrack -D {}", identity(flow)))
    }

    fn mark(&mut self, flows: &[Flow], mask: u32, value: u32) -> Result<(), Error> {
        let command = |flow: &Flow| format!("conntrack -U {} --mark {value:#x}/{mask:#x}", identity(flow));
        self.each(flows, |batch, flow| encode_mark(batch, flow, mask, value), command)
    }

    fn hold(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.each(flows, encode_hold, |flow| format!("conntrack -U {} --state ESTABLISHED", identity(flow)))
    }
}

/// A flow as the operator would name it.
fn identity(flow: &Flow) -> String {
    let Flow { source, source_port, destination, destination_port, zone, .. } = flow;
    let (protocol, ports) = match flow.transport {
        Transport::Ports(protocol) => {
            (protocol.to_string(), format!("--sport {source_port} --dport {destination_port}"))
        }
        Transport::Icmp { kind, code } => {
            let name = if source.is_ipv4() { "icmp" } else { "icmpv6" };
            (name.to_owned(), format!("--icmp-type {kind} --icmp-code {code} --icmp-id {source_port}"))
        }
    };
    format!("-p {protocol} -s {source} -d {destination} {ports} -w {zone}")
}

fn failed(op: String, fault: Fault) -> Error {
    let kind = fault.disposition();
    let no_subsystem = matches!(&fault, Fault::Refused(refusal) if refusal.errno == Refusal::EINVAL);
    let error = fault.into_error(op, kind);
    if no_subsystem && error.message.is_empty() {
        // What nfnetlink answers where nobody registered the subsystem.
        return Error { message: "is kernel module nf_conntrack_netlink loaded?".to_owned(), ..error };
    }
    error
}
