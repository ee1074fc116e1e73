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
use super::lookup::Lookup;
use super::pods::Pods;
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

/// The number a set has while it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SetId(u64);

/// One set.
#[derive(Clone, Debug)]
struct Entry {
    key: SetKey,
    /// How many policies use it. One that nobody uses stays until the changes are asked for: it may be wanted again in
    /// the next step, and has then changed as little as possible.
    users: usize,
    /// It came since the changes were last asked for: what it has is told as a whole.
    is_new: bool,
    /// Its elements, each with the number of pods that contribute it.
    elements: BTreeMap<Element, u32>,
    /// What changed since the changes were last asked for.
    delta: Delta,
}

/// All sets in use.
#[derive(Clone, Debug, Default)]
pub struct Members {
    ids: BTreeMap<SetKey, SetId>,
    sets: BTreeMap<SetId, Entry>,
    n_sets_ever: u64,
    index: Index<SetId>,
    /// The pods as they were last looked at.
    pods: Pods,
    /// The sets that choose each pod, in order. With the pod as it was, that is what it contributes.
    shares: Lookup<PodKey, Vec<SetId>>,
    /// Sets that changed since the changes were last asked for, and new ones.
    changed: BTreeSet<SetId>,
    /// Sets nobody uses.
    unused: BTreeSet<SetId>,
}

impl Members {
    /// A policy uses this set. It is filled with the pods that are known where nobody used it before.
    pub fn retain(&mut self, key: &SetKey) {
        if let Some((id, entry)) = self.ids.get(key).and_then(|id| Some((id, self.sets.get_mut(id)?))) {
            entry.users += 1;
            self.unused.remove(id);
            return;
        }
        let id = SetId(self.n_sets_ever);
        self.n_sets_ever += 1;
        self.ids.insert(key.clone(), id);
        self.index.insert(id, key.pods.clone());
        self.changed.insert(id);
        let mut entry =
            Entry { key: key.clone(), users: 1, is_new: true, elements: BTreeMap::new(), delta: Delta::default() };
        for pod_key in self.pods.chosen_by(&key.pods) {
            let Some(pod) = self.pods.get(&pod_key) else { continue };
            elements(&key.view, pod).into_iter().for_each(|element| entry.add(element));
            // The newest number is the highest, so the order stays.
            self.shares.get_or_default(pod_key).push(id);
        }
        self.sets.insert(id, entry);
    }

    /// A policy no longer uses this set; with its last user it goes.
    pub fn release(&mut self, key: &SetKey) {
        let Some((id, entry)) = self.ids.get(key).and_then(|id| Some((*id, self.sets.get_mut(id)?))) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0 {
            self.unused.insert(id);
        }
    }

    /// A pod came, changed or went.
    pub fn update(&mut self, key: &PodKey, pod: Option<&Arc<Pod>>) {
        let newer = pod.filter(|pod| is_peer(pod)).cloned();
        let older = self.pods.set(key, newer.clone());
        self.look_at(key, older.as_deref(), newer.as_deref());
    }

    /// The labels of a namespace changed: each of its pods is looked at again.
    pub fn update_namespace(&mut self, name: &NamespaceName, snapshot: &Snapshot) {
        self.pods.set_namespace(&name.0, snapshot.namespaces.get(name).map(|namespace| &namespace.labels));
        let pods: Vec<PodKey> = self.pods.in_namespace(&name.0).cloned().collect();
        for key in &pods {
            let pod = self.pods.get(key).cloned();
            self.look_at(key, pod.as_deref(), pod.as_deref());
        }
    }

