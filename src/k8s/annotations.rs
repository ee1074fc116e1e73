//! Every annotation key and its parsing, in one place (pure).
//!
//! [`ANNOTATIONS`] is what the generated documentation prints; the constants are what the code reads.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::convert::{Names, Rejections};
use crate::model::{NodeName, Scheduler, ServiceSettings, WeightRule, WeightSelector};

/// Keys that keep kube-router's names and meaning.
pub const KUBE_ROUTER_PREFIX: &str = "kube-router.io/";
/// Keys of our own.
pub const FERROVIA_PREFIX: &str = "ferrovia.dev/";

/// IPVS scheduler of a Service.
pub const SCHEDULER: &str = "kube-router.io/service.scheduler";
/// Flags of the scheduler.
pub const SCHEDULER_FLAGS: &str = "kube-router.io/service.schedflags";
/// Direct server return.
pub const DSR: &str = "kube-router.io/service.dsr";
/// Hairpin traffic of cluster IPs and node ports.
pub const HAIRPIN: &str = "kube-router.io/service.hairpin";
/// Hairpin traffic of external IPs.
pub const HAIRPIN_EXTERNAL_IPS: &str = "kube-router.io/service.hairpin.externalips";
/// External traffic policy `Local` in old clothes.
pub const LOCAL: &str = "kube-router.io/service.local";
/// Leave load balancer addresses alone.
pub const SKIP_LOAD_BALANCER_IPS: &str = "kube-router.io/service.skiplbips";
/// Whether cluster IPs are announced.
pub const ADVERTISE_CLUSTER_IP: &str = "kube-router.io/service.advertise.clusterip";
/// Whether external IPs are announced.
pub const ADVERTISE_EXTERNAL_IP: &str = "kube-router.io/service.advertise.externalip";
/// Whether load balancer addresses are announced.
pub const ADVERTISE_LOAD_BALANCER_IP: &str = "kube-router.io/service.advertise.loadbalancerip";
/// Weights of endpoints.
pub const WEIGHTS: &str = "ferrovia.dev/service.weights";
/// Source ranges of a load balancer.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Topology-aware routing.
pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// Isolation of a namespace, from before there were policies; read only where it is asked for.
pub const LEGACY_ISOLATION: &str = "net.beta.kubernetes.io/network-policy";
/// Pod prefixes of a node.
pub const POD_CIDRS: &str = "kube-router.io/pod-cidrs";
/// The older form with one prefix.
pub const POD_CIDR: &str = "kube-router.io/pod-cidr";

/// Takes a node out of traffic.
pub const DRAIN: &str = "ferrovia.dev/drain";
/// Makes a node announce VIPs for others.
pub const SPEAKER: &str = "ferrovia.dev/speaker";
/// Sends answers back through the peer.
pub const RETURN_PATH: &str = "ferrovia.dev/return-path";

/// Which kind of object an annotation is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotatedKind {
    /// `v1` Service.
    Service,
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
}

/// Since when an annotation has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Since this release.
    Since(&'static str),
    /// Accepted and ignored: what it asks for always holds. The text says why.
    Always(&'static str),
    /// Known from kube-router, without effect yet.
    NotYet,
}

/// One annotation as the documentation shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnotationDoc {
    /// The whole key.
    pub key: &'static str,
    /// Where it is read.
    pub kind: AnnotatedKind,
    /// What it does.
    pub what: &'static str,
    /// What may stand there.
    pub values: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// A value to copy.
    pub example: &'static str,
    /// Since when.
    pub support: Support,
}

const fn service(
    key: &'static str,
    what: &'static str,
    values: &'static str,
    default: &'static str,
    example: &'static str,
    support: Support,
) -> AnnotationDoc {
    AnnotationDoc { key, kind: AnnotatedKind::Service, what, values, default, example, support }
}

const fn node(
    key: &'static str,
    what: &'static str,
    values: &'static str,
    default: &'static str,
    example: &'static str,
    support: Support,
) -> AnnotationDoc {
    AnnotationDoc { key, kind: AnnotatedKind::Node, what, values, default, example, support }
}

const FIRST: Support = Support::Since("0.1.0");

