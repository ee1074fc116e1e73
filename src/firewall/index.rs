//! Which of many selectors choose a pod, without asking each of them (pure).
//!
//! A selector is filed under something every pod it chooses must have: a label with one of a few values, its namespace,
//! or a label of its namespace. A pod then meets only the selectors that are filed under what it has. So the cost of
//! one pod's change does not grow with the number of policies, but for those that ask for nothing in particular.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::Equivalent;

use super::lookup::Lookup;
use crate::model::{Labels, Operator, Requirement, Selector};

/// In which namespaces pods are chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Scope {
    /// In this one.
    Namespace(Arc<str>),
    /// In those with such labels.
    Selected(Selector),
}

/// Chooses pods of the cluster. Equal values choose the same pods, so whoever asks for them can share the answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct PodChooser {
    /// In these namespaces.
    pub scope: Scope,
    /// Those with such labels.
    pub pods: Selector,
}

/// What a chooser looks at in a pod.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its namespace.
    pub namespace: &'a Arc<str>,
    /// The labels of its namespace.
    pub namespace_labels: &'a Labels,
    /// Its labels.
    pub labels: &'a Labels,
}

impl PodChooser {
    /// Whether it chooses the pod.
    pub fn chooses(&self, pod: Candidate<'_>) -> bool {
        let in_scope = match &self.scope {
            Scope::Namespace(name) => name == pod.namespace,
            Scope::Selected(selector) => selector.matches(pod.namespace_labels),
        };
        in_scope && self.pods.matches(pod.labels)
    }

    /// Whether it asks for nothing but what its place says, so that every pod found there is chosen.
    fn is_its_place(&self) -> bool {
        match &self.scope {
            Scope::Namespace(_) => self.pods.is_everything() || is_one_label(&self.pods),
            Scope::Selected(namespaces) if self.pods.is_everything() => {
                namespaces.is_everything() || is_one_label(namespaces)
            }
            Scope::Selected(namespaces) => namespaces.is_everything() && is_one_label(&self.pods),
        }
    }

    /// The places it is filed under: every pod it chooses is found under at least one.
    fn places(&self) -> Vec<Place> {
        let namespace = match &self.scope {
            Scope::Namespace(name) => Some(Arc::clone(name)),
            Scope::Selected(_) => None,
        };
        if let Some((key, values)) = narrowest(&self.pods) {
            let place = |value: &Arc<str>| Place::Label(namespace.clone(), Arc::clone(key), Arc::clone(value));
            return values.iter().map(place).collect();
        }
        match &self.scope {
            Scope::Namespace(name) => vec![Place::Namespace(Arc::clone(name))],
            Scope::Selected(selector) => match narrowest(selector) {
                Some((key, values)) => {
                    values.iter().map(|value| Place::NamespaceLabel(Arc::clone(key), Arc::clone(value))).collect()
                }
                None => vec![Place::Anywhere],
            },
        }
    }
}

/// Whether a selector asks for nothing but one label with one of some values.
fn is_one_label(selector: &Selector) -> bool {
    matches!(selector.0.as_slice(), [Requirement { operator: Operator::In(_), .. }])
}

/// The label a selector insists on, with the fewest values.
pub(super) fn narrowest(selector: &Selector) -> Option<(&Arc<str>, &BTreeSet<Arc<str>>)> {
    let insists = selector.0.iter().filter_map(|requirement| match &requirement.operator {
        Operator::In(values) => Some((&requirement.key, values)),
        _ => None,
    });
    insists.min_by_key(|(_, values)| values.len())
}

/// Where a chooser is filed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// A label of the pod, in this namespace or in any.
    Label(Option<Arc<str>>, Arc<str>, Arc<str>),
    /// Every pod of a namespace.
    Namespace(Arc<str>),
    /// A label of the pod's namespace.
    NamespaceLabel(Arc<str>, Arc<str>),
    /// Every pod.
    Anywhere,
}

/// A [`Place`] to look up.
#[derive(Clone, Copy, Debug, Hash)]
enum PlaceRef<'a> {
    Label(Option<&'a str>, &'a str, &'a str),
    Namespace(&'a str),
    NamespaceLabel(&'a str, &'a str),
    Anywhere,
}

/// The variants stand in the same order and a borrowed text has the hash of an owned one.
impl Equivalent<Place> for PlaceRef<'_> {
    fn equivalent(&self, place: &Place) -> bool {
        match (self, place) {
            (PlaceRef::Label(namespace, key, value), Place::Label(its_namespace, its_key, its_value)) => {
                *namespace == its_namespace.as_deref() && **key == **its_key && **value == **its_value
            }
            (PlaceRef::Namespace(name), Place::Namespace(its_name)) => **name == **its_name,
            (PlaceRef::NamespaceLabel(key, value), Place::NamespaceLabel(its_key, its_value)) => {
                **key == **its_key && **value == **its_value
            }
            (PlaceRef::Anywhere, Place::Anywhere) => true,
            _ => false,
        }
    }
}

