//! The router's part of the configuration. Validated whether or not the router runs, so that a mistake shows before
//! somebody turns it on.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::check::Check;
use crate::cli::Flags;
use crate::cli::value::Secret;
pub use crate::net::Asn;
use crate::net::Prefix;

/// The router's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// `--routes-sync-period`.
    pub sync_period: Duration,
    /// `--injected-routes-sync-period`.
    pub injected_sync_period: Duration,
    /// `--enable-cni`.
    pub enable_cni: bool,
    /// `--cni-gate`: pods of a node that has just booted wait for the first rules.
    pub cni_gate: bool,
    /// `--auto-mtu`.
    pub auto_mtu: bool,
    /// `--enable-pod-egress`.
    pub pod_egress: bool,
    /// `--enable-overlay` and `--overlay-type`: which nodes are reached through a tunnel.
    pub overlay: OverlayScope,
    /// `--overlay-encap`.
    pub encapsulation: Encapsulation,
    /// `--cluster-asn`, 64512 where not given.
    pub cluster_asn: Asn,
    /// `--nodes-full-mesh`.
    pub full_mesh: bool,
    /// `--enable-ibgp`.
    pub ibgp: bool,
    /// `--router-id`.
    pub router_id: RouterId,
    /// `--bgp-port`.
    pub bgp_port: u16,
    /// `--bgp-holdtime`.
    pub hold_time: Duration,
    /// `--bgp-graceful-restart` with its two times.
    pub graceful_restart: Option<GracefulRestart>,
    /// The `--peer-router-*` lists, joined.
    pub peers: Vec<Peer>,
    /// `--peer-router-passwords-file`, to be read when the router starts and the passwords flag is not set.
    pub passwords_file: Option<PathBuf>,
    /// `--peer-router-multihop-ttl`.
    pub multihop_ttl: u8,
    /// `--override-nexthop`.
    pub override_next_hop: bool,
    /// `--advertise-cluster-ip`.
    pub advertise_cluster_ip: bool,
    /// `--advertise-external-ip`.
    pub advertise_external_ip: bool,
    /// `--advertise-loadbalancer-ip`.
    pub advertise_load_balancer_ip: bool,
    /// `--advertise-pod-cidr`.
    pub advertise_pod_cidr: bool,
    /// `--enable-bfd` with its settings.
    pub bfd: Option<Bfd>,
    /// BFD of peers that annotations ask for: `--bfd-*` whether or not `--enable-bfd`.
    pub bfd_defaults: Bfd,
    /// `--allowed-import-prefixes`.
    pub allowed_imports: Vec<Prefix>,
    /// `--gobgp-admin-address`.
    pub admin_address: IpAddr,
    /// `--gobgp-admin-port`, where not 0.
    pub admin_port: Option<u16>,
    /// `--gobgp-admin-tls-cert` and its like. Always there where other hosts reach the address.
    pub admin_tls: Option<AdminTls>,
    /// `--disable-source-dest-check`.
    pub disable_source_dest_check: bool,
    /// `--advertise-style`.
    pub advertise_style: AdvertiseStyle,
    /// `--speaker-selector`: a comma list of labels, each a key or `key=value`.
    pub speaker_selector: String,
    /// `--return-path`: answers leave by the peer the question came through.
    pub return_path: bool,
    /// `--bgp-graceful-shutdown`.
    pub graceful_shutdown: bool,
    /// `--drain-*`.
    pub drain: Drain,
    /// `--shutdown-inhibit`: the host's shutdown waits for the drain.
    pub shutdown_inhibit: bool,
}

/// Who announces Service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvertiseStyle {
    /// Every node for itself.
    Node,
    /// Chosen nodes for all.
    Speakers,
}

/// What takes a node out of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainSignal {
    /// The annotation `ferrovia.dev/drain`.
    Annotation,
    /// The kubelet says that the host is shutting down.
    Shutdown,
    /// One of `--drain-taints`.
    Taint,
    /// The node is cordoned.
    Cordon,
}

/// How a node is taken out of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// `--drain-signals`.
    pub signals: BTreeSet<DrainSignal>,
    /// `--drain-taints`.
    pub taints: BTreeSet<String>,
    /// `--drain-tag-time`.
    pub tag: Duration,
    /// `--drain-settle-time`.
    pub settle: Duration,
}

