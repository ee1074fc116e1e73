//! What the firewall says to people: why a flow passes, whose a denied packet was, what stands for an old annotation.

use std::sync::Arc;

use ferrovia::firewall::Config;
use ferrovia::firewall::book::Book;
use ferrovia::firewall::denied::{Reason, trace};
use ferrovia::firewall::explain::{Explanation, Verdict, explain};
use ferrovia::firewall::legacy::{equivalent, notices};
use ferrovia::firewall::render::render;
use ferrovia::k8s::load_text;
use ferrovia::kernel::nflog::Packet;
use ferrovia::model::{NamespaceName, NodeName};
use ferrovia::reconcile::query::PodQuestion;
use ferrovia::testing::builders::ip;

const EXPLAINED: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.1.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.10.11}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDR: 10.244.2.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.10.12}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: lab}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web, labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}, status: {phase: Running, podIP: 10.244.1.5}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: lab, name: far}, spec: {nodeName: n2}, status: {phase: Running, podIP: 10.244.2.7}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: lab, name: host}, spec: {nodeName: n2, hostNetwork: true}, status: {phase: Running, podIP: 192.168.10.12}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: web}, spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}, {from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {name: no metadata, action: Deny, to: [{networks: [203.0.113.0/24]}]}
  ingress:
  - {action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 8080}}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: floor}
spec:
  tier: Baseline
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {}}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}]}
";

fn answer(question: &str) -> Explanation {
    let (snapshot, reports) = load_text(EXPLAINED, &NodeName::new("n1"));
    assert!(reports.is_empty(), "{reports:?}");
    explain(&snapshot, &Config::default(), &PodQuestion::parse(question).unwrap())
}

fn text(question: &str) -> String {
    answer(question).to_string()
}

#[test]
fn a_pod_names_the_policies_it_is_under_in_the_order_they_are_asked() {
    assert_eq!(
        text("shop/web"),
        "pod shop/web\n  10.244.1.5 on node n1\n  ingress:\n    tier Admin: guard (priority 10)\n    \
         networkpolicies: shop/web\n    tier Baseline: floor (priority 10), not asked\n  egress:\n    \
         tier Admin: guard (priority 10)\n"
    );
    assert!(text("lab/far").contains("tier Baseline: floor (priority 10)\n"));
    assert!(text("lab/host").contains("no policy is about it"));
    assert!(text("lab/none").contains("no such pod"));
}

#[test]
fn a_flow_is_judged_at_both_ends_and_says_by_which_rule() {
    let told = text("shop/web/from/lab/far/port/8080/tcp");
    let expected = "  from lab/far (10.244.2.7) port 8080/tcp: allowed\n    \
                    egress of lab/far: allowed: no policy says anything about it\n    \
                    ingress of shop/web: allowed: networkpolicy shop/web rule 0\n";
    assert!(told.ends_with(expected), "{told}");
    let told = text("shop/web/from/lab/far/port/81/tcp");
    assert!(told.ends_with("ingress of shop/web: denied: no rule of shop/web allows it\n"), "{told}");
    let told = text("shop/web/to/outside");
    let expected = "  to outside (203.0.113.1): denied\n    egress of shop/web: denied: \
                    clusternetworkpolicy guard rule 0 (\"no metadata\"): Deny\n";
    assert!(told.ends_with(expected), "{told}");
    let told = text("shop/web/to/lab/far/port/80/udp");
    assert!(told.ends_with("ingress of lab/far: denied: clusternetworkpolicy floor rule 0: Deny\n"), "{told}");
    let told = text("shop/web/from/192.168.10.11");
    assert!(told.contains("a pod and its own node may always reach each other"), "{told}");
    let told = text("shop/web/from/shop/web");
    assert!(told.contains("a pod may always reach itself"), "{told}");
}

