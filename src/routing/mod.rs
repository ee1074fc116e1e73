//! Room 3: BGP and the kernel's routes.
//!
//! Promises: announces what this node serves once it forwards, and installs what peers announce.
//! Must not know: Kubernetes types, the other rooms.

pub mod advertise;
pub mod aws;
pub mod bgp;
pub mod boundary;
pub mod bridge;
pub mod cni;
pub mod config;
pub mod desired;
pub mod doctor;
pub mod drain;
pub mod egress;
pub mod logind;
mod networks;
pub mod overlay;
pub mod peers;
pub mod plan;
pub mod reconciler;
pub mod render;
pub mod return_path;
pub mod sessions;
pub mod speaker_config;
pub mod speakers;
pub mod takeover;
