//! The table and its changes in the language of `ipvsadm` 1.31: what logs, dry runs and tests show.

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::codec::v4_netmask;
use super::{Forwarding, Op, RealServer, Table, TunnelType, VirtualServerKey, VirtualServerSpec};
use crate::net::{Family, Protocol};

/// The table as `ipvsadm -Sn` prints it. Thresholds are not in that form: the tool leaves them out too.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a>(pub &'a Table);

/// The table as `ipvsadm -Ln` prints it while no connection exists.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The table.
    pub table: &'a Table,
    /// The size in the headline: 2 to the power of the module parameter `conn_tab_bits`.
    pub connection_table_size: u32,
}

impl<'a> Listed<'a> {
    /// The table with the connection table size a kernel has by default.
    pub fn new(table: &'a Table) -> Listed<'a> {
        Listed { table, connection_table_size: 4096 }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddVirtualServer(key, spec) => {
                write!(f, "-A {}{}", KeyOption { key, signed: false }, SpecOptions { key, spec, saved: false })
            }
            Op::SetVirtualServer(key, spec) => {
                write!(f, "-E {}{}", KeyOption { key, signed: false }, SpecOptions { key, spec, saved: false })
            }
            Op::DeleteVirtualServer(key) => write!(f, "-D {}", KeyOption { key, signed: false }),
            Op::AddRealServer(key, real) => {
                write!(f, "-a {} {}", KeyOption { key, signed: false }, RealOptions { real, saved: false })
            }
            Op::SetRealServer(key, real) => {
                write!(f, "-e {} {}", KeyOption { key, signed: false }, RealOptions { real, saved: false })
            }
            Op::DeleteRealServer(key, real) => {
                let real = SocketAddr::new(real.address, real.port);
                write!(f, "-d {} -r {real}", KeyOption { key, signed: false })
            }
        }
    }
}

impl Display for Saved<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (key, server) in in_tool_order(self.0.iter().collect(), |a, b| compare_keys(a.0, b.0)) {
            let option = KeyOption { key, signed: true };
            writeln!(f, "-A {option}{}", SpecOptions { key, spec: &server.spec, saved: true })?;
            for real in in_tool_order(server.real_servers.iter().collect(), |a, b| compare_real(a, b)) {
                writeln!(f, "-a {option} {}", RealOptions { real, saved: true })?;
            }
        }
        Ok(())
    }
}

impl Display for Listed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "IP Virtual Server version 1.2.1 (size={})", self.connection_table_size)?;
        writeln!(f, "Prot LocalAddress:Port Scheduler Flags")?;
        writeln!(f, "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn")?;
        for (key, server) in in_tool_order(self.table.iter().collect(), |a, b| compare_keys(a.0, b.0)) {
            list_virtual_server(f, key, &server.spec)?;
            for real in in_tool_order(server.real_servers.iter().collect(), |a, b| compare_real(a, b)) {
                let address = SocketAddr::new(real.key.address, real.key.port).to_string();
                let method = match real.forwarding {
                    Forwarding::Masquerade => "Masq",
                    Forwarding::Tunnel(_) => "Tunnel",
                    Forwarding::Route => "Route",
                    Forwarding::Local => "Local",
                };
                writeln!(f, "  -> {address:<28} {method:<7} {:<6} {:<10} {:<10}", real.weight, 0, 0)?;
            }
        }
        Ok(())
    }
}

fn list_virtual_server(f: &mut Formatter<'_>, key: &VirtualServerKey, spec: &VirtualServerSpec) -> fmt::Result {
    match *key {
        VirtualServerKey::Address { address, protocol, port } => {
            let name = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            write!(f, "{name:<4} {}", SocketAddr::new(address, port))?;
        }
        VirtualServerKey::Mark { mark, family: Family::V4 } => write!(f, "FWM  {}", mark.cast_signed())?,
        VirtualServerKey::Mark { mark, family: Family::V6 } => write!(f, "FWM  {} IPv6", mark.cast_signed())?,
    }
    write!(f, " {}", spec.scheduler.0)?;
    if spec.scheduler_flags != 0 {
        write!(f, " ({})", FlagNames { spec, known_only: true })?;
    }
    if let Some(timeout) = spec.persistence {
        write!(f, " persistent {timeout}")?;
        if spec.persistence_prefix != key.family().host_length() {
            write!(f, " mask {}", Netmask { family: key.family(), length: spec.persistence_prefix })?;
        }
    }
    if spec.one_packet {
        write!(f, " ops")?;
    }
    writeln!(f)
}

/// `-t 10.96.0.1:80` or `-f 7 -6`. The tool prints marks as signed numbers but reads them unsigned.
struct KeyOption<'a> {
    key: &'a VirtualServerKey,
    signed: bool,
}

impl Display for KeyOption<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self.key {
            VirtualServerKey::Address { address, protocol, port } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                write!(f, "{option} {}", SocketAddr::new(address, port))
            }
            VirtualServerKey::Mark { mark, family } => {
                if self.signed {
                    write!(f, "-f {}", mark.cast_signed())?;
                } else {
                    write!(f, "-f {mark}")?;
                }
                if family == Family::V6 { f.write_str(" -6") } else { Ok(()) }
            }
        }
    }
}

/// ` -s rr -p 60 -M 255.255.255.0 -o -b flag-1`.
struct SpecOptions<'a> {
    key: &'a VirtualServerKey,
    spec: &'a VirtualServerSpec,
    saved: bool,
}

