//! The running speaker: one task that owns the [`Hub`] and one task for each peer around it, all on one
//! thread of their own, so that no other work of the daemon keeps a session waiting.
//!
//! [`control`] is its face: what the daemon tells it and hears from it. What a change of a peer's configuration costs:
//!
//! | field | takes effect |
//! | --- | --- |
//! | `description`, `max_prefixes` | at once |
//! | `shutdown` | at once: the session ends, or one begins |
//! | `next_hop_v4`, `next_hop_v6`, `next_hop_self`, `next_hop_unchanged`, `shared`, `client` | at once: routes that look different now are told again |
//! | `bfd` | at once; timers without a new BFD session |
//! | policies, `decision` | at once: routes are judged again, differences go out |
//! | `listen` | at once; connections that are up stay |
//! | `port`, `passive` | with the next connection |
//! | `hold_time`, `graceful_restart`, `long_lived` | with the next session |
//! | `asn` | a reset, unless it names the AS the session is with, or takes any |
//! | `local_asn`, `local_address`, `scope`, `password`, `distance` | a reset |
//! | `families`, `add_path_receive`, `add_path_send`, `extended_next_hop` | a reset: OPENs agreed on them |
//! | `Config`'s `cluster_id` | with what is told next: sessions know nothing of it |
//! | `Config`'s `asn`, `router_id` | a reset of every session: we are somebody else |
//!
//! A reset is a Cease, other configuration change (RFC 4486), and a new connection at once.

mod answers;
mod configure;
pub mod control;
mod learned;
mod listeners;
mod peers;
mod restart;
mod state;
mod stop;
mod task;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use control::{Bfd, Change, Config, Goodbye, Learned, LearnedHop, LearnedRoute, Password, PeerConfig, Speaker};

use self::listeners::Listeners;
use self::restart::Settling;
use self::state::{Clock, State};
use self::task::{Inbox, Task};
use self::watching::Watching;
use crate::routing::bgp::api::handle::Handle as Questions;
use crate::routing::bgp::bfd::driver::Ports;
use crate::routing::bgp::hub::Hub;
use crate::routing::bgp::tcp::Listener;

/// Reports of sessions that may wait for the speaker. Beyond that the sessions stop reading.
const REPORTS: usize = 64;

/// Connections that may wait for it.
const CONNECTIONS: usize = 64;

/// What a speaker is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kernel has routes of a former run and forwarded by them meanwhile: peers that keep our routes hear so
    /// (RFC 4724), and [`Learned::settled`] waits for what they tell. Peers hear End-of-RIB only after the first
    /// [`Change::Announce`], so that one must bring all own routes, or be empty.
    pub restarted: bool,
    /// How long that wait may take.
    pub deferral: Duration,
    /// Where BFD listens.
    pub bfd_ports: Ports,
}

impl Default for Options {
    fn default() -> Options {
        Options { restarted: false, deferral: Duration::from_secs(360), bfd_ports: Ports::default() }
    }
}

/// Starts a speaker. The thread ends after [`Speaker::stop`], or when every [`Speaker`] is dropped; then sessions break
/// as in a crash.
///
/// # Errors
/// Where a port cannot be had, with the port in the text; it would be tried again for a speaker that runs already.
pub fn spawn(config: Config, options: Options) -> io::Result<(Speaker, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let bound = {
        let _inside = runtime.enter();
        let bind = |address: &SocketAddr| Ok((*address, Listener::bind(*address)?));
        config.listen.iter().map(bind).collect::<io::Result<Vec<_>>>()
    };
    let bound = match bound {
        Ok(bound) => bound,
        Err(error) => {
            // The caller may be inside a runtime, where another one cannot just be dropped.
            runtime.shutdown_background();
            return Err(error);
        }
    };
    let (batches, their_batches) = mpsc::unbounded_channel();
    let (stop, stops) = mpsc::channel(1);
    let (questions, asked) = Questions::new();
    let learned = Arc::new(watch::Sender::new(Learned::default()));
    let publisher = learned::Publisher::new(Arc::clone(&learned));
    let thread = std::thread::Builder::new().name("bgp".to_owned()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let (reports, their_reports) = mpsc::channel(REPORTS);
            let (connections, their_connections) = mpsc::channel(CONNECTIONS);
            let mut listeners = Listeners::new(connections);
            listeners.adopt(bound);
            let mut hub = Hub::new(configure::own(&config), config.policies.clone());
            let settling = if options.restarted {
                hub.begin_restart();
                Settling::waiting(options.deferral)
            } else {
                Settling::Settled
            };
            let state = State {
                config: config.clone(),
                hub,
                peers: BTreeMap::new(),
                by_address: BTreeMap::new(),
                clock: Clock::new(),
                refused: 0,
                answers: answers::Answers::default(),
                steps: Vec::new(),
                watching: Watching::new(options.bfd_ports),
            };
            let task =
                Task { state, listeners, settling, reports, ending: BTreeSet::new(), learned: publisher, sweep: None };
            let inbox = Inbox {
                batches: their_batches,
                stops,
                questions: asked,
                reports: their_reports,
                connections: their_connections,
            };
            task.run(config, inbox).await;
        });
    })?;
    Ok((Speaker { batches, stop, questions, learned }, thread))
}
