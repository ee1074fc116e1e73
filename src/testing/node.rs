//! A node in memory: all fakes behind doors that any number of rooms can share, one after the other, with failures at
//! any place.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::kernel::conntrack::fake::FakeConntrack;
use crate::kernel::conntrack::{Conntrack, Flow};
use crate::kernel::filter::Name;
use crate::kernel::filter::plan::{Observed, Transaction};
use crate::kernel::ipvs::fake::FakeIpvs;
use crate::kernel::ipvs::{
    Connections, Ipvs, Op as IpvsOp, RealServerKey, Stats, Table, Timeouts, VirtualServer, VirtualServerKey,
};
use crate::kernel::nft::Nft;
use crate::kernel::nft::fake::FakeNft;
use crate::kernel::rtnl::fake::FakeRtnl;
use crate::kernel::rtnl::{Address, Link, Neighbour, Op as LinkOp, Route, RouteFilter, Rtnl, Rule};
use crate::kernel::sysctl::{FakeSysctl, Sysctl};
use crate::kernel::{Disposition, Error};
use crate::model::Snapshot;
use crate::net::{Family, Prefix};
use crate::proxy::reconciler::{Kernel, Outputs, Room};
use crate::proxy::{Config, DUMMY_LINK, TABLE};
use crate::reconcile::{Outcome, Read, Subsystem};

/// A room over fakes.
pub type FakeRoom = Room<Door<FakeIpvs>, Door<FakeNft>, Door<FakeRtnl>, Door<FakeConntrack>, Door<FakeSysctl>>;

/// What goes wrong at a chosen place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The kernel refuses for the moment (ENOBUFS); nothing is done.
    Refused,
    /// The kernel refuses for good (EINVAL); nothing is done.
    Fatal,
    /// It is done, but the answer is lost.
    AnswerLost,
}

/// Counts calls and changes on all doors of a node, and says which of them goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    seen: usize,
    plan: Option<(usize, Fault)>,
    met: Option<String>,
}

impl Faults {
    /// The `n`-th call or change from now on goes wrong (0 is the next).
    pub fn plan(&mut self, n: usize, fault: Fault) {
        *self = Faults { seen: 0, plan: Some((n, fault)), met: None };
    }

    /// What the planned fault hit, once it has.
    pub fn met(&self) -> Option<&str> {
        self.met.as_deref()
    }

    fn next(&mut self, what: &dyn Fn() -> String) -> Option<Fault> {
        let (due, fault) = self.plan?;
        let now = self.seen == due;
        self.seen += 1;
        if !now {
            return None;
        }
        self.met = Some(what());
        Some(fault)
    }
}

/// A door to one fake, and to the faults of the node.
#[derive(Debug)]
pub struct Door<T> {
    fake: Arc<Mutex<T>>,
    faults: Arc<Mutex<Faults>>,
}

impl<T> Clone for Door<T> {
    fn clone(&self) -> Self {
        Door { fake: Arc::clone(&self.fake), faults: Arc::clone(&self.faults) }
    }
}

impl<T> Door<T> {
    pub(super) fn new(fake: T, faults: &Arc<Mutex<Faults>>) -> Self {
        Door { fake: Arc::new(Mutex::new(fake)), faults: Arc::clone(faults) }
    }

    /// The fake itself.
    pub fn open(&self) -> MutexGuard<'_, T> {
        self.fake.lock().unwrap()
    }

    /// One call or change: as planned, or as the fake answers.
    pub(super) fn pass<V>(
        &self,
        what: &dyn Fn() -> String,
        call: impl FnOnce(&mut T) -> Result<V, Error>,
    ) -> Result<V, Error> {
        let error = |errno, kind, message: &str| Error { op: what(), errno, message: message.to_owned(), kind };
        match self.faults.lock().unwrap().next(what) {
            None => call(&mut self.open()),
            Some(Fault::Refused) => Err(error(Some(105), Disposition::Retry, "")),
            Some(Fault::Fatal) => Err(error(Some(22), Disposition::Fatal, "")),
            Some(Fault::AnswerLost) => {
                let _ = call(&mut self.open());
                Err(error(None, Disposition::Stale, "the answer was lost"))
            }
        }
    }
}

