//! How VIPs become local to the node (pure).
//!
//! As an address a VIP shows in `ip addr`; as a route it does not, but the kernel adds and removes routes in constant
//! time where addresses cost time in proportion to how many there are. Either way there is one route for each VIP in
//! the local table, with the node's own address as preferred source, so that the node's own connections to a VIP do
//! not carry the VIP as their source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{NodeView, VipBinding};
use crate::kernel::rtnl::{Address, Op, Route, RouteKind, protocol, table};
use crate::net::{Family, host_prefix};

/// The most VIPs that `auto` binds as addresses: adding 1,024 costs the kernel some 20 ms, ten times as many a
/// hundred times as much.
pub const MOST_ADDRESSES: usize = 1024;

/// `RT_SCOPE_LINK`, as kube-router sets it: the address never becomes the source of traffic to elsewhere.
const SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// The metric IPv6 gives a route without one (IP6_RT_PRIO_USER).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// Addresses and local routes on the dummy link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// Host addresses on the link.
    pub addresses: BTreeSet<IpAddr>,
    /// Local routes through the link: VIP to preferred source.
    pub routes: BTreeMap<IpAddr, Option<IpAddr>>,
}

/// True when VIPs are bound as addresses. A function of how many there are, never of what was there before.
pub fn as_addresses(binding: VipBinding, n_vips: usize) -> bool {
    match binding {
        VipBinding::Auto => n_vips <= MOST_ADDRESSES,
        VipBinding::Address => true,
        VipBinding::Route => false,
    }
}

/// What to add for one VIP, given what the link has of it.
pub fn bind(vip: IpAddr, as_address: bool, link: u32, node: &NodeView, observed: &Bindings) -> Vec<Op> {
    let mut ops = Vec::new();
    if as_address && !observed.addresses.contains(&vip) {
        ops.push(Op::AddAddress(address(vip, link)));
    }
    // The kernel makes a local route with the VIP as source when the address is added: ours replaces it.
    let source = source_for(vip, node);
    if !ops.is_empty() || observed.routes.get(&vip) != Some(&source) {
        ops.push(Op::ReplaceRoute(route(vip, link, source)));
    }
    ops
}

/// What to remove for one VIP that nobody asks for, given what the link has of it.
pub fn unbind(vip: IpAddr, link: u32, observed: &Bindings) -> Vec<Op> {
    let mut ops = Vec::new();
    if let Some(source) = observed.routes.get(&vip) {
        ops.push(Op::DeleteRoute(route(vip, link, *source)));
    }
    if observed.addresses.contains(&vip) {
        ops.push(Op::DeleteAddress(address(vip, link)));
    }
    ops
}

/// What the link has of a VIP after [`bind`] worked.
pub fn note_bound(vip: IpAddr, as_address: bool, node: &NodeView, observed: &mut Bindings) {
    if as_address {
        observed.addresses.insert(vip);
    }
    observed.routes.insert(vip, source_for(vip, node));
}

/// What the link has, from what the kernel says about its addresses and its local routes.
pub fn observe(addresses: &[Address], routes: &[Route]) -> Bindings {
    let host_only = |address: &Address| address.prefix.prefix_len() == address.prefix.max_prefix_len();
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let is_vip_route = |route: &&Route| {
        route.kind == RouteKind::Local && route.destination.prefix_len() == route.destination.max_prefix_len()
    };
    let mut bindings = Bindings {
        addresses: addresses
            .iter()
            .filter(|address| host_only(address))
            .map(|address| address.prefix.addr())
            .filter(|address| !link_local(address))
            .collect(),
        routes: BTreeMap::new(),
    };
    for route in routes.iter().filter(is_vip_route) {
        let vip = route.destination.addr();
        if link_local(&vip) {
            continue;
        }
        // IPv6 keeps the kernel's own route (metric 0, no source) beside ours: ours is the one that counts.
        let slot = bindings.routes.entry(vip).or_insert(route.source);
        if route.source.is_some() {
            *slot = route.source;
        }
    }
    bindings
}

fn source_for(vip: IpAddr, node: &NodeView) -> Option<IpAddr> {
    node.best_ip(Family::of(vip))
}

fn address(vip: IpAddr, link: u32) -> Address {
    Address { link, prefix: host_prefix(vip), scope: SCOPE_LINK }
}

fn route(vip: IpAddr, link: u32, source: Option<IpAddr>) -> Route {
    Route {
        table: table::LOCAL,
        destination: host_prefix(vip),
        kind: RouteKind::Local,
        protocol: protocol::KERNEL,
        scope: if vip.is_ipv4() { SCOPE_HOST } else { 0 },
        link: Some(link),
        gateway: None,
        next_hops: Vec::new(),
        source,
        metric: if vip.is_ipv4() { 0 } else { IPV6_DEFAULT_METRIC },
    }
}

/// Takes the address of a VIP off the link, where its route stays.
pub fn drop_address(vip: IpAddr, link: u32) -> Op {
    Op::DeleteAddress(address(vip, link))
}
