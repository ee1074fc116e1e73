//! What tests, the demo and the benchmarks share. Never part of a release binary.

pub mod lab;