/// The answer to the only op of a batch.
fn only(mut results: Vec<Result<(), Error>>) -> Result<(), Error> {
    results.pop().unwrap_or(Ok(()))
}

impl Ipvs for Door<FakeIpvs> {
    fn dump(&mut self) -> Result<Table, Error> {
        self.pass(&|| "ipvs dump".to_owned(), Ipvs::dump)
    }

    fn read(&mut self, key: &VirtualServerKey) -> Result<Option<VirtualServer>, Error> {
        self.pass(&|| format!("ipvs read {key:?}"), |fake| fake.read(key))
    }

    fn connections(&mut self, key: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error> {
        self.pass(&|| format!("ipvs connections {key:?}"), |fake| fake.connections(key))
    }

    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error> {
        self.pass(&|| "ipvs stats".to_owned(), Ipvs::stats)
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Vec<Result<(), Error>> {
        let one =
            |op: &IpvsOp| self.pass(&|| format!("ipvsadm {op}"), |fake| only(fake.apply(std::slice::from_ref(op))));
        ops.iter().map(one).collect()
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        self.pass(&|| "ipvsadm --set".to_owned(), |fake| fake.set_timeouts(timeouts))
    }
}

impl Nft for Door<FakeNft> {
    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.pass(&|| format!("nft list table inet {table}"), |fake| fake.dump(table))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        self.pass(&|| format!("nft {transaction}"), |fake| fake.commit(transaction))
    }
}

impl Rtnl for Door<FakeRtnl> {
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.pass(&|| "ip link".to_owned(), Rtnl::links)
    }

    fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error> {
        self.pass(&|| "ip address".to_owned(), |fake| fake.addresses(link))
    }

    fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        self.pass(&|| "ip route".to_owned(), |fake| fake.routes(filter))
    }

    fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        self.pass(&|| "ip rule".to_owned(), Rtnl::rules)
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        self.pass(&|| "ip neighbour".to_owned(), Rtnl::neighbours)
    }

    fn apply(&mut self, ops: &[LinkOp]) -> Vec<Result<(), Error>> {
        let one = |op: &LinkOp| self.pass(&|| op.to_string(), |fake| only(fake.apply(std::slice::from_ref(op))));
        ops.iter().map(one).collect()
    }
}

impl Conntrack for Door<FakeConntrack> {
    fn list(&mut self, family: Option<Family>, keep: &mut dyn FnMut(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        self.pass(&|| "conntrack -L".to_owned(), |fake| fake.list(family, keep))
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.pass(&|| "conntrack -D".to_owned(), |fake| fake.delete(flows))
    }

    fn mark(&mut self, flows: &[Flow], mask: u32, value: u32) -> Result<(), Error> {
        self.pass(&|| "conntrack -U".to_owned(), |fake| fake.mark(flows, mask, value))
    }

    fn hold(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.pass(&|| "conntrack -U".to_owned(), |fake| fake.hold(flows))
    }
}

/// Settings can be read whatever happens; a write may be refused.
impl Sysctl for Door<FakeSysctl> {
    fn read(&mut self, key: &str) -> io::Result<Option<String>> {
        self.open().read(key)
    }

