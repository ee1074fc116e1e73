//! What the rest of the daemon sees of the speaker: what it is told, what it tells, how it is stopped.
//!
//! Configuration is declarative: [`Change::Configure`] carries all of it, the speaker applies the difference, and a
//! session is reset only where the protocol leaves no other way. Own routes come as differences, so that one VIP of
//! ten thousand costs one VIP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::api::handle::Handle as Questions;
use crate::routing::bgp::bfd;
use crate::routing::bgp::policy::{PolicySet, PrefixRange};
use crate::routing::bgp::rib;
use crate::routing::bgp::tcp::Distance;
use crate::routing::bgp::types::{Attributes, NextHop, OwnRestart, PeerKind};

/// All that the speaker is configured with, its own routes apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Our AS towards peers that do not name another.
    pub asn: Asn,
    /// Our identifier (RFC 6286).
    pub router_id: Ipv4Addr,
    /// Our cluster as route reflector (RFC 4456).
    pub cluster_id: Ipv4Addr,
    /// Where peers may connect to. Empty: nowhere, all sessions are opened by us.
    pub listen: Vec<SocketAddr>,
    /// How the best path is chosen.
    pub decision: rib::Settings,
    /// Import and export policies.
    pub policies: PolicySet,
    /// Configured peers.
    pub peers: BTreeMap<IpAddr, PeerConfig>,
    /// Peers that are not known by address: whoever connects from these prefixes. The longest prefix decides.
    pub dynamic: BTreeMap<Prefix, PeerConfig>,
}

/// One peer, or what all dynamic peers of a prefix have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// For people.
    pub description: String,
    /// Its AS; `None` takes any.
    pub asn: Option<Asn>,
    /// Our AS towards it.
    pub local_asn: Asn,
    /// Its port.
    pub port: u16,
    /// Our end of the connection, where it is configured.
    pub local_address: Option<IpAddr>,
    /// Interface index for a link-local address; else 0.
    pub scope: u32,
    /// TCP-MD5 key (RFC 2385); empty for none.
    pub password: Password,
    /// How far away it may be: TTL, multihop, GTSM (RFC 5082).
    pub distance: Distance,
    /// Never connect, only accept.
    pub passive: bool,
    /// The operator wants no session now; the text goes to the peer (RFC 9003).
    pub shutdown: Option<String>,
    /// Families to offer.
    pub families: Vec<Family>,
    /// Hold time to propose, in seconds; 0 for none.
    pub hold_time: u16,
    /// Families to take path identifiers in (RFC 7911).
    pub add_path_receive: Vec<Family>,
    /// Families to offer several paths in (RFC 7911).
    pub add_path_send: Vec<Family>,
    /// Offer IPv6 next hops for IPv4 routes (RFC 8950).
    pub extended_next_hop: bool,
    /// Graceful restart to offer (RFC 4724); its `restarting` is the speaker's to set.
    pub graceful_restart: Option<OwnRestart>,
    /// Long-lived stale time to offer in seconds (RFC 9494); 0 for none.
    pub long_lived: u32,
    /// It is our client as route reflector.
    pub client: bool,
    /// Always name ourselves as next hop.
    pub next_hop_self: bool,
    /// Pass on the next hop a route came with, also to a router of another AS that is on no link with it.
    pub next_hop_unchanged: bool,
    /// Our next hop towards it for IPv4; `None` takes our end of the connection.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub next_hop_v6: Option<NextHop>,
    /// The subnets we share with it, where third-party next hops are fine (RFC 4271 5.1.3).
    pub shared: Vec<Prefix>,
    /// BFD, where wanted.
    pub bfd: Option<Bfd>,
    /// More routes than this end the session; `None` takes any number.
    pub max_prefixes: Option<u32>,
}

/// BFD towards one peer (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Destination port; `None` takes 3784, or 4784 where the peer may be several hops away.
    pub port: Option<u16>,
    /// Intervals and multiplier.
    pub timers: bfd::session::Timers,
}

/// A key that its `Debug` form does not tell.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(pub Vec<u8>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "<redacted>" })
    }
}

