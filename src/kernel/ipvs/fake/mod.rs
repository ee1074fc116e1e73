//! A small IPVS kernel in memory: it keeps a table and refuses what the real one refuses, with the same dispositions.
//!
//! Held to the real kernel by `testing::contract::ipvs`, which both must pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::client::failed;
use super::{
    Connections, Forwarding, Ipvs, Op, RealServer, RealServerKey, Stats, Table, Timeouts, TunnelType, VirtualServer,
    VirtualServerKey, VirtualServerSpec,
};
use crate::kernel::netlink::{Fault, Refusal};
use crate::kernel::{Disposition, Error};
use crate::net::Family;

/// Ops in one send, as the real client does.
const OPS_IN_A_SEND: usize = 200;

const ERANGE: i32 = 34;

/// The schedulers of Linux 6.12.
const SCHEDULERS: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "twos"];

type Predicate = Box<dyn FnMut(&Op) -> bool + Send>;

#[derive(Clone, Debug)]
struct Server {
    spec: VirtualServerSpec,
    real: BTreeMap<RealServerKey, (RealServer, Connections)>,
    stats: Stats,
}

/// What a planned failure does to the op it meets.
enum Failure {
    /// Refused with this number, nothing done.
    Refuse(i32),
    /// Done, but the answer is lost.
    LoseAnswer,
}

/// The table, and what tests want to know or provoke.
#[derive(Default)]
pub struct FakeIpvs {
    servers: BTreeMap<VirtualServerKey, Server>,
    trash: BTreeMap<(VirtualServerKey, RealServerKey), Connections>,
    failures: Vec<(Predicate, Failure)>,
    dump_failures: Vec<i32>,
    missing_schedulers: BTreeSet<String>,
    timeouts: Timeouts,
    /// Every op that was tried, in order, refused ones too.
    pub log: Vec<Op>,
    /// Messages to the kernel that carried ops, of at most 200 each.
    pub sends: usize,
    /// Full dumps.
    pub dumps: usize,
    /// Connections that ended because their real or virtual server was deleted.
    pub connections_cut: u64,
    /// With it (`expire_nodest_conn`) a deleted real server's connections end; without it, a real server added again
    /// finds them in the kernel's trash.
    pub delete_cuts_connections: bool,
}

impl std::fmt::Debug for FakeIpvs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeIpvs").field("servers", &self.servers).field("sends", &self.sends).finish_non_exhaustive()
    }
}

impl FakeIpvs {
    /// An empty table.
    pub fn new() -> FakeIpvs {
        FakeIpvs::default()
    }

    /// A kernel that already holds this.
    pub fn with_table(table: &Table) -> FakeIpvs {
        let mut fake = FakeIpvs::new();
        for (key, server) in table {
            fake.insert(*key, server.clone());
        }
        fake
    }

    /// Put an entry in place behind everybody's back, replacing one of the same key.
    pub fn insert(&mut self, key: VirtualServerKey, server: VirtualServer) {
        let real = server.real_servers.iter().map(|real| (real.key, (*real, Connections::default()))).collect();
        self.servers.insert(key, Server { spec: server.spec, real, stats: Stats::default() });
    }

    /// Take an entry away behind everybody's back.
    pub fn remove(&mut self, key: &VirtualServerKey) {
        self.servers.remove(key);
    }

    /// What it holds, without counting as a dump.
    pub fn table(&self) -> Table {
        self.servers.iter().map(|(key, server)| (*key, server.to_virtual_server())).collect()
    }

    /// The next op that matches is refused with this number; nothing is done. Call again for more.
    pub fn fail_next(&mut self, matching: impl FnMut(&Op) -> bool + Send + 'static, errno: i32) {
        self.failures.push((Box::new(matching), Failure::Refuse(errno)));
    }

    /// The `n`-th op from now (0 is the next) is refused with this number.
    pub fn fail_nth(&mut self, n: usize, errno: i32) {
        let mut left = n;
        self.fail_next(
            move |_| {
                let due = left == 0;
                left = left.saturating_sub(1);
                due
            },
            errno,
        );
    }

