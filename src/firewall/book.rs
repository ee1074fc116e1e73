//! Which policies isolate which pods of this node, kept up to date change by change (pure).
//!
//! A policy that chooses no pod of this node costs its entry in an index and nothing else: its sets are not filled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::direct::Direct;
use super::index::Index;
use super::members::{Members, SetChanges, candidate, is_peer, labels_of};
use super::resolve::{Resolved, resolve, targets};
use super::tiers::Tiers;
use super::{Config, LEGACY_POLICY};
use crate::model::{
    Changes, ClusterPolicyName, NamespaceName, NetworkPolicy, Pod, PodKey, PolicyKey, Selector, Snapshot,
};

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The policies that isolate it against what it would receive; none where it receives from everybody.
    pub ingress: BTreeSet<PolicyKey>,
    /// The policies that isolate it in what it sends, likewise.
    pub egress: BTreeSet<PolicyKey>,
    /// It is to be deleted: another pod may already have its address.
    pub leaving: bool,
}

/// What may be other than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Policies that changed, or that began or ceased to isolate a pod of this node.
    pub policies: BTreeSet<PolicyKey>,
    /// Pods of this node that came, went, changed, or are under other policies.
    pub pods: BTreeSet<PodKey>,
    /// Cluster policies that came, went or changed.
    pub cluster_policies: BTreeSet<ClusterPolicyName>,
    /// What became of sets.
    pub sets: SetChanges,
}

/// A policy.
#[derive(Clone, Debug)]
struct Entry {
    resolved: Arc<Resolved>,
    /// The pods of this node it isolates; while there are any, its sets are in use.
    pods: BTreeSet<PodKey>,
}

/// Everything rules are made from.
#[derive(Clone, Debug, Default)]
pub struct Book {
    policies: BTreeMap<PolicyKey, Entry>,
    targets: Index<PolicyKey>,
    members: Members,
    pods: BTreeMap<PodKey, LocalPod>,
    tiers: Tiers,
    direct: Direct,
    touched: Touched,
}

impl Book {
    /// Everything from scratch.
    pub fn build(snapshot: &Snapshot, config: &Config) -> Book {
        let mut book = Book::default();
        let changes = Changes {
            policies: snapshot.policies.keys().cloned().collect(),
            cluster_policies: snapshot.cluster_policies.keys().cloned().collect(),
            namespaces: snapshot.namespaces.keys().cloned().collect(),
            pods: snapshot.pods.keys().cloned().collect(),
            services: snapshot.services.keys().cloned().collect(),
            ..Changes::default()
        };
        book.apply(&changes, snapshot, config);
        book
    }

    /// Brings up to date what `changes` names.
    pub fn apply(&mut self, changes: &Changes, snapshot: &Snapshot, config: &Config) {
        self.direct.apply(changes, snapshot);
        for key in &changes.policies {
            self.set_policy(key, snapshot.policies.get(key).map(AsRef::as_ref), snapshot);
        }
        for name in &changes.namespaces {
            let namespace = snapshot.namespaces.get(name);
            let isolated = config.legacy_isolation && namespace.is_some_and(|namespace| namespace.legacy_isolation);
            let policy = NetworkPolicy { targets: Selector::default(), ingress: Some(Vec::new()), egress: None };
            self.set_policy(&legacy_key(name), isolated.then_some(&policy), snapshot);
            self.members.update_namespace(name, snapshot);
            for pod in pods_of(&self.pods, &name.0) {
                self.tiers.set_pod(&pod, true, &mut self.members, snapshot);
            }
        }
        for name in &changes.cluster_policies {
            self.tiers.set_policy(name, self.pods.keys(), &mut self.members, snapshot);
        }
        let pods: Vec<_> = changes.pods.iter().map(|key| (key, snapshot.pods.get(key))).collect();
        for (key, pod) in &pods {
            self.set_pod(key, pod.filter(|pod| is_local(pod, snapshot)).map(AsRef::as_ref), snapshot);
        }
        // Last: at the start all sets are in use by now, and each pod is looked at once instead of each set's pods.
        for (key, pod) in pods {
            self.members.update(key, pod);
        }
    }

    /// The pods of this node, isolated or not.
    pub fn pods(&self) -> &BTreeMap<PodKey, LocalPod> {
        &self.pods
    }

    /// The policies that isolate pods of this node.
    pub fn active(&self) -> impl Iterator<Item = (&PolicyKey, &Resolved)> {
        let active = self.policies.iter().filter(|(_, entry)| !entry.pods.is_empty());
        active.map(|(key, entry)| (key, entry.resolved.as_ref()))
    }

    /// Whether there is a policy at all: one that nobody of this node is under yet may choose the next pod.
    pub fn has_policies(&self) -> bool {
        !self.policies.is_empty() || !self.tiers.is_empty()
    }

    /// The cluster policies.
    pub fn tiers(&self) -> &Tiers {
        &self.tiers
    }

