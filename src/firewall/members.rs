//! The addresses and ports behind what policies say, kept up to date pod by pod (pure).
//!
//! Policies that choose the same pods share one set, whose name is a digest of what it asks for: a restarted daemon finds
//! it again, and an unchanged set is never written. Two pods may have the same address for a moment (one has ended, its
//! successor begins); it stays a member while one of them is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::index::{Candidate, Index, PodChooser};
use crate::model::{Labels, NamespaceName, Pod, PodKey, Snapshot};
use crate::net::{Family, Protocol};

/// What a set holds of each chosen pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum View {
    /// Its addresses.
    Addresses,
    /// Its addresses, each with the number that a named port has in it; nothing where it has no port of that name.
    NamedPort {
        /// The protocol.
        protocol: Protocol,
        /// The name.
        name: Arc<str>,
    },
}

/// What a set asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct SetKey {
    /// Of these pods.
    pub pods: PodChooser,
    /// This.
    pub view: View,
}

impl SetKey {
    /// The name of its set for one family: the same for equal questions, on every node and after every restart.
    pub fn name(&self, family: Family) -> Arc<str> {
        // Fields are delimited by their serialised form, so no two questions run into one.
        let text = serde_json::to_string(self).unwrap_or_default();
        let digest = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        let digit = match family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let kind = match self.view {
            View::Addresses => "pods",
            View::NamedPort { .. } => "ports",
        };
        Arc::from(format!("{kind}{digit}-{digest}"))
    }
}

/// One element: an address, and a port (0 in sets of addresses alone).
pub type Element = (IpAddr, u16);

/// How a set's elements changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// New ones.
    pub added: BTreeSet<Element>,
    /// Former ones.
    pub removed: BTreeSet<Element>,
}

/// What happened to the sets since somebody last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChanges {
    /// Sets in use that were not in use before.
    pub new: BTreeSet<SetKey>,
    /// Sets that have other elements than before, but for new ones.
    pub deltas: BTreeMap<SetKey, Delta>,
    /// Sets nobody uses any longer.
    pub gone: BTreeSet<SetKey>,
}

/// One set.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// How many policies use it. One that nobody uses stays until the changes are asked for: it may be wanted again in
    /// the next step, and has then changed as little as possible.
    users: usize,
    /// Its elements, each with the number of pods that contribute it.
    elements: BTreeMap<Element, usize>,
}

/// All sets in use.
#[derive(Clone, Debug, Default)]
pub struct Members {
    sets: BTreeMap<SetKey, Entry>,
    index: Index<SetKey>,
    /// What each pod contributes.
    shares: BTreeMap<PodKey, BTreeMap<SetKey, BTreeSet<Element>>>,
    deltas: BTreeMap<SetKey, Delta>,
    /// Sets that came since the changes were last asked for.
    new: BTreeSet<SetKey>,
    /// Sets nobody uses.
    unused: BTreeSet<SetKey>,
}

impl Members {
    /// A policy uses this set. It is filled from the snapshot where nobody used it before.
    pub fn retain(&mut self, key: &SetKey, snapshot: &Snapshot) {
        if let Some(entry) = self.sets.get_mut(key) {
            entry.users += 1;
            self.unused.remove(key);
            return;
        }
        self.sets.insert(key.clone(), Entry { users: 1, ..Entry::default() });
        self.new.insert(key.clone());
        self.index.insert(key.clone(), key.pods.clone());
        for (pod_key, pod) in snapshot.pods.iter().filter(|(_, pod)| is_peer(pod)) {
            let namespace_labels = labels_of(snapshot, &pod_key.namespace);
            if key.pods.chooses(candidate(pod_key, pod, namespace_labels)) {
                self.share(pod_key, key, &elements(&key.view, pod), true);
            }
        }
    }

    /// A policy no longer uses this set; with its last user it goes.
    pub fn release(&mut self, key: &SetKey) {
        let Some(entry) = self.sets.get_mut(key) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0 {
            self.unused.insert(key.clone());
        }
    }

