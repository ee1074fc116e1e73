//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy (pure).
//!
//! The kind may be newer than this daemon, or written by hand, so every field that is not known is a complaint. What
//! cannot be read fails closed, as the API asks of implementations:
//!
//! | unreadable | until it is corrected |
//! | --- | --- |
//! | something in an Accept rule | the rule matches nothing |
//! | something in a Deny or Pass rule, or the action | the rule denies everything |
//! | tier, priority, a requirement of the subject | only Deny rules count, before all other policies, for every pod the rest of the subject chooses |
//! | whom the subject means at all | the policy is about nobody |

use std::borrow::Cow;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Context, Converted, Rejections, name_of, parse_prefix, selector};
use crate::model::{
    Action, ClusterNetworkPolicy as Policy, ClusterPolicyName, ClusterRule, Namespaces, Operator, Peer, Peers,
    PolicyPort, PortMatch, Ports, Requirement, Selector, Tier,
};
use crate::net::Protocol;

/// The highest priority number.
const MOST_PRIORITY: u64 = 1000;

/// The object, with its content as it was written: a field of an unexpected type must not cost the whole list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Name, labels and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it says.
    #[serde(default)]
    pub spec: Value,
}

impl kube::Resource for ClusterNetworkPolicy {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "ClusterNetworkPolicy".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "policy.networking.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1alpha2".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "clusternetworkpolicies".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Reduces one ClusterNetworkPolicy.
pub fn convert(
    object: &ClusterNetworkPolicy,
    context: Context<'_>,
) -> Converted<ClusterPolicyName, ClusterPolicyName, Policy> {
    let mut rejections = Rejections::default();
    let name = ClusterPolicyName(context.names.get(&name_of(&object.metadata, &mut rejections)));
    if name.0.is_empty() {
        return Converted { id: name, value: None, rejections: rejections.into_vec() };
    }
    let spec = &object.spec;
    let mut reader = Reader { context, rejections: &mut rejections, only_denials: false };
    if let Err(problem) = only(spec, "spec", &["tier", "priority", "subject", "ingress", "egress"]) {
        reader.degrade(problem);
    }
    let tier = reader.tier(spec);
    let priority = reader.priority(spec);
    let (namespaces, pods) = reader.subject(spec.get("subject").unwrap_or(&Value::Null));
    let (tier, priority) = if reader.only_denials { (Tier::Admin, 0) } else { (tier, priority) };
    let ingress = reader.rules(spec, "ingress", "from");
    let egress = reader.rules(spec, "egress", "to");
    let policy = Policy { tier, priority, namespaces, pods, ingress, egress };
    Converted { id: name.clone(), value: Some((name, policy)), rejections: rejections.into_vec() }
}

/// Something that cannot be used.
struct Problem {
    field: String,
    value: String,
    message: String,
}

type Read<T> = Result<T, Problem>;

fn problem<T>(field: impl Into<String>, value: &Value, message: impl Into<String>) -> Read<T> {
    let value = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Err(Problem { field: field.into(), value, message: message.into() })
}

struct Reader<'a> {
    context: Context<'a>,
    rejections: &'a mut Rejections,
    /// Something about the whole policy is unreadable.
    only_denials: bool,
}

