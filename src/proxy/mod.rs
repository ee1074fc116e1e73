//! Room 1: services on IPVS.

pub mod endpoints;
