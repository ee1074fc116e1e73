//! The order of all rooms' hooks, in one place: the one thing the rooms' tables must agree on.
//!
//! Lower is earlier. Fixed points of the kernel (`include/uapi/linux/netfilter_ipv4.h`): connection tracking -200,
//! mangle -150, destination NAT -100, filter 0, source NAT 100; IPVS takes packets in INPUT at 98, in FORWARD at
//! 99 and in OUTPUT at -99/-98.

/// Marks for direct server return, before routing looks at them.
pub const PROXY_MARK: i32 = -150;
/// Who may reach a VIP: early in INPUT, before IPVS (98) takes the packet and before tables at the filter priority.
pub const PROXY_INPUT: i32 = -10;
/// Source translation of IPVS flows, before other tables' source NAT (100) sees the connection.
pub const PROXY_SOURCE_NAT: i32 = 90;
/// Source translation of what pods send out of the cluster, after the proxy has decided about IPVS flows.
pub const ROUTING_SOURCE_NAT: i32 = 95;
/// Whether a pod may send a packet: after IPVS has chosen the receiver (OUTPUT, -98), before the filter tables of others.
pub const FIREWALL_EGRESS: i32 = -6;
/// Whether a pod may receive a packet: after the question about its sender, because an accept there ends that chain only.
pub const FIREWALL_INGRESS: i32 = -5;
/// What the firewall's questions about tunnelled packets have let pass, where they are asked beside rules of iptables: after
/// both, before these (0).
pub const FIREWALL_PASSED: i32 = -4;
/// Frames that bridges pass on: before the filter tables of others there (-200, NF_BR_PRI_FILTER_BRIDGED).
pub const FIREWALL_FRAMES: i32 = -210;
/// Which router a connection came through, and its answers' way back: in PREROUTING and OUTPUT behind connection tracking
/// and behind the marks for direct return, which replace the whole packet mark, and before routing looks at it.
pub const ROUTING_RETURN: i32 = -145;
/// Acceptance of pod traffic, with the filter tables of others.
pub const ROUTING_FORWARD: i32 = 0;
