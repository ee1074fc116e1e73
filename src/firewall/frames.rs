//! Frames with a VLAN tag from pod to pod of one bridge (pure).
//!
//! A bridge hands frames with IPv4 and IPv6 to the rules, and passes those with a tag as they are. A receiver takes tags with
//! the number 0 off (IEEE 802.1Q, 6.9: a priority tag names no VLAN), one behind the other, so what is behind them arrives
//! unasked. Pods with `CAP_NET_RAW` can send such frames. While a policy may isolate somebody, no frame with a tag passes
//! from pod to pod. What is for the node or for pods behind it has no tag any more when it is routed, and is asked about then.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::compile::comment;
use super::nobody::POD_BRIDGES;
use crate::kernel::filter::{Base, BaseKind, Chain, Hook, Match, Name, Rule, Ruleset, Statement};
use crate::kernel::nft::priority;

/// Types of frames with a tag: of a customer's VLAN (802.1Q) and of a provider's (802.1ad).
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// The chain frames enter.
const FORWARD: &str = "forward";
/// The chain of those that come from a pod.
const FROM_PODS: &str = "from-pods";

/// The table of bridged frames, made once: it is compared with every change of policies, and never another.
pub(super) fn ruleset() -> &'static Ruleset {
    static RULESET: LazyLock<Ruleset> = LazyLock::new(build);
    &RULESET
}

fn build() -> Ruleset {
    let rule = |matches, statements, text| Rule { matches: vec![matches], statements, comment: comment(text) };
    let forward = POD_BRIDGES
        .map(|bridge| {
            rule(Match::InputBridge(Name::from(bridge)), vec![Statement::Jump(Arc::from(FROM_PODS))], "from pod to pod")
        })
        .to_vec();
    let from_pods = TAGS
        .map(|tag| {
            let statements = vec![Statement::Counter, Statement::Drop];
            rule(Match::EtherType(tag), statements, "a VLAN tag hides it from policies")
        })
        .to_vec();
    let base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: priority::FIREWALL_FRAMES };
    let chains = [
        (Name::from(FORWARD), Chain { base: Some(base), rules: forward }),
        (Name::from(FROM_PODS), Chain { base: None, rules: from_pods }),
    ];
    Ruleset { chains: BTreeMap::from(chains), ..Ruleset::default() }
}
