//! What all Services together ask of this node, and what a change of one of them touches (pure).
//!
//! The book adds up [`ServiceState`]s: which Service has which virtual server (the older one, when two ask for the
//! same), how many ask for a VIP or a set element. [`Book::set`] replaces one Service's state and remembers what that
//! touched, so that a pass costs what changed. A book filled in any order equals one filled in any other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::desired::{DirectServer, ServiceState, SourceRanges, Tuple};
use crate::kernel::ipvs::{VirtualServer, VirtualServerKey};
use crate::model::{Notice, ServiceKey, Severity, Subject};
use crate::net::Protocol;

/// Who asks for a virtual server. Ordered: the first one has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// Age first; Services without a creation time come last.
    created: i64,
    service: ServiceKey,
}

/// An element of one of the large sets of the packet filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A virtual server a client may ask.
    Open(Tuple),
    /// A VIP to which everything else is refused.
    Guarded(IpAddr),
    /// A port served on the node's own addresses.
    NodePort(Protocol, u16),
    /// An endpoint on this node that may be asked by itself.
    Hairpin(IpAddr),
}

/// What all Services together ask of this node.
#[derive(Debug, Default)]
pub struct Book {
    services: BTreeMap<ServiceKey, Arc<ServiceState>>,
    /// Claims on virtual servers that more than one Service asks for.
    contested: BTreeMap<VirtualServerKey, BTreeSet<Claim>>,
    /// The Service that has each virtual server.
    owners: BTreeMap<VirtualServerKey, ServiceKey>,
    bound: Counted<IpAddr>,
    elements: Counted<Element>,
    touched: BTreeSet<VirtualServerKey>,
    /// Services with direct return, source ranges or a health-check port: few, looked at as a whole.
    special: BTreeSet<ServiceKey>,
    special_touched: bool,
    /// Services that have something to tell.
    noted: BTreeSet<ServiceKey>,
}

/// What has changed since it was last asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Virtual servers whose desired state may have changed.
    pub virtual_servers: BTreeSet<VirtualServerKey>,
    /// VIPs that nobody asked for before.
    pub bound: Vec<IpAddr>,
    /// VIPs that nobody asks for any more.
    pub unbound: Vec<IpAddr>,
    /// Set elements that nobody asked for before.
    pub added: Vec<Element>,
    /// Set elements that nobody asks for any more.
    pub removed: Vec<Element>,
    /// Direct return, source ranges or health-check ports changed.
    pub special: bool,
}

impl Touched {
    /// Nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Touched::default()
    }
}

impl Book {
    /// Replace what one Service asks for; `None` when it asks for nothing (any more).
    pub fn set(&mut self, key: &ServiceKey, state: Option<ServiceState>) {
        let older = self.services.get(key).cloned();
        if older.as_deref() == state.as_ref() {
            return;
        }
        let newer = state.map(Arc::new);
        // New things first, so that what stays never counts down to nothing in between.
        match &newer {
            Some(newer) => self.services.insert(key.clone(), Arc::clone(newer)),
            None => self.services.remove(key),
        };
        if let Some(newer) = &newer {
            self.add(key, newer);
        }
        if let Some(older) = &older {
            self.remove(key, older, newer.as_deref());
        }
        if newer.as_deref().is_some_and(|state| !state.notices.is_empty()) {
            self.noted.insert(key.clone());
        } else {
            self.noted.remove(key);
        }
        let is_special = newer.as_deref().is_some_and(is_special);
        if is_special || self.special.contains(key) {
            self.special_touched = true;
        }
        if is_special {
            self.special.insert(key.clone());
        } else {
            self.special.remove(key);
        }
    }

