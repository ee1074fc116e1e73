//! Room 1: Services on IPVS.
//!
//! Promises: every VIP of every Service that this node should serve is a virtual server in the kernel, with the
//! endpoints the traffic policies allow, within one pass of the snapshot that says so; nothing foreign is touched;
//! a correct kernel is not written to. Must not know: Kubernetes types, BGP, NetworkPolicy.
//!
//! How a pass goes: [`desired`] turns one Service into what it asks of this node; [`book`] adds those up and knows
//! what a change touched; [`plan`] turns the difference to the kernel into ordered ops; [`reconciler`] reads, writes
//! and reports. [`nat`] holds the nftables side, [`drain`] the graceful removal of real servers.

pub mod affinity;
pub mod book;
pub mod cri;
pub mod desired;
pub mod direct;
pub mod drain;
pub mod dsr;
pub mod endpoints;
#[cfg(any(test, feature = "testing"))]
pub mod fake_runtime;
pub mod health;
pub mod nat;
pub mod plan;
pub mod pod_worker;
pub mod pods;
pub mod reconciler;
pub mod render;
pub mod takeover;
pub mod vips;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{NodeName, Snapshot};
use crate::net::{Family, Prefix};

/// The dummy link that carries VIPs.
pub const DUMMY_LINK: &str = "kube-dummy-if";
/// The bridge of the pod network, where there is one.
pub const BRIDGE_LINK: &str = "kube-bridge";
/// The nftables table of this room (family `inet`).
pub const TABLE: &str = "ferrovia-proxy";

/// What the room needs of the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Translate the source of all IPVS traffic (`--masquerade-all`).
    pub masquerade_all: bool,
    /// Serve NodePorts on every local address (`--nodeport-bindon-all-ip`).
    pub node_port_all_addresses: bool,
    /// First and last NodePort (`--service-node-port-range`).
    pub node_port_range: (u16, u16),
    /// Refuse traffic to a VIP that is for no virtual server (`--ipvs-permit-all`).
    pub input_firewall: bool,
    /// Let connections of a removed real server end (`--ipvs-graceful-termination`).
    pub graceful_termination: bool,
    /// How long they may take where the pod's own grace period is not known (`--ipvs-graceful-period`).
    pub graceful_period: Duration,
    /// Virtual servers inside are never touched (`--excluded-cidrs`).
    pub excluded: Vec<Prefix>,
    /// Cluster IP ranges (`--service-cluster-ip-range`).
    pub cluster_ip_ranges: Vec<Prefix>,
    /// Granted external IPs (`--service-external-ip-range`).
    pub external_ip_ranges: Vec<Prefix>,
    /// Granted load balancer IPs (`--loadbalancer-ip-range`).
    pub load_balancer_ip_ranges: Vec<Prefix>,
    /// Refuse external and load balancer IPs that no range grants (`--strict-external-ip-validation`).
    pub strict_external_ips: bool,
    /// How VIPs are bound (`--vip-binding`).
    pub vip_binding: VipBinding,
    /// A container runtime socket is configured (`--runtime-endpoint`): direct server return is possible.
    pub runtime_endpoint: bool,
    /// Global IPVS timeouts in whole seconds, 0 keeps the kernel's.
    pub timeouts: crate::kernel::ipvs::Timeouts,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            masquerade_all: false,
            node_port_all_addresses: false,
            node_port_range: (30000, 32767),
            input_firewall: true,
            graceful_termination: false,
            graceful_period: Duration::from_secs(30),
            excluded: Vec::new(),
            cluster_ip_ranges: vec![Prefix::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 12))],
            external_ip_ranges: Vec::new(),
            load_balancer_ip_ranges: Vec::new(),
            strict_external_ips: true,
            vip_binding: VipBinding::Auto,
            runtime_endpoint: false,
            timeouts: crate::kernel::ipvs::Timeouts::default(),
        }
    }
}

/// How VIPs are made local to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipBinding {
    /// As addresses while there are at most [`vips::MOST_ADDRESSES`], else as local routes.
    Auto,
    /// As addresses on the dummy link, visible to `ip addr`. Costs quadratic time in the kernel.
    Address,
    /// As routes of the local table through the dummy link.
    Route,
}

/// This node, as far as forwarding depends on it. When it changes, everything is derived again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Its zone, where known.
    pub zone: Option<Arc<str>>,
    /// The address it uses in each family: source of translated traffic, and NodePort address.
    pub best_ipv4: Option<IpAddr>,
    /// The same for IPv6.
    pub best_ipv6: Option<IpAddr>,
    /// Addresses that are local for other reasons than being a VIP: never bound again, never closed. Sorted.
    pub local_addresses: Vec<IpAddr>,
    /// Prefixes of the pods on this node. Sorted.
    pub pod_cidrs: Vec<Prefix>,
    /// MTU of the link that carries the primary address, bytes; 1500 where unknown.
    pub mtu: u32,
}

impl NodeView {
    /// The view from the snapshot's own node, plus what only the kernel knows: the addresses on links that are
    /// not for VIPs or pods, and the MTU of the uplink.
    pub fn new(snapshot: &Snapshot, link_addresses: &[IpAddr], mtu: u32) -> NodeView {
        let node = snapshot.own_node();
        let mut local_addresses: Vec<IpAddr> =
            node.map(|node| node.addresses().collect::<Vec<_>>()).unwrap_or_default();
        local_addresses.extend_from_slice(link_addresses);
        local_addresses.sort_unstable();
        local_addresses.dedup();
        let mut pod_cidrs = node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        NodeView {
            name: snapshot.node_name.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            best_ipv4: node.and_then(|node| node.best_ip(Family::V4)),
            best_ipv6: node.and_then(|node| node.best_ip(Family::V6)),
            local_addresses,
            pod_cidrs,
            mtu,
        }
    }

    /// The address it uses in a family.
    pub fn best_ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.best_ipv4,
            Family::V6 => self.best_ipv6,
        }
    }

    /// True for an address of the node itself.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local_addresses.binary_search(&address).is_ok()
    }

    /// True for an address inside this node's pod prefixes.
    pub fn is_local_pod(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|prefix| prefix.contains(&address))
    }
}
