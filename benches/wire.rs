//! Bytes to and from the kernel.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark is nobody's interface")]

mod clusters;
mod settings;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ferrovia::kernel::ipvs::Op;
use ferrovia::kernel::ipvs::codec::{decode_real_server, encode_op};
use ferrovia::kernel::netlink::{Attributes, Batch, Messages};
use ferrovia::net::Family;
use ferrovia::proxy::Config;
use ferrovia::proxy::plan::{Removal, plan_virtual_server};
use ferrovia::proxy::render::Picture;

/// Any number will do for the generic netlink family.
const FAMILY: u16 = 0x1c;

fn encoding(criterion: &mut Criterion) {
    let picture = Picture::build(&clusters::services(10_000, 5), &Config::default());
    let ops: Vec<Op> = picture
        .table
        .iter()
        .flat_map(|(key, server)| plan_virtual_server(*key, Some(server), None, |_| Removal::Now))
        .collect();
    let mut batch = Batch::new();
    criterion.bench_function("ipvs encode: 60,000 ops", |bencher| {
        bencher.iter(|| {
            batch.clear();
            for op in black_box(&ops) {
                encode_op(&mut batch, FAMILY, op);
            }
            batch.bytes().len()
        });
    });
    batch.clear();
    for op in ops.iter().filter(|op| matches!(op, Op::AddRealServer(..))) {
        encode_op(&mut batch, FAMILY, op);
    }
    let bytes = batch.bytes().to_vec();
    criterion.bench_function("netlink decode: 50,000 messages", |bencher| {
        bencher.iter(|| {
            let mut n_attributes = 0;
            for message in Messages::new(black_box(&bytes)) {
                // Generic netlink has a header of four bytes.
                n_attributes +=
                    Attributes::after(message.payload, 4).map(|attribute| attribute.nested().count()).sum::<usize>();
                let _ = decode_real_server(Family::V4, message.payload);
            }
            n_attributes
        });
    });
}

criterion_group! {
    name = benches;
    config = settings::criterion();
    targets = encoding
}
criterion_main!(benches);