#[test]
fn a_port_that_is_left_open_may_decide() {
    let flow = &answer("shop/web/from/lab/far").flows[0];
    assert_eq!(flow.verdict, Verdict::Depends);
    let by = &flow.ends[1].by;
    assert_eq!(
        by[..],
        [
            "clusternetworkpolicy guard rule 0: Pass",
            "networkpolicy shop/web rule 0",
            "else no rule of shop/web allows it"
        ]
    );
    // A rule for some ports that says what is said anyway decides nothing.
    assert_eq!(answer("lab/far/from/shop/web").flows[0].verdict, Verdict::Depends, "Pass may lead elsewhere");
    let json = serde_json::to_value(answer("shop/web/to/outside/json")).unwrap();
    assert_eq!(json["flows"][0]["verdict"], "denied");
    assert_eq!(json["ingress"]["policies"][0], "shop/web");
}

const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.1.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.10.11}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web, labels: {app: web}}, spec: {nodeName: n1}, status: {phase: Running, podIP: 10.244.1.5}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: db}, spec: {nodeName: n1}, status: {phase: Running, podIP: 10.244.1.6}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: far}, spec: {nodeName: n2}, status: {phase: Running, podIP: 10.244.2.7}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: web}, spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {name: no metadata, action: Deny, to: [{networks: [169.254.169.254/32]}]}
";

fn packet(source: &str, destination: &str, protocol: u8, port: Option<u16>) -> Packet {
    let ports = port.map(|port| (40_000, port));
    Packet { hook: 2, source: ip(source), destination: ip(destination), protocol, ports }
}

#[test]
fn a_denied_packet_names_pod_and_policy() {
    let (snapshot, reports) = load_text(CLUSTER, &NodeName::new("n1"));
    assert!(reports.is_empty(), "{reports:?}");
    let book = Book::build(&snapshot, &Config::default());
    let line = |packet: Packet| trace(&book, &snapshot, &packet).map(|denial| (denial.to_string(), denial.reason));
    assert_eq!(
        line(packet("10.244.2.7", "10.244.1.5", 6, Some(81))),
        Some((
            "ingress of shop/web from shop/far (10.244.2.7) tcp/81: no policy allows it (shop/web)".to_owned(),
            Reason::NoRule
        ))
    );
    assert_eq!(
        line(packet("10.244.1.6", "169.254.169.254", 6, Some(80))),
        Some((
            "egress of shop/db to 169.254.169.254 tcp/80: \
             clusternetworkpolicy guard rule 0 (\"no metadata\"): Deny"
                .to_owned(),
            Reason::ClusterPolicy
        ))
    );
    let (text, reason) = line(packet("198.51.100.9", "10.244.1.5", 1, None)).unwrap();
    assert_eq!(
        (reason, text.contains(" from 198.51.100.9 icmp: no policy allows it")),
        (Reason::NoRule, true),
        "{text}"
    );
    assert_eq!(line(packet("10.244.2.7", "10.244.1.5", 6, Some(80))).unwrap().1, Reason::Changed);
    assert_eq!(line(packet("198.51.100.9", "198.51.100.10", 6, Some(80))), None);
}

const OLD: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  annotations: {net.beta.kubernetes.io/network-policy: '{\"ingress\": {\"isolation\": \"DefaultDeny\"}}'}
";

#[test]
fn the_equivalent_policy_isolates_the_same_pods_and_render_tells_it() {
    let own_node = NodeName::new("n1");
    let (snapshot, reports) = load_text(OLD, &own_node);
    assert!(reports.is_empty(), "{reports:?}");
    let config = |legacy_isolation| Config { legacy_isolation, ..Config::default() };
    let told = notices(&snapshot, &config(false)).remove(0).message;
    assert!(told.contains("not heeded") && told.contains("--legacy-namespace-isolation"), "{told}");
    let yaml = equivalent(&NamespaceName(Arc::from("shop")));
    assert!(render(&snapshot, &config(true)).to_string().contains(&yaml), "render names it");
    let (same, reports) = load_text(&yaml, &own_node);
    assert!(reports.is_empty(), "{reports:?}");
    let (key, policy) = same.policies.iter().next().unwrap();
    assert_eq!(&*key.namespace, "shop");
    assert!(policy.targets.is_everything() && policy.ingress == Some(Vec::new()) && policy.egress.is_none());
}
