//! Every flag, once: name, syntax, default and help. The parser, the configuration file, the help screen and the
//! generated documents all read this table.
//!
//! The order within a group is the order of the help screen. The flags of kube-router keep its names and defaults.
//!
//! This file is long because it is a table with one entry for each flag.

use std::net::IpAddr;
use std::path::PathBuf;

use super::value::{FlagValue, GoDuration, Secret, Syntax};

/// The groups of the help screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// What runs and where it listens.
    General,
    /// Which addresses Services may have.
    ServiceAddresses,
    /// Services on IPVS.
    ServiceProxy,
    /// Pod networking and BGP.
    Router,
    /// NetworkPolicy.
    Firewall,
    /// Addresses for Services of type LoadBalancer.
    Balancer,
    /// What kube-router does not have.
    Own,
}

impl Group {
    /// All of them, in the order of the help screen.
    pub const ALL: [Group; 7] = [
        Group::General,
        Group::ServiceAddresses,
        Group::ServiceProxy,
        Group::Router,
        Group::Firewall,
        Group::Balancer,
        Group::Own,
    ];

    /// The heading on the help screen and in documents.
    pub fn heading(self) -> &'static str {
        match self {
            Group::General => "General",
            Group::ServiceAddresses => "Service addresses",
            Group::ServiceProxy => "Service proxy",
            Group::Router => "Router and BGP",
            Group::Firewall => "Firewall",
            Group::Balancer => "Load balancer allocator",
            Group::Own => "Ferrovia's own",
        }
    }
}

/// What this version does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does what its help says.
    Works,
    /// Read and validated, but the part it belongs to is not in this version.
    NotYet,
    /// It does something else than in kube-router, for a reason.
    Differs(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The name, without dashes.
    pub name: &'static str,
    /// How its value is written.
    pub syntax: Syntax,
    /// True where its value must not be shown.
    pub secret: bool,
    /// The value it has when nobody sets it; empty for "none".
    pub default: &'static str,
    /// Where it stands on the help screen.
    pub group: Group,
    /// What it means.
    pub help: &'static str,
}

impl Flag {
    /// The one-letter form.
    pub fn short(&self) -> Option<char> {
        match self.name {
            "v" => Some('v'),
            "version" => Some('V'),
            "help" => Some('h'),
            _ => None,
        }
    }

    /// The environment variable that sets it when the command line does not.
    pub fn env(&self) -> Option<&'static str> {
        (self.name == "hostname-override").then_some("NODE_NAME")
    }

    /// True where it may stand in a configuration file.
    pub fn in_file(&self) -> bool {
        !matches!(self.name, "config" | "help" | "version" | "cleanup-config")
    }

    /// True where it changes what the service proxy, the router or the firewall decides: `render` takes these.
    pub fn decides(&self) -> bool {
        match self.group {
            Group::ServiceAddresses | Group::ServiceProxy => true,
            Group::General => matches!(self.name, "enable-ipv4" | "enable-ipv6" | "help"),
            Group::Own => matches!(
                self.name,
                "vip-binding"
                    | "config"
                    | "allowed-import-prefixes"
                    | "advertise-style"
                    | "speaker-selector"
                    | "return-path"
                    | "bgp-graceful-shutdown"
                    | "drain-signals"
                    | "drain-taints"
                    | "legacy-namespace-isolation"
            ),
            Group::Firewall => self.name == "netpol-default-deny",
            Group::Router => !matches!(
                self.name,
                "routes-sync-period"
                    | "injected-routes-sync-period"
                    | "peer-router-passwords-file"
                    | "gobgp-admin-address"
                    | "gobgp-admin-port"
                    | "disable-source-dest-check"
            ),
            Group::Balancer => false,
        }
    }

    /// What this version does with it.
    pub fn standing(&self) -> Standing {
        if let Some((_, how)) = DIFFERENT.iter().find(|(name, _)| *name == self.name) {
            return Standing::Differs(how);
        }
        match self.group {
            Group::Balancer => Standing::NotYet,
            _ if self.name == "run-loadbalancer" => Standing::NotYet,
            _ => Standing::Works,
        }
    }
}

