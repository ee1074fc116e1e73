//! The command line: every flag of kube-router with its default, a value it takes and one it refuses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ferrovia::cli::flags::{FLAGS, Group, Standing};
use ferrovia::cli::{self, Environment, Explained, Flags, Output, RenderSource, Request};
use ferrovia::config::{BindHost, Config, Purpose, RouterId, Source, VipBinding};
use ferrovia::net::Family;
use ferrovia::telemetry::log::{self, LogOptions};
use ferrovia::testing::sink;

/// One flag: name, default, a good value, a bad one, and who refuses the bad one.
type Row = (&'static str, &'static str, &'static str, &'static str, Refused);

/// Who refuses a bad value: the parser (exit code 2), the configuration (1), or nobody because any text is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Parser,
    Config,
    Nobody,
}
use Refused::{Config as ByConfig, Nobody, Parser};

/// The flags of kube-router, as its reference has them.
const KUBE_ROUTER: [Row; 79] = [
    ("run-router", "true", "false", "no", Parser),
    ("run-firewall", "true", "f", "yes", Parser),
    ("run-service-proxy", "true", "TRUE", "on", Parser),
    ("run-loadbalancer", "false", "0", "off", Parser),
    ("kubeconfig", "", "/etc/kubeconfig", "", Nobody),
    ("master", "", "https://10.0.0.1:6443", "https://a b", ByConfig),
    ("hostname-override", "", "node-1", "", Nobody),
    ("cache-sync-timeout", "1m", "2m", "0s", ByConfig),
    ("cleanup-config", "false", "true", "2", Parser),
    ("enable-ipv4", "true", "1", "tRue", Parser),
    ("enable-ipv6", "false", "T", "", Parser),
    ("health-addr", "", "[::1]", "::1", ByConfig),
    ("health-port", "20244", "0", "65536", Parser),
    ("metrics-addr", "", "127.0.0.1", "127.0.0.1:8080", ByConfig),
    ("metrics-port", "0", "8080", "-1", Parser),
    ("metrics-path", "/metrics", "/stats", "stats", ByConfig),
    ("enable-pprof", "false", "F", "maybe", Parser),
    ("v", "0", "3", "loud", ByConfig),
    ("version", "false", "false", "x", Parser),
    ("help", "false", "false", "x", Parser),
    ("service-cluster-ip-range", "10.96.0.0/12", "10.0.0.0/16", "10.0.0.0", ByConfig),
    ("service-external-ip-range", "", "192.0.2.0/24,198.51.100.0/24", "192.0.2.0/33", ByConfig),
    ("loadbalancer-ip-range", "", "192.0.2.0/24", "fd00::/64", ByConfig),
    ("strict-external-ip-validation", "true", "False", "strict", Parser),
    ("service-node-port-range", "30000-32767", "30000:31000", "32767-30000", ByConfig),
    ("ipvs-sync-period", "5m", "1m30s", "5", Parser),
    ("ipvs-graceful-termination", "false", "true", "truee", Parser),
    ("ipvs-graceful-period", "30s", "0s", "-1s", ByConfig),
    ("ipvs-permit-all", "true", "t", "all", Parser),
    ("masquerade-all", "false", "1", "10", Parser),
    ("nodeport-bindon-all-ip", "false", "true", "x", Parser),
    ("hairpin-mode", "false", "true", "x", Parser),
    ("excluded-cidrs", "", "10.0.0.0/8,fd00::/8", "10.0.0.0/8,x", ByConfig),
    ("runtime-endpoint", "", "unix:///run/containerd/containerd.sock", "tcp://10.0.0.1:1", ByConfig),
    ("service-tcp-timeout", "0s", "15m", "300ms", ByConfig),
    ("service-tcpfin-timeout", "0s", "2m", "-1s", ByConfig),
    ("service-udp-timeout", "0s", "5m", "five", Parser),
    ("routes-sync-period", "5m", "10s", "0s", ByConfig),
    ("injected-routes-sync-period", "60s", "10s", "-5s", ByConfig),
    ("enable-cni", "true", "false", "x", Parser),
    ("auto-mtu", "true", "false", "1500", Parser),
    ("enable-pod-egress", "true", "false", "x", Parser),
    ("enable-overlay", "true", "false", "x", Parser),
    ("overlay-type", "subnet", "full", "", Nobody),
    ("overlay-encap", "ipip", "fou", "vxlan", ByConfig),
    ("overlay-encap-port", "5555", "1024", "1023", ByConfig),
    ("cluster-asn", "0", "4200000000", "65536", ByConfig),
    ("nodes-full-mesh", "true", "false", "x", Parser),
    ("enable-ibgp", "true", "false", "x", Parser),
    ("router-id", "", "generate", "fd00::1", ByConfig),
    ("bgp-port", "179", "1790", "65536", ByConfig),
    ("bgp-holdtime", "90s", "65536s", "2s", ByConfig),
    ("bgp-graceful-restart", "false", "true", "x", Parser),
    ("bgp-graceful-restart-time", "90s", "4095s", "x", Parser),
    ("bgp-graceful-restart-deferral-time", "360s", "18h", "x", Parser),
    ("peer-router-ips", "", "", "10.0.0.256", Parser),
    ("peer-router-asns", "", "", "64512, 64513", Parser),
    ("peer-router-ports", "", "", "x", Parser),
    ("peer-router-passwords", "", "", "not base64!", ByConfig),
    ("peer-router-passwords-file", "", "/etc/passwords", "", Nobody),
    ("peer-router-multihop-ttl", "0", "255", "256", Parser),
    ("override-nexthop", "false", "true", "x", Parser),
    ("advertise-cluster-ip", "false", "true", "x", Parser),
    ("advertise-external-ip", "false", "true", "x", Parser),
    ("advertise-loadbalancer-ip", "false", "true", "x", Parser),
    ("advertise-pod-cidr", "true", "false", "x", Parser),
    ("enable-bfd", "false", "true", "x", Parser),
    ("bfd-port", "3784", "65535", "0", ByConfig),
    ("bfd-detection-multiplier", "3", "255", "256", ByConfig),
    ("bfd-desired-min-tx-interval", "1000", "4294967", "4294968", ByConfig),
    ("bfd-required-min-rx-interval", "1000", "1", "0", ByConfig),
    ("gobgp-admin-address", "127.0.0.1", "::1", "10.0.0.1", ByConfig),
    ("gobgp-admin-port", "50051", "0", "70000", Parser),
    ("disable-source-dest-check", "true", "false", "x", Parser),
    ("iptables-sync-period", "5m", "1h", "0s", ByConfig),
    ("netpol-default-deny", "false", "true", "x", Parser),
    ("use-nftables-for-netpol", "false", "true", "x", Parser),
    ("loadbalancer-default-class", "true", "false", "x", Parser),
    ("loadbalancer-sync-period", "1m", "0s", "-1m", ByConfig),
];

