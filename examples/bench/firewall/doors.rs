//! The doors of the firewall's room: the kernel's, with a clock on the packet filter, and ones that lead nowhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrovia::firewall::Config;
use ferrovia::firewall::reconciler::{Figures, Kernel, Room};
use ferrovia::kernel::Error;
use ferrovia::kernel::conntrack::ConntrackClient;
use ferrovia::kernel::filter::plan::{Observed, Transaction};
use ferrovia::kernel::filter::{Backend, Name};
use ferrovia::kernel::iptables::{SharedIptables, SystemPrograms};
use ferrovia::kernel::nft::{NftClient, encoded};
use ferrovia::kernel::rtnl::RtnlClient;
use ferrovia::kernel::sysctl::{FakeSysctl, ProcSys};
use tokio::sync::watch;

use crate::null::Nothing;

/// The room over a kernel.
pub(crate) type RealRoom<B> = Room<Timed<B>, RtnlClient, ConntrackClient, ProcSys>;
/// The room with nothing below it.
pub(crate) type NullRoom = Room<Timed<Encoding>, Nothing, Nothing, FakeSysctl>;

/// What the packet filter's door saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Time spent writing.
    pub(crate) writing: Duration,
    /// Transactions written.
    pub(crate) n_transactions: usize,
    /// The last of them, where it was asked to remember.
    pub(crate) last: Option<Transaction>,
}

/// A packet filter that keeps the time.
pub(crate) struct Timed<B> {
    backend: B,
    seen: Arc<Mutex<Seen>>,
    remember: bool,
}

/// A handle on what the door saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<Mutex<Seen>>);

impl Clock {
    /// What it saw since the last call.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Backend> Backend for Timed<B> {
    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.backend.dump(table)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let start = Instant::now();
        let result = self.backend.commit(transaction);
        let took = start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.writing += took;
        seen.n_transactions += 1;
        if self.remember {
            seen.last = Some(transaction.clone());
        }
        result
    }

    fn plan(&mut self, table: &Name, desired: &ferrovia::kernel::filter::Ruleset) -> Result<Transaction, Error> {
        self.backend.plan(table, desired)
    }
}

/// nftables without a kernel: transactions are encoded, because that is the daemon's work, and forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding;

impl Backend for Encoding {
    fn dump(&mut self, _: &Name) -> Result<Option<Observed>, Error> {
        Ok(None)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        encoded(transaction).map(|batch| drop(std::hint::black_box(batch)))
    }
}

fn timed<B>(backend: B, remember: bool) -> (Timed<B>, Clock) {
    let clock = Clock::default();
    (Timed { backend, seen: Arc::clone(&clock.0), remember }, clock)
}

fn over<B: Backend>(backend: B, remember: bool) -> Result<(RealRoom<B>, Clock)> {
    let (nft, clock) = timed(backend, remember);
    let kernel = Kernel {
        nft,
        rtnl: RtnlClient::open().context("rtnetlink")?,
        conntrack: ConntrackClient::open().context("conntrack")?,
        sysctl: ProcSys::default(),
    };
    Ok((Room::new(Config::default(), kernel, watch::channel(Figures::default()).0), clock))
}

/// A room over the kernel of the calling thread's namespace, on nftables; its clock remembers the last transaction if
/// `remember` says so.
///
/// # Errors
/// Where a netlink socket cannot be opened.
pub(crate) fn on_nftables(remember: bool) -> Result<(RealRoom<NftClient>, Clock)> {
    over(NftClient::open().context("nftables")?, remember)
}

/// The same on iptables and ipset.
///
/// # Errors
/// Where there are no programs to write rules with, or no netlink socket.
pub(crate) fn on_iptables() -> Result<(RealRoom<SharedIptables>, Clock)> {
    let found = SystemPrograms::find().context("no iptables programs")?;
    over(SharedIptables::open(found.programs).context("ipset")?, false)
}

/// A room over no kernel.
pub(crate) fn nowhere() -> (NullRoom, Clock) {
    let (nft, clock) = timed(Encoding, false);
    let kernel = Kernel { nft, rtnl: Nothing, conntrack: Nothing, sysctl: FakeSysctl::default() };
    (Room::new(Config::default(), kernel, watch::channel(Figures::default()).0), clock)
}
