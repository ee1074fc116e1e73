//! The book: what Services ask for together, whatever way it got there.

use std::collections::BTreeSet;

use ferrovia::model::Snapshot;
use ferrovia::proxy::NodeView;
use ferrovia::proxy::book::Book;
use ferrovia::proxy::desired::build_service;
use proptest::prelude::*;

use crate::generate::{config, snapshot, states};

fn fill(book: &mut Book, snapshot: &Snapshot) {
    let view = NodeView::new(snapshot, &[], 1500);
    for key in snapshot.services.keys() {
        book.set(key, build_service(key, snapshot, &config(), &view));
    }
}

/// Everything a book says.
fn picture(book: &Book) -> String {
    let servers: Vec<_> = book.virtual_servers().map(|(key, server)| (key, server, book.owner(key))).collect();
    let bound: Vec<_> = book.bound().collect();
    let elements: Vec<_> = book.elements().collect();
    let sources: Vec<_> = book.sources().collect();
    let checks = book.health_checks();
    let notices: BTreeSet<_> = book.notices().into_iter().collect();
    format!("{servers:#?}\n{bound:?}\n{elements:?}\n{sources:?}\n{checks:?}\n{notices:#?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A book changed key by key through any sequence of clusters equals one filled from the last cluster alone.
    #[test]
    fn changed_step_by_step_equals_built_from_scratch(states in states()) {
        let mut stepped = Book::default();
        let mut last: Option<Snapshot> = None;
        for state in &states {
            let now = snapshot(state);
            let view = NodeView::new(&now, &[], 1500);
            let keys: BTreeSet<_> = match &last {
                Some(last) => now.changes_since(last).services,
                None => now.services.keys().cloned().collect(),
            };
            for key in keys {
                stepped.set(&key, build_service(&key, &now, &config(), &view));
            }
            let mut fresh = Book::default();
            fill(&mut fresh, &now);
            prop_assert_eq!(picture(&stepped), picture(&fresh));
            last = Some(now);
        }
    }

    /// What `take_touched` tells, applied to the picture before, gives the picture after.
    #[test]
    fn touched_names_every_change(states in states()) {
        let mut book = Book::default();
        let mut bound = BTreeSet::new();
        let mut elements = BTreeSet::new();
        let mut servers = std::collections::BTreeMap::new();
        let mut last: Option<Snapshot> = None;
        for state in &states {
            let now = snapshot(state);
            let view = NodeView::new(&now, &[], 1500);
            let keys = match &last {
                Some(last) => now.changes_since(last).services,
                None => now.services.keys().cloned().collect(),
            };
            for key in keys {
                book.set(&key, build_service(&key, &now, &config(), &view));
            }
            let touched = book.take_touched();
            bound.extend(touched.bound);
            touched.unbound.iter().for_each(|vip| { bound.remove(vip); });
            elements.extend(touched.added);
            touched.removed.iter().for_each(|element| { elements.remove(element); });
            for key in touched.virtual_servers {
                match book.virtual_server(&key) {
                    Some(server) => servers.insert(key, server.clone()),
                    None => servers.remove(&key),
                };
            }
            prop_assert_eq!(&bound, &book.bound().copied().collect());
            prop_assert_eq!(&elements, &book.elements().copied().collect());
            prop_assert_eq!(&servers, &book.virtual_servers().map(|(key, server)| (*key, server.clone())).collect());
            last = Some(now);
        }
    }
}