/// What kube-router does not have.
const OWN: [Row; 24] = [
    ("config", "", "", "", Nobody),
    ("manifests", "", "/etc/cluster", "", Nobody),
    ("allowed-import-prefixes", "", "10.0.0.0/8", "10.0.0.0/40", ByConfig),
    ("legacy-namespace-isolation", "false", "true", "x", Parser),
    ("vip-binding", "auto", "route", "magic", ByConfig),
    ("firewall-backend", "auto", "iptables", "ipchains", ByConfig),
    ("advertise-style", "node", "speakers", "rack", ByConfig),
    ("speaker-selector", "", "dedicated=master,rack", "=master", ByConfig),
    ("return-path", "off", "peer", "on", ByConfig),
    ("bgp-graceful-shutdown", "true", "false", "x", Parser),
    ("drain-signals", "annotation,shutdown,taint", "cordon", "reboot", ByConfig),
    ("drain-taints", "ToBeDeletedByClusterAutoscaler", "a,b", "", Nobody),
    ("drain-tag-time", "5s", "0s", "-1s", ByConfig),
    ("drain-settle-time", "10s", "1m", "-1s", ByConfig),
    ("shutdown-inhibit", "false", "true", "x", Parser),
    ("cni-gate", "false", "true", "x", Parser),
    ("log-denied", "false", "true", "x", Parser),
    ("log-format", "text", "json", "xml", ByConfig),
    ("dry-run", "false", "true", "x", Parser),
    ("admin-socket", "/run/ferrovia/ferrovia.sock", "/tmp/f.sock", "", Nobody),
    ("state-dir", "/var/lib/ferrovia", "/tmp/f", "", Nobody),
    ("gobgp-admin-tls-cert", "", "", "/tmp/f.pem", ByConfig),
    ("gobgp-admin-tls-key", "", "", "/tmp/f.pem", ByConfig),
    ("gobgp-admin-tls-client-ca", "", "", "/tmp/f.pem", ByConfig),
];

