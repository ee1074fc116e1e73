//! What tests, the demo and benchmarks build on. Never part of a release binary.

pub mod cluster;
