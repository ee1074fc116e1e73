//! Cases written by hand, at least one for each kind of rule, and each kind of change.

use ferrovia::net::Protocol;
use serde_json::{Value, json};

use super::world::{World, labels};

/// A named change of the world.
pub(super) struct Case {
    pub(super) title: &'static str,
    pub(super) change: Box<dyn FnOnce(&mut World)>,
}

/// A case that changes what is there.
fn then(title: &'static str, change: impl FnOnce(&mut World) + 'static) -> Case {
    Case { title, change: Box::new(change) }
}

/// A case in which this is the only policy.
fn only(title: &'static str, namespace: &'static str, spec: Value) -> Case {
    then(title, move |world| {
        world.policies.clear();
        world.cluster_policies.clear();
        world.put(namespace, "only", spec);
    })
}

fn selectors() -> Vec<Case> {
    vec![
        only("deny all ingress", "x", json!({"podSelector": {}})),
        only("deny all egress", "x", json!({"podSelector": {}, "policyTypes": ["Egress"]})),
        only("deny all, both directions", "y", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})),
        only("allow all ingress", "x", json!({"podSelector": {}, "ingress": [{}]})),
        only(
            "ingress from pods of the own namespace",
            "x",
            json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"podSelector": {}}]}]}),
        ),
        only(
            "ingress from a pod by label",
            "x",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]}),
        ),
        only(
            "ingress from namespaces by label",
            "x",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]}),
        ),
        only(
            "ingress from all namespaces",
            "y",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}),
        ),
        only(
            "both selectors in one peer",
            "x",
            json!({"podSelector": {}, "ingress": [{"from": [{
                "namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"app": "c"}}}]}]}),
        ),
        only(
            "the same selectors as two peers",
            "x",
            json!({"podSelector": {}, "ingress": [{"from": [
                {"namespaceSelector": {"matchLabels": {"team": "red"}}}, {"podSelector": {"matchLabels": {"app": "c"}}}]}]}),
        ),
        only(
            "expressions: In and NotIn",
            "x",
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]},
                "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [
                    {"key": "team", "operator": "NotIn", "values": ["red"]}]}}]}]}),
        ),
        only(
            "expressions: Exists and DoesNotExist",
            "y",
            json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
                "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]},
                    "podSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}]}}]}]}),
        ),
        only(
            "egress to pods by label",
            "x",
            json!({"podSelector": {}, "egress": [{"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "b"}}}]}],
                "policyTypes": ["Egress"]}),
        ),
        only(
            "egress rules without policyTypes isolate ingress as well",
            "x",
            json!({"podSelector": {"matchLabels": {"app": "a"}}, "egress": [{}]}),
        ),
    ]
}

fn blocks_and_ports() -> Vec<Case> {
    vec![
        only("block", "x", json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.244.1.0/24"}}]}]})),
        only(
            "blocks with exceptions that overlap",
            "x",
            json!({"podSelector": {}, "ingress": [{"from": [
                {"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.8/29", "10.244.1.12/30", "10.244.2.11/32"]}},
                {"ipBlock": {"cidr": "fd00:244::/32", "except": ["fd00:244:1::/64"]}}]}]}),
        ),
        only(
            "an exception of one block inside another block",
            "y",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.2.0/24"]}}, {"ipBlock": {"cidr": "10.244.2.12/32"}},
                {"ipBlock": {"cidr": "::/0", "except": ["fd00:244:2::12/128"]}}]}]}),
        ),
        only(
            "number and protocol",
            "x",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7001}, {"port": 7002, "protocol": "UDP"}]}]}),
        ),
        only("protocol alone", "x", json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "SCTP"}]}]})),
        only(
            "endPort",
            "y",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 6000, "endPort": 7001, "protocol": "UDP"}]}]}),
        ),
        only(
            "endPort over both",
            "y",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [
                {"port": 7001, "endPort": 7002}, {"port": 7002, "endPort": 9000, "protocol": "SCTP"}]}]}),
        ),
        only("named port, ingress", "x", json!({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]})),
        only(
            "named port, egress: another number in each pod",
            "z",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [
                {"port": "web"}, {"port": "dns", "protocol": "UDP"}, {"port": "signal", "protocol": "SCTP"}]}]}),
        ),
        only(
            "named port with the wrong protocol matches nothing",
            "z",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "dns", "protocol": "TCP"}]}]}),
        ),
        only(
            "named port and peer",
            "x",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                {"to": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}], "ports": [{"port": "web"}]},
                {"to": [{"podSelector": {}}], "ports": [{"protocol": "UDP"}]}]}),
        ),
    ]
}

