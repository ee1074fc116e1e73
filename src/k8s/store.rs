//! The objects of one kind as they are now, folded from a watch's events.
//!
//! The events are those of `kube::runtime::watcher`, but carry our own values. A new initial list replaces the old
//! content as a whole once it is complete, so what was deleted while the watch was away goes too. What is equal is
//! kept as it is, with its `Arc` and its place in the map, so that comparing snapshots costs what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::sync::Arc;

use imbl::OrdMap;

use super::convert::endpoint_slice::SliceId;
use super::convert::{Converted, Rejection};
use crate::model::{ClusterPolicyName, NamespaceName, NodeName, PodKey, PolicyKey, ServiceKey, SliceKey};

/// A key of a snapshot's map.
pub trait Key: Clone + Ord + Debug {
    /// What tells objects apart. Part of a key may be none of that: a slice may change its owner.
    type Id: Clone + Ord + Debug + Display;

    /// The object this key belongs to.
    fn id(&self) -> Self::Id;

    /// The key, where the identity already is the key.
    fn from_id(id: &Self::Id) -> Option<Self>;
}

/// Keys that are their own identity.
macro_rules! own_identity {
    ($($key:ty),*) => {$(
        impl Key for $key {
            type Id = $key;

            fn id(&self) -> $key {
                self.clone()
            }

            fn from_id(id: &$key) -> Option<$key> {
                Some(id.clone())
            }
        }
    )*};
}

own_identity!(ServiceKey, NodeName, PodKey, NamespaceName, PolicyKey, ClusterPolicyName);

impl Key for SliceKey {
    type Id = SliceId;

    fn id(&self) -> SliceId {
        SliceId { namespace: Arc::clone(&self.service.namespace), name: Arc::clone(&self.name) }
    }

    fn from_id(_: &SliceId) -> Option<SliceKey> {
        None
    }
}

/// What happened to the objects of one kind.
#[derive(Clone, Debug)]
pub enum Event<K: Key, V> {
    /// A new initial list begins.
    Init,
    /// One object of the initial list.
    InitApply(Converted<K::Id, K, V>),
    /// The initial list is complete: what was not in it is gone.
    InitDone,
    /// An object is new or has changed.
    Apply(Converted<K::Id, K, V>),
    /// An object is gone.
    Delete(K::Id),
}

/// What an event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded<I> {
    /// Whether a snapshot would differ.
    pub changed: bool,
    /// Objects whose rejections are not what they were, with the new ones (none: all is well now).
    pub rejections: Vec<(I, Vec<Rejection>)>,
}

