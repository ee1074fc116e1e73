//! The firewall as it runs on a node: its room, who hears of foreign changes, and what waits for it.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::backend::NodeTables;
use super::doors::FirewallKernel;
use super::servers::Tasks;
use super::translate::firewall_config;
use crate::config::Config;
use crate::firewall::reconciler::{BRIDGE, Figures, Room};
use crate::firewall::{BESIDE, FRAMES, TABLE};
use crate::kernel::conntrack::client::ConntrackClient;
use crate::kernel::rtnl::RtnlClient;
use crate::kernel::sysctl::{ProcSys, Sysctl};
use crate::reconcile::{Applied, Subsystem};
use crate::telemetry::registry::Metrics;

/// The room on the real kernel.
pub(super) type FirewallRoom = Room<NodeTables, RtnlClient, ConntrackClient, ProcSys>;
/// The room's name.
pub(super) const NAME: &str = <FirewallRoom as Subsystem>::NAME;

/// The room, and what it counts.
pub(super) fn room(config: &Config, kernel: FirewallKernel) -> (FirewallRoom, watch::Receiver<Figures>) {
    let (figures, counted) = watch::channel(Figures::default());
    (Room::new(firewall_config(config), kernel, figures), counted)
}

/// How often the settings are looked at that let rules see what pods of one bridge say to each other: the kernel tells nobody.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(2);

/// Notices when somebody else takes a setting away. One that cannot be written is told once.
#[derive(Debug, Default)]
struct SettingsWatch {
    off: bool,
}

impl SettingsWatch {
    /// Whether one of the settings is off and was not before.
    fn look(&mut self, sysctl: &mut impl Sysctl) -> bool {
        let off = BRIDGE.iter().any(|key| matches!(sysctl.read(key), Ok(Some(value)) if value != "1"));
        let was_off = std::mem::replace(&mut self.off, off);
        off && !was_off
    }
}

/// Tells the room when somebody else touches its tables, or its settings.
///
/// # Errors
/// The kernel does not let us listen.
pub(super) fn spawn_monitor(tasks: &mut Tasks, room: &mut FirewallRoom) -> anyhow::Result<mpsc::Receiver<()>> {
    let mut monitor =
        room.kernel_mut().nft.listen(TABLE, &[BESIDE, FRAMES]).context("cannot listen to changes of nftables")?;
    let (news, disturbances) = mpsc::channel(1);
    tasks.spawn(async move {
        let mut sysctl = ProcSys::default();
        let (mut settings, mut ticks) = (SettingsWatch::default(), tokio::time::interval(SETTINGS_INTERVAL));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let heard = tokio::select! {
                heard = monitor.next() => heard,
                _ = ticks.tick() => {
                    if !settings.look(&mut sysctl) {
                        continue;
                    }
                    Ok(())
                }
                () = news.closed() => break Ok(()),
            };
            match heard {
                // Full means that the room has not looked yet: it will see this change, too.
                Ok(()) => drop(news.try_send(())),
                Err(error) => break Err(error).context("listening to changes of nftables"),
            }
        };
        ("firewall monitor", ended)
    });
    Ok(disturbances)
}

/// What two rooms have in force together: as far as the slower one is, with what failed in either.
pub(super) fn both(
    one: Option<watch::Receiver<Applied>>,
    other: Option<watch::Receiver<Applied>>,
    tasks: &mut Tasks,
) -> Option<watch::Receiver<Applied>> {
    let (mut one, mut other) = match (one, other) {
        (Some(one), Some(other)) => (one, other),
        (one, other) => return one.or(other),
    };
    let (together, reports) = watch::channel(Applied::default());
    tasks.spawn(async move {
        loop {
            together.send_replace(merged(&one.borrow_and_update(), &other.borrow_and_update()));
            let goes_on = tokio::select! {
                changed = one.changed() => changed.is_ok(),
                changed = other.changed() => changed.is_ok(),
                () = together.closed() => false,
            };
            if !goes_on {
                // A room that has ended says so itself; nobody is left who could report here.
                together.closed().await;
                return ("reports", Ok(()));
            }
        }
    });
    Some(reports)
}

fn merged(one: &Applied, other: &Applied) -> Applied {
    let mut merged = Applied {
        generation: one.generation.min(other.generation),
        passes: one.passes.min(other.passes),
        ..one.clone()
    };
    merged.failed.extend(other.failed.clone());
    merged.broken.extend(other.broken.iter().cloned());
    merged
}

/// Brings the metrics up to date.
pub(super) fn observe(figures: &watch::Receiver<Figures>, metrics: &Metrics) {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let figures = figures.borrow().clone();
    metrics.policy_chains.set(number(figures.chains));
    metrics.policy_ipsets.set(number(figures.sets));
    metrics.policies.set(number(figures.policies));
    metrics.isolated_pods.set(number(figures.isolated_pods));
    metrics.cut_flows.inc_by(figures.cut_flows.saturating_sub(metrics.cut_flows.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sysctl::FakeSysctl;
    use crate::model::Generation;

    #[test]
    fn a_setting_that_somebody_takes_away_is_noticed_once() {
        let (mut watch, mut sysctl) = (SettingsWatch::default(), FakeSysctl::default());
        assert!(!watch.look(&mut sysctl), "a kernel without bridges");
        for (value, news) in [("1", false), ("0", true), ("0", false), ("1", false), ("0", true)] {
            sysctl.values.insert(BRIDGE[1].to_owned(), value.to_owned());
            assert_eq!(watch.look(&mut sysctl), news, "{value}");
        }
    }

    #[tokio::test]
    async fn together_means_the_slower_one_with_the_faults_of_both() {
        let mut tasks = Tasks::new();
        let (proxy, proxy_reports) = watch::channel(Applied::default());
        let (firewall, firewall_reports) = watch::channel(Applied::default());
        let mut reports = both(Some(proxy_reports), Some(firewall_reports), &mut tasks).unwrap();
        let applied = |generation, fault: &str| {
            let failed = [(fault.to_owned(), "EIO".to_owned())].into();
            Applied { generation: Generation(generation), failed, passes: 3, ..Applied::default() }
        };
        proxy.send_replace(applied(7, "vip 10.0.0.1"));
        firewall.send_replace(Applied { broken: ["table t".to_owned()].into(), ..applied(5, "table t") });
        let report = reports.wait_for(|report| report.failed.len() == 2).await.unwrap().clone();
        assert_eq!(report.generation, Generation(5));
        assert!(report.broken.contains("table t") && report.passes == 3);
        assert!(both(None, None, &mut tasks).is_none());
    }
}