/// One world that goes through every kind of change.
fn changes() -> Vec<Case> {
    let to_a = json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}}]}]});
    vec![
        only("changes: a policy", "x", to_a),
        then("changes: a second policy allows more", |world| {
            world.put("x", "more", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7002}]}]}));
        }),
        then("changes: the sender is isolated, too", |world| {
            world.put(
                "y",
                "out",
                json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 7001}]}]}),
            );
        }),
        then("changes: a policy is rewritten", |world| {
            world.put(
                "x",
                "more",
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7001, "protocol": "UDP"}]}]}),
            );
        }),
        then("changes: a namespace becomes red", |world| {
            world.namespaces.insert("y", labels(&[("team", "red")]));
        }),
        then("changes: a pod becomes app a", |world| {
            if let Some(pod) = world.pods.get_mut(3) {
                pod.labels.insert("app".into(), "a".into());
            }
        }),
        then("changes: a pod loses all labels", |world| {
            if let Some(pod) = world.pods.first_mut() {
                pod.labels.clear();
            }
        }),
        then("changes: a pod of another namespace takes an address over", |world| {
            if let Some(pod) = world.pods.first_mut() {
                (pod.namespace, pod.name) = ("z", "heir".into());
                pod.labels = labels(&[("app", "b")]);
            }
        }),
        then("changes: two pods exchange their addresses", |world| world.pods.swap(1, 5)),
        then("changes: a pod's named port moves", |world| {
            world.put("z", "named", json!({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]}));
            for pod in &mut world.pods {
                pod.ports = vec![("web", 7002, Protocol::Tcp)];
            }
        }),
        then("changes: a policy goes", |world| {
            world.policies.remove(&("x".to_owned(), "more".to_owned()));
        }),
        then("changes: all policies go", |world| world.policies.clear()),
    ]
}

fn tier(tier: &str, priority: u16, rules: &Value) -> Value {
    json!({"tier": tier, "priority": priority, "subject": {"namespaces": {}}, "ingress": rules})
}

fn tiers() -> Vec<Case> {
    let from =
        |team: &str, action: &str| json!({"action": action, "from": [{"namespaces": {"matchLabels": {"team": team}}}]});
    let (deny_blue, baseline) =
        (tier("Admin", 5, &json!([from("blue", "Deny")])), tier("Baseline", 5, &json!([from("red", "Deny")])));
    let pass_blue = tier("Admin", 1, &json!([from("blue", "Pass")]));
    vec![
        then("tiers: Admin denies", move |world| {
            world.policies.clear();
            world.cluster_policies.insert("deny".into(), deny_blue);
        }),
        then("tiers: Baseline denies the rest", move |world| {
            world.cluster_policies.insert("base".into(), baseline);
        }),
        then("tiers: a NetworkPolicy stands before Baseline", |world| {
            world.put("x", "only", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7001}]}]}));
        }),
        then("tiers: a pass before the deny", move |world| {
            world.cluster_policies.insert("pass".into(), pass_blue);
        }),
        then("tiers: all go", |world| {
            world.policies.clear();
            world.cluster_policies.clear();
        }),
    ]
}

/// All of them, in the order they are run in.
pub(super) fn all() -> Vec<Case> {
    [selectors(), blocks_and_ports(), changes(), tiers()].into_iter().flatten().collect()
}
