//! What tests of every tier share: contract suites, generators. Never part of a release binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test code: a panic is the report"
)]

pub mod contract;