    /// The Services it knows.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// What one Service asks for.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceState> {
        self.services.get(key).map(|state| &**state)
    }

    /// What a virtual server should be.
    pub fn virtual_server(&self, key: &VirtualServerKey) -> Option<&Arc<VirtualServer>> {
        let state = self.services.get(self.owners.get(key)?)?;
        state.virtual_servers.iter().find(|(known, _)| known == key).map(|(_, virtual_server)| virtual_server)
    }

    /// The Service a virtual server belongs to.
    pub fn owner(&self, key: &VirtualServerKey) -> Option<&ServiceKey> {
        self.owners.get(key)
    }

    /// All virtual servers by address.
    pub fn virtual_servers(&self) -> impl Iterator<Item = (&VirtualServerKey, &Arc<VirtualServer>)> {
        self.owners.keys().filter_map(|key| Some((key, self.virtual_server(key)?)))
    }

    /// The VIPs to bind, in order.
    pub fn bound(&self) -> impl Iterator<Item = &IpAddr> {
        self.bound.counts.keys()
    }

    /// How many VIPs there are to bind.
    pub fn n_bound(&self) -> usize {
        self.bound.counts.len()
    }

    /// The elements of the large sets, in order.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.elements.counts.keys()
    }

    /// True when a Service asks for a set element.
    pub fn asks_for(&self, element: &Element) -> bool {
        self.elements.counts.contains_key(element)
    }

    /// Source ranges by Service.
    pub fn sources(&self) -> impl Iterator<Item = (&ServiceKey, &SourceRanges)> {
        self.special.iter().filter_map(|key| Some((key, self.services.get(key)?.sources.as_ref()?)))
    }

    /// Virtual servers with direct return, by tuple; the oldest Service has a contested one.
    pub fn direct(&self) -> BTreeMap<Tuple, (&ServiceKey, &DirectServer)> {
        let mut claims: BTreeMap<Tuple, (Claim, &ServiceKey, &DirectServer)> = BTreeMap::new();
        for key in &self.special {
            let Some(state) = self.services.get(key) else { continue };
            for direct in &state.direct {
                let claim = claim(key, state);
                match claims.get(&direct.tuple) {
                    Some((older, _, _)) if *older < claim => {}
                    _ => {
                        claims.insert(direct.tuple, (claim, key, direct));
                    }
                }
            }
        }
        claims.into_iter().map(|(tuple, (_, key, direct))| (tuple, (key, direct))).collect()
    }

    /// Health-check node ports: port to Service and number of ready local endpoints.
    pub fn health_checks(&self) -> BTreeMap<u16, (ServiceKey, usize)> {
        let of = |key: &ServiceKey| {
            let (port, n_local) = self.services.get(key)?.health_check?;
            Some((port, (key.clone(), n_local)))
        };
        // Reversed, so that the first Service of a contested port stays.
        self.special.iter().rev().filter_map(of).collect()
    }

    /// Everything owners of Services should know.
    pub fn notices(&self) -> Vec<Notice> {
        let own =
            self.noted.iter().filter_map(|key| self.services.get(key)).flat_map(|state| state.notices.iter().cloned());
        let contested = self.contested.iter().flat_map(|(key, claims)| {
            let winner = claims.first().map(|claim| claim.service.to_string()).unwrap_or_default();
            claims.iter().skip(1).map(move |claim| Notice {
                subject: Subject::Service(claim.service.clone()),
                severity: Severity::Warning,
                reason: "VipContested",
                message: format!("{} already belongs to the older service {winner}; it is not served", describe(key)),
            })
        });
        own.chain(contested).collect()
    }

    /// What changed since the last call.
    pub fn take_touched(&mut self) -> Touched {
        let (bound, unbound) = self.bound.take_changes();
        let (added, removed) = self.elements.take_changes();
        Touched {
            virtual_servers: std::mem::take(&mut self.touched),
            bound,
            unbound,
            added,
            removed,
            special: std::mem::take(&mut self.special_touched),
        }
    }

    fn add(&mut self, key: &ServiceKey, state: &ServiceState) {
        for (virtual_server, _) in &state.virtual_servers {
            self.claim(virtual_server, claim(key, state));
        }
        for address in &state.bound {
            self.bound.add(*address);
        }
        for element in elements_of(state) {
            self.elements.add(element);
        }
    }

    /// Take back what the older state asked for. A virtual server that the newer state asks for as well keeps its
    /// claim, which `add` has renewed.
    fn remove(&mut self, key: &ServiceKey, older: &ServiceState, newer: Option<&ServiceState>) {
        let older_claim = claim(key, older);
        for (virtual_server, _) in &older.virtual_servers {
            let stays = newer.is_some_and(|newer| {
                newer.created == older.created && newer.virtual_servers.iter().any(|(known, _)| known == virtual_server)
            });
            if !stays {
                self.unclaim(virtual_server, &older_claim, newer);
            }
        }
        for address in &older.bound {
            self.bound.remove(*address);
        }
        for element in elements_of(older) {
            self.elements.remove(element);
        }
    }

    fn claim(&mut self, virtual_server: &VirtualServerKey, claim_of_new: Claim) {
        self.touched.insert(*virtual_server);
        let Some(owner) = self.owners.get(virtual_server) else {
            self.owners.insert(*virtual_server, claim_of_new.service);
            return;
        };
        if *owner == claim_of_new.service && !self.contested.contains_key(virtual_server) {
            return;
        }
        let owner_claim = self.services.get(owner).map(|state| claim(owner, state));
        let claims = self.contested.entry(*virtual_server).or_default();
        claims.extend(owner_claim);
        claims.retain(|known| known.service != claim_of_new.service);
        claims.insert(claim_of_new);
        if let Some(first) = claims.first() {
            self.owners.insert(*virtual_server, first.service.clone());
        }
    }

    fn unclaim(&mut self, virtual_server: &VirtualServerKey, older: &Claim, newer: Option<&ServiceState>) {
        self.touched.insert(*virtual_server);
        let still = newer.is_some_and(|newer| newer.virtual_servers.iter().any(|(known, _)| known == virtual_server));
        if still {
            return;
        }
        let Some(claims) = self.contested.get_mut(virtual_server) else {
            self.owners.remove(virtual_server);
            return;
        };
        claims.retain(|known| known.service != older.service);
        if let Some(first) = claims.first() {
            self.owners.insert(*virtual_server, first.service.clone());
        }
        if claims.len() < 2 {
            self.contested.remove(virtual_server);
        }
    }
}