/// Choosers, each with the key of whoever wants to know.
#[derive(Clone, Debug)]
pub struct Index<K> {
    choosers: BTreeMap<K, PodChooser>,
    /// Who is filed where, and whether that is all they ask.
    places: Lookup<Place, BTreeMap<K, bool>>,
}

impl<K> Default for Index<K> {
    fn default() -> Index<K> {
        Index { choosers: BTreeMap::new(), places: Lookup::default() }
    }
}

impl<K: Clone + Ord> Index<K> {
    /// Files a chooser, in place of the one this key had.
    pub fn insert(&mut self, key: K, chooser: PodChooser) {
        self.remove(&key);
        for place in chooser.places() {
            self.places.get_or_default(place).insert(key.clone(), chooser.is_its_place());
        }
        self.choosers.insert(key, chooser);
    }

    /// Takes one out.
    pub fn remove(&mut self, key: &K) {
        let Some(chooser) = self.choosers.remove(key) else { return };
        for place in chooser.places() {
            if let Some(keys) = self.places.get_mut(&place) {
                keys.remove(key);
                if keys.is_empty() {
                    self.places.remove(&place);
                }
            }
        }
    }

    /// What this key is filed with.
    pub fn get(&self, key: &K) -> Option<&PodChooser> {
        self.choosers.get(key)
    }

    /// The keys whose choosers choose this pod, in order, each once: it has one value of a label, so it meets a chooser in
    /// one place.
    pub fn choosing(&self, pod: Candidate<'_>) -> Vec<K> {
        let by_label = pod
            .labels
            .iter()
            .flat_map(|(key, value)| [Some(&**pod.namespace), None].map(|scope| PlaceRef::Label(scope, key, value)));
        let by_namespace_label = pod.namespace_labels.iter().map(|(key, value)| PlaceRef::NamespaceLabel(key, value));
        let mut keys: Vec<K> = by_label
            .chain(by_namespace_label)
            .chain([PlaceRef::Namespace(pod.namespace), PlaceRef::Anywhere])
            .filter_map(|place| self.places.get(&place))
            .flatten()
            .filter(|(key, is_all)| **is_all || self.choosers.get(key).is_some_and(|chooser| chooser.chooses(pod)))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort_unstable();
        keys
    }
}

/// Choosers and labels for properties: of three names and values each, so that many meet.
#[cfg(test)]
pub(super) mod testing {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Requirement;

    pub(in super::super) fn name(number: u8) -> Arc<str> {
        Arc::from(format!("{}", char::from(b'a' + number)))
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let values = prop::collection::btree_set((0..3_u8).prop_map(name), 1..3);
        let operator = prop_oneof![
            3 => values.clone().prop_map(Operator::In),
            1 => values.prop_map(Operator::NotIn),
            1 => Just(Operator::Exists),
            1 => Just(Operator::DoesNotExist),
            1 => Just(Operator::Never),
        ];
        let requirement = (0..3_u8, operator).prop_map(|(key, operator)| Requirement { key: name(key), operator });
        prop::collection::vec(requirement, 0..3).prop_map(Selector)
    }

    pub(in super::super) fn chooser() -> impl Strategy<Value = PodChooser> {
        let scope =
            prop_oneof![(0..3_u8).prop_map(|n| Scope::Namespace(name(n))), selector().prop_map(Scope::Selected)];
        (scope, selector()).prop_map(|(scope, pods)| PodChooser { scope, pods })
    }

    pub(in super::super) fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map((0..3_u8).prop_map(name), (0..3_u8).prop_map(name), 0..3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{chooser, labels, name};
    use super::*;

    proptest! {
        #[test]
        fn finds_exactly_whom_asking_all_would_find(
            choosers in prop::collection::vec(chooser(), 0..12),
            removed in prop::collection::btree_set(0..12_usize, 0..4),
            namespace in (0..3_u8).prop_map(name),
            namespace_labels in labels(),
            labels in labels(),
        ) {
            let mut index = Index::default();
            for (key, chooser) in choosers.iter().enumerate() {
                index.insert(key % 8, chooser.clone());
            }
            for key in &removed {
                index.remove(key);
            }
            let pod = Candidate { namespace: &namespace, namespace_labels: &namespace_labels, labels: &labels };
            let mut last: BTreeMap<usize, &PodChooser> = BTreeMap::new();
            last.extend(choosers.iter().enumerate().map(|(key, chooser)| (key % 8, chooser)));
            let asked: BTreeSet<usize> =
                last.iter().filter(|(key, chooser)| !removed.contains(key) && chooser.chooses(pod)).map(|(key, _)| *key).collect();
            prop_assert_eq!(index.choosing(pod), asked.into_iter().collect::<Vec<_>>());
            for key in 0..8 {
                index.remove(&key);
            }
            prop_assert!(index.places.is_empty(), "nothing is left behind");
        }
    }
}
