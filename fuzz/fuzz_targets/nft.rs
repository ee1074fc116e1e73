//! Answers of nf_tables: tables, chains, rules, sets and their elements.
#![no_main]

use ferrovia::kernel::filter::{FieldType, ValueType};
use ferrovia::kernel::nft::decode;
use libfuzzer_sys::fuzz_target;

const TABLE: &str = "t";
const FIELDS: [FieldType; 6] =
    [FieldType::Ipv4, FieldType::Ipv6, FieldType::Protocol, FieldType::Port, FieldType::Mark, FieldType::Interface];

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, payload) = input;
    let _ = decode::table(payload);
    let _ = decode::chain(payload, TABLE);
    let _ = decode::rule(payload, TABLE);
    let _ = decode::set(payload, TABLE);
    let _ = decode::object(payload, TABLE);
    let raw = decode::raw_elements(payload);
    let first = FIELDS[usize::from(choice) % FIELDS.len()];
    let second = FIELDS[usize::from(choice / 6) % FIELDS.len()];
    for types in [&[first][..], &[first, second], &[first, FieldType::Protocol, FieldType::Port]] {
        let _ = decode::keys(types, &raw);
        for kind in [ValueType::Mark, ValueType::Verdict] {
            let _ = decode::entries(types, kind, &raw);
        }
    }
    let _ = decode::prefixes(first, &raw);
});