    fn write(&mut self, key: &str, value: &str) -> io::Result<()> {
        let written = self.pass(&|| format!("sysctl {key}={value}"), |fake| Ok(fake.write(key, value)));
        written.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// A node whose kernel is made of fakes: loopback, one uplink with the addresses the Node object of
/// [`super::builders::cluster`] has, and the settings a Linux host has.
#[derive(Clone, Debug)]
pub struct FakeNode {
    /// IPVS.
    pub ipvs: Door<FakeIpvs>,
    /// nftables.
    pub nft: Door<FakeNft>,
    /// Links, addresses, routes, rules.
    pub rtnl: Door<FakeRtnl>,
    /// Connection tracking.
    pub conntrack: Door<FakeConntrack>,
    /// What goes wrong.
    pub faults: Arc<Mutex<Faults>>,
    /// Kernel settings.
    pub sysctl: Door<FakeSysctl>,
}

impl Default for FakeNode {
    fn default() -> FakeNode {
        FakeNode::new()
    }
}

/// Everything our room may write, in one comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Virtual servers.
    pub servers: Table,
    /// Tables of the packet filter by name.
    pub tables: BTreeMap<Name, crate::kernel::filter::Ruleset>,
    /// Names and whether they are up.
    pub links: Vec<(String, bool)>,
    /// All of them, sorted.
    pub addresses: Vec<Address>,
    /// All of them, sorted.
    pub routes: Vec<Route>,
    /// All of them, sorted.
    pub rules: Vec<Rule>,
    /// Kernel settings.
    pub settings: BTreeMap<String, String>,
}

impl State {
    /// What is here and not in `other` (`+`), and the other way round (`-`), a line each. Empty when they are equal.
    pub fn difference(&self, other: &State) -> String {
        let (ours, theirs) = (self.lines(), other.lines());
        let added = ours.difference(&theirs).map(|line| format!("+ {line}\n"));
        added.chain(theirs.difference(&ours).map(|line| format!("- {line}\n"))).collect()
    }

