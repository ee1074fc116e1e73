//! Taking kube-router's rules out of iptables, for each room once its own are in force.

use tokio::sync::watch;

use crate::kernel::ipset::{Ipset, IpsetClient, Op};
use crate::kernel::iptables::{FLAVOURS, restore, save};
use crate::reconcile::Applied;
use crate::{firewall, proxy, routing};

/// What one of kube-router's controllers leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leftovers {
    what: &'static str,
    /// What happens where it cannot be removed.
    otherwise: &'static str,
    removal: fn(&str) -> Option<String>,
    is_set: fn(&str) -> bool,
}

/// Of its service proxy.
pub(super) const SERVICES: Leftovers = Leftovers {
    what: "service rules",
    otherwise: "they may refuse new virtual servers; remove chains KUBE-ROUTER-SERVICES and KUBE-ROUTER-HAIRPIN and the \
                jumps to them by hand",
    removal: proxy::takeover::removal,
    is_set: |_| false,
};
/// Of its router.
pub(super) const ROUTES: Leftovers = Leftovers {
    what: "pod egress rules",
    otherwise: "they masquerade traffic to pods of nodes that come later; remove the MASQUERADE rule with \
                kube-router-pod-subnets from POSTROUTING by hand",
    removal: routing::takeover::removal,
    is_set: routing::takeover::is_set,
};
/// Of its firewall.
pub(super) const POLICIES: Leftovers = Leftovers {
    what: "network policy chains",
    otherwise: "they go on denying what was denied last; remove chains KUBE-ROUTER-INPUT, -FORWARD and -OUTPUT and the \
                jumps to them by hand",
    removal: firewall::takeover::removal,
    is_set: firewall::takeover::is_set,
};

/// Waits for the first pass that brought everything of a room into force, then removes what kube-router left. Until then
/// its rules are the ones in force; afterwards they would stand in the way.
pub(super) async fn run(mut applied: watch::Receiver<Applied>, leftovers: Leftovers) {
    let ready = applied.wait_for(|applied| applied.passes > 0 && applied.failed.is_empty()).await.is_ok();
    if !ready {
        return;
    }
    // Starting programs blocks; a node without kube-router runs four of them, once.
    let _ = tokio::task::spawn_blocking(move || remove(leftovers)).await;
}

fn remove(leftovers: Leftovers) {
    let what = leftovers.what;
    let mut programs = 0;
    for flavour in FLAVOURS {
        let Some(saved) = save(flavour) else { continue };
        programs += 1;
        let Some(script) = (leftovers.removal)(&saved) else { continue };
        match restore(flavour, &script) {
            Ok(()) => tracing::info!(flavour, what, "removed what kube-router left"),
            Err(error) => {
                tracing::warn!(flavour, what, reason = %error, "kube-router's rules stay: {}", leftovers.otherwise);
            }
        }
    }
    if programs == 0 {
        tracing::debug!(what, "no iptables programs here, so rules that kube-router may have left were not looked for");
        return;
    }
    let sets = IpsetClient::open().and_then(|mut ipset| {
        let names = ipset.names()?.into_iter().filter(|name| (leftovers.is_set)(name));
        let ops: Vec<Op> = names.map(Op::Destroy).collect();
        Ok(ops.iter().cloned().zip(ipset.apply(&ops)).collect::<Vec<_>>())
    });
    for (op, answer) in sets.unwrap_or_default() {
        if let Err(error) = answer {
            tracing::info!(
                what,
                "an ipset that kube-router left stays, and nothing is the worse for it: {op}: {error}"
            );
        }
    }
}
