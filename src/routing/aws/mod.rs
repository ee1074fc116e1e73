//! On Amazon EC2: let this machine forward packets of others (`--disable-source-dest-check`).
//!
//! EC2 drops what an instance sends from or receives for an address that is not its own, which is all traffic of pods.
//! With the cargo feature `aws` the daemon asks EC2 to stop that for the machine it runs on, and for no other: every
//! node does so for itself. Without the feature it says that somebody else must.

#[cfg(feature = "aws")]
mod ec2;
#[cfg(any(test, feature = "aws"))]
mod sign;

#[cfg(feature = "aws")]
pub use ec2::{Error, disable_source_dest_check};

/// Whether this machine is one of EC2's: its firmware says so, nobody is asked over the network.
pub fn is_instance() -> bool {
    let says = |file: &str, word: &str| {
        std::fs::read_to_string(file).is_ok_and(|text| text.trim().to_ascii_lowercase().starts_with(word))
    };
    says("/sys/class/dmi/id/sys_vendor", "amazon ec2") || says("/sys/hypervisor/uuid", "ec2")
}