impl<I> Default for Folded<I> {
    fn default() -> Self {
        Folded { changed: false, rejections: Vec::new() }
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Store<K: Key, V> {
    current: OrdMap<K, Arc<V>>,
    /// Keys by identity, for kinds whose identity is not the key.
    keys: BTreeMap<K::Id, K>,
    rejections: BTreeMap<K::Id, Vec<Rejection>>,
    incoming: Option<Incoming<K, V>>,
    in_sync: bool,
}

/// An initial list that is not complete yet.
#[derive(Debug)]
struct Incoming<K: Key, V> {
    objects: BTreeMap<K, Arc<V>>,
    keys: BTreeMap<K::Id, K>,
    rejections: BTreeMap<K::Id, Vec<Rejection>>,
}

impl<K: Key, V> Default for Store<K, V> {
    fn default() -> Self {
        Store {
            current: OrdMap::new(),
            keys: BTreeMap::new(),
            rejections: BTreeMap::new(),
            incoming: None,
            in_sync: false,
        }
    }
}

impl<K: Key, V> Default for Incoming<K, V> {
    fn default() -> Self {
        Incoming { objects: BTreeMap::new(), keys: BTreeMap::new(), rejections: BTreeMap::new() }
    }
}

impl<K: Key, V: PartialEq> Store<K, V> {
    /// Whether one initial list has been complete. Stays true: a later list replaces the content at its end.
    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// The content. Cloning it costs nothing.
    pub fn objects(&self) -> &OrdMap<K, Arc<V>> {
        &self.current
    }

    /// Takes one event in.
    pub fn fold(&mut self, event: Event<K, V>) -> Folded<K::Id> {
        match event {
            Event::Init => {
                self.incoming = Some(Incoming::default());
                Folded::default()
            }
            Event::InitApply(object) => {
                self.take_in(object);
                Folded::default()
            }
            Event::InitDone => self.replace(),
            Event::Apply(object) if self.incoming.is_some() => {
                self.take_in(object);
                Folded::default()
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(id) => match self.incoming.as_mut() {
                Some(incoming) => {
                    incoming.forget(&id);
                    Folded::default()
                }
                None => self.delete(&id),
            },
        }
    }

    /// One object of an incoming list; what is equal to what we hold is shared with it.
    fn take_in(&mut self, object: Converted<K::Id, K, V>) {
        let incoming = self.incoming.get_or_insert_default();
        incoming.forget(&object.id);
        if let Some((key, value)) = object.value {
            let value = match self.current.get(&key) {
                Some(held) if **held == value => Arc::clone(held),
                _ => Arc::new(value),
            };
            if K::from_id(&object.id).is_none() {
                incoming.keys.insert(object.id.clone(), key.clone());
            }
            incoming.objects.insert(key, value);
        }
        if !object.rejections.is_empty() {
            incoming.rejections.insert(object.id, object.rejections);
        }
    }

    /// The end of an initial list.
    fn replace(&mut self) -> Folded<K::Id> {
        let incoming = self.incoming.take().unwrap_or_default();
        let mut changed = !self.in_sync;
        self.in_sync = true;
        let gone: Vec<K> = self.current.keys().filter(|key| !incoming.objects.contains_key(key)).cloned().collect();
        for key in &gone {
            self.current.remove(key);
            changed = true;
        }
        for (key, value) in incoming.objects {
            if !self.current.get(&key).is_some_and(|held| Arc::ptr_eq(held, &value)) {
                self.current.insert(key, value);
                changed = true;
            }
        }
        self.keys = incoming.keys;
        let touched: BTreeSet<&K::Id> = self.rejections.keys().chain(incoming.rejections.keys()).collect();
        let rejections = touched
            .into_iter()
            .filter(|id| self.rejections.get(id) != incoming.rejections.get(id))
            .map(|id| (id.clone(), incoming.rejections.get(id).cloned().unwrap_or_default()))
            .collect();
        self.rejections = incoming.rejections;
        Folded { changed, rejections }
    }

    fn apply(&mut self, object: Converted<K::Id, K, V>) -> Folded<K::Id> {
        let Some((key, value)) = object.value else {
            let changed = self.remove(&object.id);
            return Folded { changed, rejections: self.set_rejections(object.id, object.rejections) };
        };
        let mut changed = false;
        if K::from_id(&object.id).is_none() {
            let before = self.keys.insert(object.id.clone(), key.clone());
            if let Some(before) = before.filter(|before| *before != key) {
                changed = self.current.remove(&before).is_some();
            }
        }
        if !self.current.get(&key).is_some_and(|held| **held == value) {
            self.current.insert(key, Arc::new(value));
            changed = true;
        }
        Folded { changed, rejections: self.set_rejections(object.id, object.rejections) }
    }

    fn delete(&mut self, id: &K::Id) -> Folded<K::Id> {
        let changed = self.remove(id);
        Folded { changed, rejections: self.set_rejections(id.clone(), Vec::new()) }
    }

    fn remove(&mut self, id: &K::Id) -> bool {
        let key = K::from_id(id).or_else(|| self.keys.remove(id));
        key.is_some_and(|key| self.current.remove(&key).is_some())
    }

    /// The rejections as a change, where they are not what they were.
    fn set_rejections(&mut self, id: K::Id, rejections: Vec<Rejection>) -> Vec<(K::Id, Vec<Rejection>)> {
        let before = self.rejections.get(&id).map(Vec::as_slice).unwrap_or_default();
        if before == rejections {
            return Vec::new();
        }
        if rejections.is_empty() {
            self.rejections.remove(&id);
        } else {
            self.rejections.insert(id.clone(), rejections.clone());
        }
        vec![(id, rejections)]
    }
}

impl<K: Key, V> Incoming<K, V> {
    fn forget(&mut self, id: &K::Id) {
        if let Some(key) = K::from_id(id).or_else(|| self.keys.remove(id)) {
            self.objects.remove(&key);
        }
        self.rejections.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Numbers = Store<SliceKey, u32>;

    fn slice(owner: &str, name: &str, value: u32) -> Converted<SliceId, SliceKey, u32> {
        let key = SliceKey { service: ServiceKey::new("ns", owner), name: Arc::from(name) };
        Converted { id: key.id(), value: Some((key, value)), rejections: Vec::new() }
    }

    fn nothing(name: &str) -> Converted<SliceId, SliceKey, u32> {
        Converted { value: None, ..slice("gone", name, 0) }
    }

    fn rejected(object: Converted<SliceId, SliceKey, u32>, message: &str) -> Converted<SliceId, SliceKey, u32> {
        let rejection = Rejection {
            field: "spec".to_owned(),
            value: String::new(),
            message: message.to_owned(),
            reason: "InvalidValue",
        };
        Converted { rejections: vec![rejection], ..object }
    }

    fn content(store: &Numbers) -> Vec<(String, u32)> {
        store.objects().iter().map(|(key, value)| (format!("{}:{}", key.service.name, key.name), **value)).collect()
    }

    fn filled(objects: &[(&str, &str, u32)]) -> Numbers {
        let mut store = Numbers::default();
        store.fold(Event::Init);
        for (owner, name, value) in objects {
            store.fold(Event::InitApply(slice(owner, name, *value)));
        }
        assert!(!store.in_sync());
        assert!(store.fold(Event::InitDone).changed);
        assert!(store.in_sync());
        store
    }

    #[test]
    fn a_second_list_removes_what_is_gone_and_keeps_what_is_equal() {
        let mut store = filled(&[("a", "a-1", 1), ("b", "b-1", 2), ("c", "c-1", 3)]);
        let before = store.objects().clone();
        store.fold(Event::Init);
        store.fold(Event::InitApply(slice("a", "a-1", 1)));
        store.fold(Event::InitApply(slice("c", "c-1", 4)));
        assert_eq!(content(&store).len(), 3, "nothing moves before the list is complete");
        assert!(store.fold(Event::InitDone).changed);
        assert_eq!(content(&store), [("a:a-1".to_owned(), 1), ("c:c-1".to_owned(), 4)]);
        let (key, kept) = before.iter().next().unwrap();
        assert!(Arc::ptr_eq(kept, store.objects().get(key).unwrap()));
    }

    #[test]
    fn an_equal_list_changes_nothing() {
        let mut store = filled(&[("a", "a-1", 1)]);
        store.fold(Event::Init);
        store.fold(Event::InitApply(slice("a", "a-1", 1)));
        assert!(!store.fold(Event::InitDone).changed);
        assert!(!store.fold(Event::Apply(slice("a", "a-1", 1))).changed);
        assert!(!store.fold(Event::Delete(slice("x", "x-1", 1).id)).changed);
    }

    #[test]
    fn a_broken_off_list_leaves_no_trace() {
        let mut store = filled(&[("a", "a-1", 1)]);
        store.fold(Event::Init);
        store.fold(Event::InitApply(slice("half", "half-1", 9)));
        store.fold(Event::Init);
        store.fold(Event::InitApply(slice("a", "a-1", 1)));
        assert!(!store.fold(Event::InitDone).changed);
        assert_eq!(content(&store), [("a:a-1".to_owned(), 1)]);
    }

    #[test]
    fn an_object_that_moves_leaves_its_old_place() {
        let mut store = filled(&[("a", "s", 1)]);
        assert!(store.fold(Event::Apply(slice("b", "s", 1))).changed);
        assert_eq!(content(&store), [("b:s".to_owned(), 1)]);
        assert!(store.fold(Event::Apply(nothing("s"))).changed);
        assert!(content(&store).is_empty());
        store.fold(Event::Apply(slice("c", "s", 2)));
        assert!(store.fold(Event::Delete(slice("", "s", 0).id)).changed);
        assert!(content(&store).is_empty());
        store.fold(Event::Init);
        store.fold(Event::InitApply(slice("a", "s", 1)));
        store.fold(Event::InitApply(slice("b", "s", 2)));
        store.fold(Event::InitDone);
        assert_eq!(content(&store), [("b:s".to_owned(), 2)]);
    }

    #[test]
    fn rejections_are_told_once_and_their_end_too() {
        let mut store = filled(&[]);
        let told = store.fold(Event::Apply(rejected(slice("a", "s", 1), "bad"))).rejections;
        assert_eq!(told.len(), 1);
        assert!(store.fold(Event::Apply(rejected(slice("a", "s", 2), "bad"))).rejections.is_empty());
        store.fold(Event::Init);
        store.fold(Event::InitApply(rejected(slice("a", "s", 2), "bad")));
        assert!(store.fold(Event::InitDone).rejections.is_empty());
        assert_eq!(store.fold(Event::Apply(rejected(slice("a", "s", 2), "worse"))).rejections.len(), 1);
        let told = store.fold(Event::Apply(slice("a", "s", 2))).rejections;
        assert_eq!(told.len(), 1);
        assert!(told[0].1.is_empty());
        store.fold(Event::Apply(rejected(slice("a", "s", 2), "bad")));
        store.fold(Event::Init);
        let told = store.fold(Event::InitDone).rejections;
        assert!(told.len() == 1 && told[0].1.is_empty(), "an object that is gone has no rejections");
    }

    /// What a watch may send about a few slices of a few owners.
    fn any_event() -> impl Strategy<Value = Event<SliceKey, u32>> {
        let object = (0..3_u8, 0..3_u8, 0..3_u32, 0..8_u8).prop_map(|(owner, name, value, kind)| {
            let object = slice(&owner.to_string(), &name.to_string(), value);
            match kind {
                0 => Converted { value: None, ..object },
                1 => rejected(object, "bad"),
                _ => object,
            }
        });
        prop_oneof![
            1 => Just(Event::Init),
            1 => Just(Event::InitDone),
            3 => object.clone().prop_map(Event::InitApply),
            3 => object.clone().prop_map(Event::Apply),
            2 => object.prop_map(|object| Event::Delete(object.id)),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: the content is that of a naive map from object to last value, replaced
        /// at the end of each list; `changed` is true exactly when a snapshot differs; told rejections add up.
        #[test]
        fn any_order_of_events_ends_as_a_naive_map_does(events in prop::collection::vec(any_event(), 0..60)) {
            type Naive = BTreeMap<SliceId, Converted<SliceId, SliceKey, u32>>;
            let mut store = Numbers::default();
            let (mut naive, mut listing): (Naive, Option<Naive>) = (Naive::new(), None);
            let mut told: BTreeMap<SliceId, Vec<Rejection>> = BTreeMap::new();
            for event in events {
                match event.clone() {
                    Event::Init => listing = Some(Naive::new()),
                    Event::InitApply(object) => {
                        listing.get_or_insert_default().insert(object.id.clone(), object);
                    }
                    Event::InitDone => naive = listing.take().unwrap_or_default(),
                    Event::Apply(object) => {
                        listing.as_mut().unwrap_or(&mut naive).insert(object.id.clone(), object);
                    }
                    Event::Delete(id) => {
                        listing.as_mut().unwrap_or(&mut naive).remove(&id);
                    }
                }
                let (before, was_in_sync) = (store.objects().clone(), store.in_sync());
                let folded = store.fold(event);
                prop_assert_eq!(folded.changed, before != *store.objects() || was_in_sync != store.in_sync());
                for (id, rejections) in folded.rejections {
                    if rejections.is_empty() {
                        told.remove(&id);
                    } else {
                        told.insert(id, rejections);
                    }
                }
                let expected: BTreeMap<SliceKey, u32> = naive.values().filter_map(|object| object.value.clone()).collect();
                let held: BTreeMap<SliceKey, u32> = store.objects().iter().map(|(key, value)| (key.clone(), **value)).collect();
                prop_assert_eq!(held, expected);
                let complained: BTreeMap<SliceId, Vec<Rejection>> = naive
                    .values()
                    .filter(|object| !object.rejections.is_empty())
                    .map(|object| (object.id.clone(), object.rejections.clone()))
                    .collect();
                prop_assert_eq!(&told, &complained);
            }
        }
    }
}
