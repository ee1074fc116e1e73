//! The ports peers connect to: one listener for each configured address, and the keys connections must be signed with.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::control::{Config, Password};
use crate::net::{Family, Prefix, host_prefix};
use crate::routing::bgp::tcp::Listener;

/// How long after a port could not be had the next attempt is made.
const RETRY: Duration = Duration::from_secs(5);

/// How long a listener rests after the kernel refused it a connection (no descriptors left).
const REST: Duration = Duration::from_millis(100);

/// A connection that came.
pub(super) struct Incoming {
    pub(super) stream: TcpStream,
    pub(super) from: IpAddr,
    /// The listener it came through.
    pub(super) through: SocketAddr,
}

/// A port that is open.
struct Open {
    listener: Rc<Listener>,
    accepts: AbortHandle,
    /// Keys that the kernel has.
    keys: BTreeMap<Prefix, Password>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

/// All of them.
pub(super) struct Listeners {
    wanted: Vec<SocketAddr>,
    keys: BTreeMap<Prefix, Password>,
    open: BTreeMap<SocketAddr, Open>,
    connections: mpsc::Sender<Incoming>,
    retry: Option<Instant>,
}

impl Listeners {
    /// None yet; what comes later goes into this channel.
    pub(super) fn new(connections: mpsc::Sender<Incoming>) -> Listeners {
        Listeners { wanted: Vec::new(), keys: BTreeMap::new(), open: BTreeMap::new(), connections, retry: None }
    }

    /// Takes over listeners that were opened before there was a task to run them.
    pub(super) fn adopt(&mut self, bound: Vec<(SocketAddr, Listener)>) {
        for (address, listener) in bound {
            self.run(address, listener);
        }
    }

    /// Listens where the configuration says, with the keys it says.
    pub(super) fn follow(&mut self, config: &Config) {
        self.wanted.clone_from(&config.listen);
        self.keys = keys(config);
        self.open.retain(|address, _| config.listen.contains(address));
        self.open_missing();
        self.set_keys();
    }

    /// Nobody can connect any more.
    pub(super) fn close(&mut self) {
        self.wanted.clear();
        self.open.clear();
        self.retry = None;
    }

    /// When [`Listeners::open_missing`] should try again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Opens the ports that are wanted and not open.
    pub(super) fn open_missing(&mut self) {
        let was_told = self.retry.take().is_some();
        for address in self.wanted.clone() {
            if self.open.contains_key(&address) {
                continue;
            }
            match Listener::bind(address) {
                Ok(listener) => self.run(address, listener),
                Err(error) => {
                    if !was_told {
                        tracing::error!(%address, reason = %error, "no peer can connect here; trying again");
                    }
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
        self.set_keys();
    }

    /// Whether connections from this address through this listener are signed as they must be.
    pub(super) fn requires(&self, through: SocketAddr, peers: Prefix, password: &Password) -> bool {
        password.0.is_empty() || self.open.get(&through).is_some_and(|open| open.keys.get(&peers) == Some(password))
    }

    fn run(&mut self, address: SocketAddr, listener: Listener) {
        let listener = Rc::new(listener);
        let accepts = tokio::task::spawn_local(accept(Rc::clone(&listener), address, self.connections.clone()));
        let accepts = accepts.abort_handle();
        tracing::info!(%address, "listening for BGP peers");
        self.open.insert(address, Open { listener, accepts, keys: BTreeMap::new() });
    }

    /// Brings the kernel's keys to those that are wanted.
    fn set_keys(&mut self) {
        for (address, open) in &mut self.open {
            let family = Family::of(address.ip());
            let wanted = self.keys.iter().filter(|(peers, _)| Family::of(peers.addr()) == family);
            let wanted: BTreeMap<Prefix, Password> = wanted.map(|(peers, key)| (*peers, key.clone())).collect();
            let gone: Vec<Prefix> = open.keys.keys().filter(|peers| !wanted.contains_key(peers)).copied().collect();
            for peers in gone {
                open.keys.remove(&peers);
                report(*address, peers, open.listener.set_key(peers, &[]));
            }
            for (peers, key) in wanted {
                if open.keys.get(&peers) == Some(&key) {
                    continue;
                }
                open.keys.remove(&peers);
                if report(*address, peers, open.listener.set_key(peers, &key.0)) {
                    open.keys.insert(peers, key);
                }
            }
        }
    }
}

/// Which key is asked of whom.
fn keys(config: &Config) -> BTreeMap<Prefix, Password> {
    let peers = config.peers.iter().map(|(address, peer)| (host_prefix(*address), &peer.password));
    let dynamic = config.dynamic.iter().map(|(prefix, peer)| (prefix.trunc(), &peer.password));
    dynamic.chain(peers).filter(|(_, key)| !key.0.is_empty()).map(|(peers, key)| (peers, key.clone())).collect()
}

fn report(address: SocketAddr, peers: Prefix, result: io::Result<()>) -> bool {
    if let Err(error) = &result {
        let cure = "the kernel needs CONFIG_TCP_MD5SIG; connections from there are refused until it takes the key";
        tracing::error!(%address, %peers, reason = %error, cure, "the TCP-MD5 key cannot be set");
    }
    result.is_ok()
}

/// Hands over connections until nobody takes them.
async fn accept(listener: Rc<Listener>, through: SocketAddr, connections: mpsc::Sender<Incoming>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if connections.send(Incoming { stream, from, through }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(address = %through, reason = %error, "a connection was not accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}