/// All annotations, those of Services first, then of nodes and namespaces.
#[rustfmt::skip]
pub const ANNOTATIONS: &[AnnotationDoc] = &[
    service(SCHEDULER, "IPVS scheduler of all virtual servers of the Service. An unknown name is reported and the default used.",
        "rr, lc, wlc, wrr, sed, nq, sh, dh, mh, lblc, lblcr, fo, ovf", "rr (wrr where weights differ)", "mh", FIRST),
    service(SCHEDULER_FLAGS, "Flags of the schedulers mh and sh: flag-1 is fallback, flag-2 hashes the port too.",
        "comma list of flag-1, flag-2, flag-3", "none", "flag-1,flag-2", FIRST),
    service(DSR, "Direct server return for external and load balancer addresses: replies leave the endpoint's node directly.",
        "tunnel", "off", "tunnel", FIRST),
    service(HAIRPIN, "Lets a pod reach itself through its Service.",
        "any", "always on", "\"\"", Support::Always("every Service may be reached by its own endpoints")),
    service(HAIRPIN_EXTERNAL_IPS, "Lets a pod reach itself through an external address of its Service.",
        "any", "always on", "\"\"", Support::Always("every Service may be reached by its own endpoints")),
    service(LOCAL, "Treats the external traffic policy as Local and the internal one as Cluster.",
        "true", "off", "\"true\"", FIRST),
    service(SKIP_LOAD_BALANCER_IPS, "Leaves the load balancer addresses of the Service alone: neither forwarded nor announced. Any value counts, false too.",
        "any", "off", "\"\"", FIRST),
    service(WEIGHTS, "Weights of endpoints: the first rule that selects an endpoint counts; 0 sends it no new connections. Selectors are ip:ADDRESS, pod:NAME, node:NAME, zone:NAME and *.",
        "comma list of SELECTOR=WEIGHT, weights 0 to 65535", "1 for every endpoint", "pod:web-1=5,zone:a=2,*=1", FIRST),
    service(SOURCE_RANGES, "Who may reach the load balancer addresses, where spec.loadBalancerSourceRanges is empty.",
        "comma list of prefixes", "anybody", "192.0.2.0/24,2001:db8::/32", FIRST),
    service(TOPOLOGY_MODE, "Auto follows the zone hints of endpoint slices; wins over spec.trafficDistribution.",
        "Auto, Disabled", "Disabled", "Auto", FIRST),
    service(ADVERTISE_CLUSTER_IP, "Announce the cluster addresses of the Service, overriding --advertise-cluster-ip.",
        "true, false", "the flag", "\"true\"", FIRST),
    service(ADVERTISE_EXTERNAL_IP, "Announce the external addresses of the Service, overriding --advertise-external-ip.",
        "true, false", "the flag", "\"true\"", FIRST),
    service(ADVERTISE_LOAD_BALANCER_IP, "Announce the load balancer addresses of the Service, overriding --advertise-loadbalancer-ip.",
        "true, false", "the flag", "\"true\"", FIRST),
    node(POD_CIDRS, "Pod prefixes of the node, instead of spec.podCIDRs.",
        "comma list of prefixes", "spec.podCIDRs", "10.244.1.0/24,fd00:10:244:1::/64", FIRST),
    node(POD_CIDR, "Older form with one prefix, read where neither the newer annotation nor spec.podCIDRs says anything.",
        "one prefix", "spec.podCIDR", "10.244.1.0/24", FIRST),
    node("kube-router.io/node.asn", "Autonomous system number of the node where nodes do not form a full mesh.",
        "a number", "none", "64512", FIRST),
    node("kube-router.io/rr.server", "The node is a route reflector of this cluster.",
        "a number or an IPv4 address", "none", "42", FIRST),
    node("kube-router.io/rr.client", "The node is a client of the route reflectors.",
        "a number or an IPv4 address", "none", "42", FIRST),
    node("kube-router.io/path-prepend.as", "Autonomous system number to prepend on announcements to external peers.",
        "a number", "none", "64512", FIRST),
    node("kube-router.io/path-prepend.repeat-n", "How often to prepend it.",
        "0 to 255", "none", "3", FIRST),
    node("kube-router.io/node.bgp.communities", "Communities added to announcements to external peers.",
        "comma list of numbers, a:b pairs or well-known names", "none", "64512:100,no-export", FIRST),
    node("kube-router.io/node.bgp.customimportreject", "Prefixes (and longer ones) that are never accepted from peers.",
        "comma list of prefixes", "none", "10.0.0.0/16", FIRST),
    node("kube-router.io/peers", "External peers of this node; the keys of an entry are in bgp.md.",
        "YAML list", "none", "- remoteip: 192.0.2.1\\n  remoteasn: 64512", FIRST),
    node("kube-router.io/peer.ips", "Addresses of external peers (older form).",
        "comma list of addresses", "none", "192.0.2.1", FIRST),
    node("kube-router.io/peer.asns", "Autonomous system numbers of external peers (older form).",
        "comma list of numbers", "none", "64512", FIRST),
    node("kube-router.io/peer.ports", "Ports of external peers (older form).",
        "comma list of ports", "179", "179", FIRST),
    node("kube-router.io/peer.passwords", "Passwords of external peers (older form).",
        "comma list in base64", "none", "c2VjcmV0", FIRST),
    node("kube-router.io/peer.localips", "Own addresses towards external peers (older form).",
        "comma list of addresses", "the node's address", "192.0.2.10", FIRST),
    node("kube-router.io/bgp-local-addresses", "Addresses the BGP speaker listens on.",
        "comma list of addresses", "the node's addresses", "192.0.2.10", FIRST),
    node(DRAIN, "Takes the node out of traffic in stages: announcements are tagged GRACEFUL_SHUTDOWN (RFC 8326), then Service addresses are withdrawn, each as soon as another node announces it; all withdraws pod prefixes as well, last.",
        "true, all, false", "false", "\"true\"", FIRST),
    node(SPEAKER, "With --advertise-style=speakers: whether this node announces Service addresses, overriding --speaker-selector.",
        "true, false", "the flag", "\"true\"", FIRST),
    node(RETURN_PATH, "Which way answers to clients outside the cluster leave this node, overriding --return-path.",
        "peer, off", "the flag", "peer", FIRST),
    AnnotationDoc {
        key: LEGACY_ISOLATION, kind: AnnotatedKind::Namespace,
        what: "Isolates all pods of the namespace in what they receive, where --legacy-namespace-isolation is given. The log has the NetworkPolicy that does the same.",
        values: "{\"ingress\": {\"isolation\": \"DefaultDeny\"}}", default: "off",
        example: "{\"ingress\": {\"isolation\": \"DefaultDeny\"}}", support: FIRST,
    },
];

