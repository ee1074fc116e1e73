//! `networking.k8s.io/v1` NetworkPolicy (pure).
//!
//! What cannot be read never makes a policy allow more: a peer or port that makes no sense is left out of its rule,
//! and a rule that named some never turns into one for all. Whom the policy isolates stays isolated.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy as ApiPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::selector::{self, Unreadable};
use super::{Context, Converted, Rejections, namespace_and_name, parse_port, parse_prefix, parse_protocol};
use crate::model::{
    Namespaces, NetworkPolicy, Peer, Peers, PolicyKey, PolicyPort, PolicyRule, PortMatch, Ports, Selector,
};
use crate::net::Prefix;

/// Reduces one NetworkPolicy.
pub fn convert(object: &ApiPolicy, context: Context<'_>) -> Converted<PolicyKey, PolicyKey, NetworkPolicy> {
    let mut rejections = Rejections::default();
    let (namespace, name) = namespace_and_name(&object.metadata, &mut rejections);
    let key = PolicyKey::new(context.names.get(&namespace), name);
    if key.name.is_empty() {
        return Converted { id: key, value: None, rejections: rejections.into_vec() };
    }
    let empty = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let (for_ingress, for_egress) = directions(spec, &mut rejections);
    let mut reader = Reader { context, rejections: &mut rejections };
    let targets = reader.selector(spec.pod_selector.as_ref(), "spec.podSelector", Unreadable::ChoosesMore);
    let ingress = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| {
        reader.rule(&format!("spec.ingress[{index}]"), "from", rule.from.as_deref(), rule.ports.as_deref())
    });
    let ingress: Vec<PolicyRule> = ingress.collect();
    let egress = spec.egress.iter().flatten().enumerate().map(|(index, rule)| {
        reader.rule(&format!("spec.egress[{index}]"), "to", rule.to.as_deref(), rule.ports.as_deref())
    });
    let egress: Vec<PolicyRule> = egress.collect();
    let policy =
        NetworkPolicy { targets, ingress: for_ingress.then_some(ingress), egress: for_egress.then_some(egress) };
    Converted { id: key.clone(), value: Some((key, policy)), rejections: rejections.into_vec() }
}

/// Which directions it isolates: `policyTypes`, or where that is absent ingress, and egress if there are egress rules.
fn directions(spec: &NetworkPolicySpec, rejections: &mut Rejections) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let has = |wanted: &str| types.iter().any(|text| text == wanted);
    for (index, text) in types.iter().enumerate().filter(|(_, text)| !matches!(text.as_str(), "Ingress" | "Egress")) {
        let message = "no policy type and left out: use Ingress or Egress";
        rejections.add("InvalidPolicyType", format!("spec.policyTypes[{index}]"), text, message);
    }
    if has("Ingress") || has("Egress") {
        return (has("Ingress"), has("Egress"));
    }
    (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()))
}

struct Reader<'a> {
    context: Context<'a>,
    rejections: &'a mut Rejections,
}

