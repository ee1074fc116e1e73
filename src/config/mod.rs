//! Validated configuration: after this file every value is a type.
//!
//! [`Config::new`] checks everything and reports every fault at once. No room sees the whole of it: `app` fills each
//! room's own small configuration from these plain fields. Nothing here opens a file or asks the kernel.

mod check;
mod router;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use check::{BindHost, ConfigError, ConfigErrors};
pub use router::{
    AdvertiseStyle, Asn, Bfd, Drain, DrainSignal, Encapsulation, GracefulRestart, OverlayScope, Peer, RouterConfig,
    RouterId,
};

use crate::cli::Flags;
use crate::net::{Family, Prefix};
use check::Check;

/// Everything the daemon was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What runs.
    pub features: Features,
    /// `--cleanup-config`: remove what is ours and end.
    pub cleanup: bool,
    /// Where the cluster comes from.
    pub source: Source,
    /// `--hostname-override` or `NODE_NAME`; `None` for the host name.
    pub node_name: Option<String>,
    /// `--cache-sync-timeout`.
    pub cache_sync_timeout: Duration,
    /// Families to program, IPv4 first; at least one.
    pub families: Vec<Family>,
    /// The health server, unless its port is 0.
    pub health: Option<Listen>,
    /// The metrics server, unless its port is 0 or 65535.
    pub metrics: Option<Listen>,
    /// `--metrics-path`, beginning with a slash.
    pub metrics_path: String,
    /// `--enable-pprof`.
    pub pprof: bool,
    /// `-v`.
    pub verbosity: i32,
    /// `--log-format=json`.
    pub log_json: bool,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--admin-socket`, unless empty.
    pub admin_socket: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: PathBuf,
    /// Which addresses Services may have.
    pub addresses: AddressConfig,
    /// The service proxy.
    pub proxy: ProxyConfig,
    /// The router.
    pub router: RouterConfig,
    /// The firewall.
    pub firewall: FirewallConfig,
    /// `--firewall-backend`: where the rules of all rooms are written.
    pub rule_backend: RuleBackend,
    /// The load balancer allocator.
    pub balancer: BalancerConfig,
}

/// Where rules are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleBackend {
    /// nftables where the kernel has it, else iptables.
    #[default]
    Auto,
    /// nftables over netlink.
    Nftables,
    /// iptables by the node's programs, and ipset.
    Iptables,
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `--run-service-proxy`.
    pub proxy: bool,
    /// `--run-router`.
    pub router: bool,
    /// `--run-firewall`.
    pub firewall: bool,
    /// `--run-loadbalancer`.
    pub balancer: bool,
}

impl Features {
    /// True where none of the three features that can run alone is on.
    pub fn nothing_to_run(&self) -> bool {
        !self.proxy && !self.router && !self.firewall
    }
}

/// Where the cluster comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An API server.
    Api {
        /// `--kubeconfig`.
        kubeconfig: Option<PathBuf>,
        /// `--master`.
        master: Option<String>,
    },
    /// A folder of YAML (`--manifests`).
    Folder(PathBuf),
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub host: BindHost,
    /// The port, not 0.
    pub port: u16,
}

/// Which addresses Services may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressConfig {
    /// `--service-cluster-ip-range`, one or two.
    pub cluster_ip_ranges: Vec<Prefix>,
    /// `--service-external-ip-range`.
    pub external_ip_ranges: Vec<Prefix>,
    /// `--loadbalancer-ip-range`.
    pub load_balancer_ip_ranges: Vec<Prefix>,
    /// `--strict-external-ip-validation`.
    pub strict_external_ip_validation: bool,
    /// `--service-node-port-range`.
    pub node_port_range: RangeInclusive<u16>,
}

/// The service proxy's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `--ipvs-sync-period`.
    pub sync_period: Duration,
    /// `--ipvs-graceful-termination`.
    pub graceful_termination: bool,
    /// `--ipvs-graceful-period`.
    pub graceful_period: Duration,
    /// `--ipvs-permit-all`.
    pub permit_all: bool,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// `--nodeport-bindon-all-ip`.
    pub node_port_bind_all: bool,
    /// `--hairpin-mode`.
    pub hairpin_mode: bool,
    /// `--excluded-cidrs`.
    pub excluded_cidrs: Vec<Prefix>,
    /// `--runtime-endpoint`: the socket's path, without `unix://`.
    pub runtime_endpoint: Option<PathBuf>,
    /// `--service-tcp-timeout`, whole seconds; zero keeps the kernel's value.
    pub tcp_timeout: Duration,
    /// `--service-tcpfin-timeout`, whole seconds; zero keeps the kernel's value.
    pub tcp_fin_timeout: Duration,
    /// `--service-udp-timeout`, whole seconds; zero keeps the kernel's value.
    pub udp_timeout: Duration,
    /// `--vip-binding`.
    pub vip_binding: VipBinding,
}