    /// A policy, where it isolates pods of this node.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Resolved> {
        self.policies.get(key).filter(|entry| !entry.pods.is_empty()).map(|entry| entry.resolved.as_ref())
    }

    /// The pods of this node that a policy isolates.
    pub fn pods_under(&self, key: &PolicyKey) -> impl Iterator<Item = &PodKey> {
        self.policies.get(key).into_iter().flat_map(|entry| &entry.pods)
    }

    /// What may be other than when this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        let (cluster_policies, pods) = self.tiers.take_touched();
        let mut touched = std::mem::take(&mut self.touched);
        touched.pods.extend(pods);
        Touched { sets: self.members.take_changes(), cluster_policies, ..touched }
    }

    /// The pods to which virtual servers tunnel what they get.
    pub fn direct(&self) -> &Direct {
        &self.direct
    }

    /// The addresses behind the policies.
    pub fn members(&self) -> &Members {
        &self.members
    }

    fn set_policy(&mut self, key: &PolicyKey, policy: Option<&NetworkPolicy>, snapshot: &Snapshot) {
        let older = self.policies.remove(key);
        if older.is_none() && policy.is_none() {
            return;
        }
        self.touched.policies.insert(key.clone());
        let Some(policy) = policy else {
            self.targets.remove(key);
            for pod in older.iter().flat_map(|entry| &entry.pods) {
                self.place(pod, key, None);
            }
            self.swap_sets(older.as_ref(), None);
            return;
        };
        let chooser = targets(key, policy);
        let resolved = Arc::new(resolve(key, policy));
        let mut entry = Entry { resolved, pods: BTreeSet::new() };
        for pod in pods_of(&self.pods, &key.namespace) {
            let chosen = snapshot
                .pods
                .get(&pod)
                .is_some_and(|found| chooser.chooses(candidate(&pod, found, labels_of(snapshot, &pod.namespace))));
            self.place(&pod, key, chosen.then_some(&*entry.resolved));
            if chosen {
                entry.pods.insert(pod);
            }
        }
        self.targets.insert(key.clone(), chooser);
        self.swap_sets(older.as_ref(), Some(&entry));
        self.policies.insert(key.clone(), entry);
    }

    /// A pod of this node came, changed or went.
    fn set_pod(&mut self, key: &PodKey, found: Option<&Pod>, snapshot: &Snapshot) {
        let older = self.pods.remove(key);
        if older.is_none() && found.is_none() {
            return;
        }
        let chosen = match found {
            Some(pod) => {
                let chosen = self.targets.choosing(candidate(key, pod, labels_of(snapshot, &key.namespace)));
                chosen.into_iter().collect()
            }
            None => BTreeSet::new(),
        };
        if let Some(pod) = found {
            let entry = |policy: &PolicyKey| self.policies.get(policy).map(|entry| &entry.resolved);
            let isolates =
                |policy: &&PolicyKey, of: fn(&Resolved) -> bool| entry(policy).is_some_and(|resolved| of(resolved));
            let local = LocalPod {
                addresses: pod.addresses.to_vec(),
                ingress: chosen.iter().filter(|key| isolates(key, |found| found.ingress.is_some())).cloned().collect(),
                egress: chosen.iter().filter(|key| isolates(key, |found| found.egress.is_some())).cloned().collect(),
                leaving: pod.deletion.is_some(),
            };
            self.pods.insert(key.clone(), local);
        }
        if older.as_ref() != self.pods.get(key) {
            self.touched.pods.insert(key.clone());
        }
        let before = older.unwrap_or_default();
        let was = before.ingress.union(&before.egress).cloned().collect::<BTreeSet<_>>();
        for policy in was.union(&chosen) {
            let Some(entry) = self.policies.get_mut(policy) else { continue };
            let was_idle = entry.pods.is_empty();
            if chosen.contains(policy) {
                entry.pods.insert(key.clone());
            } else {
                entry.pods.remove(key);
            }
            if entry.pods.is_empty() == was_idle {
                continue;
            }
            self.touched.policies.insert(policy.clone());
            for set in entry.resolved.sets() {
                if was_idle {
                    self.members.retain(set);
                } else {
                    self.members.release(set);
                }
            }
        }
        self.tiers.set_pod(key, found.is_some(), &mut self.members, snapshot);
    }

    /// Writes down whether a policy isolates a pod.
    fn place(&mut self, pod: &PodKey, policy: &PolicyKey, by: Option<&Resolved>) {
        let Some(local) = self.pods.get_mut(pod) else { return };
        let mut changed = false;
        let mut set = |policies: fn(&mut LocalPod) -> &mut BTreeSet<PolicyKey>, isolates: bool| {
            changed |= if isolates { policies(local).insert(policy.clone()) } else { policies(local).remove(policy) };
        };
        set(|local| &mut local.ingress, by.is_some_and(|resolved| resolved.ingress.is_some()));
        set(|local| &mut local.egress, by.is_some_and(|resolved| resolved.egress.is_some()));
        if changed {
            self.touched.pods.insert(pod.clone());
        }
    }

    /// Takes the sets of the newer entry into use and then lets those of the older one go, so that what both use stays.
    fn swap_sets(&mut self, older: Option<&Entry>, newer: Option<&Entry>) {
        let sets = |entry: Option<&Entry>| {
            let entry = entry.filter(|entry| !entry.pods.is_empty());
            entry.map(|entry| entry.resolved.sets().into_iter().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        for set in sets(newer) {
            self.members.retain(&set);
        }
        for set in sets(older) {
            self.members.release(&set);
        }
    }
}

/// The key of the policy that stands for a namespace's old annotation: no NetworkPolicy can have this name.
fn legacy_key(name: &NamespaceName) -> PolicyKey {
    PolicyKey::new(Arc::clone(&name.0), LEGACY_POLICY)
}

/// Whether a pod runs on this node, in a network of its own.
fn is_local(pod: &Pod, snapshot: &Snapshot) -> bool {
    is_peer(pod) && pod.node.as_ref() == Some(&snapshot.node_name)
}

fn pods_of(pods: &BTreeMap<PodKey, LocalPod>, namespace: &Arc<str>) -> Vec<PodKey> {
    let first = PodKey::new(Arc::clone(namespace), "");
    pods.range(first..).map(|(key, _)| key).take_while(|key| key.namespace == *namespace).cloned().collect()
}
