//! What routes and peers cost in memory, counted at the allocator: one line for each case.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark is nobody's interface, and an allocator is unsafe to write"
)]

mod routes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrovia::routing::bgp::types::PeerKind;
use routes::{Kind, Place};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static PIECES: AtomicUsize = AtomicUsize::new(0);

/// What the system's allocator takes for so many bytes.
fn taken(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(taken(layout.size()), Ordering::Relaxed);
        PIECES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises that are the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        PIECES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn now() -> (usize, usize) {
    (BYTES.load(Ordering::Relaxed), PIECES.load(Ordering::Relaxed))
}

fn line(what: &str, before: (usize, usize), each: usize) {
    let (bytes, pieces) = now();
    let bytes = bytes.saturating_sub(before.0);
    let pieces = pieces.saturating_sub(before.1);
    println!("{what:<44} {:>8} KB {:>8} pieces {:>7} B each", bytes / 1024, pieces, bytes / each.max(1));
}

fn main() {
    for (name, kind) in [("shared", Kind::Shared), ("unique", Kind::Unique)] {
        for n in [10_000, 100_000] {
            let nlri = routes::prefixes(0, n);
            let announced = routes::announcements(kind, &nlri);
            let withdrawn = routes::withdrawals(&nlri);
            let before = now();
            let mut place = Place::pair();
            place.read(0, &announced);
            line(&format!("{n} {name}, not sent yet"), before, n);
            place.drain();
            place.hub.take_best_changes();
            line(&format!("{n} {name}, one peer"), before, n);
            place.join(routes::session(3, PeerKind::External));
            place.drain();
            line(&format!("{n} {name}, two peers"), before, n);
            place.read(0, &withdrawn);
            place.drain();
            place.hub.take_best_changes();
            line(&format!("{n} {name}, withdrawn"), before, n);
        }
    }
    let before = now();
    let mut place = Place::new(Default::default());
    place.join(routes::session(1, PeerKind::External));
    for n in 0..200 {
        let peer = place.join(routes::session(n + 2, PeerKind::Internal));
        let bytes = routes::announcements(Kind::Shared, &routes::prefixes(usize::try_from(n).unwrap() * 5, 5));
        place.read(peer, &bytes);
    }
    place.drain();
    place.hub.take_best_changes();
    line("200 internal peers, 5 routes each", before, 200);
    let before = now();
    let mut place = Place::new(routes::policies(10_000, 50));
    (0..10_000).for_each(|n| place.originate(n));
    for n in 1..=50 {
        place.join(routes::session(n, PeerKind::External));
    }
    place.drain();
    place.hub.take_best_changes();
    line("10000 VIPs to 50 peers by a node's policies", before, 50);
}