/// How VIPs become local to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VipBinding {
    /// Addresses while there are few, routes beyond that.
    #[default]
    Auto,
    /// Each as an address of `kube-dummy-if`.
    Address,
    /// Each as a local route.
    Route,
}

/// The firewall's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirewallConfig {
    /// `--iptables-sync-period`.
    pub sync_period: Duration,
    /// `--netpol-default-deny`.
    pub default_deny: bool,
    /// `--legacy-namespace-isolation`.
    pub legacy_isolation: bool,
    /// `--log-denied`.
    pub log_denied: bool,
}

/// The load balancer allocator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalancerConfig {
    /// `--loadbalancer-default-class`.
    pub default_class: bool,
    /// `--loadbalancer-sync-period`.
    pub sync_period: Duration,
}

/// What the configuration is for: the daemon is stricter than a look at decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run as a daemon.
    Daemon,
    /// To print what would be decided.
    Render,
}

impl Config {
    /// Validate the flags.
    ///
    /// # Errors
    /// Every fault found: the flag, its value, and what to do.
    pub fn new(flags: &Flags, purpose: Purpose) -> Result<Config, ConfigErrors> {
        let mut check = Check::default();
        if purpose == Purpose::Daemon && !flags.cleanup_config {
            check_features(&mut check, flags);
        }
        let families = families(&mut check, flags);
        let health_host = check.host("health-addr", &flags.health_addr);
        let metrics_host = check.host("metrics-addr", &flags.metrics_addr);
        if !flags.metrics_path.starts_with('/') || flags.metrics_path.contains(['{', '}', '*']) {
            check.fault("metrics-path", &flags.metrics_path, "must begin with / and hold none of { } *");
        }
        let config = Config {
            features: Features {
                proxy: flags.run_service_proxy,
                router: flags.run_router,
                firewall: flags.run_firewall,
                balancer: flags.run_loadbalancer,
            },
            cleanup: flags.cleanup_config,
            source: source(&mut check, flags),
            node_name: Some(flags.hostname_override.clone()).filter(|name| !name.is_empty()),
            cache_sync_timeout: check.period("cache-sync-timeout", flags.cache_sync_timeout),
            health: (flags.health_port != 0).then_some(Listen { host: health_host, port: flags.health_port }),
            metrics: (!matches!(flags.metrics_port, 0 | 65535))
                .then_some(Listen { host: metrics_host, port: flags.metrics_port }),
            metrics_path: flags.metrics_path.clone(),
            pprof: flags.enable_pprof,
            verbosity: verbosity(&mut check, &flags.v),
            log_json: log_json(&mut check, &flags.log_format),
            dry_run: flags.dry_run,
            admin_socket: Some(flags.admin_socket.clone()).filter(|path| !path.as_os_str().is_empty()),
            state_dir: flags.state_dir.clone(),
            addresses: addresses(&mut check, flags, &families),
            proxy: proxy(&mut check, flags),
            router: router::build(&mut check, flags),
            firewall: FirewallConfig {
                sync_period: check.period("iptables-sync-period", flags.iptables_sync_period),
                default_deny: flags.netpol_default_deny,
                legacy_isolation: flags.legacy_namespace_isolation,
                log_denied: flags.log_denied,
            },
            rule_backend: rule_backend(&mut check, flags),
            balancer: BalancerConfig {
                default_class: flags.loadbalancer_default_class,
                sync_period: check.duration("loadbalancer-sync-period", flags.loadbalancer_sync_period),
            },
            families,
        };
        check.finish(config)
    }
}

/// The features this version does not have: flag, and what it would run.
const ABSENT: [(&str, &str); 1] = [("run-loadbalancer", "the load balancer allocator is")];

fn check_features(check: &mut Check, flags: &Flags) {
    let asked = [flags.run_loadbalancer];
    for ((flag, part), _) in ABSENT.iter().zip(asked).filter(|(_, asked)| *asked) {
        check.fault(flag, "true", format!("{part} not part of this version; start with --{flag}=false"));
    }
}

fn families(check: &mut Check, flags: &Flags) -> Vec<Family> {
    let enabled = [(flags.enable_ipv4, Family::V4), (flags.enable_ipv6, Family::V6)];
    let families: Vec<Family> = enabled.into_iter().filter(|(on, _)| *on).map(|(_, family)| family).collect();
    if families.is_empty() {
        check.fault("enable-ipv4", "false", "enable at least one of --enable-ipv4 and --enable-ipv6");
    }
    families
}

fn source(check: &mut Check, flags: &Flags) -> Source {
    if flags.manifests.as_os_str().is_empty() {
        if !flags.master.is_empty() && flags.master.parse::<http::Uri>().is_err() {
            check.fault("master", &flags.master, "is not an address such as https://10.0.0.1:6443");
        }
        return Source::Api {
            kubeconfig: Some(flags.kubeconfig.clone()).filter(|path| !path.as_os_str().is_empty()),
            master: Some(flags.master.clone()).filter(|master| !master.is_empty()),
        };
    }
    if !flags.kubeconfig.as_os_str().is_empty() || !flags.master.is_empty() {
        let reason = "cannot be combined with --kubeconfig or --master: the cluster comes from one place";
        check.fault("manifests", flags.manifests.display(), reason);
    }
    Source::Folder(flags.manifests.clone())
}