/// The flags whose meaning differs from kube-router's on purpose, with what is different.
pub const DIFFERENT: &[(&str, &str)] = &[
    ("auto-mtu", "leaves room for the headers of the overlay; kube-router gives pods the whole link"),
    (
        "disable-source-dest-check",
        "each machine for itself, in builds with the feature aws; kube-router does it for all nodes",
    ),
    ("enable-pprof", "listens on 127.0.0.1:6060 only; kube-router listens on every address, without a password"),
    ("version", "prints to standard output, in this program's own form"),
    ("cleanup-config", "removes only what is ours; virtual servers inside --excluded-cidrs stay"),
    ("excluded-cidrs", "covers the addresses on the dummy link as well; kube-router removes those"),
    ("hairpin-mode", "without effect: pods always reach themselves through their Services"),
    ("ipvs-permit-all", "false also removes the filter of an earlier run; kube-router leaves it in force"),
    (
        "iptables-sync-period",
        "a change is programmed at once; the period is only for comparing everything with the kernel",
    ),
    (
        "netpol-default-deny",
        "drops silently; kube-router refuses. Once there is a policy it holds without the flag, too",
    ),
    (
        "use-nftables-for-netpol",
        "deprecated: true is --firewall-backend=nftables, for all rules, and refused beside --firewall-backend=iptables; false \
         chooses nothing",
    ),
    ("ipvs-sync-period", "a change is programmed at once; the period is only for comparing everything with the kernel"),
];

/// Where the value of a flag came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    CommandLine,
}

/// The texts a flag was given, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// By whom.
    pub origin: Origin,
    /// Every occurrence, in order; never empty.
    pub texts: Vec<String>,
}

/// A value that does not fit its flag's syntax.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {shown} for --{flag}{}: {reason}", origin_note(*origin))]
pub struct ValueError {
    /// The flag.
    pub flag: &'static str,
    /// The value, or a stand-in for a secret.
    pub shown: String,
    /// Who gave it.
    pub origin: Origin,
    /// What is wrong.
    pub reason: String,
}

fn origin_note(origin: Origin) -> &'static str {
    match origin {
        Origin::Default | Origin::CommandLine => "",
        Origin::File => " in the configuration file",
        Origin::Environment => " from the environment",
    }
}

fn read_one<T: FlagValue>(flag: &Flag, given: &Given) -> Result<T, ValueError> {
    T::parse(&given.texts).map_err(|reason| ValueError {
        flag: flag.name,
        shown: if T::SECRET { "<redacted>".to_owned() } else { format!("{:?}", given.texts.join(",")) },
        origin: given.origin,
        reason,
    })
}

macro_rules! flags {
    ($( $group:ident { $( $field:ident, $name:literal, $type:ty = $default:literal, $help:literal; )* } )*) => {
        /// The value of every flag, typed but not yet validated.
        #[derive(Clone, Debug)]
        #[allow(missing_docs, reason = "every field is documented in the table, where help and documents read it")]
        pub struct Flags { $( $( pub $field: $type, )* )* }

        /// All flags, in the order of the help screen.
        pub const FLAGS: &[Flag] = &[ $( $( Flag {
            name: $name,
            syntax: <$type as FlagValue>::SYNTAX,
            secret: <$type as FlagValue>::SECRET,
            default: $default,
            group: Group::$group,
            help: $help,
        }, )* )* ];

        impl Flags {
            /// Read every flag from what was given for it.
            ///
            /// # Errors
            /// The first value that does not fit its flag's syntax.
            #[allow(clippy::too_many_lines, reason = "one line for each flag, written by the table")]
            pub(super) fn read(given: impl Fn(&Flag) -> Given) -> Result<Flags, ValueError> {
                Ok(Flags { $( $( $field: {
                    const FLAG: Flag = Flag {
                        name: $name,
                        syntax: <$type as FlagValue>::SYNTAX,
                        secret: <$type as FlagValue>::SECRET,
                        default: $default,
                        group: Group::$group,
                        help: $help,
                    };
                    read_one(&FLAG, &given(&FLAG))?
                }, )* )* })
            }
        }
    };
}

