//! What the room needs of the configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::drain;
use super::return_path;
use super::speakers::{LabelSelector, Style};
use crate::net::{Asn, Prefix};

/// The room's settings, one field for each flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--cluster-asn`: the AS of every node while nodes form a full mesh.
    pub cluster_asn: Asn,
    /// `--nodes-full-mesh`: all nodes are in `cluster_asn`; otherwise each names its own.
    pub full_mesh: bool,
    /// `--enable-ibgp`: peer with the other nodes.
    pub ibgp: bool,
    /// `--router-id`.
    pub router_id: RouterId,
    /// `--bgp-port`: where every node listens.
    pub bgp_port: u16,
    /// `--bgp-holdtime`, for external peers.
    pub hold_time: Duration,
    /// `--bgp-graceful-restart` with its two times.
    pub graceful_restart: Option<GracefulRestart>,
    /// The `--peer-router-*` lists, joined. When not empty, the annotations that name peers are not read.
    pub peers: Vec<FlagPeer>,
    /// `--peer-router-multihop-ttl`; below 2 external peers must be neighbours on a link.
    pub multihop_ttl: u8,
    /// `--override-nexthop`.
    pub override_next_hop: bool,
    /// `--advertise-cluster-ip`.
    pub advertise_cluster_ip: bool,
    /// `--advertise-external-ip`.
    pub advertise_external_ip: bool,
    /// `--advertise-loadbalancer-ip`.
    pub advertise_load_balancer_ip: bool,
    /// `--advertise-pod-cidr`: to external peers too; other nodes always get them.
    pub advertise_pod_cidr: bool,
    /// `--enable-bfd` with its settings, for peers given by flags.
    pub bfd: Option<Bfd>,
    /// What an annotation peer's `bfd` map leaves out (`--bfd-*`).
    pub bfd_defaults: Bfd,
    /// `--enable-overlay` and `--overlay-type`.
    pub overlay: OverlayScope,
    /// `--overlay-encap`.
    pub encapsulation: Encapsulation,
    /// `--enable-pod-egress`.
    pub pod_egress: bool,
    /// Cluster IP ranges (`--service-cluster-ip-range`).
    pub cluster_ip_ranges: Vec<Prefix>,
    /// Granted external IPs (`--service-external-ip-range`).
    pub external_ip_ranges: Vec<Prefix>,
    /// Granted load balancer IPs (`--loadbalancer-ip-range`).
    pub load_balancer_ip_ranges: Vec<Prefix>,
    /// Refuse external and load balancer IPs that no range grants (`--strict-external-ip-validation`).
    pub strict_external_ips: bool,
    /// `--advertise-style`: who announces VIPs.
    pub advertise_style: Style,
    /// `--speaker-selector`: the labels of speakers.
    pub speaker_selector: LabelSelector,
    /// `--return-path`: what holds on nodes without the annotation.
    pub return_path: return_path::Mode,
    /// `--bgp-graceful-shutdown`: routes that another AS marks so are preferred least (RFC 8326).
    pub graceful_shutdown: bool,
    /// `--drain-*`.
    pub drain: drain::Settings,
    /// `--auto-mtu`.
    pub auto_mtu: bool,
    /// `--enable-ipv6`: IPv6 is switched on where the host has it off.
    pub ipv6: bool,
    /// `--allowed-import-prefixes`: prefixes that peers may announce although they touch node addresses, Service ranges
    /// or pod prefixes.
    pub allowed_imports: Vec<Prefix>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cluster_asn: Asn(64512),
            full_mesh: true,
            ibgp: true,
            router_id: RouterId::NodeAddress,
            bgp_port: 179,
            hold_time: Duration::from_secs(90),
            graceful_restart: None,
            peers: Vec::new(),
            multihop_ttl: 0,
            override_next_hop: false,
            advertise_cluster_ip: false,
            advertise_external_ip: false,
            advertise_load_balancer_ip: false,
            advertise_pod_cidr: true,
            bfd: None,
            bfd_defaults: Bfd::default(),
            overlay: OverlayScope::OtherSubnets,
            encapsulation: Encapsulation::Ipip,
            pod_egress: true,
            cluster_ip_ranges: vec![Prefix::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12))],
            external_ip_ranges: Vec::new(),
            load_balancer_ip_ranges: Vec::new(),
            strict_external_ips: true,
            advertise_style: Style::Node,
            speaker_selector: LabelSelector::default(),
            return_path: return_path::Mode::Off,
            graceful_shutdown: true,
            drain: drain::Settings::default(),
            auto_mtu: true,
            ipv6: false,
            allowed_imports: Vec::new(),
        }
    }
}

/// Where the BGP identifier comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterId {
    /// The node's IPv4 address.
    NodeAddress,
    /// Derived from the node's primary address.
    Generate,
    /// This one.
    Fixed(Ipv4Addr),
}

/// Which nodes are reached through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayScope {
    /// None.
    Off,
    /// Those in other subnets.
    OtherSubnets,
    /// All.
    All,
}

/// How tunnelled packets are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encapsulation {
    /// IP in IP (RFC 2003, RFC 2473).
    Ipip,
    /// Generic UDP encapsulation, to this port.
    Fou {
        /// UDP destination port, 1024 or higher.
        port: u16,
    },
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long peers keep our routes.
    pub restart_time: Duration,
    /// How long to wait for all peers.
    pub deferral_time: Duration,
}

/// Bidirectional forwarding detection (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// UDP destination port.
    pub port: u16,
    /// Packets that may be lost.
    pub detection_multiplier: u8,
    /// Desired interval between sent packets.
    pub desired_min_tx: Duration,
    /// Shortest interval between received packets.
    pub required_min_rx: Duration,
}

impl Default for Bfd {
    fn default() -> Bfd {
        let second = Duration::from_secs(1);
        Bfd { port: 3784, detection_multiplier: 3, desired_min_tx: second, required_min_rx: second }
    }
}

/// An external peer given by flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: Asn,
    /// Its port.
    pub port: u16,
    /// Its TCP-MD5 password, decoded.
    pub password: Option<Password>,
}

/// A TCP-MD5 password (RFC 2385). Its `Debug` form does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

impl Password {
    /// A password from its bytes.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Password {
        Password(bytes.into())
    }

    /// The bytes, for the one place that gives them to the kernel.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}