fn verbosity(check: &mut Check, text: &str) -> i32 {
    text.parse().unwrap_or_else(|_| {
        check.fault("v", text, "must be a whole number");
        0
    })
}

fn log_json(check: &mut Check, text: &str) -> bool {
    if !matches!(text, "text" | "json") {
        check.fault("log-format", text, "must be text or json");
    }
    text == "json"
}

fn addresses(check: &mut Check, flags: &Flags, families: &[Family]) -> AddressConfig {
    let n_ranges = flags.service_cluster_ip_range.len();
    if n_ranges == 0 || n_ranges > 2 {
        let reason = format!("has {n_ranges} ranges; give one for each family of the cluster");
        check.fault("service-cluster-ip-range", flags.service_cluster_ip_range.join(","), reason);
    }
    AddressConfig {
        cluster_ip_ranges: check.enabled_prefixes(
            "service-cluster-ip-range",
            &flags.service_cluster_ip_range,
            families,
        ),
        external_ip_ranges: check.enabled_prefixes(
            "service-external-ip-range",
            &flags.service_external_ip_range,
            families,
        ),
        load_balancer_ip_ranges: check.enabled_prefixes(
            "loadbalancer-ip-range",
            &flags.loadbalancer_ip_range,
            families,
        ),
        strict_external_ip_validation: flags.strict_external_ip_validation,
        node_port_range: node_port_range(check, &flags.service_node_port_range),
    }
}

fn node_port_range(check: &mut Check, text: &str) -> RangeInclusive<u16> {
    let ends = text.split_once(['-', ':']).and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match ends {
        Some((first, last)) if first < last => first..=last,
        _ => {
            let reason = "must be two ports, the lower one first, such as 30000-32767 or 30000:32767";
            check.fault("service-node-port-range", text, reason);
            0..=0
        }
    }
}

fn proxy(check: &mut Check, flags: &Flags) -> ProxyConfig {
    ProxyConfig {
        sync_period: check.period("ipvs-sync-period", flags.ipvs_sync_period),
        graceful_termination: flags.ipvs_graceful_termination,
        graceful_period: check.duration("ipvs-graceful-period", flags.ipvs_graceful_period),
        permit_all: flags.ipvs_permit_all,
        masquerade_all: flags.masquerade_all,
        node_port_bind_all: flags.nodeport_bindon_all_ip,
        hairpin_mode: flags.hairpin_mode,
        excluded_cidrs: check.prefixes("excluded-cidrs", &flags.excluded_cidrs),
        runtime_endpoint: runtime_endpoint(check, &flags.runtime_endpoint),
        tcp_timeout: check.timeout("service-tcp-timeout", flags.service_tcp_timeout),
        tcp_fin_timeout: check.timeout("service-tcpfin-timeout", flags.service_tcpfin_timeout),
        udp_timeout: check.timeout("service-udp-timeout", flags.service_udp_timeout),
        vip_binding: vip_binding(check, &flags.vip_binding),
    }
}

/// The container runtime's socket: `unix:///path`, or the path alone.
fn runtime_endpoint(check: &mut Check, text: &str) -> Option<PathBuf> {
    if text.is_empty() {
        return None;
    }
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if !path.starts_with('/') {
        check.fault("runtime-endpoint", text, "must be a socket such as unix:///run/containerd/containerd.sock");
    }
    Some(PathBuf::from(path))
}

fn vip_binding(check: &mut Check, text: &str) -> VipBinding {
    match text {
        "auto" => VipBinding::Auto,
        "address" => VipBinding::Address,
        "route" => VipBinding::Route,
        other => {
            check.fault("vip-binding", other, "must be auto, address or route");
            VipBinding::Auto
        }
    }
}

/// `--use-nftables-for-netpol` is the older word for nftables; that it is off chooses nothing.
fn rule_backend(check: &mut Check, flags: &Flags) -> RuleBackend {
    match flags.firewall_backend.as_str() {
        "auto" if flags.use_nftables_for_netpol => RuleBackend::Nftables,
        "auto" => RuleBackend::Auto,
        "nftables" => RuleBackend::Nftables,
        "iptables" => {
            if flags.use_nftables_for_netpol {
                let message =
                    "contradicts --firewall-backend=iptables: policies go where all rules go; leave one of the two out";
                check.fault("use-nftables-for-netpol", "true", message);
            }
            RuleBackend::Iptables
        }
        other => {
            check.fault("firewall-backend", other, "must be auto, nftables or iptables");
            RuleBackend::Auto
        }
    }
}
