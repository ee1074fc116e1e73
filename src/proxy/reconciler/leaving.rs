//! VIPs nobody asks for any longer, on their way out.
//!
//! Withdraw first: where the router runs beside this room, a VIP stays bound until routing has taken it back. What other
//! routers still send here then ends here, with a refusal, instead of going back and forth between them and this node
//! until its time to live is over. Bounded: a router that does not answer keeps no VIP for long.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::Generation;
use crate::reconcile::Applied;

/// How long a VIP waits for routing at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon to look again while one waits.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// VIPs that are to be unbound.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// What routing has in force, where it runs.
    routing: Option<watch::Receiver<Applied>>,
    /// The snapshot in which nobody asked for the VIP any more, and when that was.
    vips: BTreeMap<IpAddr, (Generation, Duration)>,
}

impl Leaving {
    /// Waits for this room from now on, where it runs.
    pub(super) fn follow(&mut self, routing: Option<watch::Receiver<Applied>>) {
        self.routing = routing;
    }

    /// Nobody asks for the VIP as of this snapshot, or an earlier one that said so already.
    pub(super) fn add(&mut self, vip: IpAddr, generation: Generation, now: Duration) {
        self.vips.entry(vip).or_insert((generation, now));
    }

    /// It is gone, or asked for again.
    pub(super) fn remove(&mut self, vip: IpAddr) {
        self.vips.remove(&vip);
    }

    /// The VIPs that nobody is sent to any more.
    pub(super) fn free(&self, now: Duration) -> Vec<IpAddr> {
        let withdrawn = self.routing.as_ref().map(|routing| routing.borrow().generation);
        let free = |(generation, since): &(Generation, Duration)| {
            withdrawn.is_none_or(|withdrawn| withdrawn >= *generation) || now.saturating_sub(*since) >= PATIENCE
        };
        self.vips.iter().filter(|(_, wait)| free(wait)).map(|(vip, _)| *vip).collect()
    }

    /// When to look again: soon, while a VIP waits for routing.
    pub(super) fn again_in(&self, now: Duration) -> Option<Duration> {
        (self.free(now).len() < self.vips.len()).then_some(LOOK_AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_goes_once_routing_has_taken_it_back_and_after_a_while_in_any_case() {
        let vip = IpAddr::from([10, 0, 0, 1]);
        let (routing, reports) = watch::channel(Applied::default());
        let mut leaving = Leaving::default();
        leaving.follow(Some(reports));
        let second = Duration::from_secs(1);
        leaving.add(vip, Generation(7), second);
        leaving.add(vip, Generation(9), second * 2);
        assert_eq!((leaving.free(second), leaving.again_in(second)), (Vec::new(), Some(LOOK_AGAIN)));
        routing.send_replace(Applied { generation: Generation(6), ..Applied::default() });
        assert!(leaving.free(second * 2).is_empty());
        assert_eq!(leaving.free(second + PATIENCE), [vip], "routing does not answer");
        routing.send_replace(Applied { generation: Generation(7), ..Applied::default() });
        assert_eq!((leaving.free(second), leaving.again_in(second)), (vec![vip], None));
        leaving.remove(vip);
        assert!(leaving.free(second).is_empty());
    }

    #[test]
    fn without_a_router_there_is_nothing_to_wait_for() {
        let mut leaving = Leaving::default();
        let vip = IpAddr::from([10, 0, 0, 1]);
        leaving.add(vip, Generation(7), Duration::ZERO);
        assert_eq!(leaving.free(Duration::ZERO), [vip]);
    }
}
