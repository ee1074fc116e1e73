//! Room 1: services on IPVS.

pub mod cri;
pub mod dsr;
pub mod endpoints;
#[cfg(any(test, feature = "testing"))]
pub mod fake_runtime;
pub mod health;
pub mod pod_worker;
pub mod pods;
