//! Taking kube-router's service rules out of iptables, once ours are in force.

use tokio::sync::watch;

use crate::kernel::iptables::{FLAVOURS, restore, save};
use crate::proxy::takeover::removal;
use crate::reconcile::Applied;

/// Waits for the first pass that brought everything into force, then removes what kube-router's proxy left. Until then
/// its rules are the ones that serve; afterwards they would refuse every virtual server that is new.
pub(super) async fn run(mut applied: watch::Receiver<Applied>) {
    let ready = applied.wait_for(|applied| applied.passes > 0 && applied.failed.is_empty()).await.is_ok();
    if !ready {
        return;
    }
    // Starting programs blocks; a node without kube-router runs four of them, once.
    let _ = tokio::task::spawn_blocking(remove).await;
}

fn remove() {
    let mut programs = 0;
    for flavour in FLAVOURS {
        let Some(saved) = save(flavour) else { continue };
        programs += 1;
        let Some(script) = removal(&saved) else { continue };
        match restore(flavour, &script) {
            Ok(()) => tracing::info!(flavour, "removed the service rules that kube-router left"),
            Err(error) => tracing::warn!(
                flavour,
                reason = %error,
                "kube-router's service rules stay and may refuse new virtual servers; remove chains KUBE-ROUTER-SERVICES \
                 and KUBE-ROUTER-HAIRPIN and the jumps to them by hand"
            ),
        }
    }
    if programs == 0 {
        tracing::debug!("no iptables programs here, so rules that kube-router may have left were not looked for");
    }
}
