//! `--dry-run`: doors that read the real kernel and write down what would be written.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::kernel::Error;
use crate::kernel::conntrack::{Conntrack, Flow};
use crate::kernel::filter::plan::{Observed, Transaction};
use crate::kernel::filter::{Inside, Name, Ruleset};
use crate::kernel::fou::{self, Fou};
use crate::kernel::ipvs::{
    self, Connections, Ipvs, RealServerKey, Stats, Table, Timeouts, VirtualServer, VirtualServerKey,
};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{self, Address, Link, Neighbour, Route, RouteFilter, Rtnl, Rule};
use crate::kernel::sysctl::Sysctl;
use crate::net::Family;
use crate::proxy::reconciler::Kernel;
use crate::{firewall, routing};

/// The lines written down, in order; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn note(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All of it, and the journal is empty again.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A door that does not write.
#[derive(Debug)]
pub(super) struct Dry<D> {
    door: D,
    journal: Journal,
    /// Links that would have been made: whoever asked for them must find them.
    made: Vec<Link>,
    /// Settings that would have been written.
    set: BTreeMap<String, String>,
}

/// A kernel behind such doors.
pub(super) type DryKernel<I, N, R, C, S> = Kernel<Dry<I>, Dry<N>, Dry<R>, Dry<C>, Dry<S>>;

/// The same kernel, not written to.
pub(super) fn dry<I, N, R, C, S>(kernel: Kernel<I, N, R, C, S>, journal: &Journal) -> DryKernel<I, N, R, C, S> {
    Kernel {
        ipvs: Dry::new(kernel.ipvs, journal),
        nft: Dry::new(kernel.nft, journal),
        rtnl: Dry::new(kernel.rtnl, journal),
        conntrack: Dry::new(kernel.conntrack, journal),
        sysctl: Dry::new(kernel.sysctl, journal),
    }
}

/// The router's kernel, not written to.
pub(super) fn dry_router<N, R, F, S>(
    kernel: routing::reconciler::Kernel<N, R, F, S>,
    journal: &Journal,
) -> routing::reconciler::Kernel<Dry<N>, Dry<R>, Dry<F>, Dry<S>> {
    routing::reconciler::Kernel {
        nft: Dry::new(kernel.nft, journal),
        rtnl: Dry::new(kernel.rtnl, journal),
        fou: Dry::new(kernel.fou, journal),
        sysctl: Dry::new(kernel.sysctl, journal),
    }
}

/// The firewall's kernel, not written to.
pub(super) fn dry_firewall<N, R, C, S>(
    kernel: firewall::reconciler::Kernel<N, R, C, S>,
    journal: &Journal,
) -> firewall::reconciler::Kernel<Dry<N>, Dry<R>, Dry<C>, Dry<S>> {
    firewall::reconciler::Kernel {
        nft: Dry::new(kernel.nft, journal),
        rtnl: Dry::new(kernel.rtnl, journal),
        conntrack: Dry::new(kernel.conntrack, journal),
        sysctl: Dry::new(kernel.sysctl, journal),
    }
}

impl<D> Dry<D> {
    fn new(door: D, journal: &Journal) -> Dry<D> {
        Dry { door, journal: journal.clone(), made: Vec::new(), set: BTreeMap::new() }
    }
}

impl<D: Ipvs> Ipvs for Dry<D> {
    fn dump(&mut self) -> Result<Table, Error> {
        self.door.dump()
    }

    fn read(&mut self, key: &VirtualServerKey) -> Result<Option<VirtualServer>, Error> {
        self.door.read(key)
    }

    fn connections(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error> {
        self.door.connections(key)
    }

    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error> {
        self.door.stats()
    }

    fn apply(&mut self, ops: &[ipvs::Op]) -> Vec<Result<(), Error>> {
        ops.iter().map(|op| self.journal.note(format!("ipvsadm {op}"))).map(Ok).collect()
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        self.journal.note(format!("ipvsadm --set {} {} {}", timeouts.tcp, timeouts.tcp_fin, timeouts.udp));
        Ok(())
    }
}

impl<D: Nft> Nft for Dry<D> {
    fn inside(&self) -> Inside {
        self.door.inside()
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.door.dump(table)
    }

