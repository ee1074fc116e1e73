//! The service proxy's thinking: 10,000 Services with 5 endpoints each.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark is nobody's interface")]

mod clusters;
mod settings;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ferrovia::kernel::nft::text;
use ferrovia::model::{ServiceKey, SliceKey, Snapshot};
use ferrovia::proxy::book::Book;
use ferrovia::proxy::desired::{ServiceState, build_service};
use ferrovia::proxy::plan::{Removal, plan_virtual_server};
use ferrovia::proxy::render::Picture;
use ferrovia::proxy::{Config, NodeView};
use ferrovia::reconcile::Read;
use ferrovia::testing::builders::key;
use ferrovia::testing::node::{FakeNode, pass};

const N_SERVICES: u32 = 10_000;

fn states(snapshot: &Snapshot) -> Vec<(ServiceKey, Option<ServiceState>)> {
    let (config, view) = (Config::default(), NodeView::new(snapshot, &[], 1500));
    snapshot.services.keys().map(|key| (key.clone(), build_service(key, snapshot, &config, &view))).collect()
}

fn book(snapshot: &Snapshot) -> Book {
    let mut book = Book::default();
    for (key, state) in states(snapshot) {
        book.set(&key, state);
    }
    book
}

fn thinking(criterion: &mut Criterion) {
    let snapshot = clusters::services(N_SERVICES, 5);
    criterion.bench_function("desired: 10,000 services, 50,000 endpoints", |bencher| {
        bencher.iter_with_large_drop(|| states(black_box(&snapshot)));
    });
    let ready = states(&snapshot);
    criterion.bench_function("book: 10,000 services", |bencher| {
        bencher.iter_batched(
            || ready.clone(),
            |ready| {
                let mut book = Book::default();
                for (key, state) in ready {
                    book.set(&key, state);
                }
                book
            },
            BatchSize::LargeInput,
        );
    });
    let picture = Picture::build(&snapshot, &Config::default());
    criterion.bench_function("ruleset text: 10,000 services", |bencher| {
        bencher.iter(|| text::render("ferrovia-proxy", black_box(&picture.ruleset)).len());
    });
    let book = book(&snapshot);
    criterion.bench_function("plan: 10,000 virtual servers from nothing", |bencher| {
        bencher.iter(|| {
            let plan =
                |(key, server): (&_, &Arc<_>)| plan_virtual_server(*key, Some(server), None, |_| Removal::Now).len();
            book.virtual_servers().map(plan).sum::<usize>()
        });
    });
    criterion.bench_function("plan: 10,000 virtual servers that are right", |bencher| {
        bencher.iter(|| {
            let plan = |(key, server): (&_, &Arc<_>)| {
                plan_virtual_server(*key, Some(server), Some(server), |_| Removal::Now).len()
            };
            assert_eq!(book.virtual_servers().map(plan).sum::<usize>(), 0);
        });
    });
}

/// What one changed slice costs, from the difference of the snapshots to what it touched.
fn one_change(criterion: &mut Criterion) {
    let one = clusters::services(N_SERVICES, 5);
    let changed = SliceKey { service: key("shop/s05000"), name: Arc::from("1") };
    let mut other = one.clone();
    other.slices.insert(changed, Arc::new(clusters::slice(77, 4)));
    let (config, view) = (Config::default(), NodeView::new(&one, &[], 1500));
    let mut book = book(&one);
    let mut from = (&one, &other);
    criterion.bench_function("one change among 10,000 services: desired and book", |bencher| {
        bencher.iter(|| {
            from = (from.1, from.0);
            let changes = from.1.changes_since(from.0);
            for key in &changes.services {
                book.set(key, build_service(key, from.1, &config, &view));
            }
            let touched = book.take_touched();
            assert_eq!(touched.virtual_servers.len(), 1);
            touched
        });
    });
}

/// The same through a whole pass over a kernel of fakes.
fn one_pass(criterion: &mut Criterion) {
    let one = clusters::services(2_000, 5);
    let mut other = one.clone();
    let changed = SliceKey { service: key("shop/s01000"), name: Arc::from("1") };
    other.slices.insert(changed, Arc::new(clusters::slice(77, 4)));
    let node = FakeNode::new();
    let mut room = node.room(&Config::default());
    assert!(pass(&mut room, &one, Read::Kernel, 0).failed.is_empty());
    let mut states = (&one, &other);
    criterion.bench_function("one change among 2,000 services: a pass over fakes", |bencher| {
        bencher.iter(|| {
            states = (states.1, states.0);
            pass(&mut room, states.0, Read::Remembered, 1).ops
        });
    });
    criterion.bench_function("no change among 2,000 services: a pass over fakes", |bencher| {
        bencher.iter(|| pass(&mut room, states.0, Read::Remembered, 1).ops);
    });
}

criterion_group! {
    name = benches;
    config = settings::criterion();
    targets = thinking, one_change, one_pass
}
criterion_main!(benches);
