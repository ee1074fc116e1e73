//! Pods behind Services with direct server return: what they get arrives in a tunnel (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Changes, ServiceKey, Snapshot};

/// The addresses, kept up to date change by change.
#[derive(Clone, Debug, Default)]
pub struct Direct {
    services: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    /// Each with the number of Services that lead to it.
    addresses: BTreeMap<IpAddr, usize>,
    version: u64,
}

impl Direct {
    /// Brings up to date what `changes` names.
    pub(super) fn apply(&mut self, changes: &Changes, snapshot: &Snapshot) {
        for key in &changes.services {
            self.set(key, snapshot);
        }
        if !changes.nodes.is_empty() {
            for key in self.services.keys().cloned().collect::<Vec<_>>() {
                self.set(&key, snapshot);
            }
        }
    }

    /// The addresses of all of them, also those on other nodes.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.keys().copied()
    }

    /// The Services that lead to any, with their addresses.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &BTreeSet<IpAddr>)> {
        self.services.iter()
    }

    /// Another number whenever the addresses are others; 0 where there never were any.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn set(&mut self, key: &ServiceKey, snapshot: &Snapshot) {
        let direct = snapshot.services.get(key).is_some_and(|service| service.settings.dsr);
        let newer: BTreeSet<IpAddr> = if direct {
            let endpoints = snapshot.slices_of(key).flat_map(|(_, slice)| &slice.endpoints);
            // To a node's own address there are tunnels between pods' networks, too, which are another matter.
            let node = |address| snapshot.nodes.values().any(|node| node.addresses().any(|own| own == address));
            endpoints.map(|endpoint| endpoint.address).filter(|address| !node(*address)).collect()
        } else {
            BTreeSet::new()
        };
        if self.services.get(key).map_or(newer.is_empty(), |older| *older == newer) {
            return;
        }
        self.version += 1;
        for address in &newer {
            *self.addresses.entry(*address).or_default() += 1;
        }
        let older = if newer.is_empty() { self.services.remove(key) } else { self.services.insert(key.clone(), newer) };
        for address in older.into_iter().flatten() {
            let Some(users) = self.addresses.get_mut(&address) else { continue };
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}