fn claim(key: &ServiceKey, state: &ServiceState) -> Claim {
    let created = if state.created == 0 { i64::MAX } else { state.created };
    Claim { created, service: key.clone() }
}

fn is_special(state: &ServiceState) -> bool {
    state.sources.is_some() || state.health_check.is_some() || !state.direct.is_empty()
}

/// The set elements a Service asks for.
fn elements_of(state: &ServiceState) -> impl Iterator<Item = Element> + '_ {
    let by_address = state.virtual_servers.iter().filter_map(|(key, _)| match *key {
        VirtualServerKey::Address { address, protocol, port } => Some(Element::Open((address, protocol, port))),
        VirtualServerKey::Mark { .. } => None,
    });
    // What is served on an address that is no guarded VIP is served on one of the node's own.
    let node_ports = state.virtual_servers.iter().filter_map(|(key, _)| match *key {
        VirtualServerKey::Address { address, protocol, port } if state.guarded.binary_search(&address).is_err() => {
            Some(Element::NodePort(protocol, port))
        }
        _ => None,
    });
    let direct = state.direct.iter().map(|direct| Element::Open(direct.tuple));
    let guarded = state.guarded.iter().map(|address| Element::Guarded(*address));
    let hairpin = state.hairpin.iter().map(|address| Element::Hairpin(*address));
    by_address.chain(node_ports).chain(direct).chain(guarded).chain(hairpin)
}

/// A virtual server key for people.
pub fn describe(key: &VirtualServerKey) -> String {
    match key {
        VirtualServerKey::Address { address: IpAddr::V6(address), protocol, port } => {
            format!("{protocol} [{address}]:{port}")
        }
        VirtualServerKey::Address { address, protocol, port } => format!("{protocol} {address}:{port}"),
        VirtualServerKey::Mark { mark, family } => format!("firewall mark {mark} ({family})"),
    }
}

/// How many ask for each key, and which keys came or went since the last time.
#[derive(Debug)]
struct Counted<K> {
    counts: BTreeMap<K, u32>,
    /// Keys touched, with whether somebody had asked for them before.
    touched: BTreeMap<K, bool>,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Counted { counts: BTreeMap::new(), touched: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Counted<K> {
    fn add(&mut self, key: K) {
        let count = self.counts.entry(key).or_insert(0);
        self.touched.entry(key).or_insert(*count > 0);
        *count += 1;
    }

    fn remove(&mut self, key: K) {
        let Some(count) = self.counts.get_mut(&key) else { return };
        self.touched.entry(key).or_insert(true);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.counts.remove(&key);
        }
    }

    /// Keys that came and keys that went.
    fn take_changes(&mut self) -> (Vec<K>, Vec<K>) {
        let mut came = Vec::new();
        let mut went = Vec::new();
        for (key, was) in std::mem::take(&mut self.touched) {
            match (was, self.counts.contains_key(&key)) {
                (false, true) => came.push(key),
                (true, false) => went.push(key),
                _ => {}
            }
        }
        (came, went)
    }
}
