//! One Service, as this node should serve it (pure).
//!
//! [`build_service`] is a function of the Service, its endpoint slices, this node and the configuration; nothing it
//! returns depends on other Services or on what was there before. What Services share (a contested VIP, one mark for
//! each DSR address) is settled in [`super::book`].

use std::net::IpAddr;
use std::sync::Arc;

use super::affinity::spec_for;
use super::dsr::{DsrKey, FORWARDING, refusal};
use super::endpoints::{Place, Selection, Target, Traffic, local_ready_count, select};
use super::{Config, NodeView};
use crate::kernel::ipvs::{Forwarding, RealServer, RealServerKey, VirtualServer, VirtualServerKey, VirtualServerSpec};
use crate::model::{Notice, Service, ServiceKey, ServicePort, ServiceType, Severity, Snapshot, Subject};
use crate::net::{Family, Prefix, Protocol};

/// Address, protocol and port of one virtual server as a client sees it.
pub type Tuple = (IpAddr, Protocol, u16);

/// What one Service asks of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Creation time of the Service: the older one wins a contested virtual server.
    pub created: i64,
    /// Virtual servers by address, with their real servers.
    pub virtual_servers: Vec<(VirtualServerKey, Arc<VirtualServer>)>,
    /// VIPs to make local to this node.
    pub bound: Vec<IpAddr>,
    /// VIPs to which everything that is for no virtual server is refused.
    pub guarded: Vec<IpAddr>,
    /// Endpoints on this node that may be asked by themselves through a VIP.
    pub hairpin: Vec<IpAddr>,
    /// Who may reach the load balancer VIPs, where not everybody may.
    pub sources: Option<SourceRanges>,
    /// Health-check node port and the number of ready endpoints on this node.
    pub health_check: Option<(u16, usize)>,
    /// VIPs served by direct return.
    pub direct: Vec<DirectServer>,
    /// What the Service's owner should know.
    pub notices: Vec<Notice>,
}

/// `loadBalancerSourceRanges` with the virtual servers it guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRanges {
    /// The guarded virtual servers.
    pub tuples: Vec<Tuple>,
    /// Who may pass.
    pub prefixes: Vec<Prefix>,
}

/// A virtual server whose real servers answer the client directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectServer {
    /// VIP, protocol and port.
    pub tuple: Tuple,
    /// Scheduler, flags and persistence.
    pub spec: VirtualServerSpec,
    /// Endpoints of the VIP's family, reached through tunnels.
    pub real_servers: Box<[RealServer]>,
}

impl DirectServer {
    /// The key its mark goes by.
    pub fn key(&self) -> DsrKey {
        let (vip, protocol, port) = self.tuple;
        DsrKey { vip, protocol, port }
    }
}

/// What kind of address a VIP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VipKind {
    Cluster,
    External,
    LoadBalancer,
}

/// What `key` asks of this node; `None` where the proxy leaves it alone.
pub fn build_service(key: &ServiceKey, snapshot: &Snapshot, config: &Config, node: &NodeView) -> Option<ServiceState> {
    let service = snapshot.services.get(key)?;
    if service.ignored_by_proxy || service.kind == ServiceType::ExternalName || service.cluster_ips.is_empty() {
        return None;
    }
    let mut builder = Builder {
        key,
        service,
        snapshot,
        config,
        node,
        state: ServiceState { created: service.created, ..ServiceState::default() },
    };
    let vips = builder.vips();
    let ports: Vec<Chosen> = service.ports.iter().map(|port| builder.choose(port)).collect();
    let direct = builder.is_direct(&ports, &vips);
    for chosen in &ports {
        builder.add_port(chosen, &vips, direct);
    }
    Some(builder.finish())
}

/// A port with the endpoints it may use.
struct Chosen<'a> {
    port: &'a ServicePort,
    internal: Selection,
    external: Selection,
}