    /// Brings the sets up to date with a pod that was the older and is the newer.
    fn look_at(&mut self, key: &PodKey, older: Option<&Pod>, newer: Option<&Pod>) {
        let chosen = newer.map(|pod| self.index.choosing(self.pods.candidate(key, pod))).unwrap_or_default();
        let was = self.shares.remove(key).unwrap_or_default();
        for id in &chosen {
            let Some(entry) = self.sets.get_mut(id) else { continue };
            let of = |pod: Option<&Pod>| pod.map(|pod| elements(&entry.key.view, pod)).unwrap_or_default();
            let (before, after) = (of(older.filter(|_| was.binary_search(id).is_ok())), of(newer));
            if before == after {
                continue;
            }
            missing(&before, &after).for_each(|element| entry.add(element));
            missing(&after, &before).for_each(|element| entry.remove(&element));
            if !entry.is_new {
                self.changed.insert(*id);
            }
        }
        for id in was.iter().filter(|id| chosen.binary_search(id).is_err()) {
            let Some((entry, pod)) = self.sets.get_mut(id).zip(older) else { continue };
            elements(&entry.key.view, pod).iter().for_each(|element| entry.remove(element));
            self.changed.insert(*id);
        }
        if !chosen.is_empty() {
            self.shares.insert(key.clone(), chosen);
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

    /// The sets in use, in order.
    pub fn sets(&self) -> impl Iterator<Item = &SetKey> {
        let is_used = |id: &SetId| self.sets.get(id).is_some_and(|entry| entry.users > 0);
        self.ids.iter().filter(move |(_, id)| is_used(id)).map(|(key, _)| key)
    }

    /// What happened since this was last asked.
    pub fn take_changes(&mut self) -> SetChanges {
        let mut changes = SetChanges::default();
        for id in std::mem::take(&mut self.unused) {
            self.changed.remove(&id);
            let Some(entry) = self.sets.remove(&id) else { continue };
            self.ids.remove(&entry.key);
            self.index.remove(&id);
            for pod in self.pods.chosen_by(&entry.key.pods) {
                self.forget_share(&pod, id);
            }
            // What came and went in between was never there.
            if !entry.is_new {
                changes.gone.insert(entry.key);
            }
        }
        for id in std::mem::take(&mut self.changed) {
            let Some(entry) = self.sets.get_mut(&id) else { continue };
            let delta = std::mem::take(&mut entry.delta);
            if std::mem::take(&mut entry.is_new) {
                changes.new.insert(entry.key.clone());
            } else if delta != Delta::default() {
                changes.deltas.insert(entry.key.clone(), delta);
            }
        }
        changes
    }

    fn used(&self, key: &SetKey) -> Option<&Entry> {
        self.sets.get(self.ids.get(key)?).filter(|entry| entry.users > 0)
    }

    fn forget_share(&mut self, pod: &PodKey, id: SetId) {
        let Some(share) = self.shares.get_mut(pod) else { return };
        if let Ok(at) = share.binary_search(&id) {
            share.remove(at);
        }
        if share.is_empty() {
            self.shares.remove(pod);
        }
    }
}

impl Entry {
    /// One pod more contributes an element.
    fn add(&mut self, element: Element) {
        let count = self.elements.entry(element).or_default();
        *count += 1;
        if *count == 1 && !self.is_new && !self.delta.removed.remove(&element) {
            self.delta.added.insert(element);
        }
    }

    /// One pod less does.
    fn remove(&mut self, element: &Element) {
        let Some(count) = self.elements.get_mut(element) else { return };
        *count -= 1;
        if *count == 0 {
            self.elements.remove(element);
            if !self.is_new && !self.delta.added.remove(element) {
                self.delta.removed.insert(*element);
            }
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

/// What a pod has to say to this question, in order, each once.
fn elements(view: &View, pod: &Pod) -> Vec<Element> {
    let mut elements: Vec<Element> = match view {
        View::Addresses => pod.addresses.iter().map(|address| (*address, 0)).collect(),
        View::NamedPort { protocol, name } => {
            let numbers = pod.ports.iter().filter(|port| port.protocol == *protocol && port.name == *name);
            numbers.flat_map(|port| pod.addresses.iter().map(|address| (*address, port.port))).collect()
        }
    };
    elements.sort_unstable();
    elements.dedup();
    elements
}

/// The elements of `those` that are not among `these`, which are in order.
fn missing(these: &[Element], those: &[Element]) -> impl Iterator<Item = Element> {
    those.iter().copied().filter(|element| these.binary_search(element).is_err())
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
                        members.update(&key, snapshot.pods.get(&key));
                    }
                    Step::Namespace(n, team) => {
                        let labels = if team { [(Arc::from("team"), Arc::from("x"))].into() } else { Labels::new() };
                        let name = NamespaceName(namespace(n));
                        snapshot.namespaces.insert(name.clone(), Arc::new(Namespace { labels, legacy_isolation: false }));
                        members.update_namespace(&name, &snapshot);
                    }
                    Step::Retain(n) => {
                        used[n] += 1;
                        members.retain(&keys[n]);
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
