//! What tests of every tier, the demo and benchmarks build on. Never part of a release binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test code: a panic is the report"
)]

pub mod builders;
pub mod cluster;
pub mod contract;
pub mod expand;
pub mod golden;
pub mod iptables;
pub mod lab;
pub mod meter;
pub mod node;
pub mod oracle;
pub mod policy_oracle;
pub mod router;
pub mod sink;
pub mod tracer;
