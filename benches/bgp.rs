//! The speaker's mind between two sockets: bytes in, decision, bytes out.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark is nobody's interface"
)]

mod routes;
mod settings;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ferrovia::net::Family;
use ferrovia::routing::bgp::types::{Negotiated, PeerKind};
use ferrovia::routing::bgp::wire;
use routes::{Kind, Place};

const TABLES: [(&str, Kind, usize); 4] = [
    ("10k shared", Kind::Shared, 10_000),
    ("10k unique", Kind::Unique, 10_000),
    ("100k shared", Kind::Shared, 100_000),
    ("100k unique", Kind::Unique, 100_000),
];

fn tables(criterion: &mut Criterion) {
    for (name, kind, n) in TABLES {
        let nlri = routes::prefixes(0, n);
        let (announced, withdrawn) = (routes::announcements(kind, &nlri), routes::withdrawals(&nlri));
        let full = || {
            let mut place = Place::pair();
            place.read(0, &announced);
            place.drain();
            place
        };
        criterion.bench_function(&format!("bgp decode: {name}"), |bencher| {
            let session = routes::session(1, PeerKind::External);
            bencher.iter(|| {
                let mut rest = announced.as_slice();
                while let Some(length) = wire::frame(rest, wire::MAX).unwrap() {
                    black_box(wire::decode(&rest[..length], Some(&session)).unwrap());
                    rest = &rest[length..];
                }
            });
        });
        criterion.bench_function(&format!("bgp converge: {name}"), |bencher| {
            let run = |mut place: Place| {
                place.read(0, &announced);
                assert!(place.drain() > n * 4);
                place
            };
            bencher.iter_batched(Place::pair, run, BatchSize::PerIteration);
        });
        criterion.bench_function(&format!("bgp dump to a new peer: {name}"), |bencher| {
            let run = |mut place: Place| {
                place.join(routes::session(3, PeerKind::External));
                assert!(place.drain() > n * 4);
                place
            };
            bencher.iter_batched(full, run, BatchSize::PerIteration);
        });
        criterion.bench_function(&format!("bgp withdraw: {name}"), |bencher| {
            let run = |mut place: Place| {
                place.read(0, &withdrawn);
                assert!(place.drain() > n * 4);
                place
            };
            bencher.iter_batched(full, run, BatchSize::PerIteration);
        });
    }
}

/// 200 nodes of a mesh bring five routes each, and one router outside hears of all.
fn mesh(criterion: &mut Criterion) {
    let from: Vec<Vec<u8>> =
        (0..200).map(|n| routes::announcements(Kind::Shared, &routes::prefixes(n * 5, 5))).collect();
    criterion.bench_function("bgp mesh: 200 peers come up with 5 routes each", |bencher| {
        let run = |mut place: Place| {
            place.join(routes::session(1, PeerKind::External));
            for (n, bytes) in from.iter().enumerate() {
                let peer = place.join(routes::session(u32::try_from(n).unwrap() + 2, PeerKind::Internal));
                place.read(peer, bytes);
            }
            assert!(place.drain() > 4000);
            place
        };
        bencher.iter_batched(|| Place::new(Default::default()), run, BatchSize::PerIteration);
    });
}

/// One VIP more where there are 10,000 already and 50 routers hear of it.
fn vip(criterion: &mut Criterion) {
    for (name, policies) in [("no policy", Default::default()), ("policies of a node", routes::policies(10_001, 50))] {
        criterion.bench_function(&format!("bgp one VIP: 10k VIPs, 50 peers, {name}"), |bencher| {
            let mut place = Place::new(policies.clone());
            (0..10_000).for_each(|n| place.originate(n));
            for n in 1..=50 {
                place.join(routes::session(n, PeerKind::External));
            }
            place.drain();
            bencher.iter(|| {
                place.originate(10_000);
                assert!(place.drain() > 50 * 40);
                place.hub.withdraw_all(&[routes::vip(10_000)]);
                assert!(place.drain() > 50 * 20);
                place.hub.take_best_changes();
            });
        });
    }
}

/// Peers that hear of every path.
fn add_path(criterion: &mut Criterion) {
    let announced: Vec<Vec<u8>> =
        (0..3).map(|_| routes::announcements(Kind::Shared, &routes::prefixes(0, 10_000))).collect();
    criterion.bench_function("bgp ADD-PATH: 10k routes of three peers to ten", |bencher| {
        let start = || {
            let mut place = Place::new(Default::default());
            for n in 1..=3 {
                place.join(routes::session(n, PeerKind::External));
            }
            for n in 4..14 {
                let all = routes::session(n, PeerKind::External);
                place.join(Negotiated { add_path_send: vec![Family::V4], ..all });
            }
            place.drain();
            place
        };
        let run = |mut place: Place| {
            announced.iter().enumerate().for_each(|(peer, bytes)| place.read(peer, bytes));
            assert!(place.drain() > 10 * 3 * 10_000 * 8);
            place
        };
        bencher.iter_batched(start, run, BatchSize::PerIteration);
    });
}

criterion_group! {
    name = benches;
    config = settings::criterion();
    targets = tables, mesh, vip, add_path
}
criterion_main!(benches);