impl Reader<'_> {
    fn report(&mut self, problem: Problem, effect: &str) {
        let Problem { field, value, message } = problem;
        let message = format!("{message}; until then {effect}");
        self.rejections.add("InvalidClusterPolicy", field, &value, message);
    }

    fn degrade(&mut self, problem: Problem) {
        self.only_denials = true;
        self.report(problem, "only its Deny rules count, and before all other policies");
    }

    fn tier(&mut self, spec: &Value) -> Tier {
        let written = spec.get("tier").unwrap_or(&Value::Null);
        match written.as_str() {
            Some("Admin") => return Tier::Admin,
            Some("Baseline") => return Tier::Baseline,
            _ => {}
        }
        if let Err(problem) = problem::<()>("spec.tier", written, "no tier: use Admin or Baseline") {
            self.degrade(problem);
        }
        Tier::Admin
    }

    fn priority(&mut self, spec: &Value) -> u16 {
        let written = spec.get("priority").unwrap_or(&Value::Null);
        let read = written.as_u64().filter(|number| *number <= MOST_PRIORITY);
        if let Some(number) = read.and_then(|number| u16::try_from(number).ok()) {
            return number;
        }
        if let Err(problem) = problem::<()>("spec.priority", written, "no priority: use a number from 0 to 1000") {
            self.degrade(problem);
        }
        0
    }

    /// The selectors of the namespaces and pods it is about.
    fn subject(&mut self, subject: &Value) -> (Selector, Selector) {
        let field = "spec.subject";
        let chosen = one_of(subject, field, &["namespaces", "pods"]);
        match chosen {
            Ok(("namespaces", selector)) => {
                (self.subject_selector(selector, &format!("{field}.namespaces")), Selector::default())
            }
            Ok((_, pods)) => {
                let field = format!("{field}.pods");
                if let Err(problem) = only(pods, &field, &["namespaceSelector", "podSelector"]) {
                    self.degrade(problem);
                }
                let mut part = |name: &str| {
                    let selector = pods.get(name).unwrap_or(&Value::Null);
                    self.subject_selector(selector, &format!("{field}.{name}"))
                };
                (part("namespaceSelector"), part("podSelector"))
            }
            Err(problem) => {
                self.report(problem, "the policy is about no pod at all");
                let never = Requirement { key: self.context.names.get(""), operator: Operator::Never };
                (Selector(vec![never]), Selector::default())
            }
        }
    }

    /// A selector of the subject: what of it can be read.
    fn subject_selector(&mut self, written: &Value, field: &str) -> Selector {
        let read = label_selector(written, field).map(|found| selector::read(&found, field, self.context));
        match read {
            Ok((selector, problems)) => {
                for (field, value, message) in problems {
                    self.degrade(Problem { field, value, message });
                }
                selector
            }
            Err(problem) => {
                self.degrade(problem);
                Selector::default()
            }
        }
    }

    fn rules(&mut self, spec: &Value, direction: &str, side: &str) -> Vec<ClusterRule> {
        let field = format!("spec.{direction}");
        let listed = match spec.get(direction) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(listed)) => listed.clone(),
            // Read as one rule, so that it fails closed like any other rule that cannot be read.
            Some(other) => vec![other.clone()],
        };
        let rules = listed.iter().enumerate();
        rules.map(|(index, rule)| self.rule(&format!("{field}[{index}]"), side, rule)).collect()
    }

    fn rule(&mut self, field: &str, side: &str, rule: &Value) -> ClusterRule {
        let name = self.context.names.get(rule.get("name").and_then(Value::as_str).unwrap_or_default());
        let action = action(field, rule);
        let body = self.body(field, side, rule);
        let (action, peers, ports) = match (action, body) {
            (Ok(action), Ok((peers, ports))) => (action, peers, ports),
            (Ok(Action::Accept), Err(problem)) => {
                self.report(problem, "this Accept rule matches nothing");
                (Action::Accept, Peers::Only(Vec::new()), Ports::Any)
            }
            (Err(problem), _) | (Ok(_), Err(problem)) => {
                self.report(problem, "this rule denies everything in its direction");
                (Action::Deny, Peers::Any, Ports::Any)
            }
        };
        // It keeps its place, and with it the numbers of the rules behind it.
        let peers = if self.only_denials && action != Action::Deny { Peers::Only(Vec::new()) } else { peers };
        ClusterRule { name, action, peers, ports }
    }

    fn body(&self, field: &str, side: &str, rule: &Value) -> Read<(Peers, Ports)> {
        only(rule, field, &["name", "action", "protocols", side])?;
        let mut peers = Vec::new();
        for (index, peer) in list(rule, field, side)?.iter().enumerate() {
            self.peer(&format!("{field}.{side}[{index}]"), side, peer, &mut peers)?;
        }
        if rule.get("protocols").is_none_or(Value::is_null) {
            return Ok((Peers::Only(peers), Ports::Any));
        }
        let to_blocks = peers.iter().any(|peer| matches!(peer, Peer::Block { .. }));
        let mut ports = Vec::new();
        for (index, protocol) in list(rule, field, "protocols")?.iter().enumerate() {
            let field = format!("{field}.protocols[{index}]");
            self.protocol(&field, protocol, to_blocks, &mut ports)?;
        }
        Ok((Peers::Only(peers), Ports::Only(ports)))
    }

    fn peer(&self, field: &str, side: &str, peer: &Value, peers: &mut Vec<Peer>) -> Read<()> {
        let known: &[&str] = if side == "from" {
            &["namespaces", "pods"]
        } else {
            &["namespaces", "pods", "networks", "nodes", "domainNames"]
        };
        let (kind, written) = one_of(peer, field, known)?;
        let field = format!("{field}.{kind}");
        match kind {
            "namespaces" => {
                let namespaces = Namespaces::Selected(self.strict(written, &field)?);
                peers.push(Peer::Pods { namespaces, pods: Selector::default() });
            }
            "pods" => {
                only(written, &field, &["namespaceSelector", "podSelector"])?;
                let part =
                    |name: &str| self.strict(written.get(name).unwrap_or(&Value::Null), &format!("{field}.{name}"));
                let namespaces = Namespaces::Selected(part("namespaceSelector")?);
                peers.push(Peer::Pods { namespaces, pods: part("podSelector")? });
            }
            "networks" => {
                for (index, network) in list(peer, field.trim_end_matches(".networks"), kind)?.iter().enumerate() {
                    let read = network.as_str().and_then(|text| parse_prefix(text).ok());
                    let Some(cidr) = read else {
                        let message = "not a prefix: write one like 192.0.2.0/24 or 2001:db8::/64";
                        return problem(format!("{field}[{index}]"), network, message);
                    };
                    peers.push(Peer::Block { cidr, except: Vec::new() });
                }
            }
            _ => return problem(field, written, "not supported: use namespaces, pods or networks"),
        }
        Ok(())
    }

    fn protocol(&self, field: &str, written: &Value, to_blocks: bool, ports: &mut Vec<PolicyPort>) -> Read<()> {
        let (kind, content) = one_of(written, field, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
        let field = format!("{field}.{kind}");
        let protocol = match kind {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => {
                let Some(name) = content.as_str().filter(|name| !name.is_empty()) else {
                    return problem(field, content, "no name of a port");
                };
                if to_blocks {
                    return problem(field, content, "networks have no named ports: write a rule of its own for them");
                }
                let port = PortMatch::Named(self.context.names.get(name));
                ports.extend(Protocol::ALL.map(|protocol| PolicyPort { protocol, port: port.clone() }));
                return Ok(());
            }
        };
        let (_, port) = one_of(content, &field, &["destinationPort"])?;
        let field = format!("{field}.destinationPort");
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|n| *n > 0);
        let port = match one_of(port, &field, &["number", "range"])? {
            ("number", written) => match number(written) {
                Some(port) => PortMatch::Range(port, port),
                None => return problem(format!("{field}.number"), written, "no port number: use 1 to 65535"),
            },
            (_, range) => {
                let field = format!("{field}.range");
                only(range, &field, &["start", "end"])?;
                match (range.get("start").and_then(number), range.get("end").and_then(number)) {
                    (Some(start), Some(end)) if start <= end => PortMatch::Range(start, end),
                    _ => return problem(field, range, "no range: start and end are 1 to 65535, start the smaller"),
                }
            }
        };
        ports.push(PolicyPort { protocol, port });
        Ok(())
    }

    /// A selector of a rule: all of it, or none.
    fn strict(&self, written: &Value, field: &str) -> Read<Selector> {
        let (selector, problems) = selector::read(&label_selector(written, field)?, field, self.context);
        match problems.into_iter().next() {
            None => Ok(selector),
            Some((field, value, message)) => Err(Problem { field, value, message }),
        }
    }
}