/// Something the speaker is to do. Changes of one batch take effect together, in order, before anything goes out.
#[derive(Debug)]
pub enum Change {
    /// The configuration is this now.
    Configure(Box<Config>),
    /// Originate these. The paths given for a prefix replace those that were originated for it before; several are
    /// third-party next hops of equal standing, which peers with ADD-PATH all hear of. A next hop of 0.0.0.0 or ::
    /// stands for our own address towards each peer.
    Announce(Vec<(Prefix, Vec<Attributes>)>),
    /// Originate these no longer.
    Withdraw(Vec<Prefix>),
    /// Packets get to no next hop in these networks, which replace those that were lost before: paths through one stay,
    /// and are not used.
    LoseNetworks(BTreeSet<Prefix>),
    /// Members of one prefix set of the policies change; only the routes they cover are judged again.
    EditPrefixSet {
        /// Its name.
        set: String,
        /// New members.
        add: Vec<PrefixRange>,
        /// Former members.
        remove: Vec<PrefixRange>,
    },
}

/// What peers told us that is in use, for the kernel. Own routes are not in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Best routes by prefix; structure-sharing, so two states differ cheaply.
    pub routes: OrdMap<Prefix, Arc<LearnedRoute>>,
    /// What a former run left in the kernel may go: every peer has told all it has, or was waited for long enough.
    pub settled: bool,
}

/// A prefix and where packets to it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedRoute {
    /// The ways, sorted; several where they are equally good.
    pub hops: Vec<LearnedHop>,
    /// It carries BLACKHOLE (RFC 7999).
    pub blackhole: bool,
    /// It carries GRACEFUL_SHUTDOWN and was preferred least for that: who told it is about to go (RFC 8326).
    pub leaving: bool,
}

/// One way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearnedHop {
    /// Where packets go.
    pub next_hop: NextHop,
    /// Who said so.
    pub peer: IpAddr,
    /// Whether that is a router of another AS.
    pub kind: PeerKind,
}

/// How the speaker ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// We come back soon: connections close without a NOTIFICATION, so that peers which negotiated graceful restart keep
    /// our routes; the others get a Cease.
    Restart,
    /// We leave: routes are withdrawn, and then sessions end with Cease, administrative shutdown, and this text.
    Leave(String),
}

/// A batch of changes and whom to tell when it is in force.
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) done: oneshot::Sender<()>,
}

/// Stop the speaker; the answer comes when the last word to the last peer is written, or time is up.
pub(super) struct Stop {
    pub(super) how: Goodbye,
    pub(super) within: Duration,
    pub(super) done: oneshot::Sender<()>,
}

/// The way to a running speaker. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub(super) batches: mpsc::UnboundedSender<Batch>,
    pub(super) stop: mpsc::Sender<Stop>,
    pub(super) questions: Questions,
    pub(super) learned: Arc<watch::Sender<Learned>>,
}

impl Speaker {
    /// Hands over a batch of changes. They take effect in the order in which batches were handed over; the receiver
    /// hears when this one has been worked into every peer's output.
    pub fn change(&self, changes: Vec<Change>) -> oneshot::Receiver<()> {
        let (done, waits) = oneshot::channel();
        // Without a speaker the receiver says so.
        let _ = self.batches.send(Batch { changes, done });
        waits
    }

    /// Where to ask about peers and routes.
    pub fn questions(&self) -> &Questions {
        &self.questions
    }

    /// What was learned, newest state only. It is gathered for as long as somebody holds a receiver, so the first one
    /// sees nothing learned and nothing settled at first, and then all at once.
    pub fn learned(&self) -> watch::Receiver<Learned> {
        let receiver = self.learned.subscribe();
        // The speaker looks for receivers whenever there is something to do.
        drop(self.change(Vec::new()));
        receiver
    }

    /// Ends all sessions. Returns when they have ended, at the latest after `within`.
    pub async fn stop(&self, how: Goodbye, within: Duration) {
        let (done, waits) = oneshot::channel();
        if self.stop.send(Stop { how, within, done }).await.is_ok() {
            let _ = waits.await;
        }
    }
}
