//! The tiers before and after NetworkPolicy: which cluster policies say something about which pods here (pure).
//!
//! ```text
//! a packet ─▶ Admin tier ──(nobody decides, or Pass)──▶ NetworkPolicies of the pod, if any: they decide
//!                │ Accept, Deny                              │ none
//!                ▼                                           ▼
//!             decided                                    Baseline tier ──(nobody decides, or Pass)──▶ accepted
//! ```
//!
//! Each direction is asked on its own. Within a tier the lowest priority number is asked first, and of equal ones the
//! policy whose name sorts first: the API leaves that open, every node must answer the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::index::{Index, PodChooser, Scope};
use super::members::{Members, SetKey, candidate, labels_of};
use super::resolve::{Allow, Direction, Subject, resolve_rules, sets_of};
use crate::model::{Action, ClusterNetworkPolicy, ClusterPolicyName, ClusterRule, PodKey, PolicyRule, Snapshot, Tier};

/// A policy's place in its tier: lower is asked first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Its priority.
    pub priority: u16,
    /// Its name, which decides between equal priorities.
    pub name: ClusterPolicyName,
}

/// What is done with packets of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// What is done.
    pub action: Action,
    /// With which packets.
    pub packets: Allow,
    /// The name of the rule it comes from; empty where it has none.
    pub rule_name: Arc<str>,
}

/// A cluster policy, ready to be written as rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its tier.
    pub tier: Tier,
    /// Its place there.
    pub rank: Rank,
    /// What it says about packets to its pods, in order.
    pub ingress: Vec<Saying>,
    /// What it says about packets from them.
    pub egress: Vec<Saying>,
}

impl Resolved {
    fn new(name: &ClusterPolicyName, policy: &ClusterNetworkPolicy) -> Resolved {
        let of = |rules: &[ClusterRule], direction: Direction| {
            // Namespaces of their own have only NetworkPolicies.
            let subject = Subject { namespace: Arc::from(""), pods: subject(policy) };
            let plain = rules.iter().map(|rule| PolicyRule { peers: rule.peers.clone(), ports: rule.ports.clone() });
            let plain: Vec<PolicyRule> = plain.collect();
            let packets = resolve_rules(&subject, &plain, direction).into_iter();
            let saying = packets.filter_map(|packets| {
                let rule = rules.get(packets.rule)?;
                Some(Saying { action: rule.action, packets, rule_name: Arc::clone(&rule.name) })
            });
            saying.collect()
        };
        Resolved {
            tier: policy.tier,
            rank: Rank { priority: policy.priority, name: name.clone() },
            ingress: of(&policy.ingress, Direction::Ingress),
            egress: of(&policy.egress, Direction::Egress),
        }
    }

    /// The sets it looks things up in, each once.
    pub fn sets(&self) -> BTreeSet<&SetKey> {
        sets_of(self.ingress.iter().chain(&self.egress).map(|saying| &saying.packets))
    }

    /// What it says about one direction.
    pub fn of(&self, direction: Direction) -> &[Saying] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The pods a cluster policy is about.
fn subject(policy: &ClusterNetworkPolicy) -> PodChooser {
    PodChooser { scope: Scope::Selected(policy.namespaces.clone()), pods: policy.pods.clone() }
}

/// The cluster policies that say something about one direction of a pod, in the order they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Under {
    /// Before its NetworkPolicies.
    pub admin: BTreeSet<Rank>,
    /// Where it has none.
    pub baseline: BTreeSet<Rank>,
}

impl Under {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.baseline.is_empty()
    }
}

/// Both directions of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Both {
    /// The policies that are about it.
    chosen_by: BTreeSet<ClusterPolicyName>,
    ingress: Under,
    egress: Under,
}

#[derive(Clone, Debug)]
struct Entry {
    resolved: Arc<Resolved>,
    /// The pods of this node it is about; while there are any, its sets are in use.
    pods: BTreeSet<PodKey>,
}

/// All cluster policies, and what they mean for the pods of this node.
#[derive(Clone, Debug, Default)]
pub struct Tiers {
    policies: BTreeMap<ClusterPolicyName, Entry>,
    targets: Index<ClusterPolicyName>,
    /// Pods of this node that any policy is about.
    pods: BTreeMap<PodKey, Both>,
    /// Policies, and pods that are under others, since this was last asked.
    touched: (BTreeSet<ClusterPolicyName>, BTreeSet<PodKey>),
}

impl Tiers {
    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// A policy.
    pub fn policy(&self, name: &ClusterPolicyName) -> Option<&Resolved> {
        self.policies.get(name).map(|entry| entry.resolved.as_ref())
    }

    /// The pods of this node a policy is about.
    pub fn pods_under(&self, name: &ClusterPolicyName) -> impl Iterator<Item = &PodKey> {
        self.policies.get(name).into_iter().flat_map(|entry| &entry.pods)
    }