    /// A pod came, changed or went.
    pub fn update(&mut self, key: &PodKey, snapshot: &Snapshot) {
        let pod = snapshot.pods.get(key).filter(|pod| is_peer(pod));
        let chosen = match pod {
            Some(pod) => self.index.choosing(candidate(key, pod, labels_of(snapshot, &key.namespace))),
            None => BTreeSet::new(),
        };
        let new: BTreeMap<SetKey, BTreeSet<Element>> = match pod {
            Some(pod) => chosen
                .into_iter()
                .map(|set| {
                    let elements = elements(&set.view, pod);
                    (set, elements)
                })
                .filter(|(_, elements)| !elements.is_empty())
                .collect(),
            None => BTreeMap::new(),
        };
        let old = self.shares.get(key).cloned().unwrap_or_default();
        // First what comes: an address that stays is never without a contributor in between.
        for (set, elements) in &new {
            let fresh = match old.get(set) {
                Some(before) => elements.difference(before).copied().collect(),
                None => elements.clone(),
            };
            self.share(key, set, &fresh, true);
        }
        for (set, elements) in &old {
            let gone = match new.get(set) {
                Some(after) => elements.difference(after).copied().collect(),
                None => elements.clone(),
            };
            self.share(key, set, &gone, false);
        }
    }

    /// The labels of a namespace changed: each of its pods is looked at again.
    pub fn update_namespace(&mut self, name: &NamespaceName, snapshot: &Snapshot) {
        let first = PodKey::new(Arc::clone(&name.0), "");
        let pods: Vec<PodKey> = snapshot
            .pods
            .range(first..)
            .take_while(|(key, _)| key.namespace == name.0)
            .map(|(key, _)| key.clone())
            .collect();
        for pod in &pods {
            self.update(pod, snapshot);
        }
    }

    /// The elements of a set; nothing for one that nobody uses.
    pub fn elements(&self, key: &SetKey) -> impl Iterator<Item = Element> + '_ {
        self.used(key).into_iter().flat_map(|entry| entry.elements.keys().copied())
    }

    /// How many elements a set has.
    pub fn n_elements(&self, key: &SetKey) -> usize {
        self.used(key).map_or(0, |entry| entry.elements.len())
    }

    /// Whether a set has this element.
    pub fn contains(&self, key: &SetKey, element: Element) -> bool {
        self.used(key).is_some_and(|entry| entry.elements.contains_key(&element))
    }

    /// The sets in use.
    pub fn sets(&self) -> impl Iterator<Item = &SetKey> {
        self.sets.iter().filter(|(_, entry)| entry.users > 0).map(|(key, _)| key)
    }

    /// What happened since this was last asked.
    pub fn take_changes(&mut self) -> SetChanges {
        let mut gone = std::mem::take(&mut self.unused);
        let mut new = std::mem::take(&mut self.new);
        for key in &gone {
            self.sets.remove(key);
            self.index.remove(key);
        }
        if !gone.is_empty() {
            self.shares.retain(|_, shares| {
                shares.retain(|key, _| !gone.contains(key));
                !shares.is_empty()
            });
        }
        let mut deltas = std::mem::take(&mut self.deltas);
        deltas.retain(|key, delta| {
            let known = !new.contains(key) && !gone.contains(key);
            known && (!delta.added.is_empty() || !delta.removed.is_empty())
        });
        // What came and went in between was never there.
        let passing: BTreeSet<SetKey> = new.intersection(&gone).cloned().collect();
        new.retain(|key| !passing.contains(key));
        gone.retain(|key| !passing.contains(key));
        SetChanges { new, deltas, gone }
    }

    fn used(&self, key: &SetKey) -> Option<&Entry> {
        self.sets.get(key).filter(|entry| entry.users > 0)
    }

    fn share(&mut self, pod: &PodKey, set: &SetKey, elements: &BTreeSet<Element>, add: bool) {
        if elements.is_empty() {
            return;
        }
        let Some(entry) = self.sets.get_mut(set) else { return };
        let delta = self.deltas.entry(set.clone()).or_default();
        let shares = self.shares.entry(pod.clone()).or_default();
        let share = shares.entry(set.clone()).or_default();
        for element in elements {
            if add && share.insert(*element) {
                let count = entry.elements.entry(*element).or_default();
                *count += 1;
                if *count == 1 && !delta.removed.remove(element) {
                    delta.added.insert(*element);
                }
            } else if !add && share.remove(element) {
                let count = entry.elements.get_mut(element).map_or(0, |count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if count == 0 {
                    entry.elements.remove(element);
                    if !delta.added.remove(element) {
                        delta.removed.insert(*element);
                    }
                }
            }
        }
        if share.is_empty() {
            shares.remove(set);
        }
        if shares.is_empty() {
            self.shares.remove(pod);
        }
    }
}

