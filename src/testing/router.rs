//! The router's room over fakes: the kernel of [`FakeNode`], tunnel ports, and a speaker that remembers what it was
//! told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::node::{Door, FakeNode};
use crate::kernel::Error;
use crate::kernel::fou::fake::FakeFou;
use crate::kernel::fou::{self, Fou};
use crate::kernel::nft::fake::FakeNft;
use crate::kernel::rtnl::fake::FakeRtnl;
use crate::kernel::sysctl::FakeSysctl;
use crate::model::Snapshot;
use crate::net::Prefix;
use crate::reconcile::{Applied, Outcome, Read, Subsystem};
use crate::routing::bgp::speaker::{Change, Config as SpeakerConfig, Learned, LearnedHop, LearnedRoute};
use crate::routing::bgp::types::{Attributes, NextHop, PeerKind};
use crate::routing::config::Config;
use crate::routing::reconciler::{Figures, Kernel, Room, Voice};
use crate::routing::sessions::Sessions;

/// A room over fakes.
pub type FakeRouterRoom = Room<Door<FakeNft>, Door<FakeRtnl>, Door<FakeFou>, Door<FakeSysctl>, FakeSpeaker>;

/// What a speaker was told, and what it tells.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// The configuration, with every edit of its sets.
    pub config: Option<SpeakerConfig>,
    /// Own routes.
    pub routes: BTreeMap<Prefix, Vec<Attributes>>,
    /// Networks this node has lost.
    pub lost: BTreeSet<Prefix>,
    /// Every change in short words, oldest first.
    pub log: Vec<String>,
    /// What peers told.
    pub learned: Learned,
    /// Peers whose session is up.
    pub up: BTreeSet<IpAddr>,
    /// What the service proxy reports in the middle of the next pass.
    pub reports: Option<(watch::Sender<Applied>, Applied)>,
}

/// A speaker without peers. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct FakeSpeaker(Arc<Mutex<Heard>>);

impl FakeSpeaker {
    /// What it was told, and what it tells.
    pub fn open(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap()
    }

    /// A peer tells a route through one or several next hops.
    pub fn learn(&self, prefix: &str, next_hops: &[&str]) {
        let hop = |text: &&str| {
            let address: IpAddr = text.parse().unwrap();
            LearnedHop { next_hop: NextHop::from(address), peer: address, kind: PeerKind::External }
        };
        let route = LearnedRoute { hops: next_hops.iter().map(hop).collect(), blackhole: false, leaving: false };
        self.open().learned.routes.insert(prefix.parse().unwrap(), Arc::new(route));
    }

    /// Nobody tells it any longer.
    pub fn forget(&self, prefix: &str) {
        self.open().learned.routes.remove(&prefix.parse::<Prefix>().unwrap());
    }

    /// Peers have told all they have.
    pub fn settle(&self) {
        self.open().learned.settled = true;
    }

    /// Prefixes of own routes.
    pub fn announced(&self) -> Vec<String> {
        self.open().routes.keys().map(ToString::to_string).collect()
    }
}

impl Voice for FakeSpeaker {
    fn change(&mut self, changes: Vec<Change>) {
        let mut heard = self.open();
        for change in changes {
            match change {
                Change::Configure(config) => {
                    heard.log.push("configure".to_owned());
                    heard.config = Some(*config);
                }
                Change::Announce(routes) => {
                    heard.log.push(format!("announce {}", routes.len()));
                    heard.routes.extend(routes);
                }
                Change::Withdraw(prefixes) => {
                    heard.log.push(format!("withdraw {}", prefixes.len()));
                    for prefix in prefixes {
                        assert!(heard.routes.remove(&prefix).is_some(), "{prefix} was not announced");
                    }
                }
                Change::LoseNetworks(networks) => {
                    heard.log.push(format!("lose {}", networks.len()));
                    heard.lost = networks;
                }
                Change::EditPrefixSet { set, add, remove } => {
                    heard.log.push(format!("edit +{} -{}", add.len(), remove.len()));
                    let config = heard.config.as_mut().expect("a set is edited before there is one");
                    let ranges = config.policies.sets.prefix.get_mut(&set).expect("the set is configured");
                    for range in remove {
                        let at = ranges.iter().position(|other| *other == range).expect("a member is removed");
                        ranges.remove(at);
                    }
                    for range in add {
                        assert!(!ranges.contains(&range), "{range:?} is in the set already");
                        ranges.push(range);
                    }
                    ranges.sort_unstable();
                }
            }
        }
    }

