//! The ground floor: speaks kernel, knows no Kubernetes and no policy.
//!
//! Each subsystem is a folder: its types and its trait in `mod.rs`, bytes in `codec.rs`, the socket side in
//! `client.rs`, the operators' own language in `text.rs`, and a small kernel for tests in `fake.rs`.
//!
//! All traits here are synchronous: the kernel does its work inside `send`, so there is nothing to wait for, and
//! every room runs on a thread of its own where a long commit delays nobody (ADR 0014).
//! Two verbs: `apply(&[Op])` is in order with one answer per op and is not atomic; `commit(&Transaction)` is all or
//! nothing.

pub mod conntrack;
pub mod error;
pub mod filter;
pub mod fou;
pub mod ipset;
pub mod iptables;
pub mod ipvs;
pub mod modules;
pub mod netlink;
pub mod netns;
pub mod nflog;
pub mod nft;
pub mod rtnl;
pub mod sysctl;

pub use error::{Disposition, Error};
