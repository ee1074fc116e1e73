//! Which pods a selector chooses, without asking each of them (pure): the other side of [`index`](super::index).
//!
//! Pods are filed under their labels and namespaces under theirs. A selector then meets only the pods that have a label
//! it insists on, or that are in a namespace it insists on, so a policy that gets its first pod, or loses its last, costs
//! the pods it is about and not the cluster. One that asks for nothing in particular is about every pod.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use hashbrown::Equivalent;

use super::index::{Candidate, PodChooser, Scope, narrowest};
use super::lookup::Lookup;
use crate::model::{Labels, Pod, PodKey, Selector};

/// A label: its name and its value.
type Label = (Arc<str>, Arc<str>);

/// A [`Label`] to look up.
#[derive(Hash)]
struct LabelRef<'a>(&'a str, &'a str);

impl Equivalent<Label> for LabelRef<'_> {
    fn equivalent(&self, (key, value): &Label) -> bool {
        *self.0 == **key && *self.1 == **value
    }
}

/// The number of a pod, and that of its namespace first: so those of a namespace stand side by side, and keeping numbers
/// in order costs a fraction of keeping names in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PodId {
    namespace: u64,
    pod: u64,
}

/// The pods that selectors can choose.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    ids: Lookup<PodKey, PodId>,
    pods: BTreeMap<PodId, (PodKey, Arc<Pod>)>,
    /// Numbers of namespaces with pods.
    namespace_ids: Lookup<Arc<str>, u64>,
    n_ids_ever: u64,
    by_label: Lookup<Label, BTreeSet<PodId>>,
    /// The labels of namespaces that have any.
    namespaces: Lookup<Arc<str>, Labels>,
    namespaces_by_label: Lookup<Label, BTreeSet<Arc<str>>>,
}

impl Pods {
    /// A pod.
    pub(super) fn get(&self, key: &PodKey) -> Option<&Arc<Pod>> {
        self.pods.get(self.ids.get(key)?).map(|(_, pod)| pod)
    }

    /// A pod came, changed or went; what it was before.
    pub(super) fn set(&mut self, key: &PodKey, newer: Option<Arc<Pod>>) -> Option<Arc<Pod>> {
        let known = self.ids.get(key).copied();
        if known.is_none() && newer.is_none() {
            return None;
        }
        let id = known.unwrap_or_else(|| self.number(key));
        let none = Labels::new();
        let after = newer.as_ref().map_or(&none, |pod| &pod.labels);
        let before = self.pods.get(&id).map_or(&none, |(_, pod)| &pod.labels);
        file(&mut self.by_label, &id, before, after);
        let older = match newer {
            Some(pod) => self.pods.insert(id, (key.clone(), pod)),
            None => {
                self.ids.remove(key);
                let older = self.pods.remove(&id);
                if self.of_namespace(id.namespace).next().is_none() {
                    self.namespace_ids.remove(&key.namespace);
                }
                older
            }
        };
        older.map(|(_, pod)| pod)
    }

    /// Numbers a new pod.
    fn number(&mut self, key: &PodKey) -> PodId {
        self.n_ids_ever += 1;
        let pod = self.n_ids_ever;
        let namespace = self.namespace_ids.get(&key.namespace).copied().unwrap_or_else(|| {
            self.namespace_ids.insert(Arc::clone(&key.namespace), pod);
            pod
        });
        let id = PodId { namespace, pod };
        self.ids.insert(key.clone(), id);
        id
    }

    /// The labels of a namespace changed. One whose object is not known has none.
    pub(super) fn set_namespace(&mut self, name: &Arc<str>, labels: Option<&Labels>) {
        let none = Labels::new();
        let newer = labels.unwrap_or(&none);
        let before = self.namespaces.get(name).unwrap_or(&none);
        file(&mut self.namespaces_by_label, name, before, newer);
        if newer.is_empty() {
            self.namespaces.remove(name);
        } else {
            self.namespaces.insert(Arc::clone(name), newer.clone());
        }
    }