fn action(field: &str, rule: &Value) -> Read<Action> {
    let written = rule.get("action").unwrap_or(&Value::Null);
    match written.as_str() {
        Some("Accept") => Ok(Action::Accept),
        Some("Deny") => Ok(Action::Deny),
        Some("Pass") => Ok(Action::Pass),
        _ => problem(format!("{field}.action"), written, "no action: use Accept, Deny or Pass"),
    }
}

fn label_selector(written: &Value, field: &str) -> Read<LabelSelector> {
    if written.is_null() {
        return Ok(LabelSelector::default());
    }
    only(written, field, &["matchLabels", "matchExpressions"])?;
    match LabelSelector::deserialize(written) {
        Ok(selector) => Ok(selector),
        Err(error) => problem(field, written, format!("no label selector ({error})")),
    }
}

/// An object with no other fields than these.
fn only(value: &Value, field: &str, known: &[&str]) -> Read<()> {
    let Some(object) = value.as_object() else {
        return problem(field, value, format!("not an object with {}", known.join(", ")));
    };
    match object.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, value)) => {
            problem(format!("{field}.{key}"), value, format!("not a field this daemon knows: use {}", known.join(", ")))
        }
    }
}

/// An object with exactly one of these fields.
fn one_of<'a>(value: &'a Value, field: &str, known: &[&'static str]) -> Read<(&'static str, &'a Value)> {
    only(value, field, known)?;
    let mut given = known.iter().filter_map(|key| Some((*key, value.get(key).filter(|value| !value.is_null())?)));
    match (given.next(), given.next()) {
        (Some(found), None) => Ok(found),
        _ => problem(field, value, format!("exactly one is needed of {}", known.join(", "))),
    }
}