impl RouterConfig {
    /// How often everything is compared with the kernel: the shorter of the two periods.
    pub fn resync(&self) -> Duration {
        self.sync_period.min(self.injected_sync_period)
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// IP in IP (RFC 2003).
    Ipip,
    /// Foo over UDP, to this port.
    Fou {
        /// UDP destination port, 1024 or higher.
        port: u16,
    },
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

/// Graceful restart (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long peers keep our routes.
    pub restart_time: Duration,
    /// How long to wait for all peers.
    pub deferral_time: Duration,
}

/// An external peer given by flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: Asn,
    /// Its port.
    pub port: u16,
    /// Its TCP-MD5 password, decoded.
    pub password: Option<Secret>,
}

/// Files with what the administration API proves itself by and asks of clients, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The key of that.
    pub key: PathBuf,
    /// Who may sign the certificates of clients.
    pub client_authority: PathBuf,
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

const HOUR: u64 = 3600;

pub(super) fn build(check: &mut Check, flags: &Flags) -> RouterConfig {
    let encapsulation = encapsulation(check, flags);
    let bfd = bfd(check, flags);
    RouterConfig {
        sync_period: check.period("routes-sync-period", flags.routes_sync_period),
        injected_sync_period: check.period("injected-routes-sync-period", flags.injected_routes_sync_period),
        enable_cni: flags.enable_cni,
        cni_gate: cni_gate(check, flags),
        auto_mtu: flags.auto_mtu,
        pod_egress: flags.enable_pod_egress,
        overlay: match flags.overlay_type.as_str() {
            "subnet" if flags.enable_overlay => OverlayScope::OtherSubnets,
            "full" if flags.enable_overlay => OverlayScope::All,
            _ => OverlayScope::Off,
        },
        encapsulation,
        cluster_asn: cluster_asn(check, flags.cluster_asn),
        full_mesh: flags.nodes_full_mesh,
        ibgp: flags.enable_ibgp,
        router_id: router_id(check, &flags.router_id),
        bgp_port: port(check, "bgp-port", u64::from(flags.bgp_port)),
        hold_time: check.within("bgp-holdtime", flags.bgp_holdtime, Duration::from_secs(3), Duration::from_secs(65536)),
        graceful_restart: flags.bgp_graceful_restart.then(|| graceful_restart(check, flags)),
        peers: peers(check, flags),
        passwords_file: Some(flags.peer_router_passwords_file.clone())
            .filter(|path| !path.as_os_str().is_empty() && flags.peer_router_passwords.is_empty()),
        multihop_ttl: flags.peer_router_multihop_ttl,
        override_next_hop: flags.override_nexthop,
        advertise_cluster_ip: flags.advertise_cluster_ip,
        advertise_external_ip: flags.advertise_external_ip,
        advertise_load_balancer_ip: flags.advertise_loadbalancer_ip,
        advertise_pod_cidr: flags.advertise_pod_cidr,
        bfd: Some(bfd).filter(|_| flags.enable_bfd),
        bfd_defaults: bfd,
        allowed_imports: check.prefixes("allowed-import-prefixes", &flags.allowed_import_prefixes),
        admin_address: admin_address(flags),
        admin_tls: admin_tls(check, flags),
        admin_port: Some(flags.gobgp_admin_port).filter(|port| *port != 0),
        disable_source_dest_check: flags.disable_source_dest_check,
        advertise_style: one_of(
            check,
            "advertise-style",
            &flags.advertise_style,
            [("node", AdvertiseStyle::Node), ("speakers", AdvertiseStyle::Speakers)],
        ),
        speaker_selector: speaker_selector(check, &flags.speaker_selector),
        return_path: one_of(check, "return-path", &flags.return_path, [("off", false), ("peer", true)]),
        graceful_shutdown: flags.bgp_graceful_shutdown,
        drain: drain(check, flags),
        shutdown_inhibit: flags.shutdown_inhibit,
    }
}

/// One of two words; the first stands in for any other.
/// A gate that nobody opens, or that is not there although it was asked for, is a mistake to hear of at once.
fn cni_gate(check: &mut Check, flags: &Flags) -> bool {
    for (flag, on) in [("run-router", flags.run_router), ("enable-cni", flags.enable_cni)] {
        if flags.cni_gate && !on {
            check.fault("cni-gate", true, format!("needs --{flag}, which keeps the CNI configuration"));
        }
    }
    flags.cni_gate
}

