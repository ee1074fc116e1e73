//! Room 2: NetworkPolicy.
//!
//! Promises: what a policy forbids does not pass, from the first packet on; what it allows does; replies always do.
//! Must not know: Kubernetes types, the other rooms.
//!
//! [`resolve`] reads one policy, [`index`] finds the policies a pod matters to and `pods` the other way round, [`members`] keeps the addresses behind
//! them, [`tiers`] has the cluster's own policies, [`book`] adds it all up, [`compile`] and `group` write it as rules,
//! `nobody` what passes between pods under addresses that are no pod's,
//! `tunnelled` the same once more for what [`direct`] says is tunnelled to pods, [`table`] knows which of them a change
//! touches, [`explain`] and [`held`] say why a flow passes and whether the kernel knows, [`denied`] whose a logged packet was,
//! [`refused`] which policy a refusal is about, `unjudged` what no rule can judge: all pure. [`reconciler`] brings it into the kernel, [`log_reader`] reads
//! denied packets.

use crate::kernel::filter::Inside;

pub mod book;
pub mod compile;
pub mod denied;
pub mod direct;
pub mod explain;
mod frames;
mod group;
pub mod held;
pub mod index;
pub mod judge;
pub mod legacy;
pub mod log_reader;
mod lookup;
pub mod members;
mod nobody;
mod pods;
pub mod reconciler;
pub mod refused;
pub mod render;
pub mod resolve;
pub mod table;
pub mod takeover;
pub mod tiers;
mod tunnelled;
mod unjudged;

/// The nftables table of this room (family `inet`).
pub const TABLE: &str = "ferrovia-firewall";
/// The nftables table of what it asks about tunnelled packets, where everything else is asked by iptables.
pub const BESIDE: &str = "ferrovia-tunnelled";
/// The nftables table of frames that bridges pass from pod to pod, with any backend.
pub const FRAMES: &str = "ferrovia-bridge";
/// The name under which a namespace's old isolation annotation appears among policies: no object can be called so.
pub const LEGACY_POLICY: &str = "net.beta.kubernetes.io/network-policy";
/// The bit of a connection's mark that says it is ended: begun when it was allowed, and no longer. Bits 24-30 are the
/// router's.
pub const ENDED_MARK: u32 = 0x8000_0000;
/// The bit of a packet's mark that says to iptables: what is tunnelled here may pass. Nothing but [`BESIDE`] sets it.
pub const PASSED_MARK: u32 = 0x8000_0000;
/// The netlink group denied packets are logged to: the predecessor's.
pub const LOG_GROUP: u16 = 100;
/// Denied packets that are logged in a minute, and the burst: the predecessor's rate.
pub const LOG_PER_MINUTE: u32 = 10;

/// What the room needs of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Let nothing through to or from a pod of this node before it is known (`--netpol-default-deny`), also where there
    /// is no policy.
    pub default_deny: bool,
    /// Read the old isolation annotation of namespaces (`--legacy-namespace-isolation`).
    pub legacy_isolation: bool,
    /// Where rules look into tunnelled packets, at most: nftables can, iptables cannot.
    pub inside: Inside,
    /// Drop frames with a VLAN tag from pod to pod ([`FRAMES`]).
    pub drop_tagged: bool,
    /// The netlink group denied packets are logged to; `None` for no log.
    pub log_group: Option<u16>,
}