/// A list with at least one entry.
fn list<'a>(value: &'a Value, field: &str, key: &str) -> Read<&'a Vec<Value>> {
    match value.get(key) {
        Some(Value::Array(listed)) if !listed.is_empty() => Ok(listed),
        other => problem(format!("{field}.{key}"), other.unwrap_or(&Value::Null), "at least one entry is needed"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::k8s::convert::Names;
    use crate::model::NodeName;
    use crate::testing::builders::prefix;

    fn read(spec: Value) -> (Policy, Vec<String>) {
        let (names, own_node) = (Names::default(), NodeName::new("n1"));
        let context = Context { own_node: &own_node, names: &names, policies: true };
        let metadata = ObjectMeta { name: Some("guard".to_owned()), ..ObjectMeta::default() };
        let converted = convert(&ClusterNetworkPolicy { metadata, spec }, context);
        let rejections = converted.rejections.iter().map(ToString::to_string).collect();
        (converted.value.unwrap().1, rejections)
    }

    /// A policy of the Admin tier about everybody with this one egress rule.
    fn with_rule(rule: Value) -> (ClusterRule, Vec<String>) {
        let (policy, rejections) =
            read(json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}, "egress": [rule]}));
        assert_eq!((policy.tier, policy.priority), (Tier::Admin, 7));
        (policy.egress[0].clone(), rejections)
    }

    #[test]
    fn a_whole_policy_reads() {
        let (policy, rejections) = read(json!({
            "tier": "Baseline", "priority": 1000,
            "subject": {"pods": {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {}}},
            "ingress": [{
                "name": "from b", "action": "Pass", "from": [{"namespaces": {"matchLabels": {"team": "b"}}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "web"}]
            }],
            "egress": [{
                "action": "Deny", "to": [{"networks": ["10.1.2.3/8", "fd00::/8"]}],
                "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]
            }]
        }));
        assert!(rejections.is_empty(), "{rejections:?}");
        assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 1000));
        assert_eq!((policy.namespaces.to_string(), policy.pods.to_string()), ("team=a".into(), "<all>".into()));
        let Peers::Only(from) = &policy.ingress[0].peers else { panic!("peers") };
        assert!(matches!(&from[0], Peer::Pods { namespaces: Namespaces::Selected(found), pods }
            if found.to_string() == "team=b" && pods.is_everything()));
        let Ports::Only(ports) = &policy.ingress[0].ports else { panic!("ports") };
        assert_eq!(ports.len(), 1 + Protocol::ALL.len(), "a name is looked for in every protocol");
        assert_eq!((&*policy.ingress[0].name, policy.ingress[0].action), ("from b", Action::Pass));
        let block = |text: &str| Peer::Block { cidr: prefix(text), except: Vec::new() };
        assert_eq!(policy.egress[0].peers, Peers::Only(vec![block("10.0.0.0/8"), block("fd00::/8")]));
        let port = PolicyPort { protocol: Protocol::Udp, port: PortMatch::Range(1, 9) };
        assert_eq!(policy.egress[0].ports, Ports::Only(vec![port]));
    }

    #[test]
    fn a_rule_that_cannot_be_read_fails_closed_and_says_so() {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "is", "values": ["b"]}]});
        let tcp = |port: Value| json!([{"tcp": {"destinationPort": port}}]);
        for (part, content, field) in [
            ("to", json!([{"nodes": {}}]), "spec.egress[0].to[0].nodes"),
            ("to", json!([{"domainNames": ["a.example"]}]), "spec.egress[0].to[0].domainNames"),
            ("to", json!([{"serviceAccounts": {}}]), "spec.egress[0].to[0].serviceAccounts"),
            ("to", json!([{}]), "spec.egress[0].to[0]"),
            ("to", json!([{"namespaces": {}, "pods": {}}]), "spec.egress[0].to[0]"),
            ("to", json!([{"networks": ["10.0.0.0/8", "here"]}]), "spec.egress[0].to[0].networks[1]"),
            ("to", json!([{"networks": []}]), "spec.egress[0].to[0].networks"),
            ("to", json!([]), "spec.egress[0].to"),
            ("to", json!([{"namespaces": selector}]), "spec.egress[0].to[0].namespaces.matchExpressions[0].operator"),
            ("protocols", tcp(json!({"number": 0})), "spec.egress[0].protocols[0].tcp.destinationPort.number"),
            (
                "protocols",
                tcp(json!({"range": {"start": 9, "end": 1}})),
                "spec.egress[0].protocols[0].tcp.destinationPort.range",
            ),
            ("protocols", json!([{"icmp": {}}]), "spec.egress[0].protocols[0].icmp"),
            ("protocols", json!([{"tcp": {}}]), "spec.egress[0].protocols[0].tcp"),
            ("protocols", json!([]), "spec.egress[0].protocols"),
            ("ports", json!([{"portNumber": {"protocol": "TCP", "port": 80}}]), "spec.egress[0].ports"),
        ] {
            for (action, closed) in [
                ("Accept", (Action::Accept, Peers::Only(Vec::new()))),
                ("Deny", (Action::Deny, Peers::Any)),
                ("Pass", (Action::Deny, Peers::Any)),
                ("Allow", (Action::Deny, Peers::Any)),
            ] {
                let mut rule = json!({"action": action, "to": [{"namespaces": {}}]});
                rule[part] = content.clone();
                let (read, rejections) = with_rule(rule);
                assert_eq!((read.action, read.peers), closed, "{action} {part}: {content}");
                assert_eq!(rejections.len(), 1, "{rejections:?}");
                let expected = if action == "Allow" { "spec.egress[0].action" } else { field };
                assert!(rejections[0].starts_with(&format!("{expected}: ")), "{}", rejections[0]);
                let effect = if action == "Accept" { "matches nothing" } else { "denies everything" };
                assert!(rejections[0].contains(effect), "{}", rejections[0]);
            }
        }
        let rule = json!({"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"destinationNamedPort": "a"}]});
        assert!(with_rule(rule).1[0].contains("networks have no named ports"));
    }

    #[test]
    fn a_policy_of_unknown_standing_only_denies() {
        let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
        let accept = json!({"action": "Accept", "from": [{"namespaces": {}}]});
        let pass = json!({"action": "Pass", "from": [{"namespaces": {}}]});
        let whole =
            json!({"tier": "Baseline", "priority": 9, "subject": {"namespaces": {}}, "ingress": [accept, deny, pass]});
        let odd =
            json!({"namespaces": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In"}]}});
        for (part, content, field) in [
            ("tier", json!("Middle"), "spec.tier"),
            ("priority", json!(1001), "spec.priority"),
            ("priority", json!("high"), "spec.priority"),
            ("subject", odd, "spec.subject.namespaces.matchExpressions[0].values"),
            ("order", json!(1), "spec.order"),
        ] {
            let mut spec = whole.clone();
            spec[part] = content;
            let (policy, rejections) = read(spec);
            assert_eq!((policy.tier, policy.priority), (Tier::Admin, 0), "{part}");
            assert!(rejections[0].starts_with(&format!("{field}: ")), "{rejections:?}");
            let matches: Vec<bool> = policy.ingress.iter().map(|rule| rule.peers != Peers::Only(Vec::new())).collect();
            assert_eq!(matches, [false, true, false], "{part}");
        }
        let (policy, rejections) =
            read(json!({"tier": "Admin", "priority": 1, "subject": {"nodes": {}}, "ingress": [deny]}));
        assert!(!policy.namespaces.matches(&crate::model::Labels::new()), "nobody");
        assert!(rejections[0].contains("about no pod at all"), "{rejections:?}");
    }

    fn jsonish() -> impl Strategy<Value = Value> {
        let words = prop::sample::select(vec!["Admin", "Deny", "namespaces", "10.0.0.0/8", "", "web"]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(|number| json!(number)),
            words.prop_map(|word| json!(word)),
        ];
        let keys = prop::sample::select(vec![
            "namespaces",
            "pods",
            "tcp",
            "destinationPort",
            "number",
            "range",
            "start",
            "action",
            "from",
            "to",
            "networks",
            "protocols",
            "tier",
            "priority",
            "subject",
            "ingress",
            "egress",
            "matchLabels",
            "matchExpressions",
        ]);
        leaf.prop_recursive(5, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_unreadable_is_silent(spec in jsonish()) {
            let (policy, rejections) = read(spec.clone());
            let listed = |key: &str| spec.get(key).is_some_and(|rules| !rules.is_null());
            let rules = policy.ingress.iter().chain(&policy.egress);
            if rules.clone().any(|rule| rule.peers == Peers::Any) {
                prop_assert!(!rejections.is_empty(), "nobody can write a rule for everybody");
            }
            prop_assert!(rules.count() == 0 || listed("ingress") || listed("egress"));
        }
    }
}
