//! Denied packets: from the log group into the log and the metrics.

use tokio::sync::watch;

use super::servers::Tasks;
use super::translate::firewall_config;
use crate::config::Config;
use crate::firewall;
use crate::firewall::denied::{Denial, Namespaces};
use crate::firewall::log_reader::follow;
use crate::kernel::nflog::Reader;
use crate::model::Published;
use crate::telemetry::registry::{DeniedLabels, Metrics};

/// With `--log-denied`, reads the group until the daemon stops. That it cannot be read is no reason to end the daemon:
/// policies are enforced without it.
pub(super) fn spawn(
    tasks: &mut Tasks,
    stopping: &watch::Receiver<bool>,
    snapshots: &watch::Receiver<Option<Published>>,
    config: &Config,
    metrics: &Metrics,
) {
    if !config.features.firewall || !config.firewall.log_denied {
        return;
    }
    let (config, count) = (firewall_config(config), counter(metrics));
    let (snapshots, mut stopping) = (snapshots.clone(), stopping.clone());
    tasks.spawn(async move {
        let reading = async {
            match Reader::open(firewall::LOG_GROUP) {
                Ok(reader) => match follow(reader, snapshots, config, count).await {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(reason = %error, "denied packets are no longer read"),
                },
                Err(error) => tracing::warn!(reason = %error, "--log-denied has no effect"),
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => {}
            () = reading => {}
        }
        ("denied packets", Ok(()))
    });
}

/// Counts a denied packet under bounded labels.
fn counter(metrics: &Metrics) -> impl FnMut(&Denial) + use<> {
    let (denied, mut namespaces) = (metrics.denied.clone(), Namespaces::default());
    move |denial| {
        let labels = DeniedLabels {
            namespace: namespaces.label(&denial.pod.namespace).to_string(),
            direction: denial.direction.to_string(),
            reason: denial.reason.name(),
        };
        denied.get_or_create(&labels).inc();
    }
}