    fn plan(&mut self, table: &Name, desired: &Ruleset) -> Result<Transaction, Error> {
        self.door.plan(table, desired)
    }

    fn place(&self, table: &Name) -> String {
        self.door.place(table)
    }

    fn limits(&mut self) -> Vec<String> {
        self.door.limits()
    }

    fn forward_drops(&mut self) -> Vec<String> {
        self.door.forward_drops()
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        for line in transaction.to_string().lines() {
            self.journal.note(format!("nft {line}"));
        }
        Ok(())
    }
}

impl<D: Rtnl> Rtnl for Dry<D> {
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = self.door.links()?;
        links.extend(self.made.clone());
        Ok(links)
    }

    fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error> {
        self.door.addresses(link)
    }

    fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        self.door.routes(filter)
    }

    fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        self.door.rules()
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        self.door.neighbours()
    }

    fn apply(&mut self, ops: &[rtnl::Op]) -> Vec<Result<(), Error>> {
        for op in ops {
            self.journal.note(by_name(op, &self.made));
            let index = i32::MAX.unsigned_abs() - u32::try_from(self.made.len()).unwrap_or(0);
            match op {
                rtnl::Op::AddDummy { name } => self.made.push(made(name, index, "dummy", None)),
                rtnl::Op::AddTunnel { name, tunnel } => {
                    self.made.push(made(name, index, tunnel.kind(), Some(*tunnel)));
                }
                rtnl::Op::AddBridge { name, .. } => self.made.push(made(name, index, "bridge", None)),
                rtnl::Op::SetUp { link, up } => {
                    self.made.iter_mut().filter(|made| made.index == *link).for_each(|made| made.up = *up);
                }
                rtnl::Op::SetMtu { link, mtu } => {
                    self.made.iter_mut().filter(|made| made.index == *link).for_each(|made| made.mtu = *mtu);
                }
                _ => {}
            }
        }
        ops.iter().map(|_| Ok(())).collect()
    }
}

impl<D: Fou> Fou for Dry<D> {
    fn ports(&mut self) -> Result<Vec<fou::Port>, Error> {
        self.door.ports()
    }

    fn apply(&mut self, ops: &[fou::Op]) -> Vec<Result<(), Error>> {
        ops.iter().map(|op| self.journal.note(op.to_string())).map(Ok).collect()
    }
}

impl<D: Conntrack> Conntrack for Dry<D> {
    fn list(&mut self, family: Option<Family>, keep: &mut dyn FnMut(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        self.door.list(family, keep)
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<(), Error> {
        for flow in flows {
            self.journal.note(format!("conntrack -D {flow:?}"));
        }
        Ok(())
    }

    fn mark(&mut self, flows: &[Flow], mask: u32, value: u32) -> Result<(), Error> {
        for flow in flows {
            self.journal.note(format!("conntrack -U {flow:?} --mark {value:#x}/{mask:#x}"));
        }
        Ok(())
    }

    fn hold(&mut self, flows: &[Flow]) -> Result<(), Error> {
        for flow in flows {
            self.journal.note(format!("conntrack -U {flow:?} --state ESTABLISHED"));
        }
        Ok(())
    }
}

impl<D: Sysctl> Sysctl for Dry<D> {
    fn read(&mut self, key: &str) -> io::Result<Option<String>> {
        match self.set.get(key) {
            Some(value) => Ok(Some(value.clone())),
            None => self.door.read(key),
        }
    }

    fn write(&mut self, key: &str, value: &str) -> io::Result<()> {
        self.journal.note(format!("sysctl -w {key}={value}"));
        self.set.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

/// The command, with the names of links that were not made in place of their indexes.
fn by_name(op: &rtnl::Op, made: &[Link]) -> String {
    made.iter().fold(op.to_string(), |text, link| text.replace(&format!("if{}", link.index), &link.name))
}

/// A link that was not made: its index is one that no kernel gives.
fn made(name: &str, index: u32, kind: &str, tunnel: Option<rtnl::Tunnel>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.to_owned(),
        up: false,
        carrier: false,
        no_arp: true,
        loopback: false,
        mtu: 1500,
        master: None,
        tunnel,
    }
}