impl Reader<'_> {
    fn selector(
        &mut self,
        selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
        field: &str,
        unreadable: Unreadable,
    ) -> Selector {
        selector::convert(selector, field, unreadable, self.context, self.rejections)
    }

    fn rule(
        &mut self,
        field: &str,
        side: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> PolicyRule {
        let peers = match peers.unwrap_or_default() {
            [] => Peers::Any,
            listed => Peers::Only(
                listed
                    .iter()
                    .enumerate()
                    .filter_map(|(index, peer)| self.peer(&format!("{field}.{side}[{index}]"), peer))
                    .collect(),
            ),
        };
        let ports = match ports.unwrap_or_default() {
            [] => Ports::Any,
            listed => Ports::Only(
                listed
                    .iter()
                    .enumerate()
                    .filter_map(|(index, port)| self.port(&format!("{field}.ports[{index}]"), port))
                    .collect(),
            ),
        };
        PolicyRule { peers, ports }
    }

    fn peer(&mut self, field: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match (&peer.ip_block, selects) {
            (Some(block), false) => self.block(&format!("{field}.ipBlock"), block),
            (None, true) => {
                let pods = self.selector(
                    peer.pod_selector.as_ref(),
                    &format!("{field}.podSelector"),
                    Unreadable::ChoosesNothing,
                );
                let namespaces = match &peer.namespace_selector {
                    None => Namespaces::Own,
                    Some(selector) => Namespaces::Selected(self.selector(
                        Some(selector),
                        &format!("{field}.namespaceSelector"),
                        Unreadable::ChoosesNothing,
                    )),
                };
                Some(Peer::Pods { namespaces, pods })
            }
            (Some(block), true) => {
                let message = "ipBlock beside a selector means nothing, the peer is left out: write two peers";
                self.rejections.add("InvalidPeer", field, &block.cidr, message);
                None
            }
            (None, false) => {
                let message = "names nobody and is left out: give podSelector, namespaceSelector or ipBlock";
                self.rejections.add("InvalidPeer", field, "", message);
                None
            }
        }
    }

    fn block(&mut self, field: &str, block: &IPBlock) -> Option<Peer> {
        let cidr = self.prefix(format!("{field}.cidr"), &block.cidr)?;
        let mut except = Vec::new();
        for (index, text) in block.except.iter().flatten().enumerate() {
            let field = format!("{field}.except[{index}]");
            // Without this exception the block would allow more than was meant: then rather nothing of it.
            let hole = self.prefix(field.clone(), text)?;
            if !cidr.contains(&hole) {
                let message = format!("outside {cidr} and without effect: an exception lies inside its block");
                self.rejections.add("InvalidPeer", field, text, message);
                continue;
            }
            except.push(hole);
        }
        except.sort();
        except.dedup();
        Some(Peer::Block { cidr, except })
    }

    fn prefix(&mut self, field: String, text: &str) -> Option<Prefix> {
        let read = parse_prefix(text);
        read.map_err(|_| {
            let message = "not a prefix, so the whole ipBlock is left out: write one like 192.0.2.0/24";
            self.rejections.add("InvalidPrefix", field, text, message);
        })
        .ok()
    }

    fn port(&mut self, field: &str, port: &NetworkPolicyPort) -> Option<PolicyPort> {
        let protocol = match parse_protocol(port.protocol.as_deref()) {
            Ok(protocol) => protocol,
            Err(message) => {
                let value = port.protocol.as_deref().unwrap_or_default();
                self.rejections.add("InvalidProtocol", format!("{field}.protocol"), value, message);
                return None;
            }
        };
        let mut refuse = |part: &str, value: String, message: &str| {
            self.rejections.add("InvalidPort", format!("{field}.{part}"), &value, message);
            None
        };
        let port = match (&port.port, port.end_port) {
            (None, None) => PortMatch::Any,
            (Some(IntOrString::Int(number)), end) => match (parse_port(*number), end.map(parse_port)) {
                (Some(first), None) => PortMatch::Range(first, first),
                (Some(first), Some(Some(last))) if first <= last => PortMatch::Range(first, last),
                (None, _) => {
                    return refuse("port", number.to_string(), "no port number and left out: use 1 to 65535");
                }
                (Some(_), _) => {
                    let end = end.unwrap_or_default().to_string();
                    return refuse("endPort", end, "below port or no port number, the entry is left out");
                }
            },
            (Some(IntOrString::String(name)), None) if !name.is_empty() => {
                PortMatch::Named(self.context.names.get(name))
            }
            (_, Some(end)) => {
                let message = "endPort needs a port number before it, the entry is left out: a name has no range";
                return refuse("endPort", end.to_string(), message);
            }
            (Some(IntOrString::String(_)), None) => {
                return refuse("port", String::new(), "an empty name and left out: give a number or a name");
            }
        };
        Some(PolicyPort { protocol, port })
    }
}