/// What a daemon of this version needs: kube-router's defaults turn on what is not there yet.
const BASE: [&str; 2] = ["--run-router=true", "--run-firewall=false"];

fn parse(arguments: &[&str]) -> Result<Request, cli::Refusal> {
    cli::parse(["ferrovia"].iter().chain(arguments), &Environment::default())
}

fn flags(arguments: &[&str]) -> Flags {
    match parse(arguments).unwrap() {
        Request::Run(flags) => *flags,
        other => panic!("{arguments:?} is {other:?}"),
    }
}

fn config(arguments: &[&str]) -> Config {
    let arguments: Vec<&str> = BASE.iter().chain(arguments).copied().collect();
    Config::new(&flags(&arguments), Purpose::Daemon).unwrap()
}

fn faults(arguments: &[&str]) -> String {
    Config::new(&flags(arguments), Purpose::Daemon).unwrap_err().to_string()
}

fn code(arguments: &[&str]) -> u8 {
    parse(arguments).unwrap_err().code
}

#[test]
fn cli_knows_every_flag_with_its_default() {
    let known: Vec<(&str, &str)> = FLAGS.iter().map(|flag| (flag.name, flag.default)).collect();
    let wanted: Vec<(&str, &str)> = KUBE_ROUTER.iter().chain(&OWN).map(|row| (row.0, row.1)).collect();
    assert_eq!(known, wanted);
    let own = FLAGS.iter().filter(|flag| flag.group == Group::Own).count();
    assert_eq!(FLAGS.len() - own, 79);
}

#[test]
fn cli_takes_a_good_value_of_every_flag_and_refuses_a_bad_one() {
    for (name, _, good, bad, refused) in KUBE_ROUTER.iter().chain(&OWN) {
        let good = format!("--{name}={good}");
        let accepted = parse(&[BASE[0], BASE[1], &good]).unwrap_or_else(|refusal| panic!("{good}: {}", refusal.text));
        if let Request::Run(flags) = &accepted
            && !matches!(*name, "run-router" | "run-firewall")
        {
            Config::new(flags, Purpose::Daemon).unwrap_or_else(|errors| panic!("{good}: {errors}"));
        }
        let bad = format!("--{name}={bad}");
        match (refused, parse(&[BASE[0], BASE[1], &bad])) {
            (Nobody, accepted) => assert!(accepted.is_ok(), "{bad}"),
            (Parser, refusal) => {
                let refusal = refusal.unwrap_err();
                assert_eq!(refusal.code, 2, "{bad}: {}", refusal.text);
                assert!(refusal.text.contains(&format!("--{name}")), "{bad}: {}", refusal.text);
            }
            (ByConfig, Err(refusal)) => {
                assert_eq!((*name, refusal.code), ("v", 1), "{bad}: {}", refusal.text);
            }
            (ByConfig, Ok(Request::Run(flags))) => {
                let errors = Config::new(&flags, Purpose::Daemon).unwrap_err().to_string();
                assert!(errors.contains(&format!("--{name}=")), "{bad}: {errors}");
            }
            (ByConfig, Ok(other)) => panic!("{bad}: {other:?}"),
        }
    }
}