fn one_of<T: Copy>(check: &mut Check, flag: &'static str, text: &str, words: [(&str, T); 2]) -> T {
    let [(first, fallback), (second, _)] = words;
    words.into_iter().find(|(word, _)| *word == text).map_or_else(
        || {
            check.fault(flag, text, format!("must be {first} or {second}"));
            fallback
        },
        |(_, value)| value,
    )
}

fn speaker_selector(check: &mut Check, text: &str) -> String {
    let has_key = |term: &str| !term.trim().is_empty() && !term.trim_start().starts_with('=');
    if !text.is_empty() && !text.split(',').all(has_key) {
        check.fault("speaker-selector", text, "must be a comma list of labels, each KEY or KEY=VALUE");
    }
    text.to_owned()
}

fn drain(check: &mut Check, flags: &Flags) -> Drain {
    let mut signals = BTreeSet::new();
    for name in flags.drain_signals.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        signals.insert(match name {
            "annotation" => DrainSignal::Annotation,
            "shutdown" => DrainSignal::Shutdown,
            "taint" => DrainSignal::Taint,
            "cordon" => DrainSignal::Cordon,
            other => {
                check.fault("drain-signals", other, "must be annotation, shutdown, taint or cordon");
                continue;
            }
        });
    }
    Drain {
        signals,
        taints: flags.drain_taints.iter().filter(|taint| !taint.is_empty()).cloned().collect(),
        tag: check.duration("drain-tag-time", flags.drain_tag_time),
        settle: check.duration("drain-settle-time", flags.drain_settle_time),
    }
}