    /// The next op that matches is done, but its answer is lost.
    pub fn lose_answer_of_next(&mut self, matching: impl FnMut(&Op) -> bool + Send + 'static) {
        self.failures.push((Box::new(matching), Failure::LoseAnswer));
    }

    /// The next reading (dump, read, connections or stats) fails with this number.
    pub fn fail_next_dump(&mut self, errno: i32) {
        self.dump_failures.push(errno);
    }

    /// A scheduler whose module cannot be loaded.
    pub fn without_scheduler(&mut self, name: &str) {
        self.missing_schedulers.insert(name.to_owned());
    }

    /// Connections of a real server. Nothing happens where it does not exist.
    pub fn set_connections(&mut self, key: &VirtualServerKey, real: &RealServerKey, connections: Connections) {
        if let Some((_, slot)) = self.servers.get_mut(key).and_then(|server| server.real.get_mut(real)) {
            *slot = connections;
        }
    }

    /// Counters of a virtual server. Nothing happens where it does not exist.
    pub fn set_stats(&mut self, key: &VirtualServerKey, stats: Stats) {
        if let Some(server) = self.servers.get_mut(key) {
            server.stats = stats;
        }
    }

    /// The global timeouts as set so far, 0 where never set.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn reading(&mut self, what: &str) -> Result<(), Error> {
        if self.dump_failures.is_empty() {
            return Ok(());
        }
        let fault = refusal(self.dump_failures.remove(0));
        let kind = fault.disposition();
        Err(fault.into_error(what.to_owned(), kind))
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), Error> {
        self.log.push(op.clone());
        let due = self.failures.iter_mut().position(|(matching, _)| matching(op));
        match due.map(|index| self.failures.remove(index).1) {
            Some(Failure::Refuse(errno)) => Err(failed(op, refusal(errno))),
            Some(Failure::LoseAnswer) => {
                let _ = self.change(op);
                Err(failed(op, Fault::Unknown))
            }
            None => self.change(op).map_err(|errno| failed(op, refusal(errno))),
        }
    }

    /// As `ip_vs_genl_set_cmd` of `net/netfilter/ipvs/ip_vs_ctl.c`, with its error numbers.
    fn change(&mut self, op: &Op) -> Result<(), i32> {
        match op {
            Op::AddVirtualServer(key, spec) => {
                if self.servers.contains_key(key) {
                    return Err(Refusal::EEXIST);
                }
                self.check_spec(key, spec)?;
                let server = Server { spec: spec.clone(), real: BTreeMap::new(), stats: Stats::default() };
                self.servers.insert(*key, server);
            }
            Op::SetVirtualServer(key, spec) => {
                if !self.servers.contains_key(key) {
                    return Err(Refusal::ESRCH);
                }
                self.check_spec(key, spec)?;
                self.server(key)?.spec = spec.clone();
            }
            Op::DeleteVirtualServer(key) => {
                let server = self.servers.remove(key).ok_or(Refusal::ESRCH)?;
                for (real, (_, connections)) in server.real {
                    self.discard(*key, real, connections);
                }
            }
            Op::AddRealServer(key, real) => {
                let old = self.trash.get(&(*key, real.key)).copied().unwrap_or_default();
                let server = self.server(key)?;
                check_family(key.family(), real)?;
                check_real_server(real)?;
                if server.real.contains_key(&real.key) {
                    return Err(Refusal::EEXIST);
                }
                check_address(real.key.address)?;
                server.real.insert(real.key, (*real, old));
                self.trash.remove(&(*key, real.key));
            }
            Op::SetRealServer(key, real) => {
                let server = self.server(key)?;
                check_family(key.family(), real)?;
                check_real_server(real)?;
                server.real.get_mut(&real.key).ok_or(Refusal::ENOENT)?.0 = *real;
            }
            Op::DeleteRealServer(key, real) => {
                let (_, connections) = self.server(key)?.real.remove(real).ok_or(Refusal::ENOENT)?;
                self.discard(*key, *real, connections);
            }
        }
        Ok(())
    }

    fn server(&mut self, key: &VirtualServerKey) -> Result<&mut Server, i32> {
        self.servers.get_mut(key).ok_or(Refusal::ESRCH)
    }

    fn discard(&mut self, key: VirtualServerKey, real: RealServerKey, connections: Connections) {
        if self.delete_cuts_connections {
            let n_cut = u64::from(connections.active) + u64::from(connections.inactive);
            self.connections_cut = self.connections_cut.saturating_add(n_cut);
        } else if connections != Connections::default() {
            self.trash.insert((key, real), connections);
        }
    }

    fn check_spec(&self, key: &VirtualServerKey, spec: &VirtualServerSpec) -> Result<(), i32> {
        let name = &*spec.scheduler.0;
        if !SCHEDULERS.contains(&name) || self.missing_schedulers.contains(name) {
            return Err(Refusal::ENOENT);
        }
        if key.family() == Family::V6 && !(1..=128).contains(&spec.persistence_prefix) {
            return Err(Refusal::EINVAL);
        }
        Ok(())
    }
}

