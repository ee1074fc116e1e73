//! Pods that get by a tunnel what their policies should be asked about, where rules cannot look inside (pure).

use super::book::Book;
use super::resolve::Direction;
use super::table::Table;
use crate::model::{Notice, PodKey, ServiceKey, Severity, Subject};

/// One notice for each Service with direct server return that leads to a pod of this node under an ingress policy. Costs
/// the addresses of such Services.
pub(super) fn notices(book: &Book, table: &Table) -> Vec<Notice> {
    let is_judged = |key: &&PodKey| {
        let tiers = book.tiers().under(key, Direction::Ingress);
        tiers.is_some_and(|under| !under.is_empty()) || book.pods().get(key).is_some_and(|pod| !pod.ingress.is_empty())
    };
    let services = book.direct().services();
    services
        .filter_map(|(service, addresses)| {
            let pod = addresses.iter().flat_map(|address| table.pods_at(*address)).find(is_judged)?;
            Some(notice(service, pod))
        })
        .collect()
}

fn notice(service: &ServiceKey, pod: &PodKey) -> Notice {
    let message = format!(
        "policies of pod {pod} are not asked about what direct server return tunnels to it: rules of iptables cannot look \
         inside the tunnel, and this kernel has no nf_tables, whose rules can; load module nf_tables and restart Ferrovia, or \
         remove annotation kube-router.io/service.dsr"
    );
    Notice {
        subject: Subject::Service(service.clone()),
        severity: Severity::Warning,
        reason: "PolicyNotApplied",
        message,
    }
}