fn admin_address(flags: &Flags) -> IpAddr {
    flags.gobgp_admin_address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Whoever reaches the API can reset sessions and announce routes, so that other hosts have to prove who they are.
fn admin_tls(check: &mut Check, flags: &Flags) -> Option<AdminTls> {
    let files = [
        ("gobgp-admin-tls-cert", &flags.gobgp_admin_tls_cert),
        ("gobgp-admin-tls-key", &flags.gobgp_admin_tls_key),
        ("gobgp-admin-tls-client-ca", &flags.gobgp_admin_tls_client_ca),
    ];
    let missing: Vec<&'static str> =
        files.iter().filter(|(_, path)| path.as_os_str().is_empty()).map(|(flag, _)| *flag).collect();
    match missing.as_slice() {
        [] => Some(AdminTls {
            certificate: flags.gobgp_admin_tls_cert.clone(),
            key: flags.gobgp_admin_tls_key.clone(),
            client_authority: flags.gobgp_admin_tls_client_ca.clone(),
        }),
        [_, _, _] => {
            let address = admin_address(flags);
            if !address.is_loopback() && flags.gobgp_admin_port != 0 {
                let reason = "other hosts reach this address, so it needs --gobgp-admin-tls-cert, \
                              --gobgp-admin-tls-key and --gobgp-admin-tls-client-ca; or use 127.0.0.1";
                check.fault("gobgp-admin-address", address, reason);
            }
            None
        }
        some => {
            let others: Vec<String> = some.iter().map(|flag| format!("--{flag}")).collect();
            for (flag, path) in files.iter().filter(|(flag, _)| !some.contains(flag)) {
                check.fault(flag, path.display(), format!("needs {} beside it", others.join(" and ")));
            }
            None
        }
    }
}

fn encapsulation(check: &mut Check, flags: &Flags) -> Encapsulation {
    // The port is checked even where ipip does not use it: so does kube-router.
    let port = check.number("overlay-encap-port", flags.overlay_encap_port, 1024, u16::MAX);
    match flags.overlay_encap.as_str() {
        "ipip" => Encapsulation::Ipip,
        "fou" => Encapsulation::Fou { port },
        other => {
            check.fault("overlay-encap", other, "must be ipip or fou");
            Encapsulation::Ipip
        }
    }
}

/// AS numbers for private use (RFC 6996), with the default for none.
fn cluster_asn(check: &mut Check, number: u64) -> Asn {
    match u32::try_from(number) {
        Ok(0) => Asn(64512),
        Ok(asn @ (64512..=65535 | 4_200_000_000..=4_294_967_294)) => Asn(asn),
        _ => {
            let reason = "must be a private AS number: 64512-65535 or 4200000000-4294967294";
            check.fault("cluster-asn", number, reason);
            Asn(64512)
        }
    }
}

fn router_id(check: &mut Check, text: &str) -> RouterId {
    match text {
        "" => RouterId::NodeAddress,
        "generate" => RouterId::Generate,
        other => other.parse().map_or_else(
            |_| {
                check.fault("router-id", other, "must be an IPv4 address or the word generate");
                RouterId::NodeAddress
            },
            RouterId::Fixed,
        ),
    }
}

fn port(check: &mut Check, flag: &'static str, number: u64) -> u16 {
    u16::try_from(check.number(flag, number, 1, u64::from(u16::MAX))).unwrap_or(u16::MAX)
}

fn graceful_restart(check: &mut Check, flags: &Flags) -> GracefulRestart {
    let least = Duration::from_nanos(1);
    GracefulRestart {
        restart_time: check.within(
            "bgp-graceful-restart-time",
            flags.bgp_graceful_restart_time,
            least,
            Duration::from_secs(4095),
        ),
        deferral_time: check.within(
            "bgp-graceful-restart-deferral-time",
            flags.bgp_graceful_restart_deferral_time,
            least,
            Duration::from_secs(18 * HOUR),
        ),
    }
}

fn bfd(check: &mut Check, flags: &Flags) -> Bfd {
    let interval =
        |check: &mut Check, flag, value| Duration::from_millis(u64::from(check.number(flag, value, 1, 4_294_967)));
    Bfd {
        port: port(check, "bfd-port", u64::from(flags.bfd_port)),
        detection_multiplier: u8::try_from(check.number(
            "bfd-detection-multiplier",
            flags.bfd_detection_multiplier,
            1,
            255,
        ))
        .unwrap_or(u8::MAX),
        desired_min_tx: interval(check, "bfd-desired-min-tx-interval", flags.bfd_desired_min_tx_interval),
        required_min_rx: interval(check, "bfd-required-min-rx-interval", flags.bfd_required_min_rx_interval),
    }
}

/// Joins the lists by position.
fn peers(check: &mut Check, flags: &Flags) -> Vec<Peer> {
    let n_peers = flags.peer_router_ips.len();
    let mut count = |flag: &'static str, n_values: usize, may_be_empty: bool| {
        if n_values != n_peers && !(may_be_empty && n_values == 0) {
            let reason = format!("has {n_values} entries for the {n_peers} of --peer-router-ips; give one for each");
            check.fault(flag, "…", reason);
        }
    };
    count("peer-router-asns", flags.peer_router_asns.len(), false);
    count("peer-router-ports", flags.peer_router_ports.len(), true);
    count("peer-router-passwords", flags.peer_router_passwords.len(), true);
    let passwords = decoded_passwords(check, &flags.peer_router_passwords);
    let ports: Vec<u16> =
        flags.peer_router_ports.iter().map(|number| port(check, "peer-router-ports", *number)).collect();
    let asns: Vec<Asn> = flags.peer_router_asns.iter().map(|number| peer_asn(check, *number)).collect();
    let ports = ports.into_iter().chain(std::iter::repeat(179));
    let passwords = passwords.into_iter().chain(std::iter::repeat(None));
    flags
        .peer_router_ips
        .iter()
        .zip(asns)
        .zip(ports)
        .zip(passwords)
        .map(|(((address, asn), port), password)| Peer { address: *address, asn, port, password })
        .collect()
}

fn peer_asn(check: &mut Check, number: u64) -> Asn {
    Asn(u32::try_from(check.number("peer-router-asns", number, 1, 4_294_967_294)).unwrap_or(1))
}

fn decoded_passwords(check: &mut Check, secrets: &[Secret]) -> Vec<Option<Secret>> {
    secrets
        .iter()
        .enumerate()
        .map(|(n, secret)| {
            if secret.reveal().is_empty() {
                return None;
            }
            let plain = BASE64.decode(secret.reveal()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            if plain.is_none() {
                let reason = format!("entry {} is not base64 of a text", n.saturating_add(1));
                check.fault("peer-router-passwords", "<redacted>", reason);
            }
            plain.map(Secret::new)
        })
        .collect()
}