    /// The policies that say something about one direction of a pod.
    pub fn under(&self, pod: &PodKey, direction: Direction) -> Option<&Under> {
        let both = self.pods.get(pod)?;
        Some(match direction {
            Direction::Ingress => &both.ingress,
            Direction::Egress => &both.egress,
        })
    }

    /// Policies that came, went or changed, and pods that are under others than before, since this was last asked.
    pub fn take_touched(&mut self) -> (BTreeSet<ClusterPolicyName>, BTreeSet<PodKey>) {
        std::mem::take(&mut self.touched)
    }

    /// A policy came, changed or went. `local`: the pods of this node.
    pub fn set_policy<'a>(
        &mut self,
        name: &ClusterPolicyName,
        local: impl Iterator<Item = &'a PodKey>,
        members: &mut Members,
        snapshot: &Snapshot,
    ) {
        let older = self.policies.remove(name);
        self.targets.remove(name);
        self.touched.0.insert(name.clone());
        for pod in older.iter().flat_map(|entry| &entry.pods) {
            self.place(pod, name, older.as_ref().map(|entry| entry.resolved.as_ref()), false);
        }
        if let Some(policy) = snapshot.cluster_policies.get(name) {
            let chooser = subject(policy);
            let chosen = local.filter(|pod| {
                let found = snapshot.pods.get(*pod);
                found.is_some_and(|found| chooser.chooses(candidate(pod, found, labels_of(snapshot, &pod.namespace))))
            });
            let resolved = Arc::new(Resolved::new(name, policy));
            let entry = Entry { resolved, pods: chosen.cloned().collect() };
            for pod in &entry.pods {
                self.place(pod, name, Some(&entry.resolved), true);
            }
            swap_sets(None, Some(&entry), members);
            self.targets.insert(name.clone(), chooser);
            self.policies.insert(name.clone(), entry);
        }
        // What both use stays: the newer ones were taken into use before.
        swap_sets(older.as_ref(), None, members);
    }

    /// A pod came, changed or went, or the labels of its namespace changed. `is_local`: it runs here, in a network of its
    /// own.
    pub fn set_pod(&mut self, key: &PodKey, is_local: bool, members: &mut Members, snapshot: &Snapshot) {
        let found = is_local.then(|| snapshot.pods.get(key)).flatten();
        let chosen: BTreeSet<ClusterPolicyName> = match found {
            Some(pod) => {
                let chosen = self.targets.choosing(candidate(key, pod, labels_of(snapshot, &key.namespace)));
                chosen.into_iter().collect()
            }
            None => BTreeSet::new(),
        };
        let was = self.pods.get(key).map(|both| both.chosen_by.clone()).unwrap_or_default();
        for name in was.union(&chosen) {
            let Some(entry) = self.policies.get_mut(name) else { continue };
            let was_idle = entry.pods.is_empty();
            let is_chosen = chosen.contains(name);
            if is_chosen {
                entry.pods.insert(key.clone());
            } else {
                entry.pods.remove(key);
            }
            let resolved = Arc::clone(&entry.resolved);
            if was_idle != entry.pods.is_empty() {
                for set in resolved.sets() {
                    if was_idle {
                        members.retain(set);
                    } else {
                        members.release(set);
                    }
                }
            }
            self.place(key, name, Some(&resolved), is_chosen);
        }
    }

    /// Writes down whether a policy says something about a pod.
    fn place(&mut self, pod: &PodKey, name: &ClusterPolicyName, policy: Option<&Resolved>, is_chosen: bool) {
        let Some(policy) = policy else { return };
        let rank = Rank { priority: policy.rank.priority, name: name.clone() };
        let both = self.pods.entry(pod.clone()).or_default();
        for (under, sayings) in [(&mut both.ingress, &policy.ingress), (&mut both.egress, &policy.egress)] {
            let ranks = match policy.tier {
                Tier::Admin => &mut under.admin,
                Tier::Baseline => &mut under.baseline,
            };
            let changed =
                if is_chosen && !sayings.is_empty() { ranks.insert(rank.clone()) } else { ranks.remove(&rank) };
            if changed {
                self.touched.1.insert(pod.clone());
            }
        }
        if is_chosen {
            both.chosen_by.insert(name.clone());
        } else {
            both.chosen_by.remove(name);
        }
        if both.chosen_by.is_empty() {
            self.pods.remove(pod);
        }
    }
}

/// Takes the sets of the newer entry into use, and lets those of the older one go.
fn swap_sets(older: Option<&Entry>, newer: Option<&Entry>, members: &mut Members) {
    let in_use = |entry: Option<&Entry>| -> Vec<SetKey> {
        let entry = entry.filter(|entry| !entry.pods.is_empty());
        entry.map(|entry| entry.resolved.sets().into_iter().cloned().collect()).unwrap_or_default()
    };
    for set in in_use(newer) {
        members.retain(&set);
    }
    for set in in_use(older) {
        members.release(&set);
    }
}