    /// The pods of a namespace.
    pub(super) fn in_namespace(&self, namespace: &Arc<str>) -> impl Iterator<Item = &PodKey> {
        let id = self.namespace_ids.get(namespace);
        id.into_iter().flat_map(|id| self.of_namespace(*id)).map(|(_, (key, _))| key)
    }

    fn of_namespace(&self, namespace: u64) -> impl Iterator<Item = (&PodId, &(PodKey, Arc<Pod>))> {
        self.pods.range(all_of(namespace))
    }

    /// The pods a chooser chooses.
    pub(super) fn chosen_by(&self, chooser: &PodChooser) -> Vec<PodKey> {
        let met = self.met_by(chooser).into_iter().filter_map(|id| self.pods.get(&id));
        met.filter(|(key, pod)| chooser.chooses(self.candidate(key, pod))).map(|(key, _)| key.clone()).collect()
    }

    /// A pod as choosers see it.
    pub(super) fn candidate<'a>(&'a self, key: &'a PodKey, pod: &'a Pod) -> Candidate<'a> {
        static NONE: Labels = Labels::new();
        let namespace_labels = self.namespaces.get(&key.namespace).unwrap_or(&NONE);
        Candidate { namespace: &key.namespace, namespace_labels, labels: &pod.labels }
    }

    /// The pods a chooser has to look at: each once, all that it chooses among them.
    fn met_by(&self, chooser: &PodChooser) -> Vec<PodId> {
        let namespaces = match &chooser.scope {
            Scope::Namespace(name) => Some(BTreeSet::from([name])),
            Scope::Selected(selector) => self.insisted_on(selector),
        };
        let namespaces: Option<Vec<u64>> = namespaces
            .map(|names| names.into_iter().filter_map(|name| self.namespace_ids.get(name).copied()).collect());
        match (narrowest(&chooser.pods), namespaces) {
            // A pod has one value of a label, so it is under one of them.
            (Some((key, values)), namespaces) => {
                let pods = values.iter().filter_map(|value| self.by_label.get(&LabelRef(key, value)));
                match namespaces {
                    Some(namespaces) => {
                        let within = |pods: &'_ BTreeSet<PodId>| {
                            let each = namespaces.iter().flat_map(|namespace| pods.range(all_of(*namespace)));
                            each.copied().collect::<Vec<_>>()
                        };
                        pods.flat_map(within).collect()
                    }
                    None => pods.flatten().copied().collect(),
                }
            }
            (None, Some(namespaces)) => {
                let each = namespaces.into_iter().flat_map(|namespace| self.of_namespace(namespace));
                each.map(|(id, _)| *id).collect()
            }
            (None, None) => self.pods.keys().copied().collect(),
        }
    }

    /// The namespaces with the label a selector insists on; `None` where it insists on none.
    fn insisted_on(&self, selector: &Selector) -> Option<BTreeSet<&Arc<str>>> {
        let (key, values) = narrowest(selector)?;
        let filed = values.iter().filter_map(|value| self.namespaces_by_label.get(&LabelRef(key, value)));
        Some(filed.flatten().collect())
    }
}

/// All numbers of a namespace's pods.
fn all_of(namespace: u64) -> RangeInclusive<PodId> {
    PodId { namespace, pod: 0 }..=PodId { namespace, pod: u64::MAX }
}