impl Server {
    fn to_virtual_server(&self) -> VirtualServer {
        VirtualServer { spec: self.spec.clone(), real_servers: self.real.values().map(|(real, _)| *real).collect() }
    }
}

impl Ipvs for FakeIpvs {
    fn dump(&mut self) -> Result<Table, Error> {
        self.reading("read virtual servers (ipvsadm -Ln)")?;
        self.dumps += 1;
        Ok(self.table())
    }

    fn read(&mut self, key: &VirtualServerKey) -> Result<Option<VirtualServer>, Error> {
        self.reading("read virtual server")?;
        Ok(self.servers.get(key).map(Server::to_virtual_server))
    }

    fn connections(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error> {
        self.reading("read real servers")?;
        let Some(server) = self.servers.get(key) else { return Ok(Vec::new()) };
        Ok(server.real.iter().map(|(real, (_, connections))| (*real, *connections)).collect())
    }

    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error> {
        self.reading("read virtual servers (ipvsadm -Ln)")?;
        Ok(self.servers.iter().map(|(key, server)| (*key, server.stats)).collect())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        self.sends += ops.len().div_ceil(OPS_IN_A_SEND);
        ops.iter().map(|op| self.apply_one(op)).collect()
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        let op = format!("ipvsadm --set {} {} {}", timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
        let longest = u32::MAX / 2 / 250;
        if [timeouts.tcp, timeouts.tcp_fin, timeouts.udp].iter().any(|seconds| *seconds > longest) {
            return Err(refusal(Refusal::EINVAL).into_error(op, Disposition::Fatal));
        }
        for (slot, value) in [
            (&mut self.timeouts.tcp, timeouts.tcp),
            (&mut self.timeouts.tcp_fin, timeouts.tcp_fin),
            (&mut self.timeouts.udp, timeouts.udp),
        ] {
            if value != 0 {
                *slot = value;
            }
        }
        Ok(())
    }
}

fn refusal(errno: i32) -> Fault {
    Fault::Refused(Refusal { errno, message: None, offset: None })
}

/// Only tunnels may lead to another family.
fn check_family(family: Family, real: &RealServer) -> Result<(), i32> {
    let same = Family::of(real.key.address) == family;
    if same || matches!(real.forwarding, Forwarding::Tunnel(_)) { Ok(()) } else { Err(Refusal::EINVAL) }
}

fn check_real_server(real: &RealServer) -> Result<(), i32> {
    if i32::try_from(real.weight).is_err() || real.lower_threshold > real.upper_threshold {
        return Err(ERANGE);
    }
    if real.forwarding == Forwarding::Tunnel(TunnelType::Gue { port: 0 }) {
        return Err(Refusal::EINVAL);
    }
    Ok(())
}

/// A real server must be a unicast address that is not link-local for IPv6.
fn check_address(address: IpAddr) -> Result<(), i32> {
    let usable = match address {
        IpAddr::V4(address) => !(address.is_unspecified() || address.is_multicast() || address.is_broadcast()),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local()),
    };
    if usable { Ok(()) } else { Err(Refusal::EINVAL) }
}

#[cfg(test)]
mod tests;