#[test]
fn cli_writes_switches_with_an_equals_sign_or_nothing() {
    for on in ["--masquerade-all", "--masquerade-all=true", "--masquerade-all=1", "--masquerade-all=T"] {
        assert!(flags(&[on]).masquerade_all, "{on}");
    }
    for off in ["--run-router=false", "--run-router=0", "--run-router=F", "--run-router=False"] {
        assert!(!flags(&[off]).run_router, "{off}");
    }
    let refusal = parse(&["--run-firewall", "false"]).unwrap_err();
    assert_eq!(refusal.code, 1);
    assert!(refusal.text.contains("--run-router=false"), "{}", refusal.text);
    assert!(!flags(&["--masquerade-all", "--masquerade-all=false"]).masquerade_all, "the last one counts");
}

#[test]
fn cli_reads_values_after_a_space_too_and_verbosity_in_every_form() {
    assert_eq!(flags(&["--health-port", "1"]).health_port, 1);
    assert_eq!(flags(&["--ipvs-sync-period", "90s"]).ipvs_sync_period.0, 90_000_000_000);
    for form in [&["-v", "2"][..], &["-v=2"], &["-v2"], &["--v=2"], &["--v", "2"]] {
        assert_eq!(flags(form).v, "2", "{form:?}");
    }
    assert_eq!(config(&["-v=-1"]).verbosity, -1);
}

#[test]
fn cli_lists_add_up_and_the_first_use_replaces_the_default() {
    let flags = flags(&[
        "--service-cluster-ip-range=10.0.0.0/16",
        "--service-cluster-ip-range=fd00::/108",
        "--peer-router-ips='10.0.0.1', \"fd00::1\"",
        "--peer-router-asns=64512",
        "--peer-router-asns=64513",
    ]);
    assert_eq!(flags.service_cluster_ip_range, ["10.0.0.0/16", "fd00::/108"]);
    assert_eq!(flags.peer_router_ips.len(), 2);
    assert_eq!(flags.peer_router_asns, [64512, 64513]);
}

#[test]
fn cli_exit_codes_are_those_of_kube_router() {
    assert_eq!(code(&["--no-such-flag"]), 2);
    assert_eq!(code(&["--health-port"]), 2);
    assert_eq!(code(&["-x"]), 2);
    assert_eq!(code(&["leftover"]), 1);
    assert_eq!(code(&["--", "leftover"]), 1);
    assert_eq!(code(&["-v=loud"]), 1);
    assert_eq!(code(&["--config=/no/such/file.yaml"]), 1);
    for version in [&["--version"][..], &["-V"], &["--version=true"]] {
        assert!(matches!(parse(version).unwrap(), Request::Print(text) if text.starts_with("ferrovia 0.")));
    }
    for help in [&["--help"][..], &["-h"], &["render", "--help"], &["status", "-h"]] {
        assert!(matches!(parse(help).unwrap(), Request::Print(text) if text.contains("Usage:")), "{help:?}");
    }
}

#[test]
fn cli_help_names_every_flag_under_its_heading() {
    let Request::Print(help) = parse(&["--help"]).unwrap() else { panic!() };
    for group in Group::ALL {
        assert!(help.contains(&format!("\n{}:\n", group.heading())), "{}", group.heading());
    }
    let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for flag in FLAGS {
        assert!(help.contains(&format!("--{}", flag.name)), "{}", flag.name);
        if !flag.default.is_empty() {
            assert!(help.contains(&format!("[default: {}]", flag.default)), "{}", flag.name);
        }
    }
    assert!(help.contains("Examples:"));
    assert!(!help.contains("gen-docs"), "only for the project's own tools");
}

#[test]
fn cli_says_which_features_are_not_there_and_how_to_start_without() {
    let balancer = faults(&["--run-loadbalancer"]);
    assert!(balancer.starts_with("--run-loadbalancer=true: ") && balancer.ends_with("--run-loadbalancer=false"));
    assert!(Config::new(&flags(&["--cleanup-config"]), Purpose::Daemon).is_ok(), "cleaning up needs no feature");
    assert!(config(&["--run-service-proxy=false", "--run-router=false"]).features.nothing_to_run());
}