flags! {
    General {
        run_router, "run-router", bool = "true",
            "Run the router: pod networking, overlays and BGP";
        run_firewall, "run-firewall", bool = "true",
            "Run the firewall: NetworkPolicy for the pods of this node";
        run_service_proxy, "run-service-proxy", bool = "true",
            "Run the service proxy: cluster, external, load balancer and node port addresses on IPVS";
        run_loadbalancer, "run-loadbalancer", bool = "false",
            "Run the allocator that gives addresses to Services of type LoadBalancer";
        kubeconfig, "kubeconfig", PathBuf = "",
            "Kubeconfig file; without it and --master the service account of the pod is used";
        master, "master", String = "",
            "Address of the API server, such as https://10.0.0.1:6443; overrides the one in the kubeconfig";
        hostname_override, "hostname-override", String = "",
            "Name of this machine's Node object, where it is not the host name";
        cache_sync_timeout, "cache-sync-timeout", GoDuration = "1m",
            "How long the first read of the cluster may take before the program gives up";
        cleanup_config, "cleanup-config", bool = "false",
            "Remove everything this program left in the kernel, then exit";
        enable_ipv4, "enable-ipv4", bool = "true",
            "Expect IPv4: ranges may be IPv4, and the node must have an IPv4 address";
        enable_ipv6, "enable-ipv6", bool = "false",
            "Expect IPv6: ranges may be IPv6, and the node must have an IPv6 address";
        health_addr, "health-addr", String = "",
            "Address of the health server (/healthz, /readyz), an IPv6 one in brackets; empty for all addresses";
        health_port, "health-port", u16 = "20244",
            "Port of the health server; 0 turns it off";
        metrics_addr, "metrics-addr", String = "",
            "Address of the metrics server, an IPv6 one in brackets; empty for all addresses";
        metrics_port, "metrics-port", u16 = "0",
            "Port of the metrics server; 0 and 65535 turn it off";
        metrics_path, "metrics-path", String = "/metrics",
            "Path under which Prometheus finds the metrics";
        enable_pprof, "enable-pprof", bool = "false",
            "Serve CPU profiles and task lists on 127.0.0.1:6060 under /debug";
        v, "v", String = "0",
            "How much to log: 0 state changes, 1 a little more, 2 one line for each pass, 3 every operation";
        version, "version", bool = "false",
            "Print the version and exit";
        help, "help", bool = "false",
            "Print this help and exit";
    }
    ServiceAddresses {
        service_cluster_ip_range, "service-cluster-ip-range", Vec<String> = "10.96.0.0/12",
            "The cluster's Service address ranges, at most one for each family, as the API server has them";
        service_external_ip_range, "service-external-ip-range", Vec<String> = "",
            "Ranges that spec.externalIPs may be taken from; with strict validation nothing else is served";
        loadbalancer_ip_range, "loadbalancer-ip-range", Vec<String> = "",
            "Ranges that load balancer addresses may be taken from; with strict validation nothing else is served";
        strict_external_ip_validation, "strict-external-ip-validation", bool = "true",
            "Refuse external and load balancer addresses outside the two ranges above, so that nobody can claim \
             an address that is not theirs";
        service_node_port_range, "service-node-port-range", String = "30000-32767",
            "The cluster's node port range, written 30000-32767 or 30000:32767";
    }
    ServiceProxy {
        ipvs_sync_period, "ipvs-sync-period", GoDuration = "5m",
            "How often everything is compared with the kernel and repaired";
        ipvs_graceful_termination, "ipvs-graceful-termination", bool = "false",
            "Let connections of a removed endpoint end before it is taken out of IPVS";
        ipvs_graceful_period, "ipvs-graceful-period", GoDuration = "30s",
            "How long that may take where the pod's own grace period is not known";
        ipvs_permit_all, "ipvs-permit-all", bool = "true",
            "Filter traffic to Service addresses: let in the ports that Services have, refuse the others";
        masquerade_all, "masquerade-all", bool = "false",
            "Give all Service traffic the address of this node as its source";
        nodeport_bindon_all_ip, "nodeport-bindon-all-ip", bool = "false",
            "Serve node ports on every local address, not only on the addresses of the Node object";
        hairpin_mode, "hairpin-mode", bool = "false",
            "Let pods reach themselves through their Service; here they always do, so this changes nothing";
        excluded_cidrs, "excluded-cidrs", Vec<String> = "",
            "Virtual servers in these ranges belong to somebody else and are never touched";
        runtime_endpoint, "runtime-endpoint", String = "",
            "Socket of the container runtime, such as unix:///run/containerd/containerd.sock; direct server return \
             needs it";
        service_tcp_timeout, "service-tcp-timeout", GoDuration = "0s",
            "IPVS timeout of idle TCP connections; 0 keeps the kernel's value";
        service_tcpfin_timeout, "service-tcpfin-timeout", GoDuration = "0s",
            "IPVS timeout of TCP connections after a FIN; 0 keeps the kernel's value";
        service_udp_timeout, "service-udp-timeout", GoDuration = "0s",
            "IPVS timeout of idle UDP flows; 0 keeps the kernel's value";
    }
    Router {
        routes_sync_period, "routes-sync-period", GoDuration = "5m",
            "How often routes, peers and overlays are compared and repaired";
        injected_routes_sync_period, "injected-routes-sync-period", GoDuration = "60s",
            "How often learned routes are compared with the kernel's";
        enable_cni, "enable-cni", bool = "true",
            "Write this node's pod ranges into the CNI configuration file (environment: KUBE_ROUTER_CNI_CONF_FILE)";
        auto_mtu, "auto-mtu", bool = "true",
            "Give bridge and CNI configuration the MTU of the node's interface";
        enable_pod_egress, "enable-pod-egress", bool = "true",
            "Masquerade traffic of pods that leaves the cluster";
        enable_overlay, "enable-overlay", bool = "true",
            "Tunnel pod traffic between nodes where needed";
        overlay_type, "overlay-type", String = "subnet",
            "Which nodes to tunnel to: subnet for those in other subnets, full for all; anything else for none";
        overlay_encap, "overlay-encap", String = "ipip",
            "Encapsulation of the tunnels: ipip or fou";
        overlay_encap_port, "overlay-encap-port", u16 = "5555",
            "UDP port of fou tunnels, 1024 or higher";
        cluster_asn, "cluster-asn", u64 = "0",
            "AS number of the cluster: 64512-65535 or 4200000000-4294967294; 0 stands for 64512";
        nodes_full_mesh, "nodes-full-mesh", bool = "true",
            "Peer with every node; false peers by node annotations (AS number, route reflectors)";
        enable_ibgp, "enable-ibgp", bool = "true",
            "Peer with other nodes at all";
        router_id, "router-id", String = "",
            "BGP identifier: an IPv4 address, or generate to derive one; empty for the node's IPv4 address";
        bgp_port, "bgp-port", u32 = "179",
            "Port to listen on, and the port of peers that are nodes";
        bgp_holdtime, "bgp-holdtime", GoDuration = "90s",
            "Hold time offered to external peers, 3s to 65536s";
        bgp_graceful_restart, "bgp-graceful-restart", bool = "false",
            "Keep forwarding while this program restarts (RFC 4724)";
        bgp_graceful_restart_time, "bgp-graceful-restart-time", GoDuration = "90s",
            "How long peers keep our routes while we restart, at most 4095s";
        bgp_graceful_restart_deferral_time, "bgp-graceful-restart-deferral-time", GoDuration = "360s",
            "How long to wait for all peers before choosing routes after a restart, at most 18h";
        peer_router_ips, "peer-router-ips", Vec<IpAddr> = "",
            "External peers of every node; where set, peer annotations are not read";
        peer_router_asns, "peer-router-asns", Vec<u64> = "",
            "AS number of each external peer, in the same order";
        peer_router_ports, "peer-router-ports", Vec<u64> = "",
            "Port of each external peer, in the same order; none for 179";
        peer_router_passwords, "peer-router-passwords", Vec<Secret> = "",
            "TCP-MD5 password of each external peer, base64, in the same order; an entry may be blank";
        peer_router_passwords_file, "peer-router-passwords-file", PathBuf = "",
            "File that holds the same list in one line; not read where the flag above is set";
        peer_router_multihop_ttl, "peer-router-multihop-ttl", u8 = "0",
            "Hops an external peer may be away; 2 and more turn multihop on";
        override_nexthop, "override-nexthop", bool = "false",
            "Announce this node as next hop of everything sent to external peers";
        advertise_cluster_ip, "advertise-cluster-ip", bool = "false",
            "Announce cluster addresses, unless the Service says otherwise";
        advertise_external_ip, "advertise-external-ip", bool = "false",
            "Announce external addresses, unless the Service says otherwise";
        advertise_loadbalancer_ip, "advertise-loadbalancer-ip", bool = "false",
            "Announce load balancer addresses, unless the Service says otherwise";
        advertise_pod_cidr, "advertise-pod-cidr", bool = "true",
            "Announce this node's pod ranges to external peers";
        enable_bfd, "enable-bfd", bool = "false",
            "Watch external peers given by flags with BFD (RFC 5880)";
        bfd_port, "bfd-port", u32 = "3784",
            "UDP port BFD packets are sent to";
        bfd_detection_multiplier, "bfd-detection-multiplier", u32 = "3",
            "Packets that may be lost before a peer counts as down, 1-255";
        bfd_desired_min_tx_interval, "bfd-desired-min-tx-interval", u32 = "1000",
            "Milliseconds between BFD packets we want to send, 1-4294967";
        bfd_required_min_rx_interval, "bfd-required-min-rx-interval", u32 = "1000",
            "Milliseconds between BFD packets we are able to receive, 1-4294967";
        gobgp_admin_address, "gobgp-admin-address", String = "127.0.0.1",
            "Address of the BGP administration API; anything that is no address stands for 127.0.0.1";
        gobgp_admin_port, "gobgp-admin-port", u16 = "50051",
            "Port of the BGP administration API; 0 turns it off";
        disable_source_dest_check, "disable-source-dest-check", bool = "true",
            "On AWS: let this machine forward packets of others";
    }
    Firewall {
        iptables_sync_period, "iptables-sync-period", GoDuration = "5m",
            "How often all policies are compared with the kernel and repaired";
        netpol_default_deny, "netpol-default-deny", bool = "false",
            "Let no traffic to or from a pod of this node before the pod is known, also where there is no policy";
        use_nftables_for_netpol, "use-nftables-for-netpol", bool = "false",
            "Use nftables, not iptables";
    }
    Balancer {
        loadbalancer_default_class, "loadbalancer-default-class", bool = "true",
            "Also serve Services without a load balancer class, and those of class default";
        loadbalancer_sync_period, "loadbalancer-sync-period", GoDuration = "1m",
            "How often all Services are looked at again";
    }
    Own {
        config, "config", PathBuf = "",
            "File with flags as keys, *.yaml or *.toml; the command line and the environment win over it";
        manifests, "manifests", PathBuf = "",
            "Folder of Kubernetes YAML to read the cluster from, not from an API server; changes are followed";
        allowed_import_prefixes, "allowed-import-prefixes", Vec<String> = "",
            "Routes inside these are used although they touch node, Service or pod addresses of the cluster; peers can \
             otherwise never lead those elsewhere";
        legacy_namespace_isolation, "legacy-namespace-isolation", bool = "false",
            "Heed the old namespace annotation net.beta.kubernetes.io/network-policy with ingress isolation DefaultDeny, \
             and tell the NetworkPolicy that does the same";
        vip_binding, "vip-binding", String = "auto",
            "How Service addresses become local: address puts each on kube-dummy-if, route adds a local route, auto \
             takes addresses while there are few";
        firewall_backend, "firewall-backend", String = "auto",
            "Where packet filter rules are written: nftables, iptables (with ipset, by the node's own programs), or auto, \
             nftables where the kernel has it";
        advertise_style, "advertise-style", String = "node",
            "Who announces Service addresses: node, each node for itself, or speakers, chosen nodes for all nodes with a \
             ready endpoint";
        speaker_selector, "speaker-selector", String = "",
            "Labels of the nodes that are speakers, such as dedicated=master; the annotation ferrovia.dev/speaker \
             overrides it";
        return_path, "return-path", String = "off",
            "Which way answers to clients outside the cluster go: peer for the external peer the question came through, \
             off for the node's own routes; the annotation ferrovia.dev/return-path overrides it";
        bgp_graceful_shutdown, "bgp-graceful-shutdown", bool = "true",
            "Prefer routes least that a router of another AS marks with GRACEFUL_SHUTDOWN (RFC 8326), because it is about to \
             take them back; false uses them as any other";
        drain_signals, "drain-signals", Vec<String> = "annotation,shutdown,taint",
            "What takes a node out of traffic: annotation, shutdown, taint, cordon";
        drain_taints, "drain-taints", Vec<String> = "ToBeDeletedByClusterAutoscaler",
            "Keys of the taints that do";
        drain_tag_time, "drain-tag-time", GoDuration = "5s",
            "How long announcements are tagged GRACEFUL_SHUTDOWN before they are withdrawn";
        drain_settle_time, "drain-settle-time", GoDuration = "10s",
            "How long after that the node counts as drained";
        shutdown_inhibit, "shutdown-inhibit", bool = "false",
            "Hold shutdowns of the host back until the node is drained, with a delay lock of systemd-logind over the \
             host's system bus: for hosts whose kubelet does not (shutdownGracePeriod)";
        cni_gate, "cni-gate", bool = "false",
            "Let no pod of the pod network start on a node that has just booted before its first rules are in force: the CNI \
             configuration becomes a link into /run/ferrovia/cni, a host folder in memory with the same path here";
        log_denied, "log-denied", bool = "false",
            "Also write each denied packet that goes to NFLOG group 100 into the log, with pod and policy, and count it; \
             no other program can read that group then";
        log_format, "log-format", String = "text",
            "Form of the log on standard error: text or json";
        dry_run, "dry-run", bool = "false",
            "Decide and print what would be changed, change nothing";
        admin_socket, "admin-socket", PathBuf = "/run/ferrovia/ferrovia.sock",
            "Socket that status and snapshot ask; empty turns it off";
        state_dir, "state-dir", PathBuf = "/var/lib/ferrovia",
            "Folder for what must outlive a restart";
        gobgp_admin_tls_cert, "gobgp-admin-tls-cert", PathBuf = "",
            "Certificate of the BGP administration API, PEM; an address that other hosts reach needs it";
        gobgp_admin_tls_key, "gobgp-admin-tls-key", PathBuf = "",
            "Key of that certificate, PEM";
        gobgp_admin_tls_client_ca, "gobgp-admin-tls-client-ca", PathBuf = "",
            "Who may sign the certificates of the API's clients, PEM; nobody else gets in";
    }
}

impl Flag {
    /// What nobody setting it amounts to.
    pub(super) fn default_given(&self) -> Given {
        Given { origin: Origin::Default, texts: vec![self.default.to_owned()] }
    }
}