/// The work of one call of [`build_service`].
struct Builder<'a> {
    key: &'a ServiceKey,
    service: &'a Service,
    snapshot: &'a Snapshot,
    config: &'a Config,
    node: &'a NodeView,
    state: ServiceState,
}

impl Builder<'_> {
    /// Cluster IPs, then granted external IPs, then granted load balancer IPs, each address once.
    fn vips(&mut self) -> Vec<(IpAddr, VipKind)> {
        let service = self.service;
        let mut vips: Vec<(IpAddr, VipKind)> =
            service.cluster_ips.iter().map(|address| (*address, VipKind::Cluster)).collect();
        for address in &service.external_ips {
            self.grant(*address, VipKind::External, &mut vips);
        }
        if !service.settings.skip_load_balancer_ips {
            for address in &service.load_balancer_ips {
                self.grant(*address, VipKind::LoadBalancer, &mut vips);
            }
        }
        vips
    }

    /// Adds an address that the ranges grant, and tells the owner about one they do not.
    fn grant(&mut self, address: IpAddr, kind: VipKind, vips: &mut Vec<(IpAddr, VipKind)>) {
        if vips.iter().any(|(known, _)| *known == address) {
            return;
        }
        let (field, flag, ranges) = match kind {
            VipKind::LoadBalancer => {
                ("status.loadBalancer.ingress", "--loadbalancer-ip-range", &self.config.load_balancer_ip_ranges)
            }
            _ => ("spec.externalIPs", "--service-external-ip-range", &self.config.external_ip_ranges),
        };
        if self.config.strict_external_ips {
            let why = if self.config.cluster_ip_ranges.iter().any(|range| range.contains(&address)) {
                Some("it is inside --service-cluster-ip-range".to_owned())
            } else if ranges.is_empty() {
                Some(format!("no range is granted; start with {flag}=… to grant it"))
            } else if !ranges.iter().any(|range| range.contains(&address)) {
                Some(format!("it is outside every range of {flag}"))
            } else {
                None
            };
            if let Some(why) = why {
                self.warn("VipRefused", format!("{field}: {address} is not served: {why}"));
                return;
            }
        }
        vips.push((address, kind));
    }

    /// Whether external and load balancer addresses are served by direct return. One port that cannot be is enough
    /// to serve the whole Service with translation: a VIP is either an address of this node or it is not.
    fn is_direct(&mut self, ports: &[Chosen], vips: &[(IpAddr, VipKind)]) -> bool {
        if !self.service.settings.dsr || vips.iter().all(|(_, kind)| *kind == VipKind::Cluster) {
            return false;
        }
        let refusals: Vec<Notice> = ports
            .iter()
            .filter_map(|chosen| {
                refusal(self.snapshot, self.key, chosen.port, &chosen.external, self.config.runtime_endpoint)
            })
            .collect();
        let direct = refusals.is_empty();
        self.state.notices.extend(refusals);
        self.state.notices.dedup();
        direct
    }

    fn choose<'p>(&self, port: &'p ServicePort) -> Chosen<'p> {
        Chosen { port, internal: self.select(port, Traffic::Internal), external: self.select(port, Traffic::External) }
    }

    fn add_port(&mut self, Chosen { port, internal, external }: &Chosen, vips: &[(IpAddr, VipKind)], direct: bool) {
        for (address, kind) in vips {
            let selection = if *kind == VipKind::Cluster { internal } else { external };
            let direct = direct && *kind != VipKind::Cluster;
            self.occupy(*address, direct);
            let Some(targets) = selection.of(Family::of(*address)) else { continue };
            let tuple = (*address, port.protocol, port.port);
            if direct {
                self.add_direct(tuple, targets);
            } else {
                self.add_virtual_server(tuple, targets);
            }
            if *kind == VipKind::LoadBalancer && !self.service.source_ranges.is_empty() {
                let prefixes = &self.service.source_ranges;
                let sources = self
                    .state
                    .sources
                    .get_or_insert_with(|| SourceRanges { tuples: Vec::new(), prefixes: prefixes.clone() });
                sources.tuples.push(tuple);
            }
        }
        if port.node_port != 0 {
            for address in self.node_port_addresses() {
                if let Some(targets) = external.of(Family::of(address)) {
                    self.add_virtual_server((address, port.protocol, port.node_port), targets);
                }
            }
        }
        for target in internal.endpoints.iter().chain(&external.endpoints).filter(|target| target.node_local) {
            self.state.hairpin.push(target.address);
        }
    }

    /// Binds a VIP and refuses what is not for a virtual server on it, unless the node has the address anyway.
    /// A VIP with direct return is never bound: the pods answer with it.
    fn occupy(&mut self, address: IpAddr, direct: bool) {
        if self.node.is_local(address) {
            return;
        }
        self.state.guarded.push(address);
        if !direct {
            self.state.bound.push(address);
        }
    }

    fn select(&self, port: &ServicePort, traffic: Traffic) -> Selection {
        let slices = self.snapshot.slices_of(self.key).map(|(_, slice)| &**slice);
        let place = Place { node: &self.node.name, zone: self.node.zone.as_deref() };
        select(self.service, port, slices, place, traffic)
    }

    /// The node's own addresses that take NodePort traffic, of the families the Service has.
    fn node_port_addresses(&self) -> Vec<IpAddr> {
        let families: Vec<Family> = Family::ALL
            .into_iter()
            .filter(|family| self.service.cluster_ips.iter().any(|address| Family::of(*address) == *family))
            .collect();
        if self.config.node_port_all_addresses {
            let of_family = |address: &IpAddr| families.contains(&Family::of(*address));
            self.node.local_addresses.iter().copied().filter(of_family).collect()
        } else {
            families.into_iter().filter_map(|family| self.node.best_ip(family)).collect()
        }
    }

    fn add_virtual_server(&mut self, (address, protocol, port): Tuple, targets: &[Target]) {
        let key = VirtualServerKey::Address { address, protocol, port };
        let family = Family::of(address);
        if self.state.virtual_servers.iter().any(|(known, _)| *known == key) {
            return;
        }
        let virtual_server = VirtualServer {
            spec: spec_for(self.service, family),
            real_servers: real_servers(targets, Forwarding::Masquerade),
        };
        self.state.virtual_servers.push((key, Arc::new(virtual_server)));
    }

    fn add_direct(&mut self, tuple: Tuple, targets: &[Target]) {
        let family = Family::of(tuple.0);
        if self.state.direct.iter().any(|direct| direct.tuple == tuple) {
            return;
        }
        let real_servers = real_servers(targets, FORWARDING);
        self.state.direct.push(DirectServer { tuple, spec: spec_for(self.service, family), real_servers });
    }

    fn finish(mut self) -> ServiceState {
        if self.service.health_check_node_port != 0 {
            let slices = self.snapshot.slices_of(self.key).map(|(_, slice)| &**slice);
            let n_local = local_ready_count(self.service, slices, &self.node.name);
            self.state.health_check = Some((self.service.health_check_node_port, n_local));
        }
        for addresses in [&mut self.state.bound, &mut self.state.guarded, &mut self.state.hairpin] {
            addresses.sort_unstable();
            addresses.dedup();
            addresses.shrink_to_fit();
        }
        self.state.virtual_servers.shrink_to_fit();
        self.state
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        let subject = Subject::Service(self.key.clone());
        self.state.notices.push(Notice { subject, severity: Severity::Warning, reason, message });
    }
}

/// Real servers, sorted by key as the targets are.
fn real_servers(targets: &[Target], forwarding: Forwarding) -> Box<[RealServer]> {
    targets
        .iter()
        .map(|target| RealServer {
            key: RealServerKey { address: target.address, port: target.port },
            forwarding,
            weight: target.weight,
            upper_threshold: 0,
            lower_threshold: 0,
        })
        .collect()
}