#[test]
fn cli_takes_kube_router_s_word_for_nftables_and_refuses_a_contradiction() {
    use ferrovia::config::RuleBackend;
    let old = "--use-nftables-for-netpol";
    assert_eq!(config(&[]).rule_backend, RuleBackend::Auto);
    assert_eq!(config(&["--use-nftables-for-netpol=false"]).rule_backend, RuleBackend::Auto, "off chooses nothing");
    assert_eq!(config(&[old]).rule_backend, RuleBackend::Nftables);
    assert_eq!(config(&[old, "--firewall-backend=nftables"]).rule_backend, RuleBackend::Nftables);
    assert_eq!(
        config(&["--use-nftables-for-netpol=false", "--firewall-backend=iptables"]).rule_backend,
        RuleBackend::Iptables
    );
    let told = faults(&[BASE[0], BASE[1], old, "--firewall-backend=iptables"]);
    assert!(told.starts_with("--use-nftables-for-netpol=true: contradicts --firewall-backend=iptables"), "{told}");
}

#[test]
fn cli_validates_flags_of_absent_features_and_tells_all_faults_at_once() {
    let faults = faults(&[
        BASE[0],
        BASE[1],
        "--cluster-asn=1",
        "--bgp-holdtime=1s",
        "--peer-router-ips=10.0.0.1,10.0.0.2",
        "--peer-router-asns=64512",
        "--peer-router-passwords=c2VjcmV0,c2VjcmV0,c2VjcmV0",
        "--enable-ipv4=false",
    ]);
    for part in [
        "--cluster-asn=1: must be a private AS number",
        "--bgp-holdtime=1s: must be from 3s to 65536s",
        "--peer-router-asns=…: has 1 entries for the 2 of --peer-router-ips",
        "--peer-router-passwords=…: has 3 entries",
        "--enable-ipv4=false: enable at least one",
        "--service-cluster-ip-range=10.96.0.0/12: ipv4 is not enabled",
    ] {
        assert!(faults.contains(part), "{part} is missing in\n{faults}");
    }
}

#[test]
fn cli_graceful_restart_times_matter_only_with_graceful_restart() {
    let long = "--bgp-graceful-restart-time=4096s";
    assert!(config(&[long]).router.graceful_restart.is_none());
    assert!(faults(&[BASE[0], BASE[1], long, "--bgp-graceful-restart"]).contains("--bgp-graceful-restart-time=4096s"));
    assert!(
        faults(&[BASE[0], BASE[1], "--bgp-graceful-restart-deferral-time=18h1s", "--bgp-graceful-restart"])
            .contains("deferral")
    );
}

#[test]
fn cli_turns_texts_into_types() {
    let config = config(&[
        "--enable-ipv6",
        "--service-cluster-ip-range=10.96.7.7/12,fd00::/108",
        "--service-node-port-range=30000:30010",
        "--health-addr=[::1]",
        "--metrics-addr=localhost",
        "--metrics-port=8080",
        "--router-id=10.0.0.1",
        "--runtime-endpoint=unix:///run/c.sock",
        "--vip-binding=route",
        "--manifests=/etc/cluster",
        "--peer-router-ips=10.0.0.1",
        "--peer-router-asns=64512",
        "--peer-router-passwords=c2VjcmV0",
        "--service-tcp-timeout=15m",
    ]);
    assert_eq!(config.families, Family::ALL);
    assert_eq!(config.addresses.cluster_ip_ranges[0].to_string(), "10.96.0.0/12", "host bits are dropped");
    assert_eq!(config.addresses.node_port_range, 30000..=30010);
    assert_eq!(config.health.as_ref().unwrap().host.to_string(), "[::1]");
    assert_eq!(config.metrics.as_ref().unwrap().host, BindHost::Name("localhost".into()));
    assert_eq!(config.router.router_id, RouterId::Fixed("10.0.0.1".parse().unwrap()));
    assert_eq!(config.proxy.runtime_endpoint, Some(PathBuf::from("/run/c.sock")));
    assert_eq!(config.proxy.vip_binding, VipBinding::Route);
    assert_eq!(config.source, Source::Folder("/etc/cluster".into()));
    assert_eq!(config.proxy.tcp_timeout.as_secs(), 900);
    let peer = &config.router.peers[0];
    assert_eq!((peer.asn.0, peer.port, peer.password.as_ref().unwrap().reveal()), (64512, 179, "secret"));
    let shown = format!("{config:?}");
    assert!(!shown.contains("secret") && !shown.contains("c2VjcmV0"), "passwords are never shown");
}

