//! The real kernel doors of the room, with a clock on the IPVS one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrovia::kernel::Error;
use ferrovia::kernel::conntrack::ConntrackClient;
use ferrovia::kernel::ipvs::{
    Connections, Ipvs, IpvsClient, Op, RealServerKey, Stats, Table, Timeouts, VirtualServer, VirtualServerKey,
};
use ferrovia::kernel::nft::{Nft, NftClient};
use ferrovia::kernel::rtnl::{RouteFilter, Rtnl, RtnlClient, table};
use ferrovia::kernel::sysctl::ProcSys;
use ferrovia::proxy::reconciler::{Kernel, Outputs, Room};
use ferrovia::proxy::{Config, DUMMY_LINK, TABLE};

/// The room as the daemon runs it, but for the clock.
pub(crate) type RealRoom = Room<Timed, NftClient, RtnlClient, ConntrackClient, ProcSys>;

/// What the IPVS door saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Time spent in it.
    pub(crate) took: Duration,
    /// Everything written, where it was asked to remember.
    pub(crate) ops: Vec<Op>,
}

/// An IPVS client that keeps the time.
pub(crate) struct Timed {
    client: IpvsClient,
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

/// A room over the kernel of the calling thread's namespace, and the clock of its IPVS door, which remembers what was
/// written if `remember` says so.
///
/// # Errors
/// Where a netlink socket cannot be opened.
pub(crate) fn room(remember: bool) -> Result<(RealRoom, Clock)> {
    let clock = Clock::default();
    let kernel = Kernel {
        ipvs: Timed { client: IpvsClient::open().context("ipvs")?, seen: clock.0.clone(), remember },
        nft: NftClient::open().context("nftables")?,
        rtnl: RtnlClient::open().context("rtnetlink")?,
        conntrack: ConntrackClient::open().context("conntrack")?,
        sysctl: ProcSys::default(),
    };
    Ok((Room::new(Config::default(), kernel, Outputs::default()), clock))
}

/// Reads everything once that the room keeps in the kernel, and does nothing with it: what it takes, and how many
/// virtual servers, VIPs and rules there were.
///
/// # Errors
/// Where something cannot be read.
pub(crate) fn read_once() -> Result<(Duration, [usize; 3])> {
    let (mut ipvs, mut nft, mut rtnl) = (IpvsClient::open()?, NftClient::open()?, RtnlClient::open()?);
    let start = Instant::now();
    let links = rtnl.links()?;
    let link = links.iter().find(|link| link.name == DUMMY_LINK).context("no dummy link")?.index;
    let addresses = rtnl.addresses(None)?;
    let routes = rtnl.routes(RouteFilter { table: Some(table::LOCAL), protocol: None, link: Some(link) })?;
    let rules = rtnl.rules()?;
    let virtual_servers = ipvs.dump()?;
    let filter = nft.dump(&Arc::from(TABLE))?.context("no packet filter table")?;
    let took = start.elapsed();
    let n_rules = filter.chains.values().map(|chain| chain.rules.len()).sum();
    drop((addresses, rules));
    Ok((took, [virtual_servers.len(), routes.len(), n_rules]))
}

impl Timed {
    /// Runs one call against the clock.
    fn clocked<T>(&mut self, call: impl FnOnce(&mut IpvsClient) -> T) -> T {
        let start = Instant::now();
        let value = call(&mut self.client);
        let took = start.elapsed();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).took += took;
        value
    }
}

impl Ipvs for Timed {
    fn dump(&mut self) -> Result<Table, Error> {
        self.clocked(IpvsClient::dump)
    }

    fn read(&mut self, key: &VirtualServerKey) -> Result<Option<VirtualServer>, Error> {
        self.clocked(|client| client.read(key))
    }

    fn connections(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error> {
        self.clocked(|client| client.connections(key))
    }

    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error> {
        self.clocked(IpvsClient::stats)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        let results = self.clocked(|client| client.apply(ops));
        if self.remember {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).ops.extend_from_slice(ops);
        }
        results
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        self.clocked(|client| client.set_timeouts(timeouts))
    }
}