/// How a rejection names an annotation.
pub fn field(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

/// Reads every annotation of a Service that a room decides from.
pub fn service_settings(meta: &ObjectMeta, names: &Names, rejections: &mut Rejections) -> ServiceSettings {
    let annotation = |key: &str| meta.annotations.as_ref()?.get(key).map(String::as_str);
    let scheduler = annotation(SCHEDULER).and_then(|text| scheduler(text, rejections));
    let mut flag = |key: &str| annotation(key).map(|text| truth(key, text, rejections));
    let advertise_cluster_ip = flag(ADVERTISE_CLUSTER_IP);
    let advertise_external_ip = flag(ADVERTISE_EXTERNAL_IP);
    let advertise_load_balancer_ip = flag(ADVERTISE_LOAD_BALANCER_IP);
    ServiceSettings {
        scheduler,
        scheduler_flags: annotation(SCHEDULER_FLAGS).map_or(0, |text| scheduler_flags(text, scheduler, rejections)),
        dsr: annotation(DSR).is_some_and(|text| direct_server_return(text, rejections)),
        local: annotation(LOCAL) == Some("true"),
        skip_load_balancer_ips: annotation(SKIP_LOAD_BALANCER_IPS).is_some(),
        advertise_cluster_ip,
        advertise_external_ip,
        advertise_load_balancer_ip,
        weights: annotation(WEIGHTS).map_or_else(Vec::new, |text| weights(text, names, rejections)),
    }
}

/// A scheduler by its kernel name.
pub fn parse_scheduler(text: &str) -> Option<Scheduler> {
    Some(match text {
        "rr" => Scheduler::Rr,
        "wrr" => Scheduler::Wrr,
        "lc" => Scheduler::Lc,
        "wlc" => Scheduler::Wlc,
        "sed" => Scheduler::Sed,
        "nq" => Scheduler::Nq,
        "sh" => Scheduler::Sh,
        "dh" => Scheduler::Dh,
        "mh" => Scheduler::Mh,
        "lblc" => Scheduler::Lblc,
        "lblcr" => Scheduler::Lblcr,
        "fo" => Scheduler::Fo,
        "ovf" => Scheduler::Ovf,
        _ => return None,
    })
}

fn scheduler(text: &str, rejections: &mut Rejections) -> Option<Scheduler> {
    let scheduler = parse_scheduler(text.trim());
    if scheduler.is_none() {
        let message = "not an IPVS scheduler, the default is used: \
                       use rr, lc, wlc, wrr, sed, nq, sh, dh, mh, lblc, lblcr, fo or ovf";
        rejections.add("UnknownScheduler", field(SCHEDULER), text, message);
    }
    scheduler
}

/// Bits 0, 1, 2 for `flag-1`, `flag-2`, `flag-3`. Only mh and sh give them a meaning.
fn scheduler_flags(text: &str, scheduler: Option<Scheduler>, rejections: &mut Rejections) -> u8 {
    let mut flags = 0;
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        flags |= match name {
            "flag-1" => 1,
            "flag-2" => 2,
            "flag-3" => 4,
            other => {
                let message = "not a scheduler flag, left out: use flag-1, flag-2 or flag-3";
                rejections.add("UnknownSchedulerFlag", field(SCHEDULER_FLAGS), other, message);
                0
            }
        };
    }
    if flags != 0 && !matches!(scheduler, Some(Scheduler::Mh | Scheduler::Sh)) {
        let message = format!("only the schedulers mh and sh have flags, all ignored: set {SCHEDULER} to one of them");
        rejections.add("UnusedSchedulerFlag", field(SCHEDULER_FLAGS), text, message);
        return 0;
    }
    flags
}