#[test]
fn cli_ports_that_turn_servers_off() {
    assert!(config(&["--health-port=0"]).health.is_none());
    assert!(config(&[]).metrics.is_none());
    assert!(config(&["--metrics-port=65535"]).metrics.is_none());
    assert!(config(&["--metrics-port=65534"]).metrics.is_some());
    assert!(config(&["--admin-socket="]).admin_socket.is_none());
}

#[test]
fn cli_a_bad_password_is_not_repeated() {
    let faults =
        faults(&["--peer-router-passwords=hunter2!", "--peer-router-ips=10.0.0.1", "--peer-router-asns=64512"]);
    assert!(faults.contains("entry 1 is not base64") && !faults.contains("hunter2"), "{faults}");
    let refusal = parse(&["--peer-router-passwords=\"hunter2"]).unwrap_err();
    assert!(!refusal.text.contains("hunter2") && refusal.text.contains("<redacted>"), "{}", refusal.text);
    let shown = format!("{:?}", flags(&["--peer-router-passwords=hunter2"]));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn cli_passwords_do_not_reach_the_log_in_any_form() {
    let flags =
        flags(&["--peer-router-passwords=aHVudGVyMg==", "--peer-router-ips=10.0.0.1", "--peer-router-asns=64512"]);
    let config = Config::new(&flags, Purpose::Render).unwrap();
    let peer = &config.router.peers[0];
    assert_eq!(peer.password.as_ref().unwrap().reveal(), "hunter2");
    for json in [false, true] {
        let options = LogOptions { json, ..LogOptions::default() };
        let text = sink::logged(
            |sink| log::subscriber(&options, move || sink.clone()).unwrap(),
            || tracing::info!(target: "ferrovia::app", ?peer, ?flags, password = %peer.password.as_ref().unwrap(), "peer"),
        );
        assert!(text.contains("<redacted>") && text.contains("10.0.0.1"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    }
}

#[test]
fn cli_precedence_is_flag_environment_file_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ferrovia.yaml");
    std::fs::write(&path, "hostname-override: from-file\nhealth-port: 1\nmasquerade-all: true\n").unwrap();
    let file = format!("--config={}", path.display());
    let environment = Environment { node_name: Some("from-environment".into()) };
    let read = |arguments: &[&str], environment: &Environment| match cli::parse(
        ["ferrovia", &file].iter().chain(arguments),
        environment,
    )
    .unwrap()
    {
        Request::Run(flags) => *flags,
        other => panic!("{other:?}"),
    };
    let all = read(&["--hostname-override=from-flag", "--health-port=2"], &environment);
    assert_eq!((all.hostname_override.as_str(), all.health_port, all.masquerade_all), ("from-flag", 2, true));
    assert_eq!(read(&[], &environment).hostname_override, "from-environment");
    let bare = read(&[], &Environment::default());
    assert_eq!((bare.hostname_override.as_str(), bare.health_port, bare.metrics_port), ("from-file", 1, 0));

    std::fs::write(&path, "health-port: 70000\n").unwrap();
    let refusal = cli::parse(["ferrovia", &file], &environment).unwrap_err();
    assert!(refusal.code == 1 && refusal.text.contains("in the configuration file"), "{}", refusal.text);
    std::fs::write(&path, "health-prot: 1\n").unwrap();
    let refusal = cli::parse(["ferrovia", &file], &environment).unwrap_err();
    assert!(refusal.code == 1 && refusal.text.contains("did you mean \"health-port\"?"), "{}", refusal.text);
}

/// The argument lists of kube-router's manifests, by file.
const MANIFESTS: [(&str, &str); 8] = [
    (
        "kubeadm-kuberouter",
        "--run-router=true --run-firewall=true --run-service-proxy=false --bgp-graceful-restart=true",
    ),
    (
        "kubeadm-kuberouter-all-features",
        "--run-router=true --run-firewall=true --run-service-proxy=true --bgp-graceful-restart=true \
         --kubeconfig=/var/lib/kube-router/kubeconfig",
    ),
    (
        "kubeadm-kuberouter-all-features-dsr",
        "--run-router=true --run-firewall=true --run-service-proxy=true --bgp-graceful-restart=true \
         --kubeconfig=/var/lib/kube-router/kubeconfig --runtime-endpoint=unix:///run/containerd/containerd.sock",
    ),
    (
        "generic-kuberouter-all-features-advertise-routes",
        "--run-router=true --run-firewall=true --run-service-proxy=true --bgp-graceful-restart=true \
         --kubeconfig=/var/lib/kube-router/kubeconfig --peer-router-ips=10.1.201.254 --peer-router-asns=64512 \
         --cluster-asn=64512 --advertise-cluster-ip=true",
    ),
    (
        "generic-kuberouter-only-advertise-routes",
        "--run-router=true --run-firewall=false --run-service-proxy=false --bgp-graceful-restart=true \
         --enable-cni=false --enable-ibgp=false --enable-overlay=false --peer-router-ips=192.0.2.1 \
         --peer-router-asns=64513 --cluster-asn=64512 --advertise-cluster-ip=true --advertise-external-ip=true \
         --advertise-loadbalancer-ip=true",
    ),
    (
        "kube-router-all-service-daemonset-advertise-routes",
        "--run-router=true --run-firewall=true --run-service-proxy=true --bgp-graceful-restart=true \
         --kubeconfig=/var/lib/kube-router/kubeconfig --advertise-cluster-ip=true --cluster-asn=64512 \
         --peer-router-ips=192.168.1.99 --peer-router-asns=64513",
    ),
    (
        "kube-router-firewall-daemonset",
        "--run-router=false --run-firewall=true --run-service-proxy=false --kubeconfig=/var/lib/kube-router/kubeconfig",
    ),
    (
        "kube-router-proxy-daemonset",
        "--run-router=false --run-firewall=false --run-service-proxy=true --kubeconfig=/var/lib/kube-router/kubeconfig",
    ),
];

#[test]
fn cli_reads_the_argument_lists_of_kube_routers_manifests() {
    for (name, line) in MANIFESTS {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let flags = flags(&arguments);
        assert!(Config::new(&flags, Purpose::Daemon).is_ok(), "{name}");
    }
}

#[test]
fn cli_render_takes_the_flags_that_change_decisions_and_needs_one_source() {
    let render = |arguments: &[&str]| match parse(arguments) {
        Ok(Request::Render(render)) => *render,
        other => panic!("{other:?}"),
    };
    let from_folder = render(&["render", "--manifests=/c", "--node", "n1", "--masquerade-all", "-o", "json"]);
    assert_eq!(from_folder.source, RenderSource::Manifests("/c".into()));
    assert_eq!((from_folder.node.as_deref(), from_folder.output), (Some("n1"), Output::Json));
    assert!(from_folder.flags.masquerade_all);
    assert!(Config::new(&from_folder.flags, Purpose::Render).is_ok(), "features that are not there do not matter");
    let from_file = render(&["render", "--snapshot", "s.json"]);
    assert_eq!((from_file.source, from_file.output), (RenderSource::Snapshot("s.json".into()), Output::Text));
    assert_eq!(code(&["render"]), 2);
    assert_eq!(code(&["render", "--manifests=/c", "--snapshot=s"]), 2);
    assert_eq!(code(&["render", "--manifests=/c", "--output=xml"]), 2);
    assert_eq!(code(&["render", "--manifests=/c", "--run-router=false"]), 2, "it decides nothing there");
    assert_eq!(render(&["render", "--manifests=/c", "--cluster-asn=64700"]).flags.cluster_asn, 64700);
    let swapped = parse(&["--masquerade-all", "render"]).unwrap_err();
    assert!(swapped.code == 1 && swapped.text.contains("write the command first"), "{}", swapped.text);
}

#[test]
fn cli_questions_to_a_running_daemon() {
    let default = PathBuf::from("/run/ferrovia/ferrovia.sock");
    assert!(matches!(parse(&["status"]).unwrap(), Request::Status { admin_socket } if admin_socket == default));
    let given = parse(&["snapshot", "--admin-socket=/tmp/s"]).unwrap();
    assert!(matches!(given, Request::Snapshot { admin_socket } if admin_socket == Path::new("/tmp/s")));
    let explain = parse(&["explain", "service", "default/web"]).unwrap();
    let asks = |request, expected: Explained| matches!(request, Request::Explain { what, .. } if what == expected);
    assert!(asks(explain, Explained::Service("default/web".to_owned())));
    let route = parse(&["explain", "route", "10.0.0.0/8"]).unwrap();
    assert!(asks(route, Explained::Route("10.0.0.0/8".to_owned())));
    let peer = parse(&["explain", "peer", "fd00::1"]).unwrap();
    assert!(asks(peer, Explained::Peer("fd00::1".to_owned())));
    let pod = ["explain", "pod", "a/b", "--from", "outside", "--to=c/d", "--port", "53/udp", "-o", "json"];
    assert!(asks(parse(&pod).unwrap(), Explained::Pod("a/b/from/outside/to/c/d/port/53/udp/json".to_owned())));
    let plain = parse(&["explain", "pod", "a/b", "--from=fd00::1"]).unwrap();
    assert!(asks(plain, Explained::Pod("a/b/from/fd00::1".to_owned())));
    for odd in [
        &["explain", "pod", "a"][..],
        &["explain", "pod", "a/b", "--from", "c"],
        &["explain", "pod", "a/b", "--port", "80/tcp"],
        &["explain", "pod", "a/b", "--to", "outside", "--port", "http"],
        &["explain", "pod", "a/b", "--output", "yaml"],
        &["explain", "route", "10.0.0.1", "--from", "outside"],
    ] {
        assert_eq!(code(odd), 2, "{odd:?}");
    }
    assert_eq!(code(&["explain", "route", "home"]), 2);
    assert_eq!(code(&["explain", "peer", "10.0.0.0/8"]), 2);
    assert_eq!(code(&["explain", "service", "web"]), 2);
    assert_eq!(code(&["explain"]), 2);
}

#[test]
fn cli_drains_and_looks_for_what_stands_in_the_way() {
    assert!(matches!(parse(&["doctor", "--admin-socket=/tmp/s"]).unwrap(), Request::Doctor { .. }));
    for (arguments, expected) in [
        (&["drain"][..], (false, None)),
        (&["drain", "--wait"], (false, Some(60))),
        (&["drain", "--wait=90s"], (false, Some(90))),
        (&["drain", "--stop"], (true, None)),
    ] {
        let Request::Drain { stop, wait, .. } = parse(arguments).unwrap() else { panic!("{arguments:?}") };
        assert_eq!((stop, wait.map(|wait| wait.as_secs())), expected, "{arguments:?}");
    }
    for arguments in [&["drain", "--wait=soon"][..], &["drain", "--wait=-1s"], &["drain", "--stop", "--wait"]] {
        assert_eq!(code(arguments), 2, "{arguments:?}");
    }
}

#[test]
fn cli_standing_of_flags_is_told_once() {
    let not_yet: BTreeSet<&str> =
        FLAGS.iter().filter(|flag| flag.standing() == Standing::NotYet).map(|flag| flag.name).collect();
    assert_eq!(not_yet.len(), 2 + 1, "the allocator and its switch");
    for (name, how) in ferrovia::cli::flags::DIFFERENT {
        assert!(FLAGS.iter().any(|flag| flag.name == *name), "{name}");
        assert!(!how.is_empty() && !not_yet.contains(name), "{name}");
    }
}