    fn learned(&mut self) -> Learned {
        let mut heard = self.open();
        if let Some((proxy, applied)) = heard.reports.take() {
            proxy.send_replace(applied);
        }
        heard.learned.clone()
    }

    fn up(&mut self) -> BTreeSet<IpAddr> {
        self.open().up.clone()
    }

    fn sessions(&mut self) -> Sessions {
        Sessions::default()
    }
}

impl Fou for Door<FakeFou> {
    fn ports(&mut self) -> Result<Vec<fou::Port>, Error> {
        self.pass(&|| "ip fou show".to_owned(), Fou::ports)
    }

    fn apply(&mut self, ops: &[fou::Op]) -> Vec<Result<(), Error>> {
        let one = |op: &fou::Op| {
            let call = |fake: &mut FakeFou| fake.apply(std::slice::from_ref(op)).pop().unwrap_or(Ok(()));
            self.pass(&|| op.to_string(), call)
        };
        ops.iter().map(one).collect()
    }
}

/// A node with a router. Clones are the same one.
#[derive(Clone, Debug)]
pub struct RouterNode {
    /// The kernel.
    pub node: FakeNode,
    /// Tunnel ports.
    pub fou: Door<FakeFou>,
    /// The speaker.
    pub speaker: FakeSpeaker,
    /// What the service proxy has in force.
    pub proxy: watch::Sender<Applied>,
}

impl RouterNode {
    /// A router on this node.
    pub fn on(node: FakeNode) -> RouterNode {
        let fou = Door::new(FakeFou::default(), &node.faults);
        RouterNode { node, fou, speaker: FakeSpeaker::default(), proxy: watch::channel(Applied::default()).0 }
    }

    /// A room that knows nothing yet; a second one with a fresh speaker is a restarted daemon.
    pub fn room(&self, config: &Config, beside_proxy: bool) -> FakeRouterRoom {
        let kernel = Kernel {
            nft: self.node.nft.clone(),
            rtnl: self.node.rtnl.clone(),
            fou: self.fou.clone(),
            sysctl: self.node.sysctl.clone(),
        };
        let proxy = beside_proxy.then(|| self.proxy.subscribe());
        Room::new(config.clone(), kernel, self.speaker.clone(), proxy, watch::channel(Figures::default()).0)
    }

    /// The same kernel with a speaker that was just started.
    #[must_use]
    pub fn restarted(&self) -> RouterNode {
        RouterNode { speaker: FakeSpeaker::default(), ..self.clone() }
    }

    /// The service proxy has a snapshot in force, but for these keys.
    pub fn apply(&self, generation: u64, failed: &[&str]) {
        let failed = failed.iter().map(|key| ((*key).to_owned(), "EIO".to_owned())).collect();
        let generation = crate::model::Generation(generation);
        self.proxy.send_replace(Applied { generation, failed, passes: generation.0, ..Applied::default() });
    }

    /// Routes of ours as `ip route` shows them, links by number.
    pub fn routes(&self) -> Vec<String> {
        let routes = self.node.state().routes;
        routes.iter().filter(|route| route.protocol == 17).map(ToString::to_string).collect()
    }
}

/// One pass `seconds` after the daemon started.
pub fn pass(room: &mut FakeRouterRoom, snapshot: &Snapshot, read: Read, seconds: u64) -> Outcome {
    room.sync(snapshot, read, Duration::from_secs(seconds))
}
