//! Room 1: services on IPVS.

pub mod dsr;
pub mod endpoints;
pub mod health;