/// Whether a pod can be chosen by a selector: those in the host's network are the host.
pub fn is_peer(pod: &Pod) -> bool {
    !pod.host_network
}

/// The labels of a namespace. One whose object is not known has its name alone, which the API server gives to all.
pub fn labels_of<'a>(snapshot: &'a Snapshot, namespace: &Arc<str>) -> &'a Labels {
    static NONE: Labels = Labels::new();
    snapshot.namespaces.get(&NamespaceName(Arc::clone(namespace))).map_or(&NONE, |namespace| &namespace.labels)
}

/// A pod as choosers see it.
pub fn candidate<'a>(key: &'a PodKey, pod: &'a Pod, namespace_labels: &'a Labels) -> Candidate<'a> {
    Candidate { namespace: &key.namespace, namespace_labels, labels: &pod.labels }
}

/// What a pod has to say to this question.
fn elements(view: &View, pod: &Pod) -> BTreeSet<Element> {
    match view {
        View::Addresses => pod.addresses.iter().map(|address| (*address, 0)).collect(),
        View::NamedPort { protocol, name } => {
            let numbers = pod.ports.iter().filter(|port| port.protocol == *protocol && port.name == *name);
            numbers.flat_map(|port| pod.addresses.iter().map(|address| (*address, port.port))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::index::Scope;
    use super::*;
    use crate::model::{NamedPort, Namespace, NodeName, Operator, Requirement, Selector};

    fn label(key: &str, value: &str) -> Selector {
        Selector(vec![Requirement { key: Arc::from(key), operator: Operator::In([Arc::from(value)].into()) }])
    }

    fn pod(address: u8, app: &str, port: u16) -> Pod {
        let ports = [NamedPort { name: Arc::from("http"), protocol: Protocol::Tcp, port }];
        Pod {
            addresses: [IpAddr::from([10, 0, 0, address])].into(),
            labels: [(Arc::from("app"), Arc::from(app))].into(),
            ports: ports.into(),
            ..Pod::default()
        }
    }

    /// Sets of every kind.
    fn keys() -> Vec<SetKey> {
        let chooser = |scope, pods| PodChooser { scope, pods };
        let own = Scope::Namespace(Arc::from("a"));
        let team = Scope::Selected(label("team", "x"));
        let named = View::NamedPort { protocol: Protocol::Tcp, name: Arc::from("http") };
        vec![
            SetKey { pods: chooser(own.clone(), label("app", "web")), view: View::Addresses },
            SetKey { pods: chooser(own, Selector::default()), view: named.clone() },
            SetKey { pods: chooser(team.clone(), Selector::default()), view: View::Addresses },
            SetKey { pods: chooser(team, label("app", "db")), view: named },
            SetKey { pods: chooser(Scope::Selected(Selector::default()), Selector::default()), view: View::Addresses },
        ]
    }

    /// One event of a small cluster.
    #[derive(Clone, Debug, PartialEq)]
    enum Step {
        Pod(u8, u8, Option<(u8, bool, bool)>),
        Namespace(u8, bool),
        Retain(usize),
        Look,
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..2_u8, 0..3_u8, prop::option::of((1..4_u8, any::<bool>(), any::<bool>())))
                .prop_map(|(namespace, name, pod)| Step::Pod(namespace, name, pod)),
            1 => (0..2_u8, any::<bool>()).prop_map(|(namespace, team)| Step::Namespace(namespace, team)),
            2 => (0..5_usize).prop_map(Step::Retain),
            2 => Just(Step::Look),
            1 => (0..5_usize).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn members_are_those_a_fresh_look_finds_and_deltas_tell_the_way(steps in prop::collection::vec(step(), 1..40)) {
            let (keys, mut members) = (keys(), Members::default());
            let mut snapshot = Snapshot::empty(NodeName::new("n1"));
            let mut used = [0_usize; 5];
            let mut told: BTreeMap<SetKey, BTreeSet<Element>> = BTreeMap::new();
            let namespace = |n: u8| Arc::<str>::from(if n == 0 { "a" } else { "b" });
            for step in steps {
                match step.clone() {
                    Step::Pod(n, name, content) => {
                        let key = PodKey::new(namespace(n), format!("p{name}"));
                        match content {
                            Some((address, web, host)) => {
                                let made = pod(address, if web { "web" } else { "db" }, u16::from(address) + 8000);
                                let made = Pod { host_network: host && web, ..made };
                                snapshot.pods.insert(key.clone(), Arc::new(made));
                            }
                            None => drop(snapshot.pods.remove(&key)),
                        }
                        members.update(&key, &snapshot);
                    }
                    Step::Namespace(n, team) => {
                        let labels = if team { [(Arc::from("team"), Arc::from("x"))].into() } else { Labels::new() };
                        let name = NamespaceName(namespace(n));
                        snapshot.namespaces.insert(name.clone(), Arc::new(Namespace { labels, legacy_isolation: false }));
                        members.update_namespace(&name, &snapshot);
                    }
                    Step::Retain(n) => {
                        used[n] += 1;
                        members.retain(&keys[n], &snapshot);
                    }
                    Step::Release(n) => {
                        used[n] = used[n].saturating_sub(1);
                        members.release(&keys[n]);
                    }
                    Step::Look => {}
                }
                let look = matches!(step, Step::Look);
                let changes = if look { members.take_changes() } else { SetChanges::default() };
                for set in changes.new {
                    let whole = members.elements(&set).collect();
                    prop_assert!(told.insert(set, whole).is_none(), "it was there");
                }
                for set in changes.gone {
                    prop_assert!(told.remove(&set).is_some(), "it was not there");
                }
                for (set, delta) in changes.deltas {
                    let told = told.get_mut(&set).unwrap();
                    prop_assert!(delta.added.is_disjoint(told) && delta.removed.is_subset(told), "{delta:?} of {told:?}");
                    told.extend(&delta.added);
                    told.retain(|element| !delta.removed.contains(element));
                }
                for (n, key) in keys.iter().enumerate() {
                    let mut fresh = BTreeSet::new();
                    if used[n] > 0 {
                        for (pod_key, pod) in snapshot.pods.iter().filter(|(_, pod)| !pod.host_network) {
                            if key.pods.chooses(candidate(pod_key, pod, labels_of(&snapshot, &pod_key.namespace))) {
                                fresh.extend(elements(&key.view, pod));
                            }
                        }
                    }
                    prop_assert_eq!(&members.elements(key).collect::<BTreeSet<_>>(), &fresh);
                    prop_assert_eq!(members.n_elements(key), fresh.len());
                    if look {
                        prop_assert_eq!(told.get(key).cloned().unwrap_or_default(), fresh);
                    }
                }
            }
        }
    }

    #[test]
    fn names_tell_questions_apart_and_stay() {
        let names: BTreeSet<Arc<str>> =
            keys().iter().flat_map(|key| Family::ALL.map(|family| key.name(family))).collect();
        assert_eq!(names.len(), 10);
        let split = |namespace: &str, app: &str| SetKey {
            pods: PodChooser { scope: Scope::Namespace(Arc::from(namespace)), pods: label("app", app) },
            view: View::Addresses,
        };
        assert_ne!(split("foo", "ab").name(Family::V4), split("fooa", "b").name(Family::V4));
        assert_eq!(split("foo", "ab").name(Family::V4), split("foo", "ab").name(Family::V4));
    }
}