impl Display for SpecOptions<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (spec, family) = (self.spec, self.key.family());
        write!(f, " -s {}", spec.scheduler.0)?;
        if let Some(timeout) = spec.persistence {
            write!(f, " -p {timeout}")?;
            if spec.persistence_prefix != family.host_length() {
                write!(f, " -M {}", Netmask { family, length: spec.persistence_prefix })?;
            }
        }
        if spec.one_packet {
            write!(f, " -o")?;
        }
        if spec.scheduler_flags != 0 {
            write!(f, " -b {}", FlagNames { spec, known_only: self.saved })?;
        }
        Ok(())
    }
}

/// Names of scheduler flags. The tool has names for two flags of `sh` and `mh` and then does not print the third.
struct FlagNames<'a> {
    spec: &'a VirtualServerSpec,
    known_only: bool,
}

impl Display for FlagNames<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (names, n_known) = match &*self.spec.scheduler.0 {
            "sh" => (["sh-fallback", "sh-port", "flag-3"], 2),
            "mh" => (["mh-fallback", "mh-port", "flag-3"], 2),
            _ => (["flag-1", "flag-2", "flag-3"], 3),
        };
        let n_names = if self.known_only { n_known } else { names.len() };
        let mut separator = "";
        for (bit, name) in names.into_iter().enumerate().take(n_names) {
            if self.spec.scheduler_flags & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

/// A dotted mask for IPv4, a length for IPv6.
struct Netmask {
    family: Family,
    length: u8,
}

impl Display for Netmask {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::V4 => write!(f, "{}", Ipv4Addr::from(v4_netmask(self.length))),
            Family::V6 => write!(f, "{}", self.length),
        }
    }
}

/// `-r 10.0.0.1:8080 -m -w 1`.
struct RealOptions<'a> {
    real: &'a RealServer,
    saved: bool,
}

impl Display for RealOptions<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let real = self.real;
        write!(f, "-r {}", SocketAddr::new(real.key.address, real.key.port))?;
        // There is no option for local delivery: the kernel finds out by itself. The tool prints it as routing.
        let option = match real.forwarding {
            Forwarding::Masquerade => "-m",
            Forwarding::Tunnel(_) => "-i",
            Forwarding::Route | Forwarding::Local => "-g",
        };
        write!(f, " {option} -w {}", real.weight)?;
        if !self.saved && real.upper_threshold != 0 {
            write!(f, " -x {}", real.upper_threshold)?;
        }
        if !self.saved && real.lower_threshold != 0 {
            write!(f, " -y {}", real.lower_threshold)?;
        }
        match real.forwarding {
            Forwarding::Tunnel(TunnelType::Ipip) => f.write_str(" --tun-type ipip"),
            Forwarding::Tunnel(TunnelType::Gue { port }) => write!(f, " --tun-type gue --tun-port {port} --tun-nocsum"),
            Forwarding::Tunnel(TunnelType::Gre) => f.write_str(" --tun-type gre --tun-nocsum"),
            Forwarding::Masquerade | Forwarding::Route | Forwarding::Local => Ok(()),
        }
    }
}

/// Virtual servers in the tool's order: mark, family, protocol, address, port.
fn compare_keys(a: &VirtualServerKey, b: &VirtualServerKey) -> Ordering {
    let parts = |key: &VirtualServerKey| match *key {
        VirtualServerKey::Address { address, protocol, port } => (0, Some(address), protocol.number(), port),
        VirtualServerKey::Mark { mark, .. } => (mark, None, 0, 0),
    };
    let (a_mark, a_address, a_protocol, a_port) = parts(a);
    let (b_mark, b_address, b_protocol, b_port) = parts(b);
    by_difference(a_mark, b_mark)
        .then(a.family().cmp(&b.family()))
        .then(a_protocol.cmp(&b_protocol))
        .then_with(|| match (a_address, b_address) {
            (Some(a_address), Some(b_address)) => compare_addresses(a_address, b_address),
            _ => Ordering::Equal,
        })
        .then(a_port.cmp(&b_port))
}

fn compare_real(a: &RealServer, b: &RealServer) -> Ordering {
    compare_addresses(a.key.address, b.key.address).then(a.key.port.cmp(&b.key.port))
}

/// Word by word. An IPv4 address is one word followed by zeros, as in `union nf_inet_addr`.
fn compare_addresses(a: IpAddr, b: IpAddr) -> Ordering {
    let words = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let word = |bits: u128, index: u32| u32::try_from((bits >> (96 - 32 * index)) & u128::from(u32::MAX)).unwrap_or(0);
    let (a, b) = (words(a), words(b));
    (0..4)
        .map(|index| by_difference(word(a, index), word(b, index)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// The tool subtracts unsigned numbers and looks at the sign of the 32-bit result: 192.168.0.1 comes before 10.0.0.1.
fn by_difference(a: u32, b: u32) -> Ordering {
    a.wrapping_sub(b).cast_signed().cmp(&0)
}

/// A merge sort, as the C library's: that order is not a total one (10 < 100 < 192 < 10 …), which the standard
/// library's sorts do not promise to survive.
fn in_tool_order<T: Copy>(items: Vec<T>, compare: impl Fn(&T, &T) -> Ordering + Copy) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let (left, right) = items.split_at(items.len() / 2);
    let mut left = in_tool_order(left.to_vec(), compare).into_iter().peekable();
    let mut right = in_tool_order(right.to_vec(), compare).into_iter().peekable();
    let mut sorted = Vec::with_capacity(items.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        sorted.extend(if compare(a, b).is_le() { left.next() } else { right.next() });
    }
    sorted.extend(left);
    sorted.extend(right);
    sorted
}

#[cfg(test)]
mod tests;
