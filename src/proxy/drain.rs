//! Graceful removal of real servers (pure).
//!
//! A real server that is no longer wanted gets weight 0, so that it takes no new connections, and leaves when its
//! last connection has ended or its time is up. UDP has no end of connection to wait for, so a UDP real server leaves
//! at once and its flows are forgotten.
//!
//! Nothing here must survive a restart: a real server that the kernel has with weight 0 and nobody asks for starts its
//! time anew, at most the pod's own grace period; one that is asked for again gets its weight back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kernel::ipvs::{Connections, RealServerKey, VirtualServerKey};
use crate::net::Protocol;

/// How often connections of draining real servers are counted.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Real servers on their way out, with the time by which each must be gone (since the daemon started).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draining {
    deadlines: BTreeMap<(VirtualServerKey, RealServerKey), Duration>,
}

impl Draining {
    /// True when connections of this virtual server have an end worth waiting for.
    pub fn waits(key: &VirtualServerKey) -> bool {
        !matches!(key, VirtualServerKey::Address { protocol: Protocol::Udp, .. })
    }

    /// Begin: the real server may stay for `grace` longer. Does nothing when it is draining already.
    pub fn begin(&mut self, key: VirtualServerKey, real_server: RealServerKey, now: Duration, grace: Duration) {
        self.deadlines.entry((key, real_server)).or_insert(now.saturating_add(grace));
    }

    /// The real server is asked for again, or gone.
    pub fn forget(&mut self, key: VirtualServerKey, real_server: RealServerKey) {
        self.deadlines.remove(&(key, real_server));
    }

    /// True while the real server may stay.
    pub fn contains(&self, key: VirtualServerKey, real_server: RealServerKey) -> bool {
        self.deadlines.contains_key(&(key, real_server))
    }

    /// Nothing is draining.
    pub fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// How many real servers are draining.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// The virtual servers whose connections must be counted to know who is done.
    pub fn virtual_servers(&self) -> Vec<VirtualServerKey> {
        let mut keys: Vec<VirtualServerKey> = self.deadlines.keys().map(|(key, _)| *key).collect();
        keys.dedup();
        keys
    }

    /// Ends the draining of real servers of `key` that have no connections left or no time left, and returns them.
    /// `connections` is what the kernel counts now; one it does not know is gone already.
    pub fn finish(
        &mut self,
        key: VirtualServerKey,
        connections: &[(RealServerKey, Connections)],
        now: Duration,
    ) -> Vec<RealServerKey> {
        let idle = |real_server: &RealServerKey| {
            connections
                .iter()
                .find(|(known, _)| known == real_server)
                .is_none_or(|(_, count)| count.active == 0 && count.inactive == 0)
        };
        let done: Vec<RealServerKey> = self
            .deadlines
            .iter()
            .filter(|((known, real_server), deadline)| *known == key && (idle(real_server) || now >= **deadline))
            .map(|((_, real_server), _)| *real_server)
            .collect();
        for real_server in &done {
            self.forget(key, *real_server);
        }
        done
    }
}

/// How much longer the connections of a removed endpoint may take.
///
/// The pod's own time is the bound: what is left of it when the pod is being deleted, all of it when it is not, and
/// `fallback` (`--ipvs-graceful-period`) when the pod is not known. `epoch` is the wall clock in seconds.
pub fn grace(pod: Option<&crate::model::Pod>, epoch: i64, fallback: Duration) -> Duration {
    match pod {
        None => fallback,
        Some(pod) => match pod.deletion {
            Some(end) => Duration::from_secs(u64::try_from(end.saturating_sub(epoch)).unwrap_or(0)),
            None => Duration::from_secs(u64::from(pod.grace_period)),
        },
    }
}