/// Files somebody whose labels changed.
fn file<K: Ord + Clone>(places: &mut Lookup<Label, BTreeSet<K>>, who: &K, before: &Labels, after: &Labels) {
    for (key, value) in before.iter().filter(|(key, value)| after.get(*key) != Some(*value)) {
        let label = LabelRef(key, value);
        if let Some(filed) = places.get_mut(&label) {
            filed.remove(who);
            if filed.is_empty() {
                places.remove(&label);
            }
        }
    }
    for (key, value) in after.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
        match places.get_mut(&LabelRef(key, value)) {
            Some(filed) => drop(filed.insert(who.clone())),
            None => places.insert((Arc::clone(key), Arc::clone(value)), BTreeSet::from([who.clone()])),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::index::testing::{chooser, labels, name};
    use super::*;
    use crate::model::{Operator, Requirement};

    fn selector(key: &str, value: &str) -> Selector {
        Selector(vec![Requirement { key: Arc::from(key), operator: Operator::In([Arc::from(value)].into()) }])
    }

    fn pod(labels: Labels) -> Arc<Pod> {
        Arc::new(Pod { labels, ..Pod::default() })
    }

    /// Namespaces `ns-0` …, one in ten of `team=x`, with ten pods each, one of `app=web` and all of `part=of`.
    fn crowd(n_namespaces: usize) -> Pods {
        let mut pods = Pods::default();
        let label = |key: &str, value: &str| (Arc::<str>::from(key), Arc::<str>::from(value));
        for n in 0..n_namespaces {
            let namespace: Arc<str> = Arc::from(format!("ns-{n}"));
            let team = if n.is_multiple_of(n_namespaces / 2) { "x" } else { "y" };
            pods.set_namespace(&namespace, Some(&[label("team", team)].into()));
            for m in 0..10 {
                let app = if m == 0 { "web" } else { "db" };
                let key = PodKey::new(Arc::clone(&namespace), format!("pod-{m}"));
                pods.set(&key, Some(pod([label("app", app), label("part", "of")].into())));
            }
        }
        pods
    }

    #[test]
    fn a_selector_meets_the_pods_it_insists_on_however_many_others_there_are() {
        let (everywhere, own) = (Scope::Selected(Selector::default()), Scope::Namespace(Arc::from("ns-3")));
        let team = Scope::Selected(selector("team", "x"));
        for (scope, pods, met) in [
            (own.clone(), Selector::default(), 10),
            (own.clone(), selector("app", "web"), 1),
            (own, selector("part", "of"), 10),
            (team.clone(), Selector::default(), 20),
            (team.clone(), selector("app", "web"), 2),
            (team, selector("part", "of"), 20),
            (everywhere, selector("app", "nobody"), 0),
        ] {
            let chooser = PodChooser { scope, pods };
            for n_namespaces in [10, 100] {
                assert_eq!(crowd(n_namespaces).met_by(&chooser).len(), met, "{chooser:?} of {n_namespaces}");
            }
        }
    }

    proptest! {
        #[test]
        fn chooses_whom_asking_all_would_choose(
            steps in prop::collection::vec((0..3_u8, 0..3_u8, prop::option::of(labels())), 0..20),
            namespaces in prop::collection::vec((0..3_u8, prop::option::of(labels())), 0..8),
            chooser in chooser(),
        ) {
            let mut pods = Pods::default();
            let mut known: BTreeMap<PodKey, Labels> = BTreeMap::new();
            let mut labelled: BTreeMap<Arc<str>, Labels> = BTreeMap::new();
            for (namespace, number, labels) in steps {
                let key = PodKey::new(name(namespace), name(number));
                let older = pods.set(&key, labels.clone().map(pod));
                prop_assert_eq!(older.map(|pod| pod.labels.clone()), known.get(&key).cloned());
                match labels {
                    Some(labels) => drop(known.insert(key, labels)),
                    None => drop(known.remove(&key)),
                }
            }
            for (namespace, labels) in namespaces {
                pods.set_namespace(&name(namespace), labels.as_ref());
                labelled.insert(name(namespace), labels.unwrap_or_default());
            }
            let none = Labels::new();
            let asked = known.iter().filter(|(key, labels)| {
                let namespace_labels = labelled.get(&key.namespace).unwrap_or(&none);
                chooser.chooses(Candidate { namespace: &key.namespace, namespace_labels, labels })
            });
            let asked: BTreeSet<PodKey> = asked.map(|(key, _)| key.clone()).collect();
            let found = pods.chosen_by(&chooser);
            prop_assert_eq!(found.len(), asked.len(), "each once");
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), asked);
            for key in known.keys() {
                pods.set(key, None);
            }
            for namespace in labelled.keys() {
                pods.set_namespace(namespace, None);
            }
            prop_assert!(pods.by_label.is_empty() && pods.namespaces_by_label.is_empty(), "nothing is left behind");
            prop_assert!(pods.ids.is_empty() && pods.namespace_ids.is_empty() && pods.pods.is_empty(), "nothing is left behind");
        }
    }
}