fn direct_server_return(text: &str, rejections: &mut Rejections) -> bool {
    let tunnel = text == "tunnel";
    if !tunnel {
        let message = "not a form of direct server return, ignored: use tunnel";
        rejections.add("UnknownDsrMode", field(DSR), text, message);
    }
    tunnel
}

/// A truth value in the spellings kube-router reads; anything else is false.
fn truth(key: &str, text: &str, rejections: &mut Rejections) -> bool {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        other => {
            rejections.add("InvalidBoolean", field(key), other, "taken as false: use true or false");
            false
        }
    }
}

/// The rules of the weights annotation, in order. A rule that cannot be read is left out, the others count.
fn weights(text: &str, names: &Names, rejections: &mut Rejections) -> Vec<WeightRule> {
    let mut rules = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match weight_rule(entry, names) {
            Ok(rule) => rules.push(rule),
            Err(message) => rejections.add("InvalidWeight", field(WEIGHTS), entry, message),
        }
    }
    rules
}

fn weight_rule(entry: &str, names: &Names) -> Result<WeightRule, &'static str> {
    let (selector, weight) =
        entry.rsplit_once('=').ok_or("the rule is left out: write SELECTOR=WEIGHT, for example zone:a=2")?;
    let weight: u16 = weight.trim().parse().map_err(|_| "the rule is left out: the weight must be 0 to 65535")?;
    let selector = selector.trim();
    if selector == "*" {
        return Ok(WeightRule { selector: WeightSelector::Any, weight: u32::from(weight) });
    }
    let (kind, value) = selector
        .split_once(':')
        .map(|(kind, value)| (kind, value.trim()))
        .filter(|(_, value)| !value.is_empty())
        .ok_or("the rule is left out: select by ip:, pod:, node:, zone: or *")?;
    let selector = match kind {
        "ip" => {
            let address: IpAddr =
                value.trim_matches(['[', ']']).parse().map_err(|_| "the rule is left out: no IP address after ip:")?;
            WeightSelector::Address(address.to_canonical())
        }
        "pod" => WeightSelector::Pod(Arc::from(value)),
        "node" => WeightSelector::Node(NodeName(names.get(value))),
        "zone" => WeightSelector::Zone(names.get(value)),
        _ => return Err("the rule is left out: select by ip:, pod:, node:, zone: or *"),
    };
    Ok(WeightRule { selector, weight: u32::from(weight) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> (ServiceSettings, Vec<String>) {
        let annotations: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let meta = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let mut rejections = Rejections::default();
        let settings = service_settings(&meta, &Names::default(), &mut rejections);
        (settings, rejections.into_vec().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_kernel_scheduler_reads_and_an_unknown_one_is_reported() {
        let listed = ANNOTATIONS.iter().find(|doc| doc.key == SCHEDULER).unwrap();
        for name in listed.values.split(", ") {
            let (settings, rejections) = settings(&[(SCHEDULER, name)]);
            let read = serde_json::to_value(settings.scheduler.unwrap()).unwrap();
            assert_eq!(read, name);
            assert!(rejections.is_empty());
        }
        let (settings, rejections) = settings(&[(SCHEDULER, "fastest")]);
        assert_eq!(settings.scheduler, None);
        assert_eq!(rejections.len(), 1);
        assert!(rejections[0].starts_with("metadata.annotations[kube-router.io/service.scheduler]: \"fastest\": "));
    }

    #[test]
    fn flags_need_a_scheduler_that_has_some() {
        for (scheduler, flags, expected, n_rejections) in [
            ("mh", "flag-1,flag-2", 3, 0),
            ("sh", " flag-1 , flag-3 ", 5, 0),
            ("mh", "flag-1,flag-9", 1, 1),
            ("rr", "flag-1", 0, 1),
            ("mh", "", 0, 0),
        ] {
            let (settings, rejections) = settings(&[(SCHEDULER, scheduler), (SCHEDULER_FLAGS, flags)]);
            assert_eq!(settings.scheduler_flags, expected, "{scheduler} {flags}");
            assert_eq!(rejections.len(), n_rejections, "{scheduler} {flags}: {rejections:?}");
        }
    }

    #[test]
    fn weights_read_every_selector_and_leave_out_what_they_cannot_read() {
        let text = "ip:10.0.0.5=0, ip:fd00::5=7,ip:[fd00::6]=8,pod:web-1=5,node:n1=3,zone:a=2,*=65535,zone:b=70000,x=1,pod:=1,ip:no=1,5";
        let (settings, rejections) = settings(&[(WEIGHTS, text)]);
        let rules: Vec<(WeightSelector, u32)> =
            settings.weights.into_iter().map(|rule| (rule.selector, rule.weight)).collect();
        let expected = vec![
            (WeightSelector::Address("10.0.0.5".parse().unwrap()), 0),
            (WeightSelector::Address("fd00::5".parse().unwrap()), 7),
            (WeightSelector::Address("fd00::6".parse().unwrap()), 8),
            (WeightSelector::Pod("web-1".into()), 5),
            (WeightSelector::Node(NodeName::new("n1")), 3),
            (WeightSelector::Zone("a".into()), 2),
            (WeightSelector::Any, 65535),
        ];
        assert_eq!(rules, expected);
        assert_eq!(rejections.len(), 5, "{rejections:?}");
    }

    #[test]
    fn switches_read_as_kube_router_reads_them() {
        let (on, rejections) = settings(&[
            (DSR, "tunnel"),
            (LOCAL, "true"),
            (SKIP_LOAD_BALANCER_IPS, "false"),
            (ADVERTISE_CLUSTER_IP, "T"),
            (ADVERTISE_EXTERNAL_IP, "0"),
            (ADVERTISE_LOAD_BALANCER_IP, "yes"),
        ]);
        assert!(on.dsr && on.local && on.skip_load_balancer_ips);
        assert_eq!(on.advertise_cluster_ip, Some(true));
        assert_eq!(on.advertise_external_ip, Some(false));
        assert_eq!(on.advertise_load_balancer_ip, Some(false));
        assert_eq!(rejections.len(), 1);
        let (off, rejections) = settings(&[(DSR, "gre"), (LOCAL, "True")]);
        assert!(!off.dsr && !off.local && !off.skip_load_balancer_ips && off.advertise_cluster_ip.is_none());
        assert_eq!(rejections.len(), 1);
    }

    #[test]
    fn the_table_names_each_key_once() {
        let mut keys: Vec<&str> = ANNOTATIONS.iter().map(|doc| doc.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), ANNOTATIONS.len());
    }
}
