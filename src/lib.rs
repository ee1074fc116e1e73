//! Ferrovia: one node daemon for Kubernetes on Linux IPVS, BGP and nftables.
//!
//! Modules in the order data flows: [`k8s`] watches the cluster and publishes snapshots of [`model`] values; the rooms
//! ([`proxy`], [`routing`] and [`firewall`]) derive what this node should hold and let [`kernel`] write the difference,
//! driven by [`reconcile`]; [`admin`] and [`telemetry`] tell what happened; [`cli`] and [`config`] say what
//! was asked for, and [`app`] wires it all.

pub mod admin;
pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod firewall;
pub mod k8s;
pub mod kernel;
pub mod model;
pub mod net;
pub mod proxy;
pub mod reconcile;
pub mod routing;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
