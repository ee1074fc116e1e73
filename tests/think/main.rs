//! Tier 1: pure code and fakes. No kernel, no network, no clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code: a panic is the report"
)]

mod beside;
mod book;
mod bridge;
mod cli;
mod convergence;
mod cost;
mod daemonset;
mod drain;
mod explain;
mod firewall;
mod frames;
mod fuzzed;
mod generate;
mod golden;
mod kernel;
mod policy;
mod refused;
mod router;
mod router_events;
mod router_features;
mod trace;
mod vectors;
