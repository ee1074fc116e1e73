//! Which policy a refusal of the kernel is about (pure).
//!
//! Rules say in their comment which rule of which policy they come from; a refusal names the rule, chain or set.

use std::fmt;

use super::book::Book;
use super::members::SetKey;
use crate::kernel::Error;
use crate::kernel::filter::{Name, Ruleset};
use crate::model::{ClusterPolicyName, PolicyKey};
use crate::net::Family;

/// A policy whose rules the kernel refused. Pods it selects stay under it, and it allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// A NetworkPolicy.
    Policy(PolicyKey),
    /// A ClusterNetworkPolicy.
    Cluster(ClusterPolicyName),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Policy(key) => write!(f, "networkpolicy {key}"),
            Refused::Cluster(name) => write!(f, "clusternetworkpolicy {name}"),
        }
    }
}

/// Whether a refusal is about the logging of denied packets: kernels without `nfnetlink_log` or `xt_NFLOG` have none.
pub(super) fn is_of_log(error: &Error) -> bool {
    let speaks = |text: &str| text.contains("log group") || text.contains("NFLOG");
    speaks(&error.op) || speaks(&error.message)
}

/// Whether a text names a rule by its comment, however the backend writes that.
pub(super) fn names_rule(text: &str, comment: &str) -> bool {
    let mut found = text.match_indices(comment);
    found.any(|(at, _)| {
        let (before, after) = text.split_at(at);
        let after = after.get(comment.len()..).unwrap_or_default();
        before.ends_with('"') && (after.starts_with('"') || after.starts_with(" #"))
    })
}

/// Whether a text names something of these rules: a chain, a rule, or a set of addresses they look into.
pub(super) fn names_part(text: &str, part: &Ruleset) -> bool {
    let named = |name: &Name| text.contains(name.as_ref());
    let rules = part.chains.values().flat_map(|chain| &chain.rules);
    part.sets.keys().any(named) || rules.into_iter().any(|rule| names_rule(text, &rule.comment))
}

/// Whether a text names a set of pods.
pub(super) fn names_set(text: &str, set: &SetKey) -> bool {
    Family::ALL.iter().any(|family| text.contains(&*set.name(*family)))
}

/// The cluster policy of a tier that a text names; the only one there is, where the text names their chain alone.
pub(super) fn of_tier<'a>(
    text: &str,
    chain: &Name,
    parts: impl Iterator<Item = (&'a ClusterPolicyName, Ruleset)>,
    book: &Book,
) -> Option<ClusterPolicyName> {
    let parts: Vec<(&ClusterPolicyName, Ruleset)> = parts.collect();
    let uses = |name: &ClusterPolicyName| {
        let sets = book.tiers().policy(name).map(|policy| policy.sets()).unwrap_or_default();
        sets.into_iter().any(|set| names_set(text, set))
    };
    let named = parts.iter().find(|(name, part)| names_part(text, part) || uses(name));
    let only = || parts.first().filter(|_| parts.len() == 1 && text.contains(chain.as_ref()));
    named.or_else(only).map(|(name, _)| (*name).clone())
}

#[cfg(test)]
mod tests {
    use super::names_rule;

    #[test]
    fn a_comment_is_named_whole() {
        let comment = "shop/web ingress[0]";
        for text in [
            "add rule inet t c accept comment \"shop/web ingress[0] #0123\"",
            "-A C -m comment --comment \"shop/web ingress[0] #0123\" -j RETURN",
            "write t to iptables, at: rule \"shop/web ingress[0]\" of chain c",
        ] {
            assert!(names_rule(text, comment), "{text}");
        }
        for text in ["comment \"other-shop/web ingress[0] #0\"", "comment \"shop/web ingress[0]x #0\"", ""] {
            assert!(!names_rule(text, comment), "{text}");
        }
    }
}