    fn lines(&self) -> BTreeSet<String> {
        let mut lines: BTreeSet<String> =
            self.servers.iter().map(|(key, server)| format!("ipvs {key:?} {server:?}")).collect();
        lines.extend(self.tables.iter().flat_map(|(name, ruleset)| {
            let text = crate::kernel::nft::text::render(name, ruleset);
            let mut block = String::new();
            let line = |line: &str| {
                if line.ends_with(" {") {
                    block = line.trim().to_owned();
                }
                format!("nft {name} {block} {}", line.trim())
            };
            text.lines().map(line).collect::<Vec<_>>()
        }));
        lines.extend(self.links.iter().map(|link| format!("link {link:?}")));
        lines.extend(self.addresses.iter().map(|address| format!("address {address}")));
        lines.extend(self.routes.iter().map(|route| format!("route {route}")));
        lines.extend(self.rules.iter().map(|rule| format!("rule {rule}")));
        lines.extend(self.settings.iter().map(|(key, value)| format!("sysctl {key}={value}")));
        lines
    }
}

impl FakeNode {
    /// A host as it boots.
    pub fn new() -> FakeNode {
        let faults = Arc::new(Mutex::new(Faults::default()));
        let mut rtnl = FakeRtnl::new();
        rtnl.apply(&[LinkOp::SetUp { link: 1, up: true }]).into_iter().for_each(|result| result.unwrap());
        let uplink = rtnl.put_link("eth0", "veth");
        for (link, prefix, scope) in
            [(1, "127.0.0.1/8", 254), (1, "::1/128", 0), (uplink, "192.168.10.11/24", 0), (uplink, "fd10::11/64", 0)]
        {
            let prefix: Prefix = prefix.parse().unwrap();
            assert!(rtnl.put_address(Address { link, prefix, scope }), "{prefix}");
        }
        let sysctl = [
            ("net/ipv4/vs/conntrack", "0"),
            ("net/ipv4/vs/expire_nodest_conn", "0"),
            ("net/ipv4/vs/expire_quiescent_template", "0"),
            ("net/ipv4/vs/conn_reuse_mode", "1"),
            ("net/ipv4/vs/sloppy_tcp", "0"),
            ("net/ipv4/conf/eth0/arp_ignore", "0"),
            ("net/ipv4/conf/eth0/arp_announce", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/eth0/rp_filter", "1"),
            ("net/ipv4/ip_forward", "1"),
            ("kernel/osrelease", "6.12.0"),
        ];
        FakeNode {
            ipvs: Door::new(FakeIpvs::new(), &faults),
            nft: Door::new(FakeNft::new(), &faults),
            rtnl: Door::new(rtnl, &faults),
            conntrack: Door::new(FakeConntrack::default(), &faults),
            sysctl: Door::new(
                FakeSysctl {
                    values: sysctl.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                    ..FakeSysctl::default()
                },
                &faults,
            ),
            faults,
        }
    }

    /// A room that knows nothing yet over this kernel; a second one is a restarted daemon.
    pub fn room(&self, config: &Config) -> FakeRoom {
        let kernel = Kernel {
            ipvs: self.ipvs.clone(),
            nft: self.nft.clone(),
            rtnl: self.rtnl.clone(),
            conntrack: self.conntrack.clone(),
            sysctl: self.sysctl.clone(),
        };
        Room::new(config.clone(), kernel, Outputs::default()).with_epoch(|| 0)
    }

    /// What the kernel holds.
    pub fn state(&self) -> State {
        let nft = self.nft.open();
        let tables = nft.tables().map(|name| (name.clone(), nft.ruleset(name).unwrap_or_default())).collect();
        let mut rtnl = self.rtnl.open();
        let mut addresses = rtnl.addresses(None).unwrap();
        let mut routes = rtnl.routes(RouteFilter::default()).unwrap();
        let mut rules = rtnl.rules().unwrap();
        addresses.sort();
        routes.sort();
        rules.sort();
        let links = rtnl.links().unwrap().into_iter().map(|link| (link.name, link.up)).collect();
        let settings = self.sysctl.open().values.clone();
        State { servers: self.ipvs.open().table(), tables, links, addresses, routes, rules, settings }
    }

    /// VIPs on the dummy link: addresses, and destinations of its local routes.
    pub fn vips(&self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let mut rtnl = self.rtnl.open();
        let links = rtnl.links().unwrap();
        let Some(dummy) = links.iter().find(|link| link.name == DUMMY_LINK).map(|link| link.index) else {
            return (Vec::new(), Vec::new());
        };
        let mut addresses: Vec<IpAddr> =
            rtnl.addresses(Some(dummy)).unwrap().iter().map(|address| address.prefix.addr()).collect();
        let filter = RouteFilter { link: Some(dummy), ..RouteFilter::default() };
        let mut routes: Vec<IpAddr> =
            rtnl.routes(filter).unwrap().iter().map(|route| route.destination.addr()).collect();
        addresses.sort();
        routes.sort();
        routes.dedup();
        (addresses, routes)
    }

    /// True where our table is there.
    pub fn has_table(&self) -> bool {
        self.nft.open().tables().any(|name| &**name == TABLE)
    }

    /// Everything written so far in the kernel's own languages, in the order of each subsystem.
    pub fn written(&self) -> Written {
        Written {
            ipvs: self.ipvs.open().log.iter().map(ToString::to_string).collect(),
            nft: self.nft.open().commits().iter().map(ToString::to_string).collect(),
            rtnl: self.rtnl.open().applied().iter().map(ToString::to_string).collect(),
            flows: self.conntrack.open().deleted.len(),
        }
    }
}

/// What was written to a node so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Ops as `ipvsadm` options.
    pub ipvs: Vec<String>,
    /// Transactions as `nft` commands.
    pub nft: Vec<String>,
    /// `ip` commands.
    pub rtnl: Vec<String>,
    /// Connection tracking entries deleted.
    pub flows: usize,
}

impl Written {
    /// What came after `earlier`.
    pub fn since(&self, earlier: &Written) -> Written {
        let rest = |all: &[String], before: &[String]| all.get(before.len()..).unwrap_or_default().to_vec();
        Written {
            ipvs: rest(&self.ipvs, &earlier.ipvs),
            nft: rest(&self.nft, &earlier.nft),
            rtnl: rest(&self.rtnl, &earlier.rtnl),
            flows: self.flows - earlier.flows,
        }
    }
}

/// One pass `seconds` after the daemon started.
pub fn pass(room: &mut FakeRoom, snapshot: &Snapshot, read: Read, seconds: u64) -> Outcome {
    room.sync(snapshot, read, Duration::from_secs(seconds))
}
